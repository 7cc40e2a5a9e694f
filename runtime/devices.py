"""The device that arrays live on. There is one, the CPU; the objects exist so that code written for several devices runs."""

from __future__ import annotations

from typing import Any


class CpuDevice:
    """The processor this process runs on."""

    __slots__ = ("id",)
    platform = "cpu"
    device_kind = "cpu"
    process_index = 0
    host_id = 0

    def __init__(self, id: int = 0):
        self.id = id

    @property
    def client(self) -> CpuDevice:
        return self

    def memory_stats(self) -> None:
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CpuDevice) and other.id == self.id

    def __hash__(self) -> int:
        return hash((CpuDevice, self.id))

    def __repr__(self) -> str:
        return f"CpuDevice(id={self.id})"

    def __str__(self) -> str:
        return f"TFRT_CPU_{self.id}"


CPU = CpuDevice()


class Sharding:
    """How an array is divided over devices: the class of all such descriptions."""

    __slots__ = ()


class SingleDeviceSharding(Sharding):
    """The layout of an array that lies on one device as a whole: the only layout there is."""

    __slots__ = ("_device", "memory_kind")
    is_fully_addressable = True
    is_fully_replicated = True
    num_devices = 1

    def __init__(self, device: CpuDevice = CPU, memory_kind: str | None = "device"):
        self._device = device
        self.memory_kind = memory_kind

    @property
    def device_set(self) -> set[CpuDevice]:
        return {self._device}

    @property
    def addressable_devices(self) -> set[CpuDevice]:
        return {self._device}

    def shard_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape)

    def is_equivalent_to(self, other: Any, ndim: int) -> bool:
        return self == other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SingleDeviceSharding) and other._device == self._device

    def __hash__(self) -> int:
        return hash((SingleDeviceSharding, self._device))

    def __repr__(self) -> str:
        return f"SingleDeviceSharding(device={self._device!r}, memory_kind={self.memory_kind})"


CPU_SHARDING = SingleDeviceSharding()


class Shard:
    """One device's part of an array. Ours have a single shard: everything."""

    __slots__ = ("device", "index", "replica_id", "data")

    def __init__(self, device: CpuDevice, index: tuple[slice, ...], replica_id: int, data: Any):
        self.device = device
        self.index = index
        self.replica_id = replica_id
        self.data = data

    def __repr__(self) -> str:
        return f"Shard(device={self.device!r}, index={self.index}, replica_id={self.replica_id}, data={self.data})"
