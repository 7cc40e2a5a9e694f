"""What examples of a batch can know of each other: operations over a named axis.

Two primitives suffice, since everything else is composed of them (`transforms/collectives.py`): all examples' values, and the
example's own number. They mean nothing for one example alone; batching over the axis replaces them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType

__all__: list[str] = []


def _all_gather_type(x: ArrayType, axis_name: Any, axis_size: int) -> tuple[ArrayType, ...]:
    return (x.update(shape=(axis_size, *x.shape)),)


def _axis_index_type(axis_name: Any, axis_size: int) -> tuple[ArrayType, ...]:
    return (ArrayType((), np.dtype(np.int32)),)


def _unbound(*_: Any, axis_name: Any, axis_size: int) -> Any:
    raise NameError(
        f"unbound axis name: {axis_name!r}. The function was made inside vmap(..., axis_name={axis_name!r}) and used outside of it"
    )


all_gather_p = Primitive("all_gather", _all_gather_type, _unbound, "collectives")
"""The values of all examples along the axis, stacked in front."""

axis_index_p = Primitive("axis_index", _axis_index_type, _unbound, "collectives")
"""The number of the example along the axis."""
