"""Context managers for the flags of `config`, and other blocks that change how code in them is seen or run."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import wraps
from typing import Any

from tracegrad.ir import bind
from tracegrad.ir.config import config, context_manager
from tracegrad.ir.primitive import Primitive
from tracegrad.tracer.tracer import Tracer

enable_x64 = context_manager("enable_x64")
disable_jit = context_manager("disable_jit")
debug_nans = context_manager("debug_nans")
debug_infs = context_manager("debug_infs")
log_compiles = context_manager("log_compiles")
check_tracer_leaks = context_manager("check_tracer_leaks")
enable_checks = context_manager("verify")
default_matmul_precision = context_manager("default_matmul_precision")
default_prng_impl = context_manager("default_prng_impl")
threefry_partitionable = context_manager("threefry_partitionable")
numpy_dtype_promotion = context_manager("numpy_dtype_promotion")
numpy_rank_promotion = context_manager("numpy_rank_promotion")


def checking_leaks() -> Any:
    """Context manager: raise when a tracer outlives the function that it was made for."""
    return config.override("check_tracer_leaks", True)


def ensure_compile_time_eval() -> Any:
    """Context manager: inside, also while a function is being traced, what depends on no tracer is computed at once."""
    interpreter = bind.current()
    return bind.using(interpreter if interpreter is bind.eager() else _ComputesWhatIsKnown(interpreter))


class _ComputesWhatIsKnown:
    """Sends operations on concrete values to the eager interpreter, those on tracers to the one that it replaced."""

    def __init__(self, parent: bind.Interpreter):
        self.parent = parent

    def process(self, primitive: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        if any([isinstance(x, Tracer) for x in args]):
            with bind.using(self.parent):
                return self.parent.process(primitive, args, params)
        with bind.using(bind.eager()):
            return bind.eager().process(primitive, args, params)


class named_scope(ContextDecorator):
    """Context manager and decorator: a name for a part of a program. It has no effect on what is computed."""

    def __init__(self, name: str):
        if not isinstance(name, str):
            raise TypeError(f"named_scope takes a string, got {name!r}")
        self.name = name

    def __enter__(self) -> named_scope:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def named_call(fun: Callable[..., Any], *, name: str | None = None) -> Callable[..., Any]:
    """`fun` under a name, by default its own."""

    label = name or str(getattr(fun, "__name__", "function"))

    @wraps(fun)
    def named(*args: Any, **kwargs: Any) -> Any:
        with named_scope(label):
            return fun(*args, **kwargs)

    return named


def print_environment_info(return_string: bool = False) -> str | None:
    """Print what a report of a problem should say: versions, the processor, the flags that are not at their defaults."""
    import llvmlite
    import llvmlite.binding as llvm
    import ml_dtypes
    import numpy
    import scipy

    from tracegrad.codegen import target
    from tracegrad.ir.config import FLAGS
    from tracegrad.version import __version__

    host = target.host()
    changed = {k: v for k, v in config.values.items() if v != FLAGS[k].default}
    versions = {
        "tracegrad": __version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "ml_dtypes": ml_dtypes.__version__,
        "llvmlite": f"{llvmlite.__version__} (LLVM {'.'.join(map(str, llvm.llvm_version_info))})",
        "python": sys.version.replace("\n", " "),
        "system": platform.platform(),
        "processor": f"{host.cpu}, vectors of {host.vector_bits} bits",
        "flags": ", ".join(f"{k}={v!r}" for k, v in changed.items()) or "all at their defaults",
    }
    text = "\n".join(f"{name + ':':<11} {value}" for name, value in versions.items())
    if return_string:
        return text
    print(text)
    return None
