"""Operators and methods of arrays, given to every array, concrete or traced, when the library is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import array as ir_array
from tracegrad.ir import elementwise as prims
from tracegrad.ir.array import Array
from tracegrad.ir.bind import bind1
from tracegrad.ir.checks import FLOAT, INEXACT, INTEGER
from tracegrad.ir.types import is_complex
from tracegrad.numpy import (
    contractions,
    creation,
    diagonals,
    elementwise,
    indexing,
    reductions,
    searching,
    selection,
    shape,
    sorting,
)

_OPERANDS = (Array, np.ndarray, np.generic, bool, int, float, complex)


def _operand(x: Any) -> bool:
    return isinstance(x, _OPERANDS) or hasattr(x, "__jax_array__")


def _operator(function: Callable[..., Any], primitive: Any = None, allowed: frozenset[Any] = frozenset()) -> Callable[..., Any]:
    """`x <op> y`. Two arrays of one type go straight to the primitive."""

    def method(self: Any, other: Any) -> Any:
        aval = self.aval
        if isinstance(other, Array):
            if other.aval is aval and aval.dtype in allowed:
                return bind1(primitive, self, other)
            return function(self, other)
        if type(other) in _PLAIN and aval.dtype in _FLOATS and not aval.weak and primitive is not None:
            return bind1(primitive, self, aval.dtype.type(other))
        return function(self, other) if _operand(other) else NotImplemented

    return method


def _reflected(function: Callable[..., Any], primitive: Any = None) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        aval = self.aval
        if type(other) in _PLAIN and aval.dtype in _FLOATS and not aval.weak and primitive is not None:
            return bind1(primitive, aval.dtype.type(other), self)
        return function(other, self) if _operand(other) else NotImplemented

    return method


# A plain Python number beside an array of floats becomes a number of its dtype, with nothing else to decide.
_PLAIN = frozenset({int, float})
_FLOATS = FLOAT


_NUMBERS = INEXACT | INTEGER
_ORDERED = FLOAT | INTEGER


def _power(x: Any, y: Any, modulo: Any = None) -> Any:
    if modulo is not None:
        raise TypeError("pow() of arrays does not take a modulus")
    return elementwise.power(x, y) if _operand(y) else NotImplemented


def _reflected_power(x: Any, y: Any, modulo: Any = None) -> Any:
    return elementwise.power(y, x) if _operand(y) else NotImplemented


def _round(self: Any, ndigits: int | None = None) -> Any:
    if ndigits is None:
        return shape.astype(elementwise.round(self), int) if self.dtype.kind in "fV" else elementwise.round(self)
    return elementwise.round(self, ndigits)


def _reshape(self: Any, *args: Any, order: str = "C", copy: bool | None = None, out_sharding: Any = None) -> Any:
    """The elements under another shape, given as one tuple or as several ints."""
    new = args[0] if len(args) == 1 else args
    return shape.reshape(self, new, order)


def _transpose(self: Any, *args: Any) -> Any:
    """The array with its axes reversed, or in the order given as one tuple or as several ints."""
    if not args or args == (None,):
        return shape.transpose(self)
    return shape.transpose(self, args[0] if len(args) == 1 else args)


def _view(self: Any, dtype: Any = None, type: Any = None) -> Any:
    """The same bits read as another dtype of the same width."""
    from tracegrad.ir import ops
    from tracegrad.numpy.dtype_objects import canonical_dtype

    if type is not None:
        raise NotImplementedError(
            "`type` argument of array.view() is not supported; pass a dtype, or convert with np.asarray(x).view(type=...)"
        )
    if dtype is None:
        return self
    target = canonical_dtype("view", dtype)
    if target == self.dtype:
        return self
    if np.dtype(bool) in (target, self.dtype):
        if self.dtype.itemsize != target.itemsize:
            raise ValueError(f"view: cannot view {self.dtype} as {target}")
        return self.astype(np.uint8).view(target) if self.dtype == np.dtype(bool) else ops.ne(self, self.dtype.type(0))
    if target.itemsize != self.dtype.itemsize or is_complex(target) or is_complex(self.dtype):
        raise NotImplementedError(
            f"view between dtypes of different widths is not supported: {self.dtype} as {target}; "
            "lax.bitcast_convert_type changes the width of real dtypes, and .real and .imag are the parts of complex numbers"
        )
    return ops.bitcast_convert_type(self, target)


def _flat(self: Any) -> Any:
    raise NotImplementedError("arrays have no flat iterator: iterate over x.ravel()")


def _searchsorted(self: Any, v: Any, side: str = "left", sorter: Any = None, *, method: str = "scan") -> Any:
    """The positions at which `v` would be inserted to keep the array sorted."""
    return searching.searchsorted(self, v, side, sorter, method=method)


def _clip(self: Any, min: Any = None, max: Any = None) -> Any:
    """The array brought into [min, max]."""
    return selection.clip(self, min, max)


def _astype(self: Any, dtype: Any, copy: bool = False, device: Any = None) -> Any:
    """The array converted to a dtype."""
    return shape.astype(self, dtype)


def _flatten(self: Any, order: str = "C", *, out_sharding: Any = None) -> Any:
    """The elements in one dimension."""
    return shape.ravel(self, order)


def _sort(
    self: Any, axis: int | None = -1, *, kind: Any = None, order: Any = None, stable: bool = True, descending: bool = False
) -> Any:
    """The elements in order along an axis."""
    return sorting.sort(self, axis, kind=kind, order=order, stable=stable, descending=descending)


def _array_module(self: Any, *, api_version: str | None = None) -> Any:
    import tracegrad.numpy

    return tracegrad.numpy


_OPERATORS: dict[str, Callable[..., Any]] = {
    "__add__": _operator(elementwise.add, prims.add_p, _NUMBERS),
    "__radd__": _reflected(elementwise.add, prims.add_p),
    "__sub__": _operator(elementwise.subtract, prims.sub_p, _NUMBERS),
    "__rsub__": _reflected(elementwise.subtract, prims.sub_p),
    "__mul__": _operator(elementwise.multiply, prims.mul_p, _NUMBERS),
    "__rmul__": _reflected(elementwise.multiply, prims.mul_p),
    "__truediv__": _operator(elementwise.divide, prims.div_p, INEXACT),
    "__rtruediv__": _reflected(elementwise.divide, prims.div_p),
    "__floordiv__": _operator(elementwise.floor_divide),
    "__rfloordiv__": _reflected(elementwise.floor_divide),
    "__mod__": _operator(elementwise.remainder),
    "__rmod__": _reflected(elementwise.remainder),
    "__divmod__": _operator(elementwise.divmod),
    "__rdivmod__": _reflected(elementwise.divmod),
    "__pow__": _power,
    "__rpow__": _reflected_power,
    "__matmul__": _operator(contractions.matmul),
    "__rmatmul__": _reflected(contractions.matmul),
    "__and__": _operator(elementwise.bitwise_and),
    "__rand__": _reflected(elementwise.bitwise_and),
    "__or__": _operator(elementwise.bitwise_or),
    "__ror__": _reflected(elementwise.bitwise_or),
    "__xor__": _operator(elementwise.bitwise_xor),
    "__rxor__": _reflected(elementwise.bitwise_xor),
    "__lshift__": _operator(elementwise.left_shift),
    "__rlshift__": _reflected(elementwise.left_shift),
    "__rshift__": _operator(elementwise.right_shift),
    "__rrshift__": _reflected(elementwise.right_shift),
    "__eq__": _operator(elementwise.equal),
    "__ne__": _operator(elementwise.not_equal),
    "__lt__": _operator(elementwise.less, prims.lt_p, _ORDERED),
    "__le__": _operator(elementwise.less_equal, prims.le_p, _ORDERED),
    "__gt__": _operator(elementwise.greater, prims.gt_p, _ORDERED),
    "__ge__": _operator(elementwise.greater_equal, prims.ge_p, _ORDERED),
    "__neg__": lambda self: elementwise.negative(self),
    "__pos__": lambda self: elementwise.positive(self),
    "__abs__": lambda self: elementwise.absolute(self),
    "__invert__": lambda self: elementwise.invert(self),
    "__round__": _round,
    "__getitem__": indexing.getitem,
    "__array_namespace__": _array_module,
}

_METHODS: dict[str, Callable[..., Any]] = {
    "all": reductions.all,
    "any": reductions.any,
    "argmax": reductions.argmax,
    "argmin": reductions.argmin,
    "argpartition": sorting.argpartition,
    "argsort": sorting.argsort,
    "astype": _astype,
    "choose": selection.choose,
    "clip": _clip,
    "compress": lambda self, condition, axis=None, *, out=None, size=None, fill_value=0: selection.compress(
        condition, self, axis, size=size, fill_value=fill_value, out=out
    ),
    "conj": elementwise.conj,
    "conjugate": elementwise.conjugate,
    "copy": creation.copy,
    "cumprod": reductions.cumprod,
    "cumsum": reductions.cumsum,
    "diagonal": diagonals.diagonal,
    "dot": contractions.dot,
    "flatten": _flatten,
    "max": reductions.max,
    "mean": reductions.mean,
    "min": reductions.min,
    "nonzero": searching.nonzero,
    "prod": reductions.prod,
    "ptp": reductions.ptp,
    "ravel": shape.ravel,
    "repeat": shape.repeat,
    "reshape": _reshape,
    "round": elementwise.round,
    "searchsorted": _searchsorted,
    "sort": _sort,
    "squeeze": shape.squeeze,
    "std": reductions.std,
    "sum": reductions.sum,
    "swapaxes": shape.swapaxes,
    "take": selection.take,
    "trace": contractions.trace,
    "transpose": _transpose,
    "var": reductions.var,
    "view": _view,
}

_PROPERTIES: dict[str, Callable[..., Any]] = {
    "T": lambda self: shape.transpose(self),
    "mT": lambda self: shape.matrix_transpose(self),
    "real": lambda self: elementwise.real(self),
    "imag": lambda self: elementwise.imag(self),
    "at": indexing.IndexUpdates,
    "flat": _flat,
}


def _method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as a method: a plain function object of its own, so that its name is the method's."""
    if function.__name__ == name:
        return function
    function.__name__ = name
    function.__qualname__ = f"Array.{name}"
    return function


def install() -> None:
    """Attach everything to `ir.array.Array`."""
    for name, function in _OPERATORS.items():
        ir_array.attach(name, _method(name, function))
    for name, function in _METHODS.items():
        ir_array.attach(name, function)
    for name, function in _PROPERTIES.items():
        ir_array.attach(name, property(function))
    ir_array.attach("__hash__", None)
