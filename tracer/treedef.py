"""The structure of pytrees: which types are containers, flattening, and `TreeDef`, what remains of a tree without its leaves.

Flattening is on the path of every compiled call, so it is written for speed: one dictionary look-up per value decides what it is,
and structures made of plain data are interned, so that equal ones are one object, and comparing or hashing them is by identity.
Structures whose metadata is anything else (numbers that equal other numbers, user objects) are compared part by part.
"""

from __future__ import annotations

import abc
import types
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from threading import Lock
from typing import Any

Children = Iterable[Any]


class Node:
    """What the registry knows about a type of container.

    flatten(x) -> (children, metadata);  unflatten(metadata, children) -> x
    flatten_with_keys(x) -> (pairs (key, child), metadata), or None: children are then named by their index.
    fields: names of the children when every instance has the same ones (named tuples, registered dataclasses).
    meta: names of what makes up the metadata, if children and metadata are the attributes of these names (registered dataclasses).
    """

    __slots__ = ("type", "flatten", "unflatten", "flatten_with_keys", "fields", "meta")

    def __init__(
        self,
        type: type,
        flatten: Callable[[Any], tuple[Children, Any]],
        unflatten: Callable[[Any, Any], Any],
        flatten_with_keys: Callable[[Any], tuple[Iterable[tuple[Any, Any]], Any]] | None = None,
        fields: tuple[str, ...] | None = None,
        meta: tuple[str, ...] | None = None,
    ):
        self.type = type
        self.flatten = flatten
        self.unflatten = unflatten
        self.flatten_with_keys = flatten_with_keys
        self.fields = fields
        self.meta = meta


class TreeDef:
    """The structure of a pytree. Made by flattening, and by `treedef_tuple`, `compose`, ...; equal for equal structures."""

    __slots__ = ("node_type", "aux", "_children", "num_leaves", "num_nodes", "_flat", "__weakref__")
    interned = True
    """Whether equality is identity: the structure's metadata, at all depths, is plain data."""

    node_type: type | None
    """The container's type; None for a leaf, NoneType for None."""
    aux: Any
    """The container's metadata: a dictionary's sorted keys, a custom node's second result of flattening."""

    def __init__(self, node_type: type | None, aux: Any, children: tuple[TreeDef, ...]):
        self.node_type = node_type
        self.aux = aux
        self._children = children
        self.num_leaves: int = 1 if node_type is None else sum([c.num_leaves for c in children])
        self.num_nodes: int = 1 + sum([c.num_nodes for c in children])
        self._flat = all([c.node_type is None for c in children])

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """The tree of this structure with these leaves."""
        if type(leaves) is not list and type(leaves) is not tuple:
            leaves = tuple(leaves)
        if len(leaves) != self.num_leaves:
            few = "few" if len(leaves) < self.num_leaves else "many"
            raise ValueError(f"Too {few} leaves for PyTreeDef; expected {self.num_leaves}, got {len(leaves)}")
        if self.node_type is None:
            return leaves[0]
        return self._build(iter(leaves))

    def _build(self, leaves: Iterator[Any]) -> Any:
        if self._flat:
            children = list(islice(leaves, len(self._children)))
        else:
            children = [next(leaves) if c.node_type is None else c._build(leaves) for c in self._children]
        t = self.node_type
        if t is tuple:
            return tuple(children)
        if t is list:
            return children
        if t is dict:
            return dict(zip(self.aux, children))
        if t is NoneType:
            return None
        return NODES[t].unflatten(self.aux, tuple(children))  # type: ignore[index]  # a leaf was answered above

    def children(self) -> list[TreeDef]:
        """The structures of the immediate children."""
        return list(self._children)

    def node_data(self) -> tuple[type, Any] | None:
        """(container type, metadata) of the root; None for a leaf."""
        if self.node_type is None:
            return None
        return self.node_type, list(self.aux) if self.node_type is dict else self.aux

    def is_leaf(self) -> bool:
        return self.node_type is None

    def flatten_up_to(self, tree: Any) -> list[Any]:
        """The subtrees of `tree` at the places of this structure's leaves. Raises ValueError if this is no prefix of `tree`."""
        found: list[Any] = []
        self._flatten_up_to(tree, found)
        return found

    def _flatten_up_to(self, tree: Any, found: list[Any]) -> None:
        t = self.node_type
        if t is None:
            found.append(tree)
            return
        if t is NoneType:
            if tree is not None:
                raise ValueError(f"Expected None, got {tree!r:.200}.")
            return
        if type(tree) is not t:
            raise ValueError(f"Expected {_kind_name(t)}, got {tree!r:.200}.")
        node: Any = tree
        if t is tuple or t is list:
            children: Any = node
        elif t is dict:
            keys = self.aux
            if len(node) != len(keys) or any([k not in node for k in keys]):
                raise ValueError(f"Dict key mismatch; expected keys: {list(keys)}; present keys: {list(node)}.")
            children = [node[k] for k in keys]
        else:
            children, aux = NODES[t].flatten(node)
            children = tuple(children)
            if aux is not self.aux and aux != self.aux:
                raise ValueError(f"Mismatch of the metadata of {t.__name__}: {self.aux!r:.200} != {aux!r:.200}.")
        if len(children) != len(self._children):
            raise ValueError(
                f"{_kind_name(t).capitalize()} arity mismatch: {len(children)} != {len(self._children)}; {_kind_name(t)}: {tree!r:.200}."
            )
        for c, x in zip(self._children, children):
            if c.node_type is None:
                found.append(x)
            else:
                c._flatten_up_to(x, found)

    def compose(self, inner: TreeDef) -> TreeDef:
        """This structure with every leaf replaced by `inner`."""
        if self.node_type is None:
            return inner
        return make(self.node_type, self.aux, tuple([c.compose(inner) for c in self._children]))

    def walk(self, visit_node: Callable[[Any, Any], Any], visit_leaf: Callable[[Any], Any] | None, leaves: Iterable[Any]) -> Any:
        """Fold the structure bottom up: `visit_leaf(leaf)` for leaves, `visit_node(children, node_data)` for containers."""
        items = iter(leaves)

        def fold(t: TreeDef) -> Any:
            if t.node_type is None:
                leaf = next(items)
                return leaf if visit_leaf is None else visit_leaf(leaf)
            return visit_node(tuple([fold(c) for c in t._children]), t.node_data())

        return fold(self)

    def from_iterable_tree(self, tree: Any) -> Any:
        """The tree of this structure whose containers are given as iterables of children."""
        if self.node_type is None:
            return tree
        parts: list[Any] = []

        def collect(t: TreeDef, x: Any) -> None:
            if t.node_type is None:
                parts.append(x)
            elif t.node_type is not NoneType:
                for c, y in zip(t._children, x, strict=True):
                    collect(c, y)

        collect(self, tree)
        return self.unflatten(parts)

    @staticmethod
    def from_node_data_and_children(registry: Any, node_data: tuple[type, Any] | None, children: Iterable[TreeDef]) -> TreeDef:
        """The structure with this root and these children; the inverse of `node_data()` and `children()`."""
        if node_data is None:
            return LEAF
        node_type, aux = node_data
        return make(node_type, tuple(aux) if node_type is dict else aux, tuple(children))

    def __repr__(self) -> str:
        return f"PyTreeDef({_text(self)})"

    def __reduce__(self) -> Any:
        if self.node_type is None:
            return (_leaf, ())
        return (make, (self.node_type, self.aux, self._children))

    def __copy__(self) -> TreeDef:
        return self

    def __deepcopy__(self, memo: Any) -> TreeDef:
        return self


class _ComparedTreeDef(TreeDef):
    """A structure with metadata that is not plain data: equal to whatever has equal parts."""

    __slots__ = ("_hash",)
    interned = False

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, _ComparedTreeDef):
            return False if isinstance(other, TreeDef) else NotImplemented
        return (
            self.node_type is other.node_type
            and len(self._children) == len(other._children)
            and (self.aux is other.aux or bool(self.aux == other.aux))
            and self._children == other._children
        )

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            pass
        try:
            self._hash: int = hash((self.node_type, self.aux, self._children))
        except TypeError:  # metadata with lists in it is compared all the same
            self._hash = hash((self.node_type, self._children))
        return self._hash


NoneType = type(None)
LEAF = TreeDef(None, None, ())


def _leaf() -> TreeDef:
    return LEAF


def _kind_name(t: type) -> str:
    if t in (tuple, list, dict):
        return t.__name__
    return "named tuple" if _is_namedtuple(t) else t.__name__


def _text(t: TreeDef) -> str:
    if t.node_type is None:
        return "*"
    if t.node_type is NoneType:
        return "None"
    inner = [_text(c) for c in t._children]
    if t.node_type is tuple:
        return f"({inner[0]},)" if len(inner) == 1 else f"({', '.join(inner)})"
    if t.node_type is list:
        return f"[{', '.join(inner)}]"
    if t.node_type is dict:
        return "{" + ", ".join(f"{k!r}: {c}" for k, c in zip(t.aux, inner)) + "}"
    head = f"namedtuple[{t.node_type.__name__}]" if _is_namedtuple(t.node_type) else f"{t.node_type.__name__}[{t.aux}]"
    return f"CustomNode({head}, [{', '.join(inner)}])"


# Interning. The table holds structures weakly; a key holds the children, which their parent holds anyway.
class _Entry(weakref.ref):  # type: ignore[type-arg]
    __slots__ = ("key",)
    key: Any


_interned: dict[Any, _Entry] = {}
_interning = Lock()


def _forget(entry: _Entry) -> None:
    if _interned.get(entry.key) is entry:
        del _interned[entry.key]


_COMPARED = object()
_PLAIN = frozenset((NoneType, str, bytes, types.FunctionType, types.BuiltinFunctionType, type, abc.ABCMeta))


def _plain(aux: Any) -> Any:
    """A key that distinguishes this metadata from all that behave differently, or `_COMPARED` if it is not plain data."""
    t = type(aux)
    if t in _PLAIN:
        return aux
    if t is int or t is bool:
        return (t, aux)  # 1 == True, but they are not the same metadata
    if t is tuple:
        parts = tuple([_plain(a) for a in aux])
        return _COMPARED if _COMPARED in parts else (tuple, parts)
    return _COMPARED


def make(node_type: type, aux: Any, children: tuple[TreeDef, ...]) -> TreeDef:
    """The structure with this root and these children."""
    if node_type is dict:
        part = aux if all([type(k) is str for k in aux]) else _COMPARED
    else:
        part = _plain(aux)
    if part is _COMPARED or not all([c.interned for c in children]):
        return _ComparedTreeDef(node_type, aux, children)
    return _intern((node_type, part, children), aux)


def _intern(key: Any, aux: Any) -> TreeDef:
    with _interning:
        entry = _interned.get(key)
        found = entry() if entry is not None else None
        if found is None:
            found = TreeDef(key[0], aux, key[2])
            entry = _Entry(found, _forget)
            entry.key = key
            _interned[key] = entry
        return found


def _make(node_type: type, aux: Any, children: tuple[TreeDef, ...]) -> TreeDef:
    """`make` for a tuple, list or dict, whose key in the table needs no computation."""
    try:
        entry = _interned.get((node_type, aux, children))
        if entry is not None:
            found = entry()
            if found is not None:
                return found
    except TypeError:  # metadata without a hash
        pass
    return make(node_type, aux, children)


NONE = make(NoneType, None, ())


# Flattening. A handler appends a value's leaves to a list and returns its structure; None marks types that are leaves.
Handler = Callable[[Any, list[Any]], TreeDef]
NODES: dict[type, Node] = {}
"""The containers that are not built in: registered ones, named tuples, OrderedDict, defaultdict."""


def _flatten_children(children: Any, leaves: list[Any]) -> tuple[TreeDef, ...]:
    get = _handlers.get
    structures = []
    for x in children:
        handler = get(type(x), _flatten_unknown)
        if handler is None:
            leaves.append(x)
            structures.append(LEAF)
        else:
            structures.append(handler(x, leaves))
    return tuple(structures)


def _flatten_tuple(x: Any, leaves: list[Any]) -> TreeDef:
    return _make(tuple, None, _flatten_children(x, leaves))


def _flatten_list(x: Any, leaves: list[Any]) -> TreeDef:
    return _make(list, None, _flatten_children(x, leaves))


def _sorted_keys(x: dict[Any, Any]) -> tuple[Any, ...]:
    try:
        return tuple(sorted(x))
    except TypeError as e:
        shown = ", ".join(f"{k!r} ({type(k).__name__})" for k in list(x)[:6])
        raise ValueError(
            f"Comparator raised exception while sorting pytree dictionary keys: {e}. The keys are {shown}; the leaves of a dictionary are "
            "taken in the order of its sorted keys, so keys must be comparable with one another"
        ) from None


def _flatten_dict(x: Any, leaves: list[Any]) -> TreeDef:
    keys = _sorted_keys(x)
    return _make(dict, keys, _flatten_children([x[k] for k in keys], leaves))


def _flatten_none(x: Any, leaves: list[Any]) -> TreeDef:
    return NONE


def _flatten_custom(x: Any, leaves: list[Any]) -> TreeDef:
    t = type(x)
    children, aux = NODES[t].flatten(x)
    return make(t, aux, _flatten_children(children, leaves))


def _flatten_namedtuple(x: Any, leaves: list[Any]) -> TreeDef:
    return _make(type(x), None, _flatten_children(x, leaves))


def _is_namedtuple(t: type) -> bool:
    return issubclass(t, tuple) and hasattr(t, "_fields")


def is_plain_namedtuple(t: type) -> bool:
    """Whether a type of named tuples has been met, and not been registered with a flattening of its own."""
    return _handlers.get(t) is _flatten_namedtuple


def _classify(t: type) -> Handler | None:
    """Decide what a type met for the first time is, and remember it."""
    if _is_namedtuple(t):
        NODES[t] = Node(t, lambda x: (x, None), lambda _, children: t(*children), fields=tuple(t._fields))  # type: ignore[attr-defined]
        _handlers[t] = _flatten_namedtuple
    else:
        _handlers[t] = None
    return _handlers[t]


def _flatten_unknown(x: Any, leaves: list[Any]) -> TreeDef:
    handler = _classify(type(x))
    if handler is None:
        leaves.append(x)
        return LEAF
    return handler(x, leaves)


_handlers: dict[type, Handler | None] = {
    tuple: _flatten_tuple,
    list: _flatten_list,
    dict: _flatten_dict,
    NoneType: _flatten_none,
}


def tree_flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], TreeDef]:
    """The leaves of a pytree and its structure. `is_leaf(x)` true stops at `x`, container or not."""
    leaves: list[Any] = []
    if is_leaf is not None:
        return leaves, _flatten_until(tree, leaves, is_leaf)
    handler = _handlers.get(type(tree), _flatten_unknown)
    if handler is None:
        return [tree], LEAF
    return leaves, handler(tree, leaves)


def _flatten_until(x: Any, leaves: list[Any], is_leaf: Callable[[Any], bool]) -> TreeDef:
    if is_leaf(x):
        leaves.append(x)
        return LEAF
    level = one_level(x)
    if level is None:
        leaves.append(x)
        return LEAF
    children, node_type, aux = level
    return make(node_type, aux, tuple([_flatten_until(c, leaves, is_leaf) for c in children]))


def one_level(x: Any) -> tuple[Iterable[Any], type, Any] | None:
    """(children, container type, metadata) of a container; None for a leaf."""
    t = type(x)
    handler = _handlers[t] if t in _handlers else _classify(t)
    if handler is None:
        return None
    if t is tuple or t is list:
        return x, t, None
    if t is dict:
        keys = _sorted_keys(x)
        return [x[k] for k in keys], dict, keys
    if t is NoneType:
        return (), NoneType, None
    children, aux = NODES[t].flatten(x)
    return children, t, aux


def is_node_type(t: type) -> bool:
    """Whether values of this type are containers."""
    return (_handlers[t] if t in _handlers else _classify(t)) is not None


def register(node: Node) -> None:
    """Make a type a container. Raises ValueError if it is one already."""
    if not isinstance(node.type, type):
        raise TypeError(f"a pytree node is registered by its class, got {node.type!r}")
    if _handlers.get(node.type) is not None:
        raise ValueError(f"Duplicate custom PyTreeDef type registration for {node.type}.")
    for f in (node.flatten, node.unflatten):
        if not callable(f):
            raise TypeError(f"registering {node.type.__name__}: {f!r} is not a function")
    NODES[node.type] = node
    _handlers[node.type] = _flatten_custom


register(
    Node(
        OrderedDict,
        lambda d: (tuple(d.values()), tuple(d)),
        lambda keys, values: OrderedDict(zip(keys, values)),
    )
)
register(
    Node(
        defaultdict,
        lambda d: (tuple(d.values()), (d.default_factory, tuple(d))),
        lambda aux, values: defaultdict(aux[0], zip(aux[1], values)),
    )
)
