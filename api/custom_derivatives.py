"""Custom derivatives, under the names of `jax.custom_derivatives`."""

from __future__ import annotations

from tracegrad.ir.calls import custom_jvp_call_p as custom_jvp_call_p
from tracegrad.ir.calls import custom_vjp_call_p as custom_vjp_call_p
from tracegrad.transforms.custom import CustomVJPPrimal as CustomVJPPrimal
from tracegrad.transforms.custom import SymbolicZero as SymbolicZero
from tracegrad.transforms.custom import custom_jvp as custom_jvp
from tracegrad.transforms.custom import custom_vjp as custom_vjp
from tracegrad.transforms.custom import custom_vjp_primal_tree_values as custom_vjp_primal_tree_values
from tracegrad.transforms.custom import zero_from_primal as zero_from_primal
from tracegrad.transforms.custom_gradient import closure_convert as closure_convert
from tracegrad.transforms.custom_gradient import custom_gradient as custom_gradient
from tracegrad.transforms.linear_call import linear_call as linear_call
from tracegrad.transforms.zero import Zero as Zero
from tracegrad.transforms.zero import is_zero as is_zero
