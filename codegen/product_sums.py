"""A pass before lowering: a sum over a product is the product of a sum.

The transpose of a broadcast is a sum, and where what was broadcast went into a matrix product, that sum follows the transposed product:
every row is multiplied by a matrix and then the rows are added up. Adding them up first leaves one row to multiply. Sums over axes of one
operand go to that operand; sums over the batch are contracted with the rest.
"""

from __future__ import annotations

from collections import Counter

from tracegrad.ir.contractions import dot_general_p
from tracegrad.ir.elementwise import mul_p, neg_p
from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.reductions import reduce_sum_p
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.regions import map_regions


def sum_before_products(program: Program) -> Program:
    """Replace `reduce_sum(dot_general(a, b))` by a product of sums, through negations and multiples, where nothing else reads them."""
    names = {e.primitive.name for e in program.equations}
    if not (names >= {"reduce_sum", "dot_general"} or any(e.primitive.regions for e in program.equations)):
        return program
    uses = program.uses()
    made: dict[Var, Equation] = {}
    equations: list[Equation] = []
    changed = False
    for eqn in program.equations:
        new = map_regions(eqn, sum_before_products)
        summed = _summed(new, uses, made) if new.primitive is reduce_sum_p else None
        changed = changed or new is not eqn or summed is not None
        for e in [new] if summed is None else summed:
            equations.append(e)
            made.update((v, e) for v in e.outputs)
    return remove_dead_code(program.replace(equations=equations)) if changed else program


def _summed(eqn: Equation, uses: Counter[Var], made: dict[Var, Equation]) -> list[Equation] | None:
    """The equations that give the sum, if it is one of a product."""
    linear: list[Equation] = []
    a = eqn.inputs[0]
    while True:
        if not isinstance(a, Var) or uses[a] != 1 or a not in made:
            return None
        source = made[a]
        if source.primitive is dot_general_p:
            break
        if source.primitive is not neg_p and not (source.primitive is mul_p and any(x.type.shape == () for x in source.inputs)):
            return None
        linear.append(source)
        a = next(x for x in source.inputs if x.type.shape == a.type.shape)
    t = source.outputs[0].type
    if t.dtype.kind not in "fc" or t.dtype.itemsize < 4 or any(x.type.dtype != t.dtype for x in source.inputs):
        return None
    result = _product_of_sums(source, frozenset(eqn.params["axes"]))
    last = result[-1].outputs[0]
    for step in reversed(linear):
        out = Var(eqn.outputs[0].type)
        result.append(step.replace(inputs=[last if x.type.shape == t.shape else x for x in step.inputs], outputs=(out,)))
        last = out
    result[-1] = result[-1].replace(outputs=eqn.outputs)
    return result


def _product_of_sums(eqn: Equation, axes: frozenset[int]) -> list[Equation]:
    """The sum over these axes of a product's result: sums of its operands, then a product."""
    contracting, batch = eqn.params["dimension_numbers"]
    count = len(batch[0])
    kept = [i for i in range(count) if i not in axes]
    summed = [i for i in range(count) if i in axes]
    equations: list[Equation] = []
    operands: list[Atom] = []
    numbers: list[tuple[list[int], list[int]]] = []
    place = count
    for k, a in enumerate(eqn.inputs):
        free = [d for d in range(len(a.type.shape)) if d not in contracting[k] and d not in batch[k]]
        gone = tuple([d for i, d in enumerate(free) if place + i in axes])
        place += len(free)
        left = [d for d in range(len(a.type.shape)) if d not in gone]
        if gone:
            total = Var(a.type.update(shape=tuple([a.type.shape[d] for d in left])))
            equations.append(Equation(reduce_sum_p, (a,), (total,), {"axes": gone}, eqn.source))
            a = total
        operands.append(a)
        renamed = {d: i for i, d in enumerate(left)}
        numbers.append(
            ([renamed[d] for d in (*contracting[k], *[batch[k][i] for i in summed])], [renamed[batch[k][i]] for i in kept])
        )
    dimensions = tuple(tuple([tuple(n[which]) for n in numbers]) for which in (0, 1))
    t = eqn.outputs[0].type
    out = Var(t.update(shape=tuple([n for i, n in enumerate(t.shape) if i not in axes])))
    equations.append(eqn.replace(inputs=operands, outputs=(out,), params={**eqn.params, "dimension_numbers": dimensions}))
    return equations


__all__ = ["sum_before_products"]
