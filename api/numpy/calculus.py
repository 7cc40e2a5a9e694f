"""Differences, derivatives and integrals of sampled functions; interpolation and convolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.numpy import elementwise as e
from tracegrad.numpy.creation import asarray
from tracegrad.numpy.dtype_objects import canonical_dtype
from tracegrad.numpy.promotion import (
    as_array,
    axis_index,
    axis_indices,
    broadcast_to_shape,
    promote_inexact,
    shape_of,
    static_int,
    to_dtype,
)
from tracegrad.numpy.reductions import sum
from tracegrad.numpy.searching import searchsorted
from tracegrad.numpy.selection import where
from tracegrad.numpy.shape import concatenate, flip, moveaxis, ravel, take_positions


def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """The n-th differences of neighbours along an axis."""
    a = as_array("diff", a, "a")
    n = static_int("diff", n, "n")
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n}")
    rank = len(shape_of(a))
    if rank == 0:
        raise ValueError("diff requires input that is at least one dimensional")
    if n == 0:
        return a
    i = axis_index("diff", axis, rank)

    def edge(v: Any) -> Any:
        v = as_array("diff", v)
        s = shape_of(a)
        return v if shape_of(v) else broadcast_to_shape(v, s[:i] + (1,) + s[i + 1 :])

    parts = [*([] if prepend is None else [edge(prepend)]), a, *([] if append is None else [edge(append)])]
    if len(parts) > 1:
        a = concatenate(parts, i)
    boolean = type_of(a).dtype.kind == "b"
    for _ in range(n):
        size = shape_of(a)[i]
        if size == 0:
            return a
        upper, lower = ops.slice_in_dim(a, 1, size, 1, i), ops.slice_in_dim(a, 0, size - 1, 1, i)
        a = ops.ne(upper, lower) if boolean else ops.sub(upper, lower)
    return a


def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    """The differences of neighbours of the flattened array."""
    ary = ravel(as_array("ediff1d", ary))
    dtype = type_of(ary).dtype
    parts = [diff(ary)]
    if to_begin is not None:
        parts.insert(0, ravel(to_dtype(as_array("ediff1d", to_begin), dtype)))
    if to_end is not None:
        parts.append(ravel(to_dtype(as_array("ediff1d", to_end), dtype)))
    return concatenate(parts)


def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int | None = None) -> Any:
    """Central differences along axes, one-sided at the ends."""
    if edge_order is not None:
        raise NotImplementedError(
            "jnp.gradient: the edge_order argument is not implemented; leave it out for one-sided first differences at the ends"
        )
    (f,) = promote_inexact("gradient", as_array("gradient", f))
    axes = axis_indices("gradient", axis, len(shape_of(f)))
    if not axes:
        return []
    if len(varargs) == 0:
        spacings: list[Any] = [1.0] * len(axes)
    elif len(varargs) == 1:
        spacings = list(varargs) * len(axes)
    elif len(varargs) == len(axes):
        spacings = list(varargs)
    else:
        raise TypeError(f"gradient: got {len(varargs)} spacings for {len(axes)} axes")
    out = [_gradient_along(f, h, i) for h, i in zip(spacings, axes)]
    return out[0] if axis is not None and isinstance(axis, int) or len(out) == 1 else out


def _gradient_along(f: Any, h: Any, i: int) -> Any:
    n = shape_of(f)[i]
    if n < 2:
        raise ValueError("Shape of array too small to calculate a numerical gradient, at least 2 elements are required.")

    def part(lo: int, hi: int) -> Any:
        return ops.slice_in_dim(f, lo, hi, 1, i)

    first, last = e.subtract(part(1, 2), part(0, 1)), e.subtract(part(n - 1, n), part(n - 2, n - 1))
    h = as_array("gradient", h)
    if not shape_of(h):
        inner = e.divide(e.subtract(part(2, n), part(0, n - 2)), e.multiply(h, 2))
        return concatenate([e.divide(first, h), inner, e.divide(last, h)], i)
    if shape_of(h) != (n,):
        raise ValueError(f"gradient: distances must be scalars or match the length of the axis, got shape {shape_of(h)}")
    column = (1,) * i + (-1,) + (1,) * (len(shape_of(f)) - i - 1)
    d = diff(h)
    left, right = d[:-1].reshape(column), d[1:].reshape(column)
    inner = (
        e.multiply(e.divide(e.negative(right), e.multiply(left, e.add(left, right))), part(0, n - 2))
        + e.multiply(e.divide(e.subtract(right, left), e.multiply(left, right)), part(1, n - 1))
        + e.multiply(e.divide(left, e.multiply(right, e.add(left, right))), part(2, n))
    )
    return concatenate([e.divide(first, d[0]), inner, e.divide(last, d[-1])], i)


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """The integral of samples by the trapezoidal rule."""
    if x is None:
        (y,) = promote_inexact("trapezoid", as_array("trapezoid", y))
        y = moveaxis(y, axis, -1)
        step: Any = dx
    else:
        y, x = promote_inexact("trapezoid", as_array("trapezoid", y), as_array("trapezoid", x))
        if len(shape_of(x)) == 1:
            step = diff(x)
        else:
            step = moveaxis(diff(x, axis=axis), axis, -1)
        y = moveaxis(y, axis, -1)
    n = shape_of(y)[-1]
    last = len(shape_of(y)) - 1
    neighbours = e.add(ops.slice_in_dim(y, 1, n, 1, last), ops.slice_in_dim(y, 0, n - 1, 1, last))
    return e.multiply(0.5, sum(e.multiply(step, neighbours), axis=-1))


def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    """Piecewise linear interpolation through the points (xp, fp); xp ascends."""
    if shape_of(as_array("interp", xp)) != shape_of(as_array("interp", fp)) or len(shape_of(as_array("interp", xp))) != 1:
        raise ValueError("xp and fp must be one-dimensional arrays of equal size")
    x, xp = promote_inexact("interp", as_array("interp", x), as_array("interp", xp))
    (fp,) = promote_inexact("interp", as_array("interp", fp))
    extrapolate = left == "extrapolate" if isinstance(left, str) else False
    extrapolate_right = right == "extrapolate" if isinstance(right, str) else False
    for side, name in ((left, "left"), (right, "right")):
        if isinstance(side, str) and side != "extrapolate":
            raise ValueError(f"the only valid string value of `{name}` is 'extrapolate', but got: {side!r}")
    if period is not None:
        period = e.absolute(period)
        x, xp = e.remainder(x, period), e.remainder(xp, period)
        xp, fp = ops.sort(xp, fp, dimension=0, num_keys=1)
        xp = concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = concatenate([fp[-1:], fp, fp[:1]])
    n = shape_of(xp)[0]
    if n == 1:
        inner = broadcast_to_shape(fp[0], shape_of(x))
    else:
        from tracegrad.numpy.selection import clip

        i = clip(searchsorted(xp, x, side="right"), 1, n - 1)
        before = e.subtract(i, 1)
        x0, x1 = (take_positions(xp, k, 0) for k in (before, i))
        f0, f1 = (take_positions(fp, k, 0) for k in (before, i))
        width = e.subtract(x1, x0)
        tiny = e.less_equal(e.absolute(width), np.spacing(np.finfo(np.float32).eps) if width.dtype.itemsize <= 4 else 1e-300)
        slope = e.divide(e.subtract(f1, f0), where(tiny, type_of(width).dtype.type(1), width))
        inner = where(tiny, f0, e.add(f0, e.multiply(slope, e.subtract(x, x0))))
    if period is not None:
        return inner
    if not extrapolate:
        inner = where(e.less(x, xp[0]), fp[0] if left is None else left, inner)
    if not extrapolate_right:
        inner = where(e.greater(x, xp[n - 1]), fp[n - 1] if right is None else right, inner)
    return inner


def convolve(a: Any, v: Any, mode: str = "full", *, precision: Any = None, preferred_element_type: Any = None) -> Any:
    """The convolution of two vectors."""
    return _convolve("convolve", a, v, mode, preferred_element_type, False)


def correlate(a: Any, v: Any, mode: str = "valid", *, precision: Any = None, preferred_element_type: Any = None) -> Any:
    """The correlation of two vectors, the second conjugated."""
    return _convolve("correlate", a, v, mode, preferred_element_type, True)


def _convolve(name: str, a: Any, v: Any, mode: str, preferred: Any, correlating: bool) -> Any:
    a, v = promote_inexact(name, as_array(name, asarray(a)), as_array(name, asarray(v)))
    if len(shape_of(a)) != 1 or len(shape_of(v)) != 1:
        raise ValueError(f"{name}() only support 1-dimensional inputs, got shapes {shape_of(a)} and {shape_of(v)}")
    n, m = shape_of(a)[0], shape_of(v)[0]
    if n == 0 or m == 0:
        raise ValueError(f"{name}: inputs cannot be empty, got shapes {(n,)} and {(m,)}")
    target = None if preferred is None else canonical_dtype(name, preferred)
    dtype = type_of(a).dtype
    if correlating and is_complex(dtype):
        v = ops.conj(v)
    turned = False
    if n < m:
        a, v, n, m = v, a, m, n
        turned = correlating
    kernel = v if correlating else flip(v, 0)
    if mode == "full":
        padding = (m - 1, m - 1)
    elif mode == "same":
        padding = (m // 2, m - m // 2 - 1)
    elif mode == "valid":
        padding = (0, 0)
    else:
        raise ValueError("mode must be one of ['full', 'same', 'valid']")
    if turned and mode == "same":
        padding = padding[::-1]
    out = ops.conv_general_dilated(
        ops.reshape(a, (1, 1, n)),
        ops.reshape(kernel, (1, 1, m)),
        window_strides=(1,),
        padding=(padding,),
        preferred_element_type=target,
    )
    out = ops.reshape(out, shape_of(out)[2:])
    out = flip(out, 0) if turned else out
    return out
