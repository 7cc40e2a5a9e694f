"""Compiles elementary functions into loops over arrays, for the tests of their accuracy."""

from __future__ import annotations

import ctypes
from functools import cache

import llvmlite.binding as llvm
import numpy as np

from tracegrad.codegen import target as targets
from tracegrad.codegen.elementary import closure, symbol
from tracegrad.codegen.elementary.functions import FUNCTIONS

_KEEP: list[object] = []


def module_text(name: str, dtype: str) -> str:
    """A module with `tg_loop(out, x, [y,] n)`, which applies the function to arrays."""
    texts, declarations, _ = closure({(name, dtype)})
    operands = FUNCTIONS[name][0]
    t = "float" if dtype == "f32" else "double"
    params = ", ".join(["ptr noalias %out", *[f"ptr noalias %a{i}" for i in range(operands)], "i64 %n"])
    loads = [f"  %p{i} = getelementptr inbounds {t}, ptr %a{i}, i64 %i\n  %v{i} = load {t}, ptr %p{i}" for i in range(operands)]
    call = f"  %r = call {t} {symbol(name, dtype)}({', '.join(f'{t} %v{i}' for i in range(operands))})"
    loop = [
        f"define void @tg_loop({params}) {{",
        "entry:\n  br label %head",
        "head:\n  %i = phi i64 [0, %entry], [%next, %body]\n  %more = icmp slt i64 %i, %n\n  br i1 %more, label %body, label %exit",
        "body:",
        *loads,
        call,
        f"  %q = getelementptr inbounds {t}, ptr %out, i64 %i\n  store {t} %r, ptr %q",
        "  %next = add nuw nsw i64 %i, 1\n  br label %head",
        "exit:\n  ret void\n}",
    ]
    return "\n".join([*sorted(declarations), *texts, *loop])


@cache
def compiled(name: str, dtype: str) -> tuple[object, str]:
    """(function over arrays, optimized LLVM text)."""
    target = targets.host()
    module = targets.parse(module_text(name, dtype))
    module.verify()
    targets.optimize(module, target, 2)
    text = str(module)
    machine = targets.create_machine(target, 3)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    address = engine.get_function_address("tg_loop")
    operands = FUNCTIONS[name][0]
    native = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (operands + 1), ctypes.c_int64)(address)
    _KEEP.extend([engine, machine])

    def run(*xs: np.ndarray) -> np.ndarray:
        xs = tuple(np.ascontiguousarray(x) for x in xs)
        out = np.empty_like(xs[0])
        native(out.ctypes.data, *[x.ctypes.data for x in xs], out.size)
        return out

    return run, text


def references() -> dict[str, object]:
    """The functions in multiple precision."""
    import mpmath as mp

    mp.mp.prec = 140
    return {
        "exp": mp.exp,
        "exp2": lambda x: mp.mpf(2) ** x,
        "expm1": mp.expm1,
        "log": mp.log,
        "log2": lambda x: mp.log(x) / mp.log(2),
        "log1p": mp.log1p,
        "sin": mp.sin,
        "cos": mp.cos,
        "tan": mp.tan,
        "asin": mp.asin,
        "acos": mp.acos,
        "atan": mp.atan,
        "atan2": mp.atan2,
        "sinh": mp.sinh,
        "cosh": mp.cosh,
        "tanh": mp.tanh,
        "asinh": mp.asinh,
        "acosh": mp.acosh,
        "atanh": mp.atanh,
        "pow": mp.power,
        "pow_by_table": mp.power,
        "cbrt": lambda x: mp.sign(x) * mp.cbrt(abs(x)),
        "rsqrt": lambda x: 1 / mp.sqrt(x),
        "logistic": lambda x: 1 / (1 + mp.exp(-x)),
        "erf": mp.erf,
        "erfc": mp.erfc,
        "erf_inv": mp.erfinv,
        "lgamma": lambda x: mp.loggamma(x).real if x > 0 else mp.log(abs(mp.gamma(x))),
        "digamma": mp.digamma,
        "trigamma": lambda x: mp.psi(1, x),
        "zeta": mp.zeta,
        "rem": lambda x, y: x - y * (mp.floor(x / y) if x / y > 0 else mp.ceil(x / y)),
        "bessel_i0e": lambda x: mp.besseli(0, x) * mp.exp(-abs(x)),
        "bessel_i1e": lambda x: mp.besseli(1, x) * mp.exp(-abs(x)),
    }


def unit(name: str, exact: object, args: list[object]) -> float:
    """The number whose last place is the unit of the error: the result, or for lgamma and digamma of negative arguments, which are zero
    between any two poles, the largest of it, of their value at |x| and of 1."""
    size = abs(float(exact))  # type: ignore[arg-type]
    if name in ("lgamma", "digamma") and args[0] < 0:  # type: ignore[operator]
        return max(size, abs(float(references()[name](-args[0]))), 1.0)  # type: ignore[operator]
    return size


def samples(name: str, dtype: str, n: int, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
    """Arguments over the whole range of a function: a list of tuples of n operands."""
    r = np.random.default_rng(seed)
    single = dtype == "f32"
    top = 87.0 if single else 707.0
    tiny, huge = (1e-37, 1e37) if single else (1e-300, 1e300)
    epsilon = 1e-7 if single else 1e-15

    def spread(low: float, high: float, signs: bool = True) -> np.ndarray:
        x = np.exp(r.uniform(np.log(low), np.log(high), n))
        return x * np.where(r.random(n) < 0.5, -1, 1) if signs else x

    one: dict[str, list[np.ndarray]] = {
        "exp": [r.uniform(-top, top, n), spread(1e-8, 1)],
        "exp2": [r.uniform(-125, 127, n) if single else r.uniform(-1020, 1023, n)],
        "expm1": [r.uniform(-10, top, n), spread(1e-8, 2)],
        "log": [spread(tiny, huge, False), 1 + spread(1e-4, 0.5)],
        "log2": [spread(tiny, huge, False), 1 + spread(1e-4, 0.5)],
        "log1p": [spread(1e-9, 0.9), spread(1e-3, 1e30, False)],
        "sin": [r.uniform(-10, 10, n), spread(1e-8, 2e15), spread(1e15, huge)],
        "cos": [r.uniform(-10, 10, n), spread(1e-8, 2e15), spread(1e15, huge)],
        "tan": [r.uniform(-10, 10, n), spread(1e-8, 2e15), spread(1e15, huge)],
        "asin": [r.uniform(-1, 1, n), spread(1e-8, 1)],
        "acos": [r.uniform(-1, 1, n), 1 - spread(epsilon, 0.1, False)],
        "atan": [spread(1e-8, 1e8)],
        "sinh": [r.uniform(-top, top, n), spread(1e-8, 2)],
        "cosh": [r.uniform(-top, top, n)],
        "tanh": [r.uniform(-12, 12, n), spread(1e-8, 2)],
        "asinh": [spread(1e-8, 1e20)],
        "acosh": [1 + spread(1e-6, 1e20, False)],
        "atanh": [r.uniform(-1, 1, n), spread(1e-8, 0.5)],
        "cbrt": [spread(tiny, huge)],
        "rsqrt": [spread(tiny, huge, False)],
        "logistic": [r.uniform(-80, 80, n)],
        "erf": [r.uniform(-4, 4, n), spread(1e-8, 1)],
        "erfc": [r.uniform(-4, 9.0 if single else 26.0, n)],
        "erf_inv": [r.uniform(-1, 1, n), 1 - spread(epsilon, 0.1, False)],
        "lgamma": [
            r.uniform(0, 4, n),
            spread(1e-30, 1e30, False),
            1 + spread(1e-6, 0.2),
            2 + spread(1e-6, 0.2),
            r.uniform(-20, 0, n),
        ],
        "digamma": [r.uniform(0, 4, n), spread(1e-30, 1e30, False), 1.4616321449683623 + spread(1e-6, 0.2), r.uniform(-20, 0, n)],
        "trigamma": [r.uniform(0, 4, n), spread(1e-10, 1e10, False), r.uniform(-20, 0, n)],
        "bessel_i0e": [r.uniform(-20, 20, n), spread(1e-8, 1e8)],
        "bessel_i1e": [r.uniform(-20, 20, n), spread(1e-8, 1e8)],
    }
    if name in ("pow", "pow_by_table"):
        base, exponent = (20, 4) if single else (100, 7)
        pairs = [
            (np.exp(r.uniform(-base, base, n)), r.uniform(-exponent, exponent, n)),
            (r.uniform(0.5, 2, n), r.uniform(-100, 100, n)),
        ]
    elif name == "zeta":
        pairs = [(1 + spread(1e-3, 20, False), r.uniform(0.05, 20, n)), (r.uniform(1.1, 6, n), spread(0.1, 1e4, False))]
    elif name == "rem":
        pairs = [(spread(1e-5, 1e5), spread(1e-5, 1e5)), (r.normal(size=n), r.normal(size=n))]
    elif name == "atan2":
        pairs = [(r.normal(size=n), r.normal(size=n)), (r.normal(size=n) * 1e-3, r.normal(size=n))]
    else:
        pairs = [(x,) for x in one[name]]
    kind = np.float32 if single else np.float64
    return [tuple(x.astype(kind) for x in pair) for pair in pairs]


def worst_error(name: str, dtype: str, n: int, seed: int = 0) -> tuple[float, tuple[float, ...]]:
    """The largest error in units in the last place of the exact result over n samples per range, and where it is."""
    import mpmath as mp

    reference = references()[name]
    run, _ = compiled(name, dtype)
    kind = np.float32 if dtype == "f32" else np.float64
    worst, where = 0.0, ()
    for xs in samples(name, dtype, n, seed):
        ys = run(*xs)  # type: ignore[operator]
        for *args, y in zip(*xs, ys):
            numbers = [mp.mpf(float(a)) for a in args]
            exact = reference(*numbers)  # type: ignore[operator]
            if not mp.isfinite(exact):
                continue
            with np.errstate(over="ignore"):
                rounded = kind(float(exact))
            if not np.isfinite(rounded) or abs(rounded) < np.finfo(kind).tiny:
                continue
            place = mp.mpf(float(np.spacing(kind(unit(name, exact, numbers)))))
            error = abs(float((mp.mpf(float(y)) - exact) / place)) if np.isfinite(y) else np.inf
            if error > worst:
                worst, where = error, tuple(float(a) for a in args)
    return worst, where
