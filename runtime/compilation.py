"""From an optimized program to native code: from the disk cache if it is there, else through the code generator."""

from __future__ import annotations

import sys
import time

from tracegrad.codegen.compile import compile_program
from tracegrad.ir.collection import uncollected
from tracegrad.ir.config import config
from tracegrad.ir.program import Program
from tracegrad.runtime import cache, dump, warmup
from tracegrad.runtime.native import Compiled

__all__ = ["Compiled", "compiled"]


@uncollected
def compiled(program: Program, name: str, traced: Program | None = None, donated: tuple[int, ...] = ()) -> Compiled:
    """The native code of `program`; `traced`, what it was before the passes, is only for dumps. donated: inputs that may be overwritten."""
    start = time.perf_counter()
    dumping = bool(config.dump)
    key = cache.key(program, donated) if config.cache else None
    # Dumps show every compilation, also of what the cache holds.
    entry = cache.load(key, program) if key is not None and not dumping else None
    how = "loaded from the disk cache"
    if entry is None:
        how = "compiled"
        warmup.stop()
        made = compile_program(program, name, keep_text=dumping, donated=donated)
        entry = Compiled(
            made.object_code,
            made.symbol,
            made.arena_size,
            tuple(made.external),
            list(made.constants),
            list(made.callbacks),
            made.overwritten,
        )
        if key is not None and not entry.callbacks:
            cache.store(key, entry, program)
        if dumping:
            dump.write(name, traced, program, made)
    if config.log_compiles:
        print(f"tracegrad: {how} {name} in {(time.perf_counter() - start) * 1e3:.1f} ms", file=sys.stderr)
    return entry
