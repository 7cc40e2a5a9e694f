"""Reductions by segments, under the names of `jax.ops`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.reductions import greatest, least
from tracegrad.lax.indexing import GatherScatterMode
from tracegrad.numpy.promotion import as_array


def _segments(name: str, kind: str, identity: Callable[[Any], Any]) -> Callable[..., Any]:
    def function(
        data: Any,
        segment_ids: Any,
        num_segments: int | None = None,
        indices_are_sorted: bool = False,
        unique_indices: bool = False,
        bucket_size: int | None = None,
        mode: Any = None,
        out_sharding: Any = None,
    ) -> Any:
        data, ids = as_array(name, data), as_array(name, segment_ids, 1)
        t, i = type_of(data), type_of(ids)
        if t.shape[: i.ndim] != i.shape:
            raise ValueError(f"{name}: the shape {i.shape} of segment_ids must be a prefix of the shape {t.shape} of data")
        if num_segments is None:
            num_segments = int(jnp.max(ids)) + 1 if i.size else 0
        n = operator.index(num_segments)
        if n < 0:
            raise ValueError("num_segments must be non-negative.")
        dtype = t.dtype
        if dtype.kind == "b" and kind in ("add", "mul"):
            dtype = dtypes.int_dtype()
            data = ops.convert_element_type(data, dtype)
        rest = t.shape[i.ndim :]
        start = ops.broadcast_in_dim(np.asarray(identity(dtype)).astype(dtype)[()], (n, *rest), ())
        parsed = GatherScatterMode.from_any(mode)
        scatter_mode = {GatherScatterMode.CLIP: "clip", GatherScatterMode.PROMISE_IN_BOUNDS: "promise_in_bounds"}.get(
            parsed, "drop"
        )
        return ops.scatter(
            start,
            ops.reshape(ids, (*i.shape, 1)),
            data,
            kind=kind,
            update_window_dims=tuple(range(i.ndim, t.ndim)),
            inserted_window_dims=(0,),
            scatter_dims_to_operand_dims=(0,),
            mode=scatter_mode,
            unique_indices=unique_indices,
        )

    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"Combine the elements of data by {kind!r} within segments: element i belongs to segment segment_ids[i]; those of ids out of range "
        "(negative ones, too) are left out."
    )
    return function


segment_sum = _segments("segment_sum", "add", lambda d: 0)
segment_prod = _segments("segment_prod", "mul", lambda d: 1)
segment_max = _segments("segment_max", "max", least)
segment_min = _segments("segment_min", "min", greatest)
