"""Discrete Fourier transforms over trailing axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType

__all__ = ["fft", "fft_p"]

KINDS = ("fft", "ifft", "rfft", "irfft")
_REAL = {np.dtype(np.float32): np.dtype(np.complex64), np.dtype(np.float64): np.dtype(np.complex128)}
_COMPLEX = {c: r for r, c in _REAL.items()}


def _fft_type(x: ArrayType, *, kind: str, lengths: tuple[int, ...]) -> tuple[ArrayType, ...]:
    if kind not in KINDS:
        raise ValueError(f"fft: kind {kind!r} is not one of {', '.join(KINDS)}")
    if not 1 <= len(lengths) <= x.ndim:
        raise ValueError(f"fft: {len(lengths)} lengths do not name trailing dimensions of {x}")
    wanted = _REAL if kind == "rfft" else _COMPLEX
    if x.dtype not in wanted:
        raise TypeError(f"fft of kind {kind!r} takes {' or '.join(map(str, wanted))}, got {x}")
    *outer, last = lengths
    shape = (*outer, last // 2 + 1 if kind == "irfft" and last else last)
    if x.shape[x.ndim - len(lengths) :] != shape:
        raise ValueError(f"fft of kind {kind!r} with lengths {lengths} takes trailing dimensions {shape}, got {x}")
    if any(n == 0 for n in lengths):
        raise ValueError(f"fft: a transform of length 0 does not exist, got lengths {lengths} for {x}")
    lead = x.shape[: x.ndim - len(lengths)]
    if kind == "rfft":
        return (ArrayType((*lead, *outer, last // 2 + 1), _REAL[x.dtype]),)
    if kind == "irfft":
        return (ArrayType((*lead, *lengths), _COMPLEX[x.dtype]),)
    return (ArrayType(x.shape, x.dtype),)


_FUNCTIONS: dict[str, Any] = {"fft": np.fft.fftn, "ifft": np.fft.ifftn, "rfft": np.fft.rfftn, "irfft": np.fft.irfftn}


def _fft_evaluate(x: np.ndarray, *, kind: str, lengths: tuple[int, ...]) -> tuple[np.ndarray]:
    axes = tuple(range(x.ndim - len(lengths), x.ndim))
    with np.errstate(all="ignore"):
        out = _FUNCTIONS[kind](x, s=lengths, axes=axes)
    return (np.ascontiguousarray(out),)


fft_p = Primitive("fft", _fft_type, _fft_evaluate, "fft")


def fft(x: Any, kind: str, lengths: Sequence[int]) -> Any:
    """The transform of the trailing `len(lengths)` axes. `lengths` are those of the real side for "rfft" and "irfft"."""
    return bind1(fft_p, x, kind=kind, lengths=tuple(map(int, lengths)))
