"""Batching: computing a function of one example for many examples at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tracegrad.ir import source
from tracegrad.ir.bind import Interpreter, bind, current, type_of, using
from tracegrad.ir.control_flow import scan_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Program
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.rules import add_dim, move_dim
from tracegrad.transforms.staged import cached, stage
from tracegrad.transforms.tape_values import batched, move_tape_dim, unbatched
from tracegrad.transforms.zero import Axis


class BatchTracer(Tracer):
    """One example, standing for all: `value` holds them along its dimension `dim`."""

    __slots__ = ("value", "dim")

    def __init__(self, interpreter: Any, value: Any, dim: int):
        self.interpreter = interpreter
        self.aval = unbatched(type_of(value), dim)
        self.value = value
        self.dim = dim

    def origin(self) -> str:
        return "being batched by vmap"

    def owner(self) -> str:
        return "a function that is being batched by vmap"


class BatchInterpreter:
    """Applies batching rules. A value without the batch axis is not wrapped."""

    __slots__ = ("parent", "axis", "closed")

    def __init__(self, parent: Interpreter, axis: Axis):
        self.parent = parent
        self.axis = axis
        self.closed = False

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        dims: list[int | None] | None = None
        for i, a in enumerate(args):
            if type(a) is BatchTracer and a.interpreter is self:
                if dims is None:
                    dims = [None] * len(args)
                    values = list(args)
                dims[i] = a.dim
                values[i] = a.value
        if dims is None:
            if self.axis.name is None or not concerns(self.axis.name, primitive, params):
                return self.parent.process(primitive, args, params)
            # A collective over this axis acts on values that every example shares, too.
            dims, values = [None] * len(args), list(args)
        with using(self.parent), source.keeping():
            outs, out_dims = primitive.rule("batch")(self.axis, values, dims, **params)
        return tuple([x if d is None else BatchTracer(self, x, d) for x, d in zip(outs, out_dims)])


def concerns(name: Any, primitive: Primitive, params: dict[str, Any]) -> bool:
    """Whether an operation is a collective over the axis, or holds one."""
    if "axis_name" in params:
        return bool(params["axis_name"] == name)
    for region in primitive.regions:
        programs = params[region]
        if any([_mentions(p, name) for p in (programs if isinstance(programs, tuple) else (programs,))]):
            return True
    return False


@cached
def _mentions(program: Program, name: Any) -> bool:
    return any(e.params.get("axis_name") == name for e in program.walk() if "axis_name" in e.params)


_axes: ContextVar[tuple[Axis, ...]] = ContextVar("tracegrad_named_axes", default=())


@contextmanager
def naming(axis: Axis) -> Iterator[None]:
    """Inside the block `axis` is found by its name, also while an inner function is traced for jit or differentiated."""
    if axis.name is None:
        yield
        return
    token = _axes.set((*_axes.get(), axis))
    try:
        yield
    finally:
        _axes.reset(token)


def named_axis(name: Any) -> Axis:
    """The innermost batch axis of this name. Raises NameError if there is none, as JAX does."""
    for axis in reversed(_axes.get()):
        if axis.name == name:
            return axis
    known = ", ".join(repr(a.name) for a in _axes.get()) or "none"
    raise NameError(f"unbound axis name: {name!r}. Axes are named by vmap(..., axis_name={name!r}); in scope here: {known}")


def named_axes() -> tuple[Axis, ...]:
    """All named axes in scope, the innermost last."""
    return _axes.get()


def batch_flat(
    fun: Callable[..., Sequence[Any]], axis: Axis, args: Sequence[Any], dims: Sequence[int | None]
) -> tuple[list[Any], list[int | None]]:
    """Apply `fun`, a function of flat examples, to arguments batched along `dims`; the results and their batch dimensions."""
    interpreter = BatchInterpreter(current(), axis)
    tracers = [x if d is None else BatchTracer(interpreter, x, d) for x, d in zip(args, dims, strict=True)]
    try:
        with using(interpreter), naming(axis):
            outs = fun(*tracers)
    finally:
        interpreter.closed = True
    values: list[Any] = []
    out_dims: list[int | None] = []
    for x in outs:
        own = type(x) is BatchTracer and x.interpreter is interpreter
        values.append(x.value if own else x)
        out_dims.append(x.dim if own else None)
    return values, out_dims


def to_dim(x: Any, dim: int | None, to: int | None, size: int) -> Any:
    """`x` with its batch dimension where it is wanted; repeated if it has none. It cannot be taken away."""
    if to is None or dim == to:
        return x
    if to < 0 or dim is not None and dim < 0:
        return move_tape_dim(x, dim, to, size)
    return add_dim(x, to, size) if dim is None else move_dim(x, dim, to)


@cached
def batch_program(
    program: Program, axis: Axis, dims: tuple[int | None, ...], wanted: tuple[int | None, ...] | None = None
) -> tuple[Program, tuple[int | None, ...]]:
    """Batching as a program. `wanted`: where outputs must have their batch dimension (None: as it comes).

    Returns the program and the outputs' batch dimensions.
    """
    out_dims: tuple[int | None, ...] = ()

    def fun(*values: Any) -> list[Any]:
        nonlocal out_dims
        outs, found = batch_flat(lambda *xs: run(program, *xs), axis, values, dims)
        if wanted is not None:
            outs = [to_dim(x, d, to, axis.size) for x, d, to in zip(outs, found, wanted)]
            found = [d if to is None else to for d, to in zip(found, wanted)]
        out_dims = tuple(found)
        return outs

    types = [t if d is None else batched(t, d, axis.size) for t, d in zip(program.in_types, dims, strict=True)]
    return stage(fun, types, program.name), out_dims


def one_by_one(
    axis: Axis, args: Sequence[Any], dims: Sequence[int | None], primitive: Primitive, params: dict[str, Any]
) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Batching as a loop over the examples, each of which goes its own way."""
    fixed = [x for x, d in zip(args, dims) if d is None]
    scanned = [to_dim(x, d, 0, axis.size) for x, d in zip(args, dims) if d is not None]

    def one(*values: Any) -> Sequence[Any]:
        shared, own = iter(values[: len(fixed)]), iter(values[len(fixed) :])
        return bind(primitive, *[next(shared if d is None else own) for d in dims], **params)

    types = [type_of(x) for x in fixed]
    types += [unbatched(type_of(x), 0) for x in scanned]
    body = stage(one, types, primitive.name)
    loop = {"length": axis.size, "reverse": False, "num_consts": len(fixed), "num_carry": 0, "unroll": 1}
    outs = bind(scan_p, *fixed, *scanned, body=body, **loop)
    return outs, (0,) * len(outs)
