"""The values that kernels compute with: SSA values with operators, complex pairs, mutable scalars, elements in memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.ir.types import bfloat16

if TYPE_CHECKING:
    from tracegrad.codegen.kernel import Kernel

INTEGERS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64}
FLOATS = ("float", "double")

_STORAGE = {
    np.dtype(np.bool_): "i8",
    np.dtype(np.int8): "i8",
    np.dtype(np.uint8): "i8",
    np.dtype(np.int16): "i16",
    np.dtype(np.uint16): "i16",
    np.dtype(np.int32): "i32",
    np.dtype(np.uint32): "i32",
    np.dtype(np.int64): "i64",
    np.dtype(np.uint64): "i64",
    np.dtype(np.float16): "half",
    bfloat16: "i16",
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.complex64): "float",
    np.dtype(np.complex128): "double",
}


def storage_type(dtype: Any) -> str:
    """The LLVM type in memory of an element (of one half, for complex dtypes)."""
    return _STORAGE[np.dtype(dtype)]


def compute_type(dtype: Any) -> str:
    """The LLVM type in which an element (one half of it, for complex dtypes) is computed with."""
    dtype = np.dtype(dtype)
    return "float" if dtype == bfloat16 or dtype == np.float16 else _STORAGE[dtype]


def float_literal(value: float, type: str) -> str:
    """LLVM's hexadecimal spelling, which is exact: float constants are written as the double they equal."""
    if type == "float":
        value = float(np.float32(value))
    return "0x" + struct.pack(">d", value).hex().upper()


class Value:
    """An SSA value: its type and its spelling. `known` is the Python int it equals, for integer constants."""

    __slots__ = ("k", "type", "ref", "known")

    def __init__(self, k: Kernel, type: str, ref: str, known: int | None = None):
        self.k, self.type, self.ref, self.known = k, type, ref, known

    def __repr__(self) -> str:
        return f"{self.type} {self.ref}"

    @property
    def is_float(self) -> bool:
        return self.type in FLOATS

    def _binary(self, other: Any, integer: str, floating: str | None, fold: Callable[[int, int], int] | None = None) -> Any:
        if isinstance(other, Complex):
            return NotImplemented
        k = self.k
        other = k.value(other, self.type)
        if self.type != other.type:
            raise TypeError(f"{integer} of {self!r} and {other!r}")
        if fold is not None and self.known is not None and other.known is not None and self.type == "i64":
            return k.value(fold(self.known, other.known), "i64")
        if self.is_float:
            if floating is None:
                raise TypeError(f"{integer} of {self!r} and {other!r}")
            return k.emit(self.type, f"{floating} {k.fast}{self.type} {self.ref}, {other.ref}")
        return k.emit(self.type, f"{integer} {self.type} {self.ref}, {other.ref}")

    def _reversed(self, other: Any, operator: Callable[[Any, Any], Any]) -> Any:
        return operator(self.k.value(other, self.type), self)

    def __add__(self, other: Any) -> Any:
        if self.known == 0 and not isinstance(other, Complex):
            return self.k.value(other, self.type)
        if isinstance(other, int) and other == 0 and not self.is_float:
            return self
        return self._binary(other, "add", "fadd", lambda a, b: a + b)

    def __sub__(self, other: Any) -> Any:
        return self._binary(other, "sub", "fsub", lambda a, b: a - b)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, int) and not self.is_float and other == 1:
            return self
        return self._binary(other, "mul", "fmul", lambda a, b: a * b)

    def __truediv__(self, other: Any) -> Any:
        if not self.is_float:
            raise TypeError("use // or .udiv for integers")
        return self._binary(other, "", "fdiv")

    def __radd__(self, other: Any) -> Any:
        return self._reversed(other, lambda a, b: a + b)

    def __rsub__(self, other: Any) -> Any:
        return self._reversed(other, lambda a, b: a - b)

    def __rmul__(self, other: Any) -> Any:
        return self * other

    def __rtruediv__(self, other: Any) -> Any:
        return self._reversed(other, lambda a, b: a / b)

    def __floordiv__(self, other: Any) -> Value:
        """Division that truncates (equal to Python's for operands that are not negative)."""
        return self._binary(other, "sdiv", None)

    def __mod__(self, other: Any) -> Value:
        return self._binary(other, "srem", None)

    def udiv(self, other: Any) -> Value:
        return self._binary(other, "udiv", None)

    def __and__(self, other: Any) -> Value:
        return self._binary(other, "and", None)

    def __or__(self, other: Any) -> Value:
        return self._binary(other, "or", None)

    def __xor__(self, other: Any) -> Value:
        return self._binary(other, "xor", None)

    def __lshift__(self, other: Any) -> Value:
        return self._binary(other, "shl", None)

    def __rshift__(self, other: Any) -> Value:
        """Logical shift."""
        return self._binary(other, "lshr", None)

    def sar(self, other: Any) -> Value:
        """Arithmetic shift."""
        return self._binary(other, "ashr", None)

    def __neg__(self) -> Value:
        if self.is_float:
            return self.k.emit(self.type, f"fneg {self.type} {self.ref}")
        return self.k.value(0, self.type) - self

    def __invert__(self) -> Value:
        return self ^ self.k.value(-1 if self.type != "i1" else 1, self.type)

    def _compare(self, other: Any, integer: str, floating: str | None) -> Value:
        k = self.k
        other = k.value(other, self.type)
        op = f"fcmp {floating}" if self.is_float else f"icmp {integer}"
        return k.emit("i1", f"{op} {self.type} {self.ref}, {other.ref}")

    def __lt__(self, other: Any) -> Value:
        return self._compare(other, "slt", "olt")

    def __le__(self, other: Any) -> Value:
        return self._compare(other, "sle", "ole")

    def __gt__(self, other: Any) -> Value:
        return self._compare(other, "sgt", "ogt")

    def __ge__(self, other: Any) -> Value:
        return self._compare(other, "sge", "oge")

    def eq(self, other: Any) -> Value:
        return self._compare(other, "eq", "oeq")

    def ne(self, other: Any) -> Value:
        return self._compare(other, "ne", "une")

    def ult(self, other: Any) -> Value:
        return self._compare(other, "ult", None)

    def ule(self, other: Any) -> Value:
        return self._compare(other, "ule", None)

    def ugt(self, other: Any) -> Value:
        return self._compare(other, "ugt", None)

    def isnan(self) -> Value:
        return self._compare(self, "ne", "uno")

    def select(self, on_true: Any, on_false: Any) -> Any:
        """This boolean's choice between two values of one type."""
        if isinstance(on_true, Complex) or isinstance(on_false, Complex):
            t, f = self.k.complex(on_true), self.k.complex(on_false)
            return Complex(self.select(t.re, f.re), self.select(t.im, f.im))
        if not isinstance(on_true, Value):
            on_true = self.k.value(on_true, on_false.type)
        on_false = self.k.value(on_false, on_true.type)
        return self.k.emit(on_true.type, f"select i1 {self.ref}, {on_true.type} {on_true.ref}, {on_true.type} {on_false.ref}")

    def cast(self, type: str, signed: bool = True) -> Value:
        """This number as another LLVM type; `signed` says how to read (or make) the integer of a conversion."""
        k, old = self.k, self.type
        if old == type:
            return self
        if self.known is not None and type in INTEGERS:
            return k.value(self.known, type)
        if old in INTEGERS and type in INTEGERS:
            if INTEGERS[old] > INTEGERS[type]:
                op = "trunc"
            else:
                op = "sext" if signed and old != "i1" else "zext"
        elif old in INTEGERS:
            op = "sitofp" if signed and old != "i1" else "uitofp"
        elif type in INTEGERS:
            op = "fptosi" if signed else "fptoui"
        else:
            order = {"half": 1, "float": 2, "double": 3}
            op = "fpext" if order[type] > order[old] else "fptrunc"
        return k.emit(type, f"{op} {old} {self.ref} to {type}")

    def bits(self, type: str) -> Value:
        """The same bits as another type of the same width."""
        return self if self.type == type else self.k.emit(type, f"bitcast {self.type} {self.ref} to {type}")

    # the real part of the protocol that Complex has too
    def conj(self) -> Value:
        return self

    @property
    def re(self) -> Value:
        return self

    def abs(self) -> Value:
        return self.k.intrinsic("fabs", self)

    def abs1(self) -> Value:
        """A cheap norm, for choosing pivots."""
        return self.abs()

    def norm2(self) -> Value:
        return self * self


def _bfloat16_bits(x: Value) -> Value:
    """A float rounded to the upper half of its bits, ties to even; not every processor has an instruction for it."""
    bits = x.bits("i32")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (x.isnan().select(bits | 0x400000, rounded) >> 16).cast("i16")


class Complex:
    """A pair of Values with complex arithmetic."""

    __slots__ = ("re", "im")

    def __init__(self, re: Value, im: Value):
        self.re, self.im = re, im

    @property
    def k(self) -> Kernel:
        return self.re.k

    @property
    def type(self) -> str:
        return self.re.type

    def _lift(self, other: Any) -> Complex:
        return self.k.complex(other, self.re.type)

    def __add__(self, other: Any) -> Complex:
        o = self._lift(other)
        return Complex(self.re + o.re, self.im + o.im)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Complex:
        o = self._lift(other)
        return Complex(self.re - o.re, self.im - o.im)

    def __rsub__(self, other: Any) -> Complex:
        return self._lift(other) - self

    def __mul__(self, other: Any) -> Complex:
        if isinstance(other, Value):
            return Complex(self.re * other, self.im * other)
        o = self._lift(other)
        return Complex(self.re * o.re - self.im * o.im, self.re * o.im + self.im * o.re)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Complex:
        if isinstance(other, Value):
            return Complex(self.re / other, self.im / other)
        o = self._lift(other)
        # Smith: divide by the larger part first, so that nothing overflows before the quotient does
        wide = o.re.abs() >= o.im.abs()
        large, small = wide.select(o.re, o.im), wide.select(o.im, o.re)
        ratio = small / large
        scale = large + small * ratio
        a, b = wide.select(self.re, self.im), wide.select(self.im, self.re)
        re = (a + b * ratio) / scale
        im = (b - a * ratio) / scale
        return Complex(re, wide.select(im, -im))

    def __rtruediv__(self, other: Any) -> Complex:
        return self._lift(other) / self

    def __neg__(self) -> Complex:
        return Complex(-self.re, -self.im)

    def conj(self) -> Complex:
        return Complex(self.re, -self.im)

    def abs1(self) -> Value:
        return self.re.abs() + self.im.abs()

    def norm2(self) -> Value:
        return self.re * self.re + self.im * self.im

    def eq(self, other: Any) -> Value:
        o = self._lift(other)
        return self.re.eq(o.re) & self.im.eq(o.im)

    def isnan(self) -> Value:
        return self.re.isnan() | self.im.isnan()


class Variable:
    """A mutable scalar: `v.set(v.get() + 1)`."""

    __slots__ = ("k", "type", "slots")

    def __init__(self, k: Kernel, type: str, slots: tuple[str, ...]):
        self.k, self.type, self.slots = k, type, slots

    def get(self) -> Any:
        parts = [self.k.emit(self.type, f"load {self.type}, ptr {slot}") for slot in self.slots]
        return parts[0] if len(parts) == 1 else Complex(*parts)

    def set(self, value: Any) -> None:
        if len(self.slots) == 2:
            value = self.k.complex(value, self.type)
            values = [value.re, value.im]
        else:
            values = [self.k.value(value, self.type)]
        for slot, v in zip(self.slots, values, strict=True):
            if v.type != self.type:
                raise TypeError(f"a variable of type {self.type} cannot hold {v!r}")
            self.k.line(f"store {self.type} {v.ref}, ptr {slot}")

    def add(self, value: Any) -> None:
        self.set(self.get() + value)


class Buffer:
    """Elements in memory, row-major: `b[i, j]` loads, `b[i, j] = v` stores. `strides` count elements."""

    __slots__ = ("k", "pointer", "dtype", "strides")

    def __init__(self, k: Kernel, pointer: Value, dtype: Any, strides: tuple[Any, ...]):
        self.k, self.pointer, self.dtype, self.strides = k, pointer, np.dtype(dtype), strides

    def flat(self, index: Any) -> Value:
        """The position, in elements, of an index (one entry for each stride; a plain integer for one dimension)."""
        entries = index if isinstance(index, tuple) else (index,)
        if len(entries) != len(self.strides):
            raise IndexError(f"{len(entries)} indices for {len(self.strides)} dimensions")
        total: Value = self.k.value(0, "i64")
        for i, s in zip(entries, self.strides, strict=True):
            total = total + self.k.value(i, "i64") * s
        return total

    def at(self, index: Any) -> Value:
        """The address of an element."""
        position = self.flat(index)
        if self.dtype.kind == "c":
            position = position * 2
        return self.k.offset(self.pointer, position, storage_type(self.dtype))

    def _load(self, pointer: Value) -> Value:
        storage = storage_type(self.dtype)
        value = self.k.emit(storage, f"load {storage}, ptr {pointer.ref}")
        if self.dtype == bfloat16:
            return (value.cast("i32", signed=False) << 16).bits("float")
        return value.cast("float") if storage == "half" else value

    def _store(self, pointer: Value, value: Value) -> None:
        storage = storage_type(self.dtype)
        if self.dtype == bfloat16:
            value = _bfloat16_bits(value.cast("float"))
        elif value.type != storage:
            value = value.cast(storage, signed=False)
        self.k.line(f"store {storage} {value.ref}, ptr {pointer.ref}")

    def __getitem__(self, index: Any) -> Any:
        pointer = self.at(index)
        if self.dtype.kind != "c":
            return self._load(pointer)
        return Complex(self._load(pointer), self._load(self.k.offset(pointer, 1, storage_type(self.dtype))))

    def __setitem__(self, index: Any, value: Any) -> None:
        pointer = self.at(index)
        compute = compute_type(self.dtype)
        if self.dtype.kind != "c":
            self._store(pointer, self.k.value(value, compute))
            return
        value = self.k.complex(value, compute)
        self._store(pointer, value.re)
        self._store(self.k.offset(pointer, 1, storage_type(self.dtype)), value.im)

    def shifted(self, index: Any, strides: tuple[Any, ...] | None = None) -> Buffer:
        """A buffer that starts at an element of this one."""
        return Buffer(self.k, self.at(index), self.dtype, self.strides if strides is None else strides)
