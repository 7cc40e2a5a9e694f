"""What each element of a primitive's result depends on, for the analysis of `sparsity.py`.

Most rules evaluate the primitive, or something like it, on the numbers of the elements instead of their values: what comes out says which
element each element of the result was read from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir.contractions import dilate_and_pad, window_view
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.types import ArrayType, is_complex
from tracegrad.transforms.sparsity import RULES, Abstract, Rows, Rule, combine, coo, merge, number_of_rows, numbers, take, union

Ins = Sequence[Abstract]
Types = Sequence[ArrayType]


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


# Elementwise


def _each(x: Abstract, t: ArrayType, keep: np.ndarray | None = None) -> Rows:
    """The rows of an operand for each element of an elementwise result; empty ones outside of `keep`."""
    if x.rows is None or keep is None and x.type.shape == t.shape:
        return x.rows
    index = np.zeros(t.shape, int) if x.type.shape != t.shape else numbers(t.shape)
    return take(x.rows, index if keep is None else np.where(keep, index, -1))


def _elementwise(ins: Ins, types: Types, **_: Any) -> list[Rows]:
    return [union(*[_each(x, types[0]) for x in ins])]


def _independent(ins: Ins, types: Types, **_: Any) -> list[Rows]:
    return [None] * len(types)


for _prim in REGISTRY.values():
    if _prim.family in ("elementwise", "special"):
        RULES[_prim.name] = _elementwise
for _name in (
    "floor",
    "ceil",
    "round",
    "stop_gradient",
    "bitcast_convert_type",
    "iota",
    "threefry2x32",
    "key_wrap",
    "key_unwrap",
):
    RULES[_name] = _independent
for _prim in REGISTRY.values():  # what only comes in numbers without derivatives
    if _prim.name.startswith(("reduce_and", "reduce_or", "reduce_xor", "argm", "searchsorted", "nonzero", "shift_")):
        RULES[_prim.name] = _independent


@rule("sign")
def _sign(ins: Ins, types: Types) -> list[Rows]:
    return _elementwise(ins, types) if is_complex(types[0].dtype) else [None]


@rule("integer_pow")
def _integer_pow(ins: Ins, types: Types, *, y: int) -> list[Rows]:
    return [ins[0].rows if y else None]


@rule("mul")
def _mul(ins: Ins, types: Types) -> list[Rows]:
    x, y = ins
    x_zero, y_zero = x.zeros(), y.zeros()
    return [
        union(
            _each(x, types[0], None if y_zero is None else ~y_zero),
            _each(y, types[0], None if x_zero is None else ~x_zero),
        )
    ]


@rule("div")
def _div(ins: Ins, types: Types) -> list[Rows]:
    x, y = ins
    zero = x.zeros()
    return [union(_each(x, types[0]), _each(y, types[0], None if zero is None else ~zero))]


@rule("select")
def _select(ins: Ins, types: Types) -> list[Rows]:
    pred, x, y = ins
    if pred.value is None:
        return [union(_each(x, types[0]), _each(y, types[0]))]
    return [union(_each(x, types[0], pred.value | ~pred.mask()), _each(y, types[0], ~(pred.value & pred.mask())))]


# Structure


def _moving(name: str) -> Rule:
    evaluate = REGISTRY[name].evaluate

    def moved(ins: Ins, types: Types, **params: Any) -> list[Rows]:
        return [take(ins[0].rows, evaluate(numbers(ins[0].type.shape), **params)[0])]

    return moved


for _name in ("broadcast_in_dim", "reshape", "transpose", "slice", "rev"):
    RULES[_name] = _moving(_name)


@rule("pad")
def _pad(ins: Ins, types: Types, **params: Any) -> list[Rows]:
    x, value = ins
    index = REGISTRY["pad"].evaluate(numbers(x.type.shape), np.asarray(-1), **params)[0]
    return [union(take(x.rows, index), take(value.rows, np.where(index < 0, 0, -1)))]


@rule("concatenate")
def _concatenate(ins: Ins, types: Types, **params: Any) -> list[Rows]:
    parts = []
    for k, x in enumerate(ins):
        if x.rows is not None:
            index = [numbers(y.type.shape) if i == k else np.full(y.type.shape, -1) for i, y in enumerate(ins)]
            parts.append(take(x.rows, REGISTRY["concatenate"].evaluate(*index, **params)[0]))
    return [union(*parts)]


@rule("copy", "name", "optimization_barrier")
def _same(ins: Ins, types: Types, **_: Any) -> list[Rows]:
    return [x.rows for x in ins]


# Along axes


def _lines(shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """For each element of an array, the number of its line: elements that differ along `axes` only share one."""
    kept = [1 if i in axes else n for i, n in enumerate(shape)]
    return np.broadcast_to(numbers(kept), tuple(shape))


def _merged(rows: Rows, shape: Sequence[int], axes: Sequence[int]) -> Rows:
    """One row for each line."""
    return merge(rows, _lines(shape, axes), prod(n for i, n in enumerate(shape) if i not in axes))


def _within_lines(rows: Rows, shape: Sequence[int], axes: Sequence[int]) -> Rows:
    """Every element depends on what its line depends on."""
    return take(_merged(rows, shape, axes), _lines(shape, axes))


@rule("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")
def _reduce(ins: Ins, types: Types, *, axes: Sequence[int]) -> list[Rows]:
    return [_merged(ins[0].rows, ins[0].type.shape, axes)]


@rule("reduce")
def _general_reduce(ins: Ins, types: Types, *, body: Any, axes: Sequence[int]) -> list[Rows]:
    n = len(types)
    total = union(*[_merged(x.rows, x.type.shape, axes) for x in ins[:n]])
    total = union(total, *[take(x.rows, np.zeros(number_of_rows(types[0]), int)) for x in ins[n:]])
    return [total] * n


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _cumulative(ins: Ins, types: Types, *, axis: int, reverse: bool) -> list[Rows]:
    shape = ins[0].type.shape
    later, earlier = np.tril_indices(shape[axis])
    if reverse:
        later, earlier = earlier, later
    lines = np.moveaxis(numbers(shape), axis, 0)
    size = prod(shape)
    return [combine(coo(lines[later].reshape(-1), lines[earlier].reshape(-1), (size, size)), ins[0].rows)]


@rule("sort")
def _sort(ins: Ins, types: Types, *, dimension: int, **_: Any) -> list[Rows]:
    return [_within_lines(x.rows, x.type.shape, (dimension,)) for x in ins]


@rule("top_k")
def _top_k(ins: Ins, types: Types, *, k: int) -> list[Rows]:
    shape = ins[0].type.shape
    return [take(_merged(ins[0].rows, shape, (len(shape) - 1,)), _lines(types[0].shape, (len(shape) - 1,))), None]


@rule("fft")
def _fft(ins: Ins, types: Types, *, kind: str, lengths: Sequence[int]) -> list[Rows]:
    shape = ins[0].type.shape
    axes = range(len(shape) - len(lengths), len(shape))
    return [take(_merged(ins[0].rows, shape, axes), _lines(types[0].shape, axes))]


# Linear algebra: dense within each matrix, but columns of right-hand sides do not mix


def _per_matrix(x: Abstract, batch: int, t: ArrayType) -> Rows:
    axes = range(batch, x.type.ndim)
    return take(_merged(x.rows, x.type.shape, axes), _lines(t.shape, range(batch, t.ndim)))


@rule("cholesky", "lu", "qr", "eigh", "eig", "svd", "schur", "householder_product")
def _factorization(ins: Ins, types: Types, **_: Any) -> list[Rows]:
    batch = ins[0].type.ndim - 2
    return [union(*[_per_matrix(x, batch, t) for x in ins]) for t in types]


@rule("triangular_solve")
def _triangular_solve(ins: Ins, types: Types, *, left_side: bool, **_: Any) -> list[Rows]:
    a, b = ins
    rank = b.type.ndim
    mixed = rank - 2 if left_side else rank - 1
    return [union(_per_matrix(a, rank - 2, types[0]), _within_lines(b.rows, b.type.shape, (mixed,)))]


@rule("tridiagonal_solve")
def _tridiagonal_solve(ins: Ins, types: Types) -> list[Rows]:
    *diagonals, b = ins
    batch = b.type.ndim - 2
    return [
        union(*[_per_matrix(d, batch, types[0]) for d in diagonals], _within_lines(b.rows, b.type.shape, (batch,))),
    ]


# Products


def _contracted(rows: Rows, index: np.ndarray, zero: np.ndarray | None, spread: int) -> Rows:
    """Rows of products: result (b, i, j) depends on the elements index[b, i, k] (-1: on none) for all k, but not where zero[b, k, j]."""
    if rows is None:
        return None
    b, i, k = index.shape
    if zero is None or not zero.any():
        each = merge(take(rows, index), np.repeat(np.arange(b * i), k), b * i)
        return take(each, np.repeat(np.arange(b * i), spread))
    batch, inner, j = np.nonzero(~zero)
    first = numbers((b, i, spread))
    places = first[batch[:, None], np.arange(i), j[:, None]]
    sources = index[batch[:, None], np.arange(i), inner[:, None]]
    inside = sources >= 0
    return combine(coo(places[inside], sources[inside], (b * i * spread, rows.shape[0])), rows)


@rule("dot_general")
def _dot_general(ins: Ins, types: Types, *, dimension_numbers: Any, **_: Any) -> list[Rows]:
    (lc, rc), (lb, rb) = dimension_numbers
    arranged = []
    for x, contracted, batch in ((ins[0], lc, lb), (ins[1], rc, rb)):
        free = [d for d in range(x.type.ndim) if d not in contracted and d not in batch]
        order = (*batch, *free, *contracted)
        sizes = [prod(x.type.shape[d] for d in dims) for dims in (batch, free, contracted)]
        zero = x.zeros()
        arranged.append(
            (
                numbers(x.type.shape).transpose(order).reshape(sizes),
                None if zero is None else zero.transpose(order).reshape(sizes),
            )
        )
    (left, left_zero), (right, right_zero) = arranged
    b, i, _k = left.shape
    j = right.shape[1]
    from_left = _contracted(ins[0].rows, left, None if right_zero is None else right_zero.swapaxes(1, 2), j)
    from_right = _contracted(ins[1].rows, right, None if left_zero is None else left_zero.swapaxes(1, 2), i)
    # the latter are numbered (b, j, i)
    return [union(from_left, take(from_right, numbers((b, j, i)).swapaxes(1, 2)))]


@rule("conv_general_dilated")
def _convolution(
    ins: Ins,
    types: Types,
    *,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **_: Any,
) -> list[Rows]:
    # The convolution as products of patches and filters, in groups, as its evaluation in NumPy arranges them; here of numbers.
    lhs, rhs = ins
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    spatial = lhs.type.ndim - 2
    x = numbers(lhs.type.shape).transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1])
    x = dilate_and_pad(x, 1, padding, lhs_dilation, -1)
    to_filters = (*rhs_spec[2:], rhs_spec[1], rhs_spec[0])
    w = numbers(rhs.type.shape).transpose(to_filters)
    kernel, (fan_in, fan_out) = w.shape[:spatial], w.shape[spatial:]
    view = window_view(np.moveaxis(x, -1, 1).copy(), 2, kernel, window_strides, rhs_dilation)
    n, positions = view.shape[0], view.shape[2 : 2 + spatial]
    groups, bg = feature_group_count * batch_group_count, batch_group_count
    view = view.reshape(bg, n // bg, feature_group_count, fan_in, *view.shape[2:])
    order = (0, 2, 1, *range(4, 4 + spatial), *range(4 + spatial, 4 + 2 * spatial), 3)
    patches = view.transpose(order).reshape(groups, n // bg * prod(positions), prod(kernel) * fan_in)

    def filters(values: np.ndarray) -> np.ndarray:
        return values.reshape(prod(kernel) * fan_in, groups, fan_out // groups).transpose(1, 0, 2)

    zero = rhs.zeros()
    zero = None if zero is None else filters(zero.transpose(to_filters))
    from_lhs = _contracted(lhs.rows, patches, zero, fan_out // groups)
    each = merge(rhs.rows, _filter_groups(filters(w), number_of_rows(rhs.type)), fan_out)
    out = numbers((groups, patches.shape[1], fan_out // groups))
    channel = np.broadcast_to(numbers((groups, 1, fan_out // groups)), out.shape)
    total = union(from_lhs, take(each, channel))
    arranged = np.moveaxis(out, 0, 1).reshape(n // bg, *positions, fan_out)
    inverse = [0] * lhs.type.ndim
    for position, d in enumerate(out_spec):
        inverse[d] = position
    return [take(total, np.moveaxis(arranged, -1, 1).transpose(inverse))]


def _filter_groups(filters: np.ndarray, size: int) -> np.ndarray:
    """For each element of a convolution's filter, the number (group, filter within it) of the filter that it belongs to."""
    groups, inner, each = filters.shape
    group = np.zeros(size, int)
    group[filters.reshape(-1)] = np.broadcast_to(numbers((groups, 1, each)), filters.shape).reshape(-1)
    return group


# Windows


def _windows(t: ArrayType, window: Any, strides: Any, padding: Any, base: Any, dilation: Any) -> np.ndarray:
    """The numbers of the elements in every window: (windows, elements of a window), -1 for padding."""
    x = dilate_and_pad(numbers(t.shape), 0, padding, base, -1)
    return window_view(x, 0, window, strides, dilation).reshape(-1, prod(window))


def _window_matrix(windows: np.ndarray, size: int) -> Any:
    which, _ = np.nonzero(windows >= 0)
    return coo(which, windows[windows >= 0], (len(windows), size))


@rule("reduce_window")
def _reduce_window(
    ins: Ins,
    types: Types,
    *,
    kind: str,
    window_dimensions: Any,
    window_strides: Any,
    padding: Any,
    base_dilation: Any,
    window_dilation: Any,
) -> list[Rows]:
    x = ins[0]
    windows = _windows(x.type, window_dimensions, window_strides, padding, base_dilation, window_dilation)
    return [combine(_window_matrix(windows, number_of_rows(x.type)), x.rows)]


def _selected(operand: ArrayType, window_dimensions: Any, window_strides: Any, padding: Any) -> Any:
    ones = (1,) * operand.ndim
    return _window_matrix(_windows(operand, window_dimensions, window_strides, padding, ones, ones), number_of_rows(operand))


@rule("select_and_gather_add")
def _select_and_gather_add(
    ins: Ins, types: Types, *, kind: str, window_dimensions: Any, window_strides: Any, padding: Any
) -> list[Rows]:
    tangents, operand = ins
    return [combine(_selected(operand.type, window_dimensions, window_strides, padding), tangents.rows)]


@rule("select_and_scatter_add")
def _select_and_scatter_add(
    ins: Ins, types: Types, *, kind: str, window_dimensions: Any, window_strides: Any, padding: Any
) -> list[Rows]:
    source, operand = ins
    return [combine(_selected(operand.type, window_dimensions, window_strides, padding).T.tocsr(), source.rows)]


# Indexing. An index that is not known may be any: along its dimension everything is merged


class _Positions:
    """Where windows of an array lie, as numbers of elements of the array with the dimensions of unknown indices merged.

    places: for each element of each window, (batch..., window...); `inside`: which windows are within bounds.
    """

    __slots__ = ("shape", "unknown", "places", "inside")

    def __init__(
        self,
        shape: Sequence[int],
        sizes: Sequence[int],
        kept: Sequence[int],
        batch: tuple[int, ...],
        starts: dict[int, np.ndarray | None],
    ):
        self.shape = tuple(shape)
        self.unknown = [d for d, start in starts.items() if start is None]
        merged = [1 if d in self.unknown else n for d, n in enumerate(shape)]
        strides = [prod(merged[d + 1 :]) for d in range(len(merged))]
        base = np.zeros(batch, int)
        inside = np.ones(batch, bool)
        for d, start in starts.items():
            if start is not None:
                clamped = np.clip(start, 0, shape[d] - sizes[d])
                inside = inside & (clamped == start)
                base = base + clamped * strides[d]
        offsets = np.zeros((), int)
        for d in kept:
            offsets = offsets[..., None] + np.arange(sizes[d]) * (0 if d in self.unknown else strides[d])
        self.places = base.reshape(batch + (1,) * offsets.ndim) + offsets
        self.inside = np.broadcast_to(inside.reshape(batch + (1,) * offsets.ndim), self.places.shape)

    def merged(self, rows: Rows) -> Rows:
        """The rows of the array with the unknown dimensions merged."""
        return _merged(rows, self.shape, self.unknown) if self.unknown else rows

    def spread(self, rows: Rows) -> Rows:
        """Rows of the merged array for each element of the whole one."""
        return take(rows, _lines(self.shape, self.unknown)) if self.unknown else rows

    @property
    def merged_size(self) -> int:
        return prod(n for d, n in enumerate(self.shape) if d not in self.unknown)


def _starts(
    indices: Abstract,
    shape: Sequence[int],
    index_map: Sequence[int],
    operand_batching: Sequence[int],
    indices_batching: Sequence[int],
) -> dict[int, np.ndarray | None]:
    """Per dimension that is indexed, the start of every window, or None if one of them is not known."""
    known = indices.mask()
    starts: dict[int, np.ndarray | None] = {}
    for k, d in enumerate(index_map):
        value = None if indices.value is None or not known[..., k].all() else indices.value[..., k]
        starts[d] = None if value is None else np.clip(value, -1, shape[d]).astype(int)
    rank = indices.type.ndim - 1
    for d, e in zip(operand_batching, indices_batching, strict=True):
        starts[d] = np.arange(shape[d]).reshape([-1 if i == e else 1 for i in range(rank)])
    return starts


@rule("gather")
def _gather(
    ins: Ins,
    types: Types,
    *,
    offset_dims: Sequence[int],
    collapsed_slice_dims: Sequence[int],
    operand_batching_dims: Sequence[int],
    start_indices_batching_dims: Sequence[int],
    start_index_map: Sequence[int],
    slice_sizes: Sequence[int],
    mode: str,
    **_: Any,
) -> list[Rows]:
    operand, indices = ins
    shape = operand.type.shape
    if 0 in shape or 0 in types[0].shape:
        return [None]
    kept = [d for d in range(len(shape)) if d not in collapsed_slice_dims and d not in operand_batching_dims]
    starts = _starts(indices, shape, start_index_map, operand_batching_dims, start_indices_batching_dims)
    positions = _Positions(shape, slice_sizes, kept, indices.type.shape[:-1], starts)
    places = np.where(positions.inside, positions.places, -1) if mode == "fill" else positions.places
    rank = places.ndim
    order = [0] * rank
    for source, d in enumerate((*[d for d in range(rank) if d not in offset_dims], *offset_dims)):
        order[d] = source
    return [take(positions.merged(operand.rows), places.transpose(order))]


def _written(
    operand: Abstract, updates: Abstract, update_numbers: np.ndarray, positions: _Positions, kept: Any, replaces: bool
) -> Rows:
    """An array after windows of updates were written to it; `kept`: which elements of the windows are."""
    places, numbers_ = positions.places[kept], update_numbers[kept]
    old = operand.rows
    if replaces and not positions.unknown:
        index = np.arange(number_of_rows(operand.type))
        index[places] = -1
        old = take(old, index)
    new = combine(coo(places, numbers_, (positions.merged_size, number_of_rows(updates.type))), updates.rows)
    return union(old, positions.spread(new))


@rule("scatter")
def _scatter(
    ins: Ins,
    types: Types,
    *,
    kind: str,
    update_window_dims: Sequence[int],
    inserted_window_dims: Sequence[int],
    operand_batching_dims: Sequence[int],
    scatter_indices_batching_dims: Sequence[int],
    scatter_dims_to_operand_dims: Sequence[int],
    mode: str,
    **_: Any,
) -> list[Rows]:
    operand, indices, updates = ins
    shape = operand.type.shape
    if 0 in shape or 0 in updates.type.shape:
        return [operand.rows]
    kept = [d for d in range(len(shape)) if d not in inserted_window_dims and d not in operand_batching_dims]
    sizes = [1] * len(shape)
    for d, e in zip(kept, update_window_dims, strict=True):
        sizes[d] = updates.type.shape[e]
    starts = _starts(indices, shape, scatter_dims_to_operand_dims, operand_batching_dims, scatter_indices_batching_dims)
    positions = _Positions(shape, sizes, kept, indices.type.shape[:-1], starts)
    batch_dims = [d for d in range(updates.type.ndim) if d not in update_window_dims]
    update_numbers = numbers(updates.type.shape).transpose(*batch_dims, *update_window_dims)
    inside = np.ones_like(positions.inside) if mode == "clip" else positions.inside
    return [_written(operand, updates, update_numbers, positions, inside, kind == "set")]


def _scalar_starts(starts: Sequence[Abstract], shape: Sequence[int], sizes: Sequence[int]) -> dict[int, np.ndarray | None]:
    return {
        d: None if s.constant is None else np.asarray(min(max(int(s.constant), 0), n - size))
        for d, (s, n, size) in enumerate(zip(starts, shape, sizes, strict=True))
        if n != size
    }


@rule("dynamic_slice")
def _dynamic_slice(ins: Ins, types: Types, *, slice_sizes: Sequence[int]) -> list[Rows]:
    operand, *starts = ins
    shape = operand.type.shape
    if 0 in types[0].shape:
        return [None]
    positions = _Positions(shape, slice_sizes, range(len(shape)), (), _scalar_starts(starts, shape, slice_sizes))
    return [take(positions.merged(operand.rows), positions.places)]


@rule("dynamic_update_slice")
def _dynamic_update_slice(ins: Ins, types: Types) -> list[Rows]:
    operand, update, *starts = ins
    shape, sizes = operand.type.shape, update.type.shape
    if 0 in sizes:
        return [operand.rows]
    positions = _Positions(shape, sizes, range(len(shape)), (), _scalar_starts(starts, shape, sizes))
    return [_written(operand, update, numbers(sizes), positions, np.ones(sizes, bool), True)]
