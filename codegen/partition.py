"""Cutting the text of a large module into parts that are compiled at the same time.

The functions that a large program was cut into (`segments.py`) call nothing of each other but by name. Each part is a module of its own
with some of them, copies of the small functions that are inlined anyway, and declarations of the rest; the loader joins the objects.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

_DEFINITION = re.compile(r"^define (?P<linkage>internal )?(?P<rest>.*?(?P<symbol>@[\w.$-]+|@\"[^\"]+\")\(.*)\{$")
_SYMBOL = re.compile(r"@[\w.$-]+|@\"[^\"]+\"")


def partitioned(text: str, parts: int) -> list[str]:
    """The module in at most `parts` modules, the first of which has the entry point. Functions of about equal total length go to each."""
    definitions: dict[str, list[str]] = {}
    common: list[str] = []
    current: list[str] | None = None
    for line in text.splitlines():
        if current is not None:
            current.append(line)
            if line == "}":
                current = None
            continue
        match = _DEFINITION.match(line)
        if match is None:
            common.append(line)
            continue
        current = definitions[match["symbol"]] = [line]
    copied = {name for name, lines in definitions.items() if "alwaysinline" in lines[0]}
    calls = {name: _calls(lines, definitions) for name, lines in definitions.items()}
    own = sorted([n for n in definitions if n not in copied], key=lambda n: -len(definitions[n]))
    groups: list[list[str]] = [[] for _ in range(min(parts, len(own)))]
    sizes = [0] * len(groups)
    for name in own:
        k = sizes.index(min(sizes))
        groups[k].append(name)
        sizes[k] += len(definitions[name])
    entry = next(n for n, lines in definitions.items() if not lines[0].startswith("define internal"))
    groups.sort(key=lambda names: entry not in names)
    return [_module(set(names), definitions, copied, calls, common) for names in groups]


def _calls(lines: list[str], definitions: dict[str, list[str]]) -> set[str]:
    """Which of the module's functions one refers to."""
    return {s for line in lines[1:] if "@" in line for s in _SYMBOL.findall(line) if s in definitions}


def _module(
    names: set[str], definitions: dict[str, list[str]], copied: set[str], calls: dict[str, set[str]], common: list[str]
) -> str:
    inside: dict[str, None] = {}
    outside: dict[str, None] = {}
    todo = [n for n in definitions if n in names]
    while todo:
        name = todo.pop(0)
        if name in inside:
            continue
        inside[name] = None
        for other in sorted(calls[name]):
            if other in names or other in copied:
                todo.append(other)
            else:
                outside[other] = None
    out = []
    for name in inside:
        head, *body = definitions[name]
        out += [head if name in copied else head.replace("define internal ", "define hidden ", 1), *body]
    return "\n".join([*out, *[_declaration(definitions[n][0]) for n in outside], *common]) + "\n"


def without(text: str, definitions: dict[str, str], declarations: Iterable[str]) -> tuple[str, str]:
    """A module without some of its functions, which are declared instead, and a module of those functions, which call what is declared."""
    apart = []
    for definition in definitions.values():
        text = text.replace(definition, _declaration(definition.split("\n", 1)[0]) + "\n")
        apart.append(definition.replace("define internal ", "define hidden ", 1))
    attributes = [line for line in text.splitlines() if line.startswith("attributes #0 ")]
    return text, "\n".join([*apart, *declarations, *attributes]) + "\n"


def _declaration(head: str) -> str:
    """The declaration of a function, given the first line of its definition."""
    text = head.replace("define internal ", "declare hidden ", 1).rstrip("{ ")
    return re.sub(r" %[\w.]+(?=[,)])", "", text)


# Several objects as one block of bytes: what one module gives is its object as it is.

_MARK = b"tracegrad objects\0"


def joined(objects: list[bytes]) -> bytes:
    """Objects as one block of bytes, which `taken_apart` gives back."""
    if len(objects) == 1:
        return objects[0]
    lengths = struct.pack(f"<{len(objects) + 1}Q", len(objects), *map(len, objects))
    return b"".join([_MARK, lengths, *objects])


def taken_apart(code: bytes) -> list[bytes]:
    if not code.startswith(_MARK):
        return [code]
    at = len(_MARK)
    (count,) = struct.unpack_from("<Q", code, at)
    lengths = struct.unpack_from(f"<{count}Q", code, at + 8)
    at += 8 * (count + 1)
    objects = []
    for n in lengths:
        objects.append(code[at : at + n])
        at += n
    return objects
