"""Functions that take functions: vectorize, apply_along_axis, apply_over_axes, frompyfunc."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.numpy.creation import asarray
from tracegrad.numpy.promotion import as_array, axis_index, broadcast_shapes_of, shape_of, static_int
from tracegrad.numpy.shape import expand_dims, moveaxis, ravel, reshape_to
from tracegrad.transforms.vmap import vmap

_DIMENSION = r"\w+"
_CORE = rf"\((?:{_DIMENSION}(?:,{_DIMENSION})*)?\)"
_SIGNATURE = re.compile(rf"^{_CORE}(?:,{_CORE})*->{_CORE}(?:,{_CORE})*$")


def _parse_signature(signature: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    text = re.sub(r"\s+", "", signature)
    if not _SIGNATURE.match(text):
        raise ValueError(f"not a valid gufunc signature: {signature}")
    sides = text.split("->")
    return tuple([tuple(re.findall(_DIMENSION, core)) for core in re.findall(_CORE, side)] for side in sides)  # type: ignore[return-value]


def vectorize(pyfunc: Callable[..., Any], *, excluded: Any = frozenset(), signature: str | None = None) -> Callable[..., Any]:
    """A function that broadcasts: `pyfunc` sees arrays of the core dimensions in `signature` (scalars by default)."""
    if any(not isinstance(x, (str, int)) for x in excluded):
        raise TypeError(f"jax.numpy.vectorize can only exclude integer or string arguments, but excluded={excluded!r}")
    if any(isinstance(x, int) and x < 0 for x in excluded):
        raise ValueError(f"excluded={excluded!r} contains negative numbers")

    @functools.wraps(pyfunc)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        held = {i: a for i, a in enumerate(args) if i in excluded or a is None}
        held_kwargs = {k: v for k, v in kwargs.items() if k in excluded}
        names = [k for k in kwargs if k not in excluded]
        moving = [a for i, a in enumerate(args) if i not in held] + [kwargs[k] for k in names]
        count = len(moving) - len(names)

        def call(*values: Any) -> Any:
            given, rest = iter(values[:count]), dict(zip(names, values[count:]))
            positional = [held[i] if i in held else next(given) for i in range(len(args))]
            return pyfunc(*positional, **rest, **held_kwargs)

        return _vectorized(pyfunc, call, moving, signature, f"vectorize({getattr(pyfunc, '__name__', pyfunc)})")

    return wrapped


def _vectorized(pyfunc: Any, call: Callable[..., Any], args: list[Any], signature: str | None, name: str) -> Any:
    arrays = [as_array(name, a, i) for i, a in enumerate(args)]
    if signature is not None:
        cores, out_cores = _parse_signature(signature)
        if len(cores) != len(arrays):
            raise TypeError(f"{name}: wrong number of positional arguments: expected {len(cores)}, got {len(arrays)}")
    else:
        cores, out_cores = [()] * len(arrays), None
    sizes: dict[str, int] = {}
    leads = []
    for x, core in zip(arrays, cores):
        shape = shape_of(x)
        if len(shape) < len(core):
            raise ValueError(f"{name}: an argument of shape {shape} does not have the core dimensions {core}")
        for d, n in zip(core, shape[len(shape) - len(core) :]):
            if sizes.setdefault(d, n) != n:
                raise ValueError(f"{name}: the core dimension {d!r} has sizes {sizes[d]} and {n}")
        leads.append(shape[: len(shape) - len(core)])
    batch = broadcast_shapes_of(name, *leads) if leads else ()

    def checked(*values: Any) -> Any:
        out = call(*values)
        if out_cores is None:
            return out
        results = out if isinstance(out, tuple) else (out,)
        if len(results) != len(out_cores):
            raise TypeError(f"{name}: wrong number of output arguments: expected {len(out_cores)}, got {len(results)}")
        for r, core in zip(results, out_cores):
            if len(shape_of(as_array(name, r))) != len(core):
                raise ValueError(f"{name}: output shape {shape_of(as_array(name, r))} does not match core dimensions {core}")
            for d, n in zip(core, shape_of(as_array(name, r))):
                if d in sizes and sizes[d] != n:
                    raise ValueError(
                        f"{name}: the output's core dimension {d!r} has size {n}, but is {sizes[d]} in the arguments"
                    )
        return out

    # from the last batch dimension outwards, each argument is mapped along those it has; those of size 1 are dropped
    arrays = [
        reshape_to(
            x,
            tuple([n for k, n in enumerate(lead) if n != 1 or batch[len(batch) - len(lead) + k] == 1]) + shape_of(x)[len(lead) :],
        )
        for x, lead in zip(arrays, leads)
    ]
    function = checked
    for k in range(len(batch) - 1, -1, -1):
        axes = []
        for lead in leads:
            own = k - (len(batch) - len(lead))
            axes.append(0 if own >= 0 and (lead[own] != 1 or batch[k] == 1) else None)
        if any(a is not None for a in axes):
            function = vmap(function, in_axes=tuple(axes), out_axes=0)
    return function(*arrays)


def apply_along_axis(func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, **kwargs: Any) -> Any:
    """`func1d` of every line along an axis; its result takes the line's place."""
    arr = as_array("apply_along_axis", arr, "arr")
    rank = len(shape_of(arr))
    i = axis_index("apply_along_axis", axis, rank)

    def function(line: Any) -> Any:
        return func1d(line, *args, **kwargs)

    for k in range(1, rank - i):
        function = vmap(function, in_axes=k, out_axes=-1)
    for _ in range(i):
        function = vmap(function, in_axes=0, out_axes=0)
    return function(arr)


def apply_over_axes(func: Callable[..., Any], a: Any, axes: Any) -> Any:
    """`func(a, axis)` for one axis after the other."""
    a = as_array("apply_over_axes", a, "a")
    rank = len(shape_of(a))
    for axis in axes if isinstance(axes, (tuple, list)) else (axes,):
        out = func(a, axis)
        if len(shape_of(out)) == rank:
            a = out
        elif len(shape_of(out)) == rank - 1:
            a = expand_dims(out, axis)
        else:
            raise ValueError("function is not returning an array of the correct shape")
    return a


class ufunc:
    """A function of scalars as a NumPy-like ufunc: it broadcasts, reduces, accumulates, and so on."""

    def __init__(
        self, func: Callable[..., Any], /, nin: int, nout: int, *, name: str | None = None, nargs: int | None = None,
        identity: Any = None, call: Any = None, reduce: Any = None, accumulate: Any = None, at: Any = None, reduceat: Any = None,
    ):  # fmt: skip
        self.func = func
        self.nin = static_int("ufunc", nin, "nin")
        self.nout = static_int("ufunc", nout, "nout")
        self.nargs = self.nin if nargs is None else nargs
        self.identity = identity
        self.__name__: str = name or getattr(func, "__name__", None) or "ufunc"
        self.__doc__ = getattr(func, "__doc__", None)
        self._call = call or vectorize(func)

    def __repr__(self) -> str:
        return f"<jnp.ufunc '{self.__name__}'>"

    def __call__(self, *args: Any, out: None = None, where: None = None) -> Any:
        if out is not None or where is not None:
            raise NotImplementedError(
                f"out and where arguments of {self!r} are not supported; use the returned array, and jnp.where to choose from it"
            )
        if len(args) != self.nin:
            raise TypeError(f"{self!r} takes {self.nin} arguments, got {len(args)}")
        return self._call(*args)

    def _binary(self, method: str) -> None:
        if self.nin != 2 or self.nout != 1:
            raise ValueError(f"{method} only supported for functions of two arguments with one result, which {self!r} is not")

    def reduce(
        self,
        a: Any,
        axis: Any = 0,
        dtype: Any = None,
        out: None = None,
        keepdims: bool = False,
        initial: Any = None,
        where: Any = None,
    ) -> Any:
        """Combine the elements along an axis, from the first to the last."""
        from tracegrad.tracer.control_flow import scan

        self._binary("reduce")
        if where is not None or out is not None:
            raise NotImplementedError(
                f"where and out arguments of {self!r}.reduce are not supported; use the returned array, and jnp.where on the operand"
            )
        a = as_array(self.__name__, a)
        a = a if dtype is None else a.astype(dtype)
        shape = shape_of(a)
        if axis is None:
            a, i = ravel(a), 0
        elif isinstance(axis, (tuple, list)):
            raise NotImplementedError(
                f"{self!r}.reduce takes one axis; reduce along one after the other, or reshape them into one"
            )
        else:
            i = axis_index(self.__name__, axis, len(shape))
        lines = moveaxis(a, i, 0)
        if initial is None and self.identity is not None and shape_of(lines)[0] == 0:
            initial = self.identity
        if initial is None:
            if shape_of(lines)[0] == 0:
                raise ValueError(f"zero-size array to reduction operation {self.__name__} which has no identity")
            start, rest = lines[0], lines[1:]
        else:
            from tracegrad.numpy.creation import full

            start, rest = full(shape_of(lines)[1:], initial, a.dtype), lines
        result = scan(lambda total, x: (self(total, x).astype(a.dtype), None), start, rest)[0]
        if keepdims:
            result = reshape_to(result, (1,) * len(shape) if axis is None else shape[:i] + (1,) + shape[i + 1 :])
        return result

    def accumulate(self, a: Any, axis: int = 0, dtype: Any = None, out: None = None) -> Any:
        """The combinations of the elements up to each one."""
        from tracegrad.tracer.control_flow import scan

        self._binary("accumulate")
        a = as_array(self.__name__, a)
        a = a if dtype is None else a.astype(dtype)
        i = axis_index(self.__name__, axis, len(shape_of(a)))
        lines = moveaxis(a, i, 0)

        def step(total: Any, x: Any) -> Any:
            total = self(total, x).astype(a.dtype)
            return total, total

        rest = scan(step, lines[0], lines[1:])[1]
        return moveaxis(ops.concatenate([ops.reshape(lines[0], (1, *shape_of(lines)[1:])), rest], 0), 0, i)

    def at(self, a: Any, indices: Any, b: Any = None, /, *, inplace: bool = True) -> Any:
        """A copy of `a` with the function applied at indices (with the operand `b`)."""
        if inplace:
            raise NotImplementedError("arrays are immutable; pass inplace=False and use the returned array")
        a = as_array(self.__name__, a)
        if b is None:
            return a.at[indices].apply(self)
        from tracegrad.tracer.control_flow import scan

        self._binary("at")
        places = np.arange(a.size).reshape(shape_of(a))[indices] if not hasattr(indices, "interpreter") else indices
        flat_places, values = ravel(asarray(places)), ravel(asarray(np.zeros(np.shape(places))) + b)

        def step(flat: Any, pair: Any) -> Any:
            place, value = pair
            return flat.at[place].set(self(flat[place], value).astype(a.dtype)), None

        return reshape_to(scan(step, ravel(a), (flat_places, values.astype(a.dtype)))[0], shape_of(a))

    def outer(self, A: Any, B: Any, /) -> Any:
        """The function of every element of A with every element of B."""
        self._binary("outer")
        A, B = as_array(self.__name__, A, 0), as_array(self.__name__, B, 1)
        return self(reshape_to(A, shape_of(A) + (1,) * len(shape_of(B))), B)


def frompyfunc(func: Callable[..., Any], /, nin: int, nout: int, *, identity: Any = None) -> ufunc:
    """A function of scalars as a ufunc."""
    return ufunc(func, nin, nout, identity=identity)


def attach_methods(functions: dict[str, Callable[..., Any]], reductions: dict[str, Callable[..., Any]]) -> None:
    """Give binary functions the methods of ufuncs: reduce, accumulate, at, outer. `reductions` are those with a primitive."""
    for name, function in functions.items():
        methods = ufunc(function, 2, 1, name=name, call=function)
        reduce = reductions.get(name)
        function.reduce = methods.reduce if reduce is None else _reducer(reduce)  # type: ignore[attr-defined]
        function.accumulate = methods.accumulate  # type: ignore[attr-defined]
        function.at = methods.at  # type: ignore[attr-defined]
        function.outer = methods.outer  # type: ignore[attr-defined]
        function.nin, function.nout, function.nargs = 2, 1, 2  # type: ignore[attr-defined]


def _reducer(reduction: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(
        a: Any, axis: Any = 0, dtype: Any = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None
    ) -> Any:
        """Combine the elements along an axis (0 by default)."""
        options = {k: v for k, v in (("dtype", dtype), ("out", out), ("initial", initial), ("where", where)) if v is not None}
        return reduction(a, axis=axis, keepdims=keepdims, **options)

    return reduce
