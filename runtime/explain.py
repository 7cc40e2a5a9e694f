"""`f.lower(*args).explain()`: a table of the kernels that a function became, and what is known of each.

All of it is read off what the compiler built (`codegen/annotated.py`); shares of the time are measured, with the processor's clock read
around kernels. What is not known is said to be unknown.
"""

from __future__ import annotations

import copy
import os
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracegrad.codegen.annotated import Annotated, annotate, inspect, with_clocks
from tracegrad.codegen.kernels import Node, results_of_call
from tracegrad.codegen.loop_ir import Buffer, Call, Copy, For, Parallel, Store, Switch, Value, While
from tracegrad.codegen.marked_text import Outcome
from tracegrad.ir.program import Equation, Program
from tracegrad.runtime import costs
from tracegrad.runtime.executable import Executable
from tracegrad.runtime.native import Compiled

UNKNOWN = "unknown"
_KINDS = {
    "nest": "loop nest", "scalar": "scalar code", "library": "library call", "routine": "routine", "callback": "callback", "copy": "copy",
    "zero": "zeroing", "loop": "loop", "while": "while loop", "branches": "branches",
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """An operation of the program: its primitive, and the user's line that it comes from, where known."""

    name: str
    file: str | None
    line: int | None
    function: str | None


@dataclass
class Kernel:
    """A row of the table.

    number: its place, such as "2.1" for the first kernel inside of the second; kind: "loop nest", "scalar code", "library call",
    "library calls" (a loop, or tasks, of them), "routine" (a kernel of ours for a whole operation), "copy", "zeroing", "callback", and "loop", "while loop" or "branches"
    for those with kernels inside; operations: what it computes; loops: the text of its loops; runs: how often it runs in one call;
    flops, loads, stores: floating-point operations and bytes of memory touched in all runs of one call (`per_turn`: in one turn of the
    loop of unknown length around it or in it), loops and branches with those inside; elementary: the elementary functions among the
    flops; vectors: "16 x f32", "no", "library" or "unknown", with `vectors_why`; reads, writes: the buffers; memory: what is in place or
    copied, and why; tasks: into how many tasks it is cut for threads; share: of the time of a call. None where something is unknown.
    """

    number: str
    kind: str
    operations: list[Operation]
    loops: str
    runs: float | None
    flops: float | None
    loads: float | None
    stores: float | None
    per_turn: bool
    elementary: dict[str, float]
    vectors: str
    vectors_why: str
    reads: list[str]
    writes: list[str]
    memory: list[str]
    tasks: int
    share: float | None = None
    calls: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> float | None:
        return None if self.loads is None or self.stores is None else self.loads + self.stores

    @property
    def intensity(self) -> float | None:
        """Floating-point operations a byte moved."""
        moved = self.bytes
        return None if self.flops is None or not moved else self.flops / moved


@dataclass
class Explanation:
    """A function's kernels. `str()` is the table. time: seconds of a call with clocks, where the time was measured."""

    name: str
    operations: int
    arena: int
    kernels: list[Kernel]
    time: float | None = None

    def __len__(self) -> int:
        return len(self.kernels)

    def __iter__(self) -> Any:
        return iter(self.kernels)

    def __getitem__(self, key: int) -> Kernel:
        return self.kernels[key]

    def __str__(self) -> str:
        return _table(self)

    __repr__ = __str__


def explain(
    program: Program,
    name: str,
    executable: Executable | None = None,
    values: Sequence[Any] | None = None,
    seconds: float = 0.2,
    donated: Sequence[int] = (),
) -> Explanation:
    """The kernels of an optimized program whose results all are computed; with `values`, arguments of `executable`, their shares of the
    time, too, over about so many seconds of calls."""
    if not program.outputs and not program.has_effects:
        return Explanation(name, 0, 0, [])
    made = annotate(program, name, donated)
    inspect(made)
    rows: list[Kernel] = []
    by_node: dict[Node, Kernel] = {}
    calls = _calls_of(made)
    for k, node in enumerate(made.kernels.roots, 1):
        _rows(made, node, str(k), rows, by_node, calls)
    count = sum(1 for _ in _equations(made.program))
    explanation = Explanation(name, count, made.function.arena_size, rows)
    if values is not None and executable is not None:
        _measure(made, by_node, explanation, executable, values, seconds)
    return explanation


def _equations(program: Program) -> Any:
    for e in program.equations:
        yield e
        for _, region in e.regions():
            yield from _equations(region)


# --------------------------------------------------------------------------------------------------------------------- rows


def _calls_of(made: Annotated) -> dict[Equation, set[Node]]:
    """The kernels that serve each equation."""
    found: dict[Equation, set[Node]] = {}
    for node in made.kernels.nodes:
        for e in node.equations:
            found.setdefault(e, set()).add(node)
    return found


def _rows(
    made: Annotated,
    node: Node,
    number: str,
    rows: list[Kernel],
    by_node: dict[Node, Kernel],
    kernels_of: dict[Equation, set[Node]],
) -> Kernel:
    work = made.kernels.work(node)
    statements = list(made.kernels.own_statements(node))
    reads, writes, memory = _memory(made, node, statements)
    calls = sorted({s.symbol for s in statements if type(s) is Call})
    flops = work.flops
    if flops is None:
        flops = _flops_of_equations(node, kernels_of)
    vectors, why = _vectors(made, node, calls)
    runs, per_turn = node.runs, work.per_turn or node.runs is None
    times = 1.0 if runs is None else runs
    row = Kernel(
        number,
        "library calls" if node.kind == "nest" and calls and not any(type(s) is Store for s in statements) else _KINDS[node.kind],
        [_operation(e) for e in node.equations],
        _loops(node, made),
        runs,
        None if flops is None else flops * times,
        None if work.loads is None else work.loads * times,
        None if work.stores is None else work.stores * times,
        per_turn,
        {k: v * times for k, v in work.elementary.items()},
        vectors,
        why,
        reads,
        writes,
        memory,
        max([s.count for s in statements if type(s) is Parallel], default=1),
        calls=calls,
    )
    rows.append(row)
    by_node[node] = row
    if node.children:
        inner = [_rows(made, c, f"{number}.{k}", rows, by_node, kernels_of) for k, c in enumerate(node.children, 1)]
        row.flops, row.loads, row.stores = (_total([getattr(r, a) for r in (row, *inner)]) for a in ("flops", "loads", "stores"))
        for r in inner:
            for name, n in r.elementary.items():
                row.elementary[name] = row.elementary.get(name, 0.0) + n
        row.per_turn = row.per_turn or any(r.per_turn for r in inner)
        row.vectors, row.vectors_why = "", ""
    return row


def _total(numbers: list[float | None]) -> float | None:
    return None if any(n is None for n in numbers) else sum(n for n in numbers if n is not None)


def _operation(e: Equation) -> Operation:
    s = e.source
    return Operation(e.primitive.name, None, None, None) if s is None else Operation(e.primitive.name, s.file, s.line, s.function)


def _flops_of_equations(node: Node, kernels_of: dict[Equation, set[Node]]) -> float | None:
    """The operations of products and convolutions that this kernel alone computes, and nothing else with it."""
    total = 0.0
    for e in node.equations:
        if e.primitive.name not in ("dot_general", "conv_general_dilated") or kernels_of[e] != {node}:
            return None
        total += costs.of_equation(e)["flops"]
    return total or None


def _loops(node: Node, made: Annotated) -> str:
    def loop(s: Any) -> str:
        if type(s) is Parallel:
            return " x ".join([f"{s.count} tasks", *inner(s.body)])
        if type(s) is While:
            return " x ".join(["while", *inner([*s.head, *s.body])])
        if s.low.is_const and s.high.is_const:
            trips = str(max(1, -(-(s.high.attr - s.low.attr) // s.step)))
        elif s.counter.low is not None and s.counter.high is not None:
            trips = f"part of {s.counter.high - s.counter.low + 1}"
        else:
            trips = "?"
        return " x ".join([f"{s.counter.attr or 'i'} {trips}", *inner(s.body)])

    hidden = {s for c in node.children for s in c.statements}

    def inner(block: list[Any]) -> list[str]:
        found: list[str] = []
        for s in block:
            if s in hidden:
                continue
            texts = [t for b in s.branches for t in inner(b)] if type(s) is Switch else []
            if type(s) in (For, Parallel, While):
                texts = [loop(s)]
            found.extend([t for k, t in enumerate(texts) if t not in (found[-1:] if not k else texts[:k])])
        return found if len(found) < 2 else ["(" + "; ".join(found) + ")"]

    tops = inner(node.statements)
    return tops[0].strip("()") if tops and tops[0].startswith("(") else tops[0] if tops else ""


def _memory(made: Annotated, node: Node, statements: list[Any]) -> tuple[list[str], list[str], list[str]]:
    read: dict[Buffer, None] = {}
    written: dict[Buffer, None] = {}
    for s in statements:
        kind = type(s)
        if kind is Value and s.op == "load":
            read[s.attr[0]] = None
        elif kind is Store:
            written[s.buffer] = None
        elif kind is Call:
            read.update(dict.fromkeys(s.reads))
            written.update(dict.fromkeys(results_of_call(s)))
        elif kind is Copy:
            written[s.target] = None
            if s.source is not None:
                read[s.source] = None
    notes: dict[str, None] = {}
    both = [b.name for b in written if b in read and node.kind == "nest"]
    if both:
        notes[f"updates {_listed(both)} where {'it lies' if len(both) == 1 else 'they lie'}"] = None
    left = set()
    for s in node.statements:
        for buffers, source in made.function.exchanged.get(s, ()):
            notes[f"{' and '.join([x.name for x in buffers])} change places after every turn, and nothing is copied"] = None
            if source is not None:
                notes[f"the first turn reads {source.name} where it lies"] = None
                left.add("it is an argument, which the caller keeps" if source.kind == "input" else "it is a constant")
    for b in written:
        old = made.function.over.get(b)
        if old in read:
            what = "which was donated and is not read any more" if old.kind == "input" else "which is not read any more"
            notes[f"writes {b.name} over {old.name}, {what}"] = None
        elif b.kind == "output":
            for other in read:
                if other.spare and other.home is None and other.nbytes == b.nbytes:
                    hindrance = "it is read at other places than are written, or again later"
                    notes[f"{other.name} was donated, but {b.name} has memory of its own: {hindrance}"] = None
    for s in node.statements:
        why = made.builder.reasons.get(s)
        if why is not None and node.kind in ("copy", "nest", "scalar"):
            notes[f"{'copied' if node.kind == 'copy' else 'written to memory'} because {why}"] = None
    for e in node.equations if node.kind != "copy" else ():
        if node.kind == "branches" and e.primitive.name != "cond":
            continue  # brings a loop's carry to its place
        for in_place, why in made.builder.updates.get(e, ()):
            if why in left:
                continue
            notes[f"{e.primitive.name} {'in place' if in_place else 'on a copy'}: {why}"] = None
    return [b.name for b in read], [b.name for b in written], list(notes)


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_VAGUE = ("loop not vectorized", "the cost-model indicates that interleaving")


def _vectors(made: Annotated, node: Node, calls: list[str]) -> tuple[str, str]:
    """(the vectors that the kernel computes with, how and why not)."""
    outcome = made.outcomes.get(node.number, Outcome())
    if node.kind in ("copy", "zero"):
        return "memory", "a copy of bytes"
    if node.kind == "callback":
        return "no", "Python"
    routines = [c for c in calls if c in made.function.helpers]
    for name in routines:
        other: Outcome = made.outcomes[name]
        outcome = Outcome(_added(outcome.vectors, other.vectors), outcome.scalars + other.scalars, outcome.remarks)
    external = [c for c in calls if c not in routines]
    for name in routines:
        external += [
            s for s in made.function.helpers[name].declarations if s.startswith("tg.") and not s.startswith("tg.threads")
        ]
    widest = max(outcome.vectors, key=lambda t: (t.split()[2][0] == "f", int(t.split()[0]), outcome.vectors[t]), default="")
    done = [r for r in outcome.remarks if r.startswith("vectorized loop")]
    refused = [
        r.removeprefix("loop not vectorized: ") for r in outcome.remarks if not r.startswith(("vectorized loop", *_VAGUE[1:]))
    ]
    refused = [r for r in refused if r != _VAGUE[0]]
    if external and not widest:
        return "library", f"in {_listed(external)}"
    if widest:
        between = "written in vectors" if routines else "no loop is, but code between loops"
        how = "; ".join(r.removeprefix("vectorized loop (").removesuffix(")") for r in done) or between
        if refused and done:
            how += "; other loops of it not: " + "; ".join(refused)
        elif refused:
            how += "; loops not: " + "; ".join(refused)
        if external:
            how += f"; calls {_listed(external)}"
        return widest, how
    if node.kind == "scalar":
        return "no", "there is no loop"
    if not outcome.scalars and not outcome.remarks:
        return (
            ("memory", "fills or copies memory")
            if made.kernels.work(node).flops == 0
            else (UNKNOWN, "no instruction of it was found")
        )
    if refused:
        return "no", "; ".join(refused)
    return "no", "LLVM gives no reason" if made.has_remarks else "LLVM's remarks could not be read"


def _added(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {k: a.get(k, 0) + b.get(k, 0) for k in (*a, *b)}


# --------------------------------------------------------------------------------------------------------------------- time


def _measure(
    made: Annotated,
    rows: dict[Node, Kernel],
    explanation: Explanation,
    executable: Executable,
    values: Sequence[Any],
    seconds: float,
) -> None:
    """Set the shares: of the outermost kernels from a program that times only these, since reading the clock takes time; of those
    inside from one that times all, as parts of what is around them."""
    outer = made.kernels.roots
    ticks, explanation.time = _run(made, list(outer), executable, values, seconds)
    whole = max(ticks[0][0], 1e-9)
    for node in outer:
        rows[node].share = ticks[node.number][0] / whole
    inner = [n for n in made.kernels.nodes if n not in outer and not n.parallel]
    if not inner:
        return
    ticks, _ = _run(made, inner, executable, values, seconds)

    def divide(node: Node) -> None:
        children = [c for c in node.children if not c.parallel]
        total = sum(ticks[c.number][0] for c in children)
        share = rows[node].share
        for c in children:
            rows[c].share = None if share is None else share * ticks[c.number][0] / total if total else 0.0
            if node.runs is not None and c.runs is None:
                rows[c].runs = ticks[c.number][1]
            divide(c)

    for node in outer:
        divide(node)


def _run(
    made: Annotated, timed: list[Node], executable: Executable, values: Sequence[Any], seconds: float
) -> tuple[list[tuple[float, float]], float]:
    """((ticks, runs) a call of every kernel, of the whole first; seconds of a call)."""
    table = np.zeros((len(made.kernels.nodes) + 2, 2), np.int64)
    code = with_clocks(made, table.ctypes.data, timed, executable.in_types, executable.out_types)
    runner = copy.copy(executable)
    runner.takes_over = False  # it runs again and again on the same arrays
    runner._load(
        Compiled(
            code.object_code,
            code.symbol,
            code.arena_size,
            code.external,
            list(code.constants),
            list(code.callbacks),
            code.overwritten,
        )
    )
    runner(values)
    table[:] = 0
    count = 0
    start = time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        runner(values)
        count += 1
    took = (time.perf_counter() - start) / count
    nothing = table[-1, 0] / max(table[-1, 1], 1)
    return [(max(float(t) - nothing * float(n), 0.0) / count, float(n) / count) for t, n in table[:-1]], took


# -------------------------------------------------------------------------------------------------------------------- text

WIDTH = 120
_HEADS = ("", "kernel", "loops", "runs", "flops", "bytes", "flops/B", "vectors", "tasks", "share")
_LEFT = (0, 1, 2, 7)
_LOOPS = 30
"""Longer texts of loops have a line of their own."""


def _number(x: float | None, unit: str = "") -> str:
    if x is None:
        return UNKNOWN
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= 0.9995 * factor:
            return f"{x / factor:.3g}{letter}{unit}"
    return f"{x:.3g}{unit}"


def _cells(row: Kernel, timed: bool) -> list[str]:
    turn = "/t" if row.per_turn else ""
    depth = row.number.count(".")
    intensity = row.intensity
    return [
        row.number,
        "  " * depth + row.kind,
        row.loops if len(row.loops) <= _LOOPS else "see below",
        "?" if row.runs is None else _number(row.runs),
        _number(row.flops) + (turn if row.flops else ""),
        _number(row.bytes, "B") + (turn if row.bytes else ""),
        "-" if not row.flops or intensity is None else f"{intensity:.3g}",
        row.vectors,
        str(row.tasks),
        *(["-" if row.share is None else f"{100 * row.share:.1f}%"] if timed else []),
    ]


def _places(operations: list[Operation]) -> str:
    """The operations by the lines that they come from."""
    lines: dict[str, dict[str, int]] = {}
    for o in operations:
        place = "unknown line" if o.file is None else f"{os.path.basename(o.file)}:{o.line}"
        names = lines.setdefault(place, {})
        names[o.name] = names.get(o.name, 0) + 1
    texts = [f"{place} {_listed([n if k == 1 else f'{n} x{k}' for n, k in names.items()], 12)}" for place, names in lines.items()]
    return "; ".join(texts[:8]) + (f"; and {len(texts) - 8} more lines" if len(texts) > 8 else "")


def _details(row: Kernel) -> list[tuple[str, str]]:
    details = [("computes", _places(row.operations) or "nothing of the program's: memory or bookkeeping")]
    if len(row.loops) > _LOOPS:
        details.append(("loops", row.loops))
    if row.elementary:
        details.append(("functions", ", ".join(f"{name} {_number(n)}" for name, n in sorted(row.elementary.items()))))
    if row.vectors_why and row.vectors != "memory":
        details.append(("vectors", row.vectors_why))
    flow = f"{_listed(row.reads) or 'nothing'} -> {_listed(row.writes) or 'registers'}"
    if row.reads or row.writes or row.memory:
        details.append(("memory", "; ".join([*([flow] if row.reads or row.writes else []), *row.memory])))
    return details


def _table(e: Explanation) -> str:
    timed = e.time is not None
    head = f"{e.name}: {e.operations} operations in {len(e.kernels)} kernels, {_number(float(e.arena), 'B')} of temporary memory"
    if e.time is not None:
        head += f", {_number(e.time * 1e6)} us a call"
    cells = [list(_HEADS[: None if timed else -1]), *[_cells(r, timed) for r in e.kernels]]
    widths = [max(len(c[k]) for c in cells) for k in range(len(cells[0]))]

    def line(c: list[str]) -> str:
        return "  ".join(x.ljust(w) if k in _LEFT else x.rjust(w) for k, (x, w) in enumerate(zip(c, widths))).rstrip()

    lines = [head, "", line(cells[0]), "-" * min(sum(widths) + 2 * len(widths) - 2, WIDTH)]
    for row, c in zip(e.kernels, cells[1:]):
        lines.append(line(c))
        for title, text in _details(row):
            lines.extend(
                textwrap.wrap(
                    text, WIDTH, initial_indent=" " * (widths[0] + 2) + f"{title:<10}", subsequent_indent=" " * (widths[0] + 12)
                )
            )
    if any(r.per_turn for r in e.kernels):
        lines.append("/t: in one turn of a loop whose length is known only when it runs")
    return "\n".join(lines)


__all__ = ["Explanation", "Kernel", "Operation", "explain"]
