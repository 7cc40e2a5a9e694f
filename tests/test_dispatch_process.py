"""Native calls in a process: references and memory, allocations that fail, threads, the end of the interpreter, the disk."""

from __future__ import annotations

import collections
import gc
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from dispatch_harness import NATIVE, X, check, is_native
from process_harness import python

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.ir.config import config
from tracegrad.runtime import dispatch, pool
from tracegrad.runtime.array import ArrayImpl, from_numpy
from tracegrad.runtime.jit import jit

pytestmark = NATIVE

# ------------------------------------------------------------------------------------------------------------------------- memory


def test_reference_counts() -> None:
    x = from_numpy(np.arange(4, dtype=np.float32))
    a = np.ones(4, np.float32)
    tree = {"x": x, "more": [a, (x, 2.5)], "none": None}
    f = jit(lambda t, k: (t["more"][1][0], {"sum": t["x"] + t["more"][0], "k": k}, [None]))
    big = from_numpy(np.ones(pool.SMALLEST // 4, np.float32))
    large = jit(lambda b: (b + 1, b))
    watched = [x, a, tree, tree["more"], tree["more"][1], x.aval, ArrayImpl, f, big, big._np, large]
    for _ in range(3):
        f(tree, k=x), large(big)
    gc.collect()
    before = [sys.getrefcount(o) for o in watched]
    for _ in range(50):
        r = f(tree, k=x)
        s = large(big)
    alone = r[1].pop("sum")
    assert sys.getrefcount(alone) == 2
    del r, s, alone
    gc.collect()
    after = [sys.getrefcount(o) for o in watched]
    assert [(type(o), n) for o, n in zip(watched, before)] == [(type(o), n) for o, n in zip(watched, after)]


def test_memory_does_not_grow() -> None:
    f = jit(lambda t: {"a": [t["a"] * 2, t["b"]], "b": (t["a"] + 1,)})
    tree = {"a": X, "b": np.ones(3, np.float32) if False else X}
    check(f, tree)
    gc.collect()
    blocks = sys.getallocatedblocks()
    alive = len(dispatch.live_arrays())
    for _ in range(100_000):
        f(tree)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 500 and len(dispatch.live_arrays()) == alive


def test_cycles_through_results_are_collected() -> None:
    f = jit(lambda x: {"a": [x + 1]})
    f(X)

    class Node:
        pass

    n = Node()
    n.tree, n.self = f(X), n
    gone = weakref.ref(n.tree["a"][0])
    del n
    gc.collect()
    assert gone() is None


def test_collections_during_calls() -> None:
    """Finalizers run in the middle of building a result; they change what the arguments were."""
    tree = {"a": [X, X + 1], "b": X}
    f = jit(lambda t: {"r": [t["a"][0] + t["b"], (t["a"][1], {"s": t["b"] * 2})]})
    check(f, tree)
    threshold = gc.get_threshold()

    class Loop:
        def __init__(self) -> None:
            self.self = self

        def __del__(self) -> None:
            tree["a"] = [from_numpy(np.arange(4, dtype=np.float32)), from_numpy(np.arange(1, 5, dtype=np.float32))]
            f(tree)

    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(300):
            Loop()
            r = f(tree)
            assert r["r"][0].tolist() == [0, 2, 4, 6] and r["r"][1][1]["s"].tolist() == [0, 2, 4, 6]
    finally:
        gc.set_threshold(*threshold)


def test_allocations_that_fail() -> None:
    testcapi = pytest.importorskip("_testcapi")
    Pair = collections.namedtuple("Pair", "a b")
    f = jit(lambda t: {"a": [t["a"] * 2, (t["b"], None)], "b": Pair(t["a"] + 1, [t["b"] + 2])})
    tree = {"a": X, "b": X}
    assert is_native((f(tree), f(tree))[1])
    gc.collect()
    count = sys.getrefcount(X)
    alive = len(dispatch.live_arrays())
    failures = 0
    for n in range(1, 60):
        testcapi.set_nomemory(n, n + 1)
        try:
            r = f(tree)
        except MemoryError:
            failures += 1
            r = None
        finally:
            testcapi.remove_mem_hooks()
        del r
    gc.collect()
    assert failures > 5
    assert sys.getrefcount(X) == count and len(dispatch.live_arrays()) == alive
    assert f(tree)["a"][0].tolist() == [0, 2, 4, 6]


# ------------------------------------------------------------------------------------------------------------------------ threads


def test_threads_call_while_tables_and_flags_change() -> None:
    """Four threads call; meanwhile tables are dropped and made anew, and flags change."""
    f = jit(lambda t, k: {"r": [t["a"] * k, t["b"]], "s": (jnp.sort(t["a"]).sum(),)})
    tree = {"a": X, "b": np.arange(3, dtype=np.int32)}
    wrong: list[Any] = []
    stop = threading.Event()

    def work(k: float) -> None:
        try:
            while not stop.is_set():
                r = f(tree if k != 3 else {"b": X, "a": X}, k)
                if r["r"][0].tolist() != [0, k, 2 * k, 3 * k] or float(r["s"][0]) != 6:
                    wrong.append(r)
        except BaseException as e:  # noqa: BLE001  reported below
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(1, 5)]
    for t in threads:
        t.start()
    for i in range(60):
        if i % 3 == 0:
            f.clear_cache() if i % 30 == 0 else dispatch.forget(f)
        elif i % 3 == 1:
            config.update("log_compiles", False)
        f(tree, float(i))
        f([tree, tree][0], i)
    stop.set()
    for t in threads:
        t.join()
    assert not wrong


def test_long_calls_release_the_lock() -> None:
    x = from_numpy(np.ones((300, 300), np.float32))
    f = jit(lambda x: tracegrad.lax.fori_loop(0, 40, lambda i, y: jnp.tanh(y @ x), x))
    f(x)
    assert f._tables.chain[-1].words[dispatch.TABLE["release"]] == 1
    short = jit(lambda x: x + 1)
    short(X)
    assert short._tables.chain[-1].words[dispatch.TABLE["release"]] == 0
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(f(x))) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 3 and all(np.array_equal(r, results[0]) for r in results)


# -------------------------------------------------------------------------------------------------------------------- the process


EXIT = """
import gc, sys, threading, weakref
import numpy as np
import tracegrad as tg, tracegrad.numpy as jnp
from tracegrad.runtime import dispatch
f = tg.jit(lambda t: {"a": t["a"] + 1, "b": [t["a"] * 2]})
big = tg.jit(lambda x: x + 1)
tree = {"a": jnp.arange(4.0)}
keep = [f(tree) for _ in range(5)] + [big(jnp.ones(100000)) for _ in range(3)]
view = keep[1]["a"]._np
assert not gc.is_tracked(keep[-1])
sys.keep = (keep, f, view)
class Late:
    def __del__(self):
        keep[2]["a"]
late = Late(); late.self = late; late.f = f
refs = [weakref.ref(keep[3]["a"], lambda r: None)]
def forever():
    while True:
        f(tree)
threading.Thread(target=forever, daemon=True).start()
for _ in range(1000):
    f(tree)
print("done", view.tolist())
"""


def test_the_interpreter_ends_with_arrays_and_functions_alive() -> None:
    assert python(EXIT, TRACEGRAD_CACHE="0") == "done [1.0, 2.0, 3.0, 4.0]\n"


def test_the_flag_and_unknown_layouts_leave_calls_to_python() -> None:
    code = """
import gc, sys
{before}
import tracegrad as tg, tracegrad.numpy as jnp
from tracegrad.runtime import dispatch
f = tg.jit(lambda x: x + 1)
x = jnp.arange(4.0)
for _ in range(30): r = f(x)
f(x=x); f(x=x)
copy = __import__("copy").copy(f)
assert copy(x).tolist() == [1, 2, 3, 4]
f.clear_cache()
print(gc.is_tracked(r), dispatch.DISPATCHER.code is None, r.tolist(), f(x).tolist(), len(tg.live_arrays()) > 1)
"""
    wanted = "True True [1.0, 2.0, 3.0, 4.0] [1.0, 2.0, 3.0, 4.0] True\n"
    assert python(code.format(before=""), TRACEGRAD_COMPILED_DISPATCH="0") == wanted
    assert python(code.format(before="sys.abiflags = 't'")) == wanted


def test_the_code_is_kept_on_disk(tmp_path: Any) -> None:
    code = """
import tracegrad as tg, tracegrad.numpy as jnp
from tracegrad.runtime import dispatch
dispatch.HASTY_CALLS = 50
f = tg.jit(lambda x: x + 1)
x = jnp.arange(4.0)
for _ in range(dispatch.FIRST_CALLS + 1): y = f(x)
print(dispatch.DISPATCHER.provisional, end=" ")
for _ in range(120): z = f(x)
f2 = tg.jit(lambda x: x - 1)
f2(x)
print(dispatch.DISPATCHER.provisional, y.tolist() == z.tolist(), f2(x).tolist(), len(tg.live_arrays()) >= 3)
"""
    env = {"TRACEGRAD_CACHE": "1", "TRACEGRAD_CACHE_DIR": str(tmp_path)}
    hasty = code.replace("= 50", "= 1000")
    assert python(hasty, **env) == "True True True [-1.0, 0.0, 1.0, 2.0] True\n"
    assert python(code, **env) == "True False True [-1.0, 0.0, 1.0, 2.0] True\n"
    assert python(code, **env) == "False False True [-1.0, 0.0, 1.0, 2.0] True\n"
    for path in tmp_path.glob("??/*"):
        path.write_bytes(path.read_bytes()[:-5] + b"wrong")
    assert python(code, **env) == "True False True [-1.0, 0.0, 1.0, 2.0] True\n"
