"""Checking derivatives against differences, under the names of `jax.test_util`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex, is_inexact
from tracegrad.tracer.pytree import tree_flatten, tree_map
from tracegrad.transforms.api import jvp, vjp

_STEP = {2: 1e-1, 4: 1e-3, 8: 1e-6}
_TOLERANCE = {2: 1e-1, 4: 2e-2, 8: 1e-5}


def _precision(*trees: Any) -> int:
    """The number of bytes of the least precise real dtype among the leaves."""
    sizes = []
    for x in tree_flatten(trees)[0]:
        dtype = type_of(x).dtype
        if is_inexact(dtype):
            sizes.append(dtype.itemsize // (2 if is_complex(dtype) else 1))
    return min(sizes, default=8)


def _like(rng: np.random.RandomState, x: Any) -> Any:
    """A random direction at x: of float0 for integers."""
    t = type_of(x)
    if not is_inexact(t.dtype):
        return np.zeros(t.shape, [("float0", np.void, 0)])
    v = rng.standard_normal(t.shape)
    if is_complex(t.dtype):
        v = v + 1j * rng.standard_normal(t.shape)
    return np.asarray(v).astype(t.dtype)


def _inner(a: Any, b: Any) -> Any:
    total = 0.0
    for x, y in zip(tree_flatten(a)[0], tree_flatten(b)[0], strict=True):
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype.kind != "V" and y.dtype.kind != "V":
            wide = np.complex128 if "c" in (x.dtype.kind, y.dtype.kind) else np.float64
            total = total + np.sum(np.asarray(x, wide) * np.asarray(y, wide))
    return np.real(total)


def _close(what: str, a: Any, b: Any, atol: float, rtol: float, err_msg: str) -> None:
    for i, (x, y) in enumerate(zip(tree_flatten(a)[0], tree_flatten(b)[0], strict=True)):
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype.kind == "V" or y.dtype.kind == "V":
            continue
        wide = np.complex128 if "c" in (x.dtype.kind, y.dtype.kind) else np.float64
        np.testing.assert_allclose(x.astype(wide), y.astype(wide), atol=atol, rtol=rtol, err_msg=f"{what}, leaf {i}. {err_msg}")


def _moved(x: Any, v: Any, by: float) -> Any:
    if np.asarray(v).dtype.kind == "V":
        return x
    t = type_of(x)
    wide = np.complex128 if is_complex(t.dtype) else np.float64
    return (np.asarray(x).astype(wide) + by * np.asarray(v).astype(wide)).astype(t.dtype)


def _settings(args: Any, atol: Any, rtol: Any, eps: Any) -> tuple[float, float, float]:
    size = _precision(args)
    return (
        _TOLERANCE[size] if atol is None else atol,
        _TOLERANCE[size] if rtol is None else rtol,
        _STEP[size] if eps is None else eps,
    )


def _difference(f: Callable[..., Any], args: tuple[Any, ...], directions: Any, eps: float) -> Any:
    plus = f(*tree_map(lambda x, v: _moved(x, v, eps), args, directions))
    minus = f(*tree_map(lambda x, v: _moved(x, v, -eps), args, directions))

    def slope(a: Any, b: Any) -> Any:
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind not in "fc" and not is_inexact(a.dtype):
            return np.zeros(a.shape)
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        return (a.astype(wide) - b.astype(wide)) / (2 * eps)

    return tree_map(slope, plus, minus)


def check_jvp(
    f: Callable[..., Any],
    f_jvp: Callable[..., Any],
    args: Any,
    atol: Any = None,
    rtol: Any = None,
    eps: Any = None,
    err_msg: str = "",
) -> None:
    """Compare f_jvp(args, tangents) with a central difference along a random direction. Raises AssertionError."""
    args = tuple(args)
    atol, rtol, eps = _settings(args, atol, rtol, eps)
    directions = tree_map(lambda x: _like(np.random.RandomState(0), x), args)
    out, tangent = f_jvp(args, directions)
    _close("the value of the jvp", out, f(*args), atol, rtol, err_msg)
    _close("the tangent of the jvp", tangent, _difference(f, args, directions, eps), atol, rtol, err_msg)


def check_vjp(
    f: Callable[..., Any],
    f_vjp: Callable[..., Any],
    args: Any,
    atol: Any = None,
    rtol: Any = None,
    eps: Any = None,
    err_msg: str = "",
) -> None:
    """Compare f_vjp with a central difference, by the identity <ct, J v> = <J^T ct, v>. Raises AssertionError."""
    args = tuple(args)
    atol, rtol, eps = _settings(args, atol, rtol, eps)
    rng = np.random.RandomState(0)
    out, pullback = f_vjp(*args)
    _close("the value of the vjp", out, f(*args), atol, rtol, err_msg)
    directions = tree_map(lambda x: _like(rng, x), args)
    cotangent = tree_map(lambda x: _like(rng, x), out)
    gradient = pullback(cotangent)
    slope = _difference(f, args, directions, eps)
    left, right = _inner(cotangent, slope), _inner(gradient, directions)
    np.testing.assert_allclose(right, left, atol=atol, rtol=rtol, err_msg=f"the vjp. {err_msg}")


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: Any = None,
    rtol: Any = None,
    eps: Any = None,
) -> None:
    """Compare the derivatives of f, up to an order, with differences, in forward and reverse mode and mixtures. Raises AssertionError."""
    args = tuple(args)

    def check(f: Callable[..., Any], args: tuple[Any, ...], order: int, path: str) -> None:
        if "fwd" in modes:
            check_jvp(f, lambda primals, tangents: jvp(f, primals, tangents), args, atol, rtol, eps, f"{path}jvp of f")
            if order > 1:
                directions = tree_map(lambda x: _like(np.random.RandomState(1), x), args)
                check(lambda *a: jvp(f, a, directions)[1], args, order - 1, f"{path}jvp of ")
        if "rev" in modes:
            check_vjp(f, lambda *a: vjp(f, *a), args, atol, rtol, eps, f"{path}vjp of f")
            if order > 1:
                cotangent = tree_map(lambda x: _like(np.random.RandomState(2), x), f(*args))

                def pulled(*a: Any) -> Any:
                    leaves = tree_flatten(vjp(f, *a)[1](cotangent))[0]
                    return [x for x in leaves if is_inexact(type_of(x).dtype)]

                check(pulled, args, order - 1, f"{path}vjp of ")

    check(f, args, order, "")
