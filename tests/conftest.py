"""Shared by all tests: no disk cache, so that every run compiles what it tests; the verifier on; settings that whole files run under."""

from __future__ import annotations

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
