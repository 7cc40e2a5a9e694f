"""Scalars of one dtype as scalars of another: conversion, the bits of a number, rounding to narrower formats.

float16 and bfloat16 are float32 in registers, and rounded after every operation. The meaning is that of `ir.conversions`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.codegen.builder import Builder
from tracegrad.codegen.loop_ir import Value
from tracegrad.codegen.values import FLOAT16, Scalar, register_type
from tracegrad.ir.conversions import FORMATS
from tracegrad.ir.types import bfloat16


def round_half(b: Builder, dtype: Any, v: Scalar) -> Scalar:
    """A float32 in a register rounded to float16 or bfloat16; other dtypes as they are."""
    if dtype.kind == "f" and dtype.itemsize == 2 and dtype == FLOAT16:
        return b.op("fpext", "f32", b.op("fptrunc", "f16", v))
    if dtype == bfloat16:
        bits = b.op("bitcast", "i32", v)
        odd = b.op("and", "i32", b.op("lshr", "i32", bits, b.const("i32", 16)), b.const("i32", 1))
        rounded = b.op("add", "i32", b.op("add", "i32", bits, b.const("i32", 0x7FFF)), odd)
        quiet = b.op("or", "i32", bits, b.const("i32", 0x400000))
        chosen = b.select(b.op("fcmp", "i1", v, v, attr="uno"), quiet, rounded)
        return b.op("bitcast", "f32", b.op("and", "i32", chosen, b.const("i32", -65536)))
    return v


def convert(b: Builder, v: Scalar, old: Any, new: Any) -> Scalar:
    """A scalar of dtype `old` as one of dtype `new`: floats to integers saturate (NaN gives 0), complex to real drops a part."""
    if old == new:
        return v
    if new.kind == "b":
        return _to_bool(b, v, old)
    if new.kind == "c":
        part = np.dtype("f4" if new.itemsize == 8 else "f8")
        if old.kind == "c":
            old_part = np.dtype("f4" if old.itemsize == 8 else "f8")
            return (convert(b, v[0], old_part, part), convert(b, v[1], old_part, part))
        return (convert(b, v, old, part), b.const(register_type(part), 0.0))
    if old.kind == "c":
        return convert(b, v[0], np.dtype("f4" if old.itemsize == 8 else "f8"), new)
    source, target = register_type(old), register_type(new)
    if target[0] == "f":
        if source[0] == "f":
            if source == target:
                out = v
            else:
                out = b.op("fpext" if target == "f64" else "fptrunc", target, v)
        else:
            out = b.op("sitofp" if old.kind == "i" else "uitofp", target, v)
        return round_half(b, new, out)
    if source[0] == "f":
        return _saturated(b, v, new)
    if source == target:
        return v
    if source != "i1" and int(target[1:]) < int(source[1:]):
        return b.op("trunc", target, v)
    return b.op("sext" if old.kind == "i" else "zext", target, v)


def _saturated(b: Builder, v: Value, new: Any) -> Value:
    """A float as an integer; too small or too large ones as the least and greatest integer, NaN as 0. In a form that vectorizes."""
    limits = np.iinfo(new)
    signed = new.kind == "i"
    wide = register_type(new) if new.itemsize >= 4 else "i32"
    least = float(limits.min) if signed else -1.0
    below = b.op("fcmp", "i1", v, b.const(v.type, least), attr="ole")
    above = b.op("fcmp", "i1", v, b.const(v.type, float(int(limits.max) + 1)), attr="oge")
    strange = b.op("or", "i1", b.op("or", "i1", below, above), b.op("fcmp", "i1", v, v, attr="uno"))
    safe = b.select(strange, b.const(v.type, 0.0), v)
    whole = b.op("fptosi" if signed or new.itemsize < 4 else "fptoui", wide, safe)
    if new.itemsize < 4:
        whole = b.op("trunc", register_type(new), whole)
    t = whole.type
    greatest = int(limits.max) if signed else -1
    return b.select(above, b.const(t, greatest), b.select(below, b.const(t, int(limits.min)), whole))


def _to_bool(b: Builder, v: Scalar, old: Any) -> Value:
    if old.kind == "c":
        return b.op("or", "i1", *[b.op("fcmp", "i1", p, b.const(p.type, 0.0), attr="une") for p in v])
    if v.type == "i1":
        return v
    if v.type[0] == "f":
        return b.op("fcmp", "i1", v, b.const(v.type, 0.0), attr="une")
    return b.op("icmp", "i1", v, b.const(v.type, 0), attr="ne")


def to_half_bits(b: Builder, v: Value, dtype: Any) -> Value:
    if dtype == FLOAT16:
        return b.op("bitcast", "i16", b.op("fptrunc", "f16", v))
    return b.op("trunc", "i16", b.op("lshr", "i32", b.op("bitcast", "i32", v), b.const("i32", 16)))


def from_half_bits(b: Builder, bits: Value, dtype: Any) -> Value:
    if dtype == FLOAT16:
        return b.op("fpext", "f32", b.op("bitcast", "f16", bits))
    return b.op("bitcast", "f32", b.op("shl", "i32", b.op("zext", "i32", bits), b.const("i32", 16)))


def to_bits(b: Builder, v: Value, dtype: Any) -> Value:
    """The bits of a number as an integer of its width."""
    if dtype.kind in "iu":
        return v
    if dtype.itemsize == 2:
        return to_half_bits(b, v, dtype)
    return b.op("bitcast", f"i{8 * dtype.itemsize}", v)


def from_bits(b: Builder, bits: Value, dtype: Any) -> Value:
    if dtype.kind in "iu":
        return bits
    if dtype.itemsize == 2:
        return from_half_bits(b, bits, dtype)
    return b.op("bitcast", register_type(dtype), bits)


def bitcast(b: Builder, v: Scalar, dtype: Any, new: Any) -> Scalar:
    """The bits of a scalar of `dtype`, read as one of `new`, which is as wide."""
    if dtype == new:
        return v
    if dtype.kind == "c":
        low, high = (b.op("zext", "i64", b.op("bitcast", "i32", part)) for part in v)
        bits = b.op("or", "i64", low, b.op("shl", "i64", high, b.const("i64", 32)))
    else:
        bits = to_bits(b, v, dtype)
    if new.kind == "c":
        low = b.op("trunc", "i32", bits)
        high = b.op("trunc", "i32", b.op("lshr", "i64", bits, b.const("i64", 32)))
        return (b.op("bitcast", "f32", low), b.op("bitcast", "f32", high))
    return from_bits(b, bits, new)


def reduce_precision(b: Builder, x: Value, dtype: Any, exponent_bits: int, mantissa_bits: int) -> Value:
    """A floating-point number rounded to a format of so many bits; what is too large is infinite, what is subnormal there is zero."""
    exponent, mantissa = FORMATS[dtype.name]
    width = 8 * dtype.itemsize
    it = f"i{width}"

    def const(n: int) -> Value:
        n &= (1 << width) - 1
        return b.const(it, n - (1 << width) if n >> (width - 1) else n)

    bits = to_bits(b, x, dtype)
    sign_mask = const(1 << (exponent + mantissa))
    infinity = const(((1 << exponent) - 1) << mantissa)
    if mantissa_bits < mantissa:
        dropped = mantissa - mantissa_bits
        odd = b.op("and", it, b.op("lshr", it, bits, const(dropped)), const(1))
        bits = b.op("add", it, b.op("add", it, bits, const((1 << (dropped - 1)) - 1)), odd)
        bits = b.op("and", it, bits, const(~((1 << dropped) - 1)))
    if exponent_bits < exponent:
        bias, new_bias = (1 << (exponent - 1)) - 1, (1 << (exponent_bits - 1)) - 1
        field = b.op("and", it, bits, infinity)
        sign = b.op("and", it, bits, sign_mask)
        over = b.op("icmp", "i1", field, const((bias + new_bias) << mantissa), attr="ugt")
        under = b.op("icmp", "i1", field, const((bias - new_bias) << mantissa), attr="ule")
        bits = b.select(over, b.op("or", it, sign, infinity), bits)
        bits = b.select(under, sign, bits)
    return b.select(b.op("fcmp", "i1", x, x, attr="uno"), x, from_bits(b, bits, dtype))
