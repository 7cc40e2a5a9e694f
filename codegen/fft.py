"""Native Fourier transforms: generated code for lengths known at compile time.

A block of as many lines as a vector has lanes is gathered into a buffer in the first cache, transformed there (`fft_passes.py`), and
written back: lines along the last axis by transposing squares of numbers in registers, the others, whose neighbours lie beside them, as
they are. Arrays are never transposed as a whole. What is transformed along several axes is walked through in pieces that stay in the second
cache while all their axes are done; blocks are divided among tasks.

Where there are fewer lines than lanes, or lines are too long for a buffer, a line of n = a * b elements is transformed as an a by b matrix:
its columns, then its rows, with a multiplication by roots of unity between them (the four steps of Bailey, "FFTs in external or
hierarchical memory", 1990, the last of which is in how rows are written). Lengths with large prime factors become convolutions (Bluestein).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import log2, prod
from typing import Any

import numpy as np

from tracegrad.codegen import target
from tracegrad.codegen.fft_passes import Writer
from tracegrad.codegen.fft_plan import (
    LONGEST,
    WRITTEN_OUT,
    by_convolution,
    chirp_tables,
    convolution_length,
    divided,
    pass_tables,
    plan,
    power_tables,
    real_table,
)
from tracegrad.codegen.finished import FinishedRoutine
from tracegrad.codegen.library import Routine, lower_by
from tracegrad.codegen.loop_ir import Buffer, Index, Value
from tracegrad.codegen.values import View, dense_strides
from tracegrad.ir.fft import fft_p
from tracegrad.ir.types import ArrayType

PARALLEL_FLOPS = 1_500_000
"""Transforms of so many operations are divided among tasks."""
TASKS, BUFFERS = 16, 1 << 24
"""At most so many, and fewer (but four) where their buffers would take more bytes than that: each has its own."""
CACHED_BYTES = 1 << 19
"""Pieces of an array up to this size are transformed along all their axes before the next one."""


@lru_cache(maxsize=256)
def _kernel(real: str, lanes: int, name: str, *variant: Any) -> Routine:
    return FinishedRoutine(getattr(Writer(real, lanes), name)(*variant))


class _Place:
    """Memory from some number on: a buffer, and an offset in numbers."""

    __slots__ = ("buffer", "offset")

    def __init__(self, buffer: Buffer, offset: Index = 0):
        self.buffer, self.offset = buffer, offset

    def __add__(self, offset: Index) -> _Place:
        return _Place(self.buffer, self.offset + offset)


class _Work:
    """The buffers of one task: two for a block of lines, and room for what single passes need."""

    def __init__(self, t: _Transforms, n: int, fine: int = 0):
        size = t.element
        room = convolution_length(n) if by_convolution(n) else n
        p = plan(room)
        assert p is not None
        looped = max((r for r in p.radices if r not in WRITTEN_OUT), default=0)
        # Half a page apart, as processors tell addresses apart by their places in a page: loads wait for stores to the same place.
        each, page = (room + 1) * size, 4096 // t.real.itemsize
        distance = each if each < page // 2 else -(-each // page) * page + page // 2
        self.first = _Place(t.b.temporary(t.real, distance + each))
        self.second = self.first + distance
        self.sums = _Place(t.b.temporary(t.real, looped * size)) if looped else self.first
        self.roots = _Place(t.b.temporary(t.real, 2 * fine * size)) if fine else self.first


class _Transforms:
    """Emits transforms at the loop level: calls of kernels, in loops and tasks."""

    def __init__(self, ctx: Any, real: np.dtype):
        self.ctx, self.b, self.real = ctx, ctx.b, real
        self.scalar = "float" if real.itemsize == 4 else "double"
        self.lanes = target.host().vector_bits // (8 * real.itemsize)
        self.element = 2 * self.lanes

    # ------------------------------------------------------------------------------------------------------------- pieces

    def call(
        self,
        name: str,
        variant: tuple[Any, ...],
        places: Sequence[_Place],
        numbers: Sequence[Any],
        writes: int,
        operations: float = 0,
    ) -> None:
        """Call a kernel; `writes`: a bit for each place that it writes to; operations: how many it does, on vectors."""
        b = self.b
        routine = _kernel(self.scalar, self.lanes, name, *variant)
        self.ctx.lowering.function.helpers[routine.name] = routine
        pointers = [p if isinstance(p, Value) else b.address(p.buffer, p.offset) for p in places]
        values = [x if isinstance(x, Value) else b.index(x) for x in numbers]
        read = [p.buffer for p in places if isinstance(p, _Place)]
        written = [p.buffer for i, p in enumerate(places) if writes >> i & 1]
        b.call(routine.name, [*pointers, *values], reads=read, writes=written, flops=float(operations * self.lanes))

    def table(self, numbers: np.ndarray) -> _Place:
        """A table among the constants of the program, once."""
        lowering = self.ctx.lowering
        for buffer in lowering.function.buffers:
            if buffer.kind == "constant" and lowering.constants[buffer.position] is numbers:
                return _Place(buffer)
        place = len(lowering.constants)
        lowering.constants.append(numbers)
        buffer = Buffer(f"const{place}", "constant", place, numbers.dtype, numbers.size)
        lowering.function.buffers.append(buffer)
        return _Place(buffer)

    def scale(self, value: float) -> Any:
        return self.b.constant_pointer("f32" if self.scalar == "float" else "f64", value)

    def rest(self, count: int, first: Index, most: int) -> Any:
        """min(most, count - first): how many of `count` lines a block that begins with line `first` has."""
        if count % most == 0:
            return most
        return self.b.op("smin", "i64", self.b.index(first * -1 + count), self.b.const("i64", most))

    def less_one(self, x: Any) -> Any:
        return x - 1 if isinstance(x, int) else self.b.op("sub", "i64", x, self.b.const("i64", 1))

    def blocks(self, count: int, flops: float, n: int, body: Callable[[Index, Any], None], work: Callable[[], Any]) -> None:
        """A loop over blocks, divided among tasks if it is worth it. work: makes the memory of a task, for lines of up to n elements."""
        b = self.b
        tasks = min(max(BUFFERS // (2 * n * self.element * self.real.itemsize), 4), TASKS, count)
        if flops < PARALLEL_FLOPS or tasks < 2 or b.parallel_depth:
            memory = work()
            for i in self._range(0, count):
                body(i, memory)
            return
        each = -(-count // tasks)
        tasks = -(-count // each)
        with b.parallel(tasks, frozenset()) as task:
            high = b.index(task * each + each)
            if tasks * each != count:
                high = b.op("smin", "i64", high, b.const("i64", count))
            memory = work()
            for i in self._range(b.index(task * each), high, (0, count - 1)):
                body(i, memory)

    def loop_over(self, count: int) -> Iterator[Index]:
        """`for i in emit.loop_over(n)`: the body is emitted once, in a loop if n is not 1."""
        yield from self._range(0, count)

    def _range(self, low: Any, high: Any, bounds: Any = None) -> Iterator[Index]:
        if low == 0 and high == 1:
            yield 0
            return
        with self.b.loop(low, high, name="block", bounds=bounds) as loop:
            yield loop.index

    # -------------------------------------------------------------------------------------------------- one block in its buffer

    def passes(self, n: int, source: _Place, target: _Place, work: _Work) -> tuple[_Place, _Place]:
        """Transform the block in `source`; where the result is, and the other buffer."""
        if by_convolution(n):
            return self._convolution(n, source, target, work)
        p = plan(n)
        assert p is not None
        numbers, twiddles, circles = pass_tables(n, self.real.name)
        table = self.table(numbers) if n > 1 else source
        m, s = n, 1
        for r, twiddle, circle in zip(p.radices, twiddles, circles, strict=True):
            m //= r
            roots = table + twiddle
            if r in WRITTEN_OUT:
                # the last pass needs no roots, but if there is code with roots for its radix it takes that, and multiplies by one
                last = m == 1 and p.radices.count(r) == 1
                operations = m * s * (WRITTEN_OUT[r] + (0 if last else 6 * (r - 1)))
                self.call("a_pass", (r, last), (source, target, roots), (m, s), 2, operations)
            else:
                operations = m * s * (r - 1) * (2 * r + 11)
                self.call("looped_pass", (), (source, target, roots, table + circle, work.sums), (r, m, s), 18, operations)
            s *= r
            source, target = target, source
        return source, target

    def _convolution(self, n: int, source: _Place, target: _Place, work: _Work) -> tuple[_Place, _Place]:
        numbers, filter = chirp_tables(n, self.real.name)
        chirp = self.table(numbers)
        m, im = convolution_length(n), self.lanes
        self.call("multiply", (), (source, source + im, source, source + im, chirp), (n,), 12, 6 * n)
        self.call("clear", (), (source,), (2 * n, 2 * m, im), 1)
        source, target = self.passes(m, source, target, work)
        self.call("multiply", (), (source, source + im, source + im, source, chirp + filter), (m,), 12, 6 * m)
        source, target = self.passes(m, source, target, work)
        self.call("multiply", (), (source + im, source, source, source + im, chirp), (n,), 12, 6 * n)
        return source, target

    def parts(self, place: _Place, exchanged: bool) -> tuple[_Place, _Place]:
        re, im = place, place + self.lanes
        return (im, re) if exchanged else (re, im)

    # ------------------------------------------------------------------------------------------------------- lines along an axis

    def columns(
        self, source: _Place, target: _Place, n: int, inner: int, block: Index, work: _Work, inverse: bool, scale: float
    ) -> None:
        """Block number `block` of the lines across a matrix of n rows of `inner` elements."""
        first = block * self.lanes
        lanes, offset = self.rest(inner, first, self.lanes), first * 2
        self.call(
            "load_columns",
            (),
            (source + offset, *self.parts(work.first, inverse), source + offset + self.element),
            (n, 2 * inner, lanes),
            6,
        )
        done, _ = self.passes(n, work.first, work.second, work)
        places = (target + offset, *self.parts(done, inverse), self.scale(scale))
        self.call("store_columns", (), places, (n, 2 * inner, lanes), 1, 2 * n)

    def load_lines(self, source: _Place, parts: tuple[_Place, _Place], n: int, line: int, last: Any) -> None:
        self.call("load_lines", (n % (self.lanes // 2) > 0,), (source, *parts, source + self.lanes * line), (n, line, last), 6)

    def rows(self, kind: str, source: _Place, target: _Place, n: int, lines: int, block: Index, work: _Work) -> None:
        """Block number `block` of consecutive lines of n elements, or of n numbers on the real side."""
        first = block * self.lanes
        last = self.less_one(self.rest(lines, first, self.lanes))
        half, odd = n // 2 + 1, bool(n % 2)
        into, out = (2 * half if kind == k else n if kind in ("rfft", "irfft") else 2 * n for k in ("irfft", "rfft"))
        source, target = source + first * into, target + first * out
        scale = self.scale(1.0 if kind in ("fft", "rfft") else 1.0 / n)
        a, b, backward = work.first, work.second, kind in ("ifft", "irfft")
        if kind == "rfft" and odd:
            self.call("load_numbers", (), (source, a), (n, into, last), 2)
        else:
            self.load_lines(source, self.parts(a, kind == "ifft"), into // 2, into, last)
        if kind not in ("rfft", "irfft"):
            a, b = self.passes(n, a, b, work)
        elif odd:
            if backward:
                self.call("mirror", (), (a,), (n,), 1)
            a, b = self.passes(n, a, b, work)
        elif backward:
            self.call("join_real", (), (a, b, self.table(real_table(n, self.real.name))), (n // 2,), 2, 5 * n)
            a, b = self.passes(n // 2, b, a, work)
        else:
            a, b = self.passes(n // 2, a, b, work)
            self.call("split_real", (), (a, b, self.table(real_table(n, self.real.name))), (n // 2,), 2, 5 * n)
            a, b = b, a
        if kind == "irfft" and odd:
            self.call("store_numbers", (), (target, a, scale), (n, out, last), 1, n)
        else:
            rest = (out // 2) % (self.lanes // 2) > 0
            self.call("store_lines", (rest,), (target, *self.parts(a, backward), scale), (out // 2, out, last), 1, out)

    # ------------------------------------------------------------------------------------------------------------- single lines

    def long_line(self, source: _Place, target: _Place, n: int, from_exchanged: bool, inverse: bool, scale: float) -> None:
        """One line as a matrix of a rows of b elements. `from_exchanged`: what is read has its parts exchanged already."""
        sizes = divided(n)
        assert sizes is not None
        a, b = sizes
        flops = 2.5 * n * log2(n)
        step = _fine(a)
        turns = -(-a // step)
        numbers, low, bits = power_tables(n, (a + step) * b)
        table = self.table(numbers)
        between = _Place(self.b.temporary(self.real, 2 * n))

        def across(block: Index, work: _Work) -> None:
            first = block * self.lanes
            lanes = self.rest(b, first, self.lanes)
            exchanged = inverse and not from_exchanged
            self.call(
                "load_columns",
                (),
                (source + first * 2, *self.parts(work.first, exchanged), source + first * 2 + self.element),
                (a, 2 * b, lanes),
                6,
            )
            done, _ = self.passes(a, work.first, work.second, work)
            fine, coarse = work.roots, work.roots + step * self.element
            self.call("powers", (), (fine, table, table + low), (first, self.less_one(lanes), 1, step, bits), 1, 6 * step)
            self.call("powers", (), (coarse, table, table + low), (first, self.less_one(lanes), step, turns, bits), 1, 6 * turns)
            self.call("twist", (), (done, fine, coarse), (a, step, turns), 1, 12 * a)
            out = (between + first * 2, *self.parts(done, False), self.scale(1.0))
            self.call("store_columns", (), out, (a, 2 * b, lanes), 1, 2 * a)

        def along(block: Index, work: _Work) -> None:
            first = block * self.lanes
            lanes = self.rest(a, first, self.lanes)
            self.load_lines(between + first * (2 * b), self.parts(work.first, False), b, 2 * b, self.less_one(lanes))
            done, _ = self.passes(b, work.first, work.second, work)
            out = (target + first * 2, *self.parts(done, inverse), self.scale(scale))
            self.call("store_columns", (), out, (b, 2 * a, lanes), 1, 2 * b)

        self.blocks(-(-b // self.lanes), flops, a, across, lambda: _Work(self, a, max(step, turns)))
        self.blocks(-(-a // self.lanes), flops, b, along, lambda: _Work(self, b))

    def long_real_line(self, kind: str, source: _Place, target: _Place, n: int) -> None:
        """A line of n real numbers, n even, by a line of n / 2 complex ones."""
        m = n // 2
        numbers, low, bits = power_tables(n, n // 4 + (n >> 1))
        table = self.table(numbers)
        between = _Place(self.b.temporary(self.real, 2 * m))
        count = -(-(m // 2 + 1) // (1 << bits))
        name = "split_line" if kind == "rfft" else "join_line"
        places = (between, target) if kind == "rfft" else (source, between)
        if kind == "rfft":
            self.long_line(source, between, m, False, False, 1.0)

        def part(block: Index, work: None) -> None:
            self.call(name, (), (*places, table, table + low), (m, bits, block, block + 1), 2, 26 * 2**bits / self.lanes)

        self.blocks(count, 20.0 * m, 1, part, lambda: None)
        if kind == "irfft":
            self.long_line(between, target, m, True, True, 1.0 / n)


def _fine(a: int) -> int:
    """How many consecutive powers of a root are tabulated, of a."""
    return max(int(a**0.5), 1)


# ----------------------------------------------------------------------------------------------------------------------- choices


def _in_buffer(n: int, most: int) -> bool:
    """Whether a block of lines of this length is transformed in a buffer."""
    return (convolution_length(n) if by_convolution(n) else n) <= most


def _rows_way(kind: str, n: int, lines: int, lanes: int) -> str | None:
    """How lines along the last axis are transformed: as a block of "rows", each on its own as a "line"; None: not by code of ours."""
    real = kind in ("rfft", "irfft")
    m = n // 2 if real and n % 2 == 0 else n
    sizes = divided(m) if not (real and n % 2) and m > 1 else None
    if sizes is not None and (m > LONGEST or lines <= lanes // 4 and min(sizes) >= lanes // 2):
        return "line"
    return "rows" if _in_buffer(m, 2 * LONGEST) else None


def _generated(kind: str, shape: tuple[int, ...], axes: Sequence[int], n: int, lanes: int) -> bool:
    """Whether all axes of a transform have code of ours. n: the length of the last axis of `shape`, on the real side if there is one."""
    last = len(shape) - 1
    if last in axes and _rows_way(kind, n, prod(shape[:-1]), lanes) is None:
        return False
    return all(_in_buffer(shape[a], 2 * LONGEST) for a in axes if a != last)


def lower_fft(ctx: Any, eqn: Any) -> None:
    (x,), (out,) = eqn.inputs, eqn.outputs
    kind, lengths = eqn.params["kind"], eqn.params["lengths"]
    t: ArrayType = x.type
    real = np.dtype(np.float32 if max(t.dtype.itemsize, out.type.dtype.itemsize) == 8 else np.float64)
    emit = _Transforms(ctx, real)
    order = list(range(t.ndim))
    source = None
    if kind in ("fft", "ifft") and t.size and out not in ctx.targets:
        # what lies in memory in another order is transformed there
        source = ctx.view(x)
        order = _memory_order(source)
        if not order:
            source, order = None, list(range(t.ndim))
    shape = tuple([t.shape[d] for d in order])
    axes = [i for i in range(t.ndim - 1, -1, -1) if order[i] >= t.ndim - len(lengths)]
    n = lengths[-1] if kind in ("rfft", "irfft") else shape[-1]
    if out.type.size == 0 or t.size == 0 or not _generated(kind, shape, axes, n, emit.lanes):
        lower_by(_library_routine)(ctx, eqn)
        return
    if source is None:
        source = ctx.dense(x)
    result = ctx.allocate(out)
    if result.buffer is source.buffer or not result.is_dense:
        result = ctx.temporary(out.type)
    ctx.before_overwrite(result.buffer)
    into = _Place(source.buffer, source.offset * (2 if t.dtype.kind == "c" else 1))
    to = _Place(result.buffer, result.offset * (2 if out.type.dtype.kind == "c" else 1))
    if kind == "irfft":
        if len(axes) > 1:
            between = _Place(emit.b.temporary(real, 2 * t.size))
            _transform(emit, "ifft", into, between, shape, axes[1:])
            into = between
        _last_axis(emit, kind, into, to, shape, n)
    else:
        _transform(emit, kind, into, to, shape, axes)
    if order != sorted(order):
        strides = dict(zip(order, dense_strides(shape), strict=True))
        result = View(out.type, result.buffer, result.offset, tuple([strides[d] for d in range(t.ndim)]))
    ctx.define(out, result)


def _memory_order(view: View) -> list[int]:
    """The dimensions of a view from the slowest to the fastest, if it has no gaps; else none."""
    shape, strides = view.type.shape, view.strides
    order = sorted(range(len(shape)), key=lambda d: (-strides[d] if shape[d] > 1 else 0, d))
    order = [d for d in order if shape[d] == 1] + [d for d in order if shape[d] > 1]
    dense = dense_strides(tuple([shape[d] for d in order]))
    return order if all(shape[d] == 1 or strides[d] == s for d, s in zip(order, dense, strict=True)) else []


def _library_routine(x: ArrayType, **params: Any) -> Routine:
    from tracegrad.codegen.fft_library import fft_routine

    return fft_routine(x, **params)


def _flops(size: int, n: int) -> float:
    return 5.0 * size * log2(max(n, 2))


def _last_axis(emit: _Transforms, kind: str, source: _Place, target: _Place, shape: tuple[int, ...], n: int) -> None:
    lines = prod(shape[:-1])
    if _rows_way(kind, n, lines, emit.lanes) == "rows":
        blocks = -(-lines // emit.lanes)
        m = n // 2 if kind in ("rfft", "irfft") and n % 2 == 0 else n

        def body(block: Index, work: _Work) -> None:
            emit.rows(kind, source, target, n, lines, block, work)

        emit.blocks(blocks, _flops(lines * m, m), m, body, lambda: _Work(emit, m))
        return
    into, out = (2 * (n // 2 + 1) if kind == k else n if kind in ("rfft", "irfft") else 2 * n for k in ("irfft", "rfft"))

    for index in emit.loop_over(lines):
        a, b = source + index * into, target + index * out
        if kind in ("rfft", "irfft"):
            emit.long_real_line(kind, a, b, n)
        else:
            emit.long_line(a, b, n, False, kind == "ifft", 1.0 if kind == "fft" else 1.0 / n)


def _one_axis(
    emit: _Transforms, source: _Place, target: _Place, shape: tuple[int, ...], axis: int, inverse: bool, scale: float
) -> None:
    """Transform an array along an axis that is not the last one."""
    n, outer, inner = shape[axis], prod(shape[:axis]), prod(shape[axis + 1 :])
    blocks = -(-inner // emit.lanes)
    flops = _flops(prod(shape), n)
    size = 2 * n * inner

    def matrix(o: Index, work: _Work) -> None:
        for c in emit.loop_over(blocks):
            emit.columns(source + o * size, target + o * size, n, inner, c, work, inverse, scale)

    def column(c: Index, work: _Work) -> None:
        for o in emit.loop_over(outer):
            emit.columns(source + o * size, target + o * size, n, inner, c, work, inverse, scale)

    if outer >= min(blocks, TASKS):
        emit.blocks(outer, flops, n, matrix, lambda: _Work(emit, n))
    else:
        emit.blocks(blocks, flops, n, column, lambda: _Work(emit, n))


def _transform(emit: _Transforms, kind: str, source: _Place, target: _Place, shape: tuple[int, ...], axes: Sequence[int]) -> None:
    """Transform an array of this shape along axes, the last of them first."""
    inverse, real_side, last = kind == "ifft", kind == "rfft", len(shape) - 1
    n = shape[-1]
    m = n // 2 if real_side and n % 2 == 0 else n
    result = (*shape[:-1], n // 2 + 1) if real_side else shape
    axes, depth = list(axes), _piece(emit, kind, shape, result, axes)
    if depth < last:
        inner = [a for a in axes if a >= depth]
        piece, outer = result[depth:], prod(result[:depth])
        size_out = 2 * prod(piece)
        size_in = prod(shape[depth:]) * (1 if real_side else 2)

        def one(o: Index, works: dict[int, _Work]) -> None:
            a, b = source + o * size_in, target + o * size_out
            for axis in inner:
                length, width = result[axis], prod(result[axis + 1 :])
                size = 2 * length * width
                if axis == last:
                    lines = prod(piece[:-1])
                    for block in emit.loop_over(-(-lines // emit.lanes)):
                        emit.rows(kind, a, b, n, lines, block, works[m])
                else:
                    scale, work = 1.0 / length if inverse else 1.0, works[length]
                    for matrix in emit.loop_over(prod(result[depth:axis])):
                        for block in emit.loop_over(-(-width // emit.lanes)):
                            emit.columns(a + matrix * size, b + matrix * size, length, width, block, work, inverse, scale)
                a = b

        lengths = {m if a == last else result[a] for a in inner}
        flops = sum(_flops(prod(result), result[a]) for a in inner)
        emit.blocks(outer, flops, max(lengths), one, lambda: {length: _Work(emit, length) for length in sorted(lengths)})
        axes, source = [a for a in axes if a < depth], target
    for axis in axes:
        if axis == last:
            _last_axis(emit, kind, source, target, shape, n)
        else:
            _one_axis(emit, source, target, result, axis, inverse, 1.0 / result[axis] if inverse else 1.0)
        source = target


def _piece(emit: _Transforms, kind: str, shape: tuple[int, ...], result: tuple[int, ...], axes: Sequence[int]) -> int:
    """From which axis on arrays are done piece by piece: several axes of a piece while it is in the cache. The last axis: not at all."""
    last = len(shape) - 1
    if last in axes and _rows_way(kind, shape[-1], prod(shape[:-1]), emit.lanes) != "rows":
        return last
    depth = last
    for axis in axes:
        outer = prod(result[:axis])
        if prod(result[axis:]) * 2 * emit.real.itemsize <= CACHED_BYTES and (outer >= TASKS or axis == axes[-1] and outer > 1):
            depth = axis
    return depth if sum(a >= depth for a in axes) > 1 else last


fft_p.define(lower=lower_fft)
