"""Every flag of the library, in one table.

A flag has a name, a default, an environment variable `TRACEGRAD_<NAME>` read once at import, and a help text. `config.update`
sets it for the process; `config.override` (and the context managers made from it, such as `tracegrad.enable_x64`) for a block, in
the current context only. JAX's spelling `jax_<name>` is understood wherever a name is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flag:
    name: str
    default: Any
    help: str
    traced: bool = False
    """Whether the flag changes what tracing produces, so that compiled programs are cached by it."""
    choices: tuple[Any, ...] | None = None


FLAGS: dict[str, Flag] = {
    f.name: f
    for f in (
        Flag("enable_x64", False, "64-bit types: off, requests for them give 32-bit ones", traced=True),
        Flag(
            "numpy_dtype_promotion",
            "standard",
            "'strict' refuses implicit promotion between dtypes",
            True,
            ("standard", "strict"),
        ),
        Flag("numpy_rank_promotion", "allow", "what happens when operands differ in rank", True, ("allow", "warn", "raise")),
        Flag("threefry_partitionable", True, "the counter layout of random bits (False: the older streams)", traced=True),
        Flag("default_prng_impl", "threefry2x32", "the generator of new random keys", True, ("threefry2x32",)),
        Flag(
            "default_matmul_precision", None, "accepted for compatibility; products are computed in full precision", traced=True
        ),
        Flag("compiled_dispatch", True, "call jitted functions through native code that recognizes their arguments"),
        Flag("disable_jit", False, "run jitted functions and control flow one operation at a time, in NumPy"),
        Flag("debug_nans", False, "raise FloatingPointError when a result holds a NaN"),
        Flag("debug_infs", False, "raise FloatingPointError when a result holds an infinity"),
        Flag("check_tracer_leaks", False, "raise when a tracer outlives the function it was made for"),
        Flag("log_compiles", False, "report every compilation on standard error"),
        Flag("traceback_filtering", "auto", "accepted for compatibility"),
        Flag("platform_name", "cpu", "accepted for compatibility: the platform is the CPU"),
        Flag("platforms", "cpu", "accepted for compatibility: the platform is the CPU"),
        Flag("num_cpu_devices", 1, "accepted for compatibility: there is one device"),
        Flag("disable_most_optimizations", False, "accepted for compatibility"),
        Flag("verify", False, "check every program after every pass"),
        Flag("dump", "", "which stages of each compilation to write to dump_dir: names with commas, or 'all'"),
        Flag("dump_dir", "tracegrad_dump", "the folder that dumps are written to"),
        Flag("cache", True, "keep compiled programs on disk"),
        Flag("cache_dir", "", "the folder of the disk cache; empty: 'tracegrad' in the user's cache folder"),
        Flag("cache_size_mb", 1024, "the size to which the disk cache is trimmed, in MiB"),
    )
}


def _parse(flag: Flag, text: str) -> Any:
    if isinstance(flag.default, bool):
        lowered = text.strip().lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off", ""):
            return False
        raise ValueError(f"TRACEGRAD_{flag.name.upper()}={text!r}: expected a boolean such as 1 or 0")
    if isinstance(flag.default, int):
        return int(text)
    return text


def _canonical(name: str) -> str:
    short = name[len("jax_") :] if name.startswith("jax_") else name
    if short not in FLAGS:
        raise AttributeError(f"unrecognized config option: {name}; there are {', '.join(sorted(FLAGS))}")
    return short


_TRACED = tuple(f.name for f in FLAGS.values() if f.traced)


class Config:
    """The flags' values: `config.enable_x64`, `config.update("enable_x64", True)`.

    epoch: a number that every `update` changes; overridden(): the flags that the current context overrides, or None. Together they say
    whether what was decided by looking at flags still holds, without looking at each.
    """

    epoch: int
    overridden: Callable[[], dict[str, Any] | None]
    variable: ContextVar[dict[str, Any] | None]
    """The context variable that `overridden` reads, for code that cannot call Python."""
    _values: dict[str, Any]
    _overrides: ContextVar[dict[str, Any] | None]
    _trace_key: tuple[Any, ...]
    _watchers: list[Callable[[int], None]]

    def __init__(self) -> None:
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "epoch", 0)
        object.__setattr__(self, "_watchers", [])
        object.__setattr__(self, "_overrides", ContextVar("tracegrad_config", default=None))
        for flag in FLAGS.values():
            text = os.environ.get(f"TRACEGRAD_{flag.name.upper()}", os.environ.get(f"JAX_{flag.name.upper()}"))
            self._values[flag.name] = flag.default if text is None else self._checked(flag.name, _parse(flag, text))
        object.__setattr__(self, "overridden", self._overrides.get)
        object.__setattr__(self, "variable", self._overrides)
        self._changed()

    def _changed(self) -> None:
        object.__setattr__(self, "epoch", self.epoch + 1)
        object.__setattr__(self, "_trace_key", tuple([self._values[name] for name in _TRACED]))
        for watcher in self._watchers:
            watcher(self.epoch)

    def watch(self, watcher: Callable[[int], None]) -> None:
        """Have `watcher` called with the new epoch whenever a flag is updated, and once now."""
        self._watchers.append(watcher)
        watcher(self.epoch)

    def _checked(self, name: str, value: Any) -> Any:
        flag = FLAGS[name]
        if isinstance(flag.default, bool) and not isinstance(value, (bool, int)):
            raise TypeError(f"config option {name} is a boolean, got {value!r}")
        if flag.choices is not None and value not in flag.choices:
            raise ValueError(f"config option {name}: {value!r} is not one of {flag.choices}")
        return bool(value) if isinstance(flag.default, bool) else value

    def __getattr__(self, name: str) -> Any:
        overrides = self._overrides.get()
        if overrides is not None and name in overrides:
            return overrides[name]
        try:
            return self._values[name]
        except KeyError:
            return getattr(self, _canonical(name))

    def __setattr__(self, name: str, value: Any) -> None:
        self.update(name, value)

    def read(self, name: str) -> Any:
        return getattr(self, _canonical(name))

    @property
    def x64_enabled(self) -> bool:
        return bool(self.enable_x64)

    @property
    def values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FLAGS}

    def update(self, name: str, value: Any) -> None:
        """Set a flag for the process. Raises AttributeError for an unknown name, ValueError/TypeError for a value it cannot have."""
        name = _canonical(name)
        self._values[name] = self._checked(name, value)
        self._changed()

    @contextmanager
    def override(self, name: str, value: Any) -> Iterator[None]:
        """Set a flag for a block, in the current context."""
        name = _canonical(name)
        changed = {**(self._overrides.get() or {}), name: self._checked(name, value)}
        token = self._overrides.set(changed)
        try:
            yield
        finally:
            self._overrides.reset(token)

    def trace_key(self) -> tuple[Any, ...]:
        """The values of the flags that change what tracing produces."""
        overrides = self._overrides.get()
        if overrides is None:
            return self._trace_key
        values = self._values
        return tuple([overrides.get(name, values[name]) for name in _TRACED])

    def parse_flags_with_absl(self) -> None:
        """Accepted for compatibility: flags come from the environment and from `update`."""

    config_with_absl = parse_flags_with_absl


config = Config()


def context_manager(name: str) -> Callable[..., Any]:
    """A context manager that sets one flag: `enable_x64 = context_manager("enable_x64")`; `with enable_x64(): ...`."""

    def manager(value: Any = True) -> Any:
        return config.override(name, value)

    manager.__name__ = manager.__qualname__ = name
    manager.__doc__ = f"Context manager. {FLAGS[name].help[0].upper()}{FLAGS[name].help[1:]}."
    return manager
