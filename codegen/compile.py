"""From a Program to object code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from tracegrad.codegen import target as targets
from tracegrad.codegen.accumulation import accumulate_in_windows
from tracegrad.codegen.layouts import transpose_late
from tracegrad.codegen.llvm_text import Writer
from tracegrad.codegen.loop_sums import sum_products_after_loops
from tracegrad.codegen.loop_windows import sum_windows_after_loops
from tracegrad.codegen.lower import lower_program
from tracegrad.codegen.memory import overwritten_inputs, plan_arena
from tracegrad.codegen.partition import joined, partitioned
from tracegrad.codegen.physical_tapes import physical_tapes
from tracegrad.codegen.product_sums import sum_before_products
from tracegrad.codegen.residuals import recompute_residuals
from tracegrad.codegen.rows import loop_over_rows
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, is_tape

STRAIGHT_VECTORS = 6_000
"""Straight-line code of programs with more operations is not searched for vectors: that search takes longer than all the rest."""
CHEAP_PIPELINE = 60_000
"""Programs of more operations are optimized with less effort."""
PART, MOST_PARTS = 2_500, 8
"""A program is compiled in parts of at least so many operations, at the same time, and in at most so many."""


_llvm = Lock()
"""LLVM's target machine serves one thread at a time."""


@dataclass
class CompiledObject:
    """Native code for one program: `int32 symbol(ptr inputs, ptr outputs, ptr constants, ptr arena)` in `object_code`.

    constants: the arrays whose addresses the third argument holds; external: the C symbols that the code calls;
    callbacks: the Python functions it calls, in the order of the slots that follow the constants; overwritten: the inputs that it
    overwrites, and for each the output that is to have the same address, if there is one.
    """

    symbol: str
    object_code: bytes
    arena_size: int
    in_types: tuple[ArrayType, ...]
    out_types: tuple[ArrayType, ...]
    constants: list[np.ndarray]
    external: tuple[str, ...]
    callbacks: tuple[Any, ...] = ()
    overwritten: tuple[tuple[int, int | None], ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    """The stages as text, where they were asked for: "loops", "llvm", "optimized", "assembly"."""


PREPARATION = (
    transpose_late,  # first: the others look for rows and products where they lie
    sum_before_products,
    recompute_residuals,
    accumulate_in_windows,
    sum_windows_after_loops,
    sum_products_after_loops,
    loop_over_rows,
    physical_tapes,  # last: the others know what a tape holds
)
"""The passes of the code generator's own, which may change how sums are rounded."""


def prepare(program: Program) -> Program:
    """The program in the form that is lowered."""
    for transform in PREPARATION:
        program = transform(program)
    return program


def compile_program(
    program: Program,
    name: str = "main",
    keep_text: bool = False,
    target: targets.Target | None = None,
    donated: Sequence[int] = (),
) -> CompiledObject:
    """Compile a program (whose key types have been made physical) for a processor, by default this one. donated: the inputs whose memory
    nobody needs any more."""
    target = targets.host() if target is None else target
    function, constants, callbacks = lower_program(prepare(program), name, donated=donated)
    function.returns_tapes = any([is_tape(t.dtype) for t in program.out_types])
    plan_arena(function)
    # No dots: names with dots are those of library routines and elementary functions.
    symbol = "tg." + "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    writer = Writer(function, symbol, target.attributes)
    text = writer.module()
    texts: dict[str, str] = {}
    if keep_text:
        texts["loops"] = str(function)
        texts["llvm"] = text
    size = writer.size
    level, straight_vectors = 2 if size <= CHEAP_PIPELINE else 1, size <= STRAIGHT_VECTORS
    emission = 2
    kernels: list[Any] = []
    if function.helpers:  # most programs have none, and do without what is imported here
        from tracegrad.codegen.finished import only_calls, set_apart

        text, kernels = set_apart(text, function.helpers.values(), target)
        if kernels and only_calls(text):
            level = emission = 0
    # The number of parts depends on the program alone, so that its results are the same on every machine.
    parts = partitioned(text, min(size // PART, MOST_PARTS)) if size >= 2 * PART and not keep_text else [text]
    with _llvm:
        if len(parts) > 1:
            objects = targets.compile_texts(parts, target, level, straight_vectors)
        else:
            module = targets.parse(text)
            targets.optimize(module, target, level, straight_vectors)
            if keep_text:
                texts["optimized"] = str(module)
                texts["assembly"] = targets.emit_assembly(module, target, emission)
                for some in kernels:
                    texts["optimized"] += "\n" + some.text
                    texts["assembly"] += "\n" + some.assembly()
            objects = [targets.emit_object(module, target, emission)]
    objects += [some.object_code() for some in reversed(kernels)]
    return CompiledObject(
        symbol,
        joined(objects),
        max(function.arena_size, writer.spilled),
        program.in_types,
        program.out_types,
        constants,
        tuple(sorted(writer.external)),
        tuple(callbacks),
        overwritten_inputs(function),
        texts,
    )
