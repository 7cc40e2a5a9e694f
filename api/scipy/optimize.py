"""Minimization of functions of several variables, under the names of `jax.scipy.optimize`.

BFGS with a line search for the strong Wolfe conditions: Nocedal and Wright, Numerical Optimization (2nd edition), algorithms 6.1, 3.5, 3.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.transforms.api import value_and_grad
from tracegrad.transforms.loop_checkpoints import while_loop

_DECREASE, _CURVATURE = 1e-4, 0.9


class OptimizeResults(NamedTuple):
    """What a minimization found.

    x: the point. success: whether it converged. status: 0 converged, 1 stopped after the most iterations, 3 the line search failed, 5 a value is
    not finite. fun, jac, hess_inv: value, gradient and the estimated inverse of the Hessian there. nfev, njev, nit: evaluations of the
    function and the gradient, iterations.
    """

    x: Any
    success: Any
    status: Any
    fun: Any
    jac: Any
    hess_inv: Any
    nfev: Any
    njev: Any
    nit: Any


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    *,
    method: str,
    tol: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> OptimizeResults:
    """A local minimum of `fun(x, *args)`, a differentiable scalar function of a vector x of the shape of x0, (n,).

    method: "BFGS". tol: the norm of the gradient that is small enough (1e-5). options: `maxiter` (200 n), `gtol` (like tol), `norm` (of the gradient;
    infinity), `line_search_maxiter` (evaluations in a line search, 20). It works under jit and vmap; the result has no derivative of use:
    differentiate the condition of optimality with `lax.custom_root` instead.
    Raises ValueError for another method or shape, TypeError if args is not a tuple or an option is unknown.
    """
    if not isinstance(args, tuple):
        raise TypeError(f"minimize: args must be a tuple, got {args!r}; for one argument write (argument,)")
    if str(method).lower() != "bfgs":
        raise ValueError(f"minimize: method is 'BFGS', got {method!r}")
    given = dict(options or {})
    x = jnp.asarray(x0)
    if x.ndim != 1:
        raise ValueError(f"minimize: x0 must be a vector, got shape {x.shape}; ravel it, and reshape in the function")
    if not jnp.issubdtype(x.dtype, np.floating):
        x = x.astype(jnp.result_type(x, float))
    gtol = given.pop("gtol", 1e-5 if tol is None else tol)
    order = given.pop("norm", np.inf)
    most = given.pop("maxiter", None)
    most = 200 * x.shape[0] if most is None else most
    searched = given.pop("line_search_maxiter", 20)
    if given:
        raise TypeError(f"minimize: unknown options {sorted(given)}; BFGS takes maxiter, gtol, norm and line_search_maxiter")
    of = value_and_grad(lambda y: fun(y, *args))
    return _bfgs(of, x, gtol, order, most, searched)


class _State(NamedTuple):
    x: Any
    f: Any
    g: Any
    h: Any
    status: Any  # -1 while it runs
    calls: Any
    steps: Any
    before: Any  # the last decrease, which the next step is guessed from


def _bfgs(of: Callable[[Any], Any], x: Any, gtol: Any, order: Any, most: Any, searched: int) -> OptimizeResults:
    f, g = of(x)
    identity = jnp.eye(x.shape[0], dtype=x.dtype)

    def judged(f: Any, g: Any, steps: Any) -> Any:
        small = jnp.linalg.norm(g, ord=order) <= gtol
        finite = jnp.isfinite(f) & jnp.all(jnp.isfinite(g))
        return jnp.where(finite, jnp.where(small, 0, jnp.where(steps >= most, 1, -1)), 5).astype(np.int32)

    def step(s: _State) -> _State:
        p = -(s.h @ s.g)
        slope = jnp.vdot(s.g, p)
        # Rounding may leave a direction that does not go down.
        p, slope = jnp.where(slope < 0, p, -s.g), jnp.where(slope < 0, slope, -jnp.vdot(s.g, s.g))
        h = jnp.where(slope < 0, s.h, identity)
        guess = jnp.where(s.before > 0, jnp.minimum(1.0, -2.02 * s.before / slope), 1.0).astype(x.dtype)
        found = _line_search(of, s.x, p, s.f, s.g, slope, guess, searched)
        y, d = found.g - s.g, found.a * p
        curved = jnp.vdot(y, d)
        rho = jnp.where(curved > 0, 1 / jnp.where(curved > 0, curved, 1), 0)
        v = identity - rho * jnp.outer(d, y)
        updated = jnp.where(curved > 0, v @ h @ v.T + rho * jnp.outer(d, d), h)
        steps = s.steps + 1
        status = jnp.where(found.failed, np.int32(3), judged(found.f, found.g, steps))
        keep = lambda new, old: jnp.where(found.failed, old, new)  # noqa: E731
        return _State(
            keep(s.x + d, s.x),
            keep(found.f, s.f),
            keep(found.g, s.g),
            keep(updated, s.h),
            status,
            s.calls + found.calls,
            steps,
            s.f - found.f,
        )

    first = jnp.linalg.norm(g) / 2
    start = _State(x, f, g, identity, judged(f, g, 0), np.int32(1), np.int32(0), first.astype(x.dtype))
    s = while_loop(lambda s: s.status < 0, step, start)
    return OptimizeResults(s.x, s.status == 0, s.status, s.f, s.g, s.h, s.calls, s.calls, s.steps)


class _Search(NamedTuple):
    a: Any  # the step to try next; at the end, the step to take
    f: Any
    g: Any
    low: tuple[Any, Any, Any]  # the best step that goes down enough: its length, value, slope
    low_g: Any
    high: tuple[Any, Any, Any]  # the other end, once there is one
    bracketed: Any
    done: Any
    failed: Any
    calls: Any


def _line_search(of: Callable[[Any], Any], x: Any, p: Any, f0: Any, g0: Any, slope: Any, guess: Any, most: int) -> _Search:
    """A step along p that satisfies the strong Wolfe conditions, or after `most` evaluations one that only decreases enough."""

    def turn(s: _Search) -> _Search:
        f, g = of(x + s.a * p)
        here = (s.a, f, jnp.vdot(g, p))
        high_up = ~(f <= f0 + _DECREASE * s.a * slope) | ((f >= s.low[1]) & (s.bracketed | (s.low[0] > 0)))
        flat = ~high_up & (jnp.abs(here[2]) <= -_CURVATURE * slope)
        # Where the function rises from here towards the other end, or at all if there is none yet, the minimum lies before it.
        rises = jnp.where(s.bracketed, here[2] * (s.high[0] - s.low[0]) >= 0, here[2] >= 0)
        choose = lambda condition, a, b: tuple([jnp.where(condition, u, v) for u, v in zip(a, b)])  # noqa: E731
        high = choose(high_up, here, choose(rises, s.low, s.high))
        low = choose(high_up, s.low, here)
        bracketed = s.bracketed | high_up | rises
        following = jnp.where(bracketed, _between(low, high), 2 * s.a).astype(s.a.dtype)
        calls = s.calls + 1
        return _Search(
            jnp.where(flat, s.a, following), f, g, low, jnp.where(high_up, s.low_g, g), high, bracketed, flat, s.failed, calls
        )

    zero = jnp.zeros_like(guess)
    origin = (zero, f0, slope)
    no = jnp.zeros((), bool)
    s = while_loop(
        lambda s: ~s.done & (s.calls < most), turn, _Search(guess, f0, g0, origin, g0, origin, no, no, no, np.int32(0))
    )
    # The best step that went down enough will do; without any, the search has failed.
    a, f, g = jnp.where(s.done, s.a, s.low[0]), jnp.where(s.done, s.f, s.low[1]), jnp.where(s.done, s.g, s.low_g)
    return s._replace(a=a, f=f, g=g, failed=~s.done & (s.low[0] == 0))


def _between(low: tuple[Any, Any, Any], high: tuple[Any, Any, Any]) -> Any:
    """The minimum of the cubic with these values and slopes; the middle where that is not well inside."""
    (a, fa, da), (b, fb, db) = low, high
    width = b - a
    safe = jnp.where(width == 0, 1, width)
    d1 = da + db - 3 * (fb - fa) / safe
    square = d1 * d1 - da * db
    d2 = jnp.sign(width) * jnp.sqrt(jnp.where(square > 0, square, 0))
    below = db - da + 2 * d2
    at = b - width * (db + d2 - d1) / jnp.where(below == 0, 1, below)
    inside = (jnp.abs(at - a) > 0.1 * jnp.abs(width)) & (jnp.abs(at - b) > 0.1 * jnp.abs(width)) & ((at - a) * (at - b) < 0)
    return jnp.where(inside & (square > 0) & (below != 0) & jnp.isfinite(fb), at, a + 0.5 * width)


__all__ = ["OptimizeResults", "minimize"]
