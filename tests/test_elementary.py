"""Elementary functions in generated code: their errors against multiple precision, special values, and that they vectorize."""

from __future__ import annotations

import numpy as np
import pytest
from elementary_harness import compiled, references, worst_error

import tracegrad.numpy as tnp
from tracegrad import jit, lax
from tracegrad.codegen.elementary.functions import FUNCTIONS
from tracegrad.codegen.elementary.incomplete import INTERNAL
from tracegrad.codegen.elementary.lookup import SCALAR
from tracegrad.experimental import enable_x64

mpmath = pytest.importorskip("mpmath")

# The errors, in units in the last place, that docs/accuracy.md promises.
BOUNDS = {
    **dict.fromkeys(["exp", "exp2", "log", "cbrt"], 1.6),
    **dict.fromkeys(["expm1", "log2", "log1p", "rsqrt", "atan2", "pow", "cosh", "cos", "sin"], 2.0),
    **dict.fromkeys(["asin", "acos", "atan", "sinh", "asinh", "atanh", "logistic"], 2.5),
    **dict.fromkeys(["tan", "tanh", "acosh"], 3.0),
    "erfc": 4.0,
    "erf_inv": 5.0,
    **dict.fromkeys(["lgamma", "erf"], 4.0),
    **dict.fromkeys(["digamma", "trigamma", "bessel_i0e", "bessel_i1e"], 5.0),
    "zeta": 7.0,
    "rem": 0.0,
}
# Near 1 the approximation of erf_inv that XLA uses in single precision, and so does the stream of normal numbers, rounds 1 - x^2.
XLA_ERF_INV = 100.0
CASES = [(name, dtype) for name in BOUNDS for dtype in ("f32", "f64")]
SCALAR_CASES = [(scalar, dtype) for (_, dtype), scalar in SCALAR.items()]
BOUNDS |= {scalar: BOUNDS[name] for (name, _), scalar in SCALAR.items()}


def test_every_function_has_a_bound() -> None:
    assert set(BOUNDS) == set(references()) == set(FUNCTIONS) - {"exp_scaled", "erfc_scaled"} - set(INTERNAL)


@pytest.mark.parametrize(("name", "dtype"), CASES + SCALAR_CASES)
def test_error_stays_within_the_promised_bound(name: str, dtype: str) -> None:
    error, where = worst_error(name, dtype, 250, seed=1)
    bound = XLA_ERF_INV if (name, dtype) == ("erf_inv", "f32") else BOUNDS[name]
    assert error <= bound, f"{name} {dtype}: {error:.2f} ulp at {where}"


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_loops_vectorize(name: str, dtype: str) -> None:
    import llvmlite.binding as llvm

    if "x86_64" not in llvm.get_default_triple():
        pytest.skip("the widths below are those of x86-64")
    _, text = compiled(name, dtype)
    element = "float" if dtype == "f32" else "double"
    assert any(f"<{n} x {element}>" in text for n in (2, 4, 8, 16))


INF, NAN = np.inf, np.nan
SPECIAL = {
    "exp": [(-INF, 0.0), (INF, INF), (0.0, 1.0), (-0.0, 1.0), (-1e4, 0.0), (1e4, INF)],
    "exp2": [(-INF, 0.0), (INF, INF), (3.0, 8.0), (-1.0, 0.5), (-2e3, 0.0), (2e3, INF)],
    "expm1": [(-INF, -1.0), (INF, INF), (0.0, 0.0), (-0.0, -0.0), (1e4, INF), (-1e4, -1.0)],
    "log": [(0.0, -INF), (-0.0, -INF), (INF, INF), (-1.0, NAN), (-INF, NAN), (1.0, 0.0)],
    "log2": [(0.0, -INF), (INF, INF), (-1.0, NAN), (8.0, 3.0), (0.25, -2.0)],
    "log1p": [(-1.0, -INF), (-2.0, NAN), (INF, INF), (0.0, 0.0), (-0.0, -0.0)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (INF, NAN)],
    "tan": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN)],
    "asin": [(0.0, 0.0), (-0.0, -0.0), (1.1, NAN), (-1.1, NAN)],
    "acos": [(1.0, 0.0), (1.1, NAN), (-1.1, NAN)],
    "atan": [(0.0, 0.0), (-0.0, -0.0), (INF, np.pi / 2), (-INF, -np.pi / 2)],
    "sinh": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF)],
    "cosh": [(0.0, 1.0), (INF, INF), (-INF, INF)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (100.0, 1.0)],
    "asinh": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF)],
    "acosh": [(1.0, 0.0), (INF, INF), (0.5, NAN), (-INF, NAN)],
    "atanh": [(0.0, 0.0), (-0.0, -0.0), (1.0, INF), (-1.0, -INF), (1.5, NAN)],
    "cbrt": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF), (27.0, 3.0), (-8.0, -2.0)],
    "rsqrt": [(0.0, INF), (INF, 0.0), (4.0, 0.5), (-1.0, NAN)],
    "logistic": [(-INF, 0.0), (INF, 1.0), (0.0, 0.5)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0)],
    "erfc": [(0.0, 1.0), (INF, 0.0), (-INF, 2.0)],
    "erf_inv": [(0.0, 0.0), (-0.0, -0.0), (1.0, INF), (-1.0, -INF), (1.5, NAN)],
    "lgamma": [*((x, INF) for x in (INF, -INF, 0.0, -0.0, -1.0, -2.0, -3.0, -100.0, -1e30)), (1.0, 0.0), (2.0, 0.0)],
    "digamma": [*((x, NAN) for x in (-INF, 0.0, -0.0, -1.0, -2.0, -3.0, -100.0, -1e30)), (INF, INF)],
    "trigamma": [*((x, INF) for x in (-INF, 0.0, -0.0, -1.0, -2.0, -3.0, -100.0, -1e30)), (INF, 0.0)],
    "bessel_i0e": [(0.0, 1.0), (-0.0, 1.0), (INF, 0.0), (-INF, 0.0)],
    "bessel_i1e": [(0.0, 0.0), (-0.0, -0.0), (INF, 0.0), (-INF, -0.0)],
}


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values_are_exact(name: str, dtype: str) -> None:
    kind = np.float32 if dtype == "f32" else np.float64
    xs, want = (np.array(v, kind) for v in zip(*SPECIAL[name], (NAN, NAN)))
    got = compiled(name, dtype)[0](xs)  # type: ignore[operator]
    np.testing.assert_array_equal(got, want)
    ordered = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[ordered]), np.signbit(want[ordered]))


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_angles_among_others_in_every_kind_of_code(dtype: str, name: str) -> None:
    """A vector with one large lane, remainders, scalars, loops, complex numbers; the last angle is all but a multiple of pi/2."""
    angles = [
        1e300,
        2.0**51,
        -(2.0**52) - 1,
        1e22,
        -1.7976931348623157e308,
        6381956970095103 * 2.0**797,
        INF,
        NAN,
        0.5,
        -0.0,
        3.0,
    ]
    if dtype == "float32":
        angles = [1e38, 2.0**51, -(2.0**60), 1e22, -3.4028234e38, 16367173 * 2.0**72, INF, NAN, 0.5, -0.0, 3.0]
    x = np.full(77, 0.25, dtype)
    x[3:69:6] = angles
    with mpmath.workprec(1300):
        known = [float(getattr(mpmath, name)(mpmath.mpf(float(v)))) if np.isfinite(v) else NAN for v in x]
    f = getattr(tnp, name)
    close = dict(rtol=10 * np.finfo(dtype).eps)  # glibc 2.36 is 8 ulp off at that angle
    with enable_x64():
        np.testing.assert_allclose(jit(f)(x), known, **close)
        for v, want in zip(x[3:69:6], known[3:69:6]):
            np.testing.assert_allclose(jit(f)(v), want, **close)
        in_loop = jit(lambda x: lax.scan(lambda c, v: (c, f(v + c)), np.zeros((), dtype), x)[1])
        np.testing.assert_allclose(in_loop(x), known, **close)
        z = (x + 0j).astype(np.complex64 if dtype == "float32" else np.complex128)
        finite = np.isfinite(x)
        np.testing.assert_allclose(np.asarray(jit(f)(z)).real[finite], np.array(known)[finite], **close)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_limits_of_zeta(dtype: str) -> None:
    """Terms that fall so fast that their corrections overflow; orders and arguments without end."""
    kind = np.float32 if dtype == "f32" else np.float64
    s = np.array([INF, INF, INF, 2, 1e4, 1e30, 1e30, 2, 3], kind)
    q = np.array([0.5, 1, 2, INF, 1, 1, 1.5, 1e-30, 1e30], kind)
    want = np.array(
        [INF, 1, NAN, 0, 1, 1, 0, kind(1e-30) ** -2.0 if dtype == "f64" else INF, 5e-61 if dtype == "f64" else 0], kind
    )
    np.testing.assert_allclose(compiled("zeta", dtype)[0](s, q), want, rtol=1e-15 if dtype == "f64" else 1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(("name", "reference"), [("pow", np.power), ("pow_by_table", np.power), ("atan2", np.arctan2), ("rem", np.fmod)])
def test_special_pairs_are_those_of_numpy(name: str, reference: np.ufunc, dtype: str) -> None:
    if (name, dtype) == ("pow_by_table", "f64"):
        pytest.skip("a function of f32")
    kind = np.float32 if dtype == "f32" else np.float64
    values = np.array(
        [0, -0.0, 1, -1, INF, -INF, NAN, 2, -2, 3, -3, 0.5, -0.5, 1e-30, -1e-30, 1e30, -1e30, 1.5, 5e15, 2.0**53 + 2], kind
    )
    x, y = (np.ascontiguousarray(v.ravel()) for v in np.meshgrid(values, values))
    got = compiled(name, dtype)[0](x, y)  # type: ignore[operator]
    with np.errstate(all="ignore"):
        want = reference(x, y)
    np.testing.assert_allclose(got, want, rtol=4 * np.finfo(kind).eps)
    ordered = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[ordered]), np.signbit(want[ordered]))


def test_powers_by_table_are_those_of_loops_all_but_always() -> None:
    """Powers in f32 are nearly those of exact arithmetic rounded, however they are computed; subnormal numbers, overflow and underflow, too."""
    r = np.random.default_rng(5)
    x = np.exp(r.uniform(-103, 88, 20_000)).astype(np.float32)
    y = (r.uniform(-1, 1, x.size) * 10 ** r.uniform(-3, 6, x.size)).astype(np.float32)
    by_table, in_loops = (compiled(name, "f32")[0](x, y) for name in ("pow_by_table", "pow"))  # type: ignore[operator]
    assert (x < np.finfo(np.float32).tiny).any() and np.isinf(by_table).any() and (by_table == 0).any()
    np.testing.assert_allclose(by_table, in_loops, rtol=1.2e-7, atol=1.5e-45)
    assert np.mean(by_table != in_loops) < 1e-3


def test_code_that_runs_number_by_number_looks_powers_up() -> None:
    def step(s: tnp.ndarray) -> tnp.ndarray:
        return 0.9 * (s + 1e-3) ** -0.2

    def loop(s: tnp.ndarray) -> tnp.ndarray:
        return lax.while_loop(lambda s: s > 2.0, step, s)

    assert "@tg.pow_by_table.f32(" in jit(loop).lower(np.float32(3)).llvm
    assert "pow_by_table" not in jit(step).lower(np.ones(100, np.float32)).llvm


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_remainders_are_exact(dtype: type) -> None:
    """Quotients of every size: whole ones and their neighbours, subnormal numbers, those beyond what the fast code divides."""
    r = np.random.default_rng(3)
    top = 120 if dtype is np.float32 else 1000
    x = np.exp2(r.uniform(-top, top, 5000)) * np.where(r.random(5000) < 0.5, -1, 1)
    near = np.exp2(r.uniform(-60, 5, 5000)) * x
    y = np.where(r.random(5000) < 0.2, np.exp2(r.uniform(-top, top, 5000)), near)
    x, y = x.astype(dtype), y.astype(dtype)
    with np.errstate(all="ignore"), enable_x64():
        whole = (np.rint(x / y) * y).astype(dtype)
        for a in (x, whole, np.nextafter(whole, x), np.where(x > 0, np.finfo(dtype).tiny / 3, x).astype(dtype)):
            np.testing.assert_array_equal(jit(lax.rem)(a, y), np.fmod(a, y))
            np.testing.assert_array_equal(jit(tnp.remainder)(a, y), tnp.remainder(a, y))
            np.testing.assert_array_equal(jit(lambda a: lax.rem(a, dtype(0.3)))(a), np.fmod(a, dtype(0.3)))
            np.testing.assert_array_equal([jit(lax.rem)(*p) for p in zip(a[:40], y[:40])], np.fmod(a[:40], y[:40]))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", ["exp", "exp2"])
def test_exponentials_around_the_smallest_numbers_and_the_largest(name: str, dtype: str) -> None:
    """Subnormal results, computed as integers or at another scale, and the neighbours of every limit."""
    kind, bits = (np.float32, np.int32) if dtype == "f32" else (np.float64, np.int64)
    info = np.finfo(kind)
    scale = 1.0 if name == "exp2" else np.log(2.0)
    low, normal, high = float(np.log2(info.smallest_subnormal)) * scale, info.minexp * scale, info.maxexp * scale
    r = np.random.default_rng(7)
    x = np.concatenate([r.uniform(low - scale, normal + 3 * scale, 20_000), r.uniform(high - 2 * scale, high + scale, 2_000)])
    x = np.concatenate([x, [-1e9, -1e30, 1e30, NAN, INF, -INF]]).astype(kind)
    got = compiled(name, dtype)[0](x)  # type: ignore[operator]
    with np.errstate(over="ignore", under="ignore"):
        want = getattr(np, name)(x.astype(np.longdouble)).astype(kind)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    known = ~np.isnan(x)
    assert ((0 < got[known]) & (got[known] < info.tiny)).mean() > 0.2
    assert np.abs(got[known].view(bits) - want[known].view(bits)).max() <= 2
