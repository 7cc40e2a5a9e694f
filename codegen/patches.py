"""Convolutions by tiles in vector registers that read the patches where they lie, in the padded input.

A convolution is a product: rows are positions of the window (or, for the gradient of a filter, elements of the window), the inner dimension
counts what is summed, columns are output features. An element of the left operand lies at `start of its row + offset of its term`, so that a
tile (`tiles.py`) can read it without a matrix of patches being written first. Rows are taken in groups of one stride, a row of
an image; terms in runs of one stride, a row of the window with its features. Where groups start and how far the runs are from there
are tables. What is needed of padding is one copy of the input, which also computes whatever elementwise operations made it.

Tasks are ranges of rows; where the rows are few and sums long, as in gradients of filters, they are ranges of the terms, whose sums are added
up afterwards. Long sums are cut into blocks as well, for accuracy and so that what they read stays in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import target
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.contractions import multiply
from tracegrad.codegen.finished import FinishedRoutine
from tracegrad.codegen.kernel import Kernel, Value, compute_type
from tracegrad.codegen.loop_ir import Buffer
from tracegrad.codegen.loop_ir import Value as Scalar
from tracegrad.codegen.microkernels import FARTHEST, patches_tile, supported
from tracegrad.codegen.tiles import FILLED, HEIGHTS, PACKED_BYTES, SMALL, Columns, even_tiles
from tracegrad.codegen.values import OTHER, Indices, Lazy, View, dense_strides, load
from tracegrad.ir.contractions import accumulation_dtype
from tracegrad.ir.program import Equation
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

TASK, MANY = 1_500_000, 200_000_000
"""Convolutions of so many multiplications are cut into 4 tasks, into 8."""
BLOCK = 2048
"""At most so many terms are summed in one go, where their number is that of the positions in a batch."""
WRITTEN_OUT = 16
"""Sums of so few terms are code without loops."""

Dim = tuple[int, int]  # a size, and a stride in elements


@dataclass(frozen=True)
class Patches:
    """A product of patches of an input by a matrix.

    groups: how many rows of `rows` rows each (`down` apart) there are; runs, terms, along: the same for what is summed;
    columns: of the result; offsets: of the rows of the one tile, where all rows are in one that has no stride.
    The routine `(input, matrix, result, starts, runs, first group, last, first tile, last, first run, last, keep)` computes the
    tiles of a range of groups, over a range of runs, and adds to what is there if `keep` is not 0.
    """

    dtype: np.dtype
    rows: int
    down: int
    terms: int
    along: int
    columns: int
    offsets: tuple[int, ...] | None = None
    written_out: tuple[int, ...] | None = None

    @property
    def tiles(self) -> int:
        return self._heights()[0]

    def _heights(self) -> tuple[int, int, int]:
        if self.offsets is not None:
            return 1, len(self.offsets), 1
        return even_tiles(self.rows, HEIGHTS[target.host().vector_bits][self.split().width])

    def split(self) -> Columns:
        bits = target.host().vector_bits
        return Columns(self.columns, bits // (8 * self.dtype.itemsize), bits)

    @property
    def name(self) -> str:
        parts = [self.dtype, self.rows, self.down, self.terms, self.along, self.columns]
        for table in (self.offsets, self.written_out):
            parts.append("_".join(map(str, table)).replace("-", "m") if table is not None else "t")
        return "tg_patches_" + "_".join(map(str, parts))

    def routine(self) -> FinishedRoutine:
        names = dict.fromkeys(("a", "b", "c", "starts", "runs"), "ptr") | dict.fromkeys(_NUMBERS, "i64")
        k = Kernel(self.name, names, noalias=("a", "b", "c", "starts", "runs"))
        k.attributes = "noinline "
        columns = self.split()
        scalar = compute_type(self.dtype)
        helpers: dict[str, Kernel] = {}
        _, height, more = self._heights()

        def panel(number: Any, width: int, cut: bool) -> None:
            column = k.value(number, "i64") * (columns.width * columns.lanes)
            right = k.offset(k["b"], k["begin"] * (self.terms * self.columns) + column, scalar)
            runs, count = k.offset(k["runs"], k["begin"], "i64"), k["end"] - k["begin"]
            with k.loop(k["low"], k["high"], vectorize=False) as group:
                left = k.offset(k["a"], k.load(k.offset(k["starts"], group, "i64"), "i64"), scalar)
                place = k.offset(k["c"], group * (self.rows * self.columns) + column, scalar)

                def tiles(low: Value, high: Value, height: int, extra: int) -> None:
                    tile = self._tile(height, width, columns.tail if cut else None)
                    helpers[tile.name] = tile
                    with k.loop(low, high, vectorize=False) as t:
                        row = t * height + extra
                        pointers = k.offset(left, row * self.down, scalar), right, k.offset(place, row * self.columns, scalar)
                        arguments = (*pointers, runs, count, k["keep"])
                        k.line(f"call void @{tile.name}({', '.join(map(repr, arguments))})")

                if more == self.tiles:
                    tiles(k["first"], k["last"], height, 0)
                else:
                    limit = k.value(more, "i64")
                    tiles(k["first"], k.intrinsic("smin", k["last"], limit), height, 0)
                    tiles(k.intrinsic("smax", k["first"], limit), k["last"], height - 1, more)

        if columns.whole:
            with k.loop(0, columns.whole, vectorize=False) as number:
                panel(number, columns.width, False)
        if columns.rest:
            panel(columns.whole, columns.rest, columns.cut)
        return FinishedRoutine(k, 0, helpers.values())

    def _tile(self, height: int, width: int, tail: int | None) -> Kernel:
        name = f"{self.name}_{height}_{width}_{tail or 0}"
        rows = self.offsets or tuple(r * self.down for r in range(height))
        lanes, terms = self.split().lanes, (self.terms, self.along, self.written_out)
        return patches_tile(name, self.dtype, lanes, width, tail or 0, self.columns, rows, *terms)


_NUMBERS = ("low", "high", "first", "last", "begin", "end", "keep")


def _merged(dims: list[Dim]) -> list[Dim]:
    """Neighbouring dimensions that one stride goes through are one; those of one element are none."""
    out: list[Dim] = []
    for n, s in dims:
        if n == 1:
            continue
        if out and out[-1][1] == n * s:
            out[-1] = (out[-1][0] * n, s)
        else:
            out.append((n, s))
    return out or [(1, 0)]


def _table(dims: list[Dim]) -> np.ndarray:
    """The offsets of all indices, in order."""
    total = np.zeros((), np.int64)
    for n, s in dims:
        total = total[..., None] + np.arange(n) * s
    return total.reshape(-1)


def lower_directly(ctx: Context, eqn: Equation) -> bool:
    """Lower a convolution so, if it is of a kind for which this is best: real numbers, one group, features that fill their vectors."""
    lhs, rhs = eqn.inputs
    (out,) = eqn.outputs
    params = eqn.params
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    dtype = np.dtype(accumulation_dtype(lhs.type.dtype, params["preferred_element_type"]))
    bits = target.host().vector_bits
    if (
        not supported(target.host())
        or dtype.name not in ("float32", "float64")
        or {lhs.type.dtype, rhs.type.dtype, out.type.dtype} != {dtype}
    ):
        return False
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1 or any(d != 1 for d in params["lhs_dilation"]):
        return False
    if 0 in (lhs.type.size, rhs.type.size, out.type.size):
        return False
    fan_out = rhs.type.shape[rhs_spec[0]]
    window = [rhs.type.shape[d] for d in rhs_spec[2:]]
    lanes = bits // (8 * dtype.itemsize)
    work = out.type.size * rhs.type.shape[rhs_spec[1]] * prod(window)
    if fan_out < FILLED * -(-fan_out // lanes) * lanes and work > SMALL:
        return False
    sizes = [lhs.type.shape[d] for d in lhs_spec[:2]]
    sizes += [lhs.type.shape[d] + max(lo, 0) + max(hi, 0) for d, (lo, hi) in zip(lhs_spec[2:], params["padding"], strict=True)]
    if max(prod(sizes), out.type.size, rhs.type.size) * dtype.itemsize >= FARTHEST:
        return False
    x, spatial = _padded(ctx, lhs, lhs_spec, params["padding"])
    if sum([n * abs(s) for n, s in zip(x.type.shape, x.strides, strict=True)]) * dtype.itemsize >= FARTHEST:
        return False  # a view of a larger array
    batch, features = (lhs.type.shape[d] for d in lhs_spec[:2])
    positions = [out.type.shape[d] for d in out_spec[2:]]
    across = [(n, step * s) for n, step, s in zip(positions, params["window_strides"], spatial, strict=True)]
    within = [(n, step * s) for n, step, s in zip(window, params["rhs_dilation"], spatial, strict=True)]
    outer, inner = (batch, x.strides[lhs_spec[0]]), (features, x.strides[lhs_spec[1]])
    if lhs_spec[1] < lhs_spec[0]:
        # batch and features exchanged, the gradient of a filter: what lies side by side in memory are rows
        row_dims, term_dims = [*across, outer], [inner, *within]
        row_axes, term_axes = (*out_spec[2:], out_spec[0]), (rhs_spec[1], *rhs_spec[2:])
    else:
        row_dims, term_dims = [outer, *across], [*within, inner]
        row_axes, term_axes = (out_spec[0], *out_spec[2:]), (*rhs_spec[2:], rhs_spec[1])
    matrix = _matrix(ctx, rhs, (*term_axes, rhs_spec[0]))
    result = _product(ctx, dtype, x, _merged(row_dims), matrix, _merged(term_dims), fan_out, work, out, (*row_axes, out_spec[1]))
    ctx.define(out, result)
    return True


def _padded(ctx: Context, atom: Any, spec: tuple[int, ...], padding: Any) -> tuple[View, list[int]]:
    """The input with its padding, in memory, and the strides of its spatial dimensions; without any, where it lies."""
    if all(lo <= 0 and hi <= 0 for lo, hi in padding):
        view = ctx.view(atom)
        offset = view.offset
        for d, (lo, _) in zip(spec[2:], padding, strict=True):
            offset = offset + -lo * view.strides[d]
        return View(view.type, view.buffer, offset, view.strides), [view.strides[d] for d in spec[2:]]
    form = ctx.value(atom)
    shape = list(atom.type.shape)
    if isinstance(form, Lazy) and ctx.remaining.get(atom, 0) > 0 or any(n < 0 for pair in padding for n in pair):
        form = ctx.view(atom)
    crop = dict.fromkeys(range(len(shape)), (0, 0))
    border = dict(crop)
    for d, (lo, hi) in zip(spec[2:], padding, strict=True):
        crop[d], border[d] = (max(-lo, 0), max(-hi, 0)), (max(lo, 0), max(hi, 0))
    inside = [n - sum(crop[d]) for d, n in enumerate(shape)]
    whole = [max(n, 0) + sum(border[d]) for d, n in enumerate(inside)]
    # dimensions in the order in which tiles read them, whatever their order in the type
    exchanged = spec[1] < spec[0]
    order = (spec[1], *spec[2:], spec[0]) if exchanged else (spec[0], *spec[2:], spec[1])
    steps = dense_strides(tuple(whole[d] for d in order))
    strides = tuple(steps[order.index(d)] for d in range(len(shape)))
    room = ctx.temporary(ArrayType((prod(whole),), atom.type.dtype))

    def part(starts: list[int], sizes: list[int]) -> View:
        offset = sum(a * s for a, s in zip(starts, strides, strict=True))
        return View(ArrayType(tuple(sizes), atom.type.dtype), room.buffer, offset, strides)

    # all of it: the code for its margins alone would take longer to compile than it could ever save
    ctx.b.copy(room.buffer, 0, None, 0, room.type.nbytes)
    if min(inside) <= 0:
        return part([0] * len(shape), whole), [strides[d] for d in spec[2:]]
    if any(crop[d] != (0, 0) for d in crop):
        assert isinstance(form, View)
        at = form.position(tuple(crop[d][0] for d in range(len(shape))))
        form = View(ArrayType(tuple(inside), atom.type.dtype), form.buffer, at, form.strides)
    ctx.fill(part([border[d][0] for d in border], inside), form)
    return part([0] * len(shape), whole), [strides[d] for d in spec[2:]]


def _matrix(ctx: Context, atom: Any, order: tuple[int, ...]) -> View:
    """The filter as a dense matrix, its dimensions in this order."""
    view = ctx.view(atom)
    t = ArrayType(tuple(view.type.shape[d] for d in order), view.type.dtype)
    return ctx.dense(View(t, view.buffer, view.offset, tuple(view.strides[d] for d in order)))


def _product(
    ctx: Context,
    dtype: np.dtype,
    x: View,
    rows: list[Dim],
    matrix: View,
    terms: list[Dim],
    fan_out: int,
    work: int,
    out: Any,
    axes: tuple[int, ...],
) -> Any:
    """The product, as the value of `out`, whose axes in the order of the rows and columns are `axes`."""
    b = ctx.b
    bits = target.host().vector_bits
    count_rows, count_terms = prod(n for n, _ in rows), prod(n for n, _ in terms)
    if len(rows) == len(terms) == 1:
        # a window of one element, or of all: the input is a matrix as it is
        place = ctx.temporary(ArrayType((count_rows, fan_out), dtype))
        left = View(ArrayType((count_rows, count_terms), dtype), x.buffer, x.offset, (rows[0][1], terms[0][1]))
        right = View(ArrayType((count_terms, fan_out), dtype), matrix.buffer, matrix.offset, (fan_out, 1))
        multiply(ctx, left, right, place)
        return _arranged(place.buffer, 1, out.type, axes)
    most = HEIGHTS[bits][Columns(fan_out, bits // (8 * dtype.itemsize), bits).width]
    offsets = tuple(_table(rows).tolist()) if len(rows) > 1 and count_rows <= most else None
    written = tuple(_table(terms).tolist()) if count_terms <= WRITTEN_OUT else None
    inner_rows, inner_terms = rows[-1], terms[-1]
    if offsets is not None:
        rows, inner_rows = [], (count_rows, 0)
    else:
        rows = rows[:-1]
    runs = [] if written is not None else terms[:-1]
    length = count_terms if written is not None else inner_terms[0]
    p = Patches(dtype, *inner_rows, length, inner_terms[1], fan_out, offsets, written)
    starts, distances = _table(rows), _table(runs)
    groups, steps = len(starts), len(distances)
    helpers = ctx.lowering.function.helpers
    if p.name not in helpers:
        helpers[p.name] = p.routine()
    tables = [_positions(ctx, t) for t in (starts, distances)]

    tasks = 1 if work < TASK or b.parallel_depth else 4 if work < MANY else 8
    many = 16 if groups >= tasks or p.tiles >= 4 * tasks else 4
    by_terms = tasks > 1 and steps >= 2 * tasks and count_terms > many * count_rows
    by_groups = by_terms or groups >= tasks or groups > p.tiles
    pieces = steps if by_terms else groups if by_groups else p.tiles
    each = -(-pieces // min(tasks, pieces))
    count = -(-pieces // each)
    parts = count if by_terms else 1

    shape = (count_rows, fan_out)
    place = ctx.allocate(out)
    direct = parts == 1 and place.is_dense and axes == tuple(range(len(axes))) and place.buffer not in (x.buffer, matrix.buffer)
    if direct:
        ctx.before_overwrite(place.buffer)
    else:
        place = ctx.temporary(ArrayType((parts, *shape), dtype))
    b.touch(place.buffer)
    pointers = [(v.buffer, v.offset) for v in (x, matrix)]

    def call(rows: tuple[Any, Any], runs: tuple[Any, Any], start: Any, keep: Any, share: float) -> None:
        ranges = (*rows, 0, p.tiles) if by_groups else (0, groups, *rows)
        addresses = [b.address(*v) for v in (*pointers, (place.buffer, place.offset + start), *[(t, 0) for t in tables])]
        numbers = [v if isinstance(v, Scalar) else b.index(v) for v in (*ranges, *runs, keep)]
        reads = (x.buffer, matrix.buffer, *tables)
        b.call(p.name, [*addresses, *numbers], reads=reads, writes=(place.buffer,), flops=2.0 * work * share)

    def blocks(rows: tuple[Any, Any], first: Any, end: Any, most: int, start: Any, share: float) -> None:
        """A range of rows, over a range of at most so many runs, block after block."""
        number = -(-most // max(1, _block(p) // length))
        size = -(-most // number)
        if number == 1:
            call(rows, (first, end), start, 0, share)
            return
        with b.loop(0, number) as loop:
            begin = first + loop.index * size
            stop = b.op("smin", "i64", b.index(begin + size), end if isinstance(end, Scalar) else b.index(end))
            call(rows, (begin, stop), start, loop.index, share / number)

    if count == 1:
        blocks((0, pieces), 0, steps, steps, 0, 1.0)
    else:
        with b.parallel(count, frozenset((place.buffer,))) as task:
            low, high = task * each, b.op("smin", "i64", b.index(task * each + each), b.const("i64", pieces))
            if by_terms:
                blocks((0, groups), low, high, each, task * prod(shape), 1 / count)
            else:
                blocks((low, high), 0, steps, steps, 0, 1 / count)
    if direct:
        return View(out.type, place.buffer, place.offset, place.strides)
    return _arranged(place.buffer, parts, out.type, axes)


def _block(p: Patches) -> int:
    """How many terms are summed in one go: so many that a panel of the matrix stays in the cache."""
    columns = p.split()
    return min(BLOCK, PACKED_BYTES // (columns.width * columns.lanes * p.dtype.itemsize))


def _arranged(buffer: Buffer, parts: int, t: ArrayType, axes: tuple[int, ...]) -> View | Lazy:
    """The result, whose axes lie in memory in the order `axes`; where it is in parts, their sum."""
    steps = dense_strides(tuple(t.shape[d] for d in axes))
    view = View(t, buffer, 0, tuple(steps[axes.index(d)] for d in range(len(axes))))
    if parts == 1:
        return view

    def total(b: Builder, i: Indices) -> Any:
        found = load(b, buffer, view.position(i))
        for q in range(1, parts):
            found = b.op("fadd", found.type, found, load(b, buffer, view.position(i) + q * t.size))
        return found

    return Lazy(t, total, {buffer: OTHER}, parts)


def _positions(ctx: Context, table: np.ndarray) -> Buffer:
    """A table among the constants of the program."""
    constants = ctx.lowering.constants
    buffer = Buffer(f"const{len(constants)}", "constant", len(constants), np.dtype(np.int64), len(table))
    constants.append(table)
    ctx.lowering.function.buffers.append(buffer)
    return buffer


__all__ = ["Patches", "lower_directly"]
