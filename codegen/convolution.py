"""Native convolutions: patches of the padded input times the filter, by matrix products; for what `patches.py` does not take, which is
tried first: groups, dilated inputs, few features, half precision, integers.

The input is brought into one of two layouts, whichever is nearer to how it lies in memory (often no data move):

    "rows"      batch, spatial..., features     forward and input-gradient convolutions
    "columns"   features, spatial..., batch     filter gradients, which JAX's rule writes with batch and features exchanged

Padded and dilated, it needs no more tests of bounds. Patches are copied in pieces that stay in the cache, and multiplied while
they are there; a window of one element, or one that covers everything, needs no patches at all. Depthwise and single-channel
convolutions are direct loops. Half precision is computed in float32; integers and booleans multiply in generated loops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Buffer, Kernel, Value
from tracegrad.codegen.library import Routine, blas_symbol, lower_by, one_thread
from tracegrad.codegen.patches import lower_directly
from tracegrad.codegen.tiles import Tiles, applies
from tracegrad.ir.contractions import accumulation_dtype, conv_general_dilated_p, dilated_size
from tracegrad.ir.types import ArrayType

PIECE = 1 << 18
"""How many elements of patches are multiplied at once."""
THREADED = 1_000_000_000
"""From this many multiplications on, BLAS may use its threads, on larger pieces."""


@dataclass(frozen=True)
class _Axis:
    """A spatial dimension: the padded input's size, positions of the window, its size, step, and distance of elements; the input."""

    size: int
    positions: int
    window: int
    stride: int
    dilation: int
    source: int
    low: int
    source_dilation: int


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def _align(n: int) -> int:
    return -(-n // 64) * 64


class _Scratch:
    def __init__(self, k: Kernel):
        self.k, self.used = k, 0

    def take(self, dtype: np.dtype, count: int) -> Buffer:
        buffer = self.k.array(self.k.offset(self.k["scratch"], self.used), dtype)
        self.used += _align(max(count, 1) * dtype.itemsize)
        return buffer


def _copy_elements(
    k: Kernel,
    source: Buffer,
    target: Buffer,
    extents: Sequence[int],
    starts: Sequence[tuple[int, int]],
    steps: Sequence[tuple[int, int]],
) -> None:
    """target[sum t0 + i * ts] = source[sum s0 + i * ss] over all indices; what is near in the target varies fastest.

    starts and steps are (source, target) pairs per dimension, in elements.
    """
    order = sorted(range(len(extents)), key=lambda d: -steps[d][1])
    indices: dict[int, Value] = {}

    def nest(level: int) -> None:
        if level == len(order):
            s = k.value(sum(a for a, _ in starts), "i64")
            t = k.value(sum(b for _, b in starts), "i64")
            for d, i in indices.items():
                s, t = s + i * steps[d][0], t + i * steps[d][1]
            target[t] = source[s]
            return
        d = order[level]
        if extents[d] == 1:
            nest(level + 1)
            return
        with k.loop(0, extents[d]) as i:
            indices[d] = i
            nest(level + 1)
        del indices[d]

    if all(n > 0 for n in extents):
        nest(0)


def _is_packed(shape: Sequence[int], steps: Sequence[int]) -> bool:
    """Whether dimensions of these sizes and steps, in this order, are row-major without gaps."""
    expected = 1
    for n, s in zip(reversed(shape), reversed(steps), strict=True):
        if n != 1 and s != expected:
            return False
        expected *= n
    return True


def conv_routine(
    lhs: ArrayType,
    rhs: ArrayType,
    *,
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    preferred_element_type: Any,
) -> Routine:
    params = dict(
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        preferred_element_type=preferred_element_type,
    )
    (out,) = conv_general_dilated_p.type_rule(lhs, rhs, **params)
    tag = hashlib.blake2b(repr((lhs, rhs, sorted(params.items(), key=str))).encode(), digest_size=8).hexdigest()
    names = ("in0", "in1", "out0", "scratch")
    k = Kernel(f"tg_conv_{tag}", dict.fromkeys(names, "ptr"), noalias=names)
    conv = _Convolution(k, lhs, rhs, out, params)
    if conv.work < THREADED:
        with one_thread(k):
            conv.emit()
    else:
        conv.piece = PIECE * 8
        conv.emit()
    return Routine(k, conv.scratch.used, conv.helpers.values())


class _Convolution:
    def __init__(self, k: Kernel, lhs: ArrayType, rhs: ArrayType, out: ArrayType, params: dict[str, Any]):
        self.k, self.lhs, self.rhs, self.out = k, lhs, rhs, out
        self.lhs_spec, self.rhs_spec, self.out_spec = params["dimension_numbers"]
        self.scratch = _Scratch(k)
        self.helpers: dict[str, Kernel] = {}
        self.dtype = np.dtype(accumulation_dtype(lhs.dtype, params["preferred_element_type"]))
        self.feature_groups, self.batch_groups = params["feature_group_count"], params["batch_group_count"]
        self.groups = self.feature_groups * self.batch_groups
        self.batch, self.features = lhs.shape[self.lhs_spec[0]], lhs.shape[self.lhs_spec[1]]
        self.fan_out, self.fan_in = rhs.shape[self.rhs_spec[0]], rhs.shape[self.rhs_spec[1]]
        self.group_batch = self.batch // self.batch_groups
        self.group_out = self.fan_out // self.groups
        self.axes = []
        for i, (stride, (lo, hi), source_dilation, dilation) in enumerate(
            zip(params["window_strides"], params["padding"], params["lhs_dilation"], params["rhs_dilation"], strict=True)
        ):
            source = lhs.shape[self.lhs_spec[2 + i]]
            self.axes.append(
                _Axis(
                    max(dilated_size(source, source_dilation) + lo + hi, 0),
                    out.shape[self.out_spec[2 + i]],
                    rhs.shape[self.rhs_spec[2 + i]],
                    stride,
                    dilation,
                    source,
                    lo,
                    source_dilation,
                )
            )
        self.piece = PIECE
        self.columns = self.lhs_spec[1] < self.lhs_spec[0]
        self.work = out.size * self.fan_in * prod(a.window for a in self.axes)
        self.positions, self.window = prod(a.positions for a in self.axes), prod(a.window for a in self.axes)

    # ------------------------------------------------------------------------------------------------------------ operands

    def _input(self) -> Buffer:
        """The input in its layout, padded and dilated, in the dtype of the computation."""
        k, lhs = self.k, self.lhs
        memory = _strides(lhs.shape)
        outer, inner = (self.features, self.batch) if self.columns else (self.batch, self.features)
        first, last = (self.lhs_spec[1], self.lhs_spec[0]) if self.columns else (self.lhs_spec[0], self.lhs_spec[1])
        order = (first, *self.lhs_spec[2:], last)
        source = k.array(k["in0"], lhs.dtype)
        plain = all(a.size == a.source and a.low == 0 for a in self.axes)
        natural = _is_packed([lhs.shape[d] for d in order], [memory[d] for d in order])
        if plain and natural and lhs.dtype == self.dtype:
            return source
        shape = (outer, *[a.size for a in self.axes], inner)
        target = self.scratch.take(self.dtype, prod(shape))
        if not plain:
            k.memset(target.pointer, 0, prod(shape) * self.dtype.itemsize)
        strides = _strides(shape)
        extents, starts, steps = [outer], [(0, 0)], [(memory[first], strides[0])]
        for i, a in enumerate(self.axes):
            d = self.lhs_spec[2 + i]
            # element j goes to low + j * dilation, if that is inside
            begin = max(0, -(a.low // a.source_dilation)) if a.low < 0 else 0
            end = min(a.source, max(begin, -(-(a.size - a.low) // a.source_dilation))) if a.size > a.low else begin
            extents.append(end - begin)
            starts.append((begin * memory[d], (a.low + begin * a.source_dilation) * strides[1 + i]))
            steps.append((memory[d], a.source_dilation * strides[1 + i]))
        extents.append(inner)
        starts.append((0, 0))
        steps.append((memory[last], 1))
        _copy_elements(k, source, target, extents, starts, steps)
        return target

    def _filter(self) -> Buffer:
        """The filter as a matrix: (window..., features) or, for columns, (features, window...) by out features."""
        k, rhs = self.k, self.rhs
        memory = _strides(rhs.shape)
        spatial, feature = list(self.rhs_spec[2:]), self.rhs_spec[1]
        order = [feature, *spatial, self.rhs_spec[0]] if self.columns else [*spatial, feature, self.rhs_spec[0]]
        shape = [rhs.shape[d] for d in order]
        source = k.array(k["in1"], rhs.dtype)
        if rhs.dtype == self.dtype and _is_packed(shape, [memory[d] for d in order]):
            return source
        target = self.scratch.take(self.dtype, prod(shape))
        steps = list(zip([memory[d] for d in order], _strides(shape), strict=True))
        _copy_elements(k, source, target, shape, [(0, 0)] * len(shape), steps)
        return target

    def _result(self) -> tuple[Buffer, bool]:
        """Where the product goes, and whether that is the output itself."""
        order = (*self.out_spec[2:], self.out_spec[0]) if self.columns else (self.out_spec[0], *self.out_spec[2:])
        order = (*order, self.out_spec[1])
        memory = _strides(self.out.shape)
        if self.out.dtype == self.dtype and _is_packed([self.out.shape[d] for d in order], [memory[d] for d in order]):
            return self.k.array(self.k["out0"], self.dtype), True
        return self.scratch.take(self.dtype, self.out.size), False

    def _deliver(self, result: Buffer) -> None:
        order = (*self.out_spec[2:], self.out_spec[0]) if self.columns else (self.out_spec[0], *self.out_spec[2:])
        order = (*order, self.out_spec[1])
        shape, memory = [self.out.shape[d] for d in order], _strides(self.out.shape)
        steps = list(zip(_strides(shape), [memory[d] for d in order], strict=True))
        _copy_elements(self.k, result, self.k.array(self.k["out0"], self.out.dtype), shape, [(0, 0)] * len(shape), steps)

    # ------------------------------------------------------------------------------------------------------------ the work

    def emit(self) -> None:
        k = self.k
        if self.lhs.size == 0 or self.rhs.size == 0:
            k.memset(k["out0"], 0, self.out.nbytes)
            return
        if self._by_phases():
            return
        x, w = self._input(), self._filter()
        result, final = self._result()
        if not self.columns and self.fan_in == 1 and self.group_out == 1 and self.batch_groups == 1:
            with k.arithmetic("contract"):
                self._direct(x, w, result)
        elif self.columns and self.group_batch == 1 and self.group_out == 1 and self.feature_groups == 1:
            with k.arithmetic("contract"):
                self._direct_columns(x, w, result)
        else:
            self._all_groups(x, w, result)
        if not final:
            self._deliver(result)

    def _by_phases(self) -> bool:
        """Convolve a dilated input (the gradient of a strided convolution) without multiplying by the holes.

        Outputs whose positions are equal modulo the dilation meet the same elements of the filter and no others, so that each
        such phase is a convolution of the undilated input with a part of the filter. False where that does not apply.
        """
        axes = self.axes
        if self.columns or all(a.source_dilation == 1 for a in axes) or any(a.stride > 1 or a.dilation > 1 for a in axes):
            return False
        k = self.k
        # per axis and phase: (first position, count of positions, first element, count of elements, start in the input)
        phases: list[list[tuple[int, int, int, int, int]]] = []
        for a in axes:
            d = a.source_dilation
            found = []
            for first in range(min(d, a.positions)):
                element = (a.low - first) % d
                positions, window = -(-(a.positions - first) // d), -(-(a.window - element) // d) if element < a.window else 0
                found.append((first, positions, element, window, (first + element - a.low) // d))
            phases.append(found)
        before = [max(0, max(-f[4] for f in found)) for found in phases]
        sizes = [
            b + max(a.source, max(f[4] + f[1] + f[3] - 1 for f in found))
            for a, b, found in zip(axes, before, phases, strict=True)
        ]
        undilated = copy(self)
        undilated.axes = [_Axis(n, 0, 0, 1, 1, a.source, b, 1) for n, a, b in zip(sizes, axes, before, strict=True)]
        x, w = undilated._input(), self._filter()
        result, final = self._result()
        x_strides = _strides((self.batch, *sizes, self.features))
        w_strides = _strides((*[a.window for a in axes], self.fan_in * self.fan_out))
        y_strides = _strides((self.batch, *[a.positions for a in axes], self.fan_out))
        used = self.scratch.used
        most = used
        for phase in product(*phases):
            self.scratch.used = used
            part = copy(self)
            part.axes = [_Axis(n, f[1], f[3], 1, 1, 0, 0, 1) for n, f in zip(sizes, phase, strict=True)]
            part.positions, part.window = prod(f[1] for f in phase), prod(f[3] for f in phase)
            shape = (self.batch, *[f[1] for f in phase], self.fan_out)
            product_of_phase = self.scratch.take(self.dtype, prod(shape))
            if part.window:
                windows = [f[3] for f in phase]
                elements = self.scratch.take(self.dtype, part.window * self.fan_in * self.fan_out)
                extents = (*windows, self.fan_in * self.fan_out)
                starts = [(f[2] * s, 0) for f, s in zip(phase, w_strides, strict=False)] + [(0, 0)]
                steps = [s * a.source_dilation for a, s in zip(axes, w_strides, strict=False)] + [1]
                _copy_elements(k, w, elements, extents, starts, list(zip(steps, _strides(extents), strict=True)))
                start = sum((f[4] + b) * s for f, b, s in zip(phase, before, x_strides[1:], strict=False))
                part._all_groups(x.shifted(start), elements, product_of_phase)
            else:
                k.memset(product_of_phase.pointer, 0, prod(shape) * self.dtype.itemsize)
            starts = [(0, 0), *[(0, f[0] * s) for f, s in zip(phase, y_strides[1:], strict=False)], (0, 0)]
            steps = [y_strides[0], *[s * a.source_dilation for a, s in zip(axes, y_strides[1:], strict=False)], 1]
            _copy_elements(k, product_of_phase, result, shape, starts, list(zip(_strides(shape), steps, strict=True)))
            most = max(most, self.scratch.used)
        self.scratch.used = most
        if not final:
            self._deliver(result)
        return True

    def _direct(self, x: Buffer, w: Buffer, result: Buffer) -> None:
        """Depthwise: every feature has its own filter. Vectorized over features, or over positions if features are few."""
        k, channels = self.k, self.features
        sizes = [a.size for a in self.axes]
        x_strides = _strides((self.batch, *sizes, channels))
        y_strides = _strides((self.batch, *[a.positions for a in self.axes], channels))
        w_strides = _strides((*[a.window for a in self.axes], channels))
        along_positions = channels < 8 and bool(self.axes)
        outer = [self.batch, *[a.positions for a in self.axes]]
        inner = channels
        if along_positions:
            inner, outer[-1] = outer[-1], channels
        block = 512
        with k.loops(*outer) as index:
            base_x, base_y, base_w = index[0] * x_strides[0], index[0] * y_strides[0], k.value(0, "i64")
            spatial = self.axes[:-1] if along_positions else self.axes
            for i, a in enumerate(spatial):
                base_x = base_x + index[1 + i] * (a.stride * x_strides[1 + i])
                base_y = base_y + index[1 + i] * y_strides[1 + i]
            if along_positions:
                step_x, step_y, step_w = self.axes[-1].stride * channels, channels, 0
                base_x, base_y, base_w = base_x + index[-1], base_y + index[-1], base_w + index[-1]
            else:
                step_x, step_y, step_w = 1, 1, 1
            if self.window <= 25:
                with k.loop(0, inner) as c:
                    total: Any = None
                    for r in np.ndindex(*[a.window for a in self.axes]):
                        at_x = sum(p * a.dilation * s for p, a, s in zip(r, self.axes, x_strides[1:], strict=False))
                        at_w = sum(p * s for p, s in zip(r, w_strides, strict=False))
                        term = self._multiply(x[base_x + c * step_x + at_x], w[base_w + c * step_w + at_w])
                        total = term if total is None else self._add(total, term)
                    result[base_y + c * step_y] = total
                return
            with k.loop(0, inner, block) as begin:
                limit = begin + block
                end = (limit < inner).select(limit, inner)
                with k.loop(begin, end) as c:
                    result[base_y + c * step_y] = k.number(0, self.dtype)
                with k.loops(*[a.window for a in self.axes]) as r:
                    at_x, at_w = base_x, base_w
                    for i, (p, a) in enumerate(zip(r, self.axes, strict=True)):
                        at_x = at_x + p * (a.dilation * x_strides[1 + i])
                        at_w = at_w + p * w_strides[i]
                    with k.loop(begin, end) as c:
                        place = base_y + c * step_y
                        term = self._multiply(x[at_x + c * step_x], w[at_w + c * step_w])
                        result[place] = self._add(result[place], term)

    def _direct_columns(self, x: Buffer, w: Buffer, result: Buffer) -> None:
        """The filter gradient of a depthwise convolution: every feature by itself, side by side."""
        k, channels = self.k, self.batch
        x_strides = _strides((self.features, *[a.size for a in self.axes], channels))
        w_strides = _strides((self.fan_in, *[a.window for a in self.axes], channels))
        with k.loop(0, self.positions * channels) as e:
            result[e] = k.number(0, self.dtype)
        with k.loops(self.fan_in, *[a.window for a in self.axes]) as index:
            at_x, at_w = index[0] * x_strides[0], index[0] * w_strides[0]
            for i, (p, a) in enumerate(zip(index[1:], self.axes, strict=True)):
                at_x = at_x + p * (a.dilation * x_strides[1 + i])
                at_w = at_w + p * w_strides[1 + i]
            with k.loops(*[a.positions for a in self.axes]) as position:
                here, at_y = at_x, k.value(0, "i64")
                y_strides = _strides((*[a.positions for a in self.axes], channels))
                for p, a, s, t in zip(position, self.axes, x_strides[1:], y_strides, strict=False):
                    here, at_y = here + p * (a.stride * s), at_y + p * t
                with k.loop(0, channels) as c:
                    place = at_y + c
                    result[place] = self._add(result[place], self._multiply(x[here + c], w[at_w + c]))

    def _multiply(self, a: Any, b: Any) -> Any:
        return a & b if self.dtype.kind == "b" else a * b

    def _add(self, a: Any, b: Any) -> Any:
        return a | b if self.dtype.kind == "b" else a + b

    def _all_groups(self, x: Buffer, w: Buffer, result: Buffer) -> None:
        with self.k.loop(0, self.groups) as g:
            self._group(x, w, result, g if self.groups > 1 else self.k.value(0, "i64"))

    def _group(self, x: Buffer, w: Buffer, result: Buffer, g: Value) -> None:
        """The part of the result that one group of features (or of the batch) gives."""
        inner_total = self.batch if self.columns else self.features
        outer_total = self.features if self.columns else self.batch
        none = self.k.value(0, "i64")
        feature_offset = g * self.fan_in if self.feature_groups > 1 else none
        batch_offset = g * self.group_batch if self.batch_groups > 1 else none
        inner, outer = (self.group_batch, self.fan_in) if self.columns else (self.fan_in, self.group_batch)
        x_strides = _strides((outer_total, *[a.size for a in self.axes], inner_total))
        outer_offset, inner_offset = (feature_offset, batch_offset) if self.columns else (batch_offset, feature_offset)
        source = x.shifted(outer_offset * x_strides[0] + inner_offset)
        rows = self.group_batch * self.positions
        depth = self.fan_in * self.window
        # the result is (rows, fan_out); a batch group has rows of its own features only
        target = result.shifted(g * self.group_out)
        matrix = w.shifted(g * self.group_out)
        if inner == inner_total and self._needs_no_patches():
            self._product(source, matrix, target, rows, depth, False)
            return
        # t counts the outer dimension and the first spatial one: positions of the window for rows, its elements for columns
        firsts = [(a.window if self.columns else a.positions) for a in self.axes]
        others = [(a.positions if self.columns else a.window) for a in self.axes]
        head = firsts[0] if firsts else 1
        steps_total = outer * head
        width = prod(others) * inner
        rest = prod(firsts[1:])
        piece = max(1, min(steps_total, self.piece // max(1, rest * width)))
        # pieces of one size, where they need not be much smaller for that
        piece = next((p for p in range(piece, piece // 2, -1) if steps_total % p == 0), piece)
        patches = self.scratch.take(self.dtype, piece * rest * width)
        k = self.k
        with k.loop(0, steps_total, piece) as begin:
            limit = begin + piece
            end = (limit < steps_total).select(limit, steps_total) if steps_total % piece else limit
            with k.loop(begin, end) as t:
                n, p = (t // head, t % head) if head > 1 else (t, k.value(0, "i64"))
                self._fill_patches(source, patches, n, p, (t - begin) * (rest * width), x_strides, inner, width)
            count = (end - begin) * rest if steps_total % piece else k.value(piece * rest, "i64")
            if self.columns:
                at = begin * (rest * self.fan_out)
                self._product(patches, matrix.shifted(at), target, rows, count, begin, piece < steps_total)
            else:
                self._product(patches, matrix, target.shifted(begin * (rest * self.fan_out)), count, depth, False)

    def _needs_no_patches(self) -> bool:
        ones = all(a.window == 1 and a.stride == 1 and a.positions == a.size for a in self.axes)
        whole = all(a.positions == 1 and a.window == a.size and a.dilation == 1 for a in self.axes)
        return ones or whole

    def _fill_patches(
        self, x: Buffer, patches: Buffer, n: Value, p: Value, start: Value, x_strides: tuple[int, ...], inner: int, width: int
    ) -> None:
        """Copy the patches of one step: loops over the other first dimensions, then over the second ones, then inner elements."""
        k, axes = self.k, self.axes
        first_steps = [(a.dilation if self.columns else a.stride) * s for a, s in zip(axes, x_strides[1:], strict=False)]
        second_steps = [(a.stride if self.columns else a.dilation) * s for a, s in zip(axes, x_strides[1:], strict=False)]
        firsts = [(a.window if self.columns else a.positions) for a in axes][1:]
        seconds = [(a.positions if self.columns else a.window) for a in axes]
        base = n * x_strides[0]
        if axes:
            base = base + p * first_steps[0]
        # where elements of the window follow each other in memory they are copied together with the inner ones
        run = inner
        while seconds and (seconds[-1] == 1 or second_steps[-1] == run):
            run *= seconds.pop()
            second_steps.pop()
        first_strides = [s * width for s in _strides(firsts)]
        second_strides = [s * run for s in _strides(seconds)]
        with k.loops(*firsts, *seconds) as index:
            at_x, at_p = base, start
            steps = (*first_steps[1:], *second_steps)
            for i, sx, sp in zip(index, steps, (*first_strides, *second_strides), strict=True):
                at_x, at_p = at_x + i * sx, at_p + i * sp
            if run <= 8:
                for j in range(run):
                    patches[at_p + j] = x[at_x + j]
            else:
                with k.loop(0, run) as e:
                    patches[at_p + e] = x[at_x + e]

    def _product(self, a: Buffer, b: Buffer, c: Buffer, rows: Any, depth: Any, accumulate: Any, pieces: bool = False) -> None:
        """c (rows x group_out, in rows of fan_out) = a b; a is (rows, depth), or (depth, rows) for columns.

        accumulate: False, or the number of the step, of which only the first (0) overwrites c when there are several `pieces`.
        """
        k, dtype = self.k, self.dtype
        rows, depth = k.value(rows, "i64"), k.value(depth, "i64")
        first = None if accumulate is False or not pieces else accumulate.eq(0)
        if dtype.kind in "iub":
            self._product_loops(a, b, c, rows, depth, first)
            return
        if not self.columns and rows.known is not None and depth.known is not None:
            sizes = (rows.known, depth.known, self.group_out)
            if applies(dtype, sizes):
                self._product_tiles(a, b, c, Tiles(dtype, sizes, (depth.known, 1), (self.fan_out, 1), self.fan_out))
                return

        def integer(value: Any) -> Value:
            return k.by_reference(value.cast("i32") if isinstance(value, Value) else value, np.int32)

        def letter(c: str) -> Value:
            return k.by_reference(ord(c), np.int8)

        alpha = k.by_reference(1.0, dtype)
        zero, one = k.number(0.0, dtype), k.number(1.0, dtype)
        beta = k.by_reference(zero if first is None else first.select(zero, one), dtype)
        lead = integer(self.fan_out)
        # by columns BLAS sees the transposes: c^T = b^T a^T
        arguments = [letter("N"), letter("T" if self.columns else "N"), integer(self.group_out), integer(rows), integer(depth)]
        arguments += [alpha, b.pointer, lead, a.pointer, integer(rows if self.columns else depth), beta, c.pointer, lead]
        k.call(blas_symbol("gemm", dtype), arguments)

    def _product_tiles(self, a: Buffer, b: Buffer, c: Buffer, t: Tiles) -> None:
        k = self.k
        self.helpers.update((helper.name, helper) for helper in t.kernels())
        numbers = [k.value(x, "i64") for x in (0, t.panels, 0, t.tiles, *t.numbers)]
        k.line(f"call void @{t.name}({', '.join(map(repr, (a.pointer, b.pointer, c.pointer, *numbers)))})")

    def _product_loops(self, a: Buffer, b: Buffer, c: Buffer, rows: Value, depth: Value, first: Value | None) -> None:
        k = self.k
        zero = k.number(0, self.dtype)
        fresh = k.value(1, "i1") if first is None else first
        with k.if_(fresh), k.loop(0, rows) as i, k.loop(0, self.group_out) as j:
            c[i * self.fan_out + j] = zero
        with k.loop(0, rows) as i, k.loop(0, depth) as d:
            factor = a[d * rows + i] if self.columns else a[i * depth + d]
            with k.loop(0, self.group_out) as j:
                place = i * self.fan_out + j
                c[place] = self._add(c[place], self._multiply(factor, b[d * self.fan_out + j]))


_by_routine = lower_by(conv_routine)


def lower_convolution(ctx: Any, eqn: Any) -> None:
    if not lower_directly(ctx, eqn):
        _by_routine(ctx, eqn)


conv_general_dilated_p.define(lower=lower_convolution)
