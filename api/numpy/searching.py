"""Finding elements: nonzero, searchsorted, digitize, membership, counting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.config import config
from tracegrad.numpy.creation import asarray, filled
from tracegrad.numpy.logic import truth
from tracegrad.numpy.promotion import (
    BOOL,
    as_array,
    concrete,
    inexact_dtype,
    promote,
    shape_of,
    stage,
    static_int,
    to_dtype,
)
from tracegrad.numpy.shape import ravel, reshape_to
from tracegrad.tracer.tracer import Tracer

_SIZE_HINT = "The size of the result depends on the values. Give size= (and fill_value=) for one known when compiling."


def nonzero(a: Any, *, size: int | None = None, fill_value: Any = None) -> tuple[Any, ...]:
    """The indices of the elements that are not zero; `size` of them, padded with `fill_value` (0), if given."""
    return _nonzero("nonzero", a, size, fill_value)


def _nonzero(name: str, a: Any, size: Any, fill_value: Any) -> tuple[Any, ...]:
    a = as_array(name, a, "a")
    shape = shape_of(a)
    if not shape:
        raise ValueError(f"Calling {name} on 0d arrays is not allowed. Use jnp.atleast_1d(array).{name}() instead.")
    index_dtype = dtypes.int_dtype()
    if size is None:
        known = concrete(name, a, "a", _SIZE_HINT)
        return tuple([stage(i.astype(index_dtype)) for i in np.nonzero(known)])
    size = static_int(name, size, "size")
    fills = _fills(name, fill_value, len(shape))
    mask = ravel(as_array(name, truth(name, a)))
    total = math.prod(shape)
    if total == 0 or size == 0:
        return tuple(
            [filled(name, (size,), f, index_dtype) if np.ndim(f) == 0 and not isinstance(f, Tracer) else f for f in fills]
        )
    flat, count = ops.nonzero(mask, size)
    beyond = ops.ge(ops.iota(type_of(count).dtype, size), count)
    out = []
    rest = flat
    for d in range(len(shape) - 1, -1, -1):
        n = type_of(count).dtype.type(shape[d])
        part, rest = (ops.rem(rest, n), ops.div(rest, n)) if d else (rest, rest)
        fill = to_dtype(as_array(name, fills[d]), index_dtype)
        out.append(ops.select(beyond, fill, to_dtype(part, index_dtype)))
    return tuple(out[::-1])


def _fills(name: str, fill_value: Any, rank: int) -> list[Any]:
    if fill_value is None:
        return [0] * rank
    if isinstance(fill_value, tuple):
        if len(fill_value) != rank:
            raise ValueError(f"{name}: fill_value must have an entry for each of the {rank} dimensions, got {len(fill_value)}")
        return list(fill_value)
    value = asarray(fill_value)
    if not shape_of(value):
        return [value] * rank if isinstance(value, Tracer) else [int(value)] * rank
    return [value[i] for i in range(rank)]


def flatnonzero(a: Any, *, size: int | None = None, fill_value: Any = None) -> Any:
    """The flat indices of the elements that are not zero."""
    return nonzero(ravel(as_array("flatnonzero", a)), size=size, fill_value=fill_value)[0]


def argwhere(a: Any, *, size: int | None = None, fill_value: Any = None) -> Any:
    """The indices of the elements that are not zero, as rows."""
    a = as_array("argwhere", a, "a")
    rank = len(shape_of(a))
    if rank == 0:
        count = size if size is not None else int(bool(concrete("argwhere", a, "a", _SIZE_HINT)))
        return filled("argwhere", (count, 0), 0, dtypes.int_dtype())
    columns = _nonzero("argwhere", a, size, fill_value)
    n = shape_of(columns[0])[0]
    return ops.concatenate([ops.reshape(c, (n, 1)) for c in columns], 1)


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None, *, method: str = "scan") -> Any:
    """The positions in the sorted array `a` at which `v` would be inserted to keep it sorted."""
    if side not in ("left", "right"):
        raise ValueError(f"{side!r} is an invalid value for keyword 'side'. Expected one of ['left', 'right'].")
    if method not in ("scan", "scan_unrolled", "sort", "compare_all"):
        raise ValueError(f"{method!r} is an invalid value for keyword 'method'.")
    a, v = promote("searchsorted", a, v)
    a, v = as_array("searchsorted", a, "a"), as_array("searchsorted", v, "v")
    if len(shape_of(a)) != 1:
        raise ValueError(f"a should be 1-dimensional, got shape {shape_of(a)}")
    if sorter is not None:
        a = a[sorter]
    n = shape_of(a)[0]
    dtype = np.dtype(np.int32 if n <= 2**31 - 1 else np.int64)
    shape = shape_of(v)
    if n == 0:
        return filled("searchsorted", shape, 0, dtype)
    if type_of(a).dtype.kind != "c":
        return ops.searchsorted(a, v, side)
    flat = ravel(v)
    if method == "compare_all" or n <= 8:
        return reshape_to(_count_before(a, flat, side, dtype), shape)
    return reshape_to(_bisect(a, flat, side, dtype), shape)


def _precedes(x: Any, y: Any, side: str) -> Any:
    """Whether a complex number x goes before the place where y is inserted."""
    from tracegrad.numpy.elementwise import less, less_equal

    return less(x, y) if side == "left" else less_equal(x, y)


def _count_before(a: Any, flat: Any, side: str, dtype: Any) -> Any:
    m, n = shape_of(flat)[0], shape_of(a)[0]
    before = _precedes(ops.broadcast_in_dim(a, (m, n), (1,)), ops.broadcast_in_dim(flat, (m, n), (0,)), side)
    return ops.reduce_sum(ops.convert_element_type(before, dtype), (1,))


def _bisect(a: Any, flat: Any, side: str, dtype: Any) -> Any:
    """Binary search for all values at once, unrolled: its number of steps is known."""
    n, m = shape_of(a)[0], shape_of(flat)[0]
    steps = n.bit_length()
    low = ops.broadcast_in_dim(dtype.type(0), (m,), ())
    span = 1 << (steps - 1)
    while span:
        # advance by `span` where the element just before the new position still goes first
        candidate = ops.add(low, dtype.type(span))
        inside = ops.le(candidate, dtype.type(n))
        position = ops.sub(candidate, dtype.type(1))
        element = ops.gather(
            a,
            ops.reshape(position, (m, 1)),
            offset_dims=(),
            collapsed_slice_dims=(0,),
            start_index_map=(0,),
            slice_sizes=(1,),
            mode="clip",
        )
        low = ops.select(ops.bitwise_and(inside, _precedes(element, flat, side)), candidate, low)
        span >>= 1
    return low


def digitize(x: Any, bins: Any, right: bool = False, *, method: str | None = None) -> Any:
    """The number of the bin that each value falls into; bins are bounded by a monotonic sequence."""
    x, bins = as_array("digitize", x, "x"), as_array("digitize", bins, "bins")
    if len(shape_of(bins)) != 1:
        raise ValueError(f"digitize: bins must be a 1-dimensional array, got shape {shape_of(bins)}")
    n = shape_of(bins)[0]
    if n == 0:
        return filled("digitize", shape_of(x), 0, np.dtype(np.int32))
    side = "left" if right else "right"
    if n == 1:
        return searchsorted(bins, x, side=side)
    ascends = ops.ge(bins[-1], bins[0])
    found = searchsorted(ops.select(ascends, bins, bins[::-1]), x, side=side)
    return ops.select(ascends, found, ops.sub(type_of(found).dtype.type(n), found))


def isin(element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False, *, method: str = "auto") -> Any:
    """Whether each element occurs among the test elements."""
    element, tests = promote("isin", element, test_elements)
    element, tests = as_array("isin", element), ravel(as_array("isin", tests))
    shape, n = shape_of(element), shape_of(tests)[0]
    if n == 0:
        return filled("isin", shape, bool(invert), BOOL)
    if n * math.prod(shape) <= 4096 or type_of(element).dtype.kind in "cb":
        wide = ops.broadcast_in_dim(ops.reshape(element, (*shape, 1)), (*shape, n), range(len(shape) + 1))
        out = ops.reduce_or(ops.eq(wide, ops.broadcast_in_dim(tests, (*shape, n), (len(shape),))), (len(shape),))
    else:
        (ordered,) = ops.sort(tests, dimension=0)
        position = searchsorted(ordered, element)
        from tracegrad.numpy.shape import take_positions

        out = ops.eq(take_positions(ordered, position, 0), element)
    return ops.bitwise_not(out) if invert else out


def bincount(x: Any, weights: Any = None, minlength: int = 0, *, length: int | None = None, out_sharding: Any = None) -> Any:
    """How often each nonnegative integer occurs; the sum of its weights, if given."""
    x = as_array("bincount", x, "x")
    if type_of(x).dtype.kind not in "iub":
        raise TypeError(f"bincount: x argument must have an integer type; got {type_of(x).dtype}")
    if len(shape_of(x)) != 1:
        raise ValueError("only 1-dimensional input supported.")
    minlength = static_int("bincount", minlength, "minlength")
    if length is None:
        known = concrete("bincount", x, "x", "Give length= for a size known when compiling.")
        length = max(minlength, int(known.max()) + 1 if known.size else 0)
    else:
        length = static_int("bincount", length, "length")
    if length < 0:
        raise ValueError(f"'minlength' and 'length' must not be negative, got {length}")
    if weights is None:
        weights = asarray(np.int32(1)) if not config.enable_x64 else asarray(np.int64(1))
    elif shape_of(x) != shape_of(weights):
        raise ValueError("shape of weights must match shape of x.")
    from tracegrad.numpy.creation import zeros
    from tracegrad.numpy.indexing import update
    from tracegrad.numpy.selection import clip

    x = to_dtype(x, np.dtype(np.int32)) if type_of(x).dtype == BOOL else x
    return update(zeros(length, type_of(weights).dtype), clip(x, 0, None), weights, "add", None, False, True, "bincount")


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    """Whether two arrays have the same shape and elements."""
    a1, a2 = asarray(a1), asarray(a2)
    if shape_of(a1) != shape_of(a2):
        return as_array("array_equal", np.bool_(False))
    return _all_equal(a1, a2, equal_nan)


def array_equiv(a1: Any, a2: Any) -> Any:
    """Whether two arrays have the same elements once broadcast."""
    a1, a2 = asarray(a1), asarray(a2)
    try:
        np.broadcast_shapes(shape_of(a1), shape_of(a2))
    except ValueError:
        return as_array("array_equiv", np.bool_(False))
    return _all_equal(a1, a2, False)


def _all_equal(a: Any, b: Any, equal_nan: bool) -> Any:
    from tracegrad.numpy.elementwise import equal, isnan, logical_and, logical_or
    from tracegrad.numpy.reductions import all

    same = equal(a, b)
    if equal_nan:
        same = logical_or(same, logical_and(isnan(a), isnan(b)))
    return all(same)


def isclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Any:
    """Whether |a - b| <= atol + rtol * |b|, elementwise."""
    from tracegrad.numpy import elementwise as e

    a, b = promote("isclose", a, b)
    dtype = type_of(a).dtype
    if dtype == BOOL:
        a, b = (to_dtype(as_array("isclose", v), np.dtype(np.int32)) for v in (a, b))
        dtype = np.dtype(np.int32)
    if dtype.kind in "iu":
        a, b = (to_dtype(as_array("isclose", v), inexact_dtype("isclose", dtype)) for v in (a, b))
    close = e.less_equal(e.absolute(e.subtract(a, b)), e.add(atol, e.multiply(rtol, e.absolute(b))))
    if type_of(a).dtype.kind in "iub":
        return close
    # infinities are close to themselves only
    same = e.equal(a, b)
    out = e.logical_or(e.logical_and(close, e.logical_and(e.isfinite(a), e.isfinite(b))), same)
    if equal_nan:
        out = e.logical_or(out, e.logical_and(e.isnan(a), e.isnan(b)))
    return out


def allclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Any:
    """Whether all elements are close."""
    from tracegrad.numpy.reductions import all

    return all(isclose(a, b, rtol, atol, equal_nan))
