"""The abbreviations in the dispatcher's LLVM IR: short runs of instructions that come over and over, written as one line.

| in the text | what it is |
|---|---|
| `%x = word %p AT` | the word at an index: a name of the dispatcher's, or a value |
| `%x = addr %p AT` | the address there |
| `put T %v %p AT` | a store of a word or an address there |
| `%x = const NAME`, `%x = const64 NAME` | one of the dispatcher's constants: an address, a word |
| `%x = part %frame %t NAME` | the part of the frame that begins where the table says |
| `if COND T %a, %b then %l else %m` | a comparison, and a branch to either label |
| `need COND T %a, %b else %m` | a comparison that has to hold for the lines that follow; else a branch |
| `for %i to %n then %l` ... `next %i` | the lines between for every i from 0 to before n (or `from %k to %n`), then a branch to a label, from block `%i.head` |

The second operand of a comparison may be `const NAME`, or a name that stands for a number. Other lines are LLVM IR as it stands, but for names of words (`TABLE_next`), which become numbers.
"""

from __future__ import annotations

import re

# Compiled when they are used: importing the package should not wait for it.
_SHORT = r"  (?:(%[\w.]+) = )?(word|addr|const|const64|part|put|if|need|for|next) (.*)$"
_NAME = r"\b(?:TABLE|GUARDS?|CASTS?|RESULTS?|BUILDS?|ARRAY|OBJECT|TUPLE|LIST|DICT|ND|DESCR|DTYPE|TYPE|INFO|CALL)_\w+|NUMBER|PREFIX|BEHIND|EXTENT"


class _Writer:
    """Writes LLVM IR line by line, and knows in which block it is."""

    def __init__(self, numbers: dict[str, int]) -> None:
        self.numbers = numbers
        self.lines: list[str] = []
        self.block = ""
        self.loops: dict[str, int] = {}
        self.count = 0

    def write(self, line: str) -> None:
        self.lines.append(line)
        if line.endswith(":"):
            self.block = line[:-1]

    def fresh(self) -> str:
        self.count += 1
        return f"at{self.count}"

    def place(self, base: str, at: str) -> str:
        """The address of a word."""
        place = f"%{self.fresh()}"
        self.write(f"  {place} = getelementptr i64, ptr {base}, i64 {at if at.startswith('%') else self.numbers[at]}")
        return place

    def load(self, to: str, kind: str, base: str, at: str) -> None:
        self.write(f"  {to} = load {kind}, ptr {self.place(base, at)}, align 8")

    def compare(self, condition: str, then: str, other: str) -> None:
        """A branch on `COND T %a, %b`."""
        left, right = condition.split(", ")
        if right.startswith("const "):
            right, name = f"%{self.fresh()}", right[6:]
            self.load(right, "ptr", "@constants", f"CONSTANTS_{name}")
        holds = f"%{self.fresh()}"
        self.write(f"  {holds} = icmp {left}, {self.numbers.get(right, right)}")
        self.write(f"  br i1 {holds}, label {then}, label {other}")

    def begin(self, index: str, first: str, end: str, then: str) -> None:
        self.write(f"  br label {index}.head")
        before = self.block
        self.write(f"{index[1:]}.head:")
        self.loops[index] = len(self.lines)
        self.write(f"  {index} = phi i64 [ {first}, %{before} ], [ {index}.next, %LATCH ]")
        self.compare(f"eq i64 {index}, {end}", then, f"{index}.body")
        self.write(f"{index[1:]}.body:")

    def end(self, index: str) -> None:
        self.write(f"  {index}.next = add i64 {index}, 1")
        self.write(f"  br label {index}.head")
        at = self.loops.pop(index)
        self.lines[at] = self.lines[at].replace("LATCH", self.block)

    def short(self, to: str | None, what: str, rest: str, following: str) -> None:
        """One abbreviation. following: the next line, whose label is used if it has one."""
        words = rest.split(" ")
        if what == "word" or what == "addr":
            self.load(to or "", "i64" if what == "word" else "ptr", *words)
        elif what == "const" or what == "const64":
            self.load(to or "", "ptr" if what == "const" else "i64", "@constants", f"CONSTANTS_{rest}")
        elif what == "part":
            frame, table, name = words
            at = f"%{self.fresh()}"
            self.load(at, "i64", table, name)
            self.write(f"  {to} = getelementptr i64, ptr {frame}, i64 {at}")
        elif what == "put":
            kind, value, base, at = words
            self.write(f"  store {kind} {value}, ptr {self.place(base, at)}, align 8")
        elif what == "if":
            condition, _, labels = rest.partition(" then ")
            self.compare(condition, *labels.split(" else "))
        elif what == "need":
            condition, _, other = rest.partition(" else ")
            label = "" if following.endswith(":") else self.fresh()
            self.compare(condition, f"%{label or following[:-1]}", other)
            if label:
                self.write(f"{label}:")
        elif what == "for":
            head, _, then = rest.partition(" then ")
            bounds, _, end = head.partition(" to ")
            index, _, first = bounds.partition(" from ")
            self.begin(index, first or "0", end, then)
        else:
            self.end(rest)


def expand(source: str, numbers: dict[str, int]) -> str:
    """LLVM IR of a text with abbreviations. numbers: what the names in it stand for."""
    short, any_name = re.compile(_SHORT), re.compile(_NAME)
    writer = _Writer(numbers)
    lines = source.split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        m = short.match(line)
        if m is not None:
            to, what, rest = m.groups()
            writer.short(to, what, rest, following)
        else:
            writer.write(any_name.sub(lambda m: str(numbers[m[0]]), line) if "_" in line or "E" in line else line)
    return "\n".join(writer.lines)
