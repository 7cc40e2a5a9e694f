"""Batching of primitives, under the names of `jax.interpreters.batching`.

    primitive_batchers[p] = rule        rule(operands, dims, **params) -> (result, its batch dimension)
    axis_primitive_batchers[p] = rule   rule(axis_size, axis_name, trace, operands, dims, **params) -> the same
    fancy_primitive_batchers[p] = rule  rule(axis_data, operands, dims, **params) -> the same; axis_data has `size` and `name`

A batch dimension is a number, or `not_mapped` (None) for what has none. A primitive with `multiple_results` returns two lists. A rule of
`primitive_batchers` is asked only if some operand is batched; all three tables are views of one. There is no trace here to hand
on: what a rule applies goes to the surrounding interpreter by itself, and `trace` is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.interpreters.tables import RuleTable, bare, pair
from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.primitive import Primitive
from tracegrad.transforms.rules import add_dim, move_dim, shifted
from tracegrad.transforms.zero import Axis

__all__ = [
    "axis_primitive_batchers",
    "bdim_at_front",
    "broadcast",
    "broadcast_batcher",
    "defbroadcasting",
    "defreducer",
    "defvectorized",
    "fancy_primitive_batchers",
    "moveaxis",
    "not_mapped",
    "primitive_batchers",
    "vectorized_batcher",
]

not_mapped = None


def _checked(primitive: Primitive, axis: Axis, value: Any) -> tuple[tuple[Any, ...], list[int | None]]:
    """What a rule in JAX's manner returned, as ours do."""
    out, dim = pair(primitive, value, "batching", "result, its batch dimension")
    outs = primitive.results(out, "its batching rule")
    given = (dim,) if not primitive.multiple_results else [dim] * len(outs) if dim is None or isinstance(dim, int) else tuple(dim)
    if len(outs) != len(given):
        raise TypeError(f"the batching rule of {primitive.name!r} returned {len(outs)} results and {len(given)} batch dimensions")
    dims: list[int | None] = []
    for x, d in zip(outs, given):
        shape = type_of(x).shape
        if d is not None:
            if not isinstance(d, int) or not -len(shape) <= d < len(shape) or shape[d] != axis.size:
                raise TypeError(
                    f"the batching rule of {primitive.name!r} returned a result of shape {shape} with the batch dimension {d}, where the "
                    f"batch has the size {axis.size}"
                )
            d %= len(shape)
        dims.append(d)
    return outs, dims


def _our_fancy(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    def batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
        return _checked(primitive, axis, rule(axis, tuple(args), tuple(dims), **params))

    return batch


def _jax_fancy(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    def batch(axis_data: Any, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
        outs, out_dims = rule(Axis(axis_data.size, axis_data.name), tuple(args), tuple(dims), **params)
        return bare(primitive, outs), bare(primitive, out_dims)

    return batch


def _our_axis(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    return _our_fancy(primitive, lambda axis, args, dims, **params: rule(axis.size, axis.name, None, args, dims, **params))


def _jax_axis(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    fancy = _jax_fancy(primitive, rule)
    return lambda axis_size, axis_name, _, args, dims, **params: fancy(Axis(axis_size, axis_name), args, dims, **params)


def _our_plain(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    fancy = _our_fancy(primitive, lambda axis, args, dims, **params: rule(args, dims, **params))

    def batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
        if all([d is None for d in dims]):
            outs = bind(primitive, *args, **params)
            return outs, [None] * len(outs)
        return fancy(axis, args, dims, **params)

    return batch


def _jax_plain(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    fancy = _jax_fancy(primitive, rule)

    def batch(args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
        size = next(type_of(x).shape[d] for x, d in zip(args, dims) if d is not None)
        return fancy(Axis(size), args, dims, **params)

    return batch


primitive_batchers = RuleTable("batch", _our_plain, _jax_plain)
axis_primitive_batchers = RuleTable("batch", _our_axis, _jax_axis)
fancy_primitive_batchers = RuleTable("batch", _our_fancy, _jax_fancy)


# What rules are made of


def moveaxis(x: Any, src: int, dst: int) -> Any:
    """`x` with the dimension `src` at `dst`."""
    rank = len(type_of(x).shape)
    return move_dim(x, src % rank, dst % rank)


def broadcast(x: Any, sz: int, axis: int, mesh_axis: Any = None) -> Any:
    """`x` repeated `sz` times along a new dimension at `axis`. mesh_axis is accepted."""
    return add_dim(x, axis % (len(type_of(x).shape) + 1), sz)


def bdim_at_front(x: Any, bdim: int | None, size: int, mesh_axis: Any = None) -> Any:
    """`x` with its batch dimension (made by repetition if it has none) in front."""
    return broadcast(x, size, 0) if bdim is None else moveaxis(x, bdim, 0)


# Rules for usual cases


def defvectorized(primitive: Primitive) -> None:
    """Say that a primitive acts on each element by itself: it is applied to batches as it is."""
    primitive_batchers[primitive] = lambda args, dims, **params: vectorized_batcher(primitive, args, dims, **params)


def vectorized_batcher(primitive: Primitive, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
    """The batching rule that `defvectorized` makes. Raises NotImplementedError if operands are batched along different dimensions."""
    if any([d != dims[0] for d in dims]):
        raise NotImplementedError(
            f"{primitive.name!r} is batched by defvectorized, whose operands must all be batched along one dimension, but they are along "
            f"{tuple(dims)}; defbroadcasting moves them"
        )
    return primitive.bind(*args, **params), dims[0]


def defbroadcasting(primitive: Primitive) -> None:
    """Say that a primitive acts on each element by itself, on operands that broadcast against each other in NumPy's manner."""
    primitive_batchers[primitive] = lambda args, dims, **params: broadcast_batcher(primitive, args, dims, **params)


def broadcast_batcher(primitive: Primitive, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
    """The batching rule that `defbroadcasting` makes: batch dimensions come first, operands of an example get the same rank."""
    shapes = [type_of(x).shape for x in args]
    batched = [(s, d) for s, d in zip(shapes, dims) if s]
    if all([s == batched[0][0] and d == batched[0][1] is not None for s, d in batched]):
        return primitive.bind(*args, **params), batched[0][1]
    rank = max([len(s) - (d is not None) for s, d in zip(shapes, dims)])
    operands = []
    for x, d, shape in zip(args, dims, shapes):
        if d is not None:
            front = move_dim(x, d, 0)
            size, *rest = type_of(front).shape
            x = ops.reshape(front, (size, *(1,) * (rank - len(rest)), *rest))
        elif shape:
            x = ops.reshape(x, (*(1,) * (rank + 1 - len(shape)), *shape))
        operands.append(x)
    return primitive.bind(*operands, **params), 0


def defreducer(primitive: Primitive, ident: Any = None) -> None:
    """Say that a primitive with one operand reduces the dimensions in its parameter `axes`. ident is accepted."""

    def batch(args: Sequence[Any], dims: Sequence[int | None], *, axes: Sequence[int], **params: Any) -> tuple[Any, Any]:
        ((x,), (dim,)) = args, dims
        assert dim is not None  # asked only about batched operands
        out = primitive.bind(x, axes=shifted(axes, dim), **params)
        return out, dim - sum([a < dim for a in axes])

    primitive_batchers[primitive] = batch
