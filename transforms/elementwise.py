"""Derivatives and batching of the elementwise primitives.

Partials are those of JAX, also at kinks: a tie of max or min counts half for each operand, |x| has the derivative 1 at 0, sqrt an infinite
one, x ** 0.0 at 0 a NaN. A complex function is differentiated as if its argument were one number (holomorphic); abs, real and
imag, which are not, act on tangents through their real parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tracegrad.ir import conversions, ops
from tracegrad.ir import elementwise as e
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.types import ArrayType, is_complex, is_inexact, is_key, tangent_type
from tracegrad.transforms import rules
from tracegrad.transforms.rules import (
    NEGATED,
    SAME,
    Along,
    bilinear,
    broadcast_scalar,
    choose,
    linear,
    no_derivative,
    partials,
    scalar,
    transposes,
    unbroadcast,
    zero_derivative,
)
from tracegrad.transforms.zero import Linear, Zero, is_zero

# Elementary functions


partials(e.exp_p, lambda ans, x: ans)
partials(e.exp2_p, lambda ans, x: ops.mul(ans, math.log(2.0)))
partials(e.expm1_p, lambda ans, x: ops.add(ans, 1.0))
partials(e.log_p, Along(lambda t, ans, x: ops.div(t, x)))
partials(e.log1p_p, Along(lambda t, ans, x: ops.div(t, ops.add(x, 1.0))))
partials(e.sin_p, lambda ans, x: ops.cos(x))
partials(e.cos_p, lambda ans, x: ops.neg(ops.sin(x)))
partials(e.tan_p, lambda ans, x: ops.add(ops.square(ans), 1.0))
partials(e.asin_p, lambda ans, x: ops.rsqrt(ops.sub(1.0, ops.square(x))))
partials(e.acos_p, lambda ans, x: ops.neg(ops.rsqrt(ops.sub(1.0, ops.square(x)))))
partials(e.atan_p, Along(lambda t, ans, x: ops.div(t, ops.add(ops.square(x), 1.0))))
partials(e.sinh_p, lambda ans, x: ops.cosh(x))
partials(e.cosh_p, lambda ans, x: ops.sinh(x))
partials(e.tanh_p, lambda ans, x: ops.sub(1.0, ops.square(ans)))
partials(e.asinh_p, lambda ans, x: ops.rsqrt(ops.add(ops.square(x), 1.0)))
# Two roots, not the root of the product, whose branch differs in the left half of the complex plane.
partials(e.acosh_p, lambda ans, x: ops.mul(ops.rsqrt(ops.sub(x, 1.0)), ops.rsqrt(ops.add(x, 1.0))))
partials(e.atanh_p, Along(lambda t, ans, x: ops.div(t, ops.mul(ops.sub(1.0, x), ops.add(x, 1.0)))))
partials(e.sqrt_p, lambda ans, x: ops.div(0.5, ans))
partials(e.rsqrt_p, lambda ans, x: ops.mul(ops.div(ans, x), -0.5))
partials(e.cbrt_p, lambda ans, x: ops.div(1.0 / 3.0, ops.square(ans)))
partials(e.logistic_p, lambda ans, x: ops.mul(ans, ops.sub(1.0, ans)))
partials(e.square_p, lambda ans, x: ops.mul(x, 2.0))


def _integer_pow_partial(t: Any, ans: Any, x: Any, *, y: int) -> Any:
    if y == 1:
        return t
    power = x if y == 2 else ops.integer_pow(x, y - 1)
    return ops.mul(ops.mul(power, float(y)), t)


def _integer_pow_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, y: int) -> tuple[Sequence[Any], Sequence[Any]]:
    (x,), (t,) = primals, tangents
    ans = ops.integer_pow(x, y)
    if is_zero(t) or y == 0:
        return (ans,), (Zero(tangent_type(type_of(ans))),)
    return (ans,), (_integer_pow_partial(t, ans, x, y=y),)


e.integer_pow_p.define(jvp=_integer_pow_jvp, transpose=rules.NOT_LINEAR)


def or_one(x: Any) -> Any:
    """`x` with ones for zeros: something to divide by, or to take the logarithm of, where the result will not count."""
    return ops.select(ops.eq(x, scalar(0, type_of(x).dtype)), scalar(1, type_of(x).dtype), x)


def _abs_partial(t: Any, ans: Any, x: Any) -> Any:
    dtype = type_of(x).dtype
    if not is_complex(dtype):
        return ops.mul(choose(ops.ge(x, 0.0), 1.0, -1.0, dtype), t)
    return ops.real(ops.mul(_conjugate_direction(ans, x), t))


def _conjugate_direction(norm: Any, x: Any) -> Any:
    """conj(x) / |x|, and 0 at 0."""
    return ops.div(ops.conj(x), ops.convert_element_type(or_one(norm), type_of(x).dtype))


def _sign_partial(t: Any, ans: Any, x: Any) -> Any:
    # x/|x| turns with the part of the tangent that is orthogonal to x, at the rate 1/|x|.
    norm = ops.abs(x)
    turn = ops.imag(ops.mul(_conjugate_direction(norm, x), t))
    turn = ops.div(turn, or_one(norm))
    return ops.mul(ops.mul(ans, 1j), ops.convert_element_type(turn, type_of(x).dtype))


def _sign_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    (x,), (t,) = primals, tangents
    ans = ops.sign(x)
    if is_zero(t) or not is_complex(type_of(x).dtype):
        return (ans,), (Zero(tangent_type(type_of(ans))),)
    return (ans,), (_sign_partial(t, ans, x),)


partials(e.abs_p, Along(_abs_partial))
e.sign_p.define(jvp=_sign_jvp, transpose=rules.NOT_LINEAR)


# Arithmetic

linear(e.neg_p, lambda ct, x: ops.neg(ct))
partials(e.add_p, SAME, SAME)
partials(e.sub_p, SAME, NEGATED)


def _transpose_add(ct: Any, x: Any, y: Any) -> Sequence[Any]:
    return [unbroadcast(ct, v.type.shape) if isinstance(v, Linear) else None for v in (x, y)]


def _transpose_sub(ct: Any, x: Any, y: Any) -> Sequence[Any]:
    return [
        unbroadcast(ct, x.type.shape) if isinstance(x, Linear) else None,
        ops.neg(unbroadcast(ct, y.type.shape)) if isinstance(y, Linear) else None,
    ]


transposes(e.add_p, _transpose_add)
transposes(e.sub_p, _transpose_sub)

bilinear(
    e.mul_p,
    lambda ct, x, y: unbroadcast(ops.mul(ct, y), x.shape),
    lambda ct, x, y: unbroadcast(ops.mul(ct, x), y.shape),
)

_general_mul_jvp = e.mul_p.rule("jvp")


def _mul_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    (x, y), (x_dot, y_dot) = primals, tangents
    if x is y and x_dot is y_dot and not is_zero(x_dot):
        # x * x has one term, like a square.
        return (ops.mul(x, x),), (ops.mul(ops.mul(x, 2.0), x_dot),)
    return _general_mul_jvp(primals, tangents)


e.mul_p.define(jvp=_mul_jvp)

def _div_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    # (t - ans u) / y: one division for both operands, also when it is transposed; and what it reads is the result and the denominator.
    (x, y), (t, u) = primals, tangents
    ans = ops.div(x, y)
    out = tangent_type(type_of(ans))
    if is_zero(t) and is_zero(u) or not is_inexact(out.dtype):
        return (ans,), (Zero(out),)
    if is_zero(u):
        return (ans,), (broadcast_scalar(ops.div(t, y), out.shape),)
    along_y = ops.mul(ans, u)
    if is_zero(t):
        return (ans,), (broadcast_scalar(ops.neg(ops.div(along_y, y)), out.shape),)
    return (ans,), (broadcast_scalar(ops.div(ops.sub(t, along_y), y), out.shape),)


e.div_p.define(jvp=_div_jvp)


def _transpose_div(ct: Any, x: Any, y: Any) -> Sequence[Any]:
    if isinstance(y, Linear):
        raise NotImplementedError("div is not linear in the denominator, so it cannot be transposed with respect to it")
    return [unbroadcast(ops.div(ct, y), x.type.shape), None]


transposes(e.div_p, _transpose_div)

# x = ans + whole * y, where the number of whole times is constant between jumps.
partials(e.rem_p, SAME, lambda ans, x, y: ops.div(ops.sub(ans, x), y))


def _pow_wrt_base(ans: Any, x: Any, y: Any) -> Any:
    base = type_of(x)
    if is_inexact(type_of(y).dtype):
        # A Python number stays one, whatever its kind.
        less = y - 1.0 if isinstance(y, (float, complex)) else ops.sub(y, 1.0)
        return ops.mul(ops.pow(x, less), y)
    # An integer power of 0 contributes nothing, and does not become 0 * inf at x = 0.
    power = ops.select(ops.eq(y, 0), scalar(1, type_of(y).dtype), ops.sub(y, 1))
    return ops.mul(ops.pow(x, power), ops.convert_element_type(y, base.dtype))


partials(e.pow_p, _pow_wrt_base, lambda ans, x, y: ops.mul(ops.log(or_one(x)), ans))


def _larger(x: Any, y: Any) -> Any:
    """1 where x wins over y, 1/2 where they tie, 0 elsewhere."""
    dtype = type_of(x).dtype
    return ops.select(ops.eq(x, y), scalar(0.5, dtype), ops.convert_element_type(ops.gt(x, y), dtype))


partials(e.max_p, lambda ans, x, y: _larger(x, y), lambda ans, x, y: _larger(y, x))
partials(e.min_p, lambda ans, x, y: _larger(y, x), lambda ans, x, y: _larger(x, y))


def _over_square_norm(a: Any, x: Any, y: Any) -> Any:
    return ops.div(a, ops.add(ops.square(x), ops.square(y)))


partials(
    e.atan2_p,
    lambda ans, x, y: _over_square_norm(y, x, y),
    lambda ans, x, y: ops.neg(_over_square_norm(x, x, y)),
)


def _where(condition: Any, t: Any) -> Any:
    return ops.select(condition, t, scalar(0, type_of(t).dtype))


partials(
    e.clamp_p,
    Along(lambda t, ans, lo, x, hi: _where(ops.bitwise_and(ops.gt(lo, x), ops.lt(lo, hi)), t)),
    Along(lambda t, ans, lo, x, hi: _where(ops.bitwise_and(ops.gt(x, lo), ops.lt(x, hi)), t)),
    Along(lambda t, ans, lo, x, hi: _where(ops.lt(hi, x), t)),
)


# Selection


def _select_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    pred, on_true, on_false = primals
    _, true_dot, false_dot = tangents
    ans = ops.select(pred, on_true, on_false)
    out = tangent_type(type_of(ans))
    if is_zero(true_dot) and is_zero(false_dot) or not is_inexact(out.dtype):
        return (ans,), (Zero(out),)
    zero = scalar(0, out.dtype)
    t = ops.select(pred, zero if is_zero(true_dot) else true_dot, zero if is_zero(false_dot) else false_dot)
    return (ans,), (broadcast_scalar(t, out.shape),)


def _transpose_select(ct: Any, pred: Any, on_true: Any, on_false: Any) -> Sequence[Any]:
    zero = scalar(0, type_of(ct).dtype)
    return [
        None,
        unbroadcast(ops.select(pred, ct, zero), on_true.type.shape) if isinstance(on_true, Linear) else None,
        unbroadcast(ops.select(pred, zero, ct), on_false.type.shape) if isinstance(on_false, Linear) else None,
    ]


e.select_p.define(jvp=_select_jvp)
transposes(e.select_p, _transpose_select)


# Conversions and complex numbers


def _convert_jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, new_dtype: Any, weak: bool
) -> tuple[Sequence[Any], Sequence[Any]]:
    (x,), (t,) = primals, tangents
    ans = bind1(conversions.convert_element_type_p, x, new_dtype=new_dtype, weak=weak)
    out = tangent_type(type_of(ans))
    if is_zero(t) or not is_inexact(out.dtype):
        return (ans,), (Zero(out),)
    # A change of weakness alone does not concern tangents, which are strong.
    return (ans,), (t if type_of(t).dtype == out.dtype else ops.convert_element_type(t, out.dtype),)


def _transpose_convert(ct: Any, x: ArrayType, *, new_dtype: Any, weak: bool) -> Any:
    return ct if type_of(ct).dtype == x.dtype else ops.convert_element_type(ct, x.dtype)


linear(conversions.convert_element_type_p, _transpose_convert)
conversions.convert_element_type_p.define(jvp=_convert_jvp)
linear(e.copy_p, lambda ct, x: ct)
linear(
    conversions.reduce_precision_p,
    lambda ct, x, *, exponent_bits, mantissa_bits: ops.reduce_precision(ct, exponent_bits, mantissa_bits),
)
linear(e.real_p, lambda ct, x: ops.complex(ct, scalar(0, type_of(ct).dtype)))
linear(e.imag_p, lambda ct, x: ops.complex(scalar(0, type_of(ct).dtype), ops.neg(ct)))
linear(e.conj_p, lambda ct, x: ops.conj(ct))


def _complex_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    ans = ops.complex(*primals)
    out = tangent_type(type_of(ans))
    if all(is_zero(t) for t in tangents):
        return (ans,), (Zero(out),)
    zero = scalar(0, type_of(primals[0]).dtype)
    t = ops.complex(*[zero if is_zero(t) else t for t in tangents])
    return (ans,), (broadcast_scalar(t, out.shape),)


def _transpose_complex(ct: Any, re: Any, im: Any) -> Sequence[Any]:
    return [
        unbroadcast(ops.real(ct), re.type.shape) if isinstance(re, Linear) else None,
        unbroadcast(ops.neg(ops.imag(ct)), im.type.shape) if isinstance(im, Linear) else None,
    ]


e.complex_p.define(jvp=_complex_jvp)
transposes(e.complex_p, _transpose_complex)


# Steps, comparisons, bits

for _prim in (
    e.floor_p, e.ceil_p, e.round_p, e.is_finite_p, e.stop_gradient_p, conversions.bitcast_convert_type_p,
    e.not_p, e.population_count_p, e.clz_p, e.and_p, e.or_p, e.xor_p,
    e.shift_left_p, e.shift_right_logical_p, e.shift_right_arithmetic_p,
    e.eq_p, e.ne_p, e.lt_p, e.le_p, e.gt_p, e.ge_p,
):  # fmt: skip
    zero_derivative(_prim)

no_derivative(e.nextafter_p, "it steps to a neighbouring float, which is not a smooth function")


# Batching

for _prim in list(REGISTRY.values()):
    if _prim.family == "elementwise":
        rules.elementwise_batch(_prim)


def _batch_select(axis: Any, args: Sequence[Any], dims: Sequence[int | None]) -> tuple[Sequence[Any], Sequence[int]]:
    operands, to = rules.elementwise_operands(axis, args, dims)
    if is_key(type_of(args[1]).dtype):
        # Keys do not broadcast implicitly.
        shape = next(type_of(x).shape for x in operands if type_of(x).shape)
        operands[1:] = [broadcast_scalar(x, shape) for x in operands[1:]]
    return (ops.select(*operands),), (to,)


e.select_p.define(batch=_batch_select)
