"""`pmap`, on the one device that there is: a mapped axis of size one, so that code written for several devices runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from typing import Any

from tracegrad.placement import device_count
from tracegrad.runtime.jit import jit
from tracegrad.transforms.collectives import axis_size as size_of
from tracegrad.transforms.vmap import vmap


def pmap(
    fun: Callable[..., Any],
    axis_name: Hashable | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    static_broadcasted_argnums: int | Sequence[int] = (),
    devices: Sequence[Any] | None = None,
    backend: str | None = None,
    axis_size: int | None = None,
    donate_argnums: int | Sequence[int] = (),
) -> Callable[..., Any]:
    """`fun`, compiled, for the examples along an axis of the arguments, each on a device of its own: one example on the one device.

    in_axes, out_axes, axis_name: as for `vmap`; collectives find the axis by its name. static_broadcasted_argnums: arguments passed as they
    are. devices, backend: accepted. Raises ValueError if the axis has another size than 1: use jit(vmap(fun)) for batches.
    """
    named = axis_name if axis_name is not None else object()
    numbers = (static_broadcasted_argnums,) if isinstance(static_broadcasted_argnums, int) else tuple(static_broadcasted_argnums)

    def checked(*args: Any, **kwargs: Any) -> Any:
        size = size_of(named)
        if size > device_count():
            raise ValueError(
                f"pmap: the mapped axis has size {size}, but there is {device_count()} device; use jit(vmap(f)) for batches"
            )
        return fun(*args, **kwargs)

    @wraps(fun)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        static = {i % len(args): args[i] for i in numbers if -len(args) <= i < len(args)}
        moving = [i for i in range(len(args)) if i not in static]
        axes = tuple([in_axes[i] for i in moving]) if isinstance(in_axes, (tuple, list)) else in_axes

        def one(*values: Any, **kwargs: Any) -> Any:
            given = iter(values)
            return checked(*[static[i] if i in static else next(given) for i in range(len(args))], **kwargs)

        return vmap(one, axes, out_axes, named, axis_size)(*[args[i] for i in moving], **kwargs)

    return jit(mapped, static_argnums=numbers, donate_argnums=donate_argnums)


__all__ = ["pmap"]
