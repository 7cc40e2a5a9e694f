"""Rolling repetitions back into loops: the meaning stays, and the programs become short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import grad, jit, make_ir, value_and_grad
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.program import Program
from tracegrad.ir.verify import verify
from tracegrad.transforms import roll
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.inline import inline_calls
from tracegrad.transforms.roll import roll_repetitions
from tracegrad.transforms.simplify import simplify


@pytest.fixture(autouse=True)
def small_programs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll, "SMALLEST", 40)


def prepared(f: Any, *args: Any) -> Program:
    return simplify(remove_dead_code(inline_calls(make_ir(f)(*args))))


def check(f: Any, *args: Any, at_most: int | None = None) -> Program:
    """Roll the program of `f`; it must mean the same, and be of at most so many equations."""
    straight = prepared(f, *args)
    rolled = verify(roll_repetitions(straight), "roll")
    arrays = [np.asarray(a, np.float32) for a in args]
    for a, b in zip(evaluate(straight, *arrays), evaluate(rolled, *arrays), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-6)
    if at_most is None:
        assert rolled is straight
    else:
        assert len(rolled.equations) <= at_most < len(straight.equations), rolled
    return rolled


X, A = np.float32(0.3), np.float32(0.7)
P = np.linspace(-1.0, 1.0, 60).astype(np.float32)
V = np.linspace(0.1, 0.5, 3).astype(np.float32)


def chain(x: Any, a: Any) -> Any:
    for _ in range(60):
        x = jnp.sin(x) * a + x * 0.5
    return x


def with_numbers(x: Any, a: Any) -> Any:
    for i in range(60):
        x = jnp.sin(x * (1.0 + 0.1 * i)) * a + i
    return x


def over_slices(p: Any, x: Any) -> Any:
    for i in range(60):
        x = x + jnp.tanh(p[i] * x) * p[(i + 7) % 60]
    return x.sum()


def with_constants(x: Any, a: Any) -> Any:
    tables = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    for table in tables:
        x = jnp.cos(x) * a + table
    return x


def all_results(x: Any, a: Any) -> Any:
    seen = []
    for _ in range(60):
        x = jnp.sin(x) * a + 1.0
        seen.append(x)
    return jnp.stack(seen), seen[3], seen[-1]


def two_carries(x: Any, a: Any) -> Any:
    y = x * 2.0
    for _ in range(60):
        x, y = y + 0.1 * jnp.sin(x), x - 0.1 * y * a
    return x, y


def nested(x: Any, a: Any) -> Any:
    for i in range(40):
        for _ in range(30):
            x = jnp.sin(x) * a
        x = x + jnp.exp(-x) * i
    return x


@pytest.mark.parametrize(
    "f, args, at_most",
    [
        (chain, (X, A), 8),
        (with_numbers, (X, A), 8),
        (over_slices, (P, V), 12),
        (with_constants, (V, A), 8),
        (all_results, (X, A), 200),
        (two_carries, (X, A), 12),
        (nested, (X, A), 12),
        (grad(chain, (0, 1)), (X, A), 40),
        (grad(with_numbers, (0, 1)), (X, A), 60),
        (grad(over_slices, (0, 1)), (P, V), 60),
        (value_and_grad(lambda x, a: with_constants(x, a).sum(), (0, 1)), (V, A), 60),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_repetitions_become_loops(f: Any, args: tuple[Any, ...], at_most: int) -> None:
    check(f, *args, at_most=at_most)
    for a, b in zip(tg.tree.leaves(jit(f)(*args)), tg.tree.leaves(f(*args)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_does_not_repeat_stays() -> None:
    def few(x: Any) -> Any:
        for _ in range(7):
            x = jnp.sin(x) * 1.5 + x
        return x

    def far(x: Any, a: Any) -> Any:
        # each step reads what the step before the last made
        history = [x, a]
        for _ in range(60):
            history.append(jnp.sin(history[-2]) * history[-3 if len(history) > 2 else -1] + 1.0)
        return history[-1]

    check(few, X)
    check(far, X, A)


def test_effects_stay_where_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    def f(x: Any) -> Any:
        for i in range(30):
            x = jnp.sin(x) + 0.5
            tg.debug.print("{}", i)
            x = x * 1.5
        return x

    jit(f)(X)
    assert capfd.readouterr().out.split() == [str(i) for i in range(30)]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_steps(data: Any) -> None:
    """Random bodies over a random number of carries, repeated, with numbers and slices that differ, and a different beginning and end."""
    width = data.draw(st.integers(1, 3))
    steps = data.draw(st.integers(8, 30))
    ops = data.draw(st.lists(st.tuples(st.sampled_from("sin add mul num slice keep".split()), st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=8))
    feed = data.draw(st.lists(st.integers(0, 20), min_size=width, max_size=width))
    lead = data.draw(st.integers(0, 4))

    def f(x: Any, p: Any) -> Any:
        state = [x * (k + 1.0) for k in range(width)]
        kept = []
        for _ in range(lead):
            state[0] = jnp.cos(state[0])
        for i in range(steps):
            values = list(state)
            for op, j, k in ops:
                a, b = values[j % len(values)], values[k % len(values)]
                if op == "sin":
                    values.append(jnp.sin(a))
                elif op == "add":
                    values.append(0.5 * (a + b))
                elif op == "mul":
                    values.append(jnp.tanh(a * b))
                elif op == "num":
                    values.append(a * (0.1 * i + 0.01 * j))
                elif op == "slice":
                    values.append(a * p[(i * (j + 1)) % 60])
                else:
                    kept.append(a)
            state = [jnp.cos(values[n % len(values)]) for n in feed]
        return sum(state) + sum(kept[::3], 0.0)

    for g in f, grad(f, (0, 1)):
        straight = prepared(g, X, P)
        rolled = verify(roll_repetitions(straight), "roll")
        for a, b in zip(evaluate(straight, X, P), evaluate(rolled, X, P), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
