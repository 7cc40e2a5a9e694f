"""dtypes: which exist, how requests for them are canonicalized, and how they promote.

Promotion follows JAX's lattice: unlike NumPy's it never leaves the kind of the array operand for a Python scalar, and it is a
lattice, so the result does not depend on the order of operands. Python scalars are *weak*: they stand at `i*`, `f*` and `c*`, below
every concrete dtype of their kind.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tracegrad.ir.config import config
from tracegrad.ir.types import SHORT_NAMES, ArrayType, KeyDType, TapeDType, bfloat16, float0


class TypePromotionError(ValueError):
    """Two dtypes have no common dtype, or strict promotion forbids converting."""


_64_TO_32 = {
    np.dtype(np.int64): np.dtype(np.int32),
    np.dtype(np.uint64): np.dtype(np.uint32),
    np.dtype(np.float64): np.dtype(np.float32),
    np.dtype(np.complex128): np.dtype(np.complex64),
}

_SCALAR_DTYPES = {
    bool: np.dtype(np.bool_),
    int: np.dtype(np.int64),
    float: np.dtype(np.float64),
    complex: np.dtype(np.complex128),
}


def canonicalize_dtype(dtype: Any) -> Any:
    """The dtype that a request for `dtype` gives: 64-bit dtypes become 32-bit ones unless `enable_x64` is set.

    `dtype` is whatever names a dtype: a numpy dtype or scalar type, a string, a Python type, an object with a `dtype` attribute.
    Raises TypeError for dtypes that arrays cannot have.
    """
    if isinstance(dtype, (KeyDType, TapeDType)):
        return dtype
    if not isinstance(dtype, np.dtype):
        dtype = _to_dtype(dtype)
    if dtype in _64_TO_32 and not config.enable_x64:
        return _64_TO_32[dtype]
    if dtype not in SHORT_NAMES:
        if dtype.newbyteorder("=") in SHORT_NAMES:
            return canonicalize_dtype(dtype.newbyteorder("="))
        raise TypeError(f"arrays of dtype {dtype} are not supported; use one of {', '.join(map(str, SHORT_NAMES))}")
    return dtype


def _to_dtype(dtype: Any) -> Any:
    if isinstance(dtype, type) and dtype in _SCALAR_DTYPES:
        return _SCALAR_DTYPES[dtype]
    if isinstance(dtype, str) and dtype == "bfloat16":
        return bfloat16
    if dtype is None:
        return np.dtype(np.float64)
    inner = getattr(dtype, "dtype", None)
    if isinstance(inner, (np.dtype, KeyDType, TapeDType)):
        return inner
    try:
        return np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{dtype!r} is not a dtype") from None


def to_dtype(dtype: Any) -> Any:
    """A dtype object from whatever names one, not canonicalized."""
    return dtype if isinstance(dtype, (np.dtype, KeyDType, TapeDType)) else _to_dtype(dtype)


def dtype_of_python_scalar(x: Any) -> Any:
    """The canonical dtype of a Python bool, int, float or complex. Raises OverflowError for an int that does not fit."""
    if isinstance(x, bool):
        return _SCALAR_DTYPES[bool]
    if isinstance(x, int):
        dtype = int_dtype()
        bits = dtype.itemsize * 8
        if not -(1 << (bits - 1)) <= x < (1 << (bits - 1)):
            raise OverflowError(
                f"Python integer {x} does not fit into {dtype}"
                + ("" if config.enable_x64 else "; set config.update('enable_x64', True) for 64-bit integers")
            )
        return dtype
    if isinstance(x, float):
        return float_dtype()
    if isinstance(x, complex):
        return complex_dtype()
    raise TypeError(f"{x!r} is not a Python scalar")


def int_dtype() -> Any:
    """The default integer dtype."""
    return _SCALAR_DTYPES[int] if config.enable_x64 else np.dtype(np.int32)


def uint_dtype() -> Any:
    return np.dtype(np.uint64) if config.enable_x64 else np.dtype(np.uint32)


def float_dtype() -> Any:
    """The default floating-point dtype."""
    return _SCALAR_DTYPES[float] if config.enable_x64 else np.dtype(np.float32)


def complex_dtype() -> Any:
    return _SCALAR_DTYPES[complex] if config.enable_x64 else np.dtype(np.complex64)


# The lattice. A node is a dtype or one of the weak kinds "i*", "f*", "c*"; an edge leads to the next larger nodes.
def _d(name: str) -> Any:
    return np.dtype(name)


_EDGES: dict[Any, tuple[Any, ...]] = {
    _d("bool"): ("i*",),
    "i*": (_d("uint8"), _d("int8")),
    _d("uint8"): (_d("uint16"), _d("int16")),
    _d("uint16"): (_d("uint32"), _d("int32")),
    _d("uint32"): (_d("uint64"), _d("int64")),
    _d("uint64"): ("f*",),
    _d("int8"): (_d("int16"),),
    _d("int16"): (_d("int32"),),
    _d("int32"): (_d("int64"),),
    _d("int64"): ("f*",),
    "f*": (bfloat16, _d("float16"), "c*"),
    bfloat16: (_d("float32"),),
    _d("float16"): (_d("float32"),),
    _d("float32"): (_d("float64"), _d("complex64")),
    _d("float64"): (_d("complex128"),),
    "c*": (_d("complex64"),),
    _d("complex64"): (_d("complex128"),),
    _d("complex128"): (),
}


def _closure(node: Any) -> frozenset[Any]:
    reached = {node}
    for successor in _EDGES[node]:
        reached |= _closure(successor)
    return frozenset(reached)


_UPPER: dict[Any, frozenset[Any]] = {}


def _upper(node: Any) -> frozenset[Any]:
    if node not in _UPPER:
        _UPPER[node] = _closure(node)
    return _UPPER[node]


@lru_cache(maxsize=4096)
def _least_upper_bound(nodes: frozenset[Any]) -> Any:
    common = frozenset.intersection(*[_upper(n) for n in nodes])
    least = [n for n in common if common <= _upper(n)]
    if len(least) != 1:
        raise TypePromotionError(f"dtypes {', '.join(sorted(map(str, nodes)))} have no common dtype; convert one with astype")
    return least[0]


_WEAK_NODE = {"i": "i*", "u": "i*", "f": "f*", "c": "c*", "b": None, "V": "f*"}
_WEAK_DTYPE = {"i*": int_dtype, "f*": float_dtype, "c*": complex_dtype}


def _weak_node(dtype: Any) -> Any:
    kind = "f" if dtype == bfloat16 else dtype.kind
    return _WEAK_NODE.get(kind) or dtype


@lru_cache(maxsize=4096)
def _promote(operands: tuple[tuple[Any, bool], ...], x64: bool, strict: bool) -> tuple[Any, bool]:
    dtypes = {d for d, _ in operands}
    strong = {d for d, weak in operands if not weak}
    if any(isinstance(d, (KeyDType, TapeDType)) for d in dtypes):
        if len(dtypes) == 1:
            return next(iter(dtypes)), False
        raise TypeError(f"random keys and tapes have no arithmetic and do not mix with other dtypes: {', '.join(sorted(map(str, dtypes)))}")
    if float0 in dtypes:
        if len(dtypes) == 1:
            return float0, False
        raise TypePromotionError("float0 (the tangent dtype of integers) does not promote with other dtypes")
    if not strong:
        node = _least_upper_bound(frozenset(dtypes))
        # weak scalars of different kinds meet at the larger kind's default dtype
        weak = _weak_node(node) if not isinstance(node, str) else node
        return (node if not isinstance(node, str) else _WEAK_DTYPE[weak]()), True
    if strict and len(strong) > 1:
        raise TypePromotionError(
            f"dtypes {', '.join(sorted(map(str, strong)))} would be promoted implicitly, which numpy_dtype_promotion='strict' forbids; "
            "convert with astype"
        )
    if len(strong) == 1 and len(dtypes) == 1:
        return next(iter(strong)), False
    nodes = frozenset(d if not weak else _weak_node(d) for d, weak in operands)
    node = _least_upper_bound(nodes)
    if strict and node not in strong:
        raise TypePromotionError(
            f"a weak scalar would promote {', '.join(map(str, strong))}, which numpy_dtype_promotion='strict' forbids; "
            "convert with astype"
        )
    if isinstance(node, str):
        return _WEAK_DTYPE[node](), True
    if not x64 and node in _64_TO_32:
        node = _64_TO_32[node]
    return node, False


def promote(*types: ArrayType) -> tuple[Any, bool]:
    """(dtype, weak) of an operation on operands of these types, by JAX's lattice."""
    first = types[0]
    for t in types:
        if t.dtype != first.dtype or t.weak != first.weak:
            break
    else:
        return first.dtype, first.weak
    return _promote(tuple([(t.dtype, t.weak) for t in types]), config.enable_x64, config.numpy_dtype_promotion == "strict")


def promote_dtypes(*dtypes: Any) -> Any:
    """The common dtype of (strong) dtypes, canonicalized."""
    return canonicalize_dtype(
        _promote(tuple([(to_dtype(d), False) for d in dtypes]), True, config.numpy_dtype_promotion == "strict")[0]
    )


def finfo(dtype: Any) -> Any:
    """Machine limits of a floating-point dtype, bfloat16 included."""
    import ml_dtypes

    return ml_dtypes.finfo(to_dtype(dtype))  # type: ignore[no-untyped-call]


def iinfo(dtype: Any) -> Any:
    """Machine limits of an integer dtype."""
    return np.iinfo(to_dtype(dtype))
