"""Where the code of a function comes from: a builder and a context that note, while a program is lowered, which equation every statement
serves and why memory is copied.

Lazy values are computed wherever they are consumed. Each says, while its function runs, which equation defined it; what belongs to the
loops of a nest rather than to what they compute serves nobody. What is noted changes nothing of what is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tracegrad.codegen.builder import Builder, Loop
from tracegrad.codegen.loop_ir import Buffer, Function, Index, Value
from tracegrad.codegen.lower import Context
from tracegrad.codegen.nests import Group
from tracegrad.codegen.values import Form, Lazy, Pending, Root, Scalars, View
from tracegrad.ir.program import Atom, Equation, Literal, Var


class OriginBuilder(Builder):
    """A builder that knows the equations that its statements serve.

    origins: of each statement (scalars among them), the equations; opened: of each loop, the equation that was being lowered and
    whether its body may write any memory; groups: of the statements of a nest, its group; reasons: of a copy or a nest that writes a
    value to memory, why that is done, and readers: for which equation; updates: of an equation that overwrites an operand, (whether in place, why).
    """

    def __init__(self, function: Function):
        super().__init__(function)
        self.origins: dict[Any, dict[Equation, None]] = {}
        self.opened: dict[Any, tuple[Equation | None, bool]] = {}
        self.groups: dict[Any, Group] = {}
        self.roots: dict[Root, Equation] = {}
        self.reasons: dict[Any, str] = {}
        self.readers: dict[Any, Equation] = {}
        self.updates: dict[Equation, list[tuple[bool, str]]] = {}

    def _note(self, statement: Any) -> None:
        if self.equation is not None:
            self.origins.setdefault(statement, {})[self.equation] = None

    def op(self, op: str, type: str, *args: Value, attr: Any = None) -> Value:
        value = super().op(op, type, *args, attr=attr)
        if not value.is_const:
            self._note(value)
        return value

    def load(self, buffer: Buffer, index: Index) -> Value:
        value = super().load(buffer, index)
        self._note(value)
        return value

    def store(self, buffer: Buffer, index: Index, value: Value) -> None:
        super().store(buffer, index, value)
        self._note(self.scopes[-1].items[-1])

    def copy(self, target: Buffer, target_index: Index, source: Buffer | None, source_index: Index, nbytes: int) -> None:
        super().copy(target, target_index, source, source_index, nbytes)
        if nbytes > 0:
            self._note(self.scopes[-1].items[-1])

    def call(
        self,
        symbol: str,
        args: Sequence[Any],
        result: str | None = None,
        reads: Sequence[Buffer] = (),
        writes: Sequence[Buffer] = (),
        flops: float | None = None,
    ) -> Value | None:
        value = super().call(symbol, args, result, reads, writes, flops)
        self._note(self.scopes[-1].items[-1])
        return value

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
        equation = self.equation
        with super().loop(low, high, step, carry, memory, written, hints, name, bounds) as loop:
            self.opened[loop.statement] = (equation, memory)
            yield loop

    def while_loop(self, inits: Sequence[Value], head: Any, body: Any) -> list[Value]:
        equation = self.equation
        results = super().while_loop(inits, head, body)
        self.opened[self.scopes[-1].items[-1]] = (equation, True)
        return results

    def switch(self, selector: Value, branches: Sequence[Any]) -> list[Value]:
        equation = self.equation
        results = super().switch(selector, branches)
        self.opened[self.scopes[-1].items[-1]] = (equation, True)
        return results


class OriginContext(Context):
    """A context that lets its builder, an `OriginBuilder`, know whose operations it emits."""

    b: OriginBuilder

    def run(self, inputs: Sequence[Form]) -> list[Form]:
        outer = self.b.equation
        results = super().run(inputs)
        self.b.equation = outer
        return results

    def define(self, var: Var, form: Form) -> None:
        if type(form) is Lazy and not getattr(form.function, "noted", False):
            form.function = self._noted(form.function, self.b.equation)
        super().define(var, form)

    def _noted(self, function: Any, equation: Equation | None) -> Any:
        def noted(b: OriginBuilder, indices: Any) -> Any:
            outer, b.equation = b.equation, equation
            scalar = function(b, indices)
            b.equation = outer
            return scalar

        noted.noted = True  # type: ignore[attr-defined]
        return noted

    def defer(self, root: Root) -> Pending:
        if self.b.equation is not None:
            self.b.roots[root] = self.b.equation
        return super().defer(root)

    def flush(self, group: Group) -> None:
        b = self.b
        outer, b.equation = b.equation, None
        items = b.scopes[-1].items
        first = len(items)
        super().flush(group)
        for statement in items[first:]:
            b.groups.setdefault(statement, group)
        b.equation = outer

    # why something is put in memory

    @contextmanager
    def _because(self, reason: str) -> Iterator[None]:
        b = self.b
        items = b.scopes[-1].items
        first = len(items)
        yield
        for statement in items[first:]:
            if statement not in b.groups:
                b.reasons.setdefault(statement, reason)
                if b.equation is not None:
                    b.readers.setdefault(statement, b.equation)

    def _reader(self) -> str:
        return "the caller" if self.b.equation is None else self.b.equation.primitive.name

    def view(self, atom: Atom | Form) -> View:
        with self._because(f"{self._reader()} reads it from memory"):
            return super().view(atom)

    def dense(self, atom: Atom | Form) -> View:
        with self._because(f"{self._reader()} wants it in row-major order without gaps"):
            return super().dense(atom)

    def place(self, atom: Atom, view: View) -> None:
        with self._because("a result has memory of its own"):
            super().place(atom, view)

    def own(self, atom: Atom, var: Var, *others: Form) -> View:
        why = self._why_kept(atom)
        equation = self.b.equation
        with self._because(f"{self._reader()} overwrites it, and {why}" if why else f"{self._reader()} starts from it in memory"):
            view = super().own(atom, var, *others)
        if equation is not None and why:
            self.b.updates.setdefault(equation, []).append((why == _IN_PLACE, why))
        return view

    def _why_kept(self, atom: Atom) -> str:
        """What hinders the operand's memory from being overwritten; "" where it has none to be copied."""
        if isinstance(atom, Literal):
            return ""
        form = self.value(atom)
        if type(form) is Pending and form.root.value is None:
            self.settle(form)
        if type(form) is Pending:
            form = form.root.value
        if type(form) is Scalars or isinstance(form, Lazy) or form is None:
            return ""
        if self.may_overwrite(form, atom):
            return _IN_PLACE
        buffer = form.buffer
        if not self.is_last_use(atom):
            return "it is read again later"
        if buffer.kind == "constant":
            return "it is a constant"
        if not buffer.mutable:
            return "it is an argument, which the caller keeps" if buffer.kind == "input" else "it is read only"
        if buffer in self.protected:
            return "the loop around it reads it in every turn"
        if not form.is_dense:
            return "it is not row-major without gaps"
        return "another value that is read later lies in the same memory"


_IN_PLACE = "the old value is not read any more"

__all__ = ["OriginBuilder", "OriginContext"]
