"""Taylor mode: the derivatives of a function along a curve, all up to some order at once.

Where nested forward mode costs 2^K times the function for K derivatives, an interpreter that carries truncated power series costs
O(K^2): Griewank and Walther, "Evaluating Derivatives", chapter 13. A primitive's `jet` rule takes for each operand a series (see
`series.py`: a list that begins with the value, None for coefficients that are zero) and gives one for each result:

    jet(operands: list of Series, **params) -> sequence of Series

Rules are in `jet_rules.py` and the files beside it. A primitive that has none is followed through its jvp rule: if y = f(x), then
y' = jvp(x, x'), which is a series of one order less, and its antiderivative is y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops, source
from tracegrad.ir.array import Array
from tracegrad.ir.bind import Interpreter, current, type_of, using
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, is_complex, is_inexact, tangent_type
from tracegrad.tracer.pytree import tree_flatten, tree_unflatten, treedef_is_leaf
from tracegrad.transforms.api import Flat, as_array, as_inputs, check_callable
from tracegrad.transforms.jvp import DualTracer
from tracegrad.transforms.rules import broadcast_scalar
from tracegrad.transforms.series import Series, antiderivative, constant, derivative, is_constant, over, scaled
from tracegrad.transforms.staged import cached, stage
from tracegrad.transforms.zero import Zero, instantiate

Mask = tuple[tuple[bool, ...], ...]
"""For each of several series, which of its coefficients 1, 2, ... are not None."""


class JetTracer(DualTracer):
    """A value and its Taylor coefficients (`tangent`), at least one of which is not None."""

    __slots__ = ()

    def owner(self) -> str:
        return "a function that is being expanded by jet"


class JetInterpreter:
    """Applies jet rules at one order. A value without coefficients of this interpreter is constant."""

    __slots__ = ("parent", "order", "closed")
    series_tracer = JetTracer

    def __init__(self, parent: Interpreter, order: int):
        self.parent = parent
        self.order = order
        self.closed = False

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        if not any([type(a) is JetTracer and a.interpreter is self for a in args]):
            return self.parent.process(primitive, args, params)
        operands = [self.series(a) for a in args]
        with using(self.parent), source.keeping():
            outs = expand(primitive, operands, params)
        return tuple([self.tracer(y) for y in outs])

    def series(self, x: Any) -> Series:
        if type(x) is JetTracer and x.interpreter is self:
            return [x.primal, *x.tangent]
        return constant(x, self.order)

    def tracer(self, x: Series) -> Any:
        if is_constant(x):
            return x[0]
        shape = type_of(x[0]).shape
        return JetTracer(self, x[0], tuple([None if c is None else broadcast_scalar(c, shape) for c in x[1:]]))


def expand(primitive: Primitive, operands: Sequence[Series], params: dict[str, Any]) -> Sequence[Series]:
    """The series of the results of a primitive, by its rule or through its jvp. Raises NotImplementedError if it has neither."""
    rule = primitive.rules.get("jet")
    if rule is None:
        return through_jvp(primitive.rule("jvp"), operands, params)
    return primitive.rule("jet")(operands, **params)


def through_jvp(jvp: Callable[..., Any], operands: Sequence[Series], params: dict[str, Any]) -> list[Series]:
    """The series of the results of what has the rule `jvp(primals, tangents, **params) -> (outs, out_tangents)`.

    The rule is expanded to one order less along the operands and their derivatives; the tangents that it gives are the derivatives
    of the results. (The rule applies the primitive itself too, as a rule to still one order less: K rules in all for K orders.)
    """
    order = len(operands[0]) - 1
    primals = [x[:-1] for x in operands]
    velocities = [_velocity(x) for x in operands]
    n = len(operands)
    nonzero: list[bool] = []

    def both(*values: Any) -> list[Any]:
        given = iter(values[n:])
        tangents = [Zero(tangent_type(type_of(x[0]))) if v is None else next(given) for x, v in zip(operands, velocities)]
        outs, dots = jvp(values[:n], tangents, **params)
        nonzero[:] = [type(t) is not Zero for t in dots]
        return [*outs, *[t for t, nz in zip(dots, nonzero) if nz]]

    results = jet_flat(both, [*primals, *[v for v in velocities if v is not None]], order - 1)
    slopes = iter(results[len(nonzero) :])
    return [antiderivative(y[0], next(slopes)) if nz else constant(y[0], order) for y, nz in zip(results, nonzero)]


def _velocity(x: Series) -> Series | None:
    """The derivative of a series, None if it is zero."""
    if is_constant(x):
        return None
    v = derivative(x)
    return v if v[0] is not None else [instantiate(Zero(tangent_type(type_of(x[0])))), *v[1:]]


def jet_flat(fun: Callable[..., Sequence[Any]], operands: Sequence[Series], order: int) -> list[Series]:
    """The series of the flat results of `fun` along those of its arguments, under the current interpreter."""
    if order == 0:
        return [[y] for y in fun(*[x[0] for x in operands])]
    load_rules()
    interpreter = JetInterpreter(current(), order)
    try:
        with using(interpreter):
            outs = fun(*[interpreter.tracer(x) for x in operands])
        return [interpreter.series(y) for y in outs]
    finally:
        interpreter.closed = True


def load_rules() -> None:
    """Attach the jet rules to the primitives: at first use, since few programs need them."""
    from tracegrad.transforms import jet_rules, jet_rules_arrays, jet_rules_linalg, jet_rules_regions  # noqa: F401


def mask_of(series: Sequence[Series]) -> Mask:
    return tuple([tuple([c is not None for c in x[1:]]) for x in series])


def union(*masks: Mask) -> Mask:
    return tuple([tuple([any(flags) for flags in zip(*rows, strict=True)]) for rows in zip(*masks, strict=True)])


def given_terms(series: Sequence[Series]) -> list[Any]:
    """All coefficients that are not None, series by series, without the values."""
    return [c for x in series for c in x[1:] if c is not None]


def with_terms(values: Sequence[Any], terms: Sequence[Any], mask: Mask) -> list[Series]:
    """Series from their values and the coefficients that `mask` says are there."""
    given = iter(terms)
    return [[x, *[next(given) if there else None for there in row]] for x, row in zip(values, mask, strict=True)]


@cached
def jet_program(program: Program, mask: Mask, order: int, forced: Mask | None = None) -> tuple[Program, Mask]:
    """Taylor mode as a program: (inputs..., their coefficients in `mask`...) -> (outputs..., their coefficients...).

    forced: coefficients of outputs that are given out in any case. Returns the program and which coefficients the outputs have.
    """
    n = len(program.inputs)
    found: Mask = ()

    def fun(*values: Any) -> list[Any]:
        nonlocal found
        outs = jet_flat(lambda *xs: run(program, *xs), with_terms(values[:n], values[n:], mask), order)
        found = mask_of(outs) if forced is None else union(mask_of(outs), forced)
        dots = [
            instantiate(Zero(tangent_type(type_of(y[0])))) if c is None else c
            for y, row in zip(outs, found)
            for c, there in zip(y[1:], row)
            if there
        ]
        return [*[y[0] for y in outs], *dots]

    types = [*program.in_types, *[tangent_type(v.type) for v, row in zip(program.inputs, mask, strict=True) for t in row if t]]
    result = stage(fun, types, program.name)
    return result, found


# For users


class ZeroSeries:
    """The series of an argument that does not move: all its coefficients are zero."""

    def __repr__(self) -> str:
        return "zero_series"


class ZeroTerm:
    """A term of a series that is zero and need not be computed with."""

    def __repr__(self) -> str:
        return "zero_term"


zero_series = ZeroSeries()
zero_term = ZeroTerm()


def jet(fun: Callable[..., Any], primals: Sequence[Any], series: Sequence[Any], factorial_scaled: bool = True) -> tuple[Any, Any]:
    """The Taylor series of `fun` along a curve: its value and derivatives up to some order, without nesting derivatives.

    primals: the arguments of `fun`, arrays or numbers: the point where the curve starts. series: for each of them a sequence of K terms,
    the first K derivatives of the curve there, of the argument's shape; `zero_series` for an argument that does not move (any of
    another dtype than floating point or complex), `zero_term` for a single derivative that is zero.
    factorial_scaled: terms are derivatives (the default); if False they are Taylor coefficients, the k-th derivative over k!.

    Returns (fun(*primals), terms), where terms has the structure of the result with a list of K arrays for each leaf. Functions with a
    custom_jvp rule are expanded through the rule, those with a custom_vjp rule as they are.

    Raises ValueError where series differ in length or a primal or term is not an array, TypeError for dtypes and shapes that do not fit,
    NotImplementedError for a primitive without a derivative. Method: Griewank and Walther, "Evaluating Derivatives", chapter 13.
    """
    check_callable(fun, "jet")
    if not isinstance(primals, (tuple, list)) or not isinstance(series, (tuple, list)):
        raise TypeError(
            f"jet: primals and series must be tuples or lists with one entry for each argument, got {type(primals).__name__} and "
            f"{type(series).__name__}"
        )
    if len(primals) != len(series):
        raise ValueError(f"jet: {len(primals)} primals but {len(series)} series; give one series for each primal")
    lengths = {len(terms) for terms in series if terms is not zero_series}
    if len(lengths) > 1:
        raise ValueError(
            f"jet terms have inconsistent lengths for different arguments: {[s if s is zero_series else len(s) for s in series]}"
        )
    if not lengths:
        raise ValueError("jet: the order is the number of terms of a series, but no argument has one that is not zero_series")
    (order,) = lengths
    for i, x in enumerate(primals):
        if not treedef_is_leaf(tree_flatten(x)[1]):
            raise ValueError(f"primal value at position {i} is not an array")
    scale = [float(math.factorial(k)) if factorial_scaled else 1.0 for k in range(order + 1)]
    values = as_inputs(primals)
    operands = [_user_series(i, x, terms, scale) for i, (x, terms) in enumerate(zip(values, series))]
    flat = Flat(fun, tree_flatten(tuple(primals))[1], False, "jet")
    outs = jet_flat(flat, operands, order)
    value, _ = flat.results([y[0] for y in outs])
    return value, tree_unflatten(flat.out_tree, [_user_terms(y, scale) for y in outs])


def _user_series(i: int, x: Any, terms: Any, scale: Sequence[float]) -> Series:
    t = type_of(x)
    if terms is zero_series:
        return constant(x, len(scale) - 1)
    return [x, *[_user_term(i, j, t, term, factor) for j, (term, factor) in enumerate(zip(terms, scale[1:]))]]


def _user_term(i: int, j: int, t: ArrayType, term: Any, factor: float) -> Any:
    """A term of the series of an argument of type `t` as a coefficient."""
    if term is zero_term:
        return None
    if not treedef_is_leaf(tree_flatten(term)[1]):
        raise ValueError(f"term {j} for argument {i} is not an array")
    if not is_inexact(t.dtype):
        raise TypeError(
            f"jet: argument {i} is {t}, which cannot move; convert it to a floating point number, or give zero_series as its series"
        )
    own = type_of(term)
    if own.shape != t.shape:
        raise TypeError(f"jet: term {j} for argument {i} must have the argument's shape {t.shape}, got {own.shape}")
    if is_complex(own.dtype) and not is_complex(t.dtype) or own.dtype.kind == "V":
        raise TypeError(f"jet: term {j} for argument {i} must have the argument's dtype {t.dtype}, got {own.dtype}")
    if not isinstance(term, (Array, np.ndarray)) or own.dtype != t.dtype:
        term = ops.convert_element_type(term, t.dtype)
    return over(term, factor)


def _user_terms(y: Series, scale: Sequence[float]) -> list[Any]:
    t = tangent_type(type_of(y[0]))
    # A result that cannot have a derivative (an integer) has terms that are zeros of its own dtype.
    zero = Zero(t if is_inexact(type_of(y[0]).dtype) else type_of(y[0]).strong())
    terms = [instantiate(zero) if c is None else c for c in y[1:]]
    return [as_array(scaled(s, c) if is_inexact(t.dtype) else c) for c, s in zip(terms, scale[1:])]
