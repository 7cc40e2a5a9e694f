"""checkpoint (remat): a function whose intermediate values are computed again in the backward pass instead of being kept.

Linearizing `checkpoint(program)` keeps its inputs, and what the policy lets it save (`rematerialize.py`); the linear part holds the
recomputation, under a barrier, so that it is not merged with the forward pass. Transposing that part evaluates the recomputation and turns the
rest around.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir.bind import bind, is_eager, type_of
from tracegrad.ir.calls import checkpoint_p
from tracegrad.ir.calls import name as label
from tracegrad.ir.program import Program
from tracegrad.ir.types import tangent_type
from tracegrad.tracer.abstract import argument_names
from tracegrad.tracer.pytree import broadcast_prefix, tree_flatten, tree_map, tree_unflatten
from tracegrad.tracer.staging import trace
from tracegrad.transforms.api import Flat, as_array, check_callable, leaf_type, name_of, partly_applied
from tracegrad.transforms.batch import batch_program
from tracegrad.transforms.calls import transpose_with
from tracegrad.transforms.checkpoint_policies import Policy, may_save, policy_reference
from tracegrad.transforms.checkpoint_policies import checkpoint_policies as checkpoint_policies
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.linearize import linearize_program
from tracegrad.transforms.partial import PARTIAL_RULES, Partial, partial_program
from tracegrad.transforms.rematerialize import Rematerialized, rematerialize
from tracegrad.transforms.staged import cached
from tracegrad.transforms.zero import Axis, Zero


def checkpoint_name(x: Any, name: str) -> Any:
    """`x` (a pytree), labelled `name` for the policies that save values by name."""
    return tree_map(lambda leaf: label(leaf, name), x)


# The user's function


def checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    concrete: bool = False,
    prevent_cse: bool | Sequence[Any] = True,
    static_argnums: int | Sequence[int] = (),
    policy: Policy | None = None,
) -> Callable[..., Any]:
    """`fun`, with its intermediate values computed again during the backward pass instead of kept.

    prevent_cse: keep the recomputation apart from the forward pass, with which it would be merged otherwise; inside a scan it is not needed. A
    sequence says so of each argument that is not static (a tree prefix of the arguments). policy: what may be saved
    all the same, a member of `checkpoint_policies` or a function `policy(primitive, *types, **params) -> bool`. static_argnums: positions of
    arguments that are not arrays.
    """
    if fun is None:
        return functools.partial(
            checkpoint, concrete=concrete, prevent_cse=prevent_cse, static_argnums=static_argnums, policy=policy
        )
    check_callable(fun, "checkpoint")
    if concrete:
        raise NotImplementedError(
            "checkpoint(concrete=True) does not exist any more; name the arguments that Python looks at in static_argnums"
        )
    static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    reference = policy_reference(policy)
    if not isinstance(prevent_cse, (bool, Sequence)):
        raise TypeError(f"checkpoint: prevent_cse must be a bool, or a sequence with one for each argument; got {prevent_cse!r}")

    @functools.wraps(fun, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        fixed = {i % len(args) for i in static if -len(args) <= i < len(args)} if args else set()
        where = [i for i in range(len(args)) if i not in fixed]
        leaves, in_tree = tree_flatten((tuple([args[i] for i in where]), kwargs))
        for i, x in enumerate(leaves):
            leaf_type("checkpoint", lambda: argument_names(fun, [args[i] for i in where], kwargs), i, x)

        def call(given: Any) -> Any:
            dynamic, kwargs = given
            return partly_applied(fun, args, kwargs, where, False)(dynamic)

        flat = Flat(fun, in_tree, False, "checkpoint", call)
        if is_eager():
            return tree_unflatten_arrays(flat, flat(*leaves))
        program, captured = trace(flat, [type_of(x) for x in leaves], name_of(fun))
        apart: bool | tuple[bool, ...]
        if isinstance(prevent_cse, bool):
            apart = prevent_cse
        else:
            dynamic = tuple([args[i] for i in where])
            flags = broadcast_prefix(tuple(prevent_cse), (dynamic, kwargs) if kwargs else dynamic)
            apart = (False,) * len(captured) + tuple([bool(f) for f in flags])
        outs = bind(checkpoint_p, *captured, *leaves, program=program, prevent_cse=apart, policy=reference)
        return tree_unflatten_arrays(flat, outs)

    return checkpointed


remat = checkpoint


def tree_unflatten_arrays(flat: Flat, leaves: Sequence[Any]) -> Any:
    return tree_unflatten(flat.out_tree, [as_array(x) for x in leaves])


# Rules


def _flags(prevent_cse: bool | tuple[bool, ...], n: int) -> tuple[bool, ...]:
    return (prevent_cse,) * n if isinstance(prevent_cse, bool) else prevent_cse


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, program: Program, prevent_cse: Any, policy: Any) -> tuple[Any, Any]:
    nonzero = tuple([type(t) is not Zero for t in tangents])
    both, nonzero_out = jvp_program(program, nonzero)
    if not isinstance(prevent_cse, bool):
        prevent_cse += (True,) * sum(nonzero)
    live = [t for t in tangents if type(t) is not Zero]
    outs = bind(checkpoint_p, *primals, *live, program=both, prevent_cse=prevent_cse, policy=policy)
    n = len(nonzero_out)
    found = iter(outs[n:])
    return outs[:n], [next(found) if nz else Zero(tangent_type(t)) for nz, t in zip(nonzero_out, program.out_types)]


@cached
def _rematerialized(
    program: Program, nonzero: tuple[bool, ...], policy: Any, prevent_cse: tuple[bool, ...]
) -> tuple[Rematerialized, int, tuple[bool, ...]]:
    split = linearize_program(program, nonzero)
    return rematerialize(split, may_save(policy), prevent_cse), split.num_outs, split.unknown_out


def _linearize(
    nonzero: Sequence[bool], primals: Sequence[Any], *, program: Program, prevent_cse: Any, policy: Any
) -> tuple[Any, Any, Any]:
    flags = _flags(prevent_cse, len(primals))
    plan, n, unknown_out = _rematerialized(program, tuple(nonzero), policy, flags)
    outs = bind(checkpoint_p, *primals, program=plan.now, prevent_cse=prevent_cse, policy=policy)
    saved = outs[n:]

    def linear(*tangents: Any) -> Sequence[Any]:
        operands = [*[primals[i] for i in plan.needed], *saved, *tangents]
        return bind(checkpoint_p, *operands, program=plan.later, prevent_cse=any(flags), policy=policy)

    return outs[:n], unknown_out, linear


def _transpose(cts: Sequence[Any], inputs: Sequence[Any], *, program: Program, prevent_cse: Any, policy: Any) -> Sequence[Any]:
    params = {"prevent_cse": prevent_cse if isinstance(prevent_cse, bool) else any(prevent_cse), "policy": policy}
    return transpose_with(lambda values, turned: bind(checkpoint_p, *values, program=turned, **params), cts, inputs, program)


def _batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, program: Program, **params: Any) -> tuple[Any, Any]:
    whole, out_dims = batch_program(program, axis, tuple(dims))
    return bind(checkpoint_p, *args, program=whole, **params), out_dims


@cached
def _divided(
    program: Program, unknown: tuple[bool, ...], policy: Any, prevent_cse: tuple[bool, ...]
) -> tuple[Rematerialized, int, tuple[bool, ...]]:
    split = partial_program(program, unknown)
    return rematerialize(split, may_save(policy), prevent_cse), split.num_outs, split.unknown_out


def _partial(partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]) -> tuple[Any, ...]:
    apart, policy = params["prevent_cse"], params["policy"]
    flags = tuple([f for f, u in zip(_flags(apart, len(args)), unknown) if not u])
    plan, n, unknown_out = _divided(params["program"], tuple(unknown), policy, flags)
    known = [x for x, u in zip(args, unknown) if not u]
    outs: Sequence[Any] = ()
    if plan.now.outputs or plan.now.has_effects:
        now_params = {"program": plan.now, "prevent_cse": apart if isinstance(apart, bool) else flags, "policy": policy}
        outs = partial.parent.process(checkpoint_p, tuple(known), now_params)
    operands = (*[known[i] for i in plan.needed], *outs[n:], *[x for x, u in zip(args, unknown) if u])
    # What is known is computed now as well as, later, again: that is what the checkpoint asks for.
    later_params = {"program": plan.later, "prevent_cse": any(flags), "policy": policy}
    later = iter(partial.staging.process(checkpoint_p, operands, later_params) if any(unknown_out) else ())
    now = iter(outs)
    return tuple([next(later) if u else next(now) for u in unknown_out])


PARTIAL_RULES[checkpoint_p] = _partial
checkpoint_p.define(jvp=_jvp, linearize=_linearize, transpose=_transpose, batch=_batch)
