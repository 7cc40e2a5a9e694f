"""Initializers of parameters, under the names of `jax.nn.initializers`: functions that make `init(key, shape, dtype)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

import tracegrad.numpy as jnp
from tracegrad import random
from tracegrad.ir import dtypes
from tracegrad.ir.types import is_complex
from tracegrad.lax.operands import as_dtype, as_shape


class Initializer(Protocol):
    """What an initializer is: a function of a key, a shape and a dtype."""

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> Any: ...


def _dtype(dtype: Any) -> Any:
    return dtypes.float_dtype() if dtype is None else as_dtype(dtype)


def zeros(key: Any, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> Any:
    """An array of zeros; the key is not used."""
    return jnp.zeros(shape, _dtype(dtype))


def ones(key: Any, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> Any:
    """An array of ones; the key is not used."""
    return jnp.ones(shape, _dtype(dtype))


def _initializer(default: Any, draw: Callable[[Any, tuple[int, ...], Any], Any]) -> Initializer:
    """An initializer from a function of a key, a shape and a dtype that exists."""

    def init(key: Any, shape: Sequence[int], dtype: Any = default, out_sharding: Any = None) -> Any:
        return draw(key, as_shape(shape), _dtype(dtype))

    return init


def constant(value: Any, dtype: Any = None) -> Initializer:
    """Arrays filled with a value."""
    return _initializer(dtype, lambda key, shape, d: jnp.full(shape, value, d))


def uniform(scale: Any = 1e-2, dtype: Any = None) -> Initializer:
    """Uniform numbers in [0, scale)."""
    return _initializer(dtype, lambda key, shape, d: random.uniform(key, shape, d) * jnp.array(scale, d))


def normal(stddev: Any = 1e-2, dtype: Any = None) -> Initializer:
    """Normal numbers of mean 0."""
    return _initializer(dtype, lambda key, shape, d: random.normal(key, shape, d) * jnp.array(stddev, d))


def truncated_normal(stddev: Any = 1e-2, dtype: Any = None, lower: Any = -2.0, upper: Any = 2.0) -> Initializer:
    """Normal numbers that lie within `lower` and `upper` standard deviations before they are scaled."""
    return _initializer(dtype, lambda key, shape, d: random.truncated_normal(key, lower, upper, shape, d) * jnp.array(stddev, d))


def _product(shape: Sequence[int], axes: int | Sequence[int]) -> int:
    return shape[axes] if isinstance(axes, int) else math.prod(shape[i] for i in axes)


def _fans(shape: Sequence[int], in_axis: Any, out_axis: Any, batch_axis: Any) -> tuple[float, float]:
    """The number of inputs and outputs of a unit; axes that are neither count as the receptive field of a convolution."""
    if in_axis == -2 and len(shape) <= 1:
        raise ValueError(
            f"Can't compute input and output sizes of a {len(shape)}-dimensional weights tensor with default in_axis. Must be at least 2D "
            "or specify in_axis explicitly."
        )
    ins, outs, batch = (_product(shape, axes) for axes in (in_axis, out_axis, batch_axis))
    field = math.prod(shape) / ins / outs / batch
    return ins * field, outs * field


def variance_scaling(
    scale: Any,
    mode: str,
    distribution: str,
    in_axis: int | Sequence[int] = -2,
    out_axis: int | Sequence[int] = -1,
    batch_axis: int | Sequence[int] = (),
    dtype: Any = None,
) -> Initializer:
    """Numbers of variance scale / n, where n is the number of inputs ("fan_in"), outputs ("fan_out") or a mean of both.

    distribution: "truncated_normal", "normal" or "uniform".
    """

    def draw(key: Any, shape: tuple[int, ...], d: Any) -> Any:
        fan_in, fan_out = _fans(shape, in_axis, out_axis, batch_axis)
        means = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": (fan_in * fan_out) ** 0.5,
        }
        if mode not in means:
            raise ValueError(f"invalid mode for variance scaling initializer: {mode}")
        if distribution not in ("truncated_normal", "normal", "uniform"):
            raise ValueError(f"invalid distribution for variance scaling initializer: {distribution}")
        real = np.dtype(f"f{d.itemsize // 2}") if is_complex(d) else d
        variance = np.asarray(scale / means[mode]).astype(real)
        deviation = np.sqrt(variance)
        if distribution == "normal":
            return random.normal(key, shape, d) * jnp.array(deviation, d)
        if is_complex(d):
            # The second is the standard deviation of a complex normal number of modulus below 2.
            disk, scaled = (
                (_uniform_disk, deviation)
                if distribution == "uniform"
                else (_normal_disk, deviation / real.type(0.95311164380491208))
            )
            return disk(key, shape, d, real) * jnp.array(scaled, d)
        if distribution == "uniform":
            return random.uniform(key, shape, d, -1) * jnp.array(np.sqrt(np.asarray(3 * variance, d)), d)
        # The standard deviation of a standard normal number in (-2, 2).
        return random.truncated_normal(key, -2, 2, shape, d) * jnp.array(deviation / np.asarray(0.87962566103423978).astype(d), d)

    return _initializer(dtype, draw)


def _polar(key: Any, modulus: Any, shape: tuple[int, ...], dtype: Any, real: Any) -> Any:
    angle = random.uniform(key, shape, real) * (2 * np.pi)
    return modulus.astype(dtype) * jnp.exp(jnp.array(1j, dtype) * angle.astype(dtype))


def _uniform_disk(key: Any, shape: tuple[int, ...], dtype: Any, real: Any) -> Any:
    """Complex numbers of variance 1, uniform in a disk."""
    k1, k2 = random.split(key)
    return _polar(k2, jnp.sqrt(2 * random.uniform(k1, shape, real)), shape, dtype, real)


def _normal_disk(key: Any, shape: tuple[int, ...], dtype: Any, real: Any) -> Any:
    """Complex normal numbers whose modulus is below 2."""
    k1, k2 = random.split(key)
    t = (1 - math.exp(-4.0)) * random.uniform(k1, shape, real)
    return _polar(k2, jnp.sqrt(-jnp.log(1 - t)), shape, dtype, real)


def _scaled(name: str, scale: float, mode: str, distribution: str) -> Callable[..., Initializer]:
    def make(
        in_axis: int | Sequence[int] = -2,
        out_axis: int | Sequence[int] = -1,
        batch_axis: int | Sequence[int] = (),
        dtype: Any = None,
    ) -> Initializer:
        return variance_scaling(scale, mode, distribution, in_axis, out_axis, batch_axis, dtype)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"variance_scaling({scale}, {mode!r}, {distribution!r})."
    return make


glorot_uniform = xavier_uniform = _scaled("glorot_uniform", 1.0, "fan_avg", "uniform")
glorot_normal = xavier_normal = _scaled("glorot_normal", 1.0, "fan_avg", "truncated_normal")
lecun_uniform = _scaled("lecun_uniform", 1.0, "fan_in", "uniform")
lecun_normal = _scaled("lecun_normal", 1.0, "fan_in", "truncated_normal")
he_uniform = kaiming_uniform = _scaled("he_uniform", 2.0, "fan_in", "uniform")
he_normal = kaiming_normal = _scaled("he_normal", 2.0, "fan_in", "truncated_normal")


def orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """Uniformly random matrices with orthonormal rows or columns; other axes than `column_axis` make up the rows."""

    def draw(key: Any, shape: tuple[int, ...], d: Any) -> Any:
        if len(shape) < 2:
            raise ValueError("orthogonal initializer requires at least a 2D shape")
        if 0 in shape:
            return jnp.zeros(shape, d)
        columns = shape[column_axis]
        axis = column_axis % len(shape)
        rest = shape[:axis] + shape[axis + 1 :]
        q = random.orthogonal(key, math.prod(rest), (), d, columns)
        return jnp.array(scale, d) * jnp.moveaxis(jnp.reshape(q, (*rest, columns)), -1, axis)

    return _initializer(dtype, draw)


def delta_orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """Filters of convolutions that are zero but for an orthogonal matrix at the centre."""

    def draw(key: Any, shape: tuple[int, ...], d: Any) -> Any:
        if len(shape) not in (3, 4, 5):
            raise ValueError("Delta orthogonal initializer requires a 3D, 4D or 5D shape.")
        if shape[-1] < shape[-2]:
            raise ValueError("`fan_in` must be less or equal than `fan_out`. ")
        centre = tuple((n - 1) // 2 for n in shape[:-2])
        return jnp.zeros(shape, d).at[centre].set(orthogonal(scale, column_axis, d)(key, shape[-2:]))

    return _initializer(dtype, draw)
