"""`sort` of several operands by leading keys, `top_k`, `searchsorted`, and `nonzero`.

The order of floats: -0.0 equals 0.0, NaN comes last. Complex numbers are ordered by real, then imaginary part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind, bind1, type_of
from tracegrad.ir.checks import BOOL, ORDERED, require_dtype, same_dtype
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, bfloat16, is_complex, is_key

__all__ = ["nonzero", "nonzero_p", "searchsorted", "searchsorted_p", "sort", "sort_p", "top_k", "top_k_p"]


def _sort_type(*operands: ArrayType, dimension: int, is_stable: bool, num_keys: int) -> tuple[ArrayType, ...]:
    if not operands:
        raise TypeError("sort takes at least one operand")
    first = operands[0]
    if any(t.shape != first.shape for t in operands):
        raise TypeError(f"sort takes operands of one shape, got {', '.join(map(str, operands))}")
    if not 0 <= dimension < first.ndim:
        raise ValueError(f"sort: dimension {dimension} does not exist in {first}")
    if not 1 <= num_keys <= len(operands):
        raise ValueError(f"sort: num_keys {num_keys} must be between 1 and the number of operands, {len(operands)}")
    if any(is_key(t.dtype) for t in operands[:num_keys]):
        raise TypeError(f"sort: random keys have no order, got {', '.join(map(str, operands[:num_keys]))}")
    return operands


def _ordered(key: np.ndarray) -> np.ndarray:
    """A key with the same order whose NumPy sort puts NaN last."""
    return key.astype(np.float32) if key.dtype in (bfloat16, np.float16) else key


def _take(x: np.ndarray, order: np.ndarray, axis: int) -> np.ndarray:
    if x.ndim > order.ndim:  # typed keys: the base shape follows
        order = order[..., None]
    return np.take_along_axis(x, order, axis)


def _sort_evaluate(*operands: np.ndarray, dimension: int, is_stable: bool, num_keys: int) -> tuple[np.ndarray, ...]:
    if len(operands) == 1:
        x = operands[0]
        return (np.sort(_ordered(x), axis=dimension, kind="stable").astype(x.dtype),)
    if num_keys == 1:
        order = np.argsort(_ordered(operands[0]), axis=dimension, kind="stable")
    else:
        order = np.lexsort([_ordered(k) for k in reversed(operands[:num_keys])], axis=dimension)
    return tuple(_take(x, order, dimension) for x in operands)


sort_p = Primitive("sort", _sort_type, _sort_evaluate, "sorting", multiple_results=True)


def sort(*operands: Any, dimension: int = -1, is_stable: bool = True, num_keys: int = 1) -> tuple[Any, ...]:
    """The operands, all rearranged along `dimension` so that the first `num_keys` are in lexicographic order."""
    rank = len(type_of(operands[0]).shape) if operands else 0
    axis = int(dimension)
    return bind(sort_p, *operands, dimension=axis + rank if axis < 0 else axis, is_stable=bool(is_stable), num_keys=int(num_keys))


def _top_k_type(x: ArrayType, *, k: int) -> tuple[ArrayType, ...]:
    if x.ndim == 0 or is_key(x.dtype) or is_complex(x.dtype):
        raise TypeError(f"top_k takes an array of real numbers of rank at least 1, got {x}")
    if not 0 <= k <= x.shape[-1]:
        raise ValueError(f"top_k: k must be between 0 and the size of the last dimension, got k={k} for {x}")
    shape = (*x.shape[:-1], k)
    return ArrayType(shape, x.dtype, x.weak), ArrayType(shape, np.dtype(np.int32))


def _descending(x: np.ndarray) -> np.ndarray:
    """Integers (or booleans) whose ascending order is the descending order of x, NaN first."""
    if x.dtype.kind in "biu":
        return ~x
    x = _ordered(x)
    bits: Any = x.view(np.int32 if x.dtype.itemsize == 4 else np.int64)
    # the bit patterns of negative floats descend; flip all but the sign. NaN of either sign is above infinity.
    ascending = np.where(bits < 0, bits ^ np.iinfo(bits.dtype).max, bits)
    return ~np.where(np.isnan(x), np.iinfo(bits.dtype).max, ascending)


def _top_k_evaluate(x: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    key = _descending(x)
    n = x.shape[-1]
    if x.ndim == 1 and 0 < k < n // 8:
        # only what is not below the k-th value has to be sorted
        candidates = np.flatnonzero(key <= np.partition(key, k - 1)[k - 1])
        order = candidates[np.argsort(key[candidates], kind="stable")][:k]
    else:
        order = np.argsort(key, axis=-1, kind="stable")[..., :k]
    return np.ascontiguousarray(np.take_along_axis(x, order, -1)), order.astype(np.int32)


top_k_p = Primitive("top_k", _top_k_type, _top_k_evaluate, "sorting", multiple_results=True)


def top_k(x: Any, k: int) -> Sequence[Any]:
    """The k largest values along the last axis, descending, and their int32 indices; of equal ones the first comes first."""
    return bind(top_k_p, x, k=int(k))


def _searchsorted_type(a: ArrayType, v: ArrayType, *, side: str) -> tuple[ArrayType]:
    require_dtype("searchsorted", ORDERED, (a, v))
    same_dtype("searchsorted", (a, v))
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side must be 'left' or 'right', got {side!r}")
    if a.ndim == 0 or a.shape[:-1] != v.shape[: a.ndim - 1]:
        raise TypeError(f"searchsorted takes rows and values whose shape begins with that of the rows, got {a} and {v}")
    return (ArrayType(v.shape, np.dtype(np.int32 if a.shape[-1] < 2**31 else np.int64)),)


def _searchsorted_evaluate(a: np.ndarray, v: np.ndarray, *, side: Any) -> tuple[np.ndarray]:
    dtype = np.dtype(np.int32 if a.shape[-1] < 2**31 else np.int64)
    rows, values = _ordered(a), _ordered(v)
    found = np.empty(v.shape, dtype)
    for row in np.ndindex(*a.shape[:-1]):
        found[row] = np.searchsorted(rows[row], values[row], side)
    return (found,)


searchsorted_p = Primitive("searchsorted", _searchsorted_type, _searchsorted_evaluate, "sorting")


def searchsorted(a: Any, v: Any, side: str = "left") -> Any:
    """How many elements of a sorted row go before each value: those that are less, or, from the right, not greater; NaN is the greatest.

    a: one row, or several, whose shape `v` begins with. What is found in a row that is not sorted is not specified.
    """
    return bind1(searchsorted_p, a, v, side=side)


def _nonzero_type(x: ArrayType, *, size: int) -> tuple[ArrayType, ...]:
    require_dtype("nonzero", BOOL, (x,))
    if x.ndim == 0 or size < 0:
        raise ValueError(f"nonzero takes rows and a size that is not negative, got {x} and {size}")
    dtype = np.dtype(np.int32 if x.shape[-1] < 2**31 else np.int64)
    return ArrayType((*x.shape[:-1], size), dtype), ArrayType(x.shape[:-1], dtype)


def _nonzero_evaluate(x: np.ndarray, *, size: int) -> tuple[np.ndarray, np.ndarray]:
    n = x.shape[-1]
    dtype = np.dtype(np.int32 if n < 2**31 else np.int64)
    positions = np.full((*x.shape[:-1], size), n, dtype)
    for row in np.ndindex(*x.shape[:-1]):
        found = np.flatnonzero(x[row])[:size]
        positions[row][: len(found)] = found
    return positions, np.count_nonzero(x, axis=-1, keepdims=True).astype(dtype).reshape(x.shape[:-1])


nonzero_p = Primitive("nonzero", _nonzero_type, _nonzero_evaluate, "sorting", multiple_results=True)


def nonzero(x: Any, size: int) -> Sequence[Any]:
    """The positions of the first `size` true elements of each row, and how many true ones there are; missing positions are the row's length."""
    return bind(nonzero_p, x, size=int(size))
