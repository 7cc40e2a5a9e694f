"""Products that contract dimensions: dot, matmul, tensordot and their kin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import type_of
from tracegrad.ir.types import is_complex
from tracegrad.numpy.dtype_objects import canonical_dtype
from tracegrad.numpy.elementwise import conjugate, multiply
from tracegrad.numpy.promotion import (
    as_array,
    axis_indices,
    broadcast_shapes_of,
    broadcast_to_shape,
    promote,
    promote_values,
    require_numbers,
    shape_of,
    static_int,
)
from tracegrad.numpy.shape import moveaxis, ravel, reshape_to, transpose_to


def _operands(name: str, a: Any, b: Any, preferred: Any) -> tuple[Any, Any, Any]:
    """Both operands as arrays of one dtype, and the dtype asked for the result."""
    a, b = promote(name, a, b)
    require_numbers(name, a)
    dtype = None if preferred is None else canonical_dtype(name, preferred)
    return as_array(name, a, 0), as_array(name, b, 1), dtype


def _dot_general(a: Any, b: Any, contracting: Any, batch: Any = ((), ()), preferred: Any = None) -> Any:
    """`ops.dot_general`; a product that contracts nothing is an elementwise one, sums of booleans are disjunctions."""
    dtype = type_of(a).dtype
    if preferred is not None and preferred == dtype:
        preferred = None
    return ops.dot_general(a, b, (contracting, batch), preferred)


def dot(a: Any, b: Any, *, precision: Any = None, preferred_element_type: Any = None, out_sharding: Any = None) -> Any:
    """The product of vectors and matrices: over the last axis of a and the second last of b."""
    a, b, dtype = _operands("dot", a, b, preferred_element_type)
    sa, sb = shape_of(a), shape_of(b)
    if not sa or not sb:
        out = multiply(a, b)
        return out if dtype is None else ops.convert_element_type(out, dtype)
    k = max(0, len(sb) - 2)
    if sa[-1] != sb[k]:
        raise TypeError(f"dot: the contracted dimensions must have equal sizes, got shapes {sa} and {sb}")
    return _dot_general(a, b, ((len(sa) - 1,), (k,)), preferred=dtype)


def matmul(a: Any, b: Any, *, precision: Any = None, preferred_element_type: Any = None, out_sharding: Any = None) -> Any:
    """The matrix product over the last two axes; leading axes broadcast."""
    a, b, dtype = _operands("matmul", a, b, preferred_element_type)
    sa, sb = shape_of(a), shape_of(b)
    if not sa or not sb:
        raise ValueError(f"matmul input operands must have ndim at least 1, got shapes {sa} and {sb}")
    k = max(0, len(sb) - 2)
    if sa[-1] != sb[k]:
        raise TypeError(f"matmul: the contracted dimensions must have equal sizes, got shapes {sa} and {sb}")
    if len(sa) <= 2 and len(sb) <= 2:
        return _dot_general(a, b, ((len(sa) - 1,), (k,)), preferred=dtype)
    if len(sb) <= 2:
        # the leading axes of a are rows: no batch is needed
        return _dot_general(a, b, ((len(sa) - 1,), (k,)), preferred=dtype)
    batch = broadcast_shapes_of("matmul", sa[:-2], sb[:-2])
    if len(sa) == 1:
        out = _dot_general(b, a, ((len(sb) - 2,), (0,)), preferred=dtype)
        return out
    return _batched_matmul(a, b, sa, sb, batch, dtype)


def _batched_matmul(a: Any, b: Any, sa: tuple[int, ...], sb: tuple[int, ...], batch: tuple[int, ...], dtype: Any) -> Any:
    """The product where both have batch axes: an axis of size 1 or absent is free in the other operand, not repeated."""
    rank = len(batch)
    batch_a = (1,) * (rank - len(sa) + 2) + sa[:-2]
    batch_b = (1,) * (rank - len(sb) + 2) + sb[:-2]
    shared = [i for i in range(rank) if batch_a[i] == batch_b[i] and batch[i] != 1]
    only_a = [i for i in range(rank) if batch_b[i] == 1 and batch_a[i] != 1]
    only_b = [i for i in range(rank) if batch_a[i] == 1 and batch_b[i] != 1]
    a = reshape_to(a, tuple([n for n in batch_a if n != 1]) + sa[-2:])
    b = reshape_to(b, tuple([n for n in batch_b if n != 1]) + sb[-2:])
    place_a = [i for i in range(rank) if batch_a[i] != 1]
    place_b = [i for i in range(rank) if batch_b[i] != 1]
    ra, rb = len(place_a), len(place_b)
    out = _dot_general(
        a, b, ((ra + 1,), (rb,)), ([place_a.index(i) for i in shared], [place_b.index(i) for i in shared]), preferred=dtype
    )
    # the result has: shared axes, a's own, rows, b's own, columns
    order = [*shared, *only_a, "rows", *only_b, "columns"]
    wanted = [i for i in range(rank) if batch[i] != 1] + ["rows", "columns"]
    out = transpose_to(out, [order.index(w) for w in wanted])
    return reshape_to(out, (*batch, sa[-2], sb[-1]))


def tensordot(
    a: Any,
    b: Any,
    axes: Any = 2,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Any:
    """The product over the last `axes` axes of a and the first of b, or over pairs of axes."""
    a, b, dtype = _operands("tensordot", a, b, preferred_element_type)
    sa, sb = shape_of(a), shape_of(b)
    if isinstance(axes, (tuple, list, np.ndarray)):
        if len(axes) != 2:
            raise TypeError(f"tensordot: axes must be an int or a pair of axes, got {axes!r}")
        left, right = axes
        contracting = (axis_indices("tensordot", left, len(sa), "axes"), axis_indices("tensordot", right, len(sb), "axes"))
        if len(contracting[0]) != len(contracting[1]):
            raise TypeError(f"tensordot: axes {axes} name different numbers of axes")
    else:
        n = static_int("tensordot", axes, "axes")
        if n > min(len(sa), len(sb)):
            raise TypeError(f"tensordot: cannot contract {n} axes of arrays of shapes {sa} and {sb}")
        contracting = (tuple(range(len(sa) - n, len(sa))), tuple(range(n)))
    for i, j in zip(*contracting):
        if sa[i] != sb[j]:
            raise TypeError(f"tensordot: axis {i} of shape {sa} and axis {j} of shape {sb} differ in size")
    return _dot_general(a, b, contracting, preferred=dtype)


def inner(a: Any, b: Any, *, precision: Any = None, preferred_element_type: Any = None) -> Any:
    """The product over the last axes of both."""
    a, b, dtype = _operands("inner", a, b, preferred_element_type)
    if not shape_of(a) or not shape_of(b):
        out = multiply(a, b)
        return out if dtype is None else ops.convert_element_type(out, dtype)
    return tensordot(a, b, (-1, -1), preferred_element_type=dtype)


def outer(a: Any, b: Any, out: None = None) -> Any:
    """The products of every element of a with every element of b, both flattened."""
    if out is not None:
        raise NotImplementedError("outer: the argument out= is not supported, since arrays are immutable; use the returned array")
    a, b = promote("outer", a, b)
    a, b = ravel(as_array("outer", a, "a")), ravel(as_array("outer", b, "b"))
    n, m = shape_of(a)[0], shape_of(b)[0]
    return multiply(ops.broadcast_in_dim(a, (n, m), (0,)), ops.broadcast_in_dim(b, (n, m), (1,)))


def vdot(a: Any, b: Any, *, precision: Any = None, preferred_element_type: Any = None) -> Any:
    """The product of both flattened, the first conjugated."""
    a, b, dtype = _operands("vdot", a, b, preferred_element_type)
    a = conjugate(a) if is_complex(type_of(a).dtype) else a
    return dot(ravel(a), ravel(b), preferred_element_type=dtype)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1, precision: Any = None, preferred_element_type: Any = None) -> Any:
    """The products of vectors along an axis, the first conjugated; the other axes broadcast."""
    a, b, dtype = _operands("vecdot", x1, x2, preferred_element_type)
    if not shape_of(a) or not shape_of(b):
        raise ValueError(f"vecdot: arguments must have at least one dimension, got shapes {shape_of(a)} and {shape_of(b)}")
    a, b = moveaxis(a, axis, -1), moveaxis(b, axis, -1)
    a = conjugate(a) if is_complex(type_of(a).dtype) else a
    if shape_of(a)[-1] != shape_of(b)[-1]:
        raise ValueError(f"vecdot: the vectors have different sizes: shapes {shape_of(a)} and {shape_of(b)}")
    lead = broadcast_shapes_of("vecdot", shape_of(a)[:-1], shape_of(b)[:-1])
    n = shape_of(a)[-1]
    a, b = (broadcast_to_shape(v, (*lead, n)) for v in (a, b))
    dims = tuple(range(len(lead)))
    return _dot_general(a, b, ((len(lead),), (len(lead),)), (dims, dims), preferred=dtype)


def matvec(x1: Any, x2: Any, /) -> Any:
    """Matrices times vectors; leading axes broadcast."""
    a, b, _ = _operands("matvec", x1, x2, None)
    if len(shape_of(a)) < 2 or not shape_of(b):
        raise ValueError(f"matvec: takes a matrix and a vector, got shapes {shape_of(a)} and {shape_of(b)}")
    return matmul(a, reshape_to(b, (*shape_of(b), 1)))[..., 0]


def vecmat(x1: Any, x2: Any, /) -> Any:
    """Conjugated vectors times matrices; leading axes broadcast."""
    a, b, _ = _operands("vecmat", x1, x2, None)
    if not shape_of(a) or len(shape_of(b)) < 2:
        raise ValueError(f"vecmat: takes a vector and a matrix, got shapes {shape_of(a)} and {shape_of(b)}")
    a = conjugate(a) if is_complex(type_of(a).dtype) else a
    return matmul(reshape_to(a, (*shape_of(a)[:-1], 1, shape_of(a)[-1])), b)[..., 0, :]


def kron(a: Any, b: Any) -> Any:
    """The Kronecker product."""
    a, b = promote("kron", a, b)
    a, b = as_array("kron", a, 0), as_array("kron", b, 1)
    rank = max(len(shape_of(a)), len(shape_of(b)))
    sa = (1,) * (rank - len(shape_of(a))) + shape_of(a)
    sb = (1,) * (rank - len(shape_of(b))) + shape_of(b)
    spread = tuple([n for pair in zip(sa, sb) for n in pair])
    left = ops.broadcast_in_dim(reshape_to(a, sa), spread, range(0, 2 * rank, 2))
    right = ops.broadcast_in_dim(reshape_to(b, sb), spread, range(1, 2 * rank, 2))
    return reshape_to(multiply(left, right), tuple([m * n for m, n in zip(sa, sb)]))


def cross(a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Any:
    """The vector product, of vectors with two or three entries along an axis."""
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = promote("cross", a, b)
    a, b = as_array("cross", a, 0), as_array("cross", b, 1)
    a, b = moveaxis(a, axisa, -1), moveaxis(b, axisb, -1)
    na, nb = shape_of(a)[-1], shape_of(b)[-1]
    if na not in (2, 3) or nb not in (2, 3):
        raise ValueError(f"cross: the vectors must have 2 or 3 entries, got {na} and {nb}")
    lead = broadcast_shapes_of("cross", shape_of(a)[:-1], shape_of(b)[:-1])
    a, b = (broadcast_to_shape(v, (*lead, n)) for v, n in ((a, na), (b, nb)))

    def entries(v: Any, n: int) -> list[Any]:
        return [reshape_to(ops.slice_in_dim(v, i, i + 1, 1, len(lead)), lead) for i in range(n)]

    p, q = entries(a, na), entries(b, nb)
    z = ops.sub(multiply(p[0], q[1]), multiply(p[1], q[0]))
    if na == nb == 2:
        return z
    zero = None
    p2, q2 = p[2] if na == 3 else zero, q[2] if nb == 3 else zero

    def difference(u: Any, v: Any) -> Any:
        if u is None:
            return ops.neg(v)
        return u if v is None else ops.sub(u, v)

    def product(u: Any, v: Any) -> Any:
        return None if u is None or v is None else multiply(u, v)

    x = difference(product(p[1], q2), product(p2, q[1]))
    y = difference(product(p2, q[0]), product(p[0], q2))
    parts = [reshape_to(v, (*lead, 1)) for v in (x, y, z)]
    return moveaxis(ops.concatenate(parts, len(lead)), -1, axisc) if lead or axisc not in (-1, 0) else ops.concatenate(parts, 0)


def trace(a: Any, offset: Any = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: None = None) -> Any:
    """The sum of a diagonal."""
    from tracegrad.numpy.diagonals import diagonal
    from tracegrad.numpy.reductions import sum

    if out is not None:
        raise NotImplementedError("trace: the argument out= is not supported, since arrays are immutable; use the returned array")
    a = as_array("trace", a, "a")
    return sum(diagonal(a, offset, axis1, axis2), axis=-1, dtype=dtype)


# einsum

Term = tuple[str, ...]


def _parse_subscripts(subscripts: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    """The letters of every operand's axes and of the result's, with ellipses replaced by letters of their own."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ValueError(f"einsum: {subscripts!r} has {len(terms)} operands, but {len(operands)} were given")
    used = set(text)
    spare = [chr(c) for c in range(0x41, 0x5B) if chr(c) not in used] + [chr(c) for c in range(0x100, 0x200)]
    widths = []
    for term, x in zip(terms, operands):
        rank = len(shape_of(x))
        letters = term.replace("...", "")
        if not all(c.isalpha() for c in letters) or term.count("...") > 1:
            raise ValueError(f"einsum: {term!r} in {subscripts!r} is not a list of letters with at most one ellipsis")
        if "..." in term:
            if rank < len(letters):
                raise ValueError(
                    f"einsum: {term!r} in {subscripts!r} names more axes than its operand of shape {shape_of(x)} has"
                )
            widths.append(rank - len(letters))
        else:
            if rank != len(letters):
                raise ValueError(
                    f"einsum: {term!r} in {subscripts!r} names {len(letters)} axes, but its operand has shape {shape_of(x)}"
                )
            widths.append(0)
    widest = max(widths, default=0)
    ellipsis = "".join(spare[:widest])
    expanded = [t.replace("...", ellipsis[widest - w :]) for t, w in zip(terms, widths)]
    if arrow:
        result = right.replace("...", ellipsis)
        if len(set(result)) != len(result):
            raise ValueError(f"einsum: an axis of the result is named twice in {subscripts!r}")
        for c in result:
            if not any(c in t for t in expanded):
                raise ValueError(f"einsum: the result's axis {c!r} in {subscripts!r} is not an axis of any operand")
    else:
        letters = "".join(expanded)
        result = ellipsis + "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in ellipsis))
    return expanded, result


def _interleaved(args: Sequence[Any]) -> tuple[str, list[Any]]:
    """einsum's other form: operand, list of axes, operand, list of axes, ... [list of the result's axes]."""
    names: dict[Any, str] = {}

    def letters(axes: Sequence[Any]) -> str:
        out = []
        for a in axes:
            out.append(
                "..."
                if a is Ellipsis
                else names.setdefault(a, chr(0x61 + len(names)) if len(names) < 26 else chr(0x300 + len(names)))
            )
        return "".join(out)

    pairs = [(args[i], args[i + 1]) for i in range(0, len(args) - 1, 2)]
    text = ",".join(letters(axes) for _, axes in pairs)
    if len(args) % 2:
        text += "->" + letters(args[-1])
    return text, [x for x, _ in pairs]


def einsum_path(subscripts: Any, /, *operands: Any, optimize: Any = "auto") -> tuple[list[Any], Any]:
    """The order in which einsum contracts its operands, and a description of it."""
    dummies = [np.broadcast_to(np.float32(0), shape_of(x)) if hasattr(x, "shape") else x for x in operands]
    path, text = np.einsum_path(subscripts, *dummies, optimize="optimal" if optimize in ("auto", True) else optimize)
    return path[1:], text


def einsum(
    subscripts: Any,
    /,
    *operands: Any,
    out: None = None,
    optimize: Any = "auto",
    precision: Any = None,
    preferred_element_type: Any = None,
    _dot_general: Any = None,
    out_sharding: Any = None,
) -> Any:
    """Einstein's summation: products of operands summed over the axes that the result lacks."""
    if out is not None:
        raise NotImplementedError(
            "einsum: the argument out= is not supported, since arrays are immutable; use the returned array"
        )
    if not isinstance(subscripts, str):
        subscripts, given = _interleaved((subscripts, *operands))
        operands = tuple(given)
    arrays = [as_array("einsum", x, i) for i, x in enumerate(operands)]
    terms, result = _parse_subscripts(subscripts, arrays)
    values, dtype, _ = promote_values(arrays)
    require_numbers("einsum", *values)
    preferred = None if preferred_element_type is None else canonical_dtype("einsum", preferred_element_type)
    sizes: dict[str, int] = {}
    for t, v in zip(terms, values):
        for c, n in zip(t, shape_of(v)):
            if sizes.setdefault(c, n) != n:
                if 1 not in (sizes[c], n):
                    raise ValueError(
                        f"einsum: the axis {c!r} of {subscripts!r} has size {sizes[c]} in one operand and {n} in another"
                    )
                sizes[c] = max(sizes[c], n)
    pending = [_simplify(t, v, terms, result, sizes, i) for i, (t, v) in enumerate(zip(terms, values))]
    if len(pending) == 1:
        term, value = pending[0]
        return _finish(term, value, result, sizes, preferred)
    for i, j in _path(pending, result, sizes, optimize):
        left, right = pending[i], pending[j]
        pending = [p for k, p in enumerate(pending) if k not in (i, j)]
        needed = set(result).union(*[set(t) for t, _ in pending])
        pending.append(_contract(left, right, needed, result if not pending else "", preferred))
    term, value = pending[0]
    return _finish(term, value, result, sizes, preferred)


def _simplify(term: str, x: Any, terms: Sequence[str], result: str, sizes: dict[str, int], position: int) -> tuple[str, Any]:
    """An operand with repeated axes reduced to their diagonal, broadcast axes dropped and axes that nobody else has summed."""
    from tracegrad.numpy.diagonals import diagonal

    for c in term:
        while term.count(c) > 1:
            i = term.index(c)
            j = term.index(c, i + 1)
            x = diagonal(x, 0, i, j)
            term = term[:i] + term[i + 1 : j] + term[j + 1 :] + c
    ones = [i for i, c in enumerate(term) if shape_of(x)[i] == 1 and sizes[c] != 1]
    if ones:
        x = ops.squeeze(x, ones)
        term = "".join(c for i, c in enumerate(term) if i not in ones)
    alone = [i for i, c in enumerate(term) if c not in result and not any(c in t for k, t in enumerate(terms) if k != position)]
    if alone:
        x = _sum(x, alone)
        term = "".join(c for i, c in enumerate(term) if i not in alone)
    return term, x


def _sum(x: Any, axes: Sequence[int]) -> Any:
    return ops.reduce_or(x, axes) if type_of(x).dtype.kind == "b" else ops.reduce_sum(x, axes)


def _path(pending: Sequence[tuple[str, Any]], result: str, sizes: dict[str, int], optimize: Any) -> list[tuple[int, int]]:
    """Which two operands to contract next, until one is left. Contracted ones go to the end of the list."""
    n = len(pending)
    if n <= 2 or optimize is False:
        return [(0, 1)] + [(0, n - 1 - k) for k in range(1, n - 1)]
    if isinstance(optimize, (list, tuple)):
        pairs: list[Any] = [tuple(sorted(p)) for p in optimize if not isinstance(p, str)]
        if all(len(p) == 2 for p in pairs):
            return pairs
    terms = [frozenset(t) for t, _ in pending]
    return _search_path(terms, frozenset(result), sizes)


def _cost(letters: frozenset[str], sizes: dict[str, int]) -> int:
    return math.prod(sizes[c] for c in letters)


def _search_path(terms: list[frozenset[str]], result: frozenset[str], sizes: dict[str, int]) -> list[tuple[int, int]]:
    """The cheapest sequence of pairs: by trying all for up to five operands, the locally cheapest for more."""

    def after(rest: list[frozenset[str]], a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
        return (a | b) & result.union(*rest)

    def best(current: list[frozenset[str]]) -> tuple[int, list[tuple[int, int]]]:
        if len(current) == 1:
            return 0, []
        options = []
        for i in range(len(current)):
            for j in range(i + 1, len(current)):
                rest = [t for k, t in enumerate(current) if k not in (i, j)]
                cost = _cost(current[i] | current[j], sizes)
                if len(terms) <= 5:
                    later, path = best([*rest, after(rest, current[i], current[j])])
                    options.append((cost + later, [(i, j), *path]))
                else:
                    options.append((cost, [(i, j)]))
        return min(options, key=lambda o: o[0])

    if len(terms) <= 5:
        return best(terms)[1]
    path = []
    current = list(terms)
    while len(current) > 1:
        (i, j) = best(current)[1][0]
        path.append((i, j))
        rest = [t for k, t in enumerate(current) if k not in (i, j)]
        current = [*rest, after(rest, current[i], current[j])]
    return path


def _contract(left: tuple[str, Any], right: tuple[str, Any], needed: set[str], result: str, preferred: Any) -> tuple[str, Any]:
    """The product of two operands, summed over the axes that nobody needs any more."""
    (a, x), (b, y) = left, right
    # axes that only one of them has, and nobody needs, are summed first
    alone = [i for i, c in enumerate(a) if c not in b and c not in needed]
    if alone:
        x, a = _sum(x, alone), "".join(c for i, c in enumerate(a) if i not in alone)
    alone = [i for i, c in enumerate(b) if c not in a and c not in needed]
    if alone:
        y, b = _sum(y, alone), "".join(c for i, c in enumerate(b) if i not in alone)
    summed = [c for c in a if c in b and c not in needed]
    batch = [c for c in a if c in b and c in needed]
    free_a, free_b = [c for c in a if c not in b], [c for c in b if c not in a]
    if not summed:
        return _elementwise_product(a, x, b, y, batch, free_a, free_b, result, preferred)
    if result and _starts_with_right(result, batch, free_a, free_b):
        a, x, b, y, free_a, free_b = b, y, a, x, free_b, free_a
    numbers = (
        ([a.index(c) for c in summed], [b.index(c) for c in summed]),
        ([a.index(c) for c in batch], [b.index(c) for c in batch]),
    )
    if preferred is not None and preferred == type_of(x).dtype:
        preferred = None
    out = ops.dot_general(x, y, numbers, preferred)
    return "".join([*batch, *free_a, *free_b]), out


def _starts_with_right(result: str, batch: list[str], free_a: list[str], free_b: list[str]) -> bool:
    """Whether exchanging the operands puts the result's axes in order."""
    return result == "".join([*batch, *free_b, *free_a]) and result != "".join([*batch, *free_a, *free_b])


def _elementwise_product(
    a: str, x: Any, b: str, y: Any, batch: list[str], free_a: list[str], free_b: list[str], result: str, preferred: Any
) -> tuple[str, Any]:
    letters = result if set(result) == set(a) | set(b) else "".join([*batch, *free_a, *free_b])
    sizes = dict(zip(b, shape_of(y))) | dict(zip(a, shape_of(x)))
    shape = tuple([sizes[c] for c in letters])

    def spread(term: str, value: Any) -> Any:
        order = sorted(range(len(term)), key=lambda i: letters.index(term[i]))
        value = transpose_to(value, order)
        if len(term) in (0, len(letters)):
            return value
        return ops.broadcast_in_dim(value, shape, [letters.index(term[i]) for i in order])

    if preferred is not None:
        x, y = (v if type_of(v).dtype == preferred else ops.convert_element_type(v, preferred) for v in (x, y))
    return letters, multiply(spread(a, x), spread(b, y))


def _finish(term: str, x: Any, result: str, sizes: dict[str, int], preferred: Any) -> Any:
    """The last operand with its axes summed and ordered as the result has them."""
    extra = [i for i, c in enumerate(term) if c not in result]
    if extra:
        x = _sum(x, extra)
        term = "".join(c for c in term if c in result)
    if preferred is not None and type_of(x).dtype != preferred:
        x = ops.convert_element_type(x, preferred)
    kept = [c for c in result if c in term]
    x = transpose_to(x, [term.index(c) for c in kept])
    if len(kept) != len(result):
        x = ops.broadcast_in_dim(x, [sizes[c] for c in result], [result.index(c) for c in kept])
    return x
