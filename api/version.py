"""The version."""

from __future__ import annotations

from tracegrad.ir.version import __version__ as __version__

__version_info__ = tuple(int(part) for part in __version__.split("."))
