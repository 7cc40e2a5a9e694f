"""Whole Jacobians and Hessians: one derivative along each basis vector, batched."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.structural import iota_p
from tracegrad.ir.types import ArrayType, float0, is_complex, is_inexact, tangent_type
from tracegrad.tracer.pytree import tree_flatten, tree_unflatten
from tracegrad.transforms.api import (
    Flat,
    as_array,
    as_inputs,
    check_callable,
    checked_argnums,
    chosen,
    leaf_type,
    linear_inputs,
    name_of,
    names_of_chosen,
    partly_applied,
)
from tracegrad.transforms.batch import batch_flat, to_dim
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.linearize import linearize_flat
from tracegrad.transforms.transpose import backward
from tracegrad.transforms.zero import Axis, instantiate


def jacfwd(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, holomorphic: bool = False
) -> Callable[..., Any]:
    """The Jacobian of `fun`, computed column by column in forward mode; best when it has more outputs than inputs.

    The result has the structure of the output with, in place of each leaf, the structure of the argument; shapes are
    `output.shape + argument.shape`. With `has_aux`, (Jacobian, auxiliary data).
    """
    check_callable(fun, "jacfwd")
    positions = checked_argnums(argnums, "jacfwd")

    @functools.wraps(fun, updated=())
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        leaves, types, tree, flat, names = _prepared("jacfwd", fun, args, kwargs, positions, argnums, has_aux)
        for i, t in enumerate(types):
            _check_input("jacfwd", names, i, t, holomorphic, is_complex(t.dtype))
        basis, n = _standard_basis(types)

        def along(*tangents: Any) -> list[Any]:
            outs, out_tangents = jvp_flat(flat, leaves, tangents, flat.main)
            return [instantiate(t) for t in out_tangents] + outs

        found, dims = batch_flat(along, Axis(n), basis, [0] * len(basis))
        columns = found[: flat.main()]
        # The value does not depend on the direction; where it was carried along with what does, any example shows it.
        outs = [x if d is None else example(x, d) for x, d in zip(found[flat.main() :], dims[flat.main() :])]
        out_types = [type_of(x) for x in outs[: flat.main()]]
        for t in out_types:
            _check_output("jacfwd", fun, t, holomorphic)
        rows = []
        for x, out, d in zip(columns, out_types, dims):
            if is_inexact(out.dtype):
                blocks = _split(to_dim(x, d, out.ndim, n), types, -1, [out.weak] * len(types))
            else:
                blocks = [np.zeros((*out.shape, *t.shape), float0) for t in types]
            rows.append(tree_unflatten(tree, blocks))
        result = tree_unflatten(flat.out_tree, rows)
        return (result, flat.results(outs)[1]) if has_aux else result

    return jacobian


def jacrev(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """The Jacobian of `fun`, computed row by row in reverse mode; best when it has more inputs than outputs. Results as of `jacfwd`."""
    check_callable(fun, "jacrev")
    positions = checked_argnums(argnums, "jacrev")

    @functools.wraps(fun, updated=())
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        leaves, types, tree, flat, names = _prepared("jacrev", fun, args, kwargs, positions, argnums, has_aux)
        for i, t in enumerate(types):
            if not (allow_int and t.dtype.kind in "iub"):
                _check_input("jacrev", names, i, t, holomorphic, False)
        nonzero = [is_inexact(t.dtype) for t in types]
        lin = linearize_flat(flat, leaves, nonzero, flat.main)
        outs = lin.outs[: flat.main()]
        out_types = [type_of(x) for x in outs]
        for t in out_types:
            _check_output("jacrev", fun, t, holomorphic, True)
        basis, n = _standard_basis(out_types)

        def pulled(*cts: Any) -> list[Any]:
            given = [ct for ct, nz in zip(cts, lin.nonzero_out) if nz]
            return [instantiate(ct) for ct in backward(lin.program, [*lin.residuals, *linear_inputs(types, nonzero)], given)]

        found, dims = batch_flat(pulled, Axis(n), basis, [0] * len(basis))
        differentiated = [t for t, nz in zip(types, nonzero) if nz]
        by_input = iter(
            [_split(to_dim(x, d, 0, n), out_types, 0, [t.weak] * len(out_types)) for x, d, t in zip(found, dims, differentiated)]
        )
        columns = [
            next(by_input) if nz else [np.zeros((*o.shape, *t.shape), tangent_type(t).dtype) for o in out_types]
            for t, nz in zip(types, nonzero)
        ]
        rows = [tree_unflatten(tree, [c[k] for c in columns]) for k in range(len(out_types))]
        result = tree_unflatten(flat.out_tree, rows)
        return (result, flat.results(lin.outs)[1]) if has_aux else result

    return jacobian


def hessian(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, holomorphic: bool = False
) -> Callable[..., Any]:
    """The Hessian of `fun`, forward over reverse. Results as of `jacfwd` of `jacrev`."""
    return jacfwd(
        jacrev(fun, argnums, has_aux=has_aux, holomorphic=holomorphic), argnums, has_aux=has_aux, holomorphic=holomorphic
    )


def _prepared(
    what: str, fun: Callable[..., Any], args: Any, kwargs: Any, positions: tuple[int, ...], argnums: Any, has_aux: bool
) -> tuple[list[Any], list[ArrayType], Any, Flat, Callable[[], Sequence[str]]]:
    where, dynamic = chosen(args, positions, argnums, what, ValueError)
    leaves, tree = tree_flatten(dynamic)

    def names() -> list[str]:
        return names_of_chosen(fun, args, where)

    types = [leaf_type(what, names, i, x) for i, x in enumerate(leaves)]
    single = not isinstance(argnums, (tuple, list))
    flat = Flat(fun, tree, has_aux, what, partly_applied(fun, args, kwargs, where, single))
    return as_inputs(leaves), types, tree, flat, names


def _check_input(what: str, names: Callable[[], Sequence[str]], i: int, t: ArrayType, holomorphic: bool, refused: bool) -> None:
    if holomorphic:
        if not is_complex(t.dtype):
            raise TypeError(f"{what} with holomorphic=True requires inputs with complex dtype, but {names()[i]} is {t}")
    elif not is_inexact(t.dtype):
        raise TypeError(
            f"{what} requires real- or complex-valued inputs (input dtype that is a sub-dtype of np.inexact), but {names()[i]} is {t}; "
            "convert it to floating point (x.astype(float)) or leave it out of argnums"
        )
    elif refused:
        raise TypeError(_not_real(what, "inputs", f"{names()[i]} is {t}"))


def _check_output(what: str, fun: Callable[..., Any], t: ArrayType, holomorphic: bool, real: bool = False) -> None:
    """Raise TypeError for an output that cannot be differentiated; `real`: as a complex or integer one in reverse mode."""
    if holomorphic:
        if not is_complex(t.dtype):
            raise TypeError(f"{what} with holomorphic=True requires outputs with complex dtype, but {name_of(fun)} returned {t}")
    elif real and is_complex(t.dtype):
        raise TypeError(_not_real(what, "outputs", f"{name_of(fun)} returned {t}"))
    elif real and not is_inexact(t.dtype):
        raise TypeError(
            f"{what} requires real-valued outputs (output dtype that is a sub-dtype of np.floating), but {name_of(fun)} returned {t}. "
            "Return it as auxiliary data (has_aux=True), or use vjp directly"
        )


def _not_real(what: str, kind: str, found: str) -> str:
    return (
        f"{what} requires real-valued {kind} (a sub-dtype of np.floating), but {found}. For holomorphic differentiation, pass holomorphic=True. "
        "For differentiation of non-holomorphic functions involving complex values, use jvp or vjp directly."
    )


def _standard_basis(types: Sequence[ArrayType]) -> tuple[list[Any], int]:
    """The unit vectors of a space, stacked: for each leaf an array of shape (size of the whole space, *leaf shape)."""
    n = sum(t.size for t in types)
    basis = []
    offset = 0
    for t in types:
        size = math.prod(t.shape)
        tangent = tangent_type(t)
        if not is_inexact(t.dtype):
            basis.append(np.zeros((n, *t.shape), tangent.dtype))
        else:
            shape = (n, size)
            rows = bind1(iota_p, dtype=np.dtype(np.int32), shape=shape, dimension=0)
            columns = bind1(iota_p, dtype=np.dtype(np.int32), shape=shape, dimension=1)
            ones = ops.eq(rows, ops.add(columns, offset))
            basis.append(ops.reshape(ops.convert_element_type(ones, tangent.dtype), (n, *t.shape)))
        offset += size
    return basis, n


def example(x: Any, dim: int) -> Any:
    """The first example of what is batched along a dimension."""
    shape = type_of(x).shape
    limits = [1 if i == dim else n for i, n in enumerate(shape)]
    return ops.reshape(ops.slice(x, (0,) * len(shape), tuple(limits), None), shape[:dim] + shape[dim + 1 :])


def _split(x: Any, types: Sequence[ArrayType], axis: int, weak: Sequence[bool]) -> list[Any]:
    """Cut an axis that runs over a whole space into one array per leaf, with the leaf's shape in its place; weak ones where said."""
    shape = type_of(x).shape
    axis = axis % len(shape)
    before, after = shape[:axis], shape[axis + 1 :]
    parts = []
    offset = 0
    for t, is_weak in zip(types, weak, strict=True):
        starts = [0] * len(shape)
        limits = list(shape)
        starts[axis], limits[axis] = offset, offset + t.size
        part = x if len(types) == 1 else ops.slice(x, tuple(starts), tuple(limits), None)
        part = as_array(ops.reshape(part, (*before, *t.shape, *after)))
        parts.append(ops.convert_element_type(part, type_of(part).dtype, True) if is_weak else part)
        offset += t.size
    return parts
