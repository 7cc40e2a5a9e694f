"""Convolutions whose patches are read where they lie: every layout, padding and step, gradients, and the same bits however they are cut."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from codegen_harness import loops

import tracegrad as tg
from tracegrad import lax
from tracegrad.codegen import target
from tracegrad.codegen.tiles import HEIGHTS

RNG = np.random.default_rng(3)

TILED = pytest.mark.skipif(target.host().vector_bits not in HEIGHTS, reason="no tiles for vectors of this length")

LAST, FIRST, LINE = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NWC", "WIO", "NWC")
CASES: dict[str, Any] = {
    "the same size": ((2, 9, 10, 5), (3, 3, 5, 16), (1, 1), "SAME", None, LAST),
    "one feature, a batch of images": ((40, 12, 12, 1), (3, 3, 1, 16), (1, 1), "SAME", None, LAST),
    "long sums of gradients": ((30, 14, 14, 8), (3, 3, 8, 32), (1, 1), "SAME", None, LAST),
    "steps": ((2, 15, 13, 5), (3, 2, 5, 40), (2, 1), "VALID", None, LAST),
    "holes in the window": ((2, 15, 13, 5), (3, 2, 5, 40), (2, 2), "SAME", (2, 1), LAST),
    "features first": ((2, 5, 15, 13), (40, 5, 3, 2), (2, 1), "SAME", None, FIRST),
    "padding taken away": ((2, 6, 15, 13), (40, 6, 3, 2), (1, 1), [(1, -1), (-2, 3)], None, FIRST),
    "nothing but padding": ((2, 3, 4, 13), (32, 3, 2, 2), (1, 1), [(-4, 6), (0, 0)], None, FIRST),
    "a window of one element": ((3, 7, 7, 64), (1, 1, 64, 48), (1, 1), "SAME", None, LAST),
    "a window of everything": ((20, 10, 5), (10, 5, 32), (1,), "VALID", None, LINE),
    "more features than one panel holds": ((1, 6, 6, 200), (3, 3, 200, 176), (1, 1), "SAME", None, LAST),
    "one dimension": ((2, 100, 5), (7, 5, 32), (1,), "SAME", None, LINE),
}


def whole_numbers(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """So small that sums are exact in any order."""
    return RNG.integers(-4, 5, shape).astype(dtype)


def convolution(strides: Any, padding: Any, dilation: Any, layout: Any) -> Any:
    return lambda x, w: lax.conv_general_dilated(x, w, strides, padding, rhs_dilation=dilation, dimension_numbers=layout)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str) -> None:
    x_shape, w_shape, *how = CASES[case]
    f = convolution(*how)

    def all_three(x: Any, w: Any, g: Any) -> Any:
        y, back = tg.vjp(f, x, w)
        return y, *back(g)

    x, w = whole_numbers(x_shape, np.float32), whole_numbers(w_shape, np.float32)
    with tg.disable_jit():
        g = whole_numbers(f(x, w).shape, np.float32)
        wanted = all_three(x, w, g)
    for a, b in zip(tg.jit(all_three)(x, w, g), wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_doubles_in_a_loop_over_what_is_computed() -> None:
    x, ws = whole_numbers((2, 8, 8, 16), np.float64), whole_numbers((3, 3, 3, 16, 16), np.float64)

    def f(x: Any, ws: Any) -> Any:
        conv = convolution((1, 1), "SAME", None, LAST)
        return lax.scan(lambda x, w: (lax.rem(lax.max(conv(x, w), 0.0 * x), 0 * x + 7.0), None), x, ws)[0]

    with tg.enable_x64(True):
        found = np.asarray(tg.jit(f)(x, ws))
        with tg.disable_jit():
            wanted = np.asarray(f(x, ws))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wanted)


@TILED
def test_what_comes_before_is_computed_into_the_padded_input() -> None:
    x, w = np.ones((2, 8, 8, 16), np.float32), np.ones((3, 3, 16, 32), np.float32)
    text = loops(lambda x, w: [convolution((1, 1), "SAME", None, LAST)(lax.max(x, 0.5 * x), w)], x, w)
    assert "call tg_patches" in text.replace("@", "")
    assert text.count(" = alloc") <= 1 and "tg_conv" not in text


@TILED
def test_groups_and_few_features_are_left_to_routines() -> None:
    x, w = np.ones((2, 40, 40, 16), np.float32), np.ones((3, 3, 8, 32), np.float32)
    layout = dict(dimension_numbers=LAST)
    grouped = loops(lambda x, w: [lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=2, **layout)], x, w)
    narrow = loops(lambda x, w: [lax.conv_general_dilated(x, w, (1, 1), "SAME", **layout)], x, np.ones((3, 3, 16, 5), np.float32))
    assert "tg_conv" in grouped and "tg_conv" in narrow and "tg_patches" not in grouped + narrow


@TILED
def test_explain_counts_their_operations_and_tasks() -> None:
    x, w = np.ones((32, 16, 16, 16), np.float32), np.ones((3, 3, 16, 32), np.float32)
    f = convolution((1, 1), "SAME", None, LAST)
    for function in (f, lambda x, w: tg.grad(lambda w: (f(x, w) * 3.0).sum())(w)):
        (row,) = [k for k in tg.jit(function).lower(x, w).explain() if any("tg_patches" in c for c in k.calls)]
        assert row.flops == 2 * 32 * 16 * 16 * 9 * 16 * 32
        assert row.tasks == 4


def test_long_sums_are_as_exact_as_sums_of_blocks() -> None:
    x, g = (RNG.uniform(0.0, 1.0, s).astype(np.float32) for s in ((64, 30, 30, 4), (64, 30, 30, 16)))
    f = convolution((1, 1), "SAME", None, LAST)
    w = np.zeros((1, 1, 4, 16), np.float32)
    found = np.asarray(tg.jit(lambda x, w, g: tg.vjp(f, x, w)[1](g)[1])(x, w, g))
    wanted = np.einsum("nhwi,nhwo->io", x.astype(float), g.astype(float))
    assert abs(found[0, 0] / wanted - 1).max() < 5e-6


_BITS = """
import hashlib, numpy as np, tracegrad as tg
from tracegrad import lax
r = np.random.default_rng(0)
x, w = r.normal(size=(16, 20, 20, 16)).astype("f"), r.normal(size=(3, 3, 16, 32)).astype("f")
f = lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
found = tg.jit(lambda x, w: (f(x, w), *tg.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1))(x, w)))(x, w)
print(hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in found)).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    def run(threads: str) -> str:
        env = {**os.environ, "TRACEGRAD_THREADS": threads, "TRACEGRAD_CACHE": "0"}
        return subprocess.run([sys.executable, "-c", _BITS], env=env, capture_output=True, text=True, check=True).stdout

    assert run("1") == run("3")
