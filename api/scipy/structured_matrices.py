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


def invpascal(n: int, kind: str | None = None) -> Any:
    """The inverse of `pascal`, of whole numbers; kind as there."""
    n = operator.index(n)
    if kind not in (None, "symmetric", "lower", "upper"):
        raise ValueError(f"Expected kind to be on of: 'symmetric', 'lower', 'upper'; got {kind}")
    lower = np.array([[(-1) ** (i + j) * math.comb(i, j) for j in range(n)] for i in range(n)], dtype=np.float64).reshape(n, n)
    out = {"lower": lower, "upper": lower.T}.get(kind or "symmetric", lower.T @ lower)
    return jnp.asarray(out, dtypes.float_dtype())


def invhilbert(n: int) -> Any:
    """The inverse of `hilbert`, of whole numbers, rounded to the floating-point type."""
    n = operator.index(n)
    entry = lambda i, j: (  # noqa: E731
        (-1) ** (i + j) * (i + j + 1) * math.comb(n + i, n - j - 1) * math.comb(n + j, n - i - 1) * math.comb(i + j, i) ** 2
    )
    return jnp.asarray(np.array([[float(entry(i, j)) for j in range(n)] for i in range(n)]).reshape(n, n), dtypes.float_dtype())


def hadamard(n: int, dtype: Any = int) -> Any:
    """The Hadamard matrix of Sylvester's construction, (n, n) for a power of two, of ones and minus ones."""
    n = operator.index(n)
    if n < 1 or n & (n - 1):
        raise ValueError(f"hadamard: n must be a power of two, got {n}")
    out = np.ones((1, 1), np.int8)
    while out.shape[0] < n:
        out = np.block([[out, out], [out, -out]])
    return jnp.asarray(out, as_dtype(dtype))


def helmert(n: int, full: bool = False) -> Any:
    """The Helmert matrix, (n - 1, n) with orthonormal rows that sum to zero; full: with a first row of equal elements, (n, n)."""
    n = operator.index(n)
    rows = np.arange(n)[:, None]
    columns = np.arange(n)[None, :]
    scale = np.sqrt(np.maximum(rows * (rows + 1), 1))
    out = np.where(columns < rows, 1.0, np.where(columns == rows, -rows, 0.0)) / scale
    out[0] = 1 / math.sqrt(n)
    return jnp.asarray(out if full else out[1:], dtypes.float_dtype())


def leslie(f: Any, s: Any) -> Any:
    """The matrix of a population's growth: (n, n), with n fecundities as first row and n - 1 survival rates below the diagonal."""
    f, s = promote_inexact("leslie", jnp.asarray(f), jnp.asarray(s))
    if f.ndim != 1 or s.ndim != 1 or f.shape[0] != s.shape[0] + 1 or s.shape[0] == 0:
        raise ValueError(f"leslie: f must be a vector one longer than s, which is not empty, got shapes {f.shape} and {s.shape}")
    return jnp.concatenate([f[None], jnp.eye(s.shape[0], f.shape[0], dtype=f.dtype) * s[:, None]])


def fiedler(a: Any) -> Any:
    """The matrix |a[i] - a[j]|, symmetric, (..., n, n)."""
    a = jnp.atleast_1d(jnp.asarray(a))
    return jnp.abs(a[..., :, None] - a[..., None, :])


def fiedler_companion(a: Any) -> Any:
    """A pentadiagonal matrix with the polynomial's zeros as eigenvalues: coefficients (n,), highest power first, give (n - 1, n - 1)."""
    (a,) = promote_inexact("fiedler_companion", jnp.asarray(a))
    if a.ndim != 1:
        raise ValueError(f"fiedler_companion: the argument must be a vector of coefficients, got shape {a.shape}")
    n = a.shape[0] - 1
    if n < 1:
        return jnp.zeros((0, 0), a.dtype)
    c = -a[1:] / a[0]
    out = jnp.zeros((n, n), a.dtype).at[0, 0].set(c[0])
    for k in range(1, n):
        # The k-th coefficient stands beside the diagonal, in an even place right of it and in an odd one above, with its one two away.
        if k % 2:
            out = out.at[k - 1, k].set(c[k]).at[k, max(k - 2, 0)].set(1)
        else:
            out = out.at[k, k - 1].set(c[k]).at[k - 2, k].set(1)
    return out


def convolution_matrix(a: Any, n: int, mode: str = "full") -> Any:
    """The Toeplitz matrix T with T @ v = jnp.convolve(a, v, mode) for vectors v of n elements; a: (..., m)."""
    n = operator.index(n)
    if n <= 0:
        raise ValueError(f"convolution_matrix: n must be positive, got {n}")
    if mode not in ("full", "same", "valid"):
        raise ValueError(f"convolution_matrix: mode is 'full', 'same' or 'valid', got {mode!r}")
    a = jnp.asarray(a)
    m = a.shape[-1] if a.ndim else 0
    if m == 0:
        raise ValueError(f"convolution_matrix: the argument must have elements, got shape {a.shape}")
    full = m + n - 1
    index = np.arange(full)[:, None] - np.arange(n)[None, :]
    padded = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 1)])
    out = _rows_of(padded, np.where((index >= 0) & (index < m), index, m))
    if mode == "same":
        size, start = max(m, n), (min(m, n) - 1) // 2
        return out[..., start : start + size, :]
    if mode == "valid":
        size, start = max(m, n) - min(m, n) + 1, min(m, n) - 1
        return out[..., start : start + size, :]
    return out
