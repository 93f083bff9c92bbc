"""Answers of a model to multiple-choice questions."""
