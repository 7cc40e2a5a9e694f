"""Functions over an axis: logsumexp, softmax, standardization, one-hot vectors, attention."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex, is_float
from tracegrad.lax.operands import as_dtype, axis_in
from tracegrad.numpy.promotion import as_array, inexact, promote_inexact


def _axes(axis: Any, rank: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(rank))
    many = axis if isinstance(axis, (tuple, list)) else (axis,)
    return tuple(sorted(axis_in(a, rank) for a in many))


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if d in axes else n for d, n in enumerate(shape))


def _over(reduced: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """A reduction's result repeated over the axes that were reduced."""
    return ops.broadcast_in_dim(reduced, shape, [d for d in range(len(shape)) if d not in axes])


def _mask(where: Any, shape: tuple[int, ...]) -> Any:
    return None if where is None else jnp.broadcast_to(as_array("where", where), shape)


def _largest(x: Any, axes: tuple[int, ...], where: Any) -> Any:
    """The maximum, as a constant to derivatives, with 0 in the place of infinities."""
    dtype = type_of(x).dtype
    x = ops.stop_gradient(x)
    if where is not None:
        x = ops.select(where, x, dtype.type(-np.inf))
    return ops.reduce_max(x, axes)


def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False, where: Any = None
) -> Any:
    """log(sum(b * exp(a))) over axes, without overflow; with `return_sign`, of the absolute value, and the sign beside it."""
    if b is None:
        (a,) = promote_inexact("logsumexp", a)
    else:
        a, b = promote_inexact("logsumexp", a, b)
        a, b = jnp.broadcast_arrays(a, b)
        # A factor of zero takes its term away, even an infinite one.
        a = jnp.where(b != 0, a, -jnp.inf)
    t = type_of(a)
    axes, shape = _axes(axis, t.ndim), t.shape
    mask = _mask(where, shape)
    amax = _largest(a.real if is_complex(t.dtype) else a, axes, mask)
    amax = ops.select(ops.is_finite(amax), amax, type_of(amax).dtype.type(0))
    shift = amax if not is_complex(t.dtype) else ops.convert_element_type(amax, t.dtype)
    terms = ops.exp(ops.sub(a, _over(shift, shape, axes)))
    if b is not None:
        terms = ops.mul(terms, b)
    if mask is not None:
        terms = ops.select(mask, terms, t.dtype.type(0))
    total = ops.reduce_sum(terms, axes)
    if return_sign:
        sign = ops.sign(total)
        total = ops.abs(total)
        out = ops.add(ops.log(total), amax)
    else:
        out = ops.log(total)
        if b is not None and is_float(t.dtype):
            out = ops.select(ops.lt(total, t.dtype.type(0)), t.dtype.type(np.nan), out)
        out = ops.add(out, shift)
    if keepdims:
        out = ops.reshape(out, _kept(shape, axes))
        if return_sign:
            sign = ops.reshape(sign, _kept(shape, axes))
    return (out, sign) if return_sign else out


def logmeanexp(x: Any, axis: Any = None, where: Any = None, keepdims: bool = False) -> Any:
    """log(mean(exp(x))) over axes."""
    x = inexact("logmeanexp", x)
    t = type_of(x)
    axes = _axes(axis, t.ndim)
    total = logsumexp(x, axis=axes, where=where, keepdims=keepdims)
    if where is None:
        count: Any = float(np.prod([t.shape[d] for d in axes]))
        return total - float(np.log(count))
    count = jnp.sum(_mask(where, t.shape), axis=axes, keepdims=keepdims)
    return total - jnp.log(count)


def softmax(x: Any, axis: Any = -1, where: Any = None) -> Any:
    """exp(x) / sum(exp(x)) along an axis; elements outside `where` count as -inf."""
    x = inexact("softmax", x)
    t = type_of(x)
    axes = _axes(axis, t.ndim)
    mask = _mask(where, t.shape)
    if any(t.shape[d] == 0 for d in axes):
        return x
    terms = ops.exp(ops.sub(x, _over(_largest(x, axes, mask), t.shape, axes)))
    if mask is not None:
        terms = ops.select(mask, terms, t.dtype.type(0))
    return ops.div(terms, _over(ops.reduce_sum(terms, axes), t.shape, axes))


def log_softmax(x: Any, axis: Any = -1, where: Any = None) -> Any:
    """log(softmax(x)) along an axis, without overflow."""
    x = inexact("log_softmax", x)
    t = type_of(x)
    axes = _axes(axis, t.ndim)
    mask = _mask(where, t.shape)
    if any(t.shape[d] == 0 for d in axes):
        return x
    shifted = ops.sub(x, _over(_largest(x, axes, mask), t.shape, axes))
    terms = ops.exp(shifted)
    if mask is not None:
        terms = ops.select(mask, terms, t.dtype.type(0))
    out = ops.sub(shifted, _over(ops.log(ops.reduce_sum(terms, axes)), t.shape, axes))
    return out if mask is None else ops.select(mask, out, t.dtype.type(-np.inf))


def standardize(
    x: Any,
    axis: Any = -1,
    mean: Any = None,
    variance: Any = None,
    epsilon: Any = 1e-5,
    where: Any = None,
    *,
    algorithm: str = "fast",
) -> Any:
    """(x - mean) / sqrt(variance + epsilon), of mean 0 and variance 1 along an axis. `algorithm`: "fast" or "stable"."""
    x = inexact("standardize", x)
    if algorithm not in ("fast", "stable"):
        raise ValueError(f'standardize: algorithm must be "fast" or "stable", got {algorithm!r}')
    if mean is None:
        mean = jnp.mean(x, axis, keepdims=True, where=where)
    if variance is None:
        if algorithm == "fast":
            # The difference of the second moment and the squared mean needs one pass; rounding may make it negative.
            variance = jnp.mean(jnp.square(x), axis, keepdims=True, where=where) - jnp.square(mean)
            variance = jnp.maximum(variance, 0)
        else:
            variance = jnp.mean(jnp.square(x - mean), axis, keepdims=True, where=where)
    return jnp.subtract(x, jnp.asarray(mean)) * ops.rsqrt(jnp.asarray(variance) + epsilon)


def one_hot(x: Any, num_classes: int, *, dtype: Any = None, axis: Any = -1) -> Any:
    """A vector of `num_classes` for each element of x: 1 at its index, else 0; all 0 for an index out of range."""
    num_classes = operator.index(num_classes)
    dtype = dtypes.float_dtype() if dtype is None else as_dtype(dtype)
    x = as_array("one_hot", x)
    t = type_of(x)
    axis = axis_in(axis, t.ndim + 1)
    shape = (*t.shape[:axis], num_classes, *t.shape[axis:])
    classes = ops.broadcasted_iota(t.dtype, shape, axis)
    spread = ops.broadcast_in_dim(x, shape, [d for d in range(len(shape)) if d != axis])
    return ops.convert_element_type(ops.eq(spread, classes), dtype)


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: Any = None,
    key_value_seq_lengths: Any = None,
    local_window_size: Any = None,
    implementation: str | None = None,
    return_residual: bool = False,
) -> Any:
    """softmax(query key^T * scale + bias) value, over arrays of shape (batch,) length, heads, features.

    Heads of keys and values may be fewer than those of queries, which then share them. `mask` is true for what may be attended to.
    """
    if implementation not in (None, "xla", "cudnn"):
        raise ValueError(f"unsupported implementation: {implementation!r}")
    shape = jnp.shape(query)
    batched = len(shape) == 4
    q, k, v = (x if batched else jnp.expand_dims(x, 0) for x in (query, key, value))
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    b, t, n, h = q.shape
    s, groups = k.shape[1], k.shape[2]
    if k.shape != (b, s, groups, h) or v.shape[:3] != (b, s, groups):
        raise ValueError(f"dot_product_attention: shapes of query {q.shape}, key {k.shape} and value {v.shape} do not fit")
    if n % groups:
        raise ValueError(f"dot_product_attention: {n} heads of queries cannot share {groups} heads of keys and values")
    if groups != n:
        k, v = jnp.repeat(k, n // groups, axis=2), jnp.repeat(v, n // groups, axis=2)
    scale = 1.0 / float(np.sqrt(h)) if scale is None else scale
    wide = np.dtype(np.float32) if type_of(q).dtype.itemsize < 4 else type_of(q).dtype
    # (b, t, n, h) with (b, s, n, h) over h, batched over b and n
    logits = ops.dot_general(q, k, (((3,), (3,)), ((0, 2), (0, 2))), wide) * scale
    if bias is not None:
        logits = logits + jnp.asarray(bias if batched or jnp.ndim(bias) == 4 else jnp.expand_dims(bias, 0))
    visible = _visible(b, t, s, mask if mask is None or batched or jnp.ndim(mask) == 4 else jnp.expand_dims(mask, 0), is_causal,
                       query_seq_lengths, key_value_seq_lengths, local_window_size)  # fmt: skip
    if visible is not None:
        # A finite number: a row with nothing to attend to gives uniform weights, not NaN.
        logits = jnp.where(visible, logits, -0.7 * float(dtypes.finfo(type_of(logits).dtype).max))
    weights = softmax(logits, -1)
    if type_of(weights).dtype != type_of(v).dtype:
        weights = ops.convert_element_type(weights, type_of(v).dtype)
    out = ops.dot_general(weights, v, (((3,), (1,)), ((0, 1), (0, 2))))
    out = ops.transpose(out, (0, 2, 1, 3))
    if query_seq_lengths is not None:
        rows = jnp.arange(t)[None, :, None, None]
        out = jnp.where(rows < jnp.reshape(jnp.asarray(query_seq_lengths), (-1, 1, 1, 1)), out, 0)
    out = out if batched else ops.reshape(out, out.shape[1:])
    if not return_residual:
        return out
    residual = ops.transpose(logsumexp(logits, axis=-1), (0, 2, 1))
    return out, residual if batched else ops.reshape(residual, residual.shape[1:])


def _visible(b: int, t: int, s: int, mask: Any, is_causal: bool, query_lengths: Any, key_lengths: Any, window: Any) -> Any:
    """Which keys each query may attend to: a boolean (b, n, t, s) up to broadcasting, or None for all."""
    rows, columns = jnp.arange(t)[:, None], jnp.arange(s)[None, :]
    parts = []
    if mask is not None:
        parts.append(jnp.asarray(mask, dtype=bool))
    if is_causal:
        parts.append((rows >= columns)[None, None])
    if window is not None:
        left, right = window if isinstance(window, tuple) else (window, window)
        parts.append(((rows - columns <= left) & (columns - rows <= right))[None, None])
    if query_lengths is not None:
        parts.append((rows < jnp.reshape(jnp.asarray(query_lengths), (-1, 1, 1)))[:, None])
    if key_lengths is not None:
        parts.append((columns < jnp.reshape(jnp.asarray(key_lengths), (-1, 1, 1)))[:, None])
    if not parts:
        return None
    visible = parts[0]
    for part in parts[1:]:
        visible = visible & part
    return visible
