"""One face for the packages under test: the array functions the problems use, compilation, and derivatives in each package's own way."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

Function = Callable[..., Any]
NAMES = ("tracegrad", "jax", "torch", "autograd")


class Package:
    """What a problem is written against.

    `np` holds the array functions, under NumPy's names and with axes by position. `jit(f)` compiles where the package compiles. `gradient(f, n)` is the
    gradient of a scalar function in its first n arguments. `blocks(f, n)` takes a function of one observation and gives the function of many and its
    Jacobian blocks in the first n arguments. `jacobian(f)` is the Jacobian in the first argument, a short vector, all directions at once where the
    package can; `derivative_along(f, x, direction)` is one directional derivative in the first argument. `scan` is `lax.scan`.
    """

    np: Any
    array: Function
    jit: Function
    scan: Function
    gradient: Function
    blocks: Function
    jacobian: Function
    derivative_along: Function
    wait: Function


def load(name: str) -> Package:
    """The package of that name; ImportError where it is missing."""
    return {"tracegrad": load_tracegrad, "jax": load_jax, "torch": load_torch, "autograd": load_autograd}[name]()


def load_tracegrad() -> Package:
    import tracegrad
    import tracegrad.numpy as tnp
    from tracegrad import lax, nn

    tracegrad.config.update("enable_x64", True)
    return traced(tracegrad, tnp, lax, nn.logsumexp)


def load_jax() -> Package:
    import jax
    import jax.numpy as jnp
    from jax import lax

    jax.config.update("jax_enable_x64", True)
    return traced(jax, jnp, lax, jax.nn.logsumexp)


def traced(j: Any, jnp: Any, lax: Any, logsumexp: Function) -> Package:
    """tracegrad and JAX: one program for both."""
    p = Package()
    p.np = SimpleNamespace(
        **{name: getattr(jnp, name) for name in ("exp", "log", "sqrt", "sin", "cos", "tanh", "sum", "einsum", "zeros")},
        stack=jnp.stack,
        concatenate=jnp.concatenate,
        logsumexp=logsumexp,
    )
    p.array = jnp.asarray
    p.jit = j.jit
    p.scan = lax.scan
    p.gradient = lambda f, n: j.grad(f, tuple(range(n)))

    def blocks(f: Function, n: int) -> tuple[Function, Function]:
        return j.vmap(f), j.vmap(j.jacrev(f, tuple(range(n))))

    p.blocks = blocks
    p.jacobian = j.jacfwd
    p.derivative_along = lambda f, x, direction: j.jvp(f, (x,), (direction,))[1]
    p.wait = j.block_until_ready
    return p


def load_torch() -> Package:
    """PyTorch, eager: `torch.autograd` for gradients, `torch.func` for Jacobians."""
    import torch

    def gradient(f: Function, n: int) -> Function:
        def run(*args: Any) -> Any:
            leaves = [x.detach().requires_grad_() for x in args[:n]]
            return torch.autograd.grad(f(*leaves, *args[n:]), leaves)

        return run

    def blocks(f: Function, n: int) -> tuple[Function, Function]:
        return torch.func.vmap(f), torch.func.vmap(torch.func.jacrev(f, argnums=tuple(range(n))))

    p = Package()
    p.np = SimpleNamespace(
        **{
            name: getattr(torch, name)
            for name in ("exp", "log", "sqrt", "sin", "cos", "tanh", "sum", "einsum", "stack", "concatenate")
        },
        zeros=lambda shape: torch.zeros(shape, dtype=torch.float64),
        logsumexp=torch.logsumexp,
    )
    p.array = torch.from_numpy
    p.jit = lambda f: f
    p.scan = looped(p)
    p.gradient = gradient
    p.blocks = blocks
    p.jacobian = torch.func.jacfwd
    p.derivative_along = lambda f, x, direction: torch.func.jvp(f, (x,), (direction,))[1]
    p.wait = lambda x: x
    return p


def load_autograd() -> Package:
    """HIPS autograd: no batching, so one reverse pass for each row of a block and one forward pass for each direction."""
    import autograd
    import autograd.numpy as anp
    from autograd.scipy.special import logsumexp

    def blocks(f: Function, n: int) -> tuple[Function, Function]:
        # the functions of one observation work on the last axis, hence on many observations as they are
        def jacobian(*args: Any) -> tuple[Any, ...]:
            pull, value = autograd.make_vjp(lambda leaves: f(*leaves, *args[n:]))(tuple(args[:n]))
            rows = []
            for row in range(value.shape[-1]):
                seed = np.zeros(value.shape)
                seed[..., row] = 1.0
                rows.append(pull(seed))
            return tuple(np.stack([row[k] for row in rows], axis=1) for k in range(n))

        return f, jacobian

    def jacobian(f: Function) -> Function:
        def run(x: Any, *rest: Any) -> Any:
            push = autograd.make_jvp(lambda x: f(x, *rest))(x)
            return np.stack([push(direction)[1] for direction in np.eye(len(x))], axis=-1)

        return run

    p = Package()
    p.np = SimpleNamespace(
        **{
            name: getattr(anp, name)
            for name in ("exp", "log", "sqrt", "sin", "cos", "tanh", "sum", "einsum", "zeros", "stack", "concatenate")
        },
        logsumexp=logsumexp,
    )
    p.array = np.asarray
    p.jit = lambda f: f
    p.scan = looped(p)

    def gradient(f: Function, n: int) -> Function:
        return autograd.grad(f, tuple(range(n)))

    p.gradient = gradient
    p.blocks = blocks
    p.jacobian = jacobian
    p.derivative_along = lambda f, x, direction: autograd.make_jvp(f)(x)(direction)[1]
    p.wait = lambda x: x
    return p


def looped(p: Package) -> Function:
    """`scan` as a Python loop, for packages without one."""

    def scan(step: Function, carry: Any, xs: Any) -> tuple[Any, Any]:
        ys = []
        for x in xs:
            carry, y = step(carry, x)
            ys.append(y)
        return carry, p.np.stack(ys, 0)

    return scan
