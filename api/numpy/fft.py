"""`tracegrad.numpy.fft`: discrete Fourier transforms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex, is_inexact
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.creation import zeros
from tracegrad.numpy.dtype_objects import canonical_dtype
from tracegrad.numpy.promotion import as_array, axis_index, axis_indices, inexact_dtype, shape_of, static_int
from tracegrad.numpy.shape import moveaxis, roll

_NORMS = (None, "backward", "ortho", "forward")


def _operand(name: str, a: Any, complex_: bool) -> Any:
    """An argument in the dtype that transforms are computed in: single or double precision, complex if the kind needs it."""
    a = as_array(name, a, "a")
    dtype = type_of(a).dtype
    if not is_inexact(dtype):
        dtype = inexact_dtype(name, dtype)
    if dtype.itemsize == 2:
        dtype = np.dtype(np.float32)
    if complex_ and not is_complex(dtype):
        dtype = np.dtype(f"c{2 * dtype.itemsize}")
    if not complex_ and is_complex(dtype):
        raise ValueError(f"{name} requires real input, got an array of dtype {dtype}")
    return a if type_of(a).dtype == dtype else ops.convert_element_type(a, dtype)


def _fit(a: Any, sizes: tuple[int, ...]) -> Any:
    """The trailing axes cut or padded with zeros to sizes."""
    shape = shape_of(a)
    lead = len(shape) - len(sizes)
    config = [(0, 0, 0)] * lead + [(0, n - shape[lead + k], 0) for k, n in enumerate(sizes)]
    if all(c == (0, 0, 0) for c in config):
        return a
    return ops.pad(a, type_of(a).dtype.type(0), config)


def _transform(name: str, kind: str, a: Any, s: Any, axes: Any, norm: Any) -> Any:
    if norm not in _NORMS:
        raise ValueError(f"{name}: norm should be 'backward', 'ortho' or 'forward', got {norm!r}")
    a = _operand(name, a, kind != "rfft")
    rank = len(shape_of(a))
    if axes is None:
        axes = tuple(range(rank)) if s is None else tuple(range(rank - len(s), rank))
    axes = tuple([axis_index(name, i, rank, "axes") for i in axes])
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name} does not support repeated axes. Got axes {list(axes)}.")
    if s is not None and len(s) != len(axes):
        raise ValueError(f"{name} requires s and axes to have the same length, got {s} and {axes}")
    if not axes:
        return a
    places = tuple(range(rank - len(axes), rank))
    moved = axes != places
    if moved:
        a = moveaxis(a, axes, places)
    shape = shape_of(a)[rank - len(axes) :]
    if s is None:
        lengths = (*shape[:-1], max(0, 2 * (shape[-1] - 1))) if kind == "irfft" else shape
    else:
        lengths = tuple([static_int(name, n, "s") for n in s])
    if any(n < 1 for n in lengths):
        raise ValueError(f"{name}: invalid number of data points specified: {lengths}")
    given = (*lengths[:-1], lengths[-1] // 2 + 1) if kind == "irfft" else lengths
    out = ops.fft(_fit(a, given), kind, lengths)
    scale = _scale(kind, norm, math.prod(lengths))
    if scale != 1:
        dtype = type_of(out).dtype
        out = ops.mul(out, dtype.type(scale))
    return moveaxis(out, places, axes) if moved else out


def _scale(kind: str, norm: Any, n: int) -> float:
    inverse = kind in ("ifft", "irfft")
    if norm in (None, "backward"):
        return 1
    if norm == "ortho":
        return math.sqrt(n) if inverse else 1 / math.sqrt(n)
    return n if inverse else 1 / n


def _one(n: Any, axis: Any, name: str) -> tuple[Any, Any]:
    if isinstance(axis, (tuple, list)):
        raise ValueError(f"{name} does not support multiple axes; got axis={axis}. Use {name}n.")
    return None if n is None else (n,), (axis,)


def fft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The transform along an axis."""
    s, axes = _one(n, axis, "jnp.fft.fft")
    return _transform("jnp.fft.fft", "fft", a, s, axes, norm)


def ifft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The inverse transform along an axis."""
    s, axes = _one(n, axis, "jnp.fft.ifft")
    return _transform("jnp.fft.ifft", "ifft", a, s, axes, norm)


def rfft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The transform of real numbers along an axis: its nonnegative frequencies."""
    s, axes = _one(n, axis, "jnp.fft.rfft")
    return _transform("jnp.fft.rfft", "rfft", a, s, axes, norm)


def irfft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The inverse of `rfft`."""
    s, axes = _one(n, axis, "jnp.fft.irfft")
    return _transform("jnp.fft.irfft", "irfft", a, s, axes, norm)


def hfft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The transform of a signal with Hermitian symmetry: real numbers."""
    a = as_array("jnp.fft.hfft", a)
    size = 2 * (shape_of(a)[axis] - 1) if n is None else n
    swapped = "ortho" if norm == "ortho" else "backward" if norm == "forward" else "forward"
    return irfft(e.conj(a), size, axis, swapped)


def ihfft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The inverse of `hfft`."""
    a = as_array("jnp.fft.ihfft", a)
    swapped = "ortho" if norm == "ortho" else "backward" if norm == "forward" else "forward"
    return e.conj(rfft(a, n, axis, swapped))


def fftn(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Any:
    """The transform along several axes, all by default."""
    return _transform("jnp.fft.fftn", "fft", a, s, axes, norm)


def ifftn(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Any:
    """The inverse transform along several axes."""
    return _transform("jnp.fft.ifftn", "ifft", a, s, axes, norm)


def rfftn(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Any:
    """The transform of real numbers along several axes; the last has nonnegative frequencies only."""
    return _transform("jnp.fft.rfftn", "rfft", a, s, axes, norm)


def irfftn(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Any:
    """The inverse of `rfftn`."""
    return _transform("jnp.fft.irfftn", "irfft", a, s, axes, norm)


def fft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> Any:
    """The transform along two axes."""
    return _transform("jnp.fft.fft2", "fft", a, s, _pair("fft2", axes), norm)


def ifft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> Any:
    """The inverse transform along two axes."""
    return _transform("jnp.fft.ifft2", "ifft", a, s, _pair("ifft2", axes), norm)


def rfft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> Any:
    """The transform of real numbers along two axes."""
    return _transform("jnp.fft.rfft2", "rfft", a, s, _pair("rfft2", axes), norm)


def irfft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> Any:
    """The inverse of `rfft2`."""
    return _transform("jnp.fft.irfft2", "irfft", a, s, _pair("irfft2", axes), norm)


def _pair(name: str, axes: Any) -> Any:
    if len(axes) != 2:
        raise ValueError(f"jax.numpy.fft.{name} only supports 2 axes. Got axes = {axes}.")
    return axes


def _frequency_dtype(name: str, dtype: Any) -> Any:
    return dtypes.float_dtype() if dtype is None else canonical_dtype(name, dtype)


def fftfreq(n: int, d: Any = 1.0, *, dtype: Any = None, device: Any = None) -> Any:
    """The frequencies of a transform of n samples at distance d."""
    n = _count("fftfreq", n)
    dtype = _frequency_dtype("fftfreq", dtype)
    if n == 0:
        return zeros((0,), dtype)
    k = ops.iota(np.dtype(np.int32), n)
    k = ops.select(ops.lt(k, np.int32((n - 1) // 2 + 1)), k, ops.sub(k, np.int32(n)))
    return e.divide(ops.convert_element_type(k, dtype), e.multiply(as_array("fftfreq", d).astype(dtype), dtype.type(n)))


def rfftfreq(n: int, d: Any = 1.0, *, dtype: Any = None, device: Any = None) -> Any:
    """The nonnegative frequencies of a transform of n samples at distance d."""
    n = _count("rfftfreq", n)
    dtype = _frequency_dtype("rfftfreq", dtype)
    k = ops.iota(dtype, n // 2 + 1)
    return e.divide(k, e.multiply(as_array("rfftfreq", d).astype(dtype), dtype.type(n)))


def _count(name: str, n: Any) -> int:
    if isinstance(n, (tuple, list)):
        raise ValueError(f"The n argument of jax.numpy.fft.{name} only takes an int. Got n = {list(n)}.")
    return static_int(f"jnp.fft.{name}", n, "n")


def fftshift(x: Any, axes: Any = None) -> Any:
    """The zero frequency moved to the middle."""
    return _shift("jnp.fft.fftshift", x, axes, lambda n: n // 2)


def ifftshift(x: Any, axes: Any = None) -> Any:
    """The inverse of `fftshift`."""
    return _shift("jnp.fft.ifftshift", x, axes, lambda n: -(n // 2))


def _shift(name: str, x: Any, axes: Any, amount: Any) -> Any:
    x = as_array(name, x)
    places = axis_indices(name, axes, len(shape_of(x)), "axes")
    return roll(x, tuple([amount(shape_of(x)[i]) for i in places]), places) if places else x


__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifft2", "ifftn", "ifftshift", "ihfft", "irfft", "irfft2", "irfftn",
    "rfft", "rfft2", "rfftfreq", "rfftn",
]  # fmt: skip
