"""Neural-network functions, under the names of `jax.nn`."""
