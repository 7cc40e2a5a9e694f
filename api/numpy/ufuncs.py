"""Elementwise functions that are formulas over others."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.makers import is_complex_value, keep_weak, no_out
from tracegrad.numpy.promotion import (
    as_array,
    as_value,
    broadcast,
    inexact,
    promote,
    promote_inexact,
    real_dtype,
    shape_of,
    to_dtype,
)
from tracegrad.numpy.selection import where
from tracegrad.transforms.custom import custom_jvp


@custom_jvp
def _log_add_exp(x: Any, y: Any) -> Any:
    largest, difference = ops.max(x, y), ops.sub(x, y)
    # equal infinities differ by NaN; their sum is right
    smooth = ops.add(largest, ops.log1p(ops.exp(ops.neg(ops.abs(difference)))))
    return ops.select(ops.ne(difference, difference), ops.add(x, y), smooth)


@_log_add_exp.defjvp
def _log_add_exp_rule(primals: Any, tangents: Any) -> Any:
    """Each tangent by its term's share of the sum; NaN where both terms are zero."""
    out = _log_add_exp(*primals)
    total = _without_infinity(out)
    share_x, share_y = (ops.exp(ops.sub(_without_infinity(v), total)) for v in primals)
    return out, ops.add(ops.mul(tangents[0], share_x), ops.mul(tangents[1], share_y))


def _without_infinity(x: Any) -> Any:
    """`x`, and zero for infinity: an infinite term is as large as the sum."""
    dtype = type_of(x).dtype
    return ops.select(ops.eq(x, dtype.type(np.inf)), dtype.type(0), x)


def logaddexp(x1: Any, x2: Any, /) -> Any:
    """log(exp(x1) + exp(x2)), without overflow."""
    x1, x2 = promote_inexact("logaddexp", x1, x2)
    x1, x2 = broadcast("logaddexp", as_array("logaddexp", x1), as_array("logaddexp", x2), full=True)
    if is_complex(type_of(x1).dtype):
        larger = ops.select(ops.gt(ops.real(x1), ops.real(x2)), x1, x2)
        smaller = ops.select(ops.gt(ops.real(x1), ops.real(x2)), x2, x1)
        return ops.add(larger, ops.log1p(ops.exp(ops.sub(smaller, larger))))
    return _log_add_exp(x1, x2)


def logaddexp2(x1: Any, x2: Any, /) -> Any:
    """log2(2**x1 + 2**x2), without overflow."""
    x1, x2 = promote_inexact("logaddexp2", x1, x2)
    scale = float(np.log(2))
    return e.divide(logaddexp(e.multiply(x1, scale), e.multiply(x2, scale)), scale)


def hypot(x1: Any, x2: Any, /) -> Any:
    """sqrt(x1**2 + x2**2), without overflow."""
    x1, x2 = promote_inexact("hypot", x1, x2)
    if is_complex_value(x1):
        raise ValueError("jnp.hypot is not well defined for complex-valued inputs, got a complex array")
    x1, x2 = e.absolute(x1), e.absolute(x2)
    infinite = e.logical_or(e.isinf(x1), e.isinf(x2))
    largest, smallest = e.maximum(x1, x2), e.minimum(x1, x2)
    dtype = type_of(largest).dtype
    zero = e.equal(largest, 0)
    ratio = e.divide(smallest, where(zero, dtype.type(1), largest))
    out = where(zero, largest, e.multiply(largest, e.sqrt(e.add(1, e.square(ratio)))))
    return where(infinite, dtype.type(np.inf), out)


def heaviside(x1: Any, x2: Any, /) -> Any:
    """0 for negative numbers, 1 for positive ones, x2 for 0."""
    x1, x2 = promote_inexact("heaviside", x1, x2)
    dtype = type_of(x1).dtype
    out = where(e.less(x1, 0), dtype.type(0), where(e.greater(x1, 0), dtype.type(1), x2))
    return where(e.isnan(x1), dtype.type(np.nan), out)


def copysign(x1: Any, x2: Any, /) -> Any:
    """|x1| with the sign of x2."""
    x1, x2 = promote_inexact("copysign", x1, x2)
    if is_complex_value(x1):
        raise TypeError("copysign does not support complex-valued inputs")
    size = e.absolute(x1)
    return where(e.signbit(x2), e.negative(size), size)


def ldexp(x1: Any, x2: Any, /) -> Any:
    """x1 * 2**x2."""
    x2 = as_value("ldexp", x2, 1)
    if type_of(x2).dtype.kind not in "iub":
        raise ValueError(f"ldexp not supported for input types {type_of(as_value('ldexp', x1))} and {type_of(x2)}")
    x1 = inexact("ldexp", x1)
    dtype = type_of(x1).dtype
    half = e.floor_divide(x2, 2)
    # two factors: 2**x2 alone may overflow where the product does not
    first = e.power(dtype.type(2), _floats(half, dtype))
    second = e.power(dtype.type(2), _floats(e.subtract(x2, half), dtype))
    out = e.multiply(e.multiply(x1, first), second)
    return where(e.logical_or(e.equal(x1, 0), e.isinf(x1)), x1, out)


def _floats(x: Any, dtype: Any) -> Any:
    return to_dtype(as_array("ldexp", x), dtype)


def frexp(x: Any, /) -> tuple[Any, Any]:
    """Mantissas in [0.5, 1) and powers of two."""
    x = as_array("frexp", inexact("frexp", x))
    dtype = type_of(x).dtype
    if is_complex(dtype):
        raise TypeError("frexp does not support complex-valued inputs")
    bits, mantissa_bits, bias = {2: (16, 10, 15), 4: (32, 23, 127), 8: (64, 52, 1023)}[dtype.itemsize]
    if dtype.kind == "V":
        mantissa_bits, bias = 7, 127
    integer = np.dtype(f"i{bits // 8}")
    tiny = e.less(e.absolute(x), dtype.type(2.0 ** (1 - bias)))
    scaled = ops.select(tiny, ops.mul(x, dtype.type(2.0**mantissa_bits)), x)
    raw = ops.bitcast_convert_type(scaled, integer)
    mask = (1 << (bits - 1 - mantissa_bits)) - 1
    exponent = ops.bitwise_and(ops.shift_right_logical(raw, integer.type(mantissa_bits)), integer.type(mask))
    exponent = ops.sub(ops.convert_element_type(exponent, np.dtype(np.int32)), np.int32(bias - 1))
    exponent = ops.sub(exponent, ops.select(tiny, np.int32(mantissa_bits), ops.broadcast_in_dim(np.int32(0), shape_of(x), ())))
    plain = ops.bitwise_or(ops.eq(x, dtype.type(0)), ops.bitwise_not(ops.is_finite(x)))
    exponent = ops.select(plain, np.int32(0), exponent)
    return ldexp(x, ops.neg(exponent)), exponent


def modf(x: Any, /, out: None = None) -> tuple[Any, Any]:
    """The fractional and the whole parts."""
    no_out("modf", out)
    x = inexact("modf", x)
    whole = e.trunc(x)
    return where(e.isinf(x), copysign(0.0, x), e.subtract(x, whole)), whole


def fmax(x1: Any, x2: Any) -> Any:
    """The greater of two numbers; the other one if one is NaN."""
    return where(e.logical_or(e.greater(x1, x2), e.isnan(x2)), x1, x2)


def fmin(x1: Any, x2: Any) -> Any:
    """The lesser of two numbers; the other one if one is NaN."""
    return where(e.logical_or(e.less(x1, x2), e.isnan(x2)), x1, x2)


def sinc(x: Any, /) -> Any:
    """sin(pi x) / (pi x); 1 at 0, with all derivatives."""
    x = as_array("sinc", inexact("sinc", x))
    weak = type_of(x).weak
    scaled = e.multiply(x, np.pi)
    dtype = type_of(x).dtype
    near = e.less(e.absolute(scaled), real_dtype(dtype).type(1e-2 if dtype.itemsize <= 4 else 1e-3))
    safe = where(near, dtype.type(1), scaled)
    # a series where the quotient loses accuracy; it also gives the derivatives at 0
    y = e.square(where(near, scaled, dtype.type(0)))
    series = 1.0 + y * (-1 / 6 + y * (1 / 120 - y * (1 / 5040)))
    return keep_weak(where(near, series, e.divide(e.sin(safe), safe)), weak)


def gcd(x1: Any, x2: Any) -> Any:
    """The greatest common divisor, by Euclid's algorithm."""
    x1, x2 = _two_integers("gcd", x1, x2)
    return _gcd(x1, x2)


def lcm(x1: Any, x2: Any) -> Any:
    """The least common multiple."""
    x1, x2 = _two_integers("lcm", x1, x2)
    a, b = e.absolute(x1), e.absolute(x2)
    divisor = _gcd(a, b)
    nonzero = where(e.equal(divisor, 0), 1, divisor)
    return where(e.equal(divisor, 0), 0, e.multiply(a, ops.div(b, nonzero)))


def _two_integers(name: str, x1: Any, x2: Any) -> Any:
    x1, x2 = promote(name, x1, x2)
    if type_of(x1).dtype.kind not in "iu":
        raise ValueError(f"Arguments to jax.numpy.{name} must be integers, got dtype {type_of(x1).dtype}")
    return broadcast(name, as_array(name, x1), as_array(name, x2), full=True)


def _gcd(a: Any, b: Any) -> Any:
    from tracegrad.tracer.control_flow import while_loop

    dtype = type_of(a).dtype

    def step(pair: Any) -> Any:
        x, y = pair
        going = ops.ne(y, dtype.type(0))
        rest = ops.rem(x, ops.select(going, y, dtype.type(1)))
        return ops.select(going, y, x), ops.select(going, rest, y)

    def unfinished(pair: Any) -> Any:
        return ops.reduce_or(ops.ne(pair[1], dtype.type(0)), range(len(shape_of(pair[1]))))

    return while_loop(unfinished, step, (e.absolute(a), e.absolute(b)))[0]


def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    """NaN replaced by 0 and infinities by the largest finite numbers, or by the values given."""
    x = as_array("nan_to_num", x)
    dtype = type_of(x).dtype
    if dtype.kind in "iub":
        return x
    if is_complex(dtype):
        parts = [nan_to_num(p, copy, nan, posinf, neginf) for p in (ops.real(x), ops.imag(x))]
        return ops.complex(*parts)
    limits = dtypes.finfo(dtype)
    high = limits.max if posinf is None else posinf
    low = limits.min if neginf is None else neginf
    x = where(e.isnan(x), to_dtype(as_array("nan_to_num", nan), dtype), x)
    x = where(e.isposinf(x), to_dtype(as_array("nan_to_num", high), dtype), x)
    return where(e.isneginf(x), to_dtype(as_array("nan_to_num", low), dtype), x)


def spacing(x: Any, /) -> Any:
    """The distance to the next number away from zero."""
    x = inexact("spacing", x)
    if is_complex_value(x):
        raise ValueError("jnp.spacing is not defined for complex inputs.")
    return e.subtract(e.nextafter(x, copysign(np.inf, x)), x)


def i0(x: Any) -> Any:
    """The modified Bessel function of the first kind, order 0."""
    x = as_array("i0", inexact("i0", x))
    if is_complex(type_of(x).dtype):
        raise ValueError(f"Unsupported input type to jax.numpy.i0: {type_of(x)}")
    # exp(|x|), written so that the derivative of |x| at 0 is 0 as in the derivative of the scaled function.
    return ops.mul(ops.exp(ops.mul(x, ops.sign(x))), ops.bessel_i0e(x))


def unwrap(p: Any, discont: Any = None, axis: int = -1, period: Any = 6.283185307179586) -> Any:
    """Angles with their jumps by whole periods removed."""
    from tracegrad.numpy.calculus import diff
    from tracegrad.numpy.indexing import IndexUpdates
    from tracegrad.numpy.promotion import axis_index
    from tracegrad.numpy.reductions import cumsum

    p = as_array("unwrap", p)
    if p.dtype.kind == "c":
        raise ValueError("jnp.unwrap does not support complex inputs.")
    if shape_of(p)[axis_index("unwrap", axis, len(shape_of(p)))] == 0:
        return to_dtype(p, dtypes.promote(type_of(p), type_of(period))[0])
    i = axis_index("unwrap", axis, len(shape_of(p)))
    (p,) = promote_inexact("unwrap", p) if not isinstance(period, int) else (p,)
    d = diff(p, axis=i)
    half = e.divide(period, 2) if type_of(d).dtype.kind != "i" else period // 2
    folded = e.subtract(e.remainder(e.add(d, half), period), half)
    folded = where(e.logical_and(e.equal(folded, e.negative(half)), e.greater(d, 0)), half, folded)
    correction = e.subtract(folded, d)
    limit = half if discont is None else discont
    correction = where(e.less(e.absolute(d), limit), type_of(correction).dtype.type(0), correction)
    index = (slice(None),) * i + (slice(1, None),)
    return IndexUpdates(p)[index].add(cumsum(correction, axis=i))
