"""Elementary and special functions of a million elements, and likelihoods made of them, against JAX in one process on one core.

python benchmarks/vector_math.py [--repeat 20] [NAME ...]

Both sides take turns; of each the least processor time counts, which other processes disturb little. A ratio above 1 is in our favour.
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
import jax.scipy.special as jax_special  # noqa: E402
import numpy as np  # noqa: E402

import tracegrad as tg  # noqa: E402
import tracegrad.numpy as tnp  # noqa: E402
import tracegrad.scipy.special as special  # noqa: E402
from tracegrad import lax  # noqa: E402

SIZE = 1_000_000
FUNCTIONS = (
    "exp exp2 expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh cbrt logistic rsqrt erf erfc erf_inv lgamma digamma "
    "bessel_i0e bessel_i1e pow atan2 zeta polygamma igamma igammac betainc random_gamma_grad"
).split()
LIKELIHOODS = ("poisson", "student", "negative_binomial")


def likelihood(name: str, np_: Any, sp: Any) -> Callable[..., Any]:
    def poisson(p: Any, x: Any, y: Any) -> Any:
        rate = p[0] + p[1] * x
        return np_.sum(y * rate - np_.exp(rate) - sp.gammaln(y + 1))

    def student(p: Any, x: Any, y: Any) -> Any:
        freedom, z = np_.exp(p[0]), (y - p[2] * x) / np_.exp(p[1])
        front = sp.gammaln((freedom + 1) / 2) - sp.gammaln(freedom / 2) - np_.log(freedom * np_.pi) / 2 - p[1]
        return np_.sum(front - (freedom + 1) / 2 * np_.log1p(z * z / freedom))

    def negative_binomial(p: Any, x: Any, y: Any) -> Any:
        mean, size = np_.exp(p[0] + p[1] * x), np_.exp(p[2] + 0.1 * x)
        counts = sp.gammaln(y + size) - sp.gammaln(size) - sp.gammaln(y + 1)
        return np_.sum(counts + size * np_.log(size / (size + mean)) + y * np_.log(mean / (size + mean)))

    return {"poisson": poisson, "student": student, "negative_binomial": negative_binomial}[name]


def arguments(name: str, r: np.random.Generator) -> list[np.ndarray]:
    if name in LIKELIHOODS:
        return [np.array([0.3, 0.2, 0.4]), r.normal(size=SIZE), r.poisson(3, SIZE)]
    if name in ("asin", "acos", "atanh", "erf_inv"):
        return [r.uniform(-0.99, 0.99, SIZE)]
    if name in ("log", "log1p", "rsqrt", "lgamma", "digamma", "polygamma"):
        return [r.uniform(0.1, 20, SIZE)]
    if name in ("acosh", "zeta"):
        return [r.uniform(1.1, 20, SIZE) for _ in range(1 + (name == "zeta"))]
    if name in ("igamma", "igammac", "random_gamma_grad"):
        shape = np.exp(r.uniform(-2, 6, SIZE))
        return [shape, r.gamma(shape)]
    if name == "betainc":
        return [r.uniform(0.5, 20, SIZE), r.uniform(0.5, 20, SIZE), r.uniform(0, 1, SIZE)]
    if name == "pow":
        return [r.uniform(0.1, 5, SIZE), r.normal(size=SIZE)]
    return [3 * r.normal(size=SIZE) for _ in range(1 + (name == "atan2"))]


def pair(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function of JAX and ours."""
    if name in LIKELIHOODS:
        return jax.value_and_grad(likelihood(name, jnp, jax_special)), tg.value_and_grad(likelihood(name, tnp, special))
    if name == "polygamma":
        return lambda x: jax_special.polygamma(1, x), lambda x: special.polygamma(1, x)
    return getattr(jax.lax, name), getattr(lax, name)


def least(functions: list[Callable[[], Any]], repeat: int) -> list[float]:
    """The least processor time of each in milliseconds, taking turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeat):
        for f, seconds in zip(functions, times, strict=True):
            start = time.process_time()
            f()
            seconds.append(time.process_time() - start)
    return [1e3 * min(t) for t in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    tg.config.update("enable_x64", True)
    print("| function | f32: JAX (ms) | ours | ratio | f64: JAX (ms) | ours | ratio |\n|---|---|---|---|---|---|---|")
    for name in options.names or [*FUNCTIONS, *LIKELIHOODS]:
        cells = []
        for dtype in (np.float32, np.float64):
            xs = [x.astype(dtype) for x in arguments(name, np.random.default_rng(0))]
            theirs, ours = pair(name)
            theirs, ours = jax.jit(theirs), tg.jit(ours)
            a, b = [jnp.asarray(x) for x in xs], [tnp.asarray(x) for x in xs]
            calls = [lambda f=theirs, a=a: jax.block_until_ready(f(*a)), lambda f=ours, b=b: f(*b)]
            for call in calls:
                call()
            t = least(calls, options.repeat)
            cells.append(f"{t[0]:.2f} | {t[1]:.2f} | {t[0] / t[1]:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
