"""Tapes made physical: the last pass before lowering, which leaves uint64 words, addresses, in their place.

A tape becomes the address of its head (`codegen.tapes`), the empty tape zero. An array of tapes is an array of words; what rearranges or
chooses tapes does so with words. The loops that write and read tapes stay; their regions say what the elements are. A loop notes, for
each of its regions in which tapes are made, whether they die with the iteration: `frees`, by the region's name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.tapes import record_while_p, tape_scan_p
from tracegrad.ir.types import ArrayType, is_tape

WORD = np.dtype(np.uint64)
_LOOPS = frozenset({"scan", "while", "record_while", "tape_scan"})


def word_type(t: ArrayType) -> ArrayType:
    """The type of the words of tapes; other types as they are."""
    return ArrayType(t.shape, WORD) if is_tape(t.dtype) else t


def mentions_tapes(program: Program) -> bool:
    """Whether a program, its regions included, has a value that is a tape."""
    if any([is_tape(v.type.dtype) for v in program.inputs]):
        return True
    for eqn in program.equations:
        if eqn.primitive.family == "tapes" or any([is_tape(v.type.dtype) for v in eqn.outputs]):
            return True
        if eqn.primitive.regions and any([mentions_tapes(region) for _, region in eqn.regions()]):
            return True
    return False


def makes_tapes(program: Program) -> bool:
    """Whether loops within a program write tapes."""
    return any([eqn.primitive is record_while_p or eqn.primitive is tape_scan_p for eqn in program.equations]) or any(
        [makes_tapes(region) for eqn in program.equations for _, region in eqn.regions()]
    )


def physical_tapes(program: Program) -> Program:
    """The program over the addresses of its tapes. A program without tapes is returned as it is."""
    if not mentions_tapes(program):
        return program
    env: dict[Var, Atom] = {}

    def named(v: Var) -> Var:
        if not is_tape(v.type.dtype):
            return v
        new = env[v] = Var(word_type(v.type), v.name)
        return new

    def read(a: Atom) -> Atom:
        return env.get(a, a) if isinstance(a, Var) else a

    inputs = [named(v) for v in program.inputs]
    equations: list[Equation] = []
    for eqn in program.equations:
        operands = [read(a) for a in eqn.inputs]
        params = _physical_params(eqn)
        equations.append(eqn.replace(inputs=operands, outputs=[named(v) for v in eqn.outputs], params=params))
    return program.replace(inputs=inputs, equations=equations, outputs=[read(a) for a in program.outputs])


def _physical_params(eqn: Equation) -> dict[str, Any]:
    params = dict(eqn.params)
    name = eqn.primitive.name
    if eqn.primitive.regions:
        for region in eqn.primitive.regions:
            old = params[region]
            params[region] = tuple(map(physical_tapes, old)) if isinstance(old, tuple) else physical_tapes(old)
        if name in _LOOPS:
            made = [r for r in eqn.primitive.regions if makes_tapes(params[r])]
            if made:
                params["frees"] = {r: not any(is_tape(t.dtype) for t in eqn.params[r].out_types) for r in made}
    elif any(is_tape(v.type.dtype) for v in (*eqn.inputs, *eqn.outputs)):
        if name in ("callback", "pure_callback"):
            raise NotImplementedError(
                f"{name}: a callback cannot take or give tapes, which is what reverse mode keeps of a loop of unknown length"
            )
        if params.get("mode") == "fill":
            params["fill_value"] = 0  # the empty tape
    return params


__all__ = ["makes_tapes", "mentions_tapes", "physical_tapes", "word_type"]
