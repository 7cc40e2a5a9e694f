"""The three forms that a tensor takes while a program is lowered, and how an element of each is read.

- `Scalars`: small tensors in registers, one SSA scalar an element; structure on them is a permutation of a list.
- `View`: memory, with an offset and a stride for each dimension; slices, transpositions and broadcasts of it are views as well.
- `Lazy`: a function from an output index to a scalar, which whoever consumes it inlines in a loop nest of his own.

The scalar of a complex tensor is a pair of values; float16 and bfloat16 are float32 in registers, rounded after every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from tracegrad.codegen.builder import Builder
from tracegrad.codegen.loop_ir import Affine, Buffer, Index, Value, index_level
from tracegrad.ir.types import ArrayType, bfloat16

Scalar = Any  # a Value, or for complex dtypes a pair of them
Indices = tuple[Index, ...]

FLOAT16 = np.dtype(np.float16)
HALVES = (FLOAT16, bfloat16)

REGISTER_TYPES = {
    "bool": "i1",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "i8",
    "uint16": "i16",
    "uint32": "i32",
    "uint64": "i64",
    "float16": "f32",
    "bfloat16": "f32",
    "float32": "f32",
    "float64": "f64",
    "complex64": "f32",
    "complex128": "f64",
}


def register_type(dtype: Any) -> str:
    """The type of a scalar of this dtype in a register (of each part, for a complex one)."""
    found = _REGISTER_TYPES.get(dtype)  # the name of a dtype takes several microseconds
    if found is None:
        found = _REGISTER_TYPES[dtype] = REGISTER_TYPES[dtype.name]
    return found


_REGISTER_TYPES: dict[Any, str] = {}


IDENTICAL, INVARIANT, OTHER = 0, 1, 2
"""How a lazy value reads a leaf: at its own index, the same for all indices, or in another way."""


POSITION = "position"
"""The leaf of values that depend on where an element is, whatever memory they read."""


@final
class Scalars:
    """A tensor in registers: `elements` in row-major order."""

    __slots__ = ("type", "elements", "spilled")

    def __init__(self, type: ArrayType, elements: list[Scalar]):
        self.type = type
        self.elements = elements
        self.spilled: Any = None  # (view, scope): where it was stored, as long as that scope is open


@final
class View:
    """A tensor in memory: element (i, j, ...) is at `offset + i * strides[0] + j * strides[1] + ...`, counted in elements."""

    __slots__ = ("type", "buffer", "offset", "strides")

    def __init__(self, type: ArrayType, buffer: Buffer, offset: Index, strides: tuple[int, ...]):
        self.type = type
        self.buffer = buffer
        self.offset = offset
        self.strides = strides

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie one after the other in row-major order."""
        expected = 1
        for size, stride in zip(reversed(self.type.shape), reversed(self.strides)):
            if size != 1 and stride != expected:
                return self.type.size == 0
            expected *= size
        return True

    @property
    def is_whole(self) -> bool:
        """Whether this is all of its buffer, in order."""
        return self.offset == 0 and self.type.size == self.buffer.size and self.is_dense

    def position(self, indices: Indices) -> Index:
        position = self.offset
        for i, s in zip(indices, self.strides):
            position = position + i * s
        return position

    def reshaped(self, type: ArrayType) -> View:
        """A dense view under another shape."""
        return View(type, self.buffer, self.offset, dense_strides(type.shape))

    def same_place(self, other: View) -> bool:
        return (
            self.buffer is other.buffer
            and self.offset == other.offset
            and self.type.shape == other.type.shape
            and all(a == b or n == 1 for a, b, n in zip(self.strides, other.strides, self.type.shape))
        )


class Lazy:
    """A tensor that is computed where it is read: `function(b, indices)` gives the scalar at an index.

    leaves: the memory (buffers, pending roots) that it reads, and how; cost: roughly the operations for an element; depth: how far
    the functions are nested.
    """

    __slots__ = ("type", "function", "leaves", "cost", "depth")

    def __init__(
        self,
        type: ArrayType,
        function: Callable[[Builder, Indices], Scalar],
        leaves: dict[Any, int],
        cost: int,
        depth: int = 1,
    ):
        self.type = type
        self.function = function
        self.leaves = leaves
        self.cost = cost
        self.depth = depth


class Root:
    """A tensor that is to be computed by a pending nest; then `value` is a View or Scalars."""

    __slots__ = ("var", "lazy", "target", "group", "value", "reduction", "type")

    def __init__(self, type: ArrayType, lazy: Lazy, target: View | None, reduction: Any = None):
        self.type = type
        self.lazy = lazy
        self.target: Any = target  # a View; None only for a reduction
        self.reduction = reduction
        self.group: Any = None
        self.value: Any = None


class Pending(Lazy):
    """Reads a root, whether its nest has been emitted or is being emitted now."""

    __slots__ = ("root",)

    def __init__(self, root: Root):
        super().__init__(root.type, self._read, {root: IDENTICAL}, 1, 1)
        self.root = root

    def _read(self, b: Builder, indices: Indices) -> Scalar:
        if self.root.value is not None:
            return read(b, self.root.value, indices)
        if self.root.reduction is not None:
            raise AssertionError("a reduction was read before its nest")
        return read(b, self.root.lazy, indices)


Form = Scalars | View | Lazy


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def leaves_of(value: Form) -> dict[Any, int]:
    """The memory that a value reads; roots that have been computed count as the memory they are in."""
    if type(value) is View:
        return {value.buffer: IDENTICAL if value.is_dense else OTHER}
    if type(value) is Scalars:
        return {POSITION: OTHER} if len(value.elements) > 1 else {}
    leaves = value.leaves
    for leaf in leaves:
        if type(leaf) is Root and leaf.value is not None:
            return _resolved(leaves)
    return leaves


def _resolved(leaves: dict[Any, int]) -> dict[Any, int]:
    out: dict[Any, int] = {}
    for leaf, how in leaves.items():
        if type(leaf) is Root and leaf.value is not None:
            for inner, inner_how in leaves_of(leaf.value).items():
                add_leaf(out, inner, combine(how, inner_how))
        else:
            add_leaf(out, leaf, how)
    return out


def add_leaf(leaves: dict[Any, int], leaf: Any, how: int) -> None:
    old = leaves.get(leaf)
    leaves[leaf] = how if old is None or old == how else OTHER


def combine(outer: int, inner: int) -> int:
    """How a leaf is read by a value that reads another, which reads the leaf."""
    if outer == IDENTICAL:
        return inner
    return INVARIANT if outer == INVARIANT or inner == INVARIANT else OTHER


# ------------------------------------------------------------------------------------------------------------------- elements


def level_of(scalar: Scalar) -> int:
    if type(scalar) is tuple:
        return max(scalar[0].level, scalar[1].level)
    return scalar.level


def read(b: Builder, value: Form, indices: Indices) -> Scalar:
    """The scalar of `value` at an index."""
    if type(value) is View:
        return load(b, value.buffer, value.position(indices))
    if type(value) is Scalars:
        if len(value.elements) == 1:
            return value.elements[0]
        position: Index = 0
        for i, n in zip(indices, value.type.shape):
            position = position * n + i
        return value.elements[position] if type(position) is int else _pick(b, value.elements, b.index(position))
    key = (value, indices)
    hit = b.memo.get(key)
    if hit is not None and hit[1].open:
        return hit[0]
    scalar = value.function(b, indices)
    # What was chosen under an assumption is right only where that holds, however far out it can be computed.
    b.memo[key] = (scalar, b.scopes[max(level_of(scalar), b.assuming)])
    return scalar


def _pick(b: Builder, elements: list[Scalar], position: Value) -> Scalar:
    """One of several registers, by a number known when the program runs."""
    found = elements[0]
    for k, e in enumerate(elements[1:], 1):
        here = b.op("icmp", "i1", position, b.const("i64", k), attr="eq")
        if type(e) is tuple:
            found = tuple([b.select(here, x, y) for x, y in zip(e, found)])
        else:
            found = b.select(here, e, found)
    return found


def load(b: Builder, buffer: Buffer, position: Index) -> Scalar:
    """The element at a position of memory, as it is in registers."""
    dtype = buffer.dtype
    kind = dtype.kind
    if kind == "c":
        position = position * 2
        return (b.load(buffer, position), b.load(buffer, position + 1))
    v = b.load(buffer, position)
    if kind == "b":
        return b.op("icmp", "i1", v, b.const("i8", 0), attr="ne")
    if dtype is FLOAT16 or dtype == FLOAT16:
        return b.op("fpext", "f32", v)
    if dtype == bfloat16:
        wide = b.op("shl", "i32", b.op("zext", "i32", v), b.const("i32", 16))
        return b.op("bitcast", "f32", wide)
    return v


def store(b: Builder, buffer: Buffer, position: Index, scalar: Scalar) -> None:
    """Write an element."""
    dtype = buffer.dtype
    kind = dtype.kind
    if kind == "c":
        position = position * 2
        b.store(buffer, position, scalar[0])
        b.store(buffer, position + 1, scalar[1])
        return
    if kind == "b":
        scalar = b.op("zext", "i8", scalar)
    elif dtype == FLOAT16:
        scalar = b.op("fptrunc", "f16", scalar)
    elif dtype == bfloat16:
        bits = b.op("bitcast", "i32", scalar)
        scalar = b.op("trunc", "i16", b.op("lshr", "i32", bits, b.const("i32", 16)))
    b.store(buffer, position, scalar)


def literal(b: Builder, dtype: Any, value: Any) -> Scalar:
    """A constant of a dtype."""
    type = register_type(dtype)
    if dtype.kind == "c":
        return (b.const(type, value.real), b.const(type, value.imag))
    if dtype.kind in "iu":
        bits = 8 * dtype.itemsize
        value = int(value)
        return b.const(type, value - (1 << bits) if value >= 1 << (bits - 1) else value)
    if dtype.kind == "b":
        return b.const(type, bool(value))
    return b.const(type, float(value))


def is_constant_index(indices: Indices) -> bool:
    return all(type(i) is int for i in indices)


__all__ = [
    "Affine",
    "Form",
    "IDENTICAL",
    "INVARIANT",
    "Indices",
    "Lazy",
    "OTHER",
    "POSITION",
    "Pending",
    "Root",
    "Scalar",
    "Scalars",
    "View",
    "dense_strides",
    "index_level",
    "Value",
    "leaves_of",
    "literal",
    "load",
    "read",
    "register_type",
    "store",
]
