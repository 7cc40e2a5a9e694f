"""custom_vmap: functions that bring their own rule for batches.

Outside of batching the function is what it is. Under vmap, and where a program is recorded that may be batched later, it is applied as a
`custom_vmap_call`, whose rules follow from the user's one rule: its derivative is the function's derivative with the derivative of the
rule for its batches, and so is its transpose. So both modes of differentiation commute with the rule: vmap(grad(f)) and grad(vmap(f)) agree
if the rule does what vmap would have done. The linear part of the derivative keeps the arguments and repeats what it needs of the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir.bind import bind, current, is_eager, type_of
from tracegrad.ir.calls import BatchRule, custom_vmap_call_p
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType, is_inexact, tangent_type
from tracegrad.tracer.control_flow import map as map_loop
from tracegrad.tracer.errors import UnexpectedTracerError
from tracegrad.tracer.pytree import TreeDef, keystr, leaf_paths, tree_flatten, tree_map, tree_unflatten
from tracegrad.tracer.staging import trace
from tracegrad.transforms.api import as_array, check_callable, name_of
from tracegrad.transforms.batch import BatchInterpreter, to_dim
from tracegrad.transforms.closures import Lifted, lift
from tracegrad.transforms.custom import Custom, arrays
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.jvp import jvp_flat, jvp_program
from tracegrad.transforms.partial import separated
from tracegrad.transforms.transpose import backward, transpose_program
from tracegrad.transforms.zero import Axis, Linear, Zero, instantiate


class custom_vmap(Custom):
    """A function with a rule for batches: `f = custom_vmap(f)`, then `f.def_vmap(rule)`.

    `rule(axis_size, in_batched, *args) -> (output, out_batched)`: in_batched is a list with, for each argument, a bool or a pytree of bools for its
    leaves; batched arguments have the axis in front, as batched outputs must. out_batched has the structure of the output.
    """

    what = "custom_vmap"
    functions = ("fun", "vmap_rule")
    vmap_rule: Callable[..., Any] | None = None

    def __init__(self, fun: Callable[..., Any]):
        super().__init__(fun)

    def def_vmap(self, vmap_rule: Callable[..., Any]) -> Callable[..., Any]:
        """Set the rule; returns it."""
        check_callable(vmap_rule, "def_vmap")
        self.vmap_rule = vmap_rule
        self._applications.clear()
        return vmap_rule

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.vmap_rule is None:
            raise AttributeError(f"No batching rule defined for custom_vmap function {self.__name__} using def_vmap.")
        leaves, in_tree, _, _ = self._split(args, kwargs)
        held = None if is_eager() else lift(self)
        values: list[Any] = []
        if held is not None:
            values = held[1]
            application = _Application(self.__name__, None, held[0], len(values), in_tree)
        else:
            found: _Application | None = self._applications.get(in_tree)
            if found is None:
                found = self._applications[in_tree] = _Application(self.__name__, self, None, 0, in_tree)
            application = found
        outs = _apply(application, [*values, *leaves])
        return tree_unflatten(application.out_tree, [as_array(x) for x in outs])


class _Application:
    """A custom_vmap function for one structure of arguments, as flat functions of (the values that it closes over, leaves)."""

    __slots__ = ("name", "custom", "lifted", "num_held", "in_tree", "out_tree", "rule")
    out_tree: TreeDef

    def __init__(self, name: str, custom: custom_vmap | None, lifted: Lifted | None, num_held: int, in_tree: TreeDef):
        self.name = name
        self.custom = custom
        self.lifted = lifted
        self.num_held = num_held
        self.in_tree = in_tree
        self.rule = BatchRule(name, self.batched)

    def at(self, values: Sequence[Any]) -> Any:
        return self.custom if self.lifted is None else self.lifted.at(values[: self.num_held])

    def __call__(self, *values: Any) -> list[Any]:
        outs, self.out_tree = tree_flatten(self.at(values).fun(*tree_unflatten(self.in_tree, values[self.num_held :])))
        return outs

    def batched(self, axis_size: int, in_batched: Sequence[bool], values: Sequence[Any]) -> tuple[list[Any], list[bool]]:
        k = self.num_held
        if any(in_batched[:k]):
            raise UnexpectedTracerError(
                f"The custom_vmap function {self.name} or its rule closes over a value that is batched, of which the rule cannot know. "
                "Pass the value as an argument."
            )
        rule = self.at(values).vmap_rule
        flags = list(tree_unflatten(self.in_tree, in_batched[k:]))
        pair = rule(axis_size, flags, *tree_unflatten(self.in_tree, arrays(values[k:])))
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise TypeError(
                f"the custom vmap rule {name_of(rule)} must return a pair (output, which of it is batched), got {pair!r:.200}"
            )
        outs, out_tree = tree_flatten(pair[0])
        out_batched, batched_tree = tree_flatten(pair[1])
        if out_tree != batched_tree:
            raise ValueError(
                f"structure of output value and output batching specification returned by custom vmap rule ({name_of(rule)}) do not match.\n"
                f"Output values: {out_tree}\nBatching spec: {batched_tree}"
            )
        if out_tree != self.out_tree:
            raise ValueError(
                f"structure of output returned by custom vmap rule ({name_of(rule)}) does not match that of original custom-vmapped "
                f"function.\nOriginal output: {self.out_tree}\nRule output: {out_tree}"
            )
        for x, b, path in zip(outs, out_batched, leaf_paths(out_tree)):
            if b and type_of(x).shape[:1] != (axis_size,):
                raise ValueError(
                    f"custom vmap rule ({name_of(rule)}): output{keystr(path)} is said to be batched, but its leading axis is not of size "
                    f"{axis_size}: its shape is {type_of(x).shape}"
                )
        return outs, [bool(b) for b in out_batched]


def _apply(application: _Application, values: Sequence[Any]) -> Sequence[Any]:
    if not _may_be_batched():
        return application(*values)
    program, captured = trace(application, [type_of(x) for x in values], application.name)
    return bind(custom_vmap_call_p, *captured, *values, program=program, rule=_without_captured(application.rule, len(captured)))


def _may_be_batched() -> bool:
    """Whether a batch is being computed or a program recorded, however deep below the current interpreter."""
    interpreter: Any = current()
    while interpreter is not None:
        if type(interpreter) is BatchInterpreter or hasattr(interpreter, "equations"):
            return True
        interpreter = getattr(interpreter, "parent", None)
    return False


def _without_captured(rule: BatchRule, n: int) -> BatchRule:
    """The rule of a function that takes `n` captured values, of which the rule knows nothing, before its arguments."""
    if n == 0:
        return rule

    def function(axis_size: int, in_batched: Sequence[bool], values: Sequence[Any]) -> Any:
        if any(in_batched[:n]):
            raise UnexpectedTracerError(
                f"The custom_vmap function {rule.name.rpartition('_')[0]} uses a value that is batched and no argument. Pass it as one."
            )
        return rule.function(axis_size, in_batched[n:], values[n:])

    return _derived(rule, ("captured", n), function)


def _derived(rule: BatchRule, key: tuple[Any, ...], function: Callable[..., Any]) -> BatchRule:
    known = rule.options.get(key)
    if known is None:
        known = rule.options[key] = BatchRule(rule.name.rpartition("_")[0], function)
    return known


# The rules of the primitive


def _batch(
    axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, program: Program, rule: BatchRule
) -> tuple[Sequence[Any], list[int | None]]:
    values = [x if d is None else to_dim(x, d, 0, axis.size) for x, d in zip(args, dims)]
    outs, out_batched = rule.function(axis.size, [d is not None for d in dims], values)
    for x, b, t in zip(outs, out_batched, program.out_types, strict=True):
        got = type_of(x)
        shape = got.shape[1:] if b else got.shape
        if shape != t.shape or got.dtype != t.dtype:
            raise TypeError(
                f"the custom vmap rule of {rule.name.rpartition('_')[0]} gave, for an output {t} of the function, "
                f"{'a batch of' if b else ''} {got.update(shape=shape)}"
            )
    return outs, [0 if b else None for b in out_batched]


def _both(program: Program, nonzero: tuple[bool, ...]) -> tuple[Program, tuple[bool, ...]]:
    """The derivative as a program, with a tangent for every output that can have one: the batching rule may differ from the function."""
    return jvp_program(program, nonzero, tuple([is_inexact(t.dtype) for t in program.out_types]))


def _jvp_rule(rule: BatchRule, nonzero: tuple[bool, ...], nonzero_out: tuple[bool, ...], only_tangents: bool) -> BatchRule:
    """The batching rule of the derivative, from (primals, nonzero tangents)."""
    n = len(nonzero)

    def function(axis_size: int, in_batched: Sequence[bool], values: Sequence[Any]) -> tuple[list[Any], list[bool]]:
        primals, given = list(values[:n]), iter(zip(values[n:], in_batched[n:]))
        flags = list(in_batched[:n])
        tangents: list[Any] = []
        for i, nz in enumerate(nonzero):
            if not nz:
                tangents.append(Zero(tangent_type(type_of(primals[i]))))
                continue
            tangent, batched = next(given)
            # A value and its tangent are batched together.
            if batched and not flags[i]:
                primals[i] = to_dim(primals[i], None, 0, axis_size)
            elif flags[i] and not batched:
                tangent = to_dim(tangent, None, 0, axis_size)
            flags[i] = flags[i] or batched
            tangents.append(tangent)
        out_batched: list[bool] = []

        def fun(*xs: Any) -> list[Any]:
            outs, out_batched[:] = rule.function(axis_size, flags, xs)
            return outs

        outs, dots = jvp_flat(fun, primals, tangents)
        results = [(instantiate(t), b) for t, b, nz in zip(dots, out_batched, nonzero_out) if nz]
        if not only_tangents:
            results = [*zip(outs, out_batched), *results]
        return [x for x, _ in results], [b for _, b in results]

    return _derived(rule, ("jvp", nonzero, nonzero_out, only_tangents), function)


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, program: Program, rule: BatchRule
) -> tuple[Sequence[Any], Sequence[Any]]:
    nonzero = tuple([type(t) is not Zero for t in tangents])
    both, nonzero_out = _both(program, nonzero)
    live = [t for t in tangents if type(t) is not Zero]
    derived = _jvp_rule(rule, nonzero, nonzero_out, False)
    outs = bind(custom_vmap_call_p, *primals, *live, program=both, rule=derived)
    n = len(program.outputs)
    found = iter(outs[n:])
    return outs[:n], [next(found) if nz else Zero(tangent_type(t)) for nz, t in zip(nonzero_out, program.out_types)]


def _linearize(
    nonzero: Sequence[bool], primals: Sequence[Any], *, program: Program, rule: BatchRule
) -> tuple[Sequence[Any], Sequence[bool], Callable[..., Sequence[Any]]]:
    outs = bind(custom_vmap_call_p, *primals, program=program, rule=rule)
    both, nonzero_out = _both(program, tuple(nonzero))
    n = len(program.outputs)
    tangents_only = remove_dead_code(both, [i >= n for i in range(len(both.outputs))])

    def linear(*tangents: Any) -> Sequence[Any]:
        derived = _jvp_rule(rule, tuple(nonzero), nonzero_out, True)
        return bind(custom_vmap_call_p, *primals, *tangents, program=tangents_only, rule=derived)

    return outs, nonzero_out, linear


def _transposed_rule(
    rule: BatchRule,
    types: tuple[ArrayType, ...],
    linear: tuple[bool, ...],
    nonzero: tuple[bool, ...],
    nonzero_out: tuple[bool, ...],
) -> BatchRule:
    """The batching rule of the transpose, from (what the function is not linear in, nonzero cotangents)."""

    def function(axis_size: int, in_batched: Sequence[bool], values: Sequence[Any]) -> tuple[list[Any], list[bool]]:
        k = linear.count(False)
        known, flags = iter(values[:k]), iter(in_batched[:k])
        # All linear inputs count as batched, so that each example gets its cotangents.
        wanted = [True if lin else next(flags) for lin in linear]
        batched_types = [t.update(shape=(axis_size, *t.shape)) for t, lin in zip(types, linear) if lin]
        fixed = [None if lin else next(known) for lin in linear]
        out_batched: list[bool] = []

        def fun(*xs: Any) -> list[Any]:
            given = iter(xs)
            outs, out_batched[:] = rule.function(axis_size, wanted, [next(given) if lin else x for x, lin in zip(fixed, linear)])
            return outs

        program, captured = trace(fun, batched_types, rule.name.rpartition("_")[0])
        program = separated(program, (False,) * len(captured) + (True,) * len(batched_types))
        given_cts = iter(zip(values[k:], in_batched[k:]))
        cts: list[Any] = []
        for nz, batched, t in zip(nonzero, out_batched, program.out_types, strict=True):
            ct, has_axis = next(given_cts) if nz else (None, False)
            if ct is None or not batched:
                # What is the same for all examples does not depend on the batched inputs.
                cts.append(Zero(tangent_type(t)))
            else:
                cts.append(ct if has_axis else to_dim(ct, None, 0, axis_size))
        found = backward(program, [*captured, *[Linear(t) for t in batched_types]], cts)
        results = [instantiate(ct) for ct, nz in zip(found, nonzero_out) if nz]
        return results, [True] * len(results)

    return _derived(rule, ("transpose", types, linear, nonzero, nonzero_out), function)


def _transpose(cts: Sequence[Any], inputs: Sequence[Any], *, program: Program, rule: BatchRule) -> list[Any]:
    linear = tuple([type(x) is Linear for x in inputs])
    nonzero = tuple([type(ct) is not Zero for ct in cts])
    every = (True,) * linear.count(True)
    turned, nonzero_out = transpose_program(separated(program, linear), linear, nonzero, every)
    known = [x for x in inputs if type(x) is not Linear]
    derived = _transposed_rule(rule, program.in_types, linear, nonzero, nonzero_out)
    found = iter(bind(custom_vmap_call_p, *known, *[ct for ct in cts if type(ct) is not Zero], program=turned, rule=derived))
    return [next(found) if lin else None for lin in linear]


custom_vmap_call_p.define(batch=_batch, jvp=_jvp, linearize=_linearize, transpose=_transpose)


def sequential_vmap(f: Callable[..., Any]) -> custom_vmap:
    """A function that vmap calls once for each example, in order, in a loop: for functions that cannot be batched."""
    function = custom_vmap(f)

    def rule(axis_size: int, in_batched: list[Any], *args: Any) -> tuple[Any, Any]:
        leaves, tree = tree_flatten(args)
        flags = tree_flatten(tuple(in_batched))[0]

        def one(mapped: list[Any]) -> Any:
            given = iter(mapped)
            return function(*tree_unflatten(tree, [next(given) if b else x for x, b in zip(leaves, flags)]))

        out = map_loop(one, [x for x, b in zip(leaves, flags) if b])
        return out, tree_map(lambda _: True, out)

    function.def_vmap(rule)
    return function
