"""Values that rules see but no program holds: symbolic zeros, the linear inputs of a transposition, batch axes.

A `Zero` is a tangent or cotangent known to be zero. It is never turned into an array unless a rule asks (`instantiate`), so what
does not depend on the differentiated inputs costs nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import ArrayType, float0, is_tape, tangent_type
from tracegrad.transforms.tape_values import add_values


class Zero:
    """A tangent or cotangent that is zero, of the tangent type `type`."""

    __slots__ = ("type",)

    def __init__(self, aval: ArrayType):
        self.type = aval

    @property
    def aval(self) -> ArrayType:
        return self.type

    @staticmethod
    def from_primal_value(x: Any) -> Zero:
        """The zero tangent of a value."""
        return zero_like(x)

    def instantiate(self) -> Any:
        """An array of zeros."""
        return instantiate(self)

    def __repr__(self) -> str:
        return f"Zero({self.type})"


class Linear:
    """Stands, in the inputs of a transpose rule, for an operand that the operation is linear in."""

    __slots__ = ("type",)

    def __init__(self, type: ArrayType):
        self.type = type

    @property
    def aval(self) -> ArrayType:
        return self.type

    def __repr__(self) -> str:
        return f"Linear({self.type})"


class Axis(NamedTuple):
    """The axis that a batching rule adds: its size, and the name by which collectives find it, if it has one."""

    size: int
    name: Hashable = None


def is_zero(t: Any) -> bool:
    return type(t) is Zero


def zero_like(x: Any) -> Zero:
    """The zero tangent of a value."""
    return Zero(tangent_type(type_of(x)))


def instantiate(t: Any) -> Any:
    """`t` as an array: zeros for a symbolic zero (a NumPy array of dtype float0 where the tangent space has dimension zero)."""
    if type(t) is not Zero:
        return t
    shape, dtype = t.type.shape, t.type.dtype
    if dtype == float0:
        return np.zeros(shape, float0)
    if is_tape(dtype):
        empty = ops.empty_tape(dtype.element)
        return empty if shape == () else ops.broadcast_in_dim(empty, shape, ())
    zero = np.zeros((), dtype)
    return zero if shape == () else ops.broadcast_in_dim(zero, shape, ())


def add_tangents(x: Any, y: Any) -> Any:
    """The sum of two tangents or cotangents, either of which may be a symbolic zero."""
    if type(x) is Zero:
        return y
    return x if type(y) is Zero else add_values(x, y)
