"""Native matrix factorizations and solvers: generated loops for small matrices, LAPACK and BLAS for the rest.

Buffers are row-major and LAPACK reads them column-major, so it sees transposes. Where the algorithm allows it the transposed
problem is solved instead of moving data: a row-major Cholesky factor is LAPACK's upper one, the QR of a wide matrix is an LQ, its SVD
exchanges u and vh, a left triangular solve becomes a right one. LU, the eigenproblems, the Schur form, and the QR and SVD of tall matrices are
transposed in and out.

Every routine is a kernel of (inputs..., outputs..., scratch) over a whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Buffer, Complex, Kernel, Value
from tracegrad.codegen.lapack import (
    Arguments,
    batch_size,
    copy_elements,
    matrix_of,
    nan_unless,
    real_dtype,
    scratch_buffers,
    start,
    transpose,
    vector_of,
)
from tracegrad.codegen.library import THREADED_SIZE, Routine, blas_symbol, call_in_tasks, lapack_symbol, lower_by, threads_for
from tracegrad.codegen.spectral import eig_routine, eigh_routine, schur_routine, svd_routine
from tracegrad.ir import linalg as ops
from tracegrad.ir.types import ArrayType

UNROLLED = 4
"""Up to this size a factorization is straight-line code that LLVM can vectorize over the batch."""
LOOPED = 16
"""Up to this size generated loops beat the call into LAPACK."""
TURNED = 128
"""From this size on square matrices are transposed for a QR."""


# --------------------------------------------------------------------------------------------------------------------- Cholesky


def cholesky_routine(x: ArrayType) -> Routine:
    batch, n, dtype = batch_size(x.shape), x.shape[-1], x.dtype
    k = start("cholesky", 1, 1, dtype, batch, n)
    with threads_for(k, n if n > 12 else THREADED_SIZE), k.loop(0, batch) as b:
        a, out = matrix_of(k, k["in0"], dtype, b, n, n), matrix_of(k, k["out0"], dtype, b, n, n)
        if n <= UNROLLED:
            _cholesky_unrolled(k, a, out, n)
        elif n <= 12:
            _cholesky_loops(k, a, out, n)
        else:
            _cholesky_lapack(k, a, out, n)
    return Routine(k)


def _cholesky_unrolled(k: Kernel, a: Buffer, out: Buffer, n: int) -> None:
    dtype = out.dtype
    zero = k.number(0.0, dtype)
    low: dict[tuple[int, int], Any] = {}
    good: Value | None = None
    for j in range(n):
        diagonal = a[j, j].re
        for c in range(j):
            diagonal = diagonal - low[j, c].norm2()
        positive = diagonal > 0.0
        good = positive if good is None else good & positive
        root = k.sqrt(diagonal)
        low[j, j] = root
        for i in range(j + 1, n):
            x = a[i, j]
            for c in range(j):
                x = x - low[i, c] * low[j, c].conj()
            low[i, j] = x / root
    assert good is not None
    nan = k.number(np.nan, real_dtype(dtype))
    if dtype.kind == "c":
        nan = Complex(nan, nan)
    for i in range(n):
        for j in range(n):
            out[i, j] = good.select(low[i, j], nan) if j <= i else zero


def _cholesky_loops(k: Kernel, a: Buffer, out: Buffer, n: int) -> None:
    dtype = out.dtype
    k.memset(out.pointer, 0, n * n * dtype.itemsize)
    failed = k.var("i1", 0)
    with k.loop(0, n) as j:
        diagonal = k.accumulator(real_dtype(dtype), a[j, j].re)
        with k.loop(0, j) as c:
            diagonal.set(diagonal.get() - out[j, c].norm2())
        d = diagonal.get()
        failed.set(failed.get() | ~(d > 0.0))
        root = k.sqrt(d)
        out[j, j] = root
        with k.loop(j + 1, n) as i:
            x = k.accumulator(dtype, a[i, j])
            with k.loop(0, j) as c:
                x.set(x.get() - out[i, c] * out[j, c].conj())
            out[i, j] = x.get() / root
    with k.if_(failed.get()):
        _nan_triangle(k, out, n)


def _nan_triangle(k: Kernel, out: Buffer, n: int) -> None:
    nan = k.number(np.nan, real_dtype(out.dtype))
    with k.loop(0, n) as i, k.loop(0, i + 1) as j:
        out[i, j] = Complex(nan, nan) if out.dtype.kind == "c" else nan


def _cholesky_lapack(k: Kernel, a: Buffer, out: Buffer, n: int) -> None:
    f = Arguments(k)
    # the lower triangle by rows is the upper one by columns, of the conjugate matrix: U^H U = conj(A), so L = U^T
    copy_elements(k, a, out, n * n)
    info = f.integer(0)
    size = f.integer(n)
    k.call(lapack_symbol("potrf", out.dtype), [f.character("U"), size, out.pointer, size, info])
    with k.loop(0, n) as i, k.loop(i + 1, n) as j:
        out[i, j] = 0.0
    with k.if_(k.load(info, "i32").ne(0)):
        _nan_triangle(k, out, n)


# ---------------------------------------------------------------------------------------------------------------------------- LU


def lu_routine(x: ArrayType) -> Routine:
    batch, (m, n), dtype = batch_size(x.shape), x.shape[-2:], x.dtype
    size = min(m, n)
    k = start("lu", 1, 3, dtype, batch, m, n)
    (work,), scratch = scratch_buffers(k, [(dtype, m * n if size > LOOPED else 0)])
    with threads_for(k, max(m, n) if size > LOOPED else THREADED_SIZE), k.loop(0, batch) as b:
        a, out = matrix_of(k, k["in0"], dtype, b, m, n), matrix_of(k, k["out0"], dtype, b, m, n)
        pivots = vector_of(k, k["out1"], np.int32, b, size)
        permutation = vector_of(k, k["out2"], np.int32, b, m)
        if m == n and n <= UNROLLED:
            _lu_unrolled(k, a, out, pivots, permutation, n)
        else:
            with k.loop(0, m) as i:
                permutation[i] = i.cast("i32")
            if size <= LOOPED:
                copy_elements(k, a, out, m * n)
                _lu_loops(k, out, pivots, m, n)
            else:
                _lu_lapack(k, a, out, pivots, Buffer(k, work.pointer, dtype, (m, 1)), m, n)
            with k.loop(0, size) as i:
                pivot = pivots[i].cast("i64")
                row, other = permutation[i], permutation[pivot]
                permutation[i] = other
                permutation[pivot] = row
    return Routine(k, scratch)


def _lu_unrolled(k: Kernel, a: Buffer, out: Buffer, pivots: Buffer, permutation: Buffer, n: int) -> None:
    """Partial pivoting by selects: no branches, so that many matrices can be done side by side."""
    rows = [[a[i, j] for j in range(n)] for i in range(n)]
    order = [k.value(i, "i32") for i in range(n)]
    for j in range(n):
        best, pivot = rows[j][j].abs1(), k.value(j, "i32")
        for i in range(j + 1, n):
            size = rows[i][j].abs1()
            better = size > best
            best, pivot = better.select(size, best), better.select(k.value(i, "i32"), pivot)
        pivots[j] = pivot
        for i in range(j + 1, n):
            chosen = pivot.eq(i)
            for c in range(n):
                x, y = rows[j][c], rows[i][c]
                rows[j][c], rows[i][c] = chosen.select(y, x), chosen.select(x, y)
            x, y = order[j], order[i]
            order[j], order[i] = chosen.select(y, x), chosen.select(x, y)
        diagonal = rows[j][j]
        # below a pivot of zero there are only zeros; they stay
        divisor = diagonal.eq(0.0).select(k.number(1.0, out.dtype), diagonal)
        for i in range(j + 1, n):
            factor = rows[i][j] / divisor
            rows[i][j] = factor
            for c in range(j + 1, n):
                rows[i][c] = rows[i][c] - factor * rows[j][c]
    for i in range(n):
        permutation[i] = order[i]
        for j in range(n):
            out[i, j] = rows[i][j]


def _lu_loops(k: Kernel, a: Buffer, pivots: Buffer, m: int, n: int) -> None:
    with k.loop(0, min(m, n)) as j:
        best, pivot = k.accumulator(real_dtype(a.dtype), a[j, j].abs1()), k.var("i64", j)
        with k.loop(j + 1, m) as i:
            size = a[i, j].abs1()
            better = size > best.get()
            best.set(better.select(size, best.get()))
            pivot.set(better.select(i, pivot.get()))
        p = pivot.get()
        pivots[j] = p.cast("i32")
        with k.if_(p.ne(j)), k.loop(0, n) as c:
            x, y = a[j, c], a[p, c]
            a[j, c] = y
            a[p, c] = x
        diagonal = a[j, j]
        divisor = diagonal.eq(0.0).select(k.number(1.0, a.dtype), diagonal)
        with k.loop(j + 1, m) as i:
            factor = a[i, j] / divisor
            a[i, j] = factor
            with k.loop(j + 1, n) as c:
                a[i, c] = a[i, c] - factor * a[j, c]


def _lu_lapack(k: Kernel, a: Buffer, out: Buffer, pivots: Buffer, work: Buffer, m: int, n: int) -> None:
    f = Arguments(k)
    transpose(k, a, work, m, n)
    rows, info = f.integer(m), f.integer(0)
    k.call(lapack_symbol("getrf", out.dtype), [rows, f.integer(n), work.pointer, rows, pivots.pointer, info])
    transpose(k, work, out, n, m)
    with k.loop(0, min(m, n)) as i:
        pivots[i] = pivots[i] - 1


# ------------------------------------------------------------------------------------------------------------- triangular solve


def triangular_solve_routine(
    a: ArrayType,
    b: ArrayType,
    *,
    left_side: bool,
    lower: bool,
    transpose_a: bool,
    conjugate_a: bool,
    unit_diagonal: bool,
    leading: int | None = None,
) -> Routine:
    """leading: for one of several tasks that solve parts of a problem, how far apart the rows of the whole right-hand side lie."""
    batch, n, dtype = batch_size(b.shape), a.shape[-1], b.dtype
    rows, columns = b.shape[-2:]
    conjugate = conjugate_a and dtype.kind == "c"
    flags = "".join("01"[flag] for flag in (left_side, lower, transpose_a, conjugate, unit_diagonal))
    part = () if leading is None else (f"of{leading}",)
    k = start("triangular_solve", 2, 1, dtype, batch, rows, columns, flags, *part)
    # x op(a) = b is op(a)^T x^T = b^T
    flipped = transpose_a == left_side
    effective_lower = lower != flipped
    others = columns if left_side else rows
    needs_copy = n > LOOPED and conjugate and not transpose_a
    (conjugated,), scratch = scratch_buffers(k, [(dtype, n * n if needs_copy else 0)])
    threads = 0 if leading is not None else n if n > LOOPED else THREADED_SIZE
    with threads_for(k, threads), k.loop(0, batch) as i:
        matrix, side = matrix_of(k, k["in0"], dtype, i, n, n), matrix_of(k, k["in1"], dtype, i, rows, columns)
        out = matrix_of(k, k["out0"], dtype, i, rows, columns)

        def element(r: Any, c: Any, matrix: Buffer = matrix) -> Any:
            x = matrix[c, r] if flipped else matrix[r, c]
            return x.conj() if conjugate else x

        strides = (columns, 1) if left_side else (1, columns)
        if n <= UNROLLED:
            source, target = side.shifted((0, 0), strides), out.shifted((0, 0), strides)
            _solve_unrolled(k, element, source, target, n, others, effective_lower, unit_diagonal)
        elif n <= LOOPED:
            copy_elements(k, side, out, rows * columns)
            _solve_loops(k, element, out.shifted((0, 0), strides), n, others, effective_lower, unit_diagonal)
        else:
            if leading in (None, columns):
                copy_elements(k, side, out, rows * columns)
            else:
                side, out = (k.array(k[name], dtype, (leading, 1)) for name in ("in1", "out0"))
                with k.loop(0, rows) as r, k.loop(0, columns) as c:
                    out[r, c] = side[r, c]
            if needs_copy:
                flat, copy = Buffer(k, matrix.pointer, dtype, (1,)), conjugated
                with k.loop(0, n * n) as j:
                    copy[j] = flat[j].conj()
                matrix = copy
            _solve_blas(
                k, matrix, out, n, rows, columns, leading or columns, left_side, lower, transpose_a, conjugate, unit_diagonal
            )
    return Routine(k, scratch)


PARALLEL_SOLVE = 1_500_000
"""Triangular systems that take so many multiplications are cut into tasks with some of the right-hand sides each."""


def _lower_triangular_solve(ctx: Any, eqn: Any) -> None:
    """Many right-hand sides of one matrix are cut into tasks; batches are, as those of other routines."""
    a, b = (x.type for x in eqn.inputs)
    n, left = a.shape[-1], eqn.params["left_side"]
    rows, columns = b.shape[-2:]
    others = columns if left else rows
    if batch_size(b.shape) != 1 or n <= LOOPED or n * n * others < PARALLEL_SOLVE or others < 64 or ctx.b.parallel_depth:
        _lower_batches_of_solves(ctx, eqn)
        return
    tasks = 4 if n * n * others < 200_000_000 else 8

    def part(count: int) -> Routine:
        some = b.update(shape=(n, count) if left else (count, n))
        return triangular_solve_routine(a.update(shape=(n, n)), some, **eqn.params, leading=columns)

    step = 1 if left else n
    call_in_tasks(ctx, part, others, -(-others // (16 * tasks)) * 16, eqn.inputs, eqn.outputs, (0, step, step))


def _work(types: Sequence[ArrayType]) -> float:
    """The multiplications of a batch, about; none to be cut into tasks where LAPACK's own threads are used."""
    n = max(types[0].shape[-2:])
    return max([t.size for t in types]) * n if n < THREADED_SIZE else 0


_lower_batches_of_solves = lower_by(triangular_solve_routine, 2, _work)


def _solve_unrolled(
    k: Kernel,
    element: Callable[[Any, Any], Any],
    source: Buffer,
    target: Buffer,
    n: int,
    others: int,
    lower: bool,
    unit_diagonal: bool,
) -> None:
    order = list(range(n)) if lower else list(reversed(range(n)))
    entries = {(r, c): element(r, c) for r in range(n) for c in (range(r) if lower else range(r + 1, n))}
    # dividing (not multiplying by a reciprocal) rounds as BLAS does
    diagonal = [] if unit_diagonal else [element(r, r) for r in range(n)]
    with k.loop(0, others) as o:
        x: dict[int, Any] = {}
        for r in order:
            value = source[r, o]
            for c in x:
                value = value - entries[r, c] * x[c]
            x[r] = value if unit_diagonal else value / diagonal[r]
        for r in range(n):
            target[r, o] = x[r]


def _solve_loops(
    k: Kernel, element: Callable[[Any, Any], Any], x: Buffer, n: int, others: int, lower: bool, unit_diagonal: bool
) -> None:
    with k.loop(0, n) as step:
        r = step if lower else (n - 1) - step
        first, last = (k.value(0, "i64"), r) if lower else (r + 1, k.value(n, "i64"))
        if others == 1:
            total = k.accumulator(x.dtype, x[r, 0])
            with k.loop(first, last) as c:
                total.set(total.get() - element(r, c) * x[c, 0])
            x[r, 0] = total.get() if unit_diagonal else total.get() / element(r, r)
            return
        with k.loop(first, last) as c:
            factor = element(r, c)
            with k.loop(0, others) as o:
                x[r, o] = x[r, o] - factor * x[c, o]
        if not unit_diagonal:
            divisor = element(r, r)
            with k.loop(0, others) as o:
                x[r, o] = x[r, o] / divisor


def _solve_blas(
    k: Kernel,
    a: Buffer,
    x: Buffer,
    n: int,
    rows: int,
    columns: int,
    leading: int,
    left_side: bool,
    lower: bool,
    transpose_a: bool,
    conjugate: bool,
    unit_diagonal: bool,
) -> None:
    f = Arguments(k)
    # by columns BLAS sees a^T and x^T: op(a) x = b becomes x^T op(a)^T = b^T, with the same letter for op
    trans = ("C" if conjugate else "T") if transpose_a else "N"
    uplo, diag = ("U" if lower else "L"), ("U" if unit_diagonal else "N")
    size = f.integer(n)
    if (columns if left_side else rows) == 1 and leading == columns:
        # a single right-hand side: op(a)^T from the right of a row is op(a) from the left of a column
        letter = {"N": "T", "T": "N"}.get(trans) if left_side else trans
        if letter is not None:
            arguments = [
                f.character(uplo),
                f.character(letter),
                f.character(diag),
                size,
                a.pointer,
                size,
                x.pointer,
                f.integer(1),
            ]
            k.call(blas_symbol("trsv", x.dtype), arguments)
            return
    arguments = [f.character("R" if left_side else "L"), f.character(uplo), f.character(trans), f.character(diag)]
    arguments += [f.integer(columns), f.integer(rows), f.one(x.dtype), a.pointer, size, x.pointer, f.integer(leading)]
    k.call(blas_symbol("trsm", x.dtype), arguments)


# ------------------------------------------------------------------------------------------------------------- QR, reflections


def qr_routine(x: ArrayType, *, full_matrices: bool) -> Routine:
    batch, (m, n), dtype = batch_size(x.shape), x.shape[-2:], x.dtype
    size = min(m, n)
    columns = m if full_matrices else size
    k = start("qr", 1, 2, dtype, batch, m, n, int(full_matrices))
    lwork = 64 * max(m, n)
    (lq, taus, work), scratch = scratch_buffers(k, [(dtype, m * max(n, columns)), (dtype, size), (dtype, lwork)])
    f = Arguments(k)
    with threads_for(k, isqrt(m * n)), k.loop(0, batch) as b:
        a = matrix_of(k, k["in0"], dtype, b, m, n)
        q, r = matrix_of(k, k["out0"], dtype, b, m, columns), matrix_of(k, k["out1"], dtype, b, columns, n)
        rows, info, length = f.integer(max(m, n)), f.integer(0), f.integer(lwork)
        rest = [rows, taus.pointer, work.pointer, length, info]
        letters = "un" if dtype.kind == "c" else "or"
        zero = k.number(0.0, dtype)
        if m > n or m == n >= TURNED:
            # a row-major tall matrix would be a wide one to LAPACK, for which it is slower; large square ones by rows are, too
            factored = lq.shifted(0, (m, 1))
            transpose(k, a, factored, m, n)
            k.call(lapack_symbol("geqrf", dtype), [rows, f.integer(n), lq.pointer, *rest])
            with k.loops(columns, n) as (i, j):
                r[i, j] = (i <= j).select(factored[j, i], zero)
            k.call(lapack_symbol(f"{letters}gqr", dtype), [rows, f.integer(columns), f.integer(n), lq.pointer, *rest])
            transpose(k, factored, q, columns, m)
        else:
            # by columns the matrix is a^T = L Q', so a = Q'^T L^T
            copy_elements(k, a, lq, m * n)
            k.call(lapack_symbol("gelqf", dtype), [rows, f.integer(m), lq.pointer, *rest])
            factored = lq.shifted(0, (n, 1))
            with k.loops(m, n) as (i, j):
                r[i, j] = (i <= j).select(factored[i, j], zero)
            with k.loops(m, m) as (i, j):
                q[i, j] = factored[i, j]
            rest[0] = rows = f.integer(m)
            k.call(lapack_symbol(f"{letters}glq", dtype), [rows, rows, rows, q.pointer, *rest])
    return Routine(k, scratch)


def householder_product_routine(a: ArrayType, taus: ArrayType) -> Routine:
    batch, (m, n), dtype = batch_size(a.shape), a.shape[-2:], a.dtype
    count = taus.shape[-1]
    k = start("householder_product", 2, 1, dtype, batch, m, n, count)
    lwork = 64 * n
    (factors, work), scratch = scratch_buffers(k, [(dtype, count), (dtype, lwork)])
    f = Arguments(k)
    with threads_for(k, m), k.loop(0, batch) as b:
        source, out = matrix_of(k, k["in0"], dtype, b, m, n), matrix_of(k, k["out0"], dtype, b, m, n)
        given = vector_of(k, k["in1"], dtype, b, count)
        copy_elements(k, source, out, m * n)
        # the transpose of LAPACK's product of row reflectors is the product of the conjugate reflectors
        with k.loop(0, count) as i:
            factors[i] = given[i].conj()
        rows = f.integer(n)
        name = lapack_symbol("unglq" if dtype.kind == "c" else "orglq", dtype)
        arguments = [rows, f.integer(m), f.integer(count), out.pointer, rows, factors.pointer, work.pointer]
        k.call(name, [*arguments, f.integer(lwork), f.integer(0)])
    return Routine(k, scratch)


def tridiagonal_solve_routine(dl: ArrayType, d: ArrayType, du: ArrayType, b: ArrayType) -> Routine:
    batch, (n, columns), dtype = batch_size(b.shape), b.shape[-2:], b.dtype
    k = start("tridiagonal_solve", 4, 1, dtype, batch, n, columns)
    (lower, middle, upper, x), scratch = scratch_buffers(k, [(dtype, n), (dtype, n), (dtype, n), (dtype, n * columns)])
    f = Arguments(k)
    with k.loop(0, batch) as i:
        side, out = matrix_of(k, k["in3"], dtype, i, n, columns), matrix_of(k, k["out0"], dtype, i, n, columns)
        for name, target in (("in0", lower), ("in1", middle), ("in2", upper)):
            copy_elements(k, vector_of(k, k[name], dtype, i, n), target, n)
        if n == 1:
            divisor = middle[0]
            with k.loop(0, columns) as c:
                out[0, c] = side[0, c] / divisor
        else:
            transpose(k, side, x.shifted(0, (n, 1)), n, columns)
            size, info = f.integer(n), f.integer(0)
            arguments = [size, f.integer(columns), lower.shifted(1).pointer, middle.pointer, upper.pointer, x.pointer, size, info]
            k.call(lapack_symbol("gtsv", dtype), arguments)
            transpose(k, x.shifted(0, (n, 1)), out, columns, n)
            nan_unless(k, info, [(out, n * columns)])
    return Routine(k, scratch)


for _primitive, _routine in (
    (ops.cholesky_p, cholesky_routine),
    (ops.lu_p, lu_routine),
    (ops.qr_p, qr_routine),
    (ops.eigh_p, eigh_routine),
    (ops.eig_p, eig_routine),
    (ops.svd_p, svd_routine),
    (ops.schur_p, schur_routine),
    (ops.householder_product_p, householder_product_routine),
):
    _primitive.define(lower=lower_by(_routine, 2, _work))
ops.tridiagonal_solve_p.define(lower=lower_by(tridiagonal_solve_routine, 1, lambda types: 10 * types[-1].size))
ops.triangular_solve_p.define(lower=_lower_triangular_solve)
