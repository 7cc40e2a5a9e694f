"""Reductions as accumulators of loop nests, and cumulative operations and index searches as loops.

Trailing reduced dimensions accumulate in registers; the sum of a long dimension is taken in blocks. Leading ones accumulate in
memory, element by element of a row, so that the inner loop stays contiguous. The order of summation is a function of the shape.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import scalars
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.loop_ir import Buffer, Index
from tracegrad.codegen.nests import (
    BLOCK,
    UNROLLED,
    UNROLLED_REDUCTION,
    Group,
    Space,
    emit_loops,
    emit_maps,
    finish_maps,
    is_flat,
    open_loops,
)
from tracegrad.codegen.values import (
    FLOAT16,
    IDENTICAL,
    Indices,
    Lazy,
    Pending,
    Root,
    Scalar,
    Scalars,
    View,
    leaves_of,
    literal,
    load,
    read,
    store,
)
from tracegrad.ir import reductions as ir
from tracegrad.ir.program import Equation
from tracegrad.ir.reductions import greatest, least
from tracegrad.ir.types import ArrayType, bfloat16

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

FLOAT32 = np.dtype(np.float32)


def accumulator_dtype(dtype: Any) -> Any:
    return FLOAT32 if dtype in (FLOAT16, bfloat16) else dtype


class Reduction:
    """How elements are combined: the operation, the axes, the dtype of the accumulator."""

    __slots__ = ("name", "axes", "dtype")

    def __init__(self, name: str, axes: tuple[int, ...], dtype: Any):
        self.name = name
        self.axes = axes
        self.dtype = dtype

    def identity(self, b: Builder) -> Scalar:
        return literal(b, self.dtype, identity(self.name, self.dtype))

    def combine(self, b: Builder, x: Scalar, y: Scalar) -> Scalar:
        return combine(b, self.name, self.dtype, x, y)


def identity(name: str, dtype: Any) -> Any:
    """The neutral element of add, mul, max, min, and, or, xor."""
    if name in ("add", "or", "xor"):
        return dtype.type(0)
    if name == "mul":
        return dtype.type(1)
    if name == "and":
        return np.True_ if dtype.kind == "b" else np.invert(dtype.type(0))
    return least(dtype) if name == "max" else greatest(dtype)


def combine(b: Builder, name: str, dtype: Any, x: Scalar, y: Scalar) -> Scalar:
    """One step of a reduction, which may be reordered."""
    if name in ("add", "mul"):
        op = "f" + name
        if dtype.kind == "f":
            return b.op(op, x.type, x, y, attr="reassoc contract")
        if dtype.kind == "c" and name == "add":
            return tuple([b.op(op, p.type, p, q, attr="reassoc contract") for p, q in zip(x, y)])
    return scalars.apply(b, name, dtype, dtype, [x, y], {})


# ------------------------------------------------------------------------------------------------------------------ lowering


def reduce_rule(name: str) -> Any:
    def lower(ctx: Context, eqn: Equation) -> None:
        reduce_form(ctx, eqn, name)

    return lower


def reduce_form(ctx: Context, eqn: Equation, name: str) -> None:
    """Reduce the operand along `axes`: at once in registers, or as a root that waits for its nest."""
    (x,), (out,) = eqn.inputs, eqn.outputs
    axes = eqn.params["axes"]
    t = out.type
    form = ctx.value(x)
    dtype = accumulator_dtype(t.dtype)
    reduction = Reduction(name, axes, dtype)
    shape = x.type.shape
    if x.type.size == 0 or t.size == 0:
        value = literal(ctx.b, t.dtype, identity(name, t.dtype))
        ctx.define(out, Scalars(t, [value]) if t.size == 1 else Lazy(t, lambda b, i: value, {}, 0))
        return
    if type(form) is Scalars and len(form.elements) == x.type.size:
        ctx.define(out, Scalars(t, _reduce_elements(ctx.b, form, reduction, t.dtype)))
        return
    if ctx.in_registers(x.type) and ctx.in_registers(t) and not _waits(form):
        elements = ctx.elements(x)
        ctx.define(out, Scalars(t, _reduce_elements(ctx.b, Scalars(x.type, elements), reduction, t.dtype)))
        return
    lazy = as_lazy(ctx, form)
    if prod(shape[a] for a in axes) == 1:
        from tracegrad.codegen.structural import drop_axes

        ctx.define(out, drop_axes(ctx, lazy, axes, t))
        return
    ctx.define_pending(out, ctx.defer(Root(t, lazy, ctx.targets.get(out), reduction)))


def _waits(form: Any) -> bool:
    return isinstance(form, Lazy) and any(type(leaf) is Root and leaf.value is None for leaf in form.leaves)


def as_lazy(ctx: Context, form: Any) -> Lazy:
    """Any value as a lazy one."""
    form = ctx.readable(form)
    if isinstance(form, Lazy):
        return form
    return Lazy(form.type, lambda b, i: read(b, form, i), leaves_of(form), 1)


def _reduce_elements(b: Builder, form: Scalars, reduction: Reduction, out: Any) -> list[Scalar]:
    """A reduction in registers, as a balanced tree for every result."""
    shape = form.type.shape
    table = np.arange(form.type.size).reshape(shape)
    kept = [d for d in range(len(shape)) if d not in reduction.axes]
    rows = table.transpose(*kept, *reduction.axes).reshape(prod(shape[d] for d in kept), -1)
    results = []
    for row in rows.tolist():
        results.append(finish(b, reduction, tree(b, reduction, [form.elements[k] for k in row]), out))
    return results


def tree(b: Builder, reduction: Reduction, parts: list[Scalar]) -> Scalar:
    while len(parts) > 1:
        paired = [reduction.combine(b, x, y) for x, y in zip(parts[::2], parts[1::2])]
        parts = paired + parts[len(paired) * 2 :]
    return parts[0]


def finish(b: Builder, reduction: Reduction, value: Scalar, out: Any) -> Scalar:
    return scalars.convert(b, value, reduction.dtype, out)


# --------------------------------------------------------------------------------------------------------------------- nests


def emit_reductions(ctx: Context, group: Group, maps: list[Root], reduced: list[Root]) -> None:
    """The nest of a group that has reductions: loops in row-major order, accumulators as far inside as they can be."""
    b = ctx.b
    flat = all(is_flat(r.lazy) for r in group.roots) and all(r.target.is_dense for r in maps)
    axes = group.axes
    assert axes is not None
    space = Space(group.shape, flat, axes)
    runs = space.runs
    last = max(k for k, run in enumerate(runs) if run[2])
    suffix = runs[last + 1 :]
    first = last
    while first > 0 and runs[first - 1][2]:
        first -= 1
    inner, outer = runs[first : last + 1], runs[:first]
    lanes = prod(n for _, n, _ in suffix)
    written = frozenset(r.target.buffer for r in maps)
    if lanes > UNROLLED:
        _emit_rows(ctx, space, maps, reduced, written)
    else:
        _emit_accumulators(ctx, space, maps, reduced, written, outer, inner, suffix)
    finish_maps(maps)
    b.memo.clear()


def work_of(space: Space, maps: list[Root], reduced: list[Root]) -> int:
    """About how many operations a nest takes."""
    return prod(space.shape) * (4 + sum(r.lazy.cost + 1 for r in (*maps, *reduced)))


def _kept_type(root: Root) -> ArrayType:
    return root.type.update(dtype=root.reduction.dtype)


def _kept(root: Root, indices: Indices) -> Indices:
    return tuple([i for d, i in enumerate(indices) if d not in root.reduction.axes])


def _flat_position(view: View, root: Root, indices: Indices) -> Index:
    return view.position(_kept(root, indices))


def _places_for(ctx: Context, reduced: list[Root], partial: bool) -> list[View]:
    """Where results go: the place that the caller wants, if it can hold partial results, or a temporary."""
    places = []
    for r in reduced:
        if r.target is not None and (not partial or r.type.dtype == r.reduction.dtype) and r.target.is_dense:
            places.append(View(r.type, r.target.buffer, r.target.offset, r.target.strides))
        else:
            places.append(ctx.temporary(_kept_type(r) if partial else r.type))
    return places


def _initialize(ctx: Context, reduced: list[Root], places: list[View]) -> None:
    for r, place in zip(reduced, places):
        value = r.reduction.identity(ctx.b)
        ctx.fill(place, Lazy(place.type, lambda b, i, v=value: v, {}, 0))


def _settle(ctx: Context, reduced: list[Root], places: list[View]) -> None:
    """Round partial results to the type of the result."""
    for r, place in zip(reduced, places):
        if place.type.dtype != r.type.dtype:
            target = r.target if r.target is not None else ctx.temporary(r.type)
            lazy = Lazy(
                r.type,
                lambda b, i, r=r, p=place: finish(b, r.reduction, read(b, p, i), r.type.dtype),
                {place.buffer: IDENTICAL},
                2,
            )
            ctx.fill(target, lazy)
            place = View(r.type, target.buffer, target.offset, target.strides)
        r.value = place


def _emit_accumulators(
    ctx: Context,
    space: Space,
    maps: list[Root],
    reduced: list[Root],
    written: frozenset[Buffer],
    outer: list[tuple[int, int, bool]],
    inner: list[tuple[int, int, bool]],
    suffix: list[tuple[int, int, bool]],
) -> None:
    """Accumulators in registers, for every result of a short suffix."""
    b = ctx.b
    partial = any(run[2] for run in outer)
    scalar_result = not outer and len(suffix) == 0
    in_registers = not outer and all(ctx.in_registers(r.type) for r in reduced)
    places: list[View] = []
    if not in_registers:
        places = _places_for(ctx, reduced, partial)
        if partial:
            _initialize(ctx, reduced, places)
    written = written | frozenset(p.buffer for p in places)
    points = list(product(*[range(n) for _, n, _ in suffix]))
    with ExitStack() as stack:
        outside = open_loops(ctx, stack, outer, written, 0 if partial else work_of(space, maps, reduced))

        def element(index: dict[int, Index]) -> list[Scalar]:
            """The elements to accumulate at one point of the reduced dimensions: for every point of the suffix, of every root."""
            found: list[Scalar] = []
            for point in points:
                indices = space.indices({**index, **{d: p for (d, _, _), p in zip(suffix, point)}})
                emit_maps(ctx, maps, indices)
                for r in reduced:
                    value = read(b, r.lazy, indices)
                    found.append(scalars.convert(b, value, r.lazy.type.dtype, r.reduction.dtype))
            return found

        rules = [r.reduction for _ in points for r in reduced]
        totals = _accumulate(ctx, inner, dict(outside), rules, element, written)
        if in_registers:
            results = [finish(b, rule, v, r.type.dtype) for rule, v, r in zip(rules, totals, reduced * len(points))]
        else:
            for k, point in enumerate(points):
                indices = space.indices({**outside, **{d: p for (d, _, _), p in zip(suffix, point)}})
                for j, (r, place) in enumerate(zip(reduced, places)):
                    value = totals[k * len(reduced) + j]
                    position = _flat_position(place, r, indices)
                    if partial:
                        value = r.reduction.combine(b, load(b, place.buffer, position), value)
                    else:
                        value = finish(b, r.reduction, value, r.type.dtype)
                    store(b, place.buffer, position, value)
    if in_registers:
        for j, r in enumerate(reduced):
            r.value = Scalars(r.type, results[j :: len(reduced)])
    elif partial:
        _settle(ctx, reduced, places)
    else:
        for r, place in zip(reduced, places):
            r.value = place
    assert not scalar_result or in_registers


def _accumulate(
    ctx: Context,
    runs: list[tuple[int, int, bool]],
    places: dict[int, Index],
    rules: list[Reduction],
    element: Any,
    written: frozenset[Buffer],
) -> list[Scalar]:
    """Accumulate over the reduced runs: an accumulator for each level, so that errors do not pile up in one of them."""
    b = ctx.b
    if not runs:
        return element(places)
    (d, n, _), rest = runs[0], runs[1:]
    if prod(size for _, size, _ in runs) <= UNROLLED_REDUCTION:
        collected = []
        for point in product(*[range(size) for _, size, _ in runs]):
            collected.append(element({**places, **{dim: p for (dim, _, _), p in zip(runs, point)}}))
        return [tree(b, rule, list(parts)) for rule, parts in zip(rules, zip(*collected))]

    def step(index: Index, totals: list[Scalar]) -> list[Scalar]:
        parts = _accumulate(ctx, rest, {**places, d: index}, rules, element, written)
        return [rule.combine(b, total, part) for rule, total, part in zip(rules, totals, parts)]

    def run(low: int, high: int, base: Index, start: list[Scalar]) -> list[Scalar]:
        flat = flatten(start)
        with b.loop(low, high, carry=flat, memory=False, written=written, name="r") as loop:
            loop.yields = flatten(step(base + loop.index, unflatten(loop.params, start)))
        return unflatten(loop.results, start)

    identities = [rule.identity(b) for rule in rules]
    sums = any(rule.name in ("add", "mul") and rule.dtype.kind in "fc" for rule in rules)
    if not sums or n < 4 * BLOCK or rest:
        return run(0, n, 0, identities)
    whole = n // BLOCK
    flat = flatten(identities)
    with b.loop(0, whole, carry=flat, memory=False, written=written, name="block") as blocks:
        parts = run(0, BLOCK, blocks.index * BLOCK, identities)
        totals = unflatten(blocks.params, identities)
        blocks.yields = flatten([rule.combine(b, t, p) for rule, t, p in zip(rules, totals, parts)])
    totals = unflatten(blocks.results, identities)
    if whole * BLOCK == n:
        return totals
    parts = run(0, n - whole * BLOCK, whole * BLOCK, identities)
    return [rule.combine(b, t, p) for rule, t, p in zip(rules, totals, parts)]


def flatten(values: list[Scalar]) -> list[Any]:
    """Complex numbers as two values each: what a loop carries."""
    out: list[Any] = []
    for v in values:
        if type(v) is tuple:
            out.extend(v)
        else:
            out.append(v)
    return out


def unflatten(flat: list[Any], like: list[Scalar]) -> list[Scalar]:
    out: list[Scalar] = []
    k = 0
    for v in like:
        if type(v) is tuple:
            out.append((flat[k], flat[k + 1]))
            k += 2
        else:
            out.append(flat[k])
            k += 1
    return out


def _emit_rows(ctx: Context, space: Space, maps: list[Root], reduced: list[Root], written: frozenset[Buffer]) -> None:
    """Accumulators in memory: every row of the kept trailing dimensions is added to them, in a contiguous loop."""
    b = ctx.b
    places = _places_for(ctx, reduced, True)
    _initialize(ctx, reduced, places)
    written = written | frozenset(p.buffer for p in places)
    with ExitStack() as stack:
        indices = space.indices(open_loops(ctx, stack, space.runs, written))
        emit_maps(ctx, maps, indices)
        values = []
        for r in reduced:
            value = read(b, r.lazy, indices)
            values.append(scalars.convert(b, value, r.lazy.type.dtype, r.reduction.dtype))
        for r, place, value in zip(reduced, places, values):
            position = _flat_position(place, r, indices)
            store(b, place.buffer, position, r.reduction.combine(b, load(b, place.buffer, position), value))
    _settle(ctx, reduced, places)


# -------------------------------------------------------------------------------------------------- index searches and scans


def lower_search(name: str) -> Any:
    """argmax and argmin: the extremum first, then the least index where it stands; both passes vectorize."""

    def lower(ctx: Context, eqn: Equation) -> None:
        (x,), (out,) = eqn.inputs, eqn.outputs
        axis, index_dtype = eqn.params["axis"], eqn.params["index_dtype"]
        b = ctx.b
        form = ctx.readable(ctx.value(x))
        ctx.settle(form)
        if isinstance(form, Lazy) and form.cost > 4:
            form = ctx.view(x)
        shape = x.type.shape
        n = shape[axis]
        dtype = x.type.dtype
        reduction = Reduction(name, (axis,), dtype)
        if out.type.size == 0:
            ctx.define(out, ctx.allocate(out))
            return
        place = None if out.type.size == 1 else ctx.allocate(out)
        written = frozenset() if place is None else frozenset((place.buffer,))
        results: list[Scalar] = []

        def body(kept: Indices) -> None:
            def at(i: Index) -> Scalar:
                return read(b, form, (*kept[:axis], i, *kept[axis:]))

            with b.loop(0, n, carry=[reduction.identity(b)], memory=False, written=written, name="r") as loop:
                loop.yields = [reduction.combine(b, loop.params[0], at(loop.index))]
            best = loop.results[0]
            with b.loop(0, n, carry=[b.const("i64", n)], memory=False, written=written, name="r") as loop:
                value = at(loop.index)
                found = scalars.apply(b, "eq", dtype, dtype, [value, best], {})
                if dtype.kind == "f":
                    found = b.op("or", "i1", found, b.op("fcmp", "i1", value, value, attr="uno"))
                here = b.select(found, loop.counter, b.const("i64", n))
                loop.yields = [b.op("smin", "i64", loop.params[0], here)]
            index = scalars.convert(b, loop.results[0], np.dtype(np.int64), index_dtype)
            if place is None:
                results.append(index)
            else:
                store(b, place.buffer, place.position(kept), index)

        emit_loops(ctx, Space(out.type.shape, False), written, body)
        ctx.define(out, Scalars(out.type, results) if place is None else place)

    return lower


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
            return scalars.convert(b, read(b, form, indices), t.dtype, dtype)

        kept = tuple(1 if d == axis else n for d, n in enumerate(shape))
        trailing = prod(shape[axis + 1 :])
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

            def body(indices: Indices) -> None:
                flat = flatten([start])
                with b.loop(0, n, carry=flat, memory=False, written=written, name="r") as loop:
                    at = loop.index if not reverse else -loop.index + (n - 1)
                    where = (*indices[:axis], at, *indices[axis + 1 :])
                    total = step(unflatten(loop.params, [start])[0], value_at(where))
                    store(b, place.buffer, place.position(where), finish(b, rule, total, t.dtype))
                    loop.yields = flatten([total])

            emit_loops(ctx, Space(kept, False), written, body)
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


for _name, _combine in (
    ("sum", "add"),
    ("prod", "mul"),
    ("max", "max"),
    ("min", "min"),
    ("and", "and"),
    ("or", "or"),
    ("xor", "xor"),
):
    getattr(ir, f"reduce_{_name}_p").define(lower=reduce_rule(_combine))
ir.argmax_p.define(lower=lower_search("max"))
ir.argmin_p.define(lower=lower_search("min"))


def lower_general(ctx: Context, eqn: Equation) -> None:
    """A reduction of several arrays by a program: its body is inlined in the innermost loop."""
    from tracegrad.codegen.lower import Context as NewContext

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
            inner = NewContext(ctx.lowering, body)
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
for _name, _combine in (("sum", "add"), ("prod", "mul"), ("max", "max"), ("min", "min"), ("logsumexp", "logaddexp")):
    getattr(ir, f"cum{_name}_p").define(lower=lower_cumulative(_combine))

__all__ = ["Pending", "Reduction", "as_lazy", "combine", "emit_reductions", "flatten", "identity", "unflatten"]
