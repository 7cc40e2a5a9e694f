"""A loop that adds pieces to windows of an array carries the pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import rewritten
from tracegrad.codegen.loop_windows import sum_windows_after_loops
from tracegrad.ir import ops
from tracegrad.ir.program import Program
from tracegrad.tracer.control_flow import scan

pytestmark = pytest.mark.usefixtures("double_precision")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def moved(f: Any, *args: np.ndarray) -> Program:
    """The program with sums of windows after its loops, which gives what it gave."""
    return rewritten(sum_windows_after_loops, f, *args)


def body_of(program: Program) -> Program:
    (loop,) = [e for e in program.equations if e.primitive.name == "scan"]
    return loop.params["body"]


def window(x: Any, k: int, rows: int) -> Any:
    """An array of rows that are zero but for row k."""
    row = ops.reshape(x, (1, x.shape[0]))
    return ops.pad(row, 0.0, ((k, rows - 1 - k, 0), (0, 0, 0)))


@pytest.mark.parametrize("reverse", [False, True])
def test_sums_of_rows_are_carried_row_by_row(reverse: bool) -> None:
    def f(total: Any, h: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            total, h = carry
            h = ops.sin(ops.add(ops.mul(h, 1.1), x))
            inner = ops.add(window(h, 1, 2), window(ops.mul(h, x), 0, 2))
            outer = ops.pad(ops.reshape(inner, (1, 2, x.shape[0])), 0.0, ((1, 0, 0), (0, 0, 0), (0, 0, 0)))
            again = ops.pad(ops.reshape(window(x, 1, 2), (1, 2, x.shape[0])), 0.0, ((0, 1, 0), (0, 0, 0), (0, 0, 0)))
            return (ops.add(ops.add(again, total), outer), h), h

        (total, h), ys = scan(step, (total, h), xs, reverse=reverse)
        return [total, h, ys]

    body = body_of(moved(f, draw(2, 2, 14), draw(14), draw(9, 14)))
    assert "pad" not in [e.primitive.name for e in body.equations]
    assert [a.type.shape for a in body.outputs] == [(14,)] * 5


def test_pieces_for_one_window_are_added_first() -> None:
    def f(total: Any, xs: Any) -> Any:
        def step(total: Any, x: Any) -> Any:
            return ops.add(total, ops.add(window(ops.exp(x), 1, 3), window(ops.neg(x), 1, 3))), ()

        return [scan(step, total, xs)[0]]

    body = body_of(moved(f, draw(3, 10), draw(5, 10)))
    assert [a.type.shape for a in body.outputs] == [(10,)]


@pytest.mark.parametrize("case", ["read", "scaled", "stacked", "more"])
def test_carries_that_are_more_than_a_sum_stay(case: str) -> None:
    def f(total: Any, xs: Any) -> Any:
        def step(total: Any, x: Any) -> Any:
            piece = window(x, 1, 3)
            if case == "read":
                piece = ops.add(piece, ops.mul(total, 0.5))
            after = ops.add(ops.mul(total, 0.9) if case == "scaled" else total, piece)
            if case == "more":  # as many numbers as the array has, and more
                for k in range(4):
                    after = ops.add(after, ops.pad(window(ops.sin(x), 0, 3), 0.0, ((k, -k, 0), (0, 0, 0))))
            return after, (after if case == "stacked" else ())

        total, ys = scan(step, total, xs)
        return [total] if case != "stacked" else [total, ys]

    body = body_of(moved(f, draw(3, 10), draw(5, 10)))
    assert body.outputs[0].type.shape == (3, 10)
