"""What elementwise primitives do to a complex number, which is a pair of floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tracegrad.codegen.builder import Builder
from tracegrad.codegen.loop_ir import Value

Pair = tuple[Value, Value]
RULES: dict[str, Callable[..., Any]] = {}


def rule(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule `(b, t, *pairs)` that needs neither dtypes nor parameters."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES[name] = lambda b, t, args, dtype, out, params: function(b, t, *args)
        return function

    return register


class _Real:
    """Arithmetic on the parts, short enough to read like formulas."""

    def __init__(self, b: Builder, t: str):
        self.b = b
        self.t = t

    def c(self, x: float) -> Value:
        return self.b.const(self.t, x)

    def add(self, x: Value, y: Value) -> Value:
        return self.b.op("fadd", self.t, x, y)

    def sub(self, x: Value, y: Value) -> Value:
        return self.b.op("fsub", self.t, x, y)

    def mul(self, x: Value, y: Value) -> Value:
        return self.b.op("fmul", self.t, x, y)

    def div(self, x: Value, y: Value) -> Value:
        return self.b.op("fdiv", self.t, x, y)

    def neg(self, x: Value) -> Value:
        return self.b.op("fneg", self.t, x)

    def abs(self, x: Value) -> Value:
        return self.b.op("fabs", self.t, x)

    def sqrt(self, x: Value) -> Value:
        return self.b.op("sqrt", self.t, x)

    def sign_of(self, magnitude: Value, sign: Value) -> Value:
        return self.b.op("copysign", self.t, magnitude, sign)

    def f(self, name: str, *xs: Value) -> Value:
        return self.b.math(name, self.t, *xs)

    def test(self, how: str, x: Value, y: Value) -> Value:
        return self.b.op("fcmp", "i1", x, y, attr=how)

    def pick(self, p: Value, x: Value, y: Value) -> Value:
        return self.b.select(p, x, y)


# ------------------------------------------------------------------------------------------------------------------ arithmetic


@rule("add")
def add(b: Builder, t: str, x: Pair, y: Pair) -> Pair:
    return (b.op("fadd", t, x[0], y[0]), b.op("fadd", t, x[1], y[1]))


@rule("sub")
def sub(b: Builder, t: str, x: Pair, y: Pair) -> Pair:
    return (b.op("fsub", t, x[0], y[0]), b.op("fsub", t, x[1], y[1]))


@rule("neg")
def neg(b: Builder, t: str, x: Pair) -> Pair:
    return (b.op("fneg", t, x[0]), b.op("fneg", t, x[1]))


@rule("mul")
def mul(b: Builder, t: str, x: Pair, y: Pair) -> Pair:
    r = _Real(b, t)
    return (
        r.sub(r.mul(x[0], y[0]), r.mul(x[1], y[1])),
        r.add(r.mul(x[0], y[1]), r.mul(x[1], y[0])),
    )


@rule("square")
def square(b: Builder, t: str, x: Pair) -> Pair:
    return mul(b, t, x, x)


@rule("div")
def div(b: Builder, t: str, x: Pair, y: Pair) -> Pair:
    """Smith's quotient: divide by the larger part of the divisor first, which neither overflows nor underflows early."""
    r = _Real(b, t)
    wide = r.test("oge", r.abs(y[0]), r.abs(y[1]))
    big, small = r.pick(wide, y[0], y[1]), r.pick(wide, y[1], y[0])
    ratio = r.div(small, big)
    # 0 / 0 and a ratio of infinities keep their NaN only where the quotient has one
    ratio = r.pick(r.test("oeq", small, r.c(0.0)), r.c(0.0), ratio)
    scale = r.add(big, r.mul(small, ratio))
    first, second = r.pick(wide, x[0], x[1]), r.pick(wide, x[1], x[0])
    re = r.div(r.add(first, r.mul(second, ratio)), scale)
    im = r.div(r.sub(second, r.mul(first, ratio)), scale)
    return (re, r.pick(wide, im, r.neg(im)))


@rule("abs")
def magnitude(b: Builder, t: str, x: Pair) -> Value:
    """The length of a pair without overflow; infinite if a part is."""
    r = _Real(b, t)
    p, q = r.abs(x[0]), r.abs(x[1])
    more = r.test("ogt", p, q)
    big, small = r.pick(more, p, q), r.pick(more, q, p)
    ratio = r.div(small, big)
    length = r.mul(big, r.sqrt(r.add(r.c(1.0), r.mul(ratio, ratio))))
    length = r.pick(r.test("oeq", big, r.c(0.0)), r.add(big, small), length)
    infinite = b.op("or", "i1", r.test("oeq", p, r.c(math.inf)), r.test("oeq", q, r.c(math.inf)))
    return r.pick(infinite, r.c(math.inf), length)


@rule("sign")
def sign(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    length = magnitude(b, t, x)
    zero = r.test("oeq", length, r.c(0.0))
    safe = r.pick(zero, r.c(1.0), length)
    return (r.div(x[0], safe), r.div(x[1], safe))


@rule("real")
def real(b: Builder, t: str, x: Pair) -> Value:
    return x[0]


@rule("imag")
def imag(b: Builder, t: str, x: Pair) -> Value:
    return x[1]


@rule("conj")
def conj(b: Builder, t: str, x: Pair) -> Pair:
    return (x[0], b.op("fneg", t, x[1]))


@rule("eq")
def eq(b: Builder, t: str, x: Pair, y: Pair) -> Value:
    return b.op("and", "i1", *[b.op("fcmp", "i1", p, q, attr="oeq") for p, q in zip(x, y)])


@rule("ne")
def ne(b: Builder, t: str, x: Pair, y: Pair) -> Value:
    return b.op("or", "i1", *[b.op("fcmp", "i1", p, q, attr="une") for p, q in zip(x, y)])


@rule("select")
def select(b: Builder, t: str, p: Value, x: Pair, y: Pair) -> Pair:
    return (b.select(p, x[0], y[0]), b.select(p, x[1], y[1]))


def _integer_pow(b: Builder, t: str, args: list[Pair], dtype: Any, out: Any, params: dict[str, Any]) -> Pair:
    x, y = args[0], params["y"]
    power: Pair | None = None
    exponent = abs(y)
    while exponent:
        if exponent & 1:
            power = x if power is None else mul(b, t, power, x)
        exponent >>= 1
        if exponent:
            x = mul(b, t, x, x)
    one = (b.const(t, 1.0), b.const(t, 0.0))
    if power is None:
        return one
    return div(b, t, one, power) if y < 0 else power


RULES["integer_pow"] = _integer_pow


# -------------------------------------------------------------------------------------------------------- elementary functions


def _polar(r: _Real, length: Value, angle: Value) -> Pair:
    # a real number stays real: 0 * infinity must not make a NaN
    flat = r.test("oeq", angle, r.c(0.0))
    return (
        r.pick(flat, length, r.mul(length, r.f("cos", angle))),
        r.pick(flat, angle, r.mul(length, r.f("sin", angle))),
    )


@rule("exp")
def exp(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    re, im = _polar(r, r.f("exp", x[0]), x[1])
    # exp(-inf) is zero whatever the angle
    nothing = r.test("oeq", x[0], r.c(-math.inf))
    return (r.pick(nothing, r.c(0.0), re), r.pick(nothing, r.sign_of(r.c(0.0), x[1]), im))


@rule("log")
def log(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    return (_log_magnitude(b, t, x), r.f("atan2", x[1], x[0]))


def _log_magnitude(b: Builder, t: str, x: Pair) -> Value:
    """log|x|, exact also where |x| is near 1."""
    r = _Real(b, t)
    p, q = r.abs(x[0]), r.abs(x[1])
    more = r.test("ogt", p, q)
    big, small = r.pick(more, p, q), r.pick(more, q, p)
    far = r.f("log", magnitude(b, t, x))
    excess = r.add(r.mul(r.sub(big, r.c(1.0)), r.add(big, r.c(1.0))), r.mul(small, small))
    near = r.mul(r.c(0.5), r.f("log1p", excess))
    close = b.op("and", "i1", r.test("ogt", big, r.c(0.5)), r.test("olt", big, r.c(2.0)))
    return r.pick(close, near, far)


@rule("log1p")
def log1p(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    shifted = (r.add(x[0], r.c(1.0)), x[1])
    excess = r.add(r.mul(x[0], r.add(x[0], r.c(2.0))), r.mul(x[1], x[1]))
    near = r.mul(r.c(0.5), r.f("log1p", excess))
    small = r.test("olt", r.abs(excess), r.c(0.5))
    return (r.pick(small, near, _log_magnitude(b, t, shifted)), r.f("atan2", x[1], shifted[0]))


@rule("expm1")
def expm1(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    half = r.f("sin", r.mul(x[1], r.c(0.5)))
    e = r.f("exp", x[0])
    re = r.sub(r.f("expm1", x[0]), r.mul(r.c(2.0), r.mul(e, r.mul(half, half))))
    return (re, r.mul(e, r.f("sin", x[1])))


@rule("sqrt")
def sqrt(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    length = magnitude(b, t, x)
    # halves are taken before adding so that the sum does not overflow
    root = r.sqrt(r.add(r.mul(r.c(0.5), length), r.mul(r.c(0.5), r.abs(x[0]))))
    zero = r.test("oeq", root, r.c(0.0))
    other = r.pick(zero, r.c(0.0), r.div(r.mul(r.c(0.5), r.abs(x[1])), root))
    forward = r.test("oge", x[0], r.c(0.0))
    re = r.pick(forward, root, other)
    im = r.sign_of(r.pick(forward, other, root), x[1])
    infinite = r.test("oeq", r.abs(x[1]), r.c(math.inf))
    return (r.pick(infinite, r.c(math.inf), re), r.pick(infinite, x[1], im))


@rule("rsqrt")
def rsqrt(b: Builder, t: str, x: Pair) -> Pair:
    return div(b, t, (b.const(t, 1.0), b.const(t, 0.0)), sqrt(b, t, x))


def _pow(b: Builder, t: str, args: list[Any], dtype: Any, out: Any, params: dict[str, Any]) -> Pair:
    x, y = args
    r = _Real(b, t)
    if not isinstance(y, tuple):
        y = (b.op("sitofp", t, y), r.c(0.0))
    re, im = exp(b, t, mul(b, t, y, log(b, t, x)))
    zero_base = b.op("and", "i1", r.test("oeq", x[0], r.c(0.0)), r.test("oeq", x[1], r.c(0.0)))
    zero_power = b.op("and", "i1", r.test("oeq", y[0], r.c(0.0)), r.test("oeq", y[1], r.c(0.0)))
    base = r.pick(zero_power, r.c(1.0), r.pick(r.test("ogt", y[0], r.c(0.0)), r.c(0.0), r.c(math.nan)))
    simple = b.op("or", "i1", zero_base, zero_power)
    nothing = r.pick(r.test("uno", base, base), r.c(math.nan), r.c(0.0))
    return (r.pick(simple, base, re), r.pick(simple, nothing, im))


RULES["pow"] = _pow


@rule("sinh")
def sinh(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    re = r.mul(r.f("sinh", x[0]), r.f("cos", x[1]))
    im = r.mul(r.f("cosh", x[0]), r.f("sin", x[1]))
    return (re, r.pick(r.test("oeq", x[1], r.c(0.0)), x[1], im))


@rule("cosh")
def cosh(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    re = r.mul(r.f("cosh", x[0]), r.f("cos", x[1]))
    im = r.mul(r.f("sinh", x[0]), r.f("sin", x[1]))
    flat = b.op("or", "i1", r.test("oeq", x[1], r.c(0.0)), r.test("oeq", x[0], r.c(0.0)))
    return (re, r.pick(flat, r.mul(r.sign_of(r.c(1.0), x[0]), r.pick(r.test("oeq", x[1], r.c(0.0)), x[1], r.c(0.0))), im))


@rule("tanh")
def tanh(b: Builder, t: str, x: Pair) -> Pair:
    """tanh(a + ib) = (tanh a (1 + tan^2 b) + i tan b (1 - tanh^2 a)) / (1 + tanh^2 a tan^2 b), with 1 - tanh^2 as 1 / cosh^2."""
    r = _Real(b, t)
    one = r.c(1.0)
    h, g = r.f("tanh", x[0]), r.f("tan", x[1])
    c = r.f("cosh", x[0])
    denominator = r.add(one, r.mul(r.mul(h, h), r.mul(g, g)))
    re = r.div(r.mul(h, r.add(one, r.mul(g, g))), denominator)
    im = r.div(r.div(r.div(g, c), c), denominator)
    return (re, im)


def _turn(x: Pair) -> Callable[[Builder, str], Pair]:
    """i * x"""
    return lambda b, t: (b.op("fneg", t, x[1]), x[0])


def _turn_back(b: Builder, t: str, x: Pair) -> Pair:
    """-i * x"""
    return (x[1], b.op("fneg", t, x[0]))


@rule("sin")
def sin(b: Builder, t: str, x: Pair) -> Pair:
    return _turn_back(b, t, sinh(b, t, _turn(x)(b, t)))


@rule("cos")
def cos(b: Builder, t: str, x: Pair) -> Pair:
    return cosh(b, t, _turn(x)(b, t))


@rule("tan")
def tan(b: Builder, t: str, x: Pair) -> Pair:
    return _turn_back(b, t, tanh(b, t, _turn(x)(b, t)))


@rule("asinh")
def asinh(b: Builder, t: str, x: Pair) -> Pair:
    """Kahan's formulas, through square roots of 1 + ix and 1 - ix, which have no cancellation."""
    r = _Real(b, t)
    u = sqrt(b, t, (r.sub(r.c(1.0), x[1]), x[0]))  # sqrt(1 + ix)
    v = sqrt(b, t, (r.add(r.c(1.0), x[1]), r.neg(x[0])))  # sqrt(1 - ix)
    re = r.f("asinh", r.sub(r.mul(u[0], v[1]), r.mul(v[0], u[1])))
    im = r.f("atan2", x[1], r.sub(r.mul(u[0], v[0]), r.mul(u[1], v[1])))
    return (r.neg(re), im)


@rule("asin")
def asin(b: Builder, t: str, x: Pair) -> Pair:
    return _turn_back(b, t, asinh(b, t, _turn(x)(b, t)))


@rule("acos")
def acos(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    u = sqrt(b, t, (r.sub(r.c(1.0), x[0]), r.neg(x[1])))
    v = sqrt(b, t, (r.add(r.c(1.0), x[0]), x[1]))
    re = r.mul(r.c(2.0), r.f("atan2", u[0], v[0]))
    im = r.f("asinh", r.sub(r.mul(v[0], u[1]), r.mul(v[1], u[0])))
    return (re, im)


@rule("acosh")
def acosh(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    u = sqrt(b, t, (r.sub(x[0], r.c(1.0)), x[1]))
    v = sqrt(b, t, (r.add(x[0], r.c(1.0)), x[1]))
    re = r.f("asinh", r.add(r.mul(u[0], v[0]), r.mul(u[1], v[1])))
    im = r.mul(r.c(2.0), r.f("atan2", u[1], v[0]))
    return (re, im)


@rule("atanh")
def atanh(b: Builder, t: str, x: Pair) -> Pair:
    r = _Real(b, t)
    one, quarter, half = r.c(1.0), r.c(0.25), r.c(0.5)
    away = r.sub(one, x[0])
    below = r.add(r.mul(away, away), r.mul(x[1], x[1]))
    re = r.mul(quarter, r.f("log1p", r.div(r.mul(r.c(4.0), x[0]), below)))
    im = r.mul(half, r.f("atan2", r.mul(r.c(2.0), x[1]), r.sub(r.mul(away, r.add(one, x[0])), r.mul(x[1], x[1]))))
    return (re, im)


@rule("atan")
def atan(b: Builder, t: str, x: Pair) -> Pair:
    return _turn_back(b, t, atanh(b, t, _turn(x)(b, t)))


@rule("logistic")
def logistic(b: Builder, t: str, x: Pair) -> Pair:
    one = (b.const(t, 1.0), b.const(t, 0.0))
    return div(b, t, one, add(b, t, one, exp(b, t, neg(b, t, x))))
