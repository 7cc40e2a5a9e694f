"""Building loop-level code: scopes, value numbering, placement of what does not vary as far out as it can go.

Every open loop or branch is a scope. An operation goes to the outermost scope that holds its operands, so code that does not depend
on a loop's counter stands before the loop without any pass having to move it there; equal operations in one scope are one. Branches
and loads from memory that a loop writes set floors below which nothing is moved out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tracegrad.codegen.loop_ir import (
    Affine,
    Alloc,
    Buffer,
    Call,
    Comment,
    Copy,
    Exit,
    For,
    Function,
    Index,
    Parallel,
    Store,
    Switch,
    Value,
    While,
    affine,
    index_level,
)

UNROLLED_TRIPS = 8
"""Loops of nests that run longer are not unrolled (beyond what vectorization does), which halves LLVM's time."""


def _is_long(s: Any) -> bool:
    """Whether a statement is a loop that is not unrolled: one around it is not, either, for it would hold many copies of it."""
    if type(s) is not For:
        return False
    short = s.low.is_const and s.high.is_const and s.high.attr - s.low.attr <= UNROLLED_TRIPS
    return not short or "no unroll" in s.hints


def _wrap(value: int, type: str) -> int:
    bits = int(type[1:])
    if bits == 1:
        return value & 1
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _unsigned(value: int, type: str) -> int:
    return value & ((1 << int(type[1:])) - 1)


_TESTS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}


def _compare(x: int, y: int, predicate: str, _: str, source: str) -> int:
    if predicate[0] == "u":
        x, y = _unsigned(x, source), _unsigned(y, source)
    return int(_TESTS[predicate[-2:]](x, y))


FOLDED: dict[str, Callable[..., int]] = {
    "add": lambda x, y, _, type, source: _wrap(x + y, type),
    "sub": lambda x, y, _, type, source: _wrap(x - y, type),
    "mul": lambda x, y, _, type, source: _wrap(x * y, type),
    "and": lambda x, y, _, type, source: x & y,
    "or": lambda x, y, _, type, source: x | y,
    "xor": lambda x, y, _, type, source: _wrap(x ^ y, type),
    "smax": lambda x, y, _, type, source: max(x, y),
    "smin": lambda x, y, _, type, source: min(x, y),
    "sext": lambda x, _, type, source: _wrap(-x if source == "i1" else x, type),
    "zext": lambda x, _, type, source: _wrap(_unsigned(x, source), type),
    "trunc": lambda x, _, type, source: _wrap(x, type),
    "icmp": _compare,
}
"""Integer operations on literals, which are computed at once: positions known now must be seen as such."""


def _is(v: Value, value: float) -> bool:
    return v.op == "const" and v.attr == value and math.copysign(1.0, v.attr) == math.copysign(1.0, value)


def _times(x: Value, y: Value) -> Value | None:
    return x if _is(y, 1.0) else y if _is(x, 1.0) else None


def _plus(x: Value, y: Value) -> Value | None:
    if _is(x, 0.0) and _is(y, 0.0):
        return x
    return x if _is(y, -0.0) else y if _is(x, -0.0) else None


IDENTITIES: dict[str, Callable[[Value, Value], Value | None]] = {
    "fmul": _times,
    "fadd": _plus,
    "fsub": lambda x, y: x if _is(y, 0.0) else None,
    "fdiv": lambda x, y: x if _is(y, 1.0) else None,
}
"""Floating-point operations that give an operand back, to the last bit: written out, derivatives are full of them."""


class Scope:
    """An open block. floor: operations used here are not placed further out; memory_floor: nor are loads of mutable memory."""

    __slots__ = ("items", "equal", "floor", "memory_floor", "open", "written", "nest")

    def __init__(self, floor: int, memory_floor: int, written: frozenset[Buffer], nest: bool = False):
        self.nest = nest
        self.items: list[Any] = []
        self.equal: dict[Any, Value] = {}
        self.floor = floor
        self.memory_floor = memory_floor
        self.open = True
        self.written = written


class Builder:
    """Appends operations and statements to a Function."""

    def __init__(self, function: Function):
        self.function = function
        self.scopes: list[Scope] = [Scope(0, 0, frozenset())]
        self.scopes[0].items = function.body
        self.count = 0
        self.operations = 0
        self.constants: dict[Any, Value] = {}
        self.temporaries = 0
        self.parallel_depth = 0
        self.tasks = 1  # how many tasks the parallel loop under construction has
        self.watched: Value | None = None  # a loop's counter, and where comparisons would have split its range
        self.breaks: set[int] = set()
        self.asked: list[Value] = []  # the conditions by which values were chosen (`structural.choose`)
        self.assumed: dict[Value, bool] = {}  # conditions whose answer is known where code is built now
        self.assuming = 0  # the level of the branch in which the last of them is known
        self.loads: list[Affine] | None = None  # the positions that are read, while somebody wants to know
        self.equation: Any = None  # what is being lowered, for those who ask where an operation comes from (`origins.py`)
        self.memo: dict[Any, Any] = {}  # scalars of lazy values by (value, index), valid while their scope is open

    # -------------------------------------------------------------------------------------------------------------- operations

    @property
    def level(self) -> int:
        return len(self.scopes) - 1

    def _new(self, op: str, type: str, args: tuple[Any, ...], attr: Any, level: int) -> Value:
        self.count += 1
        return Value(op, type, args, attr, level, self.count)

    def const(self, type: str, value: Any) -> Value:
        """A literal. Floats are kept as Python floats, everything else as ints."""
        value = float(value) if type[0] == "f" else int(value)
        key = (type, value, math.copysign(1.0, value) if value == 0 and type[0] == "f" else 0)
        if value != value:
            key = (type, "nan", 0)
        found = self.constants.get(key)
        if found is None:
            found = self.constants[key] = self._new("const", type, (), value, 0)
            if type[0] == "i":
                found.low = found.high = value
        return found

    def op(self, op: str, type: str, *args: Value, attr: Any = None) -> Value:
        """A pure operation; one on integer literals is a literal."""
        level = 0
        for a in args:
            if a.level > level:
                level = a.level
        if level == 0 and type[0] == "i" and op in FOLDED and all([a.op == "const" and a.type[0] == "i" for a in args]):
            return self.const(type, FOLDED[op](*[a.attr for a in args], attr, type, args[0].type))
        if type[0] == "f" and op in IDENTITIES:
            same = IDENTITIES[op](*args)
            if same is not None:
                return same
        key = (op, type, args, attr)
        scopes = self.scopes
        found = scopes[level].equal.get(key)
        if found is not None:
            return found
        floor = scopes[-1].floor
        if level < floor:
            level = floor
            found = scopes[level].equal.get(key)
            if found is not None:
                return found
        self.count += 1
        self.operations += 1
        value = Value(op, type, args, attr, level, self.count)
        scope = scopes[level]
        scope.items.append(value)
        scope.equal[key] = value
        return value

    def math(self, name: str, type: str, *args: Value) -> Value:
        """An elementary function, by its name in `codegen.elementary`: inlined in nests, which vectorize; perhaps called elsewhere."""
        if self.scopes[-1].nest:
            return self.op("math", type, *args, attr=name)
        self.operations += 4
        return self.op("scalar math", type, *args, attr=name)

    def select(self, condition: Value, on_true: Value, on_false: Value) -> Value:
        if condition.is_const:
            return on_true if condition.attr else on_false
        if on_true is on_false:
            return on_true
        return self.op("select", on_true.type, condition, on_true, on_false)

    # --------------------------------------------------------------------------------------------------------------- positions

    def index(self, index: Index) -> Value:
        """A position as an i64; what varies least is added up first, so that it stays outside of inner loops."""
        if isinstance(index, int):
            return self.const("i64", index)
        total = None
        terms: Sequence[tuple[Value, int]] = index.terms
        if len(terms) > 1:
            terms = sorted(terms, key=lambda t: (t[0].level, t[0].number))
        for v, c in terms:
            term = v if c == 1 else self.op("mul", "i64", v, self.const("i64", c), attr="index")
            total = term if total is None else self.op("add", "i64", total, term, attr="index")
        assert total is not None
        if index.constant:
            total = self.op("add", "i64", total, self.const("i64", index.constant), attr="index")
        return total

    def _split(self, index: Index) -> tuple[tuple[Value, ...], int]:
        if isinstance(index, int):
            return (), index
        if index.constant:
            return (self.index(Affine(index.terms, 0)),), index.constant
        return (self.index(index),), 0

    def to_index(self, value: Value, signed: bool = True) -> Index:
        """An integer scalar as a position."""
        if value.is_const:
            return int(value.attr)
        if value.type != "i64":
            low, high = value.low, value.high
            value = self.op("sext" if signed else "zext", "i64", value)
            value.low, value.high = low, high
        return affine(value)

    def clamp_index(self, index: Index, low: int, high: int) -> Index:
        """The position brought into low..high; nothing to do where that is known already."""
        from tracegrad.codegen.loop_ir import bounds

        least, greatest = bounds(index)
        if least >= low and greatest <= high:
            return index
        if isinstance(index, int):
            return min(max(index, low), high)
        if low >= high:
            return low
        v = self.index(index)
        if least < low:
            v = self.op("smax", "i64", v, self.const("i64", low))
        if greatest > high:
            v = self.op("smin", "i64", v, self.const("i64", high))
        v.low, v.high = low, high
        return affine(v)

    def less(self, index: Index, limit: int) -> Value:
        """Whether index < limit, decided now if its bounds allow."""
        from tracegrad.codegen.loop_ir import bounds

        least, greatest = bounds(index)
        if greatest < limit:
            return self.const("i1", 1)
        if least >= limit:
            return self.const("i1", 0)
        if not isinstance(index, int) and len(index.terms) == 1 and index.terms[0][0] is self.watched and index.terms[0][1] == 1:
            self.breaks.add(limit - index.constant)
        return self.op("icmp", "i1", self.index(index), self.const("i64", limit), attr="slt")

    # ------------------------------------------------------------------------------------------------------------------ memory

    def load(self, buffer: Buffer, index: Index) -> Value:
        """The scalar at a position, which counts scalars (two to a complex number)."""
        if self.loads is not None and not isinstance(index, int):
            self.loads.append(index)
        args, offset = self._split(index)
        level = args[0].level if args else 0
        if buffer.address is not None and buffer.address.level > level:
            level = buffer.address.level
        scope = self.scopes[-1]
        floor = scope.floor
        version = 0
        if buffer.mutable:
            version = buffer.version
            floor = max(floor, self.level if buffer in scope.written else scope.memory_floor)
        if level < floor:
            level = floor
        key = ("load", buffer, args, offset, version)
        target = self.scopes[level]
        found = target.equal.get(key)
        if found is None:
            self.operations += 1
            found = self._new("load", buffer.scalar, args, (buffer, offset), level)
            target.items.append(found)
            target.equal[key] = found
        return found

    def address(self, buffer: Buffer, index: Index = 0) -> Value:
        """A pointer to a position, for calls."""
        args, offset = self._split(index)
        level = args[0].level if args else 0
        if buffer.address is not None and buffer.address.level > level:
            level = buffer.address.level
        level = max(level, self.scopes[-1].floor)
        found = self._new("address", "ptr", args, (buffer, offset), self.level)
        self.scopes[-1].items.append(found)
        return found

    def store(self, buffer: Buffer, index: Index, value: Value) -> None:
        args, offset = self._split(index)
        self.operations += 1
        self.scopes[-1].items.append(Store(buffer, args[0] if args else None, offset, value))
        buffer.version += 1

    def touch(self, buffer: Buffer) -> None:
        """Note that memory was written by other means than `store`."""
        buffer.version += 1

    def copy(self, target: Buffer, target_index: Index, source: Buffer | None, source_index: Index, nbytes: int) -> None:
        """Copy bytes (or zero them, without a source); positions count scalars."""
        if nbytes <= 0:
            return
        ti = self.index(target_index)
        si = self.index(source_index) if source is not None else None
        self.scopes[-1].items.append(Copy(target, ti, source, si, nbytes))
        target.version += 1

    def temporary(self, dtype: Any, size: int) -> Buffer:
        """A new buffer in the arena, which exists from here on."""
        self.temporaries += 1
        buffer = Buffer(f"t{self.temporaries}", "temp", -1, np.dtype(dtype), size)
        buffer.tasks = self.tasks
        self.function.buffers.append(buffer)
        self.scopes[-1].items.append(Alloc(buffer))
        return buffer

    def comment(self, text: str) -> None:
        self.scopes[-1].items.append(Comment(text))

    # ----------------------------------------------------------------------------------------------------------- control flow

    def _param(self, type: str, name: str, level: int) -> Value:
        v = self._new("param", type, (), None, level)
        if name:
            v.attr = name
        return v

    def _open(self, branch: bool = False, memory: bool = False, written: frozenset[Buffer] = frozenset()) -> Scope:
        outer = self.scopes[-1]
        depth = len(self.scopes)
        nest = outer.nest or not (memory or branch)
        scope = Scope(depth if branch else outer.floor, depth if memory else outer.memory_floor, outer.written | written, nest)
        self.scopes.append(scope)
        return scope

    def _close(self) -> Scope:
        scope = self.scopes.pop()
        scope.open = False
        return scope

    @contextmanager
    def outside(self, level: int) -> Iterator[None]:
        """Append to the block of an enclosing scope, before the loop that is being built inside it."""
        inner = self.scopes[level + 1 :]
        del self.scopes[level + 1 :]
        yield
        self.scopes.extend(inner)

    @contextmanager
    def loop(
        self,
        low: Any,
        high: Any,
        step: int = 1,
        carry: Sequence[Value] = (),
        memory: bool = True,
        written: frozenset[Buffer] = frozenset(),
        hints: tuple[str, ...] = (),
        name: str = "i",
        bounds: tuple[int, int] | None = None,
    ) -> Iterator[Loop]:
        """`with b.loop(0, n) as loop:` — `loop.index` is the counter's position, `loop.params` the carried scalars; set
        `loop.yields` to their next values, read `loop.results` afterwards. The loop runs at least once: low < high.
        `bounds`: what is known of the counter when low and high are not constants.

        memory: the body may write any mutable memory (so loads of such memory stay inside); otherwise it writes `written` only.
        """
        low = low if isinstance(low, Value) else self.index(low)
        high = high if isinstance(high, Value) else self.index(high)
        if not memory and not (low.is_const and high.is_const and high.attr - low.attr <= UNROLLED_TRIPS):
            hints = (*hints, "no unroll")
        scope = self._open(memory=memory, written=written)
        level = self.level
        counter = self._param("i64", name, level)
        if low.is_const and high.is_const:
            counter.low, counter.high = low.attr, max(low.attr, high.attr - 1)
        elif bounds is not None:
            counter.low, counter.high = bounds
        statement = For(counter, low, high, step, scope.items, hints)
        statement.inits = list(carry)
        statement.params = [self._param(v.type, "", level) for v in carry]
        handle = Loop(statement)
        yield handle
        if len(statement.yields) != len(statement.params):
            raise AssertionError("a loop must yield as many values as it carries")
        self._close()
        if "no unroll" not in hints and any([_is_long(inner) for inner in statement.body]):
            statement.hints = (*statement.hints, "no unroll")
        statement.results = [self._param(v.type, "", self.level) for v in carry]
        self.scopes[-1].items.append(statement)

    @contextmanager
    def parallel(self, count: int, written: frozenset[Buffer]) -> Iterator[Index]:
        """Tasks 0..count that may run at once, on several threads: nothing is carried, each writes memory of its own."""
        scope = self._open(written=written)
        counter = self._param("i64", "task", self.level)
        counter.low, counter.high = 0, count - 1
        self.parallel_depth += 1
        self.tasks = count
        yield affine(counter)
        self.parallel_depth -= 1
        self.tasks = 1
        self._close()
        self.scopes[-1].items.append(Parallel(counter, count, scope.items))

    def while_loop(
        self, inits: Sequence[Value], head: Callable[[list[Value]], Value], body: Callable[[list[Value]], Sequence[Value]]
    ) -> list[Value]:
        """A while loop over scalars (and whatever memory the bodies write); the carried scalars at its end."""
        outer = self._open(memory=True)
        params = [self._param(v.type, "", self.level) for v in inits]
        statement = While(list(inits), params, outer.items, [])
        statement.condition = head(params)
        self._close()
        inner = self._open(memory=True)
        for p in params:
            p.level = self.level
        statement.body = inner.items
        # What the head computed is visible in the body: it dominates it. The scope is fresh all the same, to keep levels simple.
        statement.yields = list(body(params))
        self._close()
        for p in params:
            p.level = self.level
        self.scopes[-1].items.append(statement)
        return params

    def switch(self, selector: Value, branches: Sequence[Callable[[], Sequence[Value]]]) -> list[Value]:
        """Run one branch, by an i1 (true: the first) or by an integer within range; the values that it gives."""
        blocks: list[list[Any]] = []
        yields: list[list[Value]] = []
        for branch in branches:
            scope = self._open(branch=True, memory=True)
            values = list(branch())
            self._close()
            blocks.append(scope.items)
            yields.append(values)
        results = [self._param(v.type, "", self.level) for v in yields[0]]
        statement = Switch(selector, blocks, yields, results)
        # its results vary with the selector only in scopes that hold it, but what branches compute may read memory here
        self.scopes[-1].items.append(statement)
        return results

    def call(
        self,
        symbol: str,
        args: Sequence[Any],
        result: str | None = None,
        reads: Sequence[Buffer] = (),
        writes: Sequence[Buffer] = (),
        flops: float | None = None,
    ) -> Value | None:
        """Call an external C function. `args`: scalars and pointers (`address`, `constant_pointer`); `result`: its type, or None;
        `flops`: its operations, where they are known."""
        value = self._param(result, "", self.level) if result is not None else None
        call = Call(symbol, list(args), value, reads, writes)
        call.flops = flops
        self.scopes[-1].items.append(call)
        for w in writes:
            w.version += 1
        return value

    def constant_pointer(self, type: str, value: Any) -> Value:
        """A pointer to a constant in read-only memory, as Fortran's conventions want their arguments."""
        value = float(value) if type[0] in "fc" else int(value)
        key = ("pointer", type, value)
        found = self.constants.get(key)
        if found is None:
            found = self.constants[key] = self._new("const", "ptr", (), (type, value), 0)
        return found

    def constant_table(self, type: str, values: Sequence[int], index: Index) -> Value:
        """A pointer to an element of a table of constants."""
        if len(set(values)) == 1:
            return self.constant_pointer(type, values[0])
        return self.op("table", "ptr", self.index(index), attr=(type, tuple(values)))

    def leave_if(self, condition: Value, code: Value) -> None:
        """Return `code` from the whole function if the condition holds."""
        self.scopes[-1].items.append(Exit(condition, code))


class Loop:
    """A loop under construction."""

    __slots__ = ("statement",)

    def __init__(self, statement: For):
        self.statement = statement

    @property
    def index(self) -> Index:
        return affine(self.statement.counter)

    @property
    def counter(self) -> Value:
        return self.statement.counter

    @property
    def params(self) -> list[Value]:
        return self.statement.params

    @property
    def results(self) -> list[Value]:
        return self.statement.results

    @property
    def yields(self) -> list[Value]:
        return self.statement.yields

    @yields.setter
    def yields(self, values: Sequence[Value]) -> None:
        self.statement.yields = list(values)


__all__ = ["Builder", "Loop", "Scope", "index_level"]
