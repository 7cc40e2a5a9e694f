"""Tapes in Python: who owns those that compiled programs return, and how NumPy and compiled code read each other's.

Generated code writes tapes into records (`runtime.tape_memory`). Those that a program which returns tapes has not given back are its
caller's, and live as long as an array of these tapes does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir.tapes import Tape
from tracegrad.ir.types import ArrayType, evaluated_as, is_tape
from tracegrad.runtime.tape_memory import address, release


class Region:
    """Owns the records that a program has returned: they are freed when the last array with tapes in them dies."""

    __slots__ = ("_head", "_free")

    def __init__(self, head: int):
        self._head = head
        self._free = release

    def __del__(self) -> None:
        try:
            self._free(self._head)
        except (TypeError, AttributeError):  # the interpreter is shutting down, this module has been taken apart
            return


class TapeWords(np.ndarray):
    """The addresses of tapes, as uint64, and what keeps these tapes alive; views and copies do so, too."""

    owners: tuple[Any, ...]

    def __array_finalize__(self, obj: Any) -> None:
        self.owners = getattr(obj, "owners", ())


def owned(words: np.ndarray, owners: Iterable[Any]) -> TapeWords:
    """The array of these words, which keeps the owners alive."""
    x = words.view(TapeWords)
    x.owners = tuple(owners)
    return x


def own(made: int, inputs: Sequence[np.ndarray], results: Sequence[tuple[np.ndarray, ArrayType]]) -> list[np.ndarray]:
    """The arrays of tapes that a program has returned, each with what keeps its tapes alive.

    made: the head of the region of what the program has made, or 0; inputs: the arrays of tapes that it was given, whose tapes it may have
    returned as well.
    """
    region = [Region(made)] if made else []
    arrays: list[np.ndarray] = []
    for words, t in results:
        given = [x for x in inputs if isinstance(x, TapeWords)]
        owners = list(region)
        if not is_tape(t.dtype.element.dtype):  # else there may be tapes of the inputs on those that were made
            given = [x for x in given if np.isin(words, x[x != 0]).any()]
            if given and np.isin(words, np.concatenate([x.reshape(-1) for x in given] + [np.zeros(1, words.dtype)])).all():
                owners = []
        arrays.append(owned(words, {id(o): o for o in [*owners, *[o for x in given for o in x.owners]]}.values()))
    return arrays


# Tapes in NumPy's hands: what `disable_jit` computes with.


def to_words(objects: np.ndarray, t: ArrayType) -> TapeWords:
    """The addresses of copies in native memory of an array of `ir.tapes.Tape`, of the type `t`."""
    new = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address("new"))
    head = ctypes.c_size_t(0)

    def written(x: np.ndarray, element: ArrayType) -> np.ndarray:
        words = np.zeros(x.shape, np.uint64)
        for index in np.ndindex(*x.shape):
            values: list[Any] = x[index].values  # type: ignore[attr-defined]
            if not values:
                continue
            if is_tape(element.dtype):
                values = [written(np.asarray(v, object), element.dtype.element) for v in values]
            block = np.ascontiguousarray(np.stack([np.asarray(v) for v in values]))
            stride = max(block.nbytes // len(values), 1)
            node = new(ctypes.addressof(head), 1, len(values), stride)
            if not node:
                raise MemoryError(f"no memory for a tape of {len(values)} steps of {stride} bytes")
            place = _word_at(node + 8)
            ctypes.memmove(place, block.ctypes.data, block.nbytes)
            for k, word in enumerate((place, stride, len(values))):
                ctypes.c_int64.from_address(node + 32 + 8 * k).value = word
            words[index] = node + 32
        return words

    try:
        words = written(np.asarray(objects, object), t.dtype.element)
    except BaseException:
        release(head.value)
        raise
    return owned(words, [Region(head.value)])


def to_objects(words: np.ndarray, t: ArrayType) -> np.ndarray:
    """The array of `ir.tapes.Tape` with copies of the values on tapes of the type `t`, of which these are the addresses."""
    element = t.dtype.element
    objects = np.empty(t.shape, object)
    shape, dtype = evaluated_as(element)
    stored = np.dtype(np.uint64) if is_tape(element.dtype) else dtype
    size = prod(shape)
    for index in np.ndindex(*t.shape):
        head = int(words[index])
        place, stride, steps = [_word_at(head + 8 * k) for k in range(3)] if head else (0, 0, 0)
        values = []
        for i in range(steps):
            bytes_ = ctypes.string_at(place + i * stride, size * stored.itemsize)
            x = np.frombuffer(bytes_, stored).reshape(shape)
            values.append(to_objects(x, element) if is_tape(element.dtype) else x)
        objects[index] = Tape(values)
    return objects


def _word_at(address: int) -> int:
    return ctypes.c_int64.from_address(address).value
