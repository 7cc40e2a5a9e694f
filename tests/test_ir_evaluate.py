"""What primitives mean, at the corners: NaN, saturation, division by zero, wide shifts, empty axes, half precision, ties.

Expected values are literals. `value` also checks, for every call in this file, that evaluation gives the types that the type rule
promises, warns of nothing, and leaves its operands alone.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tracegrad.ir import conversions
from tracegrad.ir import elementwise as e
from tracegrad.ir import random as r
from tracegrad.ir import reductions as red
from tracegrad.ir import special as sp
from tracegrad.ir import structural as s
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, bfloat16
from tracegrad.tracer.staging import trace

I32 = np.dtype(np.int32)
U32 = np.dtype(np.uint32)
F16 = np.dtype(np.float16)
F32 = np.dtype(np.float32)
C64 = np.dtype(np.complex64)
nan, inf = np.nan, np.inf
INT_MIN, INT_MAX = -(2**31), 2**31 - 1


def values(prim: Primitive, *operands: Any, **params: Any) -> tuple[np.ndarray, ...]:
    """The primitive's results on arrays, checked against its type rule."""
    arrays = [np.asarray(x) for x in operands]
    before = [x.copy() for x in arrays]
    types = prim.type_rule(*[ArrayType(x.shape, x.dtype) for x in arrays], **params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = prim.evaluate(*arrays, **params)
    assert len(results) == len(types)
    for result, type in zip(results, types):
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == (type.shape, type.dtype)
    for x, y in zip(arrays, before):
        assert x.tobytes() == y.tobytes()
    return results


def value(prim: Primitive, *operands: Any, **params: Any) -> np.ndarray:
    return values(prim, *operands, **params)[0]


def i32(*xs: int) -> np.ndarray:
    return np.array(xs, I32)


def f32(*xs: float) -> np.ndarray:
    return np.array(xs, F32)


def same(actual: np.ndarray, expected: Any) -> None:
    """Equal, NaN to NaN and the sign of zeros included."""
    expected = np.asarray(expected).astype(actual.dtype)
    np.testing.assert_array_equal(actual, expected)
    if actual.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(actual[actual == 0]), np.signbit(expected[actual == 0]))


# Integers


def test_integer_division_truncates_and_survives_zero_and_overflow() -> None:
    same(value(e.div_p, i32(7, -7, 7, -7, 5, 0, INT_MIN), i32(2, 2, -2, -2, 0, 0, -1)), [3, -3, -3, 3, -1, -1, INT_MIN])
    same(value(e.rem_p, i32(7, -7, 7, -7, 5, 0, INT_MIN), i32(2, 2, -2, -2, 0, 0, -1)), [1, -1, 1, -1, 5, 0, 0])
    same(value(e.div_p, np.array([5, 7], np.uint8), np.uint8(0)), [255, 255])
    same(value(e.rem_p, np.array([5, 7], np.uint8), np.uint8(0)), [5, 7])


def test_integers_wrap() -> None:
    same(value(e.add_p, i32(INT_MAX), i32(1)), [INT_MIN])
    same(value(e.mul_p, np.array(200, np.uint8), np.array(2, np.uint8)), 144)
    same(value(e.neg_p, i32(INT_MIN)), [INT_MIN])
    same(value(e.abs_p, i32(INT_MIN)), [INT_MIN])
    same(value(e.integer_pow_p, i32(3, -2), y=31), [1264544299, INT_MIN])


def test_integer_powers() -> None:
    same(value(e.pow_p, i32(2, -1, 1, 3, -1, 2, 0), i32(3, -3, -5, -2, -2, 31, 0)), [8, -1, 1, 0, 1, INT_MIN, 1])
    same(value(e.pow_p, f32(2.0, -2.0, nan), i32(-2, 3, 0)), [0.25, -8.0, 1.0])
    with pytest.raises(TypeError, match=r"integers cannot be raised to the negative power -1; got i32\[2\]"):
        e.integer_pow_p.type_rule(ArrayType((2,), I32), y=-1)


def test_shifts_beyond_the_width() -> None:
    same(value(e.shift_left_p, i32(1, 1, 1, -1), i32(31, 32, -1, 40)), [INT_MIN, 0, 0, 0])
    same(value(e.shift_right_logical_p, i32(-1, -1, 8), i32(31, 32, 1)), [1, 0, 4])
    same(value(e.shift_right_arithmetic_p, i32(-8, -8, 8), i32(1, 40, 99)), [-4, -1, 0])
    same(value(e.shift_right_arithmetic_p, np.array([1 << 31], U32), np.array([31], U32)), [2**32 - 1])


def test_counting_bits() -> None:
    same(value(e.clz_p, i32(0, 1, -1, 256)), [32, 31, 0, 23])
    same(value(e.clz_p, np.array([0, 1, 255], np.uint8)), [8, 7, 0])
    same(value(e.population_count_p, i32(0, -1, 7, INT_MIN)), [0, 32, 3, 1])
    same(value(e.not_p, np.array([True, False])), [False, True])
    same(value(e.not_p, i32(0, 5)), [-1, -6])


# Conversions


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("int32", [0, INT_MAX, INT_MIN, 2, -2, INT_MAX, 0]),
        ("uint32", [0, 2**32 - 1, 0, 2, 0, 2**32 - 1, 0]),
        ("int8", [0, 127, -128, 2, -2, 127, 0]),
        ("uint8", [0, 255, 0, 2, 0, 255, 0]),
        ("int64", [0, 2**63 - 1, -(2**63), 2, -2, 2**63 - 1, 0]),
        ("uint64", [0, 2**64 - 1, 0, 2, 0, 2**64 - 1, 0]),
        ("bool", [True] * 7),
    ],
)
@pytest.mark.parametrize("source", [np.float32, np.float64, bfloat16], ids=str)
def test_conversion_to_integers_saturates(dtype: str, expected: list[int], source: Any) -> None:
    x = np.array([nan, 1e20, -1e20, 2.9, -2.9, inf, -0.5]).astype(source)
    new_dtype = np.dtype(dtype)
    result = value(conversions.convert_element_type_p, x, new_dtype=new_dtype, weak=False)
    np.testing.assert_array_equal(result, np.array(expected, new_dtype))


def test_other_conversions() -> None:
    same(value(conversions.convert_element_type_p, i32(300, -1), new_dtype=np.dtype(np.uint8), weak=False), [44, 255])
    same(value(conversions.convert_element_type_p, np.array([1.5 + 2j], C64), new_dtype=F32, weak=False), [1.5])
    same(value(conversions.convert_element_type_p, np.array([0j, 1j], C64), new_dtype=np.dtype(bool), weak=False), [False, True])
    same(value(conversions.convert_element_type_p, f32(1.0), new_dtype=C64, weak=False), [1 + 0j])
    same(value(conversions.convert_element_type_p, f32(1e10), new_dtype=F16, weak=False), [inf])
    same(value(conversions.bitcast_convert_type_p, f32(1.0, -0.0), new_dtype=U32), [0x3F800000, 0x80000000])
    with pytest.raises(TypeError, match=r"same width, but got f32\[1\] and float64"):
        conversions.bitcast_convert_type_p.type_rule(ArrayType((1,), F32), new_dtype=np.dtype(np.float64))


def test_reduce_precision() -> None:
    x = f32(1.1, 1e5, 1e-6, nan, -inf, 3.14159, -0.0)
    same(value(conversions.reduce_precision_p, x, exponent_bits=5, mantissa_bits=10), [1.0996094, inf, 0, nan, -inf, 3.140625, -0.0])
    same(value(conversions.reduce_precision_p, x, exponent_bits=8, mantissa_bits=23), x)
    same(value(conversions.reduce_precision_p, x[0], exponent_bits=8, mantissa_bits=7), x[0].astype(bfloat16).astype(F32))
    # Ties go to even: 1.0625 lies between 1.0 and 1.125, 1.1875 between 1.125 and 1.25.
    same(value(conversions.reduce_precision_p, f32(1.0625, 1.1875), exponent_bits=8, mantissa_bits=3), [1.0, 1.25])


# Floating point


@pytest.mark.parametrize("dtype", [F16, bfloat16, F32, np.dtype(np.float64)], ids=str)
def test_nan_wins(dtype: Any) -> None:
    x, y = np.array([nan, 1, 2]).astype(dtype), np.array([1, nan, 3]).astype(dtype)
    same(value(e.max_p, x, y).astype(F32), [nan, nan, 3])
    same(value(e.min_p, x, y).astype(F32), [nan, nan, 2])
    same(value(e.clamp_p, dtype.type(0), x, dtype.type(1)).astype(F32), [nan, 1, 1])
    same(value(e.sign_p, np.array([-0.0, 0.0, nan, -3]).astype(dtype)).astype(F32), [-0.0, 0.0, nan, -1])
    same(value(red.reduce_max_p, x, axes=(0,)).astype(F32), nan)
    same(value(red.reduce_min_p, x, axes=(0,)).astype(F32), nan)
    same(value(red.cummax_p, y, axis=0, reverse=False).astype(F32), [1, nan, nan])
    same(value(red.argmax_p, y, axis=0, index_dtype=I32), 1)
    same(value(red.argmin_p, np.array([2, nan, 1, nan]).astype(dtype), axis=0, index_dtype=I32), 1)
    same(value(e.eq_p, x, x), [False, True, True])


def test_rounding() -> None:
    x = f32(0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, nan, inf, 8388609.0)
    same(value(e.round_p, x, rounding_method=0), [1, -1, 2, 3, -3, 0, nan, inf, 8388609])
    same(value(e.round_p, x, rounding_method=1), [0, -0.0, 2, 2, -2, 0, nan, inf, 8388609])


def test_values_at_the_edges_of_domains() -> None:
    same(value(e.rsqrt_p, f32(0.0, 4.0, -1.0, inf)), [inf, 0.5, nan, 0])
    same(value(e.logistic_p, f32(-200.0, 0.0, 200.0, nan)), [0, 0.5, 1, nan])
    same(value(e.rem_p, f32(5.5, -5.5, 1.0, 1.0), f32(2.0, 2.0, 0.0, inf)), [1.5, -1.5, nan, 1.0])
    same(value(e.integer_pow_p, f32(0.0, -2.0, 3.0), y=-3), [inf, -0.125, 1 / 27])
    same(value(e.integer_pow_p, f32(nan, 0.0), y=0), [1, 1])
    same(value(e.abs_p, np.array([3 + 4j], C64)), [5.0])
    same(value(e.sign_p, np.array([3 + 4j, 0], C64)), [0.6 + 0.8j, 0])
    same(value(e.nextafter_p, f32(1.0), f32(2.0)), [1 + 2**-23])


def test_half_precision_is_computed_in_single_and_rounded_once() -> None:
    # In float16, 1 + exp(-x) would already have rounded: the result would be 0.9443.
    x = np.array([2.83], F16)
    same(value(e.logistic_p, x), (1 / (1 + np.exp(-x.astype(F32)))).astype(F16))
    assert value(red.reduce_sum_p, np.ones(5000, F16), axes=(0,)) == 5000
    assert value(red.reduce_sum_p, np.ones((5000, 2), bfloat16), axes=(0,))[0] == bfloat16.type(5000)
    assert value(red.cumsum_p, np.ones(5000, F16), axis=0, reverse=False)[-1] == 5000


def test_select_takes_a_scalar_predicate_and_scalar_cases() -> None:
    same(value(e.select_p, np.array(True), i32(1, 2), i32(3, 4)), [1, 2])
    same(value(e.select_p, np.array([True, False]), np.int32(7), i32(3, 4)), [7, 4])


# Structure


def test_pad_negative_and_interior() -> None:
    nine = np.int32(9)
    same(value(s.pad_p, i32(1, 2, 3, 4), nine, padding_config=((-1, 2, 1),)), [9, 2, 9, 3, 9, 4, 9, 9])
    same(value(s.pad_p, i32(1, 2, 3, 4), nine, padding_config=((1, -3, 2),)), [9, 1, 9, 9, 2, 9, 9, 3])
    same(value(s.pad_p, i32(), nine, padding_config=((1, 2, 3),)), [9, 9, 9])
    same(value(s.pad_p, i32(1, 2), nine, padding_config=((-5, 6, 1),)), [9, 9, 9, 9])
    same(value(s.pad_p, i32(1, 2, 3), nine, padding_config=((-1, -1, 0),)), [2])
    with pytest.raises(ValueError, match="negative size"):
        s.pad_p.type_rule(ArrayType((1,), I32), ArrayType((), I32), padding_config=((-1, -1, 0),))


def test_slice_strides_and_iota() -> None:
    x = np.arange(10, dtype=I32)
    same(value(s.slice_p, x, start_indices=(1,), limit_indices=(9,), strides=(3,)), [1, 4, 7])
    same(value(s.slice_p, x, start_indices=(4,), limit_indices=(4,), strides=(1,)), [])
    same(value(s.iota_p, dtype=np.dtype(np.int8), shape=(2, 3), dimension=1), [[0, 1, 2], [0, 1, 2]])
    assert value(s.iota_p, dtype=bfloat16, shape=(3,), dimension=0).tolist() == [0, 1, 2]
    same(value(s.iota_p, dtype=C64, shape=(2, 1), dimension=0), [[0], [1]])
    same(value(s.rev_p, np.array([[1, 2], [3, 4]], I32), dimensions=(1,)), [[2, 1], [4, 3]])


def test_broadcast_places_axes() -> None:
    same(value(s.broadcast_in_dim_p, i32(1, 2), shape=(2, 3), broadcast_dimensions=(0,)), [[1, 1, 1], [2, 2, 2]])
    same(value(s.broadcast_in_dim_p, np.array([[5]], I32), shape=(2, 2), broadcast_dimensions=(0, 1)), [[5, 5], [5, 5]])
    same(value(s.broadcast_in_dim_p, i32(1), shape=(0, 2), broadcast_dimensions=(1,)), np.zeros((0, 2)))


def test_keys_pass_through_structure_with_their_words() -> None:
    words = np.arange(12, dtype=U32).reshape(2, 3, 2)  # evaluation's form of key<fry>[2,3]
    (t,) = s.transpose_p.evaluate(words, permutation=(1, 0))
    assert t.shape == (3, 2, 2) and t[2, 1].tolist() == [10, 11]
    assert s.reshape_p.evaluate(words, new_sizes=(6,))[0].shape == (6, 2)
    assert s.slice_p.evaluate(words, start_indices=(1, 0), limit_indices=(2, 3), strides=(1, 2))[0].tolist() == [
        [[6, 7], [10, 11]]
    ]
    assert s.broadcast_in_dim_p.evaluate(words[0, 0], shape=(2,), broadcast_dimensions=())[0].tolist() == [[0, 1], [0, 1]]
    assert s.rev_p.evaluate(words, dimensions=(1,))[0][0, 0].tolist() == [4, 5]
    pred = np.array([True, False, True])
    assert e.select_p.evaluate(pred, words[0], words[1])[0].tolist() == [[0, 1], [8, 9], [4, 5]]


# Reductions


@pytest.mark.parametrize(
    ("prim", "dtype", "identity"),
    [
        (red.reduce_sum_p, F32, 0),
        (red.reduce_prod_p, I32, 1),
        (red.reduce_max_p, F32, -inf),
        (red.reduce_max_p, I32, INT_MIN),
        (red.reduce_max_p, np.dtype(bool), False),
        (red.reduce_min_p, np.dtype(np.uint8), 255),
        (red.reduce_min_p, F16, inf),
        (red.reduce_and_p, U32, 2**32 - 1),
        (red.reduce_and_p, np.dtype(bool), True),
        (red.reduce_or_p, I32, 0),
        (red.reduce_xor_p, np.dtype(bool), False),
    ],
    ids=str,
)
def test_reducing_nothing_gives_the_identity(prim: Primitive, dtype: Any, identity: Any) -> None:
    same(value(prim, np.zeros((2, 0), dtype), axes=(1,)), [identity] * 2)
    assert value(prim, np.zeros((2, 0), dtype), axes=(0,)).shape == (0,)


def test_reductions_keep_their_dtype() -> None:
    assert value(red.reduce_sum_p, np.full(3, 100, np.int8), axes=(0,)) == 44
    assert value(red.cumprod_p, np.array([100, 3], np.int8), axis=0, reverse=False).tolist() == [100, 44]
    same(value(red.reduce_sum_p, f32(1, 2), axes=()), [1, 2])


def test_first_extremum_wins() -> None:
    x = np.array([[1, 3, 3], [2, 2, 0]], I32)
    same(value(red.argmax_p, x, axis=1, index_dtype=I32), [1, 0])
    same(value(red.argmin_p, x, axis=0, index_dtype=np.dtype(np.uint8)), [0, 1, 1])
    with pytest.raises(ValueError, match=r"argmax of an empty axis is undefined: axis 0 of f32\[0,2\]"):
        red.argmax_p.type_rule(ArrayType((0, 2), F32), axis=0, index_dtype=I32)


def test_cumulative_operations_run_both_ways() -> None:
    same(value(red.cumsum_p, i32(1, 2, 3), axis=0, reverse=True), [6, 5, 3])
    same(value(red.cummin_p, i32(3, 1, 2), axis=0, reverse=False), [3, 1, 1])
    same(value(red.cumlogsumexp_p, f32(-inf, 0, 1000), axis=0, reverse=False), [-inf, 0, 1000])
    np.testing.assert_allclose(value(red.cumlogsumexp_p, f32(0, 0, 0), axis=0, reverse=True), np.log([3, 2, 1]), rtol=1e-6)
    assert value(red.cumsum_p, np.zeros((0, 3), F32), axis=0, reverse=True).shape == (0, 3)


def test_general_reduction() -> None:
    scalar = ArrayType((), F32)

    def argmax_body(a, i, b, j):  # type: ignore[no-untyped-def]
        first = e.ge(a, b)
        return [e.select(first, a, b), e.select(first, i, j)]

    index = ArrayType((), I32)
    body, _ = trace(argmax_body, [scalar, index, scalar, index], "argmax")
    x = np.array([[1, 5, 2], [7, 0, 7]], F32)
    best, where = values(red.reduce_p, x, np.tile(i32(0, 1, 2), (2, 1)), F32.type(-inf), I32.type(-1), body=body, axes=(1,))
    same(best, [5, 7])
    same(where, [1, 0])

    # A body that cannot run on whole rows runs element by element.
    def product_body(a, b):  # type: ignore[no-untyped-def]
        return [s.reshape(red.reduce_prod(s.concatenate([s.reshape(a, (1,)), s.reshape(b, (1,))], 0), (0,)), ())]

    body, _ = trace(product_body, [scalar, scalar], "product")
    same(value(red.reduce_p, x, F32.type(1), body=body, axes=(0,)), [7, 0, 14])
    same(value(red.reduce_p, x, F32.type(1), body=body, axes=(0, 1)), 0)
    with pytest.raises(TypeError, match="reduce: the body must take"):
        red.reduce_p.type_rule(ArrayType((2,), I32), index, body=body, axes=(0,))


# Special functions and random bits


def test_special_values() -> None:
    same(value(sp.digamma_p, f32(0.0, -1.0)), [nan, nan])
    same(value(sp.lgamma_p, f32(0.0, -1.0, 1.0)), [inf, inf, 0])
    same(value(sp.erf_inv_p, f32(-1.0, 1.0, 2.0)), [-inf, inf, nan])
    np.testing.assert_allclose(value(sp.igamma_p, np.float64(3), np.float64(3)), 0.5768099188731567, rtol=1e-13)
    np.testing.assert_allclose(value(sp.zeta_p, f32(2.0), f32(1.0)), [np.pi**2 / 6], rtol=1e-6)
    np.testing.assert_allclose(value(sp.polygamma_p, np.float64(1), np.float64(0.5)), np.pi**2 / 2, rtol=1e-13)
    np.testing.assert_allclose(value(sp.erf_p, np.array([0.5]).astype(bfloat16)).astype(F32), [0.5205], rtol=4e-3)
    np.testing.assert_allclose(value(sp.regularized_incomplete_beta_p, *np.float64([1, 2, 0.5])), 0.75, rtol=1e-13)


@pytest.mark.parametrize(("a", "x"), [(0.1, 0.1), (0.5, 2.0), (3.0, 3.0), (10.0, 12.0), (100.0, 90.0), (2.0, 1e-5)])
def test_derivatives_of_the_incomplete_gamma_function(a: float, x: float) -> None:
    h = 1e-4 * a
    up, down = (value(sp.igamma_p, np.float64(a + d), np.float64(x)) for d in (h, -h))
    slope = value(sp.igamma_grad_a_p, np.float64(a), np.float64(x))
    np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-5)
    density = np.exp((a - 1) * np.log(x) - x - value(sp.lgamma_p, np.float64(a)))
    np.testing.assert_allclose(value(sp.random_gamma_grad_p, np.float64(a), np.float64(x)), -slope / density, rtol=1e-10)


def test_threefry_known_answers() -> None:
    zero = U32.type(0)
    y0, y1 = values(r.threefry2x32_p, zero, zero, np.zeros(2, U32), np.arange(2, dtype=U32))
    assert np.stack([y0, y1], 1).tolist() == [[1797259609, 2579123966], [928981903, 3453687069]]
    # From the paper's reference implementation.
    (y0,), (y1,) = values(r.threefry2x32_p, *(np.array([w], U32) for w in (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3)))
    assert (y0, y1) == (0xC4923A9C, 0x483DF7A0)


# Messages


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: e.sin_p.type_rule(ArrayType((3,), I32)), TypeError, r"sin takes floating-point or complex operands.*i32\[3\]"),
        (
            lambda: e.add_p.type_rule(ArrayType((3,), F32), ArrayType((3,), I32)),
            TypeError,
            r"add takes operands of one dtype, but got f32\[3\] and i32\[3\]",
        ),
        (
            lambda: e.mul_p.type_rule(ArrayType((3,), F32), ArrayType((4,), F32)),
            ValueError,
            r"mul takes operands of equal shapes \(or scalars\), but got f32\[3\] and f32\[4\]",
        ),
        (lambda: s.reshape_p.type_rule(ArrayType((2, 3), F32), new_sizes=(5,)), ValueError, r"f32\[2,3\] has 6 elements"),
        (lambda: red.reduce_sum_p.type_rule(ArrayType((2,), F32), axes=(1,)), ValueError, r"reduce_sum: axes \(1,\) are out of"),
        (lambda: e.add(np.zeros(2, I32), 1.5), TypeError, r"the scalar 1\.5 cannot be combined with an array of dtype int32"),
    ],
)
def test_messages_name_the_primitive_and_the_types(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_weak_results_come_from_weak_operands_only() -> None:
    weak, strong = ArrayType((), F32, True), ArrayType((3,), F32)
    assert e.add_p.type_rule(weak, weak)[0].weak
    assert e.add_p.type_rule(weak, strong) == (strong,)
    assert e.sin_p.type_rule(weak)[0].weak
    assert not e.lt_p.type_rule(weak, weak)[0].weak
