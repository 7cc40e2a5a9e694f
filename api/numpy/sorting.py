"""Sorting and partitioning."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex, is_integer
from tracegrad.numpy.dtype_objects import canonical_dtype
from tracegrad.numpy.promotion import as_array, axis_index, require_numbers, shape_of, static_int, to_dtype
from tracegrad.numpy.shape import flip, ravel


def _check(name: str, kind: Any, order: Any) -> None:
    if kind is not None:
        raise TypeError(f"{name}: 'kind' argument is not supported; use stable=True or stable=False to choose")
    if order is not None:
        raise TypeError(f"{name}: 'order' argument is not supported: arrays have no fields")


def sort(
    a: Any, axis: int | None = -1, *, kind: None = None, order: None = None, stable: bool = True, descending: bool = False
) -> Any:
    """The elements in order along an axis (of all, if it is None); NaN comes last."""
    _check("sort", kind, order)
    a = as_array("sort", a, "a")
    require_numbers("sort", a)
    if axis is None:
        a, axis = ravel(a), 0
    i = axis_index("sort", axis, len(shape_of(a)))
    (out,) = ops.sort(a, dimension=i, is_stable=stable)
    return flip(out, i) if descending else out


def argsort(
    a: Any,
    axis: int | None = -1,
    *,
    kind: None = None,
    order: None = None,
    stable: bool = True,
    descending: bool = False,
    dtype: Any = None,
) -> Any:
    """The indices that put the elements in order along an axis."""
    _check("argsort", kind, order)
    a = as_array("argsort", a, "a")
    require_numbers("argsort", a)
    if axis is None:
        a, axis = ravel(a), 0
    shape = shape_of(a)
    i = axis_index("argsort", axis, len(shape))
    wanted = dtypes.int_dtype() if dtype is None else canonical_dtype("argsort", dtype)
    index_dtype = wanted if is_integer(wanted) and wanted.itemsize >= 4 else np.dtype(np.int32)
    positions = ops.broadcasted_iota(index_dtype, shape, i)
    if descending:
        # sorting the reversed array keeps equal elements in their order once the result is reversed
        a, positions = flip(a, i), flip(positions, i)
    out = ops.sort(a, positions, dimension=i, is_stable=stable, num_keys=1)[1]
    out = flip(out, i) if descending else out
    return out if wanted == index_dtype else ops.convert_element_type(out, wanted)


def lexsort(keys: Any, axis: int = -1) -> Any:
    """The indices that sort by the last key, then by the one before, and so on."""
    arrays = [as_array("lexsort", k, i) for i, k in enumerate(keys)]
    if not arrays:
        raise TypeError("need sequence of keys with len > 0 in lexsort")
    if len({shape_of(k) for k in arrays}) > 1:
        raise ValueError("all keys need to be the same shape")
    shape = shape_of(arrays[0])
    if not shape:
        return as_array("lexsort", np.asarray(0, dtypes.int_dtype()))
    i = axis_index("lexsort", axis, len(shape))
    positions = ops.broadcasted_iota(dtypes.int_dtype(), shape, i)
    return ops.sort(*arrays[::-1], positions, dimension=i, num_keys=len(arrays))[-1]


def partition(a: Any, kth: int, axis: int = -1) -> Any:
    """The elements so arranged that the kth is the one that sorting would put there."""
    return _partition("partition", a, kth, axis, sort)


def argpartition(a: Any, kth: int, axis: int = -1) -> Any:
    """The indices that arrange the elements so that the kth is the one that sorting would put there."""
    return _partition("argpartition", a, kth, axis, argsort)


def _partition(name: str, a: Any, kth: int, axis: int, function: Any) -> Any:
    a = as_array(name, a, "a")
    if is_complex(type_of(a).dtype):
        raise NotImplementedError(
            f"{name} for complex dtype is not implemented; use sort or argsort, which order the elements at every place"
        )
    i = axis_index(name, axis, len(shape_of(a)))
    k = static_int(name, kth, "kth")
    n = shape_of(a)[i]
    if not -n <= k < n:
        raise ValueError(f"{name}: kth={k} is out of bounds for axis {i} of size {n}")
    out = function(a, i)
    return out if function is sort else to_dtype(out, np.dtype(np.int32))


def sort_complex(a: Any) -> Any:
    """The elements in order of real, then imaginary parts, as complex numbers."""
    a = as_array("sort_complex", a, "a")
    if not is_complex(type_of(a).dtype):
        a = ops.convert_element_type(a, dtypes.promote_dtypes(type_of(a).dtype, np.complex64))
    return sort(a, 0)
