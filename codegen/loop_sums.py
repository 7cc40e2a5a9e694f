"""A pass before lowering: sums of products that a scan carries are computed after the loop, as one product each.

The gradient of a recurrent computation adds an outer product to an array of weights in every step. What is multiplied is much
smaller than the sum; so the loop stacks it (often it is an array scanned over, and stacked already), and one matrix product over the
time axis, by BLAS, replaces all the updates. The derivative of a gradient adds several products in a step.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tracegrad.ir.contractions import dot_general_p
from tracegrad.ir.elementwise import add_p
from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.regions import map_regions

SHORTEST = 4
"""Shorter scans stay as they are."""


def sum_products_after_loops(program: Program) -> Program:
    """Replace `carry = carry + dot_general(a, b) + ...` in scans by products of the stacked operands."""
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
    uses, made = body.uses(), body.definitions()
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

    def worthwhile(product: Equation, carry: Var) -> bool:
        """Whether to stack the factors of a product: they change from step to step, and those not stacked yet are smaller than it."""
        factors = product.inputs
        if any(a in consts or a is carry for a in factors):
            return False
        new = {a: a.type.size for a in factors if a not in scanned and a not in stacked}
        return sum(new.values()) < product.outputs[0].type.size

    for k in [*range(nk), *range(nk)]:  # twice: what one sum stacks, another reads for nothing
        carry, out = body.inputs[nc + k], body.outputs[k]
        found = [] if k in removed else _products_added(carry, out, uses, made)
        if not found or not all([worthwhile(e, carry) for e in found]):
            continue
        pairs = [(stack(e.inputs[0]), stack(e.inputs[1])) for e in found]
        if any(left is None or right is None for left, right in pairs):
            continue
        total: Atom = eqn.inputs[nc + k]
        for i, (e, (left, right)) in enumerate(zip(found, pairs)):
            (lc, rc), (lb, rb) = e.params["dimension_numbers"]
            lc, rc, lb, rb = ([d + 1 for d in dims] for dims in (lc, rc, lb, rb))  # behind the axis of time
            numbers = (((0, *lc), (0, *rc)), (tuple(lb), tuple(rb)))
            product = Var(e.outputs[0].type)
            operands: tuple[Any, ...] = (left, right)
            after.append(Equation(dot_general_p, operands, (product,), {**e.params, "dimension_numbers": numbers}, eqn.source))
            result = eqn.outputs[k] if i == len(found) - 1 else Var(eqn.outputs[k].type)
            after.append(Equation(add_p, (total, product), (result,), {}, eqn.source))
            total = result
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


def _products_added(carry: Var, out: Atom, uses: Counter[Var], made: dict[Var, Equation]) -> list[Equation]:
    """The products in `out = carry + product + ...`, in any order, if nothing else reads any of these; else none."""
    if not isinstance(out, Var) or uses[carry] != 1:
        return []
    products: list[Equation] = []
    waiting = [out]
    found_carry = False
    while waiting:
        x = waiting.pop()
        if x is carry:
            found_carry = True
            continue
        e = made.get(x)
        if e is None or uses[x] != 1 or x.type.shape != carry.type.shape:
            return []
        if e.primitive is add_p and all(isinstance(a, Var) for a in e.inputs):
            waiting += [a for a in reversed(e.inputs) if isinstance(a, Var)]
        elif e.primitive is dot_general_p and x.type.dtype.itemsize >= 4:
            products.append(e)
        else:
            return []
    return products if found_carry else []


__all__ = ["sum_products_after_loops"]
