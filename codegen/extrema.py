"""Lowering of argmax and argmin: the search for the first place of an extremum, where a NaN counts as one.

Along rows, the extrema of blocks are taken by vectors, and only the first block that has the extremum of all is searched for its place.
Across rows, the best values so far and their indices are kept for a tile of columns, a row at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from math import isqrt, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import conversions, scalars
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.combining import Reduction, accumulator_dtype
from tracegrad.codegen.loop_ir import Buffer, Index, Value, affine
from tracegrad.codegen.nests import ALIGNED, PARALLEL_WORK, UNROLLED, Space, emit_loops, open_loops, tasks_of
from tracegrad.codegen.values import Form, Indices, Lazy, Scalar, Scalars, View, load, read, store
from tracegrad.ir import reductions as ir
from tracegrad.ir.program import Equation
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

COST = 6
"""About how many operations an element takes."""
TILE = 1024
"""Columns whose best values and indices are kept in the first cache."""
ROWS_AT_ONCE = 4
INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)


class Search:
    """What is searched for: the extremum by name, in elements of a dtype, as they are in registers."""

    def __init__(self, b: Builder, name: str, dtype: Any):
        self.b = b
        self.name = name
        self.dtype = accumulator_dtype(dtype)
        self.reduction = Reduction(name, (), self.dtype)

    def combine(self, x: Scalar, y: Scalar) -> Scalar:
        """The more extreme of two, NaN if one of them is; zeros are equal."""
        if self.dtype.kind == "f":
            assert isinstance(x, Value)
            return self.b.op("maximum" if self.name == "max" else "minimum", x.type, x, y, attr="nsz")
        return self.reduction.combine(self.b, x, y)

    def better(self, x: Scalar, best: Scalar) -> Value:
        """Whether x goes before what was found at lower indices."""
        b = self.b
        if self.dtype.kind != "f":
            return scalars.apply(b, "gt" if self.name == "max" else "lt", self.dtype, np.dtype(bool), [x, best], {})
        found = b.op("fcmp", "i1", x, best, attr="ugt" if self.name == "max" else "ult")
        return b.op("and", "i1", found, b.op("fcmp", "i1", best, best, attr="ord"))

    def is_at(self, x: Scalar, best: Scalar) -> Value:
        """Whether x is the extremum; of a block that has a NaN, whether it is one."""
        b = self.b
        found = scalars.apply(b, "eq", self.dtype, np.dtype(bool), [x, best], {})
        return b.op("or", "i1", found, b.op("fcmp", "i1", x, x, attr="uno")) if self.dtype.kind == "f" else found


def block_size(n: int) -> int:
    """How many elements are searched for the place of an extremum: finding the extremum of a block costs as much as searching some 64 elements."""
    size = isqrt(64 * n)
    return n if n < 256 else -(-size // ALIGNED) * ALIGNED


def lower_search(name: str) -> Any:
    def lower(ctx: Context, eqn: Equation) -> None:
        (x,), (out,) = eqn.inputs, eqn.outputs
        axis, index_dtype = eqn.params["axis"], eqn.params["index_dtype"]
        if out.type.size == 0:
            ctx.define(out, ctx.allocate(out))
            return
        form = ctx.readable(ctx.value(x))
        ctx.settle(form)
        search = Search(ctx.b, name, x.type.dtype)
        shape = x.type.shape
        if axis < len(shape) - 1 and shape[-1] >= UNROLLED and shape[axis] < 2**31:
            target = ctx.allocate(out)
            _across_rows(ctx, search, form, shape, axis, target)
            ctx.define(out, target)
            return
        if isinstance(form, Lazy) and form.cost > 4:
            form = ctx.view(x)
        place = None if out.type.size == 1 else ctx.allocate(out)
        results = _along_rows(ctx, search, form, shape, axis, index_dtype, place)
        ctx.define(out, Scalars(out.type, results) if place is None else place)

    return lower


def _along_rows(
    ctx: Context, search: Search, form: Form, shape: tuple[int, ...], axis: int, index_dtype: Any, place: View | None
) -> list[Scalar]:
    """The index for every row, stored in `place`, or given if there is none."""
    b = ctx.b
    n = shape[axis]
    written: frozenset[Buffer] = frozenset() if place is None else frozenset((place.buffer,))
    size = block_size(n)
    counted = INT32 if n < 2**31 else INT64
    count_type = "i32" if n < 2**31 else "i64"
    results: list[Scalar] = []

    def body(kept: Indices) -> None:
        def at(i: Index) -> Scalar:
            return read(b, form, (*kept[:axis], i, *kept[axis:]))

        high: Any = n
        if size == n:
            best, low = _extremum(b, search, at, b.const("i64", 0), b.const("i64", n), written), b.const("i64", 0)
        elif place is None and COST * n >= PARALLEL_WORK and not b.parallel_depth:
            best, low = _extremum_by_tasks(ctx, search, at, n, size)
            high = _end(b, low, n, size)
        else:
            best, low = _extremum_of_blocks(b, search, at, 0, -(-n // size), n, size, written)
            high = _end(b, low, n, size)
        none = b.const(count_type, n)
        with b.loop(low, high, carry=[none], memory=False, written=written, name="r", bounds=(0, n - 1)) as loop:
            counter = loop.counter if count_type == "i64" else b.op("trunc", "i32", loop.counter)
            here = b.select(search.is_at(at(loop.index), best), counter, none)
            loop.yields = [b.op("smin", count_type, loop.params[0], here)]
        index = conversions.convert(b, loop.results[0], counted, index_dtype)
        if place is None:
            results.append(index)
        else:
            store(b, place.buffer, place.position(kept), index)

    kept_shape = shape[:axis] + shape[axis + 1 :]
    emit_loops(ctx, Space(kept_shape, False), written, body, COST * n if place is not None else 0)
    return results


def _end(b: Builder, low: Value, n: int, size: int) -> Value:
    high = b.op("add", "i64", low, b.const("i64", size))
    return high if n % size == 0 else b.op("smin", "i64", high, b.const("i64", n))


def _extremum(
    b: Builder, search: Search, at: Callable[[Index], Scalar], low: Value, high: Value, written: frozenset[Buffer]
) -> Scalar:
    """The extremum of a range that is not empty."""
    start = search.reduction.identity(b)
    bounds = None if low.is_const else (0, 2**62)
    with b.loop(
        low, high, carry=[start], memory=False, written=written, hints=("interleave",), name="r", bounds=bounds
    ) as loop:  # fmt: skip
        loop.yields = [search.combine(loop.params[0], at(loop.index))]
    return loop.results[0]


def _extremum_of_blocks(
    b: Builder,
    search: Search,
    at: Callable[[Index], Scalar],
    first: Any,
    last: Any,
    n: int,
    size: int,
    written: frozenset[Buffer],
) -> tuple[Scalar, Value]:
    """The extremum of the blocks first <= k < last, and where the first block that has it begins."""
    begin = b.index(first * size if isinstance(first, int) else affine(first) * size)
    carry = [search.reduction.identity(b), begin]
    bounds = None if isinstance(first, int) else (0, -(-n // size) - 1)
    with b.loop(first, last, carry=carry, memory=False, written=written, name="block", bounds=bounds) as blocks:
        low = b.index(blocks.index * size)
        found = _extremum(b, search, at, low, _end(b, low, n, size), written)
        best, place = blocks.params
        better = search.better(found, best)
        blocks.yields = [b.select(better, found, best), b.select(better, low, place)]
    return blocks.results[0], blocks.results[1]


def _extremum_by_tasks(ctx: Context, search: Search, at: Callable[[Index], Scalar], n: int, size: int) -> tuple[Scalar, Value]:
    """The same of all blocks, which are divided among threads."""
    b = ctx.b
    blocks = -(-n // size)
    count, each = tasks_of(blocks, COST * n, False)
    values = ctx.temporary(ArrayType((count,), search.dtype))
    places = ctx.temporary(ArrayType((count,), INT64))
    written = frozenset((values.buffer, places.buffer))
    with b.parallel(count, written) as task:
        first, last = b.index(task * each), b.index(task * each + each)
        if count * each != blocks:
            last = b.op("smin", "i64", last, b.const("i64", blocks))
        best, place = _extremum_of_blocks(b, search, at, first, last, n, size, written)
        store(b, values.buffer, values.position((task,)), best)
        store(b, places.buffer, places.position((task,)), place)
    best, place = load(b, values.buffer, values.position((0,))), load(b, places.buffer, places.position((0,)))
    for k in range(1, count):
        found = load(b, values.buffer, values.position((k,)))
        better = search.better(found, best)
        best = b.select(better, found, best)
        place = b.select(better, load(b, places.buffer, places.position((k,))), place)
    return best, place


def _across_rows(ctx: Context, search: Search, form: Form, shape: tuple[int, ...], axis: int, place: View) -> None:
    """The index for every column, for tiles of the last dimension."""
    b = ctx.b
    n, columns = shape[axis], shape[-1]
    work = COST * prod(shape)
    outer = [(d, s, False) for d, s in enumerate(shape[:-1]) if d != axis and s != 1]
    wanted = TILE if outer or work < PARALLEL_WORK else -(-columns // 8)
    tile = min(TILE, columns, -(-wanted // ALIGNED) * ALIGNED)
    tiles = -(-columns // tile)
    last = len(shape) - 1
    written = frozenset((place.buffer,))
    with ExitStack() as stack:
        places = open_loops(ctx, stack, [*outer, (last, tiles, False)] if tiles > 1 else outer, written, work)
        low: Index = places.pop(last) * tile if tiles > 1 else 0
        width = tile
        high: Any = tile
        if tiles * tile != columns and tiles > 1:
            high = b.op("smin", "i64", b.const("i64", tile), b.index(-low + columns))
        best = ctx.temporary(ArrayType((tile,), search.dtype))
        index = ctx.temporary(ArrayType((tile,), INT32))
        inside = written | frozenset((best.buffer, index.buffer))

        def at(row: Index, j: Index) -> Scalar:
            where = {**places, axis: row, last: low + j}
            return read(b, form, tuple([where.get(d, 0) for d in range(len(shape))]))

        def over_columns(body: Callable[[Index], None]) -> None:
            with b.loop(0, high, memory=False, written=inside, name="j", bounds=(0, width - 1)) as loop:
                body(loop.index)

        def begin(j: Index) -> None:
            store(b, best.buffer, best.position((j,)), at(0, j))
            store(b, index.buffer, index.position((j,)), b.const("i32", 0))

        def compare(rows: list[Index]) -> None:
            numbers = [b.op("trunc", "i32", b.index(r)) if not isinstance(r, int) else b.const("i32", r) for r in rows]

            def body(j: Index) -> None:
                value = load(b, best.buffer, best.position((j,)))
                number = load(b, index.buffer, index.position((j,)))
                for r, own in zip(rows, numbers, strict=True):
                    x = at(r, j)
                    better = search.better(x, value)
                    value, number = b.select(better, x, value), b.select(better, own, number)
                store(b, best.buffer, best.position((j,)), value)
                store(b, index.buffer, index.position((j,)), number)

            over_columns(body)

        over_columns(begin)
        together = (n - 1) // ROWS_AT_ONCE
        if together:
            with b.loop(0, together, memory=False, written=inside, name="r") as loop:
                compare([loop.index * ROWS_AT_ONCE + (k + 1) for k in range(ROWS_AT_ONCE)])
        if together * ROWS_AT_ONCE < n - 1:
            compare(list(range(together * ROWS_AT_ONCE + 1, n)))

        def end(j: Index) -> None:
            where = {**places, last: low + j}
            kept = tuple([where.get(d, 0) for d in range(len(shape)) if d != axis])
            number = load(b, index.buffer, index.position((j,)))
            store(b, place.buffer, place.position(kept), conversions.convert(b, number, INT32, place.type.dtype))

        over_columns(end)


ir.argmax_p.define(lower=lower_search("max"))
ir.argmin_p.define(lower=lower_search("min"))
