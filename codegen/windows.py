"""Native sliding windows. Every reduction is separable, so it is done one axis after the other, vectorized over inner axes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Buffer, Kernel, Value
from tracegrad.codegen.library import Routine, lower_by
from tracegrad.ir.contractions import accumulation_dtype, dilated_size, window_count
from tracegrad.ir.types import ArrayType, is_inexact
from tracegrad.ir.windows import reduce_window_p, select_and_gather_add_p, select_and_scatter_add_p, window_identity

VECTOR = 16
"""From this many inner elements on, a window is reduced row by row."""


def combine(k: Kernel, kind: str, dtype: np.dtype, x: Any, y: Any) -> Any:
    """Two elements combined; maxima and minima propagate NaN."""
    if kind == "add":
        return x | y if dtype.kind == "b" else x + y
    if kind == "mul":
        return x & y if dtype.kind == "b" else x * y
    if is_inexact(dtype):
        return k.intrinsic("maximum" if kind == "max" else "minimum", x, y)
    return k.intrinsic(("s" if dtype.kind == "i" else "u") + kind, x, y)


def _row_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def reduce_window_routine(
    x: ArrayType,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    base_dilation: tuple[int, ...],
    window_dilation: tuple[int, ...],
) -> Routine:
    params = (window_dimensions, window_strides, padding, base_dilation, window_dilation)
    k = _kernel("reduce_window", 1, (kind, x, *params))
    dtype = accumulation_dtype(x.dtype) if kind in ("add", "mul") else x.dtype
    work = np.dtype(dtype)
    axes = [d for d, p in enumerate(zip(*params, strict=True)) if not (p[0] == 1 and p[1] == 1 and p[2] == (0, 0) and p[3] == 1)]
    shape = list(x.shape)
    largest, current = 0, k.array(k["in0"], x.dtype)
    for step, d in enumerate(axes):
        lo, hi = padding[d]
        n, (w, s, b, wd) = shape[d], (window_dimensions[d], window_strides[d], base_dilation[d], window_dilation[d])
        count = window_count(dilated_size(n, b) + lo + hi, dilated_size(w, wd), s)
        outer, inner = prod(shape[:d]), prod(shape[d + 1 :])
        shape[d] = count
        if step == len(axes) - 1 and work == x.dtype:
            target = k.array(k["out0"], x.dtype)
        else:
            target = k.array(k.offset(k["scratch"], largest), work)
            largest += -(-prod(shape) * work.itemsize // 64) * 64
        _reduce_axis(k, kind, work, current, target, outer, n, inner, count, w, s, lo, b, wd)
        current = target
    if not axes or work != x.dtype:
        out = k.array(k["out0"], x.dtype)
        with k.loop(0, prod(shape)) as i:
            out[i] = current[i]
    return Routine(k, largest)


def _kernel(name: str, ins: int, key: tuple[Any, ...]) -> Kernel:
    tag = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
    params = {f"in{i}": "ptr" for i in range(ins)} | {"out0": "ptr", "scratch": "ptr"}
    return Kernel(f"tg_{name}_{tag}", params, noalias=tuple(params))


def _reduce_axis(
    k: Kernel,
    kind: str,
    dtype: np.dtype,
    source: Buffer,
    target: Buffer,
    outer: int,
    n: int,
    inner: int,
    count: int,
    w: int,
    s: int,
    lo: int,
    b: int,
    wd: int,
) -> None:
    x, y = source.shifted(0, (n * inner, inner, 1)), target.shifted(0, (count * inner, inner, 1))
    identity = k.number(window_identity(kind, dtype), dtype)

    def fill(o: Value) -> None:
        with k.loop(0, count) as c, k.loop(0, inner) as i:
            y[o, c, i] = identity

    with k.loop(0, outer) as o:
        fill(o)
        if b == 1 and inner < VECTOR:
            # element j of the window outside: each step runs along the windows that have this element inside of the array
            def along(j: Any, first: Any, last: Any, o: Value = o) -> None:
                with k.loop(first, last) as c, k.loop(0, inner) as i:
                    y[o, c, i] = combine(k, kind, dtype, y[o, c, i], x[o, c * s + (j * wd - lo), i])

            if w <= 8:
                for j in range(w):
                    first = max(0, -((j * wd - lo) // s))
                    last = min(count, (n - 1 - j * wd + lo) // s + 1)
                    if first < last:
                        along(j, first, last)
            else:
                with k.loop(0, w) as at:
                    # c * s + at * wd - lo within 0..n-1; the shift keeps the dividends positive
                    shift = (w * wd + abs(lo) + n) * s
                    low = ((lo - at * wd) + (shift + s - 1)) // s - shift // s
                    high = ((n - 1 + lo - at * wd) + shift) // s - shift // s + 1
                    along(at, (low > 0).select(low, 0), (high < count).select(high, count))
        else:
            with k.loop(0, count) as c, k.loop(0, w) as at:
                position = c * s + (at * wd - lo)
                inside = (position >= 0) & (position < dilated_size(n, b))
                if b > 1:
                    inside = inside & (position % b).eq(0)
                with k.if_(inside):
                    row = position // b if b > 1 else position
                    with k.loop(0, inner) as i:
                        y[o, c, i] = combine(k, kind, dtype, y[o, c, i], x[o, row, i])


UNROLLED = 32
"""Windows of up to this many elements are written out: without branches, so that LLVM can treat many windows at once."""


class _Selection:
    """Loops over windows that find what each selects: the first largest (smallest) element, NaN before any number."""

    def __init__(self, k: Kernel, operand: Buffer, shape: tuple[int, ...], counts: tuple[int, ...], params: tuple[Any, ...]):
        self.k, self.operand, self.shape, self.counts = k, operand, shape, counts
        self.kind, self.window, self.steps, self.padding = params
        self.strides, self.out_strides = _row_strides(shape), _row_strides(counts)
        self.floating = is_inexact(operand.dtype)

    def _better(self, value: Value, current: Value) -> Value:
        if self.floating:
            # unordered comparison: true for NaN as well
            wins = self.k.compare("fcmp ugt" if self.kind == "max" else "fcmp ult", value, current)
            return wins & ~current.isnan()
        sign = "s" if self.operand.dtype.kind == "i" else "u"
        return self.k.compare(f"icmp {sign}{'gt' if self.kind == 'max' else 'lt'}", value, current)

    def unrolled(self, body: Callable[[Value, list[tuple[Value, Value | None]], Value], None]) -> None:
        """body(position of the window, [(position of an element, whether inside or None)], number of the selected one or -1)."""
        k = self.k
        with k.loops(*self.counts) as position:
            out: Value = k.value(0, "i64")
            for p, stride in zip(position, self.out_strides, strict=True):
                out = out + p * stride
            # per dimension and offset: the clamped index and whether it needed no clamping
            places: list[list[tuple[Value, Value | None]]] = []
            for d, n in enumerate(self.shape):
                low, first, last = self.padding[d][0], -self.padding[d][0], self.counts[d] * self.steps[d] - self.padding[d][0]
                places.append([])
                for j in range(self.window[d]):
                    index = position[d] * self.steps[d] + (j - low)
                    if first + j >= 0 and last - self.steps[d] + j < n:
                        places[d].append((index, None))
                        continue
                    inside = (index >= 0) & (index < n)
                    places[d].append((inside.select(index, 0), inside))
            elements: list[tuple[Value, Value | None]] = []
            for choice in product(*places):
                flat: Value = k.value(0, "i64")
                valid: Value | None = None
                for (index, inside), stride in zip(choice, self.strides, strict=True):
                    flat = flat + index * stride
                    if inside is not None:
                        valid = inside if valid is None else valid & inside
                elements.append((flat, valid))
            best: Value | None = None
            chosen = k.value(-1, "i32")
            for number, (flat, valid) in enumerate(elements):
                value = self.operand[flat]
                if best is None:
                    best = value
                    chosen = k.value(0, "i32") if valid is None else valid.select(k.value(0, "i32"), chosen)
                    continue
                better = self._better(value, best) | (chosen < 0)
                if valid is not None:
                    better = better & valid
                best = better.select(value, best)
                chosen = better.select(k.value(number, "i32"), chosen)
            body(out, elements, chosen)

    def looped(self, body: Callable[[Value, Value], None]) -> None:
        """body(position of the window, position of the element that it selects or -1)."""
        k, rank = self.k, len(self.shape)
        with k.loops(*self.counts) as position:
            best = k.accumulator(self.operand.dtype, 0)
            chosen = k.var("i64", -1)
            bases = [p * s - lo for p, s, (lo, _) in zip(position, self.steps, self.padding, strict=True)]
            out: Value = k.value(0, "i64")
            for p, s in zip(position, self.out_strides, strict=True):
                out = out + p * s

            def element(d: int, index: Value) -> None:
                if d == rank:
                    value = self.operand[index]
                    better = self._better(value, best.get()) | (chosen.get() < 0)
                    best.set(better.select(value, best.get()))
                    chosen.set(better.select(index, chosen.get()))
                    return
                base = bases[d]
                first = (base < 0).select(-base, 0)
                limit = k.value(self.shape[d], "i64") - base
                last = (limit < self.window[d]).select(limit, self.window[d])
                with k.loop(first, last) as j:
                    element(d + 1, index + (base + j) * self.strides[d])

            element(0, k.value(0, "i64"))
            body(out, chosen.get())


def select_and_scatter_add_routine(
    source: ArrayType,
    operand: ArrayType,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> Routine:
    params = (kind, window_dimensions, window_strides, padding)
    k = _kernel("select_and_scatter_add", 2, (source, operand, *params))
    work = np.dtype(accumulation_dtype(operand.dtype))
    half = work != operand.dtype
    values, x = k.array(k["in0"], source.dtype), k.array(k["in1"], operand.dtype)
    out = k.array(k["out0"], operand.dtype)
    total = k.array(k["scratch"], work) if half else out
    k.memset(total.pointer, 0, operand.size * work.itemsize)

    selection = _Selection(k, x, operand.shape, source.shape, params)
    apart = all(w <= s for w, s in zip(window_dimensions, window_strides, strict=True))

    def give(window: Value, elements: list[tuple[Value, Value | None]], chosen: Value) -> None:
        value = values[window]
        for number, (flat, valid) in enumerate(elements):
            mine = chosen.eq(number).select(value, k.number(0, work))
            # windows that do not overlap write each element once; those that lie partly outside share clamped positions
            if apart and valid is None:
                total[flat] = mine
            else:
                total[flat] = combine(k, "add", work, total[flat], mine)

    def add(window: Value, chosen: Value) -> None:
        with k.if_(chosen >= 0):
            total[chosen] = combine(k, "add", work, total[chosen], values[window])

    if prod(window_dimensions) <= UNROLLED:
        selection.unrolled(give)
    else:
        selection.looped(add)
    if half:
        with k.loop(0, operand.size) as i:
            out[i] = total[i]
    return Routine(k, operand.size * work.itemsize if half else 0)


def select_and_gather_add_routine(
    tangents: ArrayType,
    operand: ArrayType,
    *,
    kind: str,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> Routine:
    params = (kind, window_dimensions, window_strides, padding)
    k = _kernel("select_and_gather_add", 2, (tangents, operand, *params))
    (result,) = select_and_gather_add_p.type_rule(
        tangents,
        operand,
        kind=kind,
        window_dimensions=window_dimensions,
        window_strides=window_strides,
        padding=padding,
    )
    values, x = k.array(k["in0"], tangents.dtype), k.array(k["in1"], operand.dtype)
    out = k.array(k["out0"], operand.dtype)

    zero = k.number(0, operand.dtype)

    def take(window: Value, elements: list[tuple[Value, Value | None]], chosen: Value) -> None:
        result: Any = zero
        for number, (flat, _) in enumerate(elements):
            result = chosen.eq(number).select(values[flat], result)
        out[window] = result

    def read(window: Value, chosen: Value) -> None:
        inside = chosen >= 0
        out[window] = inside.select(values[inside.select(chosen, 0)], zero)

    if not operand.size:
        k.memset(out.pointer, 0, result.nbytes)
    elif prod(window_dimensions) <= UNROLLED:
        _Selection(k, x, operand.shape, result.shape, params).unrolled(take)
    else:
        _Selection(k, x, operand.shape, result.shape, params).looped(read)
    return Routine(k)


def _lower_by(make: Callable[..., Routine]) -> Callable[[Any, Any], None]:
    """Windows over the last dimensions only are windows in each of a batch of arrays, which tasks divide among them."""

    def lower(ctx: Any, eqn: Any) -> None:
        rank = len(eqn.params["window_dimensions"])
        rows = [v for v in eqn.params.values() if isinstance(v, tuple)]
        lead = next((d for d in range(rank) if any([row[d] not in (1, (0, 0)) for row in rows])), rank)

        def part(*types: ArrayType, **params: Any) -> Routine:
            if len(types[0].shape) < rank:  # one dimension for all examples
                params = {name: v[lead - 1 :] if isinstance(v, tuple) else v for name, v in params.items()}
            return make(*types, **params)

        core = rank - lead if 0 < lead < rank else None
        lower_by(part, core, lambda types: COST * max(t.size for t in types))(ctx, eqn)

    return lower


COST = 4
"""About how many operations an element takes."""

reduce_window_p.define(lower=_lower_by(reduce_window_routine))
select_and_scatter_add_p.define(lower=_lower_by(select_and_scatter_add_routine))
select_and_gather_add_p.define(lower=_lower_by(select_and_gather_add_routine))
