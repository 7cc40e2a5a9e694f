"""Memory for results and temporaries."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes: the width of a cache line and of the widest vectors."""


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialized row-major array whose data are aligned for vectors."""
    dtype = np.dtype(dtype)
    n = dtype.itemsize
    for d in shape:
        n *= d
    block = np.empty(n + ALIGNMENT, np.uint8)
    offset = -block.__array_interface__["data"][0] % ALIGNMENT
    return np.ndarray(shape, dtype, block, offset)


class Arena(threading.local):
    """The memory for a program's temporaries: one block per thread, grown to the largest that was asked for."""

    def __init__(self) -> None:
        self.block = np.empty(0, np.uint8)
        self.address = 0
        self.size = 0
        self.in_use = False

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes, valid until the next call on this thread."""
        if size > self.size:
            self.block = np.empty(size + ALIGNMENT, np.uint8)
            start = self.block.__array_interface__["data"][0]
            self.address = start + -start % ALIGNMENT
            self.size = size
        return self.address


ARENA = Arena()
