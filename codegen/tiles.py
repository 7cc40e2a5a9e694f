"""Matrix products as generated code, where their sizes are known: tiles of the result that stay in vector registers.

A tile of some rows by up to four vectors of columns is summed over the whole inner dimension (`microkernels.py`). That is the inner
kernel of every BLAS (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008), without its copies of the operands: with
sizes known, a left operand is read where it lies, whatever its strides, and a right one, too, if its rows are contiguous; otherwise a panel of it
(the columns of a tile) is transposed into a small buffer first. Each element is summed in the order of the inner dimension by fused multiply-adds,
however the tiles are divided among tasks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tracegrad.codegen import microkernels, target
from tracegrad.codegen.finished import FinishedRoutine
from tracegrad.codegen.kernel import Kernel, Value, compute_type
from tracegrad.codegen.library import Routine

HEIGHTS = {512: {1: 14, 2: 12, 3: 8, 4: 6}, 256: {1: 10, 2: 6, 3: 4}}
"""Rows of a tile by its vectors in a row, by the bits of a vector: what fits into 32 or 16 registers."""
FILLED, SMALL = 0.7, 30_000
"""Where rows fill less than that part of their vectors, BLAS is better, unless the product is so small that its call counts."""
PACKED_BYTES = 1 << 18
"""A panel of the right operand that is transposed into a buffer on the stack has at most so many bytes."""


class Columns:
    """How n columns are divided into panels: `whole` ones of `width` vectors, and perhaps one of `rest`, which alone may be `cut` within
    its last vector, of which `tail` columns are left."""

    def __init__(self, n: int, lanes: int, bits: int):
        self.lanes = lanes
        vectors = -(-n // lanes)
        most = max(HEIGHTS[bits])
        # panels of one width, so that one loop goes over them, and what is left of the columns
        self.width = vectors if vectors <= most else most if vectors % most == 0 or vectors % (most - 1) else most - 1
        self.whole, self.rest = divmod(vectors, self.width)
        self.panels = self.whole + (self.rest > 0)
        self.tail = n - (vectors - 1) * lanes
        self.cut = self.tail < lanes
        if self.cut and not self.rest:
            # the last panel ends within a vector: it has code of its own
            self.whole, self.rest = self.whole - 1, self.width


def even_tiles(rows: int, most: int) -> tuple[int, int, int]:
    """(tiles, height, how many of them are of that height): rows divided as evenly as possible, the other tiles have one row less."""
    tiles = -(-rows // most)
    height = -(-rows // tiles)
    return tiles, height, rows - tiles * (height - 1)


class Tiles:
    """How a product of (m, k) by (k, n) elements is divided: `panels` of columns, each `tiles` of rows.

    a, b: the strides of the operands' rows and columns, in elements; c: that of the result's rows (its columns are one apart).
    The routine `(a, b, c, first panel, last, first tile, last, *numbers)` computes the tiles of a range of panels and rows. It is one for
    many products: sizes and strides are among its arguments.
    """

    def __init__(self, dtype: Any, sizes: tuple[int, int, int], a: tuple[int, int], b: tuple[int, int], c: int):
        self.dtype = np.dtype(dtype)
        m, k, n = sizes
        bits = target.host().vector_bits
        self.lanes = bits // (8 * self.dtype.itemsize)
        columns = Columns(n, self.lanes, bits)
        self.width, self.panels, self.loops = columns.width, columns.panels, columns.whole > 0
        self.rest, self.cut = columns.rest, columns.cut
        self.tiles, self.height, more = even_tiles(m, HEIGHTS[bits][self.width])
        self.uneven = more < self.tiles
        self.packed = b[1] != 1 and n > 1
        row = self.width * self.lanes
        self.room = 1 << (k * row - 1).bit_length() if self.packed else 0
        self.numbers = (columns.whole, more, k, *a, *b, c, columns.tail)

    @property
    def name(self) -> str:
        parts = (self.dtype, self.width, self.rest, self.height, self.room)
        flags = "_loop" * self.loops + "_cut" * self.cut + "_uneven" * self.uneven
        return f"tg_product_{'_'.join(map(str, parts))}{flags}"

    def routine(self) -> Routine:
        *helpers, kernel = self.kernels()
        # loops around assembly need no passes; that which transposes panels does
        return (Routine if self.packed else FinishedRoutine)(kernel, 0, helpers)

    def kernels(self) -> list[Kernel]:
        """The routine's kernel, after those that it calls."""
        k = Kernel(self.name, dict.fromkeys("abc", "ptr") | dict.fromkeys(NUMBERS, "i64"), noalias=("a", "b", "c"))
        k.attributes = "noinline "
        writer = _Writer(k, self)
        last, whole = k["last"], k["whole"]
        if self.loops:
            with k.loop(k["first"], k.intrinsic("smin", last, whole), vectorize=False) as panel:
                writer.panel(panel, self.width, False)
        if self.rest:
            with k.if_(last > whole):
                writer.panel(whole, self.rest, self.cut)
        return [*writer.helpers.values(), k]


NUMBERS = ("first", "last", "low", "high", "whole", "more", "terms", "down", "along", "step", "across", "row", "tail")


def applies(dtype: Any, sizes: tuple[int, int, int]) -> bool:
    """Whether such code is the best for a product here: real numbers, rows that fill their vectors well, panels that fit into the cache."""
    bits = target.host().vector_bits
    m, k, n = sizes
    dtype = np.dtype(dtype)
    if dtype.name not in ("float32", "float64") or not microkernels.supported(target.host()) or m < 2:
        return False
    lanes = bits // (8 * dtype.itemsize)
    if n < FILLED * -(-n // lanes) * lanes and m * k * n > SMALL:
        return False
    return k * max(HEIGHTS[bits]) * bits // 8 <= PACKED_BYTES


class _Writer:
    """Writes the code that goes over panels and tiles, and notes the kernels that it calls."""

    def __init__(self, k: Kernel, tiles: Tiles):
        self.k, self.t = k, tiles
        self.helpers: dict[str, Kernel] = {}
        self.scalar = compute_type(tiles.dtype)
        self.length = tiles.width * tiles.lanes  # of a row of the transposed panel
        self.buffer = k.stack(tiles.dtype, tiles.room).pointer if tiles.packed else None

    def call(self, kernel: Kernel, *arguments: Any) -> None:
        k = self.k
        self.helpers[kernel.name] = kernel
        values = [a if isinstance(a, Value) else k.value(a, "i64") for a in arguments]
        k.line(f"call void @{kernel.name}({', '.join(map(repr, values))})")

    def panel(self, panel: Value, width: int, cut: bool) -> None:
        """Columns from panel * width on: all tiles of a range of rows. `cut`: the last vector is not whole."""
        k, t = self.k, self.t
        column = panel * self.length
        right, step = k.offset(k["b"], column * k["across"], self.scalar), k["step"]
        if self.buffer is not None:
            columns = k["tail"] + (width - 1) * t.lanes if cut else k.value(width * t.lanes, "i64")
            self.call(_transpose(t.dtype), right, self.buffer, k["terms"], columns, step, k["across"], self.length)
            right, step = self.buffer, k.value(self.length, "i64")
        target = k.offset(k["c"], column, self.scalar)

        def tiles(low: Value, high: Value, height: int, extra: Any) -> None:
            with k.loop(low, high, vectorize=False) as tile:
                row = tile * height + extra
                left, place = k.offset(k["a"], row * k["down"], self.scalar), k.offset(target, row * k["row"], self.scalar)
                kernel = microkernels.product_tile(t.dtype, t.lanes, height, width, cut)
                self.call(kernel, left, right, place, k["terms"], k["down"], k["along"], step, k["row"], k["tail"])

        low, high, more = k["low"], k["high"], k["more"]
        if not t.uneven:
            tiles(low, high, t.height, 0)
            return
        tiles(low, k.intrinsic("smin", high, more), t.height, 0)
        tiles(k.intrinsic("smax", low, more), high, t.height - 1, more)


@lru_cache(maxsize=4)
def _transpose(dtype: Any) -> Kernel:
    """Columns of the right operand as rows of a buffer: (source, buffer, terms, columns, strides, length of the buffer's rows)."""
    names = dict.fromkeys(("source", "buffer"), "ptr") | dict.fromkeys(("terms", "columns", "down", "along", "row"), "i64")
    k = Kernel(f"tg_tile_transpose_{dtype}", names, noalias=("source", "buffer"))
    k.attributes = "noinline "
    scalar = compute_type(dtype)
    four = f"<4 x {scalar}>"
    align = dtype.itemsize

    def source(p: Any, j: Any) -> Value:
        return k.offset(k["source"], p * k["down"] + j * k["along"], scalar)

    def target(p: Any, j: Any) -> Value:
        return k.offset(k["buffer"], p * k["row"] + j, scalar)

    def one(p: Any, j: Any) -> None:
        k.line(f"store {scalar} {k.load(source(p, j), scalar).ref}, ptr {target(p, j).ref}, align {align}")

    def shuffle(x: Value, y: Value, which: tuple[int, ...]) -> Value:
        mask = ", ".join(f"i32 {w}" for w in which)
        return k.emit(four, f"shufflevector {four} {x.ref}, {four} {y.ref}, <4 x i32> <{mask}>")

    def square(p: Value, j: Value) -> None:
        w, x, y, z = (k.emit(four, f"load {four}, ptr {source(p, j + q).ref}, align {align}") for q in range(4))
        low, high = (0, 4, 1, 5), (2, 6, 3, 7)
        wx, yz, xw, zy = shuffle(w, x, low), shuffle(y, z, low), shuffle(w, x, high), shuffle(y, z, high)
        first, second = (0, 1, 4, 5), (2, 3, 6, 7)
        done = shuffle(wx, yz, first), shuffle(wx, yz, second), shuffle(xw, zy, first), shuffle(xw, zy, second)
        for q, row in enumerate(done):
            k.line(f"store {four} {row.ref}, ptr {target(p + q, j).ref}, align {align}")

    line = 64 // align
    zero = k.value(0, "i64")
    across, down = k.var("i64", zero), k.var("i64", zero)
    with k.if_(k.compare("icmp eq", k["down"], k.value(1, "i64"))):
        # where the terms of a column are neighbours: four by four elements at a time, a cache line of the buffer's rows after the other
        for variable, size in ((across, "columns"), (down, "terms")):
            variable.set(k.emit("i64", f"and i64 {k[size].ref}, -4"))
        wide = k.emit("i64", f"and i64 {k['columns'].ref}, {-line}")
        for start, stop, step in ((k.value(0, "i64"), wide, line), (wide, across.get(), 4)):
            with k.loop(start, stop, step, vectorize=False) as j, k.loop(0, down.get(), 4, vectorize=False) as p:
                for first in range(0, step, 4):
                    square(p, j + first)
    with k.loop(down.get(), k["terms"], vectorize=False) as p, k.loop(0, across.get(), vectorize=False) as j:
        one(p, j)
    with k.loop(across.get(), k["columns"], vectorize=False) as j, k.loop(0, k["terms"], vectorize=False) as p:
        one(p, j)
    return k


__all__ = ["Columns", "Tiles", "applies", "even_tiles"]
