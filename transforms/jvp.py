"""Forward mode: computing a function and its derivative along a direction together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import source
from tracegrad.ir.array import Array
from tracegrad.ir.bind import Interpreter, current, type_of, using
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.ir.types import tangent_type
from tracegrad.tracer import errors
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.staged import cached, stage
from tracegrad.transforms.zero import Zero, instantiate


class DualTracer(Tracer):
    """A value together with its tangent, which is not a symbolic zero. Python sees the value if that is concrete."""

    __slots__ = ("primal", "tangent")

    def __init__(self, interpreter: Any, primal: Any, tangent: Any):
        self.interpreter = interpreter
        self.aval = primal.aval if isinstance(primal, Array) else type_of(primal)
        self.primal = primal
        self.tangent = tangent

    def concrete(self, error: type[Exception]) -> Any:
        x = self.primal
        while isinstance(x, Tracer):
            if not isinstance(x, DualTracer):
                raise errors.concretization_error(error, self)
            x = x.primal
        return x if isinstance(x, Array) else np.asarray(x)

    def origin(self) -> str:
        return self.primal.origin() if isinstance(self.primal, Tracer) else "being differentiated"

    def owner(self) -> str:
        return "a function that is being differentiated"

    def block_until_ready(self) -> DualTracer:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(primal={self.primal}, tangent={self.tangent})"

    def __format__(self, spec: str) -> str:
        """As the value, if there is a specification and the value is concrete."""
        x = self.primal
        return repr(self) if not spec or not isinstance(x, Array) else format(x, spec)


class JvpTracer(DualTracer):
    """A value and its tangent in forward mode."""

    __slots__ = ()


class JvpInterpreter:
    """Applies jvp rules. A value without a tangent of this interpreter is not wrapped; its tangent is zero."""

    __slots__ = ("parent", "closed")

    def __init__(self, parent: Interpreter):
        self.parent = parent
        self.closed = False

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        tangents: list[Any] | None = None
        for i, a in enumerate(args):
            if type(a) is JvpTracer and a.interpreter is self:
                if tangents is None:
                    tangents = [None] * len(args)
                    primals = list(args)
                tangents[i] = a.tangent
                primals[i] = a.primal
        if tangents is None:
            return self.parent.process(primitive, args, params)
        for i, t in enumerate(tangents):
            if t is None:
                tangents[i] = Zero(tangent_type(type_of(args[i])))
        with using(self.parent), source.keeping():
            outs, out_tangents = primitive.rule("jvp")(primals, tangents, **params)
        return tuple([x if type(t) is Zero else JvpTracer(self, x, t) for x, t in zip(outs, out_tangents)])


def jvp_flat(
    fun: Callable[..., Sequence[Any]], primals: Sequence[Any], tangents: Sequence[Any], main: Callable[[], int] | None = None
) -> tuple[list[Any], list[Any]]:
    """`fun(*primals)` and its derivative along `tangents`, over flat sequences; tangents may be, and may come out, `Zero`.

    main: how many of the results, known once `fun` has run, are differentiated; the others are auxiliary and have no tangent.
    """
    interpreter = JvpInterpreter(current())
    tracers = [x if type(t) is Zero else JvpTracer(interpreter, x, t) for x, t in zip(primals, tangents, strict=True)]
    try:
        with using(interpreter):
            results = fun(*tracers)
        n = len(results) if main is None else main()
        outs, out_tangents = split_duals(interpreter, JvpTracer, results[:n])
        return outs + stripped(interpreter, JvpTracer, results[n:]), out_tangents
    finally:
        interpreter.closed = True


def split_duals(interpreter: Any, kind: type[DualTracer], outs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Primals and tangents of values that an interpreter computed."""
    primals, tangents = [], []
    for x in outs:
        if type(x) is kind and x.interpreter is interpreter:
            primals.append(x.primal)
            tangents.append(x.tangent)
        else:
            primals.append(x)
            tangents.append(Zero(tangent_type(type_of(x))))
    return primals, tangents


def stripped(interpreter: Any, kind: type[DualTracer], values: Sequence[Any]) -> list[Any]:
    """Values without the tangents that an interpreter gave them. They need not be arrays."""
    return [x.primal if type(x) is kind and x.interpreter is interpreter else x for x in values]


@cached
def jvp_program(
    program: Program, nonzero: tuple[bool, ...], instantiated: tuple[bool, ...] = ()
) -> tuple[Program, tuple[bool, ...]]:
    """Forward mode as a program: (primals..., tangents of the nonzero inputs...) -> (outputs..., nonzero output tangents...).

    instantiated: outputs whose tangents are given out in any case. Returns the program and which outputs have tangents.
    """
    n = len(program.inputs)
    nonzero_out: tuple[bool, ...] = ()

    def fun(*values: Any) -> list[Any]:
        nonlocal nonzero_out
        given = iter(values[n:])
        tangents = [next(given) if nz else Zero(tangent_type(v.type)) for v, nz in zip(program.inputs, nonzero)]
        outs, out_tangents = jvp_flat(lambda *xs: run(program, *xs), values[:n], tangents)
        forced = instantiated or (False,) * len(outs)
        nonzero_out = tuple([force or type(t) is not Zero for t, force in zip(out_tangents, forced)])
        return outs + [instantiate(t) for t, nz in zip(out_tangents, nonzero_out) if nz]

    tangent_types = [tangent_type(v.type) for v, nz in zip(program.inputs, nonzero) if nz]
    result = stage(fun, [*program.in_types, *tangent_types], program.name)
    return result, nonzero_out
