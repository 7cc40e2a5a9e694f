"""custom_jvp and custom_vjp: functions that bring their own derivative.

Traced values that such a function or its rules close over, or that come as arguments that are not differentiated, travel as extra leading
arguments (`closures.py`), so that the rules can be run wherever the derivative is asked for. What they may not be is differentiated: a rule
says nothing about them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops, source
from tracegrad.ir.array import Array
from tracegrad.ir.bind import eager, is_eager, type_of, using
from tracegrad.ir.calls import DerivativeRule, custom_jvp_call_p, custom_vjp_call_p
from tracegrad.ir.types import ArrayType, float0, is_inexact, tangent_type
from tracegrad.tracer.abstract import argument_names
from tracegrad.tracer.errors import UnexpectedTracerError
from tracegrad.tracer.pytree import TreeDef, keystr, leaf_paths, tree_flatten, tree_map, tree_unflatten
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.api import Flat, as_array, as_inputs, check_callable, leaf_type, name_of, spread
from tracegrad.transforms.closures import Holder, Lifted, lift
from tracegrad.transforms.custom_rules import apply_custom, closed_over
from tracegrad.transforms.zero import Zero, instantiate


class SymbolicZero:
    """A tangent or cotangent that is zero, as a rule with `symbolic_zeros=True` sees it."""

    __slots__ = ("aval",)

    def __init__(self, aval: ArrayType):
        self.aval = aval

    @classmethod
    def from_primal_value(cls, x: Any) -> SymbolicZero:
        """The symbolic zero among the tangents (and cotangents) of `x`."""
        return cls(tangent_type(type_of(x)))

    @property
    def weak_type(self) -> bool:
        return self.aval.weak

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


def zero_from_primal(x: Any, symbolic_zeros: bool = False) -> Any:
    """The zero tangent (or cotangent) of each leaf of `x`: zeros, of dtype float0 for integers and booleans, or `SymbolicZero`s."""

    def zero(leaf: Any) -> Any:
        symbolic = SymbolicZero.from_primal_value(leaf)
        return symbolic if symbolic_zeros else instantiate(Zero(symbolic.aval))

    return tree_map(zero, x)


def custom_vjp_primal_tree_values(tree: Any) -> Any:
    """The pytree with the values of its `CustomVJPPrimal`s in their places."""

    def value(x: Any) -> Any:
        if type(x) is not CustomVJPPrimal:
            raise TypeError(f"Expected a pytree whose leaves are CustomVJPPrimal objects, found leaf of type {type(x).__name__}")
        return x.value

    return tree_map(value, tree)


def arrays(values: Sequence[Any]) -> list[Any]:
    """Values as functions of the user get them: NumPy's become arrays, which have all methods; those of dtype float0 stay."""
    if not any([isinstance(x, (np.ndarray, np.generic)) and x.dtype != float0 for x in values]):
        return list(values)
    with using(eager()):
        return [as_array(x) if isinstance(x, (np.ndarray, np.generic)) else x for x in values]


class Custom(Holder):
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
        self._applications: dict[Any, Any] = {}

    def _positions(self, names: Sequence[str]) -> list[int]:
        if not names:
            return []
        order = list(inspect.signature(self.fun).parameters)
        for name in names:
            if name not in order:
                raise ValueError(f"{self.what}: nondiff_argnames names {name!r}, but {self.__name__} takes {', '.join(order)}")
        return [order.index(name) for name in names]

    def holding(self, *functions: Any) -> Any:
        new = super().holding(*functions)
        new._applications = {}  # they belong to the functions
        new.__wrapped__ = new.fun
        return new

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
        try:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            if bound.kwargs:
                raise TypeError(f"{', '.join(map(repr, bound.kwargs))} can be passed by keyword only, and rules take no keywords")
        except TypeError as e:
            raise TypeError(
                f"The input arguments to the {self.what}-decorated function {self.__name__} could not be resolved to positional-only "
                f"arguments. Binding failed with the error:\n{e}"
            ) from None
        return bound.args

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], TreeDef, tuple[Any, ...], int]:
        """(the leaves of the arguments that rules see as arrays, their structure, the other arguments, how many there are in all)."""
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
        return arrays(as_inputs(leaves)), in_tree, nondiff, n

    def _call(self, primitive: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, in_tree, nondiff, n = self._split(args, kwargs)
        held = None if is_eager() else lift((self, nondiff))
        if held is None:
            values: list[Any] = []
            application: Any = self._application(in_tree, nondiff, n)
        else:
            values = held[1]
            direct = [id(x) for x in tree_flatten(nondiff)[0]]
            application = _ClosedApplication(self, held[0], [id(v) in direct for v in values], in_tree, n)
        outs = apply_custom(primitive, application.flat, application.rule, [*values, *leaves])
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


class _ClosedApplication:
    """A custom function with the values that it and its rules close over as leading arguments."""

    __slots__ = ("lifted", "nondiff", "in_tree", "n", "name", "what", "out_tree", "rule")

    def __init__(self, custom: Custom, lifted: Lifted, nondiff: list[bool], in_tree: TreeDef, n: int):
        self.lifted = lifted
        self.nondiff = nondiff  # which of the values are arguments rather than in closures
        self.in_tree = in_tree
        self.n = n
        self.name = custom.__name__
        self.what = custom.what
        if custom.what == "custom_jvp":
            self.rule = DerivativeRule(self.name, jvp=self.jvp)
        else:
            self.rule = DerivativeRule(self.name, fwd=self.fwd, bwd=self.bwd)

    @property
    def flat(self) -> _ClosedApplication:
        return self

    def at(self, values: Sequence[Any]) -> _Application:
        custom, nondiff = self.lifted.at(values)
        return custom._make(self.in_tree, nondiff, self.n)

    def split(self, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        k = len(self.nondiff)
        return values[:k], values[k:]

    def __call__(self, *values: Any) -> list[Any]:
        held, leaves = self.split(values)
        inner = self.at(held)
        outs = inner.flat(*leaves)
        self.out_tree = inner.flat.out_tree
        return outs

    def guarded(self, held: Sequence[Any], nonzero: Sequence[bool]) -> list[Any]:
        """The held values; those with a derivative may not be used, except arguments of custom_jvp, which count as constants."""
        results = []
        for x, nz, nondiff in zip(held, nonzero, self.nondiff):
            if nz and nondiff and self.what == "custom_vjp":
                raise UnexpectedTracerError(
                    f"custom_vjp: {self.name} is differentiated with respect to an argument in a position that nondiff_argnums names, but "
                    "its rule gives no cotangent for it. Leave the position out of nondiff_argnums and return its cotangent (None for zero) "
                    "from the bwd rule, or pass stop_gradient of the argument."
                )
            results.append(ClosedOverTracer(x, self.what, self.name) if nz and not nondiff else x)
        return results

    def guarded_at(self, values: Sequence[Any], nonzero: Sequence[bool]) -> tuple[_Application, Sequence[Any]]:
        """(the application for rules to be run of, its arguments). Raises if the function computes with a value that is guarded."""
        held, leaves = self.split(values)
        guarded = self.guarded(held, nonzero)
        inner = self.at(guarded)
        if any([type(x) is ClosedOverTracer for x in guarded]):
            # A rule that does not mention the value would otherwise pass for a derivative of zero.
            inner.flat(*leaves)
        return inner, leaves

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        inner, leaves = self.guarded_at(primals, [type(t) is not Zero for t in tangents])
        results = _flat_jvp(inner, leaves, self.split(tangents)[1])
        self.out_tree = inner.flat.out_tree
        return results

    def fwd(self, primals: Sequence[Any], nonzero: Sequence[bool]) -> tuple[list[Any], list[Any], Any]:
        held, _ = self.split(primals)
        inner, leaves = self.guarded_at(primals, nonzero)
        outs, residuals, token = _flat_fwd(inner, leaves, self.split(nonzero)[1])
        self.out_tree = inner.flat.out_tree
        return outs, [*held, *residuals], (token, tuple(nonzero))

    def bwd(self, residuals: Sequence[Any], cts: Sequence[Any], token: Any) -> list[Any]:
        inner_token, nonzero = token
        held, rest = self.split(residuals)
        inner = self.at(self.guarded(held, nonzero))
        return [None] * len(held) + _flat_bwd(inner, rest, cts, inner_token)


class _Dead:
    """Where values belong that may not be used."""

    closed = True


class ClosedOverTracer(Tracer):
    """A value with a derivative that a custom function or its rule closes over; its type may be asked for, computing with it is an error."""

    __slots__ = ("primal", "what", "custom_name")

    def __init__(self, primal: Any, what: str, custom_name: str):
        super().__init__(_Dead, type_of(primal))
        self.primal = primal
        self.what = what
        self.custom_name = custom_name

    def concrete(self, error: type[Exception]) -> Any:
        if isinstance(self.primal, Tracer):
            return self.primal.concrete(error)
        return self.primal if isinstance(self.primal, Array) else as_array(self.primal)

    def refusal(self) -> str:
        return closed_over(self.what, self.custom_name)


class custom_jvp(Custom):
    """A function whose derivative is defined by the user, for forward mode and so for all modes.

    `f = custom_jvp(f)`, then `f.defjvp(rule)` with `rule(*nondiff_args, primals, tangents) -> (output, output tangent)`; the output
    tangent must be linear in the tangents. nondiff_argnums: positions of arguments that are not arrays, or not differentiated.
    """

    what = "custom_jvp"
    functions = ("fun", "jvp")
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
            if len(jvps) != len(primals):
                raise ValueError(
                    f"defjvps: {self.__name__} was called with {len(primals)} arguments, but defjvps got {len(jvps)} rules; "
                    "give one rule for each argument, None where the derivative is zero"
                )
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
        pair = custom.jvp(  # type: ignore[misc]
            *a.nondiff, tree_unflatten(a.in_tree, arrays(primals)), tree_unflatten(a.in_tree, arrays(shown))
        )
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
        if isinstance(t, (SymbolicZero, Zero)):
            checked.append(Zero(expected))
            continue
        got = ArrayType(t.shape, float0) if isinstance(t, np.ndarray) and t.dtype == float0 else type_of(t)
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise TypeError(
                f"{names} must produce primal and tangent outputs with corresponding shapes and dtypes. Expected {expected} "
                f"(tangent type of {type_of(x)}) but got {got} at output{keystr(path)}"
            )
        checked.append(Zero(expected) if expected.dtype == float0 else t)
    return outs, checked


class custom_vjp(Custom):
    """A function whose reverse-mode derivative is defined by the user.

    `f = custom_vjp(f)`, then `f.defvjp(fwd, bwd)` with `fwd(*args) -> (output, residuals)` and `bwd(*nondiff_args, residuals, cotangent) ->`
    a tuple with the cotangent of each argument, None for zero. nondiff_argnums: positions of arguments that are not differentiated.
    """

    what = "custom_vjp"
    functions = ("fun", "fwd", "bwd")
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
    given: Sequence[Any] = arrays(primals)
    if custom.symbolic_zeros:
        given = [CustomVJPPrimal(x, bool(nz)) for x, nz in zip(given, nonzero, strict=True)]
    args = a.all_arguments(tree_unflatten(a.in_tree, given))
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
    # Python's numbers stay what they are: bwd may branch on them.
    numbers = tuple([(i, type(x), x) for i, x in enumerate(residuals) if type(x) in _NUMBERS])
    values = [x for x in residuals if type(x) not in _NUMBERS]
    return outs, values, (res_tree, numbers, out_tree, tuple([type_of(x) for x in primals]))


_NUMBERS = frozenset({bool, int, float, complex})


def _flat_bwd(a: _Application, residuals: Sequence[Any], cts: Sequence[Any], token: Any) -> list[Any]:
    custom: custom_vjp = a.custom
    res_tree, numbers, out_tree, in_types = token
    values = arrays(residuals)
    for i, _, number in numbers:  # in ascending order
        values.insert(i, number)
    names = f"Custom VJP bwd rule {name_of(custom.bwd)} for function {custom.__name__}"
    shown = [SymbolicZero(ct.type) if custom.symbolic_zeros and type(ct) is Zero else instantiate(ct) for ct in cts]
    with source.looking_at_stack():
        found = custom.bwd(*a.nondiff, tree_unflatten(res_tree, values), tree_unflatten(out_tree, arrays(shown)))  # type: ignore[misc]
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
