"""How the elements of a reduction are combined, two at a time and many in a tree, and what a loop carries of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.codegen import conversions, scalars
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.values import FLOAT16, Scalar, literal
from tracegrad.ir.reductions import greatest, least
from tracegrad.ir.types import bfloat16

FLOAT32 = np.dtype(np.float32)


def accumulator_dtype(dtype: Any) -> Any:
    return FLOAT32 if dtype in (FLOAT16, bfloat16) else dtype


class Reduction:
    """How elements are combined: the operation, the axes, the dtype of the accumulator."""

    __slots__ = ("name", "axes", "dtype")

    def __init__(self, name: str, axes: tuple[int, ...], dtype: Any):
        self.name = name
        self.axes = axes
        self.dtype = dtype

    def identity(self, b: Builder) -> Scalar:
        return literal(b, self.dtype, identity(self.name, self.dtype))

    def combine(self, b: Builder, x: Scalar, y: Scalar) -> Scalar:
        return combine(b, self.name, self.dtype, x, y)


def identity(name: str, dtype: Any) -> Any:
    """The neutral element of add, mul, max, min, and, or, xor."""
    if name in ("add", "or", "xor"):
        return dtype.type(0)
    if name == "mul":
        return dtype.type(1)
    if name == "and":
        return np.True_ if dtype.kind == "b" else np.invert(dtype.type(0))
    return least(dtype) if name == "max" else greatest(dtype)


def combine(b: Builder, name: str, dtype: Any, x: Scalar, y: Scalar) -> Scalar:
    """One step of a reduction, which may be reordered."""
    if name in ("add", "mul"):
        op = "f" + name
        if dtype.kind == "f":
            return b.op(op, x.type, x, y, attr="reassoc contract")
        if dtype.kind == "c" and name == "add":
            return tuple([b.op(op, p.type, p, q, attr="reassoc contract") for p, q in zip(x, y)])
    if name in ("max", "min") and dtype.kind == "f":
        # known to LLVM's vectorizer; which of two zeros is found depends on the order, as in other reductions
        return b.op("maximum" if name == "max" else "minimum", x.type, x, y, attr="nsz")
    return scalars.apply(b, name, dtype, dtype, [x, y], {})


def tree(b: Builder, reduction: Reduction, parts: list[Scalar]) -> Scalar:
    name, dtype = reduction.name, reduction.dtype

    def both(x: Scalar, y: Scalar) -> Scalar:
        # Of single numbers the greater is found sooner by comparing: LLVM's maximum looks at the sign in a general register.
        return scalars.apply(b, name, dtype, dtype, [x, y], {}) if name in ("max", "min") else reduction.combine(b, x, y)

    while len(parts) > 1:
        paired = [both(x, y) for x, y in zip(parts[::2], parts[1::2])]
        parts = paired + parts[len(paired) * 2 :]
    return parts[0]


def finish(b: Builder, reduction: Reduction, value: Scalar, out: Any) -> Scalar:
    return conversions.convert(b, value, reduction.dtype, out)


def flatten(values: list[Scalar]) -> list[Any]:
    """Complex numbers as two values each: what a loop carries."""
    out: list[Any] = []
    for v in values:
        if type(v) is tuple:
            out.extend(v)
        else:
            out.append(v)
    return out


def unflatten(flat: list[Any], like: list[Scalar]) -> list[Scalar]:
    out: list[Scalar] = []
    k = 0
    for v in like:
        if type(v) is tuple:
            out.append((flat[k], flat[k + 1]))
            k += 2
        else:
            out.append(flat[k])
            k += 1
    return out
