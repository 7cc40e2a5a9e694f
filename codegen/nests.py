"""Loop nests: how pending tensors become loops over an iteration space.

A group holds the roots of one iteration space: tensors that are stored, and reductions. One nest computes them all, each value that
several of them need once. Dimensions are merged where everything is read in order, short trailing dimensions are unrolled, reductions
over trailing dimensions are accumulators in registers and over leading ones accumulate in memory, a row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from tracegrad.codegen.loop_ir import Affine, Buffer, Call, Copy, For, Index, Parallel, Switch, Value, While, blocks_of
from tracegrad.codegen.values import (
    IDENTICAL,
    INVARIANT,
    Form,
    Indices,
    Lazy,
    Root,
    Scalar,
    Scalars,
    View,
    leaves_of,
    read,
    store,
)

if TYPE_CHECKING:
    from tracegrad.codegen.builder import Builder
    from tracegrad.codegen.lower import Context

UNROLLED = 8
"""Trailing dimensions of together at most this many elements are written out instead of looped over."""
UNROLLED_REDUCTION = 16
BLOCK = 1024
"""Long sums are summed in blocks: the error grows with the number of blocks, and the order never depends on threads."""
MOST_ROOTS, MOST_COST = 24, 600
"""What one nest may hold, so that LLVM's time stays in bounds."""
MOST_SHARING, MOST_DISTINCT = 96, 1_200
"""The same where roots share most of what they compute, and the cost is counted once: several nests would compute it again."""


class Group:
    """Roots that share an iteration space and wait for their nest."""

    __slots__ = ("shape", "roots", "axes", "context")

    def __init__(self, shape: tuple[int, ...], context: Context):
        self.shape = shape
        self.roots: list[Root] = []
        self.axes: tuple[int, ...] | None = None
        self.context = context

    def accepts(self, root: Root, distinct: int | None = None) -> bool:
        """Whether a root may join. `distinct`: what all that its program computes in this space costs, where that is known to be
        less than the sum over the roots, which may share most of it."""
        cost = sum(r.lazy.cost for r in self.roots) + root.lazy.cost
        if len(self.roots) >= MOST_ROOTS or cost > MOST_COST:
            if distinct is None or len(self.roots) >= MOST_SHARING or distinct > MOST_DISTINCT:
                return False
        return root.reduction is None or self.axes is None or self.axes == root.reduction.axes

    def add(self, root: Root) -> None:
        root.group = self
        self.roots.append(root)
        if root.reduction is not None:
            self.axes = root.reduction.axes


def is_flat(form: Form) -> bool:
    """Whether an element depends only on what lies at its own position in row-major order (and on scalars)."""
    if type(form) is View:
        return form.is_dense
    if type(form) is Scalars:
        return len(form.elements) == 1
    return all(how in (IDENTICAL, INVARIANT) for how in leaves_of(form).values())


def emit_group(ctx: Context, group: Group) -> None:
    """Emit the nest of a group and give its roots their values."""
    maps = [r for r in group.roots if r.reduction is None]
    for r in maps:
        if r.target is None:
            r.target = ctx.temporary(r.type)
    b = ctx.b
    read_once = read_at_their_index([r.lazy for r in group.roots])
    first = len(b.scopes[-1].items)
    if group.axes is not None:
        from tracegrad.codegen.reductions import emit_reductions

        emit_reductions(ctx, group, maps, [r for r in group.roots if r.reduction is not None])
        note_pointwise(b, first, [r.target for r in maps], read_once)
        return

    def body(indices: Indices) -> None:
        emit_maps(ctx, maps, indices)

    flat = all(is_flat(r.lazy) and r.target.is_dense for r in maps)
    written = frozenset(r.target.buffer for r in maps)
    emit_loops(ctx, Space(group.shape, flat), written, body, sum(r.lazy.cost + 1 for r in maps))
    if all(_only_at_its_index(r.lazy, written) for r in maps):
        _note_independence(b.scopes[-1].items[first:])
    note_pointwise(b, first, [r.target for r in maps], read_once)
    finish_maps(maps)
    b.memo.clear()


def emit_maps(ctx: Context, maps: list[Root], indices: Indices) -> None:
    """Compute the elements of all roots, then store them: a root may overwrite what another reads at the same index."""
    scalars = [read(ctx.b, r.lazy, indices) for r in maps]
    for r, s in zip(maps, scalars):
        store(ctx.b, r.target.buffer, r.target.position(indices), s)


def finish_maps(maps: list[Root]) -> None:
    for r in maps:
        r.value = View(r.type, r.target.buffer, r.target.offset, r.target.strides)


def write_nest(ctx: Context, view: View, form: Form) -> None:
    """Write a value to memory by a nest of its own."""
    b = ctx.b
    if type(form) is Scalars and len(form.elements) == view.type.size:
        shape = view.type.shape
        for k, indices in enumerate(product(*map(range, shape))):
            store(b, view.buffer, view.position(indices), form.elements[k])
        return
    if type(form) is View and form.is_dense and view.is_dense and form.type.size > 4:
        scalars = 2 if form.type.dtype.kind == "c" else 1
        b.copy(view.buffer, view.offset * scalars, form.buffer, form.offset * scalars, form.type.nbytes)
        if form.is_whole:
            note_pointwise(b, len(b.scopes[-1].items) - 1, [view], frozenset((form.buffer,)))
        return
    form = ctx.readable(form)
    if type(form) is View and _copy_runs(ctx, view, form):
        return

    def body(indices: Indices) -> None:
        store(b, view.buffer, view.position(indices), read(b, form, indices))

    cost = form.cost + 1 if isinstance(form, Lazy) else 2
    written = frozenset((view.buffer,))
    first = len(b.scopes[-1].items)
    emit_loops(ctx, Space(view.type.shape, is_flat(form) and view.is_dense), written, body, cost)
    if _only_at_its_index(form, written):
        _note_independence(b.scopes[-1].items[first:])
    note_pointwise(b, first, [view], read_at_their_index([form]))


COPIED_BYTES = 1024
"""Runs of so many bytes are copied by the C library."""


def _copy_runs(ctx: Context, view: View, form: View) -> bool:
    """Copy memory whose last dimensions lie without gaps on both sides, run by run; whether the runs are long enough for that."""
    shape = view.type.shape
    lead, run = len(shape), 1
    while lead and (shape[lead - 1] == 1 or form.strides[lead - 1] == view.strides[lead - 1] == run):
        lead -= 1
        run *= shape[lead]
    if run * view.type.dtype.itemsize < COPIED_BYTES:
        return False
    copy_rows(ctx, [(view, form)], lead)
    return True


def copy_rows(ctx: Context, pairs: Sequence[tuple[View, View]], axis: int) -> None:
    """Copy views to others, a row of each at a time: the dimensions from an axis on, which lie without gaps on both sides."""
    b = ctx.b
    work = 4 * sum([target.type.size for target, _ in pairs])
    with ExitStack() as stack:
        space = Space(pairs[0][0].type.shape[:axis], False)
        outer = space.indices(open_loops(ctx, stack, space.runs, frozenset([target.buffer for target, _ in pairs]), work))
        for target, source in pairs:
            t = target.type
            scalars = 2 if t.dtype.kind == "c" else 1
            row = (*outer, *[0] * (len(t.shape) - axis))
            places = (target.position(row) * scalars, source.position(row) * scalars)
            b.copy(target.buffer, places[0], source.buffer, places[1], prod(t.shape[axis:]) * t.dtype.itemsize)


def read_at_their_index(forms: Sequence[Form]) -> frozenset[Buffer]:
    """The buffers that values of one shape fill, and of which each reads what lies at its own index only."""
    found: dict[Buffer, bool] = {}
    for form in forms:
        for leaf, how in leaves_of(form).items():
            if type(leaf) is Buffer:
                found[leaf] = found.get(leaf, True) and how == IDENTICAL and leaf.size == form.type.size
    return frozenset([leaf for leaf, only in found.items() if only])


def note_pointwise(b: Builder, first: int, targets: Sequence[View], read_once: frozenset[Buffer]) -> None:
    """Note of a nest, the statements from `first` on, what it reads at the index where it writes: if that dies, its memory can be the same."""
    items = b.scopes[-1].items
    if len(items) > first and read_once:
        for view in targets:
            if view.is_whole:
                b.function.pointwise.setdefault(view.buffer, (read_once, items[first], items[-1]))


def _only_at_its_index(form: Form, written: frozenset[Buffer]) -> bool:
    """Whether of the memory that is written a value reads only what lies where it goes itself."""
    return all(
        how == IDENTICAL and leaf.size == form.type.size
        for leaf, how in leaves_of(form).items()
        if type(leaf) is Buffer and leaf in written
    )


def _note_independence(statements: list[Any]) -> None:
    """Have the innermost loops say that no iteration reads what another writes: LLVM need not find out."""
    for s in statements:
        inside = [t for block in blocks_of(s) for t in block]
        if type(s) is For and not s.params and not any(type(t) in (For, While, Parallel, Call, Copy) for t in _within(inside)):
            s.hints = (*s.hints, "independent")
        elif type(s) in (For, Parallel, Switch):
            _note_independence(inside)


def _within(statements: list[Any]) -> Iterator[Any]:
    for s in statements:
        yield s
        for block in blocks_of(s):
            yield from _within(block)


# --------------------------------------------------------------------------------------------------------------- iteration space


class Space:
    """An iteration space: `runs` of dimensions that one loop walks, as (dimension, size); unit dimensions have none.

    In a flat space neighbouring dimensions are one run, whose position stands for the last of them (the others are zero).
    """

    __slots__ = ("shape", "runs", "flat")

    def __init__(self, shape: tuple[int, ...], flat: bool, axes: tuple[int, ...] = ()):
        self.shape = shape
        self.flat = flat
        self.runs: list[tuple[int, int, bool]] = []  # (dimension, size, whether it is reduced)
        for d, n in enumerate(shape):
            if n == 1:
                continue
            reduced = d in axes
            if flat and self.runs and self.runs[-1][2] == reduced:
                self.runs[-1] = (d, self.runs[-1][1] * n, reduced)
            else:
                self.runs.append((d, n, reduced))

    def indices(self, places: dict[int, Index]) -> Indices:
        return tuple([places.get(d, 0) for d in range(len(self.shape))])


def emit_loops(ctx: Context, space: Space, written: frozenset[Buffer], body: Callable[[Indices], None], cost: int = 0) -> None:
    """Loops over a space around `body`, which costs about `cost` operations; large ones are divided among threads."""
    if prod(space.shape) == 0:
        return
    runs = space.runs
    unrolled = 0
    size = 1
    while unrolled < len(runs) and size * runs[len(runs) - 1 - unrolled][1] <= UNROLLED:
        size *= runs[len(runs) - 1 - unrolled][1]
        unrolled += 1
    looped = runs[: len(runs) - unrolled]
    short = runs[len(runs) - unrolled :]
    work = prod(space.shape) * (cost + 4) if cost else 0

    def innermost(places: dict[int, Index]) -> None:
        for point in product(*[range(n) for _, n, _ in short]):
            body(space.indices({**places, **{d: p for (d, _, _), p in zip(short, point)}}))

    def plain(counters: list[Index]) -> None:
        with ExitStack() as stack:
            if not looped:
                innermost({})
                return
            if len(looped) == 1 and work >= PARALLEL_WORK and not b.parallel_depth:
                dimension = looped[0][0]
                parallel_range(ctx, looped[0][1], work, written, lambda index: innermost({dimension: index}))
                return
            places = open_loops(ctx, stack, looped[:-1], written, work)
            counters.extend(places.values())
            last = looped[-1]

            def at(index: Index) -> None:
                counters.append(index)
                innermost({**places, last[0]: index})

            emit_range(ctx, last, NAMES[len(looped) - 1], written, at)

    b = ctx.b
    if len(looped) < 2 or short or looped[-1][1] < 4 * TILE or max(n for _, n, _ in looped[:-1]) < 4 * TILE:
        plain([])
        return
    b.loads = []
    counters: list[Index] = []
    statements = len(b.scopes[-1].items)
    plain(counters)
    loads, b.loads = b.loads, None
    crossed = _crossed(loads, counters, looped)
    if crossed is not None and type(b.scopes[-1].items[-1]) in (For, Parallel) and len(b.scopes[-1].items) > statements:
        b.scopes[-1].items.pop()
        with ExitStack() as stack:
            innermost(_open_tiles(ctx, stack, looped, crossed, written, work))


TILE = 16
"""Loops over memory that is read across are walked in tiles of so many elements, a cache line, by as many: a larger tile does not
fit into the first cache when rows are a power of two apart."""


def _crossed(loads: list[Affine], counters: list[Index], looped: list[tuple[int, int, bool]]) -> int | None:
    """The outer loop along which something is contiguous that is read with a stride by the inner one: a transposition."""
    which = {c.terms[0][0]: k for k, c in enumerate(counters[: len(looped)]) if isinstance(c, Affine)}
    last = len(looped) - 1
    for index in loads:
        strides = {which[v]: abs(c) for v, c in index.terms if v in which}
        if strides.get(last, 0) >= TILE:
            for k, stride in strides.items():
                if stride == 1 and k != last and looped[k][1] >= 4 * TILE:
                    return k
    return None


def _open_tiles(
    ctx: Context,
    stack: ExitStack,
    looped: list[tuple[int, int, bool]],
    crossed: int,
    written: frozenset[Buffer],
    work: int,
) -> dict[int, Index]:
    """Loops over tiles of two dimensions, and within them; the other loops stay outside of the tiles."""
    b = ctx.b
    sizes = {crossed: TILE, len(looped) - 1: TILE}
    outer = [(d, -(-n // sizes[k]), r) if k in sizes else (d, n, r) for k, (d, n, r) in enumerate(looped)]
    places = open_loops(ctx, stack, outer, written, work)
    for k, size in sizes.items():
        d, n, _ = looped[k]
        start = places[d] * size
        if n % size == 0:
            loop = stack.enter_context(b.loop(0, size, memory=False, written=written, name=NAMES[k]))
            places[d] = start + loop.index
        else:
            high = b.op("smin", "i64", b.index(start + size), b.const("i64", n))
            loop = stack.enter_context(
                b.loop(b.index(start), high, memory=False, written=written, name=NAMES[k], bounds=(0, n - 1))
            )
            places[d] = loop.index
    return places


MOST_RANGES = 6


def emit_range(
    ctx: Context, run: tuple[int, int, bool], name: str, written: frozenset[Buffer], body: Callable[[Index], None]
) -> None:
    """One loop, or several over parts of its range where the body asks on which side of a number the index is (a padding, say), and
    for each answer to a question that is the same in every turn, so that each is free of branches."""
    b = ctx.b
    n = run[1]
    outer, b.breaks = (b.watched, b.breaks), set()

    def emit(low: int, high: int, watch: bool) -> Value | None:
        """The loop; the one condition, if there is one, that it asks in every turn though it does not depend on the turn."""
        if high - low == 1:
            body(low)
            return None
        asked, b.asked = b.asked, []
        with b.loop(low, high, memory=False, written=written, name=name) as loop:
            b.watched = loop.counter if watch else None
            body(loop.index)
        same = {c for c in b.asked if c.level <= b.level}
        b.asked = asked
        return same.pop() if len(same) == 1 else None

    def emit_free(low: int, high: int) -> None:
        condition = emit(low, high, False)
        if condition is not None:
            b.scopes[-1].items.pop()
            b.switch(condition, [lambda: assume(condition, True, low, high), lambda: assume(condition, False, low, high)])

    def assume(condition: Value, answer: bool, low: int, high: int) -> list[Value]:
        outside, b.assuming = b.assuming, b.level
        b.assumed[condition] = answer
        emit(low, high, False)
        del b.assumed[condition]
        b.assuming = outside
        return []

    condition = emit(0, n, True)
    points = [0, *sorted(p for p in b.breaks if 0 < p < n), n]
    b.watched, b.breaks = outer
    if 2 < len(points) <= MOST_RANGES + 1:
        b.scopes[-1].items.pop()  # the loop; what was moved out of it stays
        for low, high in zip(points, points[1:]):
            emit_free(low, high)
        b.watched = outer[0]
    elif condition is not None:
        b.scopes[-1].items.pop()
        emit_free(0, n)
        b.watched = outer[0]


PARALLEL_WORK = 1_500_000
"""Loops of fewer operations stay on one thread: waking another takes some microseconds, or tens of them."""
TASK_WORK = 500_000
MOST_TASKS = 32
ALIGNED = 64
"""Contiguous loops are cut at multiples of so many elements, so that tasks do not share cache lines."""


def parallel_range(ctx: Context, n: int, work: int, written: frozenset[Buffer], body: Callable[[Index], None]) -> None:
    """One large loop divided among threads; or several over parts of its range where the body asks on which side of a number the index is."""
    b = ctx.b
    outer, b.breaks = (b.watched, b.breaks), set()

    def emit(low: int, high: int, watch: bool) -> None:
        base = low // ALIGNED * ALIGNED
        count, each = tasks_of(high - base, work, True)
        if count == 1 or each < ALIGNED:
            base = low
            count, each = tasks_of(high - base, work, True)
        with b.parallel(count, written) as task:
            first = task * each + base
            start, stop = b.index(first), b.index(first + each)
            if base < low:
                start = b.op("smax", "i64", start, b.const("i64", low))
            if base + count * each != high:
                stop = b.op("smin", "i64", stop, b.const("i64", high))
            with b.loop(start, stop, memory=False, written=written, name=NAMES[0], bounds=(low, high - 1)) as loop:
                b.watched = loop.counter if watch else None
                body(loop.index)

    emit(0, n, True)
    points = [0, *sorted(p for p in b.breaks if 0 < p < n), n]
    b.watched, b.breaks = outer
    if not 2 < len(points) <= MOST_RANGES + 1:
        return
    b.scopes[-1].items.pop()  # the tasks; what was moved out of them stays
    b.watched = None
    for low, high in zip(points, points[1:]):
        if high - low >= n // 2:
            emit(low, high, False)
        elif high - low == 1:
            body(low)
        else:
            with b.loop(low, high, memory=False, written=written, name=NAMES[0]) as loop:
                body(loop.index)
    b.watched = outer[0]


def tasks_of(n: int, work: int, contiguous: bool) -> tuple[int, int]:
    """(number of tasks, iterations in each but the last) for a loop of n iterations and so many operations in all."""
    wanted = min(max(work // TASK_WORK, 2), MOST_TASKS, n)
    each = -(-n // wanted)
    if contiguous and each >= ALIGNED:
        each = -(-each // ALIGNED) * ALIGNED
    return -(-n // each), each


NAMES = "ijklmnpqrs"


def open_loops(
    ctx: Context, stack: ExitStack, runs: list[tuple[int, int, bool]], written: frozenset[Buffer], work: int = 0
) -> dict[int, Index]:
    """Open one loop for each run; the position of each run's dimension. The first is divided into tasks if the work is large."""
    places: dict[int, Index] = {}
    b = ctx.b
    for k, (d, n, _) in enumerate(runs):
        name = NAMES[k % len(NAMES)]
        if k == 0 and work >= PARALLEL_WORK and not b.parallel_depth:
            count, each = tasks_of(n, work, len(runs) == 1)
            if count > 1:
                task = stack.enter_context(b.parallel(count, written))
                low = task * each
                high = b.index(low + each)
                if count * each != n:
                    high = b.op("smin", "i64", high, b.const("i64", n))
                loop = stack.enter_context(
                    b.loop(b.index(low), high, memory=False, written=written, name=name, bounds=(0, n - 1))
                )
                places[d] = loop.index
                continue
        loop = stack.enter_context(b.loop(0, n, memory=False, written=written, name=name))
        places[d] = loop.index
    return places


__all__ = [
    "Group",
    "Lazy",
    "Scalar",
    "Space",
    "emit_group",
    "emit_loops",
    "emit_maps",
    "finish_maps",
    "is_flat",
    "note_pointwise",
    "open_loops",
    "read_at_their_index",
    "write_nest",
]
