"""dtypes as users write them: `jnp.float32` and the like, abstract kinds, limits, promotion queries.

A scalar type is a class that stands for a dtype wherever one is expected, equals that dtype, and makes an array when called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from tracegrad.ir import dtypes
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import ArrayType, KeyDType, float0
from tracegrad.numpy.promotion import PYTHON_SCALARS

generic = np.generic
number = np.number
inexact = np.inexact
floating = np.floating
complexfloating = np.complexfloating
integer = np.integer
signedinteger = np.signedinteger
unsignedinteger = np.unsignedinteger
flexible = np.flexible
character = np.character
object_ = np.object_
dtype = np.dtype
ComplexWarning = np.exceptions.ComplexWarning


class extended(np.generic):
    """The kind of dtypes that NumPy does not know."""


class prng_key(extended):
    """The kind of the dtypes of typed random keys."""


class ScalarType(type):
    """The class of `jnp.float32` and its kin."""

    dtype: np.dtype

    def __hash__(cls) -> int:
        return hash(cls.dtype.type)

    def __eq__(cls, other: Any) -> bool:
        if cls is other or other is cls.dtype.type:
            return True
        if isinstance(other, np.dtype):
            return cls.dtype == other
        return isinstance(other, ScalarType) and cls.dtype == other.dtype

    def __ne__(cls, other: Any) -> bool:
        return not cls == other

    def __call__(cls, x: Any = 0) -> Any:
        from tracegrad.numpy.creation import asarray

        return asarray(x, dtype=cls.dtype)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.dtype.type)

    def __repr__(cls) -> str:
        return f"<class 'tracegrad.numpy.{cls.__name__}'>"


def _scalar_type(name: str, of: Any) -> ScalarType:
    made = ScalarType(name, (), {"dtype": np.dtype(of), "__module__": "tracegrad.numpy", "__doc__": f"The dtype {name}."})
    return made


bool_ = _scalar_type("bool", np.bool_)
int8 = _scalar_type("int8", np.int8)
int16 = _scalar_type("int16", np.int16)
int32 = _scalar_type("int32", np.int32)
int64 = _scalar_type("int64", np.int64)
uint8 = _scalar_type("uint8", np.uint8)
uint16 = _scalar_type("uint16", np.uint16)
uint32 = _scalar_type("uint32", np.uint32)
uint64 = _scalar_type("uint64", np.uint64)
float16 = _scalar_type("float16", np.float16)
bfloat16 = _scalar_type("bfloat16", ml_dtypes.bfloat16)
float32 = single = _scalar_type("float32", np.float32)
float64 = double = _scalar_type("float64", np.float64)
complex64 = csingle = _scalar_type("complex64", np.complex64)
complex128 = cdouble = _scalar_type("complex128", np.complex128)
float_, int_, uint, complex_ = float64, int64, uint64, complex128

SMALL_FLOATS = {
    name: _scalar_type(name, getattr(ml_dtypes, name))
    for name in (
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "float4_e2m1fn",
        "int2",
        "int4",
        "uint2",
        "uint4",
    )
    if hasattr(ml_dtypes, name)
}
"""Dtypes that can be named and compared, but not computed with."""


finfo = dtypes.finfo


def iinfo(int_type: Any) -> Any:
    """Machine limits of an integer dtype."""
    return dtypes.iinfo(int_type)


def _abstract(kind: Any) -> Any:
    """The NumPy class of a kind or scalar type given in any form."""
    if isinstance(kind, ScalarType):
        return kind.dtype.type
    return kind


_PYTHON_KINDS = {int: np.signedinteger, float: np.floating, complex: np.complexfloating}


def issubdtype(arg1: Any, arg2: Any) -> bool:
    """Whether a dtype is (of) another, or belongs to a kind such as `jnp.floating` or `jax.dtypes.prng_key`."""
    first = getattr(arg1, "dtype", arg1) if isinstance(arg1, ScalarType) or not isinstance(arg1, type) else arg1
    second = _abstract(arg2)
    if isinstance(first, KeyDType):
        return second is first or second in (prng_key, extended, np.generic)
    if isinstance(second, KeyDType) or second in (prng_key, extended):
        return False
    if first in _PYTHON_KINDS and isinstance(first, type):
        first = np.dtype(first)
    if isinstance(second, type) and issubclass(second, np.generic) and second.__module__ == "numpy":
        if not isinstance(first, type) or not issubclass(first, np.generic):
            first = dtypes.to_dtype(first)
        return _is_kind(first, second)
    target = _PYTHON_KINDS.get(second) if isinstance(second, type) else None
    if target is not None:
        return np.issubdtype(dtypes.to_dtype(first), second)
    return dtypes.to_dtype(first) == dtypes.to_dtype(second)


def _is_kind(first: Any, kind: type) -> bool:
    scalar = first.type if isinstance(first, np.dtype) else first
    if issubclass(scalar, kind):
        return True
    name = np.dtype(scalar).name if not _is_abstract(scalar) else ""
    if name.startswith(("bfloat", "float8", "float4")):
        return kind in (np.floating, np.inexact, np.number, np.generic)
    if name in ("int2", "int4"):
        return kind in (np.signedinteger, np.integer, np.number, np.generic)
    if name in ("uint2", "uint4"):
        return kind in (np.unsignedinteger, np.integer, np.number, np.generic)
    return False


def _is_abstract(scalar: type) -> bool:
    return scalar in (generic, number, inexact, floating, complexfloating, integer, signedinteger, unsignedinteger, flexible)


_ISDTYPE: dict[str, Callable[[Any], bool]] = {
    "bool": lambda d: d == np.bool_,
    "signed integer": lambda d: issubdtype(d, np.signedinteger),
    "unsigned integer": lambda d: issubdtype(d, np.unsignedinteger),
    "integral": lambda d: issubdtype(d, np.integer),
    "real floating": lambda d: issubdtype(d, np.floating),
    "complex floating": lambda d: issubdtype(d, np.complexfloating),
    "numeric": lambda d: issubdtype(d, np.number),
}


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype belongs to a kind named by the array API standard ("integral", "real floating", ...), or equals a dtype."""
    given = dtypes.to_dtype(dtype)
    for option in kind if isinstance(kind, tuple) else (kind,):
        if isinstance(option, str) and option in _ISDTYPE:
            if _ISDTYPE[option](given):
                return True
        elif isinstance(option, str) and not hasattr(np, option):
            raise ValueError(f"isdtype: unrecognized kind {option!r}; there are {', '.join(_ISDTYPE)}")
        elif given == dtypes.to_dtype(option):
            return True
    return False


def result_type(*args: Any) -> Any:
    """The dtype that an operation on these arrays, numbers and dtypes gives."""
    if not args:
        raise ValueError("result_type needs at least one argument")
    types = []
    for x in args:
        if isinstance(x, (Array, np.ndarray, np.generic)) or isinstance(x, PYTHON_SCALARS):
            types.append(type_of(x))
        elif x in (int, float, complex) and isinstance(x, type):
            types.append(type_of(x(0)))
        elif hasattr(x, "dtype") and hasattr(x, "shape"):
            types.append(type_of(np.zeros((), dtypes.canonicalize_dtype(x.dtype))))
        else:
            d = dtypes.canonicalize_dtype(x)
            types.append(ArrayType((), d))
    return dtypes.canonicalize_dtype(dtypes.promote(*types)[0])


def promote_types(a: Any, b: Any) -> Any:
    """The dtype to which two dtypes promote."""
    # Python's own types are weak, as its numbers are
    operands = tuple([(dtypes.to_dtype(d), isinstance(d, type) and d in (int, float, complex)) for d in (a, b)])
    if operands[0] == operands[1]:
        return operands[0][0]
    return dtypes._promote(operands, True, False)[0]


def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    """Whether NumPy would cast one dtype to another under the rule `casting`."""
    return bool(np.can_cast(dtypes.to_dtype(from_), dtypes.to_dtype(to), casting))


def canonical_dtype(name: str, dtype: Any) -> Any:
    """A dtype argument, canonical, with a message that names the function when it is none."""
    try:
        asked = dtypes.to_dtype(dtype)
    except TypeError:
        raise TypeError(f"{name}: {dtype!r} is not a dtype") from None
    if asked == float0:
        return asked
    found = dtypes.canonicalize_dtype(asked)
    if found != asked and dtype not in (int, float, complex):
        import warnings

        warnings.warn(
            f"Explicitly requested dtype {asked} requested in {name} is not available, and will be truncated to dtype {found}. "
            "To enable more dtypes, set config.update('enable_x64', True) or the environment variable TRACEGRAD_ENABLE_X64.",
            UserWarning,
            stacklevel=3,
        )
    return found


def optional_dtype(name: str, dtype: Any) -> Any:
    """As `canonical_dtype`, None for None."""
    return None if dtype is None else canonical_dtype(name, dtype)
