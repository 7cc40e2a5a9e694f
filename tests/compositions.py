"""Transforms as operators on functions from R^2 to R^2, each with an oracle, so that any order of any of them can be generated and checked.

A transform here takes such a function to another (the gradient of a weighted sum of its outputs, its derivative along a direction, a sum over a
batch of shifted arguments, a loop that applies it ...), so that compositions are products of operators. Each comes in several variants:
pytrees, auxiliary data, argument positions, axes. The oracle of a variant is Python: loops over examples and steps, and for derivatives
differences of the function that the transform is applied to. Differences of sixth order whose step is a power of two meet few distinct
points, exactly, however they nest; so every function remembers its values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from composition_functions import STEP, Base

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax

Function = Callable[[Any], Any]

# Oracles

H = 1 / 64
STENCIL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
W = np.array([0.5, -1.25])  # a cotangent
V = np.array([0.75, 0.5])  # a tangent


def remembered(call: Function) -> Function:
    """`call`, whose values are computed once for each argument."""
    memory: dict[bytes, np.ndarray] = {}

    def lookup(x: np.ndarray) -> np.ndarray:
        key = x.tobytes()
        value = memory.get(key)
        if value is None:
            value = memory[key] = call(x)
        return value

    return lookup


def jacobian_at(f: Function, x: np.ndarray) -> np.ndarray:
    """The Jacobian by central differences of sixth order."""
    return np.stack([sum(c * (f(x + k * e) - f(x - k * e)) for k, c in STENCIL) / H for e in np.eye(2) * H], -1)


Oracle = Callable[[Function], Function]


def of_jacobian(reduce: Callable[[np.ndarray, Any, Any], Any]) -> Oracle:
    """The oracle of a derivative: `reduce(Jacobian, argument, function)`."""
    return lambda f: lambda x: reduce(jacobian_at(f, x), x, f)


def of_points(reduce: Callable[[Function, np.ndarray], np.ndarray]) -> Oracle:
    """The oracle of what evaluates its function at some points."""
    return lambda f: lambda x: reduce(f, x)


def of_hessian(f: Function) -> Function:
    gradient = remembered(lambda x: W @ jacobian_at(f, x))
    return lambda x: jacobian_at(gradient, x) @ V


pulled = of_jacobian(lambda j, x, f: W @ j)
pushed = of_jacobian(lambda j, x, f: j @ V)
unchanged = of_points(lambda f, x: f(x))
weighted_pair = of_points(lambda f, x: f(x) - 0.5 * f(x + STEP))


# Operators


class Variant(NamedTuple):
    """One way to use a transform.

    apply: the operator, for traceable functions. oracle: the operator on functions of NumPy arrays. order: how often it differentiates. mode:
    "forward" or "reverse" if it does, "jvp rule" or "vjp rule" if it replaces derivatives.
    """

    transform: str
    apply: Callable[[Function], Function]
    oracle: Oracle
    order: int = 0
    mode: str = ""

    @property
    def name(self) -> str:
        return self.apply.__name__


TRANSFORMS: dict[str, list[Variant]] = {}


def variant(transform: str, oracle: Oracle, order: int = 0, mode: str = "") -> Callable[[Any], Any]:
    def register(apply: Any) -> Any:
        TRANSFORMS.setdefault(transform, []).append(Variant(transform, apply, oracle, order, mode))
        return apply

    return register


def is_complex(x: Any) -> bool:
    return bool(jnp.iscomplexobj(x))


def like(constant: np.ndarray, x: Any) -> Any:
    return jnp.asarray(constant, x.dtype)


def as_tree(x: Any) -> Any:
    return {"a": x[0], "b": (x[1], None)}


def from_tree(t: Any) -> Any:
    return jnp.stack([t["a"], t["b"][0]])


def on_trees(f: Function) -> Function:
    return lambda t: as_tree(f(from_tree(t)))


def combined(rows: Any) -> Any:
    return rows[0] - 0.5 * rows[1]


def pair_of(x: Any) -> Any:
    return jnp.stack([x, x + STEP])


# Reverse mode


@variant("grad", pulled, 1, "reverse")
def grad(f: Function) -> Function:
    return lambda x: tg.grad(lambda y: jnp.sum(W * f(y)), holomorphic=is_complex(x))(x)


@variant("grad", of_jacobian(lambda j, x, f: W @ j + 0.5 * f(x)), 1, "reverse")
def grad_with_aux(f: Function) -> Function:
    def pair(y: Any) -> Any:
        value = f(y)
        return jnp.sum(W * value), {"value": value, "text": "not an array"}

    def differentiated(x: Any) -> Any:
        g, aux = tg.grad(pair, has_aux=True, holomorphic=is_complex(x))(x)
        return g + 0.5 * aux["value"]

    return differentiated


@variant("grad", of_jacobian(lambda j, x, f: (W * x) @ j + W * f(x) + np.sum(W * f(x) * x)), 1, "reverse")
def grad_of_arguments(f: Function) -> Function:
    """The value and the gradients with respect to two of three arguments, one of them a pytree."""

    def scaled(s: Any, n: int, t: Any) -> Any:
        return jnp.sum(W * f(from_tree(t)) * s) * n

    def differentiated(x: Any) -> Any:
        value, (ds, dt) = tg.value_and_grad(scaled, argnums=(0, -1), holomorphic=is_complex(x))(x, 1, as_tree(x))
        return ds + from_tree(dt) + value

    return differentiated


@variant("vjp", pulled, 1, "reverse")
def vjp(f: Function) -> Function:
    return lambda x: tg.vjp(f, x)[1](like(W, x))[0]


@variant("vjp", of_jacobian(lambda j, x, f: (x + W) @ j + f(x)), 1, "reverse")
def vjp_called_twice(f: Function) -> Function:
    """A pullback applied to a cotangent that depends on the argument, and to one that does not."""

    def differentiated(x: Any) -> Any:
        value, pullback = tg.vjp(f, x)
        return pullback(x)[0] + pullback(like(W, x))[0] + value

    return differentiated


@variant("vjp", of_jacobian(lambda j, x, f: W @ j + x * f(x)), 1, "reverse")
def vjp_of_trees(f: Function) -> Function:
    def pair(t: Any) -> Any:
        value = f(from_tree(t))
        return as_tree(value), value

    def differentiated(x: Any) -> Any:
        _, pullback, aux = tg.vjp(pair, as_tree(x), has_aux=True)
        (ct,) = tg.jit(lambda p, w: p(w))(pullback, as_tree(like(W, x)))
        return from_tree(ct) + aux * x

    return differentiated


# Forward mode


@variant("jvp", pushed, 1, "forward")
def jvp(f: Function) -> Function:
    return lambda x: tg.jvp(f, (x,), (like(V, x),))[1]


@variant("jvp", of_jacobian(lambda j, x, f: j @ x + 2 * f(x)), 1, "forward")
def jvp_with_aux(f: Function) -> Function:
    def differentiated(x: Any) -> Any:
        value, slope, aux = tg.jvp(lambda y: (f(y), [f(y)]), (x,), (x,), has_aux=True)
        return value + slope + aux[0]

    return differentiated


@variant("jvp", of_jacobian(lambda j, x, f: 2 * j @ V + 0.5 * f(x)), 1, "forward")
def jvp_of_arguments(f: Function) -> Function:
    """Tangents of a pytree, of an integer and of a number."""

    def product(t: Any, n: int, s: float) -> Any:
        return on_trees(lambda y: f(y) * n * s)(t)

    def differentiated(x: Any) -> Any:
        s = jnp.ones((), x.dtype)
        primals, tangents = (as_tree(x), 2, s), (as_tree(like(V, x)), np.zeros((), tg.float0), 0.25 * s)
        return from_tree(tg.jvp(product, primals, tangents)[1])

    return differentiated


@variant("linearize", pushed, 1, "forward")
def linearize(f: Function) -> Function:
    return lambda x: tg.linearize(f, x)[1](like(V, x))


@variant("linearize", of_jacobian(lambda j, x, f: j @ (x - 0.5 * V) + f(x)), 1, "forward")
def linearize_batched(f: Function) -> Function:
    """A linearized function over pytrees, applied to a batch of tangents."""

    def differentiated(x: Any) -> Any:
        value, linear = tg.linearize(on_trees(f), as_tree(x))
        tangents = tg.vmap(as_tree)(jnp.stack([x, like(V, x)]))
        return combined(from_tree(tg.vmap(linear)(tangents)).T) + from_tree(value)

    return differentiated


# Transposition


@variant("linear_transpose", pulled, 1, "reverse")
def transposed_derivative(f: Function) -> Function:
    return lambda x: tg.linear_transpose(tg.linearize(f, x)[1], x)(like(W, x))[0]


@variant("linear_transpose", of_points(lambda f, x: (f(x) * W)[::-1] + W))
def transposed_product(f: Function) -> Function:
    return lambda x: tg.linear_transpose(lambda t: f(x) * t[::-1] + t, tg.ShapeDtypeStruct((2,), x.dtype))(like(W, x))[0]


def _power_transposed(f: Function, x: np.ndarray) -> np.ndarray:
    m = np.diag(f(x))[:, ::-1]
    return (m @ (m + np.eye(2)) + np.eye(2)).T @ W


@variant("linear_transpose", of_points(_power_transposed))
def transposed_loop(f: Function) -> Function:
    """The transpose of a scan that is linear in its carry and in a constant."""

    def transposed(x: Any) -> Any:
        y = f(x)
        linear = lambda t: lax.scan(lambda c, _: (c[::-1] * y + t, None), t, None, length=2)[0]  # noqa: E731
        return tg.linear_transpose(linear, x)(like(W, x))[0]

    return transposed


# Batching


@variant("vmap", weighted_pair)
def vmap(f: Function) -> Function:
    return lambda x: combined(tg.vmap(f)(pair_of(x)))


@variant("vmap", of_points(lambda f, x: f(x) - 0.5 * f(x + np.array([1.0, 0.0])) + 3 * x))
def vmap_of_trees(f: Function) -> Function:
    """One leaf mapped along its last axis, one shared; one output with the axis in the middle, one without."""

    def batched(x: Any) -> Any:
        tree = {"a": jnp.stack([x[:1], x[:1] + 1], -1), "b": (x[1:], None)}
        run = tg.vmap(
            lambda t, c: {"rows": f(jnp.concatenate([t["a"], t["b"][0]]))[:, None], "shared": c * 3},
            in_axes=({"a": -1, "b": None}, None),
            out_axes={"rows": 1, "shared": None},
        )
        out = run(tree, x)
        return combined(out["rows"][:, :, 0].T) + out["shared"]

    return batched


@variant("vmap", of_points(lambda f, x: 0.25 * (f(x) + f(x + STEP)) - f(x + STEP)))
def vmap_with_collectives(f: Function) -> Function:
    def one(y: Any) -> Any:
        value = f(y)
        return lax.pmean(value, "i") + 2 * lax.axis_index("i") * value

    return lambda x: combined(tg.vmap(one, axis_name="i")(pair_of(x)))


@variant("vmap", of_points(lambda f, x: -0.5 * f(x) * x))
def vmap_of_shared(f: Function) -> Function:
    """The function reads no batched value; its result meets one."""
    return lambda x: tg.vmap(lambda c: c * f(x), out_axes=1, axis_size=2)(x * np.array([[1.0], [-1.5]])).sum(1)


# Calls


@variant("jit", unchanged)
def jit(f: Function) -> Function:
    return lambda x: tg.jit(f)(x)


@variant("jit", of_points(lambda f, x: 2 * f(x) * x))
def jit_of_trees(f: Function) -> Function:
    """A compiled function with a static argument and a captured value, called twice."""

    def compiled(x: Any) -> Any:
        call = tg.jit(lambda n, t, *, s: as_tree(f(from_tree(t)) * s * x * n), static_argnums=0)
        return from_tree(call(2, as_tree(x), s=3)) - from_tree(call(2, as_tree(x), s=2))

    return compiled


@variant("checkpoint", unchanged)
def checkpoint(f: Function) -> Function:
    return lambda x: tg.checkpoint(f)(x)


@variant("checkpoint", of_points(lambda f, x: np.sin(f(x)) * x))
def checkpoint_with_policy(f: Function) -> Function:
    def checkpointed(x: Any) -> Any:
        @functools.partial(tg.checkpoint, policy=tg.checkpoint_policies.save_only_these_names("value"), prevent_cse=False)
        def call(t: Any) -> Any:
            return jnp.sin(tg.ad_checkpoint.checkpoint_name(f(from_tree(t)), "value")) * x

        return call(as_tree(x))

    return checkpointed


# Custom rules


@variant("custom_jvp", unchanged, mode="jvp rule")
def custom_jvp(f: Function) -> Function:
    call = tg.custom_jvp(lambda y: f(y))
    call.defjvp(lambda primals, tangents: tg.jvp(f, primals, tangents))
    return lambda x: call(x)


@variant("custom_jvp", of_points(lambda f, x: 2 * f(x) * x), mode="jvp rule")
def custom_jvp_of_arguments(f: Function) -> Function:
    """A rule for each of two arguments, in a function with one that is not differentiated."""

    @functools.partial(tg.custom_jvp, nondiff_argnums=(0,))
    def call(n: int, t: Any, s: Any) -> Any:
        return as_tree(f(from_tree(t)) * s * n)

    @call.defjvp
    def rule(n: int, primals: Any, tangents: Any) -> Any:
        (t, s), (dt, ds) = primals, tangents
        value, slope = tg.jvp(f, (from_tree(t),), (from_tree(dt),))
        return call(n, t, s), as_tree(slope * s * n + value * ds * n)

    return lambda x: from_tree(call(2, as_tree(x), x))


@variant("custom_vjp", unchanged, mode="vjp rule")
def custom_vjp(f: Function) -> Function:
    call = tg.custom_vjp(lambda y: f(y))
    call.defvjp(lambda y: tg.vjp(f, y), lambda pullback, ct: pullback(ct))
    return lambda x: call(x)


@variant("custom_vjp", of_points(lambda f, x: 2 * f(x) * x + x), mode="vjp rule")
def custom_vjp_of_arguments(f: Function) -> Function:
    """Pytrees, a function among the residuals, an argument that is not differentiated."""

    @functools.partial(tg.custom_vjp, nondiff_argnums=(1,))
    def call(t: Any, n: int, s: Any) -> Any:
        return as_tree(f(from_tree(t)) * s * n), s

    def forward(t: Any, n: int, s: Any) -> Any:
        value, pullback = tg.vjp(f, from_tree(t))
        return (as_tree(value * s * n), s), (value, pullback, s)

    def backward(n: int, saved: Any, ct: Any) -> Any:
        value, pullback, s = saved
        return as_tree(pullback(from_tree(ct[0]) * s * n)[0]), value * from_tree(ct[0]) * n + ct[1]

    call.defvjp(forward, backward)

    def applied(x: Any) -> Any:
        tree, s = call(as_tree(x), 2, x)
        return from_tree(tree) + s

    return applied


# Jacobians


@variant("jacfwd", pushed, 1, "forward")
def jacfwd(f: Function) -> Function:
    return lambda x: tg.jacfwd(f, holomorphic=is_complex(x))(x) @ V


@variant("jacfwd", of_jacobian(lambda j, x, f: j @ V + f(x) * V + f(x) * x), 1, "forward")
def jacfwd_of_trees(f: Function) -> Function:
    def product(s: Any, t: Any) -> Any:
        value = f(from_tree(t)) * s
        return as_tree(value), value

    def differentiated(x: Any) -> Any:
        found, aux = tg.jacfwd(product, argnums=(1, 0), has_aux=True, holomorphic=is_complex(x))(jnp.ones_like(x), as_tree(x))
        rows = [found["a"], found["b"][0]]
        return jnp.stack([from_tree(dt) @ V + ds @ V for dt, ds in rows]) + aux * x

    return differentiated


@variant("jacrev", pulled, 1, "reverse")
def jacrev(f: Function) -> Function:
    return lambda x: W @ tg.jacrev(f, holomorphic=is_complex(x))(x)


@variant("jacrev", of_jacobian(lambda j, x, f: W @ j + W * f(x) + f(x) * x), 1, "reverse")
def jacrev_of_trees(f: Function) -> Function:
    def product(s: Any, t: Any) -> Any:
        value = f(from_tree(t)) * s
        return as_tree(value), value

    def differentiated(x: Any) -> Any:
        found, aux = tg.jacrev(product, argnums=(1, 0), has_aux=True, holomorphic=is_complex(x))(jnp.ones_like(x), as_tree(x))
        rows = [found["a"], found["b"][0]]
        return sum(w * (from_tree(dt) + ds) for w, (dt, ds) in zip(W, rows)) + aux * x

    return differentiated


@variant("hessian", of_hessian, 2, "reverse")
def hessian(f: Function) -> Function:
    return lambda x: tg.hessian(lambda y: jnp.sum(W * f(y)), holomorphic=is_complex(x))(x) @ V


@variant("hessian", of_hessian, 2, "reverse")
def hessian_of_trees(f: Function) -> Function:
    """Of all outputs, with respect to a pytree."""

    def differentiated(x: Any) -> Any:
        found = tg.hessian(lambda t: f(from_tree(t)), holomorphic=is_complex(x))(as_tree(x))
        rows = [tg.tree.map(lambda h: W @ h, row) for row in (found["a"], found["b"][0])]
        return jnp.stack([from_tree(row) for row in rows]) @ V

    return differentiated


# Chains


class Chain(NamedTuple):
    """Operators, the outermost first, and the function that the innermost is applied to."""

    operators: tuple[Variant, ...]
    base: Base

    @property
    def name(self) -> str:
        return "(".join([*[v.name for v in self.operators], self.base.name]) + ")" * len(self.operators)

    @property
    def order(self) -> int:
        return sum(v.order for v in self.operators)

    def built(self) -> Function:
        f = self.base.call
        for v in reversed(self.operators):
            f = v.apply(f)
        return f

    @property
    def refused(self) -> bool:
        """Whether it takes the forward derivative of a custom_vjp function, which raises TypeError."""
        rule = not self.base.forward
        for v in reversed(self.operators):
            if v.mode == "forward" and rule:
                return True
            rule = v.mode != "reverse" and rule or v.mode == "vjp rule"
        return False

    @property
    def undecided(self) -> bool:
        """Whether a custom_jvp rule takes the forward derivative of a custom_vjp function: reverse mode may find a way to transpose it or not."""
        rule = not self.base.forward
        for v in reversed(self.operators):
            if v.mode == "jvp rule" and rule:
                return True
            rule = v.mode != "reverse" and rule or v.mode == "vjp rule"
        return False
