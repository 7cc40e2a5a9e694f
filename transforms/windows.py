"""Derivatives and batching of reductions over windows.

A sum over windows is linear, and its transpose is a sum over windows of the dilated cotangent. Max and min follow the selected
element of each window (the first of equal ones); where the window or the operand is dilated, and for products, windows are
laid out along an axis of their own first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir import windows as w
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.contractions import dilated_size
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.reductions import product_of_others
from tracegrad.transforms.rules import Along, align, first_dim, insert, linear_first, partials, scalar, transposes, zeros

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
Batched = tuple[Sequence[Any], Sequence[int]]


def laid_out(x: Any, fill: Any, params: dict[str, Any]) -> Any:
    """The elements of all windows, along a new leading axis; padding and holes hold `fill`."""
    strides, base = params["window_strides"], params["base_dilation"]
    fill = scalar(fill, type_of(x).dtype)
    padded = ops.pad(x, fill, [(lo, hi, b - 1) for (lo, hi), b in zip(params["padding"], base)])
    (out,) = w.reduce_window_p.type_rule(type_of(x), **params)
    parts = []
    for offset in product(*map(range, params["window_dimensions"])):
        starts = [o * d for o, d in zip(offset, params["window_dilation"])]
        limits = [start + (n - 1) * s + 1 if n else start for start, n, s in zip(starts, out.shape, strides)]
        parts.append(ops.reshape(ops.slice(padded, starts, limits, strides), (1, *out.shape)))
    return ops.concatenate(parts, 0)


def _reduce_window_along(t: Any, ans: Any, x: Any, **params: Any) -> Any:
    kind = params["kind"]
    if kind == "add":
        return bind1(w.reduce_window_p, t, **params)
    if type_of(ans).size == 0:
        return zeros(type_of(ans))
    dilated = any(d > 1 for d in (*params["base_dilation"], *params["window_dilation"]))
    if kind in ("max", "min") and not dilated:
        dimensions, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
        return ops.select_and_gather_add(t, x, kind, dimensions, strides, padding)
    elements = laid_out(x, w.window_identity(kind, type_of(x).dtype), params)
    tangents = laid_out(t, 0, params)
    if kind == "mul":
        return ops.reduce_sum(ops.mul(product_of_others(elements, 0), tangents), (0,))
    pick = ops.argmax if kind == "max" else ops.argmin
    first = pick(elements, 0, np.int32)
    shape = type_of(elements).shape
    chosen = ops.eq(ops.broadcasted_iota(np.int32, shape, 0), ops.broadcast_in_dim(first, shape, range(1, len(shape))))
    return ops.reduce_sum(ops.select(chosen, tangents, scalar(0, type_of(t).dtype)), (0,))


def _transpose_reduce_window(ct: Any, x: Any, **params: Any) -> Sequence[Any]:
    if params["kind"] != "add":
        raise NotImplementedError(f"a reduce_window of kind {params['kind']!r} is not linear, so it cannot be transposed")
    t: ArrayType = x.type
    counts = type_of(ct).shape
    if t.size == 0 or prod(counts) == 0:
        return [zeros(t)]
    # Element p of the padded, dilated operand is in the windows j with j * stride + k * dilation = p: spread the cotangents by the
    # strides and sum over a window that ends at p, for each p that an element of the operand came to.
    config = []
    for n, m, size, stride, (lo, _), base, dilation in zip(
        t.shape,
        counts,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params["base_dilation"],
        params["window_dilation"],
    ):
        span = dilated_size(size, dilation)
        before = span - 1 - lo
        config.append((before, dilated_size(n, base) + span - 1 - before - dilated_size(m, stride), stride - 1))
    spread = ops.pad(ct, scalar(0, t.dtype), config)
    out = ops.reduce_window(
        spread,
        "add",
        params["window_dimensions"],
        window_strides=params["base_dilation"],
        window_dilation=params["window_dilation"],
    )
    return [out]


partials(w.reduce_window_p, Along(_reduce_window_along))
transposes(w.reduce_window_p, _transpose_reduce_window)

linear_first(
    w.select_and_scatter_add_p,
    lambda ct, source, operand, *, kind, window_dimensions, window_strides, padding: ops.select_and_gather_add(
        ct, operand, kind, window_dimensions, window_strides, padding
    ),
)
linear_first(
    w.select_and_gather_add_p,
    lambda ct, tangents, operand, *, kind, window_dimensions, window_strides, padding: ops.select_and_scatter_add(
        ct, operand, kind, window_dimensions, window_strides, padding
    ),
)


# Batching: a window of size 1 along the batch dimension.

_UNIT = {"window_dimensions": 1, "window_strides": 1, "padding": (0, 0), "base_dilation": 1, "window_dilation": 1}


def _with_batch(params: dict[str, Any], dim: int) -> dict[str, Any]:
    return {name: insert(value, dim, _UNIT[name]) if name in _UNIT else value for name, value in params.items()}


def _batch_reduce_window(axis: Any, args: Sequence[Any], dims: Dims, **params: Any) -> Batched:
    dim = first_dim(dims)
    return (bind1(w.reduce_window_p, args[0], **_with_batch(params, dim)),), (dim,)


def _batch_select(prim: Any) -> None:
    def batch(axis: Any, args: Sequence[Any], dims: Dims, **params: Any) -> Batched:
        operands, dim = align(axis, args, dims)
        return (bind1(prim, *operands, **_with_batch(params, dim)),), (dim,)

    prim.define(batch=batch)


w.reduce_window_p.define(batch=_batch_reduce_window)
_batch_select(w.select_and_scatter_add_p)
_batch_select(w.select_and_gather_add_p)
