"""Operations outside of every transformation."""

from __future__ import annotations

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad.ir import ops
from tracegrad.ir.bind import bind
from tracegrad.ir.config import config
from tracegrad.lax import cond, fori_loop, scan, while_loop
from tracegrad.runtime.array import ArrayImpl, from_numpy
from tracegrad.runtime.jit import jit
from tracegrad.tracer.errors import UnexpectedTracerError

X = from_numpy(np.arange(4.0))


def test_results_have_the_types_of_the_type_rules() -> None:
    assert ops.sin(2.0).aval.weak and not ops.sin(X).aval.weak
    assert ops.add(X, 1.5).dtype == np.float32 and ops.lt(X, 2.0).dtype == np.bool_
    assert ops.add(np.float64(1), np.float64(2)).dtype == np.float32


def test_results_do_not_share_memory_that_the_caller_may_write() -> None:
    mine = np.arange(6.0, dtype=np.float32)
    out = ops.reshape(mine, (2, 3))
    chosen = cond(True, lambda x: x, lambda x: x + 1, mine)
    mine[:] = -1
    assert out.tolist() == [[0, 1, 2], [3, 4, 5]] and chosen.tolist() == [0, 1, 2, 3, 4, 5]


def test_errors_of_type_rules_reach_the_user() -> None:
    with pytest.raises(ValueError, match=r"f32\[4\] and f32\[3\]"):
        ops.add(X, from_numpy(np.ones(3)))
    with pytest.raises(TypeError):
        ops.add(X, "a")


def test_an_escaped_tracer_is_explained() -> None:
    kept = []

    def f(x):
        kept.append(x)
        return x

    jit(f)(X)
    for use in (lambda x: x + 1, ops.sin, lambda x: fori_loop(0, 3, lambda i, c: c + x, X)):
        with pytest.raises(UnexpectedTracerError):
            use(kept[0])


@pytest.mark.parametrize("disable", [False, True])
def test_control_flow(disable: bool) -> None:
    with config.override("disable_jit", disable):
        carry, ys = scan(lambda c, x: (c + x, c * x), jnp.float32(1), X)
        assert float(carry) == 7 and ys.tolist() == [0, 1, 4, 12]
        assert int(while_loop(lambda i: i < 10, lambda i: i + 3, 0)) == 12
        assert fori_loop(0, 3, lambda i, x: x * 2, X).tolist() == [0, 8, 16, 24]
        assert float(cond(X[1] > 0, lambda x: x + 1, lambda x: x - 1, X[2])) == 3


def test_disable_jit_runs_python_each_time() -> None:
    seen = []

    @jit
    def f(x):
        seen.append(type(x))
        return x + 1

    f(X), f(X)
    assert len(seen) == 1
    with config.override("disable_jit", True):
        assert f(X).tolist() == [1, 2, 3, 4] and f(X) is not None
    assert seen[1:] == [ArrayImpl, ArrayImpl]


def test_debug_nans() -> None:
    with config.override("debug_nans", True):
        with pytest.raises(FloatingPointError, match="nan"):
            ops.log(jnp.float32(-1.0))
        with pytest.raises(FloatingPointError, match="nan"):
            jit(lambda x: jnp.log(x))(jnp.float32(-1.0))
        ops.log(jnp.float32(0.0))
    with config.override("debug_infs", True), pytest.raises(FloatingPointError, match="inf"):
        ops.log(jnp.float32(0.0))


def test_exceptions_of_callbacks_propagate() -> None:
    from tracegrad.ir.calls import CallbackRef, callback_p

    def fail(*_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        bind(callback_p, X, callback=CallbackRef("fail", fail), out_types=(), ordered=False, kind="debug")


def test_zero_sizes() -> None:
    empty = from_numpy(np.zeros((0, 3)))
    assert (empty + 1).shape == (0, 3) and float(jnp.sum(empty)) == 0
    assert scan(lambda c, x: (c + 1, x), jnp.float32(0), empty)[1].shape == (0, 3)
