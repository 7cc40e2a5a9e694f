"""The inner kernels of matrix products, in assembly: tiles of the result that stay in vector registers.

For every term of the inner dimension: as many vectors of the right operand as the tile is wide, and for each of its rows one element of
the left operand, spread over a vector and multiplied in. It is assembly for the sake of compile time: LLVM takes some ten times as long to choose
instructions and registers for the same loop, and arrives at the same code.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Kernel, Value, compute_type
from tracegrad.codegen.target import Target

ROWS_PER_POINTER = 3
"""Rows that are addressed through one register: at once, twice and not at all the distance of two rows further on."""
FARTHEST = 1 << 31
"""Distances in instructions are less than so many bytes."""


def supported(target: Target) -> bool:
    """Whether a processor has what the kernels are written in: AVX2 or AVX-512, and fused multiply-adds."""
    features = target.features.split(",")
    return target.triple.startswith("x86_64") and target.vector_bits >= 256 and "+fma" in features


class Tile:
    """A tile under construction: `height` rows of `width` vectors of `lanes` elements, within a kernel, as one piece of assembly.

    tail: how many columns the last vector of a row has, where that is not all of them. Addresses are written as AT&T's syntax has them.
    """

    def __init__(self, k: Kernel, dtype: np.dtype[Any], lanes: int, height: int, width: int, tail: Value | None):
        self.k, self.size = k, dtype.itemsize
        self.bytes = lanes * self.size
        self.wide = self.bytes == 64
        self.suffix, letter = "ps" if self.size == 4 else "pd", "z" if self.wide else "y"
        self.vectors = [f"%{letter}mm{q}" for q in range(width)]
        self.spread = f"%{letter}mm{width}"
        self.sums = [[f"%{letter}mm{width + 1 + r * width + q}" for q in range(width)] for r in range(height)]
        self.lines: list[str] = []
        self.changed: list[Value] = []
        self.kept: list[Value] = []
        clear = "vpxorq" if self.wide else "vxorps"
        for line in self.sums:
            self.line(*[f"{clear} {s}, {s}, {s}" for s in line])
        self.mask = ""
        if tail is not None:
            self.mask = self.keep(_mask(k, tail, lanes, self.size))
            if self.wide:
                self.line(f"kmovw {self.mask}, %k1")

    # operands
    def change(self, value: Value) -> str:
        """A register that holds a value at first, and may be changed."""
        self.changed.append(value)
        return f"<c{len(self.changed) - 1}>"

    def keep(self, value: Value) -> str:
        """A register that holds a value."""
        self.kept.append(value)
        return f"<k{len(self.kept) - 1}>"

    def finish(self) -> None:
        """Write all that into the kernel."""
        self.line("vzeroupper")
        text = "\\0A".join(self.lines)
        count = len(self.changed)
        for i in range(count):
            text = text.replace(f"<c{i}>", f"${i}")
        for i in range(len(self.kept)):
            text = text.replace(f"<k{i}>", f"${2 * count + i}")
        registers = [*[f"xmm{i}" for i in range(32 if self.wide else 16)], *["k1"] * bool(self.mask and self.wide)]
        constraints = ["=&r"] * count + [str(i) for i in range(count)] + ["r"] * len(self.kept)
        constraints += [f"~{{{c}}}" for c in ("memory", "dirflag", "fpsr", "flags", *registers)]
        types = ", ".join(v.type for v in self.changed)
        result = f"{{ {types} }}" if count > 1 else types or "void"
        operands = ", ".join(map(repr, [*self.changed, *self.kept]))
        self.k.line(f'call {result} asm sideeffect "{text}", "{",".join(constraints)}"({operands})')

    # instructions
    def line(self, *text: str) -> None:
        self.lines += text

    def add(self, right: str, at: int, left: list[str]) -> None:
        """One term: a row of the right operand, `at` bytes from a register, times an element of the left one for each row of the tile."""
        for q, v in enumerate(self.vectors):
            self._load(right, at, q, v)
        for address, sums in zip(left, self.sums, strict=True):
            self.line(f"vbroadcasts{self.suffix[1]} {address}, {self.spread}")
            self.line(*[f"vfmadd231{self.suffix} {v}, {self.spread}, {s}" for v, s in zip(self.vectors, sums, strict=True)])

    def add_memory(self, row: int, register: str, at: int) -> None:
        """Add what lies `at` bytes from a register to the sums of a row."""
        for q, s in enumerate(self.sums[row]):
            self._load(register, at, q, self.vectors[0])
            self.line(f"vadd{self.suffix} {self.vectors[0]}, {s}, {s}")

    def store(self, row: int, register: str, at: int) -> None:
        """Store the sums of a row `at` bytes from a register."""
        for q, s in enumerate(self.sums[row]):
            target = f"{at + q * self.bytes}({register})"
            if not self._masked(q):
                self.line(f"vmovu{self.suffix} {s}, {target}")
            elif self.wide:
                self.line(f"vmovu{self.suffix} {s}, {target}{{%k1}}")
            else:
                self.line(f"vmovu{self.suffix} ({self.mask}), {self.spread}")
                self.line(f"vmaskmov{self.suffix} {s}, {self.spread}, {target}")

    def _masked(self, q: int) -> bool:
        return bool(self.mask) and q == len(self.vectors) - 1

    def _load(self, register: str, at: int, q: int, target: str) -> None:
        source = f"{at + q * self.bytes}({register})"
        if not self._masked(q):
            self.line(f"vmovu{self.suffix} {source}, {target}")
        elif self.wide:
            self.line(f"vmovu{self.suffix} {source}, {target}{{%k1}}{{z}}")
        else:
            self.line(f"vmovu{self.suffix} ({self.mask}), {self.spread}")
            self.line(f"vmaskmov{self.suffix} {source}, {self.spread}, {target}")


def _mask(k: Kernel, tail: Value, lanes: int, size: int) -> Value:
    """Which elements of the last vector count: bits for AVX-512, the address of a vector for AVX2."""
    number = k.emit("i32", f"trunc i64 {tail.ref} to i32")
    if lanes * size == 64:
        return k.emit("i32", f"shl i32 1, {number.ref}") - 1
    type = "i32" if size == 4 else "i64"
    mask = k.stack(np.int32 if size == 4 else np.int64, lanes)
    for q in range(lanes):
        mask[q] = k.emit(type, f"sext i1 {k.compare('icmp sgt', number, k.value(q, 'i32')).ref} to {type}")
    return mask.pointer


@lru_cache(maxsize=64)
def product_tile(dtype: np.dtype[Any], lanes: int, height: int, width: int, cut: bool) -> Kernel:
    """A tile of a product of matrices: (left, right, target, terms, the left operand's two strides, the right one's, the target's, columns of
    the last vector). The target is overwritten; the last vector is short if `cut`. There is at least one term."""
    pointers, numbers = ("a", "b", "c"), ("terms", "down", "along", "step", "row", "tail")
    name = f"tg_tile_{dtype}_{lanes}_{height}_{width}{'_cut' * cut}"
    k = Kernel(name, dict.fromkeys(pointers, "ptr") | dict.fromkeys(numbers, "i64"), noalias=pointers)
    k.attributes = "noinline "  # one copy for all products: the call is short beside the work
    t = Tile(k, dtype, lanes, height, width, k["tail"] if cut else None)
    scalar = compute_type(dtype)
    rows = [t.change(k.offset(k["a"], k["down"] * r, scalar)) for r in range(0, height, ROWS_PER_POINTER)]
    b, c, terms = t.change(k["b"]), t.change(k["c"]), t.change(k["terms"])
    down, along, step, row = (t.keep(k[n] * t.size) for n in ("down", "along", "step", "row"))
    places = ("({0})", "({0},{1})", "({0},{1},2)")
    t.line(".p2align 4", "1:")
    t.add(b, 0, [places[r % ROWS_PER_POINTER].format(rows[r // ROWS_PER_POINTER], down) for r in range(height)])
    t.line(*[f"addq {along}, {r}" for r in rows], f"addq {step}, {b}", f"decq {terms}", "jne 1b")
    for r in range(height):
        t.store(r, c, 0)
        if r < height - 1:
            t.line(f"addq {row}, {c}")
    t.finish()
    return k


def patches_tile(
    name: str,
    dtype: np.dtype[Any],
    lanes: int,
    width: int,
    tail: int,
    columns: int,
    rows: tuple[int, ...],
    terms: int,
    along: int,
    written_out: tuple[int, ...] | None,
) -> Kernel:
    """A tile of a product of patches by a matrix of so many columns: (input, matrix, target, runs, how many runs, keep).

    rows: where the left operand's rows are, in elements; a run is `terms` terms `along` apart from its entry in the table `runs` on, the
    matrix has the next rows for each; where terms are `written_out`, those offsets are all. If `keep` is not 0 the sums are added to the target.
    tail: columns of the last vector, 0 if it is whole.
    """
    pointers = ("a", "b", "c", "runs")
    k = Kernel(name, dict.fromkeys(pointers, "ptr") | {"count": "i64", "keep": "i64"}, noalias=pointers)
    k.attributes = "noinline "
    t = Tile(k, dtype, lanes, len(rows), width, k.value(tail, "i64") if tail else None)
    size = t.size
    a, c, keep = t.keep(k["a"]), t.keep(k["c"]), t.keep(k["keep"])
    if written_out is not None:
        b = t.keep(k["b"])
        for term, offset in enumerate(written_out):
            t.add(b, term * columns * size, [f"{(r + offset) * size}({a})" for r in rows])
    else:
        b, runs, count = t.change(k["b"]), t.change(k["runs"]), t.change(k["count"])
        left, rest = t.change(k["a"]), t.change(k["count"])
        t.line(f"testq {count}, {count}", "jle 3f", "1:")
        t.line(f"movq ({runs}), {left}", f"leaq ({a},{left},{size}), {left}", f"movq $${terms}, {rest}", ".p2align 4", "2:")
        t.add(b, 0, [f"{r * size}({left})" for r in rows])
        t.line(f"addq $${along * size}, {left}", f"addq $${columns * size}, {b}", f"decq {rest}", "jne 2b")
        t.line(f"addq $$8, {runs}", f"decq {count}", "jne 1b", "3:")
    t.line(f"testq {keep}, {keep}", "je 4f")
    for r in range(len(rows)):
        t.add_memory(r, c, r * columns * size)
    t.line("4:")
    for r in range(len(rows)):
        t.store(r, c, r * columns * size)
    t.finish()
    return k


__all__ = ["FARTHEST", "patches_tile", "product_tile", "supported"]
