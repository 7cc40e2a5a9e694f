"""Roots, powers and remainders."""

from __future__ import annotations

from tracegrad.codegen.elementary import coefficients as c
from tracegrad.codegen.elementary.far import guard
from tracegrad.codegen.elementary.functions import INF, LN2, NAN, clamp, function, split, table
from tracegrad.codegen.elementary.writer import Writer


@function(1)
def rsqrt(w: Writer, x: str) -> str:
    return w.div(1.0, w.sqrt(x))


@function(1)
def cbrt(w: Writer, x: str) -> str:
    """a (a^(-1/3))^2: the power begins with a guess from the exponent, and takes iterations of Householder without a division."""
    a = w.abs(x)
    tiny = w.cmp("olt", a, 1.1754943508222875e-38 if w.single else 2.2250738585072014e-308)
    huge = w.cmp("ogt", a, 2.0 ** (w.bias - 4))
    lift = 24 if w.single else 54
    scaled = w.mul(a, w.select(tiny, 2.0**lift, w.select(huge, 2.0**-6, 1.0)))
    bits = w.to_bits(scaled)
    if w.single:
        third = w.emit(f"udiv i32 {bits}, 3")
        r = w.from_bits(w.isub(1419899867, third))
    else:
        # a division of 64-bit integers does not vectorize; the upper half of the bits is enough for a guess
        upper = w.emit(f"trunc i64 {w.lshr(bits, 32)} to i32")
        third = w.emit(f"sub i32 1430186278, {w.emit(f'udiv i32 {upper}, 3')}")
        r = w.from_bits(w.shl(w.emit(f"zext i32 {third} to i64"), 32))
    for _ in range(1 if w.single else 2):
        # (1 - e)^(-1/3) = 1 + e/3 + 2 e^2/9 + 14 e^3/81 + ..., |e| <= 0.103 at first
        e = w.muladd(w.neg(w.mul(scaled, r)), w.mul(r, r), 1.0)
        r = w.muladd(w.mul(r, e), w.muladd(w.mul(e, e), 14 / 81, w.muladd(e, 2 / 9, 1 / 3)), r)
    square = w.mul(r, r)
    y = w.mul(scaled, square)
    # one Newton step on the exact residual settles the last bit
    error = (w.fma if not w.single else w.muladd)(w.neg(w.mul(y, y)), y, scaled)
    y = w.muladd(w.mul(error, square), 1 / 3, y)
    y = w.mul(y, w.select(tiny, 2.0 ** (-lift // 3), w.select(huge, 4.0, 1.0)))
    keep = w.either(w.either(w.cmp("oeq", a, 0.0), w.cmp("oeq", a, INF)), w.cmp("uno", x, 0.0))
    return w.select(keep, x, w.copysign(y, x))


def _power_in_double(w: Writer, a: str, y: str) -> str:
    """2**(y log2 a) for positive finite a in f32, through doubles of just the precision needed, without a division: loops of few numbers wait
    for each step of it."""
    wide = w.in_double()
    bits = wide.to_bits(w.widen(a))  # never subnormal there
    e = wide.ashr(wide.isub(bits, 0x3FE6A09E667F3BCD), wide.mantissa)
    f = wide.sub(wide.from_bits(wide.isub(bits, wide.shl(e, wide.mantissa))), 1.0)
    p = wide.muladd(f, wide.polynomial(f, c.POW_LOG2), wide.to_float(e))
    q = clamp(wide, wide.mul(w.widen(y), p), -160.0, 130.0)
    n, n_int = wide.round_to_int(q)
    return w.narrow(wide.mul(wide.polynomial(wide.sub(q, n), c.POW_EXP2), wide.power_of_two(n_int)))


def power_of(w: Writer, a: str, y: str) -> str:
    """a**y for positive finite a and finite y."""
    if w.single:
        return _power_in_double(w, a, y)
    hi, lo = log_in_two_parts(w, a)
    p = w.mul(y, hi)
    rest = w.muladd(y, lo, w.fma(y, hi, w.neg(p)))
    big = w.cmp("ogt", w.abs(p), 800.0)
    e = w.call("exp", p)
    power = w.select(big, e, w.muladd(e, w.select(big, 0.0, rest), e))
    return w.select(w.cmp("oeq", e, INF), e, power)


@function(2)
def rem(w: Writer, x: str, y: str) -> str:
    """The remainder of the division that truncates, with the sign of x, exact: q = floor(|x| / |y|) is one too large at most when it has
    fewer than 52 bits, and |x| - q |y| is a number of the format then; its sign tells. In f32 all that happens in doubles."""
    wide = w
    a, b = w.abs(x), w.abs(y)
    if w.single:
        wide = w.in_double()
        a, b = w.widen(a), w.widen(b)
    r = wide.fma(wide.neg(wide.floor(wide.div(a, b))), b, a)
    r = wide.select(wide.cmp("olt", r, 0.0), wide.add(r, b), r)
    r = wide.select(wide.cmp("olt", a, b), a, r)  # an infinite divisor, too
    return guard(w, "rem", (x, y), w.copysign(w.narrow(r) if w.single else r, x))


@function(2)
def pow_(w: Writer, x: str, y: str) -> str:
    """exp(y log |x|), the logarithm to more than twice the precision of the result."""
    return special_powers(w, x, y, power_of(w, w.abs(x), y))


def special_powers(w: Writer, x: str, y: str, power: str) -> str:
    """|x|**y, the power, with its sign, or what C99 (annex F) wants where it is not defined as exp(y log |x|)."""
    a = w.abs(x)
    # is y an integer, and an odd one?
    whole = w.cmp("oeq", w.floor(y), y)
    half = w.mul(y, 0.5)
    odd = w.both(w.both(whole, w.cmp("one", w.floor(half), half)), w.cmp("olt", w.abs(y), 2.0 ** (w.mantissa + 1)))
    negative = w.emit(f"icmp slt {w.int} {w.to_bits(x)}, 0")
    # what the special cases give does not wait for the power
    zero_or_inf = w.either(w.cmp("oeq", a, 0.0), w.cmp("oeq", a, INF))
    grows = w.emit(f"xor i1 {w.cmp('oeq', a, 0.0)}, {w.cmp('ogt', y, 0.0)}")  # inf**positive, 0**negative
    # y infinite: by the size of |x| alone
    y_inf = w.cmp("oeq", w.abs(y), INF)
    up = w.emit(f"xor i1 {w.cmp('ogt', a, 1.0)}, {w.cmp('olt', y, 0.0)}")
    limit = w.select(y_inf, w.select(w.cmp("oeq", a, 1.0), 1.0, w.select(up, INF, 0.0)), w.select(grows, INF, 0.0))
    power = w.select(w.either(zero_or_inf, y_inf), limit, power)
    sign = w.iselect(w.both(negative, odd), -(2 ** (w.bits - 1)), 0)
    power = w.from_bits(w.ixor(w.to_bits(power), sign))
    undefined = w.both(w.both(w.cmp("olt", x, 0.0), w.not_(whole)), w.cmp("one", a, INF))
    undefined = w.either(undefined, w.cmp("uno", x, y))
    one = w.either(w.cmp("oeq", y, 0.0), w.cmp("oeq", x, 1.0))
    return w.select(w.either(one, undefined), w.select(one, 1.0, NAN), power)


def log_in_two_parts(w: Writer, x: str) -> tuple[str, str]:
    """log(x) as an unevaluated sum for positive finite f64 x, with a relative error of about 2^-68.

    log(m) = 2 s + s^3 L(s^2), with s = f / (2 + f) and its remainder, and the products split by fused multiply-adds
    (T. J. Dekker, "A floating-point technique for extending the available precision", 1971).
    """
    m, e = split(w, x)
    f = w.sub(m, 1.0)
    d = w.add(f, 2.0)
    d_low = w.sub(f, w.sub(d, 2.0))
    reciprocal = w.div(1.0, d)
    s = w.mul(f, reciprocal)
    s_low = w.mul(w.sub(w.fma(w.neg(s), d, f), w.mul(s, d_low)), reciprocal)
    z = w.mul(s, s)
    z_low = w.fma(s, s, w.neg(z))
    cube = w.mul(z, s)
    cube_low = w.muladd(z, s_low, w.muladd(z_low, s, w.fma(z, s, w.neg(cube))))
    # s^3 (2/3 + z P(z)): the leading 2/3 in two parts, the rest in one
    coefficients = table(w, "LOG")
    rest = w.mul(z, w.polynomial(z, coefficients[1:]))
    lead = 0.6666666666666666
    lead_low = 3.700743415417188e-17 + (coefficients[0] - 2 / 3)
    first = w.mul(cube, lead)
    first_low = w.muladd(cube, lead_low, w.muladd(cube_low, lead, w.fma(cube, lead, w.neg(first))))
    second = w.mul(cube, rest)
    n = w.to_float(e)
    hi, lo = LN2["f64"]
    n_hi = w.mul(n, hi)  # exact: hi has 33 bits
    twice = w.mul(s, 2.0)
    # n_hi is either zero or larger than what is added to it, so the roundings can be recovered (fast two-sum)
    a = w.add(n_hi, twice)
    a_low = w.add(w.sub(w.sub(n_hi, a), w.neg(twice)), 0.0)
    a_low = w.select(w.cmp("oeq", n, 0.0), 0.0, a_low)
    b = w.add(a, first)
    b_low = w.add(w.sub(a, b), first)
    low = w.add(w.add(a_low, b_low), w.add(w.add(first_low, second), w.muladd(s_low, 2.0, w.mul(n, lo))))
    total = w.add(b, low)
    return total, w.add(w.sub(b, total), low)
