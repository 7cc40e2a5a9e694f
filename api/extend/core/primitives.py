"""Our primitives, under JAX's names: `add_p`, `dot_general_p`, `scan_p`, ... A primitive of the same name takes operands and parameters of
our IR, which are not always those of JAX's (`tracegrad.make_ir` shows them); one that JAX has and we do not is an AttributeError.
"""

from __future__ import annotations

from tracegrad.ir import calls, control_flow, ops  # noqa: F401  # whoever walks the registry needs all families
from tracegrad.ir.primitive import REGISTRY, Primitive

# Names by which JAX calls what is the same operation here.
_OTHER_NAMES = {
    "jit": "call",
    "pjit": "call",
    "closed_call": "call",
    "core_call": "call",
    "remat": "checkpoint",
    "add_jaxvals": "add",
}


def __getattr__(name: str) -> Primitive:
    if name.endswith("_p"):
        primitive = REGISTRY.get(_OTHER_NAMES.get(name[:-2], name[:-2]))
        if primitive is not None and primitive.impl is None:
            return primitive
    raise AttributeError(f"tracegrad has no primitive {name!r}")


def __dir__() -> list[str]:
    ours = [name for name, p in REGISTRY.items() if p.impl is None]
    return sorted([f"{name}_p" for name in (*ours, *_OTHER_NAMES)])
