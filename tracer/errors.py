"""Errors about traced values, under JAX's class names, in words that name the user's own things."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracegrad.ir import source

if TYPE_CHECKING:
    from tracegrad.tracer.tracer import Tracer


class JAXTypeError(TypeError):
    """A value of the wrong kind for a transformation."""


class JAXIndexError(IndexError):
    """An index of the wrong kind for a transformation."""


class ConcretizationTypeError(JAXTypeError):
    """A traced value was used where a concrete one is needed."""


class TracerBoolConversionError(ConcretizationTypeError):
    """A traced value was used as a truth value: in `if`, `while`, `and`, `or`, `not`, `assert`."""


class TracerArrayConversionError(JAXTypeError):
    """A traced value was handed to NumPy, which needs the numbers."""


class TracerIntegerConversionError(JAXTypeError):
    """A traced value was used as a Python integer: in `range`, as an index of a list, as a size."""


class NonConcreteBooleanIndexError(JAXIndexError):
    """A traced boolean mask was used as an index: the shape of the result would depend on its values."""


class UnexpectedTracerError(JAXTypeError):
    """A traced value was used after the function that it was traced in had returned."""


class JaxprTypeError(JAXTypeError):
    """A program does not type-check."""


class KeyReuseError(RuntimeError):
    """A random key was consumed twice."""


class InconclusiveDimensionOperation(Exception):
    """A question about symbolic dimensions has no answer."""


JaxRuntimeError = RuntimeError


def variable_name(value: Any) -> str | None:
    """The name under which the user's innermost frame holds `value`, if it does."""
    frame = source.user_frame()
    while frame is not None:
        for name, held in frame.f_locals.items():
            if held is value and not name.startswith("."):
                return name
        for name, held in frame.f_locals.items():
            if isinstance(held, (list, tuple)) and any(x is value for x in held):
                return f"{name}[{next(i for i, x in enumerate(held) if x is value)}]"
            if isinstance(held, dict):
                for key, x in held.items():
                    if x is value:
                        return f"{name}[{key!r}]"
        break
    return None


def describe(tracer: Tracer) -> str:
    """The tracer in the user's words: its variable, type, and where it was made."""
    name = variable_name(tracer)
    subject = f"the value `{name}`" if name else "a value"
    return f"{subject} of type {tracer.aval}, {tracer.origin()}"


def noun(x: Any) -> str:
    """What a value is, in a message about what it should have been: "an array f32[3]", "a tuple of 3"."""
    aval = getattr(x, "aval", None)
    if aval is not None:
        return f"an array {aval}"
    if x is None:
        return "None"
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__} of {len(x)}"
    name = type(x).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _used_at() -> str:
    frame = source.user_frame()
    if frame is None:
        return ""
    return f"\n  It was needed at {frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}."


_WAYS_OUT: dict[type[Exception], tuple[str, str]] = {
    TracerBoolConversionError: (
        "Python needs a concrete True or False to decide which way to go (`if`, `while`, `and`, `or`, `not`, `assert`), but this "
        "value is only known when the compiled program runs.",
        "To choose between values use tracegrad.numpy.where; between computations tracegrad.lax.cond; to repeat "
        "tracegrad.lax.while_loop; to combine conditions & | ~. If the value comes from an argument that rarely changes, name the argument in jit's "
        "static_argnums or static_argnames.",
    ),
    TracerIntegerConversionError: (
        "Python needs a concrete integer here (`range`, a list index, a shape, a repeat count), but this value is only known when the "
        "compiled program runs.",
        "To loop use tracegrad.lax.fori_loop or lax.scan; to index make the list an array with tracegrad.numpy.stack; for a size "
        "name the argument in jit's static_argnums or static_argnames.",
    ),
    ConcretizationTypeError: (
        "A concrete number is needed here (`float(x)`, `x.item()`, a format), but this value is only known when the compiled program "
        "runs.",
        "Keep it an array (x.astype(...) converts), print it with tracegrad.debug.print, return it from the function, or name the argument in "
        "jit's static_argnums or static_argnames.",
    ),
    TracerArrayConversionError: (
        "NumPy was handed a traced value (np.asarray or a numpy function), but its numbers are only known when the compiled "
        "program runs.",
        "Use the function of the same name in tracegrad.numpy, call NumPy through tracegrad.pure_callback, or name the argument in jit's "
        "static_argnums or static_argnames.",
    ),
}


def concretization_error(kind: type[Exception], tracer: Tracer) -> Exception:
    """The error for using `tracer` where a concrete value is needed."""
    why, way_out = _WAYS_OUT.get(kind, _WAYS_OUT[ConcretizationTypeError])
    return kind(f"A traced value was used where a concrete one is needed: {describe(tracer)}.{_used_at()}\n{why}\n{way_out}")


def needs_concrete(tracer: Tracer, what: str, way_out: str) -> ConcretizationTypeError:
    """The error of a function, described by `what`, that needs the values of an argument: `jnp.nonzero without size=`."""
    return ConcretizationTypeError(f"{what} needs concrete values, got {describe(tracer)}.{_used_at()}\n{way_out}")


def boolean_index_error(tracer: Tracer) -> NonConcreteBooleanIndexError:
    return NonConcreteBooleanIndexError(
        f"An array was indexed with a traced boolean mask: {describe(tracer)}.{_used_at()}\n"
        "The shape of the result would depend on the mask's values, which are only known when the compiled program runs.\n"
        "Use tracegrad.numpy.where(mask, x, other), x.at[mask].set(...) for scalars, or tracegrad.numpy.nonzero(mask, size=...)."
    )


def escaped_tracer_error(tracer: Tracer) -> UnexpectedTracerError:
    """The error for a tracer that is used outside the function it was traced in."""
    refusal = tracer.refusal()
    if refusal:
        return UnexpectedTracerError(f"{refusal}{_used_at()}")
    return UnexpectedTracerError(
        f"A traced value escaped from the function it belongs to: {describe(tracer)}, while tracing {tracer.owner()}.{_used_at()}\n"
        "Traced values exist only while their function is being traced; a global, an attribute, a list or a closure kept this one.\n"
        "Return it from the function instead, or pass what you need as an argument and a result. "
        "config.update('check_tracer_leaks', True) reports where it was kept."
    )
