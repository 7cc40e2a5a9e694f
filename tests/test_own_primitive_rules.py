"""Rules of primitives that users define: what is missing or wrong is said, shorthands for usual cases, our own rules in the same tables."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from own_primitive_harness import X, Y, Z, fma, fma_jvp, fma_p, same
from primitive_samples import all_cases

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.core import ShapedArray
from tracegrad.extend import core
from tracegrad.interpreters import ad, batching, mlir
from tracegrad.ir.printer import attribute
from tracegrad.ir.tapes import record_while_p, tape_scan_p

# What is missing


@pytest.fixture
def bare() -> core.Primitive:
    p = core.Primitive("bare")
    p.def_abstract_eval(lambda t: t)
    p.def_impl(lambda x: np.sin(x))
    return p


def test_without_a_lowering_it_is_not_compiled(bare: core.Primitive) -> None:
    same(bare.bind(X), np.sin(X))
    with pytest.raises(NotImplementedError, match=r"'bare\S*' has no lowering.*register_lowering.*multiple_results=False"):
        tg.jit(bare.bind)(X)
    with pytest.raises(NotImplementedError, match="has no lowering"):
        lax.scan(lambda c, _: (bare.bind(c), None), X, None, 3)
    # What nothing needs is not asked for it.
    same(tg.jit(lambda x: (bare.bind(x), x)[1])(X), X)


def test_numpy_code_is_lowered_through_a_callback(bare: core.Primitive) -> None:
    def call(x: Any) -> Any:
        return tg.pure_callback(bare.impl, tg.ShapeDtypeStruct(x.shape, x.dtype), x)

    mlir.register_lowering(bare, mlir.lower_fun(call, multiple_results=False))
    same(tg.jit(bare.bind)(X), np.sin(X))


def test_missing_rules_are_named(bare: core.Primitive) -> None:
    with pytest.raises(NotImplementedError, match=r"Differentiation rule for 'bare\S*' not implemented.*primitive_jvps"):
        tg.grad(lambda x: bare.bind(x).sum())(X)
    with pytest.raises(NotImplementedError, match=r"Batching rule for 'bare\S*' not implemented.*primitive_batchers"):
        tg.vmap(bare.bind)(X)
    ad.primitive_jvps[bare] = lambda primals, tangents: (bare.bind(*primals), bare.bind(*tangents))
    with pytest.raises(NotImplementedError, match=r"Transpose rule .* for 'bare\S*' not implemented.*primitive_transposes"):
        tg.grad(lambda x: bare.bind(x).sum())(X)
    p = core.Primitive("empty")
    with pytest.raises(NotImplementedError, match=r"Evaluation rule for 'empty' not implemented.*def_impl"):
        p.bind(X)
    with pytest.raises(NotImplementedError, match=r"Abstract evaluation for 'empty' not implemented.*def_abstract_eval"):
        tg.make_ir(p.bind)(X)


# What is wrong


def test_operands_are_arrays(bare: core.Primitive) -> None:
    with pytest.raises(TypeError, match=r"operand 1 of the primitive 'fused_multiply_add': 'list' is not an array"):
        fma(X, [1.0], Z)
    with pytest.raises(TypeError, match=r"indexed by primitives, not by 'sin'"):
        ad.primitive_jvps["sin"] = fma_jvp  # type: ignore[index]
    with pytest.raises(TypeError, match="must be a function"):
        ad.primitive_jvps[bare] = 3  # type: ignore[assignment]


def test_a_lowering_keeps_its_promises(bare: core.Primitive) -> None:
    mlir.register_lowering(bare, mlir.lower_fun(lambda x: jnp.sum(x), multiple_results=False))
    with pytest.raises(TypeError, match=r"the lowering of the primitive 'bare\S*' gives \(f32\[\]\), .* says \(f32\[3\]\)"):
        tg.jit(bare.bind)(X)
    mlir.register_lowering(bare, mlir.lower_fun(lambda x: jnp.sin(x)))
    with pytest.raises(TypeError, match="with multiple_results=True, the default, it returns a list or tuple"):
        tg.jit(bare.bind)(X)
    mlir.register_lowering(bare, mlir.lower_fun(lambda x: bare.bind(x) + 1, multiple_results=False))
    with pytest.raises(RecursionError, match=r"the lowering of 'bare\S*' applies 'bare\S*' itself to operands of the same types"):
        tg.jit(bare.bind)(X)


def test_only_tracing_lowers(bare: core.Primitive) -> None:
    mlir.register_lowering(bare, lambda ctx, x: mlir.ir_constant(3))
    with pytest.raises(
        AttributeError, match="no attribute 'ir_constant': tracegrad generates no MLIR and lowers primitives by tracing"
    ):
        tg.jit(bare.bind)(X)
    mlir.register_lowering(bare, jnp.sin)  # type: ignore[arg-type]  # not a rule
    with pytest.raises(TypeError):
        tg.jit(bare.bind)(X)
    mlir.register_lowering(bare, lambda ctx, x: x)
    with pytest.raises(TypeError, match=r"the lowering rule of 'bare\S*' returned .*, not a sequence of its results"):
        tg.jit(bare.bind)(X)
    with pytest.raises(TypeError, match=r"the lowering of 'bare\S*' must be a rule"):
        mlir.register_lowering(bare, None)  # type: ignore[arg-type]


def test_rules_for_other_platforms_are_ignored(bare: core.Primitive) -> None:
    mlir.register_lowering(bare, mlir.lower_fun(jnp.sin, False), platform="tpu")
    with pytest.raises(NotImplementedError, match="has no lowering"):
        tg.jit(bare.bind)(X)
    mlir.register_lowering(bare, mlir.lower_fun(jnp.cos, False), platform="cpu")
    same(tg.jit(bare.bind)(X), jnp.cos(X))


def test_a_rule_gets_types_and_hands_on(bare: core.Primitive) -> None:
    seen = []

    def rule(ctx: mlir.LoweringRuleContext, x: Any) -> Any:
        seen.append((ctx.primitive, ctx.avals_in, ctx.avals_out))
        ctx.module_context.add_keepalive(rule)
        return mlir.lower_fun(lambda x: jnp.sin(x) * 2, multiple_results=False)(ctx, x)

    mlir.register_lowering(bare, rule)
    same(tg.jit(bare.bind)(X), 2 * jnp.sin(X))
    assert seen == [(bare, [X.aval], [X.aval])]


def test_a_rule_calls_python(bare: core.Primitive) -> None:
    def rule(ctx: mlir.LoweringRuleContext, x: Any) -> Any:
        def callback(x: np.ndarray) -> Any:
            assert type(x) is np.ndarray
            return (np.sin(x),)

        results, _, _ = mlir.emit_python_callback(ctx, callback, None, [x], ctx.avals_in, ctx.avals_out, has_side_effect=False)
        return results

    mlir.register_lowering(bare, rule)
    same(tg.jit(bare.bind)(X), np.sin(X))


def test_a_lowering_may_use_other_primitives(bare: core.Primitive) -> None:
    mlir.register_lowering(bare, mlir.lower_fun(lambda x: tg.jit(fma)(x, x, fma(x, x, x)), False))
    same(tg.jit(bare.bind)(X), 2 * X * X + X)


def test_rules_keep_their_promises(bare: core.Primitive) -> None:
    def grad_with(rule: Any) -> Any:
        ad.primitive_jvps[bare] = rule
        return tg.jvp(bare.bind, (X,), (X,))

    with pytest.raises(TypeError, match=r"the differentiation rule of 'bare\S*' returned .*, not a pair \(result, tangent"):
        grad_with(lambda primals, tangents: bare.bind(*primals))
    with pytest.raises(
        TypeError, match=r"a tangent that the differentiation rule of 'bare\S*' has the type f32\[\], but must have f32\[3\]"
    ):
        grad_with(lambda primals, tangents: (bare.bind(*primals), tangents[0].sum()))
    same(grad_with(lambda primals, tangents: (bare.bind(*primals), ad.Zero.from_primal_value(X)))[1], jnp.zeros(3))

    ad.deflinear2(bare, lambda ct, x: (ct, ct))
    with pytest.raises(TypeError, match="not a sequence of one cotangent for each of its 1 operands"):
        tg.grad(lambda x: bare.bind(x).sum())(X)
    ad.deflinear2(bare, lambda ct, x: (ct[:2],))
    with pytest.raises(
        TypeError, match=r"a cotangent that the transpose rule of 'bare\S*' has the type f32\[2\], but must have f32\[3\]"
    ):
        tg.grad(lambda x: bare.bind(x).sum())(X)

    batching.primitive_batchers[bare] = lambda args, dims: (args[0], 1)
    with pytest.raises(
        TypeError, match=r"returned a result of shape \(4, 3\) with the batch dimension 1, where the batch has the size 4"
    ):
        tg.vmap(bare.bind)(jnp.ones((4, 3)))
    batching.primitive_batchers[bare] = lambda args, dims: args[0]
    with pytest.raises(TypeError, match=r"the batching rule of 'bare\S*' returned .*, not a pair"):
        tg.vmap(bare.bind)(X)


def test_several_results_are_declared() -> None:
    p = core.Primitive("several")
    p.def_impl(lambda x: (x, x + 1))
    p.def_abstract_eval(lambda t: (t, t))
    with pytest.raises(
        TypeError, match=r"the implementation of the primitive 'several' gave no array: 'tuple' .* multiple_results = True"
    ):
        p.bind(X)
    with pytest.raises(TypeError, match=r"the abstract evaluation of 'several' returned .*multiple_results = True"):
        tg.make_ir(p.bind)(X)
    p.multiple_results = True
    mlir.register_lowering(p, mlir.lower_fun(lambda x: [x, x + 1]))
    ad.primitive_jvps[p] = lambda primals, tangents: (p.bind(*primals), [tangents[0], ad.Zero.from_primal_value(X)])
    batching.primitive_batchers[p] = lambda args, dims: (p.bind(*args), [dims[0]] * 2)
    for f in (p.bind, tg.jit(p.bind)):
        out = f(X)
        assert isinstance(out, list)
        same(out[1], X + 1)
    tangents = tg.jvp(p.bind, (X,), (Y,))[1]
    same(tangents[0], Y)
    same(tangents[1], jnp.zeros(3))
    same(tg.vmap(p.bind)(jnp.stack([X, Y]))[1], jnp.stack([X, Y]) + 1)
    p.def_impl(lambda x: x)
    with pytest.raises(
        TypeError, match=r"'several' has multiple_results, but its implementation returned .* instead of a list or tuple"
    ):
        p.bind(X)


# Effects


def test_effects_are_kept() -> None:
    seen: list[float] = []
    p = core.Primitive("note")
    p.multiple_results = True
    p.def_effectful_abstract_eval(lambda t: ([], {"note"}))
    p.def_impl(lambda x: (seen.append(float(x)), [])[1])
    mlir.register_lowering(p, mlir.lower_fun(lambda x: (tg.debug.callback(lambda v: seen.append(float(v)), x), [])[1]))

    def f(x: Any) -> Any:
        p.bind(x)
        p.bind(x)
        return x * 2

    f(1.0)
    tg.jit(f)(3.0)
    tg.effects_barrier()
    assert seen == [1.0, 1.0, 3.0, 3.0]
    assert tg.make_jaxpr(f)(1.0).effects == {"note"}


# Our own primitives in the same tables


def test_our_rules_are_in_the_tables() -> None:
    sin_p, mul_p, sort_p = core.primitives.sin_p, core.primitives.mul_p, core.primitives.sort_p
    out, tangent = ad.primitive_jvps[sin_p]([X], [Y])
    same(tangent, jnp.cos(X) * Y)
    ct_x, ct_y = ad.primitive_transposes[mul_p](Z, ad.UndefinedPrimal(X.aval), Y)
    same(ct_x, Z * Y)
    assert ct_y is None
    rows = jnp.stack([X, Y])
    out, dim = batching.primitive_batchers[sin_p]([rows], [1])
    assert dim == 1
    outs, dims = batching.axis_primitive_batchers[sort_p](2, None, None, [rows], [0], dimension=0, is_stable=True, num_keys=1)
    assert isinstance(outs, list) and dims == [0]
    assert sin_p in ad.primitive_jvps and sin_p not in ad.primitive_transposes
    assert len(list(ad.primitive_jvps)) == len(ad.primitive_jvps) > 100
    assert ad.primitive_jvps[fma_p] is fma_jvp
    same(core.primitives.sin_p.bind(X), jnp.sin(X))
    assert isinstance(sort_p.bind(X, dimension=0, is_stable=True, num_keys=1), list)
    assert core.primitives.jit_p.name == "call"
    with pytest.raises(AttributeError, match="tracegrad has no primitive 'fused_multiply_add_p'"):
        core.primitives.fused_multiply_add_p  # noqa: B018


def test_a_rule_may_be_replaced_and_removed() -> None:
    p = core.Primitive("replaced")
    p.def_impl(lambda x: x)
    p.def_abstract_eval(lambda t: t)
    batching.primitive_batchers[p] = lambda args, dims: (args[0], dims[0])
    batching.axis_primitive_batchers[p] = lambda size, name, trace, args, dims: (args[0] * size, dims[0])
    same(tg.vmap(p.bind)(X), 3 * X)
    same(batching.primitive_batchers[p]([X], [0])[0], 3 * X)
    del batching.primitive_batchers[p]
    assert p not in batching.axis_primitive_batchers
    with pytest.raises(NotImplementedError, match="Batching rule"):
        tg.vmap(p.bind)(X)


def test_our_primitives_say_whether_they_have_several_results() -> None:
    wrong = set()
    for case in (c for cases in all_cases().values() for c in cases):
        if case.primitive.family == "tapes":  # their samples are programs around them
            continue
        outs = case.primitive.type_rule(*case.types, **case.params)
        if len(outs) != 1 and not case.primitive.multiple_results:
            wrong.add(case.primitive.name)
    assert record_while_p.multiple_results and tape_scan_p.multiple_results
    assert not wrong


def test_the_parameters_of_our_primitives_are_plain_data() -> None:
    """Programs are told apart, across processes, by what they say; a Python object would say nothing."""
    for case in (c for cases in all_cases().values() for c in cases):
        if case.primitive.family != "calls":
            data = [v for k, v in case.params.items() if k not in case.primitive.regions]
            assert not [v for v in data if "@" in attribute(v)], f"{case.primitive}: {data}"


# Shorthands


def test_rules_for_usual_cases() -> None:
    scale = core.Primitive("scale")
    scale.def_abstract_eval(lambda t, *, k: t)
    mlir.register_lowering(scale, mlir.lower_fun(lambda x, *, k: x * k, False))
    ad.deflinear(scale, lambda ct, *, k: [scale.bind(ct, k=k)])
    batching.defvectorized(scale)
    same(tg.grad(lambda x: (scale.bind(x, k=3.0) * Y).sum())(X), 3 * Y)
    same(tg.vmap(partial(scale.bind, k=2.0), 1, 1)(jnp.ones((2, 3))), jnp.full((2, 3), 2.0))

    hypot = core.Primitive("hypotenuse")
    hypot.def_abstract_eval(lambda x, y: ShapedArray(jnp.broadcast_shapes(x.shape, y.shape), x.dtype))
    mlir.register_lowering(hypot, mlir.lower_fun(lambda x, y: jnp.sqrt(x * x + y * y), False))
    ad.defjvp2(hypot, lambda t, ans, x, y: t * x / ans, lambda t, ans, x, y: t * y / ans)
    batching.defbroadcasting(hypot)
    same(tg.grad(lambda x: hypot.bind(x, Y).sum())(X), X / jnp.sqrt(X * X + Y * Y))
    rows = jnp.arange(6.0).reshape(2, 3)
    reference = lambda x, y: jnp.sqrt(x * x + y * y)  # noqa: E731
    for axes, args in [
        ((0, None), (rows, X)),
        ((0, 1), (rows, rows.T)),
        ((0, 0), (rows, rows)),
        ((0, None), (X, 2.0)),
        ((0, 0), (rows, X[:2])),
    ]:
        same(tg.vmap(hypot.bind, axes)(*args), tg.vmap(reference, axes)(*args))

    square = core.Primitive("square_of")
    square.def_abstract_eval(lambda t: t)
    mlir.register_lowering(square, mlir.lower_fun(lambda x: x * x, False))
    ad.defjvp(square, lambda t, x: 2 * x * t)
    same(tg.jacfwd(square.bind)(X), jnp.diag(2 * X))
    ad.defjvp_zero(square)
    same(tg.grad(lambda x: square.bind(x).sum())(X), jnp.zeros(3))

    times = core.Primitive("times")
    times.def_abstract_eval(lambda x, y: x)
    mlir.register_lowering(times, mlir.lower_fun(lambda x, y: x * y, False))
    ad.defbilinear(times, lambda ct, x, y: times.bind(ct, y), lambda ct, x, y: times.bind(x, ct))
    same(tg.grad(lambda x: times.bind(x, x).sum())(X), 2 * X)
    same(tg.linear_transpose(lambda x: times.bind(x, Y), X)(Z)[0], Y * Z)
    with pytest.raises(
        NotImplementedError, match=r"'times\S*' is bilinear, and both of its operands depend.*the derivative instead"
    ):
        tg.linear_transpose(lambda x: times.bind(x, x), X)(Z)

    total = core.Primitive("total")
    total.def_abstract_eval(lambda t, *, axes: t.update(shape=tuple(d for i, d in enumerate(t.shape) if i not in axes)))
    mlir.register_lowering(total, mlir.lower_fun(lambda x, *, axes: jnp.sum(x, axes), False))
    batching.defreducer(total)
    cube = jnp.arange(24.0).reshape(2, 3, 4)
    for axis in range(3):
        same(tg.vmap(lambda x: total.bind(x, axes=(0,)), axis)(cube), tg.vmap(lambda x: x.sum(0), axis)(cube))


def test_integer_operands_have_no_tangents() -> None:
    p = core.Primitive("pick")
    p.def_abstract_eval(lambda x, i: x.update(shape=()))
    mlir.register_lowering(p, mlir.lower_fun(lambda x, i: x[i], False))

    def rule(primals: Any, tangents: Any) -> Any:
        assert type(tangents[1]) is ad.Zero and tangents[1].aval.dtype == tg.float0
        return p.bind(*primals), p.bind(ad.instantiate_zeros(tangents[0]), primals[1])

    def transpose(ct: Any, x: Any, i: Any) -> Any:
        assert ad.is_undefined_primal(x) and not ad.is_undefined_primal(i)
        return jnp.zeros(x.aval.shape).at[i].set(ct), None

    ad.primitive_jvps[p] = rule
    ad.primitive_transposes[p] = transpose
    same(tg.grad(lambda x: p.bind(x, 1))(X), [0, 1, 0])
    same(tg.jit(tg.grad(lambda x: p.bind(x, 1) ** 2))(X), [0, 4, 0])
