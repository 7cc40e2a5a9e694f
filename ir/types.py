"""Types of values: what a program knows about an array before it exists.

An `ArrayType` is a dtype, a shape and a weakness. Types are interned, so that equality is identity and a type is a cheap
dictionary key. The field's word for it is *aval* (abstract value); arrays and tracers carry theirs as `x.aval`.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

bfloat16 = np.dtype(ml_dtypes.bfloat16)
float0 = np.dtype([("float0", np.void, 0)])
"""The dtype of the tangent of an integer or boolean: a space of dimension zero."""


class KeyDType:
    """The dtype of typed random keys, printed `key<fry>`. One instance per generator; `base_shape` is its raw uint32 shape."""

    __slots__ = ("impl", "base_shape", "name", "itemsize")
    kind = "K"

    def __init__(self, impl: str, base_shape: tuple[int, ...]):
        self.impl = impl
        self.base_shape = base_shape
        self.name = f"key<{impl}>"
        self.itemsize = 4 * int(np.prod(base_shape))

    @property
    def type(self) -> type:
        return KeyDType

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return (key_dtype, (self.impl,))


_KEY_DTYPES = {"fry": KeyDType("fry", (2,))}


def key_dtype(impl: str = "fry") -> KeyDType:
    """The key dtype of the generator `impl` (only threefry, `"fry"`, exists)."""
    return _KEY_DTYPES[impl]


class TapeDType:
    """The dtype of tapes, printed `tape<f64[3]>`: as many values of the type `element` as a loop of unknown length had steps.

    A tape is written by one loop and read by others, in either direction (see `ir.tapes`). One instance per element type.
    """

    __slots__ = ("element", "name")
    kind = "T"
    itemsize = 8

    def __init__(self, element: ArrayType):
        self.element = element
        self.name = f"tape<{element}>"

    @property
    def type(self) -> type:
        return TapeDType

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return (tape_dtype, (self.element,))


_TAPE_DTYPES: dict[ArrayType, TapeDType] = {}


def tape_dtype(element: ArrayType) -> TapeDType:
    """The dtype of tapes of values of the type `element`."""
    element = element.strong()
    found = _TAPE_DTYPES.get(element)
    return found if found is not None else _TAPE_DTYPES.setdefault(element, TapeDType(element))


SHORT_NAMES: dict[Any, str] = {
    np.dtype(np.bool_): "bool",
    np.dtype(np.int8): "i8",
    np.dtype(np.int16): "i16",
    np.dtype(np.int32): "i32",
    np.dtype(np.int64): "i64",
    np.dtype(np.uint8): "u8",
    np.dtype(np.uint16): "u16",
    np.dtype(np.uint32): "u32",
    np.dtype(np.uint64): "u64",
    np.dtype(np.float16): "f16",
    bfloat16: "bf16",
    np.dtype(np.float32): "f32",
    np.dtype(np.float64): "f64",
    np.dtype(np.complex64): "c64",
    np.dtype(np.complex128): "c128",
    float0: "float0",
    **{k: k.name for k in _KEY_DTYPES.values()},
}
"""Every dtype a value can have, tapes apart, with its name in the text of a program."""

FROM_SHORT_NAME: dict[str, Any] = {name: dtype for dtype, name in SHORT_NAMES.items()}


class ArrayType:
    """The type of an array: `shape` (tuple of dimensions), `dtype` (numpy dtype, KeyDType or TapeDType), `weak` (JAX's weak_type).

    Interned: two equal types are one object.
    """

    __slots__ = ("shape", "dtype", "weak", "_hash")
    shape: tuple[int, ...]
    dtype: Any
    weak: bool
    _hash: int
    _interned: dict[tuple[Any, ...], ArrayType] = {}

    def __new__(cls, shape: Any, dtype: Any, weak: bool = False, *, weak_type: bool = False) -> ArrayType:
        weak = weak or weak_type
        key = (shape, dtype, weak)
        try:
            return cls._interned[key]
        except (KeyError, TypeError):
            pass
        if not isinstance(dtype, (KeyDType, TapeDType)):
            dtype = np.dtype(dtype)
            if dtype not in SHORT_NAMES:
                raise TypeError(f"arrays of dtype {dtype} are not supported; use one of {', '.join(SHORT_NAMES.values())}")
        shape = tuple(int(d) if isinstance(d, np.integer) else d for d in shape)
        key = (shape, dtype, bool(weak))
        found = cls._interned.get(key)
        if found is None:
            found = object.__new__(cls)
            object.__setattr__(found, "shape", shape)
            object.__setattr__(found, "dtype", dtype)
            object.__setattr__(found, "weak", bool(weak))
            object.__setattr__(found, "_hash", hash(key))
            found = cls._interned.setdefault(key, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("an ArrayType is immutable; use .update(...)")

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:
        return (ArrayType, (self.shape, self.dtype, self.weak))

    @property
    def weak_type(self) -> bool:
        return self.weak

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def update(self, **changes: Any) -> ArrayType:
        """The same type with `shape`, `dtype` or `weak` (also called `weak_type`) replaced."""
        weak = changes.get("weak", changes.get("weak_type", self.weak))
        return ArrayType(changes.get("shape", self.shape), changes.get("dtype", self.dtype), weak)

    def strong(self) -> ArrayType:
        return ArrayType(self.shape, self.dtype, False) if self.weak else self

    @property
    def sharding(self) -> None:
        """How values are divided over devices: not at all."""
        return None

    strip_weak_type = strong  # JAX's name

    def to_tangent_aval(self) -> ArrayType:
        """JAX's name for `tangent_type`."""
        return tangent_type(self)

    to_ct_aval = at_least_vspace = to_tangent_aval

    def str_short(self) -> str:
        return f"{'~' if self.weak else ''}{short_name(self.dtype)}[{','.join(map(str, self.shape))}]"

    def __repr__(self) -> str:
        return self.str_short()

    __str__ = __repr__


def short_name(dtype: Any) -> str:
    """The name of a dtype in the text of a program."""
    return dtype.name if isinstance(dtype, TapeDType) else SHORT_NAMES[dtype]


def is_inexact(dtype: Any) -> bool:
    """Whether values of this dtype have derivatives: floating point or complex."""
    return dtype in _INEXACT


_INEXACT = frozenset(np.dtype(d) for d in (np.float16, bfloat16, np.float32, np.float64, np.complex64, np.complex128))


def is_float(dtype: Any) -> bool:
    return dtype in _INEXACT and dtype.kind != "c"


def is_complex(dtype: Any) -> bool:
    return dtype.kind == "c"


def is_integer(dtype: Any) -> bool:
    return dtype.kind in "iu"


def is_bool(dtype: Any) -> bool:
    return dtype.kind == "b"


def is_key(dtype: Any) -> bool:
    return isinstance(dtype, KeyDType)


def is_tape(dtype: Any) -> bool:
    return isinstance(dtype, TapeDType)


def has_tangents(dtype: Any) -> bool:
    """Whether values of this dtype have tangents of a dimension above zero: inexact numbers, and tapes of such."""
    return dtype in _INEXACT or isinstance(dtype, TapeDType) and has_tangents(dtype.element.dtype)


def tangent_type(t: ArrayType) -> ArrayType:
    """The type of a tangent of a value of type `t`: itself (strong) for inexact types, a tape of tangents for a tape, float0 for the others."""
    if is_inexact(t.dtype):
        return t.strong()
    if has_tangents(t.dtype):
        return ArrayType(t.shape, tape_dtype(tangent_type(t.dtype.element)))
    return ArrayType(t.shape, float0)


def evaluated_as(t: ArrayType) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of the NumPy array that holds a value of type `t` where programs are evaluated: the words of keys, tapes as objects."""
    if isinstance(t.dtype, KeyDType):
        return t.shape + t.dtype.base_shape, np.dtype(np.uint32)
    return t.shape, np.dtype(object) if isinstance(t.dtype, TapeDType) else t.dtype
