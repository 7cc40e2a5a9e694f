"""Narrowing what crosses the borders of loops and branches.

Operands that are equal go in once, and numbers not at all; carries that never change become constants, and carries that start and proceed
alike one; results that are operands, or equal, are taken from outside; a loop of one step is its body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir.control_flow import split_while
from tracegrad.ir.evaluate import rename, substitute
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.tapes import tape_scan_p
from tracegrad.ir.types import ArrayType, is_key, is_tape
from tracegrad.transforms.duplicates import merge_common
from tracegrad.transforms.regions import map_regions
from tracegrad.transforms.staged import renamed

Names = dict[Var, Atom]


def narrow_loops(program: Program) -> Program:
    """Drop from loops and conds the operands, carries and results that need not cross their borders, in regions too."""
    if not any(e.primitive.regions for e in program.equations):
        return program
    env: Names = {}
    equations: list[Equation] = []
    repeats: dict[Var, Equation] = {}
    for eqn in program.equations:
        new = map_regions(eqn, narrow_loops)
        inputs = substitute(eqn, env)
        if inputs != new.inputs:
            new = new.replace(inputs=inputs)
        name = new.primitive.name
        if name in ("scan", "tape_scan"):
            _scan(new, env, equations, repeats)
        elif name in ("while", "record_while"):
            _while(new, env, equations)
        elif name == "cond":
            _cond(new, env, equations)
        else:
            equations.append(new)
            if name == "broadcast_in_dim":
                repeats[new.outputs[0]] = new
    if len(equations) == len(program.equations) and not env and all(a is b for a, b in zip(equations, program.equations)):
        return program
    return program.replace(equations=equations, outputs=rename(program.outputs, env))


def _key(atom: Atom) -> Any:
    return atom.key if isinstance(atom, Literal) else atom


class _Constants:
    """The constant operands of a region: equal ones are one, and numbers are written where they are read."""

    def __init__(self, names: Names) -> None:
        self.pairs: list[tuple[Atom, Var]] = []
        self.names = names
        self.known: dict[Any, Var] = {}

    def add(self, operand: Atom, var: Var) -> None:
        """Let a variable of the region stand for an operand of the equation from now on."""
        if isinstance(operand, Literal) and var.type.shape == ():
            self.names[var] = Literal(operand.value, var.type)
            return
        first = self.known.setdefault(_key(operand), var)
        if first is var:
            self.pairs.append((operand, var))
        else:
            self.names[var] = first

    def read_by(self, region: Program) -> list[tuple[Atom, Var]]:
        """The pairs of (operand, variable) that a region reads."""
        read = {a for e in region.equations for a in e.inputs} | set(region.outputs)
        return [(a, v) for a, v in self.pairs if v in read]

    def same(self, atom: Atom, operand: Atom) -> bool:
        """Whether an atom of the region always has the value of an operand of the equation."""
        if isinstance(atom, Literal):
            return isinstance(operand, Literal) and atom.type.dtype == operand.type.dtype and atom.key[0] == operand.key[0]
        return self.known.get(_key(operand)) is atom


def _read(atom: Atom, names: Names) -> Atom:
    while isinstance(atom, Var) and atom in names:
        atom = names[atom]
    return atom


class _Carry(NamedTuple):
    """A carry: its initial value, its variable in the body, its place among the results of the body, its final value."""

    init: Atom
    var: Var
    place: int
    last: Var


def _settle_carries(carry: list[_Carry], body: Program, constants: _Constants, env: Names) -> list[_Carry]:
    """Make constants of the carries that never change; the others."""
    while True:
        stay = []
        for c in carry:
            after = _read(body.outputs[c.place], constants.names)
            if after is c.var or constants.same(after, c.init):
                constants.add(c.init, c.var)
                env[c.last] = c.init
            else:
                stay.append(c)
        if len(stay) == len(carry):
            return stay
        carry = stay


def _merge_twins(carry: list[_Carry], body: Program, names: Names, env: Names) -> list[_Carry]:
    """Make one of carries that start alike and are computed alike, supposing that they are alike: a partition that is refined until it holds."""
    classes: dict[Any, list[_Carry]] = {}
    for c in carry:
        classes.setdefault((_key(c.init), c.var.type), []).append(c)
    groups = [g for g in classes.values() if len(g) > 1]
    while groups:
        supposed: Names = {c.var: g[0].var for g in groups for c in g[1:]}
        trial = merge_common(_renamed(body, {**names, **supposed}))
        refined = []
        for g in groups:
            parts: dict[Any, list[_Carry]] = {}
            for c in g:
                parts.setdefault(_key(_read(trial.outputs[c.place], supposed)), []).append(c)
            refined += [part for part in parts.values() if len(part) > 1]
        if refined == groups:
            break
        groups = refined
    gone = {c.var for g in groups for c in g[1:]}
    for g in groups:
        for c in g[1:]:
            names[c.var] = g[0].var
            env[c.last] = g[0].last
    return [c for c in carry if c.var not in gone]


def _renamed(program: Program, names: Names) -> Program:
    return renamed(program, {v: _read(v, names) for v in names}) if names else program


# ----------------------------------------------------------------------------------------------------------------------- scan


def _scan(eqn: Equation, env: Names, equations: list[Equation], repeats: dict[Var, Equation]) -> None:
    params = eqn.params
    body: Program = params["body"]
    nc, nk = params["num_consts"], params["num_carry"]
    if params.get("length", 2) <= 1 and not body.constants and not _opaque(eqn):
        _short_scan(eqn, env, equations)
        return
    taped = eqn.primitive is tape_scan_p  # its length comes before the other operands
    length, operands = eqn.inputs[:taped], eqn.inputs[taped:]
    names: Names = {}
    constants = _Constants(names)
    for a, v in zip(operands[:nc], body.inputs[:nc]):
        constants.add(a, v)
    xs: list[tuple[Atom, Var]] = []
    slices: dict[Any, Var] = {}
    for a, v in zip(operands[nc + nk :], body.inputs[nc + nk :]):
        alike = _slice_of_alike(a, v, repeats, equations)
        if alike is not None:
            constants.add(alike, v)
            continue
        first = slices.setdefault(_key(a), v)
        if first is v:
            xs.append((a, v))
        else:
            names[v] = first
    of_slice = {v: a for a, v in xs}
    carry = [_Carry(*c) for c in zip(operands[nc : nc + nk], body.inputs[nc : nc + nk], range(nk), eqn.outputs)]
    carry = _settle_carries(carry, body, constants, env)
    carry = _merge_twins(carry, body, names, env)
    if names:
        body = merge_common(_renamed(body, names))
    of_constant = {v: a for a, v in constants.pairs}
    ys: list[tuple[Atom, Var]] = []
    stacked: dict[Any, Var] = {}
    after: list[Equation] = []
    for out, result in zip(body.outputs[nk:], eqn.outputs[nk:]):
        if not taped and isinstance(out, Var) and out in of_slice:
            env[result] = of_slice[out]
        elif not taped and (isinstance(out, Literal) or out in of_constant):
            # The same at every step.
            operand = out if isinstance(out, Literal) else of_constant[out]
            dims = tuple(range(1, len(result.type.shape)))
            repeat = {"shape": result.type.shape, "broadcast_dimensions": dims}
            after.append(Equation(REGISTRY["broadcast_in_dim"], [operand], [result], repeat, eqn.source))
        elif stacked.setdefault(_key(out), result) is not result:
            env[result] = stacked[_key(out)]
        else:
            ys.append((out, result))
    outputs = [*[c.last for c in carry], *[r for _, r in ys]]
    if not names and not after and len(outputs) == len(eqn.outputs) and len(constants.pairs) == nc:
        equations.append(eqn)
        return
    inner = body.replace(outputs=[*[body.outputs[c.place] for c in carry], *[out for out, _ in ys]])
    consts = constants.read_by(inner)
    inner = inner.replace(inputs=[*[v for _, v in consts], *[c.var for c in carry], *[v for _, v in xs]])
    if outputs or inner.has_effects:
        operands = (*length, *[a for a, _ in consts], *[c.init for c in carry], *[a for a, _ in xs])
        params = {**params, "body": inner, "num_consts": len(consts), "num_carry": len(carry)}
        equations.append(eqn.replace(inputs=operands, outputs=outputs, params=params))
    equations += after


def _slice_of_alike(a: Atom, v: Var, repeats: dict[Var, Equation], equations: list[Equation]) -> Atom | None:
    """The slice of an array that repeats it for every step; None for other arrays."""
    source = repeats.get(a) if isinstance(a, Var) else None
    if source is None or 0 in source.params["broadcast_dimensions"]:
        return None
    dims = tuple([d - 1 for d in source.params["broadcast_dimensions"]])
    if source.inputs[0].type.shape == v.type.shape:
        return source.inputs[0]
    result = Var(v.type)
    params = {"shape": v.type.shape, "broadcast_dimensions": dims}
    equations.append(Equation(source.primitive, source.inputs, [result], params, source.source))
    return result


def _opaque(eqn: Equation) -> bool:
    return any(is_key(v.type.dtype) or is_tape(v.type.dtype) for v in eqn.outputs)


def _short_scan(eqn: Equation, env: Names, equations: list[Equation]) -> None:
    """A scan of one step is its body, one of no steps its initial carry."""
    params = eqn.params
    body: Program = params["body"]
    nk, n = params["num_carry"], params["num_consts"] + params["num_carry"]
    if params["length"] == 0:
        env.update(zip(eqn.outputs, eqn.inputs[params["num_consts"] : n]))
        equations += [_full(Literal(np.zeros((), v.type.dtype), ArrayType((), v.type.dtype)), v, eqn) for v in eqn.outputs[nk:]]
        return
    inner: Names = dict(zip(body.inputs[:n], eqn.inputs[:n]))
    for a, v in zip(eqn.inputs[n:], body.inputs[n:]):
        inner[v] = _reshaped(a, Var(v.type, v.name), eqn, equations)
    for e in body.equations:
        outputs = [Var(v.type, v.name) for v in e.outputs]
        equations.append(e.replace(inputs=substitute(e, inner), outputs=outputs))
        inner.update(zip(e.outputs, outputs))
    for out, result in zip(rename(body.outputs[:nk], inner), eqn.outputs):
        env[result] = out
    for out, result in zip(rename(body.outputs[nk:], inner), eqn.outputs[nk:]):
        if isinstance(out, Literal):
            equations.append(_full(out, result, eqn))
        else:
            _reshaped(out, result, eqn, equations)


def _full(number: Literal, result: Var, eqn: Equation) -> Equation:
    params = {"shape": result.type.shape, "broadcast_dimensions": ()}
    return Equation(REGISTRY["broadcast_in_dim"], [number], [result], params, eqn.source)


def _reshaped(a: Atom, result: Var, eqn: Equation, equations: list[Equation]) -> Var:
    equations.append(Equation(REGISTRY["reshape"], [a], [result], {"new_sizes": result.type.shape}, eqn.source))
    return result


# ------------------------------------------------------------------------------------------------------------- while and cond


def _while(eqn: Equation, env: Names, equations: list[Equation]) -> None:
    params = eqn.params
    test, body = params["cond"], params["body"]
    ncc, nbc = params["cond_nconsts"], params["body_nconsts"]
    test_consts, body_consts, init = split_while(eqn.inputs, ncc, nbc)
    names: Names = {}
    test_names: Names = {}
    constants, test_constants = _Constants(names), _Constants(test_names)
    for a, v in zip(body_consts, body.inputs):
        constants.add(a, v)
    for a, v in zip(test_consts, test.inputs):
        test_constants.add(a, v)
    found: Names = {}
    n = len(init)
    carry = [_Carry(*c) for c in zip(init, body.inputs[nbc:], range(n), eqn.outputs)]
    carry = _settle_carries(carry, body, constants, found)
    carry = _merge_twins(carry, body, names, found)
    # What is kept of every step, if it records.
    tapes: dict[Any, tuple[Atom, Var]] = {}
    for out, result in zip(body.outputs[n:], eqn.outputs[n + 1 :]):
        out = _read(out, names)
        first = tapes.setdefault(_key(out), (out, result))[1]
        if first is not result:
            found[result] = first
    if not carry or not names and not test_names and not found:
        # Without a carry that changes the loop either does not run or does not end, and is not touched.
        equations.append(eqn)
        return
    env.update(found)
    # The condition reads the carries under names of its own.
    own = dict(zip(body.inputs[nbc:], test.inputs[ncc:]))
    stay = {c.var for c in carry}
    for a, v in zip(init, body.inputs[nbc:]):
        if v in stay:
            continue
        twin = _read(v, names)
        if isinstance(twin, Var) and twin in stay:
            test_names[own[v]] = own[twin]
        else:
            test_constants.add(a, own[v])
    asked = merge_common(_renamed(test, test_names))
    kept = [_read(body.outputs[c.place], names) for c in carry] + [out for out, _ in tapes.values()]
    inner = merge_common(_renamed(body, names).replace(outputs=kept))
    asked_consts, inner_consts = test_constants.read_by(asked), constants.read_by(inner)
    params = {
        "cond": asked.replace(inputs=[*[v for _, v in asked_consts], *[own[c.var] for c in carry]]),
        "body": inner.replace(inputs=[*[v for _, v in inner_consts], *[c.var for c in carry]]),
        "cond_nconsts": len(asked_consts),
        "body_nconsts": len(inner_consts),
    }
    operands = [*[a for a, _ in asked_consts], *[a for a, _ in inner_consts], *[c.init for c in carry]]
    outputs = [*[c.last for c in carry], *eqn.outputs[n : n + 1], *[tape for _, tape in tapes.values()]]
    equations.append(eqn.replace(inputs=operands, outputs=outputs, params={**eqn.params, **params}))


def _cond(eqn: Equation, env: Names, equations: list[Equation]) -> None:
    branches: Sequence[Program] = eqn.params["branches"]
    # Equal operands are the same in all branches, so that one branch stands for the bookkeeping of all.
    groups = [_Constants({}) for _ in branches]
    for k, a in enumerate(eqn.inputs[1:]):
        for group, b in zip(groups, branches):
            group.add(a, b.inputs[k])
    operand = [{v: a for a, v in group.pairs} for group in groups]
    outs = [[_read(a, group.names) for a in b.outputs] for group, b in zip(groups, branches)]
    seen: dict[Any, Var] = {}
    keep: list[int] = []
    for k, result in enumerate(eqn.outputs):
        atoms = [row[k] for row in outs]
        outer = [a if isinstance(a, Literal) else found.get(a) for a, found in zip(atoms, operand)]
        key = tuple([_key(a) for a in atoms])
        if outer[0] is not None and all([a is not None and _key(a) == _key(outer[0]) for a in outer]):
            env[result] = outer[0]
        elif seen.setdefault(key, result) is not result:
            env[result] = seen[key]
        else:
            keep.append(k)
    narrowed = any(group.names for group in groups)
    if not narrowed and len(keep) == len(eqn.outputs):
        equations.append(eqn)
        return
    inner = [
        _renamed(b.replace(inputs=[v for _, v in group.pairs], outputs=[b.outputs[k] for k in keep]), group.names)
        for group, b in zip(groups, branches)
    ]
    if keep or eqn.has_effects:
        operands = [eqn.inputs[0], *[a for a, _ in groups[0].pairs]]
        results = [eqn.outputs[k] for k in keep]
        equations.append(eqn.replace(inputs=operands, outputs=results, params={**eqn.params, "branches": tuple(inner)}))
