"""The stages between a function and its native code, one call each: `f.trace(*args)`, `.lower()`, `.as_text(stage)`, `.compile()`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tracegrad.codegen.compile import CompiledObject, compile_program
from tracegrad.ir.bind import type_of
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType
from tracegrad.runtime import costs, dump
from tracegrad.runtime.executable import Executable, reusable, settle
from tracegrad.tracer.abstract import ShapeDtypeStruct
from tracegrad.tracer.pytree import tree_flatten, tree_unflatten
from tracegrad.transforms.pipeline import optimize

if TYPE_CHECKING:
    from tracegrad.runtime import jit
    from tracegrad.runtime.explain import Explanation

STAGES = dump.STAGES


class _Stage:
    """What all stages know: the traced function and the structure of its (dynamic) arguments `(args, kwargs)`."""

    def __init__(self, traced: jit.Traced, in_tree: Any):
        self._traced = traced
        self.in_tree = in_tree
        self.out_tree = traced.out_tree

    @property
    def fun_name(self) -> str:
        return self._traced.name

    @property
    def _in_types(self) -> tuple[ArrayType, ...]:
        return self._traced.program.in_types[len(self._traced.captured) :]

    @property
    def in_avals(self) -> Any:
        """The types of the arguments, in their structure."""
        return tree_unflatten(self.in_tree, self._in_types)

    @property
    def args_info(self) -> Any:
        return tree_unflatten(self.in_tree, [_described(t) for t in self._in_types])

    @property
    def out_info(self) -> Any:
        """The shapes and dtypes of the results, in their structure."""
        return tree_unflatten(self.out_tree, [_described(t) for t in self._traced.program.out_types])

    @property
    def out_avals(self) -> Any:
        return tree_unflatten(self.out_tree, self._traced.program.out_types)

    def __repr__(self) -> str:
        types = ", ".join(map(str, self._in_types))
        return f"<{type(self).__name__} {self.fun_name}({types})>"


def _described(t: ArrayType) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(t.shape, t.dtype, weak_type=t.weak)


class Traced(_Stage):
    """A traced function: its program, before the passes."""

    @property
    def program(self) -> Program:
        return self._traced.program

    @property
    def jaxpr(self) -> Program:
        """JAX's name for the program."""
        return self._traced.program

    def lower(self, **_: Any) -> Lowered:
        return Lowered(self._traced, self.in_tree)


class Lowered(_Stage):
    """A function on its way to native code. Each stage is a text (`as_text`), and a property of its own."""

    @cached_property
    def _optimized(self) -> Program:
        return optimize(self._traced.program)

    @cached_property
    def _object(self) -> CompiledObject:
        # What is compiled is what a call computes: results that are inputs or constants are settled outside of native code.
        return compile_program(self._computed[0], self.fun_name, keep_text=True, donated=self._computed[1])

    @cached_property
    def _computed(self) -> tuple[Program, tuple[int, ...]]:
        """What native code computes, and the inputs that it may overwrite."""
        program, places = settle(self._optimized)
        return program, reusable(program.in_types, places, self._traced.donated_inputs)

    def as_text(self, stage: str = "optimized", **_: Any) -> str:
        """The text of a stage: program, optimized, loops, llvm, llvm-optimized or asm. Raises ValueError for another name."""
        if stage == "program":
            return str(self._traced.program)
        if stage == "optimized":
            return str(self._optimized)
        if stage not in STAGES:
            raise ValueError(f"there is no stage {stage!r}; there are {', '.join(STAGES)}")
        return dump.native_texts(self._object)[stage]

    @property
    def program(self) -> Program:
        """The program as traced."""
        return self._traced.program

    @property
    def optimized(self) -> Program:
        """The program after all passes."""
        return self._optimized

    @property
    def loops(self) -> str:
        """Loop nests, buffers and library calls."""
        return self.as_text("loops")

    @property
    def llvm(self) -> str:
        """LLVM IR as generated."""
        return self.as_text("llvm")

    @property
    def llvm_optimized(self) -> str:
        """LLVM IR after LLVM's passes."""
        return self.as_text("llvm-optimized")

    @property
    def asm(self) -> str:
        """Machine code, as assembly."""
        return self.as_text("asm")

    def compiler_ir(self, dialect: str | None = None) -> Any:
        """The optimized program."""
        return self._optimized

    def cost_analysis(self) -> dict[str, float]:
        """Estimates of one run: "flops", "transcendentals", "bytes accessed"."""
        return costs.of(self._optimized)

    def explain(self, *args: Any, profile: bool = False, **kwargs: Any) -> Explanation:
        """The kernels that the function became: what was fused, loops, operations and bytes, vectors, what is in place and why.

        profile: run it with `args` and `kwargs`, its arguments without static ones, and say which share of the time each kernel takes.
        Returns a table (`str()`) whose rows are data. Raises ValueError for profile without arguments, TypeError for arguments of
        other types than it was lowered for.
        """
        from tracegrad.runtime.explain import explain  # it takes more of the compiler apart than others need

        if not profile:
            if args or kwargs:
                raise ValueError("explain takes arguments only to run the function with them: say profile=True, too")
            return explain(self._computed[0], self.fun_name, donated=self._computed[1])
        leaves = checked_leaves(self, args, kwargs)
        executable = self._traced.executable
        values = [*self._traced.captured, *leaves]
        return explain(executable.computed, self.fun_name, executable, values, donated=executable.donated)

    def compile(self, compiler_options: Any = None) -> Compiled:
        return Compiled(self, self._traced.executable)


def checked_leaves(stage: _Stage, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The leaves of arguments of a stage. Raises TypeError if they are not what it was made for."""
    leaves, tree = tree_flatten((args, kwargs))
    if tree != stage.in_tree:
        raise TypeError(
            f"{stage.fun_name} was compiled for arguments of the structure {stage.in_tree}, but is called with {tree}"
        )
    for i, (x, want) in enumerate(zip(leaves, stage._in_types)):
        got = type_of(x)
        if got.shape != want.shape or got.dtype != want.dtype:
            raise TypeError(
                f"{stage.fun_name} was compiled for {want} as leaf {i} of its arguments, but is called with {got}; a compiled "
                "program has fixed types: call the jitted function, which compiles for new ones"
            )
    return leaves


@dataclass(frozen=True)
class MemoryAnalysis:
    """How many bytes a compiled program and a call of it take."""

    argument_size_in_bytes: int
    output_size_in_bytes: int
    temp_size_in_bytes: int
    generated_code_size_in_bytes: int
    alias_size_in_bytes: int = 0


class Compiled(_Stage):
    """Native code, callable with arguments of exactly the types it was compiled for (static arguments left out)."""

    def __init__(self, lowered: Lowered, executable: Executable):
        super().__init__(lowered._traced, lowered.in_tree)
        self._lowered = lowered
        self._executable = executable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return tree_unflatten(self.out_tree, self._traced.run(checked_leaves(self, args, kwargs)))

    call = __call__

    def as_text(self, stage: str = "asm", **_: Any) -> str:
        """The text of a stage, by default the assembly."""
        return self._lowered.as_text(stage)

    def cost_analysis(self) -> dict[str, float]:
        """Estimates of one run: "flops", "transcendentals", "bytes accessed"."""
        return self._lowered.cost_analysis()

    def explain(self, *args: Any, profile: bool = False, **kwargs: Any) -> Explanation:
        """The table of `Lowered.explain`."""
        return self._lowered.explain(*args, profile=profile, **kwargs)

    def memory_analysis(self) -> MemoryAnalysis:
        program = self._traced.program
        code = self._executable.code
        return MemoryAnalysis(
            sum(t.nbytes for t in program.in_types),
            sum(t.nbytes for t in program.out_types),
            code.arena_size if code else 0,
            len(code.object_code) if code else 0,
            sum(program.out_types[k].nbytes for _, k in (code.overwritten if code else ()) if k is not None),
        )

    def runtime_executable(self) -> Executable:
        return self._executable
