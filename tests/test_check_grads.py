"""check_grads and its parts: they pass what is right and find what is wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad.test_util import check_grads, check_jvp, check_vjp

X = np.array([0.3, -0.7, 1.1], np.float32)


def with_jvp(slope: Any) -> Any:
    """The sine, with a derivative of its own."""
    f = tg.custom_jvp(jnp.sin)
    f.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), slope(primals[0]) * tangents[0]))
    return f


def with_vjp(slope: Any) -> Any:
    f = tg.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (slope(x) * ct,))
    return f


def trees(p: Any, n: Any) -> Any:
    return {"a": jnp.sin(p["x"]) * n, "b": (jnp.sum(p["y"] ** 2), n + 1)}


@pytest.mark.parametrize(
    ("f", "args"),
    [
        (jnp.sin, (X,)),
        (jnp.sin, [X]),
        (lambda x, y: x * jnp.exp(y), (X, 2 * X)),
        (trees, ({"x": X, "y": X[:2]}, np.int32(3))),
        (lambda x: x**3, (2.0,)),
        (lambda z: jnp.exp(z) * z.conj(), (np.complex64(1 + 2j),)),
        (lambda z: jnp.abs(z) ** 2, (np.array([1 + 2j, 3j], np.complex64),)),
        (lambda x: jnp.exp(1j * x), (X,)),
        (lambda x: (x * 2).astype(np.float16), (X.astype(np.float16),)),
        (lambda x: jnp.sin(x), (jnp.asarray(X, jnp.bfloat16),)),
        (lambda x: jnp.where(x > 0, jnp.inf, x), (X,)),
        (lambda x: x[:0], (X,)),
        (with_jvp(jnp.cos), (X,)),
    ],
)  # fmt: skip
def test_right_derivatives_pass(f: Any, args: Any) -> None:
    check_grads(f, args, order=2)
    check_grads(tg.jit(f), args, 1, modes="fwd")


def test_precision_follows_the_arguments() -> None:
    with tg.enable_x64(True):
        x = X.astype(np.float64)
        check_grads(jnp.sin, (x,), order=3)
        check_grads(jnp.sin, (x,), order=1, atol=1e-9, rtol=1e-9)
        slightly_wrong = with_jvp(lambda x: jnp.cos(x) * (1 + 1e-3))
        with pytest.raises(AssertionError):
            check_grads(slightly_wrong, (x,), order=1)
        check_grads(slightly_wrong, (x,), order=1, rtol={np.float64: 1e-2})
        check_grads(slightly_wrong, (x,), order=1, atol={"float64": 1e-2, np.float32: 0})
    check_grads(slightly_wrong, (X,), order=1)


@pytest.mark.parametrize("slope", [jnp.sin, lambda x: 1.1 * jnp.cos(x), lambda x: -jnp.cos(x)])
def test_wrong_derivatives_are_found(slope: Any) -> None:
    for modes in (("fwd",), ("rev",), ("fwd", "rev")):
        with pytest.raises(AssertionError, match="the tangent of the jvp" if "fwd" in modes else "the vjp"):
            check_grads(with_jvp(slope), (X,), 1, modes)
    with pytest.raises(AssertionError, match="the vjp"):
        check_grads(with_vjp(slope), (X,), 1, ["rev"])
    check_grads(with_vjp(jnp.cos), (X,), 2, ["rev"])


def test_wrong_second_derivatives_are_found_at_order_two() -> None:
    f = with_jvp(lambda x: tg.lax.stop_gradient(jnp.cos(x)))
    check_grads(f, (X,), 1)
    for modes in (("fwd",), ("rev",)):
        with pytest.raises(AssertionError, match="(jvp|vjp) of (jvp|vjp) of f"):
            check_grads(f, (X,), 2, modes)


def test_the_parts_take_the_derivative_as_a_function() -> None:
    check_jvp(jnp.sin, partial(tg.jvp, jnp.sin), (X,))
    check_vjp(jnp.sin, partial(tg.vjp, jnp.sin), (X,))
    with pytest.raises(AssertionError, match="the value of the jvp.*hello"):
        check_jvp(jnp.sin, partial(tg.jvp, jnp.cos), (X,), err_msg="hello")
    with pytest.raises(AssertionError, match="the value of the vjp.*hello"):
        check_vjp(jnp.sin, partial(tg.vjp, jnp.cos), (X,), err_msg="hello")
    with pytest.raises(AssertionError, match=r"leaf 0 of the tangent of the jvp has the type float64\[3\].*should be f32\[3\]"):
        check_jvp(jnp.sin, lambda p, t: (jnp.sin(p[0]), np.cos(p[0]) * np.float64(t[0])), (X,))
    with pytest.raises(AssertionError, match="the gradient of the vjp has the structure"):
        check_vjp(jnp.sin, lambda x: (jnp.sin(x), lambda ct: ct * jnp.cos(x)), (X,))
    with pytest.raises(AssertionError, match="the gradient of the vjp has the type"):
        check_vjp(jnp.sin, lambda x: (jnp.sin(x), lambda ct: (jnp.sum(ct * jnp.cos(x)),)), (X,))


def test_orders_and_modes_are_checked() -> None:
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        check_grads(jnp.sin, (X,), 0)
    with pytest.raises(ValueError, match="modes are 'fwd' and 'rev'"):
        check_grads(jnp.sin, (X,), 1, modes=("forward",))
    with pytest.raises(ValueError, match="modes are 'fwd' and 'rev'"):
        check_grads(jnp.sin, (X,), 1, modes=())
