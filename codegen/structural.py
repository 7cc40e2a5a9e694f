"""Lowering of structural primitives: views of memory where they can be, permutations of registers, or lazy index functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import conversions
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.elementwise import waits
from tracegrad.codegen.loop_ir import Index, Value
from tracegrad.codegen.nests import UNROLLED, copy_rows
from tracegrad.codegen.plan import CHEAP
from tracegrad.codegen.values import (
    FLOAT16,
    IDENTICAL,
    OTHER,
    POSITION,
    Form,
    Indices,
    Lazy,
    Scalar,
    Scalars,
    View,
    add_leaf,
    combine,
    dense_strides,
    leaves_of,
    level_of,
    read,
    register_type,
)
from tracegrad.ir import structural as ir
from tracegrad.ir.program import Equation
from tracegrad.ir.types import ArrayType, bfloat16

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context


def indexed(t: ArrayType, form: Lazy, function: Any, cost: int = 0) -> Lazy:
    """The lazy value that reads `form` at `function(b, indices)`."""
    leaves: dict[Any, int] = {}
    for leaf, how in leaves_of(form).items():
        add_leaf(leaves, leaf, combine(OTHER, how))
    return Lazy(t, lambda b, i: read(b, form, function(b, i)), leaves, form.cost + cost, form.depth + 1)


def permuted(ctx: Context, form: Form, t: ArrayType, table: Any) -> Form | None:
    """In registers, a structural operation is a permutation: `table(array of positions)` gives the positions of the result."""
    if type(form) is not Scalars:
        return None
    if not ctx.in_registers(t) and t.size > 1:
        if t.size > 4 * len(form.elements) or not ctx.in_registers(form.type):
            return None
        if t.size > 64:
            return None
    positions = table(np.arange(len(form.elements)).reshape(form.type.shape))
    return Scalars(t, [form.elements[k] for k in np.asarray(positions).reshape(-1).tolist()])


def as_memory_or_lazy(ctx: Context, form: Form) -> Form:
    return ctx.readable(form)


# ------------------------------------------------------------------------------------------------------------------- reshape


def lower_reshape(ctx: Context, eqn: Equation) -> None:
    out = eqn.outputs[0]
    ctx.define(out, reshaped(ctx, eqn.inputs[0], out.type))


def reshaped(ctx: Context, atom: Any, t: ArrayType) -> Form:
    form = ctx.value(atom)
    if type(form) is Scalars:
        return Scalars(t, form.elements)
    if type(form) is View:
        strides = _reshaped_strides(form, t.shape)
        if strides is not None:
            return View(t, form.buffer, form.offset, strides)
    else:
        dims = _unit_map(form.type.shape, t.shape)
        if dims is not None:
            # only unit dimensions come and go
            def index(b: Builder, i: Indices) -> Indices:
                return tuple([0 if d is None else i[d] for d in dims])

            lazy = indexed(t, form, index)
            lazy.leaves = dict(leaves_of(form))  # row-major order is kept
            return lazy
        if ctx.in_registers(t) and ctx.in_registers(form.type) and not waits(form):
            return Scalars(t, ctx.elements(atom))
    dense = ctx.dense(atom)
    return View(t, dense.buffer, dense.offset, dense_strides(t.shape))


def _unit_map(old: tuple[int, ...], new: tuple[int, ...]) -> list[int | None] | None:
    """For every old dimension, the new one it has become (None for a unit one), if nothing but unit dimensions changes."""
    a = [n for n in old if n != 1]
    places = [d for d, n in enumerate(new) if n != 1]
    if a != [new[d] for d in places]:
        return None
    rest = iter(places)
    return [None if n == 1 else next(rest) for n in old]


def _reshaped_strides(view: View, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of the view under another shape, or None where elements would not lie evenly."""
    if view.is_dense:
        return dense_strides(shape)
    old = [(n, s) for n, s in zip(view.type.shape, view.strides) if n != 1]
    new = [n for n in shape if n != 1]
    strides: list[int] = []
    i = j = 0
    while i < len(old) and j < len(new):
        ni, nj = i + 1, j + 1
        a, c = old[i][0], new[j]
        while a != c:
            if a < c:
                a *= old[ni][0]
                ni += 1
            else:
                c *= new[nj]
                nj += 1
        for k in range(i, ni - 1):
            if old[k][1] != old[k + 1][1] * old[k + 1][0]:
                return None
        stride = old[ni - 1][1]
        run: list[int] = []
        for k in range(nj - 1, j - 1, -1):
            run.append(stride)
            stride *= new[k]
        strides.extend(reversed(run))
        i, j = ni, nj
    rest = iter(strides)
    return tuple([0 if n == 1 else next(rest) for n in shape])


def drop_axes(ctx: Context, form: Lazy, axes: tuple[int, ...], t: ArrayType) -> Lazy:
    """A value without some of its unit dimensions."""

    def index(b: Builder, i: Indices) -> Indices:
        rest = iter(i)
        return tuple([0 if d in axes else next(rest) for d in range(len(form.type.shape))])

    lazy = indexed(t, form, index)
    lazy.leaves = dict(leaves_of(form))
    return lazy


# ------------------------------------------------------------------------------------------------- broadcast, transpose, slice


STRIDED_READS, STRIDED_SIZE = 4, 512
"""Memory of that many elements that a loop reads with a stride, so often or more, is put in order first."""


def lower_broadcast(ctx: Context, eqn: Equation) -> None:
    (x,), (out,) = eqn.inputs, eqn.outputs
    dims = eqn.params["broadcast_dimensions"]
    t = out.type
    shape = t.shape
    form = ctx.value(x)
    operand = x.type.shape

    def table(positions: Any) -> Any:
        aligned = [1] * len(shape)
        for n, d in zip(operand, dims):
            aligned[d] = n
        return np.broadcast_to(positions.reshape(aligned), shape)

    if type(form) is Scalars and len(form.elements) == 1:
        if ctx.in_registers(t):
            ctx.define(out, Scalars(t, form.elements * t.size))
        else:
            scalar = form.elements[0]
            ctx.define(out, Lazy(t, lambda b, i: scalar, {}, 0))
        return
    found = permuted(ctx, form, t, table)
    if found is not None:
        ctx.define(out, found)
        return
    form = ctx.readable(form)
    repeated = prod(shape[d] for d in range(len(shape)) if d not in dims or operand[dims.index(d)] != shape[d])
    inner = max([d for k, d in enumerate(dims) if operand[k] != 1], default=-1)
    outer_repeats = prod(n for d, n in enumerate(shape) if d < inner and (d not in dims or operand[dims.index(d)] == 1))
    if type(form) is View and outer_repeats >= STRIDED_READS and x.type.size >= STRIDED_SIZE:
        if form.strides[dims.index(inner)] != 1:
            form = ctx.dense(x)
    if type(form) is View:
        strides = [0] * len(shape)
        for k, d in enumerate(dims):
            if operand[k] != 1:
                strides[d] = form.strides[k]
        ctx.define(out, View(t, form.buffer, form.offset, tuple(strides)))
        return
    assert isinstance(form, Lazy)  # one element was broadcast above
    if outer_repeats > 1 and form.cost > 4 and repeated > 1:
        # read again and again by an outer loop: worth memory
        view = ctx.view(x)
        strides = [0] * len(shape)
        for k, d in enumerate(dims):
            if operand[k] != 1:
                strides[d] = view.strides[k]
        ctx.define(out, View(t, view.buffer, view.offset, tuple(strides)))
        return

    def index(b: Builder, i: Indices) -> Indices:
        return tuple([i[d] if n != 1 else 0 for n, d in zip(operand, dims)])

    lazy = indexed(t, form, index)
    if t.size == x.type.size:
        lazy.leaves = dict(leaves_of(form))
    ctx.define(out, lazy)


def lower_transpose(ctx: Context, eqn: Equation) -> None:
    (x,), (out,) = eqn.inputs, eqn.outputs
    permutation = eqn.params["permutation"]
    form = ctx.value(x)
    found = permuted(ctx, form, out.type, lambda positions: positions.transpose(permutation))
    if found is not None:
        ctx.define(out, found)
        return
    form = ctx.readable(form)
    if type(form) is View:
        ctx.define(out, View(out.type, form.buffer, form.offset, tuple([form.strides[p] for p in permutation])))
        return
    assert isinstance(form, Lazy)  # one element was permuted above
    inverse = [0] * len(permutation)
    for k, p in enumerate(permutation):
        inverse[p] = k
    ctx.define(out, indexed(out.type, form, lambda b, i: tuple([i[k] for k in inverse])))


def lower_slice(ctx: Context, eqn: Equation) -> None:
    (x,), (out,) = eqn.inputs, eqn.outputs
    starts, limits, strides = eqn.params["start_indices"], eqn.params["limit_indices"], eqn.params["strides"]
    form = ctx.value(x)

    def table(positions: Any) -> Any:
        return positions[tuple(slice(a, z, s) for a, z, s in zip(starts, limits, strides))]

    found = permuted(ctx, form, out.type, table)
    if found is not None:
        ctx.define(out, found)
        return
    form = ctx.readable(form)
    if type(form) is View:
        ctx.define(
            out,
            View(
                out.type,
                form.buffer,
                form.position(tuple(starts)),
                tuple([s * k for s, k in zip(form.strides, strides)]),
            ),
        )
        return
    assert isinstance(form, Lazy)  # one element was permuted above
    ctx.define(out, indexed(out.type, form, lambda b, i: tuple([a + k * s for a, k, s in zip(starts, i, strides)])))


def lower_rev(ctx: Context, eqn: Equation) -> None:
    (x,), (out,) = eqn.inputs, eqn.outputs
    dimensions = eqn.params["dimensions"]
    form = ctx.value(x)
    shape = out.type.shape
    found = permuted(ctx, form, out.type, lambda positions: np.flip(positions, dimensions))
    if found is not None:
        ctx.define(out, found)
        return
    form = ctx.readable(form)
    if type(form) is View:
        offset = form.position(tuple([n - 1 if d in dimensions and n else 0 for d, n in enumerate(shape)]))
        strides = tuple([-s if d in dimensions else s for d, s in enumerate(form.strides)])
        ctx.define(out, View(out.type, form.buffer, offset, strides))
        return
    assert isinstance(form, Lazy)  # one element was permuted above
    ctx.define(
        out,
        indexed(
            out.type, form, lambda b, i: tuple([(n - 1) - k if d in dimensions else k for d, (k, n) in enumerate(zip(i, shape))])
        ),
    )


# ---------------------------------------------------------------------------------------------------------- pad, concatenate


def lower_pad(ctx: Context, eqn: Equation) -> None:
    (x, value), (out,) = eqn.inputs, eqn.outputs
    config = eqn.params["padding_config"]
    form = ctx.value(x)
    t = out.type
    shape, operand = t.shape, x.type.shape
    if type(form) is Scalars and ctx.in_registers(t):
        fill = ctx.scalar(value)
        positions = np.full(shape, -1)
        source = np.arange(x.type.size).reshape(operand)
        for index in product(*map(range, operand)):
            place = tuple(lo + i * (step + 1) for i, (lo, _, step) in zip(index, config))
            if all(0 <= p < n for p, n in zip(place, shape)):
                positions[place] = source[index]
        ctx.define(out, Scalars(t, [fill if k < 0 else form.elements[k] for k in positions.reshape(-1).tolist()]))
        return
    form = ctx.readable(form)
    padding = ctx.readable(ctx.value(value))
    everywhere = Lazy(t, lambda b, i: read(b, padding, ()), dict(leaves_of(padding)), 1)
    if x.type.size == 0:
        ctx.define(out, everywhere)
        return
    if any(step for _, _, step in config) and t.size > UNROLLED:
        ctx.define(out, _spread(ctx, out, x.type, form, everywhere, config))
        return

    def evaluate(b: Builder, indices: Indices) -> Scalar:
        inside: list[Value] = []
        places: list[Index] = []
        for i, n, (lo, _, step) in zip(indices, operand, config):
            shifted = i - lo
            if step:
                q, exact = divide(b, shifted, step + 1)
                inside.append(exact)
                shifted = q
            inside.append(not_negative(b, shifted))
            inside.append(b.less(shifted, n))
            places.append(shifted)
        return choose(b, inside, lambda: read(b, form, tuple(places)), lambda: read(b, padding, ()))

    leaves: dict[Any, int] = {POSITION: OTHER}
    for leaf, how in leaves_of(form).items():
        add_leaf(leaves, leaf, combine(OTHER, how))
    for leaf, how in leaves_of(padding).items():
        add_leaf(leaves, leaf, combine(1, how))
    cost = form.cost if isinstance(form, Lazy) else 1
    ctx.define(out, Lazy(t, evaluate, leaves, cost + 2, (form.depth if isinstance(form, Lazy) else 0) + 1))


def _spread(ctx: Context, var: Any, operand: ArrayType, form: Any, everywhere: Lazy, config: Any) -> View:
    """Elements with padding between them: the padding is written first, then they are. To ask at each place whether it is one of
    theirs would take a division, and no loop that does vectorizes."""
    whole = _written_from(ctx, var, [form, everywhere])
    ctx.fill(whole, everywhere)
    firsts, counts, places, strides = [], [], [], []
    for n, size, (lo, _, step), stride in zip(operand.shape, var.type.shape, config, whole.strides, strict=True):
        first = max(-(lo // (step + 1)), 0)  # of the elements that negative padding does not cut off
        firsts.append(first)
        counts.append(max(min(n, (size - 1 - lo) // (step + 1) + 1) - first, 0))
        places.append(lo + first * (step + 1))
        strides.append(stride * (step + 1))
    if all(counts):
        part = operand.update(shape=tuple(counts))
        if type(form) is View:
            inside: Any = View(part, form.buffer, form.position(tuple(firsts)), form.strides)
        else:
            inside = indexed(part, form, lambda b, i: tuple([k + first for k, first in zip(i, firsts)]))
        ctx.fill(View(part, whole.buffer, whole.position(tuple(places)), tuple(strides)), inside)
    return View(var.type, whole.buffer, whole.offset, whole.strides)


def not_negative(b: Builder, index: Index) -> Value:
    below = b.less(index, 0)
    return b.op("xor", "i1", below, b.const("i1", 1))


def divide(b: Builder, index: Index, divisor: int) -> tuple[Index, Value]:
    """(quotient, whether it is exact) of a position that may be negative (then the quotient is as well)."""
    from tracegrad.codegen.loop_ir import affine, bounds

    if isinstance(index, int):
        return index // divisor, b.const("i1", index % divisor == 0)
    v = b.index(index)
    d = b.const("i64", divisor)
    quotient = b.op("sdiv", "i64", v, d)
    least, greatest = bounds(index)
    if least > -np.inf:
        quotient.low, quotient.high = int(least) // divisor, int(greatest) // divisor
    exact = b.op("icmp", "i1", b.op("srem", "i64", v, d), b.const("i64", 0), attr="eq")
    return affine(quotient), exact


def choose(b: Builder, conditions: list[Value], on_true: Any, on_false: Any, late: bool = False) -> Scalar:
    """The first value where all conditions hold; it is computed only where it is chosen, since it may read out of bounds.

    late: so is the second.
    """
    condition = None
    for c in conditions:
        if c.is_const:
            if not c.attr:
                return on_false()
            continue
        condition = c if condition is None else b.op("and", "i1", condition, c)
    if condition is None:
        return on_true()
    assumed = b.assumed.get(condition)
    if assumed is not None:
        return on_true() if assumed else on_false()
    b.asked.append(condition)
    otherwise = None if late else on_false()
    pairs: list[bool] = []

    def pack(value: Scalar) -> list[Value]:
        pairs.append(type(value) is tuple)
        return list(value) if type(value) is tuple else [value]

    results = b.switch(condition, [lambda: pack(on_true()), lambda: pack(on_false() if late else otherwise)])
    for r in results:
        r.level = b.level
    return tuple(results) if pairs[0] else results[0]


def lower_concatenate(ctx: Context, eqn: Equation) -> None:
    out = eqn.outputs[0]
    axis = eqn.params["dimension"]
    t = out.type
    forms = [ctx.value(a) for a in eqn.inputs]
    if ctx.in_registers(t) and not any(map(waits, forms)):
        parts = []
        start = 0
        elements: list[Scalar] = []
        for a in eqn.inputs:
            found = ctx.elements(a)
            parts.append(np.arange(start, start + len(found)).reshape(a.type.shape))
            start += len(found)
            elements.extend(found)
        order = np.concatenate(parts, axis).reshape(-1).tolist()
        ctx.define(out, Scalars(t, [elements[k] for k in order]))
        return
    pieces = [(a, f) for a, f in zip(eqn.inputs, forms) if a.type.size]
    if not pieces:
        ctx.define(out, ctx.temporary(t))
        return
    if len(pieces) == 1:
        form = pieces[0][1]
        ctx.define(out, form if type(form) is not View else View(t, form.buffer, form.offset, form.strides))
        return
    trailing = prod(t.shape[axis:])
    last = all(n == 1 for n in t.shape[axis + 1 :])
    if trailing <= UNROLLED or (last and len(pieces) <= SPLIT_PIECES and out not in ctx.targets and _cheap(pieces)):
        ctx.define(out, _side_by_side(ctx, t, pieces, axis))
        return
    ctx.define(out, joined(ctx, out, pieces, axis))


SPLIT_PIECES = 3
"""So many pieces along the last axis become ranges of the loop of whoever reads them."""


def _cheap(pieces: list[Any]) -> bool:
    return all(not isinstance(f, Lazy) or f.cost <= CHEAP for _, f in pieces)


def _side_by_side(ctx: Context, t: ArrayType, pieces: list[Any], axis: int) -> Lazy:
    """Pieces next to each other as one lazy value: which of them is read is known where the loop is unrolled or split."""
    forms = [(a.type.shape[axis], ctx.readable(f)) for a, f in pieces]
    leaves: dict[Any, int] = {POSITION: OTHER}
    for _, f in forms:
        for leaf, how in leaves_of(f).items():
            add_leaf(leaves, leaf, combine(OTHER, how))

    def evaluate(b: Builder, indices: Indices) -> Scalar:
        def from_piece(k: int, start: int) -> Scalar:
            n, form = forms[k]

            def here() -> Scalar:
                return read(b, form, (*indices[:axis], indices[axis] - start, *indices[axis + 1 :]))

            if k == len(forms) - 1:
                return here()
            return choose(b, [b.less(indices[axis], start + n)], here, lambda: from_piece(k + 1, start + n), late=True)

        return from_piece(0, 0)

    cost = 1 + max(f.cost if isinstance(f, Lazy) else 1 for _, f in forms)
    depth = 1 + max(f.depth if isinstance(f, Lazy) else 0 for _, f in forms)
    return Lazy(t, evaluate, leaves, cost, depth)


def _written_from(ctx: Context, var: Any, forms: Sequence[Any]) -> View:
    """Memory for a variable that is written piece by piece from values, none of which is read from there."""
    whole = ctx.allocate(var)
    for form in forms:
        ctx.settle(form)
    if any(whole.buffer in leaves_of(f) for f in forms):
        whole = ctx.temporary(var.type)
    ctx.before_overwrite(whole.buffer)
    return whole


def joined(ctx: Context, var: Any, pieces: list[Any], axis: int) -> View:
    """Pieces written one after the other, each by its own nest, to where the whole is to be."""
    whole = _written_from(ctx, var, [form for _, form in pieces])
    start = 0
    copied: list[tuple[View, View]] = []
    for atom, form in pieces:
        t = atom.type
        position = tuple([start if d == axis else 0 for d in range(len(t.shape))])
        target = View(t, whole.buffer, whole.position(position), whole.strides)
        if axis and type(form) is View and _row_bytes(form, axis) and _row_bytes(target, axis) >= COPIED_ROW:
            copied.append((target, form))
        else:
            ctx.fill(target, form)
        start += t.shape[axis]
    if copied:
        copy_rows(ctx, copied, axis)
    return View(var.type, whole.buffer, whole.offset, whole.strides)


COPIED_ROW = 256
"""Rows of so many bytes are copied as memory, those of all pieces in one loop: a row of the whole is written once, and in order."""


def _row_bytes(view: View, axis: int) -> int:
    """The bytes of the dimensions from an axis on, if they lie next to each other; otherwise none."""
    shape = view.type.shape[axis:]
    return prod(shape) * view.type.dtype.itemsize if view.strides[axis:] == dense_strides(shape) else 0


# ----------------------------------------------------------------------------------------------------------------------- iota


def lower_iota(ctx: Context, eqn: Equation) -> None:
    out = eqn.outputs[0]
    t = out.type
    d = eqn.params["dimension"]
    b = ctx.b
    if ctx.in_registers(t):
        ctx.define(out, Scalars(t, [counted(b, index[d], t.dtype) for index in product(*map(range, t.shape))]))
        return
    # Like memory that is read out of order: its dimensions must not be merged, since each element depends on one index alone.
    leaves = {POSITION: OTHER if len(t.shape) > 1 else IDENTICAL}
    ctx.define(out, Lazy(t, lambda b, i: counted(b, i[d], t.dtype), leaves, 1))


def counted(b: Builder, index: Index, dtype: Any) -> Scalar:
    """A position as a number of a dtype."""
    v = b.index(index)
    target = register_type(dtype)
    if dtype.kind in "iu":
        if target == "i64":
            return v
        if v.is_const:
            return b.const(target, scalars_wrap(v.attr, dtype))
        out = b.op("trunc", target, v)
        if out.low is None and v.low is not None and v.high is not None and v.high < 1 << (8 * dtype.itemsize - 1):
            out.low, out.high = v.low, v.high
        return out
    if dtype in (FLOAT16, bfloat16):
        return conversions.round_half(b, dtype, b.op("sitofp", "f32", v))
    number = b.const(target, v.attr) if v.is_const else b.op("sitofp", target, v)
    return (number, b.const(target, 0.0)) if dtype.kind == "c" else number


def scalars_wrap(value: int, dtype: Any) -> int:
    bits = 8 * dtype.itemsize
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


ir.reshape_p.define(lower=lower_reshape)
ir.broadcast_in_dim_p.define(lower=lower_broadcast)
ir.transpose_p.define(lower=lower_transpose)
ir.slice_p.define(lower=lower_slice)
ir.rev_p.define(lower=lower_rev)
ir.pad_p.define(lower=lower_pad)
ir.concatenate_p.define(lower=lower_concatenate)
ir.iota_p.define(lower=lower_iota)

__all__ = ["choose", "counted", "indexed", "level_of", "permuted", "reshaped"]
