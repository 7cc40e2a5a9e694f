"""Convolutions, correlations and trends of signals of any dimension, under the names of `jax.scipy.signal`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.lax.structural import slice_in_dim
from tracegrad.numpy.promotion import promote_inexact

_MODES = ("full", "same", "valid")


def _operands(name: str, in1: Any, in2: Any, mode: str) -> tuple[Any, Any]:
    if mode not in _MODES:
        raise ValueError(f"{name}: mode is 'full', 'same' or 'valid', got {mode!r}")
    x, y = promote_inexact(name, jnp.asarray(in1), jnp.asarray(in2))
    if x.ndim != y.ndim:
        raise ValueError(f"{name}: both signals must have the same number of dimensions, got shapes {x.shape} and {y.shape}")
    if x.size == 0 or y.size == 0:
        raise ValueError(f"{name}: signals cannot be empty, got shapes {x.shape} and {y.shape}")
    return x, y


def _part(name: str, mode: str, n: Sequence[int], m: Sequence[int]) -> list[tuple[int, int]]:
    """First index and size, along each axis, of what a mode keeps of the full convolution of sizes n and m."""
    if mode == "full":
        return [(0, a + b - 1) for a, b in zip(n, m)]
    if mode == "same":
        return [((b - 1) // 2, a) for a, b in zip(n, m)]
    if not (all(a >= b for a, b in zip(n, m)) or all(a <= b for a, b in zip(n, m))):
        raise ValueError(
            f"{name}: for mode 'valid' one signal must be at least as large as the other in every dimension, got {n} and {m}"
        )
    return [(min(a, b) - 1, abs(a - b) + 1) for a, b in zip(n, m)]


def _direct(name: str, x: Any, y: Any, mode: str) -> Any:
    part = _part(name, mode, x.shape, y.shape)
    if x.size < y.size:
        x, y = y, x
    padding = [(m - 1 - start, size - n + start) for (start, size), n, m in zip(part, x.shape, y.shape)]
    dimensions = range(x.ndim)
    out = ops.conv_general_dilated(
        ops.reshape(x, (1, 1, *x.shape)), ops.reshape(ops.rev(y, tuple(dimensions)), (1, 1, *y.shape)), (1,) * x.ndim, padding
    )
    return ops.reshape(out, type_of(out).shape[2:])


def convolve(in1: Any, in2: Any, mode: str = "full", method: str = "auto", precision: Any = None) -> Any:
    """The convolution of two signals of one dimension count, in their common floating-point or complex dtype.

    mode: "full" (of n + m - 1 elements along an axis), "same" (in1's shape, the middle of the full one), "valid" (where they overlap wholly).
    method: "direct" and "auto" sum products, "fft" goes through Fourier transforms, which pays for long signals of similar lengths.
    precision is accepted and ignored. Raises ValueError for shapes that do not fit.
    """
    if method == "fft":
        return fftconvolve(in1, in2, mode)
    if method not in ("auto", "direct"):
        raise ValueError(f"convolve: method is 'auto', 'direct' or 'fft', got {method!r}")
    x, y = _operands("convolve", in1, in2, mode)
    return _direct("convolve", x, y, mode)


def correlate(in1: Any, in2: Any, mode: str = "full", method: str = "auto", precision: Any = None) -> Any:
    """The correlation of two signals: the convolution of in1 with in2 turned around and conjugated; arguments as for `convolve`."""
    y = jnp.asarray(in2)
    return convolve(in1, jnp.conj(jnp.flip(y)), mode, method, precision)


def _padded(name: str, x: Any, y: Any, mode: str, boundary: str, fillvalue: Any) -> Any:
    """A plane convolved with what lies around it."""
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(f"{name}: both signals must have two dimensions, got shapes {x.shape} and {y.shape}")
    kinds = {"fill": "constant", "wrap": "wrap", "symm": "symmetric"}
    if boundary not in kinds:
        raise ValueError(f"{name}: boundary is 'fill', 'wrap' or 'symm', got {boundary!r}")
    if mode == "valid" or (boundary == "fill" and isinstance(fillvalue, (int, float)) and fillvalue == 0):
        return _direct(name, x, y, mode)
    options = {"constant_values": fillvalue} if boundary == "fill" else {}
    around = jnp.pad(x, [(m - 1, m - 1) for m in y.shape], kinds[boundary], **options)
    out = _direct(name, around, y, "valid")
    for axis, (start, size) in enumerate(_part(name, mode, x.shape, y.shape)):
        out = slice_in_dim(out, start, start + size, axis=axis)
    return out


def convolve2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0, precision: Any = None) -> Any:
    """The convolution of two matrices. boundary: what lies around in1: "fill" (fillvalue), "wrap" or "symm" (mirrored at its edge)."""
    x, y = _operands("convolve2d", in1, in2, mode)
    return _padded("convolve2d", x, y, mode, boundary, fillvalue)


def correlate2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0, precision: Any = None) -> Any:
    """The correlation of two matrices; arguments as for `convolve2d`."""
    x, y = _operands("correlate2d", in1, in2, mode)
    if mode == "same":
        # Of an even number of rows in the middle, this takes the later one where `convolve2d` takes the earlier.
        full = _padded("correlate2d", x, jnp.conj(jnp.flip(y)), "full", boundary, fillvalue)
        for axis, (n, m) in enumerate(zip(x.shape, y.shape)):
            full = slice_in_dim(full, m // 2, m // 2 + n, axis=axis)
        return full
    if mode == "valid" and any(n < m for n, m in zip(x.shape, y.shape)):
        # SciPy and JAX conjugate the smaller of the two, also where it comes first.
        return _padded("correlate2d", jnp.conj(x), jnp.flip(y), mode, boundary, fillvalue)
    return _padded("correlate2d", x, jnp.conj(jnp.flip(y)), mode, boundary, fillvalue)


def fftconvolve(in1: Any, in2: Any, mode: str = "full", axes: Sequence[int] | int | None = None) -> Any:
    """The convolution of two signals along axes (all by default), by Fourier transforms; along other axes they broadcast.

    mode and dtype as for `convolve`; rounding errors are relative to the largest elements.
    """
    x, y = _operands("fftconvolve", in1, in2, mode)
    if axes is None:
        axes = range(x.ndim)
    elif isinstance(axes, int):
        axes = (axes,)
    axes = sorted({int(a) % x.ndim if -x.ndim <= int(a) < x.ndim else int(a) for a in axes})
    if any(not 0 <= a < x.ndim for a in axes):
        raise ValueError(f"fftconvolve: axes {axes} do not fit signals of {x.ndim} dimensions")
    for a in range(x.ndim):
        if a not in axes and x.shape[a] != y.shape[a] and 1 not in (x.shape[a], y.shape[a]):
            raise ValueError(f"fftconvolve: shapes {x.shape} and {y.shape} do not fit along axis {a}")
    part = _part("fftconvolve", mode, [x.shape[a] for a in axes], [y.shape[a] for a in axes])
    if not axes:
        return x * y
    lengths = [_quick(x.shape[a] + y.shape[a] - 1) for a in axes]
    if jnp.iscomplexobj(x):
        out = jnp.fft.ifftn(jnp.fft.fftn(x, lengths, axes) * jnp.fft.fftn(y, lengths, axes), lengths, axes)
    else:
        out = jnp.fft.irfftn(jnp.fft.rfftn(x, lengths, axes) * jnp.fft.rfftn(y, lengths, axes), lengths, axes)
    for a, (start, size) in zip(axes, part):
        out = slice_in_dim(out, start, start + size, axis=a)
    return out.astype(x.dtype)


def _quick(n: int) -> int:
    """The least length from n up without prime factors above 5."""
    while True:
        rest = n
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 1


def detrend(data: Any, axis: int = -1, type: str = "linear", bp: Any = 0, overwrite_data: Any = None) -> Any:
    """The data without their mean along an axis ("constant"), or without the line of least squares ("linear"), in pieces that begin at `bp`.

    Integers become floating-point; the shape stays. Raises ValueError for another type, or for breakpoints beyond the end.
    """
    if type not in ("linear", "constant"):
        raise ValueError(f"detrend: type is 'linear' or 'constant', got {type!r}")
    (x,) = promote_inexact("detrend", jnp.asarray(data))
    if type == "constant":
        return x - jnp.mean(x, axis, keepdims=True)
    n = x.shape[axis]
    breaks = sorted({0, n, *np.atleast_1d(np.asarray(bp, int)).tolist()})
    if breaks[0] < 0 or breaks[-1] > n:
        raise ValueError(f"detrend: breakpoints {bp} do not lie within the {n} elements of the axis")
    moved, pieces = jnp.moveaxis(x, axis, -1), []
    for start, end in zip(breaks[:-1], breaks[1:]):
        piece = moved[..., start:end]
        # Lines are spanned by a constant and by what grows and sums to zero.
        line = np.arange(end - start) - 0.5 * (end - start - 1)
        line = (line / (math.sqrt(float(line @ line)) or 1.0)).astype(np.finfo(x.dtype).dtype)
        piece = piece - jnp.mean(piece, -1, keepdims=True)
        pieces.append(piece - jnp.sum(piece * line, -1, keepdims=True) * line)
    return jnp.moveaxis(jnp.concatenate(pieces, -1), -1, axis)
