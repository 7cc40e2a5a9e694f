"""The stages of compilation, under the names of `jax.stages`."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from tracegrad.runtime.stages import STAGES as STAGES
from tracegrad.runtime.stages import Compiled as Compiled
from tracegrad.runtime.stages import Lowered as Lowered
from tracegrad.runtime.stages import Traced as Traced


@runtime_checkable
class Wrapped(Protocol):
    """What `jit` returns: a function that can be called, traced and lowered."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def trace(self, *args: Any, **kwargs: Any) -> Traced: ...

    def lower(self, *args: Any, **kwargs: Any) -> Lowered: ...
