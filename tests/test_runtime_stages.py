"""Stages, dumps and callbacks of compiled programs."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad.callbacks import io_callback, pure_callback
from tracegrad.ir.config import config
from tracegrad.ir.parser import parse
from tracegrad.lax import cond, fori_loop, scan
from tracegrad.runtime.array import from_numpy
from tracegrad.runtime.jit import jit
from tracegrad.runtime.stages import STAGES
from tracegrad.tracer.abstract import ShapeDtypeStruct

X = from_numpy(np.arange(1000.0))


@jit
def f(x, scale=2.0):
    return {"y": jnp.exp(-x) * scale, "x": x}


def test_every_stage_has_a_text() -> None:
    lowered = f.lower(X)
    marks = {
        "program": "program @f",
        "optimized": "exp",
        "loops": "exp",
        "llvm": "define i32",
        "llvm-optimized": "define",
        "asm": "ret",
    }
    assert tuple(marks) == STAGES
    for stage, mark in marks.items():
        assert mark in lowered.as_text(stage), stage
    assert parse(lowered.as_text("program")) == lowered.program and parse(str(lowered.optimized)) == lowered.optimized
    assert lowered.loops == lowered.as_text("loops") and lowered.asm == lowered.as_text("asm")
    assert lowered.llvm != lowered.llvm_optimized
    with pytest.raises(ValueError, match="there are program, optimized"):
        lowered.as_text("hlo")


def test_shapes_alone_are_enough() -> None:
    compiled = f.lower(ShapeDtypeStruct((1000,), np.float32), scale=3.0).compile()
    np.testing.assert_allclose(np.asarray(compiled(X, scale=1.0)["y"]), np.exp(-np.asarray(X)), rtol=2e-6)


def test_compiled_has_fixed_types() -> None:
    compiled = f.lower(X).compile()
    assert np.shares_memory(compiled(X)["x"], X)
    with pytest.raises(TypeError, match=r"compiled for f32\[1000\] as leaf 0"):
        compiled(X[:3])
    with pytest.raises(TypeError, match="structure"):
        compiled(X, 2.0)
    compiled(np.arange(1000, dtype=np.float32))
    assert "ret" in compiled.as_text()


def test_static_arguments_are_left_out_of_compiled_calls() -> None:
    g = jit(lambda x, n: x * n, static_argnums=1)
    assert g.lower(X, 3).compile()(X)[1] == 3


def test_descriptions() -> None:
    lowered = f.lower(X)
    assert lowered.out_info["y"].shape == (1000,) and lowered.in_avals[0][0].str_short() == "f32[1000]"
    assert f.trace(X).program == lowered.program and f.trace(X).lower().fun_name == "f"
    compiled = lowered.compile()
    assert compiled.memory_analysis().argument_size_in_bytes == 4000
    assert compiled.memory_analysis().generated_code_size_in_bytes > 100
    cost = jit(lambda a, b: a @ b).lower(jnp.ones((8, 4)), jnp.ones((4, 3))).cost_analysis()
    assert cost["flops"] == 2 * 8 * 4 * 3
    loop = jit(lambda x: scan(lambda c, _: (jnp.sin(c), None), x, None, length=7)[0]).lower(X).compile().cost_analysis()
    assert loop["transcendentals"] == 7000 and loop["bytes accessed"] > 0


def test_dump(tmp_path: Path) -> None:
    with config.override("dump", "all"), config.override("dump_dir", str(tmp_path / "d")):
        jit(lambda x: jnp.sin(x) * 7)(X)
    names = sorted(p.name.split(".", 1)[1] for p in (tmp_path / "d").iterdir())
    assert names == sorted(["program.ir", "optimized.ir", "loops.ir", "llvm.ll", "llvm-optimized.ll", "asm.s"])
    with config.override("dump", "loops,asm"), config.override("dump_dir", str(tmp_path / "e")):
        jit(lambda x: jnp.sin(x) * 8)(X)
    assert len(list((tmp_path / "e").iterdir())) == 2
    with config.override("dump", "hlo"), pytest.raises(ValueError, match="'hlo' is not a stage"):
        jit(lambda x: jnp.sin(x) * 9)(X)


def test_log_compiles(capsys: pytest.CaptureFixture[str]) -> None:
    with config.override("log_compiles", True):
        jit(lambda x: x * 11)(X)
    assert "compiled <lambda> in" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- callbacks

S = ShapeDtypeStruct((3,), np.float32)
V = from_numpy(np.array([1.0, 2, 3]))


def test_values_go_there_and_back() -> None:
    def host(a, b):
        assert type(a) is np.ndarray or hasattr(a, "aval")
        return np.asarray(a) * np.asarray(b), np.int32(7)

    g = jit(lambda x: pure_callback(host, (S, ShapeDtypeStruct((), np.int32)), x + 1, 2.0))
    y, n = g(V)
    assert y.tolist() == [4, 6, 8] and int(n) == 7 and n.dtype == np.int32


def test_callbacks_keep_what_they_are_given() -> None:
    kept = []
    g = jit(lambda x: io_callback(lambda a: kept.append(a), None, x * 2))
    for k in range(3):
        g(V + k)
    assert [np.asarray(a).tolist() for a in kept] == [[2, 4, 6], [4, 6, 8], [6, 8, 10]]


def test_callbacks_in_loops_and_branches_run_in_order() -> None:
    seen = []

    @jit
    def g(x):
        def body(i, c):
            io_callback(lambda i: seen.append(int(i)), None, i, ordered=True)
            return cond(c > 2, lambda c: (io_callback(lambda: seen.append("big"), None), c + 1)[1], lambda c: c + 2, c)

        return fori_loop(0, 3, body, x)

    assert float(g(1.0)) == 5
    assert seen == [0, 1, "big", 2, "big"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_exceptions_stop_the_program_and_reach_the_caller(error: BaseException) -> None:
    seen = []

    def host(i):
        seen.append(int(i))
        if i == 2:
            raise error

    g = jit(lambda n: fori_loop(0, n, lambda i, c: (io_callback(host, None, i), c + 1)[1], 0))
    with pytest.raises(type(error)) as caught:
        g(5)
    assert caught.value is error and seen == [0, 1, 2]
    assert int(g(2)) == 2  # and nothing is left of it


def test_wrong_results_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        jit(lambda x: pure_callback(lambda x: np.zeros(2, np.float32), S, x))(V)


def test_callbacks_may_run_compiled_programs() -> None:
    inner = jit(lambda x: jnp.sort(x)[::-1] + 1)

    def host(a):
        return np.asarray(inner(np.asarray(a)))

    outer = jit(lambda x: scan(lambda c, _: (jnp.sort(c) + pure_callback(host, S, c), None), x, None, length=3)[0])
    want = np.asarray(V)
    for _ in range(3):
        want = np.sort(want) + np.sort(want)[::-1] + 1
    assert outer(V).tolist() == want.tolist()


def test_callbacks_of_several_threads() -> None:
    @jit
    def g(x):
        return pure_callback(lambda a: np.asarray(a) * 2, S, x) + x

    wrong = []

    def work(k: int) -> None:
        for _ in range(30):
            if g(V + k).tolist() != [3.0 * (v + k) for v in (1, 2, 3)]:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_pure_callbacks_whose_result_is_not_used_need_not_run() -> None:
    seen = []
    jit(lambda x: (pure_callback(lambda: seen.append(1) or np.zeros(3, np.float32), S), x)[1])(V)
    assert not seen


def test_operations_inside_a_callback_are_eager() -> None:
    kinds = []

    def host(a):
        y = jnp.sin(np.asarray(a)) + 1
        kinds.append(type(y).__name__)
        return np.asarray(y)

    jit(lambda x: pure_callback(host, S, x))(V)
    assert kinds == ["ArrayImpl"]
    sys.stdout.flush()
