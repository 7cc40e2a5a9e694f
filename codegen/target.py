"""The machine that code is generated for, and LLVM's pipeline for it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite.binding import ffi

from tracegrad.codegen.elementary.far import PREFIX, definitions


@dataclass(frozen=True)
class Target:
    """A processor: what LLVM calls it, what it can do, how wide its vectors should be."""

    triple: str
    cpu: str
    features: str
    vector_bits: int

    @property
    def attributes(self) -> str:
        """Function attributes. On AVX-512 processors LLVM prefers 256-bit vectors; the full width measured a third faster."""
        return f'"prefer-vector-width"="{self.vector_bits}" "min-legal-vector-width"="0"'


@lru_cache(maxsize=1)
def initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


@lru_cache(maxsize=1)
def host() -> Target:
    """The processor that we run on."""
    initialize()
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        bits = 512
    elif features.get("avx2"):
        bits = 256
    else:
        bits = 128
    name = llvm.get_host_cpu_name()
    flags = features.flatten()
    if name.startswith("znver"):
        flags += ",+prefer-no-gather"  # AMD's gathers take longer than the loads they stand for: twice as long, measured
    return Target(llvm.get_process_triple(), name, flags, bits)


@lru_cache(maxsize=16)
def machine(target: Target, level: int = 2) -> Any:
    """LLVM's target machine; code is position independent, so that an object can be kept on disk and loaded anywhere."""
    return create_machine(target, level)


def create_machine(target: Target, level: int = 2) -> Any:
    """A target machine of one's own: one serves one thread at a time."""
    initialize()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=level, reloc="pic", codemodel="small"
    )


def parse(text: str, context: Any = None) -> Any:
    initialize()
    return llvm.parse_assembly(text, context)


def optimize(module: Any, target: Target, level: int = 2, straight_vectors: bool = True, tm: Any = None) -> None:
    """Run LLVM's pipeline, then inline the guards of elementary functions, which loops have been vectorized around."""
    run_pipeline(module, target, level, straight_vectors, tm)
    link_guards(module, target, level, tm)


def run_pipeline(module: Any, target: Target, level: int, straight_vectors: bool, tm: Any) -> None:
    """LLVM's own passes. Pass builders and managers are made for one use: LLVM aborts when they are used again."""
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = level >= 2
    options.slp_vectorization = level >= 2 and straight_vectors
    options.loop_interleaving = level >= 2
    options.loop_unrolling = True
    builder = llvm.create_pass_builder(tm or machine(target), options)
    _run(builder.getModulePassManager(), module, builder, tm)


def link_guards(module: Any, target: Target, level: int, tm: Any) -> None:
    """Define and inline what the module declares of `elementary/far.py`."""
    guards = definitions([f.name for f in module.functions if f.is_declaration])
    if not guards:
        return
    module.link_in(parse(guards, module._context))
    for thing in (*module.functions, *module.global_variables):
        if thing.name.startswith(PREFIX):
            thing.linkage = llvm.Linkage.internal
    manager = llvm.create_new_module_pass_manager()
    manager.add_always_inliner_pass()
    manager.add_global_dead_code_eliminate_pass()
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    _run(manager, module, llvm.create_pass_builder(tm or machine(target), options), tm)


def _run(manager: Any, module: Any, builder: Any, tm: Any) -> None:
    if tm is None:
        manager.run(module, builder)
    else:
        _unlocked("LLVMPY_RunNewModulePassManager")(manager, module, builder)


def compile_text(text: str, target: Target, level: int | None, straight_vectors: bool = True, effort: int = 2) -> bytes:
    """The object code of a module, in an LLVM context and by a target machine of its own: others may compile at the same time.

    level: of LLVM's passes, None for none of them; effort: for machine code.
    """
    tm = create_machine(target, effort)
    module = parse(text, llvm.create_context())
    if level is not None:
        optimize(module, target, level, straight_vectors, tm)
    return _emitted(module, tm)


def compile_texts(texts: Sequence[str], target: Target, level: int, straight_vectors: bool) -> list[bytes]:
    """The object code of modules, compiled at the same time."""
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and few programs are that large

    with ThreadPoolExecutor(min(len(texts), os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda text: compile_text(text, target, level, straight_vectors), texts))


def compile_as_written(text: str, target: Target) -> bytes:
    """The object code of a module that needs no optimization, in an LLVM context of its own."""
    return _emitted(parse(text, llvm.create_context()), create_machine(target, 1))


def _emitted(module: Any, tm: Any) -> bytes:
    with ffi.OutputString() as error:
        memory = _unlocked("LLVMPY_TargetMachineEmitToMemory")(tm, module, 1, error)
        if not memory:
            raise RuntimeError(str(error))
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(memory), ffi.lib.LLVMPY_GetBufferSize(memory))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


def _unlocked(name: str) -> Any:
    """A function of llvmlite's library without the lock that llvmlite takes for every call: LLVM needs none between contexts."""
    locked = getattr(ffi.lib, name)
    return getattr(locked, "_cfn", locked)


def emit_object(module: Any, target: Target, level: int = 2) -> bytes:
    return machine(target, level).emit_object(module)


def emit_assembly(module: Any, target: Target, level: int = 2) -> str:
    return machine(target, level).emit_assembly(module)
