"""Scores of a model on facts and text."""
