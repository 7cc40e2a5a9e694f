"""What a transformation does to a primitive, in JAX's manner: tables from primitives to rules, to which users add those of their own.

`ad` holds derivatives and transposes, `batching` the rules of vmap, `mlir` lowerings, `partial_eval` and `xla` the few names beside them
that mean something here. `tracegrad.extend.core.Primitive` makes the primitives.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("ad", "batching", "mlir", "partial_eval", "xla")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"tracegrad.interpreters.{name}")
    raise AttributeError(f"module 'tracegrad.interpreters' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES} - {"annotations", "importlib", "Any"})
