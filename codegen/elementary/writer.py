"""A small writer of LLVM IR text for scalar functions.

Each method appends one instruction and returns the name of its result, so that a function reads like arithmetic:

    r = w.fma(n, -LN2, x)
    p = w.polynomial(r, COEFFICIENTS)

Numbers may stand wherever a value does. Nothing is folded or reordered: what is written is what is computed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

Operand = Any  # the name of a value, or a number


class Writer:
    """Instructions over one floating type: `float` ("f32") or `double` ("f64"), and the integers of its width."""

    def __init__(self, dtype: str):
        self.dtype = dtype
        self.single = dtype == "f32"
        self.type = "float" if self.single else "double"
        self.int = "i32" if self.single else "i64"
        self.bits = 32 if self.single else 64
        self.mantissa = 23 if self.single else 52
        self.bias = 127 if self.single else 1023
        self.numpy = np.float32 if self.single else np.float64
        self.lines: list[str] = []
        self.intrinsics: set[str] = set()
        self.calls: set[tuple[str, str]] = set()

    # operands
    def number(self, x: float) -> str:
        """A floating constant, exact, as LLVM spells it (a float constant is the double of the same value)."""
        with np.errstate(over="ignore"):
            return "0x" + struct.pack(">d", float(self.numpy(x))).hex().upper()

    def f(self, x: Operand) -> str:
        return x if isinstance(x, str) else self.number(x)

    def i(self, x: Operand) -> str:
        return x if isinstance(x, str) else str(int(x))

    def emit(self, text: str) -> str:
        name = f"%t{len(self.lines)}"
        self.lines.append(f"  {name} = {text}")
        return name

    def _float(self, op: str, *xs: Operand) -> str:
        return self.emit(f"{op} {self.type} {', '.join(map(self.f, xs))}")

    def _intrinsic(self, name: str, *xs: Operand) -> str:
        full = f"llvm.{name}.{self.dtype}"
        self.intrinsics.add(f"declare {self.type} @{full}({', '.join([self.type] * len(xs))})")
        return self.emit(f"call {self.type} @{full}({', '.join(f'{self.type} {self.f(x)}' for x in xs)})")

    # floating arithmetic
    def add(self, x: Operand, y: Operand) -> str:
        return self._float("fadd", x, y)

    def sub(self, x: Operand, y: Operand) -> str:
        return self._float("fsub", x, y)

    def mul(self, x: Operand, y: Operand) -> str:
        return self._float("fmul", x, y)

    def div(self, x: Operand, y: Operand) -> str:
        return self._float("fdiv", x, y)

    def neg(self, x: Operand) -> str:
        return self._float("fneg", x)

    def fma(self, x: Operand, y: Operand, z: Operand) -> str:
        """x * y + z with one rounding. Where an algorithm needs it to be exact; costly on machines without the instruction."""
        return self._intrinsic("fma", x, y, z)

    def muladd(self, x: Operand, y: Operand, z: Operand) -> str:
        """x * y + z, with one or two roundings, whichever is fast."""
        return self._intrinsic("fmuladd", x, y, z)

    def sqrt(self, x: Operand) -> str:
        return self._intrinsic("sqrt", x)

    def abs(self, x: Operand) -> str:
        return self._intrinsic("fabs", x)

    def copysign(self, x: Operand, sign: Operand) -> str:
        return self._intrinsic("copysign", x, sign)

    def rint(self, x: Operand) -> str:
        return self._intrinsic("rint", x)

    def floor(self, x: Operand) -> str:
        return self._intrinsic("floor", x)

    def polynomial(self, x: Operand, coefficients: Sequence[float]) -> str:
        """Horner's scheme, the coefficient of the highest power last in the sequence; of even and odd powers apart when there are
        many, which halves the time until the result is there for one multiplication more.
        """
        if len(coefficients) > 4:
            square = self.mul(x, x)
            return self.muladd(self.polynomial(square, coefficients[1::2]), x, self.polynomial(square, coefficients[::2]))
        *rest, top = coefficients
        acc: Operand = top
        for c in reversed(rest):
            acc = self.muladd(acc, x, c)
        return acc if isinstance(acc, str) else self.f(acc)

    def series(self, x: Operand, coefficients: Sequence[float]) -> str:
        """A polynomial whose first coefficient is added last: one step longer, and more accurate where that coefficient dominates."""
        first, *rest = coefficients
        return self.muladd(x, self.polynomial(x, rest), first)

    # comparisons and choices
    def cmp(self, how: str, x: Operand, y: Operand) -> str:
        """Ordered comparisons `olt`, `ogt`, ...; `uno` is true for NaN."""
        return self.emit(f"fcmp {how} {self.type} {self.f(x)}, {self.f(y)}")

    def icmp(self, how: str, x: Operand, y: Operand) -> str:
        return self.emit(f"icmp {how} {self.int} {self.i(x)}, {self.i(y)}")

    def both(self, p: str, q: str) -> str:
        return self.emit(f"and i1 {p}, {q}")

    def either(self, p: str, q: str) -> str:
        return self.emit(f"or i1 {p}, {q}")

    def not_(self, p: str) -> str:
        return self.emit(f"xor i1 {p}, true")

    def select(self, p: str, x: Operand, y: Operand) -> str:
        return self.emit(f"select i1 {p}, {self.type} {self.f(x)}, {self.type} {self.f(y)}")

    def iselect(self, p: str, x: Operand, y: Operand) -> str:
        return self.emit(f"select i1 {p}, {self.int} {self.i(x)}, {self.int} {self.i(y)}")

    def minimum(self, x: Operand, y: Operand) -> str:
        """The smaller; y where x is NaN."""
        return self.select(self.cmp("olt", x, y), x, y)

    def maximum(self, x: Operand, y: Operand) -> str:
        return self.select(self.cmp("ogt", x, y), x, y)

    # bits
    def to_bits(self, x: Operand) -> str:
        return self.emit(f"bitcast {self.type} {self.f(x)} to {self.int}")

    def from_bits(self, n: Operand) -> str:
        return self.emit(f"bitcast {self.int} {self.i(n)} to {self.type}")

    def _int(self, op: str, x: Operand, y: Operand) -> str:
        return self.emit(f"{op} {self.int} {self.i(x)}, {self.i(y)}")

    def iadd(self, x: Operand, y: Operand) -> str:
        return self._int("add", x, y)

    def isub(self, x: Operand, y: Operand) -> str:
        return self._int("sub", x, y)

    def iand(self, x: Operand, y: Operand) -> str:
        return self._int("and", x, y)

    def ior(self, x: Operand, y: Operand) -> str:
        return self._int("or", x, y)

    def ixor(self, x: Operand, y: Operand) -> str:
        return self._int("xor", x, y)

    def shl(self, x: Operand, n: int) -> str:
        return self._int("shl", x, n)

    def ashr(self, x: Operand, n: int) -> str:
        return self._int("ashr", x, n)

    def lshr(self, x: Operand, n: int) -> str:
        return self._int("lshr", x, n)

    def to_float(self, n: Operand) -> str:
        """A signed integer as a floating number."""
        return self.emit(f"sitofp {self.int} {self.i(n)} to {self.type}")

    def round_to_int(self, x: Operand) -> tuple[str, str]:
        """(rint(x) as a number, the same as an integer) for |x| < 2^22 (f32) or 2^51 (f64), without converting.

        Adding 1.5 * 2^mantissa leaves the integer in the low bits. Unlike fptosi it is defined for NaN.
        """
        magic = 1.5 * 2.0**self.mantissa
        shifted = self.add(x, magic)
        bits = self.to_bits(shifted)
        offset = int(np.asarray(magic, self.numpy).view(np.int32 if self.single else np.int64))
        return self.sub(shifted, magic), self.isub(bits, offset)

    def power_of_two(self, n: Operand) -> str:
        """2**n for an integer n in the range of normal numbers."""
        return self.from_bits(self.shl(self.iadd(n, self.bias), self.mantissa))

    def scale(self, x: Operand, n: Operand) -> str:
        """x * 2**n for integers n whose half is in the range of normal exponents: subnormal results and overflow come out right."""
        half = self.ashr(n, 1)
        return self.mul(self.mul(x, self.power_of_two(half)), self.power_of_two(self.isub(n, half)))

    def scale_small(self, x: Operand, n: Operand, small: str) -> str:
        """x * 2**n for x in [0.7, 1.5] and n <= 128 in f32; where `small`, which must hold for n < -125 and only if the result is below 2**-125,
        no arithmetic meets a subnormal number: processors take many times as long for those.

        Up to 2**-125 a number's bits are its multiple of the smallest one, as an integer.
        """
        power = self.from_bits(self.shl(self.iadd(n, self.iselect(small, self.bias + 149, self.bias - 1)), self.mantissa))
        y = self.mul(x, power)
        multiple = self.emit(f"fptosi {self.type} {self.rint(y)} to {self.int}")
        return self.select(small, self.from_bits(multiple), self.mul(y, 2.0))

    # other functions and precisions
    def call(self, name: str, *xs: Operand) -> str:
        """Another elementary function of the same dtype."""
        self.calls.add((name, self.dtype))
        args = ", ".join(f"{self.type} {self.f(x)}" for x in xs)
        return self.emit(f"call {self.type} @tg.{name}.{self.dtype}({args})")

    def in_double(self) -> Writer:
        """A writer of f64 that appends to the same function."""
        wide = Writer("f64")
        wide.lines, wide.intrinsics, wide.calls = self.lines, self.intrinsics, self.calls
        return wide

    def widen(self, x: Operand) -> str:
        return self.emit(f"fpext float {self.f(x)} to double")

    def narrow(self, x: str) -> str:
        return self.emit(f"fptrunc double {x} to float")
