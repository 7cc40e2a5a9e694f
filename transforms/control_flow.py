"""Derivatives and batching of cond, and what the rules of all control flow share. Loops are in `scan.py` and `while_loops.py`.

Each rule makes new regions out of the old ones (`jvp_program` and its kind, which remember their results) and binds the primitive
again with more operands. Where a loop carries values, which of them have tangents, or a batch axis, is found as a fixpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of, using
from tracegrad.ir.control_flow import cond_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.structural import broadcast_in_dim_p
from tracegrad.ir.tapes import empty_tape_p
from tracegrad.ir.types import ArrayType, is_key, is_tape, tangent_type
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.batch import batch_program, concerns, one_by_one, to_dim
from tracegrad.transforms.calls import linearize_call
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.linearize import linearize_program
from tracegrad.transforms.partial import PARTIAL_RULES, Partial, partial_program
from tracegrad.transforms.staged import Split, cached
from tracegrad.transforms.transpose import transpose_program
from tracegrad.transforms.zero import Axis, Linear, Zero


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


def at_front(dims: Sequence[int | None]) -> tuple[int | None, ...]:
    """The batch dimensions of operands that were `moved_to_front`."""
    return tuple([d if d is None or d < 0 else 0 for d in dims])


def moved_to_front(args: Sequence[Any], dims: Sequence[int | None], size: int) -> list[Any]:
    """Operands with their batch dimensions at the front; tapes that have theirs in their elements are left as they are."""
    return [x if d is None or d < 0 else to_dim(x, d, 0, size) for x, d in zip(args, dims, strict=True)]


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
        outputs += [stored[key] if key in stored else zeros_atom(key[1], equations) for key in slots]
        known.append(split.known.replace(equations=equations, outputs=outputs))
        variables = dict(zip(own, split.unknown.inputs))
        inputs = [variables.get(key) or Var(t) for key, t in keys.items()]
        unknown.append(split.unknown.replace(inputs=[*inputs, *split.unknown.inputs[split.num_residuals :]]))

    def pick(operands: Sequence[Any], results: Sequence[Any]) -> list[Any]:
        kept = dict(zip(slots, results[n_outs:]))
        return [kept[key] if key[0] == "slot" else (operands if key[0] == "in" else results)[key[1]] for key in keys]

    return tuple(known), tuple(unknown), pick


def zeros_atom(t: ArrayType, equations: list[Equation]) -> Atom:
    """An atom that is zeros of the type; its equation, if it needs one, is appended."""
    if is_tape(t.dtype) and t.shape == ():
        tape = Var(t)
        equations.append(Equation(empty_tape_p, [], [tape], {"element": t.dtype.element}))
        return tape
    if is_key(t.dtype) or is_tape(t.dtype):
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
    in_dims = at_front(dims[1:])
    operands = moved_to_front(operands, dims[1:], axis.size)
    if dims[0] is None:
        wanted = tuple([_shared_dim(ds) for ds in zip(*[batch_program(b, axis, in_dims)[1] for b in branches])])
        outs = bind(cond_p, index, *operands, branches=tuple([batch_program(b, axis, in_dims, wanted)[0] for b in branches]))
        return outs, wanted
    if not concerns(axis.name, cond_p, {"branches": branches}):
        if any([_worth_choosing(b) for b in branches]) or any([d is not None and d < 0 for d in dims]):
            return one_by_one(axis, args, dims, cond_p, {"branches": branches})
    elif any([b.has_effects for b in branches]):
        raise NotImplementedError(
            "vmap of a cond whose predicate differs between examples runs all branches and selects if a branch holds a collective over the "
            "axis, but a branch has effects (a callback or a print) too; take them out of the branches, or vmap over arguments that the "
            "predicate does not depend on"
        )
    wanted = (0,) * len(branches[0].outputs)
    results = [run(batch_program(b, axis, in_dims, wanted)[0], *operands) for b in branches]
    chosen_so_far = list(results[0])
    for i, outs in enumerate(results[1:], 1):
        reached = ops.ge(index, np.int32(i))
        chosen_so_far = [select_examples(reached, x, y) for x, y in zip(outs, chosen_so_far)]
    return chosen_so_far, wanted


def _shared_dim(dims: Sequence[int | None]) -> int | None:
    """Where a result of a cond has its batch dimension, given where each branch has it."""
    found = {d if d is None or d < 0 else 0 for d in dims}
    if found == {None}:
        return None
    inside = [d for d in found if d is not None and d < 0]
    return 0 if 0 in found or len(inside) != 1 else inside[0]


@cached
def _worth_choosing(branch: Program) -> bool:
    """Whether a branch should run for those examples alone that take it, one by one; else all branches run for all, side by side."""
    return branch.has_effects or any([eqn.primitive.name in _LOOPS or eqn.primitive.family in _COSTLY for eqn in branch.walk()])


_LOOPS = frozenset({"scan", "while", "record_while", "tape_scan", "empty_tape"})
_COSTLY = frozenset({"linalg", "sorting", "fft"})


def select_examples(pred: Any, on_true: Any, on_false: Any) -> Any:
    """For each example, along the leading axis, one value or the other."""
    shape = type_of(on_true).shape
    if len(shape) > 1:
        pred = ops.broadcast_in_dim(pred, shape, (0,))
    return ops.select(pred, on_true, on_false)


cond_p.define(jvp=_cond_jvp, linearize=_cond_linearize, transpose=_cond_transpose, batch=_cond_batch)
