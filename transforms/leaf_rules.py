"""Importing this module attaches the derivative and batching rules of every leaf primitive (those without regions) to it."""

from __future__ import annotations

from tracegrad.transforms import contractions as contractions
from tracegrad.transforms import convolution as convolution
from tracegrad.transforms import elementwise as elementwise
from tracegrad.transforms import fft as fft
from tracegrad.transforms import indexing as indexing
from tracegrad.transforms import linalg as linalg
from tracegrad.transforms import random as random
from tracegrad.transforms import reductions as reductions
from tracegrad.transforms import sorting as sorting
from tracegrad.transforms import special as special
from tracegrad.transforms import structural as structural
from tracegrad.transforms import windows as windows
