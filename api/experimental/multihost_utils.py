"""What processes of one program do together, under the names of `jax.experimental.multihost_utils`. There is one process."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.tracer.pytree import tree_map


def sync_global_devices(name: str) -> None:
    """Wait until all processes have come here: returns at once."""


def broadcast_one_to_all(in_tree: Any, is_source: bool | None = None) -> Any:
    """What the first process has, as NumPy arrays."""
    return tree_map(np.asarray, in_tree)


__all__ = ["broadcast_one_to_all", "sync_global_devices"]
