"""The rules of leaf primitives, one by one: derivative against central differences, transpose against the pairing of tangents and
cotangents, batching against a loop.

Rules run here on NumPy arrays, under an interpreter that evaluates each operation and checks its result against the type rule: no
transformation is needed to test one. A `Case` in CASES is all that a primitive needs. What conventions say (kinks, ties, complex
numbers) is further down, and how lean linear programs are at the end.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of, using
from tracegrad.ir.config import config
from tracegrad.ir.primitive import REGISTRY, Declined
from tracegrad.ir.types import ArrayType, bfloat16, is_inexact, key_dtype, tangent_type
from tracegrad.tracer.staging import trace
from tracegrad.transforms import leaf_rules  # noqa: F401  (attaches the rules)
from tracegrad.transforms.batch import batch_flat
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.linearize import linearize_flat
from tracegrad.transforms.transpose import backward
from tracegrad.transforms.zero import Axis, Linear, Zero, is_zero


class Numpy:
    """Evaluates each operation at once, and holds results against the type rule."""

    def __init__(self) -> None:
        self.applied: list[str] = []

    def process(self, primitive: Any, args: Sequence[Any], params: dict[str, Any]) -> tuple[Any, ...]:
        arrays = [np.asarray(x) for x in args]
        types = primitive.type_rule(*[type_of(x) for x in arrays], **params)
        outs = primitive.evaluate(*arrays, **params)
        self.applied.append(primitive.name)
        for t, x in zip(types, outs, strict=True):
            shape = t.shape + getattr(t.dtype, "base_shape", ())
            assert x.shape == shape, f"{primitive.name}: evaluation gives {x.shape}, the type rule {t}"
            if hasattr(x, "dtype") and not hasattr(t.dtype, "base_shape"):
                assert x.dtype == t.dtype, f"{primitive.name}: evaluation gives {x.dtype}, the type rule {t}"
        return tuple(outs)


@pytest.fixture(autouse=True)
def _wide_types_and_numpy() -> Any:
    with config.override("enable_x64", True), using(Numpy()) as interpreter:
        yield interpreter


def uniform(low: float, high: float) -> Callable[[Any, tuple[int, ...]], np.ndarray]:
    return lambda rng, shape: rng.uniform(low, high, shape)


REAL = uniform(-2.0, 2.0)
UNIT = uniform(-0.9, 0.9)
POSITIVE = uniform(0.3, 3.0)
LARGE = uniform(1.2, 3.0)


def COMPLEX(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-2, 2, shape) + 1j * rng.uniform(-2, 2, shape)


def DISTINCT(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    """No two elements closer than a step of differences, so that extrema and orders are where functions are smooth."""
    n = int(np.prod(shape))
    return (rng.permutation(n) * 0.3 - 0.1 * n + rng.uniform(0, 0.1, n)).reshape(shape)


def BOOLEAN(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(size=shape) < 0.5


def INTS(low: int, high: int, dtype: Any = np.int32) -> Callable[..., np.ndarray]:
    return lambda rng, shape: rng.integers(low, high, shape).astype(dtype)


def EXACTLY(value: Any) -> Callable[..., np.ndarray]:
    return lambda rng, shape: np.array(value)


def SPD(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    a = rng.uniform(-1, 1, shape)
    return a @ np.swapaxes(a, -1, -2) + 2 * np.eye(shape[-1])


def HPD(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    a = COMPLEX(rng, shape)
    return a @ np.conj(np.swapaxes(a, -1, -2)) + 2 * np.eye(shape[-1])


def REGULAR(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A well conditioned matrix (complex if the generator says so)."""
    return rng.uniform(-1, 1, shape) + 3 * np.eye(shape[-2], shape[-1])


def COMPLEX_REGULAR(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    return REGULAR(rng, shape) + 1j * rng.uniform(-1, 1, shape)


@dataclass
class Case:
    """How to try one primitive: what its operands are drawn from, and their shapes."""

    name: str
    draws: Sequence[Any]
    shapes: Sequence[tuple[int, ...]]
    params: dict[str, Any] = field(default_factory=dict)
    linear: Sequence[tuple[int, ...]] = ()  # sets of operands that it is jointly linear in
    invariant: Callable[..., Any] | None = None  # what of the results is a smooth function of the operands
    hermitian: bool = False  # tangents of the first operand are Hermitian
    fixed: tuple[int, ...] = ()  # inexact operands without derivative
    batched: bool = True
    label: str = ""

    @property
    def prim(self) -> Any:
        return REGISTRY[self.name]

    def id(self) -> str:
        shapes = "x".join(str(list(s)).replace(" ", "") for s in self.shapes)
        kinds = "".join("c" if d in (COMPLEX, HPD, COMPLEX_REGULAR) else "" for d in self.draws)
        return "-".join(filter(None, (self.name, kinds, shapes, self.label)))

    def rng(self) -> Any:
        return np.random.default_rng(zlib.crc32(self.id().encode()))

    def operands(self, rng: Any) -> list[np.ndarray]:
        return [np.asarray(draw(rng, shape)) for draw, shape in zip(self.draws, self.shapes, strict=True)]


def unary(draw: Any, *names: str) -> list[Case]:
    return [Case(name, [draw], [shape]) for name in names for shape in ((2, 3),)]


def binary(name: str, x: Any, y: Any, **options: Any) -> list[Case]:
    shapes: list[Any] = [((2, 3), (2, 3)), ((2, 3), ()), ((), (2, 3)), ((), ())]
    return [Case(name, [x, y], s, **options) for s in shapes]


CASES: list[Case] = [
    *unary(REAL, *"exp exp2 expm1 sin cos tan atan sinh cosh tanh asinh logistic square erf erfc abs".split()),
    *unary(POSITIVE, *"log log1p sqrt rsqrt cbrt lgamma digamma".split()),
    *unary(UNIT, *"asin acos atanh erf_inv".split()),
    *unary(LARGE, "acosh"),
    *unary(REAL, "bessel_i0e", "bessel_i1e"),
    *unary(COMPLEX, *"exp expm1 log log1p sin cos tan sinh cosh tanh sqrt rsqrt logistic square asin acos atan asinh acosh atanh abs sign".split()),
    *[Case(name, [REAL], [(3,)], linear=[(0,)]) for name in ("neg", "copy")],
    *[Case(name, [COMPLEX], [(3,)], linear=[(0,)]) for name in ("neg", "copy", "real", "imag", "conj")],
    *[Case("integer_pow", [draw], [(3,)], {"y": y}, label=f"y={y}") for draw in (REAL, COMPLEX) for y in (-2, 0, 1, 2, 3)],
    *binary("add", REAL, REAL, linear=[(0, 1)]),
    *binary("sub", REAL, REAL, linear=[(0, 1)]),
    *binary("mul", REAL, REAL, linear=[(0,), (1,)]),
    *binary("mul", COMPLEX, COMPLEX, linear=[(0,), (1,)]),
    *binary("div", REAL, POSITIVE, linear=[(0,)]),
    *binary("div", COMPLEX, COMPLEX, linear=[(0,)]),
    *binary("rem", REAL, POSITIVE),
    *binary("pow", POSITIVE, REAL),
    *binary("pow", COMPLEX, COMPLEX),
    *binary("pow", REAL, INTS(-2, 4)),
    *binary("max", REAL, REAL),
    *binary("min", REAL, REAL),
    *binary("atan2", REAL, REAL),
    *binary("complex", REAL, REAL, linear=[(0, 1)]),
    *binary("igamma", POSITIVE, POSITIVE),
    *binary("igammac", POSITIVE, POSITIVE),
    *[Case("igamma_grad_a", [POSITIVE, POSITIVE], s, fixed=(0,)) for s in ([(3,), (3,)], [(3,), ()])],
    *binary("zeta", LARGE, POSITIVE),
    Case("polygamma", [EXACTLY([0.0, 1.0, 3.0]), POSITIVE], [(3,), (3,)], fixed=(0,)),
    Case("regularized_incomplete_beta", [POSITIVE, POSITIVE, uniform(0.1, 0.9)], [(4,), (4,), (4,)], fixed=(0, 1)),
    Case("regularized_incomplete_beta", [POSITIVE, POSITIVE, uniform(0.1, 0.9)], [(), (), (4,)], fixed=(0, 1)),
    Case("random_gamma_grad", [POSITIVE, POSITIVE], [(4,), (4,)], fixed=(0, 1)),
    *[
        Case("select", [BOOLEAN, REAL, REAL], s, linear=[(1, 2)])
        for s in ([(3, 2)] * 3, [(), (3,), (3,)], [(3,), (), ()], [(3,), (3,), ()], [(), (), ()], [(), (), (3,)])
    ],
    *[
        Case("clamp", [uniform(-1.5, -0.5), REAL, uniform(0.5, 1.5)], s)
        for s in ([(4,)] * 3, [(), (3,), ()], [()] * 3, [(3,), (), (3,)])
    ],
    Case("convert_element_type", [REAL], [(3,)], {"new_dtype": np.dtype(complex), "weak": False}, linear=[(0,)]),
    Case("convert_element_type", [COMPLEX], [(3,)], {"new_dtype": np.dtype(float), "weak": False}, linear=[(0,)]),
    *[Case(name, [REAL], [(3,)]) for name in ("floor", "ceil", "sign", "is_finite")],
    Case("stop_gradient", [REAL], [(3,)], fixed=(0,)),
    Case("nextafter", [REAL, REAL], [(3,), (3,)], fixed=(0, 1)),
    Case("reduce_precision", [REAL], [(3,)], {"exponent_bits": 5, "mantissa_bits": 10}, linear=[(0,)], fixed=(0,)),
    Case("round", [REAL], [(3,)], {"rounding_method": 1}),
    *[c for name in "eq ne lt le gt ge".split() for c in binary(name, REAL, REAL)],
    *[c for name in "and or xor".split() for c in binary(name, INTS(0, 9), INTS(0, 9))],
    *[c for name in "shift_left shift_right_logical shift_right_arithmetic".split() for c in binary(name, INTS(0, 9), INTS(0, 9))],
    *unary(INTS(0, 99), "not", "population_count", "clz"),
    # structural
    *[
        Case("broadcast_in_dim", [REAL], [s], {"shape": out, "broadcast_dimensions": dims}, linear=[(0,)])
        for s, out, dims in [((), (2, 3), ()), ((3,), (2, 3), (1,)), ((2, 1), (2, 4, 3), (0, 2)), ((2,), (2, 3), (0,)), ((0,), (2, 0), (1,))]
    ],
    *[
        Case("reshape", [REAL], [s], {"new_sizes": out}, linear=[(0,)])
        for s, out in [((2, 3), (3, 2)), ((), (1, 1)), ((4,), (2, 2)), ((0, 3), (3, 0))]
    ],
    *[Case("transpose", [REAL], [(2, 3, 4)], {"permutation": p}, linear=[(0,)]) for p in itertools.permutations(range(3))],
    *[
        Case("slice", [REAL], [(7, 4)], {"start_indices": a, "limit_indices": b, "strides": c}, linear=[(0,)])
        for a, b, c in [((1, 0), (6, 4), (2, 1)), ((0, 1), (7, 3), (3, 1)), ((2, 2), (2, 4), (1, 1)), ((1, 0), (7, 4), (3, 3))]
    ],
    *[
        Case("pad", [REAL, REAL], [s, ()], {"padding_config": c}, linear=[(0, 1)])
        for s, c in [((3,), ((1, 2, 0),)), ((4,), ((-1, 2, 1),)), ((4, 2), ((-2, -1, 0), (0, 1, 2))), ((0,), ((2, 1, 1),)), ((), ()),
                     ((5,), ((-3, -1, 2),))]
    ],
    Case("rev", [REAL], [(3, 4)], {"dimensions": (0,)}, linear=[(0,)]),
    Case("rev", [REAL], [(3, 4)], {"dimensions": (0, 1)}, linear=[(0,)], label="both"),
    Case("concatenate", [REAL, REAL, REAL], [(2, 3), (1, 3), (0, 3)], {"dimension": 0}, linear=[(0, 1, 2)]),
    Case("concatenate", [REAL, REAL], [(2, 3), (2, 1)], {"dimension": 1}, linear=[(0, 1)]),
    # reductions
    *[
        Case(name, [draw], [s], {"axes": axes}, linear=[(0,)] if name == "reduce_sum" else (), label=str(axes).replace(" ", ""))
        for name, draw in [("reduce_sum", REAL), ("reduce_prod", REAL), ("reduce_max", DISTINCT), ("reduce_min", DISTINCT)]
        for s, axes in [((2, 3, 2), (1,)), ((2, 3, 2), (0, 2)), ((2, 3), (0, 1)), ((3,), (0,)), ((2,), ())]
    ],
    Case("reduce_sum", [REAL], [(0, 2)], {"axes": (0,)}, linear=[(0,)]),
    Case("reduce_prod", [REAL], [(0, 2)], {"axes": (0,)}),
    Case("reduce_prod", [COMPLEX], [(3, 2)], {"axes": (0,)}),
    *[Case(name, [INTS(0, 9)], [(2, 3)], {"axes": (1,)}) for name in ("reduce_and", "reduce_or", "reduce_xor")],
    *[Case(name, [DISTINCT], [(2, 3)], {"axis": a, "index_dtype": np.dtype(np.int32)}, label=str(a)) for name in ("argmax", "argmin") for a in (0, 1)],
    *[
        Case(name, [draw], [s], {"axis": axis, "reverse": reverse}, linear=[(0,)] if name == "cumsum" else (), label=f"{axis}{reverse}")
        for name, draw in [("cumsum", REAL), ("cumprod", REAL), ("cummax", DISTINCT), ("cummin", DISTINCT), ("cumlogsumexp", REAL)]
        for s, axis in [((5, 2), 0), ((2, 4), 1), ((1,), 0), ((0,), 0)]
        for reverse in (False, True)
    ],
]  # fmt: skip


def _window(kind: str, dims: Any, strides: Any, padding: Any, base: Any = None, dilation: Any = None) -> dict[str, Any]:
    ones = (1,) * len(dims)
    return {"kind": kind, "window_dimensions": dims, "window_strides": strides, "padding": padding,
            "base_dilation": base or ones, "window_dilation": dilation or ones}  # fmt: skip


WINDOWS = [
    ((7,), (3,), (2,), ((0, 0),), None, None),
    ((7,), (3,), (2,), ((2, 1),), None, None),
    ((5, 4), (2, 3), (1, 2), ((0, 1), (1, 0)), None, None),
    ((6,), (2,), (3,), ((1, 2),), (2,), (3,)),
    ((5,), (2,), (2,), ((-1, 2),), None, (2,)),
    ((2,), (4,), (1,), ((0, 0),), None, None),
]
SELECTS = WINDOWS[:3]


def _dot(lc: Any, rc: Any, lb: Any = (), rb: Any = (), preferred: Any = None) -> dict[str, Any]:
    return {"dimension_numbers": ((lc, rc), (lb, rb)), "preferred_element_type": preferred}


def _conv(strides: Any, padding: Any, lhs_dilation: Any = None, rhs_dilation: Any = None, specs: Any = None, features: int = 1, batches: int = 1) -> dict[str, Any]:
    n = len(strides)
    plain = tuple(range(n + 2))
    return {
        "window_strides": strides, "padding": padding, "lhs_dilation": lhs_dilation or (1,) * n, "rhs_dilation": rhs_dilation or (1,) * n,
        "dimension_numbers": specs or (plain, plain, plain), "feature_group_count": features, "batch_group_count": batches,
        "preferred_element_type": None,
    }  # fmt: skip


NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def _gather(offset: Any, collapsed: Any, index_map: Any, sizes: Any, ob: Any = (), ib: Any = (), mode: str = "fill") -> dict[str, Any]:
    return {"offset_dims": offset, "collapsed_slice_dims": collapsed, "operand_batching_dims": ob, "start_indices_batching_dims": ib,
            "start_index_map": index_map, "slice_sizes": sizes, "mode": mode, "fill_value": None}  # fmt: skip


GATHERS = [  # operand, indices, parameters
    ((5,), (3, 1), _gather((), (0,), (0,), (1,), mode="clip")),
    ((5, 4), (3, 1), _gather((1,), (0,), (0,), (1, 4))),
    ((5, 4), (2, 3, 1), _gather((0,), (1,), (1,), (5, 1), mode="clip")),
    ((5, 4), (2, 2), _gather((1, 2), (), (1, 0), (2, 3))),
    ((5, 4), (2,), _gather((0, 1), (), (0, 1), (2, 2), mode="clip")),
    ((3, 4), (3, 2, 1), _gather((), (1,), (1,), (1, 1), (0,), (0,))),
    ((4, 3, 2), (2, 3, 1), _gather((1,), (0,), (0,), (1, 1, 2), (1,), (1,), "clip")),
]


def _scatter(kind: str, update: Any, inserted: Any, dims: Any, ob: Any = (), ib: Any = (), mode: str = "drop", unique: bool = False) -> dict[str, Any]:
    return {"kind": kind, "update_window_dims": update, "inserted_window_dims": inserted, "operand_batching_dims": ob,
            "scatter_indices_batching_dims": ib, "scatter_dims_to_operand_dims": dims, "mode": mode, "unique_indices": unique}  # fmt: skip


SCATTERS = [  # operand, indices, updates, parameters without the kind
    ((5,), (4, 1), (4,), ((), (0,), (0,))),
    ((5, 4), (3, 1), (3, 4), ((1,), (0,), (0,))),
    ((5, 4), (3, 2), (2, 3, 3), ((0, 2), (), (1, 0))),
    ((3, 4), (3, 2, 1), (3, 2), ((), (1,), (1,), (0,), (0,))),
    ((5, 4), (2,), (2, 2), ((0, 1), (), (0, 1))),
]

CASES += [
    *[
        Case("reduce_window", [DISTINCT if kind in ("max", "min") else REAL], [shape], _window(kind, *w), linear=[(0,)] if kind == "add" else (),
             label=f"{kind}{i}")
        for kind in ("add", "mul", "max", "min")
        for i, (shape, *w) in enumerate(WINDOWS)
    ],
    *[
        Case("select_and_gather_add", [REAL, DISTINCT], [shape, shape],
             {"kind": kind, "window_dimensions": w[0], "window_strides": w[1], "padding": w[2]}, linear=[(0,)], label=kind)
        for kind in ("max", "min")
        for shape, *w in SELECTS
    ],
    *[
        Case("select_and_scatter_add", [REAL, DISTINCT], [source, shape],
             {"kind": kind, "window_dimensions": w[0], "window_strides": w[1], "padding": w[2]}, linear=[(0,)], label=kind)
        for kind in ("max", "min")
        for source, (shape, *w) in zip([(3,), (4,), (5, 2)], SELECTS)
    ],
    *[
        Case("dot_general", [draw, draw], shapes, _dot(*numbers), linear=[(0,), (1,)])
        for draw in (REAL, COMPLEX)
        for shapes, numbers in [
            (((3,), (3,)), ((0,), (0,))),
            (((2, 3), (3, 4)), ((1,), (0,))),
            (((3, 2), (4, 3)), ((0,), (1,))),
            (((2, 3), (3,)), ((1,), (0,))),
            (((2, 3), (4,)), ((), ())),
            (((2, 3, 4), (4, 2, 5)), ((2,), (0,), (0,), (1,))),
            (((2, 3, 4), (4, 3, 5, 2)), ((2, 1), (0, 1), (0,), (3,))),
            (((2, 3, 4, 2), (4, 2, 3, 2)), ((1, 2), (2, 0), (3, 0), (1, 3))),
            (((), ()), ((), ())),
        ]
    ],
    *[
        Case("conv_general_dilated", [REAL, REAL], shapes, _conv(**p), linear=[(0,), (1,)], label=str(i))
        for i, (shapes, p) in enumerate([
            (((2, 3, 7), (4, 3, 3)), {"strides": (2,), "padding": ((1, 0),)}),
            (((2, 3, 6), (4, 3, 2)), {"strides": (3,), "padding": ((2, 1),), "lhs_dilation": (2,), "rhs_dilation": (3,)}),
            (((2, 4, 5), (6, 2, 3)), {"strides": (1,), "padding": ((1, 1),), "features": 2}),
            (((4, 3, 5), (6, 3, 3)), {"strides": (2,), "padding": ((1, 1),), "batches": 2}),
            (((2, 5, 4, 3), (2, 3, 3, 2)), {"strides": (2, 1), "padding": ((1, 1), (0, 2)), "specs": NHWC}),
            (((2, 5, 4, 4), (2, 3, 2, 2)), {"strides": (1, 1), "padding": ((-1, 2), (0, 1)), "specs": NHWC, "features": 2}),
            (((4, 5, 4, 3), (2, 3, 3, 4)), {"strides": (1, 2), "padding": ((0, 0), (1, 0)), "specs": NHWC, "batches": 2}),
            (((2, 3), (4, 3)), {"strides": (), "padding": ()}),
        ])
    ],
    *[
        Case("gather", [REAL, INTS(-1, 6)], [operand, indices], p if mode is None else {**p, "mode": mode}, linear=[(0,)] if mode else (),
             label=f"{i}{mode}")
        for i, (operand, indices, p) in enumerate(GATHERS)
        for mode in ("clip", "fill")
        if mode == "clip"
    ],
    *[
        Case("gather", [REAL, INTS(-1, 6)], [operand, indices], {**p, "mode": "fill", "fill_value": 0}, linear=[(0,)], label=f"{i}fill")
        for i, (operand, indices, p) in enumerate(GATHERS)
    ],
    *[
        Case("scatter", [REAL, INTS(-1, 5), REAL], [x, indices, updates], _scatter(kind, *p, mode=mode),
             linear={"add": [(0, 2)], "set": [(0, 2)], "mul": [(0,)]}.get(kind, ()), label=f"{kind}{i}{mode}")
        for i, (x, indices, updates, p) in enumerate(SCATTERS)
        for kind in ("set", "add", "mul", "min", "max")
        for mode in ("drop", "clip")
    ],
    *[
        Case("scatter", [REAL, lambda rng, shape: np.array([[3], [0], [7]], np.int32), REAL], [(5, 4), (3, 1), (3, 4)],
             _scatter(kind, (1,), (0,), (0,), unique=True), linear={"add": [(0, 2)], "set": [(0, 2)]}.get(kind, ()), label=f"{kind}unique")
        for kind in ("set", "add", "mul", "min", "max")
    ],
    Case("dynamic_slice", [REAL, INTS(-1, 6), INTS(-1, 6)], [(5, 4), (), ()], {"slice_sizes": (2, 3)}, linear=[(0,)]),
    Case("dynamic_slice", [REAL, INTS(-1, 6)], [(5,), ()], {"slice_sizes": (0,)}, linear=[(0,)]),
    Case("dynamic_update_slice", [REAL, REAL, INTS(-1, 6), INTS(-1, 6)], [(5, 4), (2, 3), (), ()], linear=[(0, 1)]),
    Case("dynamic_update_slice", [REAL, REAL, INTS(-1, 6, np.int64)], [(5,), (5,), ()], linear=[(0, 1)]),
    *[
        Case("sort", draws, [shape] * len(draws), {"dimension": d, "is_stable": True, "num_keys": k}, label=f"{d}{k}")
        for draws, shape, d, k in [
            ([DISTINCT], (5,), 0, 1), ([DISTINCT], (3, 4), 0, 1), ([DISTINCT, REAL], (3, 4), 1, 1),
            ([INTS(0, 2), DISTINCT, REAL], (6,), 0, 2), ([DISTINCT], (0,), 0, 1),
        ]
    ],
    *[Case("top_k", [DISTINCT], [s], {"k": k}) for s, k in [((5,), 2), ((3, 4), 3), ((3,), 0)]],
    *[
        Case("fft", [draw], [shape], {"kind": kind, "lengths": lengths}, linear=[(0,)])
        for draw, shape, kind, lengths in [
            (COMPLEX, (5,), "fft", (5,)), (COMPLEX, (2, 4, 3), "fft", (4, 3)), (COMPLEX, (4,), "ifft", (4,)), (COMPLEX, (3, 2), "ifft", (3, 2)),
            (REAL, (5,), "rfft", (5,)), (REAL, (2, 3, 4), "rfft", (3, 4)), (COMPLEX, (3,), "irfft", (4,)), (COMPLEX, (3,), "irfft", (5,)),
            (COMPLEX, (2, 3, 3), "irfft", (3, 4)), (COMPLEX, (1,), "irfft", (1,)), (COMPLEX, (2,), "irfft", (2,)), (REAL, (1,), "rfft", (1,)),
        ]
    ],
    Case("threefry2x32", [INTS(0, 99, np.uint32)] * 4, [(), (), (3,), (3,)]),
    Case("key_wrap", [INTS(0, 99, np.uint32)], [(3, 2)]),
]  # fmt: skip


def _body(fun: Callable[..., Any], n: int) -> Any:
    program, captured = trace(fun, [ArrayType((), float)] * (2 * n))
    assert not captured
    return program


CASES += [
    *[
        Case("reduce", [REAL, EXACTLY(1.5)], [s, ()], {"body": _body(lambda a, x: [ops.mul(ops.cos(a), x)], 1), "axes": axes}, fixed=(0, 1))
        for s, axes in [((1, 3), (0,)), ((0, 3), (0,)), ((1, 2, 1), (0, 2))]
    ],
    *[
        Case("reduce", [POSITIVE, EXACTLY(1.0)], [s, ()], {"body": _body(lambda a, x: [ops.mul(a, x)], 1), "axes": axes}, label=str(axes))
        for s, axes in [((5, 3), (0,)), ((3, 4), (0, 1)), ((0, 3), (0,)), ((2, 3, 2), (0, 2))]
    ],
    # A product and a sum of dual numbers: two results that depend on each other.
    Case("reduce", [POSITIVE, REAL, EXACTLY(1.0), EXACTLY(0.0)], [(5, 2), (5, 2), (), ()],
         {"body": _body(lambda a, b, x, y: [ops.mul(a, x), ops.add(ops.mul(a, y), ops.mul(b, x))], 2), "axes": (0,)}),
    Case("bitcast_convert_type", [REAL], [(3,)], {"new_dtype": np.dtype(np.int64)}),
]  # fmt: skip


# Only what does not depend on phases or signs is a smooth function of the matrix.


def gauge_free_svd(s: Any, u: Any, vh: Any) -> Any:
    return s, np.einsum("...ij,...j,...jk->...ik", u, s, vh), np.einsum("...ij,...jk->...ik", u, vh)


def gauge_free_eigh(v: Any, w: Any) -> Any:
    weights = np.arange(1.0, w.shape[-1] + 1)
    return w, np.einsum("...ij,j,...kj->...ik", v, weights, np.conj(v))


CASES += [
    *[Case("cholesky", [draw], [s], hermitian=True) for draw in (SPD, HPD) for s in [(3, 3), (2, 4, 4), (1, 1), (0, 0)]],
    *[Case("lu", [draw], [s]) for draw in (REGULAR, COMPLEX_REGULAR) for s in [(3, 3), (4, 2), (2, 4), (2, 3, 3)]],
    *[
        Case("qr", [draw], [s], {"full_matrices": full}, label=str(full))
        for draw in (REGULAR, COMPLEX_REGULAR)
        for s, full in [((3, 3), False), ((4, 2), False), ((2, 4), False), ((2, 3, 3), True), ((2, 3), True)]
    ],
    *[
        Case("eigh", [draw], [s], {"lower": True}, hermitian=True, invariant=gauge_free_eigh)
        for draw in (SPD, HPD)
        for s in [(3, 3), (2, 4, 4), (1, 1)]
    ],
    *[
        Case("eig", [draw], [(4, 4)], {"compute_left": left, "compute_right": right}, label=f"{left}{right}")
        for draw in (REAL, COMPLEX)
        for left, right in [(False, False), (False, True), (True, True)]
    ],
    *[
        Case("svd", [draw], [s], {"full_matrices": full, "compute_uv": True}, invariant=gauge_free_svd, label=str(full))
        for draw in (REGULAR, COMPLEX_REGULAR)
        for s, full in [((3, 3), False), ((4, 2), False), ((2, 4), False), ((2, 3, 3), True)]
    ],
    *[Case("svd", [REAL], [s], {"full_matrices": True, "compute_uv": False}, label="values") for s in [(4, 2), (2, 2, 3)]],
    *[
        Case("triangular_solve", [draw, b], [(2, 3, 3), (2, 3, 2) if left else (2, 2, 3)] if batch else [(3, 3), (3, 2) if left else (2, 3)],
             {"left_side": left, "lower": lower, "transpose_a": transpose, "conjugate_a": conjugate, "unit_diagonal": unit}, linear=[(1,)],
             label=f"{left:d}{lower:d}{transpose:d}{conjugate:d}{unit:d}")
        for draw, b in ((REGULAR, REAL), (COMPLEX_REGULAR, COMPLEX))
        for batch in (False, True)
        for left, lower, transpose, conjugate, unit in [
            (True, True, False, False, False), (True, False, True, True, False), (False, True, True, False, True), (False, False, False, False, False),
            (False, True, True, True, False), (True, True, False, False, True),
        ]
    ],
    Case("schur", [REAL], [(3, 3)]),
    *[Case("tridiagonal_solve", [REAL, LARGE, REAL, REAL], [(4,), (4,), (4,), (4, 2)], linear=[(3,)])],
    Case("tridiagonal_solve", [REAL, LARGE, REAL, REAL], [(2, 4), (2, 4), (2, 4), (2, 4, 3)], linear=[(3,)]),
    Case("householder_product", [REAL, UNIT], [(4, 3), (3,)]),
]  # fmt: skip


def case_parameters(cases: Sequence[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[c.id() for c in cases])


# Derivatives


def draw_tangent(rng: Any, x: np.ndarray, hermitian: bool = False) -> np.ndarray:
    t = rng.uniform(-1, 1, x.shape)
    if np.iscomplexobj(x):
        t = t + 1j * rng.uniform(-1, 1, x.shape)
    if hermitian:
        t = t + np.conj(np.swapaxes(t, -1, -2))
    return np.asarray(t, x.dtype)


def tangents_of(case: Case, rng: Any, operands: Sequence[np.ndarray], moving: Sequence[int]) -> list[Any]:
    return [
        draw_tangent(rng, x, case.hermitian and i == 0) if i in moving else Zero(tangent_type(type_of(x)))
        for i, x in enumerate(operands)
    ]


def difference(case: Case, operands: Sequence[np.ndarray], tangents: Sequence[Any], step: float = 1e-6) -> list[np.ndarray]:
    """Central differences of what the case calls smooth, along tangents."""

    def at(sign: int) -> Any:
        moved = [x if is_zero(t) else np.asarray(x + sign * step * t, x.dtype) for x, t in zip(operands, tangents)]
        outs = case.prim.evaluate(*moved, **case.params)
        return case.invariant(*outs) if case.invariant else outs

    with np.errstate(all="ignore"):
        return [
            np.asarray((np.asarray(a) - np.asarray(b)) / (2 * step)) if is_inexact(np.asarray(a).dtype) else np.zeros(np.shape(a))
            for a, b in zip(at(1), at(-1))
        ]


def dense(t: Any) -> np.ndarray:
    return np.zeros(t.type.shape, t.type.dtype if is_inexact(t.type.dtype) else float) if is_zero(t) else np.asarray(t)


def check_jvp(case: Case, moving: Sequence[int]) -> None:
    rng = case.rng()
    operands = case.operands(rng)
    tangents = tangents_of(case, rng, operands, moving)
    outs, dots = case.prim.rule("jvp")(tuple(operands), tuple(tangents), **case.params)
    expected_outs = case.prim.evaluate(*operands, **case.params)
    for a, b, t in zip(outs, expected_outs, dots, strict=True):
        np.testing.assert_allclose(a, b, err_msg="the primal result differs", rtol=1e-12)
        want = tangent_type(ArrayType(b.shape, b.dtype))
        have = t.type if is_zero(t) else type_of(t)
        assert have == want, f"the tangent has the type {have}, the primal's tangent type is {want}"
    expected = difference(case, operands, tangents)
    found = [dense(t) for t in dots]
    if case.invariant is not None:
        # The derivative of what is smooth, by differences of the same function along the tangent that the rule gives.
        step = 1e-6
        up = case.invariant(*[np.asarray(a) + step * t if is_inexact(t.dtype) else a for a, t in zip(outs, found)])
        down = case.invariant(*[np.asarray(a) - step * t if is_inexact(t.dtype) else a for a, t in zip(outs, found)])
        found = [(u - d) / (2 * step) for u, d in zip(up, down)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def inexact_operands(case: Case) -> list[int]:
    operands = case.operands(case.rng())
    return [i for i, x in enumerate(operands) if is_inexact(x.dtype) and i not in case.fixed]


DIFFERENTIABLE = [c for c in CASES if not isinstance(REGISTRY[c.name].rules.get("jvp"), Declined)]


@case_parameters(DIFFERENTIABLE)
def test_jvp_agrees_with_central_differences(case: Case) -> None:
    smooth = inexact_operands(case)
    for moving in [[i] for i in smooth] + ([smooth] if len(smooth) > 1 else []):
        check_jvp(case, moving)


@case_parameters(DIFFERENTIABLE)
def test_jvp_of_no_tangent_is_a_symbolic_zero(case: Case) -> None:
    operands = case.operands(case.rng())
    tangents = tangents_of(case, None, operands, [])
    _, dots = case.prim.rule("jvp")(tuple(operands), tuple(tangents), **case.params)
    assert all(is_zero(t) for t in dots)


# Transposes


def pairing(ct: Any, t: Any) -> float:
    return float(np.real(np.sum(np.asarray(ct) * np.asarray(t))))


@case_parameters([c for c in CASES if c.linear])
def test_transpose_satisfies_the_dot_product_identity(case: Case) -> None:
    rng = case.rng()
    operands = case.operands(rng)
    for group in case.linear:
        tangents = [draw_tangent(rng, x) if i in group else x for i, x in enumerate(operands)]
        (out,) = case.prim.evaluate(*tangents, **case.params)
        ct = draw_tangent(rng, out)
        inputs = [Linear(type_of(x)) if i in group else x for i, x in enumerate(operands)]
        cts = case.prim.rule("transpose")((ct,), inputs, **case.params)
        assert len(cts) == len(operands)
        if case.name != "reduce_precision":
            np.testing.assert_allclose(pairing(ct, out), sum(pairing(cts[i], tangents[i]) for i in group), rtol=1e-9, atol=1e-9)
        for i, x in enumerate(operands):
            if i in group:
                assert type_of(cts[i]) == type_of(x), f"the cotangent of operand {i} has type {type_of(cts[i])}, not {type_of(x)}"
            else:
                assert cts[i] is None or is_zero(cts[i])
        zero = case.prim.rule("transpose")((Zero(type_of(out)),), inputs, **case.params)
        assert all(z is None or is_zero(z) for z in zero)


# Batching


def batch_choices(ranks: Sequence[int]) -> Any:
    """Which operands are batched and where: every place of each alone, and a few mixed choices for several."""
    n = len(ranks)
    for i, rank in enumerate(ranks):
        for d in range(rank + 1):
            yield tuple(d if j == i else None for j in range(n))
    if n > 1:
        yield tuple(0 for _ in ranks)
        yield tuple(ranks)
        yield tuple(rank if j % 2 else 0 for j, rank in enumerate(ranks))
        for i in range(n):
            yield tuple(None if j == i else rank for j, rank in enumerate(ranks))


def check_batch(case: Case, dims: tuple[int | None, ...], size: int) -> None:
    rng = case.rng()
    examples = [case.operands(rng) for _ in range(size)]
    shared = case.operands(rng)
    args = [
        np.stack([e[i] for e in examples], d) if d is not None else shared[i] for i, d in enumerate(dims)
    ]
    outs, out_dims = case.prim.rule("batch")(Axis(size), tuple(args), dims, **case.params)
    expected = []
    for e in examples:
        operands = [x if d is not None else s for x, s, d in zip(e, shared, dims)]
        results = case.prim.evaluate(*operands, **case.params)
        expected.append(results)
    for k, (out, d) in enumerate(zip(outs, out_dims, strict=True)):
        if d is None:
            continue
        stacked = np.stack([r[k] for r in expected], d)
        assert np.asarray(out).dtype == stacked.dtype
        np.testing.assert_allclose(out, stacked, rtol=1e-8, atol=1e-10)


@case_parameters([c for c in CASES if c.batched])
def test_batching_agrees_with_a_loop(case: Case) -> None:
    for dims in batch_choices([len(s) for s in case.shapes]):
        if any(d is not None for d in dims):
            check_batch(case, dims, 3)


@case_parameters([c for c in CASES if c.batched])
def test_a_batch_may_have_one_example_or_none(case: Case) -> None:
    for dims in batch_choices([len(s) for s in case.shapes]):
        if all(d is None for d in dims):
            continue
        check_batch(case, dims, 1)
        operands = case.operands(case.rng())
        args = [x if d is None else np.expand_dims(x, d).take([], d) for x, d in zip(operands, dims)]
        outs, out_dims = case.prim.rule("batch")(Axis(0), tuple(args), dims, **case.params)
        for out, d, one in zip(outs, out_dims, case.prim.evaluate(*operands, **case.params), strict=True):
            assert out.shape == (*one.shape[:d], 0, *one.shape[d:])


# Through the transformations: each rule's linear part can be transposed, differentiated again, and batched.


def bind_case(case: Case) -> Callable[..., Sequence[Any]]:
    return lambda *operands: bind(case.prim, *operands, **case.params)


def reverse(fun: Callable[..., Sequence[Any]], operands: Sequence[Any], moving: Sequence[int], cts: Callable[[Any], Any]) -> Any:
    """Results, cotangents of them as `cts` draws them, and cotangents of the operands that move."""
    linearized = linearize_flat(fun, operands, [i in moving for i in range(len(operands))])
    out_cts = [cts(x) for x in linearized.outs]
    given = [ct for ct, nz in zip(out_cts, linearized.nonzero_out) if nz]
    inputs = list(linearized.residuals)
    inputs += [Linear(v.type) for v in linearized.program.inputs[len(inputs) :]]
    return linearized.outs, out_cts, backward(linearized.program, inputs, given)


@case_parameters(DIFFERENTIABLE)
def test_reverse_mode_agrees_with_forward_mode(case: Case) -> None:
    rng = case.rng()
    operands = case.operands(rng)
    moving = inexact_operands(case)
    if not moving:
        return
    tangents = tangents_of(case, rng, operands, moving)
    _, dots = jvp_flat(bind_case(case), operands, tangents)

    def draw_cotangent(x: Any) -> Any:
        return draw_tangent(rng, np.asarray(x)) if is_inexact(np.asarray(x).dtype) else None

    _, cts, found = reverse(bind_case(case), operands, moving, draw_cotangent)
    forward = sum(pairing(ct, dense(t)) for ct, t in zip(cts, dots) if ct is not None)
    backwards = sum(pairing(dense(ct), tangents[i]) for i, ct in zip(moving, found, strict=True))
    np.testing.assert_allclose(forward, backwards, rtol=1e-7, atol=1e-9)
    for i, ct in zip(moving, found):
        have = ct.type if is_zero(ct) else type_of(ct)
        assert have == type_of(operands[i]), f"the cotangent of operand {i} has type {have}"


# Their second derivatives in the first parameter are declined.
FIRST_ORDER_ONLY = {"igamma", "igammac"}


@case_parameters([c for c in DIFFERENTIABLE if c.name not in FIRST_ORDER_ONLY and c.invariant is None])
def test_second_derivatives_agree_with_differences_of_first_ones(case: Case) -> None:
    rng = case.rng()
    operands = case.operands(rng)
    moving = inexact_operands(case)
    first = tangents_of(case, rng, operands, moving)
    second = tangents_of(case, rng, operands, moving)

    def derivative(*xs: Any) -> list[Any]:
        return [dense(t) if is_zero(t) else t for t in jvp_flat(bind_case(case), xs, first)[1]]

    _, found = jvp_flat(derivative, operands, second)
    step = 1e-5
    ends = [
        derivative(*[x if is_zero(t) else np.asarray(x + sign * step * t) for x, t in zip(operands, second)]) for sign in (1, -1)
    ]
    for t, a, b in zip(found, *ends, strict=True):
        if is_inexact(dense(t).dtype):
            np.testing.assert_allclose(dense(t), (np.asarray(a) - np.asarray(b)) / (2 * step), rtol=1e-4, atol=1e-5)


@case_parameters([c for c in DIFFERENTIABLE if c.name not in ("eig", "svd", "eigh")])
def test_batched_gradients_agree_with_a_loop(case: Case) -> None:
    moving = inexact_operands(case)
    if not moving:
        return
    rng = case.rng()
    examples = [case.operands(rng) for _ in range(2)]
    dims = [0 if i in moving else None for i in range(len(case.shapes))]
    shared = examples[0]
    cts = [draw_tangent(rng, np.asarray(x)) for x in bind_case(case)(*shared)]

    def gradient(*operands: Any) -> list[Any]:
        drawn = iter(cts)
        found = reverse(bind_case(case), operands, moving, lambda x: next(drawn))[2]
        return [dense(ct) if is_zero(ct) else ct for ct in found]

    args = [np.stack([e[i] for e in examples]) if d == 0 else shared[i] for i, d in enumerate(dims)]
    outs, out_dims = batch_flat(gradient, Axis(2), args, dims)
    expected = [gradient(*[e[i] if i in moving else shared[i] for i in range(len(shared))]) for e in examples]
    for k, (out, d) in enumerate(zip(outs, out_dims, strict=True)):
        stacked = np.stack([np.asarray(g[k]) for g in expected], 0 if d is None else d)
        np.testing.assert_allclose(stacked if d is not None else stacked[0], np.asarray(out), rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtypes", [(np.float32, np.complex64), (np.float16, None), (bfloat16, None)], ids=["f32", "f16", "bf16"])
def test_tangents_and_cotangents_keep_narrow_types(dtypes: Any) -> None:
    narrow, narrow_complex = dtypes
    wrong = []
    for case in DIFFERENTIABLE:
        operands = case.operands(case.rng())
        if narrow_complex is None and any(np.iscomplexobj(x) for x in operands) or case.name in ("reduce", "convert_element_type"):
            continue
        operands = [x.astype(narrow_complex if x.dtype.kind == "c" else narrow) if is_inexact(x.dtype) else x for x in operands]
        try:
            case.prim.type_rule(*map(type_of, operands), **case.params)
        except (TypeError, ValueError):
            continue  # the primitive does not take this dtype
        moving = inexact_operands(case)
        tangents = tangents_of(case, case.rng(), operands, moving)
        outs, dots = jvp_flat(bind_case(case), operands, tangents)
        _, _, cts = reverse(bind_case(case), operands, moving, np.ones_like)
        pairs = [*zip(dots, outs), *zip(cts, [operands[i] for i in moving])]
        wrong += [f"{case.id()}: {type_of(x)} and {type_of(v)}" for x, v in pairs if type_of(x) != tangent_type(type_of(v))]
    assert not wrong, "\n".join(wrong)


def test_a_product_with_a_preferred_element_type_has_cotangents_of_its_operands_types() -> None:
    x, y = np.float32([[1.0, 2.0]]), np.float32([[3.0], [4.0]])
    params = {"dimension_numbers": (((1,), (0,)), ((), ())), "preferred_element_type": np.dtype(np.float64)}
    case = Case("dot_general", [], [], params)
    outs, _, (x_bar, y_bar) = reverse(bind_case(case), [x, y], [0, 1], np.ones_like)
    assert outs[0].dtype == np.float64 and x_bar.dtype == y_bar.dtype == np.float32
    np.testing.assert_allclose(x_bar, y.T)
    np.testing.assert_allclose(y_bar, x.T)
    convolution = {**_conv((), ()), "preferred_element_type": np.dtype(np.float64)}
    outs, _, (x_bar, y_bar) = reverse(bind_case(Case("conv_general_dilated", [], [], convolution)), [x, y.T], [0, 1], np.ones_like)
    assert outs[0].dtype == np.float64 and x_bar.dtype == y_bar.dtype == np.float32
    np.testing.assert_allclose(x_bar, y.T)


# Conventions: the values that JAX 0.10.2 gives at kinks, ties and out of bounds.


def partial(name: str, *operands: Any, wrt: int = 0, **params: Any) -> Any:
    """The derivative of a primitive's first result along a tangent of ones in one operand."""
    arrays = [np.asarray(x) for x in operands]
    tangents = [np.ones_like(x) if i == wrt else Zero(tangent_type(type_of(x))) for i, x in enumerate(arrays)]
    _, dots = REGISTRY[name].rule("jvp")(tuple(arrays), tuple(tangents), **params)
    return dense(dots[0])


def jacobian(name: str, *operands: Any, wrt: int = 0, **params: Any) -> np.ndarray:
    arrays = [np.asarray(x) for x in operands]
    columns = []
    for k in range(arrays[wrt].size):
        unit = np.zeros(arrays[wrt].size)
        unit[k] = 1
        tangents = [unit.reshape(x.shape) if i == wrt else Zero(tangent_type(type_of(x))) for i, x in enumerate(arrays)]
        _, dots = REGISTRY[name].rule("jvp")(tuple(arrays), tuple(tangents), **params)
        columns.append(dense(dots[0]).reshape(-1))
    return np.stack(columns, -1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "operands", "wrt", "expected"),
    [
        ("abs", [0.0], 0, 1.0),
        ("abs", [-0.0], 0, 1.0),
        ("abs", [-2.0], 0, -1.0),
        ("abs", [0j], 0, 0.0),
        ("sqrt", [0.0], 0, np.inf),
        ("rsqrt", [0.0], 0, -np.inf),
        ("cbrt", [0.0], 0, np.inf),
        ("log", [0.0], 0, np.inf),
        ("erf_inv", [1.0], 0, np.inf),
        ("tanh", [np.inf], 0, 0.0),
        ("logistic", [-np.inf], 0, 0.0),
        ("bessel_i0e", [0.0], 0, 0.0),
        ("bessel_i1e", [0.0], 0, 0.5),
        ("floor", [1.5], 0, 0.0),
        ("sign", [0.0], 0, 0.0),
        ("max", [1.0, 1.0], 0, 0.5),
        ("max", [1.0, 1.0], 1, 0.5),
        ("max", [np.nan, 1.0], 0, 0.0),
        ("max", [1.0, np.nan], 0, 0.0),
        ("min", [1.0, 1.0], 0, 0.5),
        ("min", [1.0, 2.0], 0, 1.0),
        ("clamp", [0.0, 0.0, 1.0], 1, 0.0),
        ("clamp", [0.0, 1.0, 1.0], 1, 0.0),
        ("clamp", [0.0, 0.0, 1.0], 0, 0.0),
        ("clamp", [0.0, -1.0, 1.0], 0, 1.0),
        ("clamp", [0.0, 2.0, 1.0], 2, 1.0),
        ("atan2", [0.0, 0.0], 0, np.nan),
        ("rem", [-5.5, 2.0], 1, 2.0),
        ("rem", [4.0, 2.0], 1, -2.0),
        ("pow", [0.0, 0.0], 0, np.nan),
        ("pow", [0.0, 1.0], 0, 1.0),
        ("pow", [0.0, 2.0], 0, 0.0),
        ("pow", [0.0, -1.0], 0, -np.inf),
        ("pow", [2.0, 0.0], 0, 0.0),
        ("pow", [0.0, 0.0], 1, 0.0),
        ("pow", [0.0, 2.0], 1, 0.0),
        ("pow", [0.0, -1.0], 1, np.nan),
        ("pow", [-2.0, 2.0], 1, np.nan),
        ("pow", [0.0, np.int32(0)], 0, 0.0),
        ("pow", [0.0, np.int32(1)], 0, 1.0),
        ("pow", [0.0, np.int32(-1)], 0, -np.inf),
        ("div", [1.0, 0.0], 1, -np.inf),
    ],
)
def test_partials_at_kinks(name: str, operands: list[Any], wrt: int, expected: float) -> None:
    np.testing.assert_equal(float(partial(name, *operands, wrt=wrt)), expected)


@pytest.mark.parametrize(("power", "expected"), [(0, 0.0), (1, 1.0), (2, 0.0), (3, 0.0), (-1, -np.inf)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_integer_powers_at_zero(power: int, expected: float) -> None:
    assert float(partial("integer_pow", 0.0, y=power)) == expected


def test_k_elements_that_tie_for_a_maximum_count_one_kth_each() -> None:
    x = np.array([[3.0, 1.0, 3.0, 3.0], [0.0, 2.0, 1.0, 0.0]])
    np.testing.assert_allclose(jacobian("reduce_max", x, axes=(1,))[0, :4], [1 / 3, 0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(jacobian("reduce_min", x, axes=(1,))[1, 4:], [0.5, 0, 0, 0.5])
    np.testing.assert_allclose(jacobian("reduce_max", x, axes=(0, 1))[0], [1 / 3, 0, 1 / 3, 1 / 3, 0, 0, 0, 0])


def test_products_are_differentiated_where_factors_are_zero() -> None:
    np.testing.assert_allclose(jacobian("reduce_prod", np.array([2.0, 0.0, 3.0]), axes=(0,)), [[0, 6, 0]])
    np.testing.assert_allclose(jacobian("reduce_prod", np.array([0.0, 0.0, 3.0]), axes=(0,)), [[0, 0, 0]])
    expected = [[1, 0, 0, 0], [0, 2, 0, 0], [0, 6, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(jacobian("cumprod", np.array([2.0, 0.0, 3.0, 0.0]), axis=0, reverse=False), expected)


def test_cumulative_log_sum_exp_is_differentiated_over_a_wide_range() -> None:
    found = jacobian("cumlogsumexp", np.array([0.0, 1000.0, -np.inf, 3.0]), axis=0, reverse=False)
    np.testing.assert_allclose(found, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])


def test_of_equal_elements_the_latest_carries_a_cumulative_maximum() -> None:
    found = jacobian("cummax", np.array([1.0, 1.0, 0.0]), axis=0, reverse=False)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    found = jacobian("cummin", np.array([2.0, 1.0, 1.0]), axis=0, reverse=True)
    np.testing.assert_allclose(found, [[0, 1, 0], [0, 1, 0], [0, 0, 1]])


def test_a_window_gives_its_derivative_to_the_first_of_equal_elements() -> None:
    x = np.array([1.0, 1.0, 0.0])
    for dilation in (1, 2):  # the general path lays windows out
        found = jacobian("reduce_window", x, **_window("max", (2,), (1,), ((0, 0),), None, (dilation,)))
        expected = [[1, 0, 0], [0, 1, 0]] if dilation == 1 else [[1, 0, 0]]
        np.testing.assert_allclose(found, expected)


def test_equal_elements_keep_their_order_when_sorted() -> None:
    found = jacobian("sort", np.array([1.0, 1.0, 0.0]), dimension=0, is_stable=True, num_keys=1)
    np.testing.assert_allclose(found, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])


def transpose(name: str, ct: Any, *inputs: Any, **params: Any) -> Sequence[Any]:
    cts = REGISTRY[name].rule("transpose")((np.asarray(ct),), inputs, **params)
    return [None if x is None else dense(x) for x in cts]


def test_of_several_updates_of_an_element_the_last_gets_the_cotangent() -> None:
    params = _scatter("set", (), (0,), (0,))
    x, updates = ArrayType((2,), float), ArrayType((2,), float)
    found = transpose("scatter", [1.0, 1.0], Linear(x), np.array([[0], [0]], np.int32), Linear(updates), **params)
    np.testing.assert_allclose(found[0], [0, 1])
    np.testing.assert_allclose(found[2], [0, 1])


def test_updates_and_the_old_element_that_tie_for_a_maximum_share_it() -> None:
    params = _scatter("max", (), (0,), (0,))
    indices = np.array([[0], [0]], np.int32)
    np.testing.assert_allclose(jacobian("scatter", np.ones(2), indices, np.ones(2), **params), [[1 / 3, 0], [0, 1]])
    np.testing.assert_allclose(jacobian("scatter", np.ones(2), indices, np.ones(2), wrt=2, **params), [[1 / 3, 1 / 3], [0, 0]])


def test_factors_that_meet_in_one_element_are_differentiated_also_when_zero() -> None:
    params = _scatter("mul", (), (0,), (0,))
    indices = np.array([[0], [0], [1]], np.int32)
    found = jacobian("scatter", np.array([2.0, 5.0]), indices, np.array([3.0, 0.0, 0.0]), wrt=2, **params)
    np.testing.assert_allclose(found, [[0, 6, 0], [0, 0, 5]])


def test_what_a_gather_fills_in_has_no_derivative() -> None:
    _, _, params = GATHERS[1]
    found = jacobian("gather", np.arange(20.0).reshape(5, 4), np.array([[1], [7], [-1]], np.int32), **params)
    assert found.shape == (12, 20)
    assert found[:4].sum() == 4 and not found[4:].any()


def test_cotangents_of_complex_numbers_are_not_conjugated() -> None:
    z = ArrayType((), complex)
    np.testing.assert_equal(transpose("real", 2.0, Linear(z)), [2.0 + 0j])
    np.testing.assert_equal(transpose("imag", 2.0, Linear(z)), [-2j])
    np.testing.assert_equal(transpose("conj", 2.0 + 1j, Linear(z)), [2.0 - 1j])
    np.testing.assert_equal(transpose("mul", 1j, Linear(z), np.asarray(2 + 1j)), [1j * (2 + 1j), None])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_factors_are_not_unique_tangents_are_not_finite() -> None:
    _, (v_dot, w_dot) = REGISTRY["eigh"].rule("jvp")((np.eye(2),), (np.ones((2, 2)),), lower=True)
    assert np.isnan(v_dot).any()
    np.testing.assert_allclose(w_dot, [1, 1])


@pytest.mark.parametrize(
    ("name", "operands", "params", "message"),
    [
        ("qr", [np.ones((3, 2))], {"full_matrices": True}, "not unique"),
        ("svd", [np.ones((3, 2))], {"full_matrices": True, "compute_uv": True}, "not unique"),
        ("regularized_incomplete_beta", [0.5, 0.5, 0.5], {}, "with respect to x only"),
        ("polygamma", [1.0, 0.5], {}, "whole number"),
    ],
)
def test_derivatives_that_do_not_exist_say_why(name: str, operands: list[Any], params: dict[str, Any], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        partial(name, *operands, **params)


@pytest.mark.parametrize("name", ["nextafter", "schur", "householder_product", "random_gamma_grad"])
def test_declined_rules_give_the_reason(name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        REGISTRY[name].rule("jvp")
    assert len(REGISTRY[name].rules["jvp"].reason) > 20


def test_every_leaf_primitive_has_or_declines_each_rule() -> None:
    holes = [
        f"{prim.name}: {kind}"
        for prim in REGISTRY.values()
        if prim.family not in ("control_flow", "calls")
        for kind in ("jvp", "transpose", "batch")
        if kind not in prim.rules
    ]
    assert not holes, "\n".join(holes)


def test_every_leaf_primitive_has_a_case() -> None:
    covered = {c.name for c in CASES} | {"iota", "key_unwrap"}  # key_unwrap: test_keys_are_batched_as_words
    missing = [p.name for p in REGISTRY.values() if p.family not in ("control_flow", "calls") and p.name not in covered]
    assert not missing


def test_keys_are_batched_as_words() -> None:
    words, _ = trace(lambda keys: batch_flat(lambda k: [ops.key_unwrap(k)], Axis(3), [keys], [1])[0], [ArrayType((2, 3), key_dtype())])
    assert words.out_types == (ArrayType((2, 3, 2), np.uint32),)


def test_a_padding_value_or_predicate_for_each_key_is_batched() -> None:
    keys, pred = ArrayType((2,), key_dtype()), ArrayType((2,), bool)

    def choose(pred: Any, keys: Any, other: Any) -> Any:
        return batch_flat(lambda p, k: [ops.select(p, k, other)], Axis(2), [pred, keys], [0, 0])[0]

    program, _ = trace(choose, [pred, keys, ArrayType((), key_dtype())])
    assert program.out_types == (keys,)


# Leanness


def linear_part(fun: Callable[..., Any], *operands: Any) -> list[str]:
    """The names of the equations of the linear program of a function of arrays that gives one array."""
    program = linearize_flat(lambda *xs: [fun(*xs)], [np.asarray(x) for x in operands], [True] * len(operands)).program
    return [eqn.primitive.name for eqn in program.equations]


X, Y, W = np.linspace(0.1, 0.9, 6).reshape(2, 3), np.linspace(1, 2, 6).reshape(2, 3), np.ones((3, 4))


@pytest.mark.parametrize(
    ("fun", "operands", "expected"),
    [
        (ops.sin, [X], ["mul"]),
        (ops.exp, [X], ["mul"]),
        (ops.tanh, [X], ["mul"]),
        (ops.log, [X], ["div"]),
        (ops.neg, [X], ["neg"]),
        (ops.floor, [X], []),
        (lambda x: ops.add(x, 1.0), [X], []),
        (lambda x: ops.sub(1.0, x), [X], ["neg"]),
        (lambda x: ops.mul(x, 2.0), [X], ["mul"]),
        (lambda x: ops.div(x, 2.0), [X], ["div"]),
        (ops.add, [X, Y], ["add"]),
        (ops.sub, [X, Y], ["sub"]),
        (ops.mul, [X, Y], ["mul", "mul", "add"]),
        (lambda x: ops.mul(x, x), [X], ["mul"]),
        (ops.div, [X, Y], ["div", "mul", "add"]),
        (lambda x: ops.max(x, 0.0), [X], ["mul"]),
        (lambda x: ops.select(ops.gt(x, 0.5), x, 0.0), [X], ["select"]),
        (lambda x: ops.square(x), [X], ["mul"]),
        (lambda x: ops.integer_pow(x, 3), [X], ["mul"]),
        (lambda x: ops.reduce_sum(x, (0, 1)), [X], ["reduce_sum"]),
        (lambda x: ops.reduce_max(x, (1,)), [X], ["mul", "reduce_sum"]),
        (lambda x: ops.reduce_prod(x, (1,)), [X], ["mul", "reduce_sum"]),
        (lambda x: ops.dot_general(x, W, (((1,), (0,)), ((), ()))), [X], ["dot_general"]),
        (lambda x: ops.tanh(ops.dot_general(x, W, (((1,), (0,)), ((), ())))), [X], ["dot_general", "mul"]),
        (lambda x: ops.concatenate([x, Y], 0), [X], ["pad"]),
        (lambda x: ops.convert_element_type(x, np.float64), [X], []),
        (lambda x: ops.dynamic_slice(x, [1, 0], (1, 2)), [X], ["dynamic_slice"]),
        (lambda x: ops.sort(x, dimension=1)[0], [X], ["gather"]),
        (lambda x: ops.top_k(x, 2)[0], [X], ["gather"]),
        (lambda x: ops.cummax(x, 1), [X], ["gather"]),
        (lambda x: ops.cholesky(x), [np.eye(3)], ["triangular_solve", "triangular_solve", "mul", "dot_general"]),
        (lambda x: ops.eigh(x)[1], [np.diag([1.0, 2.0])], ["dot_general", "mul", "reduce_sum"]),
        (lambda x: ops.svd(x, compute_uv=False)[0], [X], ["dot_general", "mul", "reduce_sum"]),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, list) and v and isinstance(v[0], str) else "",
)  # fmt: skip
def test_linear_programs_are_lean(fun: Callable[..., Any], operands: list[Any], expected: list[str]) -> None:
    assert linear_part(fun, *operands) == expected


def test_scalars_stay_scalars(_wide_types_and_numpy: Numpy) -> None:
    x, s = np.ones((2, 3)), np.asarray(2.0)
    t = Zero(type_of(x))
    _, (dot,) = REGISTRY["mul"].rule("jvp")((x, s), (t, np.asarray(1.0)))
    assert _wide_types_and_numpy.applied == ["mul", "mul"]
    assert dot.shape == (2, 3)
    _wide_types_and_numpy.applied.clear()
    (_, ct) = REGISTRY["mul"].rule("transpose")((x,), [x, Linear(type_of(s))])
    assert _wide_types_and_numpy.applied == ["mul", "reduce_sum"] and ct.shape == ()


@pytest.mark.parametrize(
    ("name", "shapes", "numbers", "wrt", "expected"),
    [
        ("x @ y wrt x", [(2, 3), (3, 4)], ((1,), (0,)), 0, ["dot_general"]),
        ("x @ y wrt y", [(2, 3), (3, 4)], ((1,), (0,)), 1, ["dot_general"]),
        ("x @ y.T wrt x", [(2, 3), (4, 3)], ((1,), (1,)), 0, ["dot_general"]),
        ("x @ y.T wrt y", [(2, 3), (4, 3)], ((1,), (1,)), 1, ["dot_general"]),
        ("x.T @ y wrt x", [(3, 2), (3, 4)], ((0,), (0,)), 0, ["dot_general"]),
        ("matrix @ vector wrt matrix", [(2, 3), (3,)], ((1,), (0,)), 0, ["dot_general"]),
    ],
)
def test_cotangents_of_matrix_products_need_no_transposition(
    name: str, shapes: Any, numbers: Any, wrt: int, expected: list[str], _wide_types_and_numpy: Numpy
) -> None:
    operands = [np.ones(s) for s in shapes]
    inputs: list[Any] = [Linear(type_of(x)) if i == wrt else x for i, x in enumerate(operands)]
    params = {"dimension_numbers": (numbers, ((), ())), "preferred_element_type": None}
    (out,) = REGISTRY["dot_general"].evaluate(*operands, **params)
    REGISTRY["dot_general"].rule("transpose")((out,), inputs, **params)
    assert _wide_types_and_numpy.applied == expected
