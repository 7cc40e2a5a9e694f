"""The operands of products as matrices: views of memory with dimensions in another order and merged, and long sums cut into parts."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from tracegrad.codegen.structural import _reshaped_strides
from tracegrad.codegen.values import Form, View, dense_strides
from tracegrad.ir.program import Atom

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

LONG, NARROW, SMALL = 2, 8, 32
"""Sums at least so many times as long as their result is wide, where it has at least so many rows and columns but at most so many elements for
each term of a sum, are computed in parts, which run at once:"""
MOST_PARTS, SHORTEST_PART, BEST_PART = 64, 64, 512
"""so many parts at most, of so many terms at least; as near as can be to the last number."""


def is_long(m: int, k: int, n: int) -> bool:
    """Whether the product of m x k and k x n numbers is a few long sums."""
    return k >= LONG * max(m, n) and m * n <= SMALL * k and min(m, n) >= NARROW


def parts_of_sum(
    ctx: Context, operands: tuple[Any, Any], ldims: Any, rdims: Any, sizes: tuple[int, int, int]
) -> tuple[View, View] | None:
    """The operands of products over parts of a long sum, which add up to the product: batches of matrices. None where there are no such parts.

    Where the contracted dimensions do not lie evenly, each index of the first is a part, so that nothing is copied.
    """
    (lb, lf, lc), (rb, rc, rf) = ldims, rdims
    m, k, n = sizes
    views = [ctx.view(x) for x in operands]
    orders = ((*lb, *lf, *lc), (*rb, *rc, *rf))
    a, c = (arranged_view(v, order, s) for v, order, s in zip(views, orders, ((m, k), (k, n)), strict=True))
    if a is not None and c is not None:
        # the divisor for which parts are nearest to what the innermost loops like
        fitting = [d for d in range(4, MOST_PARTS + 1) if k % d == 0 and k // d >= SHORTEST_PART]
        if not fitting:
            return None
        count = min(fitting, key=lambda d: abs(k // d - BEST_PART))
        part = k // count
        left = View(a.type.update(shape=(count, m, part)), a.buffer, a.offset, (a.strides[1] * part, *a.strides))
        right = View(c.type.update(shape=(count, part, n)), c.buffer, c.offset, (c.strides[0] * part, *c.strides))
        return left, right
    count = views[0].type.shape[lc[0]]
    part = k // count
    if not 4 <= count <= MOST_PARTS or part < SHORTEST_PART or count * m * n > 4 * k * (m + n):
        return None
    a = arranged_view(views[0], (lc[0], *lb, *lf, *lc[1:]), (count, m, part))
    c = arranged_view(views[1], (rc[0], *rb, *rc[1:], *rf), (count, part, n))
    return None if a is None or c is None else (a, c)


def arranged(ctx: Context, form: Atom | Form, batch: Any, rows: Any, columns: Any) -> View:
    """An operand as a matrix for every batch index: a view of memory with one stride for each of rows and columns."""
    view = ctx.view(form)
    order = (*batch, *rows, *columns)
    shape = view.type.shape
    wanted = (*[shape[d] for d in batch], prod(shape[d] for d in rows), prod(shape[d] for d in columns))
    found = arranged_view(view, order, wanted)
    if found is None:
        source = permuted(view, order)
        copy = ctx.temporary(source.type)
        ctx.fill(copy, source)
        return View(view.type.update(shape=wanted), copy.buffer, 0, dense_strides(wanted))
    return found


def permuted(view: View, order: tuple[int, ...]) -> View:
    """A view with its dimensions in another order."""
    shape = tuple([view.type.shape[d] for d in order])
    return View(view.type.update(shape=shape), view.buffer, view.offset, tuple([view.strides[d] for d in order]))


def arranged_view(view: View, order: tuple[int, ...], shape: tuple[int, ...]) -> View | None:
    """A view with its dimensions in another order and merged to this shape, if they lie evenly."""
    strides = _reshaped_strides(permuted(view, order), shape)
    return None if strides is None else View(view.type.update(shape=shape), view.buffer, view.offset, strides)
