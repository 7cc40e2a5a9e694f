"""Routines whose text is the code that is wanted: they are compiled as they are, apart from the program and while it is compiled.

LLVM's pipeline finds nothing in straight-line code on whole vectors; it only takes its time, and what follows takes twice as long after it.
"""

from __future__ import annotations

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
    """Compiles the finished kernels of a module on a thread of its own; started at once."""

    def __init__(self, text: str, target: targets.Target):
        super().__init__(daemon=True)
        self.text, self.target = text, target
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            _compiled(self.text, self.target)
        except Exception as error:  # it is raised where the code is wanted
            self.failure = error

    def object_code(self) -> bytes:
        self.join()
        if self.failure is not None:
            raise self.failure
        return _compiled(self.text, self.target)

    def assembly(self) -> str:
        return targets.emit_assembly(targets.parse(self.text), self.target)


@lru_cache(maxsize=32)
def _compiled(text: str, target: targets.Target) -> bytes:
    return targets.compile_as_written(text, target)


def set_apart(text: str, routines: Iterable[Routine], target: targets.Target) -> tuple[str, Compilation | None]:
    """The text of a module without its finished kernels, and their compilation, if there are any."""
    definitions: dict[str, str] = {}
    declarations: dict[str, str] = {}
    for routine in routines:
        if isinstance(routine, FinishedRoutine):
            definitions.update(routine.definitions)
            declarations.update(routine.declarations)
    if not definitions:
        return text, None
    rest, kernels = without(text, definitions, declarations.values())
    return rest, Compilation(kernels, target)


__all__ = ["Compilation", "FinishedRoutine", "set_apart"]
