"""Routines that compiled programs call: kernels of our own, and the BLAS, LAPACK, FFT and special functions of NumPy and SciPy.

A `Routine` is a kernel (`codegen.kernel`) over whole row-major buffers, made for given types: inputs, outputs, scratch memory.
External functions are known by symbols (`tg.lapack.dpotrf`), which the runtime resolves to addresses when it loads object code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Kernel

THREADS = "tg.threads.set"
"""`int (int)`: sets how many threads BLAS uses, and gives the old number."""

_LETTERS = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}


def lapack_symbol(name: str, dtype: Any) -> str:
    """The symbol of a LAPACK routine, named without its letter for the dtype. Fortran's conventions, 32-bit integers."""
    return f"tg.lapack.{_LETTERS[np.dtype(dtype).name]}{name}"


def blas_symbol(name: str, dtype: Any) -> str:
    """The symbol of a BLAS routine, named without its letter."""
    return f"tg.blas.{_LETTERS[np.dtype(dtype).name]}{name}"


@contextmanager
def one_thread(k: Kernel) -> Iterator[None]:
    """BLAS and LAPACK called in the block use one thread.

    OpenBLAS divides even small products evenly among its threads and waits for the last of them. When another process has one of
    the cores that costs a time slice of the scheduler: factorizing 50 rows took 28 ms instead of 0.2. Two threads that do this
    at once may leave BLAS with more threads than either wanted for the moment, never with fewer in the end.
    """
    old = k.call(THREADS, [k.value(1, "i32")], "i32")
    assert old is not None
    yield
    with k.if_(old > 1):
        k.call(THREADS, [old], "i32")


THREADED_SIZE = 512
"""From this many rows or columns on, LAPACK may use the threads of BLAS."""


def threads_for(k: Kernel, size: int) -> AbstractContextManager[None]:
    """One thread for factorizations of matrices that are not large."""
    return one_thread(k) if size < THREADED_SIZE else nullcontext()


def fft_symbol(name: str, real: Any) -> str:
    """The symbol of an inner loop of NumPy's pocketfft: of the ufunc `name`, in the precision of the dtype `real`."""
    return f"tg.fft.{_LETTERS[np.dtype(real).name]}.{name}"


def fft_data_symbol(name: str, real: Any) -> str | None:
    """The symbol of the datum that goes with the loop (it says the direction); None where there is none."""
    return f"{fft_symbol(name, real)}.data" if name in ("fft", "ifft") else None


def special_symbol(name: str) -> str:
    """The symbol of a function of scipy.special.cython_special, by its C name there; its last argument is an int, 0."""
    return f"tg.special.{name}"


class Routine:
    """A kernel with the kernels that it calls.

    definitions: LLVM text by function name (a module holds each once, whoever needs it); declarations: of external symbols;
    scratch: how many bytes of scratch memory a call needs.
    """

    __slots__ = ("name", "definitions", "declarations", "scratch")

    def __init__(self, kernel: Kernel, scratch: int = 0, helpers: Iterable[Kernel] = ()):
        self.name = kernel.name
        self.definitions: dict[str, str] = {}
        self.declarations: dict[str, str] = {}
        for k in (*helpers, kernel):
            self.definitions[k.name] = k.text()
            self.declarations.update(k.externals)
        self.scratch = scratch


def lower_by(make: Callable[..., Routine]) -> Callable[[Any, Any], Any]:
    """The lowering rule of a primitive whose whole work is a routine: `make(*in_types, **params)` gives it."""

    def lower(ctx: Any, eqn: Any) -> None:
        types = [a.type for a in eqn.inputs]
        if all(v.type.size == 0 for v in eqn.outputs):
            for v in eqn.outputs:
                ctx.define(v, ctx.temporary(v.type))
        elif all(t.size == 0 for t in types):
            # without data the result is known now
            values = eqn.primitive.evaluate(*[np.zeros(t.shape, t.dtype) for t in types], **eqn.params)
            for v, value in zip(eqn.outputs, values, strict=True):
                ctx.define(v, ctx.constant(value, v.type))
        else:
            call_routine(ctx, make(*types, **eqn.params), eqn.inputs, eqn.outputs)

    return lower


def call_routine(ctx: Any, routine: Routine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Call a routine on dense memory, and define the outputs."""
    b = ctx.b
    sources = [ctx.dense(a) for a in inputs]
    taken = {s.buffer for s in sources}
    targets = []
    for v in outputs:
        target = ctx.allocate(v)
        if target.buffer in taken or not target.is_dense:
            target = ctx.temporary(v.type)
        ctx.before_overwrite(target.buffer)
        taken.add(target.buffer)
        targets.append(target)
    scratch = b.temporary(np.uint8, max(routine.scratch, 64))
    ctx.lowering.function.helpers[routine.name] = routine

    def pointer(view: Any) -> Any:
        return b.address(view.buffer, view.offset * (2 if view.type.dtype.kind == "c" else 1))

    arguments = [*map(pointer, sources), *map(pointer, targets), b.address(scratch)]
    reads, writes = [s.buffer for s in sources], [*[t.buffer for t in targets], scratch]
    b.call(routine.name, arguments, reads=reads, writes=writes)
    for v, target in zip(outputs, targets, strict=True):
        ctx.define(v, target)
