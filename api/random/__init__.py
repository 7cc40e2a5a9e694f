"""Random numbers that are pure functions of a key, under the names of `jax.random` and with its streams, bit for bit."""

from __future__ import annotations

from tracegrad.random.continuous import categorical as categorical
from tracegrad.random.continuous import cauchy as cauchy
from tracegrad.random.continuous import double_sided_maxwell as double_sided_maxwell
from tracegrad.random.continuous import exponential as exponential
from tracegrad.random.continuous import gumbel as gumbel
from tracegrad.random.continuous import laplace as laplace
from tracegrad.random.continuous import logistic as logistic
from tracegrad.random.continuous import lognormal as lognormal
from tracegrad.random.continuous import maxwell as maxwell
from tracegrad.random.continuous import multivariate_normal as multivariate_normal
from tracegrad.random.continuous import orthogonal as orthogonal
from tracegrad.random.continuous import pareto as pareto
from tracegrad.random.continuous import rayleigh as rayleigh
from tracegrad.random.continuous import triangular as triangular
from tracegrad.random.continuous import truncated_normal as truncated_normal
from tracegrad.random.continuous import wald as wald
from tracegrad.random.continuous import weibull_min as weibull_min
from tracegrad.random.keys import PRNGKey as PRNGKey
from tracegrad.random.keys import clone as clone
from tracegrad.random.keys import fold_in as fold_in
from tracegrad.random.keys import key as key
from tracegrad.random.keys import key_data as key_data
from tracegrad.random.keys import key_dtype as key_dtype
from tracegrad.random.keys import key_impl as key_impl
from tracegrad.random.keys import split as split
from tracegrad.random.keys import wrap_key_data as wrap_key_data
from tracegrad.random.shuffles import choice as choice
from tracegrad.random.shuffles import permutation as permutation
from tracegrad.random.uniform import bernoulli as bernoulli
from tracegrad.random.uniform import bits as bits
from tracegrad.random.uniform import normal as normal
from tracegrad.random.uniform import rademacher as rademacher
from tracegrad.random.uniform import randint as randint
from tracegrad.random.uniform import uniform as uniform
