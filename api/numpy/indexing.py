"""`x[...]` and `x.at[...]`: reading and updating parts of arrays.

Static basic indices become slices, reversals and reshapes; traced scalars a dynamic slice; index arrays a gather. Updates at static
positions become dynamic_update_slice, others a scatter. Out of bounds, reads clamp and updates are dropped, unless `mode` says
otherwise; negative indices count from the end.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.config import config
from tracegrad.ir.types import is_key
from tracegrad.numpy.indexer import Components, Parsed, Span, parse, stack_components, wrap
from tracegrad.numpy.promotion import (
    BOOL,
    PYTHON_SCALARS,
    as_array,
    as_value,
    broadcast_to_shape,
    convert_scalar,
    shape_of,
    to_dtype,
)
from tracegrad.numpy.shape import reshape_to

GATHER_MODES = {
    None: "promise_in_bounds",
    "clip": "clip",
    "fill": "fill",
    "drop": "fill",
    "promise_in_bounds": "promise_in_bounds",
}
SCATTER_MODES = {None: "drop", "drop": "drop", "fill": "drop", "clip": "clip", "promise_in_bounds": "promise_in_bounds"}


def _mode(table: dict[Any, str], mode: Any) -> str:
    name = getattr(mode, "name", mode)
    name = name.lower() if isinstance(name, str) else name
    name = "fill" if name == "fill_or_drop" else name
    if name not in table:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(repr(m) for m in table)}")
    return table[name]


def getitem(x: Any, index: Any) -> Any:
    """x[index]."""
    if type(index) is int and x.aval.shape:
        # the commonest expression: one element, or row, of an array
        shape = x.aval.shape
        n = shape[0]
        i = index + n if index < 0 else index
        if 0 <= i < n:
            rest = shape[1:]
            part = x if n == 1 else ops.slice(x, (i, *(0,) * len(rest)), (i + 1, *rest))
            return ops.reshape(part, rest)
    return _get(x, index, "promise_in_bounds", None, True)


def _get(x: Any, index: Any, mode: str, fill_value: Any, wrapping: bool) -> Any:
    parsed = parse(x.aval.shape, index, wrapping)
    if parsed.has_arrays:
        return _gather(x, parsed, mode, fill_value, wrapping)
    return _basic(x, parsed, mode, fill_value, wrapping)


def _basic(x: Any, parsed: Parsed, mode: str, fill_value: Any, wrapping: bool) -> Any:
    shape = x.aval.shape
    entries = parsed.entries
    traced = any(isinstance(e, Array) for e in entries)
    static_outside = any(type(e) is int and not 0 <= e < n for e, n in zip(entries, shape))
    if any(not isinstance(e, Span) and n == 0 for e, n in zip(entries, shape)):
        raise IndexError(f"index is out of bounds for an axis of size 0 of an array of shape {shape}")
    if mode == "fill" and (traced or static_outside):
        return _gather(x, parsed, mode, fill_value, wrapping)
    entries = [max(0, min(e, n - 1)) if type(e) is int else e for e, n in zip(entries, shape)]
    if traced:
        starts: list[Any] = []
        sizes: list[int] = []
        later: list[Any] = []
        for e, n in zip(entries, shape):
            if isinstance(e, Span):
                folded = e.step == 1
                starts.append(e.start if folded else 0)
                sizes.append(e.count if folded else n)
                later.append(Span(0, e.count, 1) if folded else e)
            else:
                starts.append(wrap(e, n) if isinstance(e, Array) and wrapping else e)
                sizes.append(1)
                later.append(0)
        x = ops.dynamic_slice(x, starts, sizes)
        entries = later
    x = _static_slice(x, entries)
    return _arrange(x, parsed.layout, entries)


def _static_slice(x: Any, entries: list[Any]) -> Any:
    """Slice (and reverse) every dimension; one read at an int keeps size 1."""
    shape = x.aval.shape
    bounds = [e.ascending if isinstance(e, Span) else (e, e + 1, 1) for e in entries]
    if any(b != (0, n, 1) for b, n in zip(bounds, shape)):
        x = ops.slice(x, *zip(*bounds))
    backwards = [d for d, e in enumerate(entries) if isinstance(e, Span) and e.step < 0 and e.count > 1]
    return ops.rev(x, backwards) if backwards else x


def _arrange(x: Any, layout: list[Any], entries: list[Any]) -> Any:
    return reshape_to(x, tuple([1 if place is None else entries[place].count for place in layout]))


def _plan(x: Any, parsed: Parsed, wrapping: bool) -> tuple[Any, dict[int, Any], tuple[int, ...]]:
    """The operand (with dimensions for boolean scalars), the array components and their broadcast shape."""
    if parsed.insert:
        shape = list(x.aval.shape)
        for d in parsed.insert:
            shape.insert(d, 1)
        x = ops.reshape(x, shape)
    shape = x.aval.shape
    components: dict[int, Any] = {}
    for d, (e, n) in enumerate(zip(parsed.entries, shape)):
        if not isinstance(e, Span):
            components[d] = wrap(e, n) if wrapping and not isinstance(e, int) else np.asarray(e) if isinstance(e, int) else e
    shapes = [np.shape(c) if not isinstance(c, Array) else c.aval.shape for c in components.values()]
    try:
        common = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"index arrays of shapes {', '.join(map(str, shapes))} cannot be broadcast together") from None
    return x, components, common


def _array_axes(components: dict[int, Any], common: tuple[int, ...], first: int) -> dict[int, tuple[int, ...]]:
    axes = {}
    for d, c in components.items():
        rank = len(c.aval.shape) if isinstance(c, Array) else c.ndim
        axes[d] = tuple(range(first + len(common) - rank, first + len(common)))
    return axes


def _gather(x: Any, parsed: Parsed, mode: str, fill_value: Any, wrapping: bool) -> Any:
    if "arrays" not in parsed.layout:
        parsed = Parsed(parsed.entries, ["arrays", *parsed.layout], True)
    x, components, common = _plan(x, parsed, wrapping)
    entries = parsed.entries
    if any(isinstance(e, Span) and not e.whole(n) for e, n in zip(entries, x.aval.shape)):
        x = _static_slice(x, [e if isinstance(e, Span) else Span(0, n, 1) for e, n in zip(entries, x.aval.shape)])
    shape = x.aval.shape
    found = stack_components(components, shape, common, _array_axes(components, common, 0))
    offsets = []
    position = 0
    for place in parsed.layout:
        if place == "arrays":
            position += len(common)
        elif place is not None:
            offsets.append(position)
            position += 1
    sizes = tuple([1 if d in components else n for d, n in enumerate(shape)])
    if any(shape[d] == 0 for d in components):
        if 0 in common:
            sizes = tuple([0 if shape[d] == 0 else s for d, s in enumerate(sizes)])
        else:
            raise IndexError(f"index is out of bounds for an axis of size 0 of an array of shape {shape}")
    out = ops.gather(
        x,
        found.indices,
        offset_dims=offsets,
        collapsed_slice_dims=tuple(sorted(components)),
        start_index_map=found.dims,
        slice_sizes=sizes,
        mode="clip" if found.known else mode,
        fill_value=None if mode != "fill" or found.known else fill_value,
    )
    new_shape: list[int] = []
    for place in parsed.layout:
        new_shape.extend(common if place == "arrays" else (1,) if place is None else (shape[place],))
    return reshape_to(out, tuple(new_shape))


# Updates


def _update_value(x: Any, y: Any, name: str, kind: str) -> tuple[Any, Any]:
    """The update, and the dtype to compute in: the array's, but for combinations with values that it cannot hold."""
    dtype = x.aval.dtype
    y = as_value(name, y, "values") if not isinstance(y, (list, tuple)) else as_array(name, np.asarray(y), "values")
    t = type_of(y)
    if is_key(dtype) or is_key(t.dtype):
        if dtype != t.dtype:
            raise TypeError(f"{name}: cannot put values of dtype {t.dtype} into an array of dtype {dtype}")
        return y, dtype
    common = dtype if t.dtype == dtype else dtypes.promote(x.aval.strong(), t)[0]
    if common != dtype:
        warnings.warn(
            f"scatter inputs have incompatible types: cannot safely cast value from dtype={t.dtype} to dtype={dtype} with "
            f"jax_numpy_dtype_promotion={config.numpy_dtype_promotion!r}. In future releases this will result in an error.",
            FutureWarning,
            stacklevel=4,
        )
        if kind != "set":
            return y, common
    if isinstance(y, (*PYTHON_SCALARS, np.generic)):
        from tracegrad.numpy.creation import _converted

        y = np.asarray(y)
        return _converted(y.astype(dtype) if y.dtype.kind in "iub" and dtype.kind in "iub" else y, dtype)[()], dtype
    return (to_dtype(y, dtype, t.weak) if t.dtype != dtype else y), dtype


_KIND_OPS = {"add": ops.add, "mul": ops.mul, "min": ops.min, "max": ops.max}
_BOOL_OPS = {"add": ops.bitwise_or, "mul": ops.bitwise_and, "min": ops.bitwise_and, "max": ops.bitwise_or}
_BOOL_KINDS = {"set": "set", "add": "max", "mul": "min", "min": "min", "max": "max"}


def _combine(kind: str, old: Any, new: Any) -> Any:
    if kind == "set":
        return new
    return (_BOOL_OPS if type_of(old).dtype == BOOL else _KIND_OPS)[kind](old, new)


def update(x: Any, index: Any, y: Any, kind: str, mode: Any, unique: bool, wrapping: bool, name: str) -> Any:
    """x.at[index].<kind>(y)."""
    x = as_array(name, x)
    mode = _mode(SCATTER_MODES, mode)
    dtype = x.aval.dtype
    y, common = _update_value(x, y, name, kind)
    if common != dtype:
        # computed in the common dtype, and rounded once to the array's
        wide = ops.convert_element_type(x, common)
        return ops.convert_element_type(update(wide, index, y, kind, mode, unique, wrapping, name), dtype)
    out = _update(x, index, y, kind, mode, unique, wrapping, name)
    return ops.convert_element_type(out, dtype, True) if x.aval.weak and not out.aval.weak else out


def _update(x: Any, index: Any, y: Any, kind: str, mode: str, unique: bool, wrapping: bool, name: str) -> Any:
    mask = _lone_mask(x, index)
    if mask is not None and not shape_of(y):
        mask = ops.broadcast_in_dim(mask, x.aval.shape, range(mask.ndim)) if mask.ndim < x.ndim else mask
        return ops.select(mask, _combine(kind, x, y), x)
    parsed = parse(x.aval.shape, index, wrapping)
    shape = x.aval.shape
    if not parsed.has_arrays and not any(isinstance(e, Array) for e in parsed.entries):
        if any(type(e) is int and not 0 <= e < n for e, n in zip(parsed.entries, shape)):
            if mode == "drop" or x.size == 0:
                _to_result_shape(y, _result_shape(parsed, shape, ()), name)
                return x
            parsed.entries = [max(0, min(e, n - 1)) if type(e) is int else e for e, n in zip(parsed.entries, shape)]
        if all(type(e) is int or abs(e.step) == 1 or e.count <= 1 for e in parsed.entries):
            return _update_static(x, parsed, y, kind, name)
    return _scatter(x, parsed, y, kind, mode, unique, wrapping, name)


def _lone_mask(x: Any, index: Any) -> Any:
    """The mask, if the index is a single boolean array over leading dimensions."""
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    if isinstance(index, np.ndarray) and index.dtype == BOOL and index.ndim:
        index = as_array("at", index)
    if isinstance(index, Array) and index.aval.dtype == BOOL and index.ndim and index.aval.shape == x.aval.shape[: index.ndim]:
        return index
    return None


def _result_shape(parsed: Parsed, shape: tuple[int, ...], common: tuple[int, ...]) -> tuple[int, ...]:
    out: list[int] = []
    for place in parsed.layout:
        out.extend(common if place == "arrays" else (1,) if place is None else (parsed.entries[place].count,))
    return tuple(out)


def _to_result_shape(y: Any, shape: tuple[int, ...], name: str) -> Any:
    own = shape_of(y)
    while len(own) > len(shape) and own[0] == 1:
        own = own[1:]
    if len(own) > len(shape) or any(a != b and a != 1 for a, b in zip(own[::-1], shape[::-1])):
        raise ValueError(f"{name}: Incompatible shapes for broadcasting: {shape_of(y)} and requested shape {shape}")
    return broadcast_to_shape(reshape_to(y, own), shape)


def _update_static(x: Any, parsed: Parsed, y: Any, kind: str, name: str) -> Any:
    shape = x.aval.shape
    entries = parsed.entries
    scalar = not shape_of(y)
    if not scalar:
        y = _to_result_shape(y, _result_shape(parsed, shape, ()), name)
    window = tuple([e.count if isinstance(e, Span) else 1 for e in entries])
    if 0 in window:
        return x
    y = broadcast_to_shape(y, window) if scalar else reshape_to(y, window)
    backwards = [d for d, e in enumerate(entries) if isinstance(e, Span) and e.step < 0 and e.count > 1]
    if backwards and not scalar:
        y = ops.rev(y, backwards)
    starts = [e.ascending[0] if isinstance(e, Span) else e for e in entries]
    if window == shape:
        out = _combine(kind, x, y)
        return out if isinstance(out, Array) else as_array(name, out)
    if kind != "set":
        y = _combine(kind, ops.slice(x, starts, [s + n for s, n in zip(starts, window)]), y)
    return ops.dynamic_update_slice(x, y if isinstance(y, Array) else as_array(name, y), starts)


def _scatter(x: Any, parsed: Parsed, y: Any, kind: str, mode: str, unique: bool, wrapping: bool, name: str) -> Any:
    original_shape = x.aval.shape
    x, components, common = _plan(x, parsed, wrapping)
    shape = x.aval.shape
    layout = [p for p in parsed.layout if p is not None]
    # new axes do not exist in the array
    update_shape = _result_shape(Parsed(parsed.entries, layout, True), shape, common)
    if shape_of(y):
        y = reshape_to(_to_result_shape(y, _result_shape(parsed, shape, common), name), update_shape)
    else:
        y = broadcast_to_shape(y, update_shape)
    batch: list[int] = []
    axes: dict[int, Any] = {}
    window_dims: list[int] = []
    backwards: list[int] = []
    position = 0
    if "arrays" not in layout:
        axes.update(_array_axes(components, common, 0))
    for place in layout:
        if place == "arrays":
            axes.update(_array_axes(components, common, len(batch)))
            batch.extend(common)
            position += len(common)
            continue
        span = parsed.entries[place]
        if abs(span.step) != 1 and span.count > 1:
            # every element of a strided slice has an index of its own
            components[place] = np.arange(span.count) * span.step + span.start
            axes[place] = (len(batch),)
            batch.append(span.count)
        else:
            window_dims.append(position)
            if span.step < 0 and span.count > 1:
                backwards.append(position)
            lo = span.ascending[0]
            if lo:
                components[place] = np.asarray(lo)
                axes[place] = ()
        position += 1
    if 0 in batch or 0 in y.shape or x.size == 0:
        return reshape_to(x, original_shape)
    if backwards:
        y = ops.rev(y, backwards)
    found: Components = stack_components(dict(sorted(components.items())), shape, tuple(batch), axes)
    windows = [place for place in layout if place != "arrays" and (place not in axes or axes[place] == ())]
    out = ops.scatter(
        x,
        found.indices,
        y if isinstance(y, Array) else as_array(name, y),
        kind=_BOOL_KINDS[kind] if x.aval.dtype == BOOL else kind,
        update_window_dims=window_dims,
        inserted_window_dims=[d for d in range(len(shape)) if d not in windows],
        scatter_dims_to_operand_dims=found.dims,
        mode="promise_in_bounds" if found.known else mode,
        unique_indices=unique,
    )
    return reshape_to(out, original_shape)


def _may_repeat(index: Any) -> bool:
    """Whether an index can name an element twice: it has index arrays whose values are not known, or repeat."""
    arrays = [i for i in (index if isinstance(index, tuple) else (index,)) if hasattr(i, "dtype") and len(i.shape) > 0]
    if any(hasattr(i, "interpreter") for i in arrays):
        return any(i.dtype != BOOL for i in arrays)
    known = [np.asarray(i) for i in arrays if i.dtype != BOOL]
    return len(known) > 1 or any(v.size and (np.unique(v).size < v.size or v.min() < 0) for v in known)


def _apply_repeatedly(x: Any, index: Any, func: Any, mode: Any, wrapping: bool) -> Any:
    """Apply `func` everywhere as long as some element's number of mentions is not reached, keeping the result only there."""
    from tracegrad.numpy.creation import zeros_like
    from tracegrad.tracer.control_flow import while_loop

    times = update(zeros_like(x, dtype=np.int32), index, 1, "add", mode, False, wrapping, "at[].apply")
    dims = range(len(shape_of(x)))

    def step(state: Any) -> Any:
        value, left = state
        new = to_dtype(func(value), type_of(value).dtype)
        return ops.select(ops.gt(left, np.int32(0)), new, value), ops.sub(left, np.int32(1))

    return while_loop(lambda state: ops.reduce_or(ops.gt(state[1], np.int32(0)), dims), step, (x, times))[0]


class IndexUpdates:
    """`x.at`: index it to name elements, then call a method to update (a copy of) the array there."""

    __slots__ = ("array",)

    def __init__(self, array: Any):
        self.array = array

    def __getitem__(self, index: Any) -> IndexUpdate:
        return IndexUpdate(self.array, index)

    def __repr__(self) -> str:
        return f"IndexUpdates({self.array!r})"


class IndexUpdate:
    """`x.at[index]`. Every method gives a new array; `x` itself does not change.

    `mode` says what happens out of bounds ("drop", the default, "clip", "promise_in_bounds"); `unique_indices` promises that no
    element is named twice; `indices_are_sorted` is accepted.
    """

    __slots__ = ("array", "index")

    def __init__(self, array: Any, index: Any):
        self.array = array
        self.index = index

    def __repr__(self) -> str:
        return f"IndexUpdate({self.array!r}, {self.index!r})"

    def get(
        self,
        *,
        indices_are_sorted: bool = False,
        unique_indices: bool = False,
        mode: Any = None,
        fill_value: Any = None,
        out_sharding: Any = None,
        wrap_negative_indices: bool = True,
    ) -> Any:
        """x[index]; with mode="fill", `fill_value` (NaN, or the least integer) out of bounds."""
        x = as_array("at[].get", self.array)
        chosen = _mode(GATHER_MODES, mode)
        if fill_value is not None:
            fill_value = convert_scalar(np.asarray(fill_value)[()], x.aval.dtype).item() if not is_key(x.aval.dtype) else None
        return _get(x, self.index, chosen, fill_value, wrap_negative_indices)

    def set(self, values: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
            out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] = values."""
        return update(self.array, self.index, values, "set", mode, unique_indices, wrap_negative_indices, "at[].set")

    def add(self, values: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
            out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] += values; an element named twice is added to twice."""
        return update(self.array, self.index, values, "add", mode, unique_indices, wrap_negative_indices, "at[].add")

    def subtract(self, values: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
                 out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] -= values; an element named twice is subtracted from twice."""
        from tracegrad.numpy.elementwise import negative

        values = negative(values)
        return update(self.array, self.index, values, "add", mode, unique_indices, wrap_negative_indices, "at[].subtract")

    def multiply(self, values: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
                 out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] *= values; an element named twice is multiplied twice."""
        return update(self.array, self.index, values, "mul", mode, unique_indices, wrap_negative_indices, "at[].multiply")

    mul = multiply

    def divide(self, values: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
               out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] /= values."""
        from tracegrad.numpy.creation import ones_like
        from tracegrad.numpy.elementwise import divide

        x = as_array("at[].divide", self.array)
        divisors = update(ones_like(x), self.index, values, "mul", mode, unique_indices, wrap_negative_indices, "at[].divide")
        return divide(x, divisors)

    def power(self, values: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
              out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] **= values."""
        from tracegrad.numpy.creation import ones_like
        from tracegrad.numpy.elementwise import power

        x = as_array("at[].power", self.array)
        exponents = update(ones_like(x), self.index, values, "mul", mode, unique_indices, wrap_negative_indices, "at[].power")
        return power(x, exponents)

    def min(self, values: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
            out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] = minimum(x[index], values)."""
        return update(self.array, self.index, values, "min", mode, unique_indices, wrap_negative_indices, "at[].min")

    def max(self, values: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
            out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] = maximum(x[index], values)."""
        return update(self.array, self.index, values, "max", mode, unique_indices, wrap_negative_indices, "at[].max")

    def apply(self, func: Any, *, indices_are_sorted: bool = False, unique_indices: bool = False, mode: Any = None,
              out_sharding: Any = None, wrap_negative_indices: bool = True) -> Any:  # fmt: skip
        """The array with x[index] = func(x[index]); on an element named several times func is applied as often."""
        x = as_array("at[].apply", self.array)
        if not unique_indices and _may_repeat(self.index):
            return _apply_repeatedly(x, self.index, func, mode, wrap_negative_indices)
        new = func(_get(x, self.index, "promise_in_bounds", None, wrap_negative_indices))
        return update(x, self.index, new, "set", mode, unique_indices, wrap_negative_indices, "at[].apply")
