"""Random bits: the Threefry-2x32 block cipher, and typed keys made of and taken back to two words.

Threefry (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) enciphers a counter under a key; the stream of a
key is what it makes of 0, 1, 2, ... Everything else about random numbers is composed from it above.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind, bind1
from tracegrad.ir.checks import common_shape, listing, scalars
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, is_key, key_dtype

UINT32 = np.dtype(np.uint32)
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def _threefry_type(*types: ArrayType) -> tuple[ArrayType, ArrayType]:
    if len(types) != 4 or any(t.dtype != UINT32 for t in types):
        raise TypeError(f"threefry2x32 takes two words of a key and two of a counter, all uint32, but got {listing(types)}")
    out = ArrayType(common_shape("threefry2x32", types), UINT32)
    return out, out


def _threefry_of_ints(k0: int, k1: int, x0: int, x1: int) -> tuple[int, int]:
    keys = (k0, k1, k0 ^ k1 ^ PARITY)
    x0, x1 = (x0 + k0) & 0xFFFFFFFF, (x1 + k1) & 0xFFFFFFFF
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            x0 = (x0 + x1) & 0xFFFFFFFF
            x1 = (x1 << rotation & 0xFFFFFFFF | x1 >> (32 - rotation)) ^ x0
        x0 = (x0 + keys[(block + 1) % 3]) & 0xFFFFFFFF
        x1 = (x1 + keys[(block + 2) % 3] + block + 1) & 0xFFFFFFFF
    return x0, x1


FEW = 6
"""Up to so many counters are faster enciphered one by one, as Python integers, than by a hundred NumPy operations."""


def _threefry(k0: np.ndarray, k1: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shape = max(k0.shape, k1.shape, x0.shape, x1.shape, key=len)
    size = prod(shape)
    if size <= FEW:
        rows = [x.ravel().tolist() if x.shape else [x.item()] * size for x in (k0, k1, x0, x1)]
        pairs = [_threefry_of_ints(*row) for row in zip(*rows)]
        out = np.array(pairs, UINT32).reshape(size, 2)
        return out[:, 0].reshape(shape), out[:, 1].reshape(shape)
    with np.errstate(over="ignore"):
        keys = (k0, k1, k0 ^ k1 ^ np.uint32(PARITY))
        y0, y1 = np.empty(shape, UINT32), np.empty(shape, UINT32)
        np.add(x0, k0, out=y0)
        np.add(x1, k1, out=y1)
        for block in range(5):
            for rotation in ROTATIONS[block % 2]:
                y0 += y1
                high = y1 << np.uint32(rotation)
                y1 >>= np.uint32(32 - rotation)
                y1 |= high
                y1 ^= y0
            y0 += keys[(block + 1) % 3]
            y1 += keys[(block + 2) % 3]
            y1 += np.uint32(block + 1)
    return y0, y1


threefry2x32_p = Primitive("threefry2x32", _threefry_type, _threefry, "random", multiple_results=True)


def threefry2x32(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Encipher the counter words (x0, x1) under the key words (k0, k1), elementwise."""
    return bind(threefry2x32_p, *scalars(k0, k1, x0, x1))


def _key_wrap_type(x: ArrayType) -> tuple[ArrayType]:
    if x.dtype != UINT32 or x.shape[-1:] != (2,):
        raise TypeError(f"key_wrap makes keys of uint32 arrays whose last axis has size 2, but got {x}")
    return (ArrayType(x.shape[:-1], key_dtype()),)


def _key_unwrap_type(x: ArrayType) -> tuple[ArrayType]:
    if not is_key(x.dtype):
        raise TypeError(f"key_unwrap takes an array of keys, but got {x}")
    return (ArrayType(x.shape + x.dtype.base_shape, UINT32),)


key_wrap_p = Primitive("key_wrap", _key_wrap_type, lambda x: (x,), "random")
key_unwrap_p = Primitive("key_unwrap", _key_unwrap_type, lambda x: (x,), "random")


def key_wrap(x: Any) -> Any:
    """The keys whose words are along the last axis of `x`."""
    return bind1(key_wrap_p, x)


def key_unwrap(x: Any) -> Any:
    """The words of keys, along a new last axis."""
    return bind1(key_unwrap_p, x)


__all__ = [
    "threefry2x32",
    "key_wrap",
    "key_unwrap",
]
