"""What users are told when they differentiate, batch or loop over what cannot be: JAX's exception classes, words that name the thing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax
from tracegrad.errors import ConcretizationTypeError

ONE = np.float32(1)
X = np.array([0.5, 1, 2], np.float32)
Y = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
Z = np.array([1 + 2j, 3 - 1j], np.complex64)
N = np.arange(3, dtype=np.int32)
FLOAT0 = np.zeros(3, tg.float0)

Case = tuple[Any, type[Exception], str]


def square(x):
    return x * x


def check(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


GRADIENTS: list[Case] = [
    (lambda: tg.grad(square)(X), TypeError, r"scalar-output functions. square had an output of shape: \(3,\). Reduce it.*jacrev"),
    (lambda: tg.grad(square)(X[:1]), TypeError, r"had an output of shape: \(1,\)"),
    (lambda: tg.grad(lambda x: (x, x))(ONE), TypeError, r"returned a container: PyTreeDef\(\(\*, \*\)\).*has_aux=True"),
    (lambda: tg.grad(lambda x: None)(ONE), TypeError, "scalar-output functions.*None"),
    (lambda: tg.grad(lambda x: jnp.argmax(x))(X), TypeError, r"real-valued outputs.*returned i32\[\].*integer outputs, use vjp"),
    (lambda: tg.grad(lambda x: x * 1j)(ONE), TypeError, r"real-valued outputs.*returned c64\[\].*holomorphic=True"),
    (lambda: tg.grad(square)(3), TypeError, r"real- or complex-valued inputs.*but x is ~i32\[\].*allow_int=True"),
    (lambda: tg.grad(lambda p: p["w"][0])({"w": (N, X)}), TypeError, r"p\['w'\]\[0\] is i32\[3\]"),
    (lambda: tg.grad(square)("a"), TypeError, "x is 'a' of type str, which is not an array or a number"),
    (lambda: tg.grad(lambda x: "a")(ONE), TypeError, "returned 'a' of type str"),
    (lambda: tg.grad(jnp.exp, holomorphic=True)(ONE), TypeError, "inputs with complex dtype"),
    (lambda: tg.grad(jnp.abs, holomorphic=True)(Z[0]), TypeError, "outputs with complex dtype"),
    (lambda: tg.grad(square, argnums=1)(ONE), TypeError, "argnums=1 requires at least 2 positional arguments.*got only 1"),
    (lambda: tg.grad(square)(x=ONE), TypeError, "requires at least 1 positional arguments.*got only 0"),
    (lambda: tg.grad(square, argnums="x")(ONE), TypeError, "argnums must be an integer or a tuple of integers, got 'x'"),
    (lambda: tg.grad(square, argnums=()), TypeError, "argnums must name at least one argument"),
    (lambda: tg.grad(3), TypeError, "grad expects a function as its first argument, got 3 of type int"),
    (lambda: tg.grad(square, has_aux=True)(ONE), TypeError, r"square must return a pair .*, got an array f32\[\]"),
    (lambda: tg.grad(lambda x: (x, x, x), has_aux=True)(ONE), TypeError, "must return a pair .*, got a tuple of 3"),
]


@pytest.mark.parametrize(("call", "error", "message"), GRADIENTS)
def test_errors_of_gradients(call: Any, error: type[Exception], message: str) -> None:
    check(call, error, message)


TANGENTS: list[Case] = [
    (lambda: tg.jvp(square, X, X), TypeError, "must be tuples or lists; found ndarray and ndarray"),
    (lambda: tg.jvp(square, (X,), [X]), TypeError, "must have the same tree structure"),
    (lambda: tg.jvp(lambda a, b: a, (X, X), (X,)), TypeError, "must have the same tree structure"),
    (lambda: tg.jvp(lambda p: p["a"], ({"a": X},), ({"b": X},)), TypeError, r"same tree structure; (.|\n)*primals\[0\]"),
    (lambda: tg.jvp(square, (X,), (X[:2],)), ValueError, r"different primal and tangent shapes; x has shape \(3,\).*\(2,\)"),
    (lambda: tg.jvp(square, (X,), (N,)), TypeError, "dtypes must be equal.*x has dtype f32.*but got one of dtype int32"),
    (lambda: tg.jvp(square, (X,), (X.astype(np.float16),)), TypeError, "x has dtype f32.*dtype float16"),
    (lambda: tg.jvp(square, (N,), (N,)), TypeError, "x has dtype i32 and so expects a tangent of dtype float0, but got.*int32"),
    (lambda: tg.jvp(square, (X,), (FLOAT0,)), TypeError, "x has dtype f32.*float0"),
    (lambda: tg.jvp(square, (N,), (FLOAT0[:2],)), ValueError, r"x has shape \(3,\) and its tangent \(2,\)"),
    (lambda: tg.jvp(square, (Z,), (X[:2],)), TypeError, "x has dtype c64.*float32"),
    (lambda: tg.jvp(square, (X,), ("a",)), TypeError, "a tangent or cotangent is 'a' of type str"),
    (lambda: tg.jvp(square, (X,), (X,), has_aux=True), TypeError, r"must return a pair .*, got an array f32\[3\]"),
    (lambda: tg.jvp(3, (X,), (X,)), TypeError, "jvp expects a function"),
    (
        lambda: tg.linearize(square, X)[1](X[:2]),
        ValueError,
        r"linearized function called.*x has shape \(3,\) and its tangent \(2,\)",
    ),
    (lambda: tg.linearize(square, X)[1](N), ValueError, "linearized function do not match.*x has dtype f32.*int32"),
    (lambda: tg.linearize(lambda p: p["a"], {"a": X})[1]({"b": X}), TypeError, "tangents must have the structure of the primals"),
    (lambda: tg.linearize(lambda a, b: a, X, X)[1](X), TypeError, "tangents must have the structure of the primals"),
    (
        lambda: tg.vjp(square, X)[1](X[:2]),
        ValueError,
        r"output is f32\[3\], so its cotangent must be f32\[3\], but got float32\[2\]",
    ),
    (lambda: tg.vjp(square, X)[1](1.0), ValueError, r"cotangent must be f32\[3\], but got float32\[\]"),
    (lambda: tg.vjp(square, X)[1](N), ValueError, r"cotangent must be f32\[3\], but got int32\[3\]"),
    (lambda: tg.vjp(lambda x: {"a": x, "b": x}, X)[1]({"a": X, "b": Z}), ValueError, r"output\['b'\] is f32\[3\]"),
    (lambda: tg.vjp(lambda x: (x, x), X)[1](X), ValueError, "the cotangent must have the structure of the output"),
    (lambda: tg.vjp(lambda x: (x, x), X)[1]([X, X]), ValueError, "the cotangent must have the structure of the output"),
    (lambda: tg.vjp(lambda x: (x, x), X)[1](X, X), TypeError, "takes one argument, the cotangent of the output.*got 2"),
    (lambda: tg.vjp(square, "a"), TypeError, "vjp: x is 'a' of type str"),
    (lambda: tg.linear_transpose(jnp.sin, X)(X), NotImplementedError, "'sin' does not exist: it is not linear"),
    (lambda: tg.linear_transpose(square, X)(X), NotImplementedError, "'mul' takes one operand that is transposed"),
    (lambda: tg.linear_transpose(lambda x: 1 / x, X)(X), NotImplementedError, "not linear in the denominator"),
    (lambda: tg.linear_transpose(lambda x: 2 * x, X)(X[:2]), TypeError, r"cotangent of an output f32\[3\].*float32\[2\]"),
    (lambda: tg.linear_transpose(lambda x: (x, x), X)(X), TypeError, "must have the structure of the output"),
    (lambda: tg.linear_transpose(lambda x: x.astype(np.float32), N), TypeError, r"all floating point or complex.*i32\[3\]"),
]


@pytest.mark.parametrize(("call", "error", "message"), TANGENTS)
def test_tangents_and_cotangents(call: Any, error: type[Exception], message: str) -> None:
    check(call, error, message)


LOOPS: list[Case] = [
    (lambda: lax.scan(lambda c, x: (c.astype(np.float16), None), ONE, X), TypeError, r"carry goes in as f32\[\] and comes out as f16\[\]"),
    (
        lambda: lax.scan(lambda c, x: ((c[0], {"w": c[1]["w"][:2]}), None), (X, {"w": X}), X),
        TypeError,
        r"carry\[1\]\['w'\] goes in as f32\[3\] and comes out as f32\[2\]\nMake the initial value",
    ),
    (
        lambda: lax.scan(lambda c, x: ({"h": c["h"]}, None), {"h": X, "n": ONE}, X),
        TypeError,
        r"carry must keep its structure(.|\n)*at carry: .*'n'",
    ),
    (lambda: lax.scan(lambda c, x: ((c, c), None), ONE, X), TypeError, "the carry must keep its structure"),
    (lambda: lax.scan(lambda c, x: None, ONE, X), TypeError, r"must return a pair \(carry, y\), got None"),
    (lambda: lax.scan(lambda c, x: c, ONE, X), TypeError, r"must return a pair \(carry, y\), got an array f32\[\]"),
    (lambda: lax.scan(lambda c, x: (c, x, x), ONE, X), TypeError, r"must return a pair \(carry, y\), got a tuple of 3"),
    (lambda: lax.scan(lambda c, x: (c, None), ONE, {"a": X, "b": Y}), ValueError, r"different leading.*\n.*\['a'\]: f32\[3\]\n.*\['b'\]: f32\[2,3\]"),
    (lambda: lax.scan(lambda c, x: (c, None), ONE, (X, ONE)), ValueError, r"xs holds a scalar, xs\[1\]: f32\[\]"),
    (lambda: lax.scan(lambda c, x: (c, None), ONE, X, length=5), ValueError, r"length=5 does not agree .*\[3\]"),
    (lambda: lax.scan(lambda c, x: (c, None), ONE), ValueError, "needs xs or length"),
    (lambda: lax.scan(lambda c, x: (c, None), ONE, length=-1), ValueError, "length must not be negative, got -1"),
    (lambda: lax.scan(lambda c, x: (c, None), "a", X), TypeError, "initial carry: .*'a'"),
    (lambda: lax.scan(lambda c, x: (c, "s"), ONE, X), TypeError, "returned 's' of type str"),
    (lambda: lax.scan(3, ONE, X), TypeError, "must be callable, got 3"),
    (
        lambda: tg.jit(lambda n: lax.scan(lambda c, x: (c, None), ONE, length=n))(3),
        ConcretizationTypeError,
        "length must be concrete.*`n`",
    ),
    (lambda: lax.while_loop(lambda c: c.sum() < 3, lambda c: jnp.concatenate([c, c]), X), TypeError, r"goes in as f32\[3\] and comes out as f32\[6\]"),
    (
        lambda: lax.while_loop(lambda c: c["i"] < 3, lambda c: {"i": c["i"], "x": c["x"].astype(int)}, {"i": 0, "x": X}),
        TypeError,
        r"carry\['x'\] goes in as f32\[3\] and comes out as i32\[3\]",
    ),
    (lambda: lax.while_loop(lambda c: c < 3, lambda c: (c, c), 0), TypeError, "the carry must keep its structure"),
    (lambda: lax.while_loop(lambda c: c < 3, lambda c: c, X), TypeError, r"must return one scalar bool, got bool\[3\]"),
    (lambda: lax.while_loop(lambda c: c, lambda c: c - 1, 3), TypeError, r"must return one scalar bool, got ~i32\[\]"),
    (lambda: lax.while_loop(lambda c: (c < 3,), lambda c: c + 1, 0), TypeError, r"one scalar bool, got a container: PyTreeDef\(\(\*,\)\)"),
    (lambda: lax.while_loop(lambda c: None, lambda c: c, 0), TypeError, "must return one scalar bool, got nothing"),
    (lambda: lax.while_loop(True, lambda c: c, 0), TypeError, "must be callable"),
    (lambda: lax.fori_loop(0, 3, lambda i, c: jnp.stack([c, c]), ONE), TypeError, r"goes in as f32\[\] and comes out as f32\[2\]"),
    (lambda: lax.fori_loop(N, 3, lambda i, c: c, ONE), TypeError, r"bounds must be scalar integers, got i32\[3\]"),
    (lambda: lax.fori_loop(np.int32(0), np.int8(3), lambda i, c: c, ONE), TypeError, r"one dtype, got i32\[\] and i8\[\]"),
    (lambda: lax.map(square, (X, Y)), ValueError, r"lax.map: the arrays of xs have different leading dimensions"),
    (lambda: lax.map(square, (X, Y), batch_size=2), ValueError, r"lax.map: the arrays of xs have different leading dimensions"),
    (lambda: lax.associative_scan(jnp.add, (X, Y)), ValueError, r"must agree in the size of axis 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), LOOPS)
def test_errors_of_loops(call: Any, error: type[Exception], message: str) -> None:
    check(call, error, message)


def f16(x):
    return x.astype(np.float16)


BRANCHES: list[Case] = [
    (
        lambda: lax.cond(True, square, f16, X),
        TypeError,
        r"output is f16\[3\] in false_fun \(f16\) and f32\[3\] in true_fun \(square\)",
    ),
    (
        lambda: lax.cond(True, lambda x: {"u": x, "v": x}, lambda x: {"u": x, "v": x[0]}, X),
        TypeError,
        r"output\['v'\] is f32\[\] in false_fun .* and f32\[3\] in true_fun",
    ),
    (lambda: lax.cond(True, square, lambda x: (x, x), X), TypeError, r"same structure.*\(\*, \*\).*\n(.|\n)*at false_fun"),
    (lambda: lax.cond(True, lambda: 1, lambda: 1.0), TypeError, r"output is ~f32\[\] in false_fun"),
    (lambda: lax.cond(X > 0, square, square, X), TypeError, r"predicate must be a scalar, got bool\[3\]; use numpy.where"),
    (lambda: lax.cond("a", square, square, X), TypeError, "the predicate: 'str' is not an array or a number"),
    (lambda: lax.cond(None, square, square, X), TypeError, "the predicate: 'NoneType'"),
    (lambda: lax.cond(True, 3, square, X), TypeError, "true_fun and false_fun must be callable"),
    (lambda: lax.cond(True, square, square, "s"), TypeError, "an operand: 'str' is not an array or a number"),
    (
        lambda: lax.switch(0, [square, square, f16], X),
        TypeError,
        r"f32\[3\] in branches\[0\] \(square\) and f16\[3\] in branches\[2\]",
    ),
    (lambda: lax.switch(1.5, [square, square], X), TypeError, r"index must be a scalar integer, got ~f32\[\]"),
    (lambda: lax.switch(N, [square, square], X), TypeError, r"index must be a scalar integer, got i32\[3\]"),
    (lambda: lax.switch(0, [], X), ValueError, "non-empty"),
]


@pytest.mark.parametrize(("call", "error", "message"), BRANCHES)
def test_errors_of_branches(call: Any, error: type[Exception], message: str) -> None:
    check(call, error, message)


def test_numbers_are_predicates() -> None:
    assert float(lax.cond(1.5, lambda: 1.0, lambda: 2.0)) == 1
    assert float(lax.cond(np.float32(0), lambda: 1.0, lambda: 2.0)) == 2
    assert float(tg.jit(lambda p: lax.cond(p, lambda: 1.0, lambda: 2.0))(3)) == 1


def test_a_weak_carry_takes_the_type_that_the_body_gives_it() -> None:
    found = lax.fori_loop(0, 3, lambda i, c: c + 1.5, 0)
    assert found.dtype == np.float32 and not found.weak_type and float(found) == 4.5


BATCHES: list[Case] = [
    (lambda: tg.vmap(lambda a, b: a)(X, Y), ValueError, r"inconsistent sizes.*\n  a has size 3 along axis 0.*\n  b has size 2 along axis 0"),
    (lambda: tg.vmap(lambda p: p["a"])({"a": X, "b": Y}), ValueError, r"p\['a'\] has size 3.*\n  p\['b'\] has size 2"),
    (lambda: tg.vmap(lambda a, b: a)(X, b=Y), ValueError, r"a has size 3.*\n  b has size 2"),
    (lambda: tg.vmap(square, axis_size=4)(X), ValueError, r"x has size 3.*\n  axis_size is 4"),
    (lambda: tg.vmap(square)(ONE), ValueError, "argument x along axis 0, .*at least 1, but is only 0"),
    (lambda: tg.vmap(square, in_axes=1)(X), ValueError, "argument x along axis 1, .*at least 2, but is only 1"),
    (lambda: tg.vmap(square, in_axes=-2)(X), ValueError, "argument x along axis -2, .*at least 2, but is only 1"),
    (lambda: tg.vmap(square, in_axes=(0, 0))(X), ValueError, r"len\(in_axes\)=2, len\(args\)=1"),
    (lambda: tg.vmap(square, in_axes=({"a": 0},))((X,)), ValueError, "in_axes specification must be a tree prefix"),
    (lambda: tg.vmap(square, in_axes="a"), TypeError, "in_axes must be an int, None, or a tuple.*got 'a'"),
    (lambda: tg.vmap(square, in_axes=True), TypeError, "in_axes must be an int"),
    (lambda: tg.vmap(square, in_axes=None)(X), ValueError, "at least one non-None value in in_axes, or axis_size"),
    (lambda: tg.vmap(lambda: 1)(), ValueError, "at least one non-None value"),
    (lambda: tg.vmap(lambda x: {"u": x}, out_axes=None)(X), ValueError, r"mapped output\['u'\] but out_axes is None"),
    (lambda: tg.vmap(lambda x: (x, x), out_axes=(0, 0, 0))(X), ValueError, "out_axes specification must be a tree prefix"),
    (lambda: tg.vmap(lambda x: {"u": x, "v": x}, out_axes={"u": 0})(X), ValueError, "out_axes specification must be a tree prefix"),
    (lambda: tg.vmap(lambda x: (x, x), out_axes=(0, 1))(X), ValueError, r"out_axes: axis 1 does not exist in output\[1\], which has rank 1"),
    (lambda: tg.vmap(square, out_axes=-3)(Y), ValueError, "out_axes: axis -3 does not exist in output, which has rank 2"),
    (lambda: tg.vmap(square, out_axes="a"), TypeError, "out_axes must be an int, None.*'a'"),
    (lambda: tg.vmap(square, out_axes=0.0), TypeError, "out_axes must be an int, None.*0.0"),
    (lambda: tg.vmap(lambda x: "s")(X), TypeError, "returned 's' of type str as output"),
    (lambda: tg.vmap(lambda x, y: x)(X, "s"), TypeError, "vmap: y is 's' of type str"),
    (lambda: tg.vmap(lambda x: lax.psum(x, "j"), axis_name="i")(X), NameError, "unbound axis name: 'j'.*in scope here: 'i'"),
    (lambda: tg.vmap(3), TypeError, "vmap expects a function"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BATCHES)
def test_errors_of_batches(call: Any, error: type[Exception], message: str) -> None:
    check(call, error, message)


def test_what_is_not_mapped_may_be_anything() -> None:
    found = tg.vmap(lambda x, how: getattr(jnp, how)(x), in_axes=(0, None))(X, "square")
    np.testing.assert_array_equal(found, X**2)
