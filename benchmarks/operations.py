"""Single operations on arrays of usual sizes, against JAX and NumPy in one process.

python benchmarks/operations.py [--seconds 0.3] [--threads] [--markdown] [--plot FOLDER] [NAME ...]

All take turns; of each the least time of a call counts, which other processes disturb little: of the processor, on one core; with `--threads`, of the
clock, on all cores. Results are compared first. Ratios above 1 are in our favour; operations that NumPy does not have in the same form have none beside it.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

R = np.random.default_rng(0)
F = np.float32
V = R.normal(size=1_000_000).astype(F)
M = R.normal(size=(1000, 1000)).astype(F)
S = R.normal(size=(100, 100)).astype(F)
B = R.normal(size=(64, 64, 64)).astype(F)
N = R.integers(0, 1000, 1_000_000).astype(np.int32)
I = R.integers(0, 1000, 100_000)  # noqa: E741
POSITIVE = np.abs(V) + F(0.1)
DEFINITE = S @ S.T + 100 * np.eye(100, dtype=F)

ELEMENTWISE: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "exp": (lambda n, x: n.exp(x), (V,)),
    "log1p": (lambda n, x: n.log1p(x), (POSITIVE,)),
    "pow": (lambda n, x: x**1.7, (POSITIVE,)),
    "sin + cos": (lambda n, x: n.sin(x) + n.cos(x), (V,)),
    "tanh": (lambda n, x: n.tanh(x), (V,)),
    "arctan2": (lambda n, x: n.arctan2(x, x[::-1]), (V,)),
    "floor_divide": (lambda n, x: x // 0.3, (V,)),
    "mod": (lambda n, x: x % 0.3, (V,)),
    "integers // 7": (lambda n, x: x // 7, (N,)),
    "integers % 7": (lambda n, x: x % 7, (N,)),
    "integers ** 3": (lambda n, x: x**3, (N,)),
    "where": (lambda n, x: n.where(x > 0, x, F(0.1) * x), (V,)),
    "clip": (lambda n, x: n.clip(x, -1, 1), (V,)),
    "astype": (lambda n, x: x.astype(np.int32), (V,)),
    "complex product": (lambda n, x: x * x.conj(), (V.astype(np.complex64),)),
    "complex exp": (lambda n, x: n.exp(1j * x), (V,)),
    "polyval": (lambda n, x: n.polyval(n.array([1, 2, 3, 4, 5], dtype=F), x), (V,)),
    "vander": (lambda n, x: n.vander(x, 5), (V[:100_000],)),
}
REDUCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "sum": (lambda n, x: n.sum(x), (V,)),
    "sum of columns": (lambda n, x: n.sum(x, 0), (M,)),
    "sum of rows": (lambda n, x: n.sum(x, 1), (M,)),
    "max": (lambda n, x: n.max(x), (V,)),
    "max of columns": (lambda n, x: n.max(x, 0), (M,)),
    "argmax": (lambda n, x: n.argmax(x), (V,)),
    "argmax of columns": (lambda n, x: n.argmax(x, 0), (M,)),
    "argmax of rows": (lambda n, x: n.argmax(x, 1), (M,)),
    "mean, var": (lambda n, x: (n.mean(x), n.var(x)), (V,)),
    "std of columns": (lambda n, x: n.std(x, 0), (M,)),
    "any": (lambda n, x: n.any(x > 10), (V,)),
    "nansum": (lambda n, x: n.nansum(x), (V,)),
    "norm": (lambda n, x: n.linalg.norm(x), (V,)),
    "allclose": (lambda n, x: n.allclose(x, x + F(1e-9)), (V,)),
    "trapezoid": (lambda n, x: n.trapezoid(x), (V,)),
    "cumsum": (lambda n, x: n.cumsum(x), (V,)),
    "cumsum of columns": (lambda n, x: n.cumsum(x, 0), (M,)),
    "cov": (lambda n, x: n.cov(x), (M[:100],)),
    "corrcoef": (lambda n, x: n.corrcoef(x), (M[:100],)),
}
SEARCHES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "sort": (lambda n, x: n.sort(x), (V,)),
    "sort of rows": (lambda n, x: n.sort(x, 1), (M,)),
    "sort of columns": (lambda n, x: n.sort(x, 0), (M,)),
    "sort of integers": (lambda n, x: n.sort(x), (N,)),
    "argsort": (lambda n, x: n.argsort(x), (V,)),
    "median": (lambda n, x: n.median(x), (V,)),
    "percentile": (lambda n, x: n.percentile(x, 90), (V,)),
    "nanmedian of rows": (lambda n, x: n.nanmedian(x, 1), (M,)),
    "unique": (lambda n, x: np.unique(x) if n is np else n.unique(x, size=1000), (N,)),
    "nonzero": (lambda n, x: np.nonzero(x > 0)[0] if n is np else n.nonzero(x > 0, size=int((V > 0).sum()))[0], (V,)),
    "bincount": (lambda n, x: np.bincount(x, minlength=1000) if n is np else n.bincount(x, length=1000), (N,)),
    "searchsorted": (lambda n, a, x: n.searchsorted(a, x), (np.sort(V[:1000]), V[:100_000])),
    "digitize": (lambda n, x, b: n.digitize(x, b), (V, np.linspace(-2, 2, 50, dtype=F))),
    "histogram": (lambda n, x: n.histogram(x, bins=100)[0], (V,)),
    "interp": (lambda n, x: n.interp(x, n.linspace(-3, 3, 100), n.linspace(0, 1, 100)), (V,)),
    "isin": (lambda n, x: n.isin(x, n.arange(50)), (N[:100_000],)),
}
REARRANGED: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "transpose + 1": (lambda n, x: n.ascontiguousarray(n.transpose(x)) + 1 if n is np else n.transpose(x) + 1, (M,)),
    "transpose of three": (lambda n, x: np.ascontiguousarray(x.transpose(2, 0, 1)) if n is np else x.transpose(2, 0, 1), (B,)),
    "flip": (lambda n, x: x[::-1] + 0, (V,)),
    "roll": (lambda n, x: n.roll(x, 7), (V,)),
    "roll of rows": (lambda n, x: n.roll(x, 3, 1), (M,)),
    "tile": (lambda n, x: n.tile(x, (3, 3)), (M[:300, :300],)),
    "repeat": (lambda n, x: n.repeat(x, 3), (V,)),
    "concatenate": (lambda n, x: n.concatenate([x, x], 1), (M,)),
    "stack": (lambda n, x: n.stack([x, x], -1), (M,)),
    "pad": (lambda n, x: n.pad(x, 3), (M,)),
    "pad, reflecting": (lambda n, x: n.pad(x, 3, mode="reflect"), (M,)),
    "take of rows": (lambda n, x, i: n.take(x, i, 0), (M, I[:1000])),
    "take of columns": (lambda n, x, i: n.take(x, i, 1), (M, I[:1000])),
    "x[i]": (lambda n, x, i: x[i], (V, I)),
    "x[i, j]": (lambda n, x, i, j: x[i, j], (M, I, I[::-1].copy())),
    "tril": (lambda n, x: n.tril(x), (M,)),
    "diag of a vector": (lambda n, x: n.diag(x), (V[:1000],)),
    "diff": (lambda n, x: n.diff(x), (V,)),
    "gradient": (lambda n, x: n.gradient(x)[0], (M,)),
}
ALGEBRA: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "x @ x, 100": (lambda n, x: x @ x, (S,)),
    "x @ x, 1000": (lambda n, x: x @ x, (M,)),
    "x @ v": (lambda n, x, v: x @ v, (M, V[:1000])),
    "v @ x": (lambda n, x, v: v @ x, (M, V[:1000])),
    "outer": (lambda n, v: n.outer(v, v), (V[:1000],)),
    "x @ x, 64 of 64": (lambda n, x: x @ x, (B,)),
    "einsum ijk,ilk->jl": (lambda n, x: n.einsum("ijk,ilk->jl", x, x), (B,)),
    "tensordot": (lambda n, x: n.tensordot(x, x, ((0, 1), (0, 1))), (B,)),
    "x.T @ x, tall": (lambda n, x: x.T @ x, (V.reshape(-1, 20),)),
    "kron": (lambda n, x: n.kron(x, x), (S[:30, :30],)),
    "convolve": (lambda n, x, k: n.convolve(x, k), (V[:100_000], V[:50])),
    "inv": (lambda n, x: n.linalg.inv(x), (DEFINITE,)),
    "solve": (lambda n, x: n.linalg.solve(x, x), (DEFINITE,)),
    "cholesky": (lambda n, x: n.linalg.cholesky(x), (DEFINITE,)),
    "det": (lambda n, x: n.linalg.det(x / 130), (DEFINITE,)),
    "qr": (lambda n, x: n.linalg.qr(x)[1], (S,)),
    "qr, tall": (lambda n, x: n.linalg.qr(x)[1], (M[:, :10],)),
    "svd": (lambda n, x: n.linalg.svd(x)[1], (S,)),
    "eigh": (lambda n, x: n.linalg.eigh(x)[0], (DEFINITE,)),
    "lstsq": (lambda n, x, y: n.linalg.lstsq(x, y)[0], (M[:200, :20], V[:200])),
    "fft": (lambda n, x: n.fft.fft(x), (V[: 2**16].astype(np.complex64),)),
    "rfft": (lambda n, x: n.fft.rfft(x), (V[: 2**16],)),
    "fft2": (lambda n, x: n.fft.fft2(x), (M[:512, :512].astype(np.complex64),)),
}
RANDOM: dict[str, Callable[[Any, Any, Any], Any]] = {
    "random.bits": lambda n, r, k: r.bits(k, (1_000_000,)),
    "random.uniform": lambda n, r, k: r.uniform(k, (1_000_000,)),
    "random.normal": lambda n, r, k: r.normal(k, (1_000_000,)),
    "random.randint": lambda n, r, k: r.randint(k, (1_000_000,), 0, 100),
    "random.bernoulli": lambda n, r, k: r.bernoulli(k, 0.3, (1_000_000,)),
    "random.exponential": lambda n, r, k: r.exponential(k, (1_000_000,)),
    "random.gumbel": lambda n, r, k: r.gumbel(k, (1_000_000,)),
    "random.permutation": lambda n, r, k: r.permutation(k, 100_000),
    "random.choice": lambda n, r, k: r.choice(k, 100, (100_000,), p=n.ones(100) / 100),
    "random.categorical": lambda n, r, k: r.categorical(k, n.zeros((10_000, 100))),
    "random.poisson": lambda n, r, k: r.poisson(k, 3.5, (100_000,)),
    "random.binomial": lambda n, r, k: r.binomial(k, 20, 0.3, (100_000,)),
    "random.gamma": lambda n, r, k: r.gamma(k, 2.5, (100_000,)),
    "random.beta": lambda n, r, k: r.beta(k, 2.5, 1.5, (100_000,)),
}
"""Numbers of random.gamma and what is made of it agree but for those that rounding has accepted or not."""
CASES = ELEMENTWISE | REDUCTIONS | SEARCHES | REARRANGED | ALGEBRA
TOLERANCE = {"random.gamma": 1.0, "random.beta": 1.0, "x.T @ x, tall": 1e-4, "det": 1e-3, "histogram": 1e-3}


def compare(name: str, ours: Any, theirs: Any) -> None:
    """Both give the same numbers, up to rounding."""
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, (tuple, list)) else [(ours, theirs)]
    for x, y in pairs:
        x, y = np.asarray(x), np.asarray(y)
        scale = float(np.max(np.abs(y), initial=0))
        assert x.shape == y.shape, name
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=TOLERANCE.get(name, 2e-5) * max(scale, 1e-9), err_msg=name)


def sides(name: str) -> tuple[list[Callable[[], Any]], bool]:
    """Calls of ours, of JAX, and of NumPy where it has the operation; whether it has."""
    import jax
    import jax.numpy as jnp

    import tracegrad as tg
    import tracegrad.numpy as tnp

    if name in RANDOM:
        sample = RANDOM[name]
        ours, theirs = tg.jit(lambda k: sample(tnp, tg.random, k)), jax.jit(lambda k: sample(jnp, jax.random, k))
        a, b = tg.random.key(0), jax.random.key(0)
        return [lambda: ours(a), lambda: jax.block_until_ready(theirs(b))], False
    function, arguments = CASES[name]
    ours, theirs = tg.jit(lambda *x: function(tnp, *x)), jax.jit(lambda *x: function(jnp, *x))
    xs, ys = [tg.device_put(x) for x in arguments], [jax.device_put(x) for x in arguments]
    arrays = [np.ascontiguousarray(x) for x in arguments]
    return [lambda: ours(*xs), lambda: jax.block_until_ready(theirs(*ys)), lambda: function(np, *arrays)], True


def least(calls: list[Callable[[], Any]], seconds: float, clock: Callable[[], int]) -> list[float]:
    """The least time of a call of each, in seconds, in batches of about a millisecond that take turns."""
    turns, best = [], [float("inf")] * len(calls)
    for call in calls:
        start = time.perf_counter()
        call()
        turns.append(max(1, int(1e-3 / max(time.perf_counter() - start, 1e-7))))
    end = time.perf_counter() + seconds * len(calls)
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for k, call in enumerate(calls):
            start_ns = clock()
            for _ in range(turns[k]):
                call()
            best[k] = min(best[k], (clock() - start_ns) * 1e-9 / turns[k])
        rounds += 1
    return best


def shown(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.3, help="for each side of each operation")
    parser.add_argument("--threads", action="store_true", help="time of the clock, on all cores")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--plot", default="", help="a folder to draw the table in")
    parser.add_argument("names", nargs="*", default=[*CASES, *RANDOM])
    options = parser.parse_args()
    clock = time.perf_counter_ns if options.threads else time.process_time_ns
    if not options.threads:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")
    head = ("operation", "tracegrad", "JAX", "NumPy", "JAX / tracegrad", "NumPy / tracegrad")
    if options.markdown:
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    else:
        print(f"{head[0]:22s} {head[1]:>10s} {head[2]:>10s} {head[3]:>10s} {head[4]:>16s} {head[5]:>18s}")
    ratios: dict[str, dict[str, float]] = {"JAX": {}, "NumPy": {}}
    for name in options.names:
        calls, beside_numpy = sides(name)
        compare(name, calls[0](), calls[1]())
        best = least(calls, options.seconds, clock)
        ratios["JAX"][name] = best[1] / best[0]
        if beside_numpy:
            ratios["NumPy"][name] = best[2] / best[0]
        cells = (
            [shown(t) for t in best]
            + ["-"] * (3 - len(best))
            + [f"{ratios[s][name]:.2f}" if name in ratios[s] else "-" for s in ratios]
        )
        if options.markdown:
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        else:
            print(f"{name:22s} {cells[0]:>10s} {cells[1]:>10s} {cells[2]:>10s} {cells[3]:>16s} {cells[4]:>18s}", flush=True)
    for side, values in ratios.items():
        if len(values) > 1:
            middle, behind = float(np.median(list(values.values()))), sum(v < 1 for v in values.values())
            print(f"\n{side} / tracegrad: the median is {middle:.2f}; below 1: {behind} of {len(values)}")
    if options.plot:
        from pathlib import Path

        from charts import bars

        bars(Path(options.plot) / "operations.svg", "times of operations, tracegrad = 1", ratios, line=1.0, logarithmic=True)


if __name__ == "__main__":
    main()
