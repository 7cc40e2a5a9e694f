"""Calling Python from native code.

A compiled program that contains callbacks calls one C function, `tg.runtime.callback`:

    int32 tg.runtime.callback(int64 handle, ptr* operands, ptr* results)

The handle names a Python function with the types of its operands and results; it is not part of the code but read from the
slots that follow the constants (`CompiledObject.callbacks`, in order, gives what each slot stands for). The function gets read-only
copies of the operands. If it raises, the exception is kept, the native function returns at once with the non-zero result, and the
exception is raised again where the program was called.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import bind
from tracegrad.ir.calls import CallbackRef, callback_p
from tracegrad.ir.types import ArrayType
from tracegrad.runtime import symbols
from tracegrad.runtime.buffers import pointer

_TRAMPOLINE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p))

Entry = tuple[CallbackRef, tuple[ArrayType, ...], tuple[ArrayType, ...]]

_entries: list[Entry] = []
_handles: dict[Any, int] = {}
_lock = threading.Lock()


class _Pending(threading.local):
    """The exception that a callback of this thread's running program has raised."""

    exception: BaseException | None = None


_pending = _Pending()


def handle(callback: CallbackRef, in_types: Sequence[ArrayType], out_types: Sequence[ArrayType]) -> int:
    """The number under which native code calls a callback. It is never reused, so the callback lives as long as the process."""
    entry = (callback, tuple(in_types), tuple(out_types))
    key = (id(callback), *entry[1:])
    with _lock:
        if key not in _handles:
            _handles[key] = len(_entries)
            _entries.append(entry)
        return _handles[key]


def _at(address: int | None, t: ArrayType) -> np.ndarray:
    """A copy of the array of type `t` at an address."""
    nbytes = t.nbytes
    if not nbytes:
        return np.empty(t.shape, t.dtype)
    copy = ctypes.string_at(address or 0, nbytes)
    return np.frombuffer(copy, t.dtype).reshape(t.shape)


def _call(number: int, operands: Any, results: Any) -> int:
    try:
        callback, in_types, out_types = _entries[number]
        args = [_at(operands[i], t) for i, t in enumerate(in_types)]
        with bind.using(bind.eager()):
            outs = callback_p.evaluate(*args, callback=callback, out_types=out_types, ordered=False, kind="io")
        for i, x in enumerate(outs):
            if x.nbytes:
                x = np.ascontiguousarray(x)
                ctypes.memmove(results[i], pointer(x), x.nbytes)
        return 0
    except BaseException as e:  # also KeyboardInterrupt: it must not be lost in native code
        _pending.exception = e
        return 1


_trampoline = _TRAMPOLINE(_call)
SYMBOL = symbols.register("callback", ctypes.cast(_trampoline, ctypes.c_void_p).value or 0)
"""The symbol that generated code calls."""


def raise_pending(status: int) -> None:
    """Raise what a callback of the program that has just returned raised, if anything."""
    exception, _pending.exception = _pending.exception, None
    if exception is not None:
        raise exception
    if status:
        raise RuntimeError(f"a compiled program failed with status {status}")
