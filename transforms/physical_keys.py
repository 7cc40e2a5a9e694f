"""Typed random keys made physical: a pass that leaves uint32 arrays with one more axis, of the key's two words, in their place.

Code generation and the passes after this one know numbers only. Programs that mention no keys are returned as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops, source
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.program import Equation, Literal, Program, Var
from tracegrad.ir.tapes import empty_tape_p
from tracegrad.ir.types import ArrayType, is_key, is_tape, tape_dtype
from tracegrad.transforms.staged import stage

UINT32 = np.dtype(np.uint32)
Params = dict[str, Any]
Rule = Callable[[tuple[ArrayType, ...], tuple[ArrayType, ...], Sequence[Any], Params], Sequence[Any]]


def physical_type(t: ArrayType) -> ArrayType:
    """The type of the words of keys, and of tapes of them; other types as they are."""
    if is_tape(t.dtype):
        return ArrayType(t.shape, tape_dtype(physical_type(t.dtype.element)))
    return ArrayType(t.shape + t.dtype.base_shape, UINT32) if is_key(t.dtype) else t


def _holds_keys(dtype: Any) -> bool:
    return is_key(dtype) or is_tape(dtype) and _holds_keys(dtype.element.dtype)


def mentions_keys(program: Program) -> bool:
    """Whether a program, its regions included, has a value that is a key or a tape of keys."""
    if any(_holds_keys(v.type.dtype) for v in program.inputs) or any(_holds_keys(c.var.type.dtype) for c in program.constants):
        return True
    return any(_holds_keys(v.type.dtype) for eqn in program.equations for v in eqn.outputs) or any(
        mentions_keys(region) for eqn in program.equations for _, region in eqn.regions()
    )


def physical_keys(program: Program) -> Program:
    """The program over the words of its keys."""
    if not mentions_keys(program):
        return program

    def fun(*args: Any) -> list[Any]:
        env: dict[Var, Any] = dict(zip(program.inputs, args, strict=True))
        env.update((c.var, c.value) for c in program.constants)

        def read(atom: Any) -> Any:
            return atom.value if isinstance(atom, Literal) else env[atom]

        with source.keeping():
            for eqn in program.equations:
                source.set(eqn.source)
                env.update(zip(eqn.outputs, _apply(eqn, [read(a) for a in eqn.inputs]), strict=True))
        return [read(a) for a in program.outputs]

    out = stage(fun, [physical_type(t) for t in program.in_types], program.name)
    for new, old in zip(out.inputs, program.inputs):
        new.name = old.name
    return out


def _apply(eqn: Equation, args: Sequence[Any]) -> Sequence[Any]:
    in_types, out_types = tuple(a.type for a in eqn.inputs), tuple(v.type for v in eqn.outputs)
    params = eqn.params
    if eqn.primitive.regions:
        params = {name: _physical_region(p) for name, p in params.items()}
    elif any(is_key(t.dtype) for t in (*in_types, *out_types)):
        rule = _RULES.get(eqn.primitive.name)
        if rule is None:
            raise NotImplementedError(f"{eqn.primitive.name} is not defined for random keys; use random.key_data to get numbers")
        return rule(in_types, out_types, args, params)
    elif eqn.primitive is empty_tape_p:
        params = {"element": physical_type(params["element"])}
    return bind(eqn.primitive, *args, **params)


def _physical_region(param: Any) -> Any:
    if isinstance(param, Program):
        return physical_keys(param)
    if isinstance(param, tuple) and any(isinstance(p, Program) for p in param):
        return tuple(physical_keys(p) if isinstance(p, Program) else p for p in param)
    return param


# The rules: (logical operand types, logical result types, physical operands, params) -> physical results.
def _identity(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    return args


def _broadcast_in_dim(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    shape = params["shape"]
    return [ops.broadcast_in_dim(args[0], (*shape, 2), (*params["broadcast_dimensions"], len(shape)))]


def _reshape(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    return [ops.reshape(args[0], (*params["new_sizes"], 2))]


def _transpose(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    return [ops.transpose(args[0], (*params["permutation"], len(params["permutation"])))]


def _slice(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    return [
        ops.slice(args[0], (*params["start_indices"], 0), (*params["limit_indices"], 2), (*params["strides"], 1)),
    ]


def _rev(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    return [ops.rev(args[0], params["dimensions"])]


def _concatenate(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    return [ops.concatenate(list(args), params["dimension"])]


def _select(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    pred, on_true, on_false = args
    shape = type_of(pred).shape
    if shape:
        pred = ops.broadcast_in_dim(pred, (*shape, 2), range(len(shape)))
    return [ops.select(pred, on_true, on_false)]


def _gather(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    grown = {
        "offset_dims": (*params["offset_dims"], out_types[0].ndim),
        "slice_sizes": (*params["slice_sizes"], 2),
    }
    return [ops.gather(*args, **{**params, **grown})]


def _scatter(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    window = (*params["update_window_dims"], in_types[2].ndim)
    return [ops.scatter(*args, **{**params, "update_window_dims": window})]


def _dynamic_slice(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    return [ops.dynamic_slice(args[0], [*args[1:], 0], (*params["slice_sizes"], 2))]


def _dynamic_update_slice(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    return [ops.dynamic_update_slice(args[0], args[1], [*args[2:], 0])]


def _word(x: Any, i: int) -> Any:
    """Word `i` of every key."""
    shape = type_of(x).shape
    rank = len(shape) - 1
    return ops.reshape(ops.slice_in_dim(x, i, i + 1, 1, rank), shape[:rank])


def _join(words: Sequence[Any]) -> Any:
    shape = type_of(words[0]).shape
    return ops.concatenate([ops.reshape(w, (*shape, 1)) for w in words], len(shape))


def _pad(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    # The padding value is a scalar to `pad`; a key is not, but each of its words is.
    return [_join([ops.pad(_word(args[0], i), _word(args[1], i), params["padding_config"]) for i in range(2)])]


def _sort(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
    if any(is_key(t.dtype) for t in in_types[: params["num_keys"]]):
        raise NotImplementedError("random keys have no order to sort by; use random.key_data to get numbers")
    flat: list[Any] = []
    for t, x in zip(in_types, args):
        flat.extend([_word(x, 0), _word(x, 1)] if is_key(t.dtype) else [x])
    found = iter(ops.sort(*flat, **params))
    return [_join([next(found), next(found)]) if is_key(t.dtype) else next(found) for t in in_types]


def _same(primitive_name: str) -> Rule:
    def rule(in_types: Any, out_types: Any, args: Sequence[Any], params: Params) -> Sequence[Any]:
        if "out_types" in params:
            params = {**params, "out_types": tuple(physical_type(t) for t in params["out_types"])}
        return bind(REGISTRY[primitive_name], *args, **params)

    return rule


_RULES: dict[str, Rule] = {
    "key_wrap": _identity,
    "key_unwrap": _identity,
    "convert_element_type": _identity,
    "stop_gradient": _identity,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "rev": _rev,
    "concatenate": _concatenate,
    "select": _select,
    "gather": _gather,
    "scatter": _scatter,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "pad": _pad,
    "sort": _sort,
    **{name: _same(name) for name in ("copy", "name", "optimization_barrier", "callback", "pure_callback")},
}
