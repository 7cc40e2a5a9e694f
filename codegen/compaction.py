"""Lowering of `nonzero`: the positions of the true elements of rows, pressed together by vectors.

The elements of a group are one word of bits. The positions of each sixteen are compressed in a register and stored as a whole; what is stored
beyond those found is written over by the next ones. So there is no branch that depends on an element.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tracegrad.codegen.kernel import Buffer, Kernel, Value, Variable, storage_type
from tracegrad.codegen.library import Routine, lower_by
from tracegrad.ir.sorting import nonzero_p
from tracegrad.ir.types import ArrayType

GROUP, LANES = 64, 16


def nonzero_routine(x: ArrayType, *, size: int) -> Routine:
    n, rows = x.shape[-1], prod(x.shape[:-1])
    dtype = np.dtype(np.int32 if n < 2**31 else np.int64)
    t = storage_type(dtype)
    params = {"in0": "ptr", "out0": "ptr", "out1": "ptr", "scratch": "ptr"}
    k = Kernel(f"tg_nonzero_{rows}_{n}_{size}", params, noalias=tuple(params))
    counts = k.array(k["out1"], dtype)
    with k.loop(0, rows, vectorize=False) as r:
        mask = k.array(k["in0"], np.bool_).shifted(r * n)
        out = k.array(k["out0"], dtype).shifted(r * size)
        count = k.var("i64", 0)
        whole = n - n % GROUP
        with k.loop(0, whole, GROUP, vectorize=False) as start:
            loaded = k.emit(f"<{GROUP} x i8>", f"load <{GROUP} x i8>, ptr {mask.at(start).ref}, align 1")
            truth = k.emit(f"<{GROUP} x i1>", f"icmp ne <{GROUP} x i8> {loaded.ref}, zeroinitializer")
            bits = truth.bits(f"i{GROUP}")
            with k.if_(bits.ne(0)):
                k.if_else(
                    count.get() + GROUP <= size,
                    lambda start=start, bits=bits, count=count, out=out: count.set(
                        _compress(k, bits, start, count.get(), out, t)
                    ),  # type: ignore[misc]
                    lambda start=start, bits=bits, count=count, out=out: _one_by_one(k, bits, start, count, out, size, t),  # type: ignore[misc]
                )
        with k.loop(whole, n, vectorize=False) as i:
            with k.if_(mask[i].ne(0)):
                with k.if_(count.get() < size):
                    out[count.get()] = i.cast(t)
                count.add(1)
        total = count.get()
        counts[r] = total.cast(t)
        with k.loop((total < size).select(total, k.value(size, "i64")), size) as i:
            out[i] = k.value(n, t)
    return Routine(k)


def _compress(k: Kernel, bits: Value, start: Value, count: Value, out: Buffer, t: str) -> Value:
    """Store the positions of a group, for all of which there is room; how many there are then."""
    vector = f"<{LANES} x {t}>"
    symbol = f"llvm.experimental.vector.compress.v{LANES}{t}"
    k.externals[symbol] = f"declare {vector} @{symbol}({vector}, <{LANES} x i1>, {vector})"
    first = start.cast(t)
    one = k.emit(vector, f"insertelement {vector} poison, {t} {first.ref}, i64 0")
    spread = k.emit(vector, f"shufflevector {vector} {one.ref}, {vector} poison, <{LANES} x i32> zeroinitializer")
    for part in range(GROUP // LANES):
        lanes = (bits >> (part * LANES)).cast(f"i{LANES}")
        mask = lanes.bits(f"<{LANES} x i1>")
        steps = ", ".join(f"{t} {part * LANES + lane}" for lane in range(LANES))
        places = k.emit(vector, f"add {vector} {spread.ref}, <{steps}>")
        found = k.emit(vector, f"call {vector} @{symbol}({vector} {places.ref}, <{LANES} x i1> {mask.ref}, {vector} poison)")
        k.line(f"store {vector} {found.ref}, ptr {out.at(count).ref}, align {4 if t == 'i32' else 8}")
        count = count + k.intrinsic("ctpop", lanes).cast("i64", signed=False)
    return count


def _one_by_one(k: Kernel, bits: Value, start: Value, count: Variable, out: Buffer, size: int, t: str) -> None:
    """The same near the end of the result, or beyond, where positions are only counted."""
    rest = k.var(f"i{GROUP}", bits)
    with k.while_(lambda: rest.get().ne(0)):
        left = rest.get()
        with k.if_(count.get() < size):
            out[count.get()] = (start + k.intrinsic("cttz", left, extra="i1 true")).cast(t)
        count.add(1)
        rest.set(left & (left - 1))


def _work(types: Sequence[ArrayType]) -> float:
    return sum([t.size for t in types])


nonzero_p.define(lower=lower_by(nonzero_routine, 1, _work))
