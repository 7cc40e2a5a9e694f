"""Sparse Jacobians and Hessians: equal to the dense ones, from as few derivatives as there are colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_programs import arguments, functions, program_of

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import sparse
from tracegrad.ir.config import config
from tracegrad.transforms.coloring import reading

common: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


def band(x):
    return x[1:-1] * jnp.sin(x[2:]) + x[:-2] ** 2


def arrow(x):
    return jnp.multiply(x, x[0]).at[0].set(jnp.sum(x**2))


X = np.linspace(0.1, 1.2, 9, dtype=np.float32)


# Colouring


def lattice(n: int) -> sparse.Pattern:
    """The five-point stencil on an n x n grid."""
    one = np.abs(np.subtract.outer(range(n), range(n)))
    return sparse.Pattern.of(np.kron(one == 0, one <= 1) | np.kron(one <= 1, one == 0))


def arrowhead(n: int, tip: int) -> np.ndarray:
    pattern = np.eye(n, dtype=bool)
    pattern[tip] = pattern[:, tip] = True
    return pattern


@pytest.mark.parametrize(
    ("pattern", "partition", "colors"),
    [
        (np.eye(7), "columns", 1),
        (np.eye(7), "symmetric", 1),
        (np.tri(12) * np.tri(12, k=2).T, "columns", 3),
        (np.tri(12) * np.tri(12, k=2).T, "rows", 3),
        (np.abs(np.subtract.outer(range(12), range(12))) <= 1, "columns", 3),
        (np.abs(np.subtract.outer(range(12), range(12))) <= 1, "symmetric", 3),
        (lattice(6), "columns", 6),
        (arrowhead(20, 0), "columns", 20),
        (arrowhead(20, 0), "rows", 20),
        (arrowhead(20, 0), "bidirectional", 3),
        (arrowhead(20, 0), "auto", 3),
        (arrowhead(20, 0), "symmetric", 2),
        (arrowhead(20, 19), "symmetric", 2),
        (np.ones((3, 8)), "auto", 3),
        (np.ones((8, 3)), "auto", 3),
        (np.zeros((4, 5)), "auto", 0),
        (np.zeros((0, 5)), "bidirectional", 0),
    ],
)
def test_numbers_of_colors(pattern: Any, partition: str, colors: int) -> None:
    found = sparse.color(pattern, partition)
    assert found.num_colors == found.column_colors + found.row_colors == colors
    reading(sparse.Pattern.of(pattern), found)


def read_back(matrix: np.ndarray, pattern: sparse.Pattern, coloring: sparse.Coloring) -> np.ndarray:
    """The entries as they are read from sums of columns and rows."""
    of_rows, colors, places = reading(pattern, coloring)
    by_columns = matrix @ (coloring.columns[:, None] == np.arange(coloring.column_colors))
    by_rows = (coloring.rows[:, None] == np.arange(coloring.row_colors)).T @ matrix
    return np.array([by_rows[c, p] if r else by_columns[p, c] for r, c, p in zip(of_rows, colors, places)])


@given(
    st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**20), st.floats(0, 0.6),
    st.sampled_from(["auto", "columns", "rows", "bidirectional", "symmetric"]),
)  # fmt: skip
@settings(max_examples=200, **common)
def test_every_entry_can_be_read_from_the_sums(m: int, n: int, seed: int, density: float, partition: str) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.random((m, n)) < density) * rng.integers(1, 100, (m, n))
    if partition == "symmetric":
        matrix = np.triu(matrix[: min(m, n), : min(m, n)])
        matrix = matrix + matrix.T
    pattern = sparse.Pattern.of(matrix)
    coloring = sparse.color(pattern, partition)
    np.testing.assert_array_equal(read_back(matrix, pattern, coloring), matrix[pattern.rows, pattern.columns])
    if partition == "symmetric":
        assert coloring.num_colors <= sparse.color(pattern, "columns").num_colors


def test_a_star_coloring_has_no_path_of_four_in_two_colors() -> None:
    pattern = lattice(5)
    colors = sparse.color(pattern, "symmetric").columns
    near = [set(pattern.columns[pattern.rows == i].tolist()) - {i} for i in range(25)]
    for a in range(25):
        for b in near[a]:
            assert colors[a] != colors[b]
            for c in near[b] - {a}:
                for d in near[c] - {a, b}:
                    assert len({colors[a], colors[b], colors[c], colors[d]}) > 2


def test_colorings_that_do_not_fit_are_refused() -> None:
    pattern = sparse.Pattern.of(np.ones((2, 3)))
    with pytest.raises(ValueError, match="partition 'diagonal' is not one of"):
        sparse.color(pattern, "diagonal")
    with pytest.raises(ValueError, match="symmetric patterns"):
        sparse.color(np.triu(np.ones((3, 3))), "symmetric")
    with pytest.raises(ValueError, match=r"does not separate entry \(0, 0\)"):
        reading(pattern, sparse.Coloring(np.zeros(3, int), np.full(2, -1)))
    with pytest.raises(ValueError, match="a colouring of 2 x 2"):
        reading(pattern, sparse.Coloring(np.zeros(2, int), np.full(2, -1)))


def test_patterns_are_values() -> None:
    from scipy.sparse import coo_array

    dense = np.array([[0, 1, 0], [2, 0, 3]])
    pattern = sparse.Pattern.of(dense)
    assert pattern == sparse.Pattern.of(coo_array(dense)) == sparse.Pattern((2, 3), [1, 0, 1, 1], [2, 1, 0, 0])
    assert hash(pattern) == hash(sparse.Pattern.of(dense != 0)) and pattern != pattern.T
    assert repr(pattern) == "Pattern(2 x 3, 3 entries)"
    np.testing.assert_array_equal(pattern.indptr, [0, 1, 3])
    np.testing.assert_array_equal(pattern.to_scipy().toarray(), dense != 0)
    np.testing.assert_array_equal(pattern.T.todense(), dense.T != 0)
    with pytest.raises(ValueError, match="outside"):
        sparse.Pattern((2, 2), [2], [0])
    with pytest.raises(TypeError, match="one row and one column"):
        sparse.Pattern((2, 2), [0, 1], [0])
    with pytest.raises(TypeError, match="is a matrix"):
        sparse.Pattern.of(np.ones(3))


# Jacobians


@pytest.mark.parametrize("partition", ["auto", "columns", "rows", "bidirectional"])
@pytest.mark.parametrize("fun", [band, arrow])
def test_jacobians_equal_dense_ones(fun: Any, partition: str) -> None:
    found = sparse.jacobian(fun, partition=partition)(X)
    np.testing.assert_allclose(found.todense(), tracegrad.jacfwd(fun)(X), rtol=1e-6)
    assert found.pattern == sparse.jacobian_pattern(fun, X)


@given(functions(), st.sampled_from(["auto", "columns", "rows", "bidirectional"]))
@settings(max_examples=30, **common)
def test_jacobians_of_random_programs_equal_dense_ones(case: Any, partition: str) -> None:
    function, in_types = case
    with config.override("enable_x64", True), tracegrad.disable_jit():
        args = arguments(in_types)
        every = tuple(range(len(args)))
        found = sparse.jacobian(function, every, partition=partition)(*args).todense()
        dense = tracegrad.jacfwd(function, every)(*args)
        sizes = [t.size for t in program_of(function, in_types).out_types]
        rows = [np.concatenate([np.asarray(b).reshape(m, a.size) for a, b in zip(args, row)], 1) for row, m in zip(dense, sizes)]
        np.testing.assert_allclose(found, np.concatenate(rows), rtol=1e-9, atol=1e-12)


def test_jacobians_of_pytrees_run_over_the_leaves() -> None:
    def f(p, s):
        return {"a": p["w"] * s, "b": p["v"][0] * jnp.ones(2)}

    p = {"v": np.float32([3, 4]), "w": np.float32([1, 2])}
    found = sparse.jacobian(f)(p, np.float32(5)).todense()
    np.testing.assert_array_equal(found, [[0, 0, 5, 0], [0, 0, 0, 5], [1, 0, 0, 0], [1, 0, 0, 0]])
    found = sparse.jacobian(f, argnums=(1, 0))(p, np.float32(5))
    np.testing.assert_array_equal(found.todense()[:2], [[1, 0, 0, 5, 0], [2, 0, 0, 0, 5]])


def test_outputs_without_derivatives_have_empty_rows() -> None:
    f = lambda x: (jnp.argmax(x), 2 * x[1], x > 0)
    for partition in ("columns", "rows"):
        found = sparse.jacobian(f, partition=partition)(X[:3])
        np.testing.assert_array_equal(found.todense(), [[0, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_auxiliary_data_come_along() -> None:
    for partition in ("columns", "rows", "bidirectional"):
        found, aux = sparse.jacobian(lambda x: (band(x), {"sum": jnp.sum(x)}), has_aux=True, partition=partition)(X)
        np.testing.assert_allclose(found.todense(), tracegrad.jacfwd(band)(X), rtol=1e-6)
        np.testing.assert_allclose(aux["sum"], X.sum(), rtol=1e-6)
    matrix, aux = sparse.jacobian(lambda x: (jnp.floor(x), x), has_aux=True)(X)
    assert matrix.nnz == 0 and np.array_equal(aux, X) and not matrix.todense().any()


def test_functions_with_custom_vjp_are_differentiated_by_rows() -> None:
    @tracegrad.custom_vjp
    def f(x):
        return x**2

    f.defvjp(lambda x: (x**2, x), lambda x, ct: (3 * x * ct,))
    np.testing.assert_allclose(sparse.jacobian(lambda x: f(x)[::-1])(X).todense(), np.diag(3 * X)[::-1], rtol=1e-6)


def test_one_derivative_for_each_color() -> None:
    size = []

    @tracegrad.custom_jvp
    def spy(x):
        return x

    def rule(primals, tangents):
        tracegrad.debug.callback(lambda t: size.append(1), tangents[0])
        return primals[0], tangents[0]

    spy.defjvp(rule)
    n = 200
    x = np.linspace(0, 1, n, dtype=np.float32)
    found = sparse.jacobian(lambda x: band(spy(x)))(x)
    np.asarray(found.data)
    tracegrad.effects_barrier()
    assert len(size) == 3
    np.testing.assert_allclose(found.todense(), tracegrad.jacfwd(band)(x), rtol=1e-6)


def test_a_pattern_may_be_given() -> None:
    exact = sparse.Pattern.of(np.asarray(tracegrad.jacfwd(band)(X)))
    f = lambda x: band(x) + 0 * jnp.cumsum(x)[2:]
    assert sparse.jacobian(f, pattern=exact)(X).nnz == exact.nnz
    np.testing.assert_allclose(sparse.jacobian(f, pattern=exact.to_scipy())(X).todense(), tracegrad.jacfwd(band)(X), rtol=1e-6)
    with pytest.raises(ValueError, match=r"the pattern has the shape \(7, 8\), but there are 7 outputs and 9 inputs"):
        sparse.jacobian(f, pattern=np.ones((7, 8)))(X)


def test_complex_outputs_of_real_inputs() -> None:
    f = lambda x: x[1:] * jnp.exp(1j * x[:-1])
    np.testing.assert_allclose(sparse.jacobian(f)(X).todense(), tracegrad.jacfwd(f)(X), rtol=1e-5)
    with pytest.raises(TypeError, match="requires real outputs"):
        sparse.jacobian(f, partition="rows")(X)


def test_jacobians_compose_with_other_transformations() -> None:
    solve = tracegrad.jit(lambda x: jnp.linalg.solve(sparse.jacobian(arrow)(x).todense(), arrow(x)))
    np.testing.assert_allclose(solve(X), np.linalg.solve(tracegrad.jacfwd(arrow)(X), arrow(X)), rtol=1e-3)
    trace = lambda jacobian: lambda x: jnp.sum(jacobian(x) ** 2)
    found = tracegrad.grad(trace(lambda x: sparse.jacobian(band)(x).data))(X)
    np.testing.assert_allclose(found, tracegrad.grad(trace(tracegrad.jacfwd(band)))(X), rtol=1e-5)
    batch = tracegrad.vmap(sparse.jacobian(band))(np.stack([X, 2 * X]))
    assert batch.data.shape == (2, batch.nnz)
    np.testing.assert_allclose(batch.todense()[1], tracegrad.jacfwd(band)(2 * X), rtol=1e-6)


def test_matrices_multiply_transpose_and_go_to_scipy() -> None:
    found = sparse.jacobian(band)(X)
    dense = np.asarray(found.todense())
    np.testing.assert_allclose(found @ X, dense @ X, rtol=1e-6)
    np.testing.assert_allclose(found @ np.eye(9, dtype="f"), dense, rtol=1e-6)
    np.testing.assert_array_equal(found.T.todense(), dense.T)
    np.testing.assert_array_equal(found.to_scipy().toarray(), dense)
    assert found.shape == (7, 9) and found.ndim == 2 and found.dtype == np.float32
    assert repr(found) == "CSR(7 x 9, 21 entries, float32)"
    assert [x.shape for x in tracegrad.tree.leaves(found)] == [(21,)]
    with pytest.raises(TypeError, match=r"shape \(7, 9\) cannot be multiplied with an array of shape \(7,\)"):
        found @ X[:7]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sparse.jacobian(3), TypeError, "sparse.jacobian expects a function"),
        (
            lambda: sparse.jacobian(band)(np.arange(5)),
            TypeError,
            r"derivatives with respect to real numbers, but .*x.* is i32\[5\]",
        ),
        (lambda: sparse.jacobian(band)(X + 1j), TypeError, r"its real and imaginary parts"),
        (lambda: sparse.jacobian(band, 1)(X), ValueError, "requires at least 2 positional arguments"),
        (lambda: sparse.jacobian(band, partition="symmetric"), ValueError, "not symmetric in general"),
        (lambda: sparse.jacobian(band, partition="diagonal")(X), ValueError, "'diagonal' is not one of"),
        (lambda: sparse.hessian(jnp.sum, partition="rows"), ValueError, "not one of 'symmetric', 'columns'"),
        (lambda: sparse.hessian(band)(X), TypeError, "Gradient only defined for scalar-output functions"),
    ],
)
def test_errors_name_the_argument_and_the_partition(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# Hessians


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def hub(x):
    return x[-1] * jnp.sum(x**3)


def plate(x):
    u = jnp.sinh(x.reshape(3, 3))
    return jnp.sum((u[1:] - u[:-1]) ** 2) + jnp.sum((u[:, 1:] - u[:, :-1]) ** 4)


@pytest.mark.parametrize("partition", ["symmetric", "columns"])
@pytest.mark.parametrize("fun", [rosenbrock, hub, plate, lambda x: jnp.sum(x)])
def test_hessians_equal_dense_ones(fun: Any, partition: str) -> None:
    found = sparse.hessian(fun, partition=partition)(X)
    np.testing.assert_allclose(found.todense(), tracegrad.hessian(fun)(X), rtol=2e-5, atol=1e-4)
    if partition == "symmetric":
        assert np.array_equal(found.todense(), np.asarray(found.todense()).T)


def test_a_hub_needs_two_colors() -> None:
    assert sparse.color(sparse.hessian_pattern(hub, X), "symmetric").num_colors == 2
    assert sparse.color(sparse.hessian_pattern(hub, X), "columns").num_colors == 9


def test_hessians_with_auxiliary_data() -> None:
    found, aux = sparse.hessian(lambda x, s: (rosenbrock(x) * s, s + 1), has_aux=True)(X, 2.0)
    np.testing.assert_allclose(found.todense(), 2 * tracegrad.hessian(rosenbrock)(X), rtol=2e-5, atol=1e-4)
    assert aux == 3
