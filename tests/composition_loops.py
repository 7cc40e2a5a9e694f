"""Control flow as operators on functions from R^2 to R^2, beside the transforms of `compositions.py`: constructs that apply their function."""

from __future__ import annotations

from typing import Any

import numpy as np
from composition_functions import STEP
from compositions import Function, as_tree, combined, from_tree, of_points, pair_of, variant, weighted_pair

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax


def first(x: Any) -> Any:
    return x[0].real


@variant("cond", of_points(lambda f, x: f(x) if x[0].real > 0.75 else 0.5 * f(x) + x))
def cond(f: Function) -> Function:
    return lambda x: lax.cond(first(x) > 0.75, f, lambda y: 0.5 * f(y) + y, x)


@variant("cond", of_points(lambda f, x: f(x) * x if x[0].real < 1.75 else x))
def cond_of_closures(f: Function) -> Function:
    return lambda x: from_tree(lax.cond(first(x) < 1.75, lambda: as_tree(f(x) * x), lambda: as_tree(x)))


@variant("switch", of_points(lambda f, x: (f, lambda y: -f(y), lambda y: y * f(y))[min(int(x[0].real), 2)](x)))
def switch(f: Function) -> Function:
    choices = [f, lambda y: -f(y), lambda y: y * f(y)]
    return lambda x: lax.switch(jnp.floor(first(x)).astype(np.int32), choices, x)


def _while_in_python(f: Function, x: np.ndarray) -> np.ndarray:
    total = np.zeros_like(x)
    while x[0].real < 2.75:
        x, total = x + STEP, 0.5 * total + f(x)
    return total + x


@variant("while_loop", of_points(_while_in_python))
def while_loop(f: Function) -> Function:
    """As many steps as the argument needs, which differs between the examples of a batch."""

    def loop(x: Any) -> Any:
        x, total = lax.while_loop(
            lambda s: first(s[0]) < 2.75, lambda s: (s[0] + STEP, 0.5 * s[1] + f(s[0])), (x, jnp.zeros_like(x))
        )
        return total + x

    return loop


@variant("while_loop", of_points(lambda f, x: 0.25 * x + 1.5 * f(x)))
def while_loop_counting(f: Function) -> Function:
    """A carry of several types beside a captured value, and a fixed number of steps."""

    def loop(x: Any) -> Any:
        state = {"n": 0, "more": True, "y": as_tree(x)}

        def body(s: Any) -> Any:
            return {"n": s["n"] + 1, "more": s["n"] < 1, "y": as_tree(0.5 * from_tree(s["y"]) + f(x))}

        return from_tree(lax.while_loop(lambda s: s["more"], body, state)["y"])

    return loop


def _count_in_python(f: Function, x: np.ndarray, n: int) -> np.ndarray:
    total = np.zeros_like(x)
    for i in range(n):
        total = 0.5 * total + f(x + i * STEP) * (i + 1)
    return total


def _counting(f: Function, lower: Any, upper: Any, x: Any) -> Any:
    return lax.fori_loop(lower, upper, lambda i, s: (s[0] + STEP, 0.5 * s[1] + f(s[0]) * (i + 1)), (x, jnp.zeros_like(x)))[1]


@variant("fori_loop", of_points(lambda f, x: _count_in_python(f, x, 2)))
def fori_loop(f: Function) -> Function:
    return lambda x: _counting(f, 0, 2, x)


@variant("fori_loop", of_points(lambda f, x: _count_in_python(f, x, 1 + int(x[0].real) % 2)))
def fori_loop_of_traced_length(f: Function) -> Function:
    return lambda x: _counting(f, 0, 1 + jnp.floor(first(x)).astype(np.int32) % 2, x)


def _scan_in_python(f: Function, x: np.ndarray) -> np.ndarray:
    c, y, total = x, np.zeros_like(x), np.zeros_like(x)
    for t in (1.0, -0.5):
        y = 0.5 * y + f(c) * t
        total = total + y * c
        c = c + STEP
    return y + total


@variant("scan", of_points(_scan_in_python))
def scan(f: Function) -> Function:
    """The function of the carry, in a loop with stacked results."""

    def loop(x: Any) -> Any:
        def step(s: Any, t: Any) -> Any:
            c, y = s
            y = 0.5 * y + f(c) * t
            return (c + STEP, y), y * c

        (_, y), ys = lax.scan(step, (x, jnp.zeros_like(x)), jnp.array([1.0, -0.5]))
        return y + ys.sum(0)

    return loop


def _backwards_in_python(f: Function, x: np.ndarray) -> np.ndarray:
    c, total = x, np.zeros_like(x)
    for y in (f(x + STEP), f(x)):
        total = total + c * y
        c = c + 0.5 * y * x
    return c + total


@variant("scan", of_points(_backwards_in_python))
def scan_of_inputs(f: Function) -> Function:
    """The function of scanned values, backwards, beside a constant."""

    def loop(x: Any) -> Any:
        def step(c: Any, t: Any) -> Any:
            y = f(from_tree(t))
            return c + 0.5 * y * x, {"y": c * y}

        c, ys = lax.scan(step, x, tg.vmap(as_tree)(pair_of(x)), reverse=True)
        return c + ys["y"].sum(0)

    return loop


@variant("associative_scan", of_points(lambda f, x: 6 * x + 3 * f(x)))
def associative_scan(f: Function) -> Function:
    """Sums of three terms, the function of a captured value added at every meeting."""

    def prefixes(x: Any) -> Any:
        return lax.associative_scan(lambda p, q: p + q + f(x), jnp.stack([x, x, x])).sum(0)

    return prefixes


def _affine_in_python(f: Function, x: np.ndarray) -> np.ndarray:
    (a, b), (c, d) = f(x), f(x + STEP)
    # First the second map, then the first one: a * (c * t + d) + b.
    return np.array([c * a + d, d * a + b]) + x


@variant("associative_scan", of_points(_affine_in_python))
def associative_scan_of_pairs(f: Function) -> Function:
    """Compositions of affine maps whose coefficients are the function's values, from the last to the first, along the last axis."""

    def prefixes(x: Any) -> Any:
        rows = tg.vmap(f)(pair_of(x)).T
        scale, shift = lax.associative_scan(
            lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), (rows[0], rows[1]), axis=-1, reverse=True
        )
        return jnp.stack([scale[0] + shift[1], shift[0]]) + x

    return prefixes


@variant("map", weighted_pair)
def map(f: Function) -> Function:
    return lambda x: combined(lax.map(f, pair_of(x)))


@variant("map", of_points(lambda f, x: f(x) * x - 0.5 * f(x + STEP) * x + f(x + 2 * STEP) * x))
def map_in_batches(f: Function) -> Function:
    def mapped(x: Any) -> Any:
        trees = tg.vmap(as_tree)(jnp.stack([x, x + STEP, x + 2 * STEP]))
        rows = tg.vmap(from_tree)(lax.map(lambda t: as_tree(f(from_tree(t)) * x), trees, batch_size=2))
        return combined(rows) + rows[2]

    return mapped
