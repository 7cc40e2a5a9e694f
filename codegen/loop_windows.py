"""A pass before lowering: a loop that adds pieces to windows of an array carries the pieces, and puts them together once, after it.

The gradient of parameters that a loop slices is a sum over all steps of arrays that are zero but for a slice: `carry + (pad(a) + pad(b))`.
Padding, reshaping and adding are linear, so the sum over the steps is `pad(sum of a) + pad(sum of b)`. The pieces have the shape of
what the body computes, and their sums share its nest, where a whole array would have to be walked in every step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracegrad.ir.control_flow import scan_p
from tracegrad.ir.elementwise import add_p
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.structural import broadcast_in_dim_p, pad_p, reshape_p, transpose_p
from tracegrad.ir.tapes import tape_scan_p
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.regions import map_regions

SHORTEST = 4
"""Shorter scans stay as they are."""
MOST_PIECES = 64


@dataclass(frozen=True)
class Piece:
    """A value of the body, and the linear equations that lead from it to the sum, the last first."""

    value: Var
    path: tuple[Equation, ...]

    @property
    def key(self) -> Any:
        """Pieces of one key go through the same operations into the same window."""
        return self.value.type, tuple([(e.primitive.name, tuple(e.params.items())) for e in self.path])


def sum_windows_after_loops(program: Program) -> Program:
    """Replace `carry = carry + pieces put into windows` in scans by sums of the pieces."""
    if not any(e.primitive.regions for e in program.equations):
        return program
    equations: list[Equation] = []
    changed = False
    for eqn in program.equations:
        new = map_regions(eqn, sum_windows_after_loops)
        loop = new.primitive is scan_p and new.params["length"] >= SHORTEST or new.primitive is tape_scan_p
        made = _after_loop(new) if loop else None
        changed = changed or made is not None or new is not eqn
        equations.extend([new] if made is None else made)
    return remove_dead_code(program.replace(equations=equations)) if changed else program


def _after_loop(eqn: Equation) -> list[Equation] | None:
    """The scan with pieces for such carries, followed by what puts them together; None where there are none."""
    p = eqn.params
    body: Program = p["body"]
    nc, nk = p["num_consts"], p["num_carry"]
    leading = int(eqn.primitive is tape_scan_p)  # its length comes before the other operands
    length, operands = eqn.inputs[:leading], eqn.inputs[leading:]
    uses, made = body.uses(), body.definitions()
    before: list[Equation] = []
    inside: list[Equation] = []
    after: list[Equation] = []
    split: dict[int, list[tuple[Var, Var, Var, Var]]] = {}  # carry: (first value, in the body, its next value, last value)
    for k in range(nk):
        pieces = _pieces(body.inputs[nc + k], body.outputs[k], uses, made)
        if pieces is None:
            continue
        groups: dict[Any, list[Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.key, []).append(piece)
        if sum(g[0].value.type.size for g in groups.values()) > body.inputs[nc + k].type.size:
            continue
        total: Atom = operands[nc + k]
        split[k] = []
        for number, group in enumerate(groups.values()):
            t = group[0].value.type.update(weak=False)
            first, carried, last = Var(t), Var(t), Var(t)
            zero = Literal(np.zeros((), t.dtype), t.update(shape=()))
            before.append(
                Equation(broadcast_in_dim_p, (zero,), (first,), {"shape": t.shape, "broadcast_dimensions": ()}, eqn.source)
            )
            sum_: Var = carried
            for piece in group:
                following = Var(t)
                inside.append(Equation(add_p, (sum_, piece.value), (following,), {}, piece.path[0].source))
                sum_ = following
            split[k].append((first, carried, sum_, last))
            whole: Var = last
            for step in reversed(group[0].path):
                out = Var(step.outputs[0].type.update(weak=False))
                after.append(step.replace(inputs=(whole, *step.inputs[1:]), outputs=(out,)))
                whole = out
            out = eqn.outputs[k] if number == len(groups) - 1 else Var(eqn.outputs[k].type)
            after.append(Equation(add_p, (total, whole), (out,), {}, eqn.source))
            total = out
    if not split:
        return None

    def parts(old: Any, which: int) -> list[Any]:
        """One of the values of every carry: the old one, or those of its pieces."""
        return [a for k in range(nk) for a in ([s[which] for s in split[k]] if k in split else [old[k]])]

    new_body = body.replace(
        inputs=[*body.inputs[:nc], *parts(body.inputs[nc:], 1), *body.inputs[nc + nk :]],
        equations=[*body.equations, *inside],
        outputs=[*parts(body.outputs, 2), *body.outputs[nk:]],
    )
    carries = parts(operands[nc:], 0)
    scan = eqn.replace(
        inputs=[*length, *operands[:nc], *carries, *operands[nc + nk :]],
        outputs=[*parts(eqn.outputs, 3), *eqn.outputs[nk:]],
        params={**p, "body": new_body, "num_carry": len(carries)},
    )
    # the old sums, which still read the carries that are gone, are dead
    return [*before, scan.replace(params={**scan.params, "body": remove_dead_code(new_body)}), *after]


def _pieces(carry: Var, out: Atom, uses: Counter[Var], made: dict[Var, Equation]) -> list[Piece] | None:
    """What is added to the carry, if nothing else is done with it and something is put into windows."""
    if uses[carry] != 1 or carry.type.dtype.kind not in "fciu":
        return None
    found: list[Piece] = []
    seen = 0

    def walk(a: Atom, path: tuple[Equation, ...]) -> bool:
        """Whether a term of the sum could be taken apart."""
        nonlocal seen
        if a is carry:
            seen += 1
            return not path
        if not isinstance(a, Var) or len(found) >= MOST_PIECES:
            return False
        source = made.get(a)
        if source is not None and uses[a] == 1:
            name = source.primitive
            if name is add_p and all(x.type.shape == a.type.shape for x in source.inputs):
                return all([walk(x, path) for x in source.inputs])
            if name in (reshape_p, transpose_p) or name is pad_p and _is_zero(source.inputs[1]):
                return walk(source.inputs[0], (*path, source))
        if not path:
            return False
        found.append(Piece(a, path))
        return True

    if not walk(out, ()) or seen != 1 or not all(any(e.primitive is pad_p for e in piece.path) for piece in found):
        return None
    return found


def _is_zero(a: Atom) -> bool:
    return isinstance(a, Literal) and bool(np.asarray(a.value) == 0)


__all__ = ["sum_windows_after_loops"]
