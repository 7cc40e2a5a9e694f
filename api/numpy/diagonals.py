"""Diagonals and triangles: reading them, building matrices from them, their indices."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.numpy.creation import asarray, filled
from tracegrad.numpy.indexing import IndexUpdates
from tracegrad.numpy.promotion import as_array, axis_index, shape_of, static_int
from tracegrad.numpy.shape import ravel, reshape_to, transpose_to


def diagonal(a: Any, offset: Any = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """A diagonal in the plane of two axes, as the last axis of the result."""
    a = as_array("diagonal", a, "a")
    shape = shape_of(a)
    if len(shape) < 2:
        raise ValueError(f"diagonal requires an array of at least two dimensions, got shape {shape}")
    i, j = axis_index("diagonal", axis1, len(shape), "axis1"), axis_index("diagonal", axis2, len(shape), "axis2")
    if i == j:
        raise ValueError(f"diagonal: axis1 and axis2 cannot be the same, got {axis1} and {axis2}")
    k = static_int("diagonal", offset, "offset")
    rest = [d for d in range(len(shape)) if d not in (i, j)]
    a = transpose_to(a, [*rest, i, j])
    lead = tuple([shape[d] for d in rest])
    rows, columns = shape[i], shape[j]
    count = max(0, min(rows + min(k, 0), columns - max(k, 0)))
    if count == 0:
        return filled("diagonal", (*lead, 0), 0, type_of(a).dtype)
    # in row-major order the elements of a diagonal are columns + 1 apart
    flat = reshape_to(a, (*lead, rows * columns))
    start = k if k >= 0 else -k * columns
    step = columns + 1
    axis = len(lead)
    if count == 1 or columns == 0:
        return ops.slice_in_dim(flat, start, start + 1, 1, axis)
    return ops.slice_in_dim(flat, start, start + (count - 1) * step + 1, step, axis)


def diag(v: Any, k: int = 0) -> Any:
    """The diagonal of a matrix, or the matrix with a diagonal."""
    v = as_array("diag", v, "v")
    shape = shape_of(v)
    k = static_int("diag", k, "k")
    if len(shape) == 2:
        return diagonal(v, k)
    if len(shape) != 1:
        raise ValueError(f"diag input must be 1d or 2d, got shape {shape}")
    n = shape[0]
    m = n + abs(k)
    if n == 0:
        return filled("diag", (m, m), 0, type_of(v).dtype)
    zero = type_of(v).dtype.type(0)
    line = ops.pad(v, zero, ((max(0, k), max(0, -k), 0),)) if k else v
    rows = ops.broadcasted_iota(np.dtype(np.int32), (m, m), 0)
    columns = ops.broadcasted_iota(np.dtype(np.int32), (m, m), 1)
    if k:
        rows = ops.add(rows, np.int32(k))
    return ops.select(ops.eq(rows, columns), ops.broadcast_in_dim(line, (m, m), (1,)), zero)


def diagflat(v: Any, k: int = 0) -> Any:
    """The matrix whose diagonal is `v`, flattened."""
    return diag(ravel(as_array("diagflat", v, "v")), k)


def fill_diagonal(a: Any, val: Any, wrap: bool = False, *, inplace: bool = True) -> Any:
    """A copy of `a` with `val` on its main diagonal."""
    if inplace:
        raise NotImplementedError("fill_diagonal: arrays are immutable; pass inplace=False and use the returned array")
    if wrap:
        raise NotImplementedError(
            "fill_diagonal: wrap=True is not implemented, must be False; set the places with x.at[rows, columns].set(values)"
        )
    a = as_array("fill_diagonal", a, "a")
    shape = shape_of(a)
    if len(shape) < 2:
        raise ValueError(f"array must be at least 2-d, got shape {shape}")
    if len(shape) > 2 and len(set(shape)) != 1:
        raise ValueError(f"All dimensions of input must be of equal length, got shape {shape}")
    n = min(shape)
    where = tuple([np.arange(n)] * len(shape))
    val = asarray(val)
    if len(shape_of(val)):
        from tracegrad.numpy.shape import resize

        val = resize(val, (n,))
    return IndexUpdates(a)[where].set(val, unique_indices=True)


def diag_indices(n: int, ndim: int = 2) -> tuple[Any, ...]:
    """The indices of the main diagonal."""
    n, ndim = static_int("diag_indices", n, "n"), static_int("diag_indices", ndim, "ndim")
    if n < 0 or ndim < 0:
        raise ValueError(f"diag_indices: n and ndim must not be negative, got {n} and {ndim}")
    return (ops.iota(dtypes.int_dtype(), n),) * ndim


def diag_indices_from(arr: Any) -> tuple[Any, ...]:
    """The indices of an array's main diagonal."""
    shape = shape_of(as_array("diag_indices_from", arr, "arr"))
    if len(shape) < 2:
        raise ValueError(f"input array must be at least 2-d, got shape {shape}")
    if len(set(shape)) != 1:
        raise ValueError(f"All dimensions of input must be of equal length, got shape {shape}")
    return diag_indices(shape[0], len(shape))


def _triangle_indices(name: str, found: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    return tuple([asarray(i.astype(dtypes.int_dtype())) for i in found])


def tril_indices(n: int, k: int = 0, m: int | None = None) -> tuple[Any, ...]:
    """The indices of the lower triangle of an (n, m) matrix."""
    n, m = static_int("tril_indices", n, "n"), None if m is None else static_int("tril_indices", m, "m")
    return _triangle_indices("tril_indices", np.tril_indices(n, k, m))


def triu_indices(n: int, k: int = 0, m: int | None = None) -> tuple[Any, ...]:
    """The indices of the upper triangle of an (n, m) matrix."""
    n, m = static_int("triu_indices", n, "n"), None if m is None else static_int("triu_indices", m, "m")
    return _triangle_indices("triu_indices", np.triu_indices(n, k, m))


def _from(name: str, arr: Any) -> tuple[int, int]:
    shape = shape_of(as_array(name, arr, "arr"))
    if len(shape) != 2:
        raise ValueError(f"{name}: only 2-d inputs are accepted, got shape {shape}")
    rows, columns = shape
    return rows, columns


def tril_indices_from(arr: Any, k: int = 0) -> tuple[Any, ...]:
    """The indices of the lower triangle of a matrix."""
    n, m = _from("tril_indices_from", arr)
    return tril_indices(n, k, m)


def triu_indices_from(arr: Any, k: int = 0) -> tuple[Any, ...]:
    """The indices of the upper triangle of a matrix."""
    n, m = _from("triu_indices_from", arr)
    return triu_indices(n, k, m)


def mask_indices(n: int, mask_func: Any, k: Any = 0, *, size: int | None = None) -> tuple[Any, ...]:
    """The indices of an (n, n) matrix that a function such as triu selects."""
    from tracegrad.numpy.creation import ones
    from tracegrad.numpy.searching import nonzero

    return nonzero(mask_func(ones((n, n)), k), size=size)
