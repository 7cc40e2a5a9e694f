"""Loops of unknown length inside of each other and of scans, differentiated and batched in turn: tapes of tapes, and of examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.verify import verify
from tracegrad.tracer.abstract import make_ir

pytestmark = pytest.mark.usefixtures("double_precision")

X = 1.3
Step = Callable[[Any, Any], Any]  # from a carry and the argument to the next carry


def wave(c: Any, x: Any) -> Any:
    return jnp.sin(c * x)


def while_of(step: Step) -> Step:
    """As many steps as the argument says."""

    def loop(c: Any, x: Any) -> Any:
        n = jnp.floor(x).astype(np.int32) + 2
        body = lambda s: (s[0] + 1, 0.5 * s[1] + step(s[1], x))  # noqa: E731
        return lax.while_loop(lambda s: s[0] < n, body, (jnp.int32(0), c))[1]

    return loop


def scan_of(step: Step) -> Step:
    return lambda c, x: lax.scan(lambda c, t: (0.5 * c + step(c, x * t), None), c, jnp.array([1.0, 0.5]))[0]


def scan_over(step: Step) -> Step:
    return lambda c, x: lax.scan(lambda c, t: (0.5 * c + step(t, x), None), c, jnp.stack([x, 0.5 * x]))[0]


NESTS = {
    "while of scan of while": while_of(scan_of(while_of(wave))),
    "while of scan over while": while_of(scan_over(while_of(wave))),
    "while of while of while": while_of(while_of(while_of(wave))),
    "scan of scan of while": scan_of(scan_of(while_of(wave))),
    "scan of while": scan_of(while_of(wave)),
    "scan over while of while": scan_over(while_of(while_of(wave))),
}

WAYS: dict[str, Callable[[Any], Any]] = {
    "grad": tg.grad,
    "jvp": lambda f: lambda x: tg.jvp(f, (x,), (jnp.ones_like(x),))[1],
    "jacfwd": tg.jacfwd,
    "jacrev": tg.jacrev,
    "vmap": lambda f: lambda x: tg.vmap(f)(jnp.stack([x, x + 1]))[0],
}
ORDERS = [
    "grad grad",
    "grad vmap grad",
    "grad vmap vmap grad",
    "jvp vmap grad vmap",
    "vmap jacrev vmap grad",
    "grad jacfwd jacrev",
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("nest", NESTS)
def test_derivatives_agree_with_those_of_forward_mode(nest: str, order: str) -> None:
    def f(x: Any) -> Any:
        return NESTS[nest](x, x)

    g, wanted = f, f
    for way in reversed(order.split()):
        g = WAYS[way](g)
        wanted = wanted if way == "vmap" else WAYS["jvp"](wanted)
    want = float(wanted(X))
    program = verify(make_ir(g)(X))
    np.testing.assert_allclose(evaluate(program, np.float64(X))[0], want, rtol=1e-9)
    if "vmap vmap" in order or "jacfwd" in order:
        np.testing.assert_allclose(tg.jit(g)(X), want, rtol=1e-9)


def test_a_loop_that_records_is_split_by_what_is_known() -> None:
    """A custom_jvp rule that linearizes a loop: the loop that records carries what is known beside what is not."""

    def f(x: Any) -> Any:
        return lax.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, jnp.sin(s[1]) * x), (0, x))[1]

    def tangent(x: Any) -> Any:
        return tg.linearize(f, x)[1](x)

    own = tg.custom_jvp(tangent)
    own.defjvp(lambda primals, tangents: tg.jvp(tangent, primals, tangents))
    want = float(WAYS["jvp"](tangent)(0.7))
    for g in (tg.grad(own), tg.jit(tg.grad(own)), tg.grad(tg.jit(own)), tg.jacfwd(own)):
        np.testing.assert_allclose(g(0.7), want, rtol=1e-12)
