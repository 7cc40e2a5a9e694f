"""Special functions, elementwise on floating-point operands: error functions, gamma functions, Bessel functions, zeta, beta.

Evaluation is SciPy's, imported when first needed. The two derivatives that SciPy lacks, of the incomplete gamma function in its
parameter and of a gamma sample in its shape, are differentiated term by term here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1
from tracegrad.ir.checks import FLOAT, all_weak, common_shape, require_dtype, rounding, same_dtype, scalars
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType

Made = tuple[Primitive, Callable[..., Any]]


def special_function(name: str, arity: int, function: Callable[..., Any]) -> Made:
    """A primitive on `arity` floating-point operands of one dtype, and its function."""

    def type_rule(*types: ArrayType) -> tuple[ArrayType]:
        require_dtype(name, FLOAT, types)
        dtype = same_dtype(name, types)
        return (ArrayType(common_shape(name, types), dtype, all_weak(types)),)

    rounded = rounding(function)
    primitive = Primitive(name, type_rule, lambda *operands: (rounded(*operands),), "special")

    if arity == 1:

        def operation(*operands: Any) -> Any:
            (x,) = operands
            return bind1(primitive, x)

    else:

        def operation(*operands: Any) -> Any:
            return bind1(primitive, *scalars(*operands))

    operation.__name__ = operation.__qualname__ = name
    operation.__doc__ = f"Apply the primitive `{name}` elementwise."
    return primitive, operation


def _scipy(name: str) -> Callable[..., Any]:
    """A function of scipy.special, whose import takes longer than that of the whole library: put off until it is called."""

    def call(*operands: np.ndarray) -> Any:
        import scipy.special

        return getattr(scipy.special, name)(*operands)

    return call


# M. Giles, "Approximating the erfinv function", GPU Computing Gems (2010): erf_inv(x) / x in w - 2.5 for w = -log(1 - x^2) < 5, and in
# sqrt(w) - 3 beyond.
ERF_INV_CENTRE = (
    1.50140941,
    0.246640727,
    -0.00417768164,
    -0.00125372503,
    0.00021858087,
    -4.39150654e-06,
    -3.5233877e-06,
    3.43273939e-07,
    2.81022636e-08,
)
ERF_INV_TAIL = (
    2.83297682,
    1.00167406,
    0.00943887047,
    -0.0076224613,
    0.00573950773,
    -0.00367342844,
    0.00134934322,
    0.000100950558,
    -0.000200214257,
)


def _erf_inv(x: np.ndarray) -> Any:
    """In single precision the approximation that XLA uses, so that normal random numbers are those of JAX, bit for bit."""
    if x.dtype != np.float32:
        return _scipy("erfinv")(x)
    w = -np.log1p(-(x * x).astype(np.float64)).astype(np.float32)
    small = w < np.float32(5)
    t = np.where(small, w - np.float32(2.5), np.sqrt(w) - np.float32(3)).astype(np.float64)
    p = np.where(small, np.float32(ERF_INV_CENTRE[-1]), np.float32(ERF_INV_TAIL[-1]))
    for a, b in zip(reversed(ERF_INV_CENTRE[:-1]), reversed(ERF_INV_TAIL[:-1])):
        # A fused multiply-add: the product of single precision numbers is exact in double precision.
        p = (np.where(small, np.float32(a), np.float32(b)) + p * t).astype(np.float32)
    inside = np.where(np.abs(x) == 1, np.copysign(np.float32(np.inf), x), p * x)
    return np.where(np.abs(x) <= 1, inside, np.float32(np.nan))


def _digamma(x: np.ndarray) -> Any:
    # NaN at every pole; SciPy has -inf at 0.
    return np.where(x == 0, np.nan, _scipy("digamma")(x))


def _lgamma(x: np.ndarray) -> Any:
    # Infinity on both sides, as in C; SciPy has -inf at -inf.
    return np.where(x == -np.inf, np.inf, _scipy("gammaln")(x))


def _igamma_parts(a: np.ndarray, x: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """(by_series, value, derivative): the bracket that the regularized incomplete gamma function is made of, and its a-derivative.

    Where by_series, P(a, x) = x^a e^-x / Gamma(a+1) * value; elsewhere 1 - P(a, x) = x^a e^-x / Gamma(a) * value, and `derivative`
    is the bracket of dP/da, or of d(1-P)/da, with the same factor in front.
    """
    import scipy.special

    log_x = np.log(x)
    by_series = (x <= 1) | (x <= a)
    value, derivative = np.empty_like(x), np.empty_like(x)
    for member, bracket, digamma_at in ((by_series, _series, a + 1), (~by_series, _fraction, a)):
        if member.any():
            total, slope = bracket(a[member], x[member])
            value[member] = total
            derivative[member] = total * (log_x - scipy.special.digamma(digamma_at))[member] + slope
    return by_series, value, derivative


_MAX_TERMS = 20000
_EPSILON = 4 * float(np.finfo(np.float64).eps)


def _series(a: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of x^n / ((a+1)...(a+n)), and its derivative in a."""
    term, log_slope = np.ones_like(x), np.zeros_like(x)
    total, slope = np.ones_like(x), np.zeros_like(x)
    for n in range(1, _MAX_TERMS):
        term = term * (x / (a + n))
        log_slope = log_slope - 1 / (a + n)
        total = total + term
        slope = slope + term * log_slope
        if not (np.abs(term * log_slope) > _EPSILON * np.abs(slope)).any():
            break
    return total, slope


def _fraction(a: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The continued fraction 1/(x+1-a - 1(1-a)/(x+3-a - 2(2-a)/(x+5-a - ...))), and its derivative in a, as the sums of differences between
    convergents. The convergents themselves lose half of the digits to rounding."""
    # Where a is huge only x / a counts, and where x is, the fraction is 1 / x.
    given = x
    x = np.minimum(np.where(a > 1e100, x / a * 1e100, x), 1e140)
    a = np.minimum(a, 1e100)
    total = term = 1 / (x + 1 - a)
    slope = change = term**2
    ratio = bend = np.zeros_like(x)
    for n in range(1, _MAX_TERMS):
        factor = n * (n - a)
        share, bend = factor * (1 + ratio), factor * bend - n * (1 + ratio)
        below = x - a + 2 * n
        square = below * below - 1
        inverse = 1 / (square - share)
        ratio = share * inverse
        bend = (bend * (square * inverse) + 2 * share * (below * inverse)) * inverse
        change = change * ratio + term * bend
        term = term * ratio
        total = total + term
        slope = slope + change
        if not ((np.abs(term) > _EPSILON * np.abs(total)) | (np.abs(change) > _EPSILON * np.abs(slope))).any():
            break
    return total * (x / given), slope * (x / given)


def _in_domain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute in float64 where a > 0 and 0 < x < inf; 0 for x = 0 and x = inf, NaN elsewhere."""

    def call(a: np.ndarray, x: np.ndarray) -> Any:
        a, x = np.broadcast_arrays(a.astype(np.float64), x.astype(np.float64))
        inside = (a > 0) & (x > 0) & (x < np.inf)
        out = np.where((a > 0) & (x >= 0), 0.0, np.nan)
        if inside.any():
            out[inside] = function(a[inside], x[inside])
        return out

    return call


def _igamma_grad_a(a: np.ndarray, x: np.ndarray) -> Any:
    import scipy.special

    by_series, _, derivative = _igamma_parts(a, x)
    front = np.exp(a * np.log(x) - x - scipy.special.gammaln(a + by_series))
    return np.where(by_series, derivative, -derivative) * front


def _random_gamma_grad(a: np.ndarray, x: np.ndarray) -> Any:
    # A sample x is the quantile of a fixed P(a, x): dx/da = -dP/da / p(x), and the factor in front cancels against the density.
    by_series, _, derivative = _igamma_parts(a, x)
    return np.where(by_series, -derivative * x / a, derivative * x)


erf_p, erf = special_function("erf", 1, _scipy("erf"))
erfc_p, erfc = special_function("erfc", 1, _scipy("erfc"))
erf_inv_p, erf_inv = special_function("erf_inv", 1, _erf_inv)
lgamma_p, lgamma = special_function("lgamma", 1, _lgamma)
digamma_p, digamma = special_function("digamma", 1, _digamma)
bessel_i0e_p, bessel_i0e = special_function("bessel_i0e", 1, _scipy("i0e"))
bessel_i1e_p, bessel_i1e = special_function("bessel_i1e", 1, _scipy("i1e"))
igamma_p, igamma = special_function("igamma", 2, _scipy("gammainc"))
igammac_p, igammac = special_function("igammac", 2, _scipy("gammaincc"))
igamma_grad_a_p, igamma_grad_a = special_function("igamma_grad_a", 2, _in_domain(_igamma_grad_a))
random_gamma_grad_p, random_gamma_grad = special_function("random_gamma_grad", 2, _in_domain(_random_gamma_grad))
zeta_p, zeta = special_function("zeta", 2, _scipy("zeta"))
polygamma_p, polygamma = special_function("polygamma", 2, _scipy("polygamma"))
regularized_incomplete_beta_p, regularized_incomplete_beta = special_function("regularized_incomplete_beta", 3, _scipy("betainc"))

__all__ = [
    "erf",
    "erfc",
    "erf_inv",
    "lgamma",
    "digamma",
    "bessel_i0e",
    "bessel_i1e",
    "igamma",
    "igammac",
    "igamma_grad_a",
    "random_gamma_grad",
    "zeta",
    "polygamma",
    "regularized_incomplete_beta",
]
