"""tracegrad beside JAX and Numba: the table of the README.

    pip install jax numba          # what is missing is left out of the table
    python benchmarks/compare.py [--only scan_gradient,...] [--rounds 3] [--markdown] [--plot FOLDER]

Each workload is one program, written against JAX's names and given either package; Numba's column is a loop written by hand in Numba's style where
that makes sense. Every (workload, package) runs in a process of its own, the packages taking turns within each round, so that neither sees the
other's threads or caches. Quoted: the median time of a warm call, best of the rounds, and the time of the first call, which traces and compiles
(tracegrad's disk cache is off). Results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

F = np.float32
WORKLOADS: dict[str, Callable[..., Any]] = {}
NUMBA: dict[str, Callable[..., Any]] = {}


def workload(f: Callable[..., Any]) -> Callable[..., Any]:
    WORKLOADS[f.__name__] = f
    return f


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@workload
def logistic_map(j, jnp, lax):
    """A million steps of x <- r x (1 - x), one scalar of state."""

    def f(x, r):
        return lax.fori_loop(0, 1_000_000, lambda i, x: r * x * (1 - x), x)

    return j.jit(f), (F(0.1), F(3.9))


def numba_logistic_map(numba):
    @numba.njit(fastmath=False)
    def f(x, r):
        for _ in range(1_000_000):
            x = r * x * (F(1) - x)
        return x

    return f, (F(0.1), F(3.9))


NUMBA["logistic_map"] = numba_logistic_map


@workload
def orbit_gradient(j, jnp, lax):
    """The gradient of a final position through 2,000 leapfrog steps of three bodies."""
    mass = np.array([1.0, 1e-3, 5e-4], F)

    def acceleration(x):
        d = x[None] - x[:, None]
        r2 = jnp.sum(d * d, -1) + jnp.eye(3)
        return jnp.sum(mass[None, :, None] * d * (r2**-1.5 * (1 - jnp.eye(3)))[..., None], 1)

    def final(x, v):
        def step(s, _):
            x, v = s
            v = v + 0.005 * acceleration(x)
            x = x + 0.01 * v
            return (x, v + 0.005 * acceleration(x)), None

        (x, v), _ = lax.scan(step, (x, v), None, length=2000)
        return jnp.sum(x[1] ** 2)

    x = np.array([[0, 0, 0], [1, 0, 0], [0, 1.6, 0]], F)
    v = np.array([[0, 0, 0], [0, 1, 0], [-0.8, 0, 0]], F)
    return j.jit(j.grad(final)), (x, v)


@workload
def recurrent_gradient(j, jnp, lax):
    """The gradient of a recurrent network, 32 units, 500 steps."""
    r = rng()
    w = (r.normal(size=(32, 32)) * 0.15).astype(F)

    def loss(w, xs):
        return jnp.mean(lax.scan(lambda h, x: (jnp.tanh(w @ h + x),) * 2, jnp.zeros(32), xs)[1] ** 2)

    return j.jit(j.grad(loss)), (w, r.normal(size=(500, 32)).astype(F))


@workload
def adaptive_ode(j, jnp, lax):
    """An adaptive integrator (Bogacki-Shampine 3(2)) of the Lorenz system in a while_loop."""

    def f(y):
        return jnp.stack([10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])

    def step(s):
        t, y, h, n = s
        k1 = f(y)
        k2 = f(y + h / 2 * k1)
        k3 = f(y + 3 * h / 4 * k2)
        y3 = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
        k4 = f(y3)
        error = jnp.max(jnp.abs(h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4))) / 1e-4
        ok = error < 1
        h2 = h * jnp.clip(0.9 * (error + 1e-10) ** (-1 / 3), 0.2, 5.0)
        return jnp.where(ok, t + h, t), jnp.where(ok, y3, y), h2, n + 1

    def solve(y):
        return lax.while_loop(lambda s: s[0] < 10.0, step, (jnp.float32(0), y, jnp.float32(0.01), 0))[1]

    return j.jit(solve), (np.ones(3, F),)


@workload
def batched_solve(j, jnp, lax):
    """20,000 linear systems of size 4."""
    r = rng()
    a = (r.normal(size=(20000, 4, 4)) + 4 * np.eye(4)).astype(F)
    return j.jit(j.vmap(jnp.linalg.solve)), (a, r.normal(size=(20000, 4)).astype(F))


@workload
def histogram(j, jnp, lax):
    """A million weights added into a thousand bins."""
    r = rng()
    return j.jit(lambda i, w: jnp.zeros(1000).at[i].add(w)), (
        r.integers(0, 1000, 1_000_000).astype(np.int32),
        np.ones(1_000_000, F),
    )


def numba_histogram(numba):
    @numba.njit
    def f(i, w):
        out = np.zeros(1000, F)
        for k in range(len(i)):
            out[i[k]] += w[k]
        return out

    r = rng()
    return f, (r.integers(0, 1000, 1_000_000).astype(np.int32), np.ones(1_000_000, F))


NUMBA["histogram"] = numba_histogram


@workload
def sort_a_million(j, jnp, lax):
    """Sorting a million floats."""
    return j.jit(jnp.sort), (rng().normal(size=1_000_000).astype(F),)


NUMBA["sort_a_million"] = lambda numba: (numba.njit(lambda x: np.sort(x)), (rng().normal(size=1_000_000).astype(F),))


@workload
def softmax_rows(j, jnp, lax):
    """Softmax of 2,048 rows of 1,024."""
    return j.jit(lambda x: j.nn.softmax(x, -1)), (rng().normal(size=(2048, 1024)).astype(F),)


@workload
def mlp_step(j, jnp, lax):
    """Loss and gradient of a three-layer network, batch 128."""
    r = rng()
    sizes = (784, 512, 512, 10)
    params = [((r.normal(size=(a, b)) / a**0.5).astype(F), np.zeros(b, F)) for a, b in zip(sizes, sizes[1:])]

    def loss(params, x, y):
        for w, b in params[:-1]:
            x = j.nn.relu(x @ w + b)
        return -jnp.mean(jnp.sum(j.nn.log_softmax(x @ params[-1][0] + params[-1][1]) * y, -1))

    return j.jit(j.value_and_grad(loss)), (
        params,
        r.normal(size=(128, 784)).astype(F),
        np.eye(10, dtype=F)[r.integers(0, 10, 128)],
    )


@workload
def small_call(j, jnp, lax):
    """A call on 16 numbers: what a call costs."""
    return j.jit(lambda x: x + 1.0), (jnp.zeros(16, jnp.float32),)


NUMBA["small_call"] = lambda numba: (numba.njit(lambda x: x + F(1)), (np.zeros(16, F),))


def build(name: str, package: str) -> tuple[Callable[..., Any], tuple[Any, ...], Callable[[Any], Any]]:
    if package == "numba":
        import numba

        f, args = NUMBA[name](numba)
        return f, args, lambda x: x
    if package == "jax":
        import jax as j
        import jax.numpy as jnp
        from jax import lax
    else:
        import tracegrad as j
        import tracegrad.numpy as jnp
        from tracegrad import lax
    f, args = WORKLOADS[name](j, jnp, lax)
    j.block_until_ready(jnp.zeros(3) + 1)
    return f, args, j.block_until_ready


def leaves(x: Any) -> list[np.ndarray]:
    if isinstance(x, (tuple, list)):
        return [leaf for item in x for leaf in leaves(item)]
    return [np.asarray(x)]


def worker(name: str, package: str, save: str, seconds: float) -> None:
    f, args, block = build(name, package)
    start = time.perf_counter()
    result = block(f(*args))
    first = time.perf_counter() - start
    np.savez(save, *leaves(result))
    start = time.perf_counter()
    block(f(*args))
    inner = max(1, min(1000, int(2e-3 / max(time.perf_counter() - start, 1e-9))))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(inner):
            result = f(*args)
        block(result)
        times.append((time.perf_counter() - start) / inner)
    print("RESULT", json.dumps({"run": statistics.median(times), "first": first}))


def measure(name: str, package: str, save: str, seconds: float) -> dict[str, Any]:
    env = {**os.environ, "TRACEGRAD_CACHE": "0"}
    command = [sys.executable, __file__, "--worker", name, package, save, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}


def agree(a: str, b: str) -> bool:
    x, y = np.load(a), np.load(b)
    return all(np.linalg.norm(x[k] - y[k]) <= 2e-3 * (np.linalg.norm(x[k]) or 1.0) for k in x.files)


def show(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def draw(folder: Path, rows: list[tuple[str, dict[str, dict[str, Any]]]], packages: list[str]) -> None:
    """The tables as charts: times of calls and of first calls, of the packages that have them."""
    from charts import bars

    for key, title in (("run", "milliseconds of a call"), ("first", "milliseconds of the first call")):
        series = {p: {name: best[p][key] * 1e3 for name, best in rows if key in best.get(p, {})} for p in packages}
        bars(folder / f"compare_{key}.svg", title, {p: values for p, values in series.items() if values}, logarithmic=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--packages", default="tracegrad,jax,numba")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--plot", default="", help="a folder to draw the table in")
    parser.add_argument("--worker", nargs=3)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker, args.seconds)
        return
    names = args.only.split(",") if args.only else list(WORKLOADS)
    packages = args.packages.split(",")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            best: dict[str, dict[str, Any]] = {}
            for _ in range(args.rounds):
                for package in packages:
                    if package == "numba" and name not in NUMBA:
                        continue
                    save = str(Path(folder) / f"{name}.{package}.npz")
                    got = measure(name, package, save, args.seconds)
                    old = best.get(package, {})
                    best[package] = {k: min(v, old.get(k, v)) for k, v in got.items()} if "error" not in got else got
            ok = [p for p in packages if "run" in best.get(p, {})]
            for p in ok[1:]:
                if not agree(f"{folder}/{name}.{ok[0]}.npz", f"{folder}/{name}.{p}.npz"):
                    print(f"{name}: {p} and {ok[0]} give different results", file=sys.stderr)
            rows.append((name, best))
            print(
                f"{name:20s}",
                *[
                    f"{p} {show(b['run'])} (first {show(b['first'])})" if "run" in b else f"{p}: {b['error']}"
                    for p, b in best.items()
                ],
                sep="  ",
                flush=True,
            )
    if args.plot:
        draw(Path(args.plot), rows, packages)
    if args.markdown:
        print("\n| workload | tracegrad | JAX | Numba | first call: tracegrad | JAX | Numba |\n|---|---|---|---|---|---|---|")
        for name, best in rows:
            cells = [
                show(best[p][k]) if "run" in best.get(p, {}) else "-"
                for k in ("run", "first")
                for p in ("tracegrad", "jax", "numba")
            ]
            print(f"| {WORKLOADS[name].__doc__.strip().rstrip('.')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
