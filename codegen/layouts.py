"""A pass before lowering: what is computed of a transposed array is computed of the array as it lies in memory.

A transposition costs nothing by itself, it is a way of reading. But a loop that walks its result in order then walks the memory across,
and a large array read with a stride as long as a row costs a cache line an element. So elementwise operations, reductions and products of
a transposed array are done to the array itself, and the transposition moves behind them, where it often meets its inverse or has
nothing left to permute. Other operands come along where that is free: broadcasts are made in the other order of axes.
"""

from __future__ import annotations

from math import prod

from tracegrad.ir.contractions import dot_general_p
from tracegrad.ir.evaluate import rename, substitute
from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.structural import broadcast_in_dim_p, transpose_p
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.regions import map_regions

SMALLEST = 256
"""Elements of a transposed array: smaller ones are in the first cache, or in registers."""
CHEAPER = 4
"""An operand is transposed before it is broadcast if the result has so many times its elements."""

_REDUCTIONS = frozenset("reduce_sum reduce_prod reduce_max reduce_min reduce_and reduce_or reduce_xor".split())
_ELEMENTWISE = frozenset(("elementwise", "special"))

Permutation = tuple[int, ...]


def transpose_late(program: Program) -> Program:
    """Move transpositions of large arrays behind what is computed of them."""
    if not any(e.primitive in (transpose_p, dot_general_p) or e.primitive.regions for e in program.equations):
        return program
    return _Mover(program).run()


class _Mover:
    """One walk over a program.

    lies: for a variable that is a transposition, what lies in memory and how: axis i of the variable is axis perm[i] of that.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.lies: dict[Var, tuple[Var, Permutation]] = {}
        self.made: dict[Var, Equation] = {}
        self.same: dict[Var, Atom] = {}  # transpositions that came to nothing
        self.equations: list[Equation] = []
        self.moved = False
        self.only_products = _read_by_products(program)

    def run(self) -> Program:
        changed = False
        for eqn in self.program.equations:
            new = map_regions(eqn, transpose_late)
            changed = changed or new is not eqn
            if self.same:
                new = new.replace(inputs=substitute(new, self.same))
            self.visit(new)
        if not (self.moved or changed):
            return self.program
        return remove_dead_code(self.program.replace(equations=self.equations, outputs=rename(self.program.outputs, self.same)))

    def add(self, eqn: Equation) -> None:
        self.equations.append(eqn)
        for v in eqn.outputs:
            self.made[v] = eqn

    def visit(self, eqn: Equation) -> None:
        primitive = eqn.primitive
        x = eqn.inputs[0] if eqn.inputs else None
        if primitive is transpose_p and isinstance(x, Var) and x.type.size >= SMALLEST:
            perm = eqn.params["permutation"]
            base, inner = self.lies.get(x, (x, tuple(range(len(perm)))))
            self.define(eqn, base, tuple([inner[p] for p in perm]))
            return
        if primitive is dot_general_p:
            self.product(eqn)
            return
        if any(isinstance(a, Var) and a in self.lies for a in eqn.inputs):
            if primitive.family in _ELEMENTWISE and len({v.type.shape for v in eqn.outputs}) == 1:
                if self.elementwise(eqn):
                    return
            elif primitive.name in _REDUCTIONS:
                self.reduction(eqn)
                return
        self.add(eqn)

    def define(self, eqn: Equation, base: Var, perm: Permutation, k: int = 0) -> None:
        """Let output k be a transposition of `base`; who cannot do with the base reads the transposition."""
        out = eqn.outputs[k]
        if perm == tuple(range(len(perm))):
            self.same[out] = base
            self.moved = True
            return
        self.lies[out] = base, perm
        self.add(Equation(transpose_p, (base,), (out,), {"permutation": perm}, eqn.source))

    def fresh(self, like: Var, perm: Permutation) -> Var:
        """A variable for what is `like` after a transposition by `perm`."""
        shape = [0] * len(perm)
        for i, p in enumerate(perm):
            shape[p] = like.type.shape[i]
        return Var(like.type.update(shape=tuple(shape)))

    # ------------------------------------------------------------------------------------------------------------- equations

    def elementwise(self, eqn: Equation) -> bool:
        """Do it to what its operands are transpositions of, unless they are of different ones."""
        shape = eqn.outputs[0].type.shape
        perms = [self.lies[a][1] for a in eqn.inputs if isinstance(a, Var) and a in self.lies and a.type.shape == shape]
        if not perms or any(p != perms[0] for p in perms):
            return False
        perm = perms[0]
        plans: list[Equation] = []
        inputs: list[Atom] = []
        for a in eqn.inputs:
            if not isinstance(a, Var) or a.type.shape != shape:
                inputs.append(a)
            elif a in self.lies:
                inputs.append(self.lies[a][0])
            else:
                source = self.made.get(a)
                if source is None or source.primitive is not broadcast_in_dim_p:
                    return False
                repeated = self.broadcast(source, perm, plans)
                if repeated is None:
                    return False
                inputs.append(repeated)
        for plan in plans:
            self.add(plan)
        outputs = [self.fresh(v, perm) for v in eqn.outputs]
        self.add(eqn.replace(inputs=inputs, outputs=outputs))
        for k, v in enumerate(outputs):
            self.define(eqn, v, perm, k)
        self.moved = True
        return True

    def broadcast(self, eqn: Equation, perm: Permutation, plans: list[Equation]) -> Var | None:
        """The result of a broadcast with its axes in another order: axis i of it is axis perm[i] of the new one."""
        x, out = eqn.inputs[0], eqn.outputs[0]
        places = [perm[d] for d in eqn.params["broadcast_dimensions"]]
        order = tuple(sorted(range(len(places)), key=lambda j: places[j]))
        if order != tuple(range(len(order))):
            assert isinstance(x, Var)
            base, inner = self.lies.get(x, (x, tuple(range(len(order)))))
            order = tuple([inner[j] for j in order])
            x = base
            if order != tuple(range(len(order))):
                if base.type.size * CHEAPER > out.type.size:
                    return None
                x = Var(base.type.update(shape=tuple([base.type.shape[j] for j in order])))
                plans.append(Equation(transpose_p, (base,), (x,), {"permutation": order}, eqn.source))
        result = self.fresh(out, perm)
        params = {"shape": result.type.shape, "broadcast_dimensions": tuple(sorted(places))}
        plans.append(Equation(broadcast_in_dim_p, (x,), (result,), params, eqn.source))
        return result

    def reduction(self, eqn: Equation) -> None:
        (x,), (out,) = eqn.inputs, eqn.outputs
        assert isinstance(x, Var)
        base, perm = self.lies[x]
        axes = eqn.params["axes"]
        reduced = tuple(sorted(perm[a] for a in axes))
        kept = [d for d in range(len(perm)) if d not in reduced]
        order = tuple([kept.index(perm[i]) for i in range(len(perm)) if i not in axes])
        self.finish(eqn, eqn.replace(inputs=(base,), params={**eqn.params, "axes": reduced}), out, order)

    def product(self, eqn: Equation) -> None:
        """Axes of operands go by other names; those that neither belong to a batch nor are summed come in another order."""
        contracting, batch = (list(map(list, dims)) for dims in eqn.params["dimension_numbers"])
        operands: list[Atom] = []
        order: list[int] = list(range(len(batch[0])))
        for k, a in enumerate(eqn.inputs):
            free = [d for d in range(len(a.type.shape)) if d not in contracting[k] and d not in batch[k]]
            if isinstance(a, Var) and a not in self.lies:
                self.relay(a, contracting[k], batch[k], free)
            if isinstance(a, Var) and a in self.lies:
                a, perm = self.lies[a]
                contracting[k] = [perm[d] for d in contracting[k]]
                batch[k] = [perm[d] for d in batch[k]]
                free = [perm[d] for d in free]
            operands.append(a)
            first, ranks = len(order), sorted(free)
            order += [first + ranks.index(d) for d in free]
        numbers = tuple(tuple(map(tuple, dims)) for dims in (contracting, batch))
        self.finish(
            eqn, eqn.replace(inputs=operands, params={**eqn.params, "dimension_numbers": numbers}), eqn.outputs[0], tuple(order)
        )

    def relay(self, a: Var, contracting: list[int], batch: list[int], free: list[int]) -> None:
        """An operand that is put together from broadcasts for products alone is made batch by batch, the longer axes innermost."""
        if not batch or batch == list(range(len(batch))) or a.type.size < SMALLEST or not self.only_products.get(a, False):
            return
        lengths = [prod([a.type.shape[d] for d in dims]) for dims in (contracting, free)]
        order = [*batch, *contracting, *free] if lengths[0] <= lengths[1] else [*batch, *free, *contracting]
        perm = tuple([order.index(d) for d in range(len(order))])
        plans: list[Equation] = []
        made = self.composed(a, perm, plans)
        if made is not None:
            for plan in plans:
                self.add(plan)
            self.lies[a] = made, perm
            self.moved = True

    def composed(self, a: Var, perm: Permutation, plans: list[Equation]) -> Var | None:
        """What `a` is a transposition of by `perm`, put together from broadcasts."""
        source = self.made.get(a)
        if source is None or a.type.shape != source.outputs[0].type.shape:
            return None
        if source.primitive is broadcast_in_dim_p:
            return self.broadcast(source, perm, plans)
        if source.primitive.family not in _ELEMENTWISE or len(source.outputs) != 1:
            return None
        inputs: list[Atom] = []
        for x in source.inputs:
            if isinstance(x, Var) and x.type.shape == a.type.shape:
                made = self.composed(x, perm, plans)
                if made is None:
                    return None
                x = made
            inputs.append(x)
        out = self.fresh(a, perm)
        plans.append(source.replace(inputs=inputs, outputs=(out,)))
        return out

    def finish(self, old: Equation, new: Equation, out: Var, order: Permutation) -> None:
        """The new equation gives the old one's result, or something of which it is a transposition."""
        self.moved = self.moved or new.inputs != old.inputs
        if order == tuple(range(len(order))):
            self.add(new)
            return
        base = self.fresh(out, order)
        self.add(new.replace(outputs=(base,)))
        self.define(old, base, order)


def _read_by_products(program: Program) -> dict[Var, bool]:
    """Whether each variable that is read is read by products alone."""
    found: dict[Var, bool] = {}
    for e in program.equations:
        for a in e.inputs:
            if isinstance(a, Var):
                found[a] = found.get(a, True) and e.primitive is dot_general_p
    found.update((a, False) for a in program.outputs if isinstance(a, Var))
    return found


__all__ = ["transpose_late"]
