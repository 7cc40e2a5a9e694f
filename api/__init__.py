"""tracegrad: compile, differentiate and vectorize Python functions of arrays; read every stage of what the compiler does.

    import tracegrad
    import tracegrad.numpy as np

The names here are those of `jax`. Larger parts are modules of their own (`tracegrad.numpy`, `lax`, `nn`, `random`, `scipy`, `tree`,
`debug`, ...), imported when they are first used.
"""

# ruff: noqa: F401
from __future__ import annotations

import importlib
from typing import Any

from tracegrad import numpy, tree, tree_util
from tracegrad.callbacks import io_callback as io_callback
from tracegrad.callbacks import pure_callback
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of as typeof
from tracegrad.ir.config import config
from tracegrad.ir.types import float0
from tracegrad.placement import (
    block_until_ready,
    copy_to_host_async,
    default_backend,
    default_device,
    device_count,
    device_get,
    device_put,
    devices,
    effects_barrier,
    live_arrays,
    local_device_count,
    local_devices,
    process_count,
    process_index,
    process_indices,
)
from tracegrad.runtime.devices import CpuDevice as Device
from tracegrad.runtime.devices import Shard
from tracegrad.runtime.jit import clear_caches, jit
from tracegrad.settings import (
    check_tracer_leaks,
    checking_leaks,
    debug_infs,
    debug_nans,
    default_matmul_precision,
    default_prng_impl,
    disable_jit,
    enable_checks,
    enable_x64,
    ensure_compile_time_eval,
    log_compiles,
    named_call,
    named_scope,
    numpy_dtype_promotion,
    numpy_rank_promotion,
    print_environment_info,
    threefry_partitionable,
)
from tracegrad.tracer.abstract import ShapeDtypeStruct, eval_shape, make_ir, make_jaxpr
from tracegrad.transforms.api import grad, jvp, linear_transpose, linearize, value_and_grad, vjp
from tracegrad.transforms.checkpoint import checkpoint, checkpoint_policies, remat
from tracegrad.transforms.custom import custom_jvp, custom_vjp
from tracegrad.transforms.custom_gradient import closure_convert, custom_gradient
from tracegrad.transforms.jacobians import hessian, jacfwd, jacrev
from tracegrad.transforms.vmap import vmap
from tracegrad.version import __version__, __version_info__

jacobian = jacrev

_LAZY = frozenset(
    "ad_checkpoint core custom_batching custom_derivatives debug dtypes errors extend flatten_util interpreters lax monitoring nn ops profiler "
    "random scipy sharding sparse stages test_util typing version".split()
)
_ELSEWHERE = {"pmap": "parallel"} | dict.fromkeys(("NamedSharding", "P", "PartitionSpec", "make_mesh", "set_mesh"), "sharding")
"""Names of the package that few programs use, and the modules that have them."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"tracegrad.{name}")
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(f"tracegrad.{_ELSEWHERE[name]}"), name)
    raise AttributeError(f"module 'tracegrad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_ELSEWHERE} - {"annotations", "importlib", "Any"})
