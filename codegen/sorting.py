"""Native sorting: a radix sort of order-preserving integer keys that carry the positions of their elements.

A key is mapped to an unsigned integer whose order is the order wanted (floats: sign handled, -0.0 made 0.0, NaN made the
largest; descending for `top_k`: inverted). Short rows are sorted by insertion; long ones by stable counting passes from the least
significant digit, where a pass in which all keys share a digit is left out. Sorting by several keys sorts by the last one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tracegrad.codegen.kernel import Buffer, Kernel, Value, compute_type
from tracegrad.codegen.library import Routine, lower_by
from tracegrad.ir.sorting import sort_p, top_k_p
from tracegrad.ir.types import ArrayType

INSERTION = 24
"""Rows up to this length are sorted by insertion."""
SELECTION = 64
"""Up to this many largest elements are selected in one pass over the row; more are taken from a full sort."""

_I32, _I64 = np.dtype(np.int32), np.dtype(np.int64)
_U32, _U64 = np.dtype(np.uint32), np.dtype(np.uint64)


def _key_dtype(dtype: np.dtype) -> np.dtype:
    return _U64 if dtype.itemsize == 8 and dtype.kind != "c" or dtype == np.complex128 else _U32


def _key_bits(dtype: np.dtype) -> int:
    """How many low bits of a key can differ."""
    if dtype.kind == "b":
        return 1
    if dtype.kind in "iu":
        return dtype.itemsize * 8
    return 64 if _key_dtype(dtype) == _U64 else 32


def _constant(k: Kernel, bits: int, word: str) -> Value:
    """A constant with these bits, which LLVM reads as a signed number."""
    width = int(word[1:])
    return k.value(bits - (1 << width) if bits >> (width - 1) else bits, word)


def encode(k: Kernel, x: Value, dtype: np.dtype, equal_zeros: bool = True) -> Value:
    """The key of an element: an unsigned i32 or i64. Without `equal_zeros` -0.0 is less than 0.0."""
    word = compute_type(_key_dtype(dtype))
    if dtype.kind in "bu":
        return x.cast(word, signed=False)
    if dtype.kind == "i":
        # flip the sign bit of the narrow type, so that its keys stay narrow
        return (x ^ _constant(k, 1 << (dtype.itemsize * 8 - 1), x.type)).cast(word, signed=False)
    bits = x.bits(word)
    sign = _constant(k, 1 << (int(word[1:]) - 1), word)
    key = (bits < 0).select(~bits, bits | sign)
    if equal_zeros:
        key = x.eq(0.0).select(sign, key)
    return x.isnan().select(k.value(-1, word), key)


def encode_descending(k: Kernel, x: Value, dtype: np.dtype) -> Value:
    """The key for a descending order, in which NaN comes first and 0.0 before -0.0."""
    key = encode(k, x, dtype, equal_zeros=False)
    return key ^ _constant(k, (1 << _key_bits(dtype)) - 1, key.type)


def decode(k: Kernel, key: Value, dtype: np.dtype) -> Value:
    """The element of a key that `encode` made without `equal_zeros`."""
    if dtype.kind in "bu":
        return key.cast(compute_type(dtype), signed=False)
    if dtype.kind == "i":
        narrow = key.cast(compute_type(dtype), signed=False)
        return narrow ^ _constant(k, 1 << (dtype.itemsize * 8 - 1), narrow.type)
    sign = _constant(k, 1 << (int(key.type[1:]) - 1), key.type)
    bits = (key < 0).select(key ^ sign, ~key)
    value = bits.bits("float" if key.type == "i32" else "double")
    return key.eq(-1).select(k.value(np.nan, value.type), value)


def _computed(dtype: np.dtype) -> np.dtype:
    """The dtype that elements (one part of them, if complex) are computed in."""
    known: dict[str, np.dtype] = {"float": np.dtype(np.float32), "double": np.dtype(np.float64)}
    return known.get(compute_type(dtype), dtype)


def _part(x: Any, imaginary: bool) -> Value:
    return x.im if imaginary else x.re


def _kernel_name(key_dtype: np.dtype, n: int, bits: int, payload: bool) -> str:
    return f"tg_radix_{key_dtype}_{n}_{bits}_{int(payload)}"


def sort_rows_kernel(key_dtype: np.dtype, n: int, bits: int, payload: bool = True) -> tuple[Kernel, int]:
    """A kernel that sorts keys in place, stably, with a payload of int32 (or int64) positions. And its scratch bytes."""
    index = _I32 if n < 2**31 else _I64
    digit = 8 if n < 2048 else 11
    passes = -(-bits // digit)
    position = compute_type(index)
    k = Kernel(_kernel_name(key_dtype, n, bits, payload), {"keys": "ptr", "order": "ptr", "scratch": "ptr"})
    keys, order = k.array(k["keys"], key_dtype), k.array(k["order"], index)
    if n <= INSERTION:
        with k.loop(1, n) as i:
            key, item = keys[i], order[i] if payload else None
            place = k.var("i64", i)
            searching = k.var("i1", 1)
            with k.while_(searching.get):
                p = place.get()

                def move(p: Value = p, key: Value = key) -> None:
                    before = keys[p - 1]

                    def shift(p: Value = p, before: Value = before) -> None:
                        keys[p] = before
                        if payload:
                            order[p] = order[p - 1]
                        place.set(p - 1)

                    k.if_else(before.ugt(key), shift, lambda: searching.set(0))

                k.if_else(p > 0, move, lambda: searching.set(0))
            keys[place.get()] = key
            if payload:
                order[place.get()] = item
        return k, 0
    buckets = 1 << digit
    other_keys = k.array(k["scratch"], key_dtype)
    key_bytes = -(-n * key_dtype.itemsize // 64) * 64
    other_order = k.array(k.offset(k["scratch"], key_bytes), index)
    order_bytes = -(-n * index.itemsize // 64) * 64
    counts = k.array(k.offset(k["scratch"], key_bytes + order_bytes), _I32 if n < 2**31 else _I64, (buckets, 1))
    count_bytes = passes * buckets * (4 if n < 2**31 else 8)
    # all histograms in one reading of the keys
    k.memset(counts.pointer, 0, count_bytes)
    with k.loop(0, n, vectorize=False) as i:
        key = keys[i]
        for p in range(passes):
            d = ((key >> (p * digit)) & (buckets - 1)).cast("i64", signed=False)
            counts[p, d] = counts[p, d] + 1
    source_keys, source_order = k.var("ptr"), k.var("ptr")
    target_keys, target_order = k.var("ptr"), k.var("ptr")
    for variable, value in (
        (source_keys, k["keys"]),
        (source_order, k["order"]),
        (target_keys, other_keys.pointer),
        (target_order, other_order.pointer),
    ):
        variable.set(value)
    for p in range(passes):
        first = ((keys[0] >> (p * digit)) & (buckets - 1)).cast("i64", signed=False)
        with k.if_(counts[p, first].ne(n)):
            total = k.var(position, 0)
            with k.loop(0, buckets, vectorize=False) as d:
                count = counts[p, d]
                counts[p, d] = total.get()
                total.add(count)
            sk, so = k.array(source_keys.get(), key_dtype), k.array(source_order.get(), index)
            tk, to = k.array(target_keys.get(), key_dtype), k.array(target_order.get(), index)
            with k.loop(0, n) as i:
                key = sk[i]
                d = ((key >> (p * digit)) & (buckets - 1)).cast("i64", signed=False)
                place = counts[p, d]
                counts[p, d] = place + 1
                place = place.cast("i64")
                tk[place] = key
                if payload:
                    to[place] = so[i]
            source_keys.set(tk.pointer)
            source_order.set(to.pointer)
            target_keys.set(sk.pointer)
            target_order.set(so.pointer)
    moved = k.emit("i1", f"icmp ne ptr {source_keys.get().ref}, {k['keys'].ref}")
    with k.if_(moved):
        k.memcpy(k["keys"], source_keys.get(), n * key_dtype.itemsize)
        if payload:
            k.memcpy(k["order"], source_order.get(), n * index.itemsize)
    return k, key_bytes + order_bytes + count_bytes


def _call_sort(
    k: Kernel, helpers: dict[str, Kernel], key_dtype: np.dtype, n: int, bits: int, arguments: list[Value], payload: bool = True
) -> int:
    """Call the kernel that sorts such rows; the scratch bytes that it needs."""
    name = _kernel_name(key_dtype, n, bits, payload)
    helper, scratch = sort_rows_kernel(key_dtype, n, bits, payload)
    helpers[name] = helper
    k.line(f"call void @{name}({', '.join(map(repr, arguments))})")
    return scratch


def _round(n: int) -> int:
    return -(-n // 64) * 64


def _sort_alone(x: ArrayType, dimension: int) -> Routine:
    """Sort values that carry nothing: keys are sorted without positions and turned back into values."""
    n, dtype = x.shape[dimension], x.dtype
    outer, inner = prod(x.shape[:dimension]), prod(x.shape[dimension + 1 :])
    k = Kernel(
        f"tg_sort_{dtype}_{outer}_{n}_{inner}",
        {"in0": "ptr", "out0": "ptr", "scratch": "ptr"},
        noalias=("in0", "out0", "scratch"),
    )
    computed, kd, bits = _computed(dtype), _key_dtype(dtype), _key_bits(dtype)
    row, work = k.array(k["scratch"], kd), k.offset(k["scratch"], _round(n * 8))
    helpers: dict[str, Kernel] = {}
    scratch = 0
    with k.loops(outer, inner) as (o, i):
        position = o * (n * inner) + i
        source = k.array(k["in0"], dtype).shifted(position, (inner,))
        target = k.array(k["out0"], dtype).shifted(position, (inner,))
        negative_zeros = k.var("i64", 0)
        with k.loop(0, n) as e:
            key = encode(k, source[e], computed, equal_zeros=False)
            row[e] = key
            if computed.kind == "f":
                negative_zeros.add(key.eq(_constant(k, (1 << (bits - 1)) - 1, key.type)).cast("i64"))
        scratch = _call_sort(k, helpers, kd, n, bits, [row.pointer, row.pointer, work], payload=False)
        with k.loop(0, n) as e:
            target[e] = decode(k, row[e], computed)
        if computed.kind == "f":
            # -0.0 and 0.0 are equal: where there are both they keep their order
            with k.if_(negative_zeros.get() > 0):
                place = k.var("i64", 0)
                with k.while_(
                    lambda: (place.get() < n).select(target[(place.get() < n).select(place.get(), 0)].ne(0.0), k.value(0, "i1"))
                ):
                    place.add(1)
                with k.loop(0, n) as e:
                    value = source[e]
                    with k.if_(value.eq(0.0)):
                        target[place.get()] = value
                        place.add(1)
    return Routine(k, _round(n * 8) + scratch, tuple(helpers.values()))


def sort_routine(*operands: ArrayType, dimension: int, is_stable: bool, num_keys: int) -> Routine:
    first = operands[0]
    if len(operands) == 1 and first.dtype.kind != "c":
        return _sort_alone(first, dimension)
    n = first.shape[dimension]
    outer, inner = prod(first.shape[:dimension]), prod(first.shape[dimension + 1 :])
    count = len(operands)
    tag = "_".join(str(t.dtype) for t in operands) + f"_{outer}_{n}_{inner}_{num_keys}"
    params = {f"in{i}": "ptr" for i in range(count)} | {f"out{i}": "ptr" for i in range(count)} | {"scratch": "ptr"}
    k = Kernel(f"tg_sort_{tag}", params, noalias=tuple(params))
    index = _I32 if n < 2**31 else _I64
    key_bytes, order_bytes = _round(n * 8), _round(n * index.itemsize)
    order = k.array(k.offset(k["scratch"], key_bytes), index)
    work = k.offset(k["scratch"], key_bytes + order_bytes)
    # complex keys are two keys: the real part is the more significant one
    keys = [(j, part) for j in range(num_keys) for part in ((False, True) if operands[j].dtype.kind == "c" else (False,))]
    helpers: dict[str, Kernel] = {}
    scratch = 0
    with k.loops(outer, inner) as (o, i):
        position = o * (n * inner) + i
        ins = [k.array(k[f"in{j}"], t.dtype).shifted(position, (inner,)) for j, t in enumerate(operands)]
        outs = [k.array(k[f"out{j}"], t.dtype).shifted(position, (inner,)) for j, t in enumerate(operands)]
        with k.loop(0, n) as e:
            order[e] = e.cast(compute_type(index))
        for step, (j, imaginary) in enumerate(reversed(keys)):
            dtype = operands[j].dtype
            kd, bits = _key_dtype(dtype), _key_bits(dtype)
            row = k.array(k["scratch"], kd)
            with k.loop(0, n) as e:
                place = e if step == 0 else order[e].cast("i64")
                row[e] = encode(k, _part(ins[j][place], imaginary), _computed(dtype))
            scratch = max(scratch, _call_sort(k, helpers, kd, n, bits, [row.pointer, order.pointer, work]))
        with k.loop(0, n, vectorize=False) as e:
            place = order[e].cast("i64")
            for source, target in zip(ins, outs, strict=True):
                target[e] = source[place]
    return Routine(k, key_bytes + order_bytes + scratch, tuple(helpers.values()))


def top_k_routine(x: ArrayType, *, k: int) -> Routine:
    count, dtype, n = k, x.dtype, x.shape[-1]
    rows = prod(x.shape[:-1])
    params = {"in0": "ptr", "out0": "ptr", "out1": "ptr", "scratch": "ptr"}
    k_ = Kernel(f"tg_top_k_{dtype}_{rows}_{n}_{count}", params, noalias=tuple(params))
    kd, bits = _key_dtype(dtype), _key_bits(dtype)
    computed = _computed(dtype)
    helpers: dict[str, Kernel] = {}
    scratch = 0
    with k_.loop(0, rows if count else 0) as r:
        row = k_.array(k_["in0"], dtype).shifted(r * n)
        values = k_.array(k_["out0"], dtype).shifted(r * count)
        indices = k_.array(k_["out1"], _I32).shifted(r * count)
        if 0 < count <= SELECTION and count < n:
            scratch = _select_largest(k_, row, values, indices, n, count, kd, computed)
        else:
            keys = k_.array(k_["scratch"], kd)
            order = k_.array(k_.offset(k_["scratch"], _round(n * 8)), _I32)
            work = k_.offset(k_["scratch"], _round(n * 8) + _round(n * 4))
            with k_.loop(0, n) as e:
                order[e] = e.cast("i32")
                keys[e] = encode_descending(k_, row[e], computed)
            scratch = _round(n * 8) + _round(n * 4)
            scratch += _call_sort(k_, helpers, kd, n, bits, [keys.pointer, order.pointer, work])
            with k_.loop(0, count) as e:
                place = order[e]
                indices[e] = place
                values[e] = row[place.cast("i64")]
    return Routine(k_, scratch, tuple(helpers.values()))


def _select_largest(
    k: Kernel, row: Buffer, values: Buffer, indices: Buffer, n: int, count: int, key_dtype: np.dtype, computed: np.dtype
) -> int:
    """One pass that keeps the best so far in order; an element that is no better than the worst of them costs a comparison."""
    best = k.array(k["scratch"], key_dtype)
    last = count - 1
    held = k.var("i64", 0)
    with k.loop(0, n) as e:
        key = encode_descending(k, row[e], computed)
        full = held.get().eq(count)
        enters = ~full | key.ult(best[last])
        with k.if_(enters):
            place = k.var("i64", full.select(k.value(last, "i64"), held.get()))
            searching = k.var("i1", 1)
            with k.while_(searching.get):
                p = place.get()

                def move(p: Value = p, key: Value = key, place: Any = place, searching: Any = searching) -> None:
                    before = best[p - 1]

                    def shift() -> None:
                        best[p] = before
                        indices[p] = indices[p - 1]
                        place.set(p - 1)

                    k.if_else(before.ugt(key), shift, lambda: searching.set(0))

                k.if_else(p > 0, move, lambda s=searching: s.set(0))  # type: ignore[misc]
            best[place.get()] = key
            indices[place.get()] = e.cast("i32")
            held.set(full.select(held.get(), held.get() + 1))
    with k.loop(0, count) as e:
        values[e] = row[indices[e].cast("i64")]
    return _round(count * 8)


def _work(types: Sequence[ArrayType]) -> float:
    return 10 * sum([t.size for t in types])


def _lower_sort(ctx: Any, eqn: Any) -> None:
    core = len(eqn.inputs[0].type.shape) - eqn.params["dimension"]

    def make(*operands: ArrayType, **params: Any) -> Routine:
        return sort_routine(*operands, **{**params, "dimension": len(operands[0].shape) - core})

    lower_by(make, core, _work)(ctx, eqn)


sort_p.define(lower=_lower_sort)
top_k_p.define(lower=lower_by(top_k_routine, 1, _work))
