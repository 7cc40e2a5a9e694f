"""Loops that write and read tapes: compiled code against the meaning, and the memory of tapes, which must not leak."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.codegen.compile import prepare
from tracegrad.ir import ops
from tracegrad.ir.bind import bind
from tracegrad.ir.config import config
from tracegrad.ir.control_flow import cond_p as lax_cond
from tracegrad.ir.control_flow import scan_p as lax_scan
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.parser import parse
from tracegrad.ir.program import Program
from tracegrad.ir.tapes import empty_tape, record_while_p, tape_length, tape_scan_p
from tracegrad.ir.types import ArrayType, key_dtype
from tracegrad.ir.verify import verify
from tracegrad.runtime import tape_memory, tapes
from tracegrad.runtime.executable import Executable
from tracegrad.tracer.staging import trace
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.hoist import hoist_invariants
from tracegrad.transforms.narrow import narrow_loops
from tracegrad.transforms.pipeline import optimize

F64, I32 = np.dtype(np.float64), np.dtype(np.int32)
S, N = ArrayType((), F64), ArrayType((), I32)


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    with config.override("enable_x64", True):
        gc.collect()
        before = tape_memory.live_bytes()
        yield
        gc.collect()
        assert tape_memory.live_bytes() == before


def program(fun: Callable[..., Sequence[Any]], *types: ArrayType) -> Program:
    traced, captured = trace(fun, types, "body")
    assert not captured
    return traced


def record(n: Any, body: Program, *init: Any, consts: Sequence[Any] = ()) -> tuple[Any, ...]:
    """A `record_while` of n steps, whose carry begins with their number so far, which the body must count."""
    carry = body.in_types[len(consts) :]
    below = program(lambda n, i, *rest: [ops.lt(i, n)], N, *carry)
    return bind(record_while_p, n, *consts, np.int32(0), *init, cond=below, body=body, cond_nconsts=1, body_nconsts=len(consts))


def read(
    n: Any, body: Program, carry: Sequence[Any], xs: Sequence[Any], reverse: bool = False, consts: Sequence[Any] = ()
) -> Any:
    params = {"body": body, "reverse": reverse, "num_consts": len(consts), "num_carry": len(carry)}
    return bind(tape_scan_p, n, *consts, *carry, *xs, **params)


def agree(fun: Callable[..., Sequence[Any]], *args: Any) -> list[np.ndarray]:
    """The results of compiled code, which are those of the evaluation; the program's text reads back."""
    types = [ArrayType(np.shape(a), np.asarray(a).dtype) for a in args]
    traced = program(fun, *types)
    verify(traced)
    assert parse(str(traced)) == traced
    with config.override("verify", True):
        optimized = optimize(traced)
    results = [np.asarray(x) for x in Executable(traced, optimized, "tapes")(args)]
    for x, y, z in zip(results, evaluate(traced, *args), evaluate(optimized, *args), strict=True):
        y = np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        if x.dtype == ml_dtypes.bfloat16:
            x, y, z = x.astype(np.float32), y.astype(np.float32), np.asarray(z).astype(np.float32)
        limit = 1e-12 if x.dtype.itemsize > 4 else 1e-5
        np.testing.assert_allclose(x, y, rtol=limit, atol=limit)
        np.testing.assert_array_equal(y, z)
    return results


STEPS = (0, 1, 2, 61, 1000, 5000)
"""None, fewer than fit at first, several growths."""


@pytest.mark.parametrize("n", STEPS)
def test_scalars(n: int) -> None:
    step = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), ops.cos(x), x], N, S)
    back = program(lambda g, c, x: [ops.mul(g, c), ops.add(x, g)], S, S, S)
    total = program(lambda s, x: [ops.add(ops.mul(s, 0.5), x)], S, S)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, cosines, points = record(n, step, x)
        g, sums = read(count, back, [np.float64(1)], [cosines, points], reverse=True)
        (s,) = read(count, total, [np.float64(0)], [sums])
        return [y, count, g, s, tape_length(points), tape_length(sums)]

    assert agree(fun, np.int32(n), np.float64(0.7))[4] == n


KINDS = {
    "bool": np.bool_,
    "i8": np.int8,
    "u16": np.uint16,
    "i64": np.int64,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "c64": np.complex64,
    "c128": np.complex128,
}


@pytest.mark.parametrize("n", (0, 3, 700))
def test_dtypes_and_shapes(n: int) -> None:
    """One loop keeps values of every kind: scalars, small arrays, arrays beyond registers, without elements, keys."""
    shapes: list[tuple[int, ...]] = [(), (3,), (5, 20), (0, 2), (2, 2)]
    types = [ArrayType(shapes[k % len(shapes)], np.dtype(d)) for k, d in enumerate(KINDS.values())]
    key = ArrayType((), key_dtype())

    def value(i: Any, t: ArrayType) -> Any:
        number = ops.convert_element_type(ops.rem(i, np.int32(2 if t.dtype.kind == "b" else 100)), t.dtype)
        return ops.broadcast_in_dim(number, t.shape, ())

    def step(i: Any) -> list[Any]:
        words = ops.convert_element_type(ops.broadcast_in_dim(i, (2,), ()), np.uint32)
        return [ops.add(i, np.int32(1)), i, *[value(i, t) for t in types], ops.key_wrap(words)]

    def latest(*values: Any) -> list[Any]:
        old, new = values[: len(types) + 2], values[len(types) + 2 :]
        return [ops.add(ops.mul(old[0], np.int32(3)), new[0]), *new[1:-1], ops.key_unwrap(new[-1])]

    words = ArrayType((2,), np.dtype(np.uint32))
    last = program(latest, N, *types, words, N, *types, key)
    stepped = program(step, N)

    def fun(n: Any) -> list[Any]:
        _, count, *kept = record(n, stepped)
        start = [ops.broadcast_in_dim(ops.convert_element_type(np.int32(0), t.dtype), t.shape, ()) for t in (N, *types, words)]
        return [*read(count, last, start, kept), *read(count, last, start, kept, reverse=True)]

    agree(fun, np.int32(n))


def test_large_elements_beside_small_ones() -> None:
    """Elements in the memory of a loop, products that threads share, a carry as large."""
    m = ArrayType((40, 50), F64)
    step = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(ops.add(x, 0.1)), x, ops.reduce_sum(x, (0, 1))], N, m)
    back = program(lambda g, x, s: [ops.add(ops.mul(g, x), s), ops.mul(g, 0.5)], m, m, S)
    add = program(lambda s, x: [ops.add(s, x)], m, m)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, xs, sums = record(n, step, x)
        g, halves = read(count, back, [y], [xs, sums], reverse=True)
        return [y, g, *read(count, add, [x], [halves])]

    for n in (0, 1, 30):
        agree(fun, np.int32(n), np.linspace(-1, 1, 2000).reshape(40, 50))


def test_empty_tapes_are_zeros() -> None:
    """Of scalars, of matrices, of tapes; chosen at run time; as long as nothing else says how long they are."""
    m = ArrayType((30, 3), F64)
    add = program(lambda s, x, y: [ops.add(ops.add(s, x), ops.reduce_sum(y, (0, 1)))], S, S, m)
    inner = program(lambda s, x: [ops.add(s, x)], S, S)
    kept = program(lambda i: [ops.add(i, np.int32(1)), ops.convert_element_type(i, F64)], N)

    def outer(s: Any, t: Any) -> list[Any]:
        return read(np.int32(3), inner, [s], [t])

    def fun(n: Any, p: Any) -> list[Any]:
        some = record(n, kept)[2]
        chosen = ops.select(p, some, empty_tape(S))
        (x,) = read(n, add, [np.float64(1)], [chosen, empty_tape(m)])
        (y,) = read(n, program(outer, S, some.aval), [np.float64(2)], [empty_tape(some.aval)])
        return [x, y, tape_length(chosen), tape_length(empty_tape(m))]

    for n in (0, 4):
        for p in (False, True):
            agree(fun, np.int32(n), np.bool_(p))


def test_tapes_of_tapes_and_arrays_of_tapes() -> None:
    """A loop that records within a scan, within a loop that records, and within a branch."""
    kept = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), x], N, S)
    add = program(lambda s, x: [ops.add(ops.mul(s, 1.01), x)], S, S)
    tape = program(lambda n, x: [record(n, kept, x)[3]], N, S).out_types[0]

    def in_scan(x: Any, n: Any) -> list[Any]:
        _, y, count, points = record(n, kept, x)
        return [y, points, count]

    def read_row(s: Any, t: Any, n: Any) -> list[Any]:
        return read(n, add, [s], [t])

    def in_record(n: Any, i: Any, x: Any) -> list[Any]:
        _, y, _, points = record(ops.add(i, n), kept, x)
        return [ops.add(i, np.int32(1)), y, points, ops.add(i, n)]

    def some(n: Any, x: Any) -> list[Any]:
        return [record(n, kept, x)[3]]

    def none(n: Any, x: Any) -> list[Any]:
        return [empty_tape(S)]

    row = program(read_row, S, tape, N)

    def fun(n: Any, x: Any, lengths: Any) -> list[Any]:
        scan = {"num_consts": 0, "num_carry": 1, "unroll": 1, "length": 5}
        y, rows, counts = bind(lax_scan, x, lengths, body=program(in_scan, S, N), reverse=False, **scan)
        (a,) = bind(lax_scan, x, rows, counts, body=row, reverse=True, **scan)
        turned = ops.rev(rows, (0,))
        (b,) = bind(lax_scan, x, turned, ops.rev(counts, (0,)), body=row, reverse=False, **scan)
        _, z, count, outer, steps = record(n, program(in_record, N, N, S), x, consts=[n])
        (c,) = read(count, row, [x], [outer, steps], reverse=True)
        (chosen,) = bind(lax_cond, n, n, x, branches=(program(none, N, S), program(some, N, S)))
        return [y, a, b, z, c, *read(n, add, [x], [chosen])]

    for n in (0, 1, 7):
        agree(fun, np.int32(n), np.float64(0.3), np.array([3, 0, 90, 1, 2], np.int32))


# Memory


def newton(a: Any) -> Any:
    """The square root of a, by as many steps as it takes: 1.0 is where it begins."""
    return lax.while_loop(lambda x: jnp.abs(x * x - a) > 1e-10, lambda x: 0.5 * (x + a / x), jnp.ones_like(a))


def live() -> int:
    gc.collect()
    return tape_memory.live_bytes()


def test_tapes_that_a_program_returns_live_as_long_as_their_arrays() -> None:
    before = live()
    forward = tg.jit(lambda a: tg.vjp(newton, a))
    root, pullback = forward(2.0)
    one = live() - before
    assert one > 0
    leaves = [x for x in tg.tree_util.tree_leaves(pullback) if "tape" in str(x.aval.dtype)]
    assert leaves and repr(leaves[0]) == f"Array((), dtype={leaves[0].aval.dtype.name})" == f"{leaves[0]}"
    del pullback
    apply = tg.jit(lambda leaf: tape_length(leaf))
    assert int(apply(leaves[0])) > 3
    # another program passes the tape on, chosen at run time and in an array
    choose = tg.jit(lambda p, t: [ops.select(p, t, empty_tape(t.aval.dtype.element)), ops.broadcast_in_dim(t, (3,), ()), t])
    chosen, several, same = choose(True, leaves[0])
    leaves.clear()
    assert live() == before + one
    assert int(apply(chosen)) == int(apply(several[1])) == int(apply(same)) > 3
    del chosen, same
    last = several[2]
    del several
    assert int(apply(last)) > 3 and live() == before + one
    last.delete()
    assert live() == before
    with pytest.raises(RuntimeError, match="deleted"):
        apply(last)


def test_the_backward_pass_runs_twice_and_on_copies() -> None:
    before = live()
    root, pullback = tg.vjp(newton, 2.0)
    copy = pullback
    assert float(pullback(1.0)[0]) == float(copy(1.0)[0]) == pytest.approx(0.5 / 2**0.5)
    second = tg.tree_util.tree_map(lambda x: x.__copy__() if hasattr(x, "__copy__") else x, pullback)
    del pullback, copy
    assert float(second(2.0)[0]) == pytest.approx(1 / 2**0.5)
    del second
    assert live() == before


def test_every_call_gives_back_what_is_in_arrays_of_tapes() -> None:
    """Tapes of a scan that is differentiated as a whole leave its body; calls that take the short way free them, too."""
    fun = tg.jit(tg.grad(lambda a: jnp.sum(lax.map(newton, a))))
    a = jnp.linspace(2.0, 3.0, 10)
    before = live()
    for _ in range(10):
        np.testing.assert_allclose(np.asarray(fun(a)), 0.5 / np.sqrt(np.asarray(a)), rtol=1e-6)
        assert live() == before


def test_what_has_no_numbers_says_so() -> None:
    _, pullback = tg.vjp(newton, 2.0)
    (tape, *_) = [x for x in tg.tree_util.tree_leaves(pullback) if "tape" in str(x.aval.dtype)]
    for use in (np.asarray, float, bool, lambda t: t.item(), lambda t: t.tolist(), pickle.dumps, lambda t: t + 1):
        with pytest.raises((TypeError, BufferError), match="tape"):
            use(tape)
    described = tg.eval_shape(lambda a: tg.vjp(newton, a), 2.0)
    assert any("tape" in str(x.dtype) for x in tg.tree_util.tree_leaves(described))
    with pytest.raises(NotImplementedError, match="callback"):
        tg.jit(lambda t: tg.pure_callback(lambda x: x, tg.ShapeDtypeStruct((), np.int32), t))(tape)


def test_numpy_and_compiled_code_read_each_others_tapes() -> None:
    with tg.disable_jit():
        _, slow = tg.vjp(newton, 3.0)
    _, fast = tg.vjp(newton, 3.0)
    expected = float(fast(1.0)[0])
    assert float(slow(1.0)[0]) == pytest.approx(expected)
    assert float(tg.jit(lambda f, ct: f(ct)[0])(slow, 1.0)) == pytest.approx(expected)
    with tg.disable_jit():
        assert float(fast(1.0)[0]) == pytest.approx(expected) == pytest.approx(float(slow(1.0)[0]))
    kept = program(
        lambda i: [
            ops.add(i, np.int32(1)),
            i,
            ops.key_wrap(ops.convert_element_type(ops.broadcast_in_dim(i, (2,), ()), np.uint32)),
        ],
        N,
    )
    nested = program(lambda i: [ops.add(i, np.int32(1)), *record(i, kept)[2:]], N)
    objects = evaluate(program(lambda n: record(n, nested)[2:], N), np.int32(5))
    for x, t in zip(objects, program(lambda n: record(n, nested)[2:], N).out_types):
        again = tapes.to_objects(tapes.to_words(x, t), t)
        assert (
            [len(v.item().values) for v in again.item().values]
            == [len(v.item().values) for v in x.item().values]
            == [0, 1, 2, 3, 4]
        )
        np.testing.assert_array_equal(again.item().values[4].item().values[3], x.item().values[4].item().values[3])


def test_a_loop_gives_its_tapes_back_in_every_step() -> None:
    """Training steps that differentiate a loop do not pile up what it kept: seen from within, by a callback."""
    seen: list[int] = []

    def watch(x: Any) -> Any:
        seen.append(tape_memory.live_bytes())
        return x

    def loss(a: Any, n: Any) -> Any:
        step = lambda c: (c[0] + 1, jnp.sin(c[1]) * a)  # noqa: E731
        return lax.while_loop(lambda c: c[0] < n, step, (0, a))[1]

    def train(a: Any, _: Any) -> Any:
        g = tg.grad(loss)(a, 2000)
        a = a - 0.01 * g
        return tg.pure_callback(watch, tg.ShapeDtypeStruct((), a.dtype), a), g

    before = tape_memory.live_bytes()
    final, gradients = tg.jit(lambda a: lax.scan(train, a, None, length=20))(0.9)
    assert len(seen) == 20 and max(seen) - before <= seen[0] - before
    a, found = 0.9, []
    for _ in range(20):
        g = float(tg.grad(lambda a: lax.fori_loop(0, 2000, lambda i, x: jnp.sin(x) * a, a))(a))
        found.append(g)
        a = a - 0.01 * g
    np.testing.assert_allclose(np.asarray(gradients), found, rtol=1e-9)


class Boom(Exception):
    """What callbacks of these tests raise."""


def test_errors_leave_nothing_behind() -> None:
    def fail(i: Any, x: Any) -> Any:
        if i == 700:
            raise Boom
        return x

    kept = program(lambda i, x: [ops.add(i, np.int32(1)), _called(fail, i, x), x], N, S)
    both = tg.jit(lambda n, x: record(n, kept, x))
    assert len(both(np.int32(10), 0.5)) == 4
    with pytest.raises(Boom):
        both(np.int32(1000), 0.5)


def _called(function: Any, *args: Any) -> Any:
    from tracegrad.ir.calls import CallbackRef, pure_callback_p

    ref = CallbackRef("fail", lambda *xs: [np.asarray(function(*xs))])
    return bind(pure_callback_p, *args, callback=ref, out_types=(S,), ordered=False, kind="pure")[0]


def test_memory_that_there_is_not() -> None:
    """A step that keeps 64 TiB cannot even begin; nothing of the loop before it is lost."""
    small = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), x], N, S)
    large = program(lambda i, x: [ops.add(i, np.int32(1)), x, ops.broadcast_in_dim(x, (1 << 43,), ())], N, S)

    def fun(n: Any, x: Any) -> Any:
        _, y, _, points = record(n, small, x)
        return [points, record(n, large, y)[3]]

    with pytest.raises(MemoryError, match="no memory for the values"):
        tg.jit(fun)(np.int32(3), 0.5)


def test_concurrent_calls_and_recursion_through_callbacks() -> None:
    gradient = tg.jit(tg.grad(newton))
    kept = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), x], N, S)
    points = tg.jit(lambda n, x: record(n, kept, x)[3])
    expected = {a: float(gradient(float(a))) for a in range(1, 9)}
    wrong: list[Any] = []

    def work(a: int) -> None:
        try:
            with config.override("enable_x64", True):
                for k in range(30):
                    tape = points(np.int32(a * k), 0.5)
                    assert float(gradient(float(a))) == expected[a] and int(tape_length(tape)) == a * k
        except Exception as e:
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(a,)) for a in expected]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong

    def again(a: Any) -> Any:
        return np.asarray(deep(float(a) - 1)) if a > 1 else np.float64(0)

    @tg.jit
    def deep(a: Any) -> Any:
        g = tg.grad(newton)(a)
        rest = tg.pure_callback(again, tg.ShapeDtypeStruct((), np.float64), a)
        return g + rest + tg.grad(newton)(a)

    assert float(deep(4.0)) == pytest.approx(2 * sum(expected[a] for a in (1, 2, 3, 4)))


def test_rows_in_parallel_and_functions_that_are_cut() -> None:
    """A scan without a carry, which threads would share, and a body that is cut into functions."""
    a = np.linspace(1.1, 2, 4096)
    rows = tg.jit(lambda a: lax.map(tg.grad(newton), a))(a)
    np.testing.assert_allclose(np.asarray(rows), 0.5 / np.sqrt(a), rtol=1e-6)

    def long(x: Any) -> Any:
        for k in range(25):
            x = jnp.concatenate([jnp.sin(x[1:] * (1 + k / 100)), x[:1] * x[1:2]])
        return x

    def fun(x: Any, n: Any) -> Any:
        return jnp.sum(lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, long(c[1])), (0, x))[1])

    def scanned(x: Any) -> Any:
        return jnp.sum(lax.scan(lambda c, _: (long(c), None), x, None, length=3)[0])

    x = np.linspace(0.1, 0.9, 6)
    np.testing.assert_allclose(np.asarray(tg.jit(tg.grad(fun))(x, 3)), np.asarray(tg.jit(tg.grad(scanned))(x)), rtol=1e-9)


def test_the_disk_cache_keeps_loops_over_tapes(tmp_path: Any) -> None:
    with config.override("cache", True), config.override("cache_dir", str(tmp_path)):
        found = [float(tg.jit(lambda a: tg.grad(newton)(a))(2.0)) for _ in range(2)]  # each lambda is traced anew
        assert len(list(tmp_path.rglob("*.tgo"))) == 1 and found[0] == found[1]


def test_tapes_that_live_until_the_end() -> None:
    """Of the module that is run, in a cycle, and of a thread that is never joined."""
    text = """
import sys, threading, tracegrad as tg
f = lambda a: tg.lax.while_loop(lambda x: x < 100.0, lambda x: x * a, a)
kept = tg.vjp(f, 1.5)
cycle = [tg.vjp(f, 1.6)]
cycle.append(cycle)
threading.Thread(target=lambda: tg.vjp(f, 1.7)).start()
sys.modules["elsewhere"] = kept
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Passes


def test_what_nobody_reads_is_not_kept() -> None:
    step = program(lambda w, i, x: [ops.add(i, np.int32(1)), ops.mul(x, w), ops.cos(x), ops.exp(w)], S, N, S)
    back = program(lambda c, g, h, x, y: [ops.mul(g, x), ops.add(h, y), ops.mul(y, c)], S, S, S, S, S)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, cosines, same = record(n, step, x, consts=[x])
        g, h, more = read(count, back, [y, x], [cosines, same], consts=[x])
        return [y, g]

    traced = program(fun, N, S)
    short = remove_dead_code(traced)
    loop, scan = short.equations
    assert (loop.primitive, scan.primitive) == (record_while_p, tape_scan_p)
    assert len(loop.outputs) == 4 and len(loop.params["body"].outputs) == 3
    assert len(scan.inputs) == 3 and len(scan.outputs) == 1 and scan.params["num_consts"] == 0
    verify(short)
    assert remove_dead_code(short) == short
    only = remove_dead_code(traced, [True, False])
    assert [e.primitive.name for e in only.equations] == ["while"]
    verify(only)
    args = np.int32(4), np.float64(0.9)
    assert evaluate(short, *args) == evaluate(traced, *args)
    agree(fun, *args)


def test_what_does_not_change_moves_out_of_loops_over_tapes() -> None:
    step = program(lambda w, i, x: [ops.add(i, np.int32(1)), ops.mul(x, ops.exp(w)), ops.cos(x)], S, N, S)
    back = program(lambda c, g, h, x: [ops.mul(g, ops.mul(x, ops.log(c))), h], S, S, S, S)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, cosines = record(n, step, x, consts=[x])
        return [y, *read(count, back, [y, x], [cosines], consts=[x])]

    moved = hoist_invariants(program(fun, N, S))
    verify(moved)
    names = [e.primitive.name for e in moved.equations]
    assert names == ["exp", "record_while", "log", "tape_scan"]
    assert moved.equations[-1].params["num_carry"] == 1 and moved.outputs[2] is moved.inputs[1]
    agree(fun, np.int32(5), np.float64(0.9))


def test_what_is_alike_crosses_the_borders_of_loops_once() -> None:
    """Carries that start and proceed alike, constants, what is kept or read twice, numbers."""
    step = program(
        lambda w, u, i, x, y, z: [
            ops.add(i, np.int32(1)),
            ops.mul(x, w),
            ops.mul(y, u),
            z,
            ops.cos(x),
            ops.mul(ops.cos(y), z),
            x,
            y,
        ],
        *[S, S, N, S, S, S],
    )
    back = program(lambda c, d, g, h, x, y: [ops.mul(g, ops.add(x, c)), ops.mul(h, ops.add(y, d)), x, y], *[S] * 6)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, z, w, count, a, b, c, d = record(n, step, x, x, x, consts=[x, x])
        outs = read(count, back, [y, z], [c, d], consts=[x, x])
        return [y, z, w, *outs[:2], *read(count, back, [y, z], [a, outs[3]], consts=[x, 0.5])[:2], tape_length(outs[2])]

    narrowed = narrow_loops(program(fun, N, S))
    verify(narrowed)
    loop, once, _, _ = narrowed.equations
    assert [len(loop.inputs), len(loop.outputs), len(once.inputs), len(once.outputs)] == [4, 6, 4, 2]
    for n in (0, 1, 4):
        agree(fun, np.int32(n), np.float64(0.9))
        assert evaluate(narrowed, np.int32(n), np.float64(0.9)) == evaluate(program(fun, N, S), np.int32(n), np.float64(0.9))


def test_the_last_carry_of_a_step_is_not_kept_beside_the_first_of_the_next() -> None:
    step = program(lambda i, x: (lambda y: [ops.add(i, np.int32(1)), y, x, y])(ops.tanh(ops.mul(x, 1.5))), N, S)
    back = program(lambda g, x, y: [ops.mul(ops.add(g, x), ops.sub(1.0, ops.mul(y, y)))], S, S, S)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, first, last = record(n, step, x)
        return [y, *read(count, back, [x], [first, last], reverse=True)]

    (loop,) = [e for e in optimize(program(fun, N, S)).equations if e.primitive is record_while_p]
    assert len(loop.outputs) == 4
    for n in (0, 1, 2, 9):
        agree(fun, np.int32(n), np.float64(0.9))


def test_pieces_of_windows_are_summed_after_loops_over_tapes() -> None:
    step = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), x], N, S)
    whole = ArrayType((50,), F64)

    def put(total: Any, x: Any) -> list[Any]:
        piece = ops.broadcast_in_dim(x, (2,), ())
        return [ops.add(total, ops.pad(piece, 0.0, [(3, 45, 0)]))]

    def fun(n: Any, x: Any) -> list[Any]:
        _, _, count, points = record(n, step, x)
        return read(count, program(put, whole, S), [ops.broadcast_in_dim(x, (50,), ())], [points], reverse=True)

    (loop,) = [e for e in prepare(optimize(program(fun, N, S))).equations if e.primitive is tape_scan_p]
    assert loop.outputs[0].type.size <= 2
    for n in (0, 1, 9):
        agree(fun, np.int32(n), np.float64(0.9))


def test_cheap_residuals_are_computed_where_they_are_read() -> None:
    """What is kept for the backward loop is a scalar, and not the arrays that are broadcast from it."""
    m = ArrayType((30,), F64)
    step = program(lambda i, x: [ops.add(i, np.int32(1)), *_widened(x)], N, S)
    back = program(lambda g, x, y: [ops.add(ops.mul(g, x), y)], m, m, m)

    def fun(n: Any, x: Any) -> list[Any]:
        _, y, count, wide, shifted = record(n, step, x)
        return [y, *read(count, back, [ops.broadcast_in_dim(x, (30,), ())], [wide, shifted], reverse=True)]

    prepared = prepare(optimize(program(fun, N, S)))
    (loop,) = [e for e in prepared.equations if e.primitive is record_while_p]
    assert [t.shape for t in loop.params["body"].out_types] == [(), (), ()]
    agree(fun, np.int32(5), np.float64(0.9))


def _widened(x: Any) -> list[Any]:
    y = ops.sin(x)
    wide = ops.broadcast_in_dim(y, (30,), ())
    return [ops.mul(y, 0.9), wide, ops.mul(wide, -2.0)]


def test_blocks_are_used_again_and_growth_crosses_all_sizes() -> None:
    """From within the node through the C library's sizes to blocks that are kept; other records live meanwhile."""
    kept = program(lambda i, x: [ops.add(i, np.int32(1)), ops.add(x, 1.0), x], N, S)
    total = program(lambda s, x: [ops.add(s, x)], S, S)
    points = tg.jit(lambda n, x: record(n, kept, x)[2:])
    sums = tg.jit(lambda n, t: read(n, total, [np.float64(0)], [t])[0])
    tape_memory.clear()
    assert tape_memory.kept_bytes() == 0
    tapes_made = []
    for n in (96, 97, 128, 129, 8191, 16384, 16385, 700_000):
        tapes_made.append(points(np.int32(n), 1.0))
    for count, tape in tapes_made:
        assert float(sums(count, tape)) == int(count) * (int(count) + 1) / 2
    del tapes_made, count, tape
    gc.collect()
    kept_now = tape_memory.kept_bytes()
    assert kept_now >= 700_000 * 8
    count, tape = points(np.int32(20_000), 1.0)
    assert tape_memory.kept_bytes() < kept_now
    assert float(sums(count, tape)) == 20_000 * 20_001 / 2
    del tape
    assert tape_memory.kept_bytes() == kept_now
    tape_memory.clear()
    assert tape_memory.kept_bytes() == 0


def test_a_tape_passed_on_does_not_keep_others_alive() -> None:
    kept = program(lambda i, x: [ops.add(i, np.int32(1)), ops.sin(x), x], N, S)
    double = program(lambda x: [ops.mul(x, 2.0)], S)
    points = tg.jit(lambda n, x: record(n, kept, x)[3])
    again = tg.jit(lambda n, t: read(n, double, [], [t])[0])
    n = np.int32(50)
    tape = points(n, 0.5)
    one = live()
    for _ in range(20):
        tape = again(n, tape)
    assert live() <= one
