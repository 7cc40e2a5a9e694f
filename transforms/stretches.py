"""Elementwise work is done before arrays are stretched, and sums over copies are products.

A *stretch* is a `broadcast_in_dim`, perhaps with a `reshape` after it: `tile`, `repeat`, the cotangent of a sum. What an elementwise
operation gives for a stretched array is the stretched result for the array itself, so that is computed; the extremum over copies
is the one of a copy, and their sum that of one, times their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir.evaluate import rename, substitute
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.types import ArrayType, is_key
from tracegrad.transforms.regions import map_regions

_FAMILIES = frozenset(("elementwise", "special"))
_IDEMPOTENT = frozenset(("reduce_max", "reduce_min", "reduce_and", "reduce_or"))


class Stretch(NamedTuple):
    """reshape(broadcast_in_dim(source, shape, dims)), the reshape to the shape of the variable."""

    source: Atom
    shape: tuple[int, ...]
    dims: tuple[int, ...]


def shrink_stretches(program: Program) -> Program:
    """Move elementwise operations and reductions ahead of stretches, in regions too."""
    stretches: dict[Var, Stretch] = {}
    env: dict[Var, Atom] = {}
    kept: list[Equation] = []
    changed = False
    for eqn in program.equations:
        new = map_regions(eqn, shrink_stretches)
        inputs = substitute(eqn, env)
        if inputs != new.inputs:
            new = new.replace(inputs=inputs)
        rewritten = _rewritten(new, stretches)
        changed = changed or rewritten is not None or new is not eqn
        for e in [new] if rewritten is None else rewritten:
            _note(e, stretches)
            kept.append(e)
    if not changed:
        return program
    return program.replace(equations=kept, outputs=rename(program.outputs, env))


def _note(eqn: Equation, stretches: dict[Var, Stretch]) -> None:
    """Remember what is a stretch."""
    name = eqn.primitive.name
    x = eqn.inputs[0] if eqn.inputs else None
    if name == "broadcast_in_dim" and x is not None and x.type.size < eqn.outputs[0].type.size:
        stretches[eqn.outputs[0]] = Stretch(x, eqn.params["shape"], eqn.params["broadcast_dimensions"])
    elif name == "reshape" and x in stretches:
        stretches[eqn.outputs[0]] = stretches[x]  # type: ignore[index]


def _rewritten(eqn: Equation, stretches: dict[Var, Stretch]) -> list[Equation] | None:
    if len(eqn.outputs) != 1 or eqn.primitive.effect or is_key(eqn.outputs[0].type.dtype):
        return None
    name = eqn.primitive.name
    found = [stretches.get(a) if isinstance(a, Var) else None for a in eqn.inputs]
    if not any(found):
        return None
    if eqn.primitive.family in _FAMILIES:
        return _before(eqn, found)
    if name == "reshape" and found[0] is not None and found[0].shape == eqn.outputs[0].type.shape:
        return [_broadcast(found[0].source, found[0], eqn.outputs[0], eqn)]
    if (name == "reduce_sum" or name in _IDEMPOTENT) and found[0] is not None and found[0].shape == eqn.inputs[0].type.shape:
        return _reduced(eqn, found[0])
    return None


def _before(eqn: Equation, found: Sequence[Stretch | None]) -> list[Equation] | None:
    """op(stretch(x), ...) -> stretch(op(x, ...)), where all operands of rank above 0 are stretched alike."""
    shape = eqn.outputs[0].type.shape
    alike: Stretch | None = None
    inputs: list[Atom] = []
    for a, stretch in zip(eqn.inputs, found, strict=True):
        if a.type.shape == ():
            inputs.append(a)
            continue
        if stretch is None or a.type.shape != shape:
            return None
        if alike is None:
            alike = stretch
        elif (stretch.shape, stretch.dims, stretch.source.type.shape) != (alike.shape, alike.dims, alike.source.type.shape):
            return None
        inputs.append(stretch.source)
    if alike is None:
        return None
    (t,) = eqn.primitive.type_rule(*[a.type for a in inputs], **eqn.params)
    small = Var(t)
    equations = [eqn.replace(inputs=inputs, outputs=[small])]
    if alike.shape == shape:
        return [*equations, _broadcast(small, alike, eqn.outputs[0], eqn)]
    whole = Var(t.update(shape=alike.shape))
    reshape = Equation(REGISTRY["reshape"], [whole], eqn.outputs, {"new_sizes": shape}, eqn.source)
    return [*equations, _broadcast(small, alike, whole, eqn), reshape]


def _broadcast(source: Atom, like: Stretch, out: Var, eqn: Equation) -> Equation:
    params = {"shape": like.shape, "broadcast_dimensions": like.dims}
    return Equation(REGISTRY["broadcast_in_dim"], [source], [out], params, eqn.source)


def _reduced(eqn: Equation, stretch: Stretch) -> list[Equation] | None:
    """The reduction of a stretch over dimensions along which it repeats, from one of the copies."""
    source, shape, dims = stretch
    t: ArrayType = source.type
    size = dict(zip(dims, t.shape, strict=True))
    copies = [a for a in eqn.params["axes"] if size.get(a, 1) == 1]
    if not copies:
        return None
    count = prod([shape[a] for a in copies])
    if count == 0 or (eqn.primitive.name == "reduce_sum" and not _counts(t.dtype, count)):
        return None
    equations: list[Equation] = []

    def add(name: str, inputs: list[Atom], type: ArrayType, params: dict[str, Any]) -> Var:
        equations.append(Equation(REGISTRY[name], inputs, [Var(type)], params, eqn.source))
        return equations[-1].outputs[0]

    kept = [d for d in dims if d not in copies]
    if len(kept) < len(dims):
        sizes = tuple([size[d] for d in kept])
        source = add("reshape", [source], t.update(shape=sizes), {"new_sizes": sizes})
    if eqn.primitive.name == "reduce_sum" and count > 1:
        number = Literal(np.asarray(count).astype(t.dtype), ArrayType((), t.dtype, t.weak))
        source = add("mul", [source, number], source.type, {})
    left = [d for d in range(len(shape)) if d not in copies]
    params = {"shape": tuple([shape[d] for d in left]), "broadcast_dimensions": tuple([left.index(d) for d in kept])}
    source = add("broadcast_in_dim", [source], t.update(shape=params["shape"]), params)
    rest = tuple([left.index(a) for a in eqn.params["axes"] if a not in copies])
    equations.append(eqn.replace(inputs=[source], params={**eqn.params, "axes": rest}))
    return equations


def _counts(dtype: np.dtype, count: int) -> bool:
    """Whether a product with so many copies is their sum in this dtype: of a number that is represented exactly."""
    if dtype.kind in "iu":
        return True
    digits = {2: 8, 4: 24, 8: 53}[dtype.itemsize // (2 if dtype.kind == "c" else 1)]
    return dtype.kind in "fc" and count <= 1 << digits
