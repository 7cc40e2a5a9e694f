"""Inlining: calls of programs become their equations.

Differentiation and batching are done by the time a program is compiled, so the wrappers that exist for them (custom derivative
and batching rules, checkpoints, names, stop_gradient) go too.
"""

from __future__ import annotations

from tracegrad.ir.evaluate import rename, substitute
from tracegrad.ir.program import Atom, Constant, Equation, Program, Var
from tracegrad.transforms.regions import map_regions

CALLS = frozenset({"call", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call", "checkpoint"})
IDENTITIES = frozenset({"stop_gradient", "copy", "name"})


def inline_calls(program: Program) -> Program:
    """Replace every call by the equations of its program, in regions too; identities go."""
    return _inlined(program, CALLS, IDENTITIES)


def open_calls(program: Program) -> Program:
    """Replace plain calls by the equations of their programs, in regions too, in a program that is still to be differentiated.

    Calls that bring rules of their own stay, as do names and other identities.
    """
    return _inlined(program, frozenset({"call"}), frozenset())


def _inlined(program: Program, calls: frozenset[str], identities: frozenset[str]) -> Program:
    names = calls | identities
    if not any(e.primitive.name in names or e.primitive.regions for e in program.equations):
        return program
    env: dict[Var, Atom] = {}
    constants = list(program.constants)
    equations: list[Equation] = []
    for eqn in program.equations:
        _inline(eqn, env, constants, equations, calls, identities)
    outputs = rename(program.outputs, env)
    return program.replace(constants=constants, equations=equations, outputs=outputs)


def _inline(
    eqn: Equation,
    env: dict[Var, Atom],
    constants: list[Constant],
    equations: list[Equation],
    calls: frozenset[str],
    identities: frozenset[str],
) -> None:
    inputs = substitute(eqn, env)
    kind = eqn.primitive.name
    if kind in identities:
        env[eqn.outputs[0]] = inputs[0]
    elif kind in calls:
        body = _inlined(eqn.params["program"], calls, identities)
        # One program may be called many times: each copy of its equations binds variables of its own.
        inner: dict[Var, Atom] = dict(zip(body.inputs, inputs))
        for c in body.constants:
            var = Var(c.var.type, c.var.name)
            inner[c.var] = var
            constants.append(Constant(var, c.value))
        for e in body.equations:
            outputs = [Var(v.type, v.name) for v in e.outputs]
            equations.append(Equation(e.primitive, substitute(e, inner), outputs, e.params, e.source or eqn.source))
            inner.update(zip(e.outputs, outputs))
        for var, a in zip(eqn.outputs, body.outputs):
            env[var] = inner.get(a, a) if isinstance(a, Var) else a
    else:
        eqn = map_regions(eqn, lambda p: _inlined(p, calls, identities))
        equations.append(eqn.replace(inputs=inputs) if inputs != eqn.inputs else eqn)
