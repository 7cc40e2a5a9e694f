"""Writing every stage of every compilation to a folder, when TRACEGRAD_DUMP asks for it.

A compilation's files share a number and the function's name: `0003_loss.loops.ir`, `0003_loss.asm.s`.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from tracegrad.ir.config import config
from tracegrad.ir.program import Program

STAGES = ("program", "optimized", "loops", "llvm", "llvm-optimized", "asm")
"""The stages of a compilation, in order."""

_SUFFIX = {"llvm": "ll", "llvm-optimized": "ll", "asm": "s"}
_TEXTS = {"loops": "loops", "llvm": "llvm", "llvm-optimized": "optimized", "asm": "assembly"}
_serial = itertools.count(1)


def wanted() -> tuple[str, ...]:
    """The stages to write. Raises ValueError for a name that is not one."""
    names = [n.strip() for n in str(config.dump or "").split(",") if n.strip()]
    if "all" in names:
        return STAGES
    for n in names:
        if n not in STAGES:
            raise ValueError(f"TRACEGRAD_DUMP: {n!r} is not a stage; there are {', '.join(STAGES)}, and 'all'")
    return tuple(names)


def native_texts(made: Any) -> dict[str, str]:
    """The stages that the code generator has texts of, under the names of `STAGES`."""
    return {stage: made.texts[text] for stage, text in _TEXTS.items() if text in made.texts}


def write(name: str, traced: Program | None, optimized: Program, made: Any) -> None:
    """Write the stages asked for of one compilation."""
    stages = wanted()
    if not stages:
        return
    texts = {"optimized": str(optimized), **native_texts(made)}
    if traced is not None:
        texts["program"] = str(traced)
    place = Path(config.dump_dir)
    place.mkdir(parents=True, exist_ok=True)
    safe = "".join(c if c.isalnum() or c in "_-" else "_" for c in name)[:80]
    start = f"{next(_serial):04d}_{safe}"
    if (place / f"{start}.optimized.ir").exists():  # another process writes to the same folder
        start = f"{os.getpid()}_{start}"
    for stage in stages:
        if stage in texts:
            (place / f"{start}.{stage}.{_SUFFIX.get(stage, 'ir')}").write_text(texts[stage] + "\n")
