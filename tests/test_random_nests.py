"""Random programs over shapes that make real loop nests: compiled programs, their gradients and their batched forms keep the meaning.

The shapes are chosen to meet each way in which nests are made: registers, short unrolled dimensions, merged dimensions, remainders of
vectors. Programs of integers and booleans must agree exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import random_programs
from primitive_samples import BOOL, F64, I8, I32, I64, U8, U32, U64
from test_primitives import gradient_program

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate, run
from tracegrad.ir.types import ArrayType
from tracegrad.runtime.jit import jit
from tracegrad.tracer.control_flow import fori_loop, scan
from tracegrad.transforms.batch import batch_program
from tracegrad.transforms.zero import Axis

SHAPES = [(), (1,), (5,), (17,), (40, 3), (3, 40), (33,), (8, 16), (2, 9, 17), (64, 2), (1, 30), (16, 1), (4, 4, 4), (0, 5)]
INTEGERS = (I8, I32, I64, U8, U32, U64)
Rng = np.random.Generator
Step = Callable[[Rng, list[Any]], Any]


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True), np.errstate(all="ignore"):
        yield


def pick(rng: Rng, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def function(seed: int, steps: list[Step], dtypes: Any) -> tuple[Callable[..., list[Any]], list[ArrayType]]:
    """A function that applies up to 15 of `steps`, each to values made before, and the types of its arguments."""
    rng = np.random.default_rng(seed)
    types = [ArrayType(pick(rng, SHAPES), pick(rng, dtypes)) for _ in range(rng.integers(1, 4))]
    chosen = [(pick(rng, steps), int(rng.integers(10**6))) for _ in range(rng.integers(2, 16))]
    outputs = rng.integers(10**6, size=3)

    def run_steps(*args: Any) -> list[Any]:
        values = list(args)
        for step, step_seed in chosen:
            made = step(np.random.default_rng(step_seed), values)
            if type_of(made).size <= 20000:
                values.append(made)
        return [values[-1], *[values[i % len(values)] for i in outputs]]

    return run_steps, types


# Steps on floating-point arrays, beside those of random_programs


def like(rng: Rng, values: list[Any]) -> tuple[Any, Any]:
    """A value, and one of its type (perhaps itself)."""
    x = pick(rng, values)
    return x, pick(rng, [v for v in values if type_of(v).shape == type_of(x).shape and type_of(v).dtype == type_of(x).dtype])


def axis_of(rng: Rng, x: Any) -> int | None:
    """A dimension of `x`, if it has one and no element is missing."""
    shape = type_of(x).shape
    return int(rng.integers(len(shape))) if shape and 0 not in shape else None


def spread(reduced: Any, x: Any, axis: int) -> Any:
    shape = type_of(x).shape
    return ops.broadcast_in_dim(reduced, shape, tuple(i for i in range(len(shape)) if i != axis))


def count(rng: Rng, values: list[Any]) -> Any:
    x = pick(rng, values)
    axis = axis_of(rng, x)
    return x if axis is None else ops.add(x, ops.mul(ops.broadcasted_iota(F64, type_of(x).shape, axis), 0.01))


def centre(rng: Rng, values: list[Any]) -> Any:
    x = pick(rng, values)
    axis = axis_of(rng, x)
    return x if axis is None else ops.sub(x, spread(ops.mul(ops.reduce_sum(x, (axis,)), 1 / type_of(x).shape[axis]), x, axis))


def softmax(rng: Rng, values: list[Any]) -> Any:
    x = pick(rng, values)
    axis = axis_of(rng, x)
    if axis is None:
        return ops.sin(x)
    e = ops.exp(ops.sub(x, spread(ops.reduce_max(x, (axis,)), x, axis)))
    return ops.div(e, spread(ops.reduce_sum(e, (axis,)), e, axis))


def swap(rng: Rng, values: list[Any]) -> Any:
    """A loop whose carries change places."""
    x, y = like(rng, values)
    return pick(rng, fori_loop(0, int(rng.integers(4)), lambda i, s: (ops.tanh(s[1]), ops.add(s[0], 0.1)), (x, y)))


def update_in_loop(rng: Rng, values: list[Any]) -> Any:
    """A loop that rewrites rows of a carried array, from its own rows."""
    x = pick(rng, values)
    shape = type_of(x).shape
    if not shape or 0 in shape:
        return ops.cos(x)
    zeros = [np.int32(0)] * (len(shape) - 1)

    def step(c: Any, i: Any) -> Any:
        row = ops.sin(ops.dynamic_slice(c, [i, *zeros], (1, *shape[1:])))
        c = ops.dynamic_update_slice(c, row, [ops.rem(ops.mul(i, 3), np.int32(shape[0])), *zeros])
        return c, ops.reduce_max(c, tuple(range(len(shape))))

    return pick(rng, scan(step, x, np.arange(rng.integers(1, shape[0] + 1), dtype=np.int32)))


def from_library(kind: str) -> Step:
    return lambda rng, values: random_programs._apply(kind, rng, values)


FLOAT_STEPS = [*map(from_library, random_programs.KINDS), count, centre, softmax, swap, update_in_loop]


# Steps on integers and booleans


def arithmetic(rng: Rng, values: list[Any]) -> Any:
    x, y = like(rng, values)
    names = "add sub mul div rem max min bitwise_and bitwise_or bitwise_xor shift_left shift_right_logical shift_right_arithmetic"
    return getattr(ops, pick(rng, "bitwise_and bitwise_or bitwise_xor".split() if type_of(x).dtype == BOOL else names.split()))(
        x, y
    )


def unary(rng: Rng, values: list[Any]) -> Any:
    x = pick(rng, values)
    names = "neg abs sign square bitwise_not population_count clz".split()
    return getattr(ops, "bitwise_not" if type_of(x).dtype == BOOL else pick(rng, names))(x)


def compare(rng: Rng, values: list[Any]) -> Any:
    return getattr(ops, pick(rng, "eq ne lt le gt ge".split()))(*like(rng, values))


def convert(rng: Rng, values: list[Any]) -> Any:
    return ops.convert_element_type(pick(rng, values), pick(rng, (*INTEGERS, BOOL)))


def select(rng: Rng, values: list[Any]) -> Any:
    x, y = like(rng, values)
    flags = [v for v in values if type_of(v).dtype == BOOL and type_of(v).shape in ((), type_of(x).shape)]
    return ops.select(pick(rng, flags), x, y) if flags else x


def reduce(rng: Rng, values: list[Any]) -> Any:
    x = pick(rng, values)
    axis = axis_of(rng, x)
    if axis is None:
        return x
    names = "reduce_and reduce_or reduce_xor reduce_max reduce_min" + (
        "" if type_of(x).dtype == BOOL else " reduce_sum reduce_prod"
    )
    return getattr(ops, pick(rng, names.split()))(x, (axis,))


def order(rng: Rng, values: list[Any]) -> Any:
    x = pick(rng, values)
    axis = axis_of(rng, x)
    if axis is None:
        return x
    what = rng.integers(3)
    if what == 0:
        return ops.argmax(x, axis, I32)
    if what == 1 and type_of(x).dtype != BOOL:
        return ops.cumsum(x, axis, bool(rng.integers(2)))
    return ops.sort(x, ops.broadcasted_iota(I32, type_of(x).shape, axis), dimension=axis)[int(rng.integers(2))]


def take(rng: Rng, values: list[Any]) -> Any:
    x = pick(rng, values)
    shape = type_of(x).shape
    indices = [v for v in values if type_of(v).dtype in INTEGERS and type_of(v).ndim == 1]
    if not indices or not shape or 0 in shape:
        return x
    where = pick(rng, indices)
    dimensions = {"offset_dims": range(1, len(shape)), "collapsed_slice_dims": (0,), "start_index_map": (0,)}
    where = ops.reshape(where, (type_of(where).size, 1))
    return ops.gather(x, where, **dimensions, slice_sizes=(1, *shape[1:]), mode=pick(rng, ("clip", "fill")))


def move(rng: Rng, values: list[Any]) -> Any:
    x, y = like(rng, values)
    shape = type_of(x).shape
    axis = axis_of(rng, x)
    if axis is None:
        return x
    what = rng.integers(5)
    if what == 0:
        return ops.transpose(x, rng.permutation(len(shape)))
    if what == 1:
        return ops.rev(x, (axis,))
    if what == 2:
        return ops.concatenate([x, y], axis)
    if what == 3:
        return ops.slice_in_dim(x, int(rng.integers(shape[axis])), shape[axis], int(rng.integers(1, 3)), axis)
    config = [(int(rng.integers(-1, 3)) if i == axis and shape[i] > 1 else 0, 0, int(i == axis)) for i in range(len(shape))]
    return ops.pad(x, True if type_of(x).dtype == BOOL else 7, config)


INTEGER_STEPS = [arithmetic, arithmetic, arithmetic, unary, compare, convert, select, reduce, order, take, move, move]


def integers(t: ArrayType, rng: Rng) -> np.ndarray:
    if t.dtype == BOOL:
        return np.asarray(rng.random(t.shape) < 0.5)
    limits = np.iinfo(t.dtype)
    wide = rng.integers(limits.min, limits.max, t.shape, t.dtype, endpoint=True)
    return np.where(rng.random(t.shape) < 0.5, wide, rng.integers(0, 9, t.shape).astype(t.dtype))


# The tests

SEEDS = range(8)
EACH = 12


@pytest.mark.parametrize("block", SEEDS)
def test_integers_are_exact(block: int) -> None:
    for seed in range(block * EACH, (block + 1) * EACH):
        fun, types = function(seed, INTEGER_STEPS, (*INTEGERS, BOOL))
        rng = np.random.default_rng(seed)
        args = [np.asarray(integers(t, rng)) for t in types]
        expected = evaluate(random_programs.program_of(fun, types), *args)
        for x, y in zip(jit(fun)(*args), expected, strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape), f"seed {seed}"
            np.testing.assert_array_equal(np.asarray(x), y, err_msg=f"seed {seed}")


def agree(actual: Any, expected: Any, what: str) -> None:
    for x, y in zip(actual, expected, strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape), what
        np.testing.assert_allclose(np.asarray(x), y, rtol=1e-8, atol=1e-8, err_msg=what)


@pytest.mark.parametrize("block", SEEDS)
def test_values_gradients_and_batches_of_floats(block: int) -> None:
    for seed in range(block * EACH, (block + 1) * EACH):
        fun, types = function(seed, FLOAT_STEPS, (F64,))
        args = random_programs.arguments(types, seed)
        program = random_programs.program_of(fun, types)
        agree(jit(fun)(*args), evaluate(program, *args), f"value, seed {seed}")
        kind = seed % 3
        if kind == 0:
            gradient, smooth = gradient_program(program, (True,) * len(types))
            rng = np.random.default_rng(seed)
            cts = [np.asarray(rng.normal(size=program.out_types[i].shape)) for i in smooth]
            agree(
                jit(lambda *xs, p=gradient: run(p, *xs))(*args, *cts), evaluate(gradient, *args, *cts), f"gradient, seed {seed}"
            )
        elif kind == 1:
            dims = tuple(len(t.shape) for t in types)
            batched, _ = batch_program(program, Axis(3), dims, (0,) * len(program.outputs))
            several = [np.stack([x, 1.3 * x, 0.7 * x], d) for x, d in zip(args, dims)]
            one_by_one = [evaluate(program, *[np.take(x, k, d) for x, d in zip(several, dims)]) for k in range(3)]
            agree(jit(lambda *xs, p=batched: run(p, *xs))(*several), map(np.stack, zip(*one_by_one)), f"batch, seed {seed}")
