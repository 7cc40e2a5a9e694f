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
    """End the two recordings of a split. Residuals that are inputs or outputs of the known part are not given out again."""
    with using(unknown):
        unknown_outs = [instantiate(x) for x in unknown_outs]
    rest, captured = pruned(unknown, [unknown.atom(x) for x in unknown_outs])
    position = {v: ("in", i) for i, v in enumerate(known.inputs)}
    outputs: list[Atom] = []
    for x in known_outs:
        atom = known.atom(x)
        if type(atom) is Var:
            position.setdefault(atom, ("out", len(outputs)))
        outputs.append(atom)
    inputs: list[Var] = []
    sources: list[tuple[str, int]] = []
    constants: list[Constant] = []
    shared: dict[Var, Var] = {}
    first: dict[Var, Var] = {}
    free = _independent(known)
    needed: dict[Var, Var] = {}
    for var, x in zip(rest.inputs, captured):
        if not isinstance(x, Tracer):
            constants.append(Constant(var, concrete_constant(var, x)))
            continue
        atom = known.atom(x)
        assert type(atom) is Var  # a tracer, so not a literal
        if atom in first:
            shared[var] = first[atom]
            continue
        first[atom] = var
        if atom in free:
            needed[atom] = var
            continue
        if atom not in position:
            position[atom] = ("out", len(outputs))
            outputs.append(atom)
        inputs.append(var)
        sources.append(position[atom])
    remade = _remade(free, needed)
    rest = rest.replace(
        inputs=[*inputs, *rest.inputs[len(captured) :]], constants=constants, equations=[*remade, *rest.equations]
    )
    if shared:
        rest = renamed(rest, shared)
    return Split(close(known, outputs), rest, tuple(sources), tuple(unknown_out), len(known_outs))


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
