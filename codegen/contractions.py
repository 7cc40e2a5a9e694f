"""Lowering of dot_general: BLAS for large products, tiles in vector registers for middling ones, loops for small, registers for tiny.

A product is brought to the form C[batch, m, n] = sum over k of A[batch, m, k] B[batch, k, n] by views; memory is copied only where no
stride pattern of BLAS fits. A product of vectors is a reduction like any other and joins its neighbours' nest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import conversions, scalars
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.combining import Reduction, combine, flatten, identity, tree, unflatten
from tracegrad.codegen.elementwise import lazy_map, waits
from tracegrad.codegen.library import blas_symbol
from tracegrad.codegen.loop_ir import Index, Value
from tracegrad.codegen.matrices import arranged, is_long, parts_of_sum
from tracegrad.codegen.nests import Space, open_loops
from tracegrad.codegen.tiles import Tiles, applies
from tracegrad.codegen.values import (
    IDENTICAL,
    Form,
    Indices,
    Lazy,
    Root,
    Scalar,
    Scalars,
    View,
    dense_strides,
    literal,
    load,
    read,
    store,
)
from tracegrad.ir.contractions import accumulation_dtype, dot_general_p
from tracegrad.ir.program import Equation
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

UNROLLED_PRODUCTS = 640
"""A product of at most this many multiplications whose operands are small is written out in registers."""
BLAS_PRODUCTS = 6_000
"""From so many multiplications a matrix, BLAS is worth its call."""
TILED_PRODUCTS = 160_000_000
"""Up to so many, code made for the size is faster than BLAS, which copies its operands: by a tenth to a quarter, measured."""
MOST_ROUTINES = 32
"""A program has at most so many pieces of such code, for the sake of compile time."""
BLAS_VECTOR = 60_000
"""The same for a matrix times a vector."""
LAZY_TERMS = 4
"""Batched products that sum at most so many terms are lazy values."""
STREAMED, SHORTEST_ROW = 1 << 16, 64
"""So are products of that many elements, which would go through memory twice, if the right operand is read along rows of that length."""
OUTER_TERMS = 2
"""Any product that sums at most so many terms is a lazy value: an outer product costs no more than reading it from memory."""
UNROLLED_TERMS = 8
"""Rows added at a time by generated loops."""

_BLAS_DTYPES = frozenset(map(np.dtype, ("float32", "float64", "complex64", "complex128")))


def lower_dot_general(ctx: Context, eqn: Equation) -> None:
    lhs, rhs = eqn.inputs
    (out,) = eqn.outputs
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    t = out.type
    lf = tuple(d for d in range(len(lhs.type.shape)) if d not in lc and d not in lb)
    rf = tuple(d for d in range(len(rhs.type.shape)) if d not in rc and d not in rb)
    dtype = accumulation_dtype(lhs.type.dtype, eqn.params["preferred_element_type"])
    batch = tuple(lhs.type.shape[d] for d in lb)
    m, n, k = (prod(a.type.shape[d] for d in dims) for a, dims in ((lhs, lf), (rhs, rf), (lhs, lc)))
    b = ctx.b
    if t.size == 0:
        ctx.define(out, ctx.temporary(t))
        return
    if k == 0:
        zero = literal(b, t.dtype, t.dtype.type(0))
        ctx.define(out, Scalars(t, [zero]) if t.size == 1 else Lazy(t, lambda b, i: zero, {}, 0))
        return
    left, right = (converted(ctx, a, dtype) for a in (lhs, rhs))
    count = prod(batch)
    if count * m * n * k <= UNROLLED_PRODUCTS and ctx.lowering.may_unroll and not waits(left) and not waits(right):
        if all(x.type.size == 1 or ctx.in_registers(x.type) or type(x) is Scalars for x in (left, right)) and (
            t.size == 1 or ctx.in_registers(t)
        ):
            ctx.define(out, _unrolled(ctx, left, right, (lb, lf, lc), (rb, rc, rf), dtype, t))
            return
    if m == n == 1 and count == 1:
        _as_reduction(ctx, out, left, right, (lc, rc), dtype)
        return
    if k <= OUTER_TERMS or k <= LAZY_TERMS and (count > 1 and m * n <= 64 or t.size >= STREAMED and _along_rows(right, rf)):
        ctx.define(out, _as_lazy(ctx, left, right, (lb, lf, lc), (rb, rf, rc), dtype, t))
        return
    # an operand as it is keeps its name, so that what is put in memory for this product serves others, too
    operands = (lhs if lhs.type.dtype == dtype else left, rhs if rhs.type.dtype == dtype else right)
    if count == 1 and t.dtype == dtype and dtype in _BLAS_DTYPES and is_long(m, k, n) and not b.parallel_depth:
        if m * n * k >= PARALLEL_PRODUCTS:
            pieces = parts_of_sum(ctx, operands, (lb, lf, lc), (rb, rc, rf), (m, k, n))
            if pieces is not None:
                ctx.define_pending(out, _sum_of_products(ctx, out, *pieces))
                return
    a = arranged(ctx, operands[0], lb, lf, lc)
    c = arranged(ctx, operands[1], rb, rc, rf)
    result_type = ArrayType((*batch, m, n), dtype)
    if t.dtype == dtype:
        place = ctx.allocate(out)
        if not place.is_dense or a.buffer is place.buffer or c.buffer is place.buffer:
            place = ctx.temporary(t)
    else:
        place = ctx.temporary(ArrayType(t.shape, dtype))
    target = View(result_type, place.buffer, place.offset, dense_strides(result_type.shape))
    b.touch(place.buffer)
    multiply(ctx, a, c, target)
    if t.dtype == dtype:
        ctx.define(out, View(t, place.buffer, place.offset, dense_strides(t.shape)))
        return
    accumulated = View(ArrayType(t.shape, dtype), place.buffer, place.offset, dense_strides(t.shape))
    ctx.define(out, lazy_map(ctx, t, [accumulated], lambda b, x: conversions.convert(b, x[0], dtype, t.dtype), 1))


def _sum_of_products(ctx: Context, out: Any, left: View, right: View) -> Form:
    """The sum of the products of the matrices of two batches."""
    t = out.type
    count, m, n = left.type.shape[0], left.type.shape[1], right.type.shape[2]
    products = ctx.temporary(t.update(shape=(count, m, n)))
    multiply(ctx, left, right, products)
    shape = (count, *t.shape)
    view = View(t.update(shape=shape), products.buffer, products.offset, dense_strides(shape))
    lazy = Lazy(view.type, lambda b, i: read(b, view, i), {view.buffer: IDENTICAL}, 1)
    return ctx.defer(Root(t, lazy, ctx.targets.get(out), Reduction("add", (0,), t.dtype)))


def _along_rows(right: Form, free: tuple[int, ...]) -> bool:
    """Whether a loop over the last axis of the result reads the right operand in order."""
    if not free or right.type.shape[free[-1]] < SHORTEST_ROW or right.type.dtype.kind == "c":
        return False
    return type(right) is not View or right.strides[free[-1]] == 1


def converted(ctx: Context, atom: Any, dtype: Any) -> Form:
    """An operand in the dtype in which products are summed."""
    form = ctx.value(atom)
    old = atom.type.dtype
    if old == dtype:
        return form
    t = ArrayType(atom.type.shape, dtype)
    if type(form) is Scalars:
        return Scalars(t, [conversions.convert(ctx.b, e, old, dtype) for e in form.elements])
    return lazy_map(ctx, t, [form], lambda b, x: conversions.convert(b, x[0], old, dtype), 1)


def _product(b: Builder, dtype: Any, x: Scalar, y: Scalar) -> Scalar:
    return scalars.apply(b, "and" if dtype.kind == "b" else "mul", dtype, dtype, [x, y], {})


def _sum_name(dtype: Any) -> str:
    return "or" if dtype.kind == "b" else "add"


def _unrolled(ctx: Context, left: Form, right: Form, ldims: Any, rdims: Any, dtype: Any, t: ArrayType) -> Scalars:
    b = ctx.b
    x, y = ctx.elements(left), ctx.elements(right)
    (lb, lf, lc), (rb, rc, rf) = ldims, rdims

    def table(form: Form, elements: list[Scalar], dims: tuple[tuple[int, ...], ...]) -> Any:
        shape = form.type.shape
        grid = np.arange(len(elements)).reshape(shape).transpose([d for group in dims for d in group])
        return grid.reshape([prod(shape[d] for d in group) for group in dims])

    a, c = table(left, x, (lb, lf, lc)), table(right, y, (rb, rc, rf))
    rule = Reduction(_sum_name(dtype), (), dtype)
    results = []
    for g in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(c.shape[2]):
                terms = [_product(b, dtype, x[a[g, i, p]], y[c[g, p, j]]) for p in range(a.shape[2])]
                results.append(conversions.convert(b, _chain(b, rule, terms), dtype, t.dtype))
    return Scalars(t, results)


def _chain(b: Builder, rule: Reduction, terms: list[Scalar]) -> Scalar:
    """A sum of products in order: multiply-adds. Long ones as a tree, for the latency."""
    if len(terms) > 8 or type(terms[0]) is tuple:
        return tree(b, rule, terms)
    total = terms[0]
    for term in terms[1:]:
        total = combine(b, rule.name, rule.dtype, total, term)
    return total


def _as_reduction(ctx: Context, out: Any, left: Form, right: Form, dims: Any, dtype: Any) -> None:
    """A product of vectors: the sum of a lazy product."""
    (lc, rc) = dims
    order = sorted(range(len(lc)), key=lambda k: lc[k])
    shape = tuple(left.type.shape[lc[k]] for k in order)

    def aligned(form: Form, axes: tuple[int, ...]) -> Form:
        """The contracted dimensions in the order of the left operand, and no others."""
        t = ArrayType(shape, dtype)
        axes = tuple(axes[k] for k in order)
        form = ctx.readable(form)
        if axes == tuple(range(len(form.type.shape))):
            return form
        if type(form) is View:
            return View(t, form.buffer, form.offset, tuple(form.strides[d] for d in axes))
        if type(form) is Scalars:
            return Scalars(t, form.elements)
        from tracegrad.codegen.structural import indexed

        rank = len(form.type.shape)
        where = {d: k for k, d in enumerate(axes)}
        return indexed(t, form, lambda b, i: tuple([i[where[d]] if d in where else 0 for d in range(rank)]))

    t = ArrayType(shape, dtype)
    lazy = lazy_map(ctx, t, [aligned(left, lc), aligned(right, rc)], lambda b, x: _product(b, dtype, *x), 1)
    rule = Reduction(_sum_name(dtype), tuple(range(len(shape))), dtype)
    if t.size == 1:
        ctx.settle(lazy)
        value = read(ctx.b, lazy, (0,) * len(shape))
        ctx.define(out, Scalars(out.type, [conversions.convert(ctx.b, value, dtype, out.type.dtype)]))
        return
    ctx.define_pending(out, ctx.defer(Root(out.type, lazy, ctx.targets.get(out), rule)))


def _as_lazy(ctx: Context, left: Form, right: Form, ldims: Any, rdims: Any, dtype: Any, t: ArrayType) -> Lazy:
    """A short sum of products, as an expression of the output index."""
    (lb, lf, lc), (rb, rf, rc) = ldims, rdims
    from tracegrad.codegen.values import OTHER, POSITION, add_leaf, leaves_of
    from tracegrad.codegen.values import combine as through

    forms = []
    for form in (left, right):
        form = ctx.readable(form)
        if isinstance(form, Lazy) and form.cost > 6:
            form = ctx.view(form)
        forms.append(form)
    a, c = forms
    terms = list(product(*[range(left.type.shape[d]) for d in lc]))
    nb, nf = len(lb), len(lf)
    rule = Reduction(_sum_name(dtype), (), dtype)
    leaves: dict[Any, int] = {POSITION: OTHER}
    for f in (a, c):
        for leaf, how in leaves_of(f).items():
            add_leaf(leaves, leaf, through(OTHER, how))

    def at(dims: tuple[tuple[int, ...], ...], parts: tuple[Any, ...]) -> Indices:
        place = {d: i for group, values in zip(dims, parts) for d, i in zip(group, values)}
        return tuple([place[d] for d in range(len(place))])

    def evaluate(b: Builder, i: Indices) -> Scalar:
        outer, rows, columns = i[:nb], i[nb : nb + nf], i[nb + nf :]
        products = [
            _product(b, dtype, read(b, a, at((lb, lf, lc), (outer, rows, p))), read(b, c, at((rb, rf, rc), (outer, columns, p))))
            for p in terms
        ]
        return conversions.convert(b, _chain(b, rule, products), dtype, t.dtype)

    cost = sum(f.cost if isinstance(f, Lazy) else 1 for f in forms)
    depth = max(f.depth if isinstance(f, Lazy) else 0 for f in forms)
    return Lazy(t, evaluate, leaves, len(terms) * (cost + 2), depth + 1)


# --------------------------------------------------------------------------------------------------------- matrices in memory


def multiply(ctx: Context, a: View, c: View, target: View) -> None:
    """target[..., m, n] = a[..., m, k] c[..., k, n], all of one dtype."""
    m, k = a.type.shape[-2:]
    n = c.type.shape[-1]
    dtype = target.type.dtype
    work = m * n * k
    vector = m == 1 or n == 1
    if dtype in _BLAS_DTYPES and work > (BLAS_VECTOR if vector else BLAS_PRODUCTS) and min(m * n, k * m, k * n) > 1:
        if vector and k > 1:
            _for_each(ctx, a, c, target, _gemv, work)
        elif (
            work <= TILED_PRODUCTS
            and target.strides[-1] == 1
            and applies(dtype, (m, k, n))
            and len(ctx.lowering.function.helpers) < MOST_ROUTINES
        ):
            _for_each(ctx, a, c, target, _tiled, work)
        else:
            _for_each(ctx, blas_ready(ctx, a), blas_ready(ctx, c), target, _gemm, work)
        return
    _for_each(ctx, a, c, target, _generated, work)


def _for_each(ctx: Context, a: View, c: View, target: View, rule: Any, work: int) -> None:
    """Apply a rule to the matrices of every batch index."""
    rank = len(target.type.shape) - 2
    batch = target.type.shape[:rank]

    def matrix(view: View, places: Indices) -> View:
        offset = view.position((*places, 0, 0))
        return View(view.type.update(shape=view.type.shape[rank:]), view.buffer, offset, view.strides[rank:])

    written = frozenset((target.buffer,))
    with ExitStack() as stack:
        space = Space(batch, False)
        places = space.indices(open_loops(ctx, stack, space.runs, written, prod(batch) * work))
        rule(ctx, matrix(a, places), matrix(c, places), matrix(target, places))


def _tiled(ctx: Context, a: View, c: View, target: View) -> None:
    """By code for the size; large products as tasks of some panels, or of some rows."""
    b = ctx.b
    (m, k), n = a.type.shape, c.type.shape[1]
    t = Tiles(target.type.dtype, (m, k, n), (a.strides[0], a.strides[1]), (c.strides[0], c.strides[1]), target.strides[0])
    helpers = ctx.lowering.function.helpers
    if t.name not in helpers:
        helpers[t.name] = t.routine()
    work = m * n * k
    tasks = 1 if work < PARALLEL_PRODUCTS or b.parallel_depth else 4 if work < 200_000_000 else 8
    by_panels = t.panels >= tasks and (t.panels % tasks == 0 or t.packed or t.panels >= 4 * tasks) or t.tiles < tasks
    whole = t.panels if by_panels else t.tiles
    each = -(-whole // tasks)
    count = -(-whole // each)

    def call(low: Value, high: Value) -> None:
        every = (b.const("i64", 0), b.const("i64", t.tiles if by_panels else t.panels))
        ranges = (low, high, *every) if by_panels else (*every, low, high)
        pointers = [b.address(v.buffer, v.offset) for v in (a, c, target)]
        numbers = [b.const("i64", x) for x in t.numbers]
        flops = 2.0 * work / count
        b.call(t.name, [*pointers, *ranges, *numbers], reads=(a.buffer, c.buffer), writes=(target.buffer,), flops=flops)

    if count == 1:
        call(b.const("i64", 0), b.const("i64", whole))
        return
    with b.parallel(count, frozenset((target.buffer,))) as task:
        high = b.index(task * each + each)
        if count * each != whole:
            high = b.op("smin", "i64", high, b.const("i64", whole))
        call(b.index(task * each), high)


def _contiguous(view: View) -> tuple[bool, bool]:
    """Whether the (rows, columns) of a matrix are one apart; a single one always is."""
    (m, n), (sm, sn) = view.type.shape[-2:], view.strides[-2:]
    return (sm == 1 or m == 1, sn == 1 or n == 1)


def blas_ready(ctx: Context, view: View) -> View:
    """A view that BLAS can read: rows or columns next to each other, the others at least as far apart as they are long."""
    (m, n), (sm, sn) = view.type.shape[-2:], view.strides[-2:]
    rows, columns = _contiguous(view)
    if columns and (sm >= n or m == 1) or rows and (sn >= m or n == 1):
        return view
    return ctx.dense(view)


def _operand(b: Builder, view: View) -> tuple[str, int, Any]:
    """(transposition, leading dimension, pointer) of a row-major matrix that BLAS takes for a column-major one."""
    (m, n), (sm, sn) = view.type.shape, view.strides
    scalars_each = 2 if view.type.dtype.kind == "c" else 1
    pointer = b.address(view.buffer, view.offset * scalars_each)
    if (sn == 1 or n == 1) and (sm >= n or m == 1):
        return "N", max(sm if m > 1 else n, n, 1), pointer
    return "T", max(sn if n > 1 else m, m, 1), pointer


def _one(dtype: Any, b: Builder, value: float) -> Any:
    """A pointer to a real or complex constant."""
    kind = {"float32": "f32", "float64": "f64", "complex64": "c64", "complex128": "c128"}[dtype.name]
    return b.constant_pointer(kind, value)


ONE_THREAD = 200**3
"""Products of up to so many multiplications use one thread: two are no faster there, and cost a time slice on a busy machine."""


PARALLEL_PRODUCTS = 1_500_000
"""Products of so many multiplications are cut into tasks."""


def _cut(ctx: Context, n: int, work: int, step: int) -> tuple[int, int]:
    """(tasks, rows in each but the last) for a product whose result has n rows."""
    if work < PARALLEL_PRODUCTS or ctx.b.parallel_depth or n < 2 * step:
        return 1, n
    tasks = 4 if work < 200_000_000 else 8
    each = -(-n // (tasks * step)) * step
    return -(-n // each), each


def _gemm(ctx: Context, a: View, c: View, target: View) -> None:
    """Blocks of rows, or of columns, of the result, each by one call of BLAS."""
    (m, k), n = a.type.shape, c.type.shape[1]
    by_rows = m >= n
    count, each = _cut(ctx, m if by_rows else n, m * n * k, 16)
    if count == 1:
        _gemm_block(ctx, a, c, target, 0, (m,), (n,))
        return
    whole = m if by_rows else n
    sizes = tuple([min(each, whole - t * each) for t in range(count)])
    with ctx.b.parallel(count, frozenset((target.buffer,))) as task:
        if by_rows:
            a = View(a.type, a.buffer, a.position((task * each, 0)), a.strides)
            target = View(target.type, target.buffer, target.position((task * each, 0)), target.strides)
            _gemm_block(ctx, a, c, target, task, sizes, (n,) * count)
        else:
            c = View(c.type, c.buffer, c.position((0, task * each)), c.strides)
            target = View(target.type, target.buffer, target.position((0, task * each)), target.strides)
            _gemm_block(ctx, a, c, target, task, (m,) * count, sizes)


def _gemm_block(
    ctx: Context, a: View, c: View, target: View, task: Index, rows: tuple[int, ...], columns: tuple[int, ...]
) -> None:
    """One call: Fortran sees the transposes, C^T = B^T A^T. `rows` and `columns` are the sizes of the block of every task."""
    b = ctx.b
    k = a.type.shape[1]
    dtype = target.type.dtype
    trans_a, lda, pa = _operand(b, a)
    trans_c, ldc, pc = _operand(b, c)
    scalars_each = 2 if dtype.kind == "c" else 1
    number: Callable[[int], Value] = lambda value: b.constant_pointer("i32", value)
    b.call(
        blas_symbol("gemm", dtype),
        [
            b.constant_pointer("i8", ord(trans_c)),
            b.constant_pointer("i8", ord(trans_a)),
            b.constant_table("i32", columns, task),
            b.constant_table("i32", rows, task),
            number(k),
            _one(dtype, b, 1.0),
            pc,
            number(ldc),
            pa,
            number(lda),
            _one(dtype, b, 0.0),
            b.address(target.buffer, target.offset * scalars_each),
            number(max(target.strides[0] if target.type.shape[0] > 1 else 1, target.type.shape[1])),
        ],
        reads=(a.buffer, c.buffer),
        writes=(target.buffer,),
    )


def _gemv(ctx: Context, a: View, c: View, target: View) -> None:
    """A matrix times a vector, from either side."""
    b = ctx.b
    dtype = target.type.dtype
    scalars_each = 2 if dtype.kind == "c" else 1
    if c.type.shape[1] == 1:
        matrix, vector, step = a, c, c.strides[0]
    else:
        # a row times a matrix is the transposed matrix times it
        matrix = View(c.type.update(shape=c.type.shape[::-1]), c.buffer, c.offset, c.strides[::-1])
        vector, step = a, a.strides[1]
    if step <= 0:
        dense = ctx.dense(vector)
        vector, step = dense, 1
    matrix = blas_ready(ctx, matrix)
    m, k = matrix.type.shape
    number: Callable[[int], Value] = lambda value: b.constant_pointer("i32", value)
    count, each = _cut(ctx, m, m * k * 4, 64)
    sizes = tuple([min(each, m - t * each) for t in range(count)])

    def block(task: Index) -> None:
        part = View(matrix.type, matrix.buffer, matrix.position((task * each, 0)), matrix.strides)
        trans, ld, pointer = _operand(b, part)
        rows = b.constant_table("i32", sizes, task)
        # row-major m by k is column-major k by m, which has to be transposed
        shape, how = ((number(k), rows), "T") if trans == "N" else ((rows, number(k)), "N")
        b.call(
            blas_symbol("gemv", dtype),
            [
                b.constant_pointer("i8", ord(how)),
                *shape,
                _one(dtype, b, 1.0),
                pointer,
                number(ld),
                b.address(vector.buffer, vector.offset * scalars_each),
                number(step),
                _one(dtype, b, 0.0),
                b.address(target.buffer, (target.offset + task * each) * scalars_each),
                number(1),
            ],
            reads=(matrix.buffer, vector.buffer),
            writes=(target.buffer,),
        )

    if count == 1:
        block(0)
    else:
        with b.parallel(count, frozenset((target.buffer,))) as task:
            block(task)


# -------------------------------------------------------------------------------------------------------------- generated loops


def _generated(ctx: Context, a: View, c: View, target: View) -> None:
    m, n = a.type.shape[0], c.type.shape[1]
    if n == 1 and m > 1 and not _contiguous(a)[1]:
        # column vectors as rows, so that the contiguous dimension is the inner one

        def turn(v: View) -> View:
            return View(v.type.update(shape=v.type.shape[::-1]), v.buffer, v.offset, v.strides[::-1])

        _generated(ctx, turn(c), turn(a), turn(target))
        return
    if n > 1 and _contiguous(c)[1] and target.type.dtype.kind != "c":
        _add_rows(ctx, a, c, target)
    else:
        _dot_products(ctx, a, c, target)


def _add_rows(ctx: Context, a: View, c: View, target: View) -> None:
    """Every row of the result is a combination of rows of c: contiguous loops that add several of them at a time."""
    b = ctx.b
    (m, k), n = a.type.shape, c.type.shape[1]
    dtype = target.type.dtype
    written = frozenset((target.buffer,))
    name = _sum_name(dtype)

    def add(i: Index, first: Index, count: int, fresh: bool) -> None:
        factors = [load(b, a.buffer, a.position((i, first + p))) for p in range(count)]
        with b.loop(0, n, memory=False, written=written, name="j") as loop:
            j = loop.index
            place = target.position((i, j))
            total = None if fresh else load(b, target.buffer, place)
            for p in range(count):
                term = _product(b, dtype, factors[p], load(b, c.buffer, c.position((first + p, j))))
                total = term if total is None else combine(b, name, dtype, total, term)
            store(b, target.buffer, place, total)

    def row(i: Index) -> None:
        start = k % UNROLLED_TERMS or min(k, UNROLLED_TERMS)
        add(i, 0, start, True)
        if k > start:
            with b.loop(0, (k - start) // UNROLLED_TERMS, memory=False, written=written, name="k") as loop:
                add(i, loop.index * UNROLLED_TERMS + start, UNROLLED_TERMS, False)

    if m == 1:
        row(0)
    else:
        with b.loop(0, m, memory=False, written=written, name="i") as loop:
            row(loop.index)


def _dot_products(ctx: Context, a: View, c: View, target: View) -> None:
    b = ctx.b
    (m, k), n = a.type.shape, c.type.shape[1]
    dtype = target.type.dtype
    written = frozenset((target.buffer,))
    name = _sum_name(dtype)
    start = literal(b, dtype, identity(name, dtype))
    with ExitStack() as stack:
        places = open_loops(ctx, stack, [(d, size, False) for d, size in ((0, m), (1, n)) if size > 1], written)
        i, j = places.get(0, 0), places.get(1, 0)
        with b.loop(0, k, carry=flatten([start]), memory=False, written=written, name="k") as loop:
            p = loop.index
            x, y = load(b, a.buffer, a.position((i, p))), load(b, c.buffer, c.position((p, j)))
            total = unflatten(loop.params, [start])[0]
            loop.yields = flatten([combine(b, name, dtype, total, _product(b, dtype, x, y))])
        store(b, target.buffer, target.position((i, j)), unflatten(loop.results, [start])[0])


dot_general_p.define(lower=lower_dot_general)

__all__ = ["IDENTICAL", "blas_ready", "lower_dot_general", "multiply"]
