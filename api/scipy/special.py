"""Special functions, under the names of `jax.scipy.special`."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex, is_integer
from tracegrad.lax.operands import value
from tracegrad.nn.normalization import log_softmax as _log_softmax
from tracegrad.nn.normalization import logsumexp as logsumexp
from tracegrad.nn.normalization import softmax as _softmax
from tracegrad.numpy.promotion import inexact, promote_inexact
from tracegrad.tracer.control_flow import fori_loop
from tracegrad.transforms.custom import custom_jvp


def _real(name: str, *xs: Any) -> list[Any]:
    """Arguments in their common real dtype, of equal shapes."""
    values = promote_inexact(name, *xs)
    if is_complex(type_of(values[0]).dtype):
        raise ValueError(f"{name} does not support complex-valued inputs.")
    return list(jnp.broadcast_arrays(*values)) if len(values) > 1 else list(values)


def _unary(name: str, op: Any, doc: str) -> Any:
    def function(x: Any) -> Any:
        return op(inexact(name, x))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


erf = _unary("erf", ops.erf, "The error function.")
erfc = _unary("erfc", ops.erfc, "1 - erf(x), exact where that is small.")
erfinv = _unary("erfinv", ops.erf_inv, "The inverse of erf.")
gammaln = _unary("gammaln", ops.lgamma, "The logarithm of the absolute value of the gamma function.")
digamma = psi = _unary("digamma", ops.digamma, "The derivative of gammaln.")
expit = _unary("expit", ops.logistic, "1 / (1 + exp(-x)).")
i0e = _unary("i0e", ops.bessel_i0e, "exp(-|x|) times the modified Bessel function of order 0.")
i1e = _unary("i1e", ops.bessel_i1e, "exp(-|x|) times the modified Bessel function of order 1.")


def _unscaled(x: Any, scaled: Any) -> Any:
    # exp(|x|), written so that the derivative of |x| at 0 is 0 as in the derivatives of the scaled functions.
    return ops.mul(ops.exp(ops.mul(x, ops.sign(x))), scaled)


i0 = _unary("i0", lambda x: _unscaled(x, ops.bessel_i0e(x)), "The modified Bessel function of order 0.")
i1 = _unary("i1", lambda x: _unscaled(x, ops.bessel_i1e(x)), "The modified Bessel function of order 1.")


def softmax(x: Any, /, *, axis: Any = None) -> Any:
    """exp(x) / sum(exp(x)) over axes, all by default."""
    return _softmax(x, axis)


def log_softmax(x: Any, /, *, axis: Any = None) -> Any:
    """log(softmax(x)) over axes, all by default."""
    return _log_softmax(x, axis)


@custom_jvp
def _logit(x: Any) -> Any:
    return ops.log(ops.div(x, ops.sub(type_of(x).dtype.type(1), x)))


_logit.defjvps(lambda t, ans, x: ops.div(t, ops.mul(x, ops.sub(type_of(x).dtype.type(1), x))))


def logit(x: Any) -> Any:
    """log(x / (1 - x))."""
    return _logit(inexact("logit", x))


# x log y and its kin are 0 where x is, whatever y; as functions of two variables they are differentiated by hand.
def _product_with_log(logarithm: Any, slope: Any) -> Any:
    @custom_jvp
    def function(x: Any, y: Any) -> Any:
        return jnp.where((x != 0) | (y != y), x * logarithm(y), 0.0)

    function.defjvps(
        lambda t, ans, x, y: t * logarithm(y),
        lambda t, ans, x, y: t * slope(x, y),
    )
    return function


_xlogy = _product_with_log(ops.log, lambda x, y: x / y)
_xlog1py = _product_with_log(ops.log1p, lambda x, y: x / (1 + y))


def xlogy(x: Any, y: Any) -> Any:
    """x * log(y), 0 where x is 0."""
    x, y = promote_inexact("xlogy", x, y)
    return _xlogy(*jnp.broadcast_arrays(x, y))


def xlog1py(x: Any, y: Any) -> Any:
    """x * log(1 + y), 0 where x is 0."""
    x, y = promote_inexact("xlog1py", x, y)
    return _xlog1py(*jnp.broadcast_arrays(x, y))


@custom_jvp
def _xlogx(x: Any) -> Any:
    return _xlogy(x, x)


# The derivative at 0 is infinite; 0 * inf must not make it NaN.
_xlogx.defjvps(lambda t, ans, x: t * (ops.log(x) + 1))


def entr(x: Any) -> Any:
    """-x log x, -inf below 0."""
    (x,) = _real("entr", x)
    return jnp.where(x < 0, -jnp.inf, -_xlogx(x))


def rel_entr(p: Any, q: Any) -> Any:
    """p log(p / q); 0 where p is 0 and q is not negative, inf outside of the domain."""
    p, q = _real("rel_entr", p, q)
    both = (p > 0) & (q > 0)
    safe_p, safe_q = jnp.where(both, p, 1.0), jnp.where(both, q, 1.0)
    inside = _xlogx(safe_p) - _xlogy(safe_p, safe_q)
    return jnp.where(both, inside, jnp.where((p == 0) & (q >= 0), 0.0, jnp.inf))


def kl_div(p: Any, q: Any) -> Any:
    """rel_entr(p, q) - p + q."""
    p, q = _real("kl_div", p, q)
    return rel_entr(p, q) - p + q


# The gamma function and relatives.
def gammasgn(x: Any) -> Any:
    """The sign of the gamma function; NaN at its poles."""
    (x,) = _real("gammasgn", x)
    whole = ops.floor(x)
    negative = x < 0
    odd = whole - 2 * ops.floor(whole * 0.5) != 0
    sign = jnp.where((negative & odd) | ((x == 0) & jnp.signbit(x)), -1.0, type_of(x).dtype.type(1))
    return jnp.where((negative & (x == whole)) | (x != x), jnp.nan, sign)


def gamma(x: Any) -> Any:
    """The gamma function."""
    (x,) = _real("gamma", x)
    return ops.mul(gammasgn(x), ops.exp(ops.lgamma(x)))


def loggamma(x: Any) -> Any:
    """The principal branch of the logarithm of the gamma function, for real x: NaN where that is not positive."""
    (x,) = _real("loggamma", x)
    return jnp.where(x > 0, ops.lgamma(x), jnp.nan)


def betaln(a: Any, b: Any) -> Any:
    """The logarithm of the beta function."""
    a, b = _real("betaln", a, b)
    # The larger argument's difference of logarithms is of two close numbers when the other is small.
    small, large = ops.min(a, b), ops.max(a, b)
    direct = ops.sub(ops.add(ops.lgamma(small), ops.lgamma(large)), ops.lgamma(ops.add(small, large)))
    series = _betaln_series(small, large)
    return jnp.where(small >= 8.0, series, jnp.where(large >= 8.0, ops.lgamma(small) + _lgamma_difference(small, large), direct))


# Coefficients of Stirling's series: B_2k / (2k (2k-1)).
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def _stirling(x: Any) -> Any:
    """lgamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2), for x >= 8."""
    x = jnp.maximum(x, 8.0)
    squared = 1 / (x * x)
    total: Any = _STIRLING[-1]
    for c in reversed(_STIRLING[:-1]):
        total = total * squared + c
    return total / x


def _lgamma_difference(a: Any, b: Any) -> Any:
    """lgamma(b) - lgamma(a + b), for b >= 8 and a of any size below."""
    b = jnp.maximum(b, 8.0)
    correction = _stirling(b) - _stirling(a + b)
    return correction + a - a * ops.log(b) - (a + b - 0.5) * ops.log1p(a / b)


def _betaln_series(a: Any, b: Any) -> Any:
    """log B(a, b), for 8 <= a <= b."""
    a, b = jnp.maximum(a, 8.0), jnp.maximum(b, 8.0)
    correction = _stirling(a) + _stirling(b) - _stirling(a + b)
    h = a / b
    return -0.5 * ops.log(b) + 0.5 * float(np.log(2 * np.pi)) + correction + (a - 0.5) * ops.log(h / (1 + h)) - b * ops.log1p(h)


def beta(a: Any, b: Any) -> Any:
    """The beta function."""
    a, b = _real("beta", a, b)
    return gammasgn(a) * gammasgn(b) * gammasgn(a + b) * ops.exp(betaln(a, b))


def multigammaln(a: Any, d: Any) -> Any:
    """The logarithm of the multivariate gamma function of dimension d."""
    d = operator.index(d)
    (a,) = _real("multigammaln", a)
    steps = np.arange(d) / 2
    constant = 0.25 * d * (d - 1) * float(np.log(np.pi))
    terms = gammaln(jnp.expand_dims(a, -1) - jnp.asarray(steps, type_of(a).dtype))
    return jnp.sum(terms, -1) + constant


def factorial(n: Any, exact: bool = False) -> Any:
    """n!, as a float; 0 for negative n."""
    if exact:
        raise NotImplementedError("factorial with exact=True; use exact=False, or math.factorial of a Python integer")
    (n,) = _real("factorial", n)
    return jnp.where(n < 0, 0.0, ops.exp(ops.lgamma(n + 1)))


def comb(N: Any, k: Any, *, repetition: bool = False) -> Any:
    """The number of ways to choose k among N things."""
    N, k = _real("comb", N, k)
    if repetition:
        return jnp.where((k == 0) & (N >= 0), 1.0, comb(N + k - 1, k))
    valid = (k <= N) & (N >= 0) & (k >= 0)
    n, m = jnp.where(valid, N, 0.0), jnp.where(valid, k, 0.0)
    return jnp.where(valid, ops.exp(gammaln(n + 1) - gammaln(m + 1) - gammaln(n + 1 - m)), 0.0)


def poch(z: Any, m: Any) -> Any:
    """gamma(z + m) / gamma(z)."""
    z, m = _real("poch", z, m)
    return jnp.where(m == 0, 1.0, gamma(z + m) / gamma(z))


def polygamma(n: Any, x: Any) -> Any:
    """The n-th derivative of digamma."""
    if not is_integer(type_of(value("polygamma", n)).dtype):
        raise ValueError(f"Argument `n` to polygamma must be of integer type. Got dtype {type_of(n).dtype}.")
    n, x = promote_inexact("polygamma", n, x)
    if is_complex(type_of(x).dtype):
        raise ValueError("polygamma does not support complex-valued inputs.")
    if type_of(n).shape != ():  # one order for all elements is a constant, for which there is faster code
        n, x = jnp.broadcast_arrays(n, x)
    return ops.polygamma(n, x)


def zeta(x: Any, q: Any = None) -> Any:
    """The Hurwitz zeta function."""
    if q is None:
        raise NotImplementedError("Riemann zeta function not implemented; pass q != None to compute the Hurwitz Zeta function.")
    return ops.zeta(*_real("zeta", x, q))


def betainc(a: Any, b: Any, x: Any) -> Any:
    """The regularized incomplete beta function."""
    return ops.regularized_incomplete_beta(*_real("betainc", a, b, x))


def gammainc(a: Any, x: Any) -> Any:
    """The regularized lower incomplete gamma function."""
    return ops.igamma(*_real("gammainc", a, x))


def gammaincc(a: Any, x: Any) -> Any:
    """The regularized upper incomplete gamma function."""
    return ops.igammac(*_real("gammaincc", a, x))


def boxcox(x: Any, lmbda: Any) -> Any:
    """(x**lmbda - 1) / lmbda, log x for lmbda = 0."""
    x, lmbda = _real("boxcox", x, lmbda)
    return boxcox1p(x - 1, lmbda)


def boxcox1p(x: Any, lmbda: Any) -> Any:
    """((1 + x)**lmbda - 1) / lmbda, log(1 + x) for lmbda = 0."""
    x, lmbda = _real("boxcox1p", x, lmbda)
    log = ops.log1p(x)
    zero = lmbda == 0
    safe = jnp.where(zero, 1.0, lmbda)
    return jnp.where(zero, log, ops.expm1(safe * log) / safe)


# The normal distribution function.
def _normal_dtype(name: str, x: Any) -> Any:
    x = inexact(name, x)
    if type_of(x).dtype not in (np.float32, np.float64):
        raise TypeError(f"x.dtype={type_of(x).dtype} is not supported, see docstring for supported types.")
    return x


def ndtr(x: Any) -> Any:
    """The normal distribution function."""
    return _ndtr(_normal_dtype("ndtr", x))


def _ndtr(x: Any) -> Any:
    # erf near 0, erfc in the tails, where 1 + erf would cancel.
    root_half = float(np.sqrt(0.5))
    w = x * root_half
    z = ops.abs(w)
    tail = ops.erfc(z)
    return 0.5 * jnp.where(z < root_half, 1.0 + ops.erf(w), jnp.where(w > 0, 2.0 - tail, tail))


# Rational approximations of Cephes (S. Moshier): of the centre, and of the tails up to and beyond exp(-32).
_CENTRE = (
    (-5.99633501014107895267e1, 9.80010754185999661536e1, -5.66762857469070293439e1, 1.39312609387279679503e1, -1.23916583867381258016e0),
    (1.0, 1.95448858338141759834e0, 4.67627912898881538453e0, 8.63602421390890590575e1, -2.25462687854119370527e2,
     2.00260212380060660359e2, -8.20372256168333339912e1, 1.59056225126211695515e1, -1.18331621121330003142e0),
)  # fmt: skip
_TAIL = (
    (4.05544892305962419923e0, 3.15251094599893866154e1, 5.71628192246421288162e1, 4.40805073893200834700e1, 1.46849561928858024014e1,
     2.18663306850790267539e0, -1.40256079171354495875e-1, -3.50424626827848203418e-2, -8.57456785154685413611e-4),
    (1.0, 1.57799883256466749731e1, 4.53907635128879210584e1, 4.13172038254672030440e1, 1.50425385692907503408e1,
     2.50464946208309415979e0, -1.42182922854787788574e-1, -3.80806407691578277194e-2, -9.33259480895457427372e-4),
)  # fmt: skip
_FAR_TAIL = (
    (3.23774891776946035970e0, 6.91522889068984211695e0, 3.93881025292474443415e0, 1.33303460815807542389e0, 2.01485389549179081538e-1,
     1.23716634817820021358e-2, 3.01581553508235416007e-4, 2.65806974686737550832e-6, 6.23974539184983293730e-9),
    (1.0, 6.02427039364742014255e0, 3.67983563856160859403e0, 1.37702099489081330271e0, 2.16236993594496635890e-1,
     1.34204006088543189037e-2, 3.28014464682127739104e-4, 2.89247864745380683936e-6, 6.79019408009981274425e-9),
)  # fmt: skip


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Any) -> Any:
    return _polynomial(coefficients[0], x) / _polynomial(coefficients[1], x)


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    total: Any = coefficients[0]
    for c in coefficients[1:]:
        total = total * x + c
    return total


@custom_jvp
def _ndtri(p: Any) -> Any:
    lower = jnp.where(p > float(-np.expm1(-2.0)), 1.0 - p, p)
    lower = jnp.where(lower <= 0, 0.5, lower)
    w = lower - 0.5
    squared = w * w
    centre = (w + w * squared * _ratio(_CENTRE, squared)) * -float(np.sqrt(2 * np.pi))
    z = ops.sqrt(-2.0 * ops.log(lower))
    inverse = 1 / z
    first = z - ops.log(z) / z
    tail = first - jnp.where(z >= 8.0, _ratio(_FAR_TAIL, inverse), _ratio(_TAIL, inverse)) / z
    x = jnp.where(lower > float(np.exp(-2.0)), centre, tail)
    x = jnp.where(p > float(1 - np.exp(-2.0)), x, -x)
    x = jnp.where(p == 0, -jnp.inf, jnp.where(p == 1, jnp.inf, x))
    return jnp.where((p < 0) | (p > 1) | (p != p), jnp.nan, x)


# The derivative is one over the density, which is exact where that of the approximation would not be.
_ndtri.defjvps(lambda t, ans, p: t * float(np.sqrt(2 * np.pi)) * ops.exp(0.5 * ans * ans))


def ndtri(p: Any) -> Any:
    """The inverse of ndtr."""
    return _ndtri(_normal_dtype("ndtri", p))


@custom_jvp
def _log_ndtr(x: Any) -> Any:
    double = type_of(x).dtype == np.float64
    lower, upper = (-20.0, 8.0) if double else (-10.0, 5.0)
    # Far to the right log(1 - q) is -q. Far to the left q is an asymptotic series; its logarithm does not underflow.
    right = x > upper
    q = _ndtr(jnp.where(right, -x, jnp.maximum(x, lower)))
    left = jnp.minimum(x, lower)
    squared = 1 / (left * left)
    series: Any = 1.0
    for n in range(9 if double else 5, 0, -1):
        series = 1.0 - (2 * n - 1) * squared * series
    far_left = -0.5 * left * left - ops.log(-left) - 0.5 * float(np.log(2 * np.pi)) + ops.log(series)
    return jnp.where(right, -q, jnp.where(x > lower, ops.log(q), far_left))


_log_ndtr.defjvps(lambda t, ans, x: t * ops.exp(-0.5 * x * x - 0.5 * float(np.log(2 * np.pi)) - ans))


def log_ndtr(x: Any, series_order: int = 3) -> Any:
    """The logarithm of ndtr, which does not underflow. `series_order` is accepted for compatibility."""
    if not isinstance(series_order, int):
        raise TypeError("series_order must be a Python integer.")
    if not 0 <= series_order <= 30:
        raise ValueError("series_order must be between 0 and 30.")
    return _log_ndtr(_normal_dtype("log_ndtr", x))


# The exponential integrals.
def _exp1_fraction(x: Any) -> Any:
    """x exp(x) E1(x) for x >= 1, by its continued fraction from the tail."""

    def level(i: Any, total: Any) -> Any:
        n = (60 - i).astype(type_of(total).dtype)
        return n / (1 + n / (x + total))

    total = fori_loop(0, 60, level, jnp.zeros_like(x))
    return x / (x + total)


def _ein(x: Any) -> Any:
    """The sum of x**k / (k k!) from k = 1."""

    def term(i: Any, state: Any) -> Any:
        power, total = state
        k = (i + 1).astype(type_of(power).dtype)
        power = power * x / k
        return power, total + power / k

    return fori_loop(0, 100, term, (jnp.ones_like(x), jnp.zeros_like(x)))[1]


@custom_jvp
def _expi(x: Any) -> Any:
    small = jnp.clip(x, -1.0, 40.0)
    log = ops.log(ops.abs(jnp.where(x == 0, 1.0, small)))
    series = float(np.euler_gamma) + log + _ein(small)
    below = -ops.exp(x) * _exp1_fraction(jnp.maximum(-x, 1.0)) / jnp.maximum(-x, 1.0)
    large = jnp.maximum(x, 40.0)
    inverse, asymptotic = 1 / large, jnp.ones_like(x)
    for n in range(20, 0, -1):
        asymptotic = 1.0 + n * inverse * asymptotic
    above = ops.exp(large) * inverse * asymptotic
    out = jnp.where(x < -1.0, below, jnp.where(x > 40.0, above, series))
    return jnp.where(x == 0, -jnp.inf, out)


_expi.defjvps(lambda t, ans, x: t * ops.exp(x) / x)


def expi(x: Any) -> Any:
    """The exponential integral Ei."""
    (x,) = _real("expi", x)
    return _expi(x)


def exp1(x: Any) -> Any:
    """The exponential integral E1, for x > 0; NaN below."""
    (x,) = _real("exp1", x)
    return jnp.where(x < 0, jnp.nan, -_expi(-x))


def bernoulli(n: Any) -> Any:
    """The Bernoulli numbers B_0 to B_n."""
    import scipy.special

    return jnp.asarray(scipy.special.bernoulli(max(operator.index(n), 2))[: operator.index(n) + 1])
