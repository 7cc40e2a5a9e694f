"""Grids of coordinates: meshgrid, indices, and the objects that are indexed to build arrays (mgrid, r_, s_, ...)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.numpy.creation import arange, array, asarray, canonical_shape, linspace
from tracegrad.numpy.dtype_objects import canonical_dtype
from tracegrad.numpy.promotion import as_array, promote_values, shape_of
from tracegrad.numpy.shape import concatenate, reshape_to, stack, swapaxes
from tracegrad.tracer.tracer import Tracer


def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> list[Any]:
    """Coordinate matrices from coordinate vectors."""
    if not copy:
        raise ValueError("meshgrid: copy=False is not supported: arrays have no views")
    if indexing not in ("xy", "ij"):
        raise ValueError(f"Valid values for indexing are 'xy' and 'ij', got {indexing!r}")
    vectors = [as_array("meshgrid", x, i) for i, x in enumerate(xi)]
    if any(len(shape_of(x)) > 1 for x in vectors):
        raise ValueError(f"Arguments to jnp.meshgrid must be 1D, got shapes {[shape_of(x) for x in vectors]}")
    vectors = [reshape_to(x, (1,)) if not shape_of(x) else x for x in vectors]
    places = list(range(len(vectors)))
    if indexing == "xy" and len(vectors) >= 2:
        places[:2] = [1, 0]
    sizes = [0] * len(vectors)
    for x, p in zip(vectors, places):
        sizes[p] = shape_of(x)[0]
    out = []
    for x, p in zip(vectors, places):
        if sparse:
            out.append(reshape_to(x, tuple([n if i == p else 1 for i, n in enumerate(sizes)])))
        else:
            out.append(ops.broadcast_in_dim(x, sizes, (p,)) if len(sizes) > 1 else x)
    return out


def indices(dimensions: Any, dtype: Any = None, sparse: bool = False) -> Any:
    """The index along each dimension of a grid, as one array (or a tuple of broadcastable ones, if `sparse`)."""
    sizes = canonical_shape("indices", dimensions)
    dtype = dtypes.int_dtype() if dtype is None else canonical_dtype("indices", dtype)
    rank = len(sizes)
    if sparse:
        return tuple(
            [reshape_to(ops.iota(dtype, n), tuple([n if i == d else 1 for i in range(rank)])) for d, n in enumerate(sizes)]
        )
    grids = [ops.broadcasted_iota(dtype, sizes, d) for d in range(rank)]
    return stack(grids) if grids else asarray(np.zeros((0,), dtype))


def ix_(*args: Any) -> tuple[Any, ...]:
    """Index arrays that select the grid of given rows, columns, ..."""
    out = []
    for k, a in enumerate(args):
        a = asarray(a)
        if len(shape_of(a)) != 1:
            raise ValueError(f"Arguments to jnp.ix_ must be 1-dimensional, got shape {shape_of(a)}")
        if a.dtype.kind == "b":
            from tracegrad.numpy.searching import nonzero

            (a,) = nonzero(a)
        out.append(reshape_to(a, tuple([shape_of(a)[0] if i == k else 1 for i in range(len(args))])))
    return tuple(out)


def _ranges(key: Any) -> list[Any]:
    """Each slice of an expression as the array it stands for: a range, or `num` points if the step is imaginary."""
    out = []
    for s in key if isinstance(key, tuple) else (key,):
        start = 0 if s.start is None else s.start
        step = 1 if s.step is None else s.step
        if isinstance(step, complex):
            out.append(linspace(start, s.stop, int(abs(step))))
        else:
            out.append(arange(start, s.stop, step))
    return promote_values(out)[0]


class _MeshGrid:
    """`jnp.mgrid[0:3, 0:4]`: the coordinates of a dense grid."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return _ranges(key)[0]
        found = _ranges(key)
        return stack(meshgrid(*found, indexing="ij")) if found else asarray(np.zeros((0,), dtypes.int_dtype()))


class _OpenGrid:
    """`jnp.ogrid[0:3, 0:4]`: the coordinates of a grid, to be broadcast."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return _ranges(key)[0]
        return meshgrid(*_ranges(key), indexing="ij", sparse=True)


class _Concatenator:
    """`jnp.r_[...]` and `jnp.c_[...]`: arrays and ranges written in a row, joined."""

    def __init__(self, axis: int, ndmin: int, trans1d: int):
        self.axis = axis
        self.ndmin = ndmin
        self.trans1d = trans1d

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        axis, ndmin, trans1d = self.axis, self.ndmin, self.trans1d
        if isinstance(parts[0], str):
            directive, parts = parts[0], parts[1:]
            if directive in ("r", "c"):
                axis, ndmin = (1, 2) if directive == "r" else (0, 2)
                trans1d = -1 if directive == "r" else 0
            else:
                numbers = [int(v) for v in directive.split(",")]
                if not 1 <= len(numbers) <= 3:
                    raise ValueError(f"unknown special directive {directive!r}")
                axis = numbers[0]
                ndmin = numbers[1] if len(numbers) > 1 else ndmin
                trans1d = numbers[2] if len(numbers) > 2 else trans1d
        out = []
        for p in parts:
            if isinstance(p, slice):
                p = _ranges(p)[0]
                own = 1
            else:
                p = p if isinstance(p, Tracer) else array(p)
                own = len(shape_of(p))
            if own < ndmin:
                p = reshape_to(p, (1,) * (ndmin - own) + shape_of(p)) if own else reshape_to(p, (1,) * ndmin)
                if own == 1 and trans1d >= 0 and ndmin > 1:
                    p = swapaxes(p, trans1d, -1)
                elif own == 0 and ndmin:
                    p = reshape_to(p, (1,) * ndmin)
            out.append(p)
        return concatenate(out, axis=axis)


class _IndexExpression:
    """`jnp.s_[1:3, ::2]`: an index expression as a value."""

    def __init__(self, always_tuple: bool):
        self.always_tuple = always_tuple

    def __getitem__(self, item: Any) -> Any:
        return (item,) if self.always_tuple and not isinstance(item, tuple) else item


mgrid = _MeshGrid()
ogrid = _OpenGrid()
r_ = _Concatenator(0, 1, -1)
c_ = _Concatenator(-1, 2, 0)
s_ = _IndexExpression(False)
index_exp = _IndexExpression(True)

__all__ = ["meshgrid", "indices", "ix_", "mgrid", "ogrid", "r_", "c_", "s_", "index_exp"]
