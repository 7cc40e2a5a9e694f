"""Planning the arena: every temporary gets an offset, and temporaries that never live together share bytes.

A temporary lives from its `alloc` to its last use; a use inside a loop that the allocation is outside of counts to the loop's end.
"""

from __future__ import annotations

from typing import Any

from tracegrad.codegen.loop_ir import Alloc, Buffer, For, Function, Parallel, While, blocks_of, buffers_of

ALIGNMENT = 64


def plan_arena(function: Function) -> int:
    """Set the offsets of all temporaries; the size of the arena."""
    begin: dict[Buffer, int] = {}
    end: dict[Buffer, int] = {}
    depth_of: dict[Buffer, int] = {}
    clock = 0

    def visit(block: list[Any], loops: list[set[Buffer]]) -> None:
        nonlocal clock
        for s in block:
            clock += 1
            if type(s) is Alloc:
                begin[s.buffer] = end[s.buffer] = clock
                depth_of[s.buffer] = len(loops)
                continue
            for b in buffers_of(s):
                if b in begin:
                    end[b] = clock
                    for level in range(depth_of[b], len(loops)):
                        loops[level].add(b)
            inner = blocks_of(s)
            if not inner:
                continue
            if type(s) in (For, While, Parallel):
                used: set[Buffer] = set()
                loops.append(used)
                for blk in inner:
                    visit(blk, loops)
                loops.pop()
                clock += 1
                for b in used:
                    if depth_of[b] <= len(loops):
                        end[b] = clock
            else:
                for blk in inner:
                    visit(blk, loops)

    visit(function.body, [])
    # place the largest first: each at the lowest offset that no overlapping lifetime occupies
    placed: list[tuple[int, int, int, int]] = []  # (begin, end, offset, size)
    total = 0
    for buffer in sorted(begin, key=lambda b: -b.nbytes):
        size = -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        first, last = begin[buffer], end[buffer]
        busy = sorted((o, s) for f, l, o, s in placed if f <= last and first <= l)
        offset = 0
        for o, s in busy:
            if offset + size <= o:
                break
            offset = max(offset, o + s)
        buffer.position = offset
        placed.append((first, last, offset, size))
        total = max(total, offset + size)
    function.arena_size = total
    return total


__all__ = ["ALIGNMENT", "plan_arena"]
