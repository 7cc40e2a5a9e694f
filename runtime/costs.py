"""Estimates of what a program costs to run."""

from __future__ import annotations

from math import prod

from tracegrad.ir.program import Equation, Program

_DEAR = frozenset(
    "exp exp2 expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh pow atan2 erf erfc erf_inv lgamma "
    "digamma logistic cbrt rsqrt sqrt igamma igammac bessel_i0e bessel_i1e zeta polygamma regularized_incomplete_beta".split()
)
_MOVING = frozenset(
    "broadcast_in_dim reshape transpose slice pad rev concatenate iota gather dynamic_slice dynamic_update_slice copy select "
    "stop_gradient convert_element_type bitcast_convert_type key_wrap key_unwrap name optimization_barrier".split()
)
_FIRST_OPERAND = ("reduce", "arg", "cum", "scatter", "sort", "top_k")


def of(program: Program) -> dict[str, float]:
    """Operations ("flops"), elementary functions among them ("transcendentals") and the bytes of all operands and results of
    equations ("bytes accessed", as if nothing were fused) in one run. Loops of unknown length count as one turn; branches as the
    dearest one."""
    total = {"flops": 0.0, "transcendentals": 0.0, "bytes accessed": 0.0}
    for eqn in program.equations:
        for name, value in of_equation(eqn).items():
            total[name] += value
    return total


def of_equation(eqn: Equation) -> dict[str, float]:
    """The same for one equation."""
    regions = [of(r) for _, r in eqn.regions()]
    if regions:
        name = eqn.primitive.name
        turns = eqn.params["length"] if name == "scan" else 1
        if name == "cond":
            regions = [max(regions, key=lambda c: (c["flops"], c["bytes accessed"]))]
        return {key: turns * sum(r[key] for r in regions) for key in regions[0]}
    elements = float(sum(v.type.size for v in eqn.outputs))
    moved = float(sum(a.type.nbytes for a in (*eqn.inputs, *eqn.outputs)))
    flops = _flops(eqn, elements)
    return {"flops": flops, "transcendentals": elements if eqn.primitive.name in _DEAR else 0.0, "bytes accessed": moved}


def _flops(eqn: Equation, elements: float) -> float:
    name = eqn.primitive.name
    if name in _MOVING:
        return 0.0
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * elements * prod(eqn.inputs[0].type.shape[d] for d in contracted)
    if name == "conv_general_dilated":
        kernel = eqn.inputs[1].type
        features = kernel.shape[eqn.params["dimension_numbers"][1][0]]
        return 2.0 * elements * kernel.size / max(features, 1)
    if name == "reduce_window":
        return elements * prod(eqn.params["window_dimensions"])
    if name.startswith(_FIRST_OPERAND):
        return float(eqn.inputs[0].type.size)
    return elements
