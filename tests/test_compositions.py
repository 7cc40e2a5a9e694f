"""Every transform of every other, of functions with every construct: against differences and Python loops, run eagerly and compiled.

All ordered pairs of transforms are here, arranged so that every function also meets every transform, and a sample of triples. More of both:
TRACEGRAD_TEST_TRIPLES=2000 TRACEGRAD_TEST_ROUNDS=20 pytest tests/test_compositions.py
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import Any

import composition_loops  # noqa: F401  adds control flow to the transforms
import numpy as np
import pytest
from composition_functions import FUNCTIONS, START, STEP
from compositions import TRANSFORMS, Chain, jacobian_at, remembered

import tracegrad as tg
from tracegrad.codegen import target
from tracegrad.ir.evaluate import evaluate
from tracegrad.tracer.abstract import make_ir

pytestmark = pytest.mark.usefixtures("double_precision")

TRIPLES = int(os.environ.get("TRACEGRAD_TEST_TRIPLES", "80"))
ROUNDS = int(os.environ.get("TRACEGRAD_TEST_ROUNDS", "1"))
"""How often each pair of transforms is tried, with other functions and other variants."""

TOLERANCE = {0: 1e-11, 1: 1e-8, 2: 1e-7, 3: 1e-5}
"""Of results of compositions that differentiate so often, relative to the largest element or one: differences of differences lose digits."""


@pytest.fixture
def quick_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM does not optimize: each program runs once, and it is the transforms that are in question."""
    emit = target.emit_object
    monkeypatch.setattr(target, "emit_object", lambda module, host, level=0: emit(module, host, 0))
    monkeypatch.setattr(target, "run_pipeline", lambda *args, **kwargs: None)


_oracles: dict[Any, Any] = {}


def oracle(chain: Chain, x: np.ndarray = START) -> Any:
    """The composition of the oracles, for arguments like `x`; those of inner parts are shared among chains."""
    key: tuple[str, ...] = (chain.base.name, x.dtype.name)
    f = _oracles.get(key)
    if f is None:
        program = make_ir(chain.base.call)(x)
        f = _oracles[key] = remembered(lambda x: evaluate(program, x)[0])
    for operator in reversed(chain.operators):
        key = (*key, operator.name)
        f = _oracles.setdefault(key, remembered(operator.oracle(f)))
    return f


def check(chain: Chain, x: np.ndarray = START) -> None:
    function = chain.built()
    for run in (function, tg.jit(function)):
        if chain.refused:
            with pytest.raises(TypeError, match="forward-mode"):
                run(x)
            continue
        want = oracle(chain, x)(x)
        got = np.asarray(run(x))
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE.get(chain.order, 1e-4) * max(1.0, np.abs(want).max()))


def singles() -> list[Chain]:
    return [Chain((), base) for base in FUNCTIONS.values()]


def pairs() -> list[Chain]:
    """All pairs, of variants in turn, each of a function that the two transforms have not met. Whom a transform did not meet, it meets alone."""
    bases = list(FUNCTIONS.values())
    met: Counter[tuple[str, str]] = Counter()
    used: Counter[str] = Counter()
    found = []
    for _ in range(ROUNDS):
        for outer, inner in itertools.product(TRANSFORMS, TRANSFORMS):
            fitting = [b for b in bases if "custom_jvp" not in (outer, inner) or b.forward]
            base = min(fitting, key=lambda b: (bool(met[outer, b.name]) + bool(met[inner, b.name]), used[b.name]))
            met.update([(outer, base.name), (inner, base.name)])
            used[base.name] += 1
            variants = []
            for position, kind in enumerate((outer, inner)):
                variants.append(TRANSFORMS[kind][used[f"{position} {kind}"] % len(TRANSFORMS[kind])])
                used[f"{position} {kind}"] += 1
            found.append(Chain(tuple(variants), base))
    left = [(kind, base) for kind in TRANSFORMS for base in bases if not met[kind, base.name]]
    return found + [Chain((TRANSFORMS[kind][0],), base) for kind, base in left]


def triples() -> list[Chain]:
    """A fixed sample that differentiates at most three times."""
    rng = np.random.default_rng(2024)
    kinds, bases = list(TRANSFORMS.values()), list(FUNCTIONS.values())
    found: dict[str, Chain] = {}
    while len(found) < TRIPLES:
        variants = [kinds[k][rng.integers(len(kinds[k]))] for k in rng.integers(len(kinds), size=3)]
        chain = Chain(tuple(variants), bases[rng.integers(len(bases))])
        if chain.order <= 3 and not chain.refused and not chain.undecided:
            found[chain.name] = chain
    return list(found.values())


def once_wrong() -> list[Chain]:
    """Compositions outside of the sample that were wrong once: a value chosen under one answer to a condition was used under the other."""
    names = ["map_in_batches(hessian_of_trees(linearize_batched(linear_solves)))"]
    variants = {v.name: v for v in itertools.chain(*TRANSFORMS.values())}
    found = []
    for name in names:
        *outer, base = name.rstrip(")").split("(")
        found.append(Chain(tuple([variants[v] for v in outer]), FUNCTIONS[base]))
    return found


def holomorphic() -> list[Chain]:
    """Every variant of every transform, of holomorphic functions in turn."""
    bases = itertools.cycle([base for base in FUNCTIONS.values() if base.holomorphic])
    return [Chain((v,), base) for v, base in zip(itertools.chain(*TRANSFORMS.values()), bases)]


def by_name(chain: Chain) -> str:
    return chain.name


@pytest.mark.parametrize("chain", singles(), ids=by_name)
def test_functions_agree_with_their_programs_and_with_differences(chain: Chain) -> None:
    """Eager operations and compiled code agree with the evaluated program, so that it can be the oracle; differences of it can be trusted."""
    check(chain)
    f = oracle(chain)
    for k in range(3):
        x = START + k * STEP
        fine, coarse = jacobian_at(f, x), jacobian_at(lambda d, x=x: f(x + 2 * d), 0 * x) / 2
        np.testing.assert_allclose(fine, coarse, rtol=0, atol=1e-6 * max(1.0, np.abs(fine).max()))


@pytest.mark.parametrize("chain", pairs(), ids=by_name)
@pytest.mark.usefixtures("quick_code")
def test_pairs_of_transformations_agree_with_the_oracle(chain: Chain) -> None:
    check(chain)


@pytest.mark.parametrize("chain", triples(), ids=by_name)
@pytest.mark.usefixtures("quick_code")
def test_triples_of_transformations_agree_with_the_oracle(chain: Chain) -> None:
    check(chain)


@pytest.mark.parametrize("chain", once_wrong(), ids=by_name)
def test_what_was_wrong_once(chain: Chain) -> None:
    check(chain)


@pytest.mark.parametrize("chain", holomorphic(), ids=by_name)
@pytest.mark.usefixtures("quick_code")
def test_complex_arguments(chain: Chain) -> None:
    check(chain, START + np.array([0.125j, -0.25j]))


def test_every_pair_and_every_function_under_every_transform_is_here() -> None:
    chains = pairs()
    kinds = [tuple(v.transform for v in c.operators) for c in chains]
    assert set(itertools.product(TRANSFORMS, TRANSFORMS)) <= set(kinds)
    assert {(v.transform, c.base.name) for c in chains for v in c.operators} == set(itertools.product(TRANSFORMS, FUNCTIONS))
    assert {v.name for c in chains for v in c.operators} == {v.name for variants in TRANSFORMS.values() for v in variants}
