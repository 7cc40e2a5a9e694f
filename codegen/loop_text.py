"""The text of the loop level.

Scalars are numbered in the order in which they are written, counters are named by letters, and positions are written out where they
are used, so that the text of a program does not depend on how it came about.
"""

from __future__ import annotations

from typing import Any

from tracegrad.codegen.loop_ir import Alloc, Buffer, Call, Copy, Exit, For, Function, Parallel, Store, Switch, Value, While


def function_text(function: Function) -> str:
    return "\n".join(_Printer().function(function)) + "\n"


class _Printer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}
        self.count = 0
        self.active: list[str] = []  # the names of the counters of open loops

    # names
    def define(self, v: Value) -> str:
        self.names[v] = name = f"%{self.count}"
        self.count += 1
        return name

    def counter(self, v: Value) -> str:
        base = v.attr or "i"
        name, k = base, 2
        while name in self.active:
            name, k = f"{base}{k}", k + 1
        self.active.append(name)
        self.names[v] = f"%{name}"
        return f"%{name}"

    def ref(self, v: Value) -> str:
        if v.op == "const":
            if v.type == "ptr":
                return f"&{v.attr[1]}"
            return repr(v.attr) if v.type != "i1" else ("true" if v.attr else "false")
        if v.attr == "index" and v not in self.names:
            return self.position(v)
        return self.names.get(v) or self.define(v)

    def refs(self, values: Any) -> str:
        return ", ".join([v.name if isinstance(v, Buffer) else self.ref(v) for v in values])

    # positions
    def position(self, v: Value) -> str:
        """An index computation: the sums and products of counters that `Builder.index` made."""
        if v.op not in ("add", "mul") or v.attr != "index":
            return self.ref(v)
        left, right = (self.position(a) for a in v.args)
        if v.op == "mul":
            left, right = (right, left) if v.args[1].op == "const" else (left, right)
            return f"-{right}" if left == "-1" else f"{left}*{right}"
        if left.startswith("-") and not right.startswith("-"):
            left, right = right, left
        return f"{left} - {right[1:]}" if right.startswith("-") else f"{left} + {right}"

    def place(self, buffer: Buffer, index: Value | None, offset: int) -> str:
        if index is None:
            return f"{buffer.name}[{offset}]"
        text = self.position(index)
        if offset and text.startswith("-"):
            text = f"{offset} - {text[1:]}"
        elif offset:
            text += f" {'+' if offset > 0 else '-'} {abs(offset)}"
        return f"{buffer.name}[{text}]"

    # statements
    def function(self, function: Function) -> list[str]:
        groups: dict[str, list[str]] = {"input": [], "output": [], "constant": []}
        for b in function.buffers:
            if b.kind in groups:
                groups[b.kind].append(f"{b.name}: {b.dtype.name}[{b.size}]")
        head = f"function @{function.name}({', '.join(groups['input'])}) -> ({', '.join(groups['output'])})"
        if groups["constant"]:
            head += f" constants({', '.join(groups['constant'])})"
        self.lines.append(head + f" arena {function.arena_size} {{")
        self.block(function.body, "  ")
        self.lines.append("}")
        return self.lines

    def block(self, block: list[Any], pad: str) -> None:
        for s in block:
            if type(s) is Value:
                if s.attr != "index":
                    self.lines.append(pad + self.value(s))
            else:
                self.statement(s, pad)

    def value(self, v: Value) -> str:
        if v.op in ("load", "address"):
            buffer, offset = v.attr
            text = f"{v.op} {self.place(buffer, v.args[0] if v.args else None, offset)}"
        elif v.op in ("math", "scalar math"):
            text = f"{v.attr} {self.refs(v.args)}"
        elif v.op in ("fcmp", "icmp"):
            text = f"{v.op} {v.attr} {self.refs(v.args)}"
        elif v.op == "table":
            text = f"table {list(v.attr[1])} at {self.refs(v.args)}"
        else:
            text = f"{v.op} {self.refs(v.args)}"
        return f"{self.define(v)}: {v.type} = {text}"

    def results(self, values: list[Value]) -> str:
        return ", ".join([f"{self.define(v)}: {v.type}" for v in values]) + " = " if values else ""

    def carry(self, params: list[Value], inits: list[Value]) -> str:
        if not params:
            return ""
        starts = [self.ref(i) for i in inits]
        return " carry(" + ", ".join([f"{self.define(p)}: {p.type} = {i}" for p, i in zip(params, starts)]) + ")"

    def body(self, block: list[Any], yields: list[Value], pad: str) -> None:
        self.block(block, pad + "  ")
        if yields:
            self.lines.append(f"{pad}  yield {self.refs(yields)}")

    def statement(self, s: Any, pad: str) -> None:
        kind = type(s)
        add = self.lines.append
        if kind is Store:
            add(f"{pad}store {self.place(s.buffer, s.index, s.offset)} = {self.ref(s.value)}")
        elif kind is For:
            low, high = self.ref(s.low), self.ref(s.high)
            shown = [h for h in s.hints if h not in ("no unroll", "interleave", "independent")]
            hints = f" {{{', '.join(shown)}}}" if shown else ""
            step = f" step {s.step}" if s.step != 1 else ""
            results = self.results(s.results)
            carry = self.carry(s.params, s.inits)
            add(f"{pad}{results}for {self.counter(s.counter)} in {low}..{high}{step}{carry}{hints} {{")
            self.body(s.body, s.yields, pad)
            self.active.pop()
            add(pad + "}")
        elif kind is Parallel:
            add(f"{pad}parallel {self.counter(s.counter)} in 0..{s.count} {{")
            self.body(s.body, [], pad)
            self.active.pop()
            add(pad + "}")
        elif kind is While:
            add(f"{pad}while{self.carry(s.params, s.inits)} {{")
            self.block(s.head, pad + "  ")
            assert s.condition is not None
            add(f"{pad}  test {self.ref(s.condition)}")
            add(pad + "} do {")
            self.body(s.body, s.yields, pad)
            add(pad + "}")
        elif kind is Switch:
            two = s.selector.type == "i1"
            results, selector = self.results(s.results), self.ref(s.selector)
            for k, (branch, yields) in enumerate(zip(s.branches, s.yields)):
                if k:
                    add(pad + ("} else {" if two else "} case {"))
                else:
                    add(f"{pad}{results}{'if' if two else 'switch'} {selector} {{")
                self.body(branch, yields, pad)
            add(pad + "}")
        elif kind is Call:
            args = self.refs(s.args)
            result = f"{self.define(s.result)}: {s.result.type} = " if s.result is not None else ""
            add(f"{pad}{result}call {s.symbol}({args})")
        elif kind is Alloc:
            place = f"at {s.buffer.position}" if s.buffer.home is None else f"in {s.buffer.home.name}"
            add(f"{pad}alloc {s.buffer.name}: {s.buffer.dtype.name}[{s.buffer.size}] {place}")
        elif kind is Copy:
            what = "zero" if s.source is None else f"copy {self.place(s.source, s.source_index, 0)} to"
            add(f"{pad}{what} {self.place(s.target, s.target_index, 0)} ({s.nbytes} bytes)")
        elif kind is Exit:
            add(f"{pad}exit {self.ref(s.code)} if {self.ref(s.condition)}")
        else:
            add(f"{pad}# {s.text}")
