"""Batches of matrices, of rows to be sorted and of images under windows, and many right-hand sides of a matrix, are cut into tasks: results
are those of the whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad import disable_jit, jit, jvp, lax, vjp, vmap
from tracegrad.experimental import enable_x64

linalg = jnp.linalg


def tasks(f: Callable[..., Any], *args: Any) -> int:
    """Into how many tasks the parallel regions of the compiled function are cut, at most."""
    return max([int(n) for n in re.findall(r"parallel \S+ in 0\.\.(\d+)", jit(f).lower(*args).loops)], default=1)


BATCHES: dict[str, Callable[[Any], Any]] = {
    "cholesky": lambda a: linalg.cholesky(a @ a.mT + a.shape[-1] * jnp.eye(a.shape[-1])),
    "lu": lambda a: lax.linalg.lu(a)[0],
    "pivots": lambda a: lax.linalg.lu(a)[2],
    "qr": lambda a: linalg.qr(a)[0],
    "eigh": lambda a: linalg.eigh(a + a.mT)[0],
    "eig": lambda a: linalg.eig(a)[0],
    "svd": lambda a: linalg.svd(a, compute_uv=False),
    "schur": lambda a: lax.linalg.schur(a)[0],
    "solve": lambda a: lax.linalg.triangular_solve(a, 2 * a, left_side=True, lower=True),
    "tridiagonal": lambda a: lax.linalg.tridiagonal_solve(a[..., 0, :], a[..., 1, :] + 8, a[..., 2, :], a),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_in_tasks_is_its_examples(name: str) -> None:
    f = BATCHES[name]
    n = 20
    examples = np.random.default_rng(0).normal(size=(60 if name != "tridiagonal" else 100, n, n))
    with enable_x64():
        batched = jit(f)(examples)
        alone = jit(f)
        np.testing.assert_allclose(batched, [alone(x) for x in examples], rtol=1e-9, atol=1e-9)
        assert tasks(f, examples) > 1
        few = examples[:1]
        np.testing.assert_allclose(jit(vmap(f))(few)[0], alone(few[0]), rtol=1e-12)


@pytest.mark.parametrize("shape", ((7, 3000), (40, 2, 400), (3, 5000, 2), (30000,)), ids=str)
@pytest.mark.parametrize("dimension", (0, -1, 1))
def test_sorts_in_tasks(shape: tuple[int, ...], dimension: int) -> None:
    if dimension >= len(shape):
        pytest.skip("no such dimension")
    x = np.random.default_rng(2).integers(0, 1000, size=shape).astype(np.float32)

    def f(x: Any) -> Any:
        return jnp.sort(x, dimension), jnp.argsort(x, dimension)

    values, order = jit(f)(x)
    np.testing.assert_array_equal(values, np.sort(x, dimension))
    np.testing.assert_array_equal(order, np.argsort(x, dimension, kind="stable"))
    assert (tasks(f, x) > 1) == (np.prod(shape[: dimension % len(shape)]) > 1)
    if dimension == -1:
        best, places = jit(lambda x: lax.top_k(x, 2))(x)
        np.testing.assert_array_equal(best, -np.sort(-x)[..., :2])
        np.testing.assert_array_equal(places, np.argsort(-x, kind="stable")[..., :2])


@pytest.mark.parametrize("dtype", (np.float32, np.complex128), ids=str)
@pytest.mark.parametrize("left_side", (True, False))
@pytest.mark.parametrize("others", (64, 257, 321), ids=str)
def test_right_hand_sides_in_tasks(dtype: Any, left_side: bool, others: int) -> None:
    """The last task may have a single right-hand side, which lies among those of others."""
    r = np.random.default_rng(1)
    n = 160
    with enable_x64():
        a = (
            r.normal(size=(n, n)) / n + 2 * np.eye(n) + (1j * r.normal(size=(n, n)) / n if dtype == np.complex128 else 0)
        ).astype(dtype)
        b = r.normal(size=(n, others) if left_side else (others, n)).astype(dtype)
        for transpose, conjugate in ((False, False), (True, False), (False, True), (True, True)):

            def solve(a: Any, b: Any, transpose: bool = transpose, conjugate: bool = conjugate) -> Any:
                return lax.linalg.triangular_solve(
                    a, b, left_side=left_side, lower=True, transpose_a=transpose, conjugate_a=conjugate
                )

            x = np.asarray(jit(solve)(a, b))
            op = np.tril(a).conj() if conjugate else np.tril(a)
            op = op.T if transpose else op
            np.testing.assert_allclose(op @ x if left_side else x @ op, b, rtol=1e-3, atol=1e-4 if dtype == np.float32 else 1e-11)
            assert tasks(solve, a, b) == 4


def test_what_takes_no_time_is_not_cut() -> None:
    assert tasks(linalg.cholesky, np.eye(3, dtype=np.float32)[None].repeat(50, 0)) == 1
    assert tasks(linalg.inv, np.eye(40, dtype=np.float32)) == 1


WINDOWS: dict[str, Any] = {  # shape, window, steps, padding, whether examples come first
    "images": ((21, 60, 60, 3), (1, 3, 2, 1), (1, 2, 2, 1), "SAME", True),
    "images of several features": ((7, 5, 50, 60), (1, 1, 3, 3), (1, 1, 1, 2), "SAME", True),
    "short rows": ((9001, 16), (1, 4), (1, 2), "VALID", True),
    "one row": ((90000,), (4,), (2,), "SAME", False),
    "windows over the first dimension": ((600, 150), (4, 1), (2, 1), "VALID", False),
    "windows of one element": ((300, 300), (1, 1), (1, 1), "VALID", False),
}


@pytest.mark.parametrize("kind", ("max", "add"))
@pytest.mark.parametrize("case", WINDOWS)
def test_windows_in_tasks(case: str, kind: str) -> None:
    shape, *how, cut = WINDOWS[case]
    r = np.random.default_rng(4)
    x, t = (r.integers(-50, 50, shape).astype(np.float32) for _ in range(2))
    start, operation = {"max": (-np.inf, lax.max), "add": (0.0, lax.add)}[kind]

    def pool(x: Any) -> Any:
        return lax.reduce_window(x, start, operation, *how)

    def all_three(x: Any, t: Any) -> Any:
        y, back = vjp(pool, x)
        return y, back(y)[0], jvp(pool, (x,), (t,))[1]

    found = jit(all_three)(x, t)
    with disable_jit():
        wanted = all_three(x, t)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert (tasks(pool, x) > 1) == cut
