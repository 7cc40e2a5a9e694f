"""Which values to keep for a later computation, and which to compute again from them.

The later part of a split program (the linear part of a derivative, the backward pass) reads values of the first. It need not be given all
of them: where one is a few cheap operations away from others, only those are kept. The values of least size from which cheap operations make
the rest are a minimum cut of the graph of these operations between what they start from and what is read. (For partitioning the
two passes of a derivative: Jiang et al., Efficient Rematerialization for Deep Networks, 2019. For the flow: Ford and Fulkerson 1956.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from tracegrad.ir.program import Equation, Var

MOVES = frozenset(
    "broadcast_in_dim reshape transpose rev iota slice convert_element_type copy dynamic_slice gather pad concatenate".split()
)
"""Operations that only move elements: reading them at their old place costs what reading a copy costs."""
CHEAP = MOVES | frozenset(
    "neg add sub mul div abs sign square integer_pow eq ne lt le gt ge and or xor not select max min clamp floor ceil round real imag conj "
    "complex is_finite sqrt".split()
)
"""Operations that cost less than storing and reloading their result, when their operands are at hand anyway."""
MOST_STEPS = 4
"""A value is computed again by a chain of at most so many operations."""
_LARGEST = 2_000
"""In larger graphs of cheap operations, what is read is kept."""
_NO_LIMIT = 1 << 62


def kept_and_rebuilt(
    wanted: Iterable[Var],
    made: Mapping[Var, Equation],
    size: Callable[[Var], int],
    is_cheap: Callable[[Equation], bool] = lambda eqn: eqn.primitive.name in CHEAP,
) -> tuple[set[Var], list[Equation]]:
    """The values to keep, and the equations that compute the other `wanted` ones from them, in order.

    made: the equation that computes a value (in the order in which they run). size: bytes to keep a value; 0 for what is at hand anyway,
    which counts as kept. is_cheap: whether an equation may run again.
    """
    wanted = list(dict.fromkeys(wanted))
    sizes = {v: size(v) for v in wanted}

    def recipe(v: Var) -> Equation | None:
        eqn = made.get(v)
        return eqn if eqn is not None and len(eqn.outputs) == 1 and is_cheap(eqn) else None

    kept = {v for v in wanted if sizes[v] == 0 or recipe(v) is None}
    again: dict[Var, Equation] = {}
    open_: list[Var] = []
    for v in wanted:
        if v not in kept:
            open_.append(v)
    if open_:
        # Most often the others follow from those that are kept in any case.
        closure = _Closure(recipe, size, sizes, kept)
        rest = [v for v in open_ if not closure.follows(v, MOST_STEPS)]
        kept |= _minimum_cut(rest, recipe, size, sizes, kept)
        for v in open_:
            _collect(v, recipe, size, sizes, kept, again)
    return kept, [eqn for eqn in dict.fromkeys(made.values()) if eqn.outputs[0] in again] if again else []


def _operands(eqn: Equation) -> list[Var]:
    return [a for a in eqn.inputs if type(a) is Var]


class _Closure:
    """Which values cheap operations make from those that are kept or at hand."""

    def __init__(
        self, recipe: Callable[[Var], Equation | None], size: Callable[[Var], int], sizes: dict[Var, int], kept: set[Var]
    ):
        self.recipe, self.size, self.sizes, self.kept = recipe, size, sizes, kept
        self.known: dict[Var, tuple[bool, int]] = {}

    def follows(self, v: Var, steps: int) -> bool:
        if v in self.kept:
            return True
        found = self.known.get(v)
        if found is not None and (found[0] or found[1] >= steps):
            return found[0]
        if v not in self.sizes:
            self.sizes[v] = self.size(v)
        if self.sizes[v] == 0:
            answer = True
        else:
            eqn = self.recipe(v) if steps else None
            answer = eqn is not None and all([self.follows(a, steps - 1) for a in _operands(eqn)])
        self.known[v] = (answer, steps)
        return answer


def _collect(
    v: Var,
    recipe: Callable[[Var], Equation | None],
    size: Callable[[Var], int],
    sizes: dict[Var, int],
    kept: set[Var],
    again: dict[Var, Equation],
) -> None:
    """Note the equations that make `v` from what is kept or at hand; what is at hand and read counts as kept."""
    stack = [v]
    while stack:
        v = stack.pop()
        if v in kept or v in again:
            continue
        if sizes.setdefault(v, size(v)) == 0:
            kept.add(v)
            continue
        eqn = recipe(v)
        assert eqn is not None  # a cut lies between this value and everything that is not cheap
        again[v] = eqn
        stack.extend(_operands(eqn))


def _minimum_cut(
    wanted: list[Var],
    recipe: Callable[[Var], Equation | None],
    size: Callable[[Var], int],
    sizes: dict[Var, int],
    kept: set[Var],
) -> set[Var]:
    """The values of least size that separate `wanted` from what cannot be computed again."""
    if not wanted:
        return set()
    # The values at most MOST_STEPS operations away, nearest first. A value that is further away counts a little more, so that nothing is computed
    # again for nothing.
    distance: dict[Var, int] = dict.fromkeys(wanted, 0)
    queue = deque(wanted)
    leaves: list[Var] = []
    operands: dict[Var, list[Var]] = {}
    while queue:
        v = queue.popleft()
        eqn = recipe(v) if distance[v] < MOST_STEPS else None
        if eqn is None:
            leaves.append(v)
            continue
        operands[v] = []
        for a in _operands(eqn):
            if a in kept or sizes.setdefault(a, size(a)) == 0:
                continue
            operands[v].append(a)
            if a not in distance:
                distance[a] = distance[v] + 1
                queue.append(a)
    if len(distance) > _LARGEST:
        return set(wanted)
    # Each value is two nodes, with an edge of its size between them; node 0 is the source and 1 the sink. Edge e runs back as e ^ 1.
    number = {v: 2 + 2 * i for i, v in enumerate(distance)}
    heads: list[int] = []
    capacity: list[int] = []
    edges: list[list[int]] = [[] for _ in range(2 + 2 * len(number))]

    def connect(a: int, b: int, limit: int) -> None:
        edges[a].append(len(heads))
        edges[b].append(len(heads) + 1)
        heads.extend((b, a))
        capacity.extend((limit, 0))

    for v, n in number.items():
        connect(n, n + 1, sizes[v] * (16 + distance[v]))
        for a in operands.get(v, ()):
            connect(number[a] + 1, n, _NO_LIMIT)
    for v in leaves:
        connect(0, number[v], _NO_LIMIT)
    for v in wanted:
        connect(number[v] + 1, 1, _NO_LIMIT)
    while _augment(heads, capacity, edges):
        continue
    # Of all minimum cuts the one nearest to the sink: what still reaches it.
    reaches = [False] * len(edges)
    reaches[1] = True
    stack = [1]
    while stack:
        for e in edges[stack.pop()]:
            if capacity[e ^ 1] > 0 and not reaches[heads[e]]:
                reaches[heads[e]] = True
                stack.append(heads[e])
    return {v for v, n in number.items() if reaches[n + 1] and not reaches[n]}


def _augment(heads: list[int], capacity: list[int], edges: list[list[int]]) -> bool:
    """Push what fits along a shortest path from source to sink; False if there is none."""
    came: list[int] = [-1] * len(edges)
    queue = deque([0])
    while queue and came[1] < 0:
        n = queue.popleft()
        for e in edges[n]:
            m = heads[e]
            if capacity[e] > 0 and m and came[m] < 0:
                came[m] = e
                queue.append(m)
    if came[1] < 0:
        return False
    path, n = [], 1
    while n:
        path.append(came[n])
        n = heads[came[n] ^ 1]
    flow = min([capacity[e] for e in path])
    for e in path:
        capacity[e] -= flow
        capacity[e ^ 1] += flow
    return True
