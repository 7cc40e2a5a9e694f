"""custom_linear_solve and custom_root: derivatives by the implicit function theorem, in both modes and under every transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import checkpoint, grad, hessian, jacfwd, jacobian, jacrev, jit, jvp, lax, vmap
from tracegrad.scipy.linalg import solve_triangular
from tracegrad.test_util import check_grads

pytestmark = pytest.mark.usefixtures("double_precision")

A = np.array([[2.0, 1.0], [0.5, 3.0]])
B = np.array([1.0, 2.0])


def richardson(matvec: Callable[[Any], Any], b: Any) -> Any:
    """An iteration whose number of steps depends on the data."""

    def far(x: Any) -> Any:
        return jnp.abs(matvec(x) - b).max() > 1e-12

    return lax.while_loop(far, lambda x: x - 0.3 * (matvec(x) - b), jnp.zeros_like(b))


def iterative(a: Any, b: Any) -> Any:
    return lax.custom_linear_solve(lambda x: a @ x, b, richardson, richardson)


def direct(a: Any, b: Any) -> Any:
    # The solvers read `a` behind their arguments.
    return lax.custom_linear_solve(lambda x: a @ x, b, lambda _, b: jnp.linalg.solve(a, b), lambda _, b: jnp.linalg.solve(a.T, b))


def by_hand(a: Any, b: Any) -> Any:
    return jnp.linalg.solve(a, b)


SOLVES = pytest.mark.parametrize("solve", [iterative, direct])


def same(f: Any, g: Any, *args: Any) -> None:
    for x, y in zip(tracegrad.tree.leaves(f(*args)), tracegrad.tree.leaves(g(*args)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-9)


@SOLVES
def test_a_linear_solve_in_both_modes(solve: Any) -> None:
    same(solve, by_hand, A, B)
    loss = lambda solve: lambda a, b: (solve(a, b) ** 3).sum()  # noqa: E731
    same(grad(loss(solve), (0, 1)), grad(loss(by_hand), (0, 1)), A, B)
    same(jit(grad(loss(solve), (0, 1))), grad(loss(by_hand), (0, 1)), A, B)
    tangents = (np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([5.0, 6.0]))
    same(lambda: jvp(solve, (A, B), tangents), lambda: jvp(by_hand, (A, B), tangents))
    same(lambda: jit(lambda *t: jvp(solve, (A, B), t))(*tangents), lambda: jvp(by_hand, (A, B), tangents))
    same(hessian(loss(solve)), hessian(loss(by_hand)), A, B)
    same(jacrev(jacfwd(loss(solve), 1)), jacrev(jacfwd(loss(by_hand), 1)), A, B)
    if solve is direct:
        check_grads(solve, (A, B), 2)


@SOLVES
def test_batches_of_linear_solves(solve: Any) -> None:
    many = np.stack([A, 1.1 * A]), np.stack([B, 2.0 * B])
    for axes in ((0, 0), (0, None), (None, 0)):
        args = tuple(m if d == 0 else m[0] for m, d in zip(many, axes))
        total = lambda solve, axes=axes: lambda *xs: (vmap(solve, axes)(*xs) ** 2).sum()  # noqa: E731
        same(vmap(solve, axes), vmap(by_hand, axes), *args)
        same(grad(total(solve), (0, 1)), grad(total(by_hand), (0, 1)), *args)
        each = lambda solve, axes=axes: vmap(grad(lambda a, b: (solve(a, b) ** 2).sum(), (0, 1)), axes)  # noqa: E731
        same(each(solve), each(by_hand), *args)
        same(jit(each(solve)), each(by_hand), *args)
        same(lambda *args, axes=axes: vmap(lambda a, b: jvp(solve, (a, b), (a, 2.0 * b)), axes)(*args),
             lambda *args, axes=axes: vmap(lambda a, b: jvp(by_hand, (a, b), (a, 2.0 * b)), axes)(*args), *args)  # fmt: skip


@SOLVES
def test_linear_solves_in_loops_branches_and_checkpoints(solve: Any) -> None:
    def looped(solve: Any) -> Any:
        return lambda a: lax.scan(lambda c, _: (solve(a, c), solve(a, c + 1.0)), jnp.asarray(B), None, length=2)[1].sum()

    def branched(solve: Any) -> Any:
        return lambda a: lax.cond(a[0, 0] > 0.0, lambda b: solve(a, b), lambda b: b, jnp.asarray(B)).sum()

    def saved(solve: Any) -> Any:
        return checkpoint(lambda a: solve(a, jnp.asarray(B)).sum())

    for f in (looped, branched, saved):
        for wrap in (lambda g: g, jit):
            same(wrap(grad(f(solve))), grad(f(by_hand)), A)
        same(jacfwd(f(solve)), jacfwd(f(by_hand)), A)
    same(jit(vmap(grad(looped(solve)))), vmap(grad(looped(by_hand))), np.stack([A, 1.1 * A]))


def test_a_symmetric_system_needs_one_solver() -> None:
    s = np.array([[2.0, 1.0], [1.0, 3.0]])

    def solve(matvec: Any, b: Any) -> Any:
        return jnp.linalg.solve(jacobian(matvec)(b), b)

    f = lambda s, b: lax.custom_linear_solve(lambda x: s @ x, b, solve, symmetric=True)  # noqa: E731
    same(grad(lambda s, b: f(s, b)[0], (0, 1)), grad(lambda s, b: by_hand(s, b)[0], (0, 1)), s, B)
    same(hessian(lambda b: f(s, b)[0] ** 2), hessian(lambda b: by_hand(s, b)[0] ** 2), B)


def test_containers_and_auxiliary_data() -> None:
    def f(a: Any, b: Any) -> Any:
        def divide(_: Any, b: Any) -> Any:
            x = {"u": b["u"] / a, "v": b["v"] / (2.0 * a)}
            return x, {"steps": jnp.int32(3), "norm": b["u"] * a}

        matvec = lambda x: {"u": x["u"] * a, "v": x["v"] * 2.0 * a}  # noqa: E731
        return lax.custom_linear_solve(matvec, b, divide, divide, has_aux=True)

    b = {"u": np.array(1.0), "v": np.ones(2)}
    x, aux = f(3.0, b)
    assert int(aux["steps"]) == 3 and float(aux["norm"]) == 3.0
    np.testing.assert_allclose(x["v"], np.full(2, 1 / 6))
    for mode in (jacfwd, jacrev):
        np.testing.assert_allclose(mode(lambda a: f(a, b)[0]["v"])(3.0), np.full(2, -1 / 18))
        assert float(mode(lambda a: f(a, b)[1]["norm"])(3.0)) == 0.0  # auxiliary data is constant
    g = grad(lambda a, b: f(a, b)[0]["u"] + f(a, b)[0]["v"].sum(), (0, 1))(3.0, b)
    np.testing.assert_allclose(g[0], -1 / 9 - 1 / 9)
    np.testing.assert_allclose(g[1]["u"], 1 / 3)
    assert vmap(f, (0, None))(np.array([1.0, 2.0]), b)[1]["steps"].tolist() == [3, 3]


def test_complex_systems() -> None:
    a = A + 1j * np.array([[0.0, 1.0], [2.0, 0.0]])
    loss = lambda solve: lambda a, b: jnp.abs(solve(a, b) ** 2).sum()  # noqa: E731
    b = B + 1j
    same(grad(loss(direct), (0, 1)), grad(loss(by_hand), (0, 1)), a, b)


def test_solvers_see_concrete_values_outside_jit() -> None:
    steps: list[float] = []

    def newton(f: Any, x: Any) -> Any:
        while abs(float(f(x))) > 1e-12:
            steps.append(float(x))
            x = x - f(x) / grad(f)(x)
        return x

    root = lambda a: lax.custom_root(lambda x: x**2 - a, jnp.asarray(1.0), newton, lambda g, y: y / g(1.0))  # noqa: E731
    np.testing.assert_allclose(grad(root)(2.0), 0.5 / np.sqrt(2.0))
    assert 3 < len(steps) < 10


def square_root(a: Any) -> Any:
    def newton(f: Any, guess: Any) -> Any:
        return lax.while_loop(lambda x: jnp.abs(f(x)) > 1e-12, lambda x: x - f(x) / (2.0 * x), guess)

    return lax.custom_root(lambda x: x**2 - a, 1.0 + 0.0 * a, newton, lambda g, y: y / g(1.0))


def test_a_root_in_both_modes_to_any_order() -> None:
    for a in (2.0, 3.0):
        np.testing.assert_allclose(square_root(a), np.sqrt(a))
        for f in (grad, jacfwd, lambda f: jit(grad(f)), lambda f: grad(jit(f)), lambda f: grad(checkpoint(f))):
            np.testing.assert_allclose(f(square_root)(a), 0.5 * a**-0.5)
        for f in (lambda f: grad(grad(f)), hessian, lambda f: jit(jacfwd(jacfwd(f)))):
            np.testing.assert_allclose(f(square_root)(a), -0.25 * a**-1.5)
    check_grads(square_root, (2.0,), 3)


def test_batches_of_roots_and_roots_in_loops() -> None:
    xs = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(vmap(square_root)(xs), np.sqrt(xs))
    np.testing.assert_allclose(jit(vmap(grad(square_root)))(xs), 0.5 / np.sqrt(xs))
    np.testing.assert_allclose(grad(lambda xs: vmap(square_root)(xs).sum())(xs), 0.5 / np.sqrt(xs))
    looped = lambda root: lambda x: lax.scan(lambda c, _: (root(c + x), None), x, None, length=2)[0]  # noqa: E731
    for f in (grad(looped(square_root)), jit(grad(looped(square_root))), jacfwd(looped(square_root))):
        np.testing.assert_allclose(f(2.0), grad(looped(jnp.sqrt))(2.0))


def test_a_vector_root_transposes_the_tangent_solver() -> None:
    lower = np.tril(A)

    def root(a: Any, b: Any) -> Any:
        # The tangent solver knows that the Jacobian is lower triangular: of the transposed one it would read the wrong half.
        return lax.custom_root(
            lambda x: jnp.tril(a) @ x - b,
            jnp.zeros(2),
            lambda f, x: jnp.linalg.solve(jacobian(f)(x), -f(x)),
            lambda g, y: solve_triangular(jacobian(g)(y), y, lower=True),
        )

    expected = lambda a, b: jnp.linalg.solve(jnp.tril(a), b)  # noqa: E731
    loss = lambda f: lambda a, b: (f(a, b) ** 2).sum()  # noqa: E731
    same(root, expected, lower, B)
    same(grad(loss(root), (0, 1)), grad(loss(expected), (0, 1)), A, B)
    same(hessian(loss(root)), hessian(loss(expected)), A, B)
    same(vmap(grad(loss(root)), (0, None)), vmap(grad(loss(expected)), (0, None)), np.stack([A, 2.0 * A]), B)


def test_an_iterative_tangent_solver_belongs_into_a_linear_solve() -> None:
    def root(a: Any) -> Any:
        def tangent_solve(g: Any, y: Any) -> Any:
            return lax.custom_linear_solve(g, y, richardson, richardson)

        return lax.custom_root(lambda x: a @ x - B, jnp.zeros(2), richardson, tangent_solve)

    expected = lambda a: jnp.linalg.solve(a, B)  # noqa: E731
    for mode in (jacfwd, jacrev, lambda f: jit(jacrev(f))):
        same(mode(root), mode(expected), A)


def test_a_root_with_containers_auxiliary_data_and_integers() -> None:
    def f(a: Any, n: Any) -> Any:
        return lax.custom_root(
            lambda x: {"u": x["u"] ** n - a, "v": x["v"] - 2.0 * a},
            {"u": jnp.asarray(1.0), "v": jnp.asarray(1.0)},
            lambda f, x: ({"u": a ** (1 / n), "v": 2.0 * a}, (jnp.int32(5), a)),
            lambda g, y: {"u": y["u"] / g({"u": 1.0, "v": 0.0})["u"], "v": y["v"]},
            has_aux=True,
        )

    x, aux = f(3.0, 2)
    assert int(aux[0]) == 5
    for mode in (jacfwd, jacrev, lambda f: jit(jacrev(f)), lambda f: lambda a: vmap(jacrev(f))(jnp.asarray([a]))):
        slopes, slope_of_aux = mode(lambda a: (f(a, 2)[0], f(a, 2)[1][1]))(3.0)
        np.testing.assert_allclose(np.ravel(slopes["u"]), [0.5 / np.sqrt(3.0)])
        np.testing.assert_allclose(np.ravel(slopes["v"]), [2.0])
        assert np.ravel(slope_of_aux).tolist() == [0.0]
    assert float(grad(lambda g: lax.custom_root(lambda x: x - 1.0, g, lambda f, g: g, lambda g, y: y))(1.0)) == 0.0


def test_wrong_structures_and_shapes() -> None:
    pair = lambda f, x: (x,)  # noqa: E731
    double = lambda f, x: jnp.stack([x, x])  # noqa: E731
    same_back = lambda f, x: x  # noqa: E731
    linear, root = lax.custom_linear_solve, lax.custom_root
    for call, error, message in (
        (lambda: linear(lambda x: (x,), 1.0, same_back), TypeError, r"matvec\(\) output pytree structure must match b"),
        (lambda: linear(lambda x: jnp.stack([x, x]), 1.0, same_back), ValueError, r"matvec\(\) output shapes must match b"),
        (lambda: linear(lambda x: x, 1.0, pair), TypeError, r"solve\(\) output pytree structure must match b"),
        (lambda: linear(lambda x: x, 1.0, double), ValueError, r"solve\(\) output shapes must match b"),
        (lambda: linear(lambda x: x, 1.0, lambda f, b: f(jnp.ones(2))), ValueError, r"matvec\(\) input shapes must match b"),
        (lambda: linear(lambda x: x, 1.0, same_back, has_aux=True), TypeError, "has_aux=True: solve must return a pair"),
        (lambda: linear(lambda x: x, 1.0, 3), TypeError, "expects its solvers to be functions, got 3"),
        (lambda: linear(lambda x: x, "b", same_back), TypeError, "not an array or a number"),
        (lambda: root(lambda x: (x,), 1.0, same_back, same_back), TypeError, r"f\(\) output pytree structure must match initial_guess"),
        (lambda: root(lambda x: x, 1.0, pair, same_back), TypeError, r"solve\(\) output pytree structure must match initial_guess"),
        (lambda: grad(lambda a: root(lambda x: x - a, 1.0, same_back, pair))(1.0), TypeError, r"tangent_solve\(\) output pytree"),
        (lambda: grad(lambda a: root(lambda x: x - a, 1.0, same_back, double))(1.0), ValueError, r"tangent_solve\(\) output shapes"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()


def test_reverse_mode_needs_a_transpose_solve() -> None:
    f = lambda b: lax.custom_linear_solve(lambda x: 2.0 * x, b, lambda _, b: b / 2.0)  # noqa: E731
    assert float(jvp(f, (1.0,), (1.0,))[1]) == 0.5
    with pytest.raises(TypeError, match="transpose_solve required for backwards mode"):
        grad(f)(1.0)


def test_a_solution_depends_on_all_of_its_right_hand_side() -> None:
    from tracegrad import sparse

    f = lambda b: lax.custom_linear_solve(lambda x: 2.0 * x, b**2, lambda _, b: b / 2.0) + 0.0 * b  # noqa: E731
    pattern = sparse.jacobian_pattern(f, jnp.ones(3))
    assert len(pattern.rows) == 9


def test_a_linear_call_brings_its_transpose() -> None:
    from tracegrad.custom_derivatives import linear_call

    def f(r: Any, x: Any) -> Any:
        # The transpose is another function, so that it shows.
        apply = lambda r, x: {"y": x["x"] * r}  # noqa: E731
        return linear_call(apply, lambda r, ct: {"x": 10.0 * r * ct["y"]}, r, {"x": x})["y"]

    slope = lambda x: f(2.0, x)  # noqa: E731
    assert float(f(2.0, 3.0)) == 6.0
    assert float(jvp(slope, (3.0,), (1.0,))[1]) == 2.0
    for wrap in (
        grad,
        lambda g: jit(grad(g)),
        lambda g: grad(jit(g)),
        lambda g: lambda x: tracegrad.linear_transpose(g, x)(1.0)[0],
    ):
        assert float(wrap(slope)(3.0)) == 20.0
    rs = jnp.asarray([1.0, 2.0])
    np.testing.assert_allclose(vmap(grad(f, 1))(rs, rs), 10.0 * rs)
    np.testing.assert_allclose(grad(lambda x: vmap(f, (0, None))(rs, x).sum())(1.0), 30.0)
    closed = lambda w, x: linear_call(lambda _, x: w * x, lambda _, ct: 10.0 * w * ct, (), x)  # noqa: E731
    np.testing.assert_allclose(jit(vmap(grad(closed, 1)))(rs, rs), 10.0 * rs)
    with pytest.raises(NotImplementedError, match="with respect to its residual arguments"):
        grad(f)(2.0, 3.0)
    with pytest.raises(TypeError, match="must give the structure of the linear arguments"):
        grad(lambda x: linear_call(lambda r, x: x, lambda r, ct: (ct,), (), x))(1.0)
    with pytest.raises(TypeError, match=r"gave f64\[2\] as the cotangent of an argument f64\[\]"):
        grad(lambda x: linear_call(lambda r, x: x, lambda r, ct: jnp.stack([ct, ct]), (), x))(1.0)
