"""Every primitive against its samples: equations that hold between its meaning, its rules and its compiled form.

The meaning is `evaluate`. The type rule must promise what it gives; the text of a program must read back; derivatives are compared with
differences, transposes with derivatives by <ct, J t> = <J^T ct, t>, second and third derivatives with differences of those before, batching with a
loop, compiled programs with the meaning. Each test covers all samples of one primitive and lists everything that is wrong.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from primitive_samples import C128, F64, HALF, Case, all_cases, draw, sample
from process_harness import python

from tracegrad.codegen import rules
from tracegrad.ir import ops
from tracegrad.ir.bind import bind1
from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate, run
from tracegrad.ir.parser import parse
from tracegrad.ir.primitive import REGISTRY, Declined, Primitive
from tracegrad.ir.program import Program
from tracegrad.ir.types import is_key
from tracegrad.ir.verify import verify
from tracegrad.runtime.jit import jit
from tracegrad.tracer.staging import trace
from tracegrad.transforms.batch import batch_program
from tracegrad.transforms.jvp import jvp_program
from tracegrad.transforms.linearize import linearize_program
from tracegrad.transforms.staged import stage
from tracegrad.transforms.transpose import transpose_program
from tracegrad.transforms.zero import Axis

Check = Callable[[Case], None]
# Those of other tests and of users, defined in files of their own, are not ours to test.
NAMES = [name for name, p in REGISTRY.items() if importlib.util.find_spec(f"tracegrad.ir.{p.family}") is not None]
RTOL = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-6, "complex64": 1e-6, "float64": 1e-14, "complex128": 1e-14}


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True):
        yield


def collect(cases: Sequence[Any], check: Callable[[Any], None]) -> None:
    """Run `check` on all cases (or jobs) and report all failures together."""
    failures = []
    for case in cases:
        try:
            with np.errstate(all="ignore"):
                check(case)
        except Exception as e:
            failures.append(f"{case.name}: {type(e).__name__}: {str(e).strip()[:600]}")
    if failures:
        raise AssertionError(f"{len(failures)} of {len(cases)} samples fail:\n" + "\n".join(failures))


def staged(case: Case) -> Program:
    program, captured = trace(case, case.types, case.primitive.name)
    assert not captured
    return program


def agree(actual: Any, expected: Any, factor: float, what: str) -> None:
    assert len(actual) == len(expected), f"{what}: {len(actual)} results instead of {len(expected)}"
    for i, (x, y) in enumerate(zip(actual, expected)):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), f"{what} {i}: {x.dtype}{x.shape} instead of {y.dtype}{y.shape}"
        rtol = RTOL.get(y.dtype.name)
        if rtol is None:
            np.testing.assert_array_equal(x, y, err_msg=f"{what} {i}")
            continue
        if y.dtype in HALF:
            x, y = x.astype(np.float32), y.astype(np.float32)
        np.testing.assert_allclose(x, y, rtol=factor * rtol, atol=factor * rtol, err_msg=f"{what} {i}")


# Types and text


def check_types(case: Case) -> None:
    before = [x.tobytes() for x in case.operands]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = case.evaluate(*case.operands)
    assert [x.tobytes() for x in case.operands] == before, "evaluation changed an operand"
    program = staged(case)
    verify(program)
    assert len(results) == len(program.outputs)
    for x, t in zip(results, program.out_types):
        assert isinstance(x, np.ndarray), f"evaluation gives a {type(x).__name__}"
        dtype, shape = (np.dtype(np.uint32), t.shape + t.dtype.base_shape) if is_key(t.dtype) else (t.dtype, t.shape)
        assert (x.dtype, x.shape) == (dtype, shape), f"evaluation gives {x.dtype}{x.shape}, the type rule {t}"
    text = str(program)
    assert parse(text) == program, f"the text does not read back:\n{text}"
    assert parse(text).out_types == program.out_types


# Derivatives


def directions(case: Case, salt: str) -> list[np.ndarray]:
    return [case.direction(draw(x.dtype, x.shape, -1, 1, salt)) for x in (case.operands[i] for i in case.differentiable)]


def moved(case: Case, step: float, along: list[np.ndarray]) -> list[np.ndarray]:
    operands = list(case.operands)
    for i, t in zip(case.differentiable, along):
        operands[i] = np.asarray(operands[i] + step * t)
    return operands


def difference(fun: Callable[[float], Any], h: float = 1e-3) -> list[np.ndarray]:
    """The derivative at 0 of a function of a number that gives arrays, by a formula of fourth order."""
    values = [fun(k * h) for k in (-2, -1, 1, 2)]
    return [np.asarray((a - 8 * b + 8 * c - d) / (12 * h)) for a, b, c, d in zip(*values)]


def close(actual: Any, expected: Any, case: Case, what: str) -> None:
    for i, (x, y) in enumerate(zip(actual, expected, strict=True)):
        y = np.where(np.isfinite(y), y, 0)  # what stays infinite or NaN does not change
        bound = 1e-7 * max(case.tolerance, 1.0) ** 0.25 * (1 + np.max(np.abs(y), initial=0.0))
        error = np.max(np.abs(x - y), initial=0.0)
        assert error <= bound, f"{what} {i}: rule gives\n{x}\ndifferences give\n{y}\n(error {error:.2g})"


def smooth_outputs(program: Program) -> list[int]:
    return [i for i, t in enumerate(program.out_types) if t.dtype in (F64, C128)]


def masks(case: Case) -> list[tuple[bool, ...]]:
    """Which operands have tangents: all that can, and each one alone."""
    n = len(case.operands)
    chosen = [case.differentiable] + ([(i,) for i in case.differentiable] if len(case.differentiable) > 1 else [])
    return [tuple(i in some for i in range(n)) for some in chosen]


def check_jvp(case: Case) -> None:
    program = staged(case)
    smooth = smooth_outputs(program)
    if case.order < 1 or not case.differentiable or not smooth:
        return
    for mask in masks(case):
        along = [t if mask[i] else 0 * t for i, t in zip(case.differentiable, directions(case, "t"))]
        derivative, nonzero_out = jvp_program(program, mask, tuple(i in smooth for i in range(len(program.outputs))))
        verify(derivative)
        tangents = [t for i, t in zip(case.differentiable, along) if mask[i]]
        outs = evaluate(derivative, *case.operands, *tangents)
        n = len(program.outputs)
        agree(outs[:n], case.evaluate(*case.operands), case.tolerance, "value beside the tangent")
        given = dict(zip([i for i, nz in enumerate(nonzero_out) if nz], outs[n:]))
        expected = difference(lambda h, a=along: [evaluate(program, *moved(case, h, a))[i] for i in smooth])
        close([given[i] for i in smooth], expected, case, f"tangent (operands {[i for i, m in enumerate(mask) if m]})")


def gradient_program(program: Program, mask: tuple[bool, ...]) -> tuple[Program, list[int]]:
    """(operands, cotangents of the smooth outputs) -> cotangents of the operands in `mask`; and which outputs those are."""
    smooth = smooth_outputs(program)
    split = linearize_program(program, mask, tuple(i in smooth for i in range(len(program.outputs))))
    verify(split.known)
    verify(split.unknown)
    linear = (False,) * split.num_residuals + (True,) * sum(mask)
    outs = [i for i, unknown in enumerate(split.unknown_out) if unknown]
    backwards, _ = transpose_program(split.unknown, linear, tuple(i in smooth for i in outs), (True,) * sum(mask))
    verify(backwards)
    n = len(program.inputs)

    def gradient(*values: Any) -> Any:
        known = run(split.known, *values[:n])
        return run(backwards, *split.pick(values[:n], known), *values[n:])

    types = [*program.in_types, *[program.out_types[i].strong() for i in smooth]]
    return stage(gradient, types, "gradient"), smooth


def pairing(xs: Any, ys: Any) -> float:
    return sum(float(np.real(np.sum(x * y))) for x, y in zip(xs, ys, strict=True))


def check_transpose(case: Case) -> None:
    program = staged(case)
    if case.order < 1 or not case.reverse or not case.differentiable or not smooth_outputs(program):
        return
    for mask in masks(case):
        gradient, smooth = gradient_program(program, mask)
        derivative, nonzero_out = jvp_program(program, mask, tuple(i in smooth for i in range(len(program.outputs))))
        tangents = [t for i, t in zip(case.differentiable, directions(case, "t")) if mask[i]]
        cts = [draw(program.out_types[i].dtype, program.out_types[i].shape, -1, 1, f"ct{i}") for i in smooth]
        outs = dict(
            zip(
                [i for i, nz in enumerate(nonzero_out) if nz],
                evaluate(derivative, *case.operands, *tangents)[len(program.outputs) :],
            )
        )
        back = evaluate(gradient, *case.operands, *cts)
        for x, t in zip(back, tangents, strict=True):
            assert (x.shape, x.dtype) == (t.shape, t.dtype), f"cotangent {x.dtype}{x.shape} of an operand {t.dtype}{t.shape}"
        left, right = pairing(cts, [outs[i] for i in smooth]), pairing(back, tangents)
        assert abs(left - right) <= 1e-9 * (1 + abs(left)), f"<ct, J t> = {left} but <J^T ct, t> = {right} for operands {mask}"


def check_second_order(case: Case) -> None:
    program = staged(case)
    smooth = smooth_outputs(program)
    if case.order < 2 or not case.differentiable or not smooth:
        return
    mask = masks(case)[0]
    wanted = tuple(i in smooth for i in range(len(program.outputs)))
    t, u = directions(case, "t"), directions(case, "u")
    n = len(program.outputs)

    first, nonzero_out = jvp_program(program, mask, wanted)
    which = [n + list(np.flatnonzero(nonzero_out)).index(i) for i in smooth]
    second, nonzero_out = jvp_program(first, mask + (False,) * len(t), tuple(i in which for i in range(len(first.outputs))))
    verify(second)
    given = dict(zip(np.flatnonzero(nonzero_out), evaluate(second, *case.operands, *t, *u)[len(first.outputs) :]))
    actual = [given[i] for i in which]
    expected = difference(lambda h: [evaluate(first, *moved(case, h, u), *t)[i] for i in which])
    close(actual, expected, case, "second derivative, forward over forward")

    if case.reverse:
        gradient, _ = gradient_program(program, mask)
        cts = [draw(program.out_types[i].dtype, program.out_types[i].shape, -1, 1, f"ct{i}") for i in smooth]
        second, _ = jvp_program(gradient, mask + (False,) * len(cts), (True,) * len(gradient.outputs))
        verify(second)
        actual = evaluate(second, *case.operands, *cts, *u)[len(gradient.outputs) :]
        expected = difference(lambda h: evaluate(gradient, *moved(case, h, u), *cts))
        close(actual, expected, case, "second derivative, forward over reverse")

        back, _ = gradient_program(gradient, mask + (False,) * len(cts))
        weights = [draw(t.dtype, t.shape, -1, 1, f"w{i}") for i, t in enumerate(gradient.out_types)]
        left, right = pairing(weights, actual), pairing(evaluate(back, *case.operands, *cts, *weights), u)
        assert abs(left - right) <= 1e-8 * max(case.tolerance, 1.0) * (1 + abs(left)), f"reverse over reverse: {left} and {right}"


def raised(program: Program, mask: tuple[bool, ...], which: Sequence[int]) -> tuple[Program, list[int]]:
    """The program that takes directions of the operands in `mask` besides, and the places of the derivatives of the outputs `which`."""
    n = len(program.outputs)
    more, nonzero_out = jvp_program(program, mask, tuple(i in which for i in range(n)))
    places = {int(i): n + k for k, i in enumerate(np.flatnonzero(nonzero_out))}
    return more, [places[i] for i in which]


def check_third_order(case: Case) -> None:
    """Forward mode thrice, and forward mode twice over reverse mode, against differences of what is one order lower."""
    program = staged(case)
    smooth = smooth_outputs(program)
    if case.order < 3 or not case.differentiable or not smooth:
        return
    mask = masks(case)[0]
    along = [directions(case, salt) for salt in "tuv"]
    gradient: list[Any] = []
    if case.reverse:
        made, _ = gradient_program(program, mask)
        cts = [draw(program.out_types[i].dtype, program.out_types[i].shape, -1, 1, f"ct{i}") for i in smooth]
        gradient = [("twice over reverse", made, list(range(len(made.outputs))), cts, 1)]
    for what, made, which, given, orders in [("three times", program, smooth, [], 2), *gradient]:
        moving = mask + (False,) * len(given)
        for t in along[:orders]:
            made, which = raised(made, moving, which)
            moving, given = moving + (False,) * len(t), [*given, *t]
        last, places = raised(made, moving, which)
        verify(last)
        outs = evaluate(last, *case.operands, *given, *along[orders])
        expected = difference(lambda h: [evaluate(made, *moved(case, h, along[orders]), *given)[i] for i in which])  # noqa: B023
        close([outs[i] for i in places], expected, case, f"third derivative, forward mode {what}")


# Batching


def another(x: np.ndarray, rank: int) -> np.ndarray:
    """A second legal operand: the same numbers in another order, or another number."""
    if rank:
        return x[tuple(slice(None, None, -1) for _ in range(rank))]
    if x.ndim:  # a key
        return x + np.uint32(5)
    if x.dtype == np.bool_:
        return ~x
    return np.asarray(x + x.dtype.type(1)) if x.dtype.kind in "iu" else np.asarray(x * x.dtype.type(1.25))


def placements(case: Case) -> list[tuple[int | None, ...]]:
    """Where the batch axis is: first everywhere, last everywhere, in the middle, and on each operand alone."""
    ranks = [len(t.shape) for t in case.types]
    n = len(ranks)
    places: list[tuple[int | None, ...]] = [(0,) * n, tuple(ranks), tuple(min(1, r) if i else r for i, r in enumerate(ranks))]
    if n > 1:
        places += [tuple(rank if i == j else None for i, rank in enumerate(ranks)) for j in range(n)]
    return list(dict.fromkeys(places))


def check_batch(case: Case) -> None:
    if not case.batch:
        return
    if isinstance(case.primitive.rules.get("batch"), Declined):
        with pytest.raises(NotImplementedError):
            case.primitive.rule("batch")
        return
    program = staged(case)
    pairs = [(x, another(x, len(t.shape))) for x, t in zip(case.operands, case.types)]
    for dims in placements(case):
        batched = [x if d is None else np.stack([x, y, x], d) for (x, y), d in zip(pairs, dims)]
        result, out_dims = batch_program(program, Axis(3), dims)
        verify(result)
        outs = evaluate(result, *batched)
        for k in range(2):
            operands = [p[k] if d is not None else p[0] for p, d in zip(pairs, dims)]
            slices = [x if d is None else np.take(x, k, d) for x, d in zip(outs, out_dims)]
            expected = case.meaning(operands, case.evaluate(*operands))
            agree(case.meaning(operands, slices), expected, 4 * case.tolerance, f"batched along {dims}, example {k}, result")


# Compilation


class Job(NamedTuple):
    """A program made from a case, operands for it, and what its results must be."""

    case: Case
    program: Program
    operands: Sequence[np.ndarray]
    expected: Sequence[np.ndarray]
    tolerance: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.case.name} ({self.program.name})"


def run_compiled(jobs: list[Job]) -> list[tuple[np.ndarray, ...]]:
    """The results of the jobs, all computed by one compiled program."""
    sizes: list[int] = []

    def everything(*values: Any) -> Any:
        outs, rest = [], list(values)
        for job in jobs:
            types = job.program.in_types
            operands, rest = rest[: len(types)], rest[len(types) :]
            results = run(job.program, *[ops.key_wrap(x) if is_key(t.dtype) else x for x, t in zip(operands, types)])
            outs += [ops.key_unwrap(x) if is_key(t.dtype) else x for x, t in zip(results, job.program.out_types)]
            sizes.append(len(results))
        return outs

    results = iter(jit(everything)(*[x for job in jobs for x in job.operands]))
    return [tuple(np.asarray(next(results)) for _ in range(n)) for n in sizes]


def compare(job: Job, actual: Sequence[np.ndarray]) -> None:
    agree(actual, job.expected, job.tolerance * job.case.tolerance, "compiled result")


def check_jobs(jobs: list[Job], compare: Callable[[Job, Any], None] = compare) -> None:
    """Compile all together; if that fails, one by one, to tell which of them does not compile."""
    try:
        results = {id(job): result for job, result in zip(jobs, run_compiled(jobs))}
    except Exception:
        collect(jobs, lambda job: compare(job, run_compiled([job])[0]))
        raise
    collect(jobs, lambda job: compare(job, results[id(job)]))


def application(case: Case) -> Job:
    """The primitive itself."""
    return Job(case, staged(case), case.operands, case.evaluate(*case.operands))


def compare_meaning(job: Job, actual: Sequence[np.ndarray]) -> None:
    case = job.case
    agree(case.meaning(case.operands, actual), case.meaning(case.operands, job.expected), case.tolerance, "compiled result")


def derivative(case: Case) -> Job | None:
    """Its derivatives: what rules make of it must compile too."""
    program = staged(case)
    smooth = smooth_outputs(program)
    if case.order < 1 or not case.differentiable or not smooth or case.meaning is not Case.meaning:
        return None  # (the derivative of vectors depends on their sign)
    mask = masks(case)[0]
    if case.reverse:
        made, _ = gradient_program(program, mask)
        more = [draw(program.out_types[i].dtype, program.out_types[i].shape, -1, 1, f"ct{i}") for i in smooth]
    else:
        made, _ = jvp_program(program, mask)
        more = directions(case, "t")
    operands = [*case.operands, *more]
    return Job(case, made, operands, evaluate(made, *operands), 100.0)


def batched(case: Case) -> Job | None:
    """Itself for three examples, along the last axis of each operand."""
    if not case.batch or isinstance(case.primitive.rules.get("batch"), Declined) or case.meaning is not Case.meaning:
        return None
    dims = tuple(len(t.shape) for t in case.types)
    made, _ = batch_program(staged(case), Axis(3), dims)
    operands = [np.stack([x, another(x, d), x], d) for x, d in zip(case.operands, dims)]
    return Job(case, made, operands, evaluate(made, *operands), 4.0)


# The tests


def representative(cases: list[Case]) -> list[Case]:
    """All, but of elementwise primitives one for each combination of ranks: rules look at nothing else."""
    if not cases or cases[0].primitive.family not in ("elementwise", "special"):
        return cases
    return list({(bool(c.differentiable), *[len(t.shape) for t in c.types]): c for c in reversed(cases)}.values())


CHECKS: dict[str, Check] = {
    "types": check_types,
    "jvp": check_jvp,
    "transpose": check_transpose,
    "twice": check_second_order,
    "thrice": check_third_order,
    "batch": check_batch,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", CHECKS)
def test_equations(name: str, kind: str) -> None:
    cases = all_cases()[name]
    collect(representative(cases) if kind == "batch" else cases, CHECKS[kind])


@pytest.mark.parametrize("name", NAMES)
def test_compiled(name: str) -> None:
    with np.errstate(all="ignore"):
        jobs = [application(case) for case in all_cases()[name]]
    check_jobs(jobs, compare_meaning)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [derivative, batched])
def test_transformed_and_compiled(name: str, make: Callable[[Case], Job | None]) -> None:
    with np.errstate(all="ignore"):
        made = [make(case) for case in representative(all_cases()[name])]
    check_jobs([job for job in made if job is not None])


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_is_given_or_declined(name: str) -> None:
    """Each primitive has samples, and each rule or a reason why not."""
    primitive = REGISTRY[name]
    rules.attach(primitive)
    holes = [kind for kind in ("transpose", "batch", "lower") if kind not in primitive.rules]
    if not {"jvp", "linearize"} & primitive.rules.keys():
        holes.append("jvp")
    for kind, rule in primitive.rules.items():
        if isinstance(rule, Declined) and not rule.reason.strip():
            holes.append(f"a reason for declining {kind}")
    if not all_cases()[name]:
        holes.append("samples")
    assert not holes, f"{name} lacks {', '.join(holes)}"


_ATTACHED_ONE_BY_ONE = """
import os
import tracegrad
from tracegrad.codegen import rules
from tracegrad.ir.primitive import REGISTRY

lacking = [p.name for p in REGISTRY.values() if "lower" not in p.rules]
for name in lacking:
    child = os.fork()
    if child == 0:
        rules.attach(REGISTRY[name])
        os._exit("lower" not in REGISTRY[name].rules)
    assert os.waitpid(child, 0)[1] == 0, name
print(len(lacking))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each primitive is looked at in a process of its own")
def test_lowering_rules_are_found() -> None:
    """Whichever primitive comes first, its lowering rule is loaded; importing the package loads few of them."""
    assert int(python(_ATTACHED_ONE_BY_ONE)) > 50


# Testing the tests: a wrong rule must be found.


_serial = itertools.count()


@contextmanager
def temporary(template: Primitive, **wrong: Any) -> Iterator[Primitive]:
    """A primitive like `template`, with wrong rules. Its name is new: transformations remember programs by what they say."""
    primitive = Primitive(f"{template.name}_{next(_serial)}", template.type_rule, template.evaluate, template.family)
    try:
        primitive.define(**{**template.rules, **wrong})
        yield primitive
    finally:
        del REGISTRY[primitive.name]


def _wrong_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    return (ops.sin(x),), (ops.mul(ops.sin(x), t),)


def _wrong_second(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    return (ops.sin(x),), (ops.mul(ops.stop_gradient(ops.cos(x)), t),)


def _wrong_third(primals: Any, tangents: Any) -> Any:
    """The cosine's tangent line in the place of the cosine: right in value and slope."""
    (x,), (t,) = primals, tangents
    at = ops.stop_gradient(x)
    cos = ops.sub(ops.cos(at), ops.mul(ops.sin(at), ops.sub(x, at)))
    return (ops.sin(x),), (ops.mul(cos, t),)


@pytest.mark.parametrize(
    ("template", "check", "wrong"),
    [
        ("sin", check_jvp, {"jvp": _wrong_jvp}),
        ("sin", check_second_order, {"jvp": _wrong_second}),
        ("sin", check_third_order, {"jvp": _wrong_third}),
        ("neg", check_transpose, {"transpose": lambda cts, inputs: list(cts)}),
        ("sin", check_batch, {"batch": lambda axis, args, dims: ((ops.sin(args[0]),), (0,))}),
    ],
)
def test_a_wrong_rule_is_found(template: str, check: Check, wrong: dict[str, Any]) -> None:
    with temporary(REGISTRY[template]) as right:
        # With the right rules of `template`, applied to another primitive of the same meaning, nothing is to be found...
        right.define(jvp=lambda primals, tangents: _like(REGISTRY[template], right, primals, tangents))
        check(sample(lambda x: bind1(right, x), draw(F64, (2, 3))))
    with temporary(REGISTRY[template], **wrong) as primitive, pytest.raises(AssertionError):
        # ... with the wrong ones, it must be.
        if "jvp" not in wrong:
            primitive.define(jvp=lambda primals, tangents: _like(REGISTRY[template], primitive, primals, tangents))
        check(sample(lambda x: bind1(primitive, x), draw(F64, (2, 3))))


def _like(template: Primitive, primitive: Primitive, primals: Any, tangents: Any) -> Any:
    """The jvp rule of `template`, whose linear operation (if it is one) is `primitive`."""
    outs, out_tangents = template.rule("jvp")(primals, tangents)
    if template.name == "neg":
        out_tangents = [bind1(primitive, tangents[0])]
    return outs, out_tangents
