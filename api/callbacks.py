"""Calling Python functions from compiled programs: `pure_callback` and `io_callback`; `debug.callback` is made of the same parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import dtypes
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.calls import CallbackRef, callback_p, pure_callback_p
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType
from tracegrad.lax.operands import value
from tracegrad.runtime.array import from_numpy
from tracegrad.tracer.pytree import TreeDef, structure_error, tree_flatten

VMAP_METHODS = ("sequential", "sequential_unrolled", "expand_dims", "broadcast_all", "legacy_vectorized")


def _is_value(x: Any) -> bool:
    try:
        type_of(x)
    except TypeError:
        return hasattr(x, "__jax_array__")
    return True


def call(
    name: str,
    primitive: Primitive,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out_types: Sequence[ArrayType],
    out_tree: TreeDef,
    ordered: bool,
    kind: str,
    vmap_method: str | None = "sequential",
) -> Any:
    """Record (or, outside of tracing, make) a call of `function` with concrete arrays in the place of the arrays among its arguments.

    Arguments that are not arrays or numbers go to the function as they are.
    """
    leaves, tree = tree_flatten((args, kwargs))
    dynamic = [i for i, x in enumerate(leaves) if _is_value(x)]
    operands = [value(name, leaves[i], i) for i in dynamic]
    static = {i: x for i, x in enumerate(leaves) if i not in set(dynamic)}

    def flat(*arrays: np.ndarray) -> list[np.ndarray]:
        # A copy where the memory belongs to somebody who may write to it.
        given = {i: from_numpy(x, copy=x.flags.writeable) for i, x in zip(dynamic, arrays)}
        a, k = tree.unflatten([static[i] if i in static else given[i] for i in range(len(leaves))])
        out = function(*a, **k)
        if kind == "debug":
            return []
        results, result_tree = tree_flatten(out)
        if result_tree != out_tree:
            raise ValueError(structure_error("the declared result", out_tree, f"the result of {label}", result_tree))
        return [_result(label, x, t) for x, t in zip(results, out_types)]

    label = getattr(function, "__name__", type(function).__name__)
    ref = CallbackRef(label, flat, vmap_method)
    outs = bind(primitive, *operands, callback=ref, out_types=tuple(out_types), ordered=bool(ordered), kind=kind)
    return out_tree.unflatten(outs)


def _result(label: str, x: Any, t: ArrayType) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype != t.dtype and dtypes.canonicalize_dtype(x.dtype) != t.dtype:
        raise TypeError(f"the callback {label} returned an array of dtype {x.dtype}, declared is {t.dtype}")
    return np.asarray(x, t.dtype, order="C")


def _declared(name: str, result_shape_dtypes: Any) -> tuple[list[ArrayType], TreeDef]:
    leaves, tree = tree_flatten(result_shape_dtypes)
    types = []
    for x in leaves:
        if not (hasattr(x, "shape") and hasattr(x, "dtype")):
            raise TypeError(f"{name}: the result's description must hold objects with a shape and a dtype, got {x!r:.200}")
        types.append(ArrayType(tuple(x.shape), dtypes.canonicalize_dtype(x.dtype)))
    return types, tree


def pure_callback(
    callback: Callable[..., Any],
    result_shape_dtypes: Any,
    *args: Any,
    sharding: Any = None,
    vmap_method: str | None = None,
    **kwargs: Any,
) -> Any:
    """The result of `callback(*args, **kwargs)`, a Python function without side effects, inside of compiled programs too.

    result_shape_dtypes: a pytree of ShapeDtypeStructs (or arrays) that describes the result.
    vmap_method: what vmap does. "sequential": call the function once for each example; "expand_dims": call it once, with a leading axis
        on every argument, of size one where the argument is not batched; "broadcast_all": the same with that axis broadcast. None: vmap
        raises NotImplementedError.
    """
    if vmap_method is not None and vmap_method not in VMAP_METHODS:
        raise ValueError(f"vmap_method must be one of {VMAP_METHODS}, got {vmap_method!r}")
    types, tree = _declared("pure_callback", result_shape_dtypes)
    return call("pure_callback", pure_callback_p, callback, args, kwargs, types, tree, False, "pure", vmap_method)


def io_callback(
    callback: Callable[..., Any], result_shape_dtypes: Any, *args: Any, sharding: Any = None, ordered: bool = False, **kwargs: Any
) -> Any:
    """The result of `callback(*args, **kwargs)`, a Python function with side effects: called exactly once, in the program's order."""
    types, tree = _declared("io_callback", result_shape_dtypes)
    return call("io_callback", callback_p, callback, args, kwargs, types, tree, ordered, "io")
