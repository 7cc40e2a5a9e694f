"""Derivatives at kinks, ties, edges and out of bounds, through the public names: the values that JAX 0.10.2 gives, eager and compiled.

What the rules of single primitives give there is in test_derivative_conventions.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import grad, jacfwd, jacrev, jvp, lax, nn, scipy  # noqa: F401 - for the expressions

INF, NAN = np.inf, np.nan

VALUES: list[tuple[str, Any]] = [
    # steps and corners
    ("grad(nn.relu)(0.)", 0),
    ("grad(jnp.abs)(0.)", 1),
    ("grad(jnp.abs)(-0.)", 1),
    ("grad(jnp.sign)(0.)", 0),
    ("grad(jnp.round)(1.5)", 0),
    ("grad(jnp.floor)(1.)", 0),
    ("grad(jnp.ceil)(1.)", 0),
    ("grad(jnp.trunc)(1.)", 0),
    ("grad(jnp.heaviside)(0., 0.5)", 0),
    ("grad(jnp.copysign)(0., -1.)", -1),
    ("grad(nn.relu6)(0.)", 0),
    ("grad(nn.relu6)(6.)", 0),
    ("grad(nn.leaky_relu)(0.)", 1),
    ("grad(nn.elu)(0.)", 1),
    ("grad(nn.selu)(0.)", 1.758099),
    ("grad(nn.hard_tanh)(1.)", 1),
    ("grad(nn.hard_sigmoid)(3.)", 0),
    ("grad(nn.hard_swish)(3.)", 1),
    ("grad(nn.softplus)(0.)", 0.5),
    ("grad(nn.soft_sign)(0.)", 1),
    # ties
    ("grad(jnp.maximum, (0, 1))(1., 1.)", (0.5, 0.5)),
    ("grad(jnp.minimum, (0, 1))(1., 1.)", (0.5, 0.5)),
    ("grad(jnp.fmax, (0, 1))(1., 1.)", (0, 1)),
    ("grad(jnp.max)(jnp.array([1., 3, 3, 3]))", [0, 0.333333, 0.333333, 0.333333]),
    ("grad(jnp.min)(jnp.array([1., 1, 3, 3]))", [0.5, 0.5, 0, 0]),
    ("jacrev(lambda x: jnp.max(x, axis=0))(jnp.array([[1., 3], [1, 2]]))", [[[0.5, 0], [0.5, 0]], [[0, 1], [0, 0]]]),
    ("grad(jnp.ptp)(jnp.array([1., 1, 0]))", [0.5, 0.5, -1]),
    ("grad(jnp.median)(jnp.array([1., 2, 2, 0]))", [0.5, 0.5, 0, 0]),
    ("jacfwd(jnp.sort)(jnp.array([1., 1, 0]))", [[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    ("jacfwd(lambda x: lax.top_k(x, 2)[0])(jnp.array([1., 1, 1]))", [[1, 0, 0], [0, 1, 0]]),
    ('grad(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID").sum())(jnp.array([1., 1, 0]))', [1, 1, 0]),
    # bounds
    ("grad(lambda x: jnp.clip(x, 0., 1.))(0.)", 0.5),
    ("grad(lambda x: jnp.clip(x, 0., 1.))(1.)", 0.5),
    ("grad(jnp.clip, (0, 1, 2))(1., 1., 1.)", (0.25, 0.25, 0.5)),
    ("grad(lambda x: lax.clamp(0., x, 1.))(0.)", 0),
    # roots and norms
    ("grad(jnp.sqrt)(0.)", INF),
    ("grad(jnp.cbrt)(0.)", INF),
    ("grad(lambda x: x**0.5)(0.)", INF),
    ("grad(jnp.linalg.norm)(jnp.zeros(3))", [NAN, NAN, NAN]),
    ("grad(lambda x: jnp.linalg.norm(x, 1))(jnp.zeros(3))", [1, 1, 1]),
    ("grad(lambda x: jnp.linalg.norm(x, jnp.inf))(jnp.zeros(3))", [0.166667, 0.166667, 0.166667]),
    ("grad(jnp.std)(jnp.ones(3))", [NAN, NAN, NAN]),
    ("grad(jnp.var)(jnp.ones(3))", [0, 0, 0]),
    ("grad(jnp.hypot, (0, 1))(0., 0.)", (0.5, 0.5)),
    ("grad(jnp.arctan2, (0, 1))(0., 0.)", (NAN, NAN)),
    # powers
    ("grad(lambda x: x**2)(0.)", 0),
    ("grad(lambda x: x**0)(0.)", 0),
    ("grad(lambda x: x**0.)(0.)", NAN),
    ("grad(lambda x: x**1.)(0.)", 1),
    ("grad(jnp.power, (0, 1))(0., 0.)", (NAN, 0)),
    ("grad(jnp.power, (0, 1))(0., 2.)", (0, 0)),
    ("grad(jnp.power, (0, 1))(-2., 2.)", (-4, NAN)),
    ("grad(jnp.float_power, (0, 1))(0., 1.)", (1, 0)),
    # a NaN that the other branch makes
    ("grad(lambda x: jnp.where(x > 0, jnp.log(x), 0.))(0.)", NAN),
    ("grad(lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.)), 0.))(0.)", 0),
    ("grad(lambda x: lax.cond(x > 0, jnp.log, lambda x: 0. * x, x))(0.)", 0),
    # logarithms and their sums
    ("grad(jnp.log)(0.)", INF),
    ("grad(jnp.logaddexp, (0, 1))(0., 0.)", (0.5, 0.5)),
    ("grad(jnp.logaddexp, (0, 1))(-jnp.inf, 0.)", (0, 1)),
    ("grad(jnp.logaddexp, (0, 1))(-jnp.inf, -jnp.inf)", (NAN, NAN)),
    ("grad(jnp.logaddexp, (0, 1))(jnp.inf, jnp.inf)", (1, 1)),
    ("grad(nn.logsumexp)(jnp.array([-jnp.inf, 1.]))", [0, 1]),
    ("grad(nn.logsumexp)(jnp.array([-jnp.inf, -jnp.inf]))", [NAN, NAN]),
    ("jacfwd(nn.softmax)(jnp.array([-jnp.inf, 0.]))", [[0, 0], [0, 0]]),
    ("grad(scipy.special.xlogy, (0, 1))(0., 0.)", (-INF, NAN)),
    ("grad(scipy.special.entr)(0.)", INF),
    ("grad(jnp.sinc)(0.)", 0),
    ("grad(grad(jnp.sinc))(0.)", -3.289868),
    # products
    ("grad(jnp.prod)(jnp.array([0., 2, 3]))", [6, 0, 0]),
    ("grad(jnp.prod)(jnp.array([0., 0, 3]))", [0, 0, 0]),
    ("jacfwd(jnp.cumprod)(jnp.array([0., 2, 3]))", [[1, 0, 0], [2, 0, 0], [6, 0, 0]]),
    # divisions and remainders
    ("grad(jnp.divide, (0, 1))(1., 0.)", (INF, -INF)),
    ("grad(jnp.remainder, (0, 1))(4., 2.)", (1, -2)),
    ("grad(jnp.fmod, (0, 1))(-5.5, 2.)", (1, 2)),
    ("grad(jnp.floor_divide, (0, 1))(5.5, 2.)", (0, 0)),
    # NaN
    ("grad(jnp.max)(jnp.array([1., jnp.nan]))", [NAN, NAN]),
    ("grad(jnp.maximum, (0, 1))(jnp.nan, 1.)", (0, 0)),
    ("grad(jnp.nansum)(jnp.array([1., jnp.nan]))", [1, 0]),
    ("grad(jnp.nanmax)(jnp.array([1., jnp.nan]))", [1, 0]),
    ("grad(jnp.nan_to_num)(jnp.nan)", 0),
    # indices out of bounds, and more than once
    ("grad(lambda x: x[jnp.array(7)])(jnp.ones(3))", [0, 0, 1]),
    ("grad(lambda x: jnp.take(x, jnp.array([7, 1])).sum())(jnp.ones(3))", [0, 1, 0]),
    ("grad(lambda x: x.at[5].set(9.).sum())(jnp.ones(3))", [1, 1, 1]),
    ("grad(lambda u: jnp.zeros(2).at[jnp.array([0, 0])].set(u).sum())(jnp.ones(2))", [0, 1]),
    ("jacfwd(lambda u: jnp.ones(2).at[jnp.array([0, 0])].max(u))(jnp.ones(2))", [[0.333333, 0.333333], [0, 0]]),
    # matrices
    ("jnp.isfinite(jacfwd(lambda x: jnp.linalg.eigh(x)[1])(jnp.eye(2))).any()", False),
    ("jacfwd(lambda x: jnp.linalg.svd(x, compute_uv=False))(jnp.eye(2))", [[[1, 0], [0, 0]], [[0, 0], [0, 1]]]),
    ("grad(jnp.linalg.det)(jnp.zeros((2, 2)))", [[0, 0], [0, 0]]),
    ("grad(jnp.linalg.det)(jnp.diag(jnp.array([1., 2, 0])))", [[0, 0, 0], [0, 0, 0], [0, 0, 2]]),
    # complex numbers
    ("grad(lambda z: jnp.abs(z)**2)(1 + 1j)", 2 - 2j),
    ("grad(jnp.abs)(0j)", 0 + 0j),
    # loops
    ("grad(lambda x: lax.fori_loop(0, 3, lambda i, c: c * x, 1.))(2.)", 12),
    ("jvp(lambda x: lax.while_loop(lambda c: c < 10, lambda c: c * x, 1.), (2.,), (1.,))[1]", 32),
]


def agree(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected):
            agree(a, b)
    else:
        np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("expression", "expected"), VALUES, ids=[e for e, _ in VALUES])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_values_where_derivatives_are_a_convention(expression: str, expected: Any) -> None:
    agree(eval(expression), expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_compiled_code_keeps_the_conventions() -> None:
    found = tg.jit(lambda: [eval(expression) for expression, _ in VALUES])()
    wrong = []
    for value, (expression, expected) in zip(found, VALUES):
        try:
            agree(value, expected)
        except AssertionError as e:
            wrong.append(f"{expression}: {e}")
    assert not wrong, "\n".join(wrong)


def test_points_that_are_arguments_of_compiled_code() -> None:
    # Constants could have been folded; these are not known when the code is made.
    at_zero = [
        nn.relu,
        jnp.abs,
        jnp.sqrt,
        jnp.linalg.norm,
        lambda x: x**2,
        lambda x: jnp.maximum(x, 0.0),
        lambda x: jnp.clip(x, 0, 1),
    ]
    found = tg.jit(lambda x: [grad(f)(x) for f in at_zero])(np.float32(0))
    np.testing.assert_array_equal(np.asarray(found), [0, 1, INF, NAN, 0, 0.5, 0.5])
    found = tg.jit(grad(jnp.max))(np.float32([1, 3, 3, 3]))
    np.testing.assert_allclose(found, [0, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    found = tg.jit(grad(lambda x: jnp.where(x > 0, jnp.log(x), 0.0)))(np.float32(0))
    assert np.isnan(found)
