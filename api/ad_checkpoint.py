"""Rematerialization, under the names of `jax.ad_checkpoint`; and schedules for the checkpoints of loops, which JAX does not have."""

from __future__ import annotations

from tracegrad.transforms.checkpoint import checkpoint as checkpoint
from tracegrad.transforms.checkpoint import checkpoint_name as checkpoint_name
from tracegrad.transforms.checkpoint import checkpoint_policies as checkpoint_policies
from tracegrad.transforms.checkpoint import remat as remat
from tracegrad.transforms.loop_checkpoints import binomial as binomial
from tracegrad.transforms.loop_checkpoints import every as every
from tracegrad.transforms.saved_residuals import print_saved_residuals as print_saved_residuals
from tracegrad.transforms.saved_residuals import saved_residuals as saved_residuals
