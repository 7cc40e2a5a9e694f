"""What JAX has in `jax.experimental`, under its names. Modules are imported by name: `from tracegrad.experimental import jet`."""

from __future__ import annotations

from tracegrad.callbacks import io_callback as io_callback
from tracegrad.settings import enable_x64 as enable_x64
