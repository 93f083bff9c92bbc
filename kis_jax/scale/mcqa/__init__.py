"""The runs of `kis mcqa`, and puzzles as a probe of lifelong ones."""
