"""What transforms do with functions whose derivative the user defines.

A custom function is applied with a flat Python function, a `DerivativeRule` and flat arguments. Interpreters decide what runs: outside
differentiation the function, under differentiation the rule, with concrete values where they are concrete. Only while a program
is being recorded is the function traced, into an equation that carries the rule along; `program` is then its meaning without derivatives.

Flat rules. custom_jvp: `rule.jvp(primals, tangents) -> (outs, tangents)`, with `Zero` among tangents; `rule.options["transpose"]`, if there
is one, is the transpose rule of the function where it is linear: a solution of a linear system is transposed by solving the transposed one.
custom_vjp: `rule.fwd(primals, nonzero) -> (outs, residuals, token)` and `rule.bwd(residuals, cts, token) -> cts`, with `Zero` among
cotangents; `token` is hashable and says how the residuals are structured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, current, type_of, using
from tracegrad.ir.calls import DerivativeRule, custom_jvp_call_p, custom_vjp_call_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Equation, Program
from tracegrad.ir.types import ArrayType, is_inexact, tangent_type
from tracegrad.tracer.errors import UnexpectedTracerError
from tracegrad.tracer.staging import trace
from tracegrad.transforms.batch import BatchInterpreter, BatchTracer, batch_flat, batch_program, to_dim
from tracegrad.transforms.calls import transpose_with
from tracegrad.transforms.jvp import JvpInterpreter, JvpTracer
from tracegrad.transforms.linearize import LinearizeInterpreter, LinearizeTracer
from tracegrad.transforms.partial import Partial
from tracegrad.transforms.tape_values import unbatched
from tracegrad.transforms.zero import Axis, Linear, Zero

Flat = Callable[..., Sequence[Any]]


def apply_custom(primitive: Primitive, fun: Flat, rule: DerivativeRule, args: Sequence[Any]) -> Sequence[Any]:
    """`fun(*args)` under the current interpreter, with `rule` for its derivatives. primitive: custom_jvp_call or custom_vjp_call."""
    interpreter = current()
    kind = type(interpreter)
    if kind is JvpInterpreter or kind is LinearizeInterpreter:
        tracer = JvpTracer if kind is JvpInterpreter else LinearizeTracer
        if any([type(a) is tracer and a.interpreter is interpreter for a in args]):
            return interpreter.process(_Applied(primitive, fun, rule), tuple(args), {})  # type: ignore[arg-type]
    elif kind is BatchInterpreter:
        if any([type(a) is BatchTracer and a.interpreter is interpreter for a in args]):
            return interpreter.process(_Applied(primitive, fun, rule), tuple(args), {})  # type: ignore[arg-type]
    elif hasattr(kind, "series_tracer"):  # Taylor mode, in a module that is loaded when it is used
        if any([type(a) is kind.series_tracer and a.interpreter is interpreter for a in args]):
            # What has no rule for forward mode is expanded as it is.
            forward = primitive is custom_jvp_call_p
            return interpreter.process(_Applied(primitive, fun, rule), tuple(args), {}) if forward else fun(*args)  # type: ignore[arg-type]
    elif kind is not Partial or any([interpreter.is_unknown(a) for a in args]):  # type: ignore[attr-defined]
        if kind is not Partial and not hasattr(interpreter, "equations"):
            return fun(*args)
        program, captured = trace(fun, [type_of(a) for a in args], rule.name.rpartition("_")[0])
        return bind(primitive, *captured, *args, program=program, rule=without_captured(rule, len(captured)))
    with using(interpreter.parent):  # type: ignore[attr-defined]
        return apply_custom(primitive, fun, rule, args)


class _Applied:
    """A custom function on its way through the interpreters, in the place of a primitive."""

    __slots__ = ("fun", "custom_rule", "primitive", "rules")

    def __init__(self, primitive: Primitive, fun: Flat, rule: DerivativeRule):
        self.primitive = primitive
        self.fun = fun
        self.custom_rule = rule
        self.rules = {"linearize": self.linearize} if primitive is custom_vjp_call_p else {}

    def rule(self, kind: str) -> Callable[..., Any]:
        return getattr(self, kind)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        if self.primitive is custom_jvp_call_p:
            return self.custom_rule.jvp(primals, tangents)  # type: ignore[misc]
        return _vjp_call_jvp(primals, tangents, rule=self.custom_rule)

    def linearize(self, nonzero: Sequence[bool], primals: Sequence[Any]) -> tuple[Any, Any, Any]:
        return _vjp_call_linearize(nonzero, primals, rule=self.custom_rule)

    def batch(self, axis: Axis, args: Sequence[Any], dims: Sequence[int | None]) -> tuple[Any, Any]:
        def fun(*values: Any) -> list[Any]:
            return at_front(batch_flat(self.fun, axis, values, dims), axis)

        outs = apply_custom(self.primitive, fun, batched(self.primitive, self.custom_rule, axis, tuple(dims)), args)
        return outs, [0] * len(outs)


def at_front(batch: tuple[Sequence[Any], Sequence[int | None]], axis: Axis) -> list[Any]:
    return [to_dim(x, d, 0, axis.size) for x, d in zip(*batch)]


def closed_over(what: str, name: str) -> str:
    """Why a custom function cannot be differentiated with respect to what it closes over."""
    return (
        f"Detected differentiation of the {what} function {name} with respect to a closed-over value. That's not supported "
        f"because the custom {what[-3:].upper()} rule only specifies how to differentiate the function with respect to explicit input "
        "parameters. Try passing the closed-over value into the function as an argument, and adapting the custom rule."
    )


def without_captured(rule: DerivativeRule, n: int) -> DerivativeRule:
    """The rule of a function that takes `n` captured values before its arguments."""
    if n == 0:
        return rule
    known = rule.options.get(("captured", n))
    if known is not None:
        return known
    name = rule.name.rpartition("_")[0]

    def refuse(nonzero: Sequence[bool]) -> None:
        if any(nonzero[:n]):
            raise UnexpectedTracerError(closed_over("custom_jvp" if rule.jvp is not None else "custom_vjp", name))

    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        refuse([type(t) is not Zero for t in tangents])
        return rule.jvp(primals[n:], tangents[n:])  # type: ignore[misc]

    def fwd(primals: Sequence[Any], nonzero: Sequence[bool]) -> Any:
        refuse(nonzero)
        return rule.fwd(primals[n:], nonzero[n:])  # type: ignore[misc]

    def bwd(residuals: Sequence[Any], cts: Sequence[Any], token: Any) -> Any:
        return [None] * n + list(rule.bwd(residuals, cts, token))  # type: ignore[misc]

    def transpose(cts: Sequence[Any], inputs: Sequence[Any]) -> Any:
        refuse([type(x) is Linear for x in inputs])
        return [None] * n + list(rule.options["transpose"](cts, inputs[n:]))

    made = DerivativeRule(name, jvp=jvp) if rule.jvp is not None else DerivativeRule(name, fwd=fwd, bwd=bwd)
    if "transpose" in rule.options:
        made.options["transpose"] = transpose
    rule.options[("captured", n)] = made
    return made


def batched(primitive: Primitive, rule: DerivativeRule, axis: Axis, dims: tuple[int | None, ...]) -> DerivativeRule:
    """The rule of the batched function, whose outputs all have the batch axis in front."""
    key = ("batched", axis, dims)
    made = rule.options.get(key)
    if made is None:
        make = _batched_jvp if primitive is custom_jvp_call_p else _batched_vjp
        made = rule.options[key] = make(rule, axis, dims)
    return made


def _batched_jvp(rule: DerivativeRule, axis: Axis, dims: tuple[int | None, ...]) -> DerivativeRule:
    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        n = len(primals)
        live = [(t, d) for t, d in zip(tangents, dims) if type(t) is not Zero]
        nonzero: list[bool] = []

        def one(*values: Any) -> list[Any]:
            given = iter(values[n:])
            dots = [Zero(unbatched(t.type, d)) if type(t) is Zero else next(given) for t, d in zip(tangents, dims)]
            outs, out_dots = rule.jvp(values[:n], dots)  # type: ignore[misc]
            nonzero[:] = [type(t) is not Zero for t in out_dots]
            return [*outs, *[t for t in out_dots if type(t) is not Zero]]

        args = [*primals, *[t for t, _ in live]]
        results = at_front(batch_flat(one, axis, args, [*dims, *[d for _, d in live]]), axis)
        outs, dots = results[: len(nonzero)], iter(results[len(nonzero) :])
        return outs, [next(dots) if nz else Zero(tangent_type(type_of(x))) for nz, x in zip(nonzero, outs)]

    def transpose(cts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        known = [(x, d) for x, d in zip(inputs, dims) if type(x) is not Linear]
        live = [ct for ct in cts if type(ct) is not Zero]
        nonzero: list[bool] = []

        def one(*values: Any) -> list[Any]:
            fixed, given = iter(values[: len(known)]), iter(values[len(known) :])
            own = [Linear(unbatched(x.type, d)) if type(x) is Linear else next(fixed) for x, d in zip(inputs, dims)]
            own_cts = [Zero(unbatched(ct.type, 0)) if type(ct) is Zero else next(given) for ct in cts]
            results = rule.options["transpose"](own_cts, own)
            nonzero[:] = [ct is not None and type(ct) is not Zero for ct in results]
            return [ct for ct, nz in zip(results, nonzero) if nz]

        args, given_dims = [*[x for x, _ in known], *live], [*[d for _, d in known], *[0] * len(live)]
        pairs = iter(zip(*batch_flat(one, axis, args, given_dims)))
        return [_gathered(*next(pairs), to, axis) if nz else None for nz, to in zip(nonzero, dims)]

    made = DerivativeRule(rule.name.rpartition("_")[0], jvp=jvp)
    if "transpose" in rule.options:
        made.options["transpose"] = transpose
    return made


def _batched_vjp(rule: DerivativeRule, axis: Axis, dims: tuple[int | None, ...]) -> DerivativeRule:
    def fwd(primals: Sequence[Any], nonzero: Sequence[bool]) -> tuple[Any, Any, Any]:
        token: Any = None
        n_outs = 0

        def one(*values: Any) -> list[Any]:
            nonlocal token, n_outs
            outs, residuals, token = rule.fwd(values, nonzero)  # type: ignore[misc]
            n_outs = len(outs)
            return [*outs, *residuals]

        values, found = batch_flat(one, axis, primals, dims)
        outs = at_front((values[:n_outs], found[:n_outs]), axis)
        return outs, values[n_outs:], (token, tuple(found[n_outs:]))

    def bwd(residuals: Sequence[Any], cts: Sequence[Any], token: Any) -> list[Any]:
        inner, res_dims = token
        n = len(residuals)
        live = [ct for ct in cts if type(ct) is not Zero]
        nonzero: list[bool] = []

        def one(*values: Any) -> list[Any]:
            given = iter(values[n:])
            own = [Zero(unbatched(ct.type, 0)) if type(ct) is Zero else next(given) for ct in cts]
            results = rule.bwd(values[:n], own, inner)  # type: ignore[misc]
            nonzero[:] = [ct is not None and type(ct) is not Zero for ct in results]
            return [ct for ct, nz in zip(results, nonzero) if nz]

        values, found = batch_flat(one, axis, [*residuals, *live], [*res_dims, *[0] * len(live)])
        pairs = iter(zip(values, found))
        return [_gathered(*next(pairs), to, axis) if nz else None for nz, to in zip(nonzero, dims)]

    return DerivativeRule(rule.name.rpartition("_")[0], fwd=fwd, bwd=bwd)


def _gathered(ct: Any, dim: int | None, to: int | None, axis: Axis) -> Any:
    """The cotangent of an input with its batch axis at `to`; of an input that all examples share, the sum over them."""
    if to is not None:
        return to_dim(ct, dim, to, axis.size)
    return ops.mul(ct, axis.size) if dim is None else ops.reduce_sum(ct, (dim,))


# custom_jvp_call


def _check_outputs(which: str, rule: DerivativeRule, outs: Sequence[Any], program: Program) -> None:
    """Raise TypeError if a rule's primal outputs are not of the function's types, which the surrounding program was made for."""
    got, expected = [type_of(x) for x in outs], program.out_types
    if len(got) != len(expected) or any([a.shape != b.shape or a.dtype != b.dtype for a, b in zip(got, expected)]):
        name = rule.name.rpartition("_")[0]
        raise TypeError(
            f"Custom {which} rule for function {name} must produce a pair (list or tuple of length two) whose first element represents the "
            f"primal output (equal in value to the output of {name}, and in particular of the same structure, shapes and dtypes), but its "
            f"leaves are\n    {', '.join(map(str, got))}\nwhile those of {name} are\n    {', '.join(map(str, expected))}"
        )


def _jvp_call_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, program: Program, rule: DerivativeRule) -> tuple[Any, Any]:
    outs, dots = rule.jvp(primals, tangents)  # type: ignore[misc]
    _check_outputs("JVP", rule, outs, program)
    return outs, dots


def _define_call(prim: Primitive) -> None:
    def batch(
        axis: Axis, args: Sequence[Any], dims: Sequence[int | None], *, program: Program, rule: DerivativeRule
    ) -> tuple[Any, Any]:
        wanted = (0,) * len(program.outputs)
        whole, _ = batch_program(program, axis, tuple(dims), wanted)
        return bind(prim, *args, program=whole, rule=batched(prim, rule, axis, tuple(dims))), wanted

    def transpose(cts: Sequence[Any], inputs: Sequence[Any], *, program: Program, rule: DerivativeRule) -> Sequence[Any]:
        if "transpose" in rule.options:
            return rule.options["transpose"](cts, inputs)
        # The function was applied to tangents, so it is linear: its own transpose is right.
        return transpose_with(lambda values, turned: run(turned, *values), cts, inputs, program)

    prim.define(batch=batch, transpose=transpose)


_define_call(custom_jvp_call_p)
custom_jvp_call_p.define(jvp=_jvp_call_jvp)


# custom_vjp_call


def _linear_types(*in_types: ArrayType, out_types: tuple[ArrayType, ...], **_: Any) -> tuple[ArrayType, ...]:
    return out_types


def _no_forward_mode(*_: Any, rule: DerivativeRule, **__: Any) -> Any:
    raise TypeError(
        f"can't apply forward-mode autodiff (jvp) to a custom_vjp function: {rule.name.rpartition('_')[0]} has a rule for reverse mode "
        "only. Define its derivative with custom_jvp, which serves both modes, or use vjp, grad or jacrev."
    )


custom_vjp_linear_p = Primitive("custom_vjp_linear", _linear_types, _no_forward_mode, "custom_rules")
"""The derivative of a custom_vjp function: (residuals..., nonzero tangents...) -> tangents of the outputs. Only its transpose exists."""


def _linear_transpose(
    cts: Sequence[Any], inputs: Sequence[Any], *, rule: DerivativeRule, num_residuals: int, nonzero: tuple[bool, ...], **_: Any
) -> Sequence[Any]:
    outputs = iter(cts)
    full = [next(outputs) if t is None else Zero(t) for t in rule.options["out_zeros"]]
    found = rule.bwd(inputs[:num_residuals], full, rule.options["token"])  # type: ignore[misc]
    picked = [ct for ct, nz in zip(found, nonzero, strict=True) if nz]
    given = [
        (Zero(tangent_type(x.type)) if ct is None else ct) if type(x) is Linear else None
        for x, ct in zip(inputs[num_residuals:], picked, strict=True)
    ]
    return [None] * num_residuals + given


def _no_forward_code(_: Any, eqn: Equation) -> Any:
    _no_forward_mode(rule=eqn.params["rule"])


# Whoever runs, batches or compiles the derivative itself asks for forward mode.
custom_vjp_linear_p.define(jvp=_no_forward_mode, transpose=_linear_transpose, batch=_no_forward_mode, lower=_no_forward_code)


def _vjp_call_linearize(
    nonzero: Sequence[bool], primals: Sequence[Any], *, rule: DerivativeRule, program: Program | None = None
) -> tuple[Any, Any, Any]:
    outs, residuals, token = rule.fwd(primals, tuple(nonzero))  # type: ignore[misc]
    if program is not None:
        _check_outputs("VJP fwd", rule, outs, program)
    types = [type_of(x) for x in outs]
    nonzero_out = tuple([is_inexact(t.dtype) for t in types])
    key = ("linear", token, tuple(types))
    linear_rule = rule.options.get(key)
    if linear_rule is None:
        zeros = [None if nz else tangent_type(t) for t, nz in zip(types, nonzero_out)]
        linear_rule = rule.options[key] = DerivativeRule(rule.name.rpartition("_")[0], bwd=rule.bwd, token=token, out_zeros=zeros)

    def linear(*tangents: Any) -> Sequence[Any]:
        return bind(
            custom_vjp_linear_p,
            *residuals,
            *tangents,
            rule=linear_rule,
            num_residuals=len(residuals),
            nonzero=tuple(nonzero),
            out_types=tuple([tangent_type(t) for t, nz in zip(types, nonzero_out) if nz]),
        )

    return outs, nonzero_out, linear


def _vjp_call_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, rule: DerivativeRule, **_: Any) -> tuple[Any, Any]:
    if type(current()) is not Partial:
        _no_forward_mode(rule=rule)
    outs, nonzero_out, linear = _vjp_call_linearize([type(t) is not Zero for t in tangents], primals, rule=rule)
    found = iter(linear(*[t for t in tangents if type(t) is not Zero]))
    return outs, [next(found) if nz else Zero(tangent_type(type_of(x))) for nz, x in zip(nonzero_out, outs)]


_define_call(custom_vjp_call_p)
custom_vjp_call_p.define(jvp=_vjp_call_jvp, linearize=_vjp_call_linearize)
