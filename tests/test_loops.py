"""Derivatives of loops of unknown length, and of loops that keep less than every step: against numeric derivatives and plain scans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracegrad.numpy as jnp
from tracegrad import (
    checkpoint,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jit,
    jvp,
    linear_transpose,
    linearize,
    make_jaxpr,
    value_and_grad,
    vjp,
    vmap,
)
from tracegrad.ad_checkpoint import binomial, every
from tracegrad.lax import cond, fori_loop, scan, while_loop
from tracegrad.test_util import check_grads

pytestmark = pytest.mark.usefixtures("double_precision")

X = np.array([0.3, -0.7, 1.2])


SCHEDULES = [every(1), every(4), every(100), binomial(1), binomial(2), binomial(3), binomial(100)]


def close(a: Any, b: Any, tol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tol, atol=tol)


def growing(x: Any, schedule: Any = None) -> Any:
    """Some 9 steps, whose number depends on the values."""

    def step(state: Any) -> Any:
        s, y, n = state
        return 1.4 * s + 0.1 * jnp.sin(y).sum(), jnp.cos(y) * x + 0.1 * s, n + 1

    s, y, n = while_loop(lambda state: state[0] < 8.0, step, (x.sum() + 0.1, x, 0), checkpoint=schedule)
    return (y**2).sum() + s * n


def counted(n: Any, x: Any, schedule: Any = None) -> Any:
    return fori_loop(0, n, lambda i, c: jnp.sin(c) * x + i * 0.1, x, checkpoint=schedule).sum()


def scanned(x: Any, xs: Any, schedule: Any = None, reverse: bool = False) -> Any:
    def step(carry: Any, a: Any) -> Any:
        c, k = carry
        c = jnp.sin(c) * x + a["u"] * k
        return (c, k + a["w"].sum()), {"y": c * k}

    (c, k), ys = scan(step, (x, 0.5), {"u": xs, "w": xs**2}, reverse=reverse, checkpoint=schedule)
    return c.sum() * k + (ys["y"] ** 2).sum()


@pytest.mark.parametrize("f", [growing, lambda x: counted(7, x), lambda x: jit(counted)(7, x)], ids=["while", "fori", "fori_traced"])
def test_loops_of_unknown_length_have_derivatives_of_all_kinds(f: Any) -> None:
    check_grads(f, (X,), order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)
    check_grads(jit(f), (X,), order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


def test_third_order() -> None:
    f = lambda x: growing(x * X)  # noqa: E731
    close(grad(grad(grad(f)))(0.9), jvp(grad(grad(f)), (0.9,), (1.0,))[1], 1e-8)
    close(jit(grad(grad(grad(f))))(0.9), jvp(jvp_of(jvp_of(f)), (0.9,), (1.0,))[1], 1e-8)


def jvp_of(f: Any) -> Any:
    return lambda x: jvp(f, (x,), (1.0,))[1]


def test_jacobians_agree() -> None:
    def f(x: Any) -> Any:
        return while_loop(lambda s: (s**2).sum() < 50.0, lambda s: 1.3 * s + jnp.sin(x), x)

    close(jacrev(f)(X), jacfwd(f)(X))
    close(jit(jacrev(f))(X), jacfwd(f)(X))
    close(jacrev(jacrev(f))(X), jacfwd(jacfwd(f))(X))
    y, pull = vjp(f, X)
    _, push = linearize(f, X)
    for v in np.eye(3):
        close(pull(v)[0], v @ jacfwd(f)(X))
        close(push(v), jacfwd(f)(X) @ v)
    close(jit(lambda ct: pull(ct)[0])(X), X @ jacfwd(f)(X))  # residuals of an eager forward pass in a compiled backward pass


def test_a_pullback_is_differentiated_when_it_is_used_twice() -> None:
    def f(x: Any) -> Any:
        _, pull = vjp(lambda y: while_loop(lambda s: (s**2).sum() < 9.0, lambda s: 1.3 * s + jnp.sin(y), y), x)
        return (pull(x)[0] * pull(2.0 + x**2)[0]).sum()

    check_grads(f, (X,), order=1, atol=1e-4, rtol=1e-4)
    close(jit(grad(f))(X), grad(f)(X))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_few_steps(steps: int) -> None:
    for schedule in None, *SCHEDULES:
        f = lambda x, n: fori_loop(0, n, lambda i, c: c * x, x, checkpoint=schedule)  # noqa: B023, E731
        for g in grad(f), jit(grad(f)):
            close(g(1.3, steps), (steps + 1) * 1.3**steps)


def test_the_condition_may_read_differentiated_constants() -> None:
    def f(x: Any, limit: Any) -> Any:
        return while_loop(lambda s: s < limit**2, lambda s: s * x, x)

    dx, dlimit = grad(f, (0, 1))(1.5, 2.0)
    close(dx, 4 * 1.5**3)
    close(dlimit, 0.0)


def test_integer_and_key_carries_stand_beside() -> None:
    from tracegrad import random

    def f(x: Any) -> Any:
        def step(state: Any) -> Any:
            key, i, c = state
            key, own = random.split(key)
            return key, i + 1, c * (1.0 + 0.1 * random.normal(own)) + jnp.sin(c)

        return while_loop(lambda s: s[1] < 5, step, (random.key(3), 0, x))[2]

    check_grads(f, (0.7,), order=2, atol=1e-4, rtol=1e-4)
    for schedule in every(2), binomial(2):

        def g(x: Any, schedule: Any = schedule) -> Any:
            def step(state: Any) -> Any:
                key, i, c = state
                key, own = random.split(key)
                return key, i + 1, c * (1.0 + 0.1 * random.normal(own)) + jnp.sin(c)

            return while_loop(lambda s: s[1] < 5, step, (random.key(3), 0, x), checkpoint=schedule)[2]

        close(jit(grad(g))(0.7), grad(f)(0.7))


def test_loops_in_loops_and_branches() -> None:
    def collatz_like(x: Any) -> Any:
        def outer(c: Any, a: Any) -> Any:
            inner = while_loop(lambda s: s[0] < a, lambda s: (s[0] + 1.0, jnp.sin(s[1]) * x + 0.1 * s[0]), (0.0, c))[1]
            c = cond(a > 2.0, lambda v: while_loop(lambda s: s < 4.0, lambda s: s * 1.5 + 0.1, v**2 + 0.2), lambda v: v * 2.0, inner)
            return c, c * a

        c, ys = scan(outer, x, jnp.array([1.0, 3.0, 2.0, 0.0, 4.0]))
        return c + ys.sum()

    for f in collatz_like, jit(collatz_like), checkpoint(collatz_like):
        check_grads(f, (0.4,), order=2, atol=1e-4, rtol=1e-4)

    def nested(x: Any) -> Any:
        def outer(state: Any) -> Any:
            n, c = state
            return n + 1, while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.sin(s[1]) + x), (0, c))[1]

        return while_loop(lambda s: s[0] < 5, outer, (0, x))[1]

    for f in nested, jit(nested):
        check_grads(f, (0.4,), order=2, atol=1e-4, rtol=1e-4)


def test_batches_go_their_own_ways() -> None:
    xs = np.linspace(-0.5, 2.0, 6)[:, None] * X

    for f in growing, lambda x: counted(4, x):
        each = np.stack([np.asarray(grad(f)(x)) for x in xs])
        close(vmap(grad(f))(xs), each)
        close(jit(vmap(grad(f)))(xs), each)
        close(grad(lambda xs: vmap(f)(xs).sum())(xs), each)  # noqa: B023
        hessians = np.stack([np.asarray(hessian(f)(x)) for x in xs])
        close(jit(vmap(hessian(f)))(xs), hessians, 1e-8)
        close(jit(vmap(jacrev(jacrev(f))))(xs), hessians, 1e-8)
    counts = np.array([0, 3, 1, 7, 2, 2])
    each = np.stack([np.asarray(grad(counted, 1)(int(n), x)) for n, x in zip(counts, xs)])
    close(vmap(grad(counted, 1))(counts, xs), each)
    close(jit(vmap(grad(counted, 1)))(counts, xs), each)


@pytest.mark.parametrize(("size", "width"), [(1, 32), (2, 16), (3, 6), (4, 4), (5, 4), (8, 2), (9, 3), (17, 1)])
def test_examples_of_any_size_run_in_blocks(size: int, width: int) -> None:
    """Blocks of so many examples; eleven of them fill the last one by repeating the last."""

    def steps(x: Any) -> Any:
        return while_loop(lambda c: jnp.sum(c[0] ** 2) < 50.0, lambda c: (c[0] * 1.5 + 0.1, c[1] + 1), (x, 0))

    for n in (11, 40):
        xs = np.random.default_rng(size).uniform(0.1, 2.0, (n, size)).astype(np.float32)
        ends, counts = jit(vmap(steps))(xs)
        for x, end, count in zip(xs, ends, counts, strict=True):
            want, turns = x, 0
            while np.sum(want**2) < 50.0:
                want, turns = want * np.float32(1.5) + np.float32(0.1), turns + 1
            assert turns == count
            np.testing.assert_allclose(end, want, rtol=1e-5)
    scans = [e for e in make_jaxpr(vmap(steps))(xs).jaxpr.eqns if e.primitive.name == "scan"]
    assert [e.params["length"] for e in scans] == ([-(-40 // width)] if width < 40 else [])


def test_a_batched_branch_holds_a_loop() -> None:
    def f(x: Any) -> Any:
        return cond(x > 0.5, lambda v: while_loop(lambda s: s < 4.0, lambda s: s * s + v, v), lambda v: v**2, x)

    xs = np.array([0.2, 0.6, 1.3, -0.4])
    each = [float(grad(f)(x)) for x in xs]
    close(vmap(grad(f))(xs), each)
    close(jit(vmap(grad(f)))(xs), each)
    close(jit(vmap(grad(grad(f))))(xs), [float(grad(grad(f))(x)) for x in xs])


def test_the_transpose_of_a_linear_while() -> None:
    def f(x: Any) -> Any:
        return while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, 2.0 * s[1] + s[0] * x), (0, 3.0 * x))[1]

    (t,) = linear_transpose(f, X)(np.ones(3))
    close(t, np.full(3, f(1.0)))
    with pytest.raises(ValueError, match="number of steps depends on the linear arguments"):
        linear_transpose(lambda x: while_loop(lambda s: s.sum() < 4.0, lambda s: 2.0 * s, x), X)(np.ones(3))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_schedules_change_no_derivative(schedule: Any) -> None:
    xs = np.linspace(-1.0, 1.0, 11)[:, None] * X
    for reverse in False, True:
        want = value_and_grad(scanned, (0, 1))(X, xs, None, reverse)
        for way in value_and_grad(scanned, (0, 1)), jit(value_and_grad(scanned, (0, 1)), static_argnums=(2, 3)):
            value, (dx, dxs) = way(X, xs, schedule, reverse)
            close(value, want[0])
            close(dx, want[1][0])
            close(dxs, want[1][1])
    close(jit(grad(growing), static_argnums=1)(X, schedule), grad(growing)(X))
    close(grad(growing)(X, schedule), grad(growing)(X))
    close(jit(grad(counted, 1), static_argnums=2)(9, X, schedule), grad(counted, 1)(9, X))
    close(grad(counted, 1)(9, X, schedule), grad(counted, 1)(9, X))
    close(jvp(lambda x: growing(x, schedule), (X,), (X,))[1], jvp(growing, (X,), (X,))[1])


@pytest.mark.parametrize("schedule", [every(3), binomial(2)], ids=str)
def test_schedules_compose(schedule: Any) -> None:
    batch = np.linspace(0.5, 1.5, 4)[:, None] * X
    for f in (lambda x: growing(x, schedule)), (lambda x: scanned(x, jnp.outer(jnp.arange(7.0), x), schedule)):
        close(jit(vmap(grad(f)))(batch), np.stack([np.asarray(grad(f)(x)) for x in batch]))
        close(vmap(grad(f))(batch), np.stack([np.asarray(grad(f)(x)) for x in batch]))
        check_grads(f, (X,), order=2, atol=1e-4, rtol=1e-4)
        close(jit(jacrev(grad(f)))(X), hessian(f)(X), 1e-8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 40), st.integers(1, 7), st.booleans())
def test_any_number_of_slots_reverses_any_number_of_steps(steps: int, slots: int, reverse: bool) -> None:
    xs = np.cos(np.arange(steps))

    def f(c: Any, xs: Any, schedule: Any) -> Any:
        c, ys = scan(lambda c, a: (jnp.sin(c * a) + a, c * c), c, xs, reverse=reverse, checkpoint=schedule)
        return c + ys.sum()

    for got, want in zip(grad(f, (0, 1))(0.5, xs, binomial(slots)), grad(f, (0, 1))(0.5, xs, None)):
        close(got, want)


def test_binomial_schedule_repeats_as_little_as_the_theory_says() -> None:
    # How often the body runs, counted by a callback-free trick: each run of a step writes nothing, so count the primal steps of the
    # transposed program by evaluating it with a body that counts.
    from math import comb

    from tracegrad import pure_callback

    runs = [0]

    def count(x: Any) -> Any:
        runs[0] += 1
        return np.asarray(x)

    @jit
    def observed(c: Any) -> Any:
        return pure_callback(count, c, c)

    from tracegrad import custom_jvp

    @custom_jvp
    def step(c: Any) -> Any:
        return jnp.sin(observed(c))

    step.defjvp(lambda p, t: (step(*p), jnp.cos(p[0]) * t[0]))
    for slots, steps in (1, 10), (2, 10), (3, 35), (4, 70):
        runs[0] = 0
        grad(lambda c: scan(lambda c, _: (step(c), None), c, None, length=steps, checkpoint=binomial(slots))[0])(0.3)  # noqa: B023
        r = next(r for r in range(steps) if comb(slots + r, slots) >= steps)
        least = r * steps - comb(slots + r, slots + 1)  # Griewank and Walther: steps run again by the best schedule
        # Besides, each step runs in the forward pass, and its primal part in its own backward step.
        assert runs[0] <= least + 2 * steps, (slots, steps, runs[0], least)


def test_wrong_schedules_say_so() -> None:
    with pytest.raises(TypeError, match=r"lax.scan: checkpoint is every\(steps\) or binomial\(slots\)"):
        scan(lambda c, x: (c, x), 0.0, X, checkpoint=3)
    with pytest.raises(ValueError, match="binomial takes a positive integer, got 0"):
        while_loop(lambda c: c < 3.0, lambda c: c + 1.0, 0.0, checkpoint=binomial(0))
    with pytest.raises(ValueError, match="every takes a positive integer, got 1.5"):
        fori_loop(0, 3, lambda i, c: c, 0.0, checkpoint=every(1.5))  # type: ignore[arg-type]


def test_slots_bound_what_is_kept() -> None:
    def f(c: Any, schedule: Any) -> Any:
        return scan(lambda c, _: (jnp.sin(c), None), c, None, length=1000, checkpoint=schedule)[0].sum()

    def kept(schedule: Any) -> int:
        text = str(make_jaxpr(lambda c: grad(f)(c, schedule))(jnp.ones(7)))
        return text.count("[1000")

    assert kept(None) > 0
    assert kept(binomial(5)) == 0
