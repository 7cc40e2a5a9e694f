"""Taylor mode of every primitive, on its samples: along a curve of random terms it must give what nested forward mode gives.

Where forward mode refuses, Taylor mode must refuse with the same class of error. Derivatives of order one and two are held against differences of values in
test_primitives.py, so that agreement with nested jvp is agreement with the truth.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from primitive_samples import C128, F64, Case, all_cases, draw, sample

from tracegrad.ir import ops
from tracegrad.ir.bind import bind1, type_of
from tracegrad.ir.config import config
from tracegrad.ir.primitive import REGISTRY, Primitive
from tracegrad.transforms.jet import jet_flat, load_rules
from tracegrad.transforms.jet_rules import sine_and_cosine
from tracegrad.transforms.jvp import jvp_flat
from tracegrad.transforms.series import Series
from tracegrad.transforms.zero import is_zero

NAMES = [name for name, p in REGISTRY.items() if importlib.util.find_spec(f"tracegrad.ir.{p.family}") is not None]
ORDER = 4
Curve = dict[int, list[np.ndarray]]


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True), np.errstate(all="ignore"):
        yield


def representative(cases: list[Case]) -> list[Case]:
    """All that have something to differentiate, but of elementwise primitives one for each combination of ranks and dtypes."""
    cases = [case for case in cases if case.differentiable and any(t.dtype in (F64, C128) for t in case.types)]
    if not cases or cases[0].primitive.family not in ("elementwise", "special"):
        return cases
    return list({tuple((t.dtype, t.ndim) for t in c.types) + tuple(c.params.items()): c for c in cases}.values())


def curve(case: Case, moving: Sequence[int], order: int) -> Curve:
    """Derivatives 1, 2, ... of the operands in `moving` at the start of a curve; a curve of one operand alone is a straight line."""
    terms = {
        i: [case.direction(draw(x.dtype, x.shape, -0.6, 0.6, f"term {i} {k}")) for k in range(order)]
        for i, x in enumerate(case.operands)
        if i in moving
    }
    if len(moving) == 1:
        return {i: row[:1] for i, row in terms.items()}
    return terms


def at(case: Case, terms: dict[int, list[np.ndarray]], t: Any) -> list[Any]:
    """The operands at the time t along the curve."""
    operands: list[Any] = list(case.operands)
    for i, row in terms.items():
        power: Any = 1.0
        for k, d in enumerate(row, start=1):
            power = ops.mul(power, t) if k > 1 else t
            step = ops.mul(ops.convert_element_type(power, d.dtype), np.asarray(d / math.factorial(k), d.dtype))
            operands[i] = ops.add(operands[i], step)
    return operands


def nested(fun: Callable[[Any], Sequence[Any]], order: int) -> list[list[Any]]:
    """The derivatives 0, 1, ... of the results of a function of a number, at 0, by forward mode over forward mode."""
    n = 0

    def level(k: int, t: Any) -> list[Any]:
        nonlocal n
        if k == 0:
            outs = list(fun(t))
            n = len(outs)
            return outs
        outs, dots = jvp_flat(lambda t: level(k - 1, t), [t], [np.float64(1)])
        return outs + [np.zeros(type_of(x).shape, type_of(x).dtype) if is_zero(d) else d for x, d in zip(outs[-n:], dots[-n:])]

    flat = level(order, np.float64(0))
    return [flat[k * n : (k + 1) * n] for k in range(order + 1)]


def check(case: Case) -> None:
    regions = bool(case.primitive.regions)  # (which take longer, and know nothing of single orders)
    check_along(case, curve(case, case.differentiable, ORDER), [ORDER] if regions else range(1, ORDER + 1))
    for i in case.differentiable if not regions else ():
        check_along(case, curve(case, (i,), ORDER), [ORDER])


def check_along(case: Case, terms: Curve, orders: Sequence[int]) -> None:
    operands = [
        [x, *[np.asarray(d / math.factorial(k)) for k, d in enumerate(terms.get(i, ()), start=1)]]
        for i, x in enumerate(case.operands)
    ]
    operands = [x + [None] * (ORDER + 1 - len(x)) for x in operands]
    try:
        expected = nested(lambda t: case(*at(case, terms, t)), ORDER)
    except (NotImplementedError, TypeError, ValueError) as refusal:
        with pytest.raises(type(refusal)):
            jet_flat(case, operands, ORDER)
        return
    for order in orders:
        compare(case, jet_flat(case, [x[: order + 1] for x in operands], order), expected)


def compare(case: Case, actual: Sequence[Series], expected: Sequence[Sequence[Any]]) -> None:
    bound = 1e-9 * max(case.tolerance, 1.0) ** 0.25
    for i, (value, *terms) in enumerate(actual):
        np.testing.assert_allclose(value, expected[0][i], rtol=bound, err_msg=f"result {i}")
        for k, c in enumerate(terms, start=1):
            want = np.asarray(expected[k][i])
            if want.dtype.kind not in "fc":
                assert c is None, f"result {i} is {want.dtype} and has a term {k}"
                continue
            got = np.zeros_like(want) if c is None else np.asarray(c) * math.factorial(k)
            assert (got.dtype, got.shape) == (want.dtype, want.shape), f"result {i}, term {k}: {got.dtype}{got.shape}"
            atol = bound * (1 + np.max(np.abs(want), initial=0.0))
            np.testing.assert_allclose(got, want, rtol=bound, atol=atol, err_msg=f"result {i}, term {k} of {len(terms)}")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "custom_vjp_call"])
def test_agrees_with_nested_jvp(name: str) -> None:
    failures = []
    cases = representative(all_cases()[name])
    for case in cases:
        try:
            check(case)
        except Exception as e:
            failures.append(f"{case.name}: {type(e).__name__}: {str(e).strip()[:900]}")
    assert not failures, f"{len(failures)} of {len(cases)} samples fail:\n" + "\n".join(failures)


def test_custom_vjp_is_expanded_as_it_is() -> None:
    """Forward mode refuses what has a rule for reverse mode only; the series of the function itself is known."""
    (case,) = all_cases()["custom_vjp_call"]
    (row,) = curve(case, (0,), ORDER).values()
    (y,) = jet_flat(case, [[case.operands[0], row[0], None, None]], 3)
    x, d = case.operands[0], row[0]
    for c, want in zip(y, (np.sin(x), np.cos(x) * d, -np.sin(x) * d**2 / 2, -np.cos(x) * d**3 / 6), strict=True):
        np.testing.assert_allclose(c, want, rtol=1e-12)


def test_a_wrong_rule_is_found() -> None:
    """The series of sin with the sign of the cosine's recurrence turned, as if it were sinh."""
    load_rules()
    sin = REGISTRY["sin"]
    wrong = Primitive("sin_with_a_wrong_series", sin.type_rule, sin.evaluate, sin.family)
    try:
        wrong.define(jvp=sin.rule("jvp"), jet=lambda operands: [sine_and_cosine(operands[0], ops.sin, ops.cos, 1.0)[0]])
        case = sample(lambda x: bind1(wrong, x), draw(F64, (3,)))
        with pytest.raises(AssertionError):
            check(case)
        wrong.define(jet=sin.rule("jet"))
        check(case)
    finally:
        del REGISTRY[wrong.name]
