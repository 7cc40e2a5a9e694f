"""Tracing whole functions over pytrees without running them: shapes of results, and programs to read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import dtypes
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.program import Constant, Program, Var
from tracegrad.ir.types import ArrayType, is_key, is_tape
from tracegrad.tracer.control_flow import TracedFunction
from tracegrad.tracer.pytree import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten
from tracegrad.tracer.tracer import Tracer


class ShapeDtypeStruct:
    """A shape and a dtype where an array is expected: an argument of `eval_shape` and `lower`, and what `eval_shape` returns."""

    __slots__ = ("shape", "dtype", "sharding", "weak_type")

    def __init__(self, shape: Sequence[int], dtype: Any, *, sharding: Any = None, weak_type: bool = False, **_: Any):
        if dtype is None:
            raise ValueError("ShapeDtypeStruct: dtype must be specified")
        self.shape = tuple(shape)
        self.dtype = dtypes.canonicalize_dtype(dtype)
        self.sharding = sharding
        self.weak_type = weak_type

    @property
    def aval(self) -> ArrayType:
        return ArrayType(self.shape, self.dtype, self.weak_type)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return self.aval.size

    def update(self, **changes: Any) -> ShapeDtypeStruct:
        fields = {"shape": self.shape, "dtype": self.dtype, "sharding": self.sharding, "weak_type": self.weak_type}
        fields.update(changes)
        return ShapeDtypeStruct(fields.pop("shape"), fields.pop("dtype"), **fields)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShapeDtypeStruct) and (self.aval, self.sharding) == (other.aval, other.sharding)

    def __hash__(self) -> int:
        return hash((self.aval, self.sharding))

    def __repr__(self) -> str:
        weak = ", weak_type=True" if self.weak_type else ""
        return f"ShapeDtypeStruct(shape={self.shape}, dtype={self.dtype}{weak})"


def argument_names(fun: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> list[str]:
    """A name for each leaf of the arguments, such as `params['w']`, from the function's signature."""
    import inspect

    names: list[str] = []
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for i, arg in enumerate(args):
        variadic = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if i < len(positional):
            root = positional[i]
        elif variadic:
            root = f"{variadic[0]}[{i - len(positional)}]"
        else:
            root = f"argument {i}"
        names += [root + keystr(path) for path, _ in tree_flatten_with_path(arg)[0]]
    for key in sorted(kwargs):
        names += [key + keystr(path) for path, _ in tree_flatten_with_path(kwargs[key])[0]]
    return names


def leaf_types(leaves: Sequence[Any], names: Sequence[str], fun_name: str) -> list[ArrayType]:
    """The types of an argument's leaves. Raises TypeError that names the argument for what is not an array or a number."""
    types = []
    for i, x in enumerate(leaves):
        try:
            types.append(type_of(x))
        except TypeError:
            name = names[i] if i < len(names) else f"leaf {i} of the arguments"
            raise TypeError(
                f"{fun_name}: {name} is {x!r:.200} of type {type(x).__name__}, which is not an array or a number. "
                "Arguments are arrays, numbers and registered containers of them; name others in static_argnums or static_argnames."
            ) from None
    return types


def described(x: Any) -> Any:
    """A leaf of which only the type counts: anything with a shape and a dtype stands for an array."""
    if isinstance(x, (Array, np.ndarray, np.generic)) or hasattr(x, "aval") or not (hasattr(x, "shape") and hasattr(x, "dtype")):
        return x
    return ShapeDtypeStruct(x.shape, x.dtype, weak_type=bool(getattr(x, "weak_type", False)))


def with_constants(program: Program, captured: Sequence[Any]) -> tuple[Program, list[Any]]:
    """Turn captured concrete arrays, the program's leading inputs, into its constants; return the captured tracers that remain."""
    constants, inputs, rest = list(program.constants), [], []
    for var, x in zip(program.inputs, captured):
        if isinstance(x, Tracer) or is_key(var.type.dtype) or is_tape(var.type.dtype):
            inputs.append(var)
            rest.append(x)
        else:
            constants.append(Constant(var, np.asarray(x).astype(var.type.dtype, copy=False)))
    return program.replace(inputs=[*inputs, *program.inputs[len(captured) :]], constants=constants), rest


def traced(fun: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> TracedFunction:
    """Trace `fun(*args, **kwargs)`, whose leaves are arrays, numbers or what has their shape and dtype."""
    leaves, in_tree = tree_flatten((tuple(args), kwargs))
    name = getattr(fun, "__name__", type(fun).__name__)
    types = leaf_types([described(x) for x in leaves], argument_names(fun, args, kwargs), name)
    return TracedFunction(_on_pair(fun), in_tree, types)


def eval_shape(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The structure of `fun(*args, **kwargs)` with a ShapeDtypeStruct for each array, computed without running it.

    args: arrays, or whatever has their shapes and dtypes; `fun` may return such descriptions, too.
    """
    said: dict[int, ShapeDtypeStruct] = {}

    def describing(args: Any, kwargs: Any) -> Any:
        leaves, tree = tree_flatten(fun(*args, **kwargs))
        said.update([(i, x) for i, x in enumerate(leaves) if isinstance(x, ShapeDtypeStruct)])
        return tree_unflatten(tree, [0 if i in said else x for i, x in enumerate(leaves)])

    leaves, in_tree = tree_flatten((tuple(args), kwargs))
    name = getattr(fun, "__name__", type(fun).__name__)
    describing.__name__ = name
    types = leaf_types([described(x) for x in leaves], argument_names(fun, args, kwargs), name)
    result = TracedFunction(describing, in_tree, types)
    shapes = [said[i] if i in said else _struct(t) for i, t in enumerate(result.program.out_types)]
    return tree_unflatten(result.out_tree, shapes)


def _struct(t: ArrayType) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(t.shape, t.dtype, weak_type=t.weak)


def make_ir(
    fun: Callable[..., Any],
    static_argnums: int | Sequence[int] = (),
    axis_env: Any = None,
    return_shape: bool = False,
    abstracted_axes: Any = None,
) -> Callable[..., Any]:
    """A function that takes what `fun` takes and returns the Program that `fun` is traced into.

    static_argnums: positions of arguments that are passed as they are. With `return_shape`, returns (program, shapes of the results).
    """
    if axis_env or abstracted_axes:
        raise NotImplementedError("make_ir: axis_env and abstracted_axes are not supported; use vmap(..., axis_name=...) inside")

    @functools.wraps(fun, updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        result, names = _traced_partly(fun, static_argnums, args, kwargs)
        program, rest = with_constants(result.program, result.captured)
        _name(program.inputs[len(rest) :], names)
        return (program, _shapes(result)) if return_shape else program

    return make


def make_jaxpr(
    fun: Callable[..., Any],
    static_argnums: int | Sequence[int] = (),
    axis_env: Any = None,
    return_shape: bool = False,
    abstracted_axes: Any = None,
) -> Callable[..., Any]:
    """A function that takes what `fun` takes and returns the ClosedJaxpr of `fun`: the program in JAX's structure, with what it captured,
    values of traces under way included, in `consts`.

    static_argnums: positions of arguments that are passed as they are. With `return_shape`, returns (jaxpr, shapes of the results).
    """
    if axis_env or abstracted_axes:
        raise NotImplementedError(
            "make_jaxpr: axis_env and abstracted_axes are not supported; use vmap(..., axis_name=...) inside"
        )

    @functools.wraps(fun, updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        from tracegrad.ir.jaxpr import ClosedJaxpr, Jaxpr  # needed by few

        result, names = _traced_partly(fun, static_argnums, args, kwargs)
        program, captured = result.program, result.captured
        n = len(captured)
        _name(program.inputs[n:], names)
        jaxpr = Jaxpr(program.inputs[:n], program.inputs[n:], program.outputs, program.equations, debug_info=program.name)
        closed = ClosedJaxpr(jaxpr, captured)
        return (closed, _shapes(result)) if return_shape else closed

    return make


def _traced_partly(
    fun: Callable[..., Any], static_argnums: int | Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[TracedFunction, list[str]]:
    """Trace `fun` with some arguments as they are; the names of the others' leaves."""
    static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    fixed = {i % len(args) for i in static} if args else set()
    dynamic = [a for i, a in enumerate(args) if i not in fixed]

    @functools.wraps(fun, updated=())
    def partly(*given: Any, **kwargs: Any) -> Any:
        it = iter(given)
        return fun(*[a if i in fixed else next(it) for i, a in enumerate(args)], **kwargs)

    leaves, in_tree = tree_flatten((tuple(dynamic), kwargs))
    names = argument_names(fun if not fixed else partly, dynamic, kwargs)
    types = leaf_types([described(x) for x in leaves], names, getattr(fun, "__name__", "function"))
    return TracedFunction(_on_pair(partly), in_tree, types), names


def _name(inputs: Sequence[Var], names: Sequence[str]) -> None:
    for var, name in zip(inputs, names):
        var.name = var.name or name


def _shapes(result: TracedFunction) -> Any:
    return tree_unflatten(result.out_tree, [_struct(t) for t in result.program.out_types])


def _on_pair(fun: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fun, updated=())
    def on_pair(args: Any, kwargs: Any) -> Any:
        return fun(*args, **kwargs)

    return on_pair
