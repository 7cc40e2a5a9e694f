"""From the symbols in object code to addresses: BLAS, LAPACK, FFT and special functions of NumPy and SciPy, the C library.

    tg.blas.sgemm, tg.lapack.dpotrf      routines of SciPy's OpenBLAS, of scipy.linalg.cython_blas and cython_lapack (Fortran's conventions)
    tg.pool.run                          runs the tasks of a parallel loop (runtime/threads.py)
    tg.tapes.new                         memory for tapes (runtime/tape_memory.py)
    tg.threads.set                       sets how many threads BLAS uses
    tg.fft.d.rfft_n_even                 the inner loop of NumPy's pocketfft ufunc, f64 ("d") or f32 ("s")
    tg.fft.d.fft.data                    the datum that belongs to the loop
    tg.special.gammaln...                a function of scipy.special.cython_special, by its C name there
    tg.lanes.igamma.float32.32           a special function of our own, compiled when it is first needed (runtime/lanes.py)
    expf, memcpy, ...                    the C library's

Nothing is loaded before a program needs it: SciPy's linear algebra takes a tenth of a second to import.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import numpy as np


class SymbolError(RuntimeError):
    """A routine that a compiled program calls is not to be found in this installation."""


@cache
def address(symbol: str) -> int:
    """The address that a symbol stands for. Raises SymbolError if there is none."""
    kind, _, rest = symbol.removeprefix("tg.").partition(".") if symbol.startswith("tg.") else ("c", "", symbol)
    try:
        return _FINDERS[kind](rest)
    except KeyError:
        raise SymbolError(f"the routine {symbol!r} that compiled code calls is not in this installation") from None


def _capsule_address(module: ModuleType, name: str) -> int:
    """The C pointer of a function that a Cython module exports."""
    capsule = module.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return int(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))


@cache
def _scipy_linalg(short: str) -> ModuleType:
    """An extension module of scipy.linalg, without the package around it, whose import takes five times as long.

    It is entered into sys.modules under its name, where the package finds it if it is imported later.
    """
    name = f"scipy.linalg.{short}"
    found = sys.modules.get(name)
    if found is not None:
        return found
    scipy = importlib.util.find_spec("scipy")
    for folder in (scipy.submodule_search_locations or ()) if scipy is not None and sys.platform == "linux" else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = os.path.join(folder, "linalg", short + suffix)
            if os.path.exists(path):
                loader = importlib.machinery.ExtensionFileLoader(name, path)
                module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, loader, origin=path))
                sys.modules[name] = module
                try:
                    loader.exec_module(module)
                except ImportError:
                    del sys.modules[name]
                    break
                return module
    return importlib.import_module(name)


@cache
def _openblas() -> ctypes.CDLL | None:
    """The OpenBLAS beside SciPy, as its packages for Linux bring it, loaded without anything of SciPy's that is written in Python.

    It is the one that SciPy itself uses, if it is imported later: a library is loaded once. None in other installations.
    """
    scipy = importlib.util.find_spec("scipy")
    for folder in (scipy.submodule_search_locations or ()) if scipy is not None and sys.platform == "linux" else ():
        libraries = glob.glob(os.path.join(glob.escape(os.path.dirname(folder)), "scipy.libs", "libscipy_openblas-*.so"))
        if len(libraries) == 1:
            try:
                return ctypes.CDLL(libraries[0])
            except OSError:
                return None
    return None


def _blas(name: str) -> int:
    library = _openblas()
    if library is not None:
        try:
            return int(ctypes.cast(library[f"scipy_{name}_"], ctypes.c_void_p).value or 0)
        except AttributeError:
            pass
    return _capsule_address(_scipy_linalg("cython_blas"), name)


def _threads(name: str) -> int:
    """`int set(int)` that sets how many threads BLAS uses and gives the old number, which OpenBLAS has; else a function without effect."""
    # a look-up in SciPy's module searches the BLAS that it is linked with, too
    library = _openblas() or ctypes.CDLL(_scipy_linalg("cython_blas").__file__)
    for prefix in ("", "scipy_"):
        try:
            return int(ctypes.cast(library[f"{prefix}openblas_set_num_threads_local"], ctypes.c_void_p).value or 0)
        except AttributeError:
            continue
    return _c("abs")  # of 1 it gives 1: "there was one thread before"


def _lapack(name: str) -> int:
    return _capsule_address(_scipy_linalg("cython_lapack"), name)


def _special(name: str) -> int:
    from scipy.special import cython_special

    return _capsule_address(cython_special, name)


class _UfuncHead(ctypes.Structure):
    """The public beginning of NumPy's ufunc objects (numpy/ufuncobject.h)."""

    _fields_ = [
        ("refcount", ctypes.c_ssize_t),
        ("type", ctypes.c_void_p),
        ("nin", ctypes.c_int),
        ("nout", ctypes.c_int),
        ("nargs", ctypes.c_int),
        ("identity", ctypes.c_int),
        ("functions", ctypes.POINTER(ctypes.c_void_p)),
        ("data", ctypes.POINTER(ctypes.c_void_p)),
        ("ntypes", ctypes.c_int),
    ]


def _fft(rest: str) -> int:
    letter, name, *tail = rest.split(".")
    head, ufunc = _fft_ufunc(name)
    want = {"s": "f", "d": "d"}[letter]
    index = next(i for i, types in enumerate(ufunc.types) if types[-1].lower() == want)
    found = (head.data if tail else head.functions)[index]
    return int(found or 0)


@cache
def _fft_ufunc(name: str) -> tuple[Any, Any]:
    """The ufunc of NumPy's pocketfft and its head, checked: the module is private and its objects are read as C structures."""
    try:
        from numpy.fft import _pocketfft_umath  # type: ignore[attr-defined]

        ufunc = getattr(_pocketfft_umath, name)
    except (ImportError, AttributeError):
        raise KeyError(name) from None
    # The object may be preceded by more than a reference count and a type in builds without the GIL.
    offset = object.__basicsize__ - 16
    head = _UfuncHead.from_address(id(ufunc) + offset)
    if (head.nin, head.nout, head.nargs, head.ntypes) != (ufunc.nin, ufunc.nout, ufunc.nargs, ufunc.ntypes):
        raise SymbolError(
            f"NumPy {np.__version__} lays out its FFT functions differently than expected; compiled FFTs cannot be used with it"
        )
    return head, ufunc


@lru_cache(maxsize=1)
def _process() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@lru_cache(maxsize=1)
def _libm() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("m"))


def _c(name: str) -> int:
    for library in (_process, _libm):
        try:
            function = getattr(library(), name)
        except (AttributeError, OSError):
            continue
        return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
    raise KeyError(name)


_REGISTERED: dict[str, int] = {}


def register(name: str, pointer: int) -> str:
    """Give the symbol `tg.runtime.<name>` an address; the symbol."""
    _REGISTERED[name] = pointer
    return f"tg.runtime.{name}"


def _pool(name: str) -> int:
    from tracegrad.runtime import threads

    return threads.address(name)


def _tapes(name: str) -> int:
    from tracegrad.runtime import tape_memory

    return tape_memory.address(name)


def _lanes(rest: str) -> int:
    from tracegrad.runtime import lanes

    return lanes.address(rest)


_FINDERS = {
    "lanes": _lanes,
    "pool": _pool,
    "blas": _blas,
    "tapes": _tapes,
    "threads": _threads,
    "lapack": _lapack,
    "fft": _fft,
    "special": _special,
    "runtime": _REGISTERED.__getitem__,
    "c": _c,
}
