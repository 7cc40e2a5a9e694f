"""Memory for tapes, in native code: what compiled programs call to get records of them and to give them back.

`codegen.tape_memory` says what the functions do and how a record is laid out. A record begins small, in one allocation with its node, and grows
by doubling. Large blocks are not returned to the system at once: fresh memory costs a page fault for each page, which takes several times
as long as a loop needs to write it. They are kept, up to a bound, for the next loops; one that grows beyond the small sizes takes the
largest that is there, so that it need not grow again.
"""

from __future__ import annotations

import ctypes
import os
import re
from functools import lru_cache
from typing import Any

from tracegrad.runtime import routines
from tracegrad.runtime.pool import limit

MOST_STEPS = (1 << 31) - 1
"""Steps are counted in 32 bits."""
LARGE = 1 << 17
"""Bytes of the blocks that are kept."""
HUGE = 1 << 22
"""Bytes from which on the system is asked for large pages."""
_SLOTS = 64
_INLINE = 1024
"""Up to so many bytes of values lie behind their node, in one allocation; blocks of their own are larger."""
_NODE = 64
"""What a node counts for among the bytes that live."""

_state = (ctypes.c_int64 * 3)()
"""Bytes of records that live; bytes of blocks that are kept; how many of these there may be."""

_TEXT = """
@state = internal global ptr null
@zeros = internal global ptr null
@zero_bytes = internal global i64 0
@lock = internal global i32 0
@blocks = internal global [SLOTS x ptr] zeroinitializer
@sizes = internal global [SLOTS x i64] zeroinitializer

declare ptr @malloc(i64)
declare ptr @calloc(i64, i64)
declare ptr @realloc(ptr, i64)
declare void @free(ptr)
declare i32 @sched_yield()
declare i32 @madvise(ptr, i64, i32)
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
declare { i64, i1 } @llvm.umul.with.overflow.i64(i64, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define void @tg.tapes.begin(ptr %state) nounwind {
  store ptr %state, ptr @state, align 8
  store atomic i32 0, ptr @lock release, align 4
  ret void
}

define internal void @count(i64 %bytes) nounwind {
  %live = load ptr, ptr @state, align 8
  %b = atomicrmw add ptr %live, i64 %bytes monotonic
  ret void
}

define internal void @take_lock() nounwind {
entry:
  br label %try
try:
  %pair = cmpxchg ptr @lock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %have, label %wait
wait:
  %y = call i32 @sched_yield()
  br label %try
have:
  ret void
}

; A block that is kept, of at least so many bytes: the largest or the smallest of these; null if there is none.
define internal ptr @reuse(i64 %bytes, i1 %largest, ptr %size) nounwind noinline {
entry:
  call void @take_lock()
  br label %look
look:
  %k = phi i64 [ 0, %entry ], [ %k.next, %next ]
  %best = phi i64 [ -1, %entry ], [ %best.next, %next ]
  %best.size = phi i64 [ 0, %entry ], [ %best.size.next, %next ]
  %at = getelementptr [SLOTS x i64], ptr @sizes, i64 0, i64 %k
  %have = load i64, ptr %at, align 8
  %fits = icmp uge i64 %have, %bytes
  %first = icmp eq i64 %best, -1
  %larger = icmp ugt i64 %have, %best.size
  %smaller = icmp ult i64 %have, %best.size
  %other = select i1 %largest, i1 %larger, i1 %smaller
  %better = or i1 %first, %other
  %chosen = and i1 %fits, %better
  br label %next
next:
  %best.next = select i1 %chosen, i64 %k, i64 %best
  %best.size.next = select i1 %chosen, i64 %have, i64 %best.size
  %k.next = add i64 %k, 1
  %more = icmp ult i64 %k.next, SLOTS
  br i1 %more, label %look, label %done
done:
  %none = icmp eq i64 %best.next, -1
  br i1 %none, label %end, label %found
found:
  %size.at = getelementptr [SLOTS x i64], ptr @sizes, i64 0, i64 %best.next
  store i64 0, ptr %size.at, align 8
  %block.at = getelementptr [SLOTS x ptr], ptr @blocks, i64 0, i64 %best.next
  %block = load ptr, ptr %block.at, align 8
  store i64 %best.size.next, ptr %size, align 8
  %state = load ptr, ptr @state, align 8
  %kept.at = getelementptr i64, ptr %state, i64 1
  %kept = load i64, ptr %kept.at, align 8
  %left = sub i64 %kept, %best.size.next
  store i64 %left, ptr %kept.at, align 8
  br label %end
end:
  %result = phi ptr [ null, %done ], [ %block, %found ]
  store atomic i32 0, ptr @lock release, align 4
  ret ptr %result
}

; Give a block back: to be kept, if it is large and there is room for it.
define internal void @give(ptr %block, i64 %bytes) nounwind noinline {
entry:
  %small = icmp ult i64 %bytes, LARGE
  br i1 %small, label %free, label %try
try:
  call void @take_lock()
  %state = load ptr, ptr @state, align 8
  %kept.at = getelementptr i64, ptr %state, i64 1
  %kept = load i64, ptr %kept.at, align 8
  %limit.at = getelementptr i64, ptr %state, i64 2
  %limit = load i64, ptr %limit.at, align 8
  %sum = add i64 %kept, %bytes
  %over = icmp ugt i64 %sum, %limit
  br i1 %over, label %full, label %look
look:
  %k = phi i64 [ 0, %try ], [ %k.next, %next ]
  %at = getelementptr [SLOTS x i64], ptr @sizes, i64 0, i64 %k
  %have = load i64, ptr %at, align 8
  %unused = icmp eq i64 %have, 0
  br i1 %unused, label %keep, label %next
next:
  %k.next = add i64 %k, 1
  %more = icmp ult i64 %k.next, SLOTS
  br i1 %more, label %look, label %full
keep:
  store i64 %bytes, ptr %at, align 8
  %block.at = getelementptr [SLOTS x ptr], ptr @blocks, i64 0, i64 %k
  store ptr %block, ptr %block.at, align 8
  store i64 %sum, ptr %kept.at, align 8
  store atomic i32 0, ptr @lock release, align 4
  ret void
full:
  store atomic i32 0, ptr @lock release, align 4
  br label %free
free:
  call void @free(ptr %block)
  ret void
}

; Return what is kept to the system.
define void @tg.tapes.clear() nounwind {
entry:
  %size = alloca i64, align 8
  br label %again
again:
  %block = call ptr @reuse(i64 1, i1 true, ptr %size)
  %none = icmp eq ptr %block, null
  br i1 %none, label %end, label %free
free:
  call void @free(ptr %block)
  br label %again
end:
  ret void
}

define internal void @advise(ptr %block, i64 %bytes) nounwind {
entry:
  %few = icmp ult i64 %bytes, HUGE
  br i1 %few, label %end, label %ask
ask:
  %word = ptrtoint ptr %block to i64
  %up = add i64 %word, 4095
  %page = and i64 %up, -4096
  %start = inttoptr i64 %page to ptr
  %length = sub i64 %bytes, 4096
  %answer = call i32 @madvise(ptr %start, i64 %length, i32 14)
  br label %end
end:
  ret void
}

; A large block from the system, with the contents of `old` (which moves; or null).
define internal ptr @fresh(i64 %bytes, ptr %old, ptr %size) nounwind noinline {
entry:
  store i64 %bytes, ptr %size, align 8
  %new = call ptr @realloc(ptr %old, i64 %bytes)
  %none = icmp eq ptr %new, null
  br i1 %none, label %clear, label %good
clear:
  call void @tg.tapes.clear()
  %again = call ptr @realloc(ptr %old, i64 %bytes)
  %never = icmp eq ptr %again, null
  br i1 %never, label %fail, label %good
good:
  %block = phi ptr [ %new, %entry ], [ %again, %clear ]
  call void @advise(ptr %block, i64 %bytes)
  ret ptr %block
fail:
  ret ptr null
}

; How many bytes of a block are for steps: whole ones, and no more of them than there may be.
define internal i64 @room(i64 %bytes, i64 %stride) nounwind {
  %steps = udiv i64 %bytes, %stride
  %most = call i64 @llvm.umin.i64(i64 %steps, i64 MOST_STEPS)
  %room = mul i64 %most, %stride
  ret i64 %room
}

define ptr @tg.tapes.new(ptr %region, i64 %tapes, i64 %steps, i64 %stride) nounwind {
entry:
  %size = alloca i64, align 8
  %product = call { i64, i1 } @llvm.umul.with.overflow.i64(i64 %steps, i64 %stride)
  %bytes = extractvalue { i64, i1 } %product, 0
  %over = extractvalue { i64, i1 } %product, 1
  br i1 %over, label %fail, label %take
take:
  %heads = mul i64 %tapes, 24
  %head = add i64 %heads, 32
  %separate = icmp ugt i64 %bytes, INLINE
  br i1 %separate, label %apart, label %together
together:
  %whole = add i64 %head, %bytes
  %node.t = call ptr @malloc(i64 %whole)
  %none.t = icmp eq ptr %node.t, null
  %block.t = getelementptr i8, ptr %node.t, i64 %head
  br i1 %none.t, label %fail, label %link
apart:
  %node.a = call ptr @malloc(i64 %head)
  %none.a = icmp eq ptr %node.a, null
  br i1 %none.a, label %fail, label %block
block:
  %little = icmp ult i64 %bytes, LARGE
  br i1 %little, label %plain, label %kept
plain:
  %block.p = call ptr @malloc(i64 %bytes)
  br label %check
kept:
  %block.k = call ptr @reuse(i64 %bytes, i1 false, ptr %size)
  %without = icmp eq ptr %block.k, null
  br i1 %without, label %fresh, label %reused
reused:
  %size.k = load i64, ptr %size, align 8
  %room.k = call i64 @room(i64 %size.k, i64 %stride)
  br label %check
fresh:
  %block.f = call ptr @fresh(i64 %bytes, ptr null, ptr %size)
  br label %check
check:
  %block.c = phi ptr [ %block.p, %plain ], [ %block.k, %reused ], [ %block.f, %fresh ]
  %bytes.c = phi i64 [ %bytes, %plain ], [ %size.k, %reused ], [ %bytes, %fresh ]
  %room.c = phi i64 [ %bytes, %plain ], [ %room.k, %reused ], [ %bytes, %fresh ]
  %none.c = icmp eq ptr %block.c, null
  br i1 %none.c, label %undo, label %link
undo:
  call void @free(ptr %node.a)
  br label %fail
link:
  %node = phi ptr [ %node.t, %together ], [ %node.a, %check ]
  %place = phi ptr [ %block.t, %together ], [ %block.c, %check ]
  %has = phi i64 [ %bytes, %together ], [ %bytes.c, %check ]
  %room = phi i64 [ %bytes, %together ], [ %room.c, %check ]
  %next = load ptr, ptr %region, align 8
  store ptr %next, ptr %node, align 8
  %node.1 = getelementptr ptr, ptr %node, i64 1
  store ptr %place, ptr %node.1, align 8
  %node.2 = getelementptr ptr, ptr %node, i64 2
  store i64 %has, ptr %node.2, align 8
  %node.3 = getelementptr ptr, ptr %node, i64 3
  %end = getelementptr i8, ptr %place, i64 %room
  store ptr %end, ptr %node.3, align 8
  store ptr %node, ptr %region, align 8
  %counted = add i64 %has, NODE
  call void @count(i64 %counted)
  ret ptr %node
fail:
  ret ptr null
}

define ptr @tg.tapes.grow(ptr %node, ptr %place, i64 %stride) nounwind {
entry:
  %size = alloca i64, align 8
  %node.1 = getelementptr ptr, ptr %node, i64 1
  %block = load ptr, ptr %node.1, align 8
  %node.2 = getelementptr ptr, ptr %node, i64 2
  %bytes = load i64, ptr %node.2, align 8
  %from = ptrtoint ptr %block to i64
  %to = ptrtoint ptr %place to i64
  %used = sub i64 %to, %from
  %limit = call i64 @room(i64 9223372036854775807, i64 %stride)
  %twice = shl i64 %used, 1
  %apart = call i64 @llvm.umax.i64(i64 %twice, i64 FIRST)
  %wanted = call i64 @llvm.umin.i64(i64 %apart, i64 %limit)
  %enough = icmp ugt i64 %wanted, %used
  br i1 %enough, label %which, label %fail
which:
  %inline = icmp ule i64 %bytes, INLINE
  %little = icmp ult i64 %wanted, LARGE
  br i1 %little, label %small, label %large
small:
  br i1 %inline, label %first, label %again
first:
  %block.n = call ptr @malloc(i64 %wanted)
  %none.n = icmp eq ptr %block.n, null
  br i1 %none.n, label %fail, label %copy.n
copy.n:
  call void @llvm.memcpy.p0.p0.i64(ptr %block.n, ptr %block, i64 %used, i1 false)
  br label %note
again:
  %block.r = call ptr @realloc(ptr %block, i64 %wanted)
  %none.r = icmp eq ptr %block.r, null
  br i1 %none.r, label %fail, label %note
large:
  %block.k = call ptr @reuse(i64 %wanted, i1 true, ptr %size)
  %without = icmp eq ptr %block.k, null
  br i1 %without, label %fresh, label %copy.k
copy.k:
  %size.k = load i64, ptr %size, align 8
  call void @llvm.memcpy.p0.p0.i64(ptr %block.k, ptr %block, i64 %used, i1 false)
  br i1 %inline, label %note, label %leave
leave:
  call void @give(ptr %block, i64 %bytes)
  br label %note
fresh:
  %movable = select i1 %inline, ptr null, ptr %block
  %block.f = call ptr @fresh(i64 %wanted, ptr %movable, ptr %size)
  %none.f = icmp eq ptr %block.f, null
  br i1 %none.f, label %fail, label %made
made:
  br i1 %inline, label %copy.f, label %note
copy.f:
  call void @llvm.memcpy.p0.p0.i64(ptr %block.f, ptr %block, i64 %used, i1 false)
  br label %note
note:
  %moved = phi ptr [ %block.n, %copy.n ], [ %block.r, %again ], [ %block.k, %copy.k ], [ %block.k, %leave ], [ %block.f, %made ], [ %block.f, %copy.f ]
  %has = phi i64 [ %wanted, %copy.n ], [ %wanted, %again ], [ %size.k, %copy.k ], [ %size.k, %leave ], [ %wanted, %made ], [ %wanted, %copy.f ]
  store ptr %moved, ptr %node.1, align 8
  store i64 %has, ptr %node.2, align 8
  %room = call i64 @room(i64 %has, i64 %stride)
  %node.3 = getelementptr ptr, ptr %node, i64 3
  %end = getelementptr i8, ptr %moved, i64 %room
  store ptr %end, ptr %node.3, align 8
  %added = sub i64 %has, %bytes
  call void @count(i64 %added)
  %now = getelementptr i8, ptr %moved, i64 %used
  ret ptr %now
fail:
  ret ptr null
}

; Give back the block of a record, if it has one of its own, and note that it is gone: a null block of no bytes.
define internal i64 @give_block(ptr %node) nounwind {
entry:
  %node.1 = getelementptr ptr, ptr %node, i64 1
  %block = load ptr, ptr %node.1, align 8
  %node.2 = getelementptr ptr, ptr %node, i64 2
  %bytes = load i64, ptr %node.2, align 8
  %inline = icmp ule i64 %bytes, INLINE
  br i1 %inline, label %end, label %own
own:
  store ptr null, ptr %node.1, align 8
  store i64 0, ptr %node.2, align 8
  call void @give(ptr %block, i64 %bytes)
  br label %end
end:
  ret i64 %bytes
}

define internal void @give_node(ptr %node) nounwind {
  %bytes = call i64 @give_block(ptr %node)
  call void @free(ptr %node)
  %all = add i64 %bytes, NODE
  %less = sub i64 0, %all
  call void @count(i64 %less)
  ret void
}

define void @tg.tapes.drop(ptr %region, ptr %node) nounwind {
entry:
  %first = load ptr, ptr %region, align 8
  %newest = icmp eq ptr %first, %node
  br i1 %newest, label %unlink, label %within
unlink:
  %next = load ptr, ptr %node, align 8
  store ptr %next, ptr %region, align 8
  call void @give_node(ptr %node)
  ret void
within:
  %node.2 = getelementptr ptr, ptr %node, i64 2
  %before = load i64, ptr %node.2, align 8
  %b = call i64 @give_block(ptr %node)
  %after = load i64, ptr %node.2, align 8
  %less = sub i64 %after, %before
  call void @count(i64 %less)
  ret void
}

define void @tg.tapes.release(ptr %region, i64 %mark) nounwind {
entry:
  %stop = inttoptr i64 %mark to ptr
  br label %test
test:
  %node = load ptr, ptr %region, align 8
  %done = icmp eq ptr %node, %stop
  br i1 %done, label %end, label %free
free:
  %next = load ptr, ptr %node, align 8
  store ptr %next, ptr %region, align 8
  call void @give_node(ptr %node)
  br label %test
end:
  ret void
}

define ptr @tg.tapes.zeros(i64 %bytes) nounwind {
entry:
  call void @take_lock()
  %have = load i64, ptr @zero_bytes, align 8
  %old = load ptr, ptr @zeros, align 8
  %enough = icmp ugt i64 %have, %bytes
  br i1 %enough, label %leave, label %make
make:
  %twice = shl i64 %have, 1
  %wanted = call i64 @llvm.umax.i64(i64 %twice, i64 %bytes)
  %size = add i64 %wanted, 4096
  %new = call ptr @calloc(i64 %size, i64 1)
  %none = icmp eq ptr %new, null
  br i1 %none, label %leave, label %keep
keep:
  store ptr %new, ptr @zeros, align 8
  store i64 %size, ptr @zero_bytes, align 8
  br label %leave
leave:
  %found = phi ptr [ %old, %entry ], [ null, %make ], [ %new, %keep ]
  store atomic i32 0, ptr @lock release, align 4
  ret ptr %found
}
"""


_CONSTANTS = {
    "SLOTS": _SLOTS,
    "INLINE": _INLINE,
    "FIRST": 2 * _INLINE,
    "LARGE": LARGE,
    "HUGE": HUGE,
    "NODE": _NODE,
    "MOST_STEPS": MOST_STEPS,
}
_NAMES = tuple(f"tg.tapes.{name}" for name in ("begin", "new", "grow", "drop", "release", "zeros", "clear"))


@lru_cache(maxsize=1)
def _library() -> dict[str, int]:
    """The addresses of the functions in native code, compiled when a program first needs them."""
    text = re.sub("|".join(rf"\b{name}\b" for name in _CONSTANTS), lambda m: str(_CONSTANTS[m[0]]), _TEXT)
    found = routines.load(text, _NAMES, "tracegrad_tapes")
    begin = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(found["tg.tapes.begin"])
    _state[2] = limit() // 2
    begin(ctypes.addressof(_state))
    if hasattr(os, "register_at_fork"):  # a thread that the child does not have may have held the lock
        os.register_at_fork(after_in_child=lambda: begin(ctypes.addressof(_state)))
    return found


def address(name: str) -> int:
    """The address of `tg.tapes.<name>`. Raises KeyError for other names."""
    with routines.loading:
        return _library()[f"tg.tapes.{name}"]


@lru_cache(maxsize=1)
def _release() -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address("release"))


def release(head: int) -> None:
    """Give back all records of a region."""
    region = ctypes.c_size_t(head)  # named: it must live as long as the call
    _release()(ctypes.addressof(region), 0)


def live_bytes() -> int:
    """How much memory tapes have now, those of running programs included."""
    return _state[0]


def kept_bytes() -> int:
    """How much memory lies unused, for the next loops."""
    return _state[1]


def clear() -> None:
    """Return what lies unused to the system."""
    ctypes.CFUNCTYPE(None)(address("clear"))()
