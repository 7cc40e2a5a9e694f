"""Padding between elements: it is written first, the elements after it; what negative padding cuts off is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad import grad, jit, lax

CONFIGS = [
    [(0, 0, 1), (0, 0, 0)],
    [(0, 0, 0), (0, 0, 2)],
    [(3, 1, 1), (2, 0, 4)],
    [(-1, -2, 2), (-3, -1, 1)],
    [(-7, 5, 1), (1, -9, 3)],
    [(-40, 100, 1), (0, 0, 1)],
    [(60, -70, 1), (0, 0, 3)],
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_padding_between_elements(config: list[tuple[int, int, int]]) -> None:
    x = np.random.default_rng(0).normal(size=(13, 17)).astype(np.float32)

    def pad(x: Any, value: Any) -> Any:
        return lax.pad(x, value, config)

    wanted = np.asarray(pad(x, np.float32(7)))
    np.testing.assert_array_equal(jit(pad)(x, np.float32(7)), wanted)
    np.testing.assert_array_equal(jit(lambda x, v: pad(2 * x, v + 1))(x, np.float32(7)), np.asarray(pad(2 * x, np.float32(8))))
    np.testing.assert_array_equal(
        jit(lambda x, v: pad(x[::-1].T.T, v) + 1)(x, np.float32(7)), np.asarray(pad(x[::-1], np.float32(7))) + 1
    )
    squares = grad(lambda x: jnp.sum(pad(x, np.float32(0)) ** 2))
    np.testing.assert_allclose(jit(squares)(x), squares(x))


@pytest.mark.parametrize(
    "f", (lambda x: jnp.sum(jnp.diag(x) ** 2), lambda x: jnp.sum(x[1::3, ::2] ** 2)), ids=("diagonal", "steps")
)
def test_cotangents_of_few_elements_are_written_without_a_division(f: Any) -> None:
    x = np.random.default_rng(0).normal(size=(30, 30)).astype(np.float32)
    np.testing.assert_allclose(jit(grad(f))(x), grad(f)(x))
    loops = jit(grad(f)).lower(x).loops
    assert "srem" not in loops and "sdiv" not in loops
