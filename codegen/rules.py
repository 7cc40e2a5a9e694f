"""Importing this module attaches the lowering rules of all families to their primitives."""

from tracegrad.codegen import (
    contractions,
    control_flow,
    elementwise,
    fft,
    indexing,
    linalg,
    random,
    reductions,
    sorting,
    structural,
    windows,
)

__all__ = [
    "contractions",
    "control_flow",
    "elementwise",
    "fft",
    "indexing",
    "linalg",
    "random",
    "reductions",
    "sorting",
    "structural",
    "windows",
]
