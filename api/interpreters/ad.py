"""Derivatives of primitives, under the names of `jax.interpreters.ad`.

    primitive_jvps[p] = rule        rule(primals, tangents, **params) -> (result, tangent of the result)
    primitive_transposes[p] = rule  rule(cotangent, *operands, **params) -> a cotangent for each operand

A tangent that is known to be zero is a `Zero`. In a transpose rule an operand that the operation is linear in is an
`UndefinedPrimal`, and what belongs to the others is None. A primitive with `multiple_results` has lists where others have a
result, tangent or cotangent. Reverse mode is the transpose of what the jvp rule does to tangents: only operations on those need transposes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

from tracegrad.interpreters.tables import RuleTable, bare, checked, pair
from tracegrad.ir.bind import bind, type_of
from tracegrad.ir.elementwise import add_p as add_jaxvals_p
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.types import ArrayType, float0, tangent_type
from tracegrad.tracer.pytree import register_pytree_node
from tracegrad.transforms.jvp import JvpTracer as JVPTracer
from tracegrad.transforms.zero import Linear as UndefinedPrimal
from tracegrad.transforms.zero import Zero, add_tangents
from tracegrad.transforms.zero import instantiate as instantiate_zeros

__all__ = [
    "JVPTracer",
    "UndefinedPrimal",
    "Zero",
    "add_jaxvals",
    "add_jaxvals_p",
    "add_tangents",
    "defbilinear",
    "defjvp",
    "defjvp2",
    "defjvp_zero",
    "deflinear",
    "deflinear2",
    "get_primitive_transpose",
    "instantiate_zeros",
    "is_undefined_primal",
    "linear_jvp",
    "linear_transpose",
    "linear_transpose2",
    "primitive_jvps",
    "primitive_transposes",
    "standard_jvp",
    "standard_jvp2",
    "zeros_like_aval",
]

register_pytree_node(Zero, lambda z: ((), z.aval), lambda aval, _: Zero(aval))
register_pytree_node(UndefinedPrimal, lambda z: ((), z.aval), lambda aval, _: UndefinedPrimal(aval))


def is_undefined_primal(x: Any) -> bool:
    """Whether an operand of a transpose rule is one that the operation is linear in."""
    return type(x) is UndefinedPrimal


def zeros_like_aval(aval: ArrayType) -> Any:
    """An array of zeros of this type."""
    return instantiate_zeros(Zero(aval))


def add_jaxvals(x: Any, y: Any) -> Any:
    """The sum of two values of one type."""
    return bind(add_jaxvals_p, x, y)[0]


# The tables


def _our_jvp(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        out, tangent = pair(
            primitive, rule(tuple(primals), tuple(tangents), **params), "differentiation", "result, tangent of the result"
        )
        outs = primitive.results(out, "its differentiation rule")
        given = primitive.results(tangent, "its differentiation rule, for the tangents,")
        if len(given) != len(outs):
            raise TypeError(
                f"the differentiation rule of {primitive.name!r} returned {len(outs)} results and {len(given)} tangents"
            )
        return outs, [_as_tangent(primitive, x, t) for x, t in zip(outs, given)]

    return jvp


def _as_tangent(primitive: Primitive, out: Any, tangent: Any) -> Any:
    t = tangent_type(type_of(out))
    if type(tangent) is Zero or tangent is None or t.dtype == float0:
        return Zero(t)
    return checked(primitive, "a tangent that the differentiation rule", tangent, t)


def _jax_jvp(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        outs, out_tangents = rule(tuple(primals), tuple(tangents), **params)
        return bare(primitive, outs), bare(primitive, out_tangents)

    return jvp


def _our_transpose(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    def transpose(cts: Sequence[Any], inputs: Sequence[Any], **params: Any) -> Sequence[Any]:
        found = rule(bare(primitive, cts), *inputs, **params)
        if not isinstance(found, (tuple, list)) or len(found) != len(inputs):
            raise TypeError(
                f"the transpose rule of {primitive.name!r} returned {found!r:.200}, not a sequence of one cotangent for each of its "
                f"{len(inputs)} operands (None for those that are not linear)"
            )
        return [_as_cotangent(primitive, x, ct) for x, ct in zip(inputs, found)]

    return transpose


def _as_cotangent(primitive: Primitive, x: Any, ct: Any) -> Any:
    if type(x) is not UndefinedPrimal:
        return None
    t = tangent_type(x.aval)
    if type(ct) is Zero or ct is None or t.dtype == float0:
        return Zero(t)
    return checked(primitive, "a cotangent that the transpose rule", ct, t)


def _jax_transpose(primitive: Primitive, rule: Callable[..., Any]) -> Callable[..., Any]:
    def transpose(ct: Any, *inputs: Any, **params: Any) -> list[Any]:
        return list(rule(ct if primitive.multiple_results else [ct], inputs, **params))

    return transpose


primitive_jvps = RuleTable("jvp", _our_jvp, _jax_jvp)
primitive_transposes = RuleTable("transpose", _our_transpose, _jax_transpose)


def get_primitive_transpose(primitive: Primitive) -> Callable[..., Any]:
    """The transpose rule of a primitive. Raises NotImplementedError that says how to register one."""
    primitive.rule("transpose")
    return primitive_transposes[primitive]


# Rules for usual cases


def _single(primitive: Primitive, definer: str) -> None:
    if not isinstance(primitive, Primitive):
        raise TypeError(f"{definer} takes a primitive, got {primitive!r:.200}")
    if primitive.multiple_results:
        raise TypeError(f"{definer} is for primitives with a single result; {primitive.name!r} has multiple_results")


def deflinear(primitive: Primitive, transpose_rule: Callable[..., Any]) -> None:
    """Say that a primitive is linear in all operands together; `transpose_rule(cotangent, **params)` gives their cotangents."""
    primitive_jvps[primitive] = partial(linear_jvp, primitive)
    primitive_transposes[primitive] = partial(linear_transpose, transpose_rule)


def deflinear2(primitive: Primitive, transpose_rule: Callable[..., Any]) -> None:
    """Like `deflinear`, with `transpose_rule(cotangent, *operands, **params)`."""
    primitive_jvps[primitive] = partial(linear_jvp, primitive)
    primitive_transposes[primitive] = partial(linear_transpose2, transpose_rule)


def linear_jvp(primitive: Primitive, primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    """The jvp rule of what is linear in all operands together: the primitive itself, applied to the tangents."""
    out = primitive.bind(*primals, **params)
    if all([type(t) is Zero for t in tangents]):
        if primitive.multiple_results:
            return out, [Zero.from_primal_value(x) for x in out]
        return out, Zero.from_primal_value(out)
    return out, primitive.bind(*map(instantiate_zeros, tangents), **params)


def linear_transpose(transpose_rule: Callable[..., Any], cotangent: Any, *args: Any, **params: Any) -> Sequence[Any]:
    """The transpose rule that `deflinear` makes."""
    return _zeros(args) if type(cotangent) is Zero else transpose_rule(cotangent, **params)


def linear_transpose2(transpose_rule: Callable[..., Any], cotangent: Any, *args: Any, **params: Any) -> Sequence[Any]:
    """The transpose rule that `deflinear2` makes."""
    return _zeros(args) if type(cotangent) is Zero else transpose_rule(cotangent, *args, **params)


def _zeros(args: Sequence[Any]) -> list[Any]:
    return [Zero(tangent_type(x.aval)) if is_undefined_primal(x) else None for x in args]


def defjvp(primitive: Primitive, *jvprules: Callable[..., Any] | None) -> None:
    """Define the jvp of a primitive with one result by its partial derivatives: for each operand `rule(tangent, *primals, **params)`, or
    None for one on which the result does not depend smoothly."""
    _single(primitive, "defjvp")
    primitive_jvps[primitive] = partial(standard_jvp, jvprules, primitive)


def defjvp2(primitive: Primitive, *jvprules: Callable[..., Any] | None) -> None:
    """Like `defjvp`, with rules that also get the result: `rule(tangent, result, *primals, **params)`."""
    _single(primitive, "defjvp2")
    primitive_jvps[primitive] = partial(standard_jvp2, jvprules, primitive)


def standard_jvp(
    jvprules: Sequence[Callable[..., Any] | None],
    primitive: Primitive,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    **params: Any,
) -> tuple[Any, Any]:
    """The jvp rule that `defjvp` makes."""
    rules = [None if rule is None else partial(_without_result, rule) for rule in jvprules]
    return standard_jvp2(rules, primitive, primals, tangents, **params)


def _without_result(rule: Callable[..., Any], tangent: Any, _: Any, *primals: Any, **params: Any) -> Any:
    return rule(tangent, *primals, **params)


def standard_jvp2(
    jvprules: Sequence[Callable[..., Any] | None],
    primitive: Primitive,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    **params: Any,
) -> tuple[Any, Any]:
    """The jvp rule that `defjvp2` makes."""
    if len(jvprules) != len(tangents):
        raise TypeError(f"{primitive.name!r} has {len(tangents)} operands, but {len(jvprules)} partial derivatives")
    out = primitive.bind(*primals, **params)
    terms = [rule(t, out, *primals, **params) for rule, t in zip(jvprules, tangents) if rule is not None and type(t) is not Zero]
    return out, reduce(add_tangents, terms, Zero.from_primal_value(out))


def defjvp_zero(primitive: Primitive) -> None:
    """Say that no result depends smoothly on any operand."""

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        out = primitive.bind(*primals, **params)
        if primitive.multiple_results:
            return out, [Zero.from_primal_value(x) for x in out]
        return out, Zero.from_primal_value(out)

    primitive_jvps[primitive] = jvp


def defbilinear(primitive: Primitive, lhs_rule: Callable[..., Any], rhs_rule: Callable[..., Any]) -> None:
    """Say that a primitive is linear in each of its two operands; `lhs_rule(cotangent, x, y, **params)` gives the cotangent of x, where x
    is an UndefinedPrimal, and `rhs_rule` that of y."""
    _single(primitive, "defbilinear")

    def transpose(cotangent: Any, x: Any, y: Any, **params: Any) -> tuple[Any, Any]:
        if is_undefined_primal(x) == is_undefined_primal(y):
            if not is_undefined_primal(x):
                raise TypeError(f"the transpose rule of {primitive.name!r} takes one operand as an UndefinedPrimal, got two values")
            raise NotImplementedError(
                f"{primitive.name!r} is bilinear, and both of its operands depend on what is transposed: that is not linear. Transpose "
                "the derivative instead (vjp, or linear_transpose of what linearize returns), or hold one operand fixed by passing it "
                "in from outside. If the results are linear in both operands together, define the primitive with defjvp, and its "
                "transpose with primitive_transposes"
            )
        if type(cotangent) is Zero:
            ct_x, ct_y = _zeros((x, y))
            return ct_x, ct_y
        if is_undefined_primal(x):
            return lhs_rule(cotangent, x, y, **params), None
        return None, rhs_rule(cotangent, x, y, **params)

    defjvp(
        primitive,
        lambda t, x, y, **params: primitive.bind(t, y, **params),
        lambda t, x, y, **params: primitive.bind(x, t, **params),
    )
    primitive_transposes[primitive] = transpose
