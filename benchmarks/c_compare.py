"""tracegrad beside C and beside Numba, one process each: how far generated code is from code written by hand.

    python benchmarks/c_compare.py [c] [numba] [--only lorenz,...] [--seconds 1] [--markdown] [--plot FOLDER]

`c`: six programs, one of each kind, with the same computation in benchmarks/c/, compiled by `gcc -O3 -march=native` (no -ffast-math) and called
through ctypes on memory that is there already; tracegrad's calls include its dispatch and the arrays of results. `numba`: loops written by hand in
Numba's style, calls after compilation and, with fresh functions every time, the time to compile. Results are compared before anything is
timed; both sides run in turns on one core, and medians of the processor's time are quoted, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRACEGRAD_CACHE", "0")

import numpy as np

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax

F = np.float32
FOLDER = Path(__file__).resolve().parent / "c"
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
GROUPS = {
    "lorenz": "loops",
    "solve4": "small_ops",
    "diffusion": "fusion",
    "histogram": "indexing",
    "network": "ml",
    "convolution": "kernels",
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --------------------------------------------------------------------------------------------------------------- beside C


def lorenz():
    def f(y):
        return jnp.stack([10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])

    def step(s):
        t, y, h = s
        k1 = f(y)
        k2 = f(y + h / 2 * k1)
        k3 = f(y + 3 * h / 4 * k2)
        y3 = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
        k4 = f(y3)
        error = jnp.max(jnp.abs(h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4))) / 1e-4
        ok = error < 1
        return (
            jnp.where(ok, t + h, t),
            jnp.where(ok, y3, y),
            h * jnp.clip(0.9 * (error + 1e-10) ** (-1 / 3), 0.2, 5.0),
        )

    def solve(y):
        return lax.while_loop(lambda s: s[0] < 10.0, step, (jnp.float32(0), y, jnp.float32(0.01)))[1]

    # the system is chaotic: what agrees is the number of steps and the attractor, so the time is short enough to agree in digits
    return solve, (np.array([1.0, 1.0, 1.0], F),), [(3,)]


def solve4():
    r = rng()
    a = (r.normal(size=(20000, 4, 4)) + 4 * np.eye(4)).astype(F)
    return tg.vmap(jnp.linalg.solve), (a, r.normal(size=(20000, 4)).astype(F)), [(20000, 4)]


def diffusion():
    def step(u):
        x = u[1:-1, 1:-1]
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        return jnp.pad(x + 0.1 * (around - 4 * x) + 0.01 * x * (1 - x), 1)

    return step, (rng().uniform(size=(1024, 1024)).astype(F),), [(1024, 1024)]


def histogram():
    r = rng()
    args = r.integers(0, 1000, 1_000_000).astype(np.int32), r.uniform(size=1_000_000).astype(F)
    return (lambda bins, weights: jnp.zeros(1000).at[bins].add(weights)), args, [(1000,)]


def network():
    r = rng()

    def loss(w, x, target):
        h = tg.nn.relu(x @ w[0])
        return jnp.mean((h @ w[1] - target) ** 2)

    def both(x, target, w1, w2):
        value, (d1, d2) = tg.value_and_grad(loss)((w1, w2), x, target)
        return value, d1, d2

    shapes = (64, 64), (64, 16), (64, 128), (128, 16)
    return both, tuple((r.normal(size=s) / 8).astype(F) for s in shapes), [(), (64, 128), (128, 16)]


def convolution():
    r = rng()

    def f(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))

    args = r.normal(size=(4, 16, 32, 32)).astype(F), (r.normal(size=(32, 16, 3, 3)) / 12).astype(F)
    return f, args, [(4, 32, 32, 32)]


BESIDE_C = {f.__name__: f for f in (lorenz, solve4, diffusion, histogram, network, convolution)}


def compiled_c(name: str, folder: str) -> Any:
    library = f"{folder}/{name}.so"
    subprocess.run(["gcc", *FLAGS, "-o", library, str(FOLDER / f"{name}.c"), "-lm"], check=True)
    return getattr(ctypes.CDLL(library), name)


def beside_c(name: str, folder: str, seconds: float) -> dict[str, float]:
    f, args, shapes = BESIDE_C[name]()
    native = compiled_c(name, folder)
    outs = [np.empty(s, F) for s in shapes]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*args, *outs)]
    ours = tg.jit(f)
    arrays = [jnp.asarray(a) for a in args]
    results = ours(*arrays)
    native(*pointers)
    for got, want in zip(results if isinstance(results, tuple) else (results,), outs):
        error = np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)
        if not error < (5e-2 if name == "lorenz" else 1e-4):
            raise SystemExit(f"{name}: C and tracegrad give different results, by {error:.1e}")
    return in_turns({"C": lambda: native(*pointers), "tracegrad": lambda: ours(*arrays)}, seconds)


def in_turns(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """The median times of the processor for calls, made in turns in batches of some milliseconds: each finds its own memory in the caches."""
    batch = {}
    for name, call in calls.items():
        alone = []
        for _ in range(4):
            start = time.process_time()
            call()
            alone.append(time.process_time() - start)
        batch[name] = max(1, int(5e-3 / max(min(alone), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    while len(next(iter(times.values()))) < 5 or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(batch[name]):
                call()
            times[name].append((time.process_time() - start) / batch[name])
    return {name: statistics.median(t) for name, t in times.items()}


# ----------------------------------------------------------------------------------------------------------- beside Numba


def mandelbrot(numba):
    c = np.stack(np.meshgrid(np.linspace(-2, 0.5, 160), np.linspace(-1.2, 1.2, 160)), -1).astype(F)

    def by_hand(c):
        out = np.zeros(c.shape[:2], np.int32)
        for i in range(c.shape[0]):
            for j in range(c.shape[1]):
                x = y = F(0)
                n = 0
                while n < 100 and x * x + y * y < F(4):
                    x, y = x * x - y * y + c[i, j, 0], F(2) * x * y + c[i, j, 1]
                    n += 1
                out[i, j] = n
        return out

    def escape(c):
        def step(s):
            n, x, y = s
            return n + 1, x * x - y * y + c[0], 2 * x * y + c[1]

        def inside(s):
            return (s[0] < 100) & (s[1] * s[1] + s[2] * s[2] < 4)

        return lax.while_loop(inside, step, (0, jnp.float32(0), jnp.float32(0)))[0]

    return numba.njit(by_hand), tg.vmap(tg.vmap(escape)), (c,)


def orbit(numba):
    x = np.array([[0, 0, 0], [1, 0, 0], [0, 1.6, 0]], F)
    v = np.array([[0, 0, 0], [0, 1, 0], [-0.8, 0, 0]], F)
    mass = np.array([1.0, 1e-3, 5e-4], F)

    def by_hand(x, v):
        x, v = x.copy(), v.copy()
        for _ in range(5000):
            for i in range(3):
                for k in range(3):
                    x[i, k] += F(0.01) * v[i, k]
            for i in range(3):
                for j in range(3):
                    if i != j:
                        d0, d1, d2 = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
                        r2 = d0 * d0 + d1 * d1 + d2 * d2
                        f = F(0.01) * mass[j] / (r2 * np.sqrt(r2))
                        v[i, 0] += f * d0
                        v[i, 1] += f * d1
                        v[i, 2] += f * d2
        return x

    def ours(x, v):
        def step(s, _):
            x, v = s
            x = x + 0.01 * v
            d = x[None] - x[:, None]
            r2 = jnp.sum(d * d, -1) + jnp.eye(3)
            f = 0.01 * mass[None] * (1 - jnp.eye(3)) / (r2 * jnp.sqrt(r2))
            return (x, v + jnp.sum(f[..., None] * d, 1)), None

        return lax.scan(step, (x, v), None, length=5000)[0][0]

    return numba.njit(by_hand), ours, (x, v)


def filtered(numba):
    x = rng().normal(size=200_000).astype(F)

    def by_hand(x):
        y = np.empty_like(x)
        a = b = F(0)
        for k in range(len(x)):
            a, b = F(0.2) * x[k] + F(1.5) * a - F(0.7) * b, a
            y[k] = a
        return y

    def ours(x):
        def step(s, x):
            a, b = s
            a, b = 0.2 * x + 1.5 * a - 0.7 * b, a
            return (a, b), a

        return lax.scan(step, (jnp.float32(0), jnp.float32(0)), x)[1]

    return numba.njit(by_hand), ours, (x,)


def distances(numba):
    """The longest common subsequence of two strings, by dynamic programming."""
    r = rng()
    a, b = r.integers(0, 4, 300).astype(np.int32), r.integers(0, 4, 300).astype(np.int32)

    def by_hand(a, b):
        row = np.zeros(len(b) + 1, np.int32)
        for i in range(len(a)):
            corner = 0
            for j in range(len(b)):
                above = row[j + 1]
                if a[i] == b[j]:
                    row[j + 1] = corner + 1
                elif row[j] > above:
                    row[j + 1] = row[j]
                corner = above
        return row[len(b)]

    def ours(a, b):
        def line(row, x):
            def cell(s, inputs):
                left, corner = s
                above, y = inputs
                here = jnp.where(x == y, corner + 1, jnp.maximum(left, above))
                return (here, above), here

            _, new = lax.scan(cell, (0, 0), (row, b))
            return new, None

        return lax.scan(line, jnp.zeros(len(b), jnp.int32), a)[0][-1]

    return numba.njit(by_hand), ours, (a, b)


def jacobi(numba):
    u = rng().uniform(size=(1024, 1024)).astype(F)

    def by_hand(u):
        u, new = u.copy(), u.copy()
        for _ in range(20):
            for i in range(1, u.shape[0] - 1):
                for j in range(1, u.shape[1] - 1):
                    new[i, j] = F(0.25) * (u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1])
            u, new = new, u
        return u

    def ours(u):
        def step(u, _):
            return u.at[1:-1, 1:-1].set(0.25 * (u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:])), None

        return lax.scan(step, u, None, length=20)[0]

    return numba.njit(by_hand), ours, (u,)


BESIDE_NUMBA = {f.__name__: f for f in (mandelbrot, orbit, filtered, distances, jacobi)}


def beside_numba(name: str, seconds: float, rounds: int = 3) -> dict[str, float]:
    import numba

    first: dict[str, list[float]] = {"Numba": [], "tracegrad": []}
    for _ in range(rounds + 1):  # the first round loads what compilers load once
        hand, ours, args = BESIDE_NUMBA[name](numba)
        arrays = [jnp.asarray(a) for a in args]
        jitted = tg.jit(ours)
        for who, call, given in (("Numba", hand, args), ("tracegrad", jitted, arrays)):
            start = time.process_time()
            result = call(*given)
            first[who].append(time.process_time() - start)
            if who == "Numba":
                want = result
    # multiply-adds round otherwise, and chaos makes more of that: a few points of a picture, the last digits of an orbit
    if not np.linalg.norm(np.asarray(result, float) - want) <= 2e-2 * np.linalg.norm(want):
        raise SystemExit(f"{name}: Numba and tracegrad give different results")
    times = in_turns({"Numba": lambda: hand(*args), "tracegrad": lambda: jitted(*arrays)}, seconds)
    return {**times, **{f"{who}, compiled": statistics.median(t[1:]) for who, t in first.items()}}


# --------------------------------------------------------------------------------------------------------------------- tables


def show(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def table(head: list[str], rows: list[list[str]], markdown: bool) -> None:
    if markdown:
        print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for row in rows:
            print("| " + " | ".join(row) + " |")
        return
    widths = [max(len(r[k]) for r in (head, *rows)) for k in range(len(head))]
    print()
    for row in (head, *rows):
        print("  ".join(x.ljust(w) for x, w in zip(row, widths)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["c", "numba"], help="c, numba")
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--plot", default="", help="a folder to draw the tables in")
    args = parser.parse_args()
    wanted = [n for n in args.only.split(",") if n]
    if hasattr(
        os, "sched_setaffinity"
    ):  # loops written by hand have one thread: so has the pool of tracegrad, which counts the cores
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if "c" in args.what and shutil.which("gcc") is None:
        print("there is no gcc: the comparison with C is left out", file=sys.stderr)
    elif "c" in args.what:
        rows, ratios = [], {}
        with tempfile.TemporaryDirectory() as folder:
            for name in [n for n in BESIDE_C if not wanted or n in wanted]:
                got = beside_c(name, folder, args.seconds)
                ratios[name] = got["tracegrad"] / got["C"]
                rows.append([name, GROUPS[name], show(got["tracegrad"]), show(got["C"]), f"{ratios[name]:.2f}"])
        table(["program", "kind", "tracegrad", "C", "tracegrad / C"], rows, args.markdown)
        draw(args.plot, "c", "time of a call, C = 1", {"tracegrad": ratios})
    if "numba" in args.what:
        try:
            import numba  # noqa: F401
        except ImportError:
            print("there is no Numba: the comparison with it is left out", file=sys.stderr)
            return
        rows, run, first = [], {}, {}
        for name in [n for n in BESIDE_NUMBA if not wanted or n in wanted]:
            got = beside_numba(name, args.seconds)
            run[name] = got["tracegrad"] / got["Numba"]
            first[name] = got["tracegrad, compiled"] / got["Numba, compiled"]
            cells = [show(got[k]) for k in ("tracegrad", "Numba")]
            compiled = [show(got[f"{k}, compiled"]) for k in ("tracegrad", "Numba")]
            rows.append([name, *cells, f"{run[name]:.2f}", *compiled, f"{first[name]:.2f}"])
        head = ["loop", "tracegrad", "Numba", "ratio", "first call: tracegrad", "Numba", "ratio"]
        table(head, rows, args.markdown)
        draw(args.plot, "numba", "time, Numba = 1", {"calls": run, "first call": first})


def draw(folder: str, name: str, title: str, series: dict[str, dict[str, float]]) -> None:
    if folder:
        from charts import bars

        bars(Path(folder) / f"beside_{name}.svg", title, series, line=1.0)


if __name__ == "__main__":
    main()
