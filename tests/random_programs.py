"""Random programs for property tests: smooth enough to differentiate, small enough to run by the hundred."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType
from tracegrad.tracer.abstract import make_ir
from tracegrad.tracer.control_flow import cond, scan

F64 = np.dtype(np.float64)
SHAPES = [(), (1,), (3,), (2, 3), (3, 1), (2, 1, 3), (0, 3)]

# Operations that are smooth and stay bounded, so that numeric derivatives can be trusted.
UNARY = {
    "sin": ops.sin,
    "cos": ops.cos,
    "tanh": ops.tanh,
    "logistic": ops.logistic,
    "neg": ops.neg,
    "softplus": lambda x: ops.log1p(ops.exp(ops.tanh(x))),
    "root": lambda x: ops.sqrt(ops.add(ops.square(x), 1.0)),
    "reciprocal": lambda x: ops.div(1.0, ops.add(ops.square(x), 1.5)),
    "cube": lambda x: ops.integer_pow(ops.tanh(x), 3),
    "atan": ops.atan,
    "erf": ops.erf,
}
BINARY = {
    "add": ops.add,
    "sub": ops.sub,
    "mul": lambda x, y: ops.mul(ops.tanh(x), y),
    "atan2": lambda x, y: ops.atan2(x, ops.add(ops.square(y), 1.0)),
    "div": lambda x, y: ops.div(x, ops.add(ops.square(y), 1.0)),
}


@st.composite
def functions(draw: Any) -> tuple[Any, list[ArrayType]]:
    """A function of one to three f64 arrays and its argument types. It returns one to three arrays."""
    in_types = [ArrayType(draw(st.sampled_from(SHAPES)), F64) for _ in range(draw(st.integers(1, 3)))]
    steps = draw(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 10**6)), min_size=1, max_size=10))
    outputs = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3))

    def function(*args: Any) -> list[Any]:
        values = list(args)
        for kind, seed in steps:
            values.append(_apply(kind, np.random.default_rng(seed), values))
        return [values[i % len(values)] for i in outputs]

    return function, in_types


KINDS = [
    "unary",
    "unary",
    "binary",
    "binary",
    "sum",
    "reshape",
    "transpose",
    "slice",
    "pad",
    "rev",
    "broadcast",
    "concatenate",
    "dot",
    "max",
    "cumsum",
    "gather",
    "update",
    "select",
    "sort",
    "cond",
    "scan",
]


def _apply(kind: str, rng: np.random.Generator, values: list[Any]) -> Any:
    """One step: an operation on values made so far; falls back to a unary one where the shapes do not allow it."""
    pick = lambda options: options[rng.integers(len(options))]  # noqa: E731
    x = pick(values)
    shape = type_of(x).shape
    if kind == "binary":
        y = pick([v for v in values if type_of(v).shape in (shape, ())])
        return pick(list(BINARY.values()))(x, y)
    if kind in ("sum", "max") and shape and 0 not in shape:
        axes = tuple(sorted(rng.choice(len(shape), rng.integers(1, len(shape) + 1), replace=False).tolist()))
        return (ops.reduce_sum if kind == "sum" else ops.reduce_max)(x, axes)
    if kind == "reshape" and shape:
        return ops.reshape(x, pick([(int(np.prod(shape)),), (1, *shape), (*shape, 1), shape[::-1]]))
    if kind == "transpose" and len(shape) > 1:
        return ops.transpose(x, tuple(rng.permutation(len(shape)).tolist()))
    if kind == "slice" and shape:
        starts = tuple(int(rng.integers(0, d + 1)) for d in shape)
        limits = tuple(int(rng.integers(s, d + 1)) for s, d in zip(starts, shape))
        return ops.slice(x, starts, limits, tuple(int(rng.integers(1, 3)) for _ in shape))
    if kind == "pad" and shape and len(shape) < 3:
        config = tuple((int(rng.integers(-1, 2)), int(rng.integers(0, 3)), int(rng.integers(0, 2))) for _ in shape)
        if all(lo + hi + d + max(d - 1, 0) * i >= 0 for (lo, hi, i), d in zip(config, shape)):
            return ops.pad(x, np.float64(0.5), config)
    if kind == "rev" and shape:
        return ops.rev(x, (int(rng.integers(len(shape))),))
    if kind == "broadcast" and len(shape) < 3:
        return ops.broadcast_in_dim(x, (2, *shape), tuple(range(1, len(shape) + 1)))
    if kind == "concatenate" and shape:
        y = pick([v for v in values if type_of(v).shape == shape])
        return ops.concatenate([x, y], int(rng.integers(len(shape))))
    if kind == "dot" and shape:
        axis = int(rng.integers(len(shape)))
        y = pick(values)
        matching = [i for i, d in enumerate(type_of(y).shape) if d == shape[axis]]
        if matching and len(shape) + type_of(y).ndim < 6:
            return ops.tanh(ops.dot_general(x, y, (((axis,), (pick(matching),)), ((), ()))))
    if kind == "cumsum" and shape:
        return ops.cumsum(x, int(rng.integers(len(shape))), bool(rng.integers(2)))
    if kind == "gather" and shape and 0 not in shape:
        start = ops.convert_element_type(
            ops.mul(ops.reduce_max(ops.abs(x), tuple(range(len(shape)))), 3.0), np.dtype(np.int32), False
        )
        return ops.dynamic_slice(x, [start] * len(shape), tuple(max(d - 1, 1) for d in shape))
    if kind == "update" and shape and 0 not in shape:
        start = np.int32(rng.integers(0, 3))
        part = ops.slice(x, (0,) * len(shape), tuple(max(d - 1, 1) for d in shape), None)
        return ops.dynamic_update_slice(x, ops.sin(part), [start] * len(shape))
    if kind == "select":
        y = pick([v for v in values if type_of(v).shape == shape])
        return ops.select(ops.gt(x, 0.1), y, ops.mul(x, 0.5))
    if kind == "sort" and shape:
        return ops.sort(x, dimension=len(shape) - 1)[0]
    if kind == "cond" and 0 not in shape:
        total = ops.reduce_sum(x, tuple(range(len(shape)))) if shape else x
        y = pick(values)
        return cond(ops.gt(total, 0.2), lambda u: ops.mul(ops.sin(u), total), lambda u: ops.add(u, ops.tanh(total)), y)
    if kind == "scan" and shape and shape[0]:
        carry = ops.slice(x, (0,) * len(shape), (1, *shape[1:]), None)
        carry = ops.reshape(carry, shape[1:])
        return scan(lambda c, s: (ops.tanh(ops.add(c, s)), ops.mul(c, ops.cos(s))), carry, x, reverse=bool(rng.integers(2)))[1]
    return pick(list(UNARY.values()))(x)


def program_of(function: Any, in_types: list[ArrayType]) -> Program:
    return make_ir(function)(*[np.zeros(t.shape, t.dtype) for t in in_types])


def arguments(in_types: list[ArrayType], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=t.shape)) for t in in_types]
