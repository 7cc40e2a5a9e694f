"""Reading the text of a program back: the inverse of `ir.printer`.

    parse(str(program)) == program

Raises ParseError, with the line and what was expected, for text that is not a program.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.printer import CONSTANTS, GROUP_SIZES
from tracegrad.ir.program import Atom, Constant, Equation, Literal, Program, Source, Var
from tracegrad.ir.references import referred
from tracegrad.ir.types import FROM_SHORT_NAME, ArrayType, tape_dtype


class ParseError(ValueError):
    """The text is not a program."""


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<var>%\w+)|(?P<arrow>->)
    |(?P<number>-?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf\b|nan(?:\(0x[0-9a-f]+\))?))
    |(?P<word>~?[A-Za-z_][\w.]*(?:<[\w\[\],<>~]+>)?)|(?P<punct>[(){}\[\],:=@~])""",
    re.VERBOSE,
)


class _Parser:
    def __init__(self, text: str):
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text):
            m = _TOKEN.match(text, position)
            if m is None:
                self.fail(f"unexpected {text[position]!r}", position)
            assert m is not None
            if m.lastgroup != "space":
                self.tokens.append((m.lastgroup or "", m.group(), position))
            position = m.end()
        self.tokens.append(("end", "", len(text)))
        self.i = 0

    def fail(self, message: str, position: int | None = None) -> Any:
        at = self.tokens[self.i][2] if position is None else position
        line = self.text.count("\n", 0, at) + 1
        raise ParseError(f"line {line}: {message}\n  {self.text.splitlines()[line - 1] if self.text else ''}")

    def peek(self, offset: int = 0) -> str:
        return self.tokens[min(self.i + offset, len(self.tokens) - 1)][1]

    def kind(self) -> str:
        return self.tokens[self.i][0]

    def take(self, expected: str | None = None) -> str:
        kind, text, _ = self.tokens[self.i]
        if expected is not None and text != expected:
            self.fail(f"expected {expected!r}, found {text or 'the end'!r}")
        if kind == "end":
            self.fail("the text ends too early")
        self.i += 1
        return text

    def accept(self, text: str) -> bool:
        if self.peek() == text and self.kind() != "string":
            self.i += 1
            return True
        return False

    def sequence(self, item: Callable[[], Any], close: str) -> list[Any]:
        """Comma-separated items up to the closing token, which is consumed."""
        items = []
        while not self.accept(close):
            items.append(item())
            if not self.accept(","):
                self.take(close)
                break
        return items

    # names and types
    def name(self) -> str:
        return _unquote(self.take()) if self.kind() == "string" else self.take()

    def dtype(self) -> Any:
        return self.named_dtype(self.take())

    def named_dtype(self, word: str) -> Any:
        if word.startswith("tape<"):
            inner = _Parser(word[len("tape<") : -1])
            return tape_dtype(inner.type())
        if word not in FROM_SHORT_NAME:
            self.fail(f"{word!r} is not a dtype")
        return FROM_SHORT_NAME[word]

    def type(self) -> ArrayType:
        weak = self.peek().startswith("~")
        dtype = self.named_dtype(self.take().removeprefix("~"))
        self.take("[")
        return ArrayType(tuple(self.sequence(lambda: int(self.take()), "]")), dtype, weak)

    # programs
    def program(self) -> Program:
        self.take("program")
        self.take("@")
        name = self.name()
        env: dict[str, Var] = {}
        inputs = self.binders(env)
        self.take("->")
        self.take("(")
        types = self.sequence(self.type, ")")
        program = self.block(name, inputs, env, "return")
        if list(program.out_types) != types:
            self.fail(f"the program returns {program.out_types}, its head says {tuple(types)}")
        return program

    def binders(self, env: dict[str, Var]) -> list[Var]:
        inputs: list[Var] = []
        if self.peek() == "(":
            self.take("(")
            return self.sequence(lambda: self.binder(env), ")")
        while self.kind() == "word":
            self.take()
            self.take("(")
            inputs += self.sequence(lambda: self.binder(env), ")")
        return inputs

    def binder(self, env: dict[str, Var]) -> Var:
        if self.kind() != "var":
            self.fail(f"expected a variable, found {self.peek()!r}")
        name = self.take()[1:]
        self.take(":")
        if name in env:
            self.fail(f"%{name} is defined twice")
        var = env[name] = Var(self.type(), "" if name.isdigit() else name)
        return var

    def block(self, name: str, inputs: list[Var], env: dict[str, Var], terminator: str) -> Program:
        self.take("{")
        constants, equations = [], []
        while self.peek() == "const" and self.peek(1).startswith("%"):
            self.take("const")
            var = self.binder(env)
            self.take("=")
            constants.append(Constant(var, self.constant(var.type)))
        while self.peek() != terminator:
            equations.append(self.equation(env))
        self.take(terminator)
        outputs = self.sequence(lambda: self.atom(env), "}")
        return Program(inputs, constants, equations, outputs, name)

    def atom(self, env: dict[str, Var]) -> Atom:
        if self.kind() == "var":
            name = self.take()[1:]
            if name not in env:
                self.fail(f"%{name} is not defined here")
            return env[name]
        value = self.scalar()
        self.take(":")
        type = self.type()
        return Literal(_as(value, type.dtype), type)

    def equation(self, env: dict[str, Var]) -> Equation:
        outputs_at = []
        if self.kind() == "var":
            while True:
                name = self.take()[1:]
                self.take(":")
                outputs_at.append((name, self.type()))
                if not self.accept(","):
                    break
            self.take("=")
        kind = self.name()
        if kind not in REGISTRY:
            self.i -= 1
            self.fail(f"there is no primitive {kind!r}; one that a user defines must be defined before its name is read")
        primitive = REGISTRY[kind]
        inputs: list[Atom] = []
        params: dict[str, Any] = {}
        if kind in GROUP_SIZES:
            for group, size in GROUP_SIZES[kind]:
                self.take(group)
                self.take("(")
                operands = self.sequence(lambda: self.atom(env), ")")
                inputs += operands
                if isinstance(size, str):
                    params[size] = len(operands)
        else:
            while self.kind() in ("var", "number") or self.peek() in ("(", "true", "false"):
                inputs.append(self.atom(env))
                if not self.accept(","):
                    break
        if self.accept("{"):
            params.update(self.sequence(self.assignment, "}"))
        source = None
        if self.accept("@"):
            file = self.name()
            self.take(":")
            source = Source(file, int(self.take()), "")
        self.regions(primitive.regions, params)
        outputs = []
        for name, type in outputs_at:
            if name in env:
                self.fail(f"%{name} is defined twice")
            env[name] = Var(type, "" if name.isdigit() else name)
            outputs.append(env[name])
        return Equation(primitive, inputs, outputs, params, source)

    def regions(self, names: tuple[str, ...], params: dict[str, Any]) -> None:
        while self.kind() == "word" and self.peek() in names and self.peek(1) in ("@", "["):
            name = self.take()
            member = self.accept("[")
            if member:
                self.take()
                self.take("]")
            self.take("@")
            title = self.name()
            env: dict[str, Var] = {}
            region = self.block(title, self.binders(env), env, "yield")
            params[name] = (*params.get(name, ()), region) if member else region

    # data
    def assignment(self) -> tuple[str, Any]:
        name = self.take()
        self.take("=")
        return name, self.attribute()

    def attribute(self) -> Any:
        kind, text = self.kind(), self.peek()
        if text == "(":
            self.take()
            return tuple(self.sequence(self.attribute, ")"))
        if kind == "string":
            return _unquote(self.take())
        if text == "@":
            self.take()
            return self.reference()
        if kind == "number":
            self.take()
            return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
        if text in ("true", "false", "none"):
            self.take()
            return {"true": True, "false": False, "none": None}[text]
        if text == "complex" and self.peek(1) == "(":
            self.take()
            self.take("(")
            return complex(*[float(x) for x in self.sequence(self.take, ")")])
        if text == "scalar" and self.peek(1) == "(":
            self.take()
            self.take("(")
            value = self.scalar()
            self.take(":")
            dtype = self.dtype()
            self.take(")")
            return np.asarray(_as(value, dtype), dtype)[()]
        if self.peek(1) == "[":
            return self.type()
        return self.dtype()

    def reference(self) -> Any:
        name = self.take()
        try:
            return referred(name)
        except KeyError:
            return self.fail(
                f"@{name} is not alive in this process: functions and other Python objects that a program refers to cannot be read "
                "from text"
            )

    def scalar(self) -> Any:
        if self.accept("("):
            real = self.scalar()
            self.take(",")
            imag = self.scalar()
            self.take(")")
            return (real, imag)
        text = self.take()
        return {"true": True, "false": False}.get(text, text)

    def constant(self, type: ArrayType) -> np.ndarray:
        if self.accept("@"):
            name = self.take()
            if name not in CONSTANTS:
                self.fail(f"the array @{name} is not alive in this process")
            return CONSTANTS[name]
        flat: list[Any] = []

        def nested() -> None:
            if self.accept("["):
                self.sequence(nested, "]")
            else:
                flat.append(_as(self.scalar(), type.dtype))

        nested()
        return np.asarray(flat, type.dtype).reshape(type.shape)


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m.group(1) == "n" else m.group(1), text[1:-1])


def _as(value: Any, dtype: Any) -> Any:
    """A number read from the text, as the dtype it belongs to."""
    if isinstance(value, tuple):
        part = np.dtype(np.float32 if dtype == np.dtype(np.complex64) else np.float64)
        z = np.zeros((), dtype)
        z.real, z.imag = _as(value[0], part), _as(value[1], part)
        return z[()]
    if isinstance(value, bool):
        return np.bool_(value)
    if value.startswith("nan(0x"):
        return np.frombuffer(bytes.fromhex(value[6:-1])[::-1], dtype)[0]
    if dtype.kind in "iu":
        return np.asarray(int(value)).astype(dtype)[()]
    if dtype.kind == "f":
        return dtype.type(value)
    return np.asarray(float(value)).astype(dtype)[()]


def parse(text: str) -> Program:
    """The program that `text`, as printed by `str(program)`, describes."""
    parser = _Parser(text)
    program = parser.program()
    if parser.kind() != "end":
        parser.fail("text after the end of the program")
    return program
