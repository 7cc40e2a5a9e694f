"""Parts and conjugates of complex numbers."""

from __future__ import annotations

from typing import Any

from tracegrad.ir import elementwise as prims
from tracegrad.ir import ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.checks import COMPLEX
from tracegrad.numpy.logic import false_or_true
from tracegrad.numpy.makers import is_complex_value, positive
from tracegrad.numpy.promotion import (
    as_value,
    real_dtype,
)

# Complex numbers


def conjugate(x: Any, /) -> Any:
    """The complex conjugate; a real number is its own."""
    x = as_value("conjugate", x)
    return bind1(prims.conj_p, x) if type_of(x).dtype in COMPLEX else positive(x)


conj = conjugate


def real(val: Any, /) -> Any:
    """The real part."""
    val = as_value("real", val)
    return bind1(prims.real_p, val) if type_of(val).dtype in COMPLEX else positive(val)


def imag(val: Any, /) -> Any:
    """The imaginary part; zero for a real number."""
    val = as_value("imag", val)
    if type_of(val).dtype in COMPLEX:
        return bind1(prims.imag_p, val)
    from tracegrad.numpy.creation import zeros_like

    return zeros_like(val)


def isreal(x: Any) -> Any:
    """Whether each element has no imaginary part."""
    x = as_value("isreal", x)
    return ops.eq(imag(x), real_dtype(type_of(x).dtype).type(0)) if is_complex_value(x) else false_or_true(x, True)


def iscomplex(x: Any) -> Any:
    """Whether each element has an imaginary part."""
    x = as_value("iscomplex", x)
    return ops.ne(imag(x), real_dtype(type_of(x).dtype).type(0)) if is_complex_value(x) else false_or_true(x, False)


__all__ = ["conj", "conjugate", "imag", "iscomplex", "isreal", "real"]
