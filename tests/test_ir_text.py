"""Programs as text: what they look like, and that they read back."""

from __future__ import annotations

import numpy as np
import pytest

from tracegrad.ir import ops
from tracegrad.ir.parser import ParseError, parse
from tracegrad.ir.printer import to_text
from tracegrad.ir.program import Constant, Equation, Literal, Program, Var
from tracegrad.ir.types import SHORT_NAMES, ArrayType, bfloat16, is_key
from tracegrad.tracer.staging import trace

F32 = np.dtype(np.float32)


def test_a_page_that_one_likes_to_read() -> None:
    def f(x, n):  # type: ignore[no-untyped-def]
        y = ops.mul(ops.sin(x), 2.0)
        return [ops.reduce_sum(y, (1,)), ops.add(n, 1)]

    program, _ = trace(f, [ArrayType((4, 5), F32), ArrayType((), np.int32)], "f", ["x", "n"])
    assert str(program) == (
        "program @f(%x: f32[4,5], %n: i32[]) -> (f32[4], i32[]) {\n"
        "  %0: f32[4,5] = sin %x\n"
        "  %1: f32[4,5] = mul %0, 2.0: f32[]\n"
        "  %2: f32[4] = reduce_sum %1 {axes=(1,)}\n"
        "  %3: i32[] = add %n, 1: i32[]\n"
        "  return %2, %3\n"
        "}"
    )
    assert parse(str(program)) == program


def test_locations_show_the_users_file_and_line() -> None:
    def f(x):  # type: ignore[no-untyped-def]
        return [ops.sin(x)]

    program, _ = trace(f, [ArrayType((), F32)], "f")
    line = f.__code__.co_firstlineno + 1
    text = to_text(program, locations=True)
    assert f"@ test_ir_text.py:{line}" in text
    assert parse(text) == program
    assert parse(text).equations[0].source.line == line  # type: ignore[union-attr]


VALUES = [0.0, -0.0, 1.0, -1.5, 1e30, -1e-30, 3.14159265358979, np.inf, -np.inf, np.nan, 1 / 3]


@pytest.mark.parametrize(
    "dtype", [d for d in SHORT_NAMES if not is_key(d) and SHORT_NAMES[d] != "float0"], ids=lambda d: SHORT_NAMES[d]
)
def test_every_literal_reads_back_exactly(dtype: np.dtype) -> None:
    if dtype.kind == "b":
        values = [True, False]
    elif dtype.kind in "iu":
        values = [0, 1, np.iinfo(dtype).min, np.iinfo(dtype).max]
    elif dtype.kind == "c":
        values = [complex(a, b) for a in VALUES for b in VALUES]
    else:
        values = VALUES + (
            [] if dtype == bfloat16 else [np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max]
        )
    with np.errstate(over="ignore"):
        literals = [Literal(np.asarray(v).astype(dtype), ArrayType((), dtype, weak)) for v in values for weak in (False, True)]
    program = Program([], [], [], literals)
    again = parse(str(program))
    assert again == program
    assert [a.key for a in again.outputs] == [b.key for b in literals]  # type: ignore[union-attr]


def test_constants_small_and_large() -> None:
    small, large = np.array([[1, 2], [3, 4]], np.int16), np.arange(100, dtype=np.float32)
    a, b = Var(ArrayType((2, 2), np.int16)), Var(ArrayType((100,), F32))
    program = Program([], [Constant(a, small), Constant(b, large)], [], [a, b])
    assert "= [[1, 2], [3, 4]]" in str(program)
    assert "@array_" in str(program)
    assert parse(str(program)) == program


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("program @f(%x: f32[3]) -> (f32[3]) { %0: f32[3] = frobnicate %x\n return %0 }", "no primitive 'frobnicate'"),
        ("program @f(%x: f32[3]) -> (f32[3]) { return %y }", "%y is not defined"),
        ("program @f(%x: g32[3]) -> () { return }", "'g32' is not a dtype"),
        ("program @f(%x: f32[3], %x: f32[3]) -> () { return }", "%x is defined twice"),
        ("program @f() -> (f32[]) { return }", "its head says"),
        ("program @f() -> () {", "the text ends too early"),
        ("program @f() -> () { return } again", "text after the end"),
    ],
)
def test_what_is_not_a_program_is_an_error_that_shows_the_line(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message) as e:
        parse(text)
    assert "line 1" in str(e.value) or "line 2" in str(e.value)


def test_equality_ignores_names_and_places_but_not_structure() -> None:
    a = parse("program @f(%x: f32[]) -> (f32[]) { %y: f32[] = sin %x\n return %y }")
    b = parse("program @g(%u: f32[]) -> (f32[]) { %0: f32[] = sin %u @ here.py:3\n return %0 }")
    c = parse("program @f(%x: f32[]) -> (f32[]) { %y: f32[] = cos %x\n return %y }")
    assert a == b and hash(a) == hash(b)
    assert a != c
    x = Var(ArrayType((), F32))
    assert Program([x], [], [], [x]) != Program([x], [], [], [Literal(1.0, x.type)])
    assert isinstance(a.equations[0], Equation)
