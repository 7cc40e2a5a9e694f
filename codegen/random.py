"""Lowering of the Threefry block cipher: two lazy values that share their rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tracegrad.codegen.builder import Builder
from tracegrad.codegen.elementwise import lazy_map, waits
from tracegrad.codegen.loop_ir import Value
from tracegrad.codegen.plan import COSTS
from tracegrad.codegen.values import Lazy, Scalars, read
from tracegrad.ir.primitive import Declined
from tracegrad.ir.program import Equation
from tracegrad.ir.random import PARITY, ROTATIONS, key_unwrap_p, key_wrap_p, threefry2x32_p

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

Op = Callable[[Value, Value], Value]


def encipher(b: Builder, args: list[Value]) -> tuple[Value, Value]:
    """The 20 rounds, on 32-bit words."""
    k0, k1, x0, x1 = args
    add: Op = lambda p, q: b.op("add", "i32", p, q)
    xor: Op = lambda p, q: b.op("xor", "i32", p, q)
    keys = (k0, k1, xor(xor(k0, k1), b.const("i32", PARITY)))
    y0, y1 = add(x0, k0), add(x1, k1)
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            y0 = add(y0, y1)
            y1 = xor(b.op("fshl", "i32", y1, y1, b.const("i32", rotation)), y0)
        y0 = add(y0, keys[(block + 1) % 3])
        y1 = add(add(y1, keys[(block + 2) % 3]), b.const("i32", block + 1))
    return y0, y1


def lower_threefry(ctx: Context, eqn: Equation) -> None:
    first, second = eqn.outputs
    t = first.type
    forms = [ctx.value(a) for a in eqn.inputs]
    if ctx.in_registers(t) and not any(map(waits, forms)):
        columns = [ctx.elements(a) for a in eqn.inputs]
        columns = [c * t.size if len(c) == 1 else c for c in columns]
        pairs = [encipher(ctx.b, list(args)) for args in zip(*columns)]
        ctx.define(first, Scalars(t, [p[0] for p in pairs]))
        ctx.define(second, Scalars(t, [p[1] for p in pairs]))
        return
    both = lazy_map(ctx, t, forms, encipher, COSTS["threefry2x32"])

    def half(k: int) -> Lazy:
        def evaluate(b: Builder, i: Any) -> Value:
            return read(b, both, i)[k]

        return Lazy(t, evaluate, both.leaves, both.cost, both.depth + 1)

    ctx.define(first, half(0))
    ctx.define(second, half(1))


threefry2x32_p.define(lower=lower_threefry)

__all__ = ["encipher", "lower_threefry"]
for _prim in (key_wrap_p, key_unwrap_p):
    _prim.define(lower=Declined("typed keys are made physical before code is generated"))
