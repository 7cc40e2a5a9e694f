"""The few names of `jax.core` that programs use."""

from __future__ import annotations

from typing import Any

from tracegrad.ir.bind import type_of
from tracegrad.ir.types import ArrayType as ShapedArray
from tracegrad.tracer.tracer import Tracer as Tracer

__all__ = ["ShapedArray", "Tracer", "get_aval"]


def get_aval(x: Any) -> ShapedArray:
    """The type of an array or number."""
    return type_of(x)
