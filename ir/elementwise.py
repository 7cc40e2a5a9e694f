"""Elementwise primitives: arithmetic, elementary functions, comparisons, bits and selection.

Operands have one common dtype (exceptions say so) and equal shapes; a rank-0 operand broadcasts against the others. Evaluation is
NumPy's own loop wherever that loop has the right meaning; the functions below cover the rest, as XLA has it: integer division by
zero gives -1, shifts beyond the width give zero.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1
from tracegrad.ir.checks import (
    BITS,
    BOOL,
    COMPLEX,
    FLOAT,
    INEXACT,
    INTEGER,
    NUMBER,
    ORDERED,
    SIGNED,
    VALUE,
    all_weak,
    common_shape,
    listing,
    require_dtype,
    rounding,
    same_dtype,
    scalars,
)
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, bfloat16, is_key

BOOL_DTYPE = np.dtype(np.bool_)
REAL_OF = {np.dtype(np.complex64): np.dtype(np.float32), np.dtype(np.complex128): np.dtype(np.float64)}
COMPLEX_OF = {real: complex_ for complex_, real in REAL_OF.items()}

_errstate = np.errstate
_asarray = np.asarray

Made = tuple[Primitive, Callable[..., Any]]
Adapter = Callable[[Callable[..., Any]], Callable[..., tuple[np.ndarray]]]


def _quiet(function: Callable[..., Any]) -> Callable[..., tuple[np.ndarray]]:
    """An evaluation from a function that may warn and may return NumPy scalars."""

    def evaluate(*operands: np.ndarray, **params: Any) -> tuple[np.ndarray]:
        with _errstate(all="ignore"):
            return (_asarray(function(*operands, **params)),)

    return evaluate


def _silent(function: Callable[..., Any]) -> Callable[..., tuple[np.ndarray]]:
    """An evaluation from a function that never warns: entering np.errstate costs as much as a small operation."""
    loud = _quiet(function)

    def evaluate(*operands: np.ndarray) -> tuple[np.ndarray]:
        if operands[0].dtype is bfloat16:  # whose own loops warn of NaN even when they compare
            return loud(*operands)
        return (_asarray(function(*operands)),)

    return evaluate


# The families. Type rules of two types are remembered: types are interned, and the same pairs come again and again.


def unary(name: str, function: Callable[..., Any], allowed: frozenset[Any], adapt: Adapter = _quiet) -> Made:
    """A primitive with one operand whose result has the operand's type, and its function."""

    def type_rule(x: ArrayType) -> tuple[ArrayType]:
        if x.dtype not in allowed:
            require_dtype(name, allowed, (x,))
        return (x,)

    primitive = Primitive(name, type_rule, adapt(function), "elementwise")

    def operation(x: Any) -> Any:
        return bind1(primitive, x)

    return primitive, _named(operation, name)


def binary(
    name: str, function: Callable[..., Any], allowed: frozenset[Any], adapt: Adapter = _quiet, op_name: str | None = None
) -> Made:
    """A primitive with two operands of one type; the result has that type."""

    @lru_cache(maxsize=4096)
    def type_rule(x: ArrayType, y: ArrayType) -> tuple[ArrayType]:
        if x.dtype not in allowed:
            require_dtype(name, allowed, (x, y))
        if x is y:
            return (x,)
        dtype = same_dtype(name, (x, y))
        return (ArrayType(common_shape(name, (x, y)), dtype, x.weak and y.weak),)

    primitive = Primitive(name, type_rule, adapt(function), "elementwise")

    def operation(x: Any, y: Any) -> Any:
        x, y = scalars(x, y)
        return bind1(primitive, x, y)

    return primitive, _named(operation, op_name or name)


def compare(name: str, function: Callable[..., Any], allowed: frozenset[Any]) -> Made:
    """A primitive with two operands of one dtype and a boolean, never weak, result."""

    @lru_cache(maxsize=4096)
    def type_rule(x: ArrayType, y: ArrayType) -> tuple[ArrayType]:
        if x.dtype not in allowed:
            require_dtype(name, allowed, (x, y))
        same_dtype(name, (x, y))
        return (ArrayType(common_shape(name, (x, y)), BOOL_DTYPE),)

    primitive = Primitive(name, type_rule, _silent(function), "elementwise")

    def operation(x: Any, y: Any) -> Any:
        x, y = scalars(x, y)
        return bind1(primitive, x, y)

    return primitive, _named(operation, name)


def _named(operation: Callable[..., Any], name: str) -> Callable[..., Any]:
    operation.__name__ = operation.__qualname__ = name
    operation.__module__ = __name__
    operation.__doc__ = f"Apply the primitive `{name}` elementwise."
    return operation


# Meanings that NumPy's own loops do not have.


def _sign(x: np.ndarray) -> Any:
    # The sign of a zero is that zero, also when it is negative.
    return np.copysign(np.sign(x), x) if x.dtype in FLOAT else np.sign(x)


def _rsqrt(x: np.ndarray) -> Any:
    one = x.dtype.type(1)
    return one / np.sqrt(x)


def _logistic(x: np.ndarray) -> Any:
    one = x.dtype.type(1)
    return one / (one + np.exp(-x))


def _truncated_div(x: np.ndarray, y: np.ndarray) -> Any:
    if x.dtype in INEXACT:
        return np.divide(x, y)
    zero = y == 0
    divisor = np.where(zero, y.dtype.type(1), y)
    quotient = np.floor_divide(x - np.fmod(x, divisor), divisor)
    return np.where(zero, np.invert(y.dtype.type(0)), quotient)


def _rem(x: np.ndarray, y: np.ndarray) -> Any:
    if x.dtype in INEXACT:
        return np.fmod(x, y)
    zero = y == 0
    return np.where(zero, x, np.fmod(x, np.where(zero, y.dtype.type(1), y)))


def _pow(x: np.ndarray, y: np.ndarray) -> Any:
    if x.dtype in INEXACT:
        return np.power(x, y.astype(x.dtype, copy=False))
    if y.dtype not in SIGNED:
        return np.power(x, y.astype(x.dtype))
    negative = y < 0
    if not negative.any():
        return np.power(x, y)
    power = np.power(x, np.where(negative, y & y.dtype.type(1), y))
    # An integer to a negative power: 1 and -1 are their own inverses; the reciprocals of the others round to zero.
    unit = (x == 1) | (x == -1)
    return np.where(negative & ~unit, x.dtype.type(0), power)


def _unsigned(x: np.ndarray) -> np.ndarray:
    return x.view(np.dtype(f"u{x.dtype.itemsize}")) if x.dtype in SIGNED else x


def _shift_right_logical(x: np.ndarray, y: np.ndarray) -> Any:
    return _asarray(np.right_shift(_unsigned(x), _unsigned(y))).view(x.dtype)


def _shift_right_arithmetic(x: np.ndarray, y: np.ndarray) -> Any:
    signed = np.dtype(f"i{x.dtype.itemsize}")
    return _asarray(np.right_shift(x.view(signed), y.view(signed))).view(x.dtype)


def _population_count(x: np.ndarray) -> Any:
    return np.bitwise_count(_unsigned(x)).astype(x.dtype)


def _clz(x: np.ndarray) -> Any:
    bits = _unsigned(x)
    width = 8 * x.dtype.itemsize
    step = 1
    while step < width:
        bits = bits | np.right_shift(bits, bits.dtype.type(step))
        step *= 2
    return (width - np.bitwise_count(bits).astype(np.int64)).astype(x.dtype)


def _identity(x: np.ndarray) -> tuple[np.ndarray]:
    return (x,)


# Arithmetic

neg_p, neg = unary("neg", np.negative, NUMBER, _silent)
sign_p, sign = unary("sign", _sign, NUMBER)
square_p, square = unary("square", np.square, NUMBER)
add_p, add = binary("add", np.add, NUMBER)
sub_p, sub = binary("sub", np.subtract, NUMBER)
mul_p, mul = binary("mul", np.multiply, NUMBER)
div_p, div = binary("div", _truncated_div, NUMBER)
rem_p, rem = binary("rem", _rem, FLOAT | INTEGER)
max_p, max = binary("max", np.maximum, ORDERED, _silent)
min_p, min = binary("min", np.minimum, ORDERED, _silent)

# Elementary functions

floor_p, floor = unary("floor", np.floor, FLOAT, _silent)
ceil_p, ceil = unary("ceil", np.ceil, FLOAT, _silent)
exp_p, exp = unary("exp", np.exp, INEXACT)
exp2_p, exp2 = unary("exp2", np.exp2, FLOAT)
expm1_p, expm1 = unary("expm1", np.expm1, INEXACT)
log_p, log = unary("log", np.log, INEXACT)
log1p_p, log1p = unary("log1p", np.log1p, INEXACT)
sin_p, sin = unary("sin", np.sin, INEXACT)
cos_p, cos = unary("cos", np.cos, INEXACT)
tan_p, tan = unary("tan", np.tan, INEXACT)
asin_p, asin = unary("asin", np.arcsin, INEXACT)
acos_p, acos = unary("acos", np.arccos, INEXACT)
atan_p, atan = unary("atan", np.arctan, INEXACT)
sinh_p, sinh = unary("sinh", np.sinh, INEXACT)
cosh_p, cosh = unary("cosh", np.cosh, INEXACT)
tanh_p, tanh = unary("tanh", np.tanh, INEXACT)
asinh_p, asinh = unary("asinh", np.arcsinh, INEXACT)
acosh_p, acosh = unary("acosh", np.arccosh, INEXACT)
atanh_p, atanh = unary("atanh", np.arctanh, INEXACT)
sqrt_p, sqrt = unary("sqrt", np.sqrt, INEXACT)
rsqrt_p, rsqrt = unary("rsqrt", rounding(_rsqrt), INEXACT)
cbrt_p, cbrt = unary("cbrt", np.cbrt, FLOAT)
logistic_p, logistic = unary("logistic", rounding(_logistic), INEXACT)
atan2_p, atan2 = binary("atan2", np.arctan2, FLOAT)
nextafter_p, nextafter = binary("nextafter", np.nextafter, FLOAT)

# Bits

not_p, bitwise_not = unary("not", np.invert, BITS, _silent)
population_count_p, population_count = unary("population_count", _population_count, INTEGER, _silent)
clz_p, clz = unary("clz", _clz, INTEGER, _silent)
and_p, bitwise_and = binary("and", np.bitwise_and, BITS, _silent, "bitwise_and")
or_p, bitwise_or = binary("or", np.bitwise_or, BITS, _silent, "bitwise_or")
xor_p, bitwise_xor = binary("xor", np.bitwise_xor, BITS, _silent, "bitwise_xor")
shift_left_p, shift_left = binary("shift_left", np.left_shift, INTEGER, _silent)
shift_right_logical_p, shift_right_logical = binary("shift_right_logical", _shift_right_logical, INTEGER, _silent)
shift_right_arithmetic_p, shift_right_arithmetic = binary("shift_right_arithmetic", _shift_right_arithmetic, INTEGER, _silent)

# Comparisons

eq_p, eq = compare("eq", np.equal, VALUE)
ne_p, ne = compare("ne", np.not_equal, VALUE)
lt_p, lt = compare("lt", np.less, ORDERED)
le_p, le = compare("le", np.less_equal, ORDERED)
gt_p, gt = compare("gt", np.greater, ORDERED)
ge_p, ge = compare("ge", np.greater_equal, ORDERED)


# Primitives whose types or parameters are their own


def _any_type(x: ArrayType) -> tuple[ArrayType]:
    return (x,)


stop_gradient_p = Primitive("stop_gradient", _any_type, _identity, "elementwise")
copy_p = Primitive("copy", _any_type, _identity, "elementwise")


def stop_gradient(x: Any) -> Any:
    """`x`, whose derivative is zero by decree."""
    return bind1(stop_gradient_p, x)


def copy(x: Any) -> Any:
    """`x` itself; in compiled programs, in memory of its own."""
    return bind1(copy_p, x)


def _abs_type(x: ArrayType) -> tuple[ArrayType]:
    require_dtype("abs", NUMBER, (x,))
    return (x.update(dtype=REAL_OF[x.dtype]),) if x.dtype in COMPLEX else (x,)


abs_p = Primitive("abs", _abs_type, _quiet(np.abs), "elementwise")


def abs(x: Any) -> Any:
    """The absolute value; of a complex number, a real one."""
    return bind1(abs_p, x)


def _is_finite_type(x: ArrayType) -> tuple[ArrayType]:
    require_dtype("is_finite", FLOAT, (x,))
    return (ArrayType(x.shape, BOOL_DTYPE),)


is_finite_p = Primitive("is_finite", _is_finite_type, _quiet(np.isfinite), "elementwise")


def is_finite(x: Any) -> Any:
    """Whether each element is neither infinite nor NaN."""
    return bind1(is_finite_p, x)


AWAY_FROM_ZERO, TO_NEAREST_EVEN = 0, 1


def _round_type(x: ArrayType, *, rounding_method: int) -> tuple[ArrayType]:
    require_dtype("round", FLOAT, (x,))
    if rounding_method not in (AWAY_FROM_ZERO, TO_NEAREST_EVEN):
        raise ValueError(f"round: rounding_method is 0 (halves away from zero) or 1 (halves to even), not {rounding_method}")
    return (x,)


def _round(x: np.ndarray, *, rounding_method: int) -> Any:
    if rounding_method == TO_NEAREST_EVEN:
        return np.rint(x)
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), x.dtype.type(0))


round_p = Primitive("round", _round_type, _quiet(rounding(_round)), "elementwise")


def round(x: Any, rounding_method: int = AWAY_FROM_ZERO) -> Any:
    """The nearest whole number; halves go away from zero (0) or to the even one (1)."""
    return bind1(round_p, x, rounding_method=int(rounding_method))


def _integer_pow_type(x: ArrayType, *, y: int) -> tuple[ArrayType]:
    require_dtype("integer_pow", NUMBER, (x,))
    if y < 0 and x.dtype in INTEGER:
        raise TypeError(f"integers cannot be raised to the negative power {y}; got {x}")
    return (x,)


def _integer_pow(x: np.ndarray, *, y: int) -> Any:
    power, exponent = None, builtins.abs(y)
    while exponent:
        if exponent & 1:
            power = x if power is None else power * x
        exponent >>= 1
        if exponent:
            x = x * x
    if power is None:
        return np.ones_like(x)
    return x.dtype.type(1) / power if y < 0 else power


integer_pow_p = Primitive("integer_pow", _integer_pow_type, _quiet(rounding(_integer_pow)), "elementwise")


def integer_pow(x: Any, y: int) -> Any:
    """`x` to a power known now, by multiplications."""
    return bind1(integer_pow_p, x, y=int(y))


def _pow_type(x: ArrayType, y: ArrayType) -> tuple[ArrayType]:
    require_dtype("pow", NUMBER, (x, y))
    if not (x.dtype in INEXACT and y.dtype in INTEGER):
        same_dtype("pow", (x, y))
    return (ArrayType(common_shape("pow", (x, y)), x.dtype, x.weak and y.weak),)


pow_p = Primitive("pow", _pow_type, _quiet(_pow), "elementwise")


def pow(x: Any, y: Any) -> Any:
    """`x` to the power `y`; `y` has x's dtype, or is an integer."""
    if not isinstance(y, int) or isinstance(x, (int, float, builtins.complex)):
        x, y = scalars(x, y)
    elif x.dtype not in INEXACT:
        y = x.dtype.type(y)
    else:
        y = np.int32(y)
    return bind1(pow_p, x, y)


def _part_type(name: str) -> Callable[..., tuple[ArrayType]]:
    def type_rule(x: ArrayType) -> tuple[ArrayType]:
        require_dtype(name, COMPLEX, (x,))
        return (x.update(dtype=REAL_OF[x.dtype]),)

    return type_rule


real_p = Primitive("real", _part_type("real"), lambda x: (x.real,), "elementwise")
imag_p = Primitive("imag", _part_type("imag"), lambda x: (x.imag,), "elementwise")
conj_p, conj = unary("conj", np.conjugate, COMPLEX, _silent)


def real(x: Any) -> Any:
    """The real part of a complex array."""
    return bind1(real_p, x)


def imag(x: Any) -> Any:
    """The imaginary part of a complex array."""
    return bind1(imag_p, x)


def _complex_type(re: ArrayType, im: ArrayType) -> tuple[ArrayType]:
    dtype = same_dtype("complex", (re, im))
    if dtype not in COMPLEX_OF:
        raise TypeError(f"complex takes float32 or float64 parts, but got {listing((re, im))}")
    return (ArrayType(common_shape("complex", (re, im)), COMPLEX_OF[dtype], re.weak and im.weak),)


def _complex(re: np.ndarray, im: np.ndarray) -> tuple[np.ndarray]:
    dtype: Any = COMPLEX_OF[re.dtype]
    out = np.empty(re.shape or im.shape, dtype)
    out.real = re
    out.imag = im
    return (out,)


complex_p = Primitive("complex", _complex_type, _complex, "elementwise")


def complex(re: Any, im: Any) -> Any:
    """The complex array with these real and imaginary parts."""
    re, im = scalars(re, im)
    return bind1(complex_p, re, im)


def _select_type(pred: ArrayType, on_true: ArrayType, on_false: ArrayType) -> tuple[ArrayType]:
    require_dtype("select", BOOL, (pred,))
    dtype = same_dtype("select", (on_true, on_false))
    if is_key(dtype) and not (on_true.shape == on_false.shape and pred.shape in ((), on_true.shape)):
        raise ValueError(f"select takes keys of equal shapes, but got {listing((pred, on_true, on_false))}")
    shape = common_shape("select", (pred, on_true, on_false))
    return (ArrayType(shape, dtype, on_true.weak and on_false.weak),)


def _select(pred: np.ndarray, on_true: np.ndarray, on_false: np.ndarray) -> tuple[np.ndarray]:
    # Keys carry a trailing axis that the predicate lacks.
    if pred.ndim and on_true.ndim == pred.ndim + 1:
        pred = pred[..., None]
    return (_asarray(np.where(pred, on_true, on_false)),)


select_p = Primitive("select", _select_type, _select, "elementwise")


def select(pred: Any, on_true: Any, on_false: Any) -> Any:
    """`on_true` where `pred` holds, `on_false` elsewhere."""
    on_true, on_false = scalars(on_true, on_false)
    return bind1(select_p, pred, on_true, on_false)


def _clamp_type(lo: ArrayType, x: ArrayType, hi: ArrayType) -> tuple[ArrayType]:
    types = (lo, x, hi)
    require_dtype("clamp", ORDERED, types)
    dtype = same_dtype("clamp", types)
    return (ArrayType(common_shape("clamp", types), dtype, all_weak(types)),)


clamp_p = Primitive("clamp", _clamp_type, _quiet(lambda lo, x, hi: np.minimum(np.maximum(x, lo), hi)), "elementwise")


def clamp(lo: Any, x: Any, hi: Any) -> Any:
    """`x` brought into [lo, hi]; NaN stays."""
    lo, x, hi = scalars(lo, x, hi)
    return bind1(clamp_p, lo, x, hi)


__all__ = [
    "neg",
    "abs",
    "sign",
    "floor",
    "ceil",
    "round",
    "is_finite",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "sqrt",
    "rsqrt",
    "cbrt",
    "logistic",
    "square",
    "integer_pow",
    "stop_gradient",
    "copy",
    "bitwise_not",
    "population_count",
    "clz",
    "real",
    "imag",
    "conj",
    "complex",
    "add",
    "sub",
    "mul",
    "div",
    "rem",
    "pow",
    "max",
    "min",
    "atan2",
    "nextafter",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "shift_left",
    "shift_right_logical",
    "shift_right_arithmetic",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "select",
    "clamp",
]
