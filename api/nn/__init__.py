"""Neural-network functions, under the names of `jax.nn`."""

from __future__ import annotations

from tracegrad.nn import initializers as initializers
from tracegrad.nn.activations import celu as celu
from tracegrad.nn.activations import elu as elu
from tracegrad.nn.activations import gelu as gelu
from tracegrad.nn.activations import glu as glu
from tracegrad.nn.activations import hard_sigmoid as hard_sigmoid
from tracegrad.nn.activations import hard_silu as hard_silu
from tracegrad.nn.activations import hard_swish as hard_swish
from tracegrad.nn.activations import hard_tanh as hard_tanh
from tracegrad.nn.activations import identity as identity
from tracegrad.nn.activations import leaky_relu as leaky_relu
from tracegrad.nn.activations import log1mexp as log1mexp
from tracegrad.nn.activations import log_sigmoid as log_sigmoid
from tracegrad.nn.activations import mish as mish
from tracegrad.nn.activations import relu as relu
from tracegrad.nn.activations import relu6 as relu6
from tracegrad.nn.activations import selu as selu
from tracegrad.nn.activations import sigmoid as sigmoid
from tracegrad.nn.activations import silu as silu
from tracegrad.nn.activations import soft_sign as soft_sign
from tracegrad.nn.activations import softplus as softplus
from tracegrad.nn.activations import sparse_plus as sparse_plus
from tracegrad.nn.activations import sparse_sigmoid as sparse_sigmoid
from tracegrad.nn.activations import squareplus as squareplus
from tracegrad.nn.activations import swish as swish
from tracegrad.nn.activations import tanh as tanh
from tracegrad.nn.normalization import dot_product_attention as dot_product_attention
from tracegrad.nn.normalization import log_softmax as log_softmax
from tracegrad.nn.normalization import logmeanexp as logmeanexp
from tracegrad.nn.normalization import logsumexp as logsumexp
from tracegrad.nn.normalization import one_hot as one_hot
from tracegrad.nn.normalization import softmax as softmax
from tracegrad.nn.normalization import standardize as standardize
