"""A compiled program: native code, and what to do around a call of it.

The native function computes only what must be computed. Results that are inputs, literals or constants, and results asked for
twice, are settled here when the program is compiled, and cost nothing in a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.codegen.tape_memory import NO_MEMORY
from tracegrad.ir.program import Literal, Program, Var
from tracegrad.ir.types import ArrayType, is_key, is_tape
from tracegrad.runtime import callbacks, engine, tapes
from tracegrad.runtime.array import ArrayImpl, wrap
from tracegrad.runtime.buffers import ALIGNMENT, ARENA, allocate, pointer, result
from tracegrad.runtime.compilation import Compiled, compiled
from tracegrad.tracer import errors
from tracegrad.tracer.tracer import Tracer


def physical(t: ArrayType) -> tuple[tuple[int, ...], Any]:
    """The shape and dtype of the memory of a value of type `t`."""
    if is_key(t.dtype):
        return (*t.shape, *t.dtype.base_shape), np.dtype(np.uint32)
    return t.shape, _WORD if is_tape(t.dtype) else t.dtype


_WORD = np.dtype(np.uint64)


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


def reusable(in_types: Sequence[ArrayType], places: Sequence[tuple[str, Any]], donated: Sequence[int]) -> tuple[int, ...]:
    """The donated inputs whose memory native code may have: of large arrays of numbers that are not returned as they are (`settle`)."""
    if not donated:
        return ()
    from tracegrad.runtime import donation

    returned = {which for kind, which in places if kind == "input"}
    large = [i for i in donated if i not in returned and in_types[i].nbytes >= donation.SMALLEST]
    numbers = [i for i in large if not is_key(in_types[i].dtype) and not is_tape(in_types[i].dtype)]
    return tuple(numbers) if donation.possible() else ()


def _memory(t: ArrayType) -> tuple[tuple[int, ...], Any, int]:
    shape, dtype = physical(t)
    return shape, dtype, prod(shape) * dtype.itemsize


class _Frame:
    """The two arrays of pointers of one call of native code, kept for the next call. The word behind the outputs is for tapes."""

    __slots__ = ("parts",)

    def __init__(self, inputs: int, outputs: int):
        i = (ctypes.c_size_t * max(inputs, 1))()
        o = (ctypes.c_size_t * (outputs + 1))()
        self.parts = (i, o, ctypes.addressof(i), ctypes.addressof(o))


class Executable:
    """Callable: takes the values of a program's inputs, returns its outputs as arrays.

    program: the traced program, for the types; optimized: the same after the passes, which is what is compiled; donated: the inputs
    whose arrays a call takes over.
    """

    def __init__(self, program: Program, optimized: Program, name: str, donated: Sequence[int] = ()):
        self.name = name
        self.in_types = program.in_types
        self.out_types = program.out_types
        self.computed, places = settle(optimized)
        self.sources: list[tuple[str, Any]] = [
            (kind, wrap(which, t)._np if kind == "constant" else which) for (kind, which), t in zip(places, self.out_types)
        ]
        self.has_tapes = any([is_tape(t.dtype) for t in (*self.in_types, *self.out_types)])
        self._plain = all(kind == "result" for kind, _ in places) and len(self.computed.outputs) == len(places)
        self.donated = reusable(self.in_types, places, donated)
        self.takes_over = True
        """Whether donated arrays are overwritten, rather than copies of them."""
        self.overwritten: dict[int, int | None] = {}
        """Inputs whose memory native code overwrites, with the result that comes to lie there; None if that is none."""
        self.code: Compiled | None = None
        self._entry: Any = None
        self._constants: Any = None
        if self.computed.outputs or self.computed.has_effects:
            self._load(compiled(self.computed, name, program, self.donated))

    def _load(self, code: Compiled) -> None:
        self.code = code
        self._entry = engine.load(code.object_code, code.symbol, code.externals)
        self.entry_address = ctypes.cast(self._entry, ctypes.c_void_p).value or 0
        self._arrays = [np.ascontiguousarray(c) for c in code.constants]
        handles = [callbacks.handle(*c) for c in code.callbacks]
        slots = [*map(pointer, self._arrays), *handles]
        self._slots = (ctypes.c_size_t * max(len(slots), 1))(*slots)
        self._constants = self.constants_address = ctypes.addressof(self._slots)
        self.memory = [_memory(a.type) for a in self.computed.outputs]
        self._arena_size = code.arena_size
        self.overwritten = dict(code.overwritten)
        self._same = {k: i for i, k in code.overwritten if k is not None}
        self.has_effects = self.computed.has_effects or bool(code.callbacks)
        self._returns_tapes = "tg.tapes.new" in code.externals and any([is_tape(a.type.dtype) for a in self.computed.outputs])
        self._frames: list[_Frame] = []

    def __call__(self, args: Sequence[Any]) -> list[ArrayImpl]:
        """The outputs for values (arrays, NumPy arrays, numbers) of exactly the input types."""
        if self.overwritten:
            args = self._owned(args)
        arrays = [x._np if type(x) is ArrayImpl else _convert(x, t) for x, t in zip(args, self.in_types)]
        if self.has_tapes:
            arrays = [_words(x, t) if is_tape(t.dtype) else x for x, t in zip(arrays, self.in_types)]
        results: list[np.ndarray] = []
        if self._entry is not None:
            self._run(arrays, results)
        if self._plain:
            return [ArrayImpl(r, t) for r, t in zip(results, self.out_types)]
        return [self._output(kind, i, t, args, arrays, results) for (kind, i), t in zip(self.sources, self.out_types)]

    def _owned(self, args: Sequence[Any]) -> list[Any]:
        """The arguments; of those that native code overwrites, the data if nobody else has them, else copies. Donated arrays are deleted."""
        from tracegrad.runtime import donation

        owned = list(args)
        for i in self.overwritten:
            x, t = args[i], self.in_types[i]
            free = False
            if type(x) is ArrayImpl and self.takes_over and not any(y is x for j, y in enumerate(args) if j != i):
                data, free = donation.given_up(x)
            else:
                data = x._np if type(x) is ArrayImpl else _convert(x, t)
            if not free:
                mine, address = result(t.shape, t.dtype, t.nbytes)
                data = np.ascontiguousarray(data)
                ctypes.memmove(address, pointer(data), t.nbytes)
                data = mine
            owned[i] = data
        return owned

    def _run(self, arrays: list[np.ndarray], results: list[np.ndarray]) -> None:
        """Call the native code on arrays, which are made contiguous in place; append its results."""
        try:
            frame = self._frames.pop()  # a frame in use belongs to one call: others may run, on other threads or from callbacks
        except IndexError:
            frame = _Frame(len(arrays), len(self.memory))
        inputs, outputs, inputs_at, outputs_at = frame.parts
        for i, a in enumerate(arrays):
            if not a.flags.c_contiguous:
                arrays[i] = a = np.ascontiguousarray(a)
            inputs[i] = pointer(a)
        same = self._same
        for i, (shape, dtype, nbytes) in enumerate(self.memory):
            if i in same:
                x = arrays[same[i]]
                outputs[i] = pointer(x)
                if x.shape != shape or x.dtype != dtype:
                    x = np.ndarray(shape, dtype, x)
            else:
                x, outputs[i] = result(shape, dtype, nbytes)
            results.append(x)
        if self.has_effects:
            # A program that calls back into Python needs scratch memory of its own: others may run before it returns.
            block = allocate(self._arena_size + ALIGNMENT)
            start = pointer(block)
            status = self._entry(inputs_at, outputs_at, self._constants, start + (-start & (ALIGNMENT - 1)))
        else:
            status = self._entry(
                inputs_at, outputs_at, self._constants, ARENA.reserve(self._arena_size) if self._arena_size else None
            )
        made = outputs[len(results)] if self._returns_tapes else 0
        self._frames.append(frame)
        if self.has_tapes and not status:
            self._own(made, arrays, results)
        if status or self.has_effects:
            self.raise_status(status)

    def raise_status(self, status: int) -> None:
        """Raise what native code has returned with, or what a callback has left."""
        if status == NO_MEMORY:
            raise MemoryError(
                f"{self.name}: no memory for the values that a loop of unknown length keeps for reverse mode, or more than 2^31 - 1 steps"
            )
        callbacks.raise_pending(status)

    def _own(self, made: int, arrays: list[np.ndarray], results: list[np.ndarray]) -> None:
        """Let the arrays of tapes among the results keep the tapes alive, those made by the call and those they have from its inputs."""
        which = [i for i, a in enumerate(self.computed.outputs) if is_tape(a.type.dtype)]
        words = tapes.own(made, arrays, [(results[i], self.computed.outputs[i].type) for i in which])
        for i, x in zip(which, words):
            results[i] = x

    def _output(
        self, kind: str, which: Any, t: ArrayType, args: Sequence[Any], arrays: list[np.ndarray], results: list[np.ndarray]
    ) -> ArrayImpl:
        # Always a new array, though its data may be shared: the caller may delete or donate it.
        if kind == "result":
            return ArrayImpl(results[which], t)
        if kind == "constant":
            return ArrayImpl(which, t)
        x = args[which]
        if type(x) is ArrayImpl:
            return ArrayImpl(x._np, t)
        return wrap(np.array(arrays[which]), t)  # a copy: the caller may write to their NumPy array


def _words(x: np.ndarray, t: ArrayType) -> np.ndarray:
    """The addresses of tapes, which are written to native memory if they are in NumPy's hands."""
    return tapes.to_words(x, t) if x.dtype == object else x


def _convert(x: Any, t: ArrayType) -> np.ndarray:
    if isinstance(x, ArrayImpl):
        return x._np  # a deleted array: raises
    if isinstance(x, Tracer):
        raise errors.escaped_tracer_error(x)
    x = np.asarray(x, t.dtype)
    return x if x.flags.aligned else x.copy()
