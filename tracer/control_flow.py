"""The control-flow functions that users call: cond, switch, while_loop, fori_loop, scan, map, associative_scan.

Each traces its Python functions into regions. What the functions capture becomes leading const operands of the equation, so
that regions are closed and differentiation and batching see everything that goes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from tracegrad.ir import dtypes, ops
from tracegrad.ir.bind import bind, bind1, type_of
from tracegrad.ir.config import config
from tracegrad.ir.control_flow import cond_p, scan_p, while_p
from tracegrad.ir.elementwise import add_p
from tracegrad.ir.evaluate import run
from tracegrad.ir.program import Program, Var
from tracegrad.ir.types import ArrayType, is_inexact
from tracegrad.tracer import errors
from tracegrad.tracer.pytree import (
    keystr,
    structure_error,
    tree_flatten,
    tree_flatten_with_path,
    tree_structure,
    tree_unflatten,
)
from tracegrad.tracer.staging import trace
from tracegrad.tracer.tracer import Tracer


def _name_of(f: Callable[..., Any]) -> str:
    name = getattr(f, "__name__", None) or type(f).__name__
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name).strip("_") or "function"


class TracedFunction:
    """A Python function over pytrees, traced into a region: its program, captured operands and output structure."""

    __slots__ = ("program", "captured", "out_tree", "name")
    out_tree: Any

    def __init__(self, f: Callable[..., Any], in_tree: Any, in_types: Sequence[ArrayType]):
        self.name = _name_of(f)

        def flat(*leaves: Any) -> Any:
            outs, self.out_tree = tree_flatten(f(*tree_unflatten(in_tree, leaves)))
            return outs

        self.program, self.captured = trace(flat, in_types, self.name)


def _types(leaves: Sequence[Any], what: str) -> list[ArrayType]:
    types = []
    for leaf in leaves:
        try:
            types.append(type_of(leaf))
        except TypeError as e:
            raise TypeError(f"{what}: {e}") from None
    return types


# ------------------------------------------------------------------------------------------------------------- cond and switch


def _unify_captures(functions: Sequence[TracedFunction]) -> tuple[list[Program], list[Any]]:
    """Programs of branches that all take the same captured operands, the union of what each captured."""
    union: dict[int, Any] = {}
    for f in functions:
        for x in f.captured:
            union.setdefault(id(x), x)
    programs = []
    for f in functions:
        own = {id(x): var for x, var in zip(f.captured, f.program.inputs)}
        leading = [own.get(key) or Var(type_of(x)) for key, x in union.items()]
        programs.append(f.program.replace(inputs=(*leading, *f.program.inputs[len(f.captured) :])))
    return programs, list(union.values())


def _common_weakness(programs: list[Program]) -> list[Program]:
    """Branches whose outputs differ only in weakness get strong outputs throughout."""
    rows = zip(*[p.out_types for p in programs])
    mixed = [len({t.weak for t in row}) > 1 for row in rows]
    if not any(mixed):
        return programs
    fixed = []
    for p in programs:

        def strengthen(*args: Any, p: Program = p) -> list[Any]:
            outs = run(p, *args)
            return [_strong(x) if m else x for x, m in zip(outs, mixed)]

        fixed.append(trace(strengthen, p.in_types, p.name)[0])
    return fixed


def _strong(x: Any) -> Any:
    t = type_of(x)
    return ops.convert_element_type(x, t.dtype, False) if t.weak else x


def _branch_outputs_agree(what: str, functions: Sequence[TracedFunction], labels: Sequence[str]) -> None:
    first = functions[0]
    for f, label in zip(functions[1:], labels[1:]):
        if f.out_tree != first.out_tree:
            raise TypeError(
                f"{what}: the branches must return the same structure, but {labels[0]} ({first.name}) returns {first.out_tree} "
                f"and {label} ({f.name}) returns {f.out_tree}\n{structure_error(labels[0], first.out_tree, label, f.out_tree)}"
            )
        paths = _leaf_paths(first.out_tree)
        for path, a, b in zip(paths, first.program.out_types, f.program.out_types):
            if a.shape != b.shape or a.dtype != b.dtype:
                raise TypeError(
                    f"{what}: the branches must return equal types, but output{path} is {a} in {labels[0]} ({first.name}) and {b} in "
                    f"{label} ({f.name}); convert one of them, e.g. with astype or broadcast_to"
                )


def _leaf_paths(tree: Any) -> list[str]:
    leaves = tree_flatten_with_path(tree_unflatten(tree, range(tree.num_leaves)))[0]
    return [keystr(path) for path, _ in leaves]


def _bind_cond(what: str, index: Any, functions: Sequence[TracedFunction], labels: Sequence[str], operands: Sequence[Any]) -> Any:
    _branch_outputs_agree(what, functions, labels)
    programs, captured = _unify_captures(functions)
    programs = _common_weakness(programs)
    outs = bind(cond_p, index, *captured, *operands, branches=tuple(programs))
    return tree_unflatten(functions[0].out_tree, outs)


_MISSING = object()


def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any, operand: Any = _MISSING) -> Any:
    """`true_fun(*operands)` if `pred` else `false_fun(*operands)`; only the chosen branch runs.

    pred: a scalar (bool or number). The branches take the same operands (pytrees) and return pytrees of the same structure and types.
    Raises TypeError if the predicate is not a scalar or the branches' results differ, naming the output.
    """
    if operand is not _MISSING:
        operands = (operand,)
    if not (callable(true_fun) and callable(false_fun)):
        raise TypeError("lax.cond takes (pred, true_fun, false_fun, *operands); true_fun and false_fun must be callable")
    t = _types([pred], "lax.cond: the predicate")[0]
    if t.shape != ():
        raise TypeError(f"lax.cond: the predicate must be a scalar, got {t}; use numpy.where to choose elementwise")
    if t.dtype.kind not in "biuf":
        raise TypeError(f"lax.cond: the predicate must be a bool or a number, got {t}")
    if config.disable_jit and not isinstance(pred, Tracer):
        return true_fun(*operands) if pred else false_fun(*operands)
    if t.dtype.kind != "b":
        pred = ops.ne(ops.convert_element_type(pred, t.dtype, False), np.zeros((), t.dtype))
    leaves, in_tree = tree_flatten(operands)
    types = _types(leaves, "lax.cond: an operand")
    functions = [TracedFunction(f, in_tree, types) for f in (false_fun, true_fun)]
    index = ops.convert_element_type(pred, np.dtype(np.int32), False)
    return _bind_cond("lax.cond", index, functions, ("false_fun", "true_fun"), leaves)


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any, operand: Any = _MISSING) -> Any:
    """`branches[index](*operands)`, with `index` clamped to the valid range.

    Raises ValueError for no branches, TypeError for an index that is not a scalar integer or branches whose results differ.
    """
    if operand is not _MISSING:
        operands = (operand,)
    branches = tuple(branches)
    if not branches or not all(callable(b) for b in branches):
        raise ValueError("lax.switch needs a non-empty sequence of callable branches")
    t = _types([index], "lax.switch: the index")[0]
    if t.shape != () or t.dtype.kind not in "iu":
        raise TypeError(f"lax.switch: the index must be a scalar integer, got {t}")
    if len(branches) == 1:
        return branches[0](*operands)
    if config.disable_jit and not isinstance(index, Tracer):
        return branches[min(max(int(index), 0), len(branches) - 1)](*operands)
    index = ops.clamp(np.asarray(0, t.dtype), index, np.asarray(min(len(branches) - 1, np.iinfo(t.dtype).max), t.dtype))
    if t.dtype != np.dtype(np.int32):
        index = ops.convert_element_type(index, np.dtype(np.int32), False)
    leaves, in_tree = tree_flatten(operands)
    types = _types(leaves, "lax.switch: an operand")
    functions = [TracedFunction(f, in_tree, types) for f in branches]
    return _bind_cond("lax.switch", index, functions, [f"branches[{i}]" for i in range(len(branches))], leaves)


# ------------------------------------------------------------------------------------------------------------ carries of loops


def _strengthened(init: list[Any], in_types: list[ArrayType], out_types: Sequence[ArrayType]) -> list[Any] | None:
    """The initial carry with weak values converted to what the body makes of them; None if nothing changes."""
    changed = False
    new = []
    for x, a, b in zip(init, in_types, out_types):
        if a.weak and a.shape == b.shape and (not b.weak or a.dtype != b.dtype):
            dtype, _ = dtypes.promote(a, b)
            if dtype == b.dtype:
                x = ops.convert_element_type(x, dtype, False)
                changed = True
        new.append(x)
    return new if changed else None


def _check_carry(
    what: str, name: str, in_tree: Any, out_tree: Any, in_types: Sequence[ArrayType], out_types: Sequence[ArrayType]
) -> None:
    if in_tree != out_tree:
        raise TypeError(
            f"{what}: the carry must keep its structure, but {name} got {in_tree} and returned {out_tree}\n"
            f"{structure_error('carry', in_tree, 'returned', out_tree)}"
        )
    wrong = [
        f"  carry{path} goes in as {a} and comes out as {b}"
        for path, a, b in zip(_leaf_paths(in_tree), in_types, out_types)
        if a.shape != b.shape or a.dtype != b.dtype
    ]
    if wrong:
        raise TypeError(
            f"{what}: the carry must keep its types, but in {name}:\n" + "\n".join(wrong) + "\n"
            "Make the initial value of the type that the body returns (jnp.asarray(init, dtype), jnp.broadcast_to), or convert the body's result."
        )


def _traced_carry(
    what: str,
    f: Callable[..., Any],
    init: list[Any],
    carry_tree: Any,
    retrace: Callable[[list[ArrayType]], TracedFunction],
    carry_out: Callable[[TracedFunction], Any],
) -> tuple[TracedFunction, list[Any], list[ArrayType]]:
    """Trace a loop body, converting weak initial values to what the body makes of them, as often as needed."""
    while True:
        types = _types(init, f"{what}: the initial carry")
        traced = retrace(types)
        out_tree, out_types = carry_out(traced)
        if out_tree == carry_tree:
            stronger = _strengthened(init, types, out_types)
            if stronger is not None:
                init = stronger
                continue
        _check_carry(what, _name_of(f), carry_tree, out_tree, types, out_types)
        return traced, init, types


# ------------------------------------------------------------------------------------------------------------------------ loops


def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any, *, _slots: int | None = None
) -> Any:
    """The loop of `transforms.loop_checkpoints.while_loop`, which is what users call, as one equation. _slots: as for `scan`."""
    if not (callable(cond_fun) and callable(body_fun)):
        raise TypeError("lax.while_loop takes (cond_fun, body_fun, init_val); cond_fun and body_fun must be callable")
    if config.disable_jit and not any(isinstance(x, Tracer) for x in tree_flatten(init_val)[0]):
        val = init_val
        while cond_fun(val):
            val = body_fun(val)
        return val
    init, tree = tree_flatten(init_val)
    args_tree = tree_structure((tree_unflatten(tree, range(len(init))),))
    body, init, types = _traced_carry(
        "lax.while_loop",
        body_fun,
        init,
        tree,
        lambda types: TracedFunction(body_fun, args_tree, types),
        lambda traced: (traced.out_tree, traced.program.out_types),
    )
    test = TracedFunction(cond_fun, args_tree, types)
    got = test.program.out_types
    if test.out_tree.num_nodes != 1 and got:
        raise TypeError(f"lax.while_loop: {test.name} must return one scalar bool, got a container: {test.out_tree}")
    if len(got) != 1 or got[0].shape != () or got[0].dtype != np.dtype(np.bool_):
        raise TypeError(
            f"lax.while_loop: {test.name} must return one scalar bool, got {', '.join([str(t) for t in got]) or 'nothing'}"
        )
    outs = bind(
        while_p,
        *test.captured,
        *body.captured,
        *init,
        cond=test.program,
        body=body.program,
        cond_nconsts=len(test.captured),
        body_nconsts=len(body.captured),
        **({} if _slots is None else {"slots": _slots}),
    )
    return tree_unflatten(tree, outs)


def fori_loop(
    lower: Any,
    upper: Any,
    body_fun: Callable[[Any, Any], Any],
    init_val: Any,
    *,
    unroll: int | bool | None = None,
    _loops: tuple[Any, Any] | None = None,
) -> Any:
    """The loop of `transforms.loop_checkpoints.fori_loop`, which is what users call.

    _loops: the functions for concrete and for traced bounds.
    """
    by_scan, by_while = _loops or (scan, while_loop)
    bounds = _types([lower, upper], "lax.fori_loop: a bound")
    for t in bounds:
        if t.shape != () or t.dtype.kind not in "iu":
            raise TypeError(f"lax.fori_loop: the bounds must be scalar integers, got {bounds[0]} and {bounds[1]}")
    if bounds[0].dtype != bounds[1].dtype and not (bounds[0].weak or bounds[1].weak):
        raise TypeError(f"lax.fori_loop: the bounds must have one dtype, got {bounds[0]} and {bounds[1]}")
    dtype, weak = dtypes.promote(*bounds)
    try:
        concrete = [int(b) for b in (lower, upper)]
    except errors.ConcretizationTypeError:
        concrete = []
    if not concrete:
        if unroll not in (None, False, 1):
            raise ValueError("lax.fori_loop: unroll needs bounds that are known while tracing")
        lower = ops.convert_element_type(lower, dtype, False)
        upper = ops.convert_element_type(upper, dtype, False)

        def test(state: Any) -> Any:
            return ops.lt(state[0], state[1])

        def step(state: Any) -> Any:
            i, n, val = state
            return ops.add(i, 1), n, body_fun(i, val)

        return by_while(test, step, (lower, upper, init_val))[2]
    if config.disable_jit:
        val = init_val
        for i in range(*concrete):
            val = body_fun(i, val)
        return val

    def scan_step(state: Any, _: None) -> tuple[Any, None]:
        i, val = state
        # A counter that starts as a Python number stays weak, or the body would be traced again for a strong one.
        return (bind1(add_p, i, 1) if weak else ops.add(i, 1), body_fun(i, val)), None

    start = concrete[0] if weak else np.asarray(concrete[0], dtype)
    length = max(concrete[1] - concrete[0], 0)
    (_, val), _ = by_scan(
        scan_step, (start, init_val), None, length=length, unroll=unroll or 1, _what="lax.fori_loop", _name=_name_of(body_fun)
    )
    return val


def scan(
    f: Callable[..., Any],
    init: Any,
    xs: Any = None,
    length: Any = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    *,
    _what: str = "lax.scan",
    _name: str = "",
    _slots: int | None = None,
) -> tuple[Any, Any]:
    """The loop of `transforms.loop_checkpoints.scan`, which is what users call, as one equation.

    _what, _name: how errors and programs call it. _slots: how many carries reverse mode keeps at a time; None: the residuals of each step.
    """
    if not callable(f):
        raise TypeError(f"{_what}: the function must be callable, got {f!r}")
    xs_leaves, xs_tree = tree_flatten(xs)
    xs_types = _types(xs_leaves, f"{_what}: xs")
    lengths = _leading_sizes(_what, xs_types, xs_tree)
    if length is not None:
        try:
            length = int(length)
        except errors.ConcretizationTypeError as e:
            raise errors.ConcretizationTypeError(f"{_what}: the length must be concrete. {e}") from None
        if lengths and lengths != {length}:
            raise ValueError(f"{_what}: length={length} does not agree with the leading dimensions of xs, {sorted(lengths)}")
    elif not lengths:
        raise ValueError(f"{_what}: needs xs or length")
    else:
        length = lengths.pop()
    if length < 0:
        raise ValueError(f"{_what}: the length must not be negative, got {length}")
    init_leaves, init_tree = tree_flatten(init)
    if config.disable_jit and not any(isinstance(x, Tracer) for x in (*init_leaves, *xs_leaves)):
        return _scan_in_python(f, init, xs_leaves, xs_tree, length, reverse)
    slices = [t.update(shape=t.shape[1:]) for t in xs_types]
    args_tree = tree_structure(
        (tree_unflatten(init_tree, range(len(init_leaves))), tree_unflatten(xs_tree, range(len(xs_leaves))))
    )
    pair: list[Any] = []

    def checked(carry: Any, x: Any) -> Any:
        out = f(carry, x)
        if not (isinstance(out, tuple) and len(out) == 2):
            raise TypeError(f"{_what}: {_name_of(f)} must return a pair (carry, y), got {errors.noun(out)}")
        pair[:] = [tree_structure(out[0]), tree_structure(out[1])]
        return out

    checked.__name__ = _name or _name_of(f)

    def carry_out(traced: TracedFunction) -> tuple[Any, Sequence[ArrayType]]:
        return pair[0], traced.program.out_types[: pair[0].num_leaves]

    traced, init_leaves, _ = _traced_carry(
        _what, checked, init_leaves, init_tree, lambda types: TracedFunction(checked, args_tree, [*types, *slices]), carry_out
    )
    outs = bind(
        scan_p,
        *traced.captured,
        *init_leaves,
        *xs_leaves,
        body=traced.program,
        length=length,
        reverse=bool(reverse),
        num_consts=len(traced.captured),
        num_carry=len(init_leaves),
        unroll=length if unroll is True else max(int(unroll), 1),
        **({} if _slots is None else {"slots": _slots}),
    )
    n = len(init_leaves)
    return tree_unflatten(pair[0], outs[:n]), tree_unflatten(pair[1], outs[n:])


def _leading_sizes(what: str, types: Sequence[ArrayType], tree: Any) -> set[int]:
    """The one size of the leading dimensions of arrays to scan over, or none if there are none. ValueError, naming the arrays, for others."""
    sizes = {t.shape[0] if t.shape else None for t in types}
    if None in sizes:
        path, t = next((p, t) for p, t in zip(_leaf_paths(tree), types) if not t.shape)
        raise ValueError(f"{what}: xs holds a scalar, xs{path}: {t}; every scanned array needs a leading dimension")
    if len(sizes) > 1:
        lines = "\n".join(f"  xs{path}: {t}" for path, t in zip(_leaf_paths(tree), types))
        raise ValueError(f"{what}: the arrays of xs have different leading dimensions:\n{lines}")
    return {n for n in sizes if n is not None}


def _scan_in_python(
    f: Callable[..., Any], carry: Any, xs_leaves: list[Any], xs_tree: Any, length: int, reverse: bool
) -> tuple[Any, Any]:
    if length == 0:
        raise ValueError("lax.scan over zero steps needs jit: with disable_jit the types of ys are unknown")
    ys = []
    for i in reversed(range(length)) if reverse else range(length):
        carry, y = f(carry, tree_unflatten(xs_tree, [ops.dynamic_index_in_dim(x, i, 0, False) for x in xs_leaves]))
        ys.append(tree_flatten(y))
    if reverse:
        ys.reverse()
    stacked = [
        ops.concatenate([ops.reshape(x, (1, *type_of(x).shape)) for x in column], 0)
        for column in zip(*[leaves for leaves, _ in ys])
    ]
    return carry, tree_unflatten(ys[0][1], stacked)


def map(f: Callable[..., Any], xs: Any, *, batch_size: int | None = None) -> Any:
    """`f` on each slice of `xs` along its first dimension, one after another, results stacked.

    batch_size: how many slices are computed together by vmap.
    """
    if batch_size is None:
        return scan(lambda _, x: ((), f(x)), (), xs, _what="lax.map", _name=_name_of(f))[1]
    return _map_in_batches(f, xs, batch_size)


_vmap: Callable[..., Any] | None = None


def install_vmap(vmap: Callable[..., Any]) -> None:
    """Give `map` the batching transform, which lives in a higher layer. Called once, by `transforms`."""
    global _vmap
    _vmap = vmap


def _map_in_batches(f: Callable[..., Any], xs: Any, batch_size: int) -> Any:
    leaves, tree = tree_flatten(xs)
    if not leaves:
        raise ValueError("lax.map: xs holds no arrays")
    (n,) = _leading_sizes("lax.map", _types(leaves, "lax.map: xs"), tree)
    whole, rest = divmod(n, batch_size)
    batched = cast(Callable[..., Any], _vmap)(f)
    parts = []
    if whole:
        blocks = [
            ops.reshape(ops.slice(x, (0,) * len(s), (whole * batch_size, *s[1:]), None), (whole, batch_size, *s[1:]))
            for x, s in ((x, type_of(x).shape) for x in leaves)
        ]
        out = map(batched, tree_unflatten(tree, blocks))
        out_leaves, out_tree = tree_flatten(out)
        parts.append([ops.reshape(y, (whole * batch_size, *type_of(y).shape[2:])) for y in out_leaves])
    if rest:
        tail = [
            ops.slice(x, (whole * batch_size, *(0,) * (len(s) - 1)), s, None) for x, s in ((x, type_of(x).shape) for x in leaves)
        ]
        out_leaves, out_tree = tree_flatten(batched(tree_unflatten(tree, tail)))
        parts.append(out_leaves)
    if not parts:
        return map(f, xs)
    joined = parts[0] if len(parts) == 1 else [ops.concatenate(list(column), 0) for column in zip(*parts)]
    return tree_unflatten(out_tree, joined)


# ----------------------------------------------------------------------------------------------------------- associative_scan


def associative_scan(fn: Callable[[Any, Any], Any], elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """All prefixes of `elems` along `axis` combined by an associative `fn(a, b)`, in logarithmic depth.

    elems: a pytree of arrays that agree in the size of `axis`; `fn` combines two such pytrees elementwise over that axis.
    The scheme is the work-efficient recursive one of Blelloch, "Prefix sums and their applications" (1990).
    """
    if not callable(fn):
        raise TypeError("lax.associative_scan: fn must be callable")
    leaves, tree = tree_flatten(elems)
    if not leaves:
        return elems
    axes = [axis + type_of(x).ndim if axis < 0 else axis for x in leaves]
    sizes = {type_of(x).shape[a] if a < type_of(x).ndim else -1 for x, a in zip(leaves, axes)}
    if len(sizes) != 1 or -1 in sizes:
        raise ValueError(f"lax.associative_scan: the arrays must agree in the size of axis {axis}, got {sorted(sizes)}")
    if reverse:
        leaves = [ops.rev(x, (a,)) for x, a in zip(leaves, axes)]

    def combine(a: list[Any], b: list[Any]) -> list[Any]:
        return tree_flatten(fn(tree_unflatten(tree, a), tree_unflatten(tree, b)))[0]

    out = _prefixes(combine, leaves, axes, sizes.pop())
    if reverse:
        out = [ops.rev(x, (a,)) for x, a in zip(out, axes)]
    return tree_unflatten(tree, out)


def _along(x: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
    shape = type_of(x).shape
    starts = [0] * len(shape)
    limits = list(shape)
    strides = [1] * len(shape)
    starts[axis], limits[axis], strides[axis] = start, stop, step
    return ops.slice(x, tuple(starts), tuple(limits), tuple(strides))


def _prefixes(combine: Callable[[list[Any], list[Any]], list[Any]], xs: list[Any], axes: list[int], n: int) -> list[Any]:
    if n < 2:
        return xs
    even = [_along(x, a, 0, n - 1, 2) for x, a in zip(xs, axes)]
    odd = [_along(x, a, 1, n, 2) for x, a in zip(xs, axes)]
    pairs = _prefixes(combine, combine(even, odd), axes, n // 2)  # the prefixes that end at odd positions
    if n % 2:
        before, later = pairs, [_along(x, a, 2, n, 2) for x, a in zip(xs, axes)]
    else:
        before = [_along(p, a, 0, n // 2 - 1) for p, a in zip(pairs, axes)]
        later = [_along(x, a, 2, n, 2) for x, a in zip(xs, axes)]
    first = [_along(x, a, 0, 1) for x, a in zip(xs, axes)]
    evens = [ops.concatenate([f, rest], a) for f, rest, a in zip(first, combine(before, later), axes)] if n > 2 else first
    return [_interleave(e, o, a) for e, o, a in zip(evens, pairs, axes)]


def _interleave(even: Any, odd: Any, axis: int) -> Any:
    """even[0], odd[0], even[1], odd[1], ...: each padded with zeros between its elements, then added (or or-ed)."""
    t = type_of(even)
    n, m = t.shape[axis], type_of(odd).shape[axis]
    zero = np.zeros((), t.dtype)

    def spread(x: Any, lo: int, hi: int) -> Any:
        config = [(0, 0, 0)] * t.ndim
        config[axis] = (lo, hi, 1)
        return ops.pad(x, zero, tuple(config))

    a = spread(even, 0, 1 if n == m else 0)
    b = spread(odd, 1, 1 if n != m else 0)
    return ops.add(a, b) if is_inexact(t.dtype) or t.dtype.kind in "iu" else getattr(ops, "or_", ops.add)(a, b)
