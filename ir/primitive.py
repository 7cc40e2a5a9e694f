"""Primitives: the operations that equations apply, and the registry that holds them.

A primitive is one record. The `ir` layer gives it a name, a type rule and its meaning (an evaluation in NumPy, which is also the
oracle of every test); `transforms` adds the rules `jvp`, `transpose`, `batch` (and `linearize` for control flow, and `jet`, which is
optional, for Taylor mode); `codegen` adds `lower`. A rule that cannot exist is `Declined(reason)`, so that a hole is never an accident: a test walks the registry.

Users make primitives of their own with `Primitive(name)` and say what they mean in the manner of JAX: `def_impl`, `def_abstract_eval`,
and tables of rules (`tracegrad.interpreters`). Such a primitive has no `lower` rule but `expand`, a traceable function whose program takes
its place before code is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tracegrad.ir import bind as binding
from tracegrad.ir.program import Program
from tracegrad.ir.types import ArrayType

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Declined:
    """A rule that was considered and refused; `reason` reaches the user."""

    reason: str


RULES = ("jvp", "linearize", "transpose", "batch", "jet", "lower", "expand")
"""The rules that layers above `ir` attach to a primitive."""

_USERS_WAY = {
    "jvp": "Differentiation rule for {name!r} not implemented; register one: "
    "tracegrad.interpreters.ad.primitive_jvps[p] = rule(primals, tangents, **params)",
    "transpose": "Transpose rule (for reverse-mode differentiation) for {name!r} not implemented; register one: "
    "tracegrad.interpreters.ad.primitive_transposes[p] = rule(cotangent, *operands, **params)",
    "batch": "Batching rule for {name!r} not implemented; register one: "
    "tracegrad.interpreters.batching.primitive_batchers[p] = rule(operands, dims, **params)",
    "lower": "The primitive {name!r} has no lowering, so it cannot be compiled; register one: "
    "tracegrad.interpreters.mlir.register_lowering(p, mlir.lower_fun(f, multiple_results={multiple_results})), where f is "
    "made of operations that can be traced (an implementation in tracegrad.numpy may be f itself; one in NumPy can be wrapped in "
    "tracegrad.pure_callback)",
}

REGISTRY: dict[str, Primitive] = {}
"""All primitives by name."""


class Primitive:
    """An operation of the IR.

    type_rule(*in_types, **params) -> tuple of ArrayType: checks the operands, raising TypeError or ValueError with a message for
        the user, and gives the results' types.
    evaluate(*arrays, **params) -> tuple of numpy arrays: the meaning. Operands and results are numpy arrays of exactly the types'
        dtypes and shapes (typed keys: uint32 arrays with the key's base shape appended).
    family: the name of the file that defines it; the same in every layer.
    regions: names of the parameters that hold Programs (or tuples of Programs).
    effect: must be neither dropped, duplicated nor reordered (callbacks).
    multiple_results: whether `bind`, and rules written in JAX's manner, give a list of results or the only one.

    `Primitive(name)` alone is a user's: its type rule and meaning follow with `def_abstract_eval` and `def_impl`. If the name is taken, by
    one of ours or by an earlier one (a cell of a notebook that runs again), the new primitive is `name.2`: a name in a program says
    which operation is meant, so no two primitives share it.
    """

    type_rule: Callable[..., tuple[ArrayType, ...]]
    evaluate: Callable[..., tuple[Any, ...]]
    multiple_results: bool = False
    impl: Callable[..., Any] | None = None
    """What a user's primitive computes when it is applied at once, on arrays; None for our own, which `evaluate`."""

    def __init__(
        self,
        name: str,
        type_rule: Callable[..., tuple[ArrayType, ...]] | None = None,
        evaluate: Callable[..., tuple[Any, ...]] | None = None,
        family: str = "user",
        regions: tuple[str, ...] = (),
        effect: bool = False,
        multiple_results: bool | None = None,
    ):
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a primitive is a string, got {name!r}")
        if type_rule is None or evaluate is None:
            name = _free(name)
            self.impl = self._expansion
        elif name in REGISTRY:
            raise ValueError(f"a primitive named {name!r} exists already")
        self.name = name
        self.type_rule = type_rule or self._no_types
        self.evaluate = evaluate or self._evaluate_impl
        self.family = family
        self.regions = regions
        self.effect = effect
        if multiple_results is not None:
            self.multiple_results = multiple_results
        self.rules: dict[str, Any] = {}
        REGISTRY[name] = self

    def define(self, **rules: Any) -> None:
        """Attach rules: `sin_p.define(jvp=..., batch=...)`."""
        for kind, rule in rules.items():
            if kind not in RULES:
                raise ValueError(f"{kind!r} is not a kind of rule; there are {', '.join(RULES)}")
            self.rules[kind] = rule

    def rule(self, kind: str) -> Callable[..., Any]:
        """The rule of this kind; raises NotImplementedError that names the primitive when there is none."""
        rule = self.rules.get(kind)
        if rule is None:
            if self.impl is not None and kind in _USERS_WAY:
                raise NotImplementedError(_USERS_WAY[kind].format(name=self.name, multiple_results=self.multiple_results))
            raise NotImplementedError(f"the primitive {self.name!r} has no {kind} rule; give it one with define({kind}=...)")
        if isinstance(rule, Declined):
            raise NotImplementedError(f"the {kind} rule of {self.name!r} does not exist: {rule.reason}")
        return rule

    def __repr__(self) -> str:
        return self.name

    # JAX's manner

    def bind(self, *args: Any, **params: Any) -> Any:
        """Apply the primitive: a list of results if it has `multiple_results`, else the only one.

        args: arrays and numbers; raises TypeError, naming the operand, for anything else. params: hashable values.
        """
        for i, x in enumerate(args):
            try:
                binding.type_of(x)
            except TypeError as e:
                raise TypeError(f"operand {i} of the primitive {self.name!r}: {e}") from None
        if self.regions and self.impl is None:
            # Whoever rebuilds programs as data has them in JAX's structure.
            params = {k: _as_programs(v) if k in self.regions else v for k, v in params.items()}
        results = binding.bind(self, *args, **params)
        return list(results) if self.multiple_results else results[0]

    def get_bind_params(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters with which `bind` applies again what an equation holds: the same ones."""
        return dict(params)

    def def_impl(self, impl: F) -> F:
        """Say what the primitive computes when it is applied at once: `impl(*arrays, **params)` gives the result, or a sequence of
        them if it has `multiple_results`. It may use tracegrad.numpy, NumPy or anything else. Returns `impl`."""
        self.impl = impl
        return impl

    def def_abstract_eval(self, rule: F) -> F:
        """Say of what types the results are: `rule(*types, **params)` gives a ShapedArray, or a sequence of them if the primitive has
        `multiple_results`. Returns `rule`."""

        def type_rule(*in_types: ArrayType, **params: Any) -> tuple[ArrayType, ...]:
            self._check_params(params)
            return self._types(rule(*in_types, **params))

        self.type_rule = type_rule
        return rule

    def def_effectful_abstract_eval(self, rule: F) -> F:
        """Like `def_abstract_eval`, with a rule that returns (types, effects): the primitive has side effects, so that no application of
        it is dropped, merged or moved. Returns `rule`."""

        def type_rule(*in_types: ArrayType, **params: Any) -> tuple[ArrayType, ...]:
            self._check_params(params)
            types, _ = rule(*in_types, **params)
            return self._types(types)

        self.type_rule = type_rule
        self.effect = True
        return rule

    def results(self, value: Any, of: str) -> tuple[Any, ...]:
        """What a function written in JAX's manner returned, as a tuple. `of` names the function, for the message."""
        if not self.multiple_results:
            return (value,)
        if isinstance(value, Iterable) and not hasattr(value, "dtype"):
            return tuple(value)
        raise TypeError(f"{self.name!r} has multiple_results, but {of} returned {value!r:.200} instead of a list or tuple")

    def _types(self, value: Any) -> tuple[ArrayType, ...]:
        types = []
        for t in self.results(value, "its abstract evaluation"):
            if not isinstance(t, ArrayType):
                if not (hasattr(t, "shape") and hasattr(t, "dtype")):
                    several = "" if self.multiple_results else "; a primitive with several results needs multiple_results = True"
                    raise TypeError(f"the abstract evaluation of {self.name!r} returned {t!r:.200}, not a ShapedArray{several}")
                t = ArrayType(tuple(t.shape), t.dtype, bool(getattr(t, "weak_type", False)))
            types.append(t)
        return tuple(types)

    def _check_params(self, params: dict[str, Any]) -> None:
        for key, value in params.items():
            try:
                hash(value)
            except TypeError:
                raise TypeError(
                    f"the parameter {key!r} of the primitive {self.name!r} is {value!r:.200} of type {type(value).__name__}, which has no "
                    "hash; parameters are hashable (tuples instead of lists), arrays are operands"
                ) from None
            members = value if isinstance(value, tuple) else (value,)
            if any([isinstance(v, Program) for v in members]) and key not in self.regions:
                if not all([isinstance(v, Program) for v in members]):
                    raise TypeError(f"the parameter {key!r} of the primitive {self.name!r} mixes programs with other values")
                self.regions += (key,)

    def _no_types(self, *_: ArrayType, **__: Any) -> tuple[ArrayType, ...]:
        raise NotImplementedError(
            f"Abstract evaluation for {self.name!r} not implemented: what are its results' types? Give it a rule with "
            "p.def_abstract_eval(lambda *types, **params: ShapedArray(...)), which tracing needs"
        )

    def _expansion(self, *args: Any, **params: Any) -> Any:
        expand = self.rules.get("expand")
        if expand is None:
            raise NotImplementedError(
                f"Evaluation rule for {self.name!r} not implemented: say what it computes with p.def_impl(lambda *arrays, **params: ...)"
            )
        results = expand(*args, **params)
        return results if self.multiple_results else results[0]

    def _evaluate_impl(self, *arrays: np.ndarray, **params: Any) -> tuple[np.ndarray, ...]:
        assert self.impl is not None
        with binding.using(binding.eager()):
            results = self.results(self.impl(*arrays, **params), "its implementation")
        return tuple([np.asarray(x, binding.type_of(x).dtype) for x in results])


def _as_programs(value: Any) -> Any:
    """Programs for closed jaxprs, in tuples too."""
    return tuple(map(_as_programs, value)) if isinstance(value, tuple) else getattr(value, "program", value)


def _free(name: str) -> str:
    if name not in REGISTRY:
        return name
    k = 2
    while f"{name}.{k}" in REGISTRY:
        k += 1
    return f"{name}.{k}"
