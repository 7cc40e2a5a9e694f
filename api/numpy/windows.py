"""Window functions of signal processing."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import dtypes
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.creation import arange, asarray, ones
from tracegrad.numpy.promotion import static_int
from tracegrad.numpy.selection import where


def _points(name: str, M: Any) -> tuple[int, Any]:
    n = static_int(name, M, "M")
    return n, arange(n, dtype=dtypes.float_dtype()) if n > 1 else ones(max(n, 0))


def bartlett(M: int) -> Any:
    """The triangular window of M points."""
    n, k = _points("bartlett", M)
    return k if n <= 1 else e.subtract(1, e.absolute(e.divide(e.subtract(2 * k, n - 1), n - 1)))


def blackman(M: int) -> Any:
    """The Blackman window of M points."""
    n, k = _points("blackman", M)
    if n <= 1:
        return k
    return 0.42 - 0.5 * e.cos(2 * np.pi * k / (n - 1)) + 0.08 * e.cos(4 * np.pi * k / (n - 1))


def hamming(M: int) -> Any:
    """The Hamming window of M points."""
    n, k = _points("hamming", M)
    return k if n <= 1 else 0.54 - 0.46 * e.cos(2 * np.pi * k / (n - 1))


def hanning(M: int) -> Any:
    """The Hann window of M points."""
    n, k = _points("hanning", M)
    return k if n <= 1 else 0.5 * (1 - e.cos(2 * np.pi * k / (n - 1)))


def kaiser(M: int, beta: Any) -> Any:
    """The Kaiser window of M points."""
    from tracegrad.numpy.ufuncs import i0

    n, k = _points("kaiser", M)
    if n <= 1:
        return k
    alpha = 0.5 * (n - 1)
    inner = e.subtract(1, e.square(e.divide(k - alpha, alpha)))
    return e.divide(i0(e.multiply(beta, e.sqrt(where(inner < 0, 0.0, inner)))), i0(asarray(beta, dtype=dtypes.float_dtype())))
