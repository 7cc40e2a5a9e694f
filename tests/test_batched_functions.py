"""vmap of functions that users call, over any choice of their arguments and along any axis, against a Python loop over the examples."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax, nn, random
from tracegrad import scipy as jsp

pytestmark = pytest.mark.usefixtures("double_precision")

LA, SLA = jnp.linalg, jsp.linalg
Rng = np.random.Generator
Maker = Callable[[Rng], Any]


def normal(*shape: int) -> Maker:
    return lambda rng: rng.normal(size=shape)


def regular(*shape: int) -> Maker:
    return lambda rng: rng.normal(size=shape) + 3 * np.eye(shape[-1])


def definite(n: int) -> Maker:
    def make(rng: Rng) -> np.ndarray:
        m = rng.normal(size=(n, n))
        return m @ m.T + n * np.eye(n)

    return make


def positive(*shape: int) -> Maker:
    return lambda rng: rng.uniform(0.5, 2.0, shape)


def integer(low: int, high: int, *shape: int) -> Maker:
    return lambda rng: rng.integers(low, high, shape)


def projector(vectors: Any) -> Any:
    """What is unique of vectors that are so but for their signs."""
    return vectors[:, :1] * vectors[:, 0]


def loop_of_batched_length(a: Any, n: Any) -> Any:
    return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.sin(s[1]) + a), (0, a))[1]


FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "solve": (LA.solve, regular(3, 3), normal(3, 2)),
    "solve of a vector": (LA.solve, regular(3, 3), normal(3)),
    "solve of a stack": (LA.solve, regular(2, 3, 3), normal(2, 3, 2)),
    "inv": (LA.inv, regular(3, 3)),
    "det": (LA.det, normal(3, 3)),
    "slogdet": (LA.slogdet, normal(5, 5)),
    "cholesky": (LA.cholesky, definite(3)),
    "qr": (lambda a: LA.qr(a), normal(4, 3)),
    "singular values": (lambda a: LA.svd(a, compute_uv=False), normal(3, 4)),
    "svd": (lambda a: projector(LA.svd(a, full_matrices=False)[0]), normal(4, 3)),
    "eigh": (lambda a: (LA.eigvalsh(a), projector(LA.eigh(a)[1])), definite(3)),
    "eigvals": (lambda a: jnp.sort(LA.eigvals(a).real), definite(3)),
    "lstsq": (lambda a, b: LA.lstsq(a, b)[0], normal(5, 3), normal(5)),
    "pinv": (LA.pinv, normal(4, 3)),
    "matrix_power": (lambda a: LA.matrix_power(a, 3), normal(3, 3)),
    "norm": (lambda a: (LA.norm(a), LA.norm(a, 2), LA.matrix_rank(a)), normal(3, 3)),
    "multi_dot": (lambda a, b, c: LA.multi_dot([a, b, c]), normal(2, 3), normal(3, 4), normal(4, 2)),
    "solve_triangular": (lambda a, b: SLA.solve_triangular(a, b, trans=1, lower=True), regular(3, 3), normal(3)),
    "lu": (SLA.lu, normal(3, 3)),
    "lu_solve": (lambda a, b: SLA.lu_solve(SLA.lu_factor(a), b), regular(3, 3), normal(3)),
    "cho_solve": (lambda a, b: SLA.cho_solve(SLA.cho_factor(a), b), definite(3), normal(3)),
    "expm": (SLA.expm, normal(3, 3)),
    "block_diag": (SLA.block_diag, normal(2, 2), normal(1, 2)),
    "tridiagonal_solve": (lax.linalg.tridiagonal_solve, normal(3), lambda rng: 9 + rng.normal(size=3), normal(3), normal(3, 2)),
    "householder_product": (lax.linalg.householder_product, normal(4, 3), normal(3)),
    "fft": (lambda a: jnp.fft.rfft2(a).imag, normal(3, 4)),
    "einsum": (lambda a, b, c: jnp.einsum("ij,jk,k->i", a, b, c), normal(2, 3), normal(3, 4), normal(4)),
    "grouped convolution": (
        lambda a, b: lax.conv_general_dilated(a, b, (2, 1), "VALID", feature_group_count=2, rhs_dilation=(1, 2)),
        normal(2, 4, 5, 6),
        normal(4, 2, 2, 2),
    ),
    "convolution of batch groups": (
        lambda a, b: lax.conv_general_dilated(a, b, (1, 1), "SAME", batch_group_count=2),
        normal(4, 2, 4, 4),
        normal(4, 2, 3, 3),
    ),
    "indexing": (lambda a, i, j: a[i, :, j], normal(4, 2, 3), integer(-4, 4, 3), integer(0, 3, 3)),
    "slices at": (lambda a, i, j: lax.dynamic_slice(a, (i, j), (2, 2)), normal(4, 3), integer(-1, 5), integer(-1, 5)),
    "updates at": (
        lambda a, u, i: lax.dynamic_update_slice(a, u, (i, 1)).at[i % 3].add(u[0, 0]),
        normal(4, 3),
        normal(2, 2),
        integer(-1, 5),
    ),
    "scatters": (
        lambda a, i, v: (a.at[i].add(v), a.at[i].max(v), a.at[i].multiply(v)),
        normal(4, 2),
        integer(0, 4, 3),
        normal(3, 2),
    ),
    "sorting": (lambda a, b: (lax.sort((a, b), num_keys=1), jnp.argsort(b), lax.top_k(b, 2)), integer(0, 3, 5), normal(5)),
    "quantile": (jnp.quantile, normal(5), lambda rng: rng.uniform(size=2)),
    "searchsorted": (lambda a, v: jnp.searchsorted(jnp.sort(a), v), normal(5), normal(3)),
    "interp": (jnp.interp, normal(4), lambda rng: np.sort(rng.normal(size=4)), normal(4)),
    "roll": (jnp.roll, normal(4), integer(-5, 5)),
    "unique": (lambda a: jnp.unique(a, size=3, fill_value=0), lambda rng: np.round(rng.normal(size=3))),
    "nonzero": (lambda a: jnp.nonzero(a > 0, size=3, fill_value=-1)[0], normal(4)),
    "bincount": (lambda i: jnp.bincount(i, length=4), integer(0, 4, 6)),
    "segment_sum": (lambda a, i: tg.ops.segment_sum(a, i, 3), normal(5), integer(0, 3, 5)),
    "cumulative": (lambda a: (jnp.cumsum(a, 0), jnp.cumprod(a, 1), lax.cummax(a, 1, reverse=True)), normal(3, 2)),
    "special": (jsp.special.betainc, positive(), positive(2), lambda rng: rng.uniform(size=2)),
    "random": (
        lambda k, p: (random.normal(random.key(k), (2,)), random.bernoulli(random.key(k), p, (3,))),
        integer(0, 99),
        lambda rng: rng.uniform(),
    ),
    "draws": (
        lambda k, x: (
            random.permutation(random.key(k), x),
            random.categorical(random.key(k), x),
            random.choice(random.key(k), x, (2,)),
        ),
        integer(0, 99),
        normal(4),
    ),
    "gamma": (lambda k, a: random.gamma(random.fold_in(random.key(1), k), a), integer(0, 99), positive(2)),
    "multivariate_normal": (
        lambda k, m, c: random.multivariate_normal(random.key(k), m, c),
        integer(0, 99),
        normal(2),
        definite(2),
    ),
    "while_loop": (loop_of_batched_length, normal(2), integer(0, 5)),
    "fori_loop": (lambda a, n: lax.fori_loop(0, n, lambda i, c: c * 1.1 + i, a), normal(2), integer(0, 5)),
    "cond": (
        lambda p, a, b: lax.cond(p > 0.5, lambda a, b: a @ b, lambda a, b: a.sum() + b.sum() * 2, a, b),
        lambda rng: rng.uniform(),
        normal(3),
        normal(3),
    ),
    "switch": (lambda i, a: lax.switch(i, [jnp.sin, jnp.cos, lambda a: a * 2], a), integer(-1, 4), normal(3)),
    "scan": (lambda c, x, k: lax.scan(lambda c, x: (c * k + x.sum(), x * c), c, x), normal(2), normal(4, 2), normal()),
    "associative_scan": (lambda a: lax.associative_scan(jnp.matmul, a), normal(5, 2, 2)),
    "softmax": (lambda a, b: nn.softmax(a) + nn.gelu(b), normal(3), normal(3)),
    "gradient": (lambda a, x: tg.grad(lambda x: jnp.sin(a @ x).sum() * x[0])(x), normal(2, 3), normal(3)),
    "hessian": (lambda a, x: tg.hessian(lambda x: jnp.exp(-(x @ a @ x)))(x), definite(2), normal(2)),
}
SIZE = 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_batched_along_any_axis_of_any_arguments(name: str) -> None:
    function, *makers = FUNCTIONS[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    choices = [axes for axes in itertools.product([0, -1, None], repeat=len(makers)) if set(axes) != {None}]
    for k, axes in enumerate([choices[i] for i in rng.permutation(len(choices))[:4]]):
        examples = [[make(rng) for _ in range(SIZE)] if d is not None else [make(rng)] * SIZE for make, d in zip(makers, axes)]
        args = [jnp.asarray(e[0]) if d is None else jnp.stack(e, d) for e, d in zip(examples, axes)]
        batched = tg.vmap(function, tuple(axes), out_axes=-(k % 2))
        results = tg.tree_util.tree_leaves((tg.jit(batched) if k == 0 else batched)(*args))
        wanted = [tg.tree_util.tree_leaves(function(*map(jnp.asarray, one))) for one in zip(*examples)]
        for got, *want in zip(results, *wanted, strict=True):
            expected = np.stack(want, -(k % 2))
            assert got.dtype == expected.dtype
            np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9, err_msg=f"in_axes={axes}")
