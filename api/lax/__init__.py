"""Operations close to the IR, under the names and signatures of `jax.lax`: no promotion, explicit dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.ir import fft as _fft
from tracegrad.ir.calls import optimization_barrier as _barrier
from tracegrad.lax import linalg as linalg
from tracegrad.lax.contractions import *  # noqa: F403
from tracegrad.lax.elementwise import *  # noqa: F403
from tracegrad.lax.indexing import *  # noqa: F403
from tracegrad.lax.operands import value as _value
from tracegrad.lax.reductions import *  # noqa: F403
from tracegrad.lax.structural import *  # noqa: F403
from tracegrad.tracer.control_flow import associative_scan as associative_scan
from tracegrad.tracer.control_flow import cond as cond
from tracegrad.tracer.control_flow import map as map
from tracegrad.tracer.control_flow import switch as switch
from tracegrad.tracer.pytree import tree_flatten as _flatten
from tracegrad.transforms.collectives import all_gather as all_gather
from tracegrad.transforms.collectives import all_to_all as all_to_all
from tracegrad.transforms.collectives import axis_index as axis_index
from tracegrad.transforms.collectives import axis_size as axis_size
from tracegrad.transforms.collectives import pbroadcast as pbroadcast
from tracegrad.transforms.collectives import pmax as pmax
from tracegrad.transforms.collectives import pmean as pmean
from tracegrad.transforms.collectives import pmin as pmin
from tracegrad.transforms.collectives import ppermute as ppermute
from tracegrad.transforms.collectives import pshuffle as pshuffle
from tracegrad.transforms.collectives import psum as psum
from tracegrad.transforms.collectives import psum_scatter as psum_scatter
from tracegrad.transforms.loop_checkpoints import fori_loop as fori_loop
from tracegrad.transforms.loop_checkpoints import scan as scan
from tracegrad.transforms.loop_checkpoints import while_loop as while_loop
from tracegrad.transforms.solves import custom_linear_solve as custom_linear_solve
from tracegrad.transforms.solves import custom_root as custom_root


def optimization_barrier(operand: Any, /) -> Any:
    """The operand (a pytree), computed before anything that depends on the result."""
    leaves, tree = _flatten(operand)
    return tree.unflatten(_barrier(*[_value("optimization_barrier", x, i) for i, x in enumerate(leaves)]))


def fft(x: Any, fft_type: Any, fft_lengths: Any) -> Any:
    """The discrete Fourier transform of the trailing axes; `fft_type` is "fft", "ifft", "rfft" or "irfft"."""
    kind = str(getattr(fft_type, "name", fft_type)).lower()
    return _fft.fft(_value("fft", x), kind, tuple(fft_lengths))


def platform_dependent(*args: Any, default: Callable[..., Any] | None = None, **per_platform: Callable[..., Any]) -> Any:
    """The function for this platform, the CPU, applied to the arguments."""
    function = per_platform.get("cpu", default)
    if function is None:
        raise NotImplementedError("platform_dependent: there is no function for 'cpu' and no default; pass cpu= or default=")
    return function(*args)


def with_sharding_constraint(x: Any, shardings: Any) -> Any:
    """x: there is one device."""
    return x


def __getattr__(name: str) -> Any:
    if name.endswith("_p"):
        from tracegrad.extend.core import primitives  # few use them

        return getattr(primitives, name)
    raise AttributeError(f"module 'tracegrad.lax' has no attribute {name!r}")
