"""Lowerings of primitives, under the names of `jax.interpreters.mlir`.

A primitive is lowered by tracing a Python function of arrays, whose program takes its place before code is generated:

    register_lowering(p, lower_fun(f, multiple_results=False))

There is no MLIR here: rules that build its operations do not exist, and the other names of JAX's module do not either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.ir.primitive import Primitive

__all__ = ["LoweringByTracing", "lower_fun", "register_lowering"]


class LoweringByTracing:
    """A lowering rule: the function that is traced in the primitive's place. Made by `lower_fun`."""

    def __init__(self, fun: Callable[..., Any], multiple_results: bool):
        self.fun = fun
        self.multiple_results = multiple_results

    def __call__(self, *args: Any, **params: Any) -> tuple[Any, ...]:
        out = self.fun(*args, **params)
        if not self.multiple_results:
            return (out,)
        if not isinstance(out, (tuple, list)):
            raise TypeError(
                f"the function {getattr(self.fun, '__name__', self.fun)!r} given to lower_fun returned {out!r:.200}; with "
                "multiple_results=True, the default, it returns a list or tuple"
            )
        return tuple(out)


def lower_fun(fun: Callable[..., Any], multiple_results: bool = True) -> LoweringByTracing:
    """The lowering rule that traces `fun(*arrays, **params)`; it returns a sequence, or the only result if `multiple_results` is false."""
    if not callable(fun):
        raise TypeError(f"lower_fun takes a function, got {fun!r:.200}")
    return LoweringByTracing(fun, multiple_results)


def register_lowering(
    prim: Primitive, rule: LoweringByTracing, platform: str | None = None, inline: bool = True, cacheable: bool = True
) -> None:
    """Have `prim` lowered by a rule that `lower_fun` made. Rules for platforms other than "cpu" are ignored, `inline` and `cacheable`
    are accepted. Raises NotImplementedError for another kind of rule."""
    if not isinstance(prim, Primitive):
        raise TypeError(f"register_lowering takes a primitive, got {prim!r:.200}")
    if not isinstance(rule, LoweringByTracing):
        raise NotImplementedError(
            f"the lowering of {prim.name!r} is {rule!r:.200}; tracegrad generates no MLIR and lowers primitives by tracing Python: use "
            "register_lowering(p, lower_fun(f, multiple_results=...)) with a function f of arrays (Python code that cannot be traced can "
            "be called in it through tracegrad.pure_callback)"
        )
    if platform in (None, "cpu"):
        prim.define(expand=rule)


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"module 'tracegrad.interpreters.mlir' has no attribute {name!r}: tracegrad generates no MLIR; a lowering is made with lower_fun"
    )
