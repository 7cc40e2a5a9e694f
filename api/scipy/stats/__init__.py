"""Distributions, under the names of `jax.scipy.stats`."""
