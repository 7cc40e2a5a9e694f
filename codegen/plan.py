"""What is known about a program before it is lowered: who reads a value, where it would be recomputed, what it updates.

A lazy value may be read by several nests. When all of its readers end in one iteration space at one depth they share a nest, and it
is computed once; otherwise it is `shared`, and worth memory unless it is cheap.
"""

from __future__ import annotations

from typing import Any

from tracegrad.ir.program import Program, Var

CHEAP = 5
"""A lazy value of at most this cost is recomputed rather than stored."""

ELEMENTWISE = frozenset(("elementwise", "special"))
INDEXED = frozenset(("structural",))
_INDEXED_NAMES = frozenset(("gather", "dynamic_slice", "searchsorted"))
REDUCTIONS = frozenset("reduce_sum reduce_prod reduce_max reduce_min reduce_and reduce_or reduce_xor".split())

COSTS = {
    "exp": 12, "exp2": 12, "expm1": 16, "log": 14, "log1p": 18, "sin": 20, "cos": 20, "tan": 30, "asin": 20, "acos": 20, "atan": 20,
    "sinh": 20, "cosh": 20, "tanh": 16, "asinh": 24, "acosh": 24, "atanh": 24, "sqrt": 4, "rsqrt": 6, "cbrt": 20, "logistic": 14,
    "pow": 40, "atan2": 30, "div": 3, "rem": 10, "erf": 20, "erfc": 24, "erf_inv": 24, "threefry2x32": 60, "integer_pow": 3,
    "lgamma": 70, "digamma": 70, "trigamma": 60, "polygamma": 60, "zeta": 300, "bessel_i0e": 40, "bessel_i1e": 40,
}  # fmt: skip
"""Roughly how many operations an element costs; one where nothing is said."""


class Plan:
    """uses: how often each variable is read; shared: variables worth memory when they are not cheap; last_uses: per equation, what
    dies with it; updated: which variable an output is an updated version of (so that it can have the same memory); stored: variables that
    some equation reads from memory, and others, too."""

    __slots__ = ("uses", "shared", "last_uses", "updated", "stored")

    def __init__(self) -> None:
        self.uses: dict[Var, int] = {}
        self.shared: set[Var] = set()
        self.last_uses: list[list[Var]] = []
        self.updated: dict[Var, Var] = {}
        self.stored: set[Var] = set()


def analyse(program: Program) -> Plan:
    result = Plan()
    uses = result.uses
    depth: dict[Var, int] = {}
    cost: dict[Var, int] = {}
    for v in program.inputs:
        uses[v] = 0
    for c in program.constants:
        uses[c.var] = 0
    kinds: list[str] = []
    for eqn in program.equations:
        below = 0
        total = 1
        for a in eqn.inputs:
            if type(a) is Var:
                uses[a] += 1
                d = depth.get(a, 0)
                if d > below:
                    below = d
                total += cost.get(a, 1)
        p = eqn.primitive
        if p.family in ELEMENTWISE or p.name == "threefry2x32":
            kind = "elementwise"
            total += COSTS.get(p.name, 1)
        elif p.family in INDEXED or p.name in _INDEXED_NAMES:
            kind = "indexed"
        else:
            kind = "reduction" if p.name in REDUCTIONS else "opaque"
            below += 1
            total = 1
        kinds.append(kind)
        for v in eqn.outputs:
            uses[v] = 0
            depth[v] = below
            cost[v] = total
    sites: dict[Var, set[Any]] = {}
    for a in program.outputs:
        if type(a) is Var:
            uses[a] += 1
            sites.setdefault(a, set()).add((depth.get(a, 0), a.type.shape))
    outputs = set(sites)
    dead_yet: set[Var] = set(outputs)
    result.last_uses = [[] for _ in program.equations]
    for k in range(len(program.equations) - 1, -1, -1):
        eqn, kind = program.equations[k], kinds[k]
        onward: set[Any] = set()
        if kind == "elementwise":
            for v in eqn.outputs:
                found = sites.get(v)
                if not found:
                    continue
                if v in outputs:
                    onward.add((depth[v], v.type.shape))
                elif len(found) > 1 and cost[v] > CHEAP:
                    result.shared.add(v)
                    onward.add((depth[v], v.type.shape))
                else:
                    onward |= found
        elif kind == "indexed":
            v = eqn.outputs[0]
            if len(sites.get(v, ())) > 1 and v not in outputs:
                result.shared.add(v)
            onward.add(k)
        elif kind == "reduction":
            for a in eqn.inputs:
                if type(a) is Var:
                    onward.add((depth.get(a, 0), a.type.shape))
        else:
            onward.add(k)
            result.stored.update([a for a in eqn.inputs if type(a) is Var and uses[a] > 1])
        for a in eqn.inputs:
            if type(a) is Var:
                sites.setdefault(a, set()).update(onward)
                if a not in dead_yet:
                    dead_yet.add(a)
                    result.last_uses[k].append(a)
                    _note_update(result, eqn, a)
        for v in eqn.outputs:
            if v not in dead_yet:
                result.last_uses[k].append(v)
    for eqn, kind in zip(program.equations, kinds):
        if kind == "elementwise" or kind == "indexed":
            for v in eqn.outputs:
                if len(sites.get(v, ())) > 1 and v not in outputs:
                    result.shared.add(v)
    return result


def _note_update(result: Plan, eqn: Any, a: Var) -> None:
    """Record that an output can take over the memory of an operand that dies with the equation."""
    name = eqn.primitive.name
    if name in ("dynamic_update_slice", "scatter"):
        if eqn.inputs[0] is a and a.type.shape == eqn.outputs[0].type.shape:
            result.updated[eqn.outputs[0]] = a
    elif name == "reshape":
        result.updated[eqn.outputs[0]] = a
    elif name in ("scan", "tape_scan"):
        first = eqn.params["num_consts"] + (name == "tape_scan")
        for out, operand in zip(eqn.outputs, eqn.inputs[first : first + eqn.params["num_carry"]]):
            if operand is a:
                result.updated[out] = a
    elif name in ("while", "record_while"):
        first = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        for out, operand in zip(eqn.outputs, eqn.inputs[first:]):
            if operand is a:
                result.updated[out] = a


__all__ = ["CHEAP", "COSTS", "Plan", "analyse"]
