"""Lowering of cumulative operations."""

from __future__ import annotations

from contextlib import ExitStack
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import conversions
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.combining import Reduction, accumulator_dtype, finish, flatten, unflatten
from tracegrad.codegen.loop_ir import Index, Value
from tracegrad.codegen.nests import UNROLLED, Space, emit_loops, note_pointwise, open_loops, read_at_their_index
from tracegrad.codegen.values import Indices, Scalar, View, literal, load, read, store
from tracegrad.ir import reductions as ir
from tracegrad.ir.program import Equation
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

CHAINS = 4
"""Rows that are accumulated along at a time: each is a chain of dependent operations, and the processor has room for several."""


def lower_cumulative(name: str) -> Any:
    def lower(ctx: Context, eqn: Equation) -> None:
        (x,), (out,) = eqn.inputs, eqn.outputs
        axis, reverse = eqn.params["axis"], eqn.params["reverse"]
        form = ctx.value(x)
        t = out.type
        b = ctx.b
        shape = t.shape
        dtype = accumulator_dtype(t.dtype)
        rule = Reduction(name, (axis,), dtype)

        def step(total: Scalar, value: Scalar) -> Scalar:
            if name == "logaddexp":
                return log_add_exp(b, total, value)
            return rule.combine(b, total, value)

        if t.size == 0:
            ctx.define(out, ctx.temporary(t))
            return
        form = ctx.readable(form)
        ctx.settle(form)
        place = ctx.allocate(out)
        n = shape[axis]
        written = frozenset((place.buffer,))
        start = literal(b, dtype, -np.inf) if name == "logaddexp" else rule.identity(b)

        def value_at(indices: Indices) -> Scalar:
            return conversions.convert(b, read(b, form, indices), t.dtype, dtype)

        kept = tuple(1 if d == axis else n for d, n in enumerate(shape))
        trailing = prod(shape[axis + 1 :])
        first = len(b.scopes[-1].items)
        if trailing >= UNROLLED:
            # rows: out[i] = out[i - 1] + x[i], contiguous inside
            lead = [(d, s, False) for d, s in enumerate(shape[:axis]) if s != 1]
            with ExitStack() as stack:
                places = open_loops(ctx, stack, lead, written)
                space = Space(shape, False)
                rest = [(d, s, False) for d, s in enumerate(shape) if d > axis and s != 1]
                carry = ctx.temporary(ArrayType(shape[axis + 1 :], dtype)) if dtype != t.dtype else None
                if carry is not None:
                    written = written | {carry.buffer}
                _rows(ctx, space, places, rest, axis, 0, 1, n, reverse, place, carry, written, value_at, step, rule, start)
        else:
            _chains(ctx, Space(kept, False), axis, n, reverse, place, written, value_at, step, rule, start)
        note_pointwise(b, first, [place], read_at_their_index([form]))
        ctx.define(out, place)

    return lower


def _rows(
    ctx: Context, space: Space, places: Any, rest: Any, axis: int, low: int, _: int, n: int, reverse: bool, place: View,
    carry: View | None, written: Any, value_at: Any, step: Any, rule: Reduction, start: Scalar,
) -> None:  # fmt: skip
    """The rows of a cumulative operation along a leading axis, each from the one before."""
    b = ctx.b
    dtype = place.type.dtype

    def row(at: Index, before: Index | None) -> None:
        with ExitStack() as stack:
            inner = open_loops(ctx, stack, rest, written)
            indices = space.indices({**places, axis: at, **inner})
            value = value_at(indices)
            tail = indices[axis + 1 :]
            if before is not None:
                if carry is not None:
                    previous = load(b, carry.buffer, carry.position(tail))
                else:
                    previous = load(b, place.buffer, place.position((*indices[:axis], before, *tail)))
                value = step(previous, value)
            if carry is not None:
                store(b, carry.buffer, carry.position(tail), value)
            store(b, place.buffer, place.position(indices), finish(b, rule, value, dtype))

    row(n - 1 if reverse else 0, None)
    if n > 1:
        with b.loop(1, n, memory=False, written=written, name="r") as loop:
            at = -loop.index + (n - 1) if reverse else loop.index
            row(at, at + 1 if reverse else at - 1)


def log_add_exp(b: Builder, x: Scalar, y: Scalar) -> Scalar:
    """log(exp(x) + exp(y)) without overflow."""
    t = x.type
    high = b.op("maximum", t, x, y)
    low = b.op("minimum", t, x, y)
    gap = b.op("fsub", t, low, high)
    same = b.op("fcmp", "i1", x, y, attr="oeq")  # also both infinite, whose difference is NaN
    gap = b.select(same, b.const(t, 0.0), gap)
    return b.op("fadd", t, high, b.math("log1p", t, b.math("exp", t, gap)))


def running_log_sum(b: Builder, state: tuple[Value, Value], x: Value) -> tuple[Value, Value]:
    """(m, t) for a sum of exponentials exp(m) (1 + t), m the largest exponent, with one more of them.

    A step waits for one multiplication of the step before; the exponential and the logarithm are off that path (the online softmax
    of M. Milakov and N. Gimelshein, 2018, with what exceeds 1 kept apart so that small terms count).
    """
    largest, excess = state
    t = x.type
    same = b.op("fcmp", "i1", x, largest, attr="oeq")  # also both infinite, whose difference is NaN
    high, low = b.op("maximum", t, largest, x), b.op("minimum", t, largest, x)
    ratio = b.math("exp", t, b.select(same, b.const(t, 0.0), b.op("fsub", t, low, high)))
    larger = b.op("fcmp", "i1", x, largest, attr="ogt")
    scaled = b.op("fadd", t, b.op("fmul", t, excess, ratio), ratio)
    return high, b.select(larger, scaled, b.op("fadd", t, excess, ratio))


def _chains(
    ctx: Context, space: Space, axis: int, n: int, reverse: bool, place: View, written: Any, value_at: Any, step: Any,
    rule: Reduction, start: Scalar,
) -> None:  # fmt: skip
    """Cumulative operations along the last axis that matters: several rows side by side."""
    b = ctx.b
    dtype = place.type.dtype
    logarithms = rule.name == "logaddexp"
    if logarithms:
        start = (start, b.const(start.type, 0.0))

    def run(rows: list[Indices]) -> None:
        starts = [start] * len(rows)
        with b.loop(0, n, carry=flatten(starts), memory=False, written=written, name="r") as loop:
            at = loop.index if not reverse else -loop.index + (n - 1)
            totals = []
            for row, total in zip(rows, unflatten(loop.params, starts)):
                where = (*row[:axis], at, *row[axis + 1 :])
                if logarithms:
                    total = running_log_sum(b, total, value_at(where))
                    result = b.op("fadd", total[0].type, total[0], b.math("log1p", total[0].type, total[1]))
                else:
                    total = result = step(total, value_at(where))
                store(b, place.buffer, place.position(where), finish(b, rule, result, dtype))
                totals.append(total)
            loop.yields = flatten(totals)

    runs = space.runs
    if not runs:
        run([space.indices({})])
        return
    d, size, _ = runs[-1]
    if size < 2 * CHAINS:
        emit_loops(ctx, space, written, lambda indices: run([indices]), 4 * n)
        return
    whole = size // CHAINS
    with ExitStack() as stack:
        places = open_loops(ctx, stack, [*runs[:-1], (d, whole, False)], written, 8 * n * prod(space.shape))
        run([space.indices({**places, d: places[d] * CHAINS + k}) for k in range(CHAINS)])
    if whole * CHAINS < size:
        with ExitStack() as stack:
            places = open_loops(ctx, stack, runs[:-1], written)
            run([space.indices({**places, d: k}) for k in range(whole * CHAINS, size)])


for _name, _combine in (("sum", "add"), ("prod", "mul"), ("max", "max"), ("min", "min"), ("logsumexp", "logaddexp")):
    getattr(ir, f"cum{_name}_p").define(lower=lower_cumulative(_combine))
