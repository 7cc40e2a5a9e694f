"""Running a program: its meaning in NumPy, and re-binding it under an interpreter.

`evaluate` is the reference: every compiled program, every pass and every transform is tested against it. `run` applies the
program's equations under the current interpreter, which is how passes from programs to programs are made out of interpreters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracegrad.ir import source
from tracegrad.ir.bind import current
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var


def evaluate(program: Program, *args: Any) -> tuple[np.ndarray, ...]:
    """The results of `program` on NumPy arrays, one primitive at a time (typed keys as uint32 arrays)."""
    env: dict[Var, Any] = {c.var: c.value for c in program.constants}
    env.update(zip(program.inputs, args, strict=True))

    def read(atom: Atom) -> Any:
        return np.asarray(atom.value) if isinstance(atom, Literal) else env[atom]

    for eqn in program.equations:
        results = eqn.primitive.evaluate(*[read(a) for a in eqn.inputs], **eqn.params)
        env.update(zip(eqn.outputs, results, strict=True))
    return tuple([read(a) for a in program.outputs])


def run(program: Program, *args: Any) -> tuple[Any, ...]:
    """Apply the program's equations to values under the current interpreter; equations keep their source locations."""
    env: dict[Var, Any] = {c.var: c.value for c in program.constants}
    env.update(zip(program.inputs, args, strict=True))
    process = current().process
    with source.keeping():
        for eqn in program.equations:
            source.set(eqn.source)
            results = process(eqn.primitive, tuple([_read(env, a) for a in eqn.inputs]), eqn.params)
            for var, value in zip(eqn.outputs, results):
                env[var] = value
    return tuple([_read(env, a) for a in program.outputs])


def _read(env: dict[Var, Any], atom: Atom) -> Any:
    return atom.value if isinstance(atom, Literal) else env[atom]


def substitute(eqn: Equation, env: Mapping[Var, Atom]) -> tuple[Atom, ...]:
    """The equation's inputs with variables replaced as `env` says."""
    return rename(eqn.inputs, env)


def rename(atoms: Sequence[Atom], env: Mapping[Var, Atom]) -> tuple[Atom, ...]:
    """Atoms with variables replaced as `env` says; those it does not name stay."""
    return tuple([env.get(a, a) if isinstance(a, Var) else a for a in atoms])
