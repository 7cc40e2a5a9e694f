"""The examples run, as a user would run them, and do what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, out: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLES / name), "--out", str(out), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_digits_are_read_with_97_percent_and_the_same_bits_for_the_same_seed(tmp_path: Path) -> None:
    first = run("digits.py", tmp_path, "--epochs", "25")
    accuracy = float(re.search(r"test accuracy ([\d.]+)%", first).group(1))  # type: ignore[union-attr]
    assert accuracy >= 97.0
    assert (tmp_path / "digits_loss.png").stat().st_size > 10_000
    assert (tmp_path / "digits_misread.png").stat().st_size > 1_000
    weights = re.search(r"weights (\w+)", first).group(1)  # type: ignore[union-attr]
    assert f"weights {weights}" in run("digits.py", tmp_path, "--epochs", "25")
    assert f"weights {weights}" not in run("digits.py", tmp_path, "--epochs", "25", "--seed", "1")


def test_logistic_regression_newton_and_conjugate_gradients_agree(tmp_path: Path) -> None:
    out = run("logistic_regression.py", tmp_path)
    losses = [float(x) for x in re.findall(r"final loss ([\d.]+)", out)]
    assert len(losses) == 3 and abs(losses[1] - losses[2]) < 1e-5 and losses[1] <= losses[0]
    assert (tmp_path / "logistic_regression.png").exists()


def test_the_neurons_conductances_are_found(tmp_path: Path) -> None:
    out = run("neuron.py", tmp_path)
    for found, true in re.findall(r"found +([\d.]+), true +([\d.]+)", out):
        assert abs(float(found) - float(true)) < 0.15 * float(true)
    assert (tmp_path / "neuron.png").exists()


def test_every_stage_is_shown(tmp_path: Path) -> None:
    out = run("read_the_ir.py", tmp_path)
    assert "program @" in out and "define" in out
    assert len(list(tmp_path.glob("gradient.*.txt"))) == 6
    assert (tmp_path / "read_the_ir.png").exists()


def test_an_orbit_is_found_through_a_primitive(tmp_path: Path) -> None:
    out = run("own_primitive.py", tmp_path)
    assert "kepler %mean" in out
    assert float(re.search(r"e sin E: ([\de.-]+)", out).group(1)) < 1e-14  # type: ignore[union-attr]
    found = {name: (float(a), float(b)) for name, a, b in re.findall(r"(\w[\w ]*?) +found +([\d.]+), true +([\d.]+)", out)}
    assert abs(found["period"][0] - found["period"][1]) < 0.05 and abs(found["amplitude"][0] - found["amplitude"][1]) < 3
    assert float(re.search(r"residual ([\d.]+)", out).group(1)) < 4.5  # type: ignore[union-attr]
    assert (tmp_path / "own_primitive.png").stat().st_size > 10_000
