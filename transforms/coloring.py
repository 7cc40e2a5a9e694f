"""Colouring the columns and rows of a sparse matrix, so that one derivative serves all those of a colour.

Columns that share no row can be differentiated along together: their sum still shows each entry alone (Curtis, Powell & Reid, On the estimation of
sparse Jacobian matrices, 1974). Finding the fewest such groups is colouring a graph, which is NP-hard; the greedy colourings here, their orders,
and star colouring of symmetric matrices are those surveyed in Gebremedhin, Manne & Pothen, What color is your Jacobian? (SIAM Review 47, 2005).
Sets of colours are the bits of Python integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np


class Pattern:
    """Which entries of a matrix can be nonzero: `rows` and `columns` of the entries, in row-major order, and the matrix's `shape`."""

    __slots__ = ("shape", "rows", "columns", "_hash")

    def __init__(self, shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray):
        """Raises ValueError if an entry lies outside of the shape, TypeError unless there are as many rows as columns."""
        rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
        m, n = (int(d) for d in shape)
        if rows.ndim != 1 or rows.shape != columns.shape:
            raise TypeError(f"a Pattern takes one row and one column for each entry, got {rows.shape} and {columns.shape}")
        if rows.size and not (0 <= rows.min() and rows.max() < m and 0 <= columns.min() and columns.max() < n):
            raise ValueError(f"a Pattern of shape {(m, n)} has an entry outside of it")
        places = np.unique(rows * n + columns)
        self.shape = (m, n)
        self.rows = (places // max(n, 1)).astype(np.int32)
        self.columns = (places % max(n, 1)).astype(np.int32)
        self.rows.flags.writeable = self.columns.flags.writeable = False
        self._hash: int | None = None

    @staticmethod
    def of(matrix: Any) -> Pattern:
        """The pattern of a SciPy sparse matrix or of an array (its nonzero entries), or a pattern itself."""
        if isinstance(matrix, Pattern):
            return matrix
        if hasattr(matrix, "tocoo"):
            entries = matrix.tocoo()
            return Pattern(entries.shape, entries.row, entries.col)
        array = np.asarray(matrix)
        if array.ndim != 2:
            raise TypeError(f"a sparsity pattern is a matrix, got an array of shape {array.shape}")
        return Pattern(array.shape, *np.nonzero(array))  # type: ignore[arg-type]

    @property
    def nnz(self) -> int:
        """The number of entries."""
        return len(self.rows)

    @property
    def indptr(self) -> np.ndarray:
        """Where each row starts among the entries (and where the last one ends), as in SciPy's CSR format."""
        return np.searchsorted(self.rows, np.arange(self.shape[0] + 1)).astype(np.int32)

    @property
    def T(self) -> Pattern:
        return Pattern(self.shape[::-1], self.columns, self.rows)

    def todense(self) -> np.ndarray:
        """A Boolean array."""
        dense = np.zeros(self.shape, bool)
        dense[self.rows, self.columns] = True
        return dense

    def to_scipy(self) -> Any:
        """A Boolean `scipy.sparse.csr_array`."""
        from scipy.sparse import csr_array

        return csr_array((np.ones(self.nnz, bool), self.columns, self.indptr), shape=self.shape)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Pattern)
            and self.shape == other.shape
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.columns, other.columns)
        )

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((self.shape, self.rows.tobytes(), self.columns.tobytes()))
        return self._hash

    def __repr__(self) -> str:
        return f"Pattern({self.shape[0]} x {self.shape[1]}, {self.nnz} entries)"


class Coloring(NamedTuple):
    """Colours of the columns and of the rows of a matrix; -1 for those that need none.

    Every entry can be read from the sum of the columns, or of the rows, of one colour. `columns` counts from 0 to `column_colors`, one derivative in
    forward mode for each; `rows` likewise to `row_colors`, in reverse mode. `symmetric`: an entry may have to be read as its mirror image.
    """

    columns: np.ndarray
    rows: np.ndarray
    symmetric: bool = False

    @property
    def column_colors(self) -> int:
        return int(self.columns.max(initial=-1)) + 1

    @property
    def row_colors(self) -> int:
        return int(self.rows.max(initial=-1)) + 1

    @property
    def num_colors(self) -> int:
        return self.column_colors + self.row_colors


def color(pattern: Any, partition: str = "auto") -> Coloring:
    """Colour a matrix so that its entries can be read from as few sums of columns or rows as a greedy search finds.

    pattern: a `Pattern`, a SciPy sparse matrix, or an array. partition: "columns" (one forward derivative for each colour), "rows" (one reverse
    derivative), "bidirectional" (rows that are too full by rows, or columns by columns, the rest the other way), "symmetric" (columns of a
    symmetric matrix, by a star colouring) or "auto" (the fewest of the first three, the earliest on ties).
    Raises ValueError for another partition, and for "symmetric" if the pattern is not.
    """
    p = Pattern.of(pattern)
    m, n = p.shape
    none_of_rows, none_of_columns = np.full(m, -1), np.full(n, -1)
    if partition == "columns":
        return Coloring(_color_columns(p.rows, p.columns, m, n), none_of_rows)
    if partition == "rows":
        return Coloring(none_of_columns, _color_columns(p.columns, p.rows, n, m))
    if partition == "symmetric":
        if p != p.T:
            raise ValueError(
                "partition='symmetric' colours symmetric patterns; make it one (pattern | pattern.T) or color by columns"
            )
        star = _color_star(p)
        if (p.rows == p.columns).sum() < n:  # without a diagonal neighbours may share a colour, which star colouring does not use
            columns = _color_columns(p.rows, p.columns, m, n)
            star = min(star, columns, key=lambda c: c.max(initial=-1))
        return Coloring(star, none_of_rows, True)
    if partition == "bidirectional":
        return _bidirectional(p)
    if partition == "auto":
        return _fewest(p)
    raise ValueError(f"partition {partition!r} is not one of 'auto', 'columns', 'rows', 'bidirectional', 'symmetric'")


# Distance-2 colouring of columns


def _neighbors(rows: np.ndarray, columns: np.ndarray, n: int) -> list[list[int]]:
    """For each of n columns the rows of its entries."""
    order = np.argsort(columns, kind="stable")
    bounds = np.searchsorted(columns[order], np.arange(n + 1)).tolist()
    entries = rows[order].tolist()
    return [entries[a:b] for a, b in zip(bounds, bounds[1:])]


def _lowest_free(used: int) -> int:
    """The number of the lowest bit that is not set."""
    return (~used & (used + 1)).bit_length() - 1


def _color_columns(rows: np.ndarray, columns: np.ndarray, m: int, n: int) -> np.ndarray:
    """Colours such that no row has entries in two columns of one colour; -1 for empty columns.

    Greedy, in several orders, until the number of colours is that of the fullest row, below which there is no colouring.
    """
    column_rows = _neighbors(rows, columns, n)
    counts = np.bincount(rows, minlength=m)
    fewest = int(counts.max(initial=0))
    best: np.ndarray | None = None
    for order in _orders(rows, columns, counts, n):
        found = _greedy(column_rows, order, m)
        if best is None or found.max(initial=-1) < best.max(initial=-1):
            best = found
        if best.max(initial=-1) + 1 <= fewest:
            break
    assert best is not None
    return best


def _greedy(column_rows: Sequence[list[int]], order: np.ndarray, m: int) -> np.ndarray:
    colors = np.full(len(column_rows), -1)
    used = [0] * m
    for j in order.tolist():
        taken = 0
        for i in column_rows[j]:
            taken |= used[i]
        if column_rows[j]:
            colors[j] = _lowest_free(taken)
            bit = 1 << int(colors[j])
            for i in column_rows[j]:
                used[i] |= bit
    return colors


def _orders(rows: np.ndarray, columns: np.ndarray, counts: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """Orders of the columns: natural (best for bands), largest first, and smallest last where the graph is not too large."""
    yield np.arange(n)
    weight = np.bincount(columns, weights=counts[rows], minlength=n)
    yield np.argsort(-weight, kind="stable")
    if (counts.astype(float) ** 2).sum() <= 2e6:
        yield _smallest_last(rows, columns, len(counts), n)


def _smallest_last(rows: np.ndarray, columns: np.ndarray, m: int, n: int) -> np.ndarray:
    """The order of Matula & Beck (1983): last the column that meets the fewest others, before it the one that meets the fewest of the rest."""
    from scipy.sparse import csr_array

    a = csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(m, n))
    meeting = (a.T @ a).tocsr()
    pointers = meeting.indptr.tolist()
    indices = meeting.indices.tolist()
    degree = np.diff(meeting.indptr).tolist()
    buckets: list[set[int]] = [set() for _ in range(max(degree, default=0) + 1)]
    for j, d in enumerate(degree):
        buckets[d].add(j)
    order: list[int] = []
    removed = [False] * n
    d = 0
    while len(order) < n:
        while not buckets[d]:
            d += 1
        j = buckets[d].pop()
        removed[j] = True
        order.append(j)
        for k in indices[pointers[j] : pointers[j + 1]]:
            if not removed[k]:
                buckets[degree[k]].discard(k)
                degree[k] -= 1
                buckets[degree[k]].add(k)
        d = max(d - 1, 0)
    return np.array(order[::-1], int)


# Rows and columns together


def _bidirectional(p: Pattern) -> Coloring:
    """The fullest rows by rows and what is left by columns, or the other way round.

    An arrow has a full row and a full column: neither columns nor rows alone need fewer colours than its size, together they need three (Coleman &
    Verma, The efficient computation of sparse Jacobian matrices using automatic differentiation, 1998; here without splitting single columns).
    """
    return _first_best(_ways(p))


def _fewest(p: Pattern) -> Coloring:
    """The best of all partitions; one whose bound shows that it cannot be better is not tried."""
    by_row, by_column = (int(np.bincount(x, minlength=1).max(initial=0)) for x in (p.rows, p.columns))
    ways = [
        _Way(by_row, lambda: color(p, "columns")),
        _Way(by_column, lambda: color(p, "rows")),
        *_ways(p),
    ]
    return _first_best(ways)


class _Way(NamedTuple):
    """A way to colour, and a number of colours below which it cannot go."""

    bound: int
    coloring: Callable[[], Coloring]


def _first_best(ways: Sequence[_Way]) -> Coloring:
    best: Coloring | None = None
    for way in sorted(ways, key=lambda w: w.bound):
        if best is None or way.bound < best.num_colors:
            found = way.coloring()
            if best is None or found.num_colors < best.num_colors:
                best = found
    assert best is not None
    return best


def _ways(p: Pattern) -> list[_Way]:
    """Divisions into full rows and the rest, and into full columns and the rest: of each kind the three that promise most."""
    flipped = p.T
    return [
        *[_Way(bound, partial(_with_full_rows, p, level)) for bound, level in _levels(p)],
        *[_Way(bound, partial(_with_full_columns, flipped, level)) for bound, level in _levels(flipped)],
    ]


def _with_full_rows(p: Pattern, level: int) -> Coloring:
    """Rows of more than `level` entries by rows, the others by columns."""
    m, n = p.shape
    full = (np.bincount(p.rows, minlength=m) > level)[p.rows]
    columns = _color_columns(p.rows[~full], p.columns[~full], m, n)
    return Coloring(columns, _color_columns(p.columns[full], p.rows[full], n, m))


def _with_full_columns(flipped: Pattern, level: int) -> Coloring:
    """Columns of more than `level` entries by columns, the others by rows; of the transposed matrix."""
    found = _with_full_rows(flipped, level)
    return Coloring(found.rows, found.columns)


def _levels(p: Pattern) -> list[tuple[int, int]]:
    """The few numbers of entries, above which to call a row full, with the lowest bounds on the number of colours; (bound, level).

    Rows that stay need as many column colours as the fullest has entries, columns as many row colours as full rows meet in one.
    """
    counts = np.bincount(p.rows, minlength=p.shape[0])
    found = []
    for level in np.unique(np.append(counts, 0))[::-1][:64]:
        meeting = np.bincount(p.columns[counts[p.rows] > level], minlength=1)
        found.append((int(level) + int(meeting.max(initial=0)), int(level)))
    return sorted(found)[:3]


# Star colouring of symmetric matrices


def _color_star(p: Pattern) -> np.ndarray:
    """Colours of the vertices of a symmetric matrix's graph such that neighbours differ and no path of four vertices has only two colours.

    Then of each entry (i, j), i alone has j's colour's entry in its row, or j i's: it can be read from the sums of columns of one colour, as itself or
    as its mirror image (Coleman & More, Estimation of sparse Hessian matrices and graph coloring problems, 1984). The better of two orders.
    """
    off = p.rows != p.columns
    neighbors = _neighbors(p.rows[off], p.columns[off], p.shape[0])
    diagonal = np.zeros(p.shape[0], bool)
    diagonal[p.rows[~off]] = True
    degree = np.array([len(v) for v in neighbors], int)
    orders = (np.arange(p.shape[0]), np.argsort(-degree, kind="stable"))
    found = [_greedy_star(neighbors, diagonal, order) for order in orders]
    return min(found, key=lambda c: c.max(initial=-1))


def _greedy_star(neighbors: Sequence[list[int]], diagonal: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Greedy star colouring (algorithm 4.1 of Gebremedhin, Manne & Pothen 2005) with what it forbids kept up to date for each vertex.

    A vertex x is the hub of a star if two of its neighbours, the leaves, have one colour. Whoever meets a leaf must not have the hub's colour. While a vertex
    has no colour, its neighbours get different ones, so that it is no hub yet when it gets its own.
    """
    n = len(neighbors)
    colors = [-1] * n
    used = [0] * n  # by vertex, the colours of its neighbours
    hubs = [0] * n  # by leaf, the colours of the hubs of its stars
    first_leaf: list[dict[int, int]] = [
        {} for _ in range(n)
    ]  # by vertex and colour, its only neighbour of that colour; -1: several
    for v in order.tolist():
        if not neighbors[v] and not diagonal[v]:
            continue
        taken = 0
        for w in neighbors[v]:
            taken |= used[w] if colors[w] < 0 else (1 << colors[w]) | hubs[w]
        c = colors[v] = _lowest_free(taken)
        bit = 1 << c
        for x in neighbors[v]:
            used[x] |= bit
            leaf = first_leaf[x].setdefault(c, v)
            if leaf == v:
                continue
            hub = 1 << colors[x]
            hubs[v] |= hub
            if leaf >= 0:
                hubs[leaf] |= hub
                first_leaf[x][c] = -1
    return np.array(colors, int)


# Reading entries out of the sums


def reading(p: Pattern, coloring: Coloring) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each entry where to read it: (by_rows, color, place).

    Where `by_rows` is false, at `place` (a row) of the sum of the columns of that colour; else at `place` (a column) of the sum of the rows of that colour.
    Raises ValueError if a colouring does not let some entry be read.
    """
    rows, columns = p.rows.astype(np.int64), p.columns.astype(np.int64)
    m, n = p.shape
    if coloring.columns.shape != (n,) or coloring.rows.shape != (m,):
        raise ValueError(f"a colouring of {coloring.rows.size} x {coloring.columns.size} is not one of {p}")
    by_column = _alone(rows, coloring.columns[columns])
    by_row = _alone(columns, coloring.rows[rows])
    mirrored = _alone(columns, coloring.columns[rows]) if coloring.symmetric else np.zeros(p.nnz, bool)
    if not (by_column | by_row | mirrored).all():
        k = int(np.argmin(by_column | by_row | mirrored))
        raise ValueError(f"the colouring does not separate entry ({rows[k]}, {columns[k]}) of {p} from others of its colour")
    of_rows = ~by_column & by_row
    as_mirror = ~by_column & ~by_row
    colors = np.where(of_rows, coloring.rows[rows], coloring.columns[np.where(as_mirror, rows, columns) if m == n else columns])
    return of_rows, colors, np.where(by_column, rows, columns)


def _alone(places: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Which entries are the only ones of their colour at their place. Those without a colour are not."""
    keys = places * (int(colors.max(initial=0)) + 2) + colors + 1
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return (counts[inverse] == 1) & (colors >= 0)
