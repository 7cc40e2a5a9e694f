"""sin, cos and tan of large angles: what the branch-free functions leave to a branch that is almost never taken.

The fast functions reduce |x| < 2^51. Their results pass through a *guard*, `@tg.far.sin.f64(x, y)`, which is y unless |x| is larger: then it is the
C library's function, which reduces by as many bits of 2/pi as it takes (M. Payne and R. Hanek, "Radian reduction for trigonometric
functions", SIGNUM Newsletter 18, 1983).

A loop with a branch is no loop that LLVM vectorizes; a loop that calls a function with vector variants (LLVM's "vector function ABI") is. So
guards have variants that look at all lanes at once. A module declares them; when its loops have been vectorized, `target.optimize` links
their definitions and inlines them, and one comparison and one branch remain of each.
"""

from __future__ import annotations

from collections.abc import Iterable

from tracegrad.codegen.elementary.writer import Writer

GUARDED = frozenset(("sin", "cos", "tan"))
PREFIX = "tg.far."
"""How the names of guards begin."""
LARGEST_ANGLE = "0x4320000000000000"
"""2^51, as LLVM writes it."""
WIDTHS = {"f32": (2, 4, 8, 16), "f64": (2, 4, 8)}
_TYPES = {"f32": "float", "f64": "double"}


def guard(w: Writer, name: str, x: str, y: str) -> str:
    """y, or where |x| >= 2^51 what the C library's function gives."""
    symbol = f"{PREFIX}{name}.{w.dtype}"
    attributes = "nounwind willreturn memory(none)"
    w.intrinsics.add(f"declare {w.type} @{symbol}({w.type}, {w.type}) {attributes}")
    for n in WIDTHS[w.dtype]:
        v = f"<{n} x {w.type}>"
        w.intrinsics.add(f"declare {v} @{symbol}.v{n}({v}, {v}) {attributes}")
    # LLVM drops declarations that nothing refers to, and does not see that the vectorizer will
    variants = [f"ptr @{symbol}.v{n}" for n in WIDTHS[w.dtype]]
    w.intrinsics.add(f"@{symbol}.variants = weak hidden constant [{len(variants)} x ptr] [{', '.join(variants)}]")
    abi = ",".join(f"_ZGV_LLVM_N{n}vv_{symbol}({symbol}.v{n})" for n in WIDTHS[w.dtype])
    return w.emit(f'call {w.type} @{symbol}({w.type} {x}, {w.type} {y}) "vector-function-abi-variant"="{abi}"')


def definitions(symbols: Iterable[str]) -> str:
    """A module with the guards declared by another, given the names of its functions; empty if there are none."""
    wanted = sorted({tuple(s.removeprefix(PREFIX).split(".")[:2]) for s in symbols if s.startswith(PREFIX)})
    if not wanted:
        return ""
    lines = ['!0 = !{!"branch_weights", i32 1, i32 2000}']
    lines += [f"declare double @{name}(double)" for name in sorted({name for name, _ in wanted})]
    for dtype in sorted({dtype for _, dtype in wanted}):
        lines += _lanes(dtype)
    for name, dtype in wanted:
        lines += _scalar(name, dtype)
        for n in WIDTHS[dtype]:
            lines += _vector(name, dtype, n)
    return "\n".join(lines)


def _scalar(name: str, dtype: str) -> list[str]:
    t = _TYPES[dtype]
    return [
        f"define {t} @{PREFIX}{name}.{dtype}({t} %x, {t} %y) alwaysinline nounwind willreturn memory(none) {{",
        f"  %a = call {t} @llvm.fabs.{dtype}({t} %x)",
        f"  %large = fcmp oge {t} %a, {LARGEST_ANGLE}",
        *_rarely([*_of_double(f"@{name}", dtype, "%x", "%s")], t),
    ]


def _vector(name: str, dtype: str, n: int) -> list[str]:
    t = _TYPES[dtype]
    v, room = f"<{n} x {t}>", n * (4 if dtype == "f32" else 8)
    slow = [
        f"  store {v} %x, ptr %px, align {room}",
        f"  store {v} %y, ptr %py, align {room}",
        f"  call void @{PREFIX}lanes.{dtype}(ptr %px, ptr %py, i64 {n}, ptr @{name})",
        f"  %s = load {v}, ptr %py, align {room}",
    ]
    return [
        f"define {v} @{PREFIX}{name}.{dtype}.v{n}({v} %x, {v} %y) alwaysinline nounwind willreturn memory(none) {{",
        f"  %px = alloca {v}, align {room}",
        f"  %py = alloca {v}, align {room}",
        f"  %a = call {v} @llvm.fabs.v{n}{dtype}({v} %x)",
        f"  %lanes = fcmp oge {v} %a, splat ({t} {LARGEST_ANGLE})",
        f"  %bits = bitcast <{n} x i1> %lanes to i{n}",
        f"  %large = icmp ne i{n} %bits, 0",
        *_rarely(slow, v),
    ]


def _rarely(slow: list[str], type: str) -> list[str]:
    """The end of a guard: %y, or where %large holds the %s that the slow lines compute."""
    return [
        "  br i1 %large, label %slow, label %done, !prof !0",
        "slow:",
        *slow,
        "  br label %done",
        "done:",
        f"  %r = phi {type} [ %y, %0 ], [ %s, %slow ]",
        f"  ret {type} %r",
        "}",
    ]


def _of_double(function: str, dtype: str, x: str, result: str) -> list[str]:
    """A function of doubles applied to a number of either type."""
    if dtype == "f64":
        return [f"  {result} = call double {function}(double {x})"]
    return [
        f"  %wide = fpext float {x} to double",
        f"  %of_wide = call double {function}(double %wide)",
        f"  {result} = fptrunc double %of_wide to float",
    ]


def _lanes(dtype: str) -> list[str]:
    """The loop that replaces numbers y by a function of numbers x where |x| is large."""
    t = _TYPES[dtype]
    return [
        f"define internal void @{PREFIX}lanes.{dtype}(ptr %px, ptr %py, i64 %n, ptr %f) noinline cold nounwind willreturn {{",
        "  br label %lane",
        "lane:",
        "  %i = phi i64 [ 0, %0 ], [ %next, %following ]",
        f"  %p = getelementptr {t}, ptr %px, i64 %i",
        f"  %q = getelementptr {t}, ptr %py, i64 %i",
        f"  %x = load {t}, ptr %p",
        f"  %a = call {t} @llvm.fabs.{dtype}({t} %x)",
        f"  %large = fcmp oge {t} %a, {LARGEST_ANGLE}",
        "  br i1 %large, label %compute, label %following",
        "compute:",
        *_of_double("%f", dtype, "%x", "%y"),
        f"  store {t} %y, ptr %q",
        "  br label %following",
        "following:",
        "  %next = add nuw nsw i64 %i, 1",
        "  %more = icmp ult i64 %next, %n",
        "  br i1 %more, label %lane, label %end",
        "end:",
        "  ret void",
        "}",
    ]
