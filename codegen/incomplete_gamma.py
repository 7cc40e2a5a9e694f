"""The regularized incomplete gamma functions P(a, x) and Q(a, x) = 1 - P(a, x) by four methods, in lanes (`sorted_elements.py`).

The series of P (DLMF 8.11.4), the continued fraction of Q (8.9.2), Temme's uniform expansion where x is close to a large a, and for small
arguments, where Q may be small, the series of 8.7.1. W. Gautschi, ACM Trans. Math. Softw. 5 (1979), compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from tracegrad.codegen.elementary import incomplete  # noqa: F401  (registers its functions)
from tracegrad.codegen.kernel import Kernel, Value
from tracegrad.codegen.sorted_elements import Described, Lanes, Method

SERIES, FRACTION, NEAR, SMALL, DIRECT = range(5)
STEPS = 4
"""Terms of a series or fraction between two tests, and divisions."""
MOST = 4000.0


def tolerance(single: bool) -> float:
    """Of the last term, relative."""
    return 2.0**-32 if single else 2.0**-56


def near_limits(k: Kernel, a: Value, x: Value) -> Value:
    """Where the uniform expansion holds."""
    return (a >= 16.0) & (x >= a * 0.6) & (x <= a * 1.55)


def edges(k: Kernel, a: Value, x: Value, upper: bool) -> tuple[Value, Value]:
    """(whether the value is known without computing, that value): what SciPy gives at zeros and infinities, NaN outside, and 0 or 1 for
    large arguments that are not close to each other."""
    inf = float(np.inf)
    large = (a > 1e5) | (x > 1e5)
    whole = x >= a
    one = k.value(1.0, "double")
    value = whole.select(one, k.value(0.0, "double"))
    value = (x.eq(0.0) & (a > 0.0)).select(k.value(0.0, "double"), value)
    value = (a.eq(0.0) & (x > 0.0)).select(one, value)
    if upper:
        value = one - value
    undefined = a.isnan() | x.isnan() | (a < 0.0) | (x < 0.0) | (a.eq(0.0) & x.eq(0.0)) | (a.eq(inf) & x.eq(inf))
    value = undefined.select(k.value(float(np.nan), "double"), value)
    known = undefined | a.eq(0.0) | x.eq(0.0) | large
    near = near_limits(k, a, x) & (a < inf)
    return known & ~near, value


def series(block: Lanes, upper: bool, single: bool) -> None:
    """P = front (1 + x / (a+1) + x^2 / ((a+1)(a+2)) + ...)."""
    k = block.k
    a, x = block.arguments
    front, total, term = block.arrays(3)
    with block.each() as i:
        front[i] = k.elementary_call("gamma_front", a[i], x[i])
        total[i] = k.value(1.0, "double")
        term[i] = k.value(1.0, "double")
    eps = tolerance(single)

    def step(i: Value, n: Value) -> Value:
        y = [a[i] + (n + float(j)) for j in range(1, STEPS + 1)]
        v = x[i]
        with k.arithmetic("contract"):
            inverse = 1.0 / (y[0] * y[1] * (y[2] * y[3]))
            tail = y[2] * y[3]
            inner = y[1] * tail + v * (tail + v * (y[3] + v))
            share = term[i] * inverse * v
            sum = total[i] + share * inner
            last = share * (v * v * v)
        total[i] = sum
        term[i] = last
        return last > sum * eps

    block.repeat(step, STEPS, MOST)
    with block.each() as i:
        p = front[i] * total[i]
        block.result[i] = 1.0 - p if upper else p


def fraction(block: Lanes, upper: bool, single: bool) -> None:
    """Q = a front / (x+1-a - 1(1-a) / (x+3-a - 2(2-a) / (x+5-a - ...))), as the sum of differences between convergents."""
    k = block.k
    a, x = block.arguments
    front, total, term, ratio = block.arrays(4)
    with block.each() as i:
        front[i] = k.elementary_call("gamma_front", a[i], x[i]) * a[i]
        start = 1.0 / (x[i] + 1.0 - a[i])
        total[i] = start
        term[i] = start
        ratio[i] = k.value(0.0, "double")
    eps = tolerance(single)

    def step(i: Value, n: Value) -> Value:
        t, r, sum = term[i], ratio[i], total[i]
        base = x[i] - a[i]
        with k.arithmetic("contract"):
            for j in range(1, STEPS + 1):
                m = n + float(j)
                share = m * (m - a[i]) * (1.0 + r)
                below = base + 2.0 * m
                r = share / ((below * below - 1.0) - share)
                t = t * r
                sum = sum + t
        total[i] = sum
        term[i] = t
        ratio[i] = r
        return t.abs() > sum.abs() * eps

    block.repeat(step, STEPS, MOST)
    with block.each() as i:
        q = front[i] * total[i]
        block.result[i] = q if upper else 1.0 - q


def _of_two(name: str, single: bool) -> Method:
    suffix = "_single" if single else ""
    return lambda block: block.fill(lambda a, x: block.k.elementary_call(f"{name}{suffix}", a, x))


def methods(upper: bool, single: bool) -> Sequence[Method]:
    """By number."""
    found: list[Method] = [
        lambda block: series(block, upper, single),
        lambda block: fraction(block, upper, single),
        _of_two("igammac_near" if upper else "igamma_near", single),
    ]
    if upper:
        found.append(_of_two("igammac_small", single))
    return found


def classify(k: Kernel, a: Value, x: Value, upper: bool) -> tuple[Value, Value]:
    """(the number of the method, the value where there is none)."""
    known, value = edges(k, a, x, upper)

    def number(n: int) -> Value:
        return k.value(n, "i32")

    if upper:
        small = (x <= 1.1) & (a <= 1.25)
        method = small.select(number(SMALL), (x <= a).select(number(SERIES), number(FRACTION)))
    else:
        method = ((x <= a) | (x <= 1.0)).select(number(SERIES), number(FRACTION))
    method = near_limits(k, a, x).select(number(NEAR), method)
    return known.select(number(DIRECT), method), value


def _described(upper: bool) -> Described:
    return Described(2, lambda k, args: classify(k, args[0], args[1], upper), partial(methods, upper))


FUNCTIONS = {"igamma": _described(False), "igammac": _described(True)}
