"""Planning the arena: every temporary gets an offset, and temporaries that never live together share bytes.

A temporary lives from its `alloc` to its last use; a use inside a loop that the allocation is outside of counts to the loop's end.
The temporaries of parallel tasks are laid out in a frame, of which every task has one.
"""

from __future__ import annotations

from typing import Any

from tracegrad.codegen.loop_ir import Alloc, Buffer, For, Function, Parallel, While, blocks_of, buffers_of


def plan_arena(function: Function) -> int:
    """Set the offsets of all temporaries; the size of the arena."""
    plan = _Plan()
    plan.visit(function.body)
    function.arena_size = plan.place(0)
    return function.arena_size


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

    def __init__(self) -> None:
        self.begin: dict[Any, int] = {}  # buffers and frames
        self.end: dict[Any, int] = {}
        self.depth: dict[Any, int] = {}
        self.loops: list[set[Any]] = []
        self.clock = 0

    def visit(self, block: list[Any]) -> None:
        for s in block:
            self.clock += 1
            kind = type(s)
            if kind is Alloc:
                self._allocate(s.buffer)
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
                for inner in blocks_of(s):
                    self.visit(inner)

    def _allocate(self, thing: Any) -> None:
        self.begin[thing] = self.end[thing] = self.clock
        self.depth[thing] = len(self.loops)

    def _use(self, b: Buffer) -> None:
        if b in self.begin:
            self.end[b] = self.clock
            for level in range(self.depth[b], len(self.loops)):
                self.loops[level].add(b)

    def _parallel(self, s: Parallel) -> None:
        inner = _Plan()
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

    def place(self, base: int) -> int:
        """Set offsets, the largest first: each at the lowest that no overlapping lifetime occupies. The size of all."""
        placed: list[tuple[int, int, int, int]] = []  # (begin, end, offset, size)
        total = base

        def size_of(thing: Any) -> int:
            return thing.size * thing.tasks if isinstance(thing, _Frames) else thing.room

        for thing in sorted(self.begin, key=lambda b: -size_of(b)):
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
                thing.position = offset
            placed.append((first, last, offset, size))
            total = max(total, offset + size)
        return total


__all__ = ["plan_arena"]
