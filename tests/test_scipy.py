"""scipy: special functions, linear algebra, the normal distribution and segment reductions, against SciPy and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats

import tracegrad.numpy as jnp
from tracegrad import flatten_util, ops, random
from tracegrad.ir.config import config
from tracegrad.runtime.jit import jit
from tracegrad.scipy import linalg, special
from tracegrad.scipy.stats import norm
from tracegrad.test_util import check_grads
from tracegrad.transforms.api import grad

F32 = np.float32
RNG = np.random.RandomState(0)
X = np.linspace(-4.3, 6.1, 27)
P = np.abs(X) + 0.1
U = np.linspace(0.01, 0.99, 27)

SPECIAL = [
    ("erf", (X,)), ("erfc", (X,)), ("erfinv", (U,)), ("expit", (X,)), ("logit", (U,)), ("i0", (X,)), ("i0e", (X,)), ("i1", (X,)),
    ("i1e", (X,)), ("gammaln", (X,)), ("digamma", (P,)), ("gamma", (X,)), ("gammasgn", (X,)), ("betaln", (P, U)), ("betaln", (P * 30, U)),
    ("betaln", (P * 30, P * 20)), ("beta", (P, U)), ("entr", (X,)), ("rel_entr", (P, U)), ("kl_div", (P, U)), ("xlogy", (P, U)),
    ("xlog1py", (P, U)), ("betainc", (P, U + 1, U)), ("gammainc", (P, 3 * U)), ("gammaincc", (P, 3 * U)), ("ndtr", (X,)),
    ("ndtri", (np.concatenate([U, [0, 1, 1e-30, 1e-10]]),)), ("log_ndtr", (np.linspace(-30, 10, 41),)), ("boxcox", (P, X)),
    ("boxcox1p", (P, X)), ("expi", (np.linspace(-20, 60, 41) + 0.01,)), ("exp1", (P,)), ("zeta", (P + 1.5, U)), ("poch", (P, U)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args"), SPECIAL, ids=[f"{n}-{i}" for i, (n, _) in enumerate(SPECIAL)])
@pytest.mark.parametrize("double", [False, True])
def test_special_functions(name, args, double):
    with config.override("enable_x64", double):
        args = [np.asarray(a, np.float64 if double else F32) for a in args]
        out = getattr(special, name)(*args)
        assert out.dtype == args[0].dtype
        expected = getattr(scipy.special, name)(*[a.astype(np.float64) for a in args])
        tolerance = 2e-11 if double else 2e-5
        np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(jit(getattr(special, name))(*args), out, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "name", ["xlogy", "entr", "logit", "ndtri", "log_ndtr", "expi", "gammaln", "betaln", "erfinv", "rel_entr"]
)
def test_derivatives_of_special_functions(name):
    with config.override("enable_x64", True):
        args = (P[::5], U[::5]) if name in ("xlogy", "betaln", "rel_entr") else (U[::5],)
        check_grads(getattr(special, name), args, 1)


def test_values_at_the_edges():
    assert float(special.xlogy(0.0, 0.0)) == 0.0 and float(special.xlog1py(0.0, -1.0)) == 0.0
    assert np.isnan(float(special.xlogy(0.0, np.nan)))
    assert float(grad(lambda x: special.xlogy(x, 0.5))(F32(0))) == pytest.approx(np.log(0.5))
    assert float(special.entr(F32(-1))) == -np.inf
    np.testing.assert_array_equal(special.rel_entr(F32([0, -1, 1]), F32([0, 1, -1])), [0, np.inf, np.inf])
    assert special.factorial(np.arange(5)).tolist() == pytest.approx([1, 1, 2, 6, 24], rel=1e-5)
    np.testing.assert_allclose(special.comb(np.arange(6), 3), scipy.special.comb(np.arange(6), 3), atol=1e-4)
    np.testing.assert_allclose(special.multigammaln(P + 3, 4), scipy.special.multigammaln(P + 3, 4), rtol=1e-4)
    np.testing.assert_allclose(special.polygamma(2, P), scipy.special.polygamma(2, P), rtol=1e-4)
    np.testing.assert_allclose(special.bernoulli(6), scipy.special.bernoulli(6), rtol=1e-6)
    with pytest.raises(ValueError, match="integer type"):
        special.polygamma(1.0, 2.0)
    with pytest.raises(TypeError, match="not supported"):
        special.ndtr(jnp.ones(2, jnp.float16))


A = RNG.randn(4, 4).astype(F32)
SPD = A @ A.T + np.eye(4, dtype=F32)
B = RNG.randn(4, 3).astype(F32)
BATCH = np.stack([SPD, 2 * SPD])


def close(out, expected, tol=2e-4):
    np.testing.assert_allclose(np.asarray(out), expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("lower", [True, False])
def test_cholesky_and_triangular_solvers(lower):
    close(linalg.cholesky(SPD, lower=lower), scipy.linalg.cholesky(SPD, lower=lower))
    for b in (B, B[:, 0]):
        close(linalg.cho_solve(linalg.cho_factor(SPD, lower), b), np.linalg.solve(SPD, b))
        for trans in (0, 1, "C"):
            close(linalg.solve_triangular(SPD, b, trans, lower), scipy.linalg.solve_triangular(SPD, b, trans, lower))
    batched = linalg.cho_solve(linalg.cho_factor(BATCH, lower), np.stack([B, B]))
    close(batched, np.linalg.solve(BATCH, np.stack([B, B])))
    z = (SPD + 1j * (A - A.T)).astype(np.complex64)
    close(linalg.cho_solve(linalg.cho_factor(z, lower), B), np.linalg.solve(z, B), 2e-3)


@pytest.mark.parametrize("trans", [0, 1, 2])
def test_lu(trans):
    transposed = A if trans == 0 else A.T
    for b in (B, B[:, 0]):
        close(linalg.lu_solve(linalg.lu_factor(A), b, trans), np.linalg.solve(transposed, b), 1e-3)
    for shape in [(4, 4), (5, 3), (3, 5)]:
        m = RNG.randn(*shape).astype(F32)
        p, lower, upper = linalg.lu(m)
        close(np.asarray(p) @ np.asarray(lower) @ np.asarray(upper), m)


def test_lu_solve_with_wide_integers():
    with config.override("enable_x64", True):
        a, b = A.astype(np.float64), B.astype(np.float64)
        factors, pivots = linalg.lu_factor(a)
        for p in (pivots, np.asarray(pivots, np.int64)):
            np.testing.assert_allclose(linalg.lu_solve((factors, p), b), np.linalg.solve(a, b), rtol=1e-9)


def test_solve_and_factorizations():
    close(linalg.solve(A, B), np.linalg.solve(A, B), 1e-3)
    close(linalg.solve(SPD, B, assume_a="pos"), np.linalg.solve(SPD, B))
    close(linalg.inv(SPD), np.linalg.inv(SPD))
    close(linalg.det(A), np.linalg.det(A))
    q, r = linalg.qr(RNG.randn(5, 3).astype(F32), mode="economic")
    assert q.shape == (5, 3) and r.shape == (3, 3)
    w, v = linalg.eigh(SPD, 2 * SPD + np.eye(4, dtype=F32))
    expected = scipy.linalg.eigh(SPD, 2 * SPD + np.eye(4))[0]
    close(w, expected)
    close(SPD @ np.asarray(v), (2 * SPD + np.eye(4)) @ np.asarray(v) * np.asarray(w), 1e-3)
    close(linalg.svd(A, compute_uv=False), np.linalg.svd(A, compute_uv=False))
    close(
        linalg.eigh_tridiagonal(B[:, 0], B[:3, 1], eigvals_only=True),
        scipy.linalg.eigh_tridiagonal(B[:, 0], B[:3, 1], True),
        1e-3,
    )
    for output in ("real", "complex"):
        t, z = (np.asarray(x) for x in linalg.schur(A, output))
        close(z @ t @ z.conj().T, A, 1e-3)


def test_functions_of_matrices():
    for scale in (0.1, 1.0, 4.0):
        close(linalg.expm(scale * A), scipy.linalg.expm((scale * A).astype(np.float64)), 1e-2 if scale > 1 else 1e-3)
    close(linalg.expm(0.3 * BATCH), np.stack([scipy.linalg.expm(0.3 * b) for b in BATCH]), 2e-3)
    check_grads(linalg.expm, (0.5 * A,), 1, atol=5e-2, rtol=5e-2)
    close(linalg.expm_frechet(A, B @ B.T)[1], scipy.linalg.expm_frechet(A, B @ B.T)[1], 1e-3)
    close(linalg.sqrtm(SPD), scipy.linalg.sqrtm(SPD), 1e-3)
    close(linalg.funm(SPD, jnp.sqrt), scipy.linalg.sqrtm(SPD), 1e-2)
    close(linalg.solve_sylvester(SPD, 2 * SPD, A), scipy.linalg.solve_sylvester(SPD, 2 * SPD, A), 1e-3)
    for side in ("right", "left"):
        for mine, reference in zip(linalg.polar(A, side), scipy.linalg.polar(A, side)):
            close(mine, reference, 1e-3)


def test_structured_matrices():
    c, r = B[:, 0], B[:, 1]
    close(linalg.toeplitz(c), scipy.linalg.toeplitz(c))
    close(linalg.toeplitz(c, r), scipy.linalg.toeplitz(c, r))
    close(linalg.hankel(c, r), scipy.linalg.hankel(c, r))
    close(linalg.circulant(c), scipy.linalg.circulant(c))
    close(linalg.companion(c), scipy.linalg.companion(c))
    close(linalg.block_diag(A, c, F32(3), B), scipy.linalg.block_diag(A, c, 3, B))
    close(linalg.hilbert(4), scipy.linalg.hilbert(4))
    close(linalg.dft(5, "sqrtn"), scipy.linalg.dft(5, "sqrtn"))
    for kind in ("symmetric", "lower", "upper"):
        close(linalg.pascal(4, kind), scipy.linalg.pascal(4, kind))


@pytest.mark.parametrize("name", ["logpdf", "pdf", "cdf", "logcdf", "sf", "logsf"])
def test_the_normal_distribution(name):
    x = np.linspace(-8, 8, 17).astype(F32)
    close(getattr(norm, name)(x, 0.5, 2.0), getattr(scipy.stats.norm, name)(x, 0.5, 2.0), 2e-5)
    check_grads(lambda x, s: getattr(norm, name)(x, 0.5, s), (F32(0.3), F32(2)), 1)


def test_quantiles_of_the_normal_distribution():
    q = np.linspace(0.01, 0.99, 9).astype(F32)
    close(norm.ppf(q, 0.5, 2.0), scipy.stats.norm.ppf(q, 0.5, 2.0), 1e-5)
    close(norm.isf(q), scipy.stats.norm.isf(q), 1e-5)


def test_errors_name_the_function_and_the_shapes():
    with pytest.raises(ValueError, match="last two dimensions"):
        linalg.cholesky(B)
    with pytest.raises(ValueError, match="Invalid 'trans'"):
        linalg.solve_triangular(A, B, trans=3)
    with pytest.raises(ValueError, match="do not fit"):
        linalg.solve(A, np.ones(3, F32))
    assert np.isnan(np.asarray(linalg.cholesky(-SPD))).any()


def test_segment_reductions_drop_what_is_out_of_range():
    data, ids = np.arange(5, dtype=F32), np.array([0, 0, 1, -1, 7])
    assert ops.segment_sum(data, ids, 3).tolist() == [1, 2, 0]
    assert ops.segment_prod(data, ids, 3).tolist() == [0, 2, 1]
    assert ops.segment_max(data, ids, 3).tolist() == [1, 2, -np.inf]
    assert ops.segment_min(np.arange(5), ids, 2).tolist() == [0, 2]
    assert ops.segment_sum(np.ones((4, 2), F32), np.array([0, 1, 1, 0])).tolist() == [[2, 2], [2, 2]]
    gradient = grad(lambda d: jnp.sum(ops.segment_sum(d, ids, 3) * F32([1, 2, 3])))(data)
    assert gradient.tolist() == [1, 1, 2, 0, 0]


def test_ravel_pytree():
    value = {"w": jnp.ones((2, 2)), "b": jnp.arange(3), "k": F32(7)}
    vector, unravel = flatten_util.ravel_pytree(value)
    assert vector.shape == (8,) and vector.dtype == F32
    built = unravel(vector * 2)
    assert built["b"].dtype == np.int32 and built["b"].tolist() == [0, 2, 4] and built["w"].shape == (2, 2)
    with pytest.raises(ValueError, match=r"expected an array of shape \(8,\)"):
        unravel(vector[:3])
    assert flatten_util.ravel_pytree({})[0].shape == (0,)
    assert jit(lambda v: unravel(v)["k"])(vector).tolist() == 7.0


def test_check_grads_finds_a_wrong_derivative():
    from tracegrad import lax

    check_grads(lambda x, n: jnp.sin(x) * n, (F32(0.3), np.int32(2)), 2)
    with pytest.raises(AssertionError, match="jvp"):
        check_grads(lambda x: lax.stop_gradient(x) * x, (F32(2),), 1)


def test_debug_print(capfd):
    from tracegrad import debug

    @jit
    def f(x):
        debug.print("x={} y={y:.2f}", x, y=x * 2)
        return x

    f(F32(1.5))
    assert "x=1.5 y=3.00" in capfd.readouterr().out
    with pytest.raises(ValueError, match="unused arguments"):
        debug.print("x={}", 1, 2)


def test_pure_callback():
    from tracegrad.callbacks import io_callback, pure_callback
    from tracegrad.tracer.abstract import ShapeDtypeStruct
    from tracegrad.transforms.vmap import vmap

    def f(x):
        return pure_callback(np.sin, ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential") + 1

    x = np.linspace(0, 1, 3).astype(F32)
    close(f(x), np.sin(x) + 1)
    close(jit(f)(x), np.sin(x) + 1)
    close(vmap(f)(x), np.sin(x) + 1)
    seen = []
    jit(lambda x: io_callback(lambda v: seen.append(float(v)), None, x, ordered=True))(F32(2))
    assert seen == [2.0]
    with pytest.raises(ValueError, match="declared"):
        pure_callback(lambda x: np.zeros(2, F32), ShapeDtypeStruct((3,), F32), x)


def test_random_draws_feed_linear_algebra():
    cov = jnp.array(SPD)
    x = random.multivariate_normal(random.key(0), jnp.zeros(4), cov, (2000,))
    close(np.cov(np.asarray(x).T), SPD, 0.6)


GENERAL = A + 6 * np.eye(4, dtype=F32)


@pytest.mark.parametrize(("name", "matrix"), [("cg", SPD), ("bicgstab", GENERAL), ("gmres", GENERAL)])
def test_krylov_methods_and_their_derivatives(name, matrix):
    from tracegrad.scipy.sparse import linalg as sparse
    from tracegrad.transforms.jacobians import jacrev

    method, b = getattr(sparse, name), B[:, 0]

    def solve(matrix, b):
        return method(matrix, b, tol=1e-6)[0]

    expected = np.linalg.solve(matrix, b)
    close(solve(matrix, b), expected)
    close(jit(solve)(matrix, b), expected)
    x = method(lambda t: {"x": matrix @ t["x"]}, {"x": jnp.asarray(b)})[0]["x"]
    close(x, expected, 1e-3)
    by_matrix, by_vector = grad(lambda m, b: jnp.sum(solve(m, b) ** 2), argnums=(0, 1))(matrix, b)
    adjoint = np.linalg.solve(matrix.T, 2 * expected)
    close(by_vector, adjoint)
    close(by_matrix, -np.outer(adjoint, expected))
    inverse = np.linalg.inv(matrix)
    close(jacrev(grad(lambda b: jnp.sum(solve(matrix, b) ** 2)))(b), 2 * inverse.T @ inverse, 1e-3)


def test_roots_are_differentiated_implicitly():
    from tracegrad import lax

    def newton(f, x):
        return lax.fori_loop(0, 20, lambda _, x: x - f(x) / grad(f)(x), x)

    def root(a):
        return lax.custom_root(lambda x: x * x - a, jnp.float32(1), newton, lambda g, y: y / g(jnp.float32(1)))

    assert float(root(F32(2))) == pytest.approx(np.sqrt(2), rel=1e-6)
    assert float(jit(grad(root))(F32(2))) == pytest.approx(0.5 / np.sqrt(2), rel=1e-5)
