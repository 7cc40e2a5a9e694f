"""Lowering of callbacks: a call of the runtime's one entry for Python functions.

    int32 tg.runtime.callback(int64 handle, ptr* operands, ptr* results)

The handle is not part of the code: it is read from the slots that follow the addresses of the constants. A result other than zero
says that the function has raised; the native function returns at once with that code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen.loop_ir import Buffer
from tracegrad.codegen.values import View
from tracegrad.ir.calls import callback_p, pure_callback_p
from tracegrad.ir.program import Equation

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

SYMBOL = "tg.runtime.callback"


def lower_callback(ctx: Context, eqn: Equation) -> None:
    b = ctx.b
    lowering = ctx.lowering
    p = eqn.params
    sources = [ctx.dense(a) for a in eqn.inputs]
    results: list[View] = []
    for v in eqn.outputs:
        view = ctx.allocate(v)
        if not view.is_dense or any(view.buffer is s.buffer for s in sources):
            view = ctx.temporary(v.type)
        ctx.before_overwrite(view.buffer)
        results.append(view)
    dropped = [ctx.temporary(t) for t in p["out_types"][len(results) :]]
    lowering.callbacks.append((p["callback"], tuple(a.type for a in eqn.inputs), tuple(p["out_types"])))
    slots = lowering.slots()
    handle = b.load(slots, len(lowering.callbacks) - 1)
    operands = _table(ctx, sources)
    places = _table(ctx, [*results, *dropped])
    buffers = [s.buffer for s in sources]
    status = b.call(
        SYMBOL,
        [handle, b.address(operands), b.address(places)],
        "i32",
        reads=[operands, places, *buffers],
        writes=[v.buffer for v in (*results, *dropped)],
    )
    assert status is not None
    b.leave_if(b.op("icmp", "i1", status, b.const("i32", 0), attr="ne"), status)
    for v, view in zip(eqn.outputs, results):
        ctx.define(v, view)


def _table(ctx: Context, views: list[Any]) -> Buffer:
    """The addresses of views, in memory, one after the other."""
    b = ctx.b
    table = b.temporary(np.int64, max(len(views), 1))
    for k, view in enumerate(views):
        scalars = 2 if view.type.dtype.kind == "c" else 1
        b.store(table, k, b.address(view.buffer, view.offset * scalars))
    return table


callback_p.define(lower=lower_callback)
pure_callback_p.define(lower=lower_callback)

__all__ = ["SYMBOL", "lower_callback"]
