"""A sum over a product becomes a product of sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import check, loops, rewritten
from tracegrad.codegen.product_sums import sum_before_products
from tracegrad.ir import ops
from tracegrad.ir.program import Program

BATCHED = (((2,), (1,)), ((0,), (0,)))

pytestmark = pytest.mark.usefixtures("double_precision")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def summed(f: Any, *args: np.ndarray) -> Program:
    """The program with sums before its products, which gives what it gave."""
    return rewritten(sum_before_products, f, *args)


def product_of(program: Program) -> Any:
    (product,) = [e for e in program.equations if e.primitive.name == "dot_general"]
    return product


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_sums_over_every_set_of_axes(axes: tuple[int, ...]) -> None:
    def f(a: Any, c: Any) -> Any:
        return [ops.reduce_sum(ops.neg(ops.mul(ops.dot_general(a, c, BATCHED), 3.0)), axes)]

    program = summed(f, draw(4, 30, 5), draw(4, 5, 20))
    product = product_of(program)
    assert product.outputs[0].type.shape == tuple(n for d, n in enumerate((4, 30, 20)) if d not in axes)
    assert (1 in axes) == (30 not in product.inputs[0].type.shape)
    assert (2 in axes) == (20 not in product.inputs[1].type.shape)


def test_operands_with_their_axes_in_any_order() -> None:
    def f(a: Any, c: Any) -> Any:
        product = ops.dot_general(a, c, (((1,), (0,)), ((3,), (2,))))
        return [ops.reduce_sum(product, (1, 3))]

    program = summed(f, draw(6, 5, 7, 4), draw(5, 8, 4))
    assert [a.type.shape for a in product_of(program).inputs] == [(5, 7, 4), (5, 4)]


def test_a_product_that_others_read_stays() -> None:
    def f(a: Any, c: Any) -> Any:
        product = ops.dot_general(a, c, BATCHED)
        return [ops.reduce_sum(product, (1,)), product]

    assert len(summed(f, draw(4, 30, 5), draw(4, 5, 20)).equations) == 2


def test_other_operations_between_and_whole_numbers_stay() -> None:
    def f(a: Any, c: Any, i: Any) -> Any:
        bent = ops.reduce_sum(ops.abs(ops.dot_general(a, c, BATCHED)), (1,))
        return [bent, ops.reduce_sum(ops.dot_general(i, i, BATCHED), (1,))]

    whole = np.arange(4 * 5 * 5, dtype=np.int32).reshape(4, 5, 5) % 7
    program = summed(f, draw(4, 30, 5), draw(4, 5, 20), whole)
    assert [e.outputs[0].type.shape for e in program.equations if e.primitive.name == "dot_general"] == [(4, 30, 20), (4, 5, 5)]


@pytest.mark.parametrize("n", [63, 64, 3000])
def test_a_large_product_of_few_terms_is_computed_where_it_is_read(n: int) -> None:
    """Three coordinates times many points, for every row of many matrices: read once, by a sum that keeps the points."""

    def f(a: Any, points: Any, weights: Any) -> Any:
        moved = ops.dot_general(a, points, (((2,), (0,)), ((), ())))
        weighted = ops.mul(moved, ops.broadcast_in_dim(weights, moved.shape, (0, 2)))
        return [ops.reduce_sum(weighted, (0,))]

    args = draw(40, 30, 3), draw(3, n), draw(40, n)
    check(f, *args)
    assert ("call " in loops(f, *args)) == (n == 63)


def test_few_terms_along_columns_go_to_a_routine() -> None:
    def f(a: Any, points: Any) -> Any:
        return [ops.exp(ops.dot_general(a, points, (((1,), (1,)), ((), ()))))]

    args = draw(300, 3), draw(400, 3)
    check(f, *args)
    assert "call " in loops(f, *args)
