"""Activation functions."""

from __future__ import annotations

from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.numpy.promotion import as_array, inexact
from tracegrad.transforms.custom import custom_jvp


def identity(x: Any) -> Any:
    """x."""
    return as_array("identity", x)


def relu(x: Any) -> Any:
    """max(x, 0), with derivative 0 at 0."""
    x = as_array("relu", x)
    zero = type_of(x).dtype.type(0)
    # A select, not a maximum, whose derivative at 0 would be 1/2; the comparison is such that NaN stays.
    return ops.select(ops.le(x, zero), zero, x)


def relu6(x: Any) -> Any:
    """min(max(x, 0), 6), with derivative 0 at 0 and at 6."""
    x = inexact("relu6", x)
    dtype = type_of(x).dtype
    return ops.select(ops.ge(x, dtype.type(6)), dtype.type(6), relu(x))


@custom_jvp
def _softplus(x: Any) -> Any:
    return ops.add(ops.max(x, type_of(x).dtype.type(0)), ops.log1p(ops.exp(ops.neg(ops.abs(x)))))


@_softplus.defjvp
def _softplus_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    # Differentiated as written, it would be wrong at 0, where max and abs have kinks that cancel.
    (x,), (t,) = primals, tangents
    return _softplus(x), ops.mul(t, ops.logistic(x))


def softplus(x: Any) -> Any:
    """log(1 + exp(x))."""
    return _softplus(inexact("softplus", x))


def squareplus(x: Any, b: Any = 4) -> Any:
    """(x + sqrt(x**2 + b)) / 2."""
    x = inexact("squareplus", x)
    return (x + jnp.sqrt(jnp.square(x) + b)) / 2


def sparse_plus(x: Any) -> Any:
    """0 below -1, x above 1, (x + 1)**2 / 4 between."""
    x = inexact("sparse_plus", x)
    return jnp.where(x <= -1.0, 0.0, jnp.where(x >= 1.0, x, (x + 1.0) ** 2 / 4))


def sparse_sigmoid(x: Any) -> Any:
    """The derivative of sparse_plus: 0 below -1, 1 above 1, linear between."""
    x = inexact("sparse_sigmoid", x)
    return 0.5 * jnp.clip(x + 1.0, 0.0, 2.0)


def soft_sign(x: Any) -> Any:
    """x / (|x| + 1)."""
    x = inexact("soft_sign", x)
    return x / (jnp.abs(x) + 1)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return ops.logistic(inexact("sigmoid", x))


def tanh(x: Any, /) -> Any:
    """The hyperbolic tangent."""
    return jnp.tanh(x)


def silu(x: Any) -> Any:
    """x * sigmoid(x), also called swish."""
    x = inexact("silu", x)
    return ops.mul(x, ops.logistic(x))


swish = silu


def mish(x: Any) -> Any:
    """x * tanh(softplus(x))."""
    x = inexact("mish", x)
    return x * jnp.tanh(softplus(x))


def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x))."""
    x = inexact("log_sigmoid", x)
    return -softplus(-x)


def elu(x: Any, alpha: Any = 1.0) -> Any:
    """x if x > 0, else alpha * (exp(x) - 1)."""
    x = inexact("elu", x)
    # The inner select keeps expm1 of large x, which is infinite, out of the derivative.
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0.0, x)))


def leaky_relu(x: Any, negative_slope: Any = 1e-2) -> Any:
    """x if x >= 0, else negative_slope * x."""
    x = inexact("leaky_relu", x)
    return jnp.where(x >= 0, x, negative_slope * x)


def hard_tanh(x: Any) -> Any:
    """x brought into [-1, 1]."""
    x = as_array("hard_tanh", x)
    return jnp.where(x > 1, 1, jnp.where(x < -1, -1, x))


def celu(x: Any, alpha: Any = 1.0) -> Any:
    """max(x, 0) + alpha * (exp(min(x, 0) / alpha) - 1)."""
    x = inexact("celu", x)
    return jnp.maximum(x, 0.0) + alpha * jnp.expm1(jnp.minimum(x, 0.0) / alpha)


def selu(x: Any) -> Any:
    """The scaled elu whose layers normalize themselves."""
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


def gelu(x: Any, approximate: bool = True) -> Any:
    """x times the normal distribution function of x; `approximate` computes that by tanh instead of erf."""
    x = inexact("gelu", x)
    if approximate:
        inner = float(np.sqrt(2 / np.pi)) * (x + 0.044715 * (x**3))
        return x * (0.5 * (1.0 + jnp.tanh(inner)))
    return 0.5 * x * ops.erfc(-x * float(np.sqrt(0.5)))


def glu(x: Any, axis: int = -1) -> Any:
    """The first half of x along an axis times the sigmoid of the second."""
    x = inexact("glu", x)
    size = x.shape[axis]
    if size % 2:
        raise ValueError(f"glu: the size {size} of axis {axis} must be even")
    a, b = jnp.split(x, 2, axis)
    return ops.mul(a, ops.logistic(b))


def hard_sigmoid(x: Any) -> Any:
    """relu6(x + 3) / 6."""
    return relu6(inexact("hard_sigmoid", x) + 3.0) / 6.0


def hard_silu(x: Any) -> Any:
    """x * hard_sigmoid(x), also called hard swish."""
    x = inexact("hard_silu", x)
    return x * hard_sigmoid(x)


hard_swish = hard_silu


def log1mexp(x: Any) -> Any:
    """log(1 - exp(-x)), for x > 0."""
    x = inexact("log1mexp", x)
    c = float(np.log(2.0))
    small = x < c
    # Each branch sees a harmless argument where the other is chosen, for the derivative's sake.
    return jnp.where(small, jnp.log(-jnp.expm1(-jnp.where(small, x, c))), jnp.log1p(-jnp.exp(-jnp.where(small, c, x))))
