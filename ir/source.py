"""Where in the user's code an equation comes from.

While Python runs, the line is found by walking the stack past the library's own frames; while a program is transformed, the
driver that walks it sets the location of the equation at hand (`set`, inside `keeping`), and whatever its rule emits inherits it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any

from tracegrad.ir.program import Source

_fixed: ContextVar[list[Source | None] | None] = ContextVar("tracegrad_source", default=None)

_is_own: dict[CodeType, bool] = {}


def _own(frame: FrameType) -> bool:
    """Whether a frame runs the library's own code (or that of the standard library's wrappers around it)."""
    known = _is_own.get(frame.f_code)
    if known is None:
        module = frame.f_globals.get("__name__", "")
        known = module.partition(".")[0] == "tracegrad" or module in ("contextlib", "functools", "importlib._bootstrap")
        _is_own[frame.f_code] = known
    return known


def user_frame() -> FrameType | None:
    """The innermost frame that is not the library's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _own(frame):
        frame = frame.f_back
    return frame


def here() -> Source | None:
    """The source location of an operation applied now."""
    fixed = _fixed.get()
    if fixed is not None:
        return fixed[0]
    frame = user_frame()
    if frame is None:
        return None
    return Source(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


class keeping:
    """Context manager: inside the block locations are those given to `set` (at first the current one), not those of the Python stack."""

    # A class, not a generator: transforms enter it for every operation that they process, so that the stack is searched once for each.
    __slots__ = ("token",)

    def __enter__(self) -> None:
        self.token = _fixed.set([here()])

    def __exit__(self, *_: object) -> None:
        _fixed.reset(self.token)


@contextmanager
def looking_at_stack() -> Iterator[None]:
    """Inside the block locations come from the Python stack again: a user's function is being run."""
    token = _fixed.set(None)
    try:
        yield
    finally:
        _fixed.reset(token)


def set(source: Any) -> None:
    """Give the location of the equation being transformed. Only inside `keeping`."""
    fixed = _fixed.get()
    if fixed is not None:
        fixed[0] = source
