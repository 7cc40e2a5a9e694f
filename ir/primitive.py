"""Primitives: the operations that equations apply, and the registry that holds them.

A primitive is one record. The `ir` layer gives it a name, a type rule and its meaning (an evaluation in NumPy, which is also the
oracle of every test); `transforms` adds the rules `jvp`, `transpose`, `batch` (and `linearize` for control flow, and `jet`, which is
optional, for Taylor mode); `codegen` adds `lower`. A rule that cannot exist is `Declined(reason)`, so that a hole is never an accident: a test walks the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tracegrad.ir.types import ArrayType


@dataclass(frozen=True)
class Declined:
    """A rule that was considered and refused; `reason` reaches the user."""

    reason: str


RULES = ("jvp", "linearize", "transpose", "batch", "jet", "lower")
"""The rules that layers above `ir` attach to a primitive."""

REGISTRY: dict[str, Primitive] = {}
"""All primitives by name."""


@dataclass(eq=False)
class Primitive:
    """An operation of the IR.

    type_rule(*in_types, **params) -> tuple of ArrayType: checks the operands, raising TypeError or ValueError with a message for
        the user, and gives the results' types.
    evaluate(*arrays, **params) -> tuple of numpy arrays: the meaning. Operands and results are numpy arrays of exactly the types'
        dtypes and shapes (typed keys: uint32 arrays with the key's base shape appended).
    family: the name of the file that defines it; the same in every layer.
    regions: names of the parameters that hold Programs (or tuples of Programs).
    effect: must be neither dropped, duplicated nor reordered (callbacks).
    """

    name: str
    type_rule: Callable[..., tuple[ArrayType, ...]]
    evaluate: Callable[..., tuple[Any, ...]]
    family: str
    regions: tuple[str, ...] = ()
    effect: bool = False
    rules: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name in REGISTRY:
            raise ValueError(f"a primitive named {self.name!r} exists already")
        REGISTRY[self.name] = self

    def define(self, **rules: Any) -> None:
        """Attach rules: `sin_p.define(jvp=..., batch=...)`."""
        for kind, rule in rules.items():
            if kind not in RULES:
                raise ValueError(f"{kind!r} is not a kind of rule; there are {', '.join(RULES)}")
            self.rules[kind] = rule

    def rule(self, kind: str) -> Callable[..., Any]:
        """The rule of this kind; raises NotImplementedError that names the primitive when there is none."""
        rule = self.rules.get(kind)
        if rule is None:
            raise NotImplementedError(f"the primitive {self.name!r} has no {kind} rule; give it one with define({kind}=...)")
        if isinstance(rule, Declined):
            raise NotImplementedError(f"the {kind} rule of {self.name!r} does not exist: {rule.reason}")
        return rule

    def __repr__(self) -> str:
        return self.name
