"""Large programs are compiled in parts, at the same time."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad.codegen import compile as compile_module
from tracegrad.codegen.compile import compile_program
from tracegrad.codegen.partition import joined, partitioned, taken_apart
from tracegrad.runtime import engine
from tracegrad.transforms import roll
from tracegrad.transforms.pipeline import optimize


def long_program(n: int) -> Any:
    def f(x: Any, a: Any) -> Any:
        for i in range(n):
            x = jnp.sin(x) * (1.0 + 0.001 * i) + a[i % 7] * jnp.exp(-x * x)
            if i % 97 == 0:
                x = x + jnp.linalg.det(jnp.outer(a[:5], a[:5]) + x * jnp.eye(5)) * 1e-3
        return x

    return f


@pytest.fixture(autouse=True)
def repetitions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs here repeat themselves, and would not be large for long."""
    monkeypatch.setattr(roll, "SMALLEST", 10**9)


ARGS = (np.float32(0.3), np.linspace(0.1, 0.9, 7).astype(np.float32))


def test_parts_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    f = long_program(400)
    parts: list[int] = []

    def counted(text: str, n: int) -> list[str]:
        found = partitioned(text, n)
        parts.append(len(found))
        assert sum(t.count("\ndefine ") + t.startswith("define ") for t in found) >= text.count("\ndefine ")
        return found

    monkeypatch.setattr(compile_module, "partitioned", counted)
    monkeypatch.setattr(compile_module, "PART", 300)
    with tg.ir.config.config.override("cache", False):
        in_parts = tg.jit(f)(*ARGS)
        gradient_in_parts = tg.jit(tg.grad(f, (0, 1)))(*ARGS)
    assert len(parts) == 2 and min(parts) > 2
    monkeypatch.setattr(compile_module, "PART", 10**9)
    with tg.ir.config.config.override("cache", False):
        whole = tg.jit(lambda x, a: f(x, a))(*ARGS)
        gradient = tg.jit(tg.grad(lambda x, a: f(x, a), (0, 1)))(*ARGS)
    np.testing.assert_allclose(in_parts, whole, rtol=1e-6)
    for a, b in zip(gradient_in_parts, gradient):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_parts_depend_on_the_program_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    program = optimize(tg.make_ir(long_program(300))(*ARGS))
    monkeypatch.setattr(compile_module, "PART", 300)
    one = compile_program(program).object_code
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert compile_program(program).object_code == one
    assert len(taken_apart(one)) > 2


def test_objects_joined_come_apart() -> None:
    objects = [b"first", b"", b"third" * 100]
    assert taken_apart(joined(objects)) == objects
    assert taken_apart(joined([b"alone"])) == [b"alone"] == [joined([b"alone"])]


def test_an_error_in_a_part_is_raised() -> None:
    from tracegrad.codegen import target

    with pytest.raises(RuntimeError, match="LLVM IR parsing error"):
        target.compile_texts(["define i32 @f() { ret i32 0 }", "nonsense"], target.host(), 2, True)


def test_a_missing_symbol_is_named() -> None:
    with pytest.raises(Exception, match="tg.no.such"):
        engine.load(b"", "f", ["tg.no.such"])
