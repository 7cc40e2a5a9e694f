"""lax's reductions, cumulative functions, sorting and windows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import conversions, elementwise, sorting, windows
from tracegrad.ir import reductions as ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.ir.structural import broadcasted_iota, transpose
from tracegrad.ir.types import ArrayType
from tracegrad.lax.operands import as_dtype, axis_in, value
from tracegrad.tracer.pytree import tree_flatten, tree_unflatten
from tracegrad.tracer.staging import trace


def _axes(name: str, x: Any, axes: Sequence[int]) -> tuple[int, ...]:
    t = type_of(x)
    out = tuple(operator.index(a) for a in axes)
    if any(not 0 <= a < t.ndim for a in out):
        raise ValueError(f"reduction axes {out} contains out-of-bounds indices for {t}.")
    if len(set(out)) != len(out):
        raise ValueError(f"duplicate value in 'axes' of reduction: {out}")
    return tuple(sorted(out))


def _reduction(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
    def function(operand: Any, axes: Sequence[int], *, out_sharding: Any = None) -> Any:
        operand = value(name, operand)
        return op(operand, _axes(name, operand, axes))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} of the operand over these axes (non-negative), which the result lacks."
    return function


reduce_sum = _reduction("reduce_sum", ops.reduce_sum)
reduce_prod = _reduction("reduce_prod", ops.reduce_prod)
reduce_max = _reduction("reduce_max", ops.reduce_max)
reduce_min = _reduction("reduce_min", ops.reduce_min)
reduce_and = _reduction("reduce_and", ops.reduce_and)
reduce_or = _reduction("reduce_or", ops.reduce_or)
reduce_xor = _reduction("reduce_xor", ops.reduce_xor)


def argmax(operand: Any, axis: int, index_dtype: Any) -> Any:
    """The index of the first maximum along an axis; a NaN counts as one."""
    operand = value("argmax", operand)
    return ops.argmax(operand, axis_in(axis, type_of(operand).ndim), as_dtype(index_dtype))


def argmin(operand: Any, axis: int, index_dtype: Any) -> Any:
    """The index of the first minimum along an axis; a NaN counts as one."""
    operand = value("argmin", operand)
    return ops.argmin(operand, axis_in(axis, type_of(operand).ndim), as_dtype(index_dtype))


def _cumulative(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
    def function(operand: Any, axis: int = 0, reverse: bool = False) -> Any:
        operand = value(name, operand)
        if axis < 0:
            raise ValueError("XLA operations do not allow negative axes")
        if axis >= type_of(operand).ndim:
            raise ValueError(f"axis {axis} is out of bounds for array of shape {type_of(operand).shape}")
        return op(operand, axis, reverse)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} along an axis, from its end if `reverse`."
    return function


cumsum = _cumulative("cumsum", ops.cumsum)
cumprod = _cumulative("cumprod", ops.cumprod)
cummax = _cumulative("cummax", ops.cummax)
cummin = _cumulative("cummin", ops.cummin)
cumlogsumexp = _cumulative("cumlogsumexp", ops.cumlogsumexp)


# The monoids that have a primitive of their own.
_MONOIDS: dict[Primitive, str] = {
    elementwise.add_p: "add",
    elementwise.mul_p: "mul",
    elementwise.max_p: "max",
    elementwise.min_p: "min",
    elementwise.and_p: "and",
    elementwise.or_p: "or",
    elementwise.xor_p: "xor",
}
_REDUCE = {
    "add": (ops.reduce_sum, elementwise.add),
    "mul": (ops.reduce_prod, elementwise.mul),
    "max": (ops.reduce_max, elementwise.max),
    "min": (ops.reduce_min, elementwise.min),
    "and": (ops.reduce_and, elementwise.bitwise_and),
    "or": (ops.reduce_or, elementwise.bitwise_or),
    "xor": (ops.reduce_xor, elementwise.bitwise_xor),
}


def _monoid(program: Program) -> str | None:
    """The name of the monoid that a traced function of two scalars applies, if it is one that has a primitive."""
    if len(program.equations) != 1 or len(program.inputs) != 2 or len(program.outputs) != 1:
        return None
    (eqn,) = program.equations
    if program.outputs[0] is not eqn.outputs[0] or set(eqn.inputs) != set(program.inputs):
        return None
    return _MONOIDS.get(eqn.primitive)


def _identity(kind: str, dtype: Any) -> Any:
    """The neutral element of a monoid."""
    if kind in ("add", "or", "xor"):
        return dtype.type(0)
    if kind == "mul":
        return dtype.type(1)
    if kind == "and":
        return np.bool_(True) if dtype.kind == "b" else ~dtype.type(0)
    return ops.least(dtype) if kind == "max" else ops.greatest(dtype)


def _is_identity(init: Any, kind: str, dtype: Any) -> bool:
    """Whether a concrete initial value is the monoid's neutral element. A traced one counts as different."""
    from tracegrad.tracer.tracer import Tracer

    return not isinstance(init, Tracer) and bool(np.asarray(init, dtype) == np.asarray(_identity(kind, dtype), dtype))


def _trace_computation(name: str, computation: Callable[..., Any], scalars: Sequence[ArrayType], tree: Any) -> Program:
    n = len(scalars)

    def flat(*args: Any) -> list[Any]:
        out = computation(tree_unflatten(tree, args[:n]), tree_unflatten(tree, args[n:]))
        leaves, out_tree = tree_flatten(out)
        if out_tree != tree:
            raise TypeError(f"{name}: the computation must return the structure of its operands, {tree}, got {out_tree}")
        return leaves

    program, captured = trace(flat, [*scalars, *scalars], name=getattr(computation, "__name__", name))
    if captured:
        raise NotImplementedError(f"{name}: the computation captures arrays from outside; make them scalars known while tracing")
    return program


def reduce(
    operands: Any, init_values: Any, computation: Callable[[Any, Any], Any], dimensions: Sequence[int], out_sharding: Any = None
) -> Any:
    """Reduce a pytree of arrays of one shape by an associative function of two pytrees of scalars.

    lax.add, max, ... and functions that amount to them become the reductions of their name.
    """
    leaves, tree = tree_flatten(operands)
    xs = [value("reduce", x, i) for i, x in enumerate(leaves)]
    inits = [value("reduce", x, i) for i, x in enumerate(tree_flatten(init_values)[0])]
    if len(xs) != len(inits):
        raise ValueError(f"reduce takes one initial value for each operand, got {len(inits)} for {len(xs)}")
    if not xs:
        raise ValueError("reduce takes at least one operand")
    types = [type_of(x) for x in xs]
    inits = [conversions.convert_element_type(i, t.dtype) if type_of(i).dtype != t.dtype else i for i, t in zip(inits, types)]
    axes = _axes("reduce", xs[0], dimensions)
    program = _trace_computation("reduce", computation, [ArrayType((), t.dtype) for t in types], tree)
    kind = _monoid(program)
    if kind is not None:
        dtype = types[0].dtype
        total = _REDUCE[kind][0](xs[0], axes)
        if not _is_identity(inits[0], kind, dtype):
            total = _REDUCE[kind][1](inits[0], total)
        return tree_unflatten(tree, [total])
    return tree_unflatten(tree, ops.reduce(xs, inits, program, axes))


def sort(operand: Any, dimension: int = -1, is_stable: bool = True, num_keys: int = 1) -> Any:
    """The operand sorted along an axis, NaN last; of a sequence, the first `num_keys` are compared and all rearranged."""
    many = isinstance(operand, (list, tuple))
    xs = [value("sort", x, i) for i, x in enumerate(operand if many else [operand])]
    if not 1 <= num_keys <= len(xs):
        raise ValueError(f"num_keys={num_keys} must be between 1 and the number of operands, {len(xs)}")
    rank = type_of(xs[0]).ndim
    out = sorting.sort(*xs, dimension=axis_in(dimension, rank), is_stable=is_stable, num_keys=num_keys)
    return tuple(out) if many else out[0]


def sort_key_val(keys: Any, values: Any, dimension: int = -1, is_stable: bool = True) -> tuple[Any, Any]:
    """The keys sorted along an axis, and the values rearranged with them."""
    k, v = sort((keys, values), dimension, is_stable, 1)
    return k, v


def top_k(operand: Any, k: int, *, axis: int = -1) -> tuple[Any, Any]:
    """The k largest values along an axis, descending, and their int32 indices."""
    operand = value("top_k", operand)
    rank = type_of(operand).ndim
    axis = axis_in(axis, rank)
    if axis == rank - 1:
        values, indices = sorting.top_k(operand, k)
        return values, indices
    perm = [*(d for d in range(rank) if d != axis), axis]
    values, indices = sorting.top_k(transpose(operand, perm), k)
    back = np.argsort(perm).tolist()
    return transpose(values, back), transpose(indices, back)


def approx_max_k(
    operand: Any,
    k: int,
    reduction_dimension: int = -1,
    recall_target: float = 0.95,
    reduction_input_size_override: int = -1,
    aggregate_to_topk: bool = True,
) -> tuple[Any, Any]:
    """The k largest values along an axis and their indices; exact here, whatever the recall target."""
    return top_k(operand, k, axis=reduction_dimension)


def approx_min_k(
    operand: Any,
    k: int,
    reduction_dimension: int = -1,
    recall_target: float = 0.95,
    reduction_input_size_override: int = -1,
    aggregate_to_topk: bool = True,
) -> tuple[Any, Any]:
    """The k smallest values along an axis and their indices; exact here, whatever the recall target."""
    operand = value("approx_min_k", operand)
    t = type_of(operand)
    axis = axis_in(reduction_dimension, t.ndim)
    index = broadcasted_iota(np.dtype(np.int32), t.shape, axis)
    values, indices = sort((operand, index), axis)
    from tracegrad.lax.structural import slice_in_dim

    return slice_in_dim(values, 0, k, 1, axis), slice_in_dim(indices, 0, k, 1, axis)


def padtype_to_pads(
    in_shape: Sequence[int], window_shape: Sequence[int], window_strides: Sequence[int], padding: Any
) -> list[tuple[int, int]]:
    """ "SAME", "SAME_LOWER" or "VALID" as explicit padding: per dimension (low, high)."""
    if not isinstance(padding, str):
        raise TypeError(f"padding must be a string or a sequence of pairs, got {padding!r}")
    mode = padding.upper()
    if mode == "VALID":
        return [(0, 0)] * len(in_shape)
    if mode not in ("SAME", "SAME_LOWER"):
        raise RuntimeError(f"Unrecognized padding type: expected 'VALID', 'SAME' or 'SAME_LOWER', got {padding!r}.")
    pads = []
    for n, window, stride in zip(in_shape, window_shape, window_strides):
        out = -(-n // stride)
        total = max(0, (out - 1) * stride + window - n)
        low = total // 2
        pads.append((low, total - low) if mode == "SAME" else (total - low, low))
    return pads


def dilate(size: int, dilation: int) -> int:
    """The extent of `size` elements with gaps of `dilation - 1` between them."""
    return 0 if size == 0 else 1 + (size - 1) * dilation


def reduce_window(
    operand: Any,
    init_value: Any,
    computation: Callable[..., Any],
    window_dimensions: Sequence[int],
    window_strides: Sequence[int] | None = None,
    padding: Any = "VALID",
    base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
) -> Any:
    """Combine the elements of every window by lax.add, mul, max or min, or a function that amounts to one of them."""
    leaves, tree = tree_flatten(operand)
    xs = [value("reduce_window", x, i) for i, x in enumerate(leaves)]
    inits = [value("reduce_window", x, i) for i, x in enumerate(tree_flatten(init_value)[0])]
    types = [type_of(x) for x in xs]
    rank = types[0].ndim
    window = tuple(map(operator.index, window_dimensions))
    if len(window) != rank:
        raise ValueError(f"reduce_window: window_dimensions {window} must have an entry for each axis of {types[0]}")
    strides = (1,) * rank if window_strides is None else tuple(map(operator.index, window_strides))
    base = (1,) * rank if base_dilation is None else tuple(map(operator.index, base_dilation))
    spread = (1,) * rank if window_dilation is None else tuple(map(operator.index, window_dilation))
    if isinstance(padding, str):
        extent = [dilate(n, d) for n, d in zip(types[0].shape, base)]
        padding = padtype_to_pads(extent, [dilate(n, d) for n, d in zip(window, spread)], strides, padding)
    pads = tuple((operator.index(lo), operator.index(hi)) for lo, hi in padding)
    program = _trace_computation("reduce_window", computation, [ArrayType((), t.dtype) for t in types], tree)
    kind = _monoid(program)
    if kind in ("and", "or") and types[0].dtype == np.bool_:
        counted = reduce_window(conversions.convert_element_type(xs[0], np.dtype(np.int32)), 1 if kind == "and" else 0,
                                _min_or_max(kind), window, strides, pads, base, spread)  # fmt: skip
        return tree_unflatten(tree, [elementwise.ne(counted, 0)])
    if kind not in ("add", "mul", "max", "min") or len(xs) != 1:
        raise NotImplementedError(
            "reduce_window: the computation must amount to add, mul, max or min of one array; it does\n" + str(program)
        )
    dtype = types[0].dtype
    init = inits[0]
    if type_of(init).dtype != dtype:
        init = conversions.convert_element_type(init, dtype)
    out = windows.reduce_window(xs[0], kind, window, strides, pads, base, spread)
    if not _is_identity(init, kind, dtype):
        out = _REDUCE[kind][1](out, init)
    return tree_unflatten(tree, [out])


def _min_or_max(kind: str) -> Callable[[Any, Any], Any]:
    return elementwise.min if kind == "and" else elementwise.max


def reduce_window_shape_tuple(
    operand_shape: Sequence[int],
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """The shape of reduce_window's result."""
    rank = len(operand_shape)
    out = []
    for n, w, s, (lo, hi), b, d in zip(
        operand_shape, window_dimensions, window_strides, padding, base_dilation or (1,) * rank, window_dilation or (1,) * rank
    ):
        out.append(max(0, (dilate(n, b) + lo + hi - dilate(w, d)) // s + 1))
    return tuple(out)


__all__ = [
    "approx_max_k", "approx_min_k", "argmax", "argmin", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "padtype_to_pads",
    "reduce", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum", "reduce_window",
    "reduce_window_shape_tuple", "reduce_xor", "sort", "sort_key_val", "top_k",
]  # fmt: skip
