"""The errors that tracegrad raises, under the names of `jax.errors`."""

from __future__ import annotations

from tracegrad.tracer.errors import ConcretizationTypeError as ConcretizationTypeError
from tracegrad.tracer.errors import InconclusiveDimensionOperation as InconclusiveDimensionOperation
from tracegrad.tracer.errors import JAXIndexError as JAXIndexError
from tracegrad.tracer.errors import JaxprTypeError as JaxprTypeError
from tracegrad.tracer.errors import JaxRuntimeError as JaxRuntimeError
from tracegrad.tracer.errors import JAXTypeError as JAXTypeError
from tracegrad.tracer.errors import KeyReuseError as KeyReuseError
from tracegrad.tracer.errors import NonConcreteBooleanIndexError as NonConcreteBooleanIndexError
from tracegrad.tracer.errors import TracerArrayConversionError as TracerArrayConversionError
from tracegrad.tracer.errors import TracerBoolConversionError as TracerBoolConversionError
from tracegrad.tracer.errors import TracerIntegerConversionError as TracerIntegerConversionError
from tracegrad.tracer.errors import UnexpectedTracerError as UnexpectedTracerError
