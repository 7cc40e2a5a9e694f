"""Interpolation on grids, under the names of `jax.scipy.interpolate`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

import tracegrad.numpy as jnp

_METHODS = ("linear", "nearest")


class RegularGridInterpolator:
    """A function of several variables from its values on a rectangular grid.

    points: one increasing vector for each dimension. values: of shape (len(points[0]), len(points[1]), ..., *trailing). Called with xi of shape
    (..., dimensions), or a tuple of arrays that broadcast, it gives values of shape (..., *trailing). method: "linear" or "nearest".
    fill_value: what is given outside of the grid; None extrapolates.
    Raises ValueError if shapes do not fit, or for bounds_error=True, which compiled code cannot raise.
    """

    def __init__(
        self, points: Sequence[Any], values: Any, method: str = "linear", bounds_error: bool = False, fill_value: Any = np.nan
    ):
        if method not in _METHODS:
            raise ValueError(f"RegularGridInterpolator: method is 'linear' or 'nearest', got {method!r}")
        if bounds_error:
            raise NotImplementedError(
                "RegularGridInterpolator: bounds_error=True would raise for values that are not known when a function is compiled; "
                "use fill_value, and check the arguments before"
            )
        self.grid = tuple([jnp.asarray(p) for p in points])
        self.values = jnp.asarray(values)
        if not jnp.issubdtype(self.values.dtype, np.inexact):
            self.values = self.values.astype(jnp.result_type(self.values, float))
        self.method, self.bounds_error, self.fill_value = method, bounds_error, fill_value
        if len(self.grid) > self.values.ndim:
            raise ValueError(
                f"RegularGridInterpolator: {len(self.grid)} vectors of points, but values have {self.values.ndim} dimensions"
            )
        for i, p in enumerate(self.grid):
            if p.ndim != 1 or p.shape[0] != self.values.shape[i]:
                raise ValueError(
                    f"RegularGridInterpolator: points[{i}] of shape {p.shape} does not fit dimension {i} of values of shape {self.values.shape}"
                )

    def __call__(self, xi: Any, method: str | None = None) -> Any:
        method = self.method if method is None else method
        if method not in _METHODS:
            raise ValueError(f"RegularGridInterpolator: method is 'linear' or 'nearest', got {method!r}")
        n = len(self.grid)
        at = jnp.stack(jnp.broadcast_arrays(*xi), -1) if isinstance(xi, tuple) else jnp.asarray(xi)
        if at.ndim == 1 and n == 1 and at.shape[-1] != 1:
            at = at[:, None]
        if at.shape[-1:] != (n,):
            raise ValueError(
                f"RegularGridInterpolator: the points to evaluate at have shape {at.shape}, whose last dimension should be {n}"
            )
        lower, parts, outside = [], [], jnp.zeros(at.shape[:-1], bool)
        for k, p in enumerate(self.grid):
            x = at[..., k]
            i = jnp.clip(jnp.searchsorted(p, x, side="right") - 1, 0, max(p.shape[0] - 2, 0))
            width = p[jnp.minimum(i + 1, p.shape[0] - 1)] - p[i]
            lower.append(i)
            parts.append(jnp.where(width == 0, 0, (x - p[i]) / jnp.where(width == 0, 1, width)))
            outside = outside | (x < p[0]) | (x > p[-1])
        trailing = (1,) * (self.values.ndim - n)
        if method == "nearest":
            index = tuple(
                [jnp.where(t <= 0.5, i, jnp.minimum(i + 1, p.shape[0] - 1)) for i, t, p in zip(lower, parts, self.grid)]
            )
            result = self.values[index]
        else:
            result = 0
            for corner in itertools.product((0, 1), repeat=n):
                weight: Any = 1
                for upper, t in zip(corner, parts):
                    weight = weight * (t if upper else 1 - t)
                index = tuple([jnp.minimum(i + u, p.shape[0] - 1) for i, u, p in zip(lower, corner, self.grid)])
                result = result + jnp.reshape(weight, (*at.shape[:-1], *trailing)) * self.values[index]
        if self.fill_value is not None:
            result = jnp.where(jnp.reshape(outside, (*at.shape[:-1], *trailing)), self.fill_value, result)
        # A point that is not a number is one nowhere.
        nowhere = jnp.any(jnp.isnan(at), -1)
        return jnp.where(jnp.reshape(nowhere, (*at.shape[:-1], *trailing)), np.nan, result).astype(self.values.dtype)
