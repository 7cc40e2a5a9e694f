"""Compile a function over arrays, run it, and compare with the evaluation of its program."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.codegen.compile import CompiledObject, compile_program
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, bfloat16
from tracegrad.ir.verify import verify
from tracegrad.runtime import engine
from tracegrad.tracer.abstract import with_constants
from tracegrad.tracer.staging import trace
from tracegrad.transforms.pipeline import optimize


def types_of(args: Sequence[Any]) -> tuple[ArrayType, ...]:
    return tuple(ArrayType(a.shape, a.dtype) for a in args)


def staged(function: Callable[..., Any], *args: np.ndarray, name: str = "f") -> Program:
    """The program of a function from arrays to a list of arrays, after the passes."""
    program, captured = with_constants(*trace(function, types_of(args), name=name))
    assert not captured
    return optimize(program)


def loops(function: Callable[..., Any], *args: np.ndarray) -> str:
    """The text of the loop level."""
    return compile_program(staged(function, *args), "f", keep_text=True).texts["loops"]


def table(arrays: Sequence[np.ndarray]) -> Any:
    return (ctypes.c_void_p * (len(arrays) + 1))(*[a.ctypes.data for a in arrays])  # the last word is for tapes


def execute(compiled: CompiledObject, *args: np.ndarray) -> list[np.ndarray]:
    """Run object code on arrays. Memory starts as rubbish, so that nothing passes by being zero."""
    entry = engine.load(compiled.object_code, compiled.symbol, compiled.external)
    given = [np.ascontiguousarray(a) for a in args]
    results = [np.full(t.size * t.dtype.itemsize, 0xA5, np.uint8).view(t.dtype).reshape(t.shape) for t in compiled.out_types]
    arena = np.full(compiled.arena_size + 128, 0xA5, np.uint8)
    start = -(-arena.ctypes.data // 64) * 64
    assert entry(table(given), table(results), table(compiled.constants), start) == 0
    return results


TOLERANCE = {np.dtype(np.float16): 3e-3, np.dtype(bfloat16): 3e-2, np.dtype(np.float32): 3e-6, np.dtype(np.complex64): 3e-6}


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def check(function: Callable[..., Any], *args: np.ndarray, tolerance: float | None = None) -> CompiledObject:
    """Compiled code gives what evaluation gives."""
    program = staged(function, *args)
    compiled = compile_program(program, "f")
    results = execute(compiled, *args)
    expected = evaluate(program, *args)
    for r, e, t in zip(results, expected, program.out_types, strict=True):
        e = np.asarray(e)
        assert r.shape == e.shape and r.dtype == e.dtype == t.dtype
        if t.dtype.kind in "iub":
            np.testing.assert_array_equal(r, e)
        else:
            limit = TOLERANCE.get(t.dtype, 1e-11) if tolerance is None else tolerance
            np.testing.assert_allclose(wide(r), wide(e), rtol=limit, atol=limit)
    return compiled


def rewritten(transform: Callable[[Program], Program], function: Callable[..., Any], *args: np.ndarray) -> Program:
    """The program after a pass of the code generator, which gives what it gave; so does the compiled code."""
    before = staged(function, *args)
    after = transform(before)
    verify(after, transform.__name__)
    for x, y in zip(evaluate(before, *args), evaluate(after, *args), strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-12, atol=1e-12)
    check(function, *args)
    return after
