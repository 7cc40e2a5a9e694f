"""Loops whose reverse mode keeps less than the values of every step.

`scan`, `fori_loop` and `while_loop` take `checkpoint=`:

    every(k)         keeps the carry of every k-th step, and runs k steps again at a time
    binomial(slots)  keeps at most `slots` carries at a time, whatever the number of steps (`transforms.treeverse`)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.tracer import control_flow
from tracegrad.tracer.pytree import tree_flatten, tree_map
from tracegrad.transforms.checkpoint import checkpoint as rematerialized


class every(NamedTuple):
    """Keep the carry of every `steps`-th step of a loop; the steps between are run again in the backward pass, once.

    Of n steps, n / `steps` carries are kept, and the residuals of `steps` steps at a time: least memory at about the square root of n.
    """

    steps: int


class binomial(NamedTuple):
    """Keep at most `slots` carries of a loop at a time. Steps are run again as the binomial schedule says.

    With s slots, binomial(s + r, s) steps are reversed by running each at most r times: with 50 slots, 316,251 steps with r = 4, 3,478,761
    with r = 5. The number of steps need not be known. Sources: Griewank 1992; Griewank and Walther, ACM TOMS 26 (2000), algorithm 799.
    """

    slots: int


Schedule = every | binomial | None


def _checked(what: str, schedule: Any) -> Schedule:
    if schedule is None:
        return None
    if not isinstance(schedule, (every, binomial)):
        raise TypeError(f"{what}: checkpoint is every(steps) or binomial(slots), of tracegrad.ad_checkpoint, or None; got {schedule!r}")
    number = schedule[0]
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise ValueError(f"{what}: {type(schedule).__name__} takes a positive integer, got {number!r}")
    return schedule


def scan(
    f: Callable[..., Any],
    init: Any,
    xs: Any = None,
    length: Any = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    _split_transpose: bool = False,
    *,
    checkpoint: Schedule = None,
) -> tuple[Any, Any]:
    """Thread a carry through a loop and stack what each step gives: `carry, y = f(carry, x)` for each `x` of `xs`.

    xs: a pytree of arrays sliced along their first dimension, or None with `length`. `reverse` runs from the last slice to the first.
    checkpoint: what reverse mode keeps: `every(k)` or `binomial(slots)` of `tracegrad.ad_checkpoint`; None: the residuals of each step.
    `_split_transpose` is there for programs written for JAX, and has no effect.
    Returns (final carry, ys), `ys` with a leading dimension of the length.
    Raises ValueError if lengths disagree, TypeError if `f` does not return a pair or the carry changes its types, naming the leaf.
    """
    schedule = _checked("lax.scan", checkpoint)
    if isinstance(schedule, every):
        return _scan_every(f, init, xs, length, reverse, unroll, int(schedule.steps))
    slots = int(schedule.slots) if schedule is not None else None
    return control_flow.scan(f, init, xs, length, reverse, unroll, _slots=slots)


def _scan_every(f: Any, init: Any, xs: Any, length: Any, reverse: bool, unroll: Any, steps: int) -> tuple[Any, Any]:
    leaves = tree_flatten(xs)[0]
    n = int(length) if length is not None else next((type_of(x).shape[0] for x in leaves if type_of(x).shape), None)
    if n is None or n <= steps or any([type_of(x).shape[:1] != (n,) for x in leaves]):
        # Nothing to divide, or an error that scan explains.
        return control_flow.scan(f, init, xs, length, reverse, unroll)
    blocks, rest = divmod(n, steps)
    split = blocks * steps

    def block(carry: Any, part: Any, length: int = steps) -> Any:
        return control_flow.scan(f, carry, part, length, reverse, unroll, _name=getattr(f, "__name__", ""))

    def body(carry: Any, part: Any) -> Any:
        return rematerialized(block)(carry, part)

    def last(carry: Any) -> tuple[Any, Any]:
        return rematerialized(lambda c, part: block(c, part, rest))(carry, tree_map(lambda x: ops.slice_in_dim(x, split, n), xs))

    def blocked(x: Any) -> Any:
        return ops.reshape(ops.slice_in_dim(x, 0, split), (blocks, steps, *type_of(x).shape[1:]))

    carry, remainder = init, None
    if rest and reverse:
        carry, remainder = last(carry)
    carry, ys = control_flow.scan(body, carry, tree_map(blocked, xs), blocks, reverse)
    ys = tree_map(lambda y: ops.reshape(y, (split, *type_of(y).shape[2:])), ys)
    if not rest:
        return carry, ys
    if not reverse:
        carry, remainder = last(carry)
    return carry, tree_map(lambda y, r: ops.concatenate([y, r], 0), ys, remainder)


def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any, *, checkpoint: Schedule = None
) -> Any:
    """Repeat `val = body_fun(val)` while `cond_fun(val)`, starting at `init_val` (a pytree whose types stay the same).

    Both modes of differentiation apply: reverse mode keeps the residuals of each step, in memory that grows as the loop runs.
    checkpoint: keep less: `every(k)` or `binomial(slots)` of `tracegrad.ad_checkpoint`.
    Raises TypeError if the condition is not a scalar bool or the carry changes its structure or types, naming the leaf.
    """
    schedule = _checked("lax.while_loop", checkpoint)
    if not isinstance(schedule, every):
        slots = int(schedule.slots) if schedule is not None else None
        return control_flow.while_loop(cond_fun, body_fun, init_val, _slots=slots)
    most = np.int32(schedule.steps)

    def going(state: Any) -> Any:
        return ops.bitwise_and(ops.lt(state[0], most), cond_fun(state[1]))

    def step(state: Any) -> Any:
        return ops.add(state[0], np.int32(1)), body_fun(state[1])

    @rematerialized
    def block(val: Any) -> Any:
        return control_flow.while_loop(going, step, (np.int32(0), val))[1]

    return control_flow.while_loop(cond_fun, block, init_val)


def fori_loop(
    lower: Any,
    upper: Any,
    body_fun: Callable[[Any, Any], Any],
    init_val: Any,
    *,
    unroll: int | bool | None = None,
    checkpoint: Schedule = None,
) -> Any:
    """`for i in range(lower, upper): val = body_fun(i, val)`, starting at `init_val`.

    With concrete bounds it is a scan, with traced bounds a while_loop; both modes of differentiation apply to both.
    checkpoint: what reverse mode keeps: `every(k)` or `binomial(slots)` of `tracegrad.ad_checkpoint`; None: the residuals of each step.
    Raises TypeError if the bounds are not integers or the carry changes its types.
    """
    schedule = _checked("lax.fori_loop", checkpoint)
    if isinstance(schedule, every):
        steps = int(schedule.steps)

        def by_scan(f: Any, init: Any, xs: Any, length: int, unroll: Any, **names: Any) -> Any:
            return _scan_every(f, init, xs, length, False, unroll, steps)

        loops: Any = (by_scan, partial(while_loop, checkpoint=schedule))
    else:
        slots = schedule and int(schedule.slots)
        loops = (partial(control_flow.scan, _slots=slots), partial(control_flow.while_loop, _slots=slots))
    return control_flow.fori_loop(lower, upper, body_fun, init_val, unroll=unroll, _loops=loops)
