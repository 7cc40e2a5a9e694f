"""Measure the errors of the elementary functions and write the table of docs/accuracy.md.

python benchmarks/accuracy.py [--samples 5000] [NAME ...]

With names only their rows are measured again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from elementary_harness import references, worst_error  # noqa: E402

HEAD = """# Accuracy of elementary functions

Compiled programs compute elementary functions by code that LLVM inlines and vectorizes (`codegen/elementary/`), not by calls of a C library. The table
gives the largest error found, in units in the last place (ulp) of the exact result, over {n:,} random arguments per range and function, ranges chosen to cover
the domain; the reference is mpmath with 140 bits. Special values (infinities, NaN, signed zeros) are exact; results in the range of subnormal numbers
are rounded twice. `tests/test_elementary.py` holds bounds on a smaller sample. To measure again: `python benchmarks/accuracy.py`.

`sin`, `cos` and `tan` reduce their argument exactly up to |x| = 2^51 in both precisions. Beyond that the C library's function is called for the few elements
concerned, which reduces over the whole range; a vector costs one comparison and one branch for it.

In single precision `erf_inv` is XLA's approximation, which rounds 1 - x^2: that makes normal random numbers agree with JAX's.

`lgamma` and `digamma` have a zero between any two of their poles on the negative axis. Their errors for x < 0 are therefore in units of the last place of the
largest of |f(x)|, |f(-x)| and 1; for x > 0, around the zeros at 1 and 2 and at 1.4616 too, they are relative like all others.

| function | f32 (ulp) | f64 (ulp) |
|---|---|---|
"""


PATH = ROOT / "docs" / "accuracy.md"


def row(name: str, samples: int) -> str:
    errors = [f"{worst_error(name, dtype, samples)[0]:.2f}" for dtype in ("f32", "f64")]
    if name == "erf_inv":
        # near 1 the error is that of the approximation, not of its rounding
        errors[0] = "4.79; 64 for 0.99 < \\|x\\| < 1"
    return f"| {name} | {' | '.join(errors)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--samples", type=int, default=5000)
    options = parser.parse_args()
    rows = {}
    if options.names:
        rows = {line.split(" ")[1]: line for line in PATH.read_text().splitlines() if line.startswith("| ")}
    for name in options.names or sorted(references()):
        rows[name] = row(name, options.samples)
        print(rows[name], flush=True)
    table = "\n".join(rows[name] for name in sorted(references()))
    old = PATH.read_text()
    rest = old[old.index("\n\n", old.index("|---|")) :]  # what follows the table is not measured here
    PATH.write_text(HEAD.format(n=options.samples) + table + rest)


if __name__ == "__main__":
    main()
