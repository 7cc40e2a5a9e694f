"""Taylor mode of control flow and calls: new regions out of the old ones, which carry coefficients beside values.

Which coefficients a loop carries is found as a fixpoint, as for tangents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.calls import call_p, checkpoint_p, custom_vjp_call_p, custom_vmap_call_p, name_p, optimization_barrier_p
from tracegrad.ir.control_flow import cond_p, scan_p, split_scan, split_while, while_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Declined, Primitive
from tracegrad.ir.program import Program, Var
from tracegrad.ir.tapes import empty_tape_p, record_while_p, tape_length_p, tape_scan_p
from tracegrad.ir.types import tangent_type
from tracegrad.transforms.jet import Mask, given_terms, jet_flat, jet_program, mask_of, union, with_terms
from tracegrad.transforms.jet_rules import Operands, no_motion
from tracegrad.transforms.series import Series, constant
from tracegrad.transforms.zero import Zero, instantiate


def _values(series: Sequence[Series]) -> list[Any]:
    return [x[0] for x in series]


def _with_terms_in(series: Sequence[Series], mask: Mask) -> list[Any]:
    """The coefficients that `mask` asks for; zeros for those that are None."""
    return [
        instantiate(Zero(tangent_type(type_of(x[0])))) if c is None else c
        for x, row in zip(series, mask, strict=True)
        for c, wanted in zip(x[1:], row, strict=True)
        if wanted
    ]


def _count(mask: Mask) -> int:
    return sum(sum(row) for row in mask)


def _order(operands: Operands) -> int:
    return len(operands[0]) - 1


# Calls


def _define_call(prim: Any) -> None:
    def jet(operands: Operands, *, program: Program, **params: Any) -> list[Series]:
        expanded, found = jet_program(program, mask_of(operands), _order(operands))
        outs = bind(prim, *_values(operands), *given_terms(operands), program=expanded, **params)
        n = len(program.outputs)
        return with_terms(outs[:n], outs[n:], found)

    prim.define(jet=jet)


_define_call(call_p)
_define_call(checkpoint_p)


def _as_it_is(operands: Operands, *, program: Program, **_: Any) -> list[Series]:
    # The rule says nothing of derivatives forwards: the function itself is expanded.
    return jet_flat(lambda *xs: run(program, *xs), operands, _order(operands))


custom_vjp_call_p.define(jet=_as_it_is)
custom_vmap_call_p.define(jet=_as_it_is)


def _identity(operands: Operands, apply: Callable[..., Sequence[Any]]) -> list[Series]:
    mask = mask_of(operands)
    terms = given_terms(operands)
    return with_terms(apply(*_values(operands)), apply(*terms) if terms else (), mask)


optimization_barrier_p.define(jet=lambda operands: _identity(operands, lambda *xs: bind(optimization_barrier_p, *xs)))
name_p.define(jet=lambda operands, name: [[*bind(name_p, operands[0][0], name=name), *operands[0][1:]]])


# cond


def _cond(operands: Operands, *, branches: tuple[Program, ...]) -> list[Series]:
    index, *rest = operands
    mask, order = mask_of(rest), _order(operands)
    found = union(*[jet_program(b, mask, order)[1] for b in branches])
    expanded = tuple([jet_program(b, mask, order, found)[0] for b in branches])
    outs = bind(cond_p, index[0], *_values(rest), *given_terms(rest), branches=expanded)
    n = len(branches[0].outputs)
    return with_terms(outs[:n], outs[n:], found)


cond_p.define(jet=_cond)


# while, and the loops of its reverse mode, which write and read tapes: a tape of values has a tape for each coefficient


def _while(prim: Primitive, operands: Operands, **params: Any) -> tuple[list[Series], Sequence[Any], Mask]:
    """The series of the last carry of a while or record_while; its results beyond, and which coefficients of the values kept are there."""
    order = _order(operands)
    cond, body, nc, nb = [params[name] for name in ("cond", "body", "cond_nconsts", "body_nconsts")]
    cond_consts, consts, init = split_while(operands, nc, nb)
    consts_mask, carried = mask_of(consts), mask_of(init)
    n, n_kept = len(init), len(body.outputs) - len(init)
    none: Mask = ((False,) * order,) * n_kept
    while True:
        expanded, found = jet_program(body, consts_mask + carried, order, carried + none)
        if found[:n] == carried:
            break
        carried = found[:n]
    terms = [Var(tangent_type(t)) for t, row in zip(body.out_types, carried) for there in row if there]
    test = cond.replace(inputs=[*cond.inputs, *terms])
    # From (constants, carry, terms of constants, terms of the carry) to (constants, their terms, carry, its terms).
    c, k, c_terms, k_terms = _groups(expanded.inputs, [nb, n, _count(consts_mask), _count(carried)])
    last, kept, last_terms, kept_terms = _groups(expanded.outputs, [n, n_kept, len(k_terms), _count(found[n:])])
    expanded = expanded.replace(inputs=[*c, *c_terms, *k, *k_terms], outputs=[*last, *last_terms, *kept, *kept_terms])
    operands_out = [*_values(cond_consts), *_values(consts), *given_terms(consts), *_values(init), *_with_terms_in(init, carried)]
    changed = {"cond": test, "body": expanded, "body_nconsts": nb + len(c_terms)}
    outs = bind(prim, *operands_out, **{**params, **changed})
    size = n + len(k_terms)
    return with_terms(outs[:n], outs[n:size], carried), outs[size:], found[n:]


def _record_while(operands: Operands, **params: Any) -> list[Series]:
    last, (count, *tapes), mask = _while(record_while_p, operands, **params)
    n = len(mask)
    return [*last, constant(count, _order(operands)), *with_terms(tapes[:n], tapes[n:], mask)]


while_p.define(jet=lambda operands, **params: _while(while_p, operands, **params)[0])
record_while_p.define(jet=_record_while)
empty_tape_p.define(jet=Declined("it has no operands"))
no_motion(tape_length_p)


# scan


def _scan(prim: Primitive, operands: Operands, leading: Sequence[Any], **params: Any) -> list[Series]:
    """scan, and tape_scan, which takes the number of its steps as a leading operand."""
    body, num_consts, num_carry = params["body"], params["num_consts"], params["num_carry"]
    order = _order(operands)
    consts, init, xs = split_scan(operands, num_consts, num_carry)
    consts_mask, carried, xs_mask = mask_of(consts), mask_of(init), mask_of(xs)
    n_ys = len(body.outputs) - num_carry
    none: Mask = ((False,) * order,) * n_ys
    while True:
        expanded, found = jet_program(body, consts_mask + carried + xs_mask, order, carried + none)
        if found[:num_carry] == carried:
            break
        carried = found[:num_carry]
    # From (constants, carry, slices, terms of each) to (constants, their terms, carry, its terms, slices, their terms).
    sizes = [num_consts, num_carry, len(xs), _count(consts_mask), _count(carried), _count(xs_mask)]
    c, k, x, c_terms, k_terms, x_terms = _groups(expanded.inputs, sizes)
    k_out, ys, k_out_terms, ys_terms = _groups(expanded.outputs, [num_carry, n_ys, sizes[4], _count(found[num_carry:])])
    expanded = expanded.replace(inputs=[*c, *c_terms, *k, *k_terms, *x, *x_terms], outputs=[*k_out, *k_out_terms, *ys, *ys_terms])
    changed = {"body": expanded, "num_consts": num_consts + sizes[3], "num_carry": num_carry + sizes[4]}
    outs = bind(
        prim,
        *leading,
        *_values(consts),
        *given_terms(consts),
        *_values(init),
        *_with_terms_in(init, carried),
        *_values(xs),
        *given_terms(xs),
        **{**params, **changed},
    )
    k_out, k_out_terms, ys, ys_terms = _groups(outs, [num_carry, sizes[4], n_ys, len(ys_terms)])
    return with_terms(k_out, k_out_terms, carried) + with_terms(ys, ys_terms, found[num_carry:])


def _groups(values: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    groups, at = [], 0
    for n in sizes:
        groups.append(list(values[at : at + n]))
        at += n
    return groups


scan_p.define(jet=lambda operands, **params: _scan(scan_p, operands, (), **params))
tape_scan_p.define(jet=lambda operands, **params: _scan(tape_scan_p, operands[1:], [operands[0][0]], **params))
