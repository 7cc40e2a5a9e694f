"""What elementwise functions are made with: from a primitive to a function that accepts, promotes and broadcasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.ir import ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.checks import COMPLEX, INEXACT
from tracegrad.ir.primitive import Primitive
from tracegrad.numpy.promotion import (
    BOOL,
    PYTHON_SCALARS,
    as_array,
    broadcast,
    inexact,
    promote,
    promote_inexact,
    require_numbers,
)


def named(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    """Give a function made by another its own name and documentation."""
    function.__name__ = function.__qualname__ = name
    function.__module__ = "tracegrad.numpy"
    function.__doc__ = doc
    return function


def unary(name: str, primitive: Primitive, doc: str, real_only: bool = False) -> Callable[..., Any]:
    """A function of floating-point (or complex) numbers; integers are converted first."""

    def function(x: Any, /) -> Any:
        if not (isinstance(x, Array) and x.aval.dtype in INEXACT):
            x = inexact(name, x)
        if real_only and type_of(x).dtype in COMPLEX:
            raise TypeError(f"{name} takes real numbers, got an array of dtype {type_of(x).dtype}")
        return bind1(primitive, x)

    return named(function, name, doc)


def binary(
    name: str,
    primitive: Primitive,
    doc: str,
    allowed: frozenset[Any] | None = None,
    for_bools: Primitive | None = None,
    to_inexact: bool = False,
) -> Callable[..., Any]:
    """A function of two arguments in their common dtype. `for_bools` replaces the primitive where both are boolean."""

    promote_two = promote_inexact if to_inexact else promote

    def function(x1: Any, x2: Any, /) -> Any:
        if not (isinstance(x1, Array) and isinstance(x2, Array) and x1.aval is x2.aval) or to_inexact:
            x1, x2 = broadcast(name, *promote_two(name, x1, x2))
        dtype = x1.dtype if not isinstance(x1, PYTHON_SCALARS) else type_of(x1).dtype
        if for_bools is not None and dtype == BOOL:
            return bind1(for_bools, x1, x2)
        if allowed is not None and dtype not in allowed:
            raise TypeError(f"{name} does not accept dtype {dtype}: got {type_of(x1)} and {type_of(x2)}")
        return bind1(primitive, x1, x2)

    return named(function, name, doc)


def is_complex_value(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return isinstance(x, complex) if dtype is None else dtype.kind == "c"


def positive(x: Any, /) -> Any:
    """x itself, as an array."""
    x = as_array("positive", x)
    require_numbers("positive", x)
    return x


def keep_weak(x: Any, weak: bool) -> Any:
    """The result of a formula over operands that were all weak is weak, although its constants are not."""
    t = type_of(x)
    return ops.convert_element_type(x, t.dtype, True) if weak and not t.weak else x


def no_out(name: str, out: Any) -> None:
    """Raise for the argument `out=`, which immutable arrays cannot honour."""
    if out is not None:
        raise NotImplementedError(
            f"{name}: the argument out= is not supported, since arrays are immutable; use the returned array"
        )
