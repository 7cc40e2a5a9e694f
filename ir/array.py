"""`Array`: the one class that users test for with isinstance.

Concrete arrays (`runtime.array`) and tracers (`tracer.tracer`) derive from it. It holds no data; its operators and methods are the
library's NumPy functions, attached when the public API is imported, so that an array and a tracer can never differ in what
they offer.
"""

from __future__ import annotations

from typing import Any

from tracegrad.ir.types import ArrayType


class Array:
    """An immutable n-dimensional array, concrete or being traced. `x.aval` is its type."""

    __slots__ = ()
    __array_priority__ = 100
    aval: ArrayType
    __hash__ = None  # type: ignore[assignment]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> Any:
        return self.aval.dtype

    @property
    def ndim(self) -> int:
        return len(self.aval.shape)

    @property
    def size(self) -> int:
        return self.aval.size

    @property
    def weak_type(self) -> bool:
        return self.aval.weak

    @property
    def itemsize(self) -> int:
        return int(self.aval.dtype.itemsize)

    @property
    def nbytes(self) -> int:
        return self.aval.nbytes


def attach(name: str, value: Any) -> None:
    """Give every array, concrete or traced, the method or operator `name`."""
    setattr(Array, name, value)
