"""Choosing elements: where, clip, select, take and putting values back."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.elementwise import select_p
from tracegrad.ir.types import is_complex, is_integer, is_key
from tracegrad.numpy.creation import asarray
from tracegrad.numpy.elementwise import maximum, minimum
from tracegrad.numpy.indexer import wrap
from tracegrad.numpy.indexing import IndexUpdates
from tracegrad.numpy.logic import truth
from tracegrad.numpy.makers import no_out
from tracegrad.numpy.promotion import (
    as_array,
    as_value,
    axis_index,
    broadcast,
    broadcast_shapes_of,
    broadcast_to_shape,
    promote,
    promote_values,
    shape_of,
    static_int,
    to_dtype,
)
from tracegrad.numpy.shape import ravel, reshape_to


def where(condition: Any, x: Any = None, y: Any = None, /, *, size: int | None = None, fill_value: Any = None) -> Any:
    """`x` where the condition holds, `y` elsewhere. With the condition alone: `nonzero(condition)`."""
    if x is None and y is None:
        from tracegrad.numpy.searching import nonzero

        return nonzero(condition, size=size, fill_value=fill_value)
    if x is None or y is None:
        raise TypeError("Either both or neither of the x and y arguments should be provided to jnp.where, got one of them.")
    if size is not None or fill_value is not None:
        raise ValueError("jnp.where: size and fill_value arguments cannot be used in three-argument version")
    condition = truth("where", condition)
    x, y = promote("where", x, y)
    key = is_key(type_of(x).dtype)
    condition, x, y = broadcast("where", condition, x, y, full=key)
    if isinstance(condition, np.bool_):
        condition = as_array("where", condition)
    return bind1(select_p, condition, x, y)


def select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    """Each element from the first choice whose condition holds."""
    if len(condlist) != len(choicelist):
        raise ValueError(f"condlist must have length equal to choicelist ({len(condlist)} vs {len(choicelist)})")
    if len(condlist) == 0:
        raise ValueError("condlist must be non-empty")
    *choices, out = promote("select", *choicelist, default)
    shape = broadcast_shapes_of("select", *map(shape_of, [*condlist, *choices, out]))
    out = broadcast_to_shape(as_array("select", out), shape)
    for condition, choice in list(zip(condlist, choices))[::-1]:
        condition = as_array("select", condition)
        if type_of(condition).dtype.kind != "b":
            raise ValueError(f"select: conditions must be boolean arrays, got dtype {type_of(condition).dtype}")
        out = where(condition, choice, out)
    return out


def clip(arr: Any = None, /, min: Any = None, max: Any = None) -> Any:
    """`arr` brought into [min, max]; NaN stays. Either bound may be left out."""
    low, high = min, max
    if arr is None:
        raise ValueError("At least one input must be provided to clip.")
    values = [as_value("clip", v, n) for v, n in ((arr, "arr"), (low, "min"), (high, "max")) if v is not None]
    if any_complex := [v for v in values if is_complex(type_of(v).dtype)]:
        raise ValueError(f"Clip received a complex value, of type {type_of(any_complex[0])}; clip the real and imaginary parts.")
    arr = as_array("clip", values[0], "arr")
    if low is not None:
        arr = maximum(low, arr)
    if high is not None:
        arr = minimum(high, arr)
    return arr


# take and put

_TAKE_MODES = {None: "fill", "fill": "fill", "clip": "clip", "wrap": "wrap", "promise_in_bounds": "promise_in_bounds"}


def take(
    a: Any,
    indices: Any,
    axis: int | None = None,
    out: None = None,
    mode: Any = None,
    unique_indices: bool = False,
    indices_are_sorted: bool = False,
    fill_value: Any = None,
) -> Any:
    """Elements (or sub-arrays along an axis) at indices; out of bounds NaN, or the least integer, unless `mode` says otherwise."""
    no_out("take", out)
    a = as_array("take", a, "a")
    indices = as_array("take", indices, "indices")
    if not is_integer(type_of(indices).dtype):
        raise ValueError(f"take: indices must have an integer type, got dtype {type_of(indices).dtype}")
    if axis is None:
        a, i = ravel(a), 0
    else:
        i = axis_index("take", axis, len(shape_of(a)))
    shape, batch = shape_of(a), shape_of(indices)
    n = shape[i]
    how = _take_mode("take", mode)
    if n == 0 and 0 not in batch:
        raise IndexError(f"Cannot do a non-empty jnp.take() from an empty axis: shape {shape}, axis {i}")
    indices, how = _normalized(indices, n, how)
    return ops.gather(
        a,
        ops.reshape(indices, (*batch, 1)),
        offset_dims=[d for d in range(len(shape) - 1 + len(batch)) if not i <= d < i + len(batch)],
        collapsed_slice_dims=(i,),
        start_index_map=(i,),
        slice_sizes=shape[:i] + (min(1, n),) + shape[i + 1 :],
        mode=how,
        fill_value=_fill(fill_value, type_of(a).dtype) if how == "fill" else None,
    )


def _fill(fill_value: Any, dtype: Any) -> Any:
    return None if fill_value is None else np.asarray(fill_value).astype(dtype).item()


def _take_mode(name: str, mode: Any) -> str:
    key = getattr(mode, "name", mode)
    key = key.lower() if isinstance(key, str) else key
    key = "fill" if key in ("fill_or_drop", "drop") else key
    if key == "raise":
        raise NotImplementedError(f"{name}: the 'raise' mode is not supported: a compiled program cannot raise; use mode='fill'")
    if key not in _TAKE_MODES:
        raise ValueError(f"{name}: invalid mode {mode!r}, must be one of {', '.join(repr(m) for m in _TAKE_MODES)}")
    return _TAKE_MODES[key]


def _normalized(indices: Any, n: int, how: str) -> tuple[Any, str]:
    """Indices as a gather takes them: only "fill" and "promise_in_bounds" count negative ones from the end."""
    if how == "wrap":
        from tracegrad.numpy.elementwise import remainder

        return remainder(indices, n) if n else indices, "promise_in_bounds"
    return (indices if how == "clip" else wrap(indices, n)), how


def take_along_axis(
    arr: Any,
    indices: Any,
    axis: int | None = -1,
    mode: Any = None,
    fill_value: Any = None,
    *,
    wrap_negative_indices: bool | None = None,
) -> Any:
    """The element at an index of its own for each line along an axis; out of bounds NaN, or the least integer."""
    arr, indices = as_array("take_along_axis", arr, "arr"), as_array("take_along_axis", indices, "indices")
    if not is_integer(type_of(indices).dtype):
        raise TypeError(f"take_along_axis indices must be of integer type, got {type_of(indices).dtype}")
    if axis is None:
        if len(shape_of(indices)) != 1:
            raise ValueError(f"take_along_axis indices must be 1D if axis=None, got shape {shape_of(indices)}")
        arr, axis = ravel(arr), 0
    rank = len(shape_of(arr))
    if rank != len(shape_of(indices)):
        raise ValueError(f"indices and arr must have the same number of dimensions; {len(shape_of(indices))} vs. {rank}")
    i = axis_index("take_along_axis", axis, rank)
    how = _take_mode("take_along_axis", mode)
    sa, si = shape_of(arr), shape_of(indices)
    others = broadcast_shapes_of("take_along_axis", sa[:i] + sa[i + 1 :], si[:i] + si[i + 1 :])
    arr = broadcast_to_shape(arr, others[:i] + (sa[i],) + others[i:])
    indices = broadcast_to_shape(indices, others[:i] + (si[i],) + others[i:])
    wrapping = wrap_negative_indices is None or wrap_negative_indices
    if how == "wrap":
        indices, how = _normalized(indices, sa[i], how)
    elif wrapping:
        indices = wrap(indices, sa[i])
    batch = tuple([d for d in range(rank) if d != i])
    return ops.gather(
        arr,
        ops.reshape(indices, (*shape_of(indices), 1)),
        offset_dims=(),
        collapsed_slice_dims=(i,),
        operand_batching_dims=batch,
        start_indices_batching_dims=batch,
        start_index_map=(i,),
        slice_sizes=(1,) * rank,
        mode=how,
        fill_value=_fill(fill_value, type_of(arr).dtype) if how == "fill" else None,
    )


def put_along_axis(arr: Any, indices: Any, values: Any, axis: int | None, inplace: bool = True, *, mode: Any = None) -> Any:
    """A copy of `arr` with values at an index of its own for each line along an axis."""
    if inplace:
        raise ValueError("jnp.put_along_axis: arrays are immutable; pass inplace=False and use the returned array")
    arr, indices = as_array("put_along_axis", arr, "arr"), as_array("put_along_axis", indices, "indices")
    original = shape_of(arr)
    if axis is None:
        arr, axis = ravel(arr), 0
    shape = shape_of(arr)
    i = axis_index("put_along_axis", axis, len(shape))
    si = shape_of(indices)
    where_ = [np.arange(n).reshape([-1 if e == d else 1 for e in range(len(si))]) for d, n in enumerate(shape)]
    index = tuple([indices if d == i else w for d, w in enumerate(where_)])
    return reshape_to(IndexUpdates(arr)[index].set(values, mode=mode), original)


def put(a: Any, ind: Any, v: Any, mode: str | None = None, *, inplace: bool = True) -> Any:
    """A copy of `a` with values at flat indices."""
    if inplace:
        raise ValueError("jnp.put: arrays are immutable; pass inplace=False and use the returned array")
    a, ind, v = as_array("put", a, "a"), ravel(as_array("put", ind, "ind")), ravel(as_array("put", v, "v"))
    if mode == "clip":
        ind = clip(ind, 0, max(0, a.size - 1))
    elif mode == "wrap":
        from tracegrad.numpy.elementwise import remainder

        ind = remainder(ind, a.size)
    elif mode is not None:
        raise ValueError(f"put: mode must be one of None, 'clip', 'wrap'; got {mode!r}")
    n = shape_of(ind)[0]
    if n == 0 or shape_of(v)[0] == 0:
        return a
    from tracegrad.numpy.shape import resize

    return reshape_to(IndexUpdates(ravel(a))[ind].set(resize(v, (n,))), shape_of(a))


def place(arr: Any, mask: Any, vals: Any, *, inplace: bool = True) -> Any:
    """A copy of `arr` with values, in turn, where the mask holds."""
    if inplace:
        raise ValueError("jnp.place: arrays are immutable; pass inplace=False and use the returned array")
    arr, mask, vals = as_array("place", arr), as_array("place", truth("place", mask)), ravel(as_array("place", vals))
    if shape_of(arr) != shape_of(mask) and arr.size != mask.size:
        raise ValueError(f"place: arr and mask must have the same size, got shapes {shape_of(arr)} and {shape_of(mask)}")
    flat = ravel(mask)
    order = ops.sub(ops.cumsum(ops.convert_element_type(flat, np.dtype(np.int32)), 0), np.int32(1))
    chosen = take(vals, order, mode="wrap")
    return reshape_to(where(flat, to_dtype(chosen, type_of(arr).dtype), ravel(arr)), shape_of(arr))


def choose(a: Any, choices: Any, out: None = None, mode: str = "raise") -> Any:
    """Each element from the choice that the integer `a` names."""
    no_out("choose", out)
    a = as_array("choose", a, "a")
    if not is_integer(type_of(a).dtype):
        raise ValueError("choose: a must be an integer array")
    options = [asarray(c) for c in (choices if isinstance(choices, (list, tuple)) else list(asarray(choices)))]
    options, _, _ = promote_values(options)
    n = len(options)
    if mode == "raise":
        from tracegrad.numpy.promotion import concrete

        known = concrete("choose", a, "a", "Use mode='clip' or mode='wrap'.")
        if known.size and (known.min() < 0 or known.max() >= n):
            raise ValueError("choose: invalid entry in choice array")
    elif mode == "wrap":
        from tracegrad.numpy.elementwise import remainder

        a = remainder(a, n)
    elif mode == "clip":
        a = clip(a, 0, n - 1)
    else:
        raise ValueError(f"choose: mode={mode!r} not understood, must be 'raise', 'wrap' or 'clip'")
    shape = broadcast_shapes_of("choose", shape_of(a), *map(shape_of, options))
    result = broadcast_to_shape(options[-1], shape)
    for k in range(n - 2, -1, -1):
        result = where(ops.eq(a, type_of(a).dtype.type(k)), options[k], result)
    return result


def compress(
    condition: Any, a: Any, axis: int | None = None, *, size: int | None = None, fill_value: Any = 0, out: None = None
) -> Any:
    """The sub-arrays along an axis for which the condition holds."""
    no_out("compress", out)
    condition = as_array("compress", truth("compress", asarray(condition)))
    a = as_array("compress", a, "a")
    if len(shape_of(condition)) != 1:
        raise ValueError(f"compress: condition must be a 1D array, got shape {shape_of(condition)}")
    if axis is None:
        a, axis = ravel(a), 0
    i = axis_index("compress", axis, len(shape_of(a)))
    n = builtins.min(shape_of(condition)[0], shape_of(a)[i])
    from tracegrad.numpy.searching import nonzero

    (found,) = nonzero(condition[:n], size=size, fill_value=shape_of(a)[i])
    return take(a, found, i, mode="fill", fill_value=fill_value)


def extract(condition: Any, arr: Any, *, size: int | None = None, fill_value: Any = 0) -> Any:
    """The elements where the condition holds."""
    return compress(ravel(as_array("extract", condition)), ravel(as_array("extract", arr)), size=size, fill_value=fill_value)


def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Any:
    """Functions of x, each where its condition holds; a last one, if given, elsewhere (0 by default)."""
    x = as_array("piecewise", x)
    conditions = [
        as_array("piecewise", c) for c in (condlist if isinstance(condlist, (list, tuple)) else list(asarray(condlist)))
    ]
    functions = list(funclist)
    n = len(conditions)
    if len(functions) == n:
        functions.append(0)
    if len(functions) != n + 1:
        raise ValueError(f"with {n} condition(s), either {n} or {n + 1} functions are expected; got {len(functions)}")
    dtype = type_of(x).dtype
    values = [to_dtype(asarray(f(x, *args, **kw) if callable(f) else f), dtype) for f in functions]
    out = broadcast_to_shape(values[-1], shape_of(x))
    for c, v in list(zip(conditions, values))[::-1]:
        out = where(c, v, out)
    return out


def delete(arr: Any, obj: Any, axis: int | None = None, *, assume_unique_indices: bool = False) -> Any:
    """The array without the sub-arrays at indices (known ones) along an axis."""
    from tracegrad.numpy.promotion import concrete

    arr = as_array("delete", arr, "arr")
    if axis is None:
        arr, axis = ravel(arr), 0
    i = axis_index("delete", axis, len(shape_of(arr)))
    n = shape_of(arr)[i]
    if not isinstance(obj, slice):
        if isinstance(obj, (list, tuple)):
            obj = np.asarray(obj)
        obj = concrete("delete", obj, "obj", "The size of the result depends on it.")
        if obj.dtype.kind == "f" and obj.size == 0:
            obj = obj.astype(int)
    kept = np.delete(np.arange(n), obj)
    index = [slice(None)] * len(shape_of(arr))
    return arr[tuple([*index[:i], kept])]


def insert(arr: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    """The array with values inserted before (known) indices along an axis."""
    from tracegrad.numpy.promotion import concrete

    arr = as_array("insert", arr, "arr")
    values = asarray(values)
    if axis is None:
        arr, axis = ravel(arr), 0
    i = axis_index("insert", axis, len(shape_of(arr)))
    n = shape_of(arr)[i]
    if not isinstance(obj, slice):
        obj = concrete(
            "insert", np.asarray(obj) if isinstance(obj, (list, tuple)) else obj, "obj", "It decides where elements go."
        )
    positions = np.arange(n)[obj] if isinstance(obj, slice) else np.atleast_1d(obj)
    scalar = not isinstance(obj, slice) and np.ndim(obj) == 0
    if positions.dtype.kind == "b":
        positions = np.flatnonzero(positions)
    if scalar:
        # one position: the values' axis i is how many go there
        rank = len(shape_of(arr))
        spread = (
            values
            if len(shape_of(values)) == rank
            else reshape_to(values, (1,) * (rank - len(shape_of(values))) + shape_of(values))
        )
        if len(shape_of(values)) < rank and len(shape_of(values)) > 0 and rank > 1:
            spread = reshape_to(values, (1,) * (rank - 1 - len(shape_of(values))) + shape_of(values))
            spread = reshape_to(spread, shape_of(spread)[:i] + (1,) + shape_of(spread)[i:])
        count = shape_of(spread)[i] if len(shape_of(spread)) else 1
        positions = np.repeat(positions, count)
    else:
        spread = values
    count = len(positions)
    positions = np.where(positions < 0, positions + n, positions)
    if np.any((positions < 0) | (positions > n)):
        raise IndexError(f"insert: index {obj!r:.100} is out of bounds for axis {i} of size {n}")
    order = np.argsort(positions, kind="stable")
    target = np.empty(count, int)
    target[order] = positions[order] + np.arange(count)
    kept = np.ones(n + count, bool)
    kept[target] = False
    shape = shape_of(arr)
    from tracegrad.numpy.creation import zeros

    out = zeros(shape[:i] + (n + count,) + shape[i + 1 :], type_of(arr).dtype)
    lead = (slice(None),) * i
    out = IndexUpdates(out)[(*lead, np.flatnonzero(kept))].set(arr, unique_indices=True)
    return IndexUpdates(out)[(*lead, target)].set(to_dtype(spread, type_of(arr).dtype), unique_indices=True)


def unravel_index(indices: Any, shape: Any) -> tuple[Any, ...]:
    """Flat indices as tuples of indices; out of bounds they are clipped."""
    from tracegrad.numpy.creation import canonical_shape
    from tracegrad.numpy.elementwise import floor_divide, remainder

    indices = as_array("unravel_index", indices, "indices")
    sizes = canonical_shape("unravel_index", shape)
    total = int(np.prod(sizes, dtype=np.int64))
    indices = where(
        ops.lt(indices, type_of(indices).dtype.type(0)), ops.add(indices, type_of(indices).dtype.type(total)), indices
    )
    indices = clip(indices, 0, max(0, total - 1))
    out = []
    for n in sizes[::-1]:
        out.append(remainder(indices, n))
        indices = floor_divide(indices, n)
    return tuple(out[::-1])


def ravel_multi_index(multi_index: Any, dims: Any, mode: str = "raise", order: str = "C", *, dtype: Any = None) -> Any:
    """Tuples of indices as flat indices."""
    from tracegrad.numpy.elementwise import add, multiply, remainder
    from tracegrad.numpy.promotion import concrete

    sizes = [static_int("ravel_multi_index", d, "dims") for d in dims]
    parts = [as_array("ravel_multi_index", m, "multi_index") for m in multi_index]
    if len(parts) != len(sizes):
        raise ValueError(f"ravel_multi_index: {len(parts)} index arrays for {len(sizes)} dimensions")
    for k, (p, n) in enumerate(zip(parts, sizes)):
        if not is_integer(type_of(p).dtype):
            raise TypeError(f"ravel_multi_index: only int indices permitted, got dtype {type_of(p).dtype}")
        if mode == "raise":
            known = concrete("ravel_multi_index", p, "multi_index", "Use mode='clip' or mode='wrap'.")
            if known.size and (known.min() < 0 or known.max() >= n):
                raise ValueError("invalid entry in coordinates array")
        elif mode == "clip":
            parts[k] = clip(p, 0, n - 1)
        elif mode == "wrap":
            parts[k] = remainder(p, n)
        else:
            raise ValueError(f"ravel_multi_index: mode={mode!r} must be 'raise', 'clip' or 'wrap'")
    if order not in ("C", "F"):
        raise ValueError(f"ravel_multi_index: order must be 'C' or 'F', got {order!r}")
    strides = np.cumprod([1, *sizes[:0:-1]])[::-1] if order == "C" else np.cumprod([1, *sizes[:-1]])
    out: Any = 0
    for p, s in zip(parts, strides):
        out = add(out, multiply(p, int(s)))
    out = as_array("ravel_multi_index", out)
    return out if dtype is None else to_dtype(out, dtypes.canonicalize_dtype(dtype))
