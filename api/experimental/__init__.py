"""What JAX has in `jax.experimental`, under its names. Modules are imported by name: `from tracegrad.experimental import jet`."""
