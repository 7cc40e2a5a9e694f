"""The compiled dispatcher's native code: LLVM IR for calls of jitted functions and for the arrays that such calls return.

A call walks a chain of *tables* (`runtime.dispatch` writes them), one for each specialization of a function. A table is an array of words,
whose names are in `TABLE`: what the arguments must be, as records of `GUARD`; how results are made, as records of `RESULT`; how containers
are built around them, as records of `BUILD`. The first table whose guards hold is run; if there is none, the call goes to Python.

No guard runs Python code, so what is borrowed from the arguments stays alive; a call that gives up the global lock, or takes memory from
the pool (which is Python code), holds its leaves.

The text has abbreviations, which `runtime.dispatch_text` lists. Nothing here depends on addresses: object code is kept on disk.
"""

from __future__ import annotations

from tracegrad.runtime.dispatch_arrays import COUNTS, OBJECTS
from tracegrad.runtime.dispatch_casts import CASTING
from tracegrad.runtime.dispatch_donation import DONATION
from tracegrad.runtime.dispatch_match import MATCH
from tracegrad.runtime.dispatch_run import CALL, RUN
from tracegrad.runtime.dispatch_text import expand
from tracegrad.runtime.objects import (
    ARRAY_BASE,
    ARRAY_DATA,
    ARRAY_DESCR,
    ARRAY_DIMS,
    ARRAY_FLAGS,
    ARRAY_NDIM,
    DICT_USED,
    DTYPE_MASK,
    DTYPE_WORD,
    HAVE_VERSION,
    HEAD,
    LIST_ITEMS,
    LIST_SIZE,
    NUMBER,
    TYPE_FLAGS,
    TYPE_VERSION,
    WORD,
    Layout,
)


def _index(names: str, start: int = 0) -> dict[str, int]:
    return {name: i for i, name in enumerate(names.split(), start)}


CONSTANTS = _index(
    "epoch none array deleted lent ndarray float int bool complex str list dict interpreter overrides slow slow_call new_array set_base from_any take "
    "spare spare_size live calls"
)
"""Addresses of objects and functions that the code is given when it is loaded; the current epoch of the flags; the spare arena; the ring
of arrays that were made by calls; how many calls may be native before one goes to Python, to see what is to be done."""

FUNCTION = _index("vectorcall table frame", HEAD // WORD)
"""Words of a jitted function: the code to call, its first table, the words of stack that the largest of its tables needs."""

TABLE = _index(
    "next epoch owner nargs nkw names regs guards guards_end hold nin inputs nout results outs outputs objects "
    "scalars arena entry constants release failed build build_end stack given taken arrays narrays ndonated over nover"
)
"""Words of a table. `inputs`, `outputs`, `outs`, `objects`, `regs`, `scalars`, `stack`, `given` and `taken` are places in the frame, in words;
`arrays` the leaves that are arrays, the donated ones first, and `over` those of them whose memory the kernel overwrites."""

GUARD = _index("op source a b c d e")
"""A guard: the register that it looks at, and what its kind of guard needs."""
GUARDS = _index("array ndarray float int bool complex within same equal items list dict fields")

CAST = _index("kind type info bytes count")
"""How a leaf is converted that is not what the kernel reads: the array that comes of it, and its numbers."""
CASTS = _index("none numpy floats integers")
"""Kinds of conversions: none where the data are contiguous; by NumPy; from 64 bits to 32."""

RESULT = _index("op index type info bytes data object from")
RESULTS = _index("inline pool constant input again copy over")

BUILD = _index("op count object keys")
BUILDS = _index("out same list tuple named dict call")

INFO = _index("descr ndim dims")
"""What an array made by a call knows of its data: dtype, rank, dimensions."""

FUNCTIONS = {
    "PyObject_Malloc": "ptr (i64)",
    "PyObject_Free": "void (ptr)",
    "PyObject_GC_Del": "void (ptr)",
    "PyObject_GC_UnTrack": "void (ptr)",
    "PyObject_ClearWeakRefs": "void (ptr)",
    "PyContextVar_Get": "i32 (ptr, ptr, ptr)",
    "PyObject_Call": "ptr (ptr, ptr, ptr)",
    "PyObject_CallFunctionObjArgs": "ptr (ptr, ...)",
    "PyDict_New": "ptr ()",
    "PyDict_Next": "i32 (ptr, ptr, ptr, ptr)",
    "PyDict_SetItem": "i32 (ptr, ptr, ptr)",
    "PyList_New": "ptr (i64)",
    "PyList_Append": "i32 (ptr, ptr)",
    "PyTuple_New": "ptr (i64)",
    "PyType_GenericAlloc": "ptr (ptr, i64)",
    "PyLong_AsLongLongAndOverflow": "i64 (ptr, ptr)",
    "PyLong_FromLong": "ptr (i64)",
    "PyObject_RichCompareBool": "i32 (ptr, ptr, i32)",
    "PyUnicode_Compare": "i32 (ptr, ptr)",
    "PyErr_Clear": "void ()",
    "PyErr_NoMemory": "ptr ()",
    "PyErr_Occurred": "ptr ()",
    "PyErr_SetNone": "void (ptr)",
    "PyEval_SaveThread": "ptr ()",
    "PyObject_GetAttr": "ptr (ptr, ptr)",
    "PyType_IsSubtype": "i32 (ptr, ptr)",
    "PyEval_RestoreThread": "void (ptr)",
    "_Py_Dealloc": "void (ptr)",
    "Py_IncRef": "void (ptr)",
    "Py_DecRef": "void (ptr)",
    "PyMem_RawMalloc": "ptr (i64)",
    "PyMem_RawFree": "void (ptr)",
}
EXPORTS = ("constants", "call", "dealloc", "is_gc", "get_data", "set_data", "live")


def _numbers(layout: Layout, slots: dict[str, int]) -> dict[str, int]:
    """What the names in the text stand for. slots: byte offsets of an array's slots, and of its list of weak references."""
    numbers: dict[str, int] = {"OBJECT_count": 0, "OBJECT_type": 1, "NUMBER": NUMBER, "DTYPE_MASK": DTYPE_MASK}
    numbers |= {"TUPLE_size": HEAD // WORD, "TUPLE_items": layout.tuple_items // WORD, "DICT_used": DICT_USED // WORD}
    numbers |= {"LIST_size": LIST_SIZE // WORD, "LIST_items": LIST_ITEMS // WORD, "DESCR_word": DTYPE_WORD // WORD}
    numbers |= {
        "ND_data": ARRAY_DATA // WORD,
        "ND_dims": ARRAY_DIMS // WORD,
        "ND_descr": ARRAY_DESCR // WORD,
        "ND_base": ARRAY_BASE // WORD,
    }
    numbers |= {"ND_flags": ARRAY_FLAGS, "ND_ndim": ARRAY_NDIM}
    numbers |= {"TYPE_flags": TYPE_FLAGS // WORD, "TYPE_version": TYPE_VERSION, "TYPE_VERSIONED": HAVE_VERSION}
    for prefix, names in (
        ("TABLE", TABLE),
        ("GUARD", GUARD),
        ("CAST", CAST),
        ("RESULT", RESULT),
        ("BUILD", BUILD),
        ("INFO", INFO),
        ("CALL", FUNCTION),
    ):
        numbers |= {f"{prefix}_{name}": i for name, i in names.items()}
    for prefix, names in (
        ("GUARDS", GUARDS),
        ("CASTS", CASTS),
        ("RESULTS", RESULTS),
        ("BUILDS", BUILDS),
        ("CONSTANTS", CONSTANTS),
    ):
        numbers |= {f"{prefix}_{name}": i for name, i in names.items()}
    numbers |= {f"{prefix}_WORDS": len(n) for prefix, n in (("GUARD", GUARD), ("RESULT", RESULT), ("BUILD", BUILD))}
    numbers |= {f"ARRAY_{name}": at // WORD for name, at in slots.items() if name != "size"}
    numbers |= {"ARRAY_before": slots["size"] // WORD, "ARRAY_after": slots["size"] // WORD + 1}
    # Some versions keep the list of weak references before the object.
    numbers["PREFIX"] = max(-slots["weak"], 0)
    # The data begin at the first multiple of 64 behind the links; Python's blocks begin at multiples of 16.
    head = -(-(slots["size"] + 2 * WORD) // 16) * 16
    numbers["BEHIND"] = head + 63
    numbers["EXTENT"] = numbers["PREFIX"] + head + 48
    return numbers


def text(layout: Layout, slots: dict[str, int]) -> str:
    """The module's LLVM IR, for this interpreter."""
    numbers = _numbers(layout, slots)
    clear = "".join(
        f"  %before{i} = getelementptr i64, ptr %block, i64 {i}\n  store i64 0, ptr %before{i}, align 8\n"
        for i in range(numbers["PREFIX"] // WORD)
    )
    declared = "".join(f"declare {sig.split(' (')[0]} @{name}({sig.split(' (')[1]}\n" for name, sig in FUNCTIONS.items())
    source = declared + COUNTS[layout.counts] + OBJECTS.replace("CLEAR_PREFIX\n", clear) + CASTING + MATCH + DONATION + RUN + CALL
    return expand(source, numbers)
