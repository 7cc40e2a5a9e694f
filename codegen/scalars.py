"""What each elementwise primitive does to one element: rules from scalars to scalars, per dtype, for loops of any kind.

`apply(b, name, dtype, out_dtype, args, params)` is the one entrance; reductions, scatters and cumulative loops use it as well.
The meaning is that of the primitive's evaluation in `ir.elementwise` and `ir.conversions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tracegrad.codegen import conversions
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.loop_ir import Value
from tracegrad.codegen.values import Scalar, register_type

Rule = Callable[..., Scalar]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = function
        return function

    return register


def apply(b: Builder, name: str, dtype: Any, out_dtype: Any, args: list[Scalar], params: dict[str, Any]) -> Scalar:
    """The result, of `out_dtype`, of a primitive on scalars of which the first (for select the second) has `dtype`."""
    kind = dtype.kind
    if kind == "c":
        from tracegrad.codegen.complex_scalars import RULES

        found = RULES.get(name)
        if found is not None:
            return found(b, register_type(dtype), args, dtype, out_dtype, params)
    result = _RULES[name](b, register_type(dtype), args, dtype, out_dtype, params)
    if name in _EXACT:
        return result
    return conversions.round_half(b, out_dtype, result)


_EXACT = frozenset(
    "neg abs max min select clamp copy stop_gradient eq ne lt le gt ge is_finite not and or xor real imag conj sign floor ceil "
    "convert_element_type bitcast_convert_type reduce_precision population_count clz shift_left shift_right_logical "
    "shift_right_arithmetic".split()
)
"""Primitives whose results need no rounding to half precision."""


def supported(name: str) -> bool:
    return name in _RULES


# ------------------------------------------------------------------------------------------------------------------ arithmetic


def _simple(float_op: str, int_op: str) -> Rule:
    def apply_rule(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
        return b.op(float_op if t[0] == "f" else int_op, t, *args)

    return apply_rule


def _different_multiples(x: Value, y: Value) -> bool:
    """Whether two products have each a constant factor, of different size."""
    a, c = (next((f.attr for f in v.args if f.is_const), None) for v in (x, y))
    return a is not None and c is not None and abs(a) != abs(c)


def _sum(float_op: str, int_op: str) -> Rule:
    """A sum of two products is rounded like it is written: a fused operation would treat one of them differently, so that
    `a * b - b * a` would not be zero. Elsewhere a product that is added may be fused with its sum, also where both are multiples by
    different constants, as in the steps of filters and integrators."""

    def apply_rule(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
        if t[0] == "f":
            exact = args[0].op == "fmul" and args[1].op == "fmul" and not _different_multiples(*args)
            return b.op(float_op, t, *args, attr="exact" if exact else None)
        return b.op(int_op, t, *args)

    return apply_rule


_RULES["add"] = _sum("fadd", "add")
_RULES["sub"] = _sum("fsub", "sub")
_RULES["mul"] = _simple("fmul", "mul")


@rule("neg")
def _neg(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
    if t[0] == "f":
        return b.op("fneg", t, args[0])
    return b.op("sub", t, b.const(t, 0), args[0])


@rule("square")
def _square(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
    return b.op("fmul" if t[0] == "f" else "mul", t, args[0], args[0])


@rule("copy", "stop_gradient", "name", "real", "conj")
def _identity(b: Builder, t: str, args: list[Scalar], *_: Any) -> Scalar:
    return args[0]


@rule("abs")
def _abs(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
    x = args[0]
    if t[0] == "f":
        return b.op("fabs", t, x)
    if dtype.kind in "ub":
        return x
    return b.select(b.op("icmp", "i1", x, b.const(t, 0), attr="slt"), b.op("sub", t, b.const(t, 0), x), x)


@rule("sign")
def _sign(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
    x = args[0]
    if t[0] == "f":
        # the sign of a zero is that zero, of a NaN that NaN
        plain = b.op("fcmp", "i1", x, b.const(t, 0.0), attr="one")
        return b.select(plain, b.op("copysign", t, b.const(t, 1.0), x), x)
    zero, one = b.const(t, 0), b.const(t, 1)
    if dtype.kind == "u":
        return b.select(b.op("icmp", "i1", x, zero, attr="ne"), one, zero)
    positive = b.select(b.op("icmp", "i1", x, zero, attr="sgt"), one, zero)
    return b.select(b.op("icmp", "i1", x, zero, attr="slt"), b.const(t, -1), positive)


@rule("div")
def _div(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
    x, y = args
    if t[0] == "f":
        return b.op("fdiv", t, x, y)
    zero, one = b.const(t, 0), b.const(t, 1)
    if y.is_const and y.attr not in (0, -1):
        return b.op("sdiv" if dtype.kind == "i" else "udiv", t, x, y)
    by_zero = b.op("icmp", "i1", y, zero, attr="eq")
    if dtype.kind == "u":
        quotient = b.op("udiv", t, x, b.select(by_zero, one, y))
    else:
        minus = b.op("icmp", "i1", y, b.const(t, -1), attr="eq")
        safe = b.select(b.op("or", "i1", by_zero, minus), one, y)
        quotient = b.select(minus, b.op("sub", t, zero, x), b.op("sdiv", t, x, safe))
    return b.select(by_zero, b.const(t, -1), quotient)


@rule("rem")
def _rem(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
    x, y = args
    if t[0] == "f":
        return b.math("rem", t, x, y)
    zero, one = b.const(t, 0), b.const(t, 1)
    if y.is_const and y.attr not in (0, -1):
        return b.op("srem" if dtype.kind == "i" else "urem", t, x, y)
    by_zero = b.op("icmp", "i1", y, zero, attr="eq")
    if dtype.kind == "u":
        return b.select(by_zero, x, b.op("urem", t, x, b.select(by_zero, one, y)))
    minus = b.op("icmp", "i1", y, b.const(t, -1), attr="eq")
    safe = b.select(b.op("or", "i1", by_zero, minus), one, y)
    return b.select(by_zero, x, b.op("srem", t, x, safe))


def _extremum(greatest: bool) -> Rule:
    above, below = ("ogt", "olt") if greatest else ("olt", "ogt")

    def apply_rule(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
        x, y = args
        if t[0] == "f":
            if x.is_const:
                x, y = y, x
            if y.is_const and y.attr == y.attr:  # the constant is no NaN: one comparison, that x's NaN fails
                return b.select(b.op("fcmp", "i1", x, y, attr=below), y, x)
            chosen = b.select(b.op("fcmp", "i1", x, y, attr=above), x, y)
            return b.select(b.op("fcmp", "i1", x, x, attr="uno"), x, chosen)
        if t == "i1":
            return b.op("or" if greatest else "and", t, x, y)
        sign = "s" if dtype.kind == "i" else "u"
        return b.op(sign + ("max" if greatest else "min"), t, x, y)

    return apply_rule


_RULES["max"] = _extremum(True)
_RULES["min"] = _extremum(False)


@rule("clamp")
def _clamp(b: Builder, t: str, args: list[Value], dtype: Any, *rest: Any) -> Value:
    low, x, high = args
    return _RULES["min"](b, t, [_RULES["max"](b, t, [x, low], dtype), high], dtype)


@rule("integer_pow")
def _integer_pow(b: Builder, t: str, args: list[Value], dtype: Any, out: Any, params: dict[str, Any]) -> Value:
    x, y = args[0], params["y"]
    multiply = "fmul" if t[0] == "f" else "mul"
    power, exponent = None, abs(y)
    while exponent:
        if exponent & 1:
            power = x if power is None else b.op(multiply, t, power, x)
        exponent >>= 1
        if exponent:
            x = b.op(multiply, t, x, x)
    if power is None:
        return b.const(t, 1)
    return b.op("fdiv", t, b.const(t, 1.0), power) if y < 0 else power


SIMPLE_POWER = 8
"""Powers that are multiples of a half, up to this one, are products and a root."""


def _simple_power(b: Builder, t: str, x: Value, y: float) -> Value:
    """x to a power known now. A whole power is a product; with a half, times a root, and -0 and -infinity as C has them."""
    whole, half = divmod(abs(y), 1.0)
    if y == 0.5:
        return b.op("sqrt", t, x)
    factors: list[Value] = []
    square, n = x, int(whole)
    while n:
        if n & 1:
            factors.append(square)
        n >>= 1
        if n:
            square = b.op("fmul", t, square, square)
    if half:
        root = b.op("sqrt", t, x)
        factors.append(b.op("fadd", t, root, b.const(t, 0.0), attr="exact"))
    if not factors:
        return b.const(t, 1.0)
    power = factors[0]
    for f in factors[1:]:
        power = b.op("fmul", t, power, f)
    if half:
        power = b.select(b.op("fcmp", "i1", x, b.const(t, -math.inf), attr="oeq"), b.const(t, math.inf), power)
        if whole:
            power = b.op("fabs", t, power)  # -0 times the root of -0
    return b.op("fdiv", t, b.const(t, 1.0), power) if y < 0 else power


@rule("pow")
def _pow(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
    x, y = args
    if t[0] == "f":
        if y.is_const and float(2 * y.attr).is_integer() and abs(y.attr) <= SIMPLE_POWER:
            return _simple_power(b, t, x, float(y.attr))
        if y.type[0] == "i":
            y = b.op("sitofp", t, y)
        return b.math("pow", t, x, y)
    # square and multiply, for every bit of the exponent
    one, zero = b.const(t, 1), b.const(t, 0)
    signed = dtype.kind == "i"
    exponent = y
    if signed:
        negative = b.op("icmp", "i1", y, zero, attr="slt")
        exponent = b.select(negative, b.op("and", t, y, one), y)
    with b.loop(0, 8 * dtype.itemsize, carry=[one, x, exponent], memory=False, name="bit") as loop:
        power, square, rest = loop.params
        odd = b.op("icmp", "i1", b.op("and", t, rest, one), zero, attr="ne")
        loop.yields = [
            b.select(odd, b.op("mul", t, power, square), power),
            b.op("mul", t, square, square),
            b.op("lshr", t, rest, one),
        ]
    power = loop.results[0]
    if not signed:
        return power
    unit = b.op("or", "i1", b.op("icmp", "i1", x, one, attr="eq"), b.op("icmp", "i1", x, b.const(t, -1), attr="eq"))
    return b.select(b.op("and", "i1", negative, b.op("xor", "i1", unit, b.const("i1", 1))), zero, power)


# -------------------------------------------------------------------------------------------------------- elementary functions


def _elementary(name: str) -> Rule:
    def apply_rule(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
        return b.math(name, t, *args)

    return apply_rule


for _name in (
    "exp exp2 expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh cbrt logistic atan2 erf erfc erf_inv lgamma "
    "digamma trigamma bessel_i0e bessel_i1e"
).split():
    _RULES[_name] = _elementary(_name)


def _intrinsic(op: str) -> Rule:
    def apply_rule(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
        return b.op(op, t, *args)

    return apply_rule


for _name in ("floor", "ceil", "sqrt"):
    _RULES[_name] = _intrinsic(_name)


@rule("rsqrt")
def _rsqrt(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
    return b.op("fdiv", t, b.const(t, 1.0), b.op("sqrt", t, args[0]))


@rule("round")
def _round(b: Builder, t: str, args: list[Value], dtype: Any, out: Any, params: dict[str, Any]) -> Value:
    return b.op("rint" if params["rounding_method"] == 1 else "round", t, args[0])


@rule("is_finite")
def _is_finite(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
    return b.op("fcmp", "i1", b.op("fabs", t, args[0]), b.const(t, math.inf), attr="olt")


@rule("nextafter")
def _nextafter(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
    """A step of one in the order of the bits, which for floats of one sign is the order of the numbers."""
    x, y = args
    if dtype.itemsize == 2:
        return _nextafter_half(b, x, y, dtype)
    it = "i32" if t == "f32" else "i64"
    least = b.const(it, 1)
    sign = b.const(it, -(1 << (31 if t == "f32" else 63)))
    bits, other = b.op("bitcast", it, x), b.op("bitcast", it, y)
    from_zero = b.op("or", it, b.op("and", it, other, sign), least)
    return b.op("bitcast", t, _step(b, t, it, x, y, bits, other, from_zero, least))


def _step(b: Builder, t: str, it: str, x: Value, y: Value, bits: Value, other: Value, from_zero: Value, unit: Value) -> Value:
    zero = b.const(t, 0.0)
    up = b.op("fcmp", "i1", y, x, attr="ogt")
    positive = b.op("fcmp", "i1", x, zero, attr="ogt")
    away = b.op("xor", "i1", b.op("xor", "i1", up, positive), b.const("i1", 1))
    moved = b.select(away, b.op("add", it, bits, unit), b.op("sub", it, bits, unit))
    moved = b.select(b.op("fcmp", "i1", x, zero, attr="oeq"), from_zero, moved)
    moved = b.select(b.op("fcmp", "i1", x, y, attr="oeq"), other, moved)
    nan = b.op("fcmp", "i1", x, y, attr="uno")
    quiet = b.op("bitcast", it, b.op("fadd", t, x, y, attr=""))
    return b.select(nan, quiet, moved)


def _nextafter_half(b: Builder, x: Value, y: Value, dtype: Any) -> Value:
    one = b.const("i16", 1)
    bits, other = conversions.to_half_bits(b, x, dtype), conversions.to_half_bits(b, y, dtype)
    from_zero = b.op("or", "i16", b.op("and", "i16", other, b.const("i16", -32768)), one)
    zero = b.const("f32", 0.0)
    up = b.op("fcmp", "i1", y, x, attr="ogt")
    positive = b.op("fcmp", "i1", x, zero, attr="ogt")
    away = b.op("xor", "i1", b.op("xor", "i1", up, positive), b.const("i1", 1))
    moved = b.select(away, b.op("add", "i16", bits, one), b.op("sub", "i16", bits, one))
    moved = b.select(b.op("fcmp", "i1", x, zero, attr="oeq"), from_zero, moved)
    moved = b.select(b.op("fcmp", "i1", x, y, attr="oeq"), other, moved)
    nan = b.op("fcmp", "i1", x, y, attr="uno")
    return b.select(nan, b.const("f32", math.nan), conversions.from_half_bits(b, moved, dtype))


# ------------------------------------------------------------------------------------------------------------------------- bits


def _bitwise(op: str) -> Rule:
    def apply_rule(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
        return b.op(op, t, *args)

    return apply_rule


for _name in ("and", "or", "xor"):
    _RULES[_name] = _bitwise(_name)


@rule("not")
def _not(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
    return b.op("xor", t, args[0], b.const(t, 1 if t == "i1" else -1))


@rule("population_count")
def _population_count(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
    return b.op("ctpop", t, args[0])


@rule("clz")
def _clz(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
    return b.op("ctlz", t, args[0])


def _shift(op: str) -> Rule:
    def apply_rule(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
        x, n = args
        bits = 8 * dtype.itemsize
        if n.is_const and 0 <= n.attr < bits:
            return b.op(op, t, x, n)
        inside = b.op("icmp", "i1", n, b.const(t, bits), attr="ult")
        if op == "ashr":
            return b.op(op, t, x, b.select(inside, n, b.const(t, bits - 1)))
        shifted = b.op(op, t, x, b.op("and", t, n, b.const(t, bits - 1)))
        return b.select(inside, shifted, b.const(t, 0))

    return apply_rule


_RULES["shift_left"] = _shift("shl")
_RULES["shift_right_logical"] = _shift("lshr")
_RULES["shift_right_arithmetic"] = _shift("ashr")

# ------------------------------------------------------------------------------------------------------------------ comparisons

_FLOAT_PREDICATES = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}


def _compare(name: str) -> Rule:
    def apply_rule(b: Builder, t: str, args: list[Value], dtype: Any, *_: Any) -> Value:
        if t[0] == "f":
            return b.op("fcmp", "i1", *args, attr=_FLOAT_PREDICATES[name])
        predicate = name if name in ("eq", "ne") else ("s" if dtype.kind == "i" else "u") + name
        return b.op("icmp", "i1", *args, attr=predicate)

    return apply_rule


for _name in _FLOAT_PREDICATES:
    _RULES[_name] = _compare(_name)


@rule("select")
def _select(b: Builder, t: str, args: list[Value], *_: Any) -> Value:
    return b.select(*args)


# ------------------------------------------------------------------------------------------------------------------ conversions


@rule("convert_element_type")
def _convert(b: Builder, t: str, args: list[Scalar], dtype: Any, out: Any, params: dict[str, Any]) -> Scalar:
    return conversions.convert(b, args[0], dtype, params["new_dtype"])


@rule("bitcast_convert_type")
def _bitcast(b: Builder, t: str, args: list[Scalar], dtype: Any, out: Any, params: dict[str, Any]) -> Scalar:
    return conversions.bitcast(b, args[0], dtype, params["new_dtype"])


@rule("reduce_precision")
def _reduce_precision(b: Builder, t: str, args: list[Value], dtype: Any, out: Any, params: dict[str, Any]) -> Value:
    return conversions.reduce_precision(b, args[0], dtype, params["exponent_bits"], params["mantissa_bits"])


@rule("complex")
def _complex(b: Builder, t: str, args: list[Value], *_: Any) -> Scalar:
    return (args[0], args[1])


@rule("imag")
def _imag(b: Builder, t: str, args: list[Scalar], *_: Any) -> Scalar:
    return args[0][1]
