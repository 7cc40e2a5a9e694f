"""Solutions and determinants out of one LU factorization, with derivatives that use its factors again.

The derivative of a solution is a solution with the same factors, that of log|det a| the trace of one; neither differentiates the
factorization itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.contractions import matmul
from tracegrad.numpy.diagonals import diagonal
from tracegrad.numpy.promotion import as_array, broadcast_shapes_of, broadcast_to_shape, real_dtype, shape_of
from tracegrad.numpy.reductions import min as _min
from tracegrad.numpy.reductions import prod as _prod
from tracegrad.numpy.reductions import sum as _sum
from tracegrad.numpy.selection import where
from tracegrad.transforms.custom import SymbolicZero, custom_jvp


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


def triangular(a: Any, b: Any, *, lower: bool, unit_diagonal: bool = False) -> Any:
    """The solution of a triangular system."""
    return ops.triangular_solve(a, b, left_side=True, lower=lower, unit_diagonal=unit_diagonal)


def with_factors(factors: Any, permutation: Any, b: Any) -> Any:
    """The solution of a x = b from a's LU factors; linear in b."""
    lead = broadcast_shapes_of("jnp.linalg.solve", shape_of(factors)[:-2], shape_of(b)[:-2])
    factors = broadcast_to_shape(factors, lead + shape_of(factors)[-2:])
    permutation = broadcast_to_shape(permutation, lead + shape_of(permutation)[-1:])
    b = broadcast_to_shape(b, lead + shape_of(b)[-2:])
    x = triangular(factors, permute_rows(b, permutation), lower=True, unit_diagonal=True)
    return triangular(factors, x, lower=False)


def _solution(factors: Any, permutation: Any, a: Any, b: Any) -> Any:
    return with_factors(factors, permutation, b)


def _solve_rule(primals: Any, tangents: Any) -> Any:
    factors, permutation, a, b = primals
    x = _solve(*primals)
    _, _, da, db = tangents
    # a dx = db - da x
    right = None if isinstance(db, SymbolicZero) else db
    if not isinstance(da, SymbolicZero):
        term = matmul(da, x)
        right = e.negative(term) if right is None else e.subtract(right, term)
    if right is None:
        return x, SymbolicZero(type_of(x).strong())
    return x, broadcast_to_shape(with_factors(factors, permutation, right), shape_of(x))


def _log_determinant_rule(primals: Any, tangents: Any) -> Any:
    factors, permutation, _, a = primals
    sign, log = _log_determinant(*primals)
    da = tangents[3]
    if isinstance(da, SymbolicZero):
        return (sign, log), (SymbolicZero(type_of(sign)), SymbolicZero(type_of(log)))
    rate = _sum(diagonal(with_factors(factors, permutation, da), 0, -2, -1), axis=-1)
    if not is_complex(type_of(sign).dtype):
        return (sign, log), (SymbolicZero(type_of(sign)), rate)
    turning = e.multiply(sign, ops.complex(zero_like(log), ops.imag(rate)))
    return (sign, log), (turning, ops.real(rate))


def _determinant_rule(primals: Any, tangents: Any) -> Any:
    factors, permutation, _, a = primals
    det = _determinant(*primals)
    da = tangents[3]
    if isinstance(da, SymbolicZero):
        return det, SymbolicZero(type_of(det))
    rate = _sum(diagonal(with_factors(factors, permutation, da), 0, -2, -1), axis=-1)
    return det, e.multiply(det, rate)


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


_solve = _with_rule(_solution, _solve_rule)
_log_determinant = _with_rule(_log_of_factors, _log_determinant_rule)
_determinant = _with_rule(_determinant_of_factors, _determinant_rule)


def solve_columns(a: Any, b: Any) -> Any:
    """The solution of a x = b for matrices."""
    factors, _, permutation = ops.lu(a)
    return _solve(factors, permutation, a, b)


def log_determinant(a: Any) -> tuple[Any, Any]:
    """Sign and logarithm of the absolute value of the determinant."""
    factors, pivots, permutation = ops.lu(a)
    return _log_determinant(factors, permutation, pivots, a)


def determinant(a: Any) -> Any:
    """The determinant; for up to three rows by cofactors, whose derivatives exist where the matrix is singular too."""
    n = shape_of(a)[-1]
    if n <= 3:
        return _small_determinant(a, n)
    factors, pivots, permutation = ops.lu(a)
    return _determinant(factors, permutation, pivots, a)


def _small_determinant(a: Any, n: int) -> Any:
    def at(i: int, j: int) -> Any:
        return a[..., i, j]

    if n == 1:
        return at(0, 0)
    if n == 2:
        return e.subtract(e.multiply(at(0, 0), at(1, 1)), e.multiply(at(0, 1), at(1, 0)))

    def minor(j: int, k: int) -> Any:
        return e.subtract(e.multiply(at(1, j), at(2, k)), e.multiply(at(1, k), at(2, j)))

    return at(0, 0) * minor(1, 2) - at(0, 1) * minor(0, 2) + at(0, 2) * minor(0, 1)
