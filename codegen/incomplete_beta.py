"""The regularized incomplete beta function I_x(a, b) by its continued fraction (DLMF 8.17.22), in lanes (`sorted_elements.py`).

Every other denominator of the fraction is eliminated, and it is summed as the differences between its convergents. Beyond the mean it is
1 - I_{1-x}(b, a), with what 1 - x loses in rounding kept. Large parameters and the ends of the domain are left to SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracegrad.codegen.elementary import incomplete  # noqa: F401  (registers its functions)
from tracegrad.codegen.incomplete_gamma import MOST, tolerance
from tracegrad.codegen.kernel import Kernel, Value
from tracegrad.codegen.library import special_symbol
from tracegrad.codegen.sorted_elements import Described, Lanes, Method

FRACTION, LONG_FRACTION, ELSEWHERE = range(3)
LARGEST = 2e4
"""The number of terms grows like the root of the parameters."""
LONG = 50.0
LEAST = 1e-250
SMALL, CLOSE = 0.3, 0.02
"""With b below the first the complement may be all but 1; the fraction converges beyond the mean too, as long as 1 - x is not below the other."""
STEPS = 2


def fraction(block: Lanes, single: bool) -> None:
    k = block.k
    arguments = block.arguments
    a, b, x, bias, front, total, term, before, swapped = block.arrays(9)
    with block.each() as i:
        p, q, v = (given[i] for given in arguments)
        y = 1.0 - v
        y_lost = (1.0 - y) - v
        beyond = (v * (p + q + 2.0) > p + 1.0) & ~((q < SMALL) & (y >= CLOSE))
        zero = k.value(0.0, "double")
        a[i] = beyond.select(q, p)
        b[i] = beyond.select(p, q)
        x[i] = beyond.select(y, v)
        lost = beyond.select(y_lost, zero)
        swapped[i] = beyond.select(k.value(1.0, "double"), zero)
        front[i] = k.elementary_call("beta_front", a[i], b[i], x[i], lost)
        # a (1 - x) - b x + 1 without its cancellation
        other, other_lost = beyond.select(v, y), beyond.select(zero, y_lost)
        t = b[i] * x[i]
        t_lost = k.intrinsic("fma", b[i], x[i], -t) + b[i] * lost
        bias[i] = k.intrinsic("fma", a[i], other, -t) - t_lost + a[i] * other_lost + 1.0
        d = 1.0 / (a[i] * bias[i])
        before[i] = d
        term[i] = d
        total[i] = d
    eps = tolerance(single)

    def step(i: Value, n: Value) -> Value:
        t, d, sum = term[i], before[i], total[i]
        p, q, v = a[i], b[i], x[i]
        base = bias[i]
        with k.arithmetic("contract"):
            for j in range(1, STEPS + 1):
                m = n + float(j)
                middle = p + 2.0 * m  # between e_m = a + 2m - 1 and e_(m+1)
                low, high = middle - 1.0, middle + 1.0
                up = m * (q - m) * v
                numerator = (p + m - 1.0) * (p + q + (m - 1.0)) * (up * v) * high
                if j > 1:
                    numerator = numerator * (middle - 3.0)
                else:
                    first = n.eq(0.0).select(k.value(1.0, "double"), middle - 3.0)  # the first denominator has one factor only
                    numerator = numerator * first
                denominator = high * (m * low + up) + (p + m) * low * (base + m * (2.0 - v))
                new = 1.0 / (denominator + numerator * d)
                t = -t * (numerator * d * new)
                sum = sum + t
                d = new
        total[i] = sum
        term[i] = t
        before[i] = d
        return t.abs() > sum.abs() * eps

    block.repeat(step, STEPS, MOST)
    with block.each() as i:
        value = front[i] * total[i] * (a[i] + 1.0)
        block.result[i] = (swapped[i] > 0.5).select(1.0 - value, value)


def elsewhere(block: Lanes) -> None:
    k = block.k
    with k.loop(0, block.count, vectorize=False) as i:
        value = k.call(special_symbol("__pyx_fuse_0betainc"), [*[v[i] for v in block.arguments], k.value(0, "i32")], "double")
        assert value is not None
        block.result[i] = value


def classify(k: Kernel, args: list[Value]) -> tuple[Value, Value]:
    a, b, x = args
    ordinary = (a >= LEAST) & (a <= LARGEST) & (b >= LEAST) & (b <= LARGEST) & (x >= LEAST) & (x < 1.0)
    y = 1.0 - x
    exponent = (y.bits("i64") >> 52) - 1023
    lost = (b < SMALL) & (y < CLOSE) & (b * exponent.cast("double") > -1.0)  # where (1 - x)^b is close to 1
    long = (a > LONG) | (b > LONG) | ((b < SMALL) & (x > 0.5))
    number = long.select(k.value(LONG_FRACTION, "i32"), k.value(FRACTION, "i32"))
    return (ordinary & ~lost).select(number, k.value(ELSEWHERE, "i32")), x


def methods(single: bool) -> Sequence[Method]:
    return [lambda block: fraction(block, single), elsewhere]


FUNCTIONS = {"regularized_incomplete_beta": Described(3, classify, methods, (2, 1))}
