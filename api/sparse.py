"""Jacobians and Hessians with few nonzero entries, at the cost of a few directional derivatives.

What can be nonzero is found from the function's program, whatever the arguments' values; columns (or rows) that do not meet are differentiated together.

    J = sparse.jacobian(residual)(x)        # a CSR matrix; J.todense(), J.to_scipy(), J @ v
    H = sparse.hessian(energy)(x)

Functions of pytrees are functions of one vector here, their leaves one after the other, as `flatten_util.ravel_pytree` puts them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.bind import type_of
from tracegrad.runtime.jit import jit
from tracegrad.tracer.abstract import eval_shape
from tracegrad.tracer.pytree import register_pytree_node
from tracegrad.transforms.api import check_callable, checked_argnums, grad
from tracegrad.transforms.coloring import Coloring, Pattern, color
from tracegrad.transforms.sparse_jacobians import (
    checked_pattern,
    coloring_for,
    nonzero_entries,
    pattern_of,
    symmetric,
    traced,
)

__all__ = ["CSR", "Coloring", "Pattern", "color", "hessian", "hessian_pattern", "jacobian", "jacobian_pattern"]


class CSR:
    """A sparse matrix: `data`, an array with the values of a `Pattern`'s entries, row by row. Under vmap and the like, data has leading axes.

    A pytree whose only leaf is `data`. `data`, `indices`, `indptr` and `shape` are those of SciPy's CSR format.
    """

    __slots__ = ("data", "pattern")

    def __init__(self, data: Any, pattern: Pattern):
        self.data = data
        self.pattern = pattern

    @property
    def shape(self) -> tuple[int, int]:
        return self.pattern.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return 2

    @property
    def nnz(self) -> int:
        """The number of entries, some of which may happen to be zero."""
        return self.pattern.nnz

    @property
    def indices(self) -> np.ndarray:
        """The column of each entry."""
        return self.pattern.columns

    @property
    def indptr(self) -> np.ndarray:
        """Where the entries of each row start, and where those of the last one end."""
        return self.pattern.indptr

    @property
    def T(self) -> CSR:
        """The transpose."""
        order = np.lexsort((self.pattern.rows, self.pattern.columns))
        return CSR(_take(self.data, order), self.pattern.T)

    def todense(self) -> Any:
        """An array of shape `shape`, behind the leading axes of `data`."""
        import tracegrad.numpy as jnp

        lead = type_of(self.data).shape[:-1]
        dense = jnp.zeros((*lead, *self.shape), self.dtype)
        return dense.at[..., self.pattern.rows, self.pattern.columns].set(self.data)

    def to_scipy(self) -> Any:
        """A `scipy.sparse.csr_array`. Raises TracerArrayConversionError inside jit."""
        from scipy.sparse import csr_array

        return csr_array((np.asarray(self.data), self.indices, self.indptr), shape=self.shape)

    def __matmul__(self, x: Any) -> Any:
        """The product with a vector of shape (columns,) or a matrix of shape (columns, k). Raises TypeError for other shapes."""
        import tracegrad.numpy as jnp

        x = jnp.asarray(x)
        if type_of(self.data).ndim != 1 or x.ndim not in (1, 2) or x.shape[0] != self.shape[1]:
            raise TypeError(f"CSR @ x: a matrix of shape {self.shape} cannot be multiplied with an array of shape {x.shape}")
        entries = self.data if x.ndim == 1 else self.data[:, None]
        products = entries * x[self.pattern.columns]
        return jnp.zeros((self.shape[0], *x.shape[1:]), products.dtype).at[self.pattern.rows].add(products)

    def __repr__(self) -> str:
        return f"CSR({self.shape[0]} x {self.shape[1]}, {self.nnz} entries, {getattr(self.data, 'dtype', '?')})"


register_pytree_node(CSR, lambda m: ((m.data,), m.pattern), lambda pattern, leaves: CSR(leaves[0], pattern))


def _take(data: Any, order: np.ndarray) -> Any:
    import tracegrad.numpy as jnp

    return jnp.asarray(data)[..., order]


def jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    has_aux: bool = False,
    pattern: Any = None,
    partition: str = "auto",
) -> Callable[..., Any]:
    """A compiled function that computes the Jacobian of `fun` as a `CSR` matrix: (elements of the output) x (elements of the arguments).

    argnums: the arguments to differentiate, as in `jacfwd`; they are real. All arguments are arrays or pytrees of them, traced as by `jit`; what decides the
    pattern (index arrays, constant matrices) should be closed over, since of arguments only the types are known.
    has_aux: `fun` returns (output, auxiliary data); the result is then (Jacobian, auxiliary data).
    pattern: the entries that can be nonzero, if the caller knows better: a `Pattern`, SciPy sparse matrix or array. Entries outside of it make the
    result wrong.
    partition: "columns" (forward mode), "rows" (reverse mode), "bidirectional", or "auto"; see `color`.
    Raises TypeError for arguments that are not real, ValueError for a pattern of another shape.
    """
    check_callable(fun, "sparse.jacobian")
    positions = checked_argnums(argnums, "sparse.jacobian")
    if partition == "symmetric":
        raise ValueError("sparse.jacobian: a Jacobian is not symmetric in general; sparse.hessian uses a symmetric partition")
    return _compiled("sparse.jacobian", fun, fun, positions, argnums, has_aux, pattern, partition)


def hessian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    has_aux: bool = False,
    pattern: Any = None,
    partition: str = "symmetric",
) -> Callable[..., Any]:
    """A compiled function that computes the Hessian of a scalar function as a `CSR` matrix, by forward mode over reverse mode.

    fun must have a continuous second derivative where it is evaluated: an entry may be computed as its mirror image. Parameters as of `jacobian`.
    partition: "symmetric" (star colouring) or "columns", which does without symmetry.
    """
    check_callable(fun, "sparse.hessian")
    positions = checked_argnums(argnums, "sparse.hessian")
    if partition not in ("symmetric", "columns"):
        raise ValueError(f"sparse.hessian: partition {partition!r} is not one of 'symmetric', 'columns'")
    gradient = grad(fun, argnums, has_aux=has_aux)
    return _compiled("sparse.hessian", fun, gradient, positions, argnums, has_aux, pattern, partition)


def _compiled(
    what: str,
    fun: Callable[..., Any],
    differentiated: Callable[..., Any],
    positions: tuple[int, ...],
    argnums: Any,
    has_aux: bool,
    pattern: Any,
    partition: str,
) -> Callable[..., Any]:
    @functools.wraps(fun, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        function = traced(what, differentiated, args, kwargs, positions, argnums, has_aux)
        entries = pattern_of(function) if pattern is None else checked_pattern(what, pattern, function)
        if partition == "symmetric":
            entries = symmetric(entries)
        data, outs = nonzero_entries(what, function, entries, coloring_for(function, entries, partition))
        matrix = CSR(data, entries)
        return (matrix, function.flat.results(outs)[1]) if has_aux else matrix

    return jit(derivative)


def jacobian_pattern(fun: Callable[..., Any], *args: Any, argnums: int | Sequence[int] = 0, **kwargs: Any) -> Pattern:
    """Which entries of the Jacobian of `fun` can be nonzero for arguments of the types of these (arrays or `ShapeDtypeStruct`s).

    The pattern is conservative: an entry may be zero everywhere, but none is missing. Raises TypeError for arguments that are not real.
    """
    check_callable(fun, "sparse.jacobian_pattern")
    positions = checked_argnums(argnums, "sparse.jacobian_pattern")
    return _pattern("sparse.jacobian_pattern", fun, args, kwargs, positions, argnums)


def hessian_pattern(fun: Callable[..., Any], *args: Any, argnums: int | Sequence[int] = 0, **kwargs: Any) -> Pattern:
    """Which entries of the Hessian of a scalar function can be nonzero; symmetric. As `jacobian_pattern`."""
    check_callable(fun, "sparse.hessian_pattern")
    positions = checked_argnums(argnums, "sparse.hessian_pattern")
    return symmetric(_pattern("sparse.hessian_pattern", grad(fun, argnums), args, kwargs, positions, argnums))


def _pattern(what: str, fun: Callable[..., Any], args: Any, kwargs: Any, positions: tuple[int, ...], argnums: Any) -> Pattern:
    found: list[Pattern] = []

    def look(*args: Any, **kwargs: Any) -> None:
        found.append(pattern_of(traced(what, fun, args, kwargs, positions, argnums, False)))

    eval_shape(look, *args, **kwargs)
    return found[0]
