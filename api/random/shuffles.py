"""Permutations and draws from finite sets."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_integer
from tracegrad.lax.operands import axis_in, value
from tracegrad.numpy import searchsorted
from tracegrad.numpy.promotion import promote_inexact
from tracegrad.random.continuous import _gumbel
from tracegrad.random.keys import Words, as_shape, fork, random_bits, words
from tracegrad.random.uniform import randint, unit


def _take(x: Any, indices: Any, axis: int) -> Any:
    """x at indices, known to be in bounds, along an axis; the axes of the indices take its place."""
    shape, index_shape = type_of(x).shape, type_of(indices).shape
    return ops.gather(
        x,
        ops.reshape(indices, (*index_shape, 1)),
        offset_dims=(*range(axis), *range(axis + len(index_shape), len(shape) - 1 + len(index_shape))),
        collapsed_slice_dims=(axis,),
        start_index_map=(axis,),
        slice_sizes=(*shape[:axis], 1, *shape[axis + 1 :]),
        mode="promise_in_bounds",
    )


def _shuffle(k: Words, x: Any, axis: int) -> Any:
    """Sort by random 32-bit keys, in as many rounds as make equal keys for a pair in every round improbable."""
    t = type_of(x)
    rounds = math.ceil(3 * math.log(max(1, t.size)) / math.log(0xFFFFFFFF))
    for _ in range(rounds):
        k, sub = fork(k)
        _, x = ops.sort(random_bits(sub, 32, t.shape), x, dimension=axis, num_keys=1)
    return x


def permutation(key: Any, x: Any, axis: int = 0, independent: bool = False, *, out_sharding: Any = None) -> Any:
    """range(x), or the slices of x along an axis, in random order; with `independent` every slice of the other axes in its own."""
    k = words("permutation", key)
    x = value("permutation", x, 1)
    t = type_of(x)
    axis = axis_in(axis, t.ndim or 1)
    if not t.ndim:
        if not is_integer(t.dtype):
            raise TypeError("x must be an integer or at least 1-dimensional")
        return _shuffle(k, ops.iota(dtypes.int_dtype(), operator.index(x)), axis)
    if independent or t.ndim == 1:
        return _shuffle(k, x, axis)
    return _take(x, _shuffle(k, ops.iota(dtypes.int_dtype(), t.shape[axis]), 0), axis)


def choice(key: Any, a: Any, shape: Any = (), replace: bool = True, p: Any = None, axis: int = 0, mode: str | None = None) -> Any:
    """Random members of range(a), or slices of a along an axis; with probabilities p, if given."""
    if isinstance(shape, (int, np.integer)) or shape is None:
        raise TypeError(f"shape argument of random.choice must be a sequence, got {shape}")
    k = words("choice", key)
    shape = as_shape("choice", shape)
    a = value("choice", a, 1)
    t = type_of(a)
    if t.ndim:
        axis = axis_in(axis, t.ndim)
        n = t.shape[axis]
    else:
        n = operator.index(a)
    draws = math.prod(shape)
    if draws == 0:
        return ops.broadcast_in_dim(t.dtype.type(0), shape, ())
    if n <= 0:
        raise ValueError("a must be greater than 0 unless no samples are taken")
    if not replace and draws > n:
        raise ValueError(f"Cannot take a larger sample (size {draws}) than population (size {n}) when 'replace=False'")
    out_shape = (*t.shape[:axis], *shape, *t.shape[axis + 1 :]) if t.ndim else shape
    if p is None:
        if replace:
            index = randint(key, shape, 0, n)
        else:
            shuffled = permutation(key, a if t.ndim else n, axis)
            if not t.ndim:
                axis = 0
            return ops.reshape(ops.slice_in_dim(shuffled, 0, draws, 1, axis), out_shape)
    else:
        (p,) = promote_inexact("choice", p)
        if type_of(p).shape != (n,):
            raise ValueError(
                "p must be None or a 1D vector with the same size as a.shape[axis]. "
                f"p has shape {type_of(p).shape} and a.shape[axis] is {n}."
            )
        index = _weighted(k, p, n, shape, draws, replace, mode)
    if not t.ndim:
        return ops.reshape(index, out_shape)
    if not isinstance(a, Array):
        a = ops.copy(a)
    return ops.reshape(_take(a, index, axis), out_shape)


def _weighted(k: Words, p: Any, n: int, shape: tuple[int, ...], draws: int, replace: bool, mode: str | None) -> Any:
    """Indices drawn with probabilities p: by inversion of the cumulated ones, or the largest of Gumbel noise plus log p."""
    dtype = type_of(p).dtype
    index = dtypes.int_dtype()
    if replace:
        cumulated = ops.cumsum(p, 0)
        total = ops.reshape(ops.slice(cumulated, (n - 1,), (n,)), ())
        r = ops.mul(ops.sub(dtype.type(1), unit(k, shape, dtype)), total)
        out = searchsorted(cumulated, r)
    else:
        scores = ops.add(_gumbel(k, (n,), dtype, mode or "low"), ops.log(p))
        out = ops.reshape(ops.top_k(scores, draws)[1], shape)
    return out if type_of(out).dtype == index else ops.convert_element_type(out, index)
