"""Partial evaluation: doing now what is known, and staging what depends on values that come later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir import source
from tracegrad.ir.bind import Interpreter, using
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.tracer.staging import StagedTracer, Staging
from tracegrad.transforms.staged import Split, cached, finish_split, renamed

PARTIAL_RULES: dict[Primitive, Callable[..., tuple[Any, ...]]] = {}
"""Primitives with regions, some of whose results are known though some operands are not: `rule(partial, args, unknown, params)`."""


class Partial:
    """Sends an operation to `parent` if all operands are known, and records it in `staging` otherwise."""

    __slots__ = ("parent", "staging")

    def __init__(self, parent: Interpreter, staging: Staging):
        self.parent = parent
        self.staging = staging

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        staging = self.staging
        for a in args:
            if type(a) is StagedTracer and a.interpreter is staging:
                break
        else:
            return self.parent.process(primitive, args, params)
        rule = PARTIAL_RULES.get(primitive)
        if rule is None:
            return staging.process(primitive, args, params)
        return rule(self, args, [self.is_unknown(a) for a in args], params)

    def is_unknown(self, x: Any) -> bool:
        return type(x) is StagedTracer and x.interpreter is self.staging


@cached
def partial_program(program: Program, unknown: tuple[bool, ...], forced: tuple[bool, ...] = ()) -> Split:
    """Split a program by what its known inputs determine. Outputs that are `forced` count as unknown in any case."""
    known, rest = Staging(program.name), Staging(program.name)
    partial = Partial(known, rest)
    args = [(rest if u else known).new_input(v.type, v.name) for v, u in zip(program.inputs, unknown)]
    with using(partial), source.looking_at_stack():
        outs = run(program, *args)
    force: Sequence[bool] = forced or (False,) * len(outs)
    unknown_out = [f or partial.is_unknown(x) for x, f in zip(outs, force)]
    with using(known):
        return finish_split(
            known,
            rest,
            [x for x, u in zip(outs, unknown_out) if not u],
            [x for x, u in zip(outs, unknown_out) if u],
            unknown_out,
        )


@cached
def separated(program: Program, linear: tuple[bool, ...]) -> Program:
    """The program, with what does not depend on the linear inputs in equations of its own, also where a call, branch or loop computes both.

    Programs that users wrote need it before they are transposed; those that linearization makes are so from the start.
    """
    if not any([eqn.primitive in PARTIAL_RULES for eqn in program.equations]):
        return program
    known, rest, sources, unknown_out, _ = split = partial_program(program, linear)
    known_inputs, linear_inputs = iter(known.inputs), iter(rest.inputs[len(sources) :])
    inputs = [next(linear_inputs) if lin else next(known_inputs) for lin in linear]
    residuals = split.pick(known.inputs, known.outputs)
    rest = renamed(rest, dict(zip(rest.inputs, residuals)))
    known_outputs, linear_outputs = iter(known.outputs), iter(rest.outputs)
    outputs = [next(linear_outputs) if u else next(known_outputs) for u in unknown_out]
    equations = [*known.equations, *rest.equations]
    return Program(inputs, [*known.constants, *rest.constants], equations, outputs, program.name)
