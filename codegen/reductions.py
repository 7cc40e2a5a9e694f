"""Reductions as accumulators of loop nests.

Trailing reduced dimensions accumulate in registers; the sum of a long dimension is taken in blocks. Leading ones accumulate in
memory, element by element of a row, so that the inner loop stays contiguous. The order of summation is a function of the shape.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import conversions
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.combining import Reduction, accumulator_dtype, combine, finish, flatten, identity, tree, unflatten
from tracegrad.codegen.loop_ir import Buffer, Index
from tracegrad.codegen.nests import (
    ALIGNED,
    BLOCK,
    MOST_RANGES,
    PARALLEL_WORK,
    UNROLLED,
    UNROLLED_REDUCTION,
    Group,
    Space,
    emit_maps,
    finish_maps,
    is_flat,
    open_loops,
    tasks_of,
)
from tracegrad.codegen.values import (
    IDENTICAL,
    OTHER,
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
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

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
        ctx.fill(place, Lazy(place.type, lambda b, i, v=value: v, {}, 0))  # type: ignore[misc]


def _settle(ctx: Context, reduced: list[Root], places: list[View]) -> None:
    """Round partial results to the type of the result."""
    for r, place in zip(reduced, places):
        if place.type.dtype != r.type.dtype:
            target = r.target if r.target is not None else ctx.temporary(r.type)
            lazy = Lazy(
                r.type,
                lambda b, i, r=r, p=place: finish(b, r.reduction, read(b, p, i), r.type.dtype),  # type: ignore[misc]
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
                for r in reduced:  # before maps are stored, which may be where this is read
                    value = read(b, r.lazy, indices)
                    found.append(conversions.convert(b, value, r.lazy.type.dtype, r.reduction.dtype))
                emit_maps(ctx, maps, indices)
            return found

        rules = [r.reduction for _ in points for r in reduced]
        # LLVM's maximum, which looks for NaN, takes a dozen cycles, but several of them can be under way
        cheap = sum(r.lazy.cost for r in (*maps, *reduced)) <= MOST_INTERLEAVED and any(
            [rule.dtype.kind == "f" for rule in rules]
        )
        hints = ("interleave",) if cheap else ()
        if in_registers and not suffix and work_of(space, maps, reduced) >= PARALLEL_TOTAL and not b.parallel_depth:
            totals = _accumulate_by_tasks(ctx, inner, rules, element, written, hints)
        else:
            totals = _accumulate(ctx, inner, dict(outside), rules, element, written, hints)
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


PARALLEL_TOTAL, TOTALS = 4_000_000, 8
"""Totals of so many operations are sums of so many, which threads compute: not of fewer, for that takes no longer than to wake a thread."""


def _accumulate_by_tasks(
    ctx: Context,
    runs: list[tuple[int, int, bool]],
    rules: list[Reduction],
    element: Any,
    written: frozenset[Buffer],
    hints: tuple[str, ...],
) -> list[Scalar]:
    """Accumulate over parts of the first of the reduced runs at once, and combine what they give in order."""
    b = ctx.b
    (d, n, _), rest = runs[0], runs[1:]
    each = n // TOTALS
    if each >= BLOCK:
        each -= each % BLOCK
    if each == 0:
        return _accumulate(ctx, runs, {}, rules, element, written, hints)
    partials = [ctx.temporary(ArrayType((TOTALS,), rule.dtype)) for rule in rules]
    written = written | frozenset(p.buffer for p in partials)

    def part(first: Index, size: int) -> list[Scalar]:
        def shifted(index: dict[int, Index]) -> list[Scalar]:
            return element({**index, d: index[d] + first})

        return _accumulate(ctx, [(d, size, True), *rest], {}, rules, shifted, written, hints)

    with b.parallel(TOTALS, written) as task:
        for p, total in zip(partials, part(task * each, each)):
            store(b, p.buffer, p.position((task,)), total)
    parts = [[load(b, p.buffer, p.position((k,))) for k in range(TOTALS)] for p in partials]
    if TOTALS * each < n:
        for some, last in zip(parts, part(TOTALS * each, n - TOTALS * each)):
            some.append(last)
    return [tree(b, rule, some) for rule, some in zip(rules, parts)]


INTERLEAVED, MOST_INTERLEAVED = 128, 24
"""Loops of at least so many turns that cost at most so much keep several vectors of partial results: a turn would wait for the one before."""


def _accumulate(
    ctx: Context,
    runs: list[tuple[int, int, bool]],
    places: dict[int, Index],
    rules: list[Reduction],
    element: Any,
    written: frozenset[Buffer],
    hints: tuple[str, ...],
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
        parts = _accumulate(ctx, rest, {**places, d: index}, rules, element, written, hints)
        return [rule.combine(b, total, part) for rule, total, part in zip(rules, totals, parts)]

    own_hints = () if rest or n < INTERLEAVED else hints

    def run(low: int, high: int, base: Index, start: list[Scalar]) -> list[Scalar]:
        flat = flatten(start)
        with b.loop(low, high, carry=flat, memory=False, written=written, hints=own_hints, name="r") as loop:
            loop.yields = flatten(step(base + loop.index, unflatten(loop.params, start)))
        return unflatten(loop.results, start)

    def run_ranges() -> list[Scalar]:
        """One loop, or several where the elements ask on which side of a number the index is, each free of branches."""
        outer, b.breaks, asked, b.asked = (b.watched, b.breaks), set(), b.asked, []
        flat = flatten(identities)
        with b.loop(0, n, carry=flat, memory=False, written=written, hints=own_hints, name="r") as loop:
            b.watched = loop.counter
            loop.yields = flatten(step(loop.index, unflatten(loop.params, identities)))
        points = [0, *sorted(p for p in b.breaks if 0 < p < n), n]
        (b.watched, b.breaks), b.asked = outer, asked
        if not 2 < len(points) <= MOST_RANGES + 1:
            return unflatten(loop.results, identities)
        b.scopes[-1].items.pop()  # the loop; what was moved out of it stays
        totals = identities
        for low, high in zip(points, points[1:]):
            totals = step(low, totals) if high - low == 1 else run(low, high, 0, totals)
        return totals

    identities = [rule.identity(b) for rule in rules]
    sums = any(rule.name in ("add", "mul") and rule.dtype.kind in "fc" for rule in rules)
    if not sums or n < 4 * BLOCK or rest:
        return run(0, n, 0, identities) if rest else run_ranges()
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


ROWS_AT_ONCE = 4
"""Rows added to an accumulator in memory in one pass over it."""
TILE, SHORTEST_TILE = 4096, 512
"""Accumulators in memory are walked in tiles of so many elements, which stay in the first cache."""


def _emit_rows(ctx: Context, space: Space, maps: list[Root], reduced: list[Root], written: frozenset[Buffer]) -> None:
    """Accumulators in memory: rows of the kept trailing dimensions are added to them, several at a time, in a contiguous loop.

    Large ones are divided among threads: by tiles of the row, or, for short rows, by ranges of rows with accumulators of their own.
    """
    b = ctx.b
    runs = space.runs
    work = work_of(space, maps, reduced)
    (d, n, _), (row_dim, rows, row_reduced) = runs[-1], runs[-2]
    parallel = work >= PARALLEL_WORK and not b.parallel_depth
    if parallel and len(runs) == 2 and n < 2 * ALIGNED and rows >= 1024:
        _emit_row_ranges(ctx, space, maps, reduced, written, work)
        return
    places = _places_for(ctx, reduced, True)
    _initialize(ctx, reduced, places)
    written = written | frozenset(p.buffer for p in places)
    with ExitStack() as stack:
        if not runs[0][2]:
            outside = open_loops(ctx, stack, runs[:-2] if row_reduced else runs[:-1], written, work if len(runs) > 2 else 0)
            low, high = 0, n
        else:
            low, high = _tile(ctx, stack, n, work, written)
            outside = open_loops(ctx, stack, runs[:-2] if row_reduced else runs[:-1], written)
        if not row_reduced:
            _add_rows(ctx, space, maps, reduced, places, written, outside, None, 0, 1, (d, low, high, n))
        else:
            _add_rows(ctx, space, maps, reduced, places, written, outside, row_dim, 0, rows, (d, low, high, n))
    _settle(ctx, reduced, places)


def _tile(ctx: Context, stack: ExitStack, n: int, work: int, written: frozenset[Buffer]) -> tuple[Any, Any]:
    """The range of a row that is walked at once: all of it, or that of one of several tiles."""
    b = ctx.b
    parallel = work >= PARALLEL_WORK and not b.parallel_depth and n >= 2 * ALIGNED
    if not parallel and n <= 2 * TILE:
        return 0, n
    each = TILE
    if parallel:  # pieces of rows too short would be slow to fetch
        each = min(max(tasks_of(n, work, True)[1], min(SHORTEST_TILE, -(-n // (2 * ALIGNED)) * ALIGNED)), TILE)
    count = -(-n // each)
    if parallel:
        task = stack.enter_context(b.parallel(count, written))
    else:
        task = stack.enter_context(b.loop(0, count, memory=False, written=written, name="tile")).index
    low = task * each
    high = b.index(low + each)
    if count * each != n:
        high = b.op("smin", "i64", high, b.const("i64", n))
    return b.index(low), high


def _add_rows(
    ctx: Context,
    space: Space,
    maps: list[Root],
    reduced: list[Root],
    places: list[View],
    written: frozenset[Buffer],
    outside: dict[int, Index],
    row_dim: int | None,
    first: Index,
    rows: int,
    run: tuple[int, Any, Any, int],
) -> None:
    """Add `rows` rows, from `first` on, to the accumulators."""
    b = ctx.b
    d, low, high, n = run

    def add(starts: list[Index]) -> None:
        with b.loop(low, high, memory=False, written=written, name="j", bounds=(0, n - 1)) as loop:
            totals: list[Scalar] | None = None
            for at in starts:
                place = {**outside, d: loop.index}
                if row_dim is not None:
                    place[row_dim] = at
                indices = space.indices(place)
                values = [conversions.convert(b, read(b, r.lazy, indices), r.lazy.type.dtype, r.reduction.dtype) for r in reduced]
                emit_maps(ctx, maps, indices)
                totals = values if totals is None else [r.reduction.combine(b, t, v) for r, t, v in zip(reduced, totals, values)]
            assert totals is not None
            for r, place_, total in zip(reduced, places, totals):
                position = _flat_position(place_, r, indices)
                store(b, place_.buffer, position, r.reduction.combine(b, load(b, place_.buffer, position), total))

    if row_dim is None:
        add([0])
        return
    step = ROWS_AT_ONCE if rows >= 2 * ROWS_AT_ONCE and sum(r.lazy.cost for r in (*maps, *reduced)) <= 40 else 1
    whole = rows // step
    with b.loop(0, whole, memory=False, written=written, name="r") as loop:
        add([first + loop.index * step + k for k in range(step)])
    for k in range(whole * step, rows):
        add([first + k])


def _emit_row_ranges(
    ctx: Context, space: Space, maps: list[Root], reduced: list[Root], written: frozenset[Buffer], work: int
) -> None:
    """Ranges of many short rows, each with its accumulators, which are added up in order in the end."""
    b = ctx.b
    (row_dim, rows, _), (d, n, _) = space.runs
    count, each = tasks_of(rows, work, False)
    each = -(-each // ROWS_AT_ONCE) * ROWS_AT_ONCE
    count = -(-rows // each)
    partial_types = [_kept_type(r).update(shape=(count, *r.type.shape)) for r in reduced]
    partials = [ctx.temporary(t) for t in partial_types]
    _initialize(ctx, reduced, partials)
    inside = written | frozenset(p.buffer for p in partials)

    def ranges(task: Index, size: int) -> None:
        places = [View(_kept_type(r), p.buffer, p.offset + task * p.strides[0], p.strides[1:]) for r, p in zip(reduced, partials)]
        _add_rows(ctx, space, maps, reduced, places, inside, {}, row_dim, task * each, size, (d, 0, n, n))

    whole = rows // each
    with b.parallel(whole, inside) as task:
        ranges(task, each)
    if whole < count:
        ranges(whole, rows - whole * each)
    places = _places_for(ctx, reduced, True)
    for r, p, place in zip(reduced, partials, places):
        kept = len(r.type.shape)

        def total(b: Builder, i: Indices, r: Root = r, p: View = p) -> Scalar:
            return tree(b, r.reduction, [read(b, p, (k, *i)) for k in range(count)])

        ctx.fill(place, Lazy(place.type, total, {p.buffer: OTHER} if kept else {}, count))
    _settle(ctx, reduced, places)


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

__all__ = ["Pending", "Reduction", "as_lazy", "combine", "emit_reductions", "flatten", "identity", "unflatten"]
