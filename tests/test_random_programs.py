"""Properties of random programs: text, passes, compilation and derivatives all keep the meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from random_programs import arguments, functions, program_of

from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.parser import parse
from tracegrad.ir.verify import verify
from tracegrad.transforms.pipeline import PIPELINE, optimize

common: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@given(functions())
@settings(max_examples=150, **common)
def test_text_reads_back_and_passes_keep_every_value(case: Any) -> None:
    with config.override("enable_x64", True):
        program = verify(program_of(*case))
        assert parse(str(program)) == program
        args = arguments(case[1])
        want = evaluate(program, *args)
        for p in PIPELINE:
            program = verify(p(program), p.__name__)
            assert parse(str(program)) == program
            for a, b in zip(evaluate(program, *args), want, strict=True):
                np.testing.assert_array_equal(a, b)


@given(functions())
@settings(max_examples=60, **common)
def test_compiled_equals_evaluated(case: Any) -> None:
    from tracegrad import jit

    with config.override("enable_x64", True):
        args = arguments(case[1])
        want = evaluate(program_of(*case), *args)
        got = jit(case[0])(*args)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-9, atol=1e-11)


@given(functions())
@settings(max_examples=40, **common)
def test_gradients_equal_numeric_ones(case: Any) -> None:
    from tracegrad import grad, jit

    function, in_types = case
    with config.override("enable_x64", True):
        args = arguments(in_types)
        rng = np.random.default_rng(1)
        weights = [rng.normal(size=t.shape) for t in program_of(function, in_types).out_types]

        def scalar(*args: Any) -> Any:
            import tracegrad.numpy as jnp

            return sum(jnp.sum(w * y) for w, y in zip(weights, function(*args)))

        program = optimize(program_of(lambda *a: [scalar(*a)], in_types))
        direction = [rng.normal(size=t.shape) for t in in_types]
        step = 1e-6
        plus, minus = (evaluate(program, *[np.asarray(a + s * step * d) for a, d in zip(args, direction)])[0] for s in (1, -1))
        numeric = (plus - minus) / (2 * step)
        gradient = jit(grad(scalar, argnums=tuple(range(len(args)))))(*args)
        exact = sum(np.sum(np.asarray(g) * d) for g, d in zip(gradient, direction))
        np.testing.assert_allclose(exact, numeric, rtol=2e-4, atol=2e-5)


def test_the_pipeline_is_idempotent_on_a_page_of_programs() -> None:
    seen = []

    @given(functions())
    @settings(max_examples=40, **common)
    def collect(case: Any) -> None:
        with config.override("enable_x64", True):
            once = optimize(program_of(*case))
            assert optimize(once) == once
            seen.append(once)

    collect()
    assert len(seen) >= 40
