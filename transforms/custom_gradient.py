"""custom_gradient, which computes a function and its reverse-mode derivative together, and closures made explicit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tracegrad.ir.bind import type_of
from tracegrad.ir.evaluate import run
from tracegrad.ir.types import is_inexact, tangent_type
from tracegrad.tracer.abstract import traced
from tracegrad.tracer.pytree import register_pytree_node, tree_flatten, tree_map, tree_unflatten
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.api import check_callable, name_of
from tracegrad.transforms.custom import custom_vjp
from tracegrad.transforms.zero import Zero, instantiate


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
        if len(args_and_consts) != n + len(consts):
            raise TypeError(
                f"closure_convert: the converted function takes {n} arguments and then the {len(consts)} values that closure_convert returned "
                f"beside it, got {len(args_and_consts)} arguments"
            )
        given = iter(args_and_consts[n:])
        captured = [next(given) if h else x for x, h in zip(kept, hoisted)]
        return tree_unflatten(result.out_tree, run(result.program, *captured, *leaves))

    converted.__name__ = name_of(fun)
    return converted, consts
