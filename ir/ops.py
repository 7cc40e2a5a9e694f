"""Every operation of the IR in one namespace: what the rules of transformations are written with.

Loops, branches and calls are not among them: their operands are programs, and they are bound by the files that make those.
"""

from __future__ import annotations

from tracegrad.ir.contractions import *  # noqa: F403
from tracegrad.ir.conversions import *  # noqa: F403
from tracegrad.ir.elementwise import *  # noqa: F403
from tracegrad.ir.fft import *  # noqa: F403
from tracegrad.ir.indexing import *  # noqa: F403
from tracegrad.ir.linalg import *  # noqa: F403
from tracegrad.ir.random import *  # noqa: F403
from tracegrad.ir.reductions import *  # noqa: F403
from tracegrad.ir.sorting import *  # noqa: F403
from tracegrad.ir.special import *  # noqa: F403
from tracegrad.ir.structural import *  # noqa: F403
from tracegrad.ir.tapes import *  # noqa: F403
from tracegrad.ir.windows import *  # noqa: F403
