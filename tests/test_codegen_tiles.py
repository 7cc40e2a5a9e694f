"""Products by tiles in registers: every layout and remainder, the same bits however they are cut, and where BLAS is left to it."""

from __future__ import annotations

import ctypes
