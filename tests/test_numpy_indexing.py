"""`x[...]` and `x.at[...]` against NumPy, over a table of index expressions, at once and traced."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.ir.bind import type_of
from tracegrad.ir.evaluate import evaluate
from tracegrad.tracer.staging import trace
from tracegrad.transforms.api import grad

assert tracegrad

X = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
I = np.array([1, 0, -1], np.int32)
J = np.array([[0, 1], [2, -2]], np.int8)
U = np.array([1, 2, 1], np.uint8)
B = np.array([True, False, True])
B2 = np.arange(12).reshape(3, 4) % 3 == 0
S = np.array(1, np.int32)

EXPRESSIONS = """
0 | -1 | 1, 2 | ..., 1 | :, 0 | :, 1:3 | :, :, ::2 | ::-1 | :, ::-2, 1 | :, 2:0:-1 | 1:1 | 5: | -1:, -2: | None | None, 0 | 0, None, 1
:, None, ..., None | ... | ..., None | (), | 1, ..., -1 | 0, 0, 0, 0 | :, 0:3:2, ::-3, 1
I % 2 | J % 2 | :, I | :, J | ..., I | I % 2, I | I % 2, 1 | 1, I | 0, :, I | I % 2, :, I | :, I, :, I | :, I, I | :, I, 1
I % 2, None, I | None, I % 2 | :, None, I | J % 2, J | J[:, :, None] % 2, I | I % 2, ..., I | 0, ..., I | :, I, 1:3 | 1:, I, ::-1
::-1, I, ::2, 1:2 | I % 2, 1:, I, None | :, :, U | U % 2, U | ..., U, : | I % 2, I, I, I | I[:2] % 2, J
:, B | :, B, 0 | :, B2 | :, B2, 1:3 | :, B, I[:2] | :, B, :, I[:2] | ..., B2, I[:4].repeat(2)[:4] | :, B, None
S | :, S | S, S | S, 1: | 1:, S | ..., S | S, ..., S | S, None | :, S, ::-1 | S, I | :, S, I | S, :, I | :, I, S | S, :, 1:3, S | -S
np.array([], int) | :, np.zeros((0, 2), int) | np.int64(1) | :, np.int8(-1)
"""
INDICES = [e.strip() for line in EXPRESSIONS.strip().splitlines() for e in line.split("|")]

NAMES = {"I": I, "J": J, "U": U, "B": B, "B2": B2, "S": S}
TRACED = ("I", "J", "U", "S")


class Expression:
    def __getitem__(self, item):
        return item


def index_of(text, names):
    return eval(f"e[{text}]", {"e": Expression(), "np": np, **names})


def traced(function):
    """`function(x, names)` traced with the array and the index arrays unknown, and evaluated."""

    def f(x, *indices):
        return [function(x, {**NAMES, **dict(zip(TRACED, indices))})]

    values = [NAMES[n] for n in TRACED]
    program, captured = trace(f, [type_of(v) for v in (X, *values)])
    return evaluate(program, *[np.asarray(c) for c in captured], X, *values)[0]


@pytest.mark.parametrize("text", INDICES)
def test_reading_with_every_kind_of_index(text):
    expected = X[index_of(text, NAMES)]
    found = jnp.asarray(X)[index_of(text, NAMES)]
    assert isinstance(found, jnp.ndarray)
    np.testing.assert_array_equal(found, expected)
    if "None" in text and found.size == 0:
        assert found.shape == expected.shape
    np.testing.assert_array_equal(traced(lambda x, names: x[index_of(text, names)]), expected)


UPDATES = {"set": None, "add": np.add, "multiply": np.multiply, "min": np.minimum, "max": np.maximum}


@pytest.mark.parametrize("method", UPDATES)
@pytest.mark.parametrize("text", INDICES)
def test_updating_with_every_kind_of_index(text, method):
    index = index_of(text, NAMES)
    shape = X[index].shape
    # values that are the same for an element named twice, so that the order of updates does not matter
    for values in (np.float32(3.0), np.full(shape[-1:], 3.0, np.float32), np.full(shape, 3.0, np.float32)):
        expected = X.copy()
        if method == "set":
            expected[index] = values
        else:
            UPDATES[method].at(expected, index, values)
        np.testing.assert_array_equal(getattr(jnp.asarray(X).at[index], method)(values), expected)
    found = traced(lambda x, names: getattr(x.at[index_of(text, names)], method)(values))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("text", [":, 2:0:-1", "I % 2, :, I", ":, B2, 1:3", "S, 1:", "1:, I, ::-1", "0, ..., I"])
def test_updating_with_distinct_values(text):
    index = index_of(text, NAMES)
    # name every element once, in the manner of the expression
    where = np.arange(X.size).reshape(X.shape)[index]
    if np.unique(where).size < where.size:
        pytest.skip("the expression names elements twice")
    values = -np.arange(where.size, dtype=np.float32).reshape(where.shape)
    expected = X.copy()
    expected[index] = values
    np.testing.assert_array_equal(jnp.asarray(X).at[index].set(values), expected)
    np.testing.assert_array_equal(traced(lambda x, names: x.at[index_of(text, names)].set(values)), expected)


OUT = np.array([0, 5, -9, 2], np.int32)
V = np.array([1.0, 2.0, 3.0], np.float32)


@pytest.mark.parametrize(
    "mode, expected",
    [(None, [1, 3, 1, 3]), ("clip", [1, 3, 1, 3]), ("fill", [1, np.nan, np.nan, 3]), ("promise_in_bounds", [1, 3, 1, 3])],
)
def test_reading_out_of_bounds(mode, expected):
    np.testing.assert_array_equal(jnp.asarray(V).at[OUT].get(mode=mode), expected)


def test_fill_values():
    x = jnp.asarray(V)
    np.testing.assert_array_equal(x.at[OUT].get(mode="fill", fill_value=-1), [1, -1, -1, 3])
    assert x.astype(int).at[9].get(mode="fill") == -(2**31)
    assert x.astype(jnp.uint8).at[9].get(mode="fill") == 255
    assert jnp.isnan(x.at[9].get(mode="fill"))


@pytest.mark.parametrize("mode, expected", [(None, [9, 2, 9]), ("drop", [9, 2, 9]), ("clip", [9, 2, 9]), ("fill", [9, 2, 9])])
def test_updating_out_of_bounds(mode, expected):
    np.testing.assert_array_equal(jnp.asarray(V).at[OUT].set(9, mode=mode), expected)
    assert jnp.asarray(V).at[7].set(0, mode="clip")[2] == 0
    np.testing.assert_array_equal(jnp.asarray(V).at[7].set(0), V)
    np.testing.assert_array_equal(jnp.asarray(V).at[jnp.array(7)].add(1), V)


def test_other_updates():
    x = jnp.asarray(V)
    np.testing.assert_array_equal(x.at[1].divide(4), [1, 0.5, 3])
    np.testing.assert_array_equal(x.at[1].power(3), [1, 8, 3])
    np.testing.assert_array_equal(x.at[jnp.array([1, 1])].subtract(1), [1, 0, 3])
    np.testing.assert_array_equal(x.at[1:].apply(jnp.square), [1, 4, 9])
    np.testing.assert_array_equal(x.at[jnp.array([1, 1, 0])].apply(lambda v: v + 1), [2, 4, 3])
    np.testing.assert_array_equal(x.at[x > 1].multiply(10), [1, 20, 30])


def test_updates_keep_the_dtype():
    x = jnp.arange(3)
    with pytest.warns(FutureWarning, match="incompatible types"):
        assert x.at[0].set(1.5).dtype == np.int32
    with pytest.warns(FutureWarning):
        np.testing.assert_array_equal(jnp.array([-3, 1]).at[0].add(1.7), [-1, 1])  # added as floats, then truncated
    assert x.astype(jnp.uint8).at[0].add(255)[0] == 255
    with pytest.warns(FutureWarning):
        assert jnp.zeros(2, jnp.float16).at[0].add(np.float32(1)).dtype == np.float16
    assert jnp.sin(1.0).at[()].add(1).weak_type


def test_masks_may_be_traced_when_the_update_is_a_scalar():
    program, _ = trace(lambda x, m: [x.at[m].set(0.0), x.at[m].add(1.0)], [type_of(V), type_of(B)])
    zeroed, added = evaluate(program, V, B)
    np.testing.assert_array_equal(zeroed, [0, 2, 0])
    np.testing.assert_array_equal(added, [2, 2, 4])


def test_derivatives_of_reading_and_updating():
    index = np.array([0, 0, 2, 7])
    # the element read twice has two derivatives; what was read out of bounds has none
    np.testing.assert_array_equal(grad(lambda x: x[index].sum())(V), [2, 0, 1])
    np.testing.assert_array_equal(grad(lambda x: x.at[jnp.array([0, 5])].set(1.0).sum())(V), [0, 1, 1])
    np.testing.assert_array_equal(grad(lambda x: x[::-1][1:].sum())(V), [1, 1, 0])
    np.testing.assert_array_equal(grad(lambda v: jnp.zeros(3).at[jnp.array([1, 1])].add(v).sum())(V[:2]), [1, 1])


def test_taking():
    x = X[0, 0]
    for indices, axis in itertools.product((np.array(1), I, J % 4), (0, 1)):
        indices = np.abs(indices).astype(np.int32)
        np.testing.assert_array_equal(jnp.take(x, indices, axis), np.take(x, indices, axis))
    order = np.argsort(-x, axis=1)
    np.testing.assert_array_equal(jnp.take_along_axis(x, order, 1), np.take_along_axis(x, order, 1))
    np.testing.assert_array_equal(jnp.take_along_axis(x, order[:, :2], 1), np.take_along_axis(x, order[:, :2], 1))
    np.testing.assert_array_equal(jnp.take_along_axis(x, order[:1], 1), np.take_along_axis(x, order[:1], 1))
