"""Structured control flow: cond, while and scan, whose bodies are programs.

Operands come in groups, in the order const operands, carry, scanned-over arrays. Bodies are closed: what they capture is passed to
them as leading const operands. A loop may have the parameter `slots`: the number of snapshots of its state that reverse mode may
keep at a time (`transforms.treeverse`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.calls import check_region
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, evaluated_as

__all__: list[str] = []


def _cond_types(index: ArrayType, *operands: ArrayType, branches: tuple[Program, ...]) -> tuple[ArrayType, ...]:
    if index.shape != () or index.dtype != np.dtype(np.int32):
        raise TypeError(f"cond: the index of the branch is a scalar i32, got {index}")
    for i, branch in enumerate(branches):
        check_region("cond", f"branch {i}", branch, operands)
        for k, (a, b) in enumerate(zip(branches[0].out_types, branch.out_types, strict=True)):
            if a.shape != b.shape or a.dtype != b.dtype:
                raise TypeError(f"cond: output {k} is {a} in branch 0 and {b} in branch {i}")
    return tuple(t if all(b.out_types[k].weak for b in branches) else t.strong() for k, t in enumerate(branches[0].out_types))


def _evaluate_cond(index: Any, *operands: Any, branches: tuple[Program, ...]) -> tuple[Any, ...]:
    return evaluate(branches[min(max(int(index), 0), len(branches) - 1)], *operands)


cond_p = Primitive("cond", _cond_types, _evaluate_cond, "control_flow", regions=("branches",), multiple_results=True)


def _while_types(
    *operands: ArrayType, cond: Program, body: Program, cond_nconsts: int, body_nconsts: int, slots: int | None = None
) -> tuple[ArrayType, ...]:
    check_while("while", cond, body, *split_while(operands, cond_nconsts, body_nconsts))
    return body.out_types


def check_while(primitive: str, cond: Program, body: Program, cond_consts: Any, body_consts: Any, carry: Any) -> None:
    """Raise TypeError unless the regions of a while fit its operands; the body may give more than the carry."""
    check_region(primitive, "cond", cond, cond_consts + carry)
    check_region(primitive, "body", body, body_consts + carry)
    if len(cond.outputs) != 1 or cond.out_types[0].shape != () or cond.out_types[0].dtype != np.dtype(np.bool_):
        raise TypeError(f"{primitive}: the condition gives one scalar bool, got {cond.out_types}")
    check_carry(primitive, carry, body.out_types if primitive == "while" else body.out_types[: len(carry)])


def split_while(operands: Any, cond_nconsts: int, body_nconsts: int) -> tuple[Any, Any, Any]:
    """The operands of a while: (constants of the condition, constants of the body, initial carry)."""
    consts = cond_nconsts + body_nconsts
    return tuple(operands[:cond_nconsts]), tuple(operands[cond_nconsts:consts]), tuple(operands[consts:])


def check_carry(primitive: str, carry: tuple[ArrayType, ...], out: tuple[ArrayType, ...]) -> None:
    if len(carry) != len(out):
        raise TypeError(f"{primitive}: the carry has {len(carry)} values going in and {len(out)} coming out")
    for i, (a, b) in enumerate(zip(carry, out)):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise TypeError(f"{primitive}: value {i} of the carry goes in as {a} and comes out as {b}")


def _evaluate_while(
    *operands: Any, cond: Program, body: Program, cond_nconsts: int, body_nconsts: int, slots: int | None = None
) -> tuple[Any, ...]:
    cond_consts, body_consts, carry = split_while(operands, cond_nconsts, body_nconsts)
    while evaluate(cond, *cond_consts, *carry)[0]:
        carry = evaluate(body, *body_consts, *carry)
    return tuple(carry)


while_p = Primitive("while", _while_types, _evaluate_while, "control_flow", regions=("cond", "body"), multiple_results=True)


def split_scan(operands: Any, num_consts: int, num_carry: int) -> tuple[Any, Any, Any]:
    """The operands of a scan: (constants, initial carry, arrays scanned over)."""
    n = num_consts + num_carry
    return tuple(operands[:num_consts]), tuple(operands[num_consts:n]), tuple(operands[n:])


def _scan_types(
    *operands: ArrayType,
    body: Program,
    length: int,
    reverse: bool,
    num_consts: int,
    num_carry: int,
    unroll: int,
    slots: int | None = None,
) -> tuple[ArrayType, ...]:
    consts, carry, xs = split_scan(operands, num_consts, num_carry)
    for i, t in enumerate(xs):
        if not t.shape or t.shape[0] != length:
            raise TypeError(f"scan: scanned array {i} is {t}; its first dimension must be the length, {length}")
    slices = tuple(t.update(shape=t.shape[1:]) for t in xs)
    check_region("scan", "body", body, consts + carry + slices)
    out = body.out_types
    check_carry("scan", carry, out[:num_carry])
    return out[:num_carry] + tuple(t.update(shape=(length, *t.shape)) for t in out[num_carry:])


def _evaluate_scan(
    *operands: Any,
    body: Program,
    length: int,
    reverse: bool,
    num_consts: int,
    num_carry: int,
    unroll: int,
    slots: int | None = None,
) -> tuple[Any, ...]:
    consts, carry, xs = split_scan(operands, num_consts, num_carry)
    ys = [np.zeros(*evaluated_as(t.update(shape=(length, *t.shape)))) for t in body.out_types[num_carry:]]
    for i in reversed(range(length)) if reverse else range(length):
        out = evaluate(body, *consts, *carry, *[x[i] for x in xs])
        carry = out[:num_carry]
        for stacked, y in zip(ys, out[num_carry:]):
            stacked[i, ...] = y  # not `stacked[i]`, which would put an array of one tape itself into the array
    return (*carry, *ys)


scan_p = Primitive("scan", _scan_types, _evaluate_scan, "control_flow", regions=("body",), multiple_results=True)
