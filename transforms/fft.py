"""Derivatives and batching of discrete Fourier transforms, which are linear.

Transposition is with respect to the pairing Re(ct * x), without conjugation. The matrix of a transform is symmetric, so that complex
ones are their own transposes; the real ones keep half of the spectrum, whose other half is its mirror image.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir import fft as f
from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.rules import first_dim, linear, move_dim, scalar


def _transpose_fft(ct: Any, x: ArrayType, *, kind: str, lengths: tuple[int, ...]) -> Any:
    if kind in ("fft", "ifft"):
        return ops.fft(ct, kind, lengths)
    n = lengths[-1]
    if kind == "rfft":
        # The frequencies that rfft leaves out have no cotangent.
        shape = type_of(ct).shape
        config = [(0, 0, 0)] * (len(shape) - 1) + [(0, n - shape[-1], 0)]
        padded = ops.pad(ct, scalar(0, type_of(ct).dtype), config)
        return ops.real(ops.fft(padded, "fft", lengths))
    # irfft: every frequency but 0 and (for even n) n/2 stands for itself and its mirror image.
    spectrum = ops.conj(ops.fft(ct, "rfft", lengths))
    weights = np.full(x.shape[-1], 2.0 / prod(lengths))
    weights[0] /= 2
    if n % 2 == 0:
        weights[-1] /= 2
    return ops.mul(spectrum, ops.broadcast_in_dim(weights.astype(x.dtype), x.shape, (x.ndim - 1,)))


linear(f.fft_p, _transpose_fft)


def _batch_fft(
    axis: Any, args: Sequence[Any], dims: Sequence[int | None], *, kind: str, lengths: tuple[int, ...]
) -> tuple[Sequence[Any], Sequence[int]]:
    x, dim = args[0], first_dim(dims)
    if dim >= type_of(x).ndim - len(lengths):
        x, dim = move_dim(x, dim, 0), 0
    return (ops.fft(x, kind, lengths),), (dim,)


f.fft_p.define(batch=_batch_fft)
