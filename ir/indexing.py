"""Reading and writing parts of arrays at positions that are data: gather, scatter and the dynamic slices.

The dimension numbers are XLA's. The last dimension of `indices` holds index vectors; entry k of a vector addresses the operand's
dimension `start_index_map[k]` (`scatter_dims_to_operand_dims[k]`). A window of `slice_sizes` starts at each such position.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.structural import reshape
from tracegrad.ir.types import ArrayType, is_inexact, is_integer, is_key

__all__ = [
    "gather",
    "scatter",
    "dynamic_slice",
    "dynamic_update_slice",
    "dynamic_index_in_dim",
    "dynamic_slice_in_dim",
    "dynamic_update_index_in_dim",
    "dynamic_update_slice_in_dim",
    "gather_p",
    "scatter_p",
    "dynamic_slice_p",
    "dynamic_update_slice_p",
    "default_fill_value",
]

GATHER_MODES = ("clip", "fill", "promise_in_bounds")
SCATTER_MODES = ("drop", "clip", "promise_in_bounds")
SCATTER_KINDS = ("set", "add", "mul", "min", "max")


def default_fill_value(dtype: Any) -> Any:
    """What a gather in mode "fill" puts where an index is out of bounds: NaN, the least integer, the largest unsigned one."""
    if is_key(dtype):
        return np.uint32(0xFFFFFFFF)
    if is_inexact(dtype):
        return dtype.type(np.nan)
    if dtype.kind == "b":
        return np.bool_(True)
    limits = np.iinfo(dtype)
    return dtype.type(limits.min if dtype.kind == "i" else limits.max)


def _distinct_dims(name: str, what: str, dims: Sequence[int], rank: int, operand: ArrayType, ordered: bool = True) -> None:
    if any(not 0 <= d < rank for d in dims) or len(set(dims)) != len(dims):
        raise TypeError(f"{name}: {what} {tuple(dims)} must be distinct dimensions of {operand} (rank {rank})")
    if ordered and list(dims) != sorted(dims):
        raise TypeError(f"{name}: {what} {tuple(dims)} must be sorted")


def _check_batching(
    name: str, operand: ArrayType, indices: ArrayType, operand_dims: Sequence[int], indices_dims: Sequence[int]
) -> None:
    if len(operand_dims) != len(indices_dims):
        raise TypeError(f"{name}: {operand} and the indices {indices} have different numbers of batching dimensions")
    for d, e in zip(operand_dims, indices_dims, strict=True):
        if operand.shape[d] != indices.shape[e]:
            raise TypeError(
                f"{name}: batching dimension {d} of {operand} and dimension {e} of the indices {indices} differ in size"
            )


def _check_indices(name: str, operand: ArrayType, indices: ArrayType, index_map: Sequence[int]) -> None:
    if not is_integer(indices.dtype):
        raise TypeError(f"{name}: indices must be integers, got {indices} for operand {operand}")
    if indices.ndim == 0 or indices.shape[-1] != len(index_map):
        raise TypeError(
            f"{name}: the last dimension of the indices {indices} must have size {len(index_map)}, one entry for each of the "
            f"dimensions {tuple(index_map)} of {operand} that are indexed"
        )


def _gather_type(
    operand: ArrayType,
    indices: ArrayType,
    *,
    offset_dims: tuple[int, ...],
    collapsed_slice_dims: tuple[int, ...],
    operand_batching_dims: tuple[int, ...],
    start_indices_batching_dims: tuple[int, ...],
    start_index_map: tuple[int, ...],
    slice_sizes: tuple[int, ...],
    mode: str,
    fill_value: Any,
) -> tuple[ArrayType, ...]:
    name = "gather"
    _check_indices(name, operand, indices, start_index_map)
    if mode not in GATHER_MODES:
        raise ValueError(f"{name}: mode {mode!r} is not one of {', '.join(GATHER_MODES)}")
    if len(slice_sizes) != operand.ndim:
        raise TypeError(f"{name}: slice_sizes {slice_sizes} must have an entry for each dimension of {operand}")
    for d, (size, n) in enumerate(zip(slice_sizes, operand.shape, strict=True)):
        if not 0 <= size <= n:
            raise TypeError(f"{name}: the slice of size {size} does not fit into dimension {d} of {operand}")
    _distinct_dims(name, "collapsed_slice_dims", collapsed_slice_dims, operand.ndim, operand)
    _distinct_dims(name, "operand_batching_dims", operand_batching_dims, operand.ndim, operand)
    _distinct_dims(name, "start_index_map", start_index_map, operand.ndim, operand, ordered=False)
    _distinct_dims(name, "start_indices_batching_dims", start_indices_batching_dims, indices.ndim - 1, indices, ordered=False)
    if set(collapsed_slice_dims) & set(operand_batching_dims) or set(start_index_map) & set(operand_batching_dims):
        raise TypeError(f"{name}: batching dimensions {operand_batching_dims} of {operand} cannot be collapsed or indexed too")
    for d in (*collapsed_slice_dims, *operand_batching_dims):
        if slice_sizes[d] > 1:
            raise TypeError(f"{name}: dimension {d} of {operand} is collapsed or batching, so its slice size must be at most 1")
    _check_batching(name, operand, indices, operand_batching_dims, start_indices_batching_dims)
    window = [n for d, n in enumerate(slice_sizes) if d not in collapsed_slice_dims and d not in operand_batching_dims]
    rank = len(offset_dims) + indices.ndim - 1
    _distinct_dims(name, "offset_dims", offset_dims, rank, operand)
    if len(window) != len(offset_dims):
        raise TypeError(
            f"{name}: offset_dims {offset_dims} must name {len(window)} dimensions of the result, one for each kept dimension of "
            f"the slices of {operand}"
        )
    sizes, batch = iter(window), iter(indices.shape[:-1])
    shape = tuple(next(sizes) if d in offset_dims else next(batch) for d in range(rank))
    return (ArrayType(shape, operand.dtype, operand.weak),)


def _flat_positions(indices: np.ndarray, k: int, limit: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Entry k of the index vectors, clamped to 0..limit, as intp; and where it was within (None: everywhere)."""
    index = indices[..., k]
    if index.dtype.kind == "u" and index.dtype.itemsize == 8:
        clamped = np.minimum(index, np.uint64(limit))
        inside = index == clamped
        clamped = clamped.astype(np.intp)
    else:
        index = index.astype(np.intp)
        clamped = np.minimum(np.maximum(index, 0), limit)
        inside = index == clamped
    return clamped, None if inside.all() else inside


def _starts(
    indices: np.ndarray,
    shape: tuple[int, ...],
    sizes: Sequence[int],
    index_map: Sequence[int],
    operand_batching: Sequence[int],
    indices_batching: Sequence[int],
) -> tuple[dict[int, np.ndarray], np.ndarray | None]:
    """Per indexed (or batching) dimension of an operand, the clamped start of every window; and which windows were in bounds."""
    starts: dict[int, np.ndarray] = {}
    valid: np.ndarray | None = None
    for k, d in enumerate(index_map):
        starts[d], inside = _flat_positions(indices, k, shape[d] - sizes[d])
        if inside is not None:
            valid = inside if valid is None else valid & inside
    rank = indices.ndim - 1
    for d, e in zip(operand_batching, indices_batching, strict=True):
        starts[d] = np.arange(shape[d]).reshape([-1 if i == e else 1 for i in range(rank)])
    return starts, valid


@lru_cache(maxsize=1024)
def _window_offsets(shape: tuple[int, ...], sizes: tuple[int, ...], kept: tuple[int, ...]) -> np.ndarray:
    """The flat offsets, within an operand of `shape`, of the elements of a window from its start; dimensions `kept`."""
    offsets = np.zeros((), np.intp)
    for d in kept:
        offsets = offsets[..., None] + np.arange(sizes[d]) * prod(shape[d + 1 :])
    offsets.flags.writeable = False
    return offsets


def _flat_indices(
    starts: dict[int, np.ndarray], batch: tuple[int, ...], shape: tuple[int, ...], offsets: np.ndarray
) -> np.ndarray:
    """For every window, the flat positions of its elements in an operand of `shape`."""
    base = np.zeros(batch, np.intp)
    for d, start in starts.items():
        base += start * prod(shape[d + 1 :])
    return base.reshape(batch + (1,) * offsets.ndim) + offsets


def _one_window(
    indices: np.ndarray, index_map: Sequence[int], shape: Sequence[int], sizes: Sequence[int]
) -> tuple[tuple[slice, ...], bool]:
    """The slices of the one window that an index vector names, moved inside; and whether it was inside."""
    starts = [0] * len(sizes)
    inside = True
    for d, index in zip(index_map, indices.reshape(-1).tolist(), strict=True):
        limit = shape[d] - sizes[d]
        starts[d] = min(max(index, 0), limit)
        inside = inside and starts[d] == index
    return tuple([slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]), inside


@lru_cache(maxsize=1024)
def _kept_sizes(sizes: tuple[int, ...], dropped: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for d, n in enumerate(sizes) if d not in dropped)


def _gather_evaluate(
    operand: np.ndarray,
    indices: np.ndarray,
    *,
    offset_dims: tuple[int, ...],
    collapsed_slice_dims: tuple[int, ...],
    operand_batching_dims: tuple[int, ...],
    start_indices_batching_dims: tuple[int, ...],
    start_index_map: tuple[int, ...],
    slice_sizes: tuple[int, ...],
    mode: str,
    fill_value: Any,
) -> tuple[np.ndarray]:
    if prod(indices.shape[:-1]) == 1 and not operand_batching_dims and operand.size:
        # a single window: plain slicing, for programs that index one element after the other
        where, inside = _one_window(indices, start_index_map, operand.shape, slice_sizes)
        window_shape = _kept_sizes(slice_sizes, collapsed_slice_dims)
        ones, sizes_left = iter(indices.shape[:-1]), iter(window_shape)
        rank = len(offset_dims) + indices.ndim - 1
        out_shape = [next(sizes_left) if d in offset_dims else next(ones) for d in range(rank)]
        out_shape += operand.shape[len(slice_sizes) :]
        if inside or mode != "fill":
            return (np.array(operand[where], order="C").reshape(out_shape),)
        fill = default_fill_value(operand.dtype) if fill_value is None else fill_value
        return (np.full(out_shape, np.asarray(fill).astype(operand.dtype)),)
    extra = operand.ndim - len(slice_sizes)  # typed keys carry their base shape behind the logical dimensions
    shape = operand.shape[: len(slice_sizes)]
    sizes = slice_sizes
    batch = indices.shape[:-1]
    kept = tuple(d for d in range(len(sizes)) if d not in collapsed_slice_dims and d not in operand_batching_dims)
    rank = len(offset_dims) + len(batch)
    window = tuple(sizes[d] for d in kept)
    if prod(batch) * prod(window) == 0 or operand.size == 0:
        # an indexed dimension of size 0 collapses to nothing: there is no element to read, only the fill value
        values = np.zeros((*batch, *window, *operand.shape[len(sizes) :]), operand.dtype)
        if values.size:
            values[...] = default_fill_value(operand.dtype) if fill_value is None else fill_value
    else:
        starts, valid = _starts(indices, shape, sizes, start_index_map, operand_batching_dims, start_indices_batching_dims)
        addressed = [d for d in range(len(sizes)) if d in starts]
        if all(sizes[d] == 1 for d in addressed) and all(sizes[d] == n for d, n in enumerate(shape) if d not in starts):
            # whole sub-arrays: NumPy's own indexing, with the indexed dimensions moved to the front
            rest = [d for d in range(operand.ndim) if d not in starts]
            moved = operand if addressed == list(range(len(addressed))) else operand.transpose(*addressed, *rest)
            if len(addressed) == 1:
                values = moved.take(np.broadcast_to(starts[addressed[0]], batch), axis=0)
            elif addressed:
                first, *others = (starts[d] for d in addressed)
                values = moved[(np.broadcast_to(first, batch), *others)]
            else:
                values = np.broadcast_to(moved, (*batch, *moved.shape)).copy()
            values = np.asarray(values).reshape((*batch, *window, *operand.shape[len(sizes) :]))
        else:
            flat = _flat_indices(starts, batch, shape, _window_offsets(shape, sizes, kept))
            values = np.asarray(operand.reshape(-1, *operand.shape[len(sizes) :]).take(flat, axis=0))
        if mode == "fill" and valid is not None:
            fill = default_fill_value(operand.dtype) if fill_value is None else fill_value
            values[np.broadcast_to(~valid, batch)] = np.asarray(fill).astype(operand.dtype)
    batch_dims = [d for d in range(rank) if d not in offset_dims]
    order = [0] * rank
    for source, d in enumerate((*batch_dims, *offset_dims)):
        order[d] = source
    if order != list(range(rank)):
        values = np.ascontiguousarray(values.transpose(*order, *range(rank, rank + extra)))
    return (values,)


gather_p = Primitive("gather", _gather_type, _gather_evaluate, "indexing")


def gather(
    operand: Any,
    indices: Any,
    *,
    offset_dims: Sequence[int],
    collapsed_slice_dims: Sequence[int],
    start_index_map: Sequence[int],
    slice_sizes: Sequence[int],
    operand_batching_dims: Sequence[int] = (),
    start_indices_batching_dims: Sequence[int] = (),
    mode: str = "fill",
    fill_value: Any = None,
) -> Any:
    """Windows of `slice_sizes` of the operand, one for each index vector.

    Out of bounds, a window is moved inside ("clip") or replaced by `fill_value` ("fill"); "promise_in_bounds" says that it
    does not happen (and reads a clamped window if it does).
    """
    return bind1(
        gather_p,
        operand,
        indices,
        offset_dims=tuple(offset_dims),
        collapsed_slice_dims=tuple(collapsed_slice_dims),
        operand_batching_dims=tuple(operand_batching_dims),
        start_indices_batching_dims=tuple(start_indices_batching_dims),
        start_index_map=tuple(start_index_map),
        slice_sizes=tuple(int(n) for n in slice_sizes),
        mode=mode,
        fill_value=fill_value,
    )


def _scatter_type(
    operand: ArrayType,
    indices: ArrayType,
    updates: ArrayType,
    *,
    kind: str,
    update_window_dims: tuple[int, ...],
    inserted_window_dims: tuple[int, ...],
    operand_batching_dims: tuple[int, ...],
    scatter_indices_batching_dims: tuple[int, ...],
    scatter_dims_to_operand_dims: tuple[int, ...],
    mode: str,
    unique_indices: bool,
) -> tuple[ArrayType, ...]:
    name = "scatter"
    if kind not in SCATTER_KINDS:
        raise ValueError(f"{name}: kind {kind!r} is not one of {', '.join(SCATTER_KINDS)}")
    if mode not in SCATTER_MODES:
        raise ValueError(f"{name}: mode {mode!r} is not one of {', '.join(SCATTER_MODES)}")
    if operand.dtype != updates.dtype:
        raise TypeError(f"{name}: the operand {operand} and the updates {updates} must have one dtype; convert the updates first")
    if kind != "set" and is_key(operand.dtype) or kind in ("min", "max") and operand.dtype.kind == "c":
        raise TypeError(f"{name}: values of {operand} cannot be combined with {kind!r}")
    _check_indices(name, operand, indices, scatter_dims_to_operand_dims)
    _distinct_dims(name, "inserted_window_dims", inserted_window_dims, operand.ndim, operand)
    _distinct_dims(name, "operand_batching_dims", operand_batching_dims, operand.ndim, operand)
    _distinct_dims(name, "scatter_dims_to_operand_dims", scatter_dims_to_operand_dims, operand.ndim, operand, ordered=False)
    _distinct_dims(name, "update_window_dims", update_window_dims, updates.ndim, updates)
    batching = scatter_indices_batching_dims
    _distinct_dims(name, "scatter_indices_batching_dims", batching, indices.ndim - 1, indices, ordered=False)
    _check_batching(name, operand, indices, operand_batching_dims, batching)
    window = [d for d in range(operand.ndim) if d not in inserted_window_dims and d not in operand_batching_dims]
    if len(window) != len(update_window_dims):
        raise TypeError(
            f"{name}: update_window_dims {update_window_dims} of {updates} must be {len(window)}, one for each dimension of "
            f"{operand} that is neither inserted nor batching"
        )
    for d, e in zip(window, update_window_dims, strict=True):
        if updates.shape[e] > operand.shape[d]:
            raise TypeError(f"{name}: the window of the updates {updates} is larger than {operand} in dimension {d}")
    batch = tuple(n for d, n in enumerate(updates.shape) if d not in update_window_dims)
    if batch != indices.shape[:-1]:
        raise TypeError(f"{name}: the updates {updates} have batch shape {batch}; that of the indices {indices} differs")
    return (ArrayType(operand.shape, operand.dtype, operand.weak and updates.weak),)


_COMBINE = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


def _scatter_evaluate(
    operand: np.ndarray,
    indices: np.ndarray,
    updates: np.ndarray,
    *,
    kind: str,
    update_window_dims: tuple[int, ...],
    inserted_window_dims: tuple[int, ...],
    operand_batching_dims: tuple[int, ...],
    scatter_indices_batching_dims: tuple[int, ...],
    scatter_dims_to_operand_dims: tuple[int, ...],
    mode: str,
    unique_indices: bool,
) -> tuple[np.ndarray]:
    batch = indices.shape[:-1]
    rank = len(batch) + len(update_window_dims)
    logical = len(update_window_dims) + len(inserted_window_dims) + len(operand_batching_dims)
    shape, base_shape = operand.shape[:logical], operand.shape[logical:]
    out = np.array(operand, order="C")
    if out.size == 0 or updates.size == 0:
        return (out,)
    batch_dims = [d for d in range(rank) if d not in update_window_dims]
    values = updates.transpose(*batch_dims, *update_window_dims, *range(rank, updates.ndim))
    kept = tuple(d for d in range(logical) if d not in inserted_window_dims and d not in operand_batching_dims)
    sizes = [1] * logical
    for d, e in zip(kept, update_window_dims, strict=True):
        sizes[d] = updates.shape[e]
    if prod(batch) == 1 and not operand_batching_dims:
        where, inside = _one_window(indices, scatter_dims_to_operand_dims, shape, sizes)
        if inside or mode == "clip":
            value = values.reshape([*sizes, *base_shape])
            if kind == "set":
                out[where] = value
            else:
                with np.errstate(all="ignore"):
                    out[where] = _COMBINE[kind](out[where], value)
        return (out,)
    starts, valid = _starts(
        indices, shape, sizes, scatter_dims_to_operand_dims, operand_batching_dims, scatter_indices_batching_dims
    )
    if mode == "clip":
        valid = None
    lead = len(starts)
    whole = max(starts, default=-1) < lead and sizes == [1] * lead + list(shape[lead:])
    if whole and (kind == "set" or unique_indices):
        # whole sub-arrays of the leading dimensions: one index for each instead of one for each element
        base_shape = (prod(shape[lead:]) * prod(base_shape),)
        shape, kept = shape[:lead], ()
    flat = _flat_indices(starts, batch, shape, _window_offsets(shape, tuple(sizes), kept))
    if valid is not None:
        chosen = np.broadcast_to(valid, batch)
        flat, values = flat[chosen], values[chosen]
    flat = flat.reshape(-1)
    target = out.reshape(-1, *base_shape)
    values = values.reshape(-1, *base_shape)
    if kind == "set":
        target[flat] = values  # NumPy assigns in order: the last of several updates of one element stays
    else:
        with np.errstate(all="ignore"):
            if unique_indices:
                target[flat] = _COMBINE[kind](target[flat], values)
            else:
                _COMBINE[kind].at(target, flat, values)
    return (out,)


scatter_p = Primitive("scatter", _scatter_type, _scatter_evaluate, "indexing")


def scatter(
    operand: Any,
    indices: Any,
    updates: Any,
    *,
    kind: str = "set",
    update_window_dims: Sequence[int],
    inserted_window_dims: Sequence[int],
    scatter_dims_to_operand_dims: Sequence[int],
    operand_batching_dims: Sequence[int] = (),
    scatter_indices_batching_dims: Sequence[int] = (),
    mode: str = "drop",
    unique_indices: bool = False,
) -> Any:
    """The operand with a window of updates put at (or combined with) each position that an index vector names.

    Windows out of bounds are left out ("drop") or moved inside ("clip"). Of several updates of one element by "set" the last one
    stays.
    """
    return bind1(
        scatter_p,
        operand,
        indices,
        updates,
        kind=kind,
        update_window_dims=tuple(update_window_dims),
        inserted_window_dims=tuple(inserted_window_dims),
        operand_batching_dims=tuple(operand_batching_dims),
        scatter_indices_batching_dims=tuple(scatter_indices_batching_dims),
        scatter_dims_to_operand_dims=tuple(scatter_dims_to_operand_dims),
        mode=mode,
        unique_indices=bool(unique_indices),
    )


def _check_starts(name: str, operand: ArrayType, starts: tuple[ArrayType, ...]) -> None:
    if len(starts) != operand.ndim:
        raise TypeError(f"{name} takes a start index for each dimension of {operand}, got {len(starts)}")
    for t in starts:
        if not is_integer(t.dtype) or t.shape != ():
            raise TypeError(f"{name}: start indices must be integer scalars, got {t} for operand {operand}")


def _clamped_slices(starts: tuple[np.ndarray, ...], shape: tuple[int, ...], sizes: Sequence[int]) -> tuple[slice, ...]:
    where = []
    for start, n, size in zip(starts, shape, sizes, strict=False):
        first = min(max(int(start), 0), n - size)
        where.append(slice(first, first + size))
    return tuple(where)


def _dynamic_slice_type(operand: ArrayType, *starts: ArrayType, slice_sizes: tuple[int, ...]) -> tuple[ArrayType, ...]:
    _check_starts("dynamic_slice", operand, starts)
    if len(slice_sizes) != operand.ndim or any(not 0 <= size <= n for size, n in zip(slice_sizes, operand.shape, strict=True)):
        raise TypeError(f"dynamic_slice: a slice of sizes {slice_sizes} does not fit into {operand}")
    return (ArrayType(slice_sizes, operand.dtype, operand.weak),)


def _dynamic_slice_evaluate(operand: np.ndarray, *starts: np.ndarray, slice_sizes: tuple[int, ...]) -> tuple[np.ndarray]:
    return (operand[_clamped_slices(starts, operand.shape, slice_sizes)].copy(),)


dynamic_slice_p = Primitive("dynamic_slice", _dynamic_slice_type, _dynamic_slice_evaluate, "indexing")


def _dynamic_update_slice_type(operand: ArrayType, update: ArrayType, *starts: ArrayType) -> tuple[ArrayType, ...]:
    name = "dynamic_update_slice"
    _check_starts(name, operand, starts)
    if operand.dtype != update.dtype:
        raise TypeError(f"{name}: the operand {operand} and the update {update} must have one dtype")
    if operand.ndim != update.ndim or any(m > n for m, n in zip(update.shape, operand.shape, strict=True)):
        raise TypeError(f"{name}: the update {update} does not fit into {operand}")
    return (ArrayType(operand.shape, operand.dtype, operand.weak and update.weak),)


def _dynamic_update_slice_evaluate(operand: np.ndarray, update: np.ndarray, *starts: np.ndarray) -> tuple[np.ndarray]:
    out = np.array(operand, order="C")
    out[_clamped_slices(starts, operand.shape, update.shape)] = update
    return (out,)


dynamic_update_slice_p = Primitive("dynamic_update_slice", _dynamic_update_slice_type, _dynamic_update_slice_evaluate, "indexing")

_INT32_MAX = 2**31 - 1


def _start(index: Any) -> Any:
    if isinstance(index, int):
        if -_INT32_MAX <= index <= _INT32_MAX:
            return np.int32(index)
        return np.int64(index)
    return index


def dynamic_slice(operand: Any, start_indices: Sequence[Any], slice_sizes: Sequence[int]) -> Any:
    """The slice of the given sizes that starts at `start_indices` (ints or integer scalars), moved so that it fits."""
    return bind1(dynamic_slice_p, operand, *map(_start, start_indices), slice_sizes=tuple(int(n) for n in slice_sizes))


def dynamic_update_slice(operand: Any, update: Any, start_indices: Sequence[Any]) -> Any:
    """The operand with `update` written at `start_indices`, moved so that it fits."""
    return bind1(dynamic_update_slice_p, operand, update, *map(_start, start_indices))


def dynamic_slice_in_dim(operand: Any, start_index: Any, slice_size: int, axis: int = 0) -> Any:
    """`dynamic_slice` along one axis, whole in the others."""
    shape = type_of(operand).shape
    axis %= len(shape)
    starts = [0] * len(shape)
    starts[axis] = start_index
    return dynamic_slice(operand, starts, (*shape[:axis], slice_size, *shape[axis + 1 :]))


def dynamic_index_in_dim(operand: Any, index: Any, axis: int = 0, keepdims: bool = True) -> Any:
    """The sub-array at `index` (clamped) along one axis."""
    out = dynamic_slice_in_dim(operand, index, 1, axis)
    if keepdims:
        return out
    shape = type_of(operand).shape
    axis %= len(shape)
    return reshape(out, shape[:axis] + shape[axis + 1 :])


def dynamic_update_slice_in_dim(operand: Any, update: Any, start_index: Any, axis: int = 0) -> Any:
    """`dynamic_update_slice` along one axis, from 0 in the others."""
    rank = len(type_of(operand).shape)
    starts = [0] * rank
    starts[axis % rank] = start_index
    return dynamic_update_slice(operand, update, starts)


def dynamic_update_index_in_dim(operand: Any, update: Any, index: Any, axis: int = 0) -> Any:
    """The operand with its sub-array at `index` along one axis replaced; the update has that axis, of size 1, or lacks it."""
    shape, given = type_of(operand).shape, type_of(update).shape
    axis %= len(shape)
    if len(given) != len(shape):
        update = reshape(update, (*given[:axis], 1, *given[axis:]))
    return dynamic_update_slice_in_dim(operand, update, index, axis)
