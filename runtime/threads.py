"""The threads that share large loops: a pool in native code, which compiled programs call without Python.

    void tg.pool.run(void (*task)(void *frame, int64 index), void *frame, int64 count)

runs task(frame, 0), ..., task(frame, count - 1), each once, on the calling thread and on those of the pool, and returns when all are
done. How a loop is cut into tasks is decided when it is compiled, by its size, so results do not depend on how many threads there
are. The caller takes tasks like everybody else: when the cores are busy with other work, it does them all, and waits for nobody.

The whole state of a job is one word: a generation, the next index, the count. A thread takes a task by a compare-and-swap of that
word, so a thread that wakes up late can never take a task of another job. Threads that find nothing to do spin for some tens of
microseconds, since loops come in quick succession, and then sleep in a futex.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from typing import Any

from tracegrad.codegen import target
from tracegrad.runtime import routines

MOST_TASKS = (1 << 20) - 1
SPINS = 1500

_FUTEX = {"x86_64": 202, "aarch64": 98}
_PAUSE = {"x86_64": "llvm.x86.sse2.pause", "aarch64": "llvm.aarch64.hint"}

_TEXT = """
@word = internal global i64 0, align 64
@task = internal global ptr null, align 64
@frame = internal global ptr null
@done = internal global i64 0, align 64
@wake = internal global i32 0, align 64
@sleepers = internal global i32 0
@busy = internal global i32 0, align 64
@workers = internal global i32 0

declare i64 @syscall(i64, ...)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @sched_yield()
PAUSE_DECLARATION

define void @tg.pool.run(ptr %task, ptr %frame, i64 %count) nounwind {
entry:
  %few = icmp ule i64 %count, 1
  %workers = load i32, ptr @workers, align 4
  %alone = icmp eq i32 %workers, 0
  %plain = or i1 %few, %alone
  br i1 %plain, label %serial, label %try
try:
  %pair = cmpxchg ptr @busy, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %publish, label %serial
publish:
  store ptr %task, ptr @task, align 64
  store ptr %frame, ptr @frame, align 8
  store atomic i64 0, ptr @done monotonic, align 64
  %old = load atomic i64, ptr @word monotonic, align 64
  %generation = lshr i64 %old, 40
  %following = add i64 %generation, 1
  %high = shl i64 %following, 40
  %fresh = or i64 %high, %count
  store atomic i64 %fresh, ptr @word seq_cst, align 64
  %w = atomicrmw add ptr @wake, i32 1 seq_cst
  %asleep = load atomic i32, ptr @sleepers seq_cst, align 4
  %any = icmp sgt i32 %asleep, 0
  br i1 %any, label %rouse, label %work
rouse:
  %r = call i64 (i64, ...) @syscall(i64 FUTEX, ptr @wake, i32 129, i32 2147483647, ptr null, ptr null, i32 0)
  br label %work
work:
  %before = atomicrmw add ptr @word, i64 1048576 acq_rel
  %shifted = lshr i64 %before, 20
  %index = and i64 %shifted, 1048575
  %more = icmp ult i64 %index, %count
  br i1 %more, label %execute, label %wait
execute:
  call void %task(ptr %frame, i64 %index)
  %d = atomicrmw add ptr @done, i64 1 acq_rel
  br label %work
wait:
  %spins = phi i64 [ 0, %work ], [ %spun, %again ]
  %finished = load atomic i64, ptr @done acquire, align 64
  %all = icmp uge i64 %finished, %count
  br i1 %all, label %leave, label %pause
pause:
  PAUSE
  %spun = add i64 %spins, 1
  %long = icmp ugt i64 %spun, 2000
  br i1 %long, label %yield, label %again
yield:
  %y = call i32 @sched_yield()
  br label %again
again:
  br label %wait
leave:
  store atomic i32 0, ptr @busy release, align 64
  ret void
serial:
  %none = icmp eq i64 %count, 0
  br i1 %none, label %end, label %next
next:
  %i = phi i64 [ 0, %serial ], [ %j, %next ]
  call void %task(ptr %frame, i64 %i)
  %j = add i64 %i, 1
  %last = icmp uge i64 %j, %count
  br i1 %last, label %end, label %next
end:
  ret void
}

define internal ptr @worker(ptr %unused) nounwind {
entry:
  br label %look
look:
  %spins = phi i64 [ 0, %entry ], [ 0, %execute ], [ %spun, %idle ], [ 0, %awake ], [ %spins, %race ]
  %seen = load atomic i64, ptr @word acquire, align 64
  %count = and i64 %seen, 1048575
  %shifted = lshr i64 %seen, 20
  %index = and i64 %shifted, 1048575
  %more = icmp ult i64 %index, %count
  br i1 %more, label %race, label %idle
race:
  %taken = add i64 %seen, 1048576
  %pair = cmpxchg ptr @word, i64 %seen, i64 %taken acq_rel monotonic
  %mine = extractvalue { i64, i1 } %pair, 1
  br i1 %mine, label %execute, label %look
execute:
  %task = load ptr, ptr @task, align 64
  %frame = load ptr, ptr @frame, align 8
  call void %task(ptr %frame, i64 %index)
  %d = atomicrmw add ptr @done, i64 1 acq_rel
  br label %look
idle:
  PAUSE
  %spun = add i64 %spins, 1
  %tired = icmp ugt i64 %spun, SPINS
  br i1 %tired, label %doze, label %look
doze:
  %ticket = load atomic i32, ptr @wake seq_cst, align 64
  %s = atomicrmw add ptr @sleepers, i32 1 seq_cst
  %now = load atomic i64, ptr @word seq_cst, align 64
  %same = icmp eq i64 %now, %seen
  br i1 %same, label %sleep, label %awake
sleep:
  %r = call i64 (i64, ...) @syscall(i64 FUTEX, ptr @wake, i32 128, i32 %ticket, ptr null, ptr null, i32 0)
  br label %awake
awake:
  %t = atomicrmw sub ptr @sleepers, i32 1 seq_cst
  br label %look
}

define i32 @tg.pool.start(i32 %wanted) nounwind {
entry:
  %thread = alloca i64, align 8
  br label %test
test:
  %n = phi i32 [ 0, %entry ], [ %m, %make ]
  %enough = icmp sge i32 %n, %wanted
  br i1 %enough, label %end, label %make
make:
  %status = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr null)
  %failed = icmp ne i32 %status, 0
  %m = add i32 %n, 1
  br i1 %failed, label %end, label %test
end:
  %made = phi i32 [ %n, %test ], [ %n, %make ]
  store i32 %made, ptr @workers, align 4
  ret i32 %made
}

define void @tg.pool.forget() nounwind {
entry:
  store i32 0, ptr @workers, align 4
  store atomic i32 0, ptr @busy release, align 64
  store atomic i32 0, ptr @sleepers release, align 4
  ret void
}
"""


def count() -> int:
    """How many threads work on a loop: TRACEGRAD_THREADS, or the cores that this process may use."""
    asked = os.environ.get("TRACEGRAD_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


_keep: list[Any] = []


@lru_cache(maxsize=1)
def _text() -> tuple[str, bool]:
    """The pool's code for this machine, and whether it has threads."""
    machine = target.host().triple.partition("-")[0]
    supported = sys.platform == "linux" and machine in _FUTEX
    text = _TEXT if supported else _serial_text()
    pause = _PAUSE.get(machine, "")
    argument = "i32 1" if machine == "aarch64" else ""
    declared = f"declare void @{pause}({argument.split(' ')[0]})"
    text = text.replace("PAUSE_DECLARATION", declared).replace("PAUSE", f"call void @{pause}({argument})")
    return text.replace("FUTEX", str(_FUTEX.get(machine, 0))).replace("SPINS", str(SPINS)), supported


def compiled() -> bool:
    """Compile the pool without starting it; False if the disk cache had it."""
    return not routines.code_of(_text()[0], 0)[1]


@lru_cache(maxsize=1)
def _library() -> dict[str, int]:
    """The addresses of the pool's functions; its threads are running."""
    text, supported = _text()
    found = routines.load(text, ("tg.pool.run", "tg.pool.start", "tg.pool.forget"), "tracegrad_pool", 0)
    if supported:
        start = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)(found["tg.pool.start"])
        forget = ctypes.CFUNCTYPE(None)(found["tg.pool.forget"])
        start(count() - 1)
        # a child process has none of the threads: it works alone
        os.register_at_fork(after_in_child=forget)
        _keep.extend((start, forget))
    return found


def _serial_text() -> str:
    """A pool without threads, for systems whose way to sleep we do not know."""
    return """
define void @tg.pool.run(ptr %task, ptr %frame, i64 %count) nounwind {
entry:
  %none = icmp eq i64 %count, 0
  br i1 %none, label %end, label %next
next:
  %i = phi i64 [ 0, %entry ], [ %j, %next ]
  call void %task(ptr %frame, i64 %i)
  %j = add i64 %i, 1
  %last = icmp uge i64 %j, %count
  br i1 %last, label %end, label %next
end:
  ret void
}
define i32 @tg.pool.start(i32 %wanted) nounwind {
  ret i32 0
}
define void @tg.pool.forget() nounwind {
  ret void
}
"""


def address(name: str) -> int:
    """The address of `tg.pool.<name>`; the first call starts the threads. Raises KeyError for other names."""
    with routines.loading:
        return _library()[f"tg.pool.{name}"]
