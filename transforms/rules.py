"""How the leaf primitives state their derivatives and their batching: the vocabulary of the files beside this one.

Derivatives. `partials` takes one partial derivative per operand, a function of the result and the operands, and makes the
jvp rule; what the partial computes does not depend on tangents, so under linearization it becomes a residual and only its
product with the tangent is staged. `linear`, `linear_first` and `bilinear` take a transpose; `zero_derivative` says that there is nothing
to follow. `SAME`, `NEGATED`, `ZERO` are partials that need no arithmetic and `Along` one that is better written as a function of
the tangent.

Batching. `elementwise_batch` is the rule of everything that acts on one element at a time. The others move the batch dimension with
`at_dim` and say which parameters shift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind, bind1, type_of
from tracegrad.ir.primitive import Declined, Primitive
from tracegrad.ir.types import ArrayType, has_tangents, is_inexact, tangent_type
from tracegrad.transforms.tape_values import move_dim as move_dim
from tracegrad.transforms.zero import Linear, Zero, add_tangents, instantiate, is_zero


class _Named:
    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


SAME = _Named("SAME")
NEGATED = _Named("NEGATED")
ZERO = _Named("ZERO")


class Along:
    """A partial given as the derivative along a tangent: `fun(t, ans, *operands, **params)`, linear in `t`."""

    def __init__(self, fun: Callable[..., Any]):
        self.fun = fun


class Refused:
    """A partial that does not exist: asking for it raises NotImplementedError with the reason."""

    def __init__(self, reason: str):
        self.reason = reason


NOT_LINEAR = Declined("it is not linear in any operand")


def partials(prim: Primitive, *rules: Any) -> None:
    """Define the jvp of a primitive with one result from its partial derivatives.

    rules: for each operand `lambda ans, *operands: factor`, or SAME, NEGATED, ZERO, Along(...), Refused(...).
    """

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        ans = bind1(prim, *primals, **params)
        return (ans,), (_sum_of_terms(prim, rules, ans, primals, tangents, params),)

    prim.define(jvp=jvp, transpose=NOT_LINEAR)


def _sum_of_terms(
    prim: Primitive, rules: Sequence[Any], ans: Any, primals: Sequence[Any], tangents: Sequence[Any], params: dict[str, Any]
) -> Any:
    out = type_of(ans)
    total = None
    if is_inexact(out.dtype):
        for rule, t in zip(rules, tangents, strict=True):
            if rule is ZERO or is_zero(t):
                continue
            if rule is NEGATED:
                total = ops.neg(t) if total is None else ops.sub(total, t)
                continue
            if rule is SAME:
                term = t
            elif isinstance(rule, Along):
                term = rule.fun(t, ans, *primals, **params)
            elif isinstance(rule, Refused):
                raise NotImplementedError(f"the derivative of {prim.name}: {rule.reason}")
            else:
                term = ops.mul(rule(ans, *primals, **params), t)
            total = term if total is None else ops.add(total, term)
    if total is None:
        return Zero(tangent_type(out))
    return broadcast_scalar(total, out.shape)


def broadcast_scalar(x: Any, shape: tuple[int, ...]) -> Any:
    """`x`, which has this shape or none, with this shape."""
    return x if type_of(x).shape == shape else ops.broadcast_in_dim(x, shape, ())


def unbroadcast(ct: Any, shape: tuple[int, ...]) -> Any:
    """The cotangent of an operand of this shape that, if of rank 0, was broadcast implicitly."""
    have = type_of(ct).shape
    return ct if have == shape else ops.reduce_sum(ct, tuple(range(len(have))))


def scalar(value: Any, dtype: Any) -> Any:
    """A scalar of exactly this dtype, which a trace keeps as a literal."""
    return np.asarray(value).astype(dtype)


def full(value: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    return broadcast_scalar(scalar(value, dtype), shape)


def zeros(type: ArrayType) -> Any:
    return instantiate(Zero(type.strong()))


def choose(condition: Any, on_true: float, on_false: float, dtype: Any) -> Any:
    """One of two numbers per element of `condition`."""
    return ops.select(condition, scalar(on_true, dtype), scalar(on_false, dtype))


def input_type(x: Any) -> ArrayType:
    """The type of an input of a transpose rule, linear or known."""
    return x.type if isinstance(x, Linear) else type_of(x)


def zero_derivative(prim: Primitive) -> None:
    """Say that no result depends smoothly on any operand (steps, comparisons, integers, random bits)."""

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        outs = bind(prim, *primals, **params)
        return outs, [Zero(tangent_type(type_of(x))) for x in outs]

    prim.define(jvp=jvp, transpose=NOT_LINEAR)


def no_derivative(prim: Primitive, reason: str) -> None:
    prim.define(jvp=Declined(reason), transpose=NOT_LINEAR)


def linear_first(prim: Primitive, transpose: Callable[..., Any]) -> None:
    """Define jvp and transpose of a primitive that is linear in its first operand; further ones (indices, operands that only
    choose) are data. `transpose(ct, type, *others, **params)` gives the cotangent of the first operand, of that type.
    """

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        ans = bind1(prim, *primals, **params)
        t = tangents[0]
        out = tangent_type(type_of(ans))
        if is_zero(t) or not has_tangents(out.dtype):
            return (ans,), (Zero(out),)
        return (ans,), (bind1(prim, t, *primals[1:], **params),)

    def transposed(cts: Sequence[Any], inputs: Sequence[Any], **params: Any) -> Sequence[Any]:
        (ct,) = cts
        x, *others = inputs
        if is_zero(ct):
            return zero_cotangents(inputs)
        return [transpose(ct, x.type, *others, **params)] + [None] * len(others)

    prim.define(jvp=jvp, transpose=transposed)


linear = linear_first


def bilinear(prim: Primitive, wrt_x: Callable[..., Any], wrt_y: Callable[..., Any]) -> None:
    """Define jvp and transpose of a primitive that is linear in each of two operands.

    wrt_x(ct, x_type, y, **params) and wrt_y(ct, x, y_type, **params) give the cotangents.
    """

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        x, y = primals
        x_dot, y_dot = tangents
        ans = bind1(prim, x, y, **params)
        out = tangent_type(type_of(ans))
        if not is_inexact(out.dtype):
            return (ans,), (Zero(out),)
        t = Zero(out)
        if not is_zero(x_dot):
            t = bind1(prim, x_dot, y, **params)
        if not is_zero(y_dot):
            t = add_tangents(t, bind1(prim, x, y_dot, **params))
        return (ans,), (t if is_zero(t) else broadcast_scalar(t, out.shape),)

    def transposed(cts: Sequence[Any], inputs: Sequence[Any], **params: Any) -> Sequence[Any]:
        (ct,) = cts
        x, y = inputs
        if is_zero(ct):
            return zero_cotangents(inputs)
        if isinstance(x, Linear):
            if isinstance(y, Linear):
                raise NotImplementedError(
                    f"the transpose rule of {prim.name!r} takes one operand that is transposed and one that is known; a product of two that "
                    "are transposed is not linear in them"
                )
            return [wrt_x(ct, x.type, y, **params), None]
        return [None, wrt_y(ct, x, y.type, **params)]

    prim.define(jvp=jvp, transpose=transposed)


def zero_cotangents(inputs: Sequence[Any]) -> list[Any]:
    return [Zero(x.type.strong()) if isinstance(x, Linear) else None for x in inputs]


def transposes(prim: Primitive, rule: Callable[..., Sequence[Any]]) -> None:
    """Define the transpose of a primitive with one result; `rule(ct, *inputs, **params)` is not asked about zero cotangents."""

    def transposed(cts: Sequence[Any], inputs: Sequence[Any], **params: Any) -> Sequence[Any]:
        return zero_cotangents(inputs) if is_zero(cts[0]) else rule(cts[0], *inputs, **params)

    prim.define(transpose=transposed)


# Batching.


def add_dim(x: Any, to: int, size: int) -> Any:
    """`x` repeated along a new dimension."""
    shape = type_of(x).shape
    kept = tuple(i for i in range(len(shape) + 1) if i != to)
    return ops.broadcast_in_dim(x, insert(shape, to, size), kept)


def at_dim(x: Any, dim: int | None, to: int, size: int) -> Any:
    """`x` with its batch dimension (made by repetition if it has none) at `to`."""
    return add_dim(x, to, size) if dim is None else move_dim(x, dim, to)


def insert(xs: Sequence[Any], at: int, x: Any) -> tuple[Any, ...]:
    return (*xs[:at], x, *xs[at:])


def without(xs: Sequence[Any], at: int) -> tuple[Any, ...]:
    return (*xs[:at], *xs[at + 1 :])


def shifted(dims: Sequence[int], batch_dim: int) -> tuple[int, ...]:
    """The numbers that dimensions get when a batch dimension comes in at `batch_dim`."""
    return tuple([d + (d >= batch_dim) for d in dims])


def batch_rank(x: Any, dim: int | None) -> int:
    """The rank that an operand has for one example."""
    return len(type_of(x).shape) - (dim is not None)


def align(axis: Any, args: Sequence[Any], dims: Sequence[int | None]) -> tuple[list[Any], int]:
    """The operands, all batched, at the place where the first batched one has its batch dimension; and that place."""
    to = first_dim(dims)
    return [at_dim(x, d, to, axis.size) for x, d in zip(args, dims, strict=True)], to


def first_dim(dims: Sequence[int | None]) -> int:
    return next(d for d in dims if d is not None)


def elementwise_operands(axis: Any, args: Sequence[Any], dims: Sequence[int | None]) -> tuple[list[Any], int]:
    """Operands of an elementwise primitive, batched so that shapes agree or are (); and the result's batch dimension.

    An operand that has rank 0 for each example, beside others that have a rank, is repeated to the common shape if it is batched.
    """
    rank = max(batch_rank(x, d) for x, d in zip(args, dims, strict=True))
    to = 0
    for x, d in zip(args, dims, strict=True):
        if d is not None and batch_rank(x, d) == rank:
            to = d
            break
    shape: tuple[int, ...] = ()
    for x, d in zip(args, dims, strict=True):
        if batch_rank(x, d) == rank:
            own = type_of(x).shape
            shape = insert(own if d is None else without(own, d), to, axis.size)
            break
    outs = []
    for x, d in zip(args, dims, strict=True):
        if batch_rank(x, d) == rank:
            # Where an example has rank 0, what is not batched may stay a scalar.
            outs.append(x if d is None and rank == 0 else at_dim(x, d, to, axis.size))
        else:
            outs.append(x if d is None else ops.broadcast_in_dim(x, shape, (to,)))
    return outs, to


def elementwise_batch(prim: Primitive) -> None:
    """Define batching of a primitive whose results at an index depend on the operands at that index."""

    def batch(axis: Any, args: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Sequence[Any], Sequence[int]]:
        if len(args) == 1:
            outs = bind(prim, *args, **params)
            return outs, [dims[0]] * len(outs)  # type: ignore[list-item]
        operands, to = elementwise_operands(axis, args, dims)
        outs = bind(prim, *operands, **params)
        return outs, [to] * len(outs)

    prim.define(batch=batch)
