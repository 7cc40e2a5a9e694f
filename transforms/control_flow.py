"""Derivatives and batching of cond and while. Those of scan are in `scan.py`.

Each rule makes new regions out of the old ones (`jvp_program` and its kind, which remember their results) and binds the primitive
again with more operands. Where a loop carries values, which of them have tangents, or a batch axis, is found as a fixpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of, using
from tracegrad.ir.control_flow import cond_p, split_while, while_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.structural import broadcast_in_dim_p
from tracegrad.ir.types import ArrayType, is_key, tangent_type
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.batch import batch_program, to_dim
from tracegrad.transforms.calls import linearize_call
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.linearize import linearize_program
from tracegrad.transforms.partial import PARTIAL_RULES, Partial, partial_program
from tracegrad.transforms.staged import Split, stage
from tracegrad.transforms.transpose import transpose_program
from tracegrad.transforms.zero import Axis, Linear, Zero, instantiate


def either(*rows: Sequence[bool]) -> tuple[bool, ...]:
    """Elementwise or."""
    return tuple([any(row) for row in zip(*rows, strict=True)])


def nonzeros(tangents: Sequence[Any]) -> tuple[bool, ...]:
    return tuple([type(t) is not Zero for t in tangents])


def chosen(xs: Sequence[Any], mask: Sequence[bool]) -> list[Any]:
    return [x for x, m in zip(xs, mask, strict=True) if m]


def with_zeros(values: Sequence[Any], nonzero: Sequence[bool], types: Sequence[ArrayType]) -> list[Any]:
    """`values` at the places that are nonzero, symbolic zeros at the others."""
    it = iter(values)
    return [next(it) if nz else Zero(tangent_type(t)) for nz, t in zip(nonzero, types, strict=True)]


def as_mask(dims: Sequence[int | None]) -> tuple[bool, ...]:
    return tuple([d is not None for d in dims])


def front(batched: Sequence[bool]) -> tuple[int | None, ...]:
    """Batch dimensions at the front, for those that are batched."""
    return tuple([0 if b else None for b in batched])


def moved_to_front(args: Sequence[Any], dims: Sequence[int | None], size: int) -> list[Any]:
    return [x if d is None else to_dim(x, d, 0, size) for x, d in zip(args, dims, strict=True)]


# cond


def _cond_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, branches: tuple[Program, ...]) -> tuple[Any, Any]:
    nonzero = nonzeros(tangents[1:])
    types = branches[0].out_types
    nonzero_out = either(*[jvp_program(b, nonzero)[1] for b in branches])
    both = tuple([jvp_program(b, nonzero, nonzero_out)[0] for b in branches])
    outs = bind(cond_p, *primals, *chosen(tangents[1:], nonzero), branches=both)
    return outs[: len(types)], with_zeros(outs[len(types) :], nonzero_out, types)


def _cond_linearize(nonzero: Sequence[bool], primals: Sequence[Any], *, branches: tuple[Program, ...]) -> tuple[Any, Any, Any]:
    index, *operands = primals
    if not isinstance(index, Tracer):
        # The branch is known: nothing of the others is computed or kept.
        branch = branches[min(max(int(index), 0), len(branches) - 1)]
        return linearize_call(nonzero[1:], operands, program=branch, name=branch.name, inline=False)
    mask = tuple(nonzero[1:])
    nonzero_out = either(*[linearize_program(b, mask).unknown_out for b in branches])
    splits = [linearize_program(b, mask, nonzero_out) for b in branches]
    known, unknown, pick = _unified(splits)
    outs = bind(cond_p, index, *operands, branches=known)
    residuals = pick(operands, outs)

    def linear(*tangents: Any) -> Sequence[Any]:
        return bind(cond_p, index, *residuals, *tangents, branches=unknown)

    return outs[: len(branches[0].outputs)], nonzero_out, linear


def _unified(splits: Sequence[Split]) -> tuple[tuple[Program, ...], tuple[Program, ...], Any]:
    """Known and unknown branches that agree in their operands and results.

    Stored residuals share slots: the k-th residual of a type in one branch and the k-th in another are one result of the cond, which a
    branch with fewer fills with zeros. Returns (known branches, unknown branches, pick(operands, results) -> residuals).
    """
    n_outs = splits[0].num_outs
    keys: dict[Any, ArrayType] = {}
    assigned: list[list[Any]] = []
    for split in splits:
        count: dict[ArrayType, int] = {}
        own = []
        for var, (where, i) in zip(split.unknown.inputs, split.residuals):
            if where == "in" or i < n_outs:
                key: Any = (where, i)
            else:
                t = var.type.strong()
                count[t] = count.get(t, -1) + 1
                key = ("slot", t, count[t])
            keys.setdefault(key, var.type)
            own.append(key)
        assigned.append(own)
    slots = [key for key in keys if key[0] == "slot"]
    known, unknown = [], []
    for split, own in zip(splits, assigned):
        stored = {key: split.known.outputs[i] for key, (where, i) in zip(own, split.residuals) if key[0] == "slot"}
        equations = list(split.known.equations)
        outputs = list(split.known.outputs[:n_outs])
        outputs += [stored[key] if key in stored else _zeros(key[1], equations) for key in slots]
        known.append(split.known.replace(equations=equations, outputs=outputs))
        variables = dict(zip(own, split.unknown.inputs))
        inputs = [variables.get(key) or Var(t) for key, t in keys.items()]
        unknown.append(split.unknown.replace(inputs=[*inputs, *split.unknown.inputs[split.num_residuals :]]))

    def pick(operands: Sequence[Any], results: Sequence[Any]) -> list[Any]:
        kept = dict(zip(slots, results[n_outs:]))
        return [kept[key] if key[0] == "slot" else (operands if key[0] == "in" else results)[key[1]] for key in keys]

    return tuple(known), tuple(unknown), pick


def _zeros(t: ArrayType, equations: list[Equation]) -> Atom:
    """An atom that is zeros of the type; its equation, if it needs one, is appended."""
    if is_key(t.dtype):
        raise NotImplementedError("cond: a derivative keeps a random key made in a branch; make the key outside of the branches")
    zero = Literal(np.zeros((), t.dtype), ArrayType((), t.dtype))
    if t.shape == ():
        return zero
    var = Var(t)
    equations.append(Equation(broadcast_in_dim_p, [zero], [var], {"shape": t.shape, "broadcast_dimensions": ()}))
    return var


def _cond_partial(partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]) -> tuple[Any, ...]:
    if unknown[0]:
        return partial.staging.process(cond_p, args, params)
    branches: tuple[Program, ...] = params["branches"]
    mask = tuple(unknown[1:])
    unknown_out = either(*[partial_program(b, mask).unknown_out for b in branches])
    if all(unknown_out):
        return partial.staging.process(cond_p, args, params)
    splits = [partial_program(b, mask, unknown_out) for b in branches]
    n_known = unknown_out.count(False)
    known, rest, pick = _unified(splits)
    operands = [x for x, u in zip(args[1:], mask) if not u]
    with using(partial.parent):
        outs = bind(cond_p, args[0], *operands, branches=known)
    given = chosen(args[1:], mask)
    staged = iter(partial.staging.process(cond_p, (args[0], *pick(operands, outs), *given), {"branches": rest}))
    computed = iter(outs[:n_known])
    return tuple([next(staged) if u else next(computed) for u in unknown_out])


PARTIAL_RULES[cond_p] = _cond_partial


def _cond_transpose(cts: Sequence[Any], inputs: Sequence[Any], *, branches: tuple[Program, ...]) -> Sequence[Any]:
    index, *operands = inputs
    linear = tuple([type(x) is Linear for x in operands])
    nonzero = nonzeros(cts)
    nonzero_out = either(*[transpose_program(b, linear, nonzero)[1] for b in branches])
    turned = tuple([transpose_program(b, linear, nonzero, nonzero_out)[0] for b in branches])
    known = [x for x, lin in zip(operands, linear) if not lin]
    found = iter(bind(cond_p, index, *known, *chosen(cts, nonzero), branches=turned))
    nz = iter(nonzero_out)
    return [None] + [
        (next(found) if next(nz) else Zero(tangent_type(x.type))) if lin else None for x, lin in zip(operands, linear)
    ]


def _cond_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, branches: tuple[Program, ...]) -> tuple[Any, Any]:
    index, *operands = args
    at_front = front(as_mask(dims[1:]))
    operands = moved_to_front(operands, dims[1:], axis.size)
    if dims[0] is None:
        batched = either(*[as_mask(batch_program(b, axis, at_front)[1]) for b in branches])
        wanted = front(batched)
        outs = bind(cond_p, index, *operands, branches=tuple([batch_program(b, axis, at_front, wanted)[0] for b in branches]))
        return outs, wanted
    if any(b.has_effects for b in branches):
        raise NotImplementedError(
            "vmap of a cond whose predicate differs between examples runs all branches and selects, but a branch has effects "
            "(a callback or a print); take them out of the branches, or vmap over arguments that the predicate does not depend on"
        )
    wanted = (0,) * len(branches[0].outputs)
    results = [run(batch_program(b, axis, at_front, wanted)[0], *operands) for b in branches]
    chosen_so_far = list(results[0])
    for i, outs in enumerate(results[1:], 1):
        reached = ops.ge(index, np.int32(i))
        chosen_so_far = [select_examples(reached, x, y) for x, y in zip(outs, chosen_so_far)]
    return chosen_so_far, wanted


def select_examples(pred: Any, on_true: Any, on_false: Any) -> Any:
    """For each example, along the leading axis, one value or the other."""
    shape = type_of(on_true).shape
    if len(shape) > 1:
        pred = ops.broadcast_in_dim(pred, shape, (0,))
    return ops.select(pred, on_true, on_false)


cond_p.define(jvp=_cond_jvp, linearize=_cond_linearize, transpose=_cond_transpose, batch=_cond_batch)


# while


def _while_dual(
    primals: Sequence[Any], nonzero: Sequence[bool], cond: Program, body: Program, cond_nconsts: int, body_nconsts: int
) -> tuple[tuple[bool, ...], Any]:
    """The loop that carries tangents along: which carries have one, and `loop(tangents of the nonzero operands, with Zero) -> results`."""
    consts_nz, carry_nz = (
        tuple(nonzero[cond_nconsts : cond_nconsts + body_nconsts]),
        tuple(nonzero[cond_nconsts + body_nconsts :]),
    )
    while True:
        both, out_nz = jvp_program(body, consts_nz + carry_nz, carry_nz)
        if out_nz == carry_nz:
            break
        carry_nz = either(carry_nz, out_nz)
    test = cond.replace(inputs=[*cond.inputs, *[Var(tangent_type(t)) for t in chosen(body.out_types, carry_nz)]])
    n, nb, nc = len(body.inputs), body_nconsts, sum(consts_nz)
    vars_ = both.inputs
    both = both.replace(inputs=[*vars_[:nb], *vars_[n : n + nc], *vars_[nb:n], *vars_[n + nc :]])
    cond_consts, body_consts, init = split_while(primals, cond_nconsts, body_nconsts)

    def loop(tangents: Sequence[Any]) -> tuple[Any, ...]:
        _, const_dots, init_dots = split_while(tangents, cond_nconsts, body_nconsts)
        return bind(
            while_p,
            *cond_consts,
            *body_consts,
            *chosen(const_dots, consts_nz),
            *init,
            *[instantiate(t) for t in chosen(init_dots, carry_nz)],
            cond=test,
            body=both,
            cond_nconsts=cond_nconsts,
            body_nconsts=body_nconsts + nc,
        )

    return carry_nz, loop


def _while_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    types = params["body"].out_types
    carry_nz, loop = _while_dual(primals, nonzeros(tangents), **params)
    outs = loop(tangents)
    return outs[: len(types)], with_zeros(outs[len(types) :], carry_nz, types)


def _while_linearize(nonzero: Sequence[bool], primals: Sequence[Any], **params: Any) -> tuple[Any, Any, Any]:
    types = params["body"].out_types
    carry_nz, loop = _while_dual(primals, nonzero, **params)
    outs = bind(while_p, *primals, **params)

    def linear(*tangents: Any) -> Sequence[Any]:
        # The number of steps is unknown, so there is no place for the values of each: the primal loop runs again beside the tangents.
        return loop(with_zeros(tangents, nonzero, [type_of(x) for x in primals]))[len(types) :]

    return outs, carry_nz, linear


def _while_transpose(cts: Sequence[Any], inputs: Sequence[Any], **params: Any) -> Sequence[Any]:
    raise ValueError(
        "Reverse-mode differentiation does not work for lax.while_loop or lax.fori_loop with dynamic start/stop values: the number of "
        f"steps, and so the space for what the backward pass needs of each, is unknown. The loop is {params['body'].name}.\n"
        "Use lax.fori_loop with bounds that are Python integers, or lax.scan over a fixed number of steps with a flag in the carry that "
        "says when to stop changing it; or give the whole iteration a derivative of its own with custom_vjp (for fixed points: the implicit "
        "function theorem). Forward mode (jvp, jacfwd) works."
    )


def _while_batch(
    axis: Axis,
    args: Sequence[Any],
    dims: Sequence[int | None],
    *,
    cond: Program,
    body: Program,
    cond_nconsts: int,
    body_nconsts: int,
) -> tuple[Any, Any]:
    args = moved_to_front(args, dims, axis.size)
    cond_dims, body_dims, carry_dims = split_while(front(as_mask(dims)), cond_nconsts, body_nconsts)
    cond_consts, body_consts, init = split_while(args, cond_nconsts, body_nconsts)
    own = as_mask(carry_dims)
    while True:
        test, (pred_dim,) = batch_program(cond, axis, (*cond_dims, *carry_dims), (None,))
        if pred_dim is not None:
            carry_dims = (0,) * len(init)
        step, out_dims = batch_program(body, axis, (*body_dims, *carry_dims), carry_dims)
        if tuple(out_dims) == tuple(carry_dims):
            break
        carry_dims = front(either(as_mask(carry_dims), as_mask(out_dims)))
    init = tuple([x if b or d is None else to_dim(x, None, 0, axis.size) for x, b, d in zip(init, own, carry_dims)])
    if pred_dim is None:
        outs = bind(
            while_p,
            *cond_consts,
            *body_consts,
            *init,
            cond=test,
            body=step,
            cond_nconsts=cond_nconsts,
            body_nconsts=body_nconsts,
        )
        return outs, carry_dims
    test, _ = batch_program(cond, axis, (*cond_dims, *carry_dims), (0,))
    return _while_until_all(test, step, cond_consts, body_consts, init), carry_dims


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


def _while_partial(partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]) -> tuple[Any, ...]:
    cond, body, nc, nb = params["cond"], params["body"], params["cond_nconsts"], params["body_nconsts"]
    cond_unknown, consts_unknown, carry_unknown = split_while(unknown, nc, nb)
    while True:
        out = partial_program(body, consts_unknown + carry_unknown, carry_unknown).unknown_out
        if out == carry_unknown:
            break
        carry_unknown = either(carry_unknown, out)
    staged = partial.staging.process(while_p, args, params)
    if all(carry_unknown) or partial_program(cond, cond_unknown + carry_unknown).unknown_out[0]:
        return staged
    # What is known runs now, without the rest; what is not is staged as the whole loop.
    keep = [not u for u in carry_unknown]
    pruned = remove_dead_code(body, keep)
    pruned = pruned.replace(inputs=chosen(pruned.inputs, [not u for u in consts_unknown] + keep))
    test = cond.replace(inputs=[*cond.inputs[:nc], *chosen(cond.inputs[nc:], keep)])
    cond_consts, body_consts, init = split_while(args, nc, nb)
    known_consts = [x for x, u in zip(body_consts, consts_unknown) if not u]
    with using(partial.parent):
        known = iter(
            bind(
                while_p,
                *cond_consts,
                *known_consts,
                *chosen(init, keep),
                cond=test,
                body=pruned,
                cond_nconsts=nc,
                body_nconsts=len(known_consts),
            )
        )
    return tuple([x if u else next(known) for x, u in zip(staged, carry_unknown)])


PARTIAL_RULES[while_p] = _while_partial
while_p.define(jvp=_while_jvp, linearize=_while_linearize, transpose=_while_transpose, batch=_while_batch)
