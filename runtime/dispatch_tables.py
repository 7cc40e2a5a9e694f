"""Tables: what the compiled dispatcher must know of one specialization of a jitted function, as words that native code reads.

`runtime.dispatch_code` names the words. A table is made from a call that has gone through Python: from its arguments, the trace that was found for
them, and the program that ran.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import partial
from inspect import signature
from math import prod
from typing import Any

import numpy as np

from tracegrad.ir.config import config
from tracegrad.ir.types import ArrayType
from tracegrad.runtime import costs, objects, pool
from tracegrad.runtime.array import ArrayImpl, DeletedArray
from tracegrad.runtime.dispatch_code import BUILDS, CAST, CASTS, GUARDS, RESULT, RESULTS, TABLE
from tracegrad.runtime.executable import Executable, physical
from tracegrad.tracer.treedef import NODES, TreeDef, is_plain_namedtuple

MOST_LEAVES = 1000
_LONG = 100e-6
"""Seconds: a kernel that is likely to take longer gives the global lock up. Doing so costs little by itself, but beside a thread that
computes in Python the lock is slow to come back."""


class Unfit(Exception):
    """Calls like this one go through Python."""


def eligible(executable: Executable) -> bool:
    """Whether a program can be run natively: it neither calls Python nor touches tapes."""
    return not executable.has_tapes and not (executable.code is not None and executable.has_effects)


_INFO: dict[ArrayType, Any] = {}


def info(t: ArrayType) -> int:
    """The address of what arrays of type `t` know of their data. It is never freed, and neither is the type."""
    words = _INFO.get(t)
    if words is None:
        shape, dtype = physical(t)
        words = (ctypes.c_size_t * (2 + max(len(shape), 1)))(id(dtype), len(shape), *shape)
        for thing in (t, dtype, words):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
        words = _INFO.setdefault(t, words)
    return ctypes.addressof(words)


_NUMBERS: dict[type, tuple[str, dict[Any, int]]] = {
    float: ("float", {np.dtype(np.float32): 0, np.dtype(np.float64): 1}),
    int: ("int", {np.dtype(np.int32): 0, np.dtype(np.int64): 1}),
    bool: ("bool", {np.dtype(np.bool_): id(True)}),
    complex: ("complex", {np.dtype(np.complex64): 0, np.dtype(np.complex128): 1}),
}
_NUMBERS |= {np.float64: _NUMBERS[float], np.complex128: _NUMBERS[complex]}


def _numbers(t: type) -> tuple[str, dict[Any, int]]:
    """The guard of numbers of a type, and what it is told, by the dtype that the kernel reads."""
    if t not in _NUMBERS:
        _NUMBERS[t] = ("", {})
        if issubclass(t, np.generic) and np.dtype(t).type is t and np.dtype(t).kind in "biufc":
            dtype = np.dtype(t)
            probe = np.frombuffer(bytes(range(3, 3 + dtype.itemsize)), dtype)[0]
            if dtype.itemsize <= 16 and ctypes.string_at(id(probe) + objects.NUMBER, dtype.itemsize) == probe.tobytes():
                wanted = {dtype, _NARROW.get(dtype, dtype)}
                _NUMBERS[t] = ("within", dict.fromkeys(wanted, id(t)))
    return _NUMBERS[t]


_NARROW: dict[Any, Any] = {np.dtype(np.int64): np.dtype(np.int32), np.dtype(np.uint64): np.dtype(np.uint32)}


def _conversion(given: Any, t: ArrayType) -> str:
    """How data of a NumPy dtype become those of an array of type `t`."""
    wanted = np.dtype(t.dtype)
    if given == wanted and objects.dtype_word(given) == objects.dtype_word(wanted):
        return "none"
    if given.kind not in "biufc":
        raise Unfit
    if not given.isnative or given.itemsize != 2 * wanted.itemsize or t.nbytes >= pool.SMALLEST:
        return "numpy"
    return "integers" if given.kind in "iu" else "floats"


_COMPARED = frozenset((int, float, complex, bool, str, bytes))
"""Types of static arguments that are compared; others must be the same object, lest Python code run."""


class Table:
    """One specialization: what the arguments must be, the kernel, what is made of its results. `words` is what native code reads."""

    __slots__ = (
        "words",
        "address",
        "frame",
        "epoch",
        "executable",
        "_kept",
        "_guards",
        "_registers",
        "_leaf",
        "_types",
        "_kinds",
    )

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], static: Any, leaves: Sequence[Any], traced: Any):
        executable: Executable = traced.executable
        if not eligible(executable) or len(leaves) > MOST_LEAVES or len(executable.out_types) > MOST_LEAVES:
            raise Unfit
        self.epoch = config.epoch
        self.executable = executable
        self._kept: list[Any] = [executable]
        self._types = executable.in_types
        self._guards: list[int] = []
        self._registers = len(args) + len(kwargs)
        self._leaf = 0
        self._kinds: list[str] = []
        for i, x in enumerate(args):
            self._guard(i, x, i in static.argnums)
        places = {name: len(args) + i for i, name in enumerate(kwargs)}
        for name in sorted(kwargs):
            self._guard(places[name], kwargs[name], name in static.argnames)
        results = self._results(executable)
        build: list[int] = []
        depth = self._build(traced.out_tree, 0, build)
        names = [_interned(name) for name in kwargs]
        self._kept.append(names)
        nin, nout = len(leaves), len(executable.out_types)
        if self._leaf != nin:
            raise Unfit
        sizes = {
            "inputs": nin,
            "outputs": nout + 1,
            "outs": nout,
            "objects": nin,
            "regs": self._registers,
            "scalars": 2 * nin,
            "stack": depth,
            "given": nin,
            "taken": nin if traced.donated else 0,
        }
        places = {}
        total = 0
        for name, size in sizes.items():
            places[name] = total
            total += size + size % 2
        self.frame = total
        self.words = (ctypes.c_size_t * len(TABLE))()
        self.address = ctypes.addressof(self.words)
        guards, records, builders = (self._array(x) for x in (self._guards, results, build))
        pooled = RESULTS["pool"] in results[:: len(RESULT)]
        release = executable.code is not None and _seconds(executable) > _LONG
        arrays = [i for i, kind in enumerate(self._kinds) if kind == "array"]
        donated = [i for i in arrays if i in traced.donated]
        values: dict[str, Any] = {
            **places,
            "arrays": self._array([*donated, *[i for i in arrays if i not in traced.donated]]) if donated else 0,
            "narrays": len(arrays),
            "ndonated": len(donated),
            "over": self._array(list(executable.overwritten)),
            "nover": len(executable.overwritten),
            "epoch": self.epoch,
            "owner": id(self),
            "nargs": len(args),
            "nkw": len(kwargs),
            "names": self._array([id(n) for n in names]),
            "guards": guards,
            "guards_end": guards + objects.WORD * len(self._guards),
            "hold": int(pooled or release or bool(donated)),
            "nin": nin,
            "nout": nout,
            "results": records,
            "release": int(release),
            "failed": self._keep(executable.raise_status),
            "build": builders,
            "build_end": builders + objects.WORD * len(build),
        }
        if executable.code is not None:
            values |= {
                "entry": executable.entry_address,
                "constants": executable.constants_address,
                "arena": executable.code.arena_size,
            }
        for name, value in values.items():
            self.words[TABLE[name]] = value

    def _keep(self, x: Any) -> int:
        self._kept.append(x)
        return id(x)

    def _array(self, values: list[int]) -> int:
        array = (ctypes.c_size_t * max(len(values), 1))(*values)
        self._kept.append(array)
        return ctypes.addressof(array)

    def _record(self, op: str, source: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0) -> None:
        self._guards += [GUARDS[op], source, a, b, c, d, e]

    def _guard(self, register: int, x: Any, static: bool = False) -> None:
        """Say what is in a register."""
        t = type(x)
        if static and t is tuple:
            first = self._members("items", register, len(x), self._keep(t))
            for i, y in enumerate(x):
                self._guard(first + i, y, True)
        elif static or x is None:
            self._record("equal" if t in _COMPARED else "same", register, self._keep(x))
        elif t is dict:
            first = self._members("dict", register, len(x), self._array([self._keep(k) for k in x]))
            where = {k: first + i for i, k in enumerate(x)}
            for k in sorted(x):
                self._guard(where[k], x[k])
        elif t is list:
            first = self._members("list", register, len(x), 0)
            for i, y in enumerate(x):
                self._guard(first + i, y)
        elif t is tuple or is_plain_namedtuple(t):
            first = self._members("items", register, len(x), self._keep(t))
            for i, y in enumerate(x):
                self._guard(first + i, y)
        elif t in NODES:
            self._fields(register, x, t)
        else:
            self._leaf_guard(register, x, t)

    def _fields(self, register: int, x: Any, t: type) -> None:
        """A container that is made of attributes: a registered dataclass."""
        node = NODES[t]
        if node.fields is None or node.meta is None or not objects.have_versions():
            raise Unfit
        names = [sys.intern(name) for name in (*node.fields, *node.meta)]
        version = objects.version(t)
        if not version or not objects.reads_without_code(t, names):
            raise Unfit
        at = self._array([self._keep(name) for name in names])
        first = self._members("fields", register, len(names), self._keep(t), at, version)
        for i, name in enumerate(names):
            self._guard(first + i, getattr(x, name), i >= len(node.fields))

    def _members(self, op: str, register: int, count: int, a: int, d: int = 0, e: int = 0) -> int:
        """Members of a container get the next registers; the first of them."""
        first = self._registers
        self._registers += count
        if self._registers > 4 * MOST_LEAVES:
            raise Unfit
        self._record(op, register, a, count, first, d, e)
        return first

    def _leaf_guard(self, register: int, x: Any, t: type) -> None:
        leaf = self._leaf
        self._leaf += 1
        if leaf >= len(self._types):
            raise Unfit
        wanted = self._types[leaf]
        if t is ArrayImpl or t is DeletedArray:  # deleted by the call that this is made from: it was donated
            if x.aval is not wanted:
                raise Unfit
            self._kinds.append("array")
            self._record("array", register, id(wanted), leaf, e=self._cast("none", wanted))
        elif t is np.ndarray:
            kind = _conversion(x.dtype, wanted)
            self._kinds.append("ndarray" if kind == "none" else "converted")
            word, dims = objects.dtype_word(x.dtype), self._array(list(x.shape))
            self._record("ndarray", register, word, leaf, x.ndim, dims, self._cast(kind, wanted))
        else:
            op, codes = _numbers(t)
            if wanted.dtype not in codes:
                raise Unfit
            self._kinds.append(op)
            self._record(op, register, codes[wanted.dtype], leaf, id(t), e=self._cast("numpy", wanted))

    def _cast(self, kind: str, t: ArrayType) -> int:
        """How a leaf becomes an array of type `t`."""
        words = dict.fromkeys(CAST, 0)
        words |= {"kind": CASTS[kind], "type": id(t), "info": info(t)}
        shape, dtype = physical(t)
        count = prod(shape)
        words |= {"bytes": count * dtype.itemsize, "count": 2 * count if dtype.kind == "c" else count}
        return self._array(list(words.values()))

    def _results(self, executable: Executable) -> list[int]:
        """How each result is made."""
        records: list[int] = []
        first: dict[int, int] = {}
        over = {k: i for i, k in executable.overwritten.items() if k is not None}
        if any([self._kinds[i] != "array" for i in executable.overwritten]):
            raise Unfit  # memory that the caller may write to: it is copied
        for i, ((kind, which), t) in enumerate(zip(executable.sources, executable.out_types)):
            r = dict.fromkeys(RESULT, 0)
            r |= {"type": id(t), "info": info(t)}
            if kind == "result" and which in first:
                r |= {"op": RESULTS["again"], "from": first[which]}
            elif kind == "result":
                first[which] = i
                shape, dtype, nbytes = executable.memory[which]
                r["index"] = which
                if which in over:
                    r |= {"op": RESULTS["over"], "from": over[which]}
                elif nbytes >= pool.SMALLEST:
                    r |= {"op": RESULTS["pool"], "object": self._keep((shape, dtype, nbytes))}
                else:
                    r |= {"op": RESULTS["inline"], "bytes": nbytes}
            elif kind == "constant":
                if type(which) is not np.ndarray or not which.flags.c_contiguous:
                    raise Unfit
                r |= {"op": RESULTS["constant"], "object": self._keep(which), "data": int(which.__array_interface__["data"][0])}
            elif self._kinds[which] in ("array", "converted"):
                r |= {"op": RESULTS["input"], "from": which}
            elif t.nbytes < pool.SMALLEST:
                r |= {"op": RESULTS["copy"], "from": which, "bytes": t.nbytes}  # a number, or memory that the caller may write to
            else:
                raise Unfit
            records += r.values()
        return records

    def _build(self, t: TreeDef, at: int, build: list[int]) -> int:
        """Append how a result of structure `t` is built, on a stack of height `at`; the height that this takes."""
        kind = t.node_type
        if kind is None:
            build += (BUILDS["out"], 0, 0, 0)
            return at + 1
        if kind is type(None):
            build += (BUILDS["same"], 0, id(None), 0)
            return at + 1
        children = t.children()
        height = max([at + 1, *[self._build(c, at + i, build) for i, c in enumerate(children)]])
        if kind is dict:
            build += (BUILDS["dict"], len(children), 0, self._array([self._keep(k) for k in t.aux]))
        elif kind is list or kind is tuple:
            build += (BUILDS[kind.__name__], len(children), 0, 0)
        elif _builds_by_items(kind):
            build += (BUILDS["named"], len(children), self._keep(kind), 0)
        else:
            node = NODES[kind]
            build += (BUILDS["tuple"], len(children), 0, 0, BUILDS["call"], 1)
            if node.meta is not None and node.fields is not None and _begins_with(kind, node.fields):
                build += (self._keep(kind), self._keep(dict(zip(node.meta, t.aux))))
            else:
                build += (self._keep(partial(node.unflatten, t.aux)), 0)
        return height


def _builds_by_items(t: type) -> bool:
    """Whether instances of a type of named tuples are made by putting their items into them, as `collections.namedtuple` does."""
    made = getattr(t.__new__, "__module__", None) or ""
    return (
        is_plain_namedtuple(t)
        and made.startswith("namedtuple_")
        and t.__basicsize__ == tuple.__basicsize__
        and not any("__init__" in vars(c) for c in t.__mro__[:-2])
    )


def _begins_with(t: type, names: tuple[str, ...]) -> bool:
    """Whether a type's first arguments have these names, so that they may be passed without."""
    try:
        parameters = list(signature(t).parameters.values())[: len(names)]
    except (TypeError, ValueError):
        return False
    return tuple([p.name for p in parameters]) == names and all([p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters])


def _interned(name: str) -> str:
    return sys.intern(str(name))


_PER_FLOP, _PER_TRANSCENDENTAL, _PER_BYTE = 0.5e-9, 5e-9, 0.05e-9
"""Seconds, from the pessimistic side of what one core does."""


def _seconds(executable: Executable) -> float:
    """A guess at the time that a call takes."""
    program = executable.computed
    if any([e.primitive.name in ("while", "record_while", "tape_scan") for e in program.walk()]):
        return 1.0  # nobody knows
    total = costs.of(program)
    return _PER_FLOP * total["flops"] + _PER_TRANSCENDENTAL * total["transcendentals"] + _PER_BYTE * total["bytes accessed"]
