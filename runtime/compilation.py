"""From an optimized program to object code: through the disk cache if it is there, through the code generator if not."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracegrad.codegen.compile import compile_program
from tracegrad.ir.config import config
from tracegrad.ir.program import Program
from tracegrad.runtime import cache, dump


@dataclass
class Compiled:
    """What is needed to run a program: everything but the constants' values can be kept on disk."""

    object_code: bytes
    symbol: str
    arena_size: int
    externals: tuple[str, ...]
    constants: list[np.ndarray]
    callbacks: list[Any] = field(default_factory=list)


def compiled(program: Program, name: str) -> Compiled:
    """The object code of a program."""
    start = time.perf_counter()
    key = cache.key(program) if config.cache else None
    entry = cache.load(key) if key is not None else None
    how = "loaded from the disk cache"
    if entry is None:
        how = "compiled"
        made = compile_program(program, name)
        entry = Compiled(
            made.object_code, made.symbol, made.arena_size, tuple(made.external), list(made.constants), list(made.callbacks)
        )
        if key is not None and not entry.callbacks:
            cache.store(key, entry)
        dump.write(program, made, name)
    if config.log_compiles:
        print(f"tracegrad: {how} {name} in {(time.perf_counter() - start) * 1e3:.1f} ms", file=sys.stderr)
    return entry
