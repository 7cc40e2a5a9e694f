"""checkpoint (remat): a function whose intermediate values are computed again in the backward pass instead of being kept.

Linearizing `checkpoint(program)` keeps its inputs, and what the policy lets it save; the linear part holds the recomputation, under
a barrier, so that it is not merged with the forward pass. Transposing that part evaluates the recomputation and turns the rest around.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from tracegrad.ir.bind import Interpreter, bind, current, is_eager, type_of, using
from tracegrad.ir.calls import PolicyRef, call_p, checkpoint_p, optimization_barrier_p
from tracegrad.ir.calls import name as label
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Equation, Program, Var
from tracegrad.ir.types import is_inexact, tangent_type
from tracegrad.tracer.abstract import argument_names, traced
from tracegrad.tracer.pytree import tree_flatten, tree_map, tree_unflatten
from tracegrad.tracer.staging import trace
from tracegrad.transforms.api import Flat, as_array, check_callable, leaf_type, name_of, partly_applied
from tracegrad.transforms.batch import batch_program
from tracegrad.transforms.calls import transpose_with
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.linearize import linearize_program
from tracegrad.transforms.partial import PARTIAL_RULES, Partial, partial_program
from tracegrad.transforms.staged import cached, renamed, stage
from tracegrad.transforms.zero import Axis, Zero

Policy = Callable[..., bool]


# Policies: may the results of this operation be saved?


class checkpoint_policies:
    """The policies that `checkpoint` takes: functions `policy(primitive, *types, **params) -> bool`, true for what may be saved."""

    @staticmethod
    def everything_saveable(*_: Any, **__: Any) -> bool:
        """Save as without checkpoint."""
        return True

    @staticmethod
    def nothing_saveable(*_: Any, **__: Any) -> bool:
        """Save the inputs only. The default."""
        return False

    @staticmethod
    def dots_saveable(prim: Any, *_: Any, **__: Any) -> bool:
        """Save products and convolutions."""
        return prim.name in ("dot_general", "conv_general_dilated")

    checkpoint_dots = dots_saveable

    @staticmethod
    def dots_with_no_batch_dims_saveable(prim: Any, *_: Any, **params: Any) -> bool:
        """Save products without batch dimensions: the layers of a network, not its attention."""
        return prim.name == "dot_general" and not params["dimension_numbers"][1][0]

    checkpoint_dots_with_no_batch_dims = dots_with_no_batch_dims_saveable

    @staticmethod
    def save_only_these_names(*names: str) -> Policy:
        """Save values that `checkpoint_name` gave one of these names."""
        return lambda prim, *_, **params: prim.name == "name" and params["name"] in names

    @staticmethod
    def save_any_names_but_these(*names: str) -> Policy:
        """Save values that have a name, unless it is one of these."""
        return lambda prim, *_, **params: prim.name == "name" and params["name"] not in names

    @staticmethod
    def save_anything_except_these_names(*names: str) -> Policy:
        """Save everything but values with one of these names."""
        return lambda prim, *_, **params: not (prim.name == "name" and params["name"] in names)

    @staticmethod
    def save_from_both_policies(first: Policy, second: Policy) -> Policy:
        """Save what either policy saves."""
        return lambda prim, *types, **params: first(prim, *types, **params) or second(prim, *types, **params)


_references: WeakKeyDictionary[Any, PolicyRef] = WeakKeyDictionary()


def _reference(policy: Policy | None) -> str | PolicyRef:
    """How a program refers to a policy: by the name of a well-known one, or by a reference."""
    if policy is None:
        return "nothing_saveable"
    for name in ("everything_saveable", "nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable"):
        if policy is getattr(checkpoint_policies, name):
            return name
    try:
        known = _references.get(policy)
        if known is None:
            known = _references[policy] = PolicyRef(name_of(policy).strip("<>") or "policy", policy)
        return known
    except TypeError:  # a callable that cannot be weakly referenced
        return PolicyRef("policy", policy)


def _policy(reference: str | PolicyRef) -> Policy:
    return getattr(checkpoint_policies, reference) if isinstance(reference, str) else reference.function


def checkpoint_name(x: Any, name: str) -> Any:
    """`x` (a pytree), labelled `name` for the policies that save values by name."""
    return tree_map(lambda leaf: label(leaf, name), x)


# The user's function


def checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | Sequence[int] = (),
    policy: Policy | None = None,
) -> Callable[..., Any]:
    """`fun`, with its intermediate values computed again during the backward pass instead of kept.

    prevent_cse: keep the recomputation apart from the forward pass; inside a scan it is not needed. policy: what may be saved all the
    same, a member of `checkpoint_policies`. static_argnums: positions of arguments that are not arrays.
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
    reference = _reference(policy)

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
        outs = bind(checkpoint_p, *captured, *leaves, program=program, prevent_cse=bool(prevent_cse), policy=reference)
        return tree_unflatten_arrays(flat, outs)

    return checkpointed


remat = checkpoint


def tree_unflatten_arrays(flat: Flat, leaves: Sequence[Any]) -> Any:
    return tree_unflatten(flat.out_tree, [as_array(x) for x in leaves])


# Rules


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, program: Program, **params: Any) -> tuple[Any, Any]:
    nonzero = tuple([type(t) is not Zero for t in tangents])
    both, nonzero_out = jvp_program(program, nonzero)
    outs = bind(checkpoint_p, *primals, *[t for t in tangents if type(t) is not Zero], program=both, **params)
    n = len(nonzero_out)
    found = iter(outs[n:])
    return outs[:n], [next(found) if nz else Zero(tangent_type(t)) for nz, t in zip(nonzero_out, program.out_types)]


class _Remat(NamedTuple):
    """now: the outputs and then the saved values. later: (inputs it needs, saved values, tangents) -> output tangents."""

    now: Program
    later: Program
    needed: tuple[int, ...]
    num_outs: int
    unknown_out: tuple[bool, ...]


class _Opening:
    """Runs calls as their equations, so that a policy sees into them."""

    def __init__(self, parent: Interpreter):
        self.parent = parent

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        if primitive is call_p:
            return run(params["program"], *args)
        return self.parent.process(primitive, args, params)


def _opened(program: Program) -> Program:
    if not any(e.primitive is call_p for e in program.equations):
        return program

    def fun(*args: Any) -> Sequence[Any]:
        with using(_Opening(current())):
            return run(program, *args)

    return stage(fun, program.in_types, program.name)


@cached
def _remat(program: Program, nonzero: tuple[bool, ...], policy: Any, prevent_cse: bool) -> _Remat:
    may_save = _policy(policy)
    if policy != "nothing_saveable":
        program = _opened(program)
    split = linearize_program(program, nonzero)
    known = split.known
    defined = {v: eqn for eqn in known.equations for v in eqn.outputs}
    allowed = {
        id(eqn): policy != "nothing_saveable" and bool(may_save(eqn.primitive, *[a.type for a in eqn.inputs], **eqn.params))
        for eqn in known.equations
    }
    saved: dict[Var, None] = {}
    again: set[int] = set()
    seen: set[Any] = set()
    atoms = [known.inputs[i] if where == "in" else known.outputs[i] for where, i in split.residuals]
    stack: list[Any] = list(reversed(atoms))
    while stack:
        atom = stack.pop()
        eqn = defined.get(atom) if type(atom) is Var else None
        if atom in seen or eqn is None:
            seen.add(atom)
            continue
        seen.add(atom)
        if allowed[id(eqn)]:
            saved[atom] = None
        elif id(eqn) not in again:
            again.add(id(eqn))
            stack.extend(eqn.inputs)
    needed = tuple([i for i, v in enumerate(known.inputs) if v in seen])
    rest = renamed(split.unknown, dict(zip(split.unknown.inputs, atoms)))
    equations: list[Equation] = [eqn for eqn in known.equations if id(eqn) in again]
    kept = [known.inputs[i] for i in needed]
    operands = [*kept, *saved]
    if prevent_cse and equations and operands:
        entered = [Var(v.type, v.name) for v in operands]
        equations.insert(0, Equation(optimization_barrier_p, entered, operands, {}))
        operands = entered
    read = {a for eqn in equations for a in eqn.inputs}
    later = Program(
        [*operands, *rest.inputs[split.num_residuals :]],
        [*rest.constants, *[c for c in known.constants if c.var in read]],
        [*equations, *rest.equations],
        rest.outputs,
        f"{program.name}",
    )
    now = known.replace(outputs=[*known.outputs[: split.num_outs], *saved])
    return _Remat(remove_dead_code(now), later, needed, split.num_outs, split.unknown_out)


def _linearize(
    nonzero: Sequence[bool], primals: Sequence[Any], *, program: Program, prevent_cse: bool, policy: Any
) -> tuple[Any, Any, Any]:
    plan = _remat(program, tuple(nonzero), policy, prevent_cse)
    params = {"prevent_cse": prevent_cse, "policy": policy}
    outs = bind(checkpoint_p, *primals, program=plan.now, **params)
    saved = outs[plan.num_outs :]

    def linear(*tangents: Any) -> Sequence[Any]:
        return bind(checkpoint_p, *[primals[i] for i in plan.needed], *saved, *tangents, program=plan.later, **params)

    return outs[: plan.num_outs], plan.unknown_out, linear


def _transpose(cts: Sequence[Any], inputs: Sequence[Any], *, program: Program, **params: Any) -> Sequence[Any]:
    return transpose_with(lambda values, turned: bind(checkpoint_p, *values, program=turned, **params), cts, inputs, program)


def _batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, program: Program, **params: Any) -> tuple[Any, Any]:
    whole, out_dims = batch_program(program, axis, tuple(dims))
    return bind(checkpoint_p, *args, program=whole, **params), out_dims


def _partial(partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]) -> tuple[Any, ...]:
    program: Program = params["program"]
    unknown_out = partial_program(program, tuple(unknown)).unknown_out
    if not any(unknown_out):
        staged: tuple[Any, ...] = ()
    else:
        # What is known is computed now as well as, later, again: that is what the checkpoint asks for.
        staged = partial.staging.process(checkpoint_p, args, params)
        if all(unknown_out):
            return staged
    pruned = remove_dead_code(program, [not u for u in unknown_out])
    pruned = pruned.replace(inputs=[v for v, u in zip(pruned.inputs, unknown) if not u])
    known = iter(
        partial.parent.process(checkpoint_p, tuple([x for x, u in zip(args, unknown) if not u]), {**params, "program": pruned})
    )
    return tuple([staged[i] if u else next(known) for i, u in enumerate(unknown_out)])


PARTIAL_RULES[checkpoint_p] = _partial
checkpoint_p.define(jvp=_jvp, linearize=_linearize, transpose=_transpose, batch=_batch)


# Seeing what is saved


def saved_residuals(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> list[tuple[Any, str]]:
    """What the backward pass of `fun` at these arguments keeps: (type, where it comes from) of each value."""
    result = traced(fun, args, kwargs)
    program = result.program
    split = linearize_program(program, tuple([is_inexact(t.dtype) for t in program.in_types]))
    n = len(result.captured)
    names = argument_names(fun, args, kwargs)
    made = {v: eqn for eqn in split.known.equations for v in eqn.outputs}
    found = []
    for where, i in split.residuals:
        atom = split.known.inputs[i] if where == "in" else split.known.outputs[i]
        if where == "in":
            text = f"from the argument {names[i - n]}" if i >= n else "from a constant"
        else:
            eqn = made[atom]  # type: ignore[index]
            named = f"named '{eqn.params['name']}'" if eqn.primitive.name == "name" else f"output of {eqn.primitive.name}"
            text = f"{named} from {eqn.source}, in {eqn.source.function}" if eqn.source else named
        found.append((atom.type, text))
    return found


def print_saved_residuals(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Print what the backward pass of `fun` at these arguments keeps, a line for each value."""
    for type, text in saved_residuals(fun, *args, **kwargs):
        print(type, text)
