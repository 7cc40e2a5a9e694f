"""Annotations for profilers, under the names of `jax.profiler`.

No traces are recorded: what a program's time goes to is told by `jit(f).lower(*args).explain(*args, profile=True)`, see docs/reading_the_stages.md.
Annotations are kept by programs that have them and do nothing, as they do in JAX while no trace is being recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any, NoReturn

_INSTEAD = "no traces are recorded; jit(f).lower(*args).explain(*args, profile=True) gives the time of every kernel, and cProfile or perf that of a process"


class TraceAnnotation(ContextDecorator):
    """Context manager and decorator that names what is done in it."""

    def __init__(self, name: str, **kwargs: Any):
        self.name = name

    def __enter__(self) -> TraceAnnotation:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class StepTraceAnnotation(TraceAnnotation):
    """Context manager and decorator that marks a step, `step_num`, of a loop."""


def annotate_function(func: Callable[..., Any], name: str | None = None, **decorator_kwargs: Any) -> Callable[..., Any]:
    """The function, with its name or another as annotation."""
    return TraceAnnotation(name or str(getattr(func, "__name__", "function")), **decorator_kwargs)(func)


def trace(log_dir: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Raises NotImplementedError, and says what there is instead."""
    raise NotImplementedError(f"profiler.trace: {_INSTEAD}")


def start_trace(log_dir: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Raises NotImplementedError, and says what there is instead."""
    raise NotImplementedError(f"profiler.start_trace: {_INSTEAD}")


__all__ = ["StepTraceAnnotation", "TraceAnnotation", "annotate_function", "start_trace", "trace"]
