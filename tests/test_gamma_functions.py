"""Gamma functions in compiled programs: which are code of our own that fuses, and loops of SciPy's that are cut into tasks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special as reference

import tracegrad.numpy as jnp
from tracegrad import grad, jit, vmap
from tracegrad.ir.config import config
from tracegrad.scipy import special


@pytest.fixture(autouse=True)
def wide_types():
    with config.override("enable_x64", True):
        yield


def log_likelihood(p, y):
    """Of a negative binomial distribution."""
    mean, size = jnp.exp(p[0]), jnp.exp(p[1])
    terms = special.gammaln(y + size) - special.gammaln(size) - special.gammaln(y + 1)
    return jnp.sum(terms + size * jnp.log(size / (size + mean)) + y * jnp.log(mean / (size + mean)))


def test_second_derivatives_of_likelihoods_call_nothing_and_vectorize():
    y = np.random.default_rng(0).poisson(3, 100_000).astype(np.float64)
    p = np.array([1.0, 0.4])

    def curvature(p, y):
        return grad(lambda p: grad(log_likelihood)(p, y)[1])(p)[1]

    lowered = jit(curvature).lower(p, y)
    assert "tg.special" not in lowered.as_text("llvm")
    assert " x double>" in lowered.as_text("llvm-optimized")
    h = 1e-4
    slopes = [grad(log_likelihood)(p + np.array([0, d]), y)[1] for d in (h, -h)]
    np.testing.assert_allclose(jit(curvature)(p, y), (slopes[0] - slopes[1]) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (3,), (5, 40)])
def test_trigamma_in_registers_and_loops(dtype, shape):
    x = np.random.default_rng(1).uniform(-5, 30, shape).astype(dtype)
    got = jit(lambda x: special.polygamma(1, x))(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, reference.zeta(2.0, x.astype(np.float64)), rtol=20 * np.finfo(dtype).eps)


def test_derivatives_of_digamma_under_vmap():
    x = np.linspace(0.3, 9, 12)
    np.testing.assert_allclose(jit(vmap(grad(special.digamma)))(x), reference.polygamma(1, x), rtol=1e-14)
    np.testing.assert_allclose(jit(vmap(grad(grad(special.digamma))))(x), reference.polygamma(2, x), rtol=1e-13)


@pytest.mark.parametrize("scalar", [False, True])
def test_long_loops_over_scipy_functions(scalar):
    """Long enough to be cut into tasks, and no multiple of anything."""
    x = np.random.default_rng(2).uniform(0.1, 20, 20_011)
    a = np.float64(2.5) if scalar else x[::-1].copy()
    np.testing.assert_allclose(jit(special.gammainc)(a, x), reference.gammainc(a, x), rtol=1e-13)
    np.testing.assert_allclose(jit(special.zeta)(a + 1, x), reference.zeta(a + 1, x), rtol=1e-12)
    inside = x / 20.1
    np.testing.assert_allclose(jit(special.betainc)(a, x, inside), reference.betainc(a, x, inside), rtol=1e-12)


def test_scipy_functions_in_batched_loops():
    """Within other tasks and loops there are no tasks of their own."""
    x = np.random.default_rng(3).uniform(0.1, 20, (3, 5000))
    got = jit(vmap(lambda row: jnp.sum(special.gammainc(2.5, row))))(x)
    np.testing.assert_allclose(got, reference.gammainc(2.5, x).sum(1), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 20, 25])
def test_polygamma_of_an_order_known_before(order, dtype):
    """Negative arguments, poles and NaN among the others, where the elementary functions end."""
    x = np.concatenate([np.random.default_rng(4).uniform(-4, 30, 60), [0, -1, -3, np.inf, np.nan, -2.5, 0.75, 1, 2]]).astype(
        dtype
    )
    wide = x.astype(np.float64)
    sign = 1 if order % 2 else -1
    want = sign * reference.gamma(order + 1.0) * reference.zeta(order + 1.0, wide) if order else reference.digamma(wide)
    if order == 0:
        want[wide == 0] = np.nan
    with np.errstate(over="ignore"):
        want = want.astype(dtype)
    got = jit(lambda x: special.polygamma(order, x))(x)
    np.testing.assert_allclose(got, want, rtol=50 * np.finfo(dtype).eps)


def test_zeta_where_some_elements_are_exceptions():
    r = np.random.default_rng(5)
    s, q = np.round(r.uniform(-2, 6, 300)), r.uniform(-3, 9, 300)
    got = jit(lambda s, q: special.zeta(s, q) + 1.0)(s, q)
    with np.errstate(all="ignore"):
        want = np.where(s > 1, reference.zeta(s, q), np.where(s == 1, np.inf, np.nan)) + 1.0
    np.testing.assert_allclose(got, want, rtol=1e-13)
