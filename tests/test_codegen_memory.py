"""Memory at the loop level: what is written over what, what is copied, and how much room temporaries take."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import check, loops
from tracegrad.codegen import nests
from tracegrad.ir import ops
from tracegrad.tracer.control_flow import cond, scan, while_loop

pytestmark = pytest.mark.usefixtures("double_precision")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def running(x: Any) -> Any:
    """A value that is computed by loops of its own: it does not fuse with what reads it."""
    return ops.cumsum(x, 0, False)


def homes(text: str) -> dict[str, str]:
    """Where every temporary lies: an offset in the arena, or an output."""
    return dict(re.findall(r"alloc (\w+): .* (?:at|in) (\w+)$", text, re.M))


def arena(text: str) -> int:
    found = re.search(r"arena (\d+)", text)
    assert found is not None
    return int(found[1])


# ------------------------------------------------------------------------------------------------------- written over what dies


def test_a_chain_of_loops_needs_the_memory_of_its_result_only() -> None:
    def f(x: Any) -> Any:
        a = running(ops.sin(x))
        b = running(ops.add(ops.mul(a, 2.0), 1.0))
        return [ops.sqrt(ops.add(ops.square(running(b)), 1.0))]

    check(f, draw(300))
    text = loops(f, draw(300))
    assert arena(text) == 0 and set(homes(text).values()) == {"out0"}


def test_what_is_read_again_later_is_not_overwritten() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        b = running(ops.mul(a, 2.0))
        return [ops.sub(ops.reduce_sum(ops.mul(b, x), (0,)), ops.reduce_sum(ops.square(running(ops.add(b, a))), (0,)))]

    check(f, draw(300))
    places = homes(loops(f, draw(300)))
    assert places["t1"] != places["t2"]


def test_what_is_read_at_other_places_is_not_overwritten() -> None:
    def reversed_(x: Any) -> Any:
        return [ops.reduce_sum(ops.square(running(ops.rev(running(x), (0,)))), (0,))]

    def transposed(x: Any) -> Any:
        return [running(ops.transpose(running(x), (1, 0)))]

    def both(x: Any) -> Any:
        a = running(x)
        return [running(ops.sub(a, ops.rev(a, (0,))))]

    for f, x in ((reversed_, draw(300)), (transposed, draw(20, 20)), (both, draw(300))):
        check(f, x)
    places = homes(loops(reversed_, draw(300)))
    assert places["t1"] != places["t2"]
    for f, x in ((transposed, draw(20, 20)), (both, draw(300))):
        assert homes(loops(f, x)) == {"t1": "0"}  # not in the output


def test_only_one_value_is_written_over_another() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        return [running(ops.sin(a)), running(ops.cos(a))]

    check(f, draw(300))


def test_elements_of_another_size_are_not_written_over() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        return [running(ops.convert_element_type(a, np.dtype(np.float32), False))]

    check(f, draw(300))
    assert homes(loops(f, draw(300))) == {"t1": "0"}


def test_numbers_of_another_kind_and_the_same_size_are() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        return [running(ops.convert_element_type(ops.mul(a, 100.0), np.dtype(np.int64), False))]

    check(f, draw(300))
    assert homes(loops(f, draw(300))) == {"t1": "out0"}


def test_sorted_values_are_written_over_by_what_follows() -> None:
    def f(x: Any) -> Any:
        a = ops.sort(x)[0]
        b = ops.sort(ops.sub(ops.exp(a), x))[0]
        return [ops.reduce_sum(ops.mul(b, x), (0,))]

    check(f, draw(3000))
    text = loops(f, draw(3000))
    places = homes(text)
    assert places["t1"] == places["t3"]  # t2 is what sorting needs


def test_inside_of_a_loop_what_the_next_turn_reads_stays() -> None:
    def f(x: Any, xs: Any) -> Any:
        table = running(x)  # read in every turn

        def step(carry: Any, s: Any) -> Any:
            a = running(ops.add(ops.mul(table, s), carry))
            return running(ops.mul(a, 0.5)), ops.reduce_sum(a, (0,))

        final, sums = scan(step, x, xs)
        return [final, sums]

    check(f, draw(80), draw(7))


def test_in_branches() -> None:
    def f(x: Any) -> Any:
        a = running(x)
        total = ops.reduce_sum(a, (0,))
        return [
            cond(
                ops.gt(total, 0.0),
                lambda a: running(ops.mul(a, 2.0)),
                lambda a: running(ops.add(ops.rev(a, (0,)), a)),
                a,
            )
        ]

    check(f, draw(80))
    check(f, -draw(80))


def test_in_tasks_that_run_at_once() -> None:
    def f(xs: Any) -> Any:
        def step(_: Any, x: Any) -> Any:
            a = running(ops.square(x))
            return (), running(ops.mul(running(ops.add(a, 1.0)), 0.5))

        return [scan(step, (), xs)[1]]

    xs = draw(400, 2000)
    check(f, xs)
    text = loops(f, xs)
    assert "parallel" in text and "out0" not in homes(text).values()


# ------------------------------------------------------------------------------------------------------- carries that change places

N = 600  # several KiB: less is copied


def diffused(u: Any) -> Any:
    """A step that reads neighbours; the ends are zero."""
    inner = ops.add(ops.mul(middle(u), 0.5), ops.mul(ops.add(shifted(u, 0), shifted(u, 2)), 0.25))
    return ops.pad(inner, 0.0, ((1, 1, 0),))


def shifted(u: Any, k: int) -> Any:
    return ops.slice(u, (k,), (u.shape[0] - 2 + k,), (1,))


def middle(u: Any) -> Any:
    return shifted(u, 1)


def copies(text: str) -> list[tuple[str, str]]:
    return re.findall(r"copy (\S+)\[.*\] to (\S+)\[", text)


def inside(text: str) -> str:
    """The outermost loop of the user's program."""
    lines = text.split("\n")
    first = next(k for k, line in enumerate(lines) if re.match(r"  (.* = )?(for %t|while)", line))
    last = next(k for k in range(first + 1, len(lines)) if lines[k] == "  }")
    return "\n".join(lines[first : last + 1])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7])
def test_a_stencil_in_a_loop_copies_nothing(length: int) -> None:
    def f(x: Any) -> Any:
        return [scan(lambda u, _: (diffused(u), None), x, None, length)[0]]

    x = draw(N)
    kept = x.copy()
    check(f, x)
    np.testing.assert_array_equal(x, kept)
    assert copies(loops(f, x)) == []


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 6])
def test_a_stencil_in_a_loop_of_unknown_length(turns: int) -> None:
    def f(x: Any, n: Any) -> Any:
        def body(s: Any) -> Any:
            return diffused(s[0]), ops.add(s[1], 1)

        return list(while_loop(lambda s: ops.lt(s[1], n), body, (x, np.int32(0))))

    x, n = draw(N), np.array(turns, np.int32)
    check(f, x, n)
    text = loops(f, x, n)
    assert copies(inside(text)) == [] and len(copies(text)) == 1  # after the loop, if need be


@pytest.mark.parametrize("length", [2, 3, 4])
def test_the_last_two_states_of_a_wave_change_places(length: int) -> None:
    def f(a: Any, b: Any) -> Any:
        def step(s: Any, _: Any) -> Any:
            before, now = s
            return (now, ops.sub(ops.mul(diffused(now), 2.0), before)), None

        return list(scan(step, (a, b), None, length)[0])

    args = draw(N), draw(N, 1)[:, 0]
    check(f, *args)
    text = loops(f, *args)
    assert copies(inside(text)) == [] and len(copies(text)) == 2 and arena(text) == 0


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_a_wave_of_unknown_length(turns: int) -> None:
    def f(a: Any, b: Any, n: Any) -> Any:
        def body(s: Any) -> Any:
            before, now, k = s
            return now, ops.sub(ops.mul(diffused(now), 2.0), before), ops.add(k, 1)

        return list(while_loop(lambda s: ops.lt(s[2], n), body, (a, b, np.int32(0))))

    args = draw(N), draw(N, 1)[:, 0], np.array(turns, np.int32)
    check(f, *args)
    assert copies(inside(loops(f, *args))) == []


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
def test_carries_that_are_passed_on_around_a_ring(length: int) -> None:
    def f(a: Any, b: Any, c: Any) -> Any:
        def step(s: Any, _: Any) -> Any:
            return (s[1], s[2], s[0]), ops.reduce_sum(ops.mul(s[0], 2.0), (0,))

        final, sums = scan(step, (a, b, c), None, length)
        return [*final, sums]

    args = draw(N), draw(N, 1)[:, 0], draw(1, N)[0]
    check(f, *args)
    assert copies(inside(loops(f, *args))) == []


def test_what_is_passed_on_while_its_own_next_value_needs_other_memory() -> None:
    def f(a: Any, b: Any, m: Any) -> Any:
        def step(s: Any, _: Any) -> Any:
            a, b = s
            return (b, ops.add(diffused(b), diffused(a))), None

        def summed(s: Any, _: Any) -> Any:
            a, b = s
            return (b, ops.reduce_sum(ops.mul(m, ops.broadcast_in_dim(ops.add(b, a), m.shape, (1,))), (0,))), None

        def last(s: Any, _: Any) -> Any:
            a, b = s
            return (b, ops.reduce_sum(ops.mul(m, ops.broadcast_in_dim(ops.reduce_sum(b, (0,)), m.shape, ())), (0,))), None

        return [x for g in (step, summed, last) for x in scan(g, (a, b), None, 3)[0]]

    check(f, draw(N), draw(1, N)[0], draw(4, N) / 10)


def test_what_was_passed_on_is_cut_into_several_nests(monkeypatch: pytest.MonkeyPatch) -> None:
    def f(a: Any, b: Any, c: Any) -> Any:
        def step(s: Any, _: Any) -> Any:
            a, b, c = s
            return (b, ops.add(diffused(b), ops.exp(ops.neg(ops.square(a)))), ops.sin(ops.add(a, ops.add(b, c)))), None

        return list(scan(step, (a, b, c), None, 3)[0])

    for most in (0, 10, 20, 40):
        monkeypatch.setattr(nests, "MOST_COST", most)
        check(f, draw(N), draw(1, N)[0], draw(N, 1)[:, 0])


def test_carries_of_all_kinds_at_once() -> None:
    def f(a: Any, b: Any, k: Any) -> Any:
        def step(s: Any, x: Any) -> Any:
            a, b, c, d, e, k = s
            new = diffused(a)
            # one is passed on twice, one stays, one is written in place, one is new memory of a loop of its own
            return (new, a, a, running(ops.mul(c, 0.01)), ops.add(e, ops.mul(b, x)), ops.add(k, 1)), ops.add(new, d)

        final, ys = scan(step, (a, b, a, b, ops.sin(b), k), np.arange(5.0))
        return [*final, ys]

    check(f, draw(N), draw(1, N)[0], np.array(3))


def test_a_carry_that_stays_is_copied_where_it_is_passed_on() -> None:
    def f(a: Any, b: Any) -> Any:
        def step(s: Any, _: Any) -> Any:
            a, b = s
            return (a, ops.add(diffused(b), a)), None

        def other(s: Any, _: Any) -> Any:
            a, b, c = s
            return (a, a, ops.add(diffused(c), b)), None

        return [*scan(step, (a, b), None, 3)[0], *scan(other, (a, b, b), None, 3)[0]]

    check(f, draw(N), draw(1, N)[0])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_loops_that_change_places_within_loops_that_do(length: int) -> None:
    def f(x: Any, n: Any) -> Any:
        def step(s: Any, _: Any) -> Any:
            u, k = s
            u = scan(lambda u, _: (diffused(u), None), u, None, length)[0]
            u, _ = while_loop(lambda s: ops.lt(s[1], k), lambda s: (diffused(s[0]), ops.add(s[1], 1)), (u, np.int32(0)))
            return (ops.add(diffused(u), 0.25), ops.add(k, 1)), ops.reduce_sum(u, (0,))

        (u, _), sums = scan(step, (x, n), None, 4)
        return [u, sums]

    check(f, draw(N), np.array(0, np.int32))


def test_first_values_that_are_computed_or_read_later() -> None:
    def f(x: Any) -> Any:
        start = running(x)
        u = scan(lambda u, _: (diffused(u), None), start, None, 3)[0]
        v = scan(lambda u, _: (diffused(u), None), ops.sin(x), None, 3)[0]
        w = scan(lambda u, _: (diffused(u), None), running(v), None, 3)[0]
        return [u, ops.sub(v, start), w]

    check(f, draw(N))


def test_two_carries_that_start_as_one_array() -> None:
    def f(x: Any) -> Any:
        def step(s: Any, _: Any) -> Any:
            return (diffused(s[0]), ops.add(diffused(s[1]), s[0])), None

        return list(scan(step, (x, x), None, 3)[0])

    check(f, draw(N))


def test_in_each_task_buffers_change_places_by_themselves() -> None:
    def f(xs: Any) -> Any:
        def step(_: Any, x: Any) -> Any:
            return (), scan(lambda u, _: (diffused(u), None), ops.sin(x), None, 5)[0]

        return [scan(step, (), xs)[1]]

    check(f, draw(300, N))
    assert "parallel" in loops(f, draw(300, N))


def test_a_body_that_writes_into_the_old_carry_first() -> None:
    def f(x: Any, ks: Any) -> Any:
        def step(u: Any, k: Any) -> Any:
            u = ops.dynamic_update_slice(u, ops.broadcast_in_dim(ops.convert_element_type(k, u.dtype), (3,), ()), (k,))
            return diffused(u), None

        return [scan(step, x, ks)[0]]

    check(f, draw(N), np.arange(5, dtype=np.int32) * 7)


def test_a_new_carry_that_a_routine_makes_stays_where_it_is() -> None:
    def f(x: Any) -> Any:
        return [scan(lambda u, _: (ops.sort(ops.sin(ops.mul(u, 9.0)))[0], None), x, None, 4)[0]]

    check(f, draw(N))
    assert copies(inside(loops(f, draw(N)))) == []


def test_small_carries_are_copied() -> None:
    def f(x: Any) -> Any:
        return [scan(lambda u, _: (diffused(u), None), x, None, 4)[0]]

    check(f, draw(100))
    assert "ptr" not in loops(f, draw(100))


# ------------------------------------------------------------------------------------------------------- windows that are most of a whole


def put(x: Any, window: Any, *starts: int) -> Any:
    return ops.dynamic_update_slice(x, window, tuple(np.int32(s) for s in starts))


def test_a_window_that_reads_around_itself_is_computed_with_what_is_around_it() -> None:
    def line(x: Any) -> Any:
        return [scan(lambda u, _: (put(u, ops.mul(ops.add(shifted(u, 0), shifted(u, 2)), 0.5), 1), None), x, None, 5)[0]]

    def plane(x: Any) -> Any:
        def step(u: Any, _: Any) -> Any:
            def part(i: int, j: int) -> Any:
                return ops.slice(u, (i, j), (u.shape[0] - 2 + i, u.shape[1] - 2 + j), (1, 1))

            mean = ops.mul(ops.add(ops.add(part(0, 1), part(2, 1)), ops.add(part(1, 0), part(1, 2))), 0.25)
            new = put(u, mean, 1, 1)
            return new, ops.reduce_max(ops.abs(ops.sub(new, u)), (0, 1))

        u, changes = scan(step, x, None, 4)
        return [u, changes]

    for f, x in ((line, draw(N)), (plane, draw(40, 50))):
        check(f, x)
        text = loops(f, x)
        assert copies(text) == [] and arena(text) == -(-x.nbytes // 64) * 64


def test_a_window_of_an_argument_is_computed_with_what_is_around_it() -> None:
    def f(x: Any) -> Any:
        return [put(x, ops.sin(middle(x)), 1)]

    check(f, draw(N))
    text = loops(f, draw(N))
    assert copies(text) == [] and arena(text) == 0


def test_windows_that_are_small_or_move_are_written_in_place() -> None:
    def f(x: Any, k: Any) -> Any:
        def small(u: Any, _: Any) -> Any:
            return put(u, ops.mul(ops.slice(u, (5,), (9,), (1,)), 2.0), 3), None

        def moving(u: Any, k: Any) -> Any:
            return ops.dynamic_update_slice(u, ops.mul(middle(u), 0.5), (k,)), None

        return [scan(small, x, None, 3)[0], scan(moving, x, k)[0]]

    args = draw(N), np.arange(4, dtype=np.int32)
    check(f, *args)
    assert "'" not in loops(f, *args)  # no addresses


def test_windows_on_windows() -> None:
    def f(x: Any, y: Any) -> Any:
        a = running(x)
        b = put(a, ops.add(middle(a), 1.0), 1)
        c = put(b, ops.mul(shifted(b, 2), 2.0), 2)
        d = put(c, ops.slice(y, (0,), (500,), (1,)), 7)
        return [c, put(d, ops.exp(ops.slice(d, (100,), (500,), (1,))), 200), ops.reduce_sum(b, (0,))]

    check(f, draw(N) * 0.01, draw(N, 1)[:, 0])


@pytest.mark.parametrize("n", [100_000, 99_937, 262_144])
def test_large_loops_are_free_of_questions_where_an_index_is(n: int) -> None:
    def f(x: Any) -> Any:
        lo, hi = n // 2 + 3, n - 5
        a = put(x, ops.exp(ops.sin(ops.slice(x, (lo - 2,), (hi - 2,), (1,)))), lo)
        return [ops.sin(ops.tanh(ops.pad(ops.cos(shifted(x, 2)), 0.0, ((1, 1, 0),)))), ops.tanh(a)]

    check(f, draw(n))
    text = loops(f, draw(n))
    assert "parallel" in text and "if" not in text
