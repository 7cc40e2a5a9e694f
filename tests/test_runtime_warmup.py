"""LLVM is made ready by a thread: it comes to its end, is in nobody's way, and is not needed."""

from __future__ import annotations

import os

import pytest
from process_harness import python

_WAITED_FOR = """
import threading
import numpy as np, tracegrad as tg

assert [t.name for t in threading.enumerate()] == ["MainThread"]
f = tg.jit(lambda x: x + 1)
for t in threading.enumerate():
    if t is not threading.main_thread():
        print(t.name)
        t.join()
from tracegrad.runtime import routines, threads

print(len(routines._codes), threads._library.cache_info().currsize)
print(f(np.zeros(300_000, np.float32))[0])
"""


def test_a_thread_compiles_the_pool_and_starts_none() -> None:
    found = python(_WAITED_FOR, TRACEGRAD_THREADS="2", TRACEGRAD_CACHE="0")
    assert found.split() == ["tracegrad", "warmup", "1", "0", "1.0"]


def test_one_core_has_no_such_thread() -> None:
    assert python(_WAITED_FOR, TRACEGRAD_THREADS="1", TRACEGRAD_CACHE="0").split() == ["0", "0", "1.0"]


def test_programs_may_end_and_call_at_once() -> None:
    assert python("import tracegrad as tg; tg.jit(abs)", TRACEGRAD_THREADS="2", TRACEGRAD_CACHE="0") == ""
    call = "import numpy as np, tracegrad as tg; print(float(tg.jit(lambda x: (x @ x).sum())(np.ones((200, 200), np.float32))))"
    assert python(call, TRACEGRAD_THREADS="2", TRACEGRAD_CACHE="0") == "8000000.0\n"


_FORKED = """
import os
import numpy as np, tracegrad as tg

f = tg.jit(lambda x: x + 1)
child = os.fork()
result = f(np.zeros(300_000, np.float32))
if child == 0:
    os._exit(int(float(result[-1]) != 1))
print(os.waitpid(child, 0)[1], float(result[-1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_wait_for_it() -> None:
    assert python(_FORKED, TRACEGRAD_THREADS="2", TRACEGRAD_CACHE="0").split() == ["0", "1.0"]
