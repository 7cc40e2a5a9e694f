"""Rows whose last elements do not fill a vector: they are a masked vector where each costs much, and never more than they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad.codegen import target


def softmax(x: Any) -> Any:
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def text(n: int) -> str:
    return tg.jit(softmax).lower(np.ones((40, n), np.float32)).as_text("llvm")


@pytest.mark.skipif(target.host().vector_bits != 512, reason="masks are cheap with 512 bits")
@pytest.mark.parametrize(
    ("length", "masked"), [(15, False), (20, False), (23, True), (63, True), (64, False), (100, False), (191, False)]
)
def test_where_masks_pay(length: int, masked: bool) -> None:
    assert ("vectorize.predicate" in text(length)) == masked


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_at_every_length(dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(3, 48)).astype(dtype)
    x[0, 5], x[1, 22], x[2, 17] = -np.inf, np.nan, 7.0
    lengths = range(16, 48, 3)
    with tg.enable_x64(True):
        found = tg.jit(lambda x: [(x[:, :n].max(-1), x[:, :n].min(-1), softmax(x[:, :n])) for n in lengths])(x)
    for n, (most, least, rows) in zip(lengths, found, strict=True):
        part = x[:, :n]
        np.testing.assert_array_equal(np.asarray(most), part.max(-1))
        np.testing.assert_array_equal(np.asarray(least), part.min(-1))
        e = np.exp(part.astype(float) - part.max(-1, keepdims=True))
        np.testing.assert_allclose(np.asarray(rows), e / e.sum(-1, keepdims=True), rtol=1e-6 if dtype == np.float32 else 1e-13)


@pytest.mark.skipif(target.host().vector_bits != 512, reason="masks are cheap with 512 bits")
@pytest.mark.parametrize("length", [21, 31, 63])
def test_masks_of_what_is_gathered(length: int) -> None:
    """LLVM would compute one exponential after the other rather than gather under a mask; its vectors, and what they give."""
    r = np.random.default_rng(0)
    x, table = (r.normal(size=s).astype(np.float32) for s in ((5, length), (5, 40)))
    places = r.integers(0, 40, x.shape).astype(np.int32)
    f = tg.jit(lambda x, t, i: jnp.exp(x + jnp.take_along_axis(t, i, 1)))
    assert [k.vectors for k in f.lower(x, table, places).explain() if k.elementary] == ["16 x f32"]
    np.testing.assert_allclose(f(x, table, places), np.exp(x + np.take_along_axis(table, places, 1)), rtol=1e-6)
    backwards = tg.jit(lambda x: jnp.exp(x[:, ::-1])).lower(x)  # LLVM reads these at no price: it may choose the width itself
    assert "vectorize.predicate" in backwards.as_text("llvm") and "vectorize.width" not in backwards.as_text("llvm")


@pytest.mark.skipif(target.host().vector_bits != 512, reason="half the width, where that is 16 numbers")
def test_what_is_only_gathered_takes_half_the_width() -> None:
    x, places = np.random.default_rng(0).normal(size=500).astype(np.float32), (np.arange(2000, dtype=np.int32) * 7) % 500
    f = tg.jit(lambda x, i: jnp.where(x[i] > 0, i, -i))
    (kernel,) = [k for k in f.lower(x, places).explain() if k.runs and any(o.name == "gather" for o in k.operations)]
    assert kernel.vectors.startswith("8 x")
    np.testing.assert_array_equal(f(x, places), np.where(x[places] > 0, places, -places))
    g = tg.jit(lambda x, i: x[i] * x[i[::-1]] + x[i])
    assert {k.vectors for k in g.lower(x, places).explain() if any(o.name == "mul" for o in k.operations)} == {"16 x f32"}


@pytest.mark.parametrize("n", [21, 64])
def test_llvm_is_told_nothing_that_it_cannot_do(n: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Where a loop is not vectorized as it must be, LLVM writes so to the standard error of whoever runs the program."""

    def step(s: Any, row: Any) -> Any:
        best = jnp.argmax(s[row] + row, 0)
        return jnp.exp(s[row % n] - s.max()).at[row[::-1]].add(s[row]), s[row][best]

    rows = np.random.default_rng(0).integers(0, n, (30, n)).astype(np.int32)
    last, found = tg.jit(lambda s, rows: tg.lax.scan(step, s, rows))(np.linspace(0, 1, n).astype(np.float32), rows)
    assert np.isfinite(last).all() and found.shape == (30,)
    assert capfd.readouterr().err == ""
