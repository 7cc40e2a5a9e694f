"""`Tracer`: a value that belongs to an interpreter and stands for an array that is being computed symbolically.

Its operators and methods are those of `ir.array.Array`. What it refuses are the conversions that need numbers; a subclass
that knows its concrete value (differentiation outside jit does) overrides `concrete`.
"""

from __future__ import annotations

from typing import Any

from tracegrad.ir.array import Array
from tracegrad.ir.types import ArrayType
from tracegrad.tracer import errors


class TraceTag:
    """A transformation under way, as JAX's older interface shows it: `main` is the interpreter itself, to be compared by identity."""

    __slots__ = ("main",)

    def __init__(self, interpreter: Any):
        self.main = interpreter


class Tracer(Array):
    """A value owned by `interpreter`; any other interpreter treats it as a constant."""

    __slots__ = ("aval", "interpreter", "__weakref__")
    aval: ArrayType

    def __init__(self, interpreter: Any, aval: ArrayType):
        self.interpreter = interpreter
        self.aval = aval

    @property
    def _trace(self) -> TraceTag:
        return TraceTag(self.interpreter)

    def concrete(self, error: type[Exception]) -> Any:
        """The concrete array this stands for; raises `error`, explained, if there is none."""
        raise errors.concretization_error(error, self)

    def origin(self) -> str:
        """Where the value was made, in words."""
        return "being traced"

    def owner(self) -> str:
        """What the value was being traced for, in words."""
        return type(self.interpreter).__name__

    def refusal(self) -> str:
        """Why the value must not be computed with, if that is for another reason than having outlived its trace."""
        return ""

    def __bool__(self) -> bool:
        return bool(self.concrete(errors.TracerBoolConversionError))

    def __int__(self) -> int:
        return int(self.concrete(errors.ConcretizationTypeError))

    def __float__(self) -> float:
        return float(self.concrete(errors.ConcretizationTypeError))

    def __complex__(self) -> complex:
        return complex(self.concrete(errors.ConcretizationTypeError))

    def __index__(self) -> int:
        value = self.concrete(errors.TracerIntegerConversionError)
        return value.__index__()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.concrete(errors.TracerArrayConversionError).__array__(*args, **kwargs)

    def __hash__(self) -> int:  # type: ignore[override]
        raise TypeError(f"unhashable type: {type(self).__name__}; static arguments and dictionary keys must be concrete")

    def item(self, *args: Any) -> Any:
        return self.concrete(errors.ConcretizationTypeError).item(*args)

    def tolist(self) -> Any:
        return self.concrete(errors.ConcretizationTypeError).tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.concrete(errors.TracerArrayConversionError).tobytes(order)

    def block_until_ready(self) -> Tracer:
        return self

    def __len__(self) -> int:
        if not self.aval.shape:
            raise TypeError("len() of unsized object")
        return self.aval.shape[0]

    def __iter__(self) -> Any:
        if not self.aval.shape:
            raise TypeError("iteration over a 0-d array")
        return iter([self[i] for i in range(self.aval.shape[0])])  # type: ignore[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            f"arrays are immutable: {errors.describe(self)} cannot be assigned to.\n"
            "Instead of x[i] = v write x = x.at[i].set(v) (also .add, .multiply, .min, .max)."
        )

    def __copy__(self) -> Tracer:
        return self

    def __deepcopy__(self, memo: Any) -> Tracer:
        return self

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.aval})"
