"""Derivatives and batching of calls of programs, and of the identities and callbacks beside them in `ir/calls.py`.

A call is transformed by transforming its program, which remembers the result, so that a layer called many times is transformed once.
Custom derivatives are in `custom_rules.py`, checkpoints in `checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, type_of, using
from tracegrad.ir.calls import call_p, callback_p, name_p, optimization_barrier_p, pure_callback_p
from tracegrad.ir.primitive import Declined
from tracegrad.ir.program import Program
from tracegrad.ir.types import is_inexact, tangent_type
from tracegrad.transforms.batch import batch_program, one_by_one, to_dim
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.linearize import linearize_program
from tracegrad.transforms.partial import PARTIAL_RULES, Partial, partial_program
from tracegrad.transforms.transpose import transpose_program
from tracegrad.transforms.zero import Axis, Linear, Zero, is_zero


def _call_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, program: Program, **params: Any) -> tuple[Any, Any]:
    nonzero = tuple([type(t) is not Zero for t in tangents])
    both, nonzero_out = jvp_program(program, nonzero)
    outs = bind(call_p, *primals, *[t for t in tangents if type(t) is not Zero], program=both, **params)
    n = len(nonzero_out)
    found = iter(outs[n:])
    return outs[:n], [next(found) if nz else Zero(tangent_type(t)) for nz, t in zip(nonzero_out, program.out_types)]


def linearize_call(nonzero: Sequence[bool], primals: Sequence[Any], *, program: Program, **params: Any) -> tuple[Any, Any, Any]:
    """The linearize rule of call."""
    split = linearize_program(program, tuple(nonzero))
    outs = bind(call_p, *primals, program=split.known, **params)
    residuals = split.pick(primals, outs)

    def linear(*tangents: Any) -> Sequence[Any]:
        return bind(call_p, *residuals, *tangents, program=split.unknown, **params)

    return outs[: split.num_outs], split.unknown_out, linear


def _call_transpose(cts: Sequence[Any], inputs: Sequence[Any], *, program: Program, **params: Any) -> Sequence[Any]:
    return transpose_with(lambda values, turned: bind(call_p, *values, program=turned, **params), cts, inputs, program)


def transpose_with(apply: Any, cts: Sequence[Any], inputs: Sequence[Any], program: Program) -> list[Any]:
    """Cotangents of the linear inputs of a call: `apply(values, transposed program)` calls the transposed program."""
    linear = tuple([type(x) is Linear for x in inputs])
    turned, nonzero_out = transpose_program(program, linear, tuple([type(ct) is not Zero for ct in cts]))
    values = [x for x in inputs if type(x) is not Linear] + [ct for ct in cts if type(ct) is not Zero]
    found, flags = iter(apply(values, turned)), iter(nonzero_out)
    return [None if type(x) is not Linear else next(found) if next(flags) else Zero(tangent_type(x.type)) for x in inputs]


def _call_batch(
    axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, program: Program, **params: Any
) -> tuple[Any, Any]:
    batched, out_dims = batch_program(program, axis, tuple(dims))
    return bind(call_p, *args, program=batched, **params), out_dims


def _call_partial(partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]) -> tuple[Any, ...]:
    split = partial_program(params["program"], tuple(unknown))
    known_args = [x for x, u in zip(args, unknown) if not u]
    with using(partial.parent):
        outs = bind(call_p, *known_args, **{**params, "program": split.known})
    operands = (*split.pick(known_args, outs), *[x for x, u in zip(args, unknown) if u])
    rest = iter(partial.staging.process(call_p, operands, {**params, "program": split.unknown}) if any(split.unknown_out) else ())
    known = iter(outs)
    return tuple([next(rest) if u else next(known) for u in split.unknown_out])


PARTIAL_RULES[call_p] = _call_partial
call_p.define(jvp=_call_jvp, linearize=linearize_call, transpose=_call_transpose, batch=_call_batch)


# Identities


def _barrier_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    live = [t for t in tangents if not is_zero(t)]
    kept = iter(bind(optimization_barrier_p, *live) if live else ())
    return bind(optimization_barrier_p, *primals), [t if is_zero(t) else next(kept) for t in tangents]


def _barrier_transpose(cts: Sequence[Any], inputs: Sequence[Any]) -> Sequence[Any]:
    live = [ct for ct, x in zip(cts, inputs) if type(x) is Linear and not is_zero(ct)]
    kept = iter(bind(optimization_barrier_p, *live) if live else ())
    return [None if type(x) is not Linear else ct if is_zero(ct) else next(kept) for ct, x in zip(cts, inputs)]


def _barrier_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None]) -> tuple[Any, Any]:
    return bind(optimization_barrier_p, *args), dims


def _barrier_partial(partial: Partial, args: tuple[Any, ...], unknown: list[bool], params: dict[str, Any]) -> tuple[Any, ...]:
    known = [x for x, u in zip(args, unknown) if not u]
    done = iter(partial.parent.process(optimization_barrier_p, tuple(known), params) if known else ())
    staged = iter(partial.staging.process(optimization_barrier_p, tuple([x for x, u in zip(args, unknown) if u]), params))
    return tuple([next(staged) if u else next(done) for u in unknown])


PARTIAL_RULES[optimization_barrier_p] = _barrier_partial
optimization_barrier_p.define(jvp=_barrier_jvp, transpose=_barrier_transpose, batch=_barrier_batch)


def _name_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, name: str) -> tuple[Any, Any]:
    return bind(name_p, *primals, name=name), tangents


def _name_transpose(cts: Sequence[Any], inputs: Sequence[Any], *, name: str) -> Sequence[Any]:
    return cts


def _name_batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, name: str) -> tuple[Any, Any]:
    return bind(name_p, *args, name=name), dims


name_p.define(jvp=_name_jvp, transpose=_name_transpose, batch=_name_batch)


# Callbacks


def _define_callback(prim: Any) -> None:
    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        if any(is_inexact(t.dtype) for t in params["out_types"]):
            kind = {"pure": "Pure callbacks do", "io": "IO callbacks do"}.get(params["kind"], "Callbacks do")
            raise ValueError(
                f"{kind} not support JVP: the callback {params['callback']} is a Python function whose derivative is unknown. "
                "Give the function around it a rule with custom_jvp or custom_vjp."
            )
        outs = bind(prim, *primals, **params)
        return outs, [Zero(tangent_type(t)) for t in params["out_types"]]

    def batch(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
        method = params["callback"].vmap_method
        if params["ordered"] and params["kind"] == "io":
            raise ValueError("Cannot `vmap` ordered IO callback: whose call would come first?")
        if params["kind"] == "pure" and method is None:
            raise NotImplementedError(
                "vmap is only supported for pure_callback when its vmap_method says how: 'sequential' and 'sequential_unrolled' call the "
                "function for each example; 'expand_dims' and 'broadcast_all' call it once, with a new leading axis, of size one or "
                "broadcast for what is not batched"
            )
        if params["kind"] == "pure" and method not in ("sequential", "sequential_unrolled"):
            return at_once(axis, args, dims, method, **params)
        return one_by_one(axis, args, dims, prim, params)

    def at_once(axis: Axis, args: Sequence[Any], dims: Sequence[int | None], method: str, **params: Any) -> tuple[Any, Any]:
        """One call for all examples."""
        operands = []
        for x, d in zip(args, dims):
            if d is not None:
                x = to_dim(x, d, 0, axis.size)
            elif method != "legacy_vectorized":
                shape = (axis.size if method == "broadcast_all" else 1, *type_of(x).shape)
                x = ops.broadcast_in_dim(x, shape, tuple(range(1, len(shape))))
            operands.append(x)
        types = tuple([t.update(shape=(axis.size, *t.shape)) for t in params["out_types"]])
        outs = bind(prim, *operands, **{**params, "out_types": types})
        return outs, [0] * len(outs)

    prim.define(jvp=jvp, batch=batch, transpose=Declined("a callback is not linear"))


_define_callback(callback_p)
_define_callback(pure_callback_p)
