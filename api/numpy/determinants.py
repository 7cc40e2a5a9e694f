"""Solutions and determinants out of one LU factorization, with derivatives that use its factors again.

The derivative of a solution is a solution with the same factors, that of log|det a| the trace of one; neither differentiates the
factorization itself. A determinant is a polynomial of the elements, smooth also where the matrix is singular and there is no solution: near
those its derivatives are taken of another formula, out of a singular value decomposition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.calls import DerivativeRule, custom_jvp_call_p
from tracegrad.ir.types import is_complex
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.contractions import matmul
from tracegrad.numpy.diagonals import diagonal
from tracegrad.numpy.promotion import as_array, broadcast_shapes_of, broadcast_to_shape, real_dtype, shape_of
from tracegrad.numpy.reductions import any as _any
from tracegrad.numpy.reductions import max as _max
from tracegrad.numpy.reductions import min as _min
from tracegrad.numpy.reductions import prod as _prod
from tracegrad.numpy.reductions import sum as _sum
from tracegrad.numpy.selection import where
from tracegrad.tracer.control_flow import cond
from tracegrad.transforms.custom import SymbolicZero, custom_jvp
from tracegrad.transforms.custom_rules import apply_custom
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.zero import instantiate, is_zero


def permute_rows(b: Any, permutation: Any) -> Any:
    """The rows of (batches of) matrices in another order."""
    lead = shape_of(b)[:-2]
    batch = tuple(range(len(lead)))
    m = shape_of(b)[-1]
    return ops.gather(
        b,
        ops.reshape(permutation, (*lead, shape_of(permutation)[-1], 1)),
        offset_dims=(len(lead) + 1,),
        collapsed_slice_dims=(len(lead),),
        operand_batching_dims=batch,
        start_indices_batching_dims=batch,
        start_index_map=(len(lead),),
        slice_sizes=(1,) * (len(lead) + 1) + (m,),
        mode="clip",
    )


def triangular(a: Any, b: Any, *, lower: bool, unit_diagonal: bool = False, transpose_a: bool = False) -> Any:
    """The solution of a triangular system."""
    return ops.triangular_solve(a, b, left_side=True, lower=lower, unit_diagonal=unit_diagonal, transpose_a=transpose_a)


def _unpermuted(b: Any, permutation: Any) -> Any:
    """The rows where `permute_rows` took them from."""
    lead = shape_of(b)[:-2]
    batch = tuple(range(len(lead)))
    return ops.scatter(
        broadcast_to_shape(as_array("zero", type_of(b).dtype.type(0)), shape_of(b)),
        ops.reshape(permutation, (*lead, shape_of(permutation)[-1], 1)),
        b,
        kind="set",
        update_window_dims=(len(lead) + 1,),
        inserted_window_dims=(len(lead),),
        operand_batching_dims=batch,
        scatter_indices_batching_dims=batch,
        scatter_dims_to_operand_dims=(len(lead),),
        mode="clip",
        unique_indices=True,
    )


class _Solver:
    """The solution x of a x = b, or of a^T x = b, by `solve(b, *known)`, from what is known of a and not differentiated.

    a dx = db - da x, and the transpose of solving is solving with the transposed matrix: so derivatives of every order are solutions too.
    """

    def __init__(self, solve: Callable[..., Any], solve_turned: Callable[..., Any], other: _Solver | None = None):
        self.solve = solve
        self.turned = other is not None
        self.other = other or _Solver(solve_turned, solve, self)
        self.rule = DerivativeRule("solve", jvp=self.jvp, transpose=self.transpose)

    def __call__(self, a: Any, b: Any, *known: Any) -> Any:
        return apply_custom(custom_jvp_call_p, lambda a, b, *known: [self.solve(b, *known)], self.rule, [a, b, *known])[0]

    def jvp(self, primals: Any, tangents: Any) -> tuple[list[Any], list[Any]]:
        x = self(*primals)
        a, _, *known = primals
        da, right = tangents[:2]
        if not is_zero(da):
            change = e.negative(matmul(_transposed(da) if self.turned else da, x))
            right = change if is_zero(right) else e.add(right, change)
        return [x], [right if is_zero(right) else self(a, right, *known)]

    def transpose(self, cts: Any, inputs: Any) -> list[Any]:
        a, _, *known = inputs
        return [None, self.other(a, cts[0], *known), *[None] * len(known)]


def _with_factors(b: Any, factors: Any, permutation: Any) -> Any:
    """The solution of a x = b, where P a = L U."""
    x = triangular(factors, permute_rows(b, permutation), lower=True, unit_diagonal=True)
    return triangular(factors, x, lower=False)


def _with_turned_factors(b: Any, factors: Any, permutation: Any) -> Any:
    x = triangular(factors, b, lower=False, transpose_a=True)
    return _unpermuted(triangular(factors, x, lower=True, unit_diagonal=True, transpose_a=True), permutation)


def _with_diagonal(b: Any, d: Any) -> Any:
    return ops.div(b, ops.broadcast_in_dim(d, shape_of(b), range(len(shape_of(b)) - 1)))


_solve = _Solver(_with_factors, _with_turned_factors)
_divide = _Solver(_with_diagonal, _with_diagonal)
"""The solution for a matrix that is diagonal now, whose changes need not be."""


def _log_determinant_rule(primals: Any, tangents: Any) -> Any:
    factors, permutation, _, a = primals
    sign, log = _log_determinant(*primals)
    da = tangents[3]
    if isinstance(da, SymbolicZero):
        return (sign, log), (SymbolicZero(type_of(sign)), SymbolicZero(type_of(log)))
    rate = _trace(_solve(a, da, factors, permutation))
    if not is_complex(type_of(sign).dtype):
        return (sign, log), (SymbolicZero(type_of(sign)), rate)
    turning = e.multiply(sign, ops.complex(zero_like(log), ops.imag(rate)))
    return (sign, log), (turning, ops.real(rate))


def _diagonal_determinant_rule(primals: Any, tangents: Any) -> Any:
    d, a = primals
    det = _diagonal_determinant(*primals)
    da = tangents[1]
    if isinstance(da, SymbolicZero):
        return det, SymbolicZero(type_of(det))
    return det, e.multiply(det, _trace(_divide(a, da, d)))


def _determinant_rule(primals: Any, tangents: Any) -> Any:
    factors, permutation, _, a = primals
    det = _determinant(*primals)
    da = tangents[3]
    if isinstance(da, SymbolicZero):
        return det, SymbolicZero(type_of(det))
    diagonal_size = e.absolute(diagonal(factors, 0, -2, -1))
    eps = np.finfo(type_of(diagonal_size).dtype).eps
    # A third derivative loses twice the digits that the ratio of the pivots takes up.
    singular = e.less_equal(_min(diagonal_size, axis=-1), e.multiply(_max(diagonal_size, axis=-1), float(eps) ** 0.4))

    def regular(a: Any, da: Any, det: Any) -> Any:
        # Under vmap both branches are computed: a singular matrix must leave no infinities behind here.
        identity = broadcast_to_shape(np.eye(shape_of(a)[-1], dtype=type_of(a).dtype), shape_of(a))
        lanes = ops.reshape(singular, (*shape_of(singular), 1, 1))
        order = ops.broadcasted_iota(type_of(permutation).dtype, shape_of(permutation), len(shape_of(permutation)) - 1)
        x = _solve(
            where(lanes, identity, a),
            da,
            where(lanes, identity, factors),
            where(ops.reshape(singular, (*shape_of(singular), 1)), order, permutation),
        )
        return e.multiply(det, _trace(x))

    def near_singular(a: Any, da: Any, det: Any) -> Any:
        _, (rate,) = jvp_flat(lambda a: [_determinant_by_blocks(a)], [a], [da])
        return instantiate(rate)

    return det, cond(_any(singular), near_singular, regular, a, da, det)


def _determinant_by_blocks(a: Any) -> Any:
    """The determinant, by a formula with derivatives to third order for matrices of any rank.

    In the bases of a's singular vectors, held fixed, the matrix is diagonal now, with its least singular values last. The Schur
    complement of all but three is a matrix of three rows, whose determinant is a polynomial; the block before it is regular, unless the
    rank is four less than full: then the determinant and its derivatives to third order are zero, and those beyond are given as infinite.
    """
    dtype = type_of(a).dtype
    n = shape_of(a)[-1]
    k = n - 3
    s, u, vh = ops.svd(ops.stop_gradient(a), True, True)
    c = matmul(matmul(_adjoint(u), a), _adjoint(vh))
    eps = float(np.finfo(type_of(s).dtype).eps)
    deficient = e.less_equal(s[..., k - 1], e.multiply(s[..., 0], n * eps))
    block = where(ops.reshape(deficient, (*shape_of(deficient), 1, 1)), np.eye(k, dtype=dtype), c[..., :k, :k])
    d = ops.convert_element_type(where(ops.reshape(deficient, (*shape_of(deficient), 1)), s.dtype.type(1), s[..., :k]), dtype)
    below, right, corner = c[..., k:, :k], c[..., :k, k:], c[..., k:, k:]
    rest = e.subtract(corner, matmul(below, _divide(block, right, d)))
    factors, pivots, permutation = ops.lu(matmul(u, vh))
    turn = _determinant_of_factors(factors, permutation, pivots, vh)
    value = e.multiply(e.multiply(turn, _diagonal_determinant(d, block)), _determinant_of_three(rest))
    change = _trace(e.subtract(corner, ops.stop_gradient(corner)))
    change = ops.real(change) if is_complex(dtype) else change
    beyond = ops.pow(where(deficient, change, change.dtype.type(1)), change.dtype.type(3.5))
    return where(deficient, ops.convert_element_type(beyond, dtype), value)


def _determinant_of_three(a: Any) -> Any:
    """The determinant of 3 by 3 matrices in few operations: products over the six permutations."""
    dtype = type_of(a).dtype
    orders = np.array([(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)])
    flat = ops.reshape(a, (*shape_of(a)[:-2], 9))
    picked = [matmul(flat, np.eye(9, dtype=dtype)[:, 3 * i + orders[:, i]]) for i in range(3)]
    signs = np.array([1, 1, 1, -1, -1, -1], dtype)
    return matmul(e.multiply(e.multiply(picked[0], picked[1]), picked[2]), signs)


def _transposed(a: Any) -> Any:
    rank = len(shape_of(a))
    return ops.transpose(a, (*range(rank - 2), rank - 1, rank - 2))


def _adjoint(a: Any) -> Any:
    return ops.conj(_transposed(a)) if is_complex(type_of(a).dtype) else _transposed(a)


def _trace(a: Any) -> Any:
    return _sum(diagonal(a, 0, -2, -1), axis=-1)


def zero_like(x: Any) -> Any:
    return broadcast_to_shape(as_array("zero", type_of(x).dtype.type(0)), shape_of(x))


def _log_of_factors(factors: Any, permutation: Any, pivots: Any, a: Any) -> tuple[Any, Any]:
    dtype = type_of(factors).dtype
    d = diagonal(factors, 0, -2, -1)
    # a singular matrix: determinant 0, logarithm -inf
    singular = e.equal(_min(e.absolute(d), axis=-1), 0)
    sign = e.multiply(permutation_sign(pivots, dtype), _prod(e.sign(d), axis=-1))
    logs = _sum(e.log(e.absolute(d)), axis=-1)
    return where(singular, dtype.type(0), sign), where(singular, real_dtype(dtype).type(-np.inf), logs)


def _determinant_of_factors(factors: Any, permutation: Any, pivots: Any, a: Any) -> Any:
    return e.multiply(permutation_sign(pivots, type_of(factors).dtype), _prod(diagonal(factors, 0, -2, -1), axis=-1))


def permutation_sign(pivots: Any, dtype: Any) -> Any:
    """-1 or 1 by the number of rows that pivoting exchanged."""
    shape = shape_of(pivots)
    places = ops.broadcasted_iota(np.dtype(np.int32), shape, len(shape) - 1)
    swaps = ops.reduce_sum(ops.convert_element_type(ops.ne(pivots, places), np.dtype(np.int32)), (len(shape) - 1,))
    odd = ops.ne(ops.bitwise_and(swaps, np.int32(1)), np.int32(0))
    return where(odd, dtype.type(-1), dtype.type(1))


def _with_rule(function: Callable[..., Any], rule: Callable[..., Any]) -> Callable[..., Any]:
    made = custom_jvp(function)
    made.defjvp(rule, symbolic_zeros=True)
    return made


_log_determinant = _with_rule(_log_of_factors, _log_determinant_rule)
_determinant = _with_rule(_determinant_of_factors, _determinant_rule)
_diagonal_determinant = _with_rule(lambda d, a: _prod(d, axis=-1), _diagonal_determinant_rule)


def solve_columns(a: Any, b: Any) -> Any:
    """The solution of a x = b for matrices."""
    factors, _, permutation = ops.lu(ops.stop_gradient(a))
    lead = broadcast_shapes_of("jnp.linalg.solve", shape_of(a)[:-2], shape_of(b)[:-2])
    a, b, factors = [broadcast_to_shape(x, lead + shape_of(x)[-2:]) for x in (a, b, factors)]
    return _solve(a, b, factors, broadcast_to_shape(permutation, lead + shape_of(permutation)[-1:]))


def log_determinant(a: Any) -> tuple[Any, Any]:
    """Sign and logarithm of the absolute value of the determinant."""
    factors, pivots, permutation = ops.lu(ops.stop_gradient(a))
    return _log_determinant(factors, permutation, pivots, a)


def determinant(a: Any) -> Any:
    """The determinant; for up to four rows by cofactors, whose derivatives exist where the matrix is singular too."""
    n = shape_of(a)[-1]
    if n <= 4:
        return _small_determinant(a, n)
    factors, pivots, permutation = ops.lu(ops.stop_gradient(a))
    return _determinant(factors, permutation, pivots, a)


def _small_determinant(a: Any, n: int) -> Any:
    def at(i: int, j: int) -> Any:
        return a[..., i, j]

    if n == 1:
        return at(0, 0)
    if n == 2:
        return e.subtract(e.multiply(at(0, 0), at(1, 1)), e.multiply(at(0, 1), at(1, 0)))

    def minor(row: int, j: int, k: int) -> Any:
        """Of two rows, from `row` on, and two columns."""
        return e.subtract(e.multiply(at(row, j), at(row + 1, k)), e.multiply(at(row, k), at(row + 1, j)))

    if n == 3:
        return at(0, 0) * minor(1, 1, 2) - at(0, 1) * minor(1, 0, 2) + at(0, 2) * minor(1, 0, 1)
    # Laplace's expansion by the first two rows.
    total = minor(0, 0, 1) * minor(2, 2, 3) - minor(0, 0, 2) * minor(2, 1, 3) + minor(0, 0, 3) * minor(2, 1, 2)
    return total + minor(0, 1, 2) * minor(2, 0, 3) - minor(0, 1, 3) * minor(2, 0, 2) + minor(0, 2, 3) * minor(2, 0, 1)
