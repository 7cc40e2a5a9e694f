"""custom_jvp, custom_vjp and checkpoint under every transformation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from transform_harness import X, check_everywhere, close, numeric, program_of, scaled, scans_of, softly, staged

import tracegrad.numpy as jnp
import tracegrad.runtime.eager  # noqa: F401  installs the interpreter at the bottom
from tracegrad.ir.types import float0
from tracegrad.runtime.jit import jit
from tracegrad.tracer.control_flow import cond, scan, while_loop
from tracegrad.transforms.api import grad, jvp, linear_transpose, linearize, vjp
from tracegrad.transforms.checkpoint import checkpoint, checkpoint_name, checkpoint_policies
from tracegrad.transforms.custom import (
    SymbolicZero,
    custom_jvp,
    custom_vjp,
    custom_vjp_primal_tree_values,
    zero_from_primal,
)
from tracegrad.transforms.custom_gradient import closure_convert, custom_gradient
from tracegrad.transforms.jacobians import hessian, jacfwd, jacrev
from tracegrad.transforms.saved_residuals import saved_residuals
from tracegrad.transforms.vmap import vmap

pytestmark = pytest.mark.usefixtures("double_precision")


# custom_jvp


def test_custom_jvp_is_used_in_both_modes_and_to_any_order() -> None:
    @custom_jvp
    def f(x: Any) -> Any:
        return x**2

    @f.defjvp
    def f_jvp(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        return f(x), 10.0 * x * t  # wrong on purpose, so that it shows

    for g in (
        grad(f),
        jacfwd(f),
        staged(grad(f)),
        grad(staged(f)),
        grad(checkpoint(f)),
        lambda x: vmap(grad(f))(np.full(2, x))[0],
    ):
        close(g(3.0), 30.0)
    close(jvp(f, (3.0,), (1.0,))[1], 30.0)
    for h in (grad(grad(f)), jacfwd(grad(f)), staged(hessian(f))):
        close(h(3.0), 10.0)
    close(vmap(f)(X), X**2)
    close(grad(lambda x: vmap(f)(x).sum())(X), 10 * X)
    close(grad(lambda w: vmap(lambda x: f(w) * x)(X).sum())(2.0), 20.0 * X.sum())
    close(grad(lambda x: scan(lambda c, _: (f(c), None), x, None, length=2)[0])(1.5), 10 * 1.5 * 10 * 1.5**2)
    close(jacfwd(lambda x: while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, f(s[1])), (0, x))[1])(1.5), 100 * 1.5**3)


def test_custom_jvp_with_python_control_flow_on_concrete_values() -> None:
    @custom_jvp
    def f(x: Any) -> Any:
        return x if x > 0 else 0.0 * x

    @f.defjvp
    def f_jvp(primals: Any, tangents: Any) -> Any:
        return f(*primals), tangents[0] * (2.0 if primals[0] > 0 else 3.0)

    assert float(grad(f)(1.0)) == 2.0
    assert float(grad(f)(-1.0)) == 3.0
    assert float(jvp(f, (1.0,), (1.0,))[1]) == 2.0


def test_custom_jvp_with_pytrees_nondiff_arguments_and_defaults() -> None:
    @functools.partial(custom_jvp, nondiff_argnums=(0, 3))
    def f(g: Any, p: Any, y: Any, mode: str = "plain") -> Any:
        return {"out": g(p["a"]) * p["b"] * y}

    @f.defjvp
    def f_jvp(g: Any, mode: str, primals: Any, tangents: Any) -> Any:
        assert mode == "special"
        p, y = primals
        dp, dy = tangents
        out = f(g, p, y, mode)
        return out, {"out": g(p["a"]) * (dp["b"] * y + p["b"] * dy) + 100.0 * dp["a"]}

    p = {"a": X, "b": 2.0 * X}
    g = grad(lambda p, y: f(jnp.sin, p, mode="special", y=y)["out"].sum(), argnums=(0, 1))(p, X)
    close(g[0]["a"], np.full(3, 100.0))
    close(g[0]["b"], np.sin(X) * X)
    close(g[1], np.sin(X) * 2 * X)
    close(staged(vmap(lambda a: f(jnp.sin, {"a": a, "b": 2.0}, 3.0)["out"]))(X), np.sin(X) * 6)


def test_defjvps_with_none() -> None:
    @custom_jvp
    def f(x: Any, y: Any) -> Any:
        return jnp.sin(x) * y

    f.defjvps(lambda t, ans, x, y: jnp.cos(x) * t * y, None)
    gx, gy = grad(f, argnums=(0, 1))(0.3, 2.0)
    close(gx, np.cos(0.3) * 2)
    close(gy, 0.0)
    assert float(jvp(lambda y: f(0.3, y), (2.0,), (1.0,))[1]) == 0.0

    @custom_jvp
    def g(p: Any) -> Any:
        return jnp.sin(p["a"]), {"b": p["a"] * p["c"]}

    g.defjvps(lambda t, ans, p: (2.0 * t["a"], {"b": 3.0 * t["c"]}))
    out, dot = jvp(g, ({"a": 0.3, "c": 2.0},), ({"a": 1.0, "c": 10.0},))
    close(out[1]["b"], 0.6)
    close(dot[0], 2.0)
    close(dot[1]["b"], 30.0)
    g.defjvps(None)
    close(jvp(g, ({"a": 0.3, "c": 2.0},), ({"a": 1.0, "c": 10.0},))[1][1]["b"], 0.0)
    f.defjvps(lambda t, ans, x, y: t)
    with pytest.raises(ValueError, match="called with 2 arguments, but defjvps got 1 rules"):
        grad(f)(0.3, 2.0)
    with pytest.raises(TypeError, match="Can't use ``defjvps`` with ``nondiff_argnums``"):
        custom_jvp(lambda n, x: x, nondiff_argnums=0).defjvps(None)


def test_custom_jvp_symbolic_zeros() -> None:
    seen: list[list[str]] = []

    @custom_jvp
    def f(x: Any, y: Any, n: Any) -> Any:
        return jnp.sin(x) * y, x * n

    def rule(primals: Any, tangents: Any) -> Any:
        seen.append([type(t).__name__ for t in tangents])
        x, y, _ = primals
        assert all(t.shape == p.shape for t, p in zip(tangents, primals))
        assert tangents[2].dtype == float0
        dx = tangents[0] * y if not isinstance(tangents[0], SymbolicZero) else zero_from_primal(x)
        return f(*primals), (dx, SymbolicZero.from_primal_value(x))

    f.defjvp(rule, symbolic_zeros=True)
    x = jnp.asarray(X)
    out, dots = jvp(lambda x: f(x, 2.0 * x[0], 3), (x,), (X,))
    assert seen.pop()[::2] == ["ArrayImpl", "SymbolicZero"]
    close(dots[0], X * 2.0 * X[0])
    close(dots[1], np.zeros(3))
    g = grad(lambda x, y: f(x, y, 3)[0].sum())
    for h in (g, staged(g), lambda x, y: vmap(g, (0, None))(x[None], y)[0]):
        close(h(x, 2.0 * x), 2.0 * X)
        assert seen.pop()[1:] == ["SymbolicZero", "SymbolicZero"]


def test_zeros_of_primals() -> None:
    zeros = zero_from_primal({"x": X, "n": np.arange(2)})
    assert zeros["x"].dtype == X.dtype and zeros["n"].dtype == float0 and zeros["n"].shape == (2,)
    symbolic = zero_from_primal(X, symbolic_zeros=True)
    assert (symbolic.shape, symbolic.dtype, symbolic.ndim, symbolic.size, symbolic.weak_type) == ((3,), X.dtype, 1, 3, False)
    with pytest.raises(TypeError, match="CustomVJPPrimal"):
        custom_vjp_primal_tree_values([1.0])


def test_custom_jvp_rule_that_calls_transformed_functions() -> None:
    @custom_jvp
    def f(x: Any) -> Any:
        return scan(lambda c, t: (jnp.sin(c) * t, c), x, np.arange(1.0, 4.0))

    @f.defjvp
    def f_jvp(primals: Any, tangents: Any) -> Any:
        inner = staged(lambda x: scan(lambda c, t: (jnp.sin(c) * t, c), x, np.arange(1.0, 4.0)))
        return jvp(inner, primals, tangents)

    def total(x: Any) -> Any:
        c, ys = f(x)
        return c * ys.sum()

    # The rule mixes known and unknown operands in calls and loops: the known part is computed at once, so Python can look at it.
    close(grad(total)(0.4), numeric(total, 0.4), 1e-5)
    close(staged(grad(total))(0.4), numeric(total, 0.4), 1e-5)
    close(grad(grad(total))(0.4), numeric(grad(total), 0.4), 1e-4)


def test_custom_jvp_errors() -> None:
    @custom_jvp
    def f(x: Any) -> Any:
        return x

    with pytest.raises(AttributeError, match="No JVP defined for custom_jvp function f"):
        f(1.0)
    f.defjvp(lambda primals, tangents: 3)
    with pytest.raises(TypeError, match="must produce a pair"):
        grad(f)(1.0)
    f.defjvp(lambda primals, tangents: (primals[0], (tangents[0],)))
    with pytest.raises(TypeError, match="equal container"):
        grad(f)(1.0)
    f.defjvp(lambda primals, tangents: (primals[0], jnp.stack([tangents[0]] * 2)))
    with pytest.raises(TypeError, match=r"corresponding shapes and dtypes.*f64\[2\]"):
        grad(f)(1.0)
    f.defjvp(lambda primals, tangents: ((primals[0], 3), (tangents[0], 0)))
    with pytest.raises(TypeError, match=r"Expected float0\[\].*got.*i64\[\] at output\[1\]"):
        jvp(f, (1.0,), (1.0,))
    f.defjvp(lambda primals, tangents: (jnp.stack([primals[0]] * 2), jnp.stack([tangents[0]] * 2)))
    with pytest.raises(TypeError, match="same structure, shapes and dtypes"):
        jvp(staged(f), (1.0,), (1.0,))
    g = custom_jvp(lambda x, *, y: x)
    g.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
    with pytest.raises(TypeError, match="could not be resolved to positional-only arguments.*\n.*'y'"):
        g(1.0, y=2.0)
    with pytest.raises(TypeError, match="positional-only.*\n.*too many"):
        g(1.0, 2.0, 3.0)


def test_second_derivatives_of_custom_jvp_in_loops_follow_the_rule() -> None:
    @custom_jvp
    def f(x: Any, y: Any) -> Any:
        return jnp.sin(x) * y

    # The rule is not the derivative, so every order of differentiation must take it, and take it as often.
    f.defjvp(lambda p, t: (f(*p), 2.0 * jnp.cos(p[0]) * t[0] * p[1] + t[1]))

    def unrolled(x: Any) -> Any:
        c, total = x, 0.0
        for _ in range(2):
            total, c = total + f(x, c).sum(), f(c, x)
        return total

    def looped(x: Any) -> Any:
        return scan(lambda c, t: (f(c, t), f(t, c).sum()), x, jnp.stack([x, x]))[1].sum()

    want = jacfwd(jacfwd(unrolled))(X)
    for h in (hessian(looped), jacrev(jacfwd(looped)), jacrev(jacrev(looped)), jacfwd(jacfwd(looped)), staged(hessian(looped))):
        close(h(X), want)


# custom_vjp


def test_custom_vjp_under_every_transformation() -> None:
    def f(x: Any) -> Any:
        return scaled(x, x * x).sum()

    for g in (grad(f), staged(grad(f)), grad(staged(f)), grad(checkpoint(f)), jacrev(f)):
        close(g(X), numeric(f, X), 1e-5)
    close(vmap(grad(lambda x: scaled(x, 2.0 * x)))(X), numeric(lambda x: f2(x), X).diagonal(), 1e-5)
    close(grad(lambda x: vmap(lambda x: scaled(x, 2.0 * x))(x).sum())(X), numeric(lambda x: f2(x), X).diagonal(), 1e-5)
    # An argument shared by all examples gets the sum of their cotangents.
    close(grad(lambda w: vmap(lambda x: scaled(x, w))(X).sum())(2.0), np.sin(X).sum())
    close(staged(grad(staged(lambda w: vmap(lambda x: scaled(x, w))(X).sum())))(2.0), np.sin(X).sum())
    loop = lambda x: scan(lambda c, t: (scaled(c, x) + t, scaled(x, c * x)), x, np.arange(1.0, 4.0))[1].sum()  # noqa: E731
    for g in (grad(loop), staged(grad(loop)), grad(staged(loop)), lambda x: vmap(grad(loop))(x[None])[0]):
        close(g(X), numeric(loop, X), 1e-5)
    close(jacfwd(grad(f))(X), numeric(grad(f), X), 1e-5)
    close(hessian(f)(X), numeric(grad(f), X), 1e-5)
    branch = lambda x: cond(x.sum() > 0, lambda x: scaled(x, x), lambda x: x, x).sum()  # noqa: E731
    close(grad(branch)(X), numeric(branch, X), 1e-5)
    close(staged(grad(branch))(X), numeric(branch, X), 1e-5)


def f2(x: Any) -> Any:
    return jnp.sin(x) * 2.0 * x


def test_custom_vjp_is_used_and_sees_concrete_values() -> None:
    seen = []

    @custom_vjp
    def f(x: Any) -> Any:
        return x if x > 0 else -x

    def fwd(x: Any) -> Any:
        seen.append(float(x))
        return f(x), (x > 0, {"scale": 7.0})

    def bwd(res: Any, ct: Any) -> Any:
        positive, extra = res
        return ((extra["scale"] if positive else 9.0) * ct,)

    f.defvjp(fwd, bwd)
    assert float(grad(f)(2.0)) == 7.0
    assert float(grad(f)(-2.0)) == 9.0
    assert seen == [2.0, -2.0]


def test_custom_vjp_with_pytrees_nondiff_arguments_and_none() -> None:
    @functools.partial(custom_vjp, nondiff_argnums=(1,))
    def f(p: Any, n: int, y: Any, k: Any) -> Any:
        return {"out": p["a"] * n * y}, k

    def fwd(p: Any, n: int, y: Any, k: Any) -> Any:
        return f(p, n, y, k), (p["a"], y)

    def bwd(n: int, res: Any, ct: Any) -> Any:
        a, y = res
        assert ct[1].dtype == float0
        return {"a": ct[0]["out"] * n * y, "b": None}, None, None

    f.defvjp(fwd, bwd)
    p = {"a": X, "b": {"c": X}}
    g = grad(lambda p, y, k: f(p, 3, y, k)[0]["out"].sum(), argnums=(0, 1))(p, 2.0, 4)
    close(g[0]["a"], np.full(3, 6.0))
    close(g[0]["b"]["c"], np.zeros(3))
    close(g[1], 0.0)


def test_custom_vjp_symbolic_zeros() -> None:
    @custom_vjp
    def f(x: Any, y: Any) -> Any:
        return x * y, x + y

    def fwd(x: Any, y: Any) -> Any:
        assert x.perturbed and not y.perturbed
        return f(x.value, y.value), (x.value, y.value)

    def bwd(res: Any, cts: Any) -> Any:
        assert type(cts[1]).__name__ == "SymbolicZero" and cts[1].shape == (3,)
        return cts[0] * res[1], None

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    close(grad(lambda x: f(x, 2.0 * X)[0].sum())(X), 2.0 * X)
    close(staged(grad(lambda x: f(x, 2.0 * X)[0].sum()))(X), 2.0 * X)
    close(vmap(grad(lambda x, y: f(x, y)[0].sum()), (0, None))(X[None], 2.0 * X)[0], 2.0 * X)
    loop = lambda x: scan(lambda c, t: (f(c, t)[0], None), x, np.stack([X, 2.0 * X]))[0].sum()  # noqa: E731
    for g in (grad(loop), grad(checkpoint(loop)), staged(grad(loop))):
        close(g(X), 2.0 * X * X)
    branch = lambda x: cond(x.sum() > 0, lambda x: f(x, X)[0], lambda x: x, x).sum()  # noqa: E731
    close(grad(branch)(X), X)


def test_custom_vjp_symbolic_zeros_with_pytrees_and_arguments_that_are_not_differentiated() -> None:
    @functools.partial(custom_vjp, nondiff_argnums=(1,))
    def f(p: Any, n: int, y: Any) -> Any:
        return p["a"] * n * y

    def fwd(p: Any, n: int, y: Any) -> Any:
        assert n == 2  # as it is: there is nothing to say about its derivative
        assert (p["a"].perturbed, p["b"].perturbed, y.perturbed) == (True, False, False)
        p, y = custom_vjp_primal_tree_values((p, y))
        return f(p, n, y), y

    f.defvjp(fwd, lambda n, y, ct: ({"a": ct * y * n, "b": zero_from_primal(y, True)}, None), symbolic_zeros=True)
    close(grad(lambda a: f({"a": a, "b": 1.0}, 2, 4.0))(3.0), 8.0)


def test_custom_vjp_has_no_forward_mode() -> None:
    def square(x: Any) -> Any:
        return scaled(x, x)

    _, linear = linearize(square, 1.0)
    for g in (
        lambda: jvp(square, (1.0,), (1.0,)),
        lambda: jacfwd(staged(square))(1.0),
        lambda: linear(1.0),
        lambda: jit(linear)(1.0),
        lambda: vmap(linear)(np.ones(2)),
        lambda: jvp(linear, (1.0,), (1.0,)),
    ):
        with pytest.raises(TypeError, match=r"can't apply forward-mode autodiff \(jvp\) to a custom_vjp function"):
            g()
    np.testing.assert_allclose(linear_transpose(linear, 1.0)(2.0)[0], 2 * (np.cos(1.0) + np.sin(1.0)), rtol=1e-6)


def test_custom_vjp_errors() -> None:
    @custom_vjp
    def f(x: Any) -> Any:
        return x

    with pytest.raises(AttributeError, match="No VJP defined for custom_vjp function f"):
        f(1.0)
    f.defvjp(lambda x: x, lambda res, ct: (ct,))
    with pytest.raises(TypeError, match="fwd rule .* must produce a pair"):
        grad(f)(1.0)
    f.defvjp(lambda x: (x, None), lambda res, ct: ct)
    with pytest.raises(TypeError, match="tuple of length 1"):
        grad(f)(1.0)
    f.defvjp(lambda x: (x, None), lambda res, ct: (jnp.stack([ct, ct]),))
    with pytest.raises(ValueError, match=r"shape/dtype f64\[2\]"):
        grad(f)(1.0)
    f.defvjp(lambda x: (x, "text"), lambda res, ct: (ct,))
    with pytest.raises(TypeError, match="residual.* is 'text'"):
        grad(f)(1.0)
    f.defvjp(lambda x: (jnp.stack([x, x]), None), lambda res, ct: (ct[0],))
    with pytest.raises(TypeError, match=r"VJP fwd rule.*same structure, shapes and dtypes.*\n.*f64\[2\]"):
        grad(lambda x: staged(f)(x).sum())(1.0)
    with pytest.raises(TypeError, match="could not be resolved to positional-only arguments"):
        f(1.0, z=3)


def test_custom_gradient_and_closure_convert() -> None:
    @custom_gradient
    def f(x: Any) -> Any:
        y = jnp.sin(x)
        return y, lambda ct: 5.0 * y * ct

    close(f(0.5), np.sin(0.5))
    close(grad(f)(0.5), 5 * np.sin(0.5))
    close(staged(grad(f))(0.5), 5 * np.sin(0.5))
    close(vmap(grad(f))(X), 5 * np.sin(X))

    def outer(w: Any) -> Any:
        inner, consts = closure_convert(lambda x: x * w * 2.0, 1.0)
        assert len(consts) == 1
        return inner(3.0, *consts)

    close(grad(outer)(1.0), 6.0)
    wrong, values = closure_convert(lambda x: x, 1.0)
    with pytest.raises(TypeError, match="takes 1 arguments and then the 0 values"):
        wrong(1.0, 2.0)


def test_custom_gradient_of_containers_keywords_and_loops() -> None:
    @custom_gradient
    def f(p: Any, n: Any = 2) -> Any:
        return {"out": p["a"] * n}, lambda ct: ({"a": 7.0 * ct["out"] * n}, None)

    close(grad(lambda p: f(p)["out"])({"a": 1.0})["a"], 14.0)
    close(grad(lambda p: f(p, n=3)["out"])({"a": 1.0})["a"], 21.0)
    g = custom_gradient(lambda x: (jnp.sin(x), lambda ct: 5.0 * jnp.sin(x) * ct))
    loop = lambda x: scan(lambda c, _: (g(c), None), x, None, length=2)[0]  # noqa: E731
    for h in (grad(loop), staged(grad(loop))):
        close(h(0.3), 25.0 * np.sin(np.sin(0.3)) * np.sin(0.3))
    close(grad(grad(g))(0.5), 5.0 * np.cos(0.5))


def test_custom_functions_as_methods_and_with_docs() -> None:
    class Model:
        scale = 3.0

        @functools.partial(custom_jvp, nondiff_argnums=(0,))
        def apply(self, x: Any) -> Any:
            """Scale."""
            return x * self.scale

        @apply.defjvp
        def _(self, primals: Any, tangents: Any) -> Any:
            return self.apply(*primals), tangents[0] * 11.0

    assert float(grad(Model().apply)(1.0)) == 11.0
    assert Model.apply.__doc__ == "Scale."
    assert softly.__name__ == "softly"


# checkpoint


def layer(x: Any) -> Any:
    return jnp.sin(checkpoint_name(jnp.cos(x * x), "inner")) * x


def names(program: Any) -> list[str]:
    return [e.primitive.name for e in program.walk()]


def test_checkpoint_recomputes_in_the_backward_pass() -> None:
    plain = names(program_of(grad(lambda x: layer(x).sum()), X))
    again = names(program_of(grad(lambda x: checkpoint(layer)(x).sum()), X))
    assert plain.count("cos") + 1 <= again.count("cos")
    assert "optimization_barrier" in again
    assert "optimization_barrier" not in names(program_of(grad(lambda x: checkpoint(layer, prevent_cse=False)(x).sum()), X))


@pytest.mark.parametrize(
    "policy, kept",
    [
        (None, 1),
        (checkpoint_policies.nothing_saveable, 1),
        (checkpoint_policies.save_only_these_names("inner"), 2),
        (checkpoint_policies.save_only_these_names("other"), 1),
        (checkpoint_policies.dots_saveable, 1),
    ],
)  # fmt: skip
def test_checkpoint_policies_say_what_is_saved(policy: Any, kept: int) -> None:
    f = lambda x: checkpoint(layer, policy=policy)(x).sum()  # noqa: E731
    assert len(saved_residuals(f, X)) == kept
    close(grad(f)(X), numeric(f, X), 1e-5)
    check_everywhere(f, X)


def test_dots_policy_saves_products() -> None:
    def f(w: Any) -> Any:
        return jnp.sin(w @ jnp.sin(w @ X)).sum()

    w = np.arange(9.0).reshape(3, 3) / 9
    types = [t.shape for t, _ in saved_residuals(lambda w: checkpoint(f, policy=checkpoint_policies.dots_saveable)(w), w)]
    assert types.count((3,)) == 3 and types.count((3, 3)) == 1  # X and two products; w
    g = grad(checkpoint(f, policy=checkpoint_policies.dots_with_no_batch_dims_saveable))
    close(g(w), numeric(f, w), 1e-5)


def test_checkpoint_with_static_arguments_and_aux() -> None:
    f = checkpoint(lambda n, x: {"y": x**n}, static_argnums=0)
    close(grad(lambda x: f(3, x)["y"])(2.0), 12.0)
    close(grad(lambda x: checkpoint(lambda x, *, k: x * k)(x, k=2.0))(1.0), 2.0)


def test_checkpointed_scan_keeps_only_the_carries() -> None:
    def f(x: Any) -> Any:
        step = checkpoint(lambda c, t: (jnp.sin(jnp.exp(jnp.cos(c) * t)), None), prevent_cse=False)
        return scan(step, x, np.arange(1.0, 5.0))[0].sum()

    forward, reverse = scans_of(program_of(grad(f), X))
    assert len(forward.outputs) == 2
    close(grad(f)(X), numeric(f, X), 1e-4)
    close(linearize(f, X)[1](X), numeric(f, X) @ X, 1e-4)
    close(vjp(f, X)[1](1.0)[0], numeric(f, X), 1e-4)


@pytest.mark.parametrize("policy", [None, checkpoint_policies.dots_saveable, checkpoint_policies.everything_saveable])
def test_checkpoint_of_a_call_inside_a_custom_jvp_rule(policy: Any) -> None:
    """There the forward derivative of the checkpointed function is split: the call in it computes both what is known and what is not."""
    inner = jit(lambda y, z: {"a": jnp.sin(y) * z, "b": y})

    def f(x: Any) -> Any:
        return checkpoint(lambda y: jnp.cos(inner(y, x)["a"]), policy=policy)(x) * x

    g = custom_jvp(f)
    g.defjvp(lambda primals, tangents: jvp(f, primals, tangents))
    want = numeric(f, X)
    for d in (jacrev(g), staged(jacrev(g)), jacfwd(g), jacrev(staged(g)), jacrev(vmap(g, axis_size=1, in_axes=None))):
        close(np.asarray(d(X)).reshape(3, 3), want, 1e-5)


@pytest.mark.parametrize("policy", [None, checkpoint_policies.dots_saveable, checkpoint_policies.everything_saveable])
def test_policies_keep_the_rules_of_custom_functions_for_further_derivatives(policy: Any) -> None:
    forward = custom_jvp(lambda x: x * x)
    forward.defjvp(lambda primals, tangents: (forward(primals[0]), 5 * forward(primals[0]) * tangents[0]))
    reverse = custom_vjp(lambda x: x * x)
    reverse.defvjp(lambda x: (reverse(x), x), lambda x, ct: (5 * reverse(x) * ct,))
    for f in (forward, reverse):
        g = checkpoint(lambda x, f=f: f(x), policy=policy)
        # The rules say that the derivative of x^2 is 5 x^2: the second one is 25 x^2.
        for second in (grad(grad(g)), staged(grad(grad(g))), grad(staged(grad(g)))):
            close(second(3.0), 225.0)
    solve = checkpoint(lambda x: jnp.linalg.solve(3 * jnp.eye(3) + jnp.outer(x, x), x), policy=policy)
    close(hessian(lambda x: solve(x).sum())(X), numeric(grad(lambda x: solve(x).sum()), X), 1e-5)
