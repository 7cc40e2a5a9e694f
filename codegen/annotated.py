"""A program compiled once more with notes: its kernels, where they come from, what LLVM made of them; or with clocks around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracegrad.codegen import target as targets
from tracegrad.codegen.compile import CHEAP_PIPELINE, STRAIGHT_VECTORS, CompiledObject, prepare
from tracegrad.codegen.kernels import Kernels, Node
from tracegrad.codegen.loop_ir import Function
from tracegrad.codegen.lower import Lowering, lower_program
from tracegrad.codegen.marked_text import MarkedWriter, Outcome, instructions, outcomes, remarks_of
from tracegrad.codegen.memory import overwritten_inputs, plan_arena
from tracegrad.codegen.origins import OriginBuilder, OriginContext
from tracegrad.ir.program import Program
from tracegrad.ir.types import is_tape


@dataclass
class Annotated:
    """A function at the loop level with its kernels. outcomes: what LLVM made of each, by number, and under the names of routines."""

    program: Program
    function: Function
    builder: OriginBuilder
    kernels: Kernels
    constants: list[np.ndarray]
    callbacks: list[Any]
    outcomes: dict[Any, Outcome]
    has_remarks: bool = False


def annotate(program: Program, name: str, donated: Sequence[int] = ()) -> Annotated:
    """Lower a program as `compile_program` does, noting where everything comes from."""
    lowering = Lowering(Function(name), OriginBuilder)
    prepared = prepare(program)
    function, constants, callbacks = lower_program(prepared, name, lowering, OriginContext, donated)
    function.returns_tapes = any([is_tape(t.dtype) for t in program.out_types])
    plan_arena(function)
    builder = lowering.builder
    assert isinstance(builder, OriginBuilder)
    return Annotated(prepared, function, builder, Kernels(function, builder), constants, callbacks, {})


def inspect(made: Annotated) -> None:
    """Find out what LLVM makes of the kernels."""
    target = targets.host()
    writer = MarkedWriter(made.function, "tg.explained", target.attributes, made.kernels)
    text = writer.module()
    level, straight = 2 if writer.size <= CHEAP_PIPELINE else 1, writer.size <= STRAIGHT_VECTORS
    remarks = remarks_of(text, target, level, straight)
    module = targets.parse(text)
    targets.optimize(module, target, level, straight_vectors=straight)
    optimized = str(module)
    made.outcomes = dict(outcomes(optimized, remarks))
    made.has_remarks = bool(remarks)
    for name, routine in made.function.helpers.items():
        outcome = made.outcomes[name] = Outcome()
        for part in {name, *routine.definitions}:
            found = routine_outcome(optimized, part)
            outcome.scalars += found.scalars
            for vector, count in found.vectors.items():
                outcome.vectors[vector] = outcome.vectors.get(vector, 0) + count


def routine_outcome(optimized: str, name: str) -> Outcome:
    """What LLVM made of a routine that is still a function of its own."""
    found = re.search(rf'^define [^\n]*@"?{re.escape(name)}"?\(.*?^}}', optimized, re.M | re.S)
    return Outcome() if found is None else instructions(found[0])


def with_clocks(made: Annotated, clocks: int, timed: list[Node], in_types: Any, out_types: Any) -> CompiledObject:
    """Native code that adds the ticks spent in kernels to a table at the address `clocks`."""
    target = targets.host()
    symbol = "tg.timed"
    writer = MarkedWriter(made.function, symbol, target.attributes, made.kernels, clocks, timed)
    text = writer.module()
    module = targets.parse(text)
    level, straight = 2 if writer.size <= CHEAP_PIPELINE else 1, writer.size <= STRAIGHT_VECTORS
    targets.optimize(module, target, level, straight_vectors=straight)
    return CompiledObject(
        symbol,
        targets.emit_object(module, target),
        max(made.function.arena_size, writer.spilled),
        in_types,
        out_types,
        made.constants,
        tuple(sorted(writer.external)),
        tuple(made.callbacks),
        overwritten_inputs(made.function),
    )


__all__ = ["Annotated", "annotate", "inspect", "with_clocks"]
