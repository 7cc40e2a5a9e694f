"""Loops of unknown length that leave a trace: what reverse mode makes of `while`.

A *tape* holds one value per step of a loop whose number of steps is known only when it has run (Wengert's tape, confined to one loop).
`record_while` is a `while` that writes tapes; `tape_scan` is a `scan` over tapes, in either direction, whose number of steps is a
value. A tape is a scalar of dtype `tape<element>`; tapes made within other loops come in arrays, one tape per step, as any scalar.

An empty tape stands for zeros at every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1
from tracegrad.ir.calls import check_region
from tracegrad.ir.control_flow import check_carry, check_while, split_scan, split_while
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, evaluated_as, is_tape, tape_dtype

__all__ = ["empty_tape", "tape_length"]

COUNT = ArrayType((), np.dtype(np.int32))
"""The type of the number of steps of a loop."""


def tape_type(element: ArrayType) -> ArrayType:
    """The type of one tape of values of the type `element`."""
    return ArrayType((), tape_dtype(element))


class Tape:
    """A tape in NumPy's hands: an array of a tape dtype is an object array of these."""

    __slots__ = ("values",)

    def __init__(self, values: list[np.ndarray]):
        self.values = values


def _as_array(values: list[Any]) -> np.ndarray:
    tape = np.empty((), object)
    tape[()] = Tape([np.asarray(x) for x in values])
    return tape


def _read(tape: Any, i: int, element: ArrayType) -> Any:
    values = np.asarray(tape, object).item().values
    if values:
        return values[i]
    if is_tape(element.dtype):
        tapes = np.empty(element.shape, object)
        for k in np.ndindex(*element.shape):
            tapes[k] = Tape([])
        return tapes
    return np.zeros(*evaluated_as(element))


def _record_while_types(
    *operands: ArrayType, cond: Program, body: Program, cond_nconsts: int, body_nconsts: int
) -> tuple[ArrayType, ...]:
    cond_consts, body_consts, carry = split_while(operands, cond_nconsts, body_nconsts)
    check_while("record_while", cond, body, cond_consts, body_consts, carry)
    out = body.out_types
    return (*out[: len(carry)], COUNT, *[tape_type(t) for t in out[len(carry) :]])


def _evaluate_record_while(
    *operands: Any, cond: Program, body: Program, cond_nconsts: int, body_nconsts: int
) -> tuple[Any, ...]:
    cond_consts, body_consts, carry = split_while(operands, cond_nconsts, body_nconsts)
    n = len(carry)
    rows: list[list[Any]] = [[] for _ in body.outputs[n:]]
    count = 0
    while evaluate(cond, *cond_consts, *carry)[0]:
        out = evaluate(body, *body_consts, *carry)
        carry = out[:n]
        for row, x in zip(rows, out[n:]):
            row.append(x)
        count += 1
    return (*carry, np.asarray(count, np.int32), *map(_as_array, rows))


record_while_p = Primitive("record_while", _record_while_types, _evaluate_record_while, "tapes", regions=("cond", "body"), multiple_results=True)
"""`while` that also counts its steps and keeps values of each.

Operands as those of `while`. The body gives the next carry and then any number of values to keep. Results: the last carry, the number of
steps (i32[]), and for each value kept a tape of it.
"""


def _tape_scan_types(
    length: ArrayType,
    *operands: ArrayType,
    body: Program,
    reverse: bool,
    num_consts: int,
    num_carry: int,
    slots: int | None = None,
) -> tuple[ArrayType, ...]:
    if length is not COUNT:
        raise TypeError(f"tape_scan: the number of steps is {COUNT}, got {length}")
    consts, carry, xs = split_scan(operands, num_consts, num_carry)
    for i, t in enumerate(xs):
        if not is_tape(t.dtype) or t.shape != ():
            raise TypeError(f"tape_scan: operand {i} to scan over is {t}; it must be a tape")
    check_region("tape_scan", "body", body, consts + carry + tuple(t.dtype.element for t in xs))
    out = body.out_types
    check_carry("tape_scan", carry, out[:num_carry])
    return (*out[:num_carry], *[tape_type(t) for t in out[num_carry:]])


def _evaluate_tape_scan(
    length: Any,
    *operands: Any,
    body: Program,
    reverse: bool,
    num_consts: int,
    num_carry: int,
    slots: int | None = None,
) -> tuple[Any, ...]:
    consts, carry, xs = split_scan(operands, num_consts, num_carry)
    elements = body.in_types[num_consts + num_carry :]
    rows: list[list[Any]] = [[] for _ in body.outputs[num_carry:]]
    steps = range(int(length))
    for i in reversed(steps) if reverse else steps:
        out = evaluate(body, *consts, *carry, *[_read(x, i, t) for x, t in zip(xs, elements)])
        carry = out[:num_carry]
        for row, y in zip(rows, out[num_carry:]):
            row.append(y)
    return (*carry, *[_as_array(r[::-1] if reverse else r) for r in rows])


tape_scan_p = Primitive("tape_scan", _tape_scan_types, _evaluate_tape_scan, "tapes", regions=("body",), multiple_results=True)
"""`scan` over tapes, whose number of steps is a value.

Operands: the number of steps (i32[]), constants, initial carry, tapes. Results: the last carry, and a tape of each further result of the
body. With `reverse` the last step comes first, and what it gives stands last on the tapes written.
"""


def _empty_tape_types(*, element: ArrayType) -> tuple[ArrayType, ...]:
    return (tape_type(element),)


def _evaluate_empty_tape(*, element: ArrayType) -> tuple[Any, ...]:
    return (_as_array([]),)


empty_tape_p = Primitive("empty_tape", _empty_tape_types, _evaluate_empty_tape, "tapes")
"""A tape that reads as zeros at every step."""


def empty_tape(element: ArrayType) -> Any:
    """A tape of values of the type `element` that reads as zeros."""
    return bind1(empty_tape_p, element=element)


def _tape_length_types(tape: ArrayType) -> tuple[ArrayType, ...]:
    if not is_tape(tape.dtype) or tape.shape != ():
        raise TypeError(f"tape_length: the operand is one tape, got {tape}")
    return (COUNT,)


def _evaluate_tape_length(tape: Any) -> tuple[Any, ...]:
    return (np.asarray(len(np.asarray(tape, object).item().values), np.int32),)


tape_length_p = Primitive("tape_length", _tape_length_types, _evaluate_tape_length, "tapes")
"""How many steps a tape has; an empty one has none."""


def tape_length(tape: Any) -> Any:
    """The number of steps of a tape, i32[]."""
    return bind1(tape_length_p, tape)
