"""Fit a neuron: the conductances of a Hodgkin-Huxley membrane, found by gradient descent through a simulation.

    python examples/neuron.py [--out examples/output]

A membrane is simulated for 40 ms in 4,000 steps of `lax.scan` under a noisy current; the voltage that a hidden set of conductances gives is the
recording. Starting from wrong conductances, Adam follows the gradient of the squared voltage error through all 4,000 steps. Loops over small state are where
compiled programs shine: the simulation, its derivative and the optimizer run as one native function.

The model: A. L. Hodgkin and A. F. Huxley, "A quantitative description of membrane current", J. Physiol. 117 (1952). Units: mV, ms, uA/cm2,
mS/cm2, uF/cm2. Writes a picture of the recording, the first and the fitted voltage, and the path of the conductances.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as onp

import tracegrad as tg
import tracegrad.numpy as np
from tracegrad import lax

DT = 0.01
E_NA, E_K, E_LEAK = 50.0, -77.0, -54.4
TRUE = onp.array([120.0, 36.0, 0.3])


def rates(v):
    """Opening and closing rates (1/ms) of the gates m, h and n at voltage v (mV)."""

    def ratio(u):  # u / (1 - exp(-u)), whose limit at 0 is 1
        near = np.abs(u) < 1e-4
        safe = np.where(near, 1.0, u)
        return np.where(near, 1.0 + u / 2, safe / (1.0 - np.exp(-safe)))

    m = ratio((v + 40.0) / 10.0), 4.0 * np.exp(-(v + 65.0) / 18.0)
    h = 0.07 * np.exp(-(v + 65.0) / 20.0), 1.0 / (1.0 + np.exp(-(v + 35.0) / 10.0))
    n = 0.1 * ratio((v + 55.0) / 10.0), 0.125 * np.exp(-(v + 65.0) / 80.0)
    return m, h, n


def simulate(g, current):
    """The voltage (mV) at each step, for conductances g[3] (mS/cm2) and an injected current[steps] (uA/cm2)."""

    def step(state, i):
        v, m, h, n = state
        gates = []
        for x, (a, b) in zip((m, h, n), rates(v)):
            # exponential Euler: the gates' equations are linear while v stands still
            rest = a / (a + b)
            gates.append(rest + (x - rest) * np.exp(-(a + b) * DT))
        m, h, n = gates
        ionic = g[0] * m**3 * h * (v - E_NA) + g[1] * n**4 * (v - E_K) + g[2] * (v - E_LEAK)
        v = v + DT * (i - ionic)
        return (v, m, h, n), v

    return lax.scan(step, (-65.0, 0.053, 0.596, 0.317), current)[1]


def error(log_g, current, recording):
    """Mean squared difference (mV squared) between the simulation and the recording."""
    return np.mean((simulate(np.exp(log_g), current) - recording) ** 2)


@tg.jit
def fit(log_g, current, recording):
    """150 steps of Adam on the logarithms of the conductances; returns the last ones and the path."""

    def step(carry, t):
        x, m, v = carry
        value, g = tg.value_and_grad(error)(x, current, recording)
        m, v = 0.8 * m + 0.2 * g, 0.98 * v + 0.02 * g * g
        moved = x - 0.03 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.98**t)) + 1e-9)
        return (moved, m, v), (value, np.exp(x))

    zeros = np.zeros_like(log_g)
    (x, _, _), path = lax.scan(step, (log_g, zeros, zeros), np.arange(1.0, 151.0))
    return np.exp(x), path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    args = parser.parse_args()
    tg.config.update("enable_x64", True)
    rng = onp.random.default_rng(1)
    current = 9.0 + onp.repeat(rng.normal(size=40) * 4.0, 100)
    recording = tg.jit(simulate)(TRUE, current) + 0.5 * rng.normal(size=len(current))
    start = onp.array([90.0, 45.0, 0.5])
    clock = time.perf_counter()
    found, (errors, path) = tg.block_until_ready(fit(onp.log(start), current, recording))
    print(f"150 gradients through {len(current)} steps in {time.perf_counter() - clock:.2f} s, compilation included")
    for name, a, b, c in zip(("sodium", "potassium", "leak"), start, onp.asarray(found), TRUE):
        print(f"{name:10s} started at {a:6.2f}, found {b:6.2f}, true {c:6.2f} mS/cm2")
    draw(args.out, current, recording, start, found, errors, path)
    print(f"picture: {args.out / 'neuron.png'}")


def draw(out: Path, current, recording, start, found, errors, path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    t = onp.arange(len(current)) * DT
    figure, axes = plt.subplots(3, 1, figsize=(9, 8), layout="constrained", height_ratios=[3, 1, 2])
    axes[0].plot(t, recording, color="0.7", label="recording")
    axes[0].plot(t, onp.asarray(simulate_compiled(start, current)), color="tab:orange", lw=1, label="before the fit")
    axes[0].plot(t, onp.asarray(simulate_compiled(found, current)), color="tab:blue", lw=1, label="after the fit")
    axes[0].set(ylabel="voltage (mV)")
    axes[0].legend(frameon=False, loc="upper right")
    axes[1].plot(t, current, color="0.4")
    axes[1].set(xlabel="time (ms)", ylabel="current\n(uA/cm2)")
    axes[2].plot(onp.asarray(path) / TRUE, label=["sodium", "potassium", "leak"])
    axes[2].axhline(1.0, color="0.7", lw=1)
    axes[2].set(xlabel="step of Adam", ylabel="conductance / true one")
    twin = axes[2].twinx()
    twin.semilogy(onp.asarray(errors), color="0.6", ls=":")
    twin.set_ylabel("squared error (mV squared), dotted")
    axes[2].legend(frameon=False)
    figure.savefig(out / "neuron.png", dpi=130)
    plt.close(figure)


simulate_compiled = tg.jit(simulate)


if __name__ == "__main__":
    main()
