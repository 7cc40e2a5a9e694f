"""The benchmark's problems at a tiny size: derivatives agree with differences, in directions drawn at random."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracegrad.ir.config import config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # behind everything else: the root holds folders with names as common as `ir`
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    with config.override("enable_x64", True):
        yield


def prepared(problem: str, size: Any) -> tuple[Any, Any, list[np.ndarray]]:
    """(function, derivative, arguments) in tracegrad."""
    module = importlib.import_module(f"benchmarks.adbench.{problem}")
    package = importlib.import_module("benchmarks.adbench.packages").load("tracegrad")
    return *module.functions(package, size), list(module.instance(size))


def tiny(problem: str) -> Any:
    return importlib.import_module(f"benchmarks.adbench.{problem}").TINY


def difference(f: Any, args: list[np.ndarray], directions: dict[int, np.ndarray]) -> Any:
    """The derivative of f along the directions of some arguments, by central differences."""
    step = 1e-6

    def at(t: float) -> Any:
        return f(*[x + t * directions[k] if k in directions else x for k, x in enumerate(args)])

    high, low = at(step), at(-step)
    if not isinstance(high, tuple):
        return (np.asarray(high) - np.asarray(low)) / (2 * step)
    return tuple((np.asarray(x) - np.asarray(y)) / (2 * step) for x, y in zip(high, low))


def drawn(args: list[np.ndarray], which: range) -> dict[int, np.ndarray]:
    r = np.random.default_rng(1)
    return {k: r.normal(size=args[k].shape) for k in which}


@pytest.mark.parametrize("problem,count", [("gmm", 3), ("lstm", 2)])
def test_gradients(problem: str, count: int) -> None:
    f, gradient, args = prepared(problem, tiny(problem))
    directions = drawn(args, range(count))
    found = sum(np.sum(np.asarray(g) * directions[k]) for k, g in enumerate(gradient(*args)))
    np.testing.assert_allclose(found, difference(f, args, directions), rtol=1e-6)


def test_the_mixture_is_the_one_of_its_definition() -> None:
    module = importlib.import_module("benchmarks.adbench.gmm")
    n, d, k = size = module.TINY
    f, _, args = prepared("gmm", size)
    alphas, means, icf, x = args
    expected = -0.5 * n * d * np.log(2 * np.pi) - n * np.log(np.sum(np.exp(alphas))) + module.log_prior_constant(d, k)
    q = np.zeros((k, d, d))
    for c in range(k):
        place = d
        for column in range(d):
            q[c, column, column] = np.exp(icf[c, column])
            for row in range(column + 1, d):
                q[c, row, column] = icf[c, place]
                place += 1
    log_det = np.log(np.linalg.det(q))
    for point in x:
        expected += np.log(sum(np.exp(alphas[c] + log_det[c] - 0.5 * np.sum((q[c] @ (point - means[c])) ** 2)) for c in range(k)))
    expected += 0.5 * np.sum(q * q)
    np.testing.assert_allclose(f(*args), expected, rtol=1e-12)


def test_blocks_of_bundle_adjustment() -> None:
    f, jacobian, args = prepared("ba", tiny("ba"))
    cameras, points, weights, seen = jacobian(*args)
    directions = drawn(args, range(3))
    i, j = args[3], args[4]
    errors, weight_errors = difference(f, args, directions)
    found = (
        np.einsum("pij,pj->pi", cameras, directions[0][i])
        + np.einsum("pij,pj->pi", points, directions[1][j])
        + np.asarray(weights) * directions[2][:, None]
    )
    assert cameras.shape == (8, 2, 11) and points.shape == (8, 2, 3) and weights.shape == (8, 2)
    np.testing.assert_allclose(found, errors, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(seen * directions[2], weight_errors, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("complicated", [False, True])
def test_jacobians_of_the_hand(complicated: bool) -> None:
    vertices, points, _ = tiny("hand")
    f, jacobian, args = prepared("hand", (vertices, points, complicated))
    directions = drawn(args, range(1 + complicated))
    found = jacobian(*args)
    pose, own = found if complicated else (found, None)
    total = np.einsum("pij,j->pi", pose, directions[0])
    if complicated:
        total = total + np.einsum("pij,pj->pi", own, directions[1])
    assert pose.shape == (points, 3, 26)
    np.testing.assert_allclose(total, difference(f, args, directions), rtol=1e-5, atol=1e-7)


def test_a_worker_answers_in_lines_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = importlib.import_module("benchmarks.adbench.worker")
    gmm = importlib.import_module("benchmarks.adbench.gmm")
    monkeypatch.setitem(gmm.SIZES, "tiny", gmm.TINY)
    requests = [{"prepare": ["gmm", "tiny"], "save": str(tmp_path / "gmm.npz")}, {"time": 0.001}]
    answers = io.StringIO()
    ticks = iter(range(1_000_000))
    worker.serve("tracegrad", io.StringIO("\n".join(map(json.dumps, requests))), answers, lambda: 1e-3 * next(ticks))
    ready, first, timed = map(json.loads, answers.getvalue().splitlines())
    assert ready == {"ready": True} and set(first["first"]) == {"primal", "derivative"}
    assert timed["seconds"] == pytest.approx({"primal": 1e-3, "derivative": 1e-3})
    assert [x.shape for x in np.load(tmp_path / "gmm.npz").values()] == [(), (4,), (4, 3), (4, 6)]


def test_a_package_that_is_missing_is_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = importlib.import_module("benchmarks.adbench.worker")
    monkeypatch.setitem(sys.modules, "autograd", None)
    answers = io.StringIO()
    worker.serve("autograd", io.StringIO(""), answers, lambda: 0.0)
    assert "autograd" in json.loads(answers.getvalue())["missing"]


def test_the_folder_is_a_command() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "adbench"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--markdown" in done.stdout
