"""Where arrays are: on the one device, the CPU. Moving them there and back, and waiting for them, under JAX's names."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tracegrad.ir.array import Array
from tracegrad.numpy.creation import asarray
from tracegrad.runtime import dispatch
from tracegrad.runtime.array import ArrayImpl
from tracegrad.runtime.devices import CPU, CpuDevice, SingleDeviceSharding
from tracegrad.tracer.pytree import tree_leaves, tree_map
from tracegrad.tracer.tracer import Tracer
from tracegrad.tracer.treedef import is_node_type


def _check_backend(backend: str | None) -> None:
    if backend not in (None, "cpu"):
        raise RuntimeError(f"Unknown backend {backend!r}. There is one: 'cpu'.")


def devices(backend: str | None = None) -> list[CpuDevice]:
    """All devices: the CPU. Raises RuntimeError for another backend."""
    _check_backend(backend)
    return [CPU]


def local_devices(process_index: int | None = None, backend: str | None = None, host_id: int | None = None) -> list[CpuDevice]:
    """The devices of this process: the CPU."""
    _check_backend(backend)
    if process_index not in (None, 0):
        raise ValueError(f"Unknown process_index {process_index}; there is one process, number 0")
    return [CPU]


def device_count(backend: str | None = None) -> int:
    """The number of devices: 1."""
    return len(devices(backend))


def local_device_count(backend: str | None = None) -> int:
    """The number of devices of this process: 1."""
    return len(devices(backend))


def default_backend() -> str:
    """The platform that programs run on: "cpu"."""
    return "cpu"


def process_index(backend: str | None = None) -> int:
    """The number of this process: 0."""
    return 0


def process_count(backend: str | None = None) -> int:
    """How many processes compute together: 1."""
    return 1


def process_indices(backend: str | None = None) -> list[int]:
    """The numbers of all processes: [0]."""
    return [0]


def _check_device(name: str, device: Any) -> None:
    if device is None or device == "cpu" or isinstance(device, (CpuDevice, SingleDeviceSharding)):
        return
    if hasattr(device, "device_set") or hasattr(device, "mesh"):
        return
    raise ValueError(f"{name}: {device!r} is not a device or a sharding of this machine; there is {CPU!r}")


def device_put(x: Any, device: Any = None, *, src: Any = None, donate: Any = False, may_alias: Any = None) -> Any:
    """`x`, a pytree, with each leaf an array on the device.

    device: None, a device or a sharding (all of them mean the CPU), or a pytree of them. Raises ValueError for another device, TypeError
    for a leaf that is not an array or a number.
    """
    for d in tree_leaves(device):
        _check_device("device_put", d)

    def put(leaf: Any) -> Any:
        if isinstance(leaf, Array):
            return leaf
        if not isinstance(leaf, (np.ndarray, np.generic, bool, int, float, complex)) and not hasattr(leaf, "__jax_array__"):
            raise TypeError(f"device_put: {leaf!r:.200} of type {type(leaf).__name__} is not an array or a number")
        return asarray(leaf)

    return tree_map(put, x)


def device_get(x: Any) -> Any:
    """`x`, a pytree, with each array as a NumPy array (read-only, without a copy); other leaves, and values being traced, stay as they are."""
    return tree_map(lambda leaf: leaf if isinstance(leaf, Tracer) or not hasattr(leaf, "__array__") else np.asarray(leaf), x)


def block_until_ready(x: Any) -> Any:
    """`x`, a pytree, when all its arrays are computed: at once, for results are always complete."""
    found = [x]
    while found:
        y = found.pop()
        t = type(y)
        if t is ArrayImpl:
            continue
        if t is dict:
            found.extend(y.values())
        elif t is tuple or t is list:
            found.extend(y)
        elif is_node_type(t):
            found.extend(tree_leaves(y))
        elif (wait := getattr(y, "block_until_ready", None)) is not None:
            wait()
    return x


def copy_to_host_async(x: Any) -> Any:
    """`x`: arrays are in the host's memory."""
    return x


def effects_barrier() -> None:
    """Wait for the side effects of programs that are running: there are none, for a call returns when its effects are done."""


def live_arrays(platform: str | None = None) -> list[ArrayImpl]:
    """All arrays that are alive and not deleted."""
    _check_backend(platform)
    return [x for x in gc.get_objects() if type(x) is ArrayImpl] + dispatch.live_arrays()


@contextmanager
def default_device(device: Any = None) -> Iterator[None]:
    """Context manager: make new arrays on `device`, the CPU. Raises ValueError for another one."""
    _check_device("default_device", device)
    yield
