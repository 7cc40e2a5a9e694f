"""Parts of the incomplete gamma functions, of doubles: the factor in front of series and fractions, and what takes no iteration.

W. Gautschi, "A computational procedure for incomplete gamma functions", ACM Trans. Math. Softw. 5 (1979); A. R. DiDonato and A. H. Morris,
"Computation of the incomplete gamma function ratios", ACM Trans. Math. Softw. 12 (1986); N. M. Temme, "The asymptotic expansion of the
incomplete gamma functions", SIAM J. Math. Anal. 10 (1979); NIST Digital Library of Mathematical Functions, chapter 8. What is subtracted in an
exponent is kept in two parts, so that errors do not grow with the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tracegrad.codegen.elementary import incomplete_tables as tables
from tracegrad.codegen.elementary.functions import function
from tracegrad.codegen.elementary.powers import log_in_two_parts
from tracegrad.codegen.elementary.writer import Writer

Parts = tuple[str, str]
TAU = 2 * math.pi


def two_sum(w: Writer, x: str, y: str) -> Parts:
    """x + y exactly, as the rounded sum and what rounding lost (D. E. Knuth)."""
    s = w.add(x, y)
    t = w.sub(s, x)
    return s, w.add(w.sub(x, w.sub(s, t)), w.sub(y, t))


def product(w: Writer, x: str, y: Parts) -> Parts:
    """x (y0 + y1) in two parts."""
    p = w.mul(x, y[0])
    return p, w.muladd(x, y[1], w.fma(x, y[0], w.neg(p)))


def total(w: Writer, terms: Sequence[Parts]) -> Parts:
    high, low = terms[0]
    for other, rest in terms[1:]:
        high, lost = two_sum(w, high, other)
        low = w.add(low, w.add(lost, rest))
    return high, low


def negative(w: Writer, x: Parts) -> Parts:
    return w.neg(x[0]), w.neg(x[1])


def exp_of(w: Writer, x: Parts) -> str:
    e = w.call("exp", x[0])
    return w.muladd(e, x[1], e)


class Shifted:
    """A positive a, or a + 8 if it is less than 8, where Stirling's formula holds: gamma(a + 8) = a (a + 1) ... (a + 7) gamma(a).

    small: whether it was shifted; at, lost: the number and what its addition lost; log: its logarithm in two parts.
    """

    def __init__(self, w: Writer, a: str, lost: str | None = None):
        self.given = a
        self.small = w.cmp("olt", a, 8.0)
        by = w.select(self.small, 8.0, 0.0)
        self.at, self.lost = two_sum(w, a, by)
        if lost is not None:
            self.lost = w.add(self.lost, lost)
        self.log = log_in_two_parts(w, self.at)
        self.inverse = w.div(1.0, self.at)

    def log_power(self, w: Writer) -> Parts:
        """at log(at) - at, with what the lost part adds to the logarithm of the gamma function."""
        high, low = product(w, self.at, self.log)
        slope = w.mul(self.lost, w.muladd(self.inverse, -0.5, self.log[0]))
        return total(w, [(high, w.add(low, slope)), (w.neg(self.at), w.f(0.0))])

    def steps(self, w: Writer) -> str:
        """a (a + 1) ... (a + 7), by which the gamma function was multiplied, or 1."""
        f = [self.given, *[w.add(self.given, float(j)) for j in range(1, 8)]]
        while len(f) > 1:
            f = [w.mul(p, q) for p, q in zip(f[::2], f[1::2])]
        return w.select(self.small, f[0], 1.0)


@function(2)
def gamma_front(w: Writer, a: str, x: str) -> str:
    """x^a exp(-x) / gamma(a + 1) for 0 < a, x <= 1e5."""
    shifted = Shifted(w, a)
    power = product(w, a, log_in_two_parts(w, x))
    e = exp_of(w, total(w, [power, negative(w, shifted.log_power(w)), (w.neg(x), w.f(0.0))]))
    scale = w.mul(w.sqrt(w.mul(shifted.at, 1 / TAU)), w.polynomial(shifted.inverse, tables.INVERSE_STIRLING))
    return w.mul(e, w.mul(scale, w.div(shifted.steps(w), a)))


# ------------------------------------------------------------------------------------------------- uniform expansion, x close to a

LOG_TERMS = 13


class Near:
    """What Temme's uniform expansion is made of, 16 <= a, 0.6 <= x / a <= 1.55. With mu = x / a - 1:

    exponent: a (mu - log(1 + mu)) = a eta^2 / 2 in two parts; eta with the sign of mu; slope: eta / mu, 1 at 0.
    """

    def __init__(self, w: Writer, a: str, x: str):
        d = w.sub(x, a)  # exact
        self.mu = w.div(d, a)
        mu_lost = w.div(w.fma(w.neg(self.mu), a, d), a)
        # mu - log(1 + mu) = mu^2 / (2 + mu) - 2 s^3 (1/3 + s^2/5 + ...), s = mu / (2 + mu)
        below = w.add(self.mu, 2.0)
        below_lost = w.sub(self.mu, w.sub(below, 2.0))
        square = w.mul(self.mu, self.mu)
        square_lost = w.fma(self.mu, self.mu, w.neg(square))
        q = w.div(square, below)
        rest = w.sub(w.add(w.fma(w.neg(q), below, square), square_lost), w.mul(q, below_lost))
        s = w.div(self.mu, below)
        s2 = w.mul(s, s)
        series = w.polynomial(s2, [2.0 / (2 * j + 3) for j in range(LOG_TERMS)])
        tail = w.mul(w.mul(s2, s), series)
        lost = w.add(w.div(rest, below), w.mul(mu_lost, w.div(self.mu, w.add(self.mu, 1.0))))
        p, p_lost = product(w, a, (q, lost))
        self.exponent = total(w, [(p, p_lost), (w.neg(w.mul(a, tail)), w.f(0.0))])
        # eta / mu, without dividing by what may be 0
        inner = w.sub(1.0, w.mul(w.div(self.mu, w.mul(below, below)), series))
        self.slope = w.sqrt(w.mul(w.div(2.0, below), inner))
        self.eta = w.mul(self.slope, self.mu)
        self.inverse = w.div(1.0, a)

    def sum(self, w: Writer, table: Sequence[Sequence[float]]) -> str:
        """c_0(eta) + c_1(eta) / a + ..."""
        acc = w.polynomial(self.eta, table[-1])
        for row in reversed(table[:-1]):
            acc = w.muladd(acc, self.inverse, w.polynomial(self.eta, row))
        return acc


def _near(w: Writer, a: str, x: str, upper: bool, table: Sequence[Sequence[float]]) -> str:
    """P or Q from erfc and the expansion: the lesser of the two directly, the other as what is left of 1. DLMF 8.12.3, 8.12.4, 8.12.7."""
    near = Near(w, a, x)
    e = exp_of(w, negative(w, near.exponent))
    y = w.sqrt(near.exponent[0])
    limited = w.minimum(y, 0.5)
    close = w.sub(0.5, w.mul(w.call("erf", limited), 0.5))
    part = w.select(w.cmp("olt", y, 0.5), close, w.mul(w.mul(e, 0.5), w.call("erfc_scaled", y)))
    rest = w.mul(e, w.mul(w.sqrt(w.mul(near.inverse, 1 / TAU)), near.sum(w, table)))
    above = w.cmp("oge", near.mu, 0.0)
    lesser = w.add(part, w.select(above, rest, w.neg(rest)))
    other = w.sub(1.0, lesser)
    return w.select(above, lesser, other) if upper else w.select(above, other, lesser)


@function(2)
def igamma_near(w: Writer, a: str, x: str) -> str:
    return _near(w, a, x, False, tables.UNIFORM_F64)


@function(2)
def igammac_near(w: Writer, a: str, x: str) -> str:
    return _near(w, a, x, True, tables.UNIFORM_F64)


@function(2)
def igamma_near_single(w: Writer, a: str, x: str) -> str:
    """As `igamma_near`, for results that are rounded to single precision."""
    return _near(w, a, x, False, tables.UNIFORM_F32)


@function(2)
def igammac_near_single(w: Writer, a: str, x: str) -> str:
    return _near(w, a, x, True, tables.UNIFORM_F32)


def _slope_near(w: Writer, a: str, x: str, table: Sequence[Sequence[float]]) -> tuple[Near, str]:
    """(expansion, K): the derivative of P in a is -exp(-a eta^2 / 2) / sqrt(2 pi a) K. With l = x / a, and S the sum of c_k / a^k:
    K = (l - 1) / eta - eta / 2 + (log l - 1 / (2 a)) S - (l - 1) / (a eta) dS/deta + dS/da, which DLMF 8.12.7 gives when differentiated.
    """
    near = Near(w, a, x)
    quotient = w.div(1.0, near.slope)
    sums = near.sum(w, table)
    by_eta = near.sum(w, [[n * c for n, c in enumerate(row)][1:] or [0.0] for row in table])
    by_a = w.mul(near.inverse, near.sum(w, [[-k * c for c in row] for k, row in enumerate(table)]))
    rate = w.muladd(near.inverse, -0.5, w.call("log1p", near.mu))
    rest = w.muladd(rate, sums, w.sub(by_a, w.mul(w.mul(quotient, near.inverse), by_eta)))
    return near, w.add(w.muladd(near.eta, -0.5, quotient), rest)


def _random_gamma_grad_near(w: Writer, a: str, x: str, table: Sequence[Sequence[float]]) -> str:
    near, slope = _slope_near(w, a, x, table)
    return w.mul(w.mul(w.add(near.mu, 1.0), w.polynomial(near.inverse, tables.STIRLING)), slope)


def _igamma_grad_a_near(w: Writer, a: str, x: str, table: Sequence[Sequence[float]]) -> str:
    near, slope = _slope_near(w, a, x, table)
    e = exp_of(w, negative(w, near.exponent))
    return w.neg(w.mul(w.mul(e, w.sqrt(w.mul(near.inverse, 1 / TAU))), slope))


@function(2)
def random_gamma_grad_near(w: Writer, a: str, x: str) -> str:
    return _random_gamma_grad_near(w, a, x, tables.UNIFORM_F64)


@function(2)
def random_gamma_grad_near_single(w: Writer, a: str, x: str) -> str:
    return _random_gamma_grad_near(w, a, x, tables.UNIFORM_F32)


@function(2)
def igamma_grad_a_near(w: Writer, a: str, x: str) -> str:
    return _igamma_grad_a_near(w, a, x, tables.UNIFORM_F64)


@function(2)
def igamma_grad_a_near_single(w: Writer, a: str, x: str) -> str:
    return _igamma_grad_a_near(w, a, x, tables.UNIFORM_F32)


# ----------------------------------------------------------------------------------------------------------------- small arguments


def _small(w: Writer, a: str, x: str, terms: int) -> str:
    """Q for a <= 1.25, x <= 1.1, where it may be small: 1 - x^a / gamma(1 + a) (1 + sum a (-x)^n / ((a + n) n!)). DLMF 8.7.1."""
    u = w.mul(a, w.sub(w.call("log", x), w.polynomial(a, tables.LGAMMA1P)))
    change = w.call("expm1", u)
    acc = w.f(0.0)
    for n in reversed(range(1, terms + 1)):
        acc = w.mul(w.add(acc, w.div(a, w.add(a, float(n)))), w.mul(x, -1.0 / n))
    return w.sub(w.neg(change), w.mul(w.add(change, 1.0), acc))


@function(2)
def igammac_small(w: Writer, a: str, x: str) -> str:
    return _small(w, a, x, 18)


@function(2)
def igammac_small_single(w: Writer, a: str, x: str) -> str:
    return _small(w, a, x, 11)


# ------------------------------------------------------------------------------------------------------------ the beta function


@function(4)
def beta_front(w: Writer, a: str, b: str, x: str, lost: str) -> str:
    """x^a (1 - x)^b gamma(a + b) / (gamma(a) gamma(b)) for parameters up to 1e5; what the rounding of x lost is `lost`, and x + lost <= 1."""
    y, y_lost = two_sum(w, w.f(1.0), w.neg(x))
    y_lost = w.sub(y_lost, lost)
    p, q = Shifted(w, a), Shifted(w, b)
    r = Shifted(w, *two_sum(w, a, b))
    log_x, log_y = log_in_two_parts(w, x), log_in_two_parts(w, y)
    log_x = log_x[0], w.add(log_x[1], w.div(lost, x))
    log_y = log_y[0], w.add(log_y[1], w.div(y_lost, y))
    powers = [product(w, a, log_x), product(w, b, log_y), r.log_power(w)]
    exponent = total(w, [*powers, negative(w, p.log_power(w)), negative(w, q.log_power(w))])
    root = w.sqrt(w.mul(w.mul(w.mul(p.at, q.at), r.inverse), 1 / TAU))
    stirling = w.mul(
        w.polynomial(r.inverse, tables.STIRLING),
        w.mul(w.polynomial(p.inverse, tables.INVERSE_STIRLING), w.polynomial(q.inverse, tables.INVERSE_STIRLING)),
    )
    steps = w.mul(p.steps(w), w.div(q.steps(w), r.steps(w)))
    return w.mul(w.mul(exp_of(w, exponent), steps), w.mul(root, stirling))


INTERNAL: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        gamma_front,
        beta_front,
        random_gamma_grad_near,
        random_gamma_grad_near_single,
        igamma_grad_a_near,
        igamma_grad_a_near_single,
        igamma_near,
        igammac_near,
        igamma_near_single,
        igammac_near_single,
        igammac_small,
        igammac_small_single,
    )
}
"""The functions here, which are parts of others and no primitives."""
