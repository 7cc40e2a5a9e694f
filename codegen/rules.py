"""Importing this module attaches the lowering rules of all families to their primitives."""

from tracegrad.codegen import contractions, control_flow, elementwise, indexing, random, reductions, structural

__all__ = ["contractions", "control_flow", "elementwise", "indexing", "random", "reductions", "structural"]
