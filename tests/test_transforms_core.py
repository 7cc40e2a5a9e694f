"""Derivatives and batching of whole programs: every construct against numeric derivatives and Python loops, and their compositions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad.numpy as jnp
import tracegrad.runtime.eager  # noqa: F401  installs the interpreter at the bottom
from tracegrad.ir.array import Array
from tracegrad.ir.bind import bind, current, type_of, using
from tracegrad.ir.calls import call_p
from tracegrad.ir.program import Program
from tracegrad.ir.types import float0
from tracegrad.ir.verify import verify
from tracegrad.runtime.jit import jit
from tracegrad.tracer.control_flow import associative_scan, cond, fori_loop, scan, switch, while_loop
from tracegrad.tracer.control_flow import map as scan_map
from tracegrad.tracer.errors import TracerBoolConversionError
from tracegrad.tracer.pytree import tree_flatten, tree_unflatten
from tracegrad.tracer.staging import trace
from tracegrad.transforms.api import grad, jvp, linear_transpose, linearize, value_and_grad, vjp
from tracegrad.transforms.checkpoint import checkpoint
from tracegrad.transforms.custom import custom_jvp, custom_vjp
from tracegrad.transforms.jacobians import hessian, jacfwd, jacrev
from tracegrad.transforms.vmap import vmap

pytestmark = pytest.mark.usefixtures("double_precision")


def program_of(f: Callable[..., Any], *args: Any) -> Program:
    leaves, tree = tree_flatten(args)

    def flat(*xs: Any) -> list[Any]:
        return tree_flatten(f(*tree_unflatten(tree, xs)))[0]

    program, _ = trace(flat, [type_of(x) for x in leaves])
    return verify(program)


def staged(f: Callable[..., Any]) -> Callable[..., Any]:
    """What jit does, short of compiling: trace into a program and call it."""

    def wrapped(*args: Any) -> Any:
        leaves, tree = tree_flatten(args)
        out_tree: list[Any] = []

        def flat(*xs: Any) -> list[Any]:
            outs, structure = tree_flatten(f(*tree_unflatten(tree, xs)))
            out_tree[:] = [structure]
            return outs

        program, captured = trace(flat, [type_of(x) for x in leaves], "staged")
        verify(program)
        outs = bind(call_p, *captured, *leaves, program=program, name="staged", inline=False)
        return tree_unflatten(out_tree[0], outs)

    return wrapped


def numeric(f: Callable[[Any], Any], x: Any, eps: float = 1e-6) -> np.ndarray:
    """The derivative of a function with array output by central differences, of shape output + input."""
    x = np.asarray(x, np.float64)
    columns = []
    for i in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[i] = eps
        columns.append((np.asarray(f(x + step)) - np.asarray(f(x - step))) / (2 * eps))
    return np.stack(columns, -1).reshape(columns[0].shape + x.shape)


def close(got: Any, want: Any, rtol: float = 1e-6, atol: float = 1e-7) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=rtol, atol=atol)


def check_everywhere(f: Callable[[Any], Any], x: Any, reverse: bool = True, staged: Any = staged) -> None:
    """First and second derivatives of a scalar function of an array, alone and under staging and vmap, in every order."""
    x = np.asarray(x, np.float64)
    want = numeric(f, x)
    modes: dict[str, Callable[..., Any]] = {"forward": jacfwd}
    if reverse:
        modes["reverse"] = grad
    for d in modes.values():
        for g in (d(f), staged(d(f)), d(staged(f)), staged(d(staged(f))), d(checkpoint(f))):
            close(g(x), want, 1e-5, 1e-6)
    many = np.stack([x, 0.5 * x, x + 0.3])
    rows = np.stack([numeric(f, y) for y in many])
    for d in modes.values():
        close(vmap(d(f))(many), rows, 1e-5, 1e-6)
        close(staged(vmap(staged(d(f))))(many), rows, 1e-5, 1e-6)
        close(d(lambda ys: vmap(f)(ys).sum())(many), rows, 1e-5, 1e-6)
    d = modes.get("reverse", jacfwd)
    second = numeric(d(f), x, 1e-5)
    orders = [hessian(f), jacrev(jacfwd(f)), jacrev(grad(f)), jacfwd(jacfwd(f))] if reverse else [jacfwd(jacfwd(f))]
    for h in orders:
        close(h(x), second, 1e-4, 1e-5)
        close(staged(h)(x), second, 1e-4, 1e-5)
    v = np.cos(np.arange(x.size)).reshape(x.shape)
    close(jvp(d(f), (x,), (v,))[1], np.tensordot(second, v, x.ndim), 1e-4, 1e-5)
    if reverse:
        close(vjp(grad(f), x)[1](v)[0], np.tensordot(second, v, x.ndim), 1e-4, 1e-5)
        close(grad(lambda y: jvp(f, (y,), (v,))[1])(x), np.tensordot(second, v, x.ndim), 1e-4, 1e-5)


X = np.array([0.3, -0.7, 1.1])
W = np.arange(9.0).reshape(3, 3) / 10


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


@custom_jvp
def softly(x: Any) -> Any:
    return jnp.log1p(jnp.exp(x))


@softly.defjvp
def _softly_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    return softly(x), t / (1 + jnp.exp(-x))


@custom_vjp
def scaled(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


def _scaled_fwd(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y, (jnp.cos(x), jnp.sin(x), y)


def _scaled_bwd(res: Any, ct: Any) -> Any:
    c, s, y = res
    return c * ct * y, s * ct


scaled.defvjp(_scaled_fwd, _scaled_bwd)


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


# Functions of pytrees


def test_grad_of_pytrees_argnums_and_aux() -> None:
    params = {"w": W, "b": (X, 2.0)}

    def loss(params: Any, x: Any, *, scale: float = 1.0) -> Any:
        out = scale * ((params["w"] @ x + params["b"][0]) ** 2).sum() * params["b"][1]
        return out, {"out": out, "label": "text", "n": 3}

    (value, aux), g = value_and_grad(loss, has_aux=True)(params, X, scale=2.0)
    r = W @ X + X
    close(value, 4.0 * (r**2).sum())
    assert aux["label"] == "text" and aux["n"] == 3 and float(aux["out"]) == float(value)
    assert isinstance(aux["out"], Array) and not hasattr(aux["out"], "tangent")
    close(g["w"], 8.0 * np.outer(r, X))
    close(g["b"][0], 8.0 * r)
    close(g["b"][1], 2.0 * (r**2).sum())
    g0, g1 = grad(lambda p, x: loss(p, x)[0], argnums=(0, 1))(params, X)
    close(g1, 4.0 * W.T @ r)
    close(grad(lambda p, x: loss(p, x)[0], argnums=-1)(params, X), g1)


def test_jacobians_of_pytrees() -> None:
    def f(p: Any) -> Any:
        return {"a": jnp.sin(p[0])[:2], "b": (p[0].sum() * p[1],)}

    p = (X, np.array(2.0))
    for jac in (jacfwd, jacrev):
        for j in (jac(f)(p), staged(jac(f))(p)):
            close(j["a"][0], np.diag(np.cos(X))[:2])
            close(j["a"][1], np.zeros(2))
            close(j["b"][0][0], np.full(3, 2.0))
            close(j["b"][0][1], X.sum())
    h = hessian(lambda p: (p["x"] ** 2 * p["y"]).sum())({"x": X, "y": np.array(3.0)})
    close(h["x"]["x"], np.diag(np.full(3, 6.0)))
    close(h["x"]["y"], 2 * X)
    j, aux = jacfwd(lambda x: (x * x, "aux"), has_aux=True)(X)
    close(j, np.diag(2 * X))
    assert aux == "aux"
    h, aux = hessian(lambda x: ((x**3).sum(), x.sum()), has_aux=True)(X)
    close(h, np.diag(6 * X))
    close(aux, X.sum())


def test_vjp_and_linearize_of_pytrees() -> None:
    out, pull, aux = vjp(lambda x, n: ({"y": x * n, "n": n}, x.sum()), X, 3, has_aux=True)
    x_bar, n_bar = pull({"y": np.ones(3), "n": np.zeros((), float0)})
    close(x_bar, np.full(3, 3.0))
    assert n_bar.dtype == float0
    close(aux, X.sum())
    out, push = linearize(lambda x, y: (x * y, y), X, 2.0)
    dots = push(X, 1.0)
    close(dots[0], 3 * X)
    close(dots[1], 1.0)
    leaves, tree = tree_flatten(pull)
    close(tree_unflatten(tree, leaves)({"y": np.ones(3), "n": np.zeros((), float0)})[0], np.full(3, 3.0))


def test_linear_transpose() -> None:
    close(linear_transpose(lambda x: W @ x, X)(X)[0], W.T @ X)

    def running(x: Any) -> Any:
        return scan(lambda c, t: ((c[0] + 1, 0.5 * c[1] + t), c[1] * c[0]), (1.0, x[0] * 0.0), x)[1]

    matrix = np.stack([np.asarray(running(e)) for e in np.eye(3)], 1)
    close(linear_transpose(running, X)(X)[0], matrix.T @ X)


@pytest.mark.parametrize(
    "both",
    [
        lambda y, t: staged(lambda y, t: (jnp.sin(y), t * 2))(y, t),
        lambda y, t: checkpoint(lambda y, t: (jnp.sin(y), t * y))(y, t),
        lambda y, t: cond(y[0] > 0, lambda y, t: (jnp.sin(y), t * y), lambda y, t: (y, t), y, t),
        lambda y, t: scan(lambda c, _: ((jnp.sin(c[0]), c[1] * c[0]), None), (y, t), None, length=2)[0],
    ],
    ids=["call", "checkpoint", "cond", "scan"],
)
def test_linear_transpose_through_regions_that_also_compute_what_is_known(both: Any) -> None:
    def linear(t: Any) -> Any:
        y, u = both(X, t)
        return y * u

    matrix = np.stack([np.asarray(linear(jnp.asarray(e))) for e in np.eye(3)], 1)
    for transposed in (linear_transpose(linear, X), staged(linear_transpose(linear, X))):
        close(transposed(X)[0], matrix.T @ X)


def test_integer_inputs_have_float0_tangents() -> None:
    g = grad(lambda n, x: x * n, argnums=(0, 1), allow_int=True)(3, 2.0)
    assert g[0].dtype == float0 and float(g[1]) == 3.0
    out, dot = jvp(lambda x: jnp.argmax(x), (X,), (X,))
    assert dot.dtype == float0 and dot.shape == ()
    assert float(jvp(lambda n, x: n * x, (2, 3.0), (np.zeros((), float0), 1.0))[1]) == 2.0


def test_complex_derivatives_follow_the_conjugation_convention() -> None:
    assert complex(grad(lambda z: abs(z) ** 2)(1 + 1j)) == pytest.approx(2 - 2j)
    assert complex(grad(lambda z: z**3, holomorphic=True)(1 + 1j)) == pytest.approx(3 * (1 + 1j) ** 2)
    z = np.array([1 + 2j, 0.5 - 1j])
    close(jacfwd(lambda z: z * z, holomorphic=True)(z), np.diag(2 * z))
    close(jacrev(lambda z: z * z, holomorphic=True)(z), np.diag(2 * z))


def test_gradients_of_weak_values_are_weak() -> None:
    assert grad(lambda x: x * x)(2.0).aval.weak
    assert not grad(lambda x: x * x)(np.float64(2.0)).aval.weak


# vmap


def test_vmap_axes() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    close(vmap(lambda x, y: x @ y, in_axes=(0, None))(a, b), a @ b)
    close(vmap(lambda x, y: x @ y, in_axes=(None, 1), out_axes=1)(a, b), a @ b)
    close(vmap(lambda x, y: x @ y, in_axes=(None, -1), out_axes=-1)(a, b), a @ b)
    out = vmap(lambda d: {"s": d["x"].sum() + d["y"], "y": d["y"]}, in_axes=({"x": 0, "y": None},), out_axes={"s": 0, "y": None})(
        {"x": a, "y": 2.0}
    )
    close(out["s"], a.sum(1) + 2)
    close(out["y"], 2.0)
    close(vmap(lambda x, *, k: x + k)(X, k=X), 2 * X)
    close(vmap(lambda: 3.0, axis_size=4)(), np.full(4, 3.0))
    close(vmap(lambda x, extra: x, in_axes=(0, None))(X, None), X)
    close(vmap(lambda x: 1.0)(X), np.ones(3))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: vmap(lambda x, y: x)(X, np.ones(2)), ValueError, r"(?s)inconsistent sizes.*x has size 3.*y has size 2"),
        (lambda: vmap(lambda x: x, in_axes=1)(X), ValueError, r"argument x along axis 1.*rank should be at least 2.*\(3,\)"),
        (lambda: vmap(lambda x: x, in_axes=(0, 0))(X), ValueError, r"len\(in_axes\)=2, len\(args\)=1"),
        (lambda: vmap(lambda x: x, out_axes=None)(X), ValueError, r"mapped output but out_axes is None"),
        (lambda: vmap(lambda x: x, in_axes=None)(X), ValueError, r"at least one non-None value in in_axes"),
        (lambda: vmap(lambda x: x, in_axes=({"a": 0},))(X), ValueError, r"tree prefix"),
        (lambda: vmap(lambda x: x, in_axes=0.5)(X), TypeError, r"must be an int, None, or a tuple"),
        (lambda: vmap(3), TypeError, r"expects a function"),
        (lambda: vmap(lambda x: "text")(X), TypeError, r"returned 'text'"),
        (lambda: grad(lambda x: x)(X), TypeError, r"Gradient only defined for scalar-output functions.*\(3,\)"),
        (lambda: grad(lambda x: (x, x))(1.0), TypeError, r"scalar-output.*has_aux=True"),
        (lambda: grad(lambda n: 1.0 * n)(3), TypeError, r"(?s)real- or complex-valued.*n is .*i.*\[\].*allow_int"),
        (lambda: grad(lambda z: z * z)(1j), TypeError, r"real-valued outputs.*holomorphic=True"),
        (lambda: grad(lambda x: x, argnums=2)(1.0), TypeError, r"argnums=2 requires at least 3 positional arguments"),
        (lambda: grad(lambda d: d["a"])({"a": "text"}), TypeError, r"d\['a'\] is 'text'"),
        (lambda: grad(lambda x: x, has_aux=True)(1.0), TypeError, r"must return a pair"),
        (lambda: jvp(lambda x: x, (X,), (X[:2],)), ValueError, r"x has shape \(3,\) and its tangent \(2,\)"),
        (lambda: jvp(lambda x: x, (X,), (X.astype(int),)), TypeError, r"dtypes must be equal.*x has dtype f64"),
        (lambda: jvp(lambda x: x, (X,), (X, X)), TypeError, r"same tree structure"),
        (lambda: jvp(lambda x: x, X, X), TypeError, r"must be tuples or lists"),
        (lambda: vjp(lambda x: (x, x), X)[1](X), ValueError, r"structure of the output"),
        (lambda: vjp(lambda x: x, X)[1](X[:2]), ValueError, r"output is f64\[3\]"),
        (lambda: linearize(lambda x: x, X)[1](X[:2]), ValueError, r"\(3,\) and its tangent \(2,\)"),
        (lambda: linear_transpose(lambda x: x, X)(X[:2]), TypeError, r"must be of that type"),
    ],
)  # fmt: skip
def test_errors_name_what_is_wrong(call: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_cond_with_a_batched_predicate_selects() -> None:
    xs = np.array([-1.0, 0.5, 2.0])
    f = lambda x: cond(x > 0, lambda: x * 2, lambda: -x)  # noqa: E731
    close(vmap(f)(xs), [1.0, 1.0, 4.0])
    close(vmap(grad(f))(xs), [-1.0, 2.0, 2.0])
    i = np.array([-3, 0, 1, 2, 9])
    close(vmap(lambda i: switch(i, [lambda: 10, lambda: 20, lambda: 30]))(i), [10, 10, 20, 30, 30])
    close(vmap(lambda i, x: switch(i, [jnp.sin, jnp.cos, jnp.exp], x), in_axes=(None, 0))(1, xs), np.cos(xs))


# Lean programs


def scans_of(program: Program) -> list[Any]:
    return [e for e in program.equations if e.primitive.name == "scan"]


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


# Collectives


def test_collectives_over_a_named_axis() -> None:
    from tracegrad.transforms import collectives as c

    named = functools.partial(vmap, axis_name="i")
    centered = jit(lambda x: x - c.pmean(x, "i"))
    close(named(centered)(X), X - X.mean())
    close(named(centered)(X[:2]), X[:2] - X[:2].mean())  # traced again: the axis has another size
    close(named(lambda x: c.psum({"a": x, "n": 1}, "i"))(X)["n"], np.full(3, 3))
    close(named(lambda x: c.pmax(x, "i") - c.pmin(x, "i"))(X), np.full(3, X.max() - X.min()))
    close(named(lambda x: c.psum(x, "i"), out_axes=None)(X), X.sum())
    close(named(lambda x: c.all_gather(x, "i"))(X), np.tile(X, (3, 1)))
    close(named(lambda x: c.ppermute(x, "i", [(0, 2), (1, 0)]))(X), [X[1], 0.0, X[0]])
    close(
        named(lambda x: scan(lambda k, _: (k + c.axis_index("i"), k), 0, None, length=3)[1])(X),
        np.outer(np.arange(3), np.arange(3)),
    )
    close(named(grad(lambda x: x * c.psum(x**2, "i")))(X), (X**2).sum() + 2 * X * X.sum())
    loss = lambda x: named(lambda x: x * c.psum(x**2, "i"))(x).sum()  # noqa: E731
    close(grad(loss)(X), numeric(loss, X), 1e-5)
    both = vmap(lambda r: named(lambda x: c.psum(x, ("i", "j")))(r), axis_name="j")
    close(both(W), np.full((3, 3), W.sum()))
    for f in (lambda: c.psum(X, "i"), lambda: named(lambda x: c.psum(x, "k"))(X)):
        with pytest.raises(NameError, match="unbound axis name: '[ik]'"):
            f()
