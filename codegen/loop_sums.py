"""A pass before lowering: sums of products that a scan carries are computed after the loop, as one product.

The gradient of a recurrent computation adds an outer product to an array of weights in every step. What is multiplied is much
smaller than the sum; so the loop stacks it (often it is an array scanned over, and stacked already), and one matrix product over the
time axis, by BLAS, replaces all the updates.
"""

from __future__ import annotations

from tracegrad.ir.contractions import dot_general_p
from tracegrad.ir.elementwise import add_p
from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.regions import map_regions

SHORTEST = 4
"""Shorter scans stay as they are."""


def sum_products_after_loops(program: Program) -> Program:
    """Replace `carry = carry + dot_general(a, b)` in scans by a product of the stacked operands."""
    if not any(e.primitive.regions for e in program.equations):
        return program
    equations: list[Equation] = []
    changed = False
    for eqn in program.equations:
        new = map_regions(eqn, sum_products_after_loops)
        made = _after_loop(new) if new.primitive.name == "scan" and new.params["length"] >= SHORTEST else None
        changed = changed or made is not None or new is not eqn
        equations.extend([new] if made is None else made)
    return remove_dead_code(program.replace(equations=equations)) if changed else program


def _after_loop(eqn: Equation) -> list[Equation] | None:
    """The scan without such carries, followed by their products; None where there are none."""
    p = eqn.params
    body: Program = p["body"]
    nc, nk, length = p["num_consts"], p["num_carry"], p["length"]
    uses: dict[Var, int] = {}
    made: dict[Var, Equation] = {}
    for e in body.equations:
        for a in e.inputs:
            if isinstance(a, Var):
                uses[a] = uses.get(a, 0) + 1
        for v in e.outputs:
            made[v] = e
    for a in body.outputs:
        if isinstance(a, Var):
            uses[a] = uses.get(a, 0) + 1
    scanned = dict(zip(body.inputs[nc + nk :], eqn.inputs[nc + nk :]))
    stacked: dict[Var, Var] = {}  # variables of the body to their stacked arrays
    for a, v in zip(body.outputs[nk:], eqn.outputs[nk:]):
        if isinstance(a, Var):
            stacked.setdefault(a, v)
    fresh: list[Var] = []
    removed: list[int] = []
    after: list[Equation] = []

    def stack(a: Atom) -> Atom | None:
        if not isinstance(a, Var):
            return None
        if a in scanned:
            return scanned[a]
        if a not in stacked:
            stacked[a] = Var(ArrayType((length, *a.type.shape), a.type.dtype, a.type.weak))
            fresh.append(a)
        return stacked[a]

    consts = set(body.inputs[:nc]) | {c.var for c in body.constants}
    for k in range(nk):
        carry, out = body.inputs[nc + k], body.outputs[k]
        found = _product_added(carry, out, uses, made)
        if found is None:
            continue
        a, b = found.inputs
        if a in consts or b in consts or a is carry or b is carry:
            continue
        if a.type.size + b.type.size >= found.outputs[0].type.size:
            continue
        left, right = stack(a), stack(b)
        if left is None or right is None:
            continue
        (lc, rc), (lb, rb) = found.params["dimension_numbers"]
        lc, rc, lb, rb = ([d + 1 for d in dims] for dims in (lc, rc, lb, rb))  # behind the axis of time
        numbers = (((0, *lc), (0, *rc)), (tuple(lb), tuple(rb)))
        total = Var(found.outputs[0].type)
        after.append(Equation(dot_general_p, (left, right), (total,), {**found.params, "dimension_numbers": numbers}, eqn.source))
        after.append(Equation(add_p, (eqn.inputs[nc + k], total), (eqn.outputs[k],), {}, eqn.source))
        removed.append(k)
    if not removed:
        return None
    kept = [k for k in range(nk) if k not in removed]
    new_body = body.replace(
        inputs=[*body.inputs[:nc], *[body.inputs[nc + k] for k in kept], *body.inputs[nc + nk :]],
        outputs=[*[body.outputs[k] for k in kept], *body.outputs[nk:], *fresh],
        equations=_without([body.inputs[nc + k] for k in removed], body),
    )
    scan = eqn.replace(
        inputs=[*eqn.inputs[:nc], *[eqn.inputs[nc + k] for k in kept], *eqn.inputs[nc + nk :]],
        outputs=[*[eqn.outputs[k] for k in kept], *eqn.outputs[nk:], *[stacked[a] for a in fresh]],
        params={**p, "body": remove_dead_code(new_body), "num_carry": len(kept)},
    )
    return [scan, *after]


def _without(carries: list[Var], body: Program) -> list[Equation]:
    """The body's equations but for those that add to these carries."""
    gone = set(carries)
    return [e for e in body.equations if not any(a in gone for a in e.inputs)]


def _product_added(carry: Var, out: Atom, uses: dict[Var, int], made: dict[Var, Equation]) -> Equation | None:
    """The product in `out = carry + product`, if nothing else reads any of the three."""
    if not isinstance(out, Var) or uses.get(carry) != 1 or uses.get(out) != 1:
        return None
    total = made.get(out)
    if total is None or total.primitive is not add_p or carry not in total.inputs:
        return None
    term = total.inputs[1] if total.inputs[0] is carry else total.inputs[0]
    if not isinstance(term, Var) or term is carry or uses.get(term) != 1 or term.type.shape != carry.type.shape:
        return None
    product = made.get(term)
    if product is None or product.primitive is not dot_general_p or term.type.dtype.itemsize < 4:
        return None
    return product


__all__ = ["sum_products_after_loops"]
