"""From the loop level to LLVM's assembly language, written directly as text.

Text costs about two microseconds an instruction, parsing included, which is several times less than building LLVM's objects from
Python. Every store says which other memory it cannot touch (`!noalias`), from the planned places of buffers, so that LLVM vectorizes
without run-time checks.
"""

from __future__ import annotations

from typing import Any

from tracegrad.codegen.elementary.library import closure
from tracegrad.codegen.llvm_values import ALIGNMENT, TYPES, Values
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

_PARAMETERS = "ptr noalias %inputs, ptr noalias %outputs, ptr noalias %constants, ptr noalias %arena"
MOST_ARGUMENTS = 24
"""Segments get more scalars than this through memory."""


class Writer(Values):
    """Writes one Function as a module."""

    def __init__(self, function: Function, symbol: str, attributes: str = ""):
        super().__init__(function)
        self.symbol = symbol
        self.attributes = attributes
        self.masks = '"prefer-vector-width"="512"' in attributes  # whether vectors may be masked at little cost
        self.label = "entry"
        self.labels = 0
        self.sizes: Sizes | None = None
        self.size = 0  # how many operations there are
        self.functions: list[str] = []  # the texts of segments
        self.task: str | None = None  # the number of the task whose function is being written
        self.slots: dict[Value, int] = {}
        self.stored: set[Value] = set()  # scalars that their own segment puts in memory
        self.spilled = -(-function.arena_size // 64) * 64
        self.external: set[str] = set()

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
        masked = self.masks and _leaves_many(s)
        lanes = _lanes_of_gathers(s, masked) if self.masks and not any([blocks_of(t) for t in s.body]) else 0
        note = self._loop_note((*s.hints, "masked") if masked else s.hints, group, lanes)
        self.lines.append(f"  br i1 {test}, label %{body}, label %{end}{note}")
        self._start(end)
        for r, y in zip(s.results, s.yields):
            self.names[r] = self.ref(y)

    def _loop_note(self, hints: tuple[str, ...], group: int, lanes: int = 0) -> str:
        wanted = []
        if "independent" in hints:
            wanted.append(f'!{{!"llvm.loop.parallel_accesses", !{group}}}')
        if "vectorize" in hints:
            wanted.append('!{!"llvm.loop.vectorize.enable", i1 true}')
        if "no vectorize" in hints:
            wanted.append('!{!"llvm.loop.vectorize.enable", i1 false}')
        if "masked" in hints:
            wanted.append('!{!"llvm.loop.vectorize.predicate.enable", i1 true}')
        if lanes:
            wanted.append(f'!{{!"llvm.loop.vectorize.width", i32 {lanes}}}')
        if "interleave" in hints:
            wanted.append('!{!"llvm.loop.interleave.count", i32 4}')
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


def _lanes_of_gathers(s: For, masked: bool) -> int:
    """How many lanes LLVM must be told to use where memory is read at places that do not follow each other, 0 where it finds out. Masked reads
    of that kind it takes for dearer than all that they save, and would compute one element after the other. Where there is little to do but
    to read, vectors of half the width are as fast, since each number is fetched by instructions of its own, and half as many of these."""
    inside = {t for t in s.body if type(t) is Value}

    def follows(place: Value) -> bool:
        if place is s.counter or place not in inside:
            return True
        return (place.op == "add" and all(map(follows, place.args))) or (
            place.op == "mul" and place.args[1].is_const and abs(place.args[1].attr) == 1 and follows(place.args[0])
        )

    loads = [t for t in inside if t.op == "load"]
    stores = [t for t in s.body if type(t) is Store]
    if all([follows(t.args[0]) for t in loads if t.args]) or s.params or s.step != 1 or "no vectorize" in s.hints:
        return 0
    # LLVM complains to the user where it cannot do what it is told: this it can.
    if len(inside) + len(stores) < len(s.body) or not all([t.index is not None and follows(t.index) for t in stores]):
        return 0
    if "independent" not in s.hints:
        read, written = {t.attr[0] for t in loads}, {t.buffer for t in stores}
        if read & written or any([buffer.address is not None for buffer in read | written]):
            return 0
    if masked:
        return 64 // next(SIZES[t.type] for t in inside if t.op in _DEAR)
    long = not (s.low.is_const and s.high.is_const) or s.high.attr - s.low.attr >= 16
    little = long and not any([t.op in _ARITHMETIC or t.op in _DEAR for t in inside])
    return 8 if little and max([SIZES[t.type] for t in loads]) == 4 else 0


_ARITHMETIC = ("fadd", "fsub", "fmul", "fdiv", "sqrt", "sdiv", "udiv", "srem", "urem")
_DEAR = ("math", "maximum", "minimum")  # the last two for what they do with NaN
