"""The functions of `codegen/lane_functions.py`, compiled when a program first calls them."""

from __future__ import annotations

from functools import cache

from tracegrad.codegen import lane_functions, target
from tracegrad.runtime import routines, symbols


@cache
def address(rest: str) -> int:
    """The address of `tg.lanes.<rest>`. Raises KeyError if there is no such function."""
    name, dtype, lanes = rest.split(".")
    if name not in lane_functions.NAMES:
        raise KeyError(rest)
    with routines.loading:
        host = target.host()
        text, needed = lane_functions.module_text(name, dtype, int(lanes), host.attributes)
        code = routines.kept(text)
        if code is None:
            module = target.parse(text)
            target.optimize(module, host)
            code = target.emit_object(module, host)
            routines.keep(text, code)
        symbol = f"tg.lanes.{rest}"
        return routines.link(code, [symbol], f"tracegrad.lanes.{rest}", {n: symbols.address(n) for n in needed})[symbol]
