"""The names of `jax.interpreters.partial_eval` that mean something here.

Partial evaluation itself is done by interpreters on programs (`tracegrad.transforms.partial`), not by rules on jaxprs.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracegrad.ir.jaxpr import ClosedJaxpr, Jaxpr
from tracegrad.tracer.staging import StagedTracer as DynamicJaxprTracer
from tracegrad.transforms.dead_code import remove_dead_code, used_inputs

__all__ = ["DynamicJaxprTracer", "close_jaxpr", "convert_constvars_jaxpr", "dce_jaxpr"]


def dce_jaxpr(jaxpr: Jaxpr, used_outputs: Sequence[bool], instantiate: bool | Sequence[bool] = False) -> tuple[Jaxpr, list[bool]]:
    """An open jaxpr without what its unused outputs alone need, and which inputs it still takes.

    instantiate: inputs to keep although nothing reads them.
    """
    if len(used_outputs) != len(jaxpr.outvars):
        raise ValueError(f"dce_jaxpr: the jaxpr has {len(jaxpr.outvars)} outputs, used_outputs {len(used_outputs)} entries")
    program = remove_dead_code(jaxpr.program, list(used_outputs))
    n = len(jaxpr.constvars)
    kept = [instantiate] * len(jaxpr.invars) if isinstance(instantiate, bool) else list(instantiate)
    used = [u or k for u, k in zip(used_inputs(program)[n:], kept, strict=True)]
    invars = [v for v, u in zip(jaxpr.invars, used) if u]
    return jaxpr.replace(invars=invars, outvars=program.outputs, eqns=program.equations), used


def convert_constvars_jaxpr(jaxpr: Jaxpr) -> Jaxpr:
    """The jaxpr with what it captured as leading inputs."""
    return jaxpr.replace(constvars=(), invars=[*jaxpr.constvars, *jaxpr.invars])


def close_jaxpr(jaxpr: Jaxpr) -> ClosedJaxpr:
    """A jaxpr that captured nothing, closed."""
    return ClosedJaxpr(jaxpr, ())
