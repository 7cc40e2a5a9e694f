"""Interpolation in images, under the names of `jax.scipy.ndimage`."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

import tracegrad.numpy as jnp

_MODES = ("constant", "nearest", "wrap", "mirror", "reflect")


def _inside(mode: str, index: Any, size: int) -> Any:
    """Where an index beyond the image is read."""
    if mode == "wrap":
        return index % size
    if mode == "mirror":
        return _mirrored(index, size)
    if mode == "reflect":
        return jnp.floor_divide(_mirrored(2 * index + 1, 2 * size + 1), 2)
    return jnp.clip(index, 0, size - 1)


def _mirrored(index: Any, size: int) -> Any:
    period = 2 * (size - 1) or 1
    return abs((index + size - 1) % period - (size - 1)) if size > 1 else jnp.zeros_like(index)


def map_coordinates(input: Any, coordinates: Sequence[Any], order: int, mode: str = "constant", cval: Any = 0.0) -> Any:
    """The values of an array at coordinates between its elements: an array of the coordinates' shape and the input's dtype.

    coordinates: one array for each dimension of the input, of shapes that broadcast. order: 0 takes the nearest element, 1 interpolates
    linearly. mode: what lies outside: "constant" (cval), "nearest", "wrap", "mirror" (about the last element), "reflect" (about its edge).
    Raises NotImplementedError for other orders and modes, ValueError if the number of coordinates is not that of the dimensions.
    """
    image = jnp.asarray(input)
    places = [jnp.asarray(c) for c in coordinates]
    if len(places) != image.ndim:
        raise ValueError(
            f"map_coordinates: coordinates must be as many as the input has dimensions: {len(places)} and {image.ndim}"
        )
    if mode not in _MODES:
        raise NotImplementedError(f"map_coordinates: mode is one of {', '.join(_MODES)}, got {mode!r}")
    if order not in (0, 1):
        raise NotImplementedError(f"map_coordinates: order is 0 (nearest) or 1 (linear), got {order!r}")
    fill = jnp.asarray(cval, image.dtype)
    choices = []  # for each dimension: (index, whether it lies inside, weight)
    for place, size in zip(places, image.shape):
        place = place if jnp.issubdtype(place.dtype, np.inexact) else place.astype(jnp.result_type(place, float))
        lower = jnp.floor(place) if order else jnp.floor(place + 0.5)
        whole = lower.astype(np.int32)
        steps = [(whole, 1.0)] if order == 0 else [(whole, 1.0 - (place - lower)), (whole + 1, place - lower)]
        choices.append([(_inside(mode, i, size), (i >= 0) & (i < size), weight) for i, weight in steps])
    parts = []
    for corner in itertools.product(*choices):
        index, inside, weights = zip(*corner) if corner else ((), (), ())
        value = image[index]
        if mode == "constant":
            value = jnp.where(functools.reduce(operator.and_, inside, jnp.asarray(True)), value, fill)
        parts.append(functools.reduce(operator.mul, weights, 1.0) * value if order else value)
    total = functools.reduce(operator.add, parts)
    if jnp.issubdtype(image.dtype, np.integer) and order:
        total = jnp.round(total)
    return total.astype(image.dtype)
