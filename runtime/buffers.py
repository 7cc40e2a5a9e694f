"""Memory for results and temporaries."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np

from tracegrad.runtime import pool

ALIGNMENT = 64
"""Bytes: the width of a cache line and of the widest vectors."""

_DATA_OFFSET = object.__basicsize__


def _data_field_is_where_it_is_public() -> bool:
    """Whether an ndarray's data pointer follows its head, as numpy/ndarraytypes.h says."""
    probe = np.empty(3)
    return ctypes.c_void_p.from_address(id(probe) + _DATA_OFFSET).value == probe.ctypes.data


if _data_field_is_where_it_is_public():
    _read = ctypes.c_size_t.from_address

    def pointer(x: np.ndarray) -> int:
        """The address of an array's first element."""
        return _read(id(x) + _DATA_OFFSET).value

else:

    def pointer(x: np.ndarray) -> int:
        """The address of an array's first element."""
        return int(x.__array_interface__["data"][0])


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialized row-major array whose data are aligned for vectors. Raises MemoryError if there is no room for it."""
    dtype = np.dtype(dtype)
    n = dtype.itemsize
    for d in shape:
        n *= d
    block = allocate(n + ALIGNMENT)
    return np.ndarray(shape, dtype, block, -pointer(block) & (ALIGNMENT - 1))


def allocate(n: int) -> np.ndarray:
    """A block of `n` uninitialized bytes."""
    try:
        return np.empty(n, np.uint8)
    except (ValueError, OverflowError):
        raise MemoryError(f"cannot allocate {n} bytes") from None


_SMALL = 4096
_BYTES_DATA = bytes.__basicsize__ - 1


def _bytes_lie_where_expected() -> bool:
    probe = b"data of a bytes object"
    return ctypes.string_at(id(probe) + _BYTES_DATA, len(probe)) == probe


if _bytes_lie_where_expected():

    def result(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> tuple[np.ndarray, int]:
        """A read-only aligned array for native code to write its result to, and its address."""
        if nbytes <= _SMALL:
            # The cheapest memory: nobody else has seen these bytes, whose address follows from their identity, and an array
            # made of them is born read-only.
            memory = bytes(nbytes + ALIGNMENT)
            start = id(memory) + _BYTES_DATA
            offset = -start & (ALIGNMENT - 1)
            return np.ndarray(shape, dtype, memory, offset), start + offset
        return _large_result(shape, dtype, nbytes)

else:

    def result(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> tuple[np.ndarray, int]:
        """A read-only aligned array for native code to write its result to, and its address."""
        return _large_result(shape, dtype, nbytes)


def _large_result(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> tuple[np.ndarray, int]:
    if nbytes >= pool.SMALLEST:
        return pool.take(shape, dtype, nbytes)
    x = empty(shape, dtype)
    x.setflags(write=False)
    return x, pointer(x)


class Arena(threading.local):
    """The memory for a program's temporaries: one block per thread, grown to the largest that was asked for."""

    def __init__(self) -> None:
        self.block = np.empty(0, np.uint8)
        self.address = 0
        self.size = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes, valid until the next call on this thread."""
        if size > self.size:
            self.block = allocate(size + ALIGNMENT)
            start = pointer(self.block)
            self.address = start + (-start & (ALIGNMENT - 1))
            self.size = size
        return self.address


ARENA = Arena()
