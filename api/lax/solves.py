"""Solutions of equations with derivatives by the implicit function theorem, whatever iteration found them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.ir import elementwise
from tracegrad.ir.elementwise import stop_gradient
from tracegrad.tracer.pytree import tree_map
from tracegrad.transforms.api import linear_transpose, vjp
from tracegrad.transforms.custom import closure_convert, custom_vjp


def _detached(tree: Any) -> Any:
    return tree_map(stop_gradient, tree)


def custom_linear_solve(
    matvec: Callable[[Any], Any],
    b: Any,
    solve: Callable[[Callable[[Any], Any], Any], Any],
    transpose_solve: Callable[[Callable[[Any], Any], Any], Any] | None = None,
    symmetric: bool = False,
    has_aux: bool = False,
) -> Any:
    """x with matvec(x) = b, found by `solve(matvec, b)` and differentiated in reverse mode as A^-1 b, not as the iteration.

    matvec may use arrays of the surrounding function; derivatives reach them. `transpose_solve(vecmat, ct)` solves with the
    transpose; it is `solve` for symmetric operators. With has_aux, `solve` returns (x, aux).
    """
    if transpose_solve is None and symmetric:
        transpose_solve = solve
    converted, captured = closure_convert(matvec, b)

    @custom_vjp
    def run(captured: Any, b: Any) -> Any:
        return solve(lambda x: converted(x, *captured), b)

    def forward(captured: Any, b: Any) -> Any:
        out = run(captured, b)
        return out, (captured, out[0] if has_aux else out, b)

    def backward(residuals: Any, ct: Any) -> Any:
        captured, x, b = residuals
        if transpose_solve is None:
            raise TypeError("custom_linear_solve: transpose_solve is required for reverse mode, unless symmetric=True")
        transposed = linear_transpose(lambda y: converted(y, *captured), b)
        if has_aux:
            adjoint = transpose_solve(lambda y: transposed(y)[0], ct[0])[0]
        else:
            adjoint = custom_linear_solve(lambda y: transposed(y)[0], ct, transpose_solve, solve, symmetric)
        _, pull = vjp(lambda *c: converted(x, *c), *captured)
        return tree_map(elementwise.neg, pull(adjoint)), adjoint

    run.defvjp(forward, backward)
    return run(tuple(captured), b)


def custom_root(
    f: Callable[[Any], Any],
    initial_guess: Any,
    solve: Callable[[Callable[[Any], Any], Any], Any],
    tangent_solve: Callable[[Callable[[Any], Any], Any], Any],
    has_aux: bool = False,
) -> Any:
    """x with f(x) = 0, found by `solve(f, initial_guess)` and differentiated in reverse mode by the implicit function theorem.

    `tangent_solve(g, y)` solves g(x) = y for a linear g, f's derivative or its transpose. With has_aux, `solve` returns (x, aux).
    """
    converted, captured = closure_convert(f, initial_guess)

    @custom_vjp
    def run(captured: Any, guess: Any) -> Any:
        return solve(lambda x: converted(x, *captured), guess)

    def forward(captured: Any, guess: Any) -> Any:
        out = run(captured, guess)
        return out, (captured, out[0] if has_aux else out, guess)

    def backward(residuals: Any, ct: Any) -> Any:
        captured, x, guess = residuals
        _, pull_x = vjp(lambda y: converted(y, *captured), x)
        adjoint = tangent_solve(lambda y: pull_x(y)[0], ct[0] if has_aux else ct)
        _, pull = vjp(lambda *c: converted(x, *c), *captured)
        zero = tree_map(lambda g: elementwise.sub(g, g), guess)
        return tree_map(elementwise.neg, pull(adjoint)), zero

    run.defvjp(forward, backward)
    return run(tuple(captured), _detached(initial_guess))
