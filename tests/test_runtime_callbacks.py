"""Calls of Python from programs, as users write them: pure_callback, io_callback, debug.callback, debug.print."""

from __future__ import annotations

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import ShapeDtypeStruct, io_callback, jit, pure_callback, vmap
from tracegrad.debug import callback as debug_callback
from tracegrad.debug import print as debug_print
from tracegrad.lax import cond, scan, while_loop

X = jnp.arange(4.0)
SCALAR = ShapeDtypeStruct((), np.float32)


@pytest.mark.parametrize("compiled", [False, True])
def test_functions_are_given_arrays_and_containers_of_them(compiled: bool) -> None:
    def host(d, k, *, mode):
        assert isinstance(d["a"], tracegrad.Array) and mode == "twice" and k.dtype == np.int32
        return {"s": 2 * np.asarray(d["a"])}, 1.5

    f = lambda x: pure_callback(host, ({"s": x}, SCALAR), {"a": x}, 3, mode="twice")
    out, number = (jit(f) if compiled else f)(X)
    assert out["s"].tolist() == [0, 2, 4, 6] and float(number) == 1.5 and number.dtype == np.float32


@pytest.mark.parametrize(
    "method, shapes",
    [
        ("sequential", [((), ())] * 4),
        ("sequential_unrolled", [((), ())] * 4),
        ("expand_dims", [((4,), (1,))]),
        ("broadcast_all", [((4,), (4,))]),
        ("legacy_vectorized", [((4,), ())]),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_batches_of_pure_callbacks(method: str, shapes: list, compiled: bool) -> None:
    seen = []

    def host(a, b):
        seen.append((a.shape, b.shape))
        return np.asarray(a) + np.asarray(b)

    f = vmap(lambda a, b: pure_callback(host, SCALAR, a, b, vmap_method=method), in_axes=(0, None))
    assert (jit(f) if compiled else f)(X, 1.0).tolist() == [1, 2, 3, 4]
    assert seen == shapes


@pytest.mark.parametrize(
    "method, shapes",
    [
        ("sequential", [((2,), (2,))] * 12),
        ("expand_dims", [((3, 1, 2), (1, 4, 2))]),
        ("broadcast_all", [((3, 4, 2), (3, 4, 2))]),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_batches_of_batches_of_containers(method: str, shapes: list, compiled: bool) -> None:
    seen = []

    def host(p):
        a, b = np.asarray(p["a"]), np.asarray(p["b"])
        seen.append((a.shape, b.shape))
        return {"sum": a + b, "count": np.full(np.broadcast_shapes(a.shape, b.shape)[:-1], 7, np.int32)}

    types = {"sum": ShapeDtypeStruct((2,), np.float32), "count": ShapeDtypeStruct((), np.int32)}
    one = lambda a, b: pure_callback(host, types, {"a": a, "b": b}, vmap_method=method)  # noqa: E731
    # The axes of the batches lie elsewhere than in front.
    f = vmap(vmap(one, (None, 1)), (1, None))
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(8, dtype=np.float32).reshape(2, 4)
    out = (jit(f) if compiled else f)(a, b)
    np.testing.assert_array_equal(out["sum"], a.T[:, None] + b.T[None])
    assert np.asarray(out["count"]).tolist() == [[7] * 4] * 3
    assert seen == shapes


@pytest.mark.parametrize("compiled", [False, True])
def test_effects_of_a_batch_come_in_the_order_of_the_examples(compiled: bool) -> None:
    wrap = jit if compiled else lambda f: f
    seen: list = []

    def note(*args):
        seen.append(tuple(float(x) for x in args))

    def write(x):
        note(x)
        return np.float32(x)

    wrap(vmap(lambda x, y: debug_callback(note, x, y), (0, None)))(X, 9.0)
    assert seen == [(0, 9), (1, 9), (2, 9), (3, 9)]
    seen.clear()
    assert wrap(vmap(lambda x: io_callback(write, SCALAR, x) * 2.0))(X).tolist() == [0, 2, 4, 6]
    assert seen == [(0,), (1,), (2,), (3,)]
    seen.clear()
    wrap(vmap(lambda x: (x, debug_callback(note, 5.0, ordered=True))[0]))(X)
    assert seen == [(5,)]  # all examples share the call
    seen.clear()
    wrap(vmap(lambda x: debug_callback(note, x, ordered=True)))(X)
    assert seen == [(0,), (1,), (2,), (3,)]
    seen.clear()
    wrap(tracegrad.grad(lambda x: vmap(lambda x: (debug_callback(note, x), x**2)[1])(x).sum()))(X)
    assert seen == [(0,), (1,), (2,), (3,)]


def test_effects_in_branches_and_loops_of_a_batch() -> None:
    seen: list = []
    note = lambda x: seen.append(int(x))  # noqa: E731

    def branch(x):
        return cond(x > 1, lambda x: (debug_callback(note, x), x + 1)[1], lambda x: x, x)

    assert vmap(branch)(np.arange(4)).tolist() == [0, 1, 3, 4]
    assert sorted(seen) == [2, 3]
    seen.clear()

    def loop(n):
        return while_loop(lambda c: c < n, lambda c: (debug_callback(note, c), c + 1)[1], 0)

    assert jit(vmap(loop))(np.arange(3)).tolist() == [0, 1, 2]
    assert sorted(set(seen)) == [0, 1]


def test_batches_that_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="vmap_method"):
        vmap(lambda a: pure_callback(np.sin, SCALAR, a))(X)
    with pytest.raises(ValueError, match="vmap_method must be one of"):
        pure_callback(np.sin, SCALAR, 1.0, vmap_method="other")
    with pytest.raises(ValueError, match="ordered"):
        vmap(lambda a: io_callback(np.sin, SCALAR, a, ordered=True))(X)


def test_derivatives_are_refused_and_custom_rules_help() -> None:
    with pytest.raises(ValueError, match="do not support JVP"):
        tracegrad.grad(lambda x: pure_callback(np.sin, SCALAR, x))(1.0)

    @tracegrad.custom_jvp
    def sin(x):
        return pure_callback(lambda a: np.sin(np.asarray(a)), x, x, vmap_method="expand_dims")

    sin.defjvp(lambda p, t: (sin(p[0]), jnp.cos(p[0]) * t[0]))
    for f in (tracegrad.grad(sin), jit(tracegrad.grad(sin))):
        np.testing.assert_allclose(float(f(jnp.float32(0.5))), np.cos(0.5), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(jit(vmap(tracegrad.grad(sin)))(X)), np.cos(np.arange(4)), rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_exception_is_the_one_that_was_raised(compiled: bool) -> None:
    class Mine(Exception):
        pass

    def fail(x):
        raise Mine("here")

    for call in (
        lambda x: pure_callback(fail, SCALAR, x),
        lambda x: io_callback(fail, None, x),
        lambda x: debug_callback(fail, x),
    ):
        with pytest.raises(Mine, match="here"):
            (jit(call) if compiled else call)(1.0)


@pytest.mark.parametrize(
    "result, error", [(np.zeros(3, np.float32), ValueError), (np.int32(3), TypeError), ((1.0, 2.0), ValueError)]
)
def test_results_must_be_as_declared(result: object, error: type[Exception]) -> None:
    for wrap in (jit, lambda f: f):
        with pytest.raises(error):
            wrap(lambda x: pure_callback(lambda _: result, SCALAR, x))(1.0)
    with pytest.raises(TypeError, match="result's description"):
        pure_callback(lambda: 1.0, 1.0)


def test_numbers_of_64_bits_are_taken_as_the_default() -> None:
    assert float(jit(lambda x: pure_callback(lambda a: np.float64(3), SCALAR, x))(1.0)) == 3
    assert float(jit(lambda x: pure_callback(lambda a: 2.5, SCALAR, x))(1.0)) == 2.5


def test_printing(capsys: pytest.CaptureFixture[str]) -> None:
    @jit
    def f(x):
        debug_print("x={x:.2f} {} {{}}", x > 1, x=x)
        return x

    f(1.234567)
    debug_print("{}", X)
    assert capsys.readouterr().out == "x=1.23 True {}\n[0. 1. 2. 3.]\n"
    jit(lambda x: scan(lambda c, x: (debug_print("c={}", c), (c + x, None))[1], 0.0, x))(X)
    assert capsys.readouterr().out == "c=0.0\nc=0.0\nc=1.0\nc=3.0\n"
    vmap(lambda x: debug_print("{}", x))(X)
    tracegrad.grad(lambda x: (debug_print("{}", x), x * 2)[1])(3.0)
    jit(lambda x: cond(x > 0, lambda: debug_print("yes"), lambda: debug_print("no")))(-1.0)
    assert capsys.readouterr().out == "0.0\n1.0\n2.0\n3.0\n3.0\nno\n"
    for arguments in (("{}", 1, 2), ("x", 1)):
        with pytest.raises(ValueError, match="unused"):
            debug_print(*arguments)
    with pytest.raises(KeyError):
        debug_print("{b}", 1)


def test_zero_sizes_and_many_dtypes() -> None:
    for dtype in (np.bool_, np.int8, np.uint32, np.float16, jnp.bfloat16, np.complex64):
        for shape in ((), (0,), (2, 3)):
            x = jnp.ones(shape, dtype)
            y = jit(lambda x: pure_callback(lambda a: np.asarray(a), x, x))(x)
            assert y.dtype == x.dtype and y.shape == shape and bool((np.asarray(y) == np.asarray(x)).all())


def test_keys_arrive_as_words() -> None:
    seen = []
    key = tracegrad.random.key(3)
    jit(lambda k: io_callback(lambda k: seen.append(np.asarray(k)), None, k))(key)
    assert seen[0].tolist() == [0, 3]


def test_a_function_may_call_the_program_that_calls_it() -> None:
    @jit
    def factorial(n):
        return cond(n > 1, lambda: n * pure_callback(lambda n: np.asarray(factorial(n - 1)), SCALAR, n), lambda: n)

    assert float(factorial(jnp.float32(6))) == 720


def test_arrays_made_inside_outlive_the_call() -> None:
    kept = []
    f = jit(lambda x: (io_callback(lambda a: kept.append(a), None, x * 2), x + 1)[1])
    for k in range(5):
        f(X + k)
    assert [a.tolist()[0] for a in kept] == [0, 2, 4, 6, 8]
    tracegrad.effects_barrier()


def test_python_is_called_when_its_branch_is_taken_and_its_loop_runs() -> None:
    def refuse(*_):
        raise ValueError("must not be called")

    def python(*args):
        return pure_callback(refuse, SCALAR, *args)

    @jit
    def branch(x):
        return cond(x > 1, lambda x: python(0), lambda x: x, x)  # of a literal: not folded when compiled

    @jit
    def loop(n, x):
        return while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] + python(x)), (0, x))[1]  # not hoisted

    assert branch(0.5) == 0.5 and loop(0, 2.0) == 2.0
    for call in (lambda: branch(2.0), lambda: loop(1, 2.0)):
        with pytest.raises(ValueError, match="must not be called"):
            call()
