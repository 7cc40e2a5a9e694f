"""The elementary functions, written against the LLVM writer. Every function is branch-free.

The methods are the classical ones: reduce the argument, approximate by a polynomial, rebuild. W. J. Cody and W. Waite, "Software Manual for the
Elementary Functions" (1980); J.-M. Muller, "Elementary Functions: Algorithms and Implementation" (3rd edition, 2016). Special
values (infinities, NaN, zeros with their signs) are exact. `docs/accuracy.md` gives the measured errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tracegrad.codegen.elementary import coefficients as c
from tracegrad.codegen.elementary.far import guard
from tracegrad.codegen.elementary.writer import Writer

LOG2_E = 1.4426950408889634
INF = math.inf
NAN = math.nan

# log(2) and pi/2 in parts: the first have few enough bits that a small integer times them is exact.
LN2 = {"f32": (0.693359375, -2.1219444005469057e-4), "f64": (0.6931471803691238, 1.9082149292705877e-10)}
PI_2_F64 = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33)

FUNCTIONS: dict[str, tuple[int, Callable[..., str]]] = {}
"""name -> (number of operands, function(writer, *operands) -> result)."""


def function(operands: int) -> Callable[[Callable[..., str]], Callable[..., str]]:
    def register(f: Callable[..., str]) -> Callable[..., str]:
        FUNCTIONS[f.__name__.rstrip("_")] = (operands, f)
        return f

    return register


def table(w: Writer, name: str) -> Sequence[float]:
    return getattr(c, f"{name}_{w.dtype.upper()}")


# ------------------------------------------------------------------------------------------------------------------- exponentials


def exp_parts(w: Writer, x: str) -> tuple[str, str, str]:
    """(r, p, n): x = r + n log 2 with |r| <= log(2)/2, and p = (exp(r) - 1 - r) / r**2."""
    n, n_int = w.round_to_int(w.mul(x, LOG2_E))
    hi, lo = LN2[w.dtype]
    r = w.muladd(n, -lo, w.muladd(n, -hi, x))
    return r, w.polynomial(r, table(w, "EXP")), n_int


def clamp(w: Writer, x: str, low: float, high: float) -> str:
    """x limited to [low, high]; NaN stays."""
    x = w.select(w.cmp("olt", x, low), low, x)
    return w.select(w.cmp("ogt", x, high), high, x)


def _exp_limits(w: Writer) -> tuple[float, float]:
    return (-104.0, 89.0) if w.single else (-746.0, 710.0)


def exponential(
    w: Writer, x: str, low: float, high: float, small: float, parts: Callable[[Writer, str], tuple[str, str, str]]
) -> str:
    """2**n (1 + r + r**2 p). Masks and the logarithms of probabilities make arguments below `low` common, for which the result is 0: without
    a product that underflows, because processors take many times as long for those. In f32 that goes for all arguments below `small`, whose
    results are subnormal; in f64 these are rare."""
    r, p, n = parts(w, clamp(w, x, low, high))
    y = w.add(w.muladd(w.mul(r, r), p, r), 1.0)
    below = w.cmp("olt", x, small)
    if w.single:
        return w.scale_small(y, n, below)
    power = w.from_bits(w.shl(w.iadd(n, w.iselect(below, w.bias + 60, w.bias - 1)), w.mantissa))
    return w.mul(w.mul(y, power), w.select(w.cmp("olt", x, low), 0.0, w.select(below, 2.0**-60, 2.0)))


@function(1)
def exp(w: Writer, x: str) -> str:
    return exponential(w, x, *_exp_limits(w), -86.8 if w.single else -700.0, exp_parts)


@function(1)
def exp2(w: Writer, x: str) -> str:
    def parts(w: Writer, x: str) -> tuple[str, str, str]:
        n, n_int = w.round_to_int(x)
        r = w.mul(w.sub(x, n), math.log(2))
        return r, w.polynomial(r, table(w, "EXP")), n_int

    low, high = (-151.0, 129.0) if w.single else (-1076.0, 1025.0)
    return exponential(w, x, low, high, -125.25 if w.single else -1000.0, parts)


@function(1)
def expm1(w: Writer, x: str) -> str:
    """2**n (exp(r) - 1) + (2**n - 1), computed at half the scale so that the largest results do not overflow on the way."""
    limited = clamp(w, x, -30.0 if w.single else -50.0, _exp_limits(w)[1])
    r, p, n = exp_parts(w, limited)
    q = w.muladd(w.mul(r, r), p, r)
    half = w.power_of_two(w.isub(n, 1))
    result = w.mul(w.add(w.muladd(half, q, w.sub(half, 0.5)), 0.0), 2.0)
    result = w.select(w.icmp("eq", n, 0), q, result)
    return w.select(w.cmp("oeq", x, 0.0), x, result)  # keeps the sign of zero


@function(1)
def logistic(w: Writer, x: str) -> str:
    return w.div(1.0, w.add(w.call("exp", w.neg(x)), 1.0))


@function(1)
def tanh(w: Writer, x: str) -> str:
    """t / (t + 2) with t = expm1(2 |x|). Beyond the limit the quotient is 1."""
    a = w.abs(x)
    limit = 10.0 if w.single else 22.0
    r, p, n = exp_parts(w, w.mul(w.select(w.cmp("ogt", a, limit), limit, a), 2.0))
    power = w.power_of_two(n)
    t = w.muladd(power, w.muladd(w.mul(r, r), p, r), w.sub(power, 1.0))
    return w.copysign(w.div(t, w.add(t, 2.0)), x)


@function(1)
def sinh(w: Writer, x: str) -> str:
    a = w.abs(x)
    t = w.call("expm1", a)
    moderate = w.mul(w.add(t, w.div(t, w.add(t, 1.0))), 0.5)
    large = w.call("exp_scaled", a)
    y = w.select(w.cmp("ogt", a, 80.0 if w.single else 700.0), large, moderate)
    return w.copysign(y, x)


@function(1)
def cosh(w: Writer, x: str) -> str:
    half = w.call("exp_scaled", w.abs(x))
    return w.add(half, w.div(0.25, half))


@function(1)
def exp_scaled(w: Writer, x: str) -> str:
    """exp(x) / 2 without overflow before the result itself overflows."""
    low, high = _exp_limits(w)
    r, p, n = exp_parts(w, clamp(w, x, low, high + 1.0))
    return w.scale(w.add(w.muladd(w.mul(r, r), p, r), 1.0), w.isub(n, 1))


# --------------------------------------------------------------------------------------------------------------------- logarithms


def split(w: Writer, x: str, normal: bool = False) -> tuple[str, str]:
    """(m, e): x = m 2**e with m in [sqrt(1/2), sqrt(2)), for positive finite x, subnormal ones included unless it is known to be normal."""
    tiny = w.cmp("olt", x, 1.1754943508222875e-38 if w.single else 2.2250738585072014e-308)
    bits = w.to_bits(x if normal else w.select(tiny, w.mul(x, 2.0**w.mantissa), x))
    root = 0x3F3504F3 if w.single else 0x3FE6A09E667F3BCD
    e = w.ashr(w.isub(bits, root), w.mantissa)
    m = w.from_bits(w.isub(bits, w.shl(e, w.mantissa)))
    return m, e if normal else w.isub(e, w.iselect(tiny, w.mantissa, 0))


def log_of(w: Writer, x: str, less: float = 0.0, normal: bool = False) -> str:
    """log of a positive finite number, less a small integer (which takes no rounding of its own)."""
    m, e = split(w, x, normal)
    f = w.sub(m, 1.0)
    s = w.div(f, w.add(f, 2.0))
    z = w.mul(s, s)
    tail = w.mul(z, w.polynomial(z, table(w, "LOG")))
    # log(1 + f) = f - (f^2/2 - s (f^2/2 + tail)): the large part, f, is exact
    h = w.mul(w.mul(f, f), 0.5)
    hi, lo = LN2[w.dtype]
    n = w.to_float(e)
    rest = w.sub(h, w.muladd(s, w.add(h, tail), w.mul(n, lo)))
    if less:
        return w.sub(w.add(w.muladd(n, hi, -less), f), rest)
    return w.muladd(n, hi, w.sub(f, rest))


def _log_edges(w: Writer, x: str, y: str, zero: float = 0.0) -> str:
    """y where a logarithm with its pole at `zero` is finite. The rest depends on x alone and does not wait for y."""
    edge = w.select(w.cmp("olt", x, zero), NAN, x)  # infinity and NaN are their own
    edge = w.select(w.cmp("oeq", x, zero), -INF, edge)
    return w.select(w.both(w.cmp("ogt", x, zero), w.cmp("olt", x, INF)), y, edge)


@function(1)
def log(w: Writer, x: str) -> str:
    return _log_edges(w, x, log_of(w, x))


@function(1)
def log2(w: Writer, x: str) -> str:
    m, e = split(w, x)
    return _log_edges(w, x, w.muladd(log_of(w, m), LOG2_E, w.to_float(e)))


@function(1)
def log1p(w: Writer, x: str) -> str:
    """log(u) + (x - (u - 1)) / u, u = 1 + x rounded: the second term is what the rounding lost."""
    u = w.add(x, 1.0)
    lost = w.div(w.sub(x, w.sub(u, 1.0)), u)
    y = w.add(log_of(w, u), lost)
    y = w.select(w.cmp("olt", w.abs(x), 2.0 ** -(w.mantissa + 2)), x, y)
    return _log_edges(w, x, y, -1.0)


@function(1)
def asinh(w: Writer, x: str) -> str:
    a = w.abs(x)
    square = w.mul(a, a)
    moderate = w.call("log1p", w.add(a, w.div(square, w.add(w.sqrt(w.add(square, 1.0)), 1.0))))
    large = w.add(w.call("log", a), math.log(2))
    return w.copysign(w.select(w.cmp("ogt", a, 2.0 ** (w.mantissa // 2 + 2)), large, moderate), x)


@function(1)
def acosh(w: Writer, x: str) -> str:
    t = w.sub(x, 1.0)
    moderate = w.call("log1p", w.add(t, w.sqrt(w.mul(t, w.add(t, 2.0)))))
    large = w.add(w.call("log", x), math.log(2))
    y = w.select(w.cmp("ogt", x, 2.0 ** (w.mantissa // 2 + 2)), large, moderate)
    return w.select(w.cmp("olt", x, 1.0), NAN, y)


@function(1)
def atanh(w: Writer, x: str) -> str:
    a = w.abs(x)
    y = w.mul(w.call("log1p", w.div(w.mul(a, 2.0), w.sub(1.0, a))), 0.5)
    return w.copysign(y, x)


# -------------------------------------------------------------------------------------------------------------------- trigonometry


def _first_part(w: Writer, x: str) -> tuple[str, str, str]:
    """(n, n as an integer, x - n p1): the product x 2/pi is rounded, so that for large x the first n may be one off."""
    p1 = PI_2_F64[0]
    n, n_int = w.round_to_int(w.mul(x, 2 / math.pi))
    a = w.fma(n, -p1, x)
    k, k_int = w.round_to_int(w.mul(a, 2 / math.pi))
    return w.add(n, k), w.iadd(n_int, k_int), w.fma(k, -p1, a)


def _quadrants(w: Writer, x: str) -> tuple[str, str, str]:
    """(r, r_low, n): x = r + r_low + n pi/2 with |r| <= pi/4.

    Cody and Waite's method with fused multiply-adds: pi/2 in three parts. x - n p1 is a multiple of 2^-52 below 1, hence exact, as long as
    n is an exact integer, that is for |x| < 2^51; f32 is reduced in f64. Beyond that the callers have guards (`far.py`): a reduction by tables
    would cost every call, vectorized as it is, twice its time.
    """
    p1, p2, p3 = PI_2_F64
    n, n_int, a = _first_part(w, x)
    b = w.mul(n, p2)
    r = w.sub(a, b)
    # what the last two roundings lost, and the third part
    low = w.add(w.sub(w.sub(a, r), b), w.neg(w.fma(n, p2, w.neg(b))))
    low = w.fma(n, -p3, low)
    return r, low, n_int


def _sin_cos(w: Writer, r: str, low: str | None) -> tuple[str, str]:
    z = w.mul(r, r)
    cube = w.mul(z, r)
    sine_tail = w.mul(cube, w.polynomial(z, table(w, "SIN")))
    half = w.mul(z, 0.5)
    cosine_tail = w.mul(w.mul(z, z), w.polynomial(z, table(w, "COS")))
    if low is not None:
        sine_tail = w.add(sine_tail, w.muladd(w.neg(half), low, low))
        cosine_tail = w.sub(cosine_tail, w.mul(r, low))
    top = w.sub(1.0, half)
    lost = w.sub(w.sub(1.0, top), half)
    return w.add(r, sine_tail), w.add(top, w.add(lost, cosine_tail))


@function(1)
def sin(w: Writer, x: str) -> str:
    return _trigonometric(w, x, 0)


@function(1)
def cos(w: Writer, x: str) -> str:
    return _trigonometric(w, x, 1)


def _trigonometric(w: Writer, x: str, shift: int) -> str:
    if w.single:
        # The reduction needs f64; the polynomials do not.
        wide = w.in_double()
        n, n_int, a = _first_part(wide, w.widen(x))
        r, low = w.narrow(wide.fma(n, -PI_2_F64[1], a)), None
        quadrant = w.emit(f"trunc i64 {n_int} to i32")
    else:
        r, low, quadrant = _quadrants(w, x)
    s, co = _sin_cos(w, r, low)
    q = w.iadd(quadrant, shift)
    y = w.select(w.icmp("eq", w.iand(q, 1), 0), s, co)
    y = w.from_bits(w.ixor(w.to_bits(y), w.shl(w.lshr(w.iand(q, 2), 1), w.bits - 1)))
    if shift == 0:
        y = w.select(w.cmp("oeq", x, 0.0), x, y)
    return guard(w, "cos" if shift else "sin", (x,), y)


@function(1)
def tan(w: Writer, x: str) -> str:
    """In single precision computed in double, and rounded once."""
    wide, angle = w, x
    if w.single:
        wide, angle = w.in_double(), w.widen(x)
    r, low, quadrant = _quadrants(wide, angle)
    s, co = _sin_cos(wide, r, low)
    odd = wide.icmp("ne", wide.iand(quadrant, 1), 0)
    y = wide.div(wide.select(odd, wide.neg(co), s), wide.select(odd, s, co))
    y = w.narrow(y) if w.single else y
    return guard(w, "tan", (x,), w.select(w.cmp("oeq", x, 0.0), x, y))


def _atan_of(w: Writer, numerator: str, denominator: str) -> str:
    """atan(numerator / denominator) for numerator, denominator >= 0.

    Reduced to |z| <= tan(pi/8) by atan(q) = pi/4 + atan((q - 1) / (q + 1)) and atan(q) = pi/2 - atan(1 / q), before dividing.
    """
    high = w.cmp("ogt", numerator, w.mul(denominator, math.tan(3 * math.pi / 8)))
    middle = w.both(w.cmp("ogt", numerator, w.mul(denominator, math.tan(math.pi / 8))), w.not_(high))
    top = w.select(high, w.neg(denominator), w.select(middle, w.sub(numerator, denominator), numerator))
    bottom = w.select(high, numerator, w.select(middle, w.add(numerator, denominator), denominator))
    z = w.div(top, bottom)
    z2 = w.mul(z, z)
    tail = w.mul(w.mul(z2, z), w.polynomial(z2, table(w, "ATAN")))
    base = w.select(high, math.pi / 2, w.select(middle, math.pi / 4, 0.0))
    # what pi/2 and pi/4 lose as numbers of this type
    lost = math.pi / 2 - float(w.numpy(math.pi / 2)) if w.single else PI_2_F64[1]
    rest = w.select(high, lost, w.select(middle, lost / 2, 0.0))
    return w.add(base, w.add(z, w.add(tail, rest)))


@function(1)
def atan(w: Writer, x: str) -> str:
    a = w.abs(x)
    finite = clamp(w, a, 0.0, 1e30)  # 1/inf is fine, but inf/inf would not be
    return w.copysign(_atan_of(w, finite, w.f(1.0)), x)


@function(2)
def atan2(w: Writer, y: str, x: str) -> str:
    ay, ax = w.abs(y), w.abs(x)
    # infinities as directions: both infinite is a diagonal
    y_inf, x_inf = w.cmp("oeq", ay, INF), w.cmp("oeq", ax, INF)
    any_inf = w.either(y_inf, x_inf)
    n = w.select(any_inf, w.select(y_inf, 1.0, 0.0), ay)
    d = w.select(any_inf, w.select(x_inf, 1.0, 0.0), ax)
    # scale so that sums of numerator and denominator neither overflow nor vanish
    biggest = w.maximum(n, d)
    big = w.cmp("ogt", biggest, 2.0 ** (w.bias - 3))
    small = w.cmp("olt", biggest, 2.0 ** -(w.bias - w.mantissa - 4))
    factor = w.select(big, 2.0**-4, w.select(small, 2.0 ** (w.mantissa + 2), 1.0))
    n, d = w.mul(n, factor), w.mul(d, factor)
    zero = w.cmp("oeq", n, 0.0)
    d_safe = w.select(w.both(zero, w.cmp("oeq", d, 0.0)), 1.0, d)
    angle = _atan_of(w, n, d_safe)
    behind = w.emit(f"icmp slt {w.int} {w.to_bits(x)}, 0")
    lost = math.pi - float(w.numpy(math.pi)) if w.single else 2 * PI_2_F64[1]
    angle = w.select(behind, w.add(w.sub(math.pi, angle), lost), angle)
    result = w.copysign(angle, y)
    return w.select(w.either(w.cmp("uno", x, 0.0), w.cmp("uno", y, 0.0)), w.add(x, y), result)


def _asin_half(w: Writer, z: str, z2: str) -> str:
    """asin(z) for 0 <= z <= 1/2."""
    return w.muladd(w.mul(z2, z), w.polynomial(z2, table(w, "ASIN")), z)


@function(1)
def asin(w: Writer, x: str) -> str:
    a = w.abs(x)
    large = w.cmp("ogt", a, 0.5)
    z2 = w.select(large, w.mul(w.sub(1.0, a), 0.5), w.mul(a, a))
    z = w.select(large, w.sqrt(z2), a)
    y = _asin_half(w, z, z2)
    lost = math.pi / 2 - float(w.numpy(math.pi / 2)) if w.single else PI_2_F64[1]
    y = w.select(large, w.add(w.sub(math.pi / 2, w.mul(y, 2.0)), lost), y)
    return w.copysign(y, x)


@function(1)
def acos(w: Writer, x: str) -> str:
    a = w.abs(x)
    large = w.cmp("ogt", a, 0.5)
    z2 = w.select(large, w.mul(w.sub(1.0, a), 0.5), w.mul(a, a))
    z = w.select(large, w.sqrt(z2), a)
    y = _asin_half(w, z, z2)
    negative = w.cmp("olt", x, 0.0)
    lost = math.pi / 2 - float(w.numpy(math.pi / 2)) if w.single else PI_2_F64[1]
    twice = w.mul(y, 2.0)
    outer = w.select(negative, w.add(w.sub(math.pi, twice), 2 * lost), twice)
    inner = w.add(w.sub(math.pi / 2, w.sub(w.copysign(y, x), lost)), 0.0)
    return w.select(large, outer, inner)


# -------------------------------------------------------------------------------------------------------------- the error function


def _erfc_positive(w: Writer, a: str) -> str:
    """erfc(a) for a >= 0.45: exp(-a^2) times a polynomial in (a - k) / (a + k) (Shepherd and Laframboise, Math. Comp. 36, 1981)."""
    limit, k = (10.6, 2.0) if w.single else (28.0, 4.0)
    a = clamp(w, a, 0.0, limit)
    g = w.series(w.div(w.sub(a, k), w.add(a, k)), table(w, "ERFC"))
    square = w.mul(a, a)
    low = w.fma(a, a, w.neg(square))
    e = w.call("exp", w.neg(square))
    e = w.sub(e, w.mul(e, low))
    return w.mul(e, w.div(g, w.muladd(a, 2.0, 1.0)))


def _erf_near(w: Writer, a: str) -> str:
    """erf(a) for 0 <= a <= 1."""
    first, *rest = table(w, "ERF")
    z = w.mul(a, a)
    return w.muladd(a, first, w.mul(w.mul(a, z), w.polynomial(z, rest)))


@function(1)
def erfc_scaled(w: Writer, x: str) -> str:
    """exp(x^2) erfc(x) for 0.45 <= x <= 28 in double precision."""
    return w.div(w.series(w.div(w.sub(x, 4.0), w.add(x, 4.0)), c.ERFC_F64), w.muladd(x, 2.0, 1.0))


@function(1)
def erf(w: Writer, x: str) -> str:
    """A polynomial up to 1, and 1 - erfc beyond; in single precision one rational function of x^2, as far as it is not 1."""
    a = w.abs(x)
    if w.single:
        a = w.select(w.cmp("ogt", a, 3.93), 3.93, a)
        z = w.mul(a, a)
        y = w.mul(a, w.div(w.polynomial(z, c.ERF_TOP_F32), w.polynomial(z, c.ERF_BOTTOM_F32)))
        return w.copysign(w.select(w.cmp("ogt", y, 1.0), 1.0, y), x)
    limited = w.minimum(a, 1.0)
    near = _erf_near(w, limited)
    y = w.select(w.cmp("ole", a, 1.0), near, w.sub(1.0, _erfc_positive(w, a)))
    return w.select(w.cmp("uno", x, 0.0), x, w.copysign(y, x))


@function(1)
def erfc(w: Writer, x: str) -> str:
    a = w.abs(x)
    limited = w.minimum(a, 0.5)
    near = w.sub(1.0, w.copysign(_erf_near(w, limited), x))
    tail = _erfc_positive(w, a)
    far = w.select(w.cmp("olt", x, 0.0), w.sub(2.0, tail), tail)
    y = w.select(w.cmp("ole", a, 0.5), near, far)
    return w.select(w.cmp("uno", x, 0.0), x, y)


@function(1)
def erf_inv(w: Writer, x: str) -> str:
    """A polynomial in w = -log(1 - x^2), or its root where w is large (M. Giles, 2010)."""
    # Rounding x^2 costs accuracy near 1, but makes single precision agree with XLA, and so normal random numbers with JAX's.
    inner = w.call("log1p", w.neg(w.mul(x, x))) if w.single else w.call("log", w.mul(w.sub(1.0, x), w.add(x, 1.0)))
    v = w.neg(inner)
    root = w.sqrt(v)
    if w.single:
        small = w.polynomial(w.sub(v, 2.5), c.ERFINV_F32_A)
        p = w.select(w.cmp("olt", v, 5.0), small, w.polynomial(w.sub(root, 3.0), c.ERFINV_F32_B))
    else:
        a = w.series(w.sub(v, 3.125), c.ERFINV_F64_A)
        b = w.series(w.sub(root, 3.25), c.ERFINV_F64_B)
        far = w.series(w.sub(root, 5.0), c.ERFINV_F64_C)
        p = w.select(w.cmp("olt", v, 6.25), a, w.select(w.cmp("olt", v, 16.0), b, far))
    y = w.mul(p, x)
    y = w.select(w.cmp("oeq", w.abs(x), 1.0), w.copysign(w.f(INF), x), y)
    return w.select(w.cmp("ole", w.abs(x), 1.0), y, NAN)
