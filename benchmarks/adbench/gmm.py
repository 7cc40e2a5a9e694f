"""Gaussian mixture: the log posterior of a mixture of K Gaussians in d dimensions, with a Wishart prior on their inverse covariances.

Component k has the weight softmax(alphas)_k, the mean means_k, and the inverse covariance Q_k^T Q_k, where Q_k is lower triangular with the
exponentials of the first d numbers of icf_k on its diagonal and the others below it. The function of the parameters is

    sum_i logsumexp_k(alpha_k + log det Q_k - |Q_k (x_i - mean_k)|^2 / 2) - n logsumexp(alphas) - n d log(2 pi) / 2 + log prior,

one gradient in all parameters (Srajer et al. 2018, section 4.1). A small matrix times vector for each pair of point and component.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .packages import Function, Package

# (points, dimensions, components)
SIZES = {f"n{n} d{d} K{k}": (n, d, k) for n in (1000, 10000) for d in (2, 10, 20, 32, 64, 128) for k in (5, 10, 25, 50, 100, 200)}
QUICK = ("n1000 d2 K5", "n1000 d10 K25", "n1000 d32 K50", "n10000 d10 K25", "n10000 d20 K50")
TINY = (7, 3, 4)
BOUND = 4.0
GAMMA, FREEDOM = 1.0, 0  # the prior's scale and its degrees of freedom beyond d + 1


def instance(size: tuple[int, ...]) -> tuple[Any, ...]:
    n, d, k = size
    r = np.random.default_rng(0)
    icf = r.normal(size=(k, d * (d + 1) // 2)) / math.sqrt(d)
    return r.normal(size=k), r.normal(size=(k, d)), icf, r.normal(size=(n, d))


def triangle(d: int) -> np.ndarray:
    """Where each entry of a lower triangular matrix lies in (diagonal, what is below it by columns, a zero)."""
    index = np.full((d, d), d * (d + 1) // 2)
    index[np.arange(d), np.arange(d)] = np.arange(d)
    columns, rows = np.triu_indices(d, 1)
    index[rows, columns] = d + np.arange(len(rows))
    return index


def log_prior_constant(d: int, k: int) -> float:
    """The part of the Wishart prior that depends on no parameter."""
    n = d + FREEDOM + 1
    log_gamma = 0.25 * d * (d - 1) * math.log(math.pi) + sum(math.lgamma(0.5 * (n - j)) for j in range(d))
    return -k * (n * d * (math.log(GAMMA) - 0.5 * math.log(2)) - log_gamma)


def functions(p: Package, size: tuple[int, ...]) -> tuple[Function, Function]:
    """The objective and its gradient, of (alphas, means, icf, points)."""
    n, d, k = size
    np = p.np
    index = p.array(triangle(d))
    constant = -0.5 * n * d * math.log(2 * math.pi) + log_prior_constant(d, k)

    def objective(alphas: Any, means: Any, icf: Any, x: Any) -> Any:
        log_diagonal, below = icf[:, :d], icf[:, d:]
        diagonal = np.exp(log_diagonal)
        q = np.concatenate([diagonal, below, np.zeros((k, 1))], 1)[:, index]
        scaled = np.einsum("kij,nkj->nki", q, x[:, None] - means)
        log_det = np.sum(log_diagonal, 1)
        likelihoods = np.logsumexp(alphas + log_det - 0.5 * np.sum(scaled * scaled, 2), 1)
        prior = 0.5 * GAMMA**2 * (np.sum(diagonal * diagonal) + np.sum(below * below)) - FREEDOM * np.sum(log_det)
        return np.sum(likelihoods, 0) - n * np.logsumexp(alphas, 0) + prior + constant

    return p.jit(objective), p.jit(p.gradient(objective, 3))
