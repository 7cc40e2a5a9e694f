"""The kernels of Fourier transforms of a block of lines, one line to a lane: the passes over a buffer and what goes in and out of it.

A buffer holds an element after the other, each a vector of real parts and one of imaginary parts, so that all arithmetic is on whole
vectors. The passes are those of Stockham's self-sorting algorithm (Van Loan, "Computational frameworks for the fast Fourier transform",
1992), from one buffer to another. Lengths, strides and tables are arguments: a program holds each kernel once, whatever it transforms.
The inverse transform is the forward one with real and imaginary parts exchanged on the way in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tracegrad.codegen.fft_butterflies import Element, Vectors, transform
from tracegrad.codegen.kernel import Kernel, Value

CACHE_LINE = 64
"""Bytes, on most processors."""


class Writer:
    """Makes the kernels for numbers of a type, as many lines at a time as a vector has lanes. With 512 bits, loads and stores cost the same with
    masks as without; otherwise masked ones are kept for blocks that are not full."""

    def __init__(self, real: str, lanes: int):
        self.real, self.lanes = real, lanes
        self.masked = lanes * (4 if real == "float" else 8) == 64
        self.suffix = f"{'f32' if real == 'float' else 'f64'}x{lanes}"

    def _kernel(self, name: str, pointers: str, numbers: str) -> tuple[Kernel, Vectors]:
        ins, ints = pointers.split(), numbers.split()
        k = Kernel(f"tg_fft_{name}_{self.suffix}", dict.fromkeys(ins, "ptr") | dict.fromkeys(ints, "i64"))
        k.attributes = "noinline "
        return k, Vectors(k, self.real, self.lanes)

    @property
    def _element(self) -> int:
        """Numbers to an element of a buffer."""
        return 2 * self.lanes

    # --------------------------------------------------------------------------------------------------------------- passes

    def a_pass(self, radix: int, last: bool) -> Kernel:
        """(source, target, roots, m, s): m * s butterflies. Butterfly (p, q) reads elements q + s (p + m i) and writes q + s (radix p + k),
        multiplied by root k of row p of the table. `last`: m is 1, and all roots are."""
        k, v = self._kernel(f"{'last' if last else 'pass'}{radix}", "source target roots", "m s")
        k.noalias = frozenset(("source", "target", "roots"))
        s = k["s"] * self._element

        def butterfly(source: Value, target: Value, step: Value, twiddles: Callable[[], list[Element]]) -> None:
            out = transform(v, [v.load_element(self._along(v, source, step, i)) for i in range(radix)])
            for i, (x, w) in enumerate(zip(out, [None, *twiddles()], strict=True)):
                v.store_element(self._along(v, target, s, i), v.times(x, w) if w else x)

        if last:
            with k.loop(0, s, self._element, vectorize=False) as q:
                butterfly(v.at(k["source"], q), v.at(k["target"], q), s, lambda: [()] * (radix - 1))  # type: ignore[list-item]
            return k
        with k.loop(0, k["m"], vectorize=False) as p:
            table = v.at(k["roots"], p * (2 * (radix - 1)))
            source, target = v.at(k["source"], p * s), v.at(k["target"], p * s * radix)
            with k.loop(0, s, self._element, vectorize=False) as q:
                butterfly(
                    v.at(source, q),
                    v.at(target, q),
                    s * k["m"],
                    lambda: [v.spread_element(v.at(table, 2 * i)) for i in range(radix - 1)],
                )
        return k

    def _along(self, v: Vectors, pointer: Value, step: Value, i: int) -> Value:
        return v.at(pointer, step * i) if i else pointer

    def looped_pass(self) -> Kernel:
        """(source, target, roots, circle, work, radix, m, s): a pass of any odd radix from 5 on, whose own roots are `circle`; its butterfly is
        summed in loops, two results and their mirror images at a time. work: room for `radix` elements."""
        k, v = self._kernel("pass", "source target roots circle work", "radix m s")
        k.noalias = frozenset(("source", "target", "roots", "circle", "work"))
        radix = k["radix"]
        s = k["s"] * self._element
        half = (radix - 1) >> 1
        step = s * k["m"]
        with k.loop(0, k["m"], vectorize=False) as p, k.loop(0, s, self._element, vectorize=False) as q:
            source, target = v.at(k["source"], p * s + q), v.at(k["target"], p * s * radix + q)
            table = v.at(k["roots"], p * (radix - 1) * 2 - 2)
            first = v.load_element(source)

            def pair(i: Value, sums: list[Value], source: Value = source) -> list[Value]:
                x, y = v.load_element(v.at(source, step * (i + 1))), v.load_element(v.at(source, step * (radix - 1 - i)))
                plus, place = v.plus(x, y), v.at(k["work"], i * (2 * self._element))
                v.store_element(place, plus)
                v.store_element(v.at(place, self._element), v.minus(x, y))
                return [Value(k, v.type, part) for part in v.plus((sums[0].ref, sums[1].ref), plus)]

            total = self._loop(k, half, [Value(k, v.type, part) for part in first], pair)
            v.store_element(target, (total[0].ref, total[1].ref))

            def results(numbers: list[Value], first: Element = first, target: Value = target, table: Value = table) -> None:
                starts = [*first, v.const(0.0), v.const(0.0)]

                def term(i: Value, state: list[Value]) -> list[Value]:
                    place = v.at(k["work"], i * (2 * self._element))
                    plus, minus = v.load_element(place), v.load_element(v.at(place, self._element))
                    found: list[Value] = []
                    for number, (exponent, *sums) in zip(numbers, zip(*[iter(state)] * 5, strict=True), strict=True):
                        e = exponent + number
                        e = (e >= radix).select(e - radix, e)
                        cos, sin = v.spread_element(v.at(k["circle"], e * 2))
                        terms = v.mul(plus[0], cos), v.mul(plus[1], cos), v.mul(minus[0], sin), v.mul(minus[1], sin)
                        found += [e, *(Value(k, v.type, v.add(a.ref, b)) for a, b in zip(sums, terms, strict=True))]
                    return found

                state = [x for _ in numbers for x in (k.value(0, "i64"), *(Value(k, v.type, part) for part in starts))]
                done = self._loop(k, half, state, term)
                for number, (_, *parts) in zip(numbers, zip(*[iter(done)] * 5, strict=True), strict=True):
                    ur, ui, wr, wi = (x.ref for x in parts)
                    low, high = (v.add(ur, wi), v.sub(ui, wr)), (v.sub(ur, wi), v.add(ui, wr))
                    for index, x in ((number, low), (radix - number, high)):
                        root = v.spread_element(v.at(table, index * 2))
                        v.store_element(v.at(target, s * index), v.times(x, root))

            with k.loop(1, half, 2, vectorize=False) as n:
                results([n, n + 1])
            with k.if_(k.compare("icmp ne", half & 1, k.value(0, "i64"))):
                results([half])
        return k

    def _loop(
        self, k: Kernel, count: Value, state: list[Value], body: Callable[[Value, list[Value]], list[Value]]
    ) -> list[Value]:
        """A loop that runs at least once and whose state stays in registers; its state at the end."""
        before, head, done = (k.fresh(name) for name in ("before", "sum", "summed"))
        k.branch(before)
        k.label(before)
        k.branch(head)
        k.label(head)
        names = ["%" + k.fresh() for _ in range(2 * len(state) + 2)]
        place = len(k.lines)
        i, held = Value(k, "i64", names[0]), [Value(k, x.type, name) for x, name in zip(state, names[2:], strict=False)]
        new = body(i, held)
        phis = [f"  {names[0]} = phi i64 [ 0, %{before} ], [ {names[1]}, %{head} ]"]
        for x, old, y in zip(state, held, new, strict=True):
            phis.append(f"  {old.ref} = phi {x.type} [ {x.ref}, %{before} ], [ {y.ref}, %{head} ]")
        k.lines[place:place] = phis
        k.line(f"{names[1]} = add nsw i64 {names[0]}, 1")
        k.branch_if(Value(k, "i64", names[1]) < count, head, done)
        k.label(done)
        return new

    # ------------------------------------------------------------------------------------------------------------- in and out

    def load_lines(self, rest: bool) -> Kernel:
        """(source, re, im, next, n, line, last): lines of n elements that begin `line` numbers apart; lanes beyond the line `last` repeat it. Cache
        lines are read as a whole and transposed in registers; `rest`: n may be no multiple of what one holds. next: what is read after this."""
        k, v = self._kernel(f"load_lines{'_rest' * rest}", "source re im next", "n line last")
        addresses = self._lines(k)
        with self._squares(k) as j:
            rows = self._transposed(v, [v.load(p, v.bytes) for p in addresses(k["source"], j)])
            for i, x in enumerate(rows):
                v.store(v.at(k["im" if i % 2 else "re"], (j + i // 2) * self._element), x)
            self._prefetch(k, j * self._element, self.lanes * self.lanes)
        even, odd = range(0, 2 * v.lanes, 2), range(1, 2 * v.lanes, 2)
        if rest:
            with self._rest(k) as j:
                pairs = [k.emit(v.pair, f"load {v.pair}, ptr {p.ref}, align {v.bytes}").ref for p in addresses(k["source"], j)]
                x, y = v.joined(pairs[: v.lanes // 2]), v.joined(pairs[v.lanes // 2 :])
                v.store(v.at(k["re"], j * self._element), v.shuffle(x, y, even))
                v.store(v.at(k["im"], j * self._element), v.shuffle(x, y, odd))
        return k

    def store_lines(self, rest: bool) -> Kernel:
        """(target, re, im, scale, n, line, last): the way back, times the number at `scale`."""
        k, v = self._kernel(f"store_lines{'_rest' * rest}", "target re im scale", "n line last")
        addresses, scale = self._lines(k), v.spread(k["scale"])
        with self._squares(k) as j:
            places = [v.at(k["im" if i % 2 else "re"], (j + i // 2) * self._element) for i in range(v.lanes)]
            rows = self._transposed(v, [v.mul(v.load(p), scale) for p in places])
            for p, row in zip(addresses(k["target"], j), rows, strict=True):
                v.store(p, row, v.bytes)
        if rest:
            with self._rest(k) as j:
                x = self._interleaved(v, j * self._element, scale)
                for i, p in enumerate(addresses(k["target"], j)):
                    half, first = divmod(2 * i, v.lanes)
                    pair = v.shuffle(x[half], x[half], (first, first + 1))
                    k.line(f"store {v.pair} {pair}, ptr {p.ref}, align {v.bytes}")
        return k

    def _lines(self, k: Kernel) -> Callable[[Value, Value], list[Value]]:
        """What gives the addresses of element j of all lanes."""
        steps = [(k["last"] >= lane).select(k["line"], k.value(0, "i64")) for lane in range(1, self.lanes)]

        def addresses(memory: Value, j: Value) -> list[Value]:
            found = [k.offset(memory, j * 2, self.real)]
            for step in steps:
                found.append(k.offset(found[-1], step, self.real))
            return found

        return addresses

    @contextmanager
    def _squares(self, k: Kernel) -> Iterator[Value]:
        each = self.lanes // 2
        with k.loop(0, k.emit("i64", f"and i64 {k['n'].ref}, {-each}"), each, vectorize=False) as j:
            yield j

    @contextmanager
    def _rest(self, k: Kernel) -> Iterator[Value]:
        with k.loop(k.emit("i64", f"and i64 {k['n'].ref}, {-(self.lanes // 2)}"), k["n"], vectorize=False) as j:
            yield j

    def _transposed(self, v: Vectors, rows: list[str]) -> list[str]:
        n = v.lanes
        rows = list(rows)
        h = n // 2
        while h:
            first = [j if not j & h else n + j - h for j in range(n)]
            second = [j + h if not j & h else n + j for j in range(n)]
            for i in range(n):
                if not i & h:
                    x, y = rows[i], rows[i + h]
                    rows[i], rows[i + h] = v.shuffle(x, y, first), v.shuffle(x, y, second)
            h //= 2
        return rows

    def _prefetch(self, k: Kernel, place: Value, count: int) -> None:
        """Ask for `count` numbers from a place on of what is read next, so that they are in the second cache by then."""
        k.externals["llvm.prefetch.p0"] = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
        p = k.emit("ptr", f"getelementptr {self.real}, ptr {k['next'].ref}, i64 {place.ref}")
        each = CACHE_LINE // (4 if self.real == "float" else 8)
        for i in range(0, count, each):
            q = k.emit("ptr", f"getelementptr {self.real}, ptr {p.ref}, i64 {i}")
            k.line(f"call void @llvm.prefetch.p0(ptr {q.ref}, i32 0, i32 2, i32 1)")

    def _interleaved(self, v: Vectors, place: Value, scale: str) -> tuple[str, str]:
        k, n = v.k, v.lanes
        low = [x for i in range(n // 2) for x in (i, n + i)]
        re, im = (v.mul(v.load(v.at(k[part], place)), scale) for part in ("re", "im"))
        return v.shuffle(re, im, low), v.shuffle(re, im, [x + n // 2 for x in low])

    def load_columns(self) -> Kernel:
        """(source, re, im, next, n, step, lanes): lines side by side, `step` numbers from one of their elements to the next."""
        k, v = self._kernel("load_columns", "source re im next", "n step lanes")
        even, odd = range(0, 2 * v.lanes, 2), range(1, 2 * v.lanes, 2)

        def lines(load: Callable[[Value, int], str]) -> None:
            with k.loop(0, k["n"], vectorize=False) as j:
                source, place = v.at(k["source"], j * k["step"]), j * self._element
                x, y = load(source, 0), load(v.at(source, v.lanes), 1)
                v.store(v.at(k["re"], place), v.shuffle(x, y, even))
                v.store(v.at(k["im"], place), v.shuffle(x, y, odd))
                self._prefetch(k, j * k["step"], self._element)

        masks = self._masks(v)
        if self.masked:
            lines(lambda p, i: self._masked_load(v, p, masks[i]))
        else:
            k.if_else(
                k["lanes"].eq(v.lanes),
                lambda: lines(lambda p, _: v.load(p, v.bytes)),
                lambda: lines(lambda p, i: self._masked_load(v, p, masks[i])),
            )
        return k

    def store_columns(self) -> Kernel:
        """(target, re, im, scale, n, step, lanes): the way back, times the number at `scale`."""
        k, v = self._kernel("store_columns", "target re im scale", "n step lanes")
        scale = v.spread(k["scale"])

        def lines(store: Callable[[Value, str, int], None]) -> None:
            with k.loop(0, k["n"], vectorize=False) as j:
                target = v.at(k["target"], j * k["step"])
                for i, x in enumerate(self._interleaved(v, j * self._element, scale)):
                    store(v.at(target, i * v.lanes), x, i)

        masks = self._masks(v)
        if self.masked:
            lines(lambda p, x, i: self._masked_store(v, p, x, masks[i]))
        else:
            k.if_else(
                k["lanes"].eq(v.lanes),
                lambda: lines(lambda p, x, _: v.store(p, x, v.bytes)),
                lambda: lines(lambda p, x, i: self._masked_store(v, p, x, masks[i])),
            )
        return k

    def _masks(self, v: Vectors) -> list[str]:
        """Masks for the first and second vector of numbers, of which 2 * lanes count."""
        k, n = v.k, v.lanes
        word = f"<{n} x i32>"
        count = k.emit("i32", f"trunc i64 {(k['lanes'] * 2).ref} to i32")
        one = k.emit(word, f"insertelement {word} poison, {count!r}, i32 0")
        every = k.emit(word, f"shufflevector {word} {one.ref}, {word} poison, <{n} x i32> zeroinitializer")
        masks = []
        for start in (0, n):
            places = ", ".join(f"i32 {start + i}" for i in range(n))
            masks.append(k.emit(f"<{n} x i1>", f"icmp slt {word} <{places}>, {every.ref}").ref)
        return masks

    def _masked_load(self, v: Vectors, pointer: Value, mask: str) -> str:
        name, m = f"llvm.masked.load.v{v.lanes}f{8 * v.bytes}.p0", f"<{v.lanes} x i1>"
        v.k.externals[name] = f"declare {v.type} @{name}(ptr, i32, {m}, {v.type})"
        text = f"call {v.type} @{name}(ptr {pointer.ref}, i32 {v.bytes}, {m} {mask}, {v.type} zeroinitializer)"
        return v.k.emit(v.type, text).ref

    def _masked_store(self, v: Vectors, pointer: Value, x: str, mask: str) -> None:
        name, m = f"llvm.masked.store.v{v.lanes}f{8 * v.bytes}.p0", f"<{v.lanes} x i1>"
        v.k.externals[name] = f"declare void @{name}({v.type}, ptr, i32, {m})"
        v.k.line(f"call void @{name}({v.type} {x}, ptr {pointer.ref}, i32 {v.bytes}, {m} {mask})")

    def load_numbers(self) -> Kernel:
        """(source, target, n, line, last): lines of n real numbers, one by one, as complex ones; as for `load_lines`."""
        k, v = self._kernel("load_numbers", "source target", "n line last")
        with k.loop(0, v.lanes, vectorize=False) as lane:
            line = v.at(k["source"], (k["last"] < lane).select(k["last"], lane) * k["line"])
            with k.loop(0, k["n"], vectorize=False) as j:
                place = v.at(k["target"], j * self._element + lane)
                k.line(f"store {k.load(v.at(line, j), v.scalar)!r}, ptr {place.ref}")
                k.line(f"store {v.scalar} 0.0, ptr {v.at(place, v.lanes).ref}")
        return k

    def store_numbers(self) -> Kernel:
        """(target, source, scale, n, line, last): real parts on the way back, times the number at `scale`."""
        k, v = self._kernel("store_numbers", "target source scale", "n line last")
        scale = k.load(k["scale"], v.scalar)
        with k.loop(0, k["last"] + 1, vectorize=False) as lane:
            line = v.at(k["target"], lane * k["line"])
            with k.loop(0, k["n"], vectorize=False) as j:
                x = k.load(v.at(k["source"], j * self._element + lane), v.scalar) * scale
                k.line(f"store {x!r}, ptr {v.at(line, j).ref}")
        return k

    # ------------------------------------------------------------------------------------------------------------ real numbers

    def split_real(self) -> Kernel:
        """(source, target, roots, m): from the transform of m elements whose real and imaginary parts are the even and odd numbers
        of a line to the m + 1 nonnegative frequencies of the line."""
        k, v = self._kernel("split_real", "source target roots", "m")
        k.noalias = frozenset(("source", "target", "roots"))
        m, half = k["m"], v.const(0.5)
        first = v.load_element(k["source"])
        zero = v.const(0.0)
        v.store_element(k["target"], (v.add(*first), zero))
        v.store_element(v.at(k["target"], m * self._element), (v.sub(*first), zero))
        with k.loop(1, (m >> 1) + 1, vectorize=False) as i:
            low, high = i * self._element, (m - i) * self._element
            x, y = v.load_element(v.at(k["source"], low)), v.load_element(v.at(k["source"], high))
            even = v.mul(v.add(x[0], y[0]), half), v.mul(v.sub(x[1], y[1]), half)
            odd = v.mul(v.add(x[1], y[1]), half), v.mul(v.sub(y[0], x[0]), half)
            w = v.times(odd, v.spread_element(v.at(k["roots"], i * 2)))
            v.store_element(v.at(k["target"], low), v.plus(even, w))
            difference = v.minus(even, w)
            v.store_element(v.at(k["target"], high), (difference[0], v.neg(difference[1])))
        return k

    def join_real(self) -> Kernel:
        """(source, target, roots, m): the way back, for the inverse transform: twice the elements, real and imaginary parts exchanged."""
        k, v = self._kernel("join_real", "source target roots", "m")
        k.noalias = frozenset(("source", "target", "roots"))
        m = k["m"]
        x, y = v.load(k["source"]), v.load(v.at(k["source"], m * self._element))
        v.store_element(k["target"], (v.sub(x, y), v.add(x, y)))
        with k.loop(1, (m >> 1) + 1, vectorize=False) as i:
            low, high = i * self._element, (m - i) * self._element
            a, b = v.load_element(v.at(k["source"], low)), v.load_element(v.at(k["source"], high))
            even = v.add(a[0], b[0]), v.sub(a[1], b[1])
            difference = v.sub(a[0], b[0]), v.add(a[1], b[1])
            cos, sin = v.spread_element(v.at(k["roots"], i * 2))
            odd = v.times(difference, (cos, v.neg(sin)))
            # even + i odd, and at the other frequency the conjugates: conj(even) + i conj(odd)
            v.store_element(v.at(k["target"], low), (v.add(even[1], odd[0]), v.sub(even[0], odd[1])))
            v.store_element(v.at(k["target"], high), (v.sub(odd[0], even[1]), v.add(even[0], odd[1])))
        return k

    def mirror(self) -> Kernel:
        """(target, n): all frequencies of real lines, n odd, from those up to n / 2, conjugated: for the inverse transform."""
        k, v = self._kernel("mirror", "target", "n")
        v.store(v.at(k["target"], v.lanes), v.const(0.0))
        with k.loop(1, (k["n"] + 1) >> 1, vectorize=False) as i:
            place = v.at(k["target"], i * self._element)
            x = v.load_element(place)
            v.store_element(v.at(k["target"], (k["n"] - i) * self._element), x)
            v.store(v.at(place, v.lanes), v.neg(x[1]))
        return k

    def clear(self) -> Kernel:
        """(target, begin, end, step): vectors of zeros."""
        k, v = self._kernel("clear", "target", "begin end step")
        with k.loop(k["begin"], k["end"], vectorize=False) as i:
            v.store(v.at(k["target"], i * k["step"]), v.const(0.0))
        return k

    # ------------------------------------------------------------------------------------------------------------ by elements

    def multiply(self) -> Kernel:
        """(re, im, target re, im, factors, n): elements times numbers of a table, one for all lines."""
        k, v = self._kernel("multiply", "re im tre tim factors", "n")
        with k.loop(0, k["n"], vectorize=False) as i:
            place = i * self._element
            x = v.load(v.at(k["re"], place)), v.load(v.at(k["im"], place))
            y = v.times(x, v.spread_element(v.at(k["factors"], i * 2)))
            v.store(v.at(k["tre"], place), y[0])
            v.store(v.at(k["tim"], place), y[1])
        return k

    def powers(self) -> Kernel:
        """(target, high, low, first, last, step, count, bits): elements i step (first + lane) for i up to count, as exponents of a root whose
        powers are in two tables (`fft_plan.power_tables`); lanes beyond `last` repeat it, as they do when lines are read."""
        k, v = self._kernel("powers", "target high low", "first last step count bits")
        with k.loop(0, k["count"], vectorize=False) as i, k.loop(0, v.lanes, vectorize=False) as lane:
            line = k["first"] + (k["last"] < lane).select(k["last"], lane)
            exponent = i * k["step"] * line
            above = k.emit("i64", f"lshr i64 {exponent.ref}, {k['bits'].ref}")
            below = exponent - k.emit("i64", f"shl i64 {above.ref}, {k['bits'].ref}")
            a, b = (k.offset(k[t], e * 2, "double") for t, e in (("high", above), ("low", below)))
            ar, ai, br, bi = (k.load(k.offset(p, part, "double"), "double") for p in (a, b) for part in (0, 1))
            place = v.at(k["target"], i * self._element + lane)
            for part, x in ((0, ar * br - ai * bi), (v.lanes, ar * bi + ai * br)):
                k.line(f"store {x.cast(v.scalar)!r}, ptr {v.at(place, part).ref}")
        return k

    def twist(self) -> Kernel:
        """(target, fine, coarse, n, count, turns): element a count + b times fine[b] times coarse[a], lane by lane, for a up to `turns`."""
        k, v = self._kernel("twist", "target fine coarse", "n count turns")
        k.noalias = frozenset(("target", "fine", "coarse"))
        count = k["count"]
        with k.loop(0, k["turns"], vectorize=False) as turn:
            coarse = v.load_element(v.at(k["coarse"], turn * self._element))
            start = turn * count
            left = k["n"] - start
            with k.loop(0, (left < count).select(left, count), vectorize=False) as i:
                place = v.at(k["target"], (start + i) * self._element)
                w = v.times(coarse, v.load_element(v.at(k["fine"], i * self._element)))
                v.store_element(place, v.times(v.load_element(place), w))
        return k

    # ------------------------------------------------------------------------------------------------- one line of real numbers

    def split_line(self) -> Kernel:
        """(source, target, high, low, m, bits, first, end): as `split_real`, for one line of interleaved numbers; frequencies from
        first << bits to end << bits, with their mirror images, as far as there are any. The roots come from two tables."""
        k, _ = self._kernel("split_line", "source target high low", "m bits first end")
        k.noalias = frozenset(("source", "target"))
        with k.if_(k["first"].eq(0)):
            re, im = self._number(k, "source", 0)
            self._store_number(k, "target", k.value(0, "i64"), (re + im, k.value(0.0, self.real)))
            self._store_number(k, "target", k["m"], (re - im, k.value(0.0, self.real)))
        with self._frequencies(k) as (i, (cos, sin)):
            x, y = self._number(k, "source", i), self._number(k, "source", k["m"] - i)
            even = (x[0] + y[0]) * 0.5, (x[1] - y[1]) * 0.5
            odd = (x[1] + y[1]) * 0.5, (y[0] - x[0]) * 0.5
            w = odd[0] * cos - odd[1] * sin, odd[0] * sin + odd[1] * cos
            self._store_number(k, "target", i, (even[0] + w[0], even[1] + w[1]))
            self._store_number(k, "target", k["m"] - i, (even[0] - w[0], w[1] - even[1]))
        return k

    def join_line(self) -> Kernel:
        """(source, target, high, low, m, bits, first, end): as `join_real`, for one line of interleaved numbers."""
        k, _ = self._kernel("join_line", "source target high low", "m bits first end")
        k.noalias = frozenset(("source", "target"))
        with k.if_(k["first"].eq(0)):
            first, last = self._number(k, "source", 0)[0], self._number(k, "source", k["m"])[0]
            self._store_number(k, "target", k.value(0, "i64"), (first - last, first + last))
        with self._frequencies(k) as (i, (cos, sin)):
            x, y = self._number(k, "source", i), self._number(k, "source", k["m"] - i)
            even = x[0] + y[0], x[1] - y[1]
            d = x[0] - y[0], x[1] + y[1]
            odd = d[0] * cos + d[1] * sin, d[1] * cos - d[0] * sin
            self._store_number(k, "target", i, (even[1] + odd[0], even[0] - odd[1]))
            self._store_number(k, "target", k["m"] - i, (odd[0] - even[1], even[0] + odd[1]))
        return k

    @contextmanager
    def _frequencies(self, k: Kernel) -> Iterator[tuple[Value, tuple[Value, Value]]]:
        """Loops over frequencies from 1 up to m / 2, and the root that belongs to each."""
        length = k.emit("i64", f"shl i64 1, {k['bits'].ref}")
        most = (k["m"] >> 1) + 1
        with k.loop(k["first"], k["end"], vectorize=False) as a:
            start = a * length
            high = k.offset(k["high"], a * 2, "double")
            ar, ai = (k.load(k.offset(high, part, "double"), "double") for part in (0, 1))
            left = most - start
            with k.loop(a.eq(0).cast("i64"), (left < length).select(left, length)) as b:
                low = k.offset(k["low"], b * 2, "double")
                br, bi = (k.load(k.offset(low, part, "double"), "double") for part in (0, 1))
                root = (ar * br - ai * bi).cast(self.real), (ar * bi + ai * br).cast(self.real)
                yield start + b, root

    def _number(self, k: Kernel, name: str, index: Any) -> tuple[Value, Value]:
        p = k.offset(k[name], k.value(index, "i64") * 2, self.real)
        return k.load(p, self.real), k.load(k.offset(p, 1, self.real), self.real)

    def _store_number(self, k: Kernel, name: str, index: Value, x: tuple[Value, Value]) -> None:
        p = k.offset(k[name], index * 2, self.real)
        k.line(f"store {x[0]!r}, ptr {p.ref}")
        k.line(f"store {x[1]!r}, ptr {k.offset(p, 1, self.real).ref}")


__all__ = ["Writer"]
