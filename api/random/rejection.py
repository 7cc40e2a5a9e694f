"""Distributions sampled by rejection: gamma and what is made of it, Poisson, binomial and multinomial."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_integer
from tracegrad.lax.operands import as_dtype, value
from tracegrad.lax.structural import broadcast_shapes
from tracegrad.numpy.promotion import broadcast_to_shape, promote_inexact
from tracegrad.random.continuous import _exponential
from tracegrad.random.keys import Words, as_shape, fork, split_words, words
from tracegrad.random.uniform import float_dtype, gaussian, parameter, sample_shape, signs, unit
from tracegrad.tracer.control_flow import map as map_over
from tracegrad.tracer.control_flow import scan, while_loop
from tracegrad.transforms.custom import custom_jvp

MOST = 2**31 - 1
"""A bound on the rounds of a rejection loop that no run reaches."""


# Gamma: Marsaglia and Tsang, "A simple method for generating gamma variables", 2000.
def _gamma_one(key: Words, alpha: Any, log_space: bool) -> Any:
    """One gamma number. Below 1, alpha is raised by 1, and a power of a uniform number (its logarithm: a multiple) makes up for it."""
    dtype = type_of(alpha).dtype
    one = dtype.type(1)
    large = ops.ge(alpha, one)
    raised = ops.select(large, alpha, ops.add(alpha, one))
    d = raised - dtype.type(1 / 3)
    c = dtype.type(1 / 3) / ops.sqrt(d)
    key, boost_key = fork(key)

    def rejected(state: Any) -> Any:
        _, _, squared, v, u = state
        outside = u >= one - dtype.type(0.0331) * (squared * squared)
        return outside & (ops.log(u) >= squared * dtype.type(0.5) + d * ((one - v) + ops.log(v)))

    def propose(state: Any) -> Any:
        key, x_key, u_key = fork(Words(state[0], state[1]), 3)

        def draw(state: Any) -> Any:
            k, sub = fork(Words(state[0], state[1]))
            x = gaussian(sub, (), dtype)
            return k.k0, k.k1, x, one + x * c

        start = (x_key.k0, x_key.k1, dtype.type(0), dtype.type(-1))
        _, _, x, v = while_loop(lambda s: s[3] <= dtype.type(0), draw, start)
        return key.k0, key.k1, x * x, (v * v) * v, unit(u_key, (), dtype)

    start = (key.k0, key.k1, dtype.type(0), one, dtype.type(2))  # a state that is rejected
    v = while_loop(rejected, propose, start)[3]
    if log_space:
        log_u = ops.neg(_exponential(boost_key, (), dtype))
        boost = ops.select(large | (log_u == 0), dtype.type(0), log_u * (one / alpha))
        return (ops.log(d) + ops.log(v)) + boost
    u = one - unit(boost_key, (), dtype)
    return (d * v) * ops.select(large, one, ops.pow(u, one / alpha))


def _gamma_samples(log_space: bool, k0: Any, k1: Any, alphas: Any) -> Any:
    """Gamma numbers, one for each pair of words and alpha of one shape."""
    shape = type_of(alphas).shape
    if math.prod(shape) == 1:
        flat = [ops.reshape(x, ()) for x in (k0, k1, alphas)]
        return ops.reshape(_gamma_one(Words(*flat[:2]), flat[2], log_space), shape)
    flat = [ops.reshape(x, (math.prod(shape),)) for x in (k0, k1, alphas)]
    return ops.reshape(map_over(lambda args: _gamma_one(Words(*args[:2]), args[2], log_space), tuple(flat)), shape)


_sample_gamma = custom_jvp(_gamma_samples, nondiff_argnums=(0,))


@_sample_gamma.defjvp
def _sample_gamma_jvp(log_space: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    out = _sample_gamma(log_space, *primals)
    alphas, dtype = primals[2], type_of(out).dtype
    if log_space:
        # The derivative of the logarithm; a sample that underflows counts as the least normal number.
        sample = ops.exp(out)
        sample = ops.select(sample == 0, dtypes.finfo(dtype).tiny, sample)
        slope = ops.div(ops.random_gamma_grad(alphas, sample), sample)
    else:
        slope = ops.random_gamma_grad(alphas, out)
    return out, ops.mul(tangents[2], slope)


def _gamma(key: Words, a: Any, shape: tuple[int, ...], log_space: bool = False) -> Any:
    size = math.prod(shape)
    a = broadcast_to_shape(a, shape)
    if size == 0:
        return a
    k0, k1 = (ops.reshape(k, shape) for k in split_words(key, size))
    return _sample_gamma(log_space, k0, k1, a)


def gamma(key: Any, a: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Gamma distributed numbers of shape a and scale 1, differentiable in a."""
    dtype = float_dtype("gamma", dtype)
    a = parameter("gamma", a, dtype)
    return _gamma(words("gamma", key), a, sample_shape("gamma", shape, a))


def loggamma(key: Any, a: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Logarithms of gamma distributed numbers, exact also for small a, where the numbers themselves underflow."""
    dtype = float_dtype("loggamma", dtype)
    a = parameter("loggamma", a, dtype)
    return _gamma(words("loggamma", key), a, sample_shape("loggamma", shape, a), log_space=True)


def beta(key: Any, a: Any, b: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Beta distributed numbers."""
    dtype = float_dtype("beta", dtype)
    a, b = parameter("beta", a, dtype), parameter("beta", b, dtype)
    shape = sample_shape("beta", shape, a, b)
    k1, k2 = fork(words("beta", key))
    log_a, log_b = _gamma(k1, a, shape, True), _gamma(k2, b, shape, True)
    largest = ops.max(log_a, log_b)
    part, other = ops.exp(log_a - largest), ops.exp(log_b - largest)
    return part / (part + other)


def dirichlet(key: Any, alpha: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Dirichlet distributed vectors, along the last axis."""
    from tracegrad.nn import softmax

    dtype = float_dtype("dirichlet", dtype)
    alpha = parameter("dirichlet", alpha, dtype)
    own = type_of(alpha).shape
    if not own:
        raise ValueError("dirichlet requires alpha.ndim >= 1, got alpha.ndim == 0")
    shape = own[:-1] if shape is None else as_shape("dirichlet", shape)
    if broadcast_shapes(shape, own[:-1]) != shape:
        raise ValueError(f"dirichlet: the batch shape {own[:-1]} of alpha does not broadcast to the shape {shape}")
    return softmax(_gamma(words("dirichlet", key), alpha, shape + own[-1:], True), -1)


def _chisquare(key: Words, df: Any, shape: tuple[int, ...]) -> Any:
    two = type_of(df).dtype.type(2)
    return ops.exp(_gamma(key, df / two, shape, True)) * two


def chisquare(key: Any, df: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Chi-square distributed numbers with df degrees of freedom."""
    df = parameter("chisquare", df, float_dtype("chisquare", dtype))
    return _chisquare(words("chisquare", key), df, sample_shape("chisquare", shape, df))


def f(key: Any, dfnum: Any, dfden: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """F distributed numbers with dfnum and dfden degrees of freedom."""
    dtype = float_dtype("f", dtype)
    top, bottom = parameter("f", dfnum, dtype), parameter("f", dfden, dtype)
    shape = sample_shape("f", shape, top, bottom)
    k1, k2 = fork(words("f", key))
    denominator = _chisquare(k1, bottom, shape) / broadcast_to_shape(bottom, shape)
    return (_chisquare(k2, top, shape) / broadcast_to_shape(top, shape)) / denominator


def t(key: Any, df: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Student's t distributed numbers with df degrees of freedom."""
    dtype = float_dtype("t", dtype)
    df = parameter("t", df, dtype)
    shape = sample_shape("t", shape, df)
    k1, k2 = fork(words("t", key))
    half = broadcast_to_shape(df / dtype.type(2), shape)
    return gaussian(k1, shape, dtype) * ops.sqrt(half / _gamma(k2, half, shape))


def generalized_normal(key: Any, p: Any, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Numbers of density proportional to exp(-|x|**p)."""
    dtype = float_dtype("generalized_normal", dtype)
    return _generalized_normal(words("generalized_normal", key), p, as_shape("generalized_normal", shape), dtype)


def _generalized_normal(key: Words, p: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    k1, k2 = fork(key)
    g = _gamma(k1, parameter("generalized_normal", 1 / p, dtype), shape)
    return signs(k2, shape, dtype) * g ** (1 / p)


def ball(key: Any, d: int, p: Any = 2, shape: Any = (), dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Points distributed uniformly in the unit ball of d dimensions with the p-norm."""
    dtype = float_dtype("ball", dtype)
    shape = as_shape("ball", shape)
    k1, k2 = fork(words("ball", key))
    g = _generalized_normal(k1, p, (*shape, operator.index(d)), dtype)
    e = _exponential(k2, shape, dtype)
    radius = (jnp.sum(jnp.abs(g) ** p, -1) + e) ** (1 / p)
    return g / jnp.expand_dims(radius, -1)


# Poisson: Knuth's product of uniform numbers below a mean of 10, Hormann's transformed rejection (1993) above.
def _any(x: Any) -> Any:
    return ops.reduce_or(x, range(type_of(x).ndim)) if type_of(x).ndim else x


def _poisson_small(key: Words, lam: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    single = np.dtype(np.float32)

    def body(state: Any) -> Any:
        i, count, k0, k1, log_product = state
        key, sub = fork(Words(k0, k1))
        count = ops.select(log_product > -lam, count + dtype.type(1), count)
        return i + 1, count, key.k0, key.k1, log_product + ops.log(unit(sub, shape, single))

    zeros = [ops.broadcast_in_dim(d.type(0), shape, ()) for d in (dtype, single)]
    start = (np.int32(0), zeros[0], *key, zeros[1])
    return while_loop(lambda s: _any(s[4] > -lam) & (s[0] < MOST), body, start)[1] - dtype.type(1)


def _poisson_large(key: Words, lam: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    log_lam = ops.log(lam)
    b = 0.931 + 2.53 * ops.sqrt(lam)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2)
    single = np.dtype(np.float32)

    def body(state: Any) -> Any:
        i, out, accepted, k0, k1 = state
        key, k_u, k_v = fork(Words(k0, k1), 3)
        u = unit(k_u, shape, single) - 0.5
        v = unit(k_v, shape, single)
        shifted = 0.5 - ops.abs(u)
        k = ops.floor((2 * a / shifted + b) * u + lam + 0.43)
        s = ops.log(v * inverse_alpha / (a / (shifted * shifted) + b))
        limit = -lam + k * log_lam - ops.lgamma(k + 1)
        surely = (shifted >= 0.07) & (v <= v_r)
        never = (k < 0) | ((shifted < 0.013) & (v > shifted))
        accept = surely | (~never & (s <= limit))
        return i + 1, ops.select(accept, k, out), accepted | accept, key.k0, key.k1

    start = (
        np.int32(0), ops.broadcast_in_dim(np.float32(-1), shape, ()), ops.broadcast_in_dim(np.bool_(False), shape, ()), *key,
    )  # fmt: skip
    out = while_loop(lambda s: _any(~s[2]) & (s[0] < MOST), body, start)[1]
    return ops.convert_element_type(out, dtype)


def poisson(key: Any, lam: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """Poisson distributed integers of mean lam."""
    dtype = dtypes.int_dtype() if dtype is None else as_dtype(dtype)
    k = words("poisson", key)
    known = float(lam) if isinstance(lam, (int, float, np.number)) else None
    lam = parameter("poisson", lam, np.dtype(np.float32))
    shape = sample_shape("poisson", shape, lam)
    if known is not None and known > 0:  # only one of the algorithms is needed
        spread = ops.broadcast_in_dim(lam, shape, ())
        return (_poisson_small if known < 10 else _poisson_large)(k, spread, shape, dtype)
    lam = broadcast_to_shape(lam, shape)
    small = (lam < 10) | (lam != lam)
    few = _poisson_small(k, ops.select(small, lam, np.float32(0)), shape, dtype)
    many = _poisson_large(k, ops.select(small, np.float32(1e5), lam), shape, dtype)
    return ops.select(lam == 0, dtype.type(0), ops.select(small, few, many))


# Binomial: sums of geometric numbers below a mean of 10, Hormann's transformed rejection (BTRS, 1993) above.
_TAIL = (
    0.0810614667953272, 0.0413406959554092, 0.0276779256849983, 0.02079067210376509, 0.0166446911898211, 0.0138761288230707,
    0.0118967099458917, 0.0104112652619720, 0.00925546218271273, 0.00833056343336287,
)  # fmt: skip


def _stirling_tail(k: Any) -> Any:
    """log k! minus Stirling's approximation: tabulated up to 9, a series above."""
    table = jnp.asarray(np.array(_TAIL), type_of(k).dtype)
    tabulated = k <= 9
    k = jnp.clip(k, 0.0, 9.0)
    squared = (k + 1) * (k + 1)
    series = (1.0 / 12 - (1.0 / 360 - 1.0 / 1260 / squared) / squared) / (k + 1)
    return jnp.where(tabulated, table[jnp.floor(k).astype(np.int32)], series)


def _binomial_small(key: Words, count: Any, prob: Any, shape: tuple[int, ...]) -> Any:
    dtype = type_of(prob).dtype
    log_failure = ops.log1p(-prob)

    def body(state: Any) -> Any:
        i, successes, total, k0, k1 = state
        sub, key = fork(Words(k0, k1))
        successes = ops.select(total <= count, successes + 1, successes)
        gap = ops.ceil(ops.log(unit(sub, shape, dtype)) / log_failure)
        return i + 1, successes, total + gap, key.k0, key.k1

    zero = ops.broadcast_in_dim(dtype.type(0), shape, ())
    out = while_loop(lambda s: _any(s[2] <= count) & (s[0] < MOST), body, (np.int32(0), zero, zero, *key))
    return out[1] - 1


def _binomial_large(key: Words, count: Any, prob: Any, shape: tuple[int, ...]) -> Any:
    dtype = type_of(prob).dtype
    deviation = ops.sqrt(count * prob * (1 - prob))
    b = 1.15 + 2.53 * deviation
    a = -0.0873 + 0.0248 * b + 0.01 * prob
    c = count * prob + 0.5
    v_r = 0.92 - 4.2 / b
    r = prob / (1 - prob)
    alpha = (2.83 + 5.1 / b) * deviation
    m = ops.floor((count + 1) * prob)

    def body(state: Any) -> Any:
        i, out, accepted, k0, k1 = state
        key, k_u, k_v = fork(Words(k0, k1), 3)
        u = unit(k_u, shape, dtype) - 0.5
        v = unit(k_v, shape, dtype)
        us = 0.5 - ops.abs(u)
        surely = (us >= 0.07) & (v <= v_r)
        k = ops.floor((2 * a / us + b) * u + c)
        never = (k < 0) | (k > count)
        v = ops.log(v * alpha / (a / (us * us) + b))
        bound = (
            (m + 0.5) * ops.log((m + 1) / (r * (count - m + 1)))
            + (count + 1) * ops.log((count - m + 1) / (count - k + 1))
            + (k + 0.5) * ops.log(r * (count - k + 1) / (k + 1))
            + _stirling_tail(m)
            + _stirling_tail(count - m)
            - _stirling_tail(k)
            - _stirling_tail(count - k)
        )
        accept = surely | (~never & (v <= bound))
        return i + 1, ops.select(accept, k, out), accepted | accept, key.k0, key.k1

    start = (
        np.int32(0), ops.broadcast_in_dim(dtype.type(-1), shape, ()), ops.broadcast_in_dim(np.bool_(False), shape, ()), *key,
    )  # fmt: skip
    return while_loop(lambda s: _any(~s[2]) & (s[0] < MOST), body, start)[1]


def _binomial(k: Words, n: Any, p: Any, shape: Any, dtype: Any) -> Any:
    (prob,) = promote_inexact("binomial", p)
    inner = type_of(prob).dtype
    count = parameter("binomial", n, inner)
    shape = sample_shape("binomial", shape, count, prob)
    count, prob = broadcast_to_shape(jnp.asarray(count), shape), broadcast_to_shape(prob, shape)
    rare = prob < 0.5
    q = ops.select(rare, prob, 1.0 - prob)
    bad_count = (count != count) | (count < 0.0)
    bad_q = (q != q) | (q < 0.0)
    q_nan = q != q
    infinite = ops.abs(count) == np.inf
    q = ops.select(bad_q, inner.type(0.01), q)
    small = bad_count | (count * q <= 10.0)
    count = ops.floor(count)
    few = _binomial_small(k, ops.select(small, count, inner.type(0)), q, shape)
    many = _binomial_large(k, ops.select(small, inner.type(1e4), count), ops.select(small, inner.type(0.5), q), shape)
    out = ops.convert_element_type(ops.select(small, few, many), dtype)
    invalid = bad_q | bad_count
    out = ops.select(invalid, dtype.type(np.nan), out)
    out = ops.select(infinite & ~invalid, dtype.type(np.inf), out)
    return ops.select(rare | bad_count | q_nan | infinite, out, ops.convert_element_type(count, dtype) - out)


def binomial(key: Any, n: Any, p: Any, shape: Any = None, dtype: Any = None) -> Any:
    """Binomial numbers (as floats): successes among n trials of probability p."""
    dtype = float_dtype("binomial", dtype)
    return _binomial(words("binomial", key), value("binomial", n, 1), value("binomial", p, 2), shape, dtype)


def multinomial(key: Any, n: Any, p: Any, *, shape: Any = None, dtype: Any = None, unroll: int | bool = 1) -> Any:
    """How many of n trials fall to each of the outcomes along p's last axis."""
    k = words("multinomial", key)
    n, p = promote_inexact("multinomial", n, p)
    shape = type_of(p).shape if shape is None else as_shape("multinomial", shape)
    inner = type_of(p).dtype
    n, p = broadcast_to_shape(n, shape[:-1]), broadcast_to_shape(p, shape)
    p = jnp.moveaxis(p, -1, 0)
    rest = ops.cumsum(p, 0, True)
    ratios = p / jnp.where(rest == 0, 1, rest)

    def step(remaining: Any, xs: Any) -> Any:
        ratio, k0, k1 = xs
        count = _binomial(Words(k0, k1), remaining, jnp.clip(ratio, 0, 1), None, inner)
        return remaining - count, count

    _, counts = scan(step, n, (ratios, *split_words(k, type_of(ratios).shape[0])), unroll=unroll)
    out = jnp.moveaxis(counts, 0, -1)
    return out if dtype is None else out.astype(dtype)


def geometric(key: Any, p: Any, shape: Any = None, dtype: Any = None, *, out_sharding: Any = None) -> Any:
    """The number of trials of probability p up to the first success."""
    dtype = dtypes.int_dtype() if dtype is None else as_dtype(dtype)
    if not is_integer(dtype):
        raise ValueError(f"dtype argument to `geometric` must be an int dtype, got {dtype}")
    (p,) = promote_inexact("geometric", p)
    shape = sample_shape("geometric", shape, p)
    u = unit(words("geometric", key), shape, type_of(p).dtype)
    u = ops.select(u == 0, type_of(u).dtype.type(1), u)  # the logarithm of 0 would be infinite
    g = ops.floor(ops.log(u) / broadcast_to_shape(ops.log1p(-p), shape)) + 1
    return ops.convert_element_type(g, dtype)
