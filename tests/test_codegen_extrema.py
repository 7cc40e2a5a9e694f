"""argmax and argmin in native code: along rows by blocks and tasks, across rows by tiles; NaN, ties and all dtypes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import lax
from tracegrad.ir.types import bfloat16

SHAPES = [
    ((1,), 0), ((7,), 0), ((255,), 0), ((256,), 0), ((5003,), 0), ((400_001,), 0), ((20, 1000), 1), ((3, 70_000), 1), ((300, 1500), 0),
    ((1000, 20), 0), ((4, 300, 9), 1), ((4, 300, 3), 1), ((2, 3, 4, 1030), 1), ((5, 1, 40), 1), ((6, 40), 0), ((1000, 1), 0),
]  # fmt: skip


@cache
def compiled(name: str, axis: int, index_dtype: Any) -> Any:
    return tg.jit(lambda x: getattr(lax, name)(x, axis, index_dtype))


def check(x: np.ndarray, axis: int, index_dtype: Any = np.int32) -> None:
    known = x.astype(np.float32) if x.dtype in (bfloat16, np.float16) else x
    for name in ("argmax", "argmin"):
        got = np.asarray(compiled(name, axis, index_dtype)(x))
        assert got.dtype == index_dtype
        np.testing.assert_array_equal(got, getattr(np, name)(known, axis))


@pytest.mark.parametrize("shape, axis", SHAPES)
def test_first_of_ties_and_of_nan(shape, axis):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * 20).astype(np.float32)
    check(x, axis)
    check(np.round(x), axis)
    check(np.full(shape, -np.inf, np.float32), axis)
    check(np.full(shape, np.inf, np.float32), axis)
    check(np.where(x > 0, np.float32(0.0), np.float32(-0.0)), axis)
    x.flat[rng.integers(0, x.size, 5)] = np.nan
    check(x, axis)
    check(np.full(shape, np.nan, np.float32), axis)


@pytest.mark.parametrize(
    "dtype", ["float16", bfloat16, "float64", "bool", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"]
)
@pytest.mark.parametrize("shape, axis", [((9,), 0), ((3001,), 0), ((5, 700), 1), ((60, 70), 0)])
def test_dtypes(dtype, shape, axis):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(1)
    with tg.enable_x64(True):
        x = rng.integers(-40, 40, shape).astype(dtype)
        check(x, axis)
        if dtype.kind in "fV":
            x.flat[rng.integers(0, x.size)] = np.nan
            check(x, axis)
        else:
            info = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            check(np.full(shape, info[0], dtype), axis)
            check(np.full(shape, info[1], dtype), axis)
        check(x, axis, np.int64)


def test_computed_operands_and_narrow_indices():
    x = np.random.default_rng(2).normal(size=(300, 500)).astype(np.float32)
    for axis in (0, 1):
        np.testing.assert_array_equal(compiled_of_line(axis)(x), np.argmax(x * 2 + 1, axis))
    check(x[:, :100], 1, np.uint8)
    check(x.T.copy()[::-1, ::2], 0)


def compiled_of_line(axis: int) -> Any:
    return tg.jit(lambda x: lax.argmax(x * 2 + 1, axis, np.int32))


@pytest.mark.parametrize("n", [100, 1000, 5000])
def test_extrema_and_sums_of_rows_that_are_long(n):
    x = np.random.default_rng(3).normal(size=(3, n)).astype(np.float32)
    most, least, total = tg.jit(lambda x: (x.max(1), x.min(1), x.sum(1)))(x)
    np.testing.assert_array_equal(most, x.max(1))
    np.testing.assert_array_equal(least, x.min(1))
    np.testing.assert_allclose(total, x.sum(1, dtype=np.float64), rtol=1e-4, atol=1e-3)
    x[1, n // 2] = np.nan
    assert np.array_equal(np.isnan(tg.jit(lambda x: x.max(1))(x)), [False, True, False])


@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(1_000_003,), (8192, 130), (3, 400_001)])
def test_totals_of_large_arrays(dtype, shape):
    """Totals are computed by tasks: over one run of memory, over rows that are cut, with what else the nest writes."""
    x = np.random.default_rng(4).integers(0 if dtype == "uint8" else -3, 4, shape).astype(dtype)
    total, lines, doubled, few = tg.jit(
        lambda x: (x.sum(), x[..., ::2].sum(), x + x, (x[:, 3:90] if x.ndim == 2 else x[3:]).sum())
    )(x)
    wide = x.astype(np.complex128 if dtype == "complex64" else np.float64 if dtype == "float16" else x.dtype)
    np.testing.assert_allclose(total, wide.sum().astype(np.asarray(total).dtype), rtol=2e-3)
    np.testing.assert_allclose(lines, wide[..., ::2].sum().astype(np.asarray(total).dtype), rtol=2e-3)
    np.testing.assert_allclose(few, (wide[:, 3:90] if x.ndim == 2 else wide[3:]).sum().astype(np.asarray(total).dtype), rtol=2e-3)
    np.testing.assert_array_equal(doubled, x + x)
    if dtype != "complex64":
        x.flat[-2] = 9
        assert tg.jit(lambda x: (x.max(), (x == 9).any(), (x < 9).all()))(x) == (9, True, False)
        assert tg.jit(lambda x: (x.min(), x.argmax()))(x) == (x.min(), x.argmax())


def test_totals_are_the_same_bits_and_have_their_slope():
    x = np.random.default_rng(5).normal(size=1_200_000).astype(np.float32)
    total = tg.jit(lambda x: (x.sum(), (x * x).sum()))
    first = [float(v) for v in total(x)]
    assert all([float(v) for v in total(x)] == first for _ in range(5))
    assert abs(first[1] - np.square(x, dtype=np.float64).sum()) < 1
    np.testing.assert_array_equal(tg.jit(tg.grad(lambda x: (x * x).sum()))(x), 2 * x)
    looped = tg.jit(lambda x: tg.lax.fori_loop(0, 3, lambda i, s: s + (x * x).sum(), 0.0))(x)
    np.testing.assert_allclose(looped, 3 * first[1], rtol=1e-6)
