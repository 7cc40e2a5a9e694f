"""Memory at the loop level: what is written over what, what is copied, and how much room temporaries take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import check, loops
from tracegrad.ir import ops
from tracegrad.ir.config import config
from tracegrad.tracer.control_flow import cond, scan


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True):
        yield


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def running(x: Any) -> Any:
    """A value that is computed by loops of its own: it does not fuse with what reads it."""
    return ops.cumsum(x, 0, False)


def homes(text: str) -> dict[str, str]:
    """Where every temporary lies: an offset in the arena, or an output."""
    return dict(re.findall(r"alloc (\w+): .* (?:at|in) (\w+)$", text, re.M))


def arena(text: str) -> int:
    found = re.search(r"arena (\d+)", text)
    assert found is not None
    return int(found[1])


# ------------------------------------------------------------------------------------------------------- written over what dies


def test_a_chain_of_loops_needs_the_memory_of_its_result_only() -> None:
    def f(x: Any) -> Any:
        a = running(ops.sin(x))
        b = running(ops.add(ops.mul(a, 2.0), 1.0))
        return [ops.sqrt(ops.add(ops.square(running(b)), 1.0))]

    check(f, draw(300))
    text = loops(f, draw(300))
    assert arena(text) == 0 and set(homes(text).values()) == {"out0"}


def test_what_is_read_again_later_is_not_overwritten() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        b = running(ops.mul(a, 2.0))
        return [ops.sub(ops.reduce_sum(ops.mul(b, x), (0,)), ops.reduce_sum(ops.square(running(ops.add(b, a))), (0,)))]

    check(f, draw(300))
    places = homes(loops(f, draw(300)))
    assert places["t1"] != places["t2"]


def test_what_is_read_at_other_places_is_not_overwritten() -> None:
    def reversed_(x: Any) -> Any:
        return [ops.reduce_sum(ops.square(running(ops.rev(running(x), (0,)))), (0,))]

    def transposed(x: Any) -> Any:
        return [running(ops.transpose(running(x), (1, 0)))]

    def both(x: Any) -> Any:
        a = running(x)
        return [running(ops.sub(a, ops.rev(a, (0,))))]

    for f, x in ((reversed_, draw(300)), (transposed, draw(20, 20)), (both, draw(300))):
        check(f, x)
    places = homes(loops(reversed_, draw(300)))
    assert places["t1"] != places["t2"]
    for f, x in ((transposed, draw(20, 20)), (both, draw(300))):
        assert homes(loops(f, x)) == {"t1": "0"}  # not in the output


def test_only_one_value_is_written_over_another() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        return [running(ops.sin(a)), running(ops.cos(a))]

    check(f, draw(300))


def test_elements_of_another_size_are_not_written_over() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        return [running(ops.convert_element_type(a, np.dtype(np.float32), False))]

    check(f, draw(300))
    assert homes(loops(f, draw(300))) == {"t1": "0"}


def test_numbers_of_another_kind_and_the_same_size_are() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        return [running(ops.convert_element_type(ops.mul(a, 100.0), np.dtype(np.int64), False))]

    check(f, draw(300))
    assert homes(loops(f, draw(300))) == {"t1": "out0"}


def test_sorted_values_are_written_over_by_what_follows() -> None:
    def f(x: Any) -> Any:
        a = ops.sort(x)[0]
        b = ops.sort(ops.sub(ops.exp(a), x))[0]
        return [ops.reduce_sum(ops.mul(b, x), (0,))]

    check(f, draw(3000))
    text = loops(f, draw(3000))
    places = homes(text)
    assert places["t1"] == places["t3"]  # t2 is what sorting needs


def test_inside_of_a_loop_what_the_next_turn_reads_stays() -> None:
    def f(x: Any, xs: Any) -> Any:
        table = running(x)  # read in every turn

        def step(carry: Any, s: Any) -> Any:
            a = running(ops.add(ops.mul(table, s), carry))
            return running(ops.mul(a, 0.5)), ops.reduce_sum(a, (0,))

        final, sums = scan(step, x, xs)
        return [final, sums]

    check(f, draw(80), draw(7))


def test_in_branches() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        total = ops.reduce_sum(a, (0,))
        return [
            cond(
                ops.gt(total, 0.0),
                lambda a: running(ops.mul(a, 2.0)),
                lambda a: running(ops.add(ops.rev(a, (0,)), a)),
                a,
            )
        ]

    check(f, draw(80))
    check(f, -draw(80))


def test_in_tasks_that_run_at_once() -> None:
    def f(xs: Any) -> Any:
        def step(_: Any, x: Any) -> Any:
            a = running(ops.square(x))
            return (), running(ops.mul(running(ops.add(a, 1.0)), 0.5))

        return [scan(step, (), xs)[1]]

    xs = draw(400, 2000)
    check(f, xs)
    text = loops(f, xs)
    assert "parallel" in text and "out0" not in homes(text).values()
