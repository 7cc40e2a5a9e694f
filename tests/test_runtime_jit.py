"""`jit`: signatures, static arguments, caching, structure of results, nesting, lifetime."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad.ir.config import config
from tracegrad.lax import scan
from tracegrad.runtime.array import ArrayImpl, from_numpy
from tracegrad.runtime.jit import jit
from tracegrad.tracer.errors import TracerBoolConversionError, UnexpectedTracerError
from tracegrad.transforms.api import grad
from tracegrad.transforms.vmap import vmap

X = from_numpy(np.arange(4.0))


def test_the_function_is_kept_visible() -> None:
    @jit
    def f(x, y=2, *, z=3):
        """Doc."""
        return x * y + z

    assert f.__wrapped__(1.0) == 5.0 and f.__name__ == "f" and f.__doc__ == "Doc."
    assert list(inspect.signature(f).parameters) == ["x", "y", "z"]
    assert f(X).tolist() == f(x=X).tolist() == [3, 5, 7, 9]
    assert f(X, 3, z=1).tolist() == f(X, y=3, z=1).tolist() == [1, 4, 7, 10]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        f()
    with pytest.raises(TypeError, match="unexpected keyword"):
        f(X, q=1)


def test_decorators_and_methods() -> None:
    @functools.partial(jit, static_argnames="n")
    def power(x, n):
        return x**n

    @jit(static_argnums=(1,))
    def times(x, n):
        assert isinstance(n, int)
        return x * n

    assert power(X, 2).tolist() == power(X, n=2).tolist() == [0, 1, 4, 9]
    assert times(X, 3).tolist() == [0, 3, 6, 9]

    class Model:
        def __init__(self, w):
            self.w = w

        @functools.partial(jit, static_argnums=0)
        def apply(self, x):
            return self.w * x

        @staticmethod
        @jit
        def twice(x):
            return 2 * x

    assert Model(3.0).apply(X).tolist() == [0, 3, 6, 9] and Model.twice(X).tolist() == [0, 2, 4, 6]


def test_python_runs_once_for_each_signature() -> None:
    traced = []

    @functools.partial(jit, static_argnames="mode")
    def f(tree, mode=None):
        traced.append(1)
        return tree["a"] + 1

    def count(*args, **kwargs):
        before = len(traced)
        f(*args, **kwargs)
        return len(traced) - before

    assert count({"a": X}) == 1 and count({"a": X + 1}) == 0
    assert count({"a": X[:2]}) == 1  # another shape
    assert count({"a": np.arange(4, dtype=np.float32)}) == 0  # NumPy's arrays have the same types
    assert count({"a": 1.0}) == 1 and count({"a": 2.0}) == 0
    assert count({"a": jnp.float32(1)}) == 1  # not weak
    assert count({"a": 1}) == 1
    assert count({"a": X, "b": None}) == 1  # another structure
    assert count({"a": X}, mode="x") == 1 and count({"a": X}, mode="x") == 0 and count({"a": X}, mode=("x",)) == 1
    with config.override("enable_x64", True):
        assert count({"a": X}) == 1 and count({"a": X}) == 0
    assert count({"a": X}) == 0
    assert f._cache_size() == 9
    f.clear_cache()
    assert f._cache_size() == 0 and count({"a": X}) == 1


def test_static_arguments_are_told_apart_by_type() -> None:
    f = jit(lambda x, n: x * n, static_argnums=1)
    assert f(jnp.int32(2), 1).dtype == np.int32
    assert f(jnp.int32(2), 1.0).dtype == np.float32
    assert f(jnp.int32(2), True).dtype == np.int32


def test_static_arguments_must_be_hashable() -> None:
    f = jit(lambda n, x: x, static_argnums=0)
    with pytest.raises(ValueError, match="Non-hashable static arguments"):
        f([1], X)
    with pytest.raises(ValueError, match="Non-hashable static arguments"):
        f(X, X)
    assert jit(lambda n, x: x * len(n), static_argnums=0)((1, 2), X).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(
    "options, error",
    [
        ({"static_argnums": 5}, ValueError),
        ({"static_argnames": "zz"}, ValueError),
        ({"donate_argnums": 7}, ValueError),
    ],
)
def test_options_are_checked(options: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        jit(lambda a, b: a, **options)


def test_what_cannot_be_jitted() -> None:
    def generator():
        yield 1

    for f in (3, generator):
        with pytest.raises(TypeError):
            jit(f)


def test_bad_arguments_and_results_are_named() -> None:
    @jit
    def f(n, x):
        return x

    with pytest.raises(TypeError, match="n is 'a' of type str"):
        f("a", X)
    with pytest.raises(TypeError, match="f"):
        f(np.array(["a"]), X)
    with pytest.raises(TypeError, match="returned 'a'"):
        jit(lambda x: "a")(X)
    with pytest.raises(TracerBoolConversionError):
        jit(lambda x: x if x > 0 else -x)(1.0)


def test_structures_of_results() -> None:
    @dataclass
    class NotAPytree:
        x: object

    def f(x):
        return {"same": x, "none": None, "constant": 3.0, "list": [x + 1, x + 1], "captured": X, "empty": ()}

    out = jit(f)(X)
    assert np.shares_memory(out["same"], X) and out["none"] is None and out["empty"] == ()
    assert out["constant"].aval.weak and float(out["constant"]) == 3
    assert [y.tolist() for y in out["list"]] == [[1, 2, 3, 4]] * 2 and out["captured"].tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError):
        jit(lambda x: NotAPytree(x))(X)


def test_weak_types_pass_through() -> None:
    assert jit(lambda x: x)(1.0).aval.weak and jit(lambda x: x * 2)(1.0).aval.weak
    assert not jit(lambda x: x * 2)(X).aval.weak
    assert jit(lambda x: x)(1).dtype == np.int32


def test_results_do_not_change_with_the_callers_arrays() -> None:
    mine = np.arange(4, dtype=np.float32)
    out = jit(lambda x: (x, x.reshape(2, 2)))(mine)
    mine[:] = -1
    assert out[0].tolist() == [0, 1, 2, 3] and out[1].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "data",
    [
        np.arange(12.0, dtype=np.float32).reshape(3, 4).T,
        np.arange(24.0, dtype=np.float32).reshape(4, 6)[:, ::-2],
        np.arange(12.0).reshape(4, 3),
        np.arange(12, dtype=">f4").reshape(4, 3),
        np.broadcast_to(np.float32(2), (4, 3)),
        np.frombuffer(b"\0" + np.arange(12, dtype=np.float32).tobytes(), np.float32, offset=1).reshape(4, 3),
    ],
)
def test_any_layout_of_inputs(data: np.ndarray) -> None:
    f = jit(lambda x: x * 2 + 1)
    for x in (data, from_numpy(data, copy=False)):
        np.testing.assert_allclose(np.asarray(f(x)), data.astype(np.float64) * 2 + 1)


def test_captured_arrays_and_tracers() -> None:
    w = from_numpy(np.full(4, 3.0))
    assert jit(lambda x: x * w)(X).tolist() == [0, 3, 6, 9]

    def outer(y):
        return jnp.sum(jit(lambda x: x * y)(X))

    assert float(jit(outer)(2.0)) == 12 and float(grad(outer)(2.0)) == 6 and float(jit(grad(jit(outer)))(2.0)) == 6


def test_other_interpreters_bind_a_call() -> None:
    f = jit(lambda x: jnp.sin(x) * x)
    assert "call" in str(jit(lambda x: f(x) + 1).trace(X).program)
    np.testing.assert_allclose(np.asarray(vmap(f)(X)), np.asarray(f(X)), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(vmap(grad(f))(X)), np.sin(X) + X * np.cos(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(jit(vmap(grad(f)))(X)), np.sin(X) + X * np.cos(X), rtol=1e-5, atol=1e-6)


def test_an_escaped_tracer_as_an_argument() -> None:
    kept = []
    jit(lambda x: kept.append(x))(X)
    with pytest.raises(UnexpectedTracerError):
        jit(lambda x: x + 1)(kept[0])
    with pytest.raises(UnexpectedTracerError):
        jit(lambda x: x + kept[0])(X)


def test_errors_leave_no_trace_behind() -> None:
    fail = [True]

    @jit
    def f(x):
        if fail[0]:
            raise RuntimeError("mine")
        return x + 1

    with pytest.raises(RuntimeError, match="mine"):
        f(X)
    fail[0] = False
    assert f(X).tolist() == [1, 2, 3, 4]


def test_deleted_arguments() -> None:
    x = X + 0
    x.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        jit(lambda x: x + 1)(x)


def test_donated_arguments_are_deleted() -> None:
    f = jit(lambda state, x: ({"w": state["w"] + x, "n": state["n"] + 1}, x.sum()), donate_argnames="state")
    for call in (lambda s: f(s, X), lambda s: f(state=s, x=X)):
        state = {"w": X + 0, "n": jnp.float32(0)}
        new, _ = call(state)
        assert state["w"].is_deleted() and state["n"].is_deleted() and not X.is_deleted()
        assert new["w"].tolist() == [0, 2, 4, 6]
    with pytest.raises(RuntimeError, match="deleted"):
        state["w"] + 1
    with pytest.raises(RuntimeError, match="deleted"):
        f(state, X)


def test_donated_arrays_may_come_back_and_stay_whole_where_they_are_seen() -> None:
    f = jit(lambda x: x, donate_argnums=0)
    x = X + 0
    seen = np.asarray(x)
    y = f(x)
    assert x.is_deleted() and y.tolist() == [0, 1, 2, 3] and seen.tolist() == [0, 1, 2, 3]
    g = jit(lambda x, y: x + y, donate_argnums=0)
    with pytest.raises(ValueError, match="donated"):
        g(y, y)
    assert not y.is_deleted()


def test_useless_donations_are_reported_and_kept() -> None:
    x = X + 0
    with pytest.warns(UserWarning, match="donated buffers were not usable: f32"):
        jit(lambda x: x.sum(), donate_argnums=0)(x)
    assert not x.is_deleted()
    with pytest.raises(ValueError, match="both static and donated"):
        jit(lambda x: x, static_argnums=0, donate_argnums=0)


def test_donation_inside_a_trace_does_nothing() -> None:
    inner = jit(lambda x: x * 2, donate_argnums=0)
    assert jit(lambda x: inner(x) + x)(X).tolist() == [0, 3, 6, 9] and not X.is_deleted()


def test_results_belong_to_the_caller() -> None:
    f = jit(lambda x: (x, jnp.zeros(2), x + 1))
    for _ in range(2):
        for y in f(X):
            y.delete()
    assert not X.is_deleted()


def test_wrapping_again_traces_once() -> None:
    traced = []

    def f(x):
        traced.append(1)
        return x + 1

    for _ in range(3):
        jit(f)(X)
    assert len(traced) == 1
    jit(f, static_argnums=0)(3)
    assert len(traced) == 2


def test_the_short_way_is_left_when_anything_changes() -> None:
    f = jit(lambda x, s: x * s)
    for s in (2.0, 3.0, 2, True, np.float32(2), 2.0, jnp.float32(2), np.ones(4, np.float32), 1j, 2.0):
        np.testing.assert_allclose(np.asarray(f(X, s)), np.asarray(X) * np.asarray(s))
    with pytest.raises(OverflowError):
        f(X, 2), f(X, 2**40)
    with pytest.raises(TypeError):
        f(X, 2.0), f(X, "2.0")
    f(X, 2.0)
    assert f(X, s=2.0).tolist() == [0, 2, 4, 6]
    with config.override("enable_x64", True):
        assert f(jnp.arange(4.0), 2.0).dtype == np.float64
    assert f(X, 2.0).dtype == np.float32
    with config.override("disable_jit", True):
        assert f(X, 2.0).tolist() == [0, 2, 4, 6]
    assert vmap(f, in_axes=(0, None))(X, 2.0).tolist() == [0, 2, 4, 6]
    config.update("debug_nans", True)
    try:
        with pytest.raises(FloatingPointError):
            f(X, float("nan"))
    finally:
        config.update("debug_nans", False)
    f.clear_cache()
    assert f(X, 2.0).tolist() == [0, 2, 4, 6]


def test_nans_are_found_where_they_are_made() -> None:
    f = jit(lambda x: jnp.log(x) + 1)
    with config.override("debug_nans", True), pytest.raises(FloatingPointError, match="nan.* in log"):
        f(-X - 1)


def test_zero_sizes_and_no_arguments() -> None:
    assert jit(lambda x: (x + 1, jnp.sum(x)))(from_numpy(np.zeros((0, 3))))[0].shape == (0, 3)
    assert float(jit(lambda: jnp.float32(2) + 1)()) == 3
    assert jit(lambda x: None)(X) is None


def test_names_of_c_functions_are_safe() -> None:
    for name in ("sin", "exp", "memcpy", "main", "exp.f32", "é"):
        f = lambda x: jnp.sin(jnp.exp(-x))
        f.__name__ = name
        np.testing.assert_allclose(np.asarray(jit(f)(X)), np.sin(np.exp(-np.asarray(X))), rtol=1e-6)


def test_threads_trace_and_call_one_function() -> None:
    @jit
    def f(x, n):
        return scan(lambda c, _: (jnp.sort(c * 1.0001 + jnp.flip(x)), None), x, None, length=50)[0] * n

    xs = [from_numpy(np.random.default_rng(i).normal(size=300)) for i in range(4)]
    want = [np.asarray(f(x, 2.0)) for x in xs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(np.asarray(f(xs[i], 2.0)), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_threads_with_arguments_of_different_types() -> None:
    f = jit(lambda x: x * 2 + 1)
    xs = [from_numpy(np.full(n, 1.0)) for n in (3, 50_000, 1)]
    wrong = []

    def work(x: ArrayImpl) -> None:
        for _ in range(300):
            y = f(x)
            if y.shape != x.shape or float(y[-1]) != 3:
                wrong.append(y.shape)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(x,)) for x in xs]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_threads_compile_at_once() -> None:
    results = []

    def work(i: int) -> None:
        results.append(float(jit(lambda x: jnp.sum(x * i + 1))(X)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == [4 + 6 * i for i in range(6)]


def test_recursion() -> None:
    @functools.partial(jit, static_argnums=1)
    def f(x, n):
        return x if n == 0 else f(x + n, n - 1)

    assert float(f(1.0, 4)) == 11


def test_many_arguments() -> None:
    xs = [jnp.float32(i) for i in range(200)]
    assert float(jit(lambda xs: sum(xs))(xs)) == sum(range(200))
    outs = jit(lambda xs: [x + 1 for x in xs])(xs)
    assert [float(x) for x in outs] == list(range(1, 201)) and isinstance(outs[0], ArrayImpl)


def test_eval_shape() -> None:
    shape = jit(lambda x: {"a": x[None] * 2}).eval_shape(X)["a"]
    assert shape.shape == (1, 4) and shape.dtype == np.float32
