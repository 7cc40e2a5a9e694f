"""The text of a program: for people to read, and for `ir.parser` to read back.

    program @f(%x: f32[3], %n: i32[]) -> (f32[3]) {
      %0: f32[3] = sin %x
      %1: f32[3] = mul %0, 2.0: f32[]
      return %1
    }

Every definition shows its type. Names come from the user's arguments where they are known and are numbered otherwise, so that the text is
deterministic. Operands of loops are grouped by what they are (`const`, `carry`, `xs`). Regions are printed inside the equation that holds
them; they are closed. Small constants are written out; large ones are referred to by a digest, under which the parser finds
the array as long as it is alive.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.references import reference_to
from tracegrad.ir.types import SHORT_NAMES, ArrayType, KeyDType, TapeDType, short_name

INLINE_CONSTANT_SIZE = 16
CONSTANTS: WeakValueDictionary[str, np.ndarray] = WeakValueDictionary()

# How a primitive's operands and its regions' inputs are grouped: for each, (group name, size) pairs; the size is a number or
# the name of the parameter that holds it. The last group takes the rest. The parser derives the sizes back from the text.
GROUP_SIZES: dict[str, tuple[tuple[str, str | int | None], ...]] = {
    "scan": (("const", "num_consts"), ("carry", "num_carry"), ("xs", None)),
    "while": (("cond_const", "cond_nconsts"), ("body_const", "body_nconsts"), ("carry", None)),
    "record_while": (("cond_const", "cond_nconsts"), ("body_const", "body_nconsts"), ("carry", None)),
    "tape_scan": (("length", 1), ("const", "num_consts"), ("carry", "num_carry"), ("xs", None)),
}
REGION_GROUPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("scan", "body"): ("const", "carry", "xs"),
    ("while", "cond"): ("cond_const", "carry"),
    ("while", "body"): ("body_const", "carry"),
    ("record_while", "cond"): ("cond_const", "carry"),
    ("record_while", "body"): ("body_const", "carry"),
    ("tape_scan", "body"): ("const", "carry", "xs"),
}


def to_text(program: Program, *, locations: bool = False) -> str:
    """The text of a program; with `locations`, each equation shows the user's file and line."""
    return _Printer(locations).program(program)


class _Printer:
    def __init__(self, locations: bool):
        self.locations = locations
        self.names: dict[Var, str] = {}
        self.taken: set[str] = set()
        self.counter = 0

    def name(self, var: Var) -> str:
        name = self.names.get(var)
        if name is None:
            hint = re.sub(r"[^A-Za-z0-9_]", "_", var.name)
            if hint and not hint[0].isdigit():
                name, k = hint, 1
                while name in self.taken:
                    k += 1
                    name = f"{hint}_{k}"
            else:
                name = str(self.counter)
                self.counter += 1
            self.taken.add(name)
            self.names[var] = name
        return "%" + name

    def binder(self, var: Var) -> str:
        return f"{self.name(var)}: {var.type}"

    def binders(self, variables: Sequence[Var]) -> str:
        return "(" + ", ".join(map(self.binder, variables)) + ")"

    def program(self, program: Program) -> str:
        types = ", ".join(map(str, program.out_types))
        head = f"program @{quoted(program.name)}{self.binders(program.inputs)} -> ({types}) {{"
        return "\n".join([head, *self.block(program, "return", "  "), "}"])

    def block(self, program: Program, terminator: str, indent: str) -> list[str]:
        lines = [f"{indent}const {self.binder(c.var)} = {constant(c.value)}" for c in program.constants]
        for eqn in program.equations:
            lines += self.equation(eqn, indent)
        lines.append(f"{indent}{terminator} {', '.join(map(self.atom, program.outputs))}".rstrip())
        return lines

    def atom(self, atom: Atom) -> str:
        if isinstance(atom, Literal):
            return f"{scalar(atom.value)}: {atom.type}"
        return self.name(atom)

    def equation(self, eqn: Equation, indent: str) -> list[str]:
        kind = eqn.primitive.name
        operands = list(map(self.atom, eqn.inputs))
        hidden: set[str] = set()
        if kind in GROUP_SIZES:
            groups, rest = [], operands
            for group, size in GROUP_SIZES[kind]:
                n = _group_size(eqn, size, rest)
                if isinstance(size, str):
                    hidden.add(size)
                groups.append(f"{group}({', '.join(rest[:n])})")
                rest = rest[n:]
            text = " ".join(groups)
        else:
            text = ", ".join(operands)
        outputs = ", ".join(map(self.binder, eqn.outputs))
        line = f"{indent}{outputs}{' = ' if outputs else ''}{_operation(kind)} {text}".rstrip()
        regions = list(eqn.regions())
        hidden |= {name.split("[")[0] for name, _ in regions}
        attributes = [f"{k}={attribute(v)}" for k, v in sorted(eqn.params.items()) if k not in hidden]
        if attributes:
            line += " {" + ", ".join(attributes) + "}"
        if self.locations and eqn.source is not None:
            line = f"{line:<78}  @ {quoted(os.path.basename(eqn.source.file))}:{eqn.source.line}"
        lines = [line]
        for name, region in regions:
            groups_of = REGION_GROUPS.get((kind, name))
            lines.append(f"{indent}  {name} @{quoted(region.name)}{self.region_binders(eqn, region, groups_of)} {{")
            lines += self.block(region, "yield", indent + "    ")
            lines.append(f"{indent}  }}")
        return lines

    def region_binders(self, eqn: Equation, region: Program, groups: tuple[str, ...] | None) -> str:
        if groups is None:
            return self.binders(region.inputs)
        sizes = dict(GROUP_SIZES[eqn.primitive.name])
        text, rest = [], list(region.inputs)
        for group in groups:
            size = sizes[group]
            n = _group_size(eqn, size, rest)
            text.append(group + self.binders(rest[:n]))
            rest = rest[n:]
        return " " + " ".join(text)


def _group_size(eqn: Equation, size: str | int | None, rest: Sequence[Any]) -> int:
    if size is None:
        return len(rest)
    return size if isinstance(size, int) else int(eqn.params[size])


def _operation(kind: str) -> str:
    """The name of a primitive in the text. A user's may be one that the grammar uses for itself."""
    return f'"{kind}"' if kind in ("const", "return", "yield") else quoted(kind)


def quoted(name: str) -> str:
    """A name as it stands in the text: bare if it is an identifier, else in double quotes."""
    return name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def scalar(value: Any) -> str:
    """A number in the text, exact: it reads back to the same value of its dtype."""
    kind = value.dtype.kind
    if kind == "b":
        return "true" if value else "false"
    if kind in "iu":
        return str(int(value))
    if kind == "c":
        return f"({scalar(value.real)}, {scalar(value.imag)})"
    if np.isnan(value):
        bits = np.asarray(value).tobytes()
        return "nan" if bits == np.asarray(np.nan, value.dtype).tobytes() else f"nan(0x{bits[::-1].hex()})"
    if kind != "f":  # bfloat16: exact as a Python float
        return repr(float(value))
    positional = np.format_float_positional(value, trim="0")
    scientific = np.format_float_scientific(value, trim="0", exp_digits=1)
    return positional if len(positional) <= len(scientific) else scientific


def constant(value: np.ndarray) -> str:
    """An array constant: written out if small, a digest otherwise."""
    if value.size <= INLINE_CONSTANT_SIZE and value.dtype.kind != "V":
        return _nested(value)
    digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes() + str((value.dtype, value.shape)).encode(), digest_size=8)
    name = "array_" + digest.hexdigest()
    CONSTANTS[name] = value
    return "@" + name


def _nested(value: np.ndarray) -> str:
    if value.ndim == 0:
        return scalar(value[()])
    return "[" + ", ".join(_nested(value[i]) for i in range(value.shape[0])) + "]"


def attribute(value: Any) -> str:
    """A parameter's value in the text. What is not plain data is a reference, `@name`."""
    kind = type(value)
    if kind is bool or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if kind is int or isinstance(value, np.integer):
        return str(int(value))
    if kind is float:
        return repr(value) + ("" if re.search(r"[.einf]", repr(value)) else ".0")
    if kind is complex:
        return f"complex({value.real!r}, {value.imag!r})"
    if kind is str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if kind is tuple:
        return "(" + ", ".join(map(attribute, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, (np.dtype, KeyDType, TapeDType)):
        return short_name(value)
    if isinstance(value, ArrayType):
        return str(value)
    if isinstance(value, np.generic):
        return f"scalar({scalar(value)}: {SHORT_NAMES[value.dtype]})"
    try:
        return repr(reference_to(value))
    except TypeError:  # without a hash it cannot be in a program, but whoever looks for the mistake prints one
        return repr(value)
