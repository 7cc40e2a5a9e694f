"""Arithmetic of tapes, as tangents, cotangents and batched values need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.control_flow import scan_p
from tracegrad.ir.tapes import tape_scan_p
from tracegrad.ir.types import ArrayType, is_tape, tape_dtype
from tracegrad.tracer.staging import trace


def zip_tapes(fun: Callable[..., Any], *tapes: Any) -> Any:
    """The tape of `fun(x, y, ...)` for the elements of tapes, step by step; of arrays of tapes, the array of those tapes.

    A tape that is shorter than others must be empty, and stands for zeros.
    """
    types = [type_of(t) for t in tapes]
    if types[0].shape:
        rows = [t.update(shape=t.shape[1:]) for t in types]
        body, captured = trace(lambda *xs: [zip_tapes(fun, *xs)], rows, "tapes")
        params = {"length": types[0].shape[0], "reverse": False, "num_consts": len(captured), "num_carry": 0, "unroll": 1}
        return bind(scan_p, *captured, *tapes, body=body, **params)[0]
    body, captured = trace(lambda *xs: [fun(*xs)], [t.dtype.element for t in types], "tape")
    length = reduce(ops.max, map(ops.tape_length, tapes))
    return bind(tape_scan_p, length, *captured, *tapes, body=body, reverse=False, num_consts=len(captured), num_carry=0)[0]


def add_values(x: Any, y: Any) -> Any:
    """The sum of two tangents or cotangents, which are arrays or tapes."""
    if is_tape(type_of(x).dtype):
        return zip_tapes(add_values, x, y)
    return ops.add(x, y)


# A tape under vmap has its batch axis either outside, as an array of tapes, one per example, or inside of its elements. The batch
# dimension of the latter is written as a negative number: -1 - d for dimension d of the elements.


def in_elements(d: int | None) -> int | None:
    """The batch dimension of a tape whose elements have theirs at `d`; and the other way round."""
    return None if d is None else -1 - d


def as_elements(dims: Sequence[int | None], wanted: Sequence[int | None]) -> tuple[int | None, ...]:
    """Where values that are written on tapes must have their batch dimensions: tapes among them outside, as arrays of tapes."""
    return tuple([0 if d is not None and d < 0 else to for d, to in zip(dims, wanted)])


def unbatched(t: ArrayType, dim: int | None) -> ArrayType:
    """The type of one example of a value of type `t`; None: the examples share the value."""
    if dim is None:
        return t
    if dim >= 0:
        return ArrayType(t.shape[:dim] + t.shape[dim + 1 :], t.dtype, t.weak)
    return ArrayType(t.shape, tape_dtype(unbatched(t.dtype.element, -1 - dim)))


def batched(t: ArrayType, dim: int, size: int) -> ArrayType:
    """The type of `size` examples of a value of type `t`."""
    if dim >= 0:
        return ArrayType((*t.shape[:dim], size, *t.shape[dim:]), t.dtype, t.weak)
    return ArrayType(t.shape, tape_dtype(batched(t.dtype.element, -1 - dim, size)))


def move_tape_dim(x: Any, dim: int | None, to: int, size: int) -> Any:
    """A tape (or an array of tapes) with its batch dimension elsewhere, where at least one of the places is inside of the elements."""
    if dim is None:
        d = -1 - to
        return zip_tapes(lambda e: _repeated(e, d, size), x)
    if dim < 0 <= to:
        # One tape for each example.
        t = type_of(x)
        positions = np.arange(size, dtype=np.int32)

        def one(*values: Any) -> list[Any]:
            tape, i = values
            return [zip_tapes(lambda e: ops.dynamic_index_in_dim(e, i, -1 - dim, keepdims=False), tape)]

        body, captured = trace(one, [t, ArrayType((), positions.dtype)], "examples")
        params = {"length": size, "reverse": False, "num_consts": len(captured) + 1, "num_carry": 0, "unroll": 1}
        (found,) = bind(scan_p, *captured, x, positions, body=body, **params)
        return move_dim(found, 0, to)
    raise NotImplementedError(
        "vmap: the loops of different examples took different numbers of steps where a shared number is needed; this combination of loops "
        "of unknown length is not supported. Use lax.scan, or vmap inside of the loop."
    )


def move_dim(x: Any, source: int, to: int) -> Any:
    """`x` with one of its dimensions elsewhere."""
    if source == to:
        return x
    permutation = [i for i in range(len(type_of(x).shape)) if i != source]
    permutation.insert(to, source)
    return ops.transpose(x, tuple(permutation))


def _repeated(x: Any, to: int, size: int) -> Any:
    shape = type_of(x).shape
    return ops.broadcast_in_dim(x, (*shape[:to], size, *shape[to:]), tuple(i for i in range(len(shape) + 1) if i != to))


def lengths_agree(dims: Sequence[int | None]) -> bool:
    """Whether no tape of a loop is batched as an array of tapes, whose lengths may differ."""
    return all([d is None or d < 0 for d in dims])
