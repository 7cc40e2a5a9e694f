"""All tables of the README and of benchmarks/README.md that need no more than this folder, measured again and drawn.

python benchmarks/reproduce.py [FOLDER]     # some ten minutes; charts go to FOLDER, by default build/benchmarks
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMANDS = (
    ("compare.py",),
    ("c_compare.py", "c", "numba"),
    ("compile_time.py",),
    ("operations.py",),
)


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "build" / "benchmarks"
    failed = []
    for script, *arguments in COMMANDS:
        print(f"\n== {script}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / script), *arguments, "--markdown", "--plot", str(folder)])
        if done.returncode:
            failed.append(script)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
