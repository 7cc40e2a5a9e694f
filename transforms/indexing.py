"""Derivatives and batching of gather, scatter and the dynamic slices.

Indices are data: everything here is linear in the arrays that are read or written, except scatters that multiply or take extrema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import indexing as i
from tracegrad.ir import ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.types import ArrayType, has_tangents, tangent_type
from tracegrad.transforms.rules import (
    at_dim,
    first_dim,
    full,
    insert,
    linear_first,
    move_dim,
    scalar,
    shifted,
    transposes,
    zeros,
)
from tracegrad.transforms.zero import Linear, Zero, is_zero

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
Batched = tuple[Sequence[Any], Sequence[int]]

# The promise of x[i] may be broken: what was read at a clamped position has no derivative.
SCATTER_MODE = {"fill": "drop", "clip": "clip", "promise_in_bounds": "drop"}
GATHER_MODE = {"drop": "fill", "clip": "clip", "promise_in_bounds": "promise_in_bounds"}


def take_along_axis(x: Any, indices: Any, axis: int) -> Any:
    """x[..., indices[..., k, ...], ...]: one index, known to be in bounds, for each element of the result."""
    t, index_type = type_of(x), type_of(indices)
    others = tuple(d for d in range(t.ndim) if d != axis)
    return ops.gather(
        x,
        ops.reshape(indices, (*index_type.shape, 1)),
        offset_dims=(),
        collapsed_slice_dims=(axis,),
        start_index_map=(axis,),
        slice_sizes=[min(n, 1) for n in t.shape],
        operand_batching_dims=others,
        start_indices_batching_dims=others,
        mode="promise_in_bounds",
    )


# gather


def _gather_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    x, indices = primals
    ans = bind1(i.gather_p, x, indices, **params)
    out = tangent_type(type_of(ans))
    if is_zero(tangents[0]) or not has_tangents(out.dtype):
        return (ans,), (Zero(out),)
    if params["mode"] == "fill":
        params = {**params, "fill_value": 0}
    return (ans,), (bind1(i.gather_p, tangents[0], indices, **params),)


def _transpose_gather(
    ct: Any,
    x: ArrayType,
    indices: Any,
    *,
    offset_dims: tuple[int, ...],
    collapsed_slice_dims: tuple[int, ...],
    operand_batching_dims: tuple[int, ...],
    start_indices_batching_dims: tuple[int, ...],
    start_index_map: tuple[int, ...],
    slice_sizes: tuple[int, ...],
    mode: str,
    fill_value: Any,
) -> Any:
    return ops.scatter(
        zeros(x),
        indices,
        ct,
        kind="add",
        update_window_dims=offset_dims,
        inserted_window_dims=collapsed_slice_dims,
        operand_batching_dims=operand_batching_dims,
        scatter_indices_batching_dims=start_indices_batching_dims,
        scatter_dims_to_operand_dims=start_index_map,
        mode=SCATTER_MODE[mode],
    )


linear_first(i.gather_p, _transpose_gather)
i.gather_p.define(jvp=_gather_jvp)


def _batch_gather(
    axis: Any,
    args: Sequence[Any],
    dims: Dims,
    *,
    offset_dims: tuple[int, ...],
    collapsed_slice_dims: tuple[int, ...],
    operand_batching_dims: tuple[int, ...],
    start_indices_batching_dims: tuple[int, ...],
    start_index_map: tuple[int, ...],
    slice_sizes: tuple[int, ...],
    mode: str,
    fill_value: Any,
) -> Batched:
    x, indices = args
    x_dim, index_dim = dims
    if x_dim is not None:
        collapsed_slice_dims = shifted(collapsed_slice_dims, x_dim)
        operand_batching_dims = shifted(operand_batching_dims, x_dim)
        start_index_map = shifted(start_index_map, x_dim)
    if index_dim is None:
        # The batch dimension becomes one more dimension of each window, read whole.
        gone = set(collapsed_slice_dims) | set(operand_batching_dims)
        before = sum(d not in gone for d in range(x_dim))
        to = offset_dims[before - 1] + 1 if before else 0
        offset_dims = insert(shifted(offset_dims, to), before, to)
        slice_sizes = insert(slice_sizes, x_dim, axis.size)
    else:
        if index_dim == len(type_of(indices).shape) - 1:
            indices, index_dim = move_dim(indices, index_dim, 0), 0
        # The batch dimensions of the result are, in order, those of the indices.
        rank = len(offset_dims) + len(type_of(indices).shape) - 2
        places = [d for d in range(rank) if d not in offset_dims]
        to = places[index_dim] if index_dim < len(places) else rank
        offset_dims = shifted(offset_dims, to)
        start_indices_batching_dims = shifted(start_indices_batching_dims, index_dim)
        if x_dim is not None:
            before = sum(d < x_dim for d in operand_batching_dims)
            operand_batching_dims = insert(operand_batching_dims, before, x_dim)
            start_indices_batching_dims = insert(start_indices_batching_dims, before, index_dim)
            slice_sizes = insert(slice_sizes, x_dim, 1 if axis.size else 0)
    out = bind1(
        i.gather_p,
        x,
        indices,
        offset_dims=offset_dims,
        collapsed_slice_dims=collapsed_slice_dims,
        operand_batching_dims=operand_batching_dims,
        start_indices_batching_dims=start_indices_batching_dims,
        start_index_map=start_index_map,
        slice_sizes=slice_sizes,
        mode=mode,
        fill_value=fill_value,
    )
    return (out,), (to,)


i.gather_p.define(batch=_batch_gather)


# scatter


def _gather_back(x: Any, indices: Any, updates: ArrayType, fill: Any, params: dict[str, Any]) -> Any:
    """What lies in `x` where a scatter with these parameters puts each element of its updates."""
    windows = iter([updates.shape[d] for d in params["update_window_dims"]])
    gone = set(params["inserted_window_dims"]) | set(params["operand_batching_dims"])
    return ops.gather(
        x,
        indices,
        offset_dims=params["update_window_dims"],
        collapsed_slice_dims=params["inserted_window_dims"],
        operand_batching_dims=params["operand_batching_dims"],
        start_indices_batching_dims=params["scatter_indices_batching_dims"],
        start_index_map=params["scatter_dims_to_operand_dims"],
        slice_sizes=[min(n, 1) if d in gone else next(windows) for d, n in enumerate(type_of(x).shape)],
        mode=GATHER_MODE[params["mode"]],
        fill_value=fill if params["mode"] == "drop" else None,
    )


def _scatter(kind: str, x: Any, indices: Any, updates: Any, params: dict[str, Any]) -> Any:
    return bind1(i.scatter_p, x, indices, updates, **{**params, "kind": kind})


def _scatter_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    x, indices, updates = primals
    x_dot, _, updates_dot = tangents
    kind = params["kind"]
    ans = bind1(i.scatter_p, x, indices, updates, **params)
    out = tangent_type(type_of(ans))
    if not has_tangents(out.dtype) or is_zero(x_dot) and is_zero(updates_dot):
        return (ans,), (Zero(out),)
    if kind == "add" and is_zero(updates_dot):
        return (ans,), (x_dot,)
    if kind in ("add", "set"):
        # Which update of an element wins in a "set" depends on indices alone, so that it is linear too.
        x_dot = zeros(out) if is_zero(x_dot) else x_dot
        updates_dot = zeros(updates_dot.type) if is_zero(updates_dot) else updates_dot
        return (ans,), (_scatter(kind, x_dot, indices, updates_dot, params),)
    if kind == "mul":
        t = Zero(out) if is_zero(x_dot) else _scatter("mul", x_dot, indices, updates, params)
        update_weight = None if is_zero(updates_dot) else _product_of_others(x, indices, updates, params)
    else:
        x_weight, update_weight = _extremum_weights(ans, x, indices, updates, params)
        t = Zero(out) if is_zero(x_dot) else ops.mul(x_weight, x_dot)
    if not is_zero(updates_dot):
        share = ops.mul(update_weight, updates_dot)
        t = _scatter("add", zeros(out) if is_zero(t) else t, indices, share, params)
    return (ans,), (t,)


def _product_of_others(x: Any, indices: Any, updates: Any, params: dict[str, Any]) -> Any:
    """For kind "mul", the partial in an update: the product of the old element and all the other updates of it."""
    t = type_of(updates)
    if params["unique_indices"]:
        return _gather_back(x, indices, t, 0, params)
    # Several factors may meet in one element. The product of the others is found by dividing, which a zero factor prevents: so
    # those are set apart. They contribute 1, f, f g, ... where there are 0, 1, 2, ... others: symmetric polynomials, whose values are
    # zero but not their derivatives, made of sums of powers (Newton's identities). More than two matter from the fourth order on only.
    zero, one = scalar(0, t.dtype), scalar(1, t.dtype)
    is_null = ops.eq(updates, zero)
    null = ops.select(is_null, updates, zero)

    def of_others(terms: Any) -> Any:
        """For each update the sum of the terms of the others of its element."""
        sums = _scatter("add", full(0, type_of(x).shape, t.dtype), indices, terms, params)
        return ops.sub(_gather_back(sums, indices, t, 0, params), terms)

    others = of_others(ops.convert_element_type(is_null, t.dtype))
    single = of_others(null)
    pair = ops.mul(ops.sub(ops.square(single), of_others(ops.square(null))), scalar(0.5, t.dtype))
    few = ops.select(ops.eq(others, scalar(1, t.dtype)), single, ops.select(ops.eq(others, scalar(2, t.dtype)), pair, zero))
    factors = ops.select(is_null, one, updates)
    product = _gather_back(_scatter("mul", x, indices, factors, params), indices, t, 0, params)
    return ops.mul(ops.div(product, factors), ops.select(ops.eq(others, zero), one, few))


def _extremum_weights(ans: Any, x: Any, indices: Any, updates: Any, params: dict[str, Any]) -> tuple[Any, Any]:
    """For kinds "min" and "max": k values that tie for an element, its old one included, count 1/k each."""
    t = type_of(updates)
    x_wins = ops.convert_element_type(ops.eq(x, ans), t.dtype)
    wins = ops.convert_element_type(ops.eq(updates, _gather_back(ans, indices, t, 0, params)), t.dtype)
    count = _scatter("add", x_wins, indices, wins, params)
    return ops.div(x_wins, count), ops.div(wins, _gather_back(count, indices, t, 1, params))


def _transpose_scatter(ct: Any, x: Any, indices: Any, updates: Any, **params: Any) -> Sequence[Any]:
    kind = params["kind"]
    updates_type = updates.type if isinstance(updates, Linear) else type_of(updates)
    ct_x = ct_updates = None
    if kind == "mul" and not isinstance(updates, Linear):
        return [_scatter("mul", ct, indices, updates, params), None, None]
    if kind not in ("add", "set"):
        raise NotImplementedError(f"a scatter of kind {kind!r} is not linear, so it cannot be transposed")
    if isinstance(x, Linear):
        ct_x = ct if kind == "add" else _scatter("set", ct, indices, zeros(updates_type), params)
    if isinstance(updates, Linear):
        ct_updates = _gather_back(ct, indices, updates_type, 0, params)
        if kind == "set" and not params["unique_indices"]:
            ct_updates = _keep_winners(ct_updates, type_of(ct).shape, indices, updates_type, params)
    return [ct_x, None, ct_updates]


def _keep_winners(ct: Any, shape: tuple[int, ...], indices: Any, updates: ArrayType, params: dict[str, Any]) -> Any:
    """The cotangents of the updates that a "set" did not overwrite with others: those that find their own number again."""
    numbers = ops.reshape(ops.iota(np.int32, updates.size), updates.shape)
    written = _scatter("set", full(-1, shape, np.int32), indices, numbers, params)
    mine = ops.eq(numbers, _gather_back(written, indices, updates, -1, params))
    return ops.select(mine, ct, scalar(0, type_of(ct).dtype))


i.scatter_p.define(jvp=_scatter_jvp)
transposes(i.scatter_p, _transpose_scatter)


def _batch_scatter(axis: Any, args: Sequence[Any], dims: Dims, **params: Any) -> Batched:
    x, indices, updates = args
    x_dim, index_dim, update_dim = dims
    size = axis.size
    x = at_dim(x, x_dim, 0, size)
    updates = at_dim(updates, update_dim, 0, size)
    for name in ("update_window_dims", "inserted_window_dims", "operand_batching_dims", "scatter_dims_to_operand_dims"):
        params[name] = shifted(params[name], 0)
    if index_dim is None:
        # The batch dimension is one more dimension of each window, written whole.
        params["update_window_dims"] = (0, *params["update_window_dims"])
    else:
        indices = move_dim(indices, index_dim, 0)
        params["operand_batching_dims"] = (0, *params["operand_batching_dims"])
        params["scatter_indices_batching_dims"] = (0, *shifted(params["scatter_indices_batching_dims"], 0))
    return (bind1(i.scatter_p, x, indices, updates, **params),), (0,)


i.scatter_p.define(batch=_batch_scatter)


# dynamic_slice and dynamic_update_slice


def _transpose_dynamic_slice(ct: Any, x: ArrayType, *starts: Any, slice_sizes: tuple[int, ...]) -> Any:
    return ops.dynamic_update_slice(zeros(x), ct, starts)


linear_first(i.dynamic_slice_p, _transpose_dynamic_slice)


def _dynamic_update_slice_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    x, update, *starts = primals
    x_dot, update_dot = tangents[:2]
    ans = ops.dynamic_update_slice(x, update, starts)
    out = tangent_type(type_of(ans))
    if not has_tangents(out.dtype) or is_zero(x_dot) and is_zero(update_dot):
        return (ans,), (Zero(out),)
    x_dot = zeros(out) if is_zero(x_dot) else x_dot
    update_dot = zeros(update_dot.type) if is_zero(update_dot) else update_dot
    return (ans,), (ops.dynamic_update_slice(x_dot, update_dot, starts),)


def _transpose_dynamic_update_slice(ct: Any, x: Any, update: Any, *starts: Any) -> Sequence[Any]:
    update_type = update.type if isinstance(update, Linear) else type_of(update)
    return [
        ops.dynamic_update_slice(ct, zeros(update_type), starts) if isinstance(x, Linear) else None,
        ops.dynamic_slice(ct, starts, update_type.shape) if isinstance(update, Linear) else None,
        *([None] * len(starts)),
    ]


i.dynamic_update_slice_p.define(jvp=_dynamic_update_slice_jvp)
transposes(i.dynamic_update_slice_p, _transpose_dynamic_update_slice)


def _start_vectors(axis: Any, starts: Sequence[Any], dims: Dims) -> Any:
    """Batched start indices, one scalar per dimension for each example, as index vectors [n, rank]."""
    # Starts may differ in dtype; int32 holds them all, except 64-bit ones.
    dtype = next((t for t in (type_of(s).dtype for s in starts) if t.itemsize == 8), np.dtype(np.int32))
    columns = []
    for start, dim in zip(starts, dims, strict=True):
        if type_of(start).dtype != dtype:
            start = ops.convert_element_type(start, dtype)
        if dim is None:
            columns.append(ops.broadcast_in_dim(start, (axis.size, 1), ()))
        else:
            columns.append(ops.reshape(start, (axis.size, 1)))
    return ops.concatenate(columns, 1) if len(columns) > 1 else columns[0]


def _batch_dynamic_slice(axis: Any, args: Sequence[Any], dims: Dims, *, slice_sizes: tuple[int, ...]) -> Batched:
    x, *starts = args
    x_dim, *start_dims = dims
    if all(d is None for d in start_dims):
        return (ops.dynamic_slice(x, insert(starts, x_dim, 0), insert(slice_sizes, x_dim, axis.size)),), (x_dim,)
    rank = len(starts)
    windows = tuple(range(1, rank + 1))
    if x_dim is not None:
        x = move_dim(x, x_dim, 0)
    out = ops.gather(
        x,
        _start_vectors(axis, starts, start_dims),
        offset_dims=windows,
        collapsed_slice_dims=(),
        start_index_map=range(rank) if x_dim is None else windows,
        slice_sizes=slice_sizes if x_dim is None else (min(axis.size, 1), *slice_sizes),
        operand_batching_dims=() if x_dim is None else (0,),
        start_indices_batching_dims=() if x_dim is None else (0,),
        mode="clip",
    )
    return (out,), (0,)


def _batch_dynamic_update_slice(axis: Any, args: Sequence[Any], dims: Dims) -> Batched:
    x, update, *starts = args
    x_dim, update_dim, *start_dims = dims
    if all(d is None for d in start_dims):
        to = first_dim((x_dim, update_dim))
        x, update = at_dim(x, x_dim, to, axis.size), at_dim(update, update_dim, to, axis.size)
        return (ops.dynamic_update_slice(x, update, insert(starts, to, 0)),), (to,)
    windows = tuple(range(1, len(starts) + 1))
    out = ops.scatter(
        at_dim(x, x_dim, 0, axis.size),
        _start_vectors(axis, starts, start_dims),
        at_dim(update, update_dim, 0, axis.size),
        kind="set",
        update_window_dims=windows,
        inserted_window_dims=(),
        scatter_dims_to_operand_dims=windows,
        operand_batching_dims=(0,),
        scatter_indices_batching_dims=(0,),
        mode="clip",
        unique_indices=True,
    )
    return (out,), (0,)


i.dynamic_slice_p.define(batch=_batch_dynamic_slice)
i.dynamic_update_slice_p.define(batch=_batch_dynamic_update_slice)
