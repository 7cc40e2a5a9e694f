"""Merging equations that compute the same thing (value numbering)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.ir.evaluate import rename, substitute
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.transforms.regions import map_regions

COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne"})
# Merging over these would undo what they are for.
_KEPT_APART = frozenset({"optimization_barrier"})


def merge_common(program: Program) -> Program:
    """Let equations with equal primitive, operands and parameters share one result, in regions too."""
    env: dict[Var, Atom] = {}
    seen: dict[Any, Equation] = {}
    kept: list[Equation] = []
    changed = False
    for eqn in program.equations:
        new = map_regions(eqn, merge_common)
        inputs = substitute(eqn, env)
        if inputs != new.inputs:
            new = new.replace(inputs=inputs)
        changed = changed or new is not eqn
        if not new.has_effects and new.primitive.name not in _KEPT_APART:
            key = _key(new)
            twin = seen.get(key)
            if twin is not None:
                env.update(zip(eqn.outputs, twin.outputs))
                changed = True
                continue
            seen[key] = new
        kept.append(new)
    if not changed:
        return program
    return program.replace(equations=kept, outputs=rename(program.outputs, env))


def _key(eqn: Equation) -> Any:
    return equation_key(eqn, [a.key if isinstance(a, Literal) else a for a in eqn.inputs])


def equation_key(eqn: Equation, operands: Sequence[Any]) -> Any:
    """What equations that compute the same share, given something hashable for each operand."""
    operands = list(operands)
    name = eqn.primitive.name
    if name in COMMUTATIVE:
        operands.sort(key=hash)
    params = eqn.params
    return (name, tuple(operands), tuple([(k, params[k]) for k in sorted(params)]) if params else ())
