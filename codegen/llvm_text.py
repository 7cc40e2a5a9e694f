"""From the loop level to LLVM's assembly language, written directly as text.

Text costs about two microseconds an instruction, parsing included, which is several times less than building LLVM's objects from
Python. Every store says which other memory it cannot touch (`!noalias`), from the planned places of buffers, so that LLVM vectorizes
without run-time checks.
"""

from __future__ import annotations

import struct
from typing import Any

from tracegrad.codegen.elementary.functions import FUNCTIONS
from tracegrad.codegen.elementary.library import closure
from tracegrad.codegen.elementary.lookup import SCALAR
from tracegrad.codegen.loop_ir import (
    SIZES,
    Alloc,
    Buffer,
    Call,
    Copy,
    Exit,
    For,
    Function,
    Parallel,
    Store,
    Switch,
    Value,
    While,
    blocks_of,
    buffers_of,
)
from tracegrad.codegen.segments import BODY_SEGMENT, LARGE_BODY, LARGE_FUNCTION, SEGMENT, Sizes, flow

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


_PARAMETERS = "ptr noalias %inputs, ptr noalias %outputs, ptr noalias %constants, ptr noalias %arena"
MOST_ARGUMENTS = 24
"""Segments get more scalars than this through memory."""


class Writer:
    """Writes one Function as a module."""

    def __init__(self, function: Function, symbol: str, attributes: str = ""):
        self.function = function
        self.symbol = symbol
        self.attributes = attributes
        self.masks = '"prefer-vector-width"="512"' in attributes  # whether vectors may be masked at little cost
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}
        self.label = "entry"
        self.labels = 0
        self.declarations: dict[str, str] = {}
        self.elementary: set[tuple[str, str]] = set()  # the elementary functions called, as (name, type)
        self.called: set[tuple[str, str]] = set()  # those of them that are called rather than inlined
        count = sum(type(s) is Value and s.op == "scalar math" for s in function.walk())
        self.inline_scalars = count <= INLINED_CALLS
        self.sizes: Sizes | None = None
        self.size = 0  # how many operations there are
        self.functions: list[str] = []  # the texts of segments
        self.task: str | None = None  # the number of the task whose function is being written
        self.slots: dict[Value, int] = {}
        self.stored: set[Value] = set()  # scalars that their own segment puts in memory
        self.spilled = -(-function.arena_size // 64) * 64
        self.external: set[str] = set()
        self.globals: dict[Any, str] = {}
        self.metadata: list[str] = []
        self.scope_ids: dict[Buffer | None, int] = {}
        self.scope_lists: dict[tuple[int, ...], str] = {}
        self.unit: tuple[Buffer, ...] = ()
        self.store_notes: dict[Buffer, str] = {}
        self.access = ""  # to which loop of independent iterations loads and stores belong
        self.domain = ""
        self.fresh = 0

    # -------------------------------------------------------------------------------------------------------------- the module

    def module(self) -> str:
        self._metadata_node("distinct !{!0}")  # the domain of alias scopes
        sizes = Sizes(self.function)
        self.size = sizes.total
        self.sizes = sizes if sizes.total > LARGE_FUNCTION else None
        self._block(self.function.body, top=True)
        entry = self._bases(self.function.body)
        if any(symbol.startswith("tg.blas.") for symbol in self.external):
            # Products are cut into tasks here; a BLAS with threads of its own would wait for cores that others have.
            self._declare("@tg.threads.set", "i32", ["i32"])
            self.external.add("tg.threads.set")
            entry.append("  %threads = call i32 @tg.threads.set(i32 1)")
            self._at_exits("  call i32 @tg.threads.set(i32 %threads)")
        if any(b.kind == "region" for b in self.function.buffers):
            # Tapes that nobody has given back yet, unless they are returned.
            self._declare("@tg.tapes.release", "void", ["ptr", "i64"])
            self.external.add("tg.tapes.release")
            entry.append("  store i64 0, ptr %b.region, align 8")
            self._at_exits("  call void @tg.tapes.release(ptr %b.region, i64 0)", not self.function.returns_tapes)
        head = f"define i32 @{self.symbol}({_PARAMETERS}) #0 {{"
        parts = [*self.globals.values(), head, "entry:", *entry, *self.lines, "  ret i32 0", "}", "", *self.functions]
        parts.extend(self._routines())
        texts, declared, external = closure(self.elementary)
        parts.extend(texts)
        parts.extend(self._wrappers())
        own = set(self.declarations)
        parts.extend(d for d in sorted(declared) if d.split("(")[0].split(" ")[-1] not in own)
        self.external |= external
        parts.extend(self.declarations.values())
        parts.append(f"attributes #0 = {{ nounwind {self.attributes} }}")
        parts.append("attributes #1 = { nounwind }")
        parts.append(f"attributes #2 = {{ nounwind noinline {self.attributes} }}")
        parts.extend(self.metadata)
        return "\n".join(parts) + "\n"

    def _at_exits(self, line: str, also_at_the_end: bool = True) -> None:
        """Have a line executed where the function is left early, and where it ends."""
        self.lines = [x for old in self.lines for x in ((line, old) if old.startswith("  ret ") else (old,))]
        if also_at_the_end:
            self.lines.append(line)

    def _bases(self, block: list[Any]) -> list[str]:
        """The addresses of the buffers that a block uses, computed where its function begins."""
        used: set[Buffer] = set()
        stack = list(block)
        while stack:
            s = stack.pop()
            used.update(buffers_of(s))
            for inner in blocks_of(s):
                stack.extend(inner)
        entry: list[str] = []
        for b in self.function.buffers:
            if b not in used:
                continue
            name = f"%b.{b.name}"
            if b.home is not None:
                b = b.home
            if b.kind == "temp":
                place = str(b.position)
                if b.tasks > 1 and self.task is not None:
                    entry.append(f"  {name}.t = mul nuw nsw i64 {self.task}, {b.stride}")
                    entry.append(f"  {name}.o = add nuw nsw i64 {name}.t, {b.position}")
                    place = f"{name}.o"
                entry.append(f"  {name} = getelementptr inbounds i8, ptr %arena, i64 {place}")
            elif b.kind == "slots":
                count = sum(c.kind == "constant" for c in self.function.buffers)
                entry.append(f"  {name} = getelementptr inbounds ptr, ptr %constants, i64 {count}")
            elif b.kind == "region":
                count = sum(c.kind == "output" for c in self.function.buffers)
                entry.append(f"  {name} = getelementptr inbounds ptr, ptr %outputs, i64 {count}")
            elif b.kind in ("input", "output", "constant"):
                array = {"input": "%inputs", "output": "%outputs", "constant": "%constants"}[b.kind]
                entry.append(f"  {name}.p = getelementptr inbounds ptr, ptr {array}, i64 {b.position}")
                entry.append(f"  {name} = load ptr, ptr {name}.p, align 8, !invariant.load !{self._empty()}")
        return entry

    def _routines(self) -> list[str]:
        """The kernels that the function calls, each once; what they declare joins the module."""
        definitions: dict[str, str] = {}
        for routine in self.function.helpers.values():
            definitions.update(routine.definitions)
            for symbol, declaration in routine.declarations.items():
                self.declarations.setdefault(f"@{symbol}", declaration)
                if not symbol.startswith("llvm."):
                    self.external.add(symbol)
        return list(definitions.values())

    def _metadata_node(self, text: str) -> int:
        self.metadata.append(f"!{len(self.metadata)} = {text}")
        return len(self.metadata) - 1

    def _empty(self) -> int:
        found = self.scope_lists.get(())
        if found is None:
            found = self.scope_lists[()] = str(self._metadata_node("!{}"))
        return int(found)

    # ---------------------------------------------------------------------------------------------------------------- segments

    def _slot(self, v: Value) -> str:
        """The address of the memory through which a scalar passes from one function to another."""
        offset = self.slots.get(v)
        if offset is None:
            offset = self.slots[v] = self.spilled
            self.spilled += 8
        self.fresh += 1
        name = f"%p{self.fresh}"
        self.lines.append(f"  {name} = getelementptr inbounds i8, ptr %arena, i64 {offset}")
        return name

    def _segment(self, run: list[Any]) -> None:
        """Write a run of statements as a function of its own, and a call of it."""
        assert self.sizes is not None
        needed, given = flow(run, self.sizes.uses)
        by_memory = needed if len(needed) > MOST_ARGUMENTS else []
        for v in by_memory:
            if v not in self.stored:
                slot = self._slot(v)
                self.lines.append(f"  store {self._typed(v)}, ptr {slot}, align 8")
        arguments = [] if by_memory else needed
        passed = ", ".join([_PARAMETERS, *map(self._typed, arguments)]).replace(" noalias", "")
        name = f"@{self.symbol}.part{len(self.functions)}"
        self.functions.append("")
        place = len(self.functions) - 1
        outer = (self.lines, self.label, self.names)
        self.lines, self.label, self.names = [], "entry", {v: f"%v{v.number}" for v in needed}
        parameters = ", ".join([_PARAMETERS, *[f"{TYPES[v.type]} %v{v.number}" for v in arguments]])
        for v in by_memory:
            slot = self._slot(v)
            self.lines.append(f"  %v{v.number} = load {TYPES[v.type]}, ptr {slot}, align 8")
        self._statements(run, True)
        for v in given:
            slot = self._slot(v)
            self.lines.append(f"  store {self._typed(v)}, ptr {slot}, align 8")
        body = self.lines
        self.lines, self.label, self.names = outer
        self.functions[place] = "\n".join(
            [f"define internal void {name}({parameters}) #2 {{", "entry:", *self._bases(run), *body, "  ret void", "}", ""]
        )
        self.lines.append(f"  call void {name}({passed})")
        self.stored.update(given)
        for v in given:
            slot = self._slot(v)
            self.names[v] = f"%v{v.number}"
            self.lines.append(f"  %v{v.number} = load {TYPES[v.type]}, ptr {slot}, align 8")

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
            add(f"  {out} = call {type} {name}({', '.join(map(self._typed, args))})")
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

    # -------------------------------------------------------------------------------------------------------------- statements

    def _new_label(self) -> str:
        self.labels += 1
        return f"L{self.labels}"

    def _start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label

    def _block(self, block: list[Any], top: bool = False) -> None:
        sizes = self.sizes
        if sizes is None or not top and sum(map(sizes.weight, block)) <= LARGE_BODY:
            self._statements(block, top)
            return
        for run in sizes.cut(block, SEGMENT if top else BODY_SEGMENT):
            weight = sum(map(sizes.weight, run))
            if weight <= 8 or run[0] in sizes.exits or weight > LARGE_BODY and len(run) == 1:
                self._statements(run, top)
            else:
                self._segment(run)

    def _statements(self, block: list[Any], top: bool) -> None:
        for s in block:
            kind = type(s)
            if kind is Value:
                if top:
                    self.unit = ()
                self._value(s)
                continue
            if top:
                self._enter_unit(s)
            if kind is Store:
                pointer = self._pointer(s.buffer, self.ref(s.index) if s.index is not None else None, s.offset)
                type_ = s.value.type
                value = self.ref(s.value)
                note = self._store_note(s.buffer)
                self.lines.append(f"  store {TYPES[type_]} {value}, ptr {pointer}, align {ALIGNMENT[type_]}{note}{self.access}")
            elif kind is For:
                self._for(s)
            elif kind is Parallel:
                self._parallel(s)
            elif kind is While:
                self._while(s)
            elif kind is Switch:
                self._switch(s)
            elif kind is Call:
                self._call(s)
            elif kind is Copy:
                self._copy(s)
            elif kind is Exit:
                self._exit(s)
            elif kind is Alloc:
                pass  # its place is a constant offset in the arena
            else:
                self.lines.append(f"  ; {s.text}")

    def _for(self, s: For) -> None:
        body, end = self._new_label(), self._new_label()
        counter, following = f"%v{s.counter.number}", f"%n{s.counter.number}"
        self.names[s.counter] = counter
        before = self.label
        single = s.low.is_const and s.high.is_const and s.low.attr + s.step >= s.high.attr
        self.lines.append(f"  br label %{body}")
        self._start(body)
        place = len(self.lines)
        for p in s.params:
            self.names[p] = f"%v{p.number}"
        group = 0
        if "independent" in s.hints:
            group = self._metadata_node("distinct !{}")
            self.access = f", !llvm.access.group !{group}"
        self._block(s.body)
        self.access = ""
        latch = self.label
        phis = [f"  {counter} = phi i64 [ {self.ref(s.low)}, %{before} ], [ {following}, %{latch} ]"]
        for p, init, y in zip(s.params, s.inits, s.yields):
            phis.append(f"  %v{p.number} = phi {TYPES[p.type]} [ {self.ref(init)}, %{before} ], [ {self.ref(y)}, %{latch} ]")
        self.lines[place:place] = phis
        self.lines.append(f"  {following} = add nuw nsw i64 {counter}, {s.step}")
        test = f"%c{s.counter.number}"
        if single:
            self.lines.append(f"  {test} = icmp ult i64 {following}, {s.low.attr}")
        else:
            self.lines.append(f"  {test} = icmp ult i64 {following}, {self.ref(s.high)}")
        note = self._loop_note((*s.hints, "masked") if self.masks and _leaves_many(s) else s.hints, group)
        self.lines.append(f"  br i1 {test}, label %{body}, label %{end}{note}")
        self._start(end)
        for r, y in zip(s.results, s.yields):
            self.names[r] = self.ref(y)

    def _loop_note(self, hints: tuple[str, ...], group: int) -> str:
        wanted = []
        if "independent" in hints:
            wanted.append(f'!{{!"llvm.loop.parallel_accesses", !{group}}}')
        if "vectorize" in hints:
            wanted.append('!{!"llvm.loop.vectorize.enable", i1 true}')
        if "no vectorize" in hints:
            wanted.append('!{!"llvm.loop.vectorize.enable", i1 false}')
        if "masked" in hints:
            wanted.append('!{!"llvm.loop.vectorize.predicate.enable", i1 true}')
        if "no unroll" in hints:
            wanted.append('!{!"llvm.loop.unroll.disable"}')
        if not wanted:
            return ""
        nodes = [self._metadata_node(w) for w in wanted]
        number = len(self.metadata)
        self._metadata_node(f"distinct !{{!{number}, " + ", ".join(f"!{n}" for n in nodes) + "}")
        return f", !llvm.loop !{number}"

    def _parallel(self, s: Parallel) -> None:
        """A task becomes a function of (frame, number); the frame holds the four pointers and the scalars that it needs."""
        needed, _ = flow([s], {})
        frame = self.spilled
        self.spilled += 8 * (4 + len(needed))
        self.fresh += 1
        pointer = f"%f{self.fresh}"
        self.lines.append(f"  {pointer} = getelementptr inbounds i8, ptr %arena, i64 {frame}")
        names = ["%inputs", "%outputs", "%constants", "%arena"]
        fields = [(f"ptr {n}", "ptr", n) for n in names] + [(self._typed(v), TYPES[v.type], f"%v{v.number}") for v in needed]
        name = f"@{self.symbol}.task{len(self.functions)}"
        self.functions.append("")
        place = len(self.functions) - 1
        head = [f"define internal void {name}(ptr noalias %frame, i64 %v{s.counter.number}) #2 {{", "entry:"]
        for k, (value, type, local) in enumerate(fields):
            self.lines.append(f"  {pointer}.{k} = getelementptr inbounds i8, ptr {pointer}, i64 {8 * k}")
            self.lines.append(f"  store {value}, ptr {pointer}.{k}, align 8")
            head.append(f"  %frame.{k} = getelementptr inbounds i8, ptr %frame, i64 {8 * k}")
            head.append(f"  {local} = load {type}, ptr %frame.{k}, align 8, !invariant.load !{self._empty()}")
        outer = (self.lines, self.label, self.names)
        self.lines, self.label, self.names = [], "entry", {v: f"%v{v.number}" for v in (*needed, s.counter)}
        # what passes between segments through memory would have one place for all tasks: a task is not cut
        sizes, self.sizes = self.sizes, None
        self.task = f"%v{s.counter.number}"
        self._statements(s.body, False)
        head.extend(self._bases(s.body))
        self.sizes, self.task = sizes, None
        body = self.lines
        self.lines, self.label, self.names = outer
        self.functions[place] = "\n".join([*head, *body, "  ret void", "}", ""])
        self._declare("@tg.pool.run", "void", ["ptr", "ptr", "i64"])
        self.external.add("tg.pool.run")
        self.lines.append(f"  call void @tg.pool.run(ptr {name}, ptr {pointer}, i64 {s.count})")

    def _while(self, s: While) -> None:
        head, body, end = self._new_label(), self._new_label(), self._new_label()
        before = self.label
        self.lines.append(f"  br label %{head}")
        self._start(head)
        place = len(self.lines)
        for p in s.params:
            self.names[p] = f"%v{p.number}"
        self._block(s.head)
        assert s.condition is not None
        self.lines.append(f"  br i1 {self.ref(s.condition)}, label %{body}, label %{end}")
        self._start(body)
        self._block(s.body)
        latch = self.label
        self.lines.append(f"  br label %{head}")
        phis = []
        for p, init, y in zip(s.params, s.inits, s.yields):
            phis.append(f"  %v{p.number} = phi {TYPES[p.type]} [ {self.ref(init)}, %{before} ], [ {self.ref(y)}, %{latch} ]")
        self.lines[place:place] = phis
        self._start(end)

    def _switch(self, s: Switch) -> None:
        labels = [self._new_label() for _ in s.branches]
        end = self._new_label()
        if s.selector.type == "i1":
            self.lines.append(f"  br i1 {self.ref(s.selector)}, label %{labels[0]}, label %{labels[1]}")
        else:
            type = TYPES[s.selector.type]
            cases = " ".join(f"{type} {k}, label %{label}" for k, label in enumerate(labels[:-1]))
            self.lines.append(f"  switch {type} {self.ref(s.selector)}, label %{labels[-1]} [ {cases} ]")
        ends: list[str] = []
        for label, branch in zip(labels, s.branches):
            self._start(label)
            self._block(branch)
            ends.append(self.label)
            self.lines.append(f"  br label %{end}")
        self._start(end)
        for k, r in enumerate(s.results):
            incoming = ", ".join(f"[ {self.ref(y[k])}, %{e} ]" for y, e in zip(s.yields, ends))
            self.lines.append(f"  %v{r.number} = phi {TYPES[r.type]} {incoming}")
            self.names[r] = f"%v{r.number}"

    def _call(self, s: Call) -> None:
        result = "void" if s.result is None else TYPES[s.result.type]
        name = f'@"{s.symbol}"' if not s.symbol.replace("_", "").replace(".", "").isalnum() else f"@{s.symbol}"
        if s.symbol not in self.function.helpers:
            self._declare(name, result, [TYPES[a.type] for a in s.args])
            self.external.add(s.symbol)
        args = ", ".join(map(self._typed, s.args))
        if s.result is None:
            self.lines.append(f"  call void {name}({args})")
        else:
            self.names[s.result] = f"%v{s.result.number}"
            self.lines.append(f"  %v{s.result.number} = call {result} {name}({args})")

    def _copy(self, s: Copy) -> None:
        target = self._pointer(s.target, self.ref(s.target_index), 0)
        if s.source is None:
            self._declare("@llvm.memset.p0.i64", "void", ["ptr", "i8", "i64", "i1"])
            self.lines.append(f"  call void @llvm.memset.p0.i64(ptr {target}, i8 0, i64 {s.nbytes}, i1 false)")
        else:
            assert s.source_index is not None
            source = self._pointer(s.source, self.ref(s.source_index), 0)
            self._declare("@llvm.memcpy.p0.p0.i64", "void", ["ptr", "ptr", "i64", "i1"])
            self.lines.append(f"  call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {s.nbytes}, i1 false)")

    def _exit(self, s: Exit) -> None:
        leave, stay = self._new_label(), self._new_label()
        self.lines.append(f"  br i1 {self.ref(s.condition)}, label %{leave}, label %{stay}")
        self._start(leave)
        self.lines.append(f"  ret i32 {self.ref(s.code)}")
        self._start(stay)


def _leaves_many(s: For) -> bool:
    """Whether a loop of few turns that each cost much, such as an exponential, leaves so many of them behind whole vectors of 512 bits that a
    masked vector costs less than to compute them one by one. It does from more than a quarter of a vector on, behind halves of vectors,
    where there are at most eight: rows of 63 take half the time."""
    if not (s.low.is_const and s.high.is_const) or s.step != 1 or any([blocks_of(t) for t in s.body]):
        return False
    kinds = {t.type for t in s.body if type(t) is Value and t.op in _DEAR}
    if len(kinds) != 1:
        return False
    turns, half = s.high.attr - s.low.attr, 32 // SIZES[kinds.pop()]
    return 2 * half < turns <= 16 * half and turns % half > half // 2


_DEAR = ("math", "maximum", "minimum")  # the last two for what they do with NaN

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
