"""The pool of large results: memory is used again, and never while somebody still looks at it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from process_harness import python

from tracegrad.ir import ops
from tracegrad.runtime import pool
from tracegrad.runtime.array import ArrayImpl, from_numpy
from tracegrad.runtime.jit import jit

N = 1 << 16
X = from_numpy(np.arange(N, dtype=np.float32))
f = jit(lambda x: ops.add(x, 1.0))


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    gc.collect()
    pool.clear()
    yield
    pool.clear()


def test_memory_is_used_again() -> None:
    first = f(X)
    address = first.unsafe_buffer_pointer()
    assert address % 64 == 0
    del first
    assert pool.kept() == 4 * N
    second = f(X)
    assert second.unsafe_buffer_pointer() == address and pool.kept() == 0


@pytest.mark.parametrize(
    "hold", [lambda y: y, np.asarray, lambda y: np.asarray(y)[::7], lambda y: memoryview(np.asarray(y)), np.from_dlpack]
)
def test_memory_that_is_looked_at_is_not(hold) -> None:
    y = f(X)
    kept = hold(y)
    want = np.array(np.asarray(kept))
    del y
    for k in range(5):
        f(ops.add(X, float(k)))
    assert np.array_equal(np.asarray(kept), want)
    del kept
    gc.collect()
    assert pool.kept() > 0


def test_results_are_read_only_and_of_any_dtype() -> None:
    for dtype in (np.float32, np.int8, np.bool_, np.complex64):
        x = from_numpy(np.ones((3, N), dtype))
        y = jit(lambda x: ops.concatenate([x, x], 0))(x)
        assert not np.asarray(y).flags.writeable and y.shape == (6, N) and bool(np.all(np.asarray(y) == 1))


@pytest.mark.parametrize("n", [1 << 17, (1 << 17) + 1, 3 << 20, (1 << 30) + 5])
def test_size_classes_waste_little(n: int) -> None:
    assert n <= pool.size_class(n) <= 1.25 * n + 4096


def test_the_pool_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "limit", lambda: 10 * N)
    ys = [f(X) for _ in range(6)]
    del ys
    assert pool.kept() == 8 * N


def test_huge_requests_are_memory_errors() -> None:
    with pytest.raises(MemoryError):
        jit(lambda x: ops.broadcast_in_dim(x, (1 << 25, 1 << 25), ()))(1.0)


def test_threads_share_the_pool() -> None:
    wrong = []

    def work(k: int) -> None:
        x: ArrayImpl = from_numpy(np.full(N, float(k)))
        for i in range(60):
            x = f(x)
            if float(x._np[0]) != k + i + 1 or float(x._np[-1]) != k + i + 1:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(1000 * k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_interpreter_exit_is_silent() -> None:
    code = (
        "import numpy as np\nfrom tracegrad.ir import ops\nfrom tracegrad.runtime.jit import jit\n"
        "class Holder: pass\nh = Holder(); h.me = h\nh.y = jit(lambda x: ops.add(x, 1.0))(np.ones(100_000, np.float32))\n"
        "import builtins; builtins.kept = h.y\n"
    )
    assert python(code) == ""
