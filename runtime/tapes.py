"""The memory of tapes: what compiled programs call to get it and to give it back, and who owns what they return.

Generated code writes tapes into records (`codegen.tape_memory` says how they are laid out). The records that are left when a program
returns are its caller's: if it has returned tapes, they live as long as an array of these does, else they are freed at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tracegrad.codegen import target
from tracegrad.ir.tapes import Tape
from tracegrad.ir.types import ArrayType, evaluated_as, is_tape

_state = (ctypes.c_int64 * 2)()
"""What lives: bytes of tapes, records. The code below counts."""

MOST_STEPS = (1 << 31) - 1

_TEXT = """
@live = internal global ptr null
@zeros = internal global ptr null
@zero_bytes = internal global i64 0
@zero_lock = internal global i32 0

declare ptr @malloc(i64)
declare ptr @calloc(i64, i64)
declare ptr @realloc(ptr, i64)
declare void @free(ptr)
declare i32 @sched_yield()
declare { i64, i1 } @llvm.umul.with.overflow.i64(i64, i64)

define void @tg.tapes.begin(ptr %state) nounwind {
  store ptr %state, ptr @live, align 8
  ret void
}

define internal void @count(i64 %bytes, i64 %records) nounwind {
  %live = load ptr, ptr @live, align 8
  %b = atomicrmw add ptr %live, i64 %bytes monotonic
  %other = getelementptr i64, ptr %live, i64 1
  %r = atomicrmw add ptr %other, i64 %records monotonic
  ret void
}

define ptr @tg.tapes.new(ptr %region, i64 %tapes, i64 %steps, i64 %stride) nounwind {
entry:
  %product = call { i64, i1 } @llvm.umul.with.overflow.i64(i64 %steps, i64 %stride)
  %bytes = extractvalue { i64, i1 } %product, 0
  %over = extractvalue { i64, i1 } %product, 1
  br i1 %over, label %fail, label %take
take:
  %heads = mul i64 %tapes, 24
  %size = add i64 %heads, 32
  %node = call ptr @malloc(i64 %size)
  %nodeless = icmp eq ptr %node, null
  br i1 %nodeless, label %fail, label %fill
fill:
  %least = call i64 @llvm.umax.i64(i64 %bytes, i64 8)
  %block = call ptr @malloc(i64 %least)
  %blockless = icmp eq ptr %block, null
  br i1 %blockless, label %undo, label %link
undo:
  call void @free(ptr %node)
  br label %fail
link:
  %next = load ptr, ptr %region, align 8
  store ptr %next, ptr %node, align 8
  %node.1 = getelementptr ptr, ptr %node, i64 1
  store ptr %block, ptr %node.1, align 8
  %node.2 = getelementptr ptr, ptr %node, i64 2
  store i64 %bytes, ptr %node.2, align 8
  %node.3 = getelementptr ptr, ptr %node, i64 3
  %end = getelementptr i8, ptr %block, i64 %bytes
  store ptr %end, ptr %node.3, align 8
  store ptr %node, ptr %region, align 8
  call void @count(i64 %bytes, i64 1)
  ret ptr %node
fail:
  ret ptr null
}

define ptr @tg.tapes.grow(ptr %node, ptr %place, i64 %stride) nounwind {
entry:
  %node.1 = getelementptr ptr, ptr %node, i64 1
  %block = load ptr, ptr %node.1, align 8
  %node.2 = getelementptr ptr, ptr %node, i64 2
  %bytes = load i64, ptr %node.2, align 8
  %from = ptrtoint ptr %block to i64
  %to = ptrtoint ptr %place to i64
  %used = sub i64 %to, %from
  %product = call { i64, i1 } @llvm.umul.with.overflow.i64(i64 %stride, i64 MOST_STEPS)
  %over = extractvalue { i64, i1 } %product, 1
  %exact = extractvalue { i64, i1 } %product, 0
  %limit = select i1 %over, i64 9223372036854775807, i64 %exact
  %twice = shl i64 %bytes, 1
  %more = call i64 @llvm.umin.i64(i64 %twice, i64 %limit)
  %enough = icmp ugt i64 %more, %used
  br i1 %enough, label %move, label %fail
move:
  %moved = call ptr @realloc(ptr %block, i64 %more)
  %none = icmp eq ptr %moved, null
  br i1 %none, label %fail, label %note
note:
  store ptr %moved, ptr %node.1, align 8
  store i64 %more, ptr %node.2, align 8
  %node.3 = getelementptr ptr, ptr %node, i64 3
  %end = getelementptr i8, ptr %moved, i64 %more
  store ptr %end, ptr %node.3, align 8
  %added = sub i64 %more, %bytes
  call void @count(i64 %added, i64 0)
  %now = getelementptr i8, ptr %moved, i64 %used
  ret ptr %now
fail:
  ret ptr null
}

define internal void @give_back(ptr %node) nounwind {
  %node.1 = getelementptr ptr, ptr %node, i64 1
  %block = load ptr, ptr %node.1, align 8
  call void @free(ptr %block)
  store ptr null, ptr %node.1, align 8
  %node.2 = getelementptr ptr, ptr %node, i64 2
  %bytes = load i64, ptr %node.2, align 8
  store i64 0, ptr %node.2, align 8
  %less = sub i64 0, %bytes
  call void @count(i64 %less, i64 0)
  ret void
}

define void @tg.tapes.drop(ptr %region, ptr %node) nounwind {
entry:
  call void @give_back(ptr %node)
  %first = load ptr, ptr %region, align 8
  %newest = icmp eq ptr %first, %node
  br i1 %newest, label %unlink, label %end
unlink:
  %next = load ptr, ptr %node, align 8
  store ptr %next, ptr %region, align 8
  call void @free(ptr %node)
  call void @count(i64 0, i64 -1)
  br label %end
end:
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
  call void @give_back(ptr %node)
  call void @free(ptr %node)
  call void @count(i64 0, i64 -1)
  br label %test
end:
  ret void
}

define ptr @tg.tapes.zeros(i64 %bytes) nounwind {
entry:
  br label %try
try:
  %pair = cmpxchg ptr @zero_lock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %look, label %wait
wait:
  %y = call i32 @sched_yield()
  br label %try
look:
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
  %found = phi ptr [ %old, %look ], [ null, %make ], [ %new, %keep ]
  store atomic i32 0, ptr @zero_lock release, align 4
  ret ptr %found
}

declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
"""

_NAMES = tuple(f"tg.tapes.{name}" for name in ("begin", "new", "grow", "drop", "release", "zeros"))


@lru_cache(maxsize=1)
def _library() -> dict[str, int]:
    """The addresses of the functions in native code, compiled when a program first needs them."""
    import llvmlite.binding as llvm

    host = target.host()
    module = target.parse(_TEXT.replace("MOST_STEPS", str(MOST_STEPS)))
    jit = llvm.create_lljit_compiler(target.machine(host))
    builder = llvm.JITLibraryBuilder().add_object_img(target.emit_object(module, host)).add_current_process()
    for name in _NAMES:
        builder.export_symbol(name)
    library = builder.link(jit, "tracegrad_tapes")
    # Never freed, also not at exit: other threads may be in this code until the process ends.
    for thing in (jit, library):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    found = {name: library[name] for name in _NAMES}
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(found["tg.tapes.begin"])(ctypes.addressof(_state))
    return found


def address(name: str) -> int:
    """The address of `tg.tapes.<name>`. Raises KeyError for other names."""
    return _library()[f"tg.tapes.{name}"]


@lru_cache(maxsize=1)
def _release() -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address("release"))


def release(head: int) -> None:
    """Free all records of a region."""
    region = ctypes.c_size_t(head)  # named: it must live as long as the call
    _release()(ctypes.addressof(region), 0)


def live_bytes() -> int:
    """How much memory the values on tapes take now, those of running programs included."""
    return _state[0]


def live_records() -> int:
    """How many loops have written tapes that live now."""
    return _state[1]


class Region:
    """Owns the records that a program has returned: they are freed when the last array with tapes in them dies."""

    __slots__ = ("_head", "_others", "_free")

    def __init__(self, head: int, others: Iterable[Any] = ()):
        self._head = head
        self._others = tuple(others)  # tapes on which the addresses of others' tapes stand
        self._free = release

    def __del__(self) -> None:
        try:
            self._free(self._head)
        except (TypeError, AttributeError):  # the interpreter is shutting down, this module has been taken apart
            return


class TapeWords(np.ndarray):
    """The addresses of tapes, as uint64, and what keeps these tapes alive; views and copies do so, too."""

    owners: tuple[Any, ...]

    def __array_finalize__(self, obj: Any) -> None:
        self.owners = getattr(obj, "owners", ())


def owned(words: np.ndarray, owners: Iterable[Any]) -> TapeWords:
    """The array of these words, which keeps the owners alive."""
    x = words.view(TapeWords)
    x.owners = tuple(owners)
    return x


def owners_of(arrays: Iterable[np.ndarray]) -> list[Any]:
    """What keeps the tapes in arrays alive, each once."""
    return list({id(o): o for x in arrays if isinstance(x, TapeWords) for o in x.owners}.values())


# Tapes in NumPy's hands: what `disable_jit` computes with.


def to_words(objects: np.ndarray, t: ArrayType) -> TapeWords:
    """The addresses of copies in native memory of an array of `ir.tapes.Tape`, of the type `t`."""
    new = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address("new"))
    head = ctypes.c_size_t(0)

    def written(x: np.ndarray, element: ArrayType) -> np.ndarray:
        words = np.zeros(x.shape, np.uint64)
        for index in np.ndindex(*x.shape):
            values: list[Any] = x[index].values  # type: ignore[attr-defined]
            if not values:
                continue
            if is_tape(element.dtype):
                values = [written(np.asarray(v, object), element.dtype.element) for v in values]
            block = np.ascontiguousarray(np.stack([np.asarray(v) for v in values]))
            stride = max(block.nbytes // len(values), 1)
            node = new(ctypes.addressof(head), 1, len(values), stride)
            if not node:
                raise MemoryError(f"no memory for a tape of {len(values)} steps of {stride} bytes")
            place = _word_at(node + 8)
            ctypes.memmove(place, block.ctypes.data, block.nbytes)
            for k, word in enumerate((place, stride, len(values))):
                ctypes.c_int64.from_address(node + 32 + 8 * k).value = word
            words[index] = node + 32
        return words

    try:
        words = written(np.asarray(objects, object), t.dtype.element)
    except BaseException:
        release(head.value)
        raise
    return owned(words, [Region(head.value)])


def to_objects(words: np.ndarray, t: ArrayType) -> np.ndarray:
    """The array of `ir.tapes.Tape` with copies of the values on tapes of the type `t`, of which these are the addresses."""
    element = t.dtype.element
    objects = np.empty(t.shape, object)
    shape, dtype = evaluated_as(element)
    stored = np.dtype(np.uint64) if is_tape(element.dtype) else dtype
    size = prod(shape)
    for index in np.ndindex(*t.shape):
        head = int(words[index])
        place, stride, steps = [_word_at(head + 8 * k) for k in range(3)] if head else (0, 0, 0)
        values = []
        for i in range(steps):
            bytes_ = ctypes.string_at(place + i * stride, size * stored.itemsize)
            x = np.frombuffer(bytes_, stored).reshape(shape)
            values.append(to_objects(x, element) if is_tape(element.dtype) else x)
        objects[index] = Tape(values)
    return objects


def _word_at(address: int) -> int:
    return ctypes.c_int64.from_address(address).value
