"""Distributions of scipy.stats against SciPy, and their derivatives at and beyond the ends of their support."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats as reference

import tracegrad.numpy as jnp
from tracegrad.runtime.jit import jit
from tracegrad.scipy import stats
from tracegrad.test_util import check_grads
from tracegrad.transforms.api import grad

X = np.linspace(-3.1, 4.7, 27).astype(np.float32)
Q = np.linspace(0.05, 0.95, 7).astype(np.float32)
CONTINUOUS = {
    "beta": (2.0, 3.0), "cauchy": (), "chi2": (3.0,), "expon": (), "gamma": (2.5,), "gennorm": (1.5,), "gumbel_l": (), "gumbel_r": (),
    "laplace": (), "logistic": (), "pareto": (2.0,), "t": (4.0,), "truncnorm": (-1.0, 2.0), "uniform": (), "vonmises": (2.0,),
    "wrapcauchy": (0.5,),
}  # fmt: skip
DISCRETE = {
    "bernoulli": (0.3,),
    "betabinom": (6, 2.0, 3.0),
    "binom": (6, 0.3),
    "geom": (0.3,),
    "nbinom": (4, 0.3),
    "poisson": (2.5,),
}
HAS = {
    "cdf": "beta cauchy chi2 expon gamma gennorm gumbel_l gumbel_r laplace logistic pareto truncnorm uniform".split(),
    "ppf": "cauchy expon gumbel_l gumbel_r logistic pareto uniform".split(),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_distributions(name):
    mine, theirs, shapes = getattr(stats, name), getattr(reference, name), CONTINUOUS[name]
    functions = ["logpdf", "pdf"] + (["cdf", "sf", "logcdf", "logsf"] if name in HAS["cdf"] else [])
    for loc, scale in [(0, 1), (0.5, 2.0)]:
        for function in functions:
            x = X if name != "vonmises" else X * 0.5
            with np.errstate(all="ignore"):
                expected = getattr(theirs, function)(x.astype(np.float64), *shapes, loc=loc, scale=scale)
            out = getattr(mine, function)(x, *shapes, loc=loc, scale=scale)
            if name == "vonmises" and scale != 1:
                continue  # SciPy's density is periodic before scaling
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=2e-5, err_msg=function)
        if name in HAS["ppf"]:
            expected = theirs.ppf(Q.astype(np.float64), *shapes, loc=loc, scale=scale)
            np.testing.assert_allclose(mine.ppf(Q, *shapes, loc, scale), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jit(mine.logpdf)(X, *shapes), mine.logpdf(X, *shapes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_distributions(name):
    k, shapes = np.array([-1.0, 0, 1, 2, 2.5, 6, 7]), DISCRETE[name]
    mine, theirs = getattr(stats, name), getattr(reference, name)
    for loc in (0, 1):
        np.testing.assert_allclose(mine.pmf(k, *shapes, loc=loc), theirs.pmf(k, *shapes, loc=loc), rtol=1e-4, atol=1e-6)
    if name in ("bernoulli", "poisson"):
        np.testing.assert_allclose(mine.cdf(k, *shapes), theirs.cdf(k, *shapes), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_derivatives_are_finite_and_right(name):
    function = getattr(stats, name).logpdf
    shapes = tuple(np.float32(s) for s in CONTINUOUS[name])
    point = np.float32(1.3 if name == "pareto" else 0.4)
    check_grads(lambda x, *s: function(x, *s), (point, *shapes), 1, atol=5e-2, rtol=5e-2)
    outside = grad(lambda x: function(x, *shapes))(jnp.float32(-7))
    assert np.isfinite(float(outside))


def test_distributions_of_vectors():
    x = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], np.float32)
    alpha = np.array([1.5, 2.0, 3.0], np.float32)
    expected = [reference.dirichlet.logpdf(r, alpha) for r in ([0.2, 0.3, 0.5], [0.1, 0.1, 0.8])]
    np.testing.assert_allclose(stats.dirichlet.logpdf(x.T, alpha), expected, rtol=1e-4)
    cov = np.array([[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 1]], np.float32)
    expected = reference.multivariate_normal.logpdf(x, alpha, cov)
    np.testing.assert_allclose(stats.multivariate_normal.logpdf(x, alpha, cov), expected, rtol=1e-4)
    expected = reference.multivariate_normal.logpdf(x, alpha, 2.0)
    np.testing.assert_allclose(stats.multivariate_normal.logpdf(x, alpha, 2.0), expected, rtol=1e-4)
    counts, p = np.array([1, 2, 3]), np.array([0.2, 0.3, 0.5])
    np.testing.assert_allclose(stats.multinomial.pmf(counts, 6, p), reference.multinomial.pmf(counts, 6, p), rtol=1e-4)
    assert float(stats.multinomial.pmf(counts, 7, p)) == 0.0


def test_tails_do_not_cancel():
    out = stats.truncnorm.logpdf(np.float32([8.5, 9]), 8.0, np.inf)
    np.testing.assert_allclose(out, reference.truncnorm.logpdf([8.5, 9], 8.0, np.inf), rtol=1e-4)
    np.testing.assert_allclose(stats.logistic.logsf(np.float32(100)), -100.0)


def test_errors_name_the_parameters():
    with pytest.raises(TypeError, match="gamma.logpdf needs the parameters a"):
        stats.gamma.logpdf(1.0)
    with pytest.raises(TypeError, match="unexpected parameter 'b'; it takes a, loc, scale"):
        stats.gamma.logpdf(1.0, a=1.0, b=2.0)
    with pytest.raises(AttributeError, match="has no cdf"):
        stats.t.cdf(1.0, 2.0)
