"""What libraries built on this one use beyond the public functions, under the names of `jax.extend`."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "core":
        return importlib.import_module("tracegrad.extend.core")
    raise AttributeError(f"module 'tracegrad.extend' has no attribute {name!r}; there is 'core'")
