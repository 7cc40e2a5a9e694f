"""Products that contract dimensions: `dot_general` and `conv_general_dilated`.

Both take XLA's dimension numbers. Integers wrap, booleans combine with `and` and `or`, half-precision operands are summed in
float32 and rounded once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, bfloat16, is_key

__all__ = ["dot_general", "conv_general_dilated", "dot_general_p", "conv_general_dilated_p", "accumulation_dtype"]

_HALF = (np.dtype(np.float16), bfloat16)
_FLOAT32 = np.dtype(np.float32)


def accumulation_dtype(dtype: Any, preferred: Any = None) -> Any:
    """The dtype in which products of `dtype` are summed when the result is to be of dtype `preferred`."""
    wide = _FLOAT32 if dtype in _HALF else dtype
    if preferred is None or preferred == dtype:
        return wide
    target = _FLOAT32 if preferred in _HALF else preferred
    if target.kind == wide.kind:
        return target if target.itemsize > wide.itemsize else wide
    return np.result_type(wide, target)


def _check_operands(name: str, lhs: ArrayType, rhs: ArrayType, preferred: Any) -> Any:
    for t in (lhs, rhs):
        if is_key(t.dtype) or t.dtype.kind == "V" and t.dtype != bfloat16:
            raise TypeError(f"{name} takes numbers, got {lhs} and {rhs}")
    if lhs.dtype != rhs.dtype:
        raise TypeError(f"{name} takes operands of one dtype, got {lhs} and {rhs}; convert one of them first")
    if preferred is None:
        return lhs.dtype
    if preferred.kind != "c" and lhs.dtype.kind == "c":
        raise TypeError(f"{name} of {lhs} and {rhs} cannot have the real preferred_element_type {preferred}")
    if lhs.dtype.kind in "iub" and preferred.kind not in "iub" and preferred.itemsize < lhs.dtype.itemsize:
        raise TypeError(f"{name} of {lhs} and {rhs} cannot have preferred_element_type {preferred}: it is narrower")
    return preferred


def _dot_general_type(
    lhs: ArrayType, rhs: ArrayType, *, dimension_numbers: Any, preferred_element_type: Any
) -> tuple[ArrayType, ...]:
    (lc, rc), (lb, rb) = dimension_numbers
    dtype = _check_operands("dot_general", lhs, rhs, preferred_element_type)
    for what, left, right in (("contracting", lc, rc), ("batch", lb, rb)):
        if len(left) != len(right):
            raise TypeError(f"dot_general: {what} dimensions {tuple(left)} of {lhs} and {tuple(right)} of {rhs} differ in number")
        for operand, dims in ((lhs, left), (rhs, right)):
            for d in dims:
                if not 0 <= d < operand.ndim:
                    raise TypeError(f"dot_general: {what} dimension {d} does not exist in {operand}")
        for d, e in zip(left, right, strict=True):
            if lhs.shape[d] != rhs.shape[e]:
                raise TypeError(
                    f"dot_general: {what} dimensions must have equal sizes, but dimension {d} of {lhs} has size "
                    f"{lhs.shape[d]} and dimension {e} of {rhs} has size {rhs.shape[e]}"
                )
    for operand, dims in ((lhs, (*lc, *lb)), (rhs, (*rc, *rb))):
        if len(set(dims)) != len(dims):
            raise TypeError(f"dot_general: a dimension of {operand} is named twice in {dimension_numbers}")
    shape = tuple(lhs.shape[d] for d in lb)
    shape += tuple(n for d, n in enumerate(lhs.shape) if d not in lc and d not in lb)
    shape += tuple(n for d, n in enumerate(rhs.shape) if d not in rc and d not in rb)
    return (ArrayType(shape, dtype, lhs.weak and rhs.weak and dtype == lhs.dtype),)


def _dot_general_evaluate(
    lhs: np.ndarray, rhs: np.ndarray, *, dimension_numbers: Any, preferred_element_type: Any
) -> tuple[np.ndarray]:
    (lc, rc), (lb, rb) = dimension_numbers
    out_dtype = lhs.dtype if preferred_element_type is None else preferred_element_type
    dtype = accumulation_dtype(lhs.dtype, preferred_element_type)
    if lhs.dtype != dtype:
        lhs, rhs = lhs.astype(dtype), rhs.astype(dtype)
    with np.errstate(all="ignore"):
        if not lb and len(lc) == 1 and lhs.ndim <= 2 and rhs.ndim <= 2:
            # vectors and matrices: NumPy's matmul understands the transposed views
            out = np.matmul(lhs if lc[0] == lhs.ndim - 1 else lhs.T, rhs if rc[0] == 0 else rhs.T)
            return (np.asarray(out, out_dtype),)
        lf = [d for d in range(lhs.ndim) if d not in lc and d not in lb]
        rf = [d for d in range(rhs.ndim) if d not in rc and d not in rb]
        batch = tuple(lhs.shape[d] for d in lb)
        rows = tuple(lhs.shape[d] for d in lf)
        columns = tuple(rhs.shape[d] for d in rf)
        k = prod(lhs.shape[d] for d in lc)
        left = lhs.transpose(*lb, *lf, *lc).reshape((*batch, prod(rows), k))
        right = rhs.transpose(*rb, *rc, *rf).reshape((*batch, k, prod(columns)))
        out = np.matmul(left, right).reshape((*batch, *rows, *columns))
    return (np.asarray(out, out_dtype),)


dot_general_p = Primitive("dot_general", _dot_general_type, _dot_general_evaluate, "contractions")


def dot_general(
    lhs: Any,
    rhs: Any,
    dimension_numbers: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
    preferred_element_type: Any = None,
) -> Any:
    """The product that sums over the contracting dimensions: `dimension_numbers = ((lhs, rhs contracting), (lhs, rhs batch))`.

    The result's dimensions are the batch ones, the rest of lhs, the rest of rhs.
    """
    (lc, rc), (lb, rb) = dimension_numbers
    numbers = ((tuple(map(int, lc)), tuple(map(int, rc))), (tuple(map(int, lb)), tuple(map(int, rb))))
    preferred = None if preferred_element_type is None else np.dtype(preferred_element_type)
    return bind1(dot_general_p, lhs, rhs, dimension_numbers=numbers, preferred_element_type=preferred)


def dilated_size(n: int, dilation: int) -> int:
    """The size of a dimension of n elements with `dilation - 1` holes between neighbours."""
    return 0 if n == 0 else (n - 1) * dilation + 1


def window_count(n: int, window: int, stride: int) -> int:
    """How many windows of size `window`, every `stride`, fit into n elements."""
    return max(0, (n - window) // stride + 1) if n >= window else 0


def _conv_type(
    lhs: ArrayType,
    rhs: ArrayType,
    *,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    preferred_element_type: Any,
) -> tuple[ArrayType, ...]:
    name = "conv_general_dilated"
    dtype = _check_operands(name, lhs, rhs, preferred_element_type)
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    if lhs.ndim != rhs.ndim or lhs.ndim < 2:
        raise TypeError(f"{name} takes an input and a filter of equal rank, at least 2, got {lhs} and {rhs}")
    spatial = lhs.ndim - 2
    for what, spec in (("lhs", lhs_spec), ("rhs", rhs_spec), ("out", out_spec)):
        if sorted(spec) != list(range(lhs.ndim)):
            raise TypeError(f"{name}: the {what} specification {spec} is not a permutation of the dimensions of {lhs}")
    for what, value in (
        ("window_strides", window_strides),
        ("padding", padding),
        ("lhs_dilation", lhs_dilation),
        ("rhs_dilation", rhs_dilation),
    ):
        if len(value) != spatial:
            raise TypeError(f"{name}: {what} {value} must have one entry for each of the {spatial} spatial dimensions of {lhs}")
        if what != "padding" and any(v < 1 for v in value):
            raise ValueError(f"{name}: {what} {value} must be positive")
    batch, features = lhs.shape[lhs_spec[0]], lhs.shape[lhs_spec[1]]
    out_features, in_features = rhs.shape[rhs_spec[0]], rhs.shape[rhs_spec[1]]
    if feature_group_count < 1 or batch_group_count < 1 or (feature_group_count > 1 and batch_group_count > 1):
        raise ValueError(
            f"{name}: group counts must be positive and at most one of them larger than 1, got "
            f"feature_group_count={feature_group_count} and batch_group_count={batch_group_count}"
        )
    if features != in_features * feature_group_count:
        raise ValueError(
            f"{name}: the input {lhs} has {features} features; the filter {rhs} takes {in_features} in each of "
            f"{feature_group_count} groups"
        )
    groups = feature_group_count * batch_group_count
    if out_features % groups:
        raise ValueError(f"{name}: the {out_features} output features of {rhs} do not divide into {groups} groups")
    if batch % batch_group_count:
        raise ValueError(f"{name}: the batch of {batch} of {lhs} does not divide into {batch_group_count} groups")
    shape = [0] * lhs.ndim
    shape[out_spec[0]] = batch // batch_group_count
    shape[out_spec[1]] = out_features
    for i in range(spatial):
        lo, hi = padding[i]
        n = dilated_size(lhs.shape[lhs_spec[2 + i]], lhs_dilation[i]) + lo + hi
        k = dilated_size(rhs.shape[rhs_spec[2 + i]], rhs_dilation[i])
        shape[out_spec[2 + i]] = window_count(n, k, window_strides[i])
    return (ArrayType(tuple(shape), dtype, lhs.weak and rhs.weak and dtype == lhs.dtype),)


def dilate_and_pad(x: np.ndarray, first: int, padding: Any, dilation: Any, value: Any) -> np.ndarray:
    """Insert holes into and pad (or, for negative amounts, crop) the dimensions from `first` on with `value`."""
    if all(d == 1 for d in dilation) and all(lo == 0 and hi == 0 for lo, hi in padding):
        return x
    shape = list(x.shape)
    source: list[Any] = [slice(None)] * x.ndim
    target: list[Any] = [slice(None)] * x.ndim
    for i, ((lo, hi), d) in enumerate(zip(padding, dilation, strict=True)):
        axis, n = first + i, x.shape[first + i]
        size = shape[axis] = max(dilated_size(n, d) + lo + hi, 0)
        # element j goes to lo + j * d; those in range are j0 <= j < j1
        j0 = max(0, -(lo // d)) if lo < 0 else 0
        j1 = min(n, max(j0, -(-(size - lo) // d))) if size > lo else j0
        source[axis] = slice(j0, j1)
        target[axis] = slice(lo + j0 * d, lo + (j1 - 1) * d + 1, d) if j1 > j0 else slice(0, 0)
    out = np.full(tuple(shape), value, x.dtype)
    out[tuple(target)] = x[tuple(source)]
    return out


def window_view(x: np.ndarray, first: int, window: Any, strides: Any, dilation: Any) -> np.ndarray:
    """A view with the dimensions from `first` on replaced by positions of the window, then by elements of the window."""
    counts, steps, sizes, inner = [], [], [], []
    for i, (w, s, d) in enumerate(zip(window, strides, dilation, strict=True)):
        counts.append(window_count(x.shape[first + i], dilated_size(w, d), s))
        steps.append(x.strides[first + i] * s)
        sizes.append(w)
        inner.append(x.strides[first + i] * d)
    shape = (*x.shape[:first], *counts, *sizes)
    if prod(shape) == 0:
        return np.empty(shape, x.dtype)
    return np.lib.stride_tricks.as_strided(x, shape, (*x.strides[:first], *steps, *inner), writeable=False)


def _conv_evaluate(
    lhs: np.ndarray,
    rhs: np.ndarray,
    *,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    preferred_element_type: Any,
) -> tuple[np.ndarray]:
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    out_dtype = lhs.dtype if preferred_element_type is None else preferred_element_type
    dtype = accumulation_dtype(lhs.dtype, preferred_element_type)
    x = np.asarray(lhs.transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1]), dtype)  # batch, spatial, features
    w = np.asarray(rhs.transpose(*rhs_spec[2:], rhs_spec[1], rhs_spec[0]), dtype)  # spatial, in, out
    spatial = lhs.ndim - 2
    x = dilate_and_pad(x, 1, padding, lhs_dilation, dtype.type(0))
    kernel, (fan_in, fan_out) = w.shape[:spatial], w.shape[spatial:]
    # batch, features, positions..., window...; the groups of either kind become a leading batch of matrix products
    view = window_view(np.moveaxis(x, -1, 1), 2, kernel, window_strides, rhs_dilation)
    n, positions = view.shape[0], view.shape[2 : 2 + spatial]
    fg, bg = feature_group_count, batch_group_count
    groups = fg * bg
    view = view.reshape(bg, n // bg, fg, fan_in, *view.shape[2:])
    order = (0, 2, 1, *range(4, 4 + spatial), *range(4 + spatial, 4 + 2 * spatial), 3)
    patches = view.transpose(order).reshape(groups, n // bg * prod(positions), prod(kernel) * fan_in)
    filters = w.reshape(prod(kernel) * fan_in, groups, fan_out // groups).transpose(1, 0, 2)
    with np.errstate(all="ignore"):
        out = np.matmul(patches, filters)
    out = np.moveaxis(out, 0, 1).reshape(n // bg, *positions, fan_out)
    out = np.moveaxis(out, -1, 1)  # batch, features, positions
    inverse = [0] * lhs.ndim
    for position, d in enumerate(out_spec):
        inverse[d] = position
    return (np.ascontiguousarray(out.transpose(inverse), out_dtype),)


conv_general_dilated_p = Primitive("conv_general_dilated", _conv_type, _conv_evaluate, "contractions")


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    preferred_element_type: Any = None,
) -> Any:
    """Correlate `lhs` with the filter `rhs`, with explicit padding.

    `dimension_numbers = (lhs_spec, rhs_spec, out_spec)` says where (batch, features, spatial...) of the input, (out features,
    in features, spatial...) of the filter and (batch, features, spatial...) of the result are; the default is that order.
    """
    rank = len(type_of(lhs).shape)
    ones = (1,) * max(rank - 2, 0)
    if dimension_numbers is None:
        dimension_numbers = (tuple(range(rank)),) * 3
    return bind1(
        conv_general_dilated_p,
        lhs,
        rhs,
        window_strides=tuple(map(int, window_strides)),
        padding=tuple((int(lo), int(hi)) for lo, hi in padding),
        lhs_dilation=ones if lhs_dilation is None else tuple(map(int, lhs_dilation)),
        rhs_dilation=ones if rhs_dilation is None else tuple(map(int, rhs_dilation)),
        dimension_numbers=tuple(tuple(map(int, spec)) for spec in dimension_numbers),
        feature_group_count=int(feature_group_count),
        batch_group_count=int(batch_group_count),
        preferred_element_type=None if preferred_element_type is None else np.dtype(preferred_element_type),
    )
