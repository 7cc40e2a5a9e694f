"""Doing without Python's cyclic garbage collector where many objects are made and few of them are garbage.

Programs are millions of objects that stay: the collector walks over all of them again and again, a third of the time of tracing ten thousand
operations, and finds nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def uncollected(function: F) -> F:
    """The function, during whose calls the collector rests. Memory is given back as ever when the last reference to it goes.

    When threads overlap, the collector runs again as soon as the first of them ends that stopped it, never later than the last one.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return call  # type: ignore[return-value]


__all__ = ["uncollected"]
