"""Discrete distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.numpy.promotion import promote_inexact
from tracegrad.scipy import special as sp
from tracegrad.scipy.stats.families import Discrete


def _whole(k: Any) -> Any:
    return k == jnp.floor(k)


def _log_choose(n: Any, k: Any) -> Any:
    return sp.gammaln(n + 1) - sp.gammaln(k + 1) - sp.gammaln(n - k + 1)


bernoulli = Discrete(
    "bernoulli", "p",
    logpmf=lambda k, p: sp.xlogy(k, p) + sp.xlog1py(1 - k, -p),
    valid=lambda k, p: (k == 0) | (k == 1),
    cdf=lambda k, p: jnp.where(k < 0, 0.0, jnp.where(k < 1, 1 - p, 1.0)),
    ppf=lambda q, p: jnp.where((p < 0) | (p > 1) | (q < 0) | (q > 1), jnp.nan, jnp.where(q <= 1 - p, 0.0, 1.0)),
)  # fmt: skip
betabinom = Discrete(
    "betabinom", "n a b",
    logpmf=lambda k, n, a, b: _log_choose(n, k) + sp.betaln(k + a, n - k + b) - sp.betaln(a, b),
    valid=lambda k, n, a, b: (k >= 0) & (k <= n) & _whole(k),
)  # fmt: skip
binom = Discrete(
    "binom", "n p",
    logpmf=lambda k, n, p: _log_choose(n, k) + sp.xlogy(k, p) + sp.xlog1py(n - k, -p),
    valid=lambda k, n, p: (k >= 0) & (k <= n) & _whole(k),
)  # fmt: skip
geom = Discrete(
    "geom", "p",
    logpmf=lambda k, p: sp.xlog1py(k - 1, -p) + jnp.log(p),
    valid=lambda k, p: (k > 0) & _whole(k),
)  # fmt: skip
nbinom = Discrete(
    "nbinom", "n p",
    logpmf=lambda k, n, p: sp.gammaln(k + n) - sp.gammaln(n) - sp.gammaln(k + 1) + sp.xlogy(n, p) + sp.xlog1py(k, -p),
    valid=lambda k, n, p: (k >= 0) & _whole(k),
)  # fmt: skip
poisson = Discrete(
    "poisson", "mu",
    logpmf=lambda k, mu: sp.xlogy(k, mu) - sp.gammaln(k + 1) - mu,
    valid=lambda k, mu: (k >= 0) & _whole(k),
    cdf=lambda k, mu: jnp.where(k < 0, 0.0, sp.gammaincc(jnp.maximum(jnp.floor(k), 0) + 1, mu)),
)  # fmt: skip


class _Multinomial:
    """Counts, along the last axis."""

    def logpmf(self, x: Any, n: Any, p: Any) -> Any:
        """The logarithm of the probability of these counts."""
        x, p = promote_inexact("multinomial.logpmf", x, p)
        n = jnp.asarray(n, x.dtype)
        terms = sp.gammaln(n + 1) + jnp.sum(sp.xlogy(x, p) - sp.gammaln(x + 1), -1)
        valid = jnp.all((x >= 0) & _whole(x), axis=-1) & (jnp.sum(x, -1) == n)
        return jnp.where(valid, terms, -np.inf)

    def pmf(self, x: Any, n: Any, p: Any) -> Any:
        """The probability of these counts."""
        return jnp.exp(self.logpmf(x, n, p))


multinomial = _Multinomial()
