"""Structural primitives: they move, repeat, cut and join elements without computing with them.

They take arrays of any dtype, typed random keys too. A key array is evaluated as a uint32 array with trailing axes; since those
come last, parameters that speak of the array's own axes serve both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.checks import NUMBER, all_weak, listing, same_dtype, scalars
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, is_key


def _ints(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(int, values))


# broadcast_in_dim


def _broadcast_in_dim_type(x: ArrayType, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]) -> tuple[ArrayType]:
    if len(broadcast_dimensions) != x.ndim:
        raise ValueError(
            f"broadcast_in_dim: each axis of {x} needs a place in the result, but broadcast_dimensions is {broadcast_dimensions}"
        )
    if any(a >= b for a, b in zip(broadcast_dimensions, broadcast_dimensions[1:])) or any(
        not 0 <= d < len(shape) for d in broadcast_dimensions
    ):
        raise ValueError(
            f"broadcast_in_dim: broadcast_dimensions must increase strictly and lie in the result {shape}; got {broadcast_dimensions}"
        )
    for size, place in zip(x.shape, broadcast_dimensions):
        if size != 1 and size != shape[place]:
            raise ValueError(f"broadcast_in_dim: {x} cannot become {shape} by broadcast_dimensions {broadcast_dimensions}")
    return (x.update(shape=shape),)


def _broadcast_in_dim(x: np.ndarray, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]) -> tuple[np.ndarray]:
    rank = len(broadcast_dimensions)
    trailing = x.shape[rank:]
    aligned = [1] * len(shape)
    for size, place in zip(x.shape, broadcast_dimensions):
        aligned[place] = size
    out_shape = shape + trailing
    view = x.reshape((*aligned, *trailing))
    if view.shape == out_shape:
        return (view,)
    out = np.empty(out_shape, x.dtype)
    out[...] = view
    return (out,)


broadcast_in_dim_p = Primitive("broadcast_in_dim", _broadcast_in_dim_type, _broadcast_in_dim, "structural")


def broadcast_in_dim(x: Any, shape: Sequence[int], broadcast_dimensions: Sequence[int]) -> Any:
    """Repeat `x` to `shape`; axis i of `x` becomes axis broadcast_dimensions[i] of the result."""
    return bind1(broadcast_in_dim_p, x, shape=_ints(shape), broadcast_dimensions=_ints(broadcast_dimensions))


def broadcast(x: Any, sizes: Sequence[int]) -> Any:
    """Repeat `x` along new leading axes of these sizes."""
    shape = type_of(x).shape
    sizes = _ints(sizes)
    return broadcast_in_dim(x, sizes + shape, range(len(sizes), len(sizes) + len(shape)))


# reshape


def _reshape_type(x: ArrayType, *, new_sizes: tuple[int, ...]) -> tuple[ArrayType]:
    if any(d < 0 for d in new_sizes) or math.prod(new_sizes) != x.size:
        raise ValueError(f"reshape: {x} has {x.size} elements and cannot take the shape {new_sizes}")
    return (x.update(shape=new_sizes),)


def _reshape(x: np.ndarray, *, new_sizes: tuple[int, ...]) -> tuple[np.ndarray]:
    if x.size != math.prod(new_sizes):
        new_sizes += x.shape[-1:]
    return (x.reshape(new_sizes),)


reshape_p = Primitive("reshape", _reshape_type, _reshape, "structural")


def reshape(x: Any, new_sizes: Sequence[int]) -> Any:
    """The same elements in row-major order under another shape."""
    t = type_of(x)
    if is_key(t.dtype) and t.size == 0:
        return _no_keys(t, _ints(new_sizes))
    return bind1(reshape_p, x, new_sizes=_ints(new_sizes))


def _no_keys(t: ArrayType, new_sizes: tuple[int, ...]) -> Any:
    """An empty key array: its number of elements does not tell evaluation that it has a trailing axis, so it is made anew."""
    from tracegrad.ir.random import key_wrap

    _reshape_type(t, new_sizes=new_sizes)
    return key_wrap(broadcast_in_dim(np.uint32(0), new_sizes + t.dtype.base_shape, ()))


def squeeze(x: Any, dimensions: Sequence[int]) -> Any:
    """Drop the axes `dimensions`, each of size 1."""
    t = type_of(x)
    dropped = {d % t.ndim if t.ndim else d for d in dimensions}
    for d in dropped:
        if not 0 <= d < t.ndim or t.shape[d] != 1:
            raise ValueError(f"squeeze: axis {d} of {t} does not have size 1")
    if not dropped:
        return x
    return reshape(x, tuple(s for i, s in enumerate(t.shape) if i not in dropped))


def expand_dims(x: Any, dimensions: Sequence[int]) -> Any:
    """Insert axes of size 1, at these places of the result."""
    t = type_of(x)
    rank = t.ndim + len(dimensions)
    new = {d + rank if d < 0 else d for d in dimensions}
    if len(new) != len(dimensions) or any(not 0 <= d < rank for d in new):
        raise ValueError(f"expand_dims: the new axes {tuple(dimensions)} must be distinct and lie in a result of rank {rank}")
    if not new:
        return x
    old = iter(t.shape)
    return reshape(x, tuple(1 if i in new else next(old) for i in range(rank)))


# transpose


def _transpose_type(x: ArrayType, *, permutation: tuple[int, ...]) -> tuple[ArrayType]:
    if sorted(permutation) != list(range(x.ndim)):
        raise ValueError(f"transpose: {permutation} is not a permutation of the axes of {x}")
    return (x.update(shape=tuple(x.shape[p] for p in permutation)),)


def _transpose(x: np.ndarray, *, permutation: tuple[int, ...]) -> tuple[np.ndarray]:
    return (x.transpose(*permutation, *range(len(permutation), x.ndim)) if x.ndim else x,)


transpose_p = Primitive("transpose", _transpose_type, _transpose, "structural")


def transpose(x: Any, permutation: Sequence[int]) -> Any:
    """Reorder the axes; axis i of the result is axis permutation[i] of `x`."""
    permutation = _ints(permutation)
    return bind1(transpose_p, x, permutation=permutation)


# slice


def _slice_type(
    x: ArrayType, *, start_indices: tuple[int, ...], limit_indices: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[ArrayType]:
    if not len(start_indices) == len(limit_indices) == len(strides) == x.ndim:
        raise ValueError(f"slice: {x} needs {x.ndim} starts, limits and strides; got {start_indices}, {limit_indices}, {strides}")
    for size, start, limit, stride in zip(x.shape, start_indices, limit_indices, strides):
        if not 0 <= start <= limit <= size or stride < 1:
            raise ValueError(
                f"slice: starts {start_indices}, limits {limit_indices} and strides {strides} must satisfy "
                f"0 <= start <= limit <= size and stride >= 1 on {x}"
            )
    shape = tuple(-((start - limit) // stride) for start, limit, stride in zip(start_indices, limit_indices, strides))
    return (x.update(shape=shape),)


def _slice(
    x: np.ndarray, *, start_indices: tuple[int, ...], limit_indices: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[np.ndarray]:
    return (x[tuple(map(_python_slice, start_indices, limit_indices, strides)) + (...,)],)


_python_slice = slice

slice_p = Primitive("slice", _slice_type, _slice, "structural")


def slice(x: Any, start_indices: Sequence[int], limit_indices: Sequence[int], strides: Sequence[int] | None = None) -> Any:  # noqa: A001
    """The elements from each start up to its limit, by strides."""
    strides = (1,) * len(start_indices) if strides is None else _ints(strides)
    return bind1(slice_p, x, start_indices=_ints(start_indices), limit_indices=_ints(limit_indices), strides=strides)


def slice_in_dim(x: Any, start: int, limit: int, stride: int = 1, axis: int = 0) -> Any:
    """`slice` along one axis."""
    shape = type_of(x).shape
    starts, limits, strides = [0] * len(shape), list(shape), [1] * len(shape)
    starts[axis], limits[axis], strides[axis] = start, limit, stride
    return slice(x, starts, limits, strides)


# pad

PaddingConfig = tuple[tuple[int, int, int], ...]


def _padded_size(size: int, lo: int, hi: int, interior: int) -> int:
    return lo + hi + size + (size - 1) * interior if size else lo + hi


def _pad_type(x: ArrayType, value: ArrayType, *, padding_config: PaddingConfig) -> tuple[ArrayType]:
    dtype = same_dtype("pad", (x, value))
    if value.shape:
        raise ValueError(f"pad: the padding value must be a scalar, but got {value}")
    if len(padding_config) != x.ndim:
        raise ValueError(f"pad: {x} needs {x.ndim} triples (low, high, interior), but got {padding_config}")
    shape = tuple(_padded_size(size, *config) for size, config in zip(x.shape, padding_config))
    if any(interior < 0 for _, _, interior in padding_config) or any(size < 0 for size in shape):
        raise ValueError(f"pad: padding {padding_config} of {x} would give a negative size")
    return (ArrayType(shape, dtype, x.weak and value.weak),)


def _pad(x: np.ndarray, value: np.ndarray, *, padding_config: PaddingConfig) -> tuple[np.ndarray]:
    rank = len(padding_config)
    shape = tuple(_padded_size(size, *config) for size, config in zip(x.shape, padding_config))
    out = np.empty(shape + x.shape[rank:], x.dtype)
    out[...] = value
    source, target = [], []
    for size, out_size, (lo, _, interior) in zip(x.shape, shape, padding_config):
        # Element i lands at lo + i * step; negative padding drops those that land outside.
        step = interior + 1
        first = -(lo // step) if lo < 0 else 0
        last = min(size, (out_size - lo - 1) // step + 1)
        if first >= last:
            return (out,)
        source.append(_python_slice(first, last))
        target.append(_python_slice(lo + first * step, lo + (last - 1) * step + 1, step))
    out[tuple(target)] = x[tuple(source)]
    return (out,)


pad_p = Primitive("pad", _pad_type, _pad, "structural")


def pad(x: Any, value: Any, padding_config: Sequence[Sequence[int]]) -> Any:
    """Surround and interleave `x` with `value`: (low, high, interior) per axis; negative low or high cut off."""
    x, value = scalars(x, value)
    return bind1(pad_p, x, value, padding_config=tuple(map(_ints, padding_config)))


# rev, concatenate, iota


def _rev_type(x: ArrayType, *, dimensions: tuple[int, ...]) -> tuple[ArrayType]:
    if len(set(dimensions)) != len(dimensions) or any(not 0 <= d < x.ndim for d in dimensions):
        raise ValueError(f"rev: dimensions must be distinct axes of {x}, but got {dimensions}")
    return (x,)


def _rev(x: np.ndarray, *, dimensions: tuple[int, ...]) -> tuple[np.ndarray]:
    if not dimensions:
        return (x,)
    backwards, forwards = _python_slice(None, None, -1), _python_slice(None)
    return (x[tuple(backwards if i in dimensions else forwards for i in range(x.ndim))],)


rev_p = Primitive("rev", _rev_type, _rev, "structural")


def rev(x: Any, dimensions: Sequence[int]) -> Any:
    """Reverse the order of the elements along these axes."""
    return bind1(rev_p, x, dimensions=_ints(dimensions))


def _concatenate_type(*types: ArrayType, dimension: int) -> tuple[ArrayType]:
    if not types:
        raise TypeError("concatenate needs at least one operand")
    dtype = same_dtype("concatenate", types)
    first = types[0].shape
    if not 0 <= dimension < len(first):
        raise ValueError(f"concatenate: axis {dimension} is out of bounds for {listing(types)}")
    total = 0
    for t in types:
        if (
            len(t.shape) != len(first)
            or t.shape[:dimension] != first[:dimension]
            or t.shape[dimension + 1 :] != first[dimension + 1 :]
        ):
            raise ValueError(f"concatenate: shapes may differ along axis {dimension} only, but got {listing(types)}")
        total += t.shape[dimension]
    return (ArrayType(first[:dimension] + (total,) + first[dimension + 1 :], dtype, all_weak(types)),)


def _concatenate(*arrays: np.ndarray, dimension: int) -> tuple[np.ndarray]:
    return (np.concatenate(arrays, axis=dimension),)


concatenate_p = Primitive("concatenate", _concatenate_type, _concatenate, "structural")


def concatenate(operands: Sequence[Any], dimension: int) -> Any:
    """Join arrays along an axis."""
    return bind1(concatenate_p, *operands, dimension=int(dimension))


def _iota_type(*, dtype: Any, shape: tuple[int, ...], dimension: int) -> tuple[ArrayType]:
    if dtype not in NUMBER:
        raise TypeError(f"iota makes numbers, not {dtype}")
    if not 0 <= dimension < len(shape):
        raise ValueError(f"iota: axis {dimension} is out of bounds for the shape {shape}")
    return (ArrayType(shape, dtype),)


def _iota(*, dtype: Any, shape: tuple[int, ...], dimension: int) -> tuple[np.ndarray]:
    with np.errstate(all="ignore"):
        counts = np.arange(shape[dimension]).astype(dtype, copy=False)
    if len(shape) == 1:
        return (counts,)
    out = np.empty(shape, dtype)
    out[...] = counts.reshape([-1 if i == dimension else 1 for i in range(len(shape))])
    return (out,)


iota_p = Primitive("iota", _iota_type, _iota, "structural")


def iota(dtype: Any, size: int) -> Any:
    """0, 1, ... size-1."""
    return bind1(iota_p, dtype=np.dtype(dtype), shape=(int(size),), dimension=0)


def broadcasted_iota(dtype: Any, shape: Sequence[int], dimension: int) -> Any:
    """An array that counts 0, 1, ... along one axis."""
    return bind1(iota_p, dtype=np.dtype(dtype), shape=_ints(shape), dimension=int(dimension))


__all__ = [
    "broadcast_in_dim",
    "broadcast",
    "reshape",
    "squeeze",
    "expand_dims",
    "transpose",
    "slice",
    "slice_in_dim",
    "pad",
    "rev",
    "concatenate",
    "iota",
    "broadcasted_iota",
]
