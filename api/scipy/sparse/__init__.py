"""Iterative solvers, under the names of `jax.scipy.sparse`."""

from __future__ import annotations

from tracegrad.scipy.sparse import linalg as linalg
