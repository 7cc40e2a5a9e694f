"""The loop level: what stands between tensors and LLVM.

A `Function` is structured code: nests of loops with scalar values in SSA form, loads and stores at linear positions of buffers,
loop-carried scalars, conditionals, calls into libraries. Everything that matters for speed is decided and visible here: what was
fused, what lives in registers, what is written in place, where a temporary lies in the arena.

    for %i in 0..4096 {
      %1: f32 = load in0[%i]
      %2: f32 = fmul %1, 2.0
      store out0[%i] = %2
    }

Positions are affine expressions of loop counters (`Affine`), so that slices, transpositions and reversals cost nothing and two
accesses can be compared without knowing anything about the arithmetic in between.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

# ------------------------------------------------------------------------------------------------------------------- scalars

MEMORY_TYPES = {
    "bool": "i8",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "i8",
    "uint16": "i16",
    "uint32": "i32",
    "uint64": "i64",
    "float16": "f16",
    "bfloat16": "i16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "f32",
    "complex128": "f64",
}
"""The scalar type in which an element of each dtype lies in memory; a complex number is two of them."""

_MEMORY_TYPES: dict[Any, str] = {}

SIZES = {"i1": 1, "i8": 1, "i16": 2, "f16": 2, "i32": 4, "f32": 4, "i64": 8, "f64": 8, "ptr": 8}


class Value:
    """A scalar in SSA form, and at once the operation that gives it.

    op: the operation ("const", "param" for what a loop or branch binds, or an LLVM opcode); attr: what the operation needs beside
    operands (a constant, a predicate, a buffer); level: the depth of the scope that holds it; low, high: bounds, where known.
    """

    __slots__ = ("op", "type", "args", "attr", "level", "number", "low", "high")

    def __init__(self, op: str, type: str, args: tuple[Any, ...], attr: Any, level: int, number: int):
        self.op = op
        self.type = type
        self.args = args
        self.attr = attr
        self.level = level
        self.number = number
        self.low: int | None = None
        self.high: int | None = None

    @property
    def is_const(self) -> bool:
        return self.op == "const"

    def __repr__(self) -> str:
        return repr(self.attr) if self.op == "const" else f"%{self.number}"


class Affine:
    """`constant + sum(coefficient * value)`: a position whose structure is known. Plain ints stand for constants."""

    __slots__ = ("terms", "constant", "_hash")

    def __init__(self, terms: tuple[tuple[Value, int], ...], constant: int):
        self.terms = terms
        self.constant = constant
        self._hash = hash((terms, constant))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Affine)
            and self._hash == other._hash
            and self.constant == other.constant
            and self.terms == other.terms
        )

    def __add__(self, other: Index) -> Index:
        if isinstance(other, int):
            return Affine(self.terms, self.constant + other) if other else self
        a, b = self.terms, other.terms
        if not a[-1][0].number < b[0][0].number:
            sums: dict[Value, int] = dict(a)
            for v, c in b:
                sums[v] = sums.get(v, 0) + c
            terms = tuple(sorted([t for t in sums.items() if t[1]], key=_number_of))
        else:
            terms = a + b
        constant = self.constant + other.constant
        return Affine(terms, constant) if terms else constant

    __radd__ = __add__

    def __mul__(self, factor: int) -> Index:
        if factor == 1:
            return self
        if factor == 0:
            return 0
        return Affine(tuple([(v, c * factor) for v, c in self.terms]), self.constant * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Index:
        return self * -1

    def __sub__(self, other: Index) -> Index:
        return self + (-other)

    def __rsub__(self, other: int) -> Index:
        return self * -1 + other

    @property
    def level(self) -> int:
        return max([v.level for v, _ in self.terms])

    def bounds(self) -> tuple[float, float]:
        """The least and greatest value it can have; infinite where nothing is known."""
        low = high = float(self.constant)
        for v, c in self.terms:
            if v.low is None or v.high is None:
                return (-np.inf, np.inf)
            a, b = c * v.low, c * v.high
            low += min(a, b)
            high += max(a, b)
        return low, high

    def __repr__(self) -> str:
        return " + ".join([f"{c}*{v!r}" for v, c in self.terms] + [str(self.constant)])


Index = int | Affine


def _number_of(term: tuple[Value, int]) -> int:
    return term[0].number


def affine(value: Value) -> Index:
    """A scalar as a position."""
    return int(value.attr) if value.op == "const" else Affine(((value, 1),), 0)


def bounds(index: Index) -> tuple[float, float]:
    return (index, index) if isinstance(index, int) else index.bounds()


def index_level(index: Index) -> int:
    return 0 if isinstance(index, int) else index.level


# ------------------------------------------------------------------------------------------------------------------- buffers


class Buffer:
    """Memory that loops read and write: an array given or returned, a constant, or a temporary in the arena.

    kind: "input", "output", "constant", "slots" (the words behind the constants' addresses), "region" (the word behind the outputs'
        addresses), "temp", or memory whose address is a value, `address`: "pointer" or, when it is only read any more, "tape". That is
        memory outside of all of these, of tapes, or it is one of the buffers `behind` it.
    position: which input, output or constant; for a temporary, its offset in the arena once that is planned.
    """

    __slots__ = ("name", "kind", "position", "dtype", "size", "address", "version", "spare", "stride", "tasks", "home", "behind")

    def __init__(self, name: str, kind: str, position: int, dtype: np.dtype, size: int, address: Value | None = None):
        self.name = name
        self.kind = kind
        self.position = position
        self.dtype = dtype
        self.size = size
        self.address = address
        self.version = 0  # counts the stores so far, so that a load is not taken for an earlier one
        self.tasks = 1  # a temporary inside of parallel tasks has a place for each, `stride` bytes apart
        self.stride = 0
        self.spare = False  # an input that was given up by its owner, and may be overwritten
        self.behind: frozenset[Buffer] = frozenset()  # what may lie at an address that a loop exchanges
        self.home: Buffer | None = None  # the input or output in whose memory it lies, while that is not in use itself

    @property
    def mutable(self) -> bool:
        return self.kind not in ("input", "constant", "slots", "tape") or self.spare

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def room(self) -> int:
        """The bytes that it takes in the arena: whole cache lines."""
        return -(-max(self.nbytes, 1) // 64) * 64

    @property
    def scalar(self) -> str:
        found = _MEMORY_TYPES.get(self.dtype)  # the name of a dtype takes several microseconds
        if found is None:
            found = _MEMORY_TYPES[self.dtype] = MEMORY_TYPES[self.dtype.name]
        return found

    def __repr__(self) -> str:
        return self.name


# ---------------------------------------------------------------------------------------------------------------- statements


class Store:
    """`store buffer[index] = value`; the index counts scalars (two to a complex number)."""

    __slots__ = ("buffer", "index", "offset", "value")

    def __init__(self, buffer: Buffer, index: Value | None, offset: int, value: Value):
        self.buffer = buffer
        self.index = index
        self.offset = offset
        self.value = value


class For:
    """A counted loop. `params` are the loop-carried scalars, `yields` their next values, `results` their last ones.

    hints: "independent" (no iteration reads or writes memory that another writes), "vectorize", "no vectorize",
        "interleave" (several vectors of iterations at a time), "no unroll".
    """

    __slots__ = ("counter", "low", "high", "step", "inits", "params", "body", "yields", "results", "hints")

    def __init__(self, counter: Value, low: Value, high: Value, step: int, body: list[Any], hints: tuple[str, ...] = ()):
        self.counter = counter
        self.low = low
        self.high = high
        self.step = step
        self.body = body
        self.hints = hints
        self.inits: list[Value] = []
        self.params: list[Value] = []
        self.yields: list[Value] = []
        self.results: list[Value] = []


class Parallel:
    """Tasks 0..count, in any order and at once: iterations that write different memory. The text of a task knows its number."""

    __slots__ = ("counter", "count", "body")

    def __init__(self, counter: Value, count: int, body: list[Any]):
        self.counter = counter
        self.count = count
        self.body = body


class While:
    """`params` start as `inits`; while `condition` (computed by `head`) holds, `body` computes their next values, `yields`."""

    __slots__ = ("inits", "params", "head", "condition", "body", "yields")

    def __init__(self, inits: list[Value], params: list[Value], head: list[Any], body: list[Any]):
        self.inits = inits
        self.params = params
        self.head = head
        self.body = body
        self.condition: Value | None = None
        self.yields: list[Value] = []


class Switch:
    """One of several branches, by an integer that is within range (or an i1 for two); `results` merge what they yield."""

    __slots__ = ("selector", "branches", "yields", "results", "hints")

    def __init__(self, selector: Value, branches: list[list[Any]], yields: list[list[Value]], results: list[Value]):
        self.selector = selector
        self.branches = branches
        self.yields = yields
        self.results = results
        self.hints: tuple[str, ...] = ()


class Call:
    """A call of an external C function by symbol, for its effects; a result, if used, is `result`. flops: its operations, where known."""

    __slots__ = ("symbol", "args", "result", "reads", "writes", "flops")

    def __init__(
        self, symbol: str, args: list[Any], result: Value | None, reads: Sequence[Buffer] = (), writes: Sequence[Buffer] = ()
    ):
        self.symbol = symbol
        self.args = args
        self.result = result
        self.reads = tuple(reads)
        self.writes = tuple(writes)
        self.flops: float | None = None


class Alloc:
    """From here on the temporary exists; it ends with its last use."""

    __slots__ = ("buffer",)

    def __init__(self, buffer: Buffer):
        self.buffer = buffer


class Copy:
    """`count` bytes from one place to another that does not overlap it, or zeros when there is no source."""

    __slots__ = ("target", "target_index", "source", "source_index", "nbytes")

    def __init__(self, target: Buffer, target_index: Value, source: Buffer | None, source_index: Value | None, nbytes: int):
        self.target = target
        self.target_index = target_index
        self.source = source
        self.source_index = source_index
        self.nbytes = nbytes


class Exit:
    """Return from the function with this code (a callback has raised) if the condition holds."""

    __slots__ = ("condition", "code")

    def __init__(self, condition: Value, code: Value):
        self.condition = condition
        self.code = code


class Comment:
    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text = text


Statement = Value | Store | For | Parallel | While | Switch | Call | Alloc | Copy | Exit | Comment


class Function:
    """A whole program at the loop level."""

    __slots__ = ("name", "buffers", "body", "arena_size", "helpers", "returns_tapes", "pointwise", "over", "exchanged")

    def __init__(self, name: str):
        self.name = name
        self.buffers: list[Buffer] = []
        self.body: list[Any] = []
        self.arena_size = 0
        self.returns_tapes = False  # what the region holds at the end is for the caller
        self.helpers: dict[str, Any] = {}  # routines (`library.Routine`) that the body calls, by name
        self.pointwise: dict[Buffer, tuple[frozenset[Buffer], Any, Any]] = {}
        """Of buffers that a nest writes: those of which it reads an element only before it writes the same element, and its first and last
        statement."""
        self.over: dict[Buffer, Buffer] = {}
        """Of buffers that are written over another one, that one. Known once memory is planned."""
        self.exchanged: dict[Any, list[tuple[tuple[Buffer, ...], Buffer | None]]] = {}
        """Of loops: the buffers that change places after every turn, and an argument that takes part in the first."""

    def __str__(self) -> str:
        from tracegrad.codegen.loop_text import function_text

        return function_text(self)

    def walk(self) -> Iterator[Any]:
        """Every statement, nested ones after the one that holds them."""
        stack = [iter(self.body)]
        while stack:
            for s in stack[-1]:
                yield s
                inner = blocks_of(s)
                if inner:
                    stack.append(itertools.chain.from_iterable(inner))
                    break
            else:
                stack.pop()


def blocks_of(statement: Any) -> list[list[Any]]:
    """The blocks inside a statement."""
    kind = type(statement)
    if kind is For or kind is Parallel:
        return [statement.body]
    if kind is While:
        return [statement.head, statement.body]
    if kind is Switch:
        return statement.branches
    return []


def buffers_of(statement: Any) -> list[Buffer]:
    """The buffers that a statement itself (not what is nested in it) touches."""
    kind = type(statement)
    if kind is Value:
        if statement.op in ("load", "address"):
            return [statement.attr[0]]
        return []
    if kind is Store:
        return [statement.buffer]
    if kind is Call:
        return [*statement.reads, *statement.writes, *[a for a in statement.args if isinstance(a, Buffer)]]
    if kind is Copy:
        return [statement.target] if statement.source is None else [statement.target, statement.source]
    return []
