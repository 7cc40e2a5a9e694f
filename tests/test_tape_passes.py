"""Passes over loops that write and read tapes: what is kept, what moves, what is computed again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tape_harness import F64, N, S, agree, program, read, record

from tracegrad.codegen.compile import prepare
from tracegrad.ir import ops
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.tapes import record_while_p, tape_length, tape_scan_p
from tracegrad.ir.types import ArrayType
from tracegrad.ir.verify import verify
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.hoist import hoist_invariants
from tracegrad.transforms.narrow import narrow_loops
from tracegrad.transforms.pipeline import optimize

pytestmark = pytest.mark.usefixtures("no_tape_is_left")


def test_what_nobody_reads_is_not_kept() -> None:
    step = program(lambda w, i, x: [ops.add(i, np.int32(1)), ops.mul(x, w), ops.cos(x), ops.exp(w)], S, N, S)
    back = program(lambda c, g, h, x, y: [ops.mul(g, x), ops.add(h, y), ops.mul(y, c)], S, S, S, S, S)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, cosines, same = record(n, step, x, consts=[x])
        g, h, more = read(count, back, [y, x], [cosines, same], consts=[x])
        return [y, g]

    traced = program(fun, N, S)
    short = remove_dead_code(traced)
    loop, scan = short.equations
    assert (loop.primitive, scan.primitive) == (record_while_p, tape_scan_p)
    assert len(loop.outputs) == 4 and len(loop.params["body"].outputs) == 3
    assert len(scan.inputs) == 3 and len(scan.outputs) == 1 and scan.params["num_consts"] == 0
    verify(short)
    assert remove_dead_code(short) == short
    only = remove_dead_code(traced, [True, False])
    assert [e.primitive.name for e in only.equations] == ["while"]
    verify(only)
    args = np.int32(4), np.float64(0.9)
    assert evaluate(short, *args) == evaluate(traced, *args)
    agree(fun, *args)


def test_what_does_not_change_moves_out_of_loops_over_tapes() -> None:
    step = program(lambda w, i, x: [ops.add(i, np.int32(1)), ops.mul(x, ops.exp(w)), ops.cos(x)], S, N, S)
    back = program(lambda c, g, h, x: [ops.mul(g, ops.mul(x, ops.log(c))), h], S, S, S, S)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, cosines = record(n, step, x, consts=[x])
        return [y, *read(count, back, [y, x], [cosines], consts=[x])]

    moved = hoist_invariants(program(fun, N, S))
    verify(moved)
    names = [e.primitive.name for e in moved.equations]
    assert names == ["exp", "record_while", "log", "tape_scan"]
    assert moved.equations[-1].params["num_carry"] == 1 and moved.outputs[2] is moved.inputs[1]
    agree(fun, np.int32(5), np.float64(0.9))


def test_what_is_alike_crosses_the_borders_of_loops_once() -> None:
    """Carries that start and proceed alike, constants, what is kept or read twice, numbers."""
    step = program(
        lambda w, u, i, x, y, z: [
            ops.add(i, np.int32(1)),
            ops.mul(x, w),
            ops.mul(y, u),
            z,
            ops.cos(x),
            ops.mul(ops.cos(y), z),
            x,
            y,
        ],
        *[S, S, N, S, S, S],
    )
    back = program(lambda c, d, g, h, x, y: [ops.mul(g, ops.add(x, c)), ops.mul(h, ops.add(y, d)), x, y], *[S] * 6)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, z, w, count, a, b, c, d = record(n, step, x, x, x, consts=[x, x])
        outs = read(count, back, [y, z], [c, d], consts=[x, x])
        return [y, z, w, *outs[:2], *read(count, back, [y, z], [a, outs[3]], consts=[x, 0.5])[:2], tape_length(outs[2])]

    narrowed = narrow_loops(program(fun, N, S))
    verify(narrowed)
    loop, once, _, _ = narrowed.equations
    assert [len(loop.inputs), len(loop.outputs), len(once.inputs), len(once.outputs)] == [4, 6, 4, 2]
    for n in (0, 1, 4):
        agree(fun, np.int32(n), np.float64(0.9))
        assert evaluate(narrowed, np.int32(n), np.float64(0.9)) == evaluate(program(fun, N, S), np.int32(n), np.float64(0.9))


def test_the_last_carry_of_a_step_is_not_kept_beside_the_first_of_the_next() -> None:
    step = program(lambda i, x: (lambda y: [ops.add(i, np.int32(1)), y, x, y])(ops.tanh(ops.mul(x, 1.5))), N, S)
    back = program(lambda g, x, y: [ops.mul(ops.add(g, x), ops.sub(1.0, ops.mul(y, y)))], S, S, S)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, first, last = record(n, step, x)
        return [y, *read(count, back, [x], [first, last], reverse=True)]

    (loop,) = [e for e in optimize(program(fun, N, S)).equations if e.primitive is record_while_p]
    assert len(loop.outputs) == 4
    for n in (0, 1, 2, 9):
        agree(fun, np.int32(n), np.float64(0.9))


def test_pieces_of_windows_are_summed_after_loops_over_tapes() -> None:
    step = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), x], N, S)
    whole = ArrayType((50,), F64)

    def put(total: Any, x: Any) -> list[Any]:
        piece = ops.broadcast_in_dim(x, (2,), ())
        return [ops.add(total, ops.pad(piece, 0.0, [(3, 45, 0)]))]

    def fun(n: Any, x: Any) -> list[Any]:
        _, _, count, points = record(n, step, x)
        return read(count, program(put, whole, S), [ops.broadcast_in_dim(x, (50,), ())], [points], reverse=True)

    (loop,) = [e for e in prepare(optimize(program(fun, N, S))).equations if e.primitive is tape_scan_p]
    assert loop.outputs[0].type.size <= 2
    for n in (0, 1, 9):
        agree(fun, np.int32(n), np.float64(0.9))


def test_cheap_residuals_are_computed_where_they_are_read() -> None:
    """What is kept for the backward loop is a scalar, and not the arrays that are broadcast from it."""
    m = ArrayType((30,), F64)
    step = program(lambda i, x: [ops.add(i, np.int32(1)), *_widened(x)], N, S)
    back = program(lambda g, x, y: [ops.add(ops.mul(g, x), y)], m, m, m)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, wide, shifted = record(n, step, x)
        return [y, *read(count, back, [ops.broadcast_in_dim(x, (30,), ())], [wide, shifted], reverse=True)]

    prepared = prepare(optimize(program(fun, N, S)))
    (loop,) = [e for e in prepared.equations if e.primitive is record_while_p]
    assert [t.shape for t in loop.params["body"].out_types] == [(), (), ()]
    agree(fun, np.int32(5), np.float64(0.9))


def _widened(x: Any) -> list[Any]:
    y = ops.sin(x)
    wide = ops.broadcast_in_dim(y, (30,), ())
    return [ops.mul(y, 0.9), wide, ops.mul(wide, -2.0)]
