"""Loops that write and read tapes: compiled code against the meaning."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tape_harness import F64, N, S, agree, program, read, record

from tracegrad.ir import ops
from tracegrad.ir.bind import bind
from tracegrad.ir.control_flow import cond_p as lax_cond
from tracegrad.ir.control_flow import scan_p as lax_scan
from tracegrad.ir.tapes import empty_tape, tape_length
from tracegrad.ir.types import ArrayType, key_dtype

pytestmark = pytest.mark.usefixtures("no_tape_is_left")


STEPS = (0, 1, 2, 61, 1000, 5000)
"""None, fewer than fit at first, several growths."""


@pytest.mark.parametrize("n", STEPS)
def test_tapes_of_scalars_are_read_in_both_directions(n: int) -> None:
    step = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), ops.cos(x), x], N, S)
    back = program(lambda g, c, x: [ops.mul(g, c), ops.add(x, g)], S, S, S)
    total = program(lambda s, x: [ops.add(ops.mul(s, 0.5), x)], S, S)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, cosines, points = record(n, step, x)
        g, sums = read(count, back, [np.float64(1)], [cosines, points], reverse=True)
        (s,) = read(count, total, [np.float64(0)], [sums])
        return [y, count, g, s, tape_length(points), tape_length(sums)]

    assert agree(fun, np.int32(n), np.float64(0.7))[4] == n


KINDS = {
    "bool": np.bool_,
    "i8": np.int8,
    "u16": np.uint16,
    "i64": np.int64,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "c64": np.complex64,
    "c128": np.complex128,
}


@pytest.mark.parametrize("n", (0, 3, 700))
def test_dtypes_and_shapes(n: int) -> None:
    """One loop keeps values of every kind: scalars, small arrays, arrays beyond registers, without elements, keys."""
    shapes: list[tuple[int, ...]] = [(), (3,), (5, 20), (0, 2), (2, 2)]
    types = [ArrayType(shapes[k % len(shapes)], np.dtype(d)) for k, d in enumerate(KINDS.values())]
    key = ArrayType((), key_dtype())

    def value(i: Any, t: ArrayType) -> Any:
        number = ops.convert_element_type(ops.rem(i, np.int32(2 if t.dtype.kind == "b" else 100)), t.dtype)
        return ops.broadcast_in_dim(number, t.shape, ())

    def step(i: Any) -> list[Any]:
        words = ops.convert_element_type(ops.broadcast_in_dim(i, (2,), ()), np.uint32)
        return [ops.add(i, np.int32(1)), i, *[value(i, t) for t in types], ops.key_wrap(words)]

    def latest(*values: Any) -> list[Any]:
        old, new = values[: len(types) + 2], values[len(types) + 2 :]
        return [ops.add(ops.mul(old[0], np.int32(3)), new[0]), *new[1:-1], ops.key_unwrap(new[-1])]

    words = ArrayType((2,), np.dtype(np.uint32))
    last = program(latest, N, *types, words, N, *types, key)
    stepped = program(step, N)

    def fun(n: Any) -> list[Any]:
        _, count, *kept = record(n, stepped)
        start = [ops.broadcast_in_dim(ops.convert_element_type(np.int32(0), t.dtype), t.shape, ()) for t in (N, *types, words)]
        return [*read(count, last, start, kept), *read(count, last, start, kept, reverse=True)]

    agree(fun, np.int32(n))


def test_large_elements_beside_small_ones() -> None:
    """Elements in the memory of a loop, products that threads share, a carry as large."""
    m = ArrayType((40, 50), F64)
    step = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(ops.add(x, 0.1)), x, ops.reduce_sum(x, (0, 1))], N, m)
    back = program(lambda g, x, s: [ops.add(ops.mul(g, x), s), ops.mul(g, 0.5)], m, m, S)
    add = program(lambda s, x: [ops.add(s, x)], m, m)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, xs, sums = record(n, step, x)
        g, halves = read(count, back, [y], [xs, sums], reverse=True)
        return [y, g, *read(count, add, [x], [halves])]

    for n in (0, 1, 30):
        agree(fun, np.int32(n), np.linspace(-1, 1, 2000).reshape(40, 50))


def test_empty_tapes_are_zeros() -> None:
    """Of scalars, of matrices, of tapes; chosen at run time; as long as nothing else says how long they are."""
    m = ArrayType((30, 3), F64)
    add = program(lambda s, x, y: [ops.add(ops.add(s, x), ops.reduce_sum(y, (0, 1)))], S, S, m)
    inner = program(lambda s, x: [ops.add(s, x)], S, S)
    kept = program(lambda i: [ops.add(i, np.int32(1)), ops.convert_element_type(i, F64)], N)

    def outer(s: Any, t: Any) -> list[Any]:
        return read(np.int32(3), inner, [s], [t])

    def fun(n: Any, p: Any) -> list[Any]:
        some = record(n, kept)[2]
        chosen = ops.select(p, some, empty_tape(S))
        (x,) = read(n, add, [np.float64(1)], [chosen, empty_tape(m)])
        (y,) = read(n, program(outer, S, some.aval), [np.float64(2)], [empty_tape(some.aval)])
        return [x, y, tape_length(chosen), tape_length(empty_tape(m))]

    for n in (0, 4):
        for p in (False, True):
            agree(fun, np.int32(n), np.bool_(p))


def test_tapes_of_tapes_and_arrays_of_tapes() -> None:
    """A loop that records within a scan, within a loop that records, and within a branch."""
    kept = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), x], N, S)
    add = program(lambda s, x: [ops.add(ops.mul(s, 1.01), x)], S, S)
    tape = program(lambda n, x: [record(n, kept, x)[3]], N, S).out_types[0]

    def in_scan(x: Any, n: Any) -> list[Any]:
        _, y, count, points = record(n, kept, x)
        return [y, points, count]

    def read_row(s: Any, t: Any, n: Any) -> list[Any]:
        return read(n, add, [s], [t])

    def in_record(n: Any, i: Any, x: Any) -> list[Any]:
        _, y, _, points = record(ops.add(i, n), kept, x)
        return [ops.add(i, np.int32(1)), y, points, ops.add(i, n)]

    def some(n: Any, x: Any) -> list[Any]:
        return [record(n, kept, x)[3]]

    def none(n: Any, x: Any) -> list[Any]:
        return [empty_tape(S)]

    row = program(read_row, S, tape, N)

    def fun(n: Any, x: Any, lengths: Any) -> list[Any]:
        scan = {"num_consts": 0, "num_carry": 1, "unroll": 1, "length": 5}
        y, rows, counts = bind(lax_scan, x, lengths, body=program(in_scan, S, N), reverse=False, **scan)
        (a,) = bind(lax_scan, x, rows, counts, body=row, reverse=True, **scan)
        turned = ops.rev(rows, (0,))
        (b,) = bind(lax_scan, x, turned, ops.rev(counts, (0,)), body=row, reverse=False, **scan)
        _, z, count, outer, steps = record(n, program(in_record, N, N, S), x, consts=[n])
        (c,) = read(count, row, [x], [outer, steps], reverse=True)
        (chosen,) = bind(lax_cond, n, n, x, branches=(program(none, N, S), program(some, N, S)))
        return [y, a, b, z, c, *read(n, add, [x], [chosen])]

    for n in (0, 1, 7):
        agree(fun, np.int32(n), np.float64(0.3), np.array([3, 0, 90, 1, 2], np.int32))
