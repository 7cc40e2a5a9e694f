"""Families of distributions: what the functions of a distribution (`gamma.logpdf(x, a, loc, scale)`) have in common.

A continuous distribution is given by functions of the standardized argument (x - loc) / scale and the shape parameters; whatever is
not given follows from what is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tracegrad.numpy as jnp
from tracegrad.numpy.promotion import promote_inexact

Function = Callable[..., Any]


class _Family:
    """Binds the arguments of a distribution's functions: shapes by position or name, then loc (and scale)."""

    location: tuple[str, ...] = ()

    def __init__(self, name: str, shapes: str = ""):
        self.name = name
        self.shapes = tuple(shapes.split())

    def _bind(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        names = (*self.shapes, *self.location)
        if len(args) > len(names):
            raise TypeError(f"{self.name}.{function} takes the parameters {', '.join(names)} after its argument, got {len(args)}")
        given = dict(zip(names, args))
        for key, value in kwargs.items():
            if key not in names or key in given:
                raise TypeError(f"{self.name}.{function} got an unexpected parameter {key!r}; it takes {', '.join(names)}")
            given[key] = value
        missing = [n for n in self.shapes if n not in given]
        if missing:
            raise TypeError(f"{self.name}.{function} needs the parameters {', '.join(missing)}")
        return [given.get(n, 1 if n == "scale" else 0) for n in names]

    def __repr__(self) -> str:
        return f"<distribution {self.name}>"


class Continuous(_Family):
    """A family of densities with loc and scale.

    logpdf(z, *shapes); support(*shapes) -> (low, high); cdf, sf, logcdf, logsf(z, *shapes); ppf(q, *shapes).
    """

    location = ("loc", "scale")

    def __init__(
        self,
        name: str,
        shapes: str = "",
        *,
        logpdf: Function,
        support: Function | None = None,
        cdf: Function | None = None,
        sf: Function | None = None,
        logcdf: Function | None = None,
        logsf: Function | None = None,
        ppf: Function | None = None,
    ):
        super().__init__(name, shapes)
        self._logpdf = logpdf
        self._support = support
        self._cdf = cdf
        self._sf = sf
        self._logcdf = logcdf
        self._logsf = logsf
        self._ppf = ppf

    def _standardized(self, function: str, x: Any, args: Any, kwargs: Any) -> tuple[Any, list[Any], Any]:
        x, *parameters = promote_inexact(f"{self.name}.{function}", x, *self._bind(function, args, kwargs))
        *shapes, loc, scale = parameters
        return (x - loc) / scale, shapes, scale

    def _within(self, z: Any, shapes: list[Any]) -> tuple[Any, Any, Any]:
        """z, moved into the support where it is outside; where it is below; where above. A derivative outside is then not NaN."""
        if self._support is None:
            return z, None, None
        low, high = self._support(*shapes)
        below, above = z < low, z > high
        finite = [b for b in (low, high) if not (isinstance(b, float) and np.isinf(b))]
        inside = sum(finite) / 2 if len(finite) == 2 else low + 1 if finite and finite[0] is low else high - 1
        return jnp.where(below | above, inside, z), below, above

    def logpdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the density."""
        z, shapes, scale = self._standardized("logpdf", x, args, kwargs)
        z, below, above = self._within(z, shapes)
        out = self._logpdf(z, *shapes) - jnp.log(scale)
        return out if below is None else jnp.where(below | above, -jnp.inf, out)

    def pdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The density."""
        return jnp.exp(self.logpdf(x, *args, **kwargs))

    def _probability(self, function: str, x: Any, args: Any, kwargs: Any, upper: bool, log: bool) -> Any:
        z, shapes, _ = self._standardized(function, x, args, kwargs)
        z, below, above = self._within(z, shapes)
        direct, other = (self._sf, self._cdf) if upper else (self._cdf, self._sf)
        direct_log = self._logsf if upper else self._logcdf
        if log and direct_log is not None:
            out = direct_log(z, *shapes)
        elif direct is not None or other is not None:
            value = direct(z, *shapes) if direct is not None else 1 - other(z, *shapes)  # type: ignore[misc]
            out = jnp.log(value) if log else value
        elif direct_log is not None:
            out = jnp.exp(direct_log(z, *shapes))
        else:
            raise AttributeError(f"the distribution {self.name} has no {function}")
        if below is None:
            return out
        none, all_of_it = (-jnp.inf, 0.0) if log else (0.0, 1.0)
        low, high = (all_of_it, none) if upper else (none, all_of_it)
        return jnp.where(below, low, jnp.where(above, high, out))

    def cdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The distribution function."""
        return self._probability("cdf", x, args, kwargs, False, False)

    def sf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """1 minus the distribution function."""
        return self._probability("sf", x, args, kwargs, True, False)

    def logcdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the distribution function."""
        return self._probability("logcdf", x, args, kwargs, False, True)

    def logsf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of 1 minus the distribution function."""
        return self._probability("logsf", x, args, kwargs, True, True)

    def ppf(self, q: Any, *args: Any, **kwargs: Any) -> Any:
        """The inverse of the distribution function."""
        if self._ppf is None:
            raise AttributeError(f"the distribution {self.name} has no ppf")
        q, *parameters = promote_inexact(f"{self.name}.ppf", q, *self._bind("ppf", args, kwargs))
        *shapes, loc, scale = parameters
        return self._ppf(q, *shapes) * scale + loc

    def isf(self, q: Any, *args: Any, **kwargs: Any) -> Any:
        """The inverse of 1 minus the distribution function."""
        (q,) = promote_inexact(f"{self.name}.isf", q)
        return self.ppf(1 - q, *args, **kwargs)


class Discrete(_Family):
    location = ("loc",)

    def __init__(
        self,
        name: str,
        shapes: str,
        *,
        logpmf: Function,
        valid: Function,
        cdf: Function | None = None,
        ppf: Function | None = None,
    ):
        super().__init__(name, shapes)
        self._logpmf = logpmf
        self._valid = valid
        self._cdf = cdf
        self._ppf = ppf

    def logpmf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of k."""
        k, *parameters = promote_inexact(f"{self.name}.logpmf", k, *self._bind("logpmf", args, kwargs))
        *shapes, loc = parameters
        k = k - loc
        valid = self._valid(k, *shapes)
        return jnp.where(valid, self._logpmf(jnp.where(valid, k, 0), *shapes), -jnp.inf)

    def pmf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of k."""
        return jnp.exp(self.logpmf(k, *args, **kwargs))

    def cdf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of k or less."""
        if self._cdf is None:
            raise AttributeError(f"the distribution {self.name} has no cdf")
        k, *parameters = promote_inexact(f"{self.name}.cdf", k, *self._bind("cdf", args, kwargs))
        *shapes, loc = parameters
        return self._cdf(k - loc, *shapes)

    def ppf(self, q: Any, *args: Any, **kwargs: Any) -> Any:
        """The least k whose distribution function is at least q."""
        if self._ppf is None:
            raise AttributeError(f"the distribution {self.name} has no ppf")
        q, *parameters = promote_inexact(f"{self.name}.ppf", q, *self._bind("ppf", args, kwargs))
        *shapes, loc = parameters
        return self._ppf(q, *shapes) + loc
