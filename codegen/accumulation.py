"""A pass before lowering: sums with arrays that are zero but for a window become updates of that window.

The transpose of a slice at a position that is data is an array of zeros with the slice put in, which is then added to what the other
uses of the array have contributed. In a loop that costs the size of the array in every step. `a + update(zeros, u)` is
`update(a, window of a + u)`, which costs the size of the window, since it can be done in place. (Only the sign of a zero may differ.)
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from tracegrad.ir.elementwise import add_p
from tracegrad.ir.indexing import dynamic_slice_p, dynamic_update_slice_p, scatter_p
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.regions import map_regions


def accumulate_in_windows(program: Program) -> Program:
    """Rewrite sums with updated zeros, reads of what was just written, and writes over it."""
    made: dict[Var, Equation] = {}
    uses = program.uses()
    env: dict[Var, Atom] = {}
    equations: list[Equation] = []
    changed = False

    def emit(eqn: Equation) -> None:
        equations.append(eqn)
        for v in eqn.outputs:
            made[v] = eqn

    for eqn in program.equations:
        new = map_regions(eqn, accumulate_in_windows)
        if env:
            inputs = tuple([env.get(a, a) if isinstance(a, Var) else a for a in new.inputs])
            if inputs != new.inputs:
                new = new.replace(inputs=inputs)
        changed = changed or new is not eqn
        name = new.primitive.name
        if name == "dynamic_slice":
            known = _just_written(new, made)
            if known is not None:
                env[new.outputs[0]] = known
                changed = True
                continue
        elif name == "dynamic_update_slice":
            source = made.get(new.inputs[0]) if isinstance(new.inputs[0], Var) else None
            if source is not None and source.primitive is dynamic_update_slice_p and _same_window(source, new.inputs[1:]):
                new = new.replace(inputs=(source.inputs[0], *new.inputs[1:]))
                changed = True
        elif name == "add":
            rewritten = _sum_with_window(new, made, uses)
            if rewritten is not None:
                for e in rewritten:
                    if e.primitive is dynamic_slice_p:
                        known = _just_written(e, made)
                        if known is not None:
                            env[e.outputs[0]] = known
                            continue
                    if env:
                        e = e.replace(inputs=tuple([env.get(a, a) if isinstance(a, Var) else a for a in e.inputs]))
                    if e.primitive is dynamic_update_slice_p:
                        source = made.get(e.inputs[0]) if isinstance(e.inputs[0], Var) else None
                        if (
                            source is not None
                            and source.primitive is dynamic_update_slice_p
                            and _same_window(source, e.inputs[1:])
                        ):
                            e = e.replace(inputs=(source.inputs[0], *e.inputs[1:]))
                    emit(e)
                changed = True
                continue
        emit(new)
    if not changed:
        return program
    outputs = [env.get(a, a) if isinstance(a, Var) else a for a in program.outputs]
    return remove_dead_code(program.replace(equations=equations, outputs=outputs))


def _equal(a: Atom, b: Atom) -> bool:
    return a is b or (isinstance(a, Literal) and isinstance(b, Literal) and a.key == b.key)


def _same_window(update: Equation, other: Any) -> bool:
    """Whether a dynamic_update_slice writes exactly the window of `other`: (something of the window's shape, starts...)."""
    return update.inputs[1].type.shape == other[0].type.shape and all(map(_equal, update.inputs[2:], other[1:]))


def _just_written(eqn: Equation, made: dict[Var, Equation]) -> Atom | None:
    """The update, when a slice reads back a window that was written as a whole."""
    source = made.get(eqn.inputs[0]) if isinstance(eqn.inputs[0], Var) else None
    if source is None or source.primitive is not dynamic_update_slice_p:
        return None
    update = source.inputs[1]
    if update.type.shape == eqn.params["slice_sizes"] and all(map(_equal, source.inputs[2:], eqn.inputs[1:])):
        return update
    return None


def _is_zeros(atom: Atom, made: dict[Var, Equation]) -> bool:
    if isinstance(atom, Literal):
        return bool(np.asarray(atom.value) == 0)
    source = made.get(atom)
    return source is not None and source.primitive.name == "broadcast_in_dim" and _is_zeros(source.inputs[0], made)


def _sum_with_window(eqn: Equation, made: dict[Var, Equation], uses: Counter[Var]) -> list[Equation] | None:
    """`a + update(zeros, u)` as an update of `a`."""
    for a, b in (eqn.inputs, eqn.inputs[::-1]):
        if not isinstance(b, Var) or uses[b] != 1 or a.type.shape != b.type.shape or not isinstance(a, Var):
            continue
        update = made.get(b)
        if update is None or not update.inputs or not _is_zeros(update.inputs[0], made):
            continue
        if update.primitive is dynamic_update_slice_p:
            if 2 * update.inputs[1].type.size > a.type.size:
                continue
            window = update.inputs[1]
            old = Var(window.type)
            total = Var(window.type)
            sizes = window.type.shape
            return [
                Equation(dynamic_slice_p, (a, *update.inputs[2:]), (old,), {"slice_sizes": sizes}, eqn.source),
                Equation(add_p, (old, window), (total,), {}, eqn.source),
                Equation(dynamic_update_slice_p, (a, total, *update.inputs[2:]), eqn.outputs, {}, eqn.source),
            ]
        if update.primitive is scatter_p and update.params["kind"] == "add" and update.inputs[2].type.size < a.type.size:
            return [Equation(scatter_p, (a, *update.inputs[1:]), eqn.outputs, update.params, eqn.source)]
    return None


__all__ = ["accumulate_in_windows"]
