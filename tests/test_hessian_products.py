"""Products with Hessians: right in every order of modes, and a small multiple of the gradient's work, counted in the optimized programs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from codegen_harness import check, loops, staged

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.codegen.compile import prepare
from tracegrad.ir import ops
from tracegrad.ir.program import Program
from tracegrad.tracer.control_flow import scan

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return (0.3 * RNG.normal(size=shape)).astype(np.float32)


def perceptron(p, x, y):
    (w1, b1), (w2, b2), (w3, b3) = p
    h = jnp.tanh(jnp.tanh(x @ w1 + b1) @ w2 + b2)
    return jnp.mean((h @ w3 + b3 - y) ** 2)


def lstm(p, xs, y):
    wx, wh, b, out = p

    def step(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(x @ wx + h @ wh + b, 4, -1)
        c = tg.nn.sigmoid(f) * c + tg.nn.sigmoid(i) * jnp.tanh(g)
        h = tg.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), None

    zeros = jnp.zeros((xs.shape[1], wh.shape[0]))
    (h, _), _ = lax.scan(step, (zeros, zeros), xs)
    return jnp.mean((h @ out - y) ** 2)


def logistic(w, x, y):
    z = x @ w
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z) + 1e-3 * jnp.sum(w**2)


MODELS: dict[str, tuple[Any, Any, Any]] = {
    "perceptron": (
        perceptron,
        [(normal(6, 16), normal(16)), (normal(16, 16), normal(16)), (normal(16, 3), normal(3))],
        (normal(20, 6), normal(20, 3)),
    ),
    "lstm": (lstm, (normal(5, 32), normal(8, 32), normal(32), normal(8, 1)), (normal(9, 4, 5), normal(4, 1))),
    "logistic": (logistic, normal(7), (normal(50, 7), np.float32(RNG.random(50) > 0.5))),
}


def dot(a: Any, b: Any) -> Any:
    return tg.tree.reduce(jnp.add, tg.tree.map(lambda x, y: jnp.sum(x * y), a, b))


ORDERS = {
    "forward over reverse": lambda f: lambda p, v: tg.jvp(tg.grad(f), (p,), (v,))[1],
    "reverse over forward": lambda f: lambda p, v: tg.grad(lambda p: tg.jvp(f, (p,), (v,))[1])(p),
    "reverse over reverse": lambda f: lambda p, v: tg.grad(lambda p: dot(tg.grad(f)(p), v))(p),
    "linearized gradient": lambda f: lambda p, v: tg.linearize(tg.grad(f), p)[1](v),
}


def case(name: str) -> tuple[Any, Any, Any]:
    model, p, data = MODELS[name]
    rng = np.random.default_rng(1)
    return lambda p: model(p, *data), p, tg.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), p)


def flops(f: Any, *args: Any) -> float:
    return tg.jit(f).lower(*args).cost_analysis()["flops"]


def products(program: Program) -> int:
    """How many matrix products one run makes."""
    return sum(
        (e.primitive.name == "dot_general")
        + (e.params["length"] if e.primitive.name == "scan" else 1) * sum(products(r) for _, r in e.regions())
        for e in program.equations
    )


@pytest.mark.parametrize("name", MODELS)
def test_products_with_a_hessian_equal_differences_of_gradients(name: str) -> None:
    f, p, v = case(name)
    gradient = tg.jit(tg.grad(f))
    moved = [tg.tree.map(lambda x, y, s=s: x + s * 1e-2 * y, p, v) for s in (1, -1)]
    numeric = tg.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / 2e-2, *map(gradient, moved))
    first = tg.jit(ORDERS["forward over reverse"](f))(p, v)
    tg.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-2, atol=3e-3), first, numeric)
    for order in ("reverse over forward", "reverse over reverse", "linearized gradient"):
        found = ORDERS[order](f)(p, v)
        tg.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, first)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", MODELS)
def test_a_product_with_a_hessian_takes_a_small_multiple_of_the_gradient(name: str, order: str) -> None:
    f, p, v = case(name)
    product = ORDERS[order](f)
    assert flops(product, p, v) <= 3.3 * flops(tg.grad(f), p)
    # A product of matrices x y has the tangent x' y + x y'; transposing it twice and both of those makes at most three of one.
    optimized, gradient = (tg.jit(g).lower(*a).optimized for g, a in ((product, (p, v)), (tg.grad(f), (p,))))
    assert products(optimized) <= 3.2 * products(gradient)


# What the code generator makes of them


def product(a: Any, b: Any) -> Any:
    return ops.dot_general(a, b, (((0,), (0,)), ((), ())))


def test_several_products_that_a_scan_sums_are_taken_after_it() -> None:
    def f(w, v, xs, ys, zs):
        def step(c, s):
            x, y, z = s
            a, b, c0, c1 = ops.sin(y), ops.cos(y), *c
            # Alone the first sum is not worth stacking `a` for, which is larger than it; but the second does.
            c0 = ops.add(c0, product(x, a))
            c1 = ops.add(ops.add(product(z, a), ops.add(product(z, b), c1)), product(z, y))
            return (c0, c1), None

        return list(scan(step, (w, v), (xs, ys, zs))[0])

    args = normal(4, 8), normal(30, 8), normal(6, 20, 4), normal(6, 20, 8), normal(6, 20, 30)
    (loop,) = [e for e in prepare(staged(f, *args)).equations if e.primitive.name == "scan"]
    assert loop.params["num_carry"] == 0
    assert not any(e.primitive.name == "dot_general" for e in loop.params["body"].equations)
    check(f, *args, tolerance=1e-5)

    def alone(w, xs, ys):
        return [scan(lambda c, s: (ops.add(c, product(s[0], ops.sin(s[1]))), None), w, (xs, ys))[0]]

    (loop,) = [e for e in prepare(staged(alone, args[0], *args[2:4])).equations if e.primitive.name == "scan"]
    assert loop.params["num_carry"] == 1
    check(alone, args[0], *args[2:4], tolerance=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_a_product_reads_from_memory_is_not_computed_once_more_for_a_sum(reverse: bool) -> None:
    # As in a backward loop over time: a large value that is summed, multiplied and given out.
    def f(w, h, total, xs):
        def step(c, x):
            h, total = c
            z = ops.tanh(ops.add(x, h))
            total = ops.add(total, ops.reduce_sum(z, (0,)))
            return (ops.dot_general(z, w, (((1,), (0,)), ((), ()))), total), z

        (h, total), zs = scan(step, (h, total), xs, reverse=reverse)
        return [h, total, zs]

    args = normal(40, 40), normal(24, 40), normal(40), normal(5, 24, 40)
    body = loops(f, *args).partition("for %t")[2]
    assert body.count("tanh") == 1
    before, *_ = re.split("sgemm|tg_product", body)
    assert "copy" not in before  # it is written where it is given out
    check(f, *args, tolerance=1e-5)
