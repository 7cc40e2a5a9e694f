"""Functions computed in lanes: every method against multiple precision or SciPy, special values, shapes, and use in loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

import tracegrad as tg
import tracegrad.numpy as tnp
from tracegrad import jit, lax

mpmath = pytest.importorskip("mpmath")

INF, NAN = np.inf, np.nan
SCIPY = {
    "igamma": scipy.special.gammainc,
    "igammac": scipy.special.gammaincc,
    "regularized_incomplete_beta": scipy.special.betainc,
}
EDGES = [0.0, 1e-300, 1e-5, 0.5, 1.0, 3.0, 20.0, 1e3, 99999.0, 1.1e5, 1e30, INF, -1.0, -INF, NAN]


@pytest.fixture(autouse=True)
def double() -> None:
    with tg.enable_x64():
        yield


def gamma_pair(a: float, x: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """P and Q: the series of P in numbers of 1100 bits, so that even Q = 1 - P is exact enough."""
    with mpmath.workprec(1100):
        a, x = mpmath.mpf(a), mpmath.mpf(x)
        total = term = mpmath.mpf(1)
        n = 0
        while term > total * mpmath.mpf(2) ** -1100:
            n += 1
            term *= x / (a + n)
            total += term
        p = total * mpmath.exp(a * mpmath.log(x) - x - mpmath.loggamma(a + 1))
        return p, 1 - p


def worst(got: np.ndarray, want: list[mpmath.mpf]) -> float:
    """The largest error in units in the last place, of results that are normal numbers."""
    errors = [0.0]
    tiny = np.finfo(got.dtype).tiny
    for y, exact in zip(got, want):
        rounded = got.dtype.type(float(exact))
        if abs(rounded) > 2 * tiny:
            errors.append(abs(float((mpmath.mpf(float(y)) - exact) / mpmath.mpf(float(np.spacing(abs(rounded)))))))
    return max(errors)


def gamma_samples(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and arguments for every method: small, middling, large and close together, large and apart."""
    r = np.random.default_rng(seed)
    small = np.exp(r.uniform(-8, 1, n)), np.exp(r.uniform(-12, 1, n))
    middling = r.uniform(0.1, 20, n), r.uniform(0.05, 30, n)
    large = np.exp(r.uniform(2.7, 6, n))
    pairs = [small, middling, (large, r.gamma(large)), (large, large * np.exp(r.normal(size=n) * 0.5))]
    return np.concatenate([a for a, _ in pairs]), np.concatenate([x for _, x in pairs])


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1.0), ("float64", 25.0)])
def test_incomplete_gamma_functions_by_every_method(dtype: str, bound: float) -> None:
    a, x = (v.astype(dtype) for v in gamma_samples(40, 1))
    pairs = [gamma_pair(float(p), float(q)) for p, q in zip(a, x)]
    for j, name in enumerate(("igamma", "igammac")):
        got = np.asarray(jit(getattr(lax, name))(a, x))
        assert got.dtype == dtype
        assert worst(got, [p[j] for p in pairs]) <= bound


def slopes(a: float, x: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """-P_a / P_x and P_a, by a difference in numbers of 500 bits."""
    with mpmath.workprec(500):
        a, x = mpmath.mpf(a), mpmath.mpf(x)
        step = a * mpmath.mpf(2) ** -120
        slope = (gamma_pair(a + step, x)[0] - gamma_pair(a - step, x)[0]) / (2 * step)
        return -slope / mpmath.exp((a - 1) * mpmath.log(x) - x - mpmath.loggamma(a)), slope


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1.0), ("float64", 40.0)])
def test_slopes_of_the_incomplete_gamma_function(dtype: str, bound: float) -> None:
    a, x = (v.astype(dtype) for v in gamma_samples(12, 4))
    pairs = [slopes(float(p), float(q)) for p, q in zip(a, x)]
    for j, name in enumerate(("random_gamma_grad", "igamma_grad_a")):
        want = [p[j] for p in pairs]
        got = np.asarray(jit(getattr(lax, name))(a, x))
        assert got.dtype == dtype
        assert worst(got, want) <= bound
        if dtype == "float64":
            assert worst(np.asarray(getattr(lax, name)(a, x)), want) <= 1e5  # in NumPy, by series and fraction everywhere


@pytest.mark.parametrize("name", ["random_gamma_grad", "igamma_grad_a"])
def test_slopes_at_edges_and_of_huge_arguments(name: str) -> None:
    f = jit(getattr(lax, name))
    a = np.array([1.0, 2.0, 1e30, 0.0, -1.0, NAN, 1.0, 1.0, INF, 0.0])
    x = np.array([0.0, INF, 0.0, 1.0, 1.0, 1.0, NAN, -1.0, 3.0, 0.0])
    np.testing.assert_array_equal(f(a, x), [0.0, 0.0, 0.0] + [NAN] * 7)
    a, x = np.array([1e20, 1e120, 1e300, 1e5, 3.0, 1e-300]), np.array([1e20, 5e119, 5e300, 3e5, 1e200, 0.5])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(f(a, x)[1:], getattr(lax, name)(a[1:], x[1:]), rtol=1e-10)
    assert f(a, x)[0] == pytest.approx(1.0 if name == "random_gamma_grad" else -1 / np.sqrt(2 * np.pi * 1e20))


def beta(a: float, b: float, x: float) -> mpmath.mpf:
    """I_x(a, b) by its power series (DLMF 8.17.8), from the nearer end."""
    with mpmath.workprec(1100):
        a, b, x = mpmath.mpf(a), mpmath.mpf(b), mpmath.mpf(x)
        y = 1 - x
        if x > 0.5:
            return 1 - _beta_near_zero(b, a, y, x)
        return _beta_near_zero(a, b, x, y)


def _beta_near_zero(a: mpmath.mpf, b: mpmath.mpf, x: mpmath.mpf, y: mpmath.mpf) -> mpmath.mpf:
    total = term = mpmath.mpf(1)
    n = 0
    while term > total * mpmath.mpf(2) ** -1100:
        term *= (a + b + n) / (a + 1 + n) * x
        total += term
        n += 1
    return total * x**a * y**b / a / mpmath.exp(mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b))


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1.0), ("float64", 60.0)])
def test_incomplete_beta_function(dtype: str, bound: float) -> None:
    """Parameters of one size and of different ones, arguments on both sides of the mean and close to the ends."""
    r = np.random.default_rng(3)
    n = 40
    wide = [np.exp(r.uniform(-6, 6, n)) for _ in range(2)]
    triples = [
        (r.uniform(0.5, 20, n), r.uniform(0.5, 20, n), r.random(n)),
        (*wide, r.beta(*wide)),
        (*wide, np.exp(r.uniform(-20, -0.01, n))),
        (wide[0], 0.3 * r.random(n) + 1e-3, 1 - np.exp(r.uniform(-8, -1, n))),
    ]
    a, b, x = (np.concatenate(v).astype(dtype) for v in zip(*triples))
    inside = (x > 0) & (x < 1)
    a, b, x = a[inside], b[inside], x[inside]
    got = np.asarray(jit(lax.betainc)(a, b, x))
    assert got.dtype == dtype
    assert worst(got, [beta(float(p), float(q), float(v)) for p, q, v in zip(a, b, x)]) <= bound


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SCIPY)
def test_edges_are_those_of_scipy(name: str, dtype: str) -> None:
    count = 3 if name == "regularized_incomplete_beta" else 2
    grid = np.meshgrid(*[np.array(EDGES)] * count)
    xs = [v.ravel().astype(dtype) for v in grid]
    with np.errstate(all="ignore"):
        want = SCIPY[name](*[v.astype(np.float64) for v in xs]).astype(dtype)
    got = np.asarray(jit(getattr(lax, name))(*xs))
    tolerance = 3e-7 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("name", ["igamma", "igammac"])
def test_sizes_scalars_and_half_precision(name: str) -> None:
    """Blocks of few and of many lanes, with remainders; parameters of rank 0; dtypes computed in single precision; results in a loop."""
    f = jit(getattr(lax, name))
    r = np.random.default_rng(2)
    for n in (0, 1, 7, 63, 64, 1500):
        a, x = r.uniform(0.1, 40, n), r.uniform(0.1, 40, n)
        np.testing.assert_allclose(f(a, x), SCIPY[name](a, x), rtol=1e-12)
    a, x = r.uniform(0.5, 9, (70, 3)), r.uniform(0.5, 9, (70, 3))
    np.testing.assert_allclose(jit(lambda x: getattr(lax, name)(tnp.full_like(x, 2.5), x))(x), SCIPY[name](2.5, x), rtol=1e-12)
    np.testing.assert_allclose(f(a.T, x.T), SCIPY[name](a, x).T, rtol=1e-12)
    for dtype, tolerance in (("float16", 1e-3), ("bfloat16", 1e-2)):
        half = [tnp.asarray(v).astype(dtype) for v in (a, x)]
        want = SCIPY[name](*[np.asarray(v).astype(np.float64) for v in half])
        np.testing.assert_allclose(np.asarray(f(*half)).astype(np.float64), want, rtol=tolerance, atol=1e-6)
    rows = jit(lambda a, x: lax.map(lambda ax: getattr(lax, name)(*ax), (a, x)))(a, x)
    np.testing.assert_allclose(rows, SCIPY[name](a, x), rtol=1e-12)
    big = r.uniform(0.1, 40, 40000)
    np.testing.assert_allclose(f(big, big[::-1].copy()), SCIPY[name](big, big[::-1]), rtol=1e-12)
