"""Arrays from nothing, from numbers and from other arrays."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import is_eager, type_of
from tracegrad.ir.checks import scalar_like
from tracegrad.ir.types import SHORT_NAMES, ArrayType, is_inexact, is_key
from tracegrad.numpy.dtype_objects import canonical_dtype, optional_dtype
from tracegrad.numpy.promotion import (
    BOOL,
    PYTHON_SCALARS,
    as_array,
    as_value,
    axis_index,
    broadcast_to_shape,
    cast,
    concrete,
    constant,
    promote_inexact,
    promote_values,
    shape_of,
    stage,
    static_int,
    to_dtype,
)
from tracegrad.runtime.array import from_numpy
from tracegrad.tracer.tracer import Tracer


def canonical_shape(name: str, shape: Any) -> tuple[int, ...]:
    """A shape argument: an int or a sequence of ints, none negative."""
    if type(shape) is tuple and all([type(d) is int and d >= 0 for d in shape]):
        return shape
    if isinstance(shape, (np.ndarray, Array)):
        shape = tuple(concrete(name, shape, "shape").tolist()) if shape.shape else (static_int(name, shape, "shape"),)
    elif not isinstance(shape, (tuple, list)):
        try:
            shape = tuple(shape)
        except TypeError:
            shape = (shape,)
    sizes = tuple([_dimension(name, d) for d in shape])
    if any(d < 0 for d in sizes):
        raise TypeError(f"{name}: the shape {sizes} has a negative size; every size must be nonnegative")
    return sizes


def _dimension(name: str, d: Any) -> int:
    try:
        return operator.index(d)
    except TypeError as e:
        if isinstance(d, Tracer):
            raise
        raise TypeError(f"{name}: shapes must be 1D sequences of concrete integers, got an entry {d!r} ({e})") from None


def filled(name: str, shape: tuple[int, ...], value: Any, dtype: Any, weak: bool = False) -> Any:
    """An array of one known number: a literal, broadcast."""
    if is_key(dtype):
        return ops.key_wrap(ops.broadcast_in_dim(np.uint32(value), shape + dtype.base_shape, ()))
    if weak and shape == ():
        return stage(np.asarray(value, dtype), True)
    scalar = np.asarray(value).astype(dtype)[()] if not isinstance(value, int) else scalar_like(value, dtype)
    if shape == ():
        return stage(np.asarray(scalar))
    if weak:
        return ops.broadcast_in_dim(constant(np.asarray(scalar), True), shape, ())
    return ops.broadcast_in_dim(scalar, shape, ())


def zeros(shape: Any, dtype: Any = None, *, device: Any = None, out_sharding: Any = None) -> Any:
    """An array of zeros."""
    dtype = dtypes.float_dtype() if dtype is None else canonical_dtype("zeros", dtype)
    return filled("zeros", canonical_shape("zeros", shape), 0, dtype)


def ones(shape: Any, dtype: Any = None, *, device: Any = None, out_sharding: Any = None) -> Any:
    """An array of ones."""
    dtype = dtypes.float_dtype() if dtype is None else canonical_dtype("ones", dtype)
    return filled("ones", canonical_shape("ones", shape), 1, dtype)


def empty(shape: Any, dtype: Any = None, *, device: Any = None, out_sharding: Any = None) -> Any:
    """An array of zeros: there are no uninitialized arrays."""
    dtype = dtypes.float_dtype() if dtype is None else canonical_dtype("empty", dtype)
    return filled("empty", canonical_shape("empty", shape), 0, dtype)


def full(shape: Any, fill_value: Any, dtype: Any = None, *, device: Any = None, out_sharding: Any = None) -> Any:
    """An array of `fill_value` (a number, or an array that broadcasts to `shape`)."""
    shape = canonical_shape("full", shape)
    dtype = optional_dtype("full", dtype)
    if isinstance(fill_value, (list, tuple)):
        fill_value = asarray(fill_value)
    value = as_value("full", fill_value, "fill_value")
    t = type_of(value)
    weak = dtype is None and t.weak
    dtype = t.dtype if dtype is None else dtype
    if isinstance(value, (*PYTHON_SCALARS, np.generic)):
        return filled("full", shape, value, dtype, weak)
    return broadcast_to_shape(to_dtype(value, dtype, weak), shape)


def _like(name: str, a: Any, dtype: Any, shape: Any) -> tuple[tuple[int, ...], Any, bool]:
    """Shape, dtype and weakness of an array like `a`, which needs no more than shape and dtype itself."""
    if not isinstance(a, Array) and hasattr(a, "shape") and hasattr(a, "dtype"):
        t = ArrayType(tuple(a.shape), dtypes.canonicalize_dtype(a.dtype))
    else:
        t = type_of(as_value(name, a))
    weak = t.weak and dtype is None
    dtype = t.dtype if dtype is None else canonical_dtype(name, dtype)
    return (t.shape if shape is None else canonical_shape(name, shape)), dtype, weak


def zeros_like(a: Any, dtype: Any = None, shape: Any = None, *, device: Any = None, out_sharding: Any = None) -> Any:
    """Zeros with the shape and dtype of `a`."""
    shape, dtype, weak = _like("zeros_like", a, dtype, shape)
    return filled("zeros_like", shape, 0, dtype, weak)


def ones_like(a: Any, dtype: Any = None, shape: Any = None, *, device: Any = None, out_sharding: Any = None) -> Any:
    """Ones with the shape and dtype of `a`."""
    shape, dtype, weak = _like("ones_like", a, dtype, shape)
    return filled("ones_like", shape, 1, dtype, weak)


def empty_like(prototype: Any, dtype: Any = None, shape: Any = None, *, device: Any = None) -> Any:
    """Zeros with the shape and dtype of `prototype`: there are no uninitialized arrays."""
    shape, dtype, weak = _like("empty_like", prototype, dtype, shape)
    return filled("empty_like", shape, 0, dtype, weak)


def full_like(
    a: Any, fill_value: Any, dtype: Any = None, shape: Any = None, *, device: Any = None, out_sharding: Any = None
) -> Any:
    """`fill_value` with the shape and dtype of `a`."""
    shape, dtype, weak = _like("full_like", a, dtype, shape)
    value = as_value("full_like", fill_value, "fill_value")
    if isinstance(value, (*PYTHON_SCALARS, np.generic)):
        return filled(
            "full_like", shape, value if not isinstance(value, int) or dtype.kind in "iub" else float(value), dtype, weak
        )
    return broadcast_to_shape(to_dtype(value, dtype, weak), shape)


# From data


def array(
    object: Any,
    dtype: Any = None,
    copy: bool = True,
    order: str | None = "K",
    ndmin: int = 0,
    *,
    device: Any = None,
    out_sharding: Any = None,
) -> Any:
    """An array of numbers, of nested lists of them, or of whatever NumPy or `__jax_array__` can make one of."""
    return _array("array", object, dtype, order, ndmin, copy)


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: bool | None = None, device: Any = None, out_sharding: Any = None
) -> Any:
    """`a` as an array, itself when it is one of that dtype."""
    if dtype is None and isinstance(a, Array) and not copy:
        return a
    return _array("asarray", a, dtype, order, 0, bool(copy))


def _array(name: str, a: Any, dtype: Any, order: str | None, ndmin: int, copy: bool) -> Any:
    if order not in (None, "C", "K"):
        raise NotImplementedError(f"{name}: order={order!r} is not supported; arrays are in row-major order")
    if dtype is not None:
        dtype = dtype if is_key(dtype) else canonical_dtype(name, dtype)
    while not isinstance(a, (Array, np.ndarray, np.generic)) and hasattr(a, "__jax_array__") and not isinstance(a, type):
        a = a.__jax_array__()
    if isinstance(a, Array):
        out = a if dtype is None else to_dtype(a, dtype)
        if copy and out is a and isinstance(a, Tracer):
            out = ops.copy(a)
    elif isinstance(a, (list, tuple)):
        out = _from_sequence(name, a, dtype)
    elif a is None:
        raise ValueError(f"None is not a valid value for {name}.")
    elif isinstance(a, PYTHON_SCALARS):
        t = type_of(a) if dtype is None else None
        weak = t is not None and t.weak
        target = dtype if t is None else t.dtype
        out = stage(_converted(np.asarray(a), target) if not isinstance(a, int) else np.asarray(_python_int(a, target)), weak)
    else:
        out = stage(_numpy_array(name, a, dtype))
    rank = len(shape_of(out))
    return ops.reshape(out, (1,) * (ndmin - rank) + shape_of(out)) if ndmin > rank else out


def _python_int(value: int, dtype: Any) -> Any:
    return scalar_like(value, dtype)


def _converted(x: np.ndarray, dtype: Any) -> np.ndarray:
    """A NumPy array in another dtype as conversions go here: floats saturate as integers, complex numbers lose their imaginary part."""
    from tracegrad.ir.conversions import convert_element_type_p

    if x.dtype == dtype:
        return x
    if x.dtype not in SHORT_NAMES:
        return x.astype(dtype)
    return convert_element_type_p.evaluate(x, new_dtype=dtype, weak=False)[0]


def _numpy_array(name: str, a: Any, dtype: Any) -> np.ndarray:
    if not isinstance(a, (np.ndarray, np.generic)):
        if hasattr(a, "__dlpack__") and not hasattr(a, "__array__"):
            a = np.from_dlpack(a)
        elif isinstance(a, (str, bytes)) or not any(
            hasattr(a, p) for p in ("__array__", "__array_interface__", "__buffer__", "__len__", "__iter__")
        ):
            raise TypeError(f"{name}: {a!r:.200} of type {type(a).__name__} is not a valid array or number")
        a = np.asarray(a)
    else:
        a = np.asarray(a)
    if a.dtype.kind in "OSUMm":
        raise TypeError(f"{name}: a value of dtype {a.dtype} is not a valid array of numbers: {a!r:.200}")
    if a.dtype.kind == "V" and a.dtype not in SHORT_NAMES:
        raise TypeError(f"{name}: arrays of dtype {a.dtype} are not supported")
    target = dtypes.canonicalize_dtype(a.dtype) if dtype is None else dtype
    return _converted(a, target)


def _leaves(a: Any, found: list[Any]) -> list[Any]:
    for x in a:
        if isinstance(x, (list, tuple)):
            _leaves(x, found)
        else:
            found.append(x)
    return found


def _from_sequence(name: str, a: Any, dtype: Any) -> Any:
    leaves = _leaves(a, [])
    if not any(isinstance(x, Array) or hasattr(x, "__jax_array__") for x in leaves):
        return stage(_from_numbers(name, a, leaves, dtype))
    # promote the leaves together, then stack from the inside
    values = [as_value(name, x) for x in leaves]
    shapes = {shape_of(v) for v in values}
    if len(shapes) > 1:
        raise ValueError(f"{name}: the elements of a list must have equal shapes, got {', '.join(map(str, sorted(shapes)))}")
    if dtype is None:
        values, dtype, _ = promote_values(values)
    values = [v if type_of(v).dtype == dtype and isinstance(v, Array) else _leaf(v, dtype) for v in values]
    shape = _nested_shape(name, a)
    inner = shape_of(values[0])
    if all(isinstance(v, Array) and not isinstance(v, Tracer) for v in values) and is_eager() and not is_key(dtype):
        return from_numpy(np.stack([np.asarray(v) for v in values]).reshape(shape + inner), copy=False)
    rows = [ops.reshape(v, (1, *inner)) if isinstance(v, Array) else ops.broadcast_in_dim(v, (1,), ()) for v in values]
    stacked = to_dtype(ops.concatenate(rows, 0), dtype)
    return stacked if shape == (len(values),) else ops.reshape(stacked, shape + inner)


def _leaf(v: Any, dtype: Any) -> Any:
    """An element of a list in the list's dtype; a number stays one."""
    return ops.convert_element_type(v, dtype) if isinstance(v, Array) else cast(v, type_of(v), dtype, False)


def _nested_shape(name: str, a: Any) -> tuple[int, ...]:
    if not isinstance(a, (list, tuple)):
        return ()
    shapes = {_nested_shape(name, x) for x in a}
    if len(shapes) > 1:
        raise ValueError(f"{name}: the nested lists are ragged: parts of shapes {', '.join(map(str, sorted(shapes)))}")
    return (len(a), *(shapes.pop() if shapes else ()))


def _from_numbers(name: str, a: Any, leaves: list[Any], dtype: Any) -> np.ndarray:
    for x in leaves:
        if x is None:
            raise ValueError(f"None is not a valid value for {name}, found in the list {a!r:.100}")
        if (
            isinstance(x, (str, bytes))
            or not isinstance(x, (*PYTHON_SCALARS, np.generic, np.ndarray))
            and not hasattr(x, "__array__")
        ):
            raise TypeError(f"{name}: {x!r:.100} of type {type(x).__name__}, found in a list, is not a number")
    if dtype is None:
        types = {
            (type(x) if isinstance(x, PYTHON_SCALARS) and not isinstance(x, np.generic) else np.asarray(x).dtype) for x in leaves
        }
        python = [t for t in types if isinstance(t, type)]
        strong = [t for t in types if not isinstance(t, type)]
        weak_types = [type_of(t(0)) for t in python]
        strong_types = [ArrayType((), dtypes.canonicalize_dtype(t)) for t in strong]
        dtype = dtypes.promote(*weak_types, *strong_types)[0] if leaves else dtypes.float_dtype()
    try:
        if all(type(x) is int for x in leaves) and dtype.kind in "iu":
            return np.array(a, dtype)
        data = np.array(a)
    except (ValueError, OverflowError) as e:
        kind = OverflowError if isinstance(e, OverflowError) else ValueError
        raise kind(f"{name}: cannot make an array of {dtype} from {a!r:.100}: {e}") from None
    if data.dtype.kind in "OSU":
        raise TypeError(f"{name}: cannot make an array of {a!r:.100}")
    return _converted(data, dtype)


def copy(a: Any, order: str | None = None) -> Any:
    """A copy of `a`."""
    return array(a, order=order or "K")


def frombuffer(buffer: Any, dtype: Any = float, count: int = -1, offset: int = 0) -> Any:
    """The numbers in a buffer."""
    return asarray(np.frombuffer(buffer, dtype=np.dtype(dtype), count=count, offset=offset))


def fromstring(string: str, dtype: Any = float, count: int = -1, *, sep: str) -> Any:
    """The numbers written in a string."""
    return asarray(np.fromstring(string, dtype=np.dtype(dtype), count=count, sep=sep))


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Any:
    """The array that another library's object holds, through DLPack."""
    from tracegrad.runtime.array import from_dlpack as exchange

    return exchange(x, device, copy)


def fromfunction(function: Any, shape: Any, *, dtype: Any = float, **kwargs: Any) -> Any:
    """`function` of the index arrays of a shape."""
    from tracegrad.numpy.grids import indices

    return function(*indices(canonical_shape("fromfunction", shape), dtype=dtype), **kwargs)


# Sequences


def arange(
    start: Any, stop: Any = None, step: Any = None, dtype: Any = None, *, device: Any = None, out_sharding: Any = None
) -> Any:
    """start, start + step, ... below stop; from 0 when only one number is given."""
    dtype = optional_dtype("arange", dtype)
    hint = "Sizes must be known when a function is compiled: compute with a mask, or make the argument static."
    given = [None if v is None else concrete("arange", v, n, hint) for v, n in ((start, "start"), (stop, "stop"), (step, "step"))]
    for v, original, n in zip(given, (start, stop, step), ("start", "stop", "step")):
        if v is not None and (v.ndim or v.dtype.kind in "OSUMm"):
            raise (
                ValueError(f"arange: arguments must be scalars; got {n}={original!r:.100}")
                if v.ndim
                else TypeError(f"arange: {n} must be a number, got {original!r:.100}")
            )
    if dtype is None:
        dtype = dtypes.canonicalize_dtype(dtypes.promote(*[type_of(v) for v in (start, stop, step) if v is not None])[0])
        if dtype == BOOL:
            dtype = dtypes.int_dtype()
    numbers: list[Any] = [None if v is None else v[()] for v in given]
    first, last, step_ = numbers
    if last is None:
        first, last = type(first)(0), first
        if step_ is None and dtype.kind in "iufV":
            return ops.iota(dtype, int(max(0, np.ceil(last))))
    step_ = 1 if step_ is None else step_
    if step_ == 0:
        raise ZeroDivisionError("arange: step must not be zero")
    if dtype.kind in "iu" and all(isinstance(v, (int, np.integer)) for v in (first, last, step_)):
        first, last, step_ = int(first), int(last), int(step_)
        size = max(0, -((first - last) // step_))
        out = ops.iota(dtype, size)
        if step_ != 1:
            out = ops.mul(out, scalar_like(step_, dtype))
        return ops.add(out, scalar_like(first, dtype)) if first else out
    return stage(np.arange(first, last, step_).astype(dtype))


def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
    *,
    device: Any = None,
) -> Any:
    """`num` numbers at equal distances from start to stop."""
    num = static_int("linspace", num, "num")
    if num < 0:
        raise ValueError(f"linspace: the number of samples, {num}, must be non-negative")
    dtype = optional_dtype("linspace", dtype)
    start, stop = promote_inexact("linspace", *[asarray(v) if isinstance(v, (list, tuple)) else v for v in (start, stop)])
    computed = type_of(start).dtype
    if dtype is None:
        dtype = computed
    elif dtype.itemsize > computed.itemsize and is_inexact(dtype):
        start, stop = (cast(v, type_of(v), dtype, False) for v in (start, stop))
        computed = dtype
    start, stop = (v if isinstance(v, (Array, np.generic)) else computed.type(v) for v in (start, stop))
    shape = np.broadcast_shapes(shape_of(start), shape_of(stop))
    intervals = num - 1 if endpoint else num
    delta: Any = None
    if retstep:
        delta = computed.type(np.nan)
        if intervals > 0 and (num > 1 or not endpoint):
            delta = ops.div(ops.sub(*_same_shape(stop, start, shape)), computed.type(intervals))
    first, last = (broadcast_to_shape(v, shape) if shape_of(v) != shape else v for v in (start, stop))
    if num > 1:
        real = np.dtype(f"f{computed.itemsize // 2}") if computed.kind == "c" else computed
        counts = ops.iota(real, intervals)
        fraction = ops.div(counts, real.type(intervals))
        if computed.kind == "c":
            fraction = ops.convert_element_type(fraction, computed)
        # (1 - t) * start + t * stop meets both ends exactly, and differs between them by less than start + t * delta does
        one = computed.type(1)
        if shape:
            column = ops.broadcast_in_dim(fraction, (intervals, *shape), (0,))
            first, last = (ops.broadcast_in_dim(v, (intervals, *shape), range(1, len(shape) + 1)) for v in (first, last))
        else:
            column = fraction
        out = ops.add(ops.mul(first, ops.sub(one, column)), ops.mul(last, column))
        if endpoint:
            end = ops.broadcast_in_dim(stop, (1, *shape), range(1 + len(shape) - len(shape_of(stop)), 1 + len(shape)))
            out = ops.concatenate([out, end], 0)
    elif num == 1:
        out = ops.broadcast_in_dim(start, (1, *shape), range(1 + len(shape) - len(shape_of(start)), 1 + len(shape)))
    else:
        out = filled("linspace", (0, *shape), 0, computed)
    position = axis_index("linspace", axis, len(shape) + 1)
    if position:
        order = list(range(1, len(shape) + 1))
        order.insert(position, 0)
        out = ops.transpose(out, order)
    if dtype.kind in "iu":
        out = ops.floor(out)
    out = to_dtype(out, dtype)
    return (out, as_array("linspace", delta)) if retstep else out


def _same_shape(a: Any, b: Any, shape: tuple[int, ...]) -> list[Any]:
    return [v if shape_of(v) in ((), shape) else broadcast_to_shape(v, shape) for v in (a, b)]


def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, dtype: Any = None, axis: int = 0
) -> Any:
    """Powers of `base` with exponents at equal distances."""
    from tracegrad.numpy.elementwise import power

    dtype = optional_dtype("logspace", dtype)
    out = power(base, linspace(start, stop, num, endpoint, axis=axis))
    return out if dtype is None else to_dtype(out, dtype)


def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0) -> Any:
    """`num` numbers from start to stop, each the same multiple of the one before."""
    from tracegrad.numpy.elementwise import absolute, exp, log, multiply, sign

    dtype = optional_dtype("geomspace", dtype)
    start, stop = promote_inexact("geomspace", start, stop)
    if type_of(start).dtype.kind == "c":
        out = exp(linspace(log(start), log(stop), num, endpoint, axis=axis))
    else:
        out = multiply(sign(start), exp(linspace(log(absolute(start)), log(absolute(stop)), num, endpoint, axis=axis)))
    return out if dtype is None else to_dtype(out, dtype)


# Matrices


def eye(N: Any, M: Any = None, k: Any = 0, dtype: Any = None, *, device: Any = None) -> Any:
    """Ones on the diagonal k, zeros elsewhere."""
    dtype = dtypes.float_dtype() if dtype is None else canonical_dtype("eye", dtype)
    n = static_int("eye", N, "N")
    m = n if M is None else static_int("eye", M, "M")
    if n < 0 or m < 0:
        raise ValueError(f"eye: negative dimensions are not allowed, got {(n, m)}")
    return to_dtype(_diagonal_mask(n, m, k, ops.eq), dtype)


def _diagonal_mask(n: int, m: int, k: Any, comparison: Any) -> Any:
    """Where row + k compares to column."""
    dtype = np.dtype(np.int32)
    rows = ops.broadcasted_iota(dtype, (n, m), 0)
    columns = ops.broadcasted_iota(dtype, (n, m), 1)
    if isinstance(k, int):
        if k:
            rows = ops.add(rows, np.int32(max(-n - m, min(n + m, k))))
    else:
        rows = ops.add(rows, to_dtype(as_array("eye", k, "k"), dtype))
    return comparison(rows, columns)


def identity(n: Any, dtype: Any = None) -> Any:
    """The identity matrix."""
    return eye(n, dtype=dtype)


def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Any:
    """Ones on and below the diagonal k, zeros above."""
    dtype = np.dtype(np.float32) if dtype is None else canonical_dtype("tri", dtype)
    n = static_int("tri", N, "N")
    return to_dtype(_diagonal_mask(n, n if M is None else static_int("tri", M, "M"), k, ops.ge), dtype)


def _triangle(name: str, m: Any, k: int, lower: bool) -> Any:
    m = as_array(name, m, "m")
    shape = shape_of(m)
    if len(shape) < 2:
        raise ValueError(f"{name}: the argument must have at least two dimensions, got shape {shape}")
    mask = _diagonal_mask(shape[-2], shape[-1], k if lower else k - 1, ops.ge)
    zero = filled(name, (), 0, type_of(m).dtype) if is_key(type_of(m).dtype) else type_of(m).dtype.type(0)
    mask = broadcast_to_shape(mask, shape)
    return ops.select(mask, m, zero) if lower else ops.select(mask, zero, m)


def tril(m: Any, k: int = 0) -> Any:
    """The lower triangle of a matrix (of the last two dimensions), zeros above diagonal k."""
    return _triangle("tril", m, k, True)


def triu(m: Any, k: int = 0) -> Any:
    """The upper triangle of a matrix (of the last two dimensions), zeros below diagonal k."""
    return _triangle("triu", m, k, False)


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """The Vandermonde matrix: powers of x in columns."""
    from tracegrad.numpy.elementwise import power

    x = as_array("vander", x)
    if len(shape_of(x)) != 1:
        raise ValueError(f"vander: x must be one-dimensional, got shape {shape_of(x)}")
    n = shape_of(x)[0] if N is None else static_int("vander", N, "N")
    if n < 0:
        raise ValueError(f"vander: N must be nonnegative, got {n}")
    exponents = ops.iota(np.dtype(np.int32), n)
    if not increasing:
        exponents = ops.sub(np.int32(n - 1), exponents)
    return power(ops.reshape(x, (*shape_of(x), 1)), ops.reshape(exponents, (1, n)))


def one_sequence_of(name: str, arrays: Any) -> Sequence[Any]:
    """A sequence-of-arrays argument; raises TypeError for a single number."""
    if isinstance(arrays, np.ndarray):
        return list(arrays)
    if isinstance(arrays, Array):
        whole: Any = arrays
        return [whole[i] for i in range(arrays.shape[0])]
    if not isinstance(arrays, (list, tuple)):
        if hasattr(arrays, "__iter__"):
            return list(arrays)
        raise TypeError(f"{name} takes a sequence of arrays, got {arrays!r:.100}")
    return arrays
