"""Donated arrays: their memory is used again where nothing forbids it, and what others see of it never changes."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import jit, lax
from tracegrad.ir.config import config
from tracegrad.runtime import donation
from tracegrad.runtime.array import ArrayImpl

N = donation.SMALLEST // 4


@pytest.fixture(autouse=True)
def _can_be_taken_over() -> None:
    if not donation.possible():
        pytest.skip("reference counts do not tell who sees an array")


def fresh(n: int = N) -> ArrayImpl:
    """An array in memory of ours, as calls return."""
    return jit(lambda: jnp.sin(jnp.arange(n, dtype=np.float32)))()


def at(x: ArrayImpl) -> int:
    return x.unsafe_buffer_pointer()


def update(p: Any, g: Any) -> Any:
    return p - 0.5 * g


def adam(state: Any, g: Any) -> Any:
    p, m, v = state
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    return p - 0.1 * m / (jnp.sqrt(v) + 1e-3), m, v


def test_an_update_is_written_where_the_donated_array_lay() -> None:
    f = jit(update, donate_argnums=0)
    p, g = fresh(), fresh()
    for _ in range(4):
        before, want = at(p), update(p, g)
        old, p = p, f(p, g)
        assert at(p) == before and old.is_deleted() and not g.is_deleted()
        np.testing.assert_allclose(p, want, rtol=1e-6)


def test_states_of_several_arrays() -> None:
    f = jit(adam, donate_argnums=0)
    state = [fresh(), fresh(), jnp.square(fresh())]
    g = fresh()
    state = f(tuple(state), g)  # eager results lie in NumPy's memory
    for _ in range(3):
        before, want = {at(x) for x in state}, adam(state, g)
        state = f(state, g)
        assert {at(x) for x in state} == before
        for x, y in zip(state, want):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def heat(x: Any) -> Any:
    return lax.fori_loop(0, 5, lambda _, u: u.at[1:-1].set(0.5 * (u[2:] + u[:-2])), x)


FUNCTIONS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "elementwise": (lambda x: jnp.sin(x) + 1, True),
    "a window set": (lambda x: x.at[3:9].set(7.0), True),
    "scattered": (lambda x: x.at[jnp.arange(5) * 11].add(1.0), True),
    "another shape": (lambda x: jnp.cos(x.reshape(64, -1)), True),
    "other numbers": (lambda x: (x * 100).astype(np.int32), True),
    "a loop that updates": (lambda x: lax.fori_loop(0, 9, lambda i, u: u.at[i].multiply(2.0), x), True),
    "a loop over all": (lambda x: lax.fori_loop(0, 3, lambda i, u: jnp.sin(u), x), True),
    "used and then free": (lambda x: jnp.arange(N, dtype=np.float32) * x.sum(), True),
    "several loops": (lambda x: jnp.cumsum(jnp.cumsum(x * 1e-3)) * 2, True),
    "a stencil": (heat, False),
    "reversed": (lambda x: x[::-1] * 2, False),
    "transposed": (lambda x: x.reshape(128, -1).T * 2.0, False),
    "read again": (lambda x: (jnp.sin(x), x[::-1] + 1, x.sum()), False),
    "sorted": (lambda x: jnp.sort(x) * 2, False),
    "twice": (lambda x: (jnp.sin(x), jnp.cos(x)), True),
    "with a sum": (lambda x: (x - x.mean(), (x * x).sum()), True),
    "rows": (lambda x: jnp.exp(x.reshape(256, -1)) / jnp.exp(x.reshape(256, -1)).sum(1, keepdims=True), True),
    "branches": (lambda x: lax.cond(x[3] > 0, lambda x: x[::-1] * 1.0, lambda x: x + 1, x), False),
    "while": (lambda x: lax.while_loop(lambda s: s[1] < 4, lambda s: (s[0] * 0.5, s[1] + 1), (x, 0))[0], True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_those_without_donation(name: str) -> None:
    f, reused = FUNCTIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one result has another shape
        g = jit(f, donate_argnums=0)
        g.lower(fresh())
    want = jit(f)(fresh())
    x = fresh()
    seen = fresh()
    looking = np.asarray(seen)
    kept = looking.copy()
    places = []
    for given in (x, seen, np.asarray(fresh()).copy()):
        places.append(at(given) if isinstance(given, ArrayImpl) else -1)
        got = g(given)
        one = got if isinstance(got, tuple) else (got,)
        for a, b in zip(one, want if isinstance(want, tuple) else (want,), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        if given is x and one[0].shape == (N,) and one[0].dtype == np.float32:
            assert (at(one[0]) == places[0]) == reused
    np.testing.assert_array_equal(looking, kept)


@pytest.mark.parametrize(
    "see",
    [
        np.asarray,
        lambda x: np.asarray(x)[5:100],
        lambda x: memoryview(np.asarray(x)),
        lambda x: np.from_dlpack(x),
        lambda x: next(iter(x.reshape(4, -1))),
        lambda x: jit(lambda x: x)(x),
        lambda x: [jit(lambda x: (x, x.sum()))(x) for _ in range(4)],
        lambda x: x.reshape(2, -1),
    ],
)
def test_what_others_see_stays(see: Callable[[Any], Any]) -> None:
    f = jit(update, donate_argnums=0)
    p = f(fresh(), fresh())
    values = np.asarray(p).copy()
    seen = see(p)
    q = f(p, fresh())
    assert p.is_deleted()
    np.testing.assert_allclose(q, values - 0.5 * np.asarray(fresh()), rtol=1e-6)
    first = seen[-1][0] if isinstance(seen, list) else seen
    flat = np.asarray(first).reshape(-1)
    start = 5 if flat.size == 95 else 0
    np.testing.assert_array_equal(flat, values[start : start + flat.size])
    del seen, first, flat
    before = at(q)
    assert at(f(q, fresh())) == before


def test_memory_of_others_is_never_written() -> None:
    f = jit(update, donate_argnums=0)
    mine = np.ones(N, np.float32)
    f(mine, fresh())
    shared = jnp.asarray(mine)
    f(shared, fresh())
    f(jnp.asarray(mine, copy=False), fresh())
    f(jnp.from_dlpack(mine), fresh())
    assert (mine == 1).all()


def test_an_array_that_the_function_closes_over() -> None:
    x = fresh()
    values = np.asarray(x).copy()
    y = jit(lambda p: p + x[::-1], donate_argnums=0)(x)
    np.testing.assert_allclose(y, values + values[::-1], rtol=1e-6)


def test_an_array_that_comes_back_is_not_overwritten() -> None:
    f = jit(lambda x: (x, x + 1), donate_argnums=0)
    x = fresh()
    values = np.asarray(x).copy()
    same, more = f(x)
    np.testing.assert_array_equal(same, values)
    np.testing.assert_array_equal(more, values + 1)


def test_small_arrays_are_deleted_only() -> None:
    f = jit(lambda x: x + 1, donate_argnums=0)
    x = jit(lambda: jnp.arange(10.0))()
    assert f(x)[1] == 2 and x.is_deleted()
    assert not f.lower(jnp.arange(10.0)).compile()._executable.donated


def test_results_of_native_calls_are_taken_over() -> None:
    make = jit(lambda x: jnp.sin(x))
    f = jit(update, donate_argnums=0)
    g = fresh()
    for _ in range(6):
        p = make(g)
        before = at(p)
        assert at(f(p, g)) == before


def test_errors_of_callbacks_leave_a_deleted_array() -> None:
    def fail(x: Any) -> Any:
        raise ValueError("no")

    def f(x: Any) -> Any:
        y = x * 2
        return y + tracegrad.pure_callback(fail, tracegrad.ShapeDtypeStruct((), np.float32), y[0])

    x = fresh()
    with pytest.raises(Exception, match="no"):
        jit(f, donate_argnums=0)(x)
    assert x.is_deleted()


def test_the_disk_cache_knows_what_is_donated(tmp_path: Path) -> None:
    with config.override("cache", True), config.override("cache_dir", str(tmp_path)):
        for _ in range(2):
            tracegrad.clear_caches()
            plain, giving = jit(update), jit(update, donate_argnums=0)
            p, g = fresh(), fresh()
            values = np.asarray(p).copy()
            plain(p, g)
            np.testing.assert_array_equal(p, values)
            before = at(p)
            assert at(giving(p, g)) == before


def test_stages_say_what_is_reused() -> None:
    lowered = jit(update, donate_argnums=0).lower(fresh(), fresh())
    assert "writes out0 over in0, which was donated and is not read any more" in lowered.explain()[0].memory
    assert lowered.compile().memory_analysis().alias_size_in_bytes == 4 * N
    (kernel,) = jit(FUNCTIONS["reversed"][0], donate_argnums=0).lower(fresh()).explain()
    assert any(note.startswith("in0 was donated, but out0 has memory of its own") for note in kernel.memory)
    assert all((k.stores or 0) < 100 for k in jit(FUNCTIONS["a window set"][0], donate_argnums=0).lower(fresh()).explain())


def test_profiles_consume_nothing() -> None:
    p, g = fresh(), fresh()
    values = np.asarray(p).copy()
    jit(update, donate_argnums=0).lower(p, g).explain(p, g, profile=True)
    np.testing.assert_array_equal(p, values)


def test_arrays_donated_while_other_threads_read_them() -> None:
    f = jit(update, donate_argnums=0)
    big = 40 * N
    g = fresh(big)
    wrong: list[Any] = []

    def read(x: Any, want: float) -> None:
        try:
            got = float(np.asarray(x)[:100].sum())
        except RuntimeError:
            return
        if abs(got - want) > 1e-3:
            wrong.append((got, want))

    for _ in range(10):
        p = f(fresh(big), g)
        want = float(np.asarray(p)[:100].sum())
        threads = [threading.Thread(target=read, args=(p, want)) for _ in range(3)]
        for t in threads:
            t.start()
        f(p, g)
        for t in threads:
            t.join()
    assert not wrong
