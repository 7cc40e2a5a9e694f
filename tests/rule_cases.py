"""How to try each leaf primitive: what its operands are drawn from, their shapes, its parameters, and in which operands it is linear.

`test_transform_rules.py` holds every rule against these; a new primitive needs a `Case` here and nothing else.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.types import ArrayType
from tracegrad.tracer.staging import trace


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


def SORTED(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.sort(rng.uniform(-2.0, 2.0, shape))


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
    *[Case("igamma_grad_a", [POSITIVE, POSITIVE], s) for s in ([(3,), (3,)], [(3,), ()])],
    *binary("zeta", LARGE, POSITIVE),
    Case("polygamma", [EXACTLY([0.0, 1.0, 3.0]), POSITIVE], [(3,), (3,)], fixed=(0,)),
    Case("regularized_incomplete_beta", [POSITIVE, POSITIVE, uniform(0.1, 0.9)], [(4,), (4,), (4,)]),
    Case("regularized_incomplete_beta", [POSITIVE, POSITIVE, uniform(0.1, 0.9)], [(), (), (4,)]),
    Case("random_gamma_grad", [POSITIVE, POSITIVE], [(4,), (4,)]),
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


def window(kind: str, dims: Any, strides: Any, padding: Any, base: Any = None, dilation: Any = None) -> dict[str, Any]:
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


def dot(lc: Any, rc: Any, lb: Any = (), rb: Any = (), preferred: Any = None) -> dict[str, Any]:
    return {"dimension_numbers": ((lc, rc), (lb, rb)), "preferred_element_type": preferred}


def conv(
    strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    specs: Any = None,
    features: int = 1,
    batches: int = 1,
) -> dict[str, Any]:
    n = len(strides)
    plain = tuple(range(n + 2))
    return {
        "window_strides": strides, "padding": padding, "lhs_dilation": lhs_dilation or (1,) * n, "rhs_dilation": rhs_dilation or (1,) * n,
        "dimension_numbers": specs or (plain, plain, plain), "feature_group_count": features, "batch_group_count": batches,
        "preferred_element_type": None,
    }  # fmt: skip


NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def gather(
    offset: Any, collapsed: Any, index_map: Any, sizes: Any, ob: Any = (), ib: Any = (), mode: str = "fill"
) -> dict[str, Any]:
    return {"offset_dims": offset, "collapsed_slice_dims": collapsed, "operand_batching_dims": ob, "start_indices_batching_dims": ib,
            "start_index_map": index_map, "slice_sizes": sizes, "mode": mode, "fill_value": None}  # fmt: skip


GATHERS = [  # operand, indices, parameters
    ((5,), (3, 1), gather((), (0,), (0,), (1,), mode="clip")),
    ((5, 4), (3, 1), gather((1,), (0,), (0,), (1, 4))),
    ((5, 4), (2, 3, 1), gather((0,), (1,), (1,), (5, 1), mode="clip")),
    ((5, 4), (2, 2), gather((1, 2), (), (1, 0), (2, 3))),
    ((5, 4), (2,), gather((0, 1), (), (0, 1), (2, 2), mode="clip")),
    ((3, 4), (3, 2, 1), gather((), (1,), (1,), (1, 1), (0,), (0,))),
    ((4, 3, 2), (2, 3, 1), gather((1,), (0,), (0,), (1, 1, 2), (1,), (1,), "clip")),
]


def scatter(
    kind: str, update: Any, inserted: Any, dims: Any, ob: Any = (), ib: Any = (), mode: str = "drop", unique: bool = False
) -> dict[str, Any]:
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
        Case("reduce_window", [DISTINCT if kind in ("max", "min") else REAL], [shape], window(kind, *w), linear=[(0,)] if kind == "add" else (),
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
        Case("dot_general", [draw, draw], shapes, dot(*numbers), linear=[(0,), (1,)])
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
        Case("conv_general_dilated", [REAL, REAL], shapes, conv(**p), linear=[(0,), (1,)], label=str(i))
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
        Case("scatter", [REAL, INTS(-1, 5), REAL], [x, indices, updates], scatter(kind, *p, mode=mode),
             linear={"add": [(0, 2)], "set": [(0, 2)], "mul": [(0,)]}.get(kind, ()), label=f"{kind}{i}{mode}")
        for i, (x, indices, updates, p) in enumerate(SCATTERS)
        for kind in ("set", "add", "mul", "min", "max")
        for mode in ("drop", "clip")
    ],
    *[
        Case("scatter", [REAL, lambda rng, shape: np.array([[3], [0], [7]], np.int32), REAL], [(5, 4), (3, 1), (3, 4)],
             scatter(kind, (1,), (0,), (0,), unique=True), linear={"add": [(0, 2)], "set": [(0, 2)]}.get(kind, ()), label=f"{kind}unique")
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
    *[
        Case("searchsorted", [SORTED, REAL], shapes, {"side": side}, label=side)
        for shapes, side in [([(5,), (3,)], "left"), ([(4,), (2, 3)], "right"), ([(2, 4), (2, 3)], "left"), ([(5,), ()], "right")]
    ],
    *[Case("nonzero", [BOOLEAN], [s], {"size": k}) for s, k in [((9,), 4), ((2, 70), 80)]],
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


def body(fun: Callable[..., Any], n: int) -> Any:
    program, captured = trace(fun, [ArrayType((), float)] * (2 * n))
    assert not captured
    return program


CASES += [
    *[
        Case("reduce", [REAL, EXACTLY(1.5)], [s, ()], {"body": body(lambda a, x: [ops.mul(ops.cos(a), x)], 1), "axes": axes}, fixed=(0, 1))
        for s, axes in [((1, 3), (0,)), ((0, 3), (0,)), ((1, 2, 1), (0, 2))]
    ],
    *[
        Case("reduce", [POSITIVE, EXACTLY(1.0)], [s, ()], {"body": body(lambda a, x: [ops.mul(a, x)], 1), "axes": axes}, label=str(axes))
        for s, axes in [((5, 3), (0,)), ((3, 4), (0, 1)), ((0, 3), (0,)), ((2, 3, 2), (0, 2))]
    ],
    # A product and a sum of dual numbers: two results that depend on each other.
    Case("reduce", [POSITIVE, REAL, EXACTLY(1.0), EXACTLY(0.0)], [(5, 2), (5, 2), (), ()],
         {"body": body(lambda a, b, x, y: [ops.mul(a, x), ops.add(ops.mul(a, y), ops.mul(b, x))], 2), "axes": (0,)}),
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
