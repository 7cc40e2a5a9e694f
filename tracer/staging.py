"""Staging: running a Python function once to record what it computes as a `Program`.

`trace` hands the function tracers and collects the equations that it causes. Values that the function uses without being given
them (arrays and tracers of an outer interpreter, found in closures and globals) are *captured*: they become leading inputs
of the program, and `trace` returns them beside it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import numpy as np

from tracegrad.ir import source
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of, using
from tracegrad.ir.collection import uncollected
from tracegrad.ir.config import config
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.types import ArrayType, is_key
from tracegrad.tracer import errors
from tracegrad.tracer.tracer import Tracer


class StagedTracer(Tracer):
    """A variable of a program that is being built."""

    __slots__ = ("variable",)
    interpreter: Staging

    def __init__(self, interpreter: Staging, var: Var):
        self.interpreter = interpreter
        self.aval = var.type
        self.variable = var

    def origin(self) -> str:
        for eqn in self.interpreter.equations:
            if self.variable in eqn.outputs:
                where = f" at {eqn.source}, in {eqn.source.function}" if eqn.source else ""
                return f"made by {eqn.primitive.name}{where}"
        if self.variable.name:
            return f"the argument {self.variable.name} of {self.interpreter.name}"
        return f"an argument of {self.interpreter.name}"

    def owner(self) -> str:
        return self.interpreter.name


class Staging:
    """The interpreter that records equations instead of computing."""

    def __init__(self, name: str):
        self.name = name
        self.equations: list[Equation] = []
        self.inputs: list[Var] = []
        self.captured: dict[int, tuple[Var, Any]] = {}  # by id; the value is kept alive beside its variable
        self.closed = False
        self.alive: list[ref[StagedTracer]] | None = [] if config.check_tracer_leaks else None

    def new_input(self, type: ArrayType, name: str = "") -> StagedTracer:
        var = Var(type, name)
        self.inputs.append(var)
        return self._tracer(var)

    def _tracer(self, var: Var) -> StagedTracer:
        tracer = StagedTracer(self, var)
        if self.alive is not None:
            self.alive.append(ref(tracer))
        return tracer

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        if self.closed:
            raise RuntimeError(f"{primitive.name} was applied while {self.name} is not being traced any more")
        atoms = [a.variable if type(a) is StagedTracer and a.interpreter is self else self.atom(a) for a in args]
        out_types = primitive.type_rule(*[a.type for a in atoms], **params)
        outputs = [Var(t) for t in out_types]
        self.equations.append(Equation(primitive, atoms, outputs, params, source.here()))
        return tuple([self._tracer(v) for v in outputs])

    def atom(self, x: Any) -> Atom:
        """The atom that stands for a value: a variable of this program, a literal, or a captured value's variable."""
        if isinstance(x, Tracer):
            if x.interpreter is self:
                return x.variable  # type: ignore[attr-defined]
            if getattr(x.interpreter, "closed", False):
                raise errors.escaped_tracer_error(x)
            return self._capture(x, x.aval)
        if not isinstance(x, (Array, np.ndarray)):
            return Literal(x, type_of(x))
        aval = type_of(x)
        if aval.shape == () and not is_key(aval.dtype) and aval.dtype.kind not in "VT":
            return Literal(np.asarray(x), aval)
        return self._capture(x, aval)

    def _capture(self, x: Any, aval: ArrayType) -> Var:
        known = self.captured.get(id(x))
        if known is None:
            known = (Var(aval), x)
            self.captured[id(x)] = known
        return known[0]

    def close(self, outputs: Sequence[Atom]) -> tuple[Program, list[Any]]:
        """End the recording: the program, whose inputs are the captured values' and then the given ones, and the captured values."""
        self.closed = True
        captured = list(self.captured.values())
        program = Program([v for v, _ in captured] + self.inputs, (), self.equations, outputs, self.name)
        return program, [x for _, x in captured]


@uncollected
def trace(
    fun: Callable[..., Sequence[Any]],
    in_types: Sequence[ArrayType],
    name: str = "main",
    arg_names: Sequence[str] | None = None,
) -> tuple[Program, list[Any]]:
    """Record `fun(*tracers)`, which returns a flat sequence of values.

    Returns (program, captured): `program.inputs` are the captured values followed by one input for each of `in_types`.
    Raises TypeError if a returned value is not an array or a number.
    """
    staging = Staging(name)
    names = arg_names or [""] * len(in_types)
    tracers = [staging.new_input(t, n) for t, n in zip(in_types, names, strict=True)]
    try:
        with using(staging), source.looking_at_stack():
            outs = fun(*tracers)
            try:
                atoms = [staging.atom(x) for x in outs]
            except TypeError as e:
                if isinstance(e, errors.JAXTypeError):
                    raise
                bad = next(x for x in outs if not isinstance(x, (Array, np.ndarray, np.generic, bool, int, float, complex)))
                raise TypeError(
                    f"{name} returned {bad!r:.200} of type {type(bad).__name__}, which is not an array, a number or a registered container of them"
                ) from None
    except BaseException:
        staging.closed = True
        raise
    program, captured = staging.close(atoms)
    if staging.alive is not None:
        del tracers, outs
        _report_leaks(staging)
    return program, captured


def _report_leaks(staging: Staging) -> None:
    gc.collect()
    leaked = [t for t in (r() for r in staging.alive or ()) if t is not None]
    if leaked:
        lines = "\n".join(f"  {t.aval}, {t.origin()}" for t in leaked[:5])
        raise RuntimeError(
            f"{len(leaked)} traced value(s) outlived the tracing of {staging.name}:\n{lines}\n"
            "Something outside the function keeps them: a global, an attribute, a list, a closure."
        )
