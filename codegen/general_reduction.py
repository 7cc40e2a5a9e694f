"""Lowering of the reduction by a program, which is inlined in the innermost loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracegrad.codegen.combining import flatten, unflatten
from tracegrad.codegen.loop_ir import Index
from tracegrad.codegen.nests import Space, emit_loops
from tracegrad.codegen.values import Indices, Scalar, Scalars, read, store
from tracegrad.ir import reductions as ir
from tracegrad.ir.program import Equation

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context


def lower_general(ctx: Context, eqn: Equation) -> None:
    """A reduction of several arrays by a program."""
    n = len(eqn.outputs)
    operands, inits = eqn.inputs[:n], eqn.inputs[n:]
    body, axes = eqn.params["body"], eqn.params["axes"]
    shape = operands[0].type.shape
    b = ctx.b
    starts = [ctx.scalar(a) for a in inits]
    forms = [ctx.readable(ctx.value(a)) for a in operands]
    for f in forms:
        ctx.settle(f)
    small = eqn.outputs[0].type.size == 1
    places = [None if small else ctx.allocate(v) for v in eqn.outputs]
    for place in places:
        if place is not None:
            ctx.before_overwrite(place.buffer)
    reduced = [(d, size, True) for d, size in enumerate(shape) if d in axes]
    kept = [d for d in range(len(shape)) if d not in axes]
    results: list[Scalar] = []

    def over(runs: list[tuple[int, int, bool]], places_of: dict[int, Index], carried: list[Scalar]) -> list[Scalar]:
        if not runs:
            indices = tuple([places_of[d] for d in range(len(shape))])
            elements = [read(b, f, indices) for f in forms]
            inner = type(ctx)(ctx.lowering, body)
            values = inner.run([Scalars(t, [e]) for t, e in zip(body.in_types, [*carried, *elements])])
            return [inner.elements(v)[0] for v in values]
        (d, size, _), rest = runs[0], runs[1:]
        with b.loop(0, size, carry=flatten(carried), name="r") as loop:
            loop.yields = flatten(over(rest, {**places_of, d: loop.index}, unflatten(loop.params, carried)))
        return unflatten(loop.results, carried)

    def at(indices: Indices) -> None:
        if 0 in (size for _, size, _ in reduced):
            totals = starts
        else:
            totals = over(reduced, dict(zip(kept, indices)), starts)
        for place, total in zip(places, totals):
            if place is None:
                results.append(total)
            else:
                store(b, place.buffer, place.position(indices), total)

    written = frozenset(p.buffer for p in places if p is not None)
    emit_loops(ctx, Space(eqn.outputs[0].type.shape, False), written, at)
    for k, (v, place) in enumerate(zip(eqn.outputs, places)):
        ctx.define(v, Scalars(v.type, [results[k]]) if place is None else place)


ir.reduce_p.define(lower=lower_general)
