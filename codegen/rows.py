"""A pass before lowering: what is done to every row of large arrays alike becomes a loop over rows.

A softmax takes a maximum, a sum and two passes over its argument, each of which needs the one before for a whole row but for no more
than that row. One array at a time, every pass goes through all of memory. As a loop over rows, a scan that carries nothing, the
passes find the row in the first cache, what lies between them is as small as a row, and the rows are divided among threads.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tracegrad.ir.control_flow import scan_p
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.dead_code import remove_dead_code

FEWEST_ROWS = 8
SHORTEST_ROW, LONGEST_ROW = 48, 32_768
"""Elements in a row: shorter ones are better fused across rows, longer ones do not stay in the cache."""
SMALLEST = 1 << 16
"""Elements in an array: smaller ones are in the cache anyway."""

_PASSES = frozenset(
    "reduce_sum reduce_prod reduce_max reduce_min reduce_and reduce_or reduce_xor cumsum cumprod cummax cummin cumlogsumexp argmax "
    "argmin".split()
)

Row = Callable[[Equation], "tuple[list[bool], dict[str, Any]] | None"]


def loop_over_rows(program: Program) -> Program:
    """Gather equations that work row by row into scans without a carry, where that saves passes over memory."""
    if not any(e.primitive.name in _PASSES for e in program.equations):
        return program
    equations = _gather(_spread_apart(program), program)
    return program if equations is None else remove_dead_code(program.replace(equations=equations))


def _spread_apart(program: Program) -> list[Equation]:
    """The equations, with a broadcast of its own for whatever computes with the elements of one: it is no reason to write all of it to memory
    that some of its readers are in the loop and others are not."""
    spread = {e.outputs[0]: e for e in program.equations if _spreads(e)}
    equations: list[Equation] = []
    for e in program.equations:
        if e.primitive.family in ("elementwise", "special") or e.primitive.name in _PASSES:
            own: dict[Atom, Atom] = {a: Var(a.type, a.name) for a in e.inputs if isinstance(a, Var) and a in spread}
            if own:
                equations.extend([spread[a].replace(outputs=(v,)) for a, v in own.items()])  # type: ignore[index, arg-type]
                e = e.replace(inputs=[own.get(a, a) if isinstance(a, Var) else a for a in e.inputs])
        equations.append(e)
    return equations


def _spreads(e: Equation) -> bool:
    """Whether an equation makes a large array by repeating the elements of a smaller one."""
    return e.primitive.name == "broadcast_in_dim" and e.outputs[0].type.size > e.inputs[0].type.size


def _gather(equations: list[Equation], program: Program) -> list[Equation] | None:
    sizes: dict[int, int] = {}
    for e in equations:
        if e.primitive.name in _PASSES and _is_large(e.inputs[0].type) and _axes(e) and 0 not in _axes(e):
            n = e.inputs[0].type.shape[0]
            sizes[n] = sizes.get(n, 0) + 1
    changed = False
    for n in sorted(sizes, key=lambda k: -sizes[k]):
        rest: list[Equation] = equations
        done: list[Equation] = []
        while True:
            found = _cluster(rest, n, program)
            if found is None:
                break
            before, members, after = found
            outside = {a for e in (*before, *after) for a in e.inputs if isinstance(a, Var)}
            outside.update(a for a in program.outputs if isinstance(a, Var))
            # results that only others need, and that cost no more to compute there, are left to them
            kept = _without_last(members, outside)
            loop = _loop(kept, n, outside) if _saves(kept) else None
            if loop is None:
                # not worth a loop: keep the order, go on behind the first member
                first = max(k for k, e in enumerate(rest) if e is next(m for m in members if m.primitive.name in _PASSES))
                done.extend(rest[: first + 1])
                rest = rest[first + 1 :]
                continue
            changed = True
            # what only repeats elements waits for its reader, which may be in another loop
            read = {a for e in (*before, *kept) for a in e.inputs}
            waiting = [e for e in before if _spreads(e) and e.outputs[0] not in read]
            done.extend([e for e in before if e not in waiting])
            done.append(loop)
            rest = [*waiting, *[e for e in members if e not in kept], *after]
        equations = [*done, *rest]
    return equations if changed else None


def _is_large(t: ArrayType) -> bool:
    return (
        len(t.shape) >= 2
        and t.size >= SMALLEST
        and t.shape[0] >= FEWEST_ROWS
        and SHORTEST_ROW <= t.size // t.shape[0] <= LONGEST_ROW
    )


def _axes(e: Equation) -> tuple[int, ...]:
    return e.params["axes"] if "axes" in e.params else (e.params["axis"],)


def _cluster(equations: list[Equation], n: int, program: Program) -> tuple[list[Equation], list[Equation], list[Equation]] | None:
    """(what comes before, the members, what comes after): row-wise equations that can run together, from the first pass on."""
    members: list[Equation] = []
    before: list[Equation] = []
    after: list[Equation] = []
    inside: set[Var] = set()  # what members compute
    later: set[Var] = set()  # what depends on members but is not one
    for e in equations:
        reads = [a for a in e.inputs if isinstance(a, Var)]
        waits = any(a in later for a in reads)
        rows = None if waits or e.has_effects else row_of(e, n)
        if rows is not None and _shares(e, rows[0], inside, members, n):
            members.append(e)
            inside.update(e.outputs)
        elif waits or any(a in inside for a in reads) or (e.has_effects and members):
            after.append(e)
            later.update(e.outputs)
        else:
            before.append(e)
    if not members:
        return None
    return *_with_sources(before, members, n, after, program), after


def _with_sources(
    before: list[Equation], members: list[Equation], n: int, after: list[Equation], program: Program
) -> tuple[list[Equation], list[Equation]]:
    """Move what only members read, and works on rows, into the loop: there it is computed as it is read."""
    others = {a for a in program.outputs if isinstance(a, Var)} | {a for e in after for a in e.inputs if isinstance(a, Var)}
    wanted = {a for e in members for a in e.inputs if isinstance(a, Var)}
    moved: list[Equation] = []
    stay: list[Equation] = []
    for e in reversed(before):
        rows = row_of(e, n)
        if (
            rows is not None
            and e.primitive.name not in _PASSES
            and any(v in wanted for v in e.outputs)
            and not any(v in others for v in e.outputs)
        ):
            moved.append(e)
            wanted.update(a for a in e.inputs if isinstance(a, Var))
        else:
            stay.append(e)
            others.update(a for a in e.inputs if isinstance(a, Var))
    return stay[::-1], moved[::-1] + members


def _shares(e: Equation, batched: list[bool], inside: set[Var], members: list[Equation], n: int) -> bool:
    """Whether an equation belongs to the cluster: it starts it with a pass, or works on the rows of what is in it."""
    if not members:
        return e.primitive.name in _PASSES and _is_large(e.inputs[0].type)
    return any(isinstance(a, Var) and a in inside for a in e.inputs) or (
        e.primitive.name in _PASSES and _is_large(e.inputs[0].type)
    )


def _loop(members: list[Equation], n: int, outside: set[Var]) -> Equation | None:
    """The scan over rows of the members, of whose results those in `outside` are read elsewhere."""
    made = {v for e in members for v in e.outputs}
    results = [v for e in members for v in e.outputs if v in outside]
    consts: list[Var] = []
    scanned: list[Var] = []
    env: dict[Var, Var] = {}
    body: list[Equation] = []
    for e in members:
        batched, params = row_of(e, n)  # type: ignore[misc]
        inputs: list[Atom] = []
        for a, b in zip(e.inputs, batched):
            if isinstance(a, Literal):
                inputs.append(a)
                continue
            key = a
            if key not in env:
                if b:
                    env[key] = Var(a.type.update(shape=a.type.shape[1:]), a.name)
                    scanned.append(a)
                else:
                    env[key] = Var(a.type, a.name)
                    consts.append(a)
            elif (a in scanned or a in made) != b:
                return None  # read both as rows and as a whole
            inputs.append(env[key])
        outputs = []
        for v in e.outputs:
            env[v] = Var(v.type.update(shape=v.type.shape[1:]), v.name)
            outputs.append(env[v])
        body.append(Equation(e.primitive, inputs, outputs, params, e.source))
    program_of_rows = Program([*[env[a] for a in consts], *[env[a] for a in scanned]], (), body, [env[v] for v in results], "row")
    return Equation(
        scan_p,
        [*consts, *scanned],
        results,
        {"body": program_of_rows, "length": n, "reverse": False, "num_consts": len(consts), "num_carry": 0, "unroll": 1},
        members[0].source,
    )


def _without_last(members: list[Equation], outside: set[Var]) -> list[Equation]:
    """Drop elementwise members that no other member reads, if what they read is outside of the loop anyway, or is less."""
    members = list(members)
    while True:
        inside = {a for e in members for a in e.inputs if isinstance(a, Var)}
        made = {v for e in members for v in e.outputs}
        for k in range(len(members) - 1, -1, -1):
            e = members[k]
            if e.primitive.name in _PASSES or any(v in inside for v in e.outputs):
                continue
            if _spreads(e) or all(not isinstance(a, Var) or a not in made or a in outside for a in e.inputs):
                del members[k]
                for a in e.inputs:
                    if isinstance(a, Var):
                        outside.add(a)
                break
        else:
            return members


def _saves(members: list[Equation]) -> bool:
    """Whether a large row is read after a pass that its own computation, or another one, waits for; or is an operand or the result of
    a product, which would have to be in memory."""
    after: set[Var] = set()
    made: set[Var] = set()
    for e in members:
        reads = [a for a in e.inputs if isinstance(a, Var)]
        if e.primitive.name == "dot_general" and any(_is_large(a.type) for a in (*[a for a in reads if a in made], *e.outputs)):
            return True
        made.update(e.outputs)
        late = any(a in after for a in reads)
        if late and any(_is_large(a.type) for a in (*reads, *e.outputs)):
            return True
        if late or e.primitive.name in _PASSES:
            after.update(e.outputs)
    return False


# ------------------------------------------------------------------------------------------------- equations on one row


def row_of(e: Equation, n: int) -> tuple[list[bool], dict[str, Any]] | None:
    """How an equation works on row i of arrays of n rows: (which operands are rows, the parameters for a row); None if it does not."""
    out = e.outputs[0].type
    if not out.shape or out.shape[0] != n or any(v.type.shape[:1] != (n,) for v in e.outputs):
        return None
    p = e.primitive
    if p.family in ("elementwise", "special") or p.name == "threefry2x32":
        batched = [a.type.shape != () for a in e.inputs]
        if not any(batched) or any(isinstance(a, Literal) and b for a, b in zip(e.inputs, batched)):
            return None
        return batched, e.params
    rule = _RULES.get(p.name)
    return None if rule is None else rule(e)


_RULES: dict[str, Row] = {}


def _rule(*names: str) -> Callable[[Row], Row]:
    def register(function: Row) -> Row:
        for name in names:
            _RULES[name] = function
        return function

    return register


@_rule("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_xor")
def _reduce(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    axes = e.params["axes"]
    return None if not axes or axes[0] == 0 else ([True], {**e.params, "axes": tuple([a - 1 for a in axes])})


@_rule("argmax", "argmin", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _along(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    axis = e.params["axis"]
    return None if axis == 0 else ([True], {**e.params, "axis": axis - 1})


@_rule("broadcast_in_dim")
def _broadcast(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    dims, shape = e.params["broadcast_dimensions"], e.params["shape"]
    x = e.inputs[0].type
    if dims and dims[0] == 0:
        if x.shape[0] != shape[0]:
            return None
        return [True], {"shape": shape[1:], "broadcast_dimensions": tuple([d - 1 for d in dims[1:]])}
    return [False], {"shape": shape[1:], "broadcast_dimensions": tuple([d - 1 for d in dims])}


@_rule("reshape")
def _reshape(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    new = e.params["new_sizes"]
    old = e.inputs[0].type.shape
    if not old or old[0] != new[0] or prod(old[1:]) != prod(new[1:]):
        return None
    return [True], {"new_sizes": new[1:]}


@_rule("transpose")
def _transpose(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    permutation = e.params["permutation"]
    return None if permutation[0] != 0 else ([True], {"permutation": tuple([d - 1 for d in permutation[1:]])})


@_rule("slice")
def _slice(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    p = e.params
    if p["start_indices"][0] != 0 or p["strides"][0] != 1 or p["limit_indices"][0] != e.inputs[0].type.shape[0]:
        return None
    return [True], {k: v[1:] for k, v in p.items()}


@_rule("concatenate")
def _concatenate(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    d = e.params["dimension"]
    return None if d == 0 else ([True] * len(e.inputs), {"dimension": d - 1})


@_rule("pad")
def _pad(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    config = e.params["padding_config"]
    return None if config[0] != (0, 0, 0) else ([True, False], {"padding_config": config[1:]})


@_rule("dot_general")
def _dot_general(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    """A product whose first batch dimension is the first of both operands."""
    contracting, batch = e.params["dimension_numbers"]
    if not batch[0] or batch[0][0] != 0 or batch[1][0] != 0:
        return None
    dims = tuple([tuple([d - 1 for d in found]) for found in contracting]), tuple([tuple([d - 1 for d in b[1:]]) for b in batch])
    return [True, True], {**e.params, "dimension_numbers": dims}


@_rule("rev")
def _rev(e: Equation) -> tuple[list[bool], dict[str, Any]] | None:
    dims = e.params["dimensions"]
    return None if 0 in dims else ([True], {"dimensions": tuple([d - 1 for d in dims])})


__all__ = ["loop_over_rows", "row_of"]
