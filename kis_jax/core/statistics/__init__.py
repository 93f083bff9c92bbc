"""Moments, intervals, tails and densities of superpositions."""
