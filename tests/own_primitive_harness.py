"""A primitive with all rules, as a user would define it."""

from __future__ import annotations

from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.core import ShapedArray
from tracegrad.extend import core
from tracegrad.interpreters import ad, batching, mlir

fma_p = core.Primitive("fused_multiply_add")
used: list[str] = []
"""Which of its parts were used."""


def fma(x: Any, y: Any, z: Any) -> Any:
    return fma_p.bind(x, y, z)


@fma_p.def_impl
def _fma_impl(x: Any, y: Any, z: Any) -> Any:
    used.append("impl")
    return np.asarray(x) * np.asarray(y) + np.asarray(z)


@fma_p.def_abstract_eval
def _fma_types(x: ShapedArray, y: ShapedArray, z: ShapedArray) -> ShapedArray:
    assert x.shape == y.shape == z.shape
    return ShapedArray(x.shape, x.dtype)


def fma_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, z), (x_dot, y_dot, z_dot) = primals, tangents
    out = ad.instantiate_zeros(z_dot)
    if type(x_dot) is not ad.Zero:
        out = fma(x_dot, y, out)
    if type(y_dot) is not ad.Zero:
        out = fma(x, y_dot, out)
    return fma(x, y, z), out


def _fma_transpose(ct: Any, x: Any, y: Any, z: Any) -> Any:
    ct_x = ct_y = ct_z = None
    if ad.is_undefined_primal(x):
        ct_x = fma(ct, y, jnp.zeros(x.aval.shape, x.aval.dtype))
    if ad.is_undefined_primal(y):
        ct_y = fma(x, ct, jnp.zeros(y.aval.shape, y.aval.dtype))
    if ad.is_undefined_primal(z):
        ct_z = ct
    return ct_x, ct_y, ct_z


def _fma_batch(args: Any, dims: Any) -> Any:
    size = next(x.shape[d] for x, d in zip(args, dims) if d is not None)
    return fma(*[batching.bdim_at_front(x, d, size) for x, d in zip(args, dims)]), 0


ad.primitive_jvps[fma_p] = fma_jvp
ad.primitive_transposes[fma_p] = _fma_transpose
batching.primitive_batchers[fma_p] = _fma_batch
mlir.register_lowering(fma_p, mlir.lower_fun(lambda x, y, z: x * y + z, multiple_results=False))

X, Y, Z = (jnp.asarray(a, jnp.float32) for a in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.5, 0.25, 0.125]))


def same(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=2e-6)


def plain(x: Any, y: Any, z: Any) -> Any:
    return x * y + z
