"""Benchmarks: one file a subject, one table each. `python -m benchmarks` runs them all."""
