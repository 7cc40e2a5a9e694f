"""Random numbers: the streams of JAX, keys of both kinds, transformations, statistics, and errors."""

from __future__ import annotations

import re

import numpy as np
import pytest
from random_values import CLOSE, DOUBLE, EXACT, OLDER

import tracegrad.numpy as jnp
from tracegrad import lax, random
from tracegrad.ir.config import config
from tracegrad.ir.types import is_key
from tracegrad.runtime.jit import jit
from tracegrad.transforms.api import grad
from tracegrad.transforms.vmap import vmap

NAMES = {name: getattr(random, name) for name in dir(random) if not name.startswith("_")}


def draw(text):
    return eval(re.sub(r"\(key\b(?!\()", "(KEY", text), {**NAMES, "np": np, "KEY": random.key(42)})


def check(text, dtype, values, rtol=0.0):
    out = draw(text)
    assert out.dtype.name == dtype
    values = np.asarray(values)
    assert out.shape == values.shape or values.dtype.kind == "c"
    got = np.asarray(out).reshape(values.shape).astype(values.dtype)
    if rtol:
        np.testing.assert_allclose(got, values, rtol=rtol, atol=rtol)
    else:
        np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize(("text", "dtype", "values"), EXACT, ids=[t for t, *_ in EXACT])
def test_streams_are_those_of_jax(text, dtype, values):
    check(text, dtype, values)


@pytest.mark.parametrize(("text", "dtype", "values"), CLOSE, ids=[t for t, *_ in CLOSE])
def test_distributions_are_those_of_jax_up_to_rounding(text, dtype, values):
    check(text, dtype, values, rtol=3e-5)


@pytest.mark.parametrize(("text", "dtype", "values"), DOUBLE, ids=[t for t, *_ in DOUBLE])
def test_streams_in_64_bits(text, dtype, values):
    with config.override("enable_x64", True):
        check(text, dtype, values)


@pytest.mark.parametrize(("text", "dtype", "values"), OLDER, ids=[t for t, *_ in OLDER])
def test_the_older_streams(text, dtype, values):
    with config.override("threefry_partitionable", False):
        check(text, dtype, values)


def test_the_values_that_the_documentation_of_jax_shows():
    key = random.key(0)
    assert random.key_data(random.split(key)).tolist() == [[1797259609, 2579123966], [928981903, 3453687069]]
    assert random.key_data(random.fold_in(key, 1)).tolist() == [928981903, 3453687069]
    assert random.bits(key, (3,)).tolist() == [4070199207, 4202968722, 1427181096]
    np.testing.assert_array_equal(random.uniform(key, (3,)), np.float32([0.947667, 0.97857988, 0.33229148]))
    np.testing.assert_allclose(random.normal(key, (3,)), [1.6226422, 2.0252647, -0.43359444], rtol=5e-7)
    assert random.randint(key, (4,), 0, 10).tolist() == [9, 0, 2, 3]
    assert random.permutation(key, 5).tolist() == [0, 1, 4, 3, 2]


def test_shorter_draws_are_prefixes_of_longer_ones():
    key = random.key(3)
    np.testing.assert_array_equal(random.normal(key, (10,))[:4], random.normal(key, (4,)))
    np.testing.assert_array_equal(random.bits(key, (2, 5)).ravel(), random.bits(key, (10,)))


def test_typed_keys_are_arrays_of_keys():
    key = random.key(1)
    assert key.shape == () and is_key(key.dtype) and str(key.dtype) == "key<fry>"
    keys = random.split(key, (2, 3))
    assert keys.shape == (2, 3) and is_key(keys.dtype)
    assert random.key_data(keys).shape == (2, 3, 2)
    np.testing.assert_array_equal(random.key_data(keys[1, 2]), random.key_data(keys)[1, 2])
    np.testing.assert_array_equal(random.key_data(random.wrap_key_data(random.key_data(keys))), random.key_data(keys))
    np.testing.assert_array_equal(random.key_data(random.clone(key)), random.key_data(key))
    assert random.key_impl(key) == "threefry2x32" and random.key_dtype() == key.dtype


def test_raw_and_typed_keys_give_the_same_numbers():
    np.testing.assert_array_equal(random.normal(random.PRNGKey(5), (3,)), random.normal(random.key(5), (3,)))
    assert random.split(random.PRNGKey(5)).dtype == np.uint32


def test_seeds_may_be_traced():
    seeds = np.arange(4, dtype=np.int32) - 1
    keys = vmap(random.key)(seeds)
    expected = [random.key_data(random.key(int(s))).tolist() for s in seeds]
    assert random.key_data(keys).tolist() == expected


@pytest.mark.parametrize(
    "sample",
    [
        lambda k: random.normal(k, (3,)),
        lambda k: random.randint(k, (3,), 0, 7),
        lambda k: random.permutation(k, 6),
        lambda k: random.categorical(k, jnp.zeros((2, 3))),
        lambda k: random.gamma(k, jnp.array([0.5, 2.0])),
        lambda k: random.poisson(k, 3.0, (2,)),
        lambda k: random.key_data(random.fold_in(random.split(k)[1], 3)),
    ],
    ids=["normal", "randint", "permutation", "categorical", "gamma", "poisson", "keys"],
)
@pytest.mark.parametrize("make", [random.key, random.PRNGKey])
def test_transformations_do_not_change_the_numbers(sample, make):
    keys = random.split(make(7), 3)
    expected = np.stack([np.asarray(sample(k)) for k in keys])
    np.testing.assert_allclose(np.stack([np.asarray(jit(sample)(k)) for k in keys]), expected, rtol=2e-6)
    np.testing.assert_allclose(vmap(sample)(keys), expected, rtol=2e-6)
    np.testing.assert_allclose(jit(lambda ks: lax.scan(lambda c, k: (c, sample(k)), 0, ks)[1])(keys), expected, rtol=2e-6)


def test_keys_flow_through_control_flow():
    def walk(key):
        def body(state):
            i, key, total = state
            key, sub = random.split(key)
            return i + 1, key, total + random.uniform(sub)

        _, key, total = lax.while_loop(lambda s: s[0] < 3, body, (0, key, jnp.float32(0)))
        key = lax.cond(total > 1, lambda k: random.fold_in(k, 1), lambda k: k, key)
        return total, random.key_data(key)

    for a, b in zip(jit(walk)(random.key(2)), walk(random.key(2))):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_samples_are_differentiable_in_their_parameters():
    key = random.key(0)
    assert float(grad(lambda s: random.normal(key) * s)(jnp.float32(2))) == pytest.approx(float(random.normal(key)))
    slope = grad(lambda a: random.gamma(key, a))(jnp.float32(2.5))
    # the derivative of the inverse of the distribution function at the sample's own quantile
    scipy_special = pytest.importorskip("scipy.special")
    x = float(random.gamma(key, jnp.float32(2.5)))
    q = scipy_special.gammainc(2.5, x)
    reference = (scipy_special.gammaincinv(2.5 + 1e-5, q) - scipy_special.gammaincinv(2.5 - 1e-5, q)) / 2e-5
    assert float(slope) == pytest.approx(reference, rel=1e-3)
    log_slope = grad(lambda a: random.loggamma(key, a))(jnp.float32(2.5))
    assert float(log_slope) == pytest.approx(float(slope) / x, rel=1e-3)


def test_moments_of_distributions():
    key = random.key(11)
    n = 20000
    for sample, mean, variance in [
        (random.uniform(key, (n,)), 0.5, 1 / 12),
        (random.normal(key, (n,)), 0.0, 1.0),
        (random.exponential(key, (n,)), 1.0, 1.0),
        (random.logistic(key, (n,)), 0.0, np.pi**2 / 3),
        (random.poisson(key, 30.0, (n,)), 30.0, 30.0),
        (random.randint(key, (n,), 0, 10), 4.5, 8.25),
        (random.normal(key, (n,), "bfloat16"), 0.0, 1.0),
    ]:
        x = np.asarray(sample).astype(np.float64)
        assert x.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / n) + 0.01 * (sample.dtype.itemsize == 2))
        assert x.var() == pytest.approx(variance, rel=0.06)


def test_bounds_are_kept():
    key = random.key(4)
    u = np.asarray(random.uniform(key, (10000,)))
    assert u.min() >= 0 and u.max() < 1
    assert np.abs(np.asarray(random.truncated_normal(key, -0.5, 0.5, (1000,)))).max() < 0.5
    assert np.isfinite(np.asarray(random.gumbel(key, (10000,)))).all()
    assert random.choice(key, 3, (0,)).shape == (0,) and random.uniform(key, (0, 2)).shape == (0, 2)


KEY = random.key(0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: random.normal(random.split(KEY)), ValueError, "accepts a single key.*vmap"),
        (lambda: random.normal(0), TypeError, "invalid PRNG key data"),
        (lambda: random.normal(np.zeros(2)), TypeError, "uint32; got dtype=float32"),
        (lambda: random.normal(np.zeros(3, np.uint32)), TypeError, r"shape to end with \(2,\)"),
        (lambda: random.uniform(KEY, (2,), int), ValueError, "must be a float dtype, got int32"),
        (lambda: random.randint(KEY, (2,), 0, 2, float), TypeError, "only accepts integer dtypes"),
        (lambda: random.bernoulli(KEY, 1), TypeError, "must have a floating dtype"),
        (lambda: random.key(0, impl="dice"), ValueError, "unrecognized PRNG implementation"),
        (lambda: random.key(1.5), TypeError, "PRNG key seed must be an integer"),
        (lambda: random.key([1]), TypeError, "key"),
        (lambda: random.key(KEY), TypeError, "was given a PRNG key"),
        (lambda: random.fold_in(KEY, -1), OverflowError, "out of bounds for uint32"),
        (lambda: random.choice(KEY, 5, (7,), replace=False), ValueError, "larger sample"),
        (lambda: random.permutation(KEY, 3.0), TypeError, "must be an integer or at least 1-dimensional"),
        (lambda: random.gamma(KEY, np.ones(3, np.float32), (2,)), ValueError, "broadcast-compatible"),
        (lambda: random.uniform(KEY, (-1,)), ValueError, "negative"),
        (lambda: KEY + 1, TypeError, "key"),
        (lambda: jit(lambda n: random.normal(KEY, (n,)))(3), TypeError, "static"),
    ],
)
def test_errors_of_keys_and_shapes(call, error, words):
    with pytest.raises(error, match=words):
        call()
