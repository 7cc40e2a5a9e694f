"""Transformations of programs: derivatives, batching, and the passes that clean programs up.

Whoever imports any of it finds the rules attached to the primitives.
"""

from __future__ import annotations

from tracegrad.transforms import leaf_rules as leaf_rules
from tracegrad.transforms import region_rules as region_rules
