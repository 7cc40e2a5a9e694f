"""Functions for code that runs one number at a time: tables make their polynomials short.

The functions for loops over arrays look nothing up, for vector registers are slow at it. A loop over few numbers, each step of
which waits for the one before, has another price: the time until a result is there. A table shortens that; the method is that of P.-T. P.
Tang, "Table-lookup algorithms for elementary functions and their error analysis", ARITH 10 (1991).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from tracegrad.codegen.elementary.functions import INF, function
from tracegrad.codegen.elementary.powers import special_powers
from tracegrad.codegen.elementary.writer import Writer

SCALAR = {("pow", "f32"): "pow_by_table"}
"""(function, dtype) -> the function that takes its place where numbers are computed one by one."""

_BITS = 5
_STEPS = 1 << _BITS
_START = 0x3F330000
"""The bits of a number near 0.7: where the mantissas that the table divides into steps begin."""

# log2(1 + r) / r for |r| <= 3/128, relative error 2^-33
_LOG2 = (1.4426950408889634, -0.7213474977593061, 0.4808983275181806, -0.3608389316155865, 0.2886805858186402)
# (2^r - 1) / r for |r| <= 1/64; the error of 2^r is 2^-32
_EXP2 = (0.6931471805599453, 0.2402282680963039, 0.05550435281007442)


def _log2_table() -> list[float]:
    """For each step of the mantissas an approximate reciprocal of its middle, and minus the logarithm of that; exact around 1."""
    numbers = []
    for k in range(_STEPS):
        low, high = (struct.unpack("f", struct.pack("I", _START + (j << (23 - _BITS))))[0] for j in (k, k + 1))
        reciprocal = 1.0 if low <= 1 <= high else 2 / (low + high)
        numbers += [reciprocal, -math.log2(reciprocal)]
    return numbers


def _exp2_table() -> list[int]:
    """The bits of 2^(k/32), less what adding k to a number with 5 bits below the point adds to the exponent."""
    return [struct.unpack("q", struct.pack("d", 2.0 ** (k / _STEPS)))[0] - (k << (52 - _BITS)) for k in range(_STEPS)]


def _global(w: Writer, name: str, type: str, numbers: Sequence[float]) -> str:
    """A table of the module; it goes where declarations do."""
    spelled = ", ".join(f"{type} {w.number(x) if type == 'double' else x}" for x in numbers)
    w.intrinsics.add(f"@{name} = internal unnamed_addr constant [{len(numbers)} x {type}] [{spelled}], align 64")
    return f"@{name}"


def _short(w: Writer, x: str, coefficients: Sequence[float], first: str | float) -> str:
    """first + x times a polynomial, as a sum of pairs that do not wait for each other."""
    square = w.mul(x, x)
    terms = [first, *coefficients]
    pairs = [w.muladd(x, terms[i + 1], terms[i]) if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    total = pairs.pop()
    while pairs:
        total = w.muladd(total, square, pairs.pop())
    return w.f(total)


@function(2)
def pow_by_table(w: Writer, x: str, y: str) -> str:
    """x**y in f32: 2**(y log2 |x|) in doubles of the precision needed, the special cases chosen at the end."""
    assert w.single, "a power in f64 needs its logarithm to more than twice the precision: that is `pow`"
    wide = w.in_double()
    bits = w.to_bits(w.abs(x))
    subnormal = w.icmp("ult", bits, 1 << 23)
    bits = w.iselect(subnormal, w.to_bits(w.mul(w.abs(x), 2.0**32)), bits)
    above = w.isub(bits, _START)
    mantissa = w.from_bits(w.isub(bits, w.iand(above, -(1 << 23))))
    k = w.isub(w.ashr(above, 23), w.iselect(subnormal, 32, 0))
    step = w.emit(f"zext i32 {w.iand(w.lshr(above, 23 - _BITS), _STEPS - 1)} to i64")
    at = w.emit(f"getelementptr inbounds [2 x double], ptr {_global(wide, 'tg.table.log2', 'double', _log2_table())}, i64 {step}")
    reciprocal = w.emit(f"load double, ptr {at}")
    logarithm = w.emit(f"load double, ptr {w.emit(f'getelementptr inbounds i8, ptr {at}, i64 8')}")
    whole = wide.add(logarithm, w.emit(f"sitofp i32 {k} to double"))
    log2 = _short(wide, wide.fma(w.widen(mantissa), reciprocal, -1.0), _LOG2, whole)
    exponent = w.widen(y)
    # Adding 1.5 * 2^47 leaves the exponent's whole part and five bits below the point; what is below those is the polynomial's.
    magic = 1.5 * 2.0 ** (52 - _BITS)
    shifted = wide.muladd(log2, exponent, magic)
    rest = wide.muladd(log2, exponent, wide.neg(wide.sub(shifted, magic)))
    turns = wide.to_bits(shifted)
    table = _global(wide, "tg.table.exp2", "i64", _exp2_table())
    root = w.emit(f"load i64, ptr {w.emit(f'getelementptr inbounds i64, ptr {table}, i64 {wide.iand(turns, _STEPS - 1)}')}")
    scale = wide.from_bits(wide.iadd(root, wide.shl(turns, 52 - _BITS)))
    power = w.narrow(wide.mul(_short(wide, rest, _EXP2, 1.0), scale))
    product = wide.mul(log2, exponent)
    power = w.select(wide.cmp("olt", product, -160.0), 0.0, power)
    power = w.select(wide.cmp("ogt", product, 130.0), INF, power)
    return special_powers(w, x, y, power)
