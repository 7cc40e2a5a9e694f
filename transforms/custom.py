"""custom_jvp and custom_vjp: functions that bring their own derivative."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir import ops, source
from tracegrad.ir.bind import type_of
from tracegrad.ir.calls import DerivativeRule, custom_jvp_call_p, custom_vjp_call_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.types import ArrayType, is_inexact, tangent_type
from tracegrad.tracer.abstract import argument_names, traced
from tracegrad.tracer.pytree import TreeDef, keystr, leaf_paths, register_pytree_node, tree_flatten, tree_map, tree_unflatten
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.api import Flat, as_array, as_inputs, check_callable, leaf_type, name_of, spread
from tracegrad.transforms.custom_rules import apply_custom
from tracegrad.transforms.zero import Zero, instantiate


class SymbolicZero:
    """A tangent or cotangent that is zero, as a rule with `symbolic_zeros=True` sees it."""

    __slots__ = ("aval",)

    def __init__(self, aval: ArrayType):
        self.aval = aval

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> Any:
        return self.aval.dtype

    @property
    def ndim(self) -> int:
        return self.aval.ndim

    @property
    def size(self) -> int:
        return self.aval.size

    def __repr__(self) -> str:
        return f"SymbolicZero({self.aval})"


class CustomVJPPrimal:
    """An argument of a custom_vjp's fwd with `symbolic_zeros=True`: its value, and whether a derivative with respect to it is wanted."""

    __slots__ = ("value", "perturbed")

    def __init__(self, value: Any, perturbed: bool):
        self.value = value
        self.perturbed = perturbed

    def __repr__(self) -> str:
        return f"CustomVJPPrimal({self.value!r}, perturbed={self.perturbed})"


class _Custom:
    """What custom_jvp and custom_vjp share: resolving arguments, keeping those that are not differentiated apart, flattening."""

    what = ""

    def __init__(self, fun: Callable[..., Any], nondiff_argnums: Sequence[int] = (), nondiff_argnames: Sequence[str] = ()):
        check_callable(fun, self.what)
        functools.update_wrapper(self, fun, updated=())
        self.fun = fun
        self.__name__ = name_of(fun)
        if isinstance(nondiff_argnums, int):
            nondiff_argnums = (nondiff_argnums,)
        if isinstance(nondiff_argnames, str):
            nondiff_argnames = (nondiff_argnames,)
        self.nondiff_argnums = tuple(sorted({*nondiff_argnums, *self._positions(nondiff_argnames)}))
        self._applications: dict[Any, _Application] = {}

    def _positions(self, names: Sequence[str]) -> list[int]:
        if not names:
            return []
        order = list(inspect.signature(self.fun).parameters)
        for name in names:
            if name not in order:
                raise ValueError(f"{self.what}: nondiff_argnames names {name!r}, but {self.__name__} takes {', '.join(order)}")
        return [order.index(name) for name in names]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is called; use custom_jvp or custom_vjp")

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def _resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments by position, defaults included."""
        try:
            signature = inspect.signature(self.fun)
        except (TypeError, ValueError):
            if kwargs:
                raise TypeError(f"{self.what}: {self.__name__} has no signature to resolve keyword arguments by") from None
            return args
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.kwargs:
            raise TypeError(
                f"The following keyword arguments could not be resolved to positions: {', '.join(map(repr, bound.kwargs))}; "
                f"the rule of the {self.what} function {self.__name__} takes positional arguments only"
            )
        return bound.args

    def _call(self, primitive: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = self._resolved(args, kwargs)
        n = len(args)
        for i in self.nondiff_argnums:
            if not -n <= i < n:
                raise ValueError(
                    f"{self.what}: nondiff_argnums names argument {i}, but {self.__name__} was called with {n} arguments"
                )
        fixed = {i % n for i in self.nondiff_argnums} if self.nondiff_argnums else set()
        dynamic = tuple([a for i, a in enumerate(args) if i not in fixed])
        nondiff = tuple([args[i] for i in sorted(fixed)])
        leaves, in_tree = tree_flatten(dynamic)
        for i, x in enumerate(leaves):
            leaf_type(f"the {self.what} function {self.__name__}", lambda: argument_names(self.fun, args, {}), i, x)
        application = self._application(in_tree, nondiff, n)
        outs = apply_custom(primitive, application.flat, application.rule, as_inputs(leaves))
        return tree_unflatten(application.flat.out_tree, [as_array(x) for x in outs])

    def _application(self, in_tree: TreeDef, nondiff: tuple[Any, ...], n: int) -> _Application:
        # Applications with equal structure share a rule, so that the programs they are recorded in are equal, too.
        key = (in_tree, nondiff, n)
        try:
            known = self._applications.get(key)
        except (TypeError, ValueError):
            return self._make(in_tree, nondiff, n)
        if known is None:
            if len(self._applications) > 256:
                self._applications.clear()
            known = self._applications[key] = self._make(in_tree, nondiff, n)
        return known

    def _make(self, in_tree: TreeDef, nondiff: tuple[Any, ...], n: int) -> _Application:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is applied; use custom_jvp or custom_vjp")


class _Application:
    """A custom function for one structure of arguments: the flat function and its flat rule."""

    __slots__ = ("custom", "nondiff", "in_tree", "flat", "rule", "positions")
    rule: DerivativeRule

    def __init__(self, custom: Any, in_tree: TreeDef, nondiff: tuple[Any, ...], n: int):
        self.custom = custom
        self.nondiff = nondiff
        self.in_tree = in_tree
        fixed = sorted({i % n for i in custom.nondiff_argnums}) if custom.nondiff_argnums else []
        self.positions = [fixed.index(i) if i in fixed else None for i in range(n)]
        self.flat = Flat(custom.fun, in_tree, False, custom.what, lambda args: custom.fun(*self.all_arguments(args)))

    def all_arguments(self, dynamic: Sequence[Any]) -> list[Any]:
        """The arguments in their places, from those that are differentiated."""
        it = iter(dynamic)
        return [next(it) if i is None else self.nondiff[i] for i in self.positions]


class custom_jvp(_Custom):
    """A function whose derivative is defined by the user, for forward mode and so for all modes.

    `f = custom_jvp(f)`, then `f.defjvp(rule)` with `rule(*nondiff_args, primals, tangents) -> (output, output tangent)`; the output
    tangent must be linear in the tangents. nondiff_argnums: positions of arguments that are not arrays, or not differentiated.
    """

    what = "custom_jvp"
    jvp: Callable[..., Any] | None = None
    symbolic_zeros = False

    def defjvp(self, jvp: Callable[..., Any], symbolic_zeros: bool = False) -> Callable[..., Any]:
        """Set the rule; returns it. With `symbolic_zeros`, tangents that are zero come as `SymbolicZero`."""
        check_callable(jvp, "defjvp")
        self.jvp = jvp
        self.symbolic_zeros = symbolic_zeros
        self._applications.clear()
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """Set the rule by one function per argument: `jvp_i(tangent_i, output, *primals)`; None for a derivative of zero."""
        if self.nondiff_argnums:
            raise TypeError("Can't use ``defjvps`` with ``nondiff_argnums``; use defjvp")

        def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
            out = self(*primals)
            leaves, tree = tree_flatten(out)
            totals: list[Any] = [Zero(tangent_type(type_of(x))) for x in leaves]
            for rule, t in zip(jvps, tangents):
                if rule is None or isinstance(t, SymbolicZero):
                    continue
                terms = tree_flatten(rule(t, out, *primals))[0]
                totals = [x if isinstance(total, Zero) else ops.add(total, x) for total, x in zip(totals, terms)]
            return out, tree_unflatten(tree, [SymbolicZero(t.type) if isinstance(t, Zero) else t for t in totals])

        self.defjvp(jvp, symbolic_zeros=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.jvp is None:
            raise AttributeError(f"No JVP defined for custom_jvp function {self.__name__} using defjvp.")
        return self._call(custom_jvp_call_p, args, kwargs)

    def _make(self, in_tree: TreeDef, nondiff: tuple[Any, ...], n: int) -> _Application:
        application = _Application(self, in_tree, nondiff, n)
        application.rule = DerivativeRule(self.__name__, jvp=functools.partial(_flat_jvp, application))
        return application


def _flat_jvp(a: _Application, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    custom: custom_jvp = a.custom
    names = f"Custom JVP rule {name_of(custom.jvp)} for function {custom.__name__}"
    shown = [SymbolicZero(t.type) if custom.symbolic_zeros and type(t) is Zero else instantiate(t) for t in tangents]
    with source.looking_at_stack():
        pair = custom.jvp(*a.nondiff, tree_unflatten(a.in_tree, primals), tree_unflatten(a.in_tree, shown))  # type: ignore[misc]
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise TypeError(
            f"{names} must produce a pair (list or tuple of length two) representing primal and tangent outputs, but got {pair!r:.200}"
        )
    outs, out_tree = tree_flatten(pair[0])
    dots, dot_tree = tree_flatten(pair[1])
    if out_tree != dot_tree:
        raise TypeError(
            f"{names} must produce primal and tangent outputs with equal container (pytree) structures, "
            f"but got {out_tree} and {dot_tree} respectively"
        )
    a.flat.out_tree = out_tree
    checked = []
    for x, t, path in zip(outs, dots, leaf_paths(out_tree)):
        expected = tangent_type(type_of(x))
        if isinstance(t, (SymbolicZero, Zero)) or not is_inexact(expected.dtype):
            checked.append(Zero(expected))
            continue
        got = type_of(t)
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise TypeError(
                f"{names} must produce primal and tangent outputs with corresponding shapes and dtypes. Expected {expected} "
                f"(tangent type of {type_of(x)}) but got {got} at output{keystr(path)}"
            )
        checked.append(t)
    return outs, checked


class custom_vjp(_Custom):
    """A function whose reverse-mode derivative is defined by the user.

    `f = custom_vjp(f)`, then `f.defvjp(fwd, bwd)` with `fwd(*args) -> (output, residuals)` and `bwd(*nondiff_args, residuals, cotangent) ->`
    a tuple with the cotangent of each argument, None for zero. nondiff_argnums: positions of arguments that are not differentiated.
    """

    what = "custom_vjp"
    fwd: Callable[..., Any] | None = None
    bwd: Callable[..., Any] | None = None
    symbolic_zeros = False

    def defvjp(
        self, fwd: Callable[..., Any], bwd: Callable[..., Any], symbolic_zeros: bool = False, optimize_remat: bool = False
    ) -> None:
        """Set the rules. With `symbolic_zeros`, fwd gets `CustomVJPPrimal`s and bwd may get `SymbolicZero`s. optimize_remat is accepted."""
        check_callable(fwd, "defvjp")
        check_callable(bwd, "defvjp")
        self.fwd, self.bwd, self.symbolic_zeros = fwd, bwd, symbolic_zeros
        self._applications.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.fwd is None or self.bwd is None:
            raise AttributeError(f"No VJP defined for custom_vjp function {self.__name__} using defvjp.")
        return self._call(custom_vjp_call_p, args, kwargs)

    def _make(self, in_tree: TreeDef, nondiff: tuple[Any, ...], n: int) -> _Application:
        application = _Application(self, in_tree, nondiff, n)
        application.rule = DerivativeRule(
            self.__name__, fwd=functools.partial(_flat_fwd, application), bwd=functools.partial(_flat_bwd, application)
        )
        return application


def _flat_fwd(a: _Application, primals: Sequence[Any], nonzero: Sequence[bool]) -> tuple[list[Any], list[Any], Any]:
    custom: custom_vjp = a.custom
    names = f"Custom VJP fwd rule {name_of(custom.fwd)} for function {custom.__name__}"
    given: Sequence[Any] = primals
    if custom.symbolic_zeros:
        given = [CustomVJPPrimal(x, bool(nz)) for x, nz in zip(primals, nonzero, strict=True)]
    args = a.all_arguments(tree_unflatten(a.in_tree, given))
    if custom.symbolic_zeros:
        args = [tree_map(lambda x: CustomVJPPrimal(x, False), x) if i is not None else x for i, x in zip(a.positions, args)]
    with source.looking_at_stack():
        pair = custom.fwd(*args)  # type: ignore[misc]
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise TypeError(
            f"{names} must produce a pair (list or tuple of length two) where the first element represents the primal output and the "
            f"second element represents residuals (i.e. values stored for the bwd computation), but got {pair!r:.200}"
        )
    outs, out_tree = tree_flatten(pair[0])
    residuals, res_tree = tree_flatten(pair[1])
    for x, path in zip(residuals, leaf_paths(res_tree)):
        try:
            type_of(x)
        except TypeError:
            raise TypeError(f"{names}: residual{keystr(path)} is {x!r:.200}, which is not an array or a number") from None
    a.flat.out_tree = out_tree
    return outs, residuals, (res_tree, out_tree, tuple([type_of(x) for x in primals]))


def _flat_bwd(a: _Application, residuals: Sequence[Any], cts: Sequence[Any], token: Any) -> list[Any]:
    custom: custom_vjp = a.custom
    res_tree, out_tree, in_types = token
    names = f"Custom VJP bwd rule {name_of(custom.bwd)} for function {custom.__name__}"
    shown = [SymbolicZero(ct.type) if custom.symbolic_zeros and type(ct) is Zero else instantiate(ct) for ct in cts]
    with source.looking_at_stack():
        found = custom.bwd(*a.nondiff, tree_unflatten(res_tree, residuals), tree_unflatten(out_tree, shown))  # type: ignore[misc]
    if isinstance(found, list):
        found = tuple(found)
    example = tree_unflatten(a.in_tree, range(len(in_types)))
    try:
        if not isinstance(found, tuple) or len(found) != len(example):
            raise ValueError
        leaves = spread(found, example)
    except ValueError:
        raise TypeError(
            f"{names} must produce an output with the same container (pytree) structure as the args tuple of the primal function, and in "
            f"particular must produce a tuple of length {len(example)} equal to the number of arguments to the primal function (those "
            f"not in nondiff_argnums), but got bwd output structure {tree_flatten(found)[1]} for primal input structure {a.in_tree}"
        ) from None
    results: list[Any] = []
    for ct, t, path in zip(leaves, in_types, leaf_paths(a.in_tree)):
        expected = tangent_type(t)
        if ct is None or isinstance(ct, (SymbolicZero, Zero)) or not is_inexact(expected.dtype):
            results.append(None)
            continue
        got = type_of(ct)
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise ValueError(
                f"{names} must produce an output with the same shape/dtypes as the args tuple of the primal function, but at "
                f"output{keystr(path)} the bwd rule produced an output of shape/dtype {got} corresponding to an input of shape/dtype {t}"
            )
        results.append(ct)
    return results


def custom_gradient(fun: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose reverse-mode derivative `fun` computes beside its value: `fun(*args) -> (output, vjp function)`.

    The vjp function maps a cotangent of the output to the cotangents of the arguments (one, or a tuple). It may close over values that
    `fun` computed.
    """
    check_callable(fun, "custom_gradient")

    @functools.wraps(fun, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return fun(*args, **kwargs)[0]

    def fwd(*args: Any) -> Any:
        out, rule = fun(*args)
        example = tree_map(lambda x: instantiate(Zero(tangent_type(type_of(x)))), out)
        converted, consts = closure_convert(rule, example)
        return out, (consts, _Static(converted))

    def bwd(residuals: Any, ct: Any) -> Any:
        consts, converted = residuals
        cts = converted.value(ct, *consts)
        return cts if isinstance(cts, tuple) else (cts,)

    primal = custom_vjp(wrapped)
    primal.defvjp(fwd, bwd)
    return primal


class _Static:
    """A value that rides along in a pytree without being a leaf."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value


register_pytree_node(_Static, lambda s: ((), s.value), lambda value, _: _Static(value))


def closure_convert(fun: Callable[..., Any], *example_args: Any) -> tuple[Callable[..., Any], list[Any]]:
    """`fun` with the traced values it closes over made explicit: (function of (*args, *values), values).

    For custom rules of functions that take functions: what the function argument captures can be differentiated this way.
    """
    check_callable(fun, "closure_convert")
    result = traced(fun, example_args, {})
    hoisted = [isinstance(x, Tracer) and is_inexact(type_of(x).dtype) for x in result.captured]
    consts = [x for x, h in zip(result.captured, hoisted) if h]
    kept = [None if h else x for x, h in zip(result.captured, hoisted)]
    _, in_tree = tree_flatten((example_args, {}))

    def converted(*args_and_consts: Any) -> Any:
        n = len(example_args)
        leaves, tree = tree_flatten((args_and_consts[:n], {}))
        if tree != in_tree:
            raise TypeError(f"closure_convert: the converted function was made for arguments {in_tree}, got {tree}")
        given = iter(args_and_consts[n:])
        captured = [next(given) if h else x for x, h in zip(kept, hoisted)]
        return tree_unflatten(result.out_tree, run(result.program, *captured, *leaves))

    converted.__name__ = name_of(fun)
    return converted, consts
