"""Conventions of derivatives, the values that JAX 0.10.2 gives at kinks, ties and out of bounds; and how lean linear programs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from rule_cases import GATHERS, scatter, window
from rule_harness import Numpy, dense

import tracegrad as tg
from tracegrad.ir import ops
from tracegrad.ir.bind import type_of, using
from tracegrad.ir.config import config
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.types import ArrayType, tangent_type
from tracegrad.tracer.staging import trace
from tracegrad.transforms.linearize import linearize_flat, linearize_program
from tracegrad.transforms.zero import Linear, Zero


@pytest.fixture(autouse=True)
def _wide_types_and_numpy() -> Any:
    with config.override("enable_x64", True), using(Numpy()) as interpreter:
        yield interpreter


def partial(name: str, *operands: Any, wrt: int = 0, **params: Any) -> Any:
    """The derivative of a primitive's first result along a tangent of ones in one operand."""
    arrays = [np.asarray(x) for x in operands]
    tangents = [np.ones_like(x) if i == wrt else Zero(tangent_type(type_of(x))) for i, x in enumerate(arrays)]
    _, dots = REGISTRY[name].rule("jvp")(tuple(arrays), tuple(tangents), **params)
    return dense(dots[0])


def jacobian(name: str, *operands: Any, wrt: int = 0, **params: Any) -> np.ndarray:
    arrays = [np.asarray(x) for x in operands]
    columns = []
    for k in range(arrays[wrt].size):
        unit = np.zeros(arrays[wrt].size)
        unit[k] = 1
        tangents = [unit.reshape(x.shape) if i == wrt else Zero(tangent_type(type_of(x))) for i, x in enumerate(arrays)]
        _, dots = REGISTRY[name].rule("jvp")(tuple(arrays), tuple(tangents), **params)
        columns.append(dense(dots[0]).reshape(-1))
    return np.stack(columns, -1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "operands", "wrt", "expected"),
    [
        ("abs", [0.0], 0, 1.0),
        ("abs", [-0.0], 0, 1.0),
        ("abs", [-2.0], 0, -1.0),
        ("abs", [0j], 0, 0.0),
        ("sqrt", [0.0], 0, np.inf),
        ("rsqrt", [0.0], 0, -np.inf),
        ("cbrt", [0.0], 0, np.inf),
        ("log", [0.0], 0, np.inf),
        ("erf_inv", [1.0], 0, np.inf),
        ("tanh", [np.inf], 0, 0.0),
        ("logistic", [-np.inf], 0, 0.0),
        ("bessel_i0e", [0.0], 0, 0.0),
        ("bessel_i1e", [0.0], 0, 0.5),
        ("floor", [1.5], 0, 0.0),
        ("sign", [0.0], 0, 0.0),
        ("max", [1.0, 1.0], 0, 0.5),
        ("max", [1.0, 1.0], 1, 0.5),
        ("max", [np.nan, 1.0], 0, 0.0),
        ("max", [1.0, np.nan], 0, 0.0),
        ("min", [1.0, 1.0], 0, 0.5),
        ("min", [1.0, 2.0], 0, 1.0),
        ("clamp", [0.0, 0.0, 1.0], 1, 0.0),
        ("clamp", [0.0, 1.0, 1.0], 1, 0.0),
        ("clamp", [0.0, 0.0, 1.0], 0, 0.0),
        ("clamp", [0.0, -1.0, 1.0], 0, 1.0),
        ("clamp", [0.0, 2.0, 1.0], 2, 1.0),
        ("atan2", [0.0, 0.0], 0, np.nan),
        ("rem", [-5.5, 2.0], 1, 2.0),
        ("rem", [4.0, 2.0], 1, -2.0),
        ("pow", [0.0, 0.0], 0, np.nan),
        ("pow", [0.0, 1.0], 0, 1.0),
        ("pow", [0.0, 2.0], 0, 0.0),
        ("pow", [0.0, -1.0], 0, -np.inf),
        ("pow", [2.0, 0.0], 0, 0.0),
        ("pow", [0.0, 0.0], 1, 0.0),
        ("pow", [0.0, 2.0], 1, 0.0),
        ("pow", [0.0, -1.0], 1, np.nan),
        ("pow", [-2.0, 2.0], 1, np.nan),
        ("pow", [0.0, np.int32(0)], 0, 0.0),
        ("pow", [0.0, np.int32(1)], 0, 1.0),
        ("pow", [0.0, np.int32(-1)], 0, -np.inf),
        ("div", [1.0, 0.0], 1, -np.inf),
    ],
)
def test_partials_at_kinks(name: str, operands: list[Any], wrt: int, expected: float) -> None:
    np.testing.assert_equal(float(partial(name, *operands, wrt=wrt)), expected)


@pytest.mark.parametrize(("power", "expected"), [(0, 0.0), (1, 1.0), (2, 0.0), (3, 0.0), (-1, -np.inf)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_integer_powers_at_zero(power: int, expected: float) -> None:
    assert float(partial("integer_pow", 0.0, y=power)) == expected


def test_k_elements_that_tie_for_a_maximum_count_one_kth_each() -> None:
    x = np.array([[3.0, 1.0, 3.0, 3.0], [0.0, 2.0, 1.0, 0.0]])
    np.testing.assert_allclose(jacobian("reduce_max", x, axes=(1,))[0, :4], [1 / 3, 0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(jacobian("reduce_min", x, axes=(1,))[1, 4:], [0.5, 0, 0, 0.5])
    np.testing.assert_allclose(jacobian("reduce_max", x, axes=(0, 1))[0], [1 / 3, 0, 1 / 3, 1 / 3, 0, 0, 0, 0])


def test_products_are_differentiated_where_factors_are_zero() -> None:
    np.testing.assert_allclose(jacobian("reduce_prod", np.array([2.0, 0.0, 3.0]), axes=(0,)), [[0, 6, 0]])
    np.testing.assert_allclose(jacobian("reduce_prod", np.array([0.0, 0.0, 3.0]), axes=(0,)), [[0, 0, 0]])
    expected = [[1, 0, 0, 0], [0, 2, 0, 0], [0, 6, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(jacobian("cumprod", np.array([2.0, 0.0, 3.0, 0.0]), axis=0, reverse=False), expected)


def test_cumulative_log_sum_exp_is_differentiated_over_a_wide_range() -> None:
    found = jacobian("cumlogsumexp", np.array([0.0, 1000.0, -np.inf, 3.0]), axis=0, reverse=False)
    np.testing.assert_allclose(found, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])


def test_of_equal_elements_the_latest_carries_a_cumulative_maximum() -> None:
    found = jacobian("cummax", np.array([1.0, 1.0, 0.0]), axis=0, reverse=False)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    found = jacobian("cummin", np.array([2.0, 1.0, 1.0]), axis=0, reverse=True)
    np.testing.assert_allclose(found, [[0, 1, 0], [0, 1, 0], [0, 0, 1]])


def test_a_window_gives_its_derivative_to_the_first_of_equal_elements() -> None:
    x = np.array([1.0, 1.0, 0.0])
    for dilation in (1, 2):  # the general path lays windows out
        found = jacobian("reduce_window", x, **window("max", (2,), (1,), ((0, 0),), None, (dilation,)))
        expected = [[1, 0, 0], [0, 1, 0]] if dilation == 1 else [[1, 0, 0]]
        np.testing.assert_allclose(found, expected)


def test_equal_elements_keep_their_order_when_sorted() -> None:
    found = jacobian("sort", np.array([1.0, 1.0, 0.0]), dimension=0, is_stable=True, num_keys=1)
    np.testing.assert_allclose(found, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])


def transpose(name: str, ct: Any, *inputs: Any, **params: Any) -> Sequence[Any]:
    cts = REGISTRY[name].rule("transpose")((np.asarray(ct),), inputs, **params)
    return [None if x is None else dense(x) for x in cts]


def test_of_several_updates_of_an_element_the_last_gets_the_cotangent() -> None:
    params = scatter("set", (), (0,), (0,))
    x, updates = ArrayType((2,), float), ArrayType((2,), float)
    found = transpose("scatter", [1.0, 1.0], Linear(x), np.array([[0], [0]], np.int32), Linear(updates), **params)
    np.testing.assert_allclose(found[0], [0, 1])
    np.testing.assert_allclose(found[2], [0, 1])


def test_updates_and_the_old_element_that_tie_for_a_maximum_share_it() -> None:
    params = scatter("max", (), (0,), (0,))
    indices = np.array([[0], [0]], np.int32)
    np.testing.assert_allclose(jacobian("scatter", np.ones(2), indices, np.ones(2), **params), [[1 / 3, 0], [0, 1]])
    np.testing.assert_allclose(jacobian("scatter", np.ones(2), indices, np.ones(2), wrt=2, **params), [[1 / 3, 1 / 3], [0, 0]])


def test_factors_that_meet_in_one_element_are_differentiated_also_when_zero() -> None:
    params = scatter("mul", (), (0,), (0,))
    indices = np.array([[0], [0], [1]], np.int32)
    found = jacobian("scatter", np.array([2.0, 5.0]), indices, np.array([3.0, 0.0, 0.0]), wrt=2, **params)
    np.testing.assert_allclose(found, [[0, 6, 0], [0, 0, 5]])


def test_what_a_gather_fills_in_has_no_derivative() -> None:
    _, _, params = GATHERS[1]
    found = jacobian("gather", np.arange(20.0).reshape(5, 4), np.array([[1], [7], [-1]], np.int32), **params)
    assert found.shape == (12, 20)
    assert found[:4].sum() == 4 and not found[4:].any()


def test_cotangents_of_complex_numbers_are_not_conjugated() -> None:
    z = ArrayType((), complex)
    np.testing.assert_equal(transpose("real", 2.0, Linear(z)), [2.0 + 0j])
    np.testing.assert_equal(transpose("imag", 2.0, Linear(z)), [-2j])
    np.testing.assert_equal(transpose("conj", 2.0 + 1j, Linear(z)), [2.0 - 1j])
    np.testing.assert_equal(transpose("mul", 1j, Linear(z), np.asarray(2 + 1j)), [1j * (2 + 1j), None])


def test_powers_of_complex_numbers_with_numbers_as_exponents() -> None:
    z = 0.7 + 0.3j
    for y in (2.5, 2.5 + 0j, 3, np.complex128(2.5)):
        np.testing.assert_allclose(tg.grad(lambda x, y=y: x**y, holomorphic=True)(z), y * z ** (y - 1), rtol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_factors_are_not_unique_tangents_are_not_finite() -> None:
    _, (v_dot, w_dot) = REGISTRY["eigh"].rule("jvp")((np.eye(2),), (np.ones((2, 2)),), lower=True)
    assert np.isnan(v_dot).any()
    np.testing.assert_allclose(w_dot, [1, 1])


@pytest.mark.parametrize(
    ("name", "operands", "params", "message"),
    [
        ("qr", [np.ones((3, 2))], {"full_matrices": True}, "not unique"),
        ("svd", [np.ones((3, 2))], {"full_matrices": True, "compute_uv": True}, "not unique"),
        ("polygamma", [1.0, 0.5], {}, "whole number"),
    ],
)
def test_derivatives_that_do_not_exist_say_why(name: str, operands: list[Any], params: dict[str, Any], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        partial(name, *operands, **params)


@pytest.mark.parametrize("name", ["nextafter", "schur", "householder_product"])
def test_declined_rules_give_the_reason(name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        REGISTRY[name].rule("jvp")
    assert len(REGISTRY[name].rules["jvp"].reason) > 20


# Leanness


def linear_part(fun: Callable[..., Any], *operands: Any) -> list[str]:
    """The names of the equations of the linear program of a function of arrays that gives one array."""
    program = linearize_flat(lambda *xs: [fun(*xs)], [np.asarray(x) for x in operands], [True] * len(operands)).program
    return [eqn.primitive.name for eqn in program.equations]


X, Y, W = np.linspace(0.1, 0.9, 6).reshape(2, 3), np.linspace(1, 2, 6).reshape(2, 3), np.ones((3, 4))


@pytest.mark.parametrize(
    ("fun", "operands", "expected"),
    [
        (ops.sin, [X], ["mul"]),
        (ops.exp, [X], ["mul"]),
        (ops.tanh, [X], ["mul"]),
        (ops.log, [X], ["div"]),
        (ops.neg, [X], ["neg"]),
        (ops.floor, [X], []),
        (lambda x: ops.add(x, 1.0), [X], []),
        (lambda x: ops.sub(1.0, x), [X], ["neg"]),
        (lambda x: ops.mul(x, 2.0), [X], ["mul"]),
        (lambda x: ops.div(x, 2.0), [X], ["div"]),
        (ops.add, [X, Y], ["add"]),
        (ops.sub, [X, Y], ["sub"]),
        (ops.mul, [X, Y], ["mul", "mul", "add"]),
        (lambda x: ops.mul(x, x), [X], ["mul"]),
        (ops.div, [X, Y], ["mul", "sub", "div"]),
        (lambda x: ops.max(x, 0.0), [X], ["mul"]),
        (lambda x: ops.select(ops.gt(x, 0.5), x, 0.0), [X], ["select"]),
        (lambda x: ops.square(x), [X], ["mul"]),
        (lambda x: ops.integer_pow(x, 3), [X], ["mul"]),
        (lambda x: ops.reduce_sum(x, (0, 1)), [X], ["reduce_sum"]),
        (lambda x: ops.reduce_max(x, (1,)), [X], ["mul", "reduce_sum"]),
        (lambda x: ops.reduce_prod(x, (1,)), [X], ["mul", "reduce_sum"]),
        (lambda x: ops.dot_general(x, W, (((1,), (0,)), ((), ()))), [X], ["dot_general"]),
        (lambda x: ops.tanh(ops.dot_general(x, W, (((1,), (0,)), ((), ())))), [X], ["dot_general", "mul"]),
        (lambda x: ops.concatenate([x, Y], 0), [X], ["pad"]),
        (lambda x: ops.convert_element_type(x, np.float64), [X], []),
        (lambda x: ops.dynamic_slice(x, [1, 0], (1, 2)), [X], ["dynamic_slice"]),
        (lambda x: ops.sort(x, dimension=1)[0], [X], ["gather"]),
        (lambda x: ops.top_k(x, 2)[0], [X], ["gather"]),
        (lambda x: ops.cummax(x, 1), [X], ["gather"]),
        (lambda x: ops.cholesky(x), [np.eye(3)], ["triangular_solve", "triangular_solve", "mul", "dot_general"]),
        (lambda x: ops.eigh(x)[1], [np.diag([1.0, 2.0])], ["dot_general", "mul", "reduce_sum"]),
        (lambda x: ops.svd(x, compute_uv=False)[0], [X], ["dot_general", "mul", "reduce_sum"]),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, list) and v and isinstance(v[0], str) else "",
)  # fmt: skip
def test_linear_programs_are_lean(fun: Callable[..., Any], operands: list[Any], expected: list[str]) -> None:
    assert linear_part(fun, *operands) == expected


def test_scalars_stay_scalars(_wide_types_and_numpy: Numpy) -> None:
    x, s = np.ones((2, 3)), np.asarray(2.0)
    t = Zero(type_of(x))
    _, (dot,) = REGISTRY["mul"].rule("jvp")((x, s), (t, np.asarray(1.0)))
    assert _wide_types_and_numpy.applied == ["mul", "mul"]
    assert dot.shape == (2, 3)
    _wide_types_and_numpy.applied.clear()
    (_, ct) = REGISTRY["mul"].rule("transpose")((x,), [x, Linear(type_of(s))])
    assert _wide_types_and_numpy.applied == ["mul", "reduce_sum"] and ct.shape == ()


@pytest.mark.parametrize(
    ("name", "shapes", "numbers", "wrt", "expected"),
    [
        ("x @ y wrt x", [(2, 3), (3, 4)], ((1,), (0,)), 0, ["dot_general"]),
        ("x @ y wrt y", [(2, 3), (3, 4)], ((1,), (0,)), 1, ["dot_general"]),
        ("x @ y.T wrt x", [(2, 3), (4, 3)], ((1,), (1,)), 0, ["dot_general"]),
        ("x @ y.T wrt y", [(2, 3), (4, 3)], ((1,), (1,)), 1, ["dot_general"]),
        ("x.T @ y wrt x", [(3, 2), (3, 4)], ((0,), (0,)), 0, ["dot_general"]),
        ("matrix @ vector wrt matrix", [(2, 3), (3,)], ((1,), (0,)), 0, ["dot_general"]),
    ],
)
def test_cotangents_of_matrix_products_need_no_transposition(
    name: str, shapes: Any, numbers: Any, wrt: int, expected: list[str], _wide_types_and_numpy: Numpy
) -> None:
    operands = [np.ones(s) for s in shapes]
    inputs: list[Any] = [Linear(type_of(x)) if i == wrt else x for i, x in enumerate(operands)]
    params = {"dimension_numbers": (numbers, ((), ())), "preferred_element_type": None}
    (out,) = REGISTRY["dot_general"].evaluate(*operands, **params)
    REGISTRY["dot_general"].rule("transpose")((out,), inputs, **params)
    assert _wide_types_and_numpy.applied == expected


def test_zeros_and_masks_are_made_again_and_not_stored_as_residuals() -> None:
    # Inside of a loop each stored residual costs one copy of it per iteration.
    write, _ = trace(lambda x, u: [ops.dynamic_update_slice(x, u, [1, 0])], [ArrayType((4, 4), float), ArrayType((1, 2), float)])
    split = linearize_program(write, (False, True))
    assert split.residuals == () and len(split.known.outputs) == 1
    assert [eqn.primitive.name for eqn in split.unknown.equations] == ["broadcast_in_dim", "dynamic_update_slice"]
    factorize, _ = trace(lambda x: [ops.cholesky(x)], [ArrayType((3, 3), float)])
    assert linearize_program(factorize, (True,)).residuals == (("out", 0),)


def test_bessel_functions_at_zero_to_fifth_order() -> None:
    """|x| in their scaling has a kink where they are smooth: I0 is 1 + x^2/4 + x^4/64, I1 is x/2 + x^3/16 + x^5/384."""
    from tracegrad.numpy import i0 as numpy_i0
    from tracegrad.scipy.special import i0, i1

    for fun, expected in ((i0, [0, 1 / 2, 0, 3 / 8, 0]), (numpy_i0, [0, 1 / 2, 0, 3 / 8, 0]), (i1, [1 / 2, 0, 3 / 8, 0, 5 / 16])):
        found = []
        for _ in range(5):
            fun = tg.grad(fun)
            found.append(float(fun(0.0)))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
