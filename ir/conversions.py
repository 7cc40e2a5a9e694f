"""Elementwise primitives that change what a number is stored as: conversion to another dtype, its bits, rounding to another format.

Conversion from floating-point numbers to integers saturates, as XLA does, and NaN gives 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.bind import bind1
from tracegrad.ir.checks import COMPLEX, FLOAT, HALF, INTEGER, NUMBER, VALUE, require_dtype
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, is_key

_BOOL = np.dtype(np.bool_)


def _convert_type(x: ArrayType, *, new_dtype: Any, weak: bool) -> tuple[ArrayType]:
    if x.dtype not in VALUE or new_dtype not in VALUE:
        if x.dtype != new_dtype:
            raise TypeError(f"convert_element_type cannot convert {x} to {new_dtype}")
    return (ArrayType(x.shape, new_dtype, weak),)


def _convert(x: np.ndarray, *, new_dtype: Any, weak: bool) -> tuple[np.ndarray]:
    old = x.dtype
    if old == new_dtype or is_key(new_dtype):
        return (x,)
    with np.errstate(all="ignore"):
        if new_dtype == _BOOL:
            return (np.asarray(x != old.type(0)),)
        if old in COMPLEX and new_dtype not in COMPLEX:
            x = x.real
        if new_dtype in INTEGER and x.dtype in FLOAT:
            return (_saturate(x.astype(np.float32) if old in HALF else x, new_dtype),)
        return (x.astype(new_dtype),)


def _saturate(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Truncate floating-point numbers to integers; those out of range go to the nearest integer there is, NaN to 0."""
    limits = np.iinfo(dtype)
    below, above = x <= x.dtype.type(limits.min), x >= x.dtype.type(2.0 ** (limits.bits - (limits.min < 0)))
    strange = below | above | (x != x)
    if not strange.any():
        return x.astype(dtype)
    whole = np.where(strange, x.dtype.type(0), x).astype(dtype)
    return np.where(below, dtype.type(limits.min), np.where(above, dtype.type(limits.max), whole))


convert_element_type_p = Primitive("convert_element_type", _convert_type, _convert, "elementwise")


def convert_element_type(x: Any, new_dtype: Any, weak: bool = False) -> Any:
    """`x` as `new_dtype`."""
    new_dtype = new_dtype if is_key(new_dtype) else np.dtype(new_dtype)
    return bind1(convert_element_type_p, x, new_dtype=new_dtype, weak=bool(weak))


def _bitcast_type(x: ArrayType, *, new_dtype: Any) -> tuple[ArrayType]:
    if x.dtype not in NUMBER or new_dtype not in NUMBER or x.dtype.itemsize != new_dtype.itemsize:
        raise TypeError(f"bitcast_convert_type needs dtypes of the same width, but got {x} and {new_dtype}")
    return (ArrayType(x.shape, new_dtype),)


bitcast_convert_type_p = Primitive(
    "bitcast_convert_type", _bitcast_type, lambda x, *, new_dtype: (x.view(new_dtype),), "elementwise"
)


def bitcast_convert_type(x: Any, new_dtype: Any) -> Any:
    """The same bits read as another dtype of the same width."""
    return bind1(bitcast_convert_type_p, x, new_dtype=np.dtype(new_dtype))


def _reduce_precision_type(x: ArrayType, *, exponent_bits: int, mantissa_bits: int) -> tuple[ArrayType]:
    require_dtype("reduce_precision", FLOAT, (x,))
    if exponent_bits < 1 or mantissa_bits < 0:
        raise ValueError(f"reduce_precision: {exponent_bits} exponent bits and {mantissa_bits} mantissa bits are not a format")
    return (x,)


FORMATS = {"float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23), "float64": (11, 52)}
"""Exponent and mantissa bits of the floating-point dtypes."""


def _reduce_precision(x: np.ndarray, *, exponent_bits: int, mantissa_bits: int) -> tuple[np.ndarray]:
    exponent, mantissa = FORMATS[x.dtype.name]
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    u = unsigned.type
    bits = x.view(unsigned)
    sign_mask = u(1 << (exponent + mantissa))
    infinity = u(((1 << exponent) - 1) << mantissa)
    if mantissa_bits < mantissa:
        dropped = mantissa - mantissa_bits
        odd = (bits >> u(dropped)) & u(1)
        bits = (bits + u((1 << (dropped - 1)) - 1) + odd) & u(~((1 << dropped) - 1) & ((1 << unsigned.itemsize * 8) - 1))
    if exponent_bits < exponent:
        bias, new_bias = (1 << (exponent - 1)) - 1, (1 << (exponent_bits - 1)) - 1
        field = bits & infinity
        bits = np.where(field > u((bias + new_bias) << mantissa), (bits & sign_mask) | infinity, bits)
        bits = np.where(field <= u((bias - new_bias) << mantissa), bits & sign_mask, bits)
    with np.errstate(all="ignore"):
        return (np.asarray(np.where(x != x, x, np.asarray(bits).view(x.dtype))),)


reduce_precision_p = Primitive("reduce_precision", _reduce_precision_type, _reduce_precision, "elementwise")


def reduce_precision(x: Any, exponent_bits: int, mantissa_bits: int) -> Any:
    """`x` rounded to a narrower floating-point format, kept in its dtype; what that format calls subnormal becomes zero."""
    return bind1(reduce_precision_p, x, exponent_bits=int(exponent_bits), mantissa_bits=int(mantissa_bits))


__all__ = ["convert_element_type", "bitcast_convert_type", "reduce_precision"]
