"""Lowering of elementwise primitives: in registers at once, otherwise as lazy values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tracegrad.codegen import scalars
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.plan import COSTS
from tracegrad.codegen.values import (
    INVARIANT,
    Form,
    Indices,
    Lazy,
    Root,
    Scalar,
    Scalars,
    add_leaf,
    combine,
    leaves_of,
    read,
)
from tracegrad.ir import elementwise as ir
from tracegrad.ir import special
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.program import Atom, Equation

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context


UNROLLED_CALLS, DEAR = 8, 10
"""Elementary functions of more elements than this are a loop, which vectorizes, although the tensor lives in registers."""


def waits(form: Form) -> bool:
    """Whether a value needs a nest that has not been emitted."""
    return isinstance(form, Lazy) and any(type(leaf) is Root and leaf.value is None for leaf in form.leaves)


def lower(ctx: Context, eqn: Equation) -> None:
    lower_as(ctx, eqn, eqn.primitive.name, eqn.inputs)


def lower_as(ctx: Context, eqn: Equation, name: str, inputs: Sequence[Atom]) -> None:
    """Lower an equation by the rule `name` of `scalars`, applied to these inputs."""
    out = eqn.outputs[0]
    t = out.type
    in_types = [a.type for a in inputs]
    dtype = in_types[1].dtype if name == "select" else in_types[0].dtype
    params = eqn.params
    forms = [ctx.value(a) for a in inputs]
    b = ctx.b
    out_dtype = t.dtype
    apply = scalars.apply
    cost = COSTS.get(name, 1)
    if ctx.in_registers(t) and (t.size <= UNROLLED_CALLS or cost < DEAR) and not any(map(waits, forms)):
        columns = [f.elements if type(f) is Scalars else ctx.elements(a) for f, a in zip(forms, inputs)]
        size = t.size
        if size == 1:
            elements = [apply(b, name, dtype, out_dtype, [c[0] for c in columns], params)]
        else:
            columns = [c if len(c) == size else c * size for c in columns]
            elements = [apply(b, name, dtype, out_dtype, list(args), params) for args in zip(*columns)]
        ctx.define(out, Scalars(t, elements))
        return
    ctx.define(out, lazy_map(ctx, t, forms, lambda b, args: apply(b, name, dtype, out_dtype, args, params), cost))


def lazy_map(ctx: Context, t: Any, forms: list[Form], function: Any, cost: int) -> Lazy:
    """The lazy value `function(b, elements of the operands)`; operands of rank 0 stand for all indices."""
    readers: list[Any] = []
    leaves: dict[Any, int] = {}
    depth = 0
    for f in forms:
        f = ctx.readable(f)
        scalar = f.type.shape == () and t.shape != ()
        readers.append((f, scalar))
        for leaf, how in leaves_of(f).items():
            add_leaf(leaves, leaf, combine(INVARIANT if scalar else 0, how))
        if isinstance(f, Lazy):
            if not scalar:
                cost += f.cost
            depth = max(depth, f.depth)
        elif type(f) is not Scalars and not scalar:
            cost += 1

    def evaluate(b: Builder, indices: Indices) -> Scalar:
        return function(b, [read(b, f, () if scalar else indices) for f, scalar in readers])

    return Lazy(t, evaluate, leaves, cost, depth + 1)


def lower_identity(ctx: Context, eqn: Equation) -> None:
    ctx.define(eqn.outputs[0], ctx.value(eqn.inputs[0]))


for _primitive in REGISTRY.values():
    if _primitive.family in ("elementwise", "special") and scalars.supported(_primitive.name):
        _primitive.define(lower=lower)
ir.stop_gradient_p.define(lower=lower_identity)
ir.copy_p.define(lower=lower_identity)

__all__ = ["lazy_map", "lower", "lower_as", "special", "waits"]
