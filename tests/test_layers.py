"""The order of the layers: a lower one never imports a higher one, not even inside a function."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("ir", "tracer", "transforms", "codegen", "runtime", "api")


def imported_layers(path: Path) -> set[tuple[str, int]]:
    """The layers that a file imports, each with the line."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "tracegrad":
                found.add((parts[1] if len(parts) > 1 and parts[1] in LAYERS else "api", node.lineno))
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_only_what_lies_below(layer: str) -> None:
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path in sorted((ROOT / layer).rglob("*.py"))
        for other, line in sorted(imported_layers(path))
        if other not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_no_code_lies_at_the_root() -> None:
    assert not list(ROOT.glob("*.py")), "a module at the root would shadow packages such as numpy"


def test_every_folder_with_code_is_a_package_that_ships() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for layer in LAYERS:
        for folder in {p.parent for p in (ROOT / layer).rglob("*.py")}:
            parts = folder.relative_to(ROOT).parts
            name = ".".join(("tracegrad", *(parts[1:] if parts[0] == "api" else parts)))
            assert f'"{name}"' in project, f"{name} is missing from [tool.setuptools] packages in pyproject.toml"
