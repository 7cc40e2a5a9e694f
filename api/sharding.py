"""Shardings, under the names of `jax.sharding`. There is one device; meshes of it exist so that code written for several runs."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from tracegrad.runtime.devices import CPU, CpuDevice
from tracegrad.runtime.devices import Sharding as Sharding
from tracegrad.runtime.devices import SingleDeviceSharding as SingleDeviceSharding


class PartitionSpec(tuple):  # type: ignore[type-arg]
    """For each dimension of an array, the mesh axis (or axes) that it is divided over, or None."""

    UNCONSTRAINED = object()

    def __new__(cls, *partitions: Any) -> PartitionSpec:
        return super().__new__(cls, partitions)

    def __repr__(self) -> str:
        return f"PartitionSpec{super().__repr__()}"

    def __reduce__(self) -> Any:
        return PartitionSpec, tuple(self)


P = PartitionSpec


class AxisType(enum.Enum):
    """How an axis of a mesh is handled by code that cares; here all are alike."""

    Auto = enum.auto()
    Explicit = enum.auto()
    Manual = enum.auto()


class Mesh:
    """A named grid of devices, which can only have one element here. Also a context manager."""

    def __init__(self, devices: Any, axis_names: Any, axis_types: Any = None):
        self.devices = np.asarray(devices, object)
        self.axis_names = (axis_names,) if isinstance(axis_names, str) else tuple(axis_names)
        if self.devices.ndim != len(self.axis_names):
            raise ValueError(f"Mesh: {len(self.axis_names)} axis names for devices of {self.devices.ndim} dimensions")
        self.axis_types = axis_types or (AxisType.Auto,) * len(self.axis_names)

    @property
    def shape(self) -> dict[str, int]:
        return dict(zip(self.axis_names, self.devices.shape))

    @property
    def size(self) -> int:
        return int(self.devices.size)

    @property
    def empty(self) -> bool:
        return not self.axis_names

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and self.shape == other.shape

    def __hash__(self) -> int:
        return hash(tuple(self.shape.items()))

    def __repr__(self) -> str:
        return f"Mesh({', '.join(f'{name!r}: {size}' for name, size in self.shape.items())})"


class NamedSharding(Sharding):
    """A mesh and how an array is divided over it: not at all, for the mesh has one device."""

    is_fully_addressable = True
    is_fully_replicated = True
    num_devices = 1

    def __init__(self, mesh: Mesh, spec: PartitionSpec, *, memory_kind: str | None = None):
        named = [n for part in spec if part is not None for n in (part if isinstance(part, tuple) else (part,))]
        unknown = [n for n in named if n is not PartitionSpec.UNCONSTRAINED and n not in mesh.axis_names]
        if unknown:
            raise ValueError(f"NamedSharding: the mesh has the axes {mesh.axis_names}, not {unknown[0]!r}")
        self.mesh = mesh
        self.spec = spec
        self.memory_kind = memory_kind

    @property
    def device_set(self) -> set[CpuDevice]:
        return {CPU}

    def shard_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedSharding) and (self.mesh, self.spec) == (other.mesh, other.spec)

    def __hash__(self) -> int:
        return hash((self.mesh, self.spec))

    def __repr__(self) -> str:
        return f"NamedSharding(mesh={self.mesh!r}, spec={self.spec!r})"


def make_mesh(axis_shapes: Sequence[int], axis_names: Sequence[str], axis_types: Any = None, *, devices: Any = None) -> Mesh:
    """A mesh of the one device. Raises ValueError if it would take more."""
    if prod(axis_shapes) != 1:
        raise ValueError(f"make_mesh: a mesh of shape {tuple(axis_shapes)} takes {prod(axis_shapes)} devices; there is 1")
    return Mesh(np.full(tuple(axis_shapes), CPU, object), axis_names, axis_types)


@contextmanager
def set_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Context manager: the mesh that code in the block is for."""
    yield mesh


def reshard(xs: Any, out_shardings: Any) -> Any:
    """A pytree of arrays divided in another way: the same arrays, for there is one device."""
    from tracegrad.placement import device_put

    return device_put(xs, out_shardings)
