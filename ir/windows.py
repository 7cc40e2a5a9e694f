"""Reductions over sliding windows, and the two halves of the derivative of max and min pooling.

`select_and_scatter_add` gives each window's source to the element of the operand that the window selects (the transpose of the
other); `select_and_gather_add` reads the tangent of that element. Of equal elements the first is selected; NaN is selected before
any number, as it is what the reduction gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.contractions import accumulation_dtype, dilate_and_pad, dilated_size, window_count, window_view
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, is_complex, is_inexact, is_key

__all__ = [
    "reduce_window",
    "select_and_scatter_add",
    "select_and_gather_add",
    "reduce_window_p",
    "select_and_scatter_add_p",
    "select_and_gather_add_p",
    "window_identity",
]

REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def window_identity(kind: str, dtype: Any) -> Any:
    """The value that a reduction of this kind starts from, and that padding holds."""
    if kind in ("add", "mul"):
        return dtype.type(kind == "mul")
    if is_inexact(dtype):
        return dtype.type(-np.inf if kind == "max" else np.inf)
    if dtype.kind == "b":
        return np.bool_(kind == "min")
    limits = np.iinfo(dtype)
    return dtype.type(limits.min if kind == "max" else limits.max)


def _check(name: str, x: ArrayType, kind: str, kinds: Sequence[str], params: dict[str, Any]) -> None:
    if kind not in kinds:
        raise ValueError(f"{name}: kind {kind!r} is not one of {', '.join(kinds)}")
    if is_key(x.dtype) or is_complex(x.dtype) and kind in ("max", "min"):
        raise TypeError(f"{name}: values of {x} cannot be combined with {kind!r}")
    for what, value in params.items():
        if len(value) != x.ndim:
            raise TypeError(f"{name}: {what} {value} must have one entry for each dimension of {x}")
        if what != "padding" and any(v < 1 for v in value):
            raise ValueError(f"{name}: {what} {value} must be positive, for operand {x}")


def _reduce_window_type(
    x: ArrayType,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    base_dilation: tuple[int, ...],
    window_dilation: tuple[int, ...],
) -> tuple[ArrayType, ...]:
    _check(
        "reduce_window",
        x,
        kind,
        tuple(REDUCTIONS),
        {
            "window_dimensions": window_dimensions,
            "window_strides": window_strides,
            "padding": padding,
            "base_dilation": base_dilation,
            "window_dilation": window_dilation,
        },
    )
    shape = tuple(
        window_count(dilated_size(n, b) + lo + hi, dilated_size(w, d), s)
        for n, w, s, (lo, hi), b, d in zip(
            x.shape, window_dimensions, window_strides, padding, base_dilation, window_dilation, strict=True
        )
    )
    return (ArrayType(shape, x.dtype, x.weak),)


def _reduce_window_evaluate(
    x: np.ndarray,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    base_dilation: tuple[int, ...],
    window_dilation: tuple[int, ...],
) -> tuple[np.ndarray]:
    dtype = accumulation_dtype(x.dtype) if kind in ("add", "mul") else x.dtype
    ufunc = REDUCTIONS[kind]
    out = dilate_and_pad(np.asarray(x, dtype), 0, padding, base_dilation, window_identity(kind, dtype))
    with np.errstate(all="ignore"):
        # every kind is separable: one axis after the other costs the sum of the window's sizes, not their product
        for axis, (w, s, d) in enumerate(zip(window_dimensions, window_strides, window_dilation, strict=True)):
            if w == 1 and s == 1:
                continue
            count = window_count(out.shape[axis], dilated_size(w, d), s)
            if w > 64:
                windows = window_view(np.moveaxis(out, axis, -1), out.ndim - 1, (w,), (s,), (d,))
                out = np.moveaxis(ufunc.reduce(windows, axis=-1, dtype=dtype), -1, axis)
                continue
            where: list[Any] = [slice(None)] * out.ndim
            result: Any = None
            for j in range(w):
                where[axis] = slice(j * d, j * d + (count - 1) * s + 1, s) if count else slice(0, 0)
                part = out[tuple(where)]
                result = part.copy() if result is None else ufunc(result, part, out=result)
            out = result
    return (np.array(out, x.dtype, order="C"),)


reduce_window_p = Primitive("reduce_window", _reduce_window_type, _reduce_window_evaluate, "windows")


def reduce_window(
    x: Any,
    kind: str,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
    base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
) -> Any:
    """Combine (`kind`: add, mul, max or min) the elements of every window; padding holds the kind's identity."""
    rank = len(type_of(x).shape)
    ones = (1,) * rank
    return bind1(
        reduce_window_p,
        x,
        kind=kind,
        window_dimensions=tuple(map(int, window_dimensions)),
        window_strides=ones if window_strides is None else tuple(map(int, window_strides)),
        padding=((0, 0),) * rank if padding is None else tuple((int(lo), int(hi)) for lo, hi in padding),
        base_dilation=ones if base_dilation is None else tuple(map(int, base_dilation)),
        window_dilation=ones if window_dilation is None else tuple(map(int, window_dilation)),
    )


def _window_shape(operand: ArrayType | np.ndarray, dimensions: Any, strides: Any, padding: Any) -> tuple[int, ...]:
    return tuple(
        window_count(n + lo + hi, w, s) for n, w, s, (lo, hi) in zip(operand.shape, dimensions, strides, padding, strict=True)
    )


def _check_select(name: str, values: ArrayType, what: str, operand: ArrayType, kind: str, params: dict[str, Any]) -> None:
    _check(name, operand, kind, ("max", "min"), params)
    if values.dtype != operand.dtype:
        raise TypeError(f"{name}: the {what} {values} and the operand {operand} must have one dtype")


def _selected(
    operand: np.ndarray,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> np.ndarray:
    """For each window the flat index of the element of the operand that it selects; -1 for a window wholly in the padding."""
    counts = _window_shape(operand, window_dimensions, window_strides, padding)
    best = np.zeros(counts, operand.dtype)
    index = np.full(counts, -1, np.intp)
    for offset in product(*map(range, window_dimensions)):
        # the windows for which this element of the window lies inside of the operand form a box
        target, source = [], []
        flat = np.zeros((), np.intp)
        for o, n, count, s, (lo, _) in zip(offset, operand.shape, counts, window_strides, padding, strict=True):
            first = max(0, -((o - lo) // s))
            last = min(count - 1, (n - 1 - o + lo) // s)
            target.append(slice(first, max(last + 1, first)))
            start = first * s + o - lo
            source.append(slice(start, start + (last - first) * s + 1, s) if last >= first else slice(0, 0))
            flat = flat[..., None] * n + (np.arange(first, max(last + 1, first)) * s + o - lo)
        part, where = operand[tuple(source)], tuple(target)
        current, chosen = best[where], index[where]
        better = (chosen < 0) | ((part > current) if kind == "max" else (part < current))
        if is_inexact(operand.dtype):
            better |= np.isnan(part) & ~np.isnan(current)
            better &= (chosen < 0) | ~np.isnan(current)
        best[where] = np.where(better, part, current)
        index[where] = np.where(better, flat, chosen)
    return index


def _select_and_scatter_add_type(
    source: ArrayType,
    operand: ArrayType,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> tuple[ArrayType, ...]:
    name = "select_and_scatter_add"
    params = {"window_dimensions": window_dimensions, "window_strides": window_strides, "padding": padding}
    _check_select(name, source, "source", operand, kind, params)
    expected = _window_shape(operand, window_dimensions, window_strides, padding)
    if source.shape != expected:
        raise TypeError(f"{name}: the source {source} must have one element for each window of {operand}: shape {expected}")
    return (ArrayType(operand.shape, operand.dtype),)


def _select_and_scatter_add_evaluate(
    source: np.ndarray,
    operand: np.ndarray,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> tuple[np.ndarray]:
    dtype = accumulation_dtype(operand.dtype)
    out = np.zeros(operand.shape, dtype)
    if source.size and operand.size:
        with np.errstate(all="ignore"):
            index = _selected(operand, kind, window_dimensions, window_strides, padding).reshape(-1)
            values = source.reshape(-1).astype(dtype)
            if (index < 0).any():
                index, values = index[index >= 0], values[index >= 0]
            np.add.at(out.reshape(-1), index, values)
    return (np.asarray(out, operand.dtype),)


select_and_scatter_add_p = Primitive(
    "select_and_scatter_add", _select_and_scatter_add_type, _select_and_scatter_add_evaluate, "windows"
)


def _select_and_gather_add_type(
    tangents: ArrayType,
    operand: ArrayType,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> tuple[ArrayType, ...]:
    name = "select_and_gather_add"
    params = {"window_dimensions": window_dimensions, "window_strides": window_strides, "padding": padding}
    _check_select(name, tangents, "tangents", operand, kind, params)
    if tangents.shape != operand.shape:
        raise TypeError(f"{name}: the tangents {tangents} and the operand {operand} must have one shape")
    return (ArrayType(_window_shape(operand, window_dimensions, window_strides, padding), operand.dtype),)


def _select_and_gather_add_evaluate(
    tangents: np.ndarray,
    operand: np.ndarray,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> tuple[np.ndarray]:
    counts = _window_shape(operand, window_dimensions, window_strides, padding)
    if prod(counts) == 0 or operand.size == 0:
        return (np.zeros(counts, operand.dtype),)
    index = _selected(operand, kind, window_dimensions, window_strides, padding)
    values = np.asarray(tangents.reshape(-1)[index])
    values[index < 0] = 0
    return (values,)


select_and_gather_add_p = Primitive(
    "select_and_gather_add", _select_and_gather_add_type, _select_and_gather_add_evaluate, "windows"
)


def _bind_select(primitive: Primitive, values: Any, operand: Any, kind: str, dimensions: Any, strides: Any, padding: Any) -> Any:
    rank = len(type_of(operand).shape)
    return bind1(
        primitive,
        values,
        operand,
        kind=kind,
        window_dimensions=tuple(map(int, dimensions)),
        window_strides=(1,) * rank if strides is None else tuple(map(int, strides)),
        padding=((0, 0),) * rank if padding is None else tuple((int(lo), int(hi)) for lo, hi in padding),
    )


def select_and_scatter_add(
    source: Any,
    operand: Any,
    kind: str,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
) -> Any:
    """An array like `operand`: for each element, the sum of the sources of the windows that select it as their max or min."""
    return _bind_select(select_and_scatter_add_p, source, operand, kind, window_dimensions, window_strides, padding)


def select_and_gather_add(
    tangents: Any,
    operand: Any,
    kind: str,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
) -> Any:
    """For each window of `operand`, the tangent of the element that is its max or min."""
    return _bind_select(select_and_gather_add_p, tangents, operand, kind, window_dimensions, window_strides, padding)
