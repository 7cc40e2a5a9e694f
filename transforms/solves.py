"""Solutions of equations with derivatives by the implicit function theorem, whatever iteration found them.

With x(p) defined by f(p, x) = 0, dx = -(df/dx)^-1 (df/dp) dp. A root is a custom_jvp function whose rule says this; a solution of a linear
system also brings its transpose, the solution of the transposed system, which makes it reverse mode. Source: the implicit function
theorem as in Griewank and Walther, Evaluating Derivatives, 2nd ed., section 15.4; Christianson, Reverse accumulation and
attractive fixed points, 1994.

The functions that the user gives are called with concrete values where there are any. What they close over is passed along
explicitly: found by tracing where derivatives reach it (`f`, `matvec`), by looking into closures where they do not (`solve`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.calls import DerivativeRule, custom_jvp_call_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, is_inexact, tangent_type
from tracegrad.tracer.abstract import argument_names, traced, with_constants
from tracegrad.tracer.pytree import TreeDef, tree_flatten, tree_unflatten
from tracegrad.transforms.api import as_array, as_inputs, check_callable, leaf_type, linearize, name_of
from tracegrad.transforms.closures import Lifted, lift
from tracegrad.transforms.custom_rules import apply_custom
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.partial import separated
from tracegrad.transforms.transpose import transpose_program
from tracegrad.transforms.zero import Linear, Zero, add_tangents, instantiate

Tree = Any
Solver = Callable[..., Any]


class _Equation:
    """A function of the unknown whose captured values are explicit: `program` takes `num_consts` of them and then the unknown's leaves.

    solvers: the user's functions with places for the values that they close over, `num_held` of them. Arguments of the flat functions are
    (captured values, held values, leaves).
    """

    def __init__(
        self,
        what: str,
        program: Program,
        num_consts: int,
        lifted: Lifted | None,
        solvers: tuple[Solver | None, Solver | None],
        num_held: int,
        tree: TreeDef,
        has_aux: bool,
    ):
        self.what = what
        self.program = program
        self.num_consts = num_consts
        self.lifted = lifted
        self.solvers = solvers
        self.num_held = num_held
        self.tree = tree
        self.has_aux = has_aux
        self.aux_tree: TreeDef | None = None
        self.rule = DerivativeRule(what, jvp=self.jvp)

    def split(self, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        n, k = self.num_consts, self.num_consts + self.num_held
        return values[:n], values[n:k], values[k:]

    def solvers_at(self, held: Sequence[Any]) -> tuple[Solver | None, Solver | None]:
        return self.solvers if self.lifted is None else self.lifted.at(held)

    def function(self, consts: Sequence[Any], of: str, like: str) -> Callable[[Tree], Tree]:
        """The function of the unknown, as a pytree, at the captured values."""

        def at(x: Tree) -> Tree:
            leaves, tree = tree_flatten(x)
            _check_structure(f"{of}() input", tree, like, self.tree)
            _check_shapes(f"{of}() input", leaves, like, self.program.in_types[self.num_consts :])
            return tree_unflatten(self.tree, [as_array(y) for y in run(self.program, *consts, *as_inputs(leaves))])

        return at

    def solution(self, out: Any, solver: str, like: str, types: Sequence[ArrayType]) -> list[Any]:
        """The leaves of what a solver returned, auxiliary ones last."""
        aux_leaves: list[Any] = []
        if self.has_aux:
            if not (isinstance(out, (tuple, list)) and len(out) == 2):
                raise TypeError(
                    f"{self.what} with has_aux=True: {solver} must return a pair (solution, auxiliary data), got {type(out).__name__}"
                )
            out, aux = out
            aux_leaves, self.aux_tree = tree_flatten(aux)
        leaves, tree = tree_flatten(out)
        _check_structure(f"{solver}() output", tree, like, self.tree)
        _check_shapes(f"{solver}() output", leaves, like, types)
        return [*leaves, *aux_leaves]

    def flat(self, *values: Any) -> list[Any]:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is solved")

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is differentiated")

    def apply(self, values: Sequence[Any]) -> list[Any]:
        return list(apply_custom(custom_jvp_call_p, self.flat, self.rule, values))

    def residual_tangent(self, values: Sequence[Any], tangents: Sequence[Any], x: Sequence[Any]) -> list[Any]:
        """The derivative of the function at the solution along the tangents of the captured values."""
        consts, dots = self.split(values)[0], self.split(tangents)[0]
        if all([type(t) is Zero for t in dots]):
            return [Zero(tangent_type(type_of(y))) for y in x]
        return jvp_flat(lambda *c: run(self.program, *c, *x), consts, dots)[1]

    def results(self, outs: Sequence[Any]) -> Any:
        n = self.tree.num_leaves
        x = tree_unflatten(self.tree, [as_array(y) for y in outs[:n]])
        if not self.has_aux:
            return x
        assert self.aux_tree is not None
        return x, tree_unflatten(self.aux_tree, [as_array(y) for y in outs[n:]])


def _zeros(outs: Sequence[Any]) -> list[Any]:
    return [Zero(tangent_type(type_of(x))) for x in outs]


def _check_structure(what: str, got: TreeDef, like: str, expected: TreeDef) -> None:
    if got != expected:
        raise TypeError(f"{what} pytree structure must match {like}, got {got} and {expected}.")


def _check_shapes(what: str, leaves: Sequence[Any], like: str, types: Sequence[ArrayType]) -> None:
    got, expected = [type_of(x).shape for x in leaves], [t.shape for t in types]
    if got != expected:
        raise ValueError(f"{what} shapes must match {like}, got {got} and {expected}")


class _Root(_Equation):
    """f(x) = 0; the leaves are those of the initial guess, the solvers are solve and tangent_solve."""

    def flat(self, *values: Any) -> list[Any]:
        consts, held, guess = self.split(values)
        solve, _ = self.solvers_at(held)
        assert solve is not None
        f = self.function(consts, "f", "initial_guess")
        out = solve(f, tree_unflatten(self.tree, [as_array(x) for x in guess]))
        return self.solution(out, "solve", "initial_guess", [type_of(x) for x in guess])

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        outs = self.apply(primals)
        x = outs[: self.tree.num_leaves]
        rhs = self.residual_tangent(primals, tangents, x)
        if all([type(t) is Zero for t in rhs]):
            return outs, _zeros(outs)
        consts, held, _ = self.split(primals)
        _, tangent_solve = self.solvers_at(held)
        assert tangent_solve is not None
        _, g = linearize(self.function(consts, "f", "initial_guess"), tree_unflatten(self.tree, x))
        found = tangent_solve(g, tree_unflatten(self.tree, [ops.neg(instantiate(t)) for t in rhs]))
        leaves, tree = tree_flatten(found)
        _check_structure("tangent_solve() output", tree, "x", self.tree)
        _check_shapes("tangent_solve() output", leaves, "x", [type_of(y) for y in x])
        dots = [_as_tangent(t, y) for t, y in zip(leaves, x)]
        return outs, [*dots, *_zeros(outs[len(x) :])]


def _as_tangent(t: Any, of: Any) -> Any:
    """A tangent of the dtype that the value's has to have."""
    expected = tangent_type(type_of(of))
    if not is_inexact(expected.dtype):
        return Zero(expected)
    return t if type(t) is Zero or type_of(t).dtype == expected.dtype else ops.convert_element_type(t, expected.dtype)


class _LinearSystem(_Equation):
    """A x = b; the leaves are those of b, the solvers are solve and transpose_solve."""

    symmetric = False
    turned: _LinearSystem | None = None

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.rule.options["transpose"] = self.transpose

    def flat(self, *values: Any) -> list[Any]:
        consts, held, b = self.split(values)
        solve, _ = self.solvers_at(held)
        if solve is None:
            raise TypeError(
                "transpose_solve required for backwards mode automatic differentiation of custom_linear_solve; pass it, or say symmetric=True"
            )
        matvec = self.function(consts, "matvec", "b")
        out = solve(matvec, tree_unflatten(self.tree, [as_array(x) for x in b]))
        return self.solution(out, "solve", "b", [type_of(x) for x in b])

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        outs = self.apply(primals)
        x = outs[: self.tree.num_leaves]
        changes = self.residual_tangent(primals, tangents, x)
        consts, held, b = self.split(primals)
        rhs = [
            add_tangents(db, t if type(t) is Zero else ops.neg(t)) for db, t in zip(self.split(tangents)[2], changes, strict=True)
        ]
        if all([type(t) is Zero for t in rhs]):
            return outs, _zeros(outs)
        dots = self.apply([*consts, *held, *[instantiate(t) for t in rhs]])[: len(x)]
        return outs, [*[_as_tangent(t, y) for t, y in zip(dots, x)], *_zeros(outs[len(x) :])]

    def transposed(self) -> _LinearSystem:
        """The system of the transposed operator; made once, so that it is traced once."""
        if self.turned is None:
            n = self.tree.num_leaves
            linear = (False,) * self.num_consts + (True,) * n
            operator = separated(self.program, linear)
            turned = self.program if self.symmetric else transpose_program(operator, linear, (True,) * n, (True,) * n)[0]
            solvers = (self.solvers[1], self.solvers[0])
            # The lifted solvers come in a fixed order; here the second one solves.
            self.turned = _Turned(
                self.what, turned, self.num_consts, self.lifted, solvers, self.num_held, self.tree, self.has_aux
            )
            self.turned.turned = self
        return self.turned

    def transpose(self, cts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        consts, held, b = self.split(inputs)
        if any([type(x) is Linear for x in (*consts, *held)]):
            raise TypeError(
                "custom_linear_solve is linear in b only; it cannot be transposed with respect to what matvec or solve read"
            )
        ct = [instantiate(x) for x in cts[: self.tree.num_leaves]]
        found = self.transposed().apply([*consts, *held, *ct])[: len(ct)]
        known = [None] * (self.num_consts + self.num_held)
        return [*known, *[_as_cotangent(y, x) if type(x) is Linear else None for x, y in zip(b, found)]]


def _as_cotangent(ct: Any, of: Linear) -> Any:
    return ct if type_of(ct).dtype == of.type.dtype else ops.convert_element_type(ct, of.type.dtype)


class _Turned(_LinearSystem):
    """A transposed system, whose solvers are held in the order of the original one."""

    def solvers_at(self, held: Sequence[Any]) -> tuple[Solver | None, Solver | None]:
        if self.lifted is None:
            return self.solvers
        solve, transpose_solve = self.lifted.at(held)
        return transpose_solve, solve


def _equation(
    kind: type[_Equation],
    what: str,
    names: tuple[str, str],
    function: Callable[[Tree], Tree],
    unknown: Tree,
    solvers: tuple[Solver | None, Solver | None],
    has_aux: bool,
) -> tuple[Any, list[Any]]:
    """(the equation, its arguments)."""
    of, like = names
    check_callable(function, what)
    for solver in solvers:
        if solver is not None and not callable(solver):
            raise TypeError(f"{what} expects its solvers to be functions, got {solver!r:.200}")
    leaves, tree = tree_flatten(unknown)
    types = [leaf_type(what, lambda: argument_names(lambda unknown: None, (unknown,), {}), i, x) for i, x in enumerate(leaves)]
    result = traced(function, (unknown,), {})
    _check_structure(f"{of}() output", result.out_tree, like, tree)
    program, consts = with_constants(result.program, result.captured)
    got, expected = [t.shape for t in program.out_types], [t.shape for t in types]
    if got != expected:
        raise ValueError(f"{of}() output shapes must match {like}, got {got} and {expected}")
    held = lift(solvers)
    lifted, values = held if held is not None else (None, [])
    if lifted is not None:
        solvers = (None, None)  # they are in `lifted`, without the traced values
    equation = kind(what, program.replace(name=name_of(function)), len(consts), lifted, solvers, len(values), tree, has_aux)
    return equation, [*consts, *values, *as_inputs(leaves)]


def custom_linear_solve(
    matvec: Callable[[Tree], Tree],
    b: Tree,
    solve: Callable[[Callable[[Tree], Tree], Tree], Any],
    transpose_solve: Callable[[Callable[[Tree], Tree], Tree], Any] | None = None,
    symmetric: bool = False,
    has_aux: bool = False,
) -> Any:
    """x with matvec(x) = b, found by `solve(matvec, b)` and differentiated as A^-1 b, not as the iteration that found it.

    matvec is linear and gives a pytree of the structure and shapes of b; derivatives reach the arrays of the surrounding function that it
    uses. In reverse mode `transpose_solve(vecmat, ct)` solves with the transposed operator; for a symmetric one it is `solve`. With
    has_aux, `solve` and `transpose_solve` return (x, auxiliary data), whose derivative is zero.
    Works in forward and reverse mode of any order and under vmap and jit. Raises TypeError or ValueError if structures or shapes
    differ, TypeError in reverse mode without a transpose_solve.
    """
    if transpose_solve is None and symmetric:
        transpose_solve = solve
    system, args = _equation(_LinearSystem, "custom_linear_solve", ("matvec", "b"), matvec, b, (solve, transpose_solve), has_aux)
    system.symmetric = symmetric
    return system.results(system.apply(args))


def custom_root(
    f: Callable[[Tree], Tree],
    initial_guess: Tree,
    solve: Callable[[Callable[[Tree], Tree], Tree], Any],
    tangent_solve: Callable[[Callable[[Tree], Tree], Tree], Tree],
    has_aux: bool = False,
) -> Any:
    """x with f(x) = 0, found by `solve(f, initial_guess)` and differentiated by the implicit function theorem, not as the iteration.

    f gives a pytree of the structure and shapes of its argument; derivatives reach the arrays of the surrounding function that it uses.
    `tangent_solve(g, y)` solves g(x) = y for the linear function g, the derivative of f at the solution; for reverse mode its result must be
    linear in y in a way that can be transposed, so an iteration belongs into `custom_linear_solve`. With has_aux, `solve` returns
    (x, auxiliary data), whose derivative is zero. The derivative with respect to the guess is zero.
    Works in forward and reverse mode of any order and under vmap and jit. Raises TypeError or ValueError if structures or shapes differ.
    """
    root, args = _equation(_Root, "custom_root", ("f", "initial_guess"), f, initial_guess, (solve, tangent_solve), has_aux)
    return root.results(root.apply(args))
