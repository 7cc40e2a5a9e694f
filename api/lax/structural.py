"""lax's functions that move elements without computing: shapes, slices, padding, joining."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import conversions
from tracegrad.ir import structural as ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_key
from tracegrad.lax.operands import as_dtype, as_shape, axis_in, same_dtypes, value


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape to which NumPy's rules broadcast these shapes."""
    checked = [as_shape(s) for s in shapes]
    rank = max((len(s) for s in checked), default=0)
    out = []
    for sizes in zip(*[(1,) * (rank - len(s)) + s for s in checked]):
        wide = {d for d in sizes if d != 1}
        if len(wide) > 1:
            raise ValueError(f"Incompatible shapes for broadcasting: shapes={checked}")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


def broadcast(operand: Any, sizes: Sequence[int], *, out_sharding: Any = None) -> Any:
    """Repeat the operand along new leading axes."""
    operand, sizes = value("broadcast", operand), as_shape(sizes, "sizes")
    return ops.broadcast(operand, sizes) if sizes else operand


def broadcast_in_dim(operand: Any, shape: Sequence[int], broadcast_dimensions: Sequence[int], *, out_sharding: Any = None) -> Any:
    """Repeat the operand to `shape`; its axis i becomes axis `broadcast_dimensions[i]` of the result."""
    operand, shape = value("broadcast_in_dim", operand), as_shape(shape)
    dims = tuple(operator.index(d) for d in broadcast_dimensions)
    if type_of(operand).shape == shape and dims == tuple(range(len(shape))) and isinstance(operand, Array):
        return operand
    return ops.broadcast_in_dim(operand, shape, dims)


def broadcast_to_rank(x: Any, rank: int) -> Any:
    """x with axes of size 1 put in front until it has this rank."""
    x = value("broadcast_to_rank", x)
    missing = rank - type_of(x).ndim
    if missing < 0:
        raise ValueError(f"broadcast_to_rank: cannot lower the rank of {type_of(x)} to {rank}")
    return ops.reshape(x, (1,) * missing + type_of(x).shape) if missing else x


def broadcast_like(arr: Any, like_arr: Any) -> Any:
    """`arr` broadcast, by NumPy's rules, to the shape of `like_arr`."""
    arr, shape = value("broadcast_like", arr), type_of(value("broadcast_like", like_arr)).shape
    offset = len(shape) - type_of(arr).ndim
    return broadcast_in_dim(arr, shape, range(offset, len(shape)))


def reshape(operand: Any, new_sizes: Sequence[int], dimensions: Sequence[int] | None = None, *, out_sharding: Any = None) -> Any:
    """The operand's elements, in row-major order (after transposing by `dimensions`), in another shape."""
    operand = value("reshape", operand)
    t = type_of(operand)
    sizes = tuple(operator.index(d) for d in (new_sizes if isinstance(new_sizes, Sequence) else tuple(np.atleast_1d(new_sizes))))
    if any(d < 0 for d in sizes):
        raise TypeError(f"reshape new_sizes must all be positive, got {sizes}.")
    if math.prod(sizes) != t.size:
        raise TypeError(
            f"reshape total size must be unchanged, got new_sizes {sizes} (size {math.prod(sizes)}) for shape {t.shape} (size {t.size})."
        )
    if dimensions is not None and tuple(dimensions) != tuple(range(t.ndim)):
        operand = transpose(operand, dimensions)
    elif sizes == t.shape and isinstance(operand, Array):
        return operand
    return ops.reshape(operand, sizes)


def transpose(operand: Any, permutation: Sequence[int] | np.ndarray) -> Any:
    """The operand with its axes permuted: axis i of the result is axis `permutation[i]`."""
    operand = value("transpose", operand)
    perm = tuple(operator.index(d) for d in permutation)
    rank = type_of(operand).ndim
    if sorted(perm) != list(range(rank)):
        raise TypeError(
            f"transpose permutation isn't a permutation of operand dimensions, got permutation {perm} for operand {type_of(operand)}."
        )
    if perm == tuple(range(rank)) and isinstance(operand, Array):
        return operand
    return ops.transpose(operand, perm)


def expand_dims(array: Any, dimensions: Sequence[int]) -> Any:
    """Insert axes of size 1 at these places of the result."""
    return ops.expand_dims(value("expand_dims", array), tuple(operator.index(d) for d in dimensions))


def squeeze(array: Any, dimensions: Sequence[int]) -> Any:
    """Drop these axes, which have size 1."""
    array = value("squeeze", array)
    rank = type_of(array).ndim
    return ops.squeeze(array, tuple(axis_in(d, rank, "squeeze axis") for d in dimensions))


def collapse(operand: Any, start_dimension: int, stop_dimension: int | None = None) -> Any:
    """Merge the axes from start to stop (exclusive) into one."""
    shape = type_of(value("collapse", operand)).shape
    start, stop, _ = slice_object(start_dimension, stop_dimension).indices(len(shape))
    if stop < start:
        raise ValueError(f"Invalid dimension range passed to collapse: {shape}[{start}:{stop}]")
    return reshape(operand, (*shape[:start], math.prod(shape[start:stop]), *shape[stop:]))


slice_object = slice


def slice(operand: Any, start_indices: Sequence[int], limit_indices: Sequence[int], strides: Sequence[int] | None = None) -> Any:
    """The elements from each start up to its limit, by strides; all known while tracing and within bounds."""
    operand = value("slice", operand)
    return ops.slice(operand, tuple(start_indices), tuple(limit_indices), None if strides is None else tuple(strides))


def slice_in_dim(operand: Any, start_index: int | None, limit_index: int | None, stride: int = 1, axis: int = 0) -> Any:
    """Python's operand[start:limit:stride] along one axis, for positive strides."""
    operand = value("slice_in_dim", operand)
    shape = type_of(operand).shape
    axis = axis_in(axis, len(shape))
    if operator.index(stride) <= 0:
        raise ValueError(f"slice_in_dim: the stride must be positive, got {stride}")
    start, limit, stride = slice_object(start_index, limit_index, stride).indices(shape[axis])
    return ops.slice_in_dim(operand, start, max(start, limit), stride, axis)


def index_in_dim(operand: Any, index: int, axis: int = 0, keepdims: bool = True) -> Any:
    """operand[index] along one axis, the index known while tracing."""
    operand = value("index_in_dim", operand)
    shape = type_of(operand).shape
    axis, index = axis_in(axis, len(shape)), operator.index(index)
    if not -shape[axis] <= index < shape[axis]:
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {shape[axis]}")
    out = ops.slice_in_dim(operand, index % shape[axis], index % shape[axis] + 1, 1, axis)
    return out if keepdims else ops.reshape(out, shape[:axis] + shape[axis + 1 :])


def pad(operand: Any, padding_value: Any, padding_config: Sequence[tuple[int, int, int]]) -> Any:
    """Surround and interleave the operand with a value: per axis (low, high, interior); negative low or high cut off."""
    operand, fill = value("pad", operand), value("pad", padding_value, 1)
    if type_of(operand).dtype != type_of(fill).dtype:
        raise TypeError(
            f"pad operand and padding_value must be same dtype: got {type_of(operand).dtype} and {type_of(fill).dtype}."
        )
    return ops.pad(operand, fill, [tuple(operator.index(n) for n in c) for c in padding_config])


def rev(operand: Any, dimensions: Sequence[int]) -> Any:
    """The operand reversed along these axes."""
    operand = value("rev", operand)
    return ops.rev(operand, tuple(dimensions)) if len(dimensions) else operand


def concatenate(operands: Any, dimension: int) -> Any:
    """The operands joined along an axis."""
    xs = [value("concatenate", x, i) for i, x in enumerate(operands)]
    if not xs:
        raise ValueError("concatenate requires a non-empty sequences of arrays")
    same_dtypes("concatenate", *xs)
    shapes = [type_of(x).shape for x in xs]
    if len({len(s) for s in shapes}) > 1:
        raise TypeError(f"Cannot concatenate arrays with different numbers of dimensions: got {', '.join(map(str, shapes))}.")
    if not 0 <= dimension < len(shapes[0]):
        raise TypeError(f"concatenate dimension out of bounds: dimension {dimension} for shapes {', '.join(map(str, shapes))}.")
    if len(xs) == 1 and isinstance(xs[0], Array):
        return xs[0]
    return ops.concatenate(xs, dimension)


def stack(operands: Sequence[Any], axis: int = 0) -> Any:
    """The operands, of one shape, along a new axis."""
    xs = [value("stack", x, i) for i, x in enumerate(operands)]
    if not xs:
        raise ValueError("stack requires a non-empty sequence of arrays")
    axis = axis_in(axis, type_of(xs[0]).ndim + 1)
    return concatenate([expand_dims(x, (axis,)) for x in xs], axis)


def unstack(x: Any, axis: int = 0) -> tuple[Any, ...]:
    """The sub-arrays along an axis."""
    x = value("unstack", x)
    shape = type_of(x).shape
    axis = axis_in(axis, len(shape))
    return tuple([index_in_dim(x, i, axis, keepdims=False) for i in range(shape[axis])])


def split(operand: Any, sizes: Sequence[int], axis: int = 0) -> Sequence[Any]:
    """The operand cut along an axis into pieces of these sizes."""
    operand = value("split", operand)
    shape = type_of(operand).shape
    axis = axis_in(axis, len(shape))
    if sum(sizes) != shape[axis]:
        raise ValueError(f"split: sizes {tuple(sizes)} must add up to the size {shape[axis]} of axis {axis}")
    pieces, start = [], 0
    for n in sizes:
        pieces.append(ops.slice_in_dim(operand, start, start + n, 1, axis))
        start += n
    return pieces


def tile(operand: Any, reps: Sequence[int]) -> Any:
    """The operand repeated as a whole, `reps[i]` times along axis i."""
    operand = value("tile", operand)
    shape = type_of(operand).shape
    if len(reps) != len(shape):
        raise ValueError(f"tile: reps {tuple(reps)} must have one entry for each of the {len(shape)} axes")
    doubled = tuple(n for r, d in zip(reps, shape) for n in (r, d))
    spread = ops.broadcast_in_dim(operand, doubled, range(1, 2 * len(shape), 2))
    return ops.reshape(spread, tuple(r * d for r, d in zip(reps, shape)))


# Making arrays.
def full(shape: Any, fill_value: Any, dtype: Any = None, *, sharding: Any = None) -> Any:
    """An array of this shape filled with a scalar."""
    shape, x = as_shape(shape), value("full", fill_value)
    t = type_of(x)
    if t.shape:
        raise TypeError(f"full must be called with scalar fill_value, got fill_value.shape {t.shape}.")
    wanted = t.dtype if dtype is None else as_dtype(dtype)
    weak = dtype is None and t.weak
    if not isinstance(x, Array):
        scalar = np.asarray(x, t.dtype)
        if wanted != t.dtype:
            scalar = _cast_scalar(x, wanted)
        x = scalar[()]
    if t.dtype != wanted or weak:
        x = conversions.convert_element_type(x, wanted, weak)
    return ops.broadcast_in_dim(x, shape, ())


def _cast_scalar(x: Any, dtype: Any) -> np.ndarray:
    """A Python or NumPy scalar in another dtype, converted as an array would be; big Python ints keep their low bits."""
    if isinstance(x, int) and dtype.kind in "iu":
        bits = 8 * dtype.itemsize
        x &= (1 << bits) - 1
        return np.asarray(x - (1 << bits) if dtype.kind == "i" and x >> (bits - 1) else x).astype(dtype)
    (out,) = conversions.convert_element_type_p.evaluate(np.asarray(x, type_of(x).dtype), new_dtype=dtype, weak=False)
    return np.asarray(out)


def full_like(x: Any, fill_value: Any, dtype: Any = None, shape: Any = None, sharding: Any = None) -> Any:
    """An array like x filled with a scalar, in another dtype or shape if given."""
    t = None if hasattr(x, "shape") and hasattr(x, "dtype") else type_of(value("full_like", x))
    out_shape = (x.shape if t is None else t.shape) if shape is None else as_shape(shape)
    weak = dtype is None and bool(getattr(x, "weak_type", False) if t is None else t.weak)
    out_dtype = as_dtype((x.dtype if t is None else t.dtype) if dtype is None else dtype)
    if is_key(out_dtype):
        from tracegrad.ir.random import key_wrap

        words = full((*out_shape, *out_dtype.base_shape), fill_value, np.uint32)
        return key_wrap(words)
    out = full(out_shape, fill_value, out_dtype)
    return conversions.convert_element_type(out, out_dtype, True) if weak else out


def empty(shape: Any, dtype: Any, *, out_sharding: Any = None) -> Any:
    """An array of this shape; its contents are zeros (lax leaves them unspecified)."""
    return full(shape, 0, dtype)


def iota(dtype: Any, size: int) -> Any:
    """0, 1, 2, ..., size - 1."""
    return broadcasted_iota(dtype, (operator.index(size),), 0)


def broadcasted_iota(dtype: Any, shape: Any, dimension: int, *, out_sharding: Any = None) -> Any:
    """An array of this shape that counts along one axis."""
    shape = as_shape(shape)
    return ops.broadcasted_iota(as_dtype(dtype), shape, axis_in(dimension, len(shape), "dimension"))


__all__ = [
    "broadcast", "broadcast_in_dim", "broadcast_like", "broadcast_shapes", "broadcast_to_rank", "broadcasted_iota", "collapse",
    "concatenate", "empty", "expand_dims", "full", "full_like", "index_in_dim", "iota", "pad", "reshape", "rev",
    "slice", "slice_in_dim", "split", "squeeze", "stack", "tile", "transpose", "unstack",
]  # fmt: skip
