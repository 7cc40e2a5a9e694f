"""`tracegrad.numpy.linalg`: linear algebra over the last two axes.

Failures do not raise: a matrix that is not positive definite has a Cholesky factor of NaN, a singular system solutions of inf or NaN.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.contractions import cross as _cross
from tracegrad.numpy.contractions import dot, tensordot
from tracegrad.numpy.contractions import matmul as _matmul
from tracegrad.numpy.contractions import outer as _outer
from tracegrad.numpy.contractions import trace as _trace
from tracegrad.numpy.contractions import vecdot as _vecdot
from tracegrad.numpy.creation import eye, full, zeros
from tracegrad.numpy.determinants import determinant, log_determinant, solve_columns
from tracegrad.numpy.diagonals import diagonal as _diagonal
from tracegrad.numpy.promotion import (
    as_array,
    axis_index,
    axis_indices,
    broadcast_to_shape,
    promote_inexact,
    real_dtype,
    shape_of,
    static_int,
    to_dtype,
)
from tracegrad.numpy.reductions import all as _all
from tracegrad.numpy.reductions import keep_axes
from tracegrad.numpy.reductions import max as _max
from tracegrad.numpy.reductions import min as _min
from tracegrad.numpy.reductions import sum as _sum
from tracegrad.numpy.selection import where
from tracegrad.numpy.shape import matrix_transpose, moveaxis, reshape_to

EighResult = namedtuple("EighResult", ["eigenvalues", "eigenvectors"])
EigResult = namedtuple("EigResult", ["eigenvalues", "eigenvectors"])
QRResult = namedtuple("QRResult", ["Q", "R"])
SlogdetResult = namedtuple("SlogdetResult", ["sign", "logabsdet"])
SVDResult = namedtuple("SVDResult", ["U", "S", "Vh"])


def _matrix(name: str, a: Any, square: bool = True) -> Any:
    """An argument as a floating-point (or complex) array of matrices, in single precision at least."""
    (a,) = promote_inexact(name, as_array(name, a, "a"))
    shape = shape_of(a)
    if len(shape) < 2:
        raise ValueError(f"{name}: the argument must have at least two dimensions, got shape {shape}")
    if square and shape[-1] != shape[-2]:
        raise ValueError(f"{name}: the last two dimensions of the argument must be equal, got shape {shape}")
    if type_of(a).dtype.itemsize == 2:
        raise TypeError(f"{name}: unsupported dtype {type_of(a).dtype}; convert the argument to float32")
    return a


def hermitian_transpose(a: Any) -> Any:
    """The conjugate transpose of the last two axes."""
    a = matrix_transpose(a)
    return ops.conj(a) if is_complex(type_of(a).dtype) else a


def symmetrized(a: Any) -> Any:
    """The mean of a matrix and its conjugate transpose."""
    return e.divide(e.add(a, hermitian_transpose(a)), 2)


def cholesky(a: Any, *, upper: bool = False, symmetrize_input: bool = True) -> Any:
    """The lower (or upper) triangular L with a = L L^H; NaN if a is not positive definite."""
    a = _matrix("jnp.linalg.cholesky", a)
    factor = ops.cholesky(symmetrized(a) if symmetrize_input else a)
    return hermitian_transpose(factor) if upper else factor


def solve(a: Any, b: Any) -> Any:
    """The solution x of a x = b. A one-dimensional b is a vector, any other holds columns."""
    a, b = promote_inexact("jnp.linalg.solve", as_array("solve", a, "a"), as_array("solve", b, "b"))
    a = _matrix("jnp.linalg.solve", a)
    sa, sb = shape_of(a), shape_of(b)
    if not sb:
        raise ValueError(f"jnp.linalg.solve: b must have at least one dimension, got shape {sb}")
    if len(sb) == 1:
        if sb[0] != sa[-1]:
            raise ValueError(f"jnp.linalg.solve: shapes {sa} and {sb} do not match")
        x = solve_columns(a, reshape_to(b, (*sb, 1)))
        return reshape_to(x, shape_of(x)[:-1])
    if sb[-2] != sa[-1]:
        raise ValueError(f"jnp.linalg.solve: shapes {sa} and {sb} do not match")
    return solve_columns(a, b)


def inv(a: Any) -> Any:
    """The inverse."""
    a = _matrix("jnp.linalg.inv", a)
    n = shape_of(a)[-1]
    return solve(a, broadcast_to_shape(eye(n, dtype=type_of(a).dtype), shape_of(a)))


def slogdet(a: Any, *, method: str | None = None) -> SlogdetResult:
    """The sign and the logarithm of the absolute value of the determinant."""
    if method not in (None, "lu", "qr"):
        raise ValueError(f"Unknown slogdet method '{method}'. Supported methods are 'lu' (`None`), and 'qr'.")
    a = _matrix("jnp.linalg.slogdet", a)
    if shape_of(a)[-1] == 0:
        shape, dtype = shape_of(a)[:-2], type_of(a).dtype
        return SlogdetResult(full(shape, 1, dtype), zeros(shape, real_dtype(dtype)))
    return SlogdetResult(*log_determinant(a))


def det(a: Any) -> Any:
    """The determinant."""
    a = _matrix("jnp.linalg.det", a)
    shape = shape_of(a)
    if shape[-1] == 0:
        return full(shape[:-2], 1, type_of(a).dtype)
    return determinant(a)


def eigh(a: Any, UPLO: str | None = None, symmetrize_input: bool = True) -> EighResult:
    """The eigenvalues, ascending, and eigenvectors of a symmetric (Hermitian) matrix."""
    lower = _uplo("jnp.linalg.eigh", "L" if UPLO is None else UPLO)
    a = _matrix("jnp.linalg.eigh", a)
    vectors, values = ops.eigh(symmetrized(a) if symmetrize_input else a, lower=lower)
    return EighResult(values, vectors)


def _uplo(name: str, UPLO: str) -> bool:
    if UPLO not in ("L", "U"):
        raise ValueError(f"{name}: UPLO must be one of None, 'L', or 'U', got {UPLO!r}")
    return UPLO == "L"


def eigvalsh(a: Any, UPLO: str | None = "L", *, symmetrize_input: bool = True) -> Any:
    """The eigenvalues of a symmetric (Hermitian) matrix, ascending."""
    return eigh(a, UPLO, symmetrize_input).eigenvalues


def eig(a: Any) -> EigResult:
    """The eigenvalues and eigenvectors of a square matrix, as complex numbers."""
    values, vectors = ops.eig(_matrix("jnp.linalg.eig", a), compute_left=False, compute_right=True)
    return EigResult(values, vectors)


def eigvals(a: Any) -> Any:
    """The eigenvalues of a square matrix, as complex numbers."""
    return ops.eig(_matrix("jnp.linalg.eigvals", a), compute_left=False, compute_right=False)[0]


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False, subset_by_index: Any = None) -> Any:
    """The singular value decomposition a = U diag(S) Vh; the singular values alone if not `compute_uv`."""
    if subset_by_index is not None:
        raise NotImplementedError("jnp.linalg.svd: subset_by_index is not supported; slice the results instead")
    a = _matrix("jnp.linalg.svd", a, square=False)
    if hermitian:
        values, vectors = eigh(a)
        size = e.absolute(values)
        order = e.negative(size).argsort(axis=-1)
        from tracegrad.numpy.selection import take_along_axis

        s = take_along_axis(size, order, axis=-1)
        if not compute_uv:
            return s
        u = take_along_axis(vectors, order[..., None, :], axis=-1)
        signs = take_along_axis(where(e.less(values, 0), values.dtype.type(-1), values.dtype.type(1)), order, axis=-1)
        return SVDResult(u, s, hermitian_transpose(e.multiply(u, signs[..., None, :].astype(u.dtype))))
    if not compute_uv:
        return ops.svd(a, full_matrices=False, compute_uv=False)[0]
    s, u, vh = ops.svd(a, full_matrices=bool(full_matrices), compute_uv=True)
    return SVDResult(u, s, vh)


def svdvals(x: Any, /) -> Any:
    """The singular values, descending."""
    return svd(x, compute_uv=False)


def qr(a: Any, mode: str = "reduced") -> Any:
    """The factors Q (orthonormal columns) and R (upper triangular) of matrices (..., m, n).

    mode: "reduced" (Q of shape (..., m, min(m, n))), "complete" ((..., m, m)), "r" (R alone), or "raw": R and below it the reflectors, transposed as
    NumPy has them, and their factors, for `lax.linalg.ormqr`. Raises ValueError for another mode.
    """
    a = _matrix("jnp.linalg.qr", a, square=False)
    if mode == "raw":
        from tracegrad.lax.reflectors import geqrf

        reflectors, taus = geqrf(a)
        return matrix_transpose(reflectors), taus
    if mode in ("reduced", "r", "full"):
        complete = False
    elif mode == "complete":
        complete = True
    else:
        raise ValueError(f"Unsupported QR decomposition mode '{mode}'")
    q, r = ops.qr(a, full_matrices=complete)
    return r if mode == "r" else QRResult(q, r)


def lstsq(a: Any, b: Any, rcond: Any = None, *, numpy_resid: bool = False) -> tuple[Any, Any, Any, Any]:
    """The least-squares solution of a x = b: (x, residuals, rank, singular values)."""
    a, b = promote_inexact("jnp.linalg.lstsq", as_array("lstsq", a), as_array("lstsq", b))
    if len(shape_of(a)) != 2 or len(shape_of(b)) not in (1, 2):
        raise ValueError(
            f"jnp.linalg.lstsq: a must be a matrix and b a vector or matrix, got shapes {shape_of(a)} and {shape_of(b)}"
        )
    if shape_of(a)[0] != shape_of(b)[0]:
        raise ValueError(f"Leading dimensions of input arrays must match, got {shape_of(a)} and {shape_of(b)}")
    m, n = shape_of(a)
    vector = len(shape_of(b)) == 1
    b = reshape_to(b, (*shape_of(b), 1)) if vector else b
    dtype = type_of(a).dtype
    if a.size == 0:
        s = zeros((0,), real_dtype(dtype))
        rank, x = zeros((), np.int32), zeros((n, *shape_of(b)[1:]), dtype)
    else:
        if rcond is None:
            rcond = float(np.finfo(real_dtype(dtype)).eps) * max(n, m)
        u, s, vh = svd(a, full_matrices=False)
        large = e.greater_equal(s, e.multiply(rcond, s[0]))
        rank = _sum(large)
        inverse = where(large, e.divide(1, where(large, s, s.dtype.type(1))), s.dtype.type(0))
        x = _matmul(hermitian_transpose(vh), e.multiply(inverse[:, None], _matmul(hermitian_transpose(u), b)))
    if numpy_resid and m <= n:
        residuals = zeros((0,), real_dtype(dtype))
    else:
        residuals = _sum(e.square(e.absolute(e.subtract(b, _matmul(a, x)))), axis=0)
    if vector:
        x = reshape_to(x, shape_of(x)[:-1])
    return x, residuals, rank, s


def pinv(a: Any, rtol: Any = None, hermitian: bool = False, *, rcond: Any = None) -> Any:
    """The pseudoinverse; singular values up to `rtol` times the largest count as zero."""
    a = _matrix("jnp.linalg.pinv", a, square=hermitian)
    rtol = rcond if rtol is None else rtol
    shape, dtype = shape_of(a), type_of(a).dtype
    if a.size == 0:
        return zeros((*shape[:-2], shape[-1], shape[-2]), dtype)
    if rtol is None:
        rtol = 10.0 * max(shape[-2:]) * float(np.finfo(real_dtype(dtype)).eps)
    u, s, vh = svd(a, full_matrices=False, hermitian=hermitian)
    cutoff = e.multiply(as_array("pinv", rtol)[..., None], s[..., :1])
    large = e.greater(s, to_dtype(cutoff, s.dtype))
    inverse = where(large, e.divide(1, where(large, s, s.dtype.type(1))), s.dtype.type(0))
    return _matmul(hermitian_transpose(vh), e.multiply(inverse[..., None].astype(dtype), hermitian_transpose(u)))


def matrix_power(a: Any, n: int) -> Any:
    """The matrix to an integer power."""
    (a,) = promote_inexact("jnp.linalg.matrix_power", as_array("matrix_power", a))
    shape = shape_of(a)
    n = static_int("jnp.linalg.matrix_power", n, "n")
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise TypeError(f"jnp.linalg.matrix_power: last 2 dimensions must be square, got shape {shape}")
    if n == 0:
        return broadcast_to_shape(eye(shape[-1], dtype=type_of(a).dtype), shape)
    if n < 0:
        a, n = inv(a), -n
    out = None
    while n:
        if n & 1:
            out = a if out is None else _matmul(out, a)
        n >>= 1
        if n:
            a = _matmul(a, a)
    return out


def matrix_rank(M: Any, rtol: Any = None, *, hermitian: bool = False, tol: Any = None) -> Any:
    """The number of singular values above `rtol` times the largest."""
    (M,) = promote_inexact("jnp.linalg.matrix_rank", as_array("matrix_rank", M))
    rtol = tol if rtol is None else rtol
    shape = shape_of(M)
    if len(shape) < 2:
        return to_dtype(e.logical_not(_all(e.equal(M, 0))), dtypes.int_dtype())
    s = svd(M, compute_uv=False, hermitian=hermitian)
    if rtol is None:
        rtol = max(shape[-2:]) * float(np.finfo(real_dtype(type_of(M).dtype)).eps)
    cutoff = e.multiply(_max(s, axis=-1, keepdims=True), as_array("matrix_rank", rtol)[..., None])
    return _sum(e.greater(s, cutoff), axis=-1)


def cond(x: Any, p: Any = None) -> Any:
    """The condition number in the norm p."""
    x = _matrix("jnp.linalg.cond", x, square=p not in (None, 2, -2))
    if x.size == 0:
        raise ValueError(f"jnp.linalg.cond: input array must not be empty, got shape {shape_of(x)}")
    if p in (None, 2, -2):
        s = svd(x, compute_uv=False)
        return e.divide(s[..., -1], s[..., 0]) if p == -2 else e.divide(s[..., 0], s[..., -1])
    r = e.multiply(norm(x, p, (-2, -1)), norm(inv(x), p, (-2, -1)))
    # a matrix with NaN keeps it; a singular one without has an infinite condition number
    known = e.isnan(r) & _all(e.logical_not(e.isnan(x)), axis=(-2, -1))
    return where(known, r.dtype.type(np.inf), r)


def multi_dot(arrays: Any, *, precision: Any = None) -> Any:
    """The product of several matrices in the cheapest order."""
    values = [as_array("jnp.linalg.multi_dot", a) for a in arrays]
    if len(values) < 2:
        raise ValueError(f"multi_dot requires at least two arrays; got len(arrays)={len(values)}")
    shapes = [shape_of(v) for v in values]
    first = (1, *shapes[0]) if len(shapes[0]) == 1 else shapes[0]
    last = (*shapes[-1], 1) if len(shapes[-1]) == 1 else shapes[-1]
    sizes = [first, *shapes[1:-1], last]
    if any(len(s) != 2 for s in sizes) or any(a[1] != b[0] for a, b in zip(sizes, sizes[1:])):
        raise ValueError(f"multi_dot: the shapes {shapes} do not fit together")
    d = [s[0] for s in sizes] + [sizes[-1][1]]
    n = len(values)
    cost: dict[tuple[int, int], tuple[int, int]] = {(i, i): (0, i) for i in range(n)}
    for length in range(2, n + 1):
        for i in range(n - length + 1):
            j = i + length - 1
            cost[i, j] = min((cost[i, k][0] + cost[k + 1, j][0] + d[i] * d[k + 1] * d[j + 1], k) for k in range(i, j))

    def product(i: int, j: int) -> Any:
        if i == j:
            return values[i]
        k = cost[i, j][1]
        return dot(product(i, k), product(k + 1, j))

    return product(0, n - 1)


# Norms


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """The norm of vectors or matrices along axes; of all elements, if no axis and no order is given."""
    (x,) = promote_inexact("jnp.linalg.norm", as_array("jnp.linalg.norm", x))
    shape = shape_of(x)
    rank = len(shape)
    if axis is None:
        if ord is None or rank == 1:
            if ord is None:
                return keep_axes(_two_norm(x, tuple(range(rank))), shape, tuple(range(rank)), keepdims)
            axes: tuple[int, ...] = (0,)
        elif rank == 2:
            axes = (0, 1)
        else:
            raise ValueError(f"Improper number of dimensions to norm: ord={ord!r} for an array of shape {shape}")
    else:
        axes = axis_indices("jnp.linalg.norm", tuple(axis) if isinstance(axis, list) else axis, rank)
    if len(axes) == 1:
        return _vector_norm(x, ord, axes, keepdims)
    if len(axes) == 2:
        return _matrix_norm(x, ord, axes, keepdims)
    raise ValueError(f"Improper number of axes for norm: axis={axis}; there may be one or two")


def _two_norm(x: Any, axes: tuple[int, ...]) -> Any:
    squares = e.real(e.multiply(x, e.conjugate(x))) if is_complex(type_of(x).dtype) else e.square(x)
    return e.sqrt(_sum(squares, axis=axes))


def _vector_norm(x: Any, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    shape = shape_of(x)
    if ord is None or ord == 2:
        return keep_axes(_two_norm(x, axes), shape, axes, keepdims)
    if isinstance(ord, str):
        raise ValueError(f"Invalid order '{ord}' for vector norm.")
    if ord == np.inf:
        return _max(e.absolute(x), axis=axes, keepdims=keepdims, initial=0)
    if ord == -np.inf:
        return _min(e.absolute(x), axis=axes, keepdims=keepdims)
    if ord == 0:
        return _sum(e.not_equal(x, 0), axis=axes, dtype=real_dtype(type_of(x).dtype), keepdims=keepdims)
    if ord == 1:
        return _sum(e.absolute(x), axis=axes, keepdims=keepdims)
    size = e.absolute(x)
    dtype = type_of(size).dtype
    power = to_dtype(as_array("jnp.linalg.norm", ord), dtype)
    return e.power(_sum(e.power(size, power), axis=axes, keepdims=keepdims), e.divide(dtype.type(1), power))


def _matrix_norm(x: Any, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    row, column = axes
    shape = shape_of(x)
    if ord is None or ord in ("fro", "f"):
        return keep_axes(_two_norm(x, tuple(sorted(axes))), shape, axes, keepdims)
    if ord in (1, -1, np.inf, -np.inf):
        inner, outer_ = (row, column) if ord in (1, -1) else (column, row)
        sums = _sum(e.absolute(x), axis=inner, keepdims=True)
        best = (_max if ord in (1, np.inf) else _min)(sums, axis=outer_, keepdims=True)
        return best if keepdims else reshape_to(best, tuple([n for i, n in enumerate(shape) if i not in axes]))
    if ord in (2, -2, "nuc"):
        s = svd(moveaxis(x, axes, (-2, -1)), compute_uv=False)
        out = s[..., 0] if ord == 2 else s[..., -1] if ord == -2 else _sum(s, axis=-1)
        return keep_axes(out, shape, axes, keepdims)
    raise ValueError(f"Invalid order '{ord}' for matrix norm.")


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """The norm of vectors along axes, of all elements by default."""
    (x,) = promote_inexact("jnp.linalg.vector_norm", as_array("jnp.linalg.vector_norm", x))
    axes = axis_indices("jnp.linalg.vector_norm", axis, len(shape_of(x)))
    return _vector_norm(x, ord, axes, keepdims)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    """The norm of matrices in the last two axes."""
    return norm(x, ord, (-2, -1), keepdims)


# What NumPy's linalg offers under the names of the array API standard


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """The vector product of vectors with three entries."""
    x1, x2 = as_array("jnp.linalg.cross", x1), as_array("jnp.linalg.cross", x2)
    if shape_of(x1)[axis] != 3 or shape_of(x2)[axis] != 3:
        raise ValueError(
            f"Both input arrays must be (arrays of) 3-dimensional vectors, got shapes {shape_of(x1)} and {shape_of(x2)}"
        )
    return _cross(x1, x2, axis=axis)


def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """The diagonals of the last two axes."""
    return _diagonal(x, offset, -2, -1)


def matmul(x1: Any, x2: Any, /, *, precision: Any = None, preferred_element_type: Any = None) -> Any:
    """The matrix product."""
    return _matmul(x1, x2, precision=precision, preferred_element_type=preferred_element_type)


def outer(x1: Any, x2: Any, /) -> Any:
    """The outer product of two vectors."""
    x1, x2 = as_array("jnp.linalg.outer", x1), as_array("jnp.linalg.outer", x2)
    if len(shape_of(x1)) != 1 or len(shape_of(x2)) != 1:
        raise ValueError(f"Input arrays must be one-dimensional, but they are {shape_of(x1)} and {shape_of(x2)}.")
    return _outer(x1, x2)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """The sums of the diagonals of the last two axes."""
    return _trace(x, offset, -2, -1, dtype)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1, precision: Any = None, preferred_element_type: Any = None) -> Any:
    """The products of vectors along an axis, the first conjugated."""
    return _vecdot(x1, x2, axis=axis, preferred_element_type=preferred_element_type)


def tensorinv(a: Any, ind: int = 2) -> Any:
    """The inverse for tensordot."""
    a = as_array("jnp.linalg.tensorinv", a)
    ind = static_int("jnp.linalg.tensorinv", ind, "ind")
    if ind <= 0:
        raise ValueError(f"ind must be a positive integer; got ind={ind}")
    shape = shape_of(a)
    rows, columns = shape[:ind], shape[ind:]
    if math.prod(rows) != math.prod(columns):
        raise ValueError(f"tensorinv: the dimensions {rows} and {columns} must have equal products")
    return reshape_to(inv(reshape_to(a, (math.prod(rows), math.prod(columns)))), columns + rows)


def tensorsolve(a: Any, b: Any, axes: Any = None) -> Any:
    """The solution x of tensordot(a, x, x.ndim) = b."""
    a, b = as_array("jnp.linalg.tensorsolve", a), as_array("jnp.linalg.tensorsolve", b)
    if axes is not None:
        moved = [axis_index("jnp.linalg.tensorsolve", i, len(shape_of(a)), "axes") for i in axes]
        a = moveaxis(a, moved, tuple(range(len(shape_of(a)) - len(moved), len(shape_of(a)))))
    out_shape = shape_of(a)[len(shape_of(b)) :]
    n = math.prod(shape_of(b))
    if math.prod(out_shape) != n:
        raise ValueError("After moving axes to end, leading shape of a must match shape of b.")
    x = solve(reshape_to(a, (n, n)), reshape_to(b, (n,)))
    return reshape_to(x, out_shape)


__all__ = [
    "cholesky", "cond", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh", "inv", "lstsq", "matmul", "matrix_norm",
    "matrix_power", "matrix_rank", "matrix_transpose", "multi_dot", "norm", "outer", "pinv", "qr", "slogdet", "solve", "svd",
    "svdvals", "tensordot", "tensorinv", "tensorsolve", "trace", "vecdot", "vector_norm",
]  # fmt: skip
