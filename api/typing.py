"""Types for annotations, under the names of `jax.typing`."""

from __future__ import annotations

from typing import Any, Union

import numpy as np

from tracegrad.ir.array import Array

ArrayLike = Union[Array, np.ndarray, np.bool_, np.number, bool, int, float, complex]  # noqa: UP007
"""What functions of arrays take."""

DTypeLike = Union[str, type[Any], np.dtype, Any]  # noqa: UP007
"""What names a dtype."""
