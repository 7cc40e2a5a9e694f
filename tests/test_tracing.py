"""Tracing: what is recorded, what is captured, and what is refused in which words."""

from __future__ import annotations

import numpy as np
import pytest

from tracegrad.ir import ops
from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.parser import parse
from tracegrad.ir.verify import verify
from tracegrad.tracer import errors
from tracegrad.tracer.abstract import ShapeDtypeStruct, eval_shape, make_ir
from tracegrad.tracer.control_flow import associative_scan, cond, fori_loop, scan, switch, while_loop

F = np.float32


def traced(f, *args):  # type: ignore[no-untyped-def]
    """The program of f, checked and round-tripped."""
    program = verify(make_ir(f)(*args))
    assert parse(str(program)) == program
    return program


def values(f, *args):  # type: ignore[no-untyped-def]
    return evaluate(traced(f, *args), *[np.asarray(a) for a in args])


def test_side_effects_happen_once_per_trace() -> None:
    calls = []

    def f(x):  # type: ignore[no-untyped-def]
        calls.append(1)
        return ops.sin(x)

    make_ir(f)(np.ones(3, F))
    assert calls == [1]


def test_arguments_keep_their_names_and_containers_give_paths() -> None:
    program = traced(lambda params, x: ops.mul(params["w"], x), {"w": F(2), "b": [F(1)]}, F(3))
    assert [v.name for v in program.inputs] == ["params['b'][0]", "params['w']", "x"]


def test_closed_over_arrays_become_constants_once() -> None:
    c = np.arange(4, dtype=F)
    program = traced(lambda x: ops.add(ops.mul(x, c), c), np.ones(4, F))
    assert len(program.constants) == 1
    np.testing.assert_array_equal(program.constants[0].value, c)


def test_closures_of_loop_bodies_become_operands() -> None:
    def f(x, w):  # type: ignore[no-untyped-def]
        return scan(lambda c, s: (ops.mul(c, w), ops.add(c, s)), x, np.arange(4, dtype=F))

    program = traced(f, F(1), F(2))
    (eqn,) = [e for e in program.equations if e.primitive.name == "scan"]
    assert eqn.params["num_consts"] == 1 and eqn.inputs[0] is program.inputs[1]
    carry, ys = evaluate(program, F(1), F(2))
    assert carry == 16
    np.testing.assert_array_equal(ys, [1, 3, 6, 11])


def test_scan_in_reverse_and_over_containers() -> None:
    xs = {"a": np.arange(3, dtype=F), "b": np.ones((3, 2), F)}
    out = values(lambda c: scan(lambda c, x: (ops.add(c, x["a"]), ops.mul(x["b"], c)), c, xs, reverse=True), F(0))
    assert out[0] == 3
    np.testing.assert_array_equal(out[1], [[3, 3], [2, 2], [0, 0]])


def test_weak_carries_take_the_type_that_the_body_gives_them() -> None:
    def f(x):  # type: ignore[no-untyped-def]
        return scan(lambda c, _: (ops.add(ops.convert_element_type(c, np.dtype(F), False), x), None), 0, None, length=3)[0]

    assert values(f, F(0.5))[0] == 1.5


def test_while_loop_and_fori_loop_with_traced_bounds() -> None:
    assert (
        values(
            lambda n: while_loop(lambda s: ops.lt(s[0], n), lambda s: (ops.add(s[0], 1), ops.mul(s[1], 2)), (0, 1)), np.int32(5)
        )[1]
        == 32
    )
    assert values(lambda n: fori_loop(0, n, lambda i, x: ops.add(x, i), 0), np.int32(5))[0] == 10
    assert (
        values(lambda x: fori_loop(2, 5, lambda i, x: ops.add(x, ops.convert_element_type(i, np.dtype(F), False)), x), F(0))[0]
        == 9
    )
    assert values(lambda x: fori_loop(5, 2, lambda i, x: ops.add(x, 1), x), F(7))[0] == 7


def test_fori_loop_with_known_bounds_is_a_scan() -> None:
    program = traced(lambda x: fori_loop(0, 3, lambda i, x: ops.sin(x), x), F(1))
    assert [e.primitive.name for e in program.equations if e.primitive.regions] == ["scan"]


def test_the_body_of_a_fori_loop_is_traced_once_and_its_counter_is_weak() -> None:
    seen = []
    values(lambda x: fori_loop(0, 3, lambda i, x: seen.append(i.aval) or ops.sin(x), x), F(1))
    assert [str(t) for t in seen] == ["~i32[]"]
    seen.clear()
    values(lambda x: fori_loop(np.int8(0), np.int8(3), lambda i, x: seen.append(i.aval) or ops.sin(x), x), F(1))
    assert [str(t) for t in seen] == ["i8[]"]


def test_cond_and_switch_take_closures_and_clamp() -> None:
    def f(i, x):  # type: ignore[no-untyped-def]
        y = ops.mul(x, 10)
        a = cond(ops.gt(x, 0), lambda: y, lambda: ops.neg(x))
        return a, switch(i, [lambda u: u, lambda u: ops.add(u, y), lambda u: ops.mul(u, 3)], x)

    assert values(f, np.int32(1), F(2)) == (20, 22)
    assert values(f, np.int32(-4), F(-2)) == (2, -2)
    assert values(f, np.int32(9), F(2)) == (20, 6)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("reverse", [False, True])
def test_associative_scan_is_the_cumulative_operation(n: int, reverse: bool) -> None:
    x = np.random.default_rng(n).normal(size=(n, 2))
    with config.override("enable_x64", True):
        got = values(lambda x: associative_scan(ops.add, x, reverse=reverse), x)[0]
    want = np.cumsum(x[::-1], 0)[::-1] if reverse else np.cumsum(x, 0)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_eval_shape_runs_nothing() -> None:
    out = eval_shape(lambda x, y: {"s": ops.mul(x, y), "n": 1}, ShapeDtypeStruct((1000000, 1000000), F), 2.0)
    assert out == {"s": ShapeDtypeStruct((1000000, 1000000), F), "n": ShapeDtypeStruct((), np.int32, weak_type=True)}


REFUSALS = {
    "if": (lambda x: 1 if x > 0 else 2, errors.TracerBoolConversionError, "lax.cond"),
    "int": (lambda x: int(x), errors.ConcretizationTypeError, "static_argnums"),
    "float": (lambda x: float(x), errors.ConcretizationTypeError, "debug.print"),
    "range": (lambda x: list(range(x)), errors.TracerIntegerConversionError, "fori_loop"),
    "numpy": (lambda x: np.asarray(x), errors.TracerArrayConversionError, "tracegrad.numpy"),
    "item": (lambda x: x.item(), errors.ConcretizationTypeError, "static_argnames"),
}


@pytest.mark.parametrize("name", [n for n in REFUSALS if n != "if"])
def test_what_needs_a_concrete_value_says_which_value_where_and_what_instead(name: str) -> None:
    f, kind, way_out = REFUSALS[name]

    def user(speed):  # type: ignore[no-untyped-def]
        return f(speed)

    with pytest.raises(kind) as e:
        make_ir(user)(np.int32(3))
    message = str(e.value)
    assert "i32[]" in message and "test_tracing.py" in message and way_out in message
    assert "an argument of user" in message or "the argument" in message


def test_a_truth_value_names_the_users_variable_and_the_line_that_made_it() -> None:
    def user(x):  # type: ignore[no-untyped-def]
        positive = ops.gt(x, 0)
        if positive:
            return x
        return ops.neg(x)

    line = user.__code__.co_firstlineno
    with pytest.raises(errors.TracerBoolConversionError) as e:
        make_ir(user)(F(3))
    message = str(e.value)
    assert "`positive` of type bool[]" in message
    assert f"test_tracing.py:{line + 1}, in user" in message, "where it was made"
    assert f"test_tracing.py:{line + 2}, in user" in message, "where it was needed"


def test_a_tracer_that_escaped_is_named_with_its_function() -> None:
    kept = []

    def leaky(x):  # type: ignore[no-untyped-def]
        kept.append(ops.sin(x))
        return x

    make_ir(leaky)(F(1))
    with pytest.raises(errors.UnexpectedTracerError, match="made by sin.*in leaky, while tracing leaky"):
        make_ir(lambda y: ops.add(y, kept[0]))(F(1))


def test_leak_checking_reports_what_outlived_its_function() -> None:
    kept = []
    with (
        config.override("check_tracer_leaks", True),
        pytest.raises(RuntimeError, match="1 traced value.*outlived.*\n.*made by sin"),
    ):
        make_ir(lambda x: kept.append(ops.sin(x)) or x)(F(1))


CARRIES = {
    "dtype": (
        lambda: scan(
            lambda c, _: ({"a": ops.convert_element_type(c["a"], np.dtype(np.int32), False)}, None),
            {"a": np.ones(3, F)},
            None,
            length=2,
        ),
        r"carry\['a'\] goes in as f32\[3\] and comes out as i32\[3\]",
    ),
    "structure": (
        lambda: while_loop(lambda c: ops.lt(c[0], 1), lambda c: c[0], (np.float32(1),)),
        "the carry must keep its structure",
    ),
    "not a pair": (lambda: scan(lambda c, x: c, F(0), np.ones(3, F)), r"must return a pair \(carry, y\)"),
    "condition": (lambda: while_loop(lambda c: ops.add(c, 1), lambda c: c, F(0)), "must return one scalar bool, got f32"),
    "branches": (
        lambda: cond(True, lambda: F(1), lambda: np.int32(1)),
        r"output is i32\[\] in false_fun .* and f32\[\] in true_fun",
    ),
    "predicate": (lambda: cond(np.ones(3, bool), lambda: 1, lambda: 2), r"must be a scalar, got bool\[3\]"),
    "bounds": (lambda: fori_loop(0, 1.5, lambda i, x: x, 0), "must be scalar integers"),
}


@pytest.mark.parametrize("name", CARRIES)
def test_control_flow_that_does_not_type_check_names_the_leaf(name: str) -> None:
    f, message = CARRIES[name]
    with pytest.raises(TypeError, match=message):
        make_ir(f)()


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="different leading dimensions"):
        make_ir(lambda: scan(lambda c, x: (c, None), 0, (np.ones(3, F), np.ones(4, F))))()
    with pytest.raises(ValueError, match="does not agree"):
        make_ir(lambda: scan(lambda c, x: (c, None), 0, np.ones(3, F), length=4))()
    with pytest.raises(ValueError, match="needs xs or length"):
        make_ir(lambda: scan(lambda c, x: (c, None), 0, None))()


def test_arguments_that_are_not_arrays_are_named() -> None:
    with pytest.raises(TypeError, match=r"options\['mode'\] is 'fast' of type str.*static_argnames"):
        make_ir(lambda x, options: x)(F(1), {"mode": "fast"})
