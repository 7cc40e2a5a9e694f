"""Linear algebra, under the names of `jax.scipy.linalg`. Arguments such as `overwrite_a` and `check_finite` are accepted and ignored."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.lax import linalg as lax_linalg
from tracegrad.lax.operands import value
from tracegrad.lax.reflectors import geqrf
from tracegrad.lax.structural import broadcast_shapes
from tracegrad.numpy.determinants import permute_rows
from tracegrad.numpy.promotion import broadcast_to_shape, promote_inexact
from tracegrad.scipy.structured_matrices import block_diag as block_diag
from tracegrad.scipy.structured_matrices import circulant as circulant
from tracegrad.scipy.structured_matrices import companion as companion
from tracegrad.scipy.structured_matrices import convolution_matrix as convolution_matrix
from tracegrad.scipy.structured_matrices import dft as dft
from tracegrad.scipy.structured_matrices import fiedler as fiedler
from tracegrad.scipy.structured_matrices import fiedler_companion as fiedler_companion
from tracegrad.scipy.structured_matrices import hadamard as hadamard
from tracegrad.scipy.structured_matrices import hankel as hankel
from tracegrad.scipy.structured_matrices import helmert as helmert
from tracegrad.scipy.structured_matrices import hilbert as hilbert
from tracegrad.scipy.structured_matrices import invhilbert as invhilbert
from tracegrad.scipy.structured_matrices import invpascal as invpascal
from tracegrad.scipy.structured_matrices import leslie as leslie
from tracegrad.scipy.structured_matrices import pascal as pascal
from tracegrad.scipy.structured_matrices import toeplitz as toeplitz
from tracegrad.tracer.control_flow import cond, fori_loop


def _matrix(name: str, a: Any) -> Any:
    (a,) = promote_inexact(name, a)
    t = type_of(a)
    if t.ndim < 2:
        raise ValueError(f"{name}: the argument must have at least two dimensions, got shape {t.shape}")
    return lax_linalg.matrix(name, a)


def _square(name: str, a: Any) -> Any:
    a = _matrix(name, a)
    if type_of(a).shape[-1] != type_of(a).shape[-2]:
        raise ValueError(f"{name}: the last two dimensions of the argument must be equal, got shape {type_of(a).shape}")
    return a


def _columns(name: str, a: Any, b: Any, solve: Callable[[Any, Any], Any]) -> Any:
    """Apply a solver of (..., n, n) and (..., n, k) to right-hand sides that may be vectors and batches that broadcast."""
    (a, b) = promote_inexact(name, a, b)
    a, b = _square(name, a), lax_linalg.matrix(name, b, 1)
    sa, sb = type_of(a).shape, type_of(b).shape
    vector = len(sb) == 1 or (len(sa) == len(sb) + 1 and sb[-1] == sa[-1])
    if vector:
        b = ops.reshape(b, (*sb, 1))
        sb = type_of(b).shape
    if not sb or sb[-2] != sa[-1]:
        raise ValueError(f"{name}: shapes {sa} and {sb} of the matrix and the right-hand side do not fit")
    batch = broadcast_shapes(sa[:-2], sb[:-2])
    out = solve(broadcast_to_shape(a, batch + sa[-2:]), broadcast_to_shape(b, batch + sb[-2:]))
    return ops.reshape(out, type_of(out).shape[:-1]) if vector else out


def cholesky(a: Any, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True) -> Any:
    """The triangular Cholesky factor of a positive definite matrix, of which one triangle is read; NaN if it is not one."""
    a = _square("cholesky", a)
    if lower:
        return ops.cholesky(a)
    return lax_linalg.adjoint(ops.cholesky(lax_linalg.adjoint(a)))


def cho_factor(a: Any, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True) -> tuple[Any, bool]:
    """(the Cholesky factor, lower), for cho_solve."""
    return cholesky(a, lower), lower


def cho_solve(c_and_lower: tuple[Any, bool], b: Any, overwrite_b: bool = False, check_finite: bool = True) -> Any:
    """x with A x = b, from A's Cholesky factor."""
    c, lower = c_and_lower

    def solve(c: Any, b: Any) -> Any:
        conjugate = is_complex(type_of(c).dtype)
        flip = not lower
        y = ops.triangular_solve(c, b, True, lower, flip, flip and conjugate, False)
        return ops.triangular_solve(c, y, True, lower, lower, lower and conjugate, False)

    return _columns("cho_solve", c, b, solve)


def solve_triangular(
    a: Any,
    b: Any,
    trans: int | str = 0,
    lower: bool = False,
    unit_diagonal: bool = False,
    overwrite_b: bool = False,
    debug: Any = None,
    check_finite: bool = True,
) -> Any:
    """x with op(a) x = b for a triangular a; trans: 0 or "N", 1 or "T" (transpose), 2 or "C" (conjugate transpose)."""
    kinds = {0: (False, False), "N": (False, False), 1: (True, False), "T": (True, False), 2: (True, True), "C": (True, True)}
    if trans not in kinds:
        raise ValueError(f"Invalid 'trans' value {trans}")
    transpose, conjugate = kinds[trans]

    def solve(a: Any, b: Any) -> Any:
        return ops.triangular_solve(a, b, True, lower, transpose, conjugate and is_complex(type_of(a).dtype), unit_diagonal)

    return _columns("solve_triangular", a, b, solve)


def solve(
    a: Any,
    b: Any,
    lower: bool = False,
    overwrite_a: bool = False,
    overwrite_b: bool = False,
    debug: bool = False,
    check_finite: bool = True,
    assume_a: str = "gen",
) -> Any:
    """x with a x = b; assume_a: "gen", "pos" (positive definite: by Cholesky), "sym", "her"."""
    if assume_a not in ("gen", "sym", "her", "pos"):
        raise ValueError(f"Expected assume_a to be one of ['gen', 'sym', 'her', 'pos']; got {assume_a!r}")
    if assume_a == "pos":
        return cho_solve(cho_factor(a, lower), b)
    return _columns("solve", a, b, jnp.linalg.solve)


def inv(a: Any, overwrite_a: bool = False, check_finite: bool = True) -> Any:
    """The inverse."""
    return jnp.linalg.inv(a)


def det(a: Any, overwrite_a: bool = False, check_finite: bool = True) -> Any:
    """The determinant."""
    return jnp.linalg.det(a)


def lu_factor(a: Any, overwrite_a: bool = False, check_finite: bool = True) -> tuple[Any, Any]:
    """(L and U in one matrix, pivots), for lu_solve."""
    factors, pivots, _ = ops.lu(_matrix("lu_factor", a))
    return factors, pivots


def lu_solve(lu_and_piv: tuple[Any, Any], b: Any, trans: int = 0, overwrite_b: bool = False, check_finite: bool = True) -> Any:
    """x with A x = b (trans=0), A^T x = b (1) or A^H x = b (2), from A's LU factors."""
    factors, pivots = lu_and_piv
    if trans not in (0, 1, 2):
        raise ValueError(f"'trans' value must be 0, 1, or 2; got {trans}")
    pivots = value("lu_solve", pivots)

    def solve(a: Any, b: Any) -> Any:
        n = type_of(a).shape[-1]
        permutation = lax_linalg.lu_pivots_to_permutation(broadcast_to_shape(pivots, type_of(a).shape[:-2] + (n,)), n)
        if trans == 0:
            y = ops.triangular_solve(a, permute_rows(b, permutation), True, True, False, False, True)
            return ops.triangular_solve(a, y, True, False, False, False, False)
        conjugate = trans == 2 and is_complex(type_of(a).dtype)
        y = ops.triangular_solve(a, b, True, False, True, conjugate, False)
        y = ops.triangular_solve(a, y, True, True, True, conjugate, True)
        return permute_rows(y, jnp.argsort(permutation, axis=-1))

    return _columns("lu_solve", factors, b, solve)


def lu(a: Any, permute_l: bool = False, overwrite_a: bool = False, check_finite: bool = True) -> Any:
    """(P, L, U) with a = P L U, or (P L, U) with `permute_l`."""
    a = _matrix("lu", a)
    *batch, m, n = type_of(a).shape
    k = min(m, n)
    factors, _, permutation = ops.lu(a)
    dtype = type_of(a).dtype
    lower = lax_linalg.triangle(factors[..., :, :k], True, -1) + jnp.eye(m, k, dtype=dtype)
    upper = lax_linalg.triangle(factors[..., :k, :], False)
    p = jnp.swapaxes((permutation[..., None] == jnp.arange(m)).astype(dtype), -1, -2)
    return (jnp.matmul(p, lower), upper) if permute_l else (p, lower, upper)


def qr(
    a: Any,
    overwrite_a: bool = False,
    lwork: Any = None,
    mode: str = "full",
    pivoting: bool = False,
    check_finite: bool = True,
) -> Any:
    """(Q, R); mode: "full", "economic", or "r" for (R,) alone."""
    if pivoting:
        raise NotImplementedError(
            "qr with pivoting is not supported; leave pivoting=False, or call SciPy's qr through pure_callback"
        )
    if mode not in ("full", "r", "economic"):
        raise ValueError(f"Unsupported QR decomposition mode '{mode}'")
    q, r = ops.qr(_matrix("qr", a), mode != "economic")
    return (r,) if mode == "r" else (q, r)


def qr_multiply(
    a: Any,
    c: Any,
    mode: str = "right",
    pivoting: bool = False,
    conjugate: bool = False,
    overwrite_a: bool = False,
    overwrite_c: bool = False,
) -> tuple[Any, Any]:
    """c times the Q of a = Q R, and R, without making Q. mode: "right" gives c Q, "left" Q c, of the economic Q.

    a: (..., m, n); R: (..., k, n) with k = min(m, n). c: (..., p, m) from the right; (..., k, p) from the left, of which the product has m rows;
    or a vector (m,) or (k,). conjugate: Q's conjugate in place of Q. Raises NotImplementedError for pivoting, ValueError if shapes do not fit.
    """
    if pivoting:
        raise NotImplementedError(
            "qr_multiply with pivoting is not supported; leave pivoting=False, or call SciPy's qr_multiply through pure_callback"
        )
    if mode not in ("left", "right"):
        raise ValueError(f"qr_multiply: mode is 'left' or 'right', got {mode!r}")
    (a, c) = promote_inexact("qr_multiply", a, c)
    a, c = _matrix("qr_multiply", a), lax_linalg.matrix("qr_multiply", c, 1)
    m, k = type_of(a).shape[-2], min(type_of(a).shape[-2:])
    vector = type_of(c).ndim == 1
    if vector:
        c = c[:, None] if mode == "left" else c[None]
    if type_of(c).shape[-1 if mode == "right" else -2] != (m if mode == "right" else k):
        raise ValueError(f"qr_multiply: shapes {type_of(a).shape} and {type_of(c).shape} do not fit from the {mode}")
    reflectors, taus = geqrf(a)
    c = jnp.conj(c) if conjugate else c
    if mode == "left":
        c = jnp.pad(c, [(0, 0)] * (type_of(c).ndim - 2) + [(0, m - k), (0, 0)])
    product = lax_linalg.ormqr(reflectors, taus, c, left=mode == "left")
    product = product[..., :k] if mode == "right" else product
    product = jnp.conj(product) if conjugate else product
    return jnp.ravel(product) if vector else product, jnp.triu(reflectors[..., :k, :])


def hessenberg(a: Any, *, calc_q: bool = False, overwrite_a: bool = False, check_finite: bool = True) -> Any:
    """The Hessenberg form H of square matrices (..., n, n), zero below its subdiagonal, a = Q H Q^H; (H, Q) with calc_q."""
    a = _square("hessenberg", a)
    reflectors, taus = lax_linalg.hessenberg(a)
    h = jnp.triu(reflectors, -1)
    if not calc_q:
        return h
    n = type_of(a).shape[-1]
    q = jnp.broadcast_to(jnp.eye(n, dtype=type_of(a).dtype), type_of(a).shape)
    if n > 1:
        q = q.at[..., 1:, 1:].set(lax_linalg.householder_product(reflectors[..., 1:, :-1], taus))
    return h, q


def svd(
    a: Any,
    full_matrices: bool = True,
    compute_uv: bool = True,
    overwrite_a: bool = False,
    check_finite: bool = True,
    lapack_driver: str = "gesdd",
) -> Any:
    """(U, s, Vh), or s alone."""
    return lax_linalg.svd(_matrix("svd", a), full_matrices=full_matrices, compute_uv=compute_uv)


def eigh(
    a: Any,
    b: Any = None,
    lower: bool = True,
    eigvals_only: bool = False,
    overwrite_a: bool = False,
    overwrite_b: bool = False,
    turbo: bool = True,
    eigvals: None = None,
    type: int = 1,
    check_finite: bool = True,
) -> Any:
    """(ascending eigenvalues, eigenvectors in columns) of a Hermitian matrix, or of the pair a x = w b x."""
    if eigvals is not None:
        raise NotImplementedError("Only the eigvals=None option is implemented; slice the results instead")
    if type != 1:
        raise NotImplementedError("Only the type=1 option of eigh is implemented; bring the problem to the form a x = w b x")
    a = _square("eigh", a)
    if b is None:
        v, w = ops.eigh(a, lower)
        return w if eigvals_only else (w, v)
    # With b = L L^H the problem is that of L^-1 a L^-H.
    factor = cholesky(b, lower=True)
    whole = lax_linalg.triangle(a, lower)
    strict = lax_linalg.triangle(a, lower, -1 if lower else 1)
    whole = whole + lax_linalg.adjoint(strict)
    half = solve_triangular(factor, whole, lower=True)
    reduced = lax_linalg.adjoint(solve_triangular(factor, lax_linalg.adjoint(half), lower=True))
    v, w = ops.eigh(lax_linalg.symmetrize(reduced), True)
    return w if eigvals_only else (w, solve_triangular(factor, v, trans="C", lower=True))


def eigh_tridiagonal(
    d: Any,
    e: Any,
    *,
    eigvals_only: bool = False,
    select: str = "a",
    select_range: Any = None,
    tol: float | None = None,
    key: Any = None,
) -> Any:
    """The eigenvalues (and eigenvectors) of the symmetric tridiagonal matrix of a diagonal d and an off-diagonal e."""
    d, e = promote_inexact("eigh_tridiagonal", d, e)
    if select == "v":
        raise NotImplementedError('eigh_tridiagonal: select="v" is not supported; select="i" and "a" are')
    a = jnp.diag(d) + jnp.diag(e, 1) + jnp.diag(jnp.conj(e), -1)
    v, w = ops.eigh(a, True)
    if select == "i":
        low, high = select_range
        w, v = w[low : high + 1], v[:, low : high + 1]
    return w if eigvals_only else (w, v)


def schur(a: Any, output: str = "real") -> tuple[Any, Any]:
    """(T, Z) with a = Z T Z^H and T (quasi) upper triangular; output: "real" or "complex"."""
    if output not in ("real", "complex"):
        raise ValueError(f"Expected 'output' to be either 'real' or 'complex', got output={output!r}.")
    a = _square("schur", a)
    if output == "complex" and not is_complex(type_of(a).dtype):
        a = ops.convert_element_type(a, np.dtype(f"c{2 * type_of(a).dtype.itemsize}"))
    t, z = ops.schur(a)
    return t, z


# Functions of matrices.
# Degree of the Pade approximant and the norm up to which it is exact (Higham, 2005), in double and in single precision.
_PADE_DOUBLE = (
    (3, 1.495585217958292e-2),
    (5, 2.539398330063230e-1),
    (7, 9.504178996162932e-1),
    (9, 2.097847961257068),
    (13, 5.371920351148152),
)
_PADE_SINGLE = ((3, 4.258730016922831e-1), (5, 1.880152677804762), (7, 3.925724783138660))


def _pade(a: Any, degree: int) -> tuple[Any, Any]:
    """The odd and the even part of the numerator of the diagonal Pade approximant of exp."""
    c = [math.factorial(2 * degree - j) / (math.factorial(degree - j) * math.factorial(j)) for j in range(degree + 1)]
    c = [x * math.factorial(degree) / math.factorial(2 * degree) for x in c]
    n = type_of(a).shape[-1]
    square = jnp.matmul(a, a)
    power: Any = jnp.eye(n, dtype=type_of(a).dtype)
    odd, even = c[1] * power, c[0] * power
    for j in range(2, degree, 2):
        power = jnp.matmul(power, square) if j > 2 else square
        odd, even = odd + c[j + 1] * power, even + c[j] * power
    return jnp.matmul(a, odd), even


def expm(A: Any, *, upper_triangular: bool = False, max_squarings: int = 16) -> Any:
    """The matrix exponential, by scaling, a Pade approximant, and squaring; NaN if it takes more than max_squarings."""
    a = _square("expm", A)
    if type_of(a).ndim > 2:
        return jnp.vectorize(
            lambda a: expm(a, upper_triangular=upper_triangular, max_squarings=max_squarings), signature="(n,n)->(n,n)"
        )(a)
    dtype = type_of(a).dtype
    table = _PADE_DOUBLE if dtype.itemsize // (2 if is_complex(dtype) else 1) == 8 else _PADE_SINGLE
    degree, largest = table[-1]
    norm = ops.stop_gradient(jnp.max(jnp.sum(jnp.abs(a), axis=0)))
    squarings = jnp.maximum(0, jnp.ceil(jnp.log2(norm / largest)))
    squarings = jnp.where(jnp.isfinite(squarings), squarings, 0)
    scaled = a * jnp.asarray(jnp.exp2(-squarings), dtype)
    odd, even = _pade(scaled, degree)
    numerator, denominator = even + odd, even - odd
    r = solve_triangular(denominator, numerator) if upper_triangular else jnp.linalg.solve(denominator, numerator)
    count = squarings.astype(np.int32)
    r = fori_loop(0, max_squarings, lambda i, r: cond(i < count, lambda r: jnp.matmul(r, r), lambda r: r, r), r)
    return jnp.where(count > max_squarings, jnp.nan, r)


def expm_frechet(A: Any, E: Any, *, method: str | None = None, compute_expm: bool = True) -> Any:
    """(expm(A), its derivative in the direction E), or the derivative alone."""
    A, E = promote_inexact("expm_frechet", A, E)
    n = type_of(A).shape[-1]
    # exp of the block matrix [[A, E], [0, A]] holds the derivative in its corner.
    block = jnp.block([[A, E], [jnp.zeros_like(A), A]])
    out = expm(block)
    derivative = out[..., :n, n:]
    return (out[..., :n, :n], derivative) if compute_expm else derivative


def sqrtm(A: Any, blocksize: int = 1) -> Any:
    """The principal square root, a complex matrix, from the complex Schur form."""
    if blocksize > 1:
        raise NotImplementedError("Blocked version is not implemented; leave blocksize=1, which gives the same root")
    t, z = schur(A, output="complex")
    n = type_of(t).shape[-1]
    root = jnp.diag(jnp.sqrt(jnp.diag(t)))

    # Column by column, from the diagonal up: row i of the identity root @ root = t.
    def column(j: Any, root: Any) -> Any:
        def entry(k: Any, root: Any) -> Any:
            i = j - 1 - k
            inner = jnp.sum(jnp.where((jnp.arange(n) > i) & (jnp.arange(n) < j), root[i] * root[:, j], 0))
            below = root[i, i] + root[j, j]
            return root.at[i, j].set((t[i, j] - inner) / jnp.where(below == 0, 1, below))

        return fori_loop(0, j, entry, root)

    root = fori_loop(0, n, column, root)
    return jnp.matmul(jnp.matmul(z, root), jnp.conj(z.T))


def polar(
    a: Any, side: str = "right", *, method: str = "qdwh", eps: float | None = None, max_iterations: int | None = None
) -> tuple[Any, Any]:
    """(u, p): a = u p (`side` "right") or p u ("left"), u with orthonormal columns or rows, p positive semidefinite."""
    if side not in ("right", "left"):
        raise ValueError("The argument `side` must be either 'right' or 'left'.")
    u, s, vh = lax_linalg.svd(_matrix("polar", a), full_matrices=False)
    unitary = jnp.matmul(u, vh)
    s = s.astype(type_of(u).dtype)
    if side == "right":
        return unitary, jnp.matmul(lax_linalg.adjoint(vh) * s[..., None, :], vh)
    return unitary, jnp.matmul(u * s[..., None, :], lax_linalg.adjoint(u))


def solve_sylvester(A: Any, B: Any, C: Any, *, method: str = "schur", tol: float = 1e-8) -> Any:
    """X with A X + X B = C, through the complex Schur forms of A and B."""
    A, B, C = promote_inexact("solve_sylvester", A, B, C)
    real = not is_complex(type_of(A).dtype)
    r, u = schur(A, output="complex")
    s, v = schur(B, output="complex")
    f = jnp.matmul(jnp.matmul(jnp.conj(u.T), C.astype(type_of(u).dtype)), v)
    m, n = type_of(f).shape
    eye = jnp.eye(m, dtype=type_of(u).dtype)

    def column(j: Any, y: Any) -> Any:
        known = jnp.where(jnp.arange(n) < j, s[:, j], 0)
        rhs = f[:, j] - jnp.matmul(y, known)
        return y.at[:, j].set(solve_triangular(r + s[j, j] * eye, rhs))

    y = fori_loop(0, n, column, jnp.zeros_like(f))
    x = jnp.matmul(jnp.matmul(u, y), jnp.conj(v.T))
    return x.real if real else x


def funm(A: Any, func: Callable[[Any], Any], disp: bool = True) -> Any:
    """A function of a matrix from its values at the eigenvalues, by Parlett's recurrence on the complex Schur form."""
    t, z = schur(A, output="complex")
    n = operator.index(type_of(t).shape[-1])
    f = jnp.diag(func(jnp.diag(t)))
    for p in range(1, n):
        for i in range(n - p):
            j = i + p
            s = t[i, j] * (f[j, j] - f[i, i])
            s = s + jnp.matmul(t[i, i + 1 : j], f[i + 1 : j, j]) - jnp.matmul(f[i, i + 1 : j], t[i + 1 : j, j])
            gap = t[j, j] - t[i, i]
            f = f.at[i, j].set(jnp.where(gap != 0, s / jnp.where(gap != 0, gap, 1), s))
    out = jnp.matmul(jnp.matmul(z, f), jnp.conj(z.T))
    return out if disp else (out, jnp.zeros((), np.float32))
