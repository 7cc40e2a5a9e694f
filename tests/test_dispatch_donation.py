"""Donated arguments of native calls: what is written over, what is deleted, and what others see of the memory, which never changes."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dispatch_harness import NATIVE, X, dispatch_entry, is_native
from test_donation import FUNCTIONS, N, adam, at, update

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.ir.config import config
from tracegrad.runtime import dispatch, donation, pool
from tracegrad.runtime.array import ArrayImpl, DeletedArray, from_numpy
from tracegrad.runtime.jit import jit

pytestmark = [
    *NATIVE,
    pytest.mark.skipif(not donation.possible(), reason="reference counts do not tell who sees an array"),
]


MAKE = jit(lambda: jnp.sin(jnp.arange(N, dtype=np.float32)))


def fresh() -> ArrayImpl:
    """An array in memory of ours that a native call has returned."""
    x = MAKE()
    while not is_native(x):
        x = MAKE()
    return x


def from_python() -> ArrayImpl:
    """An array in memory of ours that the Python path has returned."""
    with config.override("compiled_dispatch", False):
        x = MAKE()
    assert not is_native(x)
    return x


def native(f: Any, make: Callable[[], tuple[Any, ...]]) -> Any:
    """The function, after calls that have made it native."""
    for _ in range(2):
        f(*make())
    assert f._tables is not None and is_native(f(*make()))
    return f


@pytest.mark.parametrize(
    "make", [fresh, from_python, lambda: X + 0, lambda: jit(lambda x: x)(X)], ids=["ours", "python", "small", "shared"]
)
def test_donated_arrays_are_deleted(make: Callable[[], ArrayImpl]) -> None:
    f = native(jit(lambda x: x * 2, donate_argnums=0), lambda: (make(),))
    for _ in range(3):
        x = make()
        want, address = (x * 2).tolist(), at(x)
        y = f(x)
        assert type(x) is DeletedArray and x.is_deleted() and y.tolist() == want
        assert (at(y) == address) == (make in (fresh, from_python))
        for use in (lambda x=x: np.asarray(x), lambda x=x: f(x), lambda x=x: x + 1, lambda x=x: f.lower(x).compile()(x)):
            with pytest.raises(RuntimeError, match="deleted"):
                use()
        x.delete()
        assert y.tolist() == want
    assert X.tolist() == [0, 1, 2, 3]


def test_an_update_stays_where_it_is() -> None:
    f = jit(adam, donate_argnums=0)
    g = fresh()
    state: Any = (fresh(), fresh(), fresh() ** 2)
    for _ in range(4):
        state = f(state, g)
    assert is_native(state)
    plain = jit(adam)
    for _ in range(3):
        want, places, old = plain(state, g), {at(x) for x in state}, state
        state = f(state, g)
        assert {at(x) for x in state} == places and is_native(state) and all(x.is_deleted() for x in old)
        for x, y in zip(state, want):
            assert x._np.tobytes() == y._np.tobytes()
    assert not g.is_deleted()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_those_without_donation(name: str) -> None:
    f, _ = FUNCTIONS[name]
    want = tracegrad.tree_util.tree_leaves(jit(f)(fresh()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one result has another shape
        g = native(jit(f, donate_argnums=0), lambda: (fresh(),))
    for make in (fresh, from_python):
        got = tracegrad.tree_util.tree_leaves(g(make()))
        assert [x._np.tobytes() for x in got] == [y._np.tobytes() for y in want]


SEEN: dict[str, Callable[[ArrayImpl], Any]] = {
    "an array": np.asarray,
    "a view": lambda x: np.asarray(x)[3:].view(np.int32),
    "a memoryview": lambda x: memoryview(np.asarray(x)),
    "what is under it": lambda x: np.asarray(x).base,
    "another array": lambda x: jit(lambda x: x)(x),
    "a slice": lambda x: x[:7],
    "another library": np.from_dlpack,
    "a capsule": lambda x: x.__dlpack__(),
    "the data": lambda x: x._np,
}


@pytest.mark.parametrize("make", [fresh, from_python], ids=["ours", "python"])
@pytest.mark.parametrize("name", SEEN)
def test_memory_that_others_see_is_not_written_to(name: str, make: Callable[[], ArrayImpl]) -> None:
    f = native(jit(update, donate_argnums=0), lambda: (make(), fresh()))
    x, g = make(), fresh()
    seen = SEEN[name](x)
    look = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * x.size).from_address(at(x)))
    before, address = look.copy(), at(x)
    y = f(x, g)
    assert look.tobytes() == before.tobytes() and at(y) != address and x.is_deleted()
    np.testing.assert_array_equal(y, update(before, np.asarray(g)))
    del seen, y
    x = make()
    address = at(x)
    assert at(f(x, g)) == address
    assert len(f._tables.chain) <= dispatch.TRIALS


def test_arguments_that_see_it() -> None:
    f = native(jit(update, donate_argnums=0), lambda: (fresh(), fresh()))
    x = fresh()
    want = update(x, x)
    with pytest.raises(ValueError, match="twice"):
        f(x, x)
    assert type(x) is ArrayImpl and float(x[1]) != 0
    y = f(x, np.asarray(x))
    np.testing.assert_array_equal(y, want)
    x = fresh()
    same = jit(lambda x: x)(x)
    np.testing.assert_array_equal(f(x, same), want)
    assert x.is_deleted() and not same.is_deleted()
    both = native(jit(lambda x, y: (x + 1, y * 2), donate_argnums=(0, 1)), lambda: (fresh(), fresh()))
    with pytest.raises(ValueError, match="twice"):
        both(same, same)
    assert type(same) is ArrayImpl
    a, b = both(same, fresh())
    assert same.is_deleted() and is_native((a, b))
    small = native(jit(lambda x, y: (x + y, y - x), donate_argnums=0), lambda: (X + 0, X))
    z = X + 0
    with pytest.raises(ValueError, match="twice"):
        small(z, z)
    assert small(z, X)[0].tolist() == [0, 2, 4, 6] and z.is_deleted()


def test_memory_that_is_not_ours() -> None:
    f = native(jit(lambda x: x + 1, donate_argnums=0), lambda: (fresh(),))
    n = fresh().size
    data = np.zeros(n, np.float32)
    x = from_numpy(data, copy=False)
    assert f(x)[0] == 1 and x.is_deleted() and not data.any()
    assert f(data)[0] == 1 and not data.any()
    assert f(np.zeros(n))[0] == 1
    view = fresh().reshape(2, -1).T
    g = jit(lambda x: x + 1, donate_argnums=0)
    for _ in range(3):
        v = fresh().reshape(2, -1).T
        assert g(v).tolist() == (np.asarray(view) + 1).tolist() and v.is_deleted()


def test_arrays_that_come_back() -> None:
    f = native(jit(lambda x, y: (x, x + y, x), donate_argnums=0), lambda: (fresh(), fresh()))
    for make in (fresh, from_python):
        x, y = make(), fresh()
        want, address = np.asarray(x).copy(), at(x)
        r = f(x, y)
        assert x.is_deleted() and at(r[0]) == at(r[2]) == address
        np.testing.assert_array_equal(r[0], want)
        np.testing.assert_array_equal(r[1], want + np.asarray(y))
    small = native(jit(lambda x: (x, x + 1), donate_argnums=0), lambda: (X + 0,))
    made = small(X + 0)[1]  # its data lie in the object
    r = small(made)
    assert made.is_deleted()
    del made
    gc.collect()
    assert r[0].tolist() == [1, 2, 3, 4] and r[1].tolist() == [2, 3, 4, 5]


def test_containers_names_and_numbers() -> None:
    @jit
    def zero() -> Any:
        return {"w": jnp.zeros(4), "b": [jnp.zeros(()), None]}

    f = jit(
        lambda params, step, *, rate, n: ({"w": params["w"] - rate * n, "b": [params["b"][0] + step, None]}, step + 1),
        donate_argnums=0,
        donate_argnames="rate",
        static_argnames="n",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params, step = f(zero(), 0, rate=jnp.asarray(0.5), n=2)
    for _ in range(5):
        old, rate = params, jnp.asarray(0.5)
        params, step = f(params, step, rate=rate, n=2)
        assert old["w"].is_deleted() and old["b"][0].is_deleted()
    assert is_native((params, step)) and params["w"].tolist() == [-6] * 4 and params["b"][0].tolist() == 15 and step.tolist() == 6
    g = native(jit(lambda x, y: (x + y, y), donate_argnums=(0, 1)), lambda: (X + 0, np.ones(4, np.float32)))
    mine = np.ones(4, np.float32)
    r = g(X + 0, mine)
    mine[:] = 5
    assert r[0].tolist() == [1, 2, 3, 4] and r[1].tolist() == [1] * 4


def test_a_kernel_that_fails() -> None:
    f = native(jit(lambda x, y: (x + 1, y * 2), donate_argnums=(0, 1)), lambda: (fresh(), X + 0))
    table = f._tables.chain[-1]
    fails = dispatch_entry(lambda *_: 77)
    entry = dispatch.TABLE["entry"]
    before, table.words[entry] = table.words[entry], fails[1]
    alive = len(dispatch.live_arrays())
    try:
        for _ in range(3):
            x, y = fresh(), X + 0
            with pytest.raises(RuntimeError, match="77"):
                f(x, y)
            assert (
                x.is_deleted() and not y.is_deleted() and y.tolist() == [0, 1, 2, 3]
            )  # as in Python: it may have been written to
            del x, y
    finally:
        table.words[entry] = before
    gc.collect()
    assert len(dispatch.live_arrays()) == alive and is_native(f(fresh(), X + 0))


# ------------------------------------------------------------------------------------------------------------------------- memory


def test_reference_counts() -> None:
    f = native(jit(lambda p, s, g: (p - g, s + 1, g.sum()), donate_argnums=(0, 1)), lambda: (fresh(), X + 0, fresh()))
    p, s, g = fresh(), X + 0, fresh()
    watched = [ArrayImpl, DeletedArray, g, g._np.base, p.aval, s.aval, np.dtype(np.float32), f]
    for _ in range(3):
        p, s, _r = f(p, s, g)
    del _r
    gc.collect()
    counts, blocks, alive = [sys.getrefcount(o) for o in watched], sys.getallocatedblocks(), len(dispatch.live_arrays())
    for _ in range(3000):
        p, s, _ = f(p, s, g)
    del _
    gc.collect()
    assert [sys.getrefcount(o) for o in watched] == counts and len(dispatch.live_arrays()) == alive
    assert sys.getallocatedblocks() - blocks < 200 and s.tolist() == [3003, 3004, 3005, 3006]
    assert sys.getrefcount(p) == 2
    gone = weakref.ref(p._np.base)
    p.delete()
    assert gone() is None


def test_memory_that_no_result_takes_goes_back() -> None:
    f = native(jit(FUNCTIONS["used and then free"][0], donate_argnums=0), lambda: (fresh(),))
    gc.collect()
    pool.clear()
    for _ in range(5):
        f(fresh())
        gc.collect()
    assert pool.kept() <= 4 * pool.size_class(4 * fresh().size)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # memory that cannot be noted down is lost to the pool
def test_allocations_that_fail() -> None:
    testcapi = pytest.importorskip("_testcapi")
    f = native(
        jit(lambda x, y, z: {"a": [x + 1, z + 0], "b": (y * 2,)}, donate_argnums=(0, 1)), lambda: (fresh(), X + 0, np.ones(3))
    )
    gc.collect()
    alive, count = len(dispatch.live_arrays()), sys.getrefcount(ArrayImpl)
    failures = 0
    for n in range(1, 60):
        x, y, z = fresh(), X + 0, np.ones(3)
        testcapi.set_nomemory(n, n + 1)
        try:
            r = f(x, y, z)
        except MemoryError:
            failures += 1
            continue
        finally:
            testcapi.remove_mem_hooks()
        assert r["b"][0].tolist() == [0, 2, 4, 6] and x.is_deleted() and y.is_deleted() and r["a"][0][0] == 1
    del x, y, z, r
    gc.collect()
    assert failures >= 3 and len(dispatch.live_arrays()) == alive and abs(sys.getrefcount(ArrayImpl) - count) < 10


def test_threads() -> None:
    f = native(jit(lambda x, n: x + n, donate_argnums=0), lambda: (fresh(), 1.0))
    looked: list[np.ndarray] = []
    wrong = []

    def work(k: int) -> None:
        x = fresh() * 0
        for i in range(300):
            if i % 7 == k:
                seen = np.asarray(x)
                looked.append(seen[:4].copy())
                before = seen.copy()
            y = f(x, 1.0)
            if i % 7 == k and before.tobytes() != seen.tobytes():
                wrong.append(i)
            x = y
        if x[5] != 300 or x[-1] != 300:
            wrong.append(x)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and looked


def test_one_array_that_threads_compete_for() -> None:
    f = native(jit(lambda x: x + 1, donate_argnums=0), lambda: (fresh(),))
    for _ in range(30):
        x, won = fresh(), []

        def work(x: Any = x, won: list[Any] = won) -> None:
            try:
                won.append(f(x))
            except RuntimeError as e:
                assert "deleted" in str(e)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(won) == 1 and won[0][0] == 1 and x.is_deleted()


def test_finalizers_during_calls() -> None:
    """Memory that is given back runs Python code, and so do collections: they use the same arrays."""
    f = native(jit(lambda t: {"a": [t["a"] + 1], "b": t["b"] + 1}, donate_argnums=0), lambda: ({"a": fresh(), "b": X + 0},))
    tree = {"a": fresh(), "b": X + 0}
    threshold = gc.get_threshold()

    class Loop:
        def __init__(self) -> None:
            self.self = self

        def __del__(self) -> None:
            for x in tree.values():
                if not x.is_deleted():
                    x.delete()
            tree.update(a=jnp.zeros(4), b=X)

    gc.set_threshold(1, 1, 1)
    try:
        for i in range(200):
            tree.update(a=fresh(), b=X + i)
            Loop()
            a, b = tree["a"], tree["b"]
            try:
                r = f({"a": a, "b": b})
            except (RuntimeError, ValueError) as e:
                assert "deleted" in str(e)
                continue
            assert r["b"].shape == (4,) and r["a"][0].ndim == 1
    finally:
        gc.set_threshold(*threshold)
