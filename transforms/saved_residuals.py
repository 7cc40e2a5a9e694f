"""Seeing what a backward pass keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.types import ArrayType, is_inexact
from tracegrad.tracer.abstract import argument_names, traced
from tracegrad.transforms.inline import CALLS
from tracegrad.transforms.linearize import linearize_program


def saved_residuals(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> list[tuple[ArrayType, str]]:
    """What the backward pass of `fun` at these arguments keeps: (type, where it comes from) of each value.

    A value is described by the argument that it is, or by the operation, the line and the function that made it. One that a scan
    stacks is described by what made it in a step.
    """
    result = traced(fun, args, kwargs)
    program = result.program
    n = len(result.captured)
    nonzero = [False] * n + [is_inexact(t.dtype) for t in program.in_types[n:]]
    split = linearize_program(program, tuple(nonzero))
    names = argument_names(fun, args, kwargs)
    found = []
    for where, i in split.residuals:
        atom = split.known.inputs[i] if where == "in" else split.known.outputs[i]
        if where == "in":
            text = f"from the argument {names[i - n]}" if i >= n else "from a constant"
        else:
            text = _described(split.known, atom)
        found.append((atom.type, text))
    found += [(c.var.type, "from a constant") for c in split.unknown.constants]
    return found


def _described(program: Program, atom: Atom) -> str:
    """Where a value of a program comes from, looked for inside of calls and loops."""
    made = program.definitions()
    around: list[str] = []
    outermost: Equation | None = None
    while isinstance(atom, Var) and atom in made:
        eqn = made[atom]
        outermost = outermost or eqn
        name = eqn.primitive.name
        k = eqn.outputs.index(atom)
        if name in CALLS:
            inner: Program = eqn.params["program"]
            if name == "call":
                around.append(f"in the jitted function '{eqn.params['name']}'")
            made = inner.definitions()
            atom = inner.outputs[k]
        elif name == "scan" and k >= eqn.params["num_carry"]:
            inner = eqn.params["body"]
            around.append(f"in each of {eqn.params['length']} steps of a scan")
            made = inner.definitions()
            if inner.outputs[k] not in made:
                nc, nk = eqn.params["num_consts"], eqn.params["num_carry"]
                at = next((i for i, v in enumerate(inner.inputs) if v is inner.outputs[k]), -1)
                if nc <= at < nc + nk:
                    return f"carry {at - nc} at the start of each of {eqn.params['length']} steps of a scan{_place(eqn)}"
            atom = inner.outputs[k]
        elif name == "cond" and any(_is_made(b, k) for b in eqn.params["branches"]):
            # The branches share the result; the others may fill it with zeros.
            inner = next(b for b in eqn.params["branches"] if _is_made(b, k))
            around.append("in a branch of a cond")
            made = inner.definitions()
            atom = inner.outputs[k]
        else:
            label = f"named '{eqn.params['name']}'" if name == "name" else f"output of {name}"
            return label + _place(eqn) + "".join([f", {text}" for text in around])
    label = f"output of {outermost.primitive.name}{_place(outermost)}" if outermost is not None else "from a literal"
    return label + "".join([f", {text}" for text in around])


def _is_made(branch: Program, k: int) -> bool:
    return any(branch.outputs[k] in e.outputs and any(isinstance(a, Var) for a in e.inputs) for e in branch.equations)


def _place(eqn: Equation) -> str:
    return f" from {eqn.source} ({eqn.source.function})" if eqn.source else ""


def print_saved_residuals(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Print what the backward pass of `fun` at these arguments keeps, a line for each value: its type and where it comes from."""
    for t, text in saved_residuals(fun, *args, **kwargs):
        print(t, text)
