"""Integrals of sampled functions, under the names of `jax.scipy.integrate`."""

from __future__ import annotations

from typing import Any

import tracegrad.numpy as jnp


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """The integral along an axis by the trapezoidal rule, of samples at `x`, or at steps of `dx`: y's shape without the axis."""
    return jnp.trapezoid(y, x, dx, axis)
