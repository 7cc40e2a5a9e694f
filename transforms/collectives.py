"""Collectives over the named axis of a vmap: psum, pmean, pmax, all_gather, axis_index and their kind.

Two primitives suffice, since everything else is composed of them: all examples' values, and the example's own number. They mean nothing for
one example alone; batching over the axis replaces them, so that none is left to compile.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.primitive import Declined, Primitive
from tracegrad.ir.reductions import greatest, least
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
Groups = Sequence[Sequence[int]] | None


class _Team:
    """The examples that a collective is over: those along one or more named axes, together or divided into groups.

    Examples along several axes are numbered with the first axis slowest. size: of a group, the largest if they differ.
    """

    __slots__ = ("axes", "size", "groups", "equal")

    def __init__(self, what: str, axis_name: AxisName, groups: Groups, equal: bool = True):
        self.axes = [named_axis(name) for name in _names(axis_name)]
        self.size = total = prod([axis.size for axis in self.axes])
        self.groups = None if groups is None else [[operator.index(i) for i in group] for group in groups]
        self.equal = True
        if self.groups is not None:
            if sorted([i for group in self.groups for i in group]) != list(range(total)):
                raise ValueError(
                    f"{what}: axis_index_groups must cover all indices exactly once, that is 0 to {total - 1}, got {groups!r}"
                )
            sizes = {len(group) for group in self.groups}
            self.size = max(sizes)
            self.equal = len(sizes) == 1
            if equal and not self.equal:
                raise ValueError(f"{what}: axis_index_groups must all be the same size, got {groups!r}")

    def number(self) -> Any:
        """The number of the example among all."""
        index: Any = np.int32(0)
        for axis in self.axes:
            own = bind1(axis_index_p, axis_name=axis.name, axis_size=axis.size)
            index = own if type(index) is np.int32 else ops.add(ops.mul(index, axis.size), own)
        return index

    def everyone(self, x: Any) -> Any:
        """The values of all examples, in front."""
        shape = type_of(x).shape
        for axis in reversed(self.axes):
            x = bind1(all_gather_p, x, axis_name=axis.name, axis_size=axis.size)
        return x if len(self.axes) == 1 else ops.reshape(x, (prod([axis.size for axis in self.axes]), *shape))

    def rows(self, x: Any, identity: Any = None) -> Any:
        """The values of the group, in its order, in front; `identity` stands for those that a smaller group lacks."""
        rows = self.everyone(x)
        if self.groups is None:
            return rows
        t = type_of(rows)
        if not self.equal:
            rows = ops.pad(rows, identity, ((0, 1, 0), *[(0, 0, 0)] * (t.ndim - 1)))
        members = np.full((t.shape[0], self.size), t.shape[0], np.int32)
        for group in self.groups:
            members[group, : len(group)] = group
        return ops.gather(
            rows,
            ops.reshape(_row(members, self.number(), 0), (self.size, 1)),
            offset_dims=range(1, t.ndim),
            collapsed_slice_dims=(0,),
            start_index_map=(0,),
            slice_sizes=(1, *t.shape[1:]),
            mode="promise_in_bounds",
        )

    def position(self) -> Any:
        """The position of the example in its group."""
        return self.number() if self.groups is None else self._looked_up(lambda group: range(len(group)))

    def members(self) -> Any:
        """The size of the example's group; a Python number if all have the same."""
        return self.size if self.equal else self._looked_up(lambda group: [len(group)] * len(group))

    def _looked_up(self, values: Callable[[list[int]], Sequence[int]]) -> Any:
        groups = self.groups or []
        table = np.zeros(sum(map(len, groups)), np.int32)
        for group in groups:
            table[group] = values(group)
        return _row(table, self.number(), 0)


def _names(axis_name: AxisName) -> tuple[Hashable, ...]:
    return tuple(axis_name) if isinstance(axis_name, (tuple, list)) else (axis_name,)


def _apart(axis_name: AxisName) -> tuple[tuple[Hashable, ...], tuple[int, ...]]:
    """(names, positional dimensions)."""
    names = _names(axis_name)
    return tuple([n for n in names if type(n) is not int]), tuple([n for n in names if type(n) is int])


def _reducing(
    what: str, reduce: Callable[..., Any], identity: Callable[[np.dtype[Any]], Any]
) -> Callable[[Any, AxisName, Groups], Any]:
    def collective(x: Any, axis_name: AxisName, axis_index_groups: Groups = None) -> Any:
        names, positional = _apart(axis_name)
        if axis_index_groups is not None and (positional or not names):
            raise ValueError(f"{what}: axis_index_groups is only about named axes, got the axes {axis_name!r}")
        team = _Team(what, names, axis_index_groups, equal=False) if names else None

        def on_leaf(leaf: Any) -> Any:
            t = type_of(leaf)
            for d in positional:
                if not -t.ndim <= d < t.ndim:
                    raise ValueError(f"{what}: axis {d} is out of bounds for an array of dimension {t.ndim}")
            if positional:
                leaf = reduce(leaf, tuple(sorted({d % t.ndim for d in positional})))
            return leaf if team is None else reduce(team.rows(leaf, identity(t.dtype)), (0,))

        return tree_map(on_leaf, x)

    return collective


_sum = _reducing("psum", ops.reduce_sum, lambda dtype: np.zeros((), dtype))
_max = _reducing("pmax", ops.reduce_max, least)
_min = _reducing("pmin", ops.reduce_min, greatest)


def psum(x: Any, axis_name: AxisName, *, axis_index_groups: Groups = None) -> Any:
    """The sum over the examples of a named axis, of a pytree. `psum(1, name)` is the size of the axis, as a Python number.

    axis_name: a name, or several, or positions of the array's own dimensions beside them. axis_index_groups: lists of examples' numbers
    that together hold each once; the sum is then over the example's own group. Raises NameError if no vmap around names the axis.
    """
    names, positional = _apart(axis_name)
    size = _Team("psum", names, axis_index_groups, equal=False).members() if names else 1

    def on_leaf(leaf: Any) -> Any:
        if isinstance(leaf, (bool, int, float, complex)):
            if positional:
                raise ValueError(f"psum: the number {leaf!r} has no dimension {positional[0]}")
            return leaf * size
        # Booleans are counted.
        leaf = ops.convert_element_type(leaf, np.dtype(np.int32)) if type_of(leaf).dtype.kind == "b" else leaf
        return _sum(leaf, axis_name, axis_index_groups)

    return tree_map(on_leaf, x)


def pmean(x: Any, axis_name: AxisName, *, axis_index_groups: Groups = None) -> Any:
    """The mean over the examples of a named axis, of a pytree; `axis_name` and `axis_index_groups` as in `psum`."""
    names, positional = _apart(axis_name)
    size = _Team("pmean", names, axis_index_groups, equal=False).members() if names else 1

    def on_leaf(leaf: Any) -> Any:
        if isinstance(leaf, (bool, int, float, complex)):
            return leaf * 1.0
        shape = type_of(leaf).shape
        total = psum(leaf, axis_name, axis_index_groups=axis_index_groups)
        if type_of(total).dtype.kind in "iu":
            total = ops.convert_element_type(total, np.dtype(np.float32))
        own = prod([shape[d] for d in positional])
        if isinstance(size, int):
            return ops.div(total, size * own)
        return ops.div(total, ops.convert_element_type(ops.mul(size, own), type_of(total).dtype))

    return tree_map(on_leaf, x)


def pmax(x: Any, axis_name: AxisName, *, axis_index_groups: Groups = None) -> Any:
    """The largest value (elementwise) over the examples of a named axis, of a pytree; arguments as those of `psum`."""
    return _max(x, axis_name, axis_index_groups)


def pmin(x: Any, axis_name: AxisName, *, axis_index_groups: Groups = None) -> Any:
    """The smallest value (elementwise) over the examples of a named axis, of a pytree; arguments as those of `psum`."""
    return _min(x, axis_name, axis_index_groups)


def axis_size(axis_name: AxisName) -> int:
    """The size of a named axis (the product of several)."""
    return prod([named_axis(name).size for name in _names(axis_name)])


def axis_index(axis_name: AxisName) -> Any:
    """The number of the example along a named axis; along several, the first is the slowest."""
    return _Team("axis_index", axis_name, None).number()


def all_gather(x: Any, axis_name: AxisName, *, axis_index_groups: Groups = None, axis: int = 0, tiled: bool = False) -> Any:
    """The values of all examples, stacked along a new dimension `axis` (or, if `tiled`, joined along an existing one).

    With axis_index_groups the values of the example's group, in the order given there; all groups have the same size.
    """
    team = _Team("all_gather", axis_name, axis_index_groups)

    def on_leaf(leaf: Any) -> Any:
        rows = team.rows(leaf)
        rank = len(type_of(rows).shape) - tiled
        at = _dimension("all_gather", axis, rank, type_of(leaf).shape)
        return _joined(rows, at) if tiled else _moved(rows, 0, at)

    return tree_map(on_leaf, x)


def _dimension(what: str, d: int, rank: int, shape: tuple[int, ...]) -> int:
    if not -rank <= d < rank:
        raise ValueError(f"{what}: axis {d} is out of bounds for an array of shape {shape}")
    return d % rank


def _joined(rows: Any, at: int) -> Any:
    """Arrays stacked in front joined along their dimension `at`."""
    shape = type_of(rows).shape
    return ops.reshape(_moved(rows, 0, at), (*shape[1 : at + 1], shape[0] * shape[at + 1], *shape[at + 2 :]))


def ppermute(x: Any, axis_name: AxisName, perm: Sequence[tuple[int, int]]) -> Any:
    """Each example's value sent to another: `perm` lists (source, destination); who receives nothing gets zeros."""
    team = _Team("ppermute", axis_name, None)
    pairs = [(operator.index(a), operator.index(b)) for a, b in perm]
    sources, destinations = [a for a, _ in pairs], [b for _, b in pairs]
    if len(set(sources)) != len(sources) or len(set(destinations)) != len(destinations):
        raise ValueError(f"ppermute sources and destinations must be unique, got {pairs}")
    if any(not 0 <= i < team.size for i in (*sources, *destinations)):
        raise ValueError(f"ppermute: perm {pairs} goes beyond the axis {axis_name!r} of size {team.size}")
    # The last row is zeros.
    table = np.full(team.size, team.size, np.int32)
    table[destinations] = sources

    def on_leaf(leaf: Any) -> Any:
        rows = team.rows(leaf)
        t = type_of(rows)
        rows = ops.pad(rows, np.zeros((), t.dtype), ((0, 1, 0), *[(0, 0, 0)] * (t.ndim - 1)))
        return _row(rows, _row(table, team.number(), 0), 0)

    return tree_map(on_leaf, x)


def pshuffle(x: Any, axis_name: AxisName, perm: Sequence[int]) -> Any:
    """Each example's value sent to another: the i-th example receives the value of the perm[i]-th."""
    if sorted(perm) != list(range(len(perm))):
        raise ValueError(f"`perm` does not represent a permutation: {perm}")
    return ppermute(x, axis_name, [(source, i) for i, source in enumerate(perm)])


def pbroadcast(x: Any, axis_name: AxisName, source: int) -> Any:
    """The value of the example with the number `source`, of a pytree."""
    team = _Team("pbroadcast", axis_name, None)
    if not 0 <= source < team.size:
        raise ValueError(f"pbroadcast: source {source} is not an index of the axis {axis_name!r} of size {team.size}")
    return tree_map(lambda leaf: _row(team.rows(leaf), np.int32(source), 0), x)


def all_to_all(
    x: Any, axis_name: AxisName, split_axis: int, concat_axis: int, *, axis_index_groups: Groups = None, tiled: bool = False
) -> Any:
    """Exchange the parts of the dimension `split_axis`: the i-th example of the axis (or group) gets the i-th part of each other's.

    The parts that an example gets are stacked along a new dimension `concat_axis`, in place of the dimension `split_axis`, whose size is
    that of the axis; with `tiled`, that dimension is divided among the examples and the parts are joined along `concat_axis`.
    """
    team = _Team("all_to_all", axis_name, axis_index_groups)

    def on_leaf(leaf: Any) -> Any:
        shape = type_of(leaf).shape
        split = _dimension("all_to_all", split_axis, len(shape), shape)
        concat = _dimension("all_to_all", concat_axis, len(shape), shape)
        rows = team.rows(leaf)
        if tiled:
            return _joined(_part("all_to_all", rows, team, split + 1, shape), concat)
        _check_size("all_to_all", split, shape, team.size)
        return _moved(_row(rows, team.position(), split + 1), 0, concat)

    return tree_map(on_leaf, x)


def psum_scatter(
    x: Any, axis_name: AxisName, *, scatter_dimension: int = 0, axis_index_groups: Groups = None, tiled: bool = False
) -> Any:
    """The sum over the named axis (or group), of which each example gets the part along `scatter_dimension` that has its number.

    That dimension has the size of the axis and goes; with `tiled` it is divided among the examples and stays.
    """
    team = _Team("psum_scatter", axis_name, axis_index_groups)

    def on_leaf(leaf: Any) -> Any:
        total = _sum(leaf, axis_name, axis_index_groups)
        shape = type_of(total).shape
        d = _dimension("psum_scatter", scatter_dimension, len(shape), shape)
        if tiled:
            return _part("psum_scatter", total, team, d, shape)
        _check_size("psum_scatter", d, shape, team.size)
        return _row(total, team.position(), d)

    return tree_map(on_leaf, x)


def _check_size(what: str, dimension: int, shape: tuple[int, ...], size: int) -> None:
    if shape[dimension] != size:
        raise ValueError(f"{what}: dimension {dimension} of an array of shape {shape} must be the size of the axis, {size}")


def _part(what: str, x: Any, team: _Team, dimension: int, shape: tuple[int, ...]) -> Any:
    """The example's part of a dimension that is divided evenly among the team. shape: the user's, for the message."""
    sizes = list(type_of(x).shape)
    if sizes[dimension] % team.size:
        raise ValueError(
            f"{what}: a dimension of size {sizes[dimension]} of an array of shape {shape} is not divisible by the axis' size, {team.size}"
        )
    sizes[dimension] //= team.size
    starts: list[Any] = [np.int32(0)] * len(sizes)
    starts[dimension] = ops.mul(team.position(), sizes[dimension])
    return ops.dynamic_slice(x, starts, tuple(sizes))


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
    total = ops.reduce_sum(bind1(all_gather_p, ct, axis_name=axis_name, axis_size=axis_size), (0,))
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
