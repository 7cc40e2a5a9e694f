"""The intermediate representation: a `Program` is a typed function in SSA form.

A program has inputs, constants, equations and outputs. An equation applies a primitive, with parameters, to atoms (variables
or scalar literals) and binds the results to fresh variables. Structured control flow holds its bodies as parameters that are
Programs themselves (*regions*); a region is closed: it sees its own inputs and constants and nothing else.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from tracegrad.ir.references import reference_to
from tracegrad.ir.types import ArrayType, KeyDType, TapeDType

if TYPE_CHECKING:
    from tracegrad.ir.jaxpr import Jaxpr
    from tracegrad.ir.primitive import Primitive


class Source(NamedTuple):
    """A place in the user's code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Var:
    """A value of a program. Identity is the object; `name` is only a hint for the printer."""

    __slots__ = ("type", "name")

    def __init__(self, type: ArrayType, name: str = ""):
        self.type = type
        self.name = name

    @property
    def aval(self) -> ArrayType:
        """JAX's name for the type."""
        return self.type

    def __repr__(self) -> str:
        return f"%{self.name or format(id(self), 'x')}: {self.type}"


@final
class Literal:
    """A scalar known when the program was made. `value` is a NumPy scalar of the type's dtype."""

    __slots__ = ("type", "value")

    def __init__(self, value: Any, type: ArrayType):
        self.type = type
        self.value = np.asarray(value).astype(type.dtype)[()]

    def __repr__(self) -> str:
        return f"{self.value}: {self.type}"

    @property
    def aval(self) -> ArrayType:
        """JAX's name for the type."""
        return self.type

    @property
    def val(self) -> Any:
        """JAX's name for the value."""
        return self.value

    @property
    def key(self) -> tuple[bytes, ArrayType]:
        """What two equal literals share (bit-wise, so that NaN equals itself and 0.0 differs from -0.0)."""
        return (np.asarray(self.value).tobytes(), self.type)


Atom = Var | Literal


class Equation:
    """`outputs = primitive(inputs; params)`. Params are plain data or Programs; `source` is the user's line, if known."""

    __slots__ = ("primitive", "inputs", "outputs", "params", "source")

    def __init__(
        self,
        primitive: Primitive,
        inputs: Sequence[Atom],
        outputs: Sequence[Var],
        params: dict[str, Any],
        source: Source | None = None,
    ):
        self.primitive = primitive
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.params = params
        self.source = source

    def replace(self, **changes: Any) -> Equation:
        """The equation with some parts replaced, under our names for them or JAX's (invars, outvars)."""
        return Equation(**_replaced(self, self.__slots__, {"invars": "inputs", "outvars": "outputs"}, changes))

    @property
    def invars(self) -> list[Atom]:
        """JAX's name for the inputs."""
        return list(self.inputs)

    @property
    def outvars(self) -> list[Var]:
        """JAX's name for the outputs."""
        return list(self.outputs)

    @property
    def effects(self) -> frozenset[str]:
        """What the equation does besides giving results: empty, or of one member, its primitive's name."""
        return frozenset((self.primitive.name,)) if self.has_effects else frozenset()

    def regions(self) -> Iterator[tuple[str, Program]]:
        """The programs among the parameters, named: `body`, or `branches[0]` for members of a tuple."""
        for name, value in self.params.items():
            if isinstance(value, Program):
                yield name, value
            elif isinstance(value, tuple):
                for i, member in enumerate(value):
                    if isinstance(member, Program):
                        yield f"{name}[{i}]", member

    @property
    def has_effects(self) -> bool:
        return self.primitive.effect or bool(self.params) and any(p.has_effects for _, p in self.regions())

    def __repr__(self) -> str:
        outs = ", ".join(map(repr, self.outputs))
        return f"{outs} = {self.primitive.name} {', '.join(repr(a) for a in self.inputs)}"


class Constant(NamedTuple):
    """An array captured by a program: the variable that stands for it and its value."""

    var: Var
    value: np.ndarray


class Program:
    """A closed, typed SSA function. Immutable: passes make new ones."""

    __slots__ = ("inputs", "constants", "equations", "outputs", "name", "_digest", "_effects", "__weakref__")
    inputs: tuple[Var, ...]
    constants: tuple[Constant, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]
    name: str

    def __init__(
        self,
        inputs: Iterable[Var],
        constants: Iterable[Constant],
        equations: Iterable[Equation],
        outputs: Iterable[Atom],
        name: str = "main",
    ):
        self.inputs = tuple(inputs)
        self.constants = tuple(constants)
        self.equations = tuple(equations)
        self.outputs = tuple(outputs)
        self.name = name
        self._digest: bytes | None = None
        self._effects: bool | None = None

    @property
    def in_types(self) -> tuple[ArrayType, ...]:
        return tuple(v.type for v in self.inputs)

    @property
    def out_types(self) -> tuple[ArrayType, ...]:
        return tuple(a.type for a in self.outputs)

    @property
    def has_effects(self) -> bool:
        if self._effects is None:
            self._effects = any(e.has_effects for e in self.equations)
        return self._effects

    def replace(self, **changes: Any) -> Program:
        """The program with some parts replaced."""
        return Program(**_replaced(self, ("inputs", "constants", "equations", "outputs", "name"), {}, changes))

    def __str__(self) -> str:
        from tracegrad.ir.printer import to_text

        return to_text(self)

    def __repr__(self) -> str:
        return str(self)

    # A program is what JAX calls a closed jaxpr, and has its attributes (see `jaxpr.py`).
    @property
    def jaxpr(self) -> Jaxpr:
        """The program with its captured arrays as variables."""
        from tracegrad.ir.jaxpr import opened

        return opened(self)

    @property
    def consts(self) -> list[np.ndarray]:
        """The captured arrays."""
        return [c.value for c in self.constants]

    @property
    def eqns(self) -> list[Equation]:
        """JAX's name for the equations."""
        return list(self.equations)

    @property
    def in_avals(self) -> list[ArrayType]:
        """JAX's name for the types of the inputs."""
        return list(self.in_types)

    @property
    def out_avals(self) -> list[ArrayType]:
        """JAX's name for the types of the outputs."""
        return list(self.out_types)

    @property
    def effects(self) -> frozenset[str]:
        """The names of the primitives with effects that it applies."""
        return frozenset([name for eqn in self.equations for name in eqn.effects])

    # Equality is of structure: names and source locations do not count.
    @property
    def digest(self) -> bytes:
        """A hash of the structure: two programs that differ only in names and locations share it."""
        if self._digest is None:
            self._digest = _digest(self)
        return self._digest

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Program) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def walk(self) -> Iterator[Equation]:
        """Every equation, those of regions included, in order."""
        for eqn in self.equations:
            yield eqn
            if eqn.params:
                for _, region in eqn.regions():
                    yield from region.walk()

    def uses(self) -> Counter[Var]:
        """How often each variable is read, as an operand or as an output; what only regions read inside of them does not count."""
        operands = [a for eqn in self.equations for a in eqn.inputs]
        return Counter([a for a in (*operands, *self.outputs) if isinstance(a, Var)])

    def definitions(self) -> dict[Var, Equation]:
        """The equation that binds each variable; inputs and constants have none."""
        return {v: eqn for eqn in self.equations for v in eqn.outputs}


def _digest(program: Program) -> bytes:
    h = hashlib.blake2b(digest_size=20)
    number: dict[Var, int] = {}

    def define(var: Var) -> None:
        number[var] = len(number)
        h.update(var.type.str_short().encode())
        h.update(b";")

    def use(atom: Atom) -> None:
        if isinstance(atom, Var):
            h.update(b"%%%d," % number[atom])
        else:
            h.update(b"$" + atom.key[0] + atom.type.str_short().encode() + b",")

    h.update(b"in:")
    for v in program.inputs:
        define(v)
    for c in program.constants:
        define(c.var)
        h.update(np.ascontiguousarray(c.value).tobytes())
    for eqn in program.equations:
        h.update(eqn.primitive.name.encode() + b"(")
        for a in eqn.inputs:
            use(a)
        for name in sorted(eqn.params):
            h.update(b"|" + name.encode() + b"=")
            h.update(param_bytes(eqn.params[name]))
        h.update(b")->")
        for v in eqn.outputs:
            define(v)
    h.update(b"out:")
    for a in program.outputs:
        use(a)
    return h.digest()


# Whose text says all there is. Only these exact types: a subclass (an enumeration, a named tuple) is another object with the same text.
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None)})


def param_bytes(value: Any) -> bytes:
    """What tells a parameter's value from all others: its content, or for Python objects which one it is."""
    kind = type(value)
    if kind in _PLAIN:
        return f"{kind.__name__}:{value!r}".encode()
    if isinstance(value, Program):
        return b"P" + value.digest
    if kind is tuple or kind is list:
        return b"(" + b",".join([param_bytes(v) for v in value]) + b")"
    if isinstance(value, np.ndarray):
        return b"A" + str((value.dtype, value.shape)).encode() + value.tobytes()
    if isinstance(value, np.integer):
        return f"int:{int(value)}".encode()
    if isinstance(value, np.generic):
        return f"S{value.dtype}:".encode() + value.tobytes()
    if isinstance(value, (np.dtype, KeyDType, TapeDType, ArrayType)):
        return f"{kind.__name__}:{value!r}".encode()
    return b"@" + reference_to(value).identity.encode()


def _replaced(old: Any, names: Iterable[str], synonyms: dict[str, str], changes: dict[str, Any]) -> dict[str, Any]:
    """The parts of `old`, changed."""
    fields = {k: getattr(old, k) for k in names}
    for name, value in changes.items():
        name = synonyms.get(name, name)
        if name not in fields:
            raise TypeError(f"a {type(old).__name__} has no part {name!r}; it has {', '.join(fields)}")
        fields[name] = value
    return fields
