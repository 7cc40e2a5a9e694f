"""Sparsity patterns: they cover every nonzero of the Jacobian, whatever the program, and are exact where they can be."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from primitive_samples import Case, all_cases
from random_programs import arguments, functions, program_of

import tracegrad
import tracegrad.numpy as jnp
from tracegrad import lax, sparse
from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.program import Program
from tracegrad.tracer.staging import trace
from tracegrad.transforms import sparsity_regions, sparsity_rules  # noqa: F401
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.sparsity import REGION_RULES, RULES, dependences

DENSE = {
    "callback", "pure_callback", "nextafter", "random_gamma_grad", "record_while", "tape_scan", "empty_tape", "tape_length",
}  # fmt: skip
"""Primitives for which everything is taken to depend on everything, or that have no derivative."""


def nonzeros(program: Program, chosen: tuple[bool, ...], args: list[Any]) -> np.ndarray:
    """Which elements of the Jacobian are not zero at a point, by one derivative for each input element."""
    derivative, nonzero_out = jvp_program(program, chosen)
    sizes = [np.size(a) for a, c in zip(args, chosen) if c]
    tangents = [np.zeros_like(a) for a, c in zip(args, chosen) if c]
    columns = []
    for k, size in enumerate(sizes):
        for i in range(size):
            found = np.zeros(sum(t.size for t in program.out_types), bool)
            for unit in (1, 1j) if tangents[k].dtype.kind == "c" else (1,):
                along = [t.copy() for t in tangents]
                along[k].reshape(-1)[i] = unit
                dots = iter(evaluate(derivative, *args, *along)[len(program.outputs) :])
                parts = [next(dots) if nz else np.zeros(t.shape) for nz, t in zip(nonzero_out, program.out_types)]
                found |= np.concatenate([np.asarray(p != 0).reshape(-1) for p in parts])
            columns.append(found)
    rows = sum(t.size for t in program.out_types)
    return np.stack(columns, -1) if columns else np.zeros((rows, 0), bool)


def covers(program: Program, chosen: tuple[bool, ...], args: list[Any], known: list[Any]) -> None:
    pattern = dependences(program, known, chosen).toarray()
    entries = nonzeros(program, chosen, args)
    assert pattern.shape == entries.shape
    missing = np.argwhere(entries & ~pattern)
    assert not len(missing), f"the pattern misses {missing[:5].tolist()} of\n{program}"


# Those of other tests and of users, defined in files of their own, are not ours to test.
NAMES = [n for n, p in REGISTRY.items() if n not in DENSE and importlib.util.find_spec(f"tracegrad.ir.{p.family}") is not None]


@pytest.mark.parametrize("name", NAMES)
def test_each_primitive_has_a_rule_that_covers_its_derivative(name: str) -> None:
    assert name in RULES or name in REGION_RULES
    with config.override("enable_x64", True), np.errstate(all="ignore"):
        for case in all_cases()[name]:
            if case.order and case.differentiable:
                check_sample(case)


def check_sample(case: Case) -> None:
    program, _ = trace(case, case.types, case.primitive.name)
    chosen = tuple(i in case.differentiable for i in range(len(case.operands)))
    args = list(case.operands)
    covers(program, chosen, args, [None] * len(args))
    covers(program, chosen, args, args)  # with the other operands known


@given(functions())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_patterns_of_random_programs_cover_their_jacobians(case: Any) -> None:
    with config.override("enable_x64", True), np.errstate(all="ignore"):
        program = program_of(*case)
        chosen = (True,) * len(case[1])
        for seed in range(2):
            covers(program, chosen, arguments(case[1], seed), [None] * len(chosen))


@given(functions())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_patterns_of_gradients_of_random_programs_cover_their_hessians(case: Any) -> None:
    function, in_types = case
    with config.override("enable_x64", True), np.errstate(all="ignore"):
        gradient = tracegrad.grad(lambda *xs: sum(jnp.sum(jnp.sin(y)) for y in function(*xs)), tuple(range(len(in_types))))
        program = program_of(gradient, in_types)
        chosen = (True,) * len(in_types)
        covers(program, chosen, arguments(in_types), [None] * len(chosen))


def pattern(fun: Any, *args: Any) -> list[str]:
    """The pattern as rows of text: x for an entry."""
    found = sparse.jacobian_pattern(fun, *args).todense()
    return ["".join(".x"[int(e)] for e in row) for row in found]


X = np.linspace(0.1, 0.9, 4, dtype=np.float32)
TRIANGLE = ["x...", "xx..", "xxx.", "xxxx"]
ALL = ["xxxx"] * 4
BANDED = np.diag([2.0] * 4) + np.diag([1.0] * 3, 1)


@pytest.mark.parametrize(
    ("fun", "expected"),
    [
        (lambda x: jnp.sin(x) * x, ["x...", ".x..", "..x.", "...x"]),
        (lambda x: x[1:] * x[:-1], ["xx..", ".xx.", "..xx"]),
        (lambda x: x * np.float32([1, 0, 0, 2]), ["x...", "....", "....", "...x"]),
        (lambda x: BANDED.astype("f") @ x, ["xx..", ".xx.", "..xx", "...x"]),
        (lambda x: jnp.diag(x) @ x, ["x...", ".x..", "..x.", "...x"]),
        (lambda x: jnp.floor(x) + (x > 0.5), ["...."] * 4),
        (lambda x: lax.stop_gradient(x) * x, ["x...", ".x..", "..x.", "...x"]),
        (lambda x: x[np.array([3, 0, -1])], ["...x", "x...", "...x"]),
        (lambda x: x.at[np.array([1, 2])].set(x[0]), ["x...", "x...", "x...", "...x"]),
        (lambda x: x.at[np.array([1, 9])].add(x[0]), ["x...", "xx..", "..x.", "...x"]),
        (lambda x: x[jnp.argmax(x)], ["xxxx"]),
        (lambda x: x.at[jnp.argmax(x)].set(x[0]), ["x...", "xx..", "x.x.", "x..x"]),
        (lambda x: lax.dynamic_slice(x, (jnp.argmin(x),), (2,)), ["xxxx", "xxxx"]),
        (lambda x: jnp.where(np.arange(4) < 2, x, x[::-1]), ["x...", ".x..", ".x..", "x..."]),
        (lambda x: jnp.where(x > 0, x, x[::-1]), ["x..x", ".xx.", ".xx.", "x..x"]),
        (jnp.cumsum, TRIANGLE),
        (lambda x: lax.cumprod(x, reverse=True), [row[::-1] for row in TRIANGLE[::-1]]),
        (lambda x: jnp.convolve(x, np.float32([1, 0, 2]), "same"), [".x..", "x.x.", ".x.x", "..x."]),
        (lambda x: jnp.sort(x.reshape(2, 2), axis=0), ["x.x.", ".x.x", "x.x.", ".x.x"]),
        (lambda x: jnp.max(x.reshape(2, 2), axis=1), ["xx..", "..xx"]),
        (lambda x: jnp.linalg.inv(jnp.diag(x))[0], ALL),
        (lambda x: lax.cond(x[0] > 0, lambda: x, lambda: x[::-1]), ["x..x", ".xx.", ".xx.", "x..x"]),
        (lambda x: lax.switch(1, [lambda: x, lambda: x[::-1]]), ["...x", "..x.", ".x..", "x..."]),
        (lambda x: lax.scan(lambda c, a: (c + a, c), np.float32(0), x)[1], ["....", *TRIANGLE[:3]]),
        (lambda x: lax.scan(lambda c, a: (a, c), np.float32(0), x, reverse=True)[1], [".x..", "..x.", "...x", "...."]),
        (lambda x: lax.fori_loop(1, 4, lambda i, y: y.at[i].set(y[i - 1] * x[i]), x), TRIANGLE),
        (lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, jnp.roll(s[1], 1) + x), (0, x))[1],
         ["x.xx", "xx.x", "xxx.", ".xxx"]),
        (lambda x: lax.while_loop(lambda s: jnp.sum(s) < 9, lambda s: s.at[1:].add(s[:-1]), x), TRIANGLE),
        (tracegrad.jit(lambda x: tracegrad.checkpoint(jnp.sin)(x)), ["x...", ".x..", "..x.", "...x"]),
        (tracegrad.vmap(lambda x: jnp.sum(x**2)), ["x...", ".x..", "..x.", "...x"]),
    ],
)  # fmt: skip
def test_patterns_of_operations(fun: Any, expected: list[str]) -> None:
    assert pattern(fun, X) == expected


def test_long_loops_are_followed_without_their_counters_and_still_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    def last(x: Any) -> Any:
        return lax.scan(lambda c, a: (c + a, (c, a)), np.float32(0), x)

    monkeypatch.setattr(sparsity_regions, "LONGEST", 3)
    assert pattern(last, X) == ["xxxx"] * 5 + ["x...", ".x..", "..x.", "...x"]
    monkeypatch.setattr(sparsity_regions, "STEPWISE", 0)
    assert pattern(lambda x: lax.fori_loop(1, 3, lambda i, y: y.at[i].set(x[0]), x), X) == ["x...", "xx..", "x.x.", "x..x"]
    monkeypatch.setattr(sparsity_regions, "FIXPOINT", 1)
    shifted = lambda x: lax.while_loop(lambda s: jnp.sum(s) < 9, lambda s: jnp.roll(s, 1), x)
    assert pattern(shifted, X) == ALL


def test_custom_derivatives_decide_and_not_the_functions_they_belong_to() -> None:
    @tracegrad.custom_vjp
    def straight_through(x):
        return jnp.round(x)

    straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, ct: (ct[::-1],))
    assert pattern(straight_through, X) == ["...x", "..x.", ".x..", "x..."]

    @tracegrad.custom_jvp
    def cut(x, y):
        return x + jnp.sum(y)

    cut.defjvps(lambda t, ans, x, y: t, None)
    assert pattern(lambda x: cut(x, x), X) == ["x...", ".x..", "..x.", "...x"]
    cut.defjvps(None, lambda t, ans, x, y: t * BANDED.astype("f")[0])
    assert pattern(lambda x: cut(x, x), X) == ["x...", ".x..", "....", "...."]


def test_kernels_with_zeros_give_stencils() -> None:
    def laplacian(x):
        kernel = np.float32([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
        return lax.conv_general_dilated(x.reshape(1, 1, 5, 5), kernel, (1, 1), "SAME")

    found = sparse.jacobian_pattern(laplacian, np.ones(25, "f")).todense().reshape(5, 5, 5, 5)
    assert found[2, 2].sum() == 5 and found[2, 2, [2, 1, 3, 2, 2], [2, 2, 2, 1, 3]].all()
    assert found[0, 0].sum() == 3


def test_columns_of_right_hand_sides_do_not_mix() -> None:
    a = np.float32([[2, 0], [1, 3]])
    found = pattern(lambda x: lax.linalg.triangular_solve(a, x.reshape(2, 2), left_side=True, lower=True), X)
    assert found == ["x.x.", ".x.x", "x.x.", ".x.x"]


def test_hessian_patterns() -> None:
    rosenbrock = lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    found = sparse.hessian_pattern(rosenbrock, X).todense()
    np.testing.assert_array_equal(found, np.abs(np.subtract.outer(range(4), range(4))) <= 1)
    assert sparse.hessian_pattern(lambda x: jnp.sum(BANDED @ x), X).nnz == 0
