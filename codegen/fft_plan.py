"""How a transform of a given length is done: the factors of its passes, and the tables of roots of unity that they read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

WRITTEN_OUT = {2: 4, 3: 14, 4: 16, 5: 36, 6: 44, 7: 72, 8: 56, 9: 100, 10: 92, 11: 160, 12: 104, 13: 220}
"""The radices whose transforms are straight-line code, and roughly how many vector operations each takes."""
LARGEST_PRIME = 200
"""Factors up to this are summed directly, in loops."""
LONGEST = 4096
"""Transforms up to this length are done on a block of lines in a buffer; longer ones are made of shorter ones."""

PASS = dict.fromkeys((2, 3, 4, 5, 6, 8), 9.0) | {7: 9.9, 9: 10.2, 10: 10.5, 11: 19.0, 12: 12.0, 13: 25.0}
"""Cycles for each element in a pass, measured with AVX-512: up to radix 10 it is loads and stores that count."""
CODE = 0.035
"""What an operation of the code of a pass costs, in cycles for each element: it favours plans with few different radices."""


@dataclass(frozen=True)
class Plan:
    """The radices of the passes of a transform of length n; cost: in cycles for a block of lines."""

    n: int
    radices: tuple[int, ...]
    cost: float


def factor(n: int) -> dict[int, int]:
    """The prime factors with their multiplicities."""
    found: dict[int, int] = {}
    p = 2
    while p * p <= n:
        while n % p == 0:
            found[p] = found.get(p, 0) + 1
            n //= p
        p += 1
    if n > 1:
        found[n] = found.get(n, 0) + 1
    return found


@lru_cache(maxsize=256)
def plan(n: int) -> Plan | None:
    """The cheapest passes for the length; None where it has a large prime factor."""
    primes = factor(n)
    if max(primes, default=1) >= LARGEST_PRIME:
        return None
    looped = [p for p, m in primes.items() for _ in range(m) if p not in WRITTEN_OUT]
    rest = n
    for p in looped:
        rest //= p
    base = n * sum(looped_cost(p) for p in looped)
    best: tuple[float, float, tuple[int, ...]] | None = None
    for radices in _factorizations(rest, max(WRITTEN_OUT)):
        cost = base + n * sum(PASS[r] for r in radices)
        weight = cost + n * CODE * sum(WRITTEN_OUT[r] + 15 * r for r in set(radices))
        if best is None or weight < best[0]:
            best = weight, cost, radices
    assert best is not None
    return Plan(n, (*looped, *best[2]), best[1])


def looped_cost(p: int) -> float:
    """Cycles for each element in a pass of a radix that is summed in loops."""
    return max(0.75 * p + 15, 42.0)


def _factorizations(n: int, largest: int) -> list[tuple[int, ...]]:
    """All products of written-out radices, none larger than those before it."""
    if n == 1:
        return [()]
    found = []
    for r in WRITTEN_OUT:
        if r <= largest and n % r == 0:
            found.extend([(r, *others) for others in _factorizations(n // r, r)])
    return found


@lru_cache(maxsize=64)
def convolution_length(n: int) -> int:
    """The length of the cyclic convolution that makes a transform of length n (Bluestein): the cheapest from 2n - 1 on."""
    return min((m for m in range(2 * n - 1, 3 * n + 2) if max(factor(m)) <= 7), key=lambda m: plan(m).cost)  # type: ignore[union-attr]


def by_convolution(n: int) -> bool:
    """Whether a transform is best made of two longer ones, by Bluestein's convolution."""
    p = plan(n)
    if p is not None and max(factor(n), default=1) <= max(WRITTEN_OUT):
        return False
    other = plan(convolution_length(n))
    assert other is not None
    return p is None or p.cost > 2 * other.cost + 20 * other.n


@lru_cache(maxsize=256)
def divided(n: int) -> tuple[int, int] | None:
    """Lengths (a, b) with a * b = n, as equal as they can be, both with transforms of their own; None where there are none."""
    a = int(n**0.5)
    while a > 1:
        if n % a == 0 and n // a <= 2 * LONGEST and _direct(a) and _direct(n // a):
            return a, n // a
        a -= 1
    return None


def _direct(n: int) -> bool:
    return not by_convolution(n) or convolution_length(n) <= 2 * LONGEST


# -------------------------------------------------------------------------------------------------------------------- tables


def roots(n: int, exponents: np.ndarray) -> np.ndarray:
    """exp(-2 pi i k / n) for integers k, in pairs (real, imaginary), correctly rounded but for the last place.

    The angle is brought into an eighth of the circle in integers, so that nothing is lost before the sine and cosine are taken; those
    are computed in extended precision where the machine has it.
    """
    turns = np.asarray(exponents, np.int64) % n * 8  # eighths of 1 / n of a turn: a whole turn is 8 n
    below = turns > 4 * n
    turns = np.where(below, 8 * n - turns, turns)
    left = turns > 2 * n
    turns = np.where(left, 4 * n - turns, turns)
    steep = turns > n
    turns = np.where(steep, 2 * n - turns, turns)
    angle = turns.astype(np.longdouble) * (np.arctan(np.longdouble(1)) / n)
    cos, sin = np.cos(angle), np.sin(angle)
    cos, sin = np.where(steep, sin, cos), np.where(steep, cos, sin)
    return np.stack([np.where(left, -cos, cos), np.where(below, sin, -sin)], -1)


def _numbers(parts: list[np.ndarray], real: str) -> np.ndarray:
    """Tables one after the other; never none."""
    flat = np.concatenate([p.reshape(-1) for p in parts] + [np.zeros(1)])
    return np.ascontiguousarray(flat, dtype=real)


@lru_cache(maxsize=128)
def pass_tables(n: int, real: str) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
    """(numbers, where the roots of each pass begin, where those of its loops begin) for a plan's passes.

    A pass of radix r that has m * r elements to go multiplies result k of butterfly p by the root of order r m with exponent p k.
    """
    p = plan(n)
    assert p is not None
    parts, twiddles, loops = [], [], []
    place, left = 0, n
    for r in p.radices:
        m = left // r
        exponents = np.arange(m)[:, None] * np.arange(1, r)[None, :]
        twiddles.append(place)
        parts.append(roots(left, exponents))
        place += parts[-1].size
        loops.append(place)
        if r not in WRITTEN_OUT:
            parts.append(roots(r, -np.arange(r)))
            place += parts[-1].size
        left = m
    return _numbers(parts, real), tuple(twiddles), tuple(loops)


@lru_cache(maxsize=64)
def chirp_tables(n: int, real: str) -> tuple[np.ndarray, int]:
    """(numbers, where the second table begins): exp(-pi i k^2 / n), and the transform of its conjugate as a filter, over its length.

    Bluestein, "A linear filtering approach to the computation of discrete Fourier transform", 1970: k j = (k^2 + j^2 - (k - j)^2) / 2.
    """
    m = convolution_length(n)
    k = np.arange(n, dtype=np.int64)
    chirp = roots(2 * n, k * k)
    filter = np.zeros(m, np.clongdouble)
    filter[:n] = chirp[:, 0] - 1j * chirp[:, 1]
    filter[m - n + 1 :] = filter[1:n][::-1]
    transformed: Any = np.fft.fft(filter) / m
    return _numbers([chirp, np.stack([transformed.real, transformed.imag], -1)], real), 2 * n


@lru_cache(maxsize=64)
def real_table(n: int, real: str) -> np.ndarray:
    """exp(-2 pi i k / n) for k up to n / 4, by which the halves of a transform of real numbers are put together."""
    return _numbers([roots(n, np.arange(n // 4 + 2))], real)


@lru_cache(maxsize=32)
def power_tables(n: int, most: int) -> tuple[np.ndarray, int, int]:
    """(numbers, where the second table begins, bits): exp(-2 pi i k / n) for k up to `most` is entry k >> bits of the first table times
    entry k mod 2^bits of the second."""
    bits = max((n.bit_length() + 1) // 2, 1)
    high = roots(n, np.arange((most >> bits) + 1) << bits)
    return _numbers([high, roots(n, np.arange(1 << bits))], "float64"), high.size, bits


__all__ = [
    "LONGEST",
    "Plan",
    "WRITTEN_OUT",
    "by_convolution",
    "chirp_tables",
    "convolution_length",
    "divided",
    "pass_tables",
    "plan",
    "power_tables",
    "real_table",
    "roots",
]
