"""`tracegrad.numpy`: NumPy's functions over traced and concrete arrays, with JAX's dtypes, indexing and names.

Importing it gives arrays their operators and methods.
"""

# ruff: noqa: F401, F405
from __future__ import annotations

from typing import Any as _Any

import numpy as _np

from tracegrad.ir.array import Array as ndarray
from tracegrad.numpy import array_methods as _array_methods
from tracegrad.numpy import fft, linalg
from tracegrad.numpy.bits_and_text import (
    array_repr,
    array_str,
    fromfile,
    fromiter,
    get_printoptions,
    load,
    packbits,
    printoptions,
    save,
    savez,
    set_printoptions,
    unpackbits,
)
from tracegrad.numpy.calculus import convolve, correlate, diff, ediff1d, gradient, interp, trapezoid
from tracegrad.numpy.complex_numbers import *  # noqa: F403
from tracegrad.numpy.contractions import (
    cross,
    dot,
    einsum,
    einsum_path,
    inner,
    kron,
    matmul,
    matvec,
    outer,
    tensordot,
    trace,
    vdot,
    vecdot,
    vecmat,
)
from tracegrad.numpy.creation import (
    arange,
    array,
    asarray,
    copy,
    empty,
    empty_like,
    eye,
    from_dlpack,
    frombuffer,
    fromfunction,
    fromstring,
    full,
    full_like,
    geomspace,
    identity,
    linspace,
    logspace,
    ones,
    ones_like,
    tri,
    tril,
    triu,
    vander,
    zeros,
    zeros_like,
)
from tracegrad.numpy.diagonals import (
    diag,
    diag_indices,
    diag_indices_from,
    diagflat,
    diagonal,
    fill_diagonal,
    mask_indices,
    tril_indices,
    tril_indices_from,
    triu_indices,
    triu_indices_from,
)
from tracegrad.numpy.dtype_objects import (
    SMALL_FLOATS as _SMALL_FLOATS,
)
from tracegrad.numpy.dtype_objects import (
    ComplexWarning,
    bfloat16,
    bool_,
    can_cast,
    cdouble,
    character,
    complex64,
    complex128,
    complex_,
    complexfloating,
    csingle,
    double,
    dtype,
    finfo,
    flexible,
    float16,
    float32,
    float64,
    float_,
    floating,
    generic,
    iinfo,
    inexact,
    int8,
    int16,
    int32,
    int64,
    int_,
    integer,
    isdtype,
    issubdtype,
    number,
    object_,
    promote_types,
    result_type,
    signedinteger,
    single,
    uint,
    uint8,
    uint16,
    uint32,
    uint64,
    unsignedinteger,
)
from tracegrad.numpy.elementwise import *  # noqa: F403
from tracegrad.numpy.functional import apply_along_axis, apply_over_axes, frompyfunc, ufunc, vectorize
from tracegrad.numpy.functional import attach_methods as _attach_methods
from tracegrad.numpy.grids import c_, index_exp, indices, ix_, meshgrid, mgrid, ogrid, r_, s_
from tracegrad.numpy.logic import *  # noqa: F403
from tracegrad.numpy.padding import pad
from tracegrad.numpy.polynomials import (
    poly,
    polyadd,
    polyder,
    polydiv,
    polyfit,
    polyint,
    polymul,
    polysub,
    polyval,
    roots,
    trim_zeros,
)
from tracegrad.numpy.reductions import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    average,
    count_nonzero,
    cumprod,
    cumsum,
    cumulative_prod,
    cumulative_sum,
    max,
    mean,
    min,
    nanargmax,
    nanargmin,
    nancumprod,
    nancumsum,
    nanmax,
    nanmean,
    nanmin,
    nanprod,
    nanstd,
    nansum,
    nanvar,
    prod,
    ptp,
    std,
    sum,
    var,
)
from tracegrad.numpy.searching import (
    allclose,
    argwhere,
    array_equal,
    array_equiv,
    bincount,
    digitize,
    flatnonzero,
    isclose,
    isin,
    nonzero,
    searchsorted,
)
from tracegrad.numpy.selection import (
    choose,
    clip,
    compress,
    delete,
    extract,
    insert,
    piecewise,
    place,
    put,
    put_along_axis,
    ravel_multi_index,
    select,
    take,
    take_along_axis,
    unravel_index,
    where,
)
from tracegrad.numpy.sets import (
    intersect1d,
    setdiff1d,
    setxor1d,
    union1d,
    unique,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)
from tracegrad.numpy.shape import (
    append,
    array_split,
    astype,
    atleast_1d,
    atleast_2d,
    atleast_3d,
    block,
    broadcast_arrays,
    broadcast_shapes,
    broadcast_to,
    column_stack,
    concat,
    concatenate,
    dsplit,
    dstack,
    expand_dims,
    flip,
    fliplr,
    flipud,
    hsplit,
    hstack,
    matrix_transpose,
    moveaxis,
    ndim,
    permute_dims,
    ravel,
    repeat,
    reshape,
    resize,
    roll,
    rollaxis,
    rot90,
    shape,
    size,
    split,
    squeeze,
    stack,
    swapaxes,
    tile,
    transpose,
    unstack,
    vsplit,
    vstack,
)
from tracegrad.numpy.sorting import argpartition, argsort, lexsort, partition, sort, sort_complex
from tracegrad.numpy.statistics import (
    corrcoef,
    cov,
    histogram,
    histogram2d,
    histogram_bin_edges,
    histogramdd,
    median,
    nanmedian,
    nanpercentile,
    nanquantile,
    percentile,
    quantile,
)
from tracegrad.numpy.ufuncs import (
    copysign,
    fmax,
    fmin,
    frexp,
    gcd,
    heaviside,
    hypot,
    i0,
    lcm,
    ldexp,
    logaddexp,
    logaddexp2,
    modf,
    nan_to_num,
    sinc,
    spacing,
    unwrap,
)
from tracegrad.numpy.windows import bartlett, blackman, hamming, hanning, kaiser
from tracegrad.runtime import eager as _eager

_array_methods.install()
_attach_methods(
    {
        f.__name__: f
        for f in (
            add, subtract, multiply, divide, maximum, minimum, power, logical_and, logical_or, logical_xor, bitwise_and, bitwise_or,
            bitwise_xor, logaddexp, logaddexp2, hypot, arctan2, floor_divide, remainder, equal, not_equal, less, greater,
        )
    },
    {"add": sum, "multiply": prod, "maximum": max, "minimum": min, "logical_and": all, "logical_or": any},
)  # fmt: skip
globals().update(_SMALL_FLOATS)

bool = bool_
pi = _np.pi
e = _np.e
euler_gamma = _np.euler_gamma
inf = _np.inf
nan = _np.nan
newaxis = None


def isscalar(element: _Any) -> bool:  # type: ignore[valid-type]
    """Whether it is a number, or an array of no dimensions."""
    if hasattr(element, "__jax_array__"):
        element = element.__jax_array__()
    return (
        isinstance(element, ndarray)
        and not element.shape
        or _np.isscalar(element)
        or _np.ndim(element) == 0
        and isinstance(element, _np.ndarray)
    )


def iscomplexobj(x: object) -> bool:  # type: ignore[valid-type]
    """Whether it is a complex number or an array of them."""
    dtype_ = getattr(x, "dtype", None)
    return isinstance(x, complex) if dtype_ is None else getattr(dtype_, "kind", "") == "c"


def isrealobj(x: object) -> bool:  # type: ignore[valid-type]
    """Whether it is neither a complex number nor an array of them."""
    return not iscomplexobj(x)


def iterable(y: object) -> bool:  # type: ignore[valid-type]
    """Whether it can be iterated over."""
    try:
        iter(y)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True
