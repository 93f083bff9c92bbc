"""Measuring: models and data to keys, second moments and what follows from them."""
