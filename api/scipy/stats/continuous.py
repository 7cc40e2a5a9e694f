"""Continuous distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import ops
from tracegrad.numpy.promotion import promote_inexact
from tracegrad.scipy import special as sp
from tracegrad.scipy.stats.families import Continuous

_INF = float("inf")
_LOG_2PI = float(np.log(2 * np.pi))
_POSITIVE = lambda *shapes: (0.0, _INF)
_UNIT = lambda *shapes: (0.0, 1.0)


def _softplus(x: Any) -> Any:
    from tracegrad.nn import softplus

    return softplus(x)


def _gennorm_tail(z: Any, beta: Any) -> Any:
    """The probability above z of the generalized normal distribution."""
    half = 0.5 * sp.gammaincc(1 / beta, jnp.abs(z) ** beta)
    return jnp.where(z > 0, half, 1 - half)


beta = Continuous(
    "beta", "a b",
    logpdf=lambda z, a, b: sp.xlogy(a - 1, z) + sp.xlog1py(b - 1, -z) - sp.betaln(a, b),
    support=_UNIT,
    cdf=lambda z, a, b: sp.betainc(a, b, z),
    sf=lambda z, a, b: sp.betainc(b, a, 1 - z),
)  # fmt: skip
cauchy = Continuous(
    "cauchy",
    logpdf=lambda z: -float(np.log(np.pi)) - jnp.log1p(z * z),
    cdf=lambda z: 0.5 + jnp.arctan(z) / np.pi,
    sf=lambda z: 0.5 - jnp.arctan(z) / np.pi,
    ppf=lambda q: jnp.tan(np.pi * (q - 0.5)),
)
chi2 = Continuous(
    "chi2", "df",
    logpdf=lambda z, df: sp.xlogy(df / 2 - 1, z) - z / 2 - sp.gammaln(df / 2) - df / 2 * float(np.log(2)),
    support=_POSITIVE,
    cdf=lambda z, df: sp.gammainc(df / 2, z / 2),
    sf=lambda z, df: sp.gammaincc(df / 2, z / 2),
)  # fmt: skip
expon = Continuous(
    "expon",
    logpdf=lambda z: -z,
    support=_POSITIVE,
    cdf=lambda z: -jnp.expm1(-z),
    sf=lambda z: jnp.exp(-z),
    logcdf=lambda z: jnp.log1p(-jnp.exp(-z)),
    logsf=lambda z: -z,
    ppf=lambda q: -jnp.log1p(-q),
)
gamma = Continuous(
    "gamma", "a",
    logpdf=lambda z, a: sp.xlogy(a - 1, z) - z - sp.gammaln(a),
    support=_POSITIVE,
    cdf=lambda z, a: sp.gammainc(a, z),
    sf=lambda z, a: sp.gammaincc(a, z),
)  # fmt: skip
gennorm = Continuous(
    "gennorm", "beta",
    logpdf=lambda z, beta: jnp.log(0.5 * beta) - sp.gammaln(1 / beta) - jnp.abs(z) ** beta,
    cdf=lambda z, beta: _gennorm_tail(-z, beta),
    sf=_gennorm_tail,
)  # fmt: skip
gumbel_l = Continuous(
    "gumbel_l",
    logpdf=lambda z: z - jnp.exp(z),
    cdf=lambda z: -jnp.expm1(-jnp.exp(z)),
    sf=lambda z: jnp.exp(-jnp.exp(z)),
    logsf=lambda z: -jnp.exp(z),
    ppf=lambda q: jnp.log(-jnp.log1p(-q)),
)
gumbel_r = Continuous(
    "gumbel_r",
    logpdf=lambda z: -z - jnp.exp(-z),
    cdf=lambda z: jnp.exp(-jnp.exp(-z)),
    sf=lambda z: -jnp.expm1(-jnp.exp(-z)),
    logcdf=lambda z: -jnp.exp(-z),
    ppf=lambda q: -jnp.log(-jnp.log(q)),
)
laplace = Continuous(
    "laplace",
    logpdf=lambda z: -jnp.abs(z) - float(np.log(2)),
    cdf=lambda z: jnp.where(z <= 0, 0.5 * jnp.exp(jnp.minimum(z, 0)), 1 - 0.5 * jnp.exp(-jnp.maximum(z, 0))),
    sf=lambda z: jnp.where(z >= 0, 0.5 * jnp.exp(-jnp.maximum(z, 0)), 1 - 0.5 * jnp.exp(jnp.minimum(z, 0))),
)
logistic = Continuous(
    "logistic",
    logpdf=lambda z: -z - 2 * _softplus(-z),
    cdf=sp.expit,
    sf=lambda z: sp.expit(-z),
    logcdf=lambda z: -_softplus(-z),
    logsf=lambda z: -_softplus(z),
    ppf=sp.logit,
)
pareto = Continuous(
    "pareto", "b",
    logpdf=lambda z, b: jnp.log(b) - (b + 1) * jnp.log(z),
    support=lambda b: (1.0, _INF),
    cdf=lambda z, b: -jnp.expm1(-b * jnp.log(z)),
    sf=lambda z, b: z**-b,
    logsf=lambda z, b: -b * jnp.log(z),
    ppf=lambda q, b: (1 - q) ** (-1 / b),
)  # fmt: skip
t = Continuous(
    "t", "df",
    logpdf=lambda z, df: sp.gammaln((df + 1) / 2) - sp.gammaln(df / 2) - 0.5 * jnp.log(df * np.pi) - (df + 1) / 2 * jnp.log1p(z * z / df),
)  # fmt: skip
uniform = Continuous(
    "uniform",
    logpdf=jnp.zeros_like,
    support=_UNIT,
    cdf=lambda z: z,
    ppf=lambda q: jnp.where((q < 0) | (q > 1), jnp.nan, q),
)
vonmises = Continuous(
    "vonmises", "kappa",
    logpdf=lambda z, kappa: kappa * (jnp.cos(z) - 1) - jnp.log(sp.i0e(kappa)) - _LOG_2PI,
)  # fmt: skip
wrapcauchy = Continuous(
    "wrapcauchy", "c",
    logpdf=lambda z, c: jnp.log1p(-c * c) - _LOG_2PI - jnp.log1p(c * c - 2 * c * jnp.cos(z)),
    support=lambda c: (0.0, 2 * float(np.pi)),
)  # fmt: skip


def _log_mass(a: Any, b: Any) -> Any:
    """log(Phi(b) - Phi(a)), from the tail in which the difference does not cancel."""
    a, b = jnp.broadcast_arrays(a, b)
    flip = a > 0
    low, high = jnp.where(flip, -b, a), jnp.where(flip, -a, b)
    left = sp.log_ndtr(high) + jnp.log1p(-jnp.exp(sp.log_ndtr(low) - sp.log_ndtr(high)))
    central = jnp.log1p(-sp.ndtr(jnp.where((a <= 0) & (b > 0), a, -1.0)) - sp.ndtr(jnp.where((a <= 0) & (b > 0), -b, -1.0)))
    return jnp.where((a <= 0) & (b > 0), central, left)


truncnorm = Continuous(
    "truncnorm", "a b",
    logpdf=lambda z, a, b: -0.5 * z * z - 0.5 * _LOG_2PI - _log_mass(a, b),
    support=lambda a, b: (a, b),
    logcdf=lambda z, a, b: _log_mass(a, z) - _log_mass(a, b),
    logsf=lambda z, a, b: _log_mass(z, b) - _log_mass(a, b),
)  # fmt: skip


class _MultivariateNormal:
    """Normal vectors, along the last axis."""

    def logpdf(self, x: Any, mean: Any, cov: Any, allow_singular: None = None) -> Any:
        """The logarithm of the density; cov is a matrix, or a variance."""
        from tracegrad.scipy.linalg import solve_triangular

        if allow_singular is not None:
            raise NotImplementedError(
                "allow_singular argument of multivariate_normal.logpdf; leave it out, and add a small multiple of the identity to cov"
            )
        x, mean, cov = promote_inexact("multivariate_normal.logpdf", x, mean, cov)
        if not jnp.ndim(mean):
            return -0.5 * jnp.square(x - mean) / cov - 0.5 * (_LOG_2PI + jnp.log(cov))
        n = mean.shape[-1]
        if not jnp.ndim(cov):
            y = x - mean
            return -0.5 * jnp.sum(y * y, -1) / cov - n / 2 * (_LOG_2PI + jnp.log(cov))
        if jnp.ndim(cov) < 2 or cov.shape[-2:] != (n, n):
            raise ValueError("multivariate_normal.logpdf got incompatible shapes")
        factor = ops.cholesky(cov)
        y = jnp.expand_dims(x - mean, -1)
        y = solve_triangular(factor, y, lower=True)[..., 0]
        log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-1, axis2=-2)), -1)
        return -0.5 * jnp.sum(y * y, -1) - n / 2 * _LOG_2PI - log_det

    def pdf(self, x: Any, mean: Any, cov: Any) -> Any:
        """The density."""
        return jnp.exp(self.logpdf(x, mean, cov))


class _Dirichlet:
    """Vectors of positive numbers that add up to 1, along the first axis."""

    def logpdf(self, x: Any, alpha: Any) -> Any:
        """The logarithm of the density; -inf off the simplex. x may lack its last component."""
        x, alpha = promote_inexact("dirichlet.logpdf", x, alpha)
        if alpha.ndim != 1:
            raise ValueError(f"`alpha` must be one-dimensional; got alpha.shape={alpha.shape}")
        if x.shape[0] not in (alpha.shape[0], alpha.shape[0] - 1):
            raise ValueError(
                f"`x` must have either the same number of entries as `alpha` or one entry fewer; got x.shape={x.shape}, alpha.shape={alpha.shape}"
            )
        if x.shape[0] != alpha.shape[0]:
            x = jnp.concatenate([x, 1 - jnp.sum(x, 0, keepdims=True)])
        normalization = jnp.sum(sp.gammaln(alpha)) - sp.gammaln(jnp.sum(alpha))
        a = jnp.reshape(alpha, (-1,) + (1,) * (x.ndim - 1))
        out = jnp.sum(sp.xlogy(a - 1, x), 0) - normalization
        on_simplex = jnp.all(x > 0, axis=0) & (jnp.abs(jnp.sum(x, 0) - 1) < 1e-6)
        return jnp.where(on_simplex, out, -jnp.inf)

    def pdf(self, x: Any, alpha: Any) -> Any:
        """The density."""
        return jnp.exp(self.logpdf(x, alpha))


multivariate_normal = _MultivariateNormal()
dirichlet = _Dirichlet()
