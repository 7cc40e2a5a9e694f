"""Polynomials as vectors of coefficients, the highest power first."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.calculus import convolve
from tracegrad.numpy.creation import asarray, ones, vander, zeros
from tracegrad.numpy.diagonals import diag
from tracegrad.numpy.promotion import as_array, broadcast_to_shape, concrete, promote, promote_inexact, shape_of, static_int
from tracegrad.numpy.reductions import sum as _sum
from tracegrad.numpy.shape import atleast_1d, concatenate

_UNROLLED = 64


def polyval(p: Any, x: Any, *, unroll: int = 16) -> Any:
    """The polynomial's value at x, by Horner's rule."""
    p, x = promote("polyval", as_array("polyval", p), as_array("polyval", x))
    if not shape_of(p):
        raise ValueError("polyval: p must be an array of coefficients, got a scalar")
    n = shape_of(p)[0]
    shape = np.broadcast_shapes(shape_of(x), shape_of(p)[1:])
    if 0 < n <= _UNROLLED:
        value = p[0]
        for k in range(1, n):
            value = e.add(e.multiply(value, x), p[k])
        return broadcast_to_shape(value, shape)
    value = ops.broadcast_in_dim(type_of(p).dtype.type(0), shape, ())
    from tracegrad.tracer.control_flow import scan

    return scan(lambda total, c: (e.add(e.multiply(total, x), c), None), value, p, unroll=unroll)[0]


def polyadd(a1: Any, a2: Any) -> Any:
    """The sum of two polynomials."""
    a, b = _aligned("polyadd", a1, a2)
    return e.add(a, b)


def polysub(a1: Any, a2: Any) -> Any:
    """The difference of two polynomials."""
    a, b = _aligned("polysub", a1, a2)
    return e.subtract(a, b)


def _aligned(name: str, a1: Any, a2: Any) -> list[Any]:
    values = [atleast_1d(v) for v in promote(name, asarray(a1), asarray(a2))]
    n = max(shape_of(v)[0] for v in values)
    return [
        v if shape_of(v)[0] == n else concatenate([zeros((n - shape_of(v)[0], *shape_of(v)[1:]), type_of(v).dtype), v])
        for v in values
    ]


def polymul(a1: Any, a2: Any, *, trim_leading_zeros: bool = False) -> Any:
    """The product of two polynomials."""
    a, b = promote_inexact("polymul", asarray(a1), asarray(a2))
    if trim_leading_zeros:
        a, b = trim_zeros(a, "f"), trim_zeros(b, "f")
    a, b = (zeros(1, type_of(v).dtype) if shape_of(v)[0] == 0 else v for v in (atleast_1d(a), atleast_1d(b)))
    return convolve(a, b)


def polydiv(u: Any, v: Any, *, trim_leading_zeros: bool = False) -> tuple[Any, Any]:
    """Quotient and remainder of two polynomials."""
    u, v = promote_inexact("polydiv", asarray(u), asarray(v))
    m, n = shape_of(u)[0] - 1, shape_of(v)[0] - 1
    if m < n:
        return zeros(1, type_of(u).dtype), u
    quotient = []
    for k in range(m - n + 1):
        d = e.divide(u[k], v[0])
        quotient.append(d)
        u = u.at[k : k + n + 1].add(e.negative(e.multiply(d, v)))
    q = asarray(quotient)
    return q, trim_zeros(u, "f") if trim_leading_zeros else u


def polyder(p: Any, m: int = 1) -> Any:
    """The m-th derivative of a polynomial."""
    m = static_int("polyder", m, "m")
    if m < 0:
        raise ValueError("Order of derivative must be positive")
    (p,) = promote_inexact("polyder", asarray(p))
    n = shape_of(p)[0]
    if m == 0:
        return p
    if m >= n:
        return zeros((0,), type_of(p).dtype)
    powers = np.arange(n - 1, m - 1, -1, dtype=np.float64)
    factors = np.prod([powers - k for k in range(m)], axis=0)
    return e.multiply(p[:-m], asarray(factors.astype(type_of(p).dtype)))


def polyint(p: Any, m: int = 1, k: Any = None) -> Any:
    """The m-th antiderivative of a polynomial, with integration constants k."""
    m = static_int("polyint", m, "m")
    if m < 0:
        raise ValueError("Order of integral must be positive (see polyder)")
    p, constants = promote_inexact("polyint", asarray(p), asarray(0 if k is None else k))
    if m == 0:
        return p
    constants = atleast_1d(constants)
    if shape_of(constants)[0] == 1:
        constants = broadcast_to_shape(constants, (m,))
    if shape_of(constants) != (m,):
        raise ValueError("k must be a scalar or a rank-1 array of length 1 or m.")
    n = shape_of(p)[0]
    powers = np.arange(n + m - 1, -1, -1, dtype=np.float64)
    divisors = np.ones(n + m)
    for j in range(m):
        divisors *= np.maximum(powers - j, 1)
    return e.divide(concatenate([p, constants]), asarray(divisors.astype(type_of(p).dtype)))


def poly(seq_of_zeros: Any) -> Any:
    """The polynomial with given roots, or a matrix's characteristic polynomial."""
    (z,) = promote_inexact("poly", asarray(seq_of_zeros))
    shape = shape_of(z)
    if len(shape) == 2 and shape[0] == shape[1] and shape[0]:
        from tracegrad.numpy.linalg import eigvals

        z = eigvals(z)
    elif len(shape) == 0:
        return asarray(np.ones((), type_of(z).dtype))
    elif len(shape) != 1:
        raise ValueError(f"input must be 1d or non-empty square 2d array. Got {shape}.")
    out = ones(1, type_of(z).dtype)
    for k in range(shape_of(z)[0]):
        out = convolve(out, concatenate([ones(1, type_of(z).dtype), e.negative(z[k : k + 1])]))
    return out


def roots(p: Any, *, strip_zeros: bool = True) -> Any:
    """The roots of a polynomial."""
    from tracegrad.numpy.linalg import eigvals

    (p,) = promote_inexact("roots", atleast_1d(asarray(p)))
    if len(shape_of(p)) != 1:
        raise ValueError("Input must be a rank-1 array.")
    complex_ = np.dtype(np.complex128 if type_of(p).dtype.itemsize == 8 and type_of(p).dtype.kind == "f" else np.complex64)
    complex_ = type_of(p).dtype if type_of(p).dtype.kind == "c" else complex_
    trailing = 0
    if strip_zeros:
        known = concrete("roots", p, "p", "Give strip_zeros=False inside jit.")
        nonzero = np.flatnonzero(known)
        if nonzero.size == 0:
            return zeros((0,), complex_)
        trailing = known.size - 1 - int(nonzero[-1])
        p = p[int(nonzero[0]) : int(nonzero[-1]) + 1]
    n = shape_of(p)[0]
    if n < 2:
        found = zeros((0,), complex_)
    else:
        companion = diag(ones(n - 2, type_of(p).dtype), -1)
        companion = companion.at[0, :].set(e.negative(e.divide(p[1:], p[0])))
        found = eigvals(companion)
    return concatenate([found, zeros(trailing, complex_)]) if trailing else found


def polyfit(x: Any, y: Any, deg: int, rcond: Any = None, full: bool = False, w: Any = None, cov: Any = False) -> Any:
    """The polynomial of degree `deg` that fits points best, in least squares."""
    from tracegrad.numpy.linalg import inv, lstsq

    deg = static_int("polyfit", deg, "deg")
    x, y = promote_inexact("polyfit", as_array("polyfit", x), as_array("polyfit", y))
    if deg < 0:
        raise ValueError("expected deg >= 0")
    if len(shape_of(x)) != 1:
        raise TypeError("expected 1D vector for x")
    if shape_of(x)[0] == 0:
        raise TypeError("expected non-empty vector for x")
    if len(shape_of(y)) not in (1, 2):
        raise TypeError("expected 1D or 2D array for y")
    if shape_of(x)[0] != shape_of(y)[0]:
        raise TypeError("expected x and y to have same length")
    order = deg + 1
    if rcond is None:
        rcond = shape_of(x)[0] * float(np.finfo(type_of(x).dtype).eps)
    left, right = vander(x, order), y
    if w is not None:
        (w,) = promote_inexact("polyfit", as_array("polyfit", w))
        if len(shape_of(w)) != 1 or shape_of(w)[0] != shape_of(y)[0]:
            raise TypeError("expected a 1-d array for weights of the length of y")
        left = e.multiply(left, w[:, None])
        right = e.multiply(right, w[:, None] if len(shape_of(right)) == 2 else w)
    scale = e.sqrt(_sum(e.square(left), axis=0))
    left = e.divide(left, scale)
    c, residuals, rank, s = lstsq(left, right, rcond)
    c = e.divide(c.T, scale).T
    if full:
        return c, residuals, rank, s, asarray(rcond)
    if cov:
        base = e.divide(inv(left.T @ left), scale[:, None] * scale[None, :])
        if cov == "unscaled":
            factor: Any = 1
        else:
            if shape_of(x)[0] <= order:
                raise ValueError("the number of data points must exceed order to scale the covariance matrix")
            factor = e.divide(residuals, shape_of(x)[0] - order)
        if len(shape_of(y)) == 1:
            factor = factor if isinstance(factor, int) else factor.reshape(())
            return c, e.multiply(base, factor)
        return c, e.multiply(base[:, :, None], factor)
    return c


def trim_zeros(filt: Any, trim: str = "fb", axis: int | None = None) -> Any:
    """The vector without its leading and trailing zeros, whose number must be known."""
    filt = asarray(filt)
    known = concrete("trim_zeros", filt, "filt", "The size of the result depends on the values.")
    if known.ndim != 1:
        raise NotImplementedError(
            f"trim_zeros takes vectors, got shape {known.shape}; slice the array, or trim each row by itself"
        )
    nonzero = np.flatnonzero(known)
    if nonzero.size == 0:
        return zeros((0,), type_of(filt).dtype)
    lo = int(nonzero[0]) if "f" in trim.lower() else 0
    hi = int(nonzero[-1]) + 1 if "b" in trim.lower() else known.size
    return filt[lo:hi]
