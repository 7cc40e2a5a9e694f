"""Custom rules for vmap, under the names of `jax.custom_batching`."""

from __future__ import annotations

from tracegrad.transforms.custom_vmap import custom_vmap as custom_vmap
from tracegrad.transforms.custom_vmap import sequential_vmap as sequential_vmap
