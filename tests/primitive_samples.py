"""Legal samples of every primitive, from which tests/test_primitives.py makes its checks.

A sample is a call of an operation that binds one primitive: `sample(ops.sin, x)` records the primitive, the operands and the
parameters. Samples say only what cannot be guessed: which operands are not differentiated, what tolerance the compiled program needs.
By default operands of 64-bit inexact dtypes are differentiated and the others are not, because the checks differentiate numerically.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of, using
from tracegrad.ir.config import config
from tracegrad.ir.primitive import REGISTRY, Primitive
from tracegrad.ir.types import ArrayType, bfloat16, key_dtype

I8, I32, I64, U8, U32, U64 = map(np.dtype, ("int8", "int32", "int64", "uint8", "uint32", "uint64"))
F16, F32, F64, C64, C128 = map(np.dtype, ("float16", "float32", "float64", "complex64", "complex128"))
BOOL, BF16 = np.dtype(bool), bfloat16
HALF = (F16, BF16)


@dataclass(frozen=True)
class Case:
    """One legal application of a primitive.

    differentiable: the operands that derivatives are checked for.
    order: how often the primitive can be differentiated (as the checks ask, by default); 0 for what must refuse or is not smooth here.
    reverse: whether derivatives can be transposed.
    batch: whether to check batching.
    direction: makes a random tangent of an operand a legal one (of a symmetric matrix, a symmetric one).
    meaning: what of (operands, results) is unique, where results are not (vectors up to their sign).
    tolerance: factor on the tolerances of the dtype.
    """

    name: str
    primitive: Primitive
    operands: tuple[np.ndarray, ...]
    types: tuple[ArrayType, ...]
    params: dict[str, Any]
    differentiable: tuple[int, ...] = ()
    order: int = 3
    reverse: bool = True
    batch: bool = True
    direction: Callable[[np.ndarray], np.ndarray] = lambda t: t
    meaning: Callable[..., Any] = lambda operands, results: results
    tolerance: float = 1.0

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        return bind(self.primitive, *values, **self.params)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.primitive.evaluate(*arrays, **self.params)

    def __str__(self) -> str:
        return self.name


class Keys:
    """Typed random keys as an operand of a sample."""

    def __init__(self, *shape: int):
        self.words = np.arange(2 * int(np.prod(shape)), dtype=U32).reshape(*shape, 2)
        self.aval = ArrayType(shape, key_dtype())
        self.dtype = self.aval.dtype


class _Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[Primitive, tuple[Any, ...], dict[str, Any]]] = []

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        self.calls.append((primitive, args, params))
        return primitive.type_rule(*map(type_of, args), **params)


_SAMPLERS: list[Callable[[], Iterable[Case]]] = []


def sampler(function: Callable[[], Iterable[Case]]) -> Callable[[], Iterable[Case]]:
    """Register a generator of samples."""
    _SAMPLERS.append(function)
    return function


CLAIMS = {f.name for f in fields(Case)} - {"name", "primitive", "operands", "types", "params"}


def sample(operation: Callable[..., Any], *args: Any, note: str = "", **keywords: Any) -> Case:
    """The case that `operation(*args, ...)` makes: it must bind exactly one primitive. Keywords are its own or the case's claims.

    `params` holds those of the operation's keywords whose names the case claims for itself.
    """
    claims = {k: keywords.pop(k) for k in CLAIMS & keywords.keys()}
    keywords |= keywords.pop("params", {})
    recorder = _Recorder()
    with config.override("enable_x64", True), using(recorder):
        operation(*args, **keywords)
        ((primitive, bound, params),) = recorder.calls
        types = tuple(map(type_of, bound))
    operands = tuple(x.words if isinstance(x, Keys) else np.asarray(x) for x in bound)
    claims.setdefault("differentiable", tuple(i for i, t in enumerate(types) if t.dtype in (F64, C128)))
    name = " ".join([primitive.name, *dict.fromkeys(str(t).replace("~", "") for t in types), *([note] if note else [])])
    return Case(name, primitive, operands, types, params, **claims)


@lru_cache(maxsize=1)
def all_cases() -> dict[str, list[Case]]:
    """Every sample, by the name of its primitive."""
    import primitive_samples_arrays  # noqa: F401
    import primitive_samples_programs  # noqa: F401

    cases: dict[str, list[Case]] = {name: [] for name in REGISTRY}
    for function in _SAMPLERS:
        for case in function():
            cases[case.primitive.name].append(case)
    return cases


# Arrays


def rng(*seed: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(seed).encode()))


def draw(dtype: Any, shape: Sequence[int], low: float = -2.0, high: float = 2.0, salt: Any = 0) -> np.ndarray:
    """Reproducible numbers from [low, high): of any dtype, with distinct magnitudes where that is possible."""
    r = rng(str(dtype), tuple(shape), low, high, salt)
    if dtype == BOOL:
        return r.random(shape) < 0.5
    if dtype.kind in "iu":
        return r.integers(max(low, 0) if dtype.kind == "u" else low, high, shape).astype(dtype)
    x = r.uniform(low, high, shape)
    if dtype.kind == "c":
        return (x + 1j * r.uniform(low, high, shape)).astype(dtype)
    return x.astype(dtype)


def backwards(x: np.ndarray) -> np.ndarray:
    """The same values in memory of negative strides, with a gap."""
    wide = np.zeros(tuple(2 * n for n in x.shape), x.dtype)
    view = wide[tuple(slice(None, None, -2) for _ in x.shape)]
    view[...] = x
    return view


EDGES = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-30, 1e5, -3e9, 0.9999999])
FINITE_IN_HALF = EDGES.clip(-6e4, 6e4)
INTEGER_EDGES = {d: np.array([np.iinfo(d).min, np.iinfo(d).max, 0, 1, 2, 3, 7, 100], d) for d in (I8, I32, I64, U8, U32, U64)}


# Elementwise: name of the operation -> (low, high) of the smooth part of its domain

UNARY = {
    "neg": (-2, 2),
    "sign": (0.1, 2),
    "square": (-2, 2),
    "abs": (0.1, 2),
    "floor": (0.1, 0.9),
    "ceil": (0.1, 0.9),
    "exp": (-2, 2),
    "exp2": (-2, 2),
    "expm1": (-2, 2),
    "log": (0.2, 2),
    "log1p": (-0.7, 2),
    "sin": (-2, 2),
    "cos": (-2, 2),
    "tan": (-1, 1),
    "asin": (-0.9, 0.9),
    "acos": (-0.9, 0.9),
    "atan": (-2, 2),
    "sinh": (-2, 2),
    "cosh": (-2, 2),
    "tanh": (-2, 2),
    "asinh": (-2, 2),
    "acosh": (1.2, 3),
    "atanh": (-0.9, 0.9),
    "sqrt": (0.2, 2),
    "rsqrt": (0.2, 2),
    "cbrt": (0.2, 2),
    "logistic": (-3, 3),
    "erf": (-2, 2),
    "erfc": (-2, 2),
    "erf_inv": (-0.9, 0.9),
    "lgamma": (0.5, 3),
    "digamma": (0.5, 3),
    "bessel_i0e": (-2, 2),
    "bessel_i1e": (0.2, 2),
    "copy": (-2, 2),
    "stop_gradient": (-2, 2),
}
COMPLEX_UNARY = (
    "neg sign square exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh sqrt rsqrt logistic copy abs"
).split()
SPECIAL = {"erf", "erfc", "erf_inv", "lgamma", "digamma", "bessel_i0e", "bessel_i1e"}


def real_claims(name: str) -> dict[str, Any]:
    claims: dict[str, Any] = {"tolerance": 20.0} if name in SPECIAL else {}
    if name in ("floor", "ceil", "stop_gradient"):
        claims["order"] = 0
    return claims


@sampler
def unary_samples() -> Iterable[Case]:
    for name, (low, high) in UNARY.items():
        op = getattr(ops, name)
        claims = real_claims(name)
        smooth = draw(F64, (2, 3), low, high, name)
        yield sample(op, smooth, **claims)
        yield sample(op, backwards(draw(F32, (3, 19), low, high, name)), note="strided", **claims)
        yield sample(op, EDGES.astype(F32), note="edges", **claims)
        yield sample(op, np.float32(low), **claims)
        yield sample(op, np.zeros((0, 3), F32), **claims)
        for dtype in HALF:
            yield sample(op, draw(dtype, (5,), low, high, name), **claims)
        if name in COMPLEX_UNARY:
            # Away from zero, and from the branch cuts of inverse functions and the poles of logistic and tan.
            z = 0.8 + 0.5j + 0.4 * draw(C128, (5,), -1, 1, name)
            yield sample(op, z, **{"order": 0} if name == "sign" else {"tolerance": 10.0})
            yield sample(op, z.astype(C64), tolerance=10.0)
        if name in ("neg", "sign", "square", "abs", "copy"):
            for edges in INTEGER_EDGES.values():
                yield sample(op, edges)


@sampler
def round_samples() -> Iterable[Case]:
    for method in (0, 1):
        yield sample(ops.round, EDGES.astype(F32), method, note=f"edges {method}")
        yield sample(ops.round, draw(F64, (4,)), method, note=f"{method}", order=0)
        yield sample(ops.round, draw(BF16, (4,)), method, note=f"{method}")
    for dtype in (F16, BF16, F32, F64):
        yield sample(ops.is_finite, FINITE_IN_HALF.astype(dtype))


@sampler
def power_samples() -> Iterable[Case]:
    for y in (-3, -1, 0, 1, 2, 3, 7):
        yield sample(ops.integer_pow, draw(F64, (3,), 0.5, 2), y, note=f"y={y}", tolerance=10.0)
        yield sample(ops.integer_pow, EDGES.astype(F32), y, note=f"edges y={y}", tolerance=10.0)
    yield sample(ops.integer_pow, draw(C128, (3,), 0.5, 2), 3, tolerance=10.0)
    yield sample(ops.integer_pow, draw(F16, (3,), 0.5, 2), -2, note="negative")
    yield sample(ops.integer_pow, INTEGER_EDGES[I32], 5)
    base, exponent = draw(F64, (2, 3), 0.5, 2), draw(F64, (2, 3), -2, 2, 1)
    yield sample(ops.pow, base, exponent, tolerance=10.0)
    yield sample(ops.pow, base, exponent[0, 0], tolerance=10.0)
    yield sample(ops.pow, base, np.array([[2, -1, 0], [3, 1, -2]], I32), tolerance=10.0)
    yield sample(ops.pow, np.array([2, -1, 3, 0, 1, -3], I32), np.array([3, 5, 0, 0, 7, 20], I32))
    yield sample(ops.pow, draw(F16, (3,), 0.5, 2), draw(F16, (3,)), tolerance=2.0)
    x, y = np.meshgrid(EDGES, EDGES)
    yield sample(ops.pow, x.astype(F32), y.astype(F32), note="edges", tolerance=10.0)
    z = draw(C128, (3,), 0.5, 1)
    yield sample(ops.pow, z, draw(C128, (3,), 0.5, 1, 1), tolerance=10.0)


BINARY = {  # name -> dtypes that are differentiated besides f64
    "add": (C128,),
    "sub": (C128,),
    "mul": (C128,),
    "div": (C128,),
    "rem": (),
    "max": (),
    "min": (),
    "atan2": (),
}


@sampler
def binary_samples() -> Iterable[Case]:
    for name, more in BINARY.items():
        op = getattr(ops, name)
        for dtype in (F64, *more):
            x, y = draw(dtype, (2, 3), 0.5, 2, name), draw(dtype, (2, 3), 0.3, 2, name + "y")
            yield sample(op, x, y)
            yield sample(op, x, y[0, 0], note="scalar right")
            yield sample(op, x[0, 0], y, note="scalar left")
        if more:
            yield sample(op, x.astype(C64), y.astype(C64))
        a, b = np.meshgrid(EDGES.astype(F32), EDGES.astype(F32))
        yield sample(op, a, b, note="edges")
        yield sample(op, draw(F32, (37,), 0.5, 2, name), backwards(draw(F32, (37,), 0.5, 2, 1)), note="strided")
        yield sample(op, np.zeros((3, 0), F32), np.float32(1))
        for dtype in HALF:
            yield sample(op, draw(dtype, (5,), 0.5, 2), draw(dtype, (5,), 0.5, 2, 1))
        if name != "atan2":
            for edges in INTEGER_EDGES.values():
                p, q = np.meshgrid(edges, edges)
                yield sample(op, p, q, note="edges")
    for name in ("max", "min"):
        yield sample(getattr(ops, name), draw(BOOL, (9,)), draw(BOOL, (9,), salt=1))
    for dtype in (F16, F32, F64):
        yield sample(ops.nextafter, FINITE_IN_HALF.astype(dtype), -FINITE_IN_HALF[::-1].astype(dtype), differentiable=())


@sampler
def comparison_samples() -> Iterable[Case]:
    for name in "eq ne lt le gt ge".split():
        op = getattr(ops, name)
        a, b = np.meshgrid(FINITE_IN_HALF, FINITE_IN_HALF)
        for dtype in (F16, BF16, F32, F64):
            yield sample(op, a.astype(dtype), b.astype(dtype))
        for edges in INTEGER_EDGES.values():
            p, q = np.meshgrid(edges, edges)
            yield sample(op, p, q)
        yield sample(op, draw(F32, (5,)), np.float32(0))
        yield sample(op, draw(BOOL, (9,)), draw(BOOL, (9,), salt=1))
        if name in ("eq", "ne"):
            yield sample(op, draw(C64, (3,)), draw(C64, (3,)))


@sampler
def bit_samples() -> Iterable[Case]:
    for name in "bitwise_not population_count clz".split():
        op = getattr(ops, name)
        for edges in INTEGER_EDGES.values():
            yield sample(op, edges)
    yield sample(ops.bitwise_not, draw(BOOL, (7,)))
    for name in "bitwise_and bitwise_or bitwise_xor shift_left shift_right_logical shift_right_arithmetic".split():
        op = getattr(ops, name)
        for dtype, edges in INTEGER_EDGES.items():
            shifts = np.array([0, 1, 3, dtype.itemsize * 8 - 1, dtype.itemsize * 8, 100], dtype)
            p, q = np.meshgrid(edges, shifts if name.startswith("shift") else edges)
            yield sample(op, p, q)
        yield sample(op, INTEGER_EDGES[I32], np.int32(3))
        if name.startswith("bitwise"):
            yield sample(op, draw(BOOL, (9,)), draw(BOOL, (9,), salt=1))


@sampler
def complex_samples() -> Iterable[Case]:
    z = draw(C128, (2, 3))
    for name in "real imag conj".split():
        yield sample(getattr(ops, name), z)
        yield sample(getattr(ops, name), backwards(z.astype(C64)), note="strided")
    yield sample(ops.complex, draw(F64, (2, 3)), draw(F64, (2, 3), salt=1))
    yield sample(ops.complex, draw(F64, (2, 3)), np.float64(2), note="scalar")
    yield sample(ops.complex, np.float32(1), EDGES.astype(F32))


@sampler
def select_samples() -> Iterable[Case]:
    pred = draw(BOOL, (2, 3))
    for dtype in (F64, C128, I32, BOOL, BF16, U8):
        x, y = draw(dtype, (2, 3)), draw(dtype, (2, 3), salt=1)
        yield sample(ops.select, pred, x, y)
    x, y = draw(F64, (2, 3)), draw(F64, (2, 3), salt=1)
    yield sample(ops.select, np.array(True), x, y, note="scalar predicate")
    yield sample(ops.select, pred, x, y[0, 0], note="scalar case")
    yield sample(ops.select, pred, x[0, 0], y[0, 0], note="scalar cases")
    yield sample(ops.select, pred, Keys(2, 3), Keys(2, 3))
    yield sample(ops.clamp, np.float64(-1), x, np.float64(1), note="scalar bounds")
    yield sample(ops.clamp, x - 1, x + y, x + 1, note="bounds")
    yield sample(ops.clamp, np.float32(-1), EDGES.astype(F32), np.float32(1), note="edges")
    yield sample(ops.clamp, np.int32(-1), INTEGER_EDGES[I32], np.int32(5))


@sampler
def conversion_samples() -> Iterable[Case]:
    everything = (BOOL, I8, I32, I64, U8, U32, U64, F16, BF16, F32, F64, C64, C128)
    for new in everything:
        for old in (BOOL, I32, U8, I64, U64, BF16, F32, F64, C64):
            x = INTEGER_EDGES[old] if old in INTEGER_EDGES else EDGES.astype(old) if old in (F32, F64) else draw(old, (6,))
            smooth = new in (F64, C128) and old == F64
            yield sample(ops.convert_element_type, x, new, note=f"to {new}", differentiable=())
            if smooth:
                yield sample(ops.convert_element_type, draw(F64, (3,)), new, note=f"to {new}")
    yield sample(ops.convert_element_type, draw(F64, (2,)), F64, weak=True, note="to weak")
    yield sample(ops.bitcast_convert_type, EDGES.astype(F32), U32, note="to u32")
    yield sample(ops.bitcast_convert_type, INTEGER_EDGES[I64], F64, note="to f64")
    yield sample(ops.bitcast_convert_type, draw(BF16, (3,)), F16, note="to f16")
    yield sample(ops.bitcast_convert_type, draw(F64, (3,)), U64, note="to u64", differentiable=())
    for exponent, mantissa in ((5, 10), (8, 7), (8, 23), (4, 3), (11, 52)):
        yield sample(ops.reduce_precision, EDGES.astype(F32), exponent, mantissa, note=f"e{exponent}m{mantissa}")
        yield sample(ops.reduce_precision, draw(F16, (9,)), exponent, mantissa, note=f"e{exponent}m{mantissa}")
    yield sample(ops.reduce_precision, draw(F64, (3,)), 11, 52, note="e11m52")


@sampler
def special_samples() -> Iterable[Case]:
    a, x = draw(F64, (2, 3), 0.5, 4, "a"), draw(F64, (2, 3), 0.3, 5, "x")
    loose: dict[str, Any] = {"tolerance": 1e4}
    for name in ("igamma", "igammac", "igamma_grad_a", "random_gamma_grad", "zeta", "polygamma"):
        op = getattr(ops, name)
        if name == "polygamma":
            yield sample(op, np.array([[0.0, 1, 2], [3, 4, 1]]), x, differentiable=(1,), **loose)
        else:
            yield sample(op, a + 1.5 if name == "zeta" else a, x, **loose)
            yield sample(op, np.float64(2.5), x, note="one parameter", **loose)
        yield sample(op, np.float32(2), x.astype(F32), note="scalar", tolerance=100.0)
        yield sample(op, np.full((2,), 3, F16), x[0, :2].astype(F16), tolerance=10.0)
    b, p = draw(F64, (2, 3), 0.5, 4, "b"), draw(F64, (2, 3), 0.1, 0.9, "p")
    beta = ops.regularized_incomplete_beta
    yield sample(beta, a, b, p, **loose)
    yield sample(beta, np.float32(2), np.float32(0.5), p.astype(F32), note="scalar", tolerance=100.0)
