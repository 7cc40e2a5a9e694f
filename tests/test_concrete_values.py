"""What Python and NumPy see of values being transformed: numbers where no jit or vmap stands between, JAX's errors where one does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import errors, lax

pytestmark = pytest.mark.usefixtures("double_precision")


X = 2.5


def repeated(x: Any) -> Any:
    y = x
    while y < 50:
        y = y * x
    return y


def printed(x: Any) -> Any:
    print(f"{x:.2f}", x, repr(x))
    return x * x


@tg.custom_jvp
def own(x: Any) -> Any:
    return x**2 if x > 0 else x


@own.defjvp
def _own_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    return own(x), 2 * x * t if x > 0 else t


BOOL, NUMBER = errors.TracerBoolConversionError, errors.ConcretizationTypeError
ARRAY, INTEGER = errors.TracerArrayConversionError, errors.TracerIntegerConversionError

# A function of a number, its first and second derivatives at X (what Python sees is a constant), the error where there is no number to see.
FUNCTIONS: dict[str, tuple[Any, float, float, type[Exception] | None]] = {
    "if": (lambda x: x * x if x > 0 else -x, 5.0, 2.0, BOOL),
    "while": (repeated, 5 * X**4, 20 * X**3, BOOL),
    "and": (lambda x: x * x * (1 if x and not x < 0 else 2), 5.0, 2.0, BOOL),
    "comparison chain": (lambda x: x**3 if 0 < x <= 3 else x, 3 * X**2, 6 * X, BOOL),
    "max": (lambda x: max(x * x, x), 5.0, 2.0, BOOL),
    "sorted": (lambda x: sorted([x * x, x, 3 - x])[2], 5.0, 2.0, BOOL),
    "in": (lambda x: x * x * (1 if x in [1.0, X] else 3), 5.0, 2.0, BOOL),
    "float": (lambda x: x * x * float(x), 2 * X**2, 2 * X, NUMBER),
    "int": (lambda x: x ** int(x), 5.0, 2.0, NUMBER),
    "complex": (lambda x: x * x * abs(complex(x)), 2 * X**2, 2 * X, NUMBER),
    "item": (lambda x: x * x * x.item(), 2 * X**2, 2 * X, NUMBER),
    "math": (lambda x: x * x * math.sqrt(x), 2 * X**1.5, 2 * X**0.5, NUMBER),
    "index": (lambda x: x * x * [1, 2, 3][x.astype(int)], 6 * X, 6.0, INTEGER),
    "range": (lambda x: sum(x * x for _ in range(x.astype(int))), 4 * X, 4.0, INTEGER),
    "shape": (lambda x: jnp.ones(x.astype(int)).sum() * x * x, 4 * X, 4.0, NUMBER),
    "asarray": (lambda x: x * x * np.asarray(x), 2 * X**2, 2 * X, ARRAY),
    "ufunc": (lambda x: x * x * np.sqrt(x), 2 * X**1.5, 2 * X**0.5, ARRAY),
    "concatenate": (lambda x: x * x * np.concatenate([[1.0], [x]]).sum(), 2 * X * 3.5, 7.0, ARRAY),
    "mask": (lambda x: jnp.stack([x * x, -x])[jnp.stack([x, -x]) > 0].sum(), 5.0, 2.0, errors.NonConcreteBooleanIndexError),
    "nonzero": (lambda x: jnp.stack([x * x, x])[jnp.nonzero(jnp.stack([x, -x]))[0]][0], 5.0, 2.0, NUMBER),
    "format": (lambda x: x * x * float(f"{x:.1f}"), 2 * X**2, 2 * X, ValueError),
    "print": (printed, 5.0, 2.0, None),
    "length of a scan": (lambda x: lax.scan(lambda c, _: (c * x, None), x, None, length=int(x) - 1)[0], 5.0, 2.0, NUMBER),
    "closure of a cond": (lambda x: lax.cond(x > 0, lambda y: y * y if float(x) > 0 else y, lambda y: y, x), 5.0, 2.0, NUMBER),
    "in a derivative inside": (lambda x: tg.grad(lambda y: y**3 / 6 if y > 0 else y)(x) * 2, 2 * X, 2.0, BOOL),
    "custom rule": (own, 5.0, 2.0, BOOL),
}

# Derivatives of first and second order.
FIRST = {
    "grad": lambda f, x: tg.grad(f)(x),
    "value_and_grad": lambda f, x: tg.value_and_grad(f)(x)[1],
    "jvp": lambda f, x: tg.jvp(f, (x,), (1.0,))[1],
    "vjp": lambda f, x: tg.vjp(f, x)[1](1.0)[0],
    "linearize": lambda f, x: tg.linearize(f, x)[1](1.0),
    "jacfwd": lambda f, x: tg.jacfwd(f)(x),
    "jacrev": lambda f, x: tg.jacrev(f)(x),
    "through vmap": lambda f, x: tg.vmap(lambda y: y * tg.grad(f)(x))(np.ones(2))[1],
}
SECOND = {
    "hessian": lambda f, x: tg.hessian(f)(x),
    "grad of grad": lambda f, x: tg.grad(tg.grad(f))(x),
    "vjp of vjp": lambda f, x: tg.vjp(lambda y: tg.vjp(f, y)[1](1.0)[0], x)[1](1.0)[0],
    "jvp of grad": lambda f, x: tg.jvp(tg.grad(f), (x,), (1.0,))[1],
    "grad of jvp": lambda f, x: tg.grad(lambda y: tg.jvp(f, (y,), (1.0,))[1])(x),
    "linearize of jacrev": lambda f, x: tg.linearize(tg.jacrev(f), x)[1](1.0),
}
REFUSING = {
    "jit": lambda f: tg.jit(f)(X),
    "vmap": lambda f: tg.vmap(f)(np.array([X, 1.0])),
    "eval_shape": lambda f: tg.eval_shape(f, X),
    "jit of grad": lambda f: tg.jit(tg.grad(f))(X),
    "grad of jit": lambda f: tg.grad(tg.jit(f))(X),
    "vmap of jvp": lambda f: tg.vmap(lambda x: tg.jvp(f, (x,), (1.0,))[1])(np.array([X, 1.0])),
    "grad of vmap": lambda f: tg.grad(lambda x: tg.vmap(f)(x).sum())(np.array([X, 1.0])),
    "grad of checkpoint": lambda f: tg.grad(tg.checkpoint(f))(X),
    "grad of scan": lambda f: tg.grad(lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=2)[0])(X),
    "linear_transpose": lambda f: tg.linear_transpose(f, X)(1.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_are_seen_outside_of_jit_and_vmap(name: str) -> None:
    f, first, second, _ = FUNCTIONS[name]
    for way, derivative in FIRST.items():
        np.testing.assert_allclose(derivative(f, X), first, rtol=1e-12, err_msg=way)
    for way, derivative in SECOND.items():
        np.testing.assert_allclose(derivative(f, X), second, rtol=1e-12, err_msg=way)


@pytest.mark.parametrize("name", [name for name, (_, _, _, error) in FUNCTIONS.items() if error])
def test_where_there_is_no_number_to_see_the_error_says_so(name: str) -> None:
    f, _, _, error = FUNCTIONS[name]
    assert error is not None
    for call in REFUSING.values():
        with pytest.raises(error):
            call(f)


def test_printing_shows_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    tg.grad(printed)(X)
    shown = "LinearizeTracer(primal=2.5, tangent: f64[])"
    assert capsys.readouterr().out == f"2.50 {shown} {shown}\n"
    tg.jvp(printed, (X,), (1.0,))
    assert capsys.readouterr().out == "2.50 JvpTracer(primal=2.5, tangent=1.0) JvpTracer(primal=2.5, tangent=1.0)\n"
    tg.jvp(tg.grad(printed), (X,), (1.0,))
    assert capsys.readouterr().out.startswith("2.50 LinearizeTracer(primal=JvpTracer(primal=2.5, tangent=1.0), tangent: f64[]) ")


def test_device_get_keeps_the_derivative_of_what_is_being_traced() -> None:
    assert float(tg.grad(lambda x: x * tg.device_get(x))(X)) == 2 * X
    assert float(tg.jit(lambda x: x * tg.device_get({"x": x})["x"])(X)) == X * X


def test_transposing_a_function_that_rounds_or_compares_says_that_it_is_not_linear() -> None:
    for f in (lambda x: jnp.array([1.0, 2.0])[x.astype(int) % 2], lambda x: jnp.where(x > 0, 1.0, 2.0)):
        with pytest.raises(NotImplementedError, match="is not linear in them"):
            tg.linear_transpose(f, X)(1.0)
