"""Library routines in native code: each equals its primitive's NumPy meaning, for all dtypes, batches, corners and layouts."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import check as harness
from tracegrad.codegen.compile import compile_program
from tracegrad.ir import contractions, fft, linalg, ops, sorting, special, windows
from tracegrad.ir.config import config
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Equation, Program, Var
from tracegrad.ir.types import ArrayType, bfloat16
from tracegrad.runtime import engine
from tracegrad.tracer.control_flow import cond, fori_loop, scan

F16, F32, F64, C64, C128 = (np.dtype(d) for d in (np.float16, np.float32, np.float64, np.complex64, np.complex128))
BF16 = np.dtype(bfloat16)
MATRICES = (F32, F64, C64, C128)


def types_of(args: Any) -> tuple[ArrayType, ...]:
    return tuple(ArrayType(a.shape, a.dtype) for a in args)


def native(primitive: Primitive, *args: np.ndarray, **params: Any) -> tuple[np.ndarray, ...]:
    """The primitive's results by compiled code."""
    in_types = types_of(args)
    inputs = [Var(t) for t in in_types]
    outputs = [Var(t) for t in primitive.type_rule(*in_types, **params)]
    compiled = compile_program(Program(inputs, (), [Equation(primitive, inputs, outputs, params)], outputs))
    entry = engine.load(compiled.object_code, compiled.symbol, compiled.external)
    results = [np.full(v.type.shape, 85, np.uint8).astype(v.type.dtype) for v in outputs]
    arena = np.full(compiled.arena_size + 128, 170, np.uint8)
    start = -(-arena.ctypes.data // 64) * 64

    def table(arrays: Any) -> Any:
        return (ctypes.c_void_p * max(len(arrays), 1))(*[a.ctypes.data for a in arrays])

    given = [np.ascontiguousarray(a) for a in args]
    assert entry(table(given), table(results), table(compiled.constants), start) == 0
    return tuple(results)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def check(primitive: Primitive, *args: np.ndarray, tolerance: float = 0.0, **params: Any) -> None:
    """Compiled code and the NumPy meaning agree."""
    got = native(primitive, *args, **params)
    expected = primitive.evaluate(*args, **params)
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == e.dtype and g.shape == e.shape
        if e.dtype.kind in "iub":
            np.testing.assert_array_equal(g, e)
        else:
            np.testing.assert_allclose(wide(g), wide(e), rtol=tolerance, atol=tolerance)


def tolerance_of(dtype: Any, loose: float = 1.0) -> float:
    dtype = np.dtype(dtype)
    single = dtype in (F32, C64)
    return loose * ({F16: 2e-3, BF16: 2e-2}.get(dtype) or (2e-4 if single else 1e-10))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def random(rng: np.random.Generator, dtype: Any, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.normal(size=shape)
    return x.astype(dtype)


def transposed(x: np.ndarray) -> np.ndarray:
    return np.conj(np.swapaxes(x, -1, -2))


def positive(rng: np.random.Generator, dtype: Any, *shape: int) -> np.ndarray:
    x = random(rng, dtype, *shape)
    return (x @ transposed(x) + np.eye(shape[-1])).astype(dtype)


# --------------------------------------------------------------------------------------------------------------- linear algebra


@pytest.mark.parametrize("dtype", MATRICES, ids=str)
@pytest.mark.parametrize("n", (1, 3, 7, 20))
def test_cholesky(dtype: Any, n: int, rng: np.random.Generator) -> None:
    x = positive(rng, dtype, 2, n, n)
    check(linalg.cholesky_p, x, tolerance=tolerance_of(dtype))
    x[1, n - 1, n - 1] = -1
    check(linalg.cholesky_p, x, tolerance=tolerance_of(dtype))


@pytest.mark.parametrize("dtype", MATRICES, ids=str)
@pytest.mark.parametrize("shape", ((3, 3), (6, 6), (30, 30), (2, 5), (20, 40), (40, 20)), ids=str)
def test_lu(dtype: Any, shape: tuple[int, int], rng: np.random.Generator) -> None:
    check(linalg.lu_p, random(rng, dtype, 2, *shape), tolerance=tolerance_of(dtype))


def test_lu_of_singular_matrices(rng: np.random.Generator) -> None:
    check(linalg.lu_p, np.zeros((3, 3)))
    check(linalg.lu_p, np.ones((6, 6)))
    check(linalg.lu_p, np.zeros((0, 3)))


@pytest.mark.parametrize("dtype", (F32, C128), ids=str)
@pytest.mark.parametrize("n", (3, 9, 20))
@pytest.mark.parametrize("left_side", (True, False))
@pytest.mark.parametrize("lower", (True, False))
def test_triangular_solve(dtype: Any, n: int, left_side: bool, lower: bool, rng: np.random.Generator) -> None:
    a = (random(rng, dtype, 2, n, n) / n + 2 * np.eye(n)).astype(dtype)
    for transpose, conjugate, unit in ((False, False, False), (True, False, True), (True, True, False), (False, True, False)):
        for m in (1, 4):
            b = random(rng, dtype, 2, *((n, m) if left_side else (m, n)))
            flags = dict(left_side=left_side, lower=lower, transpose_a=transpose, conjugate_a=conjugate, unit_diagonal=unit)
            check(linalg.triangular_solve_p, a, b, tolerance=tolerance_of(dtype, 10), **flags)


@pytest.mark.parametrize("dtype", MATRICES, ids=str)
@pytest.mark.parametrize("shape", ((3, 3), (5, 2), (2, 5), (40, 33)), ids=str)
@pytest.mark.parametrize("full", (True, False))
def test_qr_and_svd(dtype: Any, shape: tuple[int, int], full: bool, rng: np.random.Generator) -> None:
    x = random(rng, dtype, 2, *shape)
    check(linalg.qr_p, x, full_matrices=full, tolerance=tolerance_of(dtype, 10))
    s, u, vh = native(linalg.svd_p, x, full_matrices=full, compute_uv=True)
    k = min(shape)
    tolerance = tolerance_of(dtype)
    np.testing.assert_allclose((u[..., :k] * s[..., None, :]) @ vh[..., :k, :], x, rtol=tolerance, atol=tolerance)
    for basis in (transposed(u) @ u, vh @ transposed(vh)):
        np.testing.assert_allclose(basis, np.broadcast_to(np.eye(basis.shape[-1]), basis.shape), atol=tolerance)
    check(linalg.svd_p, x, full_matrices=full, compute_uv=False, tolerance=tolerance)


@pytest.mark.parametrize("dtype", MATRICES, ids=str)
@pytest.mark.parametrize("n", (1, 4, 33))
def test_eigenproblems(dtype: Any, n: int, rng: np.random.Generator) -> None:
    tolerance = tolerance_of(dtype, 10)
    h = positive(rng, dtype, 2, n, n)
    for lower in (True, False):
        v, w = native(linalg.eigh_p, h, lower=lower)
        np.testing.assert_allclose((v * w[..., None, :]) @ transposed(v), h, rtol=tolerance, atol=n * tolerance)
    a = random(rng, dtype, 2, n, n)
    w, vl, vr = native(linalg.eig_p, a, compute_left=True, compute_right=True)
    np.testing.assert_allclose(a @ vr, vr * w[..., None, :], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(transposed(vl) @ a, w[..., :, None] * transposed(vl), rtol=tolerance, atol=tolerance)
    t, z = native(linalg.schur_p, a)
    np.testing.assert_allclose(z @ t @ transposed(z), a, rtol=tolerance, atol=tolerance)


def test_nan_in_matrices_gives_nan() -> None:
    x = np.eye(4)
    x[1, 0] = np.nan
    for results in (
        native(linalg.eigh_p, x, lower=True),
        native(linalg.eig_p, x, compute_left=False, compute_right=True),
        native(linalg.svd_p, x, full_matrices=True, compute_uv=True),
        native(linalg.schur_p, x),
    ):
        assert all(np.isnan(r).all() for r in results)


@pytest.mark.parametrize("dtype", MATRICES, ids=str)
def test_tridiagonal_and_householder(dtype: Any, rng: np.random.Generator) -> None:
    for n in (1, 2, 9):
        dl, d, du = random(rng, dtype, 2, n), random(rng, dtype, 2, n) + dtype.type(4), random(rng, dtype, 2, n)
        check(linalg.tridiagonal_solve_p, dl, d, du, random(rng, dtype, 2, n, 3), tolerance=tolerance_of(dtype, 10))
    check(linalg.householder_product_p, random(rng, dtype, 2, 5, 3), random(rng, dtype, 2, 2), tolerance=tolerance_of(dtype, 100))
    check(linalg.householder_product_p, random(rng, dtype, 5, 3), random(rng, dtype, 0))


def test_empty_matrices() -> None:
    check(linalg.cholesky_p, np.zeros((0, 0)))
    check(linalg.svd_p, np.zeros((3, 0)), full_matrices=True, compute_uv=True)
    check(linalg.qr_p, np.zeros((3, 0)), full_matrices=True)


# -------------------------------------------------------------------------------------------------------------------------- FFT


@pytest.mark.parametrize("real", (F32, F64), ids=str)
@pytest.mark.parametrize("rank", (1, 2, 3))
def test_fft(real: Any, rank: int, rng: np.random.Generator) -> None:
    c = random(rng, C64 if real == F32 else C128, 3, 4, 5, 6)
    r = np.ascontiguousarray(c.real)
    lengths = c.shape[4 - rank :]
    tolerance = tolerance_of(real)
    for kind, x in (("fft", c), ("ifft", c), ("rfft", r)):
        check(fft.fft_p, x, kind=kind, lengths=lengths, tolerance=tolerance)
    for last in (10, 11):
        check(fft.fft_p, c, kind="irfft", lengths=(*lengths[:-1], last), tolerance=tolerance)


# ---------------------------------------------------------------------------------------------------------------------- sorting

ORDERED = tuple(np.dtype(d) for d in "?bBhHiIlLefd") + (BF16, C64, C128)


def keys(rng: np.random.Generator, dtype: Any, n: int) -> np.ndarray:
    x = np.round(rng.normal(size=(3, n)) * 3)
    dtype = np.dtype(dtype)
    if dtype.kind in "bu":
        x = np.abs(x)
    elif dtype.kind not in "i" and n > 8:
        x[0, 3:6] = np.nan
        x[1, 2:9] = (-0.0, 0.0, 0.0, -0.0, 0.0, -np.inf, np.inf)
    if dtype.kind == "c":
        x = x + 1j * np.round(rng.normal(size=x.shape) * 3)
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", ORDERED, ids=str)
@pytest.mark.parametrize("n", (1, 9, 30, 2500))
def test_sort(dtype: Any, n: int, rng: np.random.Generator) -> None:
    x, y = keys(rng, dtype, n), keys(rng, dtype, n)
    i = np.broadcast_to(np.arange(n, dtype=np.int32), x.shape).copy()
    for dimension in (0, 1):
        check(sorting.sort_p, x, dimension=dimension, is_stable=True, num_keys=1)
        check(sorting.sort_p, x, i, dimension=dimension, is_stable=True, num_keys=1)
        check(sorting.sort_p, x, y, i, dimension=dimension, is_stable=True, num_keys=2)
    if x.dtype.kind == "f":
        (sorted_x,) = native(sorting.sort_p, x, dimension=1, is_stable=True, num_keys=1)
        (expected,) = sorting.sort_p.evaluate(x, dimension=1, is_stable=True, num_keys=1)
        numbers = ~np.isnan(expected)
        assert (np.signbit(sorted_x)[numbers] == np.signbit(expected)[numbers]).all()


@pytest.mark.parametrize("dtype", [d for d in ORDERED if d.kind != "c"], ids=str)
def test_top_k(dtype: Any, rng: np.random.Generator) -> None:
    for n in (1, 9, 300):
        for k in sorted({0, 1, min(5, n), min(100, n), n}):
            check(sorting.top_k_p, keys(rng, dtype, n), k=k)


# ---------------------------------------------------------------------------------------------------------------------- windows


def random_windows(rng: np.random.Generator) -> tuple[tuple[int, ...], dict[str, Any], dict[str, Any]]:
    rank = int(rng.integers(1, 4))

    def each(*choices: int) -> tuple[int, ...]:
        return tuple(int(c) for c in rng.choice(choices, rank))

    shape = each(1, 2, 5, 8, 20)
    common = dict(window_dimensions=each(1, 2, 3, 12), window_strides=each(1, 2, 3))
    common["padding"] = tuple((int(lo), int(hi)) for lo, hi in rng.integers(-1, 6, (rank, 2)))
    return shape, common, dict(base_dilation=each(1, 1, 2), window_dilation=each(1, 2))


@pytest.mark.parametrize("seed", range(40))
def test_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, common, dilations = random_windows(rng)
    dtype = (F32, F64, np.dtype(np.int32), np.dtype(np.uint8), F16, BF16, np.dtype(np.bool_), C64)[seed % 8]
    x = np.round(rng.normal(size=shape) * 3)
    x = (np.abs(x) if dtype.kind in "ub" else x).astype(dtype)
    for kind in ("add", "mul") if dtype.kind == "c" else ("add", "mul", "max", "min"):
        check(windows.reduce_window_p, x, kind=kind, tolerance=tolerance_of(dtype), **common, **dilations)
    if dtype.kind in "cb":
        return
    if dtype.kind == "f":
        x.flat[x.size // 2] = np.nan
    (shape_out,) = (windows.select_and_gather_add_p.type_rule(*types_of((x, x)), kind="max", **common)[0].shape,)
    for kind in ("max", "min"):
        source = np.abs(np.round(rng.normal(size=shape_out) * 3)).astype(dtype)
        check(windows.select_and_scatter_add_p, source, x, kind=kind, tolerance=tolerance_of(dtype), **common)
        tangents = np.arange(x.size).reshape(shape).astype(dtype)
        check(windows.select_and_gather_add_p, tangents, x, kind=kind, **common)


# ----------------------------------------------------------------------------------------------------------------- convolutions


@pytest.mark.parametrize("seed", range(60))
def test_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spatial = int(rng.integers(0, 4))
    feature_groups, batch_groups = ((1, 1), (1, 1), (2, 1), (3, 1), (1, 2), (4, 1))[rng.integers(6)]
    fan_in = int(rng.integers(1, 4))

    def sizes(*choices: int) -> list[int]:
        return [int(c) for c in rng.choice(choices, spatial)]

    lhs_shape = [int(rng.integers(1, 4)) * batch_groups, fan_in * feature_groups, *sizes(1, 3, 6, 9)]
    rhs_shape = [int(rng.integers(1, 3)) * feature_groups * batch_groups, fan_in, *sizes(1, 2, 3, 7)]
    specs = tuple(tuple(int(d) for d in rng.permutation(spatial + 2)) for _ in range(3))
    dtype = (F32, F64, C64, F16, BF16, np.dtype(np.int32), np.dtype(np.uint8), np.dtype(np.bool_))[seed % 8]

    def make(shape: list[int], spec: tuple[int, ...]) -> np.ndarray:
        x = np.round(rng.normal(size=[shape[spec.index(d)] for d in range(spatial + 2)]) * 3)
        return (np.abs(x) if dtype.kind in "ub" else x).astype(dtype)

    check(
        contractions.conv_general_dilated_p,
        make(lhs_shape, specs[0]),
        make(rhs_shape, specs[1]),
        window_strides=tuple(sizes(1, 2, 3)),
        padding=tuple((int(lo), int(hi)) for lo, hi in rng.integers(-1, 4, (spatial, 2))),
        lhs_dilation=tuple(sizes(1, 1, 2, 3)),
        rhs_dilation=tuple(sizes(1, 1, 2)),
        dimension_numbers=specs,
        feature_group_count=feature_groups,
        batch_group_count=batch_groups,
        preferred_element_type=None,
        tolerance=tolerance_of(dtype, 10),
    )


def test_convolution_in_pieces(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    from tracegrad.codegen import convolution

    monkeypatch.setattr(convolution, "PIECE", 100)
    params = dict(
        lhs_dilation=(1, 1), rhs_dilation=(1, 1), feature_group_count=1, batch_group_count=1, preferred_element_type=None
    )
    nhwc = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    exchanged = ((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))
    x, w = random(rng, F32, 4, 9, 9, 5), random(rng, F32, 3, 3, 5, 6)
    p = contractions.conv_general_dilated_p
    check(p, x, w, window_strides=(1, 1), padding=((1, 1),) * 2, dimension_numbers=nhwc, tolerance=1e-4, **params)
    y = random(rng, F32, 4, 9, 9, 6)
    check(p, x, y, window_strides=(1, 1), padding=((1, 1),) * 2, dimension_numbers=exchanged, tolerance=1e-4, **params)


# ------------------------------------------------------------------------------------------------------------ special functions

ARITY = {
    "igamma": 2,
    "igammac": 2,
    "igamma_grad_a": 2,
    "random_gamma_grad": 2,
    "zeta": 2,
    "polygamma": 2,
    "regularized_incomplete_beta": 3,
}
SPECIAL = ("lgamma", "digamma", "bessel_i0e", "bessel_i1e", *ARITY)


@pytest.mark.parametrize("dtype", (F32, F64, BF16), ids=str)
@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_functions(name: str, dtype: Any, rng: np.random.Generator) -> None:
    edges = [0.0, -0.0, 1, 2, -1, -2, np.inf, -np.inf, np.nan, 0.5, 1e-3, 30, 100, 1.5, -1.5]
    base = np.concatenate([edges, rng.uniform(0.1, 20, 100), rng.normal(size=30) * 5])
    args = [rng.permutation(base) for _ in range(ARITY.get(name, 1))]
    if name == "polygamma":
        args[0] = np.round(rng.uniform(0, 5, base.size))
    if name == "regularized_incomplete_beta":
        args[2] = rng.uniform(0, 1, base.size)
    cast = [a.astype(dtype) for a in args]
    primitive = getattr(special, f"{name}_p")
    tolerance = {F32: 2e-4, BF16: 2e-2}.get(dtype, 1e-8)
    check(primitive, *cast, tolerance=tolerance)
    if len(cast) > 1:
        check(primitive, dtype.type(2), *cast[1:], tolerance=tolerance)


# ----------------------------------------------------------------------------------------------------------- within larger programs


@pytest.fixture
def wide_types() -> Iterator[None]:
    with config.override("enable_x64", True):
        yield


@pytest.mark.usefixtures("wide_types")
class TestInPrograms:
    """Routines read what other equations leave in registers, views and pending nests, and write where the caller wants it."""

    def test_operands_in_every_form(self, rng: np.random.Generator) -> None:
        x = positive(rng, F64, 2, 5, 5)

        def f(a: Any) -> list[Any]:
            lazy = ops.cholesky(ops.add(ops.mul(a, 2.0), ops.transpose(a, (0, 2, 1))))
            view = ops.cholesky(ops.transpose(a, (0, 2, 1)))
            part = ops.cholesky(ops.slice(a, (0, 1, 1), (2, 4, 4), None))
            return [lazy, view, part, ops.add(lazy, view)]

        harness(f, x)

    def test_small_operands_in_registers(self, rng: np.random.Generator) -> None:
        harness(
            lambda a: [*ops.lu(ops.mul(a, a)), ops.cholesky(ops.dot_general(a, a, (((1,), (1,)), ((), ()))))],
            random(rng, F64, 3, 3),
        )

    def test_carry_of_a_loop(self, rng: np.random.Generator) -> None:
        def body(carry: Any, x: Any) -> tuple[Any, Any]:
            order, values = carry
            (rolled,) = ops.sort(ops.add(values, x), dimension=0)
            factor = ops.cholesky(ops.add(order, ops.mul(order, 0.5)))
            return (factor, rolled), ops.reduce_sum(rolled, (0,))

        def f(a: Any, v: Any, xs: Any) -> list[Any]:
            (factor, values), sums = scan(body, (a, v), xs)
            return [factor, values, sums]

        a = np.eye(4) * 3 + np.tril(rng.normal(size=(4, 4))) * 0.1
        harness(f, a + a.T, random(rng, F64, 40), random(rng, F64, 7, 40))

    def test_sorting_a_carry_in_place(self, rng: np.random.Generator) -> None:
        def f(v: Any) -> list[Any]:
            return [fori_loop(0, 5, lambda i, c: ops.sort(ops.neg(c), dimension=0)[0], v), v]

        harness(f, random(rng, F64, 300))

    def test_branches(self, rng: np.random.Generator) -> None:
        def f(p: Any, a: Any) -> list[Any]:
            return [cond(p, lambda a: ops.cholesky(a), lambda a: ops.transpose(a, (1, 0)), a)]

        x = positive(rng, F64, 6, 6)
        for p in (True, False):
            harness(f, np.array(p), x)

    def test_the_same_kernel_twice(self, rng: np.random.Generator) -> None:
        x = random(rng, F32, 50)
        compiled = harness(lambda a: [ops.sort(a, dimension=0)[0], ops.sort(ops.neg(a), dimension=0)[0], *ops.top_k(a, 3)], x)
        assert compiled.external == ()

    def test_with_elementary_functions(self, rng: np.random.Generator) -> None:
        """Intrinsics that both elementary functions and kernels use are declared once."""
        x = random(rng, F64, 6, 6)
        harness(
            lambda a: [ops.lu(ops.erf_inv(ops.tanh(a)))[0], ops.lgamma(ops.exp(a)), ops.fft(a, "rfft", (6,))], x, tolerance=1e-8
        )

    def test_convolution_of_a_fused_input(self, rng: np.random.Generator) -> None:
        def f(x: Any, w: Any) -> list[Any]:
            y = ops.conv_general_dilated(ops.max(x, 0.0), ops.mul(w, 2.0), (1,), ((1, 1),))
            return [ops.reduce_window(ops.max(y, 0.0), "max", (1, 1, 2), (1, 1, 2))]

        harness(f, random(rng, F32, 2, 3, 10), random(rng, F32, 4, 3, 3), tolerance=1e-5)
