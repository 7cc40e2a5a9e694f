"""Transformations of programs: derivatives, batching, and the passes that clean programs up.

Start with `jvp.py` (an interpreter that carries tangents), `linearize.py` (which records them instead), `transpose.py` (which turns the record
around) and `batch.py`; `api.py` is what users call. Whoever imports any of it finds the rules attached to the primitives.
"""

from __future__ import annotations

from tracegrad.transforms import leaf_rules as leaf_rules
from tracegrad.transforms import region_rules as region_rules
from tracegrad.transforms.api import grad as grad
from tracegrad.transforms.api import linear_transpose as linear_transpose
from tracegrad.transforms.api import value_and_grad as value_and_grad
from tracegrad.transforms.api import vjp as vjp
from tracegrad.transforms.checkpoint import checkpoint_name as checkpoint_name
from tracegrad.transforms.checkpoint import checkpoint_policies as checkpoint_policies
from tracegrad.transforms.checkpoint import remat as remat
from tracegrad.transforms.custom import custom_jvp as custom_jvp
from tracegrad.transforms.custom import custom_vjp as custom_vjp
from tracegrad.transforms.custom_gradient import closure_convert as closure_convert
from tracegrad.transforms.custom_gradient import custom_gradient as custom_gradient
from tracegrad.transforms.jacobians import hessian as hessian
from tracegrad.transforms.jacobians import jacfwd as jacfwd
from tracegrad.transforms.jacobians import jacrev as jacrev
from tracegrad.transforms.saved_residuals import print_saved_residuals as print_saved_residuals
