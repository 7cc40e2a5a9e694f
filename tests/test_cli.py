"""The command line: `python -m tracegrad show file.py:function --args ... --stage ...`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tracegrad.__main__ import argument, main
from tracegrad.tracer.abstract import ShapeDtypeStruct

MODULE = """
import tracegrad.numpy as jnp
from tracegrad import jit

def loss(params, x):
    return jnp.sum((x @ params["w"] + params["b"]) ** 2)

@jit
def scaled(x, n):
    return x * n

class Model:
    @staticmethod
    def apply(x):
        return jnp.tanh(x)
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "shown_module.py"
    path.write_text(MODULE)
    return str(path)


@pytest.mark.parametrize(
    "stage, sign",
    [
        ("program", "program @loss"),
        ("optimized", "dot_general"),
        ("loops", "for "),
        ("llvm", "define "),
        ("llvm-optimized", "define "),
        ("asm", "ret"),
    ],
)
def test_show_prints_every_stage(file: str, stage: str, sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["show", f"{file}:loss", "--stage", stage, "--args", "{'w': f32[64,64], 'b': f32[64]}", "f32[64,64]"]
    assert main(args) == 0
    assert sign in capsys.readouterr().out


def test_methods_numbers_and_jitted_functions(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", f"{file}:Model.apply", "--args", "f32[3]"])
    assert "tanh" in capsys.readouterr().out
    main(["show", f"{file}:scaled", "--args", "f32[3]", "2.0"])
    assert "mul" in capsys.readouterr().out
    main(["show", f"{file}:Model.apply", "--args", "f64[3]", "--x64"])
    try:
        assert "f64[3]" in capsys.readouterr().out
    finally:
        from tracegrad.ir.config import config

        config.update("enable_x64", False)


def test_types_of_scalars_inside_containers() -> None:
    assert argument("{'rate': f32[], 'n': [i32[2]]}") == {
        "rate": ShapeDtypeStruct((), np.float32),
        "n": [ShapeDtypeStruct((2,), np.int32)],
    }


def test_arguments_are_types_and_literals() -> None:
    assert argument("f32[3, 4]") == ShapeDtypeStruct((3, 4), np.float32)
    assert argument("~f32[]") == ShapeDtypeStruct((), np.float32, weak_type=True)
    assert argument("(2, 'x', None)") == (2, "x", None) and argument("[1.5, True]") == [1.5, True]
    assert argument("{'w': i32[2]}") == {"w": ShapeDtypeStruct((2,), np.int32)}
    with pytest.raises(SystemExit, match="cannot read"):
        argument("f32[")


@pytest.mark.parametrize(
    "spec, why", [("loss", "expected file.py"), ("no.py:f", "no file"), ("{file}:nothing", "has no nothing")]
)
def test_what_is_not_there(file: str, spec: str, why: str) -> None:
    with pytest.raises(SystemExit, match=why):
        main(["show", spec.format(file=file)])


def test_as_a_process(file: str) -> None:
    run = [sys.executable, "-m", "tracegrad", "show", f"{file}:scaled", "--args", "f32[8]", "i32[]", "--stage", "program"]
    out = subprocess.run(run, capture_output=True, text=True, env=os.environ)
    assert out.returncode == 0 and out.stdout.startswith("program @scaled(%x: f32[8], %n: i32[])"), out
