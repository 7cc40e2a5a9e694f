"""Memory of donated arrays: whether a call may take it over.

Native code may overwrite an array only if nobody else can see its memory: no NumPy array, memoryview or other library's array made from it, no
other array of ours that shares it, no call on another thread that reads it. All of these hold references to one of the objects between the
array and its memory, so reference counts tell. What they are when there is nobody else is measured with arrays made for that; where
they do not tell (interpreters without reference counts or without a global lock), nothing is taken over.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from tracegrad.runtime import pool
from tracegrad.runtime.array import ArrayImpl
from tracegrad.runtime.buffers import ALIGNMENT, pointer

SMALLEST = pool.SMALLEST
"""Bytes: smaller results lie in memory that costs less than to find out who sees an array."""


def _counts(data: np.ndarray) -> tuple[list[int], Any]:
    """The reference counts of all between an array's data and their memory, and what owns the memory."""
    counts = []
    x: Any = data
    del data
    while isinstance(x, np.ndarray):
        counts.append(sys.getrefcount(x))
        x = x.base
    counts.append(sys.getrefcount(x))
    return counts, x


@lru_cache(maxsize=1)
def _alone() -> tuple[list[int], ...]:
    """The counts where nobody else sees the memory, of data that lie there and of views of them; none if counts do not tell."""
    if not hasattr(sys, "getrefcount") or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return ()

    def data() -> np.ndarray:
        return pool.take((SMALLEST,), np.dtype(np.int8), SMALLEST)[0]

    found = []
    for made in (data, lambda: data().view()):
        x = made()
        counts = _counts(x)[0]
        ways: tuple[Any, ...] = (lambda x: x[1:], memoryview, lambda x: ArrayImpl(x, None), lambda x: x.base)  # type: ignore[arg-type]
        for other in ways:
            seen = other(x)
            if _counts(x)[0] == counts:
                return ()
            del seen
        if _counts(x)[0] != counts:
            return ()
        found.append(counts)
    return tuple(found)


def possible() -> bool:
    """Whether memory can be taken over in this interpreter."""
    return bool(_alone())


def given_up(x: ArrayImpl) -> tuple[np.ndarray, bool]:
    """The data of an array, which is deleted, and whether native code may overwrite them: they are ours and nobody else sees them.

    Raises RuntimeError if the array has been deleted before.
    """
    data = x._np
    x.delete()  # first: from now on nobody can come to see them
    counts, owner = _counts(data)
    free = counts in _alone() and isinstance(owner, pool.Lent) and data.flags.c_contiguous and pointer(data) % ALIGNMENT == 0
    return data, free


__all__ = ["SMALLEST", "given_up", "possible"]
