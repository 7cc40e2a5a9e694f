"""Continuous distributions that are functions of a fixed number of uniform or normal numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_inexact
from tracegrad.lax.operands import as_dtype, axis_in, value
from tracegrad.lax.structural import broadcast_shapes
from tracegrad.numpy.promotion import broadcast_to_shape, promote_inexact
from tracegrad.random.keys import Words, as_shape, fork, words
from tracegrad.random.uniform import between, float_dtype, gaussian, normal, parameter, sample_shape, signs, unit


def _constant(dtype: Any, x: float) -> Any:
    return np.asarray(x).astype(dtype)[()]


def _spread(x: Any, shape: tuple[int, ...]) -> Any:
    """A parameter as an operand beside an array of `shape`: scalars stay scalars."""
    return broadcast_to_shape(x, shape) if type_of(x).shape else x


def truncated_normal(key: Any, lower: Any, upper: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Standard normal numbers conditioned to lie in (lower, upper)."""
    dtype = float_dtype("truncated_normal", dtype)
    lower, upper = parameter("truncated_normal", lower, dtype), parameter("truncated_normal", upper, dtype)
    shape = sample_shape("truncated_normal", shape, lower, upper)
    k = words("truncated_normal", key)
    root = _constant(dtype, np.sqrt(2.0))
    low, high = (_spread(b, shape) for b in (lower, upper))
    a, b = (ops.erf(ops.div(x, root)) for x in (low, high))
    u = between(k, shape, dtype, a, b)
    out = ops.mul(ops.erf_inv(u), root)
    # Rounding must not push a number onto or over a bound.
    inside = [ops.nextafter(ops.stop_gradient(x), _constant(dtype, limit)) for x, limit in ((low, np.inf), (high, -np.inf))]
    return ops.min(ops.max(out, inside[0]), inside[1])


def cauchy(key: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Standard Cauchy numbers."""
    dtype = float_dtype("cauchy", dtype)
    k, shape = words("cauchy", key), as_shape("cauchy", shape)
    u = between(k, shape, dtype, dtypes.finfo(dtype).eps, _constant(dtype, 1.0))
    return ops.tan(ops.mul(ops.sub(u, _constant(dtype, 0.5)), _constant(dtype, np.pi)))


def exponential(key: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Exponentially distributed numbers of rate 1."""
    dtype = float_dtype("exponential", dtype)
    return _exponential(words("exponential", key), as_shape("exponential", shape), dtype)


def _exponential(k: Words, shape: tuple[int, ...], dtype: Any) -> Any:
    # 1 - u is in (0, 1], where the logarithm is finite.
    return ops.neg(ops.log1p(ops.neg(unit(k, shape, dtype))))


def gumbel(key: Any, shape: Any = (), dtype: Any = None, mode: str | None = None, *, out_sharding: Any = None) -> Any:
    """Standard Gumbel numbers. Mode "high" draws twice as many bits, for long tails."""
    dtype = float_dtype("gumbel", dtype)
    if mode not in (None, "low", "high", "highest"):
        raise ValueError(f"Must provide valid mode for gumbel got: {mode}")
    if mode == "highest":
        raise NotImplementedError('gumbel: mode "highest" is not supported; use "high"')
    return _gumbel(words("gumbel", key), as_shape("gumbel", shape), dtype, mode or "low")


def _gumbel(k: Words, shape: tuple[int, ...], dtype: Any, mode: str) -> Any:
    info = dtypes.finfo(dtype)
    if mode == "low":
        return ops.neg(ops.log(ops.neg(ops.log(between(k, shape, dtype, _constant(dtype, info.tiny), _constant(dtype, 1.0))))))
    pair = unit(k, (2, *shape), dtype)
    high, low = (ops.reshape(ops.slice_in_dim(pair, i, i + 1), shape) for i in range(2))
    fine = ops.add(ops.add(high, ops.mul(low, _constant(dtype, 2.0**-info.nmant))), _constant(dtype, info.tiny))
    x = ops.select(ops.ge(high, _constant(dtype, 0.5)), high, fine)
    return ops.neg(ops.log(ops.neg(ops.log1p(ops.neg(x)))))


def laplace(key: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Standard Laplace numbers."""
    dtype = float_dtype("laplace", dtype)
    k, shape = words("laplace", key), as_shape("laplace", shape)
    u = between(k, shape, dtype, _constant(dtype, -1.0 + float(dtypes.finfo(dtype).epsneg)), _constant(dtype, 1.0))
    return ops.mul(ops.sign(u), ops.log1p(ops.neg(ops.abs(u))))


def logistic(key: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Standard logistic numbers."""
    dtype = float_dtype("logistic", dtype)
    k, shape = words("logistic", key), as_shape("logistic", shape)
    x = between(k, shape, dtype, _constant(dtype, dtypes.finfo(dtype).tiny), _constant(dtype, 1.0))
    return ops.sub(ops.log(x), ops.log1p(ops.neg(x)))


def pareto(key: Any, b: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Pareto distributed numbers of shape b."""
    dtype = float_dtype("pareto", dtype)
    b = parameter("pareto", b, dtype)
    shape = sample_shape("pareto", shape, b)
    return ops.exp(ops.div(_exponential(words("pareto", key), shape, dtype), _spread(b, shape)))


def rayleigh(key: Any, scale: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Rayleigh distributed numbers."""
    dtype = float_dtype("rayleigh", dtype)
    scale = parameter("rayleigh", scale, dtype)
    shape = sample_shape("rayleigh", shape, scale)
    u = unit(words("rayleigh", key), shape, dtype)
    return ops.mul(ops.sqrt(ops.mul(ops.log(u), _constant(dtype, -2.0))), _spread(scale, shape))


def triangular(
    key: Any, left: Any, mode: Any, right: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None
) -> Any:
    """Numbers of the triangular distribution over (left, right) with its peak at mode."""
    dtype = float_dtype("triangular", dtype)
    left, mode, right = (parameter("triangular", x, dtype) for x in (left, mode, right))
    shape = sample_shape("triangular", shape, left, mode, right)
    left, mode, right = (broadcast_to_shape(x, shape) for x in (left, mode, right))
    u = unit(words("triangular", key), shape, dtype)
    width = ops.sub(right, left)
    rising, falling = ops.sub(mode, left), ops.sub(right, mode)
    low = ops.add(left, ops.sqrt(ops.mul(ops.mul(u, width), rising)))
    high = ops.sub(right, ops.sqrt(ops.mul(ops.mul(ops.sub(_constant(dtype, 1.0), u), width), falling)))
    return ops.select(ops.lt(u, ops.div(rising, width)), low, high)


def lognormal(key: Any, sigma: Any = 1.0, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Numbers whose logarithm is normal with standard deviation sigma."""
    dtype = dtypes.float_dtype() if dtype is None else as_dtype(dtype)
    if not is_inexact(dtype):
        raise ValueError(f"dtype argument to `lognormal` must be a float or complex dtype, got {dtype}")
    sigma = parameter("lognormal", sigma, dtype)
    shape = sample_shape("lognormal", shape, sigma)
    return ops.exp(ops.mul(normal(key, shape, dtype), _spread(sigma, shape)))


def weibull_min(key: Any, scale: Any, concentration: Any, shape: Any = (), dtype: Any = None) -> Any:
    """Weibull distributed numbers."""
    dtype = float_dtype("weibull_min", dtype)
    k, shape = words("weibull_min", key), as_shape("weibull_min", shape)
    scale, concentration = (parameter("weibull_min", x, dtype) for x in (scale, concentration))
    out = broadcast_shapes(shape, type_of(scale).shape, type_of(concentration).shape)
    e = broadcast_to_shape(ops.neg(ops.log1p(ops.neg(unit(k, shape, dtype)))), out)
    power = ops.div(_constant(dtype, 1.0), concentration)
    return ops.mul(ops.pow(e, _spread(power, out)), _spread(scale, out))


def maxwell(key: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """The lengths of standard normal vectors in three dimensions."""
    dtype = float_dtype("maxwell", dtype)
    return _maxwell(words("maxwell", key), as_shape("maxwell", shape), dtype)


def _maxwell(k: Words, shape: tuple[int, ...], dtype: Any) -> Any:
    n = gaussian(k, (*shape, 3), dtype)
    return ops.sqrt(ops.reduce_sum(ops.square(n), (len(shape),)))


def double_sided_maxwell(key: Any, loc: Any, scale: Any, shape: Any = (), dtype: Any = None) -> Any:
    """Maxwell distributed numbers with random signs, scaled and moved."""
    dtype = float_dtype("double_sided_maxwell", dtype)
    loc, scale = (parameter("double_sided_maxwell", x, dtype) for x in (loc, scale))
    parameters = broadcast_shapes(type_of(loc).shape, type_of(scale).shape)
    shape = (as_shape("double_sided_maxwell", shape) or parameters) + parameters
    k1, k2 = fork(words("double_sided_maxwell", key))
    out = ops.mul(signs(k2, shape, dtype), _maxwell(k1, shape, dtype))
    return ops.add(ops.mul(out, _spread(scale, shape)), _spread(loc, shape))


def wald(key: Any, mean: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Numbers of the Wald (inverse Gaussian) distribution with this mean and concentration 1."""
    dtype = float_dtype("wald", dtype)
    mean = parameter("wald", mean, dtype)
    shape = sample_shape("wald", shape, mean)
    k1, k2 = fork(words("wald", key))
    m = broadcast_to_shape(mean, shape)
    y = ops.square(gaussian(k1, shape, dtype))
    z = unit(k2, shape, dtype)
    squared = ops.square(m)
    root = ops.sqrt(ops.add(ops.mul(ops.mul(m, _constant(dtype, 4.0)), y), ops.mul(squared, ops.square(y))))
    x = ops.sub(ops.add(m, ops.div(ops.mul(squared, y), _constant(dtype, 2.0))), ops.mul(ops.div(m, _constant(dtype, 2.0)), root))
    return ops.select(ops.le(z, ops.div(m, ops.add(m, x))), x, ops.div(squared, x))


def multivariate_normal(
    key: Any, mean: Any, cov: Any, shape: Any = None, dtype: Any = None, method: str = "cholesky", *, out_sharding: Any = None
) -> Any:
    """Normal vectors with this mean (..., n) and covariance (..., n, n)."""
    from tracegrad.lax import linalg

    if method not in ("svd", "eigh", "cholesky"):
        raise ValueError("method must be one of {'svd', 'eigh', 'cholesky'}")
    mean, cov = promote_inexact("multivariate_normal", mean, cov)
    dtype = type_of(mean).dtype if dtype is None else float_dtype("multivariate_normal", dtype)
    m, c = type_of(mean), type_of(cov)
    if m.ndim < 1:
        raise ValueError(f"multivariate_normal requires mean.ndim >= 1, got mean.ndim == {m.ndim}")
    if c.ndim < 2:
        raise ValueError(f"multivariate_normal requires cov.ndim >= 2, got cov.ndim == {c.ndim}")
    n = m.shape[-1]
    if c.shape[-2:] != (n, n):
        raise ValueError(f"multivariate_normal requires cov.shape == (..., n, n) for n={n}, but got cov.shape == {c.shape}.")
    batch = broadcast_shapes(m.shape[:-1], c.shape[:-2])
    if shape is None:
        shape = batch
    else:
        shape = as_shape("multivariate_normal", shape)
        if broadcast_shapes(shape, batch) != shape:
            raise ValueError(
                f"multivariate_normal: the batch shape {batch} of the parameters does not broadcast to shape {shape}"
            )
    if method == "cholesky":
        factor = linalg.cholesky(cov)
    else:
        if method == "svd":
            vectors, scale, _ = linalg.svd(cov, full_matrices=False)
        else:
            vectors, scale = linalg.eigh(cov)
        root = ops.sqrt(scale)
        factor = ops.mul(vectors, ops.broadcast_in_dim(root, c.shape, (*range(c.ndim - 2), c.ndim - 1)))
    samples = normal(key, (*shape, n), dtype)
    if type_of(factor).dtype != dtype:
        factor = ops.convert_element_type(factor, dtype)
    if c.ndim == 2:
        moved = ops.dot_general(samples, factor, (((len(shape),), (1,)), ((), ())))
    else:
        factor = broadcast_to_shape(factor, (*shape, n, n))
        dims = tuple(range(len(shape)))
        moved = ops.dot_general(factor, samples, (((len(shape) + 1,), (len(shape),)), (dims, dims)))
    if m.dtype != dtype:
        mean = ops.convert_element_type(mean, dtype)
    return ops.add(moved, broadcast_to_shape(mean, (*shape, n)))


def orthogonal(key: Any, n: int, shape: Any = (), dtype: Any = None, m: int | None = None, *, out_sharding: Any = None) -> Any:
    """Uniformly random orthogonal (unitary) n by n matrices, or n by m ones with orthonormal rows or columns."""
    from tracegrad.lax import linalg

    dtype = dtypes.float_dtype() if dtype is None else as_dtype(dtype)
    shape = as_shape("orthogonal", shape)
    m = n if m is None else m
    rows, columns = max(n, m), min(n, m)
    z = normal(key, (*shape, rows, columns), dtype)
    q, r = linalg.qr(z, full_matrices=False)
    diagonal = _diagonal(r, len(shape), columns)
    # The signs of the diagonal make the factorization unique, and so the distribution of q uniform.
    turned = ops.mul(q, ops.broadcast_in_dim(ops.sign(diagonal), (*shape, rows, columns), (*range(len(shape)), len(shape) + 1)))
    if n < m:
        rank = len(shape)
        turned = ops.transpose(turned, (*range(rank), rank + 1, rank))
    return turned


def _diagonal(x: Any, batch: int, n: int) -> Any:
    t = type_of(x)
    flat = ops.reshape(x, (*t.shape[:batch], n * n))
    return ops.slice_in_dim(flat, 0, n * n, n + 1, batch)


def categorical_scores(k: Words, logits: Any, shape: tuple[int, ...], mode: str) -> Any:
    """Logits, broadcast to a shape, plus Gumbel noise: the largest along an axis is a sample."""
    return ops.add(_gumbel(k, shape, type_of(logits).dtype, mode), broadcast_to_shape(logits, shape))


def categorical(
    key: Any,
    logits: Any,
    axis: int = -1,
    shape: Any = None,
    replace: bool = True,
    mode: str | None = None,
    *,
    out_sharding: Any = None,
) -> Any:
    """Indices along an axis, with probabilities proportional to exp(logits)."""
    k = words("categorical", key)
    logits = value("categorical", logits, 1)
    t = type_of(logits)
    if not is_inexact(t.dtype):
        raise ValueError(f"dtype argument to `gumbel` must be a float dtype, got {t.dtype}")
    axis = axis_in(axis, t.ndim)
    batch = t.shape[:axis] + t.shape[axis + 1 :]
    if shape is None:
        shape = batch
    else:
        shape = as_shape("categorical", shape)
        try:
            agrees = broadcast_shapes(shape, batch) == shape
        except ValueError:
            agrees = False
        if not agrees:
            raise ValueError(f"categorical: the logits' batch shape {batch} does not broadcast to the shape {shape}")
    prefix = shape[: len(shape) - len(batch)]
    if replace:
        inner = list(shape[len(prefix) :])
        inner.insert(axis, t.shape[axis])
        scores = categorical_scores(k, logits, (*prefix, *inner), mode or "low")
        return ops.argmax(scores, len(prefix) + axis, dtypes.int_dtype())
    scores = categorical_scores(k, logits, t.shape, mode or "low")
    count = math.prod(prefix)
    if count > t.shape[axis]:
        raise ValueError(f"Number of samples without replacement ({count}) cannot exceed number of categories ({t.shape[axis]}).")
    if axis != t.ndim - 1:
        scores = ops.transpose(scores, (*[d for d in range(t.ndim) if d != axis], axis))
    _, indices = ops.top_k(scores, count)
    rank = len(batch)
    return ops.reshape(ops.transpose(indices, (rank, *range(rank))), shape)
