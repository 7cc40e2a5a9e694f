"""Derivatives of the incomplete gamma function P(a, x) in its parameter, in lanes (`sorted_elements.py`): P_a itself, and -P_a / P_x, the rate
at which a gamma sample moves with its shape.

Series, fraction and uniform expansion are those of `incomplete_gamma.py`, differentiated term by term. The factor in front of series and fraction
cancels in the rate: rate = -(x / a) (S (log x - digamma(a + 1)) + S') or x (F (log x - digamma(a)) + F').
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from tracegrad.codegen.elementary import incomplete  # noqa: F401  (registers its functions)
from tracegrad.codegen.incomplete_gamma import MOST, near_limits, tolerance
from tracegrad.codegen.kernel import Kernel, Value
from tracegrad.codegen.sorted_elements import Described, Lanes, Method

SERIES, FRACTION, NEAR, DIRECT = range(4)
STEPS = 2
HUGE = 1e100
"""Parameters beyond are scaled down together: by then only their quotient counts."""


def _finish(block: Lanes, i: Value, rate: Value, density: bool) -> None:
    """The rate, or P_a, which is minus the rate times the density front a / x."""
    k = block.k
    if density:
        a, x = (v[i] for v in block.arguments)
        rate = -rate * (k.elementary_call("gamma_front", a, x) * (a / x))
    block.result[i] = rate


def _scaled(block: Lanes, i: Value) -> tuple[Value, Value]:
    a, x = (v[i] for v in block.arguments)
    large = a > HUGE
    return large.select(block.k.value(HUGE, "double"), a), large.select(x / a * HUGE, x)


def series(block: Lanes, density: bool, single: bool) -> None:
    k = block.k
    a, x, total, slope, term, rate = block.arrays(6)
    one, zero = k.value(1.0, "double"), k.value(0.0, "double")
    with block.each() as i:
        a[i], x[i] = _scaled(block, i)
        total[i], slope[i], term[i], rate[i] = one, zero, one, zero
    eps = tolerance(single)

    def step(i: Value, n: Value) -> Value:
        sum, change, t, r = total[i], slope[i], term[i], rate[i]
        with k.arithmetic("contract"):
            y = [a[i] + (n + float(j)) for j in range(1, STEPS + 1)]
            inverse = 1.0 / (y[0] * y[1])
            for reciprocal in (inverse * y[1], inverse * y[0]):
                t = t * (x[i] * reciprocal)
                r = r - reciprocal
                sum = sum + t
                last = t * r
                change = change + last
        total[i], slope[i], term[i], rate[i] = sum, change, t, r
        return last.abs() > change.abs() * eps

    block.repeat(step, STEPS, MOST)
    with block.each() as i:
        log_x = k.elementary_call("log", block.arguments[1][i])
        bracket = total[i] * (log_x - k.elementary_call("digamma", block.arguments[0][i] + 1.0)) + slope[i]
        _finish(block, i, -bracket * (x[i] / a[i]), density)


def fraction(block: Lanes, density: bool, single: bool) -> None:
    k = block.k
    a, x, total, slope, term, change, ratio, bend = block.arrays(8)
    zero = k.value(0.0, "double")
    with block.each() as i:
        p, v = _scaled(block, i)
        v = (v > 1e140).select(k.value(1e140, "double"), v)  # the fraction is 1 / x there
        a[i], x[i] = p, v
        start = 1.0 / (v + 1.0 - p)
        total[i], slope[i], term[i], change[i] = start, start * start, start, start * start
        ratio[i], bend[i] = zero, zero
    eps = tolerance(single)

    def step(i: Value, n: Value) -> Value:
        t, dt, r, dr, sum, dsum = (v[i] for v in (term, change, ratio, bend, total, slope))
        base = x[i] - a[i]
        with k.arithmetic("contract"):
            for j in range(1, STEPS + 1):
                m = n + float(j)
                factor = m * (m - a[i])
                share, dshare = factor * (1.0 + r), factor * dr - m * (1.0 + r)
                below = base + 2.0 * m
                square = below * below - 1.0
                inverse = 1.0 / (square - share)
                r = share * inverse
                dr = (dshare * (square * inverse) + share * (below * inverse) * 2.0) * inverse
                dt = dt * r + t * dr
                t = t * r
                sum = sum + t
                dsum = dsum + dt
        for array, value in zip((term, change, ratio, bend, total, slope), (t, dt, r, dr, sum, dsum), strict=True):
            array[i] = value
        return (t.abs() > sum.abs() * eps) | (dt.abs() > dsum.abs() * eps)

    block.repeat(step, STEPS, MOST)
    with block.each() as i:
        log_x = k.elementary_call("log", block.arguments[1][i])
        bracket = total[i] * (log_x - k.elementary_call("digamma", block.arguments[0][i])) + slope[i]
        _finish(block, i, bracket * x[i], density)


def methods(name: str, single: bool) -> Sequence[Method]:
    density = name == "igamma_grad_a"
    suffix = "_near_single" if single else "_near"
    return [
        lambda block: series(block, density, single),
        lambda block: fraction(block, density, single),
        lambda block: block.fill(lambda a, x: block.k.elementary_call(name + suffix, a, x)),
    ]


def classify(name: str, k: Kernel, args: list[Value]) -> tuple[Value, Value]:
    """NaN outside of a > 0, x >= 0; 0 at both ends of x, and of P_a where large arguments are not close to each other."""
    a, x = args
    inf = float(np.inf)
    inside = (a > 0.0) & (a < inf) & (x > 0.0) & (x < inf)
    near = near_limits(k, a, x)
    ends = (a > 0.0) & (x.eq(0.0) | x.eq(inf))
    if name == "igamma_grad_a":
        far = inside & ~near & ((a > 1e5) | (x > 1e5))
        inside, ends = inside & ~far, ends | far
    method = ((x <= a) | (x <= 1.0)).select(k.value(SERIES, "i32"), k.value(FRACTION, "i32"))
    method = near.select(k.value(NEAR, "i32"), method)
    value = ends.select(k.value(0.0, "double"), k.value(float(np.nan), "double"))
    return inside.select(method, k.value(DIRECT, "i32")), value


FUNCTIONS = {
    name: Described(2, partial(classify, name), partial(methods, name)) for name in ("igamma_grad_a", "random_gamma_grad")
}
