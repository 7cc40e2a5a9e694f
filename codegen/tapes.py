"""Lowering of the loops that write and read tapes.

`record_while` is lowered as `while` is, with the place of the next step as one more scalar that it carries; `tape_scan` as `scan` is,
with one such place for each record that it reads. Slices are read where they lie. A record that was written by a loop known here, for
just as many steps, is read without a look at its heads; others (that come from another program, from an array of tapes, or may be
empty) through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tracegrad.codegen.control_flow import (
    Carry,
    body_context,
    buffers_read,
    define_carry,
    finish_body,
    loop_operand,
)
from tracegrad.codegen.loop_ir import Value
from tracegrad.codegen.tape_memory import (
    NO_MEMORY,
    Layout,
    advanced,
    block_of,
    end_of,
    finish_record,
    length_of,
    new_record,
    opened,
    place_of,
    releasing,
    with_room,
)
from tracegrad.codegen.values import Form, Lazy, Scalars, View, literal
from tracegrad.ir.control_flow import split_scan, split_while
from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.tapes import empty_tape_p, record_while_p, tape_length_p, tape_scan_p
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

MOST_STEPS = (1 << 31) - 1


def lower_record_while(ctx: Context, eqn: Equation) -> None:
    p = eqn.params
    cond_atoms, body_atoms, carry_atoms = split_while(eqn.inputs, p["cond_nconsts"], p["body_nconsts"])
    b = ctx.b
    n = len(carry_atoms)
    cond_consts = [loop_operand(ctx, a) for a in cond_atoms]
    body_consts = [loop_operand(ctx, a) for a in body_atoms]
    read = buffers_read(cond_consts) | buffers_read(body_consts)
    carry = Carry(ctx, carry_atoms, eqn.outputs[:n], read)
    program: Program = p["body"]
    layout = Layout(program.out_types[n:])
    node = None
    inits = [b.const("i64", 0)]
    if layout.types:
        node = new_record(ctx.lowering, layout, b.const("i64", layout.first_steps))
        inits = [block_of(b, node), end_of(b, node)]
    own = len(inits)

    def head(params: list[Value]) -> Value:
        release = releasing(ctx.lowering, p, "cond")
        inner = body_context(ctx, p["cond"], read | set(carry.buffers), ())
        inner.run([*cond_consts, *carry.forms(params[own:])])
        condition: Value = inner.elements(p["cond"].outputs[0])[0]
        inner.flush_all()
        release()
        return condition

    def body(params: list[Value]) -> list[Value]:
        places: list[View] = []
        if node is not None:
            place, end = with_room(b, node, params[0], params[1], layout)
            places = [place_of(b, t, place, offset, "pointer") for t, offset in zip(layout.types, layout.offsets)]
        release = releasing(ctx.lowering, p)
        inner = body_context(ctx, program, read, program.outputs)
        inner.run([*body_consts, *carry.forms(params[own:])])
        yields = finish_body(inner, carry, program.outputs, places)
        release()
        if node is None:
            return [b.op("add", "i64", params[0], b.const("i64", 1)), *yields]
        return [advanced(b, place, layout.stride), end, *yields]

    results = b.while_loop([*inits, *carry.inits], head, body)
    define_carry(ctx, carry, eqn.outputs[:n], results[own:])
    steps = results[0]
    if node is None:
        b.leave_if(b.op("icmp", "i1", steps, b.const("i64", MOST_STEPS), attr="sgt"), b.const("i32", NO_MEMORY))
    else:
        base = block_of(b, node)
        used = b.op("sub", "i64", b.op("ptrtoint", "i64", steps), b.op("ptrtoint", "i64", base))
        steps = b.op("udiv", "i64", used, b.const("i64", layout.stride))
    count = b.op("trunc", "i32", steps)
    ctx.define(eqn.outputs[n], Scalars(eqn.outputs[n].type, [count]))
    if node is not None:
        _define_tapes(ctx, node, layout, base, count, steps, eqn.outputs[n], eqn.outputs[n + 1 :])


def lower_tape_scan(ctx: Context, eqn: Equation) -> None:
    p = eqn.params
    length, *operands = eqn.inputs
    const_atoms, carry_atoms, scanned = split_scan(operands, p["num_consts"], p["num_carry"])
    n = p["num_carry"]
    b = ctx.b
    program: Program = p["body"]
    reverse = p["reverse"]
    consts = [loop_operand(ctx, a) for a in const_atoms]
    words = [ctx.scalar(a) for a in scanned]
    count = ctx.scalar(length)
    carry = Carry(ctx, carry_atoms, eqn.outputs[:n], buffers_read(consts))
    steps = b.op("sext", "i64", count)
    last = b.op("sub", "i64", steps, b.const("i64", 1))
    sources = _sources(ctx, words, count, program.in_types[len(consts) + n :])
    layout = Layout(program.out_types[n:])
    node = None
    starts: list[tuple[Value, Value]] = [(s.base, s.stride) for s in sources]
    if layout.types:
        node = new_record(ctx.lowering, layout, steps)
        base = block_of(b, node)
        starts.append((base, b.const("i64", layout.stride)))
    moves = [b.op("sub", "i64", b.const("i64", 0), stride) if reverse else stride for _, stride in starts]
    inits = [b.const("i64", 0)]
    for start, stride in starts:
        inits.append(advanced(b, start, b.op("mul", "i64", last, stride)) if reverse else start)
    own = len(inits)

    def head(params: list[Value]) -> Value:
        return b.op("icmp", "i1", params[0], steps, attr="slt")

    def body(params: list[Value]) -> list[Value]:
        slices: dict[int, Form] = {}
        for source, place in zip(sources, params[1:]):
            for k, offset in source.tapes:
                slices[k] = place_of(b, program.in_types[len(consts) + n + k], place, offset, "tape")
        xs = [slices.get(k) or _zeros(v.type) for k, v in enumerate(program.inputs[len(consts) + n :])]
        release = releasing(ctx.lowering, p)
        inner = body_context(ctx, program, buffers_read(consts), program.outputs)
        inner.run([*consts, *carry.forms(params[own:]), *xs])
        places = []
        if node is not None:
            places = [place_of(b, t, params[own - 1], offset, "pointer") for t, offset in zip(layout.types, layout.offsets)]
        yields = finish_body(inner, carry, program.outputs, places)
        release()
        moved = [advanced(b, place, int(m.attr) if m.is_const else m) for place, m in zip(params[1:own], moves)]
        return [b.op("add", "i64", params[0], b.const("i64", 1)), *moved, *yields]

    results = b.while_loop([*inits, *carry.inits], head, body)
    define_carry(ctx, carry, eqn.outputs[:n], results[own:])
    if node is not None:
        _define_tapes(ctx, node, layout, base, count, steps, length, eqn.outputs[n:])


def lower_tape_length(ctx: Context, eqn: Equation) -> None:
    word = ctx.scalar(eqn.inputs[0])
    record = ctx.lowering.records.get(word)
    count = length_of(ctx.b, word) if record is None else record[0].count
    ctx.define(eqn.outputs[0], Scalars(eqn.outputs[0].type, [count]))


def lower_empty_tape(ctx: Context, eqn: Equation) -> None:
    ctx.define(eqn.outputs[0], Scalars(eqn.outputs[0].type, [ctx.b.const("i64", 0)]))


class _Source:
    """Tapes that are read at one place: (number of the operand, bytes from there) of each."""

    __slots__ = ("base", "stride", "tapes")

    def __init__(self, base: Value, stride: Value):
        self.base = base
        self.stride = stride
        self.tapes: list[tuple[int, int]] = []


def _sources(ctx: Context, words: Sequence[Value], count: Value, types: Sequence[ArrayType]) -> list[_Source]:
    """From where to read; tapes that are known to be empty are left out."""
    b = ctx.b
    sources: dict[Any, _Source] = {}
    for k, (word, t) in enumerate(zip(words, types)):
        if word.is_const:
            continue
        record, number = ctx.lowering.records.get(word, (None, 0))
        if record is not None and (record.count is count or not record.heads):
            source = sources.setdefault(record, _Source(record.base, b.const("i64", record.layout.stride)))
            source.tapes.append((k, record.layout.offsets[number]))
            continue
        if word not in sources:
            sources[word] = _Source(*opened(b, word, t))
        sources[word].tapes.append((k, 0))
    return list(sources.values())


def _zeros(t: ArrayType) -> Lazy:
    zero = t.dtype.type(0)
    return Lazy(t, lambda b, i: literal(b, t.dtype, zero), {}, 0)


def _define_tapes(
    ctx: Context, node: Value, layout: Layout, base: Value, count: Value, steps: Value, length: Atom, outs: Sequence[Var]
) -> None:
    """Bind the tapes of a complete record. `length` is the atom of their number of steps, whose values are `count` and `steps`."""
    last, heads = _last_use(ctx.program, outs, length)
    record, words = finish_record(ctx.b, node, layout, base, count, steps, heads)
    for k, (v, word) in enumerate(zip(outs, words)):
        ctx.define(v, Scalars(v.type, [word]))
        ctx.lowering.records[word] = (record, k)
    if last is not None:
        ctx.drops.setdefault(last, []).append(node)


def _last_use(program: Program, tapes: Sequence[Var], length: Atom) -> tuple[Equation | None, bool]:
    """The last equation that reads one of the tapes, and whether their heads are read.

    There is no last one if they may be read elsewhere too, from copies of their addresses. Their heads are not read by loops of as many
    steps as they have.
    """
    own = set(tapes)
    if not own.isdisjoint(program.outputs):
        return None, True
    last = None
    heads = False
    for eqn in program.equations:
        if own.isdisjoint(eqn.inputs):
            continue
        last = eqn
        if eqn.primitive is tape_scan_p:
            first = 1 + eqn.params["num_consts"] + eqn.params["num_carry"]
            if own.isdisjoint(eqn.inputs[:first]):
                heads = heads or eqn.inputs[0] is not length
                continue
        if eqn.primitive is not tape_length_p:
            return None, True
    return last, heads


record_while_p.define(lower=lower_record_while)
tape_scan_p.define(lower=lower_tape_scan)
tape_length_p.define(lower=lower_tape_length)
empty_tape_p.define(lower=lower_empty_tape)

__all__ = ["lower_empty_tape", "lower_record_while", "lower_tape_length", "lower_tape_scan"]
