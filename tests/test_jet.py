"""`jet`: Taylor mode as users call it. Each primitive's rule is tested in test_jet_primitives.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.experimental.jet import jet, zero_series, zero_term
from tracegrad.ir.config import config
from tracegrad.ir.types import ArrayType
from tracegrad.tracer.staging import trace


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True):
        yield


def derivatives(fun: Any, x: float, order: int) -> list[Any]:
    """Derivatives 1, 2, ... of a function of a number, by forward mode over forward mode."""
    found = []
    for _ in range(order):
        fun = lambda t, f=fun: tg.jvp(f, (t,), (jnp.ones_like(t),))[1]
        found.append(fun(jnp.asarray(x)))
    return found


def line(order: int) -> tuple[float, ...]:
    return (1.0, *[0.0] * (order - 1))


def close(actual: Any, expected: Any, rtol: float = 1e-10) -> None:
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


FUNCTIONS: dict[str, Any] = {
    "mixed": lambda x: jnp.tanh(jnp.exp(-x) * x) / (1 + x**3) + jnp.sqrt(2 + jnp.sin(x)),
    "powers": lambda x: (1 + x * x) ** 1.5 + x**-2 + (1.2 + x) ** x,
    "special": lambda x: jnp.log(1 + lax.erf(x)) * lax.lgamma(2 + x) + lax.bessel_i0e(x) - lax.igamma(2.5, 1 + x),
    "softmax": lambda x: jnp.sum(tg.nn.softmax(jnp.stack([x, x * x, jnp.cos(x)])) ** 2),
    "where": lambda x: jnp.where(x > 0, jnp.log1p(x), x) + jnp.clip(x, 0, 2) * jnp.maximum(x, 0.1),
    "matrix": lambda x: jnp.linalg.solve(jnp.eye(3) * 2 + x * jnp.arange(9.0).reshape(3, 3) / 9, jnp.ones(3) * jnp.exp(x)).sum(),
    "determinant": lambda x: jnp.linalg.slogdet(jnp.eye(3) * 2 + x * jnp.arange(9.0).reshape(3, 3) / 9)[1],
    "singular values": lambda x: jnp.linalg.svd(jnp.array([[3.0, x], [x * x, 1.0]]))[1].sum(),
    "cumulative": lambda x: jnp.cumprod(jnp.stack([x, 1 + x, x * x])) @ jnp.cumsum(jnp.stack([jnp.sin(x), x, x])),
    "sorted": lambda x: jnp.sort(jnp.stack([x, -x, x**2]))[1] * jnp.max(jnp.stack([x, jnp.cos(x)])),
    "indexed": lambda x: jnp.zeros(3).at[1].set(x).at[2].multiply(x).at[1].add(x * x)[1] ** 2,
    "cond": lambda x: lax.cond(x > 0, lambda v: jnp.sin(v) * v, lambda v: v, x),
    "while": lambda x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1]) * s[1]), (0, x))[1],
    "scan": lambda x: lax.scan(lambda c, k: (c * jnp.cos(k * x), c * x), x, jnp.arange(4.0))[1].sum(),
    "inner jit": lambda x: tg.jit(lambda v: jnp.exp(v) * v)(x) + tg.checkpoint(jnp.sin)(x),
    "inner grad": tg.grad(lambda x: jnp.exp(jnp.sin(x)) * x),
    "grad of while": tg.grad(lambda x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1]) * s[1]), (0, x))[1]),
    "grad of scan": tg.grad(lambda x: lax.scan(lambda c, k: (c * jnp.cos(k * x), c * x), x, jnp.arange(4.0))[1].sum()),
    "inner vmap": lambda x: tg.vmap(lambda k: jnp.sin(k * x))(jnp.arange(3.0)).prod(),
    "complex": lambda x: jnp.abs(jnp.exp(1j * x) + x) + jnp.fft.fft(jnp.stack([x, x * x])).real.sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_series_of_composites_are_nested_derivatives(name: str) -> None:
    fun, x = FUNCTIONS[name], 0.7
    value, terms = jet(fun, (x,), (line(4),))
    np.testing.assert_allclose(value, fun(jnp.asarray(x)), rtol=1e-12)
    close(terms, derivatives(fun, x, 4))


def test_a_curve_composes() -> None:
    """sin(z^3) along z at 0.5, from the series of z^3."""
    z = 0.5
    value, (first, second) = jet(jnp.sin, (z**3,), ((3 * z**2, 6 * z),))
    np.testing.assert_allclose(value, np.sin(z**3))
    np.testing.assert_allclose(first, np.cos(z**3) * 3 * z**2)
    np.testing.assert_allclose(second, -np.sin(z**3) * 9 * z**4 + np.cos(z**3) * 6 * z)


def test_terms_are_derivatives_or_coefficients() -> None:
    _, derivative_terms = jet(jnp.exp, (0.0,), (line(4),))
    _, coefficients = jet(jnp.exp, (0.0,), (line(4),), factorial_scaled=False)
    close(derivative_terms, [1.0] * 4)
    close(coefficients, [1 / math.factorial(k) for k in range(1, 5)])


def test_structure_of_results_and_arguments_that_rest() -> None:
    def fun(x: Any, n: Any, y: Any) -> Any:
        return {"a": x * y, "b": (n, x**n)}

    value, terms = jet(fun, (jnp.arange(3.0), 2, jnp.float64(2)), ([jnp.ones(3), zero_term], zero_series, [1.0, 1.0]))
    assert set(value) == set(terms) == {"a", "b"}
    assert isinstance(terms["a"], list) and len(terms["a"]) == 2
    close(terms["a"], [2 + np.arange(3.0), np.arange(3.0) + 2])
    close(terms["b"][0], [0, 0])
    close(terms["b"][1], [2 * np.arange(3.0), 2 * np.ones(3)])
    assert terms["b"][1][0].shape == (3,)


def test_nothing_moves() -> None:
    value, terms = jet(lambda x: jnp.ones(2), (1.0,), (line(2),))
    close(value, [1, 1])
    close(terms, [np.zeros(2)] * 2)
    assert jet(jnp.sin, (1.0,), ((),))[1] == []


def test_composes_with_other_transforms() -> None:
    fun = lambda x: jnp.exp(jnp.sin(x)) * x
    third = lambda x: jet(fun, (x,), (line(3),))[1][2]
    xs = jnp.linspace(0.1, 1, 3)
    expected = [derivatives(fun, x, 4) for x in np.asarray(xs)]
    close(tg.vmap(third)(xs), [d[2] for d in expected])
    close(tg.jit(tg.vmap(third))(xs), [d[2] for d in expected])
    close([tg.grad(third)(x) for x in xs], [d[3] for d in expected])
    close(tg.jit(tg.vmap(tg.grad(third)))(xs), [d[3] for d in expected])
    close(jet(third, (xs[0],), ([1.0],))[1], [expected[0][3]])
    with tg.disable_jit():
        close([third(xs[0])], [expected[0][2]])


def test_python_sees_concrete_values() -> None:
    def fun(x: Any) -> Any:
        return x * x if x > 0 else -x

    close(jet(fun, (2.0,), (line(2),))[1], [4, 2])
    close(jet(fun, (-2.0,), (line(2),))[1], [-1, 0])


def test_curves_of_one_jet_are_constants_to_another() -> None:
    """No confusion of perturbations: d/dx (x d/dy (x + y)) at 3 is 1, not 2."""
    inner = lambda x: x * jet(lambda y: x + y, (1.0,), ([1.0],))[1][0]
    close(jet(inner, (3.0,), (line(2),))[1], [1, 0])


def test_custom_rules() -> None:
    @tg.custom_jvp
    def halved(x: Any) -> Any:
        return x * x

    halved.defjvp(lambda primals, tangents: (halved(primals[0]), primals[0] * tangents[0]))
    # y' = x x', so y'' = x'^2 and nothing of third order.
    for fun in (halved, tg.jit(halved), lambda x: lax.scan(lambda c, _: (halved(c), None), x, None, length=1)[0]):
        value, terms = jet(fun, (3.0,), (line(3),))
        close([value, *terms], [9, 3, 1, 0])

    @tg.custom_vjp
    def tripled(x: Any) -> Any:
        return x**2

    tripled.defvjp(lambda x: (x**2, x), lambda x, ct: (3 * ct,))
    close(jet(tripled, (3.0,), (line(2),))[1], [6, 2])
    close(jet(tg.jit(tripled), (3.0,), (line(2),))[1], [6, 2])


def test_work_grows_quadratically() -> None:
    """Products in the series of exp(sin(x)): a quadratic number, where nesting would double it with each order."""

    def products(order: int) -> int:
        terms = (np.float64(1),) * order
        fun = lambda x: jet(lambda v: jnp.exp(jnp.sin(v)), (x,), (terms,))[1]
        program, _ = trace(fun, [ArrayType((), np.dtype(np.float64))])
        return sum(eqn.primitive.name == "mul" for eqn in program.walk())

    assert products(16) < 4.5 * products(8)
    assert products(8) < 250


def test_coefficients_known_to_be_zero_cost_nothing() -> None:
    """Along a straight line the first coefficient alone moves: what is linear has nothing to do for the others."""
    fun = lambda x: jet(lambda v: jnp.sum(2 * v + 1), (x,), ([np.ones(3), zero_term, zero_term],))[1]
    program, _ = trace(fun, [ArrayType((3,), np.dtype(np.float64))])
    assert sum(eqn.primitive.name == "reduce_sum" for eqn in program.equations) == 2  # the value and one term


def ode_step(field: Any, u: Any, h: Any, order: int) -> Any:
    """One step of u' = field(u) by Taylor's polynomial: the coefficients of u follow from those of field(u)."""
    coefficients = [field(u)]
    for k in range(1, order):
        _, terms = jet(field, (u,), (coefficients,), factorial_scaled=False)
        coefficients = [coefficients[0], *[c / (j + 2) for j, c in enumerate(terms)]][: k + 1]
    return u + sum(c * h ** (k + 1) for k, c in enumerate(coefficients))


def test_taylor_integrator_in_a_scan() -> None:
    """A pendulum over a hundred steps of order eight keeps its energy to rounding, and so does its derivative."""
    field = lambda u: jnp.stack([u[1], -jnp.sin(u[0])])
    energy = lambda u: u[1] ** 2 / 2 - jnp.cos(u[0])

    @tg.jit
    def end(u: Any) -> Any:
        return lax.scan(lambda u, _: (ode_step(field, u, 0.1, 8), None), u, None, length=100)[0]

    start = jnp.array([1.0, 0.0])
    np.testing.assert_allclose(energy(end(start)), energy(start), rtol=1e-9)
    slope = tg.grad(lambda u: energy(end(u)))(start)
    np.testing.assert_allclose(slope, tg.grad(energy)(start), rtol=1e-7, atol=1e-8)


def test_series_of_a_solution_found_by_a_loop() -> None:
    """The solution of cos(a x) = x by iteration: its series in a obeys the equation."""

    def solution(a: Any) -> Any:
        newton = lambda x: x - (jnp.cos(a * x) - x) / (-a * jnp.sin(a * x) - 1)
        return lax.fori_loop(0, 12, lambda _, x: newton(x), jnp.ones_like(a))

    x, terms = jet(solution, (1.0,), (line(4),))
    residual, zeros = jet(lambda a, x: jnp.cos(a * x) - x, (1.0, x), (line(4), terms))
    close([residual, *zeros], [0] * 5)


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ((jnp.sin, (1.0, 2.0), ([1.0], [1.0, 2.0])), ValueError, "inconsistent lengths"),
        ((jnp.sin, (1.0,), ([1.0], [1.0])), ValueError, "1 primals but 2 series"),
        ((jnp.sin, ((1.0, 2.0),), ([1.0],)), ValueError, "primal value at position 0 is not an array"),
        ((jnp.sin, (1.0,), ([(1.0, 2.0)],)), ValueError, "term 0 for argument 0 is not an array"),
        ((jnp.sin, (1.0,), (zero_series,)), ValueError, "no argument has one"),
        ((jnp.sin, (np.ones(3),), ([1.0],)), TypeError, "must have the argument's shape"),
        ((jnp.sin, (1.0,), ([1j],)), TypeError, "dtype"),
        ((jnp.sin, (1,), ([1.0],)), TypeError, "cannot move"),
        ((jnp.sin, 1.0, ([1.0],)), TypeError, "tuples or lists"),
        ((1.0, (1.0,), ([1.0],)), TypeError, "expects a function"),
        ((lambda x: lax.nextafter(x, 2.0), (1.0,), ([1.0],)), NotImplementedError, "nextafter"),
    ],
)
def test_errors_name_what_jet_cannot_do(args: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        jet(*args)
