"""Elementwise work ahead of stretches, and reductions of copies: what is left of programs, and that values stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad import grad, jit, lax, vmap
from tracegrad.ir.verify import verify
from tracegrad.transforms.pipeline import optimize

X = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def names(f: Callable[..., Any], *args: Any) -> list[str]:
    program = optimize(jit(f).lower(*args).program)
    verify(program, "the pipeline")
    return [e.primitive.name for e in program.equations]


CASES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "gradient of tile": (grad(lambda x: jnp.sum(jnp.tile(x, (3, 3)) ** 2)), ["mul", "mul"]),
    "gradient of repeat": (grad(lambda x: jnp.sum(jnp.repeat(x, 3) ** 2)), ["mul", "mul"]),
    "exponential of rows": (lambda x: jnp.exp(jnp.broadcast_to(x[0], (6, 5))), ["slice", "exp", "reshape", "broadcast_in_dim"]),
    "two operands": (
        lambda x: jnp.broadcast_to(x, (3, 4, 5)) * jnp.broadcast_to(x + 1, (3, 4, 5)),
        ["add", "mul", "broadcast_in_dim"],
    ),
    "largest of copies": (lambda x: jnp.max(jnp.broadcast_to(x[:, None], (4, 3, 5)), 1), []),
    "sum over copies and more": (lambda x: jnp.sum(jnp.broadcast_to(x[:, None], (4, 3, 5)), (1, 2)), ["mul", "reduce_sum"]),
    "sum over a dimension of size 1": (
        lambda x: jnp.sum(jnp.broadcast_to(x[:, :1], (4, 7)), 1),
        ["slice", "reshape", "mul"],
    ),
    "sum over what is no copy": (
        lambda x: jnp.sum(jnp.broadcast_to(x[:, None], (4, 3, 5)), 0),
        ["reduce_sum", "broadcast_in_dim"],
    ),
    "integers": (lambda x: jnp.sum(jnp.broadcast_to((10 * x).astype(jnp.int8), (300, 4, 5)), 0, dtype=jnp.int8), None),  # type: ignore[dict-item]
    "half precision": (lambda x: jnp.sum(jnp.broadcast_to(x.astype(jnp.bfloat16), (300, 4, 5)), 0), None),  # type: ignore[dict-item]
    "not a number": (lambda x: jnp.sum(jnp.broadcast_to(jnp.where(x > 0, x, jnp.nan), (3, 4, 5)), 0), None),  # type: ignore[dict-item]
    "different stretches": (lambda x: jnp.broadcast_to(x[:, :1], (4, 5)) + jnp.broadcast_to(x[:1], (4, 5)), None),  # type: ignore[dict-item]
    "in a loop": (lambda x: lax.fori_loop(0, 3, lambda i, y: jnp.sin(jnp.broadcast_to(y[0], (4, 5))) + i, x), None),  # type: ignore[dict-item]
    "conditions": (lambda x: jnp.where(jnp.broadcast_to(x[0] > 0, (4, 5)), jnp.broadcast_to(x[1], (4, 5)), 2.0), None),  # type: ignore[dict-item]
    "batched": (vmap(lambda row: jnp.sum(jnp.tile(row, 4))), None),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", CASES)
def test_values_stay_and_work_is_done_once(name: str) -> None:
    f, left = CASES[name]
    got, wanted = jit(f)(X), f(X)
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    np.testing.assert_allclose(
        np.asarray(got).astype(np.float64), np.asarray(wanted).astype(np.float64), rtol=1e-2 if "half" in name else 1e-5
    )
    found = names(f, X)
    if left is not None:
        assert sorted(n for n in found if n not in ("reshape", "slice")) == sorted(
            n for n in left if n not in ("reshape", "slice")
        )


def test_what_is_read_stretched_elsewhere_stays() -> None:
    def f(x: Any) -> Any:
        rows = jnp.broadcast_to(x[0], (4, 5))
        return jnp.exp(rows), rows + x

    for got, wanted in zip(jit(f)(X), f(X)):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert names(f, X).count("exp") == 1
