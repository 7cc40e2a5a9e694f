"""What tests of rules share: an interpreter that checks evaluation against type rules, tangents, pairings, reverse mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rule_cases import Case

from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.types import is_inexact, tangent_type
from tracegrad.transforms.linearize import linearize_flat
from tracegrad.transforms.transpose import backward
from tracegrad.transforms.zero import Linear, Zero, is_zero


class Numpy:
    """Evaluates each operation at once, and holds results against the type rule."""

    def __init__(self) -> None:
        self.applied: list[str] = []

    def process(self, primitive: Any, args: Sequence[Any], params: dict[str, Any]) -> tuple[Any, ...]:
        arrays = [np.asarray(x) for x in args]
        types = primitive.type_rule(*[type_of(x) for x in arrays], **params)
        outs = primitive.evaluate(*arrays, **params)
        self.applied.append(primitive.name)
        for t, x in zip(types, outs, strict=True):
            shape = t.shape + getattr(t.dtype, "base_shape", ())
            assert x.shape == shape, f"{primitive.name}: evaluation gives {x.shape}, the type rule {t}"
            if hasattr(x, "dtype") and not hasattr(t.dtype, "base_shape"):
                assert x.dtype == t.dtype, f"{primitive.name}: evaluation gives {x.dtype}, the type rule {t}"
        return tuple(outs)


def draw_tangent(rng: Any, x: np.ndarray, hermitian: bool = False) -> np.ndarray:
    t = rng.uniform(-1, 1, x.shape)
    if np.iscomplexobj(x):
        t = t + 1j * rng.uniform(-1, 1, x.shape)
    if hermitian:
        t = t + np.conj(np.swapaxes(t, -1, -2))
    return np.asarray(t, x.dtype)


def tangents_of(case: Case, rng: Any, operands: Sequence[np.ndarray], moving: Sequence[int]) -> list[Any]:
    return [
        draw_tangent(rng, x, case.hermitian and i == 0) if i in moving else Zero(tangent_type(type_of(x)))
        for i, x in enumerate(operands)
    ]


def dense(t: Any) -> np.ndarray:
    return np.zeros(t.type.shape, t.type.dtype if is_inexact(t.type.dtype) else float) if is_zero(t) else np.asarray(t)


def inexact_operands(case: Case) -> list[int]:
    operands = case.operands(case.rng())
    return [i for i, x in enumerate(operands) if is_inexact(x.dtype) and i not in case.fixed]


def pairing(ct: Any, t: Any) -> float:
    return float(np.real(np.sum(np.asarray(ct) * np.asarray(t))))


def bind_case(case: Case) -> Callable[..., Sequence[Any]]:
    return lambda *operands: bind(case.prim, *operands, **case.params)


def reverse(fun: Callable[..., Sequence[Any]], operands: Sequence[Any], moving: Sequence[int], cts: Callable[[Any], Any]) -> Any:
    """Results, cotangents of them as `cts` draws them, and cotangents of the operands that move."""
    linearized = linearize_flat(fun, operands, [i in moving for i in range(len(operands))])
    out_cts = [cts(x) for x in linearized.outs]
    given = [ct for ct, nz in zip(out_cts, linearized.nonzero_out) if nz]
    inputs = list(linearized.residuals)
    inputs += [Linear(v.type) for v in linearized.program.inputs[len(inputs) :]]
    return linearized.outs, out_cts, backward(linearized.program, inputs, given)
