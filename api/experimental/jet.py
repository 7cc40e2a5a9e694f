"""Taylor-mode differentiation, under the names of `jax.experimental.jet`."""

from __future__ import annotations

from tracegrad.transforms.jet import jet as jet
from tracegrad.transforms.jet import zero_series as zero_series
from tracegrad.transforms.jet import zero_term as zero_term
