"""Carries that change places.

A large carry that a turn of a loop cannot write where it lies, since neighbours of an element are still to be read, is written to a second
buffer. Nothing is copied back: the loop carries the addresses of the buffers, and exchanges them. So do carries that a turn passes on
from one to another, such as the last two states of a wave.

    copy in0[0] to t1[0]
    for %t in 0..99 carry(%a: ptr = t1, %b: ptr = out0) {
      ... load out0'[...] ... store t1'[...]          (out0' is the memory at %a, t1' that at %b)
      yield %b, %a
    }

Where the number of turns is known the carry begins where it must for the last turn to write its final place. An argument that only the
first turn reads need not be copied first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracegrad.codegen.loop_ir import Alloc, Buffer, Call, Copy, For, Store, Value, While, blocks_of, buffers_of
from tracegrad.codegen.values import View, dense_strides

if TYPE_CHECKING:
    from tracegrad.codegen.control_flow import Carry
    from tracegrad.codegen.lower import Context

SMALLEST = 4096
"""Bytes: less is copied sooner than LLVM finds out what two addresses have to do with each other."""


def may_move(carry: Carry, view: View, other: View, block: list[Any]) -> bool:
    """Whether the next value of a carry at `view` may stay at `other`: another carry's memory, or memory of the loop's body, `block`."""
    a, b = view.buffer, other.buffer
    return (
        carry.may_move
        and a.nbytes >= SMALLEST
        and a.kind in ("temp", "output", "input")
        and view.is_whole
        and other.is_whole
        and a.nbytes == b.nbytes
        and a.dtype == b.dtype
        and (b in carry.buffers or b.kind == "temp" and any(type(s) is Alloc and s.buffer is b for s in block))
    )


def exchange(ctx: Context, carry: Carry, loop: For | While, turns: int | None) -> None:
    """Have a loop, the last statement so far, exchange the buffers of carries that have moved in its body. turns: how many it takes, if
    that is known. The carries are left at their final places."""
    following = _closed(carry.moves)
    while following:
        cycle = [next(iter(following))]
        while following[cycle[-1]] is not cycle[0]:
            cycle.append(following[cycle[-1]])
        _exchange(ctx, carry, loop, turns, cycle)
        for x in cycle:
            del following[x]


def _closed(moves: dict[Buffer, Buffer]) -> dict[Buffer, Buffer]:
    """Of every buffer the one whose address it has in the next turn: memory of the body gets what is left over by the carries."""
    following = dict(moves)
    came_from = {b: a for a, b in moves.items()}
    for last in moves.values():
        if last not in moves:
            first = last
            while first in came_from:
                first = came_from[first]
            following[last] = first
    return following


def _exchange(ctx: Context, carry: Carry, loop: For | While, turns: int | None, cycle: list[Buffer]) -> None:
    b = ctx.b
    items = b.scopes[-1].items
    body = loop.body
    for s in [s for s in body if type(s) is Alloc and s.buffer in cycle]:
        body.remove(s)
        items.insert(_place_before(items, loop, carry, cycle), s)
    carried = [x for x in cycle if x in carry.moves]
    source = _source(carry, items, loop, cycle)
    n = len(cycle)
    start = list(cycle)
    if source is not None:
        assert source.source is not None
        items.remove(source)
        cycle = cycle if cycle[0] in carry.moves else cycle[::-1]
        start = [source.source, cycle[0] if turns is None or turns % 2 else cycle[1]]
    elif turns is not None:
        wanted = [cycle[(k - turns) % n] for k in range(n)]
        if all(w is x or _is_made(carry, items, x) for x, w in zip(cycle, wanted) if x in carried):
            start = wanted
            new = {x: w for x, w in zip(cycle, wanted) if w is not x}
            for x in carried:
                replace(carry.made[x], {k: v for k, v in new.items() if k is x})
    level = b.level
    at = items.index(loop)
    addresses = [b._new("address", "ptr", (), (x, 0), level) for x in start]
    items[at:at] = addresses
    inside = level if type(loop) is While else level + 1
    params = [b._new("param", "ptr", (), None, inside) for _ in cycle]
    behind = frozenset([*cycle, *start])
    named = {x: Buffer(f"{x.name}'", "pointer", -1, x.dtype, x.size, p) for x, p in zip(cycle, params)}
    for q in named.values():
        q.behind = behind
    for block in blocks_of(loop):
        replace(block, named)
    yields = [params[(k + 1) % n] for k in range(n)]
    if source is not None:
        # The argument is read in the first turn only; then the other buffer takes its place.
        other = b._new("address", "ptr", (), (cycle[1] if start[1] is cycle[0] else cycle[0], 0), level)
        items.insert(at, other)
        first = b._new("icmp", "i1", (params[0], addresses[0]), "eq", level + 1)
        yields[1] = b._new("select", "ptr", (first, other, params[0]), None, level + 1)
        body.extend((first, yields[1]))
    loop.params.extend(params)
    loop.inits.extend(addresses)
    loop.yields.extend(yields)
    b.function.exchanged.setdefault(loop, []).append((tuple(cycle), source.source if source is not None else None))
    if type(loop) is For:
        assert turns is not None
        loop.results.extend([b._new("param", "ptr", (), None, level) for _ in params])
        finals = {x: x if source is not None else start[(k + turns) % n] for k, x in enumerate(cycle)}
    else:
        finals = {x: x for x in cycle}
        _bring_home(ctx, [(x, named[x]) for x in cycle if x in carried])
    for k, view in enumerate(carry.views):
        if view is not None and view.buffer in carried:
            carry.views[k] = View(view.type, finals[view.buffer], 0, dense_strides(view.type.shape))
    for x in cycle:
        b.touch(x)


def _place_before(items: list[Any], loop: Any, carry: Carry, cycle: list[Buffer]) -> int:
    """Where a block's statements begin that make the first values of the carries, or else the loop."""
    made = [s for x in cycle for s in carry.made.get(x, ())]
    return min([k for k, s in enumerate(items) if s is loop or s in made])


def _is_made(carry: Carry, items: list[Any], x: Buffer) -> bool:
    """Whether nothing before a loop (the last of the statements) touches a carry's memory but what writes its first value."""
    made = carry.made[x]
    return bool(made) and not any(x in touched([s]) for s in items[:-1] if s not in made)


def _source(carry: Carry, items: list[Any], loop: For | While, cycle: list[Buffer]) -> Copy | None:
    """The copy that makes the first value of a carry, if that can be left out: of memory that nobody writes, to memory that a turn only
    reads."""
    if len(cycle) != 2:
        return None
    carried = [x for x in cycle if x in carry.moves]
    made = carry.made.get(carried[0], [])
    if len(carried) != 1 or len(made) != 1 or type(made[0]) is not Copy:
        return None
    s = made[0]
    if s.source is None or s.source.mutable or s.nbytes != s.target.nbytes or s.nbytes != s.source.nbytes:
        return None
    if any(carried[0] in written(block) for block in blocks_of(loop)) or not _is_made(carry, items, carried[0]):
        return None
    return s


def _bring_home(ctx: Context, carries: list[tuple[Buffer, Buffer]]) -> None:
    """After a loop of unknown length: bring carries to their places, where the last turn has not written them there."""
    b = ctx.b
    home, last = carries[0]
    assert last.address is not None
    elsewhere = b.op("icmp", "i1", last.address, b.address(home), attr="ne")
    aside = [b.temporary(x.dtype, x.size) if len(carries) > 1 else None for x, _ in carries]

    def move() -> list[Value]:
        for (x, q), t in zip(carries, aside):
            b.copy(x if t is None else t, 0, q, 0, x.nbytes)
        for (x, _), t in zip(carries, aside):
            if t is not None:
                b.copy(x, 0, t, 0, x.nbytes)
        return []

    b.switch(elsewhere, [move, lambda: []])


def replace(block: list[Any], new: dict[Buffer, Buffer]) -> None:
    """Have all statements of a block use other buffers."""
    for s in block:
        kind = type(s)
        if kind is Value:
            if s.op == "load" or s.op == "address":
                buffer, offset = s.attr
                s.attr = (_replaced(buffer, new), offset)
        elif kind is Store:
            s.buffer = _replaced(s.buffer, new)
        elif kind is Copy:
            s.target = _replaced(s.target, new)
            if s.source is not None:
                s.source = _replaced(s.source, new)
        elif kind is Call:
            s.reads = tuple([_replaced(x, new) for x in s.reads])
            s.writes = tuple([_replaced(x, new) for x in s.writes])
        for inner in blocks_of(s):
            replace(inner, new)


def _replaced(buffer: Buffer, new: dict[Buffer, Buffer]) -> Buffer:
    if buffer.behind and not buffer.behind.isdisjoint(new):
        # what an inner loop exchanges may be any of what this one does
        buffer.behind = buffer.behind.union(*[q.behind for x, q in new.items() if x in buffer.behind])
    return new.get(buffer, buffer)


def written(block: list[Any]) -> set[Buffer]:
    """The buffers that a block may write, those behind addresses included."""
    found: set[Buffer] = set()
    for s in block:
        kind = type(s)
        targets: tuple[Buffer, ...] = ()
        if kind is Store:
            targets = (s.buffer,)
        elif kind is Copy:
            targets = (s.target,)
        elif kind is Call:
            targets = (*s.reads, *s.writes)  # addresses do not say what is done through them
        for x in targets:
            found.add(x)
            found.update(x.behind)
        for inner in blocks_of(s):
            found |= written(inner)
    return found


def touched(block: list[Any]) -> set[Buffer]:
    """The buffers that a block reads or writes, those behind addresses included."""
    found: set[Buffer] = set()
    for s in block:
        for x in buffers_of(s):
            found.add(x)
            found.update(x.behind)
        for inner in blocks_of(s):
            found |= touched(inner)
    return found


__all__ = ["exchange", "may_move", "replace", "written"]
