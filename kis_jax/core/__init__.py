"""The mathematics of knowledge superposition: arrays in, arrays out, on jax alone."""
