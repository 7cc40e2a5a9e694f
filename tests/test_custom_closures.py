"""Custom rules, and functions passed to them, that close over traced values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import checkpoint, custom_jvp, custom_vjp, grad, jit, jvp, lax, vmap
from tracegrad.errors import UnexpectedTracerError
from tracegrad.transforms.closures import lift

pytestmark = pytest.mark.usefixtures("double_precision")


def by_jvp(w: Any) -> Callable[[Any], Any]:
    @custom_jvp
    def f(x: Any) -> Any:
        return x * w

    f.defjvp(lambda primals, tangents: (f(*primals), 5.0 * w * tangents[0]))
    return f


def by_vjp(w: Any) -> Callable[[Any], Any]:
    @custom_vjp
    def f(x: Any) -> Any:
        return x * w

    f.defvjp(lambda x: (f(x), None), lambda _, ct: (5.0 * w * ct,))
    return f


def by_defaults(w: Any) -> Callable[[Any], Any]:
    def rule(primals: Any, tangents: Any, w: Any = w) -> Any:
        return f(*primals), 5.0 * w * tangents[0]

    f = custom_jvp(functools.partial(lambda w, x: x * w["w"][0], {"w": [w]}))
    f.defjvp(rule)
    return f


class Scale:
    """A container, so that a bound method of it holds what it holds."""

    def __init__(self, w: Any):
        self.w = w

    def rule(self, primals: Any, tangents: Any) -> Any:
        return primals[0] * self.w, 5.0 * self.w * tangents[0]


tracegrad.tree_util.register_pytree_node(Scale, lambda s: ((s.w,), None), lambda _, children: Scale(*children))


def by_method(w: Any) -> Callable[[Any], Any]:
    f = custom_jvp(lambda x: x * w)
    f.defjvp(Scale(w).rule)
    return f


def by_jit(w: Any) -> Callable[[Any], Any]:
    scale = jit(lambda x: x * w)
    f = custom_jvp(scale)
    f.defjvp(lambda primals, tangents: (f(*primals), 5.0 * scale(tangents[0])))
    return f


ALL = pytest.mark.parametrize("make", [by_jvp, by_vjp, by_defaults, by_method, by_jit])


@ALL
def test_values_of_an_outer_trace_in_every_construct(make: Any) -> None:
    def scanned(w: Any, x: Any) -> Any:
        return lax.scan(lambda c, _: (make(w)(c), None), x, None, length=2)[0]

    def shared(w: Any, x: Any) -> Any:
        f = make(w)
        return lax.scan(lambda c, _: (f(c), None), x, None, length=2)[0]

    def branched(w: Any, x: Any) -> Any:
        return lax.cond(x > 0, make(w), lambda x: x, x)

    for f, value, slope in (
        (lambda w, x: make(w)(x), 6.0, 10.0),
        (scanned, 12.0, 100.0),
        (shared, 12.0, 100.0),
        (branched, 6.0, 10.0),
        (lambda w, x: jit(make(w))(x), 6.0, 10.0),
        (lambda w, x: checkpoint(make(w))(x), 6.0, 10.0),
        (lambda w, x: vmap(make(w))(x[None])[0], 6.0, 10.0),
        (
            lambda w, x: make(w)(make(1.0)(x)) if make is not by_method else make(w)(x),
            6.0,
            50.0 if make is not by_method else 10.0,
        ),
    ):
        assert float(jit(f)(2.0, 3.0)) == value
        x = jnp.asarray(3.0)
        assert float(grad(f, 1)(2.0, x)) == slope
        assert float(jit(grad(f, 1))(2.0, x)) == slope
        assert float(jit(lambda w, x, f=f: grad(lambda x: f(w, x))(x))(2.0, x)) == slope


@ALL
def test_batched_values(make: Any) -> None:
    ws, xs = jnp.asarray([2.0, 3.0]), jnp.asarray([1.0, 10.0])
    apply = lambda w, x: make(w)(x)  # noqa: E731
    for wrap in (lambda f: f, jit):
        np.testing.assert_allclose(wrap(vmap(apply))(ws, xs), [2.0, 30.0])
        np.testing.assert_allclose(wrap(vmap(apply, (0, None)))(ws, 2.0), [4.0, 6.0])
        np.testing.assert_allclose(wrap(vmap(grad(apply, 1)))(ws, xs), [10.0, 15.0])
        np.testing.assert_allclose(wrap(grad(lambda x: vmap(apply)(ws, x).sum()))(xs), [10.0, 15.0])
        np.testing.assert_allclose(wrap(grad(lambda x: vmap(lambda w: make(w)(x))(ws).sum()))(2.0), 25.0)


def test_values_made_inside_a_loop_body() -> None:
    def f(x: Any) -> Any:
        return lax.scan(lambda c, t: (by_jvp(t + 0.0)(c), None), x, jnp.arange(1.0, 3.0))[0]

    assert float(grad(f)(3.0)) == 50.0
    assert float(jit(tracegrad.jacfwd(f))(3.0)) == 50.0


@ALL
def test_differentiating_what_is_closed_over_is_an_error(make: Any) -> None:
    with pytest.raises(UnexpectedTracerError, match="differentiation of the custom_[jv]+p function .* closed-over value"):
        grad(lambda w: make(w)(3.0))(2.0)
    with pytest.raises(UnexpectedTracerError, match="closed-over value"):
        grad(lambda w: make(w)(w))(2.0)
    with pytest.raises(UnexpectedTracerError, match="closed-over value"):
        grad(lambda w, x: jit(make(w))(x), (0, 1))(2.0, 3.0)
    with pytest.raises(UnexpectedTracerError, match="closed-over value"):
        grad(lambda w, x: vmap(lambda w, x: make(w)(x))(w, x).sum(), (0, 1))(jnp.ones(2), jnp.ones(2))


def test_a_rule_that_ignores_what_the_function_closes_over_is_no_derivative_of_zero() -> None:
    def f(w: Any, x: Any) -> Any:
        g = custom_jvp(lambda x: x * w)
        g.defjvp(lambda primals, tangents: (primals[0] * 2.0, tangents[0] * 2.0))
        return g(x)

    for h in (f, lambda w, x: jit(lambda x: f(w, x))(x)):
        with pytest.raises(UnexpectedTracerError, match="closed-over value"):
            grad(h, (0, 1))(2.0, 3.0)


def test_types_of_differentiated_values_may_be_read() -> None:
    def f(w: Any, x: Any) -> Any:
        @custom_jvp
        def g(x: Any) -> Any:
            return x * w.shape[0]

        g.defjvp(lambda primals, tangents: (g(*primals), 7.0 * len(w) * tangents[0]))
        return g(x) + w.sum()

    gw, gx = grad(f, (0, 1))(jnp.ones(4), 3.0)
    np.testing.assert_allclose(gw, np.ones(4))
    assert float(gx) == 28.0


def test_what_is_hidden_in_an_object_is_an_error_that_says_what_to_do() -> None:
    class Hidden:
        def __init__(self, w: Any):
            self.w = w

    def f(w: Any, x: Any) -> Any:
        hidden = Hidden(w)
        g = custom_jvp(lambda x: x * 2.0)
        g.defjvp(lambda primals, tangents: (g(*primals), tangents[0] * hidden.w))
        return grad(lambda x: lax.scan(lambda c, _: (g(c), None), x, None, length=2)[0])(x)

    with pytest.raises(UnexpectedTracerError, match="not among its arguments.*\n.*closure_convert"):
        jit(f)(2.0, 3.0)


def test_traced_arguments_that_are_not_differentiated() -> None:
    @functools.partial(custom_jvp, nondiff_argnums=(0,))
    def f(n: Any, x: Any) -> Any:
        return n["n"] * x

    f.defjvp(lambda n, primals, tangents: (f(n, *primals), 5.0 * n["n"] * tangents[0]))
    apply = lambda n, x: f({"n": n}, x)  # noqa: E731
    assert float(jit(grad(apply, 1))(2.0, 3.0)) == 10.0
    # As in JAX they count as constants.
    assert tuple(map(float, grad(apply, (0, 1))(2.0, 3.0))) == (0.0, 10.0)
    assert float(jvp(apply, (2.0, 3.0), (1.0, 1.0))[1]) == 10.0
    np.testing.assert_allclose(vmap(grad(apply, 1))(jnp.arange(2.0), jnp.ones(2)), [0.0, 5.0])
    looped = lambda n, x: lax.scan(lambda c, _: (apply(n, c), None), x, None, length=2)[0]  # noqa: E731
    assert float(jit(grad(looped, 1))(2.0, 3.0)) == 100.0


def test_traced_arguments_that_custom_vjp_does_not_differentiate() -> None:
    @functools.partial(custom_vjp, nondiff_argnums=(0,))
    def f(n: Any, x: Any) -> Any:
        return n * x

    f.defvjp(lambda n, x: (f(n, x), None), lambda n, _, ct: (5.0 * n * ct,))
    assert float(jit(grad(f, 1))(2.0, 3.0)) == 10.0
    np.testing.assert_allclose(vmap(grad(f, 1))(jnp.arange(2.0), jnp.ones(2)), [0.0, 5.0])
    with pytest.raises(UnexpectedTracerError, match="position that nondiff_argnums names"):
        grad(f, (0, 1))(2.0, 3.0)


def test_function_arguments_that_close_over_traced_values() -> None:
    @functools.partial(custom_vjp, nondiff_argnums=(0,))
    def call(h: Any, x: Any) -> Any:
        return h(x)

    call.defvjp(lambda h, x: (h(x), x), lambda h, x, ct: (5.0 * h(ct),))
    apply = lambda w, x: call(lambda y: y * w, x)  # noqa: E731
    assert float(jit(grad(apply, 1))(2.0, 3.0)) == 10.0
    np.testing.assert_allclose(vmap(apply)(jnp.arange(2.0), jnp.ones(2)), [0.0, 1.0])
    np.testing.assert_allclose(vmap(grad(apply, 1))(jnp.arange(2.0), jnp.ones(2)), [0.0, 5.0])
    with pytest.raises(UnexpectedTracerError, match="closed-over value"):
        grad(apply, (0, 1))(2.0, 3.0)


def test_every_copy_of_a_custom_function_closes_over_its_own_values() -> None:
    # The rule calls the function, whose copies must not share what was prepared for another.
    def f(w: Any, x: Any) -> Any:
        g = by_jvp(w)
        return jvp(lambda x: jvp(g, (x,), (1.0,))[0] + g(2.0 * x), (x,), (1.0,))[1]

    ws = jnp.asarray([2.0, 3.0])
    np.testing.assert_allclose(vmap(f, (0, None))(ws, 3.0), 15.0 * ws)
    held = lift(by_vjp)
    assert held is None

    def check(w: Any) -> Any:
        lifted, (value,) = lift(by_jvp(w)) or (None, (None,))
        assert lifted is not None and value is w
        return jnp.stack([lifted.at([v])(1.0) for v in (w, 10.0, 2.0 * w, 20.0)])

    for wrap in (jit, vmap):
        out = wrap(check)(jnp.asarray([3.0]) if wrap is vmap else 3.0)
        np.testing.assert_allclose(np.ravel(out), [3.0, 10.0, 6.0, 20.0])


@ALL
def test_programs_keep_no_traced_values(make: Any) -> None:
    with tracegrad.checking_leaks():
        f = lambda w, x: lax.scan(lambda c, _: (make(w)(c), None), x, None, length=2)[0]  # noqa: E731
        for g in (f, grad(f, 1)):
            jit(g)(2.0, 3.0)


def test_lifting_keeps_what_holds_no_traced_value() -> None:
    log: list[float] = []
    plain = lambda x: log.append(x)  # noqa: E731
    assert lift((plain, [1, {"a": 2}], {1: 2, "b": 3}, None)) is None

    def check(w: Any) -> Any:
        def even(n: int) -> Any:
            return w if n == 0 else odd(n - 1)

        def odd(n: int) -> Any:
            plain(n)
            return even(n - 1)

        held = lift((even, plain))
        assert held is not None
        lifted, values = held
        assert values == [w] or values[0] is w
        other_even, other_plain = lifted.at([7.0])
        assert other_plain is plain
        assert other_even(4) == 7.0 and other_even.__qualname__ == even.__qualname__
        return w

    jit(check)(1.0)
    assert log == [3, 1]
