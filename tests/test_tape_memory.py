"""The memory of tapes: how long they live, that they are given back whatever happens, and what else holds them."""

from __future__ import annotations

import gc
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from process_harness import python
from tape_harness import N, S, program, read, record

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.ir import ops
from tracegrad.ir.bind import bind
from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.tapes import empty_tape, tape_length
from tracegrad.runtime import tape_memory, tapes

pytestmark = pytest.mark.usefixtures("no_tape_is_left")


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
    assert python(text) == ""


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
