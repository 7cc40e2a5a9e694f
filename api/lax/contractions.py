"""lax's products and convolutions."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir import contractions as ops
from tracegrad.ir import conversions
from tracegrad.ir.bind import type_of
from tracegrad.ir.dtypes import promote
from tracegrad.ir.structural import rev, transpose
from tracegrad.lax.operands import as_dtype, value
from tracegrad.lax.reductions import dilate, padtype_to_pads


class Precision(Enum):
    """How exactly a product is computed. Accepted for compatibility: products have the full precision of their dtype."""

    DEFAULT = 0
    HIGH = 1
    HIGHEST = 2

    @classmethod
    def _missing_(cls, value: object) -> Precision | None:
        names = {
            None: cls.DEFAULT, "default": cls.DEFAULT, "fastest": cls.DEFAULT, "bfloat16": cls.DEFAULT, "high": cls.HIGH,
            "bfloat16_3x": cls.HIGH, "tensorfloat32": cls.HIGH, "highest": cls.HIGHEST, "float32": cls.HIGHEST,
        }  # fmt: skip
        return names.get(value) if value is None or isinstance(value, str) else None

    def __repr__(self) -> str:
        return f"Precision.{self.name}"

    def __str__(self) -> str:
        return self.name


PrecisionLike = Any
DotDimensionNumbers = Any


def _check_precision(precision: Any) -> None:
    """Raise ValueError for what is not a precision, a name of one, or a pair of them."""
    for p in precision if isinstance(precision, (tuple, list)) else (precision,):
        if p is not None and not isinstance(p, Precision):
            Precision(p)


def _promoted(name: str, lhs: Any, rhs: Any) -> tuple[Any, Any]:
    lhs, rhs = value(name, lhs), value(name, rhs, 1)
    a, b = type_of(lhs), type_of(rhs)
    if a.dtype != b.dtype:
        dtype, _ = promote(a, b)
        lhs = lhs if a.dtype == dtype else conversions.convert_element_type(lhs, dtype)
        rhs = rhs if b.dtype == dtype else conversions.convert_element_type(rhs, dtype)
    return lhs, rhs


def dot_general(
    lhs: Any,
    rhs: Any,
    dimension_numbers: Any,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    *,
    out_sharding: Any = None,
) -> Any:
    """The product that sums over contracting dimensions: `((lhs contracting, rhs contracting), (lhs batch, rhs batch))`.

    The result's dimensions are the batch ones, the rest of lhs, the rest of rhs.
    """
    _check_precision(precision)
    lhs, rhs = _promoted("dot_general", lhs, rhs)
    (lc, rc), (lb, rb) = dimension_numbers
    nl, nr = type_of(lhs).ndim, type_of(rhs).ndim
    numbers = (
        ([d + nl if d < 0 else d for d in lc], [d + nr if d < 0 else d for d in rc]),
        ([d + nl if d < 0 else d for d in lb], [d + nr if d < 0 else d for d in rb]),
    )
    preferred = None if preferred_element_type is None else as_dtype(preferred_element_type)
    return ops.dot_general(lhs, rhs, numbers, preferred)


def dot(
    lhs: Any,
    rhs: Any,
    *args: Any,
    dimension_numbers: Any = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Any:
    """The product of vectors and matrices, contracting lhs's last and rhs's first dimension unless told otherwise."""
    if args:
        precision, preferred_element_type = (*args, precision, preferred_element_type)[:2]
    if dimension_numbers is None:
        a, b = type_of(value("dot", lhs)), type_of(value("dot", rhs, 1))
        if not (1 <= a.ndim <= 2 and 1 <= b.ndim <= 2 and a.shape[-1] == b.shape[0]):
            raise TypeError(f"Incompatible shapes for dot: got {a.shape} and {b.shape}.")
        dimension_numbers = (((a.ndim - 1,), (0,)), ((), ()))
    return dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type)


def batch_matmul(lhs: Any, rhs: Any, precision: PrecisionLike = None) -> Any:
    """Matrix products over equal leading dimensions."""
    a, b = type_of(value("batch_matmul", lhs)), type_of(value("batch_matmul", rhs, 1))
    if min(a.ndim, b.ndim) < 2:
        raise ValueError(f"Arguments to batch_matmul must be at least 2D, got {a.ndim}, {b.ndim}")
    if a.ndim != b.ndim:
        raise ValueError(f"Arguments to batch_matmul must have same ndim, got {a.ndim}, {b.ndim}")
    batch = tuple(range(a.ndim - 2))
    return dot_general(lhs, rhs, (((a.ndim - 1,), (a.ndim - 2,)), (batch, batch)), precision)


class ConvDimensionNumbers(NamedTuple):
    """Where the dimensions of a convolution are: input and result (batch, features, spatial...), filter (out, in, spatial...)."""

    lhs_spec: Sequence[int]
    rhs_spec: Sequence[int]
    out_spec: Sequence[int]


ConvGeneralDilatedDimensionNumbers = Any


def conv_dimension_numbers(lhs_shape: Sequence[int], rhs_shape: Sequence[int], dimension_numbers: Any) -> ConvDimensionNumbers:
    """Dimension numbers from strings such as ("NHWC", "HWIO", "NHWC"); None means ("NCHW", "OIHW", "NCHW")."""
    if isinstance(dimension_numbers, ConvDimensionNumbers):
        return dimension_numbers
    if len(lhs_shape) != len(rhs_shape):
        raise TypeError(f"convolution requires lhs and rhs ndim to be equal, got {len(lhs_shape)} and {len(rhs_shape)}.")
    rank = len(lhs_shape)
    if dimension_numbers is None:
        return ConvDimensionNumbers(tuple(range(rank)), tuple(range(rank)), tuple(range(rank)))
    if not isinstance(dimension_numbers, (list, tuple)) or len(dimension_numbers) != 3:
        raise TypeError(
            f"convolution dimension_numbers must be a tuple/list of length 3 or ConvDimensionNumbers, got {dimension_numbers!r}"
        )
    if not all(isinstance(s, str) for s in dimension_numbers):
        return ConvDimensionNumbers(*[tuple(map(operator.index, s)) for s in dimension_numbers])
    for spec in dimension_numbers:
        if len(spec) != rank:
            raise TypeError(f"convolution dimension_numbers {spec!r} must have one letter for each of the {rank} dimensions")
    return ConvDimensionNumbers(*conv_general_permutations(dimension_numbers))


def conv_general_permutations(dimension_numbers: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The dimensions, in canonical order, of three strings of letters: N (batch), C (features) or O, I, and spatial letters."""
    lhs, rhs, out = dimension_numbers
    for name, spec, fixed in (("lhs", lhs, "NC"), ("rhs", rhs, "OI"), ("out", out, "NC")):
        if any(spec.count(letter) != 1 for letter in fixed) or len(set(spec)) != len(spec):
            raise TypeError(
                f"convolution dimension_numbers: the {name} spec {spec!r} must have each of {fixed[0]}, {fixed[1]} and spatial letters once"
            )
    spatial = [letter for letter in rhs if letter not in "OI"]
    for name, spec in (("lhs", lhs), ("out", out)):
        if set(spec) - {"N", "C"} != set(spatial):
            raise TypeError(f"convolution dimension_numbers: the spatial letters of {name} {spec!r} are not those of rhs {rhs!r}")
    return tuple(  # type: ignore[return-value]
        tuple(spec.index(letter) for letter in (*fixed, *spatial)) for spec, fixed in ((lhs, "NC"), (rhs, "OI"), (out, "NC"))
    )


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
) -> Any:
    """Correlate `lhs` with the filter `rhs`; padding is "SAME", "SAME_LOWER", "VALID" or pairs (low, high)."""
    _check_precision(precision)
    lhs, rhs = value("conv_general_dilated", lhs), value("conv_general_dilated", rhs, 1)
    a, b = type_of(lhs), type_of(rhs)
    if a.dtype != b.dtype:
        raise TypeError(
            f"lax.conv_general_dilated requires arguments to have the same dtypes, got {a.dtype}, {b.dtype}; convert one of them first"
        )
    numbers = conv_dimension_numbers(a.shape, b.shape, dimension_numbers)
    spatial = a.ndim - 2
    lhs_dilation = (1,) * spatial if lhs_dilation is None else tuple(lhs_dilation)
    rhs_dilation = (1,) * spatial if rhs_dilation is None else tuple(rhs_dilation)
    if isinstance(padding, str):
        extent = [dilate(a.shape[d], k) for d, k in zip(numbers.lhs_spec[2:], lhs_dilation)]
        window = [dilate(b.shape[d], k) for d, k in zip(numbers.rhs_spec[2:], rhs_dilation)]
        padding = padtype_to_pads(extent, window, window_strides, padding)
    preferred = None if preferred_element_type is None else as_dtype(preferred_element_type)
    return ops.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        tuple(numbers),
        feature_group_count,
        batch_group_count,
        preferred,
    )


def conv(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: str,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
) -> Any:
    """Convolution of NCHW inputs with OIHW filters."""
    return conv_general_dilated(
        lhs, rhs, window_strides, padding, precision=precision, preferred_element_type=preferred_element_type
    )


def conv_with_general_padding(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
) -> Any:
    """`conv` with explicit padding and dilations."""
    return conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _conv_transpose_padding(k: int, s: int, padding: str) -> tuple[int, int]:
    """Padding of the dilated input for which a strided convolution of the result would have had the given padding."""
    if padding == "SAME":
        total = k + s - 2
        low = k - 1 if s > k - 1 else -(-total // 2)
    elif padding == "VALID":
        total = k + s - 2 + max(k - s, 0)
        low = k - 1
    else:
        raise ValueError(f"Padding mode must be `SAME` or `VALID`, got {padding!r}.")
    return low, total - low


def conv_transpose(
    lhs: Any,
    rhs: Any,
    strides: Sequence[int],
    padding: Any,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    transpose_kernel: bool = False,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    use_consistent_padding: bool = False,
) -> Any:
    """The "fractionally strided" convolution, whose result is `strides` times as large; NHWC inputs and HWIO filters by default.

    `transpose_kernel` flips the filter and swaps its features: then this is the gradient of conv_general_dilated. With explicit
    pairs as padding, they are those of the dilated input, or, with `use_consistent_padding`, of the forward convolution.
    """
    lhs, rhs = value("conv_transpose", lhs), value("conv_transpose", rhs, 1)
    a, b = type_of(lhs), type_of(rhs)
    spatial = a.ndim - 2
    if dimension_numbers is None:
        letters = "DHW"[3 - spatial :] if 1 <= spatial <= 3 else None
        if letters is None:
            raise ValueError("No 4+ dimensional dimension_number defaults.")
        dimension_numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    numbers = conv_dimension_numbers(a.shape, b.shape, dimension_numbers)
    kernel = [b.shape[d] for d in numbers.rhs_spec[2:]]
    rhs_dilation = (1,) * spatial if rhs_dilation is None else tuple(rhs_dilation)
    effective = [dilate(k, r) for k, r in zip(kernel, rhs_dilation)]
    if isinstance(padding, str):
        pads = [_conv_transpose_padding(k, s, padding.upper()) for k, s in zip(effective, strides)]
    elif use_consistent_padding:
        pads = [(k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(effective, padding)]
    else:
        pads = [(lo, hi) for lo, hi in padding]
    if transpose_kernel:
        rhs = rev(rhs, tuple(numbers.rhs_spec[2:]))
        perm = list(range(b.ndim))
        o, i = numbers.rhs_spec[:2]
        perm[o], perm[i] = i, o
        rhs = transpose(rhs, perm)
    return conv_general_dilated(
        lhs,
        rhs,
        (1,) * spatial,
        pads,
        strides,
        rhs_dilation,
        numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def conv_general_dilated_patches(
    lhs: Any,
    filter_shape: Sequence[int],
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
) -> Any:
    """The windows that a convolution would see, flattened into the feature dimension (features outermost)."""
    lhs = value("conv_general_dilated_patches", lhs)
    t = type_of(lhs)
    shape = tuple(filter_shape)
    numbers = conv_dimension_numbers(t.shape, (1, 1, *shape), dimension_numbers)
    n = int(np.prod(shape))
    channels = t.shape[numbers.lhs_spec[1]]
    # One-hot filters, the same for each channel: feature groups of size one pick out one element of the window each.
    eye = np.tile(np.eye(n, dtype=t.dtype).reshape(n, 1, *shape), (channels, 1, *[1] * len(shape)))
    order = [0] * eye.ndim
    for position, dim in enumerate(numbers.rhs_spec):
        order[dim] = position
    return conv_general_dilated(
        lhs, eye.transpose(order), window_strides, padding, lhs_dilation, rhs_dilation, numbers, channels,
        precision=precision, preferred_element_type=preferred_element_type,
    )  # fmt: skip


def conv_shape_tuple(
    lhs_shape: Sequence[int], rhs_shape: Sequence[int], strides: Sequence[int], pads: Any, batch_group_count: int = 1
) -> tuple[int, ...]:
    """The shape of the convolution of an NCHW input with an OIHW filter."""
    if isinstance(pads, str):
        pads = padtype_to_pads(lhs_shape[2:], rhs_shape[2:], strides, pads)
    spatial = [
        max(0, (n + lo + hi - k) // s + 1) for n, k, s, (lo, hi) in zip(lhs_shape[2:], rhs_shape[2:], strides, pads, strict=True)
    ]
    return (lhs_shape[0] // batch_group_count, rhs_shape[0], *spatial)


def conv_general_shape_tuple(
    lhs_shape: Sequence[int], rhs_shape: Sequence[int], window_strides: Sequence[int], padding: Any, dimension_numbers: Any
) -> tuple[int, ...]:
    """The shape of a convolution with these dimension numbers."""
    numbers = conv_dimension_numbers(lhs_shape, rhs_shape, dimension_numbers)
    canonical = conv_shape_tuple(
        [lhs_shape[d] for d in numbers.lhs_spec], [rhs_shape[d] for d in numbers.rhs_spec], window_strides, padding
    )
    out = [0] * len(canonical)
    for position, dim in enumerate(numbers.out_spec):
        out[dim] = canonical[position]
    return tuple(out)


__all__ = [
    "ConvDimensionNumbers", "ConvGeneralDilatedDimensionNumbers", "DotDimensionNumbers", "Precision", "PrecisionLike", "batch_matmul",
    "conv", "conv_dimension_numbers", "conv_general_dilated", "conv_general_dilated_patches", "conv_general_permutations",
    "conv_general_shape_tuple", "conv_shape_tuple", "conv_transpose", "conv_with_general_padding", "dot", "dot_general",
]  # fmt: skip
