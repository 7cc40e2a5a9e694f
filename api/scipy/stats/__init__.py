"""Distributions, under the names of `jax.scipy.stats`."""

from __future__ import annotations

from tracegrad.scipy.stats import norm as norm
