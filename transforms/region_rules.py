"""Importing this module attaches the derivative and batching rules of the primitives that hold programs: control flow and calls."""

from __future__ import annotations

from tracegrad.transforms import calls as calls
from tracegrad.transforms import checkpoint as checkpoint
from tracegrad.transforms import collectives as collectives
from tracegrad.transforms import control_flow as control_flow
from tracegrad.transforms import custom_rules as custom_rules
from tracegrad.transforms import custom_vmap as custom_vmap
from tracegrad.transforms import scan as scan
from tracegrad.transforms import while_loops as while_loops
