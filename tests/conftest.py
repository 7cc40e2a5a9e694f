"""Shared by all tests: no disk cache, so that every run compiles what it tests; the verifier on; settings that whole files run under."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("TRACEGRAD_CACHE", "0")
os.environ.setdefault("TRACEGRAD_VERIFY", "1")


@pytest.fixture
def double_precision() -> Iterator[None]:
    """64-bit types, as if the user had asked for them."""
    from tracegrad.ir.config import config

    with config.override("enable_x64", True):
        yield


@pytest.fixture(scope="module")
def dispatcher() -> None:
    """The dispatcher of native calls is loaded when a function has been called a few times; from then on first calls make tables."""
    from tracegrad.runtime import dispatch
    from tracegrad.runtime.jit import jit

    f = jit(lambda x: x + 1)
    for _ in range(dispatch.FIRST_CALLS + 2):
        f(1.0)


@pytest.fixture
def no_tape_is_left(double_precision: None) -> Iterator[None]:
    """After a test there are as many bytes on tapes as before."""
    from tracegrad.runtime import tape_memory

    gc.collect()
    before = tape_memory.live_bytes()
    yield
    gc.collect()
    assert tape_memory.live_bytes() == before
