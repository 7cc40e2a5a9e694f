"""Native calls with NumPy values that the kernel cannot read as they are: other widths, views, scalars; what NumPy warns of."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from dispatch_harness import NATIVE, X, check, is_native

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.ir.config import config
from tracegrad.runtime import dispatch, dispatch_tables, pool
from tracegrad.runtime.array import ArrayImpl, from_numpy
from tracegrad.runtime.jit import jit

pytestmark = NATIVE

RNG = np.random.default_rng(3)
MATRIX = RNG.standard_normal((6, 10))


def same(x: Any) -> Any:
    """The argument, changed and as it is."""
    return x + x, x


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 37, 1000])
@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64, np.complex128])
def test_wide_arrays(dtype: Any, n: int) -> None:
    x = (RNG.standard_normal(n) * 1e3).astype(dtype)
    result = check(jit(same), x)
    assert result[1].dtype.itemsize == x.itemsize // 2 and result[1].shape == (n,)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_wide_integers_lose_their_upper_half(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    x = np.array([top, top - 5, 2**31, 2**31 - 1, 2**32, 2**32 + 7, 0, 1, 3, 2**40 + 11] * 2, dtype)
    assert check(jit(same), x)[1].tolist() == x.astype(np.dtype(f"{x.dtype.kind}4")).tolist()


def test_rounding_is_that_of_numpy() -> None:
    x = np.concatenate(
        [2.0 ** RNG.uniform(-160, 127, 999) * RNG.choice([-1, 1], 999), [1 + 2.0**-24, 1 + 3 * 2.0**-24, -0.0, 1e-320]]
    )
    assert check(jit(same), x)[1]._np.tobytes() == x.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    "x",
    [
        MATRIX.T,
        MATRIX[::2, 1:],
        MATRIX[::-1],
        MATRIX.astype(np.float32).T,
        MATRIX.astype(np.float32)[:, ::3],
        np.asfortranarray(MATRIX.astype(np.float32)),
        np.broadcast_to(np.float32(3), (4, 5)),
        MATRIX.astype(">f4"),
        MATRIX.astype(">f8"),
        (MATRIX * 100).astype(">i8"),
        MATRIX.astype(np.complex64).T,
        (MATRIX > 0).T,
        (MATRIX * 10).astype(np.int8)[:, ::2],
        MATRIX.astype(np.float16).T,
        np.frombuffer(b"x" + MATRIX.tobytes(), np.uint8)[1:].view(np.float64).reshape(6, 10),
        np.frombuffer(b"x" + MATRIX.astype(np.float32).tobytes(), np.uint8)[1:].view(np.float32),
        np.zeros((3, 0)).T,
        np.array(2.5),
        np.array(7),
        np.ones((300, 300)),
        np.ones((300, 300), np.float32).T,
    ],
    ids=lambda x: f"{x.dtype.str}-{x.shape}-{x.strides}",
)
def test_views_and_orders(x: np.ndarray) -> None:
    before = x.copy()
    check(jit(lambda x: (x * 3, x, x) if x.size < 1000 else x * 3), x)
    assert np.array_equal(x, before)


@pytest.mark.parametrize(
    "x",
    [
        np.float16(2.5),
        np.float32(2.5),
        np.float64(1 / 3),
        np.int8(-7),
        np.int16(-7),
        np.int32(-(2**31)),
        np.int64(-5),
        np.int64(2**40 + 3),
        np.uint8(200),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.bool_(False),
        np.complex64(1 - 2j),
        np.complex128(1 / 3 - 2j),
        np.float64("nan"),
        np.float64("-inf"),
    ],
    ids=lambda x: f"{type(x).__name__}-{x}",
)
def test_numpy_scalars(x: Any) -> None:
    result = check(jit(same), x)
    assert not result[1].weak_type and result[1].shape == ()
    check(jit(lambda a, x: a + x), X, x)


def test_scalars_of_different_types_are_not_taken_for_each_other() -> None:
    f = jit(lambda x: x * 2)
    values = [np.float64(2.5), 2.5, np.float32(2.5), np.int64(2), np.int32(2), 2, np.bool_(True), True, np.complex128(2j), 2j]
    for x in values * 3:
        r = f(x)
        assert r.tolist() == x * 2 and r.weak_type == (type(x) in (bool, np.bool_, int, float, complex)), x
    assert all(is_native(f(x)) for x in values)
    assert f(np.float64(4.5)).tolist() == 9 and f(np.int64(7)).tolist() == 14 and f(4.25).weak_type


def test_other_dtypes_and_shapes_are_not_taken_for_the_same() -> None:
    f = jit(lambda x: x + x)
    base = np.arange(12.0).reshape(3, 4)
    kinds = [base.astype(d) for d in (np.float64, np.float32, np.int64, np.int32, np.uint64, np.complex128, ">f8", np.int8)]
    for x in kinds * 3:
        assert f(x).tolist() == (base * 2).tolist() and f(x.T).tolist() == (base * 2).T.tolist()
    assert all(is_native(f(x)) for x in kinds)
    assert f(base.reshape(4, 3)).shape == (4, 3) and f(base[None]).shape == (1, 3, 4)
    assert f(base.view(np.matrix)).tolist() == (base * 2).tolist()


def test_what_is_given_back_is_not_the_callers() -> None:
    f = jit(lambda x, y, z: (x, y, z))
    for _ in range(3):
        mine = [np.ones(3), np.ones(3, np.float32), np.ones((3, 3), np.float32)]
        x, y, z = f(mine[0], mine[1], mine[2].T)
        for a in mine:
            a[:] = 7
        assert x.tolist() == y.tolist() == z[0].tolist() == [1, 1, 1]
        for r in (x, y, z):
            assert not np.asarray(r).flags.writeable
    assert is_native((x, y, z))
    deleted, kept = f(mine[0], mine[1], mine[2])[0], f(mine[0], mine[1], mine[2])[0]
    deleted.delete()
    assert kept.tolist() == [7, 7, 7] and deleted.is_deleted()


def test_views_of_arrays() -> None:
    x = from_numpy(np.arange(24, dtype=np.float32).reshape(4, 6))
    f = jit(lambda x: (x + 1, x))
    check(f, x.T)
    check(f, x[:, ::2])
    check(f, x.astype(jnp.bfloat16).T)
    check(f, x.T.astype(np.int8))
    keys = tracegrad.random.split(tracegrad.random.key(0), 6).reshape(2, 3)
    g = jit(lambda k: tracegrad.random.key_data(k))
    for k in (keys.T, keys[:, 1], keys[:, ::2]):
        g(k), g(k)
        assert g(k).tolist() == tracegrad.random.key_data(k).tolist() and is_native(g(k))


def test_wide_values_in_containers_and_with_names() -> None:
    f = jit(lambda t, *, k: {"a": t["a"] + t["b"][0], "k": k * 2, "n": t["n"]})
    check(f, {"a": np.arange(4.0), "b": [np.arange(8)[::2]], "n": np.float64(3)}, k=np.int64(3))


def test_wide_types_that_are_asked_for() -> None:
    config.update("enable_x64", True)
    try:
        f = jit(same)
        for x in (
            MATRIX,
            MATRIX.T,
            MATRIX.astype(">f8"),
            np.float64(1 / 3),
            np.int64(2**40),
            np.uint64(2**63),
            np.complex128(1e300j),
        ):
            assert check(f, x)[1].dtype == x.dtype.newbyteorder("=")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert f(np.float64(1e300))[1].tolist() == 1e300 and f(1e300)[1].tolist() == 1e300
    finally:
        config.update("enable_x64", False)
    assert f(MATRIX)[1].dtype == np.float32


# ------------------------------------------------------------------------------------------------------------- what NumPy warns of

OVERFLOWING = [
    np.array([1.0, 1e300, 2.0]),
    np.array([1.0] * 16 + [-1e300]),
    np.array([1.0, 1e300j]),
    np.array([[1.0, 1e300], [0, 0]]).T,
    np.array(1e300),
    np.float64(1e300),
    np.complex128(1e300),
    1e300,
    1e300j,
]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("x", OVERFLOWING, ids=repr)
def test_overflow(x: Any) -> None:
    f = jit(lambda x: x * 2)
    check(f, x)
    counts = []
    for _ in range(20):
        gc.collect()
        counts.append(sys.getrefcount(x))
        with pytest.warns(RuntimeWarning, match="overflow encountered in cast"):
            assert is_native(f(x))
        with np.errstate(over="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error")
            f(x)
        with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
            f(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="overflow"):
                f(x)
    assert len(set(counts[2:])) == 1 and len(f._tables.chain) == 1


@pytest.mark.parametrize(
    "x", [np.array([1.0, np.inf, -np.inf] * 5), np.array([np.nan] * 9), np.float64("inf"), float("-inf"), 1j * np.inf]
)
def test_what_is_not_finite_is_no_overflow(x: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(jit(lambda x: (abs(x), x)), x)


@pytest.mark.filterwarnings("ignore:overflow")
def test_warnings_that_run_code_on_the_arguments() -> None:
    items = [np.array([1e300, 1.0]), [X + 1], np.array([2.0, 1e300])]
    f = jit(lambda t: (t[0] * 0, t[1][0] + 1, t[2] - t[2]))
    check(f, items)
    shown = []

    def show(*args: Any, **kwargs: Any) -> None:
        shown.append(args)
        items.clear()
        items.extend([np.zeros(2), [X], np.zeros(2)])
        gc.collect()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        r = f(items)
    assert is_native(r) and shown and r[1].tolist() == [2, 3, 4, 5] and len(items) == 3
    assert np.isnan(r[0].tolist()[0]) and r[0].tolist()[1] == 0


# ------------------------------------------------------------------------------------------------------------------------- memory


def test_reference_counts() -> None:
    x = np.arange(4.0)
    t = MATRIX.astype(np.float32).T
    s = np.float64(2.5)
    mine = from_numpy(np.ones((2, 3), np.float32)).T
    big = np.ones(pool.SMALLEST // 4)
    f = jit(lambda x, t, s, m, b: (x, {"t": t, "s": s}, m + 1, m, b, b + 1))
    check(f, x, t, s, mine, big)
    watched = [x, t, s, mine, mine._np, big, ArrayImpl, np.dtype(np.float32), np.dtype(np.float64), mine.aval]
    gc.collect()
    before = [sys.getrefcount(o) for o in watched]
    alive = len(dispatch.live_arrays())
    for _ in range(50):
        f(x, t, s, mine, big)
    gc.collect()
    assert [sys.getrefcount(o) for o in watched] == before and len(dispatch.live_arrays()) == alive


def test_memory_does_not_grow() -> None:
    f = jit(lambda x, t, s: (x, t + s))
    args = np.arange(4.0), MATRIX.astype(np.float32).T, np.float64(2.5)
    check(f, *args)
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(20_000):
        f(*args)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 500


def test_allocations_that_fail() -> None:
    testcapi = pytest.importorskip("_testcapi")
    x, t = np.arange(4.0), MATRIX.astype(np.float32).T
    f = jit(lambda x, t: {"a": x, "b": [t * 2, x + 1]})
    check(f, x, t)
    gc.collect()
    counts, alive = (sys.getrefcount(x), sys.getrefcount(t)), len(dispatch.live_arrays())
    failures = 0
    for n in range(1, 40):
        testcapi.set_nomemory(n, n + 1)
        try:
            r = f(x, t)
        except MemoryError:
            failures += 1
            continue
        finally:
            testcapi.remove_mem_hooks()
        assert r["a"].tolist() == [0, 1, 2, 3] and r["b"][1].tolist() == [1, 2, 3, 4]
        del r
    gc.collect()
    assert failures >= 5 and (sys.getrefcount(x), sys.getrefcount(t)) == counts and len(dispatch.live_arrays()) == alive


def test_threads() -> None:
    f = jit(lambda x, y: x[:3] + y[:3])
    inputs = [(np.arange(5000.0) + i, (np.arange(6000, dtype=np.float32) + i)[::2]) for i in range(4)]
    for x, y in inputs:
        check(f, x, y)
    wrong = []

    def work(i: int) -> None:
        x, y = inputs[i]
        for _ in range(500):
            r = f(x, y)
            if r.tolist() != [2 * i + 3 * k for k in range(3)]:
                wrong.append(r)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_scalars_that_lie_elsewhere_are_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_tables.objects, "NUMBER", 0)
    monkeypatch.delitem(dispatch_tables._NUMBERS, np.float32, raising=False)
    f = jit(lambda x: x + 1)
    for _ in range(5):
        assert f(np.float32(2.5)).tolist() == 3.5 and not is_native(f(np.float32(2.5)))
    dispatch_tables._NUMBERS.pop(np.float32)
