"""Products of elementary reflectors H = 1 - tau v v^H as LAPACK keeps them: v below the diagonal of a matrix, with a one that is not stored.

They are found column by column, as by LAPACK's geqrf and gehrd (Golub and Van Loan, Matrix Computations, 5.2 and 7.4), in loops that derivatives go
through. Leading dimensions are a batch. Where only Q is wanted, `qr` is faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.lax.operands import matrix
from tracegrad.tracer.control_flow import fori_loop
from tracegrad.transforms.vmap import vmap


def _each(one: Callable[..., Any], *args: Any) -> Any:
    """Apply a function of matrices to batches of them."""
    batch = type_of(args[0]).shape[:-2]
    if not batch:
        return one(*args)
    flat = [ops.reshape(x, (math.prod(batch), *type_of(x).shape[len(batch) :])) for x in args]
    out = vmap(one)(*flat)
    unflatten = lambda x: ops.reshape(x, (*batch, *type_of(x).shape[1:]))  # noqa: E731
    return tuple([unflatten(x) for x in out]) if isinstance(out, tuple) else unflatten(out)


def _squares(x: Any) -> Any:
    if is_complex(type_of(x).dtype):
        re, im = ops.real(x), ops.imag(x)
        return ops.reduce_sum(re * re + im * im, (0,))
    return ops.reduce_sum(x * x, (0,))


def _conj(x: Any) -> Any:
    return ops.conj(x) if is_complex(type_of(x).dtype) else x


def _reflector(x: Any, pivot: Any) -> tuple[Any, Any, Any]:
    """v, tau and the element that stays, of the reflector that makes zeros of a vector below `pivot`; what is above it stays."""
    t = type_of(x)
    rows = ops.broadcasted_iota(np.dtype(np.int32), t.shape, 0)
    zero, one = t.dtype.type(0), t.dtype.type(1)
    alpha = ops.reduce_sum(ops.select(ops.eq(rows, pivot), x, zero), (0,))
    rest = ops.select(ops.gt(rows, pivot), x, zero)
    tail = _squares(rest)
    head = ops.reshape(alpha, (1,))
    whole = tail + _squares(head)
    real = ops.real(alpha) if is_complex(t.dtype) else alpha
    nothing = ops.eq(tail, tail.dtype.type(0))
    if is_complex(t.dtype):
        nothing = ops.bitwise_and(nothing, ops.eq(ops.imag(alpha), tail.dtype.type(0)))
    # What is chosen away must have derivatives, too.
    length = ops.sqrt(ops.select(nothing, whole.dtype.type(1), whole))
    beta = ops.convert_element_type(ops.select(ops.ge(real, whole.dtype.type(0)), -length, length), t.dtype)
    tau = ops.select(nothing, zero, (beta - alpha) / beta)
    v = ops.select(ops.eq(rows, pivot), one, rest * ops.select(nothing, zero, one / ops.select(nothing, one, alpha - beta)))
    return v, tau, ops.select(nothing, alpha, beta)


def _reduced(a: Any, k: int, offset: int, similar: bool) -> tuple[Any, Any]:
    """Reflect k columns to zeros below their row + offset, from the left, or from both sides (`similar`)."""
    t = type_of(a)
    rows, columns = (ops.broadcasted_iota(np.dtype(np.int32), t.shape, d) for d in (0, 1))
    m = t.shape[0]

    def step(j: Any, state: Any) -> Any:
        a, taus = state
        pivot = j + np.int32(offset)
        x = ops.reshape(ops.dynamic_slice(a, (0, j), (m, 1)), (m,))
        v, tau, stays = _reflector(x, pivot)
        behind = ops.gt(columns, j)
        a = ops.select(behind, a - _outer(v * _conj(tau), _vector_times(_conj(v), a)), a)
        if similar:
            a = ops.select(behind, a - _outer(_times_vector(a, v), _conj(v) * tau), a)
        index = ops.broadcasted_iota(np.dtype(np.int32), (m,), 0)
        column = ops.select(ops.lt(index, pivot), x, ops.select(ops.eq(index, pivot), stays, v))
        a = ops.dynamic_update_slice(a, ops.reshape(column, (m, 1)), (0, j))
        return a, ops.dynamic_update_slice(taus, ops.reshape(tau, (1,)), (j,))

    taus = ops.broadcast_in_dim(t.dtype.type(0), (k,), ())
    return fori_loop(np.int32(0), np.int32(k), step, (a, taus)) if k else (a, taus)


def _outer(u: Any, v: Any) -> Any:
    return ops.dot_general(u, v, (((), ()), ((), ())))


def _vector_times(v: Any, a: Any) -> Any:
    return ops.dot_general(v, a, (((0,), (0,)), ((), ())))


def _times_vector(a: Any, v: Any) -> Any:
    return ops.dot_general(a, v, (((1,), (0,)), ((), ())))


def geqrf(x: Any) -> tuple[Any, Any]:
    """R on and above the diagonal and reflectors below it, and their factors tau: (..., m, n) gives (..., m, n) and (..., min(m, n))."""
    a = matrix("geqrf", x)
    k = min(type_of(a).shape[-2:])
    return _each(lambda a: _reduced(a, k, 0, False), a)


def ormqr(a: Any, taus: Any, c: Any, *, left: bool = True, transpose: bool = False) -> Any:
    """c times the Q of reflectors: Q c, Q^H c (transpose), c Q or c Q^H (left=False), without making Q.

    a: reflectors of shape (..., m, n) as `geqrf` leaves them, or `jnp.linalg.qr(x, mode="raw")[0]` transposed; taus: (..., k), k <= n.
    c: (..., m, p) from the left, (..., p, m) from the right, of one dtype with a. Returns c's shape.
    Raises ValueError if the shapes do not fit.
    """
    a, taus, c = matrix("ormqr", a), matrix("ormqr", taus, 1), matrix("ormqr", c, 2)
    ta, tt, tc = type_of(a), type_of(taus), type_of(c)
    m, k = ta.shape[-2], tt.shape[-1]
    if not ta.shape[:-2] == tt.shape[:-1] == tc.shape[:-2] or k > min(ta.shape[-2:]) or tc.shape[-2 if left else -1] != m:
        raise ValueError(
            f"ormqr: shapes {ta.shape} of the reflectors, {tt.shape} of their factors and {tc.shape} of the matrix do not fit"
        )
    if not ta.dtype == tt.dtype == tc.dtype:
        raise ValueError(f"ormqr: all arguments must have one dtype, got {ta.dtype}, {tt.dtype} and {tc.dtype}")
    # Q = H_0 H_1 ...: what is next to c comes first.
    backwards = left != transpose
    one, zero = ta.dtype.type(1), ta.dtype.type(0)

    def apply(a: Any, taus: Any, c: Any) -> Any:
        rows = ops.broadcasted_iota(np.dtype(np.int32), (m,), 0)

        def step(i: Any, c: Any) -> Any:
            j = np.int32(k - 1) - i if backwards else i
            x = ops.reshape(ops.dynamic_slice(a, (0, j), (m, 1)), (m,))
            v = ops.select(ops.eq(rows, j), one, ops.select(ops.gt(rows, j), x, zero))
            tau = ops.reshape(ops.dynamic_slice(taus, (j,), (1,)), ())
            tau = _conj(tau) if transpose else tau
            if left:
                return c - _outer(v * tau, _vector_times(_conj(v), c))
            return c - _outer(_times_vector(c, v), _conj(v) * tau)

        return fori_loop(np.int32(0), np.int32(k), step, c) if k else c

    return _each(apply, a, taus, c)


def hessenberg(a: Any) -> tuple[Any, Any]:
    """The Hessenberg form H of square matrices (..., n, n), a = Q H Q^H: H with Q's reflectors below its subdiagonal, and their factors (..., n - 1).

    Q is `householder_product` of the reflectors, a[..., 1:, :-1], in the lower right corner. Raises ValueError for matrices that are not square.
    """
    a = matrix("hessenberg", a)
    shape = type_of(a).shape
    if shape[-1] != shape[-2]:
        raise ValueError(f"hessenberg: the matrices must be square, got shape {shape}")
    return _each(lambda a: _reduced(a, max(shape[-1] - 1, 0), 1, True), a)


def tridiagonal(a: Any, *, lower: bool = True) -> tuple[Any, Any, Any, Any]:
    """The tridiagonal form T of Hermitian matrices, a = Q T Q^H: reflectors as `hessenberg` leaves them, T's diagonal (..., n) and its
    subdiagonal (..., n - 1), both real, and the reflectors' factors (..., n - 1). The lower triangle of a is read.

    Raises NotImplementedError for lower=False.
    """
    if not lower:
        raise NotImplementedError(
            "tridiagonal: only the lower triangle can be read; pass the conjugate transpose with lower=True"
        )
    a = matrix("tridiagonal", a)
    t = type_of(a)
    if t.shape[-1] != t.shape[-2]:
        raise ValueError(f"tridiagonal: the matrices must be square, got shape {t.shape}")
    n = t.shape[-1]

    def one(a: Any) -> Any:
        rows, columns = (ops.broadcasted_iota(np.dtype(np.int32), (n, n), d) for d in (0, 1))
        whole = ops.select(ops.ge(rows, columns), a, _conj(ops.transpose(a, (1, 0))))
        reflectors, taus = _reduced(whole, max(n - 1, 0), 1, True)
        zero = t.dtype.type(0)
        diagonal = ops.reduce_sum(ops.select(ops.eq(rows, columns), reflectors, zero), (1,))
        below = ops.reduce_sum(ops.select(ops.eq(rows, columns + np.int32(1)), reflectors, zero), (0,))
        real = ops.real if is_complex(t.dtype) else (lambda x: x)
        return reflectors, real(diagonal), ops.slice_in_dim(real(below), 0, max(n - 1, 0)), taus

    return _each(one, a)


__all__ = ["geqrf", "hessenberg", "ormqr", "tridiagonal"]
