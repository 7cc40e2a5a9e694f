"""Where in the user's code an equation comes from.

While Python runs, the line is found by walking the stack past the library's own frames; while a program is transformed, the
driver that walks it sets the location of the equation at hand (`set`, inside `keeping`), and whatever its rule emits inherits it.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any

from tracegrad.ir.program import Source

_fixed: ContextVar[list[Source | None] | None] = ContextVar("tracegrad_source", default=None)

# The library's folders: frames of code in them are skipped. `api` and the engine folders may lie side by side (a checkout) or
# nested (an installed package), so each registers its own.
_own_folders: builtins.set[str] = {os.path.dirname(os.path.abspath(__file__))}
_is_own: dict[CodeType, bool] = {}


def register_folder(path: str) -> None:
    """Declare the folder of a module file as the library's own: its frames never are the user's line."""
    _own_folders.add(os.path.dirname(os.path.abspath(path)))
    _is_own.clear()


def _own(code: CodeType) -> bool:
    known = _is_own.get(code)
    if known is None:
        file = code.co_filename
        known = file.startswith("<frozen ") or any(file.startswith(folder + os.sep) for folder in _own_folders)
        known = known or file.endswith(("contextlib.py", "functools.py"))
        _is_own[code] = known
    return known


def user_frame() -> FrameType | None:
    """The innermost frame that is not the library's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _own(frame.f_code):
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


@contextmanager
def keeping() -> Iterator[None]:
    """Inside the block locations are those given to `set`, not those of the Python stack."""
    token = _fixed.set([here()])
    try:
        yield
    finally:
        _fixed.reset(token)


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
