"""Nothing that a user passes in crashes the process: odd arguments, indices, sizes and situations give a value or an error in words."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import jit, lax

X = jnp.arange(6.0)
LOW, HIGH = -(2**31), 2**31 - 1


class Subclass(np.ndarray):
    pass


class Broken:
    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no array")


LAYOUTS = {
    "reversed": np.arange(6.0)[::-1],
    "broadcast": np.broadcast_to(np.float32(1), (3, 4)),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "steps": np.arange(24.0).reshape(4, 6)[::2, ::-3],
    "no rows": np.zeros((0, 3)),
    "no columns": np.zeros((3, 0)),
    "foreign byte order": np.arange(3, dtype=">f8"),
    "foreign half": np.arange(3, dtype=">f2"),
    "read-only": np.frombuffer(bytes(16), np.float32),
    "misaligned": np.frombuffer(bytes(17), np.uint8)[1:].view(np.float32),
    "subclass": np.arange(4.0).view(Subclass),
    "matrix": np.array([[1.0, 2.0]]).view(np.matrix),
    "masked": np.ma.masked_array([1.0, 2.0], [0, 1]),
    "many dimensions": np.ones((1,) * 40, np.float32),
    "half": np.arange(3, dtype=np.float16),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    x = LAYOUTS[name]
    f = jit(lambda x: jnp.sum(x * 2 + 1, axis=-1))
    want = np.sum(np.asarray(x).astype(np.float64) * 2 + 1, axis=-1)
    np.testing.assert_allclose(np.asarray(f(x)).astype(np.float64), want, rtol=1e-3)
    np.testing.assert_allclose(np.asarray(jnp.sum(jnp.asarray(x) * 2 + 1, axis=-1)).astype(np.float64), want, rtol=1e-3)


REFUSED = {
    "text": "a",
    "bytes": b"a",
    "objects": np.array([1, None], object),
    "records": np.zeros(3, [("a", "f4")]),
    "dates": np.zeros(3, "M8[s]"),
    "spans": np.zeros(3, "m8[s]"),
    "texts": np.array(["a"]),
    "void": np.zeros(3, "V4"),
    "broken": Broken(),
    "set": {1.0},
    "function": len,
    "class": float,
    "range": range(3),
    "memory": memoryview(bytes(4)),
    "decimal": Decimal(1),
    "fraction": Fraction(1, 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_are_no_arrays_are_named(name: str) -> None:
    with pytest.raises(TypeError, match="values"):
        jit(lambda values: values)(REFUSED[name])
    with pytest.raises(TypeError, match=r"values\['k'\]\[1\]"):
        jit(lambda values: values)({"k": [1.0, REFUSED[name]]})


def test_structures_without_end() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: Any = 1.0
    for _ in range(5000):
        deep = [deep]
    for x in (cycle, deep):
        with pytest.raises(RecursionError):
            jit(lambda x: x)(x)
    with pytest.raises(ValueError, match="keys"):
        jit(lambda x: x)({1: 1.0, "a": 2.0})


def test_functions_that_call_themselves_without_end() -> None:
    def f(x):
        return jit(f)(x)

    with pytest.raises(RecursionError):
        jit(f)(1.0)


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(OverflowError, match="x64"):
        jit(lambda x: x)(2**40)
    with np.errstate(over="ignore"):
        assert float(jit(lambda x: x)(1e300)) == np.inf


INDICES = np.array([100, -100, HIGH, LOW], np.int32)
EDGES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "gather": (lambda x, i: x[i], (X, INDICES), [5, 0, 5, 0]),
    "gather filled": (lambda x, i: x.at[i].get(mode="fill", fill_value=-1), (X, INDICES), [-1, -1, -1, -1]),
    "gather of unsigned": (lambda x, i: x[i], (X, np.array([2**32 - 1], np.uint32)), [5]),
    "gather of bytes": (lambda x, i: x[i], (X, np.array([-128, 127], np.int8)), [0, 5]),
    "gather of nothing": (lambda x, i: x[i], (X, np.zeros(0, np.int32)), []),
    "scatter": (lambda x, i: x.at[i].add(1), (X, INDICES), range(6)),
    "dynamic slice above": (lambda x, i: lax.dynamic_slice(x, (i,), (3,)), (X, HIGH), [3, 4, 5]),
    "dynamic slice below": (lambda x, i: lax.dynamic_slice(x, (i,), (3,)), (X, LOW), [0, 1, 2]),
    "dynamic update": (lambda x, i: lax.dynamic_update_slice(x, x[:3], (i,)), (X, HIGH), [0, 1, 2, 0, 1, 2]),
    "switch": (lambda i: lax.switch(i, [lambda: 1.0, lambda: 2.0]), (HIGH,), 2),
    "division": (lax.div, (np.array([1, -1, LOW], np.int32), np.array([0, 0, -1], np.int32)), [-1, -1, LOW]),
    "remainder": (lax.rem, (np.array([1, -1, LOW], np.int32), np.array([0, 0, -1], np.int32)), [1, -1, 0]),
    "division of bytes": (lax.div, (np.array([-128], np.int8), np.array([-1], np.int8)), [-128]),
    "shift": (lax.shift_left, (np.ones(2, np.int32), np.array([32, -1], np.int32)), [0, 0]),
    "conversion": (lambda x: x.astype(int), (np.array([np.nan, np.inf, -np.inf], np.float32),), [0, HIGH, LOW]),
    "no turns": (lambda n: lax.fori_loop(0, n, lambda i, c: c + i, 7), (-5,), 7),
    "no steps": (lambda x: lax.scan(lambda c, x: (c + x, x), 3.0, x)[0], (np.zeros(0, np.float32),), 3),
    "empty product": (lambda a, b: a @ b, (np.zeros((2, 0)), np.zeros((0, 2))), np.zeros((2, 2))),
    "empty sort": (jnp.sort, (np.zeros(0),), []),
    "not definite": (jnp.linalg.cholesky, (-np.eye(2),), [[np.nan, 0], [np.nan, np.nan]]),
    "no decomposition": (lambda a: jnp.linalg.eigh(a)[0], (np.full((2, 2), np.nan),), [np.nan, np.nan]),
    "no singular values": (lambda a: jnp.linalg.svd(a)[1], (np.full((2, 2), np.inf),), [np.nan, np.nan]),
    "singular": (jnp.linalg.solve, (np.zeros((1, 1)), np.ones(1)), [np.inf]),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    f, args, want = EDGES[name]
    np.testing.assert_array_equal(np.asarray(jit(f)(*args)), np.asarray(want))


HUGE: dict[str, Callable[[], Any]] = {
    "result": lambda: jit(lambda: jnp.zeros(2**45))(),
    "beyond addresses": lambda: jit(lambda: jnp.zeros((2**31, 2**31, 2**31)))(),
    "temporary": lambda: jit(lambda x: jnp.sort(jnp.broadcast_to(x, (2**42, 6)), axis=0)[0])(X),
    "argument": lambda: jit(lambda x: x + 1)(np.broadcast_to(np.float32(1), (2**42,))),
    "eager": lambda: jnp.zeros(2**45) + 1,
}


@pytest.mark.parametrize("name", HUGE)
def test_sizes_beyond_memory(name: str) -> None:
    with pytest.raises(MemoryError):
        HUGE[name]()
    assert float(jit(jnp.sum)(X)) == 15


def test_long_and_deep_programs() -> None:
    def chain(x):
        for i in range(1500):
            x = jnp.sin(x) + i
        return x

    def nested(depth: int) -> Callable[[Any], Any]:
        if depth == 0:
            return lambda c: c + 1
        inner = nested(depth - 1)
        return lambda c: lax.fori_loop(0, 2, lambda i, c: inner(c), c)

    def branches(depth: int) -> Callable[[Any], Any]:
        if depth == 0:
            return lambda x: x
        inner = branches(depth - 1)
        return lambda x: lax.cond(x > 0, inner, lambda x: x - 1, x)

    assert float(jit(chain)(0.5)) > 1490
    assert int(jit(nested(8))(0)) == 256
    assert float(jit(branches(30))(1.0)) == 1


def test_many_threads_with_programs_of_their_own() -> None:
    errors = []

    def work(k: int) -> None:
        try:
            f = jit(lambda x: jnp.sum(jnp.sin(x) * k))
            for n in (3, 5, 3):
                np.testing.assert_allclose(float(f(jnp.ones(n))), np.sin(1.0) * k * n, rtol=1e-5)
                assert float(tracegrad.grad(f)(jnp.ones(n))[0]) == pytest.approx(np.cos(1.0) * k, rel=1e-5)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_goes_on() -> None:
    f = jit(lambda x: x * 2 + 1)
    f(X)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        good = f(X).tolist() == [1, 3, 5, 7, 9, 11] and float(jit(lambda x: jnp.sum(x) * 3)(X)) == 45
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thread_may_change_an_array_while_it_is_used() -> None:
    mine = np.zeros(100_000, np.float32)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            mine[:] += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        results = [jit(lambda x: x + 0)(mine) for _ in range(20)]
        kept = [np.array(r) for r in results]
    finally:
        stop.set()
        thread.join()
    assert all(np.array_equal(np.asarray(r), k) for r, k in zip(results, kept))


def test_pickles() -> None:
    tree = {"x": X, "half": jnp.ones((2, 0), jnp.bfloat16), "weak": jit(lambda: 1.0)(), "key": tracegrad.random.key(1)}
    back = pickle.loads(pickle.dumps(tree))
    assert back["x"].tolist() == X.tolist() and back["half"].dtype == jnp.bfloat16 and back["half"].shape == (2, 0)
    assert back["weak"].aval is tree["weak"].aval and back["key"].dtype == tree["key"].dtype
    with pytest.raises(Exception, match="trace"):
        jit(lambda x: pickle.dumps(x))(X)
