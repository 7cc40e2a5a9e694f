"""The normal distribution."""

from __future__ import annotations

from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.numpy.promotion import promote_inexact
from tracegrad.scipy import special

_LOG_ROOT_2_PI = 0.5 * float(np.log(2 * np.pi))


def _standardized(name: str, x: Any, loc: Any, scale: Any) -> tuple[Any, Any]:
    x, loc, scale = promote_inexact(f"norm.{name}", x, loc, scale)
    return (x - loc) / scale, scale


def logpdf(x: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """The logarithm of the density."""
    z, scale = _standardized("logpdf", x, loc, scale)
    return -0.5 * z * z - jnp.log(scale) - _LOG_ROOT_2_PI


def pdf(x: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """The density."""
    return jnp.exp(logpdf(x, loc, scale))


def cdf(x: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """The distribution function."""
    return special.ndtr(_standardized("cdf", x, loc, scale)[0])


def logcdf(x: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """The logarithm of the distribution function."""
    return special.log_ndtr(_standardized("logcdf", x, loc, scale)[0])


def sf(x: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """1 minus the distribution function."""
    return special.ndtr(-_standardized("sf", x, loc, scale)[0])


def logsf(x: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """The logarithm of 1 minus the distribution function."""
    return special.log_ndtr(-_standardized("logsf", x, loc, scale)[0])


def ppf(q: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """The inverse of the distribution function."""
    q, loc, scale = promote_inexact("norm.ppf", q, loc, scale)
    return special.ndtri(q) * scale + loc


def isf(q: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """The inverse of 1 minus the distribution function."""
    q, loc, scale = promote_inexact("norm.isf", q, loc, scale)
    return -special.ndtri(q) * scale + loc
