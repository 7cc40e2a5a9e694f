"""Applying a primitive: `bind` hands the operands to the current interpreter.

The interpreter is chosen by context, not by the operands. At the bottom is the eager one (installed by `runtime`), which computes
with NumPy; tracing, differentiation and batching install theirs while they run a function and run their own rules under
the interpreter they replaced. A tracer that belongs to another interpreter is, to the current one, a constant.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tracegrad.ir import dtypes
from tracegrad.ir.array import Array
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.ir.primitive import Primitive


class Interpreter(Protocol):
    """What `bind` needs: `process` applies a primitive and returns the tuple of its results."""

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]: ...


class _Uninstalled:
    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        raise RuntimeError("no interpreter is installed; import tracegrad, not one of its layers alone")


_eager: Interpreter = _Uninstalled()
_current: ContextVar[Interpreter | None] = ContextVar("tracegrad_interpreter", default=None)


def install_eager(interpreter: Interpreter) -> None:
    """Set the interpreter at the bottom of the stack. Called once, by `runtime`."""
    global _eager
    _eager = interpreter


def eager() -> Interpreter:
    return _eager


def current() -> Interpreter:
    """The interpreter that operations go to now."""
    return _current.get() or _eager


variable = _current
"""The context variable that holds the interpreter, for code that cannot call Python."""

chosen = _current.get
"""The interpreter in place of the eager one, None if there is none: `current` for whoever counts nanoseconds."""


def is_eager() -> bool:
    """Whether operations are computed at once, with no transformation under way."""
    return _current.get() is None


class using:
    """Context manager: run the block's operations on `interpreter` (the eager one clears the stack)."""

    # A class, not a generator: entered once for every equation that a transform processes.
    __slots__ = ("interpreter", "token")

    def __init__(self, interpreter: Interpreter):
        self.interpreter = interpreter

    def __enter__(self) -> Interpreter:
        self.token = _current.set(None if self.interpreter is _eager else self.interpreter)
        return self.interpreter

    def __exit__(self, *_: object) -> None:
        _current.reset(self.token)


def bind(primitive: Primitive, *args: Any, **params: Any) -> tuple[Any, ...]:
    """Apply `primitive` to `args` under the current interpreter; the results as a tuple."""
    return (_current.get() or _eager).process(primitive, args, params)


def bind1(primitive: Primitive, *args: Any, **params: Any) -> Any:
    """`bind` for a primitive with a single result, which it returns unwrapped."""
    return (_current.get() or _eager).process(primitive, args, params)[0]


def type_of(x: Any) -> ArrayType:
    """The type of a value: an Array's or tracer's own; canonical dtypes for NumPy values; weak types for Python scalars.

    Raises TypeError for anything that is not an array or a number.
    """
    if isinstance(x, Array):
        return x.aval
    if isinstance(x, (np.ndarray, np.generic)):
        return ArrayType(x.shape, dtypes.canonicalize_dtype(x.dtype))
    if isinstance(x, (bool, int, float, complex)):
        return ArrayType((), dtypes.dtype_of_python_scalar(x), not isinstance(x, bool))
    aval = getattr(x, "aval", None)
    if isinstance(aval, ArrayType):
        return aval
    raise TypeError(f"{type(x).__name__!r} is not an array or a number: {x!r:.200}")
