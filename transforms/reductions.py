"""Derivatives and batching of reductions and cumulative operations.

The derivative of a product must be right where factors are zero, so nothing here divides by an element: a partial is the product
of the elements before and of those after. Cumulative products and log-sum-exps have tangents that obey a linear recurrence, solved
by doubling in log2(n) steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir import reductions as r
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.evaluate import run
from tracegrad.ir.program import Program
from tracegrad.transforms.indexing import take_along_axis
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.rules import (
    NOT_LINEAR,
    Along,
    align,
    at_dim,
    broadcast_scalar,
    first_dim,
    linear,
    partials,
    scalar,
    shifted,
    zero_derivative,
)

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
Batched = tuple[Sequence[Any], Sequence[int]]


def kept_axes(rank: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in range(rank) if d not in axes)


def _restore(x: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """A result of a reduction, repeated along the axes that the reduction dropped."""
    return ops.broadcast_in_dim(x, shape, kept_axes(len(shape), axes)) if axes else x


# Sums, products, extrema

linear(r.reduce_sum_p, lambda ct, x, *, axes: _restore(ct, x.shape, axes))


def _extremum_along(t: Any, ans: Any, x: Any, *, axes: tuple[int, ...]) -> Any:
    # k elements that tie for the extremum count 1/k each.
    shape, dtype = type_of(x).shape, type_of(x).dtype
    attains = ops.convert_element_type(ops.eq(x, _restore(ans, shape, axes)), dtype)
    weight = ops.div(attains, _restore(ops.reduce_sum(attains, axes), shape, axes))
    return ops.reduce_sum(ops.mul(weight, t), axes)


partials(r.reduce_max_p, Along(_extremum_along))
partials(r.reduce_min_p, Along(_extremum_along))


def shifted_along(x: Any, by: int, axis: int, reverse: bool, fill: float) -> Any:
    """`x` moved by `by` places along `axis` (towards its start in reverse), with `fill` in the places that become free."""
    config = [(0, 0, 0)] * len(type_of(x).shape)
    config[axis] = (-by, by, 0) if reverse else (by, -by, 0)
    return ops.pad(x, scalar(fill, type_of(x).dtype), config)


def _exclusive_cumprod(x: Any, axis: int, reverse: bool) -> Any:
    """At each place the product of the elements before it (after it, in reverse)."""
    if type_of(x).shape[axis] == 0:
        return x
    return ops.cumprod(shifted_along(x, 1, axis, reverse, 1.0), axis, reverse)


def product_of_others(x: Any, axis: int) -> Any:
    """For each element the product of all the other ones along `axis`."""
    return ops.mul(_exclusive_cumprod(x, axis, False), _exclusive_cumprod(x, axis, True))


def _reduce_prod_along(t: Any, ans: Any, x: Any, *, axes: tuple[int, ...]) -> Any:
    shape = type_of(x).shape
    if not axes:
        return t
    if len(axes) == 1:
        return ops.reduce_sum(ops.mul(product_of_others(x, axes[0]), t), axes)
    # Several axes are one axis of all their elements.
    order = (*axes, *kept_axes(len(shape), axes))
    inverse = tuple(int(p) for p in np.argsort(order))
    front = ops.transpose(x, order)
    moved = type_of(front).shape
    flat = ops.reshape(front, (prod(moved[: len(axes)]), *moved[len(axes) :]))
    weight = ops.transpose(ops.reshape(product_of_others(flat, 0), moved), inverse)
    return ops.reduce_sum(ops.mul(weight, t), axes)


partials(r.reduce_prod_p, Along(_reduce_prod_along))

for _prim in (r.reduce_and_p, r.reduce_or_p, r.reduce_xor_p, r.argmax_p, r.argmin_p):
    zero_derivative(_prim)


# Cumulative operations


def linear_recurrence(a: Any, b: Any, axis: int, reverse: bool) -> Any:
    """y with y[k] = a[k] y[k-1] + b[k] along `axis` (k+1 in reverse); linear in `b`.

    After the step of distance d, b[k] holds the contribution of the 2d latest terms and a[k] the product of as many factors.
    """
    n = type_of(a).shape[axis]
    distance = 1
    while distance < n:
        b = ops.add(b, ops.mul(a, shifted_along(b, distance, axis, reverse, 0.0)))
        if 2 * distance < n:
            a = ops.mul(a, shifted_along(a, distance, axis, reverse, 1.0))
        distance *= 2
    return b


def _cumprod_along(t: Any, ans: Any, x: Any, *, axis: int, reverse: bool) -> Any:
    if type_of(x).shape[axis] == 0:
        return t
    before = shifted_along(ans, 1, axis, reverse, 1.0)
    return linear_recurrence(x, ops.mul(before, t), axis, reverse)


def _cumlogsumexp_along(t: Any, ans: Any, x: Any, *, axis: int, reverse: bool) -> Any:
    if type_of(x).shape[axis] == 0:
        return t
    # exp(y) obeys a recurrence whose factors, taken relative to the current y, lie in [0, 1].
    before = shifted_along(ans, 1, axis, reverse, -np.inf)
    own = ops.mul(ops.exp(ops.sub(x, ans)), t)
    return linear_recurrence(ops.exp(ops.sub(before, ans)), own, axis, reverse)


def _cumulative_extremum_along(t: Any, ans: Any, x: Any, *, axis: int, reverse: bool) -> Any:
    # The tangent is that of the element that set the current record; of equal ones, the latest.
    shape = type_of(x).shape
    places = ops.broadcasted_iota(np.int32, shape, axis)
    holds = ops.eq(x, ans)
    if reverse:
        record = ops.cummin(ops.select(holds, places, scalar(shape[axis] - 1, np.int32)), axis, True)
    else:
        record = ops.cummax(ops.select(holds, places, scalar(0, np.int32)), axis)
    return take_along_axis(t, record, axis)


linear(r.cumsum_p, lambda ct, x, *, axis, reverse: ops.cumsum(ct, axis, not reverse))
partials(r.cumprod_p, Along(_cumprod_along))
partials(r.cumlogsumexp_p, Along(_cumlogsumexp_along))
partials(r.cummax_p, Along(_cumulative_extremum_along))
partials(r.cummin_p, Along(_cumulative_extremum_along))


# The general reduction


def _is_elementwise(body: Program) -> bool:
    return all(eqn.primitive.family in ("elementwise", "special") for eqn in body.equations)


def reduce_by_halving(body: Program, operands: Sequence[Any], inits: Sequence[Any], axes: tuple[int, ...]) -> list[Any]:
    """What `reduce` computes, out of operations that have rules of their own: neighbours are combined until one row is left.

    A body of elementwise operations on scalars means the same on arrays.
    """
    if not _is_elementwise(body):
        raise NotImplementedError(
            "a reduction whose body is not made of elementwise operations cannot be differentiated, nor batched over its initial values"
        )
    shape = type_of(operands[0]).shape
    kept = kept_axes(len(shape), axes)
    out_shape = tuple(shape[d] for d in kept)
    n = prod(shape[d] for d in axes)
    rows = [ops.reshape(ops.transpose(x, (*axes, *kept)), (n, *out_shape)) for x in operands]

    def combine(left: Sequence[Any], right: Sequence[Any], shape: tuple[int, ...]) -> list[Any]:
        return [broadcast_scalar(x, shape) for x in run(body, *left, *right)]

    while n > 1:
        half = n // 2
        left = [ops.slice_in_dim(x, 0, 2 * half, 2) for x in rows]
        right = [ops.slice_in_dim(x, 1, 2 * half, 2) for x in rows]
        pairs = combine(left, right, (half, *out_shape))
        if n % 2:
            pairs = [ops.concatenate([p, ops.slice_in_dim(x, n - 1, n)], 0) for p, x in zip(pairs, rows)]
        rows = pairs
        n = half + n % 2
    if n == 0:
        return [broadcast_scalar(x, out_shape) for x in inits]
    return combine(inits, [ops.reshape(x, out_shape) for x in rows], out_shape)


def _reduce_jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, body: Program, axes: tuple[int, ...]
) -> tuple[Sequence[Any], Sequence[Any]]:
    n = len(primals) // 2
    return jvp_flat(lambda *xs: reduce_by_halving(body, xs[:n], xs[n:], axes), primals, tangents)


r.reduce_p.define(jvp=_reduce_jvp, transpose=NOT_LINEAR)


# Batching


def _batch_reduction(prim: Any) -> None:
    def batch(axis: Any, args: Sequence[Any], dims: Dims, *, axes: tuple[int, ...]) -> Batched:
        dim = first_dim(dims)
        out = bind1(prim, args[0], axes=shifted(axes, dim))
        return (out,), (dim - sum(a < dim for a in axes),)

    prim.define(batch=batch)


def _batch_extremum_index(prim: Any) -> None:
    def batch(_: Any, args: Sequence[Any], dims: Dims, *, axis: int, index_dtype: Any) -> Batched:
        dim = first_dim(dims)
        out = bind1(prim, args[0], axis=axis + (axis >= dim), index_dtype=index_dtype)
        return (out,), (dim - (axis < dim),)

    prim.define(batch=batch)


def _batch_cumulative(prim: Any) -> None:
    def batch(_: Any, args: Sequence[Any], dims: Dims, *, axis: int, reverse: bool) -> Batched:
        dim = first_dim(dims)
        return (bind1(prim, args[0], axis=axis + (axis >= dim), reverse=reverse),), (dim,)

    prim.define(batch=batch)


def _batch_reduce(axis: Any, args: Sequence[Any], dims: Dims, *, body: Program, axes: tuple[int, ...]) -> Batched:
    n = len(args) // 2
    if any(d is not None for d in dims[n:]):
        # An initial value for each example: it is an array of the result's shape, not a scalar.
        operands = [at_dim(x, d, 0, axis.size) for x, d in zip(args[:n], dims[:n])]
        shape = tuple(m for d, m in enumerate(type_of(operands[0]).shape) if d - 1 not in axes)
        inits = [x if d is None else ops.broadcast_in_dim(x, shape, (0,)) for x, d in zip(args[n:], dims[n:])]
        return reduce_by_halving(body, operands, inits, shifted(axes, 0)), [0] * n
    operands, dim = align(axis, args[:n], dims[:n])
    outs = ops.reduce(operands, args[n:], body, shifted(axes, dim))
    return outs, [dim - sum(a < dim for a in axes)] * n


for _prim in (
    r.reduce_sum_p, r.reduce_prod_p, r.reduce_max_p, r.reduce_min_p, r.reduce_and_p, r.reduce_or_p, r.reduce_xor_p,
):  # fmt: skip
    _batch_reduction(_prim)
for _prim in (r.argmax_p, r.argmin_p):
    _batch_extremum_index(_prim)
for _prim in (r.cumsum_p, r.cumprod_p, r.cummax_p, r.cummin_p, r.cumlogsumexp_p):
    _batch_cumulative(_prim)
r.reduce_p.define(batch=_batch_reduce)
