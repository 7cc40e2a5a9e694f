"""Lowering of scan, while, cond and calls: structured control flow of the one native function.

Small carries are scalars of the loop, large ones live in one buffer each. A body writes a large carry in place when nothing reads the
old value any more, or reads it only where it writes; else into a second buffer, and the two change places (`turns.py`). A scan reads its
slices where they are in the array scanned over, and writes its outputs where they are to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.codegen.builder import Loop
from tracegrad.codegen.combining import flatten, unflatten
from tracegrad.codegen.elementwise import waits
from tracegrad.codegen.loop_ir import Buffer, Index, Value
from tracegrad.codegen.nests import PARALLEL_WORK, Group, tasks_of
from tracegrad.codegen.plan import COSTS
from tracegrad.codegen.reductions import as_lazy
from tracegrad.codegen.tape_memory import releasing
from tracegrad.codegen.turns import exchange, may_move
from tracegrad.codegen.values import (
    IDENTICAL,
    INVARIANT,
    POSITION,
    Form,
    Lazy,
    Pending,
    Root,
    Scalar,
    Scalars,
    View,
    dense_strides,
    leaves_of,
    literal,
)
from tracegrad.ir.calls import (
    call_p,
    checkpoint_p,
    custom_jvp_call_p,
    custom_vjp_call_p,
    custom_vmap_call_p,
    name_p,
    optimization_barrier_p,
)
from tracegrad.ir.contractions import dot_general_p
from tracegrad.ir.control_flow import cond_p, scan_p, split_scan, split_while, while_p
from tracegrad.ir.program import Atom, Equation, Program, Var
from tracegrad.ir.types import ArrayType

if TYPE_CHECKING:
    from tracegrad.codegen.lower import Context

KEPT_LAZY = 1
"""A lazy operand of a loop that costs more is computed before the loop."""


def loop_operand(ctx: Context, atom: Atom) -> Form:
    """An operand that a loop's body reads any number of times: registers, memory, or something that costs nothing."""
    form = ctx.value(atom)
    ctx.settle(form)
    if type(form) is Pending:
        form = form.root.value
    if isinstance(form, Lazy):
        if ctx.in_registers(form.type):
            return Scalars(form.type, ctx.elements(atom))
        if form.cost > KEPT_LAZY or any(how != INVARIANT for leaf, how in leaves_of(form).items() if leaf is not POSITION):
            return ctx.view(atom)
    return form


class Carry:
    """The carried values of a loop: scalars for small ones, a buffer for each large one, apart from what the loop is `reading`.

    moves: of the buffers that a turn leaves for others, where the next value is; made: the statements that write the first values.
    """

    def __init__(self, ctx: Context, atoms: Sequence[Atom], outs: Sequence[Var], reading: set[Any], may_move: bool = False):
        self.ctx = ctx
        self.may_move = may_move
        self.moves: dict[Buffer, Buffer] = {}
        self.made: dict[Buffer, list[Any]] = {}
        self.types = [a.type for a in atoms]
        self.views: list[View | None] = []
        self.first: list[Scalar] = []
        self.counts: list[int] = []
        # registers first: what is computed from memory must be read before that memory becomes a carry
        small = [a.type.size == 0 or ctx.in_registers(a.type) for a in atoms]
        elements = [ctx.elements(a) if s and a.type.size else [] for a, s in zip(atoms, small)]
        taken = set(reading)
        for atom, out, s, found in zip(atoms, outs, small, elements):
            if s:
                self.views.append(None)
                self.first.extend(found)
                self.counts.append(len(found))
                continue
            before = len(ctx.b.scopes[-1].items)
            view = ctx.own(atom, out)
            if view.buffer in taken:  # two carries that start as one array, or one as part of an array that is read
                copy = ctx.temporary(atom.type)
                ctx.fill(copy, view)
                view = copy
            taken.add(view.buffer)
            self.made[view.buffer] = ctx.b.scopes[-1].items[before:]
            self.views.append(view)
            self.counts.append(0)
        ctx.flush_all()
        self.inits = flatten(self.first)

    @property
    def buffers(self) -> list[Any]:
        return [v.buffer for v in self.views if v is not None]

    def forms(self, params: Sequence[Value]) -> list[Form]:
        """The carried values within a body."""
        scalars = unflatten(list(params), self.first)
        forms: list[Form] = []
        k = 0
        for t, view, count in zip(self.types, self.views, self.counts):
            if view is not None:
                forms.append(view)
            elif t.size == 0:
                forms.append(Lazy(t, lambda b, i, t=t: literal(b, t.dtype, t.dtype.type(0)), {}, 0))  # type: ignore[misc]
            else:
                forms.append(Scalars(t, scalars[k : k + count]))
                k += count
        return forms


def finish_body(body: Context, carry: Carry, atoms: Sequence[Atom], places: Sequence[View]) -> list[Value]:
    """Write what a body has computed: its next carry and the slices of its outputs; the carried scalars.

    `atoms` are the body's outputs: the carry, then as many more as there are `places`. Everything of one shape is written by one
    nest, together with the reductions that wait for it, and large carries in place where each element is read before it is written.
    """
    n = len(carry.types)
    carried = atoms[:n]
    views = [*carry.views, *[v if v.type.size else None for v in places]]
    wanted = [(body.value(a), v, k < n) for k, (a, v) in enumerate(zip(atoms, views)) if v is not None]
    todo = [(f, v, is_carry) for f, v, is_carry in wanted if not (type(f) is View and f.same_place(v))]
    changing = {v.buffer: v for _, v, is_carry in todo if is_carry}
    block = body.b.scopes[-1].items
    moves = carry.moves
    for form, view, is_carry in todo:  # what lies in memory of its own may stay there
        if is_carry and type(form) is View and form.buffer not in moves.values() and may_move(carry, view, form, block):
            if form.buffer in changing or form.buffer not in carry.buffers:
                moves[view.buffer] = form.buffer
    todo = [(f, v, is_carry) for f, v, is_carry in todo if not (is_carry and v.buffer in moves)]
    # Scalars read from memory that is about to change are read first; those that a waiting reduction gives, after its nest.
    scalars: list[list[Scalar] | None] = []
    small = [a for a, v, t in zip(carried, carry.views, carry.types) if v is None and t.size]
    for a in small:
        form = body.value(a)
        late = waits(form) and not changing.keys() & leaves_of(form).keys()
        scalars.append(None if late else body.elements(a))
    results = [f for f, _, _ in todo if type(f) is Pending and f.root.value is None and f.root.reduction is not None]
    for form, _, _ in todo:
        if isinstance(form, Lazy) and form not in results:
            for leaf, how in list(leaves_of(form).items()):
                if type(leaf) is Root and leaf.value is None and (leaf.reduction is not None or how != IDENTICAL):
                    body.flush(leaf.group)
    shapes = {v.type.shape for f, v, _ in todo if f not in results}
    for group in list(body.groups.values()):
        if group.shape not in shapes and body.groups.get(group.shape) is group:
            body.flush(group)
    todo = [(_current(f), v, is_carry) for f, v, is_carry in todo if is_carry or not _arrives(_current(f), v)]
    results = [f for f in results if f.root.value is None]
    unsafe: set[Any] = {x for x in moves.values() if x in changing}
    reading = [f for f, _, _ in todo if f not in results]
    reading.extend(r.lazy for g in body.groups.values() for r in g.roots)
    for form in reading:
        for leaf, how in leaves_of(form).items():
            other = changing.get(leaf)
            if other is not None and (how != IDENTICAL or form.type.shape != other.type.shape):
                unsafe.add(leaf)
    after: list[tuple[Buffer, View, Form]] = []  # the carry's memory, where it was to be, what it is
    guests: dict[Buffer, Buffer] = {}  # memory that other carries have given up, and whose next value it takes
    given_up = moves.keys() - moves.values() - unsafe
    left_over = [v for v in carry.views if v is not None and v.buffer in given_up]
    for k, (form, view, is_carry) in enumerate(todo):
        if form in results:
            after.append((view.buffer, view, form))
            continue
        target = view
        if is_carry and view.buffer in unsafe:
            place = next((v for v in left_over if may_move(carry, view, v, block)), None)
            if place is not None:
                left_over.remove(place)
                target = View(view.type, place.buffer, 0, dense_strides(view.type.shape))
                moves[view.buffer] = place.buffer
                guests[place.buffer] = view.buffer
            else:
                target = body.temporary(view.type)
                after.append((view.buffer, view, target))
        if type(form) is Scalars or (type(form) is View and form.is_dense and form.buffer not in changing):
            if not (is_carry and view.buffer in unsafe) and not any(
                view.buffer in leaves_of(f) for f in reading if f is not form
            ):
                body.fill(target, form)
                continue
        if type(form) is Pending and form.root.target is None:
            form.root.target = target
            continue
        root = Root(view.type, as_lazy(body, form), target)
        shape = view.type.shape
        found = body.groups.get(shape)
        if found is None or not found.accepts(root, body.distinct_cost(shape)):
            if found is not None:
                # its nest comes before the one that computes what is left: that must still find the old values
                left = {leaf for f, _, _ in todo[k:] if f not in results for leaf in leaves_of(f)}
                for r in found.roots:
                    if r.target is not None and r.target.buffer in changing and r.target.buffer in left:
                        place = body.temporary(r.type)
                        after.append((guests.get(r.target.buffer, r.target.buffer), r.target, place))
                        r.target = place
                body.flush(found)
            found = body.groups[shape] = Group(shape, body)
        found.add(root)
    body.flush_all()
    for buffer, view, form in after:
        form = _current(form)
        kept = view.buffer in moves.values() and view.buffer not in guests  # for another carry
        if kept and type(form) is not View:
            form = body.view(form)
        if type(form) is View and form.buffer not in moves.values() and may_move(carry, view, form, block):
            moves[buffer] = form.buffer
        elif kept:
            place = body.temporary(view.type)
            body.fill(place, form)
            moves[buffer] = place.buffer
        else:
            body.fill(view, form)
    for k, a in enumerate(small):
        if scalars[k] is None:
            scalars[k] = body.elements(a)
    return flatten([e for found in scalars for e in found or ()])


def _arrives(form: Form, place: View) -> bool:
    """Whether a value is in its place, or will be when the nest that it waits for is emitted."""
    if type(form) is Pending and form.root.value is None:
        return form.root.target is not None and form.root.target.same_place(place)
    return type(form) is View and form.same_place(place)


def body_context(
    ctx: Context, program: Program, protected: Any, late: Sequence[Atom], targets: dict[Var, View] | None = None
) -> Context:
    inner = type(ctx)(ctx.lowering, program, targets, ctx.protected | frozenset(protected))
    inner.late = frozenset(a for a in late if isinstance(a, Var))
    return inner


def buffers_read(forms: Sequence[Form]) -> set[Any]:
    found: set[Any] = set()
    for f in forms:
        found.update(leaves_of(f))
    return found


# ----------------------------------------------------------------------------------------------------------------------- scan


def lower_scan(ctx: Context, eqn: Equation) -> None:
    p = eqn.params
    program, length, reverse = p["body"], p["length"], p["reverse"]
    const_atoms, carry_atoms, scanned = split_scan(eqn.inputs, p["num_consts"], p["num_carry"])
    n = p["num_carry"]
    b = ctx.b
    consts = [loop_operand(ctx, a) for a in const_atoms]
    xs = [_scanned(ctx, a) for a in scanned]
    outs = eqn.outputs
    stacked = [ctx.allocate(v) for v in outs[n:]]
    stacked = [v if v.is_dense else ctx.temporary(v.type) for v in stacked]
    for place in stacked:
        ctx.before_overwrite(place.buffer)
    carry = Carry(ctx, carry_atoms, outs[:n], buffers_read(consts) | buffers_read(xs), may_move=True)
    if length == 0:
        define_carry(ctx, carry, outs[:n], carry.inits)
        for v, view in zip(outs[n:], stacked):
            ctx.define(v, view)
        return

    def iteration(loop: Loop) -> None:
        i: Index = loop.index if not reverse else -loop.index + (length - 1)
        slices = [_slice_of(form, i) for form in xs]
        places = [_slice_of(v, i) for v in stacked]
        release = releasing(ctx.lowering, p)
        inner = body_context(ctx, program, buffers_read(consts) | buffers_read(xs), program.outputs)
        inner.places = {a: v for a, v in zip(program.outputs[n:], places) if isinstance(a, Var)}
        inner.run([*consts, *carry.forms(loop.params), *slices])
        loop.yields = finish_body(inner, carry, program.outputs, places)
        release()

    # The records of tapes are in one list, and what has no memory for them leaves the function: that is for one thread.
    alone = n or b.parallel_depth or program.has_effects or "frees" in p
    count, each = (1, length) if alone else tasks_of(length, length * _work_of(program), False)
    if count > 1 and length * _work_of(program) >= PARALLEL_WORK:
        # nothing is carried: the iterations are divided among threads
        with b.parallel(count, frozenset(v.buffer for v in stacked)) as task:
            low = task * each
            high = b.index(low + each)
            if count * each != length:
                high = b.op("smin", "i64", high, b.const("i64", length))
            with b.loop(b.index(low), high, name="t", bounds=(0, length - 1)) as loop:
                iteration(loop)
        define_carry(ctx, carry, outs[:n], [])
        for v, view in zip(outs[n:], stacked):
            b.touch(view.buffer)
            ctx.define(v, View(v.type, view.buffer, view.offset, view.strides))
        return
    with b.loop(0, length, carry=carry.inits, name="t") as loop:
        iteration(loop)
    exchange(ctx, carry, loop.statement, length)
    define_carry(ctx, carry, outs[:n], loop.results)
    for v, view in zip(outs[n:], stacked):
        b.touch(view.buffer)
        ctx.define(v, View(v.type, view.buffer, view.offset, view.strides))


def _work_of(program: Program) -> int:
    """About how many operations a program takes."""
    total = 0
    for e in program.equations:
        size = max([v.type.size for v in e.outputs] + [a.type.size for a in e.inputs], default=1)
        if e.primitive is dot_general_p:
            (lc, _), _ = e.params["dimension_numbers"]
            size = e.outputs[0].type.size * prod(e.inputs[0].type.shape[d] for d in lc)
        times = e.params.get("length", 1) if e.primitive is scan_p else 1
        inner = sum(_work_of(p) for _, p in e.regions())
        total += inner * times if inner else size * COSTS.get(e.primitive.name, 1)
    return total


def define_carry(ctx: Context, carry: Carry, outs: Sequence[Var], results: Sequence[Value]) -> None:
    for v, form in zip(outs, carry.forms(results)):
        if type(form) is View:
            ctx.b.touch(form.buffer)
            form = View(v.type, form.buffer, form.offset, form.strides)
        ctx.define(v, form)


def _scanned(ctx: Context, atom: Atom) -> Form:
    """An array to scan over: memory, or something that costs nothing to compute where it is read."""
    form = loop_operand(ctx, atom)
    return ctx.spill(form) if type(form) is Scalars and len(form.elements) > 1 else form


def _slice_of(form: Form, i: Index) -> Any:
    t = form.type.update(shape=form.type.shape[1:])
    if type(form) is View:
        return View(t, form.buffer, form.offset + i * form.strides[0], form.strides[1:])
    if type(form) is Scalars:
        return Scalars(t, form.elements)
    from tracegrad.codegen.structural import indexed

    return indexed(t, form, lambda b, rest: (i, *rest))


# ---------------------------------------------------------------------------------------------------------------------- while


def lower_while(ctx: Context, eqn: Equation) -> None:
    p = eqn.params
    cond_atoms, body_atoms, carry_atoms = split_while(eqn.inputs, p["cond_nconsts"], p["body_nconsts"])
    b = ctx.b
    cond_consts = [loop_operand(ctx, a) for a in cond_atoms]
    body_consts = [loop_operand(ctx, a) for a in body_atoms]
    kept = buffers_read(cond_consts) | buffers_read(body_consts)
    carry = Carry(ctx, carry_atoms, eqn.outputs, kept, may_move=True)

    def head(params: list[Value]) -> Value:
        release = releasing(ctx.lowering, p, "cond")
        inner = body_context(ctx, p["cond"], kept | set(carry.buffers), ())
        inner.run([*cond_consts, *carry.forms(params)])
        condition = inner.elements(p["cond"].outputs[0])[0]
        inner.flush_all()
        release()
        return condition

    def body(params: list[Value]) -> list[Value]:
        release = releasing(ctx.lowering, p)
        inner = body_context(ctx, p["body"], kept, p["body"].outputs)
        inner.run([*body_consts, *carry.forms(params)])
        yields = finish_body(inner, carry, p["body"].outputs, ())
        release()
        return yields

    results = b.while_loop(carry.inits, head, body)
    exchange(ctx, carry, b.scopes[-1].items[-1], None)
    define_carry(ctx, carry, eqn.outputs, results)


# ----------------------------------------------------------------------------------------------------------------------- cond


def lower_cond(ctx: Context, eqn: Equation) -> None:
    index, *operands = eqn.inputs
    branches: tuple[Program, ...] = eqn.params["branches"]
    b = ctx.b
    selector = ctx.scalar(index)
    forms = [_branch_operand(ctx, a) for a in operands]
    outs = eqn.outputs
    small = [v.type.size == 0 or ctx.in_registers(v.type) for v in outs]
    places: list[View | None] = []
    shared: set[Any] = set()
    for k, (v, s) in enumerate(zip(outs, small)):
        if s:
            places.append(None)
            continue
        place = _updated_operand(ctx, branches, k, operands, shared)
        if place is None:
            place = ctx.allocate(v)
            ctx.before_overwrite(place.buffer)
            if place.buffer in buffers_read(forms):
                place = ctx.temporary(v.type)
        shared.add(place.buffer)
        places.append(place)
    ctx.flush_all()
    forms = [_current(f) for f in forms]
    like: list[list[Scalar]] = []

    def branch(program: Program) -> Any:
        def emit() -> list[Value]:
            targets: dict[Var, View] = {}
            for a, place in zip(program.outputs, places):
                if place is not None and isinstance(a, Var) and a not in program.inputs:
                    targets.setdefault(a, place)
            inner = body_context(ctx, program, buffers_read(forms) - shared, (), targets)
            inner.run(forms)
            inner.flush_all()
            scalars: list[Scalar] = []
            for a, place, v in zip(program.outputs, places, outs):
                if place is None and v.type.size:
                    scalars.extend(inner.elements(a))
            for a, place in zip(program.outputs, places):
                if place is not None:
                    inner.place(a, place)
            like.append(scalars)
            return flatten(scalars)

        return emit

    if len(branches) == 1:
        results = branch(branches[0])()
    elif len(branches) == 2:
        chosen = b.op("icmp", "i1", selector, b.const("i32", 0), attr="sgt")
        if chosen.is_const:
            results = branch(branches[1 if chosen.attr else 0])()
        else:
            results = b.switch(chosen, [branch(branches[1]), branch(branches[0])])
    else:
        clamped = b.op("smin", "i32", b.op("smax", "i32", selector, b.const("i32", 0)), b.const("i32", len(branches) - 1))
        if clamped.is_const:
            results = branch(branches[clamped.attr])()
        else:
            results = b.switch(clamped, [branch(x) for x in branches])
    scalars = unflatten(list(results), like[0]) if like else []
    k = 0
    for v, place in zip(outs, places):
        if place is not None:
            b.touch(place.buffer)
            ctx.define(v, View(v.type, place.buffer, place.offset, place.strides))
        else:
            count = v.type.size
            if count:
                ctx.define(v, Scalars(v.type, scalars[k : k + count]))
            else:
                ctx.define(v, ctx.temporary(v.type))
            k += count


def _branch_operand(ctx: Context, atom: Atom) -> Form:
    """An operand of a branch: lazy values may stay lazy, to be computed only by the branch that needs them."""
    form = ctx.value(atom)
    ctx.settle(form)
    if type(form) is Lazy and ctx.plan.uses.get(atom, 0) > 1:  # type: ignore[arg-type]
        return loop_operand(ctx, atom)
    return _current(form)


def _current(form: Form) -> Form:
    return form.root.value if type(form) is Pending and form.root.value is not None else form


def _updated_operand(
    ctx: Context, branches: tuple[Program, ...], k: int, operands: Sequence[Atom], taken: set[Any]
) -> View | None:
    """The memory of the dying operand of which result k is an updated version in every branch."""
    sources = {_source(program, k) for program in branches}
    if len(sources) != 1:
        return None
    j = sources.pop()
    if j is None or operands.count(operands[j]) > 1:
        return None
    form = ctx.value(operands[j])
    if type(form) is Pending:
        form = form.root.value
    if type(form) is not View or form.buffer in taken or not ctx.may_overwrite(form, operands[j]):
        return None
    ctx.before_overwrite(form.buffer, operands[j])
    return form


def _source(program: Program, k: int) -> int | None:
    """The input of which output k is an updated version, by a chain of updates in place."""
    from tracegrad.codegen.plan import analyse

    atom = program.outputs[k]
    if not isinstance(atom, Var):
        return None
    updated = analyse(program).updated
    while atom in updated:
        atom = updated[atom]
    return program.inputs.index(atom) if atom in program.inputs else None


# ---------------------------------------------------------------------------------------------------------------------- calls


def lower_call(ctx: Context, eqn: Equation) -> None:
    """A call is inlined."""
    inline(ctx, eqn.params["program"], [ctx.value(a) for a in eqn.inputs], eqn.outputs)


def inline(ctx: Context, program: Program, forms: list[Form], outs: Sequence[Var]) -> None:
    for f in forms:
        ctx.settle(f)
    forms = [_current(f) for f in forms]
    targets: dict[Var, View] = {}
    for a, v in zip(program.outputs, outs):
        if v in ctx.targets and isinstance(a, Var) and a not in program.inputs:
            targets.setdefault(a, ctx.targets[v])
    inner = type(ctx)(ctx.lowering, program, targets, ctx.protected | buffers_read(forms))
    results = inner.run(forms)
    inner.flush_all()
    for v, form in zip(outs, results):
        ctx.define(v, _current(form))


def lower_identity(ctx: Context, eqn: Equation) -> None:
    for a, v in zip(eqn.inputs, eqn.outputs):
        ctx.define(v, ctx.value(a))


scan_p.define(lower=lower_scan)
while_p.define(lower=lower_while)
cond_p.define(lower=lower_cond)
for _primitive in (call_p, custom_jvp_call_p, custom_vjp_call_p, custom_vmap_call_p, checkpoint_p):
    _primitive.define(lower=lower_call)
optimization_barrier_p.define(lower=lower_identity)
name_p.define(lower=lower_identity)

__all__ = ["ArrayType", "Carry", "dense_strides", "finish_body", "inline", "loop_operand", "np"]
