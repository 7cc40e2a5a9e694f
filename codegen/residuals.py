"""A pass before lowering: what a loop stacks for another one is computed again there when that is cheaper than memory.

The forward loop of a gradient stacks residuals for the backward loop, or writes tapes, if its length is not known. Many are a broadcast, a negation or a product with a constant
of something that is stacked anyway, is scanned over itself, or is smaller. The backward loop computes these in a register or two,
while memory would have to be written, kept until then, and read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracegrad.codegen.plan import COSTS
from tracegrad.ir.control_flow import scan_p
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.tapes import record_while_p, tape_scan_p
from tracegrad.ir.types import ArrayType, tape_dtype
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.regions import map_regions

MOST_STEPS = 6
"""A residual is computed again by at most so many equations."""
WORTH = 0.7
"""What is stacked instead takes at most this part of the memory."""
_LOOPS = frozenset({scan_p, record_while_p, tape_scan_p})
_MOVES = frozenset("broadcast_in_dim reshape transpose rev convert_element_type".split())
_NOT_CHEAP = frozenset("select_and_gather_add nextafter population_count clz reduce_precision".split())


@dataclass(eq=False)
class _Scan:
    """A loop taken apart: pairs of (operand, variable of the body), equations of the body, pairs of (result, atom of the body).

    length: the number of steps, or for loops over tapes the atom that is the number of steps; first: the operands before the constants;
    middle: the results between the carry and what is stacked.
    """

    eqn: Equation
    length: Any
    first: Sequence[Atom]
    middle: Sequence[Var]
    consts: list[tuple[Atom, Var]]
    carry: list[tuple[Atom, Var]]
    xs: list[tuple[Atom, Var]]
    equations: list[Equation]
    carried: list[tuple[Var, Atom]]
    ys: list[tuple[Var, Atom]]
    changed: bool = False

    def operand(self, outer: Atom, t: ArrayType, scanned: bool) -> Var:
        """The variable of the body for an array scanned over, or a constant one; the operand is added if it is not there."""
        group = self.xs if scanned else self.consts
        for a, v in group:
            if a is outer:
                return v
        made = Var(t)
        group.append((outer, made))
        return made

    def stacked(self, t: ArrayType) -> ArrayType:
        """The type of the values of all steps, of which each has the type `t`."""
        if self.eqn.primitive is scan_p:
            return ArrayType((self.length, *t.shape), t.dtype, t.weak)
        return ArrayType((), tape_dtype(t))

    def rebuilt(self) -> Equation:
        if not self.changed:
            return self.eqn
        p = self.eqn.params
        groups = (self.consts, self.carry, self.xs)
        body = Program(
            [v for g in groups for _, v in g],
            p["body"].constants,
            self.equations,
            [*[a for _, a in self.carried], *[a for _, a in self.ys]],
            p["body"].name,
        )
        number = "body_nconsts" if self.eqn.primitive is record_while_p else "num_consts"
        return Equation(
            self.eqn.primitive,
            [*self.first, *[a for g in groups for a, _ in g]],
            [*[v for v, _ in self.carried], *self.middle, *[v for v, _ in self.ys]],
            {**p, "body": remove_dead_code(body), number: len(self.consts)},
            self.eqn.source,
        )


def _taken_apart(eqn: Equation) -> _Scan:
    p = eqn.params
    body: Program = p["body"]
    length: Any
    if eqn.primitive is record_while_p:
        f, nc, m = p["cond_nconsts"], p["body_nconsts"], 1
        nk = len(eqn.inputs) - f - nc
        length = eqn.outputs[nk]
    else:
        f, nc, m, nk = int(eqn.primitive is tape_scan_p), p["num_consts"], 0, p["num_carry"]
        length = eqn.inputs[0] if f else p["length"]
    pairs = list(zip(eqn.inputs[f:], body.inputs))
    carried, ys = list(zip(eqn.outputs, body.outputs[:nk])), list(zip(eqn.outputs[nk + m :], body.outputs[nk:]))
    groups = pairs[:nc], pairs[nc : nc + nk], pairs[nc + nk :]
    return _Scan(eqn, length, eqn.inputs[:f], eqn.outputs[nk : nk + m], *groups, list(body.equations), carried, ys)


def recompute_residuals(program: Program) -> Program:
    """Replace stacked values that are cheap functions of others by the others, with the function in the loop that reads them."""
    if not any(e.primitive.regions for e in program.equations):
        return program
    equations = [map_regions(e, recompute_residuals) for e in program.equations]
    changed = any(a is not b for a, b in zip(equations, program.equations))
    scans = {k: _taken_apart(e) for k, e in enumerate(equations) if e.primitive in _LOOPS}
    if len(scans) > 1:
        readers: dict[Var, list[Any]] = {}
        for k, e in enumerate(equations):
            for a in e.inputs:
                if isinstance(a, Var):
                    readers.setdefault(a, []).append(scans.get(k, e))
        for a in program.outputs:
            if isinstance(a, Var):
                readers.setdefault(a, []).append(None)
        for scan in scans.values():
            changed = _thin_out(scan, readers) or changed
    if not changed:
        return program
    equations = [scans[k].rebuilt() if k in scans else e for k, e in enumerate(equations)]
    return remove_dead_code(program.replace(equations=equations))


def _thin_out(scan: _Scan, readers: dict[Var, list[Any]]) -> bool:
    """Stack less: per group of values that are computed from the same others, the others, if they are smaller together."""
    made = {v: e for e in scan.equations for v in e.outputs}
    known: dict[Any, tuple[Atom, bool]] = {v: (a, False) for a, v in scan.consts} | {v: (a, True) for a, v in scan.xs}
    recipes: dict[Var, _Recipe] = {}
    for stacked, inner in scan.ys:
        targets = readers.get(stacked, [])
        if targets and all(t is not scan and _scans_over(t, stacked, scan.length) for t in targets):
            recipes[stacked] = _recipe(inner, made, known)
    stays = {a: v for v, a in reversed(scan.ys) if v not in recipes and isinstance(a, Var)}
    changed = False
    for group in _groups(recipes):
        needed = {a: a.type.nbytes for v in group for a in recipes[v].leaves if a not in known and a not in stays}
        if sum(needed.values()) > WORTH * sum(a.type.nbytes for v, a in scan.ys if v in group):
            continue
        arrays: dict[Any, tuple[Atom, bool]] = dict(known) | {a: (v, True) for a, v in stays.items()}
        for a in needed:
            new = Var(scan.stacked(a.type))
            scan.ys.append((new, a))
            arrays[a] = (new, True)
        gone = set(group)
        inner_of = {v: a for v, a in scan.ys if v in gone}
        scan.ys = [(v, a) for v, a in scan.ys if v not in gone]
        for target in {id(t): t for v in group for t in readers[v]}.values():
            for outer in _compute_there(target, {v: recipes[v] for v in group}, inner_of, arrays):
                if isinstance(outer, Var) and not any(t is target for t in readers.setdefault(outer, [])):
                    readers[outer].append(target)
        for v in group:
            readers[v] = []
        scan.changed = changed = True
    return changed


@dataclass(eq=False)
class _Recipe:
    """The cheap equations, in order, that compute a value of a body, and what they start from."""

    equations: list[Equation]
    leaves: list[Var]


def _recipe(inner: Atom, made: dict[Var, Equation], known: dict[Any, Any]) -> _Recipe:
    equations: list[Equation] = []
    leaves: list[Var] = []
    done: set[Any] = set()

    def visit(a: Atom) -> None:
        if isinstance(a, Literal) or a in done:
            return
        done.add(a)
        e = made.get(a)
        if a in known or e is None or not _is_cheap(e) or len(equations) >= MOST_STEPS:
            leaves.append(a)
            return
        for operand in e.inputs:
            visit(operand)
        equations.append(e)

    visit(inner)
    return _Recipe(equations, leaves)


def _is_cheap(e: Equation) -> bool:
    name = e.primitive.name
    if len(e.outputs) != 1 or e.primitive.regions or e.has_effects:
        return False
    return name in _MOVES or (e.primitive.family == "elementwise" and COSTS.get(name, 1) <= 2 and name not in _NOT_CHEAP)


def _groups(recipes: dict[Var, _Recipe]) -> list[list[Var]]:
    """The stacked values, grouped by common leaves."""
    group_of: dict[Any, list[Var]] = {}
    for v, recipe in recipes.items():
        merged = [v]
        for g in {id(group_of[a]): group_of[a] for a in recipe.leaves if a in group_of}.values():
            merged.extend(g)
        for u in merged:
            for a in recipes[u].leaves:
                group_of[a] = merged
    seen: dict[int, list[Var]] = {}
    for v, recipe in recipes.items():
        found = group_of[recipe.leaves[0]] if recipe.leaves else [v]
        seen.setdefault(id(found), found)
    return list(seen.values())


def _scans_over(reader: Any, stacked: Var, length: Any) -> bool:
    """Whether a reader is a scan that reads the array slice by slice, and in no other way."""
    return (
        isinstance(reader, _Scan)
        and (reader.length is length or isinstance(length, int) and reader.length == length)
        and any(a is stacked for a, _ in reader.xs)
        and not any(a is stacked for a, _ in (*reader.consts, *reader.carry))
    )


def _compute_there(target: _Scan, recipes: dict[Var, _Recipe], inner_of: dict[Var, Atom], arrays: dict[Any, Any]) -> list[Atom]:
    """Replace slices of stacked arrays in a scan by the equations that compute them; the operands that these read."""
    read: list[Atom] = []
    places = [(a, v) for a, v in target.xs if a in recipes]
    target.xs = [(a, v) for a, v in target.xs if a not in recipes]
    env: dict[Any, Atom] = {}
    first: list[Equation] = []
    slices: dict[Var, Atom] = {}

    def copied(a: Atom) -> Atom:
        return env.get(a, a)

    for stacked, v in places:
        recipe = recipes[stacked]
        for leaf in recipe.leaves:
            if leaf not in env:
                outer, scanned = arrays[leaf]
                env[leaf] = target.operand(outer, leaf.type, scanned)
                read.append(outer)
        for e in recipe.equations:
            if e.outputs[0] not in env:
                made = Var(e.outputs[0].type)
                first.append(Equation(e.primitive, [copied(a) for a in e.inputs], (made,), e.params, e.source))
                env[e.outputs[0]] = made
        slices[v] = copied(inner_of[stacked])

    def there(a: Atom) -> Atom:
        return slices.get(a, a) if isinstance(a, Var) else a

    target.equations = first + [q.replace(inputs=[there(a) for a in q.inputs]) for q in target.equations]
    target.carried = [(v, there(a)) for v, a in target.carried]
    target.ys = [(v, there(a)) for v, a in target.ys]
    target.changed = True
    return read


__all__ = ["recompute_residuals"]
