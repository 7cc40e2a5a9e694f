"""Lowering of `searchsorted`: a binary search without branches as a function of the index, so that vectors search for many values at a time.

All searches in a row take the same steps, whose lengths are known. The elements that the first of them may look at are few: they are chosen from
registers by the answers so far, which costs less than to gather them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import scalars
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.combining import accumulator_dtype
from tracegrad.codegen.elementwise import waits
from tracegrad.codegen.loop_ir import Index, Value
from tracegrad.codegen.values import (
    OTHER,
    POSITION,
    Indices,
    Lazy,
    Scalar,
    Scalars,
    add_leaf,
    leaves_of,
    literal,
    load,
    read,
)
from tracegrad.ir import sorting as ir
from tracegrad.ir.program import Equation

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

CHOSEN = 5
"""Steps whose element is chosen from registers,"""
MANY = 16
"""where at least so many values are searched for."""
BOOL = np.dtype(bool)


def lower(ctx: Context, eqn: Equation) -> None:
    (a, v), (out,) = eqn.inputs, eqn.outputs
    t = out.type
    if t.size == 0:
        ctx.define(out, ctx.temporary(t))
        return
    n = a.type.shape[-1]
    if n == 0:
        zero = literal(ctx.b, t.dtype, 0)
        ctx.define(out, Scalars(t, [zero]) if t.size == 1 else Lazy(t, lambda b, i: zero, {}, 0))
        return
    row = ctx.view(a)
    form = ctx.readable(ctx.value(v))
    small = ctx.in_registers(t) and not waits(form)
    outer = len(a.type.shape) - 1
    chosen = CHOSEN if t.size >= MANY else 0
    side = eqn.params["side"]
    dtype = accumulator_dtype(a.type.dtype)

    def evaluate(b: Builder, i: Indices) -> Scalar:
        def element(k: Index) -> Scalar:
            return load(b, row.buffer, row.position((*i[:outer], k)))

        return search(b, element, read(b, form, i), n, dtype, side, "i32" if t.dtype.itemsize == 4 else "i64", chosen)

    leaves: dict[Any, int] = {POSITION: OTHER, row.buffer: OTHER}
    for leaf, how in leaves_of(form).items():
        add_leaf(leaves, leaf, how)
    lazy = form if isinstance(form, Lazy) else None
    steps = n.bit_length()
    found = Lazy(t, evaluate, leaves, 6 * steps + (lazy.cost if lazy else 1), 1 + (lazy.depth if lazy else 0))
    ctx.define(out, Scalars(t, ctx.elements(found)) if small else found)


def search(b: Builder, element: Any, x: Scalar, n: int, dtype: Any, side: str, type: str, chosen: int) -> Value:
    """How many of n sorted elements go before x."""
    floating = dtype.kind == "f"

    def precedes(e: Scalar) -> Value:
        if not floating:
            return scalars.apply(b, "lt" if side == "left" else "le", dtype, BOOL, [e, x], {})
        if side == "left":  # numbers go before NaN
            less = b.op("fcmp", "i1", e, x, attr="ult")
            return b.op("and", "i1", less, b.op("fcmp", "i1", e, e, attr="ord"))
        return b.op("or", "i1", b.op("fcmp", "i1", e, x, attr="ole"), b.op("fcmp", "i1", x, x, attr="uno"))

    # where the first elements that may be looked at begin, by the answers so far: the last answer is the lowest bit
    starts = [0]
    answers: list[Value] = []
    total: Value | None = None  # where the rest of the search begins
    left = n
    while left:
        half = max(left // 2, 1)
        if total is None:
            found = [element(start + half - 1) for start in starts]
            for answer in reversed(answers):
                found = [b.select(answer, one, zero) for zero, one in zip(found[::2], found[1::2], strict=True)]
            (middle,) = found
        else:
            middle = element(b.to_index(total) + (half - 1))
        answer = precedes(middle)
        if total is None and len(answers) < chosen and left > 1:
            answers.append(answer)
            starts = [s for start in starts for s in (start, start + half)]
            if len(answers) >= chosen:
                total = _sum_of(b, answers, starts, type)
        else:
            if total is None:
                total = _sum_of(b, answers, starts, type)
            step = b.select(answer, b.const(type, half), b.const(type, 0))
            total = b.op("add", type, total, step)
        total_most = n - (left - half) if total is not None else 0
        if total is not None and not total.is_const:
            total.low, total.high = 0, total_most
        left = left - half if left > 1 else 0
    assert total is not None
    return total


def _sum_of(b: Builder, answers: list[Value], starts: list[int], type: str) -> Value:
    """The start that the answers choose."""
    total = b.const(type, 0)
    for k, answer in enumerate(answers):
        # the k-th answer is a bit of the number of a start, and adds the same to all
        step = starts[1 << (len(answers) - 1 - k)]
        total = b.op("add", type, total, b.select(answer, b.const(type, step), b.const(type, 0)))
    return total


ir.searchsorted_p.define(lower=lower)
