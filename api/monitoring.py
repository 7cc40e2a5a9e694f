"""Events that programs record and listeners hear, under the names of `jax.monitoring`. The library itself records none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_EVENTS: list[Callable[..., None]] = []
_DURATIONS: list[Callable[..., None]] = []
_SCALARS: list[Callable[..., None]] = []


def record_event(event: str, **kwargs: Any) -> None:
    """Call every listener with the event's name and what else is known of it."""
    for listener in list(_EVENTS):
        listener(event, **kwargs)


def record_event_duration_secs(event: str, duration: float, **kwargs: Any) -> None:
    """Call every listener of durations with the event's name and how many seconds it took."""
    for listener in list(_DURATIONS):
        listener(event, duration, **kwargs)


def record_scalar(event: str, value: float | int, **kwargs: Any) -> None:
    """Call every listener of numbers with the event's name and one."""
    for listener in list(_SCALARS):
        listener(event, value, **kwargs)


def register_event_listener(callback: Callable[..., None]) -> None:
    """Have `callback(event, **kwargs)` called for every event."""
    _EVENTS.append(callback)


def register_event_duration_secs_listener(callback: Callable[..., None]) -> None:
    """Have `callback(event, seconds, **kwargs)` called for every duration."""
    _DURATIONS.append(callback)


def register_scalar_listener(callback: Callable[..., None]) -> None:
    """Have `callback(event, value, **kwargs)` called for every number."""
    _SCALARS.append(callback)


def clear_event_listeners() -> None:
    """Forget all listeners."""
    for listeners in (_EVENTS, _DURATIONS, _SCALARS):
        listeners.clear()
