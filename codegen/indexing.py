"""Lowering of gather, scatter and the dynamic slices.

A dynamic slice of memory is a view whose offset is a value; a gather is an index function; updates and scatters write into the
operand's own memory when nobody reads it any more, so that they cost the size of the update. A window at a known place that is most of
the whole is computed together with what is around it where something would have to be copied first.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import scalars
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.elementwise import waits
from tracegrad.codegen.loop_ir import For, Index, Parallel, Value, blocks_of
from tracegrad.codegen.nests import PARALLEL_WORK, Space, open_loops
from tracegrad.codegen.structural import choose, indexed, not_negative
from tracegrad.codegen.values import (
    OTHER,
    POSITION,
    Form,
    Indices,
    Lazy,
    Pending,
    Scalar,
    Scalars,
    View,
    add_leaf,
    combine,
    is_constant_index,
    leaves_of,
    literal,
    load,
    read,
    store,
)
from tracegrad.ir import indexing as ir
from tracegrad.ir.indexing import default_fill_value
from tracegrad.ir.program import Equation
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context


def position_of(b: Builder, scalar: Value, dtype: Any) -> Index:
    """An integer scalar as a position. Unsigned 64-bit numbers beyond the signed range count as the largest position."""
    if dtype.kind == "u" and dtype.itemsize == 8 and not scalar.is_const:
        scalar = b.op("umin", "i64", scalar, b.const("i64", (1 << 63) - 1))
    if dtype.kind == "u" and scalar.is_const and scalar.attr < 0:
        return min(int(scalar.attr) + (1 << (8 * dtype.itemsize)), (1 << 62))
    return b.to_index(scalar, dtype.kind == "i")


def clamped_starts(ctx: Context, atoms: Any, shape: tuple[int, ...], sizes: tuple[int, ...]) -> Indices:
    b = ctx.b
    places: list[Index] = []
    for a, n, size in zip(atoms, shape, sizes):
        if n == size:
            places.append(0)
            continue
        places.append(b.clamp_index(position_of(b, ctx.scalar(a), a.type.dtype), 0, n - size))
    return tuple(places)


# ------------------------------------------------------------------------------------------------------------- dynamic slices


def lower_dynamic_slice(ctx: Context, eqn: Equation) -> None:
    x, *starts = eqn.inputs
    (out,) = eqn.outputs
    sizes = eqn.params["slice_sizes"]
    form = ctx.value(x)
    t = out.type
    if t.size == 0:
        ctx.define(out, ctx.temporary(t))
        return
    places = clamped_starts(ctx, starts, x.type.shape, sizes)
    if type(form) is Scalars and len(form.elements) > 1:
        picked = _pick(ctx, form, places, sizes)
        if picked is not None:
            ctx.define(out, Scalars(t, picked))
            return
    form = ctx.readable(form)
    if type(form) is View:
        ctx.define(out, View(t, form.buffer, form.position(places), form.strides))
        return
    if type(form) is Scalars:
        ctx.define(out, Scalars(t, form.elements))
        return
    lazy = indexed(t, form, lambda b, i: tuple([p + k for p, k in zip(places, i)]))
    if ctx.in_registers(t) and not waits(form):
        ctx.define(out, Scalars(t, ctx.elements(lazy)))
    else:
        ctx.define(out, lazy)


SELECTS = 8
"""An element of registers picked by a value is a chain of at most so many selects; beyond, registers go through memory."""


def _pick(ctx: Context, form: Scalars, places: Indices, sizes: tuple[int, ...]) -> list[Scalar] | None:
    """A window of registers; None where it is cheaper to go through memory."""
    b = ctx.b
    shape = form.type.shape
    moving = [d for d, p in enumerate(places) if type(p) is not int]
    grid = np.arange(form.type.size).reshape(shape)

    def window(where: tuple[int, ...]) -> list[int]:
        return grid[tuple(slice(p, p + s) for p, s in zip(where, sizes))].reshape(-1).tolist()

    if not moving:
        return [form.elements[k] for k in window(places)]  # type: ignore[arg-type]
    if len(moving) > 1 or not ctx.lowering.may_unroll:
        return None
    (d,) = moving
    count = shape[d] - sizes[d] + 1
    if count > SELECTS or count * int(np.prod(sizes)) > 64:
        return None
    start = b.index(places[d])
    result: list[Scalar] | None = None
    for k in range(count):
        elements = [form.elements[e] for e in window((*places[:d], k, *places[d + 1 :]))]  # type: ignore[arg-type]
        if result is None:
            result = elements
            continue
        here = b.op("icmp", "i1", start, b.const("i64", k), attr="eq")
        result = [_select(b, here, new, old) for new, old in zip(elements, result)]
    return result


def _select(b: Builder, condition: Value, on_true: Scalar, on_false: Scalar) -> Scalar:
    if type(on_true) is tuple:
        return tuple([b.select(condition, p, q) for p, q in zip(on_true, on_false)])
    return b.select(condition, on_true, on_false)


def lower_dynamic_update_slice(ctx: Context, eqn: Equation) -> None:
    x, update, *starts = eqn.inputs
    (out,) = eqn.outputs
    t = out.type
    if update.type.size == 0 or t.size == 0:
        ctx.define(out, ctx.value(x))
        return
    places = clamped_starts(ctx, starts, t.shape, update.type.shape)
    form = ctx.value(x)
    if type(form) is Scalars and ctx.in_registers(t):
        elements = _put(ctx, form, update, places)
        if elements is not None:
            ctx.define(out, Scalars(t, elements))
            return
    new = ctx.readable(ctx.value(update))
    ctx.settle(new)
    form = ctx.value(x)
    ctx.settle(form)
    if isinstance(new, Lazy) and _in_one_pass(ctx, x, update, new, places, out):
        ctx.define(out, _around(ctx, t, ctx.readable(ctx.value(x)), new, places))
        return
    new = _apart_from(ctx, update, new, ctx.value(x), out)
    whole = ctx.own(x, out)
    target = View(update.type, whole.buffer, whole.position(places), whole.strides)
    ctx.fill(target, new)
    ctx.define(out, View(t, whole.buffer, whole.offset, whole.strides))


def _in_one_pass(ctx: Context, x: Any, update: Any, new: Lazy, places: Indices, out: Any) -> bool:
    """Whether a window known now is computed better together with what is around it: it is most of the whole, and to write it where it
    lies, something would have to be copied first, the whole or the window itself."""
    if 2 * update.type.size < x.type.size or not is_constant_index(places):
        return False
    form = ctx.value(x)
    if type(form) is Pending and form.root.value is not None:
        form = form.root.value
    if type(form) is Scalars and len(form.elements) > 1:
        return False
    read = leaves_of(new).keys() | leaves_of(form).keys()
    target = ctx.targets.get(out)
    if target is not None and target.buffer in read:
        return False
    return type(form) is not View or form.buffer in leaves_of(new) or not ctx.may_overwrite(form, x)


def _around(ctx: Context, t: ArrayType, form: Form, new: Lazy, places: Indices) -> Lazy:
    """`new` at a place, and `form` around it."""

    def evaluate(b: Builder, indices: Indices) -> Scalar:
        inside: list[Value] = []
        for i, n, size, start in zip(indices, t.shape, new.type.shape, places):
            if size != n:
                inside.extend((not_negative(b, i - start), b.less(i - start, size)))
        within = tuple([i - start for i, start in zip(indices, places)])
        return choose(b, inside, lambda: read(b, new, within), lambda: read(b, form, indices), late=True)

    leaves: dict[Any, int] = {POSITION: OTHER}
    for leaf, how in leaves_of(form).items():
        add_leaf(leaves, leaf, how)
    for leaf, how in leaves_of(new).items():
        add_leaf(leaves, leaf, combine(OTHER, how))
    depth = max(new.depth, form.depth if isinstance(form, Lazy) else 0)
    return Lazy(t, evaluate, leaves, new.cost + (form.cost if isinstance(form, Lazy) else 1) + 2, depth + 1)


def _apart_from(ctx: Context, atom: Any, new: Form, old: Form, out: Any) -> Form:
    """The update, in memory of its own if it reads what is about to be overwritten."""
    memory = set(leaves_of(old)) if type(old) is View else set()
    if out in ctx.targets:
        memory.add(ctx.targets[out].buffer)
    if memory & set(leaves_of(new)):
        copy = ctx.temporary(new.type)
        ctx.fill(copy, new)
        return copy
    return new


def _put(ctx: Context, form: Scalars, update: Any, places: Indices) -> list[Scalar] | None:
    """Registers with some replaced; None where it is cheaper to go through memory."""
    b = ctx.b
    shape, window = form.type.shape, update.type.shape
    elements = list(form.elements)
    grid = np.arange(form.type.size).reshape(shape)
    moving = [d for d, p in enumerate(places) if type(p) is not int]
    if moving and (len(moving) > 1 or not ctx.lowering.may_unroll):
        return None
    new = ctx.elements(update)
    if not moving:
        where = grid[tuple(slice(p, p + s) for p, s in zip(places, window))].reshape(-1).tolist()
        for k, e in zip(where, new):
            elements[k] = e
        return elements
    (d,) = moving
    count = shape[d] - window[d] + 1
    if count * len(new) > 64:
        return None
    start = b.index(places[d])
    for k in range(count):
        here = b.op("icmp", "i1", start, b.const("i64", k), attr="eq")
        at = tuple(slice(k if e == d else p, (k if e == d else p) + s) for e, (p, s) in enumerate(zip(places, window)))
        for position, e in zip(grid[at].reshape(-1).tolist(), new):
            elements[position] = _select(b, here, e, elements[position])
    return elements


# --------------------------------------------------------------------------------------------------------------------- gather


def lower_gather(ctx: Context, eqn: Equation) -> None:
    operand, indices = eqn.inputs
    (out,) = eqn.outputs
    p = eqn.params
    t = out.type
    shape = operand.type.shape
    sizes = p["slice_sizes"]
    index_dtype = indices.type.dtype
    b = ctx.b
    if t.size == 0:
        ctx.define(out, ctx.temporary(t))
        return
    fill_value = p["fill_value"] if p["fill_value"] is not None else default_fill_value(t.dtype)
    fill = literal(b, t.dtype, np.asarray(fill_value).astype(t.dtype)[()])
    if operand.type.size == 0:
        ctx.define(out, Lazy(t, lambda b, i: fill, {}, 0))
        return
    source, where = ctx.value(operand), ctx.value(indices)
    static = type(where) is Scalars and all(e.is_const for e in where.elements)
    small = ctx.in_registers(t) and not waits(source) and not waits(where)
    if not (static and small and type(source) is Scalars):
        source, where = ctx.readable(source), ctx.readable(where)
        if isinstance(source, Lazy) and (source.cost > 8 or _repeats(t, operand.type)):
            source = ctx.view(operand)
        first_offset = min((d for d in p["offset_dims"] if t.shape[d] > 1), default=len(t.shape))
        outer_offsets = any(t.shape[d] > 1 and d > first_offset for d in range(len(t.shape)) if d not in p["offset_dims"])
        if isinstance(where, Lazy) and where.cost > (1 if outer_offsets else 12):
            where = ctx.view(indices)  # also when an outer loop would compute the same positions again and again
    offset_dims = p["offset_dims"]
    collapsed, batching = p["collapsed_slice_dims"], p["operand_batching_dims"]
    kept = [d for d in range(len(shape)) if d not in collapsed and d not in batching]
    batch_dims = [d for d in range(len(t.shape)) if d not in offset_dims]
    index_map = p["start_index_map"]
    paired = dict(zip(batching, p["start_indices_batching_dims"]))
    filling = p["mode"] == "fill"

    def evaluate(b: Builder, i: Indices) -> Scalar:
        batch = tuple([i[d] for d in batch_dims])
        place: list[Index] = [0] * len(shape)
        valid: Value | None = None
        for d, e in paired.items():
            place[d] = batch[e]
        for k, d in enumerate(index_map):
            limit = shape[d] - sizes[d]
            raw = position_of(b, read(b, where, (*batch, k)), index_dtype)
            if filling:
                for test in (not_negative(b, raw), b.less(raw, limit + 1)):
                    if not (test.is_const and test.attr):
                        valid = test if valid is None else b.op("and", "i1", valid, test)
            place[d] = b.clamp_index(raw, 0, limit)
        for d, o in zip(kept, offset_dims):
            place[d] = place[d] + i[o]
        value = read(b, source, tuple(place))
        return value if valid is None else _select(b, valid, value, fill)

    leaves: dict[Any, int] = {POSITION: OTHER}
    for form in (source, where):
        for leaf, how in leaves_of(form).items():
            add_leaf(leaves, leaf, combine(OTHER, how))
    cost = 4 + sum(f.cost if isinstance(f, Lazy) else 1 for f in (source, where))
    depth = 1 + max(f.depth if isinstance(f, Lazy) else 0 for f in (source, where))
    lazy = Lazy(t, evaluate, leaves, cost, depth)
    if small:
        ctx.define(out, Scalars(t, ctx.elements(lazy)))
    else:
        ctx.define(out, lazy)


def _repeats(result: Any, operand: Any) -> bool:
    return result.size > operand.size


# -------------------------------------------------------------------------------------------------------------------- scatter


def lower_scatter(ctx: Context, eqn: Equation) -> None:
    operand, indices, updates = eqn.inputs
    (out,) = eqn.outputs
    p = eqn.params
    t = out.type
    b = ctx.b
    if updates.type.size == 0 or t.size == 0:
        ctx.define(out, ctx.value(operand))
        return
    shape = t.shape
    rank = len(updates.type.shape)
    window_dims = p["update_window_dims"]
    batch_dims = [d for d in range(rank) if d not in window_dims]
    inserted, batching = p["inserted_window_dims"], p["operand_batching_dims"]
    kept = [d for d in range(len(shape)) if d not in inserted and d not in batching]
    index_map = p["scatter_dims_to_operand_dims"]
    paired = dict(zip(batching, p["scatter_indices_batching_dims"]))
    sizes = [1] * len(shape)
    for d, e in zip(kept, window_dims):
        sizes[d] = updates.type.shape[e]
    kind, mode = p["kind"], p["mode"]
    dtype = t.dtype

    def place_of(where: Form, batch: Indices) -> tuple[list[Index], list[Value]]:
        """The start of a window, and the conditions for it to be inside."""
        place: list[Index] = [0] * len(shape)
        inside: list[Value] = []
        for d, e in paired.items():
            place[d] = batch[e]
        for k, d in enumerate(index_map):
            limit = shape[d] - sizes[d]
            raw = position_of(b, read(b, where, (*batch, k)), indices.type.dtype)
            if mode == "drop":
                inside += [not_negative(b, raw), b.less(raw, limit + 1)]
                place[d] = raw
            else:
                place[d] = b.clamp_index(raw, 0, limit)
        return place, inside

    where = ctx.value(indices)
    form = ctx.value(operand)
    if type(where) is Scalars and all(e.is_const for e in where.elements) and ctx.in_registers(t) and not waits(form):
        if type(form) is Scalars or t.size <= 16:
            elements = _scattered(ctx, operand, updates, place_of, where, batch_dims, kept, window_dims, kind)
            ctx.define(out, Scalars(t, elements))
            return
    where = ctx.readable(where)
    new = ctx.readable(ctx.value(updates))
    ctx.settle(where)
    ctx.settle(new)
    ctx.settle(form)
    if isinstance(where, Lazy) and where.cost > 12:
        where = ctx.view(indices)
    if type(new) is Lazy and len(batch_dims) == rank and updates.type.size >= SCATTERED and _takes_functions(b, new):
        new = ctx.view(updates)
    new = _apart_from(ctx, updates, new, ctx.value(operand), out)
    where = _apart_from(ctx, indices, where, ctx.value(operand), out)
    whole = ctx.own(operand, out)
    written = frozenset((whole.buffer,))
    space = Space(updates.type.shape, False)
    # Windows of which a dimension is further apart in memory than the places that indices name are walked along that dimension
    # first: it is the outer loop, whose iterations never meet. The order of updates of one element stays.
    reach = max([whole.strides[d] for d in (*index_map, *paired)], default=0)
    stride_of = {e: whole.strides[d] for d, e in zip(kept, window_dims)}
    apart = [r for r in space.runs if r[0] in stride_of and stride_of[r[0]] > reach]
    outer = apart + [r for r in space.runs if r[0] in batch_dims]
    inner = [r for r in space.runs if r[0] not in batch_dims and r not in apart]
    work = 12 * updates.type.size if apart else 0
    cost = new.cost if isinstance(new, Lazy) else 1
    with ExitStack() as stack:
        ranges: dict[int, tuple[Index, int]] = {}
        if inner and not apart and not b.parallel_depth and updates.type.size * (cost + 6) >= PARALLEL_WORK:
            ranges = _window_parts(b, stack, inner[-1], written)
        places = open_loops(ctx, stack, outer, written, work)
        batch = tuple([places.get(d, 0) for d in batch_dims])
        place, inside = place_of(where, batch)

        def write() -> list[Value]:
            with ExitStack() as nest:
                steps = open_loops(ctx, nest, [r for r in inner if r[0] not in ranges], written)
                for d, (first, count) in ranges.items():
                    steps[d] = first + nest.enter_context(b.loop(0, count, memory=False, written=written, name="w")).index
                target = list(place)
                for d, e in zip(kept, window_dims):
                    target[d] = target[d] + steps.get(e, places.get(e, 0))
                position = whole.position(tuple(target))
                value = read(b, new, space.indices({**places, **steps}))
                if kind != "set":
                    old = load(b, whole.buffer, position)
                    value = scalars.apply(
                        b, _COMBINE[kind] if dtype.kind != "b" else _BOOLEAN[kind], dtype, dtype, [old, value], {}
                    )
                store(b, whole.buffer, position, value)
            return []

        conditions = [c for c in inside if not (c.is_const and c.attr)]
        if any(c.is_const for c in conditions):
            pass  # a window that is always outside
        elif conditions:
            every = conditions[0]
            for c in conditions[1:]:
                every = b.op("and", "i1", every, c)
            b.switch(every, [write, lambda: []])
        else:
            write()
    if not inner and outer and cost <= UNROLLED_COST:
        _unroll(b.scopes[-1].items[-1])
    ctx.define(out, View(t, whole.buffer, whole.offset, whole.strides))


SCATTERED = 64
"""So many single numbers that take elementary functions are computed first, by vectors: scattering them goes one after the other."""


def _takes_functions(b: Builder, form: Lazy) -> bool:
    """Whether an element of a value that is computed where it is read takes an elementary function: one is built, and looked at."""
    shape = form.type.shape
    longest = shape.index(max(shape))
    asked, b.asked = b.asked, []
    with b.loop(0, shape[longest], memory=False, written=frozenset(), name="r") as loop:
        read(b, form, tuple([loop.index if d == longest else 0 for d in range(len(shape))]))
    b.asked = asked
    stack = [b.scopes[-1].items.pop()]
    while stack:
        statement = stack.pop()
        if type(statement) is Value and statement.op == "math":
            return True
        stack.extend([inner for block in blocks_of(statement) for inner in block])
    return False


UNROLLED_COST = 8
"""Scatters of single numbers that cost no more may be unrolled: such an iteration is hardly longer than the counting around it."""


def _unroll(loop: Any) -> None:
    """Let LLVM unroll the innermost of loops that stand in one another."""
    while type(loop) in (For, Parallel):
        inner = loop.body[-1]
        if type(loop) is For and type(inner) is not For:
            loop.hints = tuple([h for h in loop.hints if h != "no unroll"])
        loop = inner


PARTS, PART = (4, 3, 2), 32
"""Windows are cut for threads into so many equal parts, of at least so many elements."""


def _window_parts(
    b: Builder, stack: ExitStack, run: tuple[int, int, bool], written: frozenset[Any]
) -> dict[int, tuple[Index, int]]:
    """Windows divided among threads: each thread does its part of every window, so that two never write the same place.

    For the dimension that is cut: where the part begins and how long it is.
    """
    d, n, _ = run
    count = next((k for k in PARTS if n % k == 0 and n // k >= PART), 1)
    if count == 1:
        return {}
    task = stack.enter_context(b.parallel(count, written))
    return {d: (task * (n // count), n // count)}


_COMBINE = {"add": "add", "mul": "mul", "min": "min", "max": "max"}
_BOOLEAN = {"add": "or", "mul": "and", "min": "and", "max": "or"}


def _scattered(
    ctx: Context, operand: Any, updates: Any, place_of: Any, where: Form, batch_dims: Any, kept: Any, window_dims: Any, kind: str
) -> list[Scalar]:
    """A scatter at places known now, in registers."""
    b = ctx.b
    shape = operand.type.shape
    dtype = operand.type.dtype
    elements = list(ctx.elements(operand))
    if len(elements) == 1:
        elements = elements * operand.type.size
    new = ctx.elements(updates)
    grid = np.arange(operand.type.size).reshape(shape)
    for k, index in enumerate(product(*map(range, updates.type.shape))):
        place, inside = place_of(where, tuple([index[d] for d in batch_dims]))
        if any(not c.attr for c in inside):
            continue
        for d, e in zip(kept, window_dims):
            place[d] = place[d] + index[e]
        at = int(grid[tuple(place)])
        value = new[k] if len(new) > 1 else new[0]
        if kind != "set":
            name = _COMBINE[kind] if dtype.kind != "b" else _BOOLEAN[kind]
            value = scalars.apply(b, name, dtype, dtype, [elements[at], value], {})
        elements[at] = value
    return elements


ir.dynamic_slice_p.define(lower=lower_dynamic_slice)
ir.dynamic_update_slice_p.define(lower=lower_dynamic_update_slice)
ir.gather_p.define(lower=lower_gather)
ir.scatter_p.define(lower=lower_scatter)

__all__ = ["lower_gather", "lower_scatter", "position_of"]
