"""Taylor mode of the primitives that move, reduce, contract, index, window and sort arrays.

Most are linear, or linear once it is known which elements they choose. Products of many factors are trees of Cauchy products.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tracegrad.ir import contractions, fft, indexing, ops, reductions, sorting, structural, windows
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.program import Program
from tracegrad.transforms.collectives import all_gather_p
from tracegrad.transforms.jet import through_jvp
from tracegrad.transforms.jet_rules import Operands, along, bilinear, decomposed, linear_in_first, no_motion
from tracegrad.transforms.linearize import linearize_flat
from tracegrad.transforms.reductions import kept_axes, reduce_by_halving, shifted_along
from tracegrad.transforms.rules import scalar
from tracegrad.transforms.series import Series, exponential, logarithm
from tracegrad.transforms.windows import laid_out

for _prim in (
    structural.broadcast_in_dim_p, structural.reshape_p, structural.transpose_p, structural.slice_p, structural.rev_p,
    reductions.reduce_sum_p, reductions.cumsum_p, indexing.dynamic_slice_p, fft.fft_p, all_gather_p,
    windows.select_and_scatter_add_p, windows.select_and_gather_add_p,
):  # fmt: skip
    linear_in_first(_prim)
for _prim in (
    structural.pad_p, structural.concatenate_p, indexing.gather_p, indexing.dynamic_update_slice_p,
    reductions.reduce_max_p, reductions.reduce_min_p, reductions.cummax_p, reductions.cummin_p,
    sorting.sort_p, sorting.top_k_p,
):  # fmt: skip
    along(_prim)
for _prim in (reductions.argmax_p, reductions.argmin_p, sorting.searchsorted_p, sorting.nonzero_p):
    no_motion(_prim)
bilinear(contractions.dot_general_p)
bilinear(contractions.conv_general_dilated_p)


# Products


def _product(x: Any, *, axes: tuple[int, ...]) -> list[Any]:
    """reduce_prod as a tree of products of halves."""
    shape = type_of(x).shape
    kept = kept_axes(len(shape), axes)
    out_shape = tuple(shape[d] for d in kept)
    n = prod(shape[d] for d in axes)
    if n == 0:
        return [ops.reduce_prod(x, axes)]
    x = ops.reshape(ops.transpose(x, (*axes, *kept)), (n, *out_shape))
    while n > 1:
        half = n // 2
        pairs = ops.mul(ops.slice_in_dim(x, 0, half), ops.slice_in_dim(x, half, 2 * half))
        x = ops.concatenate([pairs, ops.slice_in_dim(x, n - 1, n)], 0) if n % 2 else pairs
        n = half + n % 2
    return [ops.reshape(x, out_shape)]


def _cumulative_product(x: Any, *, axis: int, reverse: bool) -> list[Any]:
    """cumprod by doubling: after the step of distance d each element is the product of the 2d latest."""
    distance = 1
    while distance < type_of(x).shape[axis]:
        x = ops.mul(x, shifted_along(x, distance, axis, reverse, 1.0))
        distance *= 2
    return [x]


decomposed(reductions.reduce_prod_p, _product)
decomposed(reductions.cumprod_p, _cumulative_product)


def _cumlogsumexp(operands: Operands, **params: Any) -> list[Series]:
    # With x = x0 + d, the sum of exp(x) over the sum of exp(x0) is the average of exp(d) with the weights exp(x0): what the
    # derivative of cumlogsumexp at x0 makes of exp(d).
    (x,) = operands
    weights = linearize_flat(lambda x: bind(reductions.cumlogsumexp_p, x, **params), [x[0]], [True])
    one = scalar(1, type_of(x[0]).dtype)
    ratio = [one, *[None if c is None else weights.apply([c])[0] for c in exponential(one, [None, *x[1:]])[1:]]]
    return [logarithm(weights.outs[0], ratio)]


reductions.cumlogsumexp_p.define(jet=_cumlogsumexp)


def _reduce(*operands: Any, body: Program, axes: tuple[int, ...]) -> list[Any]:
    n = len(operands) // 2
    return reduce_by_halving(body, operands[:n], operands[n:], axes)


decomposed(reductions.reduce_p, _reduce)


# Windows and scatters: by their kind

along(windows.reduce_window_p)
_window_along = windows.reduce_window_p.rule("jet")
decomposed(windows.reduce_window_p, lambda x, **params: _product(laid_out(x, 1, params), axes=(0,)))
_window_product = windows.reduce_window_p.rule("jet")


def _reduce_window(operands: Operands, **params: Any) -> Sequence[Series]:
    (out,) = windows.reduce_window_p.type_rule(type_of(operands[0][0]), **params)
    return (_window_product if params["kind"] == "mul" and out.size else _window_along)(operands, **params)


windows.reduce_window_p.define(jet=_reduce_window)

along(indexing.scatter_p)
_scatter_along = indexing.scatter_p.rule("jet")


def _scatter(operands: Operands, **params: Any) -> Sequence[Series]:
    if params["kind"] == "mul":
        return through_jvp(indexing.scatter_p.rule("jvp"), operands, params)
    return _scatter_along(operands, **params)


indexing.scatter_p.define(jet=_scatter)
