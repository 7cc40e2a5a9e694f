"""Cutting a large function into many: LLVM's time grows faster than the length of a function.

A segment is a run of statements of one block that becomes a function of its own. Scalars that it needs are its arguments (through
memory when there are many); scalars that others need of it go through memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tracegrad.codegen.loop_ir import Call, Exit, For, Function, Parallel, Store, Switch, Value, While, blocks_of
from tracegrad.codegen.loop_ir import Copy as CopyStatement

LARGE_FUNCTION, SEGMENT = 1_000, 300
"""A function of more operations than the first is cut, between the statements of its outermost block, into functions of about the
second."""
LARGE_BODY, BODY_SEGMENT = 4_000, 1_000
"""The same for bodies of loops and branches, where a call costs in every iteration."""
_WEIGHTS = {"math": 30}


def operands_of(s: Any) -> Iterable[Value]:
    """The scalars that a statement itself reads (not those nested in it), the addresses of memory included."""
    kind = type(s)
    if kind is Value:
        if s.op in ("load", "address") and s.attr[0].address is not None:
            return (*s.args, s.attr[0].address)
        return s.args
    if kind is Store:
        return [v for v in (s.index, s.value, s.buffer.address) if v is not None]
    if kind is For:
        return (s.low, s.high, *s.inits, *s.yields)
    if kind is While:
        return (*s.inits, *s.yields, s.condition)
    if kind is Switch:
        return (s.selector, *[v for y in s.yields for v in y])
    if kind is Call:
        return [a for a in s.args if type(a) is Value]
    if kind is CopyStatement:
        addresses = [s.target.address, None if s.source is None else s.source.address]
        return [v for v in (s.target_index, s.source_index, *addresses) if v is not None]
    if kind is Exit:
        return (s.condition, s.code)
    return ()


def results_of(s: Any) -> Iterable[Value]:
    """The scalars that a statement gives to those after it."""
    kind = type(s)
    if kind is Value:
        return (s,)
    if kind is For or kind is Switch:
        return s.results
    if kind is While:
        return s.params
    if kind is Call and s.result is not None:
        return (s.result,)
    return ()


class Sizes:
    """How many operations every statement holds, and how often every scalar is read."""

    def __init__(self, function: Function):
        self.weights: dict[Any, int] = {}
        self.uses: dict[Value, int] = {}
        self.exits: set[Any] = set()
        self.total = self._block(function.body)

    def _block(self, block: list[Any]) -> int:
        total = 0
        uses = self.uses
        for s in block:
            for v in operands_of(s):
                uses[v] = uses.get(v, 0) + 1
            weight = _WEIGHTS.get(s.op, 1) if type(s) is Value else 1
            inner = blocks_of(s)
            for b in inner:
                weight += self._block(b)
                if inner and any(x in self.exits for x in b):
                    self.exits.add(s)
            if type(s) is Exit:
                self.exits.add(s)
            if inner:
                self.weights[s] = weight
            total += weight
        return total

    def weight(self, s: Any) -> int:
        return self.weights.get(s, _WEIGHTS.get(s.op, 1) if type(s) is Value else 1)

    def cut(self, block: list[Any], limit: int) -> list[list[Any]]:
        """The block as runs of statements of about `limit` operations; what is larger, or may leave the function, stands alone."""
        runs: list[list[Any]] = []
        current: list[Any] = []
        size = 0
        for s in block:
            weight = self.weight(s)
            if weight > limit or s in self.exits:
                if current:
                    runs.append(current)
                runs.append([s])
                current, size = [], 0
                continue
            if size + weight > limit:
                runs.append(current)
                current, size = [], 0
            current.append(s)
            size += weight
        if current:
            runs.append(current)
        return runs


def flow(run: list[Any], uses: dict[Value, int]) -> tuple[list[Value], list[Value]]:
    """(the scalars that a run reads from outside, those of its results that are read outside), given how often each is read."""
    read: dict[Value, int] = {}
    made: set[Value] = set()
    results: list[Value] = []

    def visit(block: list[Any]) -> None:
        for s in block:
            for v in operands_of(s):
                read[v] = read.get(v, 0) + 1
            made.update(results_of(s))
            kind = type(s)
            if kind is For:
                made.add(s.counter)
                made.update(s.params)
            elif kind is Parallel:
                made.add(s.counter)
            for b in blocks_of(s):
                visit(b)

    visit(run)
    for s in run:
        results.extend(results_of(s))
    needed = [v for v in read if v not in made and v.op != "const"]
    given = [v for v in results if uses.get(v, 0) > read.get(v, 0)]
    return needed, given


__all__ = ["BODY_SEGMENT", "LARGE_BODY", "LARGE_FUNCTION", "SEGMENT", "Sizes", "flow"]
