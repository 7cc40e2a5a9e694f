"""Programs made out of programs: running a transform's interpreter over a program while recording, and remembering the result."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from tracegrad.ir import source
from tracegrad.ir.bind import using
from tracegrad.ir.evaluate import substitute
from tracegrad.ir.program import Atom, Constant, Equation, Literal, Program, Var
from tracegrad.ir.types import ArrayType, is_key, is_tape
from tracegrad.tracer.errors import UnexpectedTracerError, describe
from tracegrad.tracer.staging import Staging
from tracegrad.tracer.tracer import Tracer
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.duplicates import merge_common
from tracegrad.transforms.residuals import kept_and_rebuilt
from tracegrad.transforms.zero import instantiate

F = TypeVar("F", bound=Callable[..., Any])


def cached(fun: F) -> F:
    """Remember what `fun(program, *key)` returned while the program lives, and some time longer; repeated layers are transformed once."""
    memory: WeakKeyDictionary[Program, dict[Any, Any]] = WeakKeyDictionary()
    # A function traced anew for each use makes equal programs that die soon; the latest are kept, unless they hold data.
    recent: deque[Program] = deque(maxlen=256)

    @functools.wraps(fun)
    def remembering(program: Program, *key: Any) -> Any:
        results = memory.get(program)
        if results is None:
            results = memory[program] = {}
            if not program.constants:
                recent.append(program)
        try:
            return results[key]
        except KeyError:
            result = results[key] = fun(program, *key)
            return result

    return remembering  # type: ignore[return-value]


def stage(fun: Callable[..., Sequence[Any]], in_types: Sequence[ArrayType], name: str) -> Program:
    """The program of `fun`, which is closed: concrete arrays that it makes become constants."""
    staging = Staging(name)
    tracers = [staging.new_input(t) for t in in_types]
    with using(staging), source.looking_at_stack():
        atoms = [staging.atom(x) for x in fun(*tracers)]
    return close(staging, atoms)


def close(staging: Staging, outputs: Sequence[Atom]) -> Program:
    """End a recording that captured nothing but concrete arrays; dead equations go."""
    program, captured = pruned(staging, outputs)
    if not captured:
        return program
    n = len(captured)
    constants = [Constant(v, concrete_constant(v, x)) for v, x in zip(program.inputs, captured)]
    return program.replace(inputs=program.inputs[n:], constants=constants)


def concrete_constant(var: Var, x: Any) -> np.ndarray:
    if isinstance(x, Tracer):
        raise UnexpectedTracerError(
            f"A derivative or batching rule uses a traced value that is not among its arguments: {describe(x)}, while tracing {x.owner()}.\n"
            "A custom rule may read values of an outer trace only through its arguments: pass the value to the custom function as an "
            "argument (and, in custom_vjp, on to bwd among the residuals), or convert the closure with closure_convert."
        )
    if is_key(var.type.dtype):
        raise NotImplementedError("a rule captured an array of random keys; pass the keys as an argument")
    if is_tape(var.type.dtype):
        raise NotImplementedError("a rule captured what a loop of unknown length has recorded; pass it as an argument, among the residuals")
    return np.asarray(x).astype(var.type.dtype, copy=False)


def pruned(staging: Staging, outputs: Sequence[Atom]) -> tuple[Program, list[Any]]:
    """End a recording without the equations that nothing reads, and without the captured values that only those read."""
    live = {a for a in outputs if type(a) is Var}
    kept: list[Equation] = []
    for eqn in reversed(staging.equations):
        if any(v in live for v in eqn.outputs) or eqn.has_effects:
            kept.append(eqn)
            live.update([a for a in eqn.inputs if type(a) is Var])
    kept.reverse()
    staging.closed = True
    captured = [(v, x) for v, x in staging.captured.values() if v in live]
    program = Program([v for v, _ in captured] + staging.inputs, (), kept, outputs, staging.name)
    return program, [x for _, x in captured]


class Split(NamedTuple):
    """A program in two parts: what is known first, and what depends on the rest.

    known: takes the known inputs, gives the known outputs and then the stored residuals.
    unknown: takes the residuals and then the unknown inputs.
    residuals: where each comes from: ("in", i), the i-th known input; ("out", k), the k-th output of `known`.
    unknown_out: which outputs of the original are computed by `unknown`. num_outs: how many `known` gives before the stored residuals.
    """

    known: Program
    unknown: Program
    residuals: tuple[tuple[str, int], ...]
    unknown_out: tuple[bool, ...]
    num_outs: int

    @property
    def num_residuals(self) -> int:
        return len(self.residuals)

    def pick(self, known_inputs: Sequence[Any], known_outputs: Sequence[Any]) -> list[Any]:
        """The residuals, given the values that went into and came out of `known`."""
        return [known_inputs[i] if where == "in" else known_outputs[i] for where, i in self.residuals]


def finish_split(
    known: Staging, unknown: Staging, known_outs: Sequence[Any], unknown_outs: Sequence[Any], unknown_out: Sequence[bool]
) -> Split:
    """End the two recordings of a split, with as little as possible kept between them.

    Residuals that are inputs or outputs of the known part are not given out again, equal ones are one, and what a few cheap operations make
    of others, or of something smaller, is computed again.
    """
    with using(unknown):
        unknown_outs = [instantiate(x) for x in unknown_outs]
    rest, captured = pruned(unknown, [unknown.atom(x) for x in unknown_outs])
    n, free = len(known_outs), _independent(known)
    constants: list[Constant] = []
    read: list[tuple[Var, Var]] = []
    for var, x in zip(rest.inputs, captured):
        if isinstance(x, Tracer):
            read.append((var, known.atom(x)))  # type: ignore[arg-type]  # a tracer, so a variable
        else:
            constants.append(Constant(var, concrete_constant(var, x)))
    stored = list(dict.fromkeys([a for _, a in read if a not in free]))
    program = merge_common(close(known, [*[known.atom(x) for x in known_outs], *stored]))
    merged: dict[Atom, Atom] = dict(zip(stored, program.outputs[n:]))
    # The variable of the rest that stands for a value of the known part.
    names: dict[Any, Var] = {}
    needed: dict[Var, Var] = {}
    shared: dict[Var, Atom] = {}
    for var, a in read:
        first = needed.setdefault(a, var) if a in free else names.setdefault(merged[a], var)
        if first is not var:
            shared[var] = first
    outputs: list[Atom] = list(program.outputs[:n])
    position: dict[Any, tuple[str, int]] = {v: ("in", i) for i, v in enumerate(program.inputs)}
    for i, out in enumerate(outputs):
        position.setdefault(out, ("out", i))
    fixed = {c.var: c.value for c in program.constants}
    # Inputs count less than their size, since the caller holds them for some time, if not for so long.
    at_hand = {*outputs, *fixed}
    made = program.definitions()
    _, again = kept_and_rebuilt(names, made, lambda v: 0 if v in at_hand else max(v.type.nbytes * (3 if v in position else 4), 1))
    for eqn in again:
        for v in (*eqn.inputs, *eqn.outputs):
            if type(v) is Var:
                names.setdefault(v, Var(v.type, v.name))
    remade = [eqn.replace(inputs=substitute(eqn, names), outputs=[names[v] for v in eqn.outputs]) for eqn in again]
    rebuilt = {v for eqn in again for v in eqn.outputs}
    inputs: list[Var] = []
    sources: list[tuple[str, int]] = []
    for a, var in names.items():
        if a in rebuilt:
            continue
        if a in fixed and a not in position:
            constants.append(Constant(var, fixed[a]))
            continue
        if a not in position:
            position[a] = ("out", len(outputs))
            outputs.append(a)
        inputs.append(var)
        sources.append(position[a])
    rest = rest.replace(
        inputs=[*inputs, *rest.inputs[len(captured) :]],
        constants=constants,
        equations=[*_remade(free, needed), *remade, *rest.equations],
    )
    if shared:
        rest = renamed(rest, shared)
    return Split(remove_dead_code(program.replace(outputs=outputs)), rest, tuple(sources), tuple(unknown_out), n)


def _independent(staging: Staging) -> dict[Var, Equation]:
    """What a recording computes from literals alone (zeros, counts, masks), by variable: cheaper to make again than to store."""
    free: dict[Var, Equation] = {}
    for eqn in staging.equations:
        if eqn.primitive.family in ("elementwise", "structural") and all([type(a) is Literal or a in free for a in eqn.inputs]):
            free.update([(v, eqn) for v in eqn.outputs])
    return free


def _remade(free: dict[Var, Equation], needed: dict[Var, Var]) -> list[Equation]:
    """Copies of the independent equations that give the variables `needed`, which get the names given there."""
    live = set(needed)
    kept = []
    for eqn in reversed(dict.fromkeys(free.values())):
        if not live.isdisjoint(eqn.outputs):
            kept.append(eqn)
            live.update([a for a in eqn.inputs if type(a) is Var])
    names: dict[Var, Atom] = {v: needed.get(v) or Var(v.type, v.name) for v in live}
    return [e.replace(inputs=substitute(e, names), outputs=[names[v] for v in e.outputs]) for e in reversed(kept)]


def renamed(program: Program, names: Mapping[Var, Atom]) -> Program:
    """The program reading other atoms in place of some variables."""
    equations = [e.replace(inputs=substitute(e, names)) for e in program.equations]
    outputs = [names.get(a, a) if type(a) is Var else a for a in program.outputs]
    return program.replace(equations=equations, outputs=outputs)
