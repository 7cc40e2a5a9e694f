"""Primitives of one's own, and programs as data: the names of `jax.extend.core`.

    p = Primitive("multiply_add")
    p.def_impl(...)               what it computes
    p.def_abstract_eval(...)      the types of its results
    p.bind(x, y, z)               applies it

Its rules stand in the tables of `tracegrad.interpreters`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.extend.core import primitives as primitives
from tracegrad.ir.array import Array
from tracegrad.ir.bind import current, type_of
from tracegrad.ir.jaxpr import ClosedJaxpr, Jaxpr, check_jaxpr, jaxpr_as_fun, jaxprs_in_params, subjaxprs
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Equation as JaxprEqn
from tracegrad.ir.program import Literal, Source, Var
from tracegrad.ir.types import ArrayType, tangent_type
from tracegrad.tracer.errors import ConcretizationTypeError
from tracegrad.tracer.tracer import Tracer, TraceTag

__all__ = [
    "ClosedJaxpr",
    "DropVar",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "TraceTag",
    "Var",
    "array_types",
    "check_jaxpr",
    "concrete_or_error",
    "find_top_trace",
    "gensym",
    "get_opaque_trace_state",
    "jaxpr_as_fun",
    "jaxprs_in_params",
    "mapped_aval",
    "new_jaxpr_eqn",
    "no_effects",
    "primal_dtype_to_tangent_dtype",
    "primitives",
    "subjaxprs",
    "unmapped_aval",
    "valid_jaxtype",
]

no_effects: frozenset[Any] = frozenset()
array_types = frozenset({np.ndarray, Array})


class DropVar(Var):
    """A result that nothing reads. Programs have none: every result is a variable; the class is there for isinstance."""


def mapped_aval(size: int, axis: int | None, aval: ArrayType) -> ArrayType:
    """The type of one example: `aval`, a batch of `size`, without its dimension `axis`. Raises ValueError if there are not that many."""
    if axis is None:
        return aval
    if not 0 <= axis < aval.ndim or aval.shape[axis] != size:
        raise ValueError(f"mapped_aval: {aval} is not a batch of {size} along dimension {axis}")
    return aval.update(shape=(*aval.shape[:axis], *aval.shape[axis + 1 :]))


def unmapped_aval(size: int, axis: int | None, aval: ArrayType, explicit_mesh_axis: Any = None) -> ArrayType:
    """The type of a batch of `size` examples of type `aval` along the dimension `axis`. explicit_mesh_axis is accepted."""
    if axis is None:
        return aval
    if not 0 <= axis <= aval.ndim:
        raise ValueError(f"unmapped_aval: {aval} cannot get a dimension {axis}")
    return aval.update(shape=(*aval.shape[:axis], size, *aval.shape[axis:]))


def new_jaxpr_eqn(
    invars: Sequence[Any],
    outvars: Sequence[Var],
    primitive: Primitive,
    params: dict[str, Any],
    effects: Any = no_effects,
    source_info: Source | None = None,
    ctx: Any = None,
) -> JaxprEqn:
    """An equation. effects (they follow from the primitive) and ctx are accepted."""
    return JaxprEqn(primitive, invars, outvars, params, source_info if isinstance(source_info, Source) else None)


def gensym(suffix: str = "") -> Callable[[ArrayType], Var]:
    """A maker of fresh variables of given types, whose names end in `suffix`."""
    count = itertools.count()
    return lambda aval: Var(aval, f"v{next(count)}{suffix}" if suffix else "")


def primal_dtype_to_tangent_dtype(dtype: Any) -> Any:
    """The dtype of tangents of values of a dtype: itself, or float0."""
    return tangent_type(ArrayType((), dtype)).dtype


def valid_jaxtype(x: Any) -> bool:
    """Whether a value can be an argument of a program: an array or a number."""
    try:
        type_of(x)
    except TypeError:
        return False
    return True


def concrete_or_error(force: Callable[[Any], Any] | None, value: Any, context: str = "") -> Any:
    """`value`, which must not be traced, converted by `force` if that is given. Raises ConcretizationTypeError, with `context`."""
    if isinstance(value, Tracer):
        try:
            value = value.concrete(ConcretizationTypeError)
        except ConcretizationTypeError as e:
            if context:
                e.args = (f"{e}\n{context}",)
            raise
    return value if force is None else force(value)


def find_top_trace(xs: Any) -> TraceTag:
    """The innermost transformation under way, which operations on `xs` go to. A tracer's own is its `_trace`."""
    return TraceTag(current())


class _TraceState:
    """Which transformation is under way. Equal to another while it is the same."""

    __slots__ = ("_interpreter",)

    def __init__(self, interpreter: Any):
        self._interpreter = interpreter

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TraceState) and self._interpreter is other._interpreter

    def __hash__(self) -> int:
        return id(self._interpreter)


def get_opaque_trace_state(convention: Any = None) -> _TraceState:
    """A token for the transformation under way: two are equal if nothing was entered or left between them."""
    return _TraceState(current())
