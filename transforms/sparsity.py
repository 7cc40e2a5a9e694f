"""Which elements of a program's results can depend on which elements of its inputs: the sparsity pattern of its Jacobian.

An abstract interpreter walks the program. In place of a value it keeps, for each element, the set of *columns* (elements of the differentiated
inputs) that its derivative can be nonzero for, as the rows of a Boolean matrix; and the value itself where it follows from constants, since
indices and zero factors decide what depends on what. The pattern is conservative: it may hold entries that are always zero (x - x, say) but
misses none that a derivative rule can produce. Products with a constant zero count as independent of the other factor.

This is forward propagation of index sets as in Griewank & Walther, Evaluating Derivatives (2008), section 7.1, on arrays. The rules of the
primitives are in `sparsity_rules.py`, those of control flow and calls in `sparsity_regions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.types import ArrayType, float0, is_key, is_tape, tangent_type

Rows = Any
"""A Boolean `scipy.sparse.csr_array` with a row for each element of a value, row-major; None where all rows are empty."""

FOLDED = 1 << 20
"""Values of more elements than this are not computed while analysing."""

_FOLDABLE = frozenset(("elementwise", "structural", "indexing", "reductions", "sorting", "contractions"))


class Abstract:
    """What is known of a value: its type, the columns its elements depend on, and the elements that follow from constants.

    value: None if no element is known. known: True, or a Boolean array that says which elements of `value` count.
    """

    __slots__ = ("type", "rows", "value", "known")

    def __init__(self, type: ArrayType, rows: Rows = None, value: np.ndarray | None = None, known: bool | np.ndarray = True):
        self.type = type
        self.rows = None if rows is not None and rows.nnz == 0 else rows
        if value is not None and known is not True and not np.any(known):
            value = None
        self.value = value
        self.known: Any = True if known is True or np.all(known) else known

    @property
    def constant(self) -> np.ndarray | None:
        """The value, if every element is known."""
        return self.value if self.known is True else None

    def mask(self) -> np.ndarray:
        """Which elements are known."""
        if self.value is None:
            return np.zeros(self.type.shape, bool)
        return np.ones(self.type.shape, bool) if self.known is True else np.asarray(self.known)

    def zeros(self) -> np.ndarray | None:
        """Which elements are known to be zero; None if none is."""
        if self.value is None or self.type.dtype.kind not in "fciubV":
            return None
        zero = self.value == 0 if self.known is True else (self.value == 0) & self.known
        return zero if zero.any() else None

    def without_rows(self) -> Abstract:
        return Abstract(self.type, None, self.value, self.known)


def differentiable(t: ArrayType) -> bool:
    """Whether values of the type have tangents."""
    return is_tape(t.dtype) or tangent_type(t).dtype != float0


def number_of_rows(t: ArrayType) -> int:
    return math.prod(t.shape)


# Boolean matrices


def coo(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Any:
    """The Boolean matrix with entries at these places, which may repeat."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=shape)


def identity(n: int, first: int, total: int) -> Rows:
    """Row i has the one entry `first + i`, of `total` columns."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(n, bool), np.arange(first, first + n), np.arange(n + 1)), shape=(n, total))


def empty(n: int, columns: int) -> Any:
    from scipy.sparse import csr_array

    return csr_array((n, columns), dtype=bool)


def union(*parts: Rows) -> Rows:
    """Elementwise `or`."""
    result = None
    for part in parts:
        if part is not None:
            result = part if result is None or result is part else result + part
    return result


def take(rows: Rows, index: np.ndarray) -> Rows:
    """The rows with these numbers, in this order; an empty one for -1."""
    if rows is None:
        return None
    index = np.asarray(index).reshape(-1)
    n = rows.shape[0]
    if len(index) == n and np.array_equal(index, np.arange(n)):
        return rows
    if (index >= 0).all():
        return rows[index]
    from scipy.sparse import csr_array

    extended = csr_array((rows.data, rows.indices, np.append(rows.indptr, rows.indptr[-1])), shape=(n + 1, rows.shape[1]))
    return extended[np.where(index < 0, n, index)]


def combine(matrix: Any, rows: Rows) -> Rows:
    """The Boolean product: row i of the result is the union of the rows that row i of the matrix names."""
    return None if rows is None else matrix @ rows


def merge(rows: Rows, group: np.ndarray, groups: int) -> Rows:
    """Row g is the union of the rows i with group[i] == g; -1 is in no group."""
    if rows is None:
        return None
    group = np.asarray(group).reshape(-1)
    members = np.arange(len(group))
    if group.size and group.min() < 0:
        members = members[group >= 0]
        group = group[members]
    return combine(coo(group, members, (groups, rows.shape[0])), rows)


def stack(parts: Sequence[Rows], sizes: Sequence[int], columns: int) -> Any:
    """The rows of several values, one value after the other."""
    from scipy.sparse import csr_array, vstack

    given = [empty(n, columns) if p is None else p for p, n in zip(parts, sizes, strict=True)]
    return csr_array(vstack(given, format="csr")) if given else empty(0, columns)


def split(rows: Any, sizes: Sequence[int]) -> list[Rows]:
    """The inverse of `stack`."""
    parts = []
    first = 0
    for n in sizes:
        part = rows[first : first + n]
        parts.append(part if part.nnz else None)
        first += n
    return parts


def numbers(shape: Sequence[int]) -> np.ndarray:
    """The numbers of the elements of an array, in its shape."""
    return np.arange(math.prod(shape)).reshape(tuple(shape))


# The interpreter

Rule = Callable[..., Sequence[Rows]]
RULES: dict[str, Rule] = {}
"""By primitive: `rule(ins: Abstract..., out_types, **params)` gives the rows of each result. What has no rule is taken to be dense."""

REGION_RULES: dict[str, Callable[..., Sequence[Abstract]]] = {}
"""By primitive with regions: a rule that gives the results' `Abstract`s."""


def propagate(program: Program, inputs: Sequence[Abstract]) -> list[Abstract]:
    """What is known of the program's results, given what is known of its inputs."""
    env: dict[Var, Abstract] = {c.var: Abstract(c.var.type, None, _numbers_of(c.value, c.var.type)) for c in program.constants}
    env.update(zip(program.inputs, inputs, strict=True))

    def read(atom: Atom) -> Abstract:
        return Abstract(atom.type, None, np.asarray(atom.value)) if type(atom) is Literal else env[atom]  # type: ignore[index]

    for eqn in program.equations:
        env.update(zip(eqn.outputs, _results(eqn, [read(a) for a in eqn.inputs]), strict=True))
    return [read(a) for a in program.outputs]


def _numbers_of(value: Any, t: ArrayType) -> np.ndarray | None:
    """A concrete value as the analysis uses it."""
    return None if is_key(t.dtype) or is_tape(t.dtype) or t.dtype == float0 else np.asarray(value)


def _results(eqn: Equation, ins: Sequence[Abstract]) -> Sequence[Abstract]:
    types = [v.type for v in eqn.outputs]
    if eqn.primitive.name in REGION_RULES:
        outs = REGION_RULES[eqn.primitive.name](ins, types, **eqn.params)
        return [x if differentiable(t) else x.without_rows() for x, t in zip(outs, types, strict=True)]
    values = known_results(eqn.primitive, ins, types, eqn.params)
    if all(x.rows is None for x in ins):
        rows: Sequence[Rows] = [None] * len(types)
    else:
        rows = RULES.get(eqn.primitive.name, dense)(ins, types, **eqn.params)
    return [Abstract(t, r if differentiable(t) else None, *v) for t, r, v in zip(types, rows, values, strict=True)]


def dense(ins: Sequence[Abstract], types: Sequence[ArrayType], **_: Any) -> list[Rows]:
    """Every element of every result depends on whatever any operand depends on."""
    total = union(*[merge(x.rows, np.zeros(number_of_rows(x.type), int), 1) for x in ins])
    return [take(total, np.zeros(number_of_rows(t), int)) for t in types]


def known_results(
    primitive: Primitive, ins: Sequence[Abstract], types: Sequence[ArrayType], params: dict[str, Any]
) -> list[tuple[np.ndarray | None, Any]]:
    """The values of the results that follow from known operands: for each a value, or None, and which of its elements are known."""
    nothing: list[tuple[np.ndarray | None, Any]] = [(None, True)] * len(types)
    if primitive.family not in _FOLDABLE or any(number_of_rows(t) > FOLDED or is_key(t.dtype) for t in types):
        return nothing
    if any(x.value is None and is_key(x.type.dtype) for x in ins):
        return nothing
    constants = [x.constant for x in ins]
    if all(c is not None for c in constants):
        return [(np.asarray(v), True) for v in primitive.evaluate(*constants, **params)]
    if all(x.value is None for x in ins) or primitive.family not in ("elementwise", "structural"):
        return nothing
    given = [np.zeros(x.type.shape, x.type.dtype) if x.value is None else x.value for x in ins]
    masks = [x.mask() for x in ins]
    (value,) = primitive.evaluate(*given, **params)
    if primitive.family == "structural":
        (known,) = primitive.evaluate(*masks, **params)
    elif primitive.name == "select":
        pred_known, on_true, on_false = masks
        known = pred_known & np.where(given[0], on_true, on_false)
    else:
        known = np.ones((), bool)
        for mask in masks:
            known = known & mask
    known = np.broadcast_to(known, types[0].shape)
    if primitive.name == "mul":  # a known zero makes the product zero, whatever the other factor is
        for x in ins:
            zero = x.zeros()
            if zero is not None:
                value = np.where(zero, np.zeros((), value.dtype), value)
                known = known | zero
    return [(np.asarray(value), known)]


def dependences(program: Program, inputs: Sequence[Any], columns: Sequence[bool]) -> Any:
    """The pattern of a program's Jacobian: a Boolean CSR array, one row per element of its results, a column per element of the chosen inputs.

    inputs: for each input its value as a NumPy array, or None where it is not known. columns: which inputs are differentiated.
    """
    from tracegrad.transforms import sparsity_regions, sparsity_rules  # noqa: F401 - they fill RULES

    sizes = [number_of_rows(v.type) for v in program.inputs]
    total = sum(n for n, chosen in zip(sizes, columns) if chosen)
    given = []
    first = 0
    for var, value, n, chosen in zip(program.inputs, inputs, sizes, columns, strict=True):
        if chosen:
            given.append(Abstract(var.type, identity(n, first, total) if differentiable(var.type) else None))
            first += n
        else:
            given.append(Abstract(var.type, None, None if value is None else _numbers_of(value, var.type)))
    outs = propagate(program, given)
    pattern = stack([x.rows for x in outs], [number_of_rows(x.type) for x in outs], total)
    pattern.sum_duplicates()
    return pattern
