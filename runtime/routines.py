"""Routines of our own that compiled programs call: LLVM's language in this package's files, compiled when a program first needs them.

Their object code is kept in the disk cache, as that of programs is. What is loaded stays until the process ends: threads may be in it, and
memory, when the interpreter is taken apart, may still have to be given back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from threading import Lock

from tracegrad.codegen import target
from tracegrad.ir.config import config
from tracegrad.ir.program import Program
from tracegrad.runtime import cache
from tracegrad.runtime.native import Compiled

loading = Lock()
"""Held by those who load a library once for all threads."""


_compiling = Lock()
_codes: dict[str, tuple[bytes, bool]] = {}
_NOTHING = Program((), (), (), ())


def load(text: str, names: Sequence[str], title: str, level: int = 2) -> dict[str, int]:
    """The addresses of the functions `names` that the module `text` defines. It may call the C library.

    level: LLVM's effort for machine code; 0 takes a quarter of the time, for what waits more than it computes.
    """
    return link(code_of(text, level)[0], names, title)


def code_of(text: str, level: int = 2) -> tuple[bytes, bool]:
    """(the object code of a module, which is compiled once, whether the disk cache had it)."""
    with _compiling:
        if text not in _codes:
            code = kept(text)
            _codes[text] = (target.compile_text(text, target.host(), None, effort=level), False) if code is None else (code, True)
            if code is None:
                keep(text, _codes[text][0])
        return _codes[text]


def link(code: bytes, names: Sequence[str], title: str, symbols: Mapping[str, int] | None = None) -> dict[str, int]:
    """Bring object code into the process, for good. symbols: addresses of what it calls besides the C library."""
    import llvmlite.binding as llvm

    jit = llvm.create_lljit_compiler(target.machine(target.host()))
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name, address in (symbols or {}).items():
        builder.import_symbol(name, address)
    for name in names:
        builder.export_symbol(name)
    library = builder.link(jit, title)
    for thing in (jit, library):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return {name: library[name] for name in names}


def compiled(text: str, level: int) -> bytes:
    """Object code for a module. At level 0, which takes a few milliseconds, it does not even inline what says that it should be inlined."""
    module = target.parse(text)
    if level > 0:
        target.optimize(module, target.host(), level=0)
    return target.emit_object(module, target.host(), level=level)


def kept(text: str) -> bytes | None:
    """The object code of a module from the disk cache, None if it is not there."""
    found = cache.load(cache.key_of_text(text), _NOTHING) if config.cache else None
    return None if found is None else found.object_code


def keep(text: str, code: bytes) -> None:
    """Put the object code of a module into the disk cache."""
    if config.cache:
        cache.store(cache.key_of_text(text), Compiled(code, "", 0, (), []), _NOTHING)
