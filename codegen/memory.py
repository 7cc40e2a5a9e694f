"""Planning memory: every temporary gets a place, and temporaries that never live together share bytes.

A temporary lives from its `alloc` to its last use; a use inside a loop that the allocation is outside of counts to the loop's end.
The temporaries of parallel tasks are laid out in a frame, of which every task has one.

Where a nest reads a buffer for the last time, and each element of it only before it writes the same element of another buffer, the second
is written over the first. A chain of buffers that are written over each other is one piece of memory: that of the output, or of the
donated argument, at its end, else a place in the arena.
"""

from __future__ import annotations

from typing import Any

from tracegrad.codegen.loop_ir import Alloc, Buffer, Copy, For, Function, Parallel, While, blocks_of, buffers_of
from tracegrad.codegen.turns import written


def plan_arena(function: Function) -> int:
    """Set the offsets of all temporaries; the size of the arena."""
    plan = _Plan(function)
    plan.donated = {b for b in function.buffers if b.kind == "input" and b.spare}
    plan.begin.update(dict.fromkeys(plan.donated, 0))
    plan.end.update(dict.fromkeys(plan.donated, 0))
    plan.depth.update(dict.fromkeys(plan.donated, 0))
    plan.visit(function.body)
    function.arena_size = plan.place(0)
    return function.arena_size


def overwritten_inputs(function: Function) -> tuple[tuple[int, int | None], ...]:
    """The inputs that are overwritten, and for each the output that lies where it does, if there is one. Memory has been planned."""
    changed = written(function.body)
    changed |= {b.home for b in changed if b.home is not None}
    return tuple(
        [
            (b.position, b.home.position if b.home is not None else None)
            for b in function.buffers
            if b.kind == "input" and b.spare and (b in changed or b.home is not None)
        ]
    )


class _Frames:
    """The frames of the tasks of a parallel loop: one block of memory."""

    def __init__(self, plan: _Plan, tasks: int):
        self.plan = plan
        self.tasks = tasks
        self.size = plan.place(0)

    def put(self, offset: int) -> None:
        for thing in self.plan.begin:
            if isinstance(thing, Buffer):
                thing.position += offset
                thing.stride = self.size


class _Plan:
    """Lifetimes of what is allocated in one block and those nested in it, and their places."""

    def __init__(self, function: Function, whole: bool = True) -> None:
        self.function = function
        self.whole = whole
        self.donated: set[Buffer] = set()
        self.begin: dict[Any, int] = {}  # buffers and frames
        self.end: dict[Any, int] = {}
        self.depth: dict[Any, int] = {}
        self.loops: list[set[Any]] = []
        self.clock = 0
        self.first: dict[Buffer, int] = {}  # when a buffer is touched for the first time
        self.noted = {s for _, *ends in function.pointwise.values() for s in ends}
        self.times: dict[Any, tuple[int, int, int]] = {}  # of the ends of nests: when they begin and end, and the loops around
        self.copies: list[tuple[list[Any], Copy]] = []

    def visit(self, block: list[Any]) -> None:
        for s in block:
            self.clock += 1
            start = self.clock
            kind = type(s)
            if kind is Alloc:
                self._allocate(s.buffer)
                if s in self.noted:
                    self.times[s] = start, start, len(self.loops)
                continue
            for b in buffers_of(s):
                self._use(b)
            if kind is For or kind is While:
                used: set[Any] = set()
                self.loops.append(used)
                for inner in blocks_of(s):
                    self.visit(inner)
                self.loops.pop()
                self.clock += 1
                for b in used:
                    if self.depth[b] <= len(self.loops):
                        self.end[b] = self.clock
            elif kind is Parallel:
                self._parallel(s)
            else:
                if kind is Copy:
                    self.copies.append((block, s))
                for inner in blocks_of(s):
                    self.visit(inner)
            if s in self.noted:
                self.times[s] = start, self.clock, len(self.loops)

    def _allocate(self, thing: Any) -> None:
        self.begin[thing] = self.end[thing] = self.clock
        self.depth[thing] = len(self.loops)

    def _use(self, b: Buffer) -> None:
        for other in b.behind:
            self._use(other)
        self.first.setdefault(b, self.clock)
        if b in self.begin:
            self.end[b] = self.clock
            for level in range(self.depth[b], len(self.loops)):
                self.loops[level].add(b)

    def _parallel(self, s: Parallel) -> None:
        inner = _Plan(self.function, whole=False)
        inner.visit(s.body)
        stack = [s.body]
        while stack:
            for t in stack.pop():
                for b in buffers_of(t):
                    self._use(b)
                stack.extend(blocks_of(t))
        if inner.begin:
            self._allocate(_Frames(inner, s.count))
            self.clock += 1
            self.end[next(reversed(self.end))] = self.clock

    def _write_over(self) -> dict[Buffer, list[Buffer]]:
        """Decide what is written over what: of the first buffer of each chain, all of it."""
        chains: dict[Buffer, list[Buffer]] = {}
        head: dict[Buffer, Buffer] = {}
        for b, (candidates, first, last) in self.function.pointwise.items():
            if first not in self.times or last not in self.times or b not in self.first or b in self.donated:
                continue
            start, (_, stop, loops) = self.times[first][0], self.times[last]
            if self.first[b] < start:
                continue
            if b not in self.begin and (b.kind != "output" or loops or not self.whole):
                continue
            for a in sorted(candidates, key=lambda c: (c not in self.donated, c.name)):
                chain = chains.get(head.get(a, a), [a])
                if (
                    a in self.begin
                    and chain[-1] is a  # nothing else is written over it
                    and self.end[a] <= stop
                    and self.begin[a] < self.begin.get(b, stop)
                    and a.nbytes == b.nbytes
                    and a.dtype.itemsize == b.dtype.itemsize
                ):
                    self.function.over[b] = a
                    chain.append(b)
                    head[b] = chain[0]
                    chains[chain[0]] = chain
                    break
        return chains

    def _settle(self, chains: dict[Buffer, list[Buffer]]) -> None:
        """Give the chains that need no place in the arena their memory, the others one lifetime; drop copies of memory to itself."""
        for chain in chains.values():
            home = next((b for b in (chain[-1], chain[0]) if b.kind != "temp"), None)
            for b in chain:
                if home is None:
                    self.end[chain[0]] = self.end[chain[-1]]
                elif b is not home:
                    b.home = home
        self._reuse_inputs(chains)
        same = {b: chain[0] for chain in chains.values() for b in chain}
        for block, s in self.copies:
            if s.source is not None and s.nbytes == s.target.nbytes and same.get(s.source, s.source) is same.get(s.target):
                block.remove(s)

    def _reuse_inputs(self, chains: dict[Buffer, list[Buffer]]) -> None:
        """Let outputs, with what is written over by them, lie where donated inputs did that are not read any more by then."""
        begin = {b: self.first[b] for b in self.function.buffers if b.kind == "output" and b in self.first}
        begin.update({chain[-1]: self.begin[chain[0]] for chain in chains.values() if chain[-1].kind == "output"})
        for b, since in begin.items():
            for a in [a for a in self.function.buffers if a in self.donated and a.home is None and a.nbytes == b.nbytes]:
                chain = chains.get(a, [a])
                if self.end[chain[-1]] < since:
                    for x in chain:
                        x.home = b
                    self.function.over.setdefault(b, a)
                    break

    def place(self, base: int) -> int:
        """Set offsets, the largest first: each at the lowest that no overlapping lifetime occupies. The size of all."""
        chains = self._write_over()
        self._settle(chains)
        followers = {b for chain in chains.values() for b in chain[1:]} | self.donated
        placed: list[tuple[int, int, int, int]] = []  # (begin, end, offset, size)
        total = base

        def size_of(thing: Any) -> int:
            return thing.size * thing.tasks if isinstance(thing, _Frames) else thing.room

        for thing in sorted([b for b in self.begin if b not in followers], key=lambda b: -size_of(b)):
            if isinstance(thing, Buffer) and thing.home is not None:
                continue
            size = size_of(thing)
            first, last = self.begin[thing], self.end[thing]
            busy = sorted((o, n) for f, g, o, n in placed if f <= last and first <= g)
            offset = base
            for o, n in busy:
                if offset + size <= o:
                    break
                offset = max(offset, o + n)
            if isinstance(thing, _Frames):
                thing.put(offset)
            else:
                for member in chains.get(thing, (thing,)):
                    member.position = offset
            placed.append((first, last, offset, size))
            total = max(total, offset + size)
        return total


__all__ = ["overwritten_inputs", "plan_arena"]
