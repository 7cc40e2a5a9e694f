"""Elementwise functions: NumPy's ufuncs over the primitives, with promotion and broadcasting.

Most are made from a table by `_unary`, `_binary` and their kin; what needs a formula is written out below.
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


def named(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    """Give a function made by another its own name and documentation."""
    function.__name__ = function.__qualname__ = name
    function.__module__ = "tracegrad.numpy"
    function.__doc__ = doc
    return function


def _unary(name: str, primitive: Primitive, doc: str, real_only: bool = False) -> Callable[..., Any]:
    """A function of floating-point (or complex) numbers; integers are converted first."""

    def function(x: Any, /) -> Any:
        if not (isinstance(x, Array) and x.aval.dtype in INEXACT):
            x = inexact(name, x)
        if real_only and type_of(x).dtype in COMPLEX:
            raise TypeError(f"{name} takes real numbers, got an array of dtype {type_of(x).dtype}")
        return bind1(primitive, x)

    return named(function, name, doc)


def _binary(
    name: str,
    primitive: Primitive,
    doc: str,
    allowed: frozenset[Any] | None = None,
    for_bools: Primitive | None = None,
    to_inexact: bool = False,
) -> Callable[..., Any]:
    """A function of two arguments in their common dtype. `for_bools` replaces the primitive where both are boolean."""

    promote_two = promote_inexact if to_inexact else promote

    def function(x1: Any, x2: Any, /) -> Any:
        if not (isinstance(x1, Array) and isinstance(x2, Array) and x1.aval is x2.aval) or to_inexact:
            x1, x2 = broadcast(name, *promote_two(name, x1, x2))
        dtype = x1.dtype if not isinstance(x1, PYTHON_SCALARS) else type_of(x1).dtype
        if for_bools is not None and dtype == BOOL:
            return bind1(for_bools, x1, x2)
        if allowed is not None and dtype not in allowed:
            raise TypeError(f"{name} does not accept dtype {dtype}: got {type_of(x1)} and {type_of(x2)}")
        return bind1(primitive, x1, x2)

    return named(function, name, doc)


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
    _unary(name, primitive, doc) for name, (primitive, doc) in _EXACT_UNARY.items()
)
asin, acos, atan, asinh, acosh, atanh = arcsin, arccos, arctan, arcsinh, arccosh, arctanh
cbrt = _unary("cbrt", prims.cbrt_p, "The cube root.", real_only=True)


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

add = _binary("add", prims.add_p, "The sum; of booleans, their disjunction.", for_bools=prims.or_p)
multiply = _binary("multiply", prims.mul_p, "The product; of booleans, their conjunction.", for_bools=prims.and_p)
subtract = _binary("subtract", prims.sub_p, "The difference.", allowed=INEXACT | INTEGER)
divide = _binary("divide", prims.div_p, "The quotient, as a floating-point (or complex) number.", to_inexact=True)
true_divide = divide
maximum = _binary("maximum", prims.max_p, "The greater of two numbers; NaN if either is NaN.")
minimum = _binary("minimum", prims.min_p, "The lesser of two numbers; NaN if either is NaN.")
arctan2 = _binary("arctan2", prims.atan2_p, "The angle of the point (x2, x1), in (-pi, pi].", allowed=FLOAT, to_inexact=True)
atan2 = arctan2
nextafter = _binary("nextafter", prims.nextafter_p, "The number after x towards y.", allowed=FLOAT, to_inexact=True)


def _complex_order(name: str, primitive: Primitive, doc: str) -> Callable[..., Any]:
    """Extend a function of ordered numbers to complex ones, compared by real and then imaginary part."""
    simple = _binary(name, primitive, doc)
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


def is_complex_value(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return isinstance(x, complex) if dtype is None else dtype.kind == "c"


maximum = _complex_order("maximum", prims.max_p, "The greater of two numbers; NaN if either is NaN.")
minimum = _complex_order("minimum", prims.min_p, "The lesser of two numbers; NaN if either is NaN.")


def negative(x: Any, /) -> Any:
    """-x."""
    x = as_value("negative", x)
    if type_of(x).dtype == BOOL:
        raise TypeError("negative does not accept booleans; use logical_not or invert")
    return bind1(prims.neg_p, x)


def positive(x: Any, /) -> Any:
    """x itself, as an array."""
    from tracegrad.numpy.promotion import as_array

    x = as_array("positive", x)
    require_numbers("positive", x)
    return x


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
        return ops.convert_element_type(x, dtypes.int_dtype())
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
        target = dtypes.int_dtype() if dtype.kind in "biu" else dtype
        return power(ops.convert_element_type(x1, target), x2)
    if t2.dtype == BOOL:
        x2 = ops.convert_element_type(x2, dtypes.int_dtype())
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
    return [ops.convert_element_type(x, dtypes.int_dtype()) for x in xs]


def keep_weak(x: Any, weak: bool) -> Any:
    """The result of a formula over operands that were all weak is weak, although its constants are not."""
    t = type_of(x)
    return ops.convert_element_type(x, t.dtype, True) if weak and not t.weak else x


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
        dtype = dtypes.int_dtype()
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


def no_out(name: str, out: Any) -> None:
    """Raise for the argument `out=`, which immutable arrays cannot honour."""
    if out is not None:
        raise NotImplementedError(
            f"{name}: the argument out= is not supported, since arrays are immutable; use the returned array"
        )


# Comparisons


def _comparison(name: str, primitive: Primitive, doc: str) -> Callable[..., Any]:
    lexicographic = primitive not in (prims.eq_p, prims.ne_p)

    def function(x: Any, y: Any, /) -> Any:
        if not (isinstance(x, Array) and isinstance(y, Array) and x.aval is y.aval):
            x, y = broadcast(name, *promote(name, x, y))
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
bitwise_and = _binary("bitwise_and", prims.and_p, "x & y.", allowed=_BITS)
bitwise_or = _binary("bitwise_or", prims.or_p, "x | y.", allowed=_BITS)
bitwise_xor = _binary("bitwise_xor", prims.xor_p, "x ^ y.", allowed=_BITS)
left_shift = _binary("left_shift", prims.shift_left_p, "x << y.", allowed=INTEGER)
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


def _false_or_true(x: Any, value: bool) -> Any:
    from tracegrad.numpy.creation import full

    return full(type_of(x).shape, value, np.dtype(np.bool_))


def isnan(x: Any, /) -> Any:
    """Whether each element is NaN."""
    x = as_value("isnan", x)
    dtype = type_of(x).dtype
    if dtype in INEXACT:
        return bind1(prims.ne_p, x, x)
    require_numbers("isnan", x)
    return _false_or_true(x, False)


def isfinite(x: Any, /) -> Any:
    """Whether each element is neither infinite nor NaN."""
    x = as_value("isfinite", x)
    dtype = type_of(x).dtype
    if dtype in FLOAT:
        return bind1(prims.is_finite_p, x)
    if dtype in COMPLEX:
        return ops.bitwise_and(ops.is_finite(ops.real(x)), ops.is_finite(ops.imag(x)))
    require_numbers("isfinite", x)
    return _false_or_true(x, True)


def isinf(x: Any, /) -> Any:
    """Whether each element is infinite."""
    x = as_value("isinf", x)
    dtype = type_of(x).dtype
    if dtype in FLOAT:
        return ops.eq(ops.abs(x), dtype.type(np.inf))
    if dtype in COMPLEX:
        return ops.bitwise_or(isinf(ops.real(x)), isinf(ops.imag(x)))
    require_numbers("isinf", x)
    return _false_or_true(x, False)


def _is_signed_infinity(name: str, x: Any, value: float) -> Any:
    x = as_value(name, x)
    dtype = type_of(x).dtype
    if dtype in FLOAT:
        return ops.eq(x, dtype.type(value))
    if dtype in COMPLEX:
        raise ValueError(f"{name} is not defined for complex numbers")
    return _false_or_true(x, False)


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
        return _false_or_true(x, False)
    if dtype in INTEGER:
        return ops.lt(x, dtype.type(0))
    if dtype not in FLOAT:
        raise TypeError(f"signbit takes real numbers, got an array of dtype {dtype}")
    bits = np.dtype(f"i{dtype.itemsize}")
    return ops.lt(ops.bitcast_convert_type(x, bits), bits.type(0))


# Complex numbers


def conjugate(x: Any, /) -> Any:
    """The complex conjugate; a real number is its own."""
    x = as_value("conjugate", x)
    return bind1(prims.conj_p, x) if type_of(x).dtype in COMPLEX else positive(x)


conj = conjugate


def real(val: Any, /) -> Any:
    """The real part."""
    val = as_value("real", val)
    return bind1(prims.real_p, val) if type_of(val).dtype in COMPLEX else positive(val)


def imag(val: Any, /) -> Any:
    """The imaginary part; zero for a real number."""
    val = as_value("imag", val)
    if type_of(val).dtype in COMPLEX:
        return bind1(prims.imag_p, val)
    from tracegrad.numpy.creation import zeros_like

    return zeros_like(val)


def isreal(x: Any) -> Any:
    """Whether each element has no imaginary part."""
    x = as_value("isreal", x)
    return ops.eq(imag(x), real_dtype(type_of(x).dtype).type(0)) if is_complex_value(x) else _false_or_true(x, True)


def iscomplex(x: Any) -> Any:
    """Whether each element has an imaginary part."""
    x = as_value("iscomplex", x)
    return ops.ne(imag(x), real_dtype(type_of(x).dtype).type(0)) if is_complex_value(x) else _false_or_true(x, False)


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
    "conjugate",
    "conj",
    "real",
    "imag",
    "isreal",
    "iscomplex",
    "angle",
    "degrees",
    "radians",
    "rad2deg",
    "deg2rad",
]
