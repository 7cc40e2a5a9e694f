"""The disk cache: what is found again, what is refused, what is removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad.ir.config import config
from tracegrad.runtime import cache, compilation
from tracegrad.runtime.array import from_numpy
from tracegrad.runtime.jit import jit

X = from_numpy(np.arange(4.0))
BIG = from_numpy(np.arange(1000.0))


@pytest.fixture
def folder(tmp_path: Path):
    with config.override("cache", True), config.override("cache_dir", str(tmp_path / "c")):
        yield tmp_path / "c"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the programs that went through the code generator."""
    names: list[str] = []
    real = compilation.compile_program

    def counting(program, name, **options):
        names.append(name)
        return real(program, name, **options)

    monkeypatch.setattr(compilation, "compile_program", counting)
    return names


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.tgo"))


def model(scale: float = 2.0):
    def f(x):
        return jnp.sum(jnp.sin(x) * scale + BIG[:4] + BIG.sum())

    return jit(f)


def test_a_program_is_compiled_once(folder: Path, compilations: list[str]) -> None:
    first = float(model()(X))
    assert len(compilations) == len(entries(folder)) == 1
    assert float(model()(X)) == first and len(compilations) == 1
    model(3.0)(X)
    model()(X[:2].repeat(2))  # the same types: the same program
    assert len(compilations) == len(entries(folder)) == 2


def test_captured_arrays_are_not_stored_and_belong_to_the_key(folder: Path, compilations: list[str]) -> None:
    big = from_numpy(np.random.default_rng(0).normal(size=50_000))
    other = big + 1
    f, g = jit(lambda x: x + jnp.dot(big, big)), jit(lambda x: x + jnp.dot(other, other))
    want = [float(f(1.0)), float(g(1.0))]
    assert len(compilations) == 2
    assert all(path.stat().st_size < 50_000 for path in entries(folder))
    again = [float(jit(lambda x: x + jnp.dot(big, big))(1.0)), float(jit(lambda x: x + jnp.dot(other, other))(1.0))]
    assert again == want and len(compilations) == 2


def test_names_are_not_part_of_the_key(folder: Path, compilations: list[str]) -> None:
    for name in ("f", "g"):
        f = lambda x: x * 5 + 1
        f.__name__ = name
        assert jit(f)(X).tolist() == [1, 6, 11, 16]
    assert len(compilations) == 1


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "foreign", "setting"])
def test_bad_entries_are_replaced(folder: Path, compilations: list[str], damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    want = float(model()(X))
    (path,) = entries(folder)
    data = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        path.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        path.write_bytes(b"\x7fELF" + data)
    else:  # made by another version, though under this name
        real = cache._setting()
        monkeypatch.setattr(cache, "_setting", lambda: "other")
        name = path.parent.name + path.stem
        program = jit(lambda x: x).trace(X).program
        entry = compilation.Compiled(b"not code", "x", 0, (), [])
        cache.store(name, entry, program)
        monkeypatch.setattr(cache, "_setting", lambda: real)
    assert float(model()(X)) == want
    assert len(compilations) == 2 and len(entries(folder)) == 1
    assert float(model()(X)) == want and len(compilations) == 2


def test_the_folder_has_a_bound(folder: Path, compilations: list[str]) -> None:
    for i in range(5):
        jit(lambda x, i=i: jnp.sin(x * i + 1))(X)
    paths = entries(folder)
    size = paths[0].stat().st_size
    for age, path in enumerate(paths):
        os.utime(path, (1000 + age, 1000 + age))
    assert cache.trim(3 * size + size // 2) <= 3.5 * size
    assert entries(folder) == paths[-3:]
    cache.clear()
    assert not entries(folder)


def test_using_an_entry_keeps_it(folder: Path) -> None:
    model()(X)
    (path,) = entries(folder)
    os.utime(path, (1000, 1000))
    model()(X)
    assert path.stat().st_mtime > 1000


def test_the_cache_can_be_switched_off(tmp_path: Path) -> None:
    with config.override("cache", False), config.override("cache_dir", str(tmp_path)):
        jit(lambda x: x * 7)(X)
    assert not entries(tmp_path)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with config.override("cache", True), config.override("cache_dir", str(tmp_path / "file" / "below")):
        assert jit(lambda x: x * 8)(X).tolist() == [0, 8, 16, 24]


def test_programs_that_call_python_are_not_kept(folder: Path) -> None:
    from tracegrad.ir.bind import bind
    from tracegrad.ir.calls import CallbackRef, callback_p

    seen = []
    ref = CallbackRef("see", lambda x: seen.append(float(x)))
    jit(lambda x: (bind(callback_p, x, callback=ref, out_types=(), ordered=False, kind="debug"), x + 1)[1])(1.0)
    assert seen == [1.0] and not entries(folder)


SCRIPT = """
import numpy as np, sys
import tracegrad.numpy as jnp
from tracegrad.lax import scan
from tracegrad.runtime import compilation
from tracegrad.runtime.jit import jit
names = []
real = compilation.compile_program
compilation.compile_program = lambda program, name, **o: (names.append(name), real(program, name, **o))[1]
w = jnp.asarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
f = jit(lambda x: scan(lambda c, _: (jnp.tanh(w @ c), c.sum()), x, None, length=10))
c, ys = f(jnp.ones(8))
print(float(c.sum()), float(ys.sum()), len(names))
"""


def run(folder: Path) -> subprocess.Popen:
    env = {**os.environ, "TRACEGRAD_CACHE": "1", "TRACEGRAD_CACHE_DIR": str(folder)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=env, stdout=subprocess.PIPE, text=True)


def test_processes_share_the_folder(tmp_path: Path) -> None:
    both = [run(tmp_path), run(tmp_path)]  # at once
    results = [p.communicate()[0].split() for p in both]
    assert all(p.returncode == 0 for p in both)
    assert results[0][:2] == results[1][:2]
    later = run(tmp_path)
    c, ys, compiled = later.communicate()[0].split()
    assert [c, ys] == results[0][:2] and compiled == "0"
    assert not list(tmp_path.rglob(".new*"))
