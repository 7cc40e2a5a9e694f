"""Fourier transforms of lengths that have no code of our own: the inner loops of NumPy's own pocketfft, called by pointer.

Each is a C function `(char **args, intp *dims, intp *steps, void *data)` that transforms a batch of rows with any strides, in
place if asked: args are the input, the factor that scales the result, and the output.
"""

from __future__ import annotations

from math import prod

import numpy as np

from tracegrad.codegen.kernel import Kernel, Value
from tracegrad.codegen.library import Routine, fft_data_symbol, fft_symbol
from tracegrad.ir.fft import fft_p
from tracegrad.ir.types import ArrayType


class _Transforms:
    """Emits calls of pocketfft along one axis of an array that is (outer, n, inner)."""

    def __init__(self, k: Kernel, single: bool):
        self.k = k
        self.real = np.dtype(np.float32 if single else np.float64)
        self.args = k.stack(np.int64, 3)
        self.dims = k.stack(np.int64, 3)
        self.steps = k.stack(np.int64, 5)
        self.factor = k.stack(self.real, 1)

    def _store_pointer(self, position: int, pointer: Value) -> None:
        k = self.k
        self.args[position] = k.emit("i64", f"ptrtoint ptr {pointer.ref} to i64")

    def along(
        self,
        name: str,
        source: Value,
        target: Value,
        outer: int,
        sizes: tuple[int, int],
        inner: int,
        bytes: tuple[int, int],
        scale: float,
    ) -> None:
        """Transform `outer * inner` rows; sizes and bytes are the lengths and element sizes of input and output rows."""
        k = self.k
        self.factor[0] = scale
        self._store_pointer(1, self.factor.pointer)
        self.dims[1], self.dims[2] = sizes
        self.steps[1] = 0
        self.steps[3], self.steps[4] = inner * bytes[0], inner * bytes[1]
        data = fft_data_symbol(name, self.real)
        if data is None:
            argument = Value(k, "ptr", "null")
        else:
            k.externals[data] = f"@{data} = external global i8"
            argument = Value(k, "ptr", f"@{data}")
        arguments = [self.args.pointer, self.dims.pointer, self.steps.pointer, argument]
        if inner == 1:
            self._store_pointer(0, source)
            self._store_pointer(2, target)
            self.dims[0] = outer
            self.steps[0], self.steps[2] = sizes[0] * bytes[0], sizes[1] * bytes[1]
            k.call(fft_symbol(name, self.real), arguments)
            return
        self.dims[0] = inner
        self.steps[0], self.steps[2] = bytes
        with k.loop(0, outer) as i:
            self._store_pointer(0, k.offset(source, i * (sizes[0] * inner * bytes[0])))
            self._store_pointer(2, k.offset(target, i * (sizes[1] * inner * bytes[1])))
            k.call(fft_symbol(name, self.real), arguments)


def fft_routine(x: ArrayType, *, kind: str, lengths: tuple[int, ...]) -> Routine:
    (out,) = fft_p.type_rule(x, kind=kind, lengths=lengths)
    tag = "x".join(map(str, (*x.shape, "k", *lengths)))
    k = Kernel(f"tg_{kind}_{x.dtype}_{tag}", {"in0": "ptr", "out0": "ptr", "scratch": "ptr"}, noalias=("in0", "out0", "scratch"))
    scratch = 0
    wide = (x if x.dtype.kind == "c" else out).dtype.itemsize  # bytes of a complex element
    f = _Transforms(k, wide == 8)
    rank, count = x.ndim, len(lengths)
    forward = kind in ("fft", "rfft")
    name = "fft" if forward else "ifft"
    source, target = k["in0"], k["out0"]
    outer_axes = list(range(rank - count, rank - 1))
    last = lengths[-1]

    def scale(n: int) -> float:
        return 1.0 if forward else 1.0 / n

    def along_outer(source: Value, target: Value, shape: tuple[int, ...]) -> Value:
        for axis in reversed(outer_axes):
            n = shape[axis]
            f.along(name, source, target, prod(shape[:axis]), (n, n), prod(shape[axis + 1 :]), (wide, wide), scale(n))
            source = target
        return source

    rows = prod(x.shape[:-1])
    if kind == "irfft":
        if outer_axes:
            target = k["scratch"]
            scratch = x.nbytes
            source = along_outer(source, target, x.shape)
        f.along("irfft", source, k["out0"], rows, (last // 2 + 1, last), 1, (wide, wide // 2), scale(last))
    else:
        if kind == "rfft":
            rfft = "rfft_n_odd" if last % 2 else "rfft_n_even"
            f.along(rfft, source, target, rows, (last, last // 2 + 1), 1, (wide // 2, wide), 1.0)
        else:
            f.along(name, source, target, rows, (last, last), 1, (wide, wide), scale(last))
        along_outer(target, target, out.shape)
    return Routine(k, scratch)


__all__ = ["fft_routine"]
