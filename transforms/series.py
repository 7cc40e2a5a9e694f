"""Arithmetic of truncated power series, the numbers that Taylor mode computes with.

A series is a list of coefficients of one length, x[0] + x[1] t + x[2] t^2 + ...; x[0] is an array and every other one an array or None,
which stands for zero and costs nothing. Shapes agree or are (), as in elementwise operations.

Source of the recurrences: A. Griewank, A. Walther, "Evaluating Derivatives", 2nd ed. (2008), chapter 13, tables 13.1 and 13.2. Each
needs O(K^2) operations for K coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir import ops

Series = list[Any]
Product = Callable[[Any, Any], Any]


def plus(x: Any, y: Any) -> Any:
    """The sum of two coefficients."""
    if x is None:
        return y
    return x if y is None else ops.add(x, y)


def minus(x: Any, y: Any) -> Any:
    if y is None:
        return x
    return ops.neg(y) if x is None else ops.sub(x, y)


def times(x: Any, y: Any) -> Any:
    return None if x is None or y is None else ops.mul(x, y)


def scaled(factor: float, x: Any) -> Any:
    return x if x is None or factor == 1 else ops.mul(x, float(factor))


def over(x: Any, divisor: float) -> Any:
    return x if x is None or divisor == 1 else ops.div(x, float(divisor))


def total(terms: Sequence[Any]) -> Any:
    """The sum of coefficients, None if all are."""
    result = None
    for term in terms:
        result = plus(result, term)
    return result


def is_constant(x: Sequence[Any]) -> bool:
    """Whether all coefficients but the first are zero."""
    return all(c is None for c in x[1:])


def constant(x: Any, order: int) -> Series:
    return [x, *[None] * order]


def mapped(fun: Callable[[Any], Any], x: Series) -> Series:
    """A linear function, applied to each coefficient."""
    return [None if c is None else fun(c) for c in x]


def sum_of(x: Series, y: Series) -> Series:
    return [plus(a, b) for a, b in zip(x, y, strict=True)]


def difference(x: Series, y: Series) -> Series:
    return [minus(a, b) for a, b in zip(x, y, strict=True)]


def coefficient(x: Series, y: Series, k: int, first: int = 0, last: int | None = None, product: Product = ops.mul) -> Any:
    """The sum of x[j] y[k-j] over j from `first` to `last` (to k): the k-th coefficient of a product, or a part of it."""
    pairs = [(x[j], y[k - j]) for j in range(first, (k if last is None else last) + 1)]
    return total([product(a, b) for a, b in pairs if a is not None and b is not None])


def square_coefficient(x: Series, k: int, first: int = 0) -> Any:
    """The sum of x[j] x[k-j] over j from `first` to k - first, by half of the products."""
    result = total([times(x[j], x[k - j]) for j in range(first, (k + 1) // 2)])
    result = scaled(2, result)
    if k % 2 == 0 and k // 2 >= first and x[k // 2] is not None:
        result = plus(result, ops.square(x[k // 2]))
    return result


def multiplied(x: Series, y: Series, product: Product = ops.mul) -> Series:
    """Cauchy's product, for any bilinear `product` of coefficients."""
    return [coefficient(x, y, k, product=product) for k in range(len(x))]


def squared(x: Series) -> Series:
    return [square_coefficient(x, k) for k in range(len(x))]


def divided(x: Series, y: Series) -> Series:
    """x / y, from x = (x / y) y."""
    if is_constant(y):
        return mapped(lambda c: ops.div(c, y[0]), x)
    ratio: Series = []
    for k in range(len(x)):
        rest = minus(x[k], coefficient(y, ratio, k, first=1))
        ratio.append(None if rest is None else ops.div(rest, y[0]))
    return ratio


def derivative(x: Series) -> Series:
    """The series of x', one coefficient shorter."""
    return [scaled(j, x[j]) for j in range(1, len(x))]


def antiderivative(y0: Any, slope: Series) -> Series:
    """The series of y with y' = slope, one coefficient longer."""
    return [y0, *[over(c, k) for k, c in enumerate(slope, start=1)]]


def integral(y0: Any, x: Series, slope: Callable[[Series], Any]) -> Series:
    """The series of y with y' = g x', where g may depend on y: `slope(y)` gives its k-th coefficient when y[0] ... y[k] are known."""
    y, g, moving = [y0], [], derivative(x)
    for k in range(1, len(x)):
        g.append(slope(y))
        y.append(over(coefficient(moving, g, k - 1), k))
    return y


def exponential(y0: Any, x: Series) -> Series:
    """exp(x), whose value y0 is known."""
    return integral(y0, x, lambda y: y[-1])


def logarithm(y0: Any, x: Series) -> Series:
    """log(x), whose value y0 is known."""
    return antiderivative(y0, divided(derivative(x), x[:-1]))


def square_root(y0: Any, x: Series) -> Series:
    """y = sqrt(x), from y^2 = x."""
    y = [y0]
    twice = None
    for k in range(1, len(x)):
        rest = minus(x[k], square_coefficient([*y, None], k, first=1))
        if rest is not None and twice is None:
            twice = ops.mul(y0, 2.0)
        y.append(None if rest is None else ops.div(rest, twice))
    return y


def cube_root(y0: Any, x: Series) -> Series:
    """y = cbrt(x), from y^3 = x, beside s = y^2."""
    y, s = [y0], [ops.square(y0)]
    for k in range(1, len(x)):
        # What y[1] ... y[k-1] contribute to the k-th coefficients of y^2 and of y s.
        own = square_coefficient([*y, None], k, first=1)
        rest = minus(minus(x[k], coefficient(y, s, k, 1, k - 1)), times(y0, own))
        y.append(None if rest is None else ops.div(rest, ops.mul(s[0], 3.0)))
        s.append(plus(own, scaled(2, times(y0, y[k]))))
    return y


def reciprocal_root(y0: Any, x: Series) -> Series:
    """y = 1 / sqrt(x), from x y' = -x' y / 2."""
    y = [y0]
    for k in range(1, len(x)):
        rest = total([scaled(-(k - j / 2) / k, times(x[j], y[k - j])) for j in range(1, k + 1)])
        y.append(None if rest is None else ops.div(rest, x[0]))
    return y


def whole_power(x: Series, n: int) -> Series:
    """x ** n for n > 0 by repeated squaring, so that it is right where x is 0."""
    result: Series | None = None
    while True:
        if n % 2:
            result = x if result is None else multiplied(result, x)
        n //= 2
        if n == 0:
            assert result is not None
            return result
        x = squared(x)


def composed(derivatives: Sequence[Any], x: Series) -> Series:
    """f(x) from f and its derivatives at x[0]: Taylor's polynomial of f, evaluated at the series by Horner's rule."""
    order = len(x) - 1
    c = [over(d, math.factorial(m)) for m, d in enumerate(derivatives)]
    step = [None, *x[1:]]
    # c[m] + step (c[m+1] + step (...)) needs order - m coefficients: the steps before it start with t.
    y: Series = [c[order]]
    for m in reversed(range(order)):
        y = [c[m], *[coefficient(step, y, k, first=1) for k in range(1, order - m + 1)]]
    return y
