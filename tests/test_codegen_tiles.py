"""Products by tiles in registers: every layout and remainder, the same bits however they are cut, and where BLAS is left to it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from codegen_harness import loops
from process_harness import python

import tracegrad as tg
from tracegrad import lax
from tracegrad.codegen import target
from tracegrad.codegen.microkernels import product_tile, supported
from tracegrad.codegen.tiles import HEIGHTS, Tiles, applies
from tracegrad.runtime import routines

RNG = np.random.default_rng(7)

TILED = pytest.mark.skipif(not supported(target.host()), reason="no tiles for this processor")

SIZES = [(63, 32, 63), (20, 30, 40), (33, 7, 65), (2, 200, 48), (7, 33, 100), (61, 67, 129), (130, 120, 160)]


def operand(rows: int, columns: int, layout: str, dtype: Any) -> np.ndarray:
    """Whole numbers, so that sums are exact in any order."""
    shape = (rows, columns) if layout == "rows" else (columns, rows)
    return RNG.integers(-8, 9, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("left", ["rows", "columns"])
@pytest.mark.parametrize("right", ["rows", "columns"])
def test_layouts_and_remainders(left: str, right: str, dtype: Any) -> None:
    @tg.jit
    def products(pairs: Any) -> Any:
        return [(a if left == "rows" else a.T) @ (b if right == "rows" else b.T) for a, b in pairs]

    with tg.enable_x64(True):
        pairs = [(operand(m, k, left, dtype), operand(k, n, right, dtype)) for m, k, n in SIZES]
        found = products(pairs)
    for (a, b), c in zip(pairs, found, strict=True):
        wanted = (a if left == "rows" else a.T) @ (b if right == "rows" else b.T)
        assert np.asarray(c).dtype == dtype
        np.testing.assert_array_equal(np.asarray(c), wanted)


def test_products_that_share_tiles_but_not_their_loops() -> None:
    """Loops that transpose panels are compiled with the program, the others beside it; both call the same tiles."""
    a, b, c = (operand(*shape, "rows", np.float32) for shape in ((64, 96), (96, 128), (128, 96)))
    found = tg.jit(lambda a, b, c: (a @ b, a @ c.T))(a, b, c)
    np.testing.assert_array_equal(np.asarray(found[0]), a @ b)
    np.testing.assert_array_equal(np.asarray(found[1]), a @ c.T)


def test_batches_and_windows_of_larger_arrays() -> None:
    a, b = operand(5 * 40, 50, "rows", np.float32).reshape(5, 40, 50), operand(5 * 60, 50, "rows", np.float32).reshape(5, 60, 50)
    found = tg.jit(lambda a, b: a[:, 3:, 7:47] @ b[:, ::-1, 10:].swapaxes(1, 2))(a, b)
    np.testing.assert_array_equal(np.asarray(found), a[:, 3:, 7:47] @ b[:, ::-1, 10:].swapaxes(1, 2))


@pytest.mark.parametrize("batch", [2, 3])
def test_convolutions_in_pieces(batch: int) -> None:
    x, w = (RNG.integers(-4, 5, s).astype(np.float32) for s in ((batch, 31, 32, 48), (3, 3, 48, 40)))
    layout = ("NHWC", "HWIO", "NHWC")
    found = tg.jit(lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout))(x, w)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted = sum(padded[:, i : i + 31, j : j + 32] @ w[i, j] for i in range(3) for j in range(3))
    np.testing.assert_array_equal(np.asarray(found), wanted)


@TILED
def test_products_of_one_form_share_their_code() -> None:
    def f(a: Any, b: Any, c: Any) -> Any:
        return a @ b, (a @ c)[:, ::-1]

    shapes = [(60, 64), (64, 128), (64, 256)]
    text = loops(f, *[np.ones(s, np.float32) for s in shapes])
    assert "sgemm" not in text
    names = {word.partition("(")[0] for word in text.split() if word.startswith("tg_product")}
    assert len(names) == 1


@TILED
def test_rows_that_leave_vectors_empty_and_long_sums_go_to_blas() -> None:
    lanes = target.host().vector_bits // 32
    assert applies(np.float32, (100, 100, lanes))
    assert not applies(np.float32, (100, 100, lanes + 1))
    assert not applies(np.float32, (64, 1 << 20, 64))
    assert not applies(np.complex64, (64, 64, 64))


@TILED
def test_tiles_cover_every_row_once() -> None:
    for m in range(2, 70):
        t = Tiles(np.float32, (m, 32, 64), (32, 1), (64, 1), 64)
        more = t.numbers[1]
        assert more * t.height + (t.tiles - more) * (t.height - 1) == m
        assert 0 < more <= t.tiles and t.height <= HEIGHTS[target.host().vector_bits][t.width]


@TILED
@pytest.mark.parametrize("bits", [b for b in HEIGHTS if b <= target.host().vector_bits])
@pytest.mark.parametrize("dtype", [np.dtype("float32"), np.dtype("float64")], ids=str)
def test_every_form_of_a_tile(bits: int, dtype: np.dtype[Any]) -> None:
    """The assembly by itself, in the vectors of smaller processors too: what it computes, and that it writes nothing else."""
    lanes, terms, size = bits // (8 * dtype.itemsize), 5, dtype.itemsize
    forms = [(h, w, cut) for w, most in HEIGHTS[bits].items() for h in range(1, most + 1) for cut in (False, True)]
    kernels = [product_tile(dtype, lanes, *form) for form in forms]
    text = "\n".join([*[k.text("") for k in kernels], "attributes #0 = { nounwind }"])
    found = routines.load(text, [k.name for k in kernels], "tiles")
    for (height, width, cut), kernel in zip(forms, kernels, strict=True):
        tail = lanes - 1 if cut else lanes
        columns, row = (width - 1) * lanes + tail, width * lanes + 3
        left, right = operand(height * 2, terms * 3, "rows", dtype)[::2, ::3], operand(terms, row, "rows", dtype)
        result = np.full((height + 1, row), -1, dtype)
        numbers = (terms, left.strides[0] // size, left.strides[1] // size, row, row, tail)
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 6)(found[kernel.name])
        call(left.ctypes.data, right.ctypes.data, result.ctypes.data, *numbers)
        wanted = np.full_like(result, -1)
        wanted[:height, :columns] = left @ right[:, :columns]
        np.testing.assert_array_equal(result, wanted, err_msg=kernel.name)


_BITS = """
import hashlib, numpy as np, tracegrad as tg
r = np.random.default_rng(0)
a, b = r.normal(size=(150, 140)).astype("f"), r.normal(size=(140, 170)).astype("f")
found = tg.jit(lambda a, b: (a @ b, b.T @ a.T, (a @ b).T @ a))(a, b)
print(hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in found)).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    one, three = (python(_BITS, TRACEGRAD_THREADS=n, TRACEGRAD_CACHE="0") for n in ("1", "3"))
    assert one == three


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_long_sums_in_parts(dtype: Any) -> None:
    """Products whose sums are long beside their results, evenly divided or not, over one dimension or over several that do not lie evenly."""
    with tg.enable_x64(True):
        for m, k, n in ((16, 4096, 40), (9, 30_000, 9), (64, 640, 64), (33, 7919, 10), (10, 2048, 130)):
            a, b = operand(k, m, "rows", dtype), operand(k, n, "rows", dtype)
            np.testing.assert_array_equal(tg.jit(lambda a, b: a.T @ b)(a, b), a.T @ b)
            np.testing.assert_array_equal(tg.jit(lambda a, b: a @ b)(a.T.copy(), b), a.T @ b)
            np.testing.assert_array_equal(tg.jit(lambda a, b: (a.T @ b).T + 1)(a, b), (a.T @ b).T + 1)
        x = RNG.integers(-8, 9, (40, 30, 80)).astype(dtype)
        for pattern in ("ijk,ilk->jl", "ijk,ijl->kl", "jik,lik->jl"):
            found = tg.jit(lambda x, p=pattern: tg.numpy.einsum(p, x, x))(x)
            np.testing.assert_array_equal(found, np.einsum(pattern, x, x))


def test_long_sums_have_the_same_parts_in_loops() -> None:
    a = operand(4096, 16, "rows", np.float32)
    found = tg.jit(lambda a: lax.fori_loop(0, 3, lambda i, s: s + (a * i).T @ a, np.zeros((16, 16), np.float32)))(a)
    np.testing.assert_array_equal(found, 3 * (a.T @ a))
    slope = tg.jit(tg.grad(lambda w: ((a @ w) ** 2).sum() / 2))(np.ones((16, 9), np.float32))
    np.testing.assert_array_equal(slope, a.T @ (a @ np.ones((16, 9), np.float32)))


def test_long_sums_with_dimensions_of_one() -> None:
    x = RNG.integers(-8, 9, (1, 40, 30, 80)).astype(np.float32)
    for pattern in ("bijk,bilk->bjl", "bijk,bijl->bkl"):
        found = tg.jit(lambda x, p=pattern: tg.numpy.einsum(p, x, x))(x)
        np.testing.assert_array_equal(found, np.einsum(pattern, x, x))
