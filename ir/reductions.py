"""Reductions and cumulative operations along axes.

float16 and bfloat16 accumulate in float32. A reduction of nothing gives the operation's identity: 0, 1, the least or the greatest
value of the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind, bind1, type_of
from tracegrad.ir.checks import (
    BITS,
    FLOAT,
    HALF,
    INTEGER,
    NUMBER,
    ORDERED,
    check_axes,
    listing,
    require_dtype,
    widen,
)
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType

Made = tuple[Primitive, Callable[..., Any]]


def least(dtype: Any) -> Any:
    """The identity of max: minus infinity, the least integer, or False."""
    if dtype in FLOAT:
        return dtype.type(-np.inf)
    return dtype.type(np.iinfo(dtype).min) if dtype in INTEGER else np.False_


def greatest(dtype: Any) -> Any:
    """The identity of min: infinity, the greatest integer, or True."""
    if dtype in FLOAT:
        return dtype.type(np.inf)
    return dtype.type(np.iinfo(dtype).max) if dtype in INTEGER else np.True_


def _accumulate_add_or_mul(ufunc: np.ufunc) -> Callable[..., tuple[np.ndarray]]:
    reduce_ = ufunc.reduce

    def evaluate(x: np.ndarray, *, axes: tuple[int, ...]) -> tuple[np.ndarray]:
        dtype = x.dtype
        with np.errstate(all="ignore"):
            if dtype in HALF:
                return (np.asarray(reduce_(widen(x), axis=axes)).astype(dtype),)
            return (np.asarray(reduce_(x, axis=axes, dtype=dtype)),)

    return evaluate


def _pick(ufunc: np.ufunc, identity: Callable[[Any], Any]) -> Callable[..., tuple[np.ndarray]]:
    reduce_ = ufunc.reduce

    def evaluate(x: np.ndarray, *, axes: tuple[int, ...]) -> tuple[np.ndarray]:
        if x.size == 0:
            shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
            return (np.full(shape, identity(x.dtype), x.dtype),)
        with np.errstate(all="ignore"):
            return (np.asarray(reduce_(x, axis=axes)),)

    return evaluate


def _bits(ufunc: np.ufunc) -> Callable[..., tuple[np.ndarray]]:
    def evaluate(x: np.ndarray, *, axes: tuple[int, ...]) -> tuple[np.ndarray]:
        return (np.asarray(ufunc.reduce(x, axis=axes, dtype=x.dtype)),)

    return evaluate


def reduction(name: str, evaluate: Callable[..., tuple[np.ndarray]], allowed: frozenset[Any]) -> Made:
    """A primitive that reduces one operand along `axes`, keeping its dtype, and its function."""

    @lru_cache(maxsize=4096)
    def type_rule(x: ArrayType, *, axes: tuple[int, ...]) -> tuple[ArrayType]:
        require_dtype(name, allowed, (x,))
        check_axes(name, axes, x)
        return (x.update(shape=tuple(d for i, d in enumerate(x.shape) if i not in axes)),)

    primitive = Primitive(name, type_rule, evaluate, "reductions")

    def operation(x: Any, axes: Sequence[int]) -> Any:
        return bind1(primitive, x, axes=tuple(sorted(map(int, axes))))

    operation.__name__ = operation.__qualname__ = name
    operation.__doc__ = f"Apply the primitive `{name}` along `axes`."
    return primitive, operation


reduce_sum_p, reduce_sum = reduction("reduce_sum", _accumulate_add_or_mul(np.add), NUMBER)
reduce_prod_p, reduce_prod = reduction("reduce_prod", _accumulate_add_or_mul(np.multiply), NUMBER)
reduce_max_p, reduce_max = reduction("reduce_max", _pick(np.maximum, least), ORDERED)
reduce_min_p, reduce_min = reduction("reduce_min", _pick(np.minimum, greatest), ORDERED)
reduce_and_p, reduce_and = reduction("reduce_and", _bits(np.bitwise_and), BITS)
reduce_or_p, reduce_or = reduction("reduce_or", _bits(np.bitwise_or), BITS)
reduce_xor_p, reduce_xor = reduction("reduce_xor", _bits(np.bitwise_xor), BITS)


# argmax and argmin


def extremum_index(name: str, function: Callable[..., Any]) -> Made:
    """The primitive that finds the first extremum along `axis` (a NaN counts as one), and its function."""

    def type_rule(x: ArrayType, *, axis: int, index_dtype: Any) -> tuple[ArrayType]:
        require_dtype(name, ORDERED, (x,))
        if index_dtype not in INTEGER:
            raise TypeError(f"{name} gives integers, but index_dtype is {index_dtype}")
        check_axes(name, (axis,), x)
        if x.shape[axis] == 0:
            raise ValueError(f"{name} of an empty axis is undefined: axis {axis} of {x}")
        return (ArrayType(x.shape[:axis] + x.shape[axis + 1 :], index_dtype),)

    def evaluate(x: np.ndarray, *, axis: int, index_dtype: Any) -> tuple[np.ndarray]:
        return (np.asarray(function(widen(x), axis=axis)).astype(index_dtype),)

    primitive = Primitive(name, type_rule, evaluate, "reductions")

    def operation(x: Any, axis: int, index_dtype: Any) -> Any:
        return bind1(primitive, x, axis=int(axis), index_dtype=np.dtype(index_dtype))

    operation.__name__ = operation.__qualname__ = name
    operation.__doc__ = f"The index of the first {name[3:]}imum along `axis`; a NaN counts as one."
    return primitive, operation


argmax_p, argmax = extremum_index("argmax", np.argmax)
argmin_p, argmin = extremum_index("argmin", np.argmin)


# Cumulative operations


def cumulative(name: str, ufunc: np.ufunc, allowed: frozenset[Any]) -> Made:
    """The primitive whose result at i is the reduction of the elements up to i (from i on, in reverse), and its function."""
    accumulate = ufunc.accumulate

    def type_rule(x: ArrayType, *, axis: int, reverse: bool) -> tuple[ArrayType]:
        require_dtype(name, allowed, (x,))
        check_axes(name, (axis,), x)
        return (x,)

    def evaluate(x: np.ndarray, *, axis: int, reverse: bool) -> tuple[np.ndarray]:
        dtype = x.dtype
        x = widen(x)
        if reverse:
            x = np.flip(x, axis)
        with np.errstate(all="ignore"):
            out = accumulate(x, axis=axis, dtype=x.dtype).astype(dtype, copy=False)
        return (np.flip(out, axis) if reverse else out,)

    primitive = Primitive(name, type_rule, evaluate, "reductions")

    def operation(x: Any, axis: int = 0, reverse: bool = False) -> Any:
        return bind1(primitive, x, axis=int(axis), reverse=bool(reverse))

    operation.__name__ = operation.__qualname__ = name
    operation.__doc__ = f"Apply the primitive `{name}` along `axis`, from its end if `reverse`."
    return primitive, operation


cumsum_p, cumsum = cumulative("cumsum", np.add, NUMBER)
cumprod_p, cumprod = cumulative("cumprod", np.multiply, NUMBER)
cummax_p, cummax = cumulative("cummax", np.maximum, ORDERED)
cummin_p, cummin = cumulative("cummin", np.minimum, ORDERED)
cumlogsumexp_p, cumlogsumexp = cumulative("cumlogsumexp", np.logaddexp, FLOAT)


# The general reduction


def _reduce_type(*types: ArrayType, body: Any, axes: tuple[int, ...]) -> tuple[ArrayType, ...]:
    n = len(types) // 2
    operands, inits = types[:n], types[n:]
    if not types or len(types) % 2:
        raise TypeError(f"reduce takes as many initial values as operands, but got {len(types)} values in all")
    if any(t.shape != operands[0].shape for t in operands):
        raise ValueError(f"reduce takes operands of one shape, but got {listing(operands)}")
    check_axes("reduce", axes, operands[0])
    for operand, init in zip(operands, inits):
        if init.shape or init.dtype != operand.dtype:
            raise TypeError(f"reduce: the initial value of {operand} must be a scalar of its dtype, but is {init}")
    expected = tuple(ArrayType((), t.dtype) for t in operands)
    given = tuple(t.strong() for t in body.in_types), tuple(t.strong() for t in body.out_types)
    if given != (expected * 2, expected):
        raise TypeError(
            f"reduce: the body must take ({listing(expected * 2)}) and return ({listing(expected)}), "
            f"but takes ({listing(body.in_types)}) and returns ({listing(body.out_types)})"
        )
    shape = tuple(d for i, d in enumerate(operands[0].shape) if i not in axes)
    return tuple(ArrayType(shape, t.dtype) for t in operands)


def _reduce(*arrays: np.ndarray, body: Any, axes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    from tracegrad.ir.evaluate import evaluate

    n = len(arrays) // 2
    kept = [i for i in range(arrays[0].ndim) if i not in axes]
    shape = tuple(arrays[0].shape[i] for i in kept)
    rows = math.prod(arrays[0].shape[i] for i in axes)
    columns = [x.transpose(*axes, *kept).reshape(rows, math.prod(shape)) for x in arrays[:n]]
    accumulators = [np.full(columns[0].shape[1], init, x.dtype) for x, init in zip(arrays[:n], arrays[n:])]
    # A body of elementwise operations means the same on whole rows at once.
    if all(e.primitive.family in ("elementwise", "special") for e in body.walk()):
        for row in zip(*columns):
            accumulators = [np.broadcast_to(a, columns[0].shape[1]) for a in evaluate(body, *accumulators, *row)]
    else:
        for j in range(columns[0].shape[1]):
            state = tuple(np.asarray(a[j]) for a in accumulators)
            for i in range(rows):
                state = evaluate(body, *state, *(np.asarray(c[i, j]) for c in columns))
            for a, value in zip(accumulators, state):
                a[j] = value
    return tuple(a.reshape(shape) for a in accumulators)


reduce_p = Primitive("reduce", _reduce_type, _reduce, "reductions", regions=("body",), multiple_results=True)


def reduce(operands: Sequence[Any], inits: Sequence[Any], body: Any, axes: Sequence[int]) -> tuple[Any, ...]:
    """Reduce several arrays together by `body`, a program from accumulators and elements to accumulators."""
    inits = [type_of(x).dtype.type(i) if isinstance(i, (bool, int, float, complex)) else i for x, i in zip(operands, inits)]
    return bind(reduce_p, *operands, *inits, body=body, axes=tuple(sorted(map(int, axes))))


__all__ = [
    "reduce_sum",
    "reduce_prod",
    "reduce_max",
    "reduce_min",
    "reduce_and",
    "reduce_or",
    "reduce_xor",
    "argmax",
    "argmin",
    "cumsum",
    "cumprod",
    "cummax",
    "cummin",
    "cumlogsumexp",
    "reduce",
]
