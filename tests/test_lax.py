"""lax: results against NumPy, strictness about dtypes and shapes, and the programs that its functions emit."""

from __future__ import annotations

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.ir.types import ArrayType
from tracegrad.tracer.staging import trace

F32 = np.float32
A = np.arange(24, dtype=F32).reshape(2, 3, 4)
V = np.array([1.5, -2.0, 0.25], F32)
I = np.array([7, -7, 3], np.int32)


def same(out, expected, tol=1e-6):
    expected = np.asarray(expected)
    assert out.shape == expected.shape
    np.testing.assert_allclose(np.asarray(out), expected, rtol=tol, atol=tol)


CASES = [
    (lambda: lax.add(V, 1.0), V + 1),
    (lambda: lax.add(jnp.ones((2, 3)), jnp.ones((1, 3))), np.full((2, 3), 2)),
    (lambda: lax.div(I, np.int32(2)), [3, -3, 1]),
    (lambda: lax.rem(I, np.int32(4)), [3, -3, 3]),
    (lambda: lax.pow(V, 2), V**2),
    (lambda: lax.reciprocal(V), 1 / V),
    (lambda: lax.round(np.array([0.5, 1.5, -2.5], F32)), [1, 2, -3]),
    (lambda: lax.round(np.array([0.5, 1.5, -2.5], F32), lax.RoundingMethod.TO_NEAREST_EVEN), [0, 2, -2]),
    (lambda: lax.clamp(0.0, V, 1.0), [1, 0, 0.25]),
    (lambda: lax.select(V > 0, V, -V), np.abs(V)),
    (lambda: lax.select_n(np.array([0, 2, 1], np.int32), V, 2 * V, 3 * V), V * [1, 3, 2]),
    (lambda: lax.convert_element_type(np.array([1.9, -1.9, np.nan, 1e20], F32), np.int32), [1, -1, 0, 2**31 - 1]),
    (lambda: lax.bitcast_convert_type(V, np.uint8), V.view(np.uint8).reshape(3, 4)),
    (lambda: lax.bitcast_convert_type(np.arange(6, dtype=np.uint16).reshape(3, 2), np.uint32), np.arange(6, dtype=np.uint16).view(np.uint32)),
    (lambda: lax.mulhi(np.int32([2**30, -(2**31)]), np.int32([7, 2**31 - 1])), [1, -(2**30) + 0]),
    (lambda: lax.population_count(np.int32([7, -1, 0])), [3, 32, 0]),
    (lambda: lax.betainc(1.0, 2.0, np.array([0.5], F32)), [0.75]),
    (lambda: lax.conj(V), V.astype(np.complex64)),
    (lambda: lax.broadcast(V, (2,)), np.stack([V, V])),
    (lambda: lax.broadcast_in_dim(V, (3, 2), (0,)), np.repeat(V[:, None], 2, 1)),
    (lambda: lax.broadcast_like(V, np.ones((2, 3))), np.stack([V, V])),
    (lambda: lax.reshape(A, (4, 6), (2, 0, 1)), A.transpose(2, 0, 1).reshape(4, 6)),
    (lambda: lax.collapse(A, 1), A.reshape(2, 12)),
    (lambda: lax.collapse(A, 0, 2), A.reshape(6, 4)),
    (lambda: lax.squeeze(A[:1], (0,)), A[0]),
    (lambda: lax.expand_dims(V, (0, -1)), V[None, :, None]),
    (lambda: lax.transpose(A, (2, 0, 1)), A.transpose(2, 0, 1)),
    (lambda: lax.slice(A, (0, 1, 0), (2, 3, 4), (1, 1, 2)), A[:, 1:3, ::2]),
    (lambda: lax.slice_in_dim(A, -2, None, axis=1), A[:, -2:]),
    (lambda: lax.index_in_dim(A, -1, 1, keepdims=False), A[:, -1]),
    (lambda: lax.pad(V, 9.0, [(1, -1, 1)]), [9, 1.5, 9, -2.0, 9]),
    (lambda: lax.rev(A, (0, 2)), A[::-1, :, ::-1]),
    (lambda: lax.concatenate([A, A], 1), np.concatenate([A, A], 1)),
    (lambda: lax.stack([V, V], 1), np.stack([V, V], 1)),
    (lambda: lax.unstack(A, 1)[2], A[:, 2]),
    (lambda: lax.split(A, (1, 2), 1)[1], A[:, 1:]),
    (lambda: lax.tile(A, (1, 2, 3)), np.tile(A, (1, 2, 3))),
    (lambda: lax.full((2,), 3.5, np.int32), [3, 3]),
    (lambda: lax.full((2,), 300, np.uint8), [44, 44]),
    (lambda: lax.full_like(V, 2), [2, 2, 2]),
    (lambda: lax.broadcasted_iota(np.int32, (2, 3), 1), [[0, 1, 2]] * 2),
    (lambda: lax.reduce_max(A, (0, 2)), A.max((0, 2))),
    (lambda: lax.argmin(V, 0, np.int32), 1),
    (lambda: lax.cumsum(A, 1, reverse=True), np.cumsum(A[:, ::-1], 1)[:, ::-1]),
    (lambda: lax.reduce(A, 1.0, lax.add, (0, 1)), A.sum((0, 1)) + 1),
    (lambda: lax.reduce(A, 0.0, lambda x, y: y + x, (2,)), A.sum(2)),
    (lambda: lax.reduce((A, A), (0.0, 1.0), lambda a, b: (a[0] + b[0], lax.max(a[1], b[1])), (1, 2))[1], A.max((1, 2))),
    (lambda: lax.sort(V), np.sort(V)),
    (lambda: lax.sort((np.int32([2, 1, 2]), np.int32([5, 6, 4])), num_keys=2)[1], [6, 4, 5]),
    (lambda: lax.sort_key_val(V, I)[1], I[np.argsort(V)]),
    (lambda: lax.top_k(A, 2)[1], [[[3, 2]] * 3] * 2),
    (lambda: lax.top_k(A, 1, axis=1)[0], A[:, 2:]),
    (lambda: lax.approx_min_k(V, 2)[1], [1, 2]),
    (lambda: lax.reduce_window(V, 0.0, lax.add, (2,), (1,), "SAME"), [-0.5, -1.75, 0.25]),
    (lambda: lax.reduce_window(A, -np.inf, lax.max, (1, 2, 2), (1, 1, 2), "VALID"), np.maximum(A[:, :2], A[:, 1:])[:, :, 1::2]),
    (lambda: lax.reduce_window(np.array([True, False, False]), False, lax.bitwise_or, (2,), None, "VALID"), [True, False]),
    (lambda: lax.dot(A[0], A[1].T), A[0] @ A[1].T),
    (lambda: lax.batch_matmul(A, A.swapaxes(1, 2)), A @ A.swapaxes(1, 2)),
    (lambda: lax.dot_general(A, A, (((1,), (1,)), ((0,), (0,)))), np.einsum("bij,bik->bjk", A, A)),
    (lambda: lax.dynamic_slice(A, (0, 5, -1), (1, 2, 2)), A[:1, 1:, 2:]),
    (lambda: lax.dynamic_index_in_dim(A, np.int32(-1), 1, keepdims=False), A[:, -1]),
    (lambda: lax.dynamic_update_slice(V, np.ones(2, F32), (2,)), [1.5, 1, 1]),
    (lambda: lax.dynamic_update_index_in_dim(V, F32(9), -1, 0), [1.5, -2, 9]),
    (lambda: lax.index_take(A, (np.int32([1, 0]), np.int32([2, 2])), (0, 1)), A[[1, 0], [2, 2]]),
    (lambda: lax.fft(V.astype(np.complex64), "FFT", (3,)), np.fft.fft(V)),
    (lambda: lax.linalg.lu_pivots_to_permutation(np.int32([2, 1, 2]), 3), [2, 1, 0]),
    (lambda: lax.associative_scan(lax.add, V), np.cumsum(V)),
    (lambda: lax.map(lambda x: x * 2, V), V * 2),
]  # fmt: skip


@pytest.mark.parametrize(("call", "expected"), CASES, ids=map(str, range(len(CASES))))
def test_values_of_operations(call, expected):
    same(call(), expected)


def test_gather_modes():
    numbers = lax.GatherDimensionNumbers((1,), (0,), (0,))
    indices = np.int32([[1], [5]])
    same(lax.gather(A[0], indices, numbers, (1, 4)), A[0][[1, 2]])
    assert np.isnan(np.asarray(lax.gather(A[0], indices, numbers, (1, 4), mode="fill"))[1]).all()
    same(lax.gather(A[0], indices, numbers, (1, 4), mode="fill", fill_value=7), [A[0][1], [7] * 4])


def test_scatter_kinds():
    numbers = lax.ScatterDimensionNumbers((), (0,), (0,))
    indices = np.int32([[1], [1], [9], [-1]])
    x, updates = np.float32([1, 2, 3]), np.float32([10, 20, 30, 40])
    same(lax.scatter_add(x, indices, updates, numbers), [1, 32, 3])
    same(lax.scatter_sub(x, indices, updates, numbers), [1, -28, 3])
    same(lax.scatter_mul(x, indices, updates, numbers), [1, 400, 3])
    same(lax.scatter_min(x, indices, updates, numbers), x)
    same(lax.scatter_max(x, indices, updates, numbers), [1, 20, 3])
    same(lax.scatter(x, indices, updates, numbers, mode="clip"), [40, 20, 30])
    same(lax.scatter_apply(x, indices, lambda v: v * 10, numbers, update_shape=(4,)), [1, 200, 3])


def test_convolutions_against_loops():
    rng = np.random.RandomState(0)
    x, w = rng.randn(2, 6, 5, 3).astype(F32), rng.randn(3, 2, 3, 4).astype(F32)
    out = lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = np.zeros((2, 3, 5, 4), F32)
    for i in range(3):
        for j in range(5):
            expected[:, i, j] = np.einsum("nhwc,hwco->no", padded[:, 2 * i : 2 * i + 3, j : j + 2], w)
    same(out, expected, 1e-4)
    grown = lax.conv_transpose(x, w, (2, 1), "SAME")
    assert grown.shape == (2, 12, 5, 4)
    # The transposed convolution is the adjoint of the convolution with the same padding and the filter's features swapped.
    y = rng.randn(2, 12, 5, 4).astype(F32)
    forward = lax.conv_general_dilated(y, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWOI", "NHWC"))
    adjoint = lax.conv_transpose(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWOI", "NHWC"), transpose_kernel=True)
    assert float(jnp.vdot(forward, x)) == pytest.approx(float(jnp.vdot(y, adjoint)), rel=1e-4)
    patches = lax.conv_general_dilated_patches(x, (3, 2), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    same(patches[0, 1, 2], x[0, 1:4, 2:4].transpose(2, 0, 1).ravel())


def test_dimension_numbers_and_padding():
    assert lax.conv_dimension_numbers((1, 4, 4, 2), (2, 2, 2, 3), ("NHWC", "HWIO", "NHWC")) == (
        (0, 3, 1, 2),
        (3, 2, 0, 1),
        (0, 3, 1, 2),
    )
    assert lax.padtype_to_pads((4, 5), (2, 3), (1, 2), "SAME") == [(0, 1), (1, 1)]
    assert lax.padtype_to_pads((4,), (2,), (1,), "SAME_LOWER") == [(1, 0)]
    assert lax.conv_general_shape_tuple((1, 4, 4, 2), (2, 2, 2, 3), (1, 1), "SAME", ("NHWC", "HWIO", "NHWC")) == (1, 4, 4, 3)
    assert lax.reduce_window_shape_tuple((4, 4), (2, 2), (1, 1), ((0, 0), (1, 1))) == (3, 5)
    assert lax.broadcast_shapes((1, 3), (2, 1), ()) == (2, 3)
    assert lax.Precision("highest") is lax.Precision.HIGHEST and lax.Precision(None) is lax.Precision.DEFAULT
    assert lax.GatherScatterMode.from_any("clip") is lax.GatherScatterMode.CLIP


def test_linear_algebra():
    a = np.float32([[4, 1, 0], [1, 3, 1], [0, 1, 2]])
    same(lax.linalg.cholesky(a), np.linalg.cholesky(a))
    same(
        lax.linalg.triangular_solve(a, np.ones(3, F32), left_side=True, lower=True), np.linalg.solve(np.tril(a), np.ones(3)), 1e-5
    )
    same(lax.linalg.triangular_solve(a, np.ones((2, 3), F32)), np.ones((2, 3)) @ np.linalg.inv(np.triu(a)), 1e-5)
    factors, _, permutation = lax.linalg.lu(a[::-1])
    lower, upper = np.tril(np.asarray(factors), -1) + np.eye(3), np.triu(np.asarray(factors))
    same(a[::-1][np.asarray(permutation)], lower @ upper, 1e-5)
    v, w = lax.linalg.eigh(a)
    same(w, np.linalg.eigvalsh(a), 1e-5)
    same(np.asarray(v) * np.asarray(w) @ np.asarray(v).T, a, 1e-5)
    u, s, vh = lax.linalg.svd(a)
    same(np.asarray(u) * np.asarray(s) @ np.asarray(vh), a, 1e-5)
    same(
        lax.linalg.tridiagonal_solve(*np.float32([[0, 1, 1], [4, 3, 2], [1, 1, 0]]), np.ones((3, 1), F32)),
        np.linalg.solve(a, np.ones((3, 1))),
        1e-5,
    )
    assert np.isnan(np.asarray(lax.linalg.cholesky(-a))).any()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: lax.add(V, 1), TypeError, "same dtypes, got float32, int32.*numpy.add"),
        (lambda: lax.max(V, 0), TypeError, "numpy.maximum"),
        (lambda: lax.add(V, np.ones((2, 3), F32)), TypeError, "same number of dimensions"),
        (lambda: lax.add([1.0], V), TypeError, "Error interpreting argument to add.*list"),
        (lambda: lax.exp(1), TypeError, "exp"),
        (lambda: lax.select(V > 0, V, 1.0), TypeError, "same shapes"),
        (lambda: lax.pow(2, V), TypeError, "inexact"),
        (lambda: lax.integer_pow(I, -1), TypeError, "negative powers"),
        (lambda: lax.reshape(V, (-1,)), TypeError, "must all be positive"),
        (lambda: lax.reshape(V, (2,)), TypeError, "total size must be unchanged"),
        (lambda: lax.reduce_sum(V, (-1,)), ValueError, "out-of-bounds"),
        (lambda: lax.cumsum(V, -1), ValueError, "negative axes"),
        (lambda: lax.concatenate([V, I], 0), TypeError, "same dtypes"),
        (lambda: lax.pad(V, 0, [(1, 1, 0)]), TypeError, "same dtype"),
        (lambda: lax.dynamic_update_slice(V, F32(5), (1,)), TypeError, "same rank"),
        (lambda: lax.dot(V, np.ones(2, F32)), TypeError, "Incompatible shapes for dot"),
        (lambda: lax.broadcast_shapes((3,), (2,)), ValueError, "Incompatible shapes for broadcasting"),
        (lambda: lax.full((2,), V), TypeError, "scalar fill_value"),
        (lambda: lax.reduce_window(V, 0.0, lambda a, b: a * b + a, (2,), (1,), "VALID"), NotImplementedError, "amount to"),
        (lambda: lax.conv_dimension_numbers((1, 1, 1), (1, 1, 1), ("NCX", "OIH", "NCH")), TypeError, "spatial letters"),
        (lambda: lax.convert_element_type(V, None), ValueError, "dtype must be specified"),
        (lambda: lax.dot(V, V, precision="exact"), ValueError, "exact"),
    ],
)
def test_errors_name_the_operation_and_its_operands(call, error, words):
    with pytest.raises(error, match=words):
        call()


def emitted(function, *types):
    program, _ = trace(lambda *xs: [function(*xs)], types)
    return [e.primitive.name for e in program.equations]


def test_programs_are_lean():
    vector = ArrayType((3,), F32)
    assert emitted(lambda x: lax.add(x, 1.0), vector) == ["add"]
    assert emitted(lambda x: lax.clamp(0.0, x, 1.0), vector) == ["clamp"]
    assert emitted(lambda x: lax.convert_element_type(x, F32), vector) == []
    assert emitted(lambda x: lax.reshape(x, (3,)), vector) == []
    assert emitted(lambda x: lax.transpose(x, (0,)), vector) == []
    assert emitted(lambda x: lax.broadcast_in_dim(x, (3,), (0,)), vector) == []
    assert emitted(lambda x: lax.reduce(x, 0.0, lax.add, (0,)), vector) == ["reduce_sum"]
    assert emitted(lambda x: lax.reduce_window(x, -np.inf, jnp.maximum, (2,), (1,), "SAME"), vector) == ["reduce_window"]
    assert emitted(lambda x: lax.full_like(x, 2.0), vector) == ["broadcast_in_dim"]
    assert emitted(lambda x: lax.select(x > 0, x, x), vector) == ["gt", "select"]
    assert emitted(lambda x: lax.dynamic_index_in_dim(x, 1), vector) == ["dynamic_slice"]


def test_stop_gradient_takes_pytrees():
    out = lax.stop_gradient({"a": V, "b": 1, "c": "text"})
    assert out["b"] == 1 and out["c"] == "text"
    same(out["a"], V)
