"""The logarithm of the gamma function, its derivative, and modified Bessel functions, branch-free like the functions of `functions.py`.

Small arguments are shifted to an interval of length one by the recurrence of the gamma function, where a polynomial leaves out the zero (so that
the relative error is small around it); large ones take Stirling's formula with a polynomial fitted in place of its divergent series;
negative ones are reflected (NIST Digital Library of Mathematical Functions, 5.5, 5.11 and 10.40; W. J. Cody and K. E. Hillstrom, Math.
Comp. 21, 1967; W. J. Cody, A. J. Strecok and H. C. Thacher, Math. Comp. 27, 1973).
"""

from __future__ import annotations

from math import factorial

from tracegrad.codegen.elementary.functions import INF, NAN, exp_parts, function, log_of, table
from tracegrad.codegen.elementary.powers import power_of
from tracegrad.codegen.elementary.writer import Writer

HALF_LOG_TAU = 0.9189385332046727
# The positive zero of digamma in two parts: the first has bits to spare, so that small integers are subtracted from it exactly.
DIGAMMA_ZERO = {"f32": (1.4616317749023438, 3.7006601859126265e-07), "f64": (1.461632144968359, 3.4261690281751266e-15)}


def _product(w: Writer, factors: list[str]) -> str:
    a, b, c, d = factors
    return w.mul(w.mul(a, b), w.mul(c, d))


def _fraction_of_period(w: Writer, a: str) -> tuple[str, str, str]:
    """(r, r^2, sin(pi r) / pi) for r = a - rint(a)."""
    r = w.sub(a, w.rint(a))
    square = w.mul(r, r)
    return r, square, w.muladd(w.mul(square, r), w.polynomial(square, table(w, "SINC_PI")), r)


@function(1)
def lgamma(w: Writer, x: str) -> str:
    """log |gamma(x)|. Below 5/2 in size: lgamma(2 + u) less the logarithm of the factors in between; beyond: Stirling's formula, and for
    negative x the reflection log(pi / (a |sin pi a|)) - lgamma(a), a = |x|.
    """
    a = w.abs(x)
    steps = [(1.25, x), (0.25, w.add(x, 1.0)), (-0.75, w.add(x, 2.0)), (-1.75, w.add(x, 3.0))]
    u = w.sub(x, 2.0)
    factors = []
    for n, (limit, factor) in enumerate(steps):
        below = w.cmp("olt", x, limit)
        factors.append(w.select(below, factor, 1.0))
        u = w.select(below, w.add(x, n - 1.0) if n != 1 else x, u)
    near = w.mul(w.mul(u, w.add(u, 1.0)), w.polynomial(u, table(w, "LGAMMA_NEAR")))
    t = w.div(1.0, a)
    # (a - 1/2) log a - a + log(2 pi) / 2 without its cancellation
    tail = w.muladd(t, w.polynomial(w.mul(t, t), table(w, "LGAMMA_FAR")), HALF_LOG_TAU - 0.5)
    far = w.muladd(w.sub(a, 0.5), log_of(w, a, 1.0, normal=True), tail)
    is_far = w.cmp("oge", a, 2.5)
    reflected = w.cmp("ole", x, -2.5)
    sine = _fraction_of_period(w, a)[2]
    outside = w.select(reflected, w.mul(a, sine), 1.0)
    inner = w.abs(w.select(is_far, outside, _product(w, factors)))
    y = w.sub(w.select(is_far, w.select(reflected, w.neg(far), far), near), log_of(w, inner))
    y = w.select(w.either(w.cmp("oeq", inner, 0.0), w.cmp("oeq", a, INF)), INF, y)
    return w.select(w.cmp("uno", x, 0.0), x, y)


@function(1)
def digamma(w: Writer, x: str) -> str:
    """The derivative of lgamma. Below 2.1 in size: a polynomial around the zero less the reciprocals of the factors in between, as
    one fraction; beyond: Stirling's formula, and for negative x the reflection digamma(a) + 1 / a + pi cot(pi a), a = |x|.
    """
    a = w.abs(x)
    zero, zero_low = DIGAMMA_ZERO[w.dtype]
    steps = [(1.1, x), (0.1, w.add(x, 1.0)), (-0.9, w.add(x, 2.0)), (-1.9, w.add(x, 3.0))]
    root = w.f(zero)
    taken, f = [], []
    for n, (limit, factor) in enumerate(steps):
        below = w.cmp("olt", x, limit)
        taken.append(below)
        f.append(w.select(below, factor, 1.0))
        root = w.select(below, zero - (n + 1), root)
    d = w.sub(w.sub(x, root), zero_low)
    near = w.mul(d, w.series(d, table(w, "DIGAMMA_NEAR")))
    # 1/f0 + 1/f1 + 1/f2 + 1/f3 of the factors taken
    low, high = w.mul(f[0], f[1]), w.mul(f[2], f[3])
    low_sum = w.select(taken[1], w.add(f[0], f[1]), w.select(taken[0], 1.0, 0.0))
    high_sum = w.select(taken[3], w.add(f[2], f[3]), w.select(taken[2], 1.0, 0.0))
    top = w.neg(w.muladd(low_sum, high, w.mul(high_sum, low)))
    bottom = w.mul(low, high)
    t = w.div(1.0, a)
    square = w.mul(t, t)
    reflected = w.cmp("ole", x, -2.1)
    half = w.mul(t, w.select(reflected, 0.5, -0.5))
    far = w.add(log_of(w, a, normal=True), w.sub(half, w.mul(square, w.polynomial(square, table(w, "DIGAMMA_FAR")))))
    _, r2, sine = _fraction_of_period(w, a)
    cosine = w.muladd(r2, w.polynomial(r2, table(w, "COS_PI")), 1.0)
    is_far = w.cmp("oge", a, 2.1)
    top = w.select(is_far, w.select(reflected, cosine, 0.0), top)
    bottom = w.select(is_far, w.select(reflected, sine, 1.0), bottom)
    y = w.add(w.select(is_far, far, near), w.div(top, bottom))
    y = w.select(w.either(w.cmp("oeq", bottom, 0.0), w.cmp("oeq", x, -INF)), NAN, y)
    y = w.select(w.cmp("oeq", x, INF), INF, y)
    return w.select(w.cmp("uno", x, 0.0), x, y)


@function(1)
def trigamma(w: Writer, x: str) -> str:
    """The derivative of digamma. Below 2.1 in size: four steps of the recurrence, as one fraction, then Stirling's formula like beyond; for
    negative x the reflection pi^2 / sin(pi a)^2 + 1 / a^2 - trigamma(a), a = |x|.
    """
    a = w.abs(x)
    is_far = w.cmp("oge", a, 2.1)
    reflected = w.cmp("ole", x, -2.1)
    f = [x, w.add(x, 1.0), w.add(x, 2.0), w.add(x, 3.0)]
    t = w.div(1.0, w.select(is_far, x, w.add(x, 4.0)))
    square = w.mul(t, t)
    far = w.muladd(square, 0.5, w.muladd(w.mul(square, t), w.polynomial(square, table(w, "TRIGAMMA")), t))
    # the sum of the reciprocals of the squares
    low, high = w.mul(f[0], f[1]), w.mul(f[2], f[3])
    low_square, high_square = w.mul(low, low), w.mul(high, high)
    low_sum = w.muladd(f[0], f[0], w.mul(f[1], f[1]))
    high_sum = w.muladd(f[2], f[2], w.mul(f[3], f[3]))
    top = w.muladd(low_sum, high_square, w.mul(high_sum, low_square))
    sine = _fraction_of_period(w, a)[2]
    top = w.select(is_far, w.select(reflected, 1.0, 0.0), top)
    bottom = w.select(is_far, w.select(reflected, w.mul(sine, sine), 1.0), w.mul(low_square, high_square))
    y = w.add(far, w.div(top, bottom))
    y = w.select(w.either(w.cmp("oeq", bottom, 0.0), w.cmp("oeq", x, -INF)), INF, y)
    return w.select(w.cmp("uno", x, 0.0), x, y)


BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330, 854513 / 138)


@function(2)
def zeta(w: Writer, s: str, q: str) -> str:
    """Hurwitz' zeta function for s > 1 and q > 0 by Euler and Maclaurin: some terms, the integral of the rest, Bernoulli's corrections."""
    terms, corrections = (4, 7) if w.single else (7, 11)
    exponent = w.neg(s)
    a = w.add(q, float(terms))
    last = power_of(w, a, exponent)
    total = power_of(w, w.add(q, terms - 1.0), exponent)
    for k in reversed(range(terms - 1)):
        total = w.add(total, power_of(w, w.add(q, float(k)) if k else q, exponent))
    inverse = w.div(1.0, a)
    rising = w.mul(s, inverse)  # s (s + 1) ... (s + 2 j - 2) / a^(2 j - 1)
    tail = w.mul(rising, BERNOULLI[0] / 2)
    for j in range(2, corrections + 1):
        ahead = w.mul(w.mul(w.add(s, 2.0 * j - 3.0), inverse), w.mul(w.add(s, 2.0 * j - 2.0), inverse))
        rising = w.mul(rising, ahead)
        tail = w.muladd(rising, BERNOULLI[j - 1] / factorial(2 * j), tail)
    rest = w.add(w.div(a, w.sub(s, 1.0)), w.add(tail, 0.5))
    # where the terms fall fast the rest is nothing, and its corrections may be infinite
    y = w.select(w.cmp("ogt", last, w.mul(total, 2.0**-60)), w.muladd(last, rest, total), total)
    y = w.select(w.cmp("oeq", s, INF), w.select(w.cmp("ogt", q, 1.0), NAN, w.select(w.cmp("oeq", q, 1.0), 1.0, INF)), y)
    return w.select(w.cmp("oeq", q, INF), 0.0, y)


def _scaled_bessel(w: Writer, a: str, order: int) -> str:
    """exp(-a) I(a) for a >= 0, of I1 without a factor a where a is small; the other factor is `_bessel_limit`."""
    squared = w.mul(a, a)
    root = w.div(1.0, w.sqrt(a))
    reciprocal = w.mul(root, root)
    r, p, n = exp_parts(w, w.neg(a))
    if not w.single:
        # what the square lost in rounding, times the logarithmic derivative of I in it: close to 1 / (2 a) where it matters
        lost = w.fma(a, a, w.neg(squared))
        r = w.muladd(lost, w.minimum(w.mul(reciprocal, 0.47), 0.25), r)
    e = w.mul(w.add(w.muladd(w.mul(r, r), p, r), 1.0), w.power_of_two(n))
    near = w.polynomial(squared, table(w, f"BESSEL_I{order}_NEAR"))
    near = w.mul(e, w.mul(near, a) if order else near)
    far = w.mul(root, w.series(reciprocal, table(w, f"BESSEL_I{order}_FAR")))
    return w.select(w.cmp("ole", a, 6.0 if w.single else 12.0), near, far)


@function(1)
def bessel_i0e(w: Writer, x: str) -> str:
    """exp(-|x|) I0(x): exp(-|x|) times a polynomial in x^2, or a polynomial in 1 / |x| by sqrt(|x|)."""
    return _scaled_bessel(w, w.abs(x), 0)


@function(1)
def bessel_i1e(w: Writer, x: str) -> str:
    """exp(-|x|) I1(x), like `bessel_i0e`."""
    return w.copysign(_scaled_bessel(w, w.abs(x), 1), x)


__all__ = ["bessel_i0e", "bessel_i1e", "digamma", "lgamma", "trigamma", "zeta"]
