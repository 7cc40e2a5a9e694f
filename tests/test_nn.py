"""nn: activations and their derivatives, softmax and its kin, attention, initializers."""

from __future__ import annotations

import numpy as np
import pytest
from nn_values import INITIALIZERS, VALUES

import tracegrad.numpy as jnp
from tracegrad import nn, random
from tracegrad.runtime.jit import jit
from tracegrad.test_util import check_grads
from tracegrad.tracer.abstract import make_ir
from tracegrad.transforms.api import grad
from tracegrad.transforms.vmap import vmap

F32 = np.float32
X = np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 6.0, 7.0], F32)
W = np.arange(1, 8, dtype=F32)
RNG = np.random.RandomState(0)


@pytest.mark.parametrize("name", VALUES)
def test_values_and_derivatives(name):
    function = getattr(nn, name)
    values, slopes = VALUES[name]
    np.testing.assert_allclose(function(X), values, rtol=5e-6, atol=2e-6)
    weighted = grad(lambda x: jnp.sum(function(x) * W))
    np.testing.assert_allclose(weighted(X), slopes, rtol=3e-5, atol=1e-5)
    np.testing.assert_allclose(jit(weighted)(X), slopes, rtol=3e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in VALUES if n not in ("relu", "hard_tanh")])
def test_integers_become_floats(name):
    assert getattr(nn, name)(np.arange(3)).dtype == F32


def test_dtypes_are_kept():
    assert nn.relu(np.arange(-2, 2)).dtype == np.int32
    for name in ("relu", "gelu", "softmax", "logsumexp", "silu", "softplus"):
        assert getattr(nn, name)(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


def test_kinks_and_infinities():
    assert float(grad(nn.relu)(F32(0))) == 0.0
    assert [float(grad(nn.relu6)(F32(v))) for v in (0, 3, 6)] == [0.0, 1.0, 0.0]
    assert np.isnan(float(nn.relu(F32(np.nan))))
    assert float(nn.softplus(F32(1000))) == 1000.0 and float(grad(nn.softplus)(F32(0))) == 0.5
    assert float(nn.logsumexp(np.full(3, -np.inf, F32))) == -np.inf
    assert float(nn.logsumexp(np.array([1, np.inf], F32))) == np.inf
    np.testing.assert_allclose(nn.softmax(np.array([1000.0, 1001.0], F32)), [0.26894143, 0.7310586], rtol=1e-6)
    assert float(grad(nn.elu)(F32(100))) == 1.0


def test_exact_gelu_and_glu():
    scipy_special = pytest.importorskip("scipy.special")
    np.testing.assert_allclose(nn.gelu(X, approximate=False), X * scipy_special.ndtr(X), rtol=1e-5, atol=1e-6)
    y = RNG.randn(2, 6).astype(F32)
    np.testing.assert_allclose(nn.glu(y), y[:, :3] / (1 + np.exp(-y[:, 3:])), rtol=1e-5)
    np.testing.assert_allclose(nn.log1mexp(np.float32([0.1, 2])), np.log(-np.expm1(-np.float64([0.1, 2]))), rtol=1e-5)


def test_logsumexp_with_factors():
    a, b = RNG.randn(3, 4).astype(F32), RNG.randn(3, 4).astype(F32)
    total = np.sum(b.astype(np.float64) * np.exp(a), 1)
    out, sign = nn.logsumexp(a, axis=1, b=b, return_sign=True, keepdims=True)
    np.testing.assert_allclose(out[:, 0], np.log(np.abs(total)), rtol=1e-4)
    np.testing.assert_array_equal(sign[:, 0], np.sign(total))
    mask = a > 0
    expected = np.log(np.sum(np.where(mask, np.exp(a), 0)))
    np.testing.assert_allclose(nn.logsumexp(a, where=mask), expected, rtol=1e-5)
    np.testing.assert_allclose(nn.logmeanexp(a, axis=(0, 1)), np.log(np.mean(np.exp(a))), rtol=1e-5)


def test_masked_softmax():
    x, mask = RNG.randn(2, 4).astype(F32), np.array([[True, True, False, True]] * 2)
    kept = np.exp(x) * mask
    np.testing.assert_allclose(nn.softmax(x, where=mask), kept / kept.sum(1, keepdims=True), rtol=1e-5)
    log = np.asarray(nn.log_softmax(x, where=mask))
    assert (log[:, 2] == -np.inf).all()
    np.testing.assert_allclose(np.exp(log[:, :2]), (kept / kept.sum(1, keepdims=True))[:, :2], rtol=1e-5)


@pytest.mark.parametrize("axis", [0, -1, (0, 1)])
def test_standardize(axis):
    x = RNG.randn(5, 6).astype(F32) * 3 + 1
    expected = (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 1e-5)
    np.testing.assert_allclose(nn.standardize(x, axis), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(nn.standardize(x, axis, algorithm="stable"), expected, rtol=1e-4, atol=1e-5)


def test_one_hot():
    np.testing.assert_array_equal(nn.one_hot(np.array([[0, 2], [5, -1]]), 3), [[[1, 0, 0], [0, 0, 1]], [[0] * 3] * 2])
    assert nn.one_hot(2, 4, dtype=np.int32).tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(nn.one_hot(np.array([0, 2]), 3, axis=0), [[1, 0], [0, 0], [0, 1]])


def test_second_derivatives_and_batches():
    for function in (nn.softmax, nn.log_softmax, nn.logsumexp, nn.gelu, nn.softplus, nn.silu):
        check_grads(function, (np.linspace(-1, 1, 5).astype(F32),), 2)
        batch = RNG.randn(3, 5).astype(F32)
        np.testing.assert_allclose(
            vmap(function)(batch), np.stack([np.asarray(function(b)) for b in batch]), rtol=1e-5, atol=1e-6
        )


def attention(q, k, v, allowed=None, bias=0.0):
    logits = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1]) + bias
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), v)


def test_attention():
    q, k, v = (RNG.randn(2, n, 4, 8).astype(F32) for n in (5, 6, 6))
    np.testing.assert_allclose(nn.dot_product_attention(q, k, v), attention(q, k, v), rtol=1e-4, atol=1e-5)
    causal = np.tril(np.ones((5, 6), bool))
    np.testing.assert_allclose(
        nn.dot_product_attention(q, k, v, is_causal=True), attention(q, k, v, causal), rtol=1e-4, atol=1e-5
    )
    bias, mask = RNG.randn(2, 4, 5, 6).astype(F32), RNG.rand(2, 4, 5, 6) > 0.2
    np.testing.assert_allclose(
        nn.dot_product_attention(q, k, v, bias, mask), attention(q, k, v, mask, bias), rtol=1e-4, atol=1e-5
    )
    shared = nn.dot_product_attention(q, k[:, :, :2], v[:, :, :2])
    np.testing.assert_allclose(shared, attention(q, k[:, :, :2].repeat(2, 2), v[:, :, :2].repeat(2, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nn.dot_product_attention(q[0], k[0], v[0]), attention(q, k, v)[0], rtol=1e-4, atol=1e-5)
    lengths = np.arange(6) < np.array([2, 6])[:, None]
    padded = nn.dot_product_attention(q, k, v, key_value_seq_lengths=np.array([2, 6]))
    np.testing.assert_allclose(padded, attention(q, k, v, lengths[:, None, None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializers_are_those_of_jax(name):
    out = getattr(nn.initializers, name)()(random.key(1), (3, 2))
    np.testing.assert_allclose(out, INITIALIZERS[name], rtol=1e-5, atol=1e-6)


def test_initializers_in_other_forms():
    key = random.PRNGKey(0)
    assert nn.initializers.zeros(key, (2,), jnp.bfloat16).dtype == jnp.bfloat16
    assert nn.initializers.constant(3)(key, (2, 2), np.int32).tolist() == [[3, 3], [3, 3]]
    w = np.asarray(nn.initializers.delta_orthogonal()(key, (3, 3, 2, 4)))
    np.testing.assert_allclose(w[1, 1] @ w[1, 1].T, np.eye(2), atol=1e-5)
    assert np.count_nonzero(w[0]) == 0
    w = nn.initializers.variance_scaling(2.0, "fan_out", "normal")(key, (200, 300))
    assert float(jnp.var(w)) == pytest.approx(2 / 300, rel=0.05)
    with pytest.raises(ValueError, match="1-dimensional weights"):
        nn.initializers.he_normal()(key, (3,))
    with pytest.raises(ValueError, match="invalid mode"):
        nn.initializers.variance_scaling(1.0, "fan", "normal")(key, (2, 2))


def test_programs_are_lean():
    def names(function):
        return [e.primitive.name for e in make_ir(function)(X).equations]

    assert names(nn.relu) == ["le", "select"]
    assert names(nn.silu) == ["logistic", "mul"]
    assert len(names(nn.softmax)) <= 8 and len(names(nn.gelu)) <= 9
