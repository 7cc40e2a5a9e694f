"""The memory of tapes, as generated code sees it.

A loop that writes tapes owns one *record*: a block that holds all that the loop keeps, step after step, and a node that describes it.
The values of one step lie together, so that a step costs a store for each value, one comparison and one addition, whatever the number
of tapes. The node, in words of eight bytes:

    0  the next node of the region        2  how many bytes the block has
    1  the block                          3  where the block ends
    4 + 3k ...  the head of tape k: its first value, the distance between two values in bytes, the number of steps

A tape is the address of its head; zero is the empty tape, which reads as zeros. All nodes that a call of a program makes are in its
*region*, a list whose head is the word behind the addresses of the program's outputs. A loop whose body makes tapes that do not leave
it notes the head of the list before an iteration and releases what is before that after it. What is left when the native function
returns, also with an error, is released by itself; but if it returns tapes, the region belongs to the caller (`runtime.tapes`).

    ptr  tg.tapes.new(ptr region, i64 tapes, i64 steps, i64 stride)   a record with room for some steps; null: no memory
    ptr  tg.tapes.grow(ptr node, ptr place, i64 stride)               more room; where `place` is now; null: no memory, too many steps
    void tg.tapes.drop(ptr region, ptr node)                          gives the block back; nobody reads it any more
    void tg.tapes.release(ptr region, i64 mark)                       gives back all records before `mark`
    ptr  tg.tapes.zeros(i64 bytes)                                    that many zeros, for good; null: no memory
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen.builder import Builder
from tracegrad.codegen.loop_ir import Affine, Buffer, Value
from tracegrad.codegen.values import View, dense_strides
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Lowering

NO_MEMORY = 2
"""What the native function returns when there is no memory for a tape, or a loop takes more steps than its counter can count."""

_WORD = np.dtype(np.int64)
_BYTE = np.dtype(np.uint8)
FIRST_BYTES, FIRST_STEPS = 768, 8
"""The room of a new record: the more of the two. It doubles when it is used up."""
_HEADS, _HEAD = 4, 3


class Layout:
    """Where the values of one step lie in a record: `offsets` of each, `stride` from one step to the next, in bytes."""

    __slots__ = ("types", "offsets", "stride")

    def __init__(self, types: Sequence[ArrayType]):
        self.types = list(types)
        self.offsets = [0] * len(self.types)
        end = 0
        widths = [min(t.dtype.itemsize, 8) for t in self.types]
        for k in sorted(range(len(widths)), key=lambda k: -widths[k]):  # so that each is aligned
            self.offsets[k] = end
            end += self.types[k].nbytes
        widest = max(widths, default=1)
        self.stride = max(-(-end // widest), 1) * widest

    @property
    def first_steps(self) -> int:
        return max(FIRST_BYTES // self.stride, FIRST_STEPS)


class Record:
    """A record that is complete. node, base: addresses; count: the number of steps, i32; heads: whether those of the tapes are written."""

    __slots__ = ("node", "base", "count", "layout", "heads")

    def __init__(self, node: Value, base: Value, count: Value, layout: Layout, heads: bool):
        self.node = node
        self.base = base
        self.count = count
        self.layout = layout
        self.heads = heads


def pointed(address: Value, dtype: np.dtype, size: int, kind: str = "pointer", name: str = "tape") -> Buffer:
    """The memory at an address."""
    return Buffer(f"{name}{address.number}", kind, -1, dtype, size, address)


def advanced(b: Builder, address: Value, nbytes: int | Value) -> Value:
    """The address so many bytes further on."""
    if nbytes == 0:
        return address
    return b.address(pointed(address, _BYTE, 0), nbytes if isinstance(nbytes, int) else Affine(((nbytes, 1),), 0))


def place_of(b: Builder, t: ArrayType, step: Value, offset: int, kind: str) -> View:
    """The memory of a value of type `t`, so many bytes behind where its step begins."""
    return View(t, pointed(advanced(b, step, offset), t.dtype, t.size, kind), 0, dense_strides(t.shape))


def as_pointer(b: Builder, word: Value) -> Value:
    return b.op("inttoptr", "ptr", word)


def as_word(b: Builder, pointer: Value) -> Value:
    return b.op("ptrtoint", "i64", pointer)


def is_zero(b: Builder, word: Value) -> Value:
    return b.op("icmp", "i1", word, b.const(word.type, 0), attr="eq")


def checked(b: Builder, pointer: Value | None) -> Value:
    """A pointer that a helper gave. The whole function ends if it is null."""
    assert pointer is not None
    b.leave_if(is_zero(b, as_word(b, pointer)), b.const("i32", NO_MEMORY))
    return pointer


def region_of(lowering: Lowering) -> Buffer:
    """The head of the list of the records of this call."""
    found = next((x for x in lowering.function.buffers if x.kind == "region"), None)
    if found is None:
        found = Buffer("region", "region", 0, _WORD, 1)
        lowering.function.buffers.append(found)
    return found


def new_record(lowering: Lowering, layout: Layout, steps: Value) -> Value:
    """The node of a new record."""
    b = lowering.builder
    region = region_of(lowering)
    args = [b.address(region), b.const("i64", len(layout.types)), steps, b.const("i64", layout.stride)]
    return checked(b, b.call("tg.tapes.new", args, "ptr", writes=[region]))


def node_words(node: Value, tapes: int = 0) -> Buffer:
    """The words of a node, without those of the tapes or with them."""
    return pointed(node, _WORD, _HEADS + _HEAD * tapes, name="node")


def block_of(b: Builder, node: Value) -> Value:
    """Where the block of a record begins."""
    return as_pointer(b, b.load(node_words(node), 1))


def end_of(b: Builder, node: Value) -> Value:
    """Where the block of a record ends."""
    return as_pointer(b, b.load(node_words(node), 3))


def with_room(b: Builder, node: Value, place: Value, end: Value, layout: Layout) -> list[Value]:
    """(where the next step goes, where the block ends), after the block has grown if it was full."""

    def grow() -> list[Value]:
        words = node_words(node)
        moved = checked(b, b.call("tg.tapes.grow", [node, place, b.const("i64", layout.stride)], "ptr", writes=[words]))
        return [moved, as_pointer(b, b.load(words, 3))]

    return b.switch(b.op("icmp", "i1", place, end, attr="eq"), [grow, lambda: [place, end]])


def finish_record(
    b: Builder, node: Value, layout: Layout, base: Value, count: Value, steps: Value, heads: bool
) -> tuple[Record, list[Value]]:
    """The record and the words of its tapes, whose heads are written if anybody may look at them.

    `count` is the i32, `steps` the i64 of one number.
    """
    words = node_words(node, len(layout.types))
    stride = b.const("i64", layout.stride)
    none = is_zero(b, steps)
    zero = b.const("i64", 0)
    tapes = []
    for k, offset in enumerate(layout.offsets):
        head = _HEADS + _HEAD * k
        if heads:
            b.store(words, head, advanced(b, base, offset))
            b.store(words, head + 1, stride)
            b.store(words, head + 2, steps)
        tapes.append(b.select(none, zero, as_word(b, b.address(words, head))))
    return Record(node, base, count, layout, heads), tapes


def drop_record(lowering: Lowering, node: Value) -> None:
    """Give back a record that nobody reads any more."""
    region = region_of(lowering)
    b = lowering.builder
    b.call("tg.tapes.drop", [b.address(region), node], writes=[region])


def opened(b: Builder, word: Value, t: ArrayType) -> tuple[Value, Value]:
    """(where the values of a tape begin, the distance between them) for a tape of which nothing is known but its element type."""
    head = pointed(as_pointer(b, word), _WORD, _HEAD, "tape", "head")

    def zeros() -> list[Value]:
        return [checked(b, b.call("tg.tapes.zeros", [b.const("i64", t.nbytes)], "ptr")), b.const("i64", 0)]

    def values() -> list[Value]:
        return [as_pointer(b, b.load(head, 0)), b.load(head, 1)]

    base, stride = b.switch(is_zero(b, word), [zeros, values])
    return base, stride


def length_of(b: Builder, word: Value) -> Value:
    """The number of steps of a tape, i32."""
    if word.is_const:
        return b.const("i32", 0)
    head = pointed(as_pointer(b, word), _WORD, _HEAD, "tape", "head")
    (steps,) = b.switch(is_zero(b, word), [lambda: [b.const("i64", 0)], lambda: [b.load(head, 2)]])
    return b.op("trunc", "i32", steps)


def releasing(lowering: Lowering, params: dict[str, Any], region: str = "body") -> Callable[[], None]:
    """What to call when an iteration of a loop with these parameters, which begins here, has made its last use of the tapes made in it."""
    if not params.get("frees", {}).get(region):
        return lambda: None
    b = lowering.builder
    head = region_of(lowering)
    mark = b.load(head, 0)

    def release() -> None:
        def give_back() -> list[Value]:
            b.call("tg.tapes.release", [b.address(head), mark], writes=[head])
            return []

        b.touch(head)
        b.switch(b.op("icmp", "i1", b.load(head, 0), mark, attr="ne"), [give_back, list])

    return release


__all__ = [
    "NO_MEMORY",
    "Layout",
    "Record",
    "advanced",
    "as_pointer",
    "block_of",
    "drop_record",
    "end_of",
    "finish_record",
    "length_of",
    "new_record",
    "opened",
    "place_of",
    "releasing",
    "with_room",
]
