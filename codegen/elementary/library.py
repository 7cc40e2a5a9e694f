"""The texts of the elementary functions, made once each."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from tracegrad.codegen.elementary import gamma, lookup, powers  # noqa: F401  (register their functions)
from tracegrad.codegen.elementary.far import GUARDED
from tracegrad.codegen.elementary.functions import FUNCTIONS
from tracegrad.codegen.elementary.writer import Writer

NAMES = frozenset(FUNCTIONS)
"""The functions there are, by the names of their primitives."""


class Definition(NamedTuple):
    """The text of one function, the declarations of intrinsics it needs, and the other functions it calls as (name, dtype)."""

    text: str
    declarations: frozenset[str]
    calls: frozenset[tuple[str, str]]


def symbol(name: str, dtype: str) -> str:
    """The name of a function in LLVM text: `@tg.exp.f32`."""
    return f"@tg.{name}.{dtype}"


@cache
def definition(name: str, dtype: str) -> Definition:
    """The LLVM text of the elementary function `name` for dtype "f32" or "f64". Raises KeyError for other names."""
    operands, function = FUNCTIONS[name]
    w = Writer(dtype)
    arguments = [f"%x{i}" for i in range(operands)]
    result = function(w, *arguments)
    head = ", ".join(f"{w.type} {a}" for a in arguments)
    attributes = "alwaysinline nounwind willreturn memory(none)"
    lines = [
        f"define internal {w.type} {symbol(name, dtype)}({head}) {attributes} {{",
        *w.lines,
        f"  ret {w.type} {w.f(result)}",
        "}",
    ]
    return Definition("\n".join(lines), frozenset(w.intrinsics), frozenset(w.calls))


class Closure(NamedTuple):
    """The texts of functions and of all that they call, with their declarations, and the symbols of the C library that the code may call."""

    texts: list[str]
    declarations: set[str]
    externals: set[str]


def closure(needed: set[tuple[str, str]]) -> Closure:
    """What a module needs for the functions (name, dtype)."""
    texts: list[str] = []
    declarations: set[str] = set()
    done: set[tuple[str, str]] = set()
    todo = sorted(needed)
    while todo:
        key = todo.pop()
        if key not in done:
            done.add(key)
            d = definition(*key)
            texts.append(d.text)
            declarations |= d.declarations
            todo.extend(sorted(d.calls - done))
    return Closure(texts, declarations, {GUARDED[name][0] for name, _ in done if name in GUARDED})
