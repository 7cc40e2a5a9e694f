"""Native eigenproblems, singular values and Schur forms, by LAPACK. Their lowering rules are attached in `linalg.py`."""

from __future__ import annotations

from math import isqrt

import numpy as np

from tracegrad.codegen.kernel import Buffer, Complex, Kernel
from tracegrad.codegen.lapack import (
    Arguments,
    all_finite,
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
from tracegrad.codegen.library import Routine, lapack_symbol, threads_for
from tracegrad.ir import linalg as ops
from tracegrad.ir.types import ArrayType


def eigh_routine(x: ArrayType, *, lower: bool) -> Routine:
    batch, n, dtype = batch_size(x.shape), x.shape[-1], x.dtype
    real = real_dtype(dtype)
    is_complex = dtype.kind == "c"
    k = start("eigh", 1, 2, dtype, batch, n, int(lower))
    lwork = n * n + 2 * n + 64 * n if is_complex else 2 * n * n + 6 * n + 1 + 64 * n
    lrwork = 2 * n * n + 5 * n + 1 if is_complex else 0
    liwork = 5 * n + 3
    sizes = [(dtype, n * n), (dtype, lwork), (real, lrwork), (np.int32, liwork)]
    (z, work, rwork, iwork), scratch = scratch_buffers(k, sizes)
    f = Arguments(k)
    with threads_for(k, n), k.loop(0, batch) as b:
        a, v = matrix_of(k, k["in0"], dtype, b, n, n), matrix_of(k, k["out0"], dtype, b, n, n)
        w = vector_of(k, k["out1"], real, b, n)
        copy_elements(k, a, z, n * n)
        info = f.integer(1)
        with k.if_(all_finite(k, a, n * n)):
            size = f.integer(n)
            arguments = [f.character("V"), f.character("U" if lower else "L"), size, z.pointer, size, w.pointer]
            arguments += [work.pointer, f.integer(lwork)]
            if is_complex:
                arguments += [rwork.pointer, f.integer(lrwork)]
            k.call(
                lapack_symbol("heevd" if is_complex else "syevd", dtype),
                [*arguments, iwork.pointer, f.integer(liwork), info],
            )
        # LAPACK saw the conjugate matrix, and gives its vectors as columns
        transpose(k, z.shifted(0, (n, 1)), v, n, n, conjugate=is_complex)
        nan_unless(k, info, [(v, n * n), (w, n)])
    return Routine(k, scratch)


def eig_routine(x: ArrayType, *, compute_left: bool, compute_right: bool) -> Routine:
    batch, n, dtype = batch_size(x.shape), x.shape[-1], x.dtype
    is_complex = dtype.kind == "c"
    real, wide = real_dtype(dtype), ops.complex_dtype(dtype)
    k = start("eig", 1, 1 + compute_left + compute_right, dtype, batch, n, int(compute_left), int(compute_right))
    lwork = 64 * n
    sizes = [(dtype, n * n), (dtype, n * n), (dtype, n * n), (dtype, n), (dtype, n), (dtype, lwork), (real, 2 * n)]
    (a, vl, vr, wr, wi, work, rwork), scratch = scratch_buffers(k, sizes)
    f = Arguments(k)
    outs = ["out1"] if compute_left != compute_right else ["out1", "out2"]
    wanted = [(vl, compute_left), (vr, compute_right)]
    with threads_for(k, n), k.loop(0, batch) as b:
        source = matrix_of(k, k["in0"], dtype, b, n, n)
        values = vector_of(k, k["out0"], wide, b, n)
        transpose(k, source, a.shifted(0, (n, 1)), n, n)
        info, size = f.integer(1), f.integer(n)
        left, right = f.character("V" if compute_left else "N"), f.character("V" if compute_right else "N")
        with k.if_(all_finite(k, source, n * n)):
            eigenvalues = [wr.pointer] if is_complex else [wr.pointer, wi.pointer]
            arguments = [left, right, size, a.pointer, size, *eigenvalues, vl.pointer, size, vr.pointer, size]
            arguments += [work.pointer, f.integer(lwork)]
            if is_complex:
                arguments.append(rwork.pointer)
            k.call(lapack_symbol("geev", dtype), [*arguments, info])
        with k.loop(0, n) as i:
            values[i] = wr[i] if is_complex else Complex(wr[i], wi[i])
        targets = [(values, n)]
        remaining = list(outs)
        for vectors, needed in wanted:
            if not needed:
                continue
            target = matrix_of(k, k[remaining.pop(0)], wide, b, n, n)
            targets.append((target, n * n))
            columns = vectors.shifted(0, (n, 1))
            if is_complex:
                transpose(k, columns, target, n, n)
            else:
                _expand_pairs(k, columns, target, wi, n)
        nan_unless(k, info, targets)
    return Routine(k, scratch)


def _expand_pairs(k: Kernel, columns: Buffer, target: Buffer, wi: Buffer, n: int) -> None:
    """Complex eigenvectors from LAPACK's real ones, where a conjugate pair has its real and imaginary part in two columns."""
    with k.loop(0, n) as j:
        imaginary = wi[j]
        first, second = imaginary > 0.0, imaginary < 0.0
        real_column = second.select(j - 1, j)
        imaginary_column = first.select(j + 1, j)
        sign = first.select(
            k.value(1.0, imaginary.type), second.select(k.value(-1.0, imaginary.type), k.value(0.0, imaginary.type))
        )
        with k.loop(0, n) as i:
            # a real eigenvalue reads its own column twice, the second time with the factor 0
            im = first.select(columns[imaginary_column, i], columns[j, i]) * sign
            target[i, j] = Complex(columns[real_column, i], im)


def svd_routine(x: ArrayType, *, full_matrices: bool, compute_uv: bool) -> Routine:
    batch, (m, n), dtype = batch_size(x.shape), x.shape[-2:], x.dtype
    size, larger = min(m, n), max(m, n)
    real, is_complex = real_dtype(dtype), dtype.kind == "c"
    k = start("svd", 1, 3 if compute_uv else 1, dtype, batch, m, n, int(full_matrices), int(compute_uv))
    if is_complex:
        lwork = (2 * size * size + 2 * size + larger) * 2 + 64 * (m + n)
        lrwork = max(5 * size * size + 7 * size, 2 * larger * size + 2 * size * size + size) + size
    else:
        lwork = 7 * size * size + 10 * size + larger + 64 * (m + n)
        lrwork = 0
    u_columns, v_rows = (m, n) if full_matrices else (size, size)
    # LAPACK is slower for wide matrices than for tall ones; a row-major tall matrix would be a wide one to it
    turned = m > n
    moved = (m * u_columns, v_rows * n) if turned and compute_uv else (0, 0)
    sizes = [(dtype, m * n), (dtype, lwork), (real, lrwork), (np.int32, 8 * size), (dtype, moved[0]), (dtype, moved[1])]
    (a, work, rwork, iwork, u_turned, vh_turned), scratch = scratch_buffers(k, sizes)
    f = Arguments(k)
    with threads_for(k, isqrt(m * n)), k.loop(0, batch) as b:
        source = matrix_of(k, k["in0"], dtype, b, m, n)
        s = vector_of(k, k["out0"], real, b, size)
        targets = [(s, size)]
        # by columns LAPACK sees a^T = vh^T s u^T: its u is vh by rows, its vh is u by rows
        if turned:
            transpose(k, source, a.shifted(0, (m, 1)), m, n)
        else:
            copy_elements(k, source, a, m * n)
        rows, columns, info = f.integer(m if turned else n), f.integer(n if turned else m), f.integer(1)
        if compute_uv:
            u, vh = matrix_of(k, k["out1"], dtype, b, m, u_columns), matrix_of(k, k["out2"], dtype, b, v_rows, n)
            targets += [(u, m * u_columns), (vh, v_rows * n)]
            if turned:
                vectors = [u_turned.pointer, rows, vh_turned.pointer, f.integer(v_rows)]
            else:
                vectors = [vh.pointer, rows, u.pointer, f.integer(u_columns)]
            job = "A" if full_matrices else "S"
        else:
            one = f.integer(1)
            vectors, job = [a.pointer, one, a.pointer, one], "N"
        with k.if_(all_finite(k, source, m * n)):
            arguments = [
                f.character(job),
                rows,
                columns,
                a.pointer,
                rows,
                s.pointer,
                *vectors,
                work.pointer,
                f.integer(lwork),
            ]
            if is_complex:
                arguments.append(rwork.pointer)
            k.call(lapack_symbol("gesdd", dtype), [*arguments, iwork.pointer, info])
            if turned and compute_uv:
                transpose(k, u_turned.shifted(0, (m, 1)), u, u_columns, m)
                transpose(k, vh_turned.shifted(0, (v_rows, 1)), vh, n, v_rows)
        nan_unless(k, info, targets)
    return Routine(k, scratch)


def schur_routine(x: ArrayType) -> Routine:
    batch, n, dtype = batch_size(x.shape), x.shape[-1], x.dtype
    real, is_complex = real_dtype(dtype), dtype.kind == "c"
    k = start("schur", 1, 2, dtype, batch, n)
    lwork = 64 * n
    sizes = [(dtype, n * n), (dtype, n * n), (dtype, n), (dtype, n), (dtype, lwork), (real, n), (np.int32, n)]
    (a, vs, wr, wi, work, rwork, bwork), scratch = scratch_buffers(k, sizes)
    f = Arguments(k)
    with threads_for(k, n), k.loop(0, batch) as b:
        source = matrix_of(k, k["in0"], dtype, b, n, n)
        t, z = matrix_of(k, k["out0"], dtype, b, n, n), matrix_of(k, k["out1"], dtype, b, n, n)
        transpose(k, source, a.shifted(0, (n, 1)), n, n)
        info, size = f.integer(1), f.integer(n)
        with k.if_(all_finite(k, source, n * n)):
            # no ordering is asked for ("N"), so the selection function, here any address, is not called
            arguments = [f.character("V"), f.character("N"), bwork.pointer, size, a.pointer, size, f.integer(0)]
            arguments += [wr.pointer] if is_complex else [wr.pointer, wi.pointer]
            arguments += [vs.pointer, size, work.pointer, f.integer(lwork)]
            if is_complex:
                arguments.append(rwork.pointer)
            k.call(lapack_symbol("gees", dtype), [*arguments, bwork.pointer, info])
        transpose(k, a.shifted(0, (n, 1)), t, n, n)
        transpose(k, vs.shifted(0, (n, 1)), z, n, n)
        nan_unless(k, info, [(t, n * n), (z, n * n)])
    return Routine(k, scratch)
