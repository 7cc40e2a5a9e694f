"""Jacobians and Hessians of pytrees, integers, complex numbers: structures, dtypes, values and refusals, those of JAX 0.10.2."""

from __future__ import annotations

import cmath
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import float0

X = np.array([0.5, 1, 2], np.float32)
Y = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
Z = np.array([1 + 2j, 3 - 1j], np.complex64)
N = np.arange(3)
JACOBIANS = [tg.jacfwd, tg.jacrev]
both = pytest.mark.parametrize("jacobian", JACOBIANS)


def shapes(tree: Any) -> Any:
    return tg.tree.map(lambda x: (np.asarray(x).shape, str(np.asarray(x).dtype)), tree)


def close(found: Any, expected: Any) -> None:
    assert tg.tree.structure(found) == tg.tree.structure(expected)
    tg.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), b, rtol=1e-5, atol=1e-6), found, expected)


# Structures


@both
@pytest.mark.parametrize(
    ("argnums", "structure"),
    [
        (0, ((2, 3, 3), "float32")),
        (1, ((2, 3, 2, 3), "float32")),
        (-1, ((2, 3, 2, 3), "float32")),
        ((0,), (((2, 3, 3), "float32"),)),
        ((1, 0), (((2, 3, 2, 3), "float32"), ((2, 3, 3), "float32"))),
        ([0, -1], (((2, 3, 3), "float32"), ((2, 3, 2, 3), "float32"))),
    ],
)
def test_argnums_shape_the_structure_of_jacobians(jacobian: Any, argnums: Any, structure: Any) -> None:
    assert shapes(jacobian(lambda a, b: jnp.sin(a) * b, argnums)(X, Y)) == structure
    assert shapes(tg.jit(jacobian(lambda a, b: jnp.sin(a) * b, argnums))(X, Y)) == structure


@both
def test_the_argument_stands_in_each_leaf_of_the_output(jacobian: Any) -> None:
    def f(p):
        return {"u": jnp.sin(p["a"]) * p["b"][0], "v": [p["a"].sum(), None]}

    zeros = np.zeros((3, 2, 3))
    expected = {
        "u": {"a": np.diag(2 * np.cos(X)), "b": (np.sin(X), zeros)},
        "v": [{"a": np.ones(3), "b": (np.zeros(()), np.zeros((2, 3)))}, None],
    }
    close(jacobian(f)({"a": X, "b": (np.float32(2), Y)}), expected)


@both
def test_empty_outputs_and_arguments(jacobian: Any) -> None:
    assert jacobian(lambda x: ())(X) == ()
    assert jacobian(lambda x: jnp.ones(3))(()) == ()
    assert jacobian(jnp.sin)(X[:0]).shape == (0, 0)
    close(jacobian(lambda x: (jnp.ones(2), x, x))(X), (np.zeros((2, 3)), np.eye(3), np.eye(3)))


@both
def test_auxiliary_data_are_returned_beside(jacobian: Any) -> None:
    found, aux = jacobian(lambda a, b: (a * b, {"b": b, "n": None, "k": a.sum()}), (0, 1), has_aux=True)(X, Y)
    assert shapes(found) == (((2, 3, 3), "float32"), ((2, 3, 2, 3), "float32"))
    close(aux, {"b": Y, "n": None, "k": np.float32(3.5)})
    with pytest.raises(TypeError, match="must return a pair"):
        jacobian(lambda x: 2 * x, has_aux=True)(X)


@both
def test_keyword_arguments_are_held_fixed(jacobian: Any) -> None:
    close(jacobian(lambda a, b: a * b)(X, b=X), np.diag(X))


def test_dtypes_are_the_outputs_forward_and_the_inputs_backward() -> None:
    f = lambda a: (a.astype(np.float16) * 2, a)
    assert [str(x.dtype) for x in tg.jacfwd(f)(X)] == ["float16", "float32"]
    assert [str(x.dtype) for x in tg.jacrev(f)(X)] == ["float32", "float32"]
    assert tg.jacfwd(lambda a: a**2)(3.0).weak_type and tg.jacrev(lambda a: a**2)(3.0).weak_type
    assert not tg.jacfwd(jnp.sin)(np.float32(3)).weak_type


def test_hessians_of_pytrees_are_blocks() -> None:
    def f(p, q):
        return (p["a"] ** 3).sum() * q.sum() + (p["b"] * q).sum() ** 2

    found = tg.hessian(f, (0, 1))({"a": X, "b": Y}, X)
    s, q = (Y * X).sum(), X.sum()
    rows, columns = np.tile(X, 2), np.tile(np.eye(3), (2, 1))
    a_q = np.outer(3 * X**2, np.ones(3))
    b_q = 2 * np.outer(rows, Y.sum(0)) + 2 * s * columns
    expected = (
        {
            "a": ({"a": np.diag(6 * X) * q, "b": np.zeros((3, 2, 3))}, a_q),
            "b": ({"a": np.zeros((2, 3, 3)), "b": 2 * np.outer(rows, rows).reshape(2, 3, 2, 3)}, b_q.reshape(2, 3, 3)),
        },
        ({"a": a_q.T, "b": b_q.T.reshape(3, 2, 3)}, 2 * np.outer(Y.sum(0), Y.sum(0))),
    )
    close(found, expected)


@pytest.mark.parametrize("outer", JACOBIANS)
@pytest.mark.parametrize("inner", JACOBIANS)
def test_second_derivatives_agree_in_every_order_of_modes(outer: Any, inner: Any) -> None:
    f = lambda x: jnp.sin(x) * x[0]
    expected = np.zeros((3, 3, 3))
    for i in range(3):
        expected[i, i, i] -= np.sin(X[i]) * X[0]
        expected[i, i, 0] += np.cos(X[i])
        expected[i, 0, i] += np.cos(X[i])
    close(tg.jit(outer(inner(f)))(X), expected)
    found, aux = tg.hessian(lambda x: ((x**3).sum(), x), has_aux=True)(X)
    close((found, aux), (np.diag(6 * X), X))


# Integers and booleans


def test_what_has_no_derivative_has_one_of_dtype_float0() -> None:
    f = lambda x: (jnp.argmax(x), x > 1, 2 * x)
    found = tg.jacfwd(f)(X)
    assert [x.dtype for x in found] == [float0, float0, np.float32]
    assert [x.shape for x in found] == [(3,), (3, 3), (3, 3)]
    _, dots = tg.jvp(f, (X,), (X,))
    assert [(x.dtype, x.shape) for x in dots] == [(float0, ()), (float0, (3,)), (np.float32, (3,))]


def test_integer_arguments_take_and_give_float0() -> None:
    f = lambda n, x: (n * 2, n * x)
    zero = np.zeros(3, float0)
    (_, out), (d_n, d_x) = tg.jvp(f, (N, X), (zero, X))
    assert d_n.dtype == float0 and np.array_equal(d_x, N * X) and np.array_equal(out, N * X)
    (_, pull) = tg.vjp(f, N, X)
    n_bar, x_bar = pull((zero, np.ones(3, np.float32)))
    assert n_bar.dtype == float0 and n_bar.shape == (3,) and np.array_equal(x_bar, N)
    # For an output without a derivative any cotangent will do.
    np.testing.assert_array_equal(pull((N, np.ones(3, np.float32)))[1], N)
    _, push = tg.linearize(f, N, X)
    assert push(zero, X)[0].dtype == float0 and np.array_equal(push(zero, X)[1], N * X)
    _, push = tg.linearize(lambda b, x: b * x, X > 1, X)
    np.testing.assert_array_equal(push(zero, X), [0, 0, 2])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool])
def test_allow_int(dtype: Any) -> None:
    n = N.astype(dtype)
    f = lambda n, x: jnp.sum(n * x)
    g_n, g_x = tg.grad(f, (0, 1), allow_int=True)(n, X)
    assert (g_n.dtype, g_n.shape) == (float0, (3,)) and np.array_equal(g_x, n)
    value, g = tg.value_and_grad(tg.jit(f), allow_int=True)({"n": n}["n"], X)
    assert g.dtype == float0 and np.isclose(value, (n * X).sum())
    j_n, j_x = tg.jacrev(lambda n, x: n * x, (0, 1), allow_int=True)(n, X)
    assert (j_n.dtype, j_n.shape) == (float0, (3, 3)) and np.array_equal(j_x, np.diag(n))
    mixed = tg.grad(lambda p: p["x"][p["i"]] ** 2, allow_int=True)({"x": X, "i": 2})
    assert mixed["i"].dtype == float0 and np.array_equal(mixed["x"], [0, 0, 4])


def test_integers_among_the_arguments_come_as_arrays() -> None:
    seen = []
    f = lambda n, x: seen.append(n) or jnp.sum(n.at[0].set(1) * x)
    tg.grad(f, (0, 1), allow_int=True)(N, X)
    tg.jvp(f, (N, X), (np.zeros(3, float0), X))
    assert [str(n.dtype) for n in seen] == ["int32", "int32"]


# Complex numbers


W = 1.2 - 0.7j
V = 0.3 + 0.4j

REAL_FUNCTIONS = {
    "abs": (jnp.abs, lambda z: z.conjugate() / abs(z)),
    "square of abs": (lambda z: (z * z.conj()).real, lambda z: 2 * z.conjugate()),
    "real": (jnp.real, lambda z: 1),
    "imag": (jnp.imag, lambda z: -1j),
    "angle": (jnp.angle, lambda z: -1j / z),
    "real of exp": (lambda z: jnp.real(jnp.exp(z)), cmath.exp),
    "imag of square": (lambda z: jnp.imag(z * z), lambda z: -2j * z),
    "norm": (lambda z: jnp.linalg.norm(jnp.stack([z, 1j * z])), lambda z: 2**0.5 * z.conjugate() / abs(z)),
}


@pytest.mark.parametrize("name", REAL_FUNCTIONS)
def test_gradients_of_real_functions_are_conjugated(name: str) -> None:
    # With f(x + iy) real the gradient is df/dx - i df/dy: <grad f, direction> = Re(grad * direction), without a conjugation.
    f, gradient = REAL_FUNCTIONS[name]
    z = np.complex128(W)
    with tg.enable_x64(True):
        found = tg.grad(f)(z)
        np.testing.assert_allclose(complex(found), gradient(W), rtol=1e-12)
        np.testing.assert_allclose(tg.jacrev(lambda z: f(z) * jnp.ones(2))(z), [gradient(W)] * 2, rtol=1e-12)
        slope = tg.jvp(f, (z,), (np.complex128(V),))[1]
        np.testing.assert_allclose(slope, (gradient(W) * V).real, rtol=1e-12)
        step = 1e-6
        np.testing.assert_allclose(slope, (f(z + step * V) - f(z - step * V)) / (2 * step), rtol=1e-8)


HOLOMORPHIC = {
    "exp": (jnp.exp, cmath.exp, cmath.exp),
    "log": (jnp.log, lambda z: 1 / z, lambda z: -1 / z**2),
    "sin": (jnp.sin, cmath.cos, lambda z: -cmath.sin(z)),
    "reciprocal": (lambda z: 1 / z, lambda z: -1 / z**2, lambda z: 2 / z**3),
    "power": (lambda z: z**3, lambda z: 3 * z**2, lambda z: 6 * z),
    "sqrt": (jnp.sqrt, lambda z: 0.5 / cmath.sqrt(z), lambda z: -0.25 / cmath.sqrt(z) ** 3),
}


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_holomorphic_derivatives(name: str) -> None:
    f, first, second = HOLOMORPHIC[name]
    with tg.enable_x64(True):
        z = np.array([W, -V], np.complex128)
        np.testing.assert_allclose(complex(tg.grad(f, holomorphic=True)(z[0])), first(W), rtol=1e-12)
        for jacobian in JACOBIANS:
            np.testing.assert_allclose(jacobian(f, holomorphic=True)(z), np.diag([first(W), first(-V)]), rtol=1e-12)
        found = tg.hessian(lambda z: f(z).sum(), holomorphic=True)(z)
        np.testing.assert_allclose(found, np.diag([second(W), second(-V)]), rtol=1e-12)


def test_vjps_of_complex_functions_pull_back_without_conjugation() -> None:
    out, pull = tg.vjp(lambda z: (z**2, z.conj(), jnp.real(z)), Z)
    ct = np.array([2 - 1j, 1j], np.complex64)
    zero = np.zeros(2, np.complex64)
    close(pull((ct, zero, np.zeros(2, np.float32)))[0], 2 * Z * ct)
    close(pull((zero, ct, np.zeros(2, np.float32)))[0], ct.conj())
    close(pull((zero, zero, np.ones(2, np.float32)))[0], np.ones(2, np.complex64))
    # from real to complex: the cotangent of a real number is real
    _, pull = tg.vjp(lambda x: jnp.exp(1j * x), X)
    found = pull(np.array([1, 1j, 1 + 1j], np.complex64))[0]
    assert found.dtype == np.float32
    close(found, np.real(1j * np.exp(1j * X) * np.array([1, 1j, 1 + 1j])))


@both
def test_holomorphic_jacobians_of_several_arguments(jacobian: Any) -> None:
    close(jacobian(lambda a, b: a * b, (0, 1), holomorphic=True)(Z, 2 * Z), (np.diag(2 * Z), np.diag(Z)))


# Refusals

REFUSED = "requires real- or complex-valued inputs"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda J: J(lambda x: x * 2)(N), TypeError, REFUSED + r".*but x is i(32|64)\[3\]; convert it to floating point"),
        (lambda J: J(lambda x: x * 2)(N > 1), TypeError, REFUSED + r".*x is bool\[3\]"),
        (lambda J: J(lambda p: p["k"])({"k": 3}), TypeError, REFUSED + r".*p\['k'\] is ~i32\[\]"),
        (lambda J: J(lambda x: x * 2)("a"), TypeError, "x is 'a' of type str, which is not an array or a number"),
        (lambda J: J(lambda x: "a")(X), TypeError, "returned 'a' of type str"),
        (lambda J: J(jnp.sin, 1)(X), ValueError, "argnums=1 requires at least 2 positional arguments"),
        (lambda J: J(jnp.sin, "x")(X), TypeError, "argnums must be an integer or a tuple of integers, got 'x'"),
        (lambda J: J(3), TypeError, "expects a function as its first argument, got 3"),
        (lambda J: J(jnp.exp, holomorphic=True)(X), TypeError, r"inputs with complex dtype, but \w+ is f32\[3\]"),
        (lambda J: J(jnp.abs, holomorphic=True)(Z), TypeError, r"outputs with complex dtype, but abs\w* returned f32\[2\]"),
        (lambda J: J(jnp.exp)(Z), TypeError, r"requires real-valued (in|out)puts.*c64\[2\]. For holomorphic differentiation"),
    ],
)  # fmt: skip
@both
def test_jacobians_refuse_what_has_none(jacobian: Any, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(jacobian)


def test_refusals_of_one_mode() -> None:
    with pytest.raises(TypeError, match=r"jacfwd requires real-valued inputs.*z is c64\[2\]"):
        tg.jacfwd(lambda z: jnp.abs(z))(Z)
    with pytest.raises(TypeError, match=r"jacrev requires real-valued outputs.*returned i32\[\]. Return it as auxiliary data"):
        tg.jacrev(lambda x: (x, jnp.argmax(x)))(X)
    with pytest.raises(TypeError, match=r"jacrev requires real-valued outputs.*returned c64\[3\]. For holomorphic"):
        tg.jacrev(lambda x: x * 1j)(X)
    assert tg.jacfwd(lambda x: x * 1j)(X).dtype == np.complex64
    assert tg.jacrev(jnp.abs)(Z).dtype == np.complex64
