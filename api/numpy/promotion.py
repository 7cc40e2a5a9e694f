"""What stands between a user's arguments and the primitives: acceptance, promotion and broadcasting.

The functions here are on the path of every operation that is traced, so each begins with the case that needs nothing done.
Python scalars stay Python scalars (they are weakly typed) until the dtype of the operation is known; then they become NumPy
scalars of that dtype, which a program prints as literals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import is_eager, type_of
from tracegrad.ir.checks import scalar_like
from tracegrad.ir.config import config
from tracegrad.ir.types import ArrayType, float0, is_complex, is_inexact, is_key
from tracegrad.runtime.array import from_numpy
from tracegrad.tracer import errors
from tracegrad.tracer.tracer import Tracer

PYTHON_SCALARS = (bool, int, float, complex)
BOOL = np.dtype(np.bool_)


def as_value(name: str, x: Any, position: int | str = 0) -> Any:
    """`x` as something a primitive takes: an Array, a NumPy scalar of a canonical dtype, or a Python scalar.

    NumPy arrays are copied into Arrays. Raises TypeError, naming the function and the argument, for lists and other objects.
    """
    if isinstance(x, Array):
        return x
    if isinstance(x, np.ndarray):
        return from_numpy(x)
    if isinstance(x, np.generic):
        dtype = dtypes.canonicalize_dtype(x.dtype)
        return x if x.dtype == dtype else x.astype(dtype)
    if isinstance(x, PYTHON_SCALARS):
        return x
    convert = getattr(x, "__jax_array__", None)
    if convert is not None and not isinstance(x, type):
        return as_value(name, convert(), position)
    if isinstance(getattr(x, "aval", None), ArrayType):
        return x
    what = f"argument {position!r}" if isinstance(position, str) else f"argument {position}"
    hint = "; convert it with jnp.array first" if isinstance(x, (list, tuple)) else ""
    raise TypeError(f"{name} takes arrays and numbers, but {what} is of type {type(x).__name__}: {x!r:.100}{hint}")


def constant(x: np.ndarray, weak: bool = False) -> Any:
    """The Array that holds a copy of a NumPy array whose dtype is canonical."""
    return from_numpy(x, weak)


def as_array(name: str, x: Any, position: int | str = 0) -> Any:
    """`as_value`, with scalars made Arrays as well: for functions that return their argument."""
    if isinstance(x, Array):
        return x
    x = as_value(name, x, position)
    if isinstance(x, Array) or not isinstance(x, (*PYTHON_SCALARS, np.generic)):
        return x
    t = type_of(x)
    return stage(np.asarray(x, t.dtype), t.weak)


def stage(x: np.ndarray, weak: bool = False) -> Any:
    """A NumPy value as an array of the current interpreter: traced inside jit, even though it is known."""
    value = from_numpy(x, weak)
    return value if is_eager() else ops.copy(value)


def concrete(name: str, x: Any, position: int | str, way_out: str = "") -> np.ndarray:
    """The numbers of an argument that must be known now; raises ConcretizationTypeError for a traced value."""
    if isinstance(x, Tracer):
        try:
            return np.asarray(x.concrete(errors.ConcretizationTypeError))
        except errors.ConcretizationTypeError:
            raise errors.needs_concrete(x, f"{name} (argument {position!r})", way_out) from None
    return np.asarray(x)


def static_int(name: str, x: Any, position: str) -> int:
    """An argument that must be an integer known now: an axis, a size."""
    if isinstance(x, int) and not isinstance(x, bool):
        return x
    if isinstance(x, Tracer):
        return int(concrete(name, x, position, f"Make {position} a Python integer, or name it in jit's static_argnames."))
    try:
        return x.__index__()
    except (AttributeError, TypeError):
        raise TypeError(f"{name}: {position} must be an integer, got {x!r:.100} of type {type(x).__name__}") from None


# Promotion


def cast(x: Any, t: ArrayType, dtype: Any, weak: bool) -> Any:
    """`x`, of type `t`, in the dtype of an operation."""
    if isinstance(x, PYTHON_SCALARS):
        if weak:
            kind = dtype.kind
            number: Any = x
            number = complex(number) if kind == "c" else number if kind == "b" else int(number) if kind in "iu" else float(number)
            return number if type_of(number).dtype == dtype else constant(np.asarray(number, dtype), True)
        return scalar_like(x, dtype)
    if t.dtype == dtype:
        return x
    if isinstance(x, np.generic):
        return ops.convert_element_type(x, dtype, weak) if is_key(t.dtype) else convert_scalar(x, dtype)
    return ops.convert_element_type(x, dtype, weak)


def convert_scalar(x: Any, dtype: Any) -> Any:
    """A NumPy scalar in another dtype."""
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype)[()]


def to_dtype(x: Any, dtype: Any, weak: bool = False) -> Any:
    """`x` in `dtype`; no operation when it has that dtype (and is not weaker than asked)."""
    t = type_of(x)
    if t.dtype == dtype and (weak or not t.weak) and isinstance(x, Array):
        return x
    if isinstance(x, PYTHON_SCALARS) and not weak:
        return stage(np.asarray(x).astype(dtype)) if not isinstance(x, int) else stage(np.asarray(scalar_like(x, dtype)))
    return ops.convert_element_type(x, dtype, weak)


def promote_values(xs: Sequence[Any]) -> tuple[list[Any], Any, bool]:
    """Accepted values in their common dtype, that dtype, and whether it is weak."""
    types = [type_of(x) for x in xs]
    dtype, weak = dtypes.promote(*types)
    return [cast(x, t, dtype, weak) for x, t in zip(xs, types)], dtype, weak


def promote(name: str, *xs: Any) -> list[Any]:
    """Arguments in their common dtype."""
    first = xs[0]
    if isinstance(first, Array):
        dtype = first.aval.dtype
        for x in xs:
            if not isinstance(x, Array) or x.aval.dtype is not dtype:
                break
        else:
            return list(xs)
    return promote_values([as_value(name, x, i) for i, x in enumerate(xs)])[0]


def promote_inexact(name: str, *xs: Any) -> list[Any]:
    """Arguments in their common floating-point or complex dtype; integers and booleans become the default float dtype."""
    values = [as_value(name, x, i) for i, x in enumerate(xs)]
    types = [type_of(x) for x in values]
    dtype, weak = dtypes.promote(*types)
    if not is_inexact(dtype):
        dtype = inexact_dtype(name, dtype)
    return [cast(x, t, dtype, weak) for x, t in zip(values, types)]


def inexact_dtype(name: str, dtype: Any) -> Any:
    """The floating-point dtype in which integers and booleans are computed with."""
    if is_inexact(dtype):
        return dtype
    if is_key(dtype) or dtype.kind == "V":
        raise TypeError(f"{name} takes numbers, got an array of dtype {dtype}")
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def inexact(name: str, x: Any) -> Any:
    """One argument, in a floating-point or complex dtype."""
    if isinstance(x, Array):
        t = x.aval
    else:
        x = as_value(name, x)
        t = type_of(x)
    if is_inexact(t.dtype):
        return x
    return cast(x, t, inexact_dtype(name, t.dtype), t.weak)


def require_numbers(name: str, *xs: Any) -> None:
    """Raise TypeError for typed random keys and float0, which have no arithmetic."""
    for x in xs:
        dtype = type_of(x).dtype
        if is_key(dtype) or dtype == float0:
            raise TypeError(f"{name} takes numbers, got an array of dtype {dtype}")


def real_dtype(dtype: Any) -> Any:
    """The dtype of a complex dtype's parts; other dtypes as they are."""
    return np.dtype(f"f{dtype.itemsize // 2}") if is_complex(dtype) else dtype


# Shapes


def shape_of(x: Any) -> tuple[int, ...]:
    if isinstance(x, Array):
        return x.aval.shape
    return () if isinstance(x, PYTHON_SCALARS) else type_of(x).shape


def broadcast_shapes_of(name: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's broadcast of shapes; raises TypeError as JAX does, ValueError where NumPy functions do."""
    rank = max(map(len, shapes))
    out = []
    for i in range(-rank, 0):
        size = 1
        for s in shapes:
            if len(s) >= -i and s[i] != 1:
                if size != 1 and s[i] != size:
                    raise ValueError(f"{name}: shapes {', '.join(map(str, shapes))} cannot be broadcast together")
                size = s[i]
        out.append(size)
    return tuple(out)


def _check_ranks(name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    mode = config.numpy_rank_promotion
    if mode == "allow" or len({len(s) for s in shapes if s}) <= 1:
        return
    message = (
        f"{name}: operands of shapes {', '.join(map(str, shapes))} differ in rank, which numpy_rank_promotion={mode!r} "
        f"{'forbids' if mode == 'raise' else 'reports'}; insert axes of size 1 explicitly"
    )
    if mode == "raise":
        raise ValueError(message)
    import warnings

    warnings.warn(message, stacklevel=4)


def broadcast_to_shape(x: Any, shape: tuple[int, ...]) -> Any:
    """`x` repeated to `shape` by NumPy's rules; nothing is done when it has that shape."""
    own = shape_of(x)
    if own == shape:
        return x
    return ops.broadcast_in_dim(x, shape, range(len(shape) - len(own), len(shape)))


def broadcast(name: str, *xs: Any, full: bool = False) -> Sequence[Any]:
    """Values with equal shapes. Scalars stay scalars (elementwise primitives take them) unless `full`."""
    shapes = [shape_of(x) for x in xs]
    first = shapes[0]
    for s in shapes:
        if s != first:
            break
    else:
        return xs
    arrays = {s for s in shapes if s}
    if len(arrays) == 1:
        if not full:
            return xs
        shape = arrays.pop()
    else:
        _check_ranks(name, shapes)
        shape = broadcast_shapes_of(name, *shapes)
    return [x if not s and not full else broadcast_to_shape(x, shape) for x, s in zip(xs, shapes)]


def axis_index(name: str, axis: Any, rank: int, what: str = "axis") -> int:
    """A nonnegative axis of an array of this rank."""
    i = static_int(name, axis, what)
    if not -rank <= i < rank:
        raise ValueError(f"{name}: {what} {i} is out of bounds for an array of dimension {rank}")
    return i + rank if i < 0 else i


def axis_indices(name: str, axis: Any, rank: int, what: str = "axis") -> tuple[int, ...]:
    """Nonnegative axes from None (all), an int or a sequence; sorted order is the caller's affair."""
    if axis is None:
        return tuple(range(rank))
    if isinstance(axis, (tuple, list)):
        axes = tuple([axis_index(name, a, rank, what) for a in axis])
        if len(set(axes)) != len(axes):
            raise ValueError(f"{name}: {what} {tuple(axis)} names a dimension twice")
        return axes
    return (axis_index(name, axis, rank, what),)
