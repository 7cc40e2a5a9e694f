"""The names of `jax.core` that programs use: types, tracers, and jaxprs applied to values."""

from __future__ import annotations

from typing import Any

from tracegrad.ir.bind import type_of
from tracegrad.ir.jaxpr import eval_jaxpr as eval_jaxpr
from tracegrad.ir.program import Atom as Atom
from tracegrad.ir.types import ArrayType as ShapedArray
from tracegrad.settings import ensure_compile_time_eval as ensure_compile_time_eval
from tracegrad.tracer.tracer import Tracer as Tracer

AbstractValue = ShapedArray

__all__ = ["AbstractValue", "Atom", "ShapedArray", "Tracer", "ensure_compile_time_eval", "eval_jaxpr", "get_aval"]


def get_aval(x: Any) -> ShapedArray:
    """The type of an array or number."""
    return type_of(x)
