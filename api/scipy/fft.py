"""Discrete cosine transforms, under the names of `jax.scipy.fft`.

By one FFT of the same length, of the elements at even places and then those at odd places backwards: Makhoul, "A fast cosine transform in
one and two dimensions", IEEE Trans. ASSP 28 (1980). Fourier transforms proper are in `tracegrad.numpy.fft`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.lax.structural import slice_in_dim

_NORMS = (None, "backward", "ortho", "forward")


def dct(x: Any, type: int = 2, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The cosine transform of type II along an axis: y[k] = 2 sum_m x[m] cos(pi k (2 m + 1) / (2 n)), a real array of x's shape.

    x: real, integers become floating-point. n: the axis is cut or padded with zeros to this length. norm: "ortho" makes the transform
    orthogonal, "forward" divides by 2 n. Raises NotImplementedError for other types, ValueError for complex input.
    """
    return _along(_forward, "dct", x, type, None if n is None else (n,), (axis,), norm)


def idct(x: Any, type: int = 2, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The inverse of `dct` with the same arguments."""
    return _along(_inverse, "idct", x, type, None if n is None else (n,), (axis,), norm)


def dctn(
    x: Any, type: int = 2, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str | None = None
) -> Any:
    """`dct` along several axes, all by default (the last `len(s)` if s is given); s: their lengths."""
    return _along(_forward, "dctn", x, type, s, axes, norm)


def idctn(
    x: Any, type: int = 2, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str | None = None
) -> Any:
    """The inverse of `dctn` with the same arguments."""
    return _along(_inverse, "idctn", x, type, s, axes, norm)


def _along(one: Callable[..., Any], name: str, x: Any, type: int, s: Any, axes: Any, norm: Any) -> Any:
    if type != 2:
        raise NotImplementedError(f"{name}: only the transform of type 2 is supported, got type={type!r}")
    if norm not in _NORMS:
        raise ValueError(f"{name}: norm should be 'backward', 'ortho' or 'forward', got {norm!r}")
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        raise ValueError(f"{name} requires real input, got an array of dtype {x.dtype}; transform x.real and x.imag")
    if not jnp.issubdtype(x.dtype, np.floating):
        x = x.astype(jnp.result_type(x, float))
    if axes is None:
        axes = range(x.ndim) if s is None else range(x.ndim - len(s), x.ndim)
    axes = [int(a) for a in axes]
    if s is not None and len(s) != len(axes):
        raise ValueError(f"{name}: s and axes must have the same length, got {tuple(s)} and {tuple(axes)}")
    for i, axis in enumerate(axes):
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"{name}: axis {axis} is out of bounds for an array of shape {x.shape}")
        length = x.shape[axis] if s is None else int(s[i])
        if length < 1:
            raise ValueError(f"{name}: invalid number of data points specified: {length}")
        x = jnp.moveaxis(one(_fit(jnp.moveaxis(x, axis, -1), length), norm), -1, axis)
    return x


def _fit(x: Any, n: int) -> Any:
    if x.shape[-1] >= n:
        return slice_in_dim(x, 0, n, axis=-1)
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n - x.shape[-1])])


def _scales(n: int, norm: str | None, dtype: Any) -> np.ndarray:
    """What the plain sums are multiplied by, forwards."""
    scales = np.full(n, {"forward": 1.0 / n, "ortho": math.sqrt(2.0 / n)}.get(norm or "", 2.0))
    if norm == "ortho":
        scales[0] = math.sqrt(1.0 / n)
    return scales.astype(dtype)


def _turn(n: int, dtype: Any) -> np.ndarray:
    return np.exp(-0.5j * np.pi * np.arange(n) / n).astype(np.result_type(dtype, np.complex64))


def _forward(x: Any, norm: str | None) -> Any:
    n = x.shape[-1]
    halves = jnp.concatenate([x[..., ::2], x[..., 1::2][..., ::-1]], -1)
    return ((jnp.fft.fft(halves) * _turn(n, x.dtype)).real * _scales(n, norm, x.dtype)).astype(x.dtype)


def _inverse(y: Any, norm: str | None) -> Any:
    n = y.shape[-1]
    y = y / _scales(n, norm, y.dtype)
    # The spectrum's real part after the turn is y; it is that of a real sequence, so y backwards is the imaginary part.
    mirrored = jnp.concatenate([jnp.zeros_like(y[..., :1]), y[..., :0:-1]], -1)
    spectrum = (y - 1j * mirrored).astype(np.result_type(y.dtype, np.complex64)) * _turn(n, y.dtype).conj()
    halves = jnp.fft.ifft(spectrum).real.astype(y.dtype)
    even, odd = halves[..., : (n + 1) // 2], halves[..., (n + 1) // 2 :][..., ::-1]
    x = jnp.zeros_like(y)
    return x.at[..., ::2].set(even).at[..., 1::2].set(odd)
