"""Compiled programs equal their evaluation: fusion, memory, control flow, forms of values, corners of dtypes and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import check, execute, loops, staged
from tracegrad.codegen.compile import compile_program, prepare
from tracegrad.ir import ops
from tracegrad.ir.config import config
from tracegrad.ir.types import bfloat16
from tracegrad.tracer.control_flow import cond, fori_loop, scan, switch, while_loop

RNG = np.random.default_rng(0)
DTYPES = [np.float32, np.float64, np.float16, bfloat16, np.int32, np.int8, np.uint16, np.complex64, np.complex128]


@pytest.fixture(autouse=True)
def _wide_types() -> Iterator[None]:
    with config.override("enable_x64", True):
        yield


def draw(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    dtype = np.dtype(dtype)
    x = RNG.normal(size=shape) * 2
    if dtype.kind == "c":
        x = x + 1j * RNG.normal(size=shape)
    elif dtype.kind in "iu":
        x = np.abs(x * 3) if dtype.kind == "u" else x * 3
    return np.asarray(x).astype(dtype)


# ------------------------------------------------------------------------------------------------------------- shapes and forms

SHAPES = [(), (1,), (3,), (4, 4), (7, 9), (64,), (5, 1, 6), (40, 3), (3, 40), (2, 3, 4, 5), (1000,), (0,), (3, 0), (4100, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_elementwise_chains_of_every_size(shape: tuple[int, ...]) -> None:
    def f(x: Any, y: Any) -> Any:
        a = ops.exp(ops.mul(x, 0.1))
        return [ops.add(a, y), ops.mul(a, a), ops.select(ops.lt(x, y), x, y)]

    check(f, draw(*shape), draw(*shape))


@pytest.mark.parametrize("shape", [s for s in SHAPES if s], ids=str)
def test_sums_and_maxima_over_every_axis(shape: tuple[int, ...]) -> None:
    def f(x: Any) -> Any:
        outs = []
        for axes in [(0,), (len(shape) - 1,), tuple(range(len(shape))), ()]:
            outs += [ops.reduce_sum(x, axes), ops.reduce_max(x, axes)]
        return outs

    check(f, draw(*shape))


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 4), (20, 30, 17), (6, 40, 2), (50, 1, 33), (2, 9000, 1)], ids=str)
def test_reductions_share_a_nest_with_what_they_read(axes: tuple[int, ...], shape: tuple[int, ...]) -> None:
    def f(x: Any) -> Any:
        y = ops.sin(x)
        return [ops.reduce_sum(y, axes), y, ops.reduce_sum(ops.mul(y, x), axes), ops.reduce_min(x, axes)]

    check(f, draw(*shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_arithmetic_and_reductions_of_every_dtype(dtype: Any) -> None:
    def f(x: Any, y: Any) -> Any:
        outs = [ops.add(x, y), ops.mul(ops.sub(x, y), x), ops.reduce_sum(x, (0,)), ops.reduce_sum(x, (1,)), ops.neg(x)]
        return [*outs, ops.eq(x, y), ops.transpose(x, (1, 0))]

    for shape in ((3, 2), (33, 21)):
        check(f, draw(*shape, dtype=dtype), draw(*shape, dtype=dtype), tolerance=0.1 if np.dtype(dtype).itemsize == 2 else None)


def test_booleans_are_bytes_in_memory_and_bits_in_registers() -> None:
    def f(x: Any, y: Any) -> Any:
        p, q = ops.lt(x, y), ops.gt(x, 0.5)
        return [
            p,
            ops.bitwise_and(p, q),
            ops.reduce_or(p, (0,)),
            ops.reduce_and(q, (0, 1)),
            ops.convert_element_type(p, np.int32),
        ]

    check(f, draw(4, 5), draw(4, 5))
    check(f, draw(40, 50), draw(40, 50))


def test_long_chains_are_cut() -> None:
    def f(x: Any) -> Any:
        y = x
        for _ in range(700):
            y = ops.sin(ops.add(y, x))
        return [y]

    check(f, draw(30, 11))
    check(f, draw(3))


def test_large_unrolled_programs_fall_back_to_loops() -> None:
    def f(x: Any) -> Any:
        y = x
        for k in range(120):
            y = ops.dot_general(y, ops.sin(ops.mul(x, float(k % 7))), (((1,), (0,)), ((), ())))
            y = ops.div(y, ops.add(ops.reduce_max(ops.abs(y), (0, 1)), 1.0))
        return [y]

    compiled = check(f, draw(4, 4))
    assert len(compiled.object_code) < 2_000_000


def test_zero_sizes_everywhere() -> None:
    def f(x: Any) -> Any:
        joined = ops.concatenate([x, x], 0)
        total = ops.reduce_sum(x, (1,))
        product = ops.dot_general(x, ops.transpose(x, (1, 0)), (((1,), (0,)), ((), ())))
        return [joined, total, product, ops.reduce_max(x, (0, 1)), ops.pad(x, 1.0, ((0, 0, 0), (1, 1, 0)))]

    check(f, draw(3, 0))
    check(f, draw(0, 4))


# ------------------------------------------------------------------------------------------------------------------ structure


def test_structural_operations_compose() -> None:
    def f(x: Any) -> Any:
        y = ops.transpose(ops.sin(x), (2, 0, 1))
        z = ops.slice(y, (1, 0, 1), (5, 4, 6), (2, 1, 1))
        w = ops.reshape(ops.rev(z, (1,)), (2, 20))
        v = ops.concatenate([w, ops.mul(w, 2.0)], 0)
        u = ops.pad(v, 7.0, ((1, 0, 0), (2, -1, 1)))
        return [y, z, w, v, u, ops.broadcast_in_dim(w, (3, 2, 20), (1, 2))]

    check(f, draw(4, 6, 5))


@pytest.mark.parametrize("shape", [(3, 3), (12, 17)], ids=str)
def test_iota_broadcast_and_diagonals(shape: tuple[int, ...]) -> None:
    def f(x: Any) -> Any:
        rows = ops.broadcasted_iota(np.int32, shape, 0)
        columns = ops.broadcast_in_dim(ops.iota(np.int32, shape[1]), shape, (1,))
        eye = ops.convert_element_type(ops.eq(rows, columns), x.dtype)
        return [eye, ops.mul(x, eye), ops.select(ops.ge(rows, columns), x, ops.mul(x, 0.0)), ops.add(rows, columns)]

    check(f, draw(*shape))


@pytest.mark.parametrize("config", [((1, 1, 0), (0, 0, 0)), ((-1, 2, 0), (3, -2, 1)), ((0, 0, 2), (2, 2, 0))], ids=str)
def test_pads_inside_expressions(config: Any) -> None:
    def f(x: Any) -> Any:
        y = ops.pad(ops.exp(x), 0.5, config)
        return [ops.add(y, 1.0), ops.reduce_sum(y, (0,)), ops.reduce_sum(y, (1,))]

    check(f, draw(9, 14))
    check(f, draw(3, 4))


def test_softmax_and_layer_norm() -> None:
    def f(x: Any) -> Any:
        n = x.shape[-1]
        top = ops.broadcast_in_dim(ops.reduce_max(x, (1,)), x.shape, (0,))
        e = ops.exp(ops.sub(x, top))
        soft = ops.div(e, ops.broadcast_in_dim(ops.reduce_sum(e, (1,)), x.shape, (0,)))
        mean = ops.div(ops.reduce_sum(x, (1,)), float(n))
        centred = ops.sub(x, ops.broadcast_in_dim(mean, x.shape, (0,)))
        var = ops.div(ops.reduce_sum(ops.square(centred), (1,)), float(n))
        norm = ops.mul(centred, ops.broadcast_in_dim(ops.rsqrt(ops.add(var, 1e-5)), x.shape, (0,)))
        return [soft, norm]

    check(f, draw(13, 45))
    check(f, draw(5, 3))


# ------------------------------------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("m,k,n", [(2, 3, 4), (1, 30, 7), (9, 17, 1), (30, 40, 50), (64, 64, 64), (1, 300, 300), (300, 300, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_products_of_every_size_and_layout(m: int, k: int, n: int, turned: bool) -> None:
    def f(x: Any, y: Any) -> Any:
        dims = (((0,), (1,)), ((), ())) if turned else (((1,), (0,)), ((), ()))
        p = ops.dot_general(ops.mul(x, 2.0), y, dims)
        return [ops.add(p, 1.0), ops.dot_general(x, y, dims)]

    shapes = ((k, m), (n, k)) if turned else ((m, k), (k, n))
    check(f, draw(*shapes[0]), draw(*shapes[1]))


# --------------------------------------------------------------------------------------------------------------- control flow


@pytest.mark.parametrize("n", [3, 16, 200])
def test_scan_with_carries_of_every_size(n: int) -> None:
    def f(x: Any, xs: Any) -> Any:
        def step(c: Any, s: Any) -> Any:
            a, b = c
            a, b = ops.add(ops.mul(a, 0.5), s), ops.sin(ops.add(a, b))
            return (a, b), (ops.mul(a, b), ops.reduce_sum(b, (0,)))

        (a, b), (ys, sums) = scan(step, (x, ops.mul(x, 2.0)), xs)
        back, _ = scan(step, (a, b), xs, reverse=True)
        return [a, b, ys, sums, *back]

    check(f, draw(n), draw(11, n))


@pytest.mark.parametrize("n", [2, 30])
def test_carries_that_trade_places(n: int) -> None:
    def f(x: Any, y: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            a, b, r = c
            return (b, a, ops.rev(ops.add(r, a), (0,))), a

        return [*scan(step, (x, y, x), None, length=5)[0], scan(step, (x, y, x), None, length=5)[1]]

    check(f, draw(n), draw(n))


def test_a_carry_read_out_of_place_is_not_overwritten_early() -> None:
    def f(x: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            left = ops.concatenate([ops.slice(c, (1,), (100,)), ops.slice(c, (0,), (1,))], 0)
            return ops.add(ops.mul(c, 0.5), ops.mul(left, 0.25)), ops.slice(c, (3,), (5,))

        c, ys = scan(step, x, None, length=7)
        return [c, ys]

    check(f, draw(100))


def test_two_carries_that_read_each_other() -> None:
    def f(x: Any, v: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            x, v = c
            force = ops.sub(0.0, ops.mul(x, ops.broadcast_in_dim(ops.reduce_sum(ops.square(x), (0,)), (50,), ())))
            v = ops.add(v, ops.mul(force, 0.001))
            return (ops.add(x, ops.mul(v, 0.01)), v), ops.reduce_max(x, (0,))

        (x, v), ys = scan(step, (x, v), None, length=9)
        return [x, v, ys]

    check(f, draw(50), draw(50))


def test_updates_in_loops_are_in_place_and_right() -> None:
    def f(x: Any) -> Any:
        def body(i: Any, s: Any) -> Any:
            value, out = s
            value = ops.mul(ops.mul(value, 3.9), ops.sub(1.0, value))
            return value, ops.dynamic_update_slice(out, ops.reshape(value, (1,)), (i,))

        return list(fori_loop(0, 500, body, (x, ops.broadcast_in_dim(np.float64(0), (500,), ()))))

    check(f, np.float64(0.3) + np.zeros(()), tolerance=1e-6)


def test_the_old_value_survives_when_it_is_still_needed() -> None:
    def f(x: Any) -> Any:
        new = ops.dynamic_update_slice(x, ops.slice(ops.neg(x), (0,), (5,)), (np.int32(90),))
        y = ops.mul(x, 3.0)
        z = ops.dynamic_update_slice(y, ops.slice(x, (10,), (40,)), (np.int32(2),))
        w = ops.dynamic_update_slice(z, ops.slice(z, (0,), (50,)), (np.int32(25),))
        return [new, ops.add(y, z), w, ops.sub(x, w)]

    check(f, draw(100))


@pytest.mark.parametrize("n", [3, 5, 40])
def test_rows_of_a_carry_rotate(n: int) -> None:
    def f(x: Any) -> Any:
        def step(c: Any, i: Any) -> Any:
            row = ops.reshape(ops.dynamic_slice(c, (i, np.int32(0)), (1, n)), (n,))
            row = ops.concatenate([ops.slice(row, (1,), (n,)), ops.slice(row, (0,), (1,))], 0)
            return ops.dynamic_update_slice(c, ops.reshape(ops.sin(row), (1, n)), (i, np.int32(0))), row

        c, ys = scan(step, x, ops.rem(ops.iota(np.int32, 9), np.int32(4)))
        return [c, ys]

    check(f, draw(4, n))


@pytest.mark.parametrize("n", [2, 50])
def test_while_with_scalars_and_arrays(n: int) -> None:
    def f(x: Any) -> Any:
        def test(s: Any) -> Any:
            return ops.bitwise_and(ops.lt(s[0], np.int32(20)), ops.lt(ops.reduce_sum(s[1], (0,)), 100.0))

        def step(s: Any) -> Any:
            return ops.add(s[0], np.int32(1)), ops.mul(s[1], 1.1), ops.add(s[2], s[1])

        return list(while_loop(test, step, (np.int32(0), ops.abs(x), x)))

    check(f, draw(n))


@pytest.mark.parametrize("n", [1, 3, 60])
def test_branches_choose_and_clamp_their_index(n: int) -> None:
    def f(i: Any, x: Any) -> Any:
        y = ops.mul(x, 2.0)
        a = switch(i, [lambda x, y: (x, y), lambda x, y: (ops.sin(y), x), lambda x, y: (ops.add(x, y), ops.mul(x, y))], x, y)
        b = cond(ops.gt(i, np.int32(0)), lambda x: ops.exp(x), lambda x: ops.mul(x, 0.5), x)
        return [*a, b]

    for i in (-3, 0, 1, 2, 9):
        check(f, np.asarray(i, np.int32), draw(n))


def test_a_branch_updates_in_place_inside_a_loop() -> None:
    def f(x: Any) -> Any:
        def step(c: Any, i: Any) -> Any:
            put = lambda c: ops.dynamic_update_slice(c, ops.reshape(ops.convert_element_type(i, np.float64), (1,)), (i,))
            return cond(ops.eq(ops.rem(i, np.int32(3)), np.int32(0)), put, lambda c: c, c), None

        return [scan(step, x, ops.iota(np.int32, 60))[0]]

    compiled = check(f, draw(60))
    assert compiled.arena_size == 0


def test_nested_scans_and_loops_over_slices() -> None:
    def f(x: Any, xs: Any) -> Any:
        def inner(c: Any, s: Any) -> Any:
            return ops.add(ops.mul(c, 0.9), s), ops.reduce_max(c, (0,))

        def outer(c: Any, rows: Any) -> Any:
            c, tops = scan(inner, c, rows)
            d = fori_loop(0, 3, lambda i, d: ops.add(d, ops.sin(c)), c)
            return d, (tops, c)

        c, (tops, cs) = scan(outer, x, xs)
        return [c, tops, cs]

    for n in (3, 20):
        check(f, draw(n), draw(4, 5, n))


def test_scan_of_length_zero_and_one() -> None:
    def f(x: Any, xs: Any) -> Any:
        c, ys = scan(lambda c, s: (ops.add(c, s), ops.mul(c, s)), x, xs)
        return [c, ys]

    for length in (0, 1):
        check(f, draw(20), draw(length, 20))


# ------------------------------------------------------------------------------------------------------------------- indexing


@pytest.mark.parametrize("n", [4, 30])
@pytest.mark.parametrize("mode", ["clip", "fill", "promise_in_bounds"])
def test_gather_rows_and_elements(n: int, mode: str) -> None:
    def f(x: Any, i: Any) -> Any:
        rows = ops.gather(
            ops.sin(x),
            i,
            offset_dims=(1,),
            collapsed_slice_dims=(0,),
            start_index_map=(0,),
            slice_sizes=(1, 3),
            mode=mode,
        )
        return [rows, ops.reduce_sum(rows, (0,))]

    indices = np.array([[0], [n - 1], [1]] if mode == "promise_in_bounds" else [[0], [-2], [n + 3], [n - 1]], np.int32)
    check(f, draw(n, 3), indices)


@pytest.mark.parametrize("kind", ["set", "add", "mul", "min", "max"])
def test_scatter_of_every_kind(kind: str) -> None:
    def f(x: Any, i: Any, u: Any) -> Any:
        scattered = ops.scatter(
            ops.mul(x, 1.5),
            i,
            u,
            kind=kind,
            update_window_dims=(1,),
            inserted_window_dims=(0,),
            scatter_dims_to_operand_dims=(0,),
            mode="drop",
        )
        return [scattered, ops.reduce_sum(scattered, (0, 1))]

    indices = np.array([[1], [5], [1], [-1], [99], [0]], np.int64)
    check(f, draw(7, 5), indices, draw(6, 5))


def test_programs_named_like_library_functions() -> None:
    x = draw(30)
    for name in ("sin", "exp", "memcpy", "main", "a b-c"):
        program = staged(lambda x: [ops.sin(x)], x, name=name)
        np.testing.assert_allclose(execute(compile_program(program, name), x)[0], np.sin(x), rtol=1e-13)


def test_values_shared_between_nests_of_different_shapes() -> None:
    def f(x: Any, y: Any) -> Any:
        z = ops.tanh(x)
        total = ops.reduce_sum(z, (0, 1))
        scaled = ops.div(z, total)
        columns = ops.reduce_sum(scaled, (0,))
        spread = ops.sub(scaled, ops.broadcast_in_dim(columns, x.shape, (1,)))
        joined = ops.concatenate([spread, y], 0)
        return [joined, ops.reduce_max(spread, (1,)), total, ops.mul(z, y)]

    check(f, draw(12, 19), draw(12, 19))


@pytest.mark.parametrize("reverse", [False, True])
def test_products_that_a_scan_sums_are_one_product_after_it(reverse: bool) -> None:
    def f(w: Any, h: Any, xs: Any) -> Any:
        def step(c: Any, x: Any) -> Any:
            total, h, other = c
            g = ops.tanh(ops.add(h, x))
            outer = ops.dot_general(x, g, (((), ()), ((), ())))
            return (ops.add(total, outer), g, ops.add(ops.dot_general(g, g, (((), ()), ((), ()))), other)), ops.reduce_sum(
                g, (0,)
            )

        (total, h, other), ys = scan(step, (w, h, w), xs, reverse=reverse)
        return [total, h, other, ys]

    program = staged(f, draw(20, 20), draw(20), draw(7, 20))
    (loop,) = [e for e in prepare(program).equations if e.primitive.name == "scan"]
    assert loop.params["num_carry"] == 1
    check(f, draw(20, 20), draw(20), draw(7, 20))


def test_paddings_split_the_range_of_a_loop() -> None:
    def f(x: Any) -> Any:
        parts = [ops.pad(ops.mul(x, float(k)), 0.0, ((20 * k, 40 - 20 * k, 0),)) for k in range(3)]
        return [ops.add(ops.add(parts[0], parts[1]), parts[2])]

    assert "if " not in loops(f, draw(20))
    check(f, draw(20))
    check(lambda x: [ops.pad(ops.sin(x), 1.0, ((2, 1, 0), (1, 3, 1)))], draw(9, 17))


def test_windows_added_to_arrays_are_updates_of_them() -> None:
    def f(x: Any, u: Any, i: Any) -> Any:
        def step(c: Any, i: Any) -> Any:
            row = ops.dynamic_slice(c, (i, np.int32(0)), (1, 30))
            rest = ops.dynamic_update_slice(c, ops.mul(row, 0.0), (i, np.int32(0)))
            zeros = ops.broadcast_in_dim(np.float64(0), (8, 30), ())
            return ops.add(rest, ops.dynamic_update_slice(zeros, ops.sin(row), (i, np.int32(0)))), None

        zeros = ops.broadcast_in_dim(np.float64(0), (8, 30), ())
        y = ops.add(ops.dynamic_update_slice(zeros, u, (i, np.int32(3))), x)
        return [scan(step, x, ops.rem(ops.iota(np.int32, 20), np.int32(8)))[0], y, ops.sub(y, x)]

    compiled = check(f, draw(8, 30), draw(2, 5), np.asarray(2, np.int32))
    (loop,) = [
        e for e in prepare(staged(f, draw(8, 30), draw(2, 5), np.asarray(2, np.int32))).equations if e.primitive.name == "scan"
    ]
    assert "add" not in {e.primitive.name for e in loop.params["body"].equations if e.outputs[0].type.shape == (8, 30)}
    assert compiled.arena_size < 3 * 8 * 30 * 8


@pytest.mark.parametrize("rows", [300, 2000])
def test_passes_over_rows_become_a_loop_over_rows(rows: int) -> None:
    def f(x: Any, g: Any) -> Any:
        spread = lambda v: ops.broadcast_in_dim(v, x.shape, (0,))
        e = ops.exp(ops.sub(x, spread(ops.reduce_max(x, (1,)))))
        soft = ops.div(e, spread(ops.reduce_sum(e, (1,))))
        mean = ops.div(ops.reduce_sum(x, (1,)), 300.0)
        centred = ops.mul(ops.sub(x, spread(mean)), ops.broadcast_in_dim(g, x.shape, (1,)))
        norm = ops.mul(centred, spread(ops.rsqrt(ops.add(ops.reduce_sum(ops.square(centred), (1,)), 1.0))))
        return [soft, ops.reduce_sum(ops.mul(soft, x), (0,)), ops.cumsum(norm, 1), ops.argmax(norm, 1, np.int32), mean]

    args = draw(rows, 300), draw(300)
    (loop,) = [e for e in prepare(staged(f, *args)).equations if e.primitive.name == "scan"]
    assert loop.params["num_carry"] == 0 and loop.params["length"] == rows
    check(f, *args)


def test_scans_without_a_carry_run_on_threads() -> None:
    def f(xs: Any, w: Any) -> Any:
        def step(_: Any, x: Any) -> Any:
            y = ops.dot_general(x, w, (((0,), (0,)), ((), ())))
            z = ops.dot_general(ops.sin(y), w, (((0,), (1,)), ((), ())))
            return None, (ops.cumsum(z, 0), ops.reduce_sum(y, (0,)))

        return list(scan(step, None, xs)[1])

    args = draw(700, 90), draw(90, 70)
    assert "parallel" in loops(f, *args)
    check(f, *args)


@pytest.mark.parametrize("n", [3, 20, 300])
def test_a_body_writes_its_carry_and_takes_its_sums_in_one_nest(n: int) -> None:
    def f(x: Any) -> Any:
        def test(s: Any) -> Any:
            return ops.bitwise_and(s[3], ops.lt(s[0], np.int32(30)))

        def step(s: Any) -> Any:
            i, x, rows, _ = s
            new = ops.select(ops.lt(x, 1.5), ops.add(ops.mul(x, 1.05), 0.01), x)
            going = ops.reduce_or(ops.lt(new, 1.5), (1,))
            scaled = ops.add(rows, ops.convert_element_type(going, np.float64))
            norm = ops.sqrt(ops.reduce_sum(ops.square(new), (0, 1)))
            return ops.add(i, np.int32(1)), new, scaled, ops.bitwise_and(ops.reduce_or(going, (0,)), ops.gt(norm, 0.0))

        return list(while_loop(test, step, (np.int32(0), x, ops.reduce_sum(x, (1,)), ops.gt(ops.reduce_max(x, (0, 1)), -9.0))))

    check(f, np.abs(draw(n, n + 1)) % 1.0)


def test_a_carry_scaled_by_a_sum_of_itself() -> None:
    def f(x: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            y = ops.add(c, ops.sin(c))
            norm = ops.sqrt(ops.reduce_sum(ops.square(y), (0,)))
            return ops.div(y, norm), (norm, ops.reduce_max(c, (0,)), ops.slice(c, (0,), (7,)))

        c, ys = scan(step, x, None, length=6)
        return [c, *ys]

    check(f, draw(40))
    check(f, draw(7))


def test_cheap_residuals_are_computed_again() -> None:
    def f(x: Any, m: Any) -> Any:
        def forward(c: Any, _: Any) -> Any:
            d = ops.sin(ops.mul(c, m))
            column = ops.reduce_sum(d, (1,))
            spread = ops.broadcast_in_dim(column, (20, 30), (0,))
            return ops.add(c, ops.mul(d, 0.1)), (ops.mul(d, 2.0), ops.mul(d, m), spread, ops.exp(d))

        def backward(c: Any, r: Any) -> Any:
            return ops.add(ops.mul(c, r[0]), ops.mul(r[1], ops.add(r[2], r[3]))), None

        c, residuals = scan(forward, x, None, length=5)
        return [c, scan(backward, c, residuals, reverse=True)[0]]

    first, second = (e for e in prepare(staged(f, draw(20, 30), draw(20, 30))).equations if e.primitive.name == "scan")
    assert sorted(v.type.shape for v in first.outputs[1:]) == [(5, 20), (5, 20, 30), (5, 20, 30)]
    check(f, draw(20, 30), draw(20, 30))


@pytest.mark.parametrize("power", [0.5, -0.5, 1.5, -1.5, 2.0, 3.0, -4.0, 2.5, 7.5])
def test_powers_known_now_have_the_meaning_of_pow(power: float) -> None:
    x = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.3, 4.0, 1e-30, 1e30, -2.0])
    check(lambda x: [ops.pow(x, np.float64(power))], x)
    check(lambda x: [ops.pow(x, np.float32(power))], x.astype(np.float32))


@pytest.mark.parametrize("permutation", [(1, 0, 2), (0, 2, 1), (2, 0, 1), (2, 1, 0), (1, 2, 0)], ids=str)
def test_transpositions_are_walked_in_tiles(permutation: tuple[int, ...]) -> None:
    for shape in ((65, 70, 67), (64, 5, 128)):
        x = draw(*shape)
        check(lambda x: [ops.mul(ops.transpose(x, permutation), 2.0)], x)
        check(lambda x: [ops.add(ops.transpose(x, permutation), ops.exp(ops.transpose(x, permutation)))], x)


def test_pieces_side_by_side_are_read_where_they_are() -> None:
    def f(x: Any) -> Any:
        rolled = ops.concatenate([ops.slice(x, (0, 30), (20, 37)), ops.slice(x, (0, 0), (20, 30))], 1)
        pairs = ops.concatenate([ops.reshape(x, (20, 37, 1)), ops.reshape(ops.sin(x), (20, 37, 1))], 2)
        return [ops.add(rolled, x), pairs, ops.reduce_sum(pairs, (1,)), ops.reduce_max(rolled, (1,))]

    check(f, draw(20, 37))
    z = draw(20, 37, dtype=np.complex64)
    check(lambda x: [ops.neg(ops.concatenate([x, ops.slice(x, (0, 1), (20, 9))], 1))], z)


@pytest.mark.parametrize("target", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64], ids=lambda t: t.__name__)
def test_floats_saturate_when_they_become_integers(target: Any) -> None:
    limits = np.iinfo(target)
    values = [0.0, -0.9, 0.9, 1.5, -1.0, -1.5, 127.5, 128.0, 255.9, 256.0, np.inf, -np.inf, np.nan, 1e30, -1e30]
    values += [float(limits.max), float(limits.min), 2.0 * limits.max, limits.max / 2, limits.min / 2]
    for dtype in (np.float32, np.float64):
        check(lambda x: [ops.convert_element_type(x, target)], np.array(values, dtype))
