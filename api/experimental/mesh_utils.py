"""Grids of devices, under the names of `jax.experimental.mesh_utils`. There is one device."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.runtime.devices import CPU


def create_device_mesh(mesh_shape: Sequence[int], devices: Sequence[Any] | None = None, **_: Any) -> np.ndarray:
    """An array of the one device, of this shape, for `sharding.Mesh`. Raises ValueError if it would take more devices."""
    if prod(mesh_shape) != 1:
        raise ValueError(f"create_device_mesh: a mesh of shape {tuple(mesh_shape)} takes {prod(mesh_shape)} devices; there is 1")
    return np.full(tuple(mesh_shape), CPU, object)


__all__ = ["create_device_mesh"]
