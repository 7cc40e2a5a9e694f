"""Looking into running programs, under the names of `jax.debug`."""

from __future__ import annotations

import builtins
import string
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.callbacks import call
from tracegrad.ir.calls import callback_p
from tracegrad.tracer.pytree import tree_structure

_NOTHING = tree_structure(())


def callback(callback: Callable[..., None], *args: Any, ordered: bool = False, partitioned: bool = False, **kwargs: Any) -> None:
    """Call a Python function, whose result is ignored, with the values of traced arguments, whenever this point is reached."""
    call("debug.callback", callback_p, callback, args, kwargs, (), _NOTHING, ordered, "debug")


class _Formatter(string.Formatter):
    """str.format that complains about arguments which the format does not mention."""

    def check_unused_args(self, used_args: Any, args: Any, kwargs: Any) -> None:
        unused = [f"argument {i}" for i in range(len(args)) if i not in used_args] + [k for k in kwargs if k not in used_args]
        if unused:
            raise ValueError(
                f"unused arguments to debug.print: {', '.join(unused)}. Name each in the format: {{}}, {{0}} or {{name}}."
            )


_formatter = _Formatter()


class _AnyValue:
    """A stand-in for a value that is not known yet, for checking a format: it accepts every specification and attribute."""

    def __format__(self, spec: str) -> str:
        return ""

    def __getattr__(self, name: str) -> Any:
        return self

    def __getitem__(self, index: Any) -> Any:
        return self


def _shown(x: Any) -> Any:
    return x[()] if isinstance(x, np.ndarray) and x.ndim == 0 else x


def print(
    fmt: str,
    *args: Any,
    ordered: bool = False,
    partitioned: bool = False,
    skip_format_check: bool = False,
    **kwargs: Any,
) -> None:
    """Print `fmt.format(*args, **kwargs)`, with the values of traced arguments, whenever this point is reached."""
    if not skip_format_check:
        _formatter.format(fmt, *[_AnyValue() for _ in args], **{k: _AnyValue() for k in kwargs})

    def show(*args: Any, **kwargs: Any) -> None:
        text = _formatter.vformat(fmt, tuple(map(_shown, args)), {k: _shown(v) for k, v in kwargs.items()})
        builtins.print(text, file=sys.stdout, flush=True)

    callback(show, *args, ordered=ordered, **kwargs)


def breakpoint(**kwargs: Any) -> None:
    """Enter the Python debugger whenever this point is reached."""
    callback(lambda: builtins.breakpoint())


def visualize_array_sharding(arr: Any, **kwargs: Any) -> None:
    """Print where an array is: on the one device there is."""
    builtins.print(f"{tuple(arr.shape)}: CPU 0")
