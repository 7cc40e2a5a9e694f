"""Derivatives (none: bits and keys) and batching of the random primitives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.ir import ops
from tracegrad.ir import random as r
from tracegrad.ir.bind import type_of
from tracegrad.transforms.rules import elementwise_batch, first_dim, move_dim, zero_derivative

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
Batched = tuple[Sequence[Any], Sequence[int]]

for _prim in (r.threefry2x32_p, r.key_wrap_p, r.key_unwrap_p):
    zero_derivative(_prim)

elementwise_batch(r.threefry2x32_p)


def _batch_key_wrap(axis: Any, args: Sequence[Any], dims: Dims) -> Batched:
    x, dim = args[0], first_dim(dims)
    if dim == type_of(x).ndim - 1:
        # The last axis holds the words of each key.
        x, dim = move_dim(x, dim, 0), 0
    return (ops.key_wrap(x),), (dim,)


def _batch_key_unwrap(axis: Any, args: Sequence[Any], dims: Dims) -> Batched:
    return (ops.key_unwrap(args[0]),), (first_dim(dims),)


r.key_wrap_p.define(batch=_batch_key_wrap)
r.key_unwrap_p.define(batch=_batch_key_unwrap)
