"""The disk cache of compiled programs: a second process finds object code where the first one left it.

An entry is one file, named by the hash of all that determines the code: the optimized program, the processor, LLVM's and our own
versions (while developing, the state of the code generator's files). It holds a checksum, a description in JSON and the object
code. It does not hold the arrays that a program captured, which the caller has anyway, only those that the code generator made.

Any number of processes may share the folder: entries are written beside and renamed into place, and one that is damaged, foreign
or cannot be read is a miss and is replaced. Nothing here raises for a folder that is full, missing or read-only.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tracegrad.codegen import target
from tracegrad.ir.config import config
from tracegrad.ir.program import Program
from tracegrad.ir.types import FROM_SHORT_NAME, SHORT_NAMES
from tracegrad.ir.version import __version__
from tracegrad.runtime.native import Compiled

_MAGIC = b"tracegrad object 1\n"
_SUFFIX = ".tgo"
_CHECKSUM = 32


def folder() -> Path:
    """Where entries are kept."""
    if config.cache_dir:
        return Path(config.cache_dir).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tracegrad"


@lru_cache(maxsize=1)
def _setting() -> str:
    """The versions and the processor that entries depend on."""
    import llvmlite
    import llvmlite.binding as llvm

    host = target.host()
    return "|".join(
        (
            __version__,
            _sources(),
            llvmlite.__version__,
            str(llvm.llvm_version_info),
            host.triple,
            host.cpu,
            host.features,
            str(host.vector_bits),
        )
    )


def _sources() -> str:
    """The state of the code generator's files. The version alone would keep stale code alive while somebody works on them."""
    h = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(target.__file__).parent.rglob("*.py")):
        status = path.stat()
        h.update(f"{path.name}:{status.st_size}:{status.st_mtime_ns};".encode())
    return h.hexdigest()


def key(program: Program, donated: tuple[int, ...] = ()) -> str | None:
    """The name of the entry of a program of which some inputs are donated; None if its code cannot be kept: it calls Python functions of this process, or has a
    primitive that a user lowers, by code that the name does not cover."""
    for primitive in {eqn.primitive for eqn in program.walk()}:
        # Our own rules may not be loaded yet; a program that is found here never needs them.
        module = getattr(primitive.rules.get("lower"), "__module__", "tracegrad.")
        if primitive.name in ("callback", "pure_callback") or not module.startswith("tracegrad."):
            return None
    given_up = repr(donated) if donated else ""
    return hashlib.blake2b(program.digest + (_setting() + given_up).encode(), digest_size=20).hexdigest()


def key_of_text(text: str) -> str:
    """The name of the entry of a module in LLVM's language."""
    return hashlib.blake2b(text.encode() + _setting().encode(), digest_size=20).hexdigest()


def _path(name: str) -> Path:
    return folder() / name[:2] / (name[2:] + _SUFFIX)


def load(name: str, program: Program) -> Compiled | None:
    """The entry of this name, for the program that the name was made from; None if there is none that can be used."""
    path = _path(name)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        entry = _decode(data, name, program)
    except (ValueError, KeyError, IndexError, TypeError):
        _remove(path)
        return None
    try:
        os.utime(path)  # entries that were used last are kept longest
    except OSError:
        return entry
    return entry


def store(name: str, entry: Compiled, program: Program) -> None:
    """Keep an entry, if the folder can be written to."""
    path = _path(name)
    data = _encode(entry, name, program)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            _remove(Path(temporary))
            return
    except OSError:
        return
    _size.grow(len(data))


def _captured(program: Program) -> Iterator[np.ndarray]:
    """The arrays in the program and its regions, in the order in which equal programs hold them."""
    for constant in program.constants:
        yield constant.value
    for eqn in program.equations:
        for _, region in eqn.regions():
            yield from _captured(region)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays hold the same bits in the same order."""
    if a is b:
        return True
    return a.dtype == b.dtype and a.size == b.size and bool(np.array_equal(_bits(a), _bits(b)))


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def _encode(entry: Compiled, name: str, program: Program) -> bytes:
    captured = list(_captured(program))
    constants: list[Any] = []
    blobs = [entry.object_code]
    for x in entry.constants:
        same = next((i for i, c in enumerate(captured) if _same(c, x)), None)
        if same is None:
            x = np.asarray(x, order="C")
            constants.append([SHORT_NAMES[x.dtype], list(x.shape), len(blobs)])
            blobs.append(x.tobytes())
        else:
            constants.append(same)
    head = {
        "name": name,
        "setting": _setting(),
        "symbol": entry.symbol,
        "arena_size": entry.arena_size,
        "externals": entry.externals,
        "overwritten": entry.overwritten,
        "constants": constants,
        "lengths": [len(b) for b in blobs],
    }
    text = json.dumps(head).encode()
    body = len(text).to_bytes(8, "little") + text + b"".join(blobs)
    return _MAGIC + hashlib.blake2b(body, digest_size=_CHECKSUM).digest() + body


def _decode(data: bytes, name: str, program: Program) -> Compiled:
    start = len(_MAGIC) + _CHECKSUM
    body = data[start:]
    if not data.startswith(_MAGIC) or hashlib.blake2b(body, digest_size=_CHECKSUM).digest() != data[len(_MAGIC) : start]:
        raise ValueError("not an entry, or a damaged one")
    length = int.from_bytes(body[:8], "little")
    head = json.loads(body[8 : 8 + length])
    if head["name"] != name or head["setting"] != _setting():
        raise ValueError("an entry made by another version or for another processor")
    blobs = []
    position = 8 + length
    for n in head["lengths"]:
        blobs.append(body[position : position + n])
        position += n
    captured = list(_captured(program))
    constants = []
    for c in head["constants"]:
        if isinstance(c, int):
            constants.append(captured[c])
        else:
            dtype, shape, blob = c
            constants.append(np.frombuffer(blobs[blob], FROM_SHORT_NAME[dtype]).reshape(shape))
    overwritten = tuple([(i, k) for i, k in head["overwritten"]])
    return Compiled(blobs[0], head["symbol"], head["arena_size"], tuple(head["externals"]), constants, [], overwritten)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        return


class _Size:
    """Keeps the folder below its bound. The folder is looked through when this process first writes to it, and again when what
    it has written since may have crossed the bound; other processes do the same."""

    def __init__(self) -> None:
        self.bytes: int | None = None
        self.folder: Path | None = None

    def grow(self, written: int) -> None:
        limit = int(config.cache_size_mb) << 20
        place = folder()
        if self.bytes is None or self.folder != place or self.bytes + written > limit:
            self.folder = place
            self.bytes = trim(limit)
        else:
            self.bytes += written


_size = _Size()


def trim(limit: int) -> int:
    """Remove the entries used longest ago if all of them take more than `limit` bytes, down to nine tenths of it; what remains."""
    entries = []
    for path in folder().glob(f"??/*{_SUFFIX}"):
        try:
            status = path.stat()
        except OSError:
            continue
        entries.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    if total <= limit:
        return total
    for _, size, path in sorted(entries, key=lambda e: e[0]):
        if total <= limit * 0.9:
            break
        _remove(path)
        total -= size
    return total


def clear() -> None:
    """Remove every entry."""
    trim(-1)
