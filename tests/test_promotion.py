"""Promotion over the whole table of pairs, with 64-bit types on and off.

The tables hold the dtype of `a + b` for every pair; `~` marks a weak result, `i* f* c*` are Python scalars. The values are JAX's.
"""

from __future__ import annotations

import numpy as np
import pytest

from tracegrad.ir import dtypes
from tracegrad.ir.config import config
from tracegrad.ir.types import FROM_SHORT_NAME, SHORT_NAMES, ArrayType

X64 = """
      bool  u8    u16   u32   u64   i8    i16   i32   i64   bf16  f16   f32   f64   c64   c128  i*    f*    c*
bool  bool  u8    u16   u32   u64   i8    i16   i32   i64   bf16  f16   f32   f64   c64   c128  ~i64  ~f64  ~c128
u8    u8    u8    u16   u32   u64   i16   i16   i32   i64   bf16  f16   f32   f64   c64   c128  u8    ~f64  ~c128
u16   u16   u16   u16   u32   u64   i32   i32   i32   i64   bf16  f16   f32   f64   c64   c128  u16   ~f64  ~c128
u32   u32   u32   u32   u32   u64   i64   i64   i64   i64   bf16  f16   f32   f64   c64   c128  u32   ~f64  ~c128
u64   u64   u64   u64   u64   u64   ~f64  ~f64  ~f64  ~f64  bf16  f16   f32   f64   c64   c128  u64   ~f64  ~c128
i8    i8    i16   i32   i64   ~f64  i8    i16   i32   i64   bf16  f16   f32   f64   c64   c128  i8    ~f64  ~c128
i16   i16   i16   i32   i64   ~f64  i16   i16   i32   i64   bf16  f16   f32   f64   c64   c128  i16   ~f64  ~c128
i32   i32   i32   i32   i64   ~f64  i32   i32   i32   i64   bf16  f16   f32   f64   c64   c128  i32   ~f64  ~c128
i64   i64   i64   i64   i64   ~f64  i64   i64   i64   i64   bf16  f16   f32   f64   c64   c128  i64   ~f64  ~c128
bf16  bf16  bf16  bf16  bf16  bf16  bf16  bf16  bf16  bf16  bf16  f32   f32   f64   c64   c128  bf16  bf16  c64
f16   f16   f16   f16   f16   f16   f16   f16   f16   f16   f32   f16   f32   f64   c64   c128  f16   f16   c64
f32   f32   f32   f32   f32   f32   f32   f32   f32   f32   f32   f32   f32   f64   c64   c128  f32   f32   c64
f64   f64   f64   f64   f64   f64   f64   f64   f64   f64   f64   f64   f64   f64   c128  c128  f64   f64   c128
c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c128  c64   c128  c64   c64   c64
c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128  c128
i*    ~i64  u8    u16   u32   u64   i8    i16   i32   i64   bf16  f16   f32   f64   c64   c128  ~i64  ~f64  ~c128
f*    ~f64  ~f64  ~f64  ~f64  ~f64  ~f64  ~f64  ~f64  ~f64  bf16  f16   f32   f64   c64   c128  ~f64  ~f64  ~c128
c*    ~c128 ~c128 ~c128 ~c128 ~c128 ~c128 ~c128 ~c128 ~c128 c64   c64   c64   c128  c64   c128  ~c128 ~c128 ~c128
"""

X32 = """
      bool  u8    u16   u32   i8    i16   i32   bf16  f16   f32   c64   i*    f*    c*
bool  bool  u8    u16   u32   i8    i16   i32   bf16  f16   f32   c64   ~i32  ~f32  ~c64
u8    u8    u8    u16   u32   i16   i16   i32   bf16  f16   f32   c64   u8    ~f32  ~c64
u16   u16   u16   u16   u32   i32   i32   i32   bf16  f16   f32   c64   u16   ~f32  ~c64
u32   u32   u32   u32   u32   i32   i32   i32   bf16  f16   f32   c64   u32   ~f32  ~c64
i8    i8    i16   i32   i32   i8    i16   i32   bf16  f16   f32   c64   i8    ~f32  ~c64
i16   i16   i16   i32   i32   i16   i16   i32   bf16  f16   f32   c64   i16   ~f32  ~c64
i32   i32   i32   i32   i32   i32   i32   i32   bf16  f16   f32   c64   i32   ~f32  ~c64
bf16  bf16  bf16  bf16  bf16  bf16  bf16  bf16  bf16  f32   f32   c64   bf16  bf16  c64
f16   f16   f16   f16   f16   f16   f16   f16   f32   f16   f32   c64   f16   f16   c64
f32   f32   f32   f32   f32   f32   f32   f32   f32   f32   f32   c64   f32   f32   c64
c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c64   c64
i*    ~i32  u8    u16   u32   i8    i16   i32   bf16  f16   f32   c64   ~i32  ~f32  ~c64
f*    ~f32  ~f32  ~f32  ~f32  ~f32  ~f32  ~f32  bf16  f16   f32   c64   ~f32  ~f32  ~c64
c*    ~c64  ~c64  ~c64  ~c64  ~c64  ~c64  ~c64  c64   c64   c64   c64   ~c64  ~c64  ~c64
"""

PYTHON_SCALARS = {"i*": 1, "f*": 1.0, "c*": 1j}


def operand(name: str) -> ArrayType:
    if name in PYTHON_SCALARS:
        return ArrayType((), dtypes.dtype_of_python_scalar(PYTHON_SCALARS[name]), True)
    return ArrayType((), FROM_SHORT_NAME[name])


@pytest.mark.parametrize(("x64", "table"), [(True, X64), (False, X32)], ids=["x64", "x32"])
def test_every_pair_promotes_as_the_table_says(x64: bool, table: str) -> None:
    head, *rows = table.strip("\n").splitlines()
    columns = head.split()
    wrong = []
    with config.override("enable_x64", x64):
        for row in rows:
            a, *cells = row.split()
            for b, want in zip(columns, cells, strict=True):
                dtype, weak = dtypes.promote(operand(a), operand(b))
                got = ("~" if weak else "") + SHORT_NAMES[dtype]
                if got != want:
                    wrong.append(f"{a} + {b}: {got}, expected {want}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("x64", [True, False])
def test_promotion_does_not_depend_on_order_or_grouping(x64: bool) -> None:
    with config.override("enable_x64", x64):
        names = [n for n in X64.split("\n")[1].split() if n not in PYTHON_SCALARS]
        types = [ArrayType((), dtypes.canonicalize_dtype(FROM_SHORT_NAME[n])) for n in names]
        for a in types:
            for b in types:
                assert dtypes.promote(a, b) == dtypes.promote(b, a)
                for c in types[::3]:
                    ab = ArrayType((), *dtypes.promote(a, b))
                    bc = ArrayType((), *dtypes.promote(b, c))
                    if x64:  # without x64 a 64-bit bound is truncated on the way, as in JAX
                        assert dtypes.promote(ab, c) == dtypes.promote(a, bc) == dtypes.promote(a, b, c)


def test_64_bit_requests_are_truncated_without_x64() -> None:
    with config.override("enable_x64", False):
        assert dtypes.canonicalize_dtype(np.float64) == np.float32
        assert dtypes.canonicalize_dtype("int64") == np.int32
        assert dtypes.canonicalize_dtype(complex) == np.complex64
    with config.override("enable_x64", True):
        assert dtypes.canonicalize_dtype(np.float64) == np.float64
        assert dtypes.canonicalize_dtype(int) == np.int64


def test_strict_promotion_refuses_mixed_dtypes_but_takes_weak_scalars() -> None:
    with config.override("numpy_dtype_promotion", "strict"):
        f32, i32 = ArrayType((), np.float32), ArrayType((), np.int32)
        assert dtypes.promote(f32, operand("f*")) == (np.dtype(np.float32), False)
        with pytest.raises(dtypes.TypePromotionError, match="strict"):
            dtypes.promote(f32, i32)
        with pytest.raises(dtypes.TypePromotionError, match="weak"):
            dtypes.promote(i32, operand("f*"))


def test_unknown_dtypes_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="object"):
        dtypes.canonicalize_dtype(object)
    with pytest.raises(TypeError, match="nonsense"):
        dtypes.canonicalize_dtype("nonsense")


def test_an_integer_that_does_not_fit_is_an_error_that_names_the_switch() -> None:
    with config.override("enable_x64", False), pytest.raises(OverflowError, match="enable_x64"):
        dtypes.dtype_of_python_scalar(2**40)
