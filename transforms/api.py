"""The derivatives that users call: grad, value_and_grad, jvp, vjp, linearize, linear_transpose.

They flatten pytrees, check what they are given in the user's words, and hand flat functions to the interpreters.
`jacobians.py` builds on them; `vmap.py` is the batching one.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.evaluate import run
from tracegrad.ir.types import SHORT_NAMES, ArrayType, float0, is_complex, is_inexact, tangent_type
from tracegrad.tracer.abstract import argument_names, described
from tracegrad.tracer.errors import noun
from tracegrad.tracer.pytree import (
    Partial,
    TreeDef,
    broadcast_prefix,
    keystr,
    leaf_paths,
    structure_error,
    tree_flatten,
    tree_structure,
    tree_unflatten,
)
from tracegrad.tracer.staging import trace
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.linearize import linearize_flat
from tracegrad.transforms.partial import separated
from tracegrad.transforms.transpose import backward
from tracegrad.transforms.zero import Linear, Zero, instantiate


def name_of(fun: Any) -> str:
    name = getattr(fun, "__name__", None) or type(fun).__name__
    return str(name)


def check_callable(fun: Any, what: str) -> None:
    if not callable(fun):
        raise TypeError(f"{what} expects a function as its first argument, got {fun!r:.200} of type {type(fun).__name__}")


def as_array(x: Any) -> Any:
    """A value as users get it: a number or NumPy array that a function returned as it is becomes an array."""
    if isinstance(x, Array) or (isinstance(x, np.ndarray) and x.dtype == float0):
        return x
    t = type_of(x)
    return ops.convert_element_type(x, t.dtype, t.weak)


def derivative_result(d: Any, of: ArrayType) -> Any:
    """A tangent or cotangent as users get it: an array, as weak as the value it belongs to."""
    d = as_array(instantiate(d))
    return ops.convert_element_type(d, of.dtype, True) if of.weak and is_inexact(of.dtype) else d


def as_inputs(leaves: Sequence[Any]) -> list[Any]:
    """Leaves of arguments as functions see them: numbers become arrays, and so do NumPy arrays that no tracer will stand for."""
    return [x if isinstance(x, Array) or isinstance(x, np.ndarray) and is_inexact(x.dtype) else as_array(x) for x in leaves]


class Flat:
    """A function of pytrees as a function of flat leaves. It remembers the structure of the last results.

    With `has_aux` the function returns a pair; the leaves of its second part follow those of the first, which are `main()` many.
    """

    __slots__ = ("fun", "in_tree", "has_aux", "out_tree", "aux_tree", "what", "call")
    out_tree: TreeDef
    aux_tree: TreeDef | None

    def __init__(
        self, fun: Callable[..., Any], in_tree: TreeDef, has_aux: bool, what: str, call: Callable[..., Any] | None = None
    ):
        self.fun = fun
        self.in_tree = in_tree
        self.has_aux = has_aux
        self.aux_tree = None
        self.what = what
        self.call = call or (lambda args: fun(*args))

    @property
    def __name__(self) -> str:
        return name_of(self.fun)

    def __call__(self, *leaves: Any) -> list[Any]:
        out = self.call(tree_unflatten(self.in_tree, leaves))
        aux_leaves: list[Any] = []
        if self.has_aux:
            if not (isinstance(out, tuple) and len(out) == 2):
                raise TypeError(
                    f"{self.what} with has_aux=True: {self.__name__} must return a pair (output, auxiliary data), got {noun(out)}"
                )
            out, aux = out
            aux_leaves, self.aux_tree = tree_flatten(aux)
        out_leaves, self.out_tree = tree_flatten(out)
        for x, path in zip(out_leaves, leaf_paths(self.out_tree)) if not all(map(_is_array, out_leaves)) else ():
            if not _is_array(x):
                raise TypeError(
                    f"{self.what}: {self.__name__} returned {x!r:.200} of type {type(x).__name__} as output{keystr(path)}, "
                    "which is not an array or a number"
                )
        return out_leaves + aux_leaves

    def main(self) -> int:
        return self.out_tree.num_leaves

    def results(self, leaves: Sequence[Any]) -> tuple[Any, Any]:
        """The pytrees (output, auxiliary data) from flat results."""
        n = self.out_tree.num_leaves
        out = tree_unflatten(self.out_tree, [as_array(x) for x in leaves[:n]])
        return out, tree_unflatten(self.aux_tree, leaves[n:]) if self.aux_tree is not None else None


def _is_array(x: Any) -> bool:
    return isinstance(x, (Array, np.ndarray, np.generic, bool, int, float, complex)) or isinstance(
        getattr(x, "aval", None), ArrayType
    )


def leaf_type(what: str, names: Callable[[], Sequence[str]], i: int, x: Any) -> ArrayType:
    """The type of the i-th leaf of the arguments; TypeError in the user's words for what is not an array."""
    try:
        return type_of(x)
    except TypeError:
        raise TypeError(
            f"{what}: {names()[i]} is {x!r:.200} of type {type(x).__name__}, which is not an array or a number; "
            "bind such arguments with functools.partial or a closure, or leave them out of argnums"
        ) from None


def spread(prefix: Any, tree: Any) -> list[Any]:
    """One entry of `prefix` per leaf of `tree`; None in a prefix is an entry, which stands for a whole subtree. ValueError if it is none."""
    if prefix is None or isinstance(prefix, int):
        return [prefix] * len(tree_flatten(tree)[0])
    entries = broadcast_prefix(prefix, tree, _is_none)
    # None in the tree itself is an empty container: the entries found for it go.
    return [d for d, x in zip(entries, tree_flatten(tree, _is_none)[0]) if x is not None]


def _is_none(x: Any) -> bool:
    return x is None


# Reverse mode of scalar functions


def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    reduce_axes: Sequence[Any] = (),
) -> Callable[..., Any]:
    """A function that computes the gradient of `fun`, which returns a scalar.

    argnums: which positional arguments to differentiate with respect to; a sequence gives a tuple of gradients.
    has_aux: `fun` returns (scalar, auxiliary data); the result is then (gradient, auxiliary data).
    holomorphic: `fun` is a holomorphic function of complex inputs. allow_int: integer inputs get gradients of dtype float0.
    Raises TypeError for inputs that cannot be differentiated and for outputs that are not real scalars.
    """
    both = _value_and_grad(fun, argnums, has_aux, holomorphic, allow_int, "grad")

    @functools.wraps(fun, updated=())
    def grad_f(*args: Any, **kwargs: Any) -> Any:
        value, g = both(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return grad_f


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    reduce_axes: Sequence[Any] = (),
) -> Callable[..., Any]:
    """Like `grad`, but returns (value, gradient), or ((value, auxiliary data), gradient) with `has_aux`."""
    return functools.wraps(fun, updated=())(_value_and_grad(fun, argnums, has_aux, holomorphic, allow_int, "value_and_grad"))


def checked_argnums(argnums: int | Sequence[int], what: str) -> tuple[int, ...]:
    """Positions as a tuple of integers."""
    if isinstance(argnums, (tuple, list)):
        if not argnums:
            raise TypeError(f"{what}: argnums must name at least one argument")
        return tuple([operator.index(i) for i in argnums])
    try:
        return (operator.index(argnums),)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what}: argnums must be an integer or a tuple of integers, got {argnums!r}") from None


def chosen(
    args: Sequence[Any], positions: tuple[int, ...], argnums: Any, what: str, error: type[Exception] = TypeError
) -> tuple[list[int], Any]:
    """Which positional arguments `argnums` means, and their values (a bare one for an integer). Raises `error` if there are too few."""
    needed = max([p + 1 if p >= 0 else -p for p in positions])
    if needed > len(args):
        raise error(
            f"{what}: differentiating with respect to argnums={argnums} requires at least {needed} positional arguments "
            f"to be passed by the caller, but got only {len(args)} positional arguments"
        )
    where = [p % len(args) for p in positions]
    return where, tuple([args[p] for p in where]) if isinstance(argnums, (tuple, list)) else args[where[0]]


def partly_applied(fun: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], where: list[int], single: bool) -> Any:
    """`fun` as a function of the chosen arguments alone."""

    def call(dynamic: Any) -> Any:
        full = list(args)
        for p, x in zip(where, (dynamic,) if single else dynamic):
            full[p] = x
        return fun(*full, **kwargs)

    return call


def _value_and_grad(
    fun: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool, holomorphic: bool, allow_int: bool, what: str
) -> Callable[..., Any]:
    check_callable(fun, what)
    positions = checked_argnums(argnums, what)

    def value_and_grad_f(*args: Any, **kwargs: Any) -> Any:
        where, dynamic = chosen(args, positions, argnums, what)
        leaves, tree = tree_flatten(dynamic)

        def names() -> list[str]:
            return names_of_chosen(fun, args, where)

        types = [leaf_type(what, names, i, x) for i, x in enumerate(leaves)]
        for i, t in enumerate(types):
            _check_grad_input(what, names, i, t, holomorphic, allow_int)
        leaves = as_inputs(leaves)
        flat = Flat(fun, tree, has_aux, what, partly_applied(fun, args, kwargs, where, not isinstance(argnums, (tuple, list))))
        nonzero = [is_inexact(t.dtype) for t in types]
        lin = linearize_flat(flat, leaves, nonzero, flat.main)
        ct = _seed(what, flat, lin.outs, holomorphic)
        found = iter(backward(lin.program, lin.residuals + linear_inputs(types, nonzero), [ct] if lin.nonzero_out[0] else []))
        cts = [next(found) if nz else Zero(tangent_type(t)) for t, nz in zip(types, nonzero)]
        out, aux = flat.results(lin.outs)
        gradient = tree_unflatten(tree, [derivative_result(ct, t) for ct, t in zip(cts, types)])
        return ((out, aux) if has_aux else out), gradient

    return value_and_grad_f


def linear_inputs(types: Sequence[ArrayType], nonzero: Sequence[bool]) -> list[Any]:
    return [Linear(tangent_type(t)) for t, nz in zip(types, nonzero) if nz]


def names_of_chosen(fun: Callable[..., Any], args: Sequence[Any], where: Sequence[int]) -> list[str]:
    names = []
    for p in where:
        before = len(argument_names(fun, args[:p], {}))
        names += argument_names(fun, args[: p + 1], {})[before:]
    return names


def _check_grad_input(
    what: str, names: Callable[[], Sequence[str]], i: int, t: ArrayType, holomorphic: bool, allow_int: bool
) -> None:
    if holomorphic:
        if not is_complex(t.dtype):
            raise TypeError(
                f"{what} with holomorphic=True requires inputs with complex dtype, but {names()[i]} is {t}; "
                "make it complex (x.astype(complex)) or leave holomorphic out"
            )
        return
    if is_inexact(t.dtype):
        return
    if t.dtype.kind in "iub" and allow_int:
        return
    ways = "convert it to floating point (x.astype(float)), leave it out of argnums, or say allow_int=True, which gives it a float0 gradient"
    raise TypeError(
        f"{what} requires real- or complex-valued inputs (input dtype that is a sub-dtype of np.inexact), but {names()[i]} is {t}; {ways}"
    )


def _seed(what: str, flat: Flat, outs: Sequence[Any], holomorphic: bool) -> Any:
    """The cotangent 1 of a scalar output."""
    if flat.out_tree.num_leaves != 1 or flat.out_tree.num_nodes != 1:
        more = " (for a pair whose second part is auxiliary data, say has_aux=True)" if not flat.has_aux else ""
        raise TypeError(
            f"Gradient only defined for scalar-output functions, but {flat.__name__} returned a container: {flat.out_tree}{more}"
        )
    t = type_of(outs[0])
    if t.shape != ():
        raise TypeError(
            f"Gradient only defined for scalar-output functions. {flat.__name__} had an output of shape: {t.shape}. "
            "Reduce it to a scalar (e.g. with sum), or use vjp or jacrev"
        )
    if holomorphic:
        if not is_complex(t.dtype):
            raise TypeError(f"{what} with holomorphic=True requires outputs with complex dtype, but {flat.__name__} returned {t}")
    elif is_complex(t.dtype):
        raise TypeError(
            f"{what} requires real-valued outputs (output dtype that is a sub-dtype of np.floating), but {flat.__name__} returned {t}. "
            "For holomorphic differentiation, pass holomorphic=True. For differentiation of non-holomorphic functions involving complex "
            "outputs, use vjp directly."
        )
    elif not is_inexact(t.dtype):
        raise TypeError(
            f"{what} requires real-valued outputs (output dtype that is a sub-dtype of np.floating), but {flat.__name__} returned {t}. "
            "For differentiation of functions with integer outputs, use vjp directly."
        )
    return np.ones((), t.dtype)


# Forward mode


def jvp(fun: Callable[..., Any], primals: Any, tangents: Any, has_aux: bool = False) -> Any:
    """`fun(*primals)` and its derivative along `tangents`: (outputs, output tangents), with `has_aux` also the auxiliary data.

    Tangents have the structure and types of the primals; float0 arrays for integers and booleans.
    Raises TypeError or ValueError, naming the argument, if they do not.
    """
    check_callable(fun, "jvp")
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise TypeError(
            "primal and tangent arguments to jvp must be tuples or lists; "
            f"found {type(primals).__name__} and {type(tangents).__name__}"
        )
    tangent_leaves, tangent_tree = tree_flatten(tangents)
    if tree_structure(primals) != tangent_tree:
        raise TypeError(
            "primal and tangent arguments to jvp must have the same tree structure; "
            f"{structure_error('primals', tree_structure(primals), 'tangents', tangent_tree)}"
        )
    leaves, tree = tree_flatten(tuple(primals))

    def names() -> list[str]:
        return argument_names(fun, primals, {})

    types = [leaf_type("jvp", names, i, x) for i, x in enumerate(leaves)]
    zeros = [_checked_tangent("jvp", names, i, t, d) for i, (t, d) in enumerate(zip(types, tangent_leaves))]
    flat = Flat(fun, tree, has_aux, "jvp")
    outs, out_tangents = jvp_flat(flat, as_inputs(leaves), zeros, flat.main)
    out, aux = flat.results(outs)
    out_dot = tree_unflatten(flat.out_tree, [derivative_result(t, type_of(x)) for t, x in zip(out_tangents, outs)])
    return (out, out_dot, aux) if has_aux else (out, out_dot)


def _checked_tangent(
    what: str, names: Callable[[], Sequence[str]], i: int, t: ArrayType, tangent: Any, error: type[Exception] = TypeError
) -> Any:
    """The tangent of the i-th leaf; `Zero` for a float0 one. Raises `error` for another dtype, ValueError for another shape."""
    if isinstance(tangent, Zero):
        return tangent
    expected = tangent_type(t)
    shape, dtype = _shape_and_dtype(what, tangent)
    if dtype != expected.dtype:
        raise error(
            f"primal and tangent arguments to {what} do not match; dtypes must be equal, or in case of int/bool primal dtype the "
            f"tangent dtype must be float0. {names()[i]} has dtype {SHORT_NAMES[t.dtype]} and so expects a tangent of dtype "
            f"{SHORT_NAMES[expected.dtype]}, but got one of dtype {dtype}"
        )
    if shape != t.shape:
        raise ValueError(
            f"{what} called with different primal and tangent shapes; {names()[i]} has shape {t.shape} and its tangent {shape}"
        )
    return Zero(expected) if expected.dtype == float0 else tangent


def _shape_and_dtype(what: str, x: Any) -> tuple[tuple[int, ...], Any]:
    if isinstance(x, np.ndarray) and x.dtype == float0:
        return x.shape, float0
    try:
        t = type_of(x)
    except TypeError:
        raise TypeError(f"{what}: a tangent or cotangent is {x!r:.200} of type {type(x).__name__}, not an array") from None
    return t.shape, t.dtype


class _Pushforward:
    """The derivative at a point, from tangents to tangents; its residuals are the leading arguments."""

    __slots__ = ("lin_program", "types", "nonzero", "in_tree", "out_types", "nonzero_out", "out_tree", "names")

    def __init__(
        self, program: Any, types: Any, nonzero: Any, in_tree: Any, out_types: Any, nonzero_out: Any, out_tree: Any, names: Any
    ):
        self.lin_program = program
        self.types = types
        self.nonzero = nonzero
        self.in_tree = in_tree
        self.out_types = out_types
        self.nonzero_out = nonzero_out
        self.out_tree = out_tree
        self.names = names

    def __call__(self, residuals: Sequence[Any], *tangents: Any) -> Any:
        leaves, tree = tree_flatten(tangents)
        if tree != self.in_tree:
            raise TypeError(
                "linearized function: the tangents must have the structure of the primals; "
                f"{structure_error('primals', self.in_tree, 'tangents', tree)}"
            )
        given = [
            _checked_tangent("linearized function", lambda: self.names, i, t, d, ValueError)
            for i, (t, d) in enumerate(zip(self.types, leaves))
        ]
        results = iter(run(self.lin_program, *residuals, *[instantiate(t) for t, nz in zip(given, self.nonzero) if nz]))
        outs = [next(results) if nz else Zero(tangent_type(t)) for t, nz in zip(self.out_types, self.nonzero_out)]
        return tree_unflatten(self.out_tree, [derivative_result(x, t) for x, t in zip(outs, self.out_types)])


class _Pullback(_Pushforward):
    """The transposed derivative at a point, from cotangents of the outputs to those of the inputs."""

    __slots__ = ()

    def __call__(self, residuals: Sequence[Any], *cotangents: Any) -> Any:
        if len(cotangents) != 1:
            raise TypeError(
                f"the function that vjp returned takes one argument, the cotangent of the output (a tuple if the output is one), "
                f"got {len(cotangents)}"
            )
        cts = checked_cotangents("the function that vjp returned", cotangents[0], self.out_tree, self.out_types)
        cts = [ct for ct, nz in zip(cts, self.nonzero_out) if nz]
        found = iter(backward(self.lin_program, [*residuals, *linear_inputs(self.types, self.nonzero)], cts))
        results = [next(found) if nz else Zero(tangent_type(t)) for t, nz in zip(self.types, self.nonzero)]
        return tree_unflatten(self.in_tree, [derivative_result(ct, t) for ct, t in zip(results, self.types)])


def checked_cotangents(what: str, cotangent: Any, out_tree: TreeDef, out_types: Sequence[ArrayType]) -> list[Any]:
    """The leaves of a cotangent (`Zero` where the output has no derivative), checked against the outputs."""
    leaves, tree = tree_flatten(cotangent)
    if tree != out_tree:
        raise ValueError(
            f"unexpected tree structure of argument to {what}: the cotangent must have the structure of the output; "
            f"{structure_error('output', out_tree, 'cotangent', tree)}"
        )
    cts = []
    for x, t, path in zip(leaves, out_types, leaf_paths(out_tree)):
        expected = tangent_type(t)
        if isinstance(x, Zero):
            cts.append(x)
            continue
        shape, dtype = _shape_and_dtype(what, x)
        # What has no derivative takes any cotangent.
        if shape != t.shape or dtype != expected.dtype and expected.dtype != float0:
            raise ValueError(
                f"unexpected JAX type (e.g. shape/dtype) for argument to {what}: output{keystr(path)} is {t}, so its cotangent must be "
                f"{expected}, but got {dtype}{list(shape)}"
            )
        cts.append(Zero(expected) if expected.dtype == float0 else x)
    return cts


def linearize(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """`fun(*primals)` and its derivative there, a function from tangents to output tangents that repeats none of the work.

    Returns (outputs, linear function), with `has_aux` also the auxiliary data.
    """
    out, derivative, aux = _linearized("linearize", _Pushforward, fun, primals, has_aux)
    return (out, derivative, aux) if has_aux else (out, derivative)


def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False, reduce_axes: Sequence[Any] = ()) -> Any:
    """`fun(*primals)` and a function from a cotangent of the output to the tuple of the inputs' cotangents.

    Returns (outputs, vjp function), with `has_aux` also the auxiliary data. The vjp function is a pytree that holds the residuals.
    """
    out, derivative, aux = _linearized("vjp", _Pullback, fun, primals, has_aux)
    return (out, derivative, aux) if has_aux else (out, derivative)


def _linearized(
    what: str, kind: type[_Pushforward], fun: Callable[..., Any], primals: Sequence[Any], has_aux: bool
) -> tuple[Any, Any, Any]:
    check_callable(fun, what)
    leaves, tree = tree_flatten(tuple(primals))
    types = [leaf_type(what, lambda: argument_names(fun, primals, {}), i, x) for i, x in enumerate(leaves)]
    nonzero = [is_inexact(t.dtype) for t in types]
    flat = Flat(fun, tree, has_aux, what)
    lin = linearize_flat(flat, as_inputs(leaves), nonzero, flat.main)
    out, aux = flat.results(lin.outs)
    out_types = [type_of(x) for x in lin.outs[: flat.main()]]
    names = argument_names(fun, primals, {}) if kind is _Pushforward else []
    derivative = kind(lin.program, types, nonzero, tree, out_types, lin.nonzero_out, flat.out_tree, names)
    return out, Partial(derivative, lin.residuals), aux


def linear_transpose(fun: Callable[..., Any], *primals: Any, reduce_axes: Sequence[Any] = ()) -> Callable[..., Any]:
    """The transpose of `fun`, which must be linear: from a cotangent of its output to the tuple of its inputs' cotangents.

    primals: arrays, or whatever has their shapes and dtypes. Raises TypeError if inputs and outputs are not all inexact.
    """
    check_callable(fun, "linear_transpose")
    leaves, tree = tree_flatten(tuple(primals))
    names = functools.partial(argument_names, fun, primals, {})
    types = [leaf_type("linear_transpose", names, i, described(x)) for i, x in enumerate(leaves)]
    flat = Flat(fun, tree, False, "linear_transpose")
    program, captured = trace(flat, types, name_of(fun))
    program = separated(program, (False,) * len(captured) + (True,) * len(types))
    out_types = program.out_types
    if not all(is_inexact(t.dtype) for t in (*types, *out_types)) and not all(t.dtype.kind in "iu" for t in (*types, *out_types)):
        raise TypeError(
            "linear_transpose only supports functions whose inputs and outputs are all floating point or complex; "
            f"{name_of(fun)} takes {list(types)} and returns {list(out_types)}"
        )

    def transposed(cotangent: Any) -> Any:
        leaves, ct_tree = tree_flatten(cotangent)
        if ct_tree != flat.out_tree:
            raise TypeError(
                "linear_transpose: the cotangent must have the structure of the output; "
                f"{structure_error('output', flat.out_tree, 'cotangent', ct_tree)}"
            )
        for x, t in zip(leaves, out_types):
            shape, dtype = _shape_and_dtype("linear_transpose", x)
            if shape != t.shape or dtype != t.dtype:
                raise TypeError(
                    f"linear_transpose: the cotangent of an output {t} must be of that type, got {dtype}{list(shape)}"
                )
        cts = backward(program, [*captured, *[Linear(t) for t in types]], leaves)
        return tree_unflatten(
            tree, [derivative_result(ct if not isinstance(ct, Zero) else Zero(t.strong()), t) for ct, t in zip(cts, types)]
        )

    return transposed
