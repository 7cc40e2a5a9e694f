"""Pytrees, under the short names of `jax.tree`."""

from __future__ import annotations

from tracegrad.tracer import pytree

all = pytree.tree_all
broadcast = pytree.tree_broadcast
flatten = pytree.tree_flatten
flatten_with_path = pytree.tree_flatten_with_path
leaves = pytree.tree_leaves
leaves_with_path = pytree.tree_leaves_with_path
map = pytree.tree_map
map_with_path = pytree.tree_map_with_path
reduce = pytree.tree_reduce
reduce_associative = pytree.tree_reduce_associative
static = pytree.static
structure = pytree.tree_structure
transpose = pytree.tree_transpose
unflatten = pytree.tree_unflatten
