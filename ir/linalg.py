"""Matrix factorizations and solvers, batched over leading dimensions.

The meanings are LAPACK's, in the conventions of XLA: `lu` gives zero-based pivots and the permutation they make, `eigh` vectors
before values. A matrix that cannot be factorized gives NaN, never an exception; so does one that holds NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind, bind1
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType

__all__ = [
    "cholesky",
    "lu",
    "qr",
    "eigh",
    "eig",
    "svd",
    "triangular_solve",
    "schur",
    "tridiagonal_solve",
    "householder_product",
    "cholesky_p",
    "lu_p",
    "qr_p",
    "eigh_p",
    "eig_p",
    "svd_p",
    "triangular_solve_p",
    "schur_p",
    "tridiagonal_solve_p",
    "householder_product_p",
]

_INT32 = np.dtype(np.int32)
_LAPACK = {np.dtype(np.float32): "s", np.dtype(np.float64): "d", np.dtype(np.complex64): "c", np.dtype(np.complex128): "z"}
_REAL = {np.dtype(np.complex64): np.dtype(np.float32), np.dtype(np.complex128): np.dtype(np.float64)}
_COMPLEX = {r: c for c, r in _REAL.items()}


def real_dtype(dtype: Any) -> Any:
    """The dtype of the real part."""
    return _REAL.get(dtype, dtype)


def complex_dtype(dtype: Any) -> Any:
    """The complex dtype of this precision."""
    return _COMPLEX.get(dtype, dtype)


def _check_matrix(name: str, x: ArrayType, square: bool = False) -> tuple[tuple[int, ...], int, int]:
    if x.dtype not in _LAPACK:
        raise TypeError(f"{name} takes float32, float64, complex64 or complex128, got {x}")
    if x.ndim < 2:
        raise TypeError(f"{name} takes a matrix or a batch of matrices, got {x}")
    *batch, m, n = x.shape
    if square and m != n:
        raise ValueError(f"{name} takes square matrices, got {x}")
    return tuple(batch), m, n


def _lapack(name: str, dtype: Any) -> Callable[..., Any]:
    import scipy.linalg.lapack as lapack  # kept out of module import: it costs a tenth of a second

    return getattr(lapack, _LAPACK[np.dtype(dtype)] + name)


def _matrices(x: np.ndarray, core: int = 2) -> np.ndarray:
    return x.reshape(prod(x.shape[: x.ndim - core]), *x.shape[x.ndim - core :])


def _nan(*arrays: np.ndarray) -> None:
    for a in arrays:
        a[...] = np.nan


# Cholesky
def _cholesky_type(x: ArrayType) -> tuple[ArrayType, ...]:
    _check_matrix("cholesky", x, square=True)
    return (x.strong(),)


def _cholesky_evaluate(x: np.ndarray) -> tuple[np.ndarray]:
    if x.size == 0:
        return (x.copy(),)
    with np.errstate(all="ignore"):
        try:
            return (np.linalg.cholesky(x),)
        except np.linalg.LinAlgError:
            out = np.full(x.shape, np.nan, x.dtype)
            for a, target in zip(_matrices(x), _matrices(out), strict=True):
                try:
                    target[...] = np.linalg.cholesky(a)
                except np.linalg.LinAlgError:
                    # like LAPACK's result in XLA: NaN in the triangle, zero outside
                    target[...] = np.tril(target)
            return (out,)


cholesky_p = Primitive("cholesky", _cholesky_type, _cholesky_evaluate, "linalg")


def cholesky(x: Any) -> Any:
    """The lower triangular L with x = L L^H; reads the lower triangle of x."""
    return bind1(cholesky_p, x)


# LU
def _lu_type(x: ArrayType) -> tuple[ArrayType, ...]:
    batch, m, n = _check_matrix("lu", x)
    return x.strong(), ArrayType((*batch, min(m, n)), _INT32), ArrayType((*batch, m), _INT32)


def _lu_evaluate(x: np.ndarray) -> tuple[np.ndarray, ...]:
    *batch, m, n = x.shape
    k = min(m, n)
    out = np.array(x, order="C")
    pivots = np.zeros((*batch, k), np.int32)
    permutation = np.broadcast_to(np.arange(m, dtype=np.int32), (*batch, m)).copy()
    if prod(batch) * k == 0:
        return out, pivots, permutation
    a, p, q = _matrices(out), _matrices(pivots, 1), _matrices(permutation, 1)
    with np.errstate(all="ignore"):
        if k <= 16 and len(a) > 4:
            _lu_of_many(a, p, q, k)
        else:
            getrf = _lapack("getrf", x.dtype)
            for i in range(len(a)):
                a[i], p[i], _ = getrf(a[i])
                for j, pivot in enumerate(p[i]):
                    q[i][[j, pivot]] = q[i][[pivot, j]]
    return out, pivots, permutation


def _lu_of_many(a: np.ndarray, pivots: np.ndarray, permutation: np.ndarray, k: int) -> None:
    """Gaussian elimination with partial pivoting on many small matrices at once, in place."""
    every = np.arange(len(a))
    for j in range(k):
        size = np.abs(a[:, j:, j].real) + np.abs(a[:, j:, j].imag)
        pivot = j + np.argmax(size, axis=1)
        pivots[:, j] = pivot
        for target in (a, permutation):
            row, other = target[:, j].copy(), target[every, pivot]
            target[every, pivot] = row
            target[:, j] = other
        diagonal = a[:, j, j]
        scale = np.where(diagonal == 0, 1, diagonal)[:, None]  # a zero pivot has only zeros below it
        a[:, j + 1 :, j] /= scale
        a[:, j + 1 :, j + 1 :] -= a[:, j + 1 :, j, None] * a[:, j, None, j + 1 :]


lu_p = Primitive("lu", _lu_type, _lu_evaluate, "linalg", multiple_results=True)


def lu(x: Any) -> Sequence[Any]:
    """The LU factors in one matrix, the pivots (row j was exchanged with row pivots[j]), and the permutation: x[perm] = L U."""
    return bind(lu_p, x)


# QR
def _qr_type(x: ArrayType, *, full_matrices: bool) -> tuple[ArrayType, ...]:
    batch, m, n = _check_matrix("qr", x)
    k = m if full_matrices else min(m, n)
    return ArrayType((*batch, m, k), x.dtype), ArrayType((*batch, k, n), x.dtype)


def _qr_evaluate(x: np.ndarray, *, full_matrices: bool) -> tuple[np.ndarray, ...]:
    *batch, m, n = x.shape
    if x.size == 0:
        k = m if full_matrices else min(m, n)
        q = np.zeros((*batch, m, k), x.dtype)
        if full_matrices:
            q[...] = np.eye(m, dtype=x.dtype)
        return q, np.zeros((*batch, k, n), x.dtype)
    with np.errstate(all="ignore"):
        q, r = np.linalg.qr(x, mode="complete" if full_matrices else "reduced")
    return np.ascontiguousarray(q), np.ascontiguousarray(r)


qr_p = Primitive("qr", _qr_type, _qr_evaluate, "linalg", multiple_results=True)


def qr(x: Any, full_matrices: bool = True) -> Sequence[Any]:
    """q with orthonormal columns and upper triangular r, x = q r."""
    return bind(qr_p, x, full_matrices=bool(full_matrices))


# Symmetric and general eigenproblems
def _eigh_type(x: ArrayType, *, lower: bool) -> tuple[ArrayType, ...]:
    batch, n, _ = _check_matrix("eigh", x, square=True)
    return x.strong(), ArrayType((*batch, n), real_dtype(x.dtype))


def _eigh_evaluate(x: np.ndarray, *, lower: bool) -> tuple[np.ndarray, ...]:
    v, w = np.zeros(x.shape, x.dtype), np.zeros(x.shape[:-1], real_dtype(x.dtype))
    if x.size:
        with np.errstate(all="ignore"):
            for a, vectors, values in zip(_matrices(x), _matrices(v), _matrices(w, 1), strict=True):
                try:
                    if np.isfinite(a).all():
                        values[...], vectors[...] = np.linalg.eigh(a, "L" if lower else "U")
                    else:
                        _nan(values, vectors)
                except np.linalg.LinAlgError:
                    _nan(values, vectors)
    return v, w


eigh_p = Primitive("eigh", _eigh_type, _eigh_evaluate, "linalg", multiple_results=True)


def eigh(x: Any, lower: bool = True) -> Sequence[Any]:
    """Eigenvectors (columns) and ascending eigenvalues of a Hermitian matrix, of which one triangle is read."""
    return bind(eigh_p, x, lower=bool(lower))


def _eig_type(x: ArrayType, *, compute_left: bool, compute_right: bool) -> tuple[ArrayType, ...]:
    batch, n, _ = _check_matrix("eig", x, square=True)
    dtype = complex_dtype(x.dtype)
    vectors = ArrayType(x.shape, dtype)
    return (ArrayType((*batch, n), dtype), *[vectors] * (compute_left + compute_right))


def _eig_evaluate(x: np.ndarray, *, compute_left: bool, compute_right: bool) -> tuple[np.ndarray, ...]:
    dtype = complex_dtype(x.dtype)
    w, vl, vr = np.zeros(x.shape[:-1], dtype), np.zeros(x.shape, dtype), np.zeros(x.shape, dtype)
    if x.size:
        geev = _lapack("geev", x.dtype)
        for a, values, left, right in zip(_matrices(x), _matrices(w, 1), _matrices(vl), _matrices(vr), strict=True):
            if not np.isfinite(a).all():
                _nan(values, left, right)
                continue
            *eigenvalues, vectors_l, vectors_r, info = geev(a, compute_vl=compute_left, compute_vr=compute_right)
            if info:
                _nan(values, left, right)
                continue
            if len(eigenvalues) == 1:
                values[...] = eigenvalues[0]
            else:
                values.real, values.imag = eigenvalues
            for wanted, target, vectors in ((compute_left, left, vectors_l), (compute_right, right, vectors_r)):
                if wanted:
                    target[...] = vectors if vectors.dtype == dtype else _pairs(values, vectors, dtype)
    return (w, *[v for v, wanted in ((vl, compute_left), (vr, compute_right)) if wanted])


def _pairs(values: np.ndarray, vectors: np.ndarray, dtype: Any) -> np.ndarray:
    """Complex eigenvectors from real LAPACK's: a conjugate pair of eigenvalues has columns (real part, imaginary part)."""
    out = vectors.astype(dtype)
    for j in np.flatnonzero(values.imag > 0):
        out[:, j] = vectors[:, j] + 1j * vectors[:, j + 1]
        out[:, j + 1] = out[:, j].conj()
    return out


eig_p = Primitive("eig", _eig_type, _eig_evaluate, "linalg", multiple_results=True)


def eig(x: Any, compute_left: bool = True, compute_right: bool = True) -> Sequence[Any]:
    """Eigenvalues, and the left and right eigenvectors that are asked for, of a general matrix; always complex."""
    return bind(eig_p, x, compute_left=bool(compute_left), compute_right=bool(compute_right))


# Singular values
def _svd_type(x: ArrayType, *, full_matrices: bool, compute_uv: bool) -> tuple[ArrayType, ...]:
    batch, m, n = _check_matrix("svd", x)
    k = min(m, n)
    s = ArrayType((*batch, k), real_dtype(x.dtype))
    if not compute_uv:
        return (s,)
    u = ArrayType((*batch, m, m if full_matrices else k), x.dtype)
    return s, u, ArrayType((*batch, n if full_matrices else k, n), x.dtype)


def _svd_evaluate(x: np.ndarray, *, full_matrices: bool, compute_uv: bool) -> tuple[np.ndarray, ...]:
    outs = [
        np.zeros(t.shape, t.dtype)
        for t in _svd_type(ArrayType(x.shape, x.dtype), full_matrices=full_matrices, compute_uv=compute_uv)
    ]
    if x.size == 0:
        for o in outs[1:]:
            o[...] = np.eye(*o.shape[-2:], dtype=o.dtype)
        return tuple(outs)
    views = [_matrices(o, 1 if i == 0 else 2) for i, o in enumerate(outs)]
    with np.errstate(all="ignore"):
        for i, a in enumerate(_matrices(x)):
            try:
                if not np.isfinite(a).all():
                    _nan(*[v[i] for v in views])
                elif compute_uv:
                    views[1][i], views[0][i], views[2][i] = np.linalg.svd(a, full_matrices)
                else:
                    views[0][i] = np.linalg.svd(a, compute_uv=False)
            except np.linalg.LinAlgError:
                _nan(*[v[i] for v in views])
    return tuple(outs)


svd_p = Primitive("svd", _svd_type, _svd_evaluate, "linalg", multiple_results=True)


def svd(x: Any, full_matrices: bool = True, compute_uv: bool = True) -> Sequence[Any]:
    """(s, u, vh) with x = u diag(s) vh and s descending; only (s,) without compute_uv."""
    return bind(svd_p, x, full_matrices=bool(full_matrices), compute_uv=bool(compute_uv))


# Triangular and tridiagonal systems
def _triangular_solve_type(
    a: ArrayType, b: ArrayType, *, left_side: bool, lower: bool, transpose_a: bool, conjugate_a: bool, unit_diagonal: bool
) -> tuple[ArrayType, ...]:
    name = "triangular_solve"
    batch, n, _ = _check_matrix(name, a, square=True)
    other, rows, columns = _check_matrix(name, b)
    if a.dtype != b.dtype:
        raise TypeError(f"{name}: the matrix {a} and the right-hand side {b} must have one dtype")
    if batch != other:
        raise ValueError(f"{name}: the matrix {a} and the right-hand side {b} must have equal batch dimensions")
    if n != (rows if left_side else columns):
        raise ValueError(f"{name}: {'op(a) x = b' if left_side else 'x op(a) = b'} does not fit for a: {a} and b: {b}")
    return (b.strong(),)


def _triangular_solve_evaluate(
    a: np.ndarray, b: np.ndarray, *, left_side: bool, lower: bool, transpose_a: bool, conjugate_a: bool, unit_diagonal: bool
) -> tuple[np.ndarray]:
    if b.size == 0:
        return (b.copy(),)
    out = np.array(b, order="C")
    matrices, sides = _matrices(a), _matrices(out)
    if conjugate_a:
        matrices = matrices.conj()
    n = a.shape[-1]
    with np.errstate(all="ignore"):
        if n <= 16 and len(matrices) > 4:
            # x op(a) = b is op(a)^T x^T = b^T
            flipped = transpose_a == left_side
            _substitute(
                matrices.swapaxes(1, 2) if flipped else matrices,
                sides if left_side else sides.swapaxes(1, 2),
                lower != flipped,
                unit_diagonal,
            )
        else:
            import scipy.linalg.blas as blas

            trsm = getattr(blas, _LAPACK[b.dtype] + "trsm")
            one = b.dtype.type(1)
            for m, side in zip(matrices, sides, strict=True):
                side[...] = trsm(one, m, side, side=not left_side, lower=lower, trans_a=int(transpose_a), diag=unit_diagonal)
    return (out,)


def _substitute(a: np.ndarray, x: np.ndarray, lower: bool, unit_diagonal: bool) -> None:
    """Solve a x = b for many small systems at once; x holds b and becomes the solution."""
    n = a.shape[-1]
    for j in range(n) if lower else reversed(range(n)):
        if not unit_diagonal:
            x[:, j] /= a[:, j, j, None]
        rest = slice(j + 1, n) if lower else slice(0, j)
        x[:, rest] -= a[:, rest, j, None] * x[:, j, None, :]


triangular_solve_p = Primitive("triangular_solve", _triangular_solve_type, _triangular_solve_evaluate, "linalg")


def triangular_solve(
    a: Any,
    b: Any,
    left_side: bool = False,
    lower: bool = False,
    transpose_a: bool = False,
    conjugate_a: bool = False,
    unit_diagonal: bool = False,
) -> Any:
    """x with op(a) x = b (`left_side`) or x op(a) = b, where op transposes and conjugates as asked; a triangle of a is read."""
    return bind1(
        triangular_solve_p,
        a,
        b,
        left_side=bool(left_side),
        lower=bool(lower),
        transpose_a=bool(transpose_a),
        conjugate_a=bool(conjugate_a),
        unit_diagonal=bool(unit_diagonal),
    )


def _schur_type(x: ArrayType) -> tuple[ArrayType, ...]:
    _check_matrix("schur", x, square=True)
    return x.strong(), x.strong()


def _schur_evaluate(x: np.ndarray) -> tuple[np.ndarray, ...]:
    t, z = np.zeros(x.shape, x.dtype), np.zeros(x.shape, x.dtype)
    if x.size:
        gees = _lapack("gees", x.dtype)
        for a, triangular, vectors in zip(_matrices(x), _matrices(t), _matrices(z), strict=True):
            result = gees(lambda *_: False, a) if np.isfinite(a).all() else None
            if result is None or result[-1] != 0:
                _nan(triangular, vectors)
            else:
                triangular[...], vectors[...] = result[0], result[-3]
    return t, z


schur_p = Primitive("schur", _schur_type, _schur_evaluate, "linalg", multiple_results=True)


def schur(x: Any) -> Sequence[Any]:
    """The (for real matrices: real) Schur form t and the unitary z with x = z t z^H."""
    return bind(schur_p, x)


def _tridiagonal_solve_type(dl: ArrayType, d: ArrayType, du: ArrayType, b: ArrayType) -> tuple[ArrayType, ...]:
    name = "tridiagonal_solve"
    batch, n, _ = _check_matrix(name, b)
    for t in (dl, d, du):
        if t.dtype != b.dtype or t.shape != (*batch, n):
            raise ValueError(f"{name}: the diagonals {dl}, {d}, {du} must be like a column of the right-hand side {b}")
    return (b.strong(),)


def _tridiagonal_solve_evaluate(dl: np.ndarray, d: np.ndarray, du: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
    out = np.array(b, order="C")
    if out.size:
        gtsv = _lapack("gtsv", b.dtype)
        with np.errstate(all="ignore"):
            for lower, middle, upper, x in zip(_matrices(dl, 1), _matrices(d, 1), _matrices(du, 1), _matrices(out), strict=True):
                if len(middle) == 1:
                    x /= middle[0]
                    continue
                *_, solution, info = gtsv(lower[1:], middle, upper[:-1], x)
                x[...] = np.nan if info else solution
    return (out,)


tridiagonal_solve_p = Primitive("tridiagonal_solve", _tridiagonal_solve_type, _tridiagonal_solve_evaluate, "linalg")


def tridiagonal_solve(dl: Any, d: Any, du: Any, b: Any) -> Any:
    """Solve with the tridiagonal matrix of lower (dl[0] unused), main and upper (du[-1] unused) diagonals."""
    return bind1(tridiagonal_solve_p, dl, d, du, b)


def _householder_product_type(a: ArrayType, taus: ArrayType) -> tuple[ArrayType, ...]:
    name = "householder_product"
    batch, m, n = _check_matrix(name, a)
    if taus.dtype != a.dtype or taus.ndim != a.ndim - 1 or taus.shape[:-1] != batch:
        raise TypeError(f"{name}: the factors {taus} do not belong to the reflectors {a}")
    if m < n or taus.shape[-1] > n:
        raise ValueError(f"{name} takes at least as many rows as columns, and as columns as factors, got {a} and {taus}")
    return (a.strong(),)


def _householder_product_evaluate(a: np.ndarray, taus: np.ndarray) -> tuple[np.ndarray]:
    out = np.array(a, order="C")
    if out.size:
        k = taus.shape[-1]
        if k == 0:
            out[...] = np.eye(*a.shape[-2:], dtype=a.dtype)
        else:
            orgqr = _lapack("ungqr" if a.dtype.kind == "c" else "orgqr", a.dtype)
            for q, tau in zip(_matrices(out), _matrices(taus, 1), strict=True):
                q[...] = orgqr(q, tau)[0]
    return (out,)


householder_product_p = Primitive("householder_product", _householder_product_type, _householder_product_evaluate, "linalg")


def householder_product(a: Any, taus: Any) -> Any:
    """The first columns of the product of the elementary reflectors that `a` and `taus` hold, as LAPACK's geqrf leaves them."""
    return bind1(householder_product_p, a, taus)
