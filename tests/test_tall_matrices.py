"""QR and SVD of tall matrices, which are transposed for LAPACK, beside those of wide ones, which are not."""

from __future__ import annotations

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp

SHAPES = [(7, 3), (130, 130), (200, 20), (600, 9), (3, 40, 17), (20, 200), (2, 17, 40), (19, 19), (5, 1), (1, 5)]


def matrix(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    x = rng.normal(size=shape)
    return (x + 1j * rng.normal(size=shape) if dtype.startswith("c") else x).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("shape", SHAPES)
def test_factors(shape, dtype):
    x = matrix(shape, dtype)
    near = {"rtol": 0, "atol": (2e-5 if dtype in ("float32", "complex64") else 1e-13) * max(shape) ** 0.5 * 2}
    with tg.enable_x64(True):
        q, r = (np.asarray(v) for v in tg.jit(jnp.linalg.qr)(x))
        full_q, full_r = (np.asarray(v) for v in tg.jit(lambda x: jnp.linalg.qr(x, mode="complete"))(x))
        u, s, vh = (np.asarray(v) for v in tg.jit(lambda x: jnp.linalg.svd(x, full_matrices=False))(x))
        full_u, _, full_vh = (np.asarray(v) for v in tg.jit(jnp.linalg.svd)(x))
        alone = np.asarray(tg.jit(lambda x: jnp.linalg.svd(x, compute_uv=False))(x))
    np.testing.assert_allclose(q @ r, x, **near)
    np.testing.assert_allclose(full_q @ full_r, x, **near)
    assert np.array_equal(r, np.triu(r)) and np.array_equal(full_r, np.triu(full_r))
    np.testing.assert_allclose((u * s[..., None, :]) @ vh, x, **near)
    for basis in (q, full_q, u, full_u, vh.conj().swapaxes(-1, -2), full_vh):
        np.testing.assert_allclose(
            basis.conj().swapaxes(-1, -2) @ basis,
            np.broadcast_to(np.eye(basis.shape[-1]), (*x.shape[:-2], *[basis.shape[-1]] * 2)),
            **near,
        )
    np.testing.assert_allclose(s, np.linalg.svd(x, compute_uv=False), **near)
    np.testing.assert_allclose(alone, s, **near)
    count = s.shape[-1]
    np.testing.assert_allclose(full_u[..., :count] @ (s[..., None] * full_vh[..., :count, :]), x, **near)


def test_what_is_not_finite():
    x = matrix((40, 6), "float32")
    x[3, 2] = np.nan
    for factor in tg.jit(lambda x: jnp.linalg.svd(x, full_matrices=False))(x):
        assert np.isnan(factor).all()
