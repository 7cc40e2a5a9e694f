"""Jaxpr and ClosedJaxpr: a program in JAX's structure, over our variables and equations.

A `Program` holds the arrays that it captured and is closed over nothing else. A `Jaxpr` is open: what it captured are variables, `constvars`,
whose values a `ClosedJaxpr` holds beside it; these may be values of a trace that is still under way, which no Program can hold. Programs
inside equations are closed, and count as ClosedJaxprs: they have the same attributes, and isinstance says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.evaluate import run
from tracegrad.ir.program import Atom, Constant, Equation, Program, Var
from tracegrad.ir.types import ArrayType, is_key
from tracegrad.ir.verify import verify


class Jaxpr:
    """An open program: `constvars` and `invars` come in, `eqns` compute, `outvars` (variables or literals) go out."""

    __slots__ = ("constvars", "invars", "outvars", "eqns", "debug_info")

    def __init__(
        self,
        constvars: Iterable[Var],
        invars: Iterable[Var],
        outvars: Iterable[Atom],
        eqns: Iterable[Equation],
        effects: Any = (),
        debug_info: Any = None,
        is_high: bool = False,
    ):
        self.constvars = list(constvars)
        self.invars = list(invars)
        self.outvars = list(outvars)
        self.eqns = list(eqns)
        self.debug_info = debug_info

    @property
    def in_avals(self) -> list[ArrayType]:
        return [v.type for v in self.invars]

    @property
    def out_avals(self) -> list[ArrayType]:
        return [a.type for a in self.outvars]

    @property
    def effects(self) -> frozenset[str]:
        """The names of the primitives with effects that it applies."""
        return frozenset([name for eqn in self.eqns for name in eqn.effects])

    def replace(self, **changes: Any) -> Jaxpr:
        """The same with some of constvars, invars, outvars, eqns, debug_info replaced. effects are accepted; they follow from eqns."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        for name, value in changes.items():
            if name not in ("effects", "is_high", *fields):
                raise TypeError(f"a Jaxpr has no part {name!r}; it has {', '.join(fields)}")
            if name in fields:
                fields[name] = value
        return Jaxpr(**fields)

    @property
    def program(self) -> Program:
        """The program that takes the captured values first and then the inputs."""
        return Program([*self.constvars, *self.invars], (), self.eqns, self.outvars, self.debug_info or "jaxpr")

    def __str__(self) -> str:
        return str(self.program)

    __repr__ = __str__


class _ClosedJaxprs(type):
    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, Program) or super().__instancecheck__(x)


class ClosedJaxpr(metaclass=_ClosedJaxprs):
    """A Jaxpr with the values of its `constvars`, `consts`."""

    __slots__ = ("jaxpr", "consts")

    def __init__(self, jaxpr: Jaxpr, consts: Sequence[Any]):
        if len(consts) != len(jaxpr.constvars):
            raise ValueError(f"a jaxpr with {len(jaxpr.constvars)} captured values is given {len(consts)}")
        self.jaxpr = jaxpr
        self.consts = list(consts)

    @property
    def eqns(self) -> list[Equation]:
        return self.jaxpr.eqns

    @property
    def in_avals(self) -> list[ArrayType]:
        return self.jaxpr.in_avals

    @property
    def out_avals(self) -> list[ArrayType]:
        return self.jaxpr.out_avals

    @property
    def literals(self) -> list[Any]:
        """JAX's older name for the captured values."""
        return self.consts

    @property
    def effects(self) -> frozenset[str]:
        return self.jaxpr.effects

    def replace(self, *, jaxpr: Jaxpr | None = None, consts: Sequence[Any] | None = None) -> ClosedJaxpr:
        return ClosedJaxpr(self.jaxpr if jaxpr is None else jaxpr, self.consts if consts is None else consts)

    def map_jaxpr(self, fun: Callable[[Jaxpr], Jaxpr]) -> ClosedJaxpr:
        return ClosedJaxpr(fun(self.jaxpr), self.consts)

    @property
    def program(self) -> Program:
        """The program that holds the captured arrays. Captured values that are still being traced (and keys) are its leading inputs."""
        constants, inputs = [], []
        for var, x in zip(self.jaxpr.constvars, self.consts):
            if hasattr(x, "interpreter") or is_key(var.type.dtype):
                inputs.append(var)
            else:
                constants.append(Constant(var, np.asarray(x).astype(var.type.dtype, copy=False)))
        return self.jaxpr.program.replace(inputs=[*inputs, *self.jaxpr.invars], constants=constants)

    def __str__(self) -> str:
        return str(self.program)

    __repr__ = __str__


def opened(program: Program) -> Jaxpr:
    """A program as an open jaxpr: its arrays are constvars."""
    return Jaxpr([c.var for c in program.constants], program.inputs, program.outputs, program.equations, debug_info=program.name)


def eval_jaxpr(jaxpr: Jaxpr, consts: Sequence[Any], *args: Any, propagate_source_info: bool = True) -> list[Any]:
    """Apply the equations of an open jaxpr to values, under whatever transformation is under way; the list of results.

    consts: values of its constvars. Raises ValueError if the values are not as many as the variables.
    """
    if len(consts) != len(jaxpr.constvars) or len(args) != len(jaxpr.invars):
        raise ValueError(
            f"eval_jaxpr: the jaxpr takes {len(jaxpr.constvars)} captured values and {len(jaxpr.invars)} arguments, got {len(consts)} "
            f"and {len(args)}"
        )
    return list(run(jaxpr.program, *consts, *args))


def jaxpr_as_fun(closed_jaxpr: ClosedJaxpr) -> Callable[..., list[Any]]:
    """The function that a closed jaxpr computes."""
    return lambda *args: eval_jaxpr(closed_jaxpr.jaxpr, closed_jaxpr.consts, *args)


def jaxprs_in_params(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs among an equation's parameters, open."""
    for value in params.values():
        for member in value if isinstance(value, tuple) else (value,):
            if isinstance(member, Jaxpr):
                yield member
            elif isinstance(member, ClosedJaxpr):
                yield member.jaxpr


def subjaxprs(jaxpr: Jaxpr) -> Iterator[Jaxpr]:
    """The jaxprs inside the equations, one level down."""
    for eqn in jaxpr.eqns:
        yield from jaxprs_in_params(eqn.params)


def check_jaxpr(jaxpr: Jaxpr) -> None:
    """Raise VerifyError if a jaxpr is not well formed."""
    verify(jaxpr.program)
