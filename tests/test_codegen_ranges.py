"""Loops ask in no turn what is known before: ranges are cut where a condition changes, and doubled where it is the same in every turn."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tests.codegen_harness import check, staged
from tracegrad.codegen.loop_ir import For, Switch, blocks_of
from tracegrad.codegen.lower import lower_program
from tracegrad.ir import ops
from tracegrad.scipy.linalg import solve_triangular


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def function_of(f, *args):
    return lower_program(staged(f, *args), "f")[0]


def innermost(function):
    """The loops that hold no others, with what stands in them."""
    found = []
    for s in function.walk():
        if type(s) is For:
            inside, stack = [], list(s.body)
            while stack:
                t = stack.pop()
                inside.append(t)
                for block in blocks_of(t):
                    stack.extend(block)
            if not any(type(t) is For for t in inside):
                found.append((s, inside))
    return found


@pytest.mark.parametrize("low, high", [(1, 1), (0, 2), (3, 0), (-1, 2)])
def test_padding_in_two_dimensions_has_no_branch_in_its_inner_loops(low, high):
    def f(x):
        return ops.pad(x * x, np.float32(0.5), ((low, high, 0), (low, high, 0)))

    x = draw(20, 30)
    check(f, x)
    assert not any(type(t) is Switch for _, inside in innermost(function_of(f, x)) for t in inside)


def test_paddings_of_paddings_and_sums_of_them():
    def f(x):
        y = ops.pad(x, np.float32(1.0), ((1, 0, 0), (0, 2, 0)))
        return ops.pad(y, np.float32(2.0), ((2, 2, 0), (1, 1, 0))) * ops.pad(x, np.float32(3.0), ((3, 2, 0), (2, 2, 0)))

    check(f, draw(12, 25))


def test_padding_read_by_a_reduction():
    def f(x):
        return ops.reduce_sum(ops.pad(x, np.float32(1.0), ((2, 1, 0), (1, 3, 0))), (1,))

    check(f, draw(9, 40))


@pytest.mark.parametrize("kind", ["add", "set", "max"])
def test_elementary_functions_of_what_is_scattered_are_vectors(kind):
    """They have a loop of their own; what takes none is computed where it is scattered."""

    def scattered(x, i, u):
        return ops.scatter(
            x, i, u, kind=kind, update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
        )

    def f(x, i, u):
        return scattered(x, i, ops.exp(ops.select(ops.gt(u, np.float32(0.5)), ops.neg(u), u)))

    def g(x, i, u):
        return scattered(x, i, ops.mul(u, u))

    x, i, u = draw(5, 10).reshape(50), np.arange(200, dtype=np.int32).reshape(200, 1) % 60 - 5, draw(200)
    for h, count in ((f, 2), (g, 1)):
        check(h, x, i, u)
        loops = [s for s, _ in innermost(function_of(h, x, i, u)) if re.search("200", repr(s.high))]
        assert len(loops) == count
    check(lambda x, i, u: f(x, i, u.reshape(20, 10)), x, i.reshape(20, 10, 1), u)


def test_neighbours_around_the_edge_that_are_counted_and_summed():
    """The sum is carried from range to range, and the last column is no loop; the values that are kept, too, are written in them."""

    def f(x):
        right, left = (ops.concatenate([x[:, a:b], x[:, c:d]], 1) for a, b, c, d in ((1, 40, 0, 1), (37, 40, 0, 37)))
        y = (x + right) * left
        return y, ops.reduce_sum(y, (0, 1)), ops.reduce_max(y, (1,))

    x = np.random.default_rng(0).integers(-9, 9, (12, 40)).astype(np.int32)
    check(f, x)
    check(f, draw(12, 40))
    loops = innermost(function_of(f, x))
    assert any(s.params for s, _ in loops) and not any(type(t) is Switch for _, inside in loops for t in inside)


def test_scatters_of_numbers_may_be_unrolled():
    def f(x, i, u):
        return ops.scatter(
            x, i, u, kind="add", update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
        )

    x, i, u = draw(50), np.arange(200, dtype=np.int32).reshape(200, 1) % 60 - 5, draw(200)
    check(f, x, i, u)
    loops = [s for s, _ in innermost(function_of(f, x, i, u)) if re.search("200", repr(s.high))]
    assert loops and all("no unroll" not in s.hints for s in loops)


def sums_of(f, *args):
    return {s.op: s.attr for s in function_of(f, *args).walk() if getattr(s, "op", "") in ("fadd", "fsub")}


def test_sums_of_two_products_are_fused_only_where_they_are_multiples_by_different_constants():
    x, y = draw(40), draw(40)
    check(lambda x, y: x * np.float32(0.2) + y * np.float32(1.5), x, y)
    assert sums_of(lambda x, y: x * np.float32(0.2) + y * np.float32(1.5), x, y) == {"fadd": None}
    assert sums_of(lambda x, y: x * np.float32(0.2) - y * np.float32(0.2), x, y) == {"fsub": "exact"}
    assert sums_of(lambda x, y: x * y - y * (x + y), x, y)["fsub"] == "exact"
    swapped = check(lambda x, y: x * y - y * x, x, y)
    assert swapped is not None


def test_what_is_chosen_under_an_assumption_is_not_remembered_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that one side of a concatenation holds is loaded before the loop; the other side must not find it."""
    monkeypatch.setattr("tracegrad.codegen.lower.OPERATION_BUDGET", 0)  # as in a large program: small arrays stay in memory
    rng = np.random.default_rng(0)
    a, b, c, d, x, m, t, w = [
        rng.normal(size=s).astype(np.float32)
        for s in [(1, 1), (1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 3, 3), (3, 3), (3, 2), (1, 2, 1, 2, 3, 2)]
    ]

    def f(a: Any, b: Any, c: Any, d: Any) -> Any:
        both = jnp.concatenate([a, b], 1)
        solved = solve_triangular(m + 3 * np.eye(3, dtype=np.float32), t + both, lower=True)
        y = jnp.concatenate([both.reshape(1, 1, 2), c], 1)[:, :, :1]
        y = jnp.concatenate([y, d], 2)[:, :, :1].reshape(1, 2)
        return solved, jnp.einsum("bjkl,bpqjkr->blpqr", x * y[:, :, None, None] * 0.2, w)

    for got, want in zip(tg.jit(f)(a, b, c, d), f(*map(jnp.asarray, (a, b, c, d)))):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "bool", "float16"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rows_of_pieces_are_copied_together(dtype, axis):
    rng = np.random.default_rng(0)
    shapes = [[5, 40, 300] for _ in range(4)]
    for k, shape in enumerate(shapes):
        shape[axis] = (300 if axis == 2 else 40) + 7 * k
    xs = [(rng.normal(size=s) * 3).astype(dtype) for s in shapes]

    def function(xs):
        cut = [xs[0], -xs[1] if dtype != "bool" else ~xs[1], xs[2][::-1], xs[3]]
        return jnp.concatenate(cut, axis), jnp.concatenate([x[:, :, 4:] for x in xs], axis) if axis < 2 else jnp.concatenate(
            xs * 2, 2
        )

    found = tg.jit(function)(xs)
    cut = [xs[0], -xs[1] if dtype != "bool" else ~xs[1], xs[2][::-1], xs[3]]
    np.testing.assert_array_equal(found[0], np.concatenate(cut, axis))
    np.testing.assert_array_equal(found[1], np.concatenate([x[:, :, 4:] for x in xs] if axis < 2 else xs * 2, axis))


def test_pieces_of_what_a_loop_carries():
    x = np.arange(4 * 200, dtype=np.float32).reshape(4, 200)
    turn = lambda i, x: jnp.concatenate([x[:, 100:], x[:, :100]], 1) + jnp.concatenate([x, x], 1)[:, 100:300]  # noqa: E731
    wanted = x
    for _ in range(3):
        wanted = np.concatenate([wanted[:, 100:], wanted[:, :100]], 1) + np.concatenate([wanted, wanted], 1)[:, 100:300]
    np.testing.assert_array_equal(tg.jit(lambda x: tg.lax.fori_loop(0, 3, turn, x))(x), wanted)
