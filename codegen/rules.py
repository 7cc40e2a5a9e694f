"""Importing this module attaches the lowering rules of all families to their primitives."""

from tracegrad.codegen import (
    callbacks,
    contractions,
    control_flow,
    convolution,
    cumulative,
    elementwise,
    fft,
    indexing,
    linalg,
    random,
    reductions,
    sorting,
    special,
    structural,
    tapes,
    windows,
)

__all__ = [
    "callbacks",
    "contractions",
    "control_flow",
    "convolution",
    "cumulative",
    "elementwise",
    "fft",
    "indexing",
    "linalg",
    "random",
    "reductions",
    "sorting",
    "special",
    "structural",
    "tapes",
    "windows",
]
