"""The machine that code is generated for, and LLVM's pipeline for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm


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
    initialize()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=level, reloc="pic", codemodel="small"
    )


def parse(text: str) -> Any:
    initialize()
    module = llvm.parse_assembly(text)
    return module


def optimize(module: Any, target: Target, level: int = 2, straight_vectors: bool = True) -> None:
    """Run LLVM's pipeline. Pass builders and managers are made for one use: LLVM aborts when they are used again."""
    tm = machine(target)
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = level >= 2
    options.slp_vectorization = level >= 2 and straight_vectors
    options.loop_interleaving = level >= 2
    options.loop_unrolling = True
    builder = llvm.create_pass_builder(tm, options)
    manager = builder.getModulePassManager()
    manager.run(module, builder)


def emit_object(module: Any, target: Target, level: int = 2) -> bytes:
    return machine(target, level).emit_object(module)


def emit_assembly(module: Any, target: Target, level: int = 2) -> str:
    return machine(target, level).emit_assembly(module)
