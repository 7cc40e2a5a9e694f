"""Measure the errors of the elementary functions and write the table of docs/accuracy.md.

python benchmarks/accuracy.py [--samples 20000]
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

`sin`, `cos` and `tan` reduce their argument exactly up to |x| = 2^51 in both precisions; beyond that, where neighbouring f64 numbers are more than half a
radian apart, they give NaN.

| function | f32 (ulp) | f64 (ulp) |
|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20000)
    n = parser.parse_args().samples
    rows = []
    for name in sorted(references()):
        errors = [worst_error(name, dtype, n)[0] for dtype in ("f32", "f64")]
        rows.append(f"| {name} | {errors[0]:.2f} | {errors[1]:.2f} |")
        print(rows[-1], flush=True)
    (ROOT / "docs" / "accuracy.md").write_text(HEAD.format(n=n) + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
