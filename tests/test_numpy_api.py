"""`tracegrad.numpy`: names and signatures, dtypes and promotion, the semantics that programs rely on, errors."""

from __future__ import annotations

import inspect

import ml_dtypes
import numpy as np
import pytest
from numpy_names import FUNCTIONS, MEMBERS, VALUES

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.ir.bind import type_of
from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate
from tracegrad.tracer import errors
from tracegrad.tracer.staging import trace

assert tracegrad


def resolve(name):
    found = jnp
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("line", FUNCTIONS.strip().splitlines())
def test_functions_have_their_parameters(line):
    name, _, parameters = line.partition(":")
    assert list(inspect.signature(resolve(name)).parameters) == parameters.split()
    assert resolve(name).__doc__


def test_other_names_exist():
    missing = [name for name in VALUES.split() if not hasattr(jnp, name)]
    assert not missing


@pytest.mark.parametrize("name", MEMBERS.split())
def test_members_of_arrays(name):
    assert hasattr(type(jnp.zeros(2)), name) or hasattr(jnp.zeros(2), name)


def program_of(function, *args):
    return trace(lambda *xs: [function(*xs)], [type_of(a) for a in args])[0]


def primitives_of(function, *args):
    return [e.primitive.name for e in program_of(function, *args).equations]


# Lean programs


F = np.zeros((3, 4), np.float32)
V = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    "function, args, expected",
    [
        (lambda x, y: x + y, (F, F), ["add"]),
        (lambda x: x + 1, (F,), ["add"]),
        (lambda x: 2 / x, (F,), ["div"]),
        (lambda x, y: x * y, (F, V), ["broadcast_in_dim", "mul"]),
        (lambda x: x**2, (F,), ["square"]),
        (lambda x: x**3, (F,), ["integer_pow"]),
        (lambda x: x.astype(jnp.float32), (F,), []),
        (lambda x: x.reshape(3, 4), (F,), []),
        (lambda x: jnp.ravel(x), (V,), []),
        (lambda x: x.sum(), (F,), ["reduce_sum"]),
        (lambda x: x.mean(0), (F,), ["reduce_sum", "div"]),
        (lambda x: x.max(1, keepdims=True), (F,), ["reduce_max", "reshape"]),
        (lambda x: x[1], (F,), ["slice", "reshape"]),
        (lambda x: x[1:], (F,), ["slice"]),
        (lambda x: x[:], (F,), []),
        (lambda x: x[::-1], (F,), ["rev"]),
        (lambda x: x[:, None], (F,), ["reshape"]),
        (lambda x: x[..., 0], (F,), ["slice", "reshape"]),
        (lambda x: x.at[1].set(2.0), (F,), ["broadcast_in_dim", "dynamic_update_slice"]),
        (lambda x: x.at[:, 1:3].add(2.0), (F,), ["broadcast_in_dim", "slice", "add", "dynamic_update_slice"]),
        (lambda x, y: x @ y, (F, V), ["dot_general"]),
        (lambda x, y: jnp.einsum("ij,j->i", x, y), (F, V), ["dot_general"]),
        (lambda x: jnp.where(x > 0, x, 0.0), (F,), ["gt", "select"]),
        (lambda x: jnp.maximum(x, 0), (F,), ["max"]),
        (lambda x: jnp.zeros(3) + x, (np.float32(1),), ["broadcast_in_dim", "add"]),
        (lambda x: jnp.arange(4) + x, (np.int32(1),), ["iota", "add"]),
        (lambda x: jnp.eye(3) * x, (np.float32(1),), ["iota", "iota", "eq", "convert_element_type", "mul"]),
        (lambda x: jnp.stack([x, x]), (V,), ["reshape", "reshape", "concatenate"]),
        (lambda x, i: x[i], (F, np.int32(1)), ["lt", "add", "select", "dynamic_slice", "reshape"]),
        (lambda x, i: x[i], (F, np.uint8([1])), ["reshape", "gather"]),
    ],
)
def test_programs_are_lean(function, args, expected):
    found = primitives_of(function, *args)
    assert sorted(found) == sorted(expected), program_of(function, *args)


def test_everything_is_staged_inside_a_trace():
    seen = []

    def f(x):
        for made in (jnp.array(1), jnp.array(1) + 1, jnp.zeros(3), jnp.arange(3), jnp.asarray(np.ones(3)), jnp.float32(2)):
            seen.append(hasattr(made, "interpreter"))
        return [x]

    trace(f, [type_of(1.0)])
    assert all(seen)


# dtypes

_KINDS = "bool u8 i8 u16 i16 u32 i32 bf16 f16 f32 c64 i* f* c*".split()
_PROMOTION = {
    "u8 i8": "i16", "u8 i16": "i16", "u16 i16": "i32", "u32 i32": "i32", "bool i8": "i8", "i32 f16": "f16", "bf16 f16": "f32",
    "bf16 f32": "f32", "u32 f16": "f16", "f32 c64": "c64", "i32 c64": "c64", "u8 i*": "u8", "i8 i*": "i8", "bool i*": "i32",
    "i32 f*": "f32", "f16 f*": "f16", "bf16 f*": "bf16", "f16 i*": "f16", "f16 c*": "c64", "f32 c*": "c64", "i8 c*": "c64",
}  # fmt: skip
_EXAMPLES = {
    "bool": np.bool_(True), "u8": np.uint8(1), "i8": np.int8(1), "u16": np.uint16(1), "i16": np.int16(1), "u32": np.uint32(1),
    "i32": np.int32(1), "bf16": ml_dtypes.bfloat16(1), "f16": np.float16(1), "f32": np.float32(1), "c64": np.complex64(1),
    "i*": 1, "f*": 1.0, "c*": 1j,
}  # fmt: skip
_WEAK = {"i*": "i32", "f*": "f32", "c*": "c64"}


@pytest.mark.parametrize("pair, expected", _PROMOTION.items())
def test_promotion(pair, expected):
    a, b = (_EXAMPLES[k] for k in pair.split())
    dtype = np.dtype(type(_EXAMPLES[expected]))
    assert jnp.add(a, b).dtype == dtype
    assert jnp.add(b, a).dtype == dtype
    assert jnp.result_type(a, b) == dtype
    assert jnp.where(True, jnp.asarray(a), b).dtype == dtype


@pytest.mark.parametrize(
    "make, dtype, weak",
    [
        (lambda: jnp.array(1.0), "float32", True),
        (lambda: jnp.array(1), "int32", True),
        (lambda: jnp.array(True), "bool", False),
        (lambda: jnp.array([1.0]), "float32", False),
        (lambda: jnp.asarray(1, jnp.float32), "float32", False),
        (lambda: jnp.sin(1.0), "float32", True),
        (lambda: jnp.sin(1), "float32", True),
        (lambda: jnp.ones(2, jnp.int32) + 1.5, "float32", True),
        (lambda: jnp.float32(1) * 2, "float32", False),
        (lambda: jnp.float16(1) + 1.5, "float16", False),
        (lambda: jnp.full(2, 1.0), "float32", True),
        (lambda: jnp.zeros(2), "float32", False),
        (lambda: jnp.sum(1.0), "float32", False),
        (lambda: jnp.where(True, 1.0, 2), "float32", True),
        (lambda: np.float64(2) * jnp.ones(2, jnp.float32), "float32", False),
        (lambda: jnp.ones(2, jnp.float16) * np.float32(2), "float32", False),
        (lambda: jnp.int32(1) / 2, "float32", False),
        (lambda: jnp.ones(2, jnp.int32) / jnp.ones(2, jnp.int32), "float32", False),
        (lambda: jnp.sum(jnp.ones(3, bool)), "int32", False),
        (lambda: jnp.sum(jnp.ones(3, jnp.int8)), "int32", False),
        (lambda: jnp.sum(jnp.ones(3, jnp.uint8)), "uint32", False),
        (lambda: jnp.mean(jnp.ones(3, jnp.int32)), "float32", False),
        (lambda: jnp.cumsum(jnp.ones(3, bool)), "int32", False),
        (lambda: jnp.argmax(jnp.ones(3)), "int32", False),
        (lambda: jnp.array(1.0) ** 2, "float32", True),
        (lambda: jnp.ones(2) > 0, "bool", False),
        (lambda: abs(jnp.complex64(1j)), "float32", False),
    ],
)
def test_dtype_and_weakness_of_results(make, dtype, weak):
    x = make()
    assert (x.dtype.name, x.weak_type) == (dtype, weak)


def test_scalar_types_are_dtypes_and_constructors():
    assert jnp.float32 == np.dtype("float32") and np.dtype(jnp.float32) == np.float32 and jnp.float32 == jnp.single
    assert jnp.zeros(2, jnp.bfloat16).dtype == jnp.bfloat16
    assert isinstance(jnp.float32(1), jnp.ndarray) and jnp.int8(3).dtype == np.int8
    assert {jnp.float32: 1}[jnp.float32] == 1
    assert jnp.issubdtype(jnp.bfloat16, jnp.floating) and not jnp.issubdtype(jnp.int8, jnp.floating)
    assert jnp.issubdtype(float, jnp.floating) and jnp.issubdtype(jnp.zeros(1).dtype, jnp.inexact)
    assert jnp.finfo(jnp.bfloat16).bits == 16 and jnp.iinfo(jnp.int8).max == 127
    assert jnp.isdtype(jnp.int8, "integral") and not jnp.isdtype(jnp.int8, ("bool", "real floating"))


def test_64_bit_types_need_the_flag():
    with pytest.warns(UserWarning, match="truncated to dtype float32"):
        assert jnp.zeros(2, jnp.float64).dtype == np.float32
    assert jnp.asarray(np.zeros(2)).dtype == np.float32
    with config.override("enable_x64", True):
        assert jnp.zeros(2).dtype == np.float64
        assert (jnp.zeros(2, jnp.float32) * np.float64(2)).dtype == np.float64
        assert jnp.arange(3).dtype == np.int64
        assert jnp.sum(jnp.ones(3, jnp.int8)).dtype == np.int64


def test_strict_promotion_and_rank():
    with config.override("numpy_dtype_promotion", "strict"):
        with pytest.raises(ValueError, match="strict"):
            jnp.ones(2, jnp.int32) + jnp.ones(2, jnp.float32)
        assert (jnp.ones(2) + 1).dtype == np.float32
    with config.override("numpy_rank_promotion", "raise"):
        with pytest.raises(ValueError, match="rank"):
            jnp.ones((2, 2)) + jnp.ones(2)
        assert (jnp.ones((2, 2)) + 1).shape == (2, 2)


# Semantics

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    "expression, expected",
    [
        ("jnp.max(jnp.array([1, nan]))", NAN),
        ("jnp.maximum(1.0, nan)", NAN),
        ("jnp.argmax(jnp.array([1, nan, 3]))", 1),
        ("jnp.clip(nan, 0, 1)", NAN),
        ("jnp.sign(jnp.array([nan, -0.0, 2]))", [NAN, -0.0, 1]),
        ("jnp.sort(jnp.array([nan, 1, -inf]))", [-INF, 1, NAN]),
        ("jnp.array([2.9, -2.9, nan, inf, -1e20]).astype(int)", [2, -2, 0, 2**31 - 1, -(2**31)]),
        ("jnp.array([-1.0, 300.0, nan]).astype(jnp.uint8)", [0, 255, 0]),
        ("jnp.array([1, -1]) // 0", [-2, -2]),
        ("jnp.array([5, -5]) % 0", [0, 0]),
        ("jnp.array([5, -5]) // 3", [1, -2]),
        ("jnp.array([5, -5]) % -3", [-1, -2]),
        ("jnp.mean(jnp.zeros(0))", NAN),
        ("jnp.sum(jnp.zeros((0, 2)), 0)", [0, 0]),
        ("jnp.prod(jnp.zeros(0))", 1),
        ("jnp.max(jnp.zeros(0), initial=3)", 3),
        ("jnp.var(jnp.array([1.0, 2, 4]), ddof=1)", 7 / 3),
        ("jnp.take(jnp.array([1.0, 2]), jnp.array([0, 2, -1, -3]))", [1, NAN, 2, NAN]),
        ("jnp.take(jnp.array([1, 2]), jnp.array([5]))", [-(2**31)]),
        ("jnp.take(jnp.array([1, 2]), jnp.array([-1, 5]), mode='clip')", [1, 2]),
        ("jnp.take_along_axis(jnp.array([1.0, 2]), jnp.array([1, 7]), 0)", [2, NAN]),
        ("jnp.array([1, 2, 3])[jnp.array([7, -9])]", [3, 1]),
        ("jnp.array([1, 2, 3]).at[jnp.array([7, -9])].set(0)", [1, 2, 3]),
        ("jnp.zeros(3).at[jnp.array([1, 1])].add(1.0)", [0, 2, 0]),
        ("jnp.zeros(3).at[-1].set(1)", [0, 0, 1]),
        ("jnp.linalg.cholesky(-jnp.eye(2))[0, 0]", NAN),
        ("jnp.linalg.det(jnp.zeros((4, 4)))", 0),
        ("jnp.uint8(255) + jnp.uint8(1)", 0),
        ("jnp.int32(1) << 40", 0),
        ("jnp.isclose(inf, inf)", True),
        ("jnp.nan_to_num(jnp.array([nan, inf]))", [0, 3.4028235e38]),
        ("jnp.logaddexp(-inf, -inf)", -INF),
        ("jnp.nanmax(jnp.array([nan, 2]))", 2),
        ("jnp.median(jnp.array([1, 2, 3, 10]))", 2.5),
    ],
)
def test_values(expression, expected):
    result = eval(expression, {"jnp": jnp, "nan": NAN, "inf": INF})
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-6)


def test_numpy_arrays_on_either_side():
    x = jnp.arange(3.0)
    n = np.arange(3)
    for made in (x + n, n + x, n * x, x - n, n @ x, np.float32(2) * x, n < x, n[0] ** x):
        assert isinstance(made, jnp.ndarray)


def test_unknown_operands_are_left_to_them():
    class Other:
        def __radd__(self, other):
            return "mine"

    assert jnp.ones(2) + Other() == "mine"
    with pytest.raises(TypeError):
        jnp.ones(2) + "a"
    assert not (jnp.ones(2) == "a")
    assert jnp.ones(2) is not None


def test_jax_array_protocol():
    class Wrapped:
        def __jax_array__(self):
            return jnp.arange(3.0)

    np.testing.assert_array_equal(jnp.sin(Wrapped()), np.sin(np.arange(3, dtype=np.float32)))
    np.testing.assert_array_equal(jnp.ones(3) + Wrapped(), [1, 2, 3])
    assert jnp.asarray(Wrapped()).shape == (3,)


def test_arrays_do_not_share_writable_memory():
    n = np.zeros(3, np.float32)
    x = jnp.asarray(n)
    n[0] = 1
    assert x[0] == 0
    assert not np.asarray(x).flags.writeable


@pytest.mark.parametrize("size, fill", [(2, None), (6, None), (6, -1)])
def test_sizes_make_results_static(size, fill):
    mask = np.array([True, False, True, True])

    def f(m):
        return [*jnp.nonzero(m, size=size, fill_value=fill), jnp.unique(m, size=2)]

    program, _ = trace(f, [type_of(mask)])
    where, unique = evaluate(program, mask)
    expected = np.full(size, 0 if fill is None else fill)
    expected[:3] = [0, 2, 3][:size]
    np.testing.assert_array_equal(where, expected)
    np.testing.assert_array_equal(unique, [False, True])


# Errors


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: jnp.sum([1, 2]), TypeError, "sum.*'a'.*list.*jnp.array"),
        (lambda: jnp.add(1, [2]), TypeError, "add.*argument 1.*list"),
        (lambda: jnp.sin("a"), TypeError, "sin.*str"),
        (lambda: jnp.zeros((2, 1.5)), TypeError, "shapes must be 1D sequences of concrete integers"),
        (lambda: jnp.zeros(-1), TypeError, "zeros.*negative"),
        (lambda: jnp.reshape(jnp.ones(6), (4, -1)), TypeError, r"cannot reshape array of shape \(6,\)"),
        (lambda: jnp.ones(3) + jnp.ones(4), ValueError, r"add: shapes \(3,\), \(4,\)"),
        (lambda: jnp.ones((2, 3)) @ jnp.ones((2, 3)), TypeError, r"matmul.*\(2, 3\)"),
        (lambda: jnp.sum(jnp.ones(3), axis=2), ValueError, "sum: axis 2 is out of bounds for an array of dimension 1"),
        (lambda: jnp.max(jnp.ones(0)), ValueError, "zero-size array to reduction operation max which has no identity"),
        (lambda: jnp.sum(jnp.ones(3), out=1), NotImplementedError, "out="),
        (lambda: jnp.concatenate([]), ValueError, "at least one array"),
        (lambda: jnp.stack([jnp.ones(2), jnp.ones(3)]), ValueError, "same shape"),
        (lambda: jnp.array([[1, 2], [3]]), ValueError, "array"),
        (lambda: jnp.array(None), ValueError, "None"),
        (lambda: jnp.array("a"), TypeError, "array"),
        (lambda: jnp.array(2**40), OverflowError, "does not fit"),
        (lambda: jnp.ones(3)[1.0], TypeError, "integer or boolean type.*float"),
        (lambda: jnp.ones(3)[[0, 1]], TypeError, "non-tuple sequence"),
        (lambda: jnp.ones(3)[0, 0], IndexError, "Too many indices: array is 1-dimensional, but 2"),
        (lambda: jnp.ones(3)[np.array([True, False])], IndexError, "boolean index"),
        (lambda: jnp.ones(3)["a"], TypeError, "not an index"),
        (lambda: jnp.ones(3).at[0].set(jnp.ones(2)), ValueError, "at\\[\\].set.*broadcasting"),
        (lambda: jnp.ones(3).__setitem__(0, 1), TypeError, "at"),
        (lambda: ~jnp.ones(3), TypeError, "invert"),
        (lambda: -jnp.ones(3, bool), TypeError, "negative"),
        (lambda: jnp.ones(3, bool) - jnp.ones(3, bool), TypeError, "subtract"),
        (lambda: jnp.array([2]) ** -1, TypeError, "negative power"),
        (lambda: jnp.clip(1j, 0, 1), ValueError, "complex"),
        (lambda: jnp.where(True, 1), TypeError, "x and y"),
        (lambda: jnp.einsum("ij,jk", jnp.ones((2, 3)), jnp.ones((4, 5))), ValueError, "einsum.*'j'"),
        (lambda: jnp.einsum("ij", jnp.ones(3)), ValueError, "einsum.*'ij'"),
        (lambda: jnp.split(jnp.ones(5), 2), ValueError, "equal division"),
        (lambda: jnp.linalg.solve(jnp.ones((2, 3)), jnp.ones(2)), ValueError, "solve"),
        (lambda: jnp.linalg.inv(jnp.ones((2, 2), jnp.float16)), TypeError, "float16"),
        (lambda: jnp.fft.rfft(jnp.ones(3, complex)), ValueError, "rfft requires real"),
        (lambda: jnp.take(jnp.ones(3), jnp.array([0]), mode="raise"), NotImplementedError, "raise"),
        (lambda: jnp.take(jnp.ones(3), jnp.array([0.5])), ValueError, "integer"),
        (lambda: jnp.ones(3).at[0].get(mode="bad"), ValueError, "mode 'bad'"),
        (lambda: jnp.pad(jnp.ones(3), 1, mode="bad"), NotImplementedError, "bad"),
        (lambda: jnp.arange(1, 2, 0), ZeroDivisionError, "step"),
        (lambda: jnp.quantile(jnp.ones(3), 0.5, method="bad"), ValueError, "method"),
        (lambda: jnp.zeros(3, "nonsense"), TypeError, "zeros.*nonsense"),
    ],
)
def test_errors_say_what_is_wrong(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    "function, kind",
    [
        (lambda x: jnp.nonzero(x), errors.ConcretizationTypeError),
        (lambda x: jnp.unique(x), errors.ConcretizationTypeError),
        (lambda x: jnp.argwhere(x), errors.ConcretizationTypeError),
        (lambda x: x[x > 0], errors.NonConcreteBooleanIndexError),
        (lambda x: jnp.arange(x[0]), errors.ConcretizationTypeError),
        (lambda x: jnp.zeros(x[0].astype(int)), errors.ConcretizationTypeError),
        (lambda x: x[: x[0].astype(int)], IndexError),
        (lambda x: jnp.repeat(x, x.astype(int)), errors.ConcretizationTypeError),
        (lambda x: jnp.bincount(x.astype(int)), errors.ConcretizationTypeError),
        (lambda x: jnp.sum(x, axis=x[0].astype(int)), errors.ConcretizationTypeError),
    ],
)
def test_values_that_are_traced_cannot_decide_shapes(function, kind):
    with pytest.raises(kind):
        trace(lambda x: [function(x)], [type_of(np.ones(3, np.float32))])
