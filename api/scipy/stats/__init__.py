"""Distributions and statistics of samples, under the names of `jax.scipy.stats`."""

from __future__ import annotations

from tracegrad.scipy.stats import norm as norm
from tracegrad.scipy.stats.continuous import beta as beta
from tracegrad.scipy.stats.continuous import cauchy as cauchy
from tracegrad.scipy.stats.continuous import chi2 as chi2
from tracegrad.scipy.stats.continuous import dirichlet as dirichlet
from tracegrad.scipy.stats.continuous import expon as expon
from tracegrad.scipy.stats.continuous import gamma as gamma
from tracegrad.scipy.stats.continuous import gennorm as gennorm
from tracegrad.scipy.stats.continuous import gumbel_l as gumbel_l
from tracegrad.scipy.stats.continuous import gumbel_r as gumbel_r
from tracegrad.scipy.stats.continuous import laplace as laplace
from tracegrad.scipy.stats.continuous import logistic as logistic
from tracegrad.scipy.stats.continuous import multivariate_normal as multivariate_normal
from tracegrad.scipy.stats.continuous import pareto as pareto
from tracegrad.scipy.stats.continuous import t as t
from tracegrad.scipy.stats.continuous import truncnorm as truncnorm
from tracegrad.scipy.stats.continuous import uniform as uniform
from tracegrad.scipy.stats.continuous import vonmises as vonmises
from tracegrad.scipy.stats.continuous import wrapcauchy as wrapcauchy
from tracegrad.scipy.stats.discrete import bernoulli as bernoulli
from tracegrad.scipy.stats.discrete import betabinom as betabinom
from tracegrad.scipy.stats.discrete import binom as binom
from tracegrad.scipy.stats.discrete import geom as geom
from tracegrad.scipy.stats.discrete import multinomial as multinomial
from tracegrad.scipy.stats.discrete import nbinom as nbinom
from tracegrad.scipy.stats.discrete import poisson as poisson
from tracegrad.scipy.stats.kde import gaussian_kde as gaussian_kde
from tracegrad.scipy.stats.order import mode as mode
from tracegrad.scipy.stats.order import rankdata as rankdata
from tracegrad.scipy.stats.order import sem as sem
