"""Moving work that does not change out of loops."""

from __future__ import annotations

from tracegrad.ir.control_flow import split_while
from tracegrad.ir.evaluate import rename, substitute
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.tapes import tape_scan_p
from tracegrad.transforms.regions import map_regions
from tracegrad.transforms.staged import cached

# These cost nothing where they are used; computing them ahead would only store them. They move along with what needs them.
_FREE = frozenset({"broadcast_in_dim", "iota", "reshape", "transpose", "slice", "rev", "convert_element_type", "squeeze"})


def hoist_invariants(program: Program) -> Program:
    """Compute before a loop what its body computes from constant operands alone; also make carries that never change constants."""
    if not any(e.primitive.regions for e in program.equations):
        return program
    env: dict[Var, Atom] = {}
    equations: list[Equation] = []
    for eqn in program.equations:
        new = map_regions(eqn, hoist_invariants)
        inputs = substitute(eqn, env)
        if inputs != new.inputs:
            new = new.replace(inputs=inputs)
        if new.primitive.name in ("scan", "tape_scan"):
            new = _hoist_scan(_constant_carries(new, env), equations)
        elif new.primitive.name in ("while", "record_while"):
            new = _hoist_while(new, equations)
        equations.append(new)
    if len(equations) == len(program.equations) and all(a is b for a, b in zip(equations, program.equations)) and not env:
        return program
    return program.replace(equations=equations, outputs=rename(program.outputs, env))


def _constant_carries(eqn: Equation, env: dict[Var, Atom]) -> Equation:
    """A scan whose body returns some carries as they came: these become constants, and their final values their initial ones."""
    body: Program = eqn.params["body"]
    nc, nk = eqn.params["num_consts"], eqn.params["num_carry"]
    length, operands = _length_apart(eqn)
    fixed = [body.outputs[i] is body.inputs[nc + i] for i in range(nk)]
    if not any(fixed):
        return eqn
    moved = [i for i in range(nk) if fixed[i]]
    stay = [i for i in range(nk) if not fixed[i]]

    def order(xs: tuple) -> list:  # type: ignore[type-arg]
        return [*xs[:nc], *[xs[nc + i] for i in moved], *[xs[nc + i] for i in stay], *xs[nc + nk :]]

    for i in moved:
        env[eqn.outputs[i]] = operands[nc + i]
    body = body.replace(inputs=order(body.inputs), outputs=[*[body.outputs[i] for i in stay], *body.outputs[nk:]])
    return eqn.replace(
        inputs=[*length, *order(operands)],
        outputs=[*[eqn.outputs[i] for i in stay], *eqn.outputs[nk:]],
        params={**eqn.params, "body": body, "num_consts": nc + len(moved), "num_carry": len(stay)},
    )


def _calls_python(eqn: Equation) -> bool:
    return eqn.primitive.name == "pure_callback" or any(_calls_python(e) for _, p in eqn.regions() for e in p.equations)


def _length_apart(eqn: Equation) -> tuple[tuple[Atom, ...], tuple[Atom, ...]]:
    """The operand of a scan over tapes that is its number of steps, and the operands that it shares with a scan."""
    n = 1 if eqn.primitive is tape_scan_p else 0
    return tuple(eqn.inputs[:n]), tuple(eqn.inputs[n:])


def _split(body: Program, num_consts: int) -> tuple[list[Equation], list[Equation], list[Var]]:
    """(invariant equations to move, the others, the invariant variables that the others read)."""
    invariant: set[Var] = set(body.inputs[:num_consts]) | {c.var for c in body.constants}
    candidates: list[Equation] = []
    for eqn in body.equations:
        # A loop that does not run calls no Python, which may raise; inner loops and branches stay together with theirs.
        moves = not eqn.has_effects and not _calls_python(eqn)
        if moves and all(isinstance(a, Literal) or a in invariant for a in eqn.inputs):
            candidates.append(eqn)
            invariant.update(eqn.outputs)
    wanted: set[Var] = set()
    moving: set[int] = set()
    for eqn in reversed(candidates):
        if eqn.primitive.name not in _FREE or any(v in wanted for v in eqn.outputs):
            moving.add(id(eqn))
            wanted.update([a for a in eqn.inputs if isinstance(a, Var)])
    if not moving:
        return [], list(body.equations), []
    moved = [e for e in candidates if id(e) in moving]
    # A free equation that moves along may still be read inside: it stays there as well.
    rest = [e for e in body.equations if id(e) not in moving or e.primitive.name in _FREE]
    read = {a for e in rest for a in e.inputs if isinstance(a, Var)} | {a for a in body.outputs if isinstance(a, Var)}
    inside = {v for e in rest for v in e.outputs}
    results = [v for e in moved for v in e.outputs if v in read and v not in inside]
    return moved, rest, results


def _emit(moved: list[Equation], body: Program, operands: tuple[Atom, ...], equations: list[Equation]) -> dict[Var, Atom]:
    """Append copies of the moved equations, reading the loop's operands, to the surrounding program."""
    env: dict[Var, Atom] = dict(zip(body.inputs, operands))
    for e in moved:
        outputs = [Var(v.type, v.name) for v in e.outputs]
        equations.append(e.replace(inputs=substitute(e, env), outputs=outputs))
        env.update(zip(e.outputs, outputs))
    return env


def _hoist_scan(eqn: Equation, equations: list[Equation]) -> Equation:
    body: Program = eqn.params["body"]
    nc = eqn.params["num_consts"]
    length, operands = _length_apart(eqn)
    if eqn.params.get("length", 2) < 2 or body.constants:
        return eqn
    moved, rest, results = _split(body, nc)
    if not moved or not results:
        return eqn
    env = _emit(moved, body, operands[:nc], equations)
    body = body.replace(inputs=[*body.inputs[:nc], *results, *body.inputs[nc:]], equations=rest)
    return eqn.replace(
        inputs=[*length, *operands[:nc], *[env[v] for v in results], *operands[nc:]],
        params={**eqn.params, "body": body, "num_consts": nc + len(results)},
    )


@cached
def invariant_part(body: Program, num_consts: int) -> tuple[Program, Program] | None:
    """A loop's body as what it computes from its constants alone, and the rest, which takes the results of that after the constants.

    None if there is nothing to compute ahead.
    """
    if body.constants:
        return None
    moved, rest, results = _split(body, num_consts)
    if not results:
        return None
    inputs = body.inputs[:num_consts]
    return (
        Program(inputs, (), moved, results, f"{body.name}_before"),
        body.replace(inputs=[*inputs, *results, *body.inputs[num_consts:]], equations=rest),
    )


def _hoist_while(eqn: Equation, equations: list[Equation]) -> Equation:
    params = dict(eqn.params)
    cond_consts, body_consts, init = split_while(eqn.inputs, params["cond_nconsts"], params["body_nconsts"])
    changed = False
    groups = {"cond": cond_consts, "body": body_consts}
    for name, consts in groups.items():
        region: Program = params[name]
        n = len(consts)
        moved, rest, results = _split(region, n)
        if not moved or not results or region.constants:
            continue
        env = _emit(moved, region, consts, equations)
        params[name] = region.replace(inputs=[*region.inputs[:n], *results, *region.inputs[n:]], equations=rest)
        groups[name] = (*consts, *[env[v] for v in results])
        params[f"{name}_nconsts"] = len(groups[name])
        changed = True
    if not changed:
        return eqn
    return eqn.replace(inputs=[*groups["cond"], *groups["body"], *init], params=params)
