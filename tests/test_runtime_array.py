"""Concrete arrays: conversions, printing, exchange, immutability, lifetime."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import tracegrad.numpy  # noqa: F401  attaches operators and methods
from tracegrad.ir.types import ArrayType
from tracegrad.runtime.array import ArrayImpl, from_dlpack, from_numpy, keys_from_words, wrap

X = from_numpy(np.array([1.0, 2.0]))
S = wrap(np.float32(1.5).reshape(()), ArrayType((), np.float32, True))
KEY = keys_from_words(np.array([0, 7], np.uint32))


@pytest.mark.parametrize(
    "data, text",
    [
        (np.array([1.0, 2.0]), "Array([1., 2.], dtype=float32)"),
        (np.array(3), "Array(3, dtype=int32)"),
        (np.zeros((0, 3)), "Array([], shape=(0, 3), dtype=float32)"),
        (np.arange(2000), "Array([   0,    1,    2, ..., 1997, 1998, 1999], dtype=int32)"),
        (np.array([True]), "Array([ True], dtype=bool)"),
        (np.array([[1.0, 2], [3, 4]]), "Array([[1., 2.],\n       [3., 4.]], dtype=float32)"),
        (np.array([1 + 2j]), "Array([1.+2.j], dtype=complex64)"),
        (np.array([1, 2], ml_dtypes.bfloat16), "Array([1, 2], dtype=bfloat16)"),
    ],
)
def test_repr(data: np.ndarray, text: str) -> None:
    assert repr(from_numpy(data)) == text


def test_repr_of_weak_and_keys() -> None:
    assert repr(S) == "Array(1.5, dtype=float32, weak_type=True)"
    assert repr(KEY) == str(KEY) == "Array((), dtype=key<fry>) overlaying:\n[0 7]"


def test_str_and_format() -> None:
    assert str(X) == "[1. 2.]" and f"{S:.2f}" == "1.50" and f"{X}" == "[1. 2.]"
    with pytest.raises(TypeError):
        format(X, ".2f")


def test_numpy_sees_the_data_without_a_copy_and_cannot_write() -> None:
    view = np.asarray(X)
    assert view.__array_interface__["data"][0] == X.unsafe_buffer_pointer()
    assert not view.flags.writeable
    with pytest.raises(ValueError):
        view[0] = 3
    assert np.array(X).flags.writeable
    assert np.asarray(X, np.float64).dtype == np.float64
    assert np.array(X, copy=False) is not None
    with pytest.raises(ValueError):
        np.array(X, np.float64, copy=False)


def test_from_numpy_copies_and_canonicalizes() -> None:
    data = np.array([1.0, 2.0], np.float32)
    x = from_numpy(data)
    data[0] = 9
    assert x.tolist() == [1, 2]
    assert from_numpy(np.arange(3)).dtype == np.int32
    assert from_numpy(np.array([1, 2], ">f4")).tolist() == [1, 2]


def test_scalars() -> None:
    i = from_numpy(np.array(3))
    assert (int(i), float(i), complex(i), i.__index__(), bool(i)) == (3, 3.0, 3 + 0j, 3, True)
    assert [10, 20, 30, 40][i] == 40 and list(range(i)) == [0, 1, 2]
    assert from_numpy(np.array([0.0])).item() == 0.0 and X.item(1) == 2.0
    assert not bool(from_numpy(np.array([0.0])))


@pytest.mark.parametrize("convert", [int, float, complex])
def test_only_rank_zero_becomes_a_number(convert: type) -> None:
    with pytest.raises(TypeError, match="Only scalar arrays can be converted"):
        convert(from_numpy(np.array([1.0])))


def test_errors_of_conversions() -> None:
    with pytest.raises(TypeError, match="Only integer scalar arrays"):
        S.__index__()
    with pytest.raises(TypeError, match="Only integer scalar arrays"):
        from_numpy(np.array(True)).__index__()
    with pytest.raises(ValueError, match="more than one element is ambiguous"):
        bool(X)
    with pytest.raises(ValueError, match="empty array is ambiguous"):
        bool(from_numpy(np.zeros((0, 2))))
    with pytest.raises(ValueError, match="size 1"):
        X.item()
    with pytest.raises(TypeError, match="unsized"):
        len(S)
    with pytest.raises(TypeError, match="0-d"):
        iter(S)
    with pytest.raises(TypeError, match="unhashable"):
        hash(X)
    with pytest.raises(TypeError, match=r"\.at\[idx\]\.set"):
        X[0] = 1  # type: ignore[index]


def test_containers() -> None:
    assert len(X) == 2
    assert [type(x) for x in X] == [ArrayImpl] * 2 and [float(x) for x in X] == [1, 2]
    rows = list(from_numpy(np.arange(6).reshape(2, 3)))
    assert rows[1].shape == (3,) and rows[1].tolist() == [3, 4, 5]
    assert from_numpy(np.array([1.5, 2], ml_dtypes.bfloat16)).tolist() == [1.5, 2.0]


@pytest.mark.parametrize("x", [X, S, KEY, from_numpy(np.arange(6).reshape(2, 3).T), from_numpy(np.zeros((0,)))])
def test_pickle_and_copies(x: ArrayImpl) -> None:
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), copy.copy(x)):
        assert y.aval is x.aval and np.array_equal(y._np, x._np)
        assert not y._np.flags.writeable


def test_keys_have_no_numbers() -> None:
    with pytest.raises(TypeError, match="key_data"):
        np.asarray(KEY)
    for convert in (bool, float, int):
        with pytest.raises(TypeError):
            convert(KEY)
    assert KEY.shape == () and KEY.itemsize == 8 and str(KEY.dtype) == "key<fry>"


def test_dlpack() -> None:
    assert X.__dlpack_device__() == (1, 0)
    there = np.from_dlpack(X)
    assert there.__array_interface__["data"][0] == X.unsafe_buffer_pointer()
    back = from_dlpack(np.arange(3.0, dtype=np.float32))
    assert back.tolist() == [0, 1, 2] and isinstance(back, ArrayImpl)
    assert from_dlpack(X) is X
    with pytest.raises(BufferError):
        KEY.__dlpack__()


def test_placement() -> None:
    (device,) = X.devices()
    assert repr(device) == "CpuDevice(id=0)" and device.platform == "cpu" and X.device == device
    assert X.sharding.device_set == {device} and X.is_fully_addressable
    assert X.block_until_ready() is X and X.is_ready()
    assert X.addressable_shards[0].data is X and X.addressable_data(0) is X


def iter_all(x: ArrayImpl) -> list[ArrayImpl]:
    return list(x)


def test_delete() -> None:
    x = from_numpy(np.ones(2))
    x.delete()
    x.delete()
    assert x.is_deleted() and x.shape == (2,) and isinstance(x, ArrayImpl)
    for use in (np.asarray, repr, lambda x: x + 1, lambda x: x.block_until_ready(), iter_all):
        with pytest.raises(RuntimeError, match=r"deleted with shape=float32\[2\]"):
            use(x)


def test_numpy_operators_give_arrays() -> None:
    out = np.ones(2, np.float32) * X
    assert isinstance(out, ArrayImpl) and out.tolist() == [1, 2]
