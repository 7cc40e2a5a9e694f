"""Values of the loop level as LLVM's text: scalars and what computes them, addresses, which memory lies apart.

Every load and store says which scope of memory it belongs to, and a store which scopes it cannot touch, from the planned places of buffers.
"""

from __future__ import annotations

import struct
from typing import Any

from tracegrad.codegen.elementary.functions import FUNCTIONS
from tracegrad.codegen.elementary.lookup import SCALAR
from tracegrad.codegen.loop_ir import Buffer, Function, Value, blocks_of, buffers_of

INLINED_CALLS = 150
"""Elementary functions of scalars outside of nests are inlined unless there are more of them than this."""

TYPES = {
    "f16": "half",
    "f32": "float",
    "f64": "double",
    "i1": "i1",
    "i8": "i8",
    "i16": "i16",
    "i32": "i32",
    "i64": "i64",
    "ptr": "ptr",
}
ALIGNMENT = {"f16": 2, "f32": 4, "f64": 8, "i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "ptr": 8}

_FLOAT_BINARY = frozenset(("fadd", "fsub", "fmul", "fdiv"))
_INT_BINARY = frozenset(("add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "sdiv", "udiv", "srem", "urem"))
_CASTS = frozenset(
    ("sext", "zext", "trunc", "fptosi", "fptoui", "sitofp", "uitofp", "fpext", "fptrunc", "bitcast", "inttoptr", "ptrtoint")
)
_INTRINSICS = {
    "fabs": 1, "sqrt": 1, "floor": 1, "ceil": 1, "fptrunc_toward_zero": 1, "rint": 1, "round": 1, "copysign": 2, "maximum": 2,
    "minimum": 2, "maxnum": 2, "minnum": 2, "fma": 3, "smax": 2, "smin": 2, "umax": 2, "umin": 2, "ctpop": 1, "fshl": 3,
}  # fmt: skip
_INTRINSIC_NAMES = {"fptrunc_toward_zero": "trunc"}


def float_literal(value: float, type: str) -> str:
    """A float constant: LLVM wants the bits of a double, also for a float."""
    if type == "f32":
        try:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            value = float("inf") if value > 0 else float("-inf")
        if value != value:
            return "0x7FF8000000000000"
    elif type == "f16":
        value = struct.unpack("<e", struct.pack("<e", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


class Values:
    """Writes the values of one Function, line by line; `llvm_text.Writer` puts them into statements and those into a module."""

    def __init__(self, function: Function):
        self.function = function
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}
        self.declarations: dict[str, str] = {}
        self.elementary: set[tuple[str, str]] = set()  # the elementary functions called, as (name, type)
        self.called: set[tuple[str, str]] = set()  # those of them that are called rather than inlined
        count = sum(type(s) is Value and s.op == "scalar math" for s in function.walk())
        self.inline_scalars = count <= INLINED_CALLS
        self.globals: dict[Any, str] = {}
        self.metadata: list[str] = []
        self.scope_ids: dict[Buffer | None, int] = {}
        self.scope_lists: dict[tuple[int, ...], str] = {}
        self.unit: tuple[Buffer, ...] = ()
        self.store_notes: dict[Buffer, str] = {}
        self.access = ""  # to which loop of independent iterations loads and stores belong
        self.fresh = 0

    # ---------------------------------------------------------------------------------------------------------------- metadata

    def _metadata_node(self, text: str) -> int:
        self.metadata.append(f"!{len(self.metadata)} = {text}")
        return len(self.metadata) - 1

    def _empty(self) -> int:
        found = self.scope_lists.get(())
        if found is None:
            found = self.scope_lists[()] = str(self._metadata_node("!{}"))
        return int(found)

    # ---------------------------------------------------------------------------------------------------------------- aliasing

    def _scope(self, buffer: Buffer) -> int:
        key = None if not buffer.mutable and buffer.kind != "tape" else buffer
        found = self.scope_ids.get(key)
        if found is None:
            number = len(self.metadata)
            found = self.scope_ids[key] = self._metadata_node(f"distinct !{{!{number}, !0}}")
        return found

    def _scope_list(self, scopes: tuple[int, ...]) -> str:
        found = self.scope_lists.get(scopes)
        if found is None:
            number = self._metadata_node("!{" + ", ".join(f"!{s}" for s in scopes) + "}")
            found = self.scope_lists[scopes] = str(number)
        return found

    def _enter_unit(self, statement: Any) -> None:
        """Collect the buffers of a top-level statement: its stores name those that lie elsewhere."""
        seen: dict[Buffer, None] = {}
        stack = [statement]
        while stack:
            s = stack.pop()
            for b in buffers_of(s):
                seen[b] = None
            for block in blocks_of(s):
                stack.extend(block)
        self.unit = tuple(seen)
        self.store_notes = {}

    def _store_note(self, buffer: Buffer) -> str:
        note = self.store_notes.get(buffer)
        if note is None:
            others = sorted({self._scope(b) for b in self.unit if b is not buffer and _apart(b, buffer)})
            note = f", !alias.scope !{self._scope_list((self._scope(buffer),))}"
            if others and len(others) <= 64:
                note += f", !noalias !{self._scope_list(tuple(others))}"
            self.store_notes[buffer] = note
        return note

    # ------------------------------------------------------------------------------------------------------------------ values

    def ref(self, v: Value) -> str:
        name = self.names.get(v)
        if name is None:
            if v.op == "const":
                name = self._constant(v)
            else:
                name = f"%v{v.number}"
            self.names[v] = name
        return name

    def _constant(self, v: Value) -> str:
        type = v.type
        if type == "ptr":
            kind, value = v.attr
            found = self.globals.get(v)
            if found is not None:
                return found.split(" ")[0]
            name = f"@tgk.{len(self.globals)}"
            if kind[0] == "c":  # a complex constant
                part = "f32" if kind == "c64" else "f64"
                zero = f"{TYPES[part]} {float_literal(0.0, part)}"
                literal = f"[2 x {TYPES[part]}] [{TYPES[part]} {float_literal(value, part)}, {zero}]"
            elif kind[0] == "f":
                literal = f"{TYPES[kind]} {float_literal(value, kind)}"
            else:
                literal = f"{TYPES[kind]} {value}"
            self.globals[v] = f"{name} = private unnamed_addr constant {literal}"
            return name
        if type[0] == "f":
            return float_literal(v.attr, type)
        if type == "i1":
            return "true" if v.attr else "false"
        return str(v.attr)

    def _typed(self, v: Value) -> str:
        return f"{TYPES[v.type]} {self.ref(v)}"

    def _pointer(self, buffer: Buffer, index: str | None, offset: int) -> str:
        """The address of a scalar of a buffer; a constant offset is added last, where the instruction's address holds it."""
        base = self.ref(buffer.address) if buffer.address is not None else f"%b.{buffer.name}"
        type = TYPES[buffer.scalar]
        if index is not None:
            self.fresh += 1
            name = f"%p{self.fresh}"
            self.lines.append(f"  {name} = getelementptr {type}, ptr {base}, i64 {index}")
            base = name
        if offset:
            self.fresh += 1
            name = f"%p{self.fresh}"
            self.lines.append(f"  {name} = getelementptr {type}, ptr {base}, i64 {offset}")
            base = name
        return base

    def _value(self, v: Value) -> None:
        op = v.op
        out = self.names[v] = f"%v{v.number}"
        type = TYPES[v.type]
        args = v.args
        add = self.lines.append
        if op in _INT_BINARY:
            flags = " nsw" if v.attr == "index" else ""
            add(f"  {out} = {op}{flags} {type} {self.ref(args[0])}, {self.ref(args[1])}")
        elif op in _FLOAT_BINARY:
            flags = "" if v.attr == "exact" else f" {v.attr or 'contract'}"
            add(f"  {out} = {op}{flags} {type} {self.ref(args[0])}, {self.ref(args[1])}")
        elif op == "load":
            buffer, offset = v.attr
            pointer = self._pointer(buffer, self.ref(args[0]) if args else None, offset)
            note = f", !alias.scope !{self._scope_list((self._scope(buffer),))}"
            add(f"  {out} = load {type}, ptr {pointer}, align {ALIGNMENT[v.type]}{note}{self.access}")
        elif op == "fcmp" or op == "icmp":
            add(f"  {out} = {op} {v.attr} {TYPES[args[0].type]} {self.ref(args[0])}, {self.ref(args[1])}")
        elif op == "select":
            add(f"  {out} = select i1 {self.ref(args[0])}, {type} {self.ref(args[1])}, {type} {self.ref(args[2])}")
        elif op in _CASTS:
            add(f"  {out} = {op} {self._typed(args[0])} to {type}")
        elif op == "fneg":
            add(f"  {out} = fneg {self._typed(args[0])}")
        elif op in _INTRINSICS:
            name = f"@llvm.{_INTRINSIC_NAMES.get(op, op)}.{v.type}"
            self._declare(name, type, [type] * len(args))
            flags = f"{v.attr} " if v.attr else ""
            add(f"  {out} = call {flags}{type} {name}({', '.join(map(self._typed, args))})")
        elif op == "ctlz":
            name = f"@llvm.ctlz.{v.type}"
            self._declare(name, type, [type, "i1"])
            add(f"  {out} = call {type} {name}({self._typed(args[0])}, i1 false)")
        elif op in ("fptosi_sat", "fptoui_sat"):
            source = args[0].type
            name = f"@llvm.{op.replace('_', '.')}.{v.type}.{source}"
            self._declare(name, type, [TYPES[source]])
            add(f"  {out} = call {type} {name}({self._typed(args[0])})")
        elif op == "math" or op == "scalar math":
            function = v.attr if op == "math" else SCALAR.get((v.attr, v.type), v.attr)
            name = self._math(function, v.type, op == "math" or self.inline_scalars)
            add(f"  {out} = call {type} {name}({', '.join(map(self._typed, args))})")
        elif op == "address":
            buffer, offset = v.attr
            pointer = self._pointer(buffer, self.ref(args[0]) if args else None, offset)
            self.names[v] = pointer
        elif op == "table":
            kind, numbers = v.attr
            if v.attr not in self.globals:
                elements = ", ".join(f"{TYPES[kind]} {n}" for n in numbers)
                count = len(self.globals)
                self.globals[v.attr] = (
                    f"@tgk.{count} = private unnamed_addr constant [{len(numbers)} x {TYPES[kind]}] [{elements}]"
                )
            name = self.globals[v.attr]
            add(f"  {out} = getelementptr inbounds {TYPES[kind]}, ptr {name.split(' ')[0]}, i64 {self.ref(args[0])}")
        else:
            raise NotImplementedError(f"the loop-level operation {op!r} has no LLVM text")

    def _declare(self, name: str, result: str, args: list[str]) -> None:
        if name not in self.declarations:
            attributes = "" if name.startswith("@llvm.") else " #1"
            self.declarations[name] = f"declare {result} {name}({', '.join(args)}){attributes}"

    def _math(self, function: str, type: str, inlined: bool) -> str:
        """The name of an elementary function; its text, and that of what it calls, joins the module at the end."""
        self.elementary.add((function, type))
        if inlined:
            return f"@tg.{function}.{type}"
        self.called.add((function, type))
        return f"@tg.call.{function}.{type}"

    def _wrappers(self) -> list[str]:
        """Functions around elementary functions that are called, not inlined, since there are too many calls of them."""
        texts = []
        for function, type in sorted(self.called):
            count = FUNCTIONS[function][0]
            t = TYPES[type]
            names = [f"{t} %x{k}" for k in range(count)]
            texts.append(
                f"define internal {t} @tg.call.{function}.{type}({', '.join(names)}) noinline nounwind willreturn memory(none) {{\n"
                f"  %r = call {t} @tg.{function}.{type}({', '.join(names)})\n  ret {t} %r\n}}"
            )
        return texts


_ELSEWHERE = ("pointer", "tape")


def _apart(a: Buffer, b: Buffer) -> bool:
    """Whether two buffers never share a byte."""
    if a is b:
        return False
    if a.behind or b.behind:
        return all([_apart(x, y) for x in a.behind or (a,) for y in b.behind or (b,)])
    if a.kind in _ELSEWHERE or b.kind in _ELSEWHERE:
        return not (a.kind in _ELSEWHERE and b.kind in _ELSEWHERE)
    if a.home is not None or b.home is not None:
        return (a.home or a) is not (b.home or b)
    if a.kind == "temp" and b.kind == "temp":
        if a.tasks > 1 and b.tasks > 1:  # two places in the frame of one task, or in frames that do not live at once
            return a.stride == b.stride and (a.position + a.room <= b.position or b.position + b.room <= a.position)
        return _end(a) <= b.position or _end(b) <= a.position
    return True


def _end(b: Buffer) -> int:
    """Where the memory of a temporary ends, that of the last task."""
    return b.position + b.room + b.stride * (b.tasks - 1)
