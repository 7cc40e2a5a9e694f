"""Factorizations and solvers, batched over leading dimensions, under the names of `jax.lax.linalg`.

A matrix that has no factorization gives NaN, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import conversions, elementwise, structural
from tracegrad.ir import linalg as ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.contractions import dot_general
from tracegrad.ir.dtypes import promote
from tracegrad.ir.types import is_complex
from tracegrad.lax.indexing import dynamic_index_in_dim
from tracegrad.lax.operands import matrix, value
from tracegrad.lax.reflectors import hessenberg as hessenberg
from tracegrad.lax.reflectors import ormqr as ormqr
from tracegrad.lax.reflectors import tridiagonal as tridiagonal
from tracegrad.tracer.control_flow import fori_loop


def adjoint(x: Any) -> Any:
    """The conjugate transpose of (a batch of) matrices."""
    t = type_of(x)
    x = structural.transpose(x, (*range(t.ndim - 2), t.ndim - 1, t.ndim - 2))
    return elementwise.conj(x) if is_complex(t.dtype) else x


def matmul(a: Any, b: Any) -> Any:
    """The product of matrices over equal leading dimensions."""
    n = type_of(a).ndim
    batch = tuple(range(n - 2))
    return dot_general(a, b, (((n - 1,), (n - 2,)), (batch, batch)))


def symmetrize(x: Any) -> Any:
    """The Hermitian part."""
    return elementwise.mul(elementwise.add(x, adjoint(x)), 0.5)


def triangle(x: Any, lower: bool, offset: int = 0) -> Any:
    """x with what lies above (`lower`) or below its diagonal `offset` set to zero."""
    t = type_of(x)
    rows = structural.broadcasted_iota(np.dtype(np.int32), t.shape, t.ndim - 2)
    columns = structural.broadcasted_iota(np.dtype(np.int32), t.shape, t.ndim - 1)
    moved = elementwise.add(rows, np.int32(offset)) if offset else rows
    keep = elementwise.ge(moved, columns) if lower else elementwise.le(moved, columns)
    return elementwise.select(keep, x, t.dtype.type(0))


def cholesky(x: Any, *, symmetrize_input: bool = True) -> Any:
    """The lower triangular L with x = L L^H; NaN if x is not positive definite."""
    x = matrix("cholesky", x)
    return ops.cholesky(symmetrize(x) if symmetrize_input else x)


def lu(x: Any) -> tuple[Any, Any, Any]:
    """L and U in one matrix, the pivots and the permutation, x[permutation] = L U."""
    out, pivots, permutation = ops.lu(matrix("lu", x))
    return out, pivots, permutation


def lu_pivots_to_permutation(pivots: Any, permutation_size: int) -> Any:
    """The permutation of range(permutation_size) that exchanging i with pivots[i], in order, makes."""
    int32 = np.dtype(np.int32)
    pivots = conversions.convert_element_type(value("lu_pivots_to_permutation", pivots), int32, False)
    t = type_of(pivots)
    batch, k = t.shape[:-1], t.shape[-1]
    identity = structural.broadcasted_iota(int32, (*batch, permutation_size), len(batch))
    if k == 0 or permutation_size == 0:
        return identity
    axis = len(batch)
    places = structural.broadcasted_iota(int32, (*batch, permutation_size), axis)

    def swap(i: Any, permutation: Any) -> Any:
        j = dynamic_index_in_dim(pivots, i, axis, keepdims=True)
        here = elementwise.eq(places, i)
        there = elementwise.eq(places, structural.broadcast_in_dim(j, places_shape, range(axis + 1)))
        a = dynamic_index_in_dim(permutation, i, axis, keepdims=True)
        from tracegrad.ir.reductions import reduce_sum

        b = reduce_sum(elementwise.select(there, permutation, np.int32(0)), (axis,))
        b = structural.reshape(b, (*batch, 1))
        spread: Callable[[Any], Any] = lambda v: structural.broadcast_in_dim(v, places_shape, range(axis + 1))
        return elementwise.select(here, spread(b), elementwise.select(there, spread(a), permutation))

    places_shape = (*batch, permutation_size)
    return fori_loop(np.int32(0), np.int32(k), swap, identity)


def qr(x: Any, *, pivoting: bool = False, full_matrices: bool = True, use_magma: bool | None = None) -> Any:
    """q with orthonormal columns and upper triangular r, x = q r."""
    if pivoting:
        raise NotImplementedError(
            "qr with pivoting is not supported; leave pivoting=False, or call SciPy's qr through pure_callback"
        )
    q, r = ops.qr(matrix("qr", x), full_matrices)
    return q, r


def eigh(
    x: Any,
    *,
    lower: bool = True,
    symmetrize_input: bool = True,
    sort_eigenvalues: bool = True,
    subset_by_index: tuple[int, int] | None = None,
    implementation: Any = None,
) -> tuple[Any, Any]:
    """(eigenvectors in columns, ascending eigenvalues) of a Hermitian matrix."""
    x = matrix("eigh", x)
    v, w = ops.eigh(symmetrize(x) if symmetrize_input else x, lower)
    if subset_by_index is not None:
        start, stop = subset_by_index
        v = structural.slice_in_dim(v, start, stop, 1, type_of(v).ndim - 1)
        w = structural.slice_in_dim(w, start, stop, 1, type_of(w).ndim - 1)
    return v, w


def eig(
    x: Any,
    *,
    compute_left_eigenvectors: bool = True,
    compute_right_eigenvectors: bool = True,
    enable_eigvec_derivs: bool = False,
    implementation: Any = None,
    use_magma: bool | None = None,
) -> list[Any]:
    """[eigenvalues, left eigenvectors, right eigenvectors], those of the latter that are asked for."""
    return list(ops.eig(matrix("eig", x), compute_left_eigenvectors, compute_right_eigenvectors))


def svd(
    x: Any,
    *,
    full_matrices: bool = True,
    compute_uv: bool = True,
    subset_by_index: tuple[int, int] | None = None,
    algorithm: Any = None,
) -> Any:
    """(u, s, vh) with x = u diag(s) vh and s descending; s alone without compute_uv."""
    out = ops.svd(matrix("svd", x), full_matrices, compute_uv)
    cut: Callable[[Any, int], Any] = lambda y, axis: y
    if subset_by_index is not None:
        if full_matrices and compute_uv:
            raise ValueError("subset_by_index and full_matrices cannot both be set")
        start, stop = subset_by_index
        cut = lambda y, axis: structural.slice_in_dim(y, start, stop, 1, axis)
    s = cut(out[0], type_of(out[0]).ndim - 1)
    if not compute_uv:
        return s
    n = type_of(out[1]).ndim
    return cut(out[1], n - 1), s, cut(out[2], n - 2)


def triangular_solve(
    a: Any,
    b: Any,
    *,
    left_side: bool = False,
    lower: bool = False,
    transpose_a: bool = False,
    conjugate_a: bool = False,
    unit_diagonal: bool = False,
) -> Any:
    """x with op(a) x = b (`left_side`) or x op(a) = b; b may be a vector."""
    a, b = matrix("triangular_solve", a), matrix("triangular_solve", b, 1)
    ta, tb = type_of(a), type_of(b)
    if ta.dtype != tb.dtype:
        dtype, _ = promote(ta, tb)
        a, b = (y if type_of(y).dtype == dtype else conversions.convert_element_type(y, dtype) for y in (a, b))
    conjugate_a = conjugate_a and is_complex(type_of(a).dtype)
    vector = tb.ndim == ta.ndim - 1
    if vector:
        b = structural.reshape(b, (*tb.shape, 1) if left_side else (*tb.shape[:-1], 1, tb.shape[-1]))
    out = ops.triangular_solve(a, b, left_side, lower, transpose_a, conjugate_a, unit_diagonal)
    return structural.reshape(out, tb.shape) if vector else out


def schur(
    x: Any, *, compute_schur_vectors: bool = True, sort_eig_vals: bool = False, select_callable: Any = None
) -> tuple[Any, Any]:
    """The Schur form t and the unitary z with x = z t z^H."""
    if sort_eig_vals:
        raise NotImplementedError(
            "schur: sorting the eigenvalues is not supported; leave sort_eig_vals=False, or call SciPy's schur through pure_callback"
        )
    t, z = ops.schur(matrix("schur", x))
    return t, z


def tridiagonal_solve(dl: Any, d: Any, du: Any, b: Any, *, perturb_singular: bool = False) -> Any:
    """x with A x = b for the tridiagonal A of lower, main and upper diagonals (dl[0] and du[-1] are not read)."""
    return ops.tridiagonal_solve(*[matrix("tridiagonal_solve", x, i) for i, x in enumerate((dl, d, du, b))])


def householder_product(a: Any, taus: Any) -> Any:
    """The product of elementary reflectors as LAPACK's geqrf leaves them."""
    return ops.householder_product(matrix("householder_product", a), matrix("householder_product", taus, 1))


def symmetric_product(
    a_matrix: Any, c_matrix: Any, *, alpha: float = 1.0, beta: float = 0.0, symmetrize_output: bool = False
) -> Any:
    """alpha a a^T + beta c."""
    a, c = matrix("symmetric_product", a_matrix), matrix("symmetric_product", c_matrix, 1)
    n = type_of(a).ndim
    product = matmul(a, structural.transpose(a, (*range(n - 2), n - 1, n - 2)))
    return elementwise.add(elementwise.mul(product, alpha), elementwise.mul(c, beta))


__all__ = [
    "cholesky", "eig", "eigh", "hessenberg", "householder_product", "lu", "lu_pivots_to_permutation", "ormqr", "qr", "schur", "svd",
    "symmetric_product", "triangular_solve", "tridiagonal", "tridiagonal_solve",
]  # fmt: skip
