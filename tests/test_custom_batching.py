"""custom_vmap and sequential_vmap: the rule, and what follows from it under the other transformations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import checkpoint, custom_jvp, custom_vjp, grad, hessian, jacfwd, jacrev, jit, jvp, lax, linearize, vmap
from tracegrad.custom_batching import custom_vmap, sequential_vmap
from tracegrad.errors import UnexpectedTracerError

pytestmark = pytest.mark.usefixtures("double_precision")

X = np.array([0.3, 1.1, -0.7])


def close(x: Any, y: Any) -> None:
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@custom_vmap
def sine(x: Any, scale: Any = 1.0) -> Any:
    """The rule is another function, so that it shows which of the two was used."""
    return jnp.sin(x) * scale


@sine.def_vmap
def _(axis_size: int, in_batched: list[bool], x: Any, scale: Any) -> Any:
    assert in_batched[0] is (x.ndim == 1) and in_batched[1] is (scale.ndim == 1)
    return jnp.cos(x) * scale, any(in_batched)


def test_the_rule_is_used_for_batches_only() -> None:
    close(sine(0.3), np.sin(0.3))
    close(jit(sine)(0.3, 2.0), 2.0 * np.sin(0.3))
    for f in (vmap(sine), jit(vmap(sine)), vmap(jit(sine)), vmap(checkpoint(sine)), vmap(lambda x: sine(scale=1.0, x=x))):
        close(f(X), np.cos(X))
    close(vmap(lambda x: vmap(sine)(x), 1, 1)(X[:, None]), np.cos(X)[:, None])
    close(vmap(sine)(X, X), np.cos(X) * X)
    close(vmap(sine, (None, 0))(0.3, X), np.cos(0.3) * X)
    close(vmap(vmap(lambda x: jnp.stack([x, sine(2.0)])))(X[None])[0, :, 1], np.full(3, np.sin(2.0)))


def test_the_rule_in_control_flow() -> None:
    twice = np.cos(np.cos(X))
    scanned = lambda x: lax.scan(lambda c, _: (sine(c), None), x, None, length=2)[0]  # noqa: E731
    looped = lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, sine(s[1])), (0, x))[1]  # noqa: E731
    branched = lambda x: lax.cond(x > 0.0, sine, lambda x, scale: x * scale, x, 1.0)  # noqa: E731
    for f, expected in ((scanned, twice), (looped, twice), (branched, np.where(X > 0, np.cos(X), X))):
        close(vmap(f)(X), expected)
        close(jit(vmap(f))(X), expected)
    close(grad(lambda x: vmap(scanned)(x).sum())(X), np.sin(np.cos(X)) * np.sin(X))
    close(jit(vmap(grad(scanned)))(X), np.sin(np.cos(X)) * np.sin(X))


def test_forward_mode_batches_tangents_by_the_rule() -> None:
    close(jvp(sine, (0.3,), (1.0,))[1], np.cos(0.3))
    each = lambda x, t: jvp(sine, (x,), (t,))  # noqa: E731
    for axes, x, t in (((0, 0), X, X), ((0, None), X, 2.0), ((None, 0), 0.3, X)):
        for f in (vmap(each, axes), jit(vmap(each, axes))):
            y, dy = f(x, t)
            close(y, np.cos(x) * np.ones(3))
            close(dy, -np.sin(x) * t)
    close(jvp(vmap(sine), (X,), (X,))[1], -np.sin(X) * X)
    close(jacfwd(vmap(sine))(X), np.diag(-np.sin(X)))
    close(vmap(jacfwd(jacfwd(sine)))(X), -np.cos(X))
    close(vmap(lambda x, s: jvp(sine, (x, s), (0.0, 1.0))[1])(X, X), np.cos(X))


def test_reverse_mode_batches_cotangents_by_the_rule() -> None:
    close(grad(sine)(0.3), np.cos(0.3))
    for f in (
        vmap(grad(sine)),
        jit(vmap(grad(sine))),
        vmap(jit(grad(sine))),
        vmap(grad(jit(sine))),
        vmap(grad(checkpoint(sine))),
        grad(lambda x: vmap(sine)(x).sum()),
        grad(lambda x: jit(vmap(sine))(x).sum()),
        lambda x: vmap(lambda x: linearize(sine, x)[1](1.0))(x),
    ):
        close(f(X), -np.sin(X))
    close(jacrev(vmap(sine))(X), np.diag(-np.sin(X)))
    for second in (grad(grad(sine)), jacfwd(grad(sine)), hessian(sine)):
        close(vmap(second)(X), -np.cos(X))
    close(grad(grad(sine))(0.3), -np.sin(0.3))
    # What all examples share gets the sum; what each example has gets its own.
    gx, gs = vmap(grad(sine, (0, 1)), (0, None))(X, 2.0)
    close(gx, -2.0 * np.sin(X))
    close(gs, np.cos(X))
    close(grad(lambda s: vmap(sine, (0, None))(X, s).sum())(2.0), np.cos(X).sum())
    close(grad(lambda s: vmap(lambda x: sine(x, s))(X).sum())(2.0), np.cos(X).sum())


def test_containers_integers_and_outputs_that_are_not_batched() -> None:
    @custom_vmap
    def f(p: Any, n: Any) -> Any:
        return {"y": p["a"] * p["b"], "n": n}, p["b"]

    @f.def_vmap
    def rule(axis_size: int, in_batched: Any, p: Any, n: Any) -> Any:
        assert axis_size == 3 and in_batched == [{"a": True, "b": False}, False]
        return ({"y": 10.0 * p["a"] * p["b"], "n": n}, p["b"]), ({"y": True, "n": False}, False)

    axes = ({"a": 0, "b": None}, None)
    out, b = vmap(f, axes, ({"y": 0, "n": None}, None))({"a": X, "b": 2.0}, 5)
    close(out["y"], 20.0 * X)
    assert int(out["n"]) == 5 and float(b) == 2.0
    assert vmap(f, axes)({"a": X, "b": 2.0}, 5)[1].tolist() == [2.0] * 3
    close(vmap(grad(lambda a: f({"a": a, "b": 2.0}, 5)[0]["y"]))(X), np.full(3, 20.0))
    assert rule.__name__ == "rule"


def test_custom_derivatives_beside_a_custom_batch() -> None:
    outer = custom_vjp(lambda x: sine(x))
    outer.defvjp(lambda x: (outer(x), x), lambda x, ct: (7.0 * ct,))
    close(vmap(outer)(X), np.cos(X))
    close(vmap(grad(outer))(X), np.full(3, 7.0))

    inner = custom_jvp(jnp.sin)
    inner.defjvp(lambda primals, tangents: (inner(*primals), 7.0 * tangents[0]))
    f = custom_vmap(inner)
    f.def_vmap(lambda axis_size, in_batched, x: (vmap(inner)(x), True))
    for g in (vmap(grad(f)), jit(vmap(grad(f))), vmap(jacfwd(f)), grad(lambda x: vmap(f)(x).sum())):
        close(g(X), np.full(3, 7.0))


def test_what_a_rule_closes_over() -> None:
    def scaled(w: Any) -> Any:
        f = custom_vmap(lambda x: x * w)
        f.def_vmap(lambda axis_size, in_batched, x: (10.0 * x * w, True))
        return f

    outer = lambda w, x: vmap(scaled(w))(x)  # noqa: E731
    close(outer(2.0, X), 20.0 * X)
    close(jit(outer)(2.0, X), 20.0 * X)
    close(jvp(outer, (2.0, X), (1.0, X))[1], 30.0 * X)
    close(grad(lambda w: outer(w, X).sum())(2.0), 10.0 * X.sum())
    close(jit(lambda w, x: vmap(grad(scaled(w)))(x))(2.0, X), np.full(3, 20.0))
    with pytest.raises(UnexpectedTracerError, match="closes over a value that is batched.*\n?.*Pass the value as an argument"):
        vmap(lambda w, x: scaled(w)(x))(X, X)


def test_sequential_vmap_calls_in_order() -> None:
    seen: list[tuple[float, float]] = []

    @sequential_vmap
    def f(x: Any, p: Any) -> Any:
        tracegrad.debug.callback(lambda x, y: seen.append((float(x), float(y))), x, p["y"])
        return jnp.sin(x) * p["y"]

    close(vmap(f, (0, None))(X, {"y": 2.0}), 2.0 * np.sin(X))
    assert seen == [(x, 2.0) for x in X]
    seen.clear()
    close(jit(vmap(vmap(f, (None, {"y": 0})), (0, None)))(X[:2], {"y": X[:2]}), np.outer(np.sin(X[:2]), X[:2]))
    assert seen == [(X[0], X[0]), (X[1], X[0]), (X[0], X[1]), (X[1], X[1])]
    assert f.__name__ == "f"


def test_sequential_vmap_is_differentiated_in_both_modes() -> None:
    f = sequential_vmap(lambda x: jnp.sin(x) * x)
    slope = np.cos(X) * X + np.sin(X)
    for g in (vmap(grad(f)), jit(vmap(grad(f))), grad(lambda x: vmap(f)(x).sum()), vmap(jacfwd(f))):
        close(g(X), slope)


def test_errors_name_the_rule_and_what_it_returned() -> None:
    f = custom_vmap(jnp.sin)
    with pytest.raises(AttributeError, match="No batching rule defined for custom_vmap function sin using def_vmap"):
        f(1.0)
    with pytest.raises(TypeError, match="expects a function"):
        custom_vmap(3)
    for rule, error, message in (
        (lambda n, b, x: ((x, x), True), ValueError, "structure of output value and output batching specification"),
        (lambda n, b, x: ((x, x), (True, True)), ValueError, "does not match that of original custom-vmapped function"),
        (lambda n, b, x: (x.sum(), True), ValueError, r"leading axis is not of size 3: its shape is \(\)"),
        (lambda n, b, x: (x[:, None], True), TypeError, r"for an output f64\[\] of the function, a batch of f64\[1\]"),
        (lambda n, b, x: x, TypeError, "must return a pair"),
    ):
        f.def_vmap(rule)
        with pytest.raises(error, match=message):
            vmap(f)(X)
