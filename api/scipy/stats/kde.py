"""Densities estimated from samples by Gaussian kernels, under the name of `jax.scipy.stats.gaussian_kde`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad import random
from tracegrad.lax import linalg as lax_linalg
from tracegrad.scipy.special import logsumexp
from tracegrad.scipy.stats import norm
from tracegrad.tracer.control_flow import map as map_rows
from tracegrad.tracer.pytree import register_pytree_node_class


@register_pytree_node_class
class gaussian_kde:
    """The density that is the weighted sum of one normal density around each sample.

    dataset: real, of shape (samples,) or (dimensions, samples). bw_method: "scott" (the default), "silverman", a number that the covariance of
    the samples is scaled by the square of, or a function of the estimator that returns one. weights: of shape (samples,), equal by default.
    Raises ValueError for shapes that do not fit, NotImplementedError for complex samples.
    Source: Scott, Multivariate Density Estimation (1992); Silverman, Density Estimation (1986).
    """

    neff: Any
    dataset: Any
    weights: Any
    covariance: Any
    inv_cov: Any

    def __init__(self, dataset: Any, bw_method: str | float | Callable[[Any], Any] | None = None, weights: Any = None):
        data = jnp.atleast_2d(jnp.asarray(dataset))
        if jnp.iscomplexobj(data):
            raise NotImplementedError("gaussian_kde: complex samples are not supported; give their parts as two dimensions")
        if data.size <= 1:
            raise ValueError("gaussian_kde: the dataset must have more than one element")
        if not jnp.issubdtype(data.dtype, np.floating):
            data = data.astype(jnp.result_type(data, float))
        d, n = data.shape
        if weights is None:
            shares = jnp.full(n, 1.0 / n, data.dtype)
        else:
            shares = jnp.asarray(weights, data.dtype)
            if shares.shape != (n,):
                raise ValueError(f"gaussian_kde: weights of shape {shares.shape} do not fit {n} samples")
            shares = shares / jnp.sum(shares)
        self.dataset, self.weights = data, shares
        self.neff = 1.0 / jnp.sum(shares**2)
        if bw_method is None or bw_method == "scott":
            factor = self.neff ** (-1.0 / (d + 4))
        elif bw_method == "silverman":
            factor = (self.neff * (d + 2) / 4.0) ** (-1.0 / (d + 4))
        elif callable(bw_method):
            factor = bw_method(self)
        elif isinstance(bw_method, str):
            raise ValueError(f"gaussian_kde: bw_method is 'scott', 'silverman', a number or a function, got {bw_method!r}")
        else:
            factor = jnp.asarray(bw_method, data.dtype)
        away = data - jnp.sum(shares * data, 1, keepdims=True)
        covariance = (shares * away) @ away.T / (1.0 - jnp.sum(shares**2))
        self.covariance = covariance * factor**2
        self.inv_cov = jnp.linalg.inv(covariance) / factor**2

    @property
    def d(self) -> int:
        """The number of dimensions."""
        return int(self.dataset.shape[0])

    @property
    def n(self) -> int:
        """The number of samples."""
        return int(self.dataset.shape[1])

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return (self.neff, self.dataset, self.weights, self.covariance, self.inv_cov), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Any, ...]) -> gaussian_kde:
        made = object.__new__(cls)
        made.neff, made.dataset, made.weights, made.covariance, made.inv_cov = children
        return made

    def _points(self, name: str, points: Any) -> Any:
        at = jnp.atleast_2d(jnp.asarray(points))
        if at.shape[0] != self.d and at.shape == (1, self.d):
            at = at.T
        if at.ndim != 2 or at.shape[0] != self.d:
            raise ValueError(f"gaussian_kde.{name}: points of shape {at.shape} do not have the dataset's {self.d} dimensions")
        return at.astype(self.dataset.dtype)

    def logpdf(self, x: Any) -> Any:
        """The logarithm of the density at points of shape (dimensions, points), or one point of shape (dimensions,): (points,)."""
        root = lax_linalg.cholesky(self.covariance)
        return _log_sum(self._points("logpdf", x), self.dataset, root, jnp.log(self.weights))

    def evaluate(self, points: Any) -> Any:
        """The density at points of shape (dimensions, points), or one point of shape (dimensions,): (points,)."""
        return jnp.exp(self.logpdf(points))

    def pdf(self, x: Any) -> Any:
        """`evaluate`."""
        return self.evaluate(x)

    def __call__(self, points: Any) -> Any:
        return self.evaluate(points)

    def integrate_gaussian(self, mean: Any, cov: Any) -> Any:
        """The integral of the density times the normal density with this mean, of shape (dimensions,), and covariance: a scalar."""
        mean, cov = jnp.atleast_1d(jnp.squeeze(jnp.asarray(mean))), jnp.atleast_2d(jnp.asarray(cov))
        if mean.shape != (self.d,) or cov.shape != (self.d, self.d):
            raise ValueError(
                f"gaussian_kde.integrate_gaussian: mean {mean.shape} and covariance {cov.shape} do not fit {self.d} dimensions"
            )
        root = lax_linalg.cholesky(self.covariance + cov)
        return jnp.exp(_log_sum(mean[:, None].astype(self.dataset.dtype), self.dataset, root, jnp.log(self.weights))[0])

    def integrate_box_1d(self, low: Any, high: Any) -> Any:
        """The probability between two numbers, of a density of one dimension."""
        if self.d != 1:
            raise ValueError(f"gaussian_kde.integrate_box_1d needs a density of one dimension, this has {self.d}")
        sigma = jnp.sqrt(self.covariance[0, 0])
        return jnp.sum(self.weights * (norm.cdf(high, self.dataset[0], sigma) - norm.cdf(low, self.dataset[0], sigma)))

    def integrate_kde(self, other: gaussian_kde) -> Any:
        """The integral of the product of this density and another of as many dimensions: a scalar."""
        if other.d != self.d:
            raise ValueError(f"gaussian_kde.integrate_kde: densities of {self.d} and {other.d} dimensions")
        root = lax_linalg.cholesky(self.covariance + other.covariance)
        each = _log_sum(other.dataset, self.dataset, root, jnp.log(self.weights))
        return jnp.sum(other.weights * jnp.exp(each))

    def resample(self, key: Any, shape: tuple[int, ...] = ()) -> Any:
        """Random points of the density, of shape (dimensions, *shape)."""
        which, around = random.split(key)
        chosen = random.choice(which, self.n, shape, p=self.weights)
        noise = random.multivariate_normal(
            around, jnp.zeros(self.d, self.dataset.dtype), self.covariance, shape, self.dataset.dtype
        )
        return self.dataset[:, chosen] + jnp.moveaxis(noise, -1, 0)


def _log_sum(points: Any, centers: Any, root: Any, log_weights: Any) -> Any:
    """At each point, the logarithm of the weighted sum of normal densities around centers whose covariance has this Cholesky factor."""
    d = centers.shape[0]
    solve = lambda x: lax_linalg.triangular_solve(root, x, left_side=True, lower=True)  # noqa: E731
    scaled, ours = solve(points), solve(centers)
    constant = -0.5 * d * math.log(2 * math.pi) - jnp.sum(jnp.log(jnp.diagonal(root)))

    def one(point: Any) -> Any:
        return logsumexp(log_weights - 0.5 * jnp.sum((ours - point[:, None]) ** 2, 0))

    return constant + map_rows(one, scaled.T)
