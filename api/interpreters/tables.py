"""Tables of rules: the mapping that JAX has from primitives to rules, over the rules that our primitives carry.

A rule in JAX's manner takes and gives a single result bare and several as a list; ours always take and give sequences. A table converts
what is put in, and checks what such a rule returns, since a mistake there would come out as a wrong number far away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import numpy as np

from tracegrad.ir.bind import type_of
from tracegrad.ir.primitive import REGISTRY, Declined, Primitive
from tracegrad.ir.types import ArrayType

Rule = Callable[..., Any]


class RuleTable(MutableMapping[Primitive, Rule]):
    """One kind of rule of all primitives.

    to_ours(primitive, rule): a rule in JAX's manner in ours; to_jax: the other direction, for our own primitives.
    """

    def __init__(self, kind: str, to_ours: Callable[[Primitive, Rule], Rule], to_jax: Callable[[Primitive, Rule], Rule]):
        self._kind = kind
        self._to_ours = to_ours
        self._to_jax = to_jax
        self._given: dict[Primitive, tuple[Rule, Rule]] = {}

    def __setitem__(self, primitive: Primitive, rule: Rule) -> None:
        if not isinstance(primitive, Primitive):
            raise TypeError(f"a table of {self._kind} rules is indexed by primitives, not by {primitive!r:.200}")
        if not callable(rule):
            raise TypeError(f"the {self._kind} rule of {primitive.name!r} must be a function, got {rule!r:.200}")
        ours = self._to_ours(primitive, rule)
        self._given[primitive] = (ours, rule)
        primitive.define(**{self._kind: ours})

    def __getitem__(self, primitive: Primitive) -> Rule:
        rule = primitive.rules.get(self._kind)
        if rule is None or isinstance(rule, Declined):
            raise KeyError(primitive)
        ours, given = self._given.get(primitive, (None, None))
        # A rule may have been replaced since, through another table of the same kind.
        return given if given is not None and ours is rule else self._to_jax(primitive, rule)

    def __delitem__(self, primitive: Primitive) -> None:
        self[primitive]
        del primitive.rules[self._kind]
        self._given.pop(primitive, None)

    def __iter__(self) -> Iterator[Primitive]:
        return (p for p in list(REGISTRY.values()) if not isinstance(p.rules.get(self._kind, Declined("")), Declined))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<table of {len(self)} {self._kind} rules>"


def bare(primitive: Primitive, results: Any) -> Any:
    """Results as JAX's rules see them: the only one, or a list."""
    return list(results) if primitive.multiple_results else results[0]


def pair(primitive: Primitive, value: Any, rule: str, parts: str) -> tuple[Any, Any]:
    """The two things that a rule returned."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"the {rule} rule of {primitive.name!r} returned {value!r:.200}, not a pair ({parts})")
    return value[0], value[1]


def checked(primitive: Primitive, what: str, x: Any, expected: ArrayType) -> Any:
    """A tangent or cotangent that a rule returned, of the type that it must have; numbers become arrays of it.

    Raises TypeError that names the primitive for what has another shape or dtype.
    """
    if isinstance(x, (bool, int, float, complex)) and not expected.shape:
        return np.asarray(x, expected.dtype)
    try:
        got = type_of(x)
    except TypeError as e:
        raise TypeError(f"{what} of {primitive.name!r}: {e}") from None
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise TypeError(f"{what} of {primitive.name!r} has the type {got}, but must have {expected}")
    return x
