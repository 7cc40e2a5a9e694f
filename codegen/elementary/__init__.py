"""Elementary functions as LLVM IR that vectorizes: exp, log, sin, ... for f32 and f64.

`definition(name, dtype)` gives the text of one branch-free scalar function, `@tg.exp.f32`, that LLVM inlines and vectorizes on any target, and
`symbol(name, dtype)` what to call. Each function is written in `functions.py` against a small writer of LLVM text (`writer.py`); the
coefficients are in `coefficients.py`, with the fit that made them. Errors are measured in `docs/accuracy.md`.
"""

from tracegrad.codegen.elementary.library import NAMES, closure, definition, symbol

__all__ = ["NAMES", "closure", "definition", "symbol"]
