"""Expansion: primitives that are defined by a traceable function become calls of its program.

This is how users lower primitives of their own. It comes before every other pass: derivatives and batches are taken by then, and what
follows sees nothing but our own primitives, so that a compiled program, and its entry in the disk cache, depend on what a user's
primitive became and not on which object it was.
"""

from __future__ import annotations

from typing import Any

from tracegrad.ir.calls import call_p
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Equation, Program, param_bytes
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.inline import inline_calls
from tracegrad.transforms.regions import map_regions
from tracegrad.transforms.staged import stage

Key = tuple[Any, ...]


def expand_primitives(program: Program) -> Program:
    """Replace every equation whose primitive has an `expand` rule, in regions too, by a call of what the rule is traced into.

    Raises TypeError if that does not have the declared types, RecursionError if a rule applies its own primitive to the same types,
    NotImplementedError for a user's primitive without a lowering (if its results are used).
    """
    if not any(_is_users(eqn.primitive) for eqn in program.walk()):
        return program
    # What derivatives left behind needs no lowering.
    return _expand(remove_dead_code(inline_calls(program)), {}, ())


def _is_users(primitive: Primitive) -> bool:
    return "expand" in primitive.rules or primitive.impl is not None


def _expand(program: Program, known: dict[Key, Program], under_way: tuple[Key, ...]) -> Program:
    equations: list[Equation] = []
    for eqn in program.equations:
        primitive = eqn.primitive
        if "expand" in primitive.rules:
            body = _body(eqn, known, under_way)
            params = {"program": body, "name": primitive.name, "inline": True}
            equations.append(Equation(call_p, eqn.inputs, eqn.outputs, params, eqn.source))
        elif primitive.impl is not None:
            primitive.rule("lower")  # raises, unless a user lowers to loops directly
            equations.append(eqn)
        else:
            equations.append(map_regions(eqn, lambda region: _expand(region, known, under_way)))
    if all([a is b for a, b in zip(equations, program.equations)]):
        return program
    return program.replace(equations=equations)


def _body(eqn: Equation, known: dict[Key, Program], under_way: tuple[Key, ...]) -> Program:
    primitive, params = eqn.primitive, eqn.params
    types = [a.type for a in eqn.inputs]
    key: Key = (primitive, *types, *[(k, param_bytes(params[k])) for k in sorted(params)])
    if key in under_way:
        raise RecursionError(
            f"the lowering of {primitive.name!r} applies {primitive.name!r} itself to operands of the same types "
            f"({', '.join(map(str, types))}); it must be made of other operations"
        )
    body = known.get(key)
    if body is None:
        rule = primitive.rule("expand")
        traced = stage(lambda *args: rule(*args, **params), types, primitive.name)
        declared = [v.type for v in eqn.outputs]
        found = traced.out_types
        if len(found) != len(declared) or any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(found, declared)):
            raise TypeError(
                f"the lowering of the primitive {primitive.name!r} gives ({', '.join(map(str, found))}), but its abstract evaluation "
                f"says ({', '.join(map(str, declared))})"
            )
        body = known[key] = _expand(traced, known, (*under_way, key))
    return body


__all__ = ["expand_primitives"]
