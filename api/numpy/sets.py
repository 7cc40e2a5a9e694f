"""Arrays as sets: unique elements and set operations.

How many elements a result has depends on values: without `size` they must be known. With `size`, results are cut or padded to it.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.numpy.creation import asarray
from tracegrad.numpy.promotion import as_array, axis_index, concrete, promote, shape_of, stage, static_int, to_dtype
from tracegrad.numpy.shape import concatenate, moveaxis, ravel, reshape_to, take_positions

_HINT = "The size of the result depends on the values. Give size= (and fill_value=) for one known when compiling."

UniqueAll = namedtuple("UniqueAll", ["values", "indices", "inverse_indices", "counts"])
UniqueCounts = namedtuple("UniqueCounts", ["values", "counts"])
UniqueInverse = namedtuple("UniqueInverse", ["values", "inverse_indices"])


def unique(
    ar: Any,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    *,
    equal_nan: bool = True,
    size: int | None = None,
    fill_value: Any = None,
    sorted: bool = True,
) -> Any:
    """The distinct elements in order (or sub-arrays along an axis), with their first indices, inverse and counts if asked."""
    ar = as_array("unique", ar, "ar")
    if axis is None:
        original, lines, axis = shape_of(ar), ravel(ar), None
    else:
        axis = axis_index("unique", axis, len(shape_of(ar)))
        original, lines = (shape_of(ar)[axis],), moveaxis(ar, axis, 0)
    if size is None:
        known = concrete("unique", lines, "ar", _HINT)
        found = list(
            np.unique(known, True, True, True, axis=None if axis is None else 0, equal_nan=equal_nan)
            if known.dtype.kind != "V"
            else np.unique(known.astype(np.float32), True, True, True, axis=None if axis is None else 0, equal_nan=equal_nan)
        )
        values = stage(np.asarray(found[0]).astype(known.dtype))
        index_dtype = dtypes.int_dtype()
        inverse = np.asarray(found[2]).reshape(original)
        others = [stage(np.asarray(v).astype(index_dtype)) for v in (found[1], inverse, found[3])]
    else:
        placed = return_index or return_inverse
        values, others = _unique_of_size(lines, static_int("unique", size, "size"), fill_value, equal_nan, original, placed)
    if axis is not None:
        values = moveaxis(values, 0, axis)
    asked = [v for v, wanted in zip(others, (return_index, return_inverse, return_counts)) if wanted]
    return (values, *asked) if asked else values


def _unique_of_size(
    lines: Any, size: int, fill_value: Any, equal_nan: bool, original: tuple[int, ...], placed: bool
) -> tuple[Any, list[Any]]:
    """Values, and first indices, inverse and counts; unless `placed`, the first two may be None."""
    n, rest = shape_of(lines)[0], shape_of(lines)[1:]
    int_dtype = dtypes.int_dtype()
    dtype = type_of(lines).dtype
    if n == 0:
        from tracegrad.numpy.creation import full, zeros

        fill = 0 if fill_value is None else fill_value
        return full((size, *rest), fill, dtype), [zeros(size, int_dtype), zeros(original, int_dtype), zeros(size, int_dtype)]
    flat = reshape_to(lines, (n, int(np.prod(rest)))) if rest else reshape_to(lines, (n, 1))
    columns = [reshape_to(ops.slice_in_dim(flat, j, j + 1, 1, 1), (n,)) for j in range(shape_of(flat)[1])]
    placed = placed or len(columns) > 1 or dtype.kind == "c"
    if placed:
        *ordered, permutation = ops.sort(*columns, ops.iota(int_dtype, n), dimension=0, num_keys=len(columns))
    else:  # numbers sort several times as fast alone
        ordered, permutation = list(ops.sort(*columns, dimension=0)), None
    new = None
    for c in ordered:
        before, after = ops.slice_in_dim(c, 0, n - 1), ops.slice_in_dim(c, 1, n)
        differs = ops.ne(before, after)
        if equal_nan and dtype.kind in "fcV":
            differs = ops.bitwise_and(differs, ops.bitwise_not(ops.bitwise_and(ops.ne(before, before), ops.ne(after, after))))
        new = differs if new is None else ops.bitwise_or(new, differs)
    starts = ops.concatenate([ops.broadcast_in_dim(np.bool_(True), (1,), ()), new], 0)
    group = ops.sub(ops.cumsum(ops.convert_element_type(starts, int_dtype), 0), int_dtype.type(1))
    from tracegrad.numpy.searching import nonzero
    from tracegrad.numpy.selection import where

    (bounds,) = nonzero(starts, size=size + 1, fill_value=n)
    first, ends = ops.slice_in_dim(bounds, 0, size), ops.slice_in_dim(bounds, 1, size + 1)
    present = ops.lt(first, int_dtype.type(n))
    indices = take_positions(permutation, first, 0) if placed else None
    values = take_positions(lines, indices, 0) if placed else reshape_to(take_positions(ordered[0], first, 0), (size, *rest))
    mask = reshape_to(present, (size,) + (1,) * len(rest))
    fill = values[:1] if fill_value is None else to_dtype(as_array("unique", fill_value), dtype)
    # what is missing repeats the least element, which is the first
    values = where(mask, values, fill)
    if fill_value is None and placed:
        indices = where(present, indices, take_positions(permutation, first, 0)[:1]) if size else indices
    counts = where(present, ops.sub(ends, first), int_dtype.type(0)) if size else first
    if not placed:
        return values, [None, None, counts]
    inverse = ops.scatter(
        ops.broadcast_in_dim(int_dtype.type(0), (n,), ()),
        reshape_to(permutation, (n, 1)),
        group,
        update_window_dims=(),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0,),
        mode="promise_in_bounds",
        unique_indices=True,
    )
    return values, [indices, reshape_to(inverse, original), counts]


def unique_all(x: Any, /, *, size: int | None = None, fill_value: Any = None) -> UniqueAll:
    """The distinct elements, their first indices, the inverse and counts."""
    return UniqueAll(*unique(x, True, True, True, equal_nan=False, size=size, fill_value=fill_value))


def unique_counts(x: Any, /, *, size: int | None = None, fill_value: Any = None) -> UniqueCounts:
    """The distinct elements and their counts."""
    return UniqueCounts(*unique(x, return_counts=True, equal_nan=False, size=size, fill_value=fill_value))


def unique_inverse(x: Any, /, *, size: int | None = None, fill_value: Any = None) -> UniqueInverse:
    """The distinct elements and the indices that rebuild the array from them."""
    return UniqueInverse(*unique(x, return_inverse=True, equal_nan=False, size=size, fill_value=fill_value))


def unique_values(x: Any, /, *, size: int | None = None, fill_value: Any = None) -> Any:
    """The distinct elements."""
    return unique(x, equal_nan=False, size=size, fill_value=fill_value)


def _two(name: str, ar1: Any, ar2: Any) -> tuple[Any, Any]:
    a, b = promote(name, as_array(name, asarray(ar1)), as_array(name, asarray(ar2)))
    return ravel(a), ravel(b)


def union1d(ar1: Any, ar2: Any, *, size: int | None = None, fill_value: Any = None) -> Any:
    """The distinct elements of both."""
    a, b = _two("union1d", ar1, ar2)
    return unique(concatenate([a, b]), size=size, fill_value=fill_value)


def setdiff1d(ar1: Any, ar2: Any, assume_unique: bool = False, *, size: int | None = None, fill_value: Any = None) -> Any:
    """The distinct elements of the first that are not in the second."""
    dtype = type_of(asarray(ar1)).dtype
    a, b = _two("setdiff1d", ar1, ar2)
    if size is None:
        found = np.setdiff1d(concrete("setdiff1d", a, "ar1", _HINT), concrete("setdiff1d", b, "ar2", _HINT), assume_unique)
        return stage(found.astype(dtype))
    from tracegrad.numpy.searching import isin

    return to_dtype(_select(a, isin(a, b, invert=True), size, fill_value, not assume_unique), dtype)


def _select(a: Any, mask: Any, size: int, fill_value: Any, distinct: bool) -> Any:
    """The (distinct) elements where the mask holds, in a result of a known size."""
    from tracegrad.numpy.searching import nonzero
    from tracegrad.numpy.selection import where

    dtype = type_of(a).dtype
    fill = to_dtype(as_array("sets", 0 if fill_value is None else fill_value), dtype)
    n = shape_of(a)[0]
    if n == 0:
        return ops.broadcast_in_dim(fill, (size,), ())
    if distinct:
        a, order = ops.sort(a, ops.convert_element_type(ops.bitwise_not(mask), np.dtype(np.int32)), dimension=0, num_keys=2)
        mask = ops.eq(order, np.int32(0))
        different = ops.ne(ops.slice_in_dim(a, 1, n), ops.slice_in_dim(a, 0, n - 1))
        mask = ops.bitwise_and(mask, ops.concatenate([ops.broadcast_in_dim(np.bool_(True), (1,), ()), different], 0))
    (found,) = nonzero(mask, size=size, fill_value=n)
    return where(ops.lt(found, type_of(found).dtype.type(n)), take_positions(a, found, 0), fill)


def intersect1d(
    ar1: Any,
    ar2: Any,
    assume_unique: bool = False,
    return_indices: bool = False,
    *,
    size: int | None = None,
    fill_value: Any = None,
) -> Any:
    """The distinct elements that are in both, with their first indices if asked."""
    a, b = _two("intersect1d", ar1, ar2)
    if size is None:
        known = [concrete("intersect1d", v, f"ar{k}", _HINT) for k, v in ((1, a), (2, b))]
        intersect: Any = np.intersect1d
        found = intersect(*known, assume_unique=assume_unique, return_indices=return_indices)
        if return_indices:
            return (stage(found[0]), *[stage(v.astype(dtypes.int_dtype())) for v in found[1:]])
        return stage(found)
    from tracegrad.numpy.searching import isin, searchsorted
    from tracegrad.numpy.selection import where

    common = _select(a, isin(a, b), size, fill_value, True)
    if not return_indices:
        return common
    out = [common]
    for v in (a, b):
        ordered, order = ops.sort(v, ops.iota(dtypes.int_dtype(), shape_of(v)[0]), dimension=0, num_keys=1)
        place = searchsorted(ordered, common)
        index = take_positions(order, place, 0)
        there = ops.eq(take_positions(ordered, place, 0), common)
        out.append(where(there, index, type_of(index).dtype.type(shape_of(v)[0])))
    return tuple(out)


def setxor1d(ar1: Any, ar2: Any, assume_unique: bool = False, *, size: int | None = None, fill_value: Any = None) -> Any:
    """The distinct elements that are in exactly one of them."""
    a, b = _two("setxor1d", ar1, ar2)
    if size is None:
        return stage(np.setxor1d(concrete("setxor1d", a, "ar1", _HINT), concrete("setxor1d", b, "ar2", _HINT), assume_unique))
    from tracegrad.numpy.searching import isin

    mask = concatenate([isin(a, b, invert=True), isin(b, a, invert=True)])
    return _select(concatenate([a, b]), mask, size, fill_value, True)
