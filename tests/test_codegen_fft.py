"""Generated Fourier transforms: every kind of length, layout and number of lines, against transforms in extended precision."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from codegen_harness import execute, loops, staged

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.codegen import compile, fft_plan, target
from tracegrad.codegen.compile import CompiledObject, compile_program
from tracegrad.ir import ops


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


KINDS = ("fft", "ifft", "rfft", "irfft")
FUNCTIONS: dict[str, Any] = {"fft": np.fft.fftn, "ifft": np.fft.ifftn, "rfft": np.fft.rfftn, "irfft": np.fft.irfftn}

Case = tuple[str, tuple[int, ...], int]
"""A kind of transform, the shape on the side of the lengths, and how many trailing axes are transformed."""


def argument(case: Case, single: bool, rng: np.random.Generator) -> np.ndarray:
    kind, shape, _ = case
    if kind == "irfft":
        shape = (*shape[:-1], shape[-1] // 2 + 1)
    x = rng.normal(size=shape)
    if kind == "rfft":
        return x.astype(np.float32) if single else x
    z = x + 1j * rng.normal(size=shape)
    return z.astype(np.complex64) if single else z


def compiled(cases: Sequence[Case], xs: Sequence[np.ndarray]) -> CompiledObject:
    def function(*args: Any) -> list[Any]:
        return [ops.fft(x, kind, shape[len(shape) - count :]) for (kind, shape, count), x in zip(cases, args, strict=True)]

    return compile_program(staged(function, *xs), "f")


def compiled_alone(function: Any, *xs: np.ndarray) -> CompiledObject:
    return compile_program(staged(function, *xs), "f")


def errors(cases: Sequence[Case], single: bool, rng: np.random.Generator) -> list[float]:
    """The error of each transform in the root mean square, relative to the result, in units of the precision's roundoff."""
    xs = [argument(c, single, rng) for c in cases]
    program = compiled(cases, xs)
    assert not [s for s in program.external if s.startswith("tg.fft")], "a transform was left to NumPy"
    found = []
    for y, x, (kind, shape, count) in zip(execute(program, *xs), xs, cases, strict=True):
        wide = x.astype(np.clongdouble if x.dtype.kind == "c" else np.longdouble)
        axes = range(-count, 0)
        z = FUNCTIONS[kind](wide, s=shape[len(shape) - count :], axes=tuple(axes))
        assert y.shape == z.shape
        assert y.dtype == np.dtype(("f" if kind == "irfft" else "c") + str((4 if single else 8) * (1 if kind == "irfft" else 2)))
        found.append(float(np.linalg.norm((y - z).ravel()) / np.linalg.norm(z.ravel())) / np.finfo(y.dtype).eps)
    return found


def check(cases: Sequence[Case], single: bool, rng: np.random.Generator) -> None:
    for (kind, shape, count), error in zip(cases, errors(cases, single, rng), strict=True):
        n = float(np.prod(shape[len(shape) - count :]))
        limit = 0.35 + 0.5 * np.sqrt(np.log2(n + 1))
        if max(map(_largest_prime, shape[len(shape) - count :])) >= 17:
            limit *= 1.6  # sums of many terms, and convolutions
        assert error <= limit, (kind, shape, count, error, limit)


def _largest_prime(n: int) -> int:
    return max(fft_plan.factor(n), default=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("single", (False, True), ids=("f64", "f32"))
def test_lengths(kind: str, single: bool, rng: np.random.Generator) -> None:
    lengths = range(1, 131) if kind in ("fft", "rfft") and not single else (*range(1, 34), 60, 64, 97, 100, 125, 127, 128)
    check([(kind, (9, n), 1) for n in lengths], single, rng)


@pytest.mark.parametrize("kind", KINDS)
def test_larger_lengths(kind: str, rng: np.random.Generator) -> None:
    """Powers, products of many primes, primes, and what has a large prime factor."""
    check([(kind, (17, n), 1) for n in (169, 243, 256, 343, 360, 510, 512, 625, 1000, 1009, 1021, 1024, 1331)], False, rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("single", (False, True), ids=("f64", "f32"))
def test_numbers_of_lines(kind: str, single: bool, rng: np.random.Generator) -> None:
    """Fewer lines than lanes, one more, and as many as there are lanes."""
    check([(kind, (lines, n), 1) for n in (12, 15, 64) for lines in (1, 2, 3, 8, 9, 16, 17)], single, rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("single", (False, True), ids=("f64", "f32"))
def test_axes(kind: str, single: bool, rng: np.random.Generator) -> None:
    shapes = ((3, 4, 5, 6), (20, 7, 9, 10), (2, 3, 40, 24), (40, 3, 2), (1, 5, 1), (18, 17, 1), (5, 7, 19))
    check([(kind, shape, count) for shape in shapes for count in (2, 3)], single, rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("single", (False, True), ids=("f64", "f32"))
def test_long_lines(kind: str, single: bool, rng: np.random.Generator) -> None:
    """Lines that are done as matrices: single ones, and those too long for a buffer; some on several threads."""
    check([(kind, s, 1) for s in ((1000,), (2, 1024), (3, 5000), (1, 6006), (65536,), (1024 * 211,))], single, rng)


@pytest.mark.parametrize("kind", KINDS)
def test_tasks(kind: str, rng: np.random.Generator) -> None:
    check([(kind, (60, 30, 44), 3), (kind, (300, 150), 2), (kind, (700, 66), 1), (kind, (4, 64, 90), 2)], False, rng)


@pytest.mark.usefixtures("double_precision")
def test_axes_in_any_order(rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 1, 12, 20)) + 1j * rng.normal(size=(5, 1, 12, 20))
    for axes in ((0,), (2,), (1, 2), (3, 0), (0, 3, 2), (2, 1, 0), (3, 2, 1, 0)):
        found = tracegrad.jit(lambda x, axes=axes: [jnp.fft.fftn(x, axes=axes), jnp.fft.ifftn(x.T, axes=axes)])(x)
        expected = np.fft.fftn(x, axes=axes), np.fft.ifftn(x.T, axes=axes)
        for y, z in zip(found, expected, strict=True):
            np.testing.assert_allclose(y, z, atol=1e-12)


def test_arrays_are_not_transposed(rng: np.random.Generator) -> None:
    """A transform between two transpositions is done where the array lies, and written to its place at once."""
    z = rng.normal(size=(12, 30, 40)) + 0j

    def function(x: Any) -> list[Any]:
        return [ops.transpose(ops.fft(ops.transpose(x, (0, 2, 1)), "fft", (30,)), (0, 2, 1))]

    text = loops(function, z)
    assert " load " not in text and "copy" not in text
    np.testing.assert_allclose(execute(compiled_alone(function, z), z)[0], np.fft.fft(z, axis=1), atol=1e-12)


def test_what_is_left_to_numpy(rng: np.random.Generator) -> None:
    """A large prime as the length of a single axis, and long lines across memory."""
    cases: list[Case] = [(kind, (2, 10007), 1) for kind in KINDS]
    xs = [argument(c, False, rng) for c in cases]
    program = compiled(cases, xs)
    assert [s for s in program.external if s.startswith("tg.fft")]
    for y, x, (kind, shape, _) in zip(execute(program, *xs), xs, cases, strict=True):
        np.testing.assert_allclose(y, FUNCTIONS[kind](x, s=shape[1:], axes=(-1,)), rtol=1e-10, atol=1e-10)


def test_empty() -> None:
    for kind in KINDS:
        x = np.zeros((0, 5), float if kind == "rfft" else complex)
        n = 8 if kind == "irfft" else 5
        (y,) = execute(compiled([(kind, (0, n), 1)], [x]), x)
        assert y.shape == FUNCTIONS[kind](x, s=(n,), axes=(-1,)).shape


def test_impulses_and_waves_are_exact_where_they_can_be() -> None:
    """The transform of an impulse at 0 is one everywhere; that of ones is an impulse, without an error."""
    for n in (4, 8, 12, 16, 25, 64, 100, 128):
        x = np.zeros((8, n), complex)
        x[:, 0] = 1
        y, z = execute(compiled([("fft", x.shape, 1)] * 2, [x, x]), x, np.ones_like(x))
        assert (y == 1).all()
        assert (z == n * x).all()


def test_roots_of_unity() -> None:
    """Correct to the last bit but one, and with the symmetries of the circle."""
    for n in (1, 3, 8, 12, 100, 1000, 1009):
        k = np.arange(n)
        r = fft_plan.roots(n, k).astype(float)
        z = r[:, 0] + 1j * r[:, 1]
        np.testing.assert_allclose(z, np.exp(-2j * np.pi * k / n), rtol=0, atol=3e-15)
        assert (z[1:] == z[1:][::-1].conj()).all()
        assert np.abs(np.abs(z) - 1).max() <= 2.3e-16
        if n % 8 == 0:
            assert z[n // 4] == -1j and z[n // 2] == -1 and z[n // 8].real == -z[n // 8].imag
    np.testing.assert_array_equal(fft_plan.roots(8, np.array([-1, 9, 17])), fft_plan.roots(8, np.array([7, 1, 1])))


def test_plans() -> None:
    for n in range(1, 600):
        p = fft_plan.plan(n)
        if p is None:
            assert _largest_prime(n) >= fft_plan.LARGEST_PRIME and fft_plan.by_convolution(n)
            continue
        assert np.prod(p.radices, dtype=int) == n
        assert p.radices == () or p.radices[-1] in fft_plan.WRITTEN_OUT or len(p.radices) == sum(fft_plan.factor(n).values())
    for n in (211, 1009, 2003):
        assert fft_plan.convolution_length(n) >= 2 * n - 1


def test_kernels_are_shared(rng: np.random.Generator) -> None:
    """Two lengths, two directions and several axes of one program use the same code."""
    z = rng.normal(size=(8, 20, 25)) + 0j

    def function(x: Any) -> list[Any]:
        return [ops.fft(ops.fft(x, "fft", (20, 25)), "ifft", (20, 25)), ops.fft(x, "fft", (25,))]

    text = compile_program(staged(function, z), "f", keep_text=True).texts["optimized"]
    names = [line.split("@")[1].split("(")[0] for line in text.splitlines() if line.startswith("define ") and "@tg_fft" in line]
    assert len(set(names)) == len(names)
    assert len([n for n in names if "pass" in n or "last" in n]) <= 3
    assert "tg_fft_load_columns" in loops(function, z)
    y, _ = execute(compile_program(staged(function, z), "f"), z)
    np.testing.assert_allclose(y, z, atol=1e-14)


def test_two_programs_at_once(rng: np.random.Generator) -> None:
    """Kernels of one name in two programs do not get in each other's way."""
    z = rng.normal(size=(8, 100)) + 0j
    f = compile_program(staged(lambda x: [ops.fft(x, "fft", (100,))], z), "f")
    g = compile_program(staged(lambda x: [ops.fft(x, "ifft", (100,))], z), "f")
    (y,) = execute(f, z)
    (x,) = execute(g, y)
    np.testing.assert_allclose(x, z, atol=1e-14)


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    code = """
import hashlib, numpy as np, tracegrad, tracegrad.numpy as jnp
tracegrad.config.update("jax_enable_x64", True)
x = np.random.default_rng(0).normal(size=(48, 40, 50))
f = tracegrad.jit(lambda x: [jnp.fft.fftn(x), jnp.fft.rfft(x.reshape(-1)), jnp.fft.irfftn(x)])
print([hashlib.sha256(np.asarray(y).tobytes()).hexdigest() for y in f(x)])
"""

    def run(threads: str) -> str:
        env = {**os.environ, "TRACEGRAD_THREADS": threads, "TRACEGRAD_CACHE": "0"}
        return subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout

    assert run("1") == run("3")


@pytest.mark.usefixtures("double_precision")
def test_through_the_transformations(rng: np.random.Generator) -> None:
    """vmap over any axis, gradients and norms, compiled, are what they are evaluated by NumPy."""
    x = rng.normal(size=(6, 20, 10))
    for norm in ("backward", "ortho", "forward"):

        def f(a: Any, norm: str = norm) -> Any:
            z = jnp.fft.fft2(jnp.fft.rfft(a, axis=0, norm=norm), norm=norm)
            y = jnp.fft.ifft(z, axis=0, norm=norm)
            return jnp.sum(jnp.abs(y) ** 2 * jnp.arange(10.0)) + jnp.sum(jnp.fft.irfft(z, 7) ** 3)

        for g in (f, tracegrad.vmap(lambda a: jnp.fft.ifftn(a).real, in_axes=1), tracegrad.grad(f)):
            with tracegrad.disable_jit():
                expected = g(x)
            np.testing.assert_allclose(tracegrad.jit(g)(x), expected, rtol=1e-10, atol=1e-9)


def test_explained(rng: np.random.Generator) -> None:
    """What a transform does is known, up to the operations between its passes."""
    x = rng.normal(size=(80, 64)) + 0j
    (kernel,) = tracegrad.jit(lambda x: jnp.fft.fft(x)).lower(x.astype(np.complex64)).explain()
    assert kernel.kind == "library calls" and [o.name for o in kernel.operations] == ["fft"]
    assert 0.6 * 5 * 80 * 64 * 6 <= kernel.flops <= 2 * 5 * 80 * 64 * 6


@pytest.mark.parametrize("bits", (128, 256, 512))
def test_vectors_of_other_processors(bits: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    own = target.host()
    if bits > own.vector_bits or not own.triple.startswith("x86_64"):
        pytest.skip("this processor has no such vectors")
    narrow = target.Target(own.triple, {128: "x86-64", 256: "x86-64-v3", 512: "x86-64-v4"}[bits], "", bits)
    monkeypatch.setattr(target, "host", lambda: narrow)
    for single in (False, True):
        lines: list[Case] = [(kind, (5, n), 1) for kind in KINDS for n in (1, 2, 3, 7, 12, 31, 100)]
        check([*lines, *[(kind, s, 2) for kind in KINDS for s in ((3, 4, 5, 6), (20, 7, 10))], ("fft", (1000,), 1)], single, rng)


@pytest.mark.usefixtures("double_precision")
def test_in_loops_and_in_parts(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Transforms in the bodies of loops and branches; programs that are compiled in parts call the same kernels."""
    x = rng.normal(size=(5, 64, 80, 30))

    def function(x: Any) -> Any:
        def step(carry: Any, a: Any) -> Any:
            z = jnp.fft.fft2(a + carry)
            return jnp.real(jnp.fft.ifft2(0.5 * z)), jnp.abs(z).sum()

        carry, sums = lax.scan(step, jnp.zeros((64, 80, 30)), x)
        chosen = lax.cond(sums[0] > 0, jnp.fft.rfft, lambda a: jnp.fft.rfft(a[::-1]), carry)
        return carry, sums, chosen, lax.map(lambda a: jnp.fft.fft(a, axis=0), x)

    with tracegrad.disable_jit():
        expected = function(x)
    for part in (compile.PART, 20):
        monkeypatch.setattr(compile, "PART", part)
        for y, z in zip(tracegrad.jit(lambda x: function(x))(x), expected, strict=True):
            np.testing.assert_allclose(y, z, rtol=1e-10, atol=1e-10)
