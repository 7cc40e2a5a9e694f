"""Algebraic simplification: rewrites that leave every value exactly as it was.

A rule looks at one equation (and the equations that made its operands) and answers with an atom to use instead, a replacement
equation, or None. Rules never change a result, not even its last bit or the sign of a zero: `x + 0.0` stays, since it turns -0.0
into 0.0. (The one exception: a sum of a single element is that element, where adding it to 0.0 would lose the sign of -0.0.) Each rule is a function with a one-line docstring that states the rewrite; `RULES` lists them by primitive.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tracegrad.ir.evaluate import rename, substitute
from tracegrad.ir.primitive import REGISTRY
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.types import ArrayType, is_float, is_key
from tracegrad.transforms.regions import map_regions

Made = dict[Var, Equation]
Answer = Atom | Equation | None
Rule = Callable[[Equation, Made], Answer]

# Elementwise primitives take rank-0 operands beside arrays, so a broadcast scalar need not be broadcast for them.
_IMPLICIT_BROADCAST = frozenset(
    "add sub mul div rem pow max min atan2 and or xor eq ne lt le gt ge select clamp nextafter complex shift_left "
    "shift_right_logical shift_right_arithmetic".split()
)


def simplify(program: Program) -> Program:
    """Apply the rules once, in order, in regions too. Folding and rewriting a chain takes one pass: operands come first."""
    env: dict[Var, Atom] = {}
    made: Made = {}
    kept: list[Equation] = []
    changed = False
    for eqn in program.equations:
        new = map_regions(eqn, simplify)
        inputs = substitute(eqn, env)
        if inputs != new.inputs:
            new = new.replace(inputs=inputs)
        answer: Answer = new
        while isinstance(answer, Equation):
            new = answer
            answer = _rewrite(new, made)
        if answer is not None:
            env[eqn.outputs[0]] = answer
            changed = True
            continue
        changed = changed or new is not eqn
        for v in new.outputs:
            made[v] = new
        kept.append(new)
    if not changed:
        return program
    return program.replace(equations=kept, outputs=rename(program.outputs, env))


def _rewrite(eqn: Equation, made: Made) -> Answer:
    name = eqn.primitive.name
    if name == "cond":
        return _known_branch(eqn, made)
    if len(eqn.outputs) != 1 or eqn.primitive.regions or eqn.primitive.effect:
        return None
    if name in _IMPLICIT_BROADCAST:
        narrowed = _scalar_operands(eqn, made)
        if narrowed is not None:
            return narrowed
    if eqn.inputs and all(isinstance(a, Literal) for a in eqn.inputs):
        folded = _fold(eqn)
        if folded is not None:
            return folded
    for rule in RULES.get(name, ()):
        answer = rule(eqn, made)
        if answer is not None:
            return answer
    return None


def _fold(eqn: Equation) -> Answer:
    """An operation on literals with a scalar result is a literal."""
    t = eqn.outputs[0].type
    if t.shape != () or is_key(t.dtype):
        return None
    if eqn.primitive.name == "pure_callback" or eqn.primitive.impl is not None:
        return None  # Python code is called when the program runs, and not in branches that are not taken
    (value,) = eqn.primitive.evaluate(*[np.asarray(a.value) for a in eqn.inputs], **eqn.params)  # type: ignore[union-attr]
    return Literal(np.asarray(value), t)


def _scalar_operands(eqn: Equation, made: Made) -> Answer:
    """op(x, broadcast(scalar)) -> op(x, scalar), as long as another operand has the full shape."""
    shape = eqn.outputs[0].type.shape
    if shape == ():
        return None
    inputs = list(eqn.inputs)
    full = sum(a.type.shape == shape for a in inputs)
    changed = False
    for i, a in enumerate(inputs):
        if full > 1 and isinstance(a, Var) and a.type.shape == shape:
            scalar = _broadcast_scalar(a, made)
            if scalar is not None:
                inputs[i] = scalar
                full -= 1
                changed = True
    return eqn.replace(inputs=inputs) if changed else None


def _broadcast_scalar(a: Atom, made: Made) -> Atom | None:
    eqn = made.get(a) if isinstance(a, Var) else None
    if eqn is not None and eqn.primitive.name == "broadcast_in_dim" and eqn.inputs[0].type.shape == ():
        return eqn.inputs[0]
    return None


def _known_branch(eqn: Equation, made: Made) -> Answer:
    """cond(literal; branches) stays, with the one branch that runs: inlining takes it from there."""
    index = eqn.inputs[0]
    if not isinstance(index, Literal) or len(eqn.params["branches"]) == 1:
        return None
    branches = eqn.params["branches"]
    chosen = branches[min(max(int(index.value), 0), len(branches) - 1)]
    return Equation(
        REGISTRY["call"], eqn.inputs[1:], eqn.outputs, {"program": chosen, "name": chosen.name, "inline": True}, eqn.source
    )


# ------------------------------------------------------------------------------------------------------------------- the rules


def _is(a: Atom, value: float) -> bool:
    """Whether an atom is this number, a negative zero not being a zero."""
    return isinstance(a, Literal) and bool(a.value == value) and not (value == 0 and bool(np.signbit(np.real(a.value))))


def _whole(a: Atom, eqn: Equation) -> Atom | None:
    """`a`, if it has the result's shape."""
    return a if a.type.shape == eqn.outputs[0].type.shape else None


def _scalar_value(a: Atom, made: Made) -> Atom:
    return _broadcast_scalar(a, made) or a


def _add_zero(eqn: Equation, made: Made) -> Answer:
    """x + 0 -> x for integers; x + (-0.0) -> x for floats."""
    x, y = eqn.inputs
    kind = x.type.dtype.kind
    for a, b in ((x, y), (y, x)):
        b = _scalar_value(b, made)
        if isinstance(b, Literal) and kind in "iu" and _is(b, 0):
            return _whole(a, eqn)
        if isinstance(b, Literal) and is_float(x.type.dtype) and b.value == 0 and np.signbit(b.value):
            return _whole(a, eqn)
    return None


def _sub_zero(eqn: Equation, made: Made) -> Answer:
    """x - 0 -> x."""
    x, y = eqn.inputs
    return _whole(x, eqn) if _is(_scalar_value(y, made), 0) else None


def _mul_one(eqn: Equation, made: Made) -> Answer:
    """x * 1 -> x; x * -1 -> neg x."""
    x, y = eqn.inputs
    for a, b in ((x, y), (y, x)):
        b = _scalar_value(b, made)
        if _is(b, 1):
            return _whole(a, eqn)
        if _is(b, -1) and a.type.dtype.kind in "if" and _whole(a, eqn) is not None:
            return Equation(REGISTRY["neg"], [a], eqn.outputs, {}, eqn.source)
    return None


def _div_one(eqn: Equation, made: Made) -> Answer:
    """x / 1 -> x."""
    x, y = eqn.inputs
    return _whole(x, eqn) if _is(_scalar_value(y, made), 1) else None


def _twice(name: str) -> Rule:
    def rule(eqn: Equation, made: Made) -> Answer:
        inner = made.get(eqn.inputs[0]) if isinstance(eqn.inputs[0], Var) else None
        return inner.inputs[0] if inner is not None and inner.primitive.name == name else None

    rule.__doc__ = f"{name}({name}(x)) -> x."
    return rule


def _neg_of_operand(eqn: Equation, made: Made) -> Answer:
    """x + neg(y) -> x - y; x - neg(y) -> x + y; neg(x) + y -> y - x."""
    x, y = eqn.inputs
    add = eqn.primitive.name == "add"
    inner = made.get(y) if isinstance(y, Var) else None
    if inner is not None and inner.primitive.name == "neg" and x.type.dtype.kind != "c":
        return Equation(REGISTRY["sub" if add else "add"], [x, inner.inputs[0]], eqn.outputs, {}, eqn.source)
    inner = made.get(x) if isinstance(x, Var) and add else None
    if inner is not None and inner.primitive.name == "neg" and x.type.dtype.kind != "c":
        return Equation(REGISTRY["sub"], [y, inner.inputs[0]], eqn.outputs, {}, eqn.source)
    return None


def _select_known(eqn: Equation, made: Made) -> Answer:
    """select(true, x, y) -> x; select(p, x, x) -> x."""
    pred, x, y = eqn.inputs
    pred = _scalar_value(pred, made)
    if isinstance(pred, Literal):
        return _whole(x if pred.value else y, eqn)
    return _whole(x, eqn) if x is y else None


def _select_not(eqn: Equation, made: Made) -> Answer:
    """select(not p, x, y) -> select(p, y, x)."""
    pred, x, y = eqn.inputs
    inner = made.get(pred) if isinstance(pred, Var) else None
    if inner is not None and inner.primitive.name == "not":
        return eqn.replace(inputs=[inner.inputs[0], y, x])
    return None


def _same_type(eqn: Equation, made: Made) -> Answer:
    """An operation whose result has its operand's type and moves nothing is its operand."""
    a = eqn.inputs[0]
    return a if a.type.shape == eqn.outputs[0].type.shape and a.type.dtype == eqn.outputs[0].type.dtype else None


def _literal_convert(eqn: Equation, made: Made) -> Answer:
    """convert(convert(x)) -> convert(x) when the first only widens; otherwise none."""
    inner = made.get(eqn.inputs[0]) if isinstance(eqn.inputs[0], Var) else None
    if inner is None or inner.primitive.name != "convert_element_type":
        return None
    x = inner.inputs[0]
    narrow, wide = x.type.dtype, inner.outputs[0].type.dtype
    if np.can_cast(narrow, wide, "safe") and narrow.kind == wide.kind and narrow.kind in "iuf":
        if narrow == eqn.outputs[0].type.dtype:
            return x
        return eqn.replace(inputs=[x])
    return None


def _reshape_chain(eqn: Equation, made: Made) -> Answer:
    """reshape(reshape(x)) -> reshape(x); reshape(broadcast(scalar)) -> broadcast(scalar)."""
    inner = made.get(eqn.inputs[0]) if isinstance(eqn.inputs[0], Var) else None
    if inner is None:
        return None
    if inner.primitive.name == "reshape":
        return eqn.replace(inputs=[inner.inputs[0]])
    scalar = _broadcast_scalar(eqn.inputs[0], made)
    if scalar is not None:
        return _broadcast(scalar, eqn)
    return None


def _broadcast(scalar: Atom, eqn: Equation) -> Equation:
    params = {"shape": eqn.outputs[0].type.shape, "broadcast_dimensions": ()}
    return Equation(REGISTRY["broadcast_in_dim"], [scalar], eqn.outputs, params, eqn.source)


def _of_scalar_broadcast(eqn: Equation, made: Made) -> Answer:
    """A rearrangement of a broadcast scalar is a broadcast scalar."""
    scalar = _broadcast_scalar(eqn.inputs[0], made)
    return _broadcast(scalar, eqn) if scalar is not None else None


def _broadcast_chain(eqn: Equation, made: Made) -> Answer:
    """broadcast(broadcast(x)) -> broadcast(x)."""
    inner = made.get(eqn.inputs[0]) if isinstance(eqn.inputs[0], Var) else None
    if inner is None or inner.primitive.name != "broadcast_in_dim":
        return None
    outer_dims = eqn.params["broadcast_dimensions"]
    dims = tuple([outer_dims[d] for d in inner.params["broadcast_dimensions"]])
    # An inner dimension that was stretched and is stretched no further maps through; sizes stay consistent.
    return eqn.replace(inputs=[inner.inputs[0]], params={**eqn.params, "broadcast_dimensions": dims})


def _transpose_chain(eqn: Equation, made: Made) -> Answer:
    """transpose(transpose(x)) -> transpose(x)."""
    inner = made.get(eqn.inputs[0]) if isinstance(eqn.inputs[0], Var) else None
    if inner is None or inner.primitive.name != "transpose":
        return None
    first = inner.params["permutation"]
    return eqn.replace(inputs=[inner.inputs[0]], params={"permutation": tuple([first[p] for p in eqn.params["permutation"]])})


def _identity_transpose(eqn: Equation, made: Made) -> Answer:
    """transpose by the identity -> its operand; one that only moves dimensions of size 1 -> reshape."""
    permutation = eqn.params["permutation"]
    if permutation == tuple(range(len(permutation))):
        return eqn.inputs[0]
    shape = eqn.inputs[0].type.shape
    if [p for p in permutation if shape[p] != 1] == [i for i, d in enumerate(shape) if d != 1]:
        return Equation(REGISTRY["reshape"], eqn.inputs, eqn.outputs, {"new_sizes": eqn.outputs[0].type.shape}, eqn.source)
    return None


def _no_axes(eqn: Equation, made: Made) -> Answer:
    """A reduction over no axes is its operand; a sum over axes of size 1 is a reshape."""
    axes = eqn.params["axes"]
    x = eqn.inputs[0]
    if not axes:
        return x
    if all(x.type.shape[a] == 1 for a in axes):
        return Equation(REGISTRY["reshape"], [x], eqn.outputs, {"new_sizes": eqn.outputs[0].type.shape}, eqn.source)
    return None


def _no_padding(eqn: Equation, made: Made) -> Answer:
    """pad by nothing -> its operand."""
    return eqn.inputs[0] if all(p == (0, 0, 0) for p in eqn.params["padding_config"]) else None


def _single(eqn: Equation, made: Made) -> Answer:
    """concatenate of one array -> the array."""
    return eqn.inputs[0] if len(eqn.inputs) == 1 else None


def _power(eqn: Equation, made: Made) -> Answer:
    """x ** 1 -> x; x ** 2 -> square x."""
    y = eqn.params["y"]
    if y == 1:
        return eqn.inputs[0]
    if y == 2:
        return Equation(REGISTRY["square"], eqn.inputs, eqn.outputs, {}, eqn.source)
    return None


def _literal_broadcast_convert(eqn: Equation, made: Made) -> Answer:
    """convert(broadcast(scalar)) -> broadcast(convert(scalar)) for literals."""
    scalar = _broadcast_scalar(eqn.inputs[0], made)
    if not isinstance(scalar, Literal):
        return None
    t = ArrayType((), eqn.outputs[0].type.dtype, eqn.outputs[0].type.weak)
    (value,) = eqn.primitive.evaluate(np.asarray(scalar.value), **eqn.params)
    return _broadcast(Literal(np.asarray(value), t), eqn)


RULES: dict[str, tuple[Rule, ...]] = {
    "add": (_add_zero, _neg_of_operand),
    "sub": (_sub_zero, _neg_of_operand),
    "mul": (_mul_one,),
    "div": (_div_one,),
    "neg": (_twice("neg"),),
    "not": (_twice("not"),),
    "conj": (_twice("conj"),),
    "select": (_select_known, _select_not),
    "convert_element_type": (_same_type, _literal_convert, _literal_broadcast_convert),
    "reshape": (_same_type, _reshape_chain),
    "broadcast_in_dim": (_same_type, _broadcast_chain),
    "transpose": (_identity_transpose, _transpose_chain, _of_scalar_broadcast),
    "rev": (_of_scalar_broadcast,),
    "slice": (_same_type, _of_scalar_broadcast),
    "dynamic_slice": (_same_type, _of_scalar_broadcast),
    "pad": (_no_padding,),
    "concatenate": (_single,),
    "integer_pow": (_power,),
    "copy": (_same_type,),
    **{f"reduce_{k}": (_no_axes,) for k in ("sum", "prod", "max", "min", "and", "or", "xor")},
}
