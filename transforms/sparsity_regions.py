"""The analysis of `sparsity.py` through control flow, calls and custom derivatives.

A loop is followed step by step where integers that are known (counters, indices) decide what its body reads; otherwise the body's own pattern is found
once and multiplied along. A loop of unknown length is the fixpoint of its body. Custom derivatives are followed through the rule that will be
used, not through the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.calls import DerivativeRule
from tracegrad.ir.control_flow import split_scan, split_while
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, tangent_type
from tracegrad.tracer.staging import trace
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.sparsity import (
    REGION_RULES,
    Abstract,
    Rows,
    combine,
    dense,
    differentiable,
    identity,
    merge,
    number_of_rows,
    propagate,
    split,
    stack,
    take,
    union,
)
from tracegrad.transforms.zero import Zero

STEPWISE = 10_000
"""Loops are followed step by step for as many equations; beyond, what their counters and indices are is not used."""

LONGEST = 2_000
"""Loops of more steps are taken for loops of unknown length."""

FIXPOINT = 50
"""After so many rounds without a fixpoint, everything a loop carries is taken to depend on everything that it reads."""

Ins = Sequence[Abstract]
Types = Sequence[ArrayType]


def region_rule(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            REGION_RULES[name] = function
        return function

    return register


@region_rule("call", "checkpoint", "custom_vmap_call")
def _call(ins: Ins, types: Types, *, program: Program, **_: Any) -> Sequence[Abstract]:
    return propagate(program, ins)


@region_rule("cond")
def _cond(ins: Ins, types: Types, *, branches: Sequence[Program]) -> Sequence[Abstract]:
    index, *operands = ins
    if index.constant is not None:
        return propagate(branches[min(max(int(index.constant), 0), len(branches) - 1)], operands)
    found = [propagate(branch, operands) for branch in branches]
    return [Abstract(t, union(*[outs[i].rows for outs in found])) for i, t in enumerate(types)]


# Loops


def columns_of(ins: Ins) -> int:
    return max((x.rows.shape[1] for x in ins if x.rows is not None), default=0)


def _unknown(x: Abstract) -> Abstract:
    return Abstract(x.type, x.rows)


def _steers(x: Abstract) -> bool:
    """Whether a value is something to index or branch by that is known."""
    return x.value is not None and x.type.dtype.kind in "iub"


def own_pattern(program: Program, ins: Ins) -> Any:
    """The pattern of a region's results by its inputs, whatever these depend on; what is known of them is used."""
    sizes = [number_of_rows(x.type) for x in ins]
    total = sum(sizes)
    given = []
    first = 0
    for x, n in zip(ins, sizes, strict=True):
        given.append(Abstract(x.type, identity(n, first, total) if differentiable(x.type) else None, x.value, x.known))
        first += n
    outs = propagate(program, given)
    return stack([x.rows for x in outs], [number_of_rows(x.type) for x in outs], total)


def _size(xs: Sequence[Abstract] | Sequence[ArrayType]) -> int:
    return sum(number_of_rows(x.type if isinstance(x, Abstract) else x) for x in xs)


def _stacked(xs: Ins, columns: int) -> Any:
    return stack([x.rows for x in xs], [number_of_rows(x.type) for x in xs], columns)


def _step(x: Abstract, i: int, t: ArrayType) -> Abstract:
    """Element i along the first axis."""
    n = number_of_rows(t)
    rows = None if x.rows is None else x.rows[i * n : (i + 1) * n]
    if x.value is None:
        return Abstract(t, rows)
    return Abstract(t, rows, np.asarray(x.value[i]), True if x.known is True else np.asarray(x.known[i]))


@region_rule("scan")
def _scan(
    ins: Ins, types: Types, *, body: Program, length: int, reverse: bool, num_consts: int, num_carry: int, unroll: int
) -> Sequence[Abstract]:
    consts, carry, xs = split_scan(ins, num_consts, num_carry)
    if all(x.rows is None for x in ins):
        return [Abstract(t) for t in types]
    slices = [x.type.update(shape=x.type.shape[1:]) for x in xs]
    order = range(length - 1, -1, -1) if reverse else range(length)
    cost = length * max(1, sum(1 for _ in body.walk()))
    if cost <= STEPWISE and any(map(_steers, (*carry, *xs))):
        steps: list[Sequence[Abstract]] = []
        for i in order:
            outs = propagate(body, [*consts, *carry, *[_step(x, i, t) for x, t in zip(xs, slices)]])
            carry = tuple(outs[:num_carry])
            steps.append(outs[num_carry:])
        steps = steps[::-1] if reverse else steps
        columns = columns_of(ins)
        ys = []
        for k, t in enumerate(types[num_carry:]):
            size = number_of_rows(t) // max(length, 1)
            ys.append(Abstract(t, stack([s[k].rows for s in steps], [size] * length, columns)))
        return [*[Abstract(t, x.rows, x.value, x.known) for t, x in zip(types, carry)], *ys]
    return _scan_by_pattern(body, consts, carry, xs, slices, types, length, order)


def _scan_by_pattern(
    body: Program,
    consts: Ins,
    carry: Ins,
    xs: Ins,
    slices: Sequence[ArrayType],
    types: Types,
    length: int,
    order: Sequence[int],
) -> Sequence[Abstract]:
    columns = columns_of((*consts, *carry, *xs))
    pattern = own_pattern(body, [*consts, *map(_unknown, carry), *[Abstract(t) for t in slices]])
    n_consts, n_carry = _size(consts), _size(carry)
    from_consts = combine(pattern[:, :n_consts], _stacked(consts, columns))
    from_carry, from_xs = pattern[:, n_consts : n_consts + n_carry], pattern[:, n_consts + n_carry :]
    carried = _stacked(carry, columns)
    if length > LONGEST:
        return _long_scan(from_consts, from_carry, from_xs, carried, xs, slices, types, length)
    outs = []
    for i in order:
        x = _stacked([_step(x, i, t) for x, t in zip(xs, slices)], columns)
        step = union(from_consts, combine(from_carry, carried), combine(from_xs, x))
        carried = step[:n_carry]
        outs.append(step[n_carry:])
    outs = outs if isinstance(order, range) and order.step > 0 else outs[::-1]
    k = len(carry)
    sizes = [number_of_rows(t) // max(length, 1) for t in types[k:]]
    steps = [split(step, sizes) for step in outs]
    ys = [
        Abstract(t, stack([s[i] for s in steps], [n] * length, columns) if steps else None)
        for i, (t, n) in enumerate(zip(types[k:], sizes))
    ]
    return [*[Abstract(t, r) for t, r in zip(types, split(carried, [number_of_rows(t) for t in types[:k]]))], *ys]


def _long_scan(
    from_consts: Any,
    from_carry: Any,
    from_xs: Any,
    carried: Any,
    xs: Ins,
    slices: Sequence[ArrayType],
    types: Types,
    length: int,
) -> Sequence[Abstract]:
    """As if every step read all that any step reads for its carry; its own slices count for what it gives out."""
    n_carry = carried.shape[0]
    columns = carried.shape[1]
    every = []
    for x, t in zip(xs, slices):
        n = number_of_rows(t)
        every.append(merge(x.rows, np.arange(length * n) % max(n, 1), n))
    read = union(from_consts, combine(from_xs, stack(every, [number_of_rows(t) for t in slices], columns)))
    carried = _fixpoint(from_carry[:n_carry], carried, read[:n_carry])
    k = len(types) - _outputs_after(types, n_carry)
    parts = [Abstract(t, r) for t, r in zip(types[:k], split(carried, [number_of_rows(t) for t in types[:k]]))]
    shared = union(from_consts, combine(from_carry, carried))[n_carry:]
    first = 0
    for t in types[k:]:
        n = number_of_rows(t) // length
        own = from_xs[n_carry + first : n_carry + first + n]
        rows = take(shared[first : first + n], np.tile(np.arange(n), length))
        offset = 0
        for x, s in zip(xs, slices):
            m = number_of_rows(s)
            rows = union(rows, _at_every_step(own[:, offset : offset + m], x.rows, length))
            offset += m
        parts.append(Abstract(t, rows))
        first += n
    return parts


def _outputs_after(types: Types, n_carry: int) -> int:
    """How many of the types come after those that fill the carry."""
    k = total = 0
    while total < n_carry:
        total += number_of_rows(types[k])
        k += 1
    return len(types) - k


def _at_every_step(own: Any, rows: Rows, length: int) -> Rows:
    """The product with the same pattern at every step of stacked values."""
    from scipy.sparse import block_diag, csr_array

    if rows is None or own.nnz == 0:
        return None
    return combine(csr_array(block_diag([own] * length, format="csr"), dtype=bool), rows)


def _fixpoint(pattern: Any, carried: Any, read: Any) -> Any:
    """The least rows that contain `carried`, and with any rows c also pattern @ c and `read`."""
    carried = union(carried, combine(pattern, carried))
    for _ in range(FIXPOINT):
        grown = union(carried, combine(pattern, carried), read)
        if grown.nnz == carried.nnz:
            return grown
        carried = grown
    n = carried.shape[0]
    everything = merge(union(carried, read), np.zeros(n, int), 1)
    return take(everything, np.zeros(n, int))


@region_rule("while")
def _while(ins: Ins, types: Types, *, cond: Program, body: Program, cond_nconsts: int, body_nconsts: int) -> Sequence[Abstract]:
    cond_consts, consts, carry = split_while(ins, cond_nconsts, body_nconsts)
    budget = STEPWISE
    cost = max(1, sum(1 for _ in body.walk()) + sum(1 for _ in cond.walk()))
    while budget > 0:
        (going,) = propagate(cond, [*map(_plain, cond_consts), *map(_plain, carry)])
        if going.constant is None:
            break
        if not going.constant:
            return [Abstract(t, x.rows, x.value, x.known) for t, x in zip(types, carry)]
        carry = tuple(propagate(body, [*consts, *carry]))
        budget -= cost
    columns = columns_of((*consts, *carry))
    pattern = own_pattern(body, [*consts, *map(_unknown, carry)])
    n = _size(consts)
    read = combine(pattern[:, :n], _stacked(consts, columns))
    rows = _fixpoint(pattern[:, n:], _stacked(carry, columns), read)
    return [Abstract(t, r) for t, r in zip(types, split(rows, [number_of_rows(t) for t in types]))]


def _plain(x: Abstract) -> Abstract:
    return x.without_rows()


# Custom derivatives


def _values(captured: Sequence[Any]) -> list[Any]:
    """What is known of values that a trace captured."""
    return [None if isinstance(x, Tracer) else np.asarray(x) for x in captured]


def abstract_values(program: Program, captured: Sequence[Any]) -> list[Abstract]:
    """The leading inputs of a program that stand for captured values."""
    return [Abstract(v.type, None, x) for v, x in zip(program.inputs, _values(captured))]


_ongoing: set[DerivativeRule] = set()
"""The rules of custom_jvp functions whose derivative is being analysed."""


@region_rule("custom_jvp_call")
def _custom_jvp(ins: Ins, types: Types, *, program: Program, rule: DerivativeRule) -> Sequence[Abstract]:
    values = propagate(program, [x.without_rows() for x in ins])
    if all(x.rows is None for x in ins):
        return values
    if rule in _ongoing:
        # A linear function, say the solution of a linear system, whose rule applies the function to the tangents.
        return [Abstract(v.type, rows, v.value, v.known) for v, rows in zip(values, dense(ins, types))]
    live = [x.rows is not None for x in ins]
    nonzero: list[bool] = []

    def tangents(*args: Any) -> list[Any]:
        given = iter(args[len(ins) :])
        dots = [next(given) if nz else Zero(tangent_type(x.type)) for x, nz in zip(ins, live)]
        _, out_dots = rule.jvp(args[: len(ins)], dots)  # type: ignore[misc]
        nonzero[:] = [type(t) is not Zero for t in out_dots]
        return [t for t in out_dots if type(t) is not Zero]

    of_tangents = [tangent_type(x.type) for x, nz in zip(ins, live) if nz]
    traced, captured = trace(tangents, [*[x.type for x in ins], *of_tangents], "jvp")
    along = [Abstract(t, x.rows) for t, x in zip(of_tangents, [x for x, nz in zip(ins, live) if nz])]
    _ongoing.add(rule)
    try:
        found = iter(propagate(traced, [*abstract_values(traced, captured), *[x.without_rows() for x in ins], *along]))
    finally:
        _ongoing.remove(rule)
    return [Abstract(v.type, next(found).rows if nz else None, v.value, v.known) for v, nz in zip(values, nonzero)]


@region_rule("custom_vjp_call")
def _custom_vjp(ins: Ins, types: Types, *, program: Program, rule: DerivativeRule) -> Sequence[Abstract]:
    values = propagate(program, [x.without_rows() for x in ins])
    if all(x.rows is None for x in ins):
        return values
    live = [x.rows is not None for x in ins]
    nonzero: list[bool] = []

    def cotangents(*args: Any) -> list[Any]:
        _, residuals, token = rule.fwd(args[: len(ins)], live)  # type: ignore[misc]
        given = iter(args[len(ins) :])
        cts = [next(given) if differentiable(t) else Zero(tangent_type(t)) for t in types]
        results = [ct if nz else None for ct, nz in zip(rule.bwd(residuals, cts, token), live)]  # type: ignore[misc]
        nonzero[:] = [ct is not None and type(ct) is not Zero for ct in results]
        return [ct for ct, nz in zip(results, nonzero) if nz]

    of_cotangents = [tangent_type(t) for t in types if differentiable(t)]
    traced, captured = trace(cotangents, [*[x.type for x in ins], *of_cotangents], "bwd")
    total = sum(map(number_of_rows, of_cotangents))
    cts = []
    first = 0
    for t in of_cotangents:
        cts.append(Abstract(t, identity(number_of_rows(t), first, total)))
        first += number_of_rows(t)
    found = iter(propagate(traced, [*abstract_values(traced, captured), *[x.without_rows() for x in ins], *cts]))
    backward = stack([next(found).rows if nz else None for nz in nonzero], [number_of_rows(x.type) for x in ins], total)
    rows = combine(backward.T.tocsr(), _stacked(ins, columns_of(ins)))
    parts = iter(split(rows, list(map(number_of_rows, of_cotangents))))
    return [Abstract(v.type, next(parts) if differentiable(v.type) else None, v.value, v.known) for v in values]
