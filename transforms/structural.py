"""Derivatives and batching of the structural primitives: all are linear, and the transpose puts elements back where they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir import ops
from tracegrad.ir import structural as s
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.primitive import Declined, Primitive
from tracegrad.ir.types import ArrayType, has_tangents, is_key, tangent_type
from tracegrad.transforms.rules import (
    align,
    at_dim,
    broadcast_scalar,
    first_dim,
    insert,
    linear,
    move_dim,
    scalar,
    shifted,
    transposes,
    zero_derivative,
    zeros,
)
from tracegrad.transforms.zero import Linear, Zero, is_zero

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
Batched = tuple[Sequence[Any], Sequence[int]]

# Derivatives


def _transpose_broadcast_in_dim(ct: Any, x: ArrayType, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]) -> Any:
    repeated = [d for d in range(len(shape)) if d not in broadcast_dimensions]
    repeated += [d for n, d in zip(x.shape, broadcast_dimensions) if n != shape[d]]
    if not repeated:
        return ct
    ct = ops.reduce_sum(ct, sorted(repeated))
    return ct if type_of(ct).shape == x.shape else ops.reshape(ct, x.shape)


def _transpose_transpose(ct: Any, x: ArrayType, *, permutation: tuple[int, ...]) -> Any:
    inverse = [0] * len(permutation)
    for i, p in enumerate(permutation):
        inverse[p] = i
    return ops.transpose(ct, inverse)


def _transpose_slice(
    ct: Any, x: ArrayType, *, start_indices: tuple[int, ...], limit_indices: tuple[int, ...], strides: tuple[int, ...]
) -> Any:
    config = []
    for size, start, taken, stride in zip(x.shape, start_indices, type_of(ct).shape, strides):
        covered = (taken - 1) * stride + 1 if taken else 0
        config.append((start, size - start - covered, stride - 1))
    return ops.pad(ct, scalar(0, x.dtype), config)


linear(s.broadcast_in_dim_p, _transpose_broadcast_in_dim)
linear(s.reshape_p, lambda ct, x, *, new_sizes: ops.reshape(ct, x.shape))
linear(s.transpose_p, _transpose_transpose)
linear(s.slice_p, _transpose_slice)
linear(s.rev_p, lambda ct, x, *, dimensions: ops.rev(ct, dimensions))


def _pad_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, padding_config: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    ans = bind1(s.pad_p, *primals, padding_config=padding_config)
    out = tangent_type(type_of(ans))
    x_dot, value_dot = tangents
    if is_zero(x_dot) and is_zero(value_dot) or not has_tangents(out.dtype):
        return (ans,), (Zero(out),)
    if is_zero(value_dot):
        value_dot = scalar(0, out.dtype)
    return (ans,), (ops.pad(zeros(x_dot.type) if is_zero(x_dot) else x_dot, value_dot, padding_config),)


def _transpose_pad(ct: Any, x: Any, value: Any, *, padding_config: Any) -> Sequence[Any]:
    shape = (x.type if isinstance(x, Linear) else type_of(x)).shape
    cropped = ops.pad(ct, scalar(0, type_of(ct).dtype), [(-lo, -hi, 0) for lo, hi, _ in padding_config])
    if any(interior for _, _, interior in padding_config):
        sizes = type_of(cropped).shape
        cropped = ops.slice(cropped, (0,) * len(sizes), sizes, [interior + 1 for _, _, interior in padding_config])
    ct_value = None
    if isinstance(value, Linear):
        # What did not come from x came from the padding value.
        axes = tuple(range(len(shape)))
        ct_value = ops.sub(ops.reduce_sum(ct, axes), ops.reduce_sum(cropped, axes)) if axes else ops.sub(ct, cropped)
    return [cropped if isinstance(x, Linear) else None, ct_value]


s.pad_p.define(jvp=_pad_jvp)
transposes(s.pad_p, _transpose_pad)


def _concatenate_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, dimension: int) -> tuple[Sequence[Any], Sequence[Any]]:
    ans = ops.concatenate(primals, dimension)
    out = tangent_type(type_of(ans))
    moving = [i for i, t in enumerate(tangents) if not is_zero(t)]
    if not has_tangents(out.dtype) or not moving:
        return (ans,), (Zero(out),)
    if len(moving) == 1:
        (i,) = moving
        sizes = [type_of(x).shape[dimension] for x in primals]
        config = [(0, 0, 0)] * out.ndim
        config[dimension] = (sum(sizes[:i]), sum(sizes[i + 1 :]), 0)
        return (ans,), (ops.pad(tangents[i], scalar(0, out.dtype), config),)
    return (ans,), (ops.concatenate([zeros(t.type) if is_zero(t) else t for t in tangents], dimension),)


def _transpose_concatenate(ct: Any, *operands: Any, dimension: int) -> Sequence[Any]:
    cts: list[Any] = []
    start = 0
    for x in operands:
        is_linear = isinstance(x, Linear)
        stop = start + (x.type if is_linear else type_of(x)).shape[dimension]
        cts.append(ops.slice_in_dim(ct, start, stop, axis=dimension) if is_linear else None)
        start = stop
    return cts


s.concatenate_p.define(jvp=_concatenate_jvp)
transposes(s.concatenate_p, _transpose_concatenate)
zero_derivative(s.iota_p)


# Batching: the batch dimension stays where it is if the parameters can say so.


def _batch_broadcast_in_dim(
    axis: Any, args: Sequence[Any], dims: Dims, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]
) -> Batched:
    (x,), (dim,) = args, dims
    # Directly behind the place of the axis before it, so that the places still increase.
    to = broadcast_dimensions[dim - 1] + 1 if dim else 0
    places = insert(shifted(broadcast_dimensions, to), dim, to)
    return (ops.broadcast_in_dim(x, insert(shape, to, axis.size), places),), (to,)


def _batch_reshape(axis: Any, args: Sequence[Any], dims: Dims, *, new_sizes: tuple[int, ...]) -> Batched:
    x = move_dim(args[0], first_dim(dims), 0)
    return (ops.reshape(x, (axis.size, *new_sizes)),), (0,)


def _batch_transpose(axis: Any, args: Sequence[Any], dims: Dims, *, permutation: tuple[int, ...]) -> Batched:
    dim = first_dim(dims)
    return (ops.transpose(args[0], (dim, *shifted(permutation, dim))),), (0,)


def _batch_slice(
    axis: Any,
    args: Sequence[Any],
    dims: Dims,
    *,
    start_indices: tuple[int, ...],
    limit_indices: tuple[int, ...],
    strides: tuple[int, ...],
) -> Batched:
    d = first_dim(dims)
    out = ops.slice(args[0], insert(start_indices, d, 0), insert(limit_indices, d, axis.size), insert(strides, d, 1))
    return (out,), (d,)


def _batch_pad(axis: Any, args: Sequence[Any], dims: Dims, *, padding_config: Any) -> Batched:
    x, value = args
    x_dim, value_dim = dims
    if value_dim is None:
        return (ops.pad(x, value, insert(padding_config, x_dim, (0, 0, 0))),), (x_dim,)
    # A padding value for each example: pad with anything and put the values in by a mask of what is x.
    x = at_dim(x, x_dim, 0, axis.size)
    config = ((0, 0, 0), *padding_config)
    shape = type_of(x).shape
    inside = ops.pad(broadcast_scalar(scalar(True, bool), shape), scalar(False, bool), config)
    filler = ops.slice_in_dim(value, 0, 1) if is_key(type_of(value).dtype) and axis.size else None
    out = ops.pad(x, ops.reshape(filler, ()) if filler is not None else scalar(0, type_of(x).dtype), config)
    return (ops.select(inside, out, ops.broadcast_in_dim(value, type_of(out).shape, (0,))),), (0,)


def _batch_rev(axis: Any, args: Sequence[Any], dims: Dims, *, dimensions: tuple[int, ...]) -> Batched:
    d = first_dim(dims)
    return (ops.rev(args[0], shifted(dimensions, d)),), (d,)


def _batch_concatenate(axis: Any, args: Sequence[Any], dims: Dims, *, dimension: int) -> Batched:
    operands, to = align(axis, args, dims)
    return (ops.concatenate(operands, shifted((dimension,), to)[0]),), (to,)


def _rearranges(prim: Primitive, batch: Callable[..., Batched]) -> None:
    """Define batching of an operation that only rearranges. Arrays of tapes whose batch dimension is inside of the tapes keep it there."""

    def rule(axis: Any, args: Sequence[Any], dims: Dims, **params: Any) -> Batched:
        if first_dim(dims) < 0:
            return (bind1(prim, *args, **params),), dims
        return batch(axis, args, dims, **params)

    prim.define(batch=rule)


_rearranges(s.broadcast_in_dim_p, _batch_broadcast_in_dim)
_rearranges(s.reshape_p, _batch_reshape)
_rearranges(s.transpose_p, _batch_transpose)
_rearranges(s.slice_p, _batch_slice)
s.pad_p.define(batch=_batch_pad)
_rearranges(s.rev_p, _batch_rev)
s.concatenate_p.define(batch=_batch_concatenate)
s.iota_p.define(batch=Declined("it has no operand that could be batched"))
