"""What a loop over rows keeps for others is computed once, and nothing is written to memory that only repeats what is there."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from codegen_harness import check, loops

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax

RNG = np.random.default_rng(11)
SHAPE = (16, 80, 72)


def softmax(x: Any) -> Any:
    e = jnp.exp(x - lax.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def attention(x: Any, v: Any, w: Any) -> Any:
    """The product with w, of all rows at once, stands between the loops of values and of gradients."""
    return tg.grad(lambda x, v, w: ((softmax(x) @ v @ w) ** 2).sum(), (0, 1, 2))(x, v, w)


def large(text: str) -> list[str]:
    """The temporaries of as many elements as the scores have."""
    size = np.prod(SHAPE)
    return [m for m in re.findall(r"alloc (t\d+): float32\[(\d+)\]", text) if int(m[1]) == size]


def test_exponentials_that_gradients_need_are_computed_once() -> None:
    args = [RNG.normal(size=s).astype("f") for s in (SHAPE, (16, 72, 24), (24, 32))]
    f = lambda *args: list(attention(*args))
    check(f, *args, tolerance=2e-5)
    text = loops(f, *args)
    assert text.count(" = exp ") == 1
    # the exponentials and their quotients, but not the sums repeated along rows
    assert len(large(text)) == 2


def test_masks_are_read_where_they_are_by_several_loops() -> None:
    x, w = RNG.normal(size=SHAPE).astype("f"), RNG.normal(size=(72, 72)).astype("f") * 0.2

    def loss(x: Any, w: Any) -> Any:
        mask = jnp.tril(jnp.ones(SHAPE[1:], bool))
        layer = lambda x: softmax(jnp.where(mask, x @ w, -1e30))
        return (layer(layer(x)) ** 2).sum()

    f = lambda *args: list(tg.grad(loss, (0, 1))(*args))
    check(f, x, w, tolerance=2e-5)
    assert f"bool[{np.prod(SHAPE)}]" not in loops(f, x, w)


def test_an_operand_joins_the_nest_of_what_it_is_computed_of() -> None:
    x, w = RNG.normal(size=(200, 96)).astype("f"), RNG.normal(size=(96, 40)).astype("f")

    def f(x: Any, w: Any) -> Any:
        t = jnp.tanh(x)
        y = (0.5 * x * (1.0 + t)) @ w
        return [y, t + y.sum()]

    check(f, x, w, tolerance=2e-5)
    text = loops(f, x, w)
    first = text[: text.index("call ")]
    assert text.count(" = tanh ") == first.count(" = tanh ") == 1
    assert first.count("for %") == 1
