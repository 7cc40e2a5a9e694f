"""`Compiled`: what a compilation leaves behind, and all that is needed to run a program again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Compiled:
    """Native code for one program.

    symbol: the name of its entry point in `object_code`; arena_size: bytes of scratch memory that a call needs; externals: the symbols
    that the code calls; constants: the arrays whose addresses it is given; callbacks: the Python functions it calls, as
    (CallbackRef, in_types, out_types); overwritten: the inputs that it overwrites, and for each the output that is to have the same
    address, if there is one.
    """

    object_code: bytes
    symbol: str
    arena_size: int
    externals: tuple[str, ...]
    constants: list[np.ndarray]
    callbacks: list[Any] = field(default_factory=list)
    overwritten: tuple[tuple[int, int | None], ...] = ()
