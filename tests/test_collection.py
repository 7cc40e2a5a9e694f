"""The collector of cyclic garbage rests while programs are made, and works afterwards."""

from __future__ import annotations

import gc

import pytest

import tracegrad as tg
import tracegrad.numpy as np


def test_it_rests_while_a_function_is_traced_and_works_afterwards():
    seen = []

    def f(x):
        seen.append(gc.isenabled())
        return np.sin(x)

    assert gc.isenabled()
    tg.jit(f)(np.ones(3))
    assert seen == [False] and gc.isenabled()


def test_it_works_after_errors():
    def f(x):
        raise ValueError("from the user")

    with pytest.raises(ValueError, match="from the user"):
        tg.jit(f)(np.ones(3))
    assert gc.isenabled()


def test_who_has_stopped_it_finds_it_stopped():
    gc.disable()
    try:
        tg.jit(lambda x: tg.jit(np.cos)(x) + 1)(np.ones(3))
        assert not gc.isenabled()
    finally:
        gc.enable()
