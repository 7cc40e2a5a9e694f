"""Loading object code into this process."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from tracegrad.codegen import target
from tracegrad.codegen.partition import taken_apart
from tracegrad.runtime import symbols

ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
"""`int32 entry(inputs, outputs, constants, arena)`. Calls release the GIL."""

_lock = Lock()
_serial = itertools.count()
_jit: Any = None
_keep: list[Any] = []  # code is never unloaded: arrays, threads and other code may still point into it


def _lljit() -> Any:
    global _jit
    if _jit is None:
        import llvmlite.binding as llvm

        target.initialize()
        _jit = llvm.create_lljit_compiler(target.machine(target.host()))
    return _jit


def ready() -> None:
    """Have what `load` needs whatever it loads."""
    with _lock:
        _lljit()


def load(object_code: bytes, entry: str, externals: Iterable[str]) -> Callable[[Any, Any, Any, Any], int]:
    """Link object code into the process; the callable entry point named `entry`.

    externals: the symbols that the code calls. Raises SymbolError if one of them is not to be found.
    """
    import llvmlite.binding as llvm

    addresses = {name: symbols.address(name) for name in externals}
    with _lock:
        builder = llvm.JITLibraryBuilder()
        for image in taken_apart(object_code):
            builder.add_object_img(image)
        for name, address in addresses.items():
            builder.import_symbol(name, address)
        library = builder.export_symbol(entry).link(_lljit(), f"tracegrad{next(_serial)}")
    function = ENTRY(library[entry])
    _keep.append(library)
    return function
