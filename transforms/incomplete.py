"""Derivatives of the incomplete gamma and beta functions in their parameters, of every order, by quadrature.

Both are distribution functions: P(a, x) of the logarithm of a gamma variate, I(a, b, x) of the logit of a beta variate, whose densities are
log-concave and, unlike those of the variates themselves, have no singularities at the ends. So the derivative in a parameter is an integral
of a smooth function over a half line, from the boundary down (or, with the other sign, up), which the double exponential formula
computes to nearly full precision with a fixed number of nodes: the substitution u = c exp(v - exp(-v)) and the trapezoidal rule in v.
Source: H. Takahasi, M. Mori, "Double exponential formulas for numerical integration", Publ. RIMS 9 (1974). The nodes
do not depend on what is differentiated, so that derivatives of these expressions are the same rule applied to the derivatives of the integrand.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.rules import broadcast_scalar, scalar
from tracegrad.transforms.zero import instantiate

_STEP = 0.07
_V = np.arange(-4.0, 6.6, _STEP)
_NODES = np.exp(_V - np.exp(-_V))
_WEIGHTS = _STEP * (1 + np.exp(-_V)) * _NODES


def _common(*xs: Any) -> list[Any]:
    """Operands with their common shape, in single precision at least."""
    shape = max((type_of(x).shape for x in xs), key=len)
    dtype = type_of(xs[0]).dtype
    wide = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
    xs = tuple([x if dtype == wide else ops.convert_element_type(x, wide) for x in xs])
    return [broadcast_scalar(x, shape) for x in xs]


def _at_nodes(x: Any) -> Any:
    """`x` repeated along a leading axis of nodes."""
    shape = type_of(x).shape
    return ops.broadcast_in_dim(x, (len(_NODES), *shape), range(1, len(shape) + 1))


def _along_nodes(values: np.ndarray, x: Any) -> Any:
    t = type_of(x)
    return ops.broadcast_in_dim(values.astype(t.dtype), (len(values), *t.shape), (0,))


def _integral(scale: Any, integrand: Any) -> Any:
    """The integral over the nodes at `scale` of values there."""
    return ops.mul(scale, ops.reduce_sum(ops.mul(_along_nodes(_WEIGHTS, scale), integrand), (0,)))


def _or(condition: Any, x: Any, otherwise: float) -> Any:
    """`x` where the condition does not hold, a number where it does."""
    return ops.select(condition, scalar(otherwise, type_of(x).dtype), x)


def gamma_slope(a: Any, x: Any) -> Any:
    """The derivative of P(a, x), the regularized lower incomplete gamma function, in a."""
    own = type_of(a).dtype
    a, x = _common(a, x)
    at_end = ops.bitwise_or(ops.eq(x, 0.0), ops.eq(x, np.inf))
    x = _or(at_end, x, 1.0)
    # P(a, x) is the integral of exp(a s - e^s) / Gamma(a) over s < log x. With s = log x + u the exponent is a u - x (e^u - 1) besides its
    # value at the boundary. The upper tail where it is the smaller one; for small a only where x is not small too.
    fixed_a, fixed_x = ops.stop_gradient(a), ops.stop_gradient(x)
    lower = ops.le(fixed_x, ops.max(fixed_a, 0.5))
    down = ops.add(ops.max(ops.sub(fixed_a, fixed_x), 0.0), ops.min(fixed_a, ops.sqrt(fixed_a)))
    up = ops.add(ops.add(ops.max(ops.sub(fixed_x, fixed_a), 0.0), ops.sqrt(fixed_x)), 1.0)
    scale = ops.div(1.0, ops.select(lower, down, up))
    u = ops.mul(_along_nodes(_NODES, scale), _at_nodes(ops.select(lower, ops.neg(scale), scale)))
    u = ops.min(u, 10.0)  # beyond, the upper tail is zero in any precision, and e^u may overflow
    log_x = ops.log(x)
    density = ops.exp(ops.sub(ops.mul(_at_nodes(a), u), ops.mul(_at_nodes(x), ops.expm1(u))))
    rate = ops.add(u, _at_nodes(ops.sub(log_x, ops.digamma(a))))
    boundary = ops.exp(ops.sub(ops.sub(ops.mul(a, log_x), x), ops.lgamma(a)))
    total = ops.mul(boundary, _integral(scale, ops.mul(density, rate)))
    result = _or(at_end, ops.select(lower, total, ops.neg(total)), 0.0)
    return ops.convert_element_type(_or(ops.le(a, 0.0), result, np.nan), own)


def gamma_curvature_along(t: Any, a: Any, x: Any) -> Any:
    """The second derivative of P(a, x) in a, times `t`."""
    _, (dot,) = jvp_flat(lambda a: [gamma_slope(a, x)], [a], [t])
    return instantiate(dot)


def beta_slopes(a: Any, b: Any, x: Any) -> tuple[Any, Any]:
    """The derivatives of I(a, b, x), the regularized incomplete beta function, in a and in b."""
    own = type_of(a).dtype
    a, b, x = _common(a, b, x)
    at_end = ops.bitwise_or(ops.eq(x, 0.0), ops.eq(x, 1.0))
    x = _or(at_end, x, 0.5)
    # The smaller tail; where a parameter is small, the end at which the density is nearly a power.
    fixed = [ops.stop_gradient(c) for c in (a, b, x)]
    size = ops.add(fixed[0], fixed[1])
    near_0 = ops.lt(ops.mul(fixed[2], size), 0.5)
    near_1 = ops.lt(ops.mul(ops.sub(1.0, fixed[2]), size), 0.5)
    middle = _or(ops.bitwise_and(near_0, near_1), ops.div(fixed[0], size), 0.5)
    lower = ops.select(ops.eq(near_0, near_1), ops.le(fixed[2], middle), near_0)
    # The upper tail is the lower one of I(b, a, 1 - x).
    p, q = ops.select(lower, a, b), ops.select(lower, b, a)
    y = ops.select(lower, x, ops.sub(1.0, x))
    fixed_p, fixed_q, fixed_y = [ops.stop_gradient(c) for c in (p, q, y)]
    down = ops.max(ops.sub(fixed_p, ops.mul(size, fixed_y)), 0.0)
    width = ops.min(fixed_p, ops.sqrt(ops.div(ops.mul(fixed_p, fixed_q), size)))
    scale = ops.div(1.0, ops.add(down, width))
    # With logit(t) = logit(y) - u, log t changes by -u - log(1 + y (e^-u - 1)) and log(1 - t) by the second term alone.
    u = ops.mul(_along_nodes(_NODES, scale), _at_nodes(ops.neg(scale)))
    bend = ops.log1p(ops.mul(_at_nodes(y), ops.expm1(u)))
    density = ops.exp(ops.sub(ops.mul(_at_nodes(p), u), ops.mul(_at_nodes(ops.add(p, q)), bend)))
    both = ops.digamma(ops.add(p, q))
    log_y, log_rest = ops.log(y), ops.log1p(ops.neg(y))
    in_p = ops.add(ops.sub(u, bend), _at_nodes(ops.add(ops.sub(log_y, ops.digamma(p)), both)))
    in_q = ops.sub(_at_nodes(ops.add(ops.sub(log_rest, ops.digamma(q)), both)), bend)
    log_beta = ops.sub(ops.add(ops.lgamma(p), ops.lgamma(q)), ops.lgamma(ops.add(p, q)))
    boundary = ops.exp(ops.sub(ops.add(ops.mul(p, log_y), ops.mul(q, log_rest)), log_beta))
    slope_p, slope_q = [ops.mul(boundary, _integral(scale, ops.mul(density, rate))) for rate in (in_p, in_q)]
    outside = ops.bitwise_or(ops.le(a, 0.0), ops.le(b, 0.0))
    slopes = ops.select(lower, slope_p, ops.neg(slope_q)), ops.select(lower, slope_q, ops.neg(slope_p))
    first, second = [ops.convert_element_type(_or(outside, _or(at_end, s, 0.0), np.nan), own) for s in slopes]
    return first, second
