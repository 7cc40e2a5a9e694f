"""The one name of `jax.interpreters.xla` that means something here."""

from __future__ import annotations

from typing import Any

from tracegrad.ir.bind import is_eager
from tracegrad.ir.primitive import Primitive
from tracegrad.runtime.jit import run_compiled

__all__ = ["apply_primitive"]


def apply_primitive(prim: Primitive, *args: Any, **params: Any) -> Any:
    """Apply a primitive to concrete arrays by compiling it: an implementation for `def_impl` when there is a lowering.

    `p.def_impl(functools.partial(apply_primitive, p))`. A list of results if the primitive has `multiple_results`, else the only one.
    """
    if not is_eager():
        return prim.bind(*args, **params)
    results = run_compiled(prim, args, params)
    return list(results) if prim.multiple_results else results[0]
