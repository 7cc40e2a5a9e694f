"""Derivatives and batching of `sort`, `top_k`, `searchsorted` and `nonzero`: tangents move with the elements, positions do not depend smoothly on anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir import sorting as s
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.types import tangent_type
from tracegrad.transforms.indexing import take_along_axis
from tracegrad.transforms.rules import NOT_LINEAR, align, first_dim, move_dim, shifted, zero_derivative
from tracegrad.transforms.zero import Zero, is_zero

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
Batched = tuple[Sequence[Any], Sequence[int]]
Pair = tuple[Sequence[Any], Sequence[Any]]


def _sort_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, dimension: int, is_stable: bool, num_keys: int) -> Pair:
    if all(is_zero(t) for t in tangents):
        outs = ops.sort(*primals, dimension=dimension, is_stable=is_stable, num_keys=num_keys)
        return outs, [Zero(tangent_type(type_of(x))) for x in outs]
    places = ops.broadcasted_iota(np.int32, type_of(primals[0]).shape, dimension)
    *values, order = ops.sort(*primals, places, dimension=dimension, is_stable=is_stable, num_keys=num_keys)
    moved = [
        Zero(tangent_type(type_of(x))) if is_zero(t) else take_along_axis(t, order, dimension) for x, t in zip(values, tangents)
    ]
    return values, moved


def _top_k_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, k: int) -> Pair:
    (x,), (t,) = primals, tangents
    values, indices = bind(s.top_k_p, x, k=k)
    value_dot = Zero(tangent_type(type_of(values))) if is_zero(t) else take_along_axis(t, indices, type_of(x).ndim - 1)
    return (values, indices), (value_dot, Zero(tangent_type(type_of(indices))))


s.sort_p.define(jvp=_sort_jvp, transpose=NOT_LINEAR)
s.top_k_p.define(jvp=_top_k_jvp, transpose=NOT_LINEAR)
zero_derivative(s.searchsorted_p)
zero_derivative(s.nonzero_p)


def _batch_sort(axis: Any, args: Sequence[Any], dims: Dims, *, dimension: int, is_stable: bool, num_keys: int) -> Batched:
    operands, to = align(axis, args, dims)
    outs = ops.sort(*operands, dimension=shifted((dimension,), to)[0], is_stable=is_stable, num_keys=num_keys)
    return outs, [to] * len(outs)


def _batch_top_k(axis: Any, args: Sequence[Any], dims: Dims, *, k: int) -> Batched:
    x, dim = args[0], first_dim(dims)
    if dim == type_of(x).ndim - 1:
        x, dim = move_dim(x, dim, 0), 0
    return bind(s.top_k_p, x, k=k), (dim, dim)


def _batch_searchsorted(axis: Any, args: Sequence[Any], dims: Dims, *, side: str) -> Batched:
    (a, v), (row_dim, dim) = args, dims
    if row_dim is None:  # more values for the same rows
        to = type_of(a).ndim - 1
        return (ops.searchsorted(a, move_dim(v, dim, to), side),), (to,)
    a = move_dim(a, row_dim, 0)
    v = ops.broadcast(v, (axis.size,)) if dim is None else move_dim(v, dim, 0)
    return (ops.searchsorted(a, v, side),), (0,)


def _batch_nonzero(axis: Any, args: Sequence[Any], dims: Dims, *, size: int) -> Batched:
    return bind(s.nonzero_p, move_dim(args[0], first_dim(dims), 0), size=size), (0, 0)


s.sort_p.define(batch=_batch_sort)
s.nonzero_p.define(batch=_batch_nonzero)
s.searchsorted_p.define(batch=_batch_searchsorted)
s.top_k_p.define(batch=_batch_top_k)
