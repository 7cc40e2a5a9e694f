"""Comparisons, logic, bits, and questions about numbers (isnan and the like)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import elementwise as prims
from tracegrad.ir import ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.checks import COMPLEX, FLOAT, INEXACT, INTEGER, UNSIGNED
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import is_key
from tracegrad.numpy.makers import binary, named, no_out
from tracegrad.numpy.promotion import (
    BOOL,
    PYTHON_SCALARS,
    as_value,
    broadcast,
    promote,
    require_numbers,
)

# Comparisons


def _compare_keys(x: Any, y: Any, primitive: Primitive) -> Any:
    """Random keys are equal when all of their words are."""
    x, y = (ops.key_unwrap(v) for v in broadcast("equal", x, y, full=True))
    same = ops.reduce_and(ops.eq(x, y), (len(type_of(x).shape) - 1,))
    return same if primitive is prims.eq_p else ops.bitwise_not(same)


def _comparison(name: str, primitive: Primitive, doc: str) -> Callable[..., Any]:
    lexicographic = primitive not in (prims.eq_p, prims.ne_p)

    def function(x: Any, y: Any, /) -> Any:
        if not (isinstance(x, Array) and isinstance(y, Array) and x.aval is y.aval):
            x, y = broadcast(name, *promote(name, x, y))
        if not lexicographic and is_key(type_of(x).dtype):
            return _compare_keys(x, y, primitive)
        if lexicographic and type_of(x).dtype in COMPLEX:
            re_x, re_y, im_x, im_y = ops.real(x), ops.real(y), ops.imag(x), ops.imag(y)
            strict = prims.lt_p if primitive in (prims.lt_p, prims.le_p) else prims.gt_p
            tie = bind1(prims.and_p, ops.eq(re_x, re_y), bind1(primitive, im_x, im_y))
            return bind1(prims.or_p, bind1(strict, re_x, re_y), tie)
        return bind1(primitive, x, y)

    return named(function, name, doc)


equal = _comparison("equal", prims.eq_p, "x == y, elementwise.")
not_equal = _comparison("not_equal", prims.ne_p, "x != y, elementwise.")
less = _comparison("less", prims.lt_p, "x < y, elementwise; complex numbers by real, then imaginary part.")
less_equal = _comparison("less_equal", prims.le_p, "x <= y, elementwise; complex numbers by real, then imaginary part.")
greater = _comparison("greater", prims.gt_p, "x > y, elementwise; complex numbers by real, then imaginary part.")
greater_equal = _comparison("greater_equal", prims.ge_p, "x >= y, elementwise; complex numbers by real, then imaginary part.")


# Logic and bits


def truth(name: str, x: Any, position: int = 0) -> Any:
    """A value as a boolean: whether it is not zero."""
    x = as_value(name, x, position)
    if isinstance(x, PYTHON_SCALARS):
        return np.bool_(x)
    if x.dtype == BOOL:
        return x
    require_numbers(name, x)
    return ops.ne(x, x.dtype.type(0))


def _logical(name: str, primitive: Primitive, doc: str) -> Callable[..., Any]:
    def function(x: Any, y: Any, /) -> Any:
        return bind1(primitive, *broadcast(name, truth(name, x, 0), truth(name, y, 1)))

    return named(function, name, doc)


logical_and = _logical("logical_and", prims.and_p, "Whether both are true (not zero).")
logical_or = _logical("logical_or", prims.or_p, "Whether at least one is true (not zero).")
logical_xor = _logical("logical_xor", prims.xor_p, "Whether exactly one is true (not zero).")


def logical_not(x: Any, /) -> Any:
    """Whether x is false (zero)."""
    return bind1(prims.not_p, truth("logical_not", x))


_BITS = INTEGER | {BOOL}
bitwise_and = binary("bitwise_and", prims.and_p, "x & y.", allowed=_BITS)
bitwise_or = binary("bitwise_or", prims.or_p, "x | y.", allowed=_BITS)
bitwise_xor = binary("bitwise_xor", prims.xor_p, "x ^ y.", allowed=_BITS)
left_shift = binary("left_shift", prims.shift_left_p, "x << y.", allowed=INTEGER)
bitwise_left_shift = left_shift


def invert(x: Any, /) -> Any:
    """~x: every bit, or the truth value, inverted."""
    x = as_value("invert", x)
    if type_of(x).dtype not in _BITS:
        raise TypeError(f"invert takes integers and booleans, got an array of dtype {type_of(x).dtype}")
    return bind1(prims.not_p, x)


bitwise_not = bitwise_invert = invert


def right_shift(x1: Any, x2: Any, /) -> Any:
    """x1 >> x2, keeping the sign."""
    x1, x2 = broadcast("right_shift", *promote("right_shift", x1, x2))
    dtype = type_of(x1).dtype
    if dtype not in INTEGER:
        raise TypeError(f"right_shift does not accept dtype {dtype}")
    return bind1(prims.shift_right_logical_p if dtype in UNSIGNED else prims.shift_right_arithmetic_p, x1, x2)


bitwise_right_shift = right_shift


def bitwise_count(x: Any, /) -> Any:
    """The number of ones in |x|, as uint8."""
    x = as_value("bitwise_count", x)
    dtype = type_of(x).dtype
    if dtype not in INTEGER:
        raise TypeError(f"bitwise_count takes integers, got an array of dtype {dtype}")
    bits = ops.population_count(x if dtype in UNSIGNED else ops.abs(x))
    return ops.convert_element_type(bits, np.dtype(np.uint8))


# Classification


def false_or_true(x: Any, value: bool) -> Any:
    from tracegrad.numpy.creation import full

    return full(type_of(x).shape, value, np.dtype(np.bool_))


def isnan(x: Any, /) -> Any:
    """Whether each element is NaN."""
    x = as_value("isnan", x)
    dtype = type_of(x).dtype
    if dtype in INEXACT:
        return bind1(prims.ne_p, x, x)
    return false_or_true(x, False)


def isfinite(x: Any, /) -> Any:
    """Whether each element is neither infinite nor NaN."""
    x = as_value("isfinite", x)
    dtype = type_of(x).dtype
    if dtype in FLOAT:
        return bind1(prims.is_finite_p, x)
    if dtype in COMPLEX:
        return ops.bitwise_and(ops.is_finite(ops.real(x)), ops.is_finite(ops.imag(x)))
    require_numbers("isfinite", x)
    return false_or_true(x, True)


def isinf(x: Any, /) -> Any:
    """Whether each element is infinite."""
    x = as_value("isinf", x)
    dtype = type_of(x).dtype
    if dtype in FLOAT:
        return ops.eq(ops.abs(x), dtype.type(np.inf))
    if dtype in COMPLEX:
        return ops.bitwise_or(isinf(ops.real(x)), isinf(ops.imag(x)))
    require_numbers("isinf", x)
    return false_or_true(x, False)


def _is_signed_infinity(name: str, x: Any, value: float) -> Any:
    x = as_value(name, x)
    dtype = type_of(x).dtype
    if dtype in FLOAT:
        return ops.eq(x, dtype.type(value))
    if dtype in COMPLEX:
        raise ValueError(f"{name} is not defined for complex numbers")
    return false_or_true(x, False)


def isposinf(x: Any, /, out: None = None) -> Any:
    """Whether each element is infinity."""
    no_out("isposinf", out)
    return _is_signed_infinity("isposinf", x, np.inf)


def isneginf(x: Any, /, out: None = None) -> Any:
    """Whether each element is minus infinity."""
    no_out("isneginf", out)
    return _is_signed_infinity("isneginf", x, -np.inf)


def signbit(x: Any, /) -> Any:
    """Whether the sign bit is set: true of negative numbers and of -0.0."""
    x = as_value("signbit", x)
    dtype = type_of(x).dtype
    if dtype in UNSIGNED or dtype == BOOL:
        return false_or_true(x, False)
    if dtype in INTEGER:
        return ops.lt(x, dtype.type(0))
    if dtype not in FLOAT:
        raise TypeError(f"signbit takes real numbers, got an array of dtype {dtype}")
    bits = np.dtype(f"i{dtype.itemsize}")
    return ops.lt(ops.bitcast_convert_type(x, bits), bits.type(0))


__all__ = [
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "logical_not",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "left_shift",
    "bitwise_left_shift",
    "invert",
    "bitwise_not",
    "bitwise_invert",
    "right_shift",
    "bitwise_right_shift",
    "bitwise_count",
    "isnan",
    "isfinite",
    "isinf",
    "isposinf",
    "isneginf",
    "signbit",
]
