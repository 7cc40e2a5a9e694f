"""Samples of linear algebra, Fourier transforms, random bits, control flow and calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from primitive_samples import BF16, BOOL, C64, C128, F32, F64, I32, U32, Case, Keys, draw, sample, sampler

from tracegrad.ir import calls, ops
from tracegrad.ir import control_flow as cf
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.tapes import empty_tape, empty_tape_p, record_while_p, tape_length, tape_length_p, tape_scan_p
from tracegrad.ir.types import ArrayType
from tracegrad.tracer.staging import trace

# Linear algebra. Vectors are unique only up to sign or phase: what is compared are the products that they must make.

FACTORS = (F64, F32, C128, C64)


def matrix(dtype: Any, *shape: int, salt: Any = 0) -> np.ndarray:
    """A well conditioned matrix (or several)."""
    x = draw(dtype, shape, -1, 1, salt)
    return x + 3 * np.eye(shape[-2], shape[-1], dtype=dtype)


def hermitian(x: np.ndarray) -> np.ndarray:
    return ((x + np.conj(np.swapaxes(x, -1, -2))) / 2).astype(x.dtype)


def _times(x: np.ndarray, scale: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * scale[..., None, :].astype(x.dtype)) @ y


def _adjoint(x: np.ndarray) -> np.ndarray:
    return np.conj(np.swapaxes(x, -1, -2))


def _qr_meaning(operands: Any, results: Any) -> Any:
    q, r = results
    return (q[..., : r.shape[-2]] @ r, _adjoint(q) @ q)


def _eigh_meaning(operands: Any, results: Any) -> Any:
    v, w = results
    return (w, _times(v, w, _adjoint(v)))


def _eig_meaning(operands: Any, results: Any) -> Any:
    # Residuals of the defining equations, which are zero; eigenvalues in an order that rounding does not change.
    (a,), (w, *vectors) = operands, results
    out = [np.sort_complex(w.round(3))]
    for v in vectors[-1:]:
        out.append(a.astype(v.dtype) @ v - v * w[..., None, :])
    return tuple(out)


def _svd_meaning(operands: Any, results: Any) -> Any:
    if len(results) == 1:
        return results
    s, u, vh = results
    k = s.shape[-1]
    return (s, _times(u[..., :k], s, vh[..., :k, :]), _adjoint(u) @ u, vh @ _adjoint(vh))


def _schur_meaning(operands: Any, results: Any) -> Any:
    t, z = results
    return (z @ t @ _adjoint(z), _adjoint(z) @ z)


@sampler
def factorization_samples() -> Iterable[Case]:
    loose: dict[str, Any] = {"tolerance": 1e3}
    for dtype in FACTORS:
        spd = hermitian(matrix(dtype, 3, 3)) + np.eye(3, dtype=dtype)
        yield sample(ops.cholesky, spd, direction=hermitian, **loose)
        yield sample(ops.lu, matrix(dtype, 3, 3)[::-1], **loose)
        smooth = {} if dtype == F64 else {"order": 0}
        yield sample(ops.qr, matrix(dtype, 4, 3), False, meaning=_qr_meaning, note="thin", **loose)
        yield sample(ops.eigh, hermitian(matrix(dtype, 3, 3)), direction=hermitian, meaning=_eigh_meaning, **loose, **smooth)
        yield sample(ops.eig, matrix(dtype, 3, 3), False, True, meaning=_eig_meaning, order=0, **loose)
        # Near a diagonal of distinct values: a small step does not turn the signs of the vectors that LAPACK finds.
        distinct = (np.eye(3, 4) * np.array([[3], [2], [1]])).astype(dtype) + matrix(dtype, 3, 4) / 9
        yield sample(ops.svd, distinct, False, True, meaning=_svd_meaning, note="thin", **loose, **smooth)
        yield sample(ops.svd, matrix(dtype, 4, 3), False, False, note="values", **loose)
        yield sample(ops.schur, matrix(dtype, 3, 3), meaning=_schur_meaning, order=0, **loose)
    x = matrix(F64, 2, 3, 3)
    yield sample(ops.cholesky, hermitian(x) + np.eye(3), direction=hermitian, note="batch", **loose)
    yield sample(ops.cholesky, -hermitian(x), note="not positive definite", differentiable=())
    yield sample(ops.cholesky, np.zeros((0, 3, 3)), note="empty", differentiable=())
    yield sample(ops.lu, x[:, :2], note="wide batch", **loose)
    yield sample(ops.lu, matrix(F64, 4, 3), note="tall", **loose)
    yield sample(ops.qr, x, True, meaning=_qr_meaning, note="square batch", **loose)
    yield sample(ops.qr, matrix(F64, 4, 2), True, meaning=_qr_meaning, note="full", order=0, **loose)
    yield sample(ops.eigh, hermitian(x), False, direction=hermitian, meaning=_eigh_meaning, note="upper batch", **loose)
    yield sample(ops.eig, x, False, False, meaning=_eig_meaning, note="values", order=0, **loose)
    yield sample(ops.eig, x, True, True, meaning=_eig_meaning, note="both", order=0, **loose)
    yield sample(ops.svd, matrix(F64, 4, 2), True, True, meaning=_svd_meaning, note="full", order=0, **loose)
    yield sample(ops.svd, np.diag([3.0, 1.0]) + x[:, :2, :2] / 9, False, False, note="values batch", **loose)


@sampler
def solve_samples() -> Iterable[Case]:
    for dtype in FACTORS:
        a, b = matrix(dtype, 3, 3), draw(dtype, (3, 2))
        yield sample(ops.triangular_solve, a, b, left_side=True, lower=True, tolerance=1e2)
        d = draw(dtype, (3, 4), 0.1, 0.5)
        yield sample(ops.tridiagonal_solve, d[0], d[1] + 2, d[2], draw(dtype, (4, 2)), tolerance=1e2)
    a, b = matrix(F64, 2, 3, 3), draw(F64, (2, 3, 3))
    for lower in (False, True):
        for left in (False, True):
            options = {"left_side": left, "lower": lower, "transpose_a": lower == left, "unit_diagonal": left}
            yield sample(ops.triangular_solve, a, b, **options, note=f"batch {lower} {left}", tolerance=1e2)
    z = matrix(C128, 3, 3)
    yield sample(ops.triangular_solve, z, z, left_side=True, transpose_a=True, conjugate_a=True, note="adjoint", tolerance=1e2)
    yield sample(ops.triangular_solve, np.zeros((2, 2), F32), np.ones((2, 1), F32), left_side=True, note="singular")
    d = draw(F64, (2, 3, 4), 0.1, 0.5)
    yield sample(ops.tridiagonal_solve, d[:, 0], d[:, 1] + 2, d[:, 2], draw(F64, (2, 4, 1)), note="batch", tolerance=1e2)
    for dtype in FACTORS:
        yield sample(ops.householder_product, draw(dtype, (4, 3)), draw(dtype, (3,), 0.1, 0.5), tolerance=1e2, order=0)


@sampler
def fft_samples() -> Iterable[Case]:
    loose: dict[str, Any] = {"tolerance": 1e2}
    for real, complex_ in ((F64, C128), (F32, C64)):
        for n in (1, 4, 5):
            z = draw(complex_, (2, n))
            yield sample(ops.fft, z, "fft", (n,), note=f"fft {n}", **loose)
            yield sample(ops.fft, z, "ifft", (n,), note=f"ifft {n}", **loose)
            yield sample(ops.fft, draw(real, (2, n)), "rfft", (n,), note=f"rfft {n}", **loose)
            yield sample(ops.fft, draw(complex_, (2, n // 2 + 1)), "irfft", (n,), note=f"irfft {n}", **loose)
    z = draw(C128, (2, 3, 4))
    yield sample(ops.fft, z, "fft", (3, 4), note="fft 2d", **loose)
    yield sample(ops.fft, z, "ifft", (2, 3, 4), note="ifft 3d", **loose)
    yield sample(ops.fft, draw(F64, (2, 3, 4)), "rfft", (3, 4), note="rfft 2d", **loose)
    yield sample(ops.fft, draw(C128, (3, 3)), "irfft", (3, 4), note="irfft 2d", **loose)


@sampler
def random_samples() -> Iterable[Case]:
    words = [draw(U32, (7,), 0, 2**32, salt) for salt in range(4)]
    yield sample(ops.threefry2x32, *words)
    yield sample(ops.threefry2x32, words[0][0], words[1][0], *words[2:], note="one key")
    yield sample(ops.threefry2x32, *[w[:0] for w in words], note="empty")
    yield sample(ops.key_wrap, draw(U32, (3, 2), 0, 2**32))
    yield sample(ops.key_wrap, draw(U32, (2,), 0, 2**32))
    yield sample(ops.key_unwrap, Keys(3))
    yield sample(ops.key_unwrap, Keys())


# Control flow. Bodies are traced; operands of no interest to derivatives are integers.

S, V = ArrayType((), F64), ArrayType((3,), F64)
N = ArrayType((), I32)
v, w, s = draw(F64, (3,), 0.5, 1.5, "v"), draw(F64, (3,), 0.5, 1.5, "w"), np.float64(0.7)


def program(fun: Any, *types: ArrayType) -> Any:
    with config.override("enable_x64", True):
        traced, captured = trace(fun, types, "body")
    assert not captured
    return traced


@sampler
def cond_samples() -> Iterable[Case]:
    branches = (
        program(lambda x, y: [ops.mul(x, y), ops.reduce_sum(x, (0,))], V, S),
        program(lambda x, y: [ops.sin(x), y], V, S),
        program(lambda x, y: [y_times(x, y), ops.mul(y, y)], V, S),
    )
    for index in (-5, 0, 1, 2, 9):
        yield sample(bind, cf.cond_p, np.int32(index), v, s, branches=branches, note=f"branch {index}", tolerance=10.0)
    one = program(lambda x: [ops.exp(x)], V)
    yield sample(bind, cf.cond_p, np.int32(0), v, branches=(one,), note="one branch", tolerance=10.0)
    same = program(lambda k, n: [k, n], ArrayType((2,), Keys().dtype), N)
    yield sample(bind, cf.cond_p, np.int32(1), Keys(2), np.int32(3), branches=(same, same), note="keys")


def y_times(x: Any, y: Any) -> Any:
    return ops.mul(ops.cos(x), ops.exp(y))


@sampler
def while_samples() -> Iterable[Case]:
    # Constants of the condition: n; of the body: w. Carry: counter, x, an array that does not change.
    cond = program(lambda n, i, x, z: [ops.lt(i, n)], N, N, V, V)
    body = program(lambda w, i, x, z: [ops.add(i, 1), ops.mul(ops.sin(x), w), z], V, N, V, V)
    for n in (0, 1, 4):
        yield sample(
            bind,
            cf.while_p,
            np.int32(n),
            w,
            np.int32(0),
            v,
            w,
            cond=cond,
            body=body,
            cond_nconsts=1,
            body_nconsts=1,
            note=f"{n} iterations",
            tolerance=10.0,
            reverse=False,
        )
    # How often it runs depends on the data.
    shrinking = program(lambda x: [ops.gt(x, 0.1)], S)
    halve = program(lambda x: [ops.mul(x, 0.5)], S)
    yield sample(
        bind, cf.while_p, np.float64(3), cond=shrinking, body=halve, cond_nconsts=0, body_nconsts=0, note="by data", reverse=False
    )


@sampler
def scan_samples() -> Iterable[Case]:
    def step(c, h, n, x, k):  # type: ignore[no-untyped-def]
        h = ops.mul(ops.sin(ops.add(h, c)), x)
        return [h, ops.add(n, k), ops.reduce_sum(h, (0,)), n]

    body = program(step, V, V, N, S, N)
    for length in (0, 1, 4):
        for reverse in (False, True):
            for unroll in (1, 3):
                if unroll == 3 and length != 4:
                    continue
                yield sample(
                    bind,
                    cf.scan_p,
                    w,
                    v,
                    np.int32(1),
                    draw(F64, (length,)),
                    np.arange(length, dtype=I32),
                    body=body,
                    length=length,
                    num_consts=1,
                    num_carry=2,
                    unroll=unroll,
                    note=f"length={length} reverse={reverse} unroll={unroll}",
                    tolerance=10.0,
                    **{"params": {"reverse": reverse}},
                )
    count = program(lambda n: [ops.add(n, 1), n], N)
    yield sample(
        bind,
        cf.scan_p,
        np.int32(0),
        body=count,
        length=3,
        num_consts=0,
        num_carry=1,
        unroll=1,
        note="no arrays",
        **{"params": {"reverse": False}},
    )


# Loops over tapes. What they take and give is compared in arrays: a case is a small program that has the primitive in its middle.


@dataclass(frozen=True)
class TapeCase(Case):
    """`fun`, of arrays, applies the primitive to tapes that it makes, and reads the tapes that it gives."""

    fun: Callable[..., Any] = bind

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        return tuple(self.fun(*values))

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        with config.override("enable_x64", True):
            return tuple(map(np.asarray, evaluate(program(self.fun, *self.types), *arrays)))


def tape_case(primitive: Any, fun: Callable[..., Any], *operands: Any, note: str = "", **claims: Any) -> Case:
    arrays = tuple(np.asarray(x) for x in operands)
    types = tuple(ArrayType(x.shape, x.dtype) for x in arrays)
    claims.setdefault("differentiable", tuple(i for i, t in enumerate(types) if t.dtype in (F64, C128)))
    return TapeCase(f"{primitive.name} {note}", primitive, arrays, types, {}, fun=fun, **claims)


def as_tape(x: Any, rows: int) -> Any:
    """The tape of the first rows of an array, and their number."""
    t = type_of(x)
    count = program(lambda x, i: [ops.lt(i, np.int32(rows))], t, N)
    row = program(lambda x, i: [ops.add(i, np.int32(1)), ops.dynamic_index_in_dim(x, i, 0, keepdims=False)], t, N)
    _, n, tape = bind(record_while_p, x, x, np.int32(0), cond=count, body=row, cond_nconsts=1, body_nconsts=1)
    return tape, n


def as_array(tape: Any, n: Any, rows: int) -> Any:
    """The array of what is on a tape of n steps, and zeros beyond."""
    element = type_of(tape).dtype.element
    whole = ArrayType((rows, *element.shape), element.dtype)

    def put(i: Any, rows: Any, row: Any) -> list[Any]:
        return [ops.add(i, np.int32(1)), ops.dynamic_update_index_in_dim(rows, row, i, 0)]

    zeros = ops.broadcast_in_dim(ops.convert_element_type(np.int32(0), element.dtype), whole.shape, ())
    body = program(put, N, whole, element)
    return bind(tape_scan_p, n, np.int32(0), zeros, tape, body=body, reverse=False, num_consts=0, num_carry=2)[1]


@sampler
def record_while_samples() -> Iterable[Case]:
    cond = program(lambda n, i, x: [ops.lt(i, n)], N, N, V)
    body = program(lambda w, i, x: [ops.add(i, 1), ops.mul(ops.sin(x), w), ops.exp(x), ops.reduce_sum(x, (0,)), i], V, N, V)

    def fun(n: Any, w: Any, x: Any) -> list[Any]:
        loop = {"cond": cond, "body": body, "cond_nconsts": 1, "body_nconsts": 1}
        i, y, count, *tapes = bind(record_while_p, n, w, np.int32(0), x, **loop)
        return [i, y, count, *[as_array(t, count, 5) for t in tapes]]

    for n in (0, 1, 4):
        yield tape_case(record_while_p, fun, np.int32(n), w, v, note=f"{n} steps", tolerance=10.0)


@sampler
def tape_scan_samples() -> Iterable[Case]:
    def step(c: Any, h: Any, k: Any, x: Any, y: Any) -> list[Any]:
        h = ops.mul(ops.sin(ops.add(h, c)), x)
        return [h, ops.add(k, 1), ops.mul(h, y), k]

    body = program(step, V, V, N, S, V)
    for length in (0, 1, 4):
        for reverse in (False, True):

            def fun(c: Any, h: Any, x: Any, y: Any, rows: int = length, reverse: bool = reverse) -> list[Any]:
                (xs, n), (ys, _) = as_tape(x, rows), as_tape(y, rows)
                loop = {"body": body, "reverse": reverse, "num_consts": 1, "num_carry": 2}
                h, k, *tapes = bind(tape_scan_p, n, c, h, np.int32(3), xs, ys, **loop)
                return [h, k, *[as_array(t, n, 5) for t in tapes]]

            x, y = draw(F64, (4,), 0.5, 1.5), draw(F64, (4, 3), 0.5, 1.5)
            yield tape_case(tape_scan_p, fun, w, v, x, y, note=f"{length} steps reverse={reverse}", tolerance=10.0)


@sampler
def tape_samples() -> Iterable[Case]:
    both = program(lambda s, x, y: [ops.add(s, ops.mul(x, ops.add(y, 1.0)))], V, V, V)

    def with_empty(x: Any, h: Any) -> list[Any]:
        tape, n = as_tape(x, 3)
        (h,) = bind(tape_scan_p, n, h, tape, empty_tape(V), body=both, reverse=False, num_consts=0, num_carry=1)
        return [h, as_array(empty_tape(V), n, 3)]

    def with_length(x: Any, y: Any) -> list[Any]:
        (tape, _), (other, _) = as_tape(x, 3), as_tape(y, 0)
        return [tape_length(tape), tape_length(other), tape_length(empty_tape(S)), ops.mul(x, 2.0)]

    yield tape_case(empty_tape_p, with_empty, draw(F64, (3, 3)), v)
    yield tape_case(tape_length_p, with_length, draw(F64, (3, 2)), draw(F32, (2,)))


# Calls


def _double(*xs: Any) -> Any:
    return [np.asarray(2 * x) for x in xs]


RULE = calls.DerivativeRule(
    "sample",
    jvp=lambda primals, tangents: ([ops.sin(primals[0])], [ops.mul(ops.cos(primals[0]), tangents[0])]),
)
VJP_RULE = calls.DerivativeRule(
    "sample",
    fwd=lambda primals, nonzero: ([ops.sin(primals[0])], [primals[0]], None),
    bwd=lambda residuals, cotangents, token: [ops.mul(ops.cos(residuals[0]), cotangents[0])],
)
BATCH_RULE = calls.BatchRule("sample", lambda axis_size, in_batched, values: ([ops.sin(values[0])], list(in_batched)))
DOUBLE = calls.CallbackRef("double", _double)


@sampler
def call_samples() -> Iterable[Case]:
    both = program(lambda x, y: [y_times(x, y), x, ops.add(y, 1.0)], V, S)
    for inline in (False, True):
        yield sample(bind, calls.call_p, v, s, program=both, inline=inline, note=f"inline={inline}", **{"params": {"name": "f"}})
    yield sample(bind, calls.checkpoint_p, v, s, program=both, prevent_cse=True, policy="nothing_saveable", tolerance=10.0)
    sine = program(lambda x: [ops.sin(x)], V)
    yield sample(bind, calls.custom_jvp_call_p, v, program=sine, rule=RULE)
    yield sample(bind, calls.custom_vjp_call_p, v, program=sine, rule=VJP_RULE, order=0)
    yield sample(bind, calls.custom_vmap_call_p, v, program=sine, rule=BATCH_RULE)
    yield sample(ops_barrier, v, np.int32(3), draw(BF16, (2,)))
    yield sample(calls.name, v, "hidden")
    for dtype in (F32, I32, BOOL):
        yield sample(calls.name, draw(dtype, (2,)), "hidden")
    for primitive, kind in ((calls.pure_callback_p, "pure"), (calls.callback_p, "io")):
        yield sample(
            bind,
            primitive,
            v,
            np.int32(4),
            callback=DOUBLE,
            out_types=(V, N),
            ordered=False,
            kind=kind,
            differentiable=(),
            batch=False,
        )


def ops_barrier(*xs: Any) -> Any:
    return calls.optimization_barrier(*xs)
