"""Determinants and their derivatives to third order, also of singular matrices of every rank."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad.experimental.jet import jet
from tracegrad.ir.config import config


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True):
        yield


def of_rank(n: int, rank: int, dtype: Any = float, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng([n, rank, seed])
    draw = lambda *shape: r.normal(size=shape) + (1j * r.normal(size=shape) if dtype is complex else 0)
    return draw(n, rank) @ draw(rank, n)


def polynomial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The coefficients of det(a + t b) in t: sums over the subsets of rows that are taken from b."""
    n = len(a)
    found = np.zeros(n + 1, np.result_type(a, b))
    for k in range(n + 1):
        for rows in itertools.combinations(range(n), k):
            found[k] += np.linalg.det(np.where(np.isin(np.arange(n), rows)[:, None], b, a))
    return found


CASES = [
    (n, rank, dtype) for n in (4, 5, 6) for rank in (n, n - 1, n - 2, n - 3, n - 4, 0) for dtype in (float, complex) if rank >= 0
]


@pytest.mark.parametrize(("n", "rank", "dtype"), CASES)
def test_series_along_a_line(n: int, rank: int, dtype: Any) -> None:
    a, b = of_rank(n, rank, dtype), of_rank(n, n, dtype, 1)
    exact = polynomial(a, b)
    value, terms = jet(jnp.linalg.det, (a,), ([b, np.zeros_like(b), np.zeros_like(b)],), factorial_scaled=False)
    np.testing.assert_allclose([value, *terms], exact[:4], rtol=1e-9, atol=1e-9 * np.abs(exact).max())


@pytest.mark.parametrize(("n", "rank"), [(4, 2), (5, 5), (5, 4), (6, 4), (6, 2)])
def test_every_way_to_differentiate_agrees(n: int, rank: int) -> None:
    det = jnp.linalg.det
    a, b = of_rank(n, rank), of_rank(n, n, seed=1)
    exact = polynomial(a, b) * [1, 1, 2, 6, *[0] * (n - 3)]
    scale = np.abs(polynomial(a, b)).max()
    close = lambda x, k: np.testing.assert_allclose(x, exact[k], rtol=1e-8, atol=1e-8 * scale)
    slope = lambda a: jnp.sum(tg.grad(det)(a) * b)
    curvature = lambda a: tg.jvp(slope, (a,), (b,))[1]
    close(slope(a), 1)
    close(tg.jit(slope)(a), 1)
    close(tg.jvp(det, (a,), (b,))[1], 1)
    close(curvature(a), 2)
    close(tg.jit(curvature)(a), 2)
    close(jnp.sum(tg.grad(slope)(a) * b), 2)
    close(jnp.sum(tg.grad(curvature)(a) * b), 3)


def test_batches_of_regular_and_singular_matrices() -> None:
    batch = np.stack([of_rank(5, rank) for rank in (5, 4, 3, 2, 1, 0)])
    b = of_rank(5, 5, seed=1)
    exact = np.array([polynomial(a, b)[1:4] * [1, 2, 6] for a in batch])
    close = lambda x, k: np.testing.assert_allclose(x, exact[:, k - 1], rtol=1e-8, atol=1e-8 * np.abs(exact).max())
    slope = lambda a: jnp.sum(tg.grad(lambda a: jnp.sum(jnp.linalg.det(a)))(a) * b, axis=(-2, -1))
    close(slope(batch), 1)
    close(tg.jit(tg.vmap(slope))(batch), 1)
    close(tg.jvp(slope, (batch,), (np.broadcast_to(b, batch.shape),))[1], 2)
    close(tg.vmap(lambda a: jnp.sum(tg.grad(slope)(a) * b))(batch), 2)
    close(tg.vmap(lambda a: jnp.sum(tg.grad(lambda a: tg.jvp(slope, (a,), (b,))[1])(a) * b))(batch), 3)


def test_beyond_what_is_known_is_not_a_number() -> None:
    """The fourth derivative at a matrix whose rank is four less than full is not zero, and is not given as if it were."""
    _, terms = jet(jnp.linalg.det, (np.zeros((5, 5)),), ([np.eye(5), *[np.zeros((5, 5))] * 3],))
    assert [float(t) for t in terms[:3]] == [0, 0, 0] and not np.isfinite(terms[3])


def test_determinants_of_every_size_and_of_batches() -> None:
    for n in (0, 1, 2, 3, 4, 5, 9):
        a = of_rank(n, n)
        np.testing.assert_allclose(jnp.linalg.det(a), np.linalg.det(a), rtol=1e-12)
        np.testing.assert_allclose(tg.jit(jnp.linalg.det)(np.stack([a, 2 * a])), np.linalg.det(np.stack([a, 2 * a])), rtol=1e-12)
