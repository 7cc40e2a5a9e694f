"""Derivatives of the incomplete gamma and beta functions in their parameters, against mpmath over their whole range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad.ir.config import config
from tracegrad.scipy.special import betainc, gammainc, gammaincc


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True), np.errstate(all="ignore"):
        yield


def derivatives(fun: Any, at: np.ndarray, order: int) -> list[np.ndarray]:
    """Derivatives 1 ... order of an elementwise function."""
    found = []
    for _ in range(order):
        fun = lambda v, f=fun: tg.jvp(f, (v,), (jnp.ones_like(v),))[1]
        found.append(np.asarray(fun(jnp.asarray(at))))
    return found


def exact(fun: Any, at: float, order: int) -> float:
    with mpmath.workdps(40):
        return float(mpmath.diff(fun, mpmath.mpf(at), order, h=mpmath.mpf(10) ** -9))


GAMMA = [
    (a, x)
    for a in (0.03, 0.5, 1.0, 7.0, 150.0)
    for x in (1e-5, 0.01, 0.3, a, 0.8 * a, 1.02 * a, 2 * a, 2 * a + 3)
    if a < 100 or x > 10
]
BETA = [
    (a, b, x)
    for a in (0.3, 1.0, 5.0, 80.0)
    for b in (0.02, 1.0, 5.0, 30.0)
    for x in (1e-4, 0.3, 0.97, a / (a + b), 0.9 * a / (a + b))
]


def check(found: list[np.ndarray], expected: list[list[float]], rtol: float) -> None:
    for order, (got, want) in enumerate(zip(found, expected, strict=True), start=1):
        # Deep in a tail the derivatives of second and third order are differences of larger terms.
        np.testing.assert_allclose(got, want, rtol=rtol * 10 ** (order - 1), atol=1e-12, err_msg=f"derivative {order}")


@pytest.mark.parametrize("fun", [gammainc, gammaincc])
def test_gamma_in_its_parameter(fun: Any) -> None:
    a, x = np.array(GAMMA).T
    sign = 1 if fun is gammainc else -1
    expected = [
        [sign * exact(lambda v, x=x: mpmath.gammainc(v, 0, x, regularized=True), a, k) for a, x in GAMMA] for k in (1, 2, 3)
    ]
    check(derivatives(lambda v: fun(v, x), a, 3), expected, 1e-9)


def test_beta_in_its_parameters() -> None:
    a, b, x = np.array(BETA).T
    in_a = [[exact(lambda v, b=b, x=x: mpmath.betainc(v, b, 0, x, regularized=True), a, k) for a, b, x in BETA] for k in (1, 2)]
    check(derivatives(lambda v: betainc(v, b, x), a, 2), in_a, 1e-9)
    in_b = [[exact(lambda v, a=a, x=x: mpmath.betainc(a, v, 0, x, regularized=True), b, k) for a, b, x in BETA] for k in (1, 2)]
    check(derivatives(lambda v: betainc(a, v, x), b, 2), in_b, 1e-9)


def test_mixed_derivatives_do_not_depend_on_their_order() -> None:
    args = (2.5, 1.5, 0.3)
    hessian = np.array(tg.hessian(betainc, argnums=(0, 1, 2))(*args))
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-9)
    hessian = np.array(tg.jit(tg.hessian(gammainc, argnums=(0, 1)))(2.5, 1.7))
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-9)
    np.testing.assert_allclose(tg.jacfwd(tg.jacfwd(gammainc))(2.5, 1.7), hessian[0, 0], rtol=1e-9)


def test_ends_of_the_range() -> None:
    for x in (0.0, np.inf):
        assert all(d == 0 for d in derivatives(lambda a: gammainc(a, x), np.float64(2), 2))  # noqa: B023
    for x in (0.0, 1.0):
        assert all(d == 0 for d in derivatives(lambda a: betainc(a, 3.0, x), np.float64(2), 2))  # noqa: B023
        assert tg.grad(betainc, 1)(2.0, 3.0, x) == 0
    assert np.isnan(tg.grad(betainc)(-1.0, 2.0, 0.5))
    assert np.isnan(tg.grad(betainc)(1.0, 2.0, np.nan))
    assert np.isnan(tg.grad(tg.grad(gammainc))(-1.0, 2.0))


def test_in_single_and_half_precision() -> None:
    expected = float(tg.grad(betainc)(2.5, 1.5, 0.3))
    for dtype, rtol in ((np.float32, 2e-5), (np.float16, 1e-2)):
        got = tg.grad(betainc)(*[dtype(v) for v in (2.5, 1.5, 0.3)])
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=rtol)


def test_second_derivative_of_a_gamma_sample_in_its_shape() -> None:
    """x(a) with P(a, x(a)) = 1/3: its derivatives by differences of the inverse function."""
    from scipy.special import gammaincinv

    a, level, h = 2.3, 1 / 3, 1e-3
    values = [gammaincinv(a + k * h, level) for k in (-2, -1, 0, 1, 2)]
    first = (values[0] - 8 * values[1] + 8 * values[3] - values[4]) / (12 * h)
    second = (-values[0] + 16 * values[1] - 30 * values[2] + 16 * values[3] - values[4]) / (12 * h * h)
    rate = lambda a, x: tg.lax.random_gamma_grad(a, x)
    np.testing.assert_allclose(rate(a, values[2]), first, rtol=1e-9)
    # The total derivative of x'(a) = rate(a, x(a)).
    np.testing.assert_allclose(tg.grad(rate)(a, values[2]) + tg.grad(rate, 1)(a, values[2]) * first, second, rtol=1e-6)
