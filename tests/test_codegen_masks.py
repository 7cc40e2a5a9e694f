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
