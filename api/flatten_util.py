"""Pytrees of arrays as one vector, under the names of `jax.flatten_util`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import tracegrad.numpy as jnp
from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.lax.operands import value
from tracegrad.tracer.pytree import tree_flatten


def ravel_pytree(pytree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(all elements in one vector, of the leaves' common dtype, and the function that makes the tree of such a vector)."""
    leaves, tree = tree_flatten(pytree)
    leaves = [value("ravel_pytree", x, i) for i, x in enumerate(leaves)]
    if not leaves:
        return jnp.zeros(0), lambda _: tree.unflatten([])
    types = [type_of(x) for x in leaves]
    dtype, _ = dtypes.promote(*types)
    sizes = [t.size for t in types]
    total = sum(sizes)
    flat = [ops.reshape(x, (t.size,)) for x, t in zip(leaves, types)]
    flat = [x if t.dtype == dtype and not t.weak else ops.convert_element_type(x, dtype) for x, t in zip(flat, types)]
    vector = flat[0] if len(flat) == 1 else ops.concatenate(flat, 0)

    def unravel(vector: Any) -> Any:
        vector = value("unravel", vector)
        t = type_of(vector)
        if t.shape != (total,):
            raise ValueError(f"unravel function expected an array of shape ({total},), got {t.shape}")
        if t.dtype != dtype:
            raise TypeError(f"unravel function given array of dtype {t.dtype}, but expected dtype {dtype}")
        out, start = [], 0
        for own, n in zip(types, sizes):
            part = ops.slice(vector, (start,), (start + n,)) if n != total else vector
            start += n
            part = part if own.shape == (n,) else ops.reshape(part, own.shape)
            if own.dtype != dtype:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a complex number's imaginary part is dropped on purpose
                    part = ops.convert_element_type(part, own.dtype)
            out.append(part)
        return tree.unflatten(out)

    return vector, unravel
