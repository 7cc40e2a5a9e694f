"""Derivatives of factorizations, real and complex, by what does not depend on signs and phases of vectors.

Samples in test_primitives.py compare vectors as they come, which differences can do for real ones only. Here the projectors and
products that vectors make are compared: with differences along a curve of matrices, to third order, and in reverse mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.experimental.jet import jet
from tracegrad.ir.config import config


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True):
        yield


def adjoint(x: Any) -> Any:
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def hermitian(x: Any) -> Any:
    return x + adjoint(x)


def eigh(a: Any) -> Any:
    w, v = jnp.linalg.eigh(hermitian(a))
    return w, jnp.einsum("ik,jk->kij", v, jnp.conj(v))


def svd(a: Any) -> Any:
    u, s, vh = jnp.linalg.svd(a, full_matrices=False)
    return s, jnp.einsum("ik,kj->kij", u, vh), jnp.einsum("ik,jk->kij", u, jnp.conj(u))


def qr(a: Any) -> Any:
    q, r = jnp.linalg.qr(a)
    return jnp.einsum("ik,jk->kij", q, jnp.conj(q)), jnp.abs(r), q @ r


def eig(a: Any) -> Any:
    w, v = jnp.linalg.eig(a)
    order = np.argsort(np.asarray(lax.stop_gradient(w)).real)
    return w[order], jnp.einsum("ik,kj->kij", v, jnp.linalg.inv(v))[order]


def cholesky(a: Any) -> Any:
    return jnp.linalg.cholesky(a @ adjoint(a))


def lu(a: Any) -> Any:
    return lax.linalg.lu(a)[0]


CASES: list[tuple[Callable[[Any], Any], tuple[int, int]]] = [
    (eigh, (3, 3)), (svd, (3, 3)), (svd, (4, 3)), (svd, (3, 4)), (qr, (3, 3)), (qr, (4, 3)), (qr, (3, 4)),
    (cholesky, (3, 3)), (lu, (3, 3)), (lu, (4, 3)),
]  # fmt: skip


def draw(dtype: Any, shape: tuple[int, int], salt: int) -> np.ndarray:
    r = np.random.default_rng([*shape, salt])
    x = r.uniform(-1, 1, shape) + (1j * r.uniform(-1, 1, shape) if dtype is complex else 0)
    return x + np.diag(np.arange(max(shape), 0, -1.0))[: shape[0], : shape[1]] * (salt == 0)


def parts(x: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in tg.tree_util.tree_leaves(x)]


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize(("fun", "shape"), [*CASES, (eig, (3, 3))], ids=lambda c: getattr(c, "__name__", str(c)))
def test_series_along_a_curve(fun: Callable[[Any], Any], shape: tuple[int, int], dtype: Any) -> None:
    start, *terms = [draw(dtype, shape, salt) for salt in range(4)]

    def at(t: float) -> np.ndarray:
        return start + t * terms[0] + t**2 * terms[1] + t**3 * terms[2]

    def coefficients(t: float) -> list[list[np.ndarray]]:
        """Those of the curve of results, seen from the time t."""
        moved = [terms[0] + 2 * t * terms[1] + 3 * t**2 * terms[2], terms[1] + 3 * t * terms[2], terms[2]]
        value, series = jet(fun, (at(t),), (moved,), factorial_scaled=False)
        leaves = tg.tree_util.tree_leaves(series)
        return [parts(value), *[parts(leaves[k::3]) for k in range(3)]]

    # Each coefficient is a derivative of the one before it: k c_k = c_(k-1)'.
    h = 2e-3
    here = coefficients(0.0)
    around = [coefficients(k * h) for k in (-2, -1, 1, 2)]
    for order in (1, 2, 3):
        for i, found in enumerate(here[order]):
            a, b, c, d = [rows[order - 1][i] for rows in around]
            expected = (a - 8 * b + 8 * c - d) / (12 * h) / order
            np.testing.assert_allclose(found, expected, atol=1e-7 * (1 + np.abs(expected).max()), err_msg=f"{order}, result {i}")


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize(("fun", "shape"), CASES, ids=lambda c: getattr(c, "__name__", str(c)))
def test_reverse_mode_is_the_transpose(fun: Callable[[Any], Any], shape: tuple[int, int], dtype: Any) -> None:
    a, t = draw(dtype, shape, 0), draw(dtype, shape, 1)

    def number(a: Any) -> Any:
        leaves = tg.tree_util.tree_leaves(fun(a))
        weights = [np.cos(np.arange(x.size) + 0.3).reshape(x.shape) for x in leaves]
        return sum(
            jnp.sum(jnp.real(x * w) + (jnp.imag(x) * w[::-1] if jnp.iscomplexobj(x) else 0)) for x, w in zip(leaves, weights)
        )

    # A gradient of a real function of complex numbers is the conjugate of its direction of ascent.
    slope = lambda a: jnp.sum(jnp.real(tg.grad(number)(a) * t))
    rate = lambda a: tg.jvp(number, (a,), (t,))[1]
    np.testing.assert_allclose(slope(a), rate(a), rtol=1e-9)
    curvature = tg.jvp(rate, (a,), (t,))[1]
    np.testing.assert_allclose(tg.jvp(slope, (a,), (t,))[1], curvature, rtol=1e-8)
    np.testing.assert_allclose(jnp.sum(jnp.real(tg.grad(slope)(a) * t)), curvature, rtol=1e-8)
