"""What every function of lax does to its operands first: accept values, refuse what is not one, demand equal dtypes and shapes.

Unlike `tracegrad.numpy`, lax converts nothing: operands of different dtypes are an error. Shapes must be equal, except that a
scalar goes with anything, and axes of size 1 are repeated when ranks are equal.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import dtypes
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.conversions import convert_element_type
from tracegrad.ir.structural import broadcast_in_dim
from tracegrad.ir.types import ArrayType, KeyDType, is_inexact

NUMPY_NAME = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "rem": "fmod",
    "pow": "power",
    "max": "maximum",
    "min": "minimum",
    "atan2": "arctan2",
    "shift_left": "left_shift",
    "shift_right_logical": "right_shift",
    "shift_right_arithmetic": "right_shift",
    "select": "where",
    "clamp": "clip",
}


def value(name: str, x: Any, position: int = 0) -> Any:
    """`x` if it is an array or a number; NumPy arrays in the dtype that arrays have. TypeError otherwise."""
    if isinstance(x, Array):
        return x
    if isinstance(x, (np.ndarray, np.generic)):
        dtype = dtypes.canonicalize_dtype(x.dtype)
        return x if x.dtype == dtype else x.astype(dtype)
    if isinstance(x, (bool, int, float, complex)):
        return x
    convert = getattr(x, "__jax_array__", None)
    if convert is not None:
        return value(name, convert(), position)
    if isinstance(getattr(x, "aval", None), ArrayType):
        return x
    hint = f" Convert it first, e.g. with tracegrad.numpy.asarray: {x!r:.100}." if isinstance(x, (list, tuple)) else ""
    raise TypeError(
        f"Error interpreting argument to {name} as an array: the value at position {position} is of type {type(x)}.{hint}"
    )


def match(name: str, *operands: Any) -> Sequence[Any]:
    """The operands of an elementwise function, checked: of one dtype, of equal shapes or scalars."""
    xs = [value(name, x, i) for i, x in enumerate(operands)]
    same_dtypes(name, *xs)
    return same_shapes(name, *xs)


def same_dtypes(name: str, *xs: Any) -> None:
    """Raise TypeError unless all operands have one dtype."""
    types = [type_of(x) for x in xs]
    if any(t.dtype != types[0].dtype for t in types):
        like = NUMPY_NAME.get(name, name)
        raise TypeError(
            f"lax.{name} requires arguments to have the same dtypes, got {', '.join(str(t.dtype) for t in types)}. "
            f"(Tip: tracegrad.numpy.{like} is a similar function that does automatic type promotion on inputs)."
        )


def same_shapes(name: str, *xs: Any) -> Sequence[Any]:
    """The operands, those with axes of size 1 repeated to the common shape; scalars stay as they are."""
    shapes = [type_of(x).shape for x in xs]
    ranked = {s for s in shapes if s}
    if len(ranked) <= 1:
        return xs
    if len({len(s) for s in ranked}) > 1:
        raise TypeError(f"lax.{name}: arrays must have the same number of dimensions, got shapes {', '.join(map(str, shapes))}")
    common = tuple(next((d for d in sizes if d != 1), 1) for sizes in zip(*ranked))
    for s in ranked:
        if any(d != 1 and d != c for d, c in zip(s, common)):
            raise TypeError(f"lax.{name} got incompatible shapes for broadcasting: {', '.join(map(str, shapes))}.")
    return [broadcast_in_dim(x, common, range(len(common))) if s and s != common else x for x, s in zip(xs, shapes)]


def as_dtype(dtype: Any) -> Any:
    """The dtype that a user's request names: canonical, key dtypes included."""
    return dtype if isinstance(dtype, KeyDType) else dtypes.canonicalize_dtype(dtype)


def as_shape(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape as a tuple of ints; an int stands for one dimension. TypeError if a dimension is not an integer or is negative."""
    try:
        dims: tuple[int, ...] = (operator.index(shape),)
    except TypeError:
        try:
            dims = tuple([d if type(d) is int else operator.index(d) for d in shape])
        except TypeError:
            raise TypeError(
                f"{name} must be a sequence of integers known while tracing, got {shape!r:.200}. If a dimension depends on an argument of a "
                "jitted function, name that argument in static_argnums or static_argnames."
            ) from None
    if any(d < 0 for d in dims):
        raise ValueError(f"{name} must have no negative dimensions, got {dims}")
    return dims


def axis_in(axis: Any, rank: int, name: str = "axis") -> int:
    """A possibly negative axis as one in range(rank)."""
    axis = operator.index(axis)
    if not -rank <= axis < rank:
        raise ValueError(f"{name} {axis} is out of bounds for an array of rank {rank}")
    return axis + rank if axis < 0 else axis


def matrix(name: str, x: Any, position: int = 0) -> Any:
    """`x` as an array of a dtype that LAPACK knows: half precision and integers become float32."""
    x = value(name, x, position)
    dtype = type_of(x).dtype
    if dtype.itemsize < 4 or not is_inexact(dtype):
        x = convert_element_type(x, np.dtype(np.float32))
    return x
