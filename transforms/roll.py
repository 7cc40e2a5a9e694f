"""Rolling repeated straight-line code back into loops.

A Python loop over steps of a simulation or layers of equal shape traces to one long program. Where the same equations come over and over,
with the same flow of data, they become one `scan`: what a step reads of the step before is carried, what differs from step to step (numbers,
constants, places in an array) is scanned over. The program is then compiled in the time of one step.

Only large programs are looked at: the code of small ones is better straight, where every number has its place in a register.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir.control_flow import scan_p
from tracegrad.ir.indexing import dynamic_slice_p, dynamic_update_slice_p
from tracegrad.ir.program import Atom, Constant, Equation, Literal, Program, Var
from tracegrad.ir.structural import broadcast_in_dim_p, concatenate_p, pad_p, reshape_p, rev_p, slice_p
from tracegrad.ir.types import ArrayType, is_key, is_tape

SMALLEST = 600
"""A repetition of fewer equations in all stays as it is."""
FEWEST = 8
"""So many repetitions at least."""
LONGEST = 4096
"""Equations in a step, at most."""
_CONTEXT = 6
_STACKED, _SEGMENTS = 64, 4
"""Values that differ from step to step and are not numbers are put side by side if they have at most so many elements, or are slices of at
most so many stacked results."""
INT32 = np.dtype(np.int32)


def roll_repetitions(program: Program) -> Program:
    """The program with long repetitions as scans."""
    if len(program.equations) < SMALLEST:
        return program
    for _ in range(3):  # repetitions of repetitions
        rolled = _Roller(program).run()
        # What is read one by one after a loop costs equations, too.
        if 4 * len(rolled.equations) > 3 * len(program.equations):
            break
        program = rolled
    return program


class _Place(NamedTuple):
    """Where a value comes from, in a run of steps: the step, the equation in it, which of its results."""

    step: int
    equation: int
    result: int


class _Run(NamedTuple):
    """`steps` times `period` equations, from `start` on."""

    start: int
    period: int
    steps: int


class _Segment(NamedTuple):
    """`length` slices of a stacked result from `first` on, forwards or backwards; without a stack, `variable` alone."""

    variable: Var
    stack: Var | None
    first: int
    direction: int
    length: int


def _kind(eqn: Equation) -> Any:
    """What equations share that may be one equation of a loop: all but the values they read; of slices, all but their place."""
    if eqn.has_effects:
        return id(eqn)
    operands = tuple([(type(a) is Literal, a.type) for a in eqn.inputs])
    if any(is_key(t.dtype) or is_tape(t.dtype) for _, t in operands):
        return id(eqn)
    if eqn.primitive is slice_p and all([s == 1 for s in eqn.params["strides"]]):
        return ("slice", operands, eqn.outputs[0].type)
    if _is_plain_pad(eqn):
        return ("pad", operands, eqn.outputs[0].type)
    return (eqn.primitive.name, operands, tuple([v.type for v in eqn.outputs]), tuple(sorted(eqn.params.items(), key=lambda p: p[0])))


def _is_plain_pad(eqn: Equation) -> bool:
    """Whether an equation puts a small array into a larger one that is a literal everywhere else."""
    return (
        eqn.primitive is pad_p
        and type(eqn.inputs[1]) is Literal
        and all([low >= 0 and high >= 0 and not inner for low, high, inner in eqn.params["padding_config"]])
    )


def _starts(eqn: Equation) -> tuple[int, ...]:
    """Where a slice or a plain pad has its window."""
    if eqn.primitive is slice_p:
        return tuple(eqn.params["start_indices"])
    return tuple([low for low, _, _ in eqn.params["padding_config"]]) if _is_plain_pad(eqn) else ()


class _Roller:
    def __init__(self, program: Program):
        self.program = program
        self.equations = program.equations
        self.made = {v: (g, o) for g, eqn in enumerate(program.equations) for o, v in enumerate(eqn.outputs)}
        self.constants = {c.var: c.value for c in program.constants}
        self.last_use: dict[Var, int] = {}
        for g, eqn in enumerate(program.equations):
            for a in eqn.inputs:
                if type(a) is Var:
                    self.last_use[a] = g
        for a in program.outputs:
            if type(a) is Var:
                self.last_use[a] = len(program.equations)
        self.new: list[Equation] = []
        self.new_constants: list[Constant] = []
        # Results of rolled steps: a slice of a stacked result, taken out when somebody asks.
        self.slices: dict[Var, tuple[Var, int]] = {}
        self.names: dict[Var, Atom] = {}

    def run(self) -> Program:
        runs = self._runs()
        if not runs:
            return self.program
        at = 0
        rolled = False
        for run in runs:
            for eqn in self.equations[at : run.start]:
                self._keep(eqn)
            at = run.start
            end = run.start + run.period * run.steps
            for part in self._parts(run):
                if isinstance(part, _Run):
                    self._keep_all(at, part.start)
                    self._roll(part)
                    rolled = True
                    at = part.start + part.period * part.steps
            self._keep_all(at, end)
            at = end
        if not rolled:
            return self.program
        self._keep_all(at, len(self.equations))
        outputs = [self._atom(a) for a in self.program.outputs]
        return self.program.replace(
            equations=self.new, outputs=outputs, constants=[*self.program.constants, *self.new_constants]
        )

    # Finding repetitions.

    def _runs(self) -> list[_Run]:
        """Stretches of equations that repeat in kind, apart from each other, in order."""
        ids: dict[Any, int] = {}
        kinds = np.array([ids.setdefault(_hashable(_kind(e)), len(ids)) for e in self.equations], np.int64)
        n = len(kinds)
        seen: dict[bytes, int] = {}
        distances: Counter[int] = Counter()
        for i in range(n - _CONTEXT):
            context = kinds[i : i + _CONTEXT].tobytes()
            if context in seen:
                distances[i - seen[context]] += 1
            seen[context] = i
        taken = np.zeros(n, bool)
        runs: list[_Run] = []
        frequent = [p for p, count in distances.most_common(16) if p <= LONGEST and count >= FEWEST]
        for p in sorted(frequent):
            same = (kinds[:-p] == kinds[p:]) & ~taken[:-p] & ~taken[p:]
            edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
            for low, high in zip(edges[::2].tolist(), edges[1::2].tolist()):
                count = (high - low + p) // p
                if count >= FEWEST and count * p >= SMALLEST:
                    start = low + self._phase(low, p, (high - low + p) - count * p)
                    runs.append(_Run(start, p, count))
                    taken[low : high + p] = True
        return sorted(runs)

    def _phase(self, low: int, p: int, slack: int) -> int:
        """Where a step should begin so that it reads as few values as can be of the step before."""
        best, fewest = 0, None
        for phase in range(min(slack, p - 1) + 1):
            start = low + p + phase
            crossing = {a for e in self.equations[start : start + p] for a in e.inputs if type(a) is Var and low <= self.made.get(a, (-1, 0))[0] < start}
            if fewest is None or len(crossing) < fewest:
                best, fewest = phase, len(crossing)
        return best

    def _parts(self, run: _Run) -> list[_Run]:
        """The run cut where the flow of data changes from one step to the next."""
        parts: list[_Run] = []
        first = 0
        while run.steps - first >= FEWEST:
            part = _Run(run.start + first * run.period, run.period, run.steps - first)
            agreed = self._agreeing(part)
            if agreed >= FEWEST and agreed * run.period >= SMALLEST:
                parts.append(_Run(part.start, part.period, agreed))
            first += max(agreed, 1)
        return parts

    def _place(self, a: Atom, run: _Run) -> _Place | None:
        found = self.made.get(a) if type(a) is Var else None  # type: ignore[arg-type]
        if found is None or found[0] < run.start:
            return None
        step, equation = divmod(found[0] - run.start, run.period)
        return _Place(step, equation, found[1])

    def _agreeing(self, run: _Run) -> int:
        """How many steps, from the first, have one flow of data."""
        count = run.steps
        for q in range(run.period):
            for r in range(len(self.equations[run.start + q].inputs)):
                count = min(count, self._agreeing_operand(run, q, r, count))
                if count < FEWEST:
                    return count
        return count

    def _agreeing_operand(self, run: _Run, q: int, r: int, count: int) -> int:
        def atom(t: int) -> Atom:
            return self.equations[run.start + t * run.period + q].inputs[r]

        first, second = self._place(atom(0), run), self._place(atom(1), run)
        for t in range(1, count):
            place = self._place(atom(t), run)
            if second is None:
                fits = place is None
            else:
                fits = place is not None and place[1:] == second[1:] and t - place.step == 1 - second.step and 1 - second.step in (0, 1)
            if not fits:
                return t
        if second is not None:
            # the first step reads the same of itself, or anything for what later ones read of the step before
            same_step = second.step == 1
            return count if (first is not None) == same_step and (not same_step or first[1:] == second[1:]) else 1  # type: ignore[index]
        if first is not None:
            return 1
        atoms = [atom(t) for t in range(count)]
        if all([a is atoms[0] for a in atoms]) or all([type(a) is Literal for a in atoms]):
            return count
        if any([type(a) is Literal for a in atoms]):
            return 1
        return count if self._stackable(atoms) else 1  # type: ignore[arg-type]

    def _stackable(self, variables: Sequence[Var]) -> bool:
        if all([v in self.constants for v in variables]) or variables[0].type.size <= _STACKED:
            return True
        return len(self._segments(variables)) <= _SEGMENTS

    def _segments(self, variables: Sequence[Var]) -> list[_Segment]:
        """Values in order as slices of stacked results, forwards or backwards, and single values between them."""
        segments: list[_Segment] = []
        for v in variables:
            stack, i = self.slices.get(v, (None, 0))
            last = segments[-1] if segments else None
            if last is not None and stack is not None and last.stack is stack:
                step = i - last.first if last.length == 1 else last.direction
                if step in (1, -1) and i == last.first + step * last.length:
                    segments[-1] = last._replace(direction=step, length=last.length + 1)
                    continue
            segments.append(_Segment(v, stack, i, 1, 1))
        return segments

    # Building the new program.

    def _keep_all(self, low: int, high: int) -> None:
        for eqn in self.equations[low:high]:
            self._keep(eqn)

    def _keep(self, eqn: Equation) -> None:
        inputs = tuple([self._atom(a) for a in eqn.inputs])
        self.new.append(eqn if all([a is b for a, b in zip(inputs, eqn.inputs)]) else eqn.replace(inputs=inputs))

    def _atom(self, a: Atom) -> Atom:
        """An atom of the old program in the new one."""
        if type(a) is not Var:
            return a
        known = self.names.get(a)
        if known is None and a in self.slices:
            stack, i = self.slices[a]
            known = self.names[a] = self._row(stack, i, a)
        return known if known is not None else a

    def _emit(self, primitive: Any, inputs: Sequence[Atom], t: ArrayType, **params: Any) -> Var:
        out = Var(t)
        self.new.append(Equation(primitive, inputs, [out], params))
        return out

    def _row(self, stack: Var, i: int, like: Var) -> Var:
        piece = self._cut(stack, i, i + 1)
        return self._emit(reshape_p, [piece], like.type, new_sizes=like.type.shape)

    def _cut(self, stack: Var, low: int, high: int) -> Var:
        shape = stack.type.shape
        if (low, high) == (0, shape[0]):
            return stack
        params = {"start_indices": (low, *[0] * (len(shape) - 1)), "limit_indices": (high, *shape[1:]), "strides": (1,) * len(shape)}
        return self._emit(slice_p, [stack], stack.type.update(shape=(high - low, *shape[1:])), **params)

    def _constant(self, value: np.ndarray) -> Var:
        var = Var(ArrayType(value.shape, value.dtype))
        self.new_constants.append(Constant(var, value))
        return var

    def _scanned(self, atoms: Sequence[Atom]) -> Var:
        """The values of an operand in all steps, stacked."""
        t = atoms[0].type
        if type(atoms[0]) is Literal:
            return self._constant(np.array([a.value for a in atoms], t.dtype))  # type: ignore[union-attr]
        variables: Sequence[Var] = atoms  # type: ignore[assignment]
        if all([v in self.constants for v in variables]):
            return self._constant(np.stack([self.constants[v] for v in variables]))
        row = t.update(shape=(1, *t.shape))
        pieces = []
        for segment in self._segments(variables):
            if segment.stack is None:
                pieces.append(self._emit(reshape_p, [self._atom(segment.variable)], row, new_sizes=row.shape))
            elif segment.direction == 1:
                pieces.append(self._cut(segment.stack, segment.first, segment.first + segment.length))
            else:
                piece = self._cut(segment.stack, segment.first - segment.length + 1, segment.first + 1)
                pieces.append(self._emit(rev_p, [piece], piece.type, dimensions=(0,)))
        if len(pieces) == 1:
            return pieces[0]
        return self._emit(concatenate_p, pieces, t.update(shape=(len(variables), *t.shape)), dimension=0)

    def _roll(self, run: _Run) -> None:
        steps = [self.equations[run.start + t * run.period : run.start + (t + 1) * run.period] for t in range(run.steps)]
        consts: dict[Var, Var] = {}
        carries: dict[tuple[int, int, Any], tuple[Var, Atom]] = {}
        scanned: list[tuple[Var, Var]] = []
        inner: dict[tuple[int, int], Var] = {}
        body: list[Equation] = []

        def operand(q: int, r: int) -> Atom:
            a0, a1 = steps[0][q].inputs[r], steps[1][q].inputs[r]
            place = self._place(a1, run)
            if place is not None and place.step == 1:
                return inner[place[1:]]
            if place is not None:
                key = (place.equation, place.result, a0.key if type(a0) is Literal else a0)
                if key not in carries:
                    made = steps[0][place.equation].outputs[place.result].type
                    carries[key] = (Var(made), self._atom(a0))
                return carries[key][0]
            atoms = [s[q].inputs[r] for s in steps]
            if type(a0) is Literal:
                if all([a.key == a0.key for a in atoms]):  # type: ignore[union-attr]
                    return a0
            elif all([a is a0 for a in atoms]):
                return consts.setdefault(a0, Var(a0.type))
            stack = self._scanned(atoms)
            scanned.append((Var(a0.type), stack))
            return scanned[-1][0]

        for q, eqn in enumerate(steps[0]):
            inputs = [operand(q, r) for r in range(len(eqn.inputs))]
            outputs = [Var(v.type, v.name) for v in eqn.outputs]
            inner.update([((q, o), v) for o, v in enumerate(outputs)])
            starts = [_starts(s[q]) for s in steps]
            if any([s != starts[0] for s in starts]):
                body += self._moving_window(eqn, inputs, outputs, starts, scanned)
            else:
                body.append(eqn.replace(inputs=inputs, outputs=outputs))
        kept = self._read_later(run, steps, carries)
        carry_vars = [v for v, _ in carries.values()]
        results = [inner[key[:2]] for key in carries] + [inner[key] for key in kept]
        program = Program([*consts.values(), *carry_vars, *[v for v, _ in scanned]], (), body, results, "steps")
        finals = [Var(v.type) for v in carry_vars]
        stacks = [Var(inner[key].type.update(shape=(run.steps, *inner[key].type.shape))) for key in kept]
        params = {
            "body": program,
            "length": run.steps,
            "reverse": False,
            "num_consts": len(consts),
            "num_carry": len(carries),
            "unroll": 1,
        }
        operands = [*[self._atom(v) for v in consts], *[init for _, init in carries.values()], *[s for _, s in scanned]]
        self.new.append(Equation(scan_p, operands, [*finals, *stacks], params, steps[0][0].source))
        for key, stack in zip(kept, stacks):
            for t, step in enumerate(steps):
                self.slices[step[key[0]].outputs[key[1]]] = (stack, t)
        for (equation, result, _), final in zip(carries, finals):
            self.names[steps[-1][equation].outputs[result]] = final

    def _moving_window(
        self, eqn: Equation, inputs: list[Atom], outputs: list[Var], starts: list[tuple[int, ...]], scanned: list[tuple[Var, Var]]
    ) -> list[Equation]:
        """A slice or a pad whose place differs from step to step."""
        indices: list[Atom] = []
        for column in zip(*starts):
            if all([i == column[0] for i in column]):
                indices.append(Literal(column[0], ArrayType((), INT32)))
            else:
                scanned.append((Var(ArrayType((), INT32)), self._constant(np.array(column, INT32))))
                indices.append(scanned[-1][0])
        if eqn.primitive is slice_p:
            return [Equation(dynamic_slice_p, [*inputs, *indices], outputs, {"slice_sizes": outputs[0].type.shape}, eqn.source)]
        x, value = inputs
        around = Var(outputs[0].type)
        fill = {"shape": around.type.shape, "broadcast_dimensions": ()}
        return [
            Equation(broadcast_in_dim_p, [value], [around], fill, eqn.source),
            Equation(dynamic_update_slice_p, [around, x, *indices], outputs, {}, eqn.source),
        ]

    def _read_later(self, run: _Run, steps: Sequence[Sequence[Equation]], carries: dict[Any, Any]) -> list[tuple[int, int]]:
        """The results of a step that equations after the run read, apart from last values that are carried anyway."""
        end = run.start + run.period * run.steps
        carried = {key[:2] for key in carries}
        kept: dict[tuple[int, int], None] = {}
        for t, step in enumerate(steps):
            for q, eqn in enumerate(step):
                for o, v in enumerate(eqn.outputs):
                    if self.last_use.get(v, -1) >= end and not (t == run.steps - 1 and (q, o) in carried):
                        kept[(q, o)] = None
        return list(kept)


def _hashable(kind: Any) -> Any:
    try:
        hash(kind)
    except TypeError:
        return id(kind)
    return kind
