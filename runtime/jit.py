"""`jit`: trace, transform, generate, run. The only file that sees the whole road.

A jitted function keeps what it has traced, by the structure of its arguments, their types (weakness included), the values of static
arguments and the flags that change tracing; and what it has compiled, beside it. Under another interpreter (inside another jit,
under grad or vmap) a call is an equation `call` that holds the traced program.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from numpy import ndarray

from tracegrad.ir import bind
from tracegrad.ir.calls import call_p
from tracegrad.ir.config import config
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program, Var, param_bytes
from tracegrad.ir.types import ArrayType
from tracegrad.runtime import dispatch, eager, warmup
from tracegrad.runtime.array import ArrayImpl
from tracegrad.runtime.executable import Executable
from tracegrad.tracer import abstract
from tracegrad.tracer.control_flow import TracedFunction
from tracegrad.tracer.pytree import tree_flatten, tree_unflatten
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.batch import named_axes
from tracegrad.transforms.closures import Holder
from tracegrad.transforms.pipeline import optimize

_interpreter = bind.chosen
_overridden = config.overridden
_NUMBERS = frozenset({bool, int, float, complex})


def _kind(x: Any) -> Any:
    """What a value that is not an array of ours is recognized by."""
    return (x.dtype, x.shape) if type(x) is ndarray else type(x)


class Traced:
    """One tracing of a function: its program, what it captured, the structure of its results; compiled when first run.

    donated: the leaves whose arrays a call takes over.
    """

    __slots__ = ("program", "captured", "out_tree", "name", "_executable", "tracers", "inner", "donated", "unfit", "calls")

    def __init__(self, traced: TracedFunction, name: str):
        self.name = name
        self.out_tree = traced.out_tree
        self.inner: tuple[Program, list[Any]] = (traced.program, traced.captured)
        self.tracers = any(isinstance(x, Tracer) for x in traced.captured)
        self.program, self.captured = abstract.with_constants(traced.program, traced.captured)
        self.donated: tuple[int, ...] = ()
        self.unfit = 0
        self.calls = 0
        self._executable: Executable | None = None

    @property
    def executable(self) -> Executable:
        if self._executable is None:
            self._executable = Executable(self.program, optimize(self.program), self.name, self.donated_inputs)
        return self._executable

    @property
    def donated_inputs(self) -> tuple[int, ...]:
        """The inputs of the program whose arrays a call takes over."""
        return tuple([len(self.captured) + i for i in self.donated])

    def run(self, leaves: Sequence[Any]) -> list[ArrayImpl]:
        if not self.donated:
            return self.executable([*self.captured, *leaves] if self.captured else leaves)
        for i in self.donated:
            if any(x is leaves[i] for j, x in enumerate(leaves) if j != i) and isinstance(leaves[i], ArrayImpl):
                raise ValueError(
                    f"{self.name}: the array {leaves[i].aval} is passed twice and donated (leaf {i} of the arguments); what is donated "
                    "cannot be used again, not even by the same call"
                )
        outs = self.executable([*self.captured, *leaves])
        for i in self.donated:
            if isinstance(leaves[i], ArrayImpl):
                leaves[i].delete()
        return outs

    def bound(self, leaves: Sequence[Any], inline: bool) -> tuple[Any, ...]:
        """Apply it under the current interpreter, as a call."""
        program, captured = self.inner
        return bind.bind(call_p, *captured, *leaves, program=program, name=self.name, inline=inline)

    def donate(self, wanted: Sequence[int]) -> None:
        """Take over those of the wanted leaves that are like an output; warn about the others."""
        types = self.inner[0].in_types[len(self.inner[1]) :]
        free = [(t.shape, t.dtype) for t in self.program.out_types]
        useless = []
        for i in wanted:
            like = (types[i].shape, types[i].dtype)
            if like in free:
                free.remove(like)
                self.donated += (i,)
            else:
                useless.append(types[i])
        if useless:
            warnings.warn(
                f"Some donated buffers were not usable: {', '.join(map(str, useless))}. No result of {self.name} has their shape and dtype.",
                stacklevel=5,
            )


class JitFunction(dispatch.Callable, Holder):
    """A function compiled when called. Made by `jit`."""

    functions = ("_fun",)

    def __init__(self, fun: Callable[..., Any], static: _Named, donate: _Named, inline: bool):
        functools.update_wrapper(self, fun)
        self._fun = fun
        self._static = static
        self._inline = inline
        self._donate = donate
        self._traces = _shared_traces(fun, (static.key, donate.key, inline))
        self._name = getattr(fun, "__name__", type(fun).__name__)
        # The trace that was used last, and how the arguments of the last call could be recognized without flattening them.
        self._recent: tuple[Any, Traced] | None = None
        # One tuple, replaced as a whole: other threads may call, too, and must never pair these kinds with another's executable.
        self._quick: tuple[int, list[Any], Executable, Any] | None = None
        self._tables: dispatch.Tables | None = None
        _functions.add(self)

    def holding(self, *functions: Any) -> JitFunction:
        (fun,) = functions
        return JitFunction(fun, self._static, self._donate, self._inline)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        quick = self._quick
        if quick is not None and not kwargs and _interpreter() is None and _overridden() is None:
            epoch, kinds, executable, tree = quick
            # The arguments of the last call again, arrays and numbers of the same types; no flag and no transformation in the way.
            if epoch == config.epoch and [_kind(x) if type(x) is not ArrayImpl else x.aval for x in args] == kinds:
                outs = executable(args)
                return outs[0] if tree is None else tree_unflatten(tree, outs)
        if config.disable_jit:
            return self._fun(*args, **kwargs)
        traced, leaves, _ = self._prepare(args, kwargs)
        if not bind.is_eager() or traced.tracers or any([isinstance(x, Tracer) for x in leaves]):
            return tree_unflatten(traced.out_tree, traced.bound(leaves, self._inline))
        if config.debug_nans or config.debug_infs:
            return self._run_checked(traced, leaves, args, kwargs)
        result = tree_unflatten(traced.out_tree, traced.run(leaves))
        if not traced.captured:
            # The next call with arguments like these is native, or at least short.
            native = dispatch.offer(self, args, kwargs, leaves, traced)
            if native is False and not kwargs and not traced.donated and len(args) == len(leaves):
                self._remember(args, leaves, traced)
        return result

    def _remember(self, args: tuple[Any, ...], leaves: Sequence[Any], traced: Traced) -> None:
        """Let the next call with arguments like these take the short way, if they are plain arrays and numbers."""
        kinds = [_kind(x) if type(x) is not ArrayImpl else x.aval for x in args]
        if all([x is y for x, y in zip(args, leaves)]) and all([type(k) in (ArrayType, tuple) or k in _NUMBERS for k in kinds]):
            if _overridden() is None and self._static.none:
                tree = None if traced.out_tree.is_leaf() else traced.out_tree
                self._quick = (config.epoch, kinds, traced.executable, tree)

    def _run_checked(self, traced: Traced, leaves: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run under debug_nans or debug_infs: what is not finite is looked for once more one operation at a time, to name it."""
        outs = traced.run(leaves)
        try:
            eager.check_finite(self._name, outs)
        except FloatingPointError:
            if not traced.donated:
                with config.override("disable_jit", True):
                    self._fun(*args, **kwargs)
            raise
        return tree_unflatten(traced.out_tree, outs)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Traced, list[Any], Any]:
        """The trace for these arguments, from the cache or new, and the leaves and structure of the dynamic ones."""
        if self._static.none:
            dynamic: Any = (args, kwargs)
            fixed = None
        else:
            dynamic, fixed = self._static.split(args, kwargs)
        leaves, tree = tree_flatten(dynamic)
        try:
            types = tuple([x.aval if type(x) is ArrayImpl else bind.type_of(x) for x in leaves])
        except TypeError:
            types = tuple(abstract.leaf_types(leaves, abstract.argument_names(self._fun, *dynamic), self._name))
        key = (tree, types, fixed, config.trace_key(), named_axes())
        recent = self._recent
        if recent is not None and recent[0] == key:
            return recent[1], leaves, tree
        traced = self._traces.get(key)
        if traced is None:
            traced = self._trace(args, dynamic, tree, types, fixed)
            if not traced.tracers:
                self._traces[key] = traced
        if not traced.tracers:
            self._recent = (key, traced)
        return traced, leaves, tree

    def _trace(self, args: tuple[Any, ...], dynamic: Any, tree: Any, types: Sequence[ArrayType], fixed: Any) -> Traced:
        fun = self._fun if fixed is None else self._static.rejoined(self._fun, fixed)

        def on_pair(args: Any, kwargs: Any) -> Any:
            return fun(*args, **kwargs)

        on_pair.__name__ = self._name
        traced = Traced(TracedFunction(on_pair, tree, types), self._name)
        inputs = traced.program.inputs[len(traced.captured) :]
        for var, name in zip(inputs, abstract.argument_names(self._fun, *dynamic) if fixed is None else ()):
            var.name = var.name or name
        if not self._donate.none:
            traced.donate(self._donated(len(args), dynamic))
        return traced

    def _donated(self, count: int, dynamic: Any) -> list[int]:
        """The positions, among the leaves, of the arguments to be donated."""
        args, kwargs = dynamic
        static, donate = self._static.argnums, self._donate
        flags: list[bool] = []
        for i, x in zip([i for i in range(count) if i not in static], args):
            flags += [i in donate.argnums] * len(tree_flatten(x)[0])
        for name in sorted(kwargs):
            flags += [name in donate.argnames] * len(tree_flatten(kwargs[name])[0])
        return [i for i, flag in enumerate(flags) if flag]

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """What the compiler makes of the function for these arguments (arrays, numbers or ShapeDtypeStructs): a `Lowered`."""
        return self.trace(*args, **kwargs).lower()

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """The traced function, not yet lowered: a `stages.Traced`."""
        from tracegrad.runtime import stages  # it imports this module's neighbours, which most programs do not need

        traced, _, tree = self._prepare(args, kwargs)
        return stages.Traced(traced, tree)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """The shapes and dtypes of the results, without running or compiling."""
        traced, _, _ = self._prepare(args, kwargs)
        program = traced.inner[0]
        shapes = [abstract.ShapeDtypeStruct(t.shape, t.dtype, weak_type=t.weak) for t in program.out_types]
        return tree_unflatten(traced.out_tree, shapes)

    def clear_cache(self) -> None:
        """Forget all that was traced and compiled."""
        self._traces.clear()
        self._recent = self._quick = None
        dispatch.forget(self)

    def _cache_size(self) -> int:
        return len(self._traces)

    def __copy__(self) -> JitFunction:
        return self.holding(self._fun)

    def __deepcopy__(self, memo: Any) -> JitFunction:
        return self.holding(self._fun)

    def __reduce__(self) -> Any:
        return JitFunction, (self._fun, self._static, self._donate, self._inline)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<jitted {self._fun!r}>"


dispatch.calls_through(JitFunction)


class _Named:
    """Some of a function's arguments, named by position, by name or both. Static ones are passed to the function as they are and part
    of the key of its traces."""

    def __init__(self, what: str, fun: Callable[..., Any], argnums: tuple[int, ...], argnames: tuple[str, ...]):
        self.name = getattr(fun, "__name__", type(fun).__name__)
        try:
            parameters = list(inspect.signature(fun).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
        keywords = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        for i in argnums:
            if parameters and not variadic and not -len(positional) <= i < len(positional):
                raise ValueError(
                    f"jit of {self.name}: {what}_argnums names argument {i}, but the function takes {len(positional)} positional arguments"
                )
        for n in argnames:
            if parameters and not keywords and n not in names:
                raise ValueError(
                    f"jit of {self.name}: {what}_argnames names {n!r}, but the parameters are {', '.join(sorted(names))}"
                )
        numbers = {i % len(positional) if positional and i < 0 else i for i in argnums}
        # Named either way, an argument is static however it is passed.
        self.argnames = frozenset(argnames) | {positional[i] for i in numbers if i < len(positional)}
        self.argnums = frozenset(numbers | {positional.index(n) for n in argnames if n in positional})
        self.none = not (self.argnames or self.argnums)
        self.key = (self.argnames, self.argnums)

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """((dynamic args, dynamic kwargs), the static ones as a hashable key). Raises ValueError for static values without a hash."""
        fixed = [(i, args[i]) for i in sorted(self.argnums) if i < len(args)]
        named = [(k, kwargs[k]) for k in sorted(kwargs) if k in self.argnames]
        for label, value in (*fixed, *named):
            try:
                hash(value)
            except TypeError:
                raise ValueError(
                    f"Non-hashable static arguments are used in a jit function: static argument {label!r} of {self.name}, of type "
                    f"{type(value).__name__}, has no hash. Static arguments are part of the key of compiled programs: pass a tuple, a "
                    "frozen dataclass or a number, or make the argument dynamic."
                ) from None
        dynamic = tuple([a for i, a in enumerate(args) if i not in self.argnums])
        rest = {k: v for k, v in kwargs.items() if k not in self.argnames}
        return (dynamic, rest), _Fixed(len(args), tuple(fixed), tuple(named))

    def rejoined(self, fun: Callable[..., Any], fixed: _Fixed) -> Callable[..., Any]:
        def with_static(*args: Any, **kwargs: Any) -> Any:
            given = iter(args)
            static = dict(fixed.positional)
            return fun(*[static[i] if i in static else next(given) for i in range(fixed.count)], **dict(fixed.named), **kwargs)

        return with_static


class _Fixed:
    """The static arguments of a call. Equal values of different types (1, 1.0, True) are different keys."""

    __slots__ = ("count", "positional", "named", "_key")

    def __init__(self, count: int, positional: tuple[tuple[int, Any], ...], named: tuple[tuple[str, Any], ...]):
        self.count, self.positional, self.named = count, positional, named
        self._key = (count, positional, named, tuple([type(v) for _, v in (*positional, *named)]))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fixed) and self._key == other._key


def _numbers(x: int | Iterable[int] | None) -> tuple[int, ...]:
    return () if x is None else (x,) if isinstance(x, int) else tuple(x)


def _names(x: str | Iterable[str] | None) -> tuple[str, ...]:
    return () if x is None else (x,) if isinstance(x, str) else tuple(x)


def jit(
    fun: Callable[..., Any] | None = None,
    /,
    *,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate_argnums: int | Sequence[int] | None = None,
    donate_argnames: str | Iterable[str] | None = None,
    keep_unused: bool = False,
    inline: bool = False,
    device: Any = None,
    backend: str | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    abstracted_axes: Any = None,
    compiler_options: dict[str, Any] | None = None,
) -> Any:
    """`fun`, compiled to native code when it is called with arguments of new types.

    fun: a function of arrays, numbers and containers of them (pytrees). It is run once for each combination of structure, types and static
        arguments, on tracers; its Python side effects happen then.
    static_argnums, static_argnames: arguments passed as they are and compiled in; they must be hashable. Naming an argument either
        way is enough.
    donate_argnums, donate_argnames: arguments that the caller gives up: their arrays are deleted by the call, which writes results over
        them where that is possible and nobody else sees their memory. A donated array that is like no result is kept, with a warning.
    keep_unused, inline, device, backend, in_shardings, out_shardings, compiler_options: accepted for compatibility.

    Returns a callable with `lower`, `trace`, `eval_shape`, `clear_cache` and `__wrapped__`. Raises TypeError for what is not callable;
    calls raise TypeError that names an argument that is not an array, ValueError for a static argument without a hash.
    """
    if fun is None:
        options = {k: v for k, v in locals().items() if k != "fun"}
        return functools.partial(jit, **options)
    if not callable(fun):
        raise TypeError(f"jit takes a function, got {fun!r:.200}")
    if inspect.isgeneratorfunction(fun):
        raise TypeError(f"jit cannot compile a generator function: {fun!r}; return a list or use lax.scan")
    if inspect.iscoroutinefunction(fun):
        raise TypeError(f"jit cannot compile a coroutine: {fun!r}")
    static = _Named("static", fun, _numbers(static_argnums), _names(static_argnames))
    donate = _Named("donate", fun, _numbers(donate_argnums), _names(donate_argnames))
    both = static.argnames & donate.argnames or static.argnums & donate.argnums
    if both:
        raise ValueError(f"jit of {static.name}: the argument {min(both)!r} cannot be both static and donated")
    warmup.start()
    return JitFunction(fun, static, donate, bool(inline))


# The traces of a function belong to it, however often it is wrapped: `jit(f)(x)` in a loop traces once.
_traces: WeakKeyDictionary[Any, dict[Any, dict[Any, Traced]]] = WeakKeyDictionary()
_functions: WeakSet[JitFunction] = WeakSet()


def _shared_traces(fun: Callable[..., Any], options: Any) -> dict[Any, Traced]:
    try:
        return _traces.setdefault(fun, {}).setdefault(options, {})
    except TypeError:  # a callable without a hash, or that cannot be referred to weakly
        return {}


# --------------------------------------------------------------------------------- compiled calls and loops of eager programs

_EXECUTABLES: dict[Any, Executable] = {}
_EXECUTABLES_KEPT = 4096


def run_compiled(primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
    """Apply a call or a loop to concrete values by compiling it as a program of one equation."""
    types = tuple([bind.type_of(x) for x in args])
    said = sorted(params.items())
    if primitive.impl is not None:  # a user's parameters are any objects, of which equal ones may differ in type
        said = [(k, param_bytes(v)) for k, v in said]
    key = (primitive.name, types, *said, config.trace_key())
    executable = _EXECUTABLES.get(key)
    if executable is None:
        from tracegrad.ir.program import Equation

        inputs = [Var(t) for t in types]
        outputs = [Var(t) for t in primitive.type_rule(*types, **params)]
        name = params["name"] if primitive.name == "call" else primitive.name
        program = Program(inputs, (), [Equation(primitive, inputs, outputs, params)], outputs, name)
        if len(_EXECUTABLES) >= _EXECUTABLES_KEPT:
            _EXECUTABLES.clear()
        executable = _EXECUTABLES[key] = Executable(program, optimize(program), name)
    return tuple(executable(args))


eager.install_compiled(run_compiled)


def clear_caches() -> None:
    """Forget everything that was traced and compiled in this process (the disk cache stays)."""
    _EXECUTABLES.clear()
    eager.EAGER.types.clear()
    for function in list(_functions):
        function.clear_cache()
    _traces.clear()
