"""Collectives over the named axes of vmap: groups, several axes, tiles, derivatives."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import grad, jit, lax, vmap
from tracegrad.test_util import check_grads

pytestmark = pytest.mark.usefixtures("double_precision")

X = np.array([0.5, -1.0, 2.0, 3.0, 4.5, -6.0])
GROUPS = [[0, 2, 4], [5, 1, 3]]
named = functools.partial(vmap, axis_name="i")


def close(x: Any, y: Any) -> None:
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def by_group(f: Any, x: np.ndarray, groups: Any = GROUPS) -> np.ndarray:
    """What NumPy makes of each group's values, for every member."""
    rows = [None] * len(x)
    for group in groups:
        for position, member in enumerate(group):
            rows[member] = f(x[group], position)
    return np.stack(rows)


@pytest.mark.parametrize("wrap", [lambda f: f, jit])
def test_reductions_by_group(wrap: Any) -> None:
    for groups in (GROUPS, [[0, 1], [2], [5, 4, 3]]):
        for name, reduce in (("psum", np.sum), ("pmean", np.mean), ("pmax", np.max), ("pmin", np.min)):
            f = lambda x, name=name, groups=groups: getattr(lax, name)({"x": x}, "i", axis_index_groups=groups)["x"]  # noqa: E731
            close(wrap(named(f))(X), by_group(lambda g, _, reduce=reduce: reduce(g), X, groups))
        counts = named(lambda x, groups=groups: x * 0 + lax.psum(1, "i", axis_index_groups=groups))(X)
        close(counts, by_group(lambda g, _: float(len(g)), X, groups))
    whole = named(lambda n: lax.pmax(n, "i", axis_index_groups=[[0], [1, 2]]))(np.arange(-3, 0))
    assert whole.tolist() == [-3, -1, -1]
    assert named(lambda b: lax.pmin(b, "i", axis_index_groups=[[0], [1, 2]]))(np.array([True, False, True])).tolist() == [1, 0, 0]


def test_exchanges_by_group() -> None:
    matrix = np.arange(18.0).reshape(6, 3) ** 2
    group = {"axis_index_groups": GROUPS}
    close(named(lambda x: lax.all_gather(x, "i", **group))(X), by_group(lambda g, _: g, X))
    close(named(lambda x: lax.all_gather(x, "i", axis=1, **group))(matrix), by_group(lambda g, _: g.T, matrix))
    close(named(lambda x: lax.all_gather(x, "i", tiled=True, **group))(matrix), by_group(lambda g, _: g.ravel(), matrix))
    close(named(lambda x: lax.all_to_all(x, "i", 0, 0, **group))(matrix), by_group(lambda g, p: g[:, p], matrix))
    close(named(lambda x: lax.psum_scatter(x, "i", **group))(matrix), by_group(lambda g, p: g.sum(0)[p], matrix))
    close(
        named(lambda x: lax.psum_scatter(x, "i", tiled=True, **group))(np.tile(matrix, 2)),
        by_group(lambda g, p: g.sum(0)[2 * p : 2 * p + 2], np.tile(matrix, 2)),
    )


def test_tiles_and_dimensions() -> None:
    x = np.arange(36.0).reshape(3, 6, 2)
    close(
        named(lambda x: lax.all_to_all(x, "i", 0, 1, tiled=True))(x),
        np.stack([np.hstack(x[:, 2 * i : 2 * i + 2]) for i in range(3)]),
    )
    close(
        named(lambda x: lax.all_to_all(x, "i", 0, 0, tiled=True))(x),
        np.stack([np.vstack(x[:, 2 * i : 2 * i + 2]) for i in range(3)]),
    )
    y = np.arange(18.0).reshape(3, 3, 2)
    close(named(lambda y: lax.all_to_all(y, "i", 0, 1))(y), y.transpose(1, 2, 0))
    close(named(lambda y: lax.all_to_all(y, "i", -2, -2))(y), y.transpose(1, 0, 2))
    close(named(lambda x: lax.all_gather(x, "i", axis=-1))(y)[0], np.moveaxis(y, 0, -1))
    close(named(lambda x: lax.psum_scatter(x.T, "i", scatter_dimension=-1, tiled=True))(x)[1], x.sum(0).T[:, 2:4])
    close(named(lambda x: lax.pshuffle(x, "i", [2, 0, 1]))(y), y[[2, 0, 1]])
    close(named(lambda x: lax.pbroadcast({"x": x}, "i", 2)["x"])(y), np.stack([y[2]] * 3))
    assert named(lambda x: x + lax.axis_size("i"))(np.zeros(3)).tolist() == [3.0] * 3
    # Dimensions of the array itself beside names, as in JAX.
    close(named(lambda x: lax.psum(x, (0, "i")))(y), np.stack([y.sum((0, 1))] * 3))
    close(named(lambda x: lax.pmean(x, (-1, "i")))(y), np.stack([y.mean((0, 2))] * 3))
    close(lax.pmax(y, 1), y.max(1))


def test_several_axes_at_once() -> None:
    x = np.arange(36.0).reshape(2, 3, 6) ** 2
    both = lambda f: vmap(vmap(f, axis_name="j"), axis_name="i")  # noqa: E731
    flat = x.reshape(6, 6)
    close(both(lambda x: lax.all_gather(x, ("i", "j")))(x)[1, 2], flat)
    close(both(lambda x: lax.all_gather(x, ("j", "i")))(x)[1, 2], x.swapaxes(0, 1).reshape(6, 6))
    close(both(lambda x: lax.psum_scatter(x, ("i", "j")))(x), flat.sum(0).reshape(2, 3))
    close(both(lambda x: lax.all_to_all(x, ("i", "j"), 0, 0))(x), flat.T.reshape(2, 3, 6))
    close(
        both(lambda x: lax.pmean(x, ("i", "j"), axis_index_groups=GROUPS)[0])(x).ravel(),
        by_group(lambda g, _: g.mean(0)[0], flat),
    )
    close(both(lambda x: lax.ppermute(x, ("i", "j"), [(0, 5), (1, 2)])[3])(x).ravel(), [0, 0, flat[1, 3], 0, 0, flat[0, 3]])
    assert both(lambda x: lax.axis_index(("i", "j")))(x).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert both(lambda x: lax.axis_size(("i", "j")))(x).tolist() == [[6] * 3] * 2


@pytest.mark.parametrize(
    "f",
    [
        lambda x: lax.psum(x**2, "i", axis_index_groups=GROUPS),
        lambda x: lax.pmean(x**2, "i", axis_index_groups=[[0, 1], [2], [5, 4, 3]]) * x,
        lambda x: lax.pmax(x**2, "i", axis_index_groups=GROUPS) * x,
        lambda x: lax.all_gather(x**2, "i", axis=1, tiled=True, axis_index_groups=GROUPS) * x[:, :1],
        lambda x: lax.all_to_all(x**2, "i", 0, 1, tiled=True) * x[0, 0],
        lambda x: lax.psum_scatter(x**2, "i", tiled=True, axis_index_groups=[[0, 1, 2, 3, 4, 5]]) * x[0],
        lambda x: lax.ppermute(x**2, "i", [(i, (i + 1) % 6) for i in range(6)]) * x,
    ],
)
def test_derivatives_of_collectives_reach_all_examples(f: Any) -> None:
    x = np.random.default_rng(0).normal(size=(6, 6, 1))
    check_grads(named(f), (x,), 2, rtol=1e-5)
    inside = named(grad(lambda x: f(x).sum()))(x)
    close(inside, jit(named(grad(lambda x: f(x).sum())))(x))
    # Each example's cotangents reach all examples, so the gradient inside of vmap is that of the sum.
    close(inside, grad(lambda x: named(f)(x).sum())(x))


def test_collectives_inside_loops_and_calls() -> None:
    def f(x: Any) -> Any:
        step = lambda c, _: (c + lax.psum(c, "i", axis_index_groups=GROUPS), None)  # noqa: E731
        return lax.scan(step, x, None, length=2)[0]

    expected = X + by_group(lambda g, _: g.sum(), X)
    expected = expected + by_group(lambda g, _: g.sum(), expected)
    for g in (named(f), jit(named(f)), named(jit(f)), named(tracegrad.checkpoint(f))):
        close(g(X), expected)


def test_spmd_axis_name_is_accepted() -> None:
    for name in ("k", ("k", "l")):
        close(vmap(lambda x: lax.psum(x, "i"), axis_name="i", spmd_axis_name=name)(X), np.full(6, X.sum()))


def test_errors_name_the_axis_and_the_sizes() -> None:
    for f, error, message in (
        (
            lambda x: lax.psum(x, "i", axis_index_groups=[[0, 1], [1, 2]]),
            ValueError,
            "cover all indices exactly once, that is 0 to 5",
        ),
        (lambda x: lax.all_gather(x, "i", axis_index_groups=[[0, 1], [2, 3, 4, 5]]), ValueError, "must all be the same size"),
        (lambda x: lax.psum(x[None], (0, "i"), axis_index_groups=GROUPS), ValueError, "only about named axes"),
        (lambda x: lax.psum(x, (0, "i")), ValueError, "axis 0 is out of bounds for an array of dimension 0"),
        (lambda x: lax.psum(1, (0, "i")), ValueError, "the number 1 has no dimension 0"),
        (lambda x: lax.all_gather(x, "i", axis=2), ValueError, r"axis 2 is out of bounds for an array of shape \(\)"),
        (
            lambda x: lax.all_to_all(jnp.ones(4), "i", 0, 0, tiled=True),
            ValueError,
            "size 4.* is not divisible by the axis' size, 6",
        ),
        (lambda x: lax.all_to_all(jnp.ones(4), "i", 0, 0), ValueError, r"dimension 0 .*\(4,\) must be the size of the axis, 6"),
        (lambda x: lax.psum_scatter(jnp.ones(4), "i"), ValueError, "must be the size of the axis, 6"),
        (lambda x: lax.ppermute(x, "i", [(0, 1), (2, 1)]), ValueError, "sources and destinations must be unique"),
        (lambda x: lax.ppermute(x, "i", [(0, 6)]), ValueError, "goes beyond the axis 'i' of size 6"),
        (lambda x: lax.pshuffle(x, "i", [0, 0, 1, 2, 3, 4]), ValueError, "does not represent a permutation"),
        (lambda x: lax.pbroadcast(x, "i", 6), ValueError, "source 6 is not an index"),
        (lambda x: lax.axis_size("k"), NameError, "unbound axis name: 'k'.*in scope here: 'i'"),
    ):
        with pytest.raises(error, match=message):
            named(f)(X)
