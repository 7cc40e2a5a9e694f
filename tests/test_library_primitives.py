"""Primitives as libraries define them: identities that act on transformations, functions kept out of line, primitives that batch themselves,
a linear solve whose operator is a parameter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.core import ShapedArray, Tracer, eval_jaxpr
from tracegrad.extend import core
from tracegrad.interpreters import ad, batching, mlir, partial_eval, xla
from tracegrad.tree_util import tree_flatten, tree_structure, tree_unflatten

X = jnp.asarray([1.0, 2.0, 3.0])


def same(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=2e-6)


# A reduction over all batches, which the result does not have: "does any example ...?"

any_example_p = core.Primitive("any_example")


@any_example_p.def_impl
def _any(x: Any) -> Any:
    return jnp.any(x)


any_example_p.def_abstract_eval(lambda x: ShapedArray((), np.bool_))
mlir.register_lowering(any_example_p, mlir.lower_fun(_any, multiple_results=False))
batching.primitive_batchers[any_example_p] = lambda args, dims: (any_example_p.bind(*args), batching.not_mapped)
ad.primitive_jvps[any_example_p] = lambda primals, tangents: (
    any_example_p.bind(*primals),
    ad.Zero.from_primal_value(np.zeros((), np.bool_)),
)


def test_a_condition_common_to_all_examples_stays_a_branch() -> None:
    def f(x: Any) -> Any:
        return lax.cond(any_example_p.bind(x > 2.5), lambda x: x * 10, lambda x: x, x)

    same(tg.vmap(f)(X), 10 * X)
    same(tg.vmap(f)(X[:2]), X[:2])
    same(tg.jit(tg.vmap(f))(X), 10 * X)
    same(tg.grad(lambda x: tg.vmap(f)(x).sum())(X), jnp.full(3, 10.0))
    batched = tg.make_jaxpr(tg.vmap(f))(X)
    assert "cond" in [e.primitive.name for e in batched.eqns]  # not a select between both branches
    plain = tg.make_jaxpr(tg.vmap(lambda x: lax.cond(x > 2.5, lambda x: x * 10, lambda x: x, x)))(X)
    assert "cond" not in [e.primitive.name for e in plain.eqns]


# An identity that refuses what it is not made for

fixed_p = core.Primitive("fixed")
fixed_p.def_impl(lambda x, *, name: x)
fixed_p.def_abstract_eval(lambda t, *, name: t)
mlir.register_lowering(fixed_p, mlir.lower_fun(lambda x, *, name: x, multiple_results=False))


def _refuse(what: str) -> Callable[..., Any]:
    def rule(*_: Any, name: str, **__: Any) -> Any:
        raise RuntimeError(f"{what} of {name}")

    return rule


ad.primitive_jvps[fixed_p] = _refuse("differentiation")
ad.primitive_transposes[fixed_p] = _refuse("transposition")
batching.primitive_batchers[fixed_p] = _refuse("batching")


def test_an_identity_that_refuses_transformations() -> None:
    def f(x: Any) -> Any:
        return fixed_p.bind(x, name="the step size") * 2

    same(f(X), 2 * X)
    same(tg.jit(f)(X), 2 * X)
    same(tg.vmap(lambda y: f(X) * y)(X), X[:, None] * 2 * X)  # untouched by the batch
    with pytest.raises(RuntimeError, match="differentiation of the step size"):
        tg.grad(lambda x: f(x).sum())(X)
    with pytest.raises(RuntimeError, match="batching of the step size"):
        tg.jit(tg.vmap(f))(X)


# An identity that announces its transformations: rules bind the primitive again, so that nesting is seen

seen_p = core.Primitive("seen")
seen_p.multiple_results = True
announced: list[str] = []


def _announce(what: str) -> None:
    announced.append(what)


seen_p.def_impl(lambda *xs, label: list(xs))
seen_p.def_abstract_eval(lambda *ts, label: ts)
mlir.register_lowering(seen_p, mlir.lower_fun(lambda *xs, label: (_announce(f"{label}:lower"), list(xs))[1]))


def _seen_jvp(primals: Any, tangents: Any, *, label: str) -> Any:
    _announce(f"{label}:jvp")
    outs = seen_p.bind(*primals, label=label)
    live = [ad.instantiate_zeros(t) for t in tangents]
    return outs, seen_p.bind(*live, label=f"{label}'")


def _seen_transpose(cts: Any, *inputs: Any, label: str) -> Any:
    _announce(f"{label}:transpose")
    outs = seen_p.bind(*map(ad.instantiate_zeros, cts), label=f"{label}T")
    return [ct if ad.is_undefined_primal(x) else None for ct, x in zip(outs, inputs)]


def _seen_batch(size: int, name: Any, trace: Any, args: Any, dims: Any, *, label: str) -> Any:
    _announce(f"{label}:batch{size}{name or ''}")
    return seen_p.bind(*args, label=label), dims


ad.primitive_jvps[seen_p] = _seen_jvp
ad.primitive_transposes[seen_p] = _seen_transpose
batching.axis_primitive_batchers[seen_p] = _seen_batch


def test_an_identity_that_announces_transformations() -> None:
    def f(x: Any, y: Any) -> Any:
        x, y = seen_p.bind(x, y, label="s")
        return x * y

    announced.clear()
    same(tg.grad(f)(2.0, 3.0), 3.0)
    assert announced == ["s:jvp", "s':transpose"]
    announced.clear()
    same(tg.jit(tg.vmap(tg.grad(f), axis_name="i"))(X, X), X)
    assert sorted(announced) == sorted(["s:jvp", "s:batch3i", "s':transpose", "s'T:batch3i", "s:lower", "s'T:lower"])


# A function out of line: called through a primitive whose parameters are the function and the structure of its arguments

out_of_line_p = core.Primitive("out_of_line")
out_of_line_p.multiple_results = True


def out_of_line(fun: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        leaves, tree = tree_flatten(args)
        struct = tg.eval_shape(fun, *args)
        outs = out_of_line_p.bind(*leaves, fun=fun, tree=tree)
        return tree_unflatten(tree_structure(struct), outs)

    return call


def _call_flat(*leaves: Any, fun: Any, tree: Any) -> list[Any]:
    return tree_flatten(fun(*tree_unflatten(tree, leaves)))[0]


@out_of_line_p.def_impl
def _out_of_line_impl(*leaves: Any, fun: Any, tree: Any) -> list[Any]:
    return _call_flat(*leaves, fun=fun, tree=tree)


@out_of_line_p.def_abstract_eval
def _out_of_line_types(*types: Any, fun: Any, tree: Any) -> list[Any]:
    out = tg.eval_shape(partial(_call_flat, fun=fun, tree=tree), *types)
    return [ShapedArray(x.shape, x.dtype) for x in out]


def _out_of_line_jvp(primals: Any, tangents: Any, *, fun: Any, tree: Any) -> Any:
    flat = partial(_call_flat, fun=fun, tree=tree)
    n = len(primals)

    def tangents_of(*values: Any) -> Any:
        return tg.jvp(flat, values[:n], values[n:])[1]

    # Two calls: the results must not wait for the tangents.
    outs = out_of_line_p.bind(*primals, fun=fun, tree=tree)
    return outs, out_of_line(tangents_of)(*primals, *map(ad.instantiate_zeros, tangents))


def _out_of_line_transpose(cts: Any, *inputs: Any, fun: Any, tree: Any) -> Any:
    linear = [ad.is_undefined_primal(x) for x in inputs]
    known = [x for x, lin in zip(inputs, linear) if not lin]

    def backwards(known: Any, cts: Any) -> Any:
        def of_linear(*xs: Any) -> Any:
            given, rest = iter(xs), iter(known)
            return _call_flat(*[next(given if lin else rest) for lin in linear], fun=fun, tree=tree)

        types = [tg.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in inputs if ad.is_undefined_primal(x)]
        return tg.linear_transpose(of_linear, *types)(cts)

    found = iter(backwards(known, [ad.instantiate_zeros(ct) for ct in cts]))
    return [next(found) if lin else None for lin in linear]


def _out_of_line_batch(args: Any, dims: Any, *, fun: Any, tree: Any) -> Any:
    flat = partial(_call_flat, fun=fun, tree=tree)
    outs = out_of_line(tg.vmap(flat, tuple(dims)))(*args)
    return outs, [0] * len(outs)


ad.primitive_jvps[out_of_line_p] = _out_of_line_jvp
ad.primitive_transposes[out_of_line_p] = _out_of_line_transpose
batching.primitive_batchers[out_of_line_p] = _out_of_line_batch
mlir.register_lowering(out_of_line_p, mlir.lower_fun(_call_flat, multiple_results=True))


def test_a_function_out_of_line() -> None:
    def physics(state: Any, k: Any) -> Any:
        return {"q": state["q"] + state["p"] * k, "p": state["p"] - jnp.sin(state["q"]) * k}

    def energy(step: Any, q: Any, k: Any) -> Any:
        state = {"q": q, "p": q * 0.5}
        for _ in range(2):
            state = step(state, k)
        return jnp.sum(state["p"] ** 2 - jnp.cos(state["q"]))

    ours, reference = partial(energy, out_of_line(physics)), partial(energy, physics)
    same(ours(X, 0.1), reference(X, 0.1))
    same(tg.jit(ours)(X, 0.1), reference(X, 0.1))
    for g, h in zip(tg.grad(ours, (0, 1))(X, 0.1), tg.grad(reference, (0, 1))(X, 0.1)):
        same(g, h)
    same(tg.jit(tg.grad(ours))(X, 0.1), tg.grad(reference)(X, 0.1))
    same(
        tg.vmap(tg.grad(ours), (0, None))(jnp.stack([X, 2 * X]), 0.1),
        tg.vmap(tg.grad(reference), (0, None))(jnp.stack([X, 2 * X]), 0.1),
    )
    same(tg.jit(tg.hessian(ours))(X, 0.1), tg.hessian(reference)(X, 0.1))
    assert [e.primitive.name for e in tg.make_jaxpr(out_of_line(physics))({"q": X, "p": X}, 1.0).eqns] == ["out_of_line"]


# A primitive that batches itself: vmap adds to a parameter, and all rules are applied under as many vmaps


def self_batching(name: str, impl: Any, abstract_eval: Any, jvp: Any, transpose: Any) -> core.Primitive:
    """A primitive with several results, of whose rules none knows of batches."""
    p = core.Primitive(name)
    p.multiple_results = True

    def under(fun: Callable[..., Any], batches: Any) -> Callable[..., Any]:
        for size, in_axes in batches:
            fun = tg.vmap(fun, in_axes, 0, axis_size=size)
        return fun

    def batched_impl(*args: Any, batches: Any, **params: Any) -> Any:
        return under(lambda *xs: list(impl(*xs, **params)), batches)(*args)

    def batched_types(*types: Any, batches: Any, **params: Any) -> Any:
        for size, in_axes in reversed(batches):
            types = tuple([core.mapped_aval(size, a, t) for a, t in zip(in_axes, types)])
        outs = abstract_eval(*types, **params)
        for size, _ in batches:
            outs = [core.unmapped_aval(size, 0, t) for t in outs]
        return outs

    def batched_jvp(primals: Any, tangents: Any, *, batches: Any, **params: Any) -> Any:
        n = len(primals)
        live = [type(t) is not ad.Zero for t in tangents]
        zeros = [None if lv else t for lv, t in zip(live, tangents)]

        def one(*values: Any) -> Any:
            given = iter(values[n:])
            ts = [next(given) if lv else ad.Zero.from_primal_value(x) for lv, x in zip(live, values)]
            outs, out_tangents = jvp(list(values[:n]), ts, **params)
            return list(outs), [ad.instantiate_zeros(t) for t in out_tangents]

        wide = [(size, (*axes, *[a for a, lv in zip(axes, live) if lv])) for size, axes in batches]
        assert len(zeros) == n
        return under(one, wide)(*primals, *[t for t, lv in zip(tangents, live) if lv])

    def batched_transpose(cts: Any, *inputs: Any, batches: Any, **params: Any) -> Any:
        assert not batches  # what the jvp rule does is batched by its own operations
        return transpose(cts, *inputs, **params)

    def batch(size: int, name: Any, trace: Any, args: Any, dims: Any, *, batches: Any, **params: Any) -> Any:
        outs = p.bind(*args, batches=(*batches, (size, tuple(dims))), **params)
        return outs, [0] * len(outs)

    p.def_impl(batched_impl)
    p.def_abstract_eval(batched_types)
    ad.primitive_jvps[p] = batched_jvp
    ad.primitive_transposes[p] = batched_transpose
    batching.axis_primitive_batchers[p] = batch
    mlir.register_lowering(p, mlir.lower_fun(batched_impl, multiple_results=True))
    return p


def _solve_impl(a: Any, b: Any, *, how: Any) -> list[Any]:
    return [how(a, b)]


def _solve_jvp(primals: Any, tangents: Any, *, how: Any) -> Any:
    """x' = A^-1 (b' - A' x): the derivative of a solve is a solve."""
    (a, b), (a_dot, b_dot) = primals, tangents
    (x,) = solve_p.bind(a, b, how=how, batches=())
    right = ad.instantiate_zeros(b_dot)
    if type(a_dot) is not ad.Zero:
        right = right - a_dot @ x
    return [x], solve_p.bind(a, right, how=how, batches=())


def _solve_transpose(cts: Any, a: Any, b: Any, *, how: Any) -> Any:
    assert ad.is_undefined_primal(b) and not ad.is_undefined_primal(a)
    (ct,) = cts
    if type(ct) is ad.Zero:
        return [None, ct]
    return [None, *solve_p.bind(a.T, ct, how=how, batches=())]


solve_p = self_batching("linear_solve", _solve_impl, lambda a, b, *, how: [b], _solve_jvp, _solve_transpose)


def solve(a: Any, b: Any) -> Any:
    return solve_p.bind(a, b, how=jnp.linalg.solve, batches=())[0]


A = jnp.asarray([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.5, 1.0, 5.0]])


def test_a_primitive_that_batches_itself() -> None:
    reference = jnp.linalg.solve

    def loss(f: Any) -> Any:
        return lambda a, b: jnp.sum(jnp.sin(f(a, b)))

    same(solve(A, X), reference(A, X))
    same(tg.jit(solve)(A, X), reference(A, X))
    for g, h in zip(tg.grad(loss(solve), (0, 1))(A, X), tg.grad(loss(reference), (0, 1))(A, X)):
        np.testing.assert_allclose(g, h, rtol=1e-5, atol=1e-6)
    many_a, many_b = jnp.stack([A, 2 * A]), jnp.stack([X, X + 1, 3 * X])
    both = tg.vmap(tg.vmap(solve, (None, 0)), (0, None))
    expected = tg.vmap(tg.vmap(reference, (None, 0)), (0, None))
    same(both(many_a, many_b), expected(many_a, many_b))
    same(tg.jit(both)(many_a, many_b), expected(many_a, many_b))
    gradients = tg.jit(tg.vmap(tg.grad(loss(solve)), (0, None)))(many_a, X)
    np.testing.assert_allclose(gradients, tg.vmap(tg.grad(loss(reference)), (0, None))(many_a, X), rtol=1e-5, atol=1e-6)
    tangents = tg.jvp(lambda a: both(a, many_b), (many_a,), (many_a,))[1]
    np.testing.assert_allclose(tangents, -expected(many_a, many_b), rtol=1e-5)
    (eqn,) = tg.make_jaxpr(both)(many_a, many_b).eqns
    assert eqn.params["batches"] == ((3, (None, 0)), (2, (0, None)))


# A rule added to one of ours


def test_the_implementation_may_be_the_compiled_primitive() -> None:
    p = core.Primitive("compiled")
    p.def_impl(partial(xla.apply_primitive, p))
    p.def_abstract_eval(lambda t, *, power: t)
    mlir.register_lowering(p, mlir.lower_fun(lambda x, *, power: x**power, multiple_results=False))
    same(p.bind(X, power=3), X**3)
    same(p.bind(X, power=2), X**2)
    with tg.disable_jit():
        same(p.bind(X, power=2), X**2)


# Programs as data


def test_a_program_is_walked_and_rebuilt() -> None:
    """An interpreter of one's own: every sine becomes a cosine, in control flow too."""
    sin_p, cos_p = core.primitives.sin_p, core.primitives.cos_p

    def swapped(jaxpr: core.Jaxpr) -> core.Jaxpr:
        eqns = []
        for eqn in jaxpr.eqns:
            params = {k: swapped_program(v) for k, v in eqn.params.items()}
            eqns.append(eqn.replace(primitive=cos_p if eqn.primitive is sin_p else eqn.primitive, params=params))
        return jaxpr.replace(eqns=eqns)

    def swapped_program(value: Any) -> Any:
        if isinstance(value, core.ClosedJaxpr):
            return value.replace(equations=swapped(value.jaxpr).eqns)
        return tuple(map(swapped_program, value)) if isinstance(value, tuple) else value

    def f(sin: Any, x: Any) -> Any:
        return lax.fori_loop(0, 3, lambda _, c: sin(c) + lax.cond(c[0] > 0, sin, jnp.tanh, c), x) + X

    closed = tg.make_jaxpr(partial(f, jnp.sin))(X)
    changed = core.ClosedJaxpr(swapped(closed.jaxpr), closed.consts)
    core.check_jaxpr(changed.jaxpr)
    (out,) = eval_jaxpr(changed.jaxpr, changed.consts, X)
    same(out, f(jnp.cos, X))
    (out,) = tg.jit(core.jaxpr_as_fun(changed))(X)
    same(out, f(jnp.cos, X))
    names = {e.primitive.name for j in core.subjaxprs(closed.jaxpr) for k in core.subjaxprs(j) for e in k.eqns}
    assert names == {"sin", "tanh"}


def test_what_a_jaxpr_captured_may_be_traced() -> None:
    @tg.jit
    def outer(x: Any, y: Any) -> Any:
        closed, shape = tg.make_jaxpr(lambda z: {"r": z * x + jnp.arange(3.0)}, return_shape=True)(y)
        assert shape["r"].shape == (3,) and closed.out_avals == [y.aval]
        assert [v.aval for v in closed.jaxpr.constvars] == [x.aval] and all(isinstance(c, Tracer) for c in closed.consts)
        assert "mul" in str(closed) and len(closed.jaxpr.invars) == 1
        return eval_jaxpr(closed.jaxpr, closed.consts, y)[0], tg.grad(lambda x: eval_jaxpr(closed.jaxpr, [x], y)[0].sum())(x)

    value, gradient = outer(X, 2 * X)
    same(value, 2 * X * X + jnp.arange(3.0))
    same(gradient, 2 * X)


def test_parts_of_a_jaxpr() -> None:
    captured = np.arange(3.0, dtype=np.float32)
    closed = tg.make_jaxpr(lambda x, n: (jnp.sin(x) * captured * 2.0, x * n), static_argnums=1)(X, 3)
    jaxpr = closed.jaxpr
    assert [type(v) for v in jaxpr.constvars] == [core.Var] and len(closed.consts) == 1
    same(closed.consts[0], captured)
    assert jaxpr.invars[0].aval == X.aval and isinstance(jaxpr.eqns[0], core.JaxprEqn)
    assert jaxpr.eqns[0].primitive is core.primitives.sin_p
    assert jaxpr.eqns[0].invars == jaxpr.invars and jaxpr.eqns[0].outvars[0] is jaxpr.eqns[1].invars[0]
    literals = [v for e in jaxpr.eqns for v in e.invars if isinstance(v, core.Literal)]
    assert [float(v.val) for v in literals] == [2.0, 3.0]
    smaller, used = partial_eval.dce_jaxpr(partial_eval.convert_constvars_jaxpr(jaxpr), [False, True])
    assert used == [False, True] and [e.primitive.name for e in smaller.eqns] == ["mul"]
    same(eval_jaxpr(smaller, [], X)[0], 3 * X)
    assert isinstance(closed.program, core.ClosedJaxpr) and not isinstance(3, core.ClosedJaxpr)
    same(eval_jaxpr(closed.program.jaxpr, closed.program.consts, X)[1], 3 * X)
    with pytest.raises(ValueError, match="takes 1 captured values and 1 arguments, got 0 and 1"):
        eval_jaxpr(jaxpr, [], X)
    with pytest.raises(TypeError, match="a Jaxpr has no part 'equations'"):
        jaxpr.replace(equations=[])
    with pytest.raises(TypeError, match="a Program has no part 'eqns'"):
        closed.program.replace(eqns=[])


def test_states_of_tracing_are_compared() -> None:
    outside = core.get_opaque_trace_state()
    assert outside == core.get_opaque_trace_state(convention="any")
    inside = []
    tg.jit(lambda x: inside.append(core.get_opaque_trace_state()) or x)(X)
    assert inside[0] != outside
    with pytest.raises(tg.errors.ConcretizationTypeError, match="the number of steps"):
        tg.jit(lambda n: core.concrete_or_error(int, n, "the number of steps must be static"))(3)
    assert core.concrete_or_error(int, jnp.asarray(3)) == 3


# What libraries rely on beside primitives


def test_shapes_are_enough_where_only_shapes_count() -> None:
    struct = tg.ShapeDtypeStruct((), np.float32)
    out = tg.eval_shape(lambda x: {"given": struct, "made": x + 1.0}, X.aval)
    assert out == {"given": struct, "made": tg.ShapeDtypeStruct((3,), np.float32)}
    (ct,) = tg.linear_transpose(lambda x: 2.0 * x, ShapedArray((3,), np.float32))(X)
    same(ct, 2 * X)


@pytest.mark.parametrize("negative", [True, False])
def test_numbers_among_residuals_stay_numbers(negative: bool) -> None:
    @tg.custom_vjp
    def f(x: Any) -> Any:
        return x * 3

    def bwd(residuals: Any, ct: Any) -> Any:
        negative, one, x = residuals
        assert type(negative) is bool and type(one) is int and isinstance(x, tg.Array)
        return ((-one if negative else one) * ct,)

    f.defvjp(lambda x: (f(x), (negative, 1, x)), bwd)
    for g in (tg.grad(f), tg.jit(tg.grad(f)), tg.grad(tg.jit(f))):
        assert float(g(2.0)) == (-1 if negative else 1)


def test_known_values_are_computed_while_tracing() -> None:
    @tg.jit
    def f(x: Any) -> Any:
        with tg.ensure_compile_time_eval():
            known = jnp.arange(3) + 1
            assert not isinstance(known, Tracer) and int(known[2]) == 3
            assert isinstance(x * 2, Tracer)
            assert int(tg.jit(lambda n: n * 2)(known)[0]) == 2
            return any_example_p.bind(x > 2.5) | any_example_p.bind(known > 5)

    assert bool(f(X)) and not bool(f(X[:2]))
    same(tg.grad(lambda x: x * (2 if f(X) else 1))(3.0), 2.0)


def test_static_data_without_hash_in_structures() -> None:
    class Layer:
        def __init__(self, weight: Any, names: list[str]):
            self.weight, self.names = weight, names

    tg.tree_util.register_pytree_node(Layer, lambda n: ((n.weight,), n.names), lambda names, xs: Layer(xs[0], names))
    traces: list[int] = []

    @tg.jit
    def f(layer: Layer) -> Any:
        traces.append(1)
        return layer.weight * len(layer.names)

    assert float(f(Layer(2.0, ["a"]))) == float(f(Layer(2.0, ["b"]))) == 2.0
    assert float(f(Layer(2.0, ["a", "b"]))) == 4.0 and float(f(Layer(3.0, ["a"]))) == 3.0
    assert len(traces) == 3


def test_which_values_are_differentiated() -> None:
    def f(x: Any, y: Any) -> Any:
        main = core.find_top_trace([x, y]).main
        mine = [isinstance(v, ad.JVPTracer) and v._trace.main is main for v in (x, y, x * y, y + 1, X)]
        assert mine == [True, False, True, False, False]
        return x * y

    tg.jvp(lambda x: f(x, X), (X,), (X,))
    tg.jvp(lambda y: tg.jvp(lambda x: f(x, X), (X,), (X,))[1] * y, (X,), (X,))


def test_names_of_jax_for_what_is_there() -> None:
    assert lax.sin_p is core.primitives.sin_p and tg.custom_derivatives.custom_jvp_call_p is core.primitives.custom_jvp_call_p
    with pytest.raises(AttributeError, match="tracegrad has no primitive 'frobnicate_p'"):
        lax.frobnicate_p  # noqa: B018
    assert isinstance(X.sharding, tg.sharding.Sharding)
    assert ShapedArray((2,), np.float32, weak_type=True).strip_weak_type() == ShapedArray((2,), np.float32)
    assert core.mapped_aval(3, 0, X.aval) == ShapedArray((), np.float32)
    assert core.unmapped_aval(2, 1, X.aval) == ShapedArray((3, 2), np.float32)
    with pytest.raises(ValueError, match="is not a batch of 2 along dimension 0"):
        core.mapped_aval(2, 0, X.aval)
    from tracegrad.experimental import io_callback

    assert io_callback is tg.io_callback
