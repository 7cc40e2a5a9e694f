"""Linearization: computing a function now and keeping its derivative at that point as a program that is linear in the tangents.

It is forward mode with the work sorted: what does not depend on tangents is done at once, by the interpreter below (so that
Python sees concrete values when those are concrete), and what does is recorded. The values that the recording captures are the
residuals. Transposing the linear program (`transpose.py`) makes it reverse mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir import source
from tracegrad.ir.bind import Interpreter, current, type_of, using
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.ir.types import tangent_type
from tracegrad.tracer.staging import Staging
from tracegrad.transforms.jvp import DualTracer, split_duals, stripped
from tracegrad.transforms.partial import Partial
from tracegrad.transforms.staged import Split, cached, finish_split, pruned
from tracegrad.transforms.zero import Zero, instantiate


class LinearizeTracer(DualTracer):
    """A value and its tangent, which is a variable of the linear program being recorded."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"LinearizeTracer(primal={self.primal}, tangent: {self.tangent.aval})"


class LinearizeInterpreter:
    """Computes primals under `parent` and records tangents in `staging`."""

    __slots__ = ("parent", "staging", "partial", "closed")

    def __init__(self, parent: Interpreter, staging: Staging):
        self.parent = parent
        self.staging = staging
        self.partial = Partial(parent, staging)
        self.closed = False

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        tangents: list[Any] | None = None
        for i, a in enumerate(args):
            if type(a) is LinearizeTracer and a.interpreter is self:
                if tangents is None:
                    tangents = [None] * len(args)
                    primals = list(args)
                tangents[i] = a.tangent
                primals[i] = a.primal
        if tangents is None:
            return self.parent.process(primitive, args, params)
        if "linearize" in primitive.rules:
            return self._linearize(primitive, primals, tangents, params)
        for i, t in enumerate(tangents):
            if t is None:
                tangents[i] = Zero(tangent_type(type_of(args[i])))
        with using(self.partial), source.keeping():
            outs, out_tangents = primitive.rule("jvp")(primals, tangents, **params)
        return tuple([x if type(t) is Zero else LinearizeTracer(self, x, t) for x, t in zip(outs, out_tangents)])

    def _linearize(
        self, primitive: Primitive, primals: list[Any], tangents: list[Any], params: dict[str, Any]
    ) -> tuple[Any, ...]:
        nonzero = [t is not None for t in tangents]
        with using(self.parent), source.keeping():
            outs, nonzero_out, linear = primitive.rule("linearize")(nonzero, primals, **params)
        if not any(nonzero_out):
            return tuple(outs)
        with using(self.staging):
            out_tangents = iter(linear(*[t for t in tangents if t is not None]))
        return tuple([LinearizeTracer(self, x, next(out_tangents)) if nz else x for x, nz in zip(outs, nonzero_out)])


class Linearized:
    """A function's results at a point and its derivative there.

    outs: the results, auxiliary ones last. nonzero_out: which of those that are differentiated have tangents that are not zero. program: the linear program, from
    (residuals..., tangents of the inputs that were differentiated...) to the nonzero tangents; residuals: their values.
    """

    __slots__ = ("outs", "nonzero_out", "program", "residuals")

    def __init__(self, outs: list[Any], nonzero_out: tuple[bool, ...], program: Program, residuals: list[Any]):
        self.outs = outs
        self.nonzero_out = nonzero_out
        self.program = program
        self.residuals = residuals

    def apply(self, tangents: Sequence[Any]) -> list[Any]:
        """The derivative along `tangents` (of the inputs that were differentiated); `Zero` where an output does not depend on them."""
        results = iter(run(self.program, *self.residuals, *tangents))
        return [next(results) if nz else Zero(tangent_type(type_of(x))) for x, nz in zip(self.outs, self.nonzero_out)]


def linearize_flat(
    fun: Callable[..., Sequence[Any]], primals: Sequence[Any], nonzero: Sequence[bool], main: Callable[[], int] | None = None
) -> Linearized:
    """Linearize `fun`, over flat sequences, at `primals`, with respect to those that are `nonzero`.

    main: how many of the results, known once `fun` has run, are differentiated; the others are auxiliary and lose their tangents.
    """
    staging = Staging(getattr(fun, "__name__", "linear"))
    interpreter = LinearizeInterpreter(current(), staging)
    args = [
        LinearizeTracer(interpreter, x, staging.new_input(tangent_type(type_of(x)))) if nz else x
        for x, nz in zip(primals, nonzero, strict=True)
    ]
    try:
        with using(interpreter):
            results = fun(*args)
        n = len(results) if main is None else main()
        outs, tangents = split_duals(interpreter, LinearizeTracer, results[:n])
        outs += stripped(interpreter, LinearizeTracer, results[n:])
        nonzero_out = tuple([type(t) is not Zero for t in tangents])
        program, residuals = pruned(staging, [staging.atom(t) for t in tangents if type(t) is not Zero])
        return Linearized(outs, nonzero_out, program, residuals)
    finally:
        interpreter.closed = staging.closed = True


@cached
def linearize_program(program: Program, nonzero: tuple[bool, ...], instantiated: tuple[bool, ...] = ()) -> Split:
    """Linearization as two programs (see Split): `known` computes all outputs and the residuals, `unknown` is linear in the tangents.

    instantiated: outputs that get a tangent in any case. `unknown_out` says which have one.
    """
    known, linear = Staging(program.name), Staging(program.name)
    interpreter = LinearizeInterpreter(known, linear)
    args = []
    for v, nz in zip(program.inputs, nonzero, strict=True):
        x = known.new_input(v.type, v.name)
        args.append(LinearizeTracer(interpreter, x, linear.new_input(tangent_type(v.type))) if nz else x)
    with using(interpreter), source.looking_at_stack():
        outs, tangents = split_duals(interpreter, LinearizeTracer, run(program, *args))
    interpreter.closed = True
    force = instantiated or (False,) * len(outs)
    nonzero_out = [f or type(t) is not Zero for t, f in zip(tangents, force)]
    with using(linear):
        tangents = [instantiate(t) for t, nz in zip(tangents, nonzero_out) if nz]
    return finish_split(known, linear, outs, tangents, nonzero_out)
