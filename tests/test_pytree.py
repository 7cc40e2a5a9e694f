"""Pytrees: flattening and building again, structures and their equality, paths, registration, and the words of errors."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections import OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest

from tracegrad import tree, tree_util
from tracegrad.tracer.pytree import leaf_paths, prefix_error, structure_error
from tracegrad.tree_util import (
    DictKey,
    FlattenedIndexKey,
    GetAttrKey,
    Partial,
    SequenceKey,
    keystr,
    tree_flatten,
    tree_map,
    tree_structure,
    tree_unflatten,
)

Point = namedtuple("Point", ["x", "y"])


@tree_util.register_pytree_node_class
class Pair:
    def __init__(self, a, b, label="pair"):
        self.a, self.b, self.label = a, b, label

    def tree_flatten(self):
        return [self.a, self.b], self.label

    @classmethod
    def tree_unflatten(cls, label, children):
        return cls(*children, label)


@tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    weight: object
    bias: object
    width: int = tree.static(default=3)


@tree_util.register_static
class Setting:
    pass


SETTING = Setting()
EXAMPLES = [
    1,
    None,
    (),
    [],
    {},
    (1, 2),
    [1, (2, None), {"b": 3, "a": [4]}],
    {"z": 1, "a": {"c": 2, "b": (3,)}},
    {3: 1, 1: 2},
    Point(1, [2, 3]),
    OrderedDict(b=1, a=2),
    defaultdict(list, {"b": 1, "a": (2, 3)}),
    Pair(1, {"k": 2}),
    Layer([1, 2], None),
    Partial(max, 1, key=2),
    SETTING,
    deque([1, 2]),
]


def same(a, b):
    return type(a) is type(b) and (a == b or vars(a) == vars(b))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda x: type(x).__name__)
def test_what_is_flattened_is_built_again(example):
    leaves, treedef = tree_flatten(example)
    assert len(leaves) == treedef.num_leaves
    built = tree_unflatten(treedef, leaves)
    assert (
        same(built, example) or isinstance(example, Partial) and built.args == example.args and built.keywords == example.keywords
    )
    again, other = tree_flatten(built)
    assert again == leaves and other == treedef and hash(other) == hash(treedef)
    assert [leaf for _, leaf in tree_util.tree_flatten_with_path(example)[0]] == leaves
    assert tree_util.tree_flatten_with_path(example)[1] == treedef
    assert tree_flatten(example, is_leaf=lambda x: False)[1] == treedef


def test_structures_of_plain_data_are_one_object_and_survive_copies():
    a = tree_structure({"a": (1, [2]), "b": None})
    assert a is tree_structure({"b": None, "a": (3, [4])})
    assert pickle.loads(pickle.dumps(a)) is a and copy.deepcopy(a) is a
    assert a != tree_structure({"a": (1, 2), "b": None})
    assert tree_structure([1, 2]) != tree_structure((1, 2))
    assert tree_structure(Point(1, 2)) != tree_structure((1, 2))


def test_metadata_that_compares_equal_but_differs_is_kept():
    for value in (1, True, 1.0):
        built = tree_map(lambda x: x, Pair(1, 2, value))
        assert built.label is value or (built.label == value and type(built.label) is type(value))
    assert tree_structure(Pair(1, 2, 1.5)) == tree_structure(Pair(3, 4, 1.5))
    assert hash(tree_structure(Pair(1, 2, 1.5))) == hash(tree_structure(Pair(3, 4, 1.5)))
    assert tree_structure(Pair(1, 2, 1.5)) != tree_structure(Pair(3, 4, 2.5))
    assert list(tree_map(lambda x: x, {True: 1, False: 2})) == [False, True]


def test_metadata_without_a_hash_is_compared():
    treedef, twin, other = (tree_structure(Pair(1, 2, [label])) for label in ("label", "label", "other"))
    assert treedef == twin and hash(treedef) == hash(twin) and treedef != other
    assert {treedef: 1, other: 2}[twin] == 1


def test_the_text_of_a_structure():
    text = repr(tree_structure({"a": Point(1, 2), "b": [None, (1,)], "c": OrderedDict(a=1)}))
    assert (
        text
        == "PyTreeDef({'a': CustomNode(namedtuple[Point], [*, *]), 'b': [None, (*,)], 'c': CustomNode(OrderedDict[('a',)], [*])})"
    )


def test_counts_children_and_node_data():
    treedef = tree_structure({"a": (1, 2), "b": [None, 3]})
    assert (treedef.num_leaves, treedef.num_nodes) == (3, 7)
    assert treedef.children() == [tree_structure((1, 2)), tree_structure([None, 3])]
    assert treedef.node_data() == (dict, ["a", "b"])
    assert tree_structure(1).node_data() is None and tree_util.treedef_is_leaf(tree_structure(1))
    assert not tree_util.treedef_is_leaf(tree_structure([1])) and tree_util.treedef_is_leaf(tree_structure(None))
    assert tree_util.treedef_tuple([tree_structure(1), tree_structure([2])]) == tree_structure((1, [2]))
    assert tree_structure((1, 2)).compose(tree_structure([1, 2])) == tree_structure(([1, 2], [3, 4]))
    assert treedef.from_node_data_and_children(None, treedef.node_data(), treedef.children()) == treedef


def test_paths_and_their_text():
    value = {"a": Point(1, 2), "d": Partial(print, 1, k=3), "q": Layer(3, 4), "r": Pair(5, 6)}
    paths = [path for path, _ in tree_util.tree_leaves_with_path(value)]
    assert paths[0] == (DictKey("a"), GetAttrKey("x"))
    assert paths[2] == (DictKey("d"), FlattenedIndexKey(0), SequenceKey(0))
    assert [keystr(p) for p in paths[-4:]] == ["['q'].weight", "['q'].bias", "['r'][<flat index 0>]", "['r'][<flat index 1>]"]
    assert keystr(paths[0], simple=True, separator="/") == "a/x"
    assert leaf_paths(tree_structure(value)) == paths
    named = tree.map_with_path(lambda path, x: keystr(path), [1, {"a": 2}])
    assert named == ["[0]", {"a": "[1]['a']"}]


def test_none_is_empty_unless_it_is_a_leaf():
    assert tree.leaves([1, None, 2]) == [1, 2]
    assert tree.leaves([1, None], is_leaf=lambda x: x is None) == [1, None]
    assert tree_map(lambda x: x + 1, (1, None)) == (2, None)


def test_map_over_several_trees_takes_prefixes():
    assert tree_map(lambda x, y: (x, y), [1, 2], [{"a": 3}, (4, 5)]) == [(1, {"a": 3}), (2, (4, 5))]
    assert tree.reduce(lambda a, b: a + b, {"a": 1, "b": [2, 3]}) == 6
    assert tree.reduce(lambda a, b: a + b, [], 7) == 7
    assert tree.reduce_associative(lambda a, b: a + b, ["a", "b", "c"]) == "abc"
    assert tree.all((True, [1, "x"])) and not tree.all((True, [0]))
    assert tree.transpose(tree_structure((1, 2)), tree_structure([1, 2]), ([3, 4], [5, 6])) == [(3, 5), (4, 6)]
    assert tree.transpose(tree_structure((1, 2)), None, ([3, 4], [5, 6])) == [(3, 5), (4, 6)]
    assert tree.broadcast((1, 2), ([0, 0], {"a": 0})) == ([1, 1], {"a": 2})
    assert tree_util.all_leaves([1, "a"]) and not tree_util.all_leaves([1, (2,)])


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"a": (1, 2)}, {"a": (1, 2, 3)}, r"tree_map tree\['a'\].*lengths of tuple: 2 against 3"),
        ({"a": 1, "b": 2}, {"a": 1, "c": 2}, "only the first has key 'b'; only the second has key 'c'"),
        ((1, 2), 3, "a tuple of 2 children against a leaf"),
        ({"a": [1]}, {"a": (1,)}, r"\['a'\].*a list of 1 child against a tuple of 1 child"),
        (Pair(1, 2, "p"), Pair(1, 2, "q"), "metadata of Pair: 'p' against 'q'"),
        ((None,), (1,), "None against a leaf"),
    ],
)
def test_errors_of_map_name_the_path(first, second, words):
    with pytest.raises(ValueError, match=words):
        tree_map(lambda *xs: xs, first, second)


def test_errors_of_structures():
    with pytest.raises(ValueError, match="Too few leaves for PyTreeDef; expected 2, got 1"):
        tree_unflatten(tree_structure((1, 2)), [1])
    with pytest.raises(ValueError, match="Comparator raised exception.*1 .int., 'a' .str."):
        tree_flatten({1: 0, "a": 0})
    with pytest.raises(ValueError, match="Duplicate custom PyTreeDef type registration"):
        tree_util.register_pytree_node(Pair, lambda x: ((), None), lambda *_: None)
    with pytest.raises(TypeError, match="Mismatch"):
        tree.transpose(tree_structure((1, 2)), tree_structure([1, 2]), (3, 4))
    with pytest.raises(ValueError, match=r"Unexpected fields: \['z'\]"):
        tree_util.register_dataclass(dataclasses.make_dataclass("D", ["x"]), ["x", "z"], [])
    with pytest.raises(ValueError, match="Expected list, got 2"):
        tree_structure((1, [2])).flatten_up_to((1, 2))


def test_differences_in_words():
    assert structure_error("in", (1, {"a": 2}), "out", (1, {"b": 2})).splitlines()[1] == (
        "  at in[1]: different keys of dict: only the first has key 'a'; only the second has key 'b'"
    )
    assert structure_error("in", (1, 2), "out", (3, 4)) is None
    assert prefix_error("in_axes", (0, None), (1, 2)) is not None
    assert prefix_error("in_axes", (0, 1), ([1, 2], 3)) is None


def test_a_partial_of_a_partial_keeps_what_is_static():
    inner = Partial(lambda a, b, c: (a, b, c), 1)
    outer = Partial(inner, 2)
    assert outer(3) == (1, 2, 3)
    assert tree.leaves(outer) == [1, 2]
    plain = __import__("functools").partial(lambda a, b: a - b, 5)
    assert tree.leaves(Partial(plain, 2)) == [2] and Partial(plain, 2)() == 3


def test_arrays_are_leaves():
    leaves, _ = tree_flatten({"w": np.ones(2), "b": np.float32(1)})
    assert len(leaves) == 2
