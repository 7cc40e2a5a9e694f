"""LLVM's text with marks: every instruction says which kernel it belongs to, so that what LLVM made of a kernel can be found afterwards.

A mark is a line of a source file that does not exist (LLVM's debug information). LLVM keeps it through its passes, and its remarks,
which say what it vectorized and why not, quote it. Instead of marks, or beside them, the text can read the clock around kernels.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from tracegrad.codegen.kernels import Kernels, Node
from tracegrad.codegen.llvm_text import Writer
from tracegrad.codegen.loop_ir import Function, Parallel
from tracegrad.codegen.target import Target, host

_MARK = ", !dbg !K"


class MarkedWriter(Writer):
    """A writer that marks kernels, or reads the clock around some of them.

    clocks: the address of a table of (ticks, runs) as int64 that has a row for each kernel, and row 0 for the whole; 0: marks instead.
    timed: the kernels that are timed.
    """

    def __init__(self, function: Function, symbol: str, attributes: str, kernels: Kernels, clocks: int = 0, timed: Any = ()):
        super().__init__(function, symbol, attributes)
        self.kernels = kernels
        self.clocks = clocks
        self.timed = frozenset(timed)

    def module(self) -> str:
        text = super().module()
        return text if self.clocks else self._with_places(text)

    def _block(self, block: list[Any], top: bool = False) -> None:
        if self.clocks and block is self.function.body:
            start = self._clock()
            self._record(len(self.kernels.nodes) + 1, self._clock())  # what reading the clock takes
            super()._block(block, top)
            self._record(0, start)
        else:
            super()._block(block, top)

    def _statements(self, block: list[Any], top: bool) -> None:
        owner = self.kernels.owner
        k = 0
        while k < len(block):
            node = owner.get(block[k])
            end = k + 1
            while end < len(block) and owner.get(block[end]) is node:
                end += 1
            if node is None:
                super()._statements(block[k:end], top)
            else:
                self._kernel(node, block[k:end], top)
            k = end

    def _kernel(self, node: Node, statements: list[Any], top: bool) -> None:
        if self.clocks:
            if node in self.timed and self.task is None:
                start = self._clock()
                super()._statements(statements, top)
                self._record(node.number, start)
            else:
                super()._statements(statements, top)
            return
        first, functions = len(self.lines), len(self.functions)
        super()._statements(statements, top)
        for k in range(first, len(self.lines)):
            self.lines[k] = _marked(self.lines[k], node.number)
        if type(statements[-1]) is Parallel:
            for k in range(functions, len(self.functions)):
                self.functions[k] = "\n".join(_marked(line, node.number) for line in self.functions[k].split("\n"))

    # clocks

    def _clock(self) -> str:
        # Programs may not read the cycle counter of ARM processors.
        clock = "readsteadycounter" if host().triple.startswith(("aarch64", "arm")) else "readcyclecounter"
        self._declare(f"@llvm.{clock}", "i64", [])
        self.fresh += 1
        self.lines.append(f"  %clock{self.fresh} = call i64 @llvm.{clock}()")
        return f"%clock{self.fresh}"

    def _record(self, row: int, start: str) -> None:
        """Add the ticks since `start` to a row of the table."""
        end = self._clock()
        self.fresh += 1
        ticks = f"%ticks{self.fresh}"
        self.lines.append(f"  {ticks} = sub i64 {end}, {start}")
        for column, value in enumerate((ticks, "1")):
            place = f"inttoptr (i64 {self.clocks + 16 * row + 8 * column} to ptr)"
            self.lines.append(f"  {ticks}.o{column} = load i64, ptr {place}, align 8")
            self.lines.append(f"  {ticks}.n{column} = add i64 {ticks}.o{column}, {value}")
            self.lines.append(f"  store i64 {ticks}.n{column}, ptr {place}, align 8")

    # places

    def _with_places(self, text: str) -> str:
        """The text with the marks as LLVM's places: a function, a line that is the kernel's number."""
        out: list[str] = []
        unit, file, kind = (self._metadata_node(t) for t in _unit(len(self.metadata)))
        function = -1
        places: dict[tuple[int, int], int] = {}

        def place(line: int) -> int:
            key = (function, line)
            if key not in places:
                places[key] = self._metadata_node(f"!DILocation(line: {line}, scope: !{function})")
            return places[key]

        old = len(self.metadata) - 3
        chunks = re.split(r"(?m)^(?=define )", text)
        for chunk in chunks:
            if _MARK not in chunk:
                out.append(chunk)
                continue
            body, rest = chunk.split("\n}", 1)
            lines = body.split("\n")
            name = re.search(r"@([\w.]+)", lines[0])
            assert name is not None
            function = self._metadata_node(
                f'distinct !DISubprogram(name: "{name[1]}", scope: !{file}, file: !{file}, line: 0, type: !{kind}, unit: !{unit}, '
                "spFlags: DISPFlagDefinition | DISPFlagOptimized)"
            )
            lines[0] = f"{lines[0].removesuffix(' {')} !dbg !{function} {{"
            for k, line in enumerate(lines):
                if _MARK in line:
                    before, number = line.rsplit(_MARK, 1)
                    lines[k] = f"{before}, !dbg !{place(int(number))}"
                elif line.startswith("  ") and not line.startswith("  ;"):
                    lines[k] = f"{line}, !dbg !{place(0)}"
            out.append("\n".join(lines) + "\n}" + rest)
        version = self._metadata_node('!{i32 2, !"Debug Info Version", i32 3}')
        tail = [*self.metadata[old:], f"!llvm.module.flags = !{{!{version}}}", f"!llvm.dbg.cu = !{{!{unit}}}"]
        return "".join(out) + "\n".join(tail) + "\n"


def _unit(first: int) -> list[str]:
    return [
        f"distinct !DICompileUnit(language: DW_LANG_C99, file: !{first + 1}, isOptimized: true, runtimeVersion: 0, emissionKind: LineTablesOnly)",
        '!DIFile(filename: "kernels", directory: "")',
        "!DISubroutineType(types: null)",
    ]


def _marked(line: str, number: int) -> str:
    if not line.startswith("  ") or line.startswith("  ;") or _MARK in line:
        return line
    return f"{line}{_MARK}{number}"


# ------------------------------------------------------------------------------------------------------------ what LLVM made


@dataclass
class Outcome:
    """What LLVM made of a kernel: arithmetic and memory instructions on scalars and on vectors, by type; its remarks."""

    vectors: dict[str, int] = field(default_factory=dict)
    scalars: int = 0
    remarks: list[str] = field(default_factory=list)


_INSTRUCTION = re.compile(
    r"= (?:tail |contract |reassoc |nsw |nuw )*(fadd|fsub|fmul|fdiv|fneg|call|load|add|mul|fcmp|icmp|select)\b(.*)"
)
_VECTOR = re.compile(r"<(\d+) x (double|float|half|i64|i32|i16|i8)>")
_ASSEMBLY = re.compile(r"vfmadd\w+p([sd]) %([yz])mm")
_LOCATION = re.compile(r"^(!\d+) = (?:distinct )?!DILocation\(line: (\d+),.*", re.M)
_REMARK = re.compile(r"^remark: kernels:(\d+):\d+: (.*)$", re.M)
_SHORT = {"double": "f64", "float": "f32", "half": "f16"}


def outcomes(optimized: str, remarks: str) -> dict[int, Outcome]:
    """What LLVM made of every kernel, by number, from its text after the passes and its remarks."""
    found: dict[int, Outcome] = {}
    lines = {node: int(line) for node, line in _LOCATION.findall(optimized)}
    for line in optimized.split("\n"):
        place = re.search(r", !dbg (!\d+)", line)
        if place is None or not lines.get(place[1]):
            continue
        _count(line, found.setdefault(lines[place[1]], Outcome()))
    for number, text in _REMARK.findall(remarks):
        if int(number):
            seen = found.setdefault(int(number), Outcome()).remarks
            if text not in seen:
                seen.append(text)
    return found


def instructions(text: str) -> Outcome:
    """The instructions of a text."""
    outcome = Outcome()
    for line in text.split("\n"):
        _count(line, outcome)
    return outcome


def _count(line: str, outcome: Outcome) -> None:
    for type, register in _ASSEMBLY.findall(line) if " asm " in line else ():
        name = f"{(512 if register == 'z' else 256) // (32 if type == 's' else 64)} x {'f32' if type == 's' else 'f64'}"
        outcome.vectors[name] = outcome.vectors.get(name, 0) + 1
    instruction = _INSTRUCTION.search(line)
    vector = _VECTOR.search(instruction[2]) if instruction is not None else None
    if vector is None and line.lstrip().startswith("store "):
        vector = _VECTOR.search(line)
    if vector is not None:
        name = f"{vector[1]} x {_SHORT.get(vector[2], vector[2])}"
        outcome.vectors[name] = outcome.vectors.get(name, 0) + 1
    elif instruction is not None and re.search(r"\b(float|double|half)\b", instruction[2]):
        outcome.scalars += 1


_PROGRAM = """
import sys
import llvmlite.binding as llvm
from tracegrad.codegen import target
for kind in ("", "-missed", "-analysis"):
    llvm.set_option("tracegrad", f"-pass-remarks{kind}=loop-vectorize")
triple, cpu, features, bits, level, straight = sys.argv[1:]
module = target.parse(sys.stdin.read())
target.optimize(module, target.Target(triple, cpu, features, int(bits)), int(level), straight_vectors=straight == "1")
"""


def remarks_of(text: str, target: Target, level: int, straight: bool) -> str:
    """LLVM's remarks on vectorization. LLVM prints them, so that is done in a process of its own; "" if that fails."""
    command = [sys.executable, "-c", _PROGRAM, target.triple, target.cpu, target.features, str(target.vector_bits), str(level)]
    try:
        done = subprocess.run([*command, str(int(straight))], input=text, capture_output=True, text=True, timeout=300, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stderr


__all__ = ["MarkedWriter", "Outcome", "instructions", "outcomes", "remarks_of"]
