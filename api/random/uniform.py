"""What other samplers start from: raw bits, uniform and normal numbers, integers, coin flips."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex, is_float, is_integer
from tracegrad.lax.operands import as_dtype, value
from tracegrad.lax.structural import broadcast_shapes
from tracegrad.numpy.promotion import broadcast_to_shape
from tracegrad.random.keys import Words, as_shape, compiled_if_large, fork, random_bits, words


def float_dtype(name: str, dtype: Any) -> Any:
    """The dtype argument of a sampler of real numbers; the default is float."""
    dtype = dtypes.float_dtype() if dtype is None else as_dtype(dtype)
    if not is_float(dtype):
        raise ValueError(f"dtype argument to `{name}` must be a float dtype, got {dtype}")
    return dtype


def parameter(name: str, x: Any, dtype: Any) -> Any:
    """A parameter of a distribution in the sampler's dtype: a NumPy scalar or an array."""
    if isinstance(x, (bool, int, float, np.generic)):
        return np.asarray(x).astype(dtype)[()]
    x = value(name, x)
    return x if type_of(x).dtype == dtype else ops.convert_element_type(x, dtype)


def sample_shape(name: str, shape: Any, *parameters: Any) -> tuple[int, ...]:
    """The shape of the samples: as asked, if the parameters broadcast to it, or that of the parameters. ValueError otherwise."""
    own = broadcast_shapes(*[type_of(value(name, p)).shape for p in parameters]) if parameters else ()
    if shape is None:
        return own
    shape = as_shape(name, shape)
    try:
        joint = broadcast_shapes(shape, own)
    except ValueError:
        joint = None
    if joint != shape:
        raise ValueError(
            f"{name} parameter shapes must be broadcast-compatible with shape argument, and the result of broadcasting the shapes must "
            f"equal the shape argument, but got result {joint} for shape argument {shape}."
        )
    return shape


def bits(key: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Uniformly random unsigned integers."""
    dtype = dtypes.uint_dtype() if dtype is None else as_dtype(dtype)
    if dtype.kind != "u":
        raise ValueError(f"dtype argument to `bits` must be an unsigned int dtype, got {dtype}")
    return random_bits(words("bits", key), 8 * dtype.itemsize, as_shape("bits", shape))


@compiled_if_large
def unit(key: Words, shape: tuple[int, ...], dtype: Any) -> Any:
    """Uniform numbers in [0, 1): random mantissas under the exponent of 1, minus 1."""
    info = dtypes.finfo(dtype)
    width = 8 * dtype.itemsize
    drawn = 8 if info.nmant < 8 else width
    mantissa = random_bits(key, drawn, shape)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    if drawn != width:
        mantissa = ops.convert_element_type(mantissa, unsigned)
    mantissa = ops.shift_right_logical(mantissa, unsigned.type(drawn - info.nmant))
    one = np.ones((), dtype).view(unsigned)[()]
    return ops.sub(ops.bitcast_convert_type(ops.bitwise_or(mantissa, one), dtype), np.ones((), dtype)[()])


def between(key: Words, shape: tuple[int, ...], dtype: Any, low: Any, high: Any) -> Any:
    """Uniform numbers in [low, high); the bounds are of `dtype`, NumPy scalars or arrays that broadcast to `shape`."""
    u = unit(key, shape, dtype)
    known = isinstance(low, np.generic) and isinstance(high, np.generic)
    if known:
        with np.errstate(all="ignore"):
            span = np.asarray(high - low, dtype)[()]
        if span != 1:
            u = ops.mul(u, span)
        if low != 0:
            u = ops.add(u, low)
        return u if low <= high else ops.max(low, u)
    low, high = (
        broadcast_to_shape(low, shape) if type_of(low).shape else low,
        broadcast_to_shape(high, shape) if type_of(high).shape else high,
    )
    return ops.max(low, ops.add(ops.mul(u, ops.sub(high, low)), low))


def uniform(
    key: Any, shape: Any = (), dtype: Any = None, minval: Any = 0.0, maxval: Any = 1.0, *, out_sharding: Any = None
) -> Any:
    """Uniform numbers in [minval, maxval)."""
    dtype = float_dtype("uniform", dtype)
    shape = as_shape("uniform", shape)
    low, high = parameter("uniform", minval, dtype), parameter("uniform", maxval, dtype)
    sample_shape("uniform", shape, low, high)
    return between(words("uniform", key), shape, dtype, low, high)


@compiled_if_large
def gaussian(key: Words, shape: tuple[int, ...], dtype: Any) -> Any:
    """Standard normal numbers: the inverse error function of uniform ones."""
    low = np.nextafter(np.asarray(-1.0, dtype), np.asarray(0.0, dtype)).astype(dtype)[()]
    u = between(key, shape, dtype, low, np.ones((), dtype)[()])
    return ops.mul(ops.erf_inv(u), np.asarray(np.sqrt(2.0)).astype(dtype)[()])


def normal(key: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Standard normal numbers; complex ones have real and imaginary parts of variance 1/2."""
    dtype = dtypes.float_dtype() if dtype is None else as_dtype(dtype)
    shape = as_shape("normal", shape)
    k = words("normal", key)
    if is_complex(dtype):
        real = np.dtype(f"f{dtype.itemsize // 2}")
        root = real.type(np.sqrt(2.0))
        re, im = (ops.div(gaussian(part, shape, real), root) for part in fork(k))
        return ops.complex(re, im)
    if not is_float(dtype):
        raise ValueError(f"dtype argument to `normal` must be a float or complex dtype, got {dtype}")
    return gaussian(k, shape, dtype)


def randint(key: Any, shape: Any, minval: Any, maxval: Any, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Uniform integers in [minval, maxval)."""
    dtype = dtypes.int_dtype() if dtype is None else as_dtype(dtype)
    if not is_integer(dtype):
        raise TypeError(f"randint only accepts integer dtypes, got {dtype}")
    shape = as_shape("randint", shape)
    k = words("randint", key)
    # Narrow integers are drawn in 32 bits, where the bias of the remainder is small.
    drawn = np.dtype(np.int32) if dtype.itemsize < 4 else dtype
    info = np.iinfo(dtype)
    if all(isinstance(b, (int, np.integer)) for b in (minval, maxval)):
        out = _integers_of_known_range(k, shape, int(minval), int(maxval), drawn, info)
    else:
        low, high = (_integer_bound(b) for b in (minval, maxval))
        sample_shape("randint", shape, low, high)
        if dtype.itemsize < 4:
            low = _clip(low, np.dtype(np.int32), int(info.min), int(info.max))
            high = _clip(high, np.dtype(np.int32), int(info.min), int(info.max) + 1)
        out = _integers(k, shape, low, high, drawn)
    return out if drawn == dtype else ops.convert_element_type(out, dtype)


def _integer_bound(x: Any) -> Any:
    x = value("randint", x)
    t = type_of(x)
    return x if is_integer(t.dtype) else ops.convert_element_type(x, dtypes.int_dtype())


def _clip(x: Any, dtype: Any, low: int, high: int) -> Any:
    """`x` brought into [low, high] and converted."""
    own = type_of(x).dtype
    limits = np.iinfo(own)
    if low > limits.min or high < limits.max:
        x = ops.clamp(own.type(max(low, limits.min)), x, own.type(min(high, limits.max)))
    return x if own == dtype else ops.convert_element_type(x, dtype)


def _integers_of_known_range(k: Words, shape: tuple[int, ...], minval: int, maxval: int, dtype: Any, asked: Any) -> Any:
    """`_integers` with its arithmetic on bounds done now; half of the work falls away when the size of the range is a power of 2."""
    width = 8 * dtype.itemsize
    limits = np.iinfo(dtype)
    if width == 32 and asked.bits < 32:
        minval, maxval = min(max(minval, asked.min), asked.max), min(max(maxval, asked.min), asked.max + 1)
    beyond = maxval > limits.max
    low, high = (min(max(b, limits.min), limits.max) for b in (minval, maxval))
    span = (high - low) % (1 << width) if high > low else 1
    if beyond and high > low:
        span = (span + 1) % (1 << width)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    k1, k2 = fork(k)
    offset = random_bits(k2, width, shape)
    if span:
        offset = ops.rem(offset, unsigned.type(span))
        multiplier = (((1 << width // 2) % span) ** 2 % (1 << width)) % span
        if multiplier:
            higher = ops.rem(random_bits(k1, width, shape), unsigned.type(span))
            offset = ops.rem(ops.add(ops.mul(higher, unsigned.type(multiplier)), offset), unsigned.type(span))
    out = offset if dtype == unsigned else ops.convert_element_type(offset, dtype)
    return ops.add(out, dtype.type(low)) if low else out


def _integers(k: Words, shape: tuple[int, ...], minval: Any, maxval: Any, dtype: Any) -> Any:
    """Twice as many bits as the dtype has, modulo the size of the range: a bias too small to see without any rejection."""
    limits = np.iinfo(dtype)
    own = type_of(maxval).dtype
    greatest = min(int(limits.max), int(np.iinfo(own).max))
    beyond = ops.gt(maxval, own.type(greatest))
    low, high = (_clip(b, dtype, int(limits.min), int(limits.max)) for b in (minval, maxval))
    common = broadcast_shapes(type_of(low).shape, type_of(high).shape)
    low, high, beyond = (broadcast_to_shape(b, common) for b in (low, high, beyond))
    unsigned = np.dtype(f"u{dtype.itemsize}")
    one = unsigned.type(1)
    span = ops.sub(high, low)
    span = span if dtype == unsigned else ops.convert_element_type(span, unsigned)
    empty = ops.le(high, low)
    span = ops.select(empty, one, span)
    span = ops.select(ops.bitwise_and(beyond, ops.bitwise_not(empty)), ops.add(span, one), span)
    multiplier = ops.rem(unsigned.type(1 << (4 * dtype.itemsize)), span)
    multiplier = ops.rem(ops.mul(multiplier, multiplier), span)
    span, multiplier, low = (broadcast_to_shape(b, shape) if common else b for b in (span, multiplier, low))
    k1, k2 = fork(k)
    width = 8 * dtype.itemsize
    higher, lower = ops.rem(random_bits(k1, width, shape), span), ops.rem(random_bits(k2, width, shape), span)
    offset = ops.rem(ops.add(ops.mul(higher, multiplier), lower), span)
    return ops.add(offset if dtype == unsigned else ops.convert_element_type(offset, dtype), low)


def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, mode: str = "low", *, out_sharding: Any = None) -> Any:
    """True with probability p. Mode "high" resolves probabilities below the spacing of uniform numbers."""
    if mode not in ("high", "low"):
        raise ValueError(f"got mode={mode!r}, expected 'high' or 'low'")
    k = words("bernoulli", key)
    p = value("bernoulli", p)
    dtype = type_of(p).dtype
    if not is_float(dtype):
        raise TypeError(f"bernoulli probability `p` must have a floating dtype, got {dtype}.")
    shape = sample_shape("bernoulli", shape, p)
    p = parameter("bernoulli", p, dtype)
    p = broadcast_to_shape(p, shape) if type_of(p).shape else p
    if mode == "low":
        return ops.lt(unit(k, shape, dtype), p)
    pair = unit(k, (2, *shape), dtype)
    u1, u2 = (ops.reshape(ops.slice_in_dim(pair, i, i + 1), shape) for i in range(2))
    fine = ops.mul(u2, dtype.type(2.0 ** -dtypes.finfo(dtype).nmant))
    return ops.lt(fine, ops.sub(p, u1))


def rademacher(key: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """1 or -1, each with probability 1/2."""
    dtype = dtypes.int_dtype() if dtype is None else as_dtype(dtype)
    return signs(words("rademacher", key), as_shape("rademacher", shape), dtype)


def signs(k: Words, shape: tuple[int, ...], dtype: Any) -> Any:
    """1 or -1 in any dtype."""
    u = unit(k, shape, dtypes.float_dtype())
    one = np.asarray(1).astype(dtype)[()]
    minus = np.asarray(-1).astype(dtype)[()]
    return ops.select(ops.lt(u, type_of(u).dtype.type(0.5)), one, minus)
