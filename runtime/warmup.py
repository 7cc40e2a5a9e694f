"""LLVM is made ready by a thread as soon as a function is to be compiled, which is mostly before it is called.

The first compilation of a process waits for more than its own work: LLVM finds out what the processor can do, its code comes into memory
page by page, and the pool of threads that share large loops is compiled. All of that releases the interpreter's lock, and takes some ten
milliseconds, a good part of the first call of a small program. The thread ends when it has done that, or with its step at hand when a program is
being compiled or a child process forked. With one core there is none.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from threading import Event, Thread

_LOOP = """
define i32 @tg.warmup(ptr noalias %in, ptr noalias %out, i64 %n) #0 {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %p = getelementptr inbounds float, ptr %in, i64 %i
  %q = getelementptr inbounds float, ptr %out, i64 %i
  %x = load float, ptr %p, align 4
  %y = fmul float %x, 2.0
  store float %y, ptr %q, align 4
  %j = add nuw nsw i64 %i, 1
  %more = icmp ult i64 %j, %n
  br i1 %more, label %loop, label %end
end:
  ret i32 0
}
attributes #0 = { nounwind ATTRIBUTES }
"""
_stopped = Event()


@lru_cache(maxsize=1)
def start() -> None:
    """Start it, once in a process."""
    from tracegrad.runtime import threads

    if threads.count() > 1 and not _stopped.is_set():
        thread = Thread(target=_run, name="tracegrad warmup")
        if hasattr(os, "register_at_fork"):

            def finish() -> None:
                stop()
                thread.join()

            os.register_at_fork(before=finish)
        with suppress(RuntimeError):  # no more threads
            thread.start()


def stop() -> None:
    """Let it end with its step at hand: whoever calls this will do the rest themselves."""
    _stopped.set()


def _run() -> None:
    from tracegrad.codegen import target
    from tracegrad.runtime import engine, threads

    with suppress(Exception):  # whoever compiles meets it again
        engine.ready()
        # Where the disk cache has the pool's code it is likely to have the programs as well, and nothing is compiled.
        if not _stopped.is_set() and threads.compiled() and not _stopped.is_set():
            target.compile_text(_LOOP.replace("ATTRIBUTES", target.host().attributes), target.host(), 2)


__all__ = ["start", "stop"]
