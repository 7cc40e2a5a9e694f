"""Matrices with a pattern: Toeplitz, Hankel, block diagonal, ..."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.lax.operands import as_dtype
from tracegrad.numpy.promotion import promote_inexact


def block_diag(*arrs: Any) -> Any:
    """The block diagonal matrix of these matrices; vectors are rows, scalars 1 by 1."""
    if not arrs:
        return jnp.zeros((1, 0))
    dtype = jnp.result_type(*arrs)
    blocks = [jnp.asarray(a, dtype) for a in arrs]
    for i, b in enumerate(blocks):
        if b.ndim > 2:
            raise ValueError(f"Arguments to block_diag must have at most 2 dimensions, got {arrs[i]} at argument {i}.")
    blocks = [jnp.atleast_2d(b) for b in blocks]
    width, start, rows = sum(b.shape[1] for b in blocks), 0, []
    for b in blocks:
        n = b.shape[1]
        rows.append(ops.pad(b, dtype.type(0), ((0, 0, 0), (start, width - n - start, 0))))
        start += n
    return jnp.concatenate(rows, axis=0)


def _rows_of(vector: Any, index: np.ndarray) -> Any:
    return jnp.take(vector, jnp.asarray(index), axis=-1)


def toeplitz(c: Any, r: Any = None) -> Any:
    """The matrix constant along diagonals with first column c and first row r (default: c's conjugate)."""
    c = jnp.atleast_1d(jnp.asarray(c))
    r = jnp.conj(c) if r is None else jnp.atleast_1d(jnp.asarray(r))
    m, n = c.shape[-1], r.shape[-1]
    # The diagonals in order, from the lower left to the upper right.
    batch = jnp.broadcast_shapes(c.shape[:-1], r.shape[:-1])
    c, r = jnp.broadcast_to(c, (*batch, m)), jnp.broadcast_to(r, (*batch, n))
    diagonals = jnp.concatenate([jnp.flip(c, -1), r[..., 1:]], axis=-1)
    return _rows_of(diagonals, (m - 1) - np.arange(m)[:, None] + np.arange(n)[None, :])


def hankel(c: Any, r: Any = None) -> Any:
    """The matrix constant along anti-diagonals with first column c and last row r (default: zeros)."""
    c = jnp.atleast_1d(jnp.asarray(c)).ravel()
    r = jnp.zeros_like(c) if r is None else jnp.atleast_1d(jnp.asarray(r)).ravel()
    m, n = c.shape[0], r.shape[0]
    return _rows_of(jnp.concatenate([c, r[1:]]), np.arange(m)[:, None] + np.arange(n)[None, :])


def circulant(c: Any) -> Any:
    """The matrix whose columns are c, rotated down by one each."""
    c = jnp.asarray(c)
    n = c.shape[-1]
    return _rows_of(c, (np.arange(n)[:, None] - np.arange(n)[None, :]) % n)


def companion(a: Any) -> Any:
    """The companion matrix of a polynomial."""
    (a,) = promote_inexact("companion", a)
    n = type_of(a).shape[-1]
    if type_of(a).ndim != 1 or n < 2:
        raise ValueError(f"companion: the argument must be a vector of at least 2 coefficients, got shape {type_of(a).shape}")
    return jnp.concatenate([(-a[1:] / a[0])[None], jnp.eye(n - 2, n - 1, dtype=type_of(a).dtype)])


def dft(n: int, scale: str | None = None, *, dtype: Any = None) -> Any:
    """The matrix of the discrete Fourier transform; scale: None, "sqrtn" or "n"."""
    n = operator.index(n)
    factors = {None: 1.0, "sqrtn": 1 / math.sqrt(n), "n": 1 / n}
    if scale not in factors:
        raise ValueError(f"scale must be None, 'sqrtn', or 'n'; got {scale!r}.")
    dtype = dtypes.complex_dtype() if dtype is None else as_dtype(dtype)
    k = np.arange(n)
    return jnp.asarray(np.exp(-2j * np.pi * (np.outer(k, k) % n) / n) * factors[scale], dtype)


def hilbert(n: int) -> Any:
    """The Hilbert matrix, 1 / (i + j + 1)."""
    k = np.arange(operator.index(n))
    return jnp.asarray(1.0 / (k[:, None] + k[None, :] + 1), dtypes.float_dtype())


def pascal(n: int, kind: str | None = None) -> Any:
    """The matrix of binomial coefficients; kind: "symmetric", "lower" or "upper"."""
    n = operator.index(n)
    if kind not in (None, "symmetric", "lower", "upper"):
        raise ValueError(f"Expected kind to be on of: 'symmetric', 'lower', 'upper'; got {kind}")
    lower = np.array([[math.comb(i, j) for j in range(n)] for i in range(n)], dtype=np.float64).reshape(n, n)
    out = {"lower": lower, "upper": lower.T}.get(kind or "symmetric", lower @ lower.T)
    return jnp.asarray(out, dtypes.float_dtype())
