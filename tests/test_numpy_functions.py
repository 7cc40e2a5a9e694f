"""Results of `tracegrad.numpy` against NumPy's, over dtypes and shapes, at once and traced."""

from __future__ import annotations

import numpy as np
import pytest

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.ir.bind import type_of
from tracegrad.ir.evaluate import evaluate
from tracegrad.tracer.errors import ConcretizationTypeError
from tracegrad.tracer.staging import trace

assert tracegrad

R = np.random.RandomState(0)
DATA = {
    "f": R.randn(4).astype(np.float32),
    "p": (np.abs(R.randn(4)) + 0.1).astype(np.float32),
    "m": R.randn(3, 4).astype(np.float32),
    "t": R.randn(2, 3, 4).astype(np.float32),
    "q": R.randn(4, 4).astype(np.float32),
    "i": np.array([3, -1, 0, 2], np.int32),
    "k": R.randint(-5, 5, (3, 4)).astype(np.int32),
    "u": np.array([0, 1, 200, 255], np.uint8),
    "b": np.array([True, False, True, True]),
    "B": R.rand(3, 4) > 0.5,
    "c": (R.randn(4) + 1j * R.randn(4)).astype(np.complex64),
    "h": R.randn(4).astype(np.float16),
    "n": np.array([1.0, np.nan, -np.inf, np.inf], np.float32),
    "s": np.array(2.5, np.float32),
}

# One call a line; `np` stands for NumPy and for tracegrad.numpy in turn. `~` allows single precision's error of linear algebra.
CALLS = """
np.exp(f), np.log(p), np.sin(f), np.cos(f), np.tan(f), np.arcsin(f / 3), np.arccos(f / 3), np.arctan(f), np.sinh(f), np.cosh(f)
np.tanh(f), np.arcsinh(f), np.arccosh(p + 1), np.arctanh(f / 3), np.expm1(f), np.log1p(p), np.sqrt(p), np.cbrt(f), np.exp2(f)
np.log2(p), np.log10(p), np.square(i), np.reciprocal(f), np.sign(n), np.abs(c), np.fabs(f), np.floor(f), np.ceil(f), np.trunc(f)
np.rint(f), np.round(f, 2), np.round(k), np.degrees(f), np.radians(f), np.conj(c), np.real(c), np.imag(c), np.angle(c), np.sinc(f)
np.arctan2(f, p), np.hypot(f, p), np.logaddexp(f, p), np.logaddexp2(f, p), np.fmod(f, p), np.mod(f, p), np.floor_divide(f, p)
np.power(p, f), np.power(f, 2), np.power(i, 3), np.copysign(f, -p), np.nextafter(f, p), np.heaviside(f, np.float32(0.5))
np.maximum(n, f), np.minimum(n, f), np.fmax(n, f), np.fmin(n, f), np.gcd(i, 6), np.lcm(i, 6), np.ldexp(f, i), np.divmod(f, p)
np.modf(f), np.frexp(f), np.signbit(n), np.isnan(n), np.isinf(n), np.isfinite(n), np.isposinf(n), np.isneginf(n), np.isreal(c)
np.equal(f, p), np.less(f, p), np.greater_equal(i, k), np.logical_and(b, f), np.logical_xor(b, B), np.logical_not(i), np.invert(i)
np.bitwise_and(i, 3), np.bitwise_or(i, k), np.bitwise_xor(i, k), np.left_shift(i, 2), np.right_shift(i, 1), np.nan_to_num(n)
np.sum(m), np.sum(m, 0), np.sum(t, (0, 2)), np.sum(m, 1, keepdims=True), np.sum(m, where=B), np.sum(m, initial=np.float32(2)), np.prod(m, 1)
np.max(m), np.min(t, (1, 2)), np.max(m, 1, where=B, initial=-9), np.ptp(m, 0), np.all(B, 0), np.any(B, 1), np.count_nonzero(k, 1)
np.mean(m), np.mean(t, (0, 1)), np.mean(m, where=B), np.var(m, 1), np.std(m, ddof=1), np.average(m, 1, weights=p), np.median(m)
np.cumsum(f), np.cumsum(m, 1), np.cumprod(m, 0), np.argmax(m), np.argmin(m, 1), np.argmax(n), np.nansum(n), np.nanmax(n), np.nanmin(n)
np.percentile(m, 30), np.quantile(m, np.float32([0.2, 0.7]), axis=0), np.nanmean(np.where(B, m, np.nan)), np.nanvar(np.where(B, m, np.nan))
np.reshape(m, (2, 6)), np.reshape(m, -1), np.ravel(m, order="F"), np.transpose(t), np.transpose(t, (1, 2, 0)), np.swapaxes(t, 0, 2)
np.moveaxis(t, 0, -1), np.rollaxis(t, 2), np.squeeze(t[:1]), np.expand_dims(f, (0, 2)), np.broadcast_to(f, (3, 4)), np.tile(m, (2, 1, 2))
np.concatenate([m, m], 1), np.concatenate([f, i]), np.stack([f, p], 1), np.vstack([f, p]), np.hstack([m, m]), np.dstack([f, p])
np.column_stack([f, p]), np.append(f, p), np.block([[q, q], [q, q]]), np.split(m, 2, 1), np.array_split(f, 3), np.repeat(m, 2, 1)
np.repeat(f, 3), np.flip(m), np.flip(m, 1), np.rot90(m), np.rot90(m, 3), np.roll(m, 2), np.roll(m, (1, -2), (0, 1)), np.resize(f, (3, 3))
np.pad(m, 1), np.pad(m, ((0, 2), (1, 0)), constant_values=3), np.pad(m, 2, mode="edge"), np.pad(m, 3, mode="reflect")
np.pad(m, 5, mode="symmetric"), np.pad(m, 5, mode="wrap"), np.pad(m, 2, mode="mean"), np.pad(m, 2, mode="linear_ramp", end_values=1)
np.pad(m, 3, mode="reflect", reflect_type="odd"), np.pad(m, 2, mode="maximum", stat_length=1), np.pad(k, 1, mode="median")
np.where(B, m, 0), np.clip(f, -0.5, 0.5), np.select([f > 0, f < -1], [f, -f]), np.tril(m), np.triu(m, 1), np.diag(f), np.diag(f, -2)
np.diag(m, 1), np.diagonal(t, 1, 0, 2), np.diagonal(t, -1, 1, 2), np.trace(t), np.diagflat(m), np.vander(f), np.eye(3, 4, 1), np.tri(3)
np.tril_indices(3), np.triu_indices(3, 1), np.indices((2, 3)), np.meshgrid(f, i), np.meshgrid(f, i, indexing="ij", sparse=True)
np.linspace(0, 1, 5, dtype=np.float32), np.arange(2, 10, 3), np.arange(5, 0, -2), np.full((2, 2), 7), np.zeros_like(k), np.identity(3, np.float32)
np.sort(m), np.sort(m, 0), np.sort(m, None), np.sort(n), np.argsort(m, 1), np.lexsort((k[0], i)), np.searchsorted(np.sort(f), p)
np.searchsorted(np.arange(30, dtype=np.float32), m, side="right"), np.digitize(f, np.float32([-1, 0, 1])), np.isin(k, i)
np.diff(f), np.diff(m, axis=0), np.diff(f, 2), np.ediff1d(m), np.gradient(f), np.gradient(m, axis=1), np.trapezoid(m), np.interp(f, np.sort(p), f)
np.convolve(f, p), np.convolve(f, p[:3], "same"), np.correlate(f, p[:2], "full"), np.polyval(f, p), np.polymul(f, p), np.polyder(f), np.polyint(f)
np.dot(f, p), np.dot(m, f), np.dot(t, q), np.matmul(t, q), np.matmul(m, f), np.vdot(c, c), np.inner(m, m), np.outer(f, i), np.kron(m, f)
np.tensordot(t, m, ((1, 2), (0, 1))), np.tensordot(m, q, 1), np.vecdot(m, m), np.cross(m[:, :3], m[:, 1:])
np.einsum("ij,jk->ik", m, q), np.einsum("ij,jk,kl->il", m, q, q), np.einsum("bij,kj->bki", t, m), np.einsum("ii->i", q), np.einsum("ii", q)
np.einsum("...ij,...jk", t, q), np.einsum("i,j->ji", f, p), np.einsum("ij->j", m), np.einsum("i,i,i->", f, f, f), np.einsum("ij,kl->ijkl", m, m)
np.unravel_index(np.arange(3), (2, 3)), np.nonzero(k), np.flatnonzero(f), np.argwhere(B), np.unique(k), np.bincount(u[:2]), np.union1d(i, k[0])
np.setdiff1d(k, i), np.intersect1d(k, i), np.delete(f, 1), np.insert(f, 1, np.float32(9)), np.extract(b, f), np.compress(b, m, 1), np.packbits(B)
np.unpackbits(u), np.unpackbits(u[:, None], axis=1), np.trim_zeros(k[0]), np.apply_along_axis(np.sort, 0, m)
np.bartlett(5).astype(np.float32), np.blackman(5).astype(np.float32), np.hanning(5).astype(np.float32), np.i0(f).astype(np.float32)
~np.cov(m), np.cov(f, p), np.corrcoef(m), np.histogram(m, 5, weights=m)[0], np.linalg.norm(m), np.linalg.norm(m, axis=1), np.linalg.norm(m, 1), np.linalg.norm(f, 3)
~np.linalg.solve(q, f), np.linalg.solve(q, m.T), np.linalg.inv(q), np.linalg.det(q), np.linalg.slogdet(q), np.linalg.matrix_power(q, 3)
~np.linalg.cholesky(q @ q.T + 4 * np.eye(4, dtype=np.float32)), np.linalg.eigvalsh(q + q.T), np.linalg.svd(m, compute_uv=False), np.linalg.pinv(m)
~np.linalg.matrix_rank(m), np.linalg.cond(q), np.linalg.multi_dot([m, q, m.T]), np.linalg.lstsq(m.T, f, rcond=None)[0], np.linalg.vector_norm(t)
~np.fft.fft(f), np.fft.ifft(c), np.fft.rfft(f, 6), np.fft.irfft(c), np.fft.fft2(m), np.fft.fftn(t, axes=(0, 2)), np.fft.fftshift(m), np.fft.hfft(c)
"""
CASES = [line for line in CALLS.strip().splitlines()]


def flat(x):
    if isinstance(x, (list, tuple)):
        return [leaf for part in x for leaf in flat(part)]
    return [x]


def close(found, expected, text):
    tolerance = 2e-3 if text.startswith("~") else 2e-5
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, text
    assert found.dtype.kind == expected.dtype.kind or found.dtype.kind in "iu" and expected.dtype.kind in "iu", text
    np.testing.assert_allclose(found, expected, tolerance, tolerance, err_msg=text)


def run(text, module, data):
    return flat(eval(text.lstrip("~"), {"np": module, **data}))


class Numbers:
    """tracegrad.numpy, with what expressions take from NumPy beside functions."""

    float32, uint8, nan = np.float32, np.uint8, np.nan

    def __getattr__(self, name):
        return getattr(jnp, name)


@pytest.mark.parametrize("text", CASES, ids=range(len(CASES)))
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_against_numpy(text):
    expected = run(text, np, DATA)
    found = run(text, Numbers(), {k: jnp.asarray(v) for k, v in DATA.items()})
    assert len(found) == len(expected)
    for x, y in zip(found, expected):
        assert isinstance(x, jnp.ndarray), text
        close(x, y, text)
    names = list(DATA)
    try:
        program, captured = trace(lambda *args: run(text, Numbers(), dict(zip(names, args))), [type_of(DATA[n]) for n in names])
    except ConcretizationTypeError:
        assert any(word in text for word in ("nonzero", "unique", "setdiff1d", "trim_zeros"))
        return
    for x, y in zip(evaluate(program, *[np.asarray(v) for v in captured], *DATA.values()), expected):
        close(x, y, text)


@pytest.mark.parametrize("text", CASES[::4], ids=range(0, len(CASES), 4))
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_compiled_against_numpy(text):
    expected = run(text, np, DATA)
    names = list(DATA)
    try:
        found = tracegrad.jit(lambda *args: run(text, Numbers(), dict(zip(names, args))))(*DATA.values())
    except ConcretizationTypeError:
        return  # the sizes of some results depend on values
    for x, y in zip(found, expected):
        close(x, y, text)


def test_vectorize():
    add = jnp.vectorize(lambda x, y: x + y)
    np.testing.assert_allclose(add(DATA["m"], DATA["f"]), DATA["m"] + DATA["f"])
    product = jnp.vectorize(lambda a, b: a @ b, signature="(n,k),(k)->(n)")
    np.testing.assert_allclose(product(DATA["t"], DATA["f"]), DATA["t"] @ DATA["f"], rtol=1e-5)
    scaled = jnp.vectorize(lambda x, by: x * by, excluded={1})
    np.testing.assert_allclose(scaled(DATA["f"], 2), DATA["f"] * 2)
    with pytest.raises(ValueError, match="signature"):
        jnp.vectorize(lambda x: x, signature="(n->(n)")(DATA["f"])


def test_ufunc_methods():
    m = jnp.asarray(DATA["m"])
    np.testing.assert_allclose(jnp.add.reduce(m), DATA["m"].sum(0), rtol=1e-5)
    np.testing.assert_allclose(jnp.maximum.reduce(m, axis=1), DATA["m"].max(1))
    np.testing.assert_allclose(jnp.multiply.outer(DATA["f"], DATA["p"]), np.multiply.outer(DATA["f"], DATA["p"]), rtol=1e-6)
    hypotenuse = jnp.frompyfunc(lambda x, y: jnp.sqrt(x * x + y * y), 2, 1)
    np.testing.assert_allclose(hypotenuse(DATA["f"], DATA["p"]), np.hypot(DATA["f"], DATA["p"]), rtol=1e-5)


def test_index_builders():
    np.testing.assert_array_equal(jnp.mgrid[0:2, 0:3], np.mgrid[0:2, 0:3])
    np.testing.assert_array_equal(jnp.r_[1:4, 0, 7], np.r_[1:4, 0, 7])
    np.testing.assert_array_equal(jnp.c_[DATA["i"], DATA["i"]], np.c_[DATA["i"], DATA["i"]])
    assert jnp.s_[1:2, ...] == np.s_[1:2, ...]


def test_unique_of_a_given_size():
    values, index, inverse, counts = jnp.unique(DATA["k"], True, True, True, size=12, fill_value=99)
    expected = np.unique(DATA["k"], True, True, True)
    n = len(expected[0])
    np.testing.assert_array_equal(values[:n], expected[0])
    np.testing.assert_array_equal(values[n:], 99)
    np.testing.assert_array_equal(index[:n], expected[1])
    np.testing.assert_array_equal(np.asarray(inverse).ravel(), expected[2].ravel())
    np.testing.assert_array_equal(counts, np.pad(expected[3], (0, 12 - n)))


def test_saving_and_loading(tmp_path):
    for x in (jnp.arange(3), jnp.ones(2, jnp.bfloat16)):
        jnp.save(tmp_path / "x.npy", x)
        found = jnp.load(tmp_path / "x.npy")
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = jnp.full(2000, 0.1, dtype)
    assert abs(float(jnp.mean(x)) - 0.1) < 1e-3
    assert abs(float(jnp.sum(x)) - 200) < 2
    assert jnp.var(x).dtype == dtype and float(jnp.var(x)) < 1e-6
