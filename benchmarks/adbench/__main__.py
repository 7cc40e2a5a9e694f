"""ADBench's problems measured: `python benchmarks/adbench` or `python -m benchmarks.adbench`.

    --only gmm,hand         some problems
    --full                  all sizes, not the quick set
    --sizes "n1000 d2 K5"   these sizes
    --packages tracegrad,jax
    --rounds 3 --seconds 0.1
    --cores 1               on so many cores (all). On one, the processor's time is measured, not the clock's: that is
                            steadier on a machine that others use
    --markdown              a table for a page at the end

Each package runs in one process of its own. In each round the packages take turns, function and derivative one after the other, so that what else
the machine does falls on all of them; quoted are medians over the rounds. Results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
if not __package__:  # run as a folder
    # the root also holds folders named like installed packages of ours, so it is searched last
    sys.path.append(str(ROOT))
    __package__ = "benchmarks.adbench"

TOLERANCE = 1e-8  # of the norm of a result; all packages compute in float64


class Worker:
    """The process of one package, asked by lines of JSON."""

    def __init__(self, name: str, cores: int) -> None:
        environment = {**os.environ, "TRACEGRAD_CACHE": "0"}
        command = [sys.executable, str(Path(__file__).parent), "--worker", name, "--cores", str(cores)]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        answer = self.read()
        self.missing: str | None = answer.get("missing")

    def read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"the process of {self.name} ended; what it printed is above")
        return json.loads(line)

    def ask(self, **request: Any) -> dict[str, Any]:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def disagreement(a: str, b: str) -> float:
    """The largest difference of two results, relative to their norms."""
    x, y = np.load(a), np.load(b)
    if x.files != y.files:
        return float("inf")
    return max(
        float(np.linalg.norm(x[k] - y[k]) / (np.linalg.norm(x[k]) or 1.0)) if x[k].shape == y[k].shape else float("inf")
        for k in x.files
    )


def show(seconds: float) -> str:
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s")):
        if seconds < limit:
            digits = f"{seconds * factor:.3g}"
            return f"{digits if 'e' not in digits else f'{seconds * factor:.0f}'} {unit}"
    return "-"


def measure(
    workers: list[Worker], problem: str, size: str, rounds: int, seconds: float, folder: str
) -> dict[str, dict[str, float]]:
    """For each package the medians of function and derivative, and what the first calls took together."""
    saved = {w.name: str(Path(folder) / f"{w.name}.npz") for w in workers}
    first = {w.name: sum(w.ask(prepare=[problem, size], save=saved[w.name])["first"].values()) for w in workers}
    for w in workers[1:]:
        gap = disagreement(saved[workers[0].name], saved[w.name])
        if not gap <= TOLERANCE:
            print(f"{problem} {size}: {w.name} and {workers[0].name} differ by {gap:.1e}", file=sys.stderr)
    times: dict[str, list[dict[str, float]]] = {w.name: [] for w in workers}
    for _ in range(rounds):
        for w in workers:
            times[w.name].append(w.ask(time=seconds)["seconds"])
    return {
        name: {"first": first[name], **{kind: statistics.median(t[kind] for t in taken) for kind in ("primal", "derivative")}}
        for name, taken in times.items()
    }


def markdown(rows: list[tuple[str, str, float, dict[str, dict[str, float]]]], names: list[str]) -> str:
    head = ["problem", "bound", *names]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for problem, size, bound, got in rows:
        times = [(got[n]["primal"], got[n]["derivative"]) for n in names]
        cells = [f"{show(f)}, {show(df)}, {df / f:.1f}" for f, df in times]
        lines.append(f"| {problem} {size} | {bound:.3g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    from .packages import NAMES
    from .worker import PROBLEMS
    from .worker import main as work

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PROBLEMS))
    parser.add_argument("--sizes", default="")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--packages", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--cores", type=int, default=0)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--worker")
    args = parser.parse_args()
    if args.cores and not hasattr(os, "sched_setaffinity"):
        parser.error("--cores needs a system on which a process can choose its cores, such as Linux")
    if args.worker:
        if args.cores:  # before the package is imported, which then starts as many threads
            os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-args.cores :]))
        work(args.worker, time.process_time if args.cores == 1 else time.perf_counter)
        return
    chosen_packages = args.packages.split(",")
    if unknown := set(chosen_packages) - set(NAMES):
        parser.error(f"no package {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    workers = []
    for name in chosen_packages:
        worker = Worker(name, args.cores)
        if worker.missing:
            print(f"{name} is left out: {worker.missing}")
            worker.close()
        else:
            workers.append(worker)
    names = [w.name for w in workers]
    print(f"{'':36s} {'bound':>6s}  " + "  ".join(f"{name + ': f, df, df/f (first calls)':38s}" for name in names))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for problem in args.only.split(","):
            module = importlib.import_module(f"{__package__}.{problem}")
            chosen = module.SIZES if args.full else module.QUICK
            if args.sizes:
                chosen = [size for size in args.sizes.split(",") if size in module.SIZES]
            for size in chosen:
                bound = module.bound(module.SIZES[size]) if hasattr(module, "bound") else module.BOUND
                got = measure(workers, problem, size, args.rounds, args.seconds, folder)
                rows.append((problem, size, bound, got))
                cells = []
                for t in got.values():
                    ratio = f"{t['derivative'] / t['primal']:.2f}"
                    cells.append(f"{show(t['primal']):>8s} {show(t['derivative']):>8s} {ratio:>7s} ({show(t['first'])})")
                print(f"{problem + ' ' + size:36s} {bound:6.3g}  " + "  ".join(f"{cell:38s}" for cell in cells), flush=True)
    for worker in workers:
        worker.close()
    if args.markdown:
        print("\n" + markdown(rows, names))


if __name__ == "__main__":
    main()
