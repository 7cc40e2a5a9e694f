"""Calls of jitted functions without Python: the tables of the compiled dispatcher, and how it is brought into the process.

When a function is called again with arguments like those it was traced for, a table is made that says how to recognize such arguments, where their data are,
and what to build of the results (`runtime.dispatch_code`). From then on the interpreter calls native code. What no table describes goes the
way it went before, through `JitFunction.__call__`: other argument types, transformations and overridden flags in force, programs that
call back into Python.

The dispatcher is compiled once for an interpreter, kept on disk as programs are, and loaded when a function is called repeatedly. On interpreters
whose objects are laid out in a way that we do not know, and with the flag `compiled_dispatch` off, none of this happens.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import numpy as np

from tracegrad.ir import bind
from tracegrad.ir.config import config
from tracegrad.ir.types import ArrayType
from tracegrad.runtime import dispatch_code, objects, pool, routines
from tracegrad.runtime.array import ArrayImpl, DeletedArray
from tracegrad.runtime.dispatch_code import CONSTANTS, FUNCTION, TABLE
from tracegrad.runtime.dispatch_tables import Table, Unfit, eligible

HASTY_CALLS = 20_000
"""How many calls native code that was compiled in haste answers before it is compiled again, and better."""

MOST_TABLES = 16
"""Specializations of one function that are called natively. The chain is walked from its head."""

FIRST_CALLS = 2
"""How many calls a function answers before the dispatcher is loaded for it: one that is called to run once, or to warm up and run once,
has no use for it."""

TRIALS = 3
"""How often a table is tried for a traced function whose arguments or results turn out to be what tables cannot describe."""


class _Plain:
    """Stands in for the base class of jitted functions where they are called through Python."""

    __slots__ = ()


Callable: Any = (
    objects.type_with_words("tracegrad.runtime.dispatch.Callable", len(FUNCTION)) if objects.layout() is not None else _Plain
)
"""Base class of jitted functions: has the words that a native call looks at."""


class _Dispatcher:
    """The dispatcher in this process. `code`: the addresses of its functions once it is loaded."""

    def __init__(self) -> None:
        self.possible = objects.layout() is not None
        self.code: dict[str, int] | None = None
        self.provisional = False
        self.slow: Any = None
        self.functions: WeakSet[Any] = WeakSet()
        self.lock = threading.RLock()
        self._constants: list[Any] = []
        self._kept: list[Any] = []

    def ready(self) -> bool:
        """Bring it into the process if that has not been done: from the disk, else compiled in haste, for a first call should not wait long."""
        with self.lock:
            if self.code is None and self.possible:
                self._load(in_haste=True)
        return self.code is not None

    def look(self) -> bool:
        """Called when calls go to Python that might have been native: after many of them, code compiled in haste is replaced."""
        if not self.provisional or ctypes.c_ssize_t(self._constants[-1][CONSTANTS["calls"]]).value > 0:
            return False
        with self.lock:
            if self.provisional:
                self._load(in_haste=False)
        return True

    def _load(self, in_haste: bool) -> None:
        layout, slots = objects.layout(), array_slots()
        if layout is None or slots is None or not all([hasattr(ctypes.pythonapi, name) for name in dispatch_code.FUNCTIONS]):
            self.possible = False
            return
        text = dispatch_code.text(layout, slots)
        data = routines.kept(text)
        self.provisional = data is None and in_haste
        if data is None:
            # Passes over the IR gain little, for the text is written the way it should be.
            text, level = (f"; in haste\n{text}", 0) if in_haste else (text, 1)
            data = routines.kept(text)
            if data is None:
                data = routines.compiled(text, level)
                routines.keep(text, data)
        symbols = {
            name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0 for name in dispatch_code.FUNCTIONS
        }
        code = routines.link(data, [f"tg.dispatch.{name}" for name in dispatch_code.EXPORTS], "tracegrad_dispatch", symbols)
        self._install({name.rpartition(".")[2]: address for name, address in code.items()}, slots)

    def _install(self, code: dict[str, int], slots: dict[str, int]) -> None:
        constants = (ctypes.c_size_t * 64).from_address(ctypes.CFUNCTYPE(ctypes.c_size_t)(code["constants"])())
        if self._constants:
            constants[:] = self._constants[-1][:]
            self._constants[-1][CONSTANTS["spare"]] = 0
        else:
            for key, value in self._values(slots).items():
                constants[CONSTANTS[key]] = value
        constants[CONSTANTS["calls"]] = HASTY_CALLS if self.provisional else 1 << 62
        self._constants.append(constants)
        if len(self._constants) == 1:
            config.watch(self._flags_changed)
        take_over_arrays(code, self._kept)
        self.code = code
        for function in list(self.functions):
            point(function, "vectorcall", code["call"])

    def _values(self, slots: dict[str, int]) -> dict[str, int]:
        api = array_api()
        types = {"float": float, "int": int, "bool": bool, "complex": complex, "str": str, "list": list, "dict": dict}
        things: dict[str, Any] = {
            "none": None,
            "array": ArrayImpl,
            "deleted": DeletedArray,
            "lent": pool.Lent,
            "ndarray": np.ndarray,
            "interpreter": bind.variable,
            "overrides": config.variable,
        }
        things |= {**types, "slow": self.slow, "take": pool.take}
        ring = (ctypes.c_size_t * (slots["size"] // objects.WORD + 2))()
        ring[-1] = ring[-2] = ctypes.addressof(ring)
        for thing in (*things.values(), ring):  # never freed: arrays and functions may outlive the modules
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
        offset = objects.word(id(type(self.slow)) + objects.TYPE_VECTORCALL)
        functions = {
            "slow_call": objects.word(id(self.slow) + offset),
            "new_array": api[94],
            "set_base": api[282],
            "from_any": api[69],
        }
        return {**{key: id(thing) for key, thing in things.items()}, **functions, "live": ctypes.addressof(ring)}

    def _flags_changed(self, epoch: int) -> None:
        for constants in self._constants:
            constants[CONSTANTS["epoch"]] = epoch


DISPATCHER = _Dispatcher()


def calls_through(cls: type) -> None:
    """Let calls of this class of jitted functions be native where a function has a table; `__call__` is for the others."""
    DISPATCHER.slow = cls.__call__
    if DISPATCHER.possible:
        objects.give_vectorcall(cls, objects.WORD * FUNCTION["vectorcall"])


def live_arrays() -> list[ArrayImpl]:
    """The living arrays that were made by native calls: the garbage collector does not know them."""
    if DISPATCHER.code is None:
        return []
    found: list[Any] = ctypes.PYFUNCTYPE(ctypes.py_object)(DISPATCHER.code["live"])()
    return [x for x in found if type(x) is ArrayImpl]


def point(function: Any, name: str, value: int) -> None:
    """Write one of the words of a jitted function that native code looks at."""
    if DISPATCHER.possible:
        objects.set_word(id(function) + objects.WORD * FUNCTION[name], value)


def array_api() -> Any:
    """The table of NumPy's C functions."""
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype = ctypes.c_void_p
    get.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return (ctypes.c_size_t * 300).from_address(get(_multiarray_umath._ARRAY_API, None))


def array_slots() -> dict[str, int] | None:
    """The byte offsets of an array's slots; None if they cannot be found."""
    probe = ArrayImpl(np.zeros(()), ArrayType((), np.dtype(np.float32)))
    names = {"np": "_np", "aval": "aval"}
    slots = {short: objects.slot_offset(probe, name) for short, name in names.items()}
    size = ArrayImpl.__basicsize__
    slots["weak"] = ArrayImpl.__weakrefoffset__
    free = [at for at in range(objects.HEAD, size, objects.WORD) if at not in slots.values()]
    if 0 in slots.values() or len(free) != 3 or ArrayImpl.__itemsize__ or ArrayImpl.__dictoffset__:
        return None
    return {**slots, "info": free[0], "data": free[1], "owner": free[2], "size": size}


def take_over_arrays(code: dict[str, int], kept: list[Any]) -> None:
    """Let `ArrayImpl` have instances of two kinds: those made by Python, and those made by calls, whose data lie in them."""
    api = ctypes.pythonapi
    words = (ctypes.c_size_t * 5)()
    name = ctypes.c_char_p(b"_np")
    words[:] = [ctypes.cast(name, ctypes.c_void_p).value, code["get_data"], code["set_data"], 0, id(AttributeError)]  # type: ignore[list-item]
    api.PyDescr_NewGetSet.restype = ctypes.py_object
    api.PyDescr_NewGetSet.argtypes = [ctypes.py_object, ctypes.c_void_p]
    descriptor = api.PyDescr_NewGetSet(ArrayImpl, ctypes.addressof(words))
    kept.extend((words, name, descriptor))
    for thing in (words, name, descriptor, ArrayImpl, DeletedArray):
        api.Py_IncRef(ctypes.py_object(thing))
    setattr(ArrayImpl, "_np", descriptor)  # noqa: B010  the slot of this name has become native code
    for cls in (ArrayImpl, DeletedArray):
        objects.set_word(id(cls) + objects.TYPE_DEALLOC, code["dealloc"])
        objects.set_word(id(cls) + objects.TYPE_IS_GC, code["is_gc"])
        api.PyType_Modified(ctypes.py_object(cls))


def offer(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Sequence[Any], traced: Any) -> bool | None:
    """Take note of a call of a jitted function that has gone through Python, and let others like it be native. False if that cannot be;
    None for its first calls, before the dispatcher is loaded: functions that are called once or twice should not wait for it."""
    if not DISPATCHER.possible or not config.compiled_dispatch or config.overridden() is not None:
        return False
    if DISPATCHER.code is None and traced.calls < FIRST_CALLS:
        traced.calls += 1
        return None
    if DISPATCHER.look() or traced.unfit >= TRIALS or not eligible(traced.executable) or not DISPATCHER.ready():
        return False
    tables: Tables | None = function._tables
    if tables is not None and tables.epoch == config.epoch and len(tables.chain) >= MOST_TABLES:
        return False
    if traced.donated and tables is not None and sum([t.executable is traced.executable for t in tables.chain]) >= TRIALS:
        return False  # this call's arrays were shared with others, or passed in another way each time
    try:
        table = Table(args, kwargs, function._static, leaves, traced)
    except Unfit:
        traced.unfit += 1
        return False
    with DISPATCHER.lock:
        tables = function._tables
        if tables is None or tables.epoch != table.epoch:
            forget(function)
            tables = function._tables = Tables(table.epoch)
        tables.add(function, table)
        if function not in DISPATCHER.functions:
            DISPATCHER.functions.add(function)
            assert DISPATCHER.code is not None
            point(function, "vectorcall", DISPATCHER.code["call"])
    return True


def forget(function: Any) -> None:
    """Drop a function's tables."""
    with DISPATCHER.lock:
        point(function, "table", 0)  # first: nobody may find what is freed next
        function._tables = None


class Tables:
    """A function's chain of tables. The function's words point into it."""

    __slots__ = ("epoch", "chain", "frame")

    def __init__(self, epoch: int):
        self.epoch = epoch
        self.chain: list[Table] = []
        self.frame = 0

    def add(self, function: Any, table: Table) -> None:
        """Put a table in front. A call that is walking the chain does so with the lock, and holds the table that it runs."""
        table.words[TABLE["next"]] = self.chain[-1].address if self.chain else 0
        self.chain.append(table)
        self.frame = max(self.frame, table.frame)
        point(function, "frame", self.frame)
        point(function, "table", table.address)
