"""Sharing between the steps of loops: the carry at the end of a step is the carry at the start of the next.

What a step computes of its last carry, and the next step again of its first, is carried along instead (predictive commoning: O'Brien, Predictive
Commoning: a method of optimizing loops containing references to consecutive array elements, IBM 1990). And where a backward loop reads
both the first and the last carries of the steps of a forward loop, the last ones are not stacked: it meets them a step earlier as first ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tracegrad.ir.control_flow import scan_p
from tracegrad.ir.evaluate import substitute
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.tapes import record_while_p, tape_scan_p
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.duplicates import equation_key
from tracegrad.transforms.regions import map_regions
from tracegrad.transforms.residuals import CHEAP


def share_steps(program: Program) -> Program:
    """Compute, and stack, once what two successive steps of a scan share, in regions too."""
    if not any(e.primitive.regions for e in program.equations):
        return program
    equations: list[Equation] = []
    for eqn in program.equations:
        new = map_regions(eqn, share_steps)
        if new.primitive.name == "scan" and new.params["length"] > 1:
            new = _carried_along(new, equations)
        equations.append(new)
    changed = len(equations) != len(program.equations) or any(a is not b for a, b in zip(equations, program.equations))
    changed = _stacked_once(equations, program.outputs) or changed
    return remove_dead_code(program.replace(equations=equations)) if changed else program


# What two steps compute of one carry


class _Shared(NamedTuple):
    """A value that a step computes of its first carry (`first`), and of its last one in the same way (`last`)."""

    first: Var
    last: Var


def _shared(body: Program, num_consts: int, num_carry: int) -> list[_Shared]:
    first, last = body.inputs[num_consts : num_consts + num_carry], body.outputs[:num_carry]
    ends = [a for a in last if isinstance(a, Var) and a not in body.inputs]
    if not ends:
        return []
    read = {a for e in body.equations for a in e.inputs}
    if not any([a in read for a in ends]) or not any([v in read for v in first]):
        return []
    # Values are numbered alike if they are computed alike, from constants and from the carry, be it that at the start or at the end.
    numbers: dict[Any, int] = {}

    def number(key: Any) -> int:
        return numbers.setdefault(key, len(numbers))

    fixed: dict[Var, int] = {v: number(v) for v in body.inputs[:num_consts]}
    at_start = {**fixed, **{v: number(("carry", i)) for i, v in enumerate(first)}}
    at_end = dict(fixed)
    for i, a in enumerate(last):
        if a in ends:
            at_end.setdefault(a, number(("carry", i)))  # type: ignore[arg-type]
    varies = {n for key, n in numbers.items() if isinstance(key, tuple)}

    def extend(known: dict[Var, int]) -> None:
        for e in body.equations:
            if e.has_effects or len(e.outputs) != 1 or e.outputs[0] in known:
                continue
            if not all([isinstance(a, Literal) or a in known for a in e.inputs]):
                continue
            operands = tuple([a.key if isinstance(a, Literal) else known[a] for a in e.inputs])
            n = known[e.outputs[0]] = number(("made", equation_key(e, operands)))
            if any([not isinstance(a, Literal) and known[a] in varies for a in e.inputs]):
                varies.add(n)

    extend(at_start)
    extend(at_end)
    starts = {n: v for v, n in reversed(at_start.items()) if n in varies and v not in first}
    pairs = {starts[n]: v for v, n in at_end.items() if n in starts and v not in ends}
    # Worth a carry is what takes more than a few operations; of these the ones that others than themselves read.
    dear = {v for e in body.equations for v in e.outputs if v in pairs and e.primitive.name not in CHEAP}
    outside: set[Atom] = set(body.outputs)
    for e in body.equations:
        if e.outputs[0] not in dear:
            outside.update(e.inputs)
    return [_Shared(v, pairs[v]) for v in pairs if v in dear and v in outside and pairs[v] is not v]


def _carried_along(eqn: Equation, equations: list[Equation]) -> Equation:
    params = eqn.params
    body: Program = params["body"]
    nc, nk = params["num_consts"], params["num_carry"]
    found = _shared(body, nc, nk)
    if not found:
        return eqn
    # The first step's values are computed before the loop.
    env: dict[Var, Atom] = dict(zip(body.inputs[: nc + nk], eqn.inputs))
    for e in _needed(body, [s.first for s in found]):
        outputs = [Var(v.type, v.name) for v in e.outputs]
        equations.append(e.replace(inputs=substitute(e, env), outputs=outputs))
        env.update(zip(e.outputs, outputs))
    gone = {s.first for s in found}
    inner = Program(
        [*body.inputs[: nc + nk], *[s.first for s in found], *body.inputs[nc + nk :]],
        body.constants,
        [e for e in body.equations if e.outputs[0:1] == () or e.outputs[0] not in gone],
        [*body.outputs[:nk], *[s.last for s in found], *body.outputs[nk:]],
        body.name,
    )
    return eqn.replace(
        inputs=[*eqn.inputs[: nc + nk], *[env[s.first] for s in found], *eqn.inputs[nc + nk :]],
        outputs=[*eqn.outputs[:nk], *[Var(s.last.type) for s in found], *eqn.outputs[nk:]],
        params={**params, "body": remove_dead_code(inner), "num_carry": nk + len(found)},
    )


def _needed(body: Program, results: Iterable[Var]) -> list[Equation]:
    live = set(results)
    kept = []
    for e in reversed(body.equations):
        if any([v in live for v in e.outputs]):
            kept.append(e)
            live.update([a for a in e.inputs if isinstance(a, Var)])
    return kept[::-1]


# What two steps stack of one carry


def _stacked_once(equations: list[Equation], results: tuple[Atom, ...]) -> bool:
    """Let loops that read the first and last carries of a loop before them read only one of the two. The equations are changed in place."""
    readers: dict[Atom, list[int]] = {}
    for k, e in enumerate(equations):
        for a in dict.fromkeys(e.inputs):
            readers.setdefault(a, []).append(k)
    changed = False
    for eqn in list(equations):
        loop = _made_by(eqn)
        if loop is None:
            continue
        body: Program = eqn.params["body"]
        nk = len(loop.inits)
        nc = eqn.params["body_nconsts" if eqn.primitive is record_while_p else "num_consts"]
        stacked = dict(zip(reversed(body.outputs[nk:]), reversed(loop.stacks)))
        for i in range(nk):
            first, last = stacked.get(body.inputs[nc + i]), stacked.get(body.outputs[i])
            if first is None or last is None or first is last:
                continue
            for gone, kept, start, opposite in ((last, first, eqn.outputs[i], True), (first, last, loop.inits[i], False)):
                others = readers.get(gone, [])
                if others and gone not in results and all(_scans_over(equations[j], gone, loop, opposite) for j in others):
                    for j in others:
                        equations[j] = _met_before(equations[j], gone, kept, start)
                        readers.setdefault(start, []).append(j)
                        if j not in readers.setdefault(kept, []):
                            readers[kept].append(j)
                    readers[gone] = []
                    changed = True
                    break
    return changed


class _Loop(NamedTuple):
    """What matters of a loop that stacks, or writes tapes.

    length: its number of steps, or the atom that is this number; inits: the initial carry; stacks: the results after the last carry.
    """

    length: Any
    reverse: bool
    inits: tuple[Atom, ...]
    stacks: tuple[Var, ...]


def _made_by(eqn: Equation) -> _Loop | None:
    p = eqn.params
    if eqn.primitive is record_while_p:
        inits = eqn.inputs[p["cond_nconsts"] + p["body_nconsts"] :]
        n = len(inits)
        return _Loop(eqn.outputs[n], False, inits, eqn.outputs[n + 1 :])
    if eqn.primitive is scan_p or eqn.primitive is tape_scan_p:
        n, first = p["num_carry"], _leading(eqn) + p["num_consts"]
        length = eqn.inputs[0] if eqn.primitive is tape_scan_p else p["length"]
        return _Loop(length, p["reverse"], eqn.inputs[first : first + n], eqn.outputs[n:])
    return None


def _leading(eqn: Equation) -> int:
    """How many operands a scan has before its constants: the length of one over tapes."""
    return int(eqn.primitive is tape_scan_p)


def _scans_over(eqn: Equation, array: Var, made_by: _Loop, opposite: bool) -> bool:
    """Whether an equation is a scan that reads the array slice by slice and in no other way, in the opposite or the same direction."""
    if eqn.primitive is scan_p:
        as_long = eqn.params["length"] == made_by.length
    else:
        as_long = eqn.primitive is tape_scan_p and eqn.inputs[0] is made_by.length
    if not as_long:
        return False
    n = _leading(eqn) + eqn.params["num_consts"] + eqn.params["num_carry"]
    return (eqn.params["reverse"] != made_by.reverse) == opposite and array not in eqn.inputs[:n] and not eqn.has_effects


def _met_before(eqn: Equation, gone: Var, kept: Var, start: Atom) -> Equation:
    """A scan over `kept` that carries its slices to the next step, where they stand for those of `gone`; at the first step `start` does."""
    p = eqn.params
    body: Program = p["body"]
    n, leading = p["num_consts"] + p["num_carry"], _leading(eqn)
    inner = list(zip(eqn.inputs[leading + n :], body.inputs[n:]))
    now = next((v for a, v in inner if a is kept), None)
    rest = [(a, v) for a, v in inner if a is not gone]
    if now is None:
        now = Var(kept.type.dtype.element if leading else kept.type.update(shape=kept.type.shape[1:]))
        rest.append((kept, now))
    before = [v for a, v in inner if a is gone]
    carried = p["num_carry"]
    body = body.replace(
        inputs=[*body.inputs[:n], *before, *[v for _, v in rest]],
        outputs=[*body.outputs[:carried], *[now] * len(before), *body.outputs[carried:]],
    )
    return eqn.replace(
        inputs=[*eqn.inputs[: leading + n], *[start] * len(before), *[a for a, _ in rest]],
        outputs=[*eqn.outputs[:carried], *[Var(v.type) for v in before], *eqn.outputs[carried:]],
        params={**p, "body": body, "num_carry": carried + len(before)},
    )
