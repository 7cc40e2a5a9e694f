"""What tests of native calls share: how a call is brought to native code, and compared with the way through Python."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

import tracegrad
from tracegrad.ir.config import config
from tracegrad.runtime import objects
from tracegrad.runtime.array import ArrayImpl, from_numpy

NATIVE = [
    pytest.mark.skipif(objects.layout() is None, reason="this interpreter's objects are laid out in a way that is not known"),
    pytest.mark.usefixtures("dispatcher"),
]
"""Marks of files that need native calls."""

X = from_numpy(np.arange(4, dtype=np.float32))


def leaves(x: Any) -> list[Any]:
    return tracegrad.tree_util.tree_leaves(x)


def is_native(result: Any) -> bool:
    """Whether a result was made by native code: its arrays are unknown to the garbage collector."""
    found = [x for x in leaves(result) if isinstance(x, ArrayImpl)]
    assert found
    return not any(gc.is_tracked(x) for x in found)


def check(f: Any, *args: Any, **kwargs: Any) -> Any:
    """Call until the call is native; the native result is that of the Python path, in values, types and structure."""
    config.update("compiled_dispatch", False)
    try:
        wanted = f(*args, **kwargs)
        assert not is_native(wanted)
    finally:
        config.update("compiled_dispatch", True)
    f(*args, **kwargs)
    result = f(*args, **kwargs)
    assert is_native(result)
    assert tracegrad.tree_util.tree_structure(result) == tracegrad.tree_util.tree_structure(wanted)
    for x, y in zip(leaves(result), leaves(wanted)):
        assert type(x) is ArrayImpl and x.aval is y.aval
        assert x._np.dtype == y._np.dtype and x._np.shape == y._np.shape and not x._np.flags.writeable
        assert x._np.tobytes() == y._np.tobytes()
    return result


def dispatch_entry(function: Any) -> tuple[Any, int]:
    """A Python function as a kernel, and its address."""
    made = ctypes.PYFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)(function)
    return made, ctypes.cast(made, ctypes.c_void_p).value or 0
