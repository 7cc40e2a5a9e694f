"""`pad` and its modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.numpy import elementwise as e
from tracegrad.numpy import reductions
from tracegrad.numpy.creation import asarray
from tracegrad.numpy.promotion import as_array, broadcast_to_shape, concrete, shape_of, to_dtype
from tracegrad.numpy.shape import concatenate, flip

_KEYWORDS: dict[str, tuple[str, ...]] = {
    "constant": ("constant_values",),
    "edge": (),
    "empty": (),
    "linear_ramp": ("end_values",),
    "maximum": ("stat_length",),
    "mean": ("stat_length",),
    "median": ("stat_length",),
    "minimum": ("stat_length",),
    "reflect": ("reflect_type",),
    "symmetric": ("reflect_type",),
    "wrap": (),
}

Widths = list[tuple[int, int]]


def pad(array: Any, pad_width: Any, mode: str | Callable[..., Any] = "constant", **kwargs: Any) -> Any:
    """The array surrounded by constants, its edges, reflections, statistics, or whatever `mode` names."""
    array = as_array("pad", array, "array")
    shape = shape_of(array)
    widths = _widths(pad_width, len(shape))
    if callable(mode):
        return _with_function(array, widths, mode, kwargs)
    if mode not in _KEYWORDS:
        raise NotImplementedError(
            f"Unimplemented padding mode '{mode}' for np.pad; pass one of {', '.join(_KEYWORDS)}, or a function."
        )
    unknown = sorted(set(kwargs) - set(_KEYWORDS[mode]))
    if unknown:
        raise ValueError(f"unsupported keyword arguments for mode '{mode}': {unknown}")
    if any(w < 0 for pair in widths for w in pair):
        raise ValueError("index can't contain negative values")
    if mode in ("constant", "empty"):
        return _constant(array, widths, kwargs.get("constant_values", 0))
    for i, (before, after) in enumerate(widths):
        if before == after == 0:
            continue
        if shape_of(array)[i] == 0:
            raise ValueError(f"can't extend empty axis {i} using modes other than 'constant' or 'empty'")
        array = _along(array, i, before, after, mode, kwargs)
    return array


def _widths(pad_width: Any, rank: int) -> Widths:
    if isinstance(pad_width, dict):
        out = [(0, 0)] * rank
        for axis, w in pad_width.items():
            out[axis] = (w, w) if isinstance(w, (int, np.integer)) else tuple(w)
        return [(int(a), int(b)) for a, b in out]
    if isinstance(pad_width, Array):
        pad_width = concrete("pad", pad_width, "pad_width", "Padding must be known when compiling.")
    if _nested_traced(pad_width):
        concrete("pad", _nested_traced(pad_width), "pad_width", "Padding must be known when compiling.")
    found = np.asarray(pad_width)
    if found.dtype.kind not in "iu":
        raise TypeError(f"`pad_width` must be of integral type, got {pad_width!r}.")
    return [(int(a), int(b)) for a, b in _pairs("pad_width", found, rank)]


def _nested_traced(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return next((t for t in map(_nested_traced, x) if t is not None), None)
    return x if hasattr(x, "interpreter") else None


def _pairs(name: str, found: np.ndarray, rank: int) -> np.ndarray:
    if found.ndim == 1 and found.size == 1 or found.ndim == 0:
        return np.broadcast_to(found.reshape(()), (rank, 2))
    if found.ndim == 2 and found.shape[1] == 1:
        return np.broadcast_to(found, (rank, 2)) if found.shape[0] in (1, rank) else _bad_pairs(name, found, rank)
    try:
        return np.broadcast_to(found, (rank, 2))
    except ValueError:
        return _bad_pairs(name, found, rank)


def _bad_pairs(name: str, found: np.ndarray, rank: int) -> np.ndarray:
    raise ValueError(
        f"jnp.pad: {name} with nd={rank} has unsupported shape {found.shape}. Valid shapes are ({rank}, 2), (1, 2), (2,), (1,), or ()."
    )


def _constant(array: Any, widths: Widths, values: Any) -> Any:
    dtype = type_of(array).dtype
    values = asarray(values)
    if not shape_of(values) or values.size == 1:
        value = to_dtype(values.reshape(()), dtype)
        return ops.pad(array, value, [(a, b, 0) for a, b in widths]) if any(a or b for a, b in widths) else array
    table = to_dtype(broadcast_to_shape(values, (len(widths), 2)), dtype)
    for i, (before, after) in enumerate(widths):
        for side, width in ((0, before), (1, after)):
            if width:
                config = [(0, 0, 0)] * len(widths)
                config[i] = (width, 0, 0) if side == 0 else (0, width, 0)
                array = ops.pad(array, table[i, side], config)
    return array


def _edge_parts(array: Any, i: int, before: int, after: int) -> tuple[Any, Any]:
    n = shape_of(array)[i]
    return ops.slice_in_dim(array, 0, 1, 1, i), ops.slice_in_dim(array, n - 1, n, 1, i)


def _stretched(part: Any, i: int, n: int) -> Any:
    s = shape_of(part)
    return broadcast_to_shape(part, s[:i] + (n,) + s[i + 1 :])


def _along(array: Any, i: int, before: int, after: int, mode: str, kwargs: dict[str, Any]) -> Any:
    if mode in ("reflect", "symmetric", "wrap"):
        return _mirrored(array, i, before, after, mode, kwargs.get("reflect_type", "even"))
    first, last = _edge_parts(array, i, before, after)
    if mode == "edge":
        left, right = _stretched(first, i, before), _stretched(last, i, after)
    elif mode == "linear_ramp":
        left, right = _ramps(array, i, before, after, first, last, kwargs.get("end_values", 0))
    else:
        left, right = _statistics(array, i, before, after, mode, kwargs.get("stat_length"))
    parts = ([left] if before else []) + [array] + ([right] if after else [])
    return concatenate([to_dtype(p, type_of(array).dtype) for p in parts], i)


def _ramps(array: Any, i: int, before: int, after: int, first: Any, last: Any, end_values: Any) -> tuple[Any, Any]:
    rank = len(shape_of(array))
    ends = broadcast_to_shape(asarray(end_values), (rank, 2))[i]
    wide = (
        np.dtype(np.float32) if type_of(array).dtype.kind in "iu" or type_of(array).dtype.itemsize <= 2 else type_of(array).dtype
    )
    column = tuple([-1 if d == i else 1 for d in range(rank)])

    def ramp(edge: Any, end: Any, n: int, rising: bool) -> Any:
        t = asarray(_fractions(n, rising).astype(wide)).reshape(column)
        return e.add(end, e.multiply(e.subtract(to_dtype(edge, wide), end), t))

    return ramp(first, ends[0], before, True), ramp(last, ends[1], after, False)


def _fractions(n: int, rising: bool) -> np.ndarray:
    """How far a ramp is from its end value (0) towards the edge (1), excluded."""
    t = np.arange(n) / max(n, 1)
    return t if rising else t[::-1]


def _statistics(array: Any, i: int, before: int, after: int, mode: str, stat_length: Any) -> tuple[Any, Any]:
    from tracegrad.numpy.statistics import median

    function = {"maximum": reductions.max, "minimum": reductions.min, "mean": reductions.mean, "median": median}[mode]
    n = shape_of(array)[i]
    if stat_length is None:
        lengths: tuple[int, ...] = (n, n)
    else:
        lengths = tuple([min(int(v), n) for v in _pairs("stat_length", np.asarray(stat_length), len(shape_of(array)))[i]])
        if min(lengths) < 1:
            raise ValueError("stat_length of 0 yields no value for padding")
    left = function(ops.slice_in_dim(array, 0, lengths[0], 1, i), axis=i, keepdims=True)
    right = function(ops.slice_in_dim(array, n - lengths[1], n, 1, i), axis=i, keepdims=True)
    if type_of(array).dtype.kind in "iu":
        left, right = e.round(left), e.round(right)
    return _stretched(left, i, before), _stretched(right, i, after)


def _mirrored(array: Any, i: int, before: int, after: int, mode: str, reflect_type: str) -> Any:
    """Reflections and repetitions, as often as the width needs."""
    if reflect_type not in ("even", "odd"):
        raise ValueError("Only reflect_type='even' and 'odd' are supported")
    n = shape_of(array)[i]
    if mode == "reflect" and n == 1:
        first, last = _edge_parts(array, i, before, after)
        return concatenate([_stretched(first, i, before), array, _stretched(last, i, after)], i)
    if reflect_type == "even" or mode == "wrap":
        positions = np.arange(-before, n + after)
        if mode == "wrap":
            positions = positions % n
        else:
            period = 2 * (n - 1) if mode == "reflect" else 2 * n
            positions = positions % period
            positions = np.where(positions < n, positions, period - positions - (mode == "symmetric"))
        return _pieces(array, i, positions)
    offset = 1 if mode == "reflect" else 0
    while before or after:
        n = shape_of(array)[i]
        step = n - offset
        left, right = min(before, step), min(after, step)
        first, last = _edge_parts(array, i, before, after)
        parts = [array]
        if left:
            part = flip(ops.slice_in_dim(array, offset, offset + left, 1, i), i)
            parts.insert(0, e.subtract(e.multiply(2, first), part))
        if right:
            part = flip(ops.slice_in_dim(array, n - offset - right, n - offset, 1, i), i)
            parts.append(e.subtract(e.multiply(2, last), part))
        array = concatenate([to_dtype(p, type_of(array).dtype) for p in parts], i)
        before, after = before - left, after - right
    return array


def _pieces(array: Any, i: int, positions: np.ndarray) -> Any:
    """The sub-arrays at positions that run up and down by ones: slices and their reversals, joined."""
    pieces = []
    start = 0
    total = len(positions)
    while start < total:
        end = start + 1
        step = int(positions[end] - positions[start]) if end < total else 1
        if abs(step) == 1:
            while end < total and positions[end] - positions[end - 1] == step:
                end += 1
        lo, hi = int(min(positions[start], positions[end - 1])), int(max(positions[start], positions[end - 1]))
        piece = array if (lo, hi + 1) == (0, shape_of(array)[i]) else ops.slice_in_dim(array, lo, hi + 1, 1, i)
        pieces.append(flip(piece, i) if step == -1 and hi > lo else piece)
        start = end
    return concatenate(pieces, i)


def _with_function(array: Any, widths: Widths, function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """The user's function fills the borders of every line along every axis, in turn."""
    from tracegrad.numpy.functional import apply_along_axis

    array = _constant(array, widths, 0)
    for i, pair in enumerate(widths):

        def fill(line: Any, pair: tuple[int, int] = pair, i: int = i) -> Any:
            out = function(line, pair, i, kwargs)
            return line if out is None else out

        array = apply_along_axis(fill, i, array)
    return array
