"""Taylor mode of matrix factorizations and solvers.

The k-th coefficient of a factorization obeys the equation of the first derivative, with a right-hand side from which the products of
the coefficients before it are taken; see S. Walter, L. Lehmann, "Algorithmic differentiation of linear algebra functions with
application in optimum experimental design" (2010). Free phases of eigenvectors are chosen as nested derivatives choose them. The
singular value decomposition and the general eigenproblem go through their jvp rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import linalg as la
from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.types import is_complex, tangent_type
from tracegrad.transforms.jet import through_jvp
from tracegrad.transforms.jet_rules import Operands
from tracegrad.transforms.linalg import (
    adjoint,
    cholesky_along,
    columns_of,
    conj,
    eye,
    inverse_gaps,
    lu_along,
    matmul,
    padded,
    permute_rows,
    real,
    solve_triangular,
    triangle,
    triangular_product,
    tridiagonal_product,
)
from tracegrad.transforms.rules import scalar
from tracegrad.transforms.series import (
    Series,
    coefficient,
    constant,
    mapped,
    minus,
    over,
    scaled,
    total,
)
from tracegrad.transforms.zero import Zero, instantiate


def _gram(x: Any, y: Any) -> Any:
    return matmul(conj(x), y, transpose_x=True)


def _cholesky(operands: Operands) -> list[Series]:
    (a,) = operands
    factor = [*bind(la.cholesky_p, a[0])]
    for k in range(1, len(a)):
        rest = minus(a[k], coefficient(factor, mapped(adjoint, factor), k, 1, k - 1, matmul))
        factor.append(None if rest is None else cholesky_along(factor[0], rest))
    return [factor]


def _lu(operands: Operands) -> list[Series]:
    (a,) = operands
    order = len(a) - 1
    packed, pivots, permutation = bind(la.lu_p, a[0])
    n = min(type_of(packed).shape[-2:])
    rows, columns = type_of(packed).shape[-2:]
    lu, lower, upper = [packed], [None], [None]
    for k in range(1, order + 1):
        permuted = None if a[k] is None else permute_rows(a[k], permutation)
        rest = minus(permuted, coefficient(lower, upper, k, 1, k - 1, matmul))
        lu.append(None if rest is None else lu_along(packed, rest))
        lower.append(None if rest is None else triangle(padded(lu[k], rows, n), True, strict=True))
        upper.append(None if rest is None else triangle(padded(lu[k], n, columns), False))
    return [lu, constant(pivots, order), constant(permutation, order)]


def _qr(operands: Operands, *, full_matrices: bool) -> list[Series]:
    (a,) = operands
    t = type_of(a[0])
    m, n = t.shape[-2:]
    if full_matrices and m > n:
        return through_jvp(la.qr_p.rule("jvp"), operands, {"full_matrices": full_matrices})
    # With A = [A1 A2] = Q [R1 R2]: A1_k - sum Q_i R1_(k-i) = Q_k R1 + Q R1_k. Divided by R1 and seen in the columns of Q it is the
    # sum of C = Q^H Q_k, for which C + C^H is known from Q^H Q = 1, and of an upper triangle with a real diagonal.
    k_ = min(m, n)
    q0, r0 = bind(la.qr_p, a[0], full_matrices=full_matrices)
    head = padded(r0, k_, k_)
    q, r = [q0], [head]
    square = (*t.shape[:-2], k_, k_)
    diagonal = eye(square, t.dtype)
    first = mapped(lambda c: padded(c, m, k_), a)
    for k in range(1, len(a)):
        rest = minus(first[k], coefficient(q, r, k, 1, k - 1, matmul))
        overlap = total([_gram(q[i], q[k - i]) for i in range(1, k) if q[i] is not None and q[k - i] is not None])
        if rest is None and overlap is None:
            q.append(None)
            r.append(None)
            continue
        rest = instantiate(Zero(tangent_type(type_of(first[0])))) if rest is None else rest
        x = solve_triangular(head, rest, left_side=False, lower=False)
        inner = _gram(q0, x)
        below = triangle(inner, True, strict=True)
        turn = ops.sub(below, adjoint(below))
        if is_complex(t.dtype):
            phase = ops.complex(scalar(0, np.dtype(t.dtype.type(0).real.dtype)), ops.imag(inner))
            turn = ops.add(turn, ops.mul(phase, diagonal))
        if overlap is not None:
            # The strictly upper triangle and half of the diagonal of what Q^H Q lacks.
            turn = ops.sub(turn, ops.sub(triangle(overlap, False), ops.mul(ops.mul(overlap, diagonal), 0.5)))
        stretch = ops.sub(inner, turn)
        q.append(ops.sub(x, matmul(q0, stretch)))
        r.append(matmul(stretch, head))
    if n > k_:
        zeros = (0,) * (t.ndim - 2)
        tail = mapped(lambda c: ops.slice(c, (*zeros, 0, k_), t.shape), a)
        tail_r = [ops.slice(r0, (*zeros, 0, k_), type_of(r0).shape)]
        for k in range(1, len(a)):
            rest = minus(tail[k], coefficient(q, tail_r, k, 1, k, matmul))
            tail_r.append(None if rest is None else _gram(q0, rest))
        r = [_beside(x, y, square, type_of(tail_r[0]).shape) for x, y in zip(r, tail_r)]
    return [q, [r0, *r[1:]]]


def _beside(x: Any, y: Any, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> Any:
    """[x y], where either may be zero."""
    if x is None and y is None:
        return None
    dtype = type_of(y if x is None else x).dtype
    parts = [ops.broadcast_in_dim(scalar(0, dtype), s, ()) if c is None else c for c, s in ((x, x_shape), (y, y_shape))]
    return ops.concatenate(parts, len(x_shape) - 1)


def _eigh(operands: Operands, *, lower: bool) -> list[Series]:
    (a,) = operands
    v0, w0 = bind(la.eigh_p, a[0], lower=lower)
    t = type_of(v0)
    diagonal_axis = t.ndim - 2
    gaps = inverse_gaps(w0, t.shape)
    one = eye(t.shape, t.dtype)
    if is_complex(t.dtype):
        gaps = ops.convert_element_type(gaps, t.dtype)
    v, w, w_columns = [v0], [w0], [None]
    for k in range(1, len(a)):
        # A V = V W, with V_k = V C: w_i C_ij - C_ij w_j + R_ij = W_k, where R = V^H (sum A_i V_(k-i) - sum V_i W_(k-i)).
        moved = coefficient(a, v, k, 1, k, matmul)
        known = [ops.mul(v[i], w_columns[k - i]) for i in range(1, k) if v[i] is not None and w_columns[k - i] is not None]
        moved = minus(moved, total(known))
        # Vectors keep their length, and turn their phase as little as they can: the diagonal of V^H V' is zero along the curve.
        turned = total([scaled(k - i, _gram(v[i], v[k - i])) for i in range(1, k) if v[i] is not None and v[k - i] is not None])
        if moved is None and turned is None:
            v.append(None)
            w.append(None)
            w_columns.append(None)
            continue
        inner = None if moved is None else _gram(v0, moved)
        turn = None if inner is None else ops.mul(gaps, inner)
        turn = minus(turn, None if turned is None else over(ops.mul(one, turned), k))
        v.append(matmul(v0, turn))
        w.append(None if inner is None else real(ops.reduce_sum(ops.mul(one, inner), (diagonal_axis,))))
        columns = None if inner is None else columns_of(w[k], t.shape)
        w_columns.append(ops.convert_element_type(columns, t.dtype) if columns is not None and is_complex(t.dtype) else columns)
    return [v, w]


def _triangular_solve(operands: Operands, **options: bool) -> list[Series]:
    a, b = operands
    x = [*bind(la.triangular_solve_p, a[0], b[0], **options)]
    for k in range(1, len(b)):
        known = coefficient(a, x, k, first=1, product=lambda a, x: triangular_product(a, x, **options))
        rest = minus(b[k], known)
        x.append(None if rest is None else solve_triangular(a[0], rest, **options))
    return [x]


def _tridiagonal_solve(operands: Operands) -> list[Series]:
    dl, d, du, b = operands
    x = [*bind(la.tridiagonal_solve_p, dl[0], d[0], du[0], b[0])]
    zero = Zero(tangent_type(type_of(d[0])))
    for k in range(1, len(b)):
        rest = b[k]
        for j in range(1, k + 1):
            below, own, above = [zero if c[j] is None else c[j] for c in (dl, d, du)]
            if x[k - j] is not None and any(c[j] is not None for c in (dl, d, du)):
                rest = minus(rest, tridiagonal_product(below, own, above, x[k - j]))
        x.append(None if rest is None else bind(la.tridiagonal_solve_p, dl[0], d[0], du[0], rest)[0])
    return [x]


la.cholesky_p.define(jet=_cholesky)
la.lu_p.define(jet=_lu)
la.qr_p.define(jet=_qr)
la.eigh_p.define(jet=_eigh)
la.triangular_solve_p.define(jet=_triangular_solve)
la.tridiagonal_solve_p.define(jet=_tridiagonal_solve)
