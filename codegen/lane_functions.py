"""Elementwise functions of several methods, computed in lanes of vectors (`sorted_elements.py`), which programs call by symbol.

They are large, and always the same: each is a module of its own, which the runtime compiles when a program first needs it and keeps in the disk
cache (`runtime/lanes.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

NAMES = frozenset(("igamma", "igammac", "igamma_grad_a", "random_gamma_grad", "regularized_incomplete_beta"))
"""The primitives computed so."""
LANES, FEW_LANES = 32, 8
"""How many elements are computed together, of many and of few."""


def symbol(name: str, dtype: Any, size: int) -> str:
    """The symbol of the function for arrays of a dtype and size: `void (in0, ..., out, stride0, ..., low, high)`, where strides count elements
    and are 0 for arguments of rank 0; it computes the elements low <= i < high."""
    return f"tg.lanes.{name}.{np.dtype(dtype).name}.{LANES if size >= 2 * LANES else FEW_LANES}"


def module_text(name: str, dtype: Any, lanes: int, attributes: str) -> tuple[str, list[str]]:
    """The module that defines a function under its symbol, and the symbols `tg.` that it needs."""
    from tracegrad.codegen import incomplete_beta, incomplete_gamma, incomplete_gamma_slope
    from tracegrad.codegen.elementary import closure
    from tracegrad.codegen.kernel import Kernel, Value
    from tracegrad.codegen.sorted_elements import sorted_loop

    function = (incomplete_gamma.FUNCTIONS | incomplete_gamma_slope.FUNCTIONS | incomplete_beta.FUNCTIONS)[name]
    operands = function.operands
    single = np.dtype(dtype).itemsize < 8
    params = {f"in{j}": "ptr" for j in range(operands)} | {"out": "ptr"} | {f"stride{j}": "i64" for j in range(operands)}
    k = Kernel(f"tg.lanes.{name}.{np.dtype(dtype).name}.{lanes}", params | {"low": "i64", "high": "i64"})

    def argument(j: int) -> Any:
        array = k.array(k[f"in{j}"], dtype)

        def load(i: Value) -> Value:
            return array[i * k[f"stride{j}"]].cast("double")

        return load

    sorted_loop(k, [argument(j) for j in range(operands)], k.array(k["out"], dtype), function, function.methods(single), lanes)
    texts, declarations, _ = closure(k.elementary)
    declarations |= set(k.externals.values())
    parts = [k.text("dso_local"), *texts, *sorted(declarations), f"attributes #0 = {{ nounwind {attributes} }}"]
    return "\n".join(parts) + "\n", [s for s in k.externals if s.startswith("tg.")]
