"""What derivatives keep and compute, held to numbers worked out by hand.

Three measures. *Residual bytes*: what linearization hands to the backward pass beyond the arguments, which the caller has anyway. *Equations* of
the optimized program of value and gradient, loops and branches included. *Bytes a step*: what the forward loop of a gradient stacks for each of its
steps. A number in a test is the ideal, or the ideal and what it is exceeded by, with the reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax, nn
from tracegrad.ad_checkpoint import checkpoint_name, print_saved_residuals, saved_residuals
from tracegrad.ir.program import Equation, Literal, Program

F = 4  # bytes of a float


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def residual_bytes(f: Callable[..., Any], *args: Any) -> int:
    """Bytes that the backward pass keeps, arguments and constants of the caller apart."""
    return sum(t.nbytes for t, text in saved_residuals(f, *args) if text.startswith(("output", "named", "carry")))


def optimized(f: Callable[..., Any], *args: Any) -> Program:
    return tg.jit(f).lower(*args).optimized


def gradient(f: Callable[..., Any], *args: Any) -> Program:
    """The optimized program of value and gradient in all arguments that have one."""
    return optimized(tg.value_and_grad(f, [i for i, x in enumerate(args) if np.asarray(x).dtype.kind == "f"]), *args)


def equations(program: Program) -> int:
    return sum(1 for _ in program.walk())


def names(program: Program) -> list[str]:
    return [e.primitive.name for e in program.walk()]


def scans(program: Program) -> list[Equation]:
    return [e for e in program.equations if e.primitive.name == "scan"]


def step_bytes(program: Program) -> int:
    """What the first loop of a program stacks for each of its steps."""
    eqn = scans(program)[0]
    return sum(v.type.nbytes for v in eqn.outputs[eqn.params["num_carry"] :]) // eqn.params["length"]


def arrays_of_zeros(program: Program) -> list[Equation]:
    found = []
    for e in program.walk():
        a = e.inputs[0] if e.inputs else None
        if e.primitive.name == "broadcast_in_dim" and isinstance(a, Literal) and a.value == 0:
            found.append(e)
    return found


# Functions without loops

X, W1, B1, W2, B2, Y = normal(64, 10), normal(10, 32), normal(32), normal(32, 3), normal(3), normal(64, 3)
N, H, O = 64, 32, 3  # examples, hidden units, outputs


def network(activation: Callable[[Any], Any]) -> Callable[..., Any]:
    def loss(w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        h = activation(X @ w1 + b1)
        return ((h @ w2 + b2 - Y) ** 2).mean()

    return loss


def cross_entropy(w: Any) -> Any:
    labels = np.arange(N, dtype=np.int32) % 10
    return -jnp.take_along_axis(nn.log_softmax(X @ w), labels[:, None], axis=1).mean()


def soft_cross_entropy(w: Any) -> Any:
    targets = np.full((N, 10), 0.1, np.float32)
    return -(targets * nn.log_softmax(X @ w)).sum(-1).mean()


def attention(wq: Any, wk: Any, wv: Any, x: Any) -> Any:
    q, k, v = x @ wq, x @ wk, x @ wv
    s = nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k) / np.float32(8**0.5))
    return (jnp.einsum("bqk,bkd->bqd", s, v) ** 2).sum()


def layer_norm(x: Any, g: Any, b: Any) -> Any:
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    return ((x - m) / jnp.sqrt(v + 1e-5) * g + b).sum()


def convolution_and_pool(w: Any, v: Any, x: Any) -> Any:
    y = nn.relu(lax.conv_general_dilated(x, w, (1, 1), "SAME"))
    y = lax.reduce_window(y, np.float32(-np.inf), lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return (y.reshape(y.shape[0], -1) @ v).sum()


def embedding(table: Any, w: Any) -> Any:
    return (jnp.tanh(table[np.arange(20) % 7] @ w) ** 2).sum()


WIDE = normal(N, H)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int, int]] = {
    # The hidden layer, for the product after it and for tanh' = 1 - tanh^2; the doubled error.
    # Forward: 2 products, 2 biases broadcast and added, tanh, sub, square, sum, div. Backward: 2 (error), 3 products, 2 sums, 1 - h^2 and its product
    # with the cotangent (3).
    "mlp of tanh": (network(jnp.tanh), (W1, B1, W2, B2), (N * H + N * O) * F, 21),
    # relu' is a comparison of what goes in, relu one select away from it: one array for both.
    "mlp of relu": (network(nn.relu), (W1, B1, W2, B2), (N * H + N * O) * F, 20),
    "mlp of sigmoid": (network(nn.sigmoid), (W1, B1, W2, B2), (N * H + N * O) * F, 21),
    # x * sigmoid(x): x and the sigmoid; the result follows from them.
    "mlp of silu": (network(nn.silu), (W1, B1, W2, B2), (2 * N * H + N * O) * F, 25),
    # The exponentials and their sums (the probabilities, in two factors).
    "softmax cross-entropy": (cross_entropy, (normal(10, 10),), (N * 10 + N) * F, 27),
    "soft cross-entropy": (soft_cross_entropy, (normal(10, 10),), (N * 10 + N) * F, 22),
    "log-sum-exp": (lambda x: nn.logsumexp(x, axis=-1).sum(), (WIDE,), (N * H + N) * F, 13),
    # The probabilities; and the sums, with which the exponentials follow from them.
    "softmax": (lambda x: (nn.softmax(x) * WIDE).sum(), (WIDE,), (N * H + N) * F, 16),
    # Queries, keys, values, the doubled result, the probabilities and the sums.
    "attention": (attention, (*[normal(16, 8)] * 3, normal(4, 12, 16)), (4 * 4 * 12 * 8 + 4 * 12 * 12 + 4 * 12) * F, 36),
    # x - m follows from x and the means, and the quotient from that and the deviations: two numbers a row.
    "layer norm": (layer_norm, (WIDE, normal(H), normal(H)), 2 * N * F, 43),
    # What goes into relu, from which come relu, its derivative, and the places of the maxima; and what goes into the product.
    "convolution and pool": (
        convolution_and_pool,
        (normal(8, 3, 3, 3), normal(8 * 8 * 8, 5), normal(4, 3, 16, 16)),
        (4 * 8 * 16 * 16 + 4 * 8 * 8 * 8) * F,
        16,
    ),
    # The rows looked up, which are smaller than the table, and tanh.
    "embedding": (embedding, (normal(100, 16), normal(16, 4)), (20 * 16 + 20 * 4) * F, 12),
    "sum of squares": (lambda x: (x**2).sum(), (WIDE,), 0, 3),
    "cumulative sum": (lambda x: (jnp.cumsum(x) ** 2).sum(), (normal(200),), 200 * F, 5),
    "cumulative product": (lambda x: jnp.cumprod(x).sum(), (normal(8),), 8 * F, 16),
    "maximum": (lambda x: x.max(-1).sum(), (WIDE,), N * F + N * H, 8),
    # cos is one array, and there is nothing to do for what leaves sin for good.
    "sin": (lambda x: jnp.sin(x).sum(), (WIDE,), N * H * F, 3),
    "root": (lambda x: jnp.sqrt(1 + x * x).sum(), (WIDE,), 0, 7),
    "quotient": (lambda x, y: (x / y).sum(), (WIDE, WIDE), 0, 5),
    "clip": (lambda x: jnp.clip(jnp.sin(x), -0.5, 0.5).sum(), (WIDE,), 2 * N * H * F, 15),
}


@pytest.mark.parametrize("name", CASES)
def test_residuals_and_equations(name: str) -> None:
    f, args, kept, count = CASES[name]
    assert (residual_bytes(f, *args), equations(gradient(f, *args))) == (kept, count)


# Loops: what is kept of each step

STEPS, BATCH, CELL = 20, 8, 16
XS = normal(STEPS, BATCH, 12)
ONE = BATCH * CELL * F  # an array of the state


def lstm(wx: Any, wh: Any, b: Any) -> Any:
    def step(state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(x @ wx + h @ wh + b, 4, -1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((BATCH, CELL), np.float32)
    return (lax.scan(step, (zero, zero), XS)[1] ** 2).sum()


def recurrent(w: Any, u: Any) -> Any:
    step = lambda h, x: (jnp.tanh(h @ w + x @ u), None)  # noqa: E731
    return (lax.scan(step, jnp.zeros((BATCH, CELL), np.float32), XS)[0] ** 2).sum()


def leapfrog(q: Any, p: Any, k: Any) -> Any:
    def step(state: Any, _: Any) -> Any:
        q, p = state
        p = p - 0.05 * k * jnp.sin(q)
        q = q + 0.1 * p
        p = p - 0.05 * k * jnp.sin(q)
        return (q, p), None

    q, p = lax.scan(step, (q, p), None, length=STEPS)[0]
    return (q**2).sum() + (p**2).sum()


def kalman(a: Any, c: Any, q: Any, r: Any) -> Any:
    def step(state: Any, y: Any) -> Any:
        m, p = state
        m, p = a @ m, a @ p @ a.T + q
        s = c @ p @ c.T + r
        gain = jnp.linalg.solve(s, c @ p).T
        e = y - c @ m
        likelihood = -0.5 * (e @ jnp.linalg.solve(s, e) + jnp.linalg.slogdet(s)[1])
        return (m + gain @ e, p - gain @ s @ gain.T), likelihood

    start = jnp.zeros(4, np.float32), jnp.eye(4, dtype=np.float32)
    return -lax.scan(step, start, normal(STEPS, 2))[1].sum()


def with_constants(w: Any, x: Any) -> Any:
    step = lambda s, t: (s * jnp.exp(jnp.sin(w)).sum() + t, None)  # noqa: E731
    return lax.scan(step, np.float32(0), x)[0]


EYE = np.eye(4, dtype=np.float32)
LOOPS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int]] = {
    # The four gates, tanh of the cell, the cell before, and the hidden state twice: as a result, and as what the next step reads.
    "lstm": (lstm, (normal(12, 4 * CELL), normal(CELL, 4 * CELL), normal(4 * CELL)), 8 * ONE),
    # The hidden state, once: what a step ends with is what the next starts with, and tanh' is made of it.
    "recurrent": (recurrent, (normal(CELL, CELL), normal(12, CELL)), ONE),
    # The force and its derivative at the positions, each at one position a step though a step uses two: sin and cos of one array.
    "leapfrog": (leapfrog, (normal(32), normal(32), np.float32(1.5)), 2 * 32 * F),
    # Predicted and updated mean (4 + 4) and covariance (16 + 16), a p (16), c p (8), the gain (8) and its product with s (8), s (4) and its
    # factors (4 and 2 of the permutation), the innovation (2) and its solution (2); and the result (1).
    "kalman": (kalman, (0.3 * normal(4, 4), normal(2, 4), EYE, EYE[:2, :2]), 95 * F),
    # The sum is known before the loop; the products with it read the carries.
    "constants": (with_constants, (normal(100), normal(STEPS)), F),
}


@pytest.mark.parametrize("name", LOOPS)
def test_bytes_kept_of_each_step(name: str) -> None:
    f, args, kept = LOOPS[name]
    assert step_bytes(gradient(f, *args)) == kept


def test_successive_steps_of_a_leapfrog_share_their_force() -> None:
    program = gradient(leapfrog, *LOOPS["leapfrog"][1])
    forward, backward = scans(program)
    inside = names(forward.params["body"])
    assert inside.count("sin") == inside.count("cos") == 1
    assert not {"sin", "cos"} & set(names(backward.params["body"]))


def test_what_does_not_change_is_differentiated_once() -> None:
    program = gradient(with_constants, *LOOPS["constants"][1])
    for loop in scans(program):
        # Nothing of the size of w is computed in a step, or summed up over the steps.
        assert all(v.type.shape == () for e in loop.params["body"].equations for v in e.outputs)


def test_value_and_gradient_share_the_forward_pass() -> None:
    for name in ("lstm", "kalman"):
        f, args, _ = LOOPS[name]
        both, alone = gradient(f, *args), optimized(f, *args)
        assert len(scans(both)) == 2
        for primitive in ("tanh", "logistic", "lu", "log"):
            assert names(both).count(primitive) == names(alone).count(primitive)


def test_loops_lose_what_nobody_reads() -> None:
    def f(x: Any) -> Any:
        def step(c: Any, t: Any) -> Any:
            a, unread, still, counter = c
            return (a * still + t[0], unread + jnp.exp(a), still, counter + 1), (a, jnp.sin(t[1]), counter)

        return lax.scan(step, (x[0], x[1], x[2], 0), (x, x * 2))[0][0]

    (loop,) = scans(optimized(f, normal(9)))
    body = loop.params["body"]
    assert (loop.params["num_consts"], loop.params["num_carry"], len(body.inputs), len(body.outputs)) == (1, 1, 3, 1)
    assert names(body) == ["mul", "add"]
    forward, backward = scans(gradient(f, normal(9)))
    assert "exp" not in names(forward.params["body"]) and len(forward.outputs) == 2

    def g(x: Any) -> Any:
        body = lambda c: (c[0] + 1, c[1] * c[3], c[2] + jnp.exp(c[1]), c[3])  # noqa: E731
        return lax.while_loop(lambda c: c[0] < c[3], body, (np.float32(0), x, x, x + 5))[1]

    loop = next(e for e in optimized(g, np.float32(1)).equations if e.primitive.name == "while")
    assert len(loop.outputs) == 2 and "exp" not in names(loop.params["body"])


# Symbolic zeros


def through_scan(x: Any, y: Any) -> Any:
    def step(c: Any, t: Any) -> Any:
        a, i, s = c
        return (a * t[0] + y[0], i + 1, lax.stop_gradient(s * a)), (a, i, lax.stop_gradient(a), t[1])

    (a, _, _), ys = lax.scan(step, (x[0], 0, x[1]), (x, np.arange(4, dtype=np.int32)))
    return a + ys[0][2] + ys[2][1]


def through_cond(x: Any, y: Any) -> Any:
    constant, stopped = lax.stop_gradient(x), lax.stop_gradient(y)
    # Both branches keep one array; a branch that keeps fewer than another fills the place of what it has not.
    branches = lambda a, b: (jnp.sin(a), b, 2), lambda a, b: (jnp.exp(a) + b, b * 2, 3)  # noqa: E731
    return lax.cond(constant[0] > 0, *branches, x, stopped)[0].sum()


def through_while(x: Any, y: Any) -> Any:
    body = lambda c: (c[0] + 1, jnp.sin(c[1]), c[2] * 2.0)  # noqa: E731
    return lax.while_loop(lambda c: c[0] < 3, body, (0, x, lax.stop_gradient(y)))[1].sum()


@tg.custom_vjp
def scaled(x: Any, y: Any, n: Any) -> Any:
    return jnp.sin(x) * y


scaled.defvjp(lambda x, y, n: (scaled(x, y, n), (x, y)), lambda res, ct: (ct * jnp.cos(res[0]) * res[1], None, None))


@tg.custom_jvp
def tilted(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


tilted.defjvps(lambda t, ans, x, y: t * jnp.cos(x) * y, None)

WITHOUT_ZEROS: dict[str, Callable[..., Any]] = {
    "unused": lambda x, y: jnp.sin(x).sum(),
    "stopped": lambda x, y: (x * lax.stop_gradient(jnp.exp(x) * y)).sum(),
    "integers": lambda x, y: (x * jnp.arange(4) + jnp.round(x).astype(np.int32)).sum(),
    "scan": through_scan,
    "cond": through_cond,
    "while": through_while,
    "custom_vjp": lambda x, y: (scaled(x, jnp.exp(y), 3) + x).sum(),
    "custom_jvp": lambda x, y: (tilted(x, jnp.exp(y)) + x).sum(),
    "checkpoint": lambda x, y: tg.checkpoint(lambda x, y: jnp.sin(x) * lax.stop_gradient(y))(x, y).sum(),
    "jit": lambda x, y: tg.jit(lambda x, y: (jnp.sin(x) * y, y))(x, lax.stop_gradient(y))[0].sum(),
    "vmap": lambda x, y: tg.vmap(lambda a, b: jnp.sin(a) * lax.stop_gradient(b))(x, y).sum(),
}


@pytest.mark.parametrize(
    "mode, name",
    # A custom_vjp function has no forward mode.
    [(m, n) for m in ("grad", "vjp", "jvp", "linearize") for n in WITHOUT_ZEROS if n != "custom_vjp" or m in ("grad", "vjp")],
)
def test_no_zeros_are_made_for_what_has_no_derivative(name: str, mode: str) -> None:
    f = WITHOUT_ZEROS[name]
    x, y = normal(4), normal(4) + 3
    one = lambda x: f(x, y)  # noqa: E731
    derivative: dict[str, Callable[..., Any]] = {
        "grad": lambda x, y: tg.grad(f)(x, y),
        "vjp": lambda x, y: tg.vjp(one, x)[1](np.float32(1)),
        "jvp": lambda x, y: tg.jvp(one, (x,), (y,)),
        "linearize": lambda x, y: tg.linearize(one, x)[1](y),
    }
    program = tg.jit(derivative[mode]).lower(x, y).program  # as traced, before any pass
    assert arrays_of_zeros(program) == []


def test_zeros_that_are_results_are_made_once() -> None:
    program = optimized(tg.grad(lambda x, y, z: jnp.sin(x).sum(), (0, 1, 2)), *[normal(4)] * 3)
    assert names(program) == ["cos", "broadcast_in_dim"] and program.outputs[1] is program.outputs[2]


# checkpoint

policies = tg.checkpoint_policies
W = normal(CELL, CELL)
H0 = normal(BATCH, CELL)


def layer(w: Any, x: Any) -> Any:
    h = jnp.tanh(checkpoint_name(x @ w, "product"))
    return checkpoint_name(jnp.sin(h), "layer")


def two_layers(w: Any, x: Any) -> Any:
    return layer(w, layer(w, x)).sum()


def jitted(w: Any, x: Any) -> Any:
    return tg.jit(two_layers)(w, x)


def scanned(w: Any, x: Any) -> Any:
    c, ys = lax.scan(lambda c, t: (layer(w, c + t), c), x, normal(5, BATCH, CELL))
    return c.sum() + (ys**2).sum()


def branched(w: Any, x: Any) -> Any:
    return lax.cond(x.sum() > 0, lambda x: layer(w, x).sum(), lambda x: (jnp.cos(x @ w) ** 2).sum(), x)


def branches_in_a_scan(w: Any, x: Any) -> Any:
    step = lambda c, t: (lax.cond(t.sum() > 0, lambda c: layer(w, c), lambda c: jnp.cos(c @ w), c), None)  # noqa: E731
    return lax.scan(step, x, normal(5, BATCH, CELL))[0].sum()


POLICIES: dict[str, tuple[Any, tuple[int, int, int, int]]] = {
    # Arrays of the state kept by two layers, by five steps, by a branch, and by a branch in five steps.
    "nothing": (None, (0, 0, 0, 0)),
    "dots": (policies.dots_saveable, (2, 5, 1, 5)),
    "dots without batch": (policies.dots_with_no_batch_dims_saveable, (2, 5, 1, 5)),
    "offloaded dots": (policies.offload_dot_with_no_batch_dims("device", "pinned_host"), (2, 5, 1, 5)),
    "one name": (policies.save_only_these_names("product"), (2, 5, 1, 5)),
    "names but one": (policies.save_any_names_but_these("product"), (1, 5, 0, 5)),
    "offloaded names": (
        policies.save_and_offload_only_these_names(
            names_which_can_be_saved=["product"], names_which_can_be_offloaded=["layer"], offload_src="device", offload_dst="host"
        ),
        (3, 10, 1, 10),
    ),
    "both": (policies.save_from_both_policies(policies.dots_saveable, policies.save_only_these_names("layer")), (3, 10, 1, 10)),
}


@functools.cache
def plain_gradient(f: Callable[..., Any]) -> Any:
    return tg.jit(tg.grad(f, (0, 1)))(W, H0)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_reach_into_jits_loops_and_branches(name: str) -> None:
    policy, arrays = POLICIES[name]
    functions = (two_layers, scanned, branched, branches_in_a_scan)
    for f, want in zip((*functions, jitted), (*arrays, arrays[0])):
        g = tg.checkpoint(f, policy=policy)
        assert residual_bytes(g, W, H0) == want * ONE, f.__name__
        if name in ("dots without batch", "both"):
            for a, b in zip(tg.jit(tg.grad(g, (0, 1)))(W, H0), plain_gradient(f)):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_may_be_saved_is_not_saved_where_a_cheap_operation_makes_it() -> None:
    everything = tg.checkpoint(two_layers, policy=policies.everything_saveable)
    assert residual_bytes(everything, W, H0) == residual_bytes(two_layers, W, H0) == 5 * ONE
    but_one = tg.checkpoint(two_layers, policy=policies.save_anything_except_these_names("layer"))
    assert not any("'layer'" in text for _, text in saved_residuals(but_one, W, H0))


def test_products_that_are_saved_are_not_computed_again() -> None:
    for f in (two_layers, scanned):
        plain = gradient(f, W, H0)
        with_dots = gradient(tg.checkpoint(f, policy=policies.dots_saveable), W, H0)
        nothing = gradient(tg.checkpoint(f), W, H0)
        products = [names(p).count("dot_general") for p in (plain, with_dots, nothing)]
        assert products[0] == products[1] < products[2]
        # The rest is computed again.
        assert names(with_dots).count("tanh") > names(plain).count("tanh")


def test_prevent_cse_keeps_the_recomputation_in_the_program_and_out_of_the_memory() -> None:
    ws, x = 0.2 * normal(8, CELL, CELL), normal(512, CELL)

    def loss(block: Callable[..., Any]) -> Callable[..., Any]:
        def f(ws: Any) -> Any:
            h = x
            for i in range(8):
                h = block(ws[i], h)
            return (h**2).sum()

        return f

    def block(w: Any, h: Any) -> Any:
        for _ in range(4):
            h = jnp.sin(h @ w)
        return h

    memory, products = [], []
    for b in (block, tg.checkpoint(block), tg.checkpoint(block, prevent_cse=False), tg.checkpoint(block, prevent_cse=(True, False))):
        lowered = tg.jit(tg.grad(loss(b))).lower(ws)
        products.append(names(lowered.optimized).count("dot_general"))
        memory.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    plain, apart, merged, partly = products
    assert (plain, merged) == (95, 95)  # 32 forward, 63 backward: the first input has no derivative
    assert apart == partly == plain + 32  # each product once more
    assert memory[2] == memory[0]
    # Without checkpoint 32 results and their derivatives are alive at once; with it the inputs of 8 blocks and the values of one.
    state = 512 * CELL * F
    assert memory[0] > 60 * state
    assert memory[1] < 20 * state


def test_a_checkpointed_step_keeps_its_carry() -> None:
    step = lambda c, t: (layer(W, layer(W, c + t)), None)  # noqa: E731
    f = lambda s: lambda x: lax.scan(s, x, normal(STEPS, BATCH, CELL))[0].sum()  # noqa: E731
    assert step_bytes(gradient(f(tg.checkpoint(step, prevent_cse=False)), H0)) == ONE
    assert step_bytes(gradient(f(step), H0)) > ONE


def test_static_arguments_and_wrong_ones() -> None:
    f = tg.checkpoint(lambda n, x: jnp.sin(x) ** n, static_argnums=(0,))
    assert residual_bytes(lambda x: f(3, x).sum(), H0) == 0
    with pytest.raises(TypeError, match="policy must be a function"):
        tg.checkpoint(jnp.sin, policy="dots_saveable")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prevent_cse must be a bool"):
        tg.checkpoint(jnp.sin, prevent_cse=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="should not intersect"):
        policies.save_and_offload_only_these_names(
            names_which_can_be_saved=["a"], names_which_can_be_offloaded=["a"], offload_src="device", offload_dst="host"
        )
    with pytest.raises(TypeError, match="kinds of memory"):
        policies.offload_dot_with_no_batch_dims(0, "host")  # type: ignore[arg-type]


def test_what_is_saved_is_described_by_argument_line_and_step(capsys: pytest.CaptureFixture[str]) -> None:
    def loss(params: Any, x: Any) -> Any:
        h = tg.jit(lambda x: jnp.exp(x))(x * params["w"])
        h, _ = lax.scan(lambda c, t: (jnp.sin(c) * t, None), h, normal(5))
        return lax.cond(x.sum() > 0, lambda h: jnp.cos(h), lambda h: h, h).sum()

    print_saved_residuals(loss, {"w": normal(4)}, normal(4))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("f32[4] from the argument params['w']") for line in lines)
    assert any(line.startswith("f32[4] from the argument x") for line in lines)
    assert any("output of exp from" in line and "in the jitted function" in line for line in lines)
    assert any(line.startswith("f32[5,4] output of cos from") and "in each of 5 steps of a scan" in line for line in lines)
    assert any("output of neg from" in line and "in a branch of a cond" in line for line in lines)
    assert all("test_lean_results.py:" in line for line in lines if "output of" in line)
