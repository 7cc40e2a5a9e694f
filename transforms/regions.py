"""Applying a pass inside regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.ir.program import Equation, Program


def map_regions(eqn: Equation, transform: Callable[[Program], Program]) -> Equation:
    """The equation with `transform` applied to each program among its parameters; itself if none changes."""
    if not eqn.primitive.regions:
        return eqn
    params: dict[str, Any] = {}
    for name in eqn.primitive.regions:
        old = eqn.params[name]
        new: Any = tuple([transform(p) for p in old]) if isinstance(old, tuple) else transform(old)
        if new is not old and (not isinstance(old, tuple) or any(a is not b for a, b in zip(new, old))):
            params[name] = new
    return eqn.replace(params={**eqn.params, **params}) if params else eqn
