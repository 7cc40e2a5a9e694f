"""The version of the library, which compiled programs on disk belong to."""

from __future__ import annotations

__version__ = "0.1.0"
