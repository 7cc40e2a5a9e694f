"""SciPy's functions over traced arrays: `linalg`, `special`, `stats`, `signal`, `fft`, `optimize`, ... Each is loaded when it is first named."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("fft", "integrate", "interpolate", "linalg", "ndimage", "optimize", "signal", "sparse", "special", "stats")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_MODULES)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
