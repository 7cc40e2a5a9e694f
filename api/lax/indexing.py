"""lax's reading and writing at positions that are data."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir import elementwise
from tracegrad.ir import indexing as ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.reductions import reduce_max
from tracegrad.ir.structural import concatenate, reshape
from tracegrad.ir.types import is_integer
from tracegrad.lax.operands import as_shape, axis_in, same_dtypes, value
from tracegrad.tracer.control_flow import fori_loop


class GatherDimensionNumbers(NamedTuple):
    """How the dimensions of a gather's operand, indices and result correspond; see XLA's Gather."""

    offset_dims: tuple[int, ...]
    collapsed_slice_dims: tuple[int, ...]
    start_index_map: tuple[int, ...]
    operand_batching_dims: tuple[int, ...] = ()
    start_indices_batching_dims: tuple[int, ...] = ()


class ScatterDimensionNumbers(NamedTuple):
    """How the dimensions of a scatter's operand, indices and updates correspond; see XLA's Scatter."""

    update_window_dims: Sequence[int]
    inserted_window_dims: Sequence[int]
    scatter_dims_to_operand_dims: Sequence[int]
    operand_batching_dims: Sequence[int] = ()
    scatter_indices_batching_dims: Sequence[int] = ()


class GatherScatterMode(Enum):
    """What happens to indices out of bounds."""

    CLIP = 1
    FILL_OR_DROP = 2
    PROMISE_IN_BOUNDS = 3
    ONE_HOT = 4

    @staticmethod
    def from_any(s: str | GatherScatterMode | None) -> GatherScatterMode:
        """The mode that a name, a mode or None (fill or drop) stands for."""
        if isinstance(s, GatherScatterMode):
            return s
        if s is None or s in ("fill", "drop"):
            return GatherScatterMode.FILL_OR_DROP
        if s == "clip":
            return GatherScatterMode.CLIP
        if s == "promise_in_bounds":
            return GatherScatterMode.PROMISE_IN_BOUNDS
        raise ValueError(f'Unknown gather mode "{s}"; there are "clip", "fill", "drop" and "promise_in_bounds"')


_GATHER = {
    GatherScatterMode.CLIP: "clip",
    GatherScatterMode.FILL_OR_DROP: "fill",
    GatherScatterMode.PROMISE_IN_BOUNDS: "promise_in_bounds",
    GatherScatterMode.ONE_HOT: "promise_in_bounds",
}
_SCATTER = {**_GATHER, GatherScatterMode.FILL_OR_DROP: "drop"}


def gather(
    operand: Any,
    start_indices: Any,
    dimension_numbers: GatherDimensionNumbers,
    slice_sizes: Sequence[int],
    *,
    unique_indices: bool = False,
    indices_are_sorted: bool = False,
    mode: str | GatherScatterMode | None = None,
    fill_value: Any = None,
) -> Any:
    """Windows of the operand, one for each index vector along the last axis of `start_indices`. The default mode is "clip"."""
    parsed = GatherScatterMode.CLIP if mode is None else GatherScatterMode.from_any(mode)
    n = dimension_numbers
    return ops.gather(
        value("gather", operand),
        value("gather", start_indices, 1),
        offset_dims=n.offset_dims,
        collapsed_slice_dims=n.collapsed_slice_dims,
        start_index_map=n.start_index_map,
        operand_batching_dims=n.operand_batching_dims,
        start_indices_batching_dims=n.start_indices_batching_dims,
        slice_sizes=as_shape(slice_sizes),
        mode=_GATHER[parsed],
        fill_value=fill_value,
    )


def _scatter(name: str, kind: str) -> Callable[..., Any]:
    def function(
        operand: Any,
        scatter_indices: Any,
        updates: Any,
        dimension_numbers: ScatterDimensionNumbers,
        *,
        indices_are_sorted: bool = False,
        unique_indices: bool = False,
        mode: str | GatherScatterMode | None = None,
    ) -> Any:
        x, indices, updates = value(name, operand), value(name, scatter_indices, 1), value(name, updates, 2)
        same_dtypes(name, x, updates)
        n = dimension_numbers
        return ops.scatter(
            x,
            indices,
            elementwise.neg(updates) if kind == "sub" else updates,
            kind="add" if kind == "sub" else kind,
            update_window_dims=n.update_window_dims,
            inserted_window_dims=n.inserted_window_dims,
            scatter_dims_to_operand_dims=n.scatter_dims_to_operand_dims,
            operand_batching_dims=n.operand_batching_dims,
            scatter_indices_batching_dims=n.scatter_indices_batching_dims,
            mode=_SCATTER[GatherScatterMode.from_any(mode)],
            unique_indices=unique_indices,
        )

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"The operand with windows of updates combined by {kind!r} at the positions named by index vectors, those out of bounds dropped."
    return function


scatter = _scatter("scatter", "set")
scatter_add = _scatter("scatter_add", "add")
scatter_sub = _scatter("scatter_sub", "sub")
scatter_mul = _scatter("scatter_mul", "mul")
scatter_min = _scatter("scatter_min", "min")
scatter_max = _scatter("scatter_max", "max")


def scatter_apply(
    operand: Any,
    scatter_indices: Any,
    func: Callable[[Any], Any],
    dimension_numbers: ScatterDimensionNumbers,
    *,
    update_shape: Sequence[int] = (),
    indices_are_sorted: bool = False,
    unique_indices: bool = False,
    mode: str | GatherScatterMode | None = None,
) -> Any:
    """The operand with `func` (elementwise) applied at the positions named, as often as they are named."""
    from tracegrad.lax.structural import full, full_like

    x = value("scatter_apply", operand)
    zeros = full_like(x, 0, np.int32)
    times = scatter_add(zeros, scatter_indices, full(tuple(update_shape), 1, np.int32), dimension_numbers, mode=mode)
    if unique_indices:
        return elementwise.select(elementwise.ne(times, 0), func(x), x)
    most = reduce_max(times, range(type_of(times).ndim)) if type_of(times).size else np.int32(0)
    return fori_loop(0, most, lambda i, x: elementwise.select(elementwise.gt(times, i), func(x), x), x)


def index_take(src: Any, idxs: Sequence[Any], axes: Sequence[int]) -> Any:
    """src at index arrays along some axes, which move to one leading axis."""
    src = value("index_take", src)
    shape = type_of(src).shape
    columns = [value("index_take", i, k + 1) for k, i in enumerate(idxs)]
    indices = concatenate([reshape(i, (*type_of(i).shape, 1)) for i in columns], 1)
    sizes = tuple(1 if d in axes else n for d, n in enumerate(shape))
    return ops.gather(
        src,
        indices,
        offset_dims=tuple(range(1, len(shape) - len(axes) + 1)),
        collapsed_slice_dims=tuple(sorted(axes)),
        start_index_map=tuple(axes),
        slice_sizes=sizes,
        mode="clip",
    )


# Dynamic slices. A negative start counts from the end, unless told that there are none.
def _start(name: str, index: Any, size: int, wrap: bool) -> Any:
    if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
        index = int(index)
        return index + size if wrap and index < 0 else index
    index = value(name, index)
    t = type_of(index)
    if not is_integer(t.dtype):
        raise TypeError(f"{name}: start indices must be integers, got {t}")
    if t.shape:
        raise TypeError(f"{name}: start indices must be scalars, got {t}")
    if not wrap or t.dtype.kind == "u":
        return index
    zero, n = t.dtype.type(0), t.dtype.type(min(size, np.iinfo(t.dtype).max))
    return elementwise.select(elementwise.lt(index, zero), elementwise.add(index, n), index)


def _starts(name: str, operand: Any, start_indices: Any, allow_negative: bool | Sequence[bool]) -> list[Any]:
    shape = type_of(operand).shape
    if not isinstance(start_indices, (list, tuple)):
        vector = value(name, start_indices, 1)
        t = type_of(vector)
        if t.ndim != 1:
            raise ValueError(f"{name}: start indices must be a 1d array or a sequence of scalars, got {t}")
        from tracegrad.lax.structural import index_in_dim

        start_indices = [index_in_dim(vector, i, keepdims=False) for i in range(t.shape[0])]
    if len(start_indices) != len(shape):
        raise ValueError(f"{name}: start_indices must have one entry for each of the {len(shape)} axes, got {len(start_indices)}")
    wraps = [allow_negative] * len(shape) if isinstance(allow_negative, bool) else list(allow_negative)
    return [_start(name, i, n, w) for i, n, w in zip(start_indices, shape, wraps)]


def dynamic_slice(
    operand: Any, start_indices: Any, slice_sizes: Sequence[int], *, allow_negative_indices: bool | Sequence[bool] = True
) -> Any:
    """The slice of these sizes that starts at `start_indices`, moved so that it fits."""
    operand = value("dynamic_slice", operand)
    sizes = as_shape(slice_sizes, "slice_sizes")
    return ops.dynamic_slice(operand, _starts("dynamic_slice", operand, start_indices, allow_negative_indices), sizes)


def dynamic_update_slice(
    operand: Any, update: Any, start_indices: Any, *, allow_negative_indices: bool | Sequence[bool] = True
) -> Any:
    """The operand with `update` written at `start_indices`, moved so that it fits."""
    operand, update = value("dynamic_update_slice", operand), value("dynamic_update_slice", update, 1)
    same_dtypes("dynamic_update_slice", operand, update)
    if type_of(update).ndim != type_of(operand).ndim:
        raise TypeError(
            f"dynamic_update_slice update must have the same rank as operand, got update shape {type_of(update).shape} for operand shape "
            f"{type_of(operand).shape}."
        )
    return ops.dynamic_update_slice(
        operand, update, _starts("dynamic_update_slice", operand, start_indices, allow_negative_indices)
    )


def dynamic_slice_in_dim(
    operand: Any, start_index: Any, slice_size: int, axis: int = 0, *, allow_negative_indices: bool = True
) -> Any:
    """`dynamic_slice` along one axis."""
    operand = value("dynamic_slice_in_dim", operand)
    shape = type_of(operand).shape
    axis = axis_in(axis, len(shape))
    start = _start("dynamic_slice_in_dim", start_index, shape[axis], allow_negative_indices)
    return ops.dynamic_slice_in_dim(operand, start, operator.index(slice_size), axis)


def dynamic_index_in_dim(
    operand: Any, index: Any, axis: int = 0, keepdims: bool = True, *, allow_negative_indices: bool = True
) -> Any:
    """The sub-array at `index` (clamped) along one axis."""
    operand = value("dynamic_index_in_dim", operand)
    shape = type_of(operand).shape
    axis = axis_in(axis, len(shape))
    start = _start("dynamic_index_in_dim", index, shape[axis], allow_negative_indices)
    return ops.dynamic_index_in_dim(operand, start, axis, keepdims)


def dynamic_update_slice_in_dim(
    operand: Any, update: Any, start_index: Any, axis: int, *, allow_negative_indices: bool = True
) -> Any:
    """`dynamic_update_slice` along one axis."""
    operand, update = value("dynamic_update_slice_in_dim", operand), value("dynamic_update_slice_in_dim", update, 1)
    same_dtypes("dynamic_update_slice", operand, update)
    shape = type_of(operand).shape
    axis = axis_in(axis, len(shape))
    start = _start("dynamic_update_slice_in_dim", start_index, shape[axis], allow_negative_indices)
    return ops.dynamic_update_slice_in_dim(operand, update, start, axis)


def dynamic_update_index_in_dim(operand: Any, update: Any, index: Any, axis: int, *, allow_negative_indices: bool = True) -> Any:
    """The operand with its sub-array at `index` along one axis replaced."""
    operand, update = value("dynamic_update_index_in_dim", operand), value("dynamic_update_index_in_dim", update, 1)
    same_dtypes("dynamic_update_slice", operand, update)
    shape = type_of(operand).shape
    axis = axis_in(axis, len(shape))
    start = _start("dynamic_update_index_in_dim", index, shape[axis], allow_negative_indices)
    return ops.dynamic_update_index_in_dim(operand, update, start, axis)


__all__ = [
    "GatherDimensionNumbers", "GatherScatterMode", "ScatterDimensionNumbers", "dynamic_index_in_dim", "dynamic_slice",
    "dynamic_slice_in_dim", "dynamic_update_index_in_dim", "dynamic_update_slice", "dynamic_update_slice_in_dim", "gather", "index_take",
    "scatter", "scatter_add", "scatter_apply", "scatter_max", "scatter_min", "scatter_mul", "scatter_sub",
]  # fmt: skip
