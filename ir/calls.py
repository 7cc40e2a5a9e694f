"""Calls of programs inside programs: nested jit, custom derivatives, checkpoints, callbacks, names.

Rules of custom derivatives and callbacks are Python functions. A program holds them as references (`ir/references.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir.bind import bind
from tracegrad.ir.evaluate import evaluate as evaluate_program
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.ir.references import Reference
from tracegrad.ir.types import ArrayType

__all__ = ["optimization_barrier", "name"]

class DerivativeRule(Reference):
    """The rule of a custom_jvp or custom_vjp function, over flat lists of values.

    custom_jvp: `jvp(primals, tangents) -> (outs, out_tangents)`.
    custom_vjp: `fwd(primals, nonzero) -> (outs, residuals, token)` and `bwd(residuals, cotangents, token) -> cotangents of the inputs`;
    `nonzero` says which inputs are differentiated, `token` is hashable and describes the residuals.
    `options` holds what else a transform must know, e.g. which inputs are not differentiated.
    """

    __slots__ = ("jvp", "fwd", "bwd", "options")

    def __init__(
        self,
        name: str,
        jvp: Callable[..., Any] | None = None,
        fwd: Callable[..., Any] | None = None,
        bwd: Callable[..., Any] | None = None,
        **options: Any,
    ):
        super().__init__(name)
        self.jvp = jvp
        self.fwd = fwd
        self.bwd = bwd
        self.options: dict[Any, Any] = options


class BatchRule(Reference):
    """The rule of a custom_vmap function: `function(axis size, which arguments are batched, arguments) -> (outs, which are batched)`.

    All sequences are flat, batched values have the axis in front. `options` remembers rules that are derived from this one.
    """

    __slots__ = ("function", "options")

    def __init__(self, name: str, function: Callable[..., Any]):
        super().__init__(name)
        self.function = function
        self.options: dict[Any, Any] = {}


class CallbackRef(Reference):
    """A Python function that a compiled program calls: `function(*numpy arrays) -> sequence of arrays`.

    vmap_method: how a batch of calls is made, as `pure_callback` describes; None: not at all.
    """

    __slots__ = ("function", "vmap_method")

    def __init__(self, name: str, function: Callable[..., Any], vmap_method: str | None = "sequential"):
        super().__init__(name)
        self.function = function
        self.vmap_method = vmap_method


class PolicyRef(Reference):
    """A checkpoint policy: `function(primitive, *in_types, **params) -> bool`, true for what is saved."""

    __slots__ = ("function",)

    def __init__(self, name: str, function: Callable[..., Any]):
        super().__init__(name)
        self.function = function


def _program_type(kind: str) -> Callable[..., tuple[ArrayType, ...]]:
    def type_rule(*in_types: ArrayType, program: Program, **_: Any) -> tuple[ArrayType, ...]:
        check_region(kind, "program", program, in_types)
        return program.out_types

    return type_rule


def check_region(primitive: str, name: str, program: Program, in_types: tuple[ArrayType, ...]) -> None:
    """Raise TypeError if a region does not take operands of these types (weakness aside)."""
    expected = program.in_types
    if len(expected) != len(in_types):
        raise TypeError(f"{primitive}: {name} takes {len(expected)} operands, got {len(in_types)}")
    for i, (want, got) in enumerate(zip(expected, in_types)):
        if want.shape != got.shape or want.dtype != got.dtype:
            raise TypeError(f"{primitive}: operand {i} of {name} is {want}, got {got}")


def _evaluate_call(*args: Any, program: Program, **_: Any) -> tuple[Any, ...]:
    return evaluate_program(program, *args)


call_p = Primitive("call", _program_type("call"), _evaluate_call, "calls", regions=("program",), multiple_results=True)
custom_jvp_call_p = Primitive(
    "custom_jvp_call", _program_type("custom_jvp_call"), _evaluate_call, "calls", regions=("program",), multiple_results=True
)
custom_vjp_call_p = Primitive(
    "custom_vjp_call", _program_type("custom_vjp_call"), _evaluate_call, "calls", regions=("program",), multiple_results=True
)
custom_vmap_call_p = Primitive(
    "custom_vmap_call", _program_type("custom_vmap_call"), _evaluate_call, "calls", regions=("program",), multiple_results=True
)
checkpoint_p = Primitive(
    "checkpoint", _program_type("checkpoint"), _evaluate_call, "calls", regions=("program",), multiple_results=True
)

optimization_barrier_p = Primitive("optimization_barrier", lambda *types: types, lambda *xs: xs, "calls", multiple_results=True)


def optimization_barrier(*xs: Any) -> tuple[Any, ...]:
    """Its operands; what depends on the results is not merged with what depends on the operands."""
    return bind(optimization_barrier_p, *xs)


name_p = Primitive("name", lambda t, name: (t,), lambda x, name: (x,), "calls")


def name(x: Any, label: str) -> Any:
    """`x`, labelled for checkpoint policies that save values by name."""
    return bind(name_p, x, name=label)[0]


def _callback_types(
    *in_types: ArrayType, callback: CallbackRef, out_types: tuple[ArrayType, ...], ordered: bool, kind: str
) -> tuple[ArrayType, ...]:
    return out_types


def _evaluate_callback(
    *args: Any, callback: CallbackRef, out_types: tuple[ArrayType, ...], ordered: bool, kind: str
) -> tuple[Any, ...]:
    results = callback.function(*args)
    results = () if results is None else tuple(results)
    if len(results) != len(out_types):
        raise ValueError(f"the callback {callback} returned {len(results)} arrays, its declared types are {len(out_types)}")
    checked = []
    for i, (x, t) in enumerate(zip(results, out_types)):
        x = np.asarray(x)
        if x.shape != t.shape or x.dtype != t.dtype:
            raise ValueError(
                f"result {i} of the callback {callback} has the shape {x.shape} and dtype {x.dtype}, declared is {t}"
            )
        checked.append(x)
    return tuple(checked)


callback_p = Primitive("callback", _callback_types, _evaluate_callback, "calls", effect=True, multiple_results=True)
pure_callback_p = Primitive("pure_callback", _callback_types, _evaluate_callback, "calls", multiple_results=True)
"""Like `callback`, but may be dropped, merged or repeated: the function has no side effects."""
