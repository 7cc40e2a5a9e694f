"""What the type rules and evaluations of all families share: sets of dtypes, messages, half-precision arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.types import ArrayType, bfloat16

HALF = frozenset({np.dtype(np.float16), bfloat16})
FLOAT = HALF | {np.dtype(np.float32), np.dtype(np.float64)}
COMPLEX = frozenset({np.dtype(np.complex64), np.dtype(np.complex128)})
SIGNED = frozenset(map(np.dtype, ("int8", "int16", "int32", "int64")))
UNSIGNED = frozenset(map(np.dtype, ("uint8", "uint16", "uint32", "uint64")))
BOOL = frozenset({np.dtype(np.bool_)})
INEXACT = FLOAT | COMPLEX
INTEGER = SIGNED | UNSIGNED
NUMBER = INEXACT | INTEGER
BITS = INTEGER | BOOL
ORDERED = FLOAT | INTEGER | BOOL
VALUE = NUMBER | BOOL

_PHRASES = {
    FLOAT: "floating-point",
    COMPLEX: "complex",
    INEXACT: "floating-point or complex",
    INTEGER: "integer",
    UNSIGNED: "unsigned integer",
    NUMBER: "numeric (not boolean)",
    BITS: "integer or boolean",
    BOOL: "boolean",
    ORDERED: "real (integer, floating-point or boolean)",
    FLOAT | INTEGER: "real (integer or floating-point)",
    VALUE: "numeric or boolean",
}


def listing(types: Sequence[ArrayType]) -> str:
    """`f32[3], i32[] and bool[2]`."""
    names = [str(t) for t in types]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def require_dtype(name: str, allowed: frozenset[Any], types: Sequence[ArrayType]) -> None:
    """Raise TypeError unless every type's dtype is in `allowed`."""
    for t in types:
        if t.dtype not in allowed:
            phrase = _PHRASES.get(allowed) or " or ".join(sorted(map(str, allowed)))
            raise TypeError(f"{name} takes {phrase} operands, but got {listing(types)}")


def same_dtype(name: str, types: Sequence[ArrayType]) -> Any:
    """The common dtype; TypeError when there is none."""
    dtype = types[0].dtype
    for t in types[1:]:
        if t.dtype is not dtype and t.dtype != dtype:
            raise TypeError(f"{name} takes operands of one dtype, but got {listing(types)}; convert one of them first")
    return dtype


def common_shape(name: str, types: Sequence[ArrayType]) -> tuple[int, ...]:
    """The shape of an elementwise result: all operands have it, or rank 0."""
    shape: tuple[int, ...] = ()
    for t in types:
        if t.shape and t.shape != shape:
            if shape:
                raise ValueError(
                    f"{name} takes operands of equal shapes (or scalars), but got {listing(types)}; broadcast one of them first"
                )
            shape = t.shape
    return shape


def all_weak(types: Sequence[ArrayType]) -> bool:
    return all(t.weak for t in types)


def check_axes(name: str, axes: tuple[int, ...], t: ArrayType) -> None:
    """Axes must be distinct, sorted and within the rank."""
    if any(not 0 <= a < t.ndim for a in axes):
        raise ValueError(f"{name}: axes {axes} are out of bounds for an operand {t} of rank {t.ndim}")
    if any(a >= b for a, b in zip(axes, axes[1:])):
        raise ValueError(f"{name}: axes must be distinct and sorted, but got {axes}")


def widen(x: np.ndarray) -> np.ndarray:
    """float16 and bfloat16 as float32, others as they are: half precision is computed in single and rounded once."""
    return x.astype(np.float32) if x.dtype in HALF else x


def rounding(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """Compute `function` on widened operands and round the result to the first operand's dtype, in silence."""

    def run(*operands: np.ndarray, **params: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            dtype = operands[0].dtype
            if dtype in HALF:
                operands = tuple(map(widen, operands))
            return np.asarray(function(*operands, **params)).astype(dtype, copy=False)

    return run


def scalars(*operands: Any) -> Sequence[Any]:
    """Convert the Python scalars among `operands` to the dtype of the first array among them."""
    for like in operands:
        if not isinstance(like, (bool, int, float, complex)):
            return [scalar_like(x, like.dtype) if isinstance(x, (bool, int, float, complex)) else x for x in operands]
    return operands


def scalar_like(x: Any, dtype: Any) -> np.generic:
    """The Python scalar `x` as a NumPy scalar of `dtype`, unless that would lose its kind (1.5 as an integer)."""
    if isinstance(x, (float, complex)) and dtype not in INEXACT or isinstance(x, complex) and dtype not in COMPLEX:
        raise TypeError(f"the scalar {x!r} cannot be combined with an array of dtype {dtype}")
    return dtype.type(x)
