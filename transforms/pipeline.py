"""The passes between tracing and code generation, in order."""

from __future__ import annotations

from collections.abc import Callable

from tracegrad.ir.collection import uncollected
from tracegrad.ir.config import config
from tracegrad.ir.program import Program
from tracegrad.ir.verify import verify
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.duplicates import merge_common
from tracegrad.transforms.expand import expand_primitives
from tracegrad.transforms.hoist import hoist_invariants
from tracegrad.transforms.inline import inline_calls
from tracegrad.transforms.narrow import narrow_loops
from tracegrad.transforms.physical_keys import physical_keys
from tracegrad.transforms.roll import roll_repetitions
from tracegrad.transforms.simplify import simplify
from tracegrad.transforms.steps import share_steps
from tracegrad.transforms.stretches import shrink_stretches

Pass = Callable[[Program], Program]
Observer = Callable[[Pass, Program, Program], None]

PIPELINE: tuple[Pass, ...] = (
    expand_primitives,  # first: the others know only our own primitives
    inline_calls,  # early: everything after sees through calls
    remove_dead_code,  # early, since derivatives leave much behind, and what is gone costs the others nothing
    physical_keys,  # before simplification, whose rules know only numeric dtypes
    simplify,
    shrink_stretches,  # after the broadcasts of scalars are gone; the next simplification removes what it makes unnecessary
    inline_calls,  # a cond whose branch became known is a call by now
    roll_repetitions,  # before merging, by which steps would read of steps long before; before what is done to loops
    merge_common,  # before narrowing, so that equal operands of a loop are one value
    narrow_loops,  # before hoisting: a carry that never changes is a constant then
    hoist_invariants,
    merge_common,  # after hoisting, so that two loops share what both hoisted
    simplify,
    share_steps,  # after merging, so that what successive steps share is one value in each
    narrow_loops,  # again: numbers that went into loops may have left results that are operands
    remove_dead_code,  # last: the others leave dead equations behind
)


@uncollected
def optimize(program: Program, passes: tuple[Pass, ...] = PIPELINE, observe: Observer | None = None) -> Program:
    """Run the passes; with the `verify` flag, check the program after each. `observe(pass, before, after)` sees every step."""
    check = config.verify
    for p in passes:
        after = p(program)
        if check and after is not program:
            verify(after, p.__name__)
        if observe is not None:
            observe(p, program, after)
        program = after
    return program
