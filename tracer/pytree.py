"""Pytrees: nested containers with arrays at the leaves, and the functions that flatten, map and describe them.

Start here; `treedef.py` holds the structure and `pytree_paths.py` the paths and the words for differences.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from tracegrad.tracer.pytree_paths import (
    DictKey,
    FlattenedIndexKey,
    GetAttrKey,
    KeyEntry,
    KeyPath,
    SequenceKey,
    child_keys,
    differences,
    keystr,
    leaf_paths,
    one_level_with_keys,
    prefix_error,
    structure_error,
    tree_flatten_with_path,
    tree_leaves_with_path,
)
from tracegrad.tracer.treedef import LEAF, NONE, Node, TreeDef, is_node_type, make, one_level, register, tree_flatten

__all__ = [
    "LEAF", "NONE", "DictKey", "FlattenedIndexKey", "GetAttrKey", "KeyEntry", "KeyPath", "Partial", "SequenceKey", "TreeDef",
    "all_leaves", "child_keys", "differences", "flatten_one_level", "flatten_one_level_with_keys", "is_tree_node", "keystr",
    "leaf_paths", "prefix_error", "register_dataclass", "register_pytree_node", "register_pytree_node_class",
    "register_pytree_with_keys", "register_pytree_with_keys_class", "register_static", "static", "structure_error", "tree_all",
    "tree_broadcast", "tree_flatten", "tree_flatten_with_path", "tree_leaves", "tree_leaves_with_path", "tree_map",
    "tree_map_with_path", "tree_reduce", "tree_reduce_associative", "tree_structure", "tree_transpose", "tree_unflatten",
    "treedef_children", "treedef_is_leaf", "treedef_tuple",
]  # fmt: skip

T = TypeVar("T", bound=type)
MISSING = type("Missing", (), {"__repr__": lambda self: "<missing>"})()
IsLeaf = Callable[[Any], bool] | None


def tree_unflatten(treedef: TreeDef, leaves: Iterable[Any]) -> Any:
    """The tree of structure `treedef` with these leaves; the inverse of `tree_flatten`."""
    if not isinstance(treedef, TreeDef):
        raise TypeError(f"tree_unflatten takes a structure (PyTreeDef) and leaves, got {treedef!r:.200} first")
    return treedef.unflatten(leaves)


def tree_leaves(tree: Any, is_leaf: IsLeaf = None) -> list[Any]:
    """The leaves of a pytree."""
    return tree_flatten(tree, is_leaf)[0]


def tree_structure(tree: Any, is_leaf: IsLeaf = None) -> TreeDef:
    """The structure of a pytree."""
    return tree_flatten(tree, is_leaf)[1]


def tree_map(f: Callable[..., Any], tree: Any, *rest: Any, is_leaf: IsLeaf = None) -> Any:
    """A tree like `tree` whose leaves are `f(leaf, *corresponding subtrees of rest)`.

    Raises ValueError, naming the path, if the structure of `tree` is not a prefix of that of every tree in `rest`.
    """
    leaves, treedef = tree_flatten(tree, is_leaf)
    if not rest:
        return treedef.unflatten([f(x) for x in leaves])
    return treedef.unflatten([f(*xs) for xs in zip(leaves, *_up_to("tree_map", treedef, tree, rest, is_leaf))])


def _up_to(name: str, treedef: TreeDef, tree: Any, rest: Sequence[Any], is_leaf: IsLeaf) -> list[list[Any]]:
    columns = []
    for i, other in enumerate(rest):
        try:
            columns.append(treedef.flatten_up_to(other))
        except ValueError as e:
            why = prefix_error(f"{name} tree", treedef, other, full_name=f"argument {i + 2}")
            raise ValueError(why or str(e)) from None
    return columns


def tree_map_with_path(
    f: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Callable[..., bool] | None = None, is_leaf_takes_path: bool = False
) -> Any:
    """Like `tree_map`, with `f(path, leaf, *subtrees)`."""
    pairs, treedef = tree_flatten_with_path(tree, is_leaf, is_leaf_takes_path)
    columns = _up_to("tree_map_with_path", treedef, tree, rest, None)
    return treedef.unflatten([f(path, *xs) for (path, leaf), *others in zip(pairs, *columns) for xs in [(leaf, *others)]])


def tree_reduce(function: Callable[[Any, Any], Any], tree: Any, initializer: Any = MISSING, is_leaf: IsLeaf = None) -> Any:
    """`functools.reduce` over the leaves."""
    leaves = tree_leaves(tree, is_leaf)
    return functools.reduce(function, leaves) if initializer is MISSING else functools.reduce(function, leaves, initializer)


def tree_reduce_associative(
    operation: Callable[[Any, Any], Any], tree: Any, *, identity: Any = MISSING, is_leaf: IsLeaf = None
) -> Any:
    """Combine the leaves pairwise in a balanced tree: `operation` is associative."""
    items = tree_leaves(tree, is_leaf)
    if not items:
        if identity is MISSING:
            raise TypeError("Must specify identity for parallel reduction of empty sequence.")
        return identity
    while len(items) > 1:
        pairs = [operation(a, b) for a, b in zip(items[::2], items[1::2])]
        items = pairs + items[len(items) - len(items) % 2 :]
    return items[0]


def tree_all(tree: Any, *, is_leaf: IsLeaf = None) -> bool:
    """Whether all leaves are true."""
    return all(tree_leaves(tree, is_leaf))


def all_leaves(iterable: Iterable[Any], is_leaf: IsLeaf = None) -> bool:
    """Whether every member is a leaf."""
    return all((is_leaf is not None and is_leaf(x)) or not is_node_type(type(x)) for x in iterable)


def tree_transpose(outer_treedef: TreeDef, inner_treedef: TreeDef | None, pytree_to_transpose: Any) -> Any:
    """Turn a tree of trees inside out: from outer(inner) to inner(outer)."""
    leaves, treedef = tree_flatten(pytree_to_transpose)
    if inner_treedef is None:
        subtrees = outer_treedef.flatten_up_to(pytree_to_transpose)
        inner_treedef = tree_structure(subtrees[0])
    expected = outer_treedef.compose(inner_treedef)
    if treedef != expected:
        raise TypeError(f"Mismatch\n{treedef}\n != \n{expected}")
    outer, inner = outer_treedef.num_leaves, inner_treedef.num_leaves
    rows = [leaves[i * inner : (i + 1) * inner] for i in range(outer)]
    return inner_treedef.unflatten([outer_treedef.unflatten([row[k] for row in rows]) for k in range(inner)])


def tree_broadcast(prefix_tree: Any, full_tree: Any, is_leaf: IsLeaf = None) -> Any:
    """A tree of the structure of `full_tree` in which each leaf of `prefix_tree` is repeated over the subtree it stands for."""
    return tree_unflatten(tree_structure(full_tree, is_leaf), broadcast_prefix(prefix_tree, full_tree, is_leaf))


def broadcast_prefix(prefix_tree: Any, full_tree: Any, is_leaf: IsLeaf = None) -> list[Any]:
    """The leaves of `prefix_tree`, each repeated for every leaf of `full_tree` it stands for."""
    leaves, treedef = tree_flatten(prefix_tree, is_leaf)
    (subtrees,) = _up_to("tree_broadcast", treedef, prefix_tree, [full_tree], is_leaf)
    return [leaf for leaf, sub in zip(leaves, subtrees) for _ in range(tree_structure(sub, is_leaf).num_leaves)]


def treedef_children(treedef: TreeDef) -> list[TreeDef]:
    return treedef.children()


def treedef_is_leaf(treedef: TreeDef) -> bool:
    return treedef.num_nodes == 1


def treedef_tuple(treedefs: Iterable[TreeDef]) -> TreeDef:
    """The structure of a tuple of trees with these structures."""
    return make(tuple, None, tuple(treedefs))


def is_tree_node(typ: type) -> bool:
    """Whether values of the type are containers."""
    return is_node_type(typ)


def flatten_one_level(tree: Any) -> tuple[Iterable[Any], Any]:
    """(children, metadata) of a container; raises ValueError for a leaf."""
    level = one_level(tree)
    if level is None:
        raise ValueError(f"can't tree-flatten type: {type(tree)}")
    return level[0], level[2]


def flatten_one_level_with_keys(tree: Any) -> tuple[Iterable[tuple[Any, Any]], Any]:
    """(pairs (key, child), metadata) of a container; raises ValueError for a leaf."""
    level = one_level_with_keys(tree)
    if level is None:
        raise ValueError(f"can't tree-flatten type: {type(tree)}")
    return level[0], level[2]


# Registration.
def register_pytree_node(
    nodetype: type,
    flatten_func: Callable[[Any], tuple[Any, Any]],
    unflatten_func: Callable[[Any, Any], Any],
    flatten_with_keys_func: Callable[[Any], tuple[Any, Any]] | None = None,
) -> None:
    """Make a class a container.

    flatten_func(x) -> (children, metadata), metadata hashable and comparable; unflatten_func(metadata, children) -> x must accept any
    children: tracers, None, placeholders.
    """
    register(Node(nodetype, flatten_func, unflatten_func, flatten_with_keys_func))


def register_pytree_node_class(cls: T) -> T:
    """Class decorator: the class has methods `tree_flatten()` and classmethod `tree_unflatten(metadata, children)`."""
    register(Node(cls, lambda x: x.tree_flatten(), cls.tree_unflatten))  # type: ignore[attr-defined]
    return cls


def register_pytree_with_keys(
    nodetype: type,
    flatten_with_keys: Callable[[Any], tuple[Any, Any]],
    unflatten_func: Callable[[Any, Any], Any],
    flatten_func: Callable[[Any], tuple[Any, Any]] | None = None,
) -> None:
    """Make a class a container whose children have names: flatten_with_keys(x) -> (pairs (key, child), metadata)."""

    def flatten(x: Any) -> tuple[Any, Any]:
        pairs, aux = flatten_with_keys(x)
        return [child for _, child in pairs], aux

    register(Node(nodetype, flatten_func or flatten, unflatten_func, flatten_with_keys))


def register_pytree_with_keys_class(cls: T) -> T:
    """Class decorator: the class has methods `tree_flatten_with_keys()` and classmethod `tree_unflatten(metadata, children)`."""
    own = (lambda x: x.tree_flatten()) if hasattr(cls, "tree_flatten") else None
    register_pytree_with_keys(cls, lambda x: x.tree_flatten_with_keys(), cls.tree_unflatten, own)  # type: ignore[attr-defined]
    return cls


def register_dataclass(
    nodetype: Any = None,
    data_fields: Sequence[str] | None = None,
    meta_fields: Sequence[str] | None = None,
    drop_fields: Sequence[str] = (),
) -> Any:
    """Make a dataclass a container: `data_fields` are its children, `meta_fields` its metadata (static, hashable).

    Without lists of fields, those declared with `tracegrad.tree.static()` (metadata `static=True`) are metadata and the others children.
    """
    if nodetype is None:
        return lambda cls: register_dataclass(cls, data_fields, meta_fields, drop_fields)
    if (data_fields is None) != (meta_fields is None):
        raise TypeError("register_dataclass: data_fields and meta_fields must both be specified when either is specified.")
    if data_fields is None or meta_fields is None:
        if not dataclasses.is_dataclass(nodetype):
            raise TypeError(
                f"register_dataclass: data_fields and meta_fields are required when {nodetype} is not a dataclass "
                "(write @register_dataclass above @dataclass)."
            )
        fields = [f for f in dataclasses.fields(nodetype) if f.init]
        data_fields = [f.name for f in fields if not f.metadata.get("static", False)]
        meta_fields = [f.name for f in fields if f.metadata.get("static", False)]
    data, meta = tuple(data_fields), tuple(meta_fields)
    if dataclasses.is_dataclass(nodetype):
        init = {f.name for f in dataclasses.fields(nodetype) if f.init} - set(drop_fields)
        given = {*data, *meta}
        if given != init:
            parts = []
            if init - given:
                parts.append(f" Missing fields: {sorted(init - given)}. Add them to drop_fields to suppress this error.")
            if given - init:
                parts.append(f" Unexpected fields: {sorted(given - init)}.")
            raise ValueError(
                "data_fields and meta_fields must include all dataclass fields with ``init=True`` and only them." + "".join(parts)
            )
    keys = tuple(GetAttrKey(name) for name in data)

    def flatten(x: Any) -> tuple[Any, Any]:
        return tuple([getattr(x, n) for n in data]), tuple([getattr(x, n) for n in meta])

    def flatten_with_keys(x: Any) -> tuple[Any, Any]:
        return tuple([(k, getattr(x, n)) for k, n in zip(keys, data)]), tuple([getattr(x, n) for n in meta])

    def unflatten(aux: Any, children: Any) -> Any:
        return nodetype(**dict(zip(meta, aux)), **dict(zip(data, children)))

    register(Node(nodetype, flatten, unflatten, flatten_with_keys, fields=data, meta=meta))
    return nodetype


def static(**kwargs: Any) -> Any:
    """A dataclass field that is metadata of the pytree, not a child: `n: int = static()`."""
    metadata = {**kwargs.pop("metadata", {}), "static": True}
    return dataclasses.field(metadata=metadata, **kwargs)


def register_static(cls: T) -> T:
    """Class decorator: instances are containers without children; they are compared and hashed, never traced."""
    register(Node(cls, lambda x: ((), x), lambda x, _: x))
    return cls


class Partial(functools.partial):  # type: ignore[type-arg]
    """`functools.partial` as a pytree: the bound arguments are children, the function is metadata."""

    def __new__(cls, func: Callable[..., Any], *args: Any, **kw: Any) -> Partial:
        # functools.partial would dissolve a partial of a partial, and with it which arguments are static.
        if isinstance(func, functools.partial):
            inner, func = func, func.func
            if isinstance(inner, Partial):
                return super().__new__(cls, func, *inner.args, *args, **{**inner.keywords, **kw})
            func = _Opaque(inner)
        return super().__new__(cls, func, *args, **kw)


class _Opaque:
    """A functools.partial used as the function of a Partial: its arguments stay metadata."""

    def __init__(self, partial: Any):
        self.partial = partial

    def __call__(self, *args: Any, **kw: Any) -> Any:
        return self.partial(*args, **kw)

    def __hash__(self) -> int:
        return hash(self.partial)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Opaque) and self.partial == other.partial

    def __repr__(self) -> str:
        return repr(self.partial)


register(
    Node(
        Partial,
        lambda p: ((p.args, p.keywords), p.func),
        lambda func, children: Partial(func, *children[0], **children[1]),
    )
)
