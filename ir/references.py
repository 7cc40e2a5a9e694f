"""Python objects that a program refers to: rules of custom derivatives, callbacks, and what else stands among an equation's parameters.

A program is plain data except for these. Each has a name, printed `@name`, under which the parser finds it again while it lives.
Names count up within a process; where a program is hashed the process counts, too, so that a hash never says that two processes mean
the same object.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

REFERENCES: WeakValueDictionary[str, Reference] = WeakValueDictionary()
_serial = itertools.count()
_salt = os.urandom(8).hex()


class Reference:
    """A named handle on Python objects that a program refers to. Equal only to itself."""

    __slots__ = ("name", "__weakref__")

    def __init__(self, name: str):
        self.name = f"{name}_{next(_serial)}"
        REFERENCES[self.name] = self

    @property
    def identity(self) -> str:
        """What tells this reference from all others, those of other processes (forked ones, too) included."""
        return f"{self.name}@{os.getpid()}.{_salt}"

    def __repr__(self) -> str:
        return f"@{self.name}"


class ObjectReference(Reference):
    """Stands for any hashable object; equal objects of one type share it. `value` is the object, while that lives."""

    __slots__ = ("_value",)

    def __init__(self, value: Hashable, weakly: bool):
        label = getattr(value, "__name__", None) or type(value).__name__
        super().__init__("".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in str(label)))
        self._value: Any = ref(value) if weakly else value

    @property
    def value(self) -> Any:
        return self._value() if isinstance(self._value, ref) else self._value


# By type and value: 1 and True are equal to Python and different here. Objects die as if nobody knew them, but for those that
# cannot be referred to weakly.
_objects: dict[type, WeakKeyDictionary[Any, ObjectReference]] = {}
_kept: dict[tuple[type, Any], ObjectReference] = {}


def reference_to(value: Hashable) -> Reference:
    """The reference that stands for an object. Raises TypeError for one without a hash."""
    if isinstance(value, Reference):
        return value
    hash(value)
    kind = type(value)
    try:
        known = _objects.setdefault(kind, WeakKeyDictionary())
        found = known.get(value)
        if found is None:
            found = known[value] = ObjectReference(value, True)
        return found
    except TypeError:
        key = (kind, value)
        if key not in _kept:
            _kept[key] = ObjectReference(value, False)
        return _kept[key]


def referred(name: str) -> Any:
    """The object printed as `@name`. Raises KeyError if it does not live in this process."""
    found = REFERENCES[name]
    if not isinstance(found, ObjectReference):
        return found
    value = found.value
    if value is None:
        raise KeyError(name)
    return value
