"""Elementwise functions with several methods: elements are sorted by the method that suits them and computed in blocks of lanes.

A function that is a series here, a continued fraction there and an asymptotic expansion elsewhere, each with as many terms as it takes, is slow
element by element, and wasteful where all methods run for every element. A routine made here takes a chunk of elements, lists the indices of those
for each method, gathers from each list as many as there are lanes, and runs the method on these: its loops over lanes vectorize, and its loops over
terms end when the slowest lane has converged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracegrad.codegen.kernel import Buffer, Kernel, Value, compute_type

CHUNK = 1024
"""Elements whose indices are listed at once."""

Method = Callable[["Lanes"], None]
Classify = Callable[[Kernel, list[Value]], "tuple[Value, Value]"]
"""(kernel, arguments) -> (number of the list as an i32, or one that there is not; the result in that case)."""


class Described(NamedTuple):
    """A function: how many operands it has, what classifies arguments, its methods, given whether results are rounded to single precision, and how
    many lists each method has, one if nothing is said: a method may keep elements that take more terms apart from others."""

    operands: int
    classify: Classify
    methods: Callable[[bool], Sequence[Method]]
    lists: tuple[int, ...] = ()


class Lanes:
    """A block of arguments while a method computes their results: `arguments` and `result` are arrays of `count` doubles."""

    def __init__(self, k: Kernel, count: int, operands: int):
        self.k = k
        self.count = count
        self.arguments = [k.stack(np.float64, count) for _ in range(operands)]
        self.result = k.stack(np.float64, count)
        self.free: list[Buffer] = []
        self.used = 0

    def each(self) -> Any:
        """A loop over the lanes."""
        return self.k.loop(0, self.count, lanes=True)

    def arrays(self, n: int) -> list[Buffer]:
        """n arrays for what a method keeps of every lane. Methods share them."""
        self.used += n
        while len(self.free) < self.used:
            self.free.append(self.k.stack(np.float64, self.count))
        return self.free[self.used - n : self.used]

    def fill(self, function: Callable[..., Value]) -> None:
        """The result of a method without iterations."""
        with self.each() as i:
            self.result[i] = function(*[a[i] for a in self.arguments])

    def repeat(self, step: Callable[[Value, Value], Value], by: float, most: float) -> None:
        """Run step(i, n) for all lanes i, n = 0, by, 2 by, ..., until it gives no lane a true value (or n is `most`)."""
        k = self.k
        n, moving = k.var("double", 0.0), k.var("i32", 1)
        with k.while_(lambda: moving.get().ne(0) & (n.get() < most)):
            at = n.get()
            moving.set(0)
            with self.each() as i:
                moving.set(moving.get() | step(i, at).cast("i32", signed=False))
            n.set(at + by)


def sorted_loop(
    k: Kernel, inputs: Sequence[Callable[[Value], Value]], out: Buffer, function: Described, methods: Sequence[Method], lanes: int
) -> None:
    """Elements low <= i < high (parameters of the kernel): `inputs` give arguments by index, as doubles."""
    classify = function.classify
    share = function.lists or (1,) * len(methods)
    low, high = k["low"], k["high"]
    result = compute_type(out.dtype)
    lists = sum(share)
    room = k.stack(np.int32, CHUNK * lists)
    counts = k.stack(np.int64, lists)
    block = Lanes(k, lanes, len(inputs))
    with k.loop(low, high, CHUNK, vectorize=False) as start:
        rest = high - start
        size = (rest < CHUNK).select(rest, k.value(CHUNK, "i64"))
        for number in range(lists):
            counts[number] = k.value(0, "i64")
        with k.loop(0, size, vectorize=False) as i:
            chosen, direct = classify(k, [f(start + i) for f in inputs])
            out[start + i] = direct.cast(result)
            with k.if_(chosen < lists):
                j = chosen.cast("i64")
                at = counts[j]
                k.array(room.pointer, np.int32)[j * CHUNK + at] = i.cast("i32")
                counts[j] = at + 1
        first_list = 0
        for n, compute in zip(share, methods, strict=True):
            with k.loop(first_list, first_list + n, vectorize=False) as j:
                total = counts[j]
                indices = k.array(k.offset(room.pointer, j * CHUNK, "i32"), np.int32)
                with k.loop(0, total, lanes, vectorize=False) as first:
                    last = total - 1
                    with k.loop(0, lanes, vectorize=False) as i:
                        at = first + i
                        index = indices[(at < last).select(at, last)].cast("i64") + start
                        for f, array in zip(inputs, block.arguments, strict=True):
                            array[i] = f(index)
                    block.used = 0
                    compute(block)
                    left = total - first
                    with k.loop(0, (left < lanes).select(left, k.value(lanes, "i64")), vectorize=False) as i:
                        out[indices[first + i].cast("i64") + start] = block.result[i].cast(result)
            first_list += n
