"""What tests of derivatives share: numeric derivatives, staging without compiling, a check under all compositions, custom functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
import tracegrad.runtime.eager  # noqa: F401  installs the interpreter at the bottom
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.calls import call_p
from tracegrad.ir.program import Program
from tracegrad.ir.verify import verify
from tracegrad.tracer.pytree import tree_flatten, tree_unflatten
from tracegrad.tracer.staging import trace
from tracegrad.transforms.api import grad, jvp, vjp
from tracegrad.transforms.checkpoint import checkpoint
from tracegrad.transforms.custom import custom_jvp, custom_vjp
from tracegrad.transforms.jacobians import hessian, jacfwd, jacrev
from tracegrad.transforms.vmap import vmap


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


def scans_of(program: Program) -> list[Any]:
    return [e for e in program.equations if e.primitive.name == "scan"]
