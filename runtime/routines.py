"""Routines of our own that compiled programs call: LLVM's language in this package's files, compiled when a program first needs them.

Their object code is kept in the disk cache, as that of programs is. What is loaded stays until the process ends: threads may be in it, and
memory, when the interpreter is taken apart, may still have to be given back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from threading import Lock

from tracegrad.codegen import target
from tracegrad.ir.config import config
from tracegrad.ir.program import Program
from tracegrad.runtime import cache
from tracegrad.runtime.native import Compiled

loading = Lock()
"""Held by those who load a library once for all threads."""


def load(text: str, names: Sequence[str], title: str) -> dict[str, int]:
    """The addresses of the functions `names` that the module `text` defines. It may call the C library."""
    import llvmlite.binding as llvm

    host = target.host()
    jit = llvm.create_lljit_compiler(target.machine(host))
    builder = llvm.JITLibraryBuilder().add_object_img(_object_code(text, title)).add_current_process()
    for name in names:
        builder.export_symbol(name)
    library = builder.link(jit, title)
    for thing in (jit, library):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return {name: library[name] for name in names}


def _object_code(text: str, title: str) -> bytes:
    nothing = Program((), (), (), ())
    name = cache.key_of_text(text) if config.cache else None
    found = cache.load(name, nothing) if name is not None else None
    if found is not None:
        return found.object_code
    code = target.emit_object(target.parse(text), target.host())
    if name is not None:
        cache.store(name, Compiled(code, title, 0, (), []), nothing)
    return code
