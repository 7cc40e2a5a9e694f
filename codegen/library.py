"""Routines that compiled programs call: kernels of our own, and the BLAS, LAPACK, FFT and special functions of NumPy and SciPy.

A `Routine` is a kernel (`codegen.kernel`) over whole row-major buffers, made for given types: inputs, outputs, then scratch memory.
External functions are known by symbols (`tg.lapack.dpotrf`), which the runtime resolves to addresses when it loads the object code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Kernel

_LETTERS = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}


def lapack_symbol(name: str, dtype: Any) -> str:
    """The symbol of a LAPACK routine, named without its letter for the dtype. Fortran's conventions, 32-bit integers."""
    return f"tg.lapack.{_LETTERS[np.dtype(dtype).name]}{name}"


def blas_symbol(name: str, dtype: Any) -> str:
    """The symbol of a BLAS routine, named without its letter."""
    return f"tg.blas.{_LETTERS[np.dtype(dtype).name]}{name}"


def fft_symbol(name: str, real: Any) -> str:
    """The symbol of an inner loop of NumPy's pocketfft: of the ufunc `name`, in the precision of the dtype `real`."""
    return f"tg.fft.{_LETTERS[np.dtype(real).name]}.{name}"


def fft_data_symbol(name: str, real: Any) -> str | None:
    """The symbol of the datum that goes with the loop (it says the direction); None where there is none."""
    return f"{fft_symbol(name, real)}.data" if name in ("fft", "ifft") else None


def special_symbol(name: str) -> str:
    """The symbol of a function of scipy.special.cython_special, by its C name there; its last argument is an int, 0."""
    return f"tg.special.{name}"


class Routine:
    """A kernel with the kernels that it calls.

    definitions: LLVM text by function name (a module holds each once, whoever needs it); declarations: of external symbols;
    scratch: how many bytes of scratch memory a call needs.
    """

    __slots__ = ("name", "definitions", "declarations", "scratch")

    def __init__(self, kernel: Kernel, scratch: int = 0, helpers: Iterable[Kernel] = ()):
        self.name = kernel.name
        self.definitions: dict[str, str] = {}
        self.declarations: dict[str, str] = {}
        for k in (*helpers, kernel):
            self.definitions[k.name] = k.text()
            self.declarations.update(k.externals)
        self.scratch = scratch


def lower_by(make: Callable[..., Routine]) -> Callable[[Any, Any], Any]:
    """The lowering rule of a primitive whose whole work is a routine: `make(*in_types, **params)` gives it."""

    def lower(ctx: Any, eqn: Any) -> Any:
        return ctx.call_routine(eqn, make(*[a.type for a in eqn.inputs], **eqn.params))

    return lower
