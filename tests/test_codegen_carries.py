"""What a loop carries is written in place only where nothing is still to read the old value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import check, loops, staged
from tracegrad.codegen import nests
from tracegrad.codegen.compile import compile_program
from tracegrad.ir import ops
from tracegrad.ir.config import config
from tracegrad.tracer.control_flow import scan


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True):
        yield


def cells(layers: int) -> Any:
    """Layers of gates on one vector each: every carry is read by all that come after it, and its own next value by them too."""

    def step(carry: Any, x: Any) -> Any:
        after = []
        for h, c in carry:
            c = ops.add(ops.mul(c, ops.logistic(x)), ops.mul(ops.logistic(ops.mul(h, 0.5)), ops.tanh(ops.sub(h, x))))
            x = ops.mul(ops.logistic(ops.add(x, 1.0)), ops.tanh(c))
            after.append((x, c))
        return tuple(after), ops.mul(x, 3.0)

    def f(states: Any, xs: Any) -> Any:
        state, ys = scan(step, tuple((states_of(states, k, 0), states_of(states, k, 1)) for k in range(layers)), xs)
        return [*(leaf for pair in state for leaf in pair), ys]

    def states_of(states: Any, k: int, which: int) -> Any:
        n = states.shape[-1]
        return ops.reshape(ops.slice(states, (k, which, 0), (k + 1, which + 1, n), (1, 1, 1)), (n,))

    return f


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.parametrize("layers", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [4, 14])
def test_carries_of_a_body_too_costly_for_one_nest(layers: int, n: int) -> None:
    check(cells(layers), draw(layers, 2, n), draw(6, n))


@pytest.mark.parametrize("most", [0, 60, 150])
def test_a_nest_that_is_cut_keeps_the_old_carry_for_the_next(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nests, "MOST_COST", most)
    check(cells(2), draw(2, 2, 14), draw(6, 14))


def test_layers_that_share_their_work_are_one_nest() -> None:
    text = loops(cells(2), draw(2, 2, 14), draw(6, 14))
    assert text.count("= tanh ") == 4
    assert text.count("fdiv") + text.count("logistic") <= 6


def test_one_costly_value_may_be_a_carry_twice_and_an_output() -> None:
    def f(x: Any, xs: Any) -> Any:
        def step(carry: Any, s: Any) -> Any:
            a, b = carry
            for _ in range(8):
                a = ops.sin(ops.add(ops.mul(a, b), ops.exp(ops.neg(ops.mul(a, s)))))
            return (a, a), a

        (a, b), ys = scan(step, (x, ops.mul(x, 0.5)), xs)
        return [a, b, ys]

    check(f, draw(14), draw(5, 14))


def test_many_layers_are_one_nest_whose_iterations_are_known_to_be_independent() -> None:
    args = draw(8, 2, 14), draw(6, 14)
    check(cells(8), *args)
    texts = compile_program(staged(cells(8), *args), keep_text=True).texts
    assert texts["loops"].count("= tanh ") == 16
    assert "llvm.loop.parallel_accesses" in texts["llvm"]
    assert " x double> " in texts["optimized"]


def test_iterations_that_read_what_others_write_are_not_called_independent() -> None:
    def f(x: Any, xs: Any) -> Any:
        def step(c: Any, s: Any) -> Any:
            return ops.add(ops.concatenate([ops.slice(c, (1,), (14,), (1,)), ops.slice(c, (0,), (1,), (1,))], 0), s), ()

        return [scan(step, x, xs)[0]]

    check(f, draw(14), draw(6, 14))
