"""Dividing a computation by a checkpoint policy: what is saved, and what is computed again.

Of the forward part of a linearized program, the linear part reads some values. A value is saved if the policy allows it; otherwise the equation
that made it runs again, and what that reads is asked about in turn. Loops and branches are divided inside: a scan stacks what may
be saved of each step, and runs again from there; a cond gives out what may be saved of the branch that was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tracegrad.ir.calls import optimization_barrier_p
from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.control_flow import zeros_atom
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.duplicates import merge_common
from tracegrad.transforms.inline import open_calls
from tracegrad.transforms.residuals import kept_and_rebuilt
from tracegrad.transforms.staged import Split, renamed

_NOT_ALLOWED = 1 << 50
"""What it costs to keep a value that the policy does not let be saved."""

MaySave = Callable[[Equation], bool]


class Rematerialized(NamedTuple):
    """now: the outputs and then the saved values. later: (inputs that it needs, saved values, tangents) -> tangents of the outputs.

    needed: which inputs later needs.
    """

    now: Program
    later: Program
    needed: tuple[int, ...]


def rematerialize(split: Split, may_save: MaySave | None, barrier: Sequence[bool]) -> Rematerialized:
    """Divide a linearized program by a policy; None saves nothing.

    barrier: for each input of the known part, whether the recomputation reads it behind a barrier. It reads saved values behind one if any is.
    """
    known, linear, read = _all_that_is_known(split)
    if may_save is not None:
        known = open_calls(known)
    known = merge_common(known)
    read_atoms = known.outputs[split.num_outs :]
    wanted = [a for a in dict.fromkeys(read_atoms) if type(a) is Var]
    parts = _divide(known, wanted, may_save or (lambda eqn: False))
    saved, again = _without_cheap(known, parts, may_save)
    entered, equations = _behind_barrier(known, saved, again, barrier)
    names: dict[Var, Atom] = {}
    for var, atom in zip(read, read_atoms):
        names[var] = entered.get(atom, atom) if type(atom) is Var else atom
    rest = renamed(linear, names)
    equations = [*equations, *rest.equations]
    used = {a for eqn in equations for a in eqn.inputs} | set(rest.outputs)
    needed = tuple([i for i, v in enumerate(known.inputs) if v in used])
    later = Program(
        [*[known.inputs[i] for i in needed], *saved, *linear.inputs],
        [*linear.constants, *[c for c in known.constants if c.var in used]],
        equations,
        rest.outputs,
        known.name,
    )
    now = known.replace(equations=parts.now, outputs=[*known.outputs[: split.num_outs], *saved])
    return Rematerialized(remove_dead_code(now), remove_dead_code(later), needed)


def _all_that_is_known(split: Split) -> tuple[Program, Program, list[Var]]:
    """The split with everything that tangents have no part in on the known side.

    Returns (known: its outputs and then all that the linear part reads, the linear part without residuals among its inputs, its variables for
    what it reads).
    """
    known, rest, n = split.known, split.unknown, split.num_residuals
    residuals = [known.inputs[i] if where == "in" else known.outputs[i] for where, i in split.residuals]
    names: dict[Var, Atom] = dict(zip(rest.inputs, residuals))
    names.update([(c.var, c.var) for c in rest.constants])
    moved: list[Equation] = []
    linear: list[Equation] = []
    unknown = set(rest.inputs[n:])
    for eqn in rest.equations:
        if eqn.has_effects or any([a in unknown for a in eqn.inputs]):
            linear.append(eqn)
            unknown.update(eqn.outputs)
        else:
            names.update([(v, v) for v in eqn.outputs])
            moved.append(eqn.replace(inputs=[names.get(a, a) if type(a) is Var else a for a in eqn.inputs]))
    read = [v for v in dict.fromkeys([*[a for eqn in linear for a in eqn.inputs], *rest.outputs]) if v in names]
    whole = Program(
        known.inputs,
        [*known.constants, *rest.constants],
        [*known.equations, *moved],
        [*known.outputs[: split.num_outs], *[names[v] for v in read]],
        known.name,
    )
    return whole, Program(rest.inputs[n:], (), linear, rest.outputs, rest.name), read


class _Parts(NamedTuple):
    """now: the equations, some of which give out more. saved: the values to save. again: the equations that run again, in order."""

    now: list[Equation]
    saved: list[Var]
    again: list[Equation]


def _divide(program: Program, wanted: Iterable[Var], may_save: MaySave) -> _Parts:
    needed = set(wanted)
    now: list[Equation] = []
    saved: list[Var] = []
    again: list[Equation] = []
    for eqn in reversed(program.equations):
        used = [v in needed for v in eqn.outputs]
        if not any(used):
            now.append(eqn)
            continue
        inside = _INSIDE.get(eqn.primitive.name)
        if inside is not None:
            eqn, own, rerun = inside(eqn, used, may_save)
            saved += own
            if rerun is not None:
                again.append(rerun)
                needed.update([a for a in rerun.inputs if type(a) is Var])
        elif may_save(eqn):
            saved += [v for v, u in zip(eqn.outputs, used) if u]
        else:
            again.append(eqn)
            needed.update([a for a in eqn.inputs if type(a) is Var])
        now.append(eqn)
    return _Parts(now[::-1], saved[::-1], again[::-1])


def _without_cheap(known: Program, parts: _Parts, may_save: MaySave | None) -> tuple[list[Var], list[Equation]]:
    """What to save when values that a few cheap operations make of other saved ones are computed again instead; and all that runs again."""
    if may_save is None or not parts.saved:
        return parts.saved, parts.again
    made = {v: eqn for eqn in parts.now for v in eqn.outputs}
    allowed = set(parts.saved)
    running = {v for eqn in parts.again for v in eqn.outputs}
    read = {a for eqn in parts.again for a in eqn.inputs} | set(known.outputs)
    at_hand = running | {c.var for c in known.constants} | {v for v in known.inputs if v in read}

    def size(v: Var) -> int:
        if v in at_hand:
            return 0
        eqn = made.get(v)
        may_keep = eqn is None or v in allowed or (eqn.primitive.name not in _INSIDE and may_save(eqn))
        return max(v.type.nbytes, 1) if may_keep else _NOT_ALLOWED

    kept, rebuilt = kept_and_rebuilt(parts.saved, made, size)
    if not rebuilt:
        return parts.saved, parts.again
    order = {v: i for i, v in enumerate(made)}
    running.update([v for eqn in rebuilt for v in eqn.outputs])
    again = sorted(dict.fromkeys([*rebuilt, *parts.again]), key=lambda eqn: next(order[v] for v in eqn.outputs if v in order))
    return [v for v in made if v in kept and v not in running], again


def _behind_barrier(
    known: Program, saved: Sequence[Var], again: Sequence[Equation], barrier: Sequence[bool]
) -> tuple[dict[Any, Var], list[Equation]]:
    """The equations that run again, reading their operands behind a barrier, and the variables that stand for these there."""
    if not again or not any(barrier):
        return {}, list(again)
    read = {a for eqn in again for a in eqn.inputs}
    operands = [v for v, b in zip(known.inputs, barrier) if b and v in read] + [v for v in saved if v in read]
    if not operands:
        return {}, list(again)
    names = {v: Var(v.type, v.name) for v in operands}
    equations = [Equation(optimization_barrier_p, operands, list(names.values()), {})]
    for eqn in again:
        outputs = [Var(v.type, v.name) for v in eqn.outputs]
        equations.append(eqn.replace(inputs=[names.get(a, a) if type(a) is Var else a for a in eqn.inputs], outputs=outputs))
        names.update(zip(eqn.outputs, outputs))
    return names, equations


# Inside of loops and branches


def _inside_scan(eqn: Equation, used: Sequence[bool], may_save: MaySave) -> tuple[Equation, list[Var], Equation | None]:
    """(the scan, which also stacks what is saved of each step; the stacked values; the scan that makes the used results from them)."""
    params = eqn.params
    body: Program = params["body"]
    nc, nk = params["num_consts"], params["num_carry"]
    carries, slices = body.inputs[nc : nc + nk], body.inputs[nc + nk :]
    keep = list(used[:nk])
    while True:
        asked = [a for a, u in zip(body.outputs, [*keep, *used[nk:]]) if u and type(a) is Var]
        parts = _divide(body, asked, may_save)
        saved = set(parts.saved)
        read = {a for e in parts.again for a in e.inputs} | set(asked)
        grown = [k or v in read for k, v in zip(keep, carries)]
        if grown == keep:
            break
        keep = grown
    length = params["length"]
    # What is stacked anyway is saved under that name, and is no work for the second loop.
    stacked = {a: v for a, v in zip(body.outputs[nk:], eqn.outputs[nk:]) if a in saved}
    extra = [v for v in parts.saved if v not in stacked]
    stacked |= {v: Var(ArrayType((length, *v.type.shape), v.type.dtype, v.type.weak), v.name) for v in extra}
    now = eqn.replace(
        outputs=[*eqn.outputs, *[stacked[v] for v in extra]],
        params={**params, "body": body.replace(equations=parts.now, outputs=[*body.outputs, *extra])},
    )
    wanted = [u and not (k >= nk and body.outputs[k] in stacked) for k, u in enumerate([*keep, *used[nk:]])]
    names = {v: stacked[v] for v in parts.saved}
    if not any(wanted):
        return now, [names[v] for v in parts.saved], None
    again = remove_dead_code(
        Program(
            [*body.inputs[:nc], *[v for v, k in zip(carries, keep) if k], *slices, *parts.saved],
            body.constants,
            parts.again,
            [a for a, w in zip(body.outputs, wanted) if w],
            body.name,
        )
    )
    operands = [*eqn.inputs[:nc], *[a for a, k in zip(eqn.inputs[nc : nc + nk], keep) if k], *eqn.inputs[nc + nk :]]
    rerun = eqn.replace(
        inputs=[*operands, *[names[v] for v in parts.saved]],
        outputs=[v if u else Var(v.type, v.name) for v, w, u in zip(eqn.outputs, wanted, used) if w],
        params={**params, "body": again, "num_carry": sum(keep)},
    )
    return now, [names[v] for v in parts.saved], _pruned(rerun, [v for v in rerun.outputs if v in eqn.outputs])


def _inside_cond(eqn: Equation, used: Sequence[bool], may_save: MaySave) -> tuple[Equation, list[Var], Equation | None]:
    """(the cond, which also gives out what is saved in the branch that is taken; these values; the cond that makes the used results from them)."""
    branches: tuple[Program, ...] = eqn.params["branches"]
    divided = [_divide(b, [a for a, u in zip(b.outputs, used) if u and type(a) is Var], may_save) for b in branches]
    # What all branches save and give out is saved under the name of the result.
    direct = [k for k, u in enumerate(used) if u and all([b.outputs[k] in parts.saved for b, parts in zip(branches, divided)])]
    slots: dict[Any, Var] = {k: eqn.outputs[k] for k in direct}
    owned: list[dict[Any, Var]] = []
    for branch, parts in zip(branches, divided):
        own: dict[Any, Var] = {}
        for k in direct:
            if branch.outputs[k] not in own.values():
                own[k] = branch.outputs[k]  # type: ignore[assignment]
        # The others share results: the k-th value of a type in one branch and the k-th in another.
        count: dict[ArrayType, int] = {}
        for v in parts.saved:
            if v not in own.values():
                t = v.type.strong()
                count[t] = count.get(t, -1) + 1
                own[t, count[t]] = v
                slots.setdefault((t, count[t]), Var(t, v.name))
        owned.append(own)
    extra = [key for key in slots if key not in direct]
    wanted = [u and k not in direct for k, u in enumerate(used)]
    first, second = [], []
    for branch, parts, own in zip(branches, divided, owned):
        equations = list(parts.now)
        given = [own[key] if key in own else zeros_atom(key[0], equations) for key in extra]
        first.append(branch.replace(equations=equations, outputs=[*branch.outputs, *given]))
        inputs = [*branch.inputs, *[own.get(key) or Var(v.type) for key, v in slots.items()]]
        results = [a for a, w in zip(branch.outputs, wanted) if w]
        second.append(branch.replace(inputs=inputs, equations=parts.again, outputs=results))
    now = eqn.replace(outputs=[*eqn.outputs, *[slots[key] for key in extra]], params={**eqn.params, "branches": tuple(first)})
    asked = [v for v, w in zip(eqn.outputs, wanted) if w]
    if not asked:
        return now, list(slots.values()), None
    rerun = eqn.replace(inputs=[*eqn.inputs, *slots.values()], outputs=asked, params={**eqn.params, "branches": tuple(second)})
    return now, list(slots.values()), _pruned(rerun, asked)


def _pruned(eqn: Equation, wanted: Sequence[Var]) -> Equation:
    """A loop or branch without what its wanted results have no part in."""
    inputs = [a for a in dict.fromkeys(eqn.inputs) if type(a) is Var]
    return remove_dead_code(Program(inputs, (), [eqn], wanted)).equations[0]


_INSIDE: dict[str, Callable[..., Any]] = {"scan": _inside_scan, "cond": _inside_cond}
