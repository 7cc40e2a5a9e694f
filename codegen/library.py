"""Routines that compiled programs call: kernels of our own, and the BLAS, LAPACK, FFT and special functions of NumPy and SciPy.

A `Routine` is a kernel (`codegen.kernel`) over whole row-major buffers, made for given types: inputs, outputs, scratch memory.
External functions are known by symbols (`tg.lapack.dpotrf`), which the runtime resolves to addresses when it loads object code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Kernel
from tracegrad.ir.types import ArrayType

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


def lower_by(
    make: Callable[..., Routine], core: int | None = None, work: Callable[[Sequence[ArrayType]], float] | None = None
) -> Callable[[Any, Any], Any]:
    """The lowering rule of a primitive whose whole work is a routine: `make(*in_types, **params)` gives it.

    core, work: where all operands and results are batches of examples, how many of the first operand's dimensions are those of one
    example, and about how many operations all of them take. A batch with enough work is cut into tasks; `make` gets types with one
    dimension for the examples then.
    """

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
        elif core is None or work is None or ctx.b.parallel_depth or work(types) < PARALLEL_WORK:
            call_routine(ctx, make(*types, **eqn.params), eqn.inputs, eqn.outputs)
        else:
            lead = len(types[0].shape) - core
            examples = math.prod(types[0].shape[:lead])

            def part(count: int) -> Routine:
                return make(*[t.update(shape=(count, *t.shape[lead:])) for t in types], **eqn.params)

            call_in_tasks(ctx, part, examples, -(-examples // TASKS), eqn.inputs, eqn.outputs)

    return lower


PARALLEL_WORK = 300_000
"""Batches that take about so many operations are cut into tasks,"""
TASKS = 8
"""at most so many of them: how many does not depend on the number of threads, for what is computed together may round together."""


def call_routine(ctx: Any, routine: Routine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Call a routine on dense memory, and define the outputs."""
    call_in_tasks(ctx, lambda count: routine, 1, 1, inputs, outputs)


def call_in_tasks(
    ctx: Any,
    part: Callable[[int], Routine],
    examples: int,
    each: int,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    steps: Sequence[int] | None = None,
) -> None:
    """Call the routines `part(count)` on runs of `each` of so many examples, as tasks if there are several runs, and define the outputs.

    steps: how far apart the examples lie in each operand and result, in elements; by default as far as they are large.
    """
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
    runs = -(-examples // each)
    sizes = (each, examples - (runs - 1) * each)
    routines = {count: part(count) for count in sizes}
    room = max([routine.scratch for routine in routines.values()] + [64])
    room += -room % 64  # tasks that share lines of a cache wait for each other
    scratch = b.temporary(np.uint8, room * runs)
    views = [*sources, *targets]
    steps = [v.type.size // examples for v in views] if steps is None else steps

    def call(routine: Routine, task: Any) -> tuple[()]:
        ctx.lowering.function.helpers[routine.name] = routine
        starts = [
            (v.offset + task * (each * step)) * (2 if v.type.dtype.kind == "c" else 1)
            for v, step in zip(views, steps, strict=True)
        ]
        arguments = [b.address(v.buffer, start) for v, start in zip(views, starts, strict=True)]
        b.call(
            routine.name,
            [*arguments, b.address(scratch, task * room)],
            reads=[s.buffer for s in sources],
            writes=[*[t.buffer for t in targets], scratch],
        )
        return ()

    if runs == 1:
        call(routines[examples], 0)
    else:
        with b.parallel(runs, frozenset((*[t.buffer for t in targets], scratch))) as task:
            if sizes[0] == sizes[1]:
                call(routines[each], task)
            else:
                last = b.op("icmp", "i1", b.index(task), b.const("i64", runs - 1), attr="eq")
                b.switch(last, [lambda: call(routines[sizes[1]], task), lambda: call(routines[each], task)])
    for v, target in zip(outputs, targets, strict=True):
        ctx.define(v, target)
