"""The rules of leaf primitives, one by one: derivative against central differences, transpose against the pairing of tangents and
cotangents, batching against a loop; and through the transformations, reverse mode, second order and batched gradients.

Rules run here on NumPy arrays, under an interpreter that evaluates each operation and checks its result against the type rule. What is
tried is in rule_cases.py; what conventions say is in test_derivative_conventions.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rule_cases import CASES, Case, conv
from rule_harness import Numpy, bind_case, dense, draw_tangent, inexact_operands, pairing, reverse, tangents_of

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of, using
from tracegrad.ir.config import config
from tracegrad.ir.primitive import REGISTRY, Declined
from tracegrad.ir.types import ArrayType, bfloat16, is_inexact, key_dtype, tangent_type
from tracegrad.tracer.staging import trace
from tracegrad.transforms.batch import batch_flat
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.zero import Axis, Linear, Zero, is_zero


@pytest.fixture(autouse=True)
def _wide_types_and_numpy() -> Any:
    with config.override("enable_x64", True), using(Numpy()) as interpreter:
        yield interpreter


def case_parameters(cases: Sequence[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[c.id() for c in cases])


# Derivatives


def difference(case: Case, operands: Sequence[np.ndarray], tangents: Sequence[Any], step: float = 1e-6) -> list[np.ndarray]:
    """Central differences of what the case calls smooth, along tangents."""

    def at(sign: int) -> Any:
        moved = [x if is_zero(t) else np.asarray(x + sign * step * t, x.dtype) for x, t in zip(operands, tangents)]
        outs = case.prim.evaluate(*moved, **case.params)
        return case.invariant(*outs) if case.invariant else outs

    with np.errstate(all="ignore"):
        return [
            np.asarray((np.asarray(a) - np.asarray(b)) / (2 * step)) if is_inexact(np.asarray(a).dtype) else np.zeros(np.shape(a))
            for a, b in zip(at(1), at(-1))
        ]


def check_jvp(case: Case, moving: Sequence[int]) -> None:
    rng = case.rng()
    operands = case.operands(rng)
    tangents = tangents_of(case, rng, operands, moving)
    outs, dots = case.prim.rule("jvp")(tuple(operands), tuple(tangents), **case.params)
    expected_outs = case.prim.evaluate(*operands, **case.params)
    for a, b, t in zip(outs, expected_outs, dots, strict=True):
        np.testing.assert_allclose(a, b, err_msg="the primal result differs", rtol=1e-12)
        want = tangent_type(ArrayType(b.shape, b.dtype))
        have = t.type if is_zero(t) else type_of(t)
        assert have == want, f"the tangent has the type {have}, the primal's tangent type is {want}"
    expected = difference(case, operands, tangents)
    found = [dense(t) for t in dots]
    if case.invariant is not None:
        # The derivative of what is smooth, by differences of the same function along the tangent that the rule gives.
        step = 1e-6
        up = case.invariant(*[np.asarray(a) + step * t if is_inexact(t.dtype) else a for a, t in zip(outs, found)])
        down = case.invariant(*[np.asarray(a) - step * t if is_inexact(t.dtype) else a for a, t in zip(outs, found)])
        found = [(u - d) / (2 * step) for u, d in zip(up, down)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


DIFFERENTIABLE = [c for c in CASES if not isinstance(REGISTRY[c.name].rules.get("jvp"), Declined)]


@case_parameters(DIFFERENTIABLE)
def test_jvp_agrees_with_central_differences(case: Case) -> None:
    smooth = inexact_operands(case)
    for moving in [[i] for i in smooth] + ([smooth] if len(smooth) > 1 else []):
        check_jvp(case, moving)


@case_parameters(DIFFERENTIABLE)
def test_jvp_of_no_tangent_is_a_symbolic_zero(case: Case) -> None:
    operands = case.operands(case.rng())
    tangents = tangents_of(case, None, operands, [])
    _, dots = case.prim.rule("jvp")(tuple(operands), tuple(tangents), **case.params)
    assert all(is_zero(t) for t in dots)


# Transposes


@case_parameters([c for c in CASES if c.linear])
def test_transpose_satisfies_the_dot_product_identity(case: Case) -> None:
    rng = case.rng()
    operands = case.operands(rng)
    for group in case.linear:
        tangents = [draw_tangent(rng, x) if i in group else x for i, x in enumerate(operands)]
        (out,) = case.prim.evaluate(*tangents, **case.params)
        ct = draw_tangent(rng, out)
        inputs = [Linear(type_of(x)) if i in group else x for i, x in enumerate(operands)]
        cts = case.prim.rule("transpose")((ct,), inputs, **case.params)
        assert len(cts) == len(operands)
        if case.name != "reduce_precision":
            np.testing.assert_allclose(pairing(ct, out), sum(pairing(cts[i], tangents[i]) for i in group), rtol=1e-9, atol=1e-9)
        for i, x in enumerate(operands):
            if i in group:
                assert type_of(cts[i]) == type_of(x), f"the cotangent of operand {i} has type {type_of(cts[i])}, not {type_of(x)}"
            else:
                assert cts[i] is None or is_zero(cts[i])
        zero = case.prim.rule("transpose")((Zero(type_of(out)),), inputs, **case.params)
        assert all(z is None or is_zero(z) for z in zero)


# Batching


def batch_choices(ranks: Sequence[int]) -> Any:
    """Which operands are batched and where: every place of each alone, and a few mixed choices for several."""
    n = len(ranks)
    for i, rank in enumerate(ranks):
        for d in range(rank + 1):
            yield tuple(d if j == i else None for j in range(n))
    if n > 1:
        yield tuple(0 for _ in ranks)
        yield tuple(ranks)
        yield tuple(rank if j % 2 else 0 for j, rank in enumerate(ranks))
        for i in range(n):
            yield tuple(None if j == i else rank for j, rank in enumerate(ranks))


def check_batch(case: Case, dims: tuple[int | None, ...], size: int) -> None:
    rng = case.rng()
    examples = [case.operands(rng) for _ in range(size)]
    shared = case.operands(rng)
    args = [np.stack([e[i] for e in examples], d) if d is not None else shared[i] for i, d in enumerate(dims)]
    outs, out_dims = case.prim.rule("batch")(Axis(size), tuple(args), dims, **case.params)
    expected = []
    for e in examples:
        operands = [x if d is not None else s for x, s, d in zip(e, shared, dims)]
        results = case.prim.evaluate(*operands, **case.params)
        expected.append(results)
    for k, (out, d) in enumerate(zip(outs, out_dims, strict=True)):
        if d is None:
            continue
        stacked = np.stack([r[k] for r in expected], d)
        assert np.asarray(out).dtype == stacked.dtype
        np.testing.assert_allclose(out, stacked, rtol=1e-8, atol=1e-10)


@case_parameters([c for c in CASES if c.batched])
def test_batching_agrees_with_a_loop(case: Case) -> None:
    for dims in batch_choices([len(s) for s in case.shapes]):
        if any(d is not None for d in dims):
            check_batch(case, dims, 3)


@case_parameters([c for c in CASES if c.batched])
def test_a_batch_may_have_one_example_or_none(case: Case) -> None:
    for dims in batch_choices([len(s) for s in case.shapes]):
        if all(d is None for d in dims):
            continue
        check_batch(case, dims, 1)
        operands = case.operands(case.rng())
        args = [x if d is None else np.expand_dims(x, d).take([], d) for x, d in zip(operands, dims)]
        outs, out_dims = case.prim.rule("batch")(Axis(0), tuple(args), dims, **case.params)
        for out, d, one in zip(outs, out_dims, case.prim.evaluate(*operands, **case.params), strict=True):
            assert out.shape == (*one.shape[:d], 0, *one.shape[d:])


# Through the transformations: each rule's linear part can be transposed, differentiated again, and batched.


@case_parameters(DIFFERENTIABLE)
def test_reverse_mode_agrees_with_forward_mode(case: Case) -> None:
    rng = case.rng()
    operands = case.operands(rng)
    moving = inexact_operands(case)
    if not moving:
        return
    tangents = tangents_of(case, rng, operands, moving)
    _, dots = jvp_flat(bind_case(case), operands, tangents)

    def draw_cotangent(x: Any) -> Any:
        return draw_tangent(rng, np.asarray(x)) if is_inexact(np.asarray(x).dtype) else None

    _, cts, found = reverse(bind_case(case), operands, moving, draw_cotangent)
    forward = sum(pairing(ct, dense(t)) for ct, t in zip(cts, dots) if ct is not None)
    backwards = sum(pairing(dense(ct), tangents[i]) for i, ct in zip(moving, found, strict=True))
    np.testing.assert_allclose(forward, backwards, rtol=1e-7, atol=1e-9)
    for i, ct in zip(moving, found):
        have = ct.type if is_zero(ct) else type_of(ct)
        assert have == type_of(operands[i]), f"the cotangent of operand {i} has type {have}"


# Their second derivatives in the first parameter are declined.
FIRST_ORDER_ONLY = {"igamma", "igammac"}


@case_parameters([c for c in DIFFERENTIABLE if c.name not in FIRST_ORDER_ONLY and c.invariant is None])
def test_second_derivatives_agree_with_differences_of_first_ones(case: Case) -> None:
    rng = case.rng()
    operands = case.operands(rng)
    moving = inexact_operands(case)
    first = tangents_of(case, rng, operands, moving)
    second = tangents_of(case, rng, operands, moving)

    def derivative(*xs: Any) -> list[Any]:
        return [dense(t) if is_zero(t) else t for t in jvp_flat(bind_case(case), xs, first)[1]]

    _, found = jvp_flat(derivative, operands, second)
    step = 1e-5
    ends = [
        derivative(*[x if is_zero(t) else np.asarray(x + sign * step * t) for x, t in zip(operands, second)]) for sign in (1, -1)
    ]
    for t, a, b in zip(found, *ends, strict=True):
        if is_inexact(dense(t).dtype):
            np.testing.assert_allclose(dense(t), (np.asarray(a) - np.asarray(b)) / (2 * step), rtol=1e-4, atol=1e-5)


@case_parameters([c for c in DIFFERENTIABLE if c.name not in ("eig", "svd", "eigh")])
def test_batched_gradients_agree_with_a_loop(case: Case) -> None:
    moving = inexact_operands(case)
    if not moving:
        return
    rng = case.rng()
    examples = [case.operands(rng) for _ in range(2)]
    dims = [0 if i in moving else None for i in range(len(case.shapes))]
    shared = examples[0]
    cts = [draw_tangent(rng, np.asarray(x)) for x in bind_case(case)(*shared)]

    def gradient(*operands: Any) -> list[Any]:
        drawn = iter(cts)
        found = reverse(bind_case(case), operands, moving, lambda x: next(drawn))[2]
        return [dense(ct) if is_zero(ct) else ct for ct in found]

    args = [np.stack([e[i] for e in examples]) if d == 0 else shared[i] for i, d in enumerate(dims)]
    outs, out_dims = batch_flat(gradient, Axis(2), args, dims)
    expected = [gradient(*[e[i] if i in moving else shared[i] for i in range(len(shared))]) for e in examples]
    for k, (out, d) in enumerate(zip(outs, out_dims, strict=True)):
        stacked = np.stack([np.asarray(g[k]) for g in expected], 0 if d is None else d)
        np.testing.assert_allclose(stacked if d is not None else stacked[0], np.asarray(out), rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtypes", [(np.float32, np.complex64), (np.float16, None), (bfloat16, None)], ids=["f32", "f16", "bf16"])
def test_tangents_and_cotangents_keep_narrow_types(dtypes: Any) -> None:
    narrow, narrow_complex = dtypes
    wrong = []
    for case in DIFFERENTIABLE:
        operands = case.operands(case.rng())
        if (
            narrow_complex is None
            and any(np.iscomplexobj(x) for x in operands)
            or case.name in ("reduce", "convert_element_type")
        ):
            continue
        operands = [x.astype(narrow_complex if x.dtype.kind == "c" else narrow) if is_inexact(x.dtype) else x for x in operands]
        try:
            case.prim.type_rule(*map(type_of, operands), **case.params)
        except (TypeError, ValueError):
            continue  # the primitive does not take this dtype
        moving = inexact_operands(case)
        tangents = tangents_of(case, case.rng(), operands, moving)
        outs, dots = jvp_flat(bind_case(case), operands, tangents)
        _, _, cts = reverse(bind_case(case), operands, moving, np.ones_like)
        pairs = [*zip(dots, outs), *zip(cts, [operands[i] for i in moving])]
        wrong += [f"{case.id()}: {type_of(x)} and {type_of(v)}" for x, v in pairs if type_of(x) != tangent_type(type_of(v))]
    assert not wrong, "\n".join(wrong)


def test_a_product_with_a_preferred_element_type_has_cotangents_of_its_operands_types() -> None:
    x, y = np.float32([[1.0, 2.0]]), np.float32([[3.0], [4.0]])
    params = {"dimension_numbers": (((1,), (0,)), ((), ())), "preferred_element_type": np.dtype(np.float64)}
    case = Case("dot_general", [], [], params)
    outs, _, (x_bar, y_bar) = reverse(bind_case(case), [x, y], [0, 1], np.ones_like)
    assert outs[0].dtype == np.float64 and x_bar.dtype == y_bar.dtype == np.float32
    np.testing.assert_allclose(x_bar, y.T)
    np.testing.assert_allclose(y_bar, x.T)
    convolution = {**conv((), ()), "preferred_element_type": np.dtype(np.float64)}
    outs, _, (x_bar, y_bar) = reverse(
        bind_case(Case("conv_general_dilated", [], [], convolution)), [x, y.T], [0, 1], np.ones_like
    )
    assert outs[0].dtype == np.float64 and x_bar.dtype == y_bar.dtype == np.float32
    np.testing.assert_allclose(x_bar, y.T)


def leaf_families() -> set[str]:
    """The families of `ir` whose primitives hold no programs; `transforms` defines a few primitives of its own, tested with what uses them."""
    files = {p.stem for p in (Path(__file__).resolve().parent.parent / "ir").glob("*.py")}
    return files - {"control_flow", "calls", "tapes"}


def test_every_leaf_primitive_has_or_declines_each_rule() -> None:
    holes = [
        f"{prim.name}: {kind}"
        for prim in REGISTRY.values()
        if prim.family in leaf_families()
        for kind in ("jvp", "transpose", "batch")
        if kind not in prim.rules
    ]
    assert not holes, "\n".join(holes)


def test_every_leaf_primitive_has_a_case() -> None:
    covered = {c.name for c in CASES} | {"iota", "key_unwrap"}  # key_unwrap: test_keys_are_batched_as_words
    missing = [p.name for p in REGISTRY.values() if p.family in leaf_families() and p.name not in covered]
    assert not missing


def test_keys_are_batched_as_words() -> None:
    words, _ = trace(
        lambda keys: batch_flat(lambda k: [ops.key_unwrap(k)], Axis(3), [keys], [1])[0], [ArrayType((2, 3), key_dtype())]
    )
    assert words.out_types == (ArrayType((2, 3, 2), np.uint32),)


def test_a_padding_value_or_predicate_for_each_key_is_batched() -> None:
    keys, pred = ArrayType((2,), key_dtype()), ArrayType((2,), bool)

    def choose(pred: Any, keys: Any, other: Any) -> Any:
        return batch_flat(lambda p, k: [ops.select(p, k, other)], Axis(2), [pred, keys], [0, 0])[0]

    program, _ = trace(choose, [pred, keys, ArrayType((), key_dtype())])
    assert program.out_types == (keys,)
