"""Reductions along axes, and cumulative ones."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.checks import scalar_like
from tracegrad.ir.reductions import greatest, least
from tracegrad.ir.types import is_complex, is_inexact, is_key
from tracegrad.numpy.creation import filled
from tracegrad.numpy.dtype_objects import optional_dtype
from tracegrad.numpy.elementwise import (
    divide,
    equal,
    isnan,
    maximum,
    minimum,
    multiply,
    sqrt,
    square,
    subtract,
)
from tracegrad.numpy.logic import truth
from tracegrad.numpy.makers import is_complex_value, no_out
from tracegrad.numpy.promotion import (
    BOOL,
    as_array,
    as_value,
    axis_index,
    axis_indices,
    broadcast,
    broadcast_to_shape,
    cast,
    inexact_dtype,
    real_dtype,
    require_numbers,
    shape_of,
    to_dtype,
)
from tracegrad.numpy.shape import ravel, reshape_to


def masked(name: str, a: Any, where: Any, value: Any) -> Any:
    """`a` with `value` where the mask `where` is false."""
    if where is None:
        return a
    mask = truth(name, where)
    if isinstance(mask, np.bool_):
        mask = as_array(name, mask)
    mask, a = broadcast(name, mask, a, full=True)
    return ops.select(mask, a, value)


def keep_axes(out: Any, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> Any:
    """A reduction's result with its axes kept at size 1, if asked."""
    return reshape_to(out, tuple([1 if i in axes else d for i, d in enumerate(shape)])) if keepdims else out


def _accumulation_dtype(dtype: Any, promote_integers: bool) -> Any:
    """The dtype of a sum of booleans or of small integers: the default integer dtype at least."""
    if dtype == BOOL:
        return dtypes.int_dtype()
    if promote_integers and dtype.kind in "iu":
        wide = dtypes.int_dtype() if dtype.kind == "i" else dtypes.uint_dtype()
        return wide if wide.itemsize > dtype.itemsize else dtype
    return dtype


def _accumulating(name: str, operation: Callable[..., Any], combine: str, identity: int, doc: str) -> Callable[..., Any]:
    def function(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        out: None = None,
        keepdims: bool = False,
        initial: Any = None,
        where: Any = None,
        promote_integers: bool = True,
    ) -> Any:
        no_out(name, out)
        if not isinstance(a, Array):
            a = as_array(name, a, "a")
        t = a.aval if isinstance(a, Array) else type_of(a)
        dtype = optional_dtype(name, dtype)
        if dtype is None:
            dtype = t.dtype if t.dtype.kind == "f" else _accumulation_dtype(t.dtype, promote_integers)
        if dtype != t.dtype or t.weak:
            require_numbers(name, a)
            a = ops.convert_element_type(a, dtype)
        shape = t.shape
        if where is not None:
            a = masked(name, a, where, _number(identity, dtype))
            shape = shape_of(a)
        axes = axis_indices(name, axis, len(shape))
        result = operation(a, axes) if axes else a
        if initial is not None:
            start = to_dtype(as_value(name, initial, "initial"), dtype)
            result = getattr(ops, combine)(result, start)
        return keep_axes(result, shape, axes, keepdims)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "tracegrad.numpy"
    function.__doc__ = doc
    return function


def _number(value: int, dtype: Any) -> Any:
    return dtype.type(value)


def _sum(a: Any, axes: tuple[int, ...]) -> Any:
    if type_of(a).dtype == BOOL:
        return ops.reduce_or(a, axes)
    return ops.reduce_sum(a, axes)


sum = _accumulating("sum", _sum, "add", 0, "The sum along axes. Booleans and small integers are summed as int32.")
prod = _accumulating("prod", ops.reduce_prod, "mul", 1, "The product along axes.")


def _extremum(
    name: str, operation: Callable[..., Any], choose: Callable[..., Any], identity: Callable[[Any], Any], doc: str
) -> Any:
    def function(
        a: Any, axis: Any = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None
    ) -> Any:
        no_out(name, out)
        a = as_array(name, a, "a")
        require_numbers(name, a)
        dtype = type_of(a).dtype
        a = to_dtype(a, dtype)
        if where is not None:
            if initial is None:
                raise ValueError(f"{name}: initial must be specified when the where mask is provided")
            a = masked(name, a, where, to_dtype(as_array(name, initial), dtype))
        shape = shape_of(a)
        axes = axis_indices(name, axis, len(shape))
        if is_complex(dtype):
            result = _complex_extremum(a, axes, name == "max")
        else:
            if initial is None and builtins.any(shape[i] == 0 for i in axes):
                raise ValueError(
                    f"zero-size array to reduction operation {name} which has no identity: shape {shape}, axes {axes}"
                )
            result = operation(a, axes) if axes else a
        result = keep_axes(result, shape, axes, keepdims)
        return result if initial is None else choose(result, to_dtype(as_value(name, initial), dtype))

    function.__name__ = function.__qualname__ = name
    function.__module__ = "tracegrad.numpy"
    function.__doc__ = doc
    return function


def sort_one(x: Any, dimension: int) -> Any:
    """One array, sorted along a dimension."""
    return ops.sort(x, dimension=dimension)[0]


def _complex_extremum(a: Any, axes: tuple[int, ...], greatest_: bool) -> Any:
    """The extremum in the order of real, then imaginary parts."""
    if not axes:
        return a
    shape = shape_of(a)
    kept = [i for i in range(len(shape)) if i not in axes]
    count = math.prod(shape[i] for i in axes)
    rows = ops.reshape(ops.transpose(a, [*kept, *axes]), tuple(shape[i] for i in kept) + (count,))
    ordered = sort_one(rows, len(kept))
    position = count - 1 if greatest_ else 0
    return reshape_to(ops.slice_in_dim(ordered, position, position + 1, 1, len(kept)), tuple(shape[i] for i in kept))


max = _extremum("max", ops.reduce_max, maximum, least, "The maximum along axes; NaN if there is one.")
min = _extremum("min", ops.reduce_min, minimum, greatest, "The minimum along axes; NaN if there is one.")
amax, amin = max, min


def _boolean(name: str, operation: Callable[..., Any], identity: bool, doc: str) -> Callable[..., Any]:
    def function(a: Any, axis: Any = None, out: None = None, keepdims: bool = False, *, where: Any = None) -> Any:
        no_out(name, out)
        a = as_array(name, truth(name, a))
        if where is not None:
            a = masked(name, a, where, np.bool_(identity))
        shape = shape_of(a)
        axes = axis_indices(name, axis, len(shape))
        return keep_axes(operation(a, axes) if axes else a, shape, axes, keepdims)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "tracegrad.numpy"
    function.__doc__ = doc
    return function


all = _boolean("all", ops.reduce_and, True, "Whether every element along axes is true.")
any = _boolean("any", ops.reduce_or, False, "Whether some element along axes is true.")


def ptp(a: Any, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
    """The distance between the extrema along axes."""
    no_out("ptp", out)
    return subtract(max(a, axis, keepdims=keepdims), min(a, axis, keepdims=keepdims))


def count_nonzero(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """How many elements along axes are not zero."""
    return sum(as_array("count_nonzero", truth("count_nonzero", a)), axis, dtype=dtypes.int_dtype(), keepdims=keepdims)


# Means


def _count(name: str, shape: tuple[int, ...], axes: tuple[int, ...], where: Any, dtype: Any, keepdims: bool) -> Any:
    """The number of elements that a mean divides by: a known number, unless a mask says which count."""
    if where is None:
        return dtype.type(math.prod(shape[i] for i in axes))
    mask = broadcast_to_shape(as_array(name, truth(name, where)), shape)
    ones = ops.convert_element_type(mask, dtype)
    return keep_axes(ops.reduce_sum(ones, axes) if axes else ones, shape, axes, keepdims)


def mean(a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False, *, where: Any = None) -> Any:
    """The mean along axes; of integers, a float. The mean of nothing is NaN."""
    no_out("mean", out)
    a = as_array("mean", a, "a")
    t = type_of(a)
    dtype = optional_dtype("mean", dtype)
    weak = dtype is None and t.weak and is_inexact(t.dtype)
    if dtype is None:
        require_numbers("mean", a)
        dtype = inexact_dtype("mean", t.dtype)
    computed = np.dtype(np.float32) if dtype.itemsize == 2 and is_inexact(dtype) else dtype
    a = cast(a, t, computed, weak)
    shape = shape_of(a) if where is None else np.broadcast_shapes(shape_of(a), shape_of(where))
    axes = axis_indices("mean", axis, len(shape))
    total = sum(a, axes, keepdims=keepdims, where=where, promote_integers=False)
    out_ = (
        divide(total, _count("mean", shape, axes, where, computed, keepdims))
        if computed.kind not in "iub"
        else _integer_mean(total, math.prod(shape[i] for i in axes), computed)
    )
    return cast(out_, type_of(out_), dtype, weak)


def _integer_mean(total: Any, count: int, dtype: Any) -> Any:
    return ops.div(total, scalar_like(count, dtype))


def average(a: Any, axis: Any = None, weights: Any = None, returned: bool = False, keepdims: bool = False) -> Any:
    """The weighted mean along axes (and, if `returned`, the sum of weights)."""
    a = as_array("average", a, "a")
    shape = shape_of(a)
    if weights is None:
        out = mean(a, axis, keepdims=keepdims)
        axes = axis_indices("average", axis, len(shape))
        total = filled("average", shape_of(out), math.prod(shape[i] for i in axes), type_of(out).dtype)
    else:
        from tracegrad.numpy.promotion import promote_inexact

        a, weights = promote_inexact("average", a, as_array("average", weights, "weights"))
        w = shape_of(weights)
        axes = axis_indices("average", axis, len(shape))
        if w != shape:
            if axis is None:
                raise ValueError(f"average: axis must be given when the shapes of a and weights differ: {shape} and {w}")
            if w != tuple(shape[i] for i in axes):
                raise ValueError(f"average: weights of shape {w} do not match axes {axes} of an array of shape {shape}")
            order = sorted(range(len(axes)), key=lambda k: axes[k])
            spread = tuple(shape[i] if i in axes else 1 for i in range(len(shape)))
            weights = broadcast_to_shape(ops.reshape(ops.transpose(weights, order), spread), shape)
        total = sum(weights, axes, keepdims=keepdims)
        out = divide(sum(multiply(a, weights), axes, keepdims=keepdims), total)
    return (out, broadcast_to_shape(total, shape_of(out))) if returned else out


def var(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: None = None,
    ddof: int = 0,
    keepdims: bool = False,
    *,
    where: Any = None,
    mean: Any = None,
    correction: Any = None,
) -> Any:
    """The variance along axes, divided by the count minus `ddof`."""
    return _variance("var", a, axis, dtype, out, ddof, keepdims, where, mean, correction)


_mean = mean


def _variance(
    name: str, a: Any, axis: Any, dtype: Any, out: None, ddof: Any, keepdims: bool, where: Any, mean: Any, correction: Any
) -> Any:
    no_out(name, out)
    if correction is not None:
        if ddof != 0:
            raise ValueError(f"{name}: ddof and correction cannot both be given")
        ddof = correction
    a = as_array(name, a, "a")
    t = type_of(a)
    require_numbers(name, a)
    dtype = optional_dtype(name, dtype)
    if dtype is not None and is_complex(t.dtype) and not is_complex(dtype):
        raise ValueError(f"{name}: dtype must be complex for a complex argument, got {dtype}")
    working = inexact_dtype(name, t.dtype)
    result_dtype = real_dtype(working) if dtype is None else real_dtype(dtype)
    if dtype is not None and is_inexact(dtype) and dtype.itemsize > working.itemsize:
        working = dtype
    wide = np.dtype(np.float32) if working.itemsize == 2 else working
    weak = dtype is None and t.weak
    x = cast(a, t, wide, weak)
    shape = shape_of(x)
    axes = axis_indices(name, axis, len(shape))
    center = _mean(x, axes, keepdims=True, where=where) if mean is None else mean
    centered = subtract(x, center)
    if where is not None:
        # also before squaring: what is left out may be NaN, and must not reach derivatives
        centered = masked(name, centered, where, wide.type(0))
    if is_complex(wide):
        deviation = ops.add(square(ops.real(centered)), square(ops.imag(centered)))
    else:
        deviation = square(centered)
    total = sum(deviation, axes, keepdims=keepdims, where=where)
    real_ = real_dtype(wide)
    count = _count(name, shape, axes, where, real_, keepdims)
    if isinstance(count, np.generic):
        divisor = real_.type(np.maximum(float(count) - ddof, 0)) if isinstance(ddof, (int, float)) else subtract(count, ddof)
    else:
        divisor = maximum(subtract(count, ddof), 0)
    result = divide(total, divisor)
    return cast(result, type_of(result), result_dtype, weak)


def std(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: None = None,
    ddof: int = 0,
    keepdims: bool = False,
    *,
    where: Any = None,
    mean: Any = None,
    correction: Any = None,
) -> Any:
    """The standard deviation along axes."""
    return sqrt(_variance("std", a, axis, dtype, out, ddof, keepdims, where, mean, correction))


# argmax and argmin


def _index_of_extremum(name: str, operation: Callable[..., Any], doc: str) -> Callable[..., Any]:
    def function(a: Any, axis: int | None = None, out: None = None, keepdims: bool | None = None) -> Any:
        no_out(name, out)
        a = as_array(name, a, "a")
        require_numbers(name, a)
        shape = shape_of(a)
        flat, i = (ravel(a), 0) if axis is None else (a, axis_index(name, axis, len(shape)))
        if axis is not None and not shape:
            raise ValueError(f"{name}: axis {axis} is out of bounds for an array of dimension 0")
        if shape_of(flat)[i] == 0:
            raise ValueError(f"attempt to get {name} of an empty sequence: shape {shape}, axis {axis}")
        if is_complex_value(flat):
            target = _complex_extremum(flat, (i,), name == "argmax")
            flat = equal(
                flat, broadcast_to_shape(reshape_to(target, shape_of(target)[:i] + (1,) + shape_of(target)[i:]), shape_of(flat))
            )
            out_ = ops.argmax(flat, i, dtypes.int_dtype())
        else:
            out_ = operation(flat, i, dtypes.int_dtype())
        if keepdims:
            out_ = reshape_to(out_, (1,) * len(shape) if axis is None else shape[:i] + (1,) + shape[i + 1 :])
        return out_

    function.__name__ = function.__qualname__ = name
    function.__module__ = "tracegrad.numpy"
    function.__doc__ = doc
    return function


argmax = _index_of_extremum(
    "argmax", ops.argmax, "The index of the first maximum along an axis; of the first NaN, if there is one."
)
argmin = _index_of_extremum(
    "argmin", ops.argmin, "The index of the first minimum along an axis; of the first NaN, if there is one."
)


# Cumulative


def _cumulative(name: str, operation: Callable[..., Any], doc: str) -> Callable[..., Any]:
    def function(a: Any, axis: int | None = None, dtype: Any = None, out: None = None) -> Any:
        no_out(name, out)
        return cumulate(name, operation, a, axis, dtype)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "tracegrad.numpy"
    function.__doc__ = doc
    return function


def cumulate(
    name: str, operation: Callable[..., Any], a: Any, axis: int | None, dtype: Any, promote_integers: bool = False
) -> Any:
    a = as_array(name, a, "a")
    dtype = optional_dtype(name, dtype)
    if axis is None:
        a, axis = ravel(a), 0
    t = type_of(a)
    i = axis_index(name, axis, len(t.shape))
    weak = dtype is None and t.weak
    if dtype is None:
        require_numbers(name, a)
        dtype = _accumulation_dtype(t.dtype, promote_integers)
    a = cast(a, t, dtype, weak)
    if dtype == BOOL:
        return ops.ne(operation(ops.convert_element_type(a, np.dtype(np.int32)), i), np.int32(0))
    return operation(a, i)


cumsum = _cumulative("cumsum", ops.cumsum, "The sums of the elements up to each one.")
cumprod = _cumulative("cumprod", ops.cumprod, "The products of the elements up to each one.")


def cumulative_sum(x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Any:
    """The sums of the elements up to each one; with `include_initial` the empty sum comes first."""
    return _array_api_cumulative("cumulative_sum", ops.cumsum, 0, x, axis, dtype, include_initial)


def cumulative_prod(x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Any:
    """The products of the elements up to each one; with `include_initial` the empty product comes first."""
    return _array_api_cumulative("cumulative_prod", ops.cumprod, 1, x, axis, dtype, include_initial)


def _array_api_cumulative(name: str, operation: Any, identity: int, x: Any, axis: Any, dtype: Any, include_initial: bool) -> Any:
    x = as_array(name, x)
    rank = len(shape_of(x))
    if rank == 0:
        raise ValueError(f"{name}: the argument must be non-scalar")
    if axis is None:
        if rank > 1:
            raise ValueError(f"{name}: axis must be specified for an array of {rank} dimensions")
        axis = 0
    i = axis_index(name, axis, rank)
    out = cumulate(name, operation, x, i, dtype, promote_integers=True)
    if include_initial:
        shape = shape_of(out)
        first = filled(name, shape[:i] + (1,) + shape[i + 1 :], identity, type_of(out).dtype)
        out = ops.concatenate([first, out], i)
    return out


# Ignoring NaN


def without_nan(name: str, a: Any, value: Any) -> tuple[Any, Any]:
    """`a` with `value` in place of NaN, and the mask of NaN (None where there cannot be any)."""
    a = as_array(name, a, "a")
    dtype = type_of(a).dtype
    if is_key(dtype) or not is_inexact(dtype):
        return a, None
    nan = isnan(a)
    return ops.select(nan, dtype.type(value), a), nan


def nansum(
    a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None
) -> Any:
    """`sum`, with NaN counted as 0."""
    return sum(without_nan("nansum", a, 0)[0], axis, dtype, out, keepdims, initial, where)


def nanprod(
    a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None
) -> Any:
    """`prod`, with NaN counted as 1."""
    return prod(without_nan("nanprod", a, 1)[0], axis, dtype, out, keepdims, initial, where)


def _nan_extremum(
    name: str, function: Any, value: float, a: Any, axis: Any, out: Any, keepdims: bool, initial: Any, where: Any
) -> Any:
    no_out(name, out)
    clean, nan = without_nan(name, a, value)
    if where is not None and initial is None and is_inexact(type_of(clean).dtype):
        initial = value
    result = function(clean, axis, None, keepdims, initial, where)
    if nan is None:
        return result
    if where is not None:
        nan = ops.bitwise_or(*broadcast(name, nan, ops.bitwise_not(as_array(name, truth(name, where))), full=True))
    everything_nan = all(nan, axis, keepdims=keepdims)
    return ops.select(everything_nan, type_of(result).dtype.type(np.nan), result)


def nanmax(a: Any, axis: Any = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None) -> Any:
    """`max` without the NaN; NaN where there is nothing else."""
    return _nan_extremum("nanmax", max, -np.inf, a, axis, out, keepdims, initial, where)


def nanmin(a: Any, axis: Any = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None) -> Any:
    """`min` without the NaN; NaN where there is nothing else."""
    return _nan_extremum("nanmin", min, np.inf, a, axis, out, keepdims, initial, where)


def _not_nan(name: str, a: Any, where: Any) -> Any:
    a = as_array(name, a, "a")
    if not is_inexact(type_of(a).dtype):
        return where
    mask = ops.bitwise_not(isnan(a))
    return mask if where is None else ops.bitwise_and(*broadcast(name, mask, as_array(name, truth(name, where)), full=True))


def nanmean(a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False, where: Any = None) -> Any:
    """`mean` without the NaN."""
    return mean(a, axis, dtype, out, keepdims, where=_not_nan("nanmean", a, where))


def nanvar(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: None = None,
    ddof: int = 0,
    keepdims: bool = False,
    where: Any = None,
    mean: Any = None,
) -> Any:
    """`var` without the NaN."""
    return _variance("nanvar", a, axis, dtype, out, ddof, keepdims, _not_nan("nanvar", a, where), mean, None)


def nanstd(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: None = None,
    ddof: int = 0,
    keepdims: bool = False,
    where: Any = None,
    mean: Any = None,
) -> Any:
    """`std` without the NaN."""
    return sqrt(nanvar(a, axis, dtype, out, ddof, keepdims, where, mean))


def nancumsum(a: Any, axis: int | None = None, dtype: Any = None, out: None = None) -> Any:
    """`cumsum`, with NaN counted as 0."""
    return cumsum(without_nan("nancumsum", a, 0)[0], axis, dtype, out)


def nancumprod(a: Any, axis: int | None = None, dtype: Any = None, out: None = None) -> Any:
    """`cumprod`, with NaN counted as 1."""
    return cumprod(without_nan("nancumprod", a, 1)[0], axis, dtype, out)


def _nan_index(name: str, function: Any, value: float, a: Any, axis: Any, out: Any, keepdims: Any) -> Any:
    clean, nan = without_nan(name, a, value)
    result = function(clean, axis, out, keepdims)
    if nan is None:
        return result
    return ops.select(all(nan, axis, keepdims=bool(keepdims)), type_of(result).dtype.type(-1), result)


def nanargmax(a: Any, axis: int | None = None, out: None = None, keepdims: bool | None = None) -> Any:
    """`argmax` without the NaN; -1 where there is nothing else."""
    return _nan_index("nanargmax", argmax, -np.inf, a, axis, out, keepdims)


def nanargmin(a: Any, axis: int | None = None, out: None = None, keepdims: bool | None = None) -> Any:
    """`argmin` without the NaN; -1 where there is nothing else."""
    return _nan_index("nanargmin", argmin, np.inf, a, axis, out, keepdims)
