"""Native special functions: SciPy's scalar functions called by pointer, and loops for those that SciPy does not export.

Everything is computed in float64 and rounded once. Functions computed in lanes of vectors are those of `lane_functions.py`, called by symbol;
those with branch-free code of their own (erf, erfc, erf_inv, lgamma, digamma, bessel_i0e, bessel_i1e) are elementary functions, not here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen import lane_functions, loop_ir
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.conversions import round_half
from tracegrad.codegen.elementwise import lazy_map, lower_as
from tracegrad.codegen.kernel import Kernel, Value
from tracegrad.codegen.library import Routine, special_symbol
from tracegrad.codegen.nests import PARALLEL_WORK, tasks_of
from tracegrad.codegen.plan import COSTS
from tracegrad.codegen.values import Scalar, View, register_type
from tracegrad.ir import special as ops
from tracegrad.ir.program import Equation, Literal
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

Function = Callable[..., Value]


def _scipy(name: str) -> Function:
    def call(k: Kernel, *args: Value) -> Value:
        result = k.call(special_symbol(name), [*args, k.value(0, "i32")], "double")
        assert result is not None
        return result

    return call


_gammaln, _psi, _gamma = _scipy("gammaln"), _scipy("__pyx_fuse_1psi"), _scipy("__pyx_fuse_1gamma")


def _log(k: Kernel, x: Value) -> Value:
    return _c(k, "log", x)


def _c(k: Kernel, name: str, *args: Value) -> Value:
    """A function of the C library."""
    result = k.call(name, args, "double")
    assert result is not None
    return result


_BERNOULLI = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
    854513 / 138,
    -236364091 / 2730,
)
_DIRECT_TERMS = 10


def zeta(k: Kernel, s: Value, q: Value) -> Value:
    """Hurwitz's zeta function by Euler and Maclaurin: ten terms, the integral of the rest, Bernoulli's corrections."""
    result = k.var("double", np.nan)

    def regular() -> None:
        total = k.var("double", _c(k, "pow", q, -s))
        a = k.var("double", q)
        term = k.var("double", total.get())
        done = k.var("i1", 0)
        count = k.var("i32", 0)

        def unfinished() -> Value:
            more = (count.get() < _DIRECT_TERMS - 1) | (a.get() <= 9.0)
            return more & ~done.get()

        with k.while_(unfinished):
            count.add(1)
            a.add(1.0)
            power = _c(k, "pow", a.get(), -s)
            term.set(power)
            total.add(power)
            done.set(power.abs() < total.get().abs() * 1.1e-16)
        with k.if_(~done.get()):
            w, b = a.get(), term.get()
            total.add(b * w / (s - 1.0))
            total.add(b * -0.5)
            rising = k.var("double", 1.0)
            powers = k.var("double", b)
            for j, bernoulli in enumerate(_BERNOULLI):
                # B_2j / (2j)! s (s+1) ... (s+2j-2) a^(-s-2j+1)
                rising.set(rising.get() * (s + float(2 * j)))
                powers.set(powers.get() / w)
                total.add(rising.get() * powers.get() * (bernoulli / factorial(2 * j + 2)))
                rising.set(rising.get() * (s + float(2 * j + 1)))
                powers.set(powers.get() / w)
        result.set(q.eq(np.inf).select(k.value(0.0, "double"), total.get()))

    def at_most_one() -> None:
        result.set(s.eq(1.0).select(k.value(np.inf, "double"), k.value(np.nan, "double")))

    def pole_or_outside() -> None:
        # poles at 0, -1, -2, ...; between them only integer powers are real
        whole = k.intrinsic("floor", q).eq(q)
        outside = whole.select(k.value(np.inf, "double"), k.value(np.nan, "double"))
        k.if_else(whole | k.intrinsic("floor", s).ne(s), lambda: result.set(outside), regular)

    def above_one() -> None:
        k.if_else(q > 0.0, regular, pole_or_outside)

    k.if_else(s > 1.0, above_one, at_most_one)
    return result.get()


def polygamma(k: Kernel, n: Value, x: Value) -> Value:
    result = k.var("double")

    def higher() -> None:
        even = k.intrinsic("floor", n * 0.5) * 2.0
        odd = k.intrinsic("floor", n).eq(n).select(k.value(1.0, "double"), k.value(np.nan, "double"))  # of whole order only
        sign = even.eq(n).select(k.value(-1.0, "double"), odd)
        result.set(sign * _gamma(k, n + 1.0) * zeta(k, n + 1.0, x))

    k.if_else(n.eq(0.0), lambda: result.set(_psi(k, x)), higher)
    return result.get()


FUNCTIONS: dict[str, Function] = {
    "zeta": zeta,
    "polygamma": polygamma,
}


def special_routine(name: str, operands: list[ArrayType], only_outside: bool = False) -> Routine:
    """Elements low <= i < high of a result; operands of rank 0 stand for all indices. Perhaps only those that `_inside` excludes."""
    shape = next((t.shape for t in operands if t.shape != ()), ())
    dtype = operands[0].dtype
    broadcast = "".join("01"[t.shape == () and shape != ()] for t in operands)
    params = {f"in{i}": "ptr" for i in range(len(operands))} | {"out0": "ptr", "low": "i64", "high": "i64"}
    k = Kernel(f"tg_{name}_{dtype}_{broadcast}{'_outside' if only_outside else ''}", params)
    out = k.array(k["out0"], dtype)
    with k.loop(k["low"], k["high"]) as i:
        args = []
        for j, b in enumerate(broadcast):
            args.append(k.array(k[f"in{j}"], dtype)[k.value(0, "i64") if b == "1" else i].cast("double"))
        with k.if_(~_inside(name, args)) if only_outside else nullcontext():
            result = FUNCTIONS[name](k, *args)
            out[i] = result if dtype == np.float64 else result.cast("float")
    return Routine(k)


WORK = 300
"""What an element costs: series and fractions run until they converge."""


def _inside(name: str, args: list[Value]) -> Value:
    """Where the elementary function `zeta` has the values of zeta, or of polygamma."""
    positive = args[1] > 0.0
    return positive & (args[0] > 1.0) if name == "zeta" else positive


def lower(ctx: Context, eqn: Equation) -> None:
    v = eqn.outputs[0]
    ctx.define(v, ctx.temporary(v.type) if v.type.size == 0 else _loop(ctx, eqn))


def _loop(ctx: Context, eqn: Equation, only_outside: bool = False) -> View:
    """One loop over memory, cut into tasks where it is long."""
    b, v = ctx.b, eqn.outputs[0]
    size = v.type.size
    sources = [ctx.dense(a) for a in eqn.inputs]
    target = ctx.temporary(v.type) if only_outside else ctx.allocate(v)
    taken = {s.buffer for s in sources}
    if target.buffer in taken or not target.is_dense:
        target = ctx.temporary(v.type)
    ctx.before_overwrite(target.buffer)
    name = eqn.primitive.name
    scalars = [a.type.shape == () and v.type.shape != () for a in eqn.inputs]
    if name in lane_functions.NAMES:
        symbol = lane_functions.symbol(name, v.type.dtype, size)
        strides = [b.const("i64", 0 if s else 1) for s in scalars]
    else:
        routine = special_routine(name, [a.type for a in eqn.inputs], only_outside)
        ctx.lowering.function.helpers[routine.name] = routine
        symbol, strides = routine.name, []

    def call(low: loop_ir.Value, high: loop_ir.Value) -> None:
        pointers = [b.address(s.buffer, s.offset) for s in (*sources, target)]
        b.call(symbol, [*pointers, *strides, low, high], reads=list(taken), writes=[target.buffer])

    work = size * (2 if only_outside else WORK)
    count, each = tasks_of(size, work, True) if work >= PARALLEL_WORK and not b.parallel_depth else (1, size)
    if count == 1:
        call(b.const("i64", 0), b.const("i64", size))
    else:
        with b.parallel(count, frozenset((target.buffer,))) as task:
            low = task * each
            call(b.index(low), b.op("smin", "i64", b.index(low + each), b.const("i64", size)))
    return target


def lower_polygamma(ctx: Context, eqn: Equation) -> None:
    """Digamma and its first derivative, which second derivatives of lgamma are made of, are elementary functions; further ones are zeta."""
    n, x = eqn.inputs
    if not isinstance(n, Literal) or n.value not in range(LARGEST_ORDER + 1):
        lower(ctx, eqn)
    elif n.value < 2:
        lower_as(ctx, eqn, "trigamma" if n.value else "digamma", [x])
    else:
        order = int(n.value)
        lower_zeta(ctx, eqn, order + 1.0, float((-1) ** (order + 1) * factorial(order)))


LARGEST_ORDER = 20
SHORT = 8
"""Fewer elements than this are not worth a loop of their own."""


def lower_zeta(ctx: Context, eqn: Equation, order: float | None = None, factor: float = 1.0) -> None:
    """An elementary function where both operands are large enough; elsewhere what a loop over the few exceptions computes. Of a known order
    with a factor in front it is polygamma."""
    v = eqn.outputs[0]
    if v.type.size < SHORT:
        lower(ctx, eqn)
        return
    dtype = v.type.dtype
    t = register_type(dtype)

    def element(b: Builder, args: list[Any]) -> Scalar:
        s, q, rest = args
        inside = b.op("fcmp", "i1", q, b.const(t, 0.0), attr="ogt")
        if order is not None:
            y = b.op("fmul", t, b.math("zeta", t, b.const(t, order), q), b.const(t, factor))
        else:
            y = b.math("zeta", t, s, q)
            inside = b.op("and", "i1", inside, b.op("fcmp", "i1", s, b.const(t, 1.0), attr="ogt"))
        return b.select(inside, round_half(b, dtype, y), rest)

    forms = [*(ctx.value(a) for a in eqn.inputs), _loop(ctx, eqn, only_outside=True)]
    ctx.define(v, lazy_map(ctx, v.type, forms, element, COSTS["zeta"]))


_LOWERED = {"zeta": lower_zeta, "polygamma": lower_polygamma}
for _name in (*FUNCTIONS, *lane_functions.NAMES):
    getattr(ops, f"{_name}_p").define(lower=_LOWERED.get(_name, lower))
