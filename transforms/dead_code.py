"""Dropping what nothing reads."""

from __future__ import annotations

from collections.abc import Sequence

from tracegrad.ir.control_flow import split_scan, split_while, while_p
from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.tapes import tape_scan_p
from tracegrad.transforms.regions import map_regions


def remove_dead_code(program: Program, keep: Sequence[bool] | None = None) -> Program:
    """Drop every equation, and every part of a loop or branch, whose results nothing reads.

    keep: which outputs are wanted; all by default. Inputs stay. Effects, their order and all locations stay.
    """
    outputs = program.outputs if keep is None else tuple([a for a, k in zip(program.outputs, keep) if k])
    live: set[Var] = {a for a in outputs if isinstance(a, Var)}
    kept: list[Equation] = []
    for eqn in reversed(program.equations):
        used = [v in live for v in eqn.outputs]
        if not any(used) and not eqn.has_effects:
            continue
        prune = _PRUNE.get(eqn.primitive.name)
        eqn = prune(eqn, used) if prune else map_regions(eqn, remove_dead_code)
        live.update([a for a in eqn.inputs if isinstance(a, Var)])
        kept.append(eqn)
    constants = [c for c in program.constants if c.var in live]
    if keep is None and len(kept) == len(program.equations) and len(constants) == len(program.constants):
        if all(a is b for a, b in zip(reversed(kept), program.equations)):
            return program
    return program.replace(constants=constants, equations=reversed(kept), outputs=outputs)


def used_inputs(program: Program) -> list[bool]:
    """Which inputs the program reads."""
    used: set[Atom] = {a for eqn in program.equations for a in eqn.inputs} | set(program.outputs)
    return [v in used for v in program.inputs]


def _select(xs: Sequence, mask: Sequence[bool]) -> list:  # type: ignore[type-arg]
    return [x for x, m in zip(xs, mask) if m]


def _prune_scan(eqn: Equation, used: list[bool]) -> Equation:
    """Prune a scan, or a scan over tapes, whose operands begin with their length."""
    params = eqn.params
    first = 1 if eqn.primitive is tape_scan_p else 0
    body: Program = params["body"]
    nc, nk = params["num_consts"], params["num_carry"]
    # A carry is needed if its final value is used, or if a needed output of the body depends on it.
    keep_carry = used[:nk]
    while True:
        pruned = remove_dead_code(body, keep_carry + used[nk:])
        reads = used_inputs(pruned)
        needed = [k or r for k, r in zip(keep_carry, reads[nc : nc + nk])]
        if needed == keep_carry:
            break
        keep_carry = needed
    if all(keep_carry) and all(used[nk:]) and all(reads[:nc]) and all(reads[nc + nk :]):
        return eqn if pruned is body else eqn.replace(params={**params, "body": pruned})
    mask = reads[:nc] + keep_carry + reads[nc + nk :]
    pruned = pruned.replace(inputs=_select(pruned.inputs, mask))
    consts, carry, xs = split_scan(mask, nc, nk)
    return eqn.replace(
        inputs=[*eqn.inputs[:first], *_select(eqn.inputs[first:], mask)],
        outputs=_select(eqn.outputs, keep_carry + used[nk:]),
        params={**params, "body": pruned, "num_consts": sum(consts), "num_carry": sum(carry)},
    )


def _prune_while(eqn: Equation, used: list[bool]) -> Equation:
    """Prune a while, or one that records; if nothing is left of what it records, it is a while."""
    params = eqn.params
    test, body = remove_dead_code(params["cond"]), params["body"]
    ncc, nbc = params["cond_nconsts"], params["body_nconsts"]
    test_reads = used_inputs(test)
    nk = len(eqn.inputs) - ncc - nbc
    count, kept = used[nk : nk + 1], used[nk + 1 :]
    keep = [u or r for u, r in zip(used, test_reads[ncc:])]
    while True:
        pruned = remove_dead_code(body, keep + kept)
        reads = used_inputs(pruned)
        needed = [k or r for k, r in zip(keep, reads[nbc:])]
        if needed == keep:
            break
        keep = needed
    test = test.replace(inputs=_select(test.inputs, test_reads[:ncc] + keep))
    pruned = pruned.replace(inputs=_select(pruned.inputs, reads[:nbc] + keep))
    cond_consts, body_consts, init = split_while(eqn.inputs, ncc, nbc)
    inputs = [*_select(cond_consts, test_reads[:ncc]), *_select(body_consts, reads[:nbc]), *_select(init, keep)]
    recorded = any(count) or any(kept)
    if len(inputs) == len(eqn.inputs) and (recorded or not count) and pruned.digest == body.digest and test.digest == params["cond"].digest:
        return eqn
    return eqn.replace(
        primitive=eqn.primitive if recorded else while_p,
        inputs=inputs,
        outputs=_select(eqn.outputs, keep + [recorded] * len(count) + kept),
        params={**params, "cond": test, "body": pruned, "cond_nconsts": sum(test_reads[:ncc]), "body_nconsts": sum(reads[:nbc])},
    )


def _prune_cond(eqn: Equation, used: list[bool]) -> Equation:
    effects = eqn.has_effects
    branches = [remove_dead_code(b, used) for b in eqn.params["branches"]]
    reads = [any(r) for r in zip(*[used_inputs(b) for b in branches])]
    if all(used) and all(reads) and not effects and all(a is b for a, b in zip(branches, eqn.params["branches"])):
        return eqn
    branches = [b.replace(inputs=_select(b.inputs, reads)) for b in branches]
    return eqn.replace(
        inputs=[eqn.inputs[0], *_select(eqn.inputs[1:], reads)],
        outputs=_select(eqn.outputs, used),
        params={**eqn.params, "branches": tuple(branches)},
    )


_PRUNE = {
    "scan": _prune_scan,
    "tape_scan": _prune_scan,
    "while": _prune_while,
    "record_while": _prune_while,
    "cond": _prune_cond,
}
