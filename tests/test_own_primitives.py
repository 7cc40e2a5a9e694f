"""Primitives that users define: they work wherever ours do, and programs show them, with whatever objects they have as parameters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_primitive_harness import X, Y, Z, fma, fma_p, plain, same, used
from process_harness import python

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.extend import core
from tracegrad.interpreters import ad, mlir, xla
from tracegrad.ir.config import config
from tracegrad.ir.parser import ParseError, parse
from tracegrad.ir.primitive import REGISTRY
from tracegrad.runtime import cache
from tracegrad.transforms.pipeline import optimize


def test_applied_at_once_it_is_its_implementation() -> None:
    used.clear()
    out = fma(X, Y, Z)
    assert isinstance(out, tg.Array) and used == ["impl"]
    same(out, plain(X, Y, Z))
    assert fma(2.0, 3.0, 1.0) == 7.0


def test_compiled_it_is_its_lowering() -> None:
    used.clear()
    same(tg.jit(fma)(X, Y, Z), plain(X, Y, Z))
    assert used == []


@pytest.mark.parametrize("wrap", [lambda f: f, tg.jit], ids=["eager", "jit"])
def test_derivatives_and_batches(wrap: Any) -> None:
    def loss(f: Any) -> Any:
        return lambda x, y, z: jnp.sum(jnp.sin(f(f(x, y, z), y, x)))

    args = (X, Y, Z)
    same(tg.jvp(wrap(loss(fma)), args, args)[1], tg.jvp(loss(plain), args, args)[1])
    for a, b in zip(wrap(tg.grad(loss(fma), (0, 1, 2)))(*args), tg.grad(loss(plain), (0, 1, 2))(*args)):
        same(a, b)
    same(wrap(tg.hessian(loss(fma)))(*args), tg.hessian(loss(plain))(*args))
    rows = jnp.stack([X, Y, Z])
    same(wrap(tg.vmap(fma, (0, None, 1), 1))(rows, Y, rows), tg.vmap(plain, (0, None, 1), 1)(rows, Y, rows))
    same(
        wrap(tg.vmap(tg.grad(loss(fma)), (0, None, None)))(rows, Y, Z), tg.vmap(tg.grad(loss(plain)), (0, None, None))(rows, Y, Z)
    )
    same(wrap(tg.grad(lambda x: tg.vmap(fma)(x, rows, rows).sum()))(rows), rows)


def in_scan(f: Any, x: Any) -> Any:
    return lax.scan(lambda c, y: (f(c, y, c), f(y, c, y)), x, jnp.stack([Y, Z]) / 9)[0].sum()


def in_cond(f: Any, x: Any) -> Any:
    return lax.cond(x[0] > 0, lambda x: f(x, x, Y), lambda x: f(x, Y, x), x).sum()


def in_while(f: Any, x: Any) -> Any:
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, f(c[1], Y, Z) / 5), (0, x))[1].sum()


def in_checkpoint(f: Any, x: Any) -> Any:
    return jnp.sum(tg.checkpoint(lambda x: jnp.sin(f(x, x, Y)))(x))


def in_jit(f: Any, x: Any) -> Any:
    return jnp.sum(tg.jit(lambda x: f(x, x, Y))(x))


def in_custom_jvp(f: Any, x: Any) -> Any:
    @tg.custom_jvp
    def g(x: Any) -> Any:
        return f(x, x, Y)

    g.defjvp(lambda primals, tangents: (g(*primals), f(*primals, *tangents, Z) - Z))
    return g(x).sum()


@pytest.mark.parametrize("program", [in_scan, in_cond, in_while, in_checkpoint, in_jit, in_custom_jvp], ids=lambda f: f.__name__)
def test_inside_control_flow(program: Any) -> None:
    ours, reference = partial(program, fma), partial(program, plain)
    for run in (ours, tg.jit(ours)):
        same(run(X), reference(X))
        same(tg.jvp(run, (X,), (Y,))[1], tg.jvp(reference, (X,), (Y,))[1])
        same(tg.vmap(run)(jnp.stack([X, -Y])), tg.vmap(reference)(jnp.stack([X, -Y])))
    if program is not in_while:
        same(tg.grad(ours)(X), tg.grad(reference)(X))
        same(tg.jit(tg.grad(ours))(X), tg.grad(reference)(X))
    with tg.disable_jit():
        same(ours(X), reference(X))


# What a program says


def test_a_program_shows_it_and_reads_back() -> None:
    program = tg.make_ir(partial(in_scan, fma))(X)
    assert "fused_multiply_add %" in str(program)
    assert parse(str(program)) == program
    (eqn,) = tg.make_jaxpr(fma)(X, Y, Z).eqns
    assert eqn.primitive is fma_p and eqn.primitive.name == "fused_multiply_add"
    assert "fused_multiply_add" not in tg.jit(partial(in_scan, fma)).lower(X).as_text("optimized")


def test_names_are_unique() -> None:
    first, second, ours = core.Primitive("twin"), core.Primitive("twin"), core.Primitive("add")
    assert (first.name, second.name) == ("twin", "twin.2") and ours.name.startswith("add.")
    assert REGISTRY["add"] is core.primitives.add_p is not ours
    for k, p in enumerate((first, second, ours), 2):
        p.def_abstract_eval(lambda t: t)
        mlir.register_lowering(p, mlir.lower_fun(lambda x, k=k: x * k, multiple_results=False))
    programs = [tg.make_ir(p.bind)(X) for p in (first, second, ours)]
    assert len(set(programs)) == 3
    assert [parse(str(p)) for p in programs] == programs
    for k, p in enumerate((first, second, ours), 2):
        same(tg.jit(p.bind)(X), X * k)
        same(p.bind(X), X * k)  # without an implementation, what its lowering computes


@pytest.mark.parametrize("name", ["return", "const", "with space", 'a "quoted" one', "yield", "λ", "true", "2nd"])
def test_any_name_reads_back(name: str) -> None:
    p = core.Primitive(name)
    p.def_abstract_eval(lambda *ts, **_: ts[0])
    program = tg.make_ir(lambda x: p.bind(p.bind(x, 1.0, n=3), x))(X)
    assert parse(str(program)) == program


def test_a_name_is_a_string() -> None:
    with pytest.raises(TypeError, match="the name of a primitive is a string"):
        core.Primitive(3)  # type: ignore[arg-type]


def test_the_text_of_an_unknown_primitive_is_refused() -> None:
    p = core.Primitive("short_lived")
    p.def_abstract_eval(lambda t: t)
    text = str(tg.make_ir(p.bind)(X))
    with pytest.raises(ParseError, match="there is no primitive 'short_dead'"):
        parse(text.replace("short_lived", "short_dead"))


# Parameters that are Python objects

apply_p = core.Primitive("apply")
apply_p.def_impl(lambda x, *, function, **_: function(x))
apply_p.def_abstract_eval(lambda t, *, function, **_: t)
mlir.register_lowering(apply_p, mlir.lower_fun(lambda x, *, function, **_: function(x), multiple_results=False))
ad.primitive_jvps[apply_p] = lambda primals, tangents, **params: tg.jvp(partial(apply_p.impl, **params), primals, tangents)


class Times:
    """Two of these look the same."""

    def __init__(self, k: float):
        self.k = k

    def __call__(self, x: Any) -> Any:
        return x * self.k

    def __repr__(self) -> str:
        return "Times()"


class EqualTimes(Times):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualTimes) and self.k == other.k

    def __hash__(self) -> int:
        return hash(self.k)


def applied(function: Any, **params: Any) -> Any:
    return lambda x: apply_p.bind(x, function=function, **params)


def test_objects_that_look_alike_are_different_parameters() -> None:
    two, three = Times(2.0), Times(3.0)
    programs = [tg.make_ir(applied(f))(X) for f in (two, three)]
    assert programs[0] != programs[1]
    assert [parse(str(p)) for p in programs] == programs
    for f in (two, three):
        same(tg.jit(applied(f))(X), f(X))
        same(lax.scan(lambda c, _, f=f: (applied(f)(c), None), X, None, 2)[0], f(f(X)))
        same(tg.grad(lambda x, f=f: applied(f)(x).sum())(X), jnp.full(3, f.k))


def test_equal_objects_are_one_parameter() -> None:
    same_program = tg.make_ir(applied(EqualTimes(2.0)))(X) == tg.make_ir(applied(EqualTimes(2.0)))(X)
    assert same_program
    assert tg.make_ir(applied(EqualTimes(2.0)))(X) != tg.make_ir(applied(EqualTimes(3.0)))(X)


def test_equal_values_of_different_types_are_different_parameters() -> None:
    programs = [tg.make_ir(applied(jnp.sin, flag=v))(X) for v in (1, True, 1.0, (1,), (True,), np.float32(1))]
    assert len(set(programs)) == 6
    assert [parse(str(p)) for p in programs] == programs
    p = core.Primitive("typed")
    p.def_abstract_eval(lambda t, *, flag: t)
    p.def_impl(partial(xla.apply_primitive, p))
    mlir.register_lowering(p, mlir.lower_fun(lambda x, *, flag: x + (10 if flag is True else 20), multiple_results=False))
    same(p.bind(X, flag=1), X + 20)
    same(p.bind(X, flag=True), X + 10)


def test_structures_functions_and_data_as_parameters() -> None:
    tree = tg.tree.structure({"a": 0, "b": [0, 0]})
    params = dict(tree=tree, pair=(jnp.sin, "text", (tree, 2.5)), dtype=np.dtype(np.float32), nothing=None, kind=np.float32)
    program = tg.make_ir(applied(jnp.sin, **params))(X)
    again = parse(str(program))
    assert again == program
    assert again.equations[0].params == {"function": jnp.sin, **params}
    same(tg.jit(applied(jnp.sin, **params))(X), jnp.sin(X))


def test_the_text_of_a_dead_object_is_refused() -> None:
    text = str(tg.make_ir(applied(Times(2.0)))(X))
    with pytest.raises(ParseError, match="is not alive in this process"):
        parse(text)


def test_a_parameter_without_hash_is_refused_when_traced() -> None:
    same(applied(lambda x: x, extra=[1])(X), X)
    with pytest.raises(
        TypeError, match=r"the parameter 'extra' of the primitive 'apply' is \[1\] of type list, which has no hash"
    ):
        tg.make_ir(applied(lambda x: x, extra=[1]))(X)


def test_a_program_as_a_parameter_is_a_region() -> None:
    body = tg.make_ir(lambda x: jnp.sin(x) * 2)(X)
    p = core.Primitive("twice")
    p.def_abstract_eval(lambda t, *, body: t)

    def twice(x: Any, *, body: Any) -> Any:
        for _ in range(2):
            (x,) = core.jaxpr_as_fun(body)(x)
        return x

    mlir.register_lowering(p, mlir.lower_fun(twice, multiple_results=False))
    program = tg.make_ir(lambda x: p.bind(x, body=body))(X)
    assert "body @" in str(program) and parse(str(program)) == program
    expected = 2 * jnp.sin(2 * jnp.sin(X))
    same(tg.jit(lambda x: p.bind(x, body=body))(X), expected)
    same(p.bind(X, body=body), expected)


# The disk cache


def test_the_disk_cache_depends_on_the_lowered_program_alone(tmp_path: Path) -> None:
    def key(f: Any) -> str | None:
        program = optimize(tg.make_ir(f)(X))
        assert not any(e.primitive.impl is not None for e in program.walk())
        return cache.key(program)

    assert key(fma_like("one", 2.0)) == key(fma_like("two", 2.0)) != key(fma_like("one", 3.0))
    assert key(applied(Times(2.0))) == key(applied(Times(2.0))) == key(lambda x: x * 2.0)
    with config.override("cache", True), config.override("cache_dir", str(tmp_path)):
        for k in (2.0, 3.0, 2.0):
            same(tg.jit(fma_like("stored", k))(X), X * k)
    assert len(list(tmp_path.rglob("*.tgo"))) == 2


def fma_like(name: str, k: float) -> Any:
    p = core.Primitive(name)
    p.def_abstract_eval(lambda t: t)
    mlir.register_lowering(p, mlir.lower_fun(lambda x: x * k, multiple_results=False))
    return p.bind


def test_a_name_of_an_object_means_one_process() -> None:
    code = "import tracegrad as tg; from tracegrad.ir.references import reference_to; print(reference_to(tg.jit).identity)"
    assert python(code) != python(code)


def test_it_costs_nothing_until_it_is_used() -> None:
    code = "import sys, tracegrad; print([m for m in sys.modules if m.startswith(('tracegrad.interp', 'tracegrad.extend'))])"
    assert python(code) == "[]\n"
    assert tg.interpreters.ad is ad and tg.extend.core is core
