"""The kernels of a function at the loop level, and what they do: which statements make one, how often they run, what they compute and
touch. All of it is read off the statements themselves.

A kernel is a loop nest, a call, a copy, or a run of scalar code between them. Loops of the user's program (scan, while) and branches
whose bodies hold nests or calls are kernels with kernels inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tracegrad.codegen.loop_ir import (
    SIZES,
    Alloc,
    Buffer,
    Call,
    Comment,
    Copy,
    Exit,
    For,
    Function,
    Parallel,
    Store,
    Switch,
    Value,
    While,
    blocks_of,
)
from tracegrad.codegen.origins import OriginBuilder
from tracegrad.codegen.segments import flow, operands_of
from tracegrad.ir.program import Equation

_ARITHMETIC = {"fadd": 1, "fsub": 1, "fmul": 1, "fdiv": 1, "fneg": 1, "sqrt": 1, "fma": 2}
_ARITHMETIC.update(dict.fromkeys(("maximum", "minimum", "maxnum", "minnum"), 1))


@dataclass
class Work:
    """flops: floating-point operations, an elementary function counted as one; elementary: how many of them are such functions, by name;
    loads, stores: bytes of memory touched, each place once for a kernel. None: unknown. per_turn: it counts one turn of a loop whose
    turns are unknown."""

    flops: float | None = 0.0
    elementary: dict[str, float] = field(default_factory=dict)
    loads: float | None = 0.0
    stores: float | None = 0.0
    per_turn: bool = False


@dataclass(eq=False)
class Node:
    """A kernel. kind: "nest", "scalar", "library", "routine", "callback", "copy", "zero", or of those with kernels inside "loop",
    "while", "branches"; runs: how often it runs in a call of the function, None where that is known only then."""

    number: int
    kind: str
    statements: list[Any]
    equations: dict[Equation, None] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    runs: float | None = 1.0
    parallel: bool = False
    """Whether it runs inside of a task."""


class Kernels:
    """The tree of a function's kernels, and of every statement the kernel it belongs to."""

    def __init__(self, function: Function, builder: OriginBuilder):
        self.function = function
        self.builder = builder
        self.nodes: list[Node] = []
        self.owner: dict[Any, Node] = {}
        self.roots = self._block(function.body, 1.0, False)

    # which statements make a kernel

    def _block(self, block: list[Any], runs: float | None, parallel: bool) -> list[Node]:
        found: list[Node] = []
        by_group: dict[Any, Node] = {}
        scalars: list[Any] = []

        def scalar_code() -> None:
            if scalars:
                found.append(self._node("scalar", list(scalars), runs, parallel))
                scalars.clear()

        inside = self._feeding(block)
        for s in block:
            kind = type(s)
            if kind is Value or kind is Store:
                if s not in inside and not _is_free(s):
                    scalars.append(s)
            elif kind in (Alloc, Comment, Exit):
                continue
            elif kind is Switch and not any(_is_kernel(t) for t in _within(s)):
                scalars.append(s)
            else:
                scalar_code()
                group = self.builder.groups.get(s)
                node = by_group.get(group) if group is not None and kind in (For, Parallel) else None
                if node is not None and node is found[-1]:
                    node.statements.append(s)
                    self.owner[s] = node
                else:
                    node = self._node(self._kind(s), [s], runs, parallel)
                    found.append(node)
                    if group is not None:
                        by_group[group] = node
                for v in [v for v, user in inside.items() if user is s]:
                    self.owner[v] = node
                    node.statements.insert(0, v)
                if node.kind in ("loop", "while", "branches"):
                    self._open(node, s)
        scalar_code()
        for node in found:
            self._attribute(node)
        return found

    def _node(self, kind: str, statements: list[Any], runs: float | None, parallel: bool) -> Node:
        node = Node(len(self.nodes) + 1, kind, statements, runs=runs, parallel=parallel)
        self.nodes.append(node)
        for s in statements:
            self.owner[s] = node
        return node

    def _kind(self, s: Any) -> str:
        kind = type(s)
        if kind is Copy:
            return "zero" if s.source is None else "copy"
        if kind is Call:
            return (
                "routine" if s.symbol in self.function.helpers else "callback" if s.symbol == "tg.runtime.callback" else "library"
            )
        nested = any(_is_kernel(t) for t in _within(s))
        if kind is While:
            return "while" if nested else "nest"
        if kind is Switch:
            return "branches"
        inner = next((t for t in s.body if type(t) is For), s) if kind is Parallel else s
        equation, memory = self.builder.opened.get(inner, (None, False))
        if nested and memory and equation is not None and any(True for _ in equation.regions()):
            return "loop"
        return "nest"

    def _open(self, node: Node, s: Any) -> None:
        runs: float | None = node.runs
        parallel = node.parallel
        body = blocks_of(s)
        if type(s) is Parallel:
            parallel = True
            inner = next(t for t in s.body if type(t) is For)
            body = [inner.body]
            trips = trips_of(inner, {s.counter: float(s.count)})
            runs = None if runs is None or trips is None else runs * trips * s.count
        elif type(s) is For:
            trips = trips_of(s, {})
            runs = None if runs is None or trips is None else runs * trips
        else:
            runs = None
        for b in body:
            node.children.extend(self._block(b, runs, parallel))

    def _feeding(self, block: list[Any]) -> dict[Value, Any]:
        """The scalars of a block that only one loop, call or copy after them needs: they belong to it."""
        user: dict[Value, Any] = {}
        shared: set[Value] = set()
        feeding: dict[Value, Any] = {}

        def used(values: Iterable[Any], by: Any) -> None:
            for v in values:
                if user.setdefault(v, by) is not by:
                    shared.add(v)

        for s in reversed(block):
            if type(s) is Value:
                if s in user and s not in shared and user[s] is not block:
                    feeding[s] = user[s]
                    used(s.args, user[s])
                else:
                    used(s.args, block)
            elif type(s) in (For, Parallel, While, Call, Copy) or type(s) is Switch and any(_is_kernel(t) for t in _within(s)):
                used(flow([s], {})[0], s)
            else:
                used(operands_of(s) if type(s) is Store else flow([s], {})[0], block)
        return feeding

    def _attribute(self, node: Node) -> None:
        origins = self.builder.origins
        for s in self.own_statements(node):
            node.equations.update(origins.get(s, {}))
            group = self.builder.groups.get(s)
            for root in group.roots if group is not None else ():
                if root in self.builder.roots:
                    node.equations[self.builder.roots[root]] = None
        # what is written to memory for an equation is not that equation's work, unless it only moves what is there
        readers = (
            {self.builder.readers[s] for s in node.statements if s in self.builder.readers} if node.kind != "copy" else set()
        )
        if node.equations.keys() - readers:
            node.equations = {e: None for e in node.equations if e not in readers}
        if node.kind in ("loop", "while", "branches"):
            equation = self.builder.opened.get(_opener(node), (None, True))[0]
            node.equations = {} if equation is None else {equation: None}

    def own_statements(self, node: Node) -> Iterator[Any]:
        """Every statement of a kernel, those of kernels inside of it left out."""
        inner = {s for child in node.children for s in child.statements}
        for top in node.statements:
            yield top
            stack = [iter(b) for b in blocks_of(top)]
            while stack:
                for s in stack.pop():
                    if s not in inner:
                        yield s
                        stack.extend(iter(b) for b in blocks_of(s))

    # what a kernel does in one run

    def work(self, node: Node) -> Work:
        """What one run of a kernel computes and touches, kernels inside of it left out."""
        counter = _Counter(set() if not node.children else {s for child in node.children for s in child.statements})
        for s in node.statements:
            counter.visit(s, 1.0, {})
        return counter.result()


def _opener(node: Node) -> Any:
    s = node.statements[-1]
    return next((t for t in s.body if type(t) is For), s) if type(s) is Parallel else s


def _within(s: Any) -> Iterator[Any]:
    for block in blocks_of(s):
        for t in block:
            yield t
            yield from _within(t)


def _is_kernel(s: Any) -> bool:
    return type(s) in (For, Parallel, Call, Copy, While)


def _is_free(s: Any) -> bool:
    return type(s) is Value and (s.attr == "index" or s.op in ("address", "const", "table"))


def trips_of(s: For, outer: dict[Value, float]) -> float | None:
    """How often a loop runs, the mean over the loops around it (`outer`, the trips of their counters); None where that is unknown."""
    if s.low.is_const and s.high.is_const:
        return float(max(1, -(-(s.high.attr - s.low.attr) // s.step)))
    # a part of a range: the parts of all turns of the loop that says which part make the whole
    if s.counter.low is not None and s.counter.high is not None:
        around = [outer[v] for v in counters_of(s.low) if v in outer]
        if len(around) == 1:
            return (s.counter.high - s.counter.low + 1) / around[0]
    return None


def counters_of(v: Value) -> set[Value]:
    """The parameters of loops that a scalar depends on."""
    found: set[Value] = set()
    stack, seen = [v], {v}
    while stack:
        x = stack.pop()
        if x.op == "param":
            found.add(x)
        for a in x.args:
            if a not in seen:
                seen.add(a)
                stack.append(a)
    return found


def _strides(v: Value) -> dict[Value, int] | None:
    """A position as a sum of parameters with factors; None if it is something else."""
    if v.op == "const":
        return {}
    if v.op == "add":
        a, b = _strides(v.args[0]), _strides(v.args[1])
        return None if a is None or b is None else {k: a.get(k, 0) + b.get(k, 0) for k in (*a, *b)}
    if v.op == "mul" and v.args[1].op == "const":
        inner = _strides(v.args[0])
        return None if inner is None else {k: c * v.args[1].attr for k, c in inner.items()}
    return {v: 1} if v.op == "param" else None


class _Counter:
    """Adds up what statements do, loops counted with their trips."""

    def __init__(self, skipped: set[Any]):
        self.skipped = skipped
        self.flops: float | None = 0.0
        self.elementary: dict[str, float] = {}
        self.places: dict[tuple[Buffer, bool], dict[Any, tuple[set[int], dict[Value, float]]]] = {}
        self.extra = {False: 0.0, True: 0.0}
        self.unknown = False
        self.per_turn = False

    def visit(self, s: Any, times: float, trips: dict[Value, float]) -> None:
        if s in self.skipped:
            return
        kind = type(s)
        if kind is Value:
            self._value(s, times, trips)
        elif kind is Store:
            self._touch(s.buffer, True, s.index, s.offset, trips)
        elif kind is For:
            n = trips_of(s, trips)
            if n is None:
                self.flops, self.unknown = None, True
                n = 1.0
            # a part of a range: all turns of the loops around it together reach all of it
            whole = s.counter.low is not None and s.counter.high is not None and not s.low.is_const
            inner = {**trips, s.counter: float(s.counter.high - s.counter.low + 1) if whole else n}  # type: ignore[operator]
            for t in s.body:
                self.visit(t, times * n, inner)
        elif kind is Parallel:
            for t in s.body:
                self.visit(t, times * s.count, {**trips, s.counter: float(s.count)})
        elif kind is While:
            self.per_turn = True
            for t in (*s.head, *s.body):
                self.visit(t, times, trips)
        elif kind is Switch:
            self._branches(s, times, trips)
        elif kind is Call:
            flops = _call_flops(s)
            self.flops = None if flops is None or self.flops is None else self.flops + times * flops
            for write, buffers in ((False, s.reads), (True, results_of_call(s))):
                for b in buffers:
                    self._touch(b, write, None, -1, trips)
        elif kind is Copy:
            self.extra[True] += times * s.nbytes
            if s.source is not None:
                self.extra[False] += times * s.nbytes

    def _branches(self, s: Switch, times: float, trips: dict[Value, float]) -> None:
        """The dearest branch counts; what any of them touches is touched."""
        before = self.flops
        found: list[float | None] = []
        for branch in s.branches:
            self.flops = 0.0
            for t in branch:
                self.visit(t, times, trips)
            found.append(self.flops)
        known = [f for f in found if f is not None]
        self.flops = None if before is None or len(known) < len(found) else before + max(known, default=0.0)

    def _value(self, v: Value, times: float, trips: dict[Value, float]) -> None:
        if v.op == "load":
            buffer, offset = v.attr
            self._touch(buffer, False, v.args[0] if v.args else None, offset, trips)
        elif v.op in ("math", "scalar math"):
            self.elementary[v.attr] = self.elementary.get(v.attr, 0.0) + times
            self._add(times)
        elif v.op in _ARITHMETIC and v.type[0] == "f":
            self._add(times * _ARITHMETIC[v.op])

    def _add(self, flops: float) -> None:
        if self.flops is not None:
            self.flops += flops

    def _touch(self, buffer: Buffer, write: bool, index: Value | None, offset: int, trips: dict[Value, float]) -> None:
        places = self.places.setdefault((buffer, write), {})
        found = places.get(index)
        if found is None:
            found = places[index] = (set(), {})
        found[0].add(offset)
        if index is not None:
            for c in counters_of(index):
                if c in trips:
                    found[1][c] = trips[c]

    def _bytes(self, buffer: Buffer, places: dict[Any, tuple[set[int], dict[Value, float]]]) -> float:
        size = SIZES[buffer.scalar]
        total = 0.0
        for index, (offsets, trips) in places.items():
            if -1 in offsets and index is None:
                return float(buffer.nbytes)
            points = 1.0
            for n in trips.values():
                points *= n
            points *= len(offsets)
            strides = _strides(index) if index is not None else {}
            if strides is not None:
                reach = sum(abs(c) * (trips.get(v, 1.0) - 1) for v, c in strides.items()) + max(offsets) - min(offsets) + 1
                points = min(points, reach)
            total += points * size
        return min(total, float(buffer.nbytes)) if buffer.kind not in ("pointer", "tape", "slots", "region") else total

    def result(self) -> Work:
        sums = dict(self.extra)
        for (buffer, write), places in self.places.items():
            sums[write] += self._bytes(buffer, places)
        known = not self.unknown
        return Work(self.flops, self.elementary, sums[False] if known else None, sums[True] if known else None, self.per_turn)


def results_of_call(s: Call) -> tuple[Buffer, ...]:
    """What a call writes, the scratch memory of a routine of ours left out, which comes last."""
    scratch = len(s.writes) > 1 and not s.symbol.startswith("tg.") and s.writes[-1].dtype == "uint8"
    return s.writes[:-1] if scratch else s.writes


def _call_flops(s: Call) -> float | None:
    """The operations of a call: as it says itself, or for BLAS from the sizes that it is given; None for other calls."""
    if s.flops is not None:
        return s.flops
    letter, name = s.symbol.rpartition(".")[2][:1], s.symbol.rpartition(".")[2][1:]
    if not s.symbol.startswith("tg.blas.") or name not in ("gemm", "gemv"):
        return None
    product = 2.0 * (4 if letter in "cz" else 1)
    for a in s.args[2:5] if name == "gemm" else s.args[1:3]:
        if a.op == "const":
            product *= a.attr[1]
        elif a.op == "table":
            product *= sum(a.attr[1]) / len(a.attr[1])
        else:
            return None
    return product


__all__ = ["Kernels", "Node", "Work", "counters_of", "results_of_call", "trips_of"]
