"""What the loop level of small programs looks like: what was fused, what lives in registers, what is written in place."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pytest

from tests.codegen_harness import loops
from tracegrad.ir import ops
from tracegrad.tracer.control_flow import fori_loop, scan


def z(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def chain(x: Any, y: Any) -> Any:
    return [ops.add(ops.mul(x, 2.0), ops.exp(y))]


def used_twice(x: Any) -> Any:
    y = ops.exp(x)
    return [y, ops.mul(y, y)]


def softmax(x: Any) -> Any:
    e = ops.exp(x)
    return [ops.div(e, ops.broadcast_in_dim(ops.reduce_sum(e, (1,)), x.shape, (0,)))]


def product(x: Any) -> Any:
    return [ops.dot_general(x, x, (((1,), (0,)), ((), ())))]


def logistic_map(x: Any) -> Any:
    def body(i: Any, s: Any) -> Any:
        return ops.mul(s[0], 0.5), ops.dynamic_update_slice(s[1], ops.reshape(s[0], (1,)), (i,))

    return [fori_loop(0, 100, body, (x, ops.broadcast_in_dim(np.float32(0), (100,), ())))[1]]


def swap(x: Any, y: Any) -> Any:
    return list(scan(lambda c, _: ((c[1], c[0]), None), (x, y), None, length=5)[0])


def running(x: Any, xs: Any) -> Any:
    def step(c: Any, s: Any) -> Any:
        c = ops.add(ops.mul(c, 0.5), s)
        return c, c

    return list(scan(step, x, xs))


def views(x: Any) -> Any:
    return [ops.add(ops.rev(ops.slice(x, (1,), (20,)), (0,)), ops.slice(x, (0,), (19,)))]


CASES: dict[str, tuple[Any, tuple[np.ndarray, ...], str]] = {
    "a chain of elementwise operations is one loop": (
        chain,
        (z(30), z(30)),
        """
        function @f(in0: float32[30], in1: float32[30]) -> (out0: float32[30]) arena 0 {
          for %i in 0..30 {
            %0: f32 = load in0[%i]
            %1: f32 = fmul %0, 2.0
            %2: f32 = load in1[%i]
            %3: f32 = exp %2
            %4: f32 = fadd %1, %3
            store out0[%i] = %4
          }
        }
        """,
    ),
    "a value that two results need is computed once, in their common loop": (
        used_twice,
        (z(30),),
        """
        function @f(in0: float32[30]) -> (out0: float32[30], out1: float32[30]) arena 0 {
          for %i in 0..30 {
            %0: f32 = load in0[%i]
            %1: f32 = exp %0
            %2: f32 = fmul %1, %1
            store out0[%i] = %1
            store out1[%i] = %2
          }
        }
        """,
    ),
    "what a sum and a later loop need is stored while the sum is taken": (
        softmax,
        (z(20, 30),),
        """
        function @f(in0: float32[600]) -> (out0: float32[600]) arena 128 {
          alloc t1: float32[600] in out0
          alloc t2: float32[20] at 0
          for %i in 0..20 {
            %0: f32 = for %r in 0..30 carry(%1: f32 = 0.0) {
              %2: f32 = load in0[30*%i + %r]
              %3: f32 = exp %2
              store t1[30*%i + %r] = %3
              %4: f32 = fadd %1, %3
              yield %4
            }
            store t2[%i] = %0
          }
          for %i in 0..20 {
            %5: f32 = load t2[%i]
            for %j in 0..30 {
              %6: f32 = load t1[30*%i + %j]
              %7: f32 = fdiv %6, %5
              store out0[30*%i + %j] = %7
            }
          }
        }
        """,
    ),
    "slices and reversals are positions": (
        views,
        (z(20),),
        """
        function @f(in0: float32[20]) -> (out0: float32[19]) arena 0 {
          for %i in 0..19 {
            %0: f32 = load in0[19 - %i]
            %1: f32 = load in0[%i]
            %2: f32 = fadd %0, %1
            store out0[%i] = %2
          }
        }
        """,
    ),
    "a small product is straight-line code": (
        product,
        (z(2, 2),),
        """
        function @f(in0: float32[4]) -> (out0: float32[4]) arena 0 {
          %0: f32 = load in0[0]
          %1: f32 = load in0[1]
          %2: f32 = load in0[2]
          %3: f32 = load in0[3]
          %4: f32 = fmul %0, %0
          %5: f32 = fmul %1, %2
          %6: f32 = fadd %4, %5
          %7: f32 = fmul %0, %1
          %8: f32 = fmul %1, %3
          %9: f32 = fadd %7, %8
          %10: f32 = fmul %2, %0
          %11: f32 = fmul %3, %2
          %12: f32 = fadd %10, %11
          %13: f32 = fmul %2, %1
          %14: f32 = fmul %3, %3
          %15: f32 = fadd %13, %14
          store out0[0] = %6
          store out0[1] = %9
          store out0[2] = %12
          store out0[3] = %15
        }
        """,
    ),
    "a functional update in a loop is a store": (
        logistic_map,
        (z(),),
        """
        function @f(in0: float32[1]) -> (out0: float32[100]) arena 0 {
          %0: f32 = load in0[0]
          for %i in 0..100 {
            store out0[%i] = 0.0
          }
          %1: i32, %2: f32 = for %t in 0..100 carry(%3: i32 = 0, %4: f32 = %0) {
            %5: i32 = add %3, 1
            %6: f32 = fmul %4, 0.5
            %7: i64 = sext %3
            %8: i64 = smax %7, 0
            %9: i64 = smin %8, 99
            store out0[%9] = %4
            yield %5, %6
          }
        }
        """,
    ),
    "carries that trade places need no third buffer": (
        swap,
        (z(30), z(30)),
        """
        function @f(in0: float32[30], in1: float32[30]) -> (out0: float32[30], out1: float32[30]) arena 0 {
          copy in0[0] to out0[0] (120 bytes)
          copy in1[0] to out1[0] (120 bytes)
          for %t in 0..5 {
            for %i in 0..30 {
              %0: f32 = load out1[%i]
              %1: f32 = load out0[%i]
              store out0[%i] = %0
              store out1[%i] = %1
            }
          }
        }
        """,
    ),
    "a scan reads and writes its slices where they are": (
        running,
        (z(30), z(7, 30)),
        """
        function @f(in0: float32[30], in1: float32[210]) -> (out0: float32[30], out1: float32[210]) arena 0 {
          copy in0[0] to out0[0] (120 bytes)
          for %t in 0..7 {
            for %i in 0..30 {
              %0: f32 = load out0[%i]
              %1: f32 = fmul %0, 0.5
              %2: f32 = load in1[30*%t + %i]
              %3: f32 = fadd %1, %2
              store out0[%i] = %3
              store out1[30*%t + %i] = %3
            }
          }
        }
        """,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loops(name: str) -> None:
    function, args, text = CASES[name]
    assert loops(function, *args).strip() == textwrap.dedent(text).strip()
