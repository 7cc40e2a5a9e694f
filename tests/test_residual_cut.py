"""The choice of residuals against an exhaustive search: what is kept suffices, and nothing smaller does."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.program import Equation, Var
from tracegrad.ir.types import ArrayType
from tracegrad.transforms.residuals import CHEAP, MOST_STEPS, kept_and_rebuilt


def random_graph(rng: np.random.Generator) -> tuple[list[Var], dict[Var, Equation], dict[Var, int], list[Var]]:
    """(values, the equations that make them, their sizes, those that are read): cheap and dear operations on two inputs."""
    values = [Var(ArrayType((1,), np.dtype(np.float32))) for _ in range(2)]
    made: dict[Var, Equation] = {}
    for _ in range(8):
        name = str(rng.choice(["add", "mul", "neg", "sin", "tanh"]))
        n = 2 if name in ("add", "mul") else 1
        out = Var(values[0].type)
        made[out] = Equation(REGISTRY[name], [values[i] for i in rng.integers(0, len(values), n)], [out], {})
        values.append(out)
    sizes = {v: int(s) for v, s in zip(values, rng.choice([0, 100, 200, 400, 1000], len(values), p=[0.1, 0.3, 0.2, 0.2, 0.2]))}
    wanted = [values[i] for i in rng.choice(len(values), 4, replace=False)]
    return values, made, sizes, wanted


def reachable(v: Var, kept: set[Var], made: dict[Var, Equation], wanted: list[Var], steps: int = 0) -> bool:
    """Whether cheap operations make a value of those kept, by chains that are not too long between values that are read."""
    if v in kept:
        return True
    steps = MOST_STEPS if v in wanted else steps
    eqn = made.get(v)
    if not steps or eqn is None or eqn.primitive.name not in CHEAP:
        return False
    return all(reachable(a, kept, made, wanted, steps - 1) for a in eqn.inputs)


@pytest.mark.parametrize("seed", range(60))
def test_what_is_kept_suffices_and_is_least(seed: int) -> None:
    values, made, sizes, wanted = random_graph(np.random.default_rng(seed))
    kept, again = kept_and_rebuilt(wanted, made, sizes.__getitem__)
    # The equations compute what is read from what is kept, in their order.
    have = set(kept)
    for eqn in again:
        assert eqn.primitive.name in CHEAP and have.issuperset(eqn.inputs)
        have.update(eqn.outputs)
    assert have.issuperset(wanted)
    free = {v for v in values if sizes[v] == 0}
    others = [v for v in values if sizes[v]]
    choices = chain.from_iterable(combinations(others, n) for n in range(len(others) + 1))
    least = min(
        sum(sizes[v] for v in c) for c in choices if all(reachable(v, free.union(c), made, wanted) for v in wanted)
    )
    # A value further away counts a little more: up to MOST_STEPS sixteenths.
    assert least <= sum(sizes[v] for v in kept) <= least * (1 + MOST_STEPS / 16)


def test_nothing_is_computed_again_for_nothing() -> None:
    x, y, z = [Var(ArrayType((1,), np.dtype(np.float32))) for _ in range(3)]
    made = {y: Equation(REGISTRY["sin"], [x], [y], {}), z: Equation(REGISTRY["neg"], [y], [z], {})}
    assert kept_and_rebuilt([z], made, lambda v: 4) == ({z}, [])
    kept, again = kept_and_rebuilt([z, y], made, lambda v: 4)
    assert kept == {y} and again == [made[z]]
