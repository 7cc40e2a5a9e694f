"""What an index expression means: the static part of `x[...]` and of `x.at[...]`.

`parse` turns the expression into one entry for each dimension of the array, plus the layout of the result. Two kinds of plan
follow from it: a basic one (slices and scalars, which become slices, reversals, dynamic slices) and a general one (index arrays,
which become a gather or a scatter).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_integer
from tracegrad.numpy.promotion import BOOL, constant
from tracegrad.tracer import errors
from tracegrad.tracer.tracer import Tracer

INT32 = np.dtype(np.int32)


@dataclass(slots=True)
class Span:
    """A dimension read by a slice: `count` elements from `start` on, every `step` (which may be negative)."""

    start: int
    count: int
    step: int

    def whole(self, n: int) -> bool:
        return self.step == 1 and self.start == 0 and self.count == n

    @property
    def ascending(self) -> tuple[int, int, int]:
        """(start, limit, stride) of the same elements in increasing order."""
        if self.count == 0:
            return 0, 0, 1
        last = self.start + (self.count - 1) * self.step
        lo, hi = (self.start, last) if self.step > 0 else (last, self.start)
        return lo, hi + 1, abs(self.step)


@dataclass(slots=True)
class Parsed:
    """One entry for each dimension (int, traced scalar, array or Span), and the result's layout.

    `layout` lists the result's dimensions: a dimension number of the operand (for a Span), None (a new axis of size 1), or
    "arrays" (all dimensions of the broadcast index arrays). `insert` are dimensions of size 1 that the operand must be given
    first, at these places, for the sake of boolean scalars.
    """

    entries: list[Any]
    layout: list[Any]
    has_arrays: bool
    insert: tuple[int, ...] = ()


def _bad_index(i: Any) -> TypeError:
    if isinstance(i, (list, tuple)):
        return TypeError(
            "Using a non-tuple sequence for multidimensional indexing is not allowed; use `arr[array(seq)]` instead of "
            f"`arr[seq]`: got {i!r:.100}"
        )
    if isinstance(i, (float, complex)) or hasattr(i, "dtype"):
        kind = getattr(i, "dtype", type(i).__name__)
        return TypeError(f"Indexer must have integer or boolean type, got indexer with type {kind}: {i!r:.100}")
    return TypeError(
        f"{i!r:.100} of type {type(i).__name__} is not an index; use integers, slices, None, Ellipsis or integer arrays"
    )


def _static_bound(v: Any) -> Any:
    if v is None or type(v) is int:
        return v
    if isinstance(v, Tracer):
        raise IndexError(
            "Array slice indices must have static start/stop/step to be used with NumPy indexing syntax, got a traced bound: "
            f"{errors.describe(v)}.\nUse lax.dynamic_slice(x, start, sizes) (or lax.dynamic_slice_in_dim), whose start may be traced."
        )
    try:
        return operator.index(v)
    except TypeError:
        raise TypeError(f"slice bounds must be integers or None, got {v!r:.100} of type {type(v).__name__}") from None


def span_of(s: slice, n: int) -> Span:
    """The elements of a dimension of size n that a slice names."""
    start, stop, step = slice(_static_bound(s.start), _static_bound(s.stop), _static_bound(s.step)).indices(n)
    return Span(start, len(range(start, stop, step)), step)


def _consumed(i: Any) -> int:
    """How many dimensions of the array an element of an index takes."""
    if i is None or i is Ellipsis or isinstance(i, (bool, np.bool_)):
        return 0
    dtype = getattr(i, "dtype", None)
    if dtype is not None and dtype == BOOL:
        return len(i.shape)
    return 1


def _normal(i: Any, inside: bool = False) -> Any:
    """An element of an index as an int, a slice, None, Ellipsis, a bool, or an Array (or NumPy array) of integers or booleans."""
    if type(i) is int or i is None or i is Ellipsis or isinstance(i, (slice, bool)):
        return i
    if isinstance(i, (Array, np.ndarray, np.generic)):
        if isinstance(i, Tracer):
            dtype = i.aval.dtype
            if not (is_integer(dtype) or dtype == BOOL):
                raise _bad_index(i)
            return i
        if isinstance(i, np.ndarray) and i.dtype == object:
            raise _bad_index(i)
        a = np.asarray(i)
        if a.dtype.kind not in "iub":
            if a.size == 0 and isinstance(i, np.ndarray) and a.dtype.kind == "f":
                return a.astype(np.int32)
            raise _bad_index(i)
        if a.ndim == 0:
            return bool(a) if a.dtype == BOOL else int(a)
        return a
    if inside and isinstance(i, (list, tuple)):
        return _normal(_listed(i))
    if isinstance(i, (list, tuple, float, complex, str)):
        raise _bad_index(i)
    convert = getattr(i, "__jax_array__", None)
    if convert is not None:
        return _normal(convert())
    try:
        return operator.index(i)
    except TypeError:
        raise _bad_index(i) from None


def _listed(i: Any) -> Any:
    """A list within a tuple of indices as an index array; an empty one has integers."""
    from tracegrad.numpy.creation import asarray

    a = asarray(i)
    return np.zeros(a.shape, np.int32) if a.size == 0 else a


def parse(shape: tuple[int, ...], index: Any, wrapping: bool = True) -> Parsed:
    """The meaning of an index expression for an array of this shape; `wrapping`: negative integers count from the end."""
    elements = [_normal(i, True) for i in index] if isinstance(index, tuple) else [_normal(index)]
    taken = sum([_consumed(i) for i in elements])
    if sum([i is Ellipsis for i in elements]) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if taken > len(shape):
        raise IndexError(f"Too many indices: array is {len(shape)}-dimensional, but {taken} were indexed")
    rest = len(shape) - taken
    expanded: list[Any] = []
    for i in elements:
        if i is Ellipsis:
            expanded.extend([slice(None)] * rest)
            rest = 0
        else:
            expanded.append(i)
    expanded.extend([slice(None)] * rest)
    return _layout(shape, expanded, wrapping)


def _layout(shape: tuple[int, ...], elements: list[Any], wrapping: bool) -> Parsed:
    entries: list[Any] = []
    layout: list[Any] = []
    insert: list[int] = []
    places: list[int] = []  # where, among the elements of the expression, advanced indices stand
    spot: int | None = None
    has_arrays = any([_is_advanced(i) for i in elements])
    dim = 0  # in the operand as given
    for place, i in enumerate(elements):
        if i is None:
            layout.append(None)
            continue
        if isinstance(i, slice):
            entries.append(span_of(i, shape[dim]))
            layout.append(len(entries) - 1)
            dim += 1
            continue
        if has_arrays:
            places.append(place)
            if spot is None:
                spot = len(layout)
                layout.append("arrays")
        if isinstance(i, bool):
            insert.append(len(entries))
            entries.append(np.zeros(int(i), np.int32))
        elif isinstance(i, int):
            entries.append(i + shape[dim] if i < 0 and wrapping else i)
            dim += 1
        elif i.dtype == BOOL:
            rank = len(i.shape)
            if isinstance(i, Tracer):
                raise errors.boolean_index_error(i)
            if i.shape != shape[dim : dim + rank]:
                raise IndexError(
                    f"boolean index of shape {i.shape} did not match the dimensions {shape[dim : dim + rank]} of the indexed array"
                )
            entries.extend([np.asarray(v, np.int32) for v in np.nonzero(i)])
            dim += rank
        else:
            entries.append(i)
            dim += 1
    if spot is not None and any(b - a != 1 for a, b in zip(places, places[1:])):
        layout.remove("arrays")
        layout.insert(0, "arrays")
    return Parsed(entries, layout, has_arrays, tuple(insert))


def _is_advanced(i: Any) -> bool:
    return isinstance(i, bool) or (isinstance(i, (Array, np.ndarray)) and len(i.shape) > 0) or getattr(i, "dtype", None) == BOOL


def wrap(i: Any, n: int) -> Any:
    """An index array (or traced scalar) with negative values counted from the end of a dimension of size n."""
    dtype = type_of(i).dtype
    if not isinstance(i, Array):
        if i.dtype.kind == "i" and i.size and i.min() < 0:
            i = np.where(i < 0, i.astype(np.int64) + n, i)
        return i
    if dtype.kind == "u":
        return i
    if dtype.itemsize < 4:
        i, dtype = ops.convert_element_type(i, INT32), INT32
    return ops.select(ops.lt(i, dtype.type(0)), ops.add(i, dtype.type(n)), i)


def index_dtype(entries: list[Any], shape: tuple[int, ...]) -> Any:
    """The dtype of an index vector: int32 unless an index is 64 bits wide and may need them."""
    wide = any(isinstance(e, Array) and type_of(e).dtype.itemsize == 8 for e in entries) or max(shape, default=0) > 2**31 - 1
    return np.dtype(np.int64) if wide else INT32


@dataclass(slots=True)
class Components:
    """Index vectors: an array whose last dimension holds one entry for each dimension in `dims`; in bounds for sure, if `known`."""

    indices: Any
    dims: tuple[int, ...]
    batch: tuple[int, ...]
    known: bool


def stack_components(
    components: dict[int, Any], shape: tuple[int, ...], batch: tuple[int, ...], axes: dict[int, Any]
) -> Components:
    """Index vectors out of one component for each indexed dimension.

    `axes[d]` tells which of the batch dimensions component d runs along (None: it is a scalar).
    """
    values = list(components.values())
    single = len(values) == 1 and isinstance(values[0], Array)
    dtype = type_of(values[0]).dtype if single else index_dtype(values, shape)
    dims = tuple(components)
    static = all(not isinstance(c, Array) for c in components.values())
    known = static and all(_inside(c, shape[d]) for d, c in components.items())
    if static:
        parts = [np.broadcast_to(_aligned(np.asarray(c), axes[d], len(batch)), batch) for d, c in components.items()]
        return Components(constant(np.stack(parts, -1).astype(dtype)), dims, batch, known)
    vectors = []
    for d, c in components.items():
        if isinstance(c, Array):
            own = c.aval.shape
            if c.aval.dtype != dtype:
                c = ops.convert_element_type(c, dtype)
            if len(components) == 1 and own == batch:
                return Components(ops.reshape(c, (*batch, 1)), dims, batch, known)
            place = axes[d] or ()
            c = ops.reshape(c, (1,)) if own == batch == () else ops.broadcast_in_dim(c, (*batch, 1), place)
        else:
            c = np.broadcast_to(_aligned(np.asarray(c), axes[d], len(batch)), batch)[..., None].astype(dtype)
            c = constant(c)
        vectors.append(c)
    return Components(vectors[0] if len(vectors) == 1 else ops.concatenate(vectors, len(batch)), dims, batch, known)


def _aligned(c: np.ndarray, axes: Any, rank: int) -> np.ndarray:
    """A NumPy component with its dimensions at the places `axes` of the batch dimensions."""
    if c.ndim == 0:
        return c
    sizes = [1] * rank
    for a, n in zip(axes, c.shape):
        sizes[a] = n
    return c.reshape(sizes)


def _inside(c: Any, n: int) -> bool:
    c = np.asarray(c)
    return c.size == 0 or bool(c.min() >= 0 and c.max() < n)
