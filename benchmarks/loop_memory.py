"""Peak memory of a gradient through a long scan, by the schedule of its checkpoints.

    python benchmarks/loop_memory.py [--steps 1000000] [--size 100]

The loop carries a vector of `size` doubles. Each schedule runs in a process of its own; quoted is what the peak of the resident memory rose by, from
just before the compiled gradient is called, and what theory allows: the residuals of each step; for every(k), the carries of steps/k blocks and the
residuals of k steps; for binomial(s), s carries. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import time
from pathlib import Path


def child(schedule: str, steps: int, size: int) -> None:
    import numpy as np

    import tracegrad as tg
    import tracegrad.numpy as jnp
    from tracegrad import lax
    from tracegrad.ad_checkpoint import binomial, every

    tg.config.update("enable_x64", True)
    chosen = eval(schedule, {"every": every, "binomial": binomial, "None": None})

    def loss(x: object) -> object:
        def step(c: object, _: None) -> object:
            return jnp.sin(c) * jnp.cos(2.0 * c) + 0.5, None

        return lax.scan(step, x, None, length=steps, checkpoint=chosen)[0].sum()

    slope = tg.jit(tg.grad(loss))
    x = np.linspace(0.0, 1.0, size)
    compiled = slope.lower(x).compile()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    start = time.perf_counter()
    compiled(x)
    seconds = time.perf_counter() - start
    print(json.dumps({"kib": memory("VmHWM") - before, "seconds": seconds}))


def memory(field: str) -> int:
    """A field of /proc/self/status, KiB."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--schedule", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.schedule:
        child(options.schedule, options.steps, options.size)
        return
    n, carry = options.steps, options.size * 8
    root = max(int(n**0.5), 1)
    residuals = 4 * carry  # sine and cosine of c and of 2c
    bounds = {
        "None": n * residuals,
        f"every({root})": -(-n // root) * carry + root * residuals,
        "binomial(50)": 50 * carry,
        "binomial(10)": 10 * carry,
    }
    print(f"{n} steps, a carry of {carry} bytes\n\n| schedule | peak, MiB | theory, MiB | seconds |\n|---|---|---|---|")
    for schedule, bound in bounds.items():
        command = [sys.executable, __file__, "--schedule", schedule, "--size", str(options.size)]
        found = json.loads(subprocess.run([*command, "--steps", str(n)], capture_output=True, text=True, check=True).stdout)
        print(f"| `{schedule}` | {found['kib'] / 1024:,.1f} | {bound / 2**20:,.2f} | {found['seconds']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
