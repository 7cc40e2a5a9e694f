"""Transpositions move behind what is computed of them; values stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import check, loops, rewritten, staged
from tracegrad.codegen.compile import prepare
from tracegrad.codegen.layouts import transpose_late
from tracegrad.ir import ops
from tracegrad.ir.program import Program
from tracegrad.tracer.control_flow import scan

pytestmark = pytest.mark.usefixtures("double_precision")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def moved(f: Any, *args: np.ndarray) -> Program:
    """The program with its transpositions late, which gives what it gave."""
    return rewritten(transpose_late, f, *args)


def names(program: Program) -> list[str]:
    return [e.primitive.name for e in program.equations]


def test_elementwise_operations_and_reductions_are_done_in_memory_order() -> None:
    def f(x: Any) -> Any:
        y = ops.transpose(x, (2, 0, 1))
        z = ops.sub(ops.mul(y, y), ops.exp(y))
        return [ops.reduce_sum(z, (2,)), ops.reduce_max(z, (0,)), ops.reduce_sum(z, (0, 1, 2))]

    program = moved(f, draw(5, 30, 7))
    assert names(program).count("transpose") == 1  # of the first result
    (last,) = [e for e in program.equations if e.primitive.name == "transpose"]
    assert last.inputs[0].type.shape == (5, 7)


def test_a_broadcast_beside_a_transposition_is_made_in_its_order() -> None:
    def f(x: Any, row: Any, matrix: Any) -> Any:
        y = ops.transpose(x, (1, 2, 0))
        y = ops.add(y, ops.broadcast_in_dim(row, y.shape, (1,)))
        y = ops.mul(y, ops.broadcast_in_dim(matrix, y.shape, (0, 2)))
        return [ops.reduce_sum(y, (1,))]

    program = moved(f, draw(20, 9, 31), draw(31), draw(9, 20))
    assert all(e.inputs[0].type.size <= 180 for e in program.equations if e.primitive.name == "transpose")


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("others", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_products_take_the_axes_of_their_operands_as_they_lie(axes: Any, others: Any) -> None:
    a, c = draw(*np.array([6, 8, 9])[np.argsort(axes)]), draw(*np.array([6, 8, 11])[np.argsort(others)])

    def f(a: Any, c: Any) -> Any:
        x, y = ops.transpose(a, axes), ops.transpose(c, others)
        batched = ops.dot_general(ops.mul(x, 2.0), y, (((1,), (1,)), ((0,), (0,))))
        two_free = ops.dot_general(x, y, (((1,), (1,)), ((), ())))
        return [batched, two_free]

    assert "transpose" not in names(moved(f, a, c))[:3]


def test_inverses_meet() -> None:
    def f(x: Any) -> Any:
        y = ops.tanh(ops.transpose(x, (1, 0)))
        return [ops.transpose(ops.mul(y, 3.0), (1, 0)), ops.select(ops.lt(y, 0.0), y, ops.neg(y))]

    program = moved(f, draw(40, 30))
    assert names(program).count("transpose") == 1


def test_operands_of_two_minds_stay() -> None:
    def f(x: Any, y: Any) -> Any:
        return [ops.add(ops.transpose(x, (1, 0)), y), ops.mul(ops.transpose(x, (1, 0)), x)]

    before = staged(f, draw(30, 30), draw(30, 30))
    assert names(transpose_late(before)).count("transpose") == names(before).count("transpose")


def test_inside_loops() -> None:
    def f(x: Any, xs: Any) -> Any:
        def step(c: Any, s: Any) -> Any:
            t = ops.transpose(ops.add(c, s), (1, 0))
            return ops.transpose(ops.sin(t), (1, 0)), ops.reduce_sum(t, (0,))

        return list(scan(step, x, xs))

    program = moved(f, draw(20, 30), draw(3, 20, 30))
    (loop,) = program.equations
    assert "transpose" not in names(loop.params["body"])


def test_an_operand_made_of_broadcasts_is_made_batch_by_batch() -> None:
    def f(q: Any, x: Any, means: Any) -> Any:
        shape = (x.shape[0], *means.shape)
        centred = ops.sub(ops.broadcast_in_dim(x, shape, (0, 2)), ops.broadcast_in_dim(means, shape, (1, 2)))
        scaled = ops.dot_general(q, centred, (((2,), (2,)), ((0,), (1,))))
        return [ops.reduce_sum(ops.mul(scaled, scaled), (1,))]

    program = moved(f, draw(4, 3, 3), draw(50, 3), draw(4, 3))
    (product,) = [e for e in program.equations if e.primitive.name == "dot_general"]
    assert product.inputs[1].type.shape == (4, 3, 50)
    assert product.params["dimension_numbers"] == (((2,), (1,)), ((0,), (0,)))


def test_what_is_read_again_and_again_with_a_stride_is_put_in_order_once() -> None:
    def f(x: Any, means: Any) -> Any:
        turned = ops.transpose(x, (1, 0))
        shape = (means.shape[0], *turned.shape)
        return [ops.sub(ops.broadcast_in_dim(turned, shape, (1, 2)), ops.broadcast_in_dim(means, shape, (0, 1)))]

    args = draw(400, 3), draw(5, 3)
    check(f, *args)
    text = loops(f, *args)
    assert len([line for line in text.splitlines() if "load in0[" in line]) == 1
    assert "3*%" not in text.split("for")[-1]


def test_products_whose_operands_need_not_be_in_memory_at_once_are_done_row_by_row() -> None:
    def f(q: Any, x: Any, means: Any) -> Any:
        shape = (x.shape[0], *means.shape)
        centred = ops.sub(ops.broadcast_in_dim(x, shape, (0, 2)), ops.broadcast_in_dim(means, shape, (1, 2)))
        scaled = ops.dot_general(q, centred, (((2,), (2,)), ((0,), (1,))))
        return [ops.reduce_sum(ops.mul(scaled, scaled), (1,))]

    args = draw(40, 12, 12), draw(500, 12), draw(40, 12)
    check(f, *args)
    (loop,) = [e for e in prepare(staged(f, *args)).equations if e.primitive.name == "scan"]
    assert loop.params["length"] == 40
    assert [e.primitive.name for e in loop.params["body"].equations][-3:] == ["dot_general", "mul", "reduce_sum"]


def test_products_with_a_batch_in_another_place_stay_out_of_loops_over_rows() -> None:
    def f(q: Any, x: Any) -> Any:
        product = ops.dot_general(q, x, (((1,), (2,)), ((2,), (0,))))  # f64[40,30,60], the rows of q being columns
        return [ops.reduce_sum(ops.exp(product), (2,))]

    args = draw(30, 5, 40), draw(40, 60, 5)
    check(f, *args)
    assert [e.primitive.name for e in prepare(staged(f, *args)).equations][0] == "dot_general"
