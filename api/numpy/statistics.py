"""Order statistics, covariance and histograms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.contractions import dot
from tracegrad.numpy.creation import asarray, linspace, zeros
from tracegrad.numpy.indexing import IndexUpdates
from tracegrad.numpy.makers import no_out
from tracegrad.numpy.promotion import (
    as_array,
    axis_indices,
    inexact_dtype,
    promote_inexact,
    shape_of,
    static_int,
    to_dtype,
)
from tracegrad.numpy.reductions import average
from tracegrad.numpy.reductions import max as _max
from tracegrad.numpy.reductions import min as _min
from tracegrad.numpy.reductions import sum as _sum
from tracegrad.numpy.searching import searchsorted
from tracegrad.numpy.selection import clip, where
from tracegrad.numpy.shape import concatenate, expand_dims, moveaxis, ravel, reshape_to

_range = range
_METHODS = ("linear", "lower", "higher", "midpoint", "nearest", "inverted_cdf")


def quantile(
    a: Any,
    q: Any,
    axis: Any = None,
    out: None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Any:
    """The quantiles q (in [0, 1]) along axes; NaN where there is a NaN."""
    return _quantile("quantile", a, q, axis, out, overwrite_input, method, keepdims, False, weights)


def nanquantile(
    a: Any,
    q: Any,
    axis: Any = None,
    out: None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Any:
    """`quantile` without the NaN."""
    return _quantile("nanquantile", a, q, axis, out, overwrite_input, method, keepdims, True, weights)


def percentile(
    a: Any,
    q: Any,
    axis: Any = None,
    out: None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
    out_sharding: Any = None,
) -> Any:
    """The percentiles q (in [0, 100]) along axes."""
    (q,) = promote_inexact("percentile", as_array("percentile", q, "q"))
    return quantile(a, e.divide(q, 100), axis, out, overwrite_input, method, keepdims, weights=weights)


def nanpercentile(
    a: Any,
    q: Any,
    axis: Any = None,
    out: None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Any:
    """`percentile` without the NaN."""
    (q,) = promote_inexact("nanpercentile", as_array("nanpercentile", q, "q"))
    return nanquantile(a, e.divide(q, 100), axis, out, overwrite_input, method, keepdims, weights=weights)


def median(a: Any, axis: Any = None, out: None = None, overwrite_input: bool = False, keepdims: bool = False) -> Any:
    """The median along axes."""
    return _quantile("median", a, 0.5, axis, out, overwrite_input, "midpoint", keepdims, False, None)


def nanmedian(a: Any, axis: Any = None, out: None = None, overwrite_input: bool = False, keepdims: bool = False) -> Any:
    """`median` without the NaN."""
    return _quantile("nanmedian", a, 0.5, axis, out, overwrite_input, "midpoint", keepdims, True, None)


def _quantile(
    name: str, a: Any, q: Any, axis: Any, out: None, overwrite: bool, method: str, keepdims: bool, skip_nan: bool, weights: Any
) -> Any:
    no_out(name, out)
    if overwrite:
        raise ValueError(f"jax.numpy.{name} does not support overwrite_input=True: arrays are immutable")
    if weights is not None and method != "inverted_cdf":
        raise ValueError(f"{name}: weights are supported by method='inverted_cdf' only, got {method!r}")
    if method not in _METHODS:
        raise ValueError(f"method can only be one of {', '.join(repr(m) for m in _METHODS)}; got {method!r}")
    (a,) = promote_inexact(name, as_array(name, a, "a"))
    q = to_dtype(as_array(name, q, "q"), type_of(a).dtype)
    if is_complex(type_of(a).dtype):
        raise ValueError(f"{name} does not support complex input, as the operation is poorly defined.")
    shape, q_shape = shape_of(a), shape_of(q)
    if len(q_shape) > 1:
        raise ValueError(f"q must be have rank <= 1, got shape {q_shape}")
    axes = tuple(sorted(axis_indices(name, axis, len(shape))))
    kept = [i for i in range(len(shape)) if i not in axes]
    count = math.prod(shape[i] for i in axes)
    lead = tuple([shape[i] for i in kept])
    lines = reshape_to(moveaxis(a, axes, tuple(range(len(kept), len(shape)))), (*lead, count))
    if weights is not None:
        weights = reshape_to(moveaxis(as_array(name, weights), axes, tuple(range(len(kept), len(shape)))), (*lead, count))
        result = _weighted(name, lines, q, weights)
    else:
        result = _of_lines(lines, q, method, skip_nan)
    # result: (..., q)
    if q_shape:
        result = moveaxis(result, -1, 0)
    else:
        result = reshape_to(result, lead)
    if keepdims:
        result = expand_dims(result, tuple([i + len(q_shape) for i in axes]))
    return result


def _of_lines(lines: Any, q: Any, method: str, skip_nan: bool) -> Any:
    """Quantiles of the last axis, in a last axis."""
    shape = shape_of(lines)
    n = shape[-1]
    dtype = type_of(lines).dtype
    last = len(shape) - 1
    q = ravel(q)
    m = shape_of(q)[0]
    wide = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    lead = shape[:-1]
    if n == 0:
        return ops.broadcast_in_dim(dtype.type(np.nan), (*lead, m), ())
    nan = ops.ne(lines, lines)
    if skip_nan:
        counts = ops.reduce_sum(ops.convert_element_type(ops.bitwise_not(nan), wide), (last,))
    else:
        poisoned = ops.broadcast_in_dim(ops.reduce_or(nan, (last,)), shape, range(last))
        lines = ops.select(poisoned, dtype.type(np.nan), lines)
    (ordered,) = ops.sort(lines, dimension=last)
    qs = ops.broadcast_in_dim(to_dtype(q, wide), (*lead, m), (last,))
    if skip_nan:
        top = ops.max(ops.sub(counts, wide.type(1)), wide.type(0))
        position = ops.mul(qs, ops.broadcast_in_dim(top, (*lead, m), range(last)))
    else:
        position = ops.mul(qs, wide.type(n - 1))
    low, high = ops.floor(position), ops.ceil(position)
    weight = ops.sub(position, low)

    def at(place: Any) -> Any:
        index = ops.clamp(np.int32(0), ops.convert_element_type(place, np.dtype(np.int32)), np.int32(n - 1))
        from tracegrad.numpy.selection import take_along_axis

        return take_along_axis(ordered, index, -1, mode="promise_in_bounds")

    if method == "lower":
        return at(low)
    if method == "higher":
        return at(high)
    if method == "nearest":
        return at(ops.round(position, 1))
    if method == "inverted_cdf":
        total = ops.broadcast_in_dim(counts, (*lead, m), range(last)) if skip_nan else wide.type(n)
        return at(ops.sub(ops.ceil(ops.mul(qs, total)), wide.type(1)))
    below, above = at(low), at(high)
    if method == "midpoint":
        return to_dtype(e.multiply(e.add(below, above), dtype.type(0.5)), dtype)
    below, above = to_dtype(below, wide), to_dtype(above, wide)
    # interpolation leaves equal infinities alone
    mixed = ops.add(ops.mul(below, ops.sub(wide.type(1), weight)), ops.mul(above, weight))
    return to_dtype(ops.select(ops.eq(below, above), below, mixed), dtype)


def _weighted(name: str, lines: Any, q: Any, weights: Any) -> Any:
    last = len(shape_of(lines)) - 1
    n = shape_of(lines)[-1]
    dtype = type_of(lines).dtype
    q = ravel(q)
    m = shape_of(q)[0]
    weights = to_dtype(weights, dtype)
    ordered, sorted_weights = ops.sort(lines, weights, dimension=last, num_keys=1)
    cumulative = ops.cumsum(sorted_weights, last)
    total = ops.reduce_sum(sorted_weights, (last,))
    lead = shape_of(lines)[:-1]
    wanted = ops.mul(ops.broadcast_in_dim(q, (*lead, m), (last,)), ops.broadcast_in_dim(total, (*lead, m), range(last)))
    wide = (*lead, m, n)
    before = ops.lt(
        ops.broadcast_in_dim(cumulative, wide, (*range(last), last + 1)), ops.broadcast_in_dim(wanted, wide, range(last + 1))
    )
    index = ops.reduce_sum(ops.convert_element_type(before, np.dtype(np.int32)), (last + 1,))
    from tracegrad.numpy.selection import take_along_axis

    return take_along_axis(ordered, ops.clamp(np.int32(0), index, np.int32(n - 1)), -1, mode="promise_in_bounds")


# Covariance


def cov(
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    dtype: Any = None,
) -> Any:
    """The covariance matrix of variables in rows (columns, unless `rowvar`)."""
    parts = [as_array("cov", m, "m")] + ([] if y is None else [as_array("cov", y, "y")])
    if any(len(shape_of(p)) > 2 for p in parts):
        raise ValueError("cov: m and y have more than 2 dimensions")
    if ddof is not None and ddof != int(ddof):
        raise ValueError("cov: ddof must be integer")
    parts = promote_inexact("cov", *parts)
    if dtype is not None:
        parts = [to_dtype(p, dtypes.canonicalize_dtype(dtype)) for p in parts]
    rows = []
    for p in parts:
        p = reshape_to(p, (1, math.prod(shape_of(p)))) if len(shape_of(p)) < 2 else p
        rows.append(p.T if not rowvar and len(shape_of(p)) == 2 and shape_of(p)[0] != 1 else p)
    x = concatenate(rows, 0) if len(rows) > 1 else rows[0]
    if shape_of(x)[0] == 0:
        return zeros((0, 0), type_of(x).dtype)
    ddof = (0 if bias else 1) if ddof is None else ddof
    w: Any = None
    if fweights is not None:
        w = as_array("cov", fweights, "fweights")
        if type_of(w).dtype.kind not in "iu":
            raise TypeError("cov: fweights must be integer.")
        w = e.abs(w)
    if aweights is not None:
        aw = e.abs(as_array("cov", aweights, "aweights"))
        w = aw if w is None else e.multiply(w, aw)
    center, total = average(x, axis=1, weights=w, returned=True)
    if w is None:
        factor: Any = shape_of(x)[1] - ddof
    elif aweights is None or ddof == 0:
        factor = e.subtract(total[0], ddof)
    else:
        factor = e.subtract(total[0], e.divide(e.multiply(ddof, _sum(e.multiply(w, aw))), total[0]))
    centered = e.subtract(x, center[:, None])
    weighted = centered if w is None else e.multiply(centered, w)
    product = dot(centered, e.conj(weighted.T))
    result = e.divide(product, factor)
    return reshape_to(result, ()) if shape_of(result) == (1, 1) else result


def corrcoef(x: Any, y: Any = None, rowvar: bool = True, dtype: Any = None) -> Any:
    """The matrix of correlation coefficients."""
    c = cov(x, y, rowvar, dtype=dtype)
    if not shape_of(c):
        return e.divide(c, c)
    from tracegrad.numpy.diagonals import diagonal

    deviation = e.sqrt(e.real(diagonal(c)))
    c = e.divide(e.divide(c, deviation[:, None]), deviation[None, :])
    if is_complex(type_of(c).dtype):
        return ops.complex(clip(e.real(c), -1, 1), clip(e.imag(c), -1, 1))
    return clip(c, -1, 1)


# Histograms


def histogram_bin_edges(a: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> Any:
    """The edges of a histogram's bins."""
    if isinstance(bins, str):
        raise NotImplementedError(
            "string values for `bins` not implemented; pass a number of bins or their edges, e.g. np.histogram_bin_edges(a, bins)"
        )
    a = ravel(as_array("histogram_bin_edges", a, "a"))
    dtype = type_of(a).dtype
    dtype = inexact_dtype("histogram_bin_edges", dtype)
    if np.ndim(bins) == 1 or isinstance(bins, (list, tuple)):
        return to_dtype(asarray(bins), dtype)
    n = static_int("histogram_bin_edges", bins, "bins")
    if range is None:
        low, high = (_min(a), _max(a)) if a.size else (asarray(0.0), asarray(1.0))
    else:
        low, high = asarray(range[0]), asarray(range[1])
    low, high = to_dtype(low, dtype), to_dtype(high, dtype)
    flat = e.equal(high, low)
    low, high = where(flat, e.subtract(low, 0.5), low), where(flat, e.add(high, 0.5), high)
    return linspace(low, high, n + 1, dtype=dtype)


def histogram(a: Any, bins: Any = 10, range: Any = None, weights: Any = None, density: bool | None = None) -> tuple[Any, Any]:
    """How many values (or how much weight) each bin holds, and the edges of bins."""
    (a,) = promote_inexact("histogram", ravel(as_array("histogram", a, "a")))
    if weights is not None and shape_of(as_array("histogram", weights)) and as_array("histogram", weights).size != a.size:
        raise ValueError("weights should have the same shape as a.")
    edges = histogram_bin_edges(a, bins, range, weights)
    n = shape_of(edges)[0] - 1
    place = searchsorted(edges, a, side="right")
    place = where(e.equal(a, edges[-1]), n, place)
    w = np.float32(1) if weights is None else ravel(as_array("histogram", weights))
    dtype = type_of(a).dtype if weights is None else type_of(w).dtype
    inside = e.logical_and(e.greater_equal(place, 1), e.less_equal(place, n))
    index = where(inside, e.subtract(place, 1), n)
    counts = IndexUpdates(zeros(n, dtype))[index].add(w if weights is not None else dtype.type(1), mode="drop")
    if density:
        widths = e.subtract(edges[1:], edges[:-1])
        counts = e.divide(e.divide(counts, _sum(counts)), widths)
    return counts, edges


def histogramdd(
    sample: Any, bins: Any = 10, range: Any = None, weights: Any = None, density: bool | None = None
) -> tuple[Any, list[Any]]:
    """The histogram of points in several dimensions, and the edges of bins in each."""
    if isinstance(sample, (list, tuple)):
        from tracegrad.numpy.shape import stack

        sample = stack([asarray(s) for s in sample], axis=-1)
    (sample,) = promote_inexact("histogramdd", as_array("histogramdd", sample))
    d = shape_of(sample)[1]
    if range is not None and len(range) != d:
        raise ValueError(f"For sample dimension {d}, range must have an entry for each dimension, got {range}.")
    per_axis = list(bins) if isinstance(bins, (list, tuple)) else [bins] * d
    if len(per_axis) != d:
        raise ValueError("should be a bin for each dimension.")
    edges = [histogram_bin_edges(sample[:, i], b, None if range is None else range[i], weights) for i, b in enumerate(per_axis)]
    sizes = [shape_of(x)[0] - 1 for x in edges]
    inside: Any = None
    flat: Any = 0
    for i, (x, n) in enumerate(zip(edges, sizes)):
        v = sample[:, i]
        place = where(e.equal(v, x[-1]), n, searchsorted(x, v, side="right"))
        ok = e.logical_and(e.greater_equal(place, 1), e.less_equal(place, n))
        inside = ok if inside is None else e.logical_and(inside, ok)
        flat = e.add(e.multiply(flat, n), e.subtract(place, 1))
    total = math.prod(sizes)
    w = dtypes.int_dtype().type(1) if weights is None else ravel(as_array("histogramdd", weights))
    dtype = type_of(w).dtype
    counts = IndexUpdates(zeros(total, dtype))[where(inside, flat, total)].add(w, mode="drop")
    counts = reshape_to(counts, tuple(sizes))
    if density:
        counts = e.divide(counts, _sum(counts))
        for i, x in enumerate(edges):
            widths = e.subtract(x[1:], x[:-1])
            counts = e.divide(counts, expand_dims(widths, tuple([j for j in _range(d) if j != i])))
    return counts, edges


def histogram2d(
    x: Any, y: Any, bins: Any = 10, range: Any = None, weights: Any = None, density: bool | None = None
) -> tuple[Any, Any, Any]:
    """The histogram of points in the plane, and the edges of bins."""
    if isinstance(bins, (list, tuple)) and len(bins) not in (1, 2) or hasattr(bins, "ndim") and bins.ndim == 1 and len(bins) > 2:
        bins = [asarray(bins), asarray(bins)]
    counts, edges = histogramdd((x, y), bins, range, weights, density)
    return counts, edges[0], edges[1]
