"""Derivatives and batching of matrix factorizations and solvers, over any leading batch dimensions.

Sources: M. Giles, "Collected matrix derivative results for forward and reverse mode algorithmic differentiation" (2008) for
Cholesky, symmetric eigenvalues and singular values; F. de Hoog, R. Anderssen, M. Lukas, "Differentiation of matrix functionals
using triangular factorization" (2011) for LU; S. Walter, L. Lehmann, "Algorithmic differentiation of linear algebra functions with
application in optimum experimental design" (2010) for QR; J. Magnus, "On differentiating eigenvalues and eigenvectors"
(1985) for general matrices; J. Townsend, "Differentiating the singular value decomposition" (2016) for the thin case.

Factorizations of Hermitian matrices take Hermitian tangents. Where a factor is not unique (equal eigenvalues or singular values) the
tangent is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import linalg as la
from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.types import is_complex, tangent_type
from tracegrad.transforms.rules import (
    NOT_LINEAR,
    at_dim,
    first_dim,
    move_dim,
    no_derivative,
    scalar,
    transposes,
)
from tracegrad.transforms.zero import Linear, Zero, is_zero

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
Batched = tuple[Sequence[Any], Sequence[int]]
Pair = tuple[Sequence[Any], Sequence[Any]]


# Matrices, batched over leading dimensions


def matmul(x: Any, y: Any, transpose_x: bool = False, transpose_y: bool = False) -> Any:
    """The matrix product; each factor may be read as its transpose (not conjugated)."""
    rank = type_of(x).ndim
    batch = tuple(range(rank - 2))
    contracting = ((rank - 2 if transpose_x else rank - 1,), (rank - 1 if transpose_y else rank - 2,))
    return ops.dot_general(x, y, (contracting, (batch, batch)))


def transposed(x: Any) -> Any:
    rank = type_of(x).ndim
    return ops.transpose(x, (*range(rank - 2), rank - 1, rank - 2))


def conj(x: Any) -> Any:
    return ops.conj(x) if is_complex(type_of(x).dtype) else x


def real(x: Any) -> Any:
    return ops.real(x) if is_complex(type_of(x).dtype) else x


def adjoint(x: Any) -> Any:
    return conj(transposed(x))


def _rows_and_columns(shape: tuple[int, ...]) -> tuple[Any, Any]:
    rank = len(shape)
    return ops.broadcasted_iota(np.int32, shape, rank - 2), ops.broadcasted_iota(np.int32, shape, rank - 1)


def triangle(x: Any, lower: bool, strict: bool = False) -> Any:
    """The lower or upper triangle of `x`, zeros elsewhere; without its diagonal if `strict`."""
    t = type_of(x)
    rows, columns = _rows_and_columns(t.shape)
    compare = {(True, False): ops.ge, (True, True): ops.gt, (False, False): ops.le, (False, True): ops.lt}[lower, strict]
    return ops.select(compare(rows, columns), x, scalar(0, t.dtype))


def eye(shape: tuple[int, ...], dtype: Any) -> Any:
    rows, columns = _rows_and_columns(shape)
    return ops.convert_element_type(ops.eq(rows, columns), dtype)


def columns_of(x: Any, shape: tuple[int, ...]) -> Any:
    """A row of numbers (one for each column) as a matrix with equal rows."""
    rank = len(shape)
    return ops.broadcast_in_dim(x, shape, (*range(rank - 2), rank - 1))


def rows_of(x: Any, shape: tuple[int, ...]) -> Any:
    return ops.broadcast_in_dim(x, shape, range(len(shape) - 1))


def solve_triangular(a: Any, b: Any, **options: bool) -> Any:
    defaults = {"left_side": True, "lower": True, "transpose_a": False, "conjugate_a": False, "unit_diagonal": False}
    return bind(la.triangular_solve_p, a, b, **{**defaults, **options})[0]


def _zeros_like(outs: Sequence[Any]) -> list[Any]:
    return [Zero(tangent_type(type_of(x))) for x in outs]


# Cholesky


def _cholesky_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> Pair:
    (x,), (x_dot,) = primals, tangents
    (factor,) = bind(la.cholesky_p, x)
    if is_zero(x_dot):
        return (factor,), _zeros_like((factor,))
    return (factor,), (cholesky_along(factor, x_dot),)


def cholesky_along(factor: Any, x_dot: Any) -> Any:
    """The lower triangle dL with dL L^H + L dL^H = dA."""
    # dL = L F(L^-1 dA L^-H), where F keeps the lower triangle and half of the diagonal.
    t = type_of(factor)
    rows, columns = _rows_and_columns(t.shape)
    kept = [ops.convert_element_type(c(rows, columns), t.dtype) for c in (ops.ge, ops.gt)]
    halved = ops.mul(ops.add(*kept), scalar(0.5, t.dtype))
    inner = solve_triangular(factor, x_dot)
    inner = solve_triangular(factor, inner, left_side=False, transpose_a=True, conjugate_a=True)
    return matmul(factor, ops.mul(halved, inner))


# LU


def permute_rows(x: Any, permutation: Any) -> Any:
    t = type_of(x)
    batch = tuple(range(t.ndim - 2))
    return ops.gather(
        x,
        ops.reshape(permutation, (*type_of(permutation).shape, 1)),
        offset_dims=(t.ndim - 1,),
        collapsed_slice_dims=(t.ndim - 2,),
        start_index_map=(t.ndim - 2,),
        slice_sizes=(*[1] * (t.ndim - 1), t.shape[-1]),
        operand_batching_dims=batch,
        start_indices_batching_dims=batch,
        mode="promise_in_bounds",
    )


def padded(x: Any, rows: int, columns: int) -> Any:
    """`x` with rows and columns of zeros added, or cut off, at its end."""
    t = type_of(x)
    grow = (rows - t.shape[-2], columns - t.shape[-1])
    if grow == (0, 0):
        return x
    return ops.pad(x, scalar(0, t.dtype), [(0, 0, 0)] * (t.ndim - 2) + [(0, n, 0) for n in grow])


def _lu_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> Pair:
    (a,), (a_dot,) = primals, tangents
    lu, pivots, permutation = bind(la.lu_p, a)
    outs = (lu, pivots, permutation)
    if is_zero(a_dot):
        return outs, _zeros_like(outs)
    return outs, (lu_along(lu, permute_rows(a_dot, permutation)), *_zeros_like(outs[1:]))


def lu_along(lu: Any, a_dot: Any) -> Any:
    """The packed factors dL and dU with dL U + L dU = dA, whose rows are permuted already."""
    # L^-1 dA U^-1 = L^-1 dL + dU U^-1: a strictly lower plus an upper triangle. Rectangular factors are completed to square ones by
    # the identity.
    t = type_of(lu)
    m, n = t.shape[-2:]
    k = min(m, n)
    lower = ops.add(padded(triangle(padded(lu, m, k), True, strict=True), m, m), eye((*t.shape[:-2], m, m), t.dtype))
    upper = padded(triangle(padded(lu, k, n), False), n, n)
    if k < n:
        rows, columns = _rows_and_columns((*t.shape[:-2], n, n))
        beyond = ops.bitwise_and(ops.eq(rows, columns), ops.ge(rows, k))
        upper = ops.add(upper, ops.convert_element_type(beyond, t.dtype))
    inner = solve_triangular(lower, a_dot, unit_diagonal=True)
    inner = solve_triangular(upper, inner, left_side=False, lower=False)
    lower_dot = matmul(lower, triangle(inner, True, strict=True))
    upper_dot = matmul(triangle(inner, False), upper)
    return ops.add(lower_dot, upper_dot)


# QR


def _qr_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, full_matrices: bool) -> Pair:
    (a,), (a_dot,) = primals, tangents
    q, r = bind(la.qr_p, a, full_matrices=full_matrices)
    if is_zero(a_dot):
        return (q, r), _zeros_like((q, r))
    t = type_of(a)
    m, n = t.shape[-2:]
    if full_matrices and m > n:
        raise NotImplementedError(
            f"the full QR factorization of {t} is not differentiable: the columns of q beyond {n} are not unique; use mode='reduced'"
        )
    # With k = min(m, n) columns, A = [A1 A2] = Q [R1 R2]. dA1 R1^-1 = dQ + Q dR1 R1^-1 and Q^H dQ is antihermitian, dR1 R1^-1 an upper
    # triangle with a real diagonal.
    k = min(m, n)
    head = padded(r, k, k)
    x = solve_triangular(head, padded(a_dot, m, k), left_side=False, lower=False)
    inner = matmul(conj(q), x, transpose_x=True)
    below = triangle(inner, True, strict=True)
    turn = ops.sub(below, adjoint(below))
    if is_complex(t.dtype):
        phase = ops.complex(scalar(0, np.dtype(t.dtype.type(0).real.dtype)), ops.imag(inner))
        turn = ops.add(turn, ops.mul(phase, eye((*t.shape[:-2], k, k), t.dtype)))
    stretch = ops.sub(inner, turn)
    q_dot = ops.sub(x, matmul(q, stretch))
    r_dot = matmul(stretch, head)
    if n > k:
        zeros = (0,) * (t.ndim - 2)
        tail = ops.slice(r, (*zeros, 0, k), type_of(r).shape)
        tail_dot = ops.slice(a_dot, (*zeros, 0, k), t.shape)
        rest = matmul(conj(q), ops.sub(tail_dot, matmul(q_dot, tail)), transpose_x=True)
        r_dot = ops.concatenate([r_dot, rest], t.ndim - 1)
    return (q, r), (q_dot, r_dot)


# Eigenvalues


def inverse_gaps(w: Any, shape: tuple[int, ...]) -> Any:
    """1 / (w_j - w_i) at (i, j), and 0 on the diagonal."""
    one = eye(shape, type_of(w).dtype)
    return ops.sub(ops.div(1.0, ops.add(ops.sub(columns_of(w, shape), rows_of(w, shape)), one)), one)


def _eigh_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, lower: bool) -> Pair:
    (a,), (a_dot,) = primals, tangents
    v, w = bind(la.eigh_p, a, lower=lower)
    if is_zero(a_dot):
        return (v, w), _zeros_like((v, w))
    t = type_of(v)
    gaps = inverse_gaps(w, t.shape)
    if is_complex(t.dtype):
        gaps = ops.convert_element_type(gaps, t.dtype)
    moved = matmul(a_dot, v)
    w_dot = ops.reduce_sum(real(ops.mul(conj(v), moved)), (t.ndim - 2,))
    v_dot = matmul(v, ops.mul(gaps, matmul(conj(v), moved, transpose_x=True)))
    return (v, w), (v_dot, w_dot)


def _eigenvectors_dot(v: Any, dual: Any, w: Any, moved: Any) -> Any:
    """The tangent of right eigenvectors of unit length whose largest component is real, as LAPACK normalizes them.

    dual: the transposed inverse of `v`. moved: dA v.
    """
    t = type_of(v)
    columns = t.ndim - 2
    gaps = inverse_gaps(w, t.shape)
    v_dot = matmul(v, ops.mul(gaps, matmul(dual, moved, transpose_x=True)))
    length_dot = ops.reduce_sum(ops.real(ops.mul(ops.conj(v), v_dot)), (columns,))
    size = ops.add(ops.square(ops.real(v)), ops.square(ops.imag(v)))
    places = ops.broadcasted_iota(np.int32, t.shape, columns)
    largest = ops.eq(places, columns_of(ops.argmax(size, columns, np.int32), t.shape))
    zero = scalar(0, type_of(size).dtype)
    turn = ops.reduce_sum(ops.select(largest, ops.imag(v_dot), zero), (columns,))
    turn = ops.div(turn, ops.reduce_sum(ops.select(largest, ops.real(v), zero), (columns,)))
    return ops.sub(v_dot, ops.mul(v, columns_of(ops.complex(length_dot, turn), t.shape)))


def _eig_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, compute_left: bool, compute_right: bool) -> Pair:
    (a,), (a_dot,) = primals, tangents
    if is_zero(a_dot):
        plain = bind(la.eig_p, a, compute_left=compute_left, compute_right=compute_right)
        return plain, _zeros_like(plain)
    w, left, right = bind(la.eig_p, a, compute_left=True, compute_right=True)
    t = type_of(right)
    # Row i of the inverse of the matrix of right eigenvectors is the left eigenvector i, scaled.
    overlap = ops.reduce_sum(ops.mul(ops.conj(left), right), (t.ndim - 2,))
    dual = ops.div(ops.conj(left), columns_of(overlap, t.shape))
    if type_of(a_dot).dtype != t.dtype:
        a_dot = ops.convert_element_type(a_dot, t.dtype)
    moved = matmul(a_dot, right)
    outs = [w]
    dots = [ops.reduce_sum(ops.mul(dual, moved), (t.ndim - 2,))]
    if compute_left:
        # Left eigenvectors are right ones of the adjoint, whose eigenvalues are the conjugates.
        left_dual = ops.div(ops.conj(right), columns_of(ops.conj(overlap), t.shape))
        outs.append(left)
        dots.append(_eigenvectors_dot(left, left_dual, ops.conj(w), matmul(ops.conj(a_dot), left, transpose_x=True)))
    if compute_right:
        outs.append(right)
        dots.append(_eigenvectors_dot(right, dual, w, moved))
    return outs, dots


# Singular values


def _svd_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, full_matrices: bool, compute_uv: bool) -> Pair:
    (a,), (a_dot,) = primals, tangents
    t = type_of(a)
    m, n = t.shape[-2:]
    if is_zero(a_dot):
        outs = bind(la.svd_p, a, full_matrices=full_matrices, compute_uv=compute_uv)
        return outs, _zeros_like(outs)
    if compute_uv and full_matrices and m != n:
        raise NotImplementedError(
            f"the full singular value decomposition of {t} is not differentiable: the vectors beyond {min(m, n)} are not unique; "
            "use full_matrices=False"
        )
    s, u, vh = bind(la.svd_p, a, full_matrices=False, compute_uv=True)
    moved = matmul(a_dot, conj(vh), transpose_y=True)  # dA V
    s_dot = ops.reduce_sum(real(ops.mul(conj(u), moved)), (t.ndim - 2,))
    if not compute_uv:
        return (s,), (s_dot,)
    k = min(m, n)
    square = (*t.shape[:-2], k, k)
    values = ops.convert_element_type(s, t.dtype) if is_complex(t.dtype) else s
    # (s_j - s_i)(s_j + s_i) rather than a difference of squares, which would lose digits.
    one = eye(square, t.dtype)
    by_column, by_row = columns_of(values, square), rows_of(values, square)
    gaps = ops.mul(ops.sub(by_column, by_row), ops.add(by_column, by_row))
    gaps = ops.sub(ops.div(1.0, ops.add(gaps, one)), one)
    inner = matmul(conj(u), moved, transpose_x=True)  # U^H dA V
    right = ops.mul(by_column, inner)
    left = ops.mul(by_row, inner)
    u_turn = ops.mul(gaps, ops.add(right, adjoint(right)))
    v_turn = ops.mul(gaps, ops.add(left, adjoint(left)))
    if is_complex(t.dtype):
        # The phases of a pair of vectors may turn together; what is fixed is their difference, which goes to U.
        phase = ops.mul(one, ops.sub(inner, adjoint(inner)))
        u_turn = ops.add(u_turn, ops.div(phase, ops.mul(by_row, 2.0)))
    u_dot = matmul(u, u_turn)
    vh_dot = ops.neg(matmul(v_turn, vh))
    if m > k:
        outside = ops.sub(moved, matmul(u, inner))
        u_dot = ops.add(u_dot, ops.div(outside, columns_of(values, type_of(u).shape)))
    if n > k:
        back = matmul(conj(u), a_dot, transpose_x=True)  # U^H dA
        outside = ops.sub(back, matmul(inner, vh))
        vh_dot = ops.add(vh_dot, ops.div(outside, rows_of(values, type_of(vh).shape)))
    return (s, u, vh), (s_dot, u_dot, vh_dot)


# Solvers


def triangular_product(
    a: Any, x: Any, *, left_side: bool, lower: bool, transpose_a: bool, conjugate_a: bool, unit_diagonal: bool
) -> Any:
    """op(A) X, or X op(A), for a change A of the matrix that triangular_solve with these options inverts; a unit diagonal has none."""
    a = triangle(a, lower, strict=unit_diagonal)
    if conjugate_a:
        a = conj(a)
    return matmul(a, x, transpose_x=transpose_a) if left_side else matmul(x, a, transpose_y=transpose_a)


def _triangular_solve_jvp(primals: Sequence[Any], tangents: Sequence[Any], **options: bool) -> Pair:
    a, b = primals
    a_dot, b_dot = tangents
    ans = solve_triangular(a, b, **options)
    if not is_zero(a_dot):
        # op(A) dX = dB - op(dA) X, where the solver reads one triangle of A only.
        moved = triangular_product(a_dot, ans, **options)
        b_dot = ops.neg(moved) if is_zero(b_dot) else ops.sub(b_dot, moved)
    if is_zero(b_dot):
        return (ans,), _zeros_like((ans,))
    return (ans,), (solve_triangular(a, b_dot, **options),)


def _transpose_triangular_solve(ct: Any, a: Any, b: Any, **options: bool) -> Sequence[Any]:
    if isinstance(a, Linear):
        raise NotImplementedError("triangular_solve is linear in its right-hand side only, not in the matrix")
    return [None, solve_triangular(a, ct, **{**options, "transpose_a": not options["transpose_a"]})]


def _shift_rows(x: Any, by: int) -> Any:
    rank = type_of(x).ndim
    return ops.pad(x, scalar(0, type_of(x).dtype), [(0, 0, 0)] * (rank - 1) + [(by, -by, 0)])


def tridiagonal_product(dl: Any, d: Any, du: Any, x: Any) -> Any:
    """The product of a tridiagonal matrix, any of whose diagonals may be a symbolic zero, with the columns of `x`."""
    shape = type_of(x).shape
    rows = len(shape) - 2
    config = [(0, 0, 0)] * len(shape)
    total: Any = None
    for diagonal, by in ((dl, 1), (d, 0), (du, -1)):
        if is_zero(diagonal):
            continue
        config[rows] = (by, -by, 0)
        neighbour = ops.pad(x, scalar(0, type_of(x).dtype), config) if by else x
        term = ops.mul(rows_of(diagonal, shape), neighbour)
        total = term if total is None else ops.add(total, term)
    return total


def _tridiagonal_solve_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> Pair:
    dl, d, du, b = primals
    *diagonals_dot, b_dot = tangents
    (ans,) = bind(la.tridiagonal_solve_p, dl, d, du, b)
    if not all(is_zero(t) for t in diagonals_dot):
        dl_dot, d_dot, du_dot = diagonals_dot
        moved = tridiagonal_product(dl_dot, d_dot, du_dot, ans)
        b_dot = ops.neg(moved) if is_zero(b_dot) else ops.sub(b_dot, moved)
    if is_zero(b_dot):
        return (ans,), _zeros_like((ans,))
    return (ans,), bind(la.tridiagonal_solve_p, dl, d, du, b_dot)


def _transpose_tridiagonal_solve(ct: Any, dl: Any, d: Any, du: Any, b: Any) -> Sequence[Any]:
    if any(isinstance(x, Linear) for x in (dl, d, du)):
        raise NotImplementedError("tridiagonal_solve is linear in its right-hand side only, not in the matrix")
    # dl[i] stands in row i, column i-1, and du[i] in row i, column i+1.
    out = bind(la.tridiagonal_solve_p, _shift_rows(du, 1), d, _shift_rows(dl, -1), ct)
    return [None, None, None, *out]


la.cholesky_p.define(jvp=_cholesky_jvp, transpose=NOT_LINEAR)
la.lu_p.define(jvp=_lu_jvp, transpose=NOT_LINEAR)
la.qr_p.define(jvp=_qr_jvp, transpose=NOT_LINEAR)
la.eigh_p.define(jvp=_eigh_jvp, transpose=NOT_LINEAR)
la.eig_p.define(jvp=_eig_jvp, transpose=NOT_LINEAR)
la.svd_p.define(jvp=_svd_jvp, transpose=NOT_LINEAR)
la.triangular_solve_p.define(jvp=_triangular_solve_jvp)
transposes(la.triangular_solve_p, _transpose_triangular_solve)
la.tridiagonal_solve_p.define(jvp=_tridiagonal_solve_jvp)
transposes(la.tridiagonal_solve_p, _transpose_tridiagonal_solve)
no_derivative(la.schur_p, "the Schur form is not a smooth function of the matrix: its vectors and their order are not unique")
no_derivative(
    la.householder_product_p,
    "its operands are an implementation's reflectors; differentiate the factorization that they come from (qr) instead",
)


# Batching: one more leading dimension


def _batch_in_front(prim: Any) -> None:
    def batch(axis: Any, args: Sequence[Any], dims: Dims, **params: Any) -> Batched:
        outs = bind(prim, *[at_dim(x, d, 0, axis.size) for x, d in zip(args, dims, strict=True)], **params)
        return outs, [0] * len(outs)

    prim.define(batch=batch)


for _prim in (
    la.cholesky_p, la.lu_p, la.qr_p, la.eigh_p, la.eig_p, la.svd_p, la.schur_p, la.tridiagonal_solve_p, la.householder_product_p,
):  # fmt: skip
    _batch_in_front(_prim)


def _batch_triangular_solve(axis: Any, args: Sequence[Any], dims: Dims, **options: bool) -> Batched:
    a, b = args
    a_dim, b_dim = dims
    if a_dim is not None or type_of(a).ndim > 2:
        out = solve_triangular(at_dim(a, a_dim, 0, axis.size), at_dim(b, b_dim, 0, axis.size), **options)
        return (out,), (0,)
    # One matrix for all examples: they are more columns (or rows) of one right-hand side.
    at = 2 if options["left_side"] else 0
    b = move_dim(b, first_dim((b_dim,)), at)
    shape = type_of(b).shape
    b = ops.reshape(b, (shape[0], shape[1] * shape[2]) if at else (shape[0] * shape[1], shape[2]))
    return (ops.reshape(solve_triangular(a, b, **options), shape),), (at,)


la.triangular_solve_p.define(batch=_batch_triangular_solve)
