"""Fourier transforms of many lengths and layouts, against JAX and NumPy in one process on one core.

python benchmarks/fft.py [--repeat 20] [--errors] [NAME ...]

The three take turns; of each the least processor time counts, which other processes disturb little. Ratios above 1 are in our favour. `--errors`: the
errors beside them, in the root mean square relative to the result, in units of the precision's roundoff; of NumPy in the same precision.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import tracegrad as tg  # noqa: E402
import tracegrad.numpy as tnp  # noqa: E402

CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], str]] = {
    "cube100": ("fftn", (100, 100, 100), (0, 1, 2), "c16"),
    "cube64": ("fftn", (64, 64, 64), (0, 1, 2), "c8"),
    "cube128": ("fftn", (128, 128, 128), (0, 1, 2), "c16"),
    "image512": ("fftn", (512, 512), (0, 1), "c8"),
    "image1000": ("fftn", (1000, 1000), (0, 1), "c16"),
    "image1024": ("rfftn", (1024, 1024), (0, 1), "f4"),
    "inverse_image": ("irfftn", (512, 257), (0, 1), "c16"),
    "images": ("rfftn", (32, 128, 128), (1, 2), "f4"),
    "rows100": ("fftn", (1000, 100), (1,), "c16"),
    "rows101": ("fftn", (1000, 101), (1,), "c16"),
    "rows1009": ("fftn", (100, 1009), (1,), "c16"),
    "rows256": ("fftn", (1000, 256), (1,), "c8"),
    "rows1024": ("rfftn", (500, 1024), (1,), "f4"),
    "rows1000": ("ifftn", (500, 1000), (1,), "c16"),
    "rows4096": ("fftn", (100, 4096), (1,), "c16"),
    "rows8": ("fftn", (20000, 8), (1,), "c16"),
    "columns100": ("fftn", (100, 1000), (0,), "c16"),
    "columns1024": ("fftn", (1024, 500), (0,), "c8"),
    "middle": ("fftn", (100, 64, 100), (1,), "c16"),
    "one32": ("fftn", (32,), (0,), "c16"),
    "one100": ("fftn", (100,), (0,), "c16"),
    "one1024": ("fftn", (1024,), (0,), "c16"),
    "one10000": ("fftn", (10000,), (0,), "c16"),
    "one65536": ("fftn", (65536,), (0,), "c8"),
    "one1000000": ("fftn", (1_000_000,), (0,), "c16"),
    "real1000000": ("rfftn", (1_000_000,), (0,), "f8"),
    "back1000000": ("irfftn", (500_001,), (0,), "c16"),
    "one997": ("fftn", (997,), (0,), "c16"),
    "one10007": ("fftn", (10007,), (0,), "c16"),
}
"""The function, the shape and dtype of its argument, the axes."""


def argument(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    r = np.random.default_rng(0)
    x = r.normal(size=shape)
    return (x + 1j * r.normal(size=shape)).astype(dtype) if dtype[0] == "c" else x.astype(dtype)


def timed(call: Callable[[], Any], turns: int = 1) -> float:
    start = time.process_time_ns()
    for _ in range(turns):
        call()
    return (time.process_time_ns() - start) * 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("names", nargs="*", default=list(CASES))
    options = parser.parse_args()
    tg.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_x64", True)
    print("| transform | tracegrad | JAX | NumPy | JAX / tracegrad | NumPy / tracegrad |" + " errors |" * options.errors)
    print("|---|---|---|---|---|---|" + "---|" * options.errors)
    for name in options.names:
        function, shape, axes, dtype = CASES[name]
        x = argument(shape, dtype)
        ours = tg.jit(lambda x, f=getattr(tnp.fft, function), axes=axes: f(x, axes=axes))
        theirs = jax.jit(lambda x, f=getattr(jnp.fft, function), axes=axes: f(x, axes=axes))
        numpy = lambda x, f=getattr(np.fft, function), axes=axes: f(x, axes=axes)  # noqa: E731
        a, b = tg.device_put(x), jax.device_put(x)
        y, z = np.asarray(ours(a)), np.asarray(theirs(b))
        assert np.linalg.norm((y - z).ravel()) <= 1e-5 * np.linalg.norm(z.ravel())
        calls: list[Callable[[], Any]] = [
            lambda f=ours, a=a: f(a).block_until_ready(),
            lambda f=theirs, b=b: f(b).block_until_ready(),
            lambda f=numpy, x=x: f(x),
        ]
        turns = max(1, int(2e-3 / max(timed(calls[2]), 1e-6)))
        best = [float("inf")] * 3
        for _ in range(options.repeat):
            for k, call in enumerate(calls):
                best[k] = min(best[k], timed(call, turns) / turns)
        cells = [f"{t * 1e6:.1f} us" for t in best] + [f"{t / best[0]:.2f}" for t in best[1:]]
        if options.errors:
            wide = x.astype(np.clongdouble if x.dtype.kind == "c" else np.longdouble)
            exact = numpy(wide)
            errors = [np.linalg.norm((v - exact).ravel()) / np.linalg.norm(exact.ravel()) for v in (y, z, numpy(x))]
            cells.append(", ".join(f"{float(e) / np.finfo(y.dtype).eps:.2f}" for e in errors))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
