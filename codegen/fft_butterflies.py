"""Transforms of a few elements as straight-line code on vectors: lane l of every vector belongs to line l.

The prime ones use that cosines are even and sines are odd; the others are made of two shorter ones: without roots between them where the
lengths have no common factor (Good, 1958; Thomas, 1963), with roots otherwise (Cooley and Tukey, 1965). The vectors of an element are its
real and imaginary parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np

from tracegrad.codegen.fft_plan import roots
from tracegrad.codegen.kernel import Kernel, Value
from tracegrad.codegen.kernel_values import float_literal

Element = tuple[str, str]
"""The real and imaginary parts, as names of values."""


class Vectors:
    """Writes operations on vectors of `lanes` numbers. Products and sums may be contracted to fused operations."""

    def __init__(self, k: Kernel, real: str, lanes: int):
        self.k, self.lanes, self.scalar = k, lanes, real
        self.bytes = 4 if real == "float" else 8
        self.type = f"<{lanes} x {real}>"
        self.pair = f"<2 x {real}>"

    def _op(self, name: str, x: str, y: str) -> str:
        return self.k.emit(self.type, f"{name} contract {self.type} {x}, {y}").ref

    def add(self, x: str, y: str) -> str:
        return self._op("fadd", x, y)

    def sub(self, x: str, y: str) -> str:
        return self._op("fsub", x, y)

    def mul(self, x: str, y: str) -> str:
        return self._op("fmul", x, y)

    def neg(self, x: str) -> str:
        return self.k.emit(self.type, f"fneg {self.type} {x}").ref

    def const(self, value: float) -> str:
        return f"splat ({self.scalar} {float_literal(value, self.scalar)})"

    def spread(self, pointer: Value) -> str:
        """The number at an address, in all lanes."""
        one, t = f"<1 x {self.scalar}>", self.type
        x = self.k.emit(one, f"load {one}, ptr {pointer.ref}, align {self.bytes}")
        return self.k.emit(t, f"shufflevector {one} {x.ref}, {one} poison, <{self.lanes} x i32> zeroinitializer").ref

    def shuffle(self, x: str, y: str, which: Sequence[int], width: int = 0) -> str:
        """Numbers of two vectors of some width, all lanes by default, by their positions."""
        mask = ", ".join([f"i32 {w}" for w in which])
        t, result = (f"<{n} x {self.scalar}>" for n in (width or self.lanes, len(which)))
        return self.k.emit(result, f"shufflevector {t} {x}, {t} {y}, <{len(which)} x i32> <{mask}>").ref

    def joined(self, pairs: Sequence[str]) -> str:
        """Pairs of numbers one after the other."""
        parts, width = list(pairs), 2
        while len(parts) > 1:
            parts = [self.shuffle(x, y, range(2 * width), width) for x, y in zip(parts[::2], parts[1::2], strict=True)]
            width *= 2
        return parts[0]

    def load(self, pointer: Value, align: int = 0) -> str:
        return self.k.emit(self.type, f"load {self.type}, ptr {pointer.ref}, align {align or self.lanes * self.bytes}").ref

    def store(self, pointer: Value, x: str, align: int = 0) -> None:
        self.k.line(f"store {self.type} {x}, ptr {pointer.ref}, align {align or self.lanes * self.bytes}")

    def at(self, pointer: Value, index: object) -> Value:
        return self.k.offset(pointer, index, self.scalar)

    # elements

    def load_element(self, pointer: Value) -> Element:
        return self.load(pointer), self.load(self.at(pointer, self.lanes))

    def store_element(self, pointer: Value, x: Element) -> None:
        self.store(pointer, x[0])
        self.store(self.at(pointer, self.lanes), x[1])

    def plus(self, x: Element, y: Element) -> Element:
        return self.add(x[0], y[0]), self.add(x[1], y[1])

    def minus(self, x: Element, y: Element) -> Element:
        return self.sub(x[0], y[0]), self.sub(x[1], y[1])

    def times(self, x: Element, y: Element) -> Element:
        """The product of complex numbers."""
        re = self.sub(self.mul(x[0], y[0]), self.mul(x[1], y[1]))
        return re, self.add(self.mul(x[0], y[1]), self.mul(x[1], y[0]))

    def spread_element(self, pointer: Value) -> Element:
        return self.spread(pointer), self.spread(self.k.offset(pointer, 1, self.scalar))


def transform(v: Vectors, x: Sequence[Element]) -> list[Element]:
    """sum_j x[j] exp(-2 pi i j k / n) for k = 0 .. n - 1."""
    n = len(x)
    if n == 1:
        return list(x)
    if n == 2:
        return [v.plus(x[0], x[1]), v.minus(x[0], x[1])]
    if n == 4:
        even, y = v.plus(x[0], x[2]), v.minus(x[0], x[2])
        odd, z = v.plus(x[1], x[3]), v.minus(x[1], x[3])
        low, high = (v.add(y[0], z[1]), v.sub(y[1], z[0])), (v.sub(y[0], z[1]), v.add(y[1], z[0]))
        return [v.plus(even, odd), low, v.minus(even, odd), high]
    a = next((p for p in (4, 3, 2, 5, 7) if n % p == 0 and gcd(p, n // p) == 1 and p < n), 0)
    if a:
        return _coprime(v, x, a, n // a)
    a = next((p for p in (4, 2, 3) if n % p == 0 and p < n), 0)
    return _with_roots(v, x, a, n // a) if a else _prime(v, x)


def _prime(v: Vectors, x: Sequence[Element]) -> list[Element]:
    r = len(x)
    half = (r - 1) // 2
    sums = [v.plus(x[i], x[r - i]) for i in range(1, half + 1)]
    differences = [v.minus(x[i], x[r - i]) for i in range(1, half + 1)]
    total = x[0]
    for s in sums:
        total = v.plus(total, s)
    table = roots(r, -np.arange(r))
    out = [total] * r
    for k in range(1, half + 1):
        u, w = list(x[0]), ["", ""]
        for i, (s, d) in enumerate(zip(sums, differences, strict=True), 1):
            cos, sin = (v.const(float(c)) for c in table[i * k % r])
            for part in (0, 1):
                u[part] = v.add(u[part], v.mul(s[part], cos))
                term = v.mul(d[part], sin)
                w[part] = v.add(w[part], term) if w[part] else term
        out[k] = v.add(u[0], w[1]), v.sub(u[1], w[0])
        out[r - k] = v.sub(u[0], w[1]), v.add(u[1], w[0])
    return out


def _coprime(v: Vectors, x: Sequence[Element], a: int, b: int) -> list[Element]:
    n = a * b
    columns = [transform(v, [x[(b * i + a * j) % n] for i in range(a)]) for j in range(b)]
    rows = [transform(v, [columns[j][k] for j in range(b)]) for k in range(a)]
    return [rows[k % a][k % b] for k in range(n)]


def _with_roots(v: Vectors, x: Sequence[Element], a: int, b: int) -> list[Element]:
    n = a * b
    columns = [transform(v, x[j::b]) for j in range(b)]
    rows = [transform(v, [_rotated(v, columns[j][k], j * k, n) for j in range(b)]) for k in range(a)]
    return [rows[k % a][k // a] for k in range(n)]


def _rotated(v: Vectors, x: Element, exponent: int, n: int) -> Element:
    """x times exp(-2 pi i exponent / n)."""
    eighths, rest = divmod(8 * exponent, n)
    if rest:
        cos, sin = (v.const(float(c)) for c in roots(n, np.array(exponent)))
        return v.times(x, (cos, sin))
    if eighths == 0:
        return x
    if eighths == 2:
        return x[1], v.neg(x[0])
    c = v.const(0.5**0.5)
    if eighths == 1:
        return v.mul(v.add(x[0], x[1]), c), v.mul(v.sub(x[1], x[0]), c)
    if eighths == 3:
        return v.mul(v.sub(x[1], x[0]), c), v.mul(v.add(x[0], x[1]), v.const(-(0.5**0.5)))
    raise AssertionError(f"no transform of length {n} needs the root of exponent {exponent}")


__all__ = ["Element", "Vectors", "transform"]
