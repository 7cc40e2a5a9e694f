"""Collectives over the named axis of a vmap: psum, pmean, pmax, all_gather, axis_index and their kind.

Two primitives suffice, since everything else is composed of them: all examples' values, and the example's own number. They mean nothing for
one example alone; batching over the axis replaces them, so that none is left to compile.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.primitive import Declined, Primitive
from tracegrad.ir.types import ArrayType
from tracegrad.tracer.pytree import tree_map
from tracegrad.transforms.batch import named_axis
from tracegrad.transforms.rules import linear
from tracegrad.transforms.zero import Axis


def _all_gather_type(x: ArrayType, axis_name: Any, axis_size: int) -> tuple[ArrayType, ...]:
    return (x.update(shape=(axis_size, *x.shape)),)


def _axis_index_type(axis_name: Any, axis_size: int) -> tuple[ArrayType, ...]:
    return (ArrayType((), np.dtype(np.int32)),)


def _unbound(*_: Any, axis_name: Any, axis_size: int) -> Any:
    raise NameError(
        f"unbound axis name: {axis_name!r}. The function was traced inside vmap(..., axis_name={axis_name!r}) and used outside of it"
    )


all_gather_p = Primitive("all_gather", _all_gather_type, _unbound, "collectives")
"""The values of all examples along the axis, stacked in front."""

axis_index_p = Primitive("axis_index", _axis_index_type, _unbound, "collectives")
"""The number of the example along the axis."""

AxisName = Hashable | Sequence[Hashable]


def _names(axis_name: AxisName) -> tuple[Hashable, ...]:
    return tuple(axis_name) if isinstance(axis_name, (tuple, list)) else (axis_name,)


def _one(what: str, axis_name: AxisName) -> Axis:
    names = _names(axis_name)
    if len(names) != 1:
        raise NotImplementedError(f"{what} takes a single axis name, got {axis_name!r}; apply it once for each axis")
    return named_axis(names[0])


def _gathered(x: Any, axis: Axis) -> Any:
    return bind1(all_gather_p, x, axis_name=axis.name, axis_size=axis.size)


def _no_groups(what: str, groups: Any) -> None:
    if groups is not None:
        raise NotImplementedError(
            f"{what}: axis_index_groups is not supported; reshape the axis into two nested vmaps, one of them named"
        )


def _reducing(what: str, reduce: Callable[..., Any]) -> Callable[..., Any]:
    def collective(x: Any, axis_name: AxisName, *, axis_index_groups: Any = None) -> Any:
        _no_groups(what, axis_index_groups)
        axes = [named_axis(name) for name in _names(axis_name)]

        def on_leaf(leaf: Any) -> Any:
            for axis in axes:
                leaf = reduce(_gathered(leaf, axis), (0,))
            return leaf

        return tree_map(on_leaf, x)

    collective.__name__ = collective.__qualname__ = what
    return collective


_sum = _reducing("psum", ops.reduce_sum)
pmax = _reducing("pmax", ops.reduce_max)
pmax.__doc__ = "The largest value (elementwise) over the examples of a named axis, of a pytree."
pmin = _reducing("pmin", ops.reduce_min)
pmin.__doc__ = "The smallest value (elementwise) over the examples of a named axis, of a pytree."


def psum(x: Any, axis_name: AxisName, *, axis_index_groups: Any = None) -> Any:
    """The sum over the examples of a named axis, of a pytree. `psum(1, name)` is the size of the axis, as a Python number.

    Raises NameError if no vmap around names the axis.
    """
    _no_groups("psum", axis_index_groups)
    size = axis_size(axis_name)

    def on_leaf(leaf: Any) -> Any:
        if isinstance(leaf, (bool, int, float, complex)):
            return leaf * size
        # Booleans are counted.
        return _sum(ops.convert_element_type(leaf, np.dtype(np.int32)) if type_of(leaf).dtype.kind == "b" else leaf, axis_name)

    return tree_map(on_leaf, x)


def pmean(x: Any, axis_name: AxisName, *, axis_index_groups: Any = None) -> Any:
    """The mean over the examples of a named axis, of a pytree."""
    size = axis_size(axis_name)

    def on_leaf(leaf: Any) -> Any:
        if isinstance(leaf, (bool, int, float, complex)):
            return leaf * 1.0
        total = psum(leaf, axis_name, axis_index_groups=axis_index_groups)
        if type_of(total).dtype.kind in "iu":
            total = ops.convert_element_type(total, np.dtype(np.float32))
        return ops.div(total, size)

    return tree_map(on_leaf, x)


def axis_size(axis_name: AxisName) -> int:
    """The size of a named axis (the product of several)."""
    size = 1
    for name in _names(axis_name):
        size *= named_axis(name).size
    return size


def axis_index(axis_name: AxisName) -> Any:
    """The number of the example along a named axis; along several, the first is the slowest."""
    index: Any = np.int32(0)
    for name in _names(axis_name):
        axis = named_axis(name)
        own = bind1(axis_index_p, axis_name=axis.name, axis_size=axis.size)
        index = own if type(index) is np.int32 else ops.add(ops.mul(index, axis.size), own)
    return index


def all_gather(x: Any, axis_name: AxisName, *, axis_index_groups: Any = None, axis: int = 0, tiled: bool = False) -> Any:
    """The values of all examples, stacked along a new dimension `axis` (or, if `tiled`, joined along an existing one)."""
    _no_groups("all_gather", axis_index_groups)
    over = _one("all_gather", axis_name)

    def on_leaf(leaf: Any) -> Any:
        rows = _gathered(leaf, over)
        shape = type_of(rows).shape
        at = axis % (len(shape) - tiled) if axis < 0 else axis
        rows = _moved(rows, 0, at)
        return ops.reshape(rows, (*shape[1 : at + 1], shape[0] * shape[at + 1], *shape[at + 2 :])) if tiled else rows

    return tree_map(on_leaf, x)


def ppermute(x: Any, axis_name: AxisName, perm: Sequence[tuple[int, int]]) -> Any:
    """Each example's value sent to another: `perm` lists (source, destination); who receives nothing gets zeros."""
    over = _one("ppermute", axis_name)
    pairs = [(operator.index(a), operator.index(b)) for a, b in perm]
    sources, destinations = [a for a, _ in pairs], [b for _, b in pairs]
    if len(set(sources)) != len(sources) or len(set(destinations)) != len(destinations):
        raise ValueError(f"ppermute sources and destinations must be unique, got {pairs}")
    if any(not 0 <= i < over.size for i in (*sources, *destinations)):
        raise ValueError(f"ppermute: perm {pairs} goes beyond the axis {over.name!r} of size {over.size}")
    # The last row is zeros.
    table = np.full(over.size, over.size, np.int32)
    table[destinations] = sources

    def on_leaf(leaf: Any) -> Any:
        rows = _gathered(leaf, over)
        t = type_of(rows)
        rows = ops.pad(rows, np.zeros((), t.dtype), ((0, 1, 0), *[(0, 0, 0)] * (t.ndim - 1)))
        return _row(rows, ops.reshape(ops.dynamic_slice(table, [axis_index(over.name)], (1,)), ()), 0)

    return tree_map(on_leaf, x)


def pshuffle(x: Any, axis_name: AxisName, perm: Sequence[int]) -> Any:
    """Each example's value sent to another: the i-th example receives the value of the perm[i]-th."""
    return ppermute(x, axis_name, [(source, i) for i, source in enumerate(perm)])


def all_to_all(
    x: Any, axis_name: AxisName, split_axis: int, concat_axis: int, *, axis_index_groups: Any = None, tiled: bool = False
) -> Any:
    """Exchange the dimension `split_axis`, of the axis' size, for the named axis, which becomes dimension `concat_axis`."""
    _no_groups("all_to_all", axis_index_groups)
    over = _one("all_to_all", axis_name)
    if tiled:
        raise NotImplementedError("all_to_all: tiled=True is not supported; reshape the dimension before and after")

    def on_leaf(leaf: Any) -> Any:
        shape = type_of(leaf).shape
        if shape[split_axis] != over.size:
            raise ValueError(
                f"all_to_all: dimension {split_axis} of an array of shape {shape} must be the size of the axis, {over.size}"
            )
        return _moved(
            _row(_gathered(leaf, over), axis_index(over.name), split_axis % len(shape) + 1), 0, concat_axis % len(shape)
        )

    return tree_map(on_leaf, x)


def psum_scatter(
    x: Any, axis_name: AxisName, *, scatter_dimension: int = 0, axis_index_groups: Any = None, tiled: bool = False
) -> Any:
    """The sum over the named axis, of which each example gets the part along `scatter_dimension` that has its number."""
    _no_groups("psum_scatter", axis_index_groups)
    over = _one("psum_scatter", axis_name)

    def on_leaf(leaf: Any) -> Any:
        total = _sum(leaf, axis_name)
        shape = type_of(total).shape
        d = scatter_dimension % len(shape)
        if tiled:
            if shape[d] % over.size:
                raise ValueError(
                    f"psum_scatter: dimension {d} of an array of shape {shape} is not divisible by the axis' size, {over.size}"
                )
            total = ops.reshape(total, (*shape[:d], over.size, shape[d] // over.size, *shape[d + 1 :]))
        elif shape[d] != over.size:
            raise ValueError(
                f"psum_scatter: dimension {d} of an array of shape {shape} must be the size of the axis, {over.size}"
            )
        return _row(total, axis_index(over.name), d)

    return tree_map(on_leaf, x)


def _row(x: Any, i: Any, dimension: int) -> Any:
    shape = type_of(x).shape
    starts = [i if d == dimension else np.int32(0) for d in range(len(shape))]
    sizes = tuple([1 if d == dimension else n for d, n in enumerate(shape)])
    return ops.reshape(ops.dynamic_slice(x, starts, sizes), shape[:dimension] + shape[dimension + 1 :])


def _moved(x: Any, source: int, to: int) -> Any:
    if source == to:
        return x
    order = [d for d in range(len(type_of(x).shape)) if d != source]
    order.insert(to, source)
    return ops.transpose(x, tuple(order))


# Rules


def _gather_transpose(ct: Any, x: Any, *, axis_name: Any, axis_size: int) -> Any:
    # What all examples say about the value of this one.
    axis = Axis(axis_size, axis_name)
    total = ops.reduce_sum(_gathered(ct, axis), (0,))
    return _row(total, bind1(axis_index_p, axis_name=axis_name, axis_size=axis_size), 0)


def _gather_batch(
    axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, axis_name: Any, axis_size: int
) -> tuple[Any, Any]:
    (x,), (d,) = args, dims
    if axis.name != axis_name:
        out = bind1(all_gather_p, x, axis_name=axis_name, axis_size=axis_size)
        return (out,), (None if d is None else d + 1,)
    if d is None:
        shape = type_of(x).shape
        return (ops.broadcast_in_dim(x, (axis_size, *shape), tuple(range(1, len(shape) + 1))),), (None,)
    return (_moved(x, d, 0),), (None,)


def _index_batch(
    axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, axis_name: Any, axis_size: int
) -> tuple[Any, Any]:
    if axis.name != axis_name:
        return (bind1(axis_index_p, axis_name=axis_name, axis_size=axis_size),), (None,)
    return (ops.iota(np.dtype(np.int32), axis_size),), (0,)


_ALONE = Declined("it means nothing outside of a vmap that names its axis")
linear(all_gather_p, _gather_transpose)
all_gather_p.define(batch=_gather_batch, lower=_ALONE)
axis_index_p.define(
    jvp=Declined("it takes no operands"), transpose=Declined("it takes no operands"), batch=_index_batch, lower=_ALONE
)
