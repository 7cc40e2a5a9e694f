"""Derivatives and batching of whole programs: every construct against numeric derivatives and Python loops, and their compositions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transform_harness import W, X, check_everywhere, close, numeric, program_of, scans_of, softly, staged

import tracegrad.numpy as jnp
import tracegrad.runtime.eager  # noqa: F401  installs the interpreter at the bottom
from tracegrad.ir.bind import current, using
from tracegrad.ir.calls import call_p
from tracegrad.runtime.jit import jit
from tracegrad.tracer.control_flow import associative_scan, cond, fori_loop, scan, switch, while_loop
from tracegrad.tracer.control_flow import map as scan_map
from tracegrad.tracer.errors import TracerBoolConversionError
from tracegrad.tracer.pytree import tree_flatten
from tracegrad.transforms.api import grad, jvp, linearize, value_and_grad, vjp
from tracegrad.transforms.checkpoint import checkpoint
from tracegrad.transforms.vmap import vmap

pytestmark = pytest.mark.usefixtures("double_precision")


def rnn(x: Any) -> Any:
    def step(h: Any, t: Any) -> Any:
        h = jnp.tanh((W * x) @ h + x * t)
        return h, h.sum()

    h, ys = scan(step, np.zeros(3), np.arange(1.0, 4.0))
    return (ys**2).sum() + h.sum()


def scan_of_cond(x: Any) -> Any:
    def step(c: Any, t: Any) -> Any:
        c = cond(c.sum() > t, lambda c: jnp.sin(c) * x, lambda c: jnp.exp(-c) + x, c)
        return c, c.sum()

    c, ys = scan(step, x, np.linspace(0.0, 2.0, 4))
    return c.sum() + (ys**2).sum()


def scan_of_scan(x: Any) -> Any:
    def outer(c: Any, t: Any) -> Any:
        d, ys = scan(lambda d, u: (jnp.sin(d + c) * u, d), x, np.linspace(0.5, 1.0, 3))
        return d + c, (ys * t).sum()

    c, ys = scan(outer, 0.1 * x, np.arange(3.0))
    return c.sum() + ys.sum()


def reversed_scan(x: Any) -> Any:
    _, ys = scan(lambda c, _: (jnp.sin(c) * x, c * x), x, None, length=3, reverse=True)
    return ys.sum()


def scan_over_input(x: Any) -> Any:
    c, ys = scan(lambda c, t: (c * jnp.cos(t), c + t * t), 1.5, x)
    return c + (ys * np.arange(3.0)).sum()


def scan_with_invariants(x: Any) -> Any:
    _, ys = scan(lambda c, t: (c + 1, jnp.exp(jnp.sin(x)) * t), 0, np.arange(1.0, 4.0))
    return (ys**2).sum()


def counted_loop(x: Any) -> Any:
    return fori_loop(0, 4, lambda i, c: jnp.sin(c) * x + i, x).sum()


def branches(x: Any) -> Any:
    return cond(x.sum() > 0.5, lambda x: jnp.sin(x) * jnp.exp(x), lambda x: jnp.cos(x) ** 2, x).sum()


def many_branches(x: Any) -> Any:
    i = (3.0 * x.sum()).astype(np.int32)
    return switch(i, [jnp.sin, jnp.exp, lambda x: x * x, lambda x: x], x).sum()


def prefix_products(x: Any) -> Any:
    return (associative_scan(lambda a, b: a * b, x) * np.arange(1.0, 4.0)).sum()


def mapped(x: Any) -> Any:
    return scan_map(lambda t: jnp.sin(t) * x.sum(), x).sum()


def with_custom_jvp(x: Any) -> Any:
    return scan(lambda c, t: (softly(c * t) + x, softly(c)), x, np.arange(1.0, 4.0))[1].sum()


def rematerialized(x: Any) -> Any:
    @checkpoint
    def layer(c: Any, t: Any) -> Any:
        return jnp.sin(jnp.cos(c) * t) + x

    return scan(lambda c, t: (layer(c, t), None), x, np.arange(1.0, 4.0))[0].sum()


REVERSIBLE = [
    rnn, scan_of_cond, scan_of_scan, reversed_scan, scan_over_input, scan_with_invariants, counted_loop, branches, many_branches,
    prefix_products, mapped, with_custom_jvp, rematerialized,
]  # fmt: skip


@pytest.mark.parametrize("stage", [staged, jit], ids=["staged", "jit"])
@pytest.mark.parametrize("f", REVERSIBLE, ids=lambda f: f.__name__)
def test_derivatives_agree_with_differences_in_every_composition(f: Any, stage: Any) -> None:
    check_everywhere(f, X, staged=stage)


def newton(x: Any) -> Any:
    """The square root of |x|^2 + 1, iterated until it settles."""
    target = (x * x).sum() + 1.0
    return while_loop(lambda s: abs(s * s - target) > 1e-12, lambda s: 0.5 * (s + target / s), target + 0.0)


def growing(x: Any) -> Any:
    return while_loop(lambda s: (s**2).sum() < 50.0, lambda s: 1.3 * s + jnp.sin(x), x)[0]


@pytest.mark.parametrize("stage", [staged, jit], ids=["staged", "jit"])
@pytest.mark.parametrize("f", [newton, growing], ids=lambda f: f.__name__)
def test_while_loops_have_forward_derivatives(f: Any, stage: Any) -> None:
    check_everywhere(f, X, reverse=False, staged=stage)


def test_fori_loop_with_traced_bounds_has_forward_derivatives() -> None:
    f = staged(lambda n, x: fori_loop(0, n, lambda i, c: jnp.sin(c) * x, x).sum())
    got = jvp(lambda x: f(4, x), (X,), (np.ones(3),))[1]
    close(got, numeric(lambda x: fori_loop(0, 4, lambda i, c: jnp.sin(c) * x, x).sum(), X).sum(), 1e-5)


def test_while_loops_have_reverse_derivatives() -> None:
    for f in newton, growing:
        close(grad(f)(X), numeric(f, X), 1e-5)


def test_a_while_loop_beside_the_differentiated_path_is_no_obstacle() -> None:
    def f(x: Any) -> Any:
        n = while_loop(lambda s: s < 100.0, lambda s: 2.0 * s, 1.0)
        return x * n

    close(grad(f)(3.0), 128.0)


def test_batched_while_runs_each_example_as_far_as_it_needs() -> None:
    def collatz(n: Any) -> Any:
        return while_loop(lambda s: s[0] != 1, lambda s: (jnp.where(s[0] % 2 == 0, s[0] // 2, 3 * s[0] + 1), s[1] + 1), (n, 0))[1]

    def steps(n: int) -> int:
        k = 0
        while n != 1:
            n, k = (n // 2 if n % 2 == 0 else 3 * n + 1), k + 1
        return k

    ns = np.arange(1, 20)
    close(vmap(collatz)(ns), [steps(int(n)) for n in ns])
    close(vmap(staged(vmap(collatz)))(ns[:18].reshape(3, 6)), np.reshape([steps(int(n)) for n in ns[:18]], (3, 6)))


def test_batched_while_keeps_the_carry_unbatched_when_it_can() -> None:
    def f(x: Any) -> Any:
        return while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, s[1] * 2.0), (0, x))[1]

    program = program_of(vmap(f), np.arange(3.0))
    (eqn,) = [e for e in program.equations if e.primitive.name == "while"]
    assert [v.type.shape for v in eqn.outputs] == [(), (3,)]


# Interpreters


def test_python_sees_concrete_values_outside_of_staging() -> None:
    seen = []

    def f(x: Any) -> Any:
        seen.append(float(x))
        if x > 0:
            return x**3
        return -x

    assert float(grad(f)(2.0)) == 12.0
    assert float(grad(f)(-2.0)) == -1.0
    assert float(jvp(f, (2.0,), (1.0,))[1]) == 12.0
    assert float(grad(grad(f))(2.0)) == 12.0
    assert float(linearize(f, 2.0)[1](1.0)) == 12.0
    assert seen == [2.0, -2.0, 2.0, 2.0, 2.0]
    assert np.asarray(grad(lambda x: x * np.asarray(x))(3.0)) == 3.0


def test_python_control_flow_on_batched_and_staged_values_is_refused() -> None:
    def f(x: Any) -> Any:
        return x if x > 0 else -x

    for g in (vmap(f), vmap(grad(f)), staged(vmap(f))):
        with pytest.raises(TracerBoolConversionError):
            g(X)
    with pytest.raises(TracerBoolConversionError):
        staged(grad(f))(1.0)


def test_perturbations_are_not_confused() -> None:
    assert float(grad(lambda x: x * grad(lambda y: x + y)(2.0))(1.0)) == 1.0
    assert float(grad(lambda x: x * jvp(lambda y: x * y, (2.0,), (1.0,))[1])(3.0)) == 6.0
    assert float(jvp(lambda x: x * grad(lambda y: x * y * y)(2.0), (3.0,), (1.0,))[1]) == 24.0
    close(vmap(lambda x: vmap(lambda y: x * y)(np.arange(3.0)))(np.arange(2.0)), np.outer(np.arange(2.0), np.arange(3.0)))


def test_closures_over_outer_tracers() -> None:
    def f(x: Any) -> Any:
        def inner(y: Any) -> Any:
            return (x * jnp.sin(y) * scan(lambda c, t: (c * x + t * y, c), y, np.arange(3.0))[0]).sum()

        return (grad(inner)(x * 2.0) * x).sum()

    close(grad(f)(X), numeric(f, X), 1e-5)
    close(staged(grad(staged(f)))(X), numeric(f, X), 1e-5)


def test_the_primal_is_computed_once() -> None:
    count = 0

    class Counting:
        def __init__(self, parent: Any):
            self.parent = parent

        def process(self, primitive: Any, args: Any, params: Any) -> Any:
            nonlocal count
            count += primitive.name == "sin"
            return self.parent.process(primitive, args, params)

    with using(Counting(current())):
        value_and_grad(lambda x: jnp.sin(jnp.sin(x)).sum())(X)
    assert count == 2


def test_zero_tangents_are_never_materialized() -> None:
    program = program_of(lambda x, y: jvp(lambda x: jnp.sin(x) * y + jnp.floor(y), (x,), (y,))[1], X, X)
    assert [e.primitive.name for e in program.equations] == ["sin", "cos", "mul", "mul", "mul", "floor", "add"]


# Lean programs


def backward_scan(f: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    forward, reverse = scans_of(program_of(grad(f), *args))
    return forward, reverse


def test_grad_of_scan_keeps_only_what_changes_from_step_to_step() -> None:
    def f(x: Any) -> Any:
        return scan(lambda c, t: (jnp.sin(c) * jnp.exp(x) * t, None), x, np.arange(1.0, 5.0))[0].sum()

    forward, reverse = backward_scan(f, X)
    # Stacked: cos(c) and sin(c), from which everything else is rebuilt; exp(x) is a constant of the backward loop.
    assert len(forward.outputs) == 1 + 2
    assert reverse.params["num_consts"] >= 1 and reverse.params["reverse"] is True
    assert [v.type.shape for v in reverse.inputs[reverse.params["num_consts"] + reverse.params["num_carry"] :]].count((4, 3)) == 2


def test_grad_of_scan_reads_outputs_and_inputs_again_instead_of_storing_them() -> None:
    def f(x: Any) -> Any:
        def step(c: Any, t: Any) -> Any:
            h = jnp.tanh(c * t)
            return h, h

        return scan(step, 0.5, x)[1].sum()

    forward, _ = backward_scan(f, np.linspace(0.1, 1.0, 4))
    # h is a result already, t is an operand; c, the carry at the start of the step, is all that is kept.
    assert len(forward.outputs) == 3


def test_equal_residuals_are_stored_once() -> None:
    def f(x: Any) -> Any:
        return scan(lambda c, t: (jnp.exp(c) + jnp.exp(c) * t, None), x, np.arange(1.0, 5.0))[0]

    forward, _ = backward_scan(f, 0.1)
    assert len(forward.outputs) == 1 + 1


def test_repeated_layers_are_transformed_once() -> None:
    from tracegrad.transforms import linearize as module

    calls = 0
    original = module.finish_split

    def counting(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args)

    def f(x: Any) -> Any:
        for _ in range(5):
            x = staged(lambda x: jnp.sin(x) * 2.0)(x)
        return x.sum()

    module.finish_split = counting
    try:
        close(grad(f)(X), numeric(f, X), 1e-5)
    finally:
        module.finish_split = original
    assert calls <= 1


def test_derivatives_of_a_call_keep_no_copies_of_its_operands() -> None:
    program = program_of(lambda x, y: vjp(staged(lambda x, y: x * y), x, y)[1](x), X, X)
    forward, reverse = [e for e in program.equations if e.primitive is call_p]
    assert len(forward.outputs) == 1


def test_unread_branches_of_the_derivative_cost_nothing() -> None:
    program = program_of(grad(lambda x: (x * x).sum()), X)
    assert "sin" not in str(program)
    lin = vjp(lambda x: (jnp.sin(x), x * 2.0)[1], X)[1]
    assert not tree_flatten(lin)[0]
