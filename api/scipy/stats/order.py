"""Statistics of samples: the commonest value, ranks, the standard error of the mean; under the names of `jax.scipy.stats`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import ops

_METHODS = ("average", "min", "max", "dense", "ordinal")


class ModeResult(NamedTuple):
    """The commonest values along an axis, and how often they come."""

    mode: Any
    count: Any


def _policy(name: str, nan_policy: str) -> None:
    if nan_policy == "propagate":
        return
    if nan_policy in ("omit", "raise"):
        raise NotImplementedError(
            f"{name}: nan_policy={nan_policy!r} is not supported; select the numbers before, by jnp.where or a mask"
        )
    raise ValueError(f"{name}: nan_policy is 'propagate', got {nan_policy!r}")


def _lined_up(name: str, a: Any, axis: int | None) -> tuple[Any, Any]:
    """The array with the axis last, all of it if axis is None, and that axis."""
    x = jnp.asarray(a)
    if axis is None:
        return x.ravel(), None
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{name}: axis {axis} is out of bounds for an array of shape {x.shape}")
    return jnp.moveaxis(x, axis, -1), axis % x.ndim


def mode(a: Any, axis: int | None = 0, nan_policy: str = "propagate", keepdims: bool = False) -> ModeResult:
    """The commonest value along an axis (None: of all), the least of several, and its count, both of a's shape without the axis.

    NaNs are equal to one another. keepdims: the axis stays, of size 1.
    """
    _policy("mode", nan_policy)
    x, at = _lined_up("mode", a, axis)
    n = x.shape[-1]
    if n == 0:
        shape = x.shape[:-1]
        values = jnp.full(shape, np.nan, x.dtype if jnp.issubdtype(x.dtype, np.inexact) else jnp.result_type(float))
        counts = jnp.zeros(shape, values.dtype)
    else:
        x = jnp.sort(x, -1)
        same = x[..., 1:] == x[..., :-1]
        if jnp.issubdtype(x.dtype, np.inexact):
            same = same | (jnp.isnan(x[..., 1:]) & jnp.isnan(x[..., :-1]))
        begins = jnp.concatenate([jnp.ones((*x.shape[:-1], 1), bool), ~same], -1)
        index = jnp.arange(n)
        # How far a run of equal elements has come at each of its elements.
        run = index - _latest(jnp.where(begins, index, 0)) + 1
        last = jnp.argmax(run, -1, keepdims=True)
        values = jnp.take_along_axis(x, last, -1)[..., 0]
        counts = jnp.take_along_axis(run, last, -1)[..., 0]
    if keepdims:
        axes = tuple(range(jnp.ndim(a))) if at is None else (at,)
        values, counts = jnp.expand_dims(values, axes), jnp.expand_dims(counts, axes)
    return ModeResult(values, counts)


def _latest(index: Any) -> Any:
    return ops.cummax(index, index.ndim - 1)


def rankdata(a: Any, method: str = "average", *, axis: int | None = None, nan_policy: str = "propagate") -> Any:
    """The ranks of elements from 1 along an axis (None: among all, as a vector), floating-point; rows with NaN are NaN throughout.

    method: what equal elements get: the "average", "min" or "max" of their places, consecutive numbers for distinct values ("dense"), or
    places in the order in which they come ("ordinal").
    """
    _policy("rankdata", nan_policy)
    if method not in _METHODS:
        raise ValueError(f"rankdata: method is one of {', '.join(_METHODS)}, got {method!r}")
    x, at = _lined_up("rankdata", a, axis)
    n = x.shape[-1]
    order = jnp.argsort(x, -1, stable=True)
    places = jnp.argsort(order, -1, stable=True)
    if method == "ordinal":
        ranks = places + 1
    else:
        ordered = jnp.take_along_axis(x, order, -1)
        begins = jnp.concatenate([jnp.ones((*x.shape[:-1], min(n, 1)), bool), ordered[..., 1:] != ordered[..., :-1]], -1)
        dense = jnp.cumsum(begins, -1)
        index = jnp.arange(n)
        first = _latest(jnp.where(begins, index, 0)) + 1
        ends = jnp.concatenate([begins[..., 1:], jnp.ones((*x.shape[:-1], min(n, 1)), bool)], -1)
        last = n - jnp.flip(_latest(jnp.where(jnp.flip(ends, -1), index, 0)), -1)
        chosen = {"dense": dense, "min": first, "max": last}.get(method)
        ranks = jnp.take_along_axis(0.5 * (first + last) if chosen is None else chosen, places, -1)
    ranks = ranks.astype(jnp.result_type(float))
    if jnp.issubdtype(x.dtype, np.inexact):
        ranks = jnp.where(jnp.any(jnp.isnan(x), -1, keepdims=True), np.nan, ranks)
    return ranks if at is None else jnp.moveaxis(ranks, -1, at)


def sem(a: Any, axis: int | None = 0, ddof: int = 1, nan_policy: str = "propagate", *, keepdims: bool = False) -> Any:
    """The standard error of the mean along an axis: the deviation with `ddof` degrees of freedom less, over the root of the size."""
    _policy("sem", nan_policy)
    x = jnp.asarray(a)
    size = x.size if axis is None else x.shape[axis]
    deviation = jnp.std(x, axis, ddof=ddof, keepdims=keepdims)
    return deviation / jnp.sqrt(jnp.asarray(size, deviation.dtype))
