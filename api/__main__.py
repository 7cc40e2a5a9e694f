"""The command line: see what the compiler makes of a function.

    python -m tracegrad show path/to/file.py:function --args "f32[3,4]" 2.0 --stage loops
    python -m tracegrad explain path/to/file.py:function --args "f32[3,4]" 2.0

Arguments are types (`f32[3,4]`), numbers or Python literals (`2.0`, `{'w': 1.0}`, `'f32[3]'` inside containers); stages are those of
`jit(f).lower(*args)`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from tracegrad.ir.types import FROM_SHORT_NAME
from tracegrad.runtime.jit import jit
from tracegrad.runtime.stages import STAGES
from tracegrad.tracer.abstract import ShapeDtypeStruct

_TYPE = re.compile(r"(~?)(\w+)\[([\d,\s]*)\]")


def argument(text: str) -> Any:
    """The argument that a word of the command line stands for."""
    typed = _as_type(text)
    if typed is not None:
        return typed
    try:
        return _types_inside(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        quoted = re.sub(r"~?\b\w+\[[\d,\s]*\]", lambda m: repr(m.group()), text)
        try:
            return _types_inside(ast.literal_eval(quoted))
        except (ValueError, SyntaxError):
            raise SystemExit(
                f"tracegrad: cannot read the argument {text!r}: expected a type such as f32[3,4] or a literal"
            ) from None


def _as_type(text: str) -> ShapeDtypeStruct | None:
    m = _TYPE.fullmatch(text.strip())
    if m is None or m.group(2) not in FROM_SHORT_NAME:
        return None
    shape = tuple(int(d) for d in m.group(3).split(",") if d.strip())
    return ShapeDtypeStruct(shape, FROM_SHORT_NAME[m.group(2)], weak_type=bool(m.group(1)))


def _types_inside(value: Any) -> Any:
    if isinstance(value, str):
        typed = _as_type(value)
        return value if typed is None else typed  # a type of a scalar has a length of none, and so no truth value
    if isinstance(value, dict):
        return {k: _types_inside(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_types_inside(v) for v in value)
    return value


def function(spec: str) -> Any:
    """The function that `file.py:name` or `package.module:name` names."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise SystemExit(f"tracegrad: expected file.py:function or module:function, got {spec!r}")
    if place.endswith(".py"):
        path = Path(place).resolve()
        if not path.exists():
            raise SystemExit(f"tracegrad: there is no file {place}")
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        assert module_spec is not None and module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[path.stem] = module
        sys.path.insert(0, str(path.parent))
        module_spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise SystemExit(f"tracegrad: {place} has no {name}")
        found = getattr(found, part)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tracegrad", description="See what the compiler makes of a function.")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print a stage of a function's compilation")
    show.add_argument("--stage", default="optimized", choices=STAGES)
    explain = commands.add_parser("explain", help="print the kernels that a function becomes")
    for command in (show, explain):
        command.add_argument("function", help="path/to/file.py:function or package.module:function")
        command.add_argument("--args", nargs="*", default=[], help="types such as f32[3,4], or Python literals")
        command.add_argument("--static", type=int, nargs="*", default=[], help="positions of static arguments")
        command.add_argument("--x64", action="store_true", help="64-bit types")
    options = parser.parse_args(argv)
    if options.x64:
        from tracegrad.ir.config import config

        config.update("enable_x64", True)
    f = function(options.function)
    compiled = f if hasattr(f, "lower") else jit(f, static_argnums=tuple(options.static))
    lowered = compiled.lower(*[argument(a) for a in options.args])
    print(lowered.explain() if options.command == "explain" else lowered.as_text(options.stage))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
