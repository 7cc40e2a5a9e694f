"""Checking that a program is well formed: run between passes in tests and with the `verify` flag."""

from __future__ import annotations

from tracegrad.ir.program import Literal, Program, Var


class VerifyError(Exception):
    """A program breaks an invariant; the message shows the equation."""


def verify(program: Program, blame: str = "") -> Program:
    """Return `program` if it is well formed, else raise VerifyError.

    Checked, in regions too: each variable is bound once and before it is used; a region uses only its own; the type rule of each
    primitive accepts the operands and gives the declared result types; constants have their declared types.
    blame: the pass that made the program, for the message.
    """
    by = f" (after {blame})" if blame else ""
    bound: set[Var] = set()

    def bind(var: Var, where: str) -> None:
        if var in bound:
            raise VerifyError(f"{var!r} is bound twice, again in {where}{by}\n{program}")
        bound.add(var)

    for var in program.inputs:
        bind(var, "the inputs")
    for c in program.constants:
        bind(c.var, "the constants")
        if c.value.dtype != c.var.type.dtype or c.value.shape != c.var.type.shape:
            raise VerifyError(f"constant {c.var!r} holds {c.value.dtype}{list(c.value.shape)}{by}")
    for eqn in program.equations:
        at = f" at {eqn.source}" if eqn.source else ""
        for atom in eqn.inputs:
            if isinstance(atom, Var) and atom not in bound:
                raise VerifyError(f"{atom!r} is used before it is bound, in {eqn!r}{at}{by}\n{program}")
        for name, region in eqn.regions():
            verify(region, blame or f"{eqn.primitive.name} {name}")
        try:
            types = eqn.primitive.type_rule(*[a.type for a in eqn.inputs], **eqn.params)
        except (TypeError, ValueError) as e:
            raise VerifyError(f"{eqn!r}{at} does not type-check{by}: {e}") from e
        declared = tuple(v.type for v in eqn.outputs)
        if len(types) != len(declared) or any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(types, declared)):
            raise VerifyError(f"{eqn.primitive.name} gives {tuple(types)} but its results are declared {declared}{at}{by}")
        for var in eqn.outputs:
            bind(var, repr(eqn))
    for atom in program.outputs:
        if isinstance(atom, Var) and atom not in bound:
            raise VerifyError(f"the output {atom!r} is not bound{by}\n{program}")
        if not isinstance(atom, (Var, Literal)):
            raise VerifyError(f"{atom!r} is neither a variable nor a literal{by}")
    return program
