"""Routines whose text is the code that is wanted: they are compiled as they are, apart from the program and while it is compiled.

LLVM's pipeline finds nothing in straight-line code on whole vectors; it only takes its time, and what follows takes twice as long after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from threading import Thread

from tracegrad.codegen import target as targets
from tracegrad.codegen.library import Routine
from tracegrad.codegen.partition import without


class FinishedRoutine(Routine):
    """A routine that calls nothing but its own kernels, and what LLVM has built in."""

    __slots__ = ()


class Compilation(Thread):
    """Compiles some of the finished kernels of a module on a thread of its own, or when the code is asked for if it has not been started."""

    def __init__(self, text: str, target: targets.Target):
        super().__init__(daemon=True)
        self.text, self.target = text, target
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            _compiled(self.text, self.target)
        except Exception as error:  # it is raised where the code is wanted
            self.failure = error

    def object_code(self) -> bytes:
        if self.ident is not None:
            self.join()
        if self.failure is not None:
            raise self.failure
        return _compiled(self.text, self.target)

    def assembly(self) -> str:
        return targets.emit_assembly(targets.parse(self.text), self.target)


@lru_cache(maxsize=32)
def _compiled(text: str, target: targets.Target) -> bytes:
    return targets.compile_as_written(text, target)


LONG = 300
"""Kernels of so many lines are compiled in two parts: the second by the thread that compiles the program, after that."""


def set_apart(text: str, routines: Iterable[Routine], target: targets.Target) -> tuple[str, list[Compilation]]:
    """The text of a module without its finished kernels, and their compilations, the first of which has started."""
    parts: list[tuple[dict[str, str], dict[str, str]]] = [({}, {}), ({}, {})]
    finished = [r for r in routines if isinstance(r, FinishedRoutine)]
    total, done = sum(map(_lines, finished)), 0
    shared = sum([len(r.definitions) for r in finished]) > len({name for r in finished for name in r.definitions})
    for routine in sorted(finished, key=_lines, reverse=True):
        definitions, declarations = parts[total > LONG and not shared and 2 * done >= total]
        definitions.update(routine.definitions)
        declarations.update(routine.declarations)
        done += _lines(routine)
    compilations = []
    for definitions, declarations in parts:
        if definitions:
            text, kernels = without(text, definitions, declarations.values())
            compilations.append(Compilation(kernels, target))
    if compilations:
        compilations[0].start()
    return text, compilations


def _lines(routine: Routine) -> int:
    return sum([definition.count("\n") for definition in routine.definitions.values()])


_WORK = re.compile(
    r"= (load|freeze|select|insertelement|extractelement|shufflevector) (?!ptr)|= f(add|sub|mul|div|neg|cmp) |^  store (?!ptr)"
    r"|(to|from)(float|double)|alwaysinline|@tg\.call\.",
    re.MULTILINE,
)


def only_calls(text: str) -> bool:
    """Whether all that a module does is to call kernels and copy memory: nothing in it is worth LLVM's passes, nor good machine code."""
    return _WORK.search(text) is None


__all__ = ["Compilation", "FinishedRoutine", "only_calls", "set_apart"]
