"""Writing a native routine as text: structured loops, mutable scalars and arrays, straight to LLVM's language.

Whatever is a routine rather than an expression of an index (a radix sort, an LU factorization, a call into LAPACK with its
workspace) is a `Kernel`: one LLVM function that takes pointers to row-major buffers. The lowering rules call it; two equations
that need the same kernel share it.

    k = Kernel("axpy", {"x": "ptr", "y": "ptr", "n": "i64"})
    x, y = k.array(k["x"], float32), k.array(k["y"], float32)
    with k.loop(0, k["n"]) as i:
        y[i] = y[i] + 2.0 * x[i]
    k.text()

Values carry their LLVM type; Python numbers become constants of the other operand's type. Scalars that change are `k.var`s (stack
slots, which LLVM turns into registers). Booleans are stored as bytes, float16 and bfloat16 are computed in float32, complex
values are pairs (`Complex`) that support the same arithmetic, so that one text of an algorithm serves all dtypes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tracegrad.codegen.kernel_values import FLOATS, Buffer, Complex, Value, Variable, compute_type, float_literal, storage_type

__all__ = ["Buffer", "Complex", "Kernel", "Value", "Variable", "compute_type", "storage_type"]


class Kernel:
    """One LLVM function under construction."""

    def __init__(self, name: str, params: dict[str, str], result: str = "void", noalias: Sequence[str] = ()):
        self.name = name
        self.result = result
        self.params = {p: Value(self, t, f"%{p}") for p, t in params.items()}
        self.noalias = frozenset(noalias)
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.externals: dict[str, str] = {}
        self.elementary: set[tuple[str, str]] = set()  # functions of `codegen.elementary` that it calls
        self.counter = 0
        self.fast = ""
        self.terminated = False
        self.attributes = ""  # of the function, as LLVM writes them
        self.loops_made = 0
        self.metadata: list[str] = []
        # numbers of metadata that other texts of the module do not use
        self.first_node = 1_000_000 + zlib.crc32(name.encode()) % 4_000_000 * 1000

    def __getitem__(self, name: str) -> Value:
        return self.params[name]

    # text
    def line(self, text: str) -> None:
        if not self.terminated:
            self.lines.append("  " + text)

    def fresh(self, prefix: str = "v") -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def emit(self, type: str, text: str) -> Value:
        name = "%" + self.fresh()
        self.line(f"{name} = {text}")
        return Value(self, type, name)

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self.terminated = False

    def branch(self, target: str) -> None:
        self.line(f"br label %{target}")
        self.terminated = True

    def branch_if(self, condition: Value, then: str, otherwise: str) -> None:
        self.line(f"br i1 {condition.ref}, label %{then}, label %{otherwise}")
        self.terminated = True

    def ret(self, value: Value | None = None) -> None:
        self.line("ret void" if value is None else f"ret {value.type} {value.ref}")
        self.terminated = True

    # values
    def value(self, x: Any, type: str) -> Value:
        """A Value as it is; a Python number as a constant of `type`."""
        if isinstance(x, Value):
            return x
        if type in FLOATS:
            return Value(self, type, float_literal(float(x), type))
        if type == "ptr":
            raise TypeError(f"{x!r} is not a pointer")
        x = int(x)
        if type == "i1":
            return Value(self, type, "true" if x else "false", x)
        return Value(self, type, str(x), x)

    def complex(self, x: Any, type: str | None = None) -> Complex:
        if isinstance(x, Complex):
            return x
        if isinstance(x, Value):
            return Complex(x, self.value(0, x.type))
        x = complex(x)
        return Complex(self.value(x.real, type or "double"), self.value(x.imag, type or "double"))

    def number(self, x: Any, dtype: Any) -> Any:
        """The constant x as an element of dtype is computed with."""
        if np.dtype(dtype).kind == "c":
            return self.complex(x, compute_type(dtype))
        return self.value(x, compute_type(dtype))

    def offset(self, pointer: Value, index: Any, type: str = "i8") -> Value:
        """The address `index` elements of `type` further on."""
        index = self.value(index, "i64")
        if index.known == 0:
            return pointer
        return self.emit("ptr", f"getelementptr inbounds {type}, ptr {pointer.ref}, i64 {index.ref}")

    def array(self, pointer: Value, dtype: Any, strides: Sequence[Any] = (1,)) -> Buffer:
        return Buffer(self, pointer, dtype, tuple(strides))

    def stack(self, dtype: Any, count: int, strides: Sequence[Any] = (1,)) -> Buffer:
        """A small buffer on the stack."""
        dtype = np.dtype(dtype)
        name = "%" + self.fresh("stack")
        total = count * (2 if dtype.kind == "c" else 1)
        self.entry.append(f"  {name} = alloca [{max(total, 1)} x {storage_type(dtype)}], align 64")
        return Buffer(self, Value(self, "ptr", name), dtype, tuple(strides))

    def var(self, type: str, initial: Any = None, complex: bool = False) -> Variable:
        slots = []
        for _ in range(2 if complex else 1):
            name = "%" + self.fresh("var")
            self.entry.append(f"  {name} = alloca {type}")
            slots.append(name)
        variable = Variable(self, type, tuple(slots))
        if initial is not None:
            variable.set(initial)
        return variable

    def accumulator(self, dtype: Any, initial: Any) -> Variable:
        """A variable that holds what an element of dtype is computed in."""
        return self.var(compute_type(dtype), initial, np.dtype(dtype).kind == "c")

    # control flow
    def _loop_note(self, properties: Sequence[str]) -> str:
        """What LLVM is told about a loop, to go with its last branch."""
        if not properties:
            return ""
        nodes = []
        for p in properties:
            nodes.append(self.first_node + len(self.metadata))
            self.metadata.append(f"!{nodes[-1]} = !{{{p}}}")
        own = self.first_node + len(self.metadata)
        self.metadata.append(f"!{own} = distinct !{{!{own}, {', '.join(f'!{n}' for n in nodes)}}}")
        return f", !llvm.loop !{own}"

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int = 1, vectorize: bool = True, lanes: bool = False) -> Iterator[Value]:
        """Counts from start while below stop (above it, for a negative step); the counter is an i64. lanes: a loop whose iterations are to be
        the lanes of vectors, not written out before they are."""
        start, stop = self.value(start, "i64"), self.value(stop, "i64")
        head, body, done = (self.fresh(p) for p in ("head", "body", "done"))
        slot = self.var("i64", start)
        self.loops_made += 1
        made = self.loops_made
        self.branch(head)
        self.label(head)
        i = slot.get()
        self.branch_if(i < stop if step > 0 else i > stop, body, done)
        self.label(body)
        yield i
        self.line(f"%{self.fresh('next')} = add nsw i64 {i.ref}, {step}")
        self.line(f"store i64 %next{self.counter}, ptr {slot.slots[0]}")
        # LLVM writes out loops around loops when they are short, which costs more to compile than it gains
        properties = ['!"llvm.loop.unroll.disable"'] if self.loops_made > made or not vectorize else []
        if not vectorize:
            properties.append('!"llvm.loop.vectorize.enable", i1 false')
        if lanes:
            properties = ['!"llvm.loop.unroll.disable"', '!"llvm.loop.vectorize.enable", i1 true']
        self.line(f"br label %{head}{self._loop_note(properties)}")
        self.terminated = True
        self.label(done)

    @contextmanager
    def loops(self, *extents: Any) -> Iterator[tuple[Value, ...]]:
        """A nest of loops from 0."""
        opened = [self.loop(0, n) for n in extents]
        indices = tuple(o.__enter__() for o in opened)
        yield indices
        for o in reversed(opened):
            o.__exit__(None, None, None)

    @contextmanager
    def while_(self, condition: Callable[[], Value]) -> Iterator[None]:
        """Repeats while the condition, whose code is emitted at the head, holds."""
        head, body, done = (self.fresh(p) for p in ("head", "body", "done"))
        self.branch(head)
        self.label(head)
        self.branch_if(condition(), body, done)
        self.label(body)
        yield
        self.branch(head)
        self.label(done)

    @contextmanager
    def if_(self, condition: Value) -> Iterator[None]:
        then, done = self.fresh("then"), self.fresh("done")
        self.branch_if(condition, then, done)
        self.label(then)
        yield
        self.branch(done)
        self.label(done)

    def if_else(self, condition: Value, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
        yes, no, done = self.fresh("then"), self.fresh("else"), self.fresh("done")
        self.branch_if(condition, yes, no)
        self.label(yes)
        then()
        self.branch(done)
        self.label(no)
        otherwise()
        self.branch(done)
        self.label(done)

    @contextmanager
    def arithmetic(self, flags: str) -> Iterator[None]:
        """Floating-point operations in the block carry these fast-math flags (such as "contract reassoc")."""
        old, self.fast = self.fast, flags + " " if flags else ""
        yield
        self.fast = old

    # calls
    def call(self, symbol: str, args: Sequence[Value], result: str = "void", attributes: str = "") -> Value | None:
        """Call a function outside of this module (or another kernel), declaring it by the types of the arguments."""
        types = ", ".join(a.type for a in args)
        self.externals[symbol] = f"declare {result} @{symbol}({types}){attributes}"
        text = f"call {result} @{symbol}({', '.join(map(repr, args))})"
        if result == "void":
            self.line(text)
            return None
        return self.emit(result, text)

    def intrinsic(self, name: str, *args: Value, extra: str = "") -> Value:
        """An overloaded LLVM intrinsic of one type: `intrinsic("fabs", x)`."""
        t = args[0].type
        suffix = {"float": "f32", "double": "f64"}.get(t, t)
        symbol = f"llvm.{name}.{suffix}"
        types = ", ".join(a.type for a in args)
        fast = self.fast if args[0].is_float else ""
        tail = f", {extra}" if extra else ""
        tail_type = f", {extra.split()[0]}" if extra else ""
        self.externals[symbol] = f"declare {t} @{symbol}({types}{tail_type})"
        return self.emit(t, f"call {fast}{t} @{symbol}({', '.join(map(repr, args))}{tail})")

    def elementary_call(self, name: str, *args: Value) -> Value:
        """An elementary function of numbers of one type, inlined."""
        t = args[0].type
        dtype = {"float": "f32", "double": "f64"}[t]
        self.elementary.add((name, dtype))
        return self.emit(t, f"call {t} @tg.{name}.{dtype}({', '.join(map(repr, args))})")

    def compare(self, operation: str, x: Value, y: Value) -> Value:
        """A comparison by LLVM's name, such as "fcmp ugt"."""
        return self.emit("i1", f"{operation} {x.type} {x.ref}, {y.ref}")

    def sqrt(self, x: Value) -> Value:
        return self.intrinsic("sqrt", x)

    def memset(self, pointer: Value, byte: int, size: Any) -> None:
        size = self.value(size, "i64")
        self.externals["llvm.memset.p0.i64"] = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)"
        self.line(f"call void @llvm.memset.p0.i64(ptr {pointer.ref}, i8 {byte}, i64 {size.ref}, i1 false)")

    def memcpy(self, target: Value, source: Value, size: Any) -> None:
        size = self.value(size, "i64")
        self.externals["llvm.memcpy.p0.p0.i64"] = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"
        self.line(f"call void @llvm.memcpy.p0.p0.i64(ptr {target.ref}, ptr {source.ref}, i64 {size.ref}, i1 false)")

    def load(self, pointer: Value, type: str) -> Value:
        return self.emit(type, f"load {type}, ptr {pointer.ref}")

    def by_reference(self, value: Any, dtype: Any = np.int32) -> Value:
        """The address of a stack slot that holds a scalar: how Fortran takes its arguments."""
        slot = self.stack(dtype, 1)
        slot[0] = value
        return slot.pointer

    def text(self, linkage: str = "internal") -> str:
        """The function's definition (without the declarations of what it calls: `externals`)."""
        if not self.terminated:
            self.ret()
        params = ", ".join(f"{v.type}{' noalias' if p in self.noalias else ''} {v.ref}" for p, v in self.params.items())
        body = "\n".join(["entry:", *self.entry, "  br label %start", "start:", *self.lines])
        return f"define {linkage} {self.result} @{self.name}({params}) {self.attributes}#0 {{\n{body}\n}}\n" + "".join(
            f"{m}\n" for m in self.metadata
        )
