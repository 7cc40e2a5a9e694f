"""Derivatives and batching of the special functions.

Formulas are those of the NIST Digital Library of Mathematical Functions (dlmf.nist.gov): error functions 7.10, gamma and
polygamma 5.15, incomplete gamma 8.8, incomplete beta 8.17, Bessel 10.29, Hurwitz zeta 25.11. Derivatives of incomplete functions in
their parameters are integrals, in `incomplete.py`.
"""

from __future__ import annotations

import math
from typing import Any

from tracegrad.ir import ops
from tracegrad.ir import special as s
from tracegrad.ir.bind import type_of
from tracegrad.ir.primitive import REGISTRY
from tracegrad.transforms.incomplete import beta_slopes, gamma_curvature_along
from tracegrad.transforms.rules import Along, Refused, elementwise_batch, partials, scalar


def _gaussian(x: Any) -> Any:
    return ops.exp(ops.neg(ops.square(x)))


partials(s.erf_p, lambda ans, x: ops.mul(_gaussian(x), 2.0 / math.sqrt(math.pi)))
partials(s.erfc_p, lambda ans, x: ops.mul(_gaussian(x), -2.0 / math.sqrt(math.pi)))
partials(s.erf_inv_p, lambda ans, x: ops.mul(ops.exp(ops.square(ans)), math.sqrt(math.pi) / 2.0))

partials(s.lgamma_p, lambda ans, x: ops.digamma(x))
partials(s.digamma_p, lambda ans, x: ops.polygamma(scalar(1, type_of(x).dtype), x))
partials(
    s.polygamma_p,
    Refused("the order of polygamma is a whole number"),
    lambda ans, n, x: ops.polygamma(ops.add(n, 1.0), x),
)


def _zeta_wrt_order(ans: Any, x: Any, q: Any) -> Any:
    """The derivative of the Hurwitz zeta function in its order, by Euler and Maclaurin's formula differentiated term by term.

    zeta(x, q) = sum_{k<N} (q+k)^-x + a^(1-x)/(x-1) + a^-x/2 + sum_j B_2j/(2j)! x(x+1)...(x+2j-2) a^(-x-2j+1),  a = q + N.
    """
    terms = 10
    total = None
    for k in range(terms):
        base = ops.add(q, float(k)) if k else q
        log = ops.log(base)
        term = ops.mul(log, ops.exp(ops.neg(ops.mul(x, log))))
        total = term if total is None else ops.add(total, term)
    a = ops.add(q, float(terms))
    log = ops.log(a)
    power = ops.exp(ops.neg(ops.mul(x, log)))  # a^-x
    above = ops.sub(x, 1.0)
    tail = ops.mul(ops.mul(a, power), ops.add(ops.div(log, above), ops.div(1.0, ops.square(above))))
    tail = ops.add(tail, ops.mul(ops.mul(power, log), 0.5))
    # The rising factorial x(x+1)...(x+2j-2) and its logarithmic derivative grow by two factors from term to term.
    rising, slope = x, ops.div(1.0, x)
    scale = ops.div(power, a)
    for j, bernoulli in enumerate((1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730), start=1):
        coefficient = bernoulli / math.factorial(2 * j)
        term = ops.mul(ops.mul(rising, scale), ops.mul(ops.sub(log, slope), coefficient))
        tail = ops.add(tail, term)
        for i in (2 * j - 1, 2 * j):
            factor = ops.add(x, float(i))
            rising = ops.mul(rising, factor)
            slope = ops.add(slope, ops.div(1.0, factor))
        scale = ops.div(scale, ops.square(a))
    return ops.neg(ops.add(total, tail))


partials(
    s.zeta_p,
    _zeta_wrt_order,
    lambda ans, x, q: ops.mul(ops.neg(x), ops.zeta(ops.add(x, 1.0), q)),
)


# The exponentially scaled functions are exp(-|x|) I(x): I0' = I1, I1' = I0 - I1/x.
partials(s.bessel_i0e_p, lambda ans, x: ops.sub(ops.bessel_i1e(x), ops.mul(ops.sign(x), ans)))


def _bessel_i1e_partial(ans: Any, x: Any) -> Any:
    dtype = type_of(x).dtype
    zero = ops.eq(x, 0.0)
    nonzero = ops.select(zero, scalar(1, dtype), x)
    slope = ops.sub(ops.bessel_i0e(x), ops.mul(ans, ops.add(ops.sign(x), ops.div(1.0, nonzero))))
    # At 0, where the sign of x counts as 0, it is the derivative of I1: 1/2 + 3 x^2/16 + ..., a polynomial for the sake of its own derivatives.
    square = ops.square(x)
    series = [(2 * m + 1) / (4**m * 2 * math.factorial(m) * math.factorial(m + 1)) for m in range(6)]
    near = ops.mul(square, series.pop())
    for coefficient in reversed(series[1:]):
        near = ops.mul(ops.add(near, coefficient), square)
    near = ops.add(near, series[0])
    return ops.select(zero, near, slope)


partials(s.bessel_i1e_p, _bessel_i1e_partial)


def gamma_density(a: Any, x: Any) -> Any:
    """x^(a-1) exp(-x) / Gamma(a): the derivative of the regularized incomplete gamma function in x."""
    return ops.exp(ops.sub(ops.sub(ops.mul(ops.sub(a, 1.0), ops.log(x)), x), ops.lgamma(a)))


partials(s.igamma_p, lambda ans, a, x: ops.igamma_grad_a(a, x), lambda ans, a, x: gamma_density(a, x))
partials(
    s.igammac_p,
    lambda ans, a, x: ops.neg(ops.igamma_grad_a(a, x)),
    lambda ans, a, x: ops.neg(gamma_density(a, x)),
)
partials(
    s.igamma_grad_a_p,
    Along(lambda t, ans, a, x: gamma_curvature_along(t, a, x)),
    lambda ans, a, x: ops.mul(gamma_density(a, x), ops.sub(ops.log(x), ops.digamma(a))),
)


def _sample_along_shape(t: Any, ans: Any, a: Any, x: Any) -> Any:
    # A sample x(a) keeps P(a, x) fixed, so it moves with the rate -P_a / P_x = -P_a / p.
    curvature = ops.div(gamma_curvature_along(t, a, x), gamma_density(a, x))
    return ops.neg(ops.add(curvature, ops.mul(ops.mul(ans, ops.sub(ops.log(x), ops.digamma(a))), t)))


partials(
    s.random_gamma_grad_p,
    Along(_sample_along_shape),
    lambda ans, a, x: ops.sub(ops.sub(ops.digamma(a), ops.log(x)), ops.mul(ans, ops.sub(ops.div(ops.sub(a, 1.0), x), 1.0))),
)


def beta_density(a: Any, b: Any, x: Any) -> Any:
    log_beta = ops.sub(ops.add(ops.lgamma(a), ops.lgamma(b)), ops.lgamma(ops.add(a, b)))
    powers = ops.add(ops.mul(ops.sub(a, 1.0), ops.log(x)), ops.mul(ops.sub(b, 1.0), ops.log1p(ops.neg(x))))
    return ops.exp(ops.sub(powers, log_beta))


partials(
    s.regularized_incomplete_beta_p,
    lambda ans, a, b, x: beta_slopes(a, b, x)[0],
    lambda ans, a, b, x: beta_slopes(a, b, x)[1],
    lambda ans, a, b, x: beta_density(a, b, x),
)

for _prim in list(REGISTRY.values()):
    if _prim.family == "special":
        elementwise_batch(_prim)
