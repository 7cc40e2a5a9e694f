"""Derivatives and batching of while, whose number of steps is known only when it has run.

Linearization runs the loop once, as a `record_while` that leaves the residuals of each step on tapes (`ir.tapes`); which values these
are is decided as for scan. The linear loop is a scan over the tapes, of as many steps as the loop had, and its transpose reads them
from the last step to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, current, type_of, using
from tracegrad.ir.control_flow import scan_p, split_while, while_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Declined, Primitive
from tracegrad.ir.program import Program, Var
from tracegrad.ir.tapes import COUNT, empty_tape_p, record_while_p, tape_length_p
from tracegrad.ir.types import tangent_type
from tracegrad.transforms.batch import batch_program, concerns, one_by_one, to_dim
from tracegrad.transforms.control_flow import (
    as_mask,
    at_front,
    chosen,
    either,
    front,
    moved_to_front,
    nonzeros,
    select_examples,
    with_zeros,
)
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.partial import PARTIAL_RULES, Partial, partial_program
from tracegrad.transforms.scan import (
    Plan,
    bind_loop,
    carries_with_tangents,
    later_body,
    linearize_loop,
    linearized_body,
    partial_body,
    regrouped,
    transpose_later,
)
from tracegrad.transforms.staged import stage
from tracegrad.transforms.tape_values import as_elements, in_elements, unbatched
from tracegrad.transforms.zero import Axis, Linear, Zero, instantiate

# Forward mode


def _dual(
    primitive: Primitive,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    cond: Program,
    body: Program,
    cond_nconsts: int,
    body_nconsts: int,
    **slots: int,
) -> Any:
    """Run the loop that carries tangents along.

    Returns (last carry, its tangents with symbolic zeros, what follows the carry in the results: nothing for while, for record_while the
    number of steps, the tapes, and their tangents).
    """
    _, consts_nz, carry_nz = split_while(nonzeros(tangents), cond_nconsts, body_nconsts)
    n_carry, n_kept = len(carry_nz), len(body.outputs) - len(carry_nz)
    carry_nz = carries_with_tangents(body, consts_nz, carry_nz, ())
    both, out_nz = jvp_program(body, consts_nz + carry_nz, carry_nz + (False,) * n_kept)
    kept_nz = out_nz[n_carry:]
    test = cond.replace(inputs=[*cond.inputs, *[Var(tangent_type(t)) for t in chosen(body.out_types[:n_carry], carry_nz)]])
    n = len(body.inputs)
    consts, carry, const_dots, carry_dots = regrouped(both.inputs, body_nconsts, n - body_nconsts, sum(consts_nz))
    out, kept, out_dots, kept_dots = regrouped(both.outputs, n_carry, n_kept, sum(carry_nz))
    both = both.replace(inputs=[*consts, *const_dots, *carry, *carry_dots], outputs=[*out, *out_dots, *kept, *kept_dots])
    cond_consts, body_consts, init = split_while(primals, cond_nconsts, body_nconsts)
    _, const_tangents, init_tangents = split_while(tangents, cond_nconsts, body_nconsts)
    outs = bind(
        primitive,
        *cond_consts,
        *body_consts,
        *chosen(const_tangents, consts_nz),
        *init,
        *[instantiate(t) for t in chosen(init_tangents, carry_nz)],
        cond=test,
        body=both,
        cond_nconsts=cond_nconsts,
        body_nconsts=body_nconsts + len(const_dots),
        **slots,
    )
    last, last_dots, count, tapes, tape_dots = regrouped(outs, n_carry, len(carry_dots), 1, n_kept)
    last_dots = with_zeros(last_dots, carry_nz, body.out_types[:n_carry])
    if primitive is while_p:
        return last, last_dots, (), ()
    return last, last_dots, [*count, *tapes], [Zero(tangent_type(COUNT)), *with_zeros(tape_dots, kept_nz, [type_of(t) for t in tapes])]


def _while_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    last, last_dots, _, _ = _dual(while_p, primals, tangents, **params)
    return last, last_dots


def _record_while_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    last, last_dots, kept, kept_dots = _dual(record_while_p, primals, tangents, **params)
    return [*last, *kept], [*last_dots, *kept_dots]


# Splitting a loop into one that runs now and one that comes later, over the tapes of the first


def _record(plan: Plan, consts: Sequence[Any], init: Sequence[Any], test: Program, cond_consts: Sequence[Any]) -> tuple[Any, ...]:
    """Run the loop that is known: its results without those kept for later, its number of steps, and the later loop's constants and tapes."""
    n = len(init)
    outs = bind(
        record_while_p,
        *cond_consts,
        *consts,
        *init,
        cond=test,
        body=plan.now,
        cond_nconsts=len(cond_consts),
        body_nconsts=len(consts),
    )
    count, tapes = outs[n], outs[n + 1 :]
    first = run(plan.before, *consts) if plan.before is not None else ()
    values: dict[str, Sequence[Any]] = {"const": consts, "y": tapes, "before": first}
    kept = tapes[: plan.num_outs - n]
    return outs[:n], kept, count, [values[k][i] for k, i in plan.consts], [values[k][i] for k, i in plan.xs]


def _while_linearize(nonzero: Sequence[bool], primals: Sequence[Any], **params: Any) -> tuple[Any, Any, Any]:
    if "slots" in params:
        return _linearize_in_bounded_memory(nonzero, primals, **params)
    last, kept, nonzero_out, linear, _ = _linearized(nonzero, primals, **params)
    assert not kept
    return last, nonzero_out, linear


def _linearize_in_bounded_memory(
    nonzero: Sequence[bool], primals: Sequence[Any], *, slots: int, **params: Any
) -> tuple[Any, Any, Any]:
    """Count the steps and keep nothing else: what is left to differentiate is a loop of that many steps, with snapshots."""
    nc, nb = params["cond_nconsts"], params["body_nconsts"]
    *last, count = bind(record_while_p, *primals, **params)
    loop = {"body": params["body"], "reverse": False, "num_consts": nb, "num_carry": len(last), "count": count, "slots": slots}
    # Its results are those that are known already, and are not computed again.
    _, nonzero_out, linear = linearize_loop(nonzero[nc:], primals[nc:], last, **loop)
    return last, nonzero_out, lambda *tangents: linear(*tangents[sum(nonzero[:nc]) :])


def _record_while_linearize(nonzero: Sequence[bool], primals: Sequence[Any], **params: Any) -> tuple[Any, Any, Any]:
    last, kept, nonzero_out, linear, count = _linearized(nonzero, primals, **params)
    n = len(last)
    return [*last, count, *kept], (*nonzero_out[:n], False, *nonzero_out[n:]), linear


def _linearized(
    nonzero: Sequence[bool], primals: Sequence[Any], *, cond: Program, body: Program, cond_nconsts: int, body_nconsts: int
) -> tuple[Any, ...]:
    _, consts_nz, init_nz = split_while(tuple(nonzero), cond_nconsts, body_nconsts)
    carry_nz = carries_with_tangents(body, consts_nz, init_nz, ())
    plan = linearized_body(body, consts_nz + carry_nz, carry_nz, body_nconsts)
    cond_consts, body_consts, init = split_while(primals, cond_nconsts, body_nconsts)
    last, kept, count, res_consts, tapes = _record(plan, body_consts, init, cond, cond_consts)
    later = later_body(plan, sum(consts_nz), sum(carry_nz))
    types = [type_of(x) for x in init]
    skipped = sum(nonzero[:cond_nconsts])

    def linear(*tangents: Any) -> Sequence[Any]:
        # What the condition reads has no part in the derivative.
        const_dots, init_dots = regrouped(tangents[skipped:], sum(consts_nz))
        carried = [instantiate(t) for t in chosen(with_zeros(init_dots, init_nz, types), carry_nz)]
        loop = {"body": later, "reverse": False, "num_consts": len(res_consts) + len(const_dots), "num_carry": len(carried)}
        return bind_loop({**loop, "count": count}, *res_consts, *const_dots, *carried, *tapes)

    return last, kept, plan.unknown_out, linear, count


def _split(unknown: Sequence[bool], args: Sequence[Any], params: dict[str, Any], now: Any) -> tuple[Any, ...] | None:
    """Run the part of a while or record_while that is known, under `now`, and describe the rest as a scan over its tapes.

    Returns (known last carry, known tapes, which carries and tapes are unknown, operands of the rest, which original operand each is or None,
    params of the rest); None if the number of steps depends on what is unknown.
    """
    cond, body, nc, nb = params["cond"], params["body"], params["cond_nconsts"], params["body_nconsts"]
    cond_u, consts_u, carry_u = split_while(tuple(unknown), nc, nb)
    n = len(carry_u)
    while True:
        forced = carry_u + (False,) * (len(body.outputs) - n)
        out = partial_program(body, consts_u + carry_u, forced).unknown_out[:n]
        if out == carry_u:
            break
        carry_u = either(carry_u, out)
    if partial_program(cond, cond_u + carry_u).unknown_out[0]:
        return None
    # The condition may name unknown values that it does not read.
    reads = {a for eqn in cond.equations for a in eqn.inputs} | set(cond.outputs)
    cond_consts, body_consts, init = split_while(args, nc, nb)
    test_consts = [x for x, v in zip(cond_consts, cond.inputs) if v in reads]
    known = [not u for u in carry_u]
    test = cond.replace(inputs=[*[v for v in cond.inputs[:nc] if v in reads], *chosen(cond.inputs[nc:], known)])
    if any([v in reads for v, u in zip(cond.inputs[nc:], carry_u) if u]):
        return None
    plan = partial_body(body, consts_u + carry_u, carry_u, nb)
    known_consts = [x for x, u in zip(body_consts, consts_u) if not u]
    with using(now):
        last, kept, count, res_consts, tapes = _record(plan, known_consts, chosen(init, known), test, test_consts)
    rest_consts, rest_init = chosen(body_consts, consts_u), chosen(init, carry_u)
    later = later_body(plan, len(rest_consts), len(rest_init))
    operands = (*res_consts, *rest_consts, *rest_init, *tapes)
    where = [None] * len(res_consts)
    where += [nc + i for i, u in enumerate(consts_u) if u] + [nc + nb + i for i, u in enumerate(carry_u) if u]
    where += [None] * len(tapes)
    loop = {"body": later, "reverse": False, "num_consts": len(res_consts) + len(rest_consts), "num_carry": len(rest_init)}
    return last, kept, plan.unknown_out, operands, where, {**loop, "count": count}


def _while_partial(partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]) -> tuple[Any, ...]:
    # With slots, what is known would have to be kept for every step.
    found = _split(unknown, args, params, partial.parent) if "slots" not in params else None
    if found is None:
        return partial.staging.process(while_p, args, params)
    last, _, unknown_out, operands, _, loop = found
    with using(partial.staging):
        staged = iter(bind_loop(loop, *operands))
    known = iter(last)
    return tuple([next(staged) if u else next(known) for u in unknown_out])


def _record_while_partial(
    partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]
) -> tuple[Any, ...]:
    found = _split(unknown, args, params, partial.parent)
    if found is None:
        return partial.staging.process(record_while_p, args, params)
    last, kept, unknown_out, operands, _, loop = found
    with using(partial.staging):
        staged = iter(bind_loop(loop, *operands) if any(unknown_out) else ())
    known = iter((*last, *kept))
    results = [next(staged) if u else next(known) for u in unknown_out]
    n = len(args) - params["cond_nconsts"] - params["body_nconsts"]
    return (*results[:n], loop["count"], *results[n:])


def _while_transpose(cts: Sequence[Any], inputs: Sequence[Any], **params: Any) -> Sequence[Any]:
    found = _split([type(x) is Linear for x in inputs], inputs, params, current())
    if found is None:
        raise ValueError(
            f"linear_transpose of a while loop whose number of steps depends on the linear arguments, which is not a linear function. The "
            f"loop is {params['body'].name}."
        )
    _, _, unknown_out, operands, where, loop = found
    return transpose_later(cts, inputs, unknown_out, operands, where, loop)


# Batching


def _while_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
    return _batched(while_p, axis, args, dims, **params)


def _record_while_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
    return _batched(record_while_p, axis, args, dims, **params)


def _batched(
    primitive: Primitive,
    axis: Axis,
    args: Sequence[Any],
    dims: Sequence[int | None],
    *,
    cond: Program,
    body: Program,
    cond_nconsts: int,
    body_nconsts: int,
    **slots: int,
) -> tuple[Any, Any]:
    params = {"cond": cond, "body": body, "cond_nconsts": cond_nconsts, "body_nconsts": body_nconsts, **slots}
    original = args, dims
    together = concerns(axis.name, primitive, params)  # a collective needs all examples at the same step
    args = moved_to_front(args, dims, axis.size)
    cond_dims, body_dims, carry_dims = split_while(at_front(dims), cond_nconsts, body_nconsts)
    cond_consts, body_consts, init = split_while(args, cond_nconsts, body_nconsts)
    n = len(init)
    own = as_mask(carry_dims)
    free: tuple[int | None, ...] = (None,) * (len(body.outputs) - n)
    while True:
        test, (pred_dim,) = batch_program(cond, axis, (*cond_dims, *carry_dims), (None,))
        if pred_dim is not None:
            width = lanes(cond, body)
            if not together and (primitive is record_while_p or width == 1):
                return one_by_one(axis, *original, primitive, params)
            if not together and width < axis.size:
                return _in_blocks(axis, *original, params, width)
            if primitive is record_while_p:
                raise NotImplementedError(
                    f"reverse mode of a while loop that holds a collective over the axis {axis.name!r}, under a vmap over that axis in which "
                    "examples take different numbers of steps; use a scan, or let the condition be the same for all examples"
                )
            carry_dims = (0,) * n
        step, out_dims = batch_program(body, axis, (*body_dims, *carry_dims), (*carry_dims, *free))
        free = as_elements(out_dims[n:], free)
        if tuple(out_dims) == (*carry_dims, *[d if to is None else to for d, to in zip(out_dims[n:], free)]):
            break
        carry_dims = front(either(as_mask(carry_dims), as_mask(out_dims[:n])))
    init = tuple([x if b or d is None else to_dim(x, None, 0, axis.size) for x, b, d in zip(init, own, carry_dims)])
    if pred_dim is None:
        outs = bind(primitive, *cond_consts, *body_consts, *init, **{**params, "cond": test, "body": step})
        if primitive is while_p:
            return outs, carry_dims
        return outs, [*carry_dims, None, *map(in_elements, out_dims[n:])]
    test, _ = batch_program(cond, axis, (*cond_dims, *carry_dims), (0,))
    return _while_until_all(test, step, cond_consts, body_consts, init), carry_dims


def _in_blocks(
    axis: Axis, args: Sequence[Any], dims: Sequence[int | None], params: dict[str, Any], width: int
) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """A loop over blocks of `width` examples, each of which goes on until all of its examples are done. The last example fills the last block."""
    blocks = -(-axis.size // width)
    fixed = [x for x, d in zip(args, dims) if d is None]
    scanned = [_blocked(to_dim(x, d, 0, axis.size), blocks, width) for x, d in zip(args, dims) if d is not None]
    inner_dims = [None if d is None else 0 for d in dims]

    def block(*values: Any) -> Sequence[Any]:
        shared, own = iter(values[: len(fixed)]), iter(values[len(fixed) :])
        operands = [next(shared if d is None else own) for d in dims]
        outs, out_dims = _while_batch(Axis(width, axis.name), operands, inner_dims, **params)
        return [to_dim(x, d, 0, width) for x, d in zip(outs, out_dims)]

    types = [type_of(x) for x in fixed]
    types += [unbatched(type_of(x), 0) for x in scanned]
    loop = {"length": blocks, "reverse": False, "num_consts": len(fixed), "num_carry": 0, "unroll": 1}
    outs = bind(scan_p, *fixed, *scanned, body=stage(block, types, params["body"].name), **loop)
    rows = [ops.reshape(x, (blocks * width, *type_of(x).shape[2:])) for x in outs]
    return tuple([ops.slice_in_dim(x, 0, axis.size) for x in rows]), (0,) * len(outs)


def _blocked(x: Any, blocks: int, width: int) -> Any:
    shape = type_of(x).shape
    missing = blocks * width - shape[0]
    if missing:
        last = ops.slice_in_dim(x, shape[0] - 1, shape[0])
        x = ops.concatenate([x, ops.broadcast_in_dim(last, (missing, *shape[1:]), tuple(range(len(shape))))], 0)
    return ops.reshape(x, (blocks, width, *shape[1:]))


LANES, LANES_OF_GROUPS = 32, 20
"""How many numbers a loop over a block of examples works on at a time: enough to fill vector registers and hide their latency, and few
enough that examples rarely wait for others. Examples of three to eight numbers each become straight-line code, number by number, which LLVM
searches for vectors: of half as many it finds as good ones, in a quarter of the time, and better ones in even numbers of examples. Measured."""


def lanes(cond: Program, body: Program) -> int:
    """How many examples of a loop are worth running side by side, in vector registers, though all wait for the last: one if the body's
    arrays fill vectors by themselves, or if it holds loops, branches, or what is no arithmetic."""
    size = 1
    for eqn in (*cond.equations, *body.equations):
        if eqn.primitive.regions or eqn.has_effects or eqn.primitive.family not in ("elementwise", "structural", "reductions", "random"):
            return 1
        size = max([size, *[a.type.size for a in (*eqn.inputs, *eqn.outputs)]])
    if 3 <= size <= 8:
        return LANES_OF_GROUPS // size // 2 * 2
    return max(LANES // size, 1)


def _while_until_all(test: Program, step: Program, cond_consts: Any, body_consts: Any, init: Any) -> tuple[Any, ...]:
    """Loop as long as any example has to; those that are done keep their values. Whether each goes on is carried along."""
    nc, nb = len(cond_consts), len(body_consts)

    def any_left(going: Any, *_: Any) -> list[Any]:
        return [ops.reduce_or(going, (0,))]

    def body(*values: Any) -> list[Any]:
        tests, consts, (going, *carry) = values[:nc], values[nc : nc + nb], values[nc + nb :]
        new = [select_examples(going, x, y) for x, y in zip(run(step, *consts, *carry), carry)]
        return [run(test, *tests, *new)[0], *new]

    going = run(test, *cond_consts, *init)[0]
    carry_types = [type_of(going), *[type_of(x) for x in init]]
    const_types = [type_of(x) for x in (*cond_consts, *body_consts)]
    outs = bind(
        while_p,
        *cond_consts,
        *body_consts,
        going,
        *init,
        cond=stage(any_left, carry_types, f"{test.name}_any"),
        body=stage(body, [*const_types, *carry_types], step.name),
        cond_nconsts=0,
        body_nconsts=nc + nb,
    )
    return outs[1:]


PARTIAL_RULES[while_p] = _while_partial
PARTIAL_RULES[record_while_p] = _record_while_partial
while_p.define(jvp=_while_jvp, linearize=_while_linearize, transpose=_while_transpose, batch=_while_batch)
record_while_p.define(
    jvp=_record_while_jvp,
    linearize=_record_while_linearize,
    batch=_record_while_batch,
    transpose=Declined("a loop that records is not linear; the loops over its tapes are"),
)


# Tapes by themselves


def _empty_tape_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, element: Any) -> tuple[Any, Any]:
    (tape,) = bind(empty_tape_p, element=element)
    return (tape,), (Zero(tangent_type(type_of(tape))),)


def _tape_length_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    return bind(tape_length_p, *primals), (Zero(tangent_type(COUNT)),)


def _tape_length_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None]) -> tuple[Any, Any]:
    if dims[0] is None or dims[0] < 0:
        return bind(tape_length_p, *args), (None,)
    return one_by_one(axis, args, dims, tape_length_p, {})


def _empty_tape_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, element: Any) -> tuple[Any, Any]:
    return bind(empty_tape_p, element=element), (None,)


empty_tape_p.define(jvp=_empty_tape_jvp, batch=_empty_tape_batch, transpose=Declined("it has no operands"))
tape_length_p.define(jvp=_tape_length_jvp, batch=_tape_length_batch, transpose=Declined("the number of steps is an integer"))
