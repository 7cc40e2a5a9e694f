"""vmap: a function of one example made a function of many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from tracegrad.ir.bind import type_of
from tracegrad.tracer.abstract import argument_names
from tracegrad.tracer.control_flow import install_vmap
from tracegrad.tracer.pytree import keystr, leaf_paths, prefix_error, tree_flatten, tree_unflatten
from tracegrad.transforms.api import as_array, check_callable, leaf_type, name_of, spread
from tracegrad.transforms.batch import batch_flat, to_dim
from tracegrad.transforms.zero import Axis


def vmap(
    fun: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Hashable | None = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    sum_match: bool = False,
) -> Callable[..., Any]:
    """A function that applies `fun` to every example along an axis of its arguments at once.

    in_axes: for each positional argument the axis to map over, None for an argument that all examples share, or a pytree of those
    that is a prefix of the argument; keyword arguments are mapped over axis 0. out_axes: where the axis comes in the outputs, likewise.
    axis_name: a name under which collectives such as `lax.psum` find the axis. axis_size: its size, needed if nothing is mapped.
    spmd_axis_name is accepted. Raises ValueError, naming the argument, if sizes disagree or an axis does not exist.
    """
    check_callable(fun, "vmap")
    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)
    if not (in_axes is None or type(in_axes) in (int, tuple)):
        raise TypeError(
            "vmap in_axes must be an int, None, or a tuple of entries corresponding to the positional arguments passed to the "
            f"function, but got {in_axes!r}"
        )
    for what, axes in (("in_axes", in_axes), ("out_axes", out_axes)):
        for leaf in tree_flatten(axes, _is_none)[0]:
            if leaf is not None and (not isinstance(leaf, int) or isinstance(leaf, bool)):
                raise TypeError(
                    f"vmap {what} must be an int, None, or (nested) containers of those, but found {leaf!r} in {axes!r}"
                )

    @functools.wraps(fun, updated=())
    def vmap_f(*args: Any, **kwargs: Any) -> Any:
        if isinstance(in_axes, tuple) and len(in_axes) != len(args):
            raise ValueError(
                "vmap in_axes must be an int, None, or a tuple of entries corresponding to the positional arguments passed to the "
                f"function, but got len(in_axes)={len(in_axes)}, len(args)={len(args)}"
            )
        leaves, in_tree = tree_flatten((args, kwargs))

        def names() -> list[str]:
            return argument_names(fun, args, kwargs)

        dims = _in_dims(in_axes, args, kwargs)
        # What is not mapped is passed on as it is, whatever it is.
        shapes = [() if d is None else leaf_type("vmap", names, i, x).shape for i, (d, x) in enumerate(zip(dims, leaves))]
        dims = [d if d is None else _axis_of(names, i, d, s) for i, (d, s) in enumerate(zip(dims, shapes))]
        size = _size(names, shapes, dims, axis_size)
        out_tree: Any = None

        def flat(*xs: Any) -> list[Any]:
            nonlocal out_tree
            inner_args, inner_kwargs = tree_unflatten(in_tree, xs)
            outs, out_tree = tree_flatten(fun(*inner_args, **inner_kwargs))
            for x, path in zip(outs, leaf_paths(out_tree)) if not _all_arrays(outs) else ():
                if not _all_arrays([x]):
                    raise TypeError(
                        f"vmap: {name_of(fun)} returned {x!r:.200} of type {type(x).__name__} as output{keystr(path)}, which is not an "
                        "array or a number"
                    )
            return outs

        outs, out_dims = batch_flat(flat, Axis(size, axis_name), leaves, dims)
        wanted = _out_dims(out_axes, out_tree)
        results = []
        for i, (x, d, to) in enumerate(zip(outs, out_dims, wanted)):
            results.append(as_array(_placed(fun, out_tree, i, x, d, to, size)))
        return tree_unflatten(out_tree, results)

    return vmap_f


install_vmap(vmap)


def _is_none(x: Any) -> bool:
    return x is None


def _all_arrays(xs: Sequence[Any]) -> bool:
    try:
        for x in xs:
            type_of(x)
    except TypeError:
        return False
    return True


def _in_dims(in_axes: Any, args: Any, kwargs: dict[str, Any]) -> list[int | None]:
    n_kw = len(tree_flatten(kwargs)[0])
    if in_axes is None or isinstance(in_axes, int):
        return [in_axes] * len(tree_flatten(args)[0]) + [0] * n_kw
    try:
        dims: list[int | None] = []
        for axes, arg in zip(in_axes, args):
            dims += spread(axes, arg)
        return dims + [0] * n_kw
    except ValueError:
        why = prefix_error("vmap in_axes", in_axes, args, _is_none)
        raise ValueError(
            "vmap in_axes specification must be a tree prefix of the corresponding value, got specification "
            f"{in_axes!r} for value tree {tree_flatten(args)[1]}. {why or ''}"
        ) from None


def _axis_of(names: Callable[[], Sequence[str]], i: int, axis: int, shape: tuple[int, ...]) -> int:
    if not -len(shape) <= axis < len(shape):
        rank = axis + 1 if axis >= 0 else -axis
        raise ValueError(
            f"vmap was requested to map its argument {names()[i]} along axis {axis}, which implies that its rank should be at least "
            f"{rank}, but is only {len(shape)} (its shape is {shape})"
        )
    return axis % len(shape)


def _size(
    names: Callable[[], Sequence[str]], shapes: Sequence[tuple[int, ...]], dims: Sequence[int | None], axis_size: int | None
) -> int:
    sizes = {s[d] for s, d in zip(shapes, dims) if d is not None}
    if axis_size is not None:
        sizes.add(int(axis_size))
    if not sizes:
        raise ValueError("vmap must have at least one non-None value in in_axes, or axis_size must be given")
    if len(sizes) == 1:
        return sizes.pop()
    lines = [
        f"  {name} has size {s[d]} along axis {d} (its shape is {s})"
        for name, s, d in zip(names(), shapes, dims)
        if d is not None
    ]
    if axis_size is not None:
        lines.append(f"  axis_size is {axis_size}")
    raise ValueError("vmap got inconsistent sizes for array axes to be mapped:\n" + "\n".join(lines))


def _out_dims(out_axes: Any, out_tree: Any) -> list[int | None]:
    example = tree_unflatten(out_tree, [0] * out_tree.num_leaves)
    try:
        return spread(out_axes, example)
    except ValueError:
        why = prefix_error("vmap out_axes", out_axes, example, _is_none)
        raise ValueError(
            "vmap out_axes specification must be a tree prefix of the corresponding value, got specification "
            f"{out_axes!r} for value tree {out_tree}. {why or ''}"
        ) from None


def _placed(fun: Any, out_tree: Any, i: int, x: Any, dim: int | None, to: int | None, size: int) -> Any:
    if to is None:
        if dim is not None:
            path = keystr(leaf_paths(out_tree)[i])
            raise ValueError(
                f"vmap has mapped output{path} but out_axes is None: the result of {name_of(fun)} differs between examples; "
                "give out_axes an axis for it"
            )
        return x
    rank = len(type_of(x).shape) + (dim is None)
    if not -rank <= to < rank:
        path = keystr(leaf_paths(out_tree)[i])
        raise ValueError(f"vmap out_axes: axis {to} does not exist in output{path}, which has rank {rank} with the mapped axis")
    return to_dim(x, dim, to % rank, size)
