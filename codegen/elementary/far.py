"""Elementary functions far out: what their branch-free code leaves to a branch that is almost never taken.

The fast functions reduce angles |x| < 2^51, and remainders of quotients below that. Their results pass through a *guard*,
`@tg.far.sin.f64(x, y)`, which is y unless the operand is larger: then it is the C library's function, which reduces by as many bits of
2/pi as it takes (M. Payne and R. Hanek, "Radian reduction for trigonometric functions", SIGNUM Newsletter 18, 1983), or subtracts
as often as it takes.

A loop with a branch is no loop that LLVM vectorizes; a loop that calls a function with vector variants (LLVM's "vector function ABI") is. So
guards have variants that look at all lanes at once. A module declares them; when its loops have been vectorized, `target.optimize` links
their definitions and inlines them, and one comparison and one branch remain of each.
"""

from __future__ import annotations

from collections.abc import Iterable

from tracegrad.codegen.elementary.writer import Writer

GUARDED = {"sin": ("sin", 1), "cos": ("cos", 1), "tan": ("tan", 1), "rem": ("fmod", 2)}
"""name -> (the function of the C library, the number of its operands)."""
PREFIX = "tg.far."
"""How the names of guards begin."""
LIMIT = "0x4320000000000000"
"""2^51, as LLVM writes it."""
WIDTHS = {"f32": (2, 4, 8, 16), "f64": (2, 4, 8)}
_TYPES = {"f32": "float", "f64": "double"}


def guard(w: Writer, name: str, xs: tuple[str, ...], y: str) -> str:
    """y, or where the first operand is 2^51 times the second, which is 1 if there is none, what the C library's function gives."""
    symbol = f"{PREFIX}{name}.{w.dtype}"
    attributes = "nounwind willreturn memory(none)"
    count = len(xs) + 1
    w.intrinsics.add(f"declare {w.type} @{symbol}({', '.join([w.type] * count)}) {attributes}")
    for n in WIDTHS[w.dtype]:
        v = f"<{n} x {w.type}>"
        w.intrinsics.add(f"declare {v} @{symbol}.v{n}({', '.join([v] * count)}) {attributes}")
    # LLVM drops declarations that nothing refers to, and does not see that the vectorizer will
    variants = [f"ptr @{symbol}.v{n}" for n in WIDTHS[w.dtype]]
    w.intrinsics.add(f"@{symbol}.variants = weak hidden constant [{len(variants)} x ptr] [{', '.join(variants)}]")
    abi = ",".join(f"_ZGV_LLVM_N{n}{'v' * count}_{symbol}({symbol}.v{n})" for n in WIDTHS[w.dtype])
    operands = ", ".join(f"{w.type} {x}" for x in (*xs, y))
    return w.emit(f'call {w.type} @{symbol}({operands}) "vector-function-abi-variant"="{abi}"')


def definitions(symbols: Iterable[str]) -> str:
    """A module with the guards declared by another, given the names of its functions; empty if there are none."""
    wanted = sorted({tuple(s.removeprefix(PREFIX).split(".")[:2]) for s in symbols if s.startswith(PREFIX)})
    if not wanted:
        return ""
    lines = ['!0 = !{!"branch_weights", i32 1, i32 2000}']
    for name in sorted({name for name, _ in wanted}):
        function, operands = GUARDED[name]
        lines.append(f"declare double @{function}({', '.join(['double'] * operands)})")
    for dtype, operands in sorted({(dtype, GUARDED[name][1]) for name, dtype in wanted}):
        lines += _lanes(dtype, operands)
    for name, dtype in wanted:
        lines += _scalar(name, dtype)
        for n in WIDTHS[dtype]:
            lines += _vector(name, dtype, n)
    return "\n".join(lines)


def _operands(count: int) -> list[str]:
    return [f"%x{i}" for i in range(count)]


def _large(dtype: str, operands: int, vector: str, result: str, lanes: int = 0) -> list[str]:
    """The lines that compare the first operand with the limit."""
    t = _TYPES[dtype]
    suffix = f"v{lanes}{dtype}" if lanes else dtype
    limit = f"splat ({t} {LIMIT})" if lanes else LIMIT
    lines = [f"  %a = call {vector} @llvm.fabs.{suffix}({vector} %x0)"]
    if operands == 2:
        lines.append(f"  %b = call {vector} @llvm.fabs.{suffix}({vector} %x1)")
        lines.append(f"  %limit = fmul {vector} %b, {limit}")
        limit = "%limit"
    return [*lines, f"  {result} = fcmp oge {vector} %a, {limit}"]


def _scalar(name: str, dtype: str) -> list[str]:
    t = _TYPES[dtype]
    function, operands = GUARDED[name]
    xs = _operands(operands)
    return [
        f"define {t} @{PREFIX}{name}.{dtype}({', '.join(f'{t} {x}' for x in (*xs, '%y'))}) alwaysinline nounwind willreturn memory(none) {{",
        *_large(dtype, operands, t, "%large"),
        *_rarely(_of_double(f"@{function}", dtype, xs, "%s"), t),
    ]


def _vector(name: str, dtype: str, n: int) -> list[str]:
    t = _TYPES[dtype]
    v, room = f"<{n} x {t}>", n * (4 if dtype == "f32" else 8)
    function, operands = GUARDED[name]
    values = [*_operands(operands), "%y"]
    memory = ["%p" + x[1:] for x in values]
    slow = [
        *[f"  store {v} {x}, ptr {p}, align {room}" for x, p in zip(values, memory, strict=True)],
        f"  call void @{PREFIX}lanes{operands}.{dtype}({', '.join(f'ptr {p}' for p in memory)}, i64 {n}, ptr @{function})",
        f"  %s = load {v}, ptr %py, align {room}",
    ]
    return [
        f"define {v} @{PREFIX}{name}.{dtype}.v{n}({', '.join(f'{v} {x}' for x in values)}) alwaysinline nounwind willreturn memory(none) {{",
        *[f"  {p} = alloca {v}, align {room}" for p in memory],
        *_large(dtype, operands, v, "%lanes", n),
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


def _of_double(function: str, dtype: str, xs: list[str], result: str) -> list[str]:
    """A function of doubles applied to numbers of either type."""
    if dtype == "f64":
        return [f"  {result} = call double {function}({', '.join(f'double {x}' for x in xs)})"]
    wide = [f"%wide{i}" for i in range(len(xs))]
    return [
        *[f"  {y} = fpext float {x} to double" for x, y in zip(xs, wide, strict=True)],
        f"  %of_wide = call double {function}({', '.join(f'double {x}' for x in wide)})",
        f"  {result} = fptrunc double %of_wide to float",
    ]


def _lanes(dtype: str, operands: int) -> list[str]:
    """The loop that replaces numbers y by a function of the operands where these are far out."""
    t = _TYPES[dtype]
    xs = _operands(operands)
    pointers = ["%p" + x[1:] for x in (*xs, "%y")]
    head = ", ".join(f"ptr {p}" for p in pointers)
    return [
        f"define internal void @{PREFIX}lanes{operands}.{dtype}({head}, i64 %n, ptr %f) noinline cold nounwind willreturn {{",
        "  br label %lane",
        "lane:",
        "  %i = phi i64 [ 0, %0 ], [ %next, %following ]",
        *[f"  {p}.i = getelementptr {t}, ptr {p}, i64 %i" for p in pointers],
        *[f"  {x} = load {t}, ptr {p}.i" for x, p in zip(xs, pointers)],
        *_large(dtype, operands, t, "%large"),
        "  br i1 %large, label %compute, label %following",
        "compute:",
        *_of_double("%f", dtype, xs, "%y"),
        f"  store {t} %y, ptr %py.i",
        "  br label %following",
        "following:",
        "  %next = add nuw nsw i64 %i, 1",
        "  %more = icmp ult i64 %next, %n",
        "  br i1 %more, label %lane, label %end",
        "end:",
        "  ret void",
        "}",
    ]
