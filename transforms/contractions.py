"""Derivatives and batching of `dot_general`: it is linear in each operand, and a batch dimension is one more dimension of the product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.ir import contractions as c
from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.rules import bilinear, insert, shifted

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
DimensionNumbers = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def _free(rank: int, contracting: Sequence[int], batch: Sequence[int]) -> list[int]:
    return [d for d in range(rank) if d not in contracting and d not in batch]


def _cotangent(
    ct: Any,
    out: ArrayType,
    other: Any,
    own: tuple[tuple[int, ...], tuple[int, ...]],
    others: tuple[tuple[int, ...], tuple[int, ...]],
    own_is_left: bool,
) -> Any:
    """The cotangent, of type `out`, of one operand of a product; `own` and `others` are (contracting, batch) of either operand."""
    (contracting, batch), (other_contracting, other_batch) = own, others
    ct_type, other_type = type_of(ct), type_of(other)
    if other_type.dtype != ct_type.dtype:
        # With preferred_element_type the product has a dtype of its own.
        other = ops.convert_element_type(other, ct_type.dtype)
    own_free = _free(out.ndim, contracting, batch)
    other_free = _free(other_type.ndim, other_contracting, other_batch)
    n = len(batch)
    # Where the other operand's free dimensions are in the cotangent: behind those of the left operand if it is the right one.
    start = n + len(own_free) if own_is_left else n
    ct_other = tuple(range(start, start + len(other_free)))
    batches = (tuple(range(n)), tuple(other_batch))
    # The other operand keeps its contracting dimensions, in its order; here are those of our operand that they match.
    left_over = [contracting[other_contracting.index(d)] for d in sorted(other_contracting)]
    # Take the order of factors that gives the operand's own order of dimensions, if one does.
    order = [*batch, *own_free, *left_over]
    swapped = [*batch, *left_over, *own_free]
    if order != sorted(order) and swapped == sorted(swapped):
        numbers = ((tuple(other_free), ct_other), (batches[1], batches[0]))
        result, order = ops.dot_general(other, ct, numbers), swapped
    else:
        result = ops.dot_general(ct, other, ((ct_other, tuple(other_free)), batches))
    if order != sorted(order):
        result = ops.transpose(result, [order.index(d) for d in range(len(order))])
    return result if type_of(result).dtype == out.dtype else ops.convert_element_type(result, out.dtype)


def _wrt_lhs(ct: Any, x: ArrayType, y: Any, *, dimension_numbers: DimensionNumbers, preferred_element_type: Any) -> Any:
    (lc, rc), (lb, rb) = dimension_numbers
    return _cotangent(ct, x, y, (lc, lb), (rc, rb), own_is_left=True)


def _wrt_rhs(ct: Any, x: Any, y: ArrayType, *, dimension_numbers: DimensionNumbers, preferred_element_type: Any) -> Any:
    (lc, rc), (lb, rb) = dimension_numbers
    return _cotangent(ct, y, x, (rc, rb), (lc, lb), own_is_left=False)


bilinear(c.dot_general_p, _wrt_lhs, _wrt_rhs)


def _batch_dot_general(
    axis: Any, args: Sequence[Any], dims: Dims, *, dimension_numbers: DimensionNumbers, preferred_element_type: Any
) -> tuple[Sequence[Any], Sequence[int]]:
    (lc, rc), (lb, rb) = dimension_numbers
    x, y = args
    x_dim, y_dim = dims
    if x_dim is not None:
        lc, lb = shifted(lc, x_dim), shifted(lb, x_dim)
    if y_dim is not None:
        rc, rb = shifted(rc, y_dim), shifted(rb, y_dim)
    if x_dim is not None and y_dim is not None:
        to = 0
        lb, rb = insert(lb, 0, x_dim), insert(rb, 0, y_dim)
    elif x_dim is not None:
        to = len(lb) + _free(type_of(x).ndim, lc, lb).index(x_dim)
    else:
        x_free = len(_free(type_of(x).ndim, lc, lb))
        to = len(lb) + x_free + _free(type_of(y).ndim, rc, rb).index(y_dim)
    out = ops.dot_general(x, y, ((lc, rc), (lb, rb)), preferred_element_type)
    return (out,), (to,)


c.dot_general_p.define(batch=_batch_dot_general)
