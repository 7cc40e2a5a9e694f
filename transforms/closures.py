"""Traced values that functions hold in their closures, made explicit.

A custom rule is run when its function is differentiated or batched, which may be long after the trace in which the function was applied has
ended, or under another interpreter. What such a function closes over must therefore travel with the arguments: `lift` finds the
traced values in closures (and default arguments, partial applications, bound methods, containers, and the rules of custom functions) and `at` gives the same functions
closing over other values. Functions are rebuilt around new cells; what holds no traced value is shared, not copied.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.tracer.pytree import tree_flatten, tree_unflatten
from tracegrad.tracer.tracer import Tracer


class Holder:
    """Base of objects that hold functions under the attributes `functions`: custom_jvp and its kind, jit. Their closures are looked into."""

    functions: tuple[str, ...] = ()

    def holding(self, *functions: Any) -> Any:
        """A copy that holds other functions, in the order of `functions`."""
        new = copy.copy(self)
        for name, function in zip(self.functions, functions):
            setattr(new, name, function)
        return new


class _Slot:
    """The place of the i-th lifted value."""

    __slots__ = ("index",)

    def __init__(self, index: int):
        self.index = index


class Lifted:
    """An object with places for traced values, and the values that were there. It does not keep their trace alive."""

    __slots__ = ("_template", "_reaching")

    def __init__(self, template: Any):
        self._template = template
        self._reaching = _reaching(template, lambda x: type(x) is _Slot)[1]

    def at(self, values: Sequence[Any]) -> Any:
        """The object with `values` in place of the lifted ones."""
        return _remade(self._template, self._reaching, lambda slot: values[slot.index])


def lift(x: Any) -> tuple[Lifted, list[Any]] | None:
    """(the object without its live traced values, these values, each once); None if there are none.

    x: a function, or a container of functions and other things. Globals and attributes of ordinary objects are not looked into.
    """
    found, reaching = _reaching(x, _is_live)
    if not found:
        return None
    slots = {id(t): _Slot(i) for i, t in enumerate(found)}
    return Lifted(_remade(x, reaching, lambda t: slots[id(t)])), found


def _is_live(x: Any) -> bool:
    return isinstance(x, Tracer) and not getattr(x.interpreter, "closed", False)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _leaves(x: Any) -> list[Any]:
    """The parts of a container, of any depth; none if it is a leaf."""
    try:
        leaves, tree = tree_flatten(x)
    except (TypeError, ValueError):  # a dictionary with keys that have no order: no pytree
        return []
    return leaves if tree.num_nodes != 1 or len(leaves) != 1 else []


def _parts(x: Any) -> Sequence[Any]:
    """What an object refers to, as far as it can be rebuilt around something else."""
    if isinstance(x, types.FunctionType):
        return [
            *[_content(c) for c in x.__closure__ or ()],
            *(x.__defaults__ or ()),
            *(x.__kwdefaults__ or {}).values(),
            *x.__dict__.values(),
        ]
    if isinstance(x, functools.partial):
        return [x.func, *x.args, *x.keywords.values()]
    if isinstance(x, types.MethodType):
        return [x.__func__, x.__self__]
    if isinstance(x, Holder):
        return [getattr(x, name) for name in x.functions]
    return _leaves(x)


def _reaching(root: Any, wanted: Callable[[Any], bool]) -> tuple[list[Any], dict[int, Any]]:
    """(the wanted objects below `root`, all objects from which one can be reached, by identity). References may be cyclic."""
    found: list[Any] = []
    users: dict[int, list[int]] = {}
    stack = [root]
    seen = {id(root): root}
    while stack:
        x = stack.pop()
        if wanted(x):
            found.append(x)
            continue
        for part in _parts(x):
            users.setdefault(id(part), []).append(id(x))
            if id(part) not in seen:
                seen[id(part)] = part
                stack.append(part)
    reaching = {id(x): x for x in found}
    queue = list(reaching)
    while queue:
        for user in users.get(queue.pop(), ()):
            if user not in reaching:
                reaching[user] = seen[user]
                queue.append(user)
    return found, reaching


def _remade(root: Any, reaching: dict[int, Any], replace: Callable[[Any], Any]) -> Any:
    memo: dict[int, Any] = {}

    def remake(x: Any) -> Any:
        if id(x) not in reaching:
            return x
        known = memo.get(id(x))
        if known is not None:
            return known
        if isinstance(x, types.FunctionType):
            cells = tuple([types.CellType() if id(_content(c)) in reaching else c for c in x.__closure__ or ()])
            new = types.FunctionType(x.__code__, x.__globals__, x.__name__, None, cells)
            # Known before its parts are made: a function may refer to itself.
            memo[id(x)] = new
            new.__qualname__, new.__doc__, new.__module__ = x.__qualname__, x.__doc__, x.__module__
            for old, cell in zip(x.__closure__ or (), cells):
                if cell is not old:
                    cell.cell_contents = remake(old.cell_contents)
            new.__defaults__ = None if x.__defaults__ is None else tuple([remake(d) for d in x.__defaults__])
            new.__kwdefaults__ = None if x.__kwdefaults__ is None else {k: remake(d) for k, d in x.__kwdefaults__.items()}
            new.__dict__.update({k: remake(v) for k, v in x.__dict__.items()})
            return new
        if isinstance(x, Holder):
            return x.holding(*[remake(getattr(x, name)) for name in x.functions])
        if isinstance(x, functools.partial):
            return functools.partial(remake(x.func), *map(remake, x.args), **{k: remake(v) for k, v in x.keywords.items()})
        if isinstance(x, types.MethodType):
            return types.MethodType(remake(x.__func__), remake(x.__self__))
        leaves, tree = tree_flatten(x)
        if tree.num_nodes == 1 and len(leaves) == 1:
            return replace(x)
        return tree_unflatten(tree, [remake(leaf) for leaf in leaves])

    return remake(root)
