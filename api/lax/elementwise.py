"""lax's functions of one element at a time."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np

from tracegrad.ir import conversions, special
from tracegrad.ir import elementwise as ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex, is_inexact, is_integer, is_key
from tracegrad.lax.operands import as_dtype, match, same_dtypes, same_shapes, value
from tracegrad.tracer.pytree import tree_map as _tree_map


class RoundingMethod(IntEnum):
    """How `round` decides between the two nearest integers."""

    AWAY_FROM_ZERO = 0
    TO_NEAREST_EVEN = 1


def _unary(name: str, op: Callable[[Any], Any]) -> Callable[..., Any]:
    def function(x: Any) -> Any:
        return op(x if isinstance(x, Array) else value(name, x))

    return _named(function, name, f"Elementwise {name} of x.")


def _elementary(name: str, op: Callable[[Any], Any]) -> Callable[..., Any]:
    def function(x: Any, *, accuracy: Any = None) -> Any:
        return op(x if isinstance(x, Array) else value(name, x))

    return _named(function, name, f"Elementwise {name} of x. `accuracy` is accepted for compatibility.")


def _binary(name: str, op: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def function(x: Any, y: Any) -> Any:
        if not (isinstance(x, Array) and isinstance(y, Array) and x.aval is y.aval):
            x, y = match(name, x, y)
        return op(x, y)

    return _named(function, name, f"Elementwise {name} of x and y, which have one dtype and equal shapes (or one is a scalar).")


def _named(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


neg = _unary("neg", ops.neg)
sign = _unary("sign", ops.sign)
floor = _unary("floor", ops.floor)
ceil = _unary("ceil", ops.ceil)
is_finite = _unary("is_finite", ops.is_finite)
abs = _unary("abs", ops.abs)
square = _unary("square", ops.square)
exp = _elementary("exp", ops.exp)
exp2 = _elementary("exp2", ops.exp2)
expm1 = _elementary("expm1", ops.expm1)
log = _elementary("log", ops.log)
log1p = _elementary("log1p", ops.log1p)
sin = _elementary("sin", ops.sin)
cos = _elementary("cos", ops.cos)
tan = _elementary("tan", ops.tan)
tanh = _elementary("tanh", ops.tanh)
logistic = _elementary("logistic", ops.logistic)
sqrt = _elementary("sqrt", ops.sqrt)
rsqrt = _elementary("rsqrt", ops.rsqrt)
cbrt = _elementary("cbrt", ops.cbrt)
asin = _unary("asin", ops.asin)
acos = _unary("acos", ops.acos)
atan = _unary("atan", ops.atan)
sinh = _unary("sinh", ops.sinh)
cosh = _unary("cosh", ops.cosh)
asinh = _unary("asinh", ops.asinh)
acosh = _unary("acosh", ops.acosh)
atanh = _unary("atanh", ops.atanh)
bitwise_not = _unary("bitwise_not", ops.bitwise_not)
population_count = _unary("population_count", ops.population_count)
clz = _unary("clz", ops.clz)
real = _unary("real", ops.real)
imag = _unary("imag", ops.imag)
erf = _unary("erf", special.erf)
erfc = _unary("erfc", special.erfc)
erf_inv = _unary("erf_inv", special.erf_inv)
lgamma = _unary("lgamma", special.lgamma)
digamma = _unary("digamma", special.digamma)
bessel_i0e = _unary("bessel_i0e", special.bessel_i0e)
bessel_i1e = _unary("bessel_i1e", special.bessel_i1e)

add = _binary("add", ops.add)
sub = _binary("sub", ops.sub)
div = _binary("div", ops.div)
rem = _binary("rem", ops.rem)
max = _binary("max", ops.max)
min = _binary("min", ops.min)
atan2 = _binary("atan2", ops.atan2)
nextafter = _binary("nextafter", ops.nextafter)
complex = _binary("complex", ops.complex)
bitwise_and = _binary("bitwise_and", ops.bitwise_and)
bitwise_or = _binary("bitwise_or", ops.bitwise_or)
bitwise_xor = _binary("bitwise_xor", ops.bitwise_xor)
shift_left = _binary("shift_left", ops.shift_left)
shift_right_logical = _binary("shift_right_logical", ops.shift_right_logical)
shift_right_arithmetic = _binary("shift_right_arithmetic", ops.shift_right_arithmetic)
eq = _binary("eq", ops.eq)
ne = _binary("ne", ops.ne)
lt = _binary("lt", ops.lt)
le = _binary("le", ops.le)
gt = _binary("gt", ops.gt)
ge = _binary("ge", ops.ge)
igamma = _binary("igamma", special.igamma)
igammac = _binary("igammac", special.igammac)
igamma_grad_a = _binary("igamma_grad_a", special.igamma_grad_a)
random_gamma_grad = _binary("random_gamma_grad", special.random_gamma_grad)
polygamma = _binary("polygamma", special.polygamma)
zeta = _binary("zeta", special.zeta)


def mul(x: Any, y: Any, *, out_dtype: Any = None) -> Any:
    """Elementwise product; with `out_dtype`, computed in that dtype."""
    if out_dtype is not None:
        x, y = convert_element_type(x, out_dtype), convert_element_type(y, out_dtype)
    if not (isinstance(x, Array) and isinstance(y, Array) and x.aval is y.aval):
        x, y = match("mul", x, y)
    return ops.mul(x, y)


def pow(x: Any, y: Any) -> Any:
    """Elementwise power of a floating-point or complex base; the exponent has its dtype or is an integer."""
    x, y = value("pow", x), value("pow", y, 1)
    tx, ty = type_of(x), type_of(y)
    if not is_inexact(tx.dtype) or (tx.dtype != ty.dtype and not is_integer(ty.dtype)):
        raise TypeError(
            "the first argument to pow must have an inexact dtype (float or complex), and the second argument must have an inexact or "
            f"integer dtype, and two inexact dtypes must match, but got {tx.dtype} and {ty.dtype} respectively."
        )
    if isinstance(y, int):
        y = np.asarray(y, ty.dtype)[()]  # a Python int would take the base's dtype
    x, y = same_shapes("pow", x, y)
    return ops.pow(x, y)


def integer_pow(x: Any, y: int) -> Any:
    """Elementwise power with an exponent known while tracing."""
    x = value("integer_pow", x)
    if y == 2:
        return ops.square(x)
    if y < 0 and is_integer(type_of(x).dtype):
        raise TypeError(f"Integers cannot be raised to negative powers, got integer_pow({type_of(x)}, {y})")
    return ops.integer_pow(x, y)


def reciprocal(x: Any) -> Any:
    """Elementwise 1/x."""
    return integer_pow(x, -1)


def round(x: Any, rounding_method: RoundingMethod = RoundingMethod.AWAY_FROM_ZERO) -> Any:
    """The nearest integer; ties go away from zero or to even."""
    return ops.round(value("round", x), int(rounding_method))


def conj(x: Any) -> Any:
    """The complex conjugate; real numbers become complex ones."""
    x = value("conj", x)
    t = type_of(x)
    if not is_complex(t.dtype):
        x = ops.complex(x, t.dtype.type(0))
    return ops.conj(x)


def betainc(a: Any, b: Any, x: Any) -> Any:
    """The regularized incomplete beta function I_x(a, b)."""
    return special.regularized_incomplete_beta(*match("betainc", a, b, x))


regularized_incomplete_beta = betainc


def mulhi(x: Any, y: Any, /) -> Any:
    """The high half of the product of two integers, elementwise."""
    x, y = match("mulhi", x, y)
    dtype = type_of(x).dtype
    if not is_integer(dtype):
        raise TypeError(f"mulhi takes integers, got {dtype}")
    half = dtype.itemsize * 4
    shift_high = ops.shift_right_arithmetic if dtype.kind == "i" else ops.shift_right_logical
    if dtype.itemsize < 4:
        wide = np.dtype(f"{dtype.kind}4")
        product = ops.mul(conversions.convert_element_type(x, wide), conversions.convert_element_type(y, wide))
        return conversions.convert_element_type(shift_high(product, wide.type(2 * half)), dtype)
    # Schoolbook multiplication of halves: no dtype holds the whole product.
    shift, mask = dtype.type(half), dtype.type((1 << half) - 1)
    x0, x1 = ops.bitwise_and(x, mask), shift_high(x, shift)
    y0, y1 = ops.bitwise_and(y, mask), shift_high(y, shift)
    low = ops.shift_right_logical(ops.mul(x0, y0), shift)
    cross = ops.add(ops.mul(x1, y0), low)
    cross2 = ops.add(ops.mul(x0, y1), ops.bitwise_and(cross, mask))
    return ops.add(ops.mul(x1, y1), ops.add(shift_high(cross, shift), shift_high(cross2, shift)))


def clamp(min: Any, x: Any, max: Any) -> Any:
    """x brought into [min, max]; the bounds have x's shape or are scalars."""
    lo, x, hi = value("clamp", min), value("clamp", x, 1), value("clamp", max, 2)
    same_dtypes("clamp", lo, x, hi)
    t = type_of(x)
    for bound in (lo, hi):
        if type_of(bound).shape not in ((), t.shape):
            raise TypeError(
                f"lax.clamp: the bounds must be scalars or have the shape of x, {t.shape}; got {type_of(bound).shape}"
            )
    return ops.clamp(lo, x, hi)


def select(pred: Any, on_true: Any, on_false: Any) -> Any:
    """`on_true` where `pred`, else `on_false`; both have one shape, which pred has too unless it is a scalar."""
    return select_n(pred, on_false, on_true)


def select_n(which: Any, *cases: Any) -> Any:
    """Elementwise, the case that `which` (bool or int32, a scalar or of the cases' shape) names."""
    if not cases:
        raise ValueError("select_n() must have at least one case")
    which = value("select", which)
    cases = tuple(value("select", c, i + 1) for i, c in enumerate(cases))
    same_dtypes("select", *cases)
    t, types = type_of(which), [type_of(c) for c in cases]
    if any(c.shape != types[0].shape for c in types):
        raise TypeError(f"select cases must have the same shapes, got [{', '.join(str(c.shape) for c in types)}].")
    if t.shape not in ((), types[0].shape):
        raise TypeError(
            f"select `which` must be scalar or have the same shape as cases, got {t.shape} but case shape {types[0].shape}."
        )
    if t.dtype == np.bool_:
        if len(cases) > 2:
            raise TypeError(f"select with boolean `which` cannot have more than two cases, got {len(cases)}.")
        return cases[0] if len(cases) == 1 else ops.select(which, cases[1], cases[0])
    if t.dtype != np.int32:
        raise TypeError(f"select `which` must be boolean or int32 type, got {t.dtype}.")
    chosen = cases[-1]
    for i in range(len(cases) - 2, -1, -1):
        chosen = ops.select(ops.le(which, np.int32(i)), cases[i], chosen)
    return chosen


def convert_element_type(operand: Any, new_dtype: Any) -> Any:
    """The operand in another dtype. Floats are truncated to integers, out of range ones to the nearest; NaN becomes 0."""
    if new_dtype is None:
        raise ValueError("dtype must be specified.")
    operand = value("convert_element_type", operand)
    dtype = as_dtype(new_dtype)
    t = type_of(operand)
    if is_key(t.dtype) and dtype != t.dtype:
        raise TypeError(f"convert_element_type: keys of dtype {t.dtype} have no numbers; use random.key_data to see their words")
    if t.dtype == dtype and not t.weak and isinstance(operand, Array):
        return operand
    return conversions.convert_element_type(operand, dtype)


def bitcast_convert_type(operand: Any, new_dtype: Any) -> Any:
    """The operand's bits as another dtype. A narrower dtype adds a last axis, a wider one consumes it."""
    from tracegrad.lax.structural import reshape

    operand = value("bitcast_convert_type", operand)
    dtype, t = as_dtype(new_dtype), type_of(operand)
    old, new = t.dtype.itemsize, dtype.itemsize
    if old == new:
        return conversions.bitcast_convert_type(operand, dtype)
    if is_complex(t.dtype) or is_complex(dtype):
        raise TypeError(f"bitcast_convert_type: complex numbers convert only to a dtype of their width, got {t.dtype} to {dtype}")
    if new < old:
        bits = conversions.bitcast_convert_type(operand, np.dtype(f"u{old}"))
        parts = [
            conversions.convert_element_type(ops.shift_right_logical(bits, np.dtype(f"u{old}").type(8 * new * i)), np.dtype(f"u{new}"))
            for i in range(old // new)
        ]
        from tracegrad.ir.structural import concatenate

        joined = concatenate([reshape(p, (*t.shape, 1)) for p in parts], len(t.shape))
        return conversions.bitcast_convert_type(joined, dtype)
    ratio = new // old
    if t.shape[-1:] != (ratio,):
        raise TypeError(f"bitcast_convert_type from {t.dtype} to {dtype} needs a last axis of size {ratio}, got {t.shape}")
    from tracegrad.ir.structural import slice_in_dim

    wide = np.dtype(f"u{new}")
    bits = conversions.bitcast_convert_type(operand, np.dtype(f"u{old}"))
    total: Any = None
    for i in range(ratio):
        part = reshape(slice_in_dim(bits, i, i + 1, axis=len(t.shape) - 1), t.shape[:-1])
        part = ops.shift_left(conversions.convert_element_type(part, wide), wide.type(8 * old * i))
        total = part if total is None else ops.bitwise_or(total, part)
    return conversions.bitcast_convert_type(total, dtype)


def reduce_precision(operand: Any, exponent_bits: int, mantissa_bits: int) -> Any:
    """The operand rounded to a format with that many bits of exponent and mantissa."""
    return conversions.reduce_precision(value("reduce_precision", operand), int(exponent_bits), int(mantissa_bits))


def stop_gradient(x: Any) -> Any:
    """x (a pytree), whose derivative is taken to be zero."""

    def stop(leaf: Any) -> Any:
        try:
            t = type_of(leaf)
        except TypeError:
            return leaf
        return ops.stop_gradient(leaf) if is_inexact(t.dtype) else leaf

    return _tree_map(stop, x)


def dtype(x: Any) -> Any:
    """The dtype of an array or number."""
    return type_of(value("dtype", x)).dtype


__all__ = [
    "RoundingMethod", "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e", "bessel_i1e", "betainc",
    "bitcast_convert_type", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "cbrt", "ceil", "clamp", "clz", "complex", "conj",
    "convert_element_type", "cos", "cosh", "digamma", "div", "dtype", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor",
    "ge", "gt", "igamma", "igamma_grad_a", "igammac", "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic",
    "lt", "max", "min", "mul", "mulhi", "ne", "neg", "nextafter", "polygamma", "population_count", "pow", "random_gamma_grad", "real",
    "reciprocal", "reduce_precision", "regularized_incomplete_beta", "rem", "round", "rsqrt", "select", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh",
    "zeta",
]  # fmt: skip
