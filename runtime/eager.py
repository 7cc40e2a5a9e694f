"""The eager interpreter: operations outside every transformation are computed at once, by the NumPy meaning of their primitive.

Nothing is compiled here, with exceptions that would be hopeless one step at a time: nested jitted functions, loops, and whatever
touches tapes, which are made by compiled loops. They go to compiled code (`install_compiled`, called by `runtime.jit`) unless
`disable_jit` is set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import bind, evaluate
from tracegrad.ir.config import config
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, evaluated_as, is_tape
from tracegrad.runtime.array import ArrayImpl, wrap
from tracegrad.tracer import errors
from tracegrad.tracer.tracer import Tracer

Compiled = Callable[[Primitive, tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]

_compiled: Compiled | None = None
_COMPILED = frozenset({"call", "scan", "while", "record_while", "tape_scan"})
_INTERPRETED_CALLS = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vmap_call", "checkpoint"})


def install_compiled(run: Compiled) -> None:
    """Give the eager interpreter its way to compiled code. Called once, by `runtime.jit`."""
    global _compiled
    _compiled = run


def raw(x: Any, aval: ArrayType) -> np.ndarray:
    """The NumPy array behind a value, of exactly the type's dtype (typed keys: their uint32 words; tapes: objects)."""
    if isinstance(x, ArrayImpl):
        return _tape_objects(x._np, aval) if is_tape(aval.dtype) else x._np
    if isinstance(x, Tracer):
        raise errors.escaped_tracer_error(x)
    return np.asarray(x, aval.dtype)


class Eager:
    """Computes at once."""

    def __init__(self) -> None:
        self.types: dict[Any, tuple[ArrayType, ...]] = {}

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        name = primitive.name
        if primitive.impl is not None:
            return self._user(primitive, args, params)
        if primitive.regions:
            return self._control_flow(primitive, args, params)
        in_types = tuple([x.aval if type(x) is ArrayImpl else _type(x) for x in args])
        key: Any = (name, in_types, *params.items()) if params else (name, in_types)
        try:
            out_types = self.types.get(key)
        except TypeError:  # a parameter that cannot be hashed
            key, out_types = None, None
        if out_types is None:
            out_types = primitive.type_rule(*in_types, **params)
            if any([is_tape(t.dtype) for t in (*in_types, *out_types)]):
                return self._on_tapes(primitive, args, in_types, out_types, params)
            if key is not None and not primitive.effect:
                if len(self.types) > 20000:
                    self.types.clear()
                self.types[key] = out_types
        arrays = [x._np if type(x) is ArrayImpl else raw(x, t) for x, t in zip(args, in_types)]
        results = primitive.evaluate(*arrays, **params)
        if any([isinstance(x, np.ndarray) for x in args]):
            results = _own(results, [a for a, x in zip(arrays, args) if isinstance(x, np.ndarray)])
        if config.debug_nans or config.debug_infs:
            check_finite(name, results)
        return tuple([_wrapped(r, t) for r, t in zip(results, out_types)])

    def _on_tapes(
        self, primitive: Primitive, args: tuple[Any, ...], in_types: Any, out_types: Any, params: dict[str, Any]
    ) -> tuple[Any, ...]:
        if not config.disable_jit and _compiled is not None:
            return _compiled(primitive, args, params)
        results = primitive.evaluate(*[raw(x, t) for x, t in zip(args, in_types)], **params)
        return tuple([_wrapped(r, t) for r, t in zip(results, out_types)])

    def _user(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        """A user's primitive is what its implementation computes, on the operands as they are."""
        for x in args:
            if isinstance(x, Tracer):
                raise errors.escaped_tracer_error(x)
        with bind.using(self):
            results = primitive.results(primitive.impl(*args, **params), "its implementation")  # type: ignore[misc]
        try:
            arrays = [x if isinstance(x, ArrayImpl) else _fresh(x) for x in results]
        except TypeError as e:
            several = "" if primitive.multiple_results else "; a primitive with several results needs multiple_results = True"
            raise TypeError(f"the implementation of the primitive {primitive.name!r} gave no array: {e}{several}") from None
        if config.debug_nans or config.debug_infs:
            check_finite(primitive.name, arrays)
        return tuple(arrays)

    def _control_flow(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        """Calls and branches run here, one operation at a time; loops and nested jit are compiled."""
        name = primitive.name
        if name in _COMPILED and not config.disable_jit and _compiled is not None:
            for x in args:
                if isinstance(x, Tracer):
                    raise errors.escaped_tracer_error(x)
            return _compiled(primitive, args, params)
        in_types = tuple([_type(x) for x in args])
        out_types = primitive.type_rule(*in_types, **params)
        args = tuple([x.copy() if isinstance(x, np.ndarray) else x for x in args])  # a region may return its operand
        if name == "cond":
            branches = params["branches"]
            index = int(raw(args[0], in_types[0]))
            results = evaluate.run(branches[min(max(index, 0), len(branches) - 1)], *args[1:])
        elif name == "call" or name in _INTERPRETED_CALLS:
            results = evaluate.run(params["program"], *args)
        else:
            arrays = [raw(x, t) for x, t in zip(args, in_types)]
            results = primitive.evaluate(*arrays, **params)
        return tuple([_wrapped(r, t) for r, t in zip(results, out_types)])


def _tape_objects(data: np.ndarray, aval: ArrayType) -> np.ndarray:
    """An array of tapes as NumPy computes with it, copied out of native memory if it is there."""
    if data.dtype == object:
        return data
    from tracegrad.runtime import tapes  # most programs have none

    return tapes.to_objects(data, aval)


def _fresh(x: Any) -> ArrayImpl:
    """A number or NumPy array that others may hold, as an array of ours."""
    aval = _type(x)
    return wrap(np.array(x, aval.dtype), aval)


def _own(results: tuple[np.ndarray, ...], foreign: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results, copied where they are views of arrays that the caller may still write to."""
    return tuple([r.copy() if any([np.may_share_memory(r, a) for a in foreign]) else r for r in results])


def _type(x: Any) -> ArrayType:
    if isinstance(x, Tracer):
        raise errors.escaped_tracer_error(x)
    return bind.type_of(x)


def _wrapped(result: Any, aval: ArrayType) -> ArrayImpl:
    if isinstance(result, ArrayImpl):
        return result if result.aval is aval else ArrayImpl(result._np, aval)
    if type(result) is not np.ndarray:
        result = np.asarray(result, evaluated_as(aval)[1])
    return wrap(result, aval)


def check_finite(name: str, arrays: Any) -> None:
    """Raise FloatingPointError if `debug_nans` or `debug_infs` is set and a result holds one."""
    for x in arrays:
        x = x._np if isinstance(x, ArrayImpl) else np.asarray(x)
        if x.dtype.kind in "fc":
            if config.debug_nans and np.isnan(x).any():
                raise FloatingPointError(f"invalid value (nan) encountered in {name}")
            if config.debug_infs and np.isinf(x).any():
                raise FloatingPointError(f"invalid value (inf) encountered in {name}")


EAGER = Eager()
bind.install_eager(EAGER)
