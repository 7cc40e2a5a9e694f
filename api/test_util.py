"""Checking derivatives against differences, under the names of `jax.test_util`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.bind import type_of
from tracegrad.ir.dtypes import to_dtype
from tracegrad.ir.types import float0, is_complex, is_inexact, tangent_type
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
        return np.zeros(t.shape, float0)
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
    return _tolerance(atol, args, size), _tolerance(rtol, args, size), _STEP[size] if eps is None else eps


def _tolerance(given: Any, args: Any, size: int) -> float:
    """A tolerance: a number, or the largest of those that a dictionary gives for dtypes of the arguments; None: the default for them."""
    if given is None:
        return _TOLERANCE[size]
    if not isinstance(given, dict):
        return float(given)
    by_dtype = {to_dtype(key): value for key, value in given.items()}
    dtypes = [type_of(x).dtype for x in tree_flatten(args)[0]]
    return float(max([by_dtype[d] for d in dtypes if d in by_dtype], default=_TOLERANCE[size]))


def _check_types(what: str, values: Any, tangents: Any, err_msg: str) -> None:
    """Raise AssertionError unless tangents have the structure, shapes and dtypes that belong to the values."""
    leaves, tree = tree_flatten(values)
    dots, dot_tree = tree_flatten(tangents)
    assert tree == dot_tree, f"{what} has the structure {dot_tree}, which should be {tree}. {err_msg}"
    for i, (x, t) in enumerate(zip(leaves, dots)):
        expected = tangent_type(type_of(x))
        shape, dtype = np.shape(t), t.dtype if isinstance(t, np.ndarray) else type_of(t).dtype
        assert (shape, dtype) == (expected.shape, expected.dtype), (
            f"leaf {i} of {what} has the type {dtype}{list(shape)}, which should be {expected}. {err_msg}"
        )


def _difference(f: Callable[..., Any], args: tuple[Any, ...], directions: Any, eps: float) -> Any:
    plus = f(*tree_map(lambda x, v: _moved(x, v, eps), args, directions))
    minus = f(*tree_map(lambda x, v: _moved(x, v, -eps), args, directions))

    def slope(a: Any, b: Any) -> Any:
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind not in "fc" and not is_inexact(a.dtype):
            return np.zeros(a.shape)
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        with np.errstate(invalid="ignore"):
            # What is infinite on both sides does not change.
            return np.where(a == b, 0, a.astype(wide) - b.astype(wide)) / (2 * eps)

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
    """Compare f_jvp(args, tangents) with a central difference along a random direction.

    args: a tuple of arrays or pytrees of them. atol, rtol: tolerances, numbers or dictionaries from dtypes to numbers; by default they depend on the
    dtypes of the arguments, as does eps, half the width of the difference. err_msg comes with errors.
    Raises AssertionError if they differ, or if the tangent has not the types of the output.
    """
    args = tuple(args)
    atol, rtol, eps = _settings(args, atol, rtol, eps)
    directions = tree_map(lambda x: _like(np.random.RandomState(0), x), args)
    out, tangent = f_jvp(args, directions)
    _check_types("the tangent of the jvp", out, tangent, err_msg)
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
    """Compare f_vjp(*args) -> (output, function of a cotangent) with a central difference, by the identity <ct, J v> = <J^T ct, v>.

    Parameters and errors as of `check_jvp`.
    """
    args = tuple(args)
    atol, rtol, eps = _settings(args, atol, rtol, eps)
    rng = np.random.RandomState(0)
    out, pullback = f_vjp(*args)
    _close("the value of the vjp", out, f(*args), atol, rtol, err_msg)
    directions = tree_map(lambda x: _like(rng, x), args)
    cotangent = tree_map(lambda x: _like(rng, x), out)
    gradient = pullback(cotangent)
    _check_types("the gradient of the vjp", args, gradient, err_msg)
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
    """Compare the derivatives of f at args, up to an order, with differences, in the modes ("fwd", "rev") and their mixtures.

    Further parameters as of `check_jvp`. Raises AssertionError if derivatives are wrong, ValueError for an order below 1 or another mode.
    """
    args = tuple(args)
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if order < 1:
        raise ValueError(f"check_grads: the order must be at least 1, got {order}")
    if not modes or any(mode not in ("fwd", "rev") for mode in modes):
        raise ValueError(f"check_grads: modes are 'fwd' and 'rev', got {modes}")

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
