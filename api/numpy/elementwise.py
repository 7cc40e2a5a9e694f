"""Elementwise functions: NumPy's ufuncs over the primitives, with promotion and broadcasting.

Most are made by `makers`; what needs a formula is written out below. Comparisons, logic and the parts of complex numbers have
files of their own, whose names are here as well.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir import elementwise as prims
from tracegrad.ir.array import Array
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.checks import COMPLEX, FLOAT, INEXACT, INTEGER, UNSIGNED
from tracegrad.ir.primitive import Primitive
from tracegrad.numpy.complex_numbers import *  # noqa: F403
from tracegrad.numpy.complex_numbers import imag, real
from tracegrad.numpy.logic import *  # noqa: F403
from tracegrad.numpy.logic import equal, greater, logical_and, logical_or
from tracegrad.numpy.makers import binary, is_complex_value, keep_weak, named, no_out, positive, unary
from tracegrad.numpy.promotion import (
    BOOL,
    PYTHON_SCALARS,
    as_value,
    broadcast,
    cast,
    inexact,
    promote,
    promote_inexact,
    real_dtype,
    require_numbers,
)

INT32 = np.dtype(np.int32)

# Functions of one floating-point argument

_EXACT_UNARY = {
    "exp": (prims.exp_p, "The exponential function."),
    "log": (prims.log_p, "The natural logarithm."),
    "sin": (prims.sin_p, "The sine."),
    "cos": (prims.cos_p, "The cosine."),
    "tan": (prims.tan_p, "The tangent."),
    "arcsin": (prims.asin_p, "The inverse sine."),
    "arccos": (prims.acos_p, "The inverse cosine."),
    "arctan": (prims.atan_p, "The inverse tangent."),
    "sinh": (prims.sinh_p, "The hyperbolic sine."),
    "cosh": (prims.cosh_p, "The hyperbolic cosine."),
    "tanh": (prims.tanh_p, "The hyperbolic tangent."),
    "arcsinh": (prims.asinh_p, "The inverse hyperbolic sine."),
    "arccosh": (prims.acosh_p, "The inverse hyperbolic cosine."),
    "arctanh": (prims.atanh_p, "The inverse hyperbolic tangent."),
    "expm1": (prims.expm1_p, "exp(x) - 1, accurate near 0."),
    "log1p": (prims.log1p_p, "log(1 + x), accurate near 0."),
    "sqrt": (prims.sqrt_p, "The square root; NaN for negative numbers."),
}
exp, log, sin, cos, tan, arcsin, arccos, arctan, sinh, cosh, tanh, arcsinh, arccosh, arctanh, expm1, log1p, sqrt = (
    unary(name, primitive, doc) for name, (primitive, doc) in _EXACT_UNARY.items()
)
asin, acos, atan, asinh, acosh, atanh = arcsin, arccos, arctan, arcsinh, arccosh, arctanh
cbrt = unary("cbrt", prims.cbrt_p, "The cube root.", real_only=True)


def exp2(x: Any, /) -> Any:
    """2 to the power x."""
    x = inexact("exp2", x)
    if type_of(x).dtype in COMPLEX:
        return exp(multiply(x, float(np.log(2))))
    return ops.exp2(x)


def log2(x: Any, /) -> Any:
    """The logarithm to base 2."""
    return _log_to_base("log2", x, 2.0)


def log10(x: Any, /) -> Any:
    """The logarithm to base 10."""
    return _log_to_base("log10", x, 10.0)


def _log_to_base(name: str, x: Any, base: float) -> Any:
    y = bind1(prims.log_p, inexact(name, x))
    dtype = real_dtype(y.dtype)
    # divided in the array's own precision: multiplying by the rounded reciprocal would make log10(1000) miss 3
    return divide(y, dtype.type(np.log(base)))


# Arithmetic

add = binary("add", prims.add_p, "The sum; of booleans, their disjunction.", for_bools=prims.or_p)
multiply = binary("multiply", prims.mul_p, "The product; of booleans, their conjunction.", for_bools=prims.and_p)
subtract = binary("subtract", prims.sub_p, "The difference.", allowed=INEXACT | INTEGER)
divide = binary("divide", prims.div_p, "The quotient, as a floating-point (or complex) number.", to_inexact=True)
true_divide = divide
arctan2 = binary("arctan2", prims.atan2_p, "The angle of the point (x2, x1), in (-pi, pi].", allowed=FLOAT, to_inexact=True)
atan2 = arctan2
nextafter = binary("nextafter", prims.nextafter_p, "The number after x towards y.", allowed=FLOAT, to_inexact=True)


def _complex_order(name: str, primitive: Primitive, doc: str) -> Callable[..., Any]:
    """Extend a function of ordered numbers to complex ones, compared by real and then imaginary part."""
    simple = binary(name, primitive, doc)
    comparison = prims.gt_p if primitive is prims.max_p else prims.lt_p

    def function(x1: Any, x2: Any, /) -> Any:
        if not (is_complex_value(x1) or is_complex_value(x2)):
            return simple(x1, x2)
        x1, x2 = broadcast(name, *promote(name, x1, x2), full=True)
        re1, im1, re2, im2 = ops.real(x1), ops.imag(x1), ops.real(x2), ops.imag(x2)
        first = bind1(prims.or_p, bind1(comparison, re1, re2), bind1(prims.and_p, ops.eq(re1, re2), bind1(comparison, im1, im2)))
        first = bind1(prims.or_p, first, bind1(prims.or_p, ops.ne(re1, re1), ops.ne(im1, im1)))
        return ops.select(first, x1, x2)

    return named(function, name, doc)


maximum = _complex_order("maximum", prims.max_p, "The greater of two numbers; NaN if either is NaN.")
minimum = _complex_order("minimum", prims.min_p, "The lesser of two numbers; NaN if either is NaN.")


def negative(x: Any, /) -> Any:
    """-x."""
    x = as_value("negative", x)
    if type_of(x).dtype == BOOL:
        raise TypeError("negative does not accept booleans; use logical_not or invert")
    return bind1(prims.neg_p, x)


def absolute(x: Any, /) -> Any:
    """The absolute value; of a complex number, a real one."""
    x = as_value("absolute", x)
    dtype = type_of(x).dtype
    if dtype == BOOL or dtype in UNSIGNED:
        return positive(x)
    return bind1(prims.abs_p, x)


abs = absolute


def fabs(x: Any, /) -> Any:
    """The absolute value of a real number, as a floating-point number."""
    x = inexact("fabs", x)
    if type_of(x).dtype in COMPLEX:
        raise TypeError(f"fabs takes real numbers, got an array of dtype {type_of(x).dtype}")
    return ops.abs(x)


def sign(x: Any, /) -> Any:
    """-1, 0 or 1 (of a complex number, x / |x|); NaN for NaN."""
    x = as_value("sign", x)
    if type_of(x).dtype == BOOL:
        raise TypeError("sign does not accept booleans")
    return bind1(prims.sign_p, x)


def square(x: Any, /) -> Any:
    """x * x."""
    x = as_value("square", x)
    if type_of(x).dtype == BOOL:
        return ops.convert_element_type(x, INT32)
    return bind1(prims.square_p, x)


def reciprocal(x: Any, /) -> Any:
    """1 / x."""
    x = inexact("reciprocal", x)
    return divide(1.0 if isinstance(x, PYTHON_SCALARS) else type_of(x).dtype.type(1), x)


def power(x1: Any, x2: Any, /) -> Any:
    """x1 to the power x2. A Python integer as power is computed by multiplications; integers cannot have negative ones."""
    if isinstance(x2, (int, np.integer)) and not isinstance(x2, bool):
        x1 = as_value("power", x1)
        dtype = type_of(x1).dtype
        if dtype != BOOL and (dtype in INEXACT or isinstance(x2, int)):
            return integer_power(x1, int(x2))
    x1, x2 = as_value("power", x1, 0), as_value("power", x2, 1)
    t1, t2 = type_of(x1), type_of(x2)
    dtype, weak = dtypes.promote(t1, t2)
    require_numbers("power", x1, x2)
    if t1.dtype == BOOL:
        # the powers of truth values are integers
        target = INT32 if dtype.kind in "biu" and not isinstance(x2, Array) or dtype == BOOL else dtype
        return power(ops.convert_element_type(x1, target), x2)
    if t2.dtype == BOOL:
        x2 = ops.convert_element_type(x2, INT32)
        t2 = type_of(x2)
    if dtype in INEXACT and t2.dtype in INTEGER and not isinstance(x2, PYTHON_SCALARS) and t1.dtype == dtype:
        # an array of integer powers keeps its dtype, so that negative numbers can be raised to them
        x1, x2 = broadcast("power", cast(x1, t1, dtype, weak), x2)
        return bind1(prims.pow_p, x1, x2)
    x1, x2 = broadcast("power", cast(x1, t1, dtype, weak), cast(x2, t2, dtype, weak))
    return bind1(prims.pow_p, x1, x2)


pow = power


def integer_power(x: Any, n: int) -> Any:
    """An accepted value to an integer power known now, as the shortest program."""
    dtype = type_of(x).dtype
    if n < 0 and dtype in INTEGER:
        raise TypeError(f"integers cannot be raised to the negative power {n}; convert the base to a floating-point dtype")
    if n == 1:
        return positive(x)
    if n == 2:
        return bind1(prims.square_p, x)
    if n == 0:
        from tracegrad.numpy.creation import ones_like

        return ones_like(x)
    return bind1(prims.integer_pow_p, x, y=n)


def float_power(x: Any, y: Any, /) -> Any:
    """x to the power y, as floating-point numbers."""
    return power(*promote_inexact("float_power", x, y))


def floor_divide(x1: Any, x2: Any, /) -> Any:
    """The quotient rounded down. For integers, x // 0 is what truncating division gives, minus one if x is not 0 and negative."""
    x1, x2 = broadcast("floor_divide", *promote("floor_divide", x1, x2))
    dtype = type_of(x1).dtype
    if dtype == BOOL:
        return floor_divide(*_bools_as_integers(x1, x2))
    weak = type_of(x1).weak and type_of(x2).weak
    if dtype in UNSIGNED:
        return bind1(prims.div_p, x1, x2)
    if dtype in INTEGER:
        quotient = bind1(prims.div_p, x1, x2)
        signs_differ = ops.ne(bind1(prims.sign_p, x1), bind1(prims.sign_p, x2))
        inexact_ = ops.ne(bind1(prims.rem_p, x1, x2), dtype.type(0))
        out = ops.select(bind1(prims.and_p, signs_differ, inexact_), ops.sub(quotient, dtype.type(1)), quotient)
        return keep_weak(out, weak)
    if dtype in COMPLEX:
        raise TypeError("floor_divide does not accept complex numbers")
    by_zero = ops.eq(x2, dtype.type(0))
    return keep_weak(ops.select(by_zero, ops.stop_gradient(bind1(prims.div_p, x1, x2)), _float_divmod(x1, x2)[0]), weak)


def _bools_as_integers(*xs: Any) -> list[Any]:
    return [ops.convert_element_type(x, INT32) for x in xs]


def _float_divmod(x1: Any, x2: Any) -> tuple[Any, Any]:
    dtype = type_of(x1).dtype
    zero, one = dtype.type(0), dtype.type(1)
    mod = bind1(prims.rem_p, x1, x2)
    quotient = bind1(prims.div_p, ops.sub(x1, mod), x2)
    wrong_side = ops.bitwise_and(ops.ne(bind1(prims.sign_p, x2), bind1(prims.sign_p, mod)), ops.ne(mod, zero))
    mod = ops.select(wrong_side, ops.add(mod, x2), mod)
    quotient = ops.select(wrong_side, ops.sub(quotient, one), quotient)
    return ops.round(quotient, 0), mod


def remainder(x1: Any, x2: Any, /) -> Any:
    """The remainder of floor division: it has the sign of x2. For integers x % 0 is 0."""
    x1, x2 = broadcast("remainder", *promote("remainder", x1, x2))
    dtype = type_of(x1).dtype
    if dtype == BOOL:
        x1, x2 = _bools_as_integers(x1, x2)
        dtype = INT32
    if dtype in COMPLEX:
        raise TypeError("remainder does not accept complex numbers")
    zero = dtype.type(0)
    weak = type_of(x1).weak and type_of(x2).weak
    if dtype in INTEGER:
        # the remainder by 0 is 0, as the reference has it, although truncated remainders give x
        x2 = ops.select(ops.eq(x2, zero), dtype.type(1), x2)
    rest = bind1(prims.rem_p, x1, x2)
    if dtype in UNSIGNED:
        return rest
    nonzero = ops.ne(rest, zero)
    signs_differ = ops.ne(ops.lt(rest, zero), ops.lt(x2, zero))
    return keep_weak(ops.select(bind1(prims.and_p, signs_differ, nonzero), ops.add(rest, x2), rest), weak)


mod = remainder


def fmod(x1: Any, x2: Any, /) -> Any:
    """The remainder of truncated division: it has the sign of x1."""
    x1, x2 = broadcast("fmod", *promote("fmod", x1, x2))
    dtype = type_of(x1).dtype
    if dtype in INTEGER:
        zero = dtype.type(0)
        x2 = ops.select(ops.eq(x2, zero), dtype.type(1), x2)
    return bind1(prims.rem_p, x1, x2)


def divmod(x1: Any, x2: Any, /) -> tuple[Any, Any]:
    """(floor_divide(x1, x2), remainder(x1, x2))."""
    x1, x2 = broadcast("divmod", *promote("divmod", x1, x2))
    if type_of(x1).dtype in FLOAT:
        return _float_divmod(x1, x2)
    return floor_divide(x1, x2), remainder(x1, x2)


# Rounding


def _rounding(name: str, primitive: Primitive, doc: str) -> Callable[..., Any]:
    def function(x: Any, /) -> Any:
        x = as_value(name, x)
        dtype = type_of(x).dtype
        if dtype in INTEGER or dtype == BOOL:
            return positive(x)
        if dtype in COMPLEX:
            raise TypeError(f"{name} takes real numbers, got an array of dtype {dtype}")
        return bind1(primitive, x)

    return named(function, name, doc)


floor = _rounding("floor", prims.floor_p, "The greatest whole number not above x.")
ceil = _rounding("ceil", prims.ceil_p, "The least whole number not below x.")


def trunc(x: Any) -> Any:
    """x without its fractional part."""
    x = as_value("trunc", x)
    dtype = type_of(x).dtype
    if dtype not in FLOAT:
        return floor(x)
    return ops.select(ops.lt(x, dtype.type(0)), bind1(prims.ceil_p, x), bind1(prims.floor_p, x))


def rint(x: Any, /) -> Any:
    """The nearest whole number, halves to the even one; integers become floats."""
    x = as_value("rint", x)
    dtype = type_of(x).dtype
    if dtype in INTEGER or dtype == BOOL:
        return cast(x, type_of(x), dtypes.float_dtype(), type_of(x).weak)
    return round(x)


def round(a: Any, decimals: int = 0, out: None = None) -> Any:
    """Round to a number of decimals, halves to the even digit."""
    no_out("round", out)
    decimals = operator.index(decimals)
    a = as_value("round", a, "a")
    dtype = type_of(a).dtype
    if dtype in INTEGER:
        if decimals < 0:
            factor = 10**-decimals
            half = factor // 2
            rest = remainder(a, factor)
            down = subtract(a, rest)
            up_if = logical_or(
                greater(rest, half), logical_and(equal(rest, half), equal(remainder(floor_divide(down, factor), 2), 1))
            )
            return add(down, multiply(up_if.astype(dtype), factor))
        return positive(a)
    if dtype in COMPLEX:
        return ops.complex(round(ops.real(a), decimals), round(ops.imag(a), decimals))
    if dtype not in FLOAT:
        raise TypeError(f"round does not accept dtype {dtype}")
    if decimals == 0:
        return ops.round(a, 1)
    wide = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    x = cast(a, type_of(a), wide, type_of(a).weak)
    factor = wide.type(10.0 ** builtins.abs(decimals))
    if decimals > 0:
        rounded = divide(ops.round(multiply(x, factor), 1), factor)
        # a number so large that scaling overflows has no such decimals
        rounded = ops.select(ops.is_finite(rounded), rounded, x)
    else:
        rounded = multiply(ops.round(divide(x, factor), 1), factor)
    return cast(rounded, type_of(rounded), dtype, type_of(a).weak)


around = round


def angle(z: Any, deg: bool = False) -> Any:
    """The argument of a complex number, in radians or degrees."""
    z = inexact("angle", z)
    re, im = real(z), imag(z)
    out = arctan2(im, re)
    return degrees(out) if deg else out


def degrees(x: Any, /) -> Any:
    """Radians as degrees."""
    x = inexact("degrees", x)
    return multiply(x, 180 / np.pi)


def radians(x: Any, /) -> Any:
    """Degrees as radians."""
    x = inexact("radians", x)
    return multiply(x, np.pi / 180)


rad2deg, deg2rad = degrees, radians


__all__ = [
    "exp",
    "log",
    "sin",
    "cos",
    "tan",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "arcsinh",
    "arccosh",
    "arctanh",
    "expm1",
    "log1p",
    "sqrt",
    "asin",
    "acos",
    "atan",
    "asinh",
    "acosh",
    "atanh",
    "cbrt",
    "exp2",
    "log2",
    "log10",
    "add",
    "multiply",
    "subtract",
    "divide",
    "true_divide",
    "maximum",
    "minimum",
    "arctan2",
    "atan2",
    "nextafter",
    "negative",
    "positive",
    "absolute",
    "abs",
    "fabs",
    "sign",
    "square",
    "reciprocal",
    "power",
    "pow",
    "float_power",
    "floor_divide",
    "remainder",
    "mod",
    "fmod",
    "divmod",
    "floor",
    "ceil",
    "trunc",
    "rint",
    "round",
    "around",
    "angle",
    "degrees",
    "radians",
    "rad2deg",
    "deg2rad",
]
