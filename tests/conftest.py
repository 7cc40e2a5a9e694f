"""Shared by all tests: no disk cache, so that every run compiles what it tests; the verifier on."""

from __future__ import annotations

import os

os.environ.setdefault("TRACEGRAD_CACHE", "0")
os.environ.setdefault("TRACEGRAD_VERIFY", "1")
