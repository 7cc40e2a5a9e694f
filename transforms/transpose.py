"""Transposition: turning a program that is linear in some inputs around, from cotangents of outputs to cotangents of those inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.ir import source
from tracegrad.ir.bind import current
from tracegrad.ir.program import Equation, Literal, Program, Var
from tracegrad.ir.types import is_inexact, tangent_type
from tracegrad.transforms.staged import cached, stage
from tracegrad.transforms.tape_values import add_values
from tracegrad.transforms.zero import Linear, Zero, instantiate


def backward(program: Program, inputs: Sequence[Any], cts: Sequence[Any]) -> list[Any]:
    """The cotangents of the linear inputs, given those of the outputs (arrays or `Zero`).

    inputs: a value for each input that the program is not linear in, a `Linear` for the others. What does not depend on linear inputs is
    computed first; then cotangents flow against the equations, and meet by addition. Returns one entry per `Linear`.
    """
    linear: set[Var] = {v for v, x in zip(program.inputs, inputs, strict=True) if type(x) is Linear}
    env: dict[Var, Any] = {c.var: c.value for c in program.constants}
    env.update([(v, x) for v, x in zip(program.inputs, inputs) if type(x) is not Linear])
    wanted = [v for v in program.inputs if v in linear]
    sweep: list[Equation] = []
    ct_of: dict[Var, Any] = {}
    process = current().process

    def read(atom: Any) -> Any:
        return atom.value if isinstance(atom, Literal) else env[atom]

    def receive(atom: Any, ct: Any) -> None:
        if ct is None or type(ct) is Zero or atom not in linear:
            return
        known = ct_of.get(atom)
        ct_of[atom] = ct if known is None else add_values(known, ct)

    with source.keeping():
        for eqn in program.equations:
            if any([a in linear for a in eqn.inputs]):
                linear.update(eqn.outputs)
                sweep.append(eqn)
            else:
                source.set(eqn.source)
                env.update(zip(eqn.outputs, process(eqn.primitive, tuple([read(a) for a in eqn.inputs]), eqn.params)))
        for atom, ct in zip(program.outputs, cts, strict=True):
            receive(atom, ct)
        for eqn in reversed(sweep):
            out_cts = [ct_of.pop(v, None) for v in eqn.outputs]
            if all([ct is None for ct in out_cts]):
                continue
            source.set(eqn.source)
            out_cts = [Zero(tangent_type(v.type)) if ct is None else ct for v, ct in zip(eqn.outputs, out_cts)]
            operands = [Linear(a.type) if a in linear else read(a) for a in eqn.inputs]
            if any([type(x) is Linear and x.type.dtype.kind in "iub" for x in operands]):
                _check_linear(eqn, operands)
            for atom, ct in zip(eqn.inputs, eqn.primitive.rule("transpose")(out_cts, operands, **eqn.params)):
                receive(atom, ct)
    return [ct_of[v] if v in ct_of else Zero(tangent_type(v.type)) for v in wanted]


def _check_linear(eqn: Equation, operands: Sequence[Any]) -> None:
    """Raise NotImplementedError if an equation takes an integer or boolean that was made of what it should be linear in."""
    for x in operands:
        if type(x) is Linear and not is_inexact(x.type.dtype) and any([is_inexact(v.type.dtype) for v in eqn.outputs]):
            raise NotImplementedError(
                f"the transpose of {eqn.primitive} in its operand {x.type}, which is computed from the arguments that are transposed: a function "
                "that compares or rounds them, or uses them as indices or predicates, is not linear in them"
            )


@cached
def transpose_program(
    program: Program, linear: tuple[bool, ...], nonzero: tuple[bool, ...], instantiated: tuple[bool, ...] = ()
) -> tuple[Program, tuple[bool, ...]]:
    """Transposition as a program: (inputs that are not linear..., nonzero cotangents...) -> nonzero cotangents of the linear inputs.

    nonzero: which outputs have cotangents. instantiated: which linear inputs get one in any case. Returns the program and which have one.
    """
    fixed = [v.type for v, lin in zip(program.inputs, linear, strict=True) if not lin]
    nonzero_out: tuple[bool, ...] = ()

    def fun(*values: Any) -> list[Any]:
        nonlocal nonzero_out
        known, given = iter(values[: len(fixed)]), iter(values[len(fixed) :])
        inputs = [Linear(v.type) if lin else next(known) for v, lin in zip(program.inputs, linear)]
        cts = [next(given) if nz else Zero(tangent_type(a.type)) for a, nz in zip(program.outputs, nonzero, strict=True)]
        results = backward(program, inputs, cts)
        forced = instantiated or (False,) * len(results)
        nonzero_out = tuple([f or type(ct) is not Zero for ct, f in zip(results, forced)])
        return [instantiate(ct) for ct, nz in zip(results, nonzero_out) if nz]

    ct_types = [tangent_type(a.type) for a, nz in zip(program.outputs, nonzero) if nz]
    result = stage(fun, [*fixed, *ct_types], program.name)
    return result, nonzero_out
