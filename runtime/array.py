"""`ArrayImpl`: the concrete array. An immutable wrapper of a read-only NumPy array and its type.

Operators and NumPy-like methods come from `ir.array.Array`, to which the public API attaches them; here is what needs the data:
conversions, printing, exchange with other libraries, placement. Typed random keys hold their raw uint32 words, whose shape is the
array's with the key's own appended; tapes hold their addresses (`runtime.tapes`), or objects where NumPy has made them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tracegrad.ir import dtypes
from tracegrad.ir.array import Array
from tracegrad.ir.types import ArrayType, KeyDType, TapeDType, key_dtype
from tracegrad.runtime.devices import CPU, CPU_SHARDING, CpuDevice, Shard, SingleDeviceSharding

_OPAQUE = (KeyDType, TapeDType)
"""Dtypes without numbers."""


class ArrayImpl(Array):
    """A concrete array. `_np` holds the data (read-only, any strides), `aval` the type; nobody else may write to the data."""

    # The last three are words of the compiled dispatcher, which makes arrays, too, and has no use for objects in them.
    __slots__ = ("_np", "aval", "_info", "_data", "_owner", "__weakref__")
    _np: np.ndarray
    aval: ArrayType

    def __init__(self, data: np.ndarray, aval: ArrayType):
        self._np = data
        self.aval = aval

    # ------------------------------------------------------------------------------------------------- NumPy and other libraries

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if isinstance(self.aval.dtype, _OPAQUE):
            raise TypeError(f"{self._opaque()} has no numbers for NumPy; {self._instead('random.key_data(keys) gives its raw uint32 words')}")
        data = self._np
        if dtype is not None and dtype != data.dtype:
            if copy is False:
                raise ValueError(f"cannot give an array of {data.dtype} as {dtype} without a copy")
            return data.astype(dtype)
        return data.copy() if copy else data

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self._numeric())  # type: ignore[arg-type]  # older stubs do not know that arrays are buffers

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        if stream is not None:
            raise BufferError("arrays in the memory of the CPU have no stream")
        data = self._numeric()
        if copy:
            data = data.copy()
        elif max_version is None or max_version[0] < 1:
            # The first version of the protocol cannot say "read-only" and NumPy refuses; its consumers are trusted not to write.
            data = np.asarray(_Unlocked(data))
        return data.__dlpack__() if max_version is None else data.__dlpack__(max_version=max_version, dl_device=dl_device)

    def _numeric(self) -> np.ndarray:
        if isinstance(self.aval.dtype, _OPAQUE):
            raise BufferError(f"{self._opaque()} cannot be exported; {self._instead('export random.key_data(keys)')}")
        return self._np

    def _opaque(self) -> str:
        """What an array without numbers holds."""
        return f"an array of {'random keys' if isinstance(self.aval.dtype, KeyDType) else 'tapes'} ({self.aval})"

    def _instead(self, for_keys: str) -> str:
        """What to do with an array without numbers."""
        if isinstance(self.aval.dtype, KeyDType):
            return for_keys
        return "it is what reverse mode keeps of a loop of unknown length, for the backward pass in this process"

    def __reduce__(self) -> Any:
        if isinstance(self.aval.dtype, TapeDType):
            raise TypeError(f"{self._opaque()} cannot be pickled; {self._instead('')}")
        dtype = self.aval.dtype
        return _restore, (np.asarray(self._np, order="C"), self.aval.weak, dtype.impl if isinstance(dtype, KeyDType) else None)

    def __copy__(self) -> ArrayImpl:
        return wrap(self._np.copy(), self.aval)

    def __deepcopy__(self, memo: Any) -> ArrayImpl:
        return self.__copy__()

    # ------------------------------------------------------------------------------------------------------------- Python numbers

    def _scalar(self) -> np.ndarray:
        if self.aval.shape or isinstance(self.aval.dtype, _OPAQUE):
            what = f"got {self._opaque()}" if isinstance(self.aval.dtype, _OPAQUE) else f"got arr.ndim={self.ndim}"
            raise TypeError(f"Only scalar arrays can be converted to Python scalars; {what}")
        return self._np

    def __bool__(self) -> bool:
        if isinstance(self.aval.dtype, _OPAQUE):
            raise TypeError(f"{self._opaque()} cannot be converted to a boolean")
        size = self.aval.size
        if size == 1:
            return bool(self._np.any())
        if size == 0:
            raise ValueError(
                "The truth value of an empty array is ambiguous. Use `array.size > 0` to check that an array is not empty."
            )
        raise ValueError("The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()")

    def __int__(self) -> int:
        return int(self._scalar()[()])

    def __float__(self) -> float:
        return float(self._scalar()[()])

    def __complex__(self) -> complex:
        return complex(self._scalar()[()])

    def __index__(self) -> int:
        if self.aval.shape or self.aval.dtype.kind not in "iu":
            raise TypeError("Only integer scalar arrays can be converted to a scalar index.")
        return int(self._np)

    def item(self, *args: Any) -> Any:
        """The element as a Python number: the only one, or that at the given index. Raises ValueError if there are several."""
        data = self._numeric()
        if not args and data.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        value = data.item(*args)
        return value if isinstance(value, (bool, int, float, complex)) else float(value)

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        data = self._numeric()
        return data.tolist() if data.dtype.kind != "V" else data.astype(np.float32).tolist()

    def tobytes(self, order: Any = "C") -> bytes:
        return self._numeric().tobytes(order)

    # ------------------------------------------------------------------------------------------------------------------ containers

    def __len__(self) -> int:
        try:
            return self.aval.shape[0]
        except IndexError:
            raise TypeError("len() of unsized object") from None

    def __iter__(self) -> Iterator[ArrayImpl]:
        if not self.aval.shape:
            raise TypeError("iteration over a 0-d array")
        aval = self.aval.update(shape=self.aval.shape[1:])
        # The slices of a rank-1 array would be NumPy scalars; [i, ...] keeps them arrays.
        return (ArrayImpl(self._np[i, ...], aval) for i in range(self.aval.shape[0]))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "arrays are immutable and do not support in-place item assignment. "
            "Instead of x[idx] = y, use x = x.at[idx].set(y) or another .at[] method (.add, .multiply, .min, .max)."
        )

    # -------------------------------------------------------------------------------------------------------------------- printing

    def __repr__(self) -> str:
        dtype = self.aval.dtype
        if isinstance(dtype, KeyDType):
            return f"Array({self.aval.shape}, dtype={dtype.name}) overlaying:\n{self._np}"
        if isinstance(dtype, TapeDType):
            return f"Array({self.aval.shape}, dtype={dtype.name})"
        tail = f"dtype={dtype.name}{', weak_type=True' if self.aval.weak else ''})"
        if not self.aval.size:
            return f"Array([], shape={self.aval.shape}, {tail}"
        width = np.get_printoptions()["linewidth"]
        text = np.array2string(self._np, prefix="Array(", suffix=",", separator=", ", max_line_width=width)
        last_line = len(text) - text.rfind("\n") + 1
        gap = " " if last_line + len(tail) + 1 <= width else " " * len("Array(")
        return f"Array({text},{gap}{tail}"

    def __str__(self) -> str:
        return repr(self) if isinstance(self.aval.dtype, _OPAQUE) else str(self._np)

    def __format__(self, spec: str) -> str:
        if isinstance(self.aval.dtype, _OPAQUE):
            return format(repr(self), spec)
        return format(self._np if self.aval.shape else self._np[()], spec)

    # ------------------------------------------------------------------------------------------------------- placement and lifetime

    def block_until_ready(self) -> ArrayImpl:
        """Itself: results are always complete."""
        self._np  # noqa: B018  raises if the array has been deleted
        return self

    def copy_to_host_async(self) -> None:
        """Nothing to do: the data are in the host's memory."""

    def is_ready(self) -> bool:
        return True

    def devices(self) -> set[CpuDevice]:
        return {CPU}

    @property
    def device(self) -> CpuDevice:
        return CPU

    def to_device(self, device: Any, *, stream: Any = None) -> ArrayImpl:
        return self

    @property
    def sharding(self) -> SingleDeviceSharding:
        return CPU_SHARDING

    @property
    def committed(self) -> bool:
        return False

    @property
    def is_fully_addressable(self) -> bool:
        return True

    @property
    def is_fully_replicated(self) -> bool:
        return True

    @property
    def addressable_shards(self) -> list[Shard]:
        return [Shard(CPU, (slice(None),) * self.ndim, 0, self)]

    @property
    def global_shards(self) -> list[Shard]:
        return self.addressable_shards

    def addressable_data(self, index: int) -> ArrayImpl:
        if index != 0:
            raise IndexError(f"the array has one shard, there is no shard {index}")
        return self

    def on_device_size_in_bytes(self) -> int:
        return self._np.nbytes

    def unsafe_buffer_pointer(self) -> int:
        """The address of the first element. The data must not be written to."""
        return int(self._np.__array_interface__["data"][0])

    def is_deleted(self) -> bool:
        return False

    def delete(self) -> None:
        """Give the data up. Every later use of them raises RuntimeError."""
        del self._np
        self.__class__ = DeletedArray


for _word in ("_info", "_data", "_owner"):
    delattr(ArrayImpl, _word)


class DeletedArray(ArrayImpl):
    """What an array becomes when it is deleted or donated. A class of its own, so that living arrays pay no check."""

    __slots__ = ()

    @property
    def _np(self) -> np.ndarray:  # type: ignore[override]
        shape = ",".join(map(str, self.aval.shape))
        raise RuntimeError(f"Array has been deleted with shape={self.aval.dtype.name}[{shape}].")

    def is_deleted(self) -> bool:
        return True

    def delete(self) -> None:
        """Nothing: the data are gone already."""


def wrap(data: np.ndarray, aval: ArrayType) -> ArrayImpl:
    """An array that takes over `data`, which nobody else may write to from now on."""
    if data.flags.writeable:
        if data.base is not None:
            data = data.view()
        data.flags.writeable = False
    return ArrayImpl(data, aval)


def from_numpy(data: np.ndarray, weak: bool = False, copy: bool = True) -> ArrayImpl:
    """An array with a copy of `data` (not copied if `copy` is false and the dtype is canonical already)."""
    dtype = dtypes.canonicalize_dtype(data.dtype)
    data = np.array(data, dtype, order="C") if copy or not data.flags.aligned else np.asarray(data, dtype)
    return wrap(data, ArrayType(data.shape, dtype, weak))


def keys_from_words(words: np.ndarray, impl: str = "fry") -> ArrayImpl:
    """The array of typed keys with these raw uint32 words."""
    dtype = key_dtype(impl)
    rank = words.ndim - len(dtype.base_shape)
    return wrap(words, ArrayType(words.shape[:rank], dtype))


def from_dlpack(x: Any, device: Any = None, copy: bool | None = None) -> ArrayImpl:
    """The array that another library's object, with `__dlpack__`, holds; without a copy where possible."""
    if isinstance(x, ArrayImpl):
        return x.__copy__() if copy else x
    data = np.from_dlpack(x) if copy is None else np.from_dlpack(x, copy=copy)
    return from_numpy(data, copy=False)


def _restore(data: np.ndarray, weak: bool, key_impl: str | None) -> ArrayImpl:
    if key_impl is not None:
        return keys_from_words(data, key_impl)
    return wrap(data, ArrayType(data.shape, data.dtype, weak))


class _Unlocked:
    """Presents a read-only array's memory as writable, keeping it alive."""

    def __init__(self, data: np.ndarray):
        self.data = data
        interface = dict(data.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
