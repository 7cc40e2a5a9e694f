"""The functions that users call, on pytrees and along axes: grad, vjp, jvp, linearize, linear_transpose, vmap, Jacobians; and their errors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from transform_harness import W, X, close, numeric, staged

import tracegrad.numpy as jnp
import tracegrad.runtime.eager  # noqa: F401  installs the interpreter at the bottom
from tracegrad.ir.array import Array
from tracegrad.ir.types import float0
from tracegrad.runtime.jit import jit
from tracegrad.tracer.control_flow import cond, scan, switch
from tracegrad.tracer.pytree import tree_flatten, tree_unflatten
from tracegrad.transforms.api import grad, jvp, linear_transpose, linearize, value_and_grad, vjp
from tracegrad.transforms.checkpoint import checkpoint
from tracegrad.transforms.jacobians import hessian, jacfwd, jacrev
from tracegrad.transforms.vmap import vmap

pytestmark = pytest.mark.usefixtures("double_precision")

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
