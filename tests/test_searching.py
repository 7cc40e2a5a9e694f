"""Searches in sorted rows, and what is made of them, in native code: searchsorted, digitize, histograms, interp, isin."""

from __future__ import annotations

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad.codegen import target
from tracegrad.ir import ops
from tracegrad.ir.types import bfloat16

RNG = np.random.default_rng(0)


def comparable(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype in (bfloat16, np.float16) else x


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 17, 31, 33, 100, 1000, 5000])
@pytest.mark.parametrize("m", [1, 5, 3000])
def test_positions(n, m):
    """Rows shorter and longer than what is chosen from registers; single values, and as many as are searched for by vectors."""
    a, v = RNG.normal(size=n).astype(np.float32), RNG.normal(size=m).astype(np.float32)
    a = np.sort(np.round(a, 1))
    v = np.round(v, 1)
    v[::7] = np.nan
    v[-1] = a[n // 2]
    if n > 4:
        a[-2:] = np.nan
    left, right = tg.jit(lambda a, v: (ops.searchsorted(a, v), ops.searchsorted(a, v, "right")))(a, v)
    np.testing.assert_array_equal(left, np.searchsorted(a, v))
    np.testing.assert_array_equal(right, np.searchsorted(a, v, "right"))


@pytest.mark.parametrize("dtype", ["float16", bfloat16, "float64", "bool", "int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_dtypes(dtype):
    dtype = np.dtype(dtype)
    with tg.enable_x64(True):
        a, v = (abs(RNG.normal(size=n) * 50).astype(dtype) for n in (70, 300))
        if dtype.kind == "i":
            a[::2], v[::2] = -a[::2], -v[::2]
        elif dtype.kind == "u":
            a[:3], v[:3] = np.iinfo(dtype).max, np.iinfo(dtype).max - 1
        a = np.sort(comparable(a)).astype(dtype)
        for side in ("left", "right"):
            found = tg.jit(lambda a, v, side=side: ops.searchsorted(a, v, side))(a, v)
            np.testing.assert_array_equal(found, np.searchsorted(comparable(a), comparable(v), side))


def test_rows_and_batches():
    a, v = np.sort(RNG.normal(size=(4, 30))), RNG.normal(size=(4, 50, 2))
    expected = np.stack([np.searchsorted(r, w) for r, w in zip(a, v)])
    np.testing.assert_array_equal(tg.jit(ops.searchsorted)(a, v), expected)
    np.testing.assert_array_equal(tg.jit(tg.vmap(jnp.searchsorted))(a, v), expected)
    both = tg.jit(tg.vmap(tg.vmap(jnp.searchsorted, (None, 1), 1)))(a, v)
    np.testing.assert_array_equal(both, expected)
    np.testing.assert_array_equal(tg.vmap(jnp.searchsorted, (0, None))(a, v[0]), [np.searchsorted(r, v[0]) for r in a])
    with pytest.raises(TypeError, match=r"whose shape begins with that of the rows, got f32\[4,30\] and f32\[3,2\]"):
        ops.searchsorted(np.float32(a), np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("size", [1, 40, 2000])
@pytest.mark.parametrize("right", [False, True])
def test_digitize_in_both_orders(size, right):
    x = np.round(RNG.normal(size=size), 1).astype(np.float32)
    bins = np.linspace(-1, 1, 21).astype(np.float32)
    x[: size // 3] = bins[RNG.integers(0, 21, size // 3)]
    for b in (bins, bins[::-1].copy(), bins[:1], np.zeros(3, np.float32)):
        expected = np.digitize(x, b, right)
        np.testing.assert_array_equal(tg.jit(lambda x, b: jnp.digitize(x, b, right))(x, b), expected)
        np.testing.assert_array_equal(jnp.digitize(x, b, right), expected)
        np.testing.assert_array_equal(tg.jit(lambda x, b=b: jnp.digitize(x, b, right))(x), expected)
    stacked = np.stack([bins, bins[::-1]])
    found = tg.jit(tg.vmap(lambda b: jnp.digitize(x, b, right)))(stacked)
    np.testing.assert_array_equal(found, [np.digitize(x, b, right) for b in stacked])


def test_histogram_counts_edges():
    x = np.concatenate([RNG.normal(size=5000), np.linspace(-2, 2, 41)]).astype(np.float32)
    edges = np.linspace(-2, 2, 41).astype(np.float32)
    counts, found = tg.jit(lambda x: jnp.histogram(x, edges))(x)
    np.testing.assert_array_equal(found, edges)
    np.testing.assert_array_equal(counts, np.histogram(x, edges)[0])
    counts, edges = tg.jit(lambda x: jnp.histogram(x, bins=30))(x)
    np.testing.assert_array_equal(counts, np.histogram(x, np.asarray(edges))[0])
    weighted = tg.jit(lambda x: jnp.histogram(x, edges, weights=2 * x)[0])(x)
    np.testing.assert_allclose(weighted, np.histogram(x, np.asarray(edges), weights=2 * x)[0], rtol=1e-3, atol=1e-3)
    assert tg.jit(lambda x: jnp.histogram(x, 4, (0, 1))[0])(np.zeros(0, np.float32)).sum() == 0


def test_interp_and_its_slope():
    xs = np.sort(RNG.normal(size=60)).astype(np.float32)
    ys = RNG.normal(size=60).astype(np.float32)
    x = np.linspace(-4, 4, 2001).astype(np.float32)
    found = tg.jit(lambda x: jnp.interp(x, xs, ys))(x)
    np.testing.assert_allclose(found, np.interp(x, xs, ys), rtol=2e-4, atol=2e-5)
    inner = np.float32((xs[:-1] + xs[1:]) / 2)
    slopes = tg.jit(tg.vmap(tg.grad(lambda x: jnp.interp(x, xs, ys))))(inner)
    np.testing.assert_allclose(slopes, np.diff(ys) / np.diff(xs), rtol=1e-3)
    np.testing.assert_array_equal(tg.jit(lambda a: jnp.isin(a, jnp.arange(50)))(np.arange(5000)), np.arange(5000) < 50)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000, 4096])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_positions_of_true_elements(n, share):
    x = RNG.random((3, n)) < share
    for size in (1, n // 2, int(x.sum(1).max()), n, n + 100):
        places, counts = tg.jit(lambda x, size=size: ops.nonzero(x, size))(x)
        expected = np.full((3, size), n)
        for row, mask in zip(expected, x):
            found = np.flatnonzero(mask)[:size]
            row[: len(found)] = found
        np.testing.assert_array_equal(places, expected)
        np.testing.assert_array_equal(counts, x.sum(1))


def test_nonzero_in_several_dimensions():
    x = np.where(RNG.random((7, 30, 11)) < 0.2, RNG.normal(size=(7, 30, 11)), 0).astype(np.float32)
    known = np.nonzero(x)
    size = len(known[0]) + 20
    found = tg.jit(lambda x: jnp.nonzero(x, size=size, fill_value=(-1, -2, -3)))(x)
    for d, (f, k) in enumerate(zip(found, known)):
        np.testing.assert_array_equal(f, np.concatenate([k, np.full(20, -1 - d)]))
    np.testing.assert_array_equal(tg.jit(lambda x: jnp.argwhere(x, size=size - 20))(x), np.argwhere(x))
    flat = tg.jit(tg.vmap(lambda x: jnp.flatnonzero(x > 0, size=40)))(x)
    np.testing.assert_array_equal(flat, [np.pad(f := np.flatnonzero(r > 0)[:40], (0, 40 - len(f))) for r in x])
    np.testing.assert_array_equal(tg.jit(lambda x: jnp.unique(x, size=size))(x)[: size - 20], np.unique(x)[: size - 20])


@pytest.mark.parametrize("bits", (128, 256))
def test_vectors_of_other_processors(bits, monkeypatch):
    own = target.host()
    if bits > own.vector_bits or not own.triple.startswith("x86_64"):
        pytest.skip("this processor has no such vectors")
    narrow = target.Target(own.triple, {128: "x86-64", 256: "x86-64-v3"}[bits], "", bits)
    monkeypatch.setattr(target, "host", lambda: narrow)
    x = RNG.normal(size=1000).astype(np.float32)
    row = np.sort(RNG.normal(size=100)).astype(np.float32)
    places, found, best = tg.jit(lambda x, row: (jnp.flatnonzero(x > 0.3, size=700), jnp.searchsorted(row, x), x.argmax()))(x, row)
    np.testing.assert_array_equal(places[: (x > 0.3).sum()], np.flatnonzero(x > 0.3))
    np.testing.assert_array_equal(found, np.searchsorted(row, x))
    assert best == x.argmax()


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bool", "complex64"])
@pytest.mark.parametrize("asked", [{}, {"return_counts": True}, {"return_index": True}, {"return_inverse": True}])
def test_unique_elements(dtype, asked):
    x = (RNG.integers(-20, 20, 500) / 2).astype(dtype) if dtype != "uint8" else RNG.integers(0, 99, 500).astype(dtype)
    if dtype == "float32":
        x[:5], x[7] = np.nan, -0.0
    for size in (3, 150):
        found = tg.jit(lambda x, size=size: jnp.unique(x, size=size, fill_value=77, **asked))(x)
        known = np.unique(x, **asked)
        for f, k in zip(found if asked else (found,), known if asked else (known,)):
            n = len(x) if len(f) == len(x) else min(size, len(k))
            np.testing.assert_array_equal(f[:n], k[:n])


def test_slope_of_unique_elements():
    x = np.float32([3, 1, 3, 2])
    slopes = tg.jit(tg.jacobian(lambda x: jnp.unique(x, size=3)))(x)
    np.testing.assert_array_equal(slopes, [[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
