"""Read what the compiler does: one function, every stage, and a picture of where its time goes.

    python examples/read_the_ir.py [--out examples/output]

The function is the loss of a recurrent network; its gradient is followed from the traced program through the passes, the loop nests and LLVM IR to
assembly. Each stage's text is printed (long ones cut) and written to a file; the picture shows how many equations each pass leaves and how
long each stage takes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as onp

import tracegrad as tg
import tracegrad.numpy as np
from tracegrad import lax
from tracegrad.transforms.pipeline import optimize

STAGES = ("program", "optimized", "loops", "llvm", "llvm-optimized", "asm")


def loss(w, xs):
    """Mean squared state of h <- tanh(w h + x) over xs[steps, units]."""

    def step(h, x):
        h = np.tanh(w @ h + x)
        return h, h

    _, hs = lax.scan(step, np.zeros(xs.shape[1]), xs)
    return np.mean(hs**2)


def show(title: str, text: str, lines: int) -> None:
    print(f"\n{'-' * 100}\n{title}\n{'-' * 100}")
    rows = text.splitlines()
    print("\n".join(rows[:lines]))
    if len(rows) > lines:
        print(f"... and {len(rows) - lines} more lines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    parser.add_argument("--lines", type=int, default=24, help="how much of each stage to print")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    w = onp.eye(4, dtype=onp.float32)
    xs = onp.ones((10, 4), onp.float32)
    gradient = tg.grad(loss)

    show("the loss, as traced: print(make_ir(loss)(w, xs))", str(tg.make_ir(loss)(w, xs)), args.lines)
    program = tg.make_ir(gradient)(w, xs)
    counts = [("traced", sum(1 for _ in program.walk()))]
    optimize(program, observe=lambda p, before, after: counts.append((p.__name__, sum(1 for _ in after.walk()))))

    lowered = tg.jit(gradient).lower(w, xs)
    times = []
    for stage in STAGES:
        start = time.perf_counter()
        text = lowered.as_text(stage)
        times.append((stage, time.perf_counter() - start))
        (args.out / f"gradient.{stage}.txt").write_text(text)
        show(f"the gradient: {stage}", text, args.lines)
    draw(args.out, counts, times)
    print(f"\nstages: {args.out}/gradient.*.txt\npicture: {args.out / 'read_the_ir.png'}")


def draw(out: Path, counts, times) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = [f"{i}. {name.replace('_', ' ')}" for i, (name, _) in enumerate(counts)]
    left.barh(names[::-1], [n for _, n in counts][::-1], color="tab:blue")
    left.set(xlabel="equations, those of loop bodies included", title="what each pass leaves")
    right.barh([s for s, _ in times][::-1], [t * 1e3 for _, t in times][::-1], color="tab:orange")
    right.set(xlabel="ms until the stage's text", title="where the time goes")
    figure.savefig(out / "read_the_ir.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
