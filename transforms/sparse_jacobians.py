"""Jacobians and Hessians with few nonzero entries: one derivative for each colour of their columns or rows.

Which entries there are is found by `sparsity.py`, which of them are computed together by `coloring.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.dtypes import promote_dtypes
from tracegrad.ir.evaluate import run
from tracegrad.ir.program import Program
from tracegrad.ir.structural import iota_p
from tracegrad.ir.types import ArrayType, float0, is_complex, is_inexact, tangent_type
from tracegrad.tracer.pytree import tree_flatten
from tracegrad.tracer.staging import trace
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.api import (
    Flat,
    as_inputs,
    chosen,
    leaf_type,
    linear_inputs,
    name_of,
    names_of_chosen,
    partly_applied,
)
from tracegrad.transforms.batch import batch_flat, to_dim
from tracegrad.transforms.coloring import Coloring, Pattern, color, reading
from tracegrad.transforms.jacobians import example
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.linearize import linearize_flat
from tracegrad.transforms.sparsity import dependences
from tracegrad.transforms.transpose import backward
from tracegrad.transforms.zero import Axis, Zero, instantiate


class Traced(NamedTuple):
    """A function of the chosen arguments as a program, with the values that it captured; the first `main` outputs are differentiated."""

    program: Program
    captured: list[Any]
    leaves: list[Any]
    types: list[ArrayType]
    main: int
    flat: Flat

    @property
    def out_types(self) -> tuple[ArrayType, ...]:
        return self.program.out_types[: self.main]

    def run(self, *leaves: Any) -> list[Any]:
        return list(run(self.program, *self.captured, *leaves))


def traced(
    what: str, fun: Callable[..., Any], args: Any, kwargs: Any, positions: tuple[int, ...], argnums: Any, has_aux: bool
) -> Traced:
    """Trace `fun`. Raises TypeError for arguments that have no derivative, and for complex ones."""
    where, dynamic = chosen(args, positions, argnums, what, ValueError)
    leaves, tree = tree_flatten(dynamic)

    def names() -> list[str]:
        return names_of_chosen(fun, args, where)

    types = [leaf_type(what, names, i, x) for i, x in enumerate(leaves)]
    for i, t in enumerate(types):
        if not is_inexact(t.dtype) or is_complex(t.dtype):
            raise TypeError(
                f"{what} takes derivatives with respect to real numbers, but {names()[i]} is {t}; convert it (x.astype(float)), leave it out "
                "of argnums, or, if it is complex, differentiate with respect to its real and imaginary parts"
            )
    flat = Flat(fun, tree, has_aux, what, partly_applied(fun, args, kwargs, where, not isinstance(argnums, (tuple, list))))
    program, captured = trace(flat, types, name_of(fun))
    return Traced(program, captured, as_inputs(leaves), types, flat.main(), flat)


def pattern_of(function: Traced) -> Pattern:
    """The entries of the Jacobian that can be nonzero, from the function's program alone."""
    known = [None if isinstance(x, Tracer) else x for x in function.captured]
    n = len(known)
    program = function.program.replace(outputs=function.program.outputs[: function.main])
    found = dependences(program, [*known, *[None] * len(function.types)], [False] * n + [True] * len(function.types)).tocoo()
    return Pattern(found.shape, found.row, found.col)


def symmetric(pattern: Pattern) -> Pattern:
    """The pattern with the mirror images of its entries."""
    rows, columns = pattern.rows, pattern.columns
    return Pattern(pattern.shape, np.concatenate([rows, columns]), np.concatenate([columns, rows]))


def checked_pattern(what: str, pattern: Any, function: Traced) -> Pattern:
    """A pattern that the user gave. Raises ValueError if its shape is not the Jacobian's."""
    given = Pattern.of(pattern)
    shape = (sum(t.size for t in function.out_types), sum(t.size for t in function.types))
    if given.shape != shape:
        raise ValueError(
            f"{what}: the pattern has the shape {given.shape}, but there are {shape[0]} outputs and {shape[1]} inputs, so it must be {shape}"
        )
    return given


def coloring_for(function: Traced, pattern: Pattern, partition: str) -> Coloring:
    """Colours for a Jacobian; "auto" leaves out what the function cannot do (forward mode through custom_vjp, reverse of complex results)."""
    if partition == "auto":
        if any(eqn.primitive.name in ("custom_vjp_call", "custom_vjp_linear") for eqn in function.program.walk()):
            partition = "rows"
        elif any(is_complex(t.dtype) for t in function.out_types):
            partition = "columns"
    return color(pattern, partition)


def nonzero_entries(what: str, function: Traced, pattern: Pattern, coloring: Coloring) -> tuple[Any, list[Any]]:
    """The entries of the Jacobian in the order of the pattern, and what the function returned.

    Raises TypeError if complex outputs would have to be differentiated in reverse.
    """
    m, n = pattern.shape
    dtype = promote_dtypes(*[t.dtype for t in (*function.types, *function.out_types) if is_inexact(t.dtype)])
    of_rows, colors, places = reading(pattern, coloring)
    if not pattern.nnz:
        return np.zeros(0, dtype), function.run(*function.leaves)
    sums = []
    if coloring.row_colors:
        for t in function.out_types:
            if is_complex(t.dtype):
                raise TypeError(f"{what} by rows requires real outputs, but got {t}; say partition='columns'")
        nonzero = [True] * len(function.types)
        lin = linearize_flat(function.run, function.leaves, nonzero, lambda: function.main)
        outs = lin.outs

        def pushed(*tangents: Any) -> list[Any]:
            found = iter(run(lin.program, *lin.residuals, *tangents))
            return [next(found) if nz else Zero(tangent_type(t)) for t, nz in zip(function.out_types, lin.nonzero_out)]

        def pulled(*cts: Any) -> list[Any]:
            given = [ct for ct, nz in zip(cts, lin.nonzero_out) if nz]
            return backward(lin.program, [*lin.residuals, *linear_inputs(function.types, nonzero)], given)

        if coloring.column_colors:
            sums += _sums(pushed, coloring.columns, function.types, function.out_types, dtype)
        sums += _sums(pulled, coloring.rows, function.out_types, function.types, dtype)
    else:
        values: list[Any] = []

        def with_values(*tangents: Any) -> list[Any]:
            results, dots = jvp_flat(function.run, function.leaves, tangents, lambda: function.main)
            values[:] = results
            return dots

        sums += _sums(with_values, coloring.columns, function.types, function.out_types, dtype, values)
        outs = values
    flat = sums[0] if len(sums) == 1 else ops.concatenate(sums, 0)
    return _picked(flat, colors * np.where(of_rows, n, m) + places + np.where(of_rows, coloring.column_colors * m, 0)), outs


def _sums(
    derivative: Callable[..., Sequence[Any]],
    colors: np.ndarray,
    types: Sequence[ArrayType],
    out_types: Sequence[ArrayType],
    dtype: Any,
    values: list[Any] | None = None,
) -> list[Any]:
    """The derivative along the sum of the unit vectors of each colour: flat parts of the matrix (colours, elements of the outputs).

    values: filled by `derivative` with what does not depend on the direction; left without the axis of directions.
    """
    count = int(colors.max(initial=-1)) + 1
    seeds = []
    first = 0
    for t in types:
        own = colors[first : first + t.size].astype(np.int32).reshape(1, *t.shape)
        shape = (count, *t.shape)
        number = bind1(iota_p, dtype=np.dtype(np.int32), shape=shape, dimension=0)
        same = ops.eq(number, ops.broadcast_in_dim(own, shape, range(len(shape))))
        seeds.append(ops.convert_element_type(same, tangent_type(t).dtype) if is_inexact(t.dtype) else np.zeros(shape, float0))
        first += t.size

    def along(*tangents: Any) -> list[Any]:
        dots = [instantiate(t) for t in derivative(*tangents)]
        if values is not None:
            return [*dots, *values]
        return dots

    found, dims = batch_flat(along, Axis(count), seeds, [0] * len(seeds))
    if values is not None:
        values[:] = [x if d is None else example(x, d) for x, d in zip(found[len(out_types) :], dims[len(out_types) :])]
    parts = []
    for x, d, t in zip(found, dims, out_types):
        if is_inexact(t.dtype):
            part = ops.reshape(to_dim(x, d, 0, count), (count, t.size))
            parts.append(ops.convert_element_type(part, dtype))
        else:
            parts.append(ops.broadcast_in_dim(np.zeros((), dtype), (count, t.size), ()))
    matrix = parts[0] if len(parts) == 1 else ops.concatenate(parts, 1)
    return [ops.reshape(matrix, (type_of(matrix).size,))]


def _picked(flat: Any, index: np.ndarray) -> Any:
    """The elements of a vector with these numbers."""
    return ops.gather(
        flat,
        index.astype(np.int32 if type_of(flat).size < 2**31 else np.int64).reshape(-1, 1),
        offset_dims=(),
        collapsed_slice_dims=(0,),
        start_index_map=(0,),
        slice_sizes=(1,),
        mode="promise_in_bounds",
    )
