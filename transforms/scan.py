"""Derivatives and batching of scan, and of scans over tapes, which are the same loops with a number of steps that is a value.

Linearization runs the loop once, giving out as stacked results only those residuals that change from step to step and that
nothing else holds: constants of the loop and what depends on them alone stay constants, slices of scanned arrays and stacked results
are read again, and what one cheap operation rebuilds is rebuilt. The linear loop reads the residuals as scanned arrays; its transpose
runs the other way, with the cotangents of constants accumulated in the carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tracegrad.ir.bind import bind, current, type_of, using
from tracegrad.ir.control_flow import scan_p, split_scan
from tracegrad.ir.elementwise import add_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Constant, Equation, Program, Var
from tracegrad.ir.tapes import tape_scan_p
from tracegrad.ir.types import has_tangents, is_tape, tangent_type
from tracegrad.transforms.batch import batch_program, one_by_one, to_dim
from tracegrad.transforms.calls import linearize_call
from tracegrad.transforms.control_flow import (
    as_mask,
    at_front,
    chosen,
    either,
    front,
    moved_to_front,
    nonzeros,
    with_zeros,
)
from tracegrad.transforms.duplicates import merge_common
from tracegrad.transforms.hoist import invariant_part
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.linearize import linearize_program
from tracegrad.transforms.partial import PARTIAL_RULES, Partial, partial_program
from tracegrad.transforms.residuals import CHEAP, MOVES, kept_and_rebuilt
from tracegrad.transforms.staged import Split, cached, renamed, stage
from tracegrad.transforms.tape_values import add_values, as_elements, in_elements, lengths_agree
from tracegrad.transforms.transpose import transpose_program
from tracegrad.transforms.treeverse import transpose_in_bounded_memory
from tracegrad.transforms.zero import Axis, Linear, Zero, instantiate

_NO_TANGENT = frozenset({"stop_gradient", "sign", "floor", "ceil", "round", "is_finite"})


@cached
def may_have_tangents(program: Program, nonzero: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which outputs may depend smoothly on the nonzero inputs: quick, and never too few."""
    live = {v for v, nz in zip(program.inputs, nonzero) if nz}
    for eqn in program.equations:
        if eqn.primitive.name not in _NO_TANGENT and any([a in live for a in eqn.inputs]):
            live.update([v for v in eqn.outputs if has_tangents(v.type.dtype)])
    return tuple([a in live for a in program.outputs])


def carries_with_tangents(
    body: Program, consts: tuple[bool, ...], carry: tuple[bool, ...], xs: tuple[bool, ...]
) -> tuple[bool, ...]:
    while True:
        grown = either(carry, may_have_tangents(body, consts + carry + xs)[: len(carry)])
        if grown == carry:
            return carry
        carry = grown


def regrouped(xs: Sequence[Any], *lengths: int) -> list[list[Any]]:
    groups, at = [], 0
    for n in lengths:
        groups.append(list(xs[at : at + n]))
        at += n
    groups.append(list(xs[at:]))
    return groups


def _params(
    params: dict[str, Any], body: Program, num_consts: int, num_carry: int, reverse: bool | None = None
) -> dict[str, Any]:
    return {
        **params,
        "body": body,
        "num_consts": num_consts,
        "num_carry": num_carry,
        "reverse": params["reverse"] if reverse is None else reverse,
    }


def as_equation(params: dict[str, Any], operands: Sequence[Any]) -> tuple[Primitive, tuple[Any, ...], dict[str, Any]]:
    """The loop that `params` describe: a scan, or a scan over tapes if they hold its number of steps as `count`."""
    if "count" not in params:
        return scan_p, tuple(operands), params
    names = ("body", "reverse", "num_consts", "num_carry", "slots")
    return tape_scan_p, (params["count"], *operands), {k: params[k] for k in names if k in params}


def bind_loop(params: dict[str, Any], *operands: Any) -> tuple[Any, ...]:
    """Run the loop that `params` describe."""
    primitive, operands, params = as_equation(params, operands)
    return bind(primitive, *operands, **params)


# Forward mode


def _scan_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    body, nc, nk = params["body"], params["num_consts"], params["num_carry"]
    consts_nz, carry_nz, xs_nz = split_scan(nonzeros(tangents), nc, nk)
    carry_nz = carries_with_tangents(body, consts_nz, carry_nz, xs_nz)
    n_out = len(body.outputs)
    both, out_nz = jvp_program(body, consts_nz + carry_nz + xs_nz, carry_nz + (False,) * (n_out - nk))
    n, kd = len(body.inputs), sum(carry_nz)
    c, k, x = regrouped(both.inputs[:n], nc, nk)
    cd, kdots, xd = regrouped(both.inputs[n:], sum(consts_nz), kd)
    carry_out, ys_out, carry_dots, ys_dots = regrouped(both.outputs, nk, n_out - nk, kd)
    both = both.replace(inputs=[*c, *cd, *k, *kdots, *x, *xd], outputs=[*carry_out, *carry_dots, *ys_out, *ys_dots])
    consts, init, xs = split_scan(primals, nc, nk)
    const_dots, init_dots, xs_dots = split_scan(tangents, nc, nk)
    outs = bind_loop(
        _params(params, both, nc + len(cd), nk + kd),
        *consts,
        *chosen(const_dots, consts_nz),
        *init,
        *[instantiate(t) for t in chosen(init_dots, carry_nz)],
        *xs,
        *chosen(xs_dots, xs_nz),
    )
    carry_out, carry_dots, ys_out, ys_dots = regrouped(outs, nk, kd, n_out - nk)
    types = [type_of(x) for x in (*carry_out, *ys_out)]
    return carry_out + ys_out, with_zeros(carry_dots + ys_dots, out_nz, types)


# Splitting a loop into one that runs now and one that comes later


class Plan(NamedTuple):
    """How a loop is split. Sources of the later loop's residuals are pairs of a kind and a position: ("const", i) and ("x", i) are operands
    of the loop, ("y", i) one of its stacked results, ("before", i) a result of `before`.

    now: the body of the loop that runs now: its outputs are followed by the stored residuals.
    before: computes what depends on constants alone; None if nothing is needed of it.
    later: the body of the later loop, from (constant residuals, scanned residuals, what it takes besides).
    """

    now: Program
    before: Program | None
    later: Program
    consts: tuple[tuple[str, int], ...]
    xs: tuple[tuple[str, int], ...]
    unknown_out: tuple[bool, ...]
    num_outs: int


def _plan(split: Split, num_consts: int, num_carry: int) -> Plan:
    known = merge_common(split.known)
    n_outs = split.num_outs
    position = {v: i for i, v in enumerate(known.inputs)}
    constants = {c.var: c.value for c in known.constants}
    defined = known.definitions()
    invariant = _invariants(known, num_consts)
    stacked = {a: i for i, a in enumerate(known.outputs[num_carry:n_outs]) if type(a) is Var}
    before: list[Var] = []

    def source(atom: Var) -> tuple[str, int] | None:
        """Where a value is at hand without storing it; None if it is not."""
        i = position.get(atom)
        if i is not None:
            if i < num_consts:
                return "const", i
            if i >= num_consts + num_carry:
                return "x", i - num_consts - num_carry
        elif atom in invariant:
            return "before", -1
        if atom in stacked:
            return "y", stacked[atom]
        return None

    # Residuals, each value once.
    atoms = [known.inputs[i] if where == "in" else known.outputs[i] for where, i in split.residuals]
    variable: dict[Any, Var] = {}
    names: dict[Var, Any] = {}
    for var, atom in zip(split.unknown.inputs, atoms):
        if type(atom) is not Var:
            names[var] = atom
        elif variable.setdefault(atom, var) is not var:
            names[var] = variable[atom]

    def size(atom: Var) -> int:
        where = ("const", -1) if atom in constants else source(atom)
        # What is computed before the loop is kept once, not for each step.
        return max(atom.type.nbytes, 8) if where is None else 1 if where[0] == "before" else 0

    # What is cheap is computed again, from what is at hand or stored anyway.
    _, rebuilt = kept_and_rebuilt(
        variable, defined, size, lambda eqn: eqn.primitive.name in (MOVES if eqn.outputs[0] in invariant else CHEAP)
    )

    # The later body reads what is at hand, the stored values and what it rebuilds from them.
    made = {v for eqn in rebuilt for v in eqn.outputs}
    consts: list[tuple[str, int]] = []
    xs: list[tuple[str, int]] = []
    const_vars: list[Var] = []
    x_vars: list[Var] = []
    extra: list[Var] = []
    closed: list[Constant] = []

    def later(atom: Any) -> Any:
        if type(atom) is not Var:
            return atom
        known_var = bound.get(atom)
        if known_var is not None:
            return known_var
        var = bound[atom] = variable.get(atom) or Var(atom.type, atom.name)
        if atom in made:
            return var
        if atom in constants:
            closed.append(Constant(var, constants[atom]))
            return var
        where = source(atom)
        if where is None:
            extra.append(atom)
            where = ("y", n_outs - num_carry + len(extra) - 1)
        if where[0] == "before":
            where = ("before", len(before))
            before.append(atom)
        if where[0] in ("const", "before"):
            consts.append(where)
            const_vars.append(var)
        else:
            xs.append(where)
            x_vars.append(var)
        return var

    bound: dict[Var, Var] = {}
    equations = [
        eqn.replace(inputs=[later(a) for a in eqn.inputs], outputs=[later(v) for v in eqn.outputs])
        for eqn in rebuilt
    ]
    for atom in variable:
        later(atom)
    rest = renamed(split.unknown, names) if names else split.unknown
    body = rest.replace(
        inputs=[*const_vars, *x_vars, *rest.inputs[split.num_residuals :]],
        constants=[*rest.constants, *closed],
        equations=[*equations, *rest.equations],
    )
    first = _needed_before(known, num_consts, before) if before else None
    now = known.replace(outputs=[*known.outputs[:n_outs], *extra])
    return Plan(now, first, body, tuple(consts), tuple(xs), split.unknown_out, n_outs)


def _invariants(body: Program, num_consts: int) -> set[Var]:
    """What a body computes from its constants alone."""
    fixed: set[Var] = set(body.inputs[:num_consts]) | {c.var for c in body.constants}
    found: set[Var] = set()
    for eqn in body.equations:
        if not eqn.has_effects and all([type(a) is not Var or a in fixed for a in eqn.inputs]):
            fixed.update(eqn.outputs)
            found.update(eqn.outputs)
    return found


def _needed_before(body: Program, num_consts: int, results: list[Var]) -> Program:
    live = set(results)
    kept = []
    for eqn in reversed(body.equations):
        if any([v in live for v in eqn.outputs]):
            kept.append(eqn)
            live.update([a for a in eqn.inputs if type(a) is Var])
    constants = [c for c in body.constants if c.var in live]
    return Program(body.inputs[:num_consts], constants, reversed(kept), results, f"{body.name}_before")


def _run_now(
    plan: Plan, consts: Sequence[Any], init: Sequence[Any], xs: Sequence[Any], params: dict[str, Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Run the loop that is known, under the current interpreter: its results, and the later loop's constant and scanned residuals."""
    outs = bind_loop(_params(params, plan.now, len(consts), len(init)), *consts, *init, *xs)
    first = run(plan.before, *consts) if plan.before is not None else ()
    values: dict[str, Sequence[Any]] = {"const": consts, "x": xs, "y": outs[len(init) :], "before": first}
    return list(outs[: plan.num_outs]), [values[k][i] for k, i in plan.consts], [values[k][i] for k, i in plan.xs]


def later_body(plan: Plan, num_consts: int, num_carry: int) -> Program:
    """The later body with its inputs in the order of a scan's: residual constants, constants, carry, residual slices, slices."""
    rc, rx, consts, carry, xs = regrouped(plan.later.inputs, len(plan.consts), len(plan.xs), num_consts, num_carry)
    return plan.later.replace(inputs=[*rc, *consts, *carry, *rx, *xs])


@cached
def linearized_body(body: Program, nonzero: tuple[bool, ...], carry_nz: tuple[bool, ...], num_consts: int) -> Plan:
    forced = carry_nz + (False,) * (len(body.outputs) - len(carry_nz))
    return _plan(linearize_program(body, nonzero, forced), num_consts, len(carry_nz))


def _scan_linearize(nonzero: Sequence[bool], primals: Sequence[Any], **params: Any) -> tuple[Any, Any, Any]:
    ahead = _invariants_ahead(nonzero, primals, params) if params.get("length", 0) > 1 else None
    return ahead or _linearize_loop_as_is(nonzero, primals, **params)


def _invariants_ahead(nonzero: Sequence[bool], primals: Sequence[Any], params: dict[str, Any]) -> tuple[Any, Any, Any] | None:
    """Linearize a loop of which part depends on constants alone, and smoothly on some of those: that part once, before the loop.

    So the backward loop sums up cotangents of its results, and not, at each step, what follows from them.
    """
    nc = params["num_consts"]
    found = invariant_part(params["body"], nc)
    if found is None or not any(may_have_tangents(found[0], tuple(nonzero[:nc]))):
        return None
    before, body = found
    results, results_nz, linear_before = linearize_call(
        nonzero[:nc], primals[:nc], program=before, name=before.name, inline=False
    )
    outs, nonzero_out, linear_after = _linearize_loop_as_is(
        [*nonzero[:nc], *results_nz, *nonzero[nc:]],
        [*primals[:nc], *results, *primals[nc:]],
        **{**params, "body": body, "num_consts": nc + len(results)},
    )
    n = sum(nonzero[:nc])

    def linear(*tangents: Any) -> Sequence[Any]:
        dots = linear_before(*tangents[:n]) if any(results_nz) else ()
        return linear_after(*tangents[:n], *dots, *tangents[n:])

    return outs, nonzero_out, linear


def _linearize_loop_as_is(nonzero: Sequence[bool], primals: Sequence[Any], **params: Any) -> tuple[Any, Any, Any]:
    if "slots" in params:
        return linearize_loop(nonzero, primals, bind_loop(params, *primals), **params)
    body, nc, nk = params["body"], params["num_consts"], params["num_carry"]
    consts_nz, carry_nz, xs_nz = split_scan(nonzero, nc, nk)
    init_nz = carry_nz
    carry_nz = carries_with_tangents(body, consts_nz, carry_nz, xs_nz)
    plan = linearized_body(body, consts_nz + carry_nz + xs_nz, carry_nz, nc)
    consts, init, xs = split_scan(primals, nc, nk)
    outs, res_consts, res_xs = _run_now(plan, consts, init, xs, params)
    later = later_body(plan, sum(consts_nz), sum(carry_nz))

    def linear(*tangents: Any) -> Sequence[Any]:
        const_dots, init_dots, xs_dots = regrouped(tangents, sum(consts_nz), sum(init_nz))
        dots = with_zeros(init_dots, init_nz, [type_of(x) for x in init])
        carried = [instantiate(t) for t in chosen(dots, carry_nz)]
        rule_params = _params(params, later, len(res_consts) + len(const_dots), len(carried))
        return bind_loop(rule_params, *res_consts, *const_dots, *carried, *res_xs, *xs_dots)

    return outs, plan.unknown_out, linear


def linearize_loop(
    nonzero: Sequence[bool], primals: Sequence[Any], outs: Sequence[Any], **params: Any
) -> tuple[Any, Any, Any]:
    """Linearize a loop with `slots`, whose results are `outs`, keeping only its operands.

    The linear loop runs the primal one along, and is transposed with snapshots (`treeverse`).
    """
    types = [type_of(x) for x in primals]
    body, nc, nk = params["body"], params["num_consts"], params["num_carry"]
    consts_nz, carry_nz, xs_nz = split_scan(tuple(nonzero), nc, nk)
    carry_nz = carries_with_tangents(body, consts_nz, carry_nz, xs_nz)
    _, nonzero_out = jvp_program(body, consts_nz + carry_nz + xs_nz, carry_nz + (False,) * (len(body.outputs) - nk))

    def linear(*tangents: Any) -> Sequence[Any]:
        _, dots = _scan_jvp(primals, with_zeros(tangents, nonzero, types), **params)
        return [dot for dot, nz in zip(dots, nonzero_out) if nz]

    return outs, nonzero_out, linear


@cached
def partial_body(body: Program, unknown: tuple[bool, ...], carry: tuple[bool, ...], num_consts: int) -> Plan:
    forced = carry + (False,) * (len(body.outputs) - len(carry))
    split = partial_program(body, unknown, forced)
    return _plan(split, unknown[:num_consts].count(False), carry.count(False))


def _split_loop(unknown: Sequence[bool], args: Sequence[Any], params: dict[str, Any], now: Any) -> tuple[Any, Any, Any, Any]:
    """Run the part of a loop that is known, under `now`, and describe the rest as a scan of its own.

    Returns (known results, which results are unknown, operands of the rest with None for unknown ones' residuals, its params).
    """
    body, nc, nk = params["body"], params["num_consts"], params["num_carry"]
    consts_u, carry_u, xs_u = split_scan(unknown, nc, nk)
    while True:
        forced = carry_u + (False,) * (len(body.outputs) - nk)
        out = partial_program(body, consts_u + carry_u + xs_u, forced).unknown_out[:nk]
        if out == carry_u:
            break
        carry_u = either(carry_u, out)
    plan = partial_body(body, consts_u + carry_u + xs_u, carry_u, nc)
    consts, init, xs = split_scan(args, nc, nk)
    known_consts, known_init, known_xs = (
        [x for x, u in zip(group, mask) if not u] for group, mask in ((consts, consts_u), (init, carry_u), (xs, xs_u))
    )
    with using(now):
        outs, res_consts, res_xs = _run_now(plan, known_consts, known_init, known_xs, params)
    rest_consts, rest_init, rest_xs = chosen(consts, consts_u), chosen(init, carry_u), chosen(xs, xs_u)
    later = later_body(plan, len(rest_consts), len(rest_init))
    operands = (*res_consts, *rest_consts, *rest_init, *res_xs, *rest_xs)
    # Which of the original operands each operand of the rest is; None for residuals.
    origin = [i for i, u in enumerate(consts_u) if u]
    origin_carry = [nc + i for i, u in enumerate(carry_u) if u]
    origin_xs = [nc + nk + i for i, u in enumerate(xs_u) if u]
    where = [None] * len(res_consts) + origin + origin_carry + [None] * len(res_xs) + origin_xs
    return outs, plan.unknown_out, (operands, where), _params(params, later, len(res_consts) + len(rest_consts), len(rest_init))


def _scan_partial(partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]) -> tuple[Any, ...]:
    if "slots" in params:  # what is known would have to be kept for every step
        return partial.staging.process(*as_equation(params, args))
    outs, unknown_out, (operands, _), rest = _split_loop(unknown, args, params, partial.parent)
    known = iter(outs)
    staged = iter(partial.staging.process(*as_equation(rest, operands)))
    return tuple([next(staged) if u else next(known) for u in unknown_out])


PARTIAL_RULES[scan_p] = _scan_partial


# Reverse mode


def transpose_scan(cts: Sequence[Any], inputs: Sequence[Any], **params: Any) -> Sequence[Any]:
    body, nc, nk = params["body"], params["num_consts"], params["num_carry"]
    linear = [type(x) is Linear for x in inputs]
    if "slots" in params and params.get("length") != 0:
        return transpose_in_bounded_memory(cts, inputs, params)
    lin_consts, lin_carry, lin_xs = split_scan(linear, nc, nk)
    if not all(lin_carry):
        if not all(carries_with_tangents(body, lin_consts, lin_carry, lin_xs)):
            return _transpose_rest(cts, inputs, linear, params)
        # A carry that starts at a known value but becomes linear is affine: its start does not matter to the cotangents of the others.
        given = [Linear(type_of(x)) if nc <= i < nc + nk and type(x) is not Linear else x for i, x in enumerate(inputs)]
        return [ct if lin else None for ct, lin in zip(transpose_scan(cts, given, **params), linear)]
    consts, carry, xs = split_scan(inputs, nc, nk)
    ys_nz = nonzeros(cts[nk:])
    carry_nz = nonzeros(cts[:nk])
    n_lc = sum(lin_consts)
    mask = lin_consts + (True,) * nk + lin_xs
    while True:
        forced = (False,) * n_lc + carry_nz + (False,) * sum(lin_xs)
        turned, out_nz = transpose_program(body, mask, carry_nz + ys_nz, forced)
        if out_nz[n_lc : n_lc + nk] == carry_nz:
            break
        carry_nz = either(carry_nz, out_nz[n_lc : n_lc + nk])
    consts_nz, xs_nz = out_nz[:n_lc], out_nz[n_lc + nk :]
    n_res_consts, n_res_xs, n_acc, n_carry = nc - n_lc, len(xs) - sum(lin_xs), sum(consts_nz), sum(carry_nz)
    step = _accumulating(turned, n_res_consts, n_res_xs, n_acc, n_carry)
    in_types = [x.type if type(x) is Linear else None for x in inputs]
    acc = [instantiate(Zero(tangent_type(t))) for t in chosen([t for t in in_types[:nc] if t is not None], consts_nz)]
    ct_carry = [instantiate(ct) for ct in chosen(cts[:nk], carry_nz)]
    outs = bind_loop(
        _params(params, step, n_res_consts, n_carry + n_acc, not params["reverse"]),
        *[x for x in consts if type(x) is not Linear],
        *ct_carry,
        *acc,
        *[x for x in xs if type(x) is not Linear],
        *chosen(cts[nk:], ys_nz),
    )
    of_carry, of_consts, of_xs = (iter(g) for g in regrouped(outs, n_carry, n_acc))
    flags = iter(consts_nz + carry_nz + xs_nz)
    results: list[Any] = []
    for i, x in enumerate(inputs):
        if type(x) is not Linear:
            results.append(None)
            continue
        group = of_consts if i < nc else of_carry if i < nc + nk else of_xs
        results.append(next(group) if next(flags) else Zero(tangent_type(x.type)))
    return results


def _accumulating(turned: Program, n_res_consts: int, n_res_xs: int, n_acc: int, n_carry: int) -> Program:
    """The transposed body as the body of a scan that adds up the cotangents of constants.

    turned: (residual constants, residual slices, cotangents of carry and ys) -> (cotangents of constants, of the carry, of the slices).
    Result: (residual constants; cotangents of the carry, sums; residual slices, cotangents of ys) -> (carry, sums; cotangents of slices).
    """
    res_consts, res_xs, ct_carry, ct_ys = regrouped(turned.inputs, n_res_consts, n_res_xs, n_carry)
    out_consts, out_carry, out_xs = regrouped(turned.outputs, n_acc, n_carry)
    if any([is_tape(a.type.dtype) for a in out_consts]):

        def step(*values: Any) -> list[Any]:
            consts, carry, sums, xs, ys = regrouped(values, n_res_consts, n_carry, n_acc, n_res_xs)
            found, rest = regrouped(run(turned, *consts, *xs, *carry, *ys), n_acc)
            return [*rest[:n_carry], *map(add_values, sums, found), *rest[n_carry:]]

        inputs = [*res_consts, *ct_carry, *out_consts, *res_xs, *ct_ys]
        return stage(step, [a.type for a in inputs], turned.name)
    sums = [Var(a.type) for a in out_consts]
    totals = [Var(a.type) for a in out_consts]
    equations = [Equation(add_p, [s, a], [t], {}) for s, a, t in zip(sums, out_consts, totals)]
    return turned.replace(
        inputs=[*res_consts, *ct_carry, *sums, *res_xs, *ct_ys],
        equations=[*turned.equations, *equations],
        outputs=[*out_carry, *totals, *out_xs],
    )


def _transpose_rest(cts: Sequence[Any], inputs: Sequence[Any], linear: Sequence[bool], params: dict[str, Any]) -> Sequence[Any]:
    """Transpose a loop part of whose carry is not linear (a counter, a loop recomputed): that part runs first, as a loop of its own."""
    _, unknown_out, (operands, where), rest = _split_loop(linear, inputs, params, current())
    return transpose_later(cts, inputs, unknown_out, operands, where, rest)


def transpose_later(
    cts: Sequence[Any],
    inputs: Sequence[Any],
    unknown_out: Sequence[bool],
    operands: Sequence[Any],
    where: Sequence[int | None],
    loop: dict[str, Any],
) -> list[Any]:
    """Transpose what is left of a loop that was split: `loop` over `operands`, each of which is the original operand that `where` says."""
    found = transpose_scan([ct for ct, u in zip(cts, unknown_out) if u], operands, **loop)
    results: list[Any] = [Zero(tangent_type(x.type)) if type(x) is Linear else None for x in inputs]
    for i, ct in zip(where, found):
        if i is not None and type(inputs[i]) is Linear:
            results[i] = ct
    return results


# Batching


def _scan_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
    body, nc, nk, over_tapes = params["body"], params["num_consts"], params["num_carry"], "count" in params
    const_dims, carry_dims, xs_dims = split_scan(dims, nc, nk)
    consts, init, xs = split_scan(args, nc, nk)
    size = axis.size
    given, const_dims, carry_dims = carry_dims, at_front(const_dims), at_front(carry_dims)
    slice_dims = tuple([in_elements(d) for d in xs_dims]) if over_tapes else at_front(xs_dims)
    free = (None,) * (len(body.outputs) - nk)
    while True:
        step, out_dims = batch_program(body, axis, const_dims + carry_dims + slice_dims, carry_dims + free)
        if over_tapes:
            free = as_elements(out_dims[nk:], free)
        if out_dims == carry_dims + tuple([d if to is None else to for d, to in zip(out_dims[nk:], free)]):
            break
        carry_dims = front(either(as_mask(carry_dims), as_mask(out_dims[:nk])))
    outs = bind_loop(
        _params(params, step, nc, nk),
        *moved_to_front(consts, dims[:nc], size),
        *[to_dim(x, d, to, size) for x, d, to in zip(init, given, carry_dims)],
        # The scanned dimension stays first.
        *[x if over_tapes or d is None or d < 0 else to_dim(x, d, 1, size) for x, d in zip(xs, xs_dims)],
    )
    if over_tapes:
        return outs, [*carry_dims, *map(in_elements, out_dims[nk:])]
    return outs, [*carry_dims, *[d if d is None or d < 0 else d + 1 for d in out_dims[nk:]]]


scan_p.define(jvp=_scan_jvp, linearize=_scan_linearize, transpose=transpose_scan, batch=_scan_batch)


# Scans over tapes: the same, with the number of steps in front of the operands.


def _tape_scan_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    return _scan_jvp(primals[1:], tangents[1:], **params, count=primals[0])


def _tape_scan_linearize(nonzero: Sequence[bool], primals: Sequence[Any], **params: Any) -> tuple[Any, Any, Any]:
    return _scan_linearize(nonzero[1:], primals[1:], **params, count=primals[0])


def _tape_scan_transpose(cts: Sequence[Any], inputs: Sequence[Any], **params: Any) -> Sequence[Any]:
    return [None, *transpose_scan(cts, inputs[1:], **params, count=inputs[0])]


def _tape_scan_partial(
    partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]
) -> tuple[Any, ...]:
    if unknown[0]:
        return partial.staging.process(tape_scan_p, args, params)
    return _scan_partial(partial, args[1:], unknown[1:], {**params, "count": args[0]})


def _tape_scan_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
    tapes = dims[1 + params["num_consts"] + params["num_carry"] :]
    if dims[0] is not None or not lengths_agree(tapes):
        return one_by_one(axis, args, dims, tape_scan_p, params)
    return _scan_batch(axis, args[1:], dims[1:], **params, count=args[0])


PARTIAL_RULES[tape_scan_p] = _tape_scan_partial
tape_scan_p.define(
    jvp=_tape_scan_jvp, linearize=_tape_scan_linearize, transpose=_tape_scan_transpose, batch=_tape_scan_batch
)
