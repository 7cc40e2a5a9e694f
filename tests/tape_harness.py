"""What tests of tapes share: short ways to write loops over tapes, and the comparison of compiled code with their meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.bind import bind
from tracegrad.ir.config import config
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.parser import parse
from tracegrad.ir.program import Program
from tracegrad.ir.tapes import record_while_p, tape_scan_p
from tracegrad.ir.types import ArrayType
from tracegrad.ir.verify import verify
from tracegrad.runtime.executable import Executable
from tracegrad.tracer.staging import trace
from tracegrad.transforms.pipeline import optimize

F64, I32 = np.dtype(np.float64), np.dtype(np.int32)
S, N = ArrayType((), F64), ArrayType((), I32)


def program(fun: Callable[..., Sequence[Any]], *types: ArrayType) -> Program:
    traced, captured = trace(fun, types, "body")
    assert not captured
    return traced


def record(n: Any, body: Program, *init: Any, consts: Sequence[Any] = ()) -> tuple[Any, ...]:
    """A `record_while` of n steps, whose carry begins with their number so far, which the body must count."""
    carry = body.in_types[len(consts) :]
    below = program(lambda n, i, *rest: [ops.lt(i, n)], N, *carry)
    return bind(record_while_p, n, *consts, np.int32(0), *init, cond=below, body=body, cond_nconsts=1, body_nconsts=len(consts))


def read(
    n: Any, body: Program, carry: Sequence[Any], xs: Sequence[Any], reverse: bool = False, consts: Sequence[Any] = ()
) -> Any:
    params = {"body": body, "reverse": reverse, "num_consts": len(consts), "num_carry": len(carry)}
    return bind(tape_scan_p, n, *consts, *carry, *xs, **params)


def agree(fun: Callable[..., Sequence[Any]], *args: Any) -> list[np.ndarray]:
    """The results of compiled code, which are those of the evaluation; the program's text reads back."""
    types = [ArrayType(np.shape(a), np.asarray(a).dtype) for a in args]
    traced = program(fun, *types)
    verify(traced)
    assert parse(str(traced)) == traced
    with config.override("verify", True):
        optimized = optimize(traced)
    results = [np.asarray(x) for x in Executable(traced, optimized, "tapes")(args)]
    for x, y, z in zip(results, evaluate(traced, *args), evaluate(optimized, *args), strict=True):
        y = np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        if x.dtype == ml_dtypes.bfloat16:
            x, y, z = x.astype(np.float32), y.astype(np.float32), np.asarray(z).astype(np.float32)
        limit = 1e-12 if x.dtype.itemsize > 4 else 1e-5
        np.testing.assert_allclose(x, y, rtol=limit, atol=limit)
        np.testing.assert_array_equal(y, z)
    return results
