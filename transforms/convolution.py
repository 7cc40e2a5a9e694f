"""Derivatives and batching of `conv_general_dilated`.

Both cotangents of a convolution are convolutions: that of the input one of the cotangent with the mirrored filter, that of the
filter one of the input with the cotangent, where batch and features exchange their parts. A batch dimension merges into the
batch, into the output features, or, when both operands have it, into the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.ir import contractions as c
from tracegrad.ir import ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.contractions import dilated_size
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.rules import bilinear, broadcast_scalar, move_dim, scalar

Dims = Sequence[Any]  # for each operand an int, or None if it is not batched
Specs = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _split(x: Any, dim: int, groups: int) -> Any:
    """Dimension `dim` as two: groups, and the places within a group."""
    shape = type_of(x).shape
    return ops.reshape(x, (*shape[:dim], groups, shape[dim] // groups, *shape[dim + 1 :]))


def _merge(x: Any, dim: int) -> Any:
    """Dimensions `dim` and `dim + 1` as one."""
    shape = type_of(x).shape
    return ops.reshape(x, (*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :]))


def _move_groups(x: Any, source: int, to: int, groups: int) -> Any:
    """Move the group number, the outer part of dimension `source`, to be the outer part of dimension `to`."""
    if groups == 1:
        return x
    x = _split(x, source, groups)
    # Behind the split, dimension numbers beyond `source` are one higher; the moved dimension itself leaves again.
    return _merge(move_dim(x, source, to), to)


def _in_dtype_of(ct: Any, other: Any) -> Any:
    """The other operand in the dtype of the cotangent, which differs from it if the convolution had a preferred_element_type."""
    dtype = type_of(ct).dtype
    return other if type_of(other).dtype == dtype else ops.convert_element_type(other, dtype)


def _as_type(x: Any, out: ArrayType) -> Any:
    return x if type_of(x).dtype == out.dtype else ops.convert_element_type(x, out.dtype)


def _wrt_lhs(
    ct: Any,
    x: ArrayType,
    y: Any,
    *,
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: Specs,
    feature_group_count: int,
    batch_group_count: int,
    preferred_element_type: Any,
) -> Any:
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    if x.size == 0 or type_of(ct).size == 0:
        return _zeros(x)
    y = _in_dtype_of(ct, y)
    groups = feature_group_count * batch_group_count
    y = _move_groups(y, rhs_spec[0], rhs_spec[1], groups)
    y = ops.rev(y, sorted(rhs_spec[2:]))
    ct_shape, y_shape = type_of(ct).shape, type_of(y).shape
    pads = []
    for k, (lo, _) in enumerate(padding):
        size = dilated_size(x.shape[lhs_spec[2 + k]], lhs_dilation[k])
        window = dilated_size(y_shape[rhs_spec[2 + k]], rhs_dilation[k])
        covered = dilated_size(ct_shape[out_spec[2 + k]], window_strides[k])
        before = window - 1 - lo
        pads.append((before, size + window - 1 - covered - before))
    out = ops.conv_general_dilated(
        ct,
        y,
        window_strides=lhs_dilation,
        padding=pads,
        lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation,
        dimension_numbers=(out_spec, (rhs_spec[1], rhs_spec[0], *rhs_spec[2:]), lhs_spec),
        feature_group_count=groups,
    )
    # Groups of batches came out as groups of features.
    return _as_type(_move_groups(out, lhs_spec[1], lhs_spec[0], batch_group_count), x)


def _wrt_rhs(
    ct: Any,
    x: Any,
    y: ArrayType,
    *,
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: Specs,
    feature_group_count: int,
    batch_group_count: int,
    preferred_element_type: Any,
) -> Any:
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    ct_shape, x_shape = type_of(ct).shape, type_of(x).shape
    if y.size == 0 or type_of(x).size == 0 or type_of(ct).size == 0:
        return _zeros(y)
    pads = []
    for k, (lo, _) in enumerate(padding):
        size = dilated_size(x_shape[lhs_spec[2 + k]], lhs_dilation[k])
        window = dilated_size(y.shape[rhs_spec[2 + k]], rhs_dilation[k])
        covered = dilated_size(ct_shape[out_spec[2 + k]], window_strides[k])
        pads.append((lo, covered + window - 1 - size - lo))
    out = ops.conv_general_dilated(
        _in_dtype_of(ct, x),
        ct,
        window_strides=rhs_dilation,
        padding=pads,
        lhs_dilation=lhs_dilation,
        rhs_dilation=window_strides,
        dimension_numbers=(
            (lhs_spec[1], lhs_spec[0], *lhs_spec[2:]),
            (out_spec[1], out_spec[0], *out_spec[2:]),
            (rhs_spec[1], rhs_spec[0], *rhs_spec[2:]),
        ),
        feature_group_count=batch_group_count,
        batch_group_count=feature_group_count,
    )
    return _as_type(out, y)


def _zeros(t: ArrayType) -> Any:
    return broadcast_scalar(scalar(0, t.dtype), t.shape)


bilinear(c.conv_general_dilated_p, _wrt_lhs, _wrt_rhs)


def _merge_batch(x: Any, batch_dim: int, dim: int, groups: int) -> Any:
    """Merge the batch dimension into dimension `dim` (as numbered without it), inside of `groups` groups."""
    if groups == 1:
        return _merge(move_dim(x, batch_dim, dim), dim)
    x = move_dim(x, batch_dim, 0)
    x = _split(x, dim + 1, groups)  # batch, ..., groups, rest, ...
    x = move_dim(x, 0, dim + 1)  # ..., groups, batch, rest, ...
    return _merge(_merge(x, dim + 1), dim)


def _split_batch(out: Any, dim: int, size: int, groups: int) -> tuple[Any, int]:
    """Take the batch dimension out of dimension `dim` again; and where it is then."""
    if groups == 1:
        return _split(out, dim, size), dim
    shape = type_of(out).shape
    rest = shape[dim] // (groups * size)
    out = ops.reshape(out, (*shape[:dim], groups, size, rest, *shape[dim + 1 :]))
    return _merge(move_dim(out, dim + 1, 0), dim + 1), 0


def _batch_conv(
    axis: Any,
    args: Sequence[Any],
    dims: Dims,
    *,
    dimension_numbers: Specs,
    feature_group_count: int,
    batch_group_count: int,
    **params: Any,
) -> tuple[Sequence[Any], Sequence[int]]:
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    x, y = args
    x_dim, y_dim = dims
    params["dimension_numbers"] = dimension_numbers
    if axis.size == 0:
        return (_batch_of_nothing(x, x_dim, y, y_dim, feature_group_count, batch_group_count, params),), (0,)
    if x_dim is not None and y_dim is not None:
        n = axis.size
        y = _merge_batch(y, y_dim, rhs_spec[0], 1)
        if batch_group_count > 1:
            x = _merge_batch(x, x_dim, lhs_spec[0], 1)
            batch_group_count *= n
        else:
            x = _merge_batch(x, x_dim, lhs_spec[1], 1)
            feature_group_count *= n
        split, groups = out_spec[1], 1
    elif x_dim is not None:
        x = _merge_batch(x, x_dim, lhs_spec[0], batch_group_count)
        split, groups = out_spec[0], 1
    else:
        groups = feature_group_count * batch_group_count
        y = _merge_batch(y, y_dim, rhs_spec[0], groups)
        split = out_spec[1]
    out = bind1(
        c.conv_general_dilated_p,
        x,
        y,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        **params,
    )
    out, dim = _split_batch(out, split, axis.size, groups)
    return (out,), (dim,)


def _batch_of_nothing(x: Any, x_dim: Any, y: Any, y_dim: Any, groups: int, batch_groups: int, params: dict[str, Any]) -> Any:
    """The result for a batch of size 0: only its type matters."""
    types = []
    for v, d in ((x, x_dim), (y, y_dim)):
        t = type_of(v)
        types.append(t if d is None else t.update(shape=(*t.shape[:d], *t.shape[d + 1 :])))
    (out,) = c.conv_general_dilated_p.type_rule(*types, feature_group_count=groups, batch_group_count=batch_groups, **params)
    return _zeros(out.update(shape=(0, *out.shape)))


c.conv_general_dilated_p.define(batch=_batch_conv)
