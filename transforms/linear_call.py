"""linear_call: a linear function that brings its own transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.ir.bind import type_of
from tracegrad.ir.calls import DerivativeRule, custom_jvp_call_p
from tracegrad.ir.types import ArrayType, tangent_type
from tracegrad.tracer.abstract import argument_names
from tracegrad.tracer.pytree import TreeDef, structure_error, tree_flatten, tree_unflatten
from tracegrad.transforms.api import as_array, as_inputs, check_callable, leaf_type, name_of
from tracegrad.transforms.closures import Lifted, lift
from tracegrad.transforms.custom import arrays
from tracegrad.transforms.custom_rules import apply_custom
from tracegrad.transforms.zero import Linear, Zero, instantiate


def linear_call(fun: Callable[..., Any], fun_transpose: Callable[..., Any], residual_args: Any, linear_args: Any) -> Any:
    """`fun(residual_args, linear_args)`, which is linear in linear_args, with `fun_transpose(residual_args, cotangent)` for its transpose.

    fun_transpose gives a cotangent of the structure and types of linear_args. Forward mode applies `fun` to tangents, reverse mode
    `fun_transpose` to cotangents; neither says anything about derivatives with respect to residual_args, which raise NotImplementedError.
    """
    check_callable(fun, "linear_call")
    check_callable(fun_transpose, "linear_call")
    leaves, tree = tree_flatten((residual_args, linear_args))
    for i, x in enumerate(leaves):
        leaf_type("linear_call", lambda: argument_names(fun, (residual_args, linear_args), {}), i, x)
    lifted = lift((fun, fun_transpose))
    held = [] if lifted is None else lifted[1]
    call = _LinearCall(fun, fun_transpose, lifted, len(held), tree, len(tree_flatten(residual_args)[0]))
    outs = call.apply([*held, *arrays(as_inputs(leaves))])
    return tree_unflatten(call.out_tree, [as_array(x) for x in outs])


class _LinearCall:
    """The call as a flat function of (values that the functions close over, residuals, linear arguments), and its rules."""

    out_tree: TreeDef

    def __init__(
        self,
        fun: Callable[..., Any],
        transpose: Callable[..., Any],
        lifted: tuple[Lifted, list[Any]] | None,
        num_held: int,
        tree: TreeDef,
        num_residuals: int,
    ):
        self.name = name_of(fun)
        self.lifted = None if lifted is None else lifted[0]
        # In `lifted` they are without the traced values.
        self.functions: Any = (fun, transpose) if lifted is None else None
        self.num_held = num_held
        self.num_fixed = num_held + num_residuals
        self.tree = tree
        self.rule = DerivativeRule(self.name, jvp=self.jvp, transpose=self.transpose)

    def functions_at(self, values: Sequence[Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
        fun, transpose = self.functions if self.lifted is None else self.lifted.at(values[: self.num_held])
        return fun, transpose

    def apply(self, values: Sequence[Any]) -> Sequence[Any]:
        return apply_custom(custom_jvp_call_p, self, self.rule, values)

    def __call__(self, *values: Any) -> list[Any]:
        fun, _ = self.functions_at(values)
        outs, self.out_tree = tree_flatten(fun(*tree_unflatten(self.tree, values[self.num_held :])))
        return outs

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        if any([type(t) is not Zero for t in tangents[: self.num_fixed]]):
            raise NotImplementedError(
                f"linear_call: {self.name} is differentiated with respect to its residual arguments or what it closes over; only its "
                "dependence on the linear arguments is known. Use a function with custom_jvp, or stop_gradient of the residuals"
            )
        dots = self.apply([*primals[: self.num_fixed], *[instantiate(t) for t in tangents[self.num_fixed :]]])
        return self.apply(primals), dots

    def transpose(self, cts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        fixed, linear = inputs[: self.num_fixed], inputs[self.num_fixed :]
        _, turned = self.functions_at(fixed)
        residuals, example = tree_unflatten(self.tree, [*fixed[self.num_held :], *range(len(linear))])
        found = turned(residuals, tree_unflatten(self.out_tree, arrays([instantiate(ct) for ct in cts])))
        leaves, tree = tree_flatten(found)
        expected = tree_flatten(example)[1]
        if tree != expected:
            raise TypeError(
                f"linear_call: the transpose of {self.name} must give the structure of the linear arguments; "
                f"{structure_error('linear arguments', expected, 'transpose', tree)}"
            )
        for ct, x in zip(leaves, linear):
            want = tangent_type(x.type if type(x) is Linear else type_of(x))
            self._check(type_of(ct), want)
        return [*[None] * self.num_fixed, *[ct if type(x) is Linear else None for ct, x in zip(leaves, linear)]]

    def _check(self, got: ArrayType, want: ArrayType) -> None:
        if got.shape != want.shape or got.dtype != want.dtype:
            raise TypeError(f"linear_call: the transpose of {self.name} gave {got} as the cotangent of an argument {want}")
