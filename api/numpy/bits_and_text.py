"""Packed bits, printing and files."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.numpy.creation import asarray
from tracegrad.numpy.logic import truth
from tracegrad.numpy.promotion import as_array, axis_index, shape_of, static_int
from tracegrad.numpy.shape import flip, moveaxis, ravel, reshape_to

UINT8 = np.dtype(np.uint8)


def _order(name: str, bitorder: str) -> None:
    if bitorder not in ("little", "big"):
        raise ValueError(f"{name}: 'order' must be either 'little' or 'big', got {bitorder!r}")


def packbits(a: Any, axis: int | None = None, bitorder: str = "big") -> Any:
    """Booleans packed into bytes along an axis."""
    a = as_array("packbits", a)
    _order("packbits", bitorder)
    if type_of(a).dtype.kind not in "iub":
        raise TypeError(f"Expected an input array of integer or boolean data type, got {type_of(a).dtype}")
    a = as_array("packbits", truth("packbits", a))
    if axis is None:
        a, axis = ravel(a), 0
    i = axis_index("packbits", axis, len(shape_of(a)))
    a = moveaxis(a, i, -1)
    n = shape_of(a)[-1]
    a = ops.convert_element_type(a, UINT8)
    if n % 8:
        a = ops.pad(a, UINT8.type(0), [(0, 0, 0)] * (len(shape_of(a)) - 1) + [(0, -n % 8, 0)])
    groups = reshape_to(a, (*shape_of(a)[:-1], shape_of(a)[-1] // 8, 8))
    weights = np.uint8(1) << np.arange(8, dtype=np.uint8)
    weights = weights[::-1] if bitorder == "big" else weights
    table = ops.broadcast_in_dim(asarray(np.ascontiguousarray(weights)), shape_of(groups), (len(shape_of(groups)) - 1,))
    return moveaxis(ops.reduce_sum(ops.mul(groups, table), (len(shape_of(groups)) - 1,)), -1, i)


def unpackbits(a: Any, axis: int | None = None, count: int | None = None, bitorder: str = "big") -> Any:
    """Bytes unpacked into bits along an axis."""
    a = as_array("unpackbits", a)
    _order("unpackbits", bitorder)
    if type_of(a).dtype != UINT8:
        raise TypeError(f"Expected an input array of unsigned byte data type, got {type_of(a).dtype}")
    if axis is None:
        a, axis = ravel(a), 0
    i = axis_index("unpackbits", axis, len(shape_of(a)))
    a = moveaxis(a, i, -1)
    shape = shape_of(a)
    wide = ops.broadcast_in_dim(a, (*shape, 8), range(len(shape)))
    bits = ops.bitwise_and(ops.shift_right_logical(wide, ops.broadcasted_iota(UINT8, (*shape, 8), len(shape))), UINT8.type(1))
    bits = flip(bits, len(shape)) if bitorder == "big" else bits
    flat = reshape_to(bits, (*shape[:-1], shape[-1] * 8))
    if count is not None:
        n = static_int("unpackbits", count, "count")
        total = shape[-1] * 8
        n = n + total if n < 0 else n
        flat = ops.pad(flat, UINT8.type(0), [(0, 0, 0)] * (len(shape) - 1) + [(0, n - total, 0)]) if n != total else flat
    return moveaxis(flat, -1, i)


# Printing and files are NumPy's.
array_repr = np.array_repr
array_str = np.array_str
set_printoptions = np.set_printoptions
get_printoptions = np.get_printoptions
printoptions = np.printoptions


def save(file: Any, arr: Any, allow_pickle: bool = True) -> None:
    """Save an array to a file in NumPy's format."""
    np.save(file, np.asarray(arr), allow_pickle=allow_pickle)


def savez(file: Any, *args: Any, allow_pickle: bool = True, **kwds: Any) -> None:
    """Save several arrays to a file in NumPy's format."""
    named: dict[str, Any] = {k: np.asarray(v) for k, v in kwds.items()}
    np.savez(file, *[np.asarray(a) for a in args], **named)


def load(file: Any, *args: Any, **kwargs: Any) -> Any:
    """An array from a file in NumPy's format."""
    out = np.load(file, *args, **kwargs)
    if isinstance(out, np.ndarray):
        if out.dtype.kind == "V" and out.dtype.itemsize == 2:
            import ml_dtypes

            out = out.view(ml_dtypes.bfloat16)  # NumPy writes bfloat16 without its name
        return asarray(out)
    return out


def fromfile(*args: Any, **kwargs: Any) -> Any:
    """Not available: it depends on a file's contents, which tracing cannot see."""
    raise NotImplementedError("jnp.fromfile is not implemented; use jnp.asarray(np.fromfile(...))")


def fromiter(*args: Any, **kwargs: Any) -> Any:
    """Not available: it depends on an iterator's state, which tracing cannot see."""
    raise NotImplementedError("jnp.fromiter is not implemented; use jnp.asarray(np.fromiter(...))")
