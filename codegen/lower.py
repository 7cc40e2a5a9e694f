"""From a Program to the loop level: the context in which lowering rules work.

A rule is `lower(ctx, eqn)`. It takes the values of the operands in one of three forms (see `values.py`), and defines the outputs:

    ctx.b                          the Builder: scalar operations, loops, calls
    ctx.value(atom)                the operand in whatever form it has: Scalars | View | Lazy
    ctx.scalar(atom)               a rank-0 operand as a scalar in a register
    ctx.elements(atom)             all elements of a small operand as scalars, in row-major order
    ctx.view(atom)                 the operand in memory, perhaps strided (transposed, sliced, broadcast)
    ctx.dense(atom)                the operand in memory, row-major without gaps
    ctx.own(atom, eqn)             the operand in dense memory that may be overwritten: its own if nobody reads it any more, else a copy
    ctx.allocate(var)              dense memory for an output: where the caller wants it, or in the arena
    ctx.temporary(type)            dense memory for intermediate results
    ctx.define(var, form)          the value of an output
    ctx.defer_reduction(...)       an output that a reduction of a lazy value gives (`reductions.py`)
    ctx.fill(view, form)           write a value to memory now, as a loop nest of its own

    values.read(b, form, indices)  an element of a value, by its index: ints or positions such as `loop.index`
    values.load / values.store     an element of a buffer; `view.position(indices)` is its place
    b.loop(low, high)              a loop; b.call(symbol, args, reads=, writes=); b.address(view.buffer, view.offset) a pointer

Elementwise and structural operations define lazy values; when one must be in memory it becomes a *root*. Roots with one iteration
space wait in a group and share a nest; whoever needs one of them in memory has the group emitted (`nests.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.codegen import plan, rules
from tracegrad.codegen.builder import Builder
from tracegrad.codegen.elementwise import DEAR, UNROLLED_CALLS
from tracegrad.codegen.loop_ir import Buffer, Function, Index, Value
from tracegrad.codegen.nests import Group, emit_group, write_nest
from tracegrad.codegen.tape_memory import Record, drop_record
from tracegrad.codegen.values import (
    IDENTICAL,
    Form,
    Indices,
    Lazy,
    Pending,
    Root,
    Scalar,
    Scalars,
    View,
    dense_strides,
    leaves_of,
    level_of,
    literal,
    read,
    store,
)
from tracegrad.ir.primitive import Primitive
from tracegrad.ir.program import Atom, Equation, Literal, Program, Var
from tracegrad.ir.types import ArrayType

REGISTER_ELEMENTS = 64
"""Tensors of up to this many elements may live in registers."""
VECTOR_AXIS = 8
"""A last axis at least this long is worth a vectorized loop, so that such tensors stay in memory."""
OPERATION_BUDGET = 12_000
"""Once a function holds so many operations, small tensors live in memory too, and loops replace unrolled code."""
LAZY_COST, LAZY_DEPTH = 250, 60
"""A lazy value that costs or nests more than this is put in memory."""


class Lowering:
    """What the contexts of one function share."""

    def __init__(self, function: Function, builder: type[Builder] = Builder):
        self.function = function
        self.builder = builder(function)
        self.inputs: dict[int, Buffer] = {}
        self.constants: list[np.ndarray] = []
        self.callbacks: list[Any] = []
        self.records: dict[Value, tuple[Record, int]] = {}
        """Of the addresses of tapes written by loops of this function: the record, and which of its tapes it is."""

    def slots(self) -> Buffer:
        """The words that follow the addresses of the constants: the handles of callbacks."""
        found = next((b for b in self.function.buffers if b.kind == "slots"), None)
        if found is None:
            found = Buffer("slots", "slots", 0, np.dtype(np.int64), 1 << 20)
            self.function.buffers.append(found)
        return found

    @property
    def may_unroll(self) -> bool:
        return self.builder.operations < OPERATION_BUDGET


class Context:
    """The lowering of one program, or of a region of one."""

    def __init__(self, lowering: Lowering, program: Program, targets: dict[Var, View] | None = None, protected: Any = ()):
        self.lowering = lowering
        self.b = lowering.builder
        self.program = program
        self.env: dict[Var, Form] = {}
        self.groups: dict[tuple[int, ...], Group] = {}
        self.plan = plan.analyse(program)
        self.remaining: dict[Var, int] = dict(self.plan.uses)
        self.targets: dict[Var, View] = {}
        self.protected: frozenset[Buffer] = frozenset(protected)
        self.scope = self.b.scopes[-1]
        self._distinct: dict[tuple[int, ...], int] = {}
        self.late: frozenset[Var] = frozenset()
        """Outputs whose place the loop decides (its carry): they stay lazy, or wait in a group without a place."""
        self.places: dict[Var, View] = {}
        """Where outputs end that a loop stacks, in memory that nothing else has."""
        self.drops: dict[Equation, list[Value]] = {}
        """The nodes of tapes that nobody reads after an equation."""
        for var, view in (targets or {}).items():
            self._aim(var, view)

    def _aim(self, var: Var, view: View) -> None:
        """Have `var` computed at `view`, and so what it is an updated version of."""
        while var not in self.targets:
            self.targets[var] = view
            source = self.plan.updated.get(var)
            if source is None or source in self.env:
                return
            if source.type.shape != view.type.shape:
                if not view.is_dense:
                    return
                view = view.reshaped(source.type)
            var = source

    # ------------------------------------------------------------------------------------------------------------ reading

    def value(self, atom: Atom) -> Form:
        if type(atom) is Literal:
            return Scalars(atom.type, [literal(self.b, atom.type.dtype, atom.value)])
        form = self.env[atom]
        if type(form) is Pending and form.root.value is not None:
            form = self.env[atom] = form.root.value
        return form

    def scalar(self, atom: Atom) -> Scalar:
        return self.elements(atom)[0]

    def elements(self, atom: Atom | Form) -> list[Scalar]:
        form = self.value(atom) if isinstance(atom, (Var, Literal)) else atom
        if type(form) is Scalars:
            return form.elements
        self.settle(form)
        if isinstance(form, Lazy) and form.type.size > UNROLLED_CALLS and form.cost >= DEAR and type(form) is not Pending:
            form = self.view(atom)
        if type(form) is Pending:
            form = form.root.value
            if type(form) is Scalars:
                return form.elements
        elements = [read(self.b, form, index) for index in np.ndindex(*form.type.shape)]
        if isinstance(atom, Var) and isinstance(form, Lazy) and self.b.scopes[-1] is self.scope:
            self.env[atom] = Scalars(form.type, elements)
        return elements

    def settle(self, form: Form) -> None:
        """Have every nest emitted that the value waits for."""
        if isinstance(form, Lazy):
            for leaf in list(form.leaves):
                if type(leaf) is Root and leaf.value is None:
                    self.flush(leaf.group)

    def view(self, atom: Atom | Form) -> View:
        form = self.value(atom) if isinstance(atom, (Var, Literal)) else atom
        if type(form) is View:
            return form
        if isinstance(form, Lazy) and self._joins(form):
            target = self.targets.get(atom) or self.places.get(atom) if isinstance(atom, Var) else None
            form = self.defer(Root(form.type, form, target))
            if isinstance(atom, Var) and self.b.scopes[-1] is self.scope:
                self.env[atom] = form
        self.settle(form)
        if type(form) is Pending and type(form.root.value) is View:
            return form.root.value
        if type(form) is Scalars:
            view = self.spill(form)
        else:
            target = self.targets.get(atom) or self.places.get(atom) if isinstance(atom, Var) else None
            view = self.temporary(form.type) if target is None else target
            self.fill(view, form)
        if isinstance(atom, Var) and type(form) is not Scalars and self.b.scopes[-1] is self.scope:
            self.env[atom] = view
        return view

    def _joins(self, form: Lazy) -> bool:
        """Whether a value that is wanted in memory reads what waits in a group of its iteration space, and can be stored by the same nest."""
        group = self.groups.get(form.type.shape)
        if group is None or type(form) is Pending:
            return False
        waiting = [(leaf, how) for leaf, how in leaves_of(form).items() if type(leaf) is Root and leaf.value is None]
        return bool(waiting) and all(leaf.group is group and how == IDENTICAL and leaf.reduction is None for leaf, how in waiting)

    def dense(self, atom: Atom | Form) -> View:
        view = self.view(atom)
        if view.is_dense:
            return view
        copy = self.temporary(view.type)
        self.fill(copy, view)
        if isinstance(atom, Var) and self.b.scopes[-1] is self.scope:
            self.env[atom] = copy
        return copy

    def spill(self, form: Scalars) -> View:
        """Registers stored to memory, once for as long as the scope of that store is open."""
        if form.spilled is not None and form.spilled[1].open:
            return form.spilled[0]
        b = self.b
        level = max(max(level_of(e) for e in form.elements), b.scopes[-1].floor)
        with b.outside(level):
            view = self.temporary(form.type)
            for k, e in enumerate(form.elements):
                store(b, view.buffer, k, e)
        form.spilled = (view, b.scopes[level])
        return view

    def readable(self, form: Form) -> Form:
        """A form that can be read at any index: registers of more than one element are stored first."""
        if type(form) is Scalars and len(form.elements) > 1:
            return self.spill(form)
        return form

    # ------------------------------------------------------------------------------------------------------------ writing

    def temporary(self, type: ArrayType) -> View:
        buffer = self.b.temporary(type.dtype, type.size)
        return View(type, buffer, 0, dense_strides(type.shape))

    def allocate(self, var: Var) -> View:
        view = self.targets.get(var)
        if view is not None:
            return View(var.type, view.buffer, view.offset, view.strides)
        return self.temporary(var.type)

    def in_registers(self, type: ArrayType) -> bool:
        """Whether a tensor of this type should live in registers."""
        size = type.size
        if size <= 1:
            return size == 1
        shape = type.shape
        return size <= REGISTER_ELEMENTS and shape[-1] < VECTOR_AXIS and self.lowering.may_unroll

    def define(self, var: Var, form: Form) -> None:
        """Bind a value; a lazy one that would be computed too often becomes a root."""
        if type(form) is Lazy:
            late = var in self.late
            if late and var in self.plan.stored and form.cost > plan.CHEAP and not self.in_registers(var.type):
                # It will be in memory anyway: nobody computes it once more meanwhile.
                self.env[var] = place = self.places.get(var) or self.allocate(var)
                self.fill(place, form)
                return
            if (
                late
                and var in self.places
                and self.plan.uses[var] > 1
                and form.cost > plan.CHEAP
                and not self.in_registers(var.type)
            ):
                # Whoever reads it shares the nest that stores it, or reads it from there.
                self.env[var] = self.defer(Root(var.type, form, self.places[var]))
                return
            if (
                var in self.targets
                or form.cost > LAZY_COST
                or form.depth > LAZY_DEPTH
                or (not late and var in self.plan.shared and form.cost > plan.CHEAP)
            ):
                if var.type.size == 0:
                    form = self.temporary(var.type)
                else:
                    form = self.defer(Root(var.type, form, self.targets.get(var)))
        self.env[var] = form

    def define_pending(self, var: Var, form: Form) -> None:
        """Bind a value whose nest is arranged for already."""
        self.env[var] = form

    def defer(self, root: Root) -> Pending:
        """Let a root wait for its nest, in the group of its iteration space."""
        shape = root.lazy.type.shape
        group = self.groups.get(shape)
        for leaf, how in list(leaves_of(root.lazy).items()):
            if type(leaf) is Root and leaf.value is None:
                if leaf.group is not group or how != IDENTICAL or leaf.reduction is not None:
                    self.flush(leaf.group)
        group = self.groups.get(shape)
        if group is not None and not group.accepts(root, self.distinct_cost(shape) if self.late else None):
            self.flush(group)
            group = None
        if group is None:
            group = self.groups[shape] = Group(shape, self)
        group.add(root)
        return Pending(root)

    def distinct_cost(self, shape: tuple[int, ...]) -> int:
        """What all that the program computes in this iteration space costs at one index, each value once."""
        found = self._distinct.get(shape)
        if found is None:
            equations = [e for e in self.program.equations if e.outputs and e.outputs[0].type.shape == shape]
            found = self._distinct[shape] = sum(plan.COSTS.get(e.primitive.name, 1) for e in equations)
        return found

    def flush(self, group: Group) -> None:
        """Emit a group's nest; its roots are values from now on."""
        if group.shape in self.groups and self.groups[group.shape] is group:
            del self.groups[group.shape]
        for root in group.roots:
            for leaf in list(leaves_of(root.lazy)):
                if type(leaf) is Root and leaf.value is None and leaf.group is not group:
                    self.flush(leaf.group)
        emit_group(self, group)

    def flush_all(self) -> None:
        for group in list(self.groups.values()):
            if group.shape in self.groups:
                self.flush(group)

    def fill(self, view: View, form: Form) -> None:
        """Write a value to memory, at once."""
        self.settle(form)
        if form.type.size:
            write_nest(self, view, form)

    # ------------------------------------------------------------------------------------------------------------ in place

    def is_last_use(self, atom: Atom) -> bool:
        """Whether no equation after the current one, nor the program's result, reads the value."""
        return isinstance(atom, Var) and self.remaining.get(atom, 0) == 0

    def own(self, atom: Atom, var: Var, *others: Form) -> View:
        """The operand in memory that may be overwritten to become `var`; `others` are values still to be read meanwhile.

        When the operand dies here and its memory may be written, that is the memory, and nothing is copied.
        """
        form = self.value(atom)
        self.settle(form)
        if type(form) is Pending:
            form = form.root.value
        if type(form) is View and self.may_overwrite(form, atom):
            self.before_overwrite(form.buffer, atom)
            return form
        target = self.allocate(var)
        self.before_overwrite(target.buffer, atom)
        self.fill(target, form)
        return target

    def may_overwrite(self, view: View, atom: Atom) -> bool:
        buffer = view.buffer
        return (
            self.is_last_use(atom)
            and buffer.mutable
            and buffer not in self.protected
            and view.is_dense
            and not self._other_view(view, atom)
        )

    def _other_view(self, view: View, atom: Atom) -> bool:
        """Whether a live variable is a view of the same memory (it would have to be copied)."""
        for var, form in self.env.items():
            if var is not atom and self.remaining.get(var, 0) > 0 and type(form) is View and form.buffer is view.buffer:
                if form.type.size >= view.type.size:
                    return True
        return False

    def before_overwrite(self, buffer: Buffer, *dying: Atom) -> None:
        """Emit whatever is still to read the old contents of a buffer, except through the variables that die."""
        for group in list(self.groups.values()):
            if any(buffer in leaves_of(r.lazy) for r in group.roots):
                self.flush(group)
        for var, form in list(self.env.items()):
            if var in dying or self.remaining.get(var, 0) <= 0 or type(form) is Scalars:
                continue
            if buffer in leaves_of(form):
                copy = self.temporary(form.type)
                self.fill(copy, form)
                self.env[var] = copy

    # ------------------------------------------------------------------------------------------------------------ programs

    def run(self, inputs: Sequence[Form]) -> list[Form]:
        """Lower all equations; the values of the program's outputs (nothing is left waiting, unless it is `late`)."""
        program = self.program
        b = self.b
        for var, form in zip(program.inputs, inputs):
            self.env[var] = form
        for constant in program.constants:
            self.env[constant.var] = self.constant(constant.value, constant.var.type)
        last = self.plan.last_uses
        remaining = self.remaining
        for k, eqn in enumerate(program.equations):
            for a in eqn.inputs:
                if type(a) is Var:
                    remaining[a] -= 1
            b.equation = eqn
            rule_of(eqn.primitive)(self, eqn)
            if self.drops:
                for node in self.drops.pop(eqn, ()):
                    drop_record(self.lowering, node)
            for var in last[k]:
                self.env.pop(var, None)
            if len(b.memo) > 20_000:
                b.memo.clear()
        return [self.value(a) for a in program.outputs]

    def constant(self, value: np.ndarray, type: ArrayType) -> Form:
        """A constant array: literals when it is small, memory handed to the function otherwise."""
        value = np.ascontiguousarray(value, dtype=type.dtype).reshape(type.shape)
        if self.in_registers(type):
            return Scalars(type, [literal(self.b, type.dtype, x) for x in value.reshape(-1)])
        if value.size > 1 and value.size <= 1 << 16 or value.size == 1:
            flat = value.reshape(-1)
            if (
                flat[0] == flat[0]
                and (flat == flat[0]).all()
                and np.signbit(np.real(flat)).all() == np.signbit(np.real(flat)).any()
            ):
                scalar = literal(self.b, type.dtype, flat[0])
                return Lazy(type, lambda b, i: scalar, {}, 0)
        found = next((k for k, c in enumerate(self.lowering.constants) if c is value), None)
        if found is None:
            found = len(self.lowering.constants)
            self.lowering.constants.append(value)
            buffer = Buffer(f"const{found}", "constant", found, type.dtype, type.size)
            self.lowering.function.buffers.append(buffer)
        else:
            buffer = next(c for c in self.lowering.function.buffers if c.kind == "constant" and c.position == found)
        return View(type, buffer, 0, dense_strides(type.shape))

    def place(self, atom: Atom, view: View) -> None:
        """See to it that an output is in its place."""
        form = self.value(atom)
        if type(form) is Pending:
            self.flush(form.root.group)
            form = form.root.value
        if type(form) is View and form.same_place(view):
            return
        self.before_overwrite(view.buffer)
        self.fill(view, form)


def rule_of(primitive: Primitive) -> Any:
    """The lowering rule of a primitive. A primitive defined by users without one is an error that names it."""
    rules.attach(primitive)
    return primitive.rule("lower")


def lower_program(
    program: Program,
    name: str,
    lowering: Lowering | None = None,
    context: type[Context] = Context,
    donated: Sequence[int] = (),
) -> tuple[Function, list[np.ndarray], list[Any]]:
    """(the function at the loop level, the arrays of its constants, the callbacks it calls).

    donated: the inputs whose memory may be overwritten; lowering, context: a fresh Lowering, and the kind of context to lower in, by those that note more than is needed to compile.
    """
    lowering = Lowering(Function(name)) if lowering is None else lowering
    function = lowering.function
    inputs: list[Form] = []
    for k, t in enumerate(program.in_types):
        buffer = Buffer(f"in{k}", "input", k, t.dtype, t.size)
        buffer.spare = k in donated
        function.buffers.append(buffer)
        inputs.append(View(t, buffer, 0, dense_strides(t.shape)))
    places: list[View] = []
    targets: dict[Var, View] = {}
    for k, (atom, t) in enumerate(zip(program.outputs, program.out_types)):
        buffer = Buffer(f"out{k}", "output", k, t.dtype, t.size)
        function.buffers.append(buffer)
        view = View(t, buffer, 0, dense_strides(t.shape))
        places.append(view)
        if isinstance(atom, Var) and atom not in targets:
            targets[atom] = view
    made = {v for e in program.equations for v in e.outputs}
    ctx = context(lowering, program, {v: w for v, w in targets.items() if v in made})
    ctx.run(inputs)
    for atom, view in zip(program.outputs, places):
        ctx.place(atom, view)
    ctx.flush_all()
    return function, lowering.constants, lowering.callbacks


__all__ = ["Context", "Index", "Indices", "Lowering", "lower_program"]
