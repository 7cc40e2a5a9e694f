"""What ships: the wheel holds every module, and each imports in an environment that has nothing but the dependencies."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

IMPORT_ALL = """
import importlib, pkgutil, sys
import tracegrad
assert tracegrad.__file__.startswith(sys.prefix), tracegrad.__file__
names = [m.name for m in pkgutil.walk_packages(tracegrad.__path__, "tracegrad.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_the_wheel_installs_and_every_module_imports(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("tracegrad-*.whl")
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    python = env / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    site = Path(
        subprocess.check_output([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    )
    # The dependencies are those of this environment; path entries do not bring its editable installs along.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    out = subprocess.check_output([str(python), "-c", IMPORT_ALL], text=True, cwd=tmp_path)
    shipped = sum(
        1 for layer in ("api", "ir", "tracer", "transforms", "codegen", "runtime") for _ in (ROOT / layer).rglob("*.py")
    )
    # every file but the roots' __init__ and __main__ is a module of its own
    assert int(out) >= shipped - 2
