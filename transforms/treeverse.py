"""Reverse mode through a loop in bounded memory: snapshots of its state, and steps run again between them.

A loop with the parameter `slots` keeps nothing for the backward pass but what it started from. Its transpose goes back from the last
step to the first with at most `slots` snapshots of the state at a time, placed by the binomial schedule, which needs the fewest steps
run again: with s snapshots, binomial(s + r, s) steps are reversed by running each step at most r times.

Sources: A. Griewank, "Achieving logarithmic growth of temporal and spatial complexity in reverse automatic differentiation" (Optimization
Methods and Software, 1992); A. Griewank and A. Walther, "Algorithm 799: revolve" (ACM Transactions on Mathematical Software, 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.control_flow import split_scan
from tracegrad.ir.evaluate import run
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, tangent_type
from tracegrad.tracer.control_flow import cond, while_loop
from tracegrad.transforms.dead_code import remove_dead_code, used_inputs
from tracegrad.transforms.partial import partial_program
from tracegrad.transforms.staged import Split, cached
from tracegrad.transforms.transpose import transpose_program
from tracegrad.transforms.zero import Linear, Zero, add_tangents, instantiate

Mask = tuple[bool, ...]


@cached
def _split(body: Program, unknown: Mask, num_consts: int, num_carry: int) -> tuple[Split, Mask]:
    """A loop's body in what is known and what is linear, and which of the carry is linear."""
    consts, carry, xs = split_scan(unknown, num_consts, num_carry)
    while True:
        split = partial_program(body, consts + carry + xs, carry + (False,) * (len(body.outputs) - num_carry))
        grown = tuple([a or b for a, b in zip(carry, split.unknown_out)])
        if grown == carry:
            return split, carry
        carry = grown


def transpose_in_bounded_memory(cts: Sequence[Any], inputs: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """The transpose of a scan (or of a loop of `count` steps without scanned operands) that has `slots`: cotangents of linear operands."""
    body, nc, nk, slots = params["body"], params["num_consts"], params["num_carry"], params["slots"]
    length = params["count"] if "count" in params else params["length"]
    linear = tuple([type(x) is Linear for x in inputs])
    split, carry_u = _split(body, linear, nc, nk)
    consts_u, _, xs_u = split_scan(linear, nc, nk)
    consts, init, xs = split_scan(inputs, nc, nk)
    known_consts, state, known_xs = (_those(g, m, False) for g, m in ((consts, consts_u), (init, carry_u), (xs, xs_u)))
    n_state, n_linear = len(state), sum(carry_u)
    advance = remove_dead_code(split.known, [i < n_state for i in range(len(split.known.outputs))])
    unknown_cts = [ct for ct, u in zip(cts, split.unknown_out) if u]
    ys_cts = [ct for ct in unknown_cts[n_linear:] if type(ct) is not Zero]
    mask = (False,) * split.num_residuals + (True,) * (len(split.unknown.inputs) - split.num_residuals)
    forced = (False,) * sum(consts_u) + (True,) * n_linear + (False,) * sum(xs_u)
    ys_nonzero = tuple([type(ct) is not Zero for ct in unknown_cts[n_linear:]])
    turned, nonzero = transpose_program(split.unknown, mask, (True,) * n_linear + ys_nonzero, forced)
    consts_nz, xs_nz = nonzero[: sum(consts_u)], nonzero[sum(consts_u) + n_linear :]

    def place(step: Any) -> Any:
        """Where in the scanned arrays a step, counted in the order of the loop, reads and writes."""
        return ops.sub(np.int32(length - 1), step) if params["reverse"] else step

    def forward(step: Any, state: Sequence[Any]) -> list[Any]:
        slices = [_slice(x, place(step)) if r else None for x, r in zip(known_xs, _reads(advance, known_xs))]
        given = [_unread(v.type) if x is None else x for x, v in zip(slices, advance.inputs[len(known_consts) + n_state :])]
        return list(run(advance, *known_consts, *state, *given))

    def backward(step: Any, state: Sequence[Any], ct_carry: Sequence[Any]) -> list[Any]:
        given = [*known_consts, *state, *[_slice(x, place(step)) for x in known_xs]]
        residuals = split.pick(given, run(split.known, *given))
        return list(run(turned, *residuals, *ct_carry, *[_slice(ct, place(step)) for ct in ys_cts]))

    sums = [instantiate(Zero(tangent_type(x.type))) for x in _those(_those(consts, consts_u, True), consts_nz, True)]
    stacks = [instantiate(Zero(tangent_type(x.type))) for x in _those(_those(xs, xs_u, True), xs_nz, True)]
    ct_carry = [instantiate(ct) for ct in unknown_cts[:n_linear]]

    def finish(step: Any, state: Sequence[Any], cts: Any) -> Any:
        ct_carry, sums, stacks = cts
        found = backward(step, state, ct_carry)
        k = len(sums)
        sums = [add_tangents(a, b) for a, b in zip(sums, found[:k])]
        stacks = [_with_slice(a, b, place(step)) for a, b in zip(stacks, found[k + n_linear :])]
        return found[k : k + n_linear], sums, stacks

    ct_carry, sums, stacks = _sweep(length, slots, state, (ct_carry, sums, stacks), forward, finish)
    of = (iter(sums), iter(ct_carry), iter(stacks))
    flags = (iter(consts_nz), iter((True,) * n_linear), iter(xs_nz))
    results: list[Any] = []
    for i, x in enumerate(inputs):
        group = 0 if i < nc else 1 if i < nc + nk else 2
        if group == 1 and carry_u[i - nc]:
            ct = next(of[1])  # of a carry that starts at a known value, and is linear later, nobody asks
            results.append(ct if type(x) is Linear else None)
        elif type(x) is Linear:
            results.append(next(of[group]) if next(flags[group]) else Zero(tangent_type(x.type)))
        else:
            results.append(None)
    return results


def _sweep(length: Any, slots: int, state: list[Any], cts: Any, forward: Any, finish: Any) -> Any:
    """Go through the steps from the last to the first, with at most `slots` snapshots of the state.

    forward(step, state) -> the next state; finish(step, state, cts) -> cts: the backward pass of a step, given the state before it.
    """
    stored = [ops.broadcast_in_dim(x, (slots, *type_of(x).shape), tuple(range(1, len(type_of(x).shape) + 1))) for x in state]
    at = np.zeros(slots, np.int32)  # which step each snapshot stands before; the first stays at 0
    zero, one = np.int32(0), np.int32(1)

    def unfinished(loop: Any) -> Any:
        return ops.gt(loop[0], zero)

    def turn(loop: Any) -> Any:
        left, used, at, stored, cts = loop
        top = ops.sub(used, one)
        start = _slice(at, top)
        distance = ops.sub(left, start)
        # Either go some way and leave a snapshot there, or, where there is no room for it, all the way to the last step and turn.
        room = ops.bitwise_and(ops.gt(distance, one), ops.lt(used, np.int32(slots)))
        going = ops.select(room, _split_point(distance, ops.sub(np.int32(slots + 1), used)), ops.sub(distance, one))
        step, reached = _advanced(forward, start, going, [_slice(x, top) for x in stored])

        def keep() -> Any:
            return left, ops.add(used, one), _with_slice(at, step, used), [_with_slice(s, x, used) for s, x in zip(stored, reached)], cts

        def turn_round() -> Any:
            # The snapshot of the step just done is of no more use.
            rest = ops.select(ops.eq(start, step), top, used)
            return step, rest, at, stored, finish(step, reached, cts)

        return cond(room, keep, turn_round)

    return while_loop(unfinished, turn, (_as_count(length), one, at, stored, cts))[4]


def _advanced(forward: Any, start: Any, steps: Any, state: list[Any]) -> tuple[Any, list[Any]]:
    end = ops.add(start, steps)

    def ahead(loop: Any) -> Any:
        return ops.lt(loop[0], end)

    def step(loop: Any) -> Any:
        return ops.add(loop[0], np.int32(1)), forward(loop[0], loop[1])

    return while_loop(ahead, step, (start, state))


def _split_point(distance: Any, snapshots: Any) -> Any:
    """How far to go before the next snapshot, on a way of `distance` > 1 steps, with `snapshots` > 1 that include the one at its start.

    With r the least number for which binomial(s + r, s) covers the distance, the part before the new snapshot should be reversed in r - 1
    repetitions with s snapshots, the part after it in r with s - 1. In floating point: only the cost depends on it.
    """
    f32 = np.dtype(np.float32)
    d, s = ops.convert_element_type(distance, f32), ops.convert_element_type(snapshots, f32)
    one = np.float32(1)

    def too_few(loop: Any) -> Any:
        return ops.lt(loop[1], d)

    def more(loop: Any) -> Any:
        r, covered, _ = loop
        r = ops.add(r, one)
        return r, ops.div(ops.mul(covered, ops.add(s, r)), r), covered

    r, _, before = while_loop(too_few, more, (one, ops.add(s, one), one))
    fewer = ops.div(ops.mul(before, s), ops.sub(ops.add(s, r), one))
    m = ops.convert_element_type(ops.min(before, ops.sub(d, fewer)), np.dtype(np.int32))
    return ops.clamp(np.int32(1), m, ops.sub(distance, np.int32(1)))


def _those(xs: Sequence[Any], mask: Sequence[bool], which: bool) -> list[Any]:
    return [x for x, m in zip(xs, mask, strict=True) if bool(m) == which]


def _as_count(length: Any) -> Any:
    return np.int32(length) if isinstance(length, int) else length


def _slice(x: Any, i: Any) -> Any:
    return ops.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _with_slice(x: Any, value: Any, i: Any) -> Any:
    shape = type_of(x).shape
    return ops.dynamic_update_slice(x, ops.reshape(value, (1, *shape[1:])), [i, *[np.int32(0)] * (len(shape) - 1)])


def _reads(advance: Program, xs: Sequence[Any]) -> list[bool]:
    """Which scanned arrays are read to go forward."""
    return used_inputs(advance)[len(advance.inputs) - len(xs) :] if xs else []


def _unread(t: ArrayType) -> Any:
    return instantiate(Zero(t))
