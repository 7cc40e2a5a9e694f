"""Lowerings of primitives, under the names of `jax.interpreters.mlir`.

A primitive is lowered by tracing a Python function of arrays, whose program takes its place before code is generated:

    register_lowering(p, lower_fun(f, multiple_results=False))

There is no MLIR here. A rule `rule(ctx, *operands, **params)` gets arrays that are being traced where JAX's gets values of MLIR, and may
do with them what functions of arrays do: call other rules that `lower_fun` made, or `emit_python_callback`. What builds operations of MLIR
does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.callbacks import io_callback, pure_callback
from tracegrad.ir.bind import type_of
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType
from tracegrad.tracer.abstract import ShapeDtypeStruct

__all__ = ["LoweringRuleContext", "ModuleContext", "emit_python_callback", "lower_fun", "register_lowering"]

Rule = Callable[..., Sequence[Any]]


class ModuleContext:
    """What surrounds the operations being lowered. Objects that compiled code needs live as long as it, without being told here."""

    platforms = ("cpu",)

    def add_keepalive(self, keepalive: Any) -> None:
        """Accepted."""


class LoweringRuleContext:
    """What a rule is told about the equation that it lowers: the primitive, and the types of operands and results."""

    tokens_in = tokens_out = None

    def __init__(self, primitive: Primitive, avals_in: Sequence[ArrayType], avals_out: Sequence[ArrayType] | None):
        self.primitive = primitive
        self.avals_in = list(avals_in)
        self.avals_out = avals_out if avals_out is None else list(avals_out)
        self.module_context = ModuleContext()

    def replace(self, **changes: Any) -> LoweringRuleContext:
        """The context with other types, for handing on to another rule."""
        fields = {"primitive": self.primitive, "avals_in": self.avals_in, "avals_out": self.avals_out}
        return LoweringRuleContext(**{k: changes.get(k, v) for k, v in fields.items()})


def lower_fun(fun: Callable[..., Any], multiple_results: bool = True) -> Rule:
    """The lowering rule that traces `fun(*arrays, **params)`; it returns a sequence, or the only result if `multiple_results` is false."""
    if not callable(fun):
        raise TypeError(f"lower_fun takes a function, got {fun!r:.200}")

    def rule(ctx: LoweringRuleContext, *args: Any, **params: Any) -> tuple[Any, ...]:
        out = fun(*args, **params)
        if not multiple_results:
            return (out,)
        if not isinstance(out, (tuple, list)):
            raise TypeError(
                f"the function {getattr(fun, '__name__', fun)!r} given to lower_fun returned {out!r:.200}; with multiple_results=True, "
                "the default, it returns a list or tuple"
            )
        return tuple(out)

    return rule


def register_lowering(
    prim: Primitive, rule: Rule, platform: str | None = None, inline: bool = True, cacheable: bool = True
) -> None:
    """Have `prim` lowered by a rule, most simply one that `lower_fun` makes.

    Rules for platforms other than "cpu" are ignored; `inline` and `cacheable` are accepted. What a rule that builds MLIR reaches for is
    missing from this module, and says so when the primitive is compiled.
    """
    if not isinstance(prim, Primitive):
        raise TypeError(f"register_lowering takes a primitive, got {prim!r:.200}")
    if not callable(rule):
        raise TypeError(f"the lowering of {prim.name!r} must be a rule, such as lower_fun(f) makes, got {rule!r:.200}")
    if platform not in (None, "cpu"):
        return

    def expand(*args: Any, **params: Any) -> tuple[Any, ...]:
        types = [type_of(x) for x in args]
        results = rule(LoweringRuleContext(prim, types, prim.type_rule(*types, **params)), *args, **params)
        if not isinstance(results, (tuple, list)):
            raise TypeError(
                f"the lowering rule of {prim.name!r} returned {results!r:.200}, not a sequence of its results; a function of arrays is made "
                "a rule by lower_fun"
            )
        return tuple(results)

    prim.define(expand=expand)


def emit_python_callback(
    ctx: LoweringRuleContext,
    callback: Callable[..., Any],
    token: Any,
    operands: Sequence[Any],
    operand_avals: Sequence[ArrayType],
    result_avals: Sequence[ArrayType],
    *,
    has_side_effect: bool,
    returns_token: bool = True,
    partitioned: bool = False,
    sharding: Any = None,
) -> tuple[Sequence[Any], None, None]:
    """Call `callback(*numpy arrays)`, which returns a sequence of arrays, from the compiled program: (results, no token, nothing to keep).

    has_side_effect: call it exactly once, in the program's order. The other options are accepted.
    """

    def function(*arrays: Any) -> tuple[Any, ...]:
        return tuple(callback(*[x.__array__() for x in arrays]))

    declared = tuple([ShapeDtypeStruct(t.shape, t.dtype) for t in result_avals])
    call = io_callback if has_side_effect else pure_callback
    return call(function, declared, *operands), None, None


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"module 'tracegrad.interpreters.mlir' has no attribute {name!r}: tracegrad generates no MLIR and lowers primitives by tracing "
        "Python; use register_lowering(p, lower_fun(f, multiple_results=...)) with a function f of arrays (Python code that cannot be traced "
        "can be called in it through tracegrad.pure_callback)"
    )
