"""Where the lowering rules are: each family's file is loaded when a program with one of its primitives is compiled.

A first call waits for what it needs only: to load all of them takes longer than to compile a small program.
"""

from __future__ import annotations

from importlib import import_module

from tracegrad.ir.primitive import REGISTRY, Primitive

_FILES = {"calls": "control_flow"}
"""The files of families that are not named like them."""
_ASIDE = {
    "argmax": "extrema",
    "argmin": "extrema",
    "callback": "callbacks",
    "conv_general_dilated": "convolution",
    "cumlogsumexp": "cumulative",
    "cummax": "cumulative",
    "cummin": "cumulative",
    "cumprod": "cumulative",
    "cumsum": "cumulative",
    "nonzero": "compaction",
    "pure_callback": "callbacks",
    "reduce": "general_reduction",
    "searchsorted": "searching",
}
"""Primitives whose rules have a file apart from their family's."""


def attach(primitive: Primitive) -> None:
    """Give a primitive of ours its lowering rule, if it has none yet. Those of users have what users gave them."""
    if "lower" in primitive.rules or primitive.family == "user":
        return
    file = _ASIDE.get(primitive.name) or _FILES.get(primitive.family, primitive.family)
    import_module(f"tracegrad.codegen.{file}")


def attach_all() -> None:
    for primitive in list(REGISTRY.values()):
        attach(primitive)


__all__ = ["attach", "attach_all"]
