"""Memory for large results, kept when the arrays die and used again.

The operating system hands out fresh memory one page at a time, at the first touch of each, which costs more than the computation
that fills it: a chain of updates of arrays of some MiB would spend nine tenths of its time there. So a block goes back to a free list when
the last array that lies in it is gone. Blocks come in four sizes per power of two; what is kept is bounded.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from functools import lru_cache
from typing import Any

import numpy as np

SMALLEST = 1 << 17
"""Bytes. Below, the C library's allocator reuses memory by itself."""

_HUGE = 1 << 21
_free: dict[int, list[tuple[Any, int]]] = {}
_kept = 0
# Entered again on the same thread when the garbage collector finds dead arrays while a block is being taken.
_lock = threading.RLock()


@lru_cache(maxsize=1)
def limit() -> int:
    """How many bytes are kept at most: a quarter of the machine's memory, or 2 GiB if that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 28
    return min(total // 4, 1 << 31)


def size_class(nbytes: int) -> int:
    """The size of the block for `nbytes`: the next of four steps per power of two, so that at most a quarter is wasted."""
    step = 1 << max(nbytes.bit_length() - 3, 12)
    return -(-nbytes // step) * step


class Lent:
    """The base class of blocks: gives the memory back when the block, the base of the arrays in it, dies."""

    memory: tuple[Any, int]

    def __del__(self) -> None:
        try:
            give_back(self.memory, ctypes.sizeof(self))  # type: ignore[arg-type]
        except (TypeError, AttributeError):  # the interpreter is shutting down, this module has been taken apart
            return


@lru_cache(maxsize=256)
def _block_type(size: int) -> Any:
    return type("Block", (Lent, ctypes.c_char * size), {})


def _fresh(size: int) -> tuple[Any, int]:
    """New memory: what keeps it alive, and its address (aligned to a page at least)."""
    huge = size >= 2 * _HUGE and hasattr(mmap, "MADV_HUGEPAGE")
    try:
        memory = mmap.mmap(-1, size + (_HUGE if huge else 0))
    except (OSError, OverflowError, ValueError):
        raise MemoryError(f"cannot allocate {size} bytes") from None
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if huge:
        start += -start % _HUGE
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # the kernel has none: the memory is good all the same
            return memory, start
    return memory, start


def take(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> tuple[np.ndarray, int]:
    """A read-only row-major array in memory from the pool, and the address at which native code may write to it."""
    global _kept
    size = size_class(nbytes)
    with _lock:
        blocks = _free.get(size)
        memory = blocks.pop() if blocks else None
        if memory is not None:
            _kept -= size
    if memory is None:
        try:
            memory = _fresh(size)
        except MemoryError:
            clear()
            memory = _fresh(size)
    block = _block_type(size).from_address(memory[1])
    block.memory = memory
    x = np.ndarray(shape, dtype, block)
    x.flags.writeable = False
    return x, memory[1]


def give_back(memory: tuple[Any, int], size: int) -> None:
    """Keep a block for the next result of its size, if the bound allows it."""
    global _kept
    with _lock:
        if _kept + size <= limit():
            _kept += size
            _free.setdefault(size, []).append(memory)


def kept() -> int:
    """How many bytes lie unused in the pool."""
    return _kept


def clear() -> None:
    """Return what is kept to the operating system."""
    global _kept
    with _lock:
        _free.clear()
        _kept = 0
