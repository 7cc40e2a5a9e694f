"""How the objects of CPython and NumPy lie in memory, as far as probes confirm it: what the compiled dispatcher builds on.

All of these layouts are public (the limited API's neighbours, numpy/ndarraytypes.h), but nobody promises them for the next version. `layout()`
looks at objects with known contents and gives None where something is not in its place, on interpreters without a global lock, and on
those that are not CPython; calls then go through Python.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MemberDescriptorType
from typing import Any

import numpy as np

WORD = 8
HEAD = 16
"""Bytes of an object's head: its reference count and its type."""

_word = ctypes.c_size_t.from_address

# Byte offsets in a type object.
TYPE_BASICSIZE, TYPE_ITEMSIZE, TYPE_DEALLOC, TYPE_VECTORCALL = 32, 40, 48, 56
TYPE_FLAGS, TYPE_WEAKLIST, TYPE_BASE, TYPE_DICT_OFFSET, TYPE_IS_GC, TYPE_VERSION = 168, 208, 256, 288, 328, 384
HAVE_VECTORCALL = 1 << 11
HAVE_GC = 1 << 14
HAVE_VERSION = 1 << 19 if sys.version_info < (3, 11) else 0
"""Flags without which a type's version does not count; later interpreters set the version to zero instead."""

# Byte offsets in an ndarray and in a dtype.
ARRAY_DATA, ARRAY_NDIM, ARRAY_DIMS, ARRAY_BASE, ARRAY_DESCR, ARRAY_FLAGS = 16, 24, 32, 48, 56, 64
DTYPE_WORD = 24
"""The kind, the type's character, the byte order, flags and the number of the type. Its bits beyond order and flags tell dtypes apart,
also those that are equal without being one object."""
DTYPE_MASK = 0xFFFFFFFF_00FFFFFF

# Byte offsets in containers and numbers.
LIST_SIZE, LIST_ITEMS, DICT_USED, NUMBER = 16, 24, 16, 16


@dataclass(frozen=True)
class Layout:
    """What varies between versions. tuple_items: byte offset of a tuple's items; counts: how reference counts are kept ("plain": a word;
    "immortal": a word whose lower half is negative for objects that are never freed; "call": by calls only)."""

    tuple_items: int
    counts: str


def word(address: int) -> int:
    """The word at an address."""
    return _word(address).value


def set_word(address: int, value: int) -> None:
    """Write a word."""
    _word(address).value = value


def dtype_word(dtype: Any) -> int:
    """What a dtype is recognized by."""
    return word(id(dtype) + DTYPE_WORD) & DTYPE_MASK


def _types_are_in_place() -> bool:
    class Probe:
        __slots__ = ("a", "__weakref__")

    at = id(Probe)
    flags = Probe.__flags__
    return (
        word(at + TYPE_BASICSIZE) == Probe.__basicsize__
        and word(at + TYPE_ITEMSIZE) == Probe.__itemsize__
        and ctypes.c_ssize_t.from_address(at + TYPE_WEAKLIST).value == Probe.__weakrefoffset__
        and word(at + TYPE_DICT_OFFSET) == Probe.__dictoffset__
        and word(at + TYPE_BASE) == id(object)
        and word(at + TYPE_FLAGS) == flags
        and bool(flags & HAVE_GC)
        and word(at + TYPE_IS_GC) == 0
        and word(id(type) + TYPE_IS_GC) != 0  # types themselves may be static, so `type` has the function
        and word(at + TYPE_DEALLOC) != word(id(object) + TYPE_DEALLOC) != 0
        and word(id(type(_types_are_in_place)) + TYPE_VECTORCALL) in range(HEAD, type(_types_are_in_place).__basicsize__)
    )


def _arrays_are_in_place() -> bool:
    x = np.zeros((3, 5, 2), np.float32)
    at = id(x)
    dims = word(at + ARRAY_DIMS)
    flags = ctypes.c_int.from_address(at + ARRAY_FLAGS)
    before = flags.value
    x.flags.writeable = False
    after = flags.value
    strided = np.zeros((4, 6), np.float32)[:, ::2]
    kinds = [ctypes.string_at(id(np.dtype(t)) + DTYPE_WORD, 2) for t in (np.float32, np.int64, np.bool_)]
    numbers = [ctypes.c_int.from_address(id(np.dtype(t)) + DTYPE_WORD + 4).value for t in (np.float32, np.int64, np.bool_)]
    return (
        word(at + ARRAY_DATA) == x.ctypes.data
        and word(at + ARRAY_BASE) == 0
        and word(id(strided) + ARRAY_BASE) == id(strided.base)
        and ctypes.c_int.from_address(at + ARRAY_NDIM).value == 3
        and [word(dims + WORD * i) for i in range(3)] == [3, 5, 2]
        and word(at + ARRAY_DESCR) == id(x.dtype)
        and before & 0x501 == 0x501
        and after & 0x501 == 0x101
        and ctypes.c_int.from_address(id(strided) + ARRAY_FLAGS).value & 0x501 == 0x500
        and kinds == [b"ff", b"i" + np.dtype(np.int64).char.encode(), b"b?"]
        and numbers == [np.dtype(t).num for t in (np.float32, np.int64, np.bool_)]
    )


def _containers_are_in_place() -> bool:
    items = [object(), object(), object()]
    d = {"a": 1, "b": 2, "c": 3}
    del d["b"]
    return (
        word(id(items) + LIST_SIZE) == 3
        and [word(word(id(items) + LIST_ITEMS) + WORD * i) for i in range(3)] == [id(x) for x in items]
        and word(id(d) + DICT_USED) == 2
        and ctypes.c_double.from_address(id(2.5) + NUMBER).value == 2.5
        and [ctypes.c_double.from_address(id(z) + NUMBER + WORD * i).value for z in (2.5 - 1.25j,) for i in (0, 1)]
        == [2.5, -1.25]
    )


def _tuple_items() -> int:
    t = (object(), object())
    if word(id(t) + HEAD) != 2:
        return 0
    for offset in (tuple.__basicsize__ - WORD, tuple.__basicsize__):
        if [word(id(t) + offset + WORD * i) for i in range(2)] == [id(x) for x in t]:
            return offset
    return 0


@lru_cache(maxsize=1)
def layout() -> Layout | None:
    """The layout of this interpreter's objects; None if it is not one that the dispatcher knows."""
    flags = getattr(sys, "abiflags", "")
    if (
        sys.implementation.name != "cpython" or "t" in flags or hasattr(sys, "getobjects")
    ):  # no global lock; references are traced
        return None
    if sys.version_info >= (3, 14):  # its reference counts and tuples are others, and nobody has tried
        return None
    if object.__basicsize__ != HEAD or ctypes.sizeof(ctypes.c_void_p) != WORD or sys.byteorder != "little":
        return None
    if not (_types_are_in_place() and _arrays_are_in_place() and _containers_are_in_place()):
        return None
    items = _tuple_items()
    if not items:
        return None
    counts = "plain" if sys.version_info < (3, 12) else "immortal"
    if "d" in flags:
        counts = "call"
    return Layout(items, counts)


def version(t: type) -> int:
    """A number that a type loses when it or a base of it changes; 0 if it has none."""
    getattr(t, "__init__", None)  # it gets one when something is looked up
    return _version(t)


def _version(t: type) -> int:
    valid = word(id(t) + TYPE_FLAGS) & HAVE_VERSION == HAVE_VERSION
    return ctypes.c_uint32.from_address(id(t) + TYPE_VERSION).value if valid else 0


@lru_cache(maxsize=1)
def have_versions() -> bool:
    """Whether types have versions where they are looked for."""

    class Base:
        a = 1

    class Derived(Base):
        b = 2

    class Other(Base):
        c = 3

    seen = [version(Base), version(Derived), version(Other)]
    if 0 in seen or len(set(seen)) != 3 or seen != [version(Base), version(Derived), version(Other)]:
        return False
    Other.d = 4  # type: ignore[attr-defined]
    if _version(Other) == seen[2] or version(Derived) != seen[1]:
        return False
    Base.a = 5
    return _version(Derived) not in seen and _version(Base) not in seen and version(Derived) not in seen


def reads_without_code(t: type, names: Sequence[str]) -> bool:
    """Whether reading these attributes of instances runs no Python code, as long as the type keeps its version: they are entries of the
    instance's dictionary or slots, and nothing else answers for them."""
    if t.__getattribute__ is not object.__getattribute__ or any(["__getattr__" in vars(c) for c in t.__mro__]):
        return False
    for name in names:
        found = next((vars(c)[name] for c in t.__mro__ if name in vars(c)), None)
        if not isinstance(found, MemberDescriptorType) and any(
            [hasattr(type(found), n) for n in ("__get__", "__set__", "__delete__")]
        ):
            return False
    return True


def slot_offset(instance: Any, name: str) -> int:
    """The byte offset of a slot, found by looking for what is put there. 0 if it is not found."""
    mark = object()
    setattr(instance, name, mark)
    size = type(instance).__basicsize__
    found = [at for at in range(HEAD, size, WORD) if word(id(instance) + at) == id(mark)]
    delattr(instance, name)
    return found[0] if len(found) == 1 and word(id(instance) + found[0]) == 0 else 0


class _Spec(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("basicsize", ctypes.c_int),
        ("itemsize", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("slots", ctypes.c_void_p),
    ]


_kept: list[Any] = []


def type_with_words(name: str, count: int) -> type:
    """A base class whose instances have, behind their head, `count` words that are no Python objects, zero at first. They are reached
    by address only."""
    default = 1 << 18 | 1 << 10 if sys.version_info < (3, 12) else 1 << 10  # Py_TPFLAGS_DEFAULT and BASETYPE
    slots = (ctypes.c_size_t * 2)()
    text = name.encode()
    spec = _Spec(text, HEAD + WORD * count, 0, default, ctypes.addressof(slots))
    _kept.extend((slots, text, spec))
    make = ctypes.pythonapi.PyType_FromSpec
    make.restype = ctypes.py_object
    made: type = make(ctypes.byref(spec))
    return made


def give_vectorcall(cls: type, offset: int) -> None:
    """Let calls of the class's instances go to the function whose address lies at `offset` in each; where it is zero, to `__call__`."""
    set_word(id(cls) + TYPE_VECTORCALL, offset)
    flags = ctypes.c_size_t.from_address(id(cls) + TYPE_FLAGS)
    flags.value |= HAVE_VECTORCALL
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))
