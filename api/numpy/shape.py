"""Functions that move, repeat, join and split elements without computing with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_key
from tracegrad.numpy.creation import asarray, canonical_shape, one_sequence_of
from tracegrad.numpy.dtype_objects import canonical_dtype
from tracegrad.numpy.promotion import (
    as_array,
    as_value,
    axis_index,
    axis_indices,
    broadcast_shapes_of,
    broadcast_to_shape,
    concrete,
    promote_values,
    shape_of,
    static_int,
    to_dtype,
)
from tracegrad.tracer.tracer import Tracer


def shape(a: Any) -> tuple[int, ...]:
    """The shape."""
    return _type_of_any("shape", a).shape


def ndim(a: Any) -> int:
    """The number of dimensions."""
    return len(_type_of_any("ndim", a).shape)


def size(a: Any, axis: Any = None) -> int:
    """The number of elements, in all or along axes."""
    s = _type_of_any("size", a).shape
    return math.prod(s if axis is None else [s[i] for i in axis_indices("size", axis, len(s))])


def _type_of_any(name: str, a: Any) -> Any:
    if isinstance(a, Array):
        return a.aval
    if isinstance(a, (list, tuple)):
        return type_of(asarray(a))
    return type_of(as_value(name, a))


def reshape_to(x: Any, new: tuple[int, ...]) -> Any:
    """`ops.reshape`, omitted when it would do nothing."""
    return x if shape_of(x) == new else ops.reshape(x, new)


def reshape(a: Any, shape: Any, order: str = "C", *, copy: bool | None = None, out_sharding: Any = None) -> Any:
    """The elements under another shape, one entry of which may be -1."""
    a = as_array("reshape", a, "a")
    old = shape_of(a)
    new = infer_shape("reshape", old, shape)
    if order == "C":
        return reshape_to(a, new)
    if order == "F":
        reverse = range(len(old) - 1, -1, -1)
        return ops.transpose(reshape_to(ops.transpose(a, reverse), new[::-1]), range(len(new) - 1, -1, -1))
    if order == "A":
        raise NotImplementedError("reshape: order='A' is not implemented; arrays are in row-major order, so use order='C'")
    raise ValueError(f"reshape: unexpected value for 'order' argument: {order!r}")


def infer_shape(name: str, old: tuple[int, ...], new: Any) -> tuple[int, ...]:
    """A requested shape with its -1, if any, replaced."""
    if isinstance(new, (tuple, list)):
        sizes = tuple([d if type(d) is int else static_int(name, d, "shape") for d in new])
    elif isinstance(new, (np.ndarray, Array)) and new.ndim:
        sizes = tuple(concrete(name, new, "shape").tolist())
    else:
        sizes = (static_int(name, new, "shape"),)
    total = math.prod(old)
    holes = [i for i, d in enumerate(sizes) if d == -1]
    if len(holes) > 1:
        raise ValueError(f"{name}: can only specify one unknown dimension, got {sizes}")
    if holes:
        known = math.prod(d for d in sizes if d != -1)
        if known == 0 or total % known:
            raise TypeError(f"cannot reshape array of shape {old} (size {total}) into shape {sizes}")
        sizes = tuple([total // known if d == -1 else d for d in sizes])
    if any(d < 0 for d in sizes) or math.prod(sizes) != total:
        raise TypeError(f"cannot reshape array of shape {old} (size {total}) into shape {sizes} (size {math.prod(sizes)})")
    return sizes


def ravel(a: Any, order: str = "C", *, out_sharding: Any = None) -> Any:
    """The elements in one dimension."""
    if order == "K":
        raise NotImplementedError("ravel: order='K' is not implemented; arrays are in row-major order, so use order='C'")
    return reshape(a, (math.prod(shape_of(as_array("ravel", a, "a"))),), order)


def transpose(a: Any, axes: Any = None) -> Any:
    """The array with its axes reversed, or in the order `axes`."""
    a = as_array("transpose", a, "a")
    rank = len(shape_of(a))
    if axes is None:
        return a if rank < 2 else ops.transpose(a, range(rank - 1, -1, -1))
    permutation = axis_indices("transpose", tuple(axes) if not isinstance(axes, int) else axes, rank, "axes")
    if len(permutation) != rank:
        raise ValueError(
            f"transpose: axes {tuple(axes)} must be a permutation of the {rank} axes of an array of shape {shape_of(a)}"
        )
    return transpose_to(a, permutation)


def transpose_to(x: Any, permutation: Sequence[int]) -> Any:
    """`ops.transpose`, omitted when it would do nothing."""
    return x if list(permutation) == list(range(len(permutation))) else ops.transpose(x, permutation)


permute_dims = transpose


def matrix_transpose(x: Any, /) -> Any:
    """The array with its last two axes exchanged."""
    x = as_array("matrix_transpose", x)
    if len(shape_of(x)) < 2:
        raise ValueError(f"matrix_transpose: x must be at least two-dimensional, got shape {shape_of(x)}")
    return swapaxes(x, -1, -2)


def swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    """The array with two axes exchanged."""
    a = as_array("swapaxes", a, "a")
    rank = len(shape_of(a))
    i, j = axis_index("swapaxes", axis1, rank, "axis1"), axis_index("swapaxes", axis2, rank, "axis2")
    order = list(range(rank))
    order[i], order[j] = j, i
    return transpose_to(a, order)


def moveaxis(a: Any, source: Any, destination: Any) -> Any:
    """The array with axes moved to other places; the rest keep their order."""
    a = as_array("moveaxis", a, "a")
    rank = len(shape_of(a))
    sources = axis_indices("moveaxis", source, rank, "source")
    destinations = axis_indices("moveaxis", destination, rank, "destination")
    if len(sources) != len(destinations):
        raise ValueError(f"moveaxis: source {source} and destination {destination} must have the same number of axes")
    order = [i for i in range(rank) if i not in sources]
    for d, s in sorted(zip(destinations, sources)):
        order.insert(d, s)
    return transpose_to(a, order)


def rollaxis(a: Any, axis: int, start: int = 0) -> Any:
    """The array with one axis moved to before `start`."""
    rank = len(shape_of(as_array("rollaxis", a, "a")))
    i = axis_index("rollaxis", axis, rank)
    j = axis_index("rollaxis", start, rank + 1, "start")
    return moveaxis(a, i, j - 1 if i < j else j)


def squeeze(a: Any, axis: Any = None) -> Any:
    """The array without axes of size 1: all of them, or those named."""
    a = as_array("squeeze", a, "a")
    s = shape_of(a)
    if axis is None:
        return reshape_to(a, tuple([d for d in s if d != 1]))
    axes = axis_indices("squeeze", axis, len(s))
    for i in axes:
        if s[i] != 1:
            raise ValueError(
                f"cannot select an axis to squeeze out which has size not equal to one, got shape={s} and dimensions={axes}"
            )
    return reshape_to(a, tuple([d for i, d in enumerate(s) if i not in axes]))


def expand_dims(a: Any, axis: Any) -> Any:
    """The array with new axes of size 1 at the given places of the result."""
    a = as_array("expand_dims", a, "a")
    s = shape_of(a)
    number = len(axis) if isinstance(axis, (tuple, list)) else 1
    axes = axis_indices("expand_dims", axis, len(s) + number)
    old = iter(s)
    return reshape_to(a, tuple([1 if i in axes else next(old) for i in range(len(s) + number)]))


def broadcast_to(array: Any, shape: Any, *, out_sharding: Any = None) -> Any:
    """The array repeated to a shape."""
    array = as_array("broadcast_to", array, "array")
    old, new = shape_of(array), canonical_shape("broadcast_to", shape)
    if len(old) > len(new) or any(a != b and a != 1 for a, b in zip(old[::-1], new[::-1])):
        raise ValueError(f"Incompatible shapes for broadcasting: {old} and requested shape {new}")
    return broadcast_to_shape(array, new)


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that arrays of these shapes broadcast to."""
    if not shapes:
        return ()
    return broadcast_shapes_of("broadcast_shapes", *[canonical_shape("broadcast_shapes", s) for s in shapes])


def broadcast_arrays(*args: Any) -> list[Any]:
    """The arrays repeated to their common shape."""
    arrays = [as_array("broadcast_arrays", x, i) for i, x in enumerate(args)]
    if not arrays:
        return []
    common = broadcast_shapes_of("broadcast_arrays", *map(shape_of, arrays))
    return [broadcast_to_shape(x, common) for x in arrays]


def atleast_1d(*arys: Any) -> Any:
    """Arrays with at least one dimension."""
    return _at_least("atleast_1d", arys, lambda x, s: reshape_to(x, (1,)) if not s else x)


def atleast_2d(*arys: Any) -> Any:
    """Arrays with at least two dimensions."""
    return _at_least("atleast_2d", arys, lambda x, s: reshape_to(x, (1,) * (2 - len(s)) + s) if len(s) < 2 else x)


def atleast_3d(*arys: Any) -> Any:
    """Arrays with at least three dimensions."""

    def change(x: Any, s: tuple[int, ...]) -> Any:
        new = {0: (1, 1, 1), 1: (1, *s, 1), 2: (*s, 1)}.get(len(s), s)
        return reshape_to(x, new)

    return _at_least("atleast_3d", arys, change)


def _at_least(name: str, arys: Sequence[Any], change: Any) -> Any:
    if len(arys) == 1 and not isinstance(arys[0], (Array, np.ndarray)) and isinstance(arys[0], (list, tuple)):
        raise TypeError(f"{name} takes arrays and numbers, got {arys[0]!r:.100}; convert it with jnp.array first")
    out = [change(x, shape_of(x)) for x in (as_array(name, a, i) for i, a in enumerate(arys))]
    return out[0] if len(out) == 1 else out


# Joining


def concatenate(arrays: Any, axis: int | None = 0, dtype: Any = None) -> Any:
    """The arrays joined along an axis (flattened, if it is None)."""
    return _join("concatenate", one_sequence_of("concatenate", arrays), axis, dtype)


def _join(name: str, arrays: Sequence[Any], axis: int | None, dtype: Any) -> Any:
    if not len(arrays):
        raise ValueError(f"{name}: need at least one array to concatenate")
    values = [as_array(name, x, i) for i, x in enumerate(arrays)]
    if axis is None:
        values, axis = [ravel(v) for v in values], 0
    rank = len(shape_of(values[0]))
    if rank == 0:
        raise ValueError(f"{name}: zero-dimensional arrays cannot be concatenated")
    i = axis_index(name, axis, rank)
    for v in values[1:]:
        s, first = shape_of(v), shape_of(values[0])
        if len(s) != rank or s[:i] != first[:i] or s[i + 1 :] != first[i + 1 :]:
            raise TypeError(
                f"{name}: the arrays must have equal shapes but for axis {i}, got {', '.join(str(shape_of(w)) for w in values)}"
            )
    if dtype is not None:
        target = canonical_dtype(name, dtype)
        values = [to_dtype(v, target) for v in values]
    else:
        values, target, weak = promote_values(values)
    return values[0] if len(values) == 1 else ops.concatenate(values, i)


def concat(arrays: Any, /, *, axis: int | None = 0) -> Any:
    """The arrays joined along an axis."""
    return concatenate(arrays, axis)


def stack(arrays: Any, axis: int = 0, out: None = None, dtype: Any = None) -> Any:
    """The arrays, of equal shapes, joined along a new axis."""
    if out is not None:
        raise NotImplementedError("stack: the argument out= is not supported, since arrays are immutable; use the returned array")
    arrays = one_sequence_of("stack", arrays)
    if not len(arrays):
        raise ValueError("stack: need at least one array to stack")
    values = [as_array("stack", x, i) for i, x in enumerate(arrays)]
    shapes = [shape_of(v) for v in values]
    if any(s != shapes[0] for s in shapes):
        raise ValueError(f"stack: all input arrays must have the same shape, got {', '.join(map(str, shapes))}")
    i = axis_index("stack", axis, len(shapes[0]) + 1)
    expanded = shapes[0][:i] + (1,) + shapes[0][i:]
    return _join("stack", [ops.reshape(v, expanded) for v in values], i, dtype)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """The sub-arrays along an axis, as a tuple."""
    x = as_array("unstack", x)
    s = shape_of(x)
    if not s:
        raise ValueError("unstack requires arrays with rank > 0, however a scalar array was passed.")
    i = axis_index("unstack", axis, len(s))
    return tuple([reshape_to(ops.slice_in_dim(x, k, k + 1, 1, i), s[:i] + s[i + 1 :]) for k in range(s[i])])


def vstack(tup: Any, dtype: Any = None) -> Any:
    """Rows, or blocks of rows, on top of each other."""
    arrays = [atleast_2d(_element("vstack", x)) for x in one_sequence_of("vstack", tup)]
    return _join("vstack", arrays, 0, dtype)


def hstack(tup: Any, dtype: Any = None) -> Any:
    """Arrays side by side: along the second axis, the first of one-dimensional ones."""
    arrays = [atleast_1d(_element("hstack", x)) for x in one_sequence_of("hstack", tup)]
    return _join("hstack", arrays, 0 if arrays and len(shape_of(arrays[0])) == 1 else 1, dtype)


def dstack(tup: Any, dtype: Any = None) -> Any:
    """Arrays behind each other: along the third axis."""
    return _join("dstack", [atleast_3d(_element("dstack", x)) for x in one_sequence_of("dstack", tup)], 2, dtype)


def column_stack(tup: Any) -> Any:
    """Vectors as columns of a matrix."""
    arrays = [_element("column_stack", x) for x in one_sequence_of("column_stack", tup)]
    return _join("column_stack", [x if len(shape_of(x)) >= 2 else reshape(x, (-1, 1)) for x in arrays], 1, None)


def _element(name: str, x: Any) -> Any:
    return as_array(name, x)


def append(arr: Any, values: Any, axis: int | None = None) -> Any:
    """`arr` followed by `values`, both flattened if no axis is given."""
    arr, values = as_array("append", arr, "arr"), as_array("append", values, "values")
    return concatenate([arr, values], axis) if axis is not None else concatenate([ravel(arr), ravel(values)], 0)


def block(arrays: Any) -> Any:
    """An array from nested lists of blocks."""

    def depth(x: Any) -> int:
        return 1 + max((depth(y) for y in x), default=0) if isinstance(x, list) else 0

    def ranks(x: Any) -> int:
        return max((ranks(y) for y in x), default=0) if isinstance(x, list) else len(shape_of(as_array("block", x)))

    levels = depth(arrays)
    rank = max(levels, ranks(arrays), 1 if levels else ranks(arrays))

    def build(x: Any, level: int) -> Any:
        if isinstance(x, tuple):
            raise TypeError("block: tuples are not blocks; use lists")
        if isinstance(x, list):
            if not x:
                raise ValueError("block: empty lists are not blocks")
            return concatenate([build(y, level + 1) for y in x], axis=rank - levels + level)
        x = as_array("block", x)
        return reshape_to(x, (1,) * (rank - len(shape_of(x))) + shape_of(x))

    return build(arrays, 0)


# Splitting


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """Parts of an array along an axis: a number of equal ones, or cut at indices."""
    return _split("split", ary, indices_or_sections, axis)


def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """As `split`, but sections may differ in size by one."""
    return _split("array_split", ary, indices_or_sections, axis, uneven=True)


def _split(name: str, ary: Any, where: Any, axis: int, uneven: bool = False) -> list[Any]:
    ary = as_array(name, ary, "ary")
    s = shape_of(ary)
    i = axis_index(name, axis, len(s))
    n = s[i]
    if isinstance(where, (tuple, list)) or isinstance(where, (np.ndarray, Array)) and where.ndim:
        if isinstance(where, (tuple, list)):
            cuts = [static_int(name, c, "indices_or_sections") for c in where]
        else:
            cuts = concrete(name, where, "indices_or_sections").tolist()
        bounds = [0, *[max(0, c + n) if c < 0 else min(c, n) for c in cuts], n]
    else:
        sections = static_int(name, where, "indices_or_sections")
        if sections <= 0:
            raise ValueError(f"{name}: the number of sections must be positive, got {sections}")
        small, larger = divmod(n, sections)
        if larger and not uneven:
            raise ValueError(f"array split does not result in an equal division: axis {i} of size {n} into {sections} parts")
        bounds = [k * small + min(k, larger) for k in range(sections + 1)]
    return [ops.slice_in_dim(ary, lo, max(lo, hi), 1, i) if (lo, hi) != (0, n) else ary for lo, hi in zip(bounds, bounds[1:])]


def vsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """`split` along the first axis."""
    return _split("vsplit", ary, indices_or_sections, 0)


def hsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """`split` along the second axis, the first of one-dimensional arrays."""
    ary = as_array("hsplit", ary, "ary")
    return _split("hsplit", ary, indices_or_sections, 0 if len(shape_of(ary)) == 1 else 1)


def dsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """`split` along the third axis."""
    return _split("dsplit", ary, indices_or_sections, 2)


# Repeating and turning


def tile(A: Any, reps: Any) -> Any:
    """The array repeated `reps` times along each axis."""
    A = as_array("tile", A, "A")
    times = tuple(static_int("tile", r, "reps") for r in reps) if isinstance(reps, (tuple, list, np.ndarray)) else None
    times = (static_int("tile", reps, "reps"),) if times is None else times
    s = shape_of(A)
    rank = max(len(s), len(times))
    s, times = (1,) * (rank - len(s)) + s, (1,) * (rank - len(times)) + times
    if all(t == 1 for t in times):
        return reshape_to(A, s)
    spread = tuple(d for pair in zip(times, s) for d in pair)
    wide = ops.broadcast_in_dim(reshape_to(A, s), spread, range(1, 2 * rank, 2))
    return ops.reshape(wide, tuple(t * d for t, d in zip(times, s)))


def repeat(
    a: Any, repeats: Any, axis: int | None = None, *, total_repeat_length: int | None = None, out_sharding: Any = None
) -> Any:
    """Each element repeated; `total_repeat_length` makes traced `repeats` possible."""
    a = as_array("repeat", a, "a")
    if axis is None:
        a, i = ravel(a), 0
    else:
        if not shape_of(a):
            a = reshape_to(a, (1,))
        i = axis_index("repeat", axis, len(shape_of(a)))
    s = shape_of(a)
    if isinstance(repeats, (list, tuple)):
        repeats = asarray(repeats)
    repeats = as_value("repeat", repeats, "repeats")
    if total_repeat_length is None:
        hint = "Give total_repeat_length=, or make repeats a static argument."
        counts = concrete("repeat", repeats, "repeats", hint)
        if counts.dtype.kind not in "iub":
            raise TypeError(f"repeat: repeats must be integers, got {counts.dtype}")
        if counts.size == 1:
            n = int(counts.reshape(()))
            if n < 0:
                raise ValueError(f"repeat: repeats may not contain negative values, got {n}")
            wide = ops.broadcast_in_dim(a, s[: i + 1] + (n,) + s[i + 1 :], [d + (d > i) for d in range(len(s))])
            return ops.reshape(wide, s[:i] + (s[i] * n,) + s[i + 1 :])
        if counts.shape != (s[i],):
            raise ValueError(f"repeat: repeats of shape {counts.shape} do not match axis {i} of an array of shape {s}")
        return take_positions(a, np.repeat(np.arange(s[i], dtype=np.int32), counts), i)
    from tracegrad.numpy.reductions import cumsum
    from tracegrad.numpy.searching import searchsorted

    length = static_int("repeat", total_repeat_length, "total_repeat_length")
    counts = broadcast_to(ravel(as_array("repeat", repeats)), (s[i],)) if shape_of(repeats) != (s[i],) else repeats
    ends = cumsum(counts)
    positions = searchsorted(ends, ops.iota(type_of(ends).dtype, length), side="right")
    return take_positions(a, positions, i)


def take_positions(x: Any, positions: Any, axis: int) -> Any:
    """The sub-arrays at nonnegative positions along an axis; a position past the end means the last."""
    s = shape_of(x)
    p = shape_of(positions)
    column = ops.reshape(positions, (*p, 1)) if isinstance(positions, Array) else asarray(positions.reshape(*p, 1))
    offsets = [d for d in range(len(s) - 1 + len(p)) if not axis <= d < axis + len(p)]
    return ops.gather(
        x,
        column,
        offset_dims=offsets,
        collapsed_slice_dims=(axis,),
        start_index_map=(axis,),
        slice_sizes=s[:axis] + (1,) + s[axis + 1 :],
        mode="clip",
    )


def flip(m: Any, axis: Any = None) -> Any:
    """The elements in reverse order along axes, all by default."""
    m = as_array("flip", m, "m")
    axes = axis_indices("flip", axis, len(shape_of(m)))
    return ops.rev(m, axes) if axes else m


def flipud(m: Any) -> Any:
    """The array upside down."""
    return flip(m, 0)


def fliplr(m: Any) -> Any:
    """The array mirrored left to right."""
    return flip(m, 1)


def rot90(m: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Any:
    """The array turned by k right angles in the plane of two axes."""
    m = as_array("rot90", m, "m")
    i, j = axis_indices("rot90", tuple(axes), len(shape_of(m)), "axes")
    k %= 4
    if k == 0:
        return m
    if k == 2:
        return flip(m, (i, j))
    order = list(range(len(shape_of(m))))
    order[i], order[j] = j, i
    return ops.transpose(flip(m, j), order) if k == 1 else flip(ops.transpose(m, order), j)


def roll(a: Any, shift: Any, axis: Any = None) -> Any:
    """The elements shifted along axes; those that leave at one end come in at the other."""
    a = as_array("roll", a, "a")
    if axis is None:
        return reshape_to(roll(ravel(a), shift, 0), shape_of(a))
    s = shape_of(a)
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(axis_index("roll", x, len(s)) for x in axes)
    shifts = shift if isinstance(shift, (tuple, list)) else None
    if shifts is None:
        value = as_value("roll", shift, "shift")
        if not shape_of(value):
            shifts = [value] * len(axes)
        else:
            shifts = [value[i] for i in range(shape_of(value)[0])]
    if len(axes) == 1 and len(shifts) > 1:
        axes = axes * len(shifts)
    if len(shifts) == 1:
        shifts = list(shifts) * len(axes)
    if len(shifts) != len(axes):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for n, i in zip(shifts, axes):
        a = _roll_one(a, n, i)
    return a


def _roll_one(a: Any, n: Any, i: int) -> Any:
    size = shape_of(a)[i]
    if size == 0:
        return a
    if not isinstance(n, Tracer):
        cut = -static_int("roll", n, "shift") % size
        if cut == 0:
            return a
        return ops.concatenate([ops.slice_in_dim(a, cut, size, 1, i), ops.slice_in_dim(a, 0, cut, 1, i)], i)
    from tracegrad.numpy.elementwise import negative, remainder

    start = remainder(negative(n), size)
    return ops.dynamic_slice_in_dim(ops.concatenate([a, a], i), start, size, i)


def resize(a: Any, new_shape: Any) -> Any:
    """The elements, repeated as often as needed, under a new shape."""
    a = ravel(as_array("resize", a, "a"))
    new = canonical_shape("resize", new_shape)
    total, own = math.prod(new), shape_of(a)[0]
    if total == 0 or own == 0:
        from tracegrad.numpy.creation import zeros

        return zeros(new, type_of(a).dtype)
    return ops.reshape(ops.slice_in_dim(tile(a, -(-total // own)), 0, total), new)


def astype(x: Any, dtype: Any, /, *, copy: bool = False, device: Any = None) -> Any:
    """`x` converted to a dtype; a complex number loses its imaginary part, a float is truncated."""
    x = as_array("astype", x)
    dtype = canonical_dtype("astype", float if dtype is None else dtype)
    t = type_of(x)
    if is_key(t.dtype) != is_key(dtype):
        raise TypeError(f"astype: cannot convert {t.dtype} to {dtype}")
    return to_dtype(x, dtype)
