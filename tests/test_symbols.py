"""Addresses of BLAS and LAPACK, found with as little of SciPy as the installation allows."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from process_harness import python

from tracegrad.runtime import symbols

ROUTINES = ("sgemm", "dgemm", "cgemm", "zgemm", "sgemv", "dgemv", "strsm", "dtrsv")


def product(address: int) -> np.ndarray:
    """A product of two matrices by the dgemm at an address."""
    a, b, c = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4) - 5, np.full((2, 4), 9.0)
    number = lambda n: ctypes.byref(ctypes.c_int(n))  # noqa: E731
    real = lambda x: ctypes.byref(ctypes.c_double(x))  # noqa: E731
    pointer = lambda x: ctypes.c_void_p(x.ctypes.data)  # noqa: E731
    gemm = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(address)
    arguments = (b"N", b"N", number(4), number(2), number(3), real(1.0), pointer(b), number(4), pointer(a), number(3), real(0.0))
    gemm(*[ctypes.cast(x, ctypes.c_void_p) for x in (*arguments, pointer(c), number(4))])
    assert np.allclose(c, a @ b)
    return c


@pytest.mark.parametrize("beside", [True, False], ids=["library", "module"])
def test_blas_is_found_in_the_library_or_through_scipy(monkeypatch, beside):
    if not beside:
        monkeypatch.setattr(symbols, "_openblas", lambda: None)
    elif symbols._openblas() is None:
        pytest.skip("this SciPy does not bring an OpenBLAS of its own")
    assert all(symbols._blas(name) for name in ROUTINES)
    product(symbols._blas("dgemm"))
    assert symbols._threads("set")


def test_names_that_do_not_exist_are_errors(monkeypatch):
    with pytest.raises(symbols.SymbolError, match="nosuch"):
        symbols.address("tg.blas.nosuch")
    monkeypatch.setattr(symbols, "_openblas", lambda: None)
    with pytest.raises(symbols.SymbolError, match="nosuch2"):
        symbols.address("tg.blas.nosuch2")


def test_a_product_does_not_import_scipy():
    if symbols._openblas() is None:
        pytest.skip("this SciPy does not bring an OpenBLAS of its own")
    code = (
        "import sys, numpy, tracegrad as tg\n"
        "x = numpy.ones((300, 300), 'f')\n"
        "assert float(tg.jit(lambda x: x @ x)(x)[0, 0]) == 300\n"
        "assert not [m for m in sys.modules if m.startswith('scipy')]\n"
        "import scipy.linalg\n"
        "assert abs(scipy.linalg.det(numpy.eye(3)) - 1) < 1e-6\n"
    )
    assert python(code) == ""
