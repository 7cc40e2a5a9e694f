"""Where the time of a first call goes: each stage of compiling a handful of programs.

    python benchmarks/compile_time.py [--only tiny,lstm] [--rounds 5] [--markdown] [--plot FOLDER] [--profile lower]

Milliseconds of the processor's time, so that what else the machine does hardly counts. Stages: tracing the function (its transformations included), the passes from programs to programs, the passes of the code generator and lowering
to loop nests, writing LLVM's text, parsing it, LLVM's passes, machine code, loading that into the process with the addresses of what it calls, and the
first run. The median of the rounds, each with a fresh function; the disk cache takes no part. `--profile STAGE` prints where the time of one stage goes.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["TRACEGRAD_CACHE"] = "0"

import numpy as np

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.codegen import target as targets
from tracegrad.codegen.compile import CHEAP_PIPELINE, STRAIGHT_VECTORS, prepare
from tracegrad.codegen.llvm_text import Writer
from tracegrad.codegen.lower import lower_program
from tracegrad.codegen.memory import plan_arena
from tracegrad.ir.collection import uncollected
from tracegrad.runtime import engine
from tracegrad.runtime.executable import settle
from tracegrad.transforms.pipeline import optimize

F = np.float32
STAGES = ("trace", "passes", "prepare", "lower", "write text", "parse", "LLVM passes", "machine code", "load")


def tiny() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return lambda x: jnp.sin(x) * 2.0 + 1.0, (np.ones(16, F),)


def network_gradient() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The gradient of a network of three layers."""
    sizes = (784, 512, 512, 10)
    params = [(np.ones((a, b), F), np.ones(b, F)) for a, b in zip(sizes, sizes[1:])]

    def loss(params, x, y):
        for w, b in params[:-1]:
            x = tg.nn.relu(x @ w + b)
        return -jnp.mean(jnp.sum(tg.nn.log_softmax(x @ params[-1][0] + params[-1][1]) * y, -1))

    return tg.grad(loss), (params, np.ones((128, 784), F), np.ones((128, 10), F))


def lstm_gradient() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The gradient of an LSTM of 64 units over 100 steps."""
    n = 64

    def loss(w, xs):
        def step(s, x):
            h, c = s
            i, f, g, o = jnp.split(jnp.concatenate([x, h]) @ w, 4)
            c = tg.nn.sigmoid(f) * c + tg.nn.sigmoid(i) * jnp.tanh(g)
            h = tg.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return jnp.sum(lax.scan(step, (jnp.zeros(n), jnp.zeros(n)), xs)[1] ** 2)

    return tg.grad(loss), (np.ones((2 * n, 4 * n), F), np.ones((100, n), F))


def straight_line() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """10,000 operations on numbers, in no order that repeats: no loop is found in them."""
    r = np.random.default_rng(0)
    choices = r.integers(0, [[4], [8], [8]], (3, 10_000)).T.tolist()

    def f(x):
        last = [x + 0.1 * k for k in range(8)]
        for kind, i, j in choices:
            a, b = last[i], last[j]
            last[i] = (a * b, a + b, a - 0.5 * b, jnp.sin(a))[kind]
        return sum(last)

    return f, (F(0.3),)


PROGRAMS = {f.__name__: f for f in (tiny, network_gradient, lstm_gradient, straight_line)}


class Clock:
    """The seconds of each stage; a profile of one of them."""

    def __init__(self, profiled: str = ""):
        self.times: dict[str, float] = {}
        self.profiled = profiled
        self.profile = cProfile.Profile()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if stage == self.profiled:
            self.profile.enable()
        start = time.process_time()
        yield
        self.times[stage] = time.process_time() - start
        if stage == self.profiled:
            self.profile.disable()


@uncollected
def compiled_in_stages(f: Callable[..., Any], args: tuple[Any, ...], clock: Clock) -> None:
    """What a first call does, a stage at a time."""
    with clock("trace"):
        program = tg.jit(f).lower(*args).program
    with clock("passes"):
        optimized = settle(optimize(program))[0]
    with clock("prepare"):
        prepared = prepare(optimized)
    with clock("lower"):
        function, _, _ = lower_program(prepared, "f")
        plan_arena(function)
    host = targets.host()
    with clock("write text"):
        writer = Writer(function, "tg.f", host.attributes)
        text = writer.module()
    with clock("parse"):
        module = targets.parse(text)
    with clock("LLVM passes"):
        level = 2 if writer.size <= CHEAP_PIPELINE else 1
        targets.optimize(module, host, level, straight_vectors=writer.size <= STRAIGHT_VECTORS)
    with clock("machine code"):
        code = targets.emit_object(module, host)
    with clock("load"):
        engine.load(code, "tg.f", tuple(sorted(writer.external)))


def measure(name: str, rounds: int, profiled: str) -> dict[str, float]:
    clocks = []
    for _ in range(rounds + 1):  # the first loads what is loaded once in a process
        clock = Clock(profiled)
        f, args = PROGRAMS[name]()
        compiled_in_stages(f, args, clock)
        clocks.append(clock)
    if profiled:
        print(f"{name}, {profiled}:")
        pstats.Stats(clocks[-1].profile).sort_stats("tottime").print_stats(25)
    return {stage: statistics.median(c.times[stage] for c in clocks[1:]) for stage in STAGES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--plot", default="", help="a folder to draw the table in")
    parser.add_argument("--profile", default="", choices=("", *STAGES))
    args = parser.parse_args()
    names = [n for n in PROGRAMS if not args.only or n in args.only.split(",")]
    compiled_in_stages(lambda x: x + 1.0, (F(1),), Clock())  # LLVM itself starts
    found = {name: measure(name, args.rounds, args.profile) for name in names}
    head = ["program", *STAGES, "all"]
    rows = [[n, *[f"{t[s] * 1e3:.1f}" for s in STAGES], f"{sum(t.values()) * 1e3:.1f}"] for n, t in found.items()]
    from c_compare import table

    print("\nmilliseconds of the processor")
    table(head, rows, args.markdown)
    if args.plot:
        from charts import bars

        series = {s: {n: found[n][s] * 1e3 for n in names} for s in STAGES}
        bars(Path(args.plot) / "compile_time.svg", "milliseconds of the processor for each stage", series, logarithmic=True)


if __name__ == "__main__":
    main()
