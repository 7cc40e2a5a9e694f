"""Paths into pytrees: the keys that lead to a leaf, flattening with paths, and how two structures differ, in words."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tracegrad.tracer.treedef import LEAF, NODES, NoneType, TreeDef, make, one_level, tree_flatten


@dataclass(frozen=True)
class SequenceKey:
    """The place of a child in a tuple or list."""

    idx: int

    def __str__(self) -> str:
        return f"[{self.idx!r}]"


@dataclass(frozen=True)
class DictKey:
    """The key of a child of a dictionary."""

    key: Any

    def __str__(self) -> str:
        return f"[{self.key!r}]"


@dataclass(frozen=True)
class GetAttrKey:
    """The attribute that holds a child."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"


@dataclass(frozen=True)
class FlattenedIndexKey:
    """The number of a child of a custom node that does not name its children."""

    key: int

    def __str__(self) -> str:
        return f"[<flat index {self.key}>]"


KeyEntry = Any
KeyPath = tuple[Any, ...]


def keystr(keys: KeyPath, *, simple: bool = False, separator: str = "") -> str:
    """The text of a path: `['layers'][0].weight`; with `simple` and separator "/", `layers/0/weight`."""
    return separator.join([_simple(k) if simple else str(k) for k in keys])


def _simple(key: Any) -> str:
    for kind, field in ((SequenceKey, "idx"), (DictKey, "key"), (GetAttrKey, "name"), (FlattenedIndexKey, "key")):
        if isinstance(key, kind):
            return str(getattr(key, field))
    return str(key)


def one_level_with_keys(x: Any) -> tuple[list[tuple[Any, Any]], type, Any] | None:
    """(pairs (key, child), container type, metadata) of a container; None for a leaf."""
    t = type(x)
    node = NODES.get(t)
    if node is not None and node.flatten_with_keys is not None:
        pairs, aux = node.flatten_with_keys(x)
        return [(k, c) for k, c in pairs], t, aux
    level = one_level(x)
    if level is None:
        return None
    children, node_type, aux = level
    children = tuple(children)
    return list(zip(_keys(node_type, aux, len(children)), children)), node_type, aux


def _keys(node_type: type, aux: Any, n: int) -> Iterable[Any]:
    if node_type is tuple or node_type is list:
        return map(SequenceKey, range(n))
    if node_type is dict or node_type is OrderedDict:
        return map(DictKey, aux)
    if node_type is defaultdict:
        return map(DictKey, aux[1])
    node = NODES.get(node_type)
    if node is not None and node.fields is not None:
        return map(GetAttrKey, node.fields)
    return map(FlattenedIndexKey, range(n))


def child_keys(treedef: TreeDef) -> list[Any]:
    """The keys of the children of a structure's root, found without a tree where the container's type allows."""
    n = len(treedef.children())
    if treedef.node_type is None or n == 0:
        return []
    node = NODES.get(treedef.node_type)
    if node is not None and node.flatten_with_keys is not None and node.fields is None:
        try:  # the type's own functions know the names; they are meant to accept placeholders, but not all do
            pairs, _ = node.flatten_with_keys(node.unflatten(treedef.aux, tuple([object() for _ in range(n)])))
            keys = [k for k, _ in pairs]
            if len(keys) == n:
                return keys
        except Exception:
            return list(map(FlattenedIndexKey, range(n)))
    return list(_keys(treedef.node_type, treedef.aux, n))


def leaf_paths(treedef: TreeDef) -> list[KeyPath]:
    """The path of every leaf of a structure."""
    if treedef.node_type is None:
        return [()]
    return [(key, *path) for key, child in zip(child_keys(treedef), treedef.children()) for path in leaf_paths(child)]


def tree_flatten_with_path(
    tree: Any, is_leaf: Callable[..., bool] | None = None, is_leaf_takes_path: bool = False
) -> tuple[list[tuple[KeyPath, Any]], TreeDef]:
    """Like `tree_flatten`, with each leaf's path: a list of pairs (path, leaf), and the structure."""
    if is_leaf is None:
        stop: Callable[[KeyPath, Any], bool] = lambda path, x: False
    elif is_leaf_takes_path:
        stop = is_leaf
    else:
        stop = lambda path, x: is_leaf(x)
    found: list[tuple[KeyPath, Any]] = []

    def walk(path: KeyPath, x: Any) -> TreeDef:
        level = None if stop(path, x) else one_level_with_keys(x)
        if level is None:
            found.append((path, x))
            return LEAF
        pairs, node_type, aux = level
        return make(node_type, aux, tuple([walk((*path, k), c) for k, c in pairs]))

    return found, walk((), tree)


def tree_leaves_with_path(
    tree: Any, is_leaf: Callable[..., bool] | None = None, is_leaf_takes_path: bool = False
) -> list[tuple[KeyPath, Any]]:
    """The pairs (path, leaf) of a pytree."""
    return tree_flatten_with_path(tree, is_leaf, is_leaf_takes_path)[0]


# How structures differ.
def differences(a: TreeDef, b: TreeDef, prefix: bool = False) -> Iterator[tuple[KeyPath, str]]:
    """Every place where two structures differ: (path, what each has there). With `prefix`, a leaf of `a` stands for any subtree."""
    if a is b or (prefix and a.node_type is None):
        return
    if a.node_type is not b.node_type:
        yield (), f"different types: {_describe(a)} against {_describe(b)}"
        return
    kind = _noun(a)
    if a.node_type is dict or a.node_type is OrderedDict:
        if a.aux != b.aux:
            missing = [k for k in a.aux if k not in b.aux]
            extra = [k for k in b.aux if k not in a.aux]
            parts = []
            if missing:
                parts.append("only the first has " + _list_keys(missing))
            if extra:
                parts.append("only the second has " + _list_keys(extra))
            yield (
                (),
                f"different keys of {kind}: " + ("; ".join(parts) or f"the same ones in another order: {a.aux} against {b.aux}"),
            )
            return
    elif len(a.children()) != len(b.children()):
        yield (), f"different lengths of {kind}: {len(a.children())} against {len(b.children())}"
        return
    elif a.aux is not b.aux and a.aux != b.aux:
        yield (), f"different pytree metadata of {kind}: {a.aux!r:.300} against {b.aux!r:.300}"
        return
    for key, x, y in zip(child_keys(a), a.children(), b.children()):
        for path, text in differences(x, y, prefix):
            yield (key, *path), text


def _list_keys(keys: list[Any]) -> str:
    shown = ", ".join(repr(k) for k in keys[:6])
    return f"key {shown}" if len(keys) == 1 else f"keys {shown}" + (", ..." if len(keys) > 6 else "")


def _noun(t: TreeDef) -> str:
    assert t.node_type is not None
    return t.node_type.__name__


def _describe(t: TreeDef) -> str:
    if t.node_type is None:
        return "a leaf"
    if t.node_type is NoneType:
        return "None"
    n = len(t.children())
    if t.node_type is dict:
        return "a dict with " + (_list_keys(list(t.aux)) if n else "no keys")
    article = "an" if _noun(t)[0] in "aeiouAEIOU" else "a"
    return f"{article} {_noun(t)} of {n} " + ("child" if n == 1 else "children")


def prefix_error(
    name: str, prefix: Any, full: Any, is_leaf: Callable[[Any], bool] | None = None, full_name: str = ""
) -> str | None:
    """Why `prefix` is not a prefix of the tree `full`, in words; None if it is. Both may be trees or structures."""
    a = prefix if isinstance(prefix, TreeDef) else tree_flatten(prefix, is_leaf)[1]
    b = full if isinstance(full, TreeDef) else tree_flatten(full)[1]
    found = next(differences(a, b, prefix=True), None)
    if found is None:
        return None
    path, text = found
    against = f" (first: {name}; second: {full_name})" if full_name else ""
    return f"pytree structure error at key path {name}{keystr(path)}: {text}{against}"


def structure_error(first_name: str, first: Any, second_name: str, second: Any) -> str | None:
    """How two trees or structures differ, every place on a line of its own; None if they are equal."""
    a = first if isinstance(first, TreeDef) else tree_flatten(first)[1]
    b = second if isinstance(second, TreeDef) else tree_flatten(second)[1]
    lines = [f"  at {first_name}{keystr(path)}: {text}" for path, text in differences(a, b)]
    if not lines:
        return None if a == b else f"  {a} is not {b}"
    return f"{first_name} and {second_name} have different pytree structures (first against second):\n" + "\n".join(lines[:10])
