"""Krylov methods for linear systems over pytrees: conjugate gradients, BiCGSTAB, restarted GMRES.

A is a matrix or a function x -> A x; derivatives in reverse mode are those of A^-1 b. All return (x, None).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.tracer.control_flow import fori_loop, while_loop
from tracegrad.tracer.pytree import tree_leaves, tree_map, tree_structure
from tracegrad.transforms.solves import custom_linear_solve

Operator = Callable[[Any], Any]


def _dot(x: Any, y: Any) -> Any:
    """The inner product of two trees; its real part where both are the same tree."""
    return sum(jnp.vdot(a, b) for a, b in zip(tree_leaves(x), tree_leaves(y)))


def _norm_squared(x: Any) -> Any:
    total = sum(jnp.sum(jnp.real(a) ** 2 + (jnp.imag(a) ** 2 if is_complex(type_of(a).dtype) else 0)) for a in tree_leaves(x))
    return jnp.asarray(total)


def _axpy(a: Any, x: Any, y: Any) -> Any:
    """a x + y."""
    return tree_map(lambda u, v: (a * u).astype(type_of(v).dtype) + v, x, y)


def _sub(x: Any, y: Any) -> Any:
    return tree_map(ops.sub, x, y)


def _operator(name: str, A: Any) -> Operator:
    if callable(A):
        return A
    a = jnp.asarray(A)
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"{name}: the linear operator must be a square matrix, but has shape: {a.shape}")
    return lambda x: jnp.matmul(a, x)


def _run(
    name: str,
    method: Callable[..., Any],
    A: Any,
    b: Any,
    x0: Any,
    tol: float,
    atol: float,
    maxiter: Any,
    M: Any,
    symmetric: bool,
    **options: Any,
) -> tuple[Any, None]:
    matvec = _operator(name, A)
    b = tree_map(jnp.asarray, b)
    start = tree_map(jnp.zeros_like, b) if x0 is None else tree_map(jnp.asarray, x0)
    if tree_structure(start) != tree_structure(b):
        raise ValueError(f"x0 and b must have matching tree structure: {tree_structure(start)} vs {tree_structure(b)}")
    for x, y in zip(tree_leaves(start), tree_leaves(b)):
        if type_of(x).shape != type_of(y).shape:
            raise ValueError(f"arrays in x0 and b must have matching shapes: {type_of(x).shape} vs {type_of(y).shape}")
    size = sum(type_of(x).size for x in tree_leaves(b))
    maxiter = 10 * size if maxiter is None else maxiter
    precondition = (lambda x: x) if M is None else _operator(name, M)
    start = tree_map(ops.stop_gradient, start)

    def solve(matvec: Operator, b: Any) -> Any:
        return method(matvec, b, start, tol, atol, maxiter, precondition, **options)

    def from_zero(matvec: Operator, b: Any) -> Any:
        return method(matvec, b, tree_map(jnp.zeros_like, b), tol, atol, maxiter, precondition, **options)

    return custom_linear_solve(matvec, b, solve, from_zero, symmetric), None


def _threshold(b: Any, tol: float, atol: float) -> Any:
    """The squared norm of the residual at which to stop."""
    return jnp.maximum(jnp.square(tol) * _norm_squared(b), jnp.square(atol))


def _cg(A: Operator, b: Any, x0: Any, tol: float, atol: float, maxiter: int, M: Operator) -> Any:
    limit = _threshold(b, tol, atol)

    def unfinished(state: Any) -> Any:
        _, r, gamma, _, k = state
        return (_norm_squared(r) > limit) & (k < maxiter)

    def step(state: Any) -> Any:
        x, r, gamma, p, k = state
        q = A(p)
        alpha = gamma / jnp.real(_dot(p, q))
        x, r = _axpy(alpha, p, x), _axpy(-alpha, q, r)
        z = M(r)
        fresh = jnp.real(_dot(r, z))
        return x, r, fresh, _axpy(fresh / gamma, p, z), k + 1

    r = _sub(b, A(x0))
    z = M(r)
    return while_loop(unfinished, step, (x0, r, jnp.real(_dot(r, z)), z, np.int32(0)))[0]


def cg(
    A: Any, b: Any, x0: Any = None, *, tol: float = 1e-5, atol: float = 0.0, maxiter: int | None = None, M: Any = None
) -> tuple[Any, None]:
    """Conjugate gradients, for Hermitian positive definite A. M approximates A's inverse."""
    return _run("cg", _cg, A, b, x0, tol, atol, maxiter, M, True)


def _bicgstab(A: Operator, b: Any, x0: Any, tol: float, atol: float, maxiter: int, M: Operator) -> Any:
    limit = _threshold(b, tol, atol)
    r0 = _sub(b, A(x0))

    def unfinished(state: Any) -> Any:
        _, r, *_, k = state
        return (_norm_squared(r) > limit) & (k < maxiter) & (k >= 0)

    def step(state: Any) -> Any:
        x, r, alpha, omega, rho, p, q, k = state
        fresh = _dot(r0, r)
        beta = fresh / rho * alpha / omega
        p = _axpy(beta, _axpy(-omega, q, p), r)
        p_hat = M(p)
        q = A(p_hat)
        alpha = fresh / _dot(r0, q)
        s = _axpy(-alpha, q, r)
        early = _norm_squared(s) < limit
        s_hat = M(s)
        t = A(s_hat)
        omega = _dot(t, s) / _dot(t, t)
        half = _axpy(alpha, p_hat, x)
        x = tree_map(lambda a, c: jnp.where(early, a, c), half, _axpy(omega, s_hat, half))
        r = tree_map(lambda a, c: jnp.where(early, a, c), s, _axpy(-omega, t, s))
        # A breakdown of the recurrence (a zero denominator) ends the iteration with what there is.
        broken = (omega == 0) | (alpha == 0)
        return x, r, alpha, omega, fresh, p, q, jnp.where(broken & ~early, -10, k + 1)

    one = _dot(b, b) * 0 + 1
    start = (x0, r0, one, one, one, r0, tree_map(jnp.zeros_like, r0), np.int32(0))
    return while_loop(unfinished, step, start)[0]


def bicgstab(
    A: Any, b: Any, x0: Any = None, *, tol: float = 1e-5, atol: float = 0.0, maxiter: int | None = None, M: Any = None
) -> tuple[Any, None]:
    """The stabilized biconjugate gradient method, for general A."""
    return _run("bicgstab", _bicgstab, A, b, x0, tol, atol, maxiter, M, False)


def _gmres(A: Operator, b: Any, x0: Any, tol: float, atol: float, maxiter: int, M: Operator, restart: int) -> Any:
    from tracegrad.flatten_util import ravel_pytree

    flat_b, unravel = ravel_pytree(b)
    limit = _threshold(M(b), tol, atol)
    apply: Operator = lambda v: ravel_pytree(M(A(unravel(v))))[0]
    rhs = ravel_pytree(M(b))[0]
    n, dtype = type_of(flat_b).size, type_of(flat_b).dtype
    m = min(restart, n)

    def cycle(state: Any) -> Any:
        x, r, k = state
        size = jnp.sqrt(_norm_squared(r))
        basis = jnp.zeros((m + 1, n), dtype).at[0].set(r / jnp.where(size == 0, 1, size).astype(dtype))
        h = jnp.zeros((m + 1, m), dtype)

        def extend(j: Any, state: Any) -> Any:
            basis, h = state
            w = apply(basis[j])
            # Gram and Schmidt twice: rounding in the first pass is what the second removes. Rows not filled yet are zero.
            first = jnp.matmul(jnp.conj(basis), w)
            w = w - jnp.matmul(first, basis)
            second = jnp.matmul(jnp.conj(basis), w)
            w = w - jnp.matmul(second, basis)
            length = jnp.sqrt(_norm_squared(w))
            tiny = length <= 1e-10 if type_of(length).dtype.itemsize > 4 else length <= 1e-6
            basis = basis.at[j + 1].set(jnp.where(tiny, 0, w / jnp.where(tiny, 1, length).astype(dtype)))
            column = (first + second).at[j + 1].set(jnp.where(tiny, 0, length).astype(dtype))
            return basis, h.at[:, j].set(column)

        basis, h = fori_loop(0, m, extend, (basis, h))
        target = jnp.zeros(m + 1, dtype).at[0].set(size.astype(dtype))
        y = jnp.linalg.lstsq(h, target)[0]
        x = x + jnp.matmul(y, basis[:m])
        return x, rhs - apply(x), k + 1

    x = ravel_pytree(x0)[0]
    state = (x, rhs - apply(x), np.int32(0))
    return unravel(while_loop(lambda s: (_norm_squared(s[1]) > limit) & (s[2] < maxiter), cycle, state)[0])


def gmres(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    tol: float = 1e-5,
    atol: float = 0.0,
    restart: int = 20,
    maxiter: int | None = None,
    M: Any = None,
    solve_method: str = "batched",
) -> tuple[Any, None]:
    """The generalized minimal residual method, restarted, for general A. `solve_method` is accepted for compatibility."""
    if solve_method not in ("batched", "incremental"):
        raise ValueError(f"invalid solve_method {solve_method}, must be either 'incremental' or 'batched'")
    return _run("gmres", partial(_gmres, restart=restart), A, b, x0, tol, atol, maxiter, M, False)
