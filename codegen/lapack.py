"""What kernels over batches of matrices are made of: one matrix of a batch, transposition, arguments as Fortran takes them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Buffer, Kernel, Value, compute_type

_REAL: dict[str, np.dtype] = {"float": np.dtype(np.float32), "double": np.dtype(np.float64)}


def real_dtype(dtype: Any) -> np.dtype:
    return _REAL[compute_type(dtype)]


def matrix_of(k: Kernel, pointer: Value, dtype: Any, batch: Value, rows: int, columns: int) -> Buffer:
    """The matrix number `batch` of a buffer."""
    return k.array(pointer, dtype, (rows * columns, columns, 1)).shifted((batch, 0, 0), (columns, 1))


def vector_of(k: Kernel, pointer: Value, dtype: Any, batch: Value, n: int) -> Buffer:
    return k.array(pointer, dtype, (n, 1)).shifted((batch, 0), (1,))


def transpose(k: Kernel, source: Buffer, target: Buffer, rows: int, columns: int, conjugate: bool = False) -> None:
    """target[j, i] = source[i, j], in tiles that stay in the first cache."""
    tile = 16

    def block(i0: Any, i1: Any, j0: Any, j1: Any) -> None:
        with k.loop(j0, j1) as j, k.loop(i0, i1, vectorize=False) as i:
            x = source[i, j]
            target[j, i] = x.conj() if conjugate else x

    if rows <= 2 * tile or columns <= 2 * tile:
        block(0, rows, 0, columns)
        return
    with k.loop(0, rows, tile) as i0, k.loop(0, columns, tile) as j0:
        i1, j1 = i0 + tile, j0 + tile
        block(i0, (i1 < rows).select(i1, rows), j0, (j1 < columns).select(j1, columns))


def fill(k: Kernel, target: Buffer, count: Any, value: float) -> None:
    flat = Buffer(k, target.pointer, target.dtype, (1,))
    with k.loop(0, count) as i:
        flat[i] = (
            k.number(value, target.dtype)
            if target.dtype.kind != "c"
            else k.complex(complex(value, value), compute_type(target.dtype))
        )


def copy_elements(k: Kernel, source: Buffer, target: Buffer, count: int) -> None:
    k.memcpy(target.pointer, source.pointer, count * source.dtype.itemsize)


def all_finite(k: Kernel, source: Buffer, count: int) -> Value:
    dtype = real_dtype(source.dtype)
    flat = Buffer(k, source.pointer, dtype, (1,))
    found = k.var("i32", 0)
    with k.loop(0, count * (2 if source.dtype.kind == "c" else 1)) as i:
        x = flat[i]
        found.set(found.get() | (x - x).ne(0.0).cast("i32"))
    return found.get().eq(0)


class Arguments:
    """Arguments in Fortran's manner: all by address."""

    def __init__(self, k: Kernel):
        self.k = k

    def integer(self, value: int) -> Value:
        return self.k.by_reference(value, np.int32)

    def character(self, c: str) -> Value:
        return self.k.by_reference(ord(c), np.int8)

    def one(self, dtype: Any) -> Value:
        return self.k.by_reference(1.0, dtype)


def scratch_buffers(k: Kernel, sizes: Sequence[tuple[Any, int]]) -> tuple[list[Buffer], int]:
    """Buffers of (dtype, count) laid out in the scratch memory, and how much of it they take."""
    offset, buffers = 0, []
    for dtype, count in sizes:
        buffers.append(k.array(k.offset(k["scratch"], offset), dtype))
        offset += -(-max(count, 1) * np.dtype(dtype).itemsize // 64) * 64
    return buffers, offset


def start(name: str, ins: int, outs: int, *key: Any) -> Kernel:
    params = {f"in{i}": "ptr" for i in range(ins)} | {f"out{i}": "ptr" for i in range(outs)} | {"scratch": "ptr"}
    tag = "_".join(str(part).replace("-", "m").replace(" ", "") for part in key)
    return Kernel(f"tg_{name}_{tag}", params, noalias=tuple(params))


def batch_size(shape: Sequence[int], core: int = 2) -> int:
    return prod(shape[: len(shape) - core])


def nan_unless(k: Kernel, info: Value, targets: Sequence[tuple[Buffer, int]]) -> None:
    with k.if_(k.load(info, "i32").ne(0)):
        for target, count in targets:
            fill(k, target, count, np.nan)
