"""Programs that only call kernels are compiled without passes; kernels apart from them, in parts; runs of memory are copied whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad.numpy as jnp
from tracegrad import jit, lax
from tracegrad.codegen import finished
from tracegrad.codegen import target as targets

R = np.random.default_rng(0)
X = R.normal(size=(96, 96)).astype(np.float32)


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The levels at which programs are emitted."""
    seen: list[int] = []
    emit = targets.emit_object

    def noted(module: Any, target: Any, level: int = 2) -> bytes:
        seen.append(level)
        return emit(module, target, level)

    monkeypatch.setattr(targets, "emit_object", noted)
    return seen


def test_a_product_alone_is_called_by_plain_code(levels: list[int]) -> None:
    np.testing.assert_allclose(jit(lambda x: x @ x)(X), X @ X, rtol=1e-3, atol=1e-4)
    assert levels == [0]


def test_work_beside_kernels_is_optimized(levels: list[int]) -> None:
    np.testing.assert_allclose(jit(lambda x: jnp.tanh(x @ x))(X), np.tanh(X @ X), rtol=1e-3, atol=1e-4)
    assert levels == [2]


@pytest.mark.parametrize("long", (0, 10**6))
def test_kernels_in_one_part_and_in_two(long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    set_apart = finished.set_apart

    def noted(*args: Any) -> Any:
        made.append(set_apart(*args))
        return made[-1]

    monkeypatch.setattr(finished, "LONG", long)
    monkeypatch.setattr(finished, "set_apart", noted)
    x = R.normal(size=(30, 35, 12)) + 1j * R.normal(size=(30, 35, 12))
    f = jit(lambda x: jnp.fft.fftn(x))
    np.testing.assert_allclose(f(x.astype(np.complex64)), np.fft.fftn(x), rtol=1e-3, atol=1e-2)
    assert len(made[0][1]) == (2 if long == 0 else 1)


@pytest.mark.parametrize("dtype", (np.float32, np.complex64, np.int8))
@pytest.mark.parametrize("shape", ((3, 5, 40, 32), (2, 1, 2000), (4, 1, 1, 1500)), ids=str)
def test_runs_of_memory(shape: tuple[int, ...], dtype: type) -> None:
    x = (R.normal(size=shape) * 50).astype(dtype)
    width = [(1, 2)] * (len(shape) - 2) + [(0, 0)] * 2

    def joined(x: Any) -> Any:
        return jnp.concatenate([x[1:], x[:, ::-1][:1], lax.rev(x, (0,))])

    np.testing.assert_array_equal(jit(joined)(x), np.concatenate([x[1:], x[:, ::-1][:1], x[::-1]]))
    np.testing.assert_array_equal(jit(lambda x: jnp.pad(x, width))(x), np.pad(x, width))


def test_what_is_work() -> None:
    calls = "  %p = getelementptr float, ptr %b, i64 %i\n  call void @tg_kernel(ptr %p)\n  %x = load ptr, ptr %q\n  %n = add nsw i64 %i, 1\n"
    assert finished.only_calls(calls)
    for line in (
        "  %x = load float, ptr %p",
        "  store double %x, ptr %p",
        "  %x = fadd float %a, %b",
        "  %x = call float @tg.call.exp.f32(float %a)",
    ):
        assert not finished.only_calls(calls + line + "\n"), line
