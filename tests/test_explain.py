"""`explain`: what the table says of a function must be what was built."""

from __future__ import annotations

import subprocess
import sys

import numpy
import pytest

import tracegrad as tg
import tracegrad.numpy as np
from tracegrad import lax
from tracegrad.codegen.annotated import annotate
from tracegrad.runtime.executable import settle


def explained(f, *args, **options):
    return tg.jit(f).lower(*args).explain(**options)


def names(kernel):
    return {o.name for o in kernel.operations}


def softmax(x, w):
    h = np.tanh(x @ w)
    y = np.exp(h - np.max(h, 1, keepdims=True))
    return y / np.sum(y, 1, keepdims=True)


def test_fused_operations_come_with_the_lines_of_the_user():
    table = explained(softmax, np.ones((32, 40)), np.ones((40, 50)))
    first = softmax.__code__.co_firstlineno
    (kernel,) = [k for k in table if "exp" in names(k)]
    assert {"exp", "sub", "reduce_sum"} <= names(kernel)
    lines = {o.name: o.line for o in kernel.operations}
    assert lines["exp"] == first + 2 and lines["reduce_sum"] == first + 3
    assert all(o.file == __file__ and o.function == "softmax" for o in kernel.operations)
    assert kernel.kind == "loop nest" and kernel.loops == "i 32 x r 50"
    assert kernel.elementary == {"exp": 32 * 50}


def test_a_memory_bound_kernel_is_counted_exactly():
    (kernel,) = explained(lambda x, y: x * y + 1.0, np.ones(1000), np.ones(1000))
    assert kernel.flops == 2000
    assert (kernel.loads, kernel.stores) == (8000, 4000)
    assert kernel.bytes == 12000 and kernel.intensity == 2000 / 12000
    assert kernel.reads == ["in0", "in1"] and kernel.writes == ["out0"]
    assert kernel.runs == 1 and kernel.tasks == 1 and not kernel.per_turn


def test_overlapping_reads_are_counted_once():
    (kernel,) = explained(lambda x: x[:-2] + x[1:-1] + x[2:], np.ones(1002))
    assert kernel.loads == 4008 and kernel.stores == 4000 and kernel.flops == 2000


def test_products_count_twice_their_multiplications():
    x = np.ones((128, 64))
    table = explained(lambda x, y: x @ y, x, np.ones((64, 96)))
    assert sum(k.flops for k in table) == 2 * 128 * 64 * 96
    assert table[0].calls and table[0].vectors not in ("no", "memory", "unknown")
    assert table[-1].writes == ["out0"]


def test_calls_of_blas_say_their_operations():
    x = np.ones((4, 50, 50))
    table = explained(np.linalg.qr, x)
    assert all(k.vectors != "memory" for k in table if k.kind == "routine")
    (kernel,) = explained(lambda x, y: x @ y, np.ones((700, 30), np.complex64), np.ones((30, 20), np.complex64))[0:1]
    assert any("cgemm" in c for c in kernel.calls) and kernel.flops == 8 * 700 * 30 * 20
    assert kernel.vectors == "library" and "tg.blas.cgemm" in kernel.vectors_why


def test_vectors_are_those_of_the_machine_code():
    (kernel,) = explained(lambda x: x * x, np.ones(4096))
    count, type = kernel.vectors.split(" x ")
    assert int(count) >= 4 and type == "f32"
    assert "vectorization width" in kernel.vectors_why


def test_what_is_not_vectorized_says_why():
    def running(x):
        return lax.fori_loop(0, 1000, lambda i, s: 0.5 * s + 1.0, x)

    kernel = max(explained(running, 1.0), key=lambda k: k.flops)
    assert kernel.vectors == "no" and "reorder floating-point" in kernel.vectors_why or "reduction" in kernel.vectors_why
    assert kernel.flops == 2000


def test_kernels_of_a_loop_are_inside_of_its_row():
    def f(w, xs):
        return lax.scan(lambda h, x: (np.tanh(w @ h + x),) * 2, np.zeros(32), xs)[1]

    table = explained(f, np.ones((32, 32)), np.ones((50, 32)))
    (loop,) = [k for k in table if k.kind == "loop"]
    inside = [k for k in table if k.number.startswith(loop.number + ".")]
    assert loop.loops == "t 50" and {o.name for o in loop.operations} == {"scan"}
    assert all(k.runs == 50 for k in inside)
    assert loop.flops == sum(k.flops for k in inside) == 50 * (2 * 32 * 32 + 2 * 32)
    assert sum(k.elementary.get("tanh", 0) for k in inside) == 50 * 32


def test_loops_of_unknown_length_count_a_turn():
    table = explained(lambda x: lax.while_loop(lambda s: s < 100.0, lambda s: s * 1.5 + 1.0, x), 1.0)
    (kernel,) = [k for k in table if "mul" in names(k)]
    assert kernel.per_turn and kernel.flops == 2
    assert "/t" in str(table)


def test_updates_say_whether_they_are_in_place_and_why():
    table = explained(lambda x: x.at[3].set(2.0), np.ones(100))
    (copy,) = [k for k in table if k.kind == "copy"]
    assert any("argument" in m for m in copy.memory)
    assert copy.bytes == 800
    table = explained(lambda x: (x * 2.0).at[np.array([3, 5])].add(2.0), np.ones(100))
    assert not [k for k in table if k.kind == "copy"]
    assert any("scatter in place: the old value is not read any more" in m for k in table for m in k.memory)


def test_what_is_written_over_says_so():
    table = explained(lambda x: np.cumsum(np.cumsum(x) * 0.5), np.ones(500))
    assert table.arena == 0
    assert "writes out0 over t1, which is not read any more" in table[-1].memory


def test_loops_say_what_changes_places():
    def heat(x):
        return lax.fori_loop(0, 10, lambda i, u: np.pad(0.5 * u[1:-1] + 0.25 * (u[:-2] + u[2:]), 1), x)

    table = explained(heat, np.ones(5000))
    assert not any(k.kind == "copy" for k in table)
    notes = "; ".join(next(k for k in table if k.kind == "loop").memory)
    assert "out0 and t1 change places after every turn" in notes and "the first turn reads in0 where it lies" in notes
    assert "on a copy" not in notes


def test_what_brings_a_carry_home_is_not_said_to_be_the_loop():
    def halved(x):
        return lax.while_loop(lambda s: s[1] < 3, lambda s: (0.5 * s[0][::-1], s[1] + 1), (x, 0))[0]

    table = explained(halved, np.ones(5000))
    (home,) = [k for k in table if k.kind == "branches"]
    assert home.memory == [] and table[-1].kind == "copy" and table[-1].number == f"{home.number}.1"


def test_large_loops_say_their_tasks():
    (kernel,) = explained(lambda x: np.sin(x) * 2.0, np.ones(4_000_000))
    assert kernel.tasks > 1 and kernel.flops == 8_000_000 and kernel.stores == 16_000_000
    assert kernel.loops.startswith(f"{kernel.tasks} tasks")


def test_routines_do_not_guess_their_operations():
    table = explained(np.sort, np.ones(1000))
    (kernel,) = [k for k in table if k.kind == "routine"]
    assert kernel.flops is None and "unknown" in str(table)


def test_the_code_explained_is_the_code_that_runs():
    def f(w, xs):
        return np.sum(lax.scan(lambda h, x: (np.tanh(w @ h + x),) * 2, np.zeros(32), xs)[1] ** 2)

    lowered = tg.jit(tg.grad(f)).lower(np.ones((32, 32)), np.ones((50, 32)))
    made = annotate(settle(lowered.optimized)[0], lowered.fun_name)
    assert str(made.function) == lowered.loops


def test_shares_of_the_time():
    x, w = numpy.ones((64, 128), numpy.float32), numpy.ones((128, 200), numpy.float32)
    compiled = tg.jit(softmax).lower(x, w).compile()
    table = compiled.explain(x, w, profile=True)
    assert table.time > 0
    assert all(0 <= k.share <= 1 for k in table)
    assert 0 < sum(k.share for k in table if "." not in k.number) < 1.05
    assert "share" in str(table) and "share" not in str(compiled.explain())


def test_shares_within_a_loop_add_up_to_its_share():
    def f(w, xs):
        return lax.scan(lambda h, x: (np.tanh(w @ h + x),) * 2, np.zeros(32), xs)[1]

    args = np.ones((32, 32)), np.ones((200, 32))
    table = tg.jit(f).lower(*args).explain(*args, profile=True)
    (loop,) = [k for k in table if k.kind == "loop"]
    inside = [k for k in table if k.number.startswith(loop.number + ".")]
    assert abs(sum(k.share for k in inside) - loop.share) < 1e-6 and loop.share > 0


def test_profiles_count_the_turns_of_while():
    def f(x):
        return lax.while_loop(lambda s: s[0][0] < 10.0, lambda s: (s[0] + s[1], np.sin(s[1])), (x, x))

    x = np.ones(200)
    table = tg.jit(f).lower(x).explain(x, profile=True)
    turns = 0
    a, b = 1.0, 1.0
    while a < 10.0:
        a, b, turns = a + b, numpy.sin(b), turns + 1
    (kernel,) = [k for k in table if "sin" in names(k)]
    assert kernel.runs == turns


def test_results_that_need_no_code():
    table = explained(lambda x: x, np.ones(3))
    assert len(table) == 0 and "0 kernels" in str(table)


def test_arguments_are_checked():
    lowered = tg.jit(softmax).lower(np.ones((4, 5)), np.ones((5, 6)))
    with pytest.raises(ValueError, match="profile=True"):
        lowered.explain(np.ones((4, 5)))
    with pytest.raises(TypeError, match="structure"):
        lowered.explain(profile=True)


def test_the_text_fits_into_120_columns():
    def f(x):
        for k in range(60):
            x = np.sin(x + k) * np.cos(x)
        return np.sort(x)

    assert max(map(len, str(explained(f, np.ones(1000))).split("\n"))) <= 120


def test_command_line(tmp_path):
    (tmp_path / "model.py").write_text("import tracegrad.numpy as np\n\ndef f(x):\n    return np.sum(np.exp(x))\n")
    done = subprocess.run(
        [sys.executable, "-m", "tracegrad", "explain", f"{tmp_path}/model.py:f", "--args", "f32[1000]"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "model.py:4 " in done.stdout and "reduce_sum" in done.stdout and "loop nest" in done.stdout
