"""A compiled program: native code, and what to do around a call of it.

The native function computes only what must be computed. Results that are inputs, literals or constants, and results asked for
twice, are settled here when the program is compiled, and cost nothing in a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir.program import Literal, Program, Var
from tracegrad.ir.types import ArrayType, is_key
from tracegrad.runtime import callbacks, engine
from tracegrad.runtime.array import ArrayImpl, wrap
from tracegrad.runtime.buffers import ARENA, empty
from tracegrad.runtime.compilation import Compiled, compiled

_DATA_OFFSET = object.__basicsize__


def _data_field_is_where_it_is_public() -> bool:
    """Whether an ndarray's data pointer follows its head, as numpy/ndarraytypes.h says."""
    probe = np.empty(3)
    return ctypes.c_void_p.from_address(id(probe) + _DATA_OFFSET).value == probe.ctypes.data


if _data_field_is_where_it_is_public():
    _read = ctypes.c_void_p.from_address

    def pointer(x: np.ndarray) -> int:
        """The address of an array's first element."""
        return _read(id(x) + _DATA_OFFSET).value or 0

else:

    def pointer(x: np.ndarray) -> int:
        """The address of an array's first element."""
        return int(x.__array_interface__["data"][0])


def physical(t: ArrayType) -> tuple[tuple[int, ...], Any]:
    """The shape and dtype of the memory of a value of type `t`."""
    if is_key(t.dtype):
        return (*t.shape, *t.dtype.base_shape), np.dtype(np.uint32)
    return t.shape, t.dtype


def settle(optimized: Program) -> tuple[Program, list[tuple[str, Any]]]:
    """What is left to compute, and where each output comes from: ("result", its index there), ("input", its index) or
    ("constant", a fresh array)."""
    inputs = {v: i for i, v in enumerate(optimized.inputs)}
    constants = {c.var: c.value for c in optimized.constants}
    computed: dict[Var, int] = {}
    places: list[tuple[str, Any]] = []
    for a in optimized.outputs:
        if isinstance(a, Literal):
            places.append(("constant", np.array(a.value, a.type.dtype)))
        elif a in inputs:
            places.append(("input", inputs[a]))
        elif a in constants:
            places.append(("constant", np.array(constants[a])))
        else:
            places.append(("result", computed.setdefault(a, len(computed))))
    return optimized.replace(outputs=tuple(computed)), places


class Executable:
    """Callable: takes the values of a program's inputs, returns its outputs as arrays.

    program: the traced program, for the types; optimized: the same after the passes, which is what is compiled.
    """

    def __init__(self, program: Program, optimized: Program, name: str):
        self.name = name
        self.in_types = program.in_types
        self.out_types = program.out_types
        self.computed, places = settle(optimized)
        self.sources: list[tuple[str, Any]] = [
            (kind, wrap(which, t) if kind == "constant" else which) for (kind, which), t in zip(places, self.out_types)
        ]
        self._plain = all(kind == "result" for kind, _ in places) and len(self.computed.outputs) == len(places)
        self.code: Compiled | None = None
        self._entry: Any = None
        self._constants: Any = None
        if self.computed.outputs or self.computed.has_effects:
            self._load(compiled(self.computed, name, program))

    def _load(self, code: Compiled) -> None:
        self.code = code
        self._entry = engine.load(code.object_code, code.symbol, code.externals)
        self._arrays = [np.ascontiguousarray(c) for c in code.constants]
        handles = [callbacks.handle(*c) for c in code.callbacks]
        slots = [*map(pointer, self._arrays), *handles]
        self._constants = (ctypes.c_void_p * max(len(slots), 1))(*slots)
        self._in = [physical(t)[1] for t in self.in_types]
        self._out = [physical(a.type) for a in self.computed.outputs]
        self._in_pointers = ctypes.c_void_p * max(len(self._in), 1)
        self._out_pointers = ctypes.c_void_p * max(len(self._out), 1)
        self._arena_size = code.arena_size
        self._effects = self.computed.has_effects or bool(code.callbacks)

    def __call__(self, args: Sequence[Any]) -> list[ArrayImpl]:
        """The outputs for values (arrays, NumPy arrays, numbers) of exactly the input types."""
        arrays = []
        for x, t in zip(args, self.in_types):
            a = x._np if type(x) is ArrayImpl else _convert(x, t)
            if not a.flags.c_contiguous:
                a = np.ascontiguousarray(a)
            arrays.append(a)
        results: list[np.ndarray] = []
        if self._entry is not None:
            results = [empty(shape, dtype) for shape, dtype in self._out]
            # A program that calls back into Python needs memory of its own: others may run before it returns.
            block = empty((self._arena_size,), np.uint8) if self._effects else None
            status = self._entry(
                self._in_pointers(*map(pointer, arrays)),
                self._out_pointers(*map(pointer, results)),
                self._constants,
                ARENA.reserve(self._arena_size) if block is None else pointer(block),
            )
            if status or self._effects:
                callbacks.raise_pending(status)
        if self._plain:
            return [wrap(r, t) for r, t in zip(results, self.out_types)]
        return [self._output(kind, i, t, args, arrays, results) for (kind, i), t in zip(self.sources, self.out_types)]

    def _output(
        self, kind: str, which: Any, t: ArrayType, args: Sequence[Any], arrays: list[np.ndarray], results: list[np.ndarray]
    ) -> ArrayImpl:
        if kind == "result":
            return wrap(results[which], t)
        if kind == "constant":
            return which  # type: ignore[no-any-return]
        x = args[which]
        if type(x) is ArrayImpl:
            return x if x.aval is t else ArrayImpl(x._np, t)
        return wrap(np.array(arrays[which]), t)  # a copy: the caller may write to their NumPy array


def _convert(x: Any, t: ArrayType) -> np.ndarray:
    if isinstance(x, ArrayImpl):
        return x._np  # a deleted array: raises
    return np.asarray(x, t.dtype)
