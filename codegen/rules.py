"""Importing this module attaches the lowering rules of all families to their primitives."""

from tracegrad.codegen import elementwise, reductions, structural

__all__ = ["elementwise", "reductions", "structural"]
