"""Taylor mode of the elementwise primitives and special functions, and the vocabulary in which jet rules are stated.

Recurrences: A. Griewank, A. Walther, "Evaluating Derivatives", 2nd ed. (2008), chapter 13: a function that satisfies a differential
equation, y' = g(x, y) x', has coefficients that follow from those before them. Functions with known derivatives of every order
(powers, polygamma, zeta) are composed by Taylor's polynomial. At kinks the series follows the branch that the first derivative
takes. Primitives that are not named here (some of several operands that all move) go through their jvp rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir import conversions, ops
from tracegrad.ir import elementwise as e
from tracegrad.ir import special as sp
from tracegrad.ir.bind import bind, bind1, type_of
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import is_complex, is_inexact, tangent_type
from tracegrad.transforms.elementwise import or_one
from tracegrad.transforms.jet import jet_flat, through_jvp
from tracegrad.transforms.linearize import linearize_flat
from tracegrad.transforms.rules import choose, scalar
from tracegrad.transforms.series import (
    Series,
    antiderivative,
    coefficient,
    composed,
    constant,
    cube_root,
    derivative,
    difference,
    divided,
    exponential,
    integral,
    is_constant,
    logarithm,
    mapped,
    minus,
    multiplied,
    over,
    reciprocal_root,
    scaled,
    square_coefficient,
    square_root,
    squared,
    sum_of,
    times,
    whole_power,
)
from tracegrad.transforms.special import beta_density, gamma_density
from tracegrad.transforms.zero import Zero, instantiate, is_zero

Operands = Sequence[Series]

# Kinds of rules


def along(prim: Primitive) -> None:
    """The rule of a primitive that is linear, or linear on each side of its kinks: its derivative, applied to each coefficient."""

    def jet(operands: Operands, **params: Any) -> list[Series]:
        primals = [x[0] for x in operands]
        orders = [k for k in range(1, len(operands[0])) if any(x[k] is not None for x in operands)]
        moving = [not is_constant(x) for x in operands]

        def tangents(k: int) -> list[Any]:
            return [Zero(tangent_type(type_of(x[0]))) if x[k] is None else x[k] for x in operands]

        if len(orders) == 1:
            outs, dots = prim.rule("jvp")(primals, tangents(orders[0]), **params)
            rows = [dots]
        else:
            lin = linearize_flat(lambda *xs: bind(prim, *xs, **params), primals, moving)
            outs = lin.outs
            rows = [lin.apply([instantiate(t) for t, m in zip(tangents(k), moving) if m]) for k in orders]
        series = [constant(y, len(operands[0]) - 1) for y in outs]
        for k, row in zip(orders, rows):
            for y, t in zip(series, row):
                y[k] = None if is_zero(t) else t
        return series

    prim.define(jet=jet)


def linear_in_first(prim: Primitive) -> None:
    """The rule of a primitive with one result that is linear in its first operand; the others only choose."""

    def jet(operands: Operands, **params: Any) -> list[Series]:
        others = [x[0] for x in operands[1:]]
        y = bind1(prim, operands[0][0], *others, **params)
        if not is_inexact(type_of(y).dtype):
            return [constant(y, len(operands[0]) - 1)]
        return [[y, *mapped(lambda c: bind1(prim, c, *others, **params), operands[0][1:])]]

    prim.define(jet=jet)


def bilinear(prim: Primitive) -> None:
    """The rule of a primitive with one result that is linear in each of its two operands: Cauchy's product."""

    def jet(operands: Operands, **params: Any) -> list[Series]:
        x, y = operands
        return [multiplied(x, y, lambda a, b: bind1(prim, a, b, **params))]

    prim.define(jet=jet)


def unary(prim: Primitive, rule: Callable[[Any, Series], Series]) -> None:
    """The rule of a primitive with one operand and one result, from `rule(value of the result, series of the operand)`."""
    prim.define(jet=lambda operands: [rule(bind1(prim, operands[0][0]), operands[0])])


def decomposed(prim: Primitive, fun: Callable[..., Sequence[Any]]) -> None:
    """The rule of a primitive that other operations compute: `fun(*operands, **params)` gives the results out of operations with rules."""

    def jet(operands: Operands, **params: Any) -> list[Series]:
        # The values are the primitive's own, which `fun` may round differently.
        values = bind(prim, *[x[0] for x in operands], **params)
        series = jet_flat(lambda *xs: fun(*xs, **params), operands, len(operands[0]) - 1)
        return [[y0, *y[1:]] for y0, y in zip(values, series)]

    prim.define(jet=jet)


# Arithmetic


def shifted_by(x: Series, c: float) -> Series:
    return [ops.add(x[0], c), *x[1:]]


def one_minus(x: Series) -> Series:
    return [ops.sub(1.0, x[0]), *mapped(ops.neg, x[1:])]


for _prim in (e.neg_p, e.copy_p, e.real_p, e.imag_p, e.conj_p, conversions.reduce_precision_p):
    linear_in_first(_prim)
for _prim in (e.complex_p, conversions.convert_element_type_p, e.max_p, e.min_p, e.clamp_p, e.select_p):
    along(_prim)
bilinear(e.mul_p)
e.add_p.define(jet=lambda operands: [sum_of(*operands)])
e.sub_p.define(jet=lambda operands: [difference(*operands)])
e.div_p.define(jet=lambda operands: [divided(*operands)])
unary(e.square_p, lambda y, x: squared(x))


def _abs(operands: Operands) -> list[Series]:
    (x,) = operands
    dtype = type_of(x[0]).dtype
    if is_complex(dtype):
        return through_jvp(e.abs_p.rule("jvp"), operands, {})
    sign = choose(ops.ge(x[0], 0.0), 1.0, -1.0, dtype)
    return [[ops.abs(x[0]), *mapped(lambda c: ops.mul(sign, c), x[1:])]]


def _rem(operands: Operands) -> list[Series]:
    # x = y + whole * z, where the number of whole times is constant between jumps.
    x, z = operands
    y = ops.rem(x[0], z[0])
    if is_constant(z):
        return [[y, *x[1:]]]
    whole = ops.div(ops.sub(x[0], y), z[0])
    return [[y, *[minus(a, times(whole, b)) for a, b in zip(x[1:], z[1:])]]]


e.abs_p.define(jet=_abs)
e.rem_p.define(jet=_rem)


# Exponentials and logarithms

unary(e.exp_p, exponential)
unary(e.exp2_p, lambda y, x: exponential(y, [x[0], *mapped(lambda c: ops.mul(c, math.log(2.0)), x[1:])]))
unary(e.expm1_p, lambda y, x: integral(y, x, lambda y: y[-1] if len(y) > 1 else ops.add(y[0], 1.0)))
unary(e.log_p, logarithm)
unary(e.log1p_p, lambda y, x: logarithm(y, shifted_by(x, 1.0)))


def _logistic(y0: Any, x: Series) -> Series:
    # y' = y (1 - y) x'
    return integral(
        y0,
        x,
        lambda y: ops.mul(y[0], ops.sub(1.0, y[0])) if len(y) == 1 else minus(y[-1], square_coefficient(y, len(y) - 1)),
    )


def _tangent(sign: float) -> Callable[[Any, Series], Series]:
    """y' = (1 + y^2) x', or with a minus for the hyperbolic tangent."""

    def slope(y: Series) -> Any:
        square = square_coefficient(y, len(y) - 1)
        if len(y) > 1:
            return scaled(sign, square)
        return ops.add(square, 1.0) if sign > 0 else ops.sub(1.0, square)

    return lambda y, x: integral(y, x, slope)


unary(e.logistic_p, _logistic)
unary(e.tan_p, _tangent(1.0))
unary(e.tanh_p, _tangent(-1.0))


def sine_and_cosine(x: Series, sine: Callable[[Any], Any], cosine: Callable[[Any], Any], sign: float) -> tuple[Series, Series]:
    """s' = c x' and c' = sign s x'."""
    s, c, moving = [sine(x[0])], [cosine(x[0])], derivative(x)
    for k in range(1, len(x)):
        s_k, c_k = over(coefficient(moving, c, k - 1), k), over(coefficient(moving, s, k - 1), k)
        s.append(s_k)
        c.append(scaled(sign, c_k) if sign > 0 or c_k is None else ops.neg(c_k))
    return s, c


e.sin_p.define(jet=lambda operands: [sine_and_cosine(operands[0], ops.sin, ops.cos, -1.0)[0]])
e.cos_p.define(jet=lambda operands: [sine_and_cosine(operands[0], ops.sin, ops.cos, -1.0)[1]])
e.sinh_p.define(jet=lambda operands: [sine_and_cosine(operands[0], ops.sinh, ops.cosh, 1.0)[0]])
e.cosh_p.define(jet=lambda operands: [sine_and_cosine(operands[0], ops.sinh, ops.cosh, 1.0)[1]])


# Inverse functions: y' = x' / h(x)


def _root_of(x: Series) -> Series:
    return square_root(ops.sqrt(x[0]), x)


def _inverse(prim: Primitive, h: Callable[[Series], Series], negated: bool = False) -> None:
    def rule(y0: Any, x: Series) -> Series:
        slope = divided(derivative(x), h(x[:-1]))
        return antiderivative(y0, mapped(ops.neg, slope) if negated else slope)

    unary(prim, rule)


_inverse(e.asin_p, lambda x: _root_of(one_minus(squared(x))))
_inverse(e.acos_p, lambda x: _root_of(one_minus(squared(x))), negated=True)
_inverse(e.atan_p, lambda x: shifted_by(squared(x), 1.0))
_inverse(e.asinh_p, lambda x: _root_of(shifted_by(squared(x), 1.0)))
# Two roots, not the root of the product, whose branch differs in the left half of the complex plane.
_inverse(e.acosh_p, lambda x: multiplied(_root_of(shifted_by(x, -1.0)), _root_of(shifted_by(x, 1.0))))
_inverse(e.atanh_p, lambda x: multiplied(one_minus(x), shifted_by(x, 1.0)))


def _atan2(operands: Operands) -> list[Series]:
    # y' = (a' b - a b') / (a^2 + b^2)
    a, b = operands
    turn = difference(multiplied(derivative(a), b[:-1]), multiplied(a[:-1], derivative(b)))
    norm = sum_of(squared(a[:-1]), squared(b[:-1]))
    return [antiderivative(ops.atan2(a[0], b[0]), divided(turn, norm))]


e.atan2_p.define(jet=_atan2)


# Powers

unary(e.sqrt_p, square_root)
unary(e.cbrt_p, cube_root)
unary(e.rsqrt_p, reciprocal_root)


def _integer_pow(operands: Operands, *, y: int) -> list[Series]:
    (x,) = operands
    value = ops.integer_pow(x[0], y)
    if y == 0:
        return [constant(value, len(x) - 1)]
    power = whole_power(x, abs(y))
    return [[value, *(power if y > 0 else divided(constant(scalar(1, type_of(x[0]).dtype), len(x) - 1), power))[1:]]]


def _pow(operands: Operands) -> list[Series]:
    x, r = operands
    order = len(x) - 1
    y0 = ops.pow(x[0], r[0])
    if is_constant(x):
        # exp(r log x), whose series is 0 for x = 0.
        log = ops.log(or_one(x[0]))
        return [exponential(y0, [None, *mapped(lambda c: ops.mul(c, log), r[1:])])]
    if not is_constant(r):
        return through_jvp(e.pow_p.rule("jvp"), operands, {})
    # The derivatives r (r-1) ... (r-m+1) x^(r-m): of a whole power all vanish from some order on, also at x = 0.
    dtype = type_of(x[0]).dtype
    zero = scalar(0, dtype)
    falling: Any = None
    derivatives = [y0]
    for m in range(1, order + 1):
        factor = ops.sub(r[0], scalar(m - 1, type_of(r[0]).dtype))
        falling = factor if falling is None else ops.mul(falling, factor)
        power = ops.pow(x[0], ops.sub(r[0], scalar(m, type_of(r[0]).dtype)))
        weight = falling if is_inexact(type_of(r[0]).dtype) else ops.convert_element_type(falling, dtype)
        derivatives.append(ops.select(ops.eq(weight, zero), zero, ops.mul(weight, power)))
    return [composed(derivatives, x)]


e.integer_pow_p.define(jet=_integer_pow)
e.pow_p.define(jet=_pow)


# Error functions


def _gaussian(x: Series, factor: float) -> Series:
    """factor * exp(-x^2)"""
    exponent = mapped(ops.neg, squared(x))
    return mapped(lambda c: ops.mul(c, factor), exponential(ops.exp(exponent[0]), exponent))


def _erf(factor: float) -> Callable[[Any, Series], Series]:
    return lambda y0, x: antiderivative(y0, multiplied(derivative(x), _gaussian(x[:-1], factor)))


unary(sp.erf_p, _erf(2.0 / math.sqrt(math.pi)))
unary(sp.erfc_p, _erf(-2.0 / math.sqrt(math.pi)))


def _erf_inv(y0: Any, x: Series) -> Series:
    # y' = w x' with w = exp(y^2) sqrt(pi)/2, itself the integral of w' = w (y^2)'.
    w: Series = []
    square: Series = []

    def slope(y: Series) -> Any:
        k = len(y) - 1
        square.append(square_coefficient(y, k))
        if k == 0:
            w.append(ops.mul(ops.exp(square[0]), math.sqrt(math.pi) / 2.0))
        else:
            w.append(over(coefficient(derivative(square), w, k - 1), k))
        return w[-1]

    return integral(y0, x, slope)


unary(sp.erf_inv_p, _erf_inv)


# Functions with derivatives of every order


def _polygamma(n: Any, x: Any) -> Any:
    return ops.polygamma(scalar(n, type_of(x).dtype), x)


unary(
    sp.lgamma_p,
    lambda y, x: composed([y, ops.digamma(x[0]), *[_polygamma(m - 1, x[0]) for m in range(2, len(x))]][: len(x)], x),
)
unary(sp.digamma_p, lambda y, x: composed([y, *[_polygamma(m, x[0]) for m in range(1, len(x))]], x))


def _polygamma_rule(operands: Operands) -> list[Series]:
    n, x = operands
    if not is_constant(n):
        return through_jvp(sp.polygamma_p.rule("jvp"), operands, {})
    derivatives = [ops.polygamma(n[0] if m == 0 else ops.add(n[0], float(m)), x[0]) for m in range(len(x))]
    return [composed(derivatives, x)]


def _zeta(operands: Operands) -> list[Series]:
    s, q = operands
    if not is_constant(s):
        return through_jvp(sp.zeta_p.rule("jvp"), operands, {})
    # The m-th derivative in q is (-1)^m s (s+1) ... (s+m-1) zeta(s + m, q).
    derivatives = [ops.zeta(s[0], q[0])]
    rising: Any = None
    for m in range(1, len(q)):
        factor = ops.neg(s[0] if m == 1 else ops.add(s[0], float(m - 1)))
        rising = factor if rising is None else ops.mul(rising, factor)
        derivatives.append(ops.mul(rising, ops.zeta(ops.add(s[0], float(m)), q[0])))
    return [composed(derivatives, q)]


sp.polygamma_p.define(jet=_polygamma_rule)
sp.zeta_p.define(jet=_zeta)


# Bessel functions


def _bessel_pair(x: Series) -> tuple[Series, Series]:
    """exp(-|x|) I0(x) and exp(-|x|) I1(x): P' = (Q - s P) x' and Q' = (P - s Q - Q/x) x', where s is the sign of x."""
    dtype = type_of(x[0]).dtype
    at_zero = ops.eq(x[0], scalar(0, dtype))
    sign = ops.sign(x[0])
    p, q, moving = [ops.bessel_i0e(x[0])], [ops.bessel_i1e(x[0])], derivative(x)
    base = [or_one(x[0]), *x[1:]]
    # Where x starts at 0, its sign counts as 0 and Q/x is I1(x)/x, the sum of (x/2)^(2m) / (2 m! (m+1)!).
    near = composed(_ratio_derivatives(len(x) - 1, dtype), [None, *x[1:]])
    ratio: Series = []
    p_slope: Series = []
    q_slope: Series = []
    for k in range(1, len(x)):
        i = k - 1
        away = minus(q[i], coefficient(base, ratio, i, first=1))
        away = scalar(0, dtype) if away is None else ops.div(away, base[0])
        ratio.append(ops.select(at_zero, scalar(0, dtype) if near[i] is None else near[i], away))
        p_slope.append(minus(q[i], times(sign, p[i])))
        q_slope.append(minus(minus(p[i], times(sign, q[i])), ratio[i]))
        p.append(over(coefficient(moving, p_slope, i), k))
        q.append(over(coefficient(moving, q_slope, i), k))
    return p, q


def _ratio_derivatives(order: int, dtype: Any) -> list[Any]:
    """The derivatives of I1(x)/x at 0."""
    found: list[Any] = []
    for k in range(order + 1):
        m = k // 2
        value = math.factorial(k) / (4**m * 2 * math.factorial(m) * math.factorial(m + 1))
        found.append(None if k % 2 else scalar(value, dtype))
    return found


sp.bessel_i0e_p.define(jet=lambda operands: [_bessel_pair(operands[0])[0]])
sp.bessel_i1e_p.define(jet=lambda operands: [_bessel_pair(operands[0])[1]])


# Incomplete functions: known slopes in the last operand


def _incomplete(prim: Primitive, slope: Callable[..., Any]) -> None:
    """The rule of a primitive whose derivative in its last operand is `slope(*operands)`; others that move go through its jvp."""

    def jet(operands: Operands) -> list[Series]:
        *fixed, x = operands
        if not all(is_constant(c) for c in fixed):
            return through_jvp(prim.rule("jvp"), operands, {})
        (density,) = jet_flat(lambda *xs: [slope(*xs)], [c[:-1] for c in operands], len(x) - 2)
        return [antiderivative(bind1(prim, *[c[0] for c in operands]), multiplied(derivative(x), density))]

    prim.define(jet=jet)


_incomplete(sp.igamma_p, gamma_density)
_incomplete(sp.igammac_p, lambda a, x: ops.neg(gamma_density(a, x)))
_incomplete(sp.regularized_incomplete_beta_p, beta_density)


# Steps, comparisons, bits


def no_motion(prim: Primitive) -> None:
    """The rule of a primitive whose results do not move: steps, comparisons, integers."""
    prim.define(
        jet=lambda operands, **params: [
            constant(y, len(operands[0]) - 1) for y in bind(prim, *[x[0] for x in operands], **params)
        ]
    )


for _prim in (
    e.floor_p, e.ceil_p, e.round_p, e.is_finite_p, e.stop_gradient_p, conversions.bitcast_convert_type_p,
    e.eq_p, e.ne_p, e.lt_p, e.le_p, e.gt_p, e.ge_p,
):  # fmt: skip
    no_motion(_prim)


def _sign(operands: Operands) -> list[Series]:
    (x,) = operands
    if is_complex(type_of(x[0]).dtype):
        return through_jvp(e.sign_p.rule("jvp"), operands, {})
    return [constant(ops.sign(x[0]), len(x) - 1)]


e.sign_p.define(jet=_sign)
