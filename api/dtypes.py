"""dtypes and their kinds, under the names of `jax.dtypes`."""

from __future__ import annotations

from typing import Any

import tracegrad.numpy as jnp
from tracegrad.ir import dtypes as _dtypes
from tracegrad.ir.dtypes import TypePromotionError as TypePromotionError
from tracegrad.ir.types import bfloat16 as bfloat16
from tracegrad.ir.types import float0 as float0
from tracegrad.ir.types import is_key
from tracegrad.numpy.dtype_objects import extended as extended
from tracegrad.numpy.dtype_objects import prng_key as prng_key

finfo = jnp.finfo
iinfo = jnp.iinfo
issubdtype = jnp.issubdtype
result_type = jnp.result_type


def canonicalize_dtype(dtype: Any, allow_extended_dtype: bool = False) -> Any:
    """The dtype that a request for `dtype` gives: 64-bit ones only if they are enabled."""
    if is_key(dtype) and not allow_extended_dtype:
        raise ValueError(f"Internal: canonicalize_dtype called on extended dtype {dtype}")
    return _dtypes.canonicalize_dtype(dtype)


def scalar_type_of(x: Any) -> type:
    """The Python type of the numbers in x: bool, int, float or complex."""
    kind = _dtypes.to_dtype(getattr(x, "dtype", type(x))).kind
    return {"b": bool, "i": int, "u": int, "c": complex}.get(kind, float)
