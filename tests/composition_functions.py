"""Functions from R^2 to R^2 for the tests of compositions: each control-flow construct and each family of primitives.

They are smooth, with derivatives of moderate size, around every point that the compositions meet: START + k * STEP for small k >= 0, and
the points between that share one coordinate with each of two of those. Kinks (of predicates, sorting, maxima, conversions to integers) lie midway
between, so that examples of one batch go different ways and differences are not disturbed.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

import tracegrad as tg
import tracegrad.numpy as jnp
from tracegrad import lax, nn, random
from tracegrad import scipy as jsp

START = np.array([0.25, -0.25])
STEP = np.array([1.0, 0.5])


class Base(NamedTuple):
    """A function to compose. holomorphic: it is one of complex arguments. forward: forward mode exists."""

    name: str
    call: Any
    holomorphic: bool = False
    forward: bool = True


FUNCTIONS: dict[str, Base] = {}


def base(call: Any = None, **flags: bool) -> Any:
    if call is None:
        return functools.partial(base, **flags)
    FUNCTIONS[call.__name__] = Base(call.__name__, call, **flags)
    return call


def mix(*values: Any) -> Any:
    """Two numbers from arrays of any shape: sums of their elements with different weights, kept small."""
    total = jnp.zeros(2)
    for k, v in enumerate(values):
        v = jnp.ravel(v)
        n = np.arange(v.shape[0])
        weights = np.stack([np.cos(1.3 * n + k), np.sin(0.7 * n - k)]) / (1 + v.shape[0]) ** 0.5
        total = total + weights @ v
    return total


# Families of primitives


@base(holomorphic=True)
def elementwise(x: Any) -> Any:
    a, b = x[0], x[1]
    first = jnp.sin(a) * jnp.exp(-b * b) + jnp.log(4 + a) + jnp.cosh(0.2 * b)
    second = jnp.tanh(0.3 * (a - b)) / jnp.sqrt(3 + a) + (a + 2) ** 1.5 / 4 - jnp.arctan(b / 4) * a**3 / 30
    return jnp.stack([first, second])


@base
def real_elementwise(x: Any) -> Any:
    a, b = x[0], x[1]
    bounded = jnp.clip(x, 0.0, 1.0) + jnp.maximum(x, 0.5) * 0.5 + jnp.abs(x - 0.5)
    curved = jnp.hypot(a, b - 2) + jnp.arctan2(b, 2 + a) + jnp.logaddexp(a, b) + jnp.cbrt(a + 2) + jnp.exp2(b)
    steps = jnp.floor(x) + jnp.sign(b) + jnp.round(a) + (x > 0.5)
    return bounded + curved * jnp.array([1.0, -0.5]) + steps * x


@base
def integers(x: Any) -> Any:
    k = jnp.floor(x * np.array([1.0, 2.0])).astype(np.int32)
    bits = (k << 1) ^ 5
    flags = (bits & 4) > 0
    chosen = jnp.where(flags, jnp.sin(x), jnp.cos(x))
    return chosen * (k % 3) + x * lax.population_count(bits) + jnp.array([2.0, -1.0])[k % 2] * x[::-1]


@base
def special(x: Any) -> Any:
    a, b = x[0], x[1]
    first = jsp.special.erf(b) + jsp.special.gammaln(a + 2) * 0.3 + jsp.special.i0e(a)
    second = jsp.special.digamma(a + 3) + jsp.special.gammainc(2.5, a + 2) + jsp.special.betainc(1.5, 2.5, nn.sigmoid(b))
    third = jsp.special.ndtri(nn.sigmoid(0.5 * b)) + jsp.special.xlogy(a + 1, a + 2) * 0.1 + nn.softplus(b)
    return jnp.stack([first + third, second - third * b])


@base(holomorphic=True)
def structural(x: Any) -> Any:
    y = jnp.pad(jnp.concatenate([x, jnp.sin(x[::-1]), x[:1] * x[1]]), (1, 2), constant_values=0.5)
    z = jnp.broadcast_to(y.reshape(4, 2).T[:, None, 1:], (2, 3, 3)) * jnp.arange(1.0, 4.0)
    z = jnp.roll(z, 1, axis=2)[:, ::2, ::-1] + jnp.tile(y[:3], 2).reshape(2, 1, 3)
    return mix(z, jnp.where(np.arange(8) % 3 == 0, y, y * y), jnp.swapaxes(z, 0, 2) ** 2)


@base
def reductions(x: Any) -> Any:
    m = jnp.sin(jnp.arange(12.0).reshape(3, 4) * 0.7 + x[0]) + x[1] * jnp.arange(4.0)
    product = jnp.prod(1 + 0.2 * m, axis=0)
    extremes = jnp.max(jnp.stack([jnp.stack([x[0], x[1] + 2.25]), x]), axis=1) + jnp.min(x + 0.1)
    general = lax.reduce(jnp.sin(x), 0.0, lambda p, q: p + q, (0,))
    index = jnp.argmax(jnp.stack([x[0], 1.75 + x[1]]))
    return mix(product, extremes, jnp.var(m, axis=1), jsp.special.logsumexp(m), jnp.mean(m)) + general * x * index


@base
def cumulative(x: Any) -> Any:
    y = jnp.stack([x, jnp.cos(x), 0.3 * x * x, 1.1 + jnp.sin(x)])
    heights = jnp.array([0.0, 3.25, 1.5]) + jnp.stack([x[0], x[1], x[0]])
    extremes = lax.cummax(heights) + lax.cummin(heights, reverse=True)
    products, sums = jnp.cumprod(1 + 0.2 * jnp.sin(y), axis=0), lax.cumsum(y, 1, True)
    return mix(jnp.cumsum(y, axis=0), products, lax.cumlogsumexp(y, axis=0), sums, extremes)


@base
def windows(x: Any) -> Any:
    y = jnp.sin(jnp.arange(24.0).reshape(1, 4, 6, 1) * 1.7) * 3 + 0.1 * jnp.tanh(x[0] - jnp.arange(6.0))[:, None] * x[1]
    largest = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 1, 2, 1), "SAME")
    sums = lax.reduce_window(y * y, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return mix(largest, sums) * 0.3


@base(holomorphic=True)
def contractions(x: Any) -> Any:
    m = jnp.sin(jnp.arange(12.0)).reshape(2, 3, 2) + x * 0.5
    n = jnp.cos(jnp.arange(12.0)).reshape(2, 2, 3) * x[0]
    batched = jnp.matmul(m, n)
    weighted = jnp.einsum("bij,bjk,k->bi", m, n, jnp.array([1.0, -1.0, 0.5]))
    return mix(batched, weighted, jnp.outer(x, x) @ x, jnp.dot(m.ravel(), n.ravel())) * 0.3


@base
def convolution(x: Any) -> Any:
    image = jnp.sin(jnp.arange(24.0)).reshape(1, 2, 3, 4) + x[0] * 0.3
    kernel = jnp.cos(jnp.arange(12.0)).reshape(2, 1, 2, 3) * x[1]
    grouped = lax.conv_general_dilated(
        image, kernel, (1, 2), ((1, 1), (2, 0)), lhs_dilation=(2, 1), rhs_dilation=(1, 2), feature_group_count=2
    )
    return mix(grouped, jnp.convolve(jnp.arange(4.0) * x[0], jnp.sin(x))) * 0.3


@base(holomorphic=True)
def indexing(x: Any) -> Any:
    y = jnp.sin(jnp.arange(6.0).reshape(3, 2) + x)
    rows = y[np.array([2, 0, 2, -1])]
    elements = y[np.array([[0], [2]]), np.array([0, 1])]
    changed = y.at[np.array([0, 0, 1])].add(x).at[1, 0].set(x[0] * x[1]).at[:, 1].multiply(x[1])
    return mix(rows, elements, changed, jnp.take(x, np.array([1, 0, 1]), axis=0), changed[1:, ::-1])


@base
def computed_indices(x: Any) -> Any:
    k = jnp.floor(x[0]).astype(np.int32)
    y = jnp.cos(jnp.arange(10.0).reshape(5, 2) * 0.3 + x)
    window = lax.dynamic_slice(y, (k, 0), (2, 2))
    changed = lax.dynamic_update_slice(y, jnp.sin(x)[None], (k % 4, 0))
    along = jnp.take_along_axis(y, jnp.stack([k % 5, (k + 2) % 5])[None], axis=0)
    scattered = jnp.zeros(4).at[jnp.stack([k, k, k + 1]) % 4].add(jnp.stack([x[0], x[1] * x[1], x[0] * x[1]]))
    largest = jnp.zeros(3).at[jnp.stack([k % 3, 1])].max(2 + jnp.sin(x) * 0.3)
    return mix(window, changed, along, scattered, largest, y.at[k, 1].get(mode="clip"))


@base
def sorting(x: Any) -> Any:
    y = jnp.stack([x[0], 1.75 + x[1], 0.1 * x[0] * x[1] - 3, 6 - x[0], jnp.sin(x[1])])
    keys = jnp.array([3, 1, 2, 0, 1])
    ordered, carried = lax.sort((keys, y), num_keys=1)
    largest, where = lax.top_k(y, 3)
    return mix(jnp.sort(y), y[jnp.argsort(y)] ** 2, carried * ordered, largest * (1 + where), jnp.median(y), jnp.sort(y[::-1]))


def _matrix(x: Any) -> Any:
    n = jnp.arange(3.0)
    return 3.0 * jnp.eye(3) + 0.6 * jnp.sin(jnp.arange(9.0).reshape(3, 3) + x[0]) + 0.2 * jnp.outer(n, jnp.cos(x[1] + n))


@base(holomorphic=True)
def linear_solves(x: Any) -> Any:
    m = 3.0 * jnp.eye(3) + jnp.sin(jnp.arange(9.0).reshape(3, 3)) * x[0] * 0.2
    b = jnp.arange(6.0).reshape(3, 2) + x
    lower = jsp.linalg.solve_triangular(m, b, lower=True)
    return mix(jnp.linalg.solve(m, b), lower, jnp.linalg.inv(m), jnp.linalg.det(m) * 0.05)


@base
def factorizations(x: Any) -> Any:
    m = _matrix(x)
    c = jnp.linalg.cholesky(m @ m.T)
    q, r = jnp.linalg.qr(m)
    return mix(c, q, r, jnp.linalg.slogdet(m)[1])


@base
def spectra(x: Any) -> Any:
    m = jnp.diag(jnp.array([1.0, 4.0, 8.0])) + 0.3 * _matrix(x)
    values, vectors = jnp.linalg.eigh((m + m.T) / 2)
    u, s, vh = jnp.linalg.svd(m)
    return mix(values, vectors**2, s, (u * s) @ vh, u[:, 0] * vh[0, 0], jnp.linalg.eigvals(m).real.sum()) * 0.3


@base
def fourier(x: Any) -> Any:
    signal = jnp.sin(jnp.arange(6.0) * 0.3 * x[0]) + x[1] * jnp.arange(6.0) ** 2 / 10
    half = jnp.fft.rfft(signal)
    full = jnp.fft.fft(signal.reshape(2, 3) * (1 + 0.5j))
    return mix(jnp.abs(half) ** 2, full.real, full.imag, jnp.fft.irfft(half * half, 6), jnp.fft.ifft2(full).real) * 0.3


@base(holomorphic=True)
def complex_numbers(x: Any) -> Any:
    z = (1.5 + 0.5j) * x + (2.0 - 1.0j)
    w = jnp.exp(0.3j * z) * z / (z + 1) + jnp.log(z + 3)
    y = w * w + jnp.sqrt(z)
    return y if jnp.iscomplexobj(x) else y.real + 0.5 * y.imag + jnp.abs(w) + jnp.angle(z) + jnp.conj(w).imag * z.real


@base
def random_numbers(x: Any) -> Any:
    key = random.key(7)
    own = random.fold_in(key, jnp.floor(x[0]).astype(np.int32))
    noise = random.normal(own, (3, 2)) * jnp.sin(x) + random.uniform(key, (3, 2), minval=-1.0, maxval=1.0) * x[0]
    kept = jnp.where(random.bernoulli(own, 0.5, (3, 2)), noise, noise * x)
    return mix(kept, random.permutation(key, noise), random.exponential(random.split(own)[1], (2,)) * x)


@functools.partial(tg.custom_jvp, nondiff_argnums=(1,))
def _host_wave(x: Any, quarter: int) -> Any:
    return tg.pure_callback(
        lambda y: np.sin(y + quarter * np.pi / 2), tg.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"
    )


@_host_wave.defjvp
def _host_wave_jvp(quarter: int, primals: Any, tangents: Any) -> Any:
    return _host_wave(primals[0], quarter), _host_wave(primals[0], quarter + 1) * tangents[0]


@base
def callbacks(x: Any) -> Any:
    return _host_wave(x, 0) * x[::-1] + x


# Custom rules


@tg.custom_jvp
def _own_product(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


@_own_product.defjvp
def _own_product_jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    return _own_product(x, y), jnp.cos(x) * y * dx + jnp.sin(x) * dy


@base(holomorphic=True)
def custom_forward(x: Any) -> Any:
    return _own_product(x, x[::-1]) + lax.scan(lambda c, t: (_own_product(c, t), c), x, jnp.arange(1.0, 3.0))[0]


@tg.custom_vjp
def _own_quotient(x: Any, y: Any) -> Any:
    return {"quotient": jnp.cos(x) / y, "square": y * y}


def _own_quotient_fwd(x: Any, y: Any) -> Any:
    return {"quotient": jnp.cos(x) / y, "square": y * y}, (jnp.sin(x), jnp.cos(x), y)


def _own_quotient_bwd(saved: Any, ct: Any) -> Any:
    s, c, y = saved
    q = ct["quotient"]
    return -s / y * q, -c / (y * y) * q + 2 * y * ct["square"]


_own_quotient.defvjp(_own_quotient_fwd, _own_quotient_bwd)


@base(holomorphic=True, forward=False)
def custom_reverse(x: Any) -> Any:
    once = _own_quotient(x, x[::-1] + 4)
    looped = lax.scan(lambda c, t: (_own_quotient(c, 3 + x * 0.5)["quotient"] * t, c), x, jnp.arange(1.0, 3.0))[0]
    return once["quotient"] + once["square"] * 0.1 + looped


@base
def implicit(x: Any) -> Any:
    """Roots of y + tanh(y) / 2 = x by Newton's method, and a system solved by an elimination of our own."""

    def equation(y: Any) -> Any:
        return y + 0.5 * jnp.tanh(y) - x

    def newton(f: Any, y: Any) -> Any:
        return lax.fori_loop(0, 12, lambda i, y: y - f(y) / (1 + 0.5 / jnp.cosh(y) ** 2), y)

    def tangent(g: Any, y: Any) -> Any:
        return y / g(jnp.ones_like(y))

    root = lax.custom_root(equation, jnp.zeros(2), newton, tangent)
    m = jnp.stack([jnp.stack([3 + jnp.sin(x[0]), x[1]]), jnp.stack([0.5 * x[1], 2.5 + 0 * x[0]])])
    solved = lax.custom_linear_solve(
        lambda y: m @ y, x, lambda f, b: jnp.linalg.solve(m, b), transpose_solve=lambda f, b: jnp.linalg.solve(m.T, b)
    )
    return root + solved


# Control flow and calls


@base
def conditions(x: Any) -> Any:
    near = lax.cond(x[0] + x[1] > 0.75, lambda y, z: jnp.sin(y) * z, lambda y, z: y + jnp.cos(z), x, x[::-1])
    return lax.cond(x[0] < 1.75, lambda: near * x, lambda: near + lax.cond(x[1] > 0.5, lambda: x, lambda: jnp.exp(-x)))


@base
def branches(x: Any) -> Any:
    k = jnp.floor(x[0]).astype(np.int32)
    return lax.switch(k, [jnp.sin, lambda y: jnp.exp(-y * y), lambda y: y * y[::-1] * 0.2, lambda y: jnp.ones_like(y)], x) + x


@base
def loop_while(x: Any) -> Any:
    """Newton's method for cube roots, each as many steps as it needs; then a loop whose length depends on the data."""
    target = 3 + jnp.sin(x)

    def body(state: Any) -> Any:
        i, y = state
        return i + 1, y - (y**3 - target) / (3 * y * y)

    _, roots = lax.while_loop(lambda s: s[0] < 8, body, (0, jnp.full(2, 1.5)))
    _, total = lax.while_loop(lambda s: s[0] < 2.6, lambda s: (s[0] + 1.0, 0.5 * s[1] + jnp.sin(0.4 * s[0] * x)), (x[0], x))
    return roots + total


@base
def loop_counted_at_run_time(x: Any) -> Any:
    n = 1 + jnp.floor(x[0]).astype(np.int32) % 3
    return lax.fori_loop(0, n, lambda i, c: 0.5 * c + jnp.sin(0.3 * c + x + i), x)


@base(holomorphic=True)
def loop_counted(x: Any) -> Any:
    return lax.fori_loop(0, 3, lambda i, c: 0.5 * c + jnp.sin(0.3 * c * x[::-1] + i), x)


@base(holomorphic=True)
def scanned(x: Any) -> Any:
    def step(c: Any, t: Any) -> Any:
        c = 0.5 * c + jnp.sin(x * t) * c[::-1]
        return c, (c * t, jnp.cos(0.2 * c[0]))

    c, (ys, zs) = lax.scan(step, x, jnp.linspace(0.5, 1.0, 3))
    _, back = lax.scan(lambda s, y: (s * 0.3 + y, s), x * x, ys, reverse=True)
    return c + mix(ys, zs, back)


@base
def scanned_branches(x: Any) -> Any:
    """A scan of conditions with a scan inside, whose steps are checkpointed."""

    @tg.checkpoint
    def step(c: Any, t: Any) -> Any:
        return lax.cond(t * x[0] > 1.45, lambda c: 0.5 * jnp.sin(c) + x, lambda c: lax.scan(inner, c, x)[0], c), c.sum() * t

    def inner(c: Any, u: Any) -> Any:
        return 0.4 * c + jnp.sin(u), None

    c, ys = lax.scan(step, x, jnp.array([0.5, 1.0, 2.0]))
    return c + mix(ys)


@base(holomorphic=True)
def prefixes(x: Any) -> Any:
    elems = (1 + 0.2 * jnp.sin(0.4 * jnp.arange(5.0)[:, None] * x), jnp.cos(jnp.arange(5.0)[:, None] + x))
    factors, sums = lax.associative_scan(lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), elems)
    return mix(factors, sums, lax.associative_scan(jnp.add, elems[1].T, reverse=True, axis=1))


@base(holomorphic=True)
def mapped(x: Any) -> Any:
    return mix(lax.map(lambda t: jnp.sin(t * x) + t, jnp.arange(3.0)), tg.vmap(lambda t, y: t * y * x, (None, 0), 1)(x[0], x))


@base(holomorphic=True)
def calls(x: Any) -> Any:
    inner = tg.jit(lambda y, z: {"a": jnp.sin(y) * z, "b": y})
    kept = tg.checkpoint(lambda y: jnp.cos(inner(y, x)["a"]), policy=tg.checkpoint_policies.dots_saveable)
    return kept(x) + inner(x[::-1], 0.5)["a"] + inner(x[::-1], 1.5)["a"]


@base
def derivatives_inside(x: Any) -> Any:
    slope = tg.grad(lambda y: jnp.sum(jnp.sin(y) * x * y[::-1]))(x)
    pushed = tg.jvp(lambda y: jnp.tanh(y * x), (x,), (jnp.ones(2),))[1]
    return slope + pushed + tg.vmap(tg.grad(lambda t: jnp.sin(t) * t + lax.stop_gradient(t)))(x)


@base
def state_of_many_types(x: Any) -> Any:
    """A loop that carries integers, booleans, keys and complex numbers beside reals."""

    def step(state: Any, t: Any) -> Any:
        count, flag, key, z, y = state
        key, own = random.split(key)
        y = 0.5 * y + jnp.where(flag, jnp.sin(y), random.normal(own, (2,)) * x)
        return (count + 1, ~flag, key, z * (0.3 + 0.4j) + y[0], y + z.real * count * 0.1), (z.imag * t, flag)

    start = (jnp.int32(0), x[0] > 0.75, random.key(3), jnp.asarray(1j), x)
    state, (ys, flags) = lax.scan(step, start, jnp.arange(3.0))
    return state[4] + mix(ys * flags) + state[3].imag
