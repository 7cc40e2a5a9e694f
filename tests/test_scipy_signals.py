"""scipy's modules for signals, grids, samples and minimization, against SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.interpolate
import scipy.linalg
import scipy.ndimage
import scipy.signal
import scipy.stats

import tracegrad.numpy as jnp
from tracegrad import jit, lax, random, vmap
from tracegrad.scipy import fft, integrate, interpolate, linalg, ndimage, optimize, signal, stats
from tracegrad.test_util import check_grads

pytestmark = pytest.mark.usefixtures("double_precision")

RNG = np.random.RandomState(0)


def close(found: Any, expected: Any, what: str = "") -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{what}: {found.shape} for {expected.shape}"
    np.testing.assert_allclose(
        found, expected, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(expected).max(initial=0))), err_msg=what
    )


@pytest.mark.parametrize("name", ["dct", "idct", "dctn", "idctn"])
@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
def test_cosine_transforms(name: str, norm: Any) -> None:
    mine, theirs = getattr(fft, name), getattr(scipy.fft, name)
    for n in (1, 2, 5, 8):
        x = RNG.randn(3, n)
        close(mine(x, norm=norm), theirs(x, norm=norm), f"{n}")
        assert mine(x.astype(np.float32)).dtype == np.float32
    sizes = {"s": (2, 9)} if name.endswith("n") else {"n": 9, "axis": 0}
    close(mine(x, norm=norm, **sizes), theirs(x, norm=norm, **sizes))
    check_grads(mine, (x,), 2)


def test_what_cosine_transforms_refuse() -> None:
    with pytest.raises(NotImplementedError, match="type 2"):
        fft.dct(np.ones(3), type=1)
    with pytest.raises(ValueError, match="real input"):
        fft.dct(np.ones(3) + 1j)
    with pytest.raises(ValueError, match="'ortho'"):
        fft.dct(np.ones(3), norm="other")
    with pytest.raises(ValueError, match="same length"):
        fft.dctn(np.ones((3, 3)), s=(1, 2), axes=(0,))


SHAPES = [((7,), (3,)), ((7,), (4,)), ((3,), (7,)), ((5, 6), (2, 3)), ((5, 6), (4, 2)), ((2, 3), (5, 6)), ((3, 4, 5), (2, 2, 2))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
def test_convolutions_and_correlations(shapes: Any, complex_: bool) -> None:
    x, y = (RNG.randn(*s) + (1j * RNG.randn(*s) if complex_ else 0) for s in shapes)
    for mode in ("full", "same", "valid"):
        for name in ("convolve", "correlate", "fftconvolve"):
            close(getattr(signal, name)(x, y, mode), getattr(scipy.signal, name)(x, y, mode), f"{name} {mode}")
        close(signal.convolve(x, y, mode, method="fft"), scipy.signal.convolve(x, y, mode))
        if x.ndim == 2:
            for name in ("convolve2d", "correlate2d"):
                for boundary, fill in (("fill", 0), ("fill", 1.5), ("wrap", 0), ("symm", 0)):
                    found = getattr(signal, name)(x, y, mode, boundary, fill)
                    close(found, getattr(scipy.signal, name)(x, y, mode, boundary, fill), f"{name} {mode} {boundary} {fill}")


def test_convolutions_along_some_axes() -> None:
    x, y = RNG.randn(3, 8), RNG.randn(1, 4)
    close(signal.fftconvolve(x, y, "same", axes=1), np.stack([np.convolve(row, y[0])[1:9] for row in x]))
    assert signal.convolve([1, 2, 3], [1, 1]).tolist() == [1, 3, 5, 3]
    with pytest.raises(ValueError, match="'valid'"):
        signal.convolve(np.ones((2, 5)), np.ones((5, 2)), "valid")
    with pytest.raises(ValueError, match="do not fit along axis 0"):
        signal.fftconvolve(np.ones((2, 5)), np.ones((3, 5)), axes=1)


def test_detrend() -> None:
    x = RNG.randn(3, 20)
    for axis in (0, 1):
        for kind in ("linear", "constant"):
            close(signal.detrend(x, axis, kind), scipy.signal.detrend(x, axis, kind), kind)
    close(signal.detrend(x, bp=[5, 11]), scipy.signal.detrend(x, bp=[5, 11]))
    with pytest.raises(ValueError, match="breakpoints"):
        signal.detrend(x, bp=30)


# SciPy's "constant" and "wrap" are other modes, of which those that are meant have these names.
@pytest.mark.parametrize(
    ("mode", "theirs"),
    [("constant", "grid-constant"), ("nearest", "nearest"), ("wrap", "grid-wrap"), ("mirror", "mirror"), ("reflect", "reflect")],
)
def test_map_coordinates(mode: str, theirs: str) -> None:
    image = RNG.randn(5, 7)
    places = [RNG.uniform(-9, 12, (4, 30)), RNG.uniform(-9, 15, (4, 30))]
    for order in (0, 1):
        found = ndimage.map_coordinates(image, places, order, mode, 1.5)
        close(found, scipy.ndimage.map_coordinates(image, places, order=order, mode=theirs, cval=1.5), f"{order}")
        whole = ndimage.map_coordinates((image * 40).astype(np.int32), places, order, mode, 2)
        assert whole.dtype == np.int32
    inside = RNG.uniform(0.1, 3.9, (2, 5))
    check_grads(lambda a, x: ndimage.map_coordinates(a, x, 1, mode), (image, inside), 1)
    with pytest.raises(NotImplementedError, match="order"):
        ndimage.map_coordinates(image, places, 3)
    with pytest.raises(ValueError, match="as many"):
        ndimage.map_coordinates(image, places[:1], 1)


@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize("fill", [np.nan, 3.0, None])
def test_interpolation_on_grids(method: str, fill: Any) -> None:
    grid = [np.sort(RNG.rand(4)), np.sort(RNG.rand(6))]
    values, at = RNG.randn(4, 6, 2), RNG.uniform(-0.2, 1.2, (9, 3, 2))
    mine = interpolate.RegularGridInterpolator(grid, values, method, fill_value=fill)
    close(mine(at), scipy.interpolate.RegularGridInterpolator(grid, values, method, False, fill)(at))
    close(jit(mine)((at[..., 0], at[..., 1])), mine(at))


def test_what_interpolation_refuses() -> None:
    with pytest.raises(NotImplementedError, match="fill_value"):
        interpolate.RegularGridInterpolator([np.arange(3.0)], np.ones(3), bounds_error=True)
    with pytest.raises(ValueError, match=r"points\[0\]"):
        interpolate.RegularGridInterpolator([np.arange(4.0)], np.ones(3))
    with pytest.raises(ValueError, match="last dimension should be 1"):
        interpolate.RegularGridInterpolator([np.arange(3.0)], np.ones(3))(np.ones((2, 2)))


def test_trapezoid() -> None:
    y, x = RNG.randn(3, 6), np.sort(RNG.rand(6))
    close(integrate.trapezoid(y, x), np.trapezoid(y, x))
    close(integrate.trapezoid(y, dx=0.5, axis=0), np.trapezoid(y, dx=0.5, axis=0))


SAMPLES = [
    RNG.randint(0, 4, (5, 6)), RNG.randint(0, 4, (5, 6)).astype(float), np.array([[1, np.nan, 2, np.nan], [1, 2, 2, 1.0]]),
    RNG.randint(0, 9, 7),
]  # fmt: skip


@pytest.mark.parametrize("x", SAMPLES, ids=["integers", "floats", "nan", "vector"])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_order_statistics(x: Any, axis: Any) -> None:
    for keepdims in (False, True):
        # SciPy's mode is NaN where there is one; here, as in JAX, a NaN is a value.
        if not np.isnan(x).any():
            for a, b in zip(stats.mode(x, axis, keepdims=keepdims), scipy.stats.mode(x, axis, keepdims=keepdims)):
                close(a, b, "mode")
        assert stats.sem(x, axis, keepdims=keepdims).shape == np.mean(x, axis, keepdims=keepdims).shape
    close(stats.sem(x, axis), scipy.stats.sem(x, axis), "sem")
    for method in ("average", "min", "max", "dense", "ordinal"):
        close(stats.rankdata(x, method, axis=axis), scipy.stats.rankdata(x, method, axis=axis), method)


def test_what_order_statistics_refuse() -> None:
    values, counts = stats.mode(SAMPLES[2], 1)
    assert np.isnan(values[0]) and counts.tolist() == [2, 2] and values[1] == 1
    with pytest.raises(NotImplementedError, match="jnp.where"):
        stats.mode(SAMPLES[0], nan_policy="omit")
    with pytest.raises(ValueError, match="average, min"):
        stats.rankdata(SAMPLES[0], "first")


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("method", [None, "silverman", 0.3, lambda kernel: 0.5], ids=["scott", "silverman", "number", "function"])
def test_kernel_densities(d: int, method: Any) -> None:
    samples, weights, points = RNG.randn(d, 30), RNG.rand(30), RNG.randn(d, 5)
    for w in (None, weights):
        mine, theirs = stats.gaussian_kde(samples, method, w), scipy.stats.gaussian_kde(samples, method, w)
        close(mine(points), theirs(points))
        close(mine.logpdf(points), theirs.logpdf(points))
        close(mine.integrate_gaussian(np.zeros(d), np.eye(d)), theirs.integrate_gaussian(np.zeros(d), np.eye(d)))
        close(mine.integrate_kde(mine), theirs.integrate_kde(theirs))
        close(jit(lambda k, x: k.pdf(x))(mine, points), theirs.pdf(points))
        if d == 1:
            close(mine.integrate_box_1d(-1, 0.5), theirs.integrate_box_1d(-1, 0.5))
    drawn = mine.resample(random.key(0), (2, 4000))
    assert drawn.shape == (d, 2, 4000)
    np.testing.assert_allclose(np.mean(drawn, (1, 2)), samples @ weights / weights.sum(), atol=0.1)


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_minimize() -> None:
    found = optimize.minimize(rosenbrock, np.array([1.3, 0.7, 0.8, 1.9, 1.2]), method="BFGS")
    assert found.success and found.status == 0 and found.fun < 1e-9 and np.abs(found.jac).max() <= 1e-5
    np.testing.assert_allclose(found.x, np.ones(5), atol=1e-5)
    himmelblau = lambda x, a: (x[0] ** 2 + x[1] - a) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2  # noqa: E731
    np.testing.assert_allclose(optimize.minimize(himmelblau, np.ones(2), (11.0,), method="BFGS").x, [3, 2], atol=1e-6)
    starts = np.array([[-1.2, 1.0], [2.0, 2.0], [0.0, 0.0]])
    many = jit(vmap(lambda x: optimize.minimize(rosenbrock, x, method="BFGS").x))(starts)
    np.testing.assert_allclose(many, np.ones((3, 2)), atol=1e-5)


def test_minimizations_that_end_otherwise() -> None:
    assert optimize.minimize(rosenbrock, np.zeros(2), method="BFGS", options={"maxiter": 3}).status == 1
    unbounded = optimize.minimize(lambda x: -x.sum(), np.zeros(2), method="BFGS")
    assert not unbounded.success
    nowhere = optimize.minimize(lambda x: jnp.log(x).sum(), -np.ones(2), method="BFGS")
    assert nowhere.status == 5 and not nowhere.success
    for wrong, error, words in [
        ({"method": "Newton-CG"}, ValueError, "'BFGS'"),
        ({"method": "BFGS", "args": 1.0}, TypeError, "tuple"),
        ({"method": "BFGS", "options": {"eps": 1}}, TypeError, "gtol"),
    ]:
        with pytest.raises(error, match=words):
            optimize.minimize(rosenbrock, np.zeros(2), **wrong)


def test_matrices_with_a_pattern() -> None:
    for n in (1, 2, 3, 5, 8):
        for kind in ("symmetric", "lower", "upper"):
            close(linalg.invpascal(n, kind), scipy.linalg.invpascal(n, kind))
        close(linalg.invhilbert(n), scipy.linalg.invhilbert(n))
        if n > 1:
            close(linalg.helmert(n), scipy.linalg.helmert(n))
            close(linalg.helmert(n, full=True), scipy.linalg.helmert(n, full=True))
            c = RNG.randn(n)
            close(linalg.fiedler_companion(c), scipy.linalg.fiedler_companion(c))
            close(linalg.leslie(c, c[1:]), scipy.linalg.leslie(c, c[1:]))
            close(linalg.fiedler(c), scipy.linalg.fiedler(c))
        for m in (1, 2, 5):
            b = RNG.randn(m)
            for mode in ("full", "same", "valid"):
                close(linalg.convolution_matrix(b, n, mode), scipy.linalg.convolution_matrix(b, n, mode), f"{m} {n} {mode}")
    close(linalg.hadamard(8), scipy.linalg.hadamard(8))
    with pytest.raises(ValueError, match="power of two"):
        linalg.hadamard(6)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 5, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
def test_reflectors(shape: Any, complex_: bool) -> None:
    a = RNG.randn(*shape) + (1j * RNG.randn(*shape) if complex_ else 0)
    h, taus = jnp.linalg.qr(a, mode="raw")
    for found, expected in zip((h, taus), np.linalg.qr(a, mode="raw")):
        close(found, expected)
    q = np.linalg.qr(a, mode="complete")[0]
    qh = np.conj(np.swapaxes(q, -1, -2))
    for left in (True, False):
        c = RNG.randn(*shape[:-2], *((shape[-2], 2) if left else (2, shape[-2]))) + (0j if complex_ else 0)
        apply = lambda h, t, c, turned: lax.linalg.ormqr(jnp.matrix_transpose(h), t, c, left=left, transpose=turned)  # noqa: B023, E731
        close(apply(h, taus, c, False), q @ c if left else c @ q)
        close(apply(h, taus, c, True), qh @ c if left else c @ qh)
    if len(shape) == 2:
        for mode in ("left", "right"):
            for conjugate in (False, True):
                for c in (
                    RNG.randn(min(shape) if mode == "left" else shape[0]),
                    np.eye(min(shape) if mode == "left" else shape[0]),
                ):
                    for x, y in zip(
                        linalg.qr_multiply(a, c, mode, False, conjugate), scipy.linalg.qr_multiply(a, c, mode, False, conjugate)
                    ):
                        close(x, y, mode)
    if shape[-1] == shape[-2]:
        for x, y in zip(linalg.hessenberg(a, calc_q=True), scipy.linalg.hessenberg(a, calc_q=True)):
            close(x, y)
        hermitian = a + np.conj(a.T)
        _, d, e, _ = lax.linalg.tridiagonal(hermitian)
        np.testing.assert_allclose(
            scipy.linalg.eigh_tridiagonal(d, e, eigvals_only=True) if len(e) else d, np.linalg.eigvalsh(hermitian), atol=1e-9
        )


def test_derivatives_of_reflectors() -> None:
    a, taus, c = RNG.randn(4, 3), RNG.randn(3), RNG.randn(4, 2)
    check_grads(lambda x: jnp.linalg.qr(x, mode="raw"), (a,), 2)
    check_grads(lax.linalg.ormqr, (a, taus, c), 2)
    check_grads(linalg.hessenberg, (RNG.randn(4, 4),), 1)
    with pytest.raises(ValueError, match="do not fit"):
        lax.linalg.ormqr(a, taus, c[:3])
    with pytest.raises(NotImplementedError, match="lower=True"):
        lax.linalg.tridiagonal(np.eye(2), lower=False)
