"""A primitive of one's own: Kepler's equation, and the orbit of a planet found from the wobble of its star.

    python examples/own_primitive.py [--out examples/output]

Where a planet is on its ellipse follows from Kepler's equation M = E - e sin E, which has no solution in closed form: E is found by
iteration. As a *primitive* the whole solver is one operation of a program. It brings its own rules:

- eagerly it is a NumPy function; compiled, its traced twin is inlined into the surrounding loops;
- its derivative is that of the implicit function, dE = (dM + sin E de) / (1 - e cos E): two lines, no iteration, no memory for steps;
- batches need nothing but to broadcast.

Then a Gauss-Newton fit uses all of it: the radial velocity of a star is measured 60 times with noise, and the orbit's five parameters are found,
from 12 starting points at once (a vmap of the compiled fit). Writes a picture of the measurements and the velocity that was found.

The iteration is Halley's, from the starting point of J. M. A. Danby and T. M. Burkardt, "The solution of Kepler's equation, I", Celestial Mechanics
31 (1983).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as onp

import tracegrad as tg
import tracegrad.numpy as np
from tracegrad import lax
from tracegrad.core import ShapedArray
from tracegrad.extend.core import Primitive
from tracegrad.interpreters import ad, batching, mlir

tg.config.update("enable_x64", True)

ITERATIONS = 6


def solve(xp, mean, e):
    """sin E and cos E for mean anomalies and eccentricities below 1, in NumPy or traced: `xp` is either module of functions."""
    mean = mean - 2 * onp.pi * xp.round(mean / (2 * onp.pi))  # one turn around zero
    x = mean + 0.85 * e * xp.sign(xp.sin(mean))
    for _ in range(ITERATIONS):
        s, c = xp.sin(x), xp.cos(x)
        f, slope, bend = x - e * s - mean, 1 - e * c, e * s
        x = x - f / (slope - f * bend / (2 * slope))  # Halley: third order
    return xp.sin(x), xp.cos(x)


# The primitive: what it computes, of which types, and its rules.

kepler_p = Primitive("kepler")
kepler_p.multiple_results = True
kepler_p.def_impl(lambda mean, e: solve(onp, onp.asarray(mean), onp.asarray(e)))


@kepler_p.def_abstract_eval
def kepler_types(mean, e):
    if mean.dtype != e.dtype or mean.dtype.kind != "f":
        raise TypeError(f"kepler takes floating-point numbers of one type, got {mean} and {e}")
    return [ShapedArray(np.broadcast_shapes(mean.shape, e.shape), mean.dtype)] * 2


def kepler_jvp(primals, tangents):
    mean, e = primals
    sin, cos = kepler(mean, e)
    d_mean, d_e = map(ad.instantiate_zeros, tangents)
    slope = (d_mean + sin * d_e) / (1 - e * cos)  # the implicit function theorem
    return [sin, cos], [cos * slope, -sin * slope]


ad.primitive_jvps[kepler_p] = kepler_jvp
batching.defbroadcasting(kepler_p)
mlir.register_lowering(kepler_p, mlir.lower_fun(lambda mean, e: solve(np, mean, e), multiple_results=True))


def kepler(mean, e):
    """(sin E, cos E) of the eccentric anomaly E at the mean anomaly M, where M = E - e sin E and 0 <= e < 1; arrays that broadcast."""
    return kepler_p.bind(mean, e)


# The star: its velocity along the line of sight (m/s) at times t (days).


def velocity(parameters, t, kepler=kepler):
    period, amplitude, phase, p, q = parameters  # p, q: eccentricity times cosine and sine of the angle of the ellipse
    e = np.sqrt(p * p + q * q)
    sin, cos = kepler(2 * np.pi * t / period + phase, np.broadcast_to(e, t.shape))
    flat = np.sqrt(1 - e * e)
    # cosine and sine of the true anomaly; the velocity is amplitude * (cos(angle + anomaly) + e cos(angle))
    c, s = (cos - e) / (1 - e * cos), flat * sin / (1 - e * cos)
    return amplitude * ((p * c - q * s) / e + p)


def fit(start, t, measured, steps=30):
    """Gauss-Newton with damping that follows success, from one starting point."""

    def residuals(x):
        return velocity(x, t) - measured

    def step(state, _):
        x, damping = state
        r, jacobian = residuals(x), tg.jacfwd(residuals)(x)
        normal = jacobian.T @ jacobian
        trial = x - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), jacobian.T @ r)
        ellipse = np.hypot(trial[3], trial[4])
        trial = trial.at[3:].multiply(np.minimum(1.0, 0.95 / ellipse))
        better = np.sum(residuals(trial) ** 2) < np.sum(r**2)
        return (np.where(better, trial, x), np.where(better, damping / 5, damping * 4)), None

    (x, _), _ = lax.scan(step, (start, 0.01), None, length=steps)
    return x, np.sqrt(np.mean(residuals(x) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    print(tg.make_ir(lambda mean: kepler(mean, 0.3))(np.ones(3)))
    mean, e = onp.meshgrid(onp.linspace(-9, 9, 181), onp.linspace(0, 0.97, 98))
    sin, cos = tg.jit(kepler)(mean, e)
    x = onp.arctan2(sin, cos)
    turns = onp.round((x - e * onp.asarray(sin) - mean) / (2 * onp.pi))
    print(f"largest error of M = E - e sin E: {onp.abs(x - e * onp.asarray(sin) - mean - 2 * onp.pi * turns).max():.1e}")

    true = onp.array([17.3, 52.0, 0.7, 0.35, 0.28])
    random = onp.random.default_rng(0)
    t = onp.sort(random.uniform(0, 90, 60))
    measured = onp.asarray(velocity(true, t)) + random.normal(0, 4.0, t.size)

    times = np.tile(t, 300)
    for label, how in (("as a primitive", kepler), ("through the iteration", lambda m, e: solve(np, m, e))):
        gradient = tg.jit(tg.grad(lambda x, how=how: np.mean(velocity(x, times, how) ** 2)))
        gradient(true)
        start = time.perf_counter()
        for _ in range(10):
            gradient(true)
        print(f"gradient of 18,000 velocities, {label}: {(time.perf_counter() - start) * 100:.2f} ms")

    starts = true * random.uniform(0.97, 1.03, (12, 5))
    starts[:, 1] = random.uniform(30, 80, 12)
    starts[:, 2:] = random.uniform(-0.5, 0.5, (12, 3)) + [0.7, 0, 0]
    found, errors = tg.jit(tg.vmap(fit, (0, None, None)))(starts, t, measured)
    best = int(np.nanargmin(errors))
    for name, value, expected in zip(("period", "amplitude", "phase", "e cos w", "e sin w"), found[best].tolist(), true):
        print(f"{name:<10} found {value:8.3f}, true {expected:8.3f}")
    print(f"residual {float(errors[best]):.2f} m/s; noise 4.00 m/s")

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fine = onp.linspace(0, 90, 1200)
    plt.figure(figsize=(8, 3.5))
    plt.plot(fine, velocity(found[best], fine), lw=1, label="the orbit that was found")
    plt.errorbar(t, measured, 4.0, fmt=".k", ms=4, lw=0.7, label="measured")
    plt.xlabel("days")
    plt.ylabel("radial velocity, m/s")
    plt.legend()
    plt.tight_layout()
    plt.savefig(args.out / "own_primitive.png", dpi=150)


if __name__ == "__main__":
    main()
