"""Samples of the primitives that move, reduce, contract, index, window and sort arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from primitive_samples import (
    BF16,
    BOOL,
    C64,
    C128,
    EDGES,
    F16,
    F32,
    F64,
    HALF,
    I8,
    I32,
    I64,
    U8,
    U32,
    Case,
    Keys,
    backwards,
    draw,
    sample,
    sampler,
)

from tracegrad.ir import ops
from tracegrad.ir.config import config
from tracegrad.ir.types import ArrayType
from tracegrad.tracer.staging import trace

X = draw(F64, (2, 3, 4))
MOVED = (F64, C128, F32, F16, BF16, I32, U8, BOOL)
"""Structural primitives are tried with each width of element."""


@sampler
def structural_samples() -> Iterable[Case]:
    for dtype in MOVED:
        x = draw(dtype, (2, 3, 4))
        yield sample(ops.transpose, x, (2, 0, 1))
        yield sample(ops.concatenate, [x, x[:, :0], draw(dtype, (2, 2, 4), salt=1)], 1)
        yield sample(ops.pad, x, x[0, 0, 0], ((1, 2, 0), (-1, 0, 1), (0, -2, 2)))
        yield sample(ops.slice, x, (0, 1, 0), (2, 3, 4), (1, 1, 3))
        yield sample(ops.rev, x, (0, 2))
        yield sample(ops.reshape, x, (6, 4))
        yield sample(ops.broadcast_in_dim, x[:, :1], (2, 5, 3, 4), (0, 2, 3))
    for x, note in ((backwards(X), "strided"), (np.zeros((2, 0, 4)), "empty")):
        yield sample(ops.transpose, x, (1, 2, 0), note=note)
        yield sample(ops.reshape, x, (4, -(-x.size // 4)), note=note)
        yield sample(ops.rev, x, (1,), note=note)
        yield sample(ops.slice, x, (1, 0, 2), (2, x.shape[1], 2), (1, 1, 1), note=f"{note} to nothing")
        yield sample(ops.pad, x, np.float64(7), ((0, 0, 0), (2, 1, 1), (0, 0, 0)), note=note)
        yield sample(ops.broadcast_in_dim, x, (2, x.shape[1], 3, 4), (0, 1, 3), note=note)
        yield sample(ops.concatenate, [x, x], 2, note=note)
    yield sample(ops.broadcast_in_dim, np.float64(3), (2, 3), (), note="scalar")
    yield sample(ops.broadcast_in_dim, X, X.shape, (0, 1, 2), note="identity")
    yield sample(ops.reshape, np.float64(3), (1, 1), note="scalar")
    yield sample(ops.reshape, X[:1, :1, :1], (), note="to scalar")
    yield sample(ops.transpose, X, (0, 1, 2), note="identity")
    yield sample(ops.transpose, np.float64(1), (), note="scalar")
    yield sample(ops.pad, np.float64(1), np.float64(2), (), note="scalar")
    yield sample(ops.pad, X[0], np.float64(2), ((-3, 4, 0), (-1, -1, 0)), note="all cut")
    yield sample(ops.rev, X, (), note="identity")
    yield sample(ops.concatenate, [X], 0, note="one")
    keys = Keys(2, 3)
    yield sample(ops.transpose, keys, (1, 0))
    yield sample(ops.reshape, keys, (3, 2))
    yield sample(ops.slice, keys, (0, 1), (2, 3))
    yield sample(ops.rev, keys, (1,))
    yield sample(ops.concatenate, [keys, keys], 0)
    yield sample(ops.broadcast_in_dim, keys, (2, 2, 3), (1, 2))


@sampler
def iota_samples() -> Iterable[Case]:
    for dtype in (F64, C64, F16, BF16, I32, U8):
        yield sample(ops.broadcasted_iota, dtype, (2, 3), 1, batch=False)
    yield sample(ops.iota, I32, 0, note="empty", batch=False)
    yield sample(ops.broadcasted_iota, F32, (300, 2), 0, note="long", batch=False)


@sampler
def reduction_samples() -> Iterable[Case]:
    empty = np.zeros((2, 0, 3), F32)
    for name in "reduce_sum reduce_prod reduce_max reduce_min".split():
        op = getattr(ops, name)
        for axes in ((0,), (2,), (0, 2), (0, 1, 2), ()):
            yield sample(op, X, axes, note=f"{axes}")
        yield sample(op, backwards(draw(F32, (9, 31), 0.8, 1.2)), (1,), note="strided", tolerance=10.0)
        for dtype in HALF:
            yield sample(op, draw(dtype, (40, 3), 0.8, 1.2), (0,))
        for dtype in (I8, I32, I64, U8, U32):
            yield sample(op, draw(dtype, (5, 7), -5, 9), (1,))
        yield sample(op, empty, (1,), note="empty axis")
        yield sample(op, empty, (0,), note="empty result")
        if name in ("reduce_sum", "reduce_prod"):
            yield sample(op, draw(C128, (3, 4)), (0,))
            yield sample(op, draw(C64, (3, 4)), (1,), tolerance=4.0)
        else:
            yield sample(op, draw(BOOL, (3, 4)), (0,))
            yield sample(op, np.stack([EDGES, EDGES[::-1]]).astype(F32), (0,), note="edges")
            yield sample(op, EDGES.astype(F32), (0,), note="with NaN")
            yield sample(op, np.zeros((0, 2), I32), (0,), note="empty axis")
    yield sample(ops.reduce_prod, np.array([[1.5, 0.0, 2.0], [0.0, 3.0, 0.0], [1.0, 2.0, 3.0]]), (1,), note="zeros")
    yield sample(ops.reduce_sum, draw(F32, (1000,)), (0,), note="long", tolerance=50.0)
    for name in "reduce_and reduce_or reduce_xor".split():
        for dtype in (BOOL, I32, U8):
            yield sample(getattr(ops, name), draw(dtype, (5, 3), 0, 200), (0,))
        yield sample(getattr(ops, name), draw(BOOL, (5, 3)), (0, 1))
        yield sample(getattr(ops, name), np.zeros((0, 3), BOOL), (0,), note="empty axis")


@sampler
def index_of_extremum_samples() -> Iterable[Case]:
    for name in ("argmax", "argmin"):
        op = getattr(ops, name)
        for axis in (0, 1, 2):
            yield sample(op, X, axis, I32, note=f"axis={axis}")
        for dtype in (BOOL, I32, U8, F16, BF16, F32):
            yield sample(op, draw(dtype, (4, 9), 0, 3), 1, I64)  # with ties
        yield sample(op, np.array([[1, np.nan, 3, np.nan], [np.inf, -np.inf, np.inf, 0]], F32), 1, I32, note="edges")
        yield sample(op, np.zeros((0, 3), F32), 1, I32, note="empty result")


@sampler
def cumulative_samples() -> Iterable[Case]:
    for name in "cumsum cumprod cummax cummin cumlogsumexp".split():
        op = getattr(ops, name)
        for axis, reverse in ((0, False), (1, True), (2, False)):
            yield sample(op, X, axis, reverse, note=f"axis={axis} reverse={reverse}", tolerance=10.0)
        yield sample(op, backwards(draw(F32, (3, 17), 0.8, 1.2)), 1, True, note="strided", tolerance=10.0)
        for dtype in HALF:
            yield sample(op, draw(dtype, (9,), 0.5, 1.5), 0, False)
        yield sample(op, np.zeros((3, 0), F32), 1, False, note="empty axis")
        yield sample(op, np.array([-np.inf, 1, np.nan, 2, np.inf], F32), 0, True, note="edges")
        if name != "cumlogsumexp":
            yield sample(op, draw(I32, (4, 5), -3, 4), 0, True)
            yield sample(op, draw(U8, (4, 5), 0, 4), 1, False)
        if name in ("cumsum", "cumprod"):
            yield sample(op, draw(C128, (5,)), 0, False)


@sampler
def general_reduction_samples() -> Iterable[Case]:
    f, i = ArrayType((), F32), ArrayType((), I32)

    def larger(a, n, b, m):  # type: ignore[no-untyped-def]
        keep = ops.bitwise_or(ops.gt(a, b), ops.bitwise_and(ops.eq(a, b), ops.le(n, m)))
        return [ops.select(keep, a, b), ops.select(keep, n, m)]

    with config.override("enable_x64", True):
        body, _ = trace(larger, [f, i, f, i], "larger")
        add, _ = trace(lambda a, b: [ops.add(a, b)], [ArrayType((), F64)] * 2, "add")
    x = draw(F32, (3, 4))
    positions = np.arange(12, dtype=I32).reshape(3, 4)
    lowest, first = np.float32(-np.inf), np.int32(2**31 - 1)
    for axes in ((0,), (1,), (0, 1)):
        yield sample(ops.reduce, [x, positions], [lowest, first], body, axes, note=f"{axes}")
    yield sample(ops.reduce, [draw(F64, (3, 4))], [np.float64(1)], add, (0,), note="sum", order=0)
    yield sample(ops.reduce, [np.zeros((0, 2))], [np.float64(1)], add, (0,), note="empty axis", order=0)


@sampler
def contraction_samples() -> Iterable[Case]:
    matrix = (((1,), (0,)), ((), ()))
    for dtype in (F64, C128, F32, C64, F16, BF16, I32, U8, I8, BOOL):
        x, y = draw(dtype, (3, 5), -3, 4), draw(dtype, (5, 4), -3, 4, 1)
        yield sample(ops.dot_general, x, y, matrix, tolerance=10.0)
    yield sample(ops.dot_general, draw(F16, (3, 5)), draw(F16, (5, 4)), matrix, F32, note="to f32", tolerance=10.0)
    yield sample(ops.dot_general, draw(I8, (3, 5), -100, 100), draw(I8, (5, 4), -100, 100), matrix, I32, note="to i32")
    x, y = draw(F64, (2, 3, 4, 5)), draw(F64, (4, 2, 5, 3), salt=1)
    dot = ops.dot_general
    yield sample(dot, x, y, (((3,), (2,)), ((0, 1), (1, 3))), note="two batch axes", tolerance=10.0)
    yield sample(dot, x, y, (((2, 1), (0, 3)), ((), ())), note="two contracted axes", tolerance=10.0)
    yield sample(dot, x[0, 0, 0], y[0, 0, :, 0], (((0,), (0,)), ((), ())), note="vectors", tolerance=10.0)
    yield sample(dot, x[0, 0, 0], y[0, 0, 0], (((), ()), ((), ())), note="outer")
    yield sample(dot, np.float64(2), x[0, 0], (((), ()), ((), ())), note="scalar")
    yield sample(dot, x[0, 0], y[:, 0, 0, 0], (((0,), (0,)), ((), ())), note="matrix and vector", tolerance=10.0)
    yield sample(dot, x[0, 0].T, backwards(y[:, 0, :, 0]), (((1,), (0,)), ((), ())), note="strided", tolerance=10.0)
    yield sample(dot, np.zeros((3, 0)), np.zeros((0, 2)), matrix, note="empty contraction")
    yield sample(dot, np.zeros((0, 3)), np.zeros((3, 2)), matrix, note="empty result")
    yield sample(dot, draw(F32, (33, 65)), draw(F32, (65, 47)), matrix, note="larger", tolerance=100.0)


@sampler
def convolution_samples() -> Iterable[Case]:
    conv, tolerance = ops.conv_general_dilated, 20.0
    x, w = draw(F64, (2, 4, 6)), draw(F64, (6, 4, 3), salt=1)
    yield sample(conv, x, w, (1,), ((1, 1),), tolerance=tolerance)
    yield sample(conv, x, w, (2,), ((0, 2),), (1,), (2,), note="strided dilated filter", tolerance=tolerance)
    yield sample(conv, x, w, (1,), ((2, -1),), (2,), (1,), note="dilated input, negative padding", tolerance=tolerance)
    yield sample(conv, x, w[:, :2], (1,), ((1, 0),), feature_group_count=2, note="feature groups", tolerance=tolerance)
    yield sample(conv, x, w, (1,), ((1, 0),), batch_group_count=2, note="batch groups", tolerance=tolerance)
    channels_last = ((0, 2, 1), (2, 1, 0), (0, 2, 1))
    yield sample(
        conv,
        np.swapaxes(x, 1, 2),
        w.transpose(2, 1, 0),
        (1,),
        ((1, 1),),
        dimension_numbers=channels_last,
        note="channels last",
        tolerance=tolerance,
    )
    image, filters = draw(F64, (1, 2, 5, 4)), draw(F64, (3, 2, 2, 3), salt=1)
    yield sample(conv, image, filters, (2, 1), ((1, 0), (1, 1)), (1, 2), (2, 1), note="2d", tolerance=tolerance)
    for dtype in (F32, F16, C64, I32):
        yield sample(
            conv, draw(dtype, (1, 2, 5, 4)), draw(dtype, (3, 2, 2, 3), salt=1), (1, 1), ((1, 1), (0, 0)), tolerance=tolerance
        )
    yield sample(conv, x[:, :, :2], w, (1,), ((0, 0),), note="empty result")


@sampler
def gather_samples() -> Iterable[Case]:
    take = {"offset_dims": (1,), "collapsed_slice_dims": (0,), "start_index_map": (0,)}
    rows = np.array([[2], [0], [-1], [7], [2]], I32)
    for dtype in (F64, C64, F16, BF16, I32, U8, BOOL):
        x = draw(dtype, (4, 3))
        yield sample(ops.gather, x, rows, **take, slice_sizes=(1, 3), mode="clip", note="clip")
        yield sample(ops.gather, x, rows, **take, slice_sizes=(1, 3), mode="fill", note="fill")
    x = draw(F64, (4, 3))
    yield sample(ops.gather, x, rows[:2], **take, slice_sizes=(1, 3), mode="promise_in_bounds", note="promise")
    yield sample(ops.gather, x, rows, **take, slice_sizes=(1, 3), mode="fill", fill_value=7.0, note="fill 7")
    yield sample(ops.gather, x, rows[:0], **take, slice_sizes=(1, 3), note="no indices")
    yield sample(ops.gather, x, rows.astype(U8), **take, slice_sizes=(1, 2), note="narrow window, u8")
    pairs = np.array([[[1, 0], [2, 1]], [[3, 2], [0, 0]]], I64)
    points = {"offset_dims": (), "collapsed_slice_dims": (0, 1), "start_index_map": (0, 1)}
    yield sample(ops.gather, x, pairs, **points, slice_sizes=(1, 1), note="points")
    windows = {"offset_dims": (1, 2), "collapsed_slice_dims": (), "start_index_map": (1, 0)}
    yield sample(ops.gather, x, pairs[0], **windows, slice_sizes=(2, 2), mode="clip", note="windows")
    along = {
        "offset_dims": (),
        "collapsed_slice_dims": (1,),
        "start_index_map": (1,),
        "operand_batching_dims": (0,),
        "start_indices_batching_dims": (0,),
    }
    which = np.array([[0, 2], [1, 1], [2, 0], [5, 0]], I32)[..., None]
    yield sample(ops.gather, x, which, **along, slice_sizes=(1, 1), note="batching")
    yield sample(
        ops.gather,
        Keys(4),
        rows[:2],
        offset_dims=(),
        collapsed_slice_dims=(0,),
        start_index_map=(0,),
        slice_sizes=(1,),
        mode="clip",
    )


@sampler
def scatter_samples() -> Iterable[Case]:
    put = {"update_window_dims": (1,), "inserted_window_dims": (0,), "scatter_dims_to_operand_dims": (0,)}
    rows, repeated = np.array([[2], [0], [9], [-1]], I32), np.array([[2], [0], [2], [9]], I32)
    for kind in ("set", "add", "mul", "min", "max"):
        for dtype in (F64, F32, BF16, I32):
            x, updates = draw(dtype, (4, 3), 1, 4), draw(dtype, (4, 3), 1, 4, 1)
            yield sample(ops.scatter, x, rows, updates, kind=kind, **put, unique_indices=True, note=f"{kind} unique")
            yield sample(ops.scatter, x, repeated, updates, kind=kind, **put, note=f"{kind} repeated")
    x, updates = draw(F64, (4, 3)), draw(F64, (4, 3), salt=1)
    # Elements that get one, two and three zero factors.
    zeros = np.array([[1, 0, 0], [2, 1, 1], [3, 0, 0], [1, 2, 1]]) * updates
    together = np.array([[1], [1], [1], [0]], I32)
    yield sample(ops.scatter, x, together, zeros, kind="mul", **put, note="mul zeros")
    yield sample(ops.scatter, x, rows, updates, kind="add", **put, mode="clip", note="add clip")
    yield sample(ops.scatter, x, rows[:0], updates[:0], kind="add", **put, note="add nothing")
    yield sample(ops.scatter, draw(C128, (4, 3)), rows, draw(C128, (4, 3), salt=1), kind="add", **put, note="add")
    yield sample(ops.scatter, draw(BOOL, (4, 3)), rows, draw(BOOL, (4, 3), salt=1), kind="set", **put, note="set")
    pairs = np.array([[1, 0], [2, 1], [1, 0]], I64)
    points = {"update_window_dims": (), "inserted_window_dims": (0, 1), "scatter_dims_to_operand_dims": (0, 1)}
    yield sample(ops.scatter, x, pairs, updates[:3, 0], kind="add", **points, note="add points")
    windows = {"update_window_dims": (1, 2), "inserted_window_dims": (), "scatter_dims_to_operand_dims": (1, 0)}
    yield sample(ops.scatter, x, pairs[:2], draw(F64, (2, 2, 2)), kind="add", **windows, note="add windows")


@sampler
def dynamic_slice_samples() -> Iterable[Case]:
    for dtype in (F64, C64, BF16, U8, BOOL):
        x, update = draw(dtype, (4, 5)), draw(dtype, (2, 3), salt=1)
        yield sample(ops.dynamic_slice, x, (np.int32(1), np.int32(2)), (2, 3))
        yield sample(ops.dynamic_update_slice, x, update, (np.int32(1), np.int32(2)))
    x, update = draw(F64, (4, 5)), draw(F64, (2, 3), salt=1)
    for a, b in ((-3, 9), (3, -1)):
        yield sample(ops.dynamic_slice, x, (np.int64(a), np.int64(b)), (2, 3), note=f"clamped {a} {b}")
        yield sample(ops.dynamic_update_slice, x, update, (np.int64(a), np.int64(b)), note=f"clamped {a} {b}")
    yield sample(ops.dynamic_slice, x, (np.uint8(9), np.uint8(0)), (1, 0), note="empty")
    yield sample(ops.dynamic_update_slice, x, update[:, :0], (np.uint8(9), np.uint8(0)), note="empty")


@sampler
def window_samples() -> Iterable[Case]:
    x = draw(F64, (3, 7), 0.5, 2)
    for kind in ("add", "mul", "max", "min"):
        yield sample(ops.reduce_window, x, kind, (2, 3), (1, 2), ((1, 0), (1, 1)), note=f"{kind} padded")
        yield sample(ops.reduce_window, x, kind, (1, 3), (1, 1), ((0, 0), (2, 0)), (1, 2), (1, 2), note=f"{kind} dilated")
        for dtype in (F32, F16, I32):
            yield sample(ops.reduce_window, draw(dtype, (9,), 1, 4), kind, (3,), (2,), ((1, 1),), note=kind, tolerance=4.0)
        yield sample(ops.reduce_window, x, kind, (1, 9), note=f"{kind} empty result")
    yield sample(ops.reduce_window, EDGES.astype(F32), "max", (3,), (1,), ((1, 1),), note="max edges")
    for kind in ("max", "min"):
        for dtype in (F64, F32, BF16):
            y = draw(dtype, (4, 6))
            shape = {"window_dimensions": (2, 3), "window_strides": (2, 1), "padding": ((0, 0), (1, 1))}
            source = draw(dtype, (2, 6), salt=1)
            smooth = {"differentiable": (0,)} if dtype == F64 else {}
            yield sample(ops.select_and_scatter_add, source, y, kind, *shape.values(), note=kind, **smooth)
            yield sample(ops.select_and_gather_add, draw(dtype, (4, 6), salt=2), y, kind, *shape.values(), note=kind, **smooth)
        ties = draw(F32, (4, 6), 0, 2).round()
        yield sample(ops.select_and_scatter_add, draw(F32, (2, 6)), ties, kind, *shape.values(), note=f"{kind} ties")


@sampler
def sorting_samples() -> Iterable[Case]:
    x = draw(F64, (3, 5))
    for dimension in (0, 1):
        yield sample(ops.sort, x, dimension=dimension, note=f"dimension={dimension}")
    for dtype in (F32, F16, BF16, I32, U8, BOOL, C64):
        yield sample(ops.sort, draw(dtype, (2, 9), 0, 3))
    yield sample(ops.sort, EDGES.astype(F32), note="edges")
    yield sample(ops.sort, np.zeros((2, 0), F32), note="empty")
    yield sample(ops.sort, draw(I32, (20,), 0, 4), np.arange(20, dtype=I32), note="stable with payload")
    yield sample(ops.sort, draw(I32, (9,), 0, 3), draw(F32, (9,)), np.arange(9, dtype=I32), num_keys=2, note="two keys")
    yield sample(ops.sort, x, draw(F64, (3, 5), salt=1), note="with payload")
    truth = draw(F64, (3, 150), 0, 1) > 0.5
    for size in (0, 1, 64, 70, 150, 200):
        yield sample(ops.nonzero, truth, size, note=f"size {size}", differentiable=())
    yield sample(ops.nonzero, np.zeros((2, 0), bool), 3, note="empty")
    # batching is tried with rows that are sorted in every example (rule_cases.py)
    for dtype in (F64, F32, F16, BF16, I32, U8, BOOL):
        for side in ("left", "right"):
            ordered = np.sort(draw(dtype, (13,), 0, 3).astype(F64)).astype(dtype)
            yield sample(ops.searchsorted, ordered, draw(dtype, (2, 20), 0, 3, salt=1), side, note=side, batch=False)
    ends = np.sort(EDGES.astype(F32))
    yield sample(ops.searchsorted, ends, EDGES.astype(F32), "left", note="edges", batch=False)
    yield sample(ops.searchsorted, ends, EDGES.astype(F32), "right", note="edges right", batch=False)
    yield sample(ops.searchsorted, np.sort(x), draw(F64, (3, 4), salt=1), note="rows", batch=False)
    yield sample(ops.searchsorted, np.zeros((0,), F32), np.ones(3, F32), note="nothing")
    yield sample(ops.top_k, x, 2)
    yield sample(ops.top_k, x, 0, note="none")
    for dtype in (F32, F16, BF16, I32, U8):
        yield sample(ops.top_k, draw(dtype, (2, 9), 0, 4), 4)  # with ties
    yield sample(ops.top_k, EDGES.astype(F32), 6, note="edges")
